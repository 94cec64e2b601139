/*
 * The policy of direct execution, as far as it does not depend on how fast the host is:
 * who begins anew, who never does, what holds it back.
 */
#include "x86_box.h"

#include <time.h>

#include "engine/direct/policy.h"

static volatile unsigned asks;

static void ask(void *opaque)
{
	(void)opaque;
	asks++;
}

static u64 cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

static void compute(u64 ns)
{
	u64 end = cpu_ns() + ns;

	while (cpu_ns() < end)
		;
}

/* It has computed without a trap, as samples in a row find. */
static void earn(struct policy *p)
{
	for (unsigned i = 0; i < 10 && !policy_wants(p); i++) {
		compute(1000000);
		policy_sample(p, true);
	}
	assert_true(policy_wants(p));
}

static struct policy *start(struct box *b, bool always)
{
	struct policy *p = policy_new(b->v, always, ask, NULL);

	box_long(b, 3);
	b->v->cr3 = 0x1000;
	policy_sample(p, true);
	policy_user_begins(p);
	return p;
}

static void computing_earns_it(void **state)
{
	struct policy *p = start(*state, false);

	assert_false(policy_wants(p));
	earn(p);
	policy_free(p);
}

static void the_kernel_does_not(void **state)
{
	struct policy *p = start(*state, false);

	for (unsigned i = 0; i < 10; i++) {
		compute(1000000);
		policy_sample(p, false);
		assert_false(policy_wants(p));
	}
	policy_free(p);
}

static void of_each_address_space(void **state)
{
	struct box *b = *state;
	struct policy *p = start(b, false);

	earn(p);
	b->v->cr3 = 0x2000;
	assert_false(policy_wants(p));
	b->v->cr3 = 0x1000;
	assert_true(policy_wants(p));
	policy_anew(p, 0x1000);
	assert_false(policy_wants(p));
	earn(p);
	policy_free(p);
}

static void held_until_the_next_sample(void **state)
{
	for (unsigned always = 0; always < 2; always++) {
		struct policy *p = start(*state, always);

		if (!always)
			earn(p);
		policy_hold(p);
		assert_false(policy_wants(p));
		policy_sample(p, true);
		assert_true(policy_wants(p));
		policy_free(p);
	}
}

static void never_is_never(void **state)
{
	struct policy *p = start(*state, false);

	earn(p);
	policy_never(p);
	for (unsigned i = 0; i < 10; i++) {
		compute(1000000);
		policy_sample(p, true);
		assert_false(policy_wants(p));
	}
	policy_free(p);
}

/* A process that does nothing but trap. */
static void traps_end_it(void **state)
{
	struct policy *p = start(*state, false);
	struct upkeep none = { 0 };
	struct tally c;
	unsigned traps = 0;

	earn(p);
	policy_tally(&c, CLOCK_PROCESS_CPUTIME_ID, 0, &none);
	policy_settled(p, &c);
	while (policy_trap(p) && ++traps < 1000)
		;
	assert_true(traps < 1000);
	assert_false(policy_wants(p));
	policy_free(p);
}

static void the_alarm_asks(void **state)
{
	struct policy *p;

	asks = 0;
	p = start(*state, false);
	while (!asks)
		compute(100000);
	assert_true(policy_asked(p));
	assert_false(policy_asked(p));
	/* Not where another stretch runs, nor in the kernel. */
	policy_user_ends(p);
	asks = 0;
	compute(5000000);
	assert_int_equal(asks, 0);
	policy_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(computing_earns_it),    TEST(the_kernel_does_not),
		TEST(of_each_address_space), TEST(held_until_the_next_sample),
		TEST(never_is_never),        TEST(traps_end_it),
		TEST(the_alarm_asks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
