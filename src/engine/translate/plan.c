/*
 * What each instruction of a trace is to the translator, before any code is emitted.
 *
 * The common integer instructions are recognized by mnemonic and opcode; for others Zydis
 * names the operands. Whatever is not known to be re-encodable is a call out.
 * SDM volume 2 chapters 2 to 5. Thread: the owner of the vCPU.
 */
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"
#include "engine/interp/stub.h"
#include "engine/translate/front.h"

static bool is_prefix(u8 byte)
{
	switch (byte) {
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
	case 0x66:
	case 0x67:
	case 0xf0:
	case 0xf2:
	case 0xf3: return true;
	default: return false;
	}
}

unsigned plan_prefixes(const u8 *bytes)
{
	unsigned i = 0;

	while (i < 15 && is_prefix(bytes[i]))
		i++;
	return i;
}

/*
 * A REX prefix that is not right before the opcode does not count (SDM volume 2
 * section 2.2.1). Ours would be in its place, and not count either.
 */
static bool rex_ignored(const u8 *bytes)
{
	unsigned i = plan_prefixes(bytes);

	return (bytes[i] & 0xf0) == 0x40 &&
	       (is_prefix(bytes[i + 1]) || (bytes[i + 1] & 0xf0) == 0x40);
}

/* ---- effects ---- */

/* CMOVcc and SETcc. */
static bool reads_condition(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CMOVO:
	case ZYDIS_MNEMONIC_CMOVNO:
	case ZYDIS_MNEMONIC_CMOVB:
	case ZYDIS_MNEMONIC_CMOVNB:
	case ZYDIS_MNEMONIC_CMOVZ:
	case ZYDIS_MNEMONIC_CMOVNZ:
	case ZYDIS_MNEMONIC_CMOVBE:
	case ZYDIS_MNEMONIC_CMOVNBE:
	case ZYDIS_MNEMONIC_CMOVS:
	case ZYDIS_MNEMONIC_CMOVNS:
	case ZYDIS_MNEMONIC_CMOVP:
	case ZYDIS_MNEMONIC_CMOVNP:
	case ZYDIS_MNEMONIC_CMOVL:
	case ZYDIS_MNEMONIC_CMOVNL:
	case ZYDIS_MNEMONIC_CMOVLE:
	case ZYDIS_MNEMONIC_CMOVNLE:
	case ZYDIS_MNEMONIC_SETO:
	case ZYDIS_MNEMONIC_SETNO:
	case ZYDIS_MNEMONIC_SETB:
	case ZYDIS_MNEMONIC_SETNB:
	case ZYDIS_MNEMONIC_SETZ:
	case ZYDIS_MNEMONIC_SETNZ:
	case ZYDIS_MNEMONIC_SETBE:
	case ZYDIS_MNEMONIC_SETNBE:
	case ZYDIS_MNEMONIC_SETS:
	case ZYDIS_MNEMONIC_SETNS:
	case ZYDIS_MNEMONIC_SETP:
	case ZYDIS_MNEMONIC_SETNP:
	case ZYDIS_MNEMONIC_SETL:
	case ZYDIS_MNEMONIC_SETNL:
	case ZYDIS_MNEMONIC_SETLE:
	case ZYDIS_MNEMONIC_SETNLE: return true;
	default: return false;
	}
}

static enum flag_use flags_of(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_NEG: return FLAGS_SET;
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_LEA:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE: return FLAGS_ALONE;
	/* Also those that change some and leave others: what is left must be right. */
	default: return reads_condition(in) ? FLAGS_READ : FLAGS_USED;
	}
}

static u16 bit_of(unsigned gpr)
{
	return (u16)(1u << gpr);
}

/* By the number of an 8-bit operand, see struct insn. */
static u16 bit_of8(unsigned off)
{
	return bit_of(off >> 3);
}

static bool is_high(unsigned off)
{
	return off & 7;
}

/* ---- common integer instructions ---- */

/* Which fields of an instruction mean what. */
enum form {
	F_E = 1 << 0,    /* ModRM.rm is an operand */
	F_G = 1 << 1,    /* ModRM.reg is a register */
	F_EW = 1 << 2,   /* ... is written */
	F_GW = 1 << 3,   /* ... */
	F_ER = 1 << 4,   /* the first is read, if it is memory */
	F_BYTE = 1 << 5, /* operands have 8 bits */
	F_IB = 1 << 6,   /* an immediate of a byte */
	F_IZ = 1 << 7,   /* of 2 or 4 bytes */
	F_A = 1 << 8,    /* the accumulator is written */
	F_D = 1 << 9,    /* RDX is written */
	F_ROW = 1 << 10, /* a register in the opcode, written */
	F_OK = 1 << 11,
};

/* ADD, OR, ADC, SBB, AND, SUB, XOR; CMP. */
static unsigned form_alu(const struct insn *in, bool writes)
{
	unsigned w = writes ? F_EW : 0, gw = writes ? F_GW : 0;

	switch (in->opcode) {
	case 0x80: return F_OK | F_E | F_ER | w | F_BYTE | F_IB;
	case 0x81: return F_OK | F_E | F_ER | w | F_IZ;
	case 0x83: return F_OK | F_E | F_ER | w | F_IB;
	case 0x82: return 0; /* 32-bit code's other 80 */
	default: break;
	}
	switch (in->opcode & 7) {
	case 0: return F_OK | F_E | F_ER | w | F_G | F_BYTE;
	case 1: return F_OK | F_E | F_ER | w | F_G;
	case 2: return F_OK | F_E | F_ER | F_G | gw | F_BYTE;
	case 3: return F_OK | F_E | F_ER | F_G | gw;
	case 4: return F_OK | F_BYTE | F_IB | (writes ? F_A : 0);
	case 5: return F_OK | F_IZ | (writes ? F_A : 0);
	default: return 0;
	}
}

static unsigned form_mov(const struct insn *in)
{
	switch (in->opcode) {
	case 0x88: return F_OK | F_E | F_EW | F_G | F_BYTE;
	case 0x89: return F_OK | F_E | F_EW | F_G;
	case 0x8a: return F_OK | F_E | F_ER | F_G | F_GW | F_BYTE;
	case 0x8b: return F_OK | F_E | F_ER | F_G | F_GW;
	case 0xc6: return F_OK | F_E | F_EW | F_BYTE | F_IB;
	case 0xc7: return F_OK | F_E | F_EW | F_IZ;
	default: return 0;
	}
}

static unsigned form_shift(const struct insn *in)
{
	switch (in->opcode) {
	case 0xc0: return F_OK | F_E | F_ER | F_EW | F_BYTE | F_IB;
	case 0xc1: return F_OK | F_E | F_ER | F_EW | F_IB;
	case 0xd0:
	case 0xd2: return F_OK | F_E | F_ER | F_EW | F_BYTE;
	case 0xd1:
	case 0xd3: return F_OK | F_E | F_ER | F_EW;
	default: return 0;
	}
}

/* 0F 40 to 4F, 0F 90 to 9F. */
static unsigned form_condition(const struct insn *in)
{
	if ((in->opcode & 0xf0) == 0x40)
		return F_OK | F_E | F_ER | F_G | F_GW;
	return F_OK | F_E | F_EW | F_BYTE;
}

static unsigned form_of(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR: return form_alu(in, true);
	case ZYDIS_MNEMONIC_CMP: return form_alu(in, false);
	case ZYDIS_MNEMONIC_TEST:
		switch (in->opcode) {
		case 0x84: return F_OK | F_E | F_ER | F_G | F_BYTE;
		case 0x85: return F_OK | F_E | F_ER | F_G;
		case 0xa8: return F_OK | F_BYTE | F_IB;
		case 0xa9: return F_OK | F_IZ;
		case 0xf6: return F_OK | F_E | F_ER | F_BYTE | F_IB;
		default: return F_OK | F_E | F_ER | F_IZ;
		}
	case ZYDIS_MNEMONIC_MOV: return form_mov(in);
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
		return F_OK | F_E | F_ER | F_EW | (in->opcode == 0xfe ? F_BYTE : 0);
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
		return F_OK | F_E | F_ER | F_EW | (in->opcode == 0xf6 ? F_BYTE : 0);
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR: return form_shift(in);
	case ZYDIS_MNEMONIC_IMUL:
		switch (in->opcode) {
		case 0xaf: return F_OK | F_E | F_ER | F_G | F_GW;
		case 0x69: return F_OK | F_E | F_ER | F_G | F_GW | F_IZ;
		case 0x6b: return F_OK | F_E | F_ER | F_G | F_GW | F_IB;
		case 0xf7: return F_OK | F_E | F_ER | F_A | F_D;
		default: return 0;
		}
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		return in->opcode == 0xf7 ? F_OK | F_E | F_ER | F_A | F_D : 0;
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE: return F_OK | F_A;
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO: return F_OK | F_D;
	case ZYDIS_MNEMONIC_BSWAP: return in->opsize >= 4 ? F_OK | F_ROW : 0;
	default: return reads_condition(in) ? form_condition(in) : 0;
	}
}

/* MOVZX, MOVSX, MOVSXD: the source is narrower. */
static bool plan_extend(struct plan *p)
{
	const struct insn *in = p->in;
	unsigned size;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX: size = in->opcode & 1 ? 2 : 1; break;
	/* AMD's CPUs read four bytes even where the register has 16 bits. */
	case ZYDIS_MNEMONIC_MOVSXD: size = 4; break;
	default: return false;
	}
	p->modrm = p->reg_gpr = p->reg_written = true;
	p->reg_wide = true;
	p->size66 = p->low && in->opsize == 2;
	p->written = bit_of(in->reg);
	if (in->flags & INSN_MEM) {
		p->mem = true;
		p->acc.size = (u8)size;
		return true;
	}
	p->rm_gpr = true;
	p->byte_reg = size == 1;
	p->high_byte = size == 1 && is_high(in->rm8);
	return true;
}

/* MOV of an immediate to the register in the opcode. */
static bool plan_mov_imm(struct plan *p)
{
	const struct insn *in = p->in;
	bool byte = in->opcode < 0xb8;

	if (in->mnemonic != ZYDIS_MNEMONIC_MOV || in->opcode < 0xb0 || in->opcode > 0xbf)
		return false;
	p->opc_gpr = p->rm_written = true;
	p->byte_reg = byte;
	p->high_byte = byte && is_high(in->rm8);
	p->written = byte ? bit_of8(in->rm8) : bit_of(in->rm);
	p->imm_len = byte ? 1 : in->opsize;
	p->size66 = p->low && in->opsize == 2;
	return true;
}

static bool plan_integer(struct plan *p)
{
	const struct insn *in = p->in;
	unsigned form;
	bool byte;

	if (in->flags & INSN_VEX)
		return false;
	if (plan_extend(p) || plan_mov_imm(p))
		return true;
	form = form_of(in);
	if (!form)
		return false;
	byte = form & F_BYTE;
	p->size66 = p->low && in->opsize == 2;
	p->modrm = form & (F_E | F_G);
	p->byte_reg = byte;
	if (form & F_G) {
		p->reg_gpr = true;
		p->reg_wide = !byte;
		p->reg_written = form & F_GW;
		p->high_byte |= byte && is_high(in->reg8);
		if (form & F_GW)
			p->written |= byte ? bit_of8(in->reg8) : bit_of(in->reg);
	}
	if ((form & F_E) && (in->flags & INSN_MEM)) {
		p->mem = true;
		p->acc.write = form & F_EW;
		p->acc.size = byte ? 1 : in->opsize;
	} else if (form & F_E) {
		p->rm_gpr = true;
		p->rm_written = form & F_EW;
		p->high_byte |= byte && is_high(in->rm8);
		if (form & F_EW)
			p->written |= byte ? bit_of8(in->rm8) : bit_of(in->rm);
	}
	if (form & F_ROW) {
		p->opc_gpr = p->rm_written = true;
		p->written |= bit_of(in->rm);
	}
	if (form & F_A)
		p->written |= bit_of(RAX);
	if (form & F_D)
		p->written |= bit_of(RDX);
	p->imm_len = form & F_IB ? 1 : form & F_IZ ? (in->opsize == 2 ? 2 : 4) : 0;
	p->can_fault =
		in->mnemonic == ZYDIS_MNEMONIC_DIV || in->mnemonic == ZYDIS_MNEMONIC_IDIV;
	return true;
}

/* ---- what Zydis has to look at ---- */

/* BT and its kind, of a bit string in memory: the bit may be anywhere. */
static bool is_bit_string(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: return in->opcode != 0xba && (in->flags & INSN_MEM);
	default: return false;
	}
}

/* Units and addresses that memop_offset() can add up. */
static bool bit_string_fits(const struct insn *in)
{
	return in->opsize >= 4 && in->adsize == (is_narrow(in) ? 4 : 8);
}

/* Integer instructions that are what they are on the host: nothing but registers, flags,
 * one operand. Those of form_of() are not listed again. */
static bool integer_allowed(const struct vcpu *v, const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR: return in->flags & INSN_LOCK;
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_XADD: return true;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE: return cpu_has(v, FEAT_SSE2);
	case ZYDIS_MNEMONIC_SFENCE: return cpu_has(v, FEAT_SSE);
	/* With REX.B it may be XCHG; with other CPUs to wait for, the interpreter counts
	 * them. */
	case ZYDIS_MNEMONIC_PAUSE: return in->rm != 8 && !v->relax;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: return !is_bit_string(in) || bit_string_fits(in);
	case ZYDIS_MNEMONIC_CMPXCHG8B: return cpu_has(v, FEAT_CX8);
	case ZYDIS_MNEMONIC_CMPXCHG16B: return cpu_has(v, FEAT_CX16);
	/* Without the feature they are another instruction. */
	case ZYDIS_MNEMONIC_TZCNT: return cpu_has(v, FEAT_BMI1);
	case ZYDIS_MNEMONIC_LZCNT: return cpu_has(v, FEAT_ABM);
	case ZYDIS_MNEMONIC_POPCNT: return cpu_has(v, FEAT_POPCNT);
	case ZYDIS_MNEMONIC_MOVBE: return cpu_has(v, FEAT_MOVBE);
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF: return cpu_has(v, FEAT_LAHF_LM);
	default: return false;
	}
}

/* May vector instructions of this extension be executed in the state that the block is
 * translated for? */
static bool vector_enabled(const struct vcpu *v, unsigned cls,
			   ZydisInstructionEncoding enc)
{
	if (cls == NC_X87)
		return true;
	if (!(v->cr4 & CR4_OSFXSR))
		return false;
	if (enc == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true;
	if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
		return false;
	return enc == ZYDIS_INSTRUCTION_ENCODING_VEX ||
	       (v->xcr0 & XCR0_AVX512) == XCR0_AVX512;
}

/* The others that are not just executed have no stub. */
static bool x87_allowed(const struct insn *in)
{
	return in->mnemonic != ZYDIS_MNEMONIC_FNINIT &&
	       in->mnemonic != ZYDIS_MNEMONIC_FWAIT;
}

static bool is_gpr(ZydisRegisterClass c)
{
	return c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 ||
	       c == ZYDIS_REGCLASS_GPR32 || c == ZYDIS_REGCLASS_GPR64;
}

static bool is_vector(ZydisRegisterClass c)
{
	return c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_YMM ||
	       c == ZYDIS_REGCLASS_ZMM || c == ZYDIS_REGCLASS_MASK ||
	       c == ZYDIS_REGCLASS_MMX || c == ZYDIS_REGCLASS_X87;
}

/* The general register that holds a register of whatever width. */
static unsigned gpr_of(ZydisRegister r, ZydisRegisterClass c)
{
	unsigned id = (unsigned)ZydisRegisterGetId(r);

	if (c != ZYDIS_REGCLASS_GPR8)
		return id;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (unsigned)(r - ZYDIS_REGISTER_AH);
	/* AL to BL; AH to BH; SPL to R15B. */
	return r < ZYDIS_REGISTER_AH ? (unsigned)(r - ZYDIS_REGISTER_AL)
				     : (unsigned)(r - ZYDIS_REGISTER_SPL) + 4;
}

static bool look_at_register(struct plan *p, const ZydisDecodedOperand *o)
{
	ZydisRegister r = o->reg.value;
	ZydisRegisterClass c = ZydisRegisterGetClass(r);
	bool written = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	unsigned id;

	if (is_vector(c)) {
		p->vector = true;
		return true;
	}
	if (!is_gpr(c))
		return c == ZYDIS_REGCLASS_FLAGS || r == ZYDIS_REGISTER_MXCSR ||
		       r == ZYDIS_REGISTER_X87CONTROL || r == ZYDIS_REGISTER_X87STATUS ||
		       r == ZYDIS_REGISTER_X87TAG || r == ZYDIS_REGISTER_NONE;
	id = gpr_of(r, c);
	if (written)
		p->written |= bit_of(id);
	if (c == ZYDIS_REGCLASS_GPR8) {
		p->byte_reg = true;
		p->high_byte |= r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
	}
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		p->reg_gpr = true;
		p->reg_wide = c != ZYDIS_REGCLASS_GPR8;
		p->reg_written = written;
		return true;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		p->rm_gpr = true;
		p->rm_written = written;
		return true;
	case ZYDIS_OPERAND_ENCODING_OPCODE:
		p->opc_gpr = true;
		p->rm_written = written;
		return true;
	case ZYDIS_OPERAND_ENCODING_NDSNDD:
		p->vvvv_slot = in_memory(id);
		p->vvvv_written = written;
		/* Elsewhere it is at home. */
		return id != RSP;
	default:
		/* Implied: at home or nowhere. RSP, RSI, RDI are implied by other kinds.
		 */
		return c == ZYDIS_REGCLASS_GPR8 || (id != RSP && !in_memory(id));
	}
}

/* How many bytes the memory operand has. */
static unsigned mem_size(const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *mem, const struct stub *stub)
{
	if (stub)
		return stub->mem_size;
	if (zi->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID &&
	    !zi->avx.broadcast.is_static)
		return mem->element_size / 8;
	return mem->size / 8;
}

static bool plan_operands(struct plan *p, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *op, const ZydisDecodedOperand **mem)
{
	for (unsigned i = 0; i < zi->operand_count; i++) {
		const ZydisDecodedOperand *o = &op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (*mem || o->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
			    o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
			    o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || !o->size)
				return false;
			*mem = o;
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (!look_at_register(p, o))
				return false;
		}
	}
	return true;
}

static bool decode_operands(struct plan *p, ZydisDecodedInstruction *zi,
			    ZydisDecodedOperand *op)
{
	ZydisDecoder d;

	if (is_narrow(p->in))
		return narrow_decode(p, zi, op);
	native_decoder(&d, 8);
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, p->bytes, p->in->len, zi, op));
}

/* False: not an instruction that can be re-encoded. */
static bool plan_any(const struct vcpu *v, struct plan *p)
{
	const ZydisDecodedOperand *mem = NULL;
	const struct stub *stub = NULL;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	bool native = !bind_insn(p->in);

	if (native ? p->low || !x87_allowed(p->in) : !integer_allowed(v, p->in))
		return false;
	if (!decode_operands(p, &zi, op))
		return false;
	if (native) {
		/* Of operands, VZEROUPPER and EMMS have none. */
		stub = stub_of(v, p->in);
		p->vector = stub->cls != NC_NONE && stub->cls != NC_VEXGPR;
	}
	if (!plan_operands(p, &zi, op, &mem))
		return false;
	if (native && p->vector && !vector_enabled(v, stub->cls, zi.encoding))
		return false;
	if (zi.meta.isa_ext == ZYDIS_ISA_EXT_AMX_TILE)
		return false;
	if (stub && mem && !stub->mem_size)
		return false;
	if (zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    zi.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	/* MULX with both of its results in memory. */
	if (p->vvvv_slot && (zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX ||
			     (p->vvvv_written && p->reg_gpr && in_memory(p->in->reg))))
		return false;
	p->encoding = zi.encoding;
	p->modrm = zi.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	p->imm_len = (u8)(zi.raw.imm[0].size / 8 + zi.raw.imm[1].size / 8);
	p->can_fault = p->vector || (p->in->flags & INSN_LOCK) || !p->modrm ||
		       p->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ||
		       p->in->mnemonic == ZYDIS_MNEMONIC_DIV ||
		       p->in->mnemonic == ZYDIS_MNEMONIC_IDIV;
	if (mem) {
		unsigned size = mem_size(&zi, mem, stub);

		if (size > 64)
			return false;
		p->mem = true;
		p->acc.write = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		p->acc.size = (u8)size;
		p->acc.bits = is_bit_string(p->in);
		p->acc.bit_reg = p->in->reg;
	}
	/* Vector instructions but for a few leave the flags alone. */
	p->flags = p->vector && !(zi.cpu_flags &&
				  (zi.cpu_flags->tested | zi.cpu_flags->modified |
				   zi.cpu_flags->set_0 | zi.cpu_flags->set_1 |
				   zi.cpu_flags->undefined))
			   ? FLAGS_ALONE
			   : flags_of(p->in);
	return true;
}

/* ---- memory operands ---- */

u8 plan_reach(const struct front *f, unsigned seg, bool low)
{
	const struct seg *s = &f->t->v->seg[seg];

	if (!f->based)
		return REACH_FLAT;
	if (low)
		return s->limit >= 0xffff ? REACH_LOW : REACH_ROOM;
	return s->limit == 0xffffffff ? REACH_ALL : REACH_ROOM;
}

bool plan_operand(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;
	i64 disp = in->disp + (in->base == GPR_RIP ? (i64)p->start : 0);

	/* Nearly 2 GiB from RIP, counted from the page: past what LEA reaches. */
	if ((in->adsize == 2 && !f->based) || disp != (i32)disp)
		return false;
	/* Not written to, and perhaps not read; of no matter to LEA. */
	if (f->narrow && !f->based && in->seg == CS && in->mnemonic != ZYDIS_MNEMONIC_LEA)
		return false;
	p->acc.base = in->base;
	p->acc.index = in->index;
	p->acc.scale = in->scale;
	p->acc.seg = in->seg;
	p->acc.wide = in->adsize == 8;
	p->acc.low = in->adsize == 2;
	p->acc.reach = plan_reach(f, in->seg, p->acc.low);
	p->acc.disp = (i32)disp;
	if (p->acc.low && in->base == GPR_ZERO)
		p->acc.disp = (u16)disp;
	return true;
}

struct mem_access plan_stack(const struct front *f, const struct plan *p, i32 slot,
			     bool write)
{
	return (struct mem_access){ .base = RSP,
				    .index = GPR_ZERO,
				    .seg = SS,
				    .reach = plan_reach(f, SS, f->low),
				    .wide = !f->narrow,
				    .low = f->low,
				    .disp = slot * slot_size(p),
				    .size = (u8)slot_size(p),
				    .write = write,
				    .group = -1 };
}

/* ---- kinds ---- */

/* Instructions that do nothing that can be seen. */
static bool is_nothing(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_NOP: return in->opcode != 0x0d; /* #UD on AMD */
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHW: return true;
	default: return false;
	}
}

static bool plan_lea(const struct front *f, struct plan *p)
{
	if (p->in->mnemonic != ZYDIS_MNEMONIC_LEA || (p->in->opsize == 2 && !p->low) ||
	    !plan_operand(f, p))
		return false;
	p->acc.seg = DS; /* a segment override changes nothing */
	p->written = bit_of(p->in->reg);
	return true;
}

static bool high_byte_fits(const struct plan *p)
{
	const struct insn *in = p->in;
	bool rex_needed;

	if (!p->high_byte)
		return true;
	/* The copy of copy.c. */
	if (p->mem && p->reg_gpr && !p->reg_wide && is_high(in->reg8))
		return true;
	rex_needed =
		p->mem || (p->reg_gpr && in->reg >= R8) || (p->rm_gpr && in->rm >= R8);
	/* A byte register numbered 4 to 7 without REX is AH to BH itself. */
	return !rex_needed && !(in->flags & INSN_REXW) &&
	       !(p->reg_gpr && p->reg_wide && in->reg == RSP) &&
	       !(p->rm_gpr && !p->byte_reg && in->rm == RSP);
}

static bool plan_copy(const struct front *f, struct plan *p)
{
	const struct vcpu *v = f->t->v;
	const struct insn *in = p->in;

	p->encoding = ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	p->flags = flags_of(in);
	if (is_narrow(in) && narrow_plan(f, p))
		return true;
	if (!is_narrow(in) && rex_ignored(p->bytes))
		return false;
	/* What LOCK may precede is seldom, and Zydis knows. */
	if ((in->flags & INSN_LOCK) || !plan_integer(p)) {
		p->written = 0;
		if (!plan_any(v, p))
			return false;
	}
	/* XCHG with RSP would become one with R8: 90 with a REX prefix, which F3 makes
	 * PAUSE. */
	if (in->mnemonic == ZYDIS_MNEMONIC_XCHG && p->opc_gpr && (in->flags & INSN_REP))
		return false;
	return high_byte_fits(p) && (!p->mem || plan_operand(f, p));
}

void plan_insn(const struct front *f, struct plan *p, const struct insn *in,
	       const u8 *bytes, u32 start)
{
	*p = (struct plan){ .in = in, .bytes = bytes, .start = start, .low = f->low };
	p->acc.group = -1;
	/* What the guest's CPU does not have must not run because the host's has it. */
	if (!in->mnemonic || in->fn == op_ud2)
		goto call_out;
	if (is_nothing(in)) {
		p->kind = PLAN_NOTHING;
		return;
	}
	if (plan_lea(f, p)) {
		p->kind = PLAN_LEA;
		return;
	}
	if (branch_plan(f, p)) {
		p->kind = PLAN_BRANCH;
		return;
	}
	if (system_plan(f, p)) {
		p->kind = PLAN_SYSTEM;
		return;
	}
	if (string_plan(f, p)) {
		p->kind = PLAN_STRING;
		return;
	}
	p->written = 0;
	p->mem = false;
	if (segment_plan(f, p)) {
		p->kind = PLAN_SEGMENT;
		return;
	}
	p->written = 0;
	p->mem = p->loads_segment = false;
	if (plan_copy(f, p)) {
		p->kind = PLAN_COPY;
		return;
	}
call_out:
	*p = (struct plan){ .in = in, .bytes = bytes, .start = start, .low = f->low };
	p->acc.group = -1;
	p->kind = PLAN_CALL_OUT;
	p->flags = FLAGS_USED;
	p->written = 0xffff;
}
