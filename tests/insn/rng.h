/*
 * Random numbers that repeat: splitmix64.
 */
#pragma once

#include "base/types.h"

struct rng {
	u64 s;
};

static inline u64 rng64(struct rng *r)
{
	u64 z = r->s += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 .. n - 1 */
static inline u32 rng_below(struct rng *r, u32 n)
{
	return (u32)((rng64(r) >> 32) * n >> 32);
}

static inline bool rng_one_in(struct rng *r, u32 n)
{
	return rng_below(r, n) == 0;
}

static inline void rng_fill(struct rng *r, void *p, unsigned n)
{
	u8 *b = p;

	for (; n >= 8; n -= 8, b += 8) {
		u64 v = rng64(r);

		__builtin_memcpy(b, &v, 8);
	}
	for (; n; n--)
		*b++ = (u8)rng64(r);
}
