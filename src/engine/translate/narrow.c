/*
 * What 32-bit and 16-bit code have that 64-bit mode has not, or encode otherwise.
 *
 * SDM volume 2 sections 2.2.1.2 (INC, DEC), 2.3.5 (VEX.W and VEX.vvvv outside 64-bit
 * mode), chapters 3 to 5. Everything else is re-encoded as in 64-bit code: the default
 * operand size of 32-bit code is the same, and that of 16-bit code has a prefix.
 * Addresses are computed by LEA of 32 bits, which wraps as they do. In flat code FS and
 * GS may have any base, and where they are not of 4 GiB their accesses are found nowhere
 * (vcpu.seg_bar) and left to the interpreter; so are operands off CS and 16-bit
 * addresses. Based code has all of that (memop.c). Left are PUSHA, BCD arithmetic, BOUND,
 * loads of segment registers, and in 16-bit code x87 and vectors. Thread: the owner of
 * the vCPU.
 */
#include <string.h>

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
	p->size66 = in->opsize == 2;
	return true;
}

/* MOV between the accumulator and an address: as with ModRM. */
static bool plan_moffs(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;
	bool byte = !(in->opcode & 1), store = in->opcode & 2;

	if (in->opcode < 0xa0 || in->opcode > 0xa3 ||
	    (!f->based && (in->adsize != 4 || in->seg == CS)))
		return false;
	p->modrm = p->reg_gpr = p->mem = true;
	p->reg_wide = !byte;
	p->reg_written = !store;
	p->byte_reg = byte;
	p->written = store ? 0 : 1u << RAX;
	p->recoded = (u8)((in->opcode ^ 2) - 0x18);
	p->size66 = in->opsize == 2;
	p->acc.base = p->acc.index = GPR_ZERO;
	p->acc.seg = in->seg;
	p->acc.disp = (i32)(u32)in->imm;
	p->acc.low = in->adsize == 2;
	p->acc.reach = plan_reach(f, in->seg, p->acc.low);
	p->acc.size = byte ? 1 : in->opsize;
	p->acc.write = store;
	return true;
}

bool narrow_plan(const struct front *f, struct plan *p)
{
	switch (p->in->mnemonic) {
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC: return plan_inc(p);
	case ZYDIS_MNEMONIC_MOV: return plan_moffs(f, p);
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

/* Do these bytes have the same operation and operands in 64-bit mode? */
static bool same_in_64(const u8 *bytes, unsigned len, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *op)
{
	ZydisDecodedOperand op64[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi64;
	ZydisDecoder d;

	native_decoder(&d, 8);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, bytes, len, &zi64, op64)) ||
	    zi64.mnemonic != zi->mnemonic || zi64.length != len ||
	    zi64.operand_width != zi->operand_width ||
	    zi64.operand_count != zi->operand_count)
		return false;
	for (unsigned i = 0; i < zi->operand_count; i++)
		if (!same_operand(&op[i], &op64[i]))
			return false;
	return true;
}

/* 16-bit code: with the other 66 prefix, or none, and any memory operand. */
static bool low_decode(struct plan *p, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *op)
{
	unsigned at = plan_prefixes(p->bytes), n = 1, imm, end;
	u8 bytes[20] = { 0x66 };

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	for (unsigned i = 0; i < at; i++)
		if (p->bytes[i] >= 0xf0)
			bytes[n++] = p->bytes[i];
	imm = (zi->raw.imm[0].size + zi->raw.imm[1].size) / 8u;
	end = p->in->len - imm;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		end = zi->raw.modrm.offset + 1u;
	memcpy(bytes + n, p->bytes + at, end - at);
	n += end - at;
	/* [rax] */
	if (p->in->flags & INSN_MEM)
		bytes[n - 1] &= 0x38;
	memcpy(bytes + n, p->bytes + p->in->len - imm, imm);
	n += imm;
	p->size66 = same_in_64(bytes, n, zi, op);
	return p->size66 || same_in_64(bytes + 1, n - 1, zi, op);
}

bool narrow_decode(struct plan *p, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	ZydisDecoder d;

	/* Of 8 registers. */
	if (p->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
		return false;
	native_decoder(&d, p->low ? 2 : 4);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, p->bytes, p->in->len, zi, op)))
		return false;
	return p->low ? low_decode(p, zi, op) : same_in_64(p->bytes, p->in->len, zi, op);
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
	if (slot_size(p) == 2)
		e8(e, 0x66);
	e8(e, 0x40 | (T_KEEP >> 3) << 2 | memop_rex(o)); /* mov [operand], r11d */
	e8(e, 0x89);
	memop_emit(e, T_KEEP, o, false);
	move_sp(f, -slot_size(p));
}
