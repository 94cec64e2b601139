/* The machine's clock and its timers. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/bits.h"
#include "time/clock.h"

struct shot {
	struct clock *clk;
	struct timer t;
	unsigned count;
	vns_t deadline, now;    /* of the last */
	unsigned *order, place; /* place among all shots of a test */
	vns_t rearm;            /* arm this much after the deadline, 0: do not */
	struct timer *cancel;
};

static void shot_fire(void *opaque, vns_t deadline)
{
	struct shot *s = opaque;

	s->count++;
	s->deadline = deadline;
	s->now = clock_now(s->clk);
	if (s->order)
		s->place = ++*s->order;
	if (s->rearm)
		timer_arm(&s->t, deadline + s->rearm);
	if (s->cancel)
		timer_cancel(s->cancel);
}

static void shot_init(struct shot *s, struct clock *clk)
{
	*s = (struct shot){ .clk = clk };
	timer_init(&s->t, clk, shot_fire, s);
}

static void wake_count(void *opaque)
{
	++*(unsigned *)opaque;
}

static void manual_clock_moves_only_when_told(void **state)
{
	struct clock *clk = clock_new_manual();

	(void)state;
	assert_int_equal(clock_now(clk), 0);
	clock_advance(clk, 1234);
	assert_int_equal(clock_now(clk), 1234);
	clock_advance(clk, -5);
	assert_int_equal(clock_now(clk), 1234);
	clock_free(clk);
}

static void advance_runs_each_timer_at_its_deadline(void **state)
{
	struct clock *clk = clock_new_manual();
	struct shot a, b, c;
	unsigned order = 0;

	(void)state;
	shot_init(&a, clk);
	shot_init(&b, clk);
	shot_init(&c, clk);
	a.order = b.order = c.order = &order;
	timer_arm(&a.t, 300);
	timer_arm(&b.t, 100);
	timer_arm(&c.t, 301);
	assert_int_equal(clock_next_deadline(clk), 100);
	clock_advance(clk, 300);
	assert_int_equal(b.now, 100);
	assert_int_equal(a.now, 300);
	assert_int_equal(b.place, 1);
	assert_int_equal(a.place, 2);
	assert_int_equal(c.count, 0);
	assert_int_equal(clock_next_deadline(clk), 301);
	clock_advance(clk, 1000);
	assert_int_equal(c.now, 301);
	assert_int_equal(clock_now(clk), 1300);
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	clock_free(clk);
}

static void timer_rearmed_in_its_callback_fires_again(void **state)
{
	struct clock *clk = clock_new_manual();
	struct shot a;

	(void)state;
	shot_init(&a, clk);
	a.rearm = 10;
	timer_arm(&a.t, 10);
	clock_advance(clk, 105);
	assert_int_equal(a.count, 10);
	assert_int_equal(a.now, 100);
	assert_int_equal(clock_next_deadline(clk), 110);
	clock_free(clk);
}

static void run_timers_fires_each_at_most_once(void **state)
{
	struct clock *clk = clock_new();
	struct shot a;

	(void)state;
	shot_init(&a, clk);
	a.rearm = 1;
	timer_arm(&a.t, -1000);
	assert_int_equal(clock_run_timers(clk), -999);
	assert_int_equal(a.count, 1);
	assert_int_equal(clock_run_timers(clk), -998);
	assert_int_equal(a.count, 2);
	assert_int_equal(a.deadline, -999);
	timer_cancel(&a.t);
	clock_free(clk);
}

static void callback_can_cancel_one_that_is_due_too(void **state)
{
	struct clock *clk = clock_new_manual();
	struct shot a, b;

	(void)state;
	shot_init(&a, clk);
	shot_init(&b, clk);
	a.cancel = &b.t;
	timer_arm(&a.t, 5);
	timer_arm(&b.t, 5);
	clock_advance(clk, 10);
	assert_int_equal(a.count, 1);
	assert_int_equal(b.count, 0);
	clock_free(clk);
}

static void rearm_replaces_and_never_cancels(void **state)
{
	struct clock *clk = clock_new_manual();
	struct shot a;

	(void)state;
	shot_init(&a, clk);
	timer_arm(&a.t, 5);
	timer_arm(&a.t, 50);
	clock_advance(clk, 10);
	assert_int_equal(a.count, 0);
	timer_arm(&a.t, VNS_NEVER);
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	clock_advance(clk, 100);
	assert_int_equal(a.count, 0);
	timer_cancel(&a.t);
	timer_cancel(&a.t);
	clock_free(clk);
}

static void wake_when_the_earliest_deadline_gets_earlier(void **state)
{
	struct clock *clk = clock_new_manual();
	struct shot a, b;
	unsigned wakes = 0;

	(void)state;
	clock_set_wake(clk, wake_count, &wakes);
	shot_init(&a, clk);
	shot_init(&b, clk);
	timer_arm(&a.t, 100);
	assert_int_equal(wakes, 1);
	timer_arm(&b.t, 200);
	assert_int_equal(wakes, 1);
	timer_arm(&b.t, 50);
	assert_int_equal(wakes, 2);
	timer_arm(&b.t, 60);
	assert_int_equal(wakes, 2);
	timer_cancel(&b.t);
	assert_int_equal(wakes, 2);
	/* Inside clock_run_timers() the caller is told by its return value. */
	a.rearm = 10;
	clock_advance(clk, 105);
	assert_int_equal(wakes, 2);
	/* A stopped clock waits for nothing; its start wakes. */
	clock_stop(clk);
	timer_arm(&b.t, 106);
	assert_int_equal(wakes, 2);
	clock_start(clk);
	assert_int_equal(wakes, 3);
	clock_free(clk);
}

static void sleep_ns(long ns)
{
	struct timespec ts = { .tv_nsec = ns };

	nanosleep(&ts, NULL);
}

static void catch_up_fires_what_is_late_and_wakes_the_waiter(void **state)
{
	enum { LATE = 1000000 };
	struct clock *clk = clock_new_manual();
	struct shot a;
	unsigned wakes = 0;

	(void)state;
	shot_init(&a, clk);
	clock_catch_up(clk, 10 * LATE); /* nothing is armed */
	timer_arm(&a.t, 0);
	clock_set_wake(clk, wake_count, &wakes);
	clock_catch_up(clk, LATE);
	assert_int_equal(a.count, 0);
	a.rearm = 4 * LATE;
	clock_catch_up(clk, LATE + 1);
	assert_int_equal(a.count, 1);
	/* Its new deadline is news to a waiter that sleeps. */
	assert_int_equal(clock_next_deadline(clk), 4 * LATE);
	assert_int_equal(wakes, 1);
	clock_catch_up(clk, LATE + 1);
	assert_int_equal(a.count, 1);
	clock_stop(clk);
	clock_catch_up(clk, 10 * LATE);
	assert_int_equal(a.count, 1);
	assert_int_equal(wakes, 1);
	clock_start(clk);
	timer_cancel(&a.t);
	wakes = 0;
	clock_catch_up(clk, 10 * LATE);
	assert_int_equal(wakes, 0);
	clock_free(clk);
}

static void host_clock_runs_and_stops_without_a_jump(void **state)
{
	struct clock *clk = clock_new();
	struct shot a;
	vns_t t0, t1, frozen;

	(void)state;
	t0 = clock_now(clk);
	assert_in_range(t0, 0, NSEC_PER_SEC);
	sleep_ns(1000000);
	t1 = clock_now(clk);
	assert_true(t1 >= t0 + 1000000);
	shot_init(&a, clk);
	timer_arm(&a.t, t1);
	clock_stop(clk);
	clock_stop(clk);
	frozen = clock_now(clk);
	assert_true(frozen >= t1);
	sleep_ns(20000000);
	assert_int_equal(clock_now(clk), frozen);
	clock_start(clk);
	assert_int_equal(clock_now(clk), frozen);
	assert_true(clock_run_timers(clk) == VNS_NEVER);
	assert_int_equal(a.count, 0);
	clock_start(clk);
	t1 = clock_now(clk);
	assert_true(t1 >= frozen);
	/* Less than what it was stopped for. */
	assert_true(t1 < frozen + 20000000);
	clock_run_timers(clk);
	assert_int_equal(a.count, 1);
	clock_free(clk);
}

/* ---- bells ---- */

static void rung(void *opaque)
{
	__atomic_fetch_add((unsigned *)opaque, 1, __ATOMIC_SEQ_CST);
}

static unsigned times(const unsigned *rings)
{
	return __atomic_load_n(rings, __ATOMIC_SEQ_CST);
}

static void until(const unsigned *rings, unsigned least)
{
	for (unsigned ms = 0; times(rings) < least; ms++) {
		assert_true(ms < 10000);
		sleep_ns(1000000);
	}
}

/* At its deadline, and the waiting thread is told of nothing. */
static void bell_rings_when_its_timer_is_due(void **state)
{
	struct clock *clk = clock_new();
	unsigned rings = 0, wakes = 0;
	struct bell *bell;
	struct shot a;
	vns_t at;

	(void)state;
	shot_init(&a, clk);
	clock_set_wake(clk, wake_count, &wakes);
	bell = bell_new(&a.t, rung, &rings);
	assert_non_null(bell);
	at = clock_now(clk) + 2000000;
	timer_arm(&a.t, at);
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	until(&rings, 1);
	assert_true(clock_now(clk) >= at);
	assert_true(clock_run_timers(clk) == VNS_NEVER);
	clock_catch_up(clk, clock_now(clk) + NSEC_PER_SEC);
	assert_int_equal(a.count, 0);
	bell_run(bell);
	assert_int_equal(a.count, 1);
	assert_int_equal(a.deadline, at);
	/* The same again, though it is past. */
	timer_arm(&a.t, at);
	until(&rings, 2);
	bell_run(bell);
	assert_int_equal(a.count, 2);
	bell_run(bell);
	assert_int_equal(a.count, 2);
	/* Past, before there was time. */
	timer_arm(&a.t, INT64_MIN);
	until(&rings, 3);
	bell_run(bell);
	assert_int_equal(a.count, 3);
	assert_true(a.deadline == INT64_MIN);
	/* So late that there is no such time of the host. */
	timer_arm(&a.t, VNS_NEVER - 1);
	sleep_ns(2000000);
	assert_int_equal(times(&rings), 3);
	assert_int_equal(wakes, 0);
	bell_free(bell);
	clock_free(clk);
}

static void bell_follows_its_timer(void **state)
{
	struct clock *clk = clock_new();
	unsigned rings = 0;
	struct bell *bell;
	struct shot a;

	(void)state;
	shot_init(&a, clk);
	/* Armed before. */
	timer_arm(&a.t, 0);
	bell = bell_new(&a.t, rung, &rings);
	until(&rings, 1);
	assert_true(clock_run_timers(clk) == VNS_NEVER);
	a.rearm = 1;
	bell_run(bell);
	/* What its callback armed. */
	until(&rings, 2);
	a.rearm = 0;
	bell_run(bell);
	assert_int_equal(a.count, 2);
	/* Later than it was, and not at all. */
	timer_arm(&a.t, clock_now(clk) + 20000000);
	timer_arm(&a.t, clock_now(clk) + 3600 * NSEC_PER_SEC);
	sleep_ns(30000000);
	/* Run too early. */
	bell_run(bell);
	timer_cancel(&a.t);
	timer_arm(&a.t, clock_now(clk) + 20000000);
	timer_arm(&a.t, VNS_NEVER);
	timer_arm(&a.t, clock_now(clk) + 20000000);
	timer_cancel(&a.t);
	sleep_ns(30000000);
	assert_int_equal(times(&rings), 2);
	bell_run(bell);
	assert_int_equal(a.count, 2);
	/* Early, and it rings still. */
	timer_arm(&a.t, clock_now(clk) + 20000000);
	bell_run(bell);
	bell_run(bell);
	until(&rings, 3);
	bell_run(bell);
	assert_int_equal(a.count, 3);
	bell_free(bell);
	clock_free(clk);
}

static void stopped_clock_silences_its_bells(void **state)
{
	struct clock *clk = clock_new();
	unsigned rings = 0;
	struct bell *bell;
	struct shot a;
	vns_t at;

	(void)state;
	shot_init(&a, clk);
	bell = bell_new(&a.t, rung, &rings);
	at = clock_now(clk) + 20000000;
	timer_arm(&a.t, at);
	clock_stop(clk);
	sleep_ns(40000000);
	bell_run(bell);
	assert_int_equal(times(&rings) + a.count, 0);
	clock_start(clk);
	until(&rings, 1);
	assert_true(clock_now(clk) >= at);
	bell_run(bell);
	assert_int_equal(a.count, 1);
	/* It rings, but the clock stops before anyone has run. */
	timer_arm(&a.t, 0);
	until(&rings, 2);
	clock_stop(clk);
	bell_run(bell);
	assert_int_equal(a.count, 1);
	/* Armed meanwhile. */
	timer_arm(&a.t, 1);
	sleep_ns(2000000);
	assert_int_equal(times(&rings), 2);
	clock_start(clk);
	until(&rings, 3);
	bell_run(bell);
	assert_int_equal(a.count, 2);
	bell_free(bell);
	clock_free(clk);
}

static void timer_without_its_bell_is_the_waiters(void **state)
{
	struct clock *clk = clock_new(), *manual = clock_new_manual();
	unsigned rings = 0, wakes = 0;
	struct shot a, m;
	vns_t at;

	(void)state;
	shot_init(&a, clk);
	clock_set_wake(clk, wake_count, &wakes);
	bell_free(bell_new(&a.t, rung, &rings));
	bell_free(NULL);
	assert_int_equal(wakes, 0);
	for (unsigned i = 0; i < 2; i++) {
		struct bell *bell = bell_new(&a.t, rung, &rings);

		at = clock_now(clk) + 20000000;
		timer_arm(&a.t, at);
		bell_free(bell);
		assert_int_equal(wakes, i + 1);
		assert_int_equal(clock_next_deadline(clk), at);
	}
	sleep_ns(30000000);
	assert_int_equal(times(&rings), 0);
	clock_run_timers(clk);
	assert_int_equal(a.count, 1);
	shot_init(&m, manual);
	assert_null(bell_new(&m.t, rung, &rings));
	timer_arm(&m.t, 5);
	clock_advance(manual, 5);
	assert_int_equal(m.count, 1);
	clock_free(clk);
	clock_free(manual);
}

struct chain {
	struct shot a;
	unsigned rings;
	unsigned arms; /* atomic */
	bool end;
};

static void chain_arm(struct chain *c, vns_t at)
{
	__atomic_fetch_add(&c->arms, 1, __ATOMIC_SEQ_CST);
	timer_arm(&c->a.t, at);
}

/* Arms it whenever it has fired, so close that it may be past. */
static void *arm_thread(void *opaque)
{
	struct chain *c = opaque;
	unsigned n = 0;
	vns_t last = 0;

	while (!__atomic_load_n(&c->end, __ATOMIC_SEQ_CST)) {
		if (__atomic_load_n(&c->a.deadline, __ATOMIC_SEQ_CST) == last) {
			n++;
			/* Many in a row: the last one counts. */
			for (unsigned i = n % 5; i > 0; i--)
				chain_arm(c, clock_now(c->a.clk) + i * (n % 64) * 1000);
			last = clock_now(c->a.clk) + n % 100 * 100;
			chain_arm(c, last);
		}
		sched_yield();
	}
	return NULL;
}

static void *stop_thread(void *opaque)
{
	struct chain *c = opaque;

	while (!__atomic_load_n(&c->end, __ATOMIC_SEQ_CST)) {
		clock_stop(c->a.clk);
		sched_yield();
		clock_start(c->a.clk);
		sleep_ns(10000);
	}
	return NULL;
}

/* Whoever arms it and stops the clock: each deadline is heard, and fires once. */
static void no_ring_is_lost(void **state)
{
	struct chain c = { 0 };
	struct clock *clk = clock_new();
	pthread_t arm, stop;
	struct bell *bell;

	(void)state;
	shot_init(&c.a, clk);
	bell = bell_new(&c.a.t, rung, &c.rings);
	assert_int_equal(pthread_create(&arm, NULL, arm_thread, &c), 0);
	assert_int_equal(pthread_create(&stop, NULL, stop_thread, &c), 0);
	for (unsigned seen = 0; c.a.count < 20000;) {
		/* As the signal interrupts the sleep, and mostly does so in time. */
		for (unsigned ms = 0; times(&c.rings) == seen; ms++) {
			assert_true(ms < 10000);
			sleep_ns(1000000);
		}
		seen = times(&c.rings);
		bell_run(bell);
		assert_true(c.a.count <= __atomic_load_n(&c.arms, __ATOMIC_SEQ_CST));
	}
	__atomic_store_n(&c.end, true, __ATOMIC_SEQ_CST);
	pthread_join(arm, NULL);
	pthread_join(stop, NULL);
	bell_free(bell);
	clock_free(clk);
}

static void epoch_is_civil_time_of_virtual_zero(void **state)
{
	struct clock *clk = clock_new();
	i64 civil = clock_epoch_ns(clk) + clock_now(clk);
	i64 off = civil - (i64)time(NULL) * NSEC_PER_SEC;

	(void)state;
	assert_true(off > -2 * NSEC_PER_SEC && off < 2 * NSEC_PER_SEC);
	clock_set_epoch_ns(clk, 77);
	assert_int_equal(clock_epoch_ns(clk), 77);
	clock_free(clk);
}

struct race {
	struct clock *clk;
	bool end;
	u64 reads;
	bool backwards;
};

static void *race_reader(void *arg)
{
	struct race *r = arg;
	vns_t last = 0;

	while (!__atomic_load_n(&r->end, __ATOMIC_RELAXED)) {
		vns_t now = clock_now(r->clk);

		if (now < last)
			r->backwards = true;
		last = now;
		__atomic_fetch_add(&r->reads, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *race_arm(void *arg)
{
	struct race *r = arg;
	struct shot a;

	shot_init(&a, r->clk);
	while (!__atomic_load_n(&r->end, __ATOMIC_RELAXED)) {
		timer_arm(&a.t, clock_now(r->clk) + 1000);
		timer_arm(&a.t, clock_now(r->clk));
		timer_cancel(&a.t);
	}
	return NULL;
}

static void time_never_goes_back_while_others_stop_and_start(void **state)
{
	struct race r = { .clk = clock_new() }, arm = { .clk = r.clk };
	struct shot mine;
	pthread_t reader, armer;

	(void)state;
	shot_init(&mine, r.clk);
	mine.rearm = 1000;
	timer_arm(&mine.t, 0);
	assert_int_equal(pthread_create(&reader, NULL, race_reader, &r), 0);
	assert_int_equal(pthread_create(&armer, NULL, race_arm, &arm), 0);
	while (!__atomic_load_n(&r.reads, __ATOMIC_RELAXED))
		sleep_ns(1000);
	for (int i = 0; i < 20000; i++) {
		clock_stop(r.clk);
		clock_start(r.clk);
		clock_run_timers(r.clk);
	}
	__atomic_store_n(&r.end, true, __ATOMIC_RELAXED);
	__atomic_store_n(&arm.end, true, __ATOMIC_RELAXED);
	pthread_join(reader, NULL);
	pthread_join(armer, NULL);
	assert_false(r.backwards);
	clock_free(r.clk);
}

static void save_load_save_is_identical(void **state)
{
	struct clock *a = clock_new_manual(), *b = clock_new(), *c = clock_new();
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };

	(void)state;
	clock_advance(a, 123456789);
	clock_set_epoch_ns(a, INT64_C(1700000000000000000));
	clock_save(a, &one);
	assert_true(clock_load(b, &one, &err) < 0); /* it runs */
	clock_stop(c);
	assert_int_equal(clock_load(c, &one, &err), 0);
	assert_int_equal(clock_now(c), 123456789);
	clock_save(c, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	clock_start(c);
	assert_true(clock_now(c) >= 123456789 &&
		    clock_now(c) < 123456789 + 10 * NSEC_PER_SEC);
	assert_int_equal(state_covered(&clock_desc), clock_desc.size);
	state_buf_fini(&one);
	state_buf_fini(&two);
	clock_free(a);
	clock_free(b);
	clock_free(c);
}

static void load_refuses_time_out_of_range(void **state)
{
	struct clock *clk = clock_new_manual();
	struct clock_state s = { .now = -1 };
	struct state_buf b = { 0 };
	struct error err = { 0 };

	(void)state;
	state_save(&b, &clock_desc, 0, &s);
	assert_true(clock_load(clk, &b, &err) < 0);
	s.now = VNS_NEVER;
	state_save(&b, &clock_desc, 0, &s);
	assert_true(clock_load(clk, &b, &err) < 0);
	assert_int_equal(clock_now(clk), 0);
	state_buf_fini(&b);
	clock_free(clk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(manual_clock_moves_only_when_told),
		cmocka_unit_test(advance_runs_each_timer_at_its_deadline),
		cmocka_unit_test(timer_rearmed_in_its_callback_fires_again),
		cmocka_unit_test(run_timers_fires_each_at_most_once),
		cmocka_unit_test(callback_can_cancel_one_that_is_due_too),
		cmocka_unit_test(rearm_replaces_and_never_cancels),
		cmocka_unit_test(wake_when_the_earliest_deadline_gets_earlier),
		cmocka_unit_test(catch_up_fires_what_is_late_and_wakes_the_waiter),
		cmocka_unit_test(host_clock_runs_and_stops_without_a_jump),
		cmocka_unit_test(bell_rings_when_its_timer_is_due),
		cmocka_unit_test(bell_follows_its_timer),
		cmocka_unit_test(stopped_clock_silences_its_bells),
		cmocka_unit_test(timer_without_its_bell_is_the_waiters),
		cmocka_unit_test(no_ring_is_lost),
		cmocka_unit_test(epoch_is_civil_time_of_virtual_zero),
		cmocka_unit_test(time_never_goes_back_while_others_stop_and_start),
		cmocka_unit_test(save_load_save_is_identical),
		cmocka_unit_test(load_refuses_time_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
