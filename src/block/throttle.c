/*
 * Limits of bytes and requests per second, as leaky buckets: a request starts when the
 * bucket is not over its burst, and fills it; so a request larger than the burst passes,
 * and delays those behind it.
 *
 * Pure; the caller has the clock, the queue and the lock.
 */
#include "block/throttle.h"

static bool bucket_init(struct bucket *b, const struct block_rate *r)
{
	b->rate = (double)r->per_second;
	b->max = r->max ? (double)r->max : b->rate / 10;
	return r->per_second != 0;
}

bool throttle_init(struct throttle *t, const struct block_config *cfg, i64 now)
{
	bool any = false;

	*t = (struct throttle){ .last = now };
	for (unsigned i = 0; i < BLOCK_RATES; i++) {
		any |= bucket_init(&t->bps[i], &cfg->bps[i]);
		any |= bucket_init(&t->iops[i], &cfg->iops[i]);
	}
	return any;
}

static void leak(struct bucket *b, double seconds)
{
	b->level -= b->rate * seconds;
	if (b->level < 0)
		b->level = 0;
}

static double wait_for(const struct bucket *b)
{
	return b->rate > 0 && b->level > b->max ? (b->level - b->max) / b->rate : 0;
}

i64 throttle_admit(struct throttle *t, i64 now, bool write, u64 len)
{
	unsigned way = write ? BLOCK_RATE_WRITE : BLOCK_RATE_READ;
	struct bucket *buckets[] = { &t->bps[BLOCK_RATE_TOTAL], &t->bps[way],
				     &t->iops[BLOCK_RATE_TOTAL], &t->iops[way] };
	double wait = 0;

	if (now > t->last) {
		for (unsigned i = 0; i < BLOCK_RATES; i++) {
			leak(&t->bps[i], (double)(now - t->last) / 1e9);
			leak(&t->iops[i], (double)(now - t->last) / 1e9);
		}
		t->last = now;
	}
	for (unsigned i = 0; i < 4; i++)
		wait = wait_for(buckets[i]) > wait ? wait_for(buckets[i]) : wait;
	if (wait > 0)
		return wait > 3600 ? 3600 * NSEC_PER_SEC : (i64)(wait * 1e9) + 1;
	for (unsigned i = 0; i < 4; i++)
		buckets[i]->level += i < 2 ? (double)len : 1;
	return 0;
}
