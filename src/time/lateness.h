/*
 * What becomes of periodic edges whose time passed unnoticed: one policy for the PIT, the
 * RTC and the HPET.
 *
 * A chip computes from the clock how many edges have passed and owes them to the guest.
 * They go out one at a time, never closer than half a period, so that an interrupt
 * controller that latches one edge per input loses none, and a late guest catches up
 * at twice the speed. More than LATE_BACKLOG owed edges are dropped: a guest
 * that was away for long is better served by one tick than by a storm of old ones.
 *
 * No two edges are closer than LATE_MIN_GAP, whatever period the guest chose, and
 * for periods shorter than that nothing is caught up: a guest can cause at most
 * 10,000 timer callbacks a second and chip output.
 *
 * Plain data in the chip's state, under the chip's lock.
 */
#pragma once

#include "base/bits.h"
#include "base/types.h"

#define LATE_BACKLOG 16
#define LATE_MIN_GAP INT64_C(100000) /* ns */

struct lateness {
	u64 owed;      /* edges that passed and were not delivered */
	vns_t free_at; /* no delivery before this */
};

static inline void lateness_reset(struct lateness *l)
{
	l->owed = 0;
	l->free_at = 0;
}

static inline vns_t lateness_gap(vns_t period)
{
	return MAX(period / 2, LATE_MIN_GAP);
}

/* 'n' edges of a source with this period (ns) passed. */
static inline void lateness_add(struct lateness *l, u64 n, vns_t period)
{
	u64 cap = period < LATE_MIN_GAP ? 1 : LATE_BACKLOG;

	l->owed = n >= cap ? cap : MIN(l->owed + n, cap);
}

/* Deliver one now? Then it is no longer owed. */
static inline bool lateness_take(struct lateness *l, vns_t now, vns_t period)
{
	if (!l->owed || now < l->free_at)
		return false;
	l->owed--;
	l->free_at = now + MIN(lateness_gap(period), VNS_NEVER - now);
	return true;
}

/* When to look again, the source's next edge being at next_edge. */
static inline vns_t lateness_deadline(const struct lateness *l, vns_t next_edge)
{
	return l->owed ? l->free_at : MAX(next_edge, l->free_at);
}

static inline bool lateness_valid(const struct lateness *l)
{
	return l->owed <= LATE_BACKLOG && l->free_at >= 0;
}
