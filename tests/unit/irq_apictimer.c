/* The timer of the local APIC on a clock that only the test moves (SDM vol. 3, 11.5.4).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "irq/apictimer.h"

#define DIV_1  0xb
#define DIV_2  0x0
#define DIV_16 0x3

struct rig {
	struct clock *clk;
	struct apictimer t;
	unsigned fired;
	vns_t last;
	u64 tsc_offset; /* TSC runs at 3 GHz */
};

static void expired(void *opaque)
{
	struct rig *r = opaque;

	r->fired++;
	r->last = clock_now(r->clk);
}

static u64 vns_to_tsc(void *opaque, vns_t t)
{
	struct rig *r = opaque;

	return (u64)t * 3 + r->tsc_offset;
}

static vns_t tsc_to_vns(void *opaque, u64 tsc)
{
	struct rig *r = opaque;

	if (tsc < r->tsc_offset)
		return 0;
	tsc -= r->tsc_offset;
	return tsc / 3 >= INT64_MAX ? VNS_NEVER : (vns_t)(tsc / 3 + !!(tsc % 3));
}

static const struct apictimer_ops ops = {
	.expired = expired,
	.tsc_to_vns = tsc_to_vns,
	.vns_to_tsc = vns_to_tsc,
};

static void rig_init(struct rig *r, u64 hz)
{
	memset(r, 0, sizeof(*r));
	r->clk = clock_new_manual();
	apictimer_init(&r->t, r->clk, hz, &ops, r);
}

static void rig_fini(struct rig *r)
{
	apictimer_fini(&r->t);
	clock_free(r->clk);
}

static void apictimer_divide_values(void **state)
{
	/* Figure 11-10. */
	static const struct {
		u8 dcr;
		unsigned divide;
	} cases[] = {
		{ 0x0, 2 },  { 0x1, 4 },  { 0x2, 8 },   { 0x3, 16 },
		{ 0x8, 32 }, { 0x9, 64 }, { 0xa, 128 }, { 0xb, 1 },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig r;

		rig_init(&r, 1000000000);
		apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
		apictimer_write_divide(&r.t, cases[i].dcr | 0xf4);
		assert_int_equal(apictimer_read_divide(&r.t), cases[i].dcr);
		apictimer_write_initial(&r.t, 1000);
		clock_advance(r.clk, 1000 * cases[i].divide - 1);
		assert_int_equal(r.fired, 0);
		assert_int_equal(apictimer_read_current(&r.t), 1);
		clock_advance(r.clk, 1);
		assert_int_equal(r.fired, 1);
		rig_fini(&r);
	}
}

static void apictimer_oneshot_counts_down_and_fires_once(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 25000000); /* 40 ns */
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 1000);
	assert_int_equal(apictimer_read_current(&r.t), 1000);
	clock_advance(r.clk, 39);
	assert_int_equal(apictimer_read_current(&r.t), 1000);
	clock_advance(r.clk, 1);
	assert_int_equal(apictimer_read_current(&r.t), 999);
	clock_advance(r.clk, 39959);
	assert_int_equal(apictimer_read_current(&r.t), 1);
	assert_int_equal(r.fired, 0);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 1);
	assert_int_equal(apictimer_read_current(&r.t), 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 1);
	assert_int_equal(apictimer_read_current(&r.t), 0);
	assert_int_equal(apictimer_read_initial(&r.t), 1000);
	rig_fini(&r);
}

static void apictimer_new_count_replaces_and_zero_stops(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 100);
	clock_advance(r.clk, 99);
	apictimer_write_initial(&r.t, 500);
	clock_advance(r.clk, 499);
	assert_int_equal(r.fired, 0);
	apictimer_write_initial(&r.t, 0);
	assert_int_equal(apictimer_read_current(&r.t), 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 0);
	assert_int_equal(clock_next_deadline(r.clk), VNS_NEVER);
	rig_fini(&r);
}

/* 3 counts in 1000 ns: no expiry lies on a nanosecond, none may move. */
static void apictimer_periodic_does_not_drift(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 3000000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_divide(&r.t, DIV_1);
	clock_advance(r.clk, 12345);
	apictimer_write_initial(&r.t, 100);
	for (unsigned n = 1; n <= 10000; n++) {
		/* first nanosecond at or after n * 100 / 3 MHz */
		vns_t at = 12345 + (vns_t)(((u64)n * 100 * 1000 + 2) / 3);

		clock_advance(r.clk, at - 1 - clock_now(r.clk));
		assert_int_equal(r.fired, n - 1);
		clock_advance(r.clk, 1);
		assert_int_equal(r.fired, n);
		assert_int_equal(apictimer_read_current(&r.t), 100);
	}
	rig_fini(&r);
}

static void apictimer_periodic_reads_follow_the_phase(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, true);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 1000);
	for (unsigned ns = 0; ns < 5000; ns += 7) {
		assert_int_equal(apictimer_read_current(&r.t), 1000 - ns % 1000);
		clock_advance(r.clk, 7);
	}
	rig_fini(&r);
}

static void apictimer_short_period_coalesces_and_bounds_callbacks(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 1);
	clock_advance(r.clk, 1000000);
	assert_in_range(r.fired, 1000000 / APICTIMER_MIN_NS,
			1000000 / APICTIMER_MIN_NS + 2);
	rig_fini(&r);
}

static void apictimer_late_host_delivers_one_and_keeps_phase(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 100000);
	/* The timer thread sleeps while 7.5 periods go by; the guest reads a count. */
	timer_cancel(&r.t.t);
	clock_advance(r.clk, 750000);
	assert_int_equal(r.fired, 0);
	assert_int_equal(apictimer_read_current(&r.t), 50000);
	assert_int_equal(r.fired, 1);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false); /* arms again */
	clock_advance(r.clk, 49999);
	assert_int_equal(r.fired, 1);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 2);
	assert_int_equal(r.last, 800000);
	rig_fini(&r);
}

static void apictimer_masked_expiries_are_lost(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, true);
	apictimer_write_initial(&r.t, 100);
	assert_int_equal(clock_next_deadline(r.clk), VNS_NEVER);
	clock_advance(r.clk, 200);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	assert_int_equal(r.fired, 0);
	assert_int_equal(apictimer_read_current(&r.t), 0);

	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, true);
	apictimer_write_initial(&r.t, 100000);
	clock_advance(r.clk, 250000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	assert_int_equal(r.fired, 0);
	clock_advance(r.clk, 50000);
	assert_int_equal(r.fired, 1);
	rig_fini(&r);
}

static void apictimer_due_before_mask_is_delivered(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	apictimer_write_initial(&r.t, 100);
	timer_cancel(&r.t.t);
	clock_advance(r.clk, 100);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, true);
	assert_int_equal(r.fired, 1);
	rig_fini(&r);
}

static void apictimer_divide_change_keeps_the_count(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_write_divide(&r.t, DIV_2);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_initial(&r.t, 100000);
	clock_advance(r.clk, 50000 * 2);
	apictimer_write_divide(&r.t, DIV_16);
	assert_int_equal(apictimer_read_current(&r.t), 50000);
	clock_advance(r.clk, 50000 * 16 - 1);
	assert_int_equal(r.fired, 0);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 1);
	clock_advance(r.clk, 100000 * 16 - 1);
	assert_int_equal(r.fired, 1);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 2);
	rig_fini(&r);
}

static void apictimer_mode_change_keeps_the_count(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_initial(&r.t, 100000);
	clock_advance(r.clk, 130000);
	assert_int_equal(r.fired, 1);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	assert_int_equal(apictimer_read_current(&r.t), 70000);
	clock_advance(r.clk, 70000);
	assert_int_equal(r.fired, 2);
	/* A count that has ended stays at 0 in periodic mode. */
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	assert_int_equal(apictimer_read_current(&r.t), 0);
	clock_advance(r.clk, 1000000);
	assert_int_equal(r.fired, 2);
	assert_int_equal(apictimer_read_initial(&r.t), 100000);
	/* And one that runs goes on periodically. */
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	apictimer_write_initial(&r.t, 50000);
	clock_advance(r.clk, 20000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	clock_advance(r.clk, 30000);
	assert_int_equal(r.fired, 3);
	clock_advance(r.clk, 50000);
	assert_int_equal(r.fired, 4);
	rig_fini(&r);
}

static void apictimer_deadline_fires_at_the_first_tsc_that_reaches_it(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	r.tsc_offset = 1000;
	apictimer_set_lvt(&r.t, APICTIMER_DEADLINE, false);
	assert_int_equal(apictimer_read_deadline(&r.t), 0);
	apictimer_write_deadline(&r.t, 1000 + 3 * 500 + 1);
	assert_int_equal(apictimer_read_deadline(&r.t), 2501);
	clock_advance(r.clk, 500);
	assert_int_equal(r.fired, 0);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 1);
	assert_int_equal(apictimer_read_deadline(&r.t), 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 1);
	/* In the past: at once. */
	apictimer_write_deadline(&r.t, 5);
	assert_int_equal(r.fired, 2);
	assert_int_equal(apictimer_read_deadline(&r.t), 0);
	/* 0 disarms; one that the clock does not live to see never fires. */
	apictimer_write_deadline(&r.t, vns_to_tsc(&r, clock_now(r.clk)) + 3000);
	apictimer_write_deadline(&r.t, 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	apictimer_write_deadline(&r.t, UINT64_MAX);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 2);
	rig_fini(&r);
}

static void apictimer_deadline_follows_a_tsc_write(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_DEADLINE, false);
	apictimer_write_deadline(&r.t, 3000000);
	r.tsc_offset = 1500000;
	apictimer_tsc_changed(&r.t);
	clock_advance(r.clk, 499999);
	assert_int_equal(r.fired, 0);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 1);
	/* Set back: the armed timer finds that it is early and waits again. */
	apictimer_write_deadline(&r.t, 6000000);
	r.tsc_offset = 0;
	clock_advance(r.clk, 1499999);
	assert_int_equal(r.fired, 1);
	clock_advance(r.clk, 1);
	assert_int_equal(r.fired, 2);
	rig_fini(&r);
}

static void apictimer_going_to_and_from_deadline_mode_disarms(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_ONESHOT, false);
	apictimer_write_divide(&r.t, DIV_1);
	apictimer_write_initial(&r.t, 1000);
	apictimer_write_deadline(&r.t, 500); /* ignored */
	assert_int_equal(apictimer_read_deadline(&r.t), 0);
	apictimer_set_lvt(&r.t, APICTIMER_DEADLINE, false);
	apictimer_write_initial(&r.t, 1000); /* ignored */
	assert_int_equal(apictimer_read_current(&r.t), 0);
	clock_advance(r.clk, 10000);
	assert_int_equal(r.fired, 0);
	apictimer_write_deadline(&r.t, 3 * 20000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	assert_int_equal(apictimer_read_deadline(&r.t), 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 0);
	apictimer_set_lvt(&r.t, APICTIMER_RESERVED, false);
	apictimer_write_initial(&r.t, 1000);
	apictimer_write_deadline(&r.t, 1);
	clock_advance(r.clk, NSEC_PER_SEC);
	assert_int_equal(r.fired, 0);
	rig_fini(&r);
}

static void apictimer_largest_count_and_longest_run(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1); /* one count is 128 s */
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_divide(&r.t, 0xa);
	apictimer_write_initial(&r.t, 0xffffffff);
	clock_advance(r.clk, 128 * NSEC_PER_SEC);
	assert_int_equal(apictimer_read_current(&r.t), 0xfffffffe);
	/* 146 years: well below one period, no overflow on the way. */
	clock_advance(r.clk, (INT64_C(1) << 62) - clock_now(r.clk));
	assert_int_equal(apictimer_read_current(&r.t),
			 0xffffffff - (UINT64_C(1) << 62) / (128 * (u64)NSEC_PER_SEC));
	assert_int_equal(r.fired, 0);
	rig_fini(&r);
}

static void apictimer_save_load_save_is_identical(void **state)
{
	(void)state;
	for (unsigned mode = 0; mode < 3; mode++) {
		struct state_buf a = { 0 }, b = { 0 };
		struct error err = { 0 };
		struct rig r, q;

		rig_init(&r, 1000000000);
		rig_init(&q, 1000000000);
		apictimer_set_lvt(&r.t, mode, false);
		apictimer_write_divide(&r.t, DIV_1);
		apictimer_write_initial(&r.t, 100000);
		apictimer_write_deadline(&r.t, 3 * 100000);
		clock_advance(r.clk, 30000);
		clock_advance(q.clk, 30000);
		apictimer_save(&r.t, &a, 7);
		assert_int_equal(apictimer_load(&q.t, &a, 7, &err), 0);
		apictimer_save(&q.t, &b, 7);
		assert_int_equal(a.len, b.len);
		assert_memory_equal(a.data, b.data, a.len);
		/* The load armed it. */
		clock_advance(q.clk, 69999);
		assert_int_equal(q.fired, 0);
		clock_advance(q.clk, 1);
		assert_int_equal(q.fired, 1);
		state_buf_fini(&a);
		state_buf_fini(&b);
		rig_fini(&r);
		rig_fini(&q);
	}
}

static void apictimer_hostile_stream_is_refused_or_harmless(void **state)
{
	struct state_buf a = { 0 };
	struct rig r;

	(void)state;
	rig_init(&r, 1000000000);
	apictimer_set_lvt(&r.t, APICTIMER_PERIODIC, false);
	apictimer_write_initial(&r.t, 100000);
	apictimer_save(&r.t, &a, 0);
	for (size_t i = 0; i < a.len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct error err = { 0 };
			struct rig q;

			rig_init(&q, 1000000000);
			a.data[i] ^= (u8)(1u << bit);
			a.pos = 0;
			if (apictimer_load(&q.t, &a, 0, &err) == 0) {
				apictimer_read_current(&q.t);
				clock_advance(q.clk, 1000000);
				apictimer_write_divide(&q.t, DIV_16);
				apictimer_set_lvt(&q.t, APICTIMER_ONESHOT, false);
				clock_advance(q.clk, 1000000);
				assert_in_range(q.fired, 0, 300);
			}
			a.data[i] ^= (u8)(1u << bit);
			rig_fini(&q);
		}
	}
	state_buf_fini(&a);
	rig_fini(&r);
}

static void apictimer_state_table_is_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&apictimer_desc), apictimer_desc.size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(apictimer_divide_values),
		cmocka_unit_test(apictimer_oneshot_counts_down_and_fires_once),
		cmocka_unit_test(apictimer_new_count_replaces_and_zero_stops),
		cmocka_unit_test(apictimer_periodic_does_not_drift),
		cmocka_unit_test(apictimer_periodic_reads_follow_the_phase),
		cmocka_unit_test(apictimer_short_period_coalesces_and_bounds_callbacks),
		cmocka_unit_test(apictimer_late_host_delivers_one_and_keeps_phase),
		cmocka_unit_test(apictimer_masked_expiries_are_lost),
		cmocka_unit_test(apictimer_due_before_mask_is_delivered),
		cmocka_unit_test(apictimer_divide_change_keeps_the_count),
		cmocka_unit_test(apictimer_mode_change_keeps_the_count),
		cmocka_unit_test(
			apictimer_deadline_fires_at_the_first_tsc_that_reaches_it),
		cmocka_unit_test(apictimer_deadline_follows_a_tsc_write),
		cmocka_unit_test(apictimer_going_to_and_from_deadline_mode_disarms),
		cmocka_unit_test(apictimer_largest_count_and_longest_run),
		cmocka_unit_test(apictimer_save_load_save_is_identical),
		cmocka_unit_test(apictimer_hostile_stream_is_refused_or_harmless),
		cmocka_unit_test(apictimer_state_table_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
