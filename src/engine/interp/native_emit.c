/*
 * Making the code of a stub: re-encoding one instruction, and what goes around it.
 *
 * SDM volume 2 chapter 2 (prefixes, VEX, EVEX). The instruction is put together anew from
 * its fields: vector registers keep their numbers, general registers get scratch
 * ones, the memory operand becomes [rsi] without displacement (so EVEX disp8*N does not
 * matter). The result is decoded again and compared, so that nothing but the
 * intended instruction is ever executed.
 *
 *   stub(rdi = struct vcpu, rsi = operand):
 *	load status flags if it reads or keeps some; load general registers
 *	the instruction
 *	store general registers; store status flags if it writes some
 *	xor eax, eax; ret
 *
 * Registers rbx, rbp, r12 to r15 are not touched and the stack is not used, so a fault
 *can leave at any point. Thread: any; no state.
 */
#include "engine/interp/stub.h"

struct emit {
	u8 *p;
	unsigned len;
};

/* Guest registers by number; those above 15 are AH, CH, DH and BH. */
struct gpr_map {
	u8 host[20]; /* 0xff: not used */
	bool write[20];
	u16 taken; /* host registers */
};

/* The fields of an instruction in its new form. */
struct fields {
	unsigned reg, rm, vvvv; /* with all extension bits */
	bool mem;
	bool w;
};

#define CC_DISP ((u32)offsetof(struct vcpu, cc))
_Static_assert(offsetof(struct vcpu, gpr) == 0, "stubs address gpr[] with a byte");

static void put(struct emit *e, u8 b)
{
	if (e->len < STUB_CODE_MAX)
		e->p[e->len] = b;
	e->len++;
}

static void put_bytes(struct emit *e, const u8 *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		put(e, b[i]);
}

static void put32(struct emit *e, u32 val)
{
	for (unsigned i = 0; i < 32; i += 8)
		put(e, (u8)(val >> i));
}

#define PUT(e, ...)                                                                      \
	put_bytes(e, (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))

/* ---- general registers ---- */

/* Number in struct gpr_map, or -1. */
static int gpr_number(ZydisRegister r)
{
	switch (ZydisRegisterGetClass(r)) {
	case ZYDIS_REGCLASS_GPR8:
		if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
			return 16 + (int)(r - ZYDIS_REGISTER_AH);
		return ZydisRegisterGetId(
			ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r));
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: return ZydisRegisterGetId(r);
	default: return -1;
	}
}

static bool is_gpr(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(o->reg.value) >= 0;
}

/* A register that is named by the instruction itself stays what it is; only some can. */
static bool map_fixed(struct gpr_map *m, const ZydisDecodedOperand *o)
{
	int g = gpr_number(o->reg.value);

	if (g != RAX && g != RCX && g != RDX)
		return false;
	m->host[g] = (u8)g;
	m->taken |= 1u << g;
	return true;
}

static bool map_free(struct gpr_map *m, const ZydisDecodedOperand *o)
{
	static const u8 pool[] = { RAX, RCX, RDX, R8, R9, R10, R11 };
	int g = gpr_number(o->reg.value);

	if (m->host[g] != 0xff)
		return true;
	for (unsigned i = 0; i < sizeof(pool); i++) {
		if (m->taken & 1u << pool[i])
			continue;
		m->host[g] = pool[i];
		m->taken |= 1u << pool[i];
		return true;
	}
	return false;
}

static bool map_gprs(const struct native_insn *x, struct gpr_map *m)
{
	*m = (struct gpr_map){ .taken = 0 };
	for (unsigned i = 0; i < ARRAY_SIZE(m->host); i++)
		m->host[i] = 0xff;
	for (unsigned i = 0; i < x->zi.operand_count; i++)
		if (is_gpr(&x->op[i]) &&
		    x->op[i].encoding == ZYDIS_OPERAND_ENCODING_NONE &&
		    !map_fixed(m, &x->op[i]))
			return false;
	for (unsigned i = 0; i < x->zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &x->op[i];

		if (!is_gpr(o))
			continue;
		if (o->encoding != ZYDIS_OPERAND_ENCODING_NONE && !map_free(m, o))
			return false;
		if (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			m->write[gpr_number(o->reg.value)] = true;
	}
	return true;
}

/* mov host, [rdi + 8 * g] or back. */
static void put_mov(struct emit *e, u8 opcode, unsigned host, unsigned g)
{
	PUT(e, (u8)(0x48 | (host >> 3) << 2), opcode, (u8)(0x47 | (host & 7) << 3),
	    (u8)(g * 8));
}

static void put_loads(struct emit *e, const struct gpr_map *m)
{
	for (unsigned g = 0; g < 16; g++)
		if (m->host[g] != 0xff)
			put_mov(e, 0x8b, m->host[g], g);
	/* movzx host32, byte [rdi + 8 * n + 1]: AH and the like are only ever read. */
	for (unsigned n = 0; n < 4; n++)
		if (m->host[16 + n] != 0xff)
			PUT(e, (u8)(0x40 | (m->host[16 + n] >> 3) << 2), 0x0f, 0xb6,
			    (u8)(0x47 | (m->host[16 + n] & 7) << 3), (u8)(n * 8 + 1));
}

static void put_stores(struct emit *e, const struct gpr_map *m)
{
	for (unsigned g = 0; g < 16; g++)
		if (m->write[g])
			put_mov(e, 0x89, m->host[g], g);
}

/* ---- status flags ---- */

static void put_flags_load(struct emit *e)
{
	/* OF: 78h + 8 overflows a signed byte, 78h + 0 does not. SAHF sets the others. */
	PUT(e, 0x0f, 0xb6, 0x87); /* movzx eax, byte [rdi + cc + 1] */
	put32(e, CC_DISP + 1);
	PUT(e, 0x83, 0xe0, 0x08); /* and eax, 8 */
	PUT(e, 0x04, 0x78);       /* add al, 78h */
	PUT(e, 0x8a, 0xa7);       /* mov ah, [rdi + cc] */
	put32(e, CC_DISP);
	put(e, 0x9e); /* sahf */
}

static void put_flags_store(struct emit *e)
{
	put(e, 0x9f);             /* lahf */
	PUT(e, 0x0f, 0x90, 0xc0); /* seto al */
	put(e, 0x25); /* and eax, d501h: without the bit of EFLAGS that is always 1 */
	put32(e, 0xd501);
	PUT(e, 0x0f, 0xb6, 0xcc); /* movzx ecx, ah */
	PUT(e, 0x0f, 0xb6, 0xc0); /* movzx eax, al */
	PUT(e, 0xc1, 0xe0, 0x0b); /* shl eax, 11 */
	PUT(e, 0x09, 0xc8);       /* or eax, ecx */
	PUT(e, 0x48, 0x89, 0x87); /* mov [rdi + cc], rax */
	put32(e, CC_DISP);
}

struct flag_use {
	bool load, store;
};

static struct flag_use flag_use(const ZydisDecodedInstruction *zi)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;
	u32 set, all;

	if (!f)
		return (struct flag_use){ false, false };
	set = (f->modified | f->set_0 | f->set_1) & RFLAGS_STATUS;
	all = set | (f->undefined & RFLAGS_STATUS);
	/* What it leaves alone or undefined starts as the guest's, so that the host
	 * decides as for the guest. */
	return (struct flag_use){
		.load = (f->tested & RFLAGS_STATUS) || (all && set != RFLAGS_STATUS),
		.store = all,
	};
}

/* ---- the instruction ---- */

static unsigned reg_field(const ZydisDecodedOperand *o, const struct gpr_map *m)
{
	if (is_gpr(o))
		return m->host[gpr_number(o->reg.value)];
	return (unsigned)(u8)ZydisRegisterGetId(o->reg.value);
}

static struct fields fields_of(const struct native_insn *x, const struct gpr_map *m)
{
	struct fields f = {
		.reg = x->zi.raw.modrm.reg,
		.rm = x->zi.raw.modrm.rm,
		.mem = x->mem,
	};

	for (unsigned i = 0; i < x->zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &x->op[i];

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			f.reg = reg_field(o, m);
		else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
			f.rm = reg_field(o, m);
		else if (o->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			f.vvvv = reg_field(o, m);
	}
	if (f.mem)
		f.rm = RSI;
	return f;
}

/*
 * Instructions whose operand size 66 selects, between 16 and 32 bits: where the code
 * segment's default is 16 bits the prefix means the opposite.
 */
static bool size_by_prefix(ZydisMnemonic m, u8 opcode)
{
	switch (m) {
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED: return true;
	case ZYDIS_MNEMONIC_CRC32: return opcode == 0xf1;
	default: return false;
	}
}

static void put_legacy_prefixes(struct emit *e, const struct native_insn *x)
{
	bool by_size = size_by_prefix(x->zi.mnemonic, x->zi.opcode);

	if (by_size && x->zi.operand_width == 16)
		put(e, 0x66);
	for (unsigned i = 0; i < x->zi.raw.prefix_count; i++) {
		u8 b = x->zi.raw.prefixes[i].value;

		if (b == 0xf2 || b == 0xf3 || (b == 0x66 && !by_size))
			put(e, b);
	}
}

static bool put_legacy(struct emit *e, const struct native_insn *x,
		       const struct fields *f)
{
	u8 rex = (u8)(f->w << 3 | (f->reg >> 3 & 1) << 2 | (f->rm >> 3 & 1));

	put_legacy_prefixes(e, x);
	if (rex)
		put(e, 0x40 | rex);
	switch (x->zi.opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT: break;
	case ZYDIS_OPCODE_MAP_0F: put(e, 0x0f); break;
	case ZYDIS_OPCODE_MAP_0F38: PUT(e, 0x0f, 0x38); break;
	case ZYDIS_OPCODE_MAP_0F3A: PUT(e, 0x0f, 0x3a); break;
	default: return false;
	}
	put(e, x->zi.opcode);
	return true;
}

static void put_vex(struct emit *e, const struct native_insn *x, const struct fields *f)
{
	PUT(e, 0xc4,
	    (u8)((~f->reg >> 3 & 1) << 7 | 1 << 6 | (~f->rm >> 3 & 1) << 5 |
		 x->zi.raw.vex.m_mmmm),
	    (u8)(f->w << 7 | (~f->vvvv & 15) << 3 | x->zi.raw.vex.L << 2 |
		 x->zi.raw.vex.pp));
	put(e, x->zi.opcode);
}

static void put_evex(struct emit *e, const struct native_insn *x, const struct fields *f)
{
	const ZydisDecodedInstructionRawEvex *r = &x->zi.raw.evex;

	PUT(e, 0x62,
	    (u8)((~f->reg >> 3 & 1) << 7 | (~f->rm >> 4 & 1) << 6 |
		 (~f->rm >> 3 & 1) << 5 | (~f->reg >> 4 & 1) << 4 | r->mmm),
	    (u8)(f->w << 7 | (~f->vvvv & 15) << 3 | 1 << 2 | r->pp),
	    (u8)(r->z << 7 | r->L2 << 6 | r->L << 5 | r->b << 4 |
		 (~f->vvvv >> 4 & 1) << 3 | r->aaa));
	put(e, x->zi.opcode);
}

static void put_immediates(struct emit *e, const struct native_insn *x)
{
	const ZydisDecodedOperand *is4 = NULL;

	for (unsigned i = 0; i < x->zi.operand_count; i++)
		if (x->op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 &&
		    x->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			is4 = &x->op[i];
	if (is4) {
		u8 last = x->bytes[x->zi.length - 1];

		put(e, (u8)((unsigned)ZydisRegisterGetId(is4->reg.value) << 4 |
			    (last & 15)));
		return;
	}
	for (unsigned i = 0; i < 2; i++)
		put_bytes(e, x->bytes + x->zi.raw.imm[i].offset,
			  x->zi.raw.imm[i].size / 8);
}

static bool put_insn(struct emit *e, const struct native_insn *x, const struct fields *f)
{
	switch (x->zi.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		if (!put_legacy(e, x, f))
			return false;
		break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX: put_vex(e, x, f); break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: put_evex(e, x, f); break;
	default: return false;
	}
	if (x->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM)
		put(e, (u8)((f->mem ? 0 : 3) << 6 | (f->reg & 7) << 3 | (f->rm & 7)));
	put_immediates(e, x);
	return e->len <= STUB_CODE_MAX;
}

static bool field_w(const struct native_insn *x)
{
	switch (x->zi.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
		return (x->zi.attributes & ZYDIS_ATTRIB_HAS_REX) && x->zi.raw.rex.W;
	case ZYDIS_INSTRUCTION_ENCODING_VEX: return x->zi.raw.vex.W;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: return x->zi.raw.evex.W;
	default: return false;
	}
}

/* ---- check ---- */

static bool same_operand(const ZydisDecodedOperand *a, const ZydisDecodedOperand *b)
{
	if (a->type != b->type || a->actions != b->actions || a->encoding != b->encoding)
		return false;
	switch (a->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		/* The width of rFLAGS is that of the mode. */
		if (ZydisRegisterGetClass(a->reg.value) == ZYDIS_REGCLASS_FLAGS)
			return true;
		/* Zydis has RAX without a size in 32-bit code: VPCMPESTRI with W, which
		 * is ignored. */
		return (a->size == b->size || (!a->size && is_gpr(a) && b->size == 32)) &&
		       (is_gpr(a) ? is_gpr(b) : a->reg.value == b->reg.value);
	case ZYDIS_OPERAND_TYPE_MEMORY:
		return a->size == b->size && a->mem.type == b->mem.type &&
		       (a->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN ||
			(b->mem.base == ZYDIS_REGISTER_RSI &&
			 b->mem.index == ZYDIS_REGISTER_NONE && !b->mem.disp.value));
	case ZYDIS_OPERAND_TYPE_IMMEDIATE: return a->imm.value.u == b->imm.value.u;
	default: return false;
	}
}

/* Is this, in 64-bit mode, the instruction we have? */
static bool same_insn(const struct native_insn *x, const u8 *code, unsigned len)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisDecoder d;

	native_decoder(&d, 8);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, code, len, &zi, op)) ||
	    zi.length != len || zi.mnemonic != x->zi.mnemonic ||
	    zi.operand_count != x->zi.operand_count ||
	    zi.avx.vector_length != x->zi.avx.vector_length ||
	    zi.avx.mask.mode != x->zi.avx.mask.mode ||
	    zi.avx.broadcast.mode != x->zi.avx.broadcast.mode ||
	    zi.avx.rounding.mode != x->zi.avx.rounding.mode)
		return false;
	for (unsigned i = 0; i < zi.operand_count; i++)
		if (!same_operand(&x->op[i], &op[i]))
			return false;
	return true;
}

static bool put_checked(struct emit *e, const struct native_insn *x, struct fields *f)
{
	unsigned at = e->len;

	f->w = field_w(x);
	if (!put_insn(e, x, f))
		return false;
	if (same_insn(x, e->p + at, e->len - at))
		return true;
	/* W is ignored by some instructions outside 64-bit mode, and would select 64-bit
	 * operands here. */
	if (!f->w || x->code_size == 8)
		return false;
	e->len = at;
	f->w = false;
	return put_insn(e, x, f) && same_insn(x, e->p + at, e->len - at);
}

unsigned emit_stub(const struct native_insn *x, u8 code[STUB_CODE_MAX])
{
	struct flag_use flags = flag_use(&x->zi);
	struct emit e = { .p = code };
	struct fields f;
	struct gpr_map m;

	if (!map_gprs(x, &m))
		return 0;
	if (flags.load)
		put_flags_load(&e);
	put_loads(&e, &m);
	/* Their operand is at [rdi]. */
	if (x->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	    x->zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	    x->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
		PUT(&e, 0x48, 0x89, 0xf7); /* mov rdi, rsi */
	f = fields_of(x, &m);
	if (!put_checked(&e, x, &f))
		return 0;
	put_stores(&e, &m);
	if (flags.store)
		put_flags_store(&e);
	PUT(&e, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret */
	return e.len <= STUB_CODE_MAX ? e.len : 0;
}
