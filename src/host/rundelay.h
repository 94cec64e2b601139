/*
 * For how long a thread was ready to run while the host ran others: what a guest calls
 * stolen time.
 *
 * Linux keeps it in /proc/PID/task/TID/schedstat
 * (Documentation/scheduler/sched-stats.rst). A look costs about a microsecond. Thread:
 * one at a time; the thread looked at need not be the caller's.
 */
#pragma once

#include "base/types.h"

struct rundelay {
	int fd;     /* -1: not open; -2: the host does not say */
	bool known; /* 'seen' is what it was the last time */
	u64 seen;
};

void rundelay_init(struct rundelay *r);
void rundelay_fini(struct rundelay *r);
/* Until the next look it needs no file descriptor. */
void rundelay_close(struct rundelay *r);
/* ns since the last call; 0 at the first, and where the host does not say it. */
u64 rundelay_more(struct rundelay *r, int pid, int tid);
