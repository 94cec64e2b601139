/* Sampling a thread: as much as its CPU time, nothing while it sleeps, and where it is.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/sampler.h"

struct seen {
	pthread_t thread;
	volatile u64 ns, here, elsewhere;
};

static void burn(volatile u64 *sink, u64 ns)
{
	u64 end = sampler_thread_ns() + ns;

	while (sampler_thread_ns() < end)
		for (unsigned i = 0; i < 10000; i++)
			(*sink)++;
}

static void note(void *opaque, u64 rip, u64 ns)
{
	struct seen *s = opaque;

	(void)rip;
	s->ns += ns;
	if (pthread_equal(pthread_self(), s->thread))
		s->here++;
	else
		s->elsewhere++;
}

/* A sample comes on a tick of the host, 10 ms at most. */
static void samples_add_up_to_the_time(void **state)
{
	struct seen s = { .thread = pthread_self() };
	u64 begin, spent, sink = 0;
	struct sampler *sampler;

	(void)state;
	begin = sampler_thread_ns();
	sampler = sampler_start(note, &s, NULL);
	assert_non_null(sampler);
	burn(&sink, 200000000);
	spent = sampler_thread_ns() - begin;
	sampler_stop(sampler);
	assert_in_range(s.ns, spent * 8 / 10, spent + 11000000);
	assert_true(s.here && !s.elsewhere);
	/* And none later. */
	begin = s.ns;
	burn(&sink, 30000000);
	assert_true(s.ns == begin);
}

static void *sleeper(void *opaque)
{
	struct seen *s = opaque;
	struct sampler *sampler = sampler_start(note, s, NULL);
	/* A signal would cut it short. */
	unsigned left = sleep(1);

	sampler_stop(sampler);
	return left || !sampler ? s : NULL;
}

static void a_thread_that_sleeps_is_left_alone(void **state)
{
	struct seen mine = { .thread = pthread_self() }, its = { 0 };
	struct sampler *sampler = sampler_start(note, &mine, NULL);
	pthread_t t;
	void *bad;
	u64 sink = 0;

	(void)state;
	assert_non_null(sampler);
	assert_int_equal(pthread_create(&t, NULL, sleeper, &its), 0);
	burn(&sink, 100000000);
	pthread_join(t, &bad);
	sampler_stop(sampler);
	assert_null(bad);
	assert_true(its.ns == 0);
	assert_true(mine.here && !mine.elsewhere);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(samples_add_up_to_the_time),
		cmocka_unit_test(a_thread_that_sleeps_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
