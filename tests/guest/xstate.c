/*
 * x87, MMX, SSE, AVX and the instructions that save them: which of CR0.EM, MP, TS,
 * CR4.OSFXSR, OSXSAVE and XCR0 makes each #UD or #NM; the XSAVE header; what is saved and
 * restored in both formats.
 *
 * SDM volume 1 sections 13.4 (area), 13.7 to 13.12 (instructions); volume 3 sections 2.5
 * and 6.15 (#UD, #NM); volume 2, exceptions of each; table 2-18 and on (VEX).
 */
#include "page.h"

static PAGED u8 code[4096];
static PAGED u8 area[4096], other[4096];

enum kind {
	K_NONE,  /* none of the bits matters */
	K_X87,   /* #NM by EM or TS */
	K_WAIT,  /* #NM by MP and TS */
	K_MMX,   /* #UD by EM, #NM by TS */
	K_SSE,   /* #UD by EM or without OSFXSR, #NM by TS */
	K_XSAVE, /* #UD without OSXSAVE, #NM by TS */
	K_XCR,   /* #UD without OSXSAVE */
	K_AVX,   /* #UD without OSXSAVE or XCR0.AVX, #NM by TS */
};

struct insn {
	const char *name;
	u8 code[6], len;
	enum kind kind;
	u8 align; /* of [BX]: #GP(0) */
	u32 leaf; /* CPUID: 0 is what every CPU here has */
	u8 reg, bit;
};

/* clang-format off */
static const struct insn insns[] = {
	{ "fld1",      { 0xd9, 0xe8 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fninit",    { 0xdb, 0xe3 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fnclex",    { 0xdb, 0xe2 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fnstsw ax", { 0xdf, 0xe0 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fnstcw",    { 0xd9, 0x3b }, 2, K_X87, 1, 0, 0, 0 },
	{ "fnstenv",   { 0xd9, 0x33 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fnsave",    { 0xdd, 0x33 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fst",       { 0xdd, 0x13 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fild",      { 0xdb, 0x03 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fcmovb",    { 0xda, 0xc1 }, 2, K_X87, 1, 0, 0, 0 },
	{ "fxsave",    { 0x0f, 0xae, 0x03 }, 3, K_X87, 16, 0, 0, 0 },
	{ "wait",      { 0x9b }, 1, K_WAIT, 1, 0, 0, 0 },
	{ "movq mm",   { 0x0f, 0x6f, 0x03 }, 3, K_MMX, 1, 0, 0, 0 },
	{ "paddb mm",  { 0x0f, 0xfc, 0xc1 }, 3, K_MMX, 1, 0, 0, 0 },
	{ "emms",      { 0x0f, 0x77 }, 2, K_MMX, 1, 0, 0, 0 },
	{ "movaps",    { 0x0f, 0x28, 0x03 }, 3, K_SSE, 16, 0, 0, 0 },
	{ "movaps st", { 0x0f, 0x29, 0x03 }, 3, K_SSE, 16, 0, 0, 0 },
	{ "movups",    { 0x0f, 0x10, 0x03 }, 3, K_SSE, 1, 0, 0, 0 },
	{ "movdqa",    { 0x66, 0x0f, 0x6f, 0x03 }, 4, K_SSE, 16, 0, 0, 0 },
	{ "movdqu",    { 0xf3, 0x0f, 0x6f, 0x03 }, 4, K_SSE, 1, 0, 0, 0 },
	{ "paddb",     { 0x66, 0x0f, 0xfc, 0x03 }, 4, K_SSE, 16, 0, 0, 0 },
	{ "addps",     { 0x0f, 0x58, 0x03 }, 3, K_SSE, 16, 0, 0, 0 },
	{ "movsd",     { 0xf2, 0x0f, 0x10, 0x03 }, 4, K_SSE, 1, 0, 0, 0 },
	{ "cvtsi2ss",  { 0xf3, 0x0f, 0x2a, 0xc0 }, 4, K_SSE, 1, 0, 0, 0 },
	{ "movntps",   { 0x0f, 0x2b, 0x03 }, 3, K_SSE, 16, 0, 0, 0 },
	{ "movd eax",  { 0x66, 0x0f, 0x7e, 0xc0 }, 4, K_SSE, 1, 0, 0, 0 },
	{ "stmxcsr",   { 0x0f, 0xae, 0x1b }, 3, K_SSE, 1, 0, 0, 0 },
	{ "ldmxcsr",   { 0x0f, 0xae, 0x13 }, 3, K_SSE, 1, 0, 0, 0 },
	{ "pshufb",    { 0x66, 0x0f, 0x38, 0x00, 0xc1 }, 5, K_SSE, 1, 1, 2, 9 },
	{ "pshufb mm", { 0x0f, 0x38, 0x00, 0xc1 }, 4, K_MMX, 1, 1, 2, 9 },
	{ "aesenc",    { 0x66, 0x0f, 0x38, 0xdc, 0xc1 }, 5, K_SSE, 1, 1, 2, 25 },
	{ "movnti",    { 0x0f, 0xc3, 0x03 }, 3, K_NONE, 1, 0, 0, 0 },
	{ "lfence",    { 0x0f, 0xae, 0xe8 }, 3, K_NONE, 1, 0, 0, 0 },
	{ "mfence",    { 0x0f, 0xae, 0xf0 }, 3, K_NONE, 1, 0, 0, 0 },
	{ "sfence",    { 0x0f, 0xae, 0xf8 }, 3, K_NONE, 1, 0, 0, 0 },
	{ "clflush",   { 0x0f, 0xae, 0x3b }, 3, K_NONE, 1, 0, 0, 0 },
	{ "prefetch",  { 0x0f, 0x18, 0x03 }, 3, K_NONE, 1, 0, 0, 0 },
	{ "pause",     { 0xf3, 0x90 }, 2, K_NONE, 1, 0, 0, 0 },
	{ "popcnt",    { 0xf3, 0x0f, 0xb8, 0xc0 }, 4, K_NONE, 1, 1, 2, 23 },
	{ "crc32",     { 0xf2, 0x0f, 0x38, 0xf1, 0xc0 }, 5, K_NONE, 1, 1, 2, 20 },
	{ "xsave",     { 0x0f, 0xae, 0x23 }, 3, K_XSAVE, 64, 1, 2, 26 },
	{ "xrstor",    { 0x0f, 0xae, 0x2b }, 3, K_XSAVE, 64, 1, 2, 26 },
	{ "xsaveopt",  { 0x0f, 0xae, 0x33 }, 3, K_XSAVE, 64, 0xd, 0, 0 },
	{ "xsavec",    { 0x0f, 0xc7, 0x23 }, 3, K_XSAVE, 64, 0xd, 0, 1 },
	{ "xsaves",    { 0x0f, 0xc7, 0x2b }, 3, K_XSAVE, 64, 0xd, 0, 3 },
	{ "xgetbv",    { 0x0f, 0x01, 0xd0 }, 3, K_XCR, 1, 1, 2, 26 },
	{ "vaddps",    { 0xc5, 0xf4, 0x58, 0xc1 }, 4, K_AVX, 1, 1, 2, 28 },
	{ "vmovaps",   { 0xc5, 0xfc, 0x28, 0x03 }, 4, K_AVX, 32, 1, 2, 28 },
	{ "vmovups",   { 0xc5, 0xfc, 0x10, 0x03 }, 4, K_AVX, 1, 1, 2, 28 },
	{ "vzeroupper", { 0xc5, 0xf8, 0x77 }, 3, K_AVX, 1, 1, 2, 28 },
	{ "vpaddb",    { 0xc5, 0xf5, 0xfc, 0x03 }, 4, K_AVX, 1, 7, 1, 5 },
};
/* clang-format on */

static void fill_area(u8 *a, u8 val, word n)
{
	__asm__ volatile("rep stosb" : "+D"(a), "+c"(n) : "a"(val) : "memory");
}

struct bits {
	bool em, mp, ts, osfxsr, osxsave, avx;
	unsigned off;
};

static bool offered(const struct insn *in)
{
	struct cpuid c = cpuid(in->leaf, in->leaf == 0xd);
	const u32 r[] = { c.a, c.b, c.c, c.d };

	if (!in->leaf)
		return true;
	if (in->leaf == 0xd && !HAS_XSAVE)
		return false;
	return r[in->reg] >> in->bit & 1;
}

static word oracle(const struct insn *in, const struct bits *b)
{
	bool ud = !offered(in), nm = b->ts;

	switch (in->kind) {
	case K_NONE:
	case K_XCR:
		nm = false;
		ud |= in->kind == K_XCR && !b->osxsave;
		break;
	case K_X87: nm |= b->em; break;
	case K_WAIT: nm &= b->mp; break;
	case K_MMX: ud |= b->em; break;
	case K_SSE: ud |= b->em || !b->osfxsr; break;
	case K_XSAVE: ud |= !b->osxsave; break;
	case K_AVX: ud |= !b->osxsave || !b->avx; break;
	}
	if (ud)
		return UD;
	if (nm)
		return NM;
	return b->off % in->align ? GP : NONE;
}

/* Each instruction has its place in 'code', so that none has to be written again. */
#define PLACE 16

static void put_code(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
		volatile u8 *p = code + PLACE * i;

		for (unsigned k = 0; k < insns[i].len; k++)
			p[k] = insns[i].code[k];
		p[insns[i].len] = 0xc3;
	}
}

static void try_insn(unsigned i, const struct bits *b)
{
	const struct insn *in = &insns[i];
	word expected = oracle(in, b), at = (word)code + PLACE * i;

	/* A row for each instruction and each way that it ends. */
	row("%s %s", in->name,
	    expected == UD   ? "is #UD"
	    : expected == NM ? "is #NM"
	    : expected == GP ? "is #GP"
			     : "runs");
	fill_area(area, 0, 1024);
	*(volatile u32 *)(area + b->off) = 0x1f80;
	*(volatile u32 *)(area + 24) = 0x1f80;
	TRY("", "call *%0",
	    :
	    : "S"(at), "a"(3), "b"(area + b->off), "c"(0l), "d"(0)
	    : "memory", "cc");
	checked();
	if (trap.vector != expected || (trap.vector != NONE && trap.ip != at) ||
	    trap.error)
		fail("%s + %u em %u mp %u ts %u osfxsr %u osxsave %u avx %u: vector %lx "
		     "error %lx, want %lx",
		     in->name, b->off, b->em, b->mp, b->ts, b->osfxsr, b->osxsave, b->avx,
		     trap.vector, trap.error, expected);
}

static void set_bits(const struct bits *b, word cr0, word cr4)
{
	if (b->osxsave) {
		write_cr4(cr4 | BIT(18));
		__asm__ volatile("xsetbv" : : "c"(0), "a"(b->avx ? 7 : 3), "d"(0));
	}
	write_cr4(cr4 | (b->osfxsr ? BIT(9) : 0) | (b->osxsave ? BIT(18) : 0));
	write_cr0((cr0 & ~(word)0xe) | b->mp << 1 | b->em << 2 | b->ts << 3);
}

static void control_bits(void)
{
	bool has_avx = HAS(1, 0, c, 28);
	word cr0, cr4 = read_cr4();

	__asm__ volatile("clts; fninit");
	cr0 = read_cr0();
	put_code();
	for (unsigned n = 0; n < 128 && !failed(); n++) {
		struct bits b = { .em = n & 1,
				  .mp = n & 2,
				  .ts = n & 4,
				  .osfxsr = n & 8,
				  .osxsave = n & 16,
				  .avx = (n & 32) && has_avx,
				  .off = n & 64 ? 8 : 0 };

		if (b.osxsave && !HAS_XSAVE)
			continue;
		set_bits(&b, cr0, cr4);
		for (unsigned i = 0; i < ARRAY_SIZE(insns) && !failed(); i++)
			try_insn(i, &b);
		write_cr0(cr0);
		write_cr4(cr4);
	}
	__asm__ volatile("fninit");
}

/* ---- the header of XRSTOR ---- */

static u64 components(void)
{
	struct cpuid d = cpuid(0xd, 0);

	return d.a | (u64)d.d << 32;
}

static bool xsave_on(void)
{
	if (!HAS_XSAVE) {
		skip("no XSAVE");
		return false;
	}
	__asm__ volatile("clts");
	write_cr4(read_cr4() | BIT(18) | BIT(9) | BIT(10));
	__asm__ volatile("xsetbv" : : "c"(0), "a"((u32)components()), "d"(0));
	return true;
}

static void xsave_off(void)
{
	__asm__ volatile("fninit");
	__asm__ volatile("xsetbv" : : "c"(0), "a"(1), "d"(0));
	write_cr4(read_cr4() & ~(word)(BIT(18) | BIT(9) | BIT(10)));
}

static void clear_area(u8 *a)
{
	fill_area(a, 0, 4096);
	*(volatile u32 *)(a + 24) = 0x1f80;
}

static void xrstor_header(void)
{
	bool compact = HAS(0xd, 1, a, 1);
	u64 has = components();

	if (!xsave_on())
		return;
	has = components();
	/* SDM 1 13.8.1: standard form. Bytes 8 to 23 are 0, XSTATE_BV within XCR0. */
	for (unsigned n = 0; n < 64 * 8; n++) {
		bool ok = n < 64 ? has >> n & 1 : n >= 192;

		row(n < 64    ? "standard form, XSTATE_BV"
		    : n < 128 ? "standard form, XCOMP_BV"
		    : n < 192 ? "standard form, bytes 16 to 23"
			      : "standard form, bytes 24 to 63");
		/* XCOMP_BV with bit 63 is the compacted form. */
		if (n == 127)
			continue;
		clear_area(area);
		area[512 + n / 8] = (u8)(1 << (n & 7));
		TRY("", "xrstor (%0)", : : "r"(area), "a"(-1), "d"(-1) : "memory");
		if (ok)
			want_none();
		else
			want_fault(GP, 0);
	}
	/* 13.8.2: compacted form. XCOMP_BV within XCR0, XSTATE_BV within XCOMP_BV, and
	 * bytes 16 to 63 are 0. */
	for (unsigned n = 0; n < 64 * 8 && compact; n++) {
		bool ok = n < 64 ? has >> n & 1 : n < 127 ? has >> (n - 64) & 1 : false;

		row(n < 64    ? "compacted form, XSTATE_BV"
		    : n < 128 ? "compacted form, XCOMP_BV"
			      : "compacted form, bytes 16 to 63");
		if (n == 127)
			continue;
		clear_area(area);
		area[512 + 15] = 0x80;
		if (n < 64 && ok)
			area[512 + 8 + n / 8] |= (u8)(1 << (n & 7));
		area[512 + n / 8] |= (u8)(1 << (n & 7));
		TRY("", "xrstor (%0)", : : "r"(area), "a"(-1), "d"(-1) : "memory");
		if (ok)
			want_none();
		else
			want_fault(GP, 0);
		/* In XSTATE_BV and not in XCOMP_BV. */
		if (n >= 64 || !ok)
			continue;
		area[512 + 8 + n / 8] &= (u8) ~(1 << (n & 7));
		TRY("", "xrstor (%0)", : : "r"(area), "a"(-1), "d"(-1) : "memory");
		want_fault(GP, 0);
	}
	if (!compact) {
		clear_area(area);
		area[512 + 15] = 0x80;
		TRY("", "xrstor (%0)", : : "r"(area), "a"(-1), "d"(-1) : "memory");
		want_fault(GP, 0);
	}
	/* MXCSR's reserved bits: when SSE or AVX is asked for, in use or not. */
	for (unsigned n = 0; n < 32; n++)
		for (unsigned rfbm = 0; rfbm < 4; rfbm++) {
			bool ok = n < 16 || !(rfbm & 2);

			row("MXCSR, RFBM %u", rfbm);
			clear_area(area);
			*(volatile u32 *)(area + 24) = 1u << n;
			*(volatile u64 *)(area + 512) = rfbm & 1 ? 3 : 0;
			TRY("", "xrstor (%0)",
			    :
			    : "r"(area), "a"(rfbm), "d"(0)
			    : "memory");
			if (ok)
				want_none();
			else
				want_fault(GP, 0);
			TRY("", "ldmxcsr (%0)", : : "r"(area + 24) : "memory");
			if (n < 16)
				want_none();
			else
				want_fault(GP, 0);
		}
	clear_area(area);
	__asm__ volatile("ldmxcsr (%0)" : : "r"(area + 24));
	xsave_off();
}

/* ---- what is saved ---- */

/* Known values: ST0, XMM1, and the upper half of YMM1 where there is one. */
static void fill(bool avx)
{
	for (unsigned i = 0; i < 32; i++)
		((volatile u8 *)other)[i] = (u8)(0x40 + i);
	__asm__ volatile("fninit; fld1");
	if (avx)
		__asm__ volatile("vmovups (%0), %%ymm1" : : "r"(other));
	else
		__asm__ volatile("movups (%0), %%xmm1" : : "r"(other));
}

static void save(unsigned how, u32 rfbm)
{
	switch (how) {
	case 0: __asm__ volatile("xsave (%0)" : : "r"(area), "a"(rfbm), "d"(0)); break;
	case 1: __asm__ volatile("xsaveopt (%0)" : : "r"(area), "a"(rfbm), "d"(0)); break;
	case 2: __asm__ volatile("xsavec (%0)" : : "r"(area), "a"(rfbm), "d"(0)); break;
	default: __asm__ volatile("xsaves (%0)" : : "r"(area), "a"(rfbm), "d"(0)); break;
	}
}

/* SDM 1 13.7 to 13.11, each way with each RFBM of three bits. */
static void saved(void)
{
	bool avx = HAS(1, 0, c, 28);

	if (!xsave_on())
		return;
	for (unsigned n = 0; n < 4 * 8 && !failed(); n++) {
		unsigned how = n & 3, rfbm = n >> 2;
		unsigned ymm = how < 2 ? cpuid(0xd, 2).b : 576;
		u64 bv;

		if (how && !HAS(0xd, 1, a, how == 1 ? 0 : how == 2 ? 1 : 3))
			continue;
		if (!avx)
			rfbm &= 3;
		row(how == 0   ? "XSAVE, RFBM %u"
		    : how == 1 ? "XSAVEOPT, RFBM %u"
		    : how == 2 ? "XSAVEC, RFBM %u"
			       : "XSAVES, RFBM %u",
		    rfbm);
		fill_area(area, 0xee, 4096);
		*(volatile u64 *)(area + 512) = BIT(2) | BIT(1) | BIT(0);
		fill(avx);
		save(how, rfbm);
		bv = *(volatile u64 *)(area + 512);
		/* Standard forms keep the bits that were not asked for. */
		if (how < 2)
			want_equal(bv & 7, avx ? 7u : rfbm & 4 ? 3 : 7u);
		else
			want_equal(bv & 7, rfbm & 7);
		if (how >= 2)
			want_equal(*(volatile u64 *)(area + 520), BIT(63) | rfbm);
		else
			want_equal(*(volatile u64 *)(area + 520), 0xeeeeeeeeeeeeeeee);
		/* ST0 is 1.0; XMM1; the upper half of YMM1. */
		want_equal(*(volatile u64 *)(area + 32),
			   rfbm & 1 ? 0x8000000000000000 : 0xeeeeeeeeeeeeeeee);
		want_equal(area[176], rfbm & 2 ? 0x40u : 0xeeu);
		if (avx)
			want_equal(area[ymm + 16], rfbm & 4 ? 0x50u : 0xeeu);
		/* MXCSR with SSE, and in the standard form with AVX. */
		want_equal(*(volatile u32 *)(area + 24),
			   (rfbm & 2) || ((rfbm & 4) && how < 2) ? 0x1f80u : 0xeeeeeeee);
	}
	xsave_off();
}

/* SDM 1 10.5.1: MXCSR_MASK, and that the rest of the image is left alone. */
static void fxsave_image(void)
{
	fill_area(area, 0xee, 4096);
	write_cr4(read_cr4() | BIT(9));
	__asm__ volatile("fninit; fxsave (%0)" : : "r"(area) : "memory");
	want_equal(*(volatile u16 *)area, 0x37f);
	want_equal(*(volatile u32 *)(area + 24), 0x1f80);
	want_equal(*(volatile u16 *)(area + 28), 0xffff);
	want_equal(area[4], 0);
	want_equal(area[464], 0xee);
	want_equal(area[511], 0xee);
	want_equal(area[512], 0xee);
	write_cr4(read_cr4() & ~(word)BIT(9));
}

/* What is not in XSTATE_BV becomes its initial state, what is not in RFBM stays. */
static void restored(void)
{
	bool avx = HAS(1, 0, c, 28);

	if (!xsave_on())
		return;
	for (unsigned n = 0; n < 64 && !failed(); n++) {
		unsigned rfbm = n & 7, bv = n >> 3, ymm = cpuid(0xd, 2).b;
		u16 fcw;

		if (!avx && ((rfbm | bv) & 4))
			continue;
		clear_area(area);
		*(volatile u64 *)(area + 512) = bv;
		*(volatile u16 *)area = 0x27f; /* FCW */
		for (unsigned i = 0; i < 16; i++) {
			((volatile u8 *)area)[176 + i] = 0x77;
			((volatile u8 *)area)[ymm + 16 + i] = 0x66;
		}
		fill(avx);
		TRY("", "xrstor (%0)", : : "r"(area), "a"(rfbm), "d"(0) : "memory");
		want_none();
		__asm__ volatile("fnstcw %0" : "=m"(fcw));
		want_equal(fcw, !(rfbm & 1) || !(bv & 1) ? 0x37f : 0x27f);
		if (avx)
			__asm__ volatile("vmovups %%ymm1, (%0)"
					 :
					 : "r"(other)
					 : "memory");
		else
			__asm__ volatile("movups %%xmm1, (%0)" : : "r"(other) : "memory");
		want_equal(((volatile u8 *)other)[0], !(rfbm & 2) ? 0x40
						      : bv & 2    ? 0x77
								  : 0u);
		if (avx)
			want_equal(((volatile u8 *)other)[16], !(rfbm & 4) ? 0x50
							       : bv & 4    ? 0x66
									   : 0u);
	}
	xsave_off();
}

/* ---- the supervisor forms: SDM 1 13.11, 13.12 ---- */

static word supervisor_user(word which)
{
	u8 *a = (u8 *)USER(area);

	if (which)
		return TRY("", "xrstors (%0)", : : "r"(a), "a"(3), "d"(0) : "memory");
	return TRY("", "xsaves (%0)", : : "r"(a), "a"(3), "d"(0) : "memory");
}

static word xrstors(void)
{
	return TRY("", "xrstors (%0)", : : "r"(area), "a"(-1), "d"(-1) : "memory");
}

static void xsaves_xrstors(void)
{
	u64 has, v;

	if (!HAS_XSAVE || !HAS(0xd, 1, a, 3)) {
		skip("no XSAVES");
		return;
	}
	xsave_on();
	has = components();
	row("XSAVES at CPL 3");
	want_equal(user_run(supervisor_user, 0), GP);
	row("XRSTORS at CPL 3");
	want_equal(user_run(supervisor_user, 1), GP);
	row("XRSTORS of the standard form");
	clear_area(area);
	want_equal(xrstors(), GP);
	row("XRSTORS, XCOMP_BV within XCR0 and IA32_XSS");
	for (unsigned n = 0; n < 63; n++) {
		clear_area(area);
		*(volatile u64 *)(area + 520) = BIT(63) | BIT(n);
		want_equal(xrstors(), has >> n & 1 ? NONE : GP);
	}
	row("XRSTORS, XSTATE_BV within XCOMP_BV");
	for (unsigned n = 0; n < 63; n++) {
		if (!(has >> n & 1))
			continue;
		clear_area(area);
		*(volatile u64 *)(area + 512) = BIT(n);
		*(volatile u64 *)(area + 520) = BIT(63) | (BIT(n == 0));
		want_equal(xrstors(), GP);
	}
	row("XRSTORS, the rest of the header");
	for (unsigned n = 128; n < 512; n++) {
		clear_area(area);
		area[512 + 15] = 0x80;
		area[512 + n / 8] |= (u8)(1 << (n & 7));
		want_equal(xrstors(), GP);
	}
	row("XRSTORS, alignment");
	TRY("", "xrstors (%0)", : : "r"(area + 8), "a"(3), "d"(0) : "memory");
	want_fault(GP, 0);
	row("XSAVES, alignment");
	TRY("", "xsaves (%0)", : : "r"(area + 16), "a"(3), "d"(0) : "memory");
	want_fault(GP, 0);
	row("XSAVES, then XRSTORS");
	fill(HAS(1, 0, c, 28));
	clear_area(area);
	__asm__ volatile("xsaves (%0)" : : "r"(area), "a"(3), "d"(0) : "memory");
	__asm__ volatile("fninit; pxor %%xmm1, %%xmm1" : : :);
	want_equal(xrstors(), NONE);
	__asm__ volatile("movups %%xmm1, (%0)" : : "r"(other + 64) : "memory");
	want_equal(((volatile u8 *)other)[64], 0x40);
	row("IA32_XSS has the components of the leaf alone");
	want_equal(try_rdmsr(0xda0, &v), NONE);
	want_equal(v, 0);
	for (unsigned n = 0; n < 64; n++) {
		struct cpuid c = cpuid(0xd, 1);
		u64 ok = c.c | (u64)c.d << 32;

		want_equal(try_wrmsr(0xda0, BIT(n)), ok >> n & 1 ? NONE : GP);
		wrmsr(0xda0, 0);
	}
	xsave_off();
}

#if W64
/* A fault in the middle of the area leaves it as it was, or the registers. */
static void page_faults(void)
{
	paging_on(PAGING_4, true);
	if (!xsave_on())
		return;
	for (unsigned off = 64; off < 832; off += 64) {
		word at;

		path_set(3, TEST_PA, P | RW);
		at = path.va + 0x1000 - off;
		TRY("", "xsave (%0)", : : "r"(at), "a"(7), "d"(0) : "memory");
		/* In which order is not laid down; the header is looked at first here. */
		want_fault(PF, 2);
		want(trap.cr2 >= path.va + 0x1000 && trap.cr2 < at + 832);
		TRY("", "xrstor (%0)", : : "r"(at), "a"(7), "d"(0) : "memory");
		if (off <= 512 || trap.vector != NONE) {
			want_fault(PF, 0);
			want(trap.cr2 >= path.va + 0x1000 && trap.cr2 < at + 832);
		}
		if (off < 416) { /* the rest of its area is nobody's */
			TRY("", "fxsave (%0)", : : "r"(at) : "memory");
			want_fault(PF, 2);
			TRY("", "fxrstor (%0)", : : "r"(at) : "memory");
			want_fault(PF, 0);
			want(trap.cr2 >= path.va + 0x1000 && trap.cr2 < at + 832);
		}
	}
	xsave_off();
}
#endif

const struct test_case cases[] = {
	CASE(control_bits, "SDM 3 2.5"),
	CASE(xrstor_header, "SDM 1 13.8"),
	CASE(saved, "SDM 1 13.7"),
	CASE(restored, "SDM 1 13.8"),
	CASE(fxsave_image, "SDM 1 10.5.1"),
	CASE(xsaves_xrstors, "SDM 1 13.11, 13.12"),
#if W64
	CASE(page_faults, "SDM 1 13.4.4"),
#endif
	CASES_END,
};
