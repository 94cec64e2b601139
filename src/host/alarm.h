/*
 * A signal to a thread in a while, whatever it is doing then: SIGVTALRM, from a timer of
 * CLOCK_MONOTONIC. System calls go on, or end with EINTR where the host does not let
 * them.
 */
#pragma once

#include <time.h>

#include "base/types.h"

/* In signal context on the thread: only async-signal-safe calls. */
typedef void alarm_fn(void *opaque);

/* All 0: not made. */
struct alarm {
	struct alarm *next; /* of this thread */
	alarm_fn *fn;
	void *opaque;
	timer_t timer;
	bool made, set; /* set: by alarm_set() */
};

/* By the thread that will get it. False: the host gives no timer. */
bool alarm_init(struct alarm *a, alarm_fn *fn, void *opaque);
/*
 * By that thread; or by another when that does not run any more, or stands still, and
 * then the memory stays its until it ends. Also where it is not made.
 */
void alarm_fini(struct alarm *a);
/* By that thread: once in so many nanoseconds, unless it is to come already. */
void alarm_set(struct alarm *a, u64 ns);
/*
 * Any thread: once, at this time of CLOCK_MONOTONIC or at once if that is past; 0: never.
 * What was asked for before is void, though it may come just now. Not with alarm_set().
 */
void alarm_set_at(struct alarm *a, u64 ns);
