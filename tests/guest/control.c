/*
 * Control registers and MSRs: reserved bits, forbidden combinations, what a write does.
 * SDM volume 3 section 2.5 (CR0, CR4), 10.8 (long mode), volume 4 (MSRs); APM volume 2
 * section 3.1.7.
 */
#include "page.h"

static word try_cr0(word v)
{
	return TRY("", "mov %0, %%cr0", : : "r"(v) : "memory");
}

static UNUSED word try_cr3(word v)
{
	return TRY("", "mov %0, %%cr3", : : "r"(v) : "memory");
}

static word try_cr4(word v)
{
	return TRY("", "mov %0, %%cr4", : : "r"(v) : "memory");
}

static void cr0_combinations(void)
{
	word cr0 = read_cr0();

	/* PG without PE, NW without CD. */
	want_equal(try_cr0((cr0 | BIT(31)) & ~1ul), GP);
	want_equal(try_cr0((cr0 | BIT(29)) & ~(word)BIT(30)), GP);
	want_equal(try_cr0(cr0 | BIT(30)), NONE);
	want_equal(read_cr0(), cr0 | BIT(30));
	want_equal(try_cr0(cr0 | BIT(30) | BIT(29)), NONE);
	want_equal(try_cr0(cr0), NONE);
	/* ET reads as 1; bits that do not exist are ignored below 32. */
	want_equal(try_cr0((cr0 & ~(word)BIT(4)) | 0x1ffaffc0), NONE);
	want_equal(read_cr0() & ~(word)(BIT(16) | BIT(18)),
		   cr0 & ~(word)(BIT(16) | BIT(18)));
	write_cr0(cr0);
#if W64
	want_equal(try_cr0(cr0 | BIT(32)), GP);
	want_equal(try_cr0(cr0 | BIT(63)), GP);
	/* No way out of long mode from 64-bit code. */
	want_equal(try_cr0(cr0 & ~BIT(31)), GP);
#endif
	want_equal(read_cr0(), cr0);
}

static void lmsw(void)
{
	word cr0 = read_cr0();

	__asm__ volatile("lmsw %w0" : : "r"((cr0 & 0xfff0) | 0xb));
	want_equal(read_cr0(), (cr0 & ~0xful) | 0xb);
	/* PE can be set and not cleared; other bits are not touched. */
	__asm__ volatile("lmsw %w0" : : "r"(0xffe0));
	want_equal(read_cr0(), (cr0 & ~0xful) | 1);
	write_cr0(cr0);
}

static void clts(void)
{
	word cr0 = read_cr0();

	write_cr0(cr0 | 8);
	__asm__ volatile("clts");
	want_equal(read_cr0(), cr0 & ~8ul);
	write_cr0(cr0);
}

static bool cr4_bit_exists(unsigned n)
{
	switch (n) {
	case 0:
	case 1: return HAS(1, 0, d, 1);
	case 2: return HAS(1, 0, d, 4);
	case 3: return HAS(1, 0, d, 2);
	case 4: return HAS(1, 0, d, 3);
	case 5: return HAS(1, 0, d, 6);
	case 6: return HAS(1, 0, d, 7);
	case 7: return HAS(1, 0, d, 13);
	case 8:
	case 9: return HAS(1, 0, d, 24);
	case 10: return HAS(1, 0, d, 25);
	case 11: return HAS_UMIP;
	case 12: return HAS_LA57;
	case 13: return HAS(1, 0, c, 5);
	case 14: return HAS(1, 0, c, 6);
	case 16: return HAS_FSGSBASE;
	case 17: return HAS_PCID;
	case 18: return HAS_XSAVE;
	case 20: return HAS_SMEP;
	case 21: return HAS_SMAP;
	case 22: return HAS_PKU;
	case 23: return HAS(7, 0, c, 7) || HAS(7, 0, d, 20);
	case 24: return HAS_PKS;
	default: return false;
	}
}

static void cr4_bits(void)
{
	word cr4 = read_cr4();

	for (unsigned n = 0; n < (W64 ? 64 : 32); n++) {
		bool ok = cr4_bit_exists(n);

		if (n == 5 || n == 12 || n == 17 || n == 23)
			continue;
		TRY("", "mov %0, %%cr4", : : "r"(cr4 ^ (word)BIT(n)) : "memory");
		if (trap.vector != (ok ? NONE : GP))
			fail("bit %u: vector %lx", n, trap.vector);
		else if (ok && read_cr4() != (cr4 ^ (word)BIT(n)))
			fail("bit %u: reads %lx", n, read_cr4());
		write_cr4(cr4);
	}
#if W64
	want_equal(try_cr4(cr4 & ~(word)CR4_PAE), GP);
	/* PCIDE: in long mode, with PCID 0 alone. */
	if (HAS_PCID) {
		word cr3 = read_cr3();

		write_cr3(cr3 | 8);
		want_equal(try_cr4(cr4 | CR4_PCIDE), GP);
		write_cr3(cr3);
		want_equal(try_cr4(cr4 | CR4_PCIDE), NONE);
		/* Paging cannot be left with it; here it could not anyway. Bit 63 is no
		 * #GP now. */
		want_equal(try_cr3(cr3 | BIT(63)), NONE);
		want_equal(read_cr3(), cr3);
		want_equal(try_cr3(cr3 | 0xfff), NONE);
		want_equal(read_cr3(), cr3 | 0xfff);
		write_cr3(cr3);
		write_cr4(cr4);
	}
	want_equal(try_cr3(read_cr3() | BIT(63)), GP);
	want_equal(try_cr3(read_cr3() | BIT(phys_bits())), GP);
	/* Ignored bits are kept. */
	want_equal(try_cr3(read_cr3() | 0x18), NONE);
	want_equal(read_cr3() & 0xfff, 0x18);
	write_cr3(read_cr3() & ~0xffful);
#else
	if (HAS_PCID)
		want_equal(try_cr4(cr4 | CR4_PCIDE), GP);
#endif
}

static void cpuid_follows_cr4(void)
{
	word cr4 = read_cr4();

	if (!HAS_XSAVE) {
		skip("no XSAVE");
		return;
	}
	write_cr4(cr4 & ~(word)BIT(18));
	want_equal(HAS(1, 0, c, 27), 0);
	write_cr4(cr4 | BIT(18));
	want_equal(HAS(1, 0, c, 27), 1);
	write_cr4(cr4);
}

static void efer(void)
{
	u64 old = rdmsr(EFER);

	if (!HAS_SYSCALL && !HAS_LM)
		return;
	want_equal(try_wrmsr(EFER, old ^ EFER_SCE), NONE);
	want_equal(rdmsr(EFER), old ^ EFER_SCE);
	wrmsr(EFER, old);
	for (unsigned n = 1; n < 64; n++) {
		if (n == 8 || n == 10 || n == 11 || n == 14 || n == 21 ||
		    (n == 12 && HAS(0x80000001, 0, c, 2)))
			continue;
		if (try_wrmsr(EFER, old | BIT(n)) != GP)
			fail("bit %u: vector %lx", n, trap.vector);
	}
#if W64
	want(old & EFER_LMA);
	/* LME cannot change with paging on; LMA ignores writes. */
	want_equal(try_wrmsr(EFER, old & ~(u64)EFER_LME), GP);
	want_equal(try_wrmsr(EFER, old & ~(u64)EFER_LMA), NONE);
#else
	/* LME alone does nothing yet. */
	want_equal(try_wrmsr(EFER, old | EFER_LME), HAS_LM ? NONE : GP);
	want_equal(rdmsr(EFER), old | (HAS_LM ? EFER_LME : 0));
	if (!HAS_LM)
		return;
	/* Paging without PAE is then refused. */
	want_equal(try_cr0(read_cr0() | BIT(31)), GP);
#endif
	wrmsr(EFER, old);
	want_equal(rdmsr(EFER), old);
}

/* MSRs that are there, and the values that they refuse. */
static void msr_values(void)
{
	const u64 hole = NOT_CANONICAL;
	const struct {
		u32 msr;
		u64 good, bad;
	} table[] = {
		{ 0x174, 0x1234, 0 },                              /* SYSENTER_CS */
		{ 0x175, 0x12345678, W64 ? hole : 0 },             /* SYSENTER_ESP */
		{ 0x176, 0x12345678, W64 ? hole : 0 },             /* SYSENTER_EIP */
		{ 0x277, 0x0007040600070406, 0x0007040600070402 }, /* PAT: type 2 */
		{ 0x277, 0x0007040600070406, 0x0007040600070408 },
		{ 0x2ff, 0xc06, 0xc02 }, /* MTRR_DEF_TYPE */
		{ 0x2ff, 0xc06, 0x1c06 },
		{ 0xc0000081, 0x0023001000000000, 0 }, /* STAR */
		{ 0xc0000082, hole - 1, hole },        /* LSTAR */
		{ 0xc0000083, -hole, ~hole },
		{ 0xc0000084, 0x47700, 0x100000000 }, /* SFMASK */
#if W64                                       /* a trap of a 32-bit guest loads FS */
		{ 0xc0000100, 0x1000, hole }, /* FS_BASE */
#endif
		{ 0xc0000102, 0xffffffff80000000, 0x8000000000000000 },
		/* AMD's drops the upper half. */
		{ 0xc0000103, 0x12345678, cpu_is_amd() ? 0 : 0x100000000 }, /* TSC_AUX */
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u64 old, v;

		if (table[i].msr == 0xc0000103 && !HAS_RDTSCP && !HAS(7, 0, c, 22))
			continue;
		if (table[i].msr >= 0xc0000081 && !HAS_LM)
			continue;
		if (try_rdmsr(table[i].msr, &old) != NONE) {
			fail("msr %x: cannot be read", table[i].msr);
			continue;
		}
		if (try_wrmsr(table[i].msr, table[i].good) != NONE)
			fail("msr %x: refuses %llx", table[i].msr, table[i].good);
		try_rdmsr(table[i].msr, &v);
		if (v != table[i].good)
			fail("msr %x: wrote %llx read %llx", table[i].msr, table[i].good,
			     v);
		if (table[i].bad && try_wrmsr(table[i].msr, table[i].bad) != GP)
			fail("msr %x: takes %llx", table[i].msr, table[i].bad);
		try_rdmsr(table[i].msr, &v);
		if (v != table[i].good)
			fail("msr %x: %llx after a refused write", table[i].msr, v);
		wrmsr(table[i].msr, old);
	}
}

static void msr_unknown(void)
{
	static const u32 none[] = { 0x3,        0x4fff,     0x80,      0xc0000090,
				    0xc0001fff, 0x12345678, 0xffffffff };
	u64 v;

	for (unsigned i = 0; i < ARRAY_SIZE(none); i++) {
		if (try_rdmsr(none[i], &v) != GP)
			fail("msr %x can be read", none[i]);
		if (try_wrmsr(none[i], 0) != GP)
			fail("msr %x can be written", none[i]);
	}
	want_fault(GP, 0);
}

static void tsc(void)
{
	u64 a = rdtsc(), b;

	wrmsr(0x10, 0x1000000000);
	b = rdtsc();
	want(b >= 0x1000000000 && b < 0x1000000000 + 100000000000);
	b = rdmsr(0x10);
	want(b >= 0x1000000000);
	/* TSC_ADJUST moves with it. */
	if (HAS(7, 0, b, 1)) {
		u64 adjust = rdmsr(0x3b);

		wrmsr(0x3b, adjust + 0x100000000000);
		want(rdtsc() >= 0x101000000000);
		wrmsr(0x3b, 0);
	}
	wrmsr(0x10, a);
	for (unsigned i = 0; i < 1000; i++) {
		u64 next = rdtsc();

		if (next < a)
			fail("the TSC went back by %llx", a - next);
		a = next;
	}
	if (HAS_RDTSCP) {
		u32 lo, hi, aux;

		wrmsr(0xc0000103, 0x55667788);
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		want_equal(aux, 0x55667788);
		(void)lo, (void)hi;
	}
}

#if W64
static void cr8(void)
{
	write_cr8(5);
	want_equal(read_cr8(), 5);
	TRY("", "mov %0, %%cr8", : : "r"(16l));
	want_fault(GP, 0);
	want_equal(read_cr8(), 5);
	write_cr8(0);
}
#endif

/* ---- XSAVE ---- */

static word try_xsetbv(u32 index, u64 v)
{
	return TRY("", "xsetbv", : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)));
}

static u8 area[4096] __attribute__((aligned(64)));

static word xsetbv_user(word arg)
{
	(void)arg;
	return try_xsetbv(0, 1);
}

static void xsave(void)
{
	word cr0 = read_cr0(), cr4 = read_cr4();
	u64 valid = cpuid(0xd, 0).a | (u64)cpuid(0xd, 0).d << 32;

	if (!HAS_XSAVE) {
		skip("no XSAVE");
		return;
	}
	TRY("", "xsave (%0)", : : "r"(area), "a"(1), "d"(0) : "memory");
	want_fault(UD, 0);
	want_equal(try_xsetbv(0, 1), UD);
	TRY("", "xgetbv", : : "c"(0) : "eax", "edx");
	want_fault(UD, 0);
	write_cr4(cr4 | BIT(18) | BIT(9));
	write_cr0(cr0 & ~0xcul);
	TRY("", "xgetbv", : : "c"(5) : "eax", "edx");
	want_fault(GP, 0);
	/* Bit 0 always; AVX needs SSE; no unknown ones; the index. */
	want_equal(try_xsetbv(0, 0), GP);
	want_equal(try_xsetbv(0, 2), GP);
	want_equal(try_xsetbv(0, 5), GP);
	want_equal(try_xsetbv(0, 1 | BIT(8)), GP);
	want_equal(try_xsetbv(0, 1 | BIT(63)), GP);
	want_equal(try_xsetbv(1, 1), GP);
	want_equal(user_run(xsetbv_user, 0), GP);
	if (valid >> 5 & 1) {
		want_equal(try_xsetbv(0, 0x27), GP);
		want_equal(try_xsetbv(0, 0xe1), GP);
	}
	want_equal(try_xsetbv(0, valid), NONE);
	/* Alignment, and TS. */
	TRY("", "xsave (%0)", : : "r"(area + 8), "a"(1), "d"(0) : "memory");
	want_fault(GP, 0);
	TRY("", "xsave (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_none();
	write_cr0((cr0 & ~4ul) | 8);
	TRY("", "xsave (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_fault(NM, 0);
	TRY("", "xrstor (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_fault(NM, 0);
	write_cr0(cr0 & ~0xcul);
	/* XRSTOR checks the header. */
	*(volatile u64 *)(area + 512) = BIT(20);
	TRY("", "xrstor (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_fault(GP, 0);
	*(volatile u64 *)(area + 512) = 3;
	*(volatile u64 *)(area + 528) = 1;
	TRY("", "xrstor (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_fault(GP, 0);
	*(volatile u64 *)(area + 528) = 0;
	*(volatile u32 *)(area + 24) = 0xffff0000; /* MXCSR */
	TRY("", "xrstor (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_fault(GP, 0);
	*(volatile u32 *)(area + 24) = 0x1f80;
	TRY("", "xrstor (%0)", : : "r"(area), "a"(7), "d"(0) : "memory");
	want_none();
	try_xsetbv(0, 1);
	write_cr0(cr0);
	write_cr4(cr4);
}

static void fxsave(void)
{
	TRY("", "fxsave (%0)", : : "r"(area + 8) : "memory");
	want_fault(GP, 0);
	TRY("", "fxsave (%0)", : : "r"(area) : "memory");
	want_none();
	*(volatile u32 *)(area + 24) = 0x10000; /* MXCSR */
	write_cr4(read_cr4() | BIT(9));
	TRY("", "fxrstor (%0)", : : "r"(area) : "memory");
	want_fault(GP, 0);
	*(volatile u32 *)(area + 24) = 0x20000;
	TRY("", "ldmxcsr 24(%0)", : : "r"(area) : "memory");
	want_fault(GP, 0);
	write_cr4(read_cr4() & ~(word)BIT(9));
}

#if W64
/* Long mode is left by way of compatibility mode and entered again; see also paging. */
static void long_mode_and_back(void)
{
	paging_on(PAGING_4, true);
	want(rdmsr(EFER) & EFER_LMA);
	want(read_cr0() & BIT(31));
}
#endif

const struct test_case cases[] = {
	CASE(cr0_combinations, "SDM 3 2.5"),
	CASE(lmsw, "SDM 2 LMSW"),
	CASE(clts, "SDM 2 CLTS"),
	CASE(cr4_bits, "SDM 3 2.5"),
	CASE(cpuid_follows_cr4, "SDM 2 CPUID"),
	CASE(efer, "SDM 4 IA32_EFER"),
	CASE(msr_values, "SDM 4"),
	CASE(msr_unknown, "SDM 2 RDMSR"),
	CASE(tsc, "SDM 3 17.17"),
#if W64
	CASE(cr8, "SDM 3 11.8.6"),
	CASE(long_mode_and_back, "SDM 3 10.8.5"),
#endif
	CASE(xsave, "SDM 1 13"),
	CASE(fxsave, "SDM 2 FXSAVE"),
	CASES_END,
};
