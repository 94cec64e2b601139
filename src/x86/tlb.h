/*
 * The software TLB: linear page to host address, per kind of access.
 *
 * Direct-mapped, one per mmu_idx, so that a hit proves the permission
 * as well as the mapping. A tag is the linear page address negated, so that adding it to
 * an address gives the offset in the page on a hit: one test then covers a miss and a
 * page crossing. Pages that need a look at every access (MMIO, code pages when
 * written, pages with a data breakpoint) get no tag for that access.
 */
#pragma once

#include "base/types.h"

#define TLB_BITS              12
#define TLB_SIZE              (1u << TLB_BITS)
/* For vcpu.tlb_flushed, instead of a page. Of the first everything may have changed that
 * addresses depend on, of the others the tables and CR3. */
#define TLB_FLUSHED_ALL       (~UINT64_C(0))
#define TLB_FLUSHED_GLOBAL    (~UINT64_C(0) - 1)
#define TLB_FLUSHED_NONGLOBAL (~UINT64_C(0) - 2)

/* Whose access it is. */
enum mmu_idx {
	MMU_USER,      /* CPL 3 */
	MMU_KERNEL,    /* CPL < 3, and implicit supervisor accesses */
	MMU_KERNEL_AC, /* CPL < 3, EFLAGS.AC lets it through SMAP */
	MMU_IDX_COUNT,
};

/* What an access needs: half a cache line, as generated code reads it. */
struct tlb_entry {
	u64 read, write, exec; /* tags */
	u64 addend;            /* host address = linear + addend */
};

/* What flushing needs to know of an entry. */
struct tlb_info {
	u64 gpa;        /* guest-physical page */
	bool global;    /* survives a CR3 load */
	bool listed[2]; /* is in a list of slots: by 'global' */
	u8 shift;       /* page size the entry is a piece of */
	u32 copies; /* the engine's: what it has copied from the entry, 0: nothing. It is
		     * told when the entry goes, vcpu.tlb_dropped. */
};

/* Which large pages may have pieces in the TLB: bits by a hash of the page. */
struct tlb_large {
	u64 mib2[16]; /* 2 and 4 MiB, by 2 MiB */
	u64 gib1;
};

struct tlb_way {
	struct tlb_entry entry[TLB_SIZE] __attribute__((aligned(64)));
	struct tlb_info info[TLB_SIZE];
	/* The slots that were filled since the last flush, so that a flush costs what was
	 * put in: those of pages that a CR3 load flushes, and global ones. One whose
	 * entry was of both kinds is in both. */
	struct tlb_list {
		u16 slot[TLB_SIZE];
		unsigned count;
	} list[2];
	struct tlb_large large;
};

struct tlb {
	struct tlb_way way[MMU_IDX_COUNT];
	u32 keys;   /* bits of PKRU that entries depend on */
	bool ready; /* entries were made empty: zero is the tag of page 0 */
};

/*
 * Where walks in 4- and 5-level paging have come to the tables of 4 KiB pages: a
 * paging-structure cache (SDM volume 3 section 4.10.3). Whatever flushes a page of the
 * TLB flushes all of this, and so does a page fault what it was found by.
 */
#define WALKS_SIZE 256u
struct tlb_walks {
	u32 now; /* entries of another time do not count */
	struct tlb_walked {
		u64 region; /* linear address >> 21 */
		u64 table;  /* guest-physical */
		u32 time;
		bool user, writable, nx; /* so far */
	} entry[WALKS_SIZE];
};

static inline u64 tlb_tag(u64 page)
{
	return -page;
}

/*
 * No page: the tag of one that belongs to another slot, and is not next to one that
 * belongs to this, so that no address that is looked up here matches it.
 */
static inline u64 tlb_none(unsigned slot)
{
	return -((u64)(slot ^ TLB_SIZE / 2) << 12);
}
