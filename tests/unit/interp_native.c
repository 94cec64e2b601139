/*
 * Native execution: each class of instruction against the same instruction executed
 * directly on the host CPU, and the faults that only a guest can have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "native_oracle.h"

enum need { BASE, AVX, AVX2, AVX512 };

static bool host_has(enum need n)
{
	switch (n) {
	case AVX: return __builtin_cpu_supports("avx");
	case AVX2:
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
		       __builtin_cpu_supports("bmi2");
	case AVX512:
		return __builtin_cpu_supports("avx512vbmi2") &&
		       __builtin_cpu_supports("avx512bw") &&
		       __builtin_cpu_supports("avx512dq") &&
		       __builtin_cpu_supports("avx512vl");
	default: return true;
	}
}

/* ---- against the host ---- */

struct sample {
	enum need need;
	const char *hex;
	const char *text;
};

/* Memory operands are [rsi] (or [rdi] where the instruction says so). */
static const struct sample samples[] = {
	{ BASE, "d9 c1", "fld st1" },
	{ BASE, "dd 06", "fld qword [rsi]" },
	{ BASE, "db 2e", "fld tbyte [rsi]" },
	{ BASE, "dd 1e", "fstp qword [rsi]" },
	{ BASE, "db 3e", "fstp tbyte [rsi]" },
	{ BASE, "df 3e", "fistp qword [rsi]" },
	{ BASE, "dd 0e", "fisttp qword [rsi]" },
	{ BASE, "d8 c1", "fadd st0, st1" },
	{ BASE, "de f1", "fdivp st1, st0" },
	{ BASE, "da 36", "fidiv dword [rsi]" },
	{ BASE, "d9 fa", "fsqrt" },
	{ BASE, "d9 f1", "fyl2x" },
	{ BASE, "db f1", "fcomi st0, st1" },
	{ BASE, "da c1", "fcmovb st0, st1" },
	{ BASE, "df e0", "fnstsw ax" },
	{ BASE, "d9 3e", "fnstcw [rsi]" },
	{ BASE, "d9 2e", "fldcw [rsi]" },
	{ BASE, "db e2", "fnclex" },
	{ BASE, "db e3", "fninit" },
	{ BASE, "9b", "fwait" },
	{ BASE, "0f 77", "emms" },
	{ BASE, "0f fe 06", "paddd mm0, [rsi]" },
	{ BASE, "0f f7 ca", "maskmovq mm1, mm2" },
	{ BASE, "0f c4 c1 02", "pinsrw mm0, ecx, 2" },
	{ BASE, "0f d7 c1", "pmovmskb eax, mm1" },
	{ BASE, "0f 2a 06", "cvtpi2ps xmm0, [rsi]" },
	{ BASE, "66 0f 2d 06", "cvtpd2pi mm0, [rsi]" },
	{ BASE, "0f 58 c1", "addps xmm0, xmm1" },
	{ BASE, "0f 5e 06", "divps xmm0, [rsi]" },
	{ BASE, "f3 0f 51 06", "sqrtss xmm0, [rsi]" },
	{ BASE, "0f 28 06", "movaps xmm0, [rsi]" },
	{ BASE, "0f 29 06", "movaps [rsi], xmm0" },
	{ BASE, "f3 44 0f 6f 16", "movdqu xmm10, [rsi]" },
	{ BASE, "66 0f e7 06", "movntdq [rsi], xmm0" },
	{ BASE, "66 0f f7 c1", "maskmovdqu xmm0, xmm1" },
	{ BASE, "66 49 0f 6e c3", "movq xmm0, r11" },
	{ BASE, "66 0f 7e c3", "movd ebx, xmm0" },
	{ BASE, "f2 4c 0f 2c f9", "cvttsd2si r15, xmm1" },
	{ BASE, "f2 0f 2d 06", "cvtsd2si eax, [rsi]" },
	{ BASE, "66 0f 2f 06", "comisd xmm0, [rsi]" },
	{ BASE, "66 0f 38 17 c1", "ptest xmm0, xmm1" },
	{ BASE, "66 0f 38 14 c1", "blendvps xmm0, xmm1" },
	{ BASE, "66 0f 3a 16 c2 01", "pextrd edx, xmm0, 1" },
	{ BASE, "66 48 0f 3a 22 06 01", "pinsrq xmm0, [rsi], 1" },
	{ BASE, "66 0f 3a 61 06 0c", "pcmpestri xmm0, [rsi], 0ch" },
	{ BASE, "66 0f 3a 62 c1 0c", "pcmpistrm xmm0, xmm1, 0ch" },
	{ BASE, "66 0f 3a 44 c1 10", "pclmulqdq xmm0, xmm1, 10h" },
	{ BASE, "66 0f 38 dc 06", "aesenc xmm0, [rsi]" },
	{ BASE, "f2 0f 38 f0 c4", "crc32 eax, ah" },
	{ BASE, "66 f2 0f 38 f1 c1", "crc32 eax, cx" },
	{ BASE, "f2 48 0f 38 f1 06", "crc32 rax, [rsi]" },
	{ BASE, "48 0f c3 06", "movnti [rsi], rax" },
	{ BASE, "0f ae 1e", "stmxcsr [rsi]" },
	{ BASE, "0f ae 16", "ldmxcsr [rsi]" },
	{ BASE, "66 48 0f 38 f6 c3", "adcx rax, rbx" },
	{ BASE, "f3 4c 0f 38 f6 06", "adox r8, [rsi]" },
	{ AVX, "c5 f8 77", "vzeroupper" },
	{ AVX, "c5 fc 77", "vzeroall" },
	{ AVX, "c5 f4 58 06", "vaddps ymm0, ymm1, [rsi]" },
	{ AVX, "c4 41 7d 28 c8", "vmovapd ymm9, ymm8" },
	{ AVX, "c5 fd 7f 06", "vmovdqa [rsi], ymm0" },
	{ AVX, "c4 e3 7d 4a c1 f0", "vblendvps ymm0, ymm0, ymm1, ymm15" },
	{ AVX, "c4 e2 71 2c 06", "vmaskmovps xmm0, xmm1, [rsi]" },
	{ AVX, "c4 e2 75 2f 06", "vmaskmovpd [rsi], ymm1, ymm0" },
	{ AVX, "c4 e2 7d 0e c1", "vtestps ymm0, ymm1" },
	{ AVX, "c5 f8 ae 1e", "vstmxcsr [rsi]" },
	{ AVX2, "c4 e2 f5 8c 06", "vpmaskmovq ymm0, ymm1, [rsi]" },
	{ AVX2, "c4 e2 7d 5a 06", "vbroadcasti128 ymm0, [rsi]" },
	{ AVX2, "c4 e2 f1 a8 06", "vfmadd213pd xmm0, xmm1, [rsi]" },
	{ AVX2, "c4 e3 7d 1d 06 00", "vcvtps2ph [rsi], ymm0, 0" },
	{ AVX2, "c4 e2 fb f6 06", "mulx rax, rax, [rsi]" },
	{ AVX2, "c4 62 b3 f6 d3", "mulx r10, r9, rbx" },
	{ AVX2, "c4 e2 70 f2 06", "andn eax, ecx, [rsi]" },
	{ AVX2, "c4 e2 f3 f5 c3", "pdep rax, rcx, rbx" },
	{ AVX2, "c4 e2 e8 f3 c9", "blsr rdx, rcx" },
	{ AVX512, "62 f1 7c 48 58 06", "vaddps zmm0, zmm0, [rsi]" },
	{ AVX512, "62 f1 7c 48 58 46 ff", "vaddps zmm0, zmm0, [rsi-64]" },
	{ AVX512, "62 f1 7c 58 58 46 10", "vaddps zmm0, zmm0, [rsi+64]{1to16}" },
	{ AVX512, "62 f1 7c 4a 58 06", "vaddps zmm0 {k2}, zmm0, [rsi]" },
	{ AVX512, "62 f1 7c da 58 06", "vaddps zmm0 {k2}{z}, zmm0, [rsi]{1to16}" },
	{ AVX512, "62 a1 7c 3a 58 d1", "vaddps zmm18 {k2}, zmm0, zmm17, {rd-sae}" },
	{ AVX512, "62 f1 7c 49 28 06", "vmovaps zmm0 {k1}, [rsi]" },
	{ AVX512, "62 e1 fe 49 7f 06", "vmovdqu64 [rsi] {k1}, zmm16" },
	{ AVX512, "62 f1 7f 29 7f 06", "vmovdqu8 [rsi] {k1}, ymm0" },
	{ AVX512, "62 f2 7d 49 88 06", "vexpandps zmm0 {k1}, [rsi]" },
	{ AVX512, "62 f2 7d 49 63 06", "vpcompressb [rsi] {k1}, zmm0" },
	{ AVX512, "62 f2 7d 49 33 06", "vpmovzxwd zmm0 {k1}, [rsi]" },
	{ AVX512, "62 f2 7e 4a 31 06", "vpmovdb [rsi] {k2}, zmm0" },
	{ AVX512, "62 f2 7d 49 50 06", "vpdpbusd zmm0 {k1}, zmm0, [rsi]" },
	{ AVX512, "62 f2 7d 49 00 06", "vpshufb zmm0 {k1}, zmm0, [rsi]" },
	{ AVX512, "62 f2 7d 49 5a 06", "vbroadcasti32x4 zmm0 {k1}, [rsi]" },
	{ AVX512, "62 f3 7d 49 1d 06 04", "vcvtps2ph [rsi] {k1}, zmm0, 4" },
	{ AVX512, "62 f3 7d 49 39 06 02", "vextracti32x4 [rsi] {k1}, zmm0, 2" },
	{ AVX512, "62 f1 7e 09 10 06", "vmovss xmm0 {k1}, [rsi]" },
	{ AVX512, "62 f1 7d 4a 76 0e", "vpcmpeqd k1 {k2}, zmm0, [rsi]" },
	{ AVX512, "c5 fb 93 c1", "kmovd eax, k1" },
	{ AVX512, "c5 f8 90 0e", "kmovw k1, [rsi]" },
	{ AVX512, "c4 e1 f8 98 c1", "kortestq k0, k1" },
};

/* Where the operand lies, page by page. */
enum place {
	INSIDE,
	ALIGNED,
	CROSSING,
	FIRST_MISSING,
	SECOND_MISSING,
	BEFORE_MISSING,
	PLACES
};

static void place_operand(struct regs *r, enum place p)
{
	u64 a = LIN_BASE + 0x2000;

	switch (p) {
	case INSIDE: a = LIN_BASE + 0x1000 + rnd() % 0xf00; break;
	case ALIGNED: a = LIN_BASE + 0x1000 + (rnd() % 32) * 64; break;
	case CROSSING: a -= rnd() % 64; break;
	case FIRST_MISSING:
		a -= rnd() % 64;
		r->mapped[1] = false;
		break;
	case SECOND_MISSING:
		a -= rnd() % 64;
		r->mapped[2] = false;
		break;
	default: a -= 64; r->mapped[2] = false;
	}
	r->gpr[RSI] = r->gpr[RDI] = a;
}

/*
 * For several accesses by one instruction the address of a page fault is exact to the
 * page only, and what is done before it is up to the processor.
 */
static bool same_page_fault(const struct outcome *out)
{
	return out->guest.trap == VEC_PF && out->host.trap == VEC_PF &&
	       out->guest.cr2 >> 12 == out->host.cr2 >> 12;
}

/* Half the time leave a few exceptions unmasked, and masks with few or no bits. */
static void vary(struct regs *r)
{
	u32 mxcsr;

	if (rnd() & 1) {
		memcpy(&mxcsr, r->xsave + XSAVE_MXCSR, 4);
		mxcsr &= ~(0x80u << (rnd() % 6));
		memcpy(r->xsave + XSAVE_MXCSR, &mxcsr, 4);
	}
	for (unsigned k = 0; k < 8 && (rnd() & 1); k++) {
		u64 m = rnd() & 1 ? rnd() & rnd() & rnd() : 0;

		memcpy(r->xsave + XSAVE_OPMASK + k * 8, &m, 8);
	}
}

static void run_sample(struct oracle *o, const struct sample *s)
{
	static struct outcome out;
	static struct regs start;
	u8 insn[15];
	unsigned len = hex_bytes(s->hex, insn);

	for (unsigned i = 0; i < PLACES * 12; i++) {
		const char *d;

		regs_random(&start);
		vary(&start);
		place_operand(&start, i % PLACES);
		d = compare(o, insn, len, &start, i / PLACES & 1, &out);
		if (d && !same_page_fault(&out))
			fail_msg("%s, place %u: %s", s->text, i % PLACES, d);
	}
}

static void native_equals_host(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(samples); i++)
		if (host_has(samples[i].need))
			run_sample(*state, &samples[i]);
}

/* ---- gather and scatter ---- */

struct indexed {
	enum need need;
	const char *hex; /* index in register 2, scale 1 */
	unsigned index_size;
};

static const struct indexed indexed[] = {
	{ AVX2, "c4 e2 65 90 04 16", 4 },      /* vpgatherdd ymm0, [rsi+ymm2], ymm3 */
	{ AVX2, "c4 e2 e5 90 04 16", 4 },      /* vpgatherdq ymm0, [rsi+xmm2], ymm3 */
	{ AVX2, "c4 e2 65 93 04 16", 8 },      /* vgatherqps xmm0, [rsi+ymm2], xmm3 */
	{ AVX2, "c4 e2 e1 93 04 16", 8 },      /* vgatherqpd xmm0, [rsi+xmm2], xmm3 */
	{ AVX512, "62 f2 7d 49 90 04 16", 4 }, /* vpgatherdd zmm0 {k1}, [rsi+zmm2] */
	{ AVX512, "62 f2 7d 49 91 04 16", 8 }, /* vpgatherqd ymm0 {k1}, [rsi+zmm2] */
	{ AVX512, "62 f2 fd 29 92 04 16", 4 }, /* vgatherdpd ymm0 {k1}, [rsi+xmm2] */
	{ AVX512, "62 f2 7d 49 a0 04 16", 4 }, /* vpscatterdd [rsi+zmm2] {k1}, zmm0 */
	{ AVX512, "62 f2 fd 49 a3 04 16", 8 }, /* vscatterqpd [rsi+zmm2] {k1}, zmm0 */
};

/* Indices that reach all pages of the test from LIN_BASE. */
static void set_indices(struct regs *r, unsigned size)
{
	u8 z[64];

	for (unsigned i = 0; i < 64; i += size) {
		u64 index = rnd() % (PAGES * 4096 - 8);

		memcpy(z + i, &index, size);
	}
	memcpy(r->xsave + XSAVE_XMM + 32, z, 16);
	memcpy(r->xsave + XSAVE_YMM + 32, z + 16, 16);
	memcpy(r->xsave + XSAVE_ZMM_HI256 + 64, z + 32, 32);
	r->gpr[RSI] = LIN_BASE;
}

static void gather_and_scatter_equal_host(void **state)
{
	static struct outcome out;
	static struct regs start;
	u8 insn[15];

	for (unsigned i = 0; i < ARRAY_SIZE(indexed); i++) {
		unsigned len = hex_bytes(indexed[i].hex, insn);

		for (unsigned k = 0; k < 40 && host_has(indexed[i].need); k++) {
			const char *d;

			regs_random(&start);
			set_indices(&start, indexed[i].index_size);
			start.mapped[rnd() % PAGES] = k & 1;
			d = compare(*state, insn, len, &start, k & 2, &out);
			if (d && !same_page_fault(&out))
				fail_msg("%s: %s", indexed[i].hex, d);
		}
	}
}

static void gather_fault_keeps_completed_elements(void **state)
{
	static const u32 index[8] = { 0, 4, 8, 0x1000, 12, 16, 20, 24 };
	struct oracle *o = *state;
	static struct regs r;
	u8 insn[15], before[32], mask[32];
	unsigned len = hex_bytes("c4 e2 65 90 04 16",
				 insn); /* vpgatherdd ymm0, [rsi+ymm2], ymm3 */

	if (!host_has(AVX2))
		skip();
	regs_random(&r);
	r.gpr[RSI] = LIN_BASE;
	r.mapped[1] = false;
	memcpy(r.xsave + XSAVE_XMM + 32, index, 16);
	memcpy(r.xsave + XSAVE_YMM + 32, index + 4, 16);
	memset(r.xsave + XSAVE_XMM + 48, 0xff, 16);
	memset(r.xsave + XSAVE_YMM + 48, 0xff, 16);
	memcpy(before, r.xsave + XSAVE_XMM, 16);
	assert_int_equal(guest_run(o, insn, len, &r, false), GUEST_RAN);
	assert_int_equal(r.trap, VEC_PF);
	assert_int_equal(r.cr2, LIN_BASE + 0x1000);
	/* Elements 0 to 2 are done, 3 to 7 are still to do. */
	assert_memory_equal(r.xsave + XSAVE_XMM, r.mem[0], 12);
	assert_memory_equal(r.xsave + XSAVE_XMM + 12, before + 12, 4);
	memset(mask, 0xff, sizeof(mask));
	memset(mask, 0, 12);
	assert_memory_equal(r.xsave + XSAVE_XMM + 48, mask, 16);
	assert_memory_equal(r.xsave + XSAVE_YMM + 48, mask + 16, 16);
	/* With the page there it goes on from where it was. */
	r.mapped[1] = true;
	assert_int_equal(guest_run(o, insn, len, &r, false), GUEST_RAN);
	assert_int_equal(r.trap, NO_TRAP);
	assert_memory_equal(r.xsave + XSAVE_XMM, r.mem[0], 12);
	assert_memory_equal(r.xsave + XSAVE_XMM + 12, r.mem[1], 4);
}

/* ---- faults ---- */

/* The vector that executing this raises in the vCPU's present mode, NO_TRAP, or
 * NO_FUNCTION.
 */
#define NO_FUNCTION 0x100u
static unsigned trap_of(struct oracle *o, const char *hex, struct regs *r)
{
	u8 insn[15];
	unsigned len = hex_bytes(hex, insn);

	if (guest_run(o, insn, len, r, false) != GUEST_RAN)
		return NO_FUNCTION;
	return r->trap;
}

static unsigned trap_random(struct oracle *o, const char *hex)
{
	static struct regs r;

	regs_random(&r);
	return trap_of(o, hex, &r);
}

static void rip_relative_operand_counts_from_the_next(void **state)
{
	/* movups xmm0, [rip + d]; vmovups zmm0, [rip + d], where disp32 is not scaled */
	static const char *const insn[] = { "0f 10 05", "62 f1 7c 48 10 05" };
	static struct regs r;
	char hex[64];

	for (unsigned i = 0; i < 1u + host_has(AVX512); i++) {
		u32 disp = (u32)(LIN_BASE + 0x1040 - CODE_LIN) - (i ? 10 : 7);

		regs_random(&r);
		snprintf(hex, sizeof(hex), "%s %08x", insn[i], __builtin_bswap32(disp));
		assert_int_equal(trap_of(*state, hex, &r), NO_TRAP);
		assert_memory_equal(r.xsave + XSAVE_XMM, r.mem[1] + 0x40, 16);
	}
}

static void misaligned_movaps_is_gp(void **state)
{
	static struct regs r;

	regs_random(&r);
	r.gpr[RSI] = LIN_BASE + 0x1008;
	assert_int_equal(trap_of(*state, "0f 28 06", &r), VEC_GP);
	/* Before the page fault when it reaches into a missing page. */
	r.gpr[RSI] = LIN_BASE + 0x1ff8;
	r.mapped[2] = false;
	assert_int_equal(trap_of(*state, "0f 28 06", &r), VEC_GP);
	assert_int_equal(trap_of(*state, "0f 10 06", &r), VEC_PF);
}

static void unmasked_sse_error_is_xm_and_changes_nothing(void **state)
{
	static const u32 mxcsr = 0x1f80 & ~0x200u; /* ZE unmasked */
	struct oracle *o = *state;
	static struct regs r;
	u8 before[16];
	u32 after;

	regs_random(&r);
	memset(r.xsave + XSAVE_XMM + 16, 0, 16);
	for (unsigned i = 0; i < 4; i++)
		memcpy(r.xsave + XSAVE_XMM + i * 4, &(float){ 1 }, 4);
	memcpy(r.xsave + XSAVE_MXCSR, &mxcsr, 4);
	memcpy(before, r.xsave + XSAVE_XMM, 16);
	assert_int_equal(trap_of(o, "0f 5e c1", &r), VEC_XM);
	assert_memory_equal(r.xsave + XSAVE_XMM, before, 16);
	memcpy(&after, r.xsave + XSAVE_MXCSR, 4);
	assert_int_equal(after, mxcsr | 4);
	o->v->cr4 &= ~CR4_OSXMMEXCPT;
	assert_int_equal(trap_of(o, "0f 5e c1", &r), VEC_UD);
	guest_64bit(o->v);
}

static void unmasked_x87_error_is_mf_of_the_next(void **state)
{
	struct oracle *o = *state;
	static struct regs r;

	regs_random(&r);
	r.xsave[XSAVE_FCW] = 0x7f & ~4; /* zero divide unmasked */
	r.xsave[XSAVE_FSW] = r.xsave[XSAVE_FSW + 1] = 0;
	r.xsave[XSAVE_FTW] = 3;
	memset(r.xsave + XSAVE_ST, 0, 10);                  /* st0 = 0 */
	assert_int_equal(trap_of(o, "dc f9", &r), NO_TRAP); /* fdiv st1, st0 */
	assert_int_equal(r.xsave[XSAVE_FSW] & 0x84, 0x84);
	assert_int_equal(trap_of(o, "df e0", &r), NO_TRAP); /* fnstsw ax */
	assert_int_equal(trap_of(o, "9b", &r), VEC_MF);
	assert_int_equal(trap_of(o, "d9 e8", &r), VEC_MF);
	assert_int_equal(trap_of(o, "0f fe c1", &r), VEC_MF); /* paddd mm0, mm1 */
	/* Before a page fault of the memory operand. */
	r.gpr[RSI] = LIN_BASE + 0x1000;
	r.mapped[1] = false;
	assert_int_equal(trap_of(o, "dd 06", &r), VEC_MF);
	assert_int_equal(trap_of(o, "db e2", &r), NO_TRAP); /* fnclex */
	assert_int_equal(trap_of(o, "dd 06", &r), VEC_PF);
}

static void control_bits_select_ud_and_nm(void **state)
{
	static const char x87[] = "d9 e8", mmx[] = "0f fe c1", sse[] = "0f 58 c1",
			  avx[] = "c5 f0 58 c1", evex[] = "62 f1 74 48 58 c1",
			  bmi[] = "c4 e2 70 f2 c1", crc[] = "f2 0f 38 f1 c1",
			  wait[] = "9b";
	struct oracle *o = *state;
	struct vcpu *v = o->v;

	v->cr0 |= CR0_TS;
	assert_int_equal(trap_random(o, x87), VEC_NM);
	assert_int_equal(trap_random(o, mmx), VEC_NM);
	assert_int_equal(trap_random(o, sse), VEC_NM);
	assert_int_equal(trap_random(o, avx), VEC_NM);
	assert_int_equal(trap_random(o, crc), NO_TRAP);
	assert_int_equal(trap_random(o, wait), VEC_NM);
	v->cr0 &= ~CR0_MP;
	assert_int_equal(trap_random(o, wait), NO_TRAP);
	v->cr0 |= CR0_EM;
	assert_int_equal(trap_random(o, x87), VEC_NM);
	assert_int_equal(trap_random(o, mmx), VEC_UD);
	assert_int_equal(trap_random(o, sse), VEC_UD);
	v->cr0 &= ~(CR0_TS | CR0_EM);
	v->cr4 &= ~CR4_OSFXSR;
	assert_int_equal(trap_random(o, sse), VEC_UD);
	assert_int_equal(trap_random(o, mmx), NO_TRAP);
	v->cr4 &= ~CR4_OSXSAVE;
	assert_int_equal(trap_random(o, avx), VEC_UD);
	v->cr4 |= CR4_OSXSAVE;
	v->xcr0 &= ~XCR0_AVX512;
	assert_int_equal(trap_random(o, evex), VEC_UD);
	v->xcr0 &= ~XCR0_AVX;
	assert_int_equal(trap_random(o, avx), VEC_UD);
	if (host_has(AVX2))
		assert_int_equal(trap_random(o, bmi), NO_TRAP);
	guest_legacy(v, 4);
	v->cr0 &= ~CR0_PE;
	assert_int_equal(trap_random(o, bmi), VEC_UD);
	assert_int_equal(trap_random(o, avx), VEC_UD);
	assert_int_equal(trap_random(o, sse), NO_TRAP);
	guest_64bit(v);
}

static void absent_feature_is_not_prepared(void **state)
{
	struct oracle *o = *state;
	struct vcpu *v = o->v;

	v->features[FEAT_AVX512VL / 32] &= ~(1u << FEAT_AVX512VL % 32);
	v->features[FEAT_AES / 32] &= ~(1u << FEAT_AES % 32);
	assert_int_equal(trap_random(o, "62 f1 74 08 58 c1"),
			 NO_FUNCTION); /* vaddps xmm, EVEX */
	assert_int_not_equal(trap_random(o, "62 f1 74 48 58 c1"), NO_FUNCTION); /* zmm */
	assert_int_equal(trap_random(o, "66 0f 38 dc c1"), NO_FUNCTION);
	memset(v->features, 0xff, sizeof(v->features));
}

static void alignment_check_applies_to_scalars(void **state)
{
	struct oracle *o = *state;
	static struct regs r;

	o->v->cr0 |= CR0_AM;
	o->v->flags |= RFLAGS_AC;
	vcpu_sync(o->v);
	regs_random(&r);
	r.gpr[RSI] = LIN_BASE + 0x1004;
	assert_int_equal(trap_of(o, "f2 0f 10 06", &r), VEC_AC);  /* movsd xmm0, [rsi] */
	assert_int_equal(trap_of(o, "f3 0f 10 06", &r), NO_TRAP); /* movss */
	/* movups: AMD's processors check vectors too */
	assert_int_equal(trap_of(o, "0f 10 06", &r), cpu_is_amd(o->v) ? VEC_AC : NO_TRAP);
	assert_int_equal(trap_of(o, "dd 06", &r), VEC_AC); /* fld qword */
	guest_64bit(o->v);
}

/* ---- images of the state ---- */

static const char *const images[] = {
	"0f ae 06", "48 0f ae 06", /* fxsave, fxsave64 [rsi] */
	"0f ae 0e", "48 0f ae 0e", /* fxrstor, fxrstor64 */
	"d9 36",    "66 d9 36",    /* fnstenv of 28 and 14 bytes */
	"dd 36",    "66 dd 36",    /* fnsave */
	"d9 26",    "dd 26",       /* fldenv, frstor */
	"0f ae 26", "48 0f ae 26", /* xsave, xsave64 */
	"0f c7 26", "0f ae 2e",    /* xsavec, xrstor */
};

/* A valid image for those that load one. */
static void image_put(struct regs *r, const struct regs *from)
{
	area_to_host(r->mem[1], from->xsave);
	memset(r->mem[1] + XSAVE_XCOMP_BV, 0, 56);
}

/* MXCSR_MASK in an image at 'at': bit 17 (AMD's misaligned exception mask) is no guest's.
 */
static void mask_17(struct outcome *out, u64 at)
{
	u8 *host = (u8 *)out->host.mem + at + XSAVE_MXCSR_MASK + 2;
	const u8 *guest = (const u8 *)out->guest.mem + at + XSAVE_MXCSR_MASK + 2;

	if (host_mxcsr_mask() & BIT(17) && *host == 2 && !*guest)
		*host = 0;
}

static void save_and_restore_equal_host(void **state)
{
	static struct regs start, other;
	static struct outcome out;
	u8 insn[15];

	for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
		unsigned len = hex_bytes(images[i], insn);

		for (unsigned k = 0; k < 40; k++) {
			const char *d;

			regs_random(&start);
			regs_random(&other);
			image_put(&start, &other);
			start.gpr[RSI] = LIN_BASE + 0x1000 + (k & 7 ? 0 : 8);
			start.gpr[RAX] = k & 3 ? oracle_xcr0() : rnd() & oracle_xcr0();
			start.gpr[RCX] = 0;
			start.gpr[RDX] = 0;
			start.mapped[1] = k & 31;
			d = compare(*state, insn, len, &start, k & 2, &out);
			mask_17(&out, start.gpr[RSI] - LIN_BASE);
			if (d)
				d = difference(&out.guest, &out.host);
			if (d && !same_page_fault(&out))
				fail_msg("%s: %s", images[i], d);
		}
	}
}

static void pending_x87_error_stops_fldenv(void **state)
{
	static struct regs r;

	regs_random(&r);
	r.xsave[XSAVE_FCW] = 0x7e;
	r.xsave[XSAVE_FSW] = 0x81;
	r.xsave[XSAVE_FSW + 1] = 0x80;
	r.mapped[1] = false;
	assert_int_equal(trap_of(*state, "d9 26", &r), VEC_MF);
	assert_int_equal(trap_of(*state, "d9 36", &r),
			 VEC_PF); /* fnstenv does not look */
}

/* ---- other modes ---- */

static void crc32_operand_size_follows_the_code_segment(void **state)
{
	struct oracle *o = *state;
	static struct regs r, host;
	u8 insn[15];
	unsigned len;

	regs_random(&r);
	host = r;
	guest_legacy(o->v, 2);
	assert_int_equal(trap_of(o, "f2 0f 38 f1 c1", &r), NO_TRAP);
	guest_64bit(o->v);
	len = hex_bytes("66 f2 0f 38 f1 c1", insn); /* crc32 eax, cx */
	direct_run(o, insn, len, &host);
	assert_int_equal(r.gpr[RAX], host.gpr[RAX]);
}

static void w_is_ignored_outside_64bit_mode(void **state)
{
	struct oracle *o = *state;
	static struct regs r;
	u64 low;

	regs_random(&r);
	r.gpr[RCX] = 0x1122334455667788;
	guest_legacy(o->v, 4);
	assert_int_equal(trap_of(o, "c4 e1 f9 6e c1", &r),
			 NO_TRAP); /* vmovd xmm0, ecx with W = 1 */
	guest_64bit(o->v);
	memcpy(&low, r.xsave + XSAVE_XMM, 8);
	assert_int_equal(low, 0x55667788);
}

static void address_size_of_16_bits_works(void **state)
{
	struct oracle *o = *state;
	static struct regs r;

	regs_random(&r);
	guest_legacy(o->v, 2);
	for (unsigned i = 0; i < 6; i++)
		o->v->seg[i].base = PHYS_BASE;
	vcpu_sync(o->v);
	r.gpr[RBX] = 0xabcd0010;
	r.gpr[RSI] = 0x12340100;
	assert_int_equal(trap_of(o, "0f 10 40 07", &r),
			 NO_TRAP); /* movups xmm0, [bx+si+7] */
	guest_64bit(o->v);
	assert_memory_equal(r.xsave + XSAVE_XMM, r.mem[0] + 0x117, 16);
}

/* ---- x87 pointers ---- */

static void x87_pointers_are_the_guests(void **state)
{
	struct oracle *o = *state;
	struct vcpu *v = o->v;
	static struct regs r;

	regs_random(&r);
	r.xsave[XSAVE_FTW] = 0;
	r.gpr[RSI] = LIN_BASE + 0x1008;
	assert_int_equal(trap_of(o, "dd 46 08", &r), NO_TRAP); /* fld qword [rsi+8] */
	assert_int_equal(v->fip, CODE_LIN);
	assert_int_equal(v->fdp, LIN_BASE + 0x1010);
	assert_int_equal(v->fop, 0x546);
	assert_int_equal(v->fcs, 0); /* the CPU of this test reports zeros */
	/* No address of this process gets into the guest's state. */
	assert_memory_equal(v->xsave + XSAVE_FIP, (u8[16]){ 0 }, 16);
	memcpy(r.xsave + XSAVE_FIP, &(u64){ 1 }, 8);
	assert_int_equal(trap_of(o, "d9 3e", &r),
			 NO_TRAP); /* fnstcw: a control instruction */
	assert_int_equal(v->fip, 1);
	assert_int_equal(trap_of(o, "d9 fa", &r), NO_TRAP); /* fsqrt: no operand */
	assert_int_equal(v->fip, CODE_LIN);
	assert_int_equal(v->fdp, LIN_BASE + 0x1010);
	assert_int_equal(trap_of(o, "db e3", &r), NO_TRAP);
	assert_int_equal(v->fip | v->fdp | v->fop, 0);
}

/* ---- live and parked ---- */

static void parking_gives_the_host_its_defaults(void **state)
{
	struct oracle *o = *state;
	static struct regs r;
	u32 mxcsr;
	u16 fcw;

	regs_random(&r);
	guest_load(o, &r);
	vec_need(o->v);
	assert_true(o->v->vec_live);
	vcpu_park(o->v);
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(fcw));
	assert_int_equal(mxcsr, 0x1f80);
	assert_int_equal(fcw, 0x37f);
	assert_memory_equal(o->v->xsave + XSAVE_XMM, r.xsave + XSAVE_XMM, 256);
	assert_memory_equal(o->v->xsave + XSAVE_MXCSR, r.xsave + XSAVE_MXCSR, 4);
}

static void what_leaves_use_is_zero_in_the_area(void **state)
{
	struct oracle *o = *state;
	static struct regs r;
	u64 bv;

	if (!(oracle_xcr0() & XCR0_AVX))
		skip();
	regs_random(&r);
	guest_load(o, &r);
	vec_need(o->v);
	__asm__ volatile("vzeroall");
	vcpu_park(o->v);
	memcpy(&bv, o->v->xsave + XSAVE_XSTATE_BV, 8);
	if (bv & XCR0_AVX) /* whether the host notices is up to it */
		skip();
	for (unsigned i = 0; i < 256; i++)
		assert_int_equal(o->v->xsave[XSAVE_YMM + i], 0);
}

static void mxcsr_is_kept_where_nothing_else_is(void **state)
{
	struct oracle *o = *state;
	static struct regs r;
	u64 bv = 0;
	u32 mxcsr = 0x1fa5;

	regs_random(&r);
	memcpy(r.xsave + XSAVE_XSTATE_BV, &bv, 8);
	memcpy(r.xsave + XSAVE_MXCSR, &mxcsr, 4);
	guest_load(o, &r);
	vec_need(o->v);
	vcpu_park(o->v);
	assert_memory_equal(o->v->xsave + XSAVE_MXCSR, &mxcsr, 4);
}

static void ldmxcsr_knows_the_bits_of_the_guest(void **state)
{
	static struct regs r;
	static const char *const form[] = { "0f ae 16", "c5 f8 ae 16" };
	u32 val;

	for (unsigned i = 0; i < ARRAY_SIZE(form); i++) {
		if (i && !(oracle_xcr0() & XCR0_AVX))
			skip();
		regs_random(&r);
		r.gpr[RSI] = LIN_BASE;
		r.mapped[0] = true;
		val = 0x9fbf;
		memcpy(r.mem[0], &val, 4);
		assert_int_equal(trap_of(*state, form[i], &r), NO_TRAP);
		assert_memory_equal(r.xsave + XSAVE_MXCSR, &val, 4);
		val = 0x20000;
		memcpy(r.mem[0], &val, 4);
		assert_int_equal(trap_of(*state, form[i], &r), VEC_GP);
	}
}

static void hostile_image_does_not_fault_the_host(void **state)
{
	struct oracle *o = *state;

	memset(o->v->xsave, 0xff, sizeof(o->v->xsave));
	vec_need(o->v);
	vcpu_park(o->v);
}

static void registers_in_components_not_in_use_are_zero(void **state)
{
	struct oracle *o = *state;
	u8 got[64], zero[64] = { 0 }, one[64];
	u64 bv = XCR0_X87 | XCR0_SSE;

	vcpu_park(o->v);
	memset(o->v->xsave, 0x5a, sizeof(o->v->xsave));
	memcpy(o->v->xsave + XSAVE_XSTATE_BV, &bv, 8);
	memset(one, 0x11, sizeof(one));
	vec_get(o->v, 3, got, 64);
	assert_int_equal(got[15], 0x5a);
	assert_memory_equal(got + 16, zero, 48);
	assert_int_equal(vec_k_get(o->v, 1), 0);
	vec_merge(o->v, 3, one, 32);
	vec_get(o->v, 4, got, 64);
	assert_memory_equal(got + 16, zero, 48);
	vec_get(o->v, 3, got, 64);
	assert_memory_equal(got, one, 32);
	vec_put(o->v, 3, one, 16);
	vec_get(o->v, 3, got, 64);
	assert_memory_equal(got + 16, zero, 48);
}

/* ---- stubs ---- */

static u32 stubs_after(struct oracle *o, const char *hex)
{
	trap_random(o, hex);
	return (u32)o->stats.native_stubs;
}

static void stubs_are_shared_by_memory_operands(void **state)
{
	struct oracle *o = *state;
	u32 n;

	native_flush(o->v);
	n = stubs_after(o, "0f 28 06");                  /* movaps xmm0, [rsi] */
	assert_int_equal(stubs_after(o, "0f 28 07"), n); /* [rdi] */
	assert_int_equal(stubs_after(o, "41 0f 28 84 9e 00 01 00 00"),
			 n);                                 /* [r14+rbx*4+100h] */
	assert_int_equal(stubs_after(o, "0f 28 0e"), n + 1); /* xmm1 */
}

static void flushed_stubs_are_made_again(void **state)
{
	struct oracle *o = *state;
	u8 insn[6] = { 0x66, 0x0f, 0x70, 0xc1, 0 }; /* pshufd xmm0, xmm1, n */
	struct insn in;
	unsigned made = 0;

	for (unsigned reg = 0; reg < 64; reg++) {
		for (unsigned n = 0; n < 256; n++) {
			insn[3] = (u8)(0xc0 | reg);
			insn[4] = (u8)n;
			if (native_full(o->v))
				native_flush(o->v);
			vcpu_park(o->v);
			assert_int_equal(decode(insn, 5, 8, false, &in), DECODE_OK);
			assert_true(native_prepare(o->v, insn, &in));
			made++;
		}
	}
	assert_int_equal(made, 64 * 256);
	run_sample(o, &samples[31]);
}

/* ---- MMIO ---- */

struct mmio {
	unsigned reads, writes;
	u8 data[64];
};

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	struct mmio *m = dev;

	m->reads++;
	return le_load(m->data + off % 64, size);
}

static void mmio_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct mmio *m = dev;

	m->writes++;
	le_store(m->data + off % 64, val, size);
}

static void vector_accesses_reach_mmio(void **state)
{
	static const struct io_ops ops = { mmio_read, mmio_write,
					   IO_1 | IO_2 | IO_4 | IO_8 };
	struct oracle *o = *state;
	static struct regs r;
	struct mmio m = { 0 };
	struct error err = { "" };
	u8 insn[15];
	struct insn in;

	assert_int_equal(phys_add_mmio(o->phys, "test", 0x10000000, 4096, &ops, &m, &err),
			 0);
	rnd_fill(m.data, 64);
	regs_random(&r);
	guest_load(o, &r);
	pte_set(o, LIN_BASE + 0x1000, 0x10000000, true);
	tlb_flush_all(o->v);
	hex_bytes("0f 28 06", insn); /* movaps xmm0, [rsi] */
	assert_int_equal(decode(insn, 3, 8, false, &in), DECODE_OK);
	assert_true(native_prepare(o->v, insn, &in));
	assert_int_equal(in.fn(o->v, &in), OP_NEXT);
	vcpu_park(o->v);
	assert_memory_equal(o->v->xsave + XSAVE_XMM, m.data, 16);
	assert_int_equal(m.reads, 2);
	hex_bytes("0f 29 4e 10", insn); /* movaps [rsi+10h], xmm1 */
	assert_int_equal(decode(insn, 4, 8, false, &in), DECODE_OK);
	assert_true(native_prepare(o->v, insn, &in));
	assert_int_equal(in.fn(o->v, &in), OP_NEXT);
	vcpu_park(o->v);
	assert_memory_equal(m.data + 16, r.xsave + XSAVE_XMM + 16, 16);
	assert_int_equal(m.writes, 2);
	phys_remove_mmio(o->phys, 0x10000000, &ops, &m);
}

static void movdir64b_stores_aligned_64_bytes(void **state)
{
	struct oracle *o = *state;
	static struct regs r;

	regs_random(&r);
	r.gpr[RSI] = LIN_BASE + 0x1ff0; /* source: any alignment, across pages */
	r.gpr[RBX] = LIN_BASE + 0x3040;
	assert_int_equal(trap_of(o, "66 0f 38 f8 1e", &r), NO_TRAP);
	assert_memory_equal(r.mem[3] + 0x40, r.mem[1] + 0xff0, 64);
	r.gpr[RBX] += 8;
	assert_int_equal(trap_of(o, "66 0f 38 f8 1e", &r), VEC_GP);
	r.gpr[RBX] -= 8;
	r.mapped[3] = false;
	assert_int_equal(trap_of(o, "66 0f 38 f8 1e", &r), VEC_PF);
}

/*
 * cmocka takes the signals for itself at the start of each test, and of each fixture, so
 * all is set up within the test.
 */
static void run(void **state)
{
	void (*test)(void **state) = (void (*)(void **))(uintptr_t)*state;
	static struct oracle o;
	void *arg = &o;

	oracle_init(&o);
	test(&arg);
	oracle_fini(&o);
}

#define T(f)                                                                             \
	{                                                                                \
#f, run, NULL, NULL, (void *)(uintptr_t)(f)                              \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(native_equals_host),
		T(gather_and_scatter_equal_host),
		T(gather_fault_keeps_completed_elements),
		T(rip_relative_operand_counts_from_the_next),
		T(misaligned_movaps_is_gp),
		T(unmasked_sse_error_is_xm_and_changes_nothing),
		T(unmasked_x87_error_is_mf_of_the_next),
		T(control_bits_select_ud_and_nm),
		T(absent_feature_is_not_prepared),
		T(alignment_check_applies_to_scalars),
		T(save_and_restore_equal_host),
		T(pending_x87_error_stops_fldenv),
		T(crc32_operand_size_follows_the_code_segment),
		T(w_is_ignored_outside_64bit_mode),
		T(address_size_of_16_bits_works),
		T(x87_pointers_are_the_guests),
		T(parking_gives_the_host_its_defaults),
		T(what_leaves_use_is_zero_in_the_area),
		T(mxcsr_is_kept_where_nothing_else_is),
		T(ldmxcsr_knows_the_bits_of_the_guest),
		T(hostile_image_does_not_fault_the_host),
		T(registers_in_components_not_in_use_are_zero),
		T(stubs_are_shared_by_memory_operands),
		T(flushed_stubs_are_made_again),
		T(vector_accesses_reach_mmio),
		T(movdir64b_stores_aligned_64_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
