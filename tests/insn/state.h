/*
 * What both sides of the comparison agree on: the register state that goes in and comes
 * out, and the memory that an instruction may touch.
 *
 * The arena has the same linear addresses in the test process and in the guest. All of it
 * is code and data of a user-mode program; what is unmapped stays so, which makes page
 * faults cheap: no mapping ever changes.
 *
 *   ARENA  +0x00000  code, read, write and execute; filled with INT3
 *          +0x10000  nothing
 *   DATA   +0x00000  nothing
 *          +0x01000  read and write (RW_PAGES)
 *          +0x07000  nothing
 *          +0x08000  read only
 *          +0x09000  nothing
 */
#pragma once

#include "x86/regs.h"
#include "x86/xsave.h"

#define ARENA      UINT64_C(0x10000000)
#define CODE_SIZE  UINT64_C(0x10000)
#define DATA       (ARENA + UINT64_C(0x20000))
#define RW_BASE    (DATA + 0x1000)
#define RW_PAGES   6
#define RW_SIZE    (RW_PAGES * UINT64_C(0x1000))
#define RW_END     (RW_BASE + RW_SIZE)
#define RO_BASE    (DATA + 0x8000)
#define RO_END     (RO_BASE + 0x1000)
#define ARENA_SIZE UINT64_C(0x2a000)

/* Bytes of x87, SSE, AVX and AVX-512 state, laid out as in x86/xsave.h. */
#define STATE_XSAVE XSAVE_PKRU
#define STATE_XCR0  (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

enum mode { MODE64, MODE32, MODE16, MODE_COUNT };

/* Selectors of a Linux process, and of the segments we add to its LDT. */
enum {
	SEL_CS32 = 0x23,
	SEL_DS = 0x2b,
	SEL_CS64 = 0x33,
	SEL_LDT_CS16 = 0x07,  /* base ARENA, 64 KiB */
	SEL_LDT_DS16 = 0x0f,  /* base DATA, 64 KiB, 16-bit stack */
	SEL_LDT_DS32 = 0x17,  /* base DATA, 1 MiB - 1, 32-bit stack */
	SEL_LDT_CS32 = 0x1f,  /* base ARENA, 64 KiB */
	SEL_LDT_DOWN = 0x27,  /* base DATA, expands down to 0x3000 */
	SEL_LDT_SHORT = 0x2f, /* base DATA, ends inside the read-write pages */
	SEL_LDT_RO = 0x37,    /* base DATA, read only */
	SEL_LDT_NP = 0x3f,    /* not present */
	SEL_LDT_COUNT = 8,
};

/* A segment of the LDT. */
struct ldt_entry {
	u32 base, limit; /* bytes */
	u8 contents;     /* 0 data, 1 expand-down data, 2 code */
	bool db, ro, absent;
};
extern const struct ldt_entry ldt_entries[SEL_LDT_COUNT];

#define TRAP_NONE 0xffu

struct state {
	u8 xsave[XSAVE_AREA_SIZE] __attribute__((aligned(64)));
	u64 gpr[16], rip, flags;
	u16 sel[6]; /* ES CS SS DS FS GS */
	u16 tls;    /* FS and GS have these bases in 32-bit code too */
	u16 pad;
	u64 fs_base, gs_base; /* 64-bit mode only */
	/* How it ended. */
	u64 cr2;
	u32 vector, error;
};

/* Where the segment bases are, for whoever computes addresses. */
u64 sel_base(u16 sel);

/* Same meaning, same bytes: components not in use, unused bytes, what is not compared. */
void state_normalize(struct state *s, enum mode mode);
/* What differs first, in words; NULL: nothing. Both normalized. */
const char *state_difference(const struct state *guest, const struct state *host);
void state_print(const struct state *s, const struct state *other, const char *name);
