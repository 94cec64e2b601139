/*
 * Re-encoding: the guest's instruction itself, with its registers where they live and its
 * memory operand at [T_ADDR + T_SLOT].
 *
 * SDM volume 2 chapter 2 (prefixes, REX, ModRM, VEX, EVEX). Only fields are changed,
 * never the operation, so flags, rounding and everything undefined are the processor's
 * own. What the host may fault on (a division, an unmasked SIMD exception, a misaligned
 * MOVAPS) has the slow stub as its way out, where the interpreter's function makes the
 * exact guest exception of it.
 */
#include "engine/translate/front.h"

#include "engine/interp/interp.h"
#include "engine/interp/ops.h"
#include "engine/interp/stub.h"

/* An instruction taken apart. */
struct parts {
	const struct insn *in;
	const u8 *bytes;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const ZydisDecodedOperand *mem; /* the memory operand, or NULL */
	bool reg_gpr, rm_gpr, opc_gpr;  /* the field names a general register */
	bool reg_wide; /* and not 8 bits of it, whatever the other one is: MOVZX, CRC32 */
	bool reg_written, rm_written;
	bool high_byte; /* AH, BH, CH, DH: no REX prefix allowed */
	bool byte_reg;
	bool vector;             /* touches vector registers */
	const struct stub *stub; /* how the interpreter does it, or NULL */
	unsigned reg, rm;        /* host register numbers for the fields */
};

/* Integer instructions that are what they are on the host: nothing but registers, flags,
 * one operand. */
static bool integer_copied(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_XCHG:
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
	case ZYDIS_MNEMONIC_SETNLE:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE: return true;
	default: return false;
	}
}

/* Instructions with conditions of their own. */
static bool integer_allowed(const struct vcpu *v, const struct insn *in)
{
	switch (in->mnemonic) {
	/* To and from general registers and memory only. */
	case ZYDIS_MNEMONIC_MOV:
		return (in->opcode >= 0x88 && in->opcode <= 0x8b) ||
		       (in->opcode >= 0xb0 && in->opcode <= 0xbf) || in->opcode == 0xc6 ||
		       in->opcode == 0xc7;
	/* With other CPUs to wait for, the interpreter counts them. */
	case ZYDIS_MNEMONIC_PAUSE: return !v->relax;
	/* A bit string in memory may reach anywhere. */
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC: return in->opcode == 0xba || !(in->flags & INSN_MEM);
	case ZYDIS_MNEMONIC_CMPXCHG8B: return cpu_has(v, FEAT_CX8);
	case ZYDIS_MNEMONIC_CMPXCHG16B: return cpu_has(v, FEAT_CX16);
	/* Without the feature they are another instruction. */
	case ZYDIS_MNEMONIC_TZCNT: return cpu_has(v, FEAT_BMI1);
	case ZYDIS_MNEMONIC_LZCNT: return cpu_has(v, FEAT_ABM);
	case ZYDIS_MNEMONIC_POPCNT: return cpu_has(v, FEAT_POPCNT);
	case ZYDIS_MNEMONIC_MOVBE: return cpu_has(v, FEAT_MOVBE);
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF: return cpu_has(v, FEAT_LAHF_LM);
	default: return integer_copied(in->mnemonic);
	}
}

/* May vector instructions of this extension be executed in the state that the block is
 * translated for? */
static bool vector_enabled(const struct vcpu *v, ZydisISAExt ext,
			   ZydisInstructionEncoding enc)
{
	if (!(v->cr4 & CR4_OSFXSR) || ext == ZYDIS_ISA_EXT_X87)
		return false;
	if (enc == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true;
	if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & 6) != 6)
		return false;
	return enc == ZYDIS_INSTRUCTION_ENCODING_VEX ||
	       (v->xcr0 & XCR0_AVX512) == XCR0_AVX512;
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
	       c == ZYDIS_REGCLASS_MMX;
}

static bool look_at_register(struct parts *p, const ZydisDecodedOperand *o)
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
		       r == ZYDIS_REGISTER_NONE;
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
	default:
		/* Implied, or in VEX.vvvv: where it is at home or nowhere. RSP, RSI, RDI
		 * are implied by other kinds. */
		if (c == ZYDIS_REGCLASS_GPR8)
			return true;
		id = (unsigned)ZydisRegisterGetId(r);
		return id != RSP && !in_memory(id);
	}
}

/* False: not an instruction that can be re-encoded. */
static bool take_apart(struct front *f, struct parts *p)
{
	const struct vcpu *v = f->t->v;
	bool native = !bind_insn(p->in);
	ZydisDecoder d;

	/* What the guest's CPU does not have must not run because the host's has it. */
	if (!p->in->mnemonic || p->in->fn == op_ud2)
		return false;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	if (!native && !integer_allowed(v, p->in))
		return false;
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, p->bytes, p->in->len, &p->zi, p->op)))
		return false;
	if (native) {
		/* Of operands, VZEROUPPER and EMMS have none. */
		p->stub = stub_of(v, p->in);
		p->vector = p->stub->cls != NC_NONE && p->stub->cls != NC_VEXGPR;
	}
	for (unsigned i = 0; i < p->zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &p->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (p->mem || o->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
			    o->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
			    o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || !o->size)
				return false;
			p->mem = o;
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			if (!look_at_register(p, o))
				return false;
		}
	}
	if (native && p->vector && !vector_enabled(v, p->zi.meta.isa_ext, p->zi.encoding))
		return false;
	if (p->zi.meta.isa_ext == ZYDIS_ISA_EXT_X87 ||
	    p->zi.meta.isa_ext == ZYDIS_ISA_EXT_AMX_TILE)
		return false;
	return !p->stub || !p->mem || p->stub->mem_size;
}

/* How many bytes the memory operand has. */
static unsigned mem_size(const struct parts *p)
{
	if (p->stub)
		return p->stub->mem_size;
	if (p->zi.avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID &&
	    !p->zi.avx.broadcast.is_static)
		return p->mem->element_size / 8;
	return p->mem->size / 8;
}

/* Copies of registers that live in memory go to scratch; the fields name the host's. */
static void place_registers(struct front *f, struct parts *p)
{
	struct emit *e = &f->e;

	p->reg = p->in->reg;
	p->rm = p->in->rm;
	if (p->reg_gpr) {
		if (in_memory(p->in->reg))
			emit_load_rsp(e, p->reg = T_KEEP, gpr_slot(p->in->reg));
		else
			p->reg = home(p->in->reg);
	}
	if (p->rm_gpr || p->opc_gpr) {
		if (p->reg_gpr && in_memory(p->in->rm) && p->in->rm == p->in->reg)
			p->rm = T_KEEP;
		else if (in_memory(p->in->rm))
			emit_load_rsp(e, p->rm = T_SLOT, gpr_slot(p->in->rm));
		else
			p->rm = home(p->in->rm);
	}
}

static void store_registers(struct front *f, const struct parts *p)
{
	if (p->reg_gpr && p->reg_written && in_memory(p->in->reg))
		emit_store_rsp(&f->e, p->reg, gpr_slot(p->in->reg));
	if ((p->rm_gpr || p->opc_gpr) && p->rm_written && in_memory(p->in->rm))
		emit_store_rsp(&f->e, p->rm, gpr_slot(p->in->rm));
}

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

/* Where the bytes of the original are. */
static unsigned skip_prefixes(const struct parts *p)
{
	unsigned i = 0;

	while (is_prefix(p->bytes[i]))
		i++;
	return i;
}

/*
 * A REX prefix that is not right before the opcode does not count (SDM volume 2
 * section 2.2.1). Ours would be in its place, and not count either.
 */
static bool rex_ignored(const u8 *bytes)
{
	unsigned i = 0;

	while (i < 15 && is_prefix(bytes[i]))
		i++;
	return (bytes[i] & 0xf0) == 0x40 &&
	       (is_prefix(bytes[i + 1]) || (bytes[i + 1] & 0xf0) == 0x40);
}

/* ModRM, and SIB for memory. */
static void emit_operands(struct front *f, const struct parts *p)
{
	if (p->mem) {
		e8(&f->e, (p->reg & 7) << 3 | 4);
		e8(&f->e, 0x11); /* [r9 + r10] */
	} else {
		e8(&f->e, 0xc0 | (p->reg & 7) << 3 | (p->rm & 7));
	}
}

/* The bytes behind ModRM, SIB and displacement: immediates. */
static void emit_immediates(struct front *f, const struct parts *p)
{
	unsigned n = p->zi.raw.imm[0].size / 8 + p->zi.raw.imm[1].size / 8;

	for (unsigned i = p->in->len - n; i < p->in->len; i++)
		e8(&f->e, p->bytes[i]);
}

static void emit_legacy(struct front *f, const struct parts *p)
{
	struct emit *e = &f->e;
	unsigned at = skip_prefixes(p), rex = 0, last;
	bool modrm = p->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM;
	bool had_rex = (p->bytes[at] & 0xf0) == 0x40;

	for (unsigned i = 0; i < at; i++)
		if (p->bytes[i] == 0x66 || p->bytes[i] == 0xf2 || p->bytes[i] == 0xf3 ||
		    p->bytes[i] == 0xf0)
			e8(e, p->bytes[i]);
	if (had_rex)
		rex = 0x40 | (p->bytes[at++] & 8);
	if (modrm && p->reg >> 3)
		rex |= 0x44;
	if (p->mem)
		rex |= 0x43;
	else if ((modrm || p->opc_gpr) && p->rm >> 3)
		rex |= 0x41;
	if (rex)
		e8(e, rex);
	/* Opcode bytes up to the last, which may hold a register, and may be 0fh itself
	 * (PALIGNR). */
	last = modrm ? p->zi.raw.modrm.offset - 1u : at + (p->bytes[at] == 0x0f);
	while (at < last)
		e8(e, p->bytes[at++]);
	e8(e, p->opc_gpr ? (p->bytes[at] & 0xf8u) | (p->rm & 7) : p->bytes[at]);
	if (modrm)
		emit_operands(f, p);
	emit_immediates(f, p);
}

static void emit_vex_copy(struct front *f, const struct parts *p)
{
	struct emit *e = &f->e;
	unsigned at = skip_prefixes(p), map = 1, last, rxb;

	if (p->bytes[at] == 0xc5) {
		last = p->bytes[at + 1] & 0x7f; /* W is 0 */
		at += 2;
	} else {
		map = p->bytes[at + 1] & 31;
		last = p->bytes[at + 2];
		at += 3;
	}
	/* Inverted: set when the register is below 8. */
	rxb = p->reg >> 3 ? 0 : 0x80;
	if (!p->mem)
		rxb |= 0x40 | (p->rm >> 3 ? 0 : 0x20);
	e8(e, 0xc4);
	e8(e, rxb | map);
	e8(e, last);
	e8(e, p->bytes[at]);
	if (p->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) /* not VZEROUPPER */
		emit_operands(f, p);
	emit_immediates(f, p);
}

/* Of EVEX only the memory operand changes, or general registers below 16. */
static void emit_evex_copy(struct front *f, const struct parts *p)
{
	struct emit *e = &f->e;
	unsigned at = skip_prefixes(p), p0 = p->bytes[at + 1];

	if (p->reg_gpr)
		p0 = (p0 & 0x7fu) | (p->reg >> 3 ? 0 : 0x80);
	if (p->mem)
		p0 &= ~0x60u; /* X, B of r10, r9 */
	else if (p->rm_gpr)
		p0 = (p0 & ~0x20u) | (p->rm >> 3 ? 0 : 0x20);
	e8(e, 0x62);
	e8(e, p0);
	e8(e, p->bytes[at + 2]);
	e8(e, p->bytes[at + 3]);
	e8(e, p->bytes[at + 4]);
	if (p->mem || p->rm_gpr || p->reg_gpr)
		emit_operands(f, p);
	else
		e8(e, p->bytes[at + 5]); /* registers above 15 are in the prefix */
	emit_immediates(f, p);
}

/* Vector registers may be the host's own now; asked once a block (see
 * translate_call_out). */
static void check_vectors(struct front *f, const struct parts *p)
{
	if (f->vec_checked)
		return;
	check_zero(f, p->in, FRAME(f->t, vec_parked));
	f->vec_checked = true;
}

bool copy_insn(struct front *f, const struct insn *in, const u8 *bytes)
{
	struct parts p = { .in = in, .bytes = bytes };
	unsigned first = f->colds;
	bool rex_needed;

	if (rex_ignored(bytes) || !take_apart(f, &p))
		return false;
	/* XCHG with RSP would become one with R8: 90 with a REX prefix, which F3 makes
	 * PAUSE. */
	if (in->mnemonic == ZYDIS_MNEMONIC_XCHG && p.opc_gpr && (in->flags & INSN_REP))
		return false;
	if (p.high_byte) {
		rex_needed = p.mem ||
			     (p.reg_gpr && (in_memory(in->reg) || in->reg >= R8)) ||
			     (p.rm_gpr && (in_memory(in->rm) || in->rm >= R8));
		/* A byte register numbered 4 to 7 without REX is AH to BH itself. */
		if (rex_needed || (in->flags & INSN_REXW) ||
		    (p.reg_gpr && p.reg_wide && in->reg == RSP) ||
		    (p.rm_gpr && !p.byte_reg && in->rm == RSP))
			return false;
	}
	if (p.zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    p.zi.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    p.zi.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return false;
	if (p.vector)
		check_vectors(f, &p);
	if (p.mem) {
		if (!memop_address(f, in))
			return false;
		memop_check(f, in, p.mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
			    mem_size(&p));
	}
	if (p.high_byte) {
		p.reg = in->reg;
		p.rm = in->rm;
	} else {
		place_registers(f, &p);
	}
	site_add(f, p.mem ? f->access : cold_add(f, in, NULL, false));
	if (p.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		emit_legacy(f, &p);
	else if (p.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex_copy(f, &p);
	else
		emit_evex_copy(f, &p);
	if (!p.high_byte)
		store_registers(f, &p);
	for (unsigned i = first; i < f->colds; i++)
		f->cold[i].back = f->e.p;
	return true;
}
