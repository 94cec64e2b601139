/*
 * PCID and INVPCID: descriptors that are refused, and what each invalidation must drop.
 *
 * SDM volume 3 sections 4.10.1 (PCIDs), 4.10.4.1 (operations that invalidate); volume 2
 * INVPCID. That something is kept is never promised, and not looked at.
 */
#include "page.h"

#define OTHER_PA (TEST_PA + 0x1000)

static word try_invpcid(u64 type, u64 lo, u64 hi)
{
	volatile u64 desc[2] = { lo, hi };

	return TRY("", "invpcid (%1), %0", : : "r"(type), "r"(desc) : "memory");
}

static bool begin(void)
{
	if (!HAS_PCID || !HAS_INVPCID) {
		skip("no PCID or INVPCID");
		return false;
	}
	paging_on(PAGING_4, true);
	*PHYS(TEST_PA) = 1;
	*PHYS(OTHER_PA) = 2;
	return true;
}

/* Each bit of the first half, with each type, with and without PCIDE. */
static void descriptors(void)
{
	if (!begin())
		return;
	for (unsigned on = 0; on < 2; on++) {
		write_cr4((read_cr4() & ~(word)CR4_PCIDE) | (on ? CR4_PCIDE : 0));
		for (u64 type = 0; type < 4; type++)
			for (unsigned n = 0; n < 64; n++) {
				bool bad = n >= 12 || (type < 2 && !on);

				try_invpcid(type, BIT(n), 0);
				if (bad)
					want_fault(GP, 0);
				else
					want_none();
			}
		for (unsigned n = 2; n < 64; n++) {
			try_invpcid(BIT(n), 0, 0);
			want_fault(GP, 0);
		}
	}
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

/* Maps TEST_PA and uses it; then the entry, and nothing else, is changed. */
static void stale(u64 bits)
{
	path_set(3, TEST_PA, ALL | bits);
	want_equal(*(volatile u8 *)path.va, 1);
	entry_set(3, OTHER_PA | ALL | bits);
}

static void must_be_new(const char *what)
{
	checked();
	if (*(volatile u8 *)path.va != 2)
		fail("%s keeps a translation", what);
}

static void invalidations(void)
{
	word cr3 = read_cr3(), cr4 = read_cr4();

	if (!begin())
		return;
	cr4 = read_cr4();
	for (unsigned on = 0; on < 2; on++) {
		u64 pcid = on ? 5 : 0;

		write_cr4(cr4 | (on ? CR4_PCIDE : 0));
		write_cr3(cr3 | pcid);
		stale(0);
		try_invpcid(0, pcid, path.va);
		must_be_new("INVPCID of an address");
		stale(0);
		try_invpcid(1, pcid, 0);
		must_be_new("INVPCID of a PCID");
		stale(0);
		try_invpcid(2, 0, 0);
		must_be_new("INVPCID of everything");
		stale(G);
		try_invpcid(2, 0, 0);
		must_be_new("INVPCID of everything, global");
		stale(0);
		try_invpcid(3, 0, 0);
		must_be_new("INVPCID of all but global");
		stale(0);
		write_cr3(cr3 | pcid);
		must_be_new("MOV CR3");
		stale(G);
		invlpg((void *)path.va);
		must_be_new("INVLPG, global");
		stale(G);
		write_cr4(read_cr4() ^ CR4_PGE);
		must_be_new("CR4.PGE");
		write_cr4(read_cr4() ^ CR4_PGE);
		/* 4.10.4.1: a change of PAE, SMEP (0 to 1) and so on, too. */
		if (HAS_SMEP) {
			stale(0);
			write_cr4(read_cr4() | CR4_SMEP);
			must_be_new("CR4.SMEP");
			write_cr4(read_cr4() & ~(word)CR4_SMEP);
		}
		if (on) {
			stale(G);
			write_cr4(read_cr4() & ~(word)CR4_PCIDE);
			must_be_new("CR4.PCIDE going off");
			write_cr4(read_cr4() & ~(word)CR4_PCIDE);
		}
		write_cr3(cr3);
	}
	write_cr4(cr4);
}

/* Another PCID's translations are not used, and come back only as they are in memory. */
static void several(void)
{
	word cr3 = read_cr3(), cr4;

	if (!begin())
		return;
	cr4 = read_cr4();
	write_cr4(cr4 | CR4_PCIDE);
	for (unsigned pcid = 1; pcid < 4096; pcid = pcid * 2 + 1) {
		write_cr3(cr3 | pcid);
		want_equal(read_cr3(), cr3 | pcid);
		stale(0);
		/* Away and back, flushing on the way back. */
		write_cr3(cr3 | (pcid ^ 1));
		must_be_new("another PCID");
		entry_set(3, TEST_PA | ALL);
		write_cr3(cr3 | pcid);
		want_equal(*(volatile u8 *)path.va, 1);
		/* Bit 63 is not part of CR3. */
		write_cr3(cr3 | pcid | BIT(63));
		want_equal(read_cr3(), cr3 | pcid);
		/* Individual addresses of a PCID that is not the current one. */
		want_equal(try_invpcid(0, pcid ^ 1, path.va), NONE);
		want_equal(try_invpcid(1, pcid ^ 1, 0), NONE);
	}
	write_cr3(cr3);
	write_cr4(cr4);
}

const struct test_case cases[] = {
	CASE(descriptors, "SDM 2 INVPCID"),
	CASE(invalidations, "SDM 3 4.10.4.1"),
	CASE(several, "SDM 3 4.10.1"),
	CASES_END,
};
