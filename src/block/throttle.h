/* Limits of bytes and requests per second. Only block/ includes this. */
#pragma once

#include "block/block.h"

/* A leaky bucket: what went through lately, in bytes or requests. */
struct bucket {
	double level, rate, max;
};

struct throttle {
	struct bucket bps[BLOCK_RATES], iops[BLOCK_RATES];
	i64 last; /* ns, when the levels were as they are */
};

/* False: no limit is set. */
bool throttle_init(struct throttle *t, const struct block_config *cfg, i64 now);
/*
 * Nanoseconds until a read or write of 'len' bytes may start; 0: now, and it is counted
 * then. One lock around it.
 */
i64 throttle_admit(struct throttle *t, i64 now, bool write, u64 len);
