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

/* Where a stop costs ten times as much, so much more. */
static void dear_stops_want_more(void **state)
{
	struct policy *p = start(*state, false);

	policy_stop_took(p, 80000);
	for (unsigned i = 0; i < 10; i++) {
		compute(1000000);
		policy_sample(p, true);
		assert_false(policy_wants(p));
	}
	policy_stop_took(p, 1000);
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
	policy_lost(p, 0x1000);
	assert_false(policy_wants(p));
	earn(p);
	policy_anew(p, 0x1000);
	assert_false(policy_wants(p));
	earn(p);
	policy_free(p);
}

/* Kernel code between does not undo it, as in a program that touches new memory. */
static void bit_by_bit(void **state)
{
	struct policy *p = start(*state, false);
	u64 end = cpu_ns() + 50000000;

	while (!policy_wants(p)) {
		assert_true(cpu_ns() < end);
		policy_user_begins(p);
		compute(200000);
		policy_user_ends(p);
		policy_sample(p, false);
	}
	policy_free(p);
}

/* To be up to date after a while costs what had changed meanwhile, and is no reason to
 * stop at once. */
static void coming_back_is_no_loss(void **state)
{
	struct policy *p = start(*state, false);
	struct upkeep upkeep = { 0 };
	struct tally c;

	earn(p);
	policy_tally(&c, CLOCK_PROCESS_CPUTIME_ID, 0, &upkeep);
	policy_settled(p, &c);
	while (policy_trap(p))
		;
	/* So long it is held back at first. */
	compute(25000000);
	earn(p);
	policy_settled(p, &c);
	upkeep.orders += 1000000;
	policy_runs(p, true);
	assert_true(policy_trap(p));
	assert_true(policy_trap(p));
	/* But to pay for it again and again is. */
	for (unsigned i = 0; i < 100 && policy_wants(p); i++) {
		upkeep.orders += 10000;
		policy_trap(p);
	}
	assert_false(policy_wants(p));
	policy_free(p);
}

/* Faults alone are no reason while they are few. */
static void faults_without_end(void **state)
{
	struct policy *p = start(*state, false);
	struct upkeep none = { 0 };
	struct tally c;

	earn(p);
	policy_tally(&c, CLOCK_PROCESS_CPUTIME_ID, 0, &none);
	policy_settled(p, &c);
	for (unsigned i = 0; i < 100; i++)
		policy_fault(p);
	assert_true(policy_wants(p));
	for (unsigned i = 0; i < 10000; i++)
		policy_fault(p);
	assert_false(policy_wants(p));
	policy_free(p);
}

/* Another program in the tables of one that was held back. */
static void a_new_program_has_no_past(void **state)
{
	static const u64 one = 0x1234007, other = 0x1235007;
	struct box *b = *state;
	struct policy *p = start(b, false);
	struct upkeep none = { 0 };
	struct tally c;
	gpa_t entry = 0x8000 + 8 * (b->v->rip >> 39 & 511);

	b->v->cr3 = 0x8000;
	phys_write_all(b->v->phys, entry, (const u8 *)&one, sizeof(one));
	earn(p);
	policy_tally(&c, CLOCK_PROCESS_CPUTIME_ID, 0, &none);
	for (unsigned i = 0; i < 4; i++) {
		policy_settled(p, &c);
		while (policy_trap(p))
			;
	}
	for (unsigned i = 0; i < 8; i++) {
		compute(1000000);
		policy_sample(p, true);
	}
	assert_false(policy_wants(p));
	phys_write_all(b->v->phys, entry, (const u8 *)&other, sizeof(other));
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

/* Do most of them run directly in the end, where they take so long directly, and so long
 * translated? Not all, as the host may be busy, and the other is tried now and then. */
static bool mostly_direct(struct policy *p, u64 direct, u64 translated)
{
	unsigned went = 0;

	for (unsigned i = 0; i < 400; i++) {
		policy_user_begins(p);
		if (policy_wants(p)) {
			policy_runs(p, true);
			compute(direct);
			policy_runs(p, false);
			went += i >= 200;
		} else {
			compute(translated);
		}
		policy_user_ends(p);
	}
	return went > 100;
}

/* As where the time is read, which is a trap each time. */
static void what_takes_less_translated_is(void **state)
{
	struct box *b = *state;
	struct policy *p = start(b, false);
	struct upkeep none = { 0 };
	struct tally c;

	earn(p);
	policy_tally(&c, CLOCK_PROCESS_CPUTIME_ID, 0, &none);
	policy_settled(p, &c);
	assert_false(mostly_direct(p, 400000, 50000));
	b->v->rip += 0x1000;
	assert_true(mostly_direct(p, 50000, 400000));
	policy_free(p);
}

/* A stop costs more than it did when the process was made, as when everything is cold: it
 * is not taken for computing. */
static void stops_that_cost_more_than_at_first(void **state)
{
	struct policy *p = start(*state, false);
	struct upkeep none = { 0 };
	unsigned traps = 0;
	struct tally c;

	earn(p);
	policy_tally(&c, CLOCK_THREAD_CPUTIME_ID, 8000, &none);
	policy_settled(p, &c);
	while (policy_wants(p) && ++traps < 4000) {
		compute(18000);
		policy_trap(p);
	}
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
		TEST(computing_earns_it),
		TEST(dear_stops_want_more),
		TEST(the_kernel_does_not),
		TEST(of_each_address_space),
		TEST(held_until_the_next_sample),
		TEST(never_is_never),
		TEST(traps_end_it),
		TEST(bit_by_bit),
		TEST(coming_back_is_no_loss),
		TEST(faults_without_end),
		TEST(a_new_program_has_no_past),
		TEST(what_takes_less_translated_is),
		TEST(stops_that_cost_more_than_at_first),
		TEST(the_alarm_asks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
