/*
 * The software TLB: linear page to host address, per kind of access.
 *
 * Direct-mapped, one array per mmu_idx, so that a hit proves the permission
 * as well as the mapping. A tag is the linear page address negated, so that adding it to
 * an address gives the offset in the page on a hit: one test then covers a miss and a
 * page crossing. Pages that need a look at every access (MMIO, code pages when
 * written, pages with a data breakpoint) get no tag for that access.
 */
#pragma once

#include "base/types.h"

#define TLB_BITS 9
#define TLB_SIZE (1u << TLB_BITS)
/*
 * No page: added to a page-aligned address it is never 0, and the only addresses for
 * which it gives an offset are not canonical, whatever the paging mode.
 */
#define TLB_NONE UINT64_C(0x8000000000000001)

/* For vcpu.tlb_flushed, instead of a page. */
#define TLB_FLUSHED_ALL       (~UINT64_C(0))
#define TLB_FLUSHED_NONGLOBAL (~UINT64_C(0) - 1)

/* Whose access it is. */
enum mmu_idx {
	MMU_USER,      /* CPL 3 */
	MMU_KERNEL,    /* CPL < 3, and implicit supervisor accesses */
	MMU_KERNEL_AC, /* CPL < 3, EFLAGS.AC lets it through SMAP */
	MMU_IDX_COUNT,
};

/* By slot; arrays of words, so that generated code can index them. */
struct tlb_way {
	u64 read[TLB_SIZE], write[TLB_SIZE], exec[TLB_SIZE]; /* tags */
	u64 addend[TLB_SIZE]; /* host address = linear + addend */
	u64 gpa[TLB_SIZE];    /* guest-physical page */
	u8 global[TLB_SIZE];  /* survives a CR3 load */
	u8 shift[TLB_SIZE];   /* page size the entry is a piece of */
};

struct tlb {
	struct tlb_way way[MMU_IDX_COUNT];
	bool large[MMU_IDX_COUNT]; /* some entry is a piece of a larger page: INVLPG must
				      search */
};

static inline u64 tlb_tag(u64 page)
{
	return -page;
}
