/*
 * Paging: every mode, every right, compared with an oracle that is written from the text.
 *
 * SDM volume 3 sections 4.3 to 4.5 (formats, reserved bits), 4.6 (rights), 4.7 (error
 * codes), 4.8 (A and D), 4.6.2 (protection keys). A matrix sets each combination of bits
 * in the leaf and in one entry above, under each combination of control bits, and does
 * reads, writes and fetches at CPL 0 and 3.
 */
#include "page.h"

enum kind { READ, WRITE, FETCH };

/* What the oracle is told. */
struct setting {
	u64 entry[PATH_MAX];
	unsigned leaf;
	bool user, ac, wp, smep, smap, nxe, pke, pks;
	u32 pkru, pkrs;
	enum kind kind;
};

#define GRANTED (-1)

/* ---- the oracle ---- */

static u64 reserved(const struct setting *s, unsigned level)
{
	unsigned shift = path.shift[level], bits = phys_bits();
	bool leaf = level == s->leaf;
	u64 r = 0;

	if (paging == PAGING_32) {
		/* Tables 4-4 to 4-6: in a 4 MiB page bit 21, and 20:13 hold address bits
		 * 39:32. */
		if (!leaf || shift != 22)
			return 0;
		r = BIT(21);
		for (unsigned n = 13; n <= 20; n++)
			if (n - 13 + 32 >= bits)
				r |= BIT(n);
		return r;
	}
	for (unsigned n = bits; n < 52; n++)
		r |= BIT(n);
	if (paging == PAGING_PAE)
		r |= 0x7ff0000000000000;
	if (!s->nxe)
		r |= NX;
	if (leaf && shift == 30)
		r |= 0x3fffe000;
	if (leaf && shift == 21)
		r |= 0x1fe000;
	if (!leaf && shift >= 39)
		r |= PS;
	return r;
}

/* Section 4.6.1: may this access be done, given the rights that all levels together give?
 */
static bool allowed(const struct setting *s, bool user_page, bool writable, bool nx)
{
	if (s->user && !user_page)
		return false;
	switch (s->kind) {
	case READ: return s->user || !user_page || !s->smap || s->ac;
	case WRITE:
		if (s->user)
			return writable;
		if (user_page && s->smap && !s->ac)
			return false;
		return writable || !s->wp;
	default: return !nx && (s->user || !user_page || !s->smep);
	}
}

/* Section 4.6.2. */
static bool key_allows(const struct setting *s, bool user_page)
{
	unsigned key = s->entry[s->leaf] >> 59 & 15;
	u32 rights;

	if (s->kind == FETCH || paging < PAGING_4 || !(user_page ? s->pke : s->pks))
		return true;
	rights = (user_page ? s->pkru : s->pkrs) >> (2 * key) & 3;
	if (rights & 1)
		return false;
	return s->kind == READ || !(rights & 2) || !(s->user || s->wp);
}

/* The error code of the fault, or GRANTED. */
static int oracle(const struct setting *s)
{
	int code = (s->kind == WRITE) << 1 | s->user << 2;
	bool user_page = true, writable = true, nx = false;

	if (s->kind == FETCH && (s->smep || (paging != PAGING_32 && s->nxe)))
		code |= 1 << 4;
	for (unsigned i = 0; i <= s->leaf; i++) {
		u64 e = s->entry[i];

		if (!(e & P))
			return code;
		if (e & reserved(s, i))
			return code | 1 | 1 << 3;
		user_page &= !!(e & US);
		writable &= !!(e & RW);
		nx |= paging != PAGING_32 && (e & NX);
	}
	if (!allowed(s, user_page, writable, nx))
		return code | 1 | (key_allows(s, user_page) ? 0 : 1 << 5);
	if (!key_allows(s, user_page))
		return code | 1 | 1 << 5;
	return GRANTED;
}

/* ---- the access ---- */

static word test_va; /* linear */

static NOINLINE word do_access(word kind)
{
	word at = kind & 8 ? user_offset(test_va) : test_va;

	switch (kind & 7) {
	case READ: return TRY("", "movb (%0), %%al", : : "r"(at) : "eax");
	case WRITE: return TRY("", "movb $0xc3, (%0)", : : "r"(at) : "memory");
	default: return TRY("", "call *%0", : : "r"(at) : "memory");
	}
}

static word do_access_ac(word kind)
{
	word at = kind & 8 ? user_offset(test_va) : test_va;

	switch (kind & 7) {
	case READ:
		return TRY("pushf; or" W " $0x40000, (%%" W_SP "); popf",
			   "movb (%0), %%al; pushf;"
			   "and" W " $~0x40000, (%%" W_SP "); popf",
			   :
			   : "r"(at)
			   : "eax", "cc");
	case WRITE:
		return TRY("pushf; or" W " $0x40000, (%%" W_SP "); popf",
			   "movb $0xc3, (%0); pushf; and" W " $~0x40000, (%%" W_SP
			   "); popf",
			   :
			   : "r"(at)
			   : "memory", "cc");
	default:
		return TRY("pushf; or" W " $0x40000, (%%" W_SP "); popf",
			   "call *%0; pushf; and" W " $~0x40000, (%%" W_SP "); popf",
			   :
			   : "r"(at)
			   : "memory", "cc");
	}
}

/* Do it, and compare with what the oracle says, A and D included. */
static void check(const struct setting *s, const char *what)
{
	word (*f)(word) = s->ac ? do_access_ac : do_access;
	int expected = oracle(s), got;
	u64 leaf;

	if (failed())
		return;
	matrix_done++;
	for (unsigned i = 0; i <= s->leaf; i++)
		entry_set(i, s->entry[i]);
	invlpg((void *)test_va);
	if (s->user)
		user_run(f, (word)s->kind | 8);
	else
		f(s->kind);
	got = trap.vector == NONE ? GRANTED : (int)trap.error;
	leaf = entry_get(s->leaf);
	if ((trap.vector != NONE && trap.vector != PF) || got != expected) {
		fail("%s: leaf level %u entry %llx, above %llx, %s %s ac %d wp %d smep "
		     "%d smap %d "
		     "nxe %d pkru %x: got vector %lx error %x want %x",
		     what, s->leaf, s->entry[s->leaf],
		     s->leaf ? s->entry[s->leaf - 1] : 0, s->user ? "user" : "supervisor",
		     s->kind == READ    ? "read"
		     : s->kind == WRITE ? "write"
					: "fetch",
		     s->ac, s->wp, s->smep, s->smap, s->nxe, s->pkru, trap.vector, got,
		     expected);
		return;
	}
	if (got != GRANTED) {
		if (trap.cr2 != test_va)
			fail("%s: cr2 is %lx, not %lx", what, trap.cr2, test_va);
		if (leaf & ~s->entry[s->leaf] & D)
			fail("%s: D was set by a write that faulted", what);
		return;
	}
	for (unsigned i = 0; i <= s->leaf; i++)
		if (!(entry_get(i) & A))
			fail("%s: A is not set in the entry of level %u", what, i);
	if (!(leaf & D) != (s->kind != WRITE))
		fail("%s: D is %d after a %s", what, !!(leaf & D),
		     s->kind == WRITE ? "write" : "read or fetch");
	/* Nothing else changed. */
	if ((leaf ^ s->entry[s->leaf]) & ~(u64)(A | D))
		fail("%s: the entry became %llx", what, leaf);
}

/* ---- the matrix ---- */

static void set_controls(const struct setting *s)
{
	word cr0 = read_cr0() & ~(word)CR0_WP,
	     cr4 = read_cr4() & ~(word)(CR4_SMEP | CR4_SMAP);

	write_cr0(cr0 | (s->wp ? CR0_WP : 0));
	write_cr4(cr4 | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0));
	if (HAS_NX)
		wrmsr(EFER, (rdmsr(EFER) & ~(u64)EFER_NXE) | (s->nxe ? EFER_NXE : 0));
}

static u64 leaf_address(unsigned leaf)
{
	return path.shift[leaf] == 30 ? 0 : TEST_PA;
}

/* Linear address of TEST_PA when the leaf is of that level. */
static void aim(unsigned leaf)
{
	test_va = path.va;
	if (path.shift[leaf] == 30)
		test_va += TEST_PA;
	*PHYS(TEST_PA) = 0xc3;
}

/* Bit 0 P, 1 RW, 2 US, 3 NX, as entry bits. */
static u64 rights(unsigned n)
{
	return (n & 7) | (n & 8 ? NX : 0);
}

/* All combinations of rights in the leaf and in the entry of 'level'. */
static void matrix_level(struct setting *s, unsigned level, const char *what)
{
	unsigned bits = paging == PAGING_32 ? 8 : 16;

	path_set(s->leaf, leaf_address(s->leaf), ALL);
	for (unsigned i = 0; i <= s->leaf; i++)
		s->entry[i] = entry_get(i);
	for (unsigned l = 0; l < bits; l++) {
		s->entry[s->leaf] &= ~(ALL | NX);
		s->entry[s->leaf] |= rights(l);
		for (unsigned u = 0; u < bits; u++) {
			if (level == s->leaf && u)
				break;
			/* One that is not present is enough for each. */
			if ((!(l & 1) && l > 2) || (!(u & 1) && u > 2))
				continue;
			if (level != s->leaf) {
				s->entry[level] &= ~(ALL | NX);
				s->entry[level] |= rights(u);
			}
			for (unsigned k = 0; k < 6; k++) {
				s->kind = k % 3;
				s->user = k >= 3;
				check(s, what);
			}
		}
	}
}

static void matrix(unsigned leaf, const char *what)
{
	struct setting s = { .leaf = leaf };
	word cr0 = read_cr0(), cr4 = read_cr4();

	aim(leaf);
	for (unsigned c = 0; c < 32 && !failed(); c++) {
		s.wp = c & 1;
		s.smep = c & 2;
		s.smap = c & 4;
		s.nxe = c & 8;
		s.ac = c & 16;
		if ((s.smep && !HAS_SMEP) || (s.smap && !HAS_SMAP) ||
		    (s.nxe && (!HAS_NX || paging == PAGING_32)))
			continue;
		set_controls(&s);
		for (unsigned level = 0; level <= leaf; level++)
			matrix_level(&s, level, what);
	}
	write_cr0(cr0);
	write_cr4(cr4);
	if (HAS_NX)
		wrmsr(EFER, rdmsr(EFER) | EFER_NXE);
	path_set(leaf, leaf_address(leaf), ALL);
}

/* Each bit that may be reserved, in each entry. */
static void reserved_bits(unsigned leaf)
{
	unsigned width = paging == PAGING_32 ? 32 : 64;
	struct setting s = { .leaf = leaf, .wp = true };

	aim(leaf);
	for (unsigned nxe = 0; nxe < 2; nxe++) {
		s.nxe = nxe;
		if (nxe && (paging == PAGING_32 || !HAS_NX))
			continue;
		set_controls(&s);
		for (unsigned level = 0; level <= leaf; level++) {
			for (unsigned n = 7; n < width; n++) {
				path_set(leaf, leaf_address(leaf), ALL);
				for (unsigned i = 0; i <= leaf; i++)
					s.entry[i] = entry_get(i);
				s.entry[level] |= BIT(n);
				/* What leads elsewhere and not to a fault is no question.
				 */
				if (oracle(&s) == GRANTED &&
				    (n < 12 ? n == 7 && level != leaf : n < 52))
					continue;
				/* PAT of a large page. */
				if (n == 12 && level == leaf && path.shift[leaf] > 12)
					continue;
				s.kind = READ;
				s.user = false;
				check(&s, "reserved");
				s.kind = FETCH;
				s.user = true;
				check(&s, "reserved");
			}
		}
	}
	s.nxe = paging != PAGING_32 && HAS_NX;
	set_controls(&s);
	path_set(leaf, leaf_address(leaf), ALL);
}

/* A large page maps all of its bytes, and says so in its A and D alone. */
static void large_page(unsigned leaf)
{
	unsigned shift = path.shift[leaf];
	u64 base = leaf_address(leaf);

	path_set(leaf, base, ALL);
	for (unsigned i = 0; i < 64; i++) {
		u32 off = (i * 0x9e3779b1u & (u32)(BIT(shift) - 1)) & ~3u;

		if (base + off >= 0x3f00000 || base + off < 0x2400000)
			continue;
		*(volatile u32 *)PHYS(base + off) = i + 100;
		want_equal(*(volatile u32 *)(path.va + off), i + 100);
		*(volatile u32 *)(path.va + off) = i;
		want_equal(*(volatile u32 *)PHYS(base + off), i);
	}
}

#if W64

static void level4_4k(void)
{
	paging_on(PAGING_4, true);
	matrix(3, "4 KiB");
}

static void level4_2m(void)
{
	paging_on(PAGING_4, true);
	matrix(2, "2 MiB");
	large_page(2);
}

static void level4_1g(void)
{
	if (!HAS_1G) {
		skip("no 1 GiB pages");
		return;
	}
	paging_on(PAGING_4, true);
	matrix(1, "1 GiB");
	large_page(1);
}

static void level4_reserved(void)
{
	paging_on(PAGING_4, true);
	reserved_bits(3);
	reserved_bits(2);
	if (HAS_1G)
		reserved_bits(1);
}

static void level5(void)
{
	if (!HAS_LA57) {
		skip("no LA57");
		return;
	}
	paging_on(PAGING_5, true);
	matrix(4, "4 KiB");
	matrix(3, "2 MiB");
	if (HAS_1G)
		matrix(2, "1 GiB");
	reserved_bits(4);
	reserved_bits(3);
	paging_on(PAGING_4, true);
}

static void level5_canonical(void)
{
	if (!HAS_LA57) {
		skip("no LA57");
		return;
	}
	paging_on(PAGING_5, true);
	/* Not mapped, but canonical with 57 bits. */
	TRY("", "mov (%0), %%al", : : "r"(BIT(47)) : "eax");
	want_fault(PF, 0);
	TRY("", "mov (%0), %%al", : : "r"(BIT(55)) : "eax");
	want_fault(PF, 0);
	TRY("", "mov (%0), %%al", : : "r"(BIT(56)) : "eax");
	want_fault(GP, 0);
	paging_on(PAGING_4, true);
	TRY("", "mov (%0), %%al", : : "r"(BIT(47)) : "eax");
	want_fault(GP, 0);
	/* CR4.LA57 does not change in long mode. */
	TRY("", "mov %0, %%cr4", : : "r"(read_cr4() | CR4_LA57));
	want_fault(GP, 0);
}

static void write_pkru(u32 v)
{
	__asm__ volatile("wrpkru" : : "a"(v), "c"(0), "d"(0));
}

static void keys(bool supervisor)
{
	struct setting s = { .leaf = 3, .nxe = true };
	word cr0 = read_cr0();

	paging_on(PAGING_4, true);
	aim(3);
	write_cr4(read_cr4() | (supervisor ? CR4_PKS : CR4_PKE));
	s.pke = !supervisor;
	s.pks = supervisor;
	path_set(3, TEST_PA, ALL);
	for (unsigned i = 0; i < 4; i++)
		s.entry[i] = entry_get(i);
	/* Key 0 is that of all other pages. */
	for (unsigned n = 4; n < 4 * 16 && !failed(); n++) {
		unsigned key = n / 4;
		u32 val = (n & 3) << (2 * key);

		s.wp = true;
		for (unsigned c = 0; c < 8; c++) {
			s.wp = c & 1;
			s.entry[3] = TEST_PA | P | (c & 2 ? RW : 0) | (c & 4 ? US : 0) |
				     PK(key);
			set_controls(&s);
			if (supervisor)
				wrmsr(0x6e1, val);
			else
				write_pkru(val);
			s.pkru = s.pkrs = val;
			for (unsigned k = 0; k < 6; k++) {
				s.kind = k % 3;
				s.user = k >= 3;
				check(&s, "key");
			}
		}
	}
	/* The key of another page does not matter. */
	if (supervisor)
		wrmsr(0x6e1, 0);
	else
		write_pkru(0);
	write_cr0(cr0);
	paging_on(PAGING_4, true);
}

static void protection_keys(void)
{
	if (!HAS_PKU) {
		skip("no PKU");
		return;
	}
	keys(false);
}

static void supervisor_keys(void)
{
	if (!HAS_PKS) {
		skip("no PKS");
		return;
	}
	keys(true);
}

static void pkru_instructions(void)
{
	if (!HAS_PKU) {
		skip("no PKU");
		return;
	}
	paging_on(PAGING_4, true);
	TRY("", "rdpkru", : : "c"(0) : "eax", "edx");
	want_fault(UD, 0);
	TRY("", "wrpkru", : : "a"(0), "c"(0), "d"(0));
	want_fault(UD, 0);
	want_equal(HAS(7, 0, c, 4), 0);
	write_cr4(read_cr4() | CR4_PKE);
	want_equal(HAS(7, 0, c, 4), 1);
	TRY("", "rdpkru", : : "c"(1) : "eax", "edx");
	want_fault(GP, 0);
	TRY("", "wrpkru", : : "a"(0), "c"(1), "d"(0));
	want_fault(GP, 0);
	TRY("", "wrpkru", : : "a"(0), "c"(0), "d"(1));
	want_fault(GP, 0);
	write_pkru(0x12345678);
	{
		u32 a = 1, d = 1;

		__asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
		want_equal(a, 0x12345678);
		want_equal(d, 0);
	}
	write_pkru(0);
	paging_on(PAGING_4, true);
}

#else

static void bits32_4k(void)
{
	paging_on(PAGING_32, false);
	matrix(1, "4 KiB");
	paging_on(PAGING_32, true);
	matrix(1, "4 KiB with PSE");
	paging_off();
}

static void bits32_4m(void)
{
	paging_on(PAGING_32, true);
	matrix(0, "4 MiB");
	large_page(0);
	reserved_bits(0);
	reserved_bits(1);
	paging_off();
}

/* Without PSE bit 7 of a directory entry is ignored. */
static void bits32_no_pse(void)
{
	paging_on(PAGING_32, false);
	path_set(1, TEST_PA, ALL);
	*PHYS(TEST_PA) = 0x5a;
	entry_set(0, entry_get(0) | PS);
	flush_tlb();
	want_equal(*(volatile u8 *)path.va, 0x5a);
	paging_off();
}

static void pae_4k(void)
{
	paging_on(PAGING_PAE, false);
	matrix(1, "4 KiB");
	reserved_bits(1);
	paging_off();
}

static void pae_2m(void)
{
	/* PSE does not matter. */
	paging_on(PAGING_PAE, false);
	matrix(0, "2 MiB");
	large_page(0);
	reserved_bits(0);
	paging_off();
}

/* SDM 3 section 4.4.1: the four PDPTEs are registers, loaded and checked with CR3. */
static void pae_pdpte(void)
{
	static u64 table[4] __attribute__((aligned(32)));
	unsigned top = phys_bits();
	volatile u64 *old;

	paging_on(PAGING_PAE, false);
	old = (volatile u64 *)read_cr3();
	for (unsigned n = 0; n < 64; n++) {
		bool bad = n == 1 || n == 2 || (n >= 5 && n <= 8) || n >= top;

		for (unsigned i = 0; i < 4; i++)
			*(volatile u64 *)&table[i] = old[i];
		if (n >= 12 && !bad)
			continue;
		*(volatile u64 *)&table[3] |= BIT(n) | P;
		TRY("", "mov %0, %%cr3", : : "r"(table) : "memory");
		if (bad ? trap.vector != GP || trap.error : trap.vector != NONE && n)
			fail("bit %u: vector %lx", n, trap.vector);
		/* Not when not present. */
		*(volatile u64 *)&table[3] &= ~(u64)P;
		TRY("", "mov %0, %%cr3", : : "r"(table) : "memory");
		if (trap.vector != NONE)
			fail("bit %u, not present: vector %lx", n, trap.vector);
	}
	write_cr3((word)old);
	/* A change in memory does nothing until CR3 is written. */
	path_set(1, TEST_PA, ALL);
	*PHYS(TEST_PA) = 0x77;
	{
		u64 was = old[1];

		old[1] = 0;
		invlpg((void *)path.va);
		TRY("", "movb (%0), %%al", : : "r"(path.va) : "eax");
		want_none();
		write_cr3(read_cr3());
		TRY("", "movb (%0), %%al", : : "r"(path.va) : "eax");
		want_fault(PF, 0);
		old[1] = was;
		write_cr3(read_cr3());
		want_equal(*(volatile u8 *)path.va, 0x77);
	}
	paging_off();
}

/* PSE-36: address bits 39:32 of a 4 MiB page. There is no such RAM here: reads as ones.
 */
static void pse36(void)
{
	paging_on(PAGING_32, true);
	path_set(0, TEST_PA, ALL);
	*PHYS(TEST_PA) = 0x11;
	want_equal(*(volatile u8 *)path.va, 0x11);
	entry_set(0, entry_get(0) | 1 << 13);
	flush_tlb();
	want_equal(*(volatile u8 *)path.va, 0xff);
	paging_off();
}

#endif

/* An access over two pages checks both before it does anything. */
static void page_crossing(void)
{
	volatile u32 *second;

	paging_on(W64 ? PAGING_4 : PAGING_32, false);
	path_set(path.levels - 1, TEST_PA, ALL);
	test_va = path.va;
	second = (volatile u32 *)path.entry[path.levels - 1];
	second[W64 ? 2 : 1] = (TEST_PA + 0x1000) | P;
	flush_tlb();
	*(volatile u32 *)PHYS(TEST_PA + 0xffc) = 0x11111111;
	*(volatile u32 *)PHYS(TEST_PA + 0x1000) = 0x22222222;
	TRY("", "movl $-1, 0xffe(%0)", : : "r"(test_va) : "memory");
	want_fault(PF, 3);
	want_equal(trap.cr2, test_va + 0x1000);
	want_equal(*(volatile u32 *)PHYS(TEST_PA + 0xffc), 0x11111111);
	TRY("", "lock addl $1, 0xffe(%0)", : : "r"(test_va) : "memory");
	want_fault(PF, 3);
	want_equal(*(volatile u32 *)PHYS(TEST_PA + 0xffc), 0x11111111);
	want_equal(*(volatile u32 *)(test_va + 0xffe), 0x22221111);
	/* The first byte that faults is in the first page. */
	entry_set(path.levels - 1, TEST_PA | P);
	second[W64 ? 2 : 1] = 0;
	flush_tlb();
	TRY("", "movl $-1, 0xffe(%0)", : : "r"(test_va) : "memory");
	want_fault(PF, 3);
	want_equal(trap.cr2, test_va + 0xffe);
	TRY("", "movl 0xffe(%0), %%eax", : : "r"(test_va) : "eax");
	want_fault(PF, 0);
	want_equal(trap.cr2, test_va + 0x1000);
	second[W64 ? 2 : 1] = (TEST_PA + 0x1000) | P | RW;
	entry_set(path.levels - 1, TEST_PA | P | RW);
	flush_tlb();
	TRY("", "movl $0x55667788, 0xffe(%0)", : : "r"(test_va) : "memory");
	want_none();
	want_equal(*(volatile u32 *)PHYS(TEST_PA + 0xffc), 0x77881111);
	want_equal(*(volatile u32 *)PHYS(TEST_PA + 0x1000), 0x22225566);
	second[W64 ? 2 : 1] = 0;
	flush_tlb();
#if !W64
	paging_off();
#endif
}

const struct test_case cases[] = {
#if W64
	CASE(level4_4k, "SDM 3 4.5, 4.6"),       CASE(level4_2m, "SDM 3 4.5, 4.6"),
	CASE(level4_1g, "SDM 3 4.5, 4.6"),       CASE(level4_reserved, "SDM 3 4.5"),
	CASE(level5, "SDM 3 4.5, 4.6"),          CASE(level5_canonical, "SDM 3 4.5"),
	CASE(protection_keys, "SDM 3 4.6.2"),    CASE(supervisor_keys, "SDM 3 4.6.2"),
	CASE(pkru_instructions, "SDM 2 WRPKRU"),
#else
	CASE(bits32_4k, "SDM 3 4.3, 4.6"), CASE(bits32_4m, "SDM 3 4.3, 4.6"),
	CASE(bits32_no_pse, "SDM 3 4.3"),  CASE(pse36, "SDM 3 4.3"),
	CASE(pae_4k, "SDM 3 4.4, 4.6"),    CASE(pae_2m, "SDM 3 4.4, 4.6"),
	CASE(pae_pdpte, "SDM 3 4.4.1"),
#endif
	CASE(page_crossing, "SDM 3 4.7"),        CASES_END,
};
