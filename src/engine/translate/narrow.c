/*
 * What 32-bit code has that 64-bit mode has not, or encodes otherwise.
 *
 * SDM volume 2 sections 2.2.1.2 (INC, DEC), 2.3.5 (VEX.W and VEX.vvvv outside 64-bit
 * mode), chapters 3 to 5. Everything else is re-encoded as in 64-bit code: the default
 * operand size is the same. Addresses are computed by LEA of 32 bits, which wraps as they
 * do; FS and GS may have any base, and where they are not of 4 GiB their accesses are
 * found nowhere (vcpu.seg_bar) and left to the interpreter. So are PUSHA, BCD
 * arithmetic, BOUND, segment registers, operands off CS and 16-bit addresses.
 * Thread: the owner of the vCPU.
 */
#include "engine/interp/stub.h"
#include "engine/translate/front.h"

/* INC and DEC of the register in the opcode, which is a REX prefix now. */
static bool plan_inc(struct plan *p)
{
	const struct insn *in = p->in;

	if (in->opcode < 0x40 || in->opcode > 0x4f)
		return false;
	p->modrm = p->rm_gpr = p->rm_written = true;
	p->written = (u16)(1u << in->rm);
	p->recoded = 0xff;
	p->digit = in->mnemonic == ZYDIS_MNEMONIC_DEC;
	return true;
}

/* MOV between the accumulator and an address: as with ModRM. */
static bool plan_moffs(struct plan *p)
{
	const struct insn *in = p->in;
	bool byte = !(in->opcode & 1), store = in->opcode & 2;

	if (in->opcode < 0xa0 || in->opcode > 0xa3 || in->adsize != 4 || in->seg == CS)
		return false;
	p->modrm = p->reg_gpr = p->mem = true;
	p->reg_wide = !byte;
	p->reg_written = !store;
	p->byte_reg = byte;
	p->written = store ? 0 : 1u << RAX;
	p->recoded = (u8)((in->opcode ^ 2) - 0x18);
	p->acc.base = p->acc.index = GPR_ZERO;
	p->acc.seg = in->seg;
	p->acc.disp = (i32)(u32)in->imm;
	p->acc.size = byte ? 1 : in->opsize;
	p->acc.write = store;
	return true;
}

bool narrow_plan(struct plan *p)
{
	switch (p->in->mnemonic) {
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC: return plan_inc(p);
	case ZYDIS_MNEMONIC_MOV: return plan_moffs(p);
	default: return false;
	}
}

static bool is_flags(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_FLAGS;
}

/* Memory operands have the same encoding but for [disp32], and are replaced anyway. */
static bool same_operand(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	/* EFLAGS and RFLAGS. */
	if (is_flags(a) && is_flags(b))
		return true;
	return a->type == b->type && a->size == b->size && a->encoding == b->encoding &&
	       a->actions == b->actions && a->visibility == b->visibility &&
	       (a->type != ZYDIS_OPERAND_TYPE_REGISTER || a->reg.value == b->reg.value);
}

bool narrow_decode(const struct plan *p, ZydisDecodedInstruction *zi,
		   ZydisDecodedOperand *op)
{
	ZydisDecodedOperand op64[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi64;
	ZydisDecoder d;

	/* Of 8 registers. */
	if (p->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		return false;
	native_decoder(&d, 4);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, p->bytes, p->in->len, zi, op)))
		return false;
	native_decoder(&d, 8);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, p->bytes, p->in->len, &zi64, op64)) ||
	    zi64.mnemonic != zi->mnemonic || zi64.length != zi->length ||
	    zi64.operand_width != zi->operand_width ||
	    zi64.operand_count != zi->operand_count)
		return false;
	for (unsigned i = 0; i < zi->operand_count; i++)
		if (!same_operand(&op[i], &op64[i]))
			return false;
	return true;
}

void narrow_vzeroupper(struct emit *e)
{
	for (unsigned i = 0; i < 8; i++) {
		e8(e, 0xc5); /* vmovaps xmm, itself */
		e8(e, 0xf8);
		e8(e, 0x28);
		e8(e, 0xc0 | i << 3 | i);
	}
}

/* The operand may be anywhere in scratch registers, so they are used before it. */
void narrow_push_flags(struct front *f, const struct plan *p)
{
	struct emit *e = &f->e;
	i32 status = FRAME(f->t, status), tmp = FRAME(f->t, tmp);
	struct operand o;

	e8(e, 0x9c); /* pushfq */
	e8(e, 0x41);
	e8(e, 0x5b); /* pop r11 */
	emit_pext(e, T_KEEP, T_KEEP, status);
	emit_pdep(e, T_KEEP, T_KEEP, status);
	/* RF and VM, which are not pushed, are 0 in translated code. */
	emit_load(e, T_ADDR, VCPU(f->t, flags));
	emit_lea_sib(e, true, T_KEEP, T_KEEP, T_ADDR, 0, 0);
	emit_store(e, T_KEEP, tmp);
	o = memop(f, p, &p->acc);
	emit_load(e, T_KEEP, tmp);
	e8(e, 0x40 | (T_KEEP >> 3) << 2 | memop_rex(o)); /* mov [operand], r11d */
	e8(e, 0x89);
	memop_emit(e, T_KEEP, o, false);
	emit_lea(e, false, H_R8, H_R8, -4);
}
