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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_once),
		cmocka_unit_test(is_not_put_off),
		cmocka_unit_test(is_silent_after_its_end),
		cmocka_unit_test(is_of_its_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
