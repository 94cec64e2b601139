/*
 * Control registers, debug registers, XCR0 and MSRs bit by bit, and CPUID's agreement
 * with them.
 *
 * SDM volume 3 sections 2.5 (CR0, CR4), 2.6 (XCR0), 10.8.5 (entering and leaving IA-32e
 * mode), 17.2 (debug registers); volume 4 (MSRs); volume 1 chapter 13 and volume 2 CPUID.
 * Which bits an MSR has is said here once more, from the manual.
 */
#include "page.h"

/* ---- control registers ---- */

/* Every combination of the bits that matter to each other: SDM 2, MOV to CR, #GP(0). */
static void cr0_combinations(void)
{
	static const u8 bits[] = { 0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31 };
	word old = read_cr0();

	for (unsigned n = 0; n < 1u << ARRAY_SIZE(bits); n++) {
		word v = 0;
		bool bad;

		for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
			v |= n >> i & 1 ? (word)BIT(bits[i]) : 0;
		bad = ((v & BIT(31)) && !(v & 1)) || ((v & BIT(29)) && !(v & BIT(30)));
#if W64
		bad |= !(v & BIT(31)); /* from 64-bit code */
#else
		/* Those that work and change the mode are other tests. */
		if (!bad && ((v & BIT(31)) || !(v & 1)))
			continue;
#endif
		TRY("", "mov %0, %%cr0", : : "r"(v) : "memory");
		checked();
		if (trap.vector != (bad ? GP : NONE) || (bad && trap.error))
			fail("cr0 %lx: vector %lx error %lx", v, trap.vector, trap.error);
		want_equal(read_cr0(), bad ? old : v | 0x10);
		__asm__ volatile("mov %0, %%cr0" : : "r"(old) : "memory");
		if (failed())
			return;
	}
}

static u64 cr4_valid(void)
{
	u64 v = BIT(8);

	v |= HAS(1, 0, d, 1) ? 3 : 0;
	v |= HAS(1, 0, d, 4) ? BIT(2) : 0;
	v |= HAS(1, 0, d, 2) ? BIT(3) : 0;
	v |= HAS(1, 0, d, 3) ? BIT(4) : 0;
	v |= HAS(1, 0, d, 6) ? BIT(5) : 0;
	v |= HAS(1, 0, d, 7) ? BIT(6) : 0;
	v |= HAS(1, 0, d, 13) ? BIT(7) : 0;
	v |= HAS(1, 0, d, 24) ? BIT(9) : 0;
	v |= HAS(1, 0, d, 25) ? BIT(10) : 0;
	v |= HAS_UMIP ? BIT(11) : 0;
	v |= HAS_LA57 ? BIT(12) : 0;
	v |= HAS_FSGSBASE ? BIT(16) : 0;
	v |= HAS_PCID ? BIT(17) : 0;
	v |= HAS_XSAVE ? BIT(18) : 0;
	v |= HAS_SMEP ? BIT(20) : 0;
	v |= HAS_SMAP ? BIT(21) : 0;
	v |= HAS_PKU ? BIT(22) : 0;
	v |= HAS_PKS ? BIT(24) : 0;
	return v;
}

/* Each pair of bits changed: a write is refused as a whole. */
static void cr4_pairs(void)
{
	word old = read_cr4();
	u64 valid = cr4_valid();
	u64 keep = BIT(12) | BIT(5); /* not in long mode; LA57 outside it is paging's */

	for (unsigned i = 0; i < (W64 ? 64u : 32u); i++) {
		row(i < 32 ? "CR4 bit %u" : "CR4 from bit 32", i);
		for (unsigned k = i; k < (W64 ? 64u : 32u) && !failed(); k++) {
			u64 v = old ^ (BIT(i) | (i == k ? 0 : BIT(k)));
			bool bad = v & ~valid;

			if (W64)
				bad |= (v ^ old) & keep;
			else
				bad |= v >> 17 & 1; /* PCIDE outside long mode */
			if (!W64 && ((v ^ old) & keep))
				continue;
			TRY("", "mov %0, %%cr4", : : "r"((word)v) : "memory");
			checked();
			if (trap.vector != (bad ? GP : NONE) || (bad && trap.error))
				fail("cr4 %llx: vector %lx error %lx", v, trap.vector,
				     trap.error);
			else if (read_cr4() != (bad ? old : v))
				fail("cr4 %llx: reads %lx", v, read_cr4());
			write_cr4(old);
		}
	}
}

#if W64
/* CR3: bits above the physical addresses' are reserved; bit 63 with PCIDE is a command.
 */
static void cr3_bits(void)
{
	word old = read_cr3();

	for (unsigned pcid = 0; pcid < 2; pcid++) {
		if (pcid && !HAS_PCID)
			break;
		write_cr4(read_cr4() | (pcid ? CR4_PCIDE : 0));
		for (unsigned n = 0; n < 64; n++) {
			bool bad = n >= phys_bits() && !(n == 63 && pcid);

			if (n >= 12 && !bad && n != 63)
				continue; /* another table */
			row(n < 12 || n == 63 ? "CR3 bit %u%s" : "CR3 above, to %u%s",
			    n < 12 || n == 63 ? n : 62, pcid ? ", PCIDE" : "");
			TRY("", "mov %0, %%cr3", : : "r"(old ^ BIT(n)) : "memory");
			if (bad)
				want_fault(GP, 0);
			else
				want_none();
			want_equal(read_cr3(), bad || n == 63 ? old : old ^ BIT(n));
			write_cr3(old);
		}
	}
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

/* CR8: bits 63:4 are reserved; it is the upper half of TPR. */
static void cr8_bits(void)
{
	for (unsigned n = 0; n < 64; n++) {
		TRY("", "mov %0, %%cr8", : : "r"(BIT(n)));
		if (n < 4)
			want_none();
		else
			want_fault(GP, 0);
		want_equal(read_cr8(), n < 4 ? BIT(n) : 0);
		write_cr8(0);
	}
	for (unsigned n = 0; n < 16; n++) {
		write_cr8(n);
		want_equal(*(volatile u32 *)0xfee00080, n << 4);
	}
	write_cr8(0);
}
#else
/* SDM 3 10.8.5: what refuses to enter IA-32e mode. CR0.PG stays off. */
static void enter_long_mode_refused(void)
{
	word cr4 = read_cr4();
	u64 efer = rdmsr(EFER);

	want_equal(try_wrmsr(EFER, efer | EFER_LME), HAS_LM ? NONE : GP);
	if (!HAS_LM)
		return;
	/* Without PAE. */
	TRY("", "mov %0, %%cr0", : : "r"(read_cr0() | (word)BIT(31)) : "memory");
	want_fault(GP, 0);
	want_equal(read_cr0() >> 31, 0);
	want_equal(rdmsr(EFER) & EFER_LMA, 0);
	/* A 16-bit TSS in TR. */
	write_cr4(cr4 | CR4_PAE);
	set_gdt(FREE_SEL, descriptor((u32)&tss, 0x2b, D_TYPE(1) | D_P));
	__asm__ volatile("ltr %w0" : : "r"(FREE_SEL));
	TRY("", "mov %0, %%cr0", : : "r"(read_cr0() | (word)BIT(31)) : "memory");
	want_fault(GP, 0);
	load_tss();
	/* CS of a 64-bit segment: not before LMA is on. */
	write_cr4(cr4);
	wrmsr(EFER, efer);
}
#endif

/* ---- debug registers ---- */

static void dr_bits(void)
{
	for (unsigned n = 0; n < (W64 ? 64u : 32u); n++) {
		word b = (word)BIT(n);

		row(n < 32 ? "DR6 and DR7, bit %u" : "DR6 and DR7 from bit 32", n);
		/* DR6: B0 to B3, BD, BS, BT can be written; the upper half must be 0. */
		TRY("", "mov %0, %%dr6", : : "r"(b));
		if (n >= 32)
			want_fault(GP, 0);
		else
			want_none();
		want_equal(read_dr6(), n < 32 ? 0xffff0ff0 | (b & 0xe00f) : 0xffff0ff0);
		write_dr6(0);
		/* DR7: bit 10 is 1; 11, 12, 14, 15 are 0. GD would trap the next. */
		if (n == 13)
			continue;
		TRY("", "mov %0, %%dr7", : : "r"(b));
		if (n >= 32)
			want_fault(GP, 0);
		else
			want_none();
		want_equal(read_dr7(), n < 32 ? 0x400 | (b & ~(word)0xd800) : 0x400);
		write_dr7(0x400);
		__asm__ volatile("mov %0, %%dr0" : : "r"(b));
		want_equal(read_dr0(), b);
		__asm__ volatile("mov %0, %%dr3" : : "r"(~b));
		want_equal(read_dr3(), ~b);
	}
	write_dr0(0);
	write_dr3(0);
}

/* ---- XCR0 ---- */

static bool xcr0_ok(u64 v, u64 has)
{
	if ((v & ~has) || !(v & 1))
		return false;
	if ((v & 4) && !(v & 2))
		return false;
	if (v & 0xe0)
		return (v & 0xe0) == 0xe0 && (v & 4);
	return true;
}

static void xcr0_combinations(void)
{
	word cr4 = read_cr4();
	struct cpuid d;
	u64 has;

	if (!HAS_XSAVE) {
		skip("no XSAVE");
		return;
	}
	write_cr4(cr4 | BIT(18));
	d = cpuid(0xd, 0);
	has = d.a | (u64)d.d << 32;
	row("combinations of known bits");
	for (unsigned n = 0; n < 1024 && !failed(); n++) {
		u32 lo, hi;
		word v = TRY("", "xsetbv", : : "c"(0), "a"(n), "d"(0));
		bool ok = xcr0_ok(n, has);

		checked();
		if (v != (ok ? NONE : GP) || (!ok && trap.error))
			fail("xcr0 %x: vector %lx", n, v);
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		want_equal(lo, ok ? n : 1u);
		want_equal(hi, 0);
		/* SDM 2 CPUID leaf 0DH, EBX: the size that is enabled now. */
		d = cpuid(0xd, 0);
		want(d.b <= d.c && d.b >= 576);
		if (ok) {
			u32 size = 576;

			for (unsigned i = 2; i < 10; i++) {
				struct cpuid s = cpuid(0xd, i);

				if ((n >> i & 1) && s.a + s.b > size)
					size = s.a + s.b;
			}
			want_equal(d.b, size);
		}
		__asm__ volatile("xsetbv" : : "c"(0), "a"(1), "d"(0));
	}
	row("bits 10 to 63");
	for (unsigned n = 10; n < 64; n++) {
		TRY("", "xsetbv",
		    :
		    : "c"(0), "a"(1 | (n < 32 ? 1u << n : 0)),
		      "d"(n < 32 ? 0 : 1u << (n - 32)));
		if (!(has >> n & 1))
			want_fault(GP, 0);
	}
	row("XCRs that do not exist");
	for (unsigned n = 1; n < 32; n++) {
		TRY("", "xsetbv", : : "c"(1u << n), "a"(1), "d"(0));
		want_fault(GP, 0);
	}
	write_cr4(cr4);
}

/* ---- MSRs ---- */

static u64 phys_above(void)
{
	return ~0ull << phys_bits();
}

/* Intel's CPUID says so in 64-bit mode alone; the MSRs are always there. */
static bool has_syscall(void)
{
	return HAS_SYSCALL || HAS(0x80000001, 0, d, 29);
}

static u64 efer_writable(void)
{
	/* LMA cannot be written, and is not refused; LME not while paging is on. */
	return (has_syscall() ? 1 : 0) | (HAS_NX ? BIT(11) : 0) |
	       (HAS(0x80000001, 0, d, 25) ? BIT(14) : 0) |
	       (HAS(0x80000021, 0, a, 8) ? BIT(21) : 0) | (W64 || !HAS_LM ? 0 : BIT(8));
}

/* The bits that can be set alone, in an MSR that is 0 otherwise. */
struct msr_row {
	u32 msr;
	u64 writable;
	bool exists;
};

static void msr_row(const struct msr_row *m)
{
	u64 old, v;

	row("MSR %x", m->msr);
	if (!m->exists) {
		want_equal(try_rdmsr(m->msr, &v), GP);
		want_equal(try_wrmsr(m->msr, 0), GP);
		return;
	}
	want_equal(try_rdmsr(m->msr, &old), NONE);
	for (unsigned n = 0; n < 64; n++) {
		bool ok = m->writable >> n & 1;

		if (try_wrmsr(m->msr, BIT(n)) != (ok ? NONE : GP) ||
		    (!ok && (trap.error || trap.ip != trap.at)))
			fail("msr %x bit %u: vector %lx error %lx", m->msr, n,
			     trap.vector, trap.error);
		checked();
		try_rdmsr(m->msr, &v);
		if (ok ? v != BIT(n) : v != old)
			fail("msr %x bit %u: reads %llx", m->msr, n, v);
		wrmsr(m->msr, old);
	}
}

static void msr_bits(void)
{
	bool mtrr = HAS(1, 0, d, 12), mca = HAS(1, 0, d, 14), amd = cpu_is_amd();
	u64 base = ~phys_above() & ~0xfffull, mask = base | BIT(11);
	u64 types = BIT(0) | BIT(2); /* 1 and 4; also 5 and 6 */
	const struct msr_row rows[] = {
		{ 0x174, ~0ull, HAS(1, 0, d, 11) },
		{ 0x17a, 7, mca },
		{ 0x200, base | types, mtrr },
		{ 0x201, mask, mtrr },
		{ 0x20e, base | types, mtrr },
		{ 0x20f, mask, mtrr },
		{ 0x250, types * 0x0101010101010101, mtrr },
		{ 0x258, types * 0x0101010101010101, mtrr },
		{ 0x26f, types * 0x0101010101010101, mtrr },
		/* Types 1 and 4; 2 is reserved, and so is what is above 7. */
		{ 0x277, types * 0x0101010101010101, HAS(1, 0, d, 16) },
		{ 0x2ff, 0xc00 | types, mtrr },
		{ 0x400, ~0ull, mca },
		{ 0x401, 0, mca },
		{ 0x402, 0, mca },
		{ 0x403, 0, mca },
		{ 0x6e1, 0xffffffff, HAS_PKS },
		{ 0xc0000081, ~0ull, has_syscall() },
		{ 0xc0000084, 0xffffffff, HAS(0x80000001, 0, d, 29) },
		{ 0xc0000103, 0xffffffff, (HAS_RDTSCP || HAS(7, 0, c, 22)) && !amd },
		{ 0x1d9, 3, true },
		{ 0xc0010016, base | BIT(3) | BIT(4), amd },
		{ 0xc0010017, mask, amd },
		{ 0xc001001a, base & ~0x7fffffull, amd },
		{ 0xc001001d, base & ~0x7fffffull, amd },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows) && !failed(); i++)
		if (rows[i].exists || rows[i].msr != 0xc0000103 || !amd)
			msr_row(&rows[i]);
}

/* EFER: the writable bits toggled, all others refused, LMA ignored. */
static void efer_bits(void)
{
	u64 old = rdmsr(EFER), ok = efer_writable();

	for (unsigned n = 0; n < 64; n++) {
		u64 v = old ^ BIT(n);

		row(n < 32 ? "EFER bit %u" : "EFER from bit 32", n);
		/* Code needs NX off or on, neither. LMA as read. */
		if (n == 10) {
			want_equal(try_wrmsr(EFER, v), HAS_LM ? NONE : GP);
			want_equal(rdmsr(EFER), old);
			continue;
		}
		want_equal(try_wrmsr(EFER, v), ok >> n & 1 ? NONE : GP);
		want_equal(rdmsr(EFER), ok >> n & 1 ? v : old);
		wrmsr(EFER, old);
	}
}

/* SDM 3 table 12-10 and 12-12: memory types, in each place that holds one. */
static void memory_types(void)
{
	for (unsigned type = 0; type < 256 && HAS(1, 0, d, 12); type++) {
		bool ok = type < 7 && type != 2 && type != 3, pat = ok || type == 7;

		row(type < 8 ? "type %u in PAT and fixed MTRR"
			     : "higher types in PAT "
			       "and fixed MTRR",
		    type);
		for (unsigned i = 0; i < 8; i++) {
			u64 others = 0x0606060606060606 & ~(0xffull << (8 * i));
			u64 v = others | (u64)type << (8 * i), old = rdmsr(0x277);

			want_equal(try_wrmsr(0x277, v), pat ? NONE : GP);
			want_equal(rdmsr(0x277), pat ? v : old);
			wrmsr(0x277, 0x0007040600070406);
			old = rdmsr(0x250);
			want_equal(try_wrmsr(0x250, v), ok ? NONE : GP);
			wrmsr(0x250, old);
		}
		{
			u64 old = rdmsr(0x2ff);

			row(type < 8 ? "type %u in variable MTRR and by default"
				     : "higher types in variable MTRR and by default",
			    type);
			want_equal(try_wrmsr(0x2ff, 0xc00 | type), ok ? NONE : GP);
			wrmsr(0x2ff, old);
			old = rdmsr(0x20e);
			want_equal(try_wrmsr(0x20e, 0x1000 | type), ok ? NONE : GP);
			wrmsr(0x20e, old);
		}
	}
}

/* Read only ones, and write only ones. */
static void msr_directions(void)
{
	static const u32 read_only[] = { 0xfe, 0x179, 0x17, 0xce, 0x1db, 0x1dc };
	u64 v;

	for (unsigned i = 0; i < ARRAY_SIZE(read_only); i++) {
		if (try_rdmsr(read_only[i], &v) != NONE)
			continue; /* not of this vendor */
		row("MSR %x is read only", read_only[i]);
		want_equal(try_wrmsr(read_only[i], v), GP);
		want_equal(try_wrmsr(read_only[i], 0), GP);
	}
	if (!HAS(7, 0, d, 26) && !HAS(0x80000008, 0, b, 12))
		return;
	row("MSR 49 is write only");
	want_equal(try_rdmsr(0x49, &v), GP);
	for (unsigned n = 0; n < 64; n++)
		want_equal(try_wrmsr(0x49, BIT(n)), n ? GP : NONE);
}

/* An address between the known ones, all over the ranges: #GP(0), never a hang. */
static void msr_unknown(void)
{
	static const u32 base[] = { 0x4000,     0xb00,      0x40000000 + 0x1000000,
				    0xc0002100, 0xc0020000, 0x80000000 };

	for (unsigned i = 0; i < ARRAY_SIZE(base); i++) {
		row("MSRs from %x on", base[i]);
		for (u32 n = 0; n < 32; n++) {
			u64 v;

			want_equal(try_rdmsr(base[i] + n, &v), GP);
			want_fault(GP, 0);
			want_equal(try_wrmsr(base[i] + n, 0), GP);
		}
	}
}

/* ---- CPUID ---- */

static bool same_cpuid(struct cpuid a, struct cpuid b)
{
	return a.a == b.a && a.b == b.b && a.c == b.c && a.d == b.d;
}

/* A feature that needs another has it: the manuals' own implications. */
static void cpuid_implications(void)
{
	bool avx = HAS(1, 0, c, 28), avx2 = HAS(7, 0, b, 5), f512 = HAS(7, 0, b, 16);
	bool lm = HAS(0x80000001, 0, d, 29);
	const struct {
		bool feature, needs;
		const char *what;
	} table[] = {
		{ HAS(1, 0, d, 26), HAS(1, 0, d, 25), "SSE2 needs SSE" },
		{ HAS(1, 0, d, 25), HAS(1, 0, d, 24), "SSE needs FXSR" },
		{ HAS(1, 0, c, 0), HAS(1, 0, d, 26), "SSE3 needs SSE2" },
		{ HAS(1, 0, c, 9), HAS(1, 0, c, 0), "SSSE3 needs SSE3" },
		{ HAS(1, 0, c, 19), HAS(1, 0, c, 9), "SSE4.1 needs SSSE3" },
		{ HAS(1, 0, c, 20), HAS(1, 0, c, 19), "SSE4.2 needs SSE4.1" },
		{ avx, HAS_XSAVE, "AVX needs XSAVE" },
		{ avx, HAS(1, 0, c, 20), "AVX needs SSE4.2" },
		{ HAS(1, 0, c, 12), avx, "FMA needs AVX" },
		{ HAS(1, 0, c, 29), avx, "F16C needs AVX" },
		{ avx2, avx, "AVX2 needs AVX" },
		{ f512, avx2, "AVX512F needs AVX2" },
		{ HAS(7, 0, b, 17), f512, "AVX512DQ needs F" },
		{ HAS(7, 0, b, 28), f512, "AVX512CD needs F" },
		{ HAS(7, 0, b, 30), f512, "AVX512BW needs F" },
		{ HAS(7, 0, b, 31), f512, "AVX512VL needs F" },
		{ HAS(7, 0, c, 1), HAS(7, 0, b, 30), "VBMI needs BW" },
		{ HAS(7, 0, c, 9), avx, "VAES needs AVX" },
		{ HAS(7, 0, c, 10), avx, "VPCLMULQDQ needs AVX" },
		{ HAS(7, 0, c, 9), HAS(1, 0, c, 25), "VAES needs AES" },
		{ lm, HAS(1, 0, d, 6), "long mode needs PAE" },
		{ lm && (W64 || cpu_is_amd()), HAS_SYSCALL, "long mode needs SYSCALL" },
		{ lm, HAS(1, 0, d, 26), "long mode needs SSE2" },
		{ HAS_LA57, lm, "LA57 needs long mode" },
		{ HAS_PCID, lm, "PCID needs long mode" },
		{ HAS_X2APIC, HAS(1, 0, d, 9), "x2APIC needs an APIC" },
		{ HAS_DEADLINE, HAS(1, 0, d, 4), "TSC deadline needs TSC" },
		{ HAS(1, 0, d, 14), HAS(1, 0, d, 7), "MCA needs MCE" },
		{ HAS(1, 0, c, 13), lm, "CMPXCHG16B needs long mode" },
		{ HAS(0x80000001, 0, d, 26), lm, "1 GiB pages need long mode" },
		{ HAS(1, 0, d, 17), HAS(1, 0, d, 3), "PSE-36 needs PSE" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].what);
		checked();
		if (table[i].feature && !table[i].needs)
			fail("%s", table[i].what);
	}
}

static void cpuid_leaves(void)
{
	u32 max = cpuid(0, 0).a, max_ext = cpuid(0x80000000, 0).a;
	struct cpuid last = cpuid(max, 0);
	bool amd = cpu_is_amd();

	row("last leaves");
	want(max >= 0xd || !HAS_XSAVE);
	want(max_ext >= 0x80000008);
	row("leaves beyond the last");
	/* Above the last: Intel's show the last basic leaf, AMD's zeros. */
	for (u32 leaf = max + 1; leaf < max + 32; leaf++) {
		struct cpuid c = cpuid(leaf, 0), zero = { 0, 0, 0, 0 };

		checked();
		if (amd ? !same_cpuid(c, zero) : !same_cpuid(c, last))
			fail("leaf %x: %x %x %x %x", leaf, c.a, c.b, c.c, c.d);
	}
	for (u32 leaf = max_ext + 1; leaf < max_ext + 8; leaf++) {
		struct cpuid c = cpuid(leaf, 0), zero = { 0, 0, 0, 0 };

		checked();
		if (amd ? !same_cpuid(c, zero) : !same_cpuid(c, last))
			fail("leaf %x: %x %x %x %x", leaf, c.a, c.b, c.c, c.d);
	}
	row("vendor and brand");
	/* The vendor twice for AMD; the brand string ends. */
	if (amd) {
		want_equal(cpuid(0x80000000, 0).b, cpuid(0, 0).b);
		want_equal(cpuid(0x80000001, 0).d & 0x183f3ff, cpuid(1, 0).d & 0x183f3ff);
	}
	want_equal(cpuid(0x80000004, 0).d >> 24, 0);
	row("sizes of addresses");
	/* Addresses: physical 32 to 52, linear 48 or 57. */
	want(phys_bits() >= 32 && phys_bits() <= 52);
	want_equal(cpuid(0x80000008, 0).a >> 8 & 0xff, HAS_LA57 ? 57 : HAS_LM ? 48 : 32);
	row("leaf 0Bh");
	/* Leaf 0BH: the subleaf comes back, and the x2APIC ID, in all of them. */
	for (u32 sub = 0; sub < 8 && max >= 0xb; sub++) {
		want_equal(cpuid(0xb, sub).c & 0xff, sub);
		want_equal(cpuid(0xb, sub).d, cpuid(0xb, 0).d);
		if (sub >= 2)
			want_equal(cpuid(0xb, sub).c >> 8, 0);
	}
	row("leaf 7 beyond its last subleaf");
	/* Subleaves of 7 beyond the last are zeros. */
	for (u32 sub = cpuid(7, 0).a + 1; sub < cpuid(7, 0).a + 8; sub++) {
		struct cpuid c = cpuid(7, sub);

		want_equal(c.a | c.b | c.c | c.d, 0);
	}
}

/* The components of XSAVE do not overlap and end within the size said. */
static void cpuid_xsave(void)
{
	struct cpuid d = cpuid(0xd, 0);
	u64 has = d.a | (u64)d.d << 32;

	if (!HAS_XSAVE) {
		skip("no XSAVE");
		return;
	}
	want_equal(has & 3, 3);
	want_equal(!(has & 4), !HAS(1, 0, c, 28));
	want_equal(has & 0xe0, HAS(7, 0, b, 16) ? 0xe0 : 0);
	want_equal(!(has >> 9 & 1), !HAS_PKU);
	for (unsigned i = 2; i < 63; i++) {
		struct cpuid c = cpuid(0xd, i);

		if (!(has >> i & 1) && !(cpuid(0xd, 1).c >> (i & 31) & 1)) {
			want_equal(c.a | c.b, 0);
			continue;
		}
		want(c.a > 0);
		if (!(has >> i & 1))
			continue;
		want(c.b >= 576 && c.a + c.b <= d.c);
		for (unsigned k = 2; k < i; k++) {
			struct cpuid o = cpuid(0xd, k);

			if (has >> k & 1)
				want(o.b + o.a <= c.b || c.b + c.a <= o.b);
		}
	}
}

/* What CPUID offers works, and what it does not is #UD. */
static void cpuid_instructions(void)
{
	static const struct {
		const char *name;
		u32 leaf;
		u8 reg, bit, code[6], len;
	} table[] = {
		{ "popcnt", 1, 2, 23, { 0xf3, 0x0f, 0xb8, 0xc0 }, 4 },
		{ "movbe", 1, 2, 22, { 0x0f, 0x38, 0xf0, 0x03 }, 4 },
		{ "rdrand", 1, 2, 30, { 0x0f, 0xc7, 0xf0 }, 3 },
		{ "rdseed", 7, 1, 18, { 0x0f, 0xc7, 0xf8 }, 3 },
		{ "adcx", 7, 1, 19, { 0x66, 0x0f, 0x38, 0xf6, 0xc0 }, 5 },
		{ "clflushopt", 7, 1, 23, { 0x66, 0x0f, 0xae, 0x3b }, 4 },
		{ "clwb", 7, 1, 24, { 0x66, 0x0f, 0xae, 0x33 }, 4 },
		{ "clflush", 1, 3, 19, { 0x0f, 0xae, 0x3b }, 3 },
		{ "cmov", 1, 3, 15, { 0x0f, 0x44, 0xc0 }, 3 },
		{ "cmpxchg8b", 1, 3, 8, { 0x0f, 0xc7, 0x0b }, 3 },
		{ "rdpid", 7, 2, 22, { 0xf3, 0x0f, 0xc7, 0xf8 }, 4 },
		{ "serialize", 7, 3, 14, { 0x0f, 0x01, 0xe8 }, 3 },
		{ "invpcid", 7, 1, 10, { 0x66, 0x0f, 0x38, 0x82, 0x0b }, 5 },
		{ "clac", 7, 1, 20, { 0x0f, 0x01, 0xca }, 3 },
		{ "rdtscp", 0x80000001, 3, 27, { 0x0f, 0x01, 0xf9 }, 3 },
		{ "monitor", 1, 2, 3, { 0x0f, 0x01, 0xc8 }, 3 },
		{ "movdiri", 7, 2, 27, { 0x0f, 0x38, 0xf9, 0x03 }, 4 },
		{ "movdir64b", 7, 2, 28, { 0x66, 0x0f, 0x38, 0xf8, 0x03 }, 5 },
	};
	static u8 code[16], data[64] __attribute__((aligned(64)));

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct cpuid c = cpuid(table[i].leaf, 0);
		const u32 r[] = { c.a, c.b, c.c, c.d };
		bool has = r[table[i].reg] >> table[i].bit & 1;
		volatile u8 *p = code;

		for (unsigned k = 0; k < table[i].len; k++)
			p[k] = table[i].code[k];
		p[table[i].len] = 0xc3;
		row("%s", table[i].name);
		TRY("", "call *%[code]",
		    :
		    : [code] "S"(code), "a"(data), "b"(data), "c"(0l), "d"(0l)
		    : "memory", "cc");
		checked();
		if (trap.vector != (has ? NONE : UD))
			fail("%s, offered %u: vector %lx", table[i].name, has,
			     trap.vector);
	}
}

enum { EAX, EBX, ECX, EDX };
enum { ONLY64 = 1, NEVER = 32 /* a bit that no register has: not offered here */ };

/* clang-format off */
static const struct extension {
	const char *name;
	u32 leaf;
	u8 sub, reg, bit, code[7], len, flags;
} extensions[] = {
	{ "mmx: paddb", 1, 0, EDX, 23, { 0x0f, 0xfc, 0xc1 }, 3, 0 },
	{ "mmx: emms", 1, 0, EDX, 23, { 0x0f, 0x77 }, 2, 0 },
	{ "fxsr: fxsave", 1, 0, EDX, 24, { 0x0f, 0xae, 0x03 }, 3, 0 },
	{ "tsc: rdtsc", 1, 0, EDX, 4, { 0x0f, 0x31 }, 2, 0 },
	{ "cmov: fcmovb", 1, 0, EDX, 15, { 0xda, 0xc1 }, 2, 0 },
	{ "sse: addps", 1, 0, EDX, 25, { 0x0f, 0x58, 0xc1 }, 3, 0 },
	{ "sse: sfence", 1, 0, EDX, 25, { 0x0f, 0xae, 0xf8 }, 3, 0 },
	{ "sse: ldmxcsr", 1, 0, EDX, 25, { 0x0f, 0xae, 0x53, 0x18 }, 4, 0 },
	{ "sse2: addpd", 1, 0, EDX, 26, { 0x66, 0x0f, 0x58, 0xc1 }, 4, 0 },
	{ "sse2: lfence", 1, 0, EDX, 26, { 0x0f, 0xae, 0xe8 }, 3, 0 },
	{ "sse2: movnti", 1, 0, EDX, 26, { 0x0f, 0xc3, 0x03 }, 3, 0 },
	{ "sse3: addsubpd", 1, 0, ECX, 0, { 0x66, 0x0f, 0xd0, 0xc1 }, 4, 0 },
	{ "sse3: fisttp", 1, 0, ECX, 0, { 0xdb, 0x0b }, 2, 0 },
	{ "pclmulqdq", 1, 0, ECX, 1, { 0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00 }, 6, 0 },
	{ "ssse3: pabsb", 1, 0, ECX, 9, { 0x66, 0x0f, 0x38, 0x1c, 0xc1 }, 5, 0 },
	{ "ssse3: pabsb mm", 1, 0, ECX, 9, { 0x0f, 0x38, 0x1c, 0xc1 }, 4, 0 },
	{ "fma", 1, 0, ECX, 12, { 0xc4, 0xe2, 0x71, 0x98, 0xc2 }, 5, 0 },
	{ "cmpxchg16b", 1, 0, ECX, 13, { 0x48, 0x0f, 0xc7, 0x0b }, 4, ONLY64 },
	{ "sse4.1: pmulld", 1, 0, ECX, 19, { 0x66, 0x0f, 0x38, 0x40, 0xc1 }, 5, 0 },
	{ "sse4.1: roundps", 1, 0, ECX, 19, { 0x66, 0x0f, 0x3a, 0x08, 0xc1, 0x00 }, 6, 0 },
	{ "sse4.2: pcmpgtq", 1, 0, ECX, 20, { 0x66, 0x0f, 0x38, 0x37, 0xc1 }, 5, 0 },
	{ "sse4.2: crc32", 1, 0, ECX, 20, { 0xf2, 0x0f, 0x38, 0xf0, 0xc1 }, 5, 0 },
	{ "aes", 1, 0, ECX, 25, { 0x66, 0x0f, 0x38, 0xdc, 0xc1 }, 5, 0 },
	{ "avx: vaddps", 1, 0, ECX, 28, { 0xc5, 0xf0, 0x58, 0xc2 }, 4, 0 },
	{ "f16c", 1, 0, ECX, 29, { 0xc4, 0xe2, 0x79, 0x13, 0xc1 }, 5, 0 },
	{ "fsgsbase: rdfsbase", 7, 0, EBX, 0, { 0xf3, 0x0f, 0xae, 0xc0 }, 4, ONLY64 },
	{ "bmi1: andn", 7, 0, EBX, 3, { 0xc4, 0xe2, 0x70, 0xf2, 0xc1 }, 5, 0 },
	{ "bmi1: bextr", 7, 0, EBX, 3, { 0xc4, 0xe2, 0x78, 0xf7, 0xc1 }, 5, 0 },
	{ "bmi1: blsr", 7, 0, EBX, 3, { 0xc4, 0xe2, 0x78, 0xf3, 0xc9 }, 5, 0 },
	{ "avx2: vpaddd", 7, 0, EBX, 5, { 0xc5, 0xf5, 0xfe, 0xc2 }, 4, 0 },
	{ "avx2: vpbroadcastb", 7, 0, EBX, 5, { 0xc4, 0xe2, 0x79, 0x78, 0xc1 }, 5, 0 },
	{ "bmi2: pdep", 7, 0, EBX, 8, { 0xc4, 0xe2, 0x73, 0xf5, 0xc1 }, 5, 0 },
	{ "bmi2: rorx", 7, 0, EBX, 8, { 0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 0x01 }, 6, 0 },
	{ "rtm: xbegin", 7, 0, EBX, 11, { 0xc7, 0xf8, 0, 0, 0, 0 }, 6, 0 },
	{ "rtm: xtest", 7, 0, EBX, 11, { 0x0f, 0x01, 0xd6 }, 3, 0 },
	{ "avx512f", 7, 0, EBX, 16, { 0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2 }, 6, 0 },
	{ "avx512dq", 7, 0, EBX, 17, { 0x62, 0xf1, 0xf5, 0x48, 0x54, 0xc2 }, 6, 0 },
	{ "avx512ifma", 7, 0, EBX, 21, { 0x62, 0xf2, 0xf5, 0x48, 0xb4, 0xc2 }, 6, 0 },
	{ "avx512cd", 7, 0, EBX, 28, { 0x62, 0xf2, 0x7d, 0x48, 0xc4, 0xc1 }, 6, 0 },
	{ "sha", 7, 0, EBX, 29, { 0x0f, 0x38, 0xc9, 0xc1 }, 4, 0 },
	{ "avx512bw", 7, 0, EBX, 30, { 0x62, 0xf1, 0x75, 0x48, 0xfc, 0xc2 }, 6, 0 },
	{ "avx512vl", 7, 0, EBX, 31, { 0x62, 0xf1, 0x74, 0x08, 0x58, 0xc2 }, 6, 0 },
	{ "avx512_vbmi", 7, 0, ECX, 1, { 0x62, 0xf2, 0x75, 0x48, 0x8d, 0xc2 }, 6, 0 },
	{ "pku: rdpkru", 7, 0, ECX, 3, { 0x0f, 0x01, 0xee }, 3, 0 },
	{ "waitpkg: tpause", 7, 0, ECX, 5, { 0x66, 0x0f, 0xae, 0xf1 }, 4, 0 },
	{ "avx512_vbmi2", 7, 0, ECX, 6, { 0x62, 0xf2, 0x7d, 0x48, 0x63, 0xc1 }, 6, 0 },
	{ "gfni", 7, 0, ECX, 8, { 0x66, 0x0f, 0x38, 0xcf, 0xc1 }, 5, 0 },
	{ "vaes", 7, 0, ECX, 9, { 0xc4, 0xe2, 0x75, 0xdc, 0xc2 }, 5, 0 },
	{ "vpclmulqdq", 7, 0, ECX, 10, { 0xc4, 0xe3, 0x75, 0x44, 0xc2, 0x00 }, 6, 0 },
	{ "avx512_vnni", 7, 0, ECX, 11, { 0x62, 0xf2, 0x75, 0x48, 0x50, 0xc2 }, 6, 0 },
	{ "avx512_bitalg", 7, 0, ECX, 12, { 0x62, 0xf2, 0x7d, 0x48, 0x54, 0xc1 }, 6, 0 },
	{ "avx512_vpopcntdq", 7, 0, ECX, 14, { 0x62, 0xf2, 0x7d, 0x48, 0x55, 0xc1 }, 6, 0 },
	{ "enqcmd", 7, 0, ECX, 29, { 0xf2, 0x0f, 0x38, 0xf8, 0x03 }, 5, 0 },
	{ "uintr: clui", 7, 0, EDX, 5, { 0xf3, 0x0f, 0x01, 0xee }, 4, ONLY64 },
	{ "avx512_vp2intersect", 7, 0, EDX, 8, { 0x62, 0xf2, 0x77, 0x48, 0x68, 0xc2 }, 6, 0 },
	{ "tsxldtrk", 7, 0, EDX, 16, { 0xf2, 0x0f, 0x01, 0xe8 }, 4, 0 },
	{ "pconfig", 7, 0, EDX, 18, { 0x0f, 0x01, 0xc5 }, 3, 0 },
	{ "avx512_fp16", 7, 0, EDX, 23, { 0x62, 0xf5, 0x74, 0x48, 0x58, 0xc2 }, 6, 0 },
	{ "avx_vnni", 7, 1, EAX, 4, { 0xc4, 0xe2, 0x75, 0x50, 0xc2 }, 5, 0 },
	{ "avx512_bf16", 7, 1, EAX, 5, { 0x62, 0xf2, 0x76, 0x48, 0x52, 0xc2 }, 6, 0 },
	{ "hreset", 7, 1, EAX, 22, { 0xf3, 0x0f, 0x3a, 0xf0, 0xc0, 0x00 }, 6, 0 },
	{ "xsaveopt", 0xd, 1, EAX, 0, { 0x0f, 0xae, 0x33 }, 3, 0 },
	{ "xsavec", 0xd, 1, EAX, 1, { 0x0f, 0xc7, 0x23 }, 3, 0 },
	{ "xsaves", 0xd, 1, EAX, 3, { 0x0f, 0xc7, 0x2b }, 3, 0 },
	{ "ptwrite", 0x14, 0, EBX, 4, { 0xf3, 0x0f, 0xae, 0xe0 }, 4, 0 },
	{ "lahf in 64-bit mode", 0x80000001, 0, ECX, 0, { 0x9f }, 1, ONLY64 },
	{ "svm: vmmcall", 0x80000001, 0, ECX, 2, { 0x0f, 0x01, 0xd9 }, 3, 0 },
	{ "sse4a: extrq", 0x80000001, 0, ECX, 6, { 0x66, 0x0f, 0x79, 0xc1 }, 4, 0 },
	{ "sse4a: movntsd", 0x80000001, 0, ECX, 6, { 0xf2, 0x0f, 0x2b, 0x03 }, 4, 0 },
	{ "xop: vphaddbd", 0x80000001, 0, ECX, 11, { 0x8f, 0xe9, 0x78, 0xc2, 0xc1 }, 5, 0 },
	{ "fma4", 0x80000001, 0, ECX, 16, { 0xc4, 0xe3, 0x71, 0x68, 0xc2, 0x30 }, 6, 0 },
	{ "tbm: blcfill", 0x80000001, 0, ECX, 21, { 0x8f, 0xe9, 0x78, 0x01, 0xc9 }, 5, 0 },
	{ "monitorx", 0x80000001, 0, ECX, 29, { 0x0f, 0x01, 0xfa }, 3, 0 },
	{ "3dnow: pfadd", 0x80000001, 0, EDX, 31, { 0x0f, 0x0f, 0xc1, 0x9e }, 4, 0 },
	{ "3dnow: femms", 0x80000001, 0, EDX, 31, { 0x0f, 0x0e }, 2, 0 },
	{ "3dnowext: pswapd", 0x80000001, 0, EDX, 30, { 0x0f, 0x0f, 0xc1, 0xbb }, 4, 0 },
	{ "clzero", 0x80000008, 0, EBX, 0, { 0x0f, 0x01, 0xfc }, 3, 0 },
	{ "rdpru", 0x80000008, 0, EBX, 4, { 0x0f, 0x01, 0xfd }, 3, 0 },
	{ "mcommit", 0x80000008, 0, EBX, 8, { 0xf3, 0x0f, 0x01, 0xfa }, 4, 0 },
	{ "vmx: vmcall", 1, 0, ECX, 5, { 0x0f, 0x01, 0xc1 }, 3, 0 },
	{ "vmx: vmxoff", 1, 0, ECX, 5, { 0x0f, 0x01, 0xc4 }, 3, 0 },
	{ "smx: getsec", 1, 0, ECX, 6, { 0x0f, 0x37 }, 2, 0 },
	{ "sgx: enclu", 7, 0, EBX, 2, { 0x0f, 0x01, 0xd7 }, 3, 0 },
	{ "cet: incsspd", 7, 0, ECX, 7, { 0xf3, 0x0f, 0xae, 0xe8 }, 4, 0 },
	{ "amx: tilerelease", 7, 0, EDX, 24, { 0xc4, 0xe2, 0x78, 0x49, 0xc0 }, 5, ONLY64 },
	{ "mpx does no #UD: bndmk is a nop", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0x1b, 0x03 }, 4, 0 },
	{ "cldemote is a nop", 1, 0, EAX, NEVER, { 0x0f, 0x1c, 0x03 }, 3, 0 },
	{ "rdsspd is a nop", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0x1e, 0xc8 }, 4, 0 },
	{ "endbr64 is a nop", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0x1e, 0xfa }, 4, 0 },
	{ "wbnoinvd is wbinvd", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0x09 }, 3, 0 },
	{ "lzcnt is bsr", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0xbd, 0xc1 }, 4, 0 },
	{ "tzcnt is bsf", 1, 0, EAX, NEVER, { 0xf3, 0x0f, 0xbc, 0xc1 }, 4, 0 },
	{ "xacquire is ignored", 1, 0, EAX, NEVER, { 0xf2, 0xf0, 0xff, 0x03 }, 4, 0 },
};
/* clang-format on */

static bool extension_offered(const struct extension *e)
{
	u32 max = cpuid(e->leaf & 0x80000000, 0).a;
	struct cpuid c = cpuid(e->leaf, e->sub);
	const u32 r[] = { c.a, c.b, c.c, c.d };

	if (e->bit == NEVER)
		return true;
	if (e->leaf > max || (e->leaf == 7 && e->sub > cpuid(7, 0).a) ||
	    (e->leaf == 0xd && !HAS_XSAVE))
		return false;
	return r[e->reg] >> e->bit & 1;
}

/* An instruction runs when CPUID offers it, everything enabled, and is #UD when not. */
static void cpuid_extensions(void)
{
	static u8 code[16], area[4096] __attribute__((aligned(64)));
	word cr4 = read_cr4();

	__asm__ volatile("clts");
	write_cr4(cr4 | (HAS(1, 0, d, 24) ? BIT(9) : 0) |
		  (HAS(1, 0, d, 25) ? BIT(10) : 0) | (HAS_XSAVE ? BIT(18) : 0) |
		  (W64 && HAS_FSGSBASE ? BIT(16) : 0) | (HAS_PKU ? CR4_PKE : 0));
	if (HAS_XSAVE) {
		struct cpuid d = cpuid(0xd, 0);

		__asm__ volatile("xsetbv" : : "c"(0), "a"(d.a), "d"(d.d));
	}
	__asm__ volatile("fninit");
	for (unsigned i = 0; i < ARRAY_SIZE(extensions); i++) {
		const struct extension *e = &extensions[i];
		bool has = extension_offered(e);
		volatile u8 *p = code;

		if ((e->flags & ONLY64) && !W64)
			continue;
		row("%s", e->name);
		for (unsigned k = 0; k < e->len; k++)
			p[k] = e->code[k];
		p[e->len] = 0xc3;
		*(volatile u32 *)(area + 24) = 0x1f80;
		TRY("", "call *%[code]",
		    :
		    : [code] "S"(code), "a"(0l), "b"(area), "c"(0l), "d"(0l)
		    : "memory", "cc");
		want_equal(trap.vector, has ? NONE : UD);
		__asm__ volatile("fninit");
	}
	if (HAS_XSAVE)
		__asm__ volatile("xsetbv" : : "c"(0), "a"(1), "d"(0));
	write_cr4(cr4);
}

const struct test_case cases[] = {
	CASE(cr0_combinations, "SDM 3 2.5"),
	CASE(cr4_pairs, "SDM 3 2.5"),
#if W64
	CASE(cr3_bits, "SDM 3 2.5"),
	CASE(cr8_bits, "SDM 3 11.8.6"),
#else
	CASE(enter_long_mode_refused, "SDM 3 10.8.5"),
#endif
	CASE(dr_bits, "SDM 3 17.2"),
	CASE(xcr0_combinations, "SDM 3 2.6"),
	CASE(msr_bits, "SDM 4 2.1"),
	CASE(efer_bits, "SDM 3 2.2.1"),
	CASE(memory_types, "SDM 3 12.11"),
	CASE(msr_directions, "SDM 4 2.1"),
	CASE(msr_unknown, "SDM 2 RDMSR, WRMSR"),
	CASE(cpuid_implications, "SDM 2 CPUID"),
	CASE(cpuid_leaves, "SDM 2 CPUID"),
	CASE(cpuid_xsave, "SDM 1 13.2"),
	CASE(cpuid_instructions, "SDM 2 CPUID"),
	CASE(cpuid_extensions, "SDM 2 CPUID"),
	CASES_END,
};
