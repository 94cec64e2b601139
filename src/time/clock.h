/*
 * The one clock of a machine and the timers that wait on it.
 *
 * Only clock.c reads a host clock (I4). Every guest-visible time is computed
 * from clock_now() when it is read; a chip arms a timer only for its next edge.
 *
 * Threads: all functions may be called on any thread where nothing else is said. Timer
 * callbacks run on the thread that calls clock_run_timers(), clock_catch_up() or
 * bell_run(), with no lock of the clock held; a callback may run once more just after
 * timer_cancel() or a new timer_arm() on another thread, so it takes its chip's lock and
 * looks at the chip's own state.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "state/save.h"

struct clock;
struct bell;

/* A clock that follows the host's monotonic time, from 0, running. */
struct clock *clock_new(void);
/* A clock that only clock_advance() moves: for tests, and for counted time. */
struct clock *clock_new_manual(void);
void clock_free(struct clock *clk);

vns_t clock_now(struct clock *clk);

/*
 * Stop and go on, without a jump that a guest could see. Nested stops count. While
 * stopped no timer fires, no bell is to ring and clock_next_deadline() is VNS_NEVER; a
 * callback that had already begun on another thread may still finish.
 */
void clock_stop(struct clock *clk);
void clock_start(struct clock *clk);

/*
 * Manual clock: move to 'now + ns', running each timer at exactly its own deadline.
 * Does nothing while stopped. One thread at a time, not from a callback.
 */
void clock_advance(struct clock *clk, vns_t ns);

/* Nanoseconds of civil time (UTC) since 1970 that belong to virtual time 0. */
i64 clock_epoch_ns(struct clock *clk);
/* Test and deterministic runs: choose it. */
void clock_set_epoch_ns(struct clock *clk, i64 ns);

/*
 * Virtual time and its epoch. Load into a stopped (or manual) clock before the chips
 * are loaded: they compute from its time and arm their timers.
 */
struct clock_state {
	i64 now;      /* vns_t */
	i64 epoch_ns; /* clock_epoch_ns() */
};
extern const struct state_desc clock_desc;
void clock_save(struct clock *clk, struct state_buf *b);
/* 0, -EINVAL for a stream that is not right, -EBUSY when the clock runs. */
int clock_load(struct clock *clk, struct state_buf *b, struct error *err);

struct timer {
	struct clock *clk;
	void (*fire)(void *opaque, vns_t deadline); /* deadline: the one that was armed */
	void *opaque;
	/* Below: clock.c only, under the clock's lock. */
	vns_t deadline;
	struct timer *next, **pprev; /* sorted list; pprev is NULL when not in it */
	struct bell *bell;           /* NULL: the waiting thread sees to it */
};

void timer_init(struct timer *t, struct clock *clk, void (*fire)(void *, vns_t),
		void *opaque);
/*
 * (Re)arm. A deadline in the past fires at the next clock_run_timers(); VNS_NEVER
 * cancels. Whoever frees a timer's memory makes sure that no thread runs timers.
 */
void timer_arm(struct timer *t, vns_t deadline);
void timer_cancel(struct timer *t);

/*
 * A bell wakes the thread that has the most to do with a timer at its deadline, by a
 * signal, wherever it is: the thread waiting for all others sleeps on. From bell_new() to
 * bell_free() the timer fires in bell_run() and nowhere else.
 *
 * 'ring' is called in signal context on the thread that made the bell: only
 * async-signal-safe calls. It has the thread call bell_run() soon, outside. Rings too
 * many are harmless.
 */
/* By the thread that will hear it, for a timer that has none. NULL: the host gives no
 * such timer, or the clock is manual; all is as without. */
struct bell *bell_new(struct timer *t, void (*ring)(void *opaque), void *opaque);
/* By that thread. The timer, still armed if it was, is the waiting thread's again. */
void bell_free(struct bell *b);
/* That thread, without locks: fire the timer if it is due. */
void bell_run(struct bell *b);

/* What follows is about timers without a bell. The earliest deadline, VNS_NEVER if none.
 */
vns_t clock_next_deadline(struct clock *clk);
/*
 * Fire what is due, each timer at most once: one that its callback armed in the past
 * again is due at the next call, which bounds the work. Returns the next deadline.
 */
vns_t clock_run_timers(struct clock *clk);
/*
 * Fire what is due if the first should have fired a millisecond before 'now': for a
 * thread without locks that has just read the time, when the host does not let the
 * waiting thread run. A few timers at most.
 */
void clock_catch_up(struct clock *clk, vns_t now);
/*
 * Told when the earliest deadline moves to an earlier time, so that the waiting
 * thread can be woken; also when a stopped clock goes on. Not told of what callbacks
 * arm on the thread that is inside clock_run_timers(): it returns the next deadline.
 * Called without the clock's lock. May be NULL. Set it before the machine runs.
 */
void clock_set_wake(struct clock *clk, void (*wake)(void *opaque), void *opaque);

/* a * b / c without overflow in between; c > 0. Time conversions. */
static inline u64 muldiv64(u64 a, u64 b, u64 c)
{
	return (u64)((u128)a * b / c);
}
