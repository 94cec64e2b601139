/* The time-stamp counter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "time/tsc.h"

#define KHZ 2500000 /* 2.5 ticks a nanosecond */

static void tsc_counts_from_zero_at_power_up(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 1000);
	assert_int_equal(tsc_read(&t, 1000), 0);
	assert_int_equal(tsc_khz(&t), KHZ);
	assert_int_equal(tsc_offset(&t), (u64)-2500);
	assert_int_equal(tsc_read(&t, 1001), 2);
	assert_int_equal(tsc_read(&t, 1002), 5);
	assert_int_equal(tsc_read(&t, 1000 + NSEC_PER_SEC), UINT64_C(2500000000));
	/* A hundred years do not overflow the product. */
	assert_int_equal(tsc_read(&t, 1000 + NSEC_PER_SEC * 86400 * 36500),
			 UINT64_C(2500000000) * 86400 * 36500);
}

static void tsc_frequency_is_kept_in_bounds(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, 0, 0);
	assert_int_equal(t.s.khz, 1);
	tsc_init(&t, UINT64_MAX, 0);
	assert_int_equal(t.s.khz, TSC_KHZ_MAX);
}

static void tsc_write_changes_adjust_by_the_same_delta(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	tsc_write(&t, 1000, 2500 + 77);
	assert_int_equal(tsc_adjust_read(&t), 77);
	assert_int_equal(tsc_read(&t, 1000), 2577);
	assert_int_equal(tsc_read(&t, 2000), 5077);
	tsc_write(&t, 1000, 0);
	assert_true((i64)tsc_adjust_read(&t) == -2500);
	assert_int_equal(tsc_read(&t, 2000), 2500);
}

static void tsc_adjust_write_moves_the_counter(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	tsc_adjust_write(&t, 1000);
	assert_int_equal(tsc_read(&t, 1000), 3500);
	tsc_adjust_write(&t, (u64)-500);
	assert_int_equal(tsc_read(&t, 1000), 2000);
	tsc_adjust_write(&t, 0);
	assert_int_equal(tsc_read(&t, 1000), 2500);
}

static void tsc_to_vns_is_the_first_ns_that_reaches(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	for (u64 v = 0; v < 100; v++) {
		vns_t at = tsc_to_vns(&t, v, 0);

		assert_true(tsc_read(&t, at) >= v);
		if (at > 0)
			assert_true(tsc_read(&t, at - 1) < v);
	}
	/* An odd frequency, an offset of either sign. */
	tsc_init(&t, 2893297, 0);
	for (int sign = 0; sign < 2; sign++) {
		tsc_write(&t, 1000000, sign ? 5 : UINT64_C(1) << 62);
		for (u64 d = 1; d < (u64)1 << 40; d = d * 3 + 1) {
			u64 v = tsc_read(&t, 1000000) + d;
			vns_t at = tsc_to_vns(&t, v, 1000000);

			assert_true(tsc_read(&t, at) >= v);
			assert_true(tsc_read(&t, at - 1) < v);
		}
	}
}

static void tsc_to_vns_of_the_past_is_now(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	assert_int_equal(tsc_to_vns(&t, 0, 5000), 5000);
	assert_int_equal(tsc_to_vns(&t, 12500, 5000), 5000);
	assert_int_equal(tsc_to_vns(&t, 12501, 5000), 5001);
}

static void tsc_to_vns_is_right_close_to_the_top(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	tsc_write(&t, 1000, UINT64_MAX - 2500);
	/* The deadline of all ones is a microsecond away; one of 5 has passed. */
	assert_int_equal(tsc_to_vns(&t, UINT64_MAX, 1000), 2000);
	assert_int_equal(tsc_to_vns(&t, 5, 1000), 1000);
	/* After the counter has wrapped, all ones is centuries away. */
	assert_int_equal(tsc_read(&t, 2001), 1);
	tsc_init(&t, KHZ, 0);
	assert_int_equal(tsc_to_vns(&t, UINT64_MAX, 0), INT64_C(7378697629483820646));
	tsc_init(&t, 1000000, 0);
	assert_true(tsc_to_vns(&t, UINT64_MAX, 0) == VNS_NEVER);
	tsc_init(&t, 1, 0);
	assert_true(tsc_to_vns(&t, UINT64_MAX, 0) == VNS_NEVER);
}

static void durations_round_outwards(void **state)
{
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 12345);
	assert_int_equal(tsc_ticks(&t, 3), 7);
	assert_int_equal(tsc_duration(&t, 7), 3);
	assert_int_equal(tsc_duration(&t, 8), 4);
	assert_int_equal(tsc_ticks(&t, -1), 0);
	assert_true(tsc_ticks(&t, VNS_NEVER) == UINT64_MAX);
	tsc_init(&t, 1, 0);
	assert_true(tsc_duration(&t, UINT64_MAX) == VNS_NEVER);
}

static void save_load_save_is_identical(void **state)
{
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };
	struct tsc a, b;

	(void)state;
	tsc_init(&a, KHZ, 0);
	tsc_write(&a, 1000, 42);
	tsc_init(&b, 1, 0);
	tsc_save(&a, &one, 3);
	assert_int_equal(tsc_load(&b, &one, 3, &err), 0);
	assert_int_equal(tsc_read(&b, 2000), tsc_read(&a, 2000));
	tsc_save(&b, &two, 3);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	assert_int_equal(state_covered(&tsc_desc), tsc_desc.size);
	state_buf_fini(&one);
	state_buf_fini(&two);
}

static void load_refuses_a_frequency_out_of_range(void **state)
{
	struct tsc_state s = { .khz = 0 };
	struct state_buf b = { 0 };
	struct error err = { 0 };
	struct tsc t;

	(void)state;
	tsc_init(&t, KHZ, 0);
	state_save(&b, &tsc_desc, 0, &s);
	assert_true(tsc_load(&t, &b, 0, &err) < 0);
	s.khz = TSC_KHZ_MAX + 1;
	state_save(&b, &tsc_desc, 0, &s);
	assert_true(tsc_load(&t, &b, 0, &err) < 0);
	assert_int_equal(t.s.khz, KHZ);
	state_buf_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tsc_counts_from_zero_at_power_up),
		cmocka_unit_test(tsc_frequency_is_kept_in_bounds),
		cmocka_unit_test(tsc_write_changes_adjust_by_the_same_delta),
		cmocka_unit_test(tsc_adjust_write_moves_the_counter),
		cmocka_unit_test(tsc_to_vns_is_the_first_ns_that_reaches),
		cmocka_unit_test(tsc_to_vns_of_the_past_is_now),
		cmocka_unit_test(tsc_to_vns_is_right_close_to_the_top),
		cmocka_unit_test(durations_round_outwards),
		cmocka_unit_test(save_load_save_is_identical),
		cmocka_unit_test(load_refuses_a_frequency_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
