/*
 * What software may rely on about cached translations: what INVLPG, CR3, CR4, INVPCID
 * drop, what needs no flush at all, and what must not leak between address spaces. SDM
 * volume 3 section 4.10.
 */
#include "page.h"

static word va;
static unsigned leaf;

/* The test page and its entry; two physical pages with different contents. */
#define ONE TEST_PA
#define TWO (TEST_PA + 0x400000)

static void setup(void)
{
#if W64
	paging_on(PAGING_4, true);
#else
	paging_on(PAGING_32, true);
#endif
	leaf = path.levels - 1;
	path_set(leaf, ONE, ALL);
	va = path.va;
	for (u32 off = 0; off < 0x200000; off += 0x1000) {
		*(volatile u32 *)PHYS(ONE + off) = 0x1000000 + off;
		*(volatile u32 *)PHYS(TWO + off) = 0x2000000 + off;
	}
}

static void done(void)
{
	path_set(leaf, ONE, ALL);
#if !W64
	paging_off();
#endif
}

static u32 look(word off)
{
	return *(volatile u32 *)(va + off);
}

static void invlpg_page(void)
{
	setup();
	for (unsigned i = 0; i < 20; i++) {
		want_equal(look(0), 0x1000000);
		entry_set(leaf, TWO | ALL);
		/* Any address in the page will do. */
		invlpg((void *)(va + 0xabc));
		want_equal(look(0), 0x2000000);
		entry_set(leaf, ONE | ALL);
		invlpg((void *)va);
	}
	done();
}

/* Of a large page all pieces go, also with a global one. */
static void invlpg_large(void)
{
	unsigned large;

	setup();
	large = leaf - 1;
	for (unsigned g = 0; g < 2; g++) {
		path_set(large, ONE, ALL | (g ? G : 0));
		for (u32 off = 0; off < 0x200000; off += 0x10000)
			want_equal(look(off), 0x1000000 + off);
		entry_set(large, TWO | ALL | PS | (g ? G : 0));
		invlpg((void *)(va + 0x12345));
		for (u32 off = 0; off < 0x200000; off += 0x10000)
			want_equal(look(off), 0x2000000 + off);
	}
	done();
}

/* An entry above the leaf changes: INVLPG drops what is cached of those too. */
static void invlpg_upper(void)
{
	u64 e;

	setup();
	for (unsigned level = 0; level < leaf; level++) {
		want_equal(look(0), 0x1000000);
		e = entry_get(level);
		entry_set(level, 0);
		invlpg((void *)va);
		TRY("", "mov (%0), %%eax", : : "r"(va) : "eax");
		want_fault(PF, 0);
		/* Present again needs no flush. */
		entry_set(level, e);
		want_equal(look(0), 0x1000000);
		/* Read-only. */
		entry_set(level, e & ~(u64)RW);
		invlpg((void *)va);
		TRY("", "movl $0, 4(%0)", : : "r"(va) : "memory");
		want_fault(PF, 3);
		entry_set(level, e);
		invlpg((void *)va);
	}
	done();
}

/* Entries that are not present are never cached. */
static void not_present_is_not_cached(void)
{
	setup();
	for (unsigned i = 0; i < 20; i++) {
		entry_set(leaf, 0);
		invlpg((void *)va);
		TRY("", "mov (%0), %%eax", : : "r"(va) : "eax");
		want_fault(PF, 0);
		TRY("", "movl $1, 4(%0)", : : "r"(va) : "memory");
		want_fault(PF, 2);
		entry_set(leaf, (i & 1 ? TWO : ONE) | ALL);
		want_equal(look(0), i & 1 ? 0x2000000 : 0x1000000);
	}
	done();
}

/* More rights: at most one spurious fault. A page fault drops what it found. */
static void more_rights(void)
{
	setup();
	write_cr0(read_cr0() | CR0_WP);
	for (unsigned i = 0; i < 20; i++) {
		entry_set(leaf, ONE | P | US);
		invlpg((void *)va);
		want_equal(look(0), 0x1000000);
		entry_set(leaf, ONE | ALL);
		TRY("", "movl $1, 4(%0)", : : "r"(va) : "memory");
		if (trap.vector != NONE) {
			want_fault(PF, 3);
			TRY("", "movl $1, 4(%0)", : : "r"(va) : "memory");
		}
		want_none();
	}
	done();
}

/* D is set by the first write after it was cleared and flushed; A likewise. */
static void dirty_again(void)
{
	setup();
	for (unsigned i = 0; i < 20; i++) {
		*(volatile u32 *)va = 0x1000000;
		want(entry_get(leaf) & D);
		entry_set(leaf, ONE | ALL);
		invlpg((void *)va);
		want_equal(look(0), 0x1000000);
		want_equal(entry_get(leaf) & (A | D), A);
		*(volatile u32 *)va = 0x1000000;
		want_equal(entry_get(leaf) & (A | D), A | D);
		/* By a locked access that does not change anything, too. */
		entry_set(leaf, ONE | ALL);
		invlpg((void *)va);
		__asm__ volatile("lock orl $0, (%0)" : : "r"(va) : "memory", "cc");
		want(entry_get(leaf) & D);
		entry_set(leaf, ONE | ALL);
		invlpg((void *)va);
		__asm__ volatile("lock cmpxchgl %%ecx, (%0)"
				 :
				 : "r"(va), "a"(5), "c"(6)
				 : "memory", "cc");
		want(entry_get(leaf) & D);
	}
	done();
}

/* CR0.WP, SMEP, SMAP, EFER.NXE and the AC flag count at once, whatever is cached. */
static void controls_at_once(void)
{
	word cr0, cr4;

	setup();
	cr0 = read_cr0();
	cr4 = read_cr4();
	entry_set(leaf, ONE | P);
	invlpg((void *)va);
	for (unsigned i = 0; i < 10; i++) {
		write_cr0(cr0 & ~(word)CR0_WP);
		TRY("", "movl $1, 4(%0)", : : "r"(va) : "memory");
		want_none();
		write_cr0(cr0 | CR0_WP);
		TRY("", "movl $1, 4(%0)", : : "r"(va) : "memory");
		want_fault(PF, 3);
	}
	entry_set(leaf, ONE | ALL);
	invlpg((void *)va);
	for (unsigned i = 0; HAS_SMAP && i < 10; i++) {
		TRY("", "movl (%0), %%eax", : : "r"(va) : "eax");
		want_none();
		write_cr4(cr4 | CR4_SMAP);
		TRY("", "movl (%0), %%eax", : : "r"(va) : "eax");
		want_fault(PF, 1);
		TRY("stac", "movl (%0), %%eax; clac", : : "r"(va) : "eax");
		want_none();
		TRY("", "movl (%0), %%eax", : : "r"(va) : "eax");
		want_fault(PF, 1);
		write_cr4(cr4);
	}
	*(volatile u8 *)PHYS(ONE) = 0xc3;
	for (unsigned i = 0; HAS_SMEP && i < 10; i++) {
		TRY("", "call *%0", : : "r"(va) : "memory");
		want_none();
		write_cr4(cr4 | CR4_SMEP);
		TRY("", "call *%0", : : "r"(va) : "memory");
		want_vector(PF, 0x11);
		write_cr4(cr4);
	}
	write_cr0(cr0);
	done();
}

/* CR3 drops what is not global; CR4.PGE everything. */
static void cr3_and_pge(void)
{
	setup();
	want_equal(look(0), 0x1000000);
	entry_set(leaf, TWO | ALL);
	write_cr3(read_cr3());
	want_equal(look(0), 0x2000000);
	entry_set(leaf, ONE | ALL | G);
	invlpg((void *)va);
	want_equal(look(0), 0x1000000);
	entry_set(leaf, TWO | ALL | G);
	write_cr4(read_cr4() & ~(word)CR4_PGE);
	want_equal(look(0), 0x2000000);
	/* Without PGE, G means nothing. */
	entry_set(leaf, ONE | ALL | G);
	write_cr3(read_cr3());
	want_equal(look(0), 0x1000000);
	write_cr4(read_cr4() | CR4_PGE);
	done();
}

#if W64
extern u64 boot_pml4[512];
static PAGED u64 other_top[512];

#define NOFLUSH BIT(63)

static void invpcid(word type, u64 pcid, u64 lin)
{
	u64 desc[2] = { pcid, lin };

	__asm__ volatile("invpcid %0, %1" : : "m"(desc), "r"(type) : "memory");
}

/* Two address spaces, by PCID: neither sees the other's translations, flushed or not. */
static void pcid_spaces(void)
{
	static PAGED u64 t1[512], t2[512], t3[512];
	word one, two;

	if (!HAS_PCID) {
		skip("no PCID");
		return;
	}
	setup();
	for (unsigned i = 0; i < 512; i++)
		other_top[i] = ((volatile u64 *)boot_pml4)[i];
	other_top[2] = (word)t1 | ALL;
	t1[0] = (word)t2 | ALL;
	t2[0] = (word)t3 | ALL;
	t3[0] = TWO | ALL;
	write_cr4(read_cr4() | CR4_PCIDE);
	one = (word)boot_pml4 | 1;
	two = (word)other_top | 2;
	write_cr3(one);
	for (unsigned i = 0; i < 50; i++) {
		want_equal(look(0), 0x1000000);
		write_cr3(two | NOFLUSH);
		want_equal(look(0), 0x2000000);
		write_cr3(one | NOFLUSH);
	}
	/* A change while away, flushed by INVPCID for that PCID. */
	if (HAS_INVPCID) {
		for (unsigned i = 0; i < 20; i++) {
			want_equal(look(0), 0x1000000);
			write_cr3(two | NOFLUSH);
			want_equal(look(0), 0x2000000);
			entry_set(leaf, (TWO + 0x1000) | ALL);
			invpcid(i & 1 ? 1 : 0, 1, va);
			write_cr3(one | NOFLUSH);
			want_equal(look(0), 0x2001000);
			entry_set(leaf, ONE | ALL);
			invpcid(3, 0, 0);
			want_equal(look(0), 0x1000000);
			entry_set(leaf, (ONE + 0x1000) | ALL | G);
			invpcid(2, 0, 0);
			want_equal(look(0), 0x1001000);
			entry_set(leaf, ONE | ALL);
			invpcid(2, 0, 0);
		}
		TRY("", "invpcid %0, %1", : : "m"(*(u64(*)[2])other_top), "r"(4l));
		want_fault(GP, 0);
	}
	/* CR3 without NOFLUSH drops that PCID's. */
	write_cr3(two | NOFLUSH);
	want_equal(look(0), 0x2000000);
	t3[0] = ONE | ALL;
	write_cr3(two);
	want_equal(look(0), 0x1000000);
	/* The same PCID, another top table, no flush asked: software's own fault; with
	 * flush right. */
	write_cr3((word)boot_pml4);
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
	done();
}

static void invpcid_faults(void)
{
	u64 desc[2] = { 0, 0 };

	if (!HAS_INVPCID) {
		skip("no INVPCID");
		return;
	}
	setup();
	desc[0] = BIT(12);
	TRY("", "invpcid %0, %1", : : "m"(desc), "r"(0l));
	want_fault(GP, 0);
	desc[0] = 1;
	TRY("", "invpcid %0, %1", : : "m"(desc), "r"(0l));
	want_fault(GP, 0); /* PCIDE is off */
	desc[0] = 0;
	desc[1] = NOT_CANONICAL;
	TRY("", "invpcid %0, %1", : : "m"(desc), "r"(0l));
	want_fault(GP, 0);
	TRY("", "invpcid %0, %1", : : "m"(desc), "r"(1l));
	want_none();
	TRY("", "invpcid (%0), %1", : : "r"(BIT(32)), "r"(1l));
	want_fault(PF, 0);
	done();
}
#endif

/* More pages than any TLB has, twice round, then each changed and flushed singly. */
static void many_pages(void)
{
	volatile u32 *table;
	unsigned n = W64 ? 512 : 1024;

	setup();
	table = (volatile u32 *)path.entry[leaf];
	for (unsigned i = 0; i < n; i++)
		table[W64 ? 2 * i : i] = (ONE + (i & 511) * 0x1000) | ALL;
	flush_tlb();
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < n; i++)
			want_equal(look(i * 0x1000), 0x1000000 + (i & 511) * 0x1000);
	for (unsigned i = 0; i < n; i += 7) {
		table[W64 ? 2 * i : i] = (TWO + (i & 511) * 0x1000) | ALL;
		invlpg((void *)(va + i * 0x1000));
	}
	for (unsigned i = 0; i < n; i++)
		want_equal(look(i * 0x1000),
			   (i % 7 ? 0x1000000u : 0x2000000u) + (i & 511) * 0x1000);
	for (unsigned i = 1; i < n; i++)
		table[W64 ? 2 * i : i] = 0;
	flush_tlb();
	done();
}

/* INVLPG of an address that is not canonical does nothing; of an unmapped one neither. */
static void invlpg_nothing(void)
{
	setup();
	TRY("", "invlpg (%0)", : : "r"(va + 0x1000));
	want_none();
#if W64
	TRY("", "invlpg (%0)", : : "r"(0x8000000000000000));
	want_none();
#endif
	TRY("", ".byte 0x0f, 0x01, 0xf9", :); /* a register operand: RDTSCP */
	done();
}

const struct test_case cases[] = {
	CASE(invlpg_page, "SDM 3 4.10.4.1"),
	CASE(invlpg_large, "SDM 3 4.10.4.1"),
	CASE(invlpg_upper, "SDM 3 4.10.4.1"),
	CASE(not_present_is_not_cached, "SDM 3 4.10.2.3"),
	CASE(more_rights, "SDM 3 4.10.4.3"),
	CASE(dirty_again, "SDM 3 4.8"),
	CASE(controls_at_once, "SDM 3 4.10.4.1"),
	CASE(cr3_and_pge, "SDM 3 4.10.4.1"),
#if W64
	CASE(pcid_spaces, "SDM 3 4.10.1"),
	CASE(invpcid_faults, "SDM 2 INVPCID"),
#endif
	CASE(many_pages, "SDM 3 4.10.2"),
	CASE(invlpg_nothing, "SDM 2 INVLPG"),
	CASES_END,
};
