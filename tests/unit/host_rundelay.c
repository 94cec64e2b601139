/* For how long a thread waited for a CPU: nothing at first, then what the host counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/rundelay.h"

static unsigned long long counted(void)
{
	unsigned long long ran, waited = 0;
	FILE *f = fopen("/proc/thread-self/schedstat", "re");

	if (!f)
		return 0;
	assert_int_equal(fscanf(f, "%llu %llu", &ran, &waited), 2);
	fclose(f);
	return waited;
}

static void differences_add_up(void **state)
{
	struct rundelay r;
	u64 sum = 0, first, last;

	(void)state;
	rundelay_init(&r);
	first = counted();
	assert_int_equal(rundelay_more(&r, getpid(), gettid()), 0);
	for (unsigned i = 0; i < 20; i++) {
		usleep(1000);
		if (i & 1)
			rundelay_close(&r);
		sum += rundelay_more(&r, getpid(), gettid());
	}
	last = counted();
	/* What came between our looks and those of counted() is not in the sum. */
	assert_true(sum <= last - first);
	rundelay_fini(&r);
	assert_int_equal(r.fd, -1);
}

static void thread_that_is_none(void **state)
{
	struct rundelay r;

	(void)state;
	rundelay_init(&r);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(rundelay_more(&r, getpid(), 0), 0);
	rundelay_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(differences_add_up),
		cmocka_unit_test(thread_that_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
