/*
 * A disk in memory for tests, in place of block/: requests wait until fake_block_run().
 */
#pragma once

#include "block/block.h"

struct fake_block {
	u64 size;
	u8 *data;
	bool readonly, can_try;
	int fail; /* what requests end with; 0: they succeed */
	struct block_req *waiting[2048];
	unsigned count;
	unsigned flushes, fuas, discards, zeroes, submitted;
};

struct fake_block *fake_block_new(u64 size);
void fake_block_free(struct fake_block *f);
struct block *fake_block_handle(struct fake_block *f);
/* Do what waits. */
void fake_block_run(struct fake_block *f);
