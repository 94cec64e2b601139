/*
 * Random tests: see gen.h.
 *
 * An encoding of the form is varied at random as long as the decoder still sees the same
 * form. Memory operands are then placed by solving for the registers of their address,
 * most of them in the RW pages, some at every kind of edge. Single-threaded.
 */
#include "gen.h"

#include <string.h>

#include "../hostarea.h"

/* ---- memory of both sides ---- */

void box_poke(struct box *b, u64 lin, const void *p, unsigned len)
{
	bool code = lin >= ARENA && lin + len <= ARENA + CODE_SIZE;

	if (!code && !(lin >= RW_BASE && lin + len <= RW_END))
		return;
	memcpy((void *)lin, p, len);
	memcpy(guest_mem(b->guest, lin), p, len);
	if (code)
		guest_code_changed(b->guest, lin, len);
}

void box_fill(struct box *b, struct rng *rng)
{
	rng_fill(rng, (void *)RW_BASE, RW_SIZE);
	memcpy(guest_mem(b->guest, RW_BASE), (void *)RW_BASE, RW_SIZE);
	memcpy(guest_mem(b->guest, RO_BASE), (void *)RO_BASE, 0x1000);
}

/* ---- values ---- */

u64 gen_value(struct rng *rng)
{
	static const u64 special[] = {
		0,
		1,
		0x7f,
		0x80,
		0xff,
		0x7fff,
		0x8000,
		0xffff,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		1ull << 63,
		~0ull,
	};

	switch (rng_below(rng, 8)) {
	case 0: return rng_below(rng, 64);
	case 1: return (u64) - (i64)rng_below(rng, 64);
	case 2: return special[rng_below(rng, ARRAY_SIZE(special))];
	case 3:
		return special[rng_below(rng, ARRAY_SIZE(special))] + rng_below(rng, 5) -
		       2;
	case 4: return 1ull << rng_below(rng, 64);
	case 5: return rng64(rng) >> rng_below(rng, 64);
	default: return rng64(rng);
	}
}

/* Floating point of any size: by exponent and fraction bits. */
static u64 gen_float(struct rng *rng, unsigned exp_bits, unsigned frac_bits)
{
	u64 sign = rng64(rng) & 1, exp_max = (1ull << exp_bits) - 1, bias = exp_max >> 1;
	u64 frac = rng64(rng) & ((1ull << frac_bits) - 1), exp;

	switch (rng_below(rng, 10)) {
	case 0:
		exp = 0;
		frac = 0;
		break;
	case 1: exp = 0; break;
	case 2:
		exp = exp_max;
		frac = 0;
		break;
	case 3: exp = exp_max; break;
	case 4:
		exp = bias;
		frac = 0;
		break;
	case 5:
		exp = bias + rng_below(rng, 24);
		frac = 0;
		break;
	case 6: exp = rng64(rng) & exp_max; break;
	case 7: exp = bias + rng_below(rng, 70); break; /* around integers' limits */
	default: exp = bias - 4 + rng_below(rng, 8); break;
	}
	if (exp > exp_max)
		exp = exp_max;
	return sign << (exp_bits + frac_bits) | exp << frac_bits | frac;
}

static void gen_elements(struct rng *rng, u8 *p, unsigned len)
{
	switch (rng_below(rng, 7)) {
	case 0:
		for (unsigned i = 0; i < len; i += 8) {
			u64 v = gen_float(rng, 11, 52);

			memcpy(p + i, &v, 8);
		}
		break;
	case 1:
	case 2:
		for (unsigned i = 0; i < len; i += 4) {
			u32 v = (u32)gen_float(rng, 8, 23);

			memcpy(p + i, &v, 4);
		}
		break;
	case 3:
		for (unsigned i = 0; i < len; i += 2) {
			u16 v = (u16)gen_float(rng, 5, 10);

			memcpy(p + i, &v, 2);
		}
		break;
	case 4:
		for (unsigned i = 0; i < len; i += 8) {
			u64 v = gen_value(rng);

			memcpy(p + i, &v, 8);
		}
		break;
	default: rng_fill(rng, p, len); break;
	}
}

static void gen_x87(struct rng *rng, u8 *x)
{
	u16 fcw = (u16)(0x7f | (rng_below(rng, 4) << 8) | rng_below(rng, 4) << 10);
	u16 fsw = (u16)(rng64(rng) & 0x7f7f);

	if (rng_one_in(rng, 16))
		fcw &= (u16) ~(rng64(rng) & 0x3f);
	if (rng_below(rng, 8))
		fcw |= 0x300;
	if (rng_below(rng, 4))
		fsw &= 0x7f00;
	/* ES and B follow from the flags that are not masked. */
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	memcpy(x + XSAVE_FCW, &fcw, 2);
	memcpy(x + XSAVE_FSW, &fsw, 2);
	x[XSAVE_FTW] = (u8)(rng_below(rng, 3)   ? rng64(rng) | rng64(rng)
			    : rng_below(rng, 2) ? 0xff
						: 0);
	x[XSAVE_FTW + 1] = 0;
	for (unsigned i = 0; i < 8; i++) {
		u64 mant = rng64(rng) | BIT(63);
		u16 exp = (u16)(rng64(rng) & 0x8000);

		switch (rng_below(rng, 8)) {
		case 0: mant = 0; break;
		case 1:
			exp |= 0x7fff;
			mant = rng_below(rng, 2) ? BIT(63) : mant;
			break;
		case 2: mant &= ~BIT(63); break; /* denormal */
		case 3: exp |= (u16)rng_below(rng, 0x8000); break;
		case 4:
			mant = rng64(rng);
			exp |= (u16)rng_below(rng, 0x8000);
			break;
		case 5:
			exp |= 0x3fff;
			mant = BIT(63);
			break;
		default: exp |= (u16)(0x3fff - 20 + rng_below(rng, 90)); break;
		}
		memcpy(x + XSAVE_ST + i * 16, &mant, 8);
		memcpy(x + XSAVE_ST + i * 16 + 8, &exp, 2);
		memset(x + XSAVE_ST + i * 16 + 10, 0, 6);
	}
	{
		u64 fip = rng64(rng) >> 17, fdp = rng64(rng) >> 17;
		u16 fop = (u16)(rng64(rng) & 0x7ff);

		/* AMD's XSAVE, and so a switch of processes on the host, keeps them with
		 * a pending exception only: APM 2 section 11.4.4. */
		if (host_is_amd() && !(fsw & 0x80))
			fip = fdp = fop = 0;
		memcpy(x + XSAVE_FIP, &fip, 8);
		memcpy(x + XSAVE_FDP, &fdp, 8);
		memcpy(x + XSAVE_FOP, &fop, 2);
	}
}

static void gen_opmasks(struct rng *rng, u8 *x)
{
	for (unsigned i = 0; i < 8; i++) {
		u64 k;

		switch (rng_below(rng, 4)) {
		case 0: k = ~0ull; break;
		case 1: k = gen_value(rng); break;
		default: k = rng64(rng); break;
		}
		memcpy(x + XSAVE_OPMASK + i * 8, &k, 8);
	}
}

/* Where a component is not in use its bytes say so too: that is how x86/xsave.h has it.
 */
static void clear_unused(u8 *x, u64 bv)
{
	if (!(bv & XCR0_X87)) {
		memset(x, 0, XSAVE_MXCSR);
		x[0] = 0x7f;
		x[1] = 3;
		memset(x + XSAVE_ST, 0, 128);
	}
	if (!(bv & XCR0_SSE))
		memset(x + XSAVE_XMM, 0, 256);
	for (unsigned i = 2; i < 8; i++)
		if (xcomp_layout[i].size && !(bv & BIT(i)))
			memset(x + xcomp_layout[i].offset, 0, xcomp_layout[i].size);
}

static void gen_xsave(struct rng *rng, u8 *x)
{
	u32 mxcsr = 0x1f80 | (u32)(rng64(rng) & (rng_below(rng, 2) ? 0x603f : 0xe07f));
	u64 bv = STATE_XCR0;

	memset(x, 0, 576);
	gen_x87(rng, x);
	for (unsigned i = 0; i < 16; i++) {
		u8 reg[64];

		gen_elements(rng, reg, 64);
		memcpy(x + XSAVE_XMM + i * 16, reg, 16);
		memcpy(x + XSAVE_YMM + i * 16, reg + 16, 16);
		memcpy(x + XSAVE_ZMM_HI256 + i * 32, reg + 32, 32);
		gen_elements(rng, x + XSAVE_HI16_ZMM + i * 64, 64);
	}
	gen_opmasks(rng, x);
	if (rng_one_in(rng, 12))
		mxcsr &= ~(u32)(rng64(rng) & 0x1f80);
	/* Exceptions of SSE happen while operating, not for flags that are set. */
	memcpy(x + XSAVE_MXCSR, &mxcsr, 4);
	if (rng_one_in(rng, 8))
		bv &= rng64(rng);
	memcpy(x + XSAVE_XSTATE_BV, &bv, 8);
	clear_unused(x, bv);
}

static void gen_segments(struct rng *rng, struct state *s, enum mode mode)
{
	static const u16 other[] = { SEL_DS,       SEL_LDT_DS32,
				     SEL_LDT_DS16, SEL_LDT_SHORT,
				     SEL_LDT_RO,   SEL_LDT_DOWN,
				     SEL_CS32,     0 };
	bool flat = rng_below(rng, 4);

	memset(s->sel, 0, sizeof(s->sel));
	s->fs_base = s->gs_base = 0;
	switch (mode) {
	case MODE64:
		s->sel[CS] = SEL_CS64;
		s->sel[SS] = SEL_DS;
		s->fs_base =
			rng_below(rng, 2) ? rng_below(rng, 1u << 28) : rng64(rng) >> 17;
		s->gs_base =
			rng_below(rng, 2) ? rng_below(rng, 1u << 28) : rng64(rng) >> 17;
		return;
	case MODE32:
		s->sel[CS] = rng_below(rng, 4) ? SEL_CS32 : SEL_LDT_CS32;
		s->sel[SS] = s->sel[DS] = s->sel[ES] = flat ? SEL_DS : SEL_LDT_DS32;
		break;
	default:
		s->sel[CS] = SEL_LDT_CS16;
		s->sel[SS] = s->sel[DS] = s->sel[ES] = SEL_LDT_DS16;
		break;
	}
	s->sel[FS] = SEL_LDT_DS32;
	s->sel[GS] = SEL_LDT_DS16;
	if (rng_one_in(rng, 4))
		s->sel[FS] = other[rng_below(rng, ARRAY_SIZE(other))];
	if (rng_one_in(rng, 8))
		s->sel[DS] = other[rng_below(rng, ARRAY_SIZE(other))];
	if (rng_one_in(rng, 16))
		s->sel[ES] = other[rng_below(rng, ARRAY_SIZE(other))];
}

void gen_state(struct rng *rng, struct state *s, enum mode mode)
{
	memset(s->gpr, 0, sizeof(s->gpr));
	for (unsigned i = 0; i < (mode == MODE64 ? 16 : 8); i++)
		s->gpr[i] = mode == MODE64 ? gen_value(rng) : (u32)gen_value(rng);
	s->flags = (rng64(rng) & RFLAGS_STATUS) | RFLAGS_1 | RFLAGS_IF;
	if (rng_one_in(rng, 5))
		s->flags |= RFLAGS_DF;
	if (rng_one_in(rng, 24))
		s->flags |= RFLAGS_AC;
	if (rng_one_in(rng, 24))
		s->flags |= RFLAGS_TF;
	gen_segments(rng, s, mode);
	gen_xsave(rng, s->xsave);
	s->cr2 = 0;
	s->vector = s->error = 0;
}

/* ---- encodings ---- */

static void vary_legacy(struct rng *rng, struct enc *e, enum mode mode)
{
	static const u8 segs[] = { 0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26 };

	if (mode == MODE64) {
		if (rng_below(rng, 2)) {
			e->r = rng64(rng) & 1;
			e->x = rng64(rng) & 1;
			e->b = rng64(rng) & 1;
		}
		e->rex = rng_one_in(rng, 4);
	}
	while (e->prefixes < sizeof(e->prefix) && rng_one_in(rng, 5))
		e->prefix[e->prefixes++] = segs[rng_below(rng, ARRAY_SIZE(segs))];
	if (e->prefixes < sizeof(e->prefix) && rng_one_in(rng, 8))
		e->prefix[e->prefixes++] = 0x67;
}

static void vary_vector(struct rng *rng, struct enc *e, enum mode mode)
{
	static const u8 segs[] = { 0x64, 0x65, 0x67 };

	e->vvvv = rng_below(rng, 3) ? (u8)rng_below(rng, mode == MODE64 ? 16 : 8) : 0;
	if (mode == MODE64) {
		e->r = rng64(rng) & 1;
		e->x = rng64(rng) & 1;
		e->b = rng64(rng) & 1;
		e->r2 = rng64(rng) & 1;
		e->v2 = rng64(rng) & 1;
	}
	if (rng_below(rng, 2))
		e->w = rng64(rng) & 1;
	if (rng_below(rng, 2))
		e->l = (u8)rng_below(rng, e->kind == ENC_EVEX ? 4 : 2);
	e->aaa = (u8)(rng_below(rng, 3) ? rng_below(rng, 8) : 0);
	e->z = rng64(rng) & 1;
	e->vex2 = rng64(rng) & 1;
	if (rng_one_in(rng, 8))
		e->prefix[e->prefixes++] = segs[rng_below(rng, ARRAY_SIZE(segs))];
}

/* The last resort is one of the samples as it is. */
bool gen_code(struct rng *rng, const struct form *f, struct test *t)
{
	const struct enc *sample = &f->sample[rng_below(rng, MIN(f->seen, FORM_SAMPLES))];
	enum mode mode = (enum mode)f->mode;
	u8 bytes[40];

	for (unsigned try = 0; try < 24; try++) {
		struct enc e = *sample;
		u8 modrm = e.tail[0];

		rng_fill(rng, e.tail, sizeof(e.tail));
		/* The kind of operand stays; half of the time the group's opcode too. */
		e.tail[0] =
			(u8)((e.tail[0] & 0x3f) |
			     ((modrm & 0xc0) == 0xc0 ? 0xc0 : rng_below(rng, 3) << 6));
		if (try & 1)
			e.tail[0] = (u8)((e.tail[0] & 0xc7) | (modrm & 0x38));
		if (try % 6 == 5)
			e.tail[0] = modrm;
		if ((modrm & 0xc7) == 0x04 && e.kind != ENC_LEGACY)
			e.tail[0] = (u8)((e.tail[0] & 0xf8) | 4); /* SIB */
		if (e.map == 1 && e.opcode == 0x0f && e.kind == ENC_LEGACY)
			e.tail[1] = sample->tail[1];
		/* Immediates that mean something: small, or the sign bit. */
		if (rng_one_in(rng, 4))
			for (unsigned i = 0; i < 4; i++)
				e.tail[1 + i] = (u8)(rng_below(rng, 2) ? 0 : 0xff);
		if (try < 20) {
			if (e.kind == ENC_LEGACY)
				vary_legacy(rng, &e, mode);
			else
				vary_vector(rng, &e, mode);
			if (rng_one_in(rng, 3) && e.kind == ENC_LEGACY)
				e.opcode = (u8)((e.opcode & 0xf8) | rng_below(rng, 8));
		}
		if (try == 23)
			e = *sample;
		if (!form_decode(mode, bytes, enc_bytes(&e, bytes), &t->d) ||
		    form_key(&t->d) + mode != f->key)
			continue;
		t->len = t->d.zi.length;
		memset(t->code, 0xcc, sizeof(t->code));
		memcpy(t->code, bytes, t->len);
		return true;
	}
	return false;
}

/* ---- operands ---- */

static unsigned gpr_of(ZydisRegister r)
{
	return (unsigned)(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
							   r) -
			  ZYDIS_REGISTER_RAX);
}

static unsigned width_of(ZydisRegister r)
{
	return ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, r) / 8;
}

static void set_gpr(struct state *s, ZydisRegister r, u64 val)
{
	u64 mask = size_mask(width_of(r)), *g = &s->gpr[gpr_of(r)];

	*g = (*g & ~mask) | (val & mask);
}

/*
 * Other overrides do not cancel one of FS or GS in 64-bit mode: Zydis looks at the last
 * prefix alone. Only operands that can be overridden come here, or with ES, or from the
 * stack without any.
 */
static unsigned override64(const struct test *t, unsigned n)
{
	for (unsigned i = 0; i < t->d.zi.raw.prefix_count; i++) {
		u8 p = t->d.zi.raw.prefixes[i].value;

		if (p == 0x64 || p == 0x65)
			n = p == 0x64 ? FS : GS;
	}
	return n;
}

static u64 seg_base_of(const struct test *t, ZydisRegister seg)
{
	unsigned n = (unsigned)(seg - ZYDIS_REGISTER_ES);

	if (n > GS)
		n = DS;
	if (t->mode == MODE64 && n != ES)
		n = override64(t, n);
	if (t->mode == MODE64)
		return n == FS ? t->start.fs_base : n == GS ? t->start.gs_base : 0;
	return sel_base(t->start.sel[n]);
}

static void patch(struct test *t, unsigned offset, u64 val, unsigned bits)
{
	if (offset && offset + bits / 8 <= t->len)
		memcpy(t->code + offset, &val, bits / 8);
}

/* A target of 'size' bytes: mostly good, sometimes at an edge. */
static u64 gen_target(struct rng *rng, const struct test *t, unsigned size, bool stack)
{
	unsigned align = size >= 64  ? 64
			 : size >= 1 ? 1u << (31 - __builtin_clz(size))
				     : 1;
	u64 in_page = RW_BASE + 0x800 + rng_below(rng, RW_SIZE - 0x2000);
	u32 kind = rng_below(rng, stack ? 400 : 100);

	size = MAX(size, 1u);
	if (kind < 60 || kind >= 100)
		return in_page & ~(u64)(align - 1);
	if (kind < 75)
		return in_page;
	if (kind < 83) /* across two pages */
		return RW_BASE + 0x1000 * (2 + rng_below(rng, RW_PAGES - 3)) - 1 -
		       rng_below(rng, size);
	if (kind < 88) /* over the end */
		return RW_END - rng_below(rng, size + 1);
	if (kind < 91)
		return RW_BASE - rng_below(rng, size + 1);
	if (kind < 93)
		return RW_END + rng_below(rng, 0xf00);
	if (kind < 97)
		return RO_BASE + (rng_below(rng, 0xe00) & ~(align - 1));
	if (kind < 98)
		return RO_END - rng_below(rng, size + 1);
	if (t->mode != MODE64)
		return in_page;
	if (rng_below(rng, 4) == 0)
		return (1ull << 47) + (rng64(rng) >> 17); /* not canonical */
	/* Becoming so. */
	return (1ull << 47) +
	       (rng_below(rng, 2) ? rng_below(rng, 64) : -(u64)rng_below(rng, size));
}

/* SIB without base: mod 0, base 5. */
static bool no_base(const ZydisDecodedInstruction *zi)
{
	return (zi->attributes & ZYDIS_ATTRIB_HAS_SIB) && !zi->raw.modrm.mod &&
	       zi->raw.sib.base == 5;
}

/* Make the operand's address 'target' by choosing registers or the displacement. */
static bool place(struct rng *rng, struct test *t, const ZydisDecodedOperand *o,
		  u64 target)
{
	const ZydisDecodedOperandMem *m = &o->mem;
	const ZydisDecodedInstruction *zi = &t->d.zi;
	bool has_base = m->base != ZYDIS_REGISTER_NONE,
	     has_index = m->index != ZYDIS_REGISTER_NONE;
	unsigned bytes = has_base ? width_of(m->base) : zi->address_width / 8;
	u64 mask = size_mask(bytes), off = (target - seg_base_of(t, m->segment)) & mask;
	u64 disp = (u64)m->disp.value, index = 0;

	/* Zydis 4.0 has a base here if the bit that would extend it is set. */
	if (no_base(zi)) {
		has_base = false;
		bytes = zi->address_width / 8;
		mask = size_mask(bytes);
		off = (target - seg_base_of(t, m->segment)) & mask;
	}

	/* Does the address width let us get there at all? */
	if (((off + seg_base_of(t, m->segment)) &
	     (t->mode == MODE64 ? ~0ull : 0xffffffff)) != target)
		return false;
	if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
		u64 rel = off - (t->start.rip + t->len);

		if (m->base == ZYDIS_REGISTER_RIP && (u64)(i32)rel != rel)
			return false;
		patch(t, zi->raw.disp.offset, rel, 32);
		return true;
	}
	if (m->type == ZYDIS_MEMOP_TYPE_VSIB)
		has_index = false;
	if (has_index && m->index != m->base) {
		index = (u64)(i64)((i32)rng_below(rng, 256) - 128);
		if (!has_base && !zi->raw.disp.size)
			return false;
		set_gpr(&t->start, m->index, index);
		index *= m->scale;
	}
	if (!has_base) {
		u64 d = off - index;

		if (zi->raw.disp.size == 32 && (d & mask) != ((u64)(i32)d & mask))
			return false;
		if (zi->raw.disp.size == 16 && (d & mask) != ((u64)(i16)d & mask))
			return false;
		if (zi->raw.disp.size < 16)
			return false;
		patch(t, zi->raw.disp.offset, d, zi->raw.disp.size);
		return true;
	}
	if (has_index && m->index == m->base) {
		set_gpr(&t->start, m->base, ((off - disp) & mask) / (1u + m->scale));
		return true;
	}
	set_gpr(&t->start, m->base, off - disp - index);
	return true;
}

/* Byte offset of element i of vector register 'reg' in the XSAVE area. */
static u8 *vector_bytes(struct state *s, unsigned reg, unsigned at)
{
	if (reg >= 16)
		return s->xsave + XSAVE_HI16_ZMM + (reg - 16) * 64 + at;
	if (at < 16)
		return s->xsave + XSAVE_XMM + reg * 16 + at;
	if (at < 32)
		return s->xsave + XSAVE_YMM + reg * 16 + at - 16;
	return s->xsave + XSAVE_ZMM_HI256 + reg * 32 + at - 32;
}

/* Gather and scatter: indexes that stay near, with one or two at an edge now and then. */
static bool place_vsib(struct rng *rng, struct test *t, const ZydisDecodedOperand *o)
{
	unsigned reg = (unsigned)(u8)ZydisRegisterGetId(o->mem.index);
	unsigned span = rng_one_in(rng, 4) ? 0x2000 : 0x400;
	bool wide = false;
	u64 bv = STATE_XCR0;

	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPSCATTERQD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPS:
	case ZYDIS_MNEMONIC_VSCATTERQPD: wide = true; break;
	default: break;
	}
	memcpy(t->start.xsave + XSAVE_XSTATE_BV, &bv, 8);
	for (unsigned at = 0; at < 64; at += wide ? 8 : 4) {
		i64 v = (i64)rng_below(rng, 2 * span) - span;

		if (rng_one_in(rng, 80))
			v *= 64;
		v /= o->mem.scale ? o->mem.scale : 1;
		memcpy(vector_bytes(&t->start, reg, at), &v, wide ? 8 : 4);
	}
	return place(rng, t, o, RW_BASE + 0x2000 + rng_below(rng, 0x1000));
}

/* ---- what some instructions need ---- */

static void vex_hint(struct test *t, unsigned reg, u64 val)
{
	t->start.gpr[reg] = val;
}

/* A place in the code of this test: INT3 is there. Not inside the instruction. */
static u64 gen_code_target(struct rng *rng, const struct test *t)
{
	i32 d = (i32)rng_below(rng, 200) - 100;

	if (d < 0)
		d -= 16;
	return t->at + (d < 0 ? (u64)(i64)d : (u64)d + t->len);
}

static const u16 code_selectors[] = { SEL_CS64,     SEL_CS64,      SEL_CS32, SEL_LDT_CS16,
				      SEL_LDT_CS32, SEL_CS64 & ~3, SEL_DS,   0,
				      SEL_LDT_NP,   0x10 };
static const u16 data_selectors[] = {
	SEL_DS,       SEL_DS,     SEL_LDT_DS16, SEL_LDT_DS32, SEL_LDT_SHORT, SEL_LDT_RO,
	SEL_LDT_DOWN, SEL_LDT_NP, SEL_CS32,     SEL_CS64,     SEL_LDT_CS16,  0,
	0x2f,         0x18,       0x08,         0x40,         0xfff8,        0x47,
	0x28
};

static u16 gen_code_selector(struct rng *rng)
{
	return code_selectors[rng_below(
		rng, rng_below(rng, 2) ? 5 : ARRAY_SIZE(code_selectors))];
}

static u16 gen_data_selector(struct rng *rng)
{
	return data_selectors[rng_below(rng, ARRAY_SIZE(data_selectors))];
}

/* The offset by which 'lin' is reached in a code segment. */
static u64 code_offset(u16 sel, u64 lin)
{
	return lin - sel_base(sel);
}

/* IP, CS and what follows them at 'lin': a far pointer, or a return frame. */
static void poke_frame(struct box *b, struct rng *rng, const struct test *t, u64 lin,
		       unsigned size, bool iret)
{
	u16 sel = gen_code_selector(rng);
	u64 frame[5] = { code_offset(sel, gen_code_target(rng, t)), sel,
			 (rng64(rng) & RFLAGS_STATUS) | 0x202, t->start.gpr[RSP],
			 SEL_DS };

	/*
	 * Not AC: where IRET itself then faults for its frame's alignment, with AC still
	 * clear, the host's kernel takes it for a split lock and tries again for ever.
	 */
	if (iret && rng_one_in(rng, 4))
		frame[2] =
			rng64(rng) & 0x3f7fd7 & ~(u64)(RFLAGS_VM | RFLAGS_TF | RFLAGS_AC);
	if (rng_one_in(rng, 16))
		frame[0] = 1ull << 47;
	if (iret && rng_one_in(rng, 4)) {
		frame[3] = RW_BASE + 0x2000;
		frame[4] = gen_data_selector(rng);
	}
	for (unsigned i = 0; i < (iret ? 5 : 2); i++)
		box_poke(b, lin + i * size, &frame[i], size);
}

static const ZydisDecodedOperand *memory_operand(const struct test *t)
{
	for (unsigned i = 0; i < t->d.zi.operand_count; i++)
		if (t->d.op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &t->d.op[i];
	return NULL;
}

static bool is_string(const struct test *t)
{
	return t->d.zi.meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       t->d.zi.meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

/* Where each memory operand ended up. */
struct placed {
	u64 lin[ZYDIS_MAX_OPERAND_COUNT];
};

static void place_stack(struct rng *rng, struct test *t)
{
	u64 sp = RW_BASE + 0x2000 + (rng_below(rng, 0x1000) & ~15ull), base;

	if (rng_one_in(rng, 8))
		sp += rng_below(rng, 16);
	if (rng_one_in(rng, 32))
		sp = (rng_below(rng, 2) ? RW_BASE : RW_END) + rng_below(rng, 32) - 16;
	base = t->mode == MODE64 ? 0 : sel_base(t->start.sel[SS]);
	t->start.gpr[RSP] = sp - base;
	t->start.gpr[RBP] = sp - base + (rng_below(rng, 0x400) & ~7ull);
}

/* Bit strings reach far from their operand. */
static bool bit_string(const struct test *t)
{
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		return t->d.op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		       t->d.op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	default: return false;
	}
}

static unsigned operand_bytes(const struct test *t, const ZydisDecodedOperand *o)
{
	switch (t->d.zi.meta.category) {
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT: return 64;
	default: break;
	}
	return o->size ? MIN(o->size / 8u, 512u) : 1;
}

/* False: an operand could not be placed, and would be anywhere in the host's memory. */
static bool place_operands(struct rng *rng, struct test *t, struct placed *p)
{
	for (unsigned i = 0; i < t->d.zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->d.op[i];
		unsigned size = operand_bytes(t, o);
		bool stack, done = false, big = o->size >= 4096;

		p->lin[i] = 0;
		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
			if (!place_vsib(rng, t, o))
				return false;
			continue;
		}
		stack = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
			(o->mem.base == ZYDIS_REGISTER_RSP ||
			 o->mem.base == ZYDIS_REGISTER_ESP ||
			 o->mem.base == ZYDIS_REGISTER_SP ||
			 o->mem.base == ZYDIS_REGISTER_RBP ||
			 o->mem.base == ZYDIS_REGISTER_EBP ||
			 o->mem.base == ZYDIS_REGISTER_BP);
		if (stack) {
			/* place_stack() did it. */
			p->lin[i] = t->start.gpr[gpr_of(o->mem.base)] +
				    (t->mode == MODE64 ? 0 : sel_base(t->start.sel[SS]));
			continue;
		}
		for (unsigned try = 0; try < 4 && !done; try++) {
			u64 target = gen_target(rng, t, size, false);

			if (big && target >= RW_BASE && rng_below(rng, 8))
				target = RW_BASE + 0x1000 +
					 (rng_below(rng, 0x1800) & ~63u);
			if (bit_string(t))
				target = RW_BASE + 0x2000 + rng_below(rng, 0x1000);
			done = place(rng, t, o, target);
			p->lin[i] = target;
		}
		if (!done && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
			return false;
	}
	return true;
}

/* A valid XSAVE image, standard or compacted, or nearly so. */
static void poke_xsave_image(struct box *b, struct rng *rng, struct test *t, u64 lin)
{
	/* Components that neither side has, and the mark of compacted images. */
	static const u8 absent[] = { 3, 4, 8, 20, 31, 32, 40, 62, 63 };
	u8 area[XSAVE_AREA_SIZE] = { 0 }, image[2816] = { 0 };
	u64 bv = STATE_XCR0, comp = 0;
	u32 mxcsr = 0x1f80 | (u32)(rng64(rng) & 0xe07f);

	gen_xsave(rng, area);
	area_to_host(image, area);
	memcpy(image + XSAVE_MXCSR, &mxcsr, 4);
	if (rng_below(rng, 2))
		bv &= rng64(rng);
	if (rng_one_in(rng, 32))
		bv |= BIT(absent[rng_below(rng, ARRAY_SIZE(absent))]);
	if (rng_below(rng, 2))
		comp = BIT(63) | bv | (rng64(rng) & STATE_XCR0);
	if (rng_one_in(rng, 16))
		comp ^= BIT(absent[rng_below(rng, ARRAY_SIZE(absent))]);
	memcpy(image + XSAVE_XSTATE_BV, &bv, 8);
	memcpy(image + XSAVE_XCOMP_BV, &comp, 8);
	if (rng_one_in(rng, 16))
		image[528 + rng_below(rng, 48)] = 1;
	if (rng_one_in(rng, 16))
		image[XSAVE_MXCSR + 2] = 1;
	box_poke(b, lin, image, sizeof(image));
	(void)t;
}

static void special_xsave(struct box *b, struct rng *rng, struct test *t,
			  const struct placed *p)
{
	const ZydisDecodedOperand *m = memory_operand(t);

	if (!m)
		return;
	/* Of the components only those that both sides have. */
	t->start.gpr[RAX] = rng_below(rng, 2) ? STATE_XCR0 : rng64(rng) & STATE_XCR0;
	t->start.gpr[RDX] = 0;
	poke_xsave_image(b, rng, t, p->lin[m - t->d.op]);
}

/* Its mask is in EDX:EAX, which therefore are no good for the address. */
static bool mask_is_address(const struct test *t)
{
	const ZydisDecodedOperand *m = memory_operand(t);

	if (!m || (t->d.zi.meta.category != ZYDIS_CATEGORY_XSAVE &&
		   t->d.zi.meta.category != ZYDIS_CATEGORY_XSAVEOPT))
		return false;
	for (unsigned i = 0; i < 2; i++) {
		ZydisRegister r = i ? m->mem.index : m->mem.base;

		if (r != ZYDIS_REGISTER_NONE && r != ZYDIS_REGISTER_RIP &&
		    r != ZYDIS_REGISTER_EIP && (gpr_of(r) == RAX || gpr_of(r) == RDX))
			return true;
	}
	return false;
}

static void special_divide(struct rng *rng, struct test *t)
{
	unsigned size = t->d.zi.operand_width / 8;

	if (rng_one_in(rng, 4))
		return;
	if (size == 1) {
		t->start.gpr[RAX] =
			(t->start.gpr[RAX] & ~0xffffull) | (u16)(i16)(i8)rng64(rng);
		return;
	}
	t->start.gpr[RDX] = rng_below(rng, 2) ? 0 : (u64) - (i64)rng_below(rng, 3);
}

static void special_counts(struct rng *rng, struct test *t)
{
	u64 mask = size_mask(t->d.zi.address_width / 8);

	if (rng_below(rng, 16))
		t->start.gpr[RCX] = (t->start.gpr[RCX] & ~mask) |
				    rng_below(rng, rng_below(rng, 2) ? 4 : 60);
}

/* Selector operands: in a register or in memory. */
static void special_selector(struct box *b, struct rng *rng, struct test *t,
			     const struct placed *p)
{
	for (unsigned i = 0; i < t->d.zi.operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &t->d.op[i];
		u16 sel = gen_data_selector(rng);

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) &&
		    ZydisRegisterGetClass(o->reg.value) != ZYDIS_REGCLASS_SEGMENT)
			t->start.gpr[gpr_of(o->reg.value)] =
				(t->start.gpr[gpr_of(o->reg.value)] & ~0xffffull) | sel;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && p->lin[i])
			box_poke(b, p->lin[i], &sel, 2);
	}
}

static void special_relative(struct rng *rng, struct test *t)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct ZydisDecodedInstructionRawImm_ *imm = &t->d.zi.raw.imm[i];

		if (imm->size && imm->is_relative)
			patch(t, imm->offset, gen_code_target(rng, t) - t->at - t->len,
			      imm->size);
	}
}

static bool is_far(const struct test *t)
{
	return t->d.zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

/*
 * From compatibility to 64-bit code the push is with all of RSP. On a stack of the LDT
 * its upper half, which AMD's CPUs keep, is an address of the host's kernel (espfix). It
 * takes the page fault in such code for erratum 100 of the K8, and tries again for ever.
 */
static u16 far_selector(struct rng *rng, const struct test *t)
{
	u16 sel = gen_code_selector(rng);

	if (host_is_amd() && t->d.zi.mnemonic == ZYDIS_MNEMONIC_CALL &&
	    t->mode != MODE64 && (t->start.sel[SS] & 4) && (sel | 3) == SEL_CS64)
		return SEL_CS32;
	return sel;
}

/* JMP, CALL with a register, memory or far pointer operand. */
static void special_indirect(struct box *b, struct rng *rng, struct test *t,
			     const struct placed *p)
{
	const ZydisDecodedOperand *o = &t->d.op[0];
	u64 target = code_offset(t->start.sel[CS], gen_code_target(rng, t));
	u16 sel;

	if (rng_one_in(rng, 16))
		target = (1ull << 47) + rng_below(rng, 100);
	if (rng_one_in(rng, 16))
		target = RW_BASE + rng_below(rng, 0x1000);
	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER: set_gpr(&t->start, o->reg.value, target); break;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (!p->lin[0])
			break;
		if (!is_far(t)) {
			box_poke(b, p->lin[0], &target, o->size / 8);
			break;
		}
		sel = far_selector(rng, t);
		target = code_offset(sel, gen_code_target(rng, t));
		box_poke(b, p->lin[0], &target, o->size / 8 - 2);
		box_poke(b, p->lin[0] + o->size / 8 - 2, &sel, 2);
		break;
	case ZYDIS_OPERAND_TYPE_POINTER:
		sel = far_selector(rng, t);
		target = code_offset(sel, gen_code_target(rng, t));
		patch(t, t->d.zi.raw.imm[0].offset, target, t->d.zi.raw.imm[0].size);
		patch(t, t->d.zi.raw.imm[1].offset, sel, 16);
		break;
	default: break;
	}
}

static void special_return(struct box *b, struct rng *rng, struct test *t)
{
	u64 base = t->mode == MODE64 ? 0 : sel_base(t->start.sel[SS]);
	u64 lin = t->start.gpr[RSP] + base, target;
	unsigned size = t->d.zi.operand_width / 8;

	if (t->d.zi.meta.category == ZYDIS_CATEGORY_RET && !is_far(t) &&
	    t->d.zi.mnemonic == ZYDIS_MNEMONIC_RET) {
		target = code_offset(t->start.sel[CS], gen_code_target(rng, t));
		if (rng_one_in(rng, 16))
			target = 1ull << 47;
		box_poke(b, lin, &target, size);
		return;
	}
	poke_frame(b, rng, t, lin, size, t->d.zi.mnemonic != ZYDIS_MNEMONIC_RET);
}

static void special_enter(struct rng *rng, struct test *t)
{
	if (rng_below(rng, 4)) {
		patch(t, t->d.zi.raw.imm[0].offset, rng_below(rng, 0x800), 16);
		patch(t, t->d.zi.raw.imm[1].offset, rng_below(rng, 6), 8);
	}
}

static void special_loads(struct box *b, struct rng *rng, struct test *t,
			  const struct placed *p)
{
	const ZydisDecodedOperand *m = memory_operand(t);
	u64 lin = m ? p->lin[m - t->d.op] : 0;
	u32 mxcsr = (u32)rng64(rng) & 0xffff;
	u64 offset = rng64(rng);
	u16 sel = gen_data_selector(rng);

	if (!lin)
		return;
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		if (rng_below(rng, 4))
			box_poke(b, lin, &mxcsr, 4);
		break;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64: poke_xsave_image(b, rng, t, lin); break;
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
		box_poke(b, lin, &offset, m->size / 8 - 2);
		box_poke(b, lin + m->size / 8 - 2, &sel, 2);
		break;
	default: break;
	}
}

static void special_popf(struct box *b, struct rng *rng, struct test *t)
{
	u64 base = t->mode == MODE64 ? 0 : sel_base(t->start.sel[SS]);
	u64 flags = rng64(rng) & 0x3f7fd7;

	if (rng_below(rng, 8))
		flags &= ~(u64)RFLAGS_TF;
	box_poke(b, t->start.gpr[RSP] + base, &flags, 8);
}

/* What memory operands hold is as varied as registers. */
static void fill_operands(struct box *b, struct rng *rng, const struct test *t,
			  const struct placed *p)
{
	u8 data[64];

	for (unsigned i = 0; i < t->d.zi.operand_count; i++) {
		if (!p->lin[i] || t->d.op[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		gen_elements(rng, data, 64);
		if (t->d.op[i].size == 80) {
			u8 x[576];

			gen_x87(rng, x);
			memcpy(data, x + XSAVE_ST, 10);
		}
		box_poke(b, p->lin[i], data, MIN(64u, operand_bytes(t, &t->d.op[i])));
	}
}

static void special(struct box *b, struct rng *rng, struct test *t,
		    const struct placed *p)
{
	const ZydisDecodedInstruction *zi = &t->d.zi;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV: special_divide(rng, t); return;
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_ARPL: special_selector(b, rng, t, p); return;
	case ZYDIS_MNEMONIC_MOV:
		if (zi->opcode == 0x8e)
			special_selector(b, rng, t, p);
		return;
	case ZYDIS_MNEMONIC_POP:
		if (t->d.op[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(t->d.op[0].reg.value) ==
			    ZYDIS_REGCLASS_SEGMENT) {
			u64 sel = gen_data_selector(rng);

			box_poke(b,
				 t->start.gpr[RSP] +
					 (t->mode == MODE64 ? 0
							    : sel_base(t->start.sel[SS])),
				 &sel, zi->operand_width / 8);
		}
		return;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ: special_popf(b, rng, t); return;
	case ZYDIS_MNEMONIC_ENTER: special_enter(rng, t); return;
	case ZYDIS_MNEMONIC_XGETBV: vex_hint(t, RCX, rng_below(rng, 2)); return;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_RET: special_return(b, rng, t); return;
	case ZYDIS_MNEMONIC_XLAT: /* [rBX + AL]: AL was not solved for */
		t->start.gpr[RBX] -= (u8)t->start.gpr[RAX];
		return;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		set_gpr(&t->start, t->d.op[0].reg.value,
			gen_target(rng, t, 64, true) -
				(t->mode == MODE64 ? 0 : sel_base(t->start.sel[ES])));
		return;
	default: break;
	}
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT: special_xsave(b, rng, t, p); break;
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
		special_counts(rng, t);
		special_relative(rng, t);
		if (!t->d.zi.raw.imm[0].is_relative)
			special_indirect(b, rng, t, p);
		break;
	case ZYDIS_CATEGORY_STRINGOP:
	case ZYDIS_CATEGORY_IOSTRINGOP: special_counts(rng, t); break;
	default: special_loads(b, rng, t, p); break;
	}
}

/* Registers that decide where a bit string's bit is. */
static bool limit_bit_offset(struct rng *rng, struct test *t)
{
	const ZydisDecodedOperand *m = &t->d.op[0];
	unsigned reg = gpr_of(t->d.op[1].reg.value);

	if ((m->mem.base != ZYDIS_REGISTER_NONE && m->mem.base != ZYDIS_REGISTER_RIP &&
	     m->mem.base != ZYDIS_REGISTER_EIP && gpr_of(m->mem.base) == reg) ||
	    (m->mem.index != ZYDIS_REGISTER_NONE && gpr_of(m->mem.index) == reg))
		return false;
	t->start.gpr[reg] = (u64)(i64)((i32)rng_below(rng, 20000) - 10000);
	return true;
}

/* ---- a test ---- */

#define SLOT_SIZE 512
#define SLOTS     (CODE_SIZE / SLOT_SIZE)

/* Where the code goes: a slot of its own, now and then the end of the code pages. */
static void choose_place(struct box *b, struct rng *rng, struct test *t)
{
	u8 int3[SLOT_SIZE];

	memset(int3, 0xcc, sizeof(int3));
	b->slot = (b->slot + 1) % SLOTS;
	t->at = ARENA + b->slot * SLOT_SIZE + SLOT_SIZE / 2;
	if (b->slot % 8 == 0)
		t->at = ARENA + b->slot * SLOT_SIZE + SLOT_SIZE - rng_below(rng, 16);
	if (t->at + 256 > ARENA + CODE_SIZE)
		t->at = ARENA + CODE_SIZE - 256;
	if (rng_one_in(rng, 64))
		t->at = ARENA + CODE_SIZE - rng_below(rng, t->len + 2);
	box_poke(b, t->at & ~(u64)(SLOT_SIZE - 1), int3, sizeof(int3));
	if ((t->at & (SLOT_SIZE - 1)) > SLOT_SIZE / 2 &&
	    t->at + SLOT_SIZE / 2 < ARENA + CODE_SIZE)
		box_poke(b, (t->at & ~(u64)(SLOT_SIZE - 1)) + SLOT_SIZE, int3,
			 sizeof(int3));
	t->start.rip = t->at - sel_base(t->start.sel[CS]);
}

static bool forbidden(const struct test *t)
{
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_INT:
		/* System calls of the host. */
		return t->code[t->len - 1] == 0x80;
	default: return false;
	}
}

/* Does an operand touch the end of the lower half of the address space? */
static bool at_edge(const struct test *t, const struct placed *p)
{
	for (unsigned i = 0; i < t->d.zi.operand_count; i++)
		if (p->lin[i] - ((UINT64_C(1) << 47) - 0x1000) < 0x2000)
			return true;
	return false;
}

bool gen_test(struct box *b, struct rng *rng, const struct form *f, struct test *t)
{
	struct placed p;

	t->form = f;
	t->mode = (enum mode)f->mode;
	t->own = f->cls == FORM_OWN;
	if (!gen_code(rng, f, t) || forbidden(t))
		return false;
	gen_state(rng, &t->start, t->mode);
	choose_place(b, rng, t);
	place_stack(rng, t);
	if ((bit_string(t) && !limit_bit_offset(rng, t)) || mask_is_address(t))
		return false;
	if (!place_operands(rng, t, &p))
		return false;
	t->edge = at_edge(t, &p);
	if (is_string(t) && rng_below(rng, 4) == 0)
		t->start.flags &= ~(u64)RFLAGS_DF;
	fill_operands(b, rng, t, &p);
	special(b, rng, t, &p);
	for (unsigned i = 0; i < t->len && t->at + i < ARENA + CODE_SIZE; i++)
		box_poke(b, t->at + i, &t->code[i], 1);
	/* What was patched in must not have made another instruction of it. */
	return form_decode(t->mode, t->code, t->len, &t->d) && t->d.zi.length == t->len;
}
