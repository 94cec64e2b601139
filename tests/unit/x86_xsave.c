/*
 * XSAVE, FXSAVE, FNSAVE and relatives: compared with the host's instructions on the same
 * random state, and the faults by hand.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/hostcpu.h"
#include "mem/phys.h"
#include "x86/msr.h"
#include "x86/stats.h"
#include "x86/xsave.h"

#define RAM      MiB(4)
#define IMAGE    UINT64_C(0x100000) /* where images are: offset is linear is physical */
#define AREA     4096               /* room for an image and what lies behind it */
#define UNMAPPED UINT64_C(0x300000)
#define VECTOR   (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

static struct host_cpu host;
static struct cpuid_table table;
static struct vcpu_stats stats;
static struct vcpu *v;
static u8 *ram;
static u64 seed = 1;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * UINT64_C(0x2545f4914f6cdd1d);
}

static void fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)p)[i] = (u8)(rnd() >> 24);
}

/* ---- a vCPU in 64-bit mode; [2 MiB + 1 MiB, 4 MiB) is not mapped ---- */

static void build(const char *model)
{
	struct cpuid_request r = { .cpu = model, .cpus = 1, .tsc_khz = 1000000 };
	struct error err = { "" };

	if (cpuid_build(&table, &r, &host, NULL, &err))
		fail_msg("%s", err.msg);
	cpuid_attach(v, &table);
}

static void mode64(void)
{
	u64 *pml4 = (void *)(ram + 0x1000), *pdpt = (void *)(ram + 0x2000);
	u64 *pd = (void *)(ram + 0x3000), *pt = (void *)(ram + 0x4000);

	memset(ram + 0x1000, 0, 0x4000);
	pml4[0] = 0x2007;
	pdpt[0] = 0x3007;
	pd[0] = 0x87; /* 2 MiB */
	pd[1] = 0x4007;
	for (unsigned i = 0; i < 256; i++)
		pt[i] = (0x200000 + i * 4096) | 7;
	vcpu_reset(v, false);
	v->cr3 = 0x1000;
	v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	v->efer = EFER_LME | EFER_LMA;
	v->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_ET;
	v->seg[CS].attr |= SEG_L | SEG_CODE;
	v->xcr0 = table.xcr0;
	v->cpl = 0;
	vcpu_sync(v);
	assert_int_equal(v->code_size, 8);
}

/* 32-bit protected mode without paging, flat. */
static void mode32(void)
{
	v->cr0 &= ~CR0_PG;
	v->efer = 0;
	for (unsigned i = 0; i < 6; i++) {
		v->seg[i].base = 0;
		v->seg[i].limit = 0xffffffff;
		v->seg[i].attr =
			SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED | SEG_DB | SEG_G;
	}
	v->seg[CS].attr |= SEG_CODE;
	vcpu_sync(v);
	assert_int_equal(v->code_size, 4);
}

static void mode_real(void)
{
	mode32();
	v->cr0 &= ~CR0_PE;
	for (unsigned i = 0; i < 6; i++)
		v->seg[i].attr &= ~SEG_DB;
	vcpu_sync(v);
	assert_int_equal(v->code_size, 2);
}

static int set_up(void **state)
{
	struct phys *phys = phys_new();
	struct error err;

	(void)state;
	hostcpu_read(&host);
	assert_int_equal(phys_add_ram(phys, "ram", 0, RAM, &err), 0);
	ram = phys_host(phys, 0, RAM, true);
	v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
	memset(v, 0, sizeof(*v));
	v->phys = phys;
	v->stats = &stats;
	v->apic_page = ~UINT64_C(0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	phys_free(v->phys);
	free(v);
	return 0;
}

/* Each test begins in 64-bit mode on the best CPU there is, with the host's details. */
static int each(void **state)
{
	(void)state;
	build(host.features[W_7_ECX] >> 16 & 1 ? "max" : "max,-la57");
	mode64();
	memset(ram + IMAGE, 0, 2 * AREA);
	return 0;
}

/* Is the host one whose details we follow? */
static void need_host(void)
{
	bool ok = !host.amd && (host.xcr0 & VECTOR) == VECTOR &&
		  host.features[W_7_EBX] >> 13 & 1 && host.features[W_D_1_EAX] >> 1 & 1;

	if (!ok)
		skip();
}

/* ---- the host's instructions ---- */

static u8 saved[16384] __attribute__((aligned(64)));

/*
 * With the host's state set aside: load 'img' by XRSTOR64, do 'op' on (%rdi), and then
 * save the outcome with FXSAVE64 to (%rsi). EAX is the operation's mask.
 */
/* clang-format off */
#define HOST_OP(name, op)                                                              \
	static void name(const u8 *img, void *out, u8 *after, u64 mask)                \
	{                                                                              \
		memset(saved, 0, sizeof(saved));                                       \
		register void *keep __asm__("r8") = saved;                             \
		register u64 m __asm__("r9") = mask;                                   \
		__asm__ volatile("mov $0xe7, %%eax; xor %%edx, %%edx; xsave64 (%%r8);" \
				 "xrstor64 (%%rcx); mov %%r9d, %%eax;" op ";"          \
				 "fxsave64 (%%rsi);"                                   \
				 "mov $0xe7, %%eax; xor %%edx, %%edx; xrstor64 (%%r8)" \
				 : "+c"(img)                                           \
				 : "D"(out), "S"(after), "r"(keep), "r"(m)             \
				 : "rax", "rdx", "memory");                            \
	}
HOST_OP(host_xsave, "xsave (%%rdi)")
HOST_OP(host_xsave64, "xsave64 (%%rdi)")
HOST_OP(host_xsaveopt, "xsaveopt (%%rdi)")
HOST_OP(host_xsaveopt64, "xsaveopt64 (%%rdi)")
HOST_OP(host_xsavec, "xsavec (%%rdi)")
HOST_OP(host_xsavec64, "xsavec64 (%%rdi)")
HOST_OP(host_xrstor, "xrstor (%%rdi); mov $0xe7, %%eax; xsave64 1024*4(%%rdi)")
HOST_OP(host_xrstor64, "xrstor64 (%%rdi); mov $0xe7, %%eax; xsave64 1024*4(%%rdi)")
HOST_OP(host_fxsave, "fxsave (%%rdi)")
HOST_OP(host_fxsave64, "fxsave64 (%%rdi)")
HOST_OP(host_fxrstor, "fxrstor (%%rdi)")
HOST_OP(host_fxrstor64, "fxrstor64 (%%rdi)")
HOST_OP(host_fnstenv, "fnstenv (%%rdi)")
HOST_OP(host_fnstenv16, "data16 fnstenv (%%rdi)")
HOST_OP(host_fnsave, "fnsave (%%rdi)")
HOST_OP(host_fnsave16, "data16 fnsave (%%rdi)")
HOST_OP(host_fldenv, "fnclex; fldenv (%%rdi)")
HOST_OP(host_fldenv16, "fnclex; data16 fldenv (%%rdi)")
HOST_OP(host_frstor, "fnclex; frstor (%%rdi)")
HOST_OP(host_frstor16, "fnclex; data16 frstor (%%rdi)")
HOST_OP(host_xgetbv, "mov $1, %%ecx; xgetbv; mov %%eax, (%%rdi)")
/* clang-format on */

static sigjmp_buf fault_exit;

static void on_fault(int sig)
{
	siglongjmp(fault_exit, sig);
}

/* ---- images ---- */

/* Some value of a register, often one of the special ones. */
static void random_st(u8 *p)
{
	static const u64 m[] = { 0, 1, UINT64_C(1) << 63, UINT64_C(3) << 62,
				 ~UINT64_C(0) };
	static const u16 e[] = { 0, 1, 0x3fff, 0x7ffe, 0x7fff, 0xffff, 0x8000 };

	fill(p, 10);
	if (rnd() & 1)
		le_store(p, m[rnd() % ARRAY_SIZE(m)], 8);
	if (rnd() & 1)
		le_store(p + 8, e[rnd() % ARRAY_SIZE(e)], 2);
}

/* A standard image that XRSTOR takes, with these components. Data of the others is noise.
 */
static void random_image(u8 *img, u64 bv)
{
	fill(img, AREA);
	for (unsigned i = 0; i < 8; i++)
		random_st(img + XSAVE_ST + 16 * i);
	le_store(img + XSAVE_MXCSR, rnd() & 3 ? rnd() & MXCSR_MASK : MXCSR_INIT, 4);
	memset(img + XSAVE_XSTATE_BV, 0, 64);
	le_store(img + XSAVE_XSTATE_BV, bv, 8);
}

/* Where component i lies in the guest's standard images. */
static u32 at(unsigned i)
{
	return xsave_standard_offset(table.vendor, table.xcr0, i);
}

static u64 random_bv(void)
{
	return rnd() & 1 ? VECTOR : rnd() & VECTOR;
}

/* Our parked state becomes that of the image. */
static void load_ours(const u8 *img)
{
	memcpy(ram + IMAGE, img, AREA);
	if (!xsave_restore(v, DS, IMAGE, false, VECTOR, true))
		fail_msg("XRSTOR of our own");
}

static void same(const char *what, const u8 *want, const u8 *got, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (want[i] != got[i])
			fail_msg("%s: byte %zu is %02x, the host has %02x", what, i,
				 got[i], want[i]);
}

/* Our state as FXSAVE64 shows it. */
static void same_after(const char *what, const u8 *after)
{
	u8 got[512];

	memset(ram + UNMAPPED - 4096, 0, 512);
	assert_true(fxsave(v, DS, UNMAPPED - 4096, true));
	memcpy(got, ram + UNMAPPED - 4096, 512);
	same(what, after, got, 416);
}

typedef void host_fn(const u8 *img, void *out, u8 *after, u64 mask);

/*
 * ---- against the host ----
 *
 * I1: When the host's kernel switches to another process between two instructions of
 * ours, SSE can come back as in use, as MXCSR then counts (SDM 1 section 13.6). So a
 * difference counts only when it stays.
 */

static void saves_write_what_the_host_writes(void **state)
{
	static const struct {
		enum xsave_kind kind;
		bool rexw;
		host_fn *fn;
		const char *name;
	} op[] = {
		{ XSAVE_XSAVE, false, host_xsave, "xsave" },
		{ XSAVE_XSAVE, true, host_xsave64, "xsave64" },
		{ XSAVE_XSAVEOPT, false, host_xsaveopt, "xsaveopt" },
		{ XSAVE_XSAVEOPT, true, host_xsaveopt64, "xsaveopt64" },
		{ XSAVE_XSAVEC, false, host_xsavec, "xsavec" },
		{ XSAVE_XSAVEC, true, host_xsavec64, "xsavec64" },
	};
	static u8 img[AREA] __attribute__((aligned(64)));
	static u8 want[AREA] __attribute__((aligned(64))), noise[AREA];
	u8 after[512] __attribute__((aligned(16)));

	(void)state;
	need_host();
	for (unsigned n = 0; n < 20000; n++) {
		unsigned i = n % ARRAY_SIZE(op), tries = 0;
		u64 mask = rnd() & 1 ? VECTOR : rnd() & VECTOR;

		random_image(img, random_bv());
		load_ours(img);
		fill(noise, sizeof(noise));
		memset(noise + XSAVE_XSTATE_BV, 0, 64);
		le_store(noise + XSAVE_XSTATE_BV, rnd() & VECTOR, 8);
		memcpy(ram + IMAGE, noise, AREA);
		assert_true(xsave_save(v, DS, IMAGE, op[i].kind, mask, op[i].rexw));
		do {
			memcpy(want, noise, AREA);
			op[i].fn(img, want, after, mask);
		} while (memcmp(want, ram + IMAGE, AREA) && ++tries < 5); /* I1 */
		same(op[i].name, want, ram + IMAGE, AREA);
	}
}

/* Make an image of random form and content that XRSTOR takes. */
static void random_restorable(u8 *img)
{
	random_image(img, random_bv());
	if (rnd() & 1) {
		u64 comp = random_bv();

		fill(img + XSAVE_EXTENDED, AREA - XSAVE_EXTENDED);
		le_store(img + XSAVE_XSTATE_BV, rnd() & comp, 8);
		le_store(img + XSAVE_XCOMP_BV, comp | XCOMP_COMPACTED, 8);
	}
}

static void restores_load_what_the_host_loads(void **state)
{
	static u8 before[AREA] __attribute__((aligned(64)));
	static u8 img[3 * AREA] __attribute__((aligned(64)));
	u8 after[512] __attribute__((aligned(16)));

	(void)state;
	need_host();
	for (unsigned n = 0; n < 20000; n++) {
		bool rexw = rnd() & 1;
		u64 mask = rnd() & 1 ? VECTOR : rnd() & VECTOR;
		unsigned tries = 0;

		random_image(before, random_bv());
		random_restorable(img);
		load_ours(before);
		memcpy(ram + IMAGE, img, AREA);
		assert_true(xsave_restore(v, DS, IMAGE, false, mask, rexw));
		memset(ram + IMAGE, 0, AREA);
		assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVE, VECTOR, true));
		do {
			memset(img + AREA, 0, AREA);
			(rexw ? host_xrstor64 : host_xrstor)(before, img, after, mask);
		} while (memcmp(img + AREA, ram + IMAGE, AREA) && ++tries < 5); /* I1 */
		same("state after xrstor", img + AREA, ram + IMAGE, AREA);
	}
}

/* XRSTOR by the host; false: it faults. */
static bool host_takes(u8 *img, u64 mask)
{
	static u8 clean[AREA] __attribute__((aligned(64)));
	u8 after[512] __attribute__((aligned(16)));

	le_store(clean + XSAVE_MXCSR, MXCSR_INIT, 4);
	if (sigsetjmp(fault_exit, 1)) {
		/* Nothing was loaded but the clean state, which the ABI allows here. */
		__asm__ volatile("xrstor64 %0" : : "m"(saved), "a"(0xe7), "d"(0));
		return false;
	}
	host_xrstor64(clean, img, after, mask);
	return true;
}

static void bad_headers_fault_where_the_host_faults(void **state)
{
	static u8 img[3 * AREA] __attribute__((aligned(64)));
	struct sigaction act = { .sa_handler = on_fault }, old;
	unsigned faults = 0;

	(void)state;
	need_host();
	sigaction(SIGSEGV, &act, &old);
	for (unsigned n = 0; n < 20000; n++) {
		u64 mask = rnd() & VECTOR;
		bool want, got;

		random_restorable(img);
		switch (rnd() % 6) {
		case 0: /* a bit of the header; not of components that only the host has
			 */
			img[XSAVE_XSTATE_BV + rnd() % 64] ^= (u8)(1u << rnd() % 8);
			break;
		case 1: img[XSAVE_XSTATE_BV + rnd() % 16] ^= (u8)(1u << rnd() % 8); break;
		case 2: img[XSAVE_MXCSR + rnd() % 4] ^= (u8)(1u << rnd() % 8); break;
		default: break;
		}
		/* Components that one side has and the other has not. */
		for (unsigned off = XSAVE_XSTATE_BV; off <= XSAVE_XCOMP_BV; off += 8)
			le_store(img + off,
				 le_load(img + off, 8) &
					 ~((host.xcr0 ^ v->xcr0) & ~VECTOR),
				 8);
		memcpy(ram + IMAGE, img, AREA);
		want = host_takes(img, mask);
		got = xsave_restore(v, DS, IMAGE, false, mask, true);
		if (want != got)
			fail_msg("XSTATE_BV %llx XCOMP_BV %llx mask %llx mxcsr %llx: "
				 "host %d, we %d",
				 (unsigned long long)le_load(img + XSAVE_XSTATE_BV, 8),
				 (unsigned long long)le_load(img + XSAVE_XCOMP_BV, 8),
				 (unsigned long long)mask,
				 (unsigned long long)le_load(img + XSAVE_MXCSR, 4), want,
				 got);
		if (!got) {
			assert_int_equal(v->fault.vector, VEC_GP);
			faults++;
		}
	}
	sigaction(SIGSEGV, &old, NULL);
	assert_true(faults > 1000);
}

static void x87_images_are_those_of_the_host(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));
	static u8 want[AREA] __attribute__((aligned(64)));
	u8 after[512] __attribute__((aligned(16)));

	(void)state;
	need_host();
	for (unsigned n = 0; n < 20000; n++) {
		static const struct {
			bool (*ours)(struct vcpu *v, unsigned sreg, u64 off,
				     unsigned opsize);
			unsigned opsize;
			host_fn *fn;
			const char *name;
		} op[] = {
			{ fnstenv, 4, host_fnstenv, "fnstenv" },
			{ fnstenv, 2, host_fnstenv16, "fnstenv16" },
			{ fnsave, 4, host_fnsave, "fnsave" },
			{ fnsave, 2, host_fnsave16, "fnsave16" },
			{ fldenv, 4, host_fldenv, "fldenv" },
			{ fldenv, 2, host_fldenv16, "fldenv16" },
			{ frstor, 4, host_frstor, "frstor" },
			{ frstor, 2, host_frstor16, "frstor16" },
		};
		unsigned i = n % ARRAY_SIZE(op);

		random_image(img, XCR0_X87 | XCR0_SSE);
		load_ours(img);
		fill(want, 512);
		memcpy(ram + IMAGE, want, 512);
		op[i].fn(img, want, after, 0);
		assert_true(op[i].ours(v, DS, IMAGE, op[i].opsize));
		same(op[i].name, want, ram + IMAGE, 512);
		same_after(op[i].name, after);
	}
}

static void fxsave_images_are_those_of_the_host(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));
	static u8 want[AREA] __attribute__((aligned(64)));
	u8 after[512] __attribute__((aligned(16)));

	(void)state;
	need_host();
	for (unsigned n = 0; n < 5000; n++) {
		bool rexw = n & 1;

		random_image(img, random_bv());
		load_ours(img);
		fill(want, 512);
		memcpy(ram + IMAGE, want, 512);
		(rexw ? host_fxsave64 : host_fxsave)(img, want, after, 0);
		assert_true(fxsave(v, DS, IMAGE, rexw));
		same("fxsave", want, ram + IMAGE, 512);

		random_image(want, 0);
		memcpy(ram + IMAGE, want, 512);
		(rexw ? host_fxrstor64 : host_fxrstor)(img, want, after, 0);
		assert_true(fxrstor(v, DS, IMAGE, rexw));
		same_after("fxrstor", after);
	}
}

static void xgetbv_1_says_what_the_host_says(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));
	u8 after[512] __attribute__((aligned(16)));
	u64 val;
	u32 want;

	(void)state;
	need_host();
	for (unsigned n = 0; n < 1000; n++) {
		random_image(img, rnd() & VECTOR);
		load_ours(img);
		host_xgetbv(img, &want, after, 0);
		assert_true(xgetbv(v, 1, &val));
		assert_int_equal(val, want & VECTOR);
	}
}

/* ---- supervisor forms and PKRU, which no process can try on the host ---- */

static void xsaves_round_trips_and_is_compacted(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));

	(void)state;
	for (unsigned n = 0; n < 2000; n++) {
		u8 area[XSAVE_AREA_SIZE];
		u64 bv = random_bv() & v->xcr0;

		random_image(img, bv);
		load_ours(img);
		v->pkru = (u32)rnd() & 1 ? (u32)rnd() : 0;
		memcpy(area, v->xsave, sizeof(area));
		memset(ram + IMAGE, 0, AREA);
		assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVES, ~UINT64_C(0), true));
		assert_true(le_load(ram + IMAGE + XSAVE_XCOMP_BV, 8) ==
			    (v->xcr0 | XCOMP_COMPACTED));
		random_image(img, VECTOR & v->xcr0);
		memcpy(ram + IMAGE + AREA, img, AREA);
		assert_true(xsave_restore(v, DS, IMAGE + AREA, false, VECTOR, true));
		v->pkru = 0x55;
		assert_true(xsave_restore(v, DS, IMAGE, true, ~UINT64_C(0), true));
		assert_memory_equal(v->xsave + 32, area + 32, 384);
		assert_memory_equal(v->xsave + XSAVE_EXTENDED, area + XSAVE_EXTENDED,
				    XSAVE_PKRU - XSAVE_EXTENDED);
	}
}

static void pkru_is_a_component(void **state)
{
	(void)state;
	v->pkru = 0x12345678;
	assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVE, ~UINT64_C(0), true));
	assert_true(le_load(ram + IMAGE + XSAVE_XSTATE_BV, 8) & XCR0_PKRU);
	assert_true(le_load(ram + IMAGE + at(9), 8) == 0x12345678);
	v->pkru = 0;
	assert_true(xsave_restore(v, DS, IMAGE, false, XCR0_PKRU, true));
	assert_int_equal(v->pkru, 0x12345678);
	/* Compacted and alone, it comes right behind the header. */
	assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVEC, XCR0_PKRU, true));
	assert_true(le_load(ram + IMAGE + XSAVE_EXTENDED, 8) == 0x12345678);
	le_store(ram + IMAGE + XSAVE_XSTATE_BV, 0, 8);
	assert_true(xsave_restore(v, DS, IMAGE, false, ~UINT64_C(0), true));
	assert_int_equal(v->pkru, 0);
	assert_false(xsave_inuse(v) & XCR0_PKRU);
}

/* FNSTENV does not bring it into use, as FXRSTOR or FLDENV of what is initial do not: it
 * would depend on whether the state has been in the host's registers meanwhile. */
static void initial_x87_state_is_not_in_use(void **state)
{
	u8 img[XSAVE_LEGACY_SIZE] = { 0 };

	(void)state;
	le_store(img + XSAVE_FCW, 0x37f, 2);
	le_store(img + XSAVE_MXCSR, MXCSR_INIT, 4);
	memcpy(ram + IMAGE, img, sizeof(img));
	assert_true(fxrstor(v, DS, IMAGE, true));
	assert_false(xsave_inuse(v) & XCR0_X87);
	assert_true(fnstenv(v, DS, IMAGE + AREA, 4));
	assert_false(xsave_inuse(v) & XCR0_X87);
	assert_true(fldenv(v, DS, IMAGE + AREA, 4));
	assert_false(xsave_inuse(v) & XCR0_X87);
	memset(ram + IMAGE, 0x74, XSAVE_LEGACY_SIZE);
	assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVEOPT, XCR0_X87, true));
	assert_int_equal(ram[IMAGE], 0x74);
	le_store(img + XSAVE_ST + 16, 1, 2);
	memcpy(ram + IMAGE, img, sizeof(img));
	assert_true(fxrstor(v, DS, IMAGE, true));
	assert_true(xsave_inuse(v) & XCR0_X87);
}

/* The same of vectors: XRSTOR of zeros, and a write that leaves zeros. */
static void vectors_of_zeros_are_not_in_use(void **state)
{
	static const u64 all = XCR0_SSE | XCR0_AVX | XCR0_AVX512;
	u64 have = v->xcr0 & all;

	(void)state;
	memset(v->xsave + XSAVE_XMM, 0, 256);
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		memset(v->xsave + xcomp_layout[i].offset, 0, xcomp_layout[i].size);
	le_store(v->xsave + XSAVE_XSTATE_BV, have, 8);
	le_store(v->xsave + XSAVE_MXCSR, MXCSR_INIT, 4);
	assert_int_equal(xsave_inuse(v) & all, 0);
	v->xsave[XSAVE_XMM + 255] = 1;
	assert_int_equal(xsave_inuse(v) & all, have & XCR0_SSE);
	v->xsave[XSAVE_YMM + 255] = 1;
	assert_int_equal(xsave_inuse(v) & all, have & (XCR0_SSE | XCR0_AVX));
}

static void xrstors_takes_the_compacted_format_only(void **state)
{
	(void)state;
	assert_false(xsave_restore(v, DS, IMAGE, true, ~UINT64_C(0), true));
	assert_int_equal(v->fault.vector, VEC_GP);
	le_store(ram + IMAGE + XSAVE_XCOMP_BV, XCOMP_COMPACTED, 8);
	assert_true(xsave_restore(v, DS, IMAGE, true, 0, true));
	build("max,-xsavec"); /* and XRSTOR knows it only on CPUs that have XSAVEC */
	mode64();
	assert_false(xsave_restore(v, DS, IMAGE, false, 0, true));
	assert_int_equal(v->fault.vector, VEC_GP);
}

/* ---- faults and modes ---- */

static void check_fault(bool done, unsigned vector)
{
	assert_false(done);
	assert_int_equal(v->fault.vector, vector);
	v->fault.vector = 0;
}

static void state_bits_disable_instructions(void **state)
{
	u64 val;

	(void)state;
	v->cr0 |= CR0_TS;
	check_fault(xsave_save(v, DS, IMAGE + 1, XSAVE_XSAVE, 3, true), VEC_NM);
	check_fault(xsave_restore(v, DS, IMAGE + 1, false, 3, true), VEC_NM);
	check_fault(fxsave(v, DS, IMAGE + 1, true), VEC_NM);
	check_fault(fxrstor(v, DS, IMAGE + 1, true), VEC_NM);
	check_fault(fnstenv(v, DS, IMAGE, 4), VEC_NM);
	check_fault(fldenv(v, DS, IMAGE, 4), VEC_NM);
	check_fault(fnsave(v, DS, IMAGE, 4), VEC_NM);
	check_fault(frstor(v, DS, IMAGE, 4), VEC_NM);
	check_fault(ldmxcsr(v, DS, IMAGE, false), VEC_NM);
	check_fault(stmxcsr(v, DS, IMAGE, false), VEC_NM);
	assert_true(xgetbv(v, 0, &val));
	v->cr0 = (v->cr0 & ~CR0_TS) | CR0_EM;
	assert_true(
		xsave_save(v, DS, IMAGE, XSAVE_XSAVE, 3, true)); /* EM does not matter */
	check_fault(fxsave(v, DS, IMAGE, true), VEC_NM);
	check_fault(fnstenv(v, DS, IMAGE, 4), VEC_NM);
	check_fault(ldmxcsr(v, DS, IMAGE, false), VEC_UD);
	v->cr0 &= ~CR0_EM;
	v->cr4 &= ~CR4_OSXSAVE;
	check_fault(xsave_save(v, DS, IMAGE, XSAVE_XSAVE, 3, true), VEC_UD);
	check_fault(xsave_restore(v, DS, IMAGE, true, 3, true), VEC_UD);
	check_fault(xgetbv(v, 0, &val), VEC_UD);
	check_fault(xsetbv(v, 0, 1), VEC_UD);
	check_fault(ldmxcsr(v, DS, IMAGE, true), VEC_UD);
	v->cr4 = (v->cr4 | CR4_OSXSAVE) & ~CR4_OSFXSR;
	check_fault(stmxcsr(v, DS, IMAGE, false), VEC_UD);
	v->cr4 |= CR4_OSFXSR;
	v->cpl = 3;
	vcpu_mode_changed(v);
	check_fault(xsave_save(v, DS, IMAGE, XSAVE_XSAVES, 3, true), VEC_GP);
	check_fault(xsave_restore(v, DS, IMAGE, true, 3, true), VEC_GP);
	check_fault(xsetbv(v, 0, 3), VEC_GP);
	assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVEC, 3, true));
	check_fault(xgetbv(v, 2, &val), VEC_GP);
	build("max,-xsave");
	mode64();
	v->cr4 |= CR4_OSXSAVE;
	check_fault(xsave_save(v, DS, IMAGE, XSAVE_XSAVE, 3, true), VEC_UD);
	build("max,-xsaves,-xgetbv1");
	mode64();
	check_fault(xsave_save(v, DS, IMAGE, XSAVE_XSAVES, 3, true), VEC_UD);
	check_fault(xgetbv(v, 1, &val), VEC_GP);
}

static void images_are_aligned(void **state)
{
	(void)state;
	for (u64 i = 1; i < 64; i++) {
		check_fault(xsave_save(v, DS, IMAGE + i, XSAVE_XSAVE, 3, true), VEC_GP);
		check_fault(xsave_restore(v, DS, IMAGE + i, false, 0, true), VEC_GP);
		if (i & 15)
			check_fault(fxsave(v, DS, IMAGE + i, true), VEC_GP);
		else
			assert_true(fxsave(v, DS, IMAGE + i, true));
	}
	/* It is the linear address that counts. */
	v->seg[FS].base = 8;
	assert_true(fxsave(v, FS, IMAGE + 8, true));
	check_fault(fxsave(v, FS, IMAGE, true), VEC_GP);
}

static void a_page_fault_changes_nothing(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));
	static struct vcpu before;
	u64 start = UNMAPPED - 704; /* header and YMM are here, what follows is not */

	(void)state;
	random_image(img, v->xcr0 & VECTOR);
	load_ours(img);
	memcpy(ram + start, img, 704);
	memcpy(&before, v, offsetof(struct vcpu, arch_end));
	check_fault(xsave_restore(v, DS, start, false, ~UINT64_C(0), true), VEC_PF);
	assert_true(v->fault.cr2 == UNMAPPED);
	assert_memory_equal(&before, v, offsetof(struct vcpu, arch_end));
	memset(ram + start, 0x5a, 704);
	memset(ram + start + XSAVE_XSTATE_BV, 0, 64);
	memcpy(img, ram + start, 704);
	check_fault(xsave_save(v, DS, start, XSAVE_XSAVE, ~UINT64_C(0), true), VEC_PF);
	assert_memory_equal(&before, v, offsetof(struct vcpu, arch_end));
	assert_memory_equal(ram + start, img, 704);
	/* What is not saved need not be mapped. */
	assert_true(xsave_save(v, DS, start, XSAVE_XSAVE, XCR0_X87 | XCR0_SSE, true));
	check_fault(fnsave(v, DS, UNMAPPED - 50, 4), VEC_PF);
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2),
			 le_load(before.xsave + XSAVE_FCW, 2));
}

static void mxcsr_reserved_bits_fault(void **state)
{
	(void)state;
	for (unsigned b = 0; b < 32; b++) {
		le_store(ram + IMAGE, BIT(b), 4);
		if (b < 16)
			assert_true(ldmxcsr(v, DS, IMAGE, false));
		else
			check_fault(ldmxcsr(v, DS, IMAGE, true), VEC_GP);
		assert_int_equal(le_load(v->xsave + XSAVE_MXCSR, 4), BIT(MIN(b, 15)));
	}
	assert_true(stmxcsr(v, DS, IMAGE, false));
	assert_int_equal(le_load(ram + IMAGE, 4), 0x8000);
	le_store(ram + IMAGE + XSAVE_MXCSR, 0x10000, 4);
	check_fault(fxrstor(v, DS, IMAGE, true), VEC_GP);
}

static void other_modes_have_half_the_registers(void **state)
{
	static u8 img[AREA] __attribute__((aligned(64)));

	(void)state;
	need_host();
	random_image(img, VECTOR);
	load_ours(img);
	mode32();
	memset(ram + IMAGE, 0xcc, AREA);
	memset(ram + IMAGE + XSAVE_XSTATE_BV, 0, 64);
	assert_true(xsave_save(v, DS, IMAGE, XSAVE_XSAVE, VECTOR, false));
	assert_memory_equal(ram + IMAGE + XSAVE_XMM, img + XSAVE_XMM, 128);
	assert_int_equal(ram[IMAGE + XSAVE_XMM + 128], 0xcc);
	assert_memory_equal(ram + IMAGE + at(2), img + at(2), 128);
	assert_int_equal(ram[IMAGE + at(2) + 128], 0xcc);
	assert_memory_equal(ram + IMAGE + at(6), img + at(6), 256);
	assert_int_equal(ram[IMAGE + at(6) + 256], 0xcc);
	assert_int_equal(ram[IMAGE + at(7)], 0xcc);
	assert_true(le_load(ram + IMAGE + XSAVE_XSTATE_BV, 8) ==
		    (VECTOR & ~XCR0_HI16_ZMM));
	/* Initialize all: the registers of 64-bit mode keep their contents. */
	memset(ram + IMAGE + XSAVE_XSTATE_BV, 0, 64);
	le_store(ram + IMAGE + XSAVE_MXCSR, MXCSR_INIT, 4);
	assert_true(xsave_restore(v, DS, IMAGE, false, VECTOR, false));
	assert_int_equal(v->xsave[XSAVE_XMM + 127], 0);
	assert_memory_equal(v->xsave + XSAVE_XMM + 128, img + XSAVE_XMM + 128, 128);
	assert_memory_equal(v->xsave + XSAVE_YMM + 128, img + at(2) + 128, 128);
	assert_memory_equal(v->xsave + XSAVE_HI16_ZMM, img + at(7), 1024);
	assert_true(le_load(v->xsave + XSAVE_XSTATE_BV, 8) & XCR0_SSE);
	memset(ram + IMAGE, 0xcc, 512);
	assert_true(fxsave(v, DS, IMAGE, false));
	assert_int_equal(ram[IMAGE + 287], 0);
	assert_int_equal(ram[IMAGE + 288], 0xcc);
	v->cr4 &= ~CR4_OSFXSR;
	memset(ram + IMAGE, 0xcc, 512);
	assert_true(fxsave(v, DS, IMAGE, false));
	assert_int_equal(ram[IMAGE + 160], 0xcc);
}

static void environment_of_real_mode_has_linear_pointers(void **state)
{
	static const u8 env32[28] = { 0x7f, 0x03, 0xff, 0xff, 0x00, 0x38, 0xff,
				      0xff, 0xff, 0xff, 0xff, 0xff, 0x57, 0x68,
				      0xff, 0xff, 0x23, 0x11, 0x00, 0x00, 0x8d,
				      0xcd, 0xff, 0xff, 0x00, 0xa0, 0x00, 0x00 };
	static const u8 env16[14] = { 0x7f, 0x03, 0x00, 0x38, 0xff, 0xff, 0x57,
				      0x68, 0x23, 0x11, 0x8d, 0xcd, 0x00, 0xa0 };

	(void)state;
	build("max,-zero_fcs_fds");
	mode64();
	mode_real();
	fninit(v);
	v->xsave[XSAVE_FSW + 1] = 0x38;
	v->fip = 0x5677;
	v->fcs = 0x111e; /* linear 16857 */
	v->fdp = 0xcdef;
	v->fds = 0x9ff8 + 0x1; /* 9ff90 + cdef = acd7f */
	v->fdp += 0xe;
	v->fop = 0x123;
	assert_true(fnstenv(v, DS, 0x8000, 4));
	assert_memory_equal(ram + 0x8000, env32, 28);
	v->xsave[XSAVE_FCW] = 0x7f;
	assert_true(fnstenv(v, DS, 0x8000, 2));
	assert_memory_equal(ram + 0x8000, env16, 14);
	fninit(v);
	memcpy(ram + 0x8000, env32, 28);
	assert_true(fldenv(v, DS, 0x8000, 4));
	assert_true(v->fip == 0x16857 && v->fdp == 0xacd8d && v->fop == 0x123 && !v->fcs);
	fninit(v);
	memcpy(ram + 0x8000, env16, 14);
	assert_true(fldenv(v, DS, 0x8000, 2));
	assert_true(v->fip == 0x16857 && v->fdp == 0xacd8d && v->fop == 0x123 && !v->fds);
	assert_true(v->xsave[XSAVE_FSW + 1] == 0x38);
}

static void selectors_travel_in_images(void **state)
{
	(void)state;
	build("max,vendor=GenuineIntel,-zero_fcs_fds");
	mode64();
	mode32();
	v->fip = 0x11111111;
	v->fcs = 0x2222;
	v->fdp = 0x33333333;
	v->fds = 0x4444;
	v->fop = 0x555;
	assert_true(fnstenv(v, DS, IMAGE, 4));
	assert_int_equal(le_load(ram + IMAGE + 12, 4), 0x11111111);
	assert_int_equal(le_load(ram + IMAGE + 16, 4), 0x05552222);
	assert_int_equal(le_load(ram + IMAGE + 20, 4), 0x33333333);
	assert_int_equal(le_load(ram + IMAGE + 24, 4), 0xffff4444);
	assert_true(fxsave(v, DS, IMAGE, false));
	fninit(v);
	assert_int_equal(v->fcs, 0);
	assert_true(fxrstor(v, DS, IMAGE, false));
	assert_int_equal(v->fcs, 0x2222);
	assert_int_equal(v->fds, 0x4444);
	assert_int_equal(v->fop, 0x555);
	build("max,vendor=GenuineIntel"); /* deprecated: always 0 */
	mode64();
	v->fcs = 0;
	assert_true(fxrstor(v, DS, IMAGE, false));
	assert_int_equal(v->fcs, 0);
	assert_true(v->fip == 0x11111111);
}

/* APM 2 section 11.4.4.3. They stay in the CPU, and FNSTENV has them. */
static void amd_saves_pointers_of_pending_exceptions(void **state)
{
	(void)state;
	build("max,vendor=AuthenticAMD");
	mode64();
	mode32();
	fninit(v);
	v->fip = 0x11111111;
	v->fcs = 0x2222;
	v->fdp = 0x33333333;
	v->fop = 0x555;
	memset(ram + IMAGE, 0xcc, 512);
	assert_true(fxsave(v, DS, IMAGE, false));
	assert_int_equal(le_load(ram + IMAGE + XSAVE_FOP, 2), 0);
	assert_true(le_load(ram + IMAGE + XSAVE_FIP, 8) == 0);
	assert_true(le_load(ram + IMAGE + XSAVE_FDP, 8) == 0);
	assert_true(fnstenv(v, DS, IMAGE, 4));
	assert_int_equal(le_load(ram + IMAGE + 12, 4), 0x11111111);
	le_store(v->xsave + XSAVE_FCW, 0x37e, 2);
	le_store(v->xsave + XSAVE_FSW, 0x8081, 2);
	assert_true(fxsave(v, DS, IMAGE, false));
	assert_int_equal(le_load(ram + IMAGE + XSAVE_FOP, 2), 0x555);
	assert_true(le_load(ram + IMAGE + XSAVE_FIP, 8) == 0x222211111111);
	assert_true(le_load(ram + IMAGE + XSAVE_FDP, 8) == 0x33333333);
}

static void ffxsr_leaves_out_xmm_at_cpl_0(void **state)
{
	(void)state;
	build("max,vendor=AuthenticAMD");
	mode64();
	v->efer |= EFER_FFXSR;
	memset(ram + IMAGE, 0xcc, 512);
	assert_true(fxsave(v, DS, IMAGE, true));
	assert_int_equal(ram[IMAGE + 159], 0);
	assert_int_equal(ram[IMAGE + 160], 0xcc);
	v->cpl = 3;
	vcpu_mode_changed(v);
	assert_true(fxsave(v, DS, IMAGE, true));
	assert_int_equal(ram[IMAGE + 160], 0);
}

static void power_up_state_is_that_of_the_manual(void **state)
{
	(void)state;
	v->pkru = 5;
	v->fip = 7;
	xsave_reset(v);
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2), 0x40);
	assert_int_equal(le_load(v->xsave + XSAVE_MXCSR, 4), 0x1f80);
	assert_int_equal(v->pkru, 0);
	assert_true(fnstenv(v, DS, IMAGE, 4));
	assert_int_equal(le_load(ram + IMAGE + 8, 2), 0x5555); /* tags: +0 */
	fninit(v);
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2), 0x37f);
	assert_true(fnstenv(v, DS, IMAGE, 4));
	assert_int_equal(le_load(ram + IMAGE + 8, 2), 0xffff);
}

static void xsetbv_checks_and_stores(void **state)
{
	u64 val;

	(void)state;
	assert_true(xsetbv(v, 0, 1));
	assert_true(xgetbv(v, 0, &val));
	assert_int_equal(val, 1);
	check_fault(xsetbv(v, 0, 0), VEC_GP);
	check_fault(xsetbv(v, 0, 5), VEC_GP);
	check_fault(xsetbv(v, 1, 3), VEC_GP);
	check_fault(xsetbv(v, 0, BIT(63)), VEC_GP);
	check_fault(xsetbv(v, 0, 0x23), VEC_GP); /* part of AVX-512 */
	assert_true(xsetbv(v, 0, table.xcr0));
}

#define TEST(f) cmocka_unit_test_setup(f, each)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(saves_write_what_the_host_writes),
		TEST(restores_load_what_the_host_loads),
		TEST(bad_headers_fault_where_the_host_faults),
		TEST(x87_images_are_those_of_the_host),
		TEST(fxsave_images_are_those_of_the_host),
		TEST(xgetbv_1_says_what_the_host_says),
		TEST(xsaves_round_trips_and_is_compacted),
		TEST(pkru_is_a_component),
		TEST(initial_x87_state_is_not_in_use),
		TEST(vectors_of_zeros_are_not_in_use),
		TEST(xrstors_takes_the_compacted_format_only),
		TEST(state_bits_disable_instructions),
		TEST(images_are_aligned),
		TEST(a_page_fault_changes_nothing),
		TEST(mxcsr_reserved_bits_fault),
		TEST(other_modes_have_half_the_registers),
		TEST(environment_of_real_mode_has_linear_pointers),
		TEST(selectors_travel_in_images),
		TEST(amd_saves_pointers_of_pending_exceptions),
		TEST(ffxsr_leaves_out_xmm_at_cpl_0),
		TEST(power_up_state_is_that_of_the_manual),
		TEST(xsetbv_checks_and_stores),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
