/*
 * A signal to the calling thread in a while, whatever it is doing then: SIGVTALRM, from
 * a timer of CLOCK_MONOTONIC. System calls go on, or end with EINTR where the host does
 * not let them.
 */
#pragma once

#include <time.h>

#include "base/types.h"

/* In signal context on the thread: only async-signal-safe calls. */
typedef void alarm_fn(void *opaque);

/* A thread has one at most. All 0: not made. */
struct alarm {
	alarm_fn *fn;
	void *opaque;
	timer_t timer;
	bool made, set;
};

/* By the thread that will get it. False: the host gives no timer. */
bool alarm_init(struct alarm *a, alarm_fn *fn, void *opaque);
/* By that thread, or once it does not run any more; also where it is not made. */
void alarm_fini(struct alarm *a);
/* By that thread: once in so many nanoseconds, unless it is to come already. */
void alarm_set(struct alarm *a, u64 ns);
