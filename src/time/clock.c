/*
 * The one clock of a machine and the timers that wait on it.
 *
 * The only reader of a host clock (I4). Virtual time is CLOCK_MONOTONIC less what it read
 * at virtual time 0 and less the time spent stopped. clock_now() takes no lock: the three
 * words it needs are guarded by a sequence counter that is odd while they change.
 *
 * Timers stand in a list sorted by deadline; there are some ten of them in a machine (one
 * per chip), so insertion walks it. One with a bell is in no list: its deadline is set in
 * the host as soon as it is known here.
 *
 * Lock: clk->lock covers the list, all timers' private members and every change of the
 * time words. It is a leaf: nothing but the host is called with it held. Threads: any.
 */
#include "time/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/alarm.h"

/* A bound for streams that leaves room for any sum of two times: 146 years. */
#define VNS_MAX_SANE (INT64_C(1) << 62)

/* So late the thread that waits for timers may be before others help. */
#define CATCH_UP_NS  1000000
/* So many timers they fire at once, about as many as there are chips. */
#define CATCH_UP_MAX 8

struct clock {
	/* Time words, see clock_now(). */
	u32 seq;
	bool running; /* time = host + base, else time = base */
	i64 base;

	bool manual;
	u32 stops; /* nested clock_stop() */
	i64 epoch_ns;

	pthread_mutex_t lock;
	struct timer *armed; /* sorted by deadline */
	vns_t first; /* earliest(); atomic, clock_catch_up() reads it without lock */
	struct bell *bells;
	pthread_t runner; /* inside clock_run_timers(), while running_timers */
	bool running_timers;
	void (*wake)(void *opaque);
	void *wake_opaque;
};

struct bell {
	struct timer *t;
	struct alarm alarm;
	i64 set; /* host time that the alarm is set to; VNS_NEVER: it rings no more */
	struct bell *next, **pprev; /* of the clock's */
};

static i64 host_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (i64)ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static struct clock *clock_alloc(bool manual)
{
	struct clock *clk = xzalloc(sizeof(*clk));

	pthread_mutex_init(&clk->lock, NULL);
	clk->first = VNS_NEVER;
	clk->manual = manual;
	return clk;
}

struct clock *clock_new(void)
{
	struct clock *clk = clock_alloc(false);
	i64 host = host_ns(CLOCK_MONOTONIC);

	clk->base = -host;
	clk->running = true;
	/* Both clocks are read within a microsecond; the epoch needs no better. */
	clk->epoch_ns = host_ns(CLOCK_REALTIME);
	return clk;
}

struct clock *clock_new_manual(void)
{
	return clock_alloc(true);
}

void clock_free(struct clock *clk)
{
	if (!clk)
		return;
	pthread_mutex_destroy(&clk->lock);
	free(clk);
}

/*
 * Pairs with time_words_open() and time_words_set(): who sees a new word also sees 'seq'
 * changed at the second look. The host clock is read between the two looks, so a time
 * that a concurrent clock_stop() would not know of is thrown away.
 */
vns_t clock_now(struct clock *clk)
{
	for (;;) {
		u32 seq = __atomic_load_n(&clk->seq, __ATOMIC_ACQUIRE);
		bool running = __atomic_load_n(&clk->running, __ATOMIC_ACQUIRE);
		i64 now = __atomic_load_n(&clk->base, __ATOMIC_ACQUIRE);

		if (running)
			now += host_ns(CLOCK_MONOTONIC);
		if (likely(__atomic_load_n(&clk->seq, __ATOMIC_ACQUIRE) == seq &&
			   !(seq & 1)))
			return now;
	}
}

/* Time as the lock holder knows it. */
static vns_t now_locked(const struct clock *clk)
{
	return clk->running ? clk->base + host_ns(CLOCK_MONOTONIC) : clk->base;
}

/*
 * Begin a change; from here on no reader succeeds with the old words. A full barrier: the
 * host clock read that may follow comes after it. Under the lock.
 */
static void time_words_open(struct clock *clk)
{
	__atomic_fetch_add(&clk->seq, 1, __ATOMIC_SEQ_CST);
}

static void time_words_set(struct clock *clk, bool running, i64 base)
{
	__atomic_store_n(&clk->running, running, __ATOMIC_RELEASE);
	__atomic_store_n(&clk->base, base, __ATOMIC_RELEASE);
	__atomic_fetch_add(&clk->seq, 1, __ATOMIC_RELEASE);
}

static void set_now(struct clock *clk, vns_t now)
{
	time_words_open(clk);
	time_words_set(clk, clk->running, now);
}

static vns_t earliest(const struct clock *clk)
{
	return clk->armed && !clk->stops ? clk->armed->deadline : VNS_NEVER;
}

/* After each change of the list, and of 'stops'. */
static void note_first(struct clock *clk)
{
	__atomic_store_n(&clk->first, earliest(clk), __ATOMIC_RELAXED);
}

/* ---- bells ---- */

/*
 * Set the alarm to the timer's deadline. Under the lock, after each change of that or of
 * the time words. The alarm is never later than the deadline, and a ring that overtakes a
 * change here finds nothing due in bell_run(), or what is.
 */
static void bell_sync(struct bell *b)
{
	const struct clock *clk = b->t->clk;
	i64 at = VNS_NEVER;

	/* No time is before 0, so that this can only be too large: never, then. */
	if (!clk->stops && b->t->deadline != VNS_NEVER &&
	    __builtin_sub_overflow(MAX(b->t->deadline, 0), clk->base, &at))
		at = VNS_NEVER;
	if (at == b->set)
		return;
	b->set = at;
	alarm_set_at(&b->alarm, at == VNS_NEVER ? 0 : (u64)MAX(at, 1));
}

static void bells_sync(struct clock *clk)
{
	for (struct bell *b = clk->bells; b; b = b->next)
		bell_sync(b);
}

void bell_run(struct bell *b)
{
	struct timer *t = b->t;
	struct clock *clk = t->clk;
	vns_t deadline;
	bool due;

	pthread_mutex_lock(&clk->lock);
	/* It may have rung: if that was too early, by whatever the host's clocks differ,
	 * it is set again. */
	b->set = VNS_NEVER;
	deadline = t->deadline;
	due = !clk->stops && deadline <= now_locked(clk);
	if (due)
		t->deadline = VNS_NEVER;
	else
		bell_sync(b);
	pthread_mutex_unlock(&clk->lock);
	if (due)
		t->fire(t->opaque, deadline);
}

void clock_stop(struct clock *clk)
{
	pthread_mutex_lock(&clk->lock);
	if (!clk->stops++ && !clk->manual) {
		time_words_open(clk);
		time_words_set(clk, false, now_locked(clk));
	}
	note_first(clk);
	bells_sync(clk);
	pthread_mutex_unlock(&clk->lock);
}

/* Tell the waiter, with the lock released. */
static void wake_unlock(struct clock *clk, bool earlier)
{
	void (*wake)(void *) = earlier ? clk->wake : NULL;
	void *opaque = clk->wake_opaque;

	pthread_mutex_unlock(&clk->lock);
	if (wake)
		wake(opaque);
}

void clock_start(struct clock *clk)
{
	bool started;

	pthread_mutex_lock(&clk->lock);
	started = clk->stops && !--clk->stops;
	if (started && !clk->manual) {
		time_words_open(clk);
		time_words_set(clk, true, clk->base - host_ns(CLOCK_MONOTONIC));
	}
	note_first(clk);
	bells_sync(clk);
	wake_unlock(clk, started && clk->armed);
}

i64 clock_epoch_ns(struct clock *clk)
{
	return __atomic_load_n(&clk->epoch_ns, __ATOMIC_RELAXED);
}

void clock_set_epoch_ns(struct clock *clk, i64 ns)
{
	__atomic_store_n(&clk->epoch_ns, ns, __ATOMIC_RELAXED);
}

/* Timers. */

void timer_init(struct timer *t, struct clock *clk, void (*fire)(void *, vns_t),
		void *opaque)
{
	*t = (struct timer){ .clk = clk, .fire = fire, .opaque = opaque };
	t->deadline = VNS_NEVER;
}

static void list_remove(struct timer *t)
{
	if (!t->pprev)
		return;
	*t->pprev = t->next;
	if (t->next)
		t->next->pprev = t->pprev;
	t->next = NULL;
	t->pprev = NULL;
}

/* Behind those of the same deadline, so that equals fire in the order they were armed. */
static void list_insert(struct clock *clk, struct timer *t)
{
	struct timer **p = &clk->armed;

	while (*p && (*p)->deadline <= t->deadline)
		p = &(*p)->next;
	t->next = *p;
	t->pprev = p;
	if (t->next)
		t->next->pprev = &t->next;
	*p = t;
}

void timer_arm(struct timer *t, vns_t deadline)
{
	struct clock *clk = t->clk;
	vns_t before;
	bool earlier;

	pthread_mutex_lock(&clk->lock);
	if (t->bell) {
		t->deadline = deadline;
		bell_sync(t->bell);
		pthread_mutex_unlock(&clk->lock);
		return;
	}
	before = earliest(clk);
	list_remove(t);
	t->deadline = deadline;
	if (deadline != VNS_NEVER)
		list_insert(clk, t);
	note_first(clk);
	/* The thread inside clock_run_timers() is awake and gets the deadline from it. */
	earlier = earliest(clk) < before &&
		  !(clk->running_timers && pthread_equal(clk->runner, pthread_self()));
	wake_unlock(clk, earlier);
}

void timer_cancel(struct timer *t)
{
	pthread_mutex_lock(&t->clk->lock);
	list_remove(t);
	t->deadline = VNS_NEVER;
	if (t->bell)
		bell_sync(t->bell);
	note_first(t->clk);
	pthread_mutex_unlock(&t->clk->lock);
}

struct bell *bell_new(struct timer *t, void (*ring)(void *opaque), void *opaque)
{
	struct clock *clk = t->clk;
	struct bell *b;

	if (clk->manual)
		return NULL;
	b = xzalloc(sizeof(*b));
	b->t = t;
	b->set = VNS_NEVER;
	if (!alarm_init(&b->alarm, ring, opaque)) {
		free(b);
		return NULL;
	}
	pthread_mutex_lock(&clk->lock);
	assert(!t->bell);
	t->bell = b;
	b->next = clk->bells;
	b->pprev = &clk->bells;
	if (b->next)
		b->next->pprev = &b->next;
	clk->bells = b;
	list_remove(t);
	note_first(clk);
	bell_sync(b);
	pthread_mutex_unlock(&clk->lock);
	return b;
}

void bell_free(struct bell *b)
{
	struct timer *t;
	struct clock *clk;
	vns_t before;

	if (!b)
		return;
	t = b->t;
	clk = t->clk;
	pthread_mutex_lock(&clk->lock);
	t->bell = NULL;
	*b->pprev = b->next;
	if (b->next)
		b->next->pprev = b->pprev;
	before = earliest(clk);
	if (t->deadline != VNS_NEVER)
		list_insert(clk, t);
	note_first(clk);
	wake_unlock(clk, earliest(clk) < before);
	alarm_fini(&b->alarm);
	free(b);
}

vns_t clock_next_deadline(struct clock *clk)
{
	vns_t next;

	pthread_mutex_lock(&clk->lock);
	next = earliest(clk);
	pthread_mutex_unlock(&clk->lock);
	return next;
}

/* Move what is due at 'now' from the armed list to *due, keeping the order. */
static void take_due(struct clock *clk, vns_t now, struct timer **due)
{
	struct timer **end = &clk->armed;

	while (*end && (*end)->deadline <= now)
		end = &(*end)->next;
	if (end == &clk->armed)
		return;
	*due = clk->armed;
	clk->armed = *end;
	if (clk->armed)
		clk->armed->pprev = &clk->armed;
	*end = NULL;
	(*due)->pprev = due;
}

/*
 * The due timers go to a list of their own first, so that each fires once however its
 * callback arms it. They stay linked there: a cancel in the meantime takes effect.
 */
vns_t clock_run_timers(struct clock *clk)
{
	struct timer *due = NULL;
	bool outer;
	vns_t next;

	pthread_mutex_lock(&clk->lock);
	/* A second thread in here is allowed, it only wakes the waiter once too often. */
	outer = !clk->running_timers;
	if (outer) {
		clk->running_timers = true;
		clk->runner = pthread_self();
	}
	if (!clk->stops)
		take_due(clk, now_locked(clk), &due);
	note_first(clk);
	while (due && !clk->stops) {
		struct timer *t = due;
		vns_t deadline = t->deadline;
		void (*fire)(void *, vns_t) = t->fire;
		void *opaque = t->opaque;

		list_remove(t);
		t->deadline = VNS_NEVER;
		pthread_mutex_unlock(&clk->lock);
		fire(opaque, deadline);
		pthread_mutex_lock(&clk->lock);
	}
	/* Stopped half-way: the rest waits for the start. */
	while (due) {
		struct timer *t = due;

		list_remove(t);
		list_insert(clk, t);
	}
	note_first(clk);
	if (outer)
		clk->running_timers = false;
	next = earliest(clk);
	pthread_mutex_unlock(&clk->lock);
	return next;
}

/*
 * One after the other, unlike clock_run_timers(): a thread that is about to lose its CPU
 * holds up no more than one.
 */
void clock_catch_up(struct clock *clk, vns_t now)
{
	/* VNS_NEVER is the largest time, so that this does not wrap. */
	if (likely(now - __atomic_load_n(&clk->first, __ATOMIC_RELAXED) <= CATCH_UP_NS))
		return;
	for (unsigned n = 0; n < CATCH_UP_MAX; n++) {
		void (*fire)(void *, vns_t);
		struct timer *t;
		vns_t deadline;
		void *opaque;

		pthread_mutex_lock(&clk->lock);
		t = clk->armed;
		if (earliest(clk) > now) {
			pthread_mutex_unlock(&clk->lock);
			return;
		}
		deadline = t->deadline;
		fire = t->fire;
		opaque = t->opaque;
		list_remove(t);
		t->deadline = VNS_NEVER;
		note_first(clk);
		pthread_mutex_unlock(&clk->lock);
		fire(opaque, deadline);
	}
}

void clock_set_wake(struct clock *clk, void (*wake)(void *opaque), void *opaque)
{
	pthread_mutex_lock(&clk->lock);
	clk->wake = wake;
	clk->wake_opaque = opaque;
	pthread_mutex_unlock(&clk->lock);
}

void clock_advance(struct clock *clk, vns_t ns)
{
	vns_t target, next;

	pthread_mutex_lock(&clk->lock);
	if (!clk->manual || clk->stops || ns < 0) {
		pthread_mutex_unlock(&clk->lock);
		return;
	}
	target = ns < VNS_MAX_SANE - clk->base ? clk->base + ns : VNS_MAX_SANE;
	while ((next = earliest(clk)) <= target) {
		if (next > clk->base)
			set_now(clk, next);
		pthread_mutex_unlock(&clk->lock);
		clock_run_timers(clk);
		pthread_mutex_lock(&clk->lock);
	}
	if (!clk->stops)
		set_now(clk, target);
	pthread_mutex_unlock(&clk->lock);
}

/* State. */

static const struct state_field clock_fields[] = {
	STATE_FIELD(struct clock_state, now, 1),
	STATE_FIELD(struct clock_state, epoch_ns, 1),
	{ 0 },
};

static bool clock_valid(const void *state)
{
	const struct clock_state *s = state;

	return s->now >= 0 && s->now <= VNS_MAX_SANE && s->epoch_ns >= -VNS_MAX_SANE &&
	       s->epoch_ns <= VNS_MAX_SANE;
}

const struct state_desc clock_desc = {
	.name = "clock",
	.size = sizeof(struct clock_state),
	.version = 1,
	.fields = clock_fields,
	.valid = clock_valid,
};

void clock_save(struct clock *clk, struct state_buf *b)
{
	struct clock_state s = { .now = clock_now(clk), .epoch_ns = clock_epoch_ns(clk) };

	state_save(b, &clock_desc, 0, &s);
}

int clock_load(struct clock *clk, struct state_buf *b, struct error *err)
{
	struct clock_state s = { 0 };
	int ret;

	pthread_mutex_lock(&clk->lock);
	if (clk->running) {
		ret = error_set(err, -EBUSY, "clock: running while it is loaded");
	} else {
		ret = state_load(b, &clock_desc, 0, &s, err);
		if (!ret) {
			set_now(clk, s.now);
			clock_set_epoch_ns(clk, s.epoch_ns);
		}
	}
	pthread_mutex_unlock(&clk->lock);
	return ret;
}
