/* The alarm of a thread: once, on that thread, and none after its end. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/bits.h"
#include "host/alarm.h"

struct rung {
	volatile unsigned times;
	pthread_t by;
};

static void ring(void *opaque)
{
	struct rung *r = opaque;

	r->by = pthread_self();
	r->times++;
}

static void doze(long ns)
{
	nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
}

static void until(const struct rung *r, unsigned times)
{
	while (r->times < times)
		doze(100000);
}

static void rings_once(void **state)
{
	struct rung r = { 0 };
	struct alarm a;

	(void)state;
	assert_true(alarm_init(&a, ring, &r));
	assert_false(a.set);
	alarm_set(&a, 1000);
	until(&r, 1);
	assert_false(a.set);
	doze(5000000);
	assert_int_equal(r.times, 1);
	assert_true(pthread_equal(r.by, pthread_self()));
	alarm_set(&a, 1000);
	until(&r, 2);
	alarm_fini(&a);
}

/* The first one counts. */
static void is_not_put_off(void **state)
{
	struct rung r = { 0 };
	struct alarm a;

	(void)state;
	assert_true(alarm_init(&a, ring, &r));
	alarm_set(&a, 20000000);
	assert_true(a.set);
	for (unsigned i = 0; i < 1000 && !r.times; i++)
		alarm_set(&a, UINT64_C(3600) * 1000000000);
	until(&r, 1);
	alarm_fini(&a);
}

static void is_silent_after_its_end(void **state)
{
	struct rung r = { 0 };
	struct alarm a = { 0 };

	(void)state;
	alarm_fini(&a);
	for (unsigned i = 0; i < 100; i++) {
		unsigned times;

		assert_true(alarm_init(&a, ring, &r));
		alarm_set(&a, 1);
		alarm_fini(&a);
		times = r.times;
		doze(10000);
		assert_int_equal(r.times, times);
	}
}

static void *other_thread(void *opaque)
{
	struct rung r = { 0 };
	struct alarm a;

	assert_true(alarm_init(&a, ring, &r));
	alarm_set(&a, 1000);
	until(&r, 1);
	assert_true(pthread_equal(r.by, pthread_self()));
	*(struct alarm *)opaque = a;
	return NULL;
}

/* And its alarm can be ended by another. */
static void is_of_its_thread(void **state)
{
	pthread_t t;
	struct alarm a;

	(void)state;
	assert_int_equal(pthread_create(&t, NULL, other_thread, &a), 0);
	pthread_join(t, NULL);
	assert_true(a.made);
	alarm_fini(&a);
	assert_false(a.made);
}

/* Each of a thread's own, in whatever order they come and go. */
static void a_thread_has_several(void **state)
{
	struct rung r[3] = { 0 };
	struct alarm a[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		assert_true(alarm_init(&a[i], ring, &r[i]));
		alarm_set(&a[i], 1000);
	}
	for (unsigned i = 0; i < 3; i++)
		until(&r[i], 1);
	alarm_fini(&a[1]);
	alarm_set(&a[0], 1000);
	alarm_set(&a[2], 1000);
	until(&r[0], 2);
	until(&r[2], 2);
	alarm_fini(&a[2]);
	alarm_set(&a[0], 1000);
	until(&r[0], 3);
	alarm_fini(&a[0]);
	assert_int_equal(r[0].times, 3);
	assert_int_equal(r[1].times, 1);
	assert_int_equal(r[2].times, 2);
}

static void *end_it(void *opaque)
{
	alarm_fini(opaque);
	return NULL;
}

/* As of a CPU that is held while a debugger changes its registers. */
static void can_be_ended_by_another_and_made_again(void **state)
{
	struct rung r[3] = { 0 };
	struct alarm a[3];
	pthread_t t;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		assert_true(alarm_init(&a[i], ring, &r[i]));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&t, NULL, end_it, &a[i]), 0);
		pthread_join(t, NULL);
		assert_true(alarm_init(&a[i], ring, &r[i]));
		for (unsigned n = 0; n < 3; n++)
			alarm_set(&a[n], 1000);
		for (unsigned n = 0; n < 3; n++)
			until(&r[n], i + 1);
	}
	for (unsigned i = 0; i < 3; i++)
		alarm_fini(&a[i]);
}

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

static void *set_it(void *opaque)
{
	alarm_set_at(opaque, now_ns() + 1000000);
	return NULL;
}

static void rings_at_a_time(void **state)
{
	struct rung r = { 0 };
	struct alarm a = { 0 };
	pthread_t t;
	u64 at;

	(void)state;
	alarm_set_at(&a, 1);
	assert_true(alarm_init(&a, ring, &r));
	at = now_ns() + 3000000;
	alarm_set_at(&a, at);
	until(&r, 1);
	assert_true(now_ns() >= at);
	/* Long ago. */
	alarm_set_at(&a, 1);
	until(&r, 2);
	/* The last one counts, and may be none. */
	alarm_set_at(&a, now_ns() + 20000000);
	alarm_set_at(&a, now_ns() + UINT64_C(3600) * 1000000000);
	doze(30000000);
	assert_int_equal(r.times, 2);
	alarm_set_at(&a, now_ns() + 20000000);
	alarm_set_at(&a, 0);
	doze(30000000);
	assert_int_equal(r.times, 2);
	/* By another thread, on ours. */
	assert_int_equal(pthread_create(&t, NULL, set_it, &a), 0);
	until(&r, 3);
	assert_true(pthread_equal(r.by, pthread_self()));
	pthread_join(t, NULL);
	alarm_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_once),
		cmocka_unit_test(is_not_put_off),
		cmocka_unit_test(is_silent_after_its_end),
		cmocka_unit_test(is_of_its_thread),
		cmocka_unit_test(a_thread_has_several),
		cmocka_unit_test(can_be_ended_by_another_and_made_again),
		cmocka_unit_test(rings_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
