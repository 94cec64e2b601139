/*
 * The software TLB: linear page to host address, per kind of access.
 *
 * Direct-mapped, one array per mmu_idx, so that a hit proves the permission
 * as well as the mapping. A tag is the linear page address, or TLB_NONE, which no page
 * address equals. Pages that need a look at every access (MMIO, code pages when
 * written, pages with a data breakpoint) get no tag for that access.
 */
#pragma once

#include "base/types.h"

#define TLB_BITS 9
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_NONE UINT64_C(1)

/* Whose access it is. */
enum mmu_idx {
	MMU_USER,       /* CPL 3 */
	MMU_KERNEL,     /* CPL < 3, and implicit supervisor accesses */
	MMU_KERNEL_AC,  /* CPL < 3, EFLAGS.AC lets it through SMAP */
	MMU_IDX_COUNT,
};

struct tlb_entry {
	u64 read, write, exec; /* tags */
	u64 addend;            /* host address = linear + addend */
};

struct tlb {
	struct tlb_entry e[MMU_IDX_COUNT][TLB_SIZE];
	u64 gpa[MMU_IDX_COUNT][TLB_SIZE];   /* guest-physical page of the entry */
	u8 global[MMU_IDX_COUNT][TLB_SIZE]; /* survives a CR3 load */
	u8 shift[MMU_IDX_COUNT][TLB_SIZE];  /* page size the entry is a piece of */
	bool large[MMU_IDX_COUNT]; /* some entry is a piece of a larger page: INVLPG must search */
};
