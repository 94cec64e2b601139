/*
 * What the mapper (mapper.S) and the VMM share: one memfd, mapped in both processes. Also
 * read by the assembler.
 */
#pragma once

/* clang-format off */
/* Offsets in the memfd, and from the address it has in the process. */
#define MAPPER_TEXT  0x0000	/* read and execute */
#define MAPPER_ORDER 0x1000	/* read only there: what the guest cannot change */
#define MAPPER_CTL   0x2000
#define MAPPER_SIZE  0x4000

#define MAPPER_ORDERS 72

#define ORDER_SEQ   0
#define ORDER_COUNT 4
#define ORDER_FIRST 8
#define ORDER_BYTES 56

#define CTL_DONE   0
#define CTL_FAILED 8
/* clang-format on */

#ifndef __ASSEMBLER__
#include <stddef.h>

#include "base/types.h"

/* System calls for the mapper. */
struct mapper_orders {
	u32 seq; /* raised to have them done */
	u32 count;
	struct mapper_call {
		u64 nr, arg[6];
	} call[MAPPER_ORDERS];
};

/* The guest can write here, but not while the mapper has orders. */
struct mapper_ctl {
	u32 done;   /* the last seq whose orders are done */
	i32 tid;    /* of the guest's thread */
	u32 failed; /* it could not be made, or an order not be done */
};

_Static_assert(offsetof(struct mapper_orders, call) == ORDER_FIRST &&
		       sizeof(struct mapper_call) == ORDER_BYTES &&
		       sizeof(struct mapper_orders) <= MAPPER_CTL - MAPPER_ORDER &&
		       offsetof(struct mapper_ctl, failed) == CTL_FAILED,
	       "mapper.S has the same");

extern const u8 direct_mapper[], direct_mapper_end[];
/* In it, for process_trial(). */
extern const u8 direct_trial_tsc[], direct_trial_pmc[], direct_trial_break[],
	direct_trial_bases[], direct_trial_nt[];
#endif
