/*
 * Page tables of a guest's own: the kernel's identity map, user mode's alias, and one
 * path of tables to a test page, each entry of which a case may change.
 *
 * SDM volume 3 chapter 4. 64-bit guests run on 4-level paging from the start (start.S);
 * the path is entry 2 of its top table. 32-bit guests call paging_on() first.
 */
#pragma once

#include "rt.h"

enum paging { PAGING_32, PAGING_PAE, PAGING_4, PAGING_5 };

enum {
	P = 1 << 0,
	RW = 1 << 1,
	US = 1 << 2,
	PWT = 1 << 3,
	PCD = 1 << 4,
	A = 1 << 5,
	D = 1 << 6,
	PS = 1 << 7,
	G = 1 << 8,
};
#define NX    BIT(63)
#define PK(n) ((u64)(n) << 59)
#define ALL   (P | RW | US)

enum {
	EFER = 0xc0000080,
	EFER_SCE = 1 << 0,
	EFER_LME = 1 << 8,
	EFER_LMA = 1 << 10,
	EFER_NXE = 1 << 11,
	CR0_WP = 1 << 16,
	CR4_PSE = 1 << 4,
	CR4_PAE = 1 << 5,
	CR4_PGE = 1 << 7,
	CR4_LA57 = 1 << 12,
	CR4_PCIDE = 1 << 17,
	CR4_SMEP = 1 << 20,
	CR4_SMAP = 1 << 21,
	CR4_PKE = 1 << 22,
	CR4_PKS = 1 << 24,
};

/* Physical memory for test pages: 4 MiB aligned, in RAM, not the image's. */
#define TEST_PA  0x2400000u
/* Its byte at a physical address, through the identity map. */
#define PHYS(pa) ((volatile u8 *)(word)(pa))

#define PATH_MAX 5

/* The tables on the way to the test page; entry[0] is in the top table. */
struct path {
	unsigned levels;
	volatile void *entry[PATH_MAX];
	u8 shift[PATH_MAX]; /* linear-address bits below this level's index */
	word va;            /* of the first byte that entry[0] maps */
};
extern struct path path;
extern enum paging paging;

/*
 * 64-bit: PAGING_4 or PAGING_5. 32-bit: PAGING_32 or PAGING_PAE; with 'pse' CR4.PSE.
 * Switches to it with CR4, and EFER, having nothing else on.
 */
void paging_on(enum paging mode, bool pse);
#if !W64
void paging_off(void);
/* User mode sees linear ALIAS32 as offset 0, so that it needs no supervisor page. */
#define ALIAS32 0x80000000u
#endif
/* Offset of a linear address in user mode's segments. */
word user_offset(word lin);

/* Entries of the path; 'size' is 4 or 8. */
u64 entry_get(unsigned level);
void entry_set(unsigned level, u64 val);
/* Make the path lead to 'pa' by a leaf at 'level', all rights, and flush. */
void path_set(unsigned leaf, u64 pa, u64 bits);
/* Bits of physical addresses. */
unsigned phys_bits(void);
