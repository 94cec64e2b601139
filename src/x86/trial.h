/*
 * Trial runs: instructions executed on a vCPU in such a way that memory can be taken
 * back.
 *
 * A vCPU with v->trial set stands in for another one, 'real'. It has no TLB of its own
 * but looks at that of the other, and walks the page tables where that has nothing. Its
 * writes to RAM are noted before they are made. What cannot be taken back, devices above
 * all, is not done: 'impure' is set, and the rest of the instruction works with nonsense
 * and is of no use.
 *
 * Thread: the owner of both vCPUs. Other writers of guest memory are not held off;
 * trial_raced() tells whether one came in between.
 */
#pragma once

#include "x86/tlbfill.h"

#define TRIAL_WRITES     20480
#define TRIAL_BYTES      KiB(256)
#define TRIAL_READS      512
#define TRIAL_READ_BYTES KiB(8)

struct trial_span {
	u8 *host;
	gpa_t gpa;
	u32 at; /* of its bytes in 'old' and 'new', or in 'seen' */
	u16 len;
	bool walk; /* made by a page walk: A and D bits */
};

struct trial {
	struct vcpu *real;
	gpa_t code; /* the instructions that are executed, */
	u32 code_len;
	bool code_written; /* and they have been written to */
	bool impure;
	bool flushed; /* the TLB of 'real' does not count any more */
	u32 writes, write_bytes;
	u32 reads, read_bytes;
	struct trial_span write[TRIAL_WRITES], read[TRIAL_READS];
	u8 old[TRIAL_BYTES], new[TRIAL_BYTES], seen[TRIAL_READ_BYTES];
};

/* Start over; the instructions to be executed lie at [code, code + len). */
void trial_begin(struct trial *t, gpa_t code, u32 len);
/* Remember what memory holds now, and put back what it held before. */
void trial_undo(struct trial *t);
/* The first write whose bytes are not in memory now; NULL: memory is as the trial left
 * it. */
const struct trial_span *trial_differs(const struct trial *t);
/* Is something that the trial read another value now, that neither it nor the real run
 * wrote? */
bool trial_raced(const struct trial *t);

/* ---- for x86/ ---- */

/* Before a write. False: do not write. */
bool trial_write(struct trial *t, u8 *host, gpa_t gpa, u64 len, bool walk);
/* Before or after a read of memory. */
void trial_read(struct trial *t, u8 *host, gpa_t gpa, u64 len);
/* In place of tlb_fill(). */
bool trial_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
		struct tlb_hit *hit);
