/* The ACPI power management timer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "time/pmtimer.h"

/* First ns at which the counter has made n ticks. */
static vns_t ns_of(u64 n)
{
	return (vns_t)(((u128)n * 1000000000 + 3579544) / 3579545);
}

static void go(struct clock *clk, vns_t t)
{
	clock_advance(clk, t - clock_now(clk));
}

static u32 read4(struct pmtimer *p)
{
	return (u32)pmtimer_ops.read(p, 0, 4);
}

static void counts_at_3579545_hz(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 32);

	(void)state;
	assert_int_equal(read4(p), 0);
	go(clk, ns_of(1) - 1);
	assert_int_equal(read4(p), 0);
	go(clk, ns_of(1));
	assert_int_equal(read4(p), 1);
	go(clk, NSEC_PER_SEC);
	assert_int_equal(read4(p), 3579545);
	go(clk, 86400 * NSEC_PER_SEC);
	assert_int_equal(read4(p), (u32)(UINT64_C(3579545) * 86400));
	pmtimer_ops.write(p, 0, 0, 4);
	assert_int_equal(read4(p), (u32)(UINT64_C(3579545) * 86400));
	pmtimer_free(p);
	clock_free(clk);
}

static void reads_of_part_see_part(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 32);

	(void)state;
	go(clk, ns_of(0x12345678));
	assert_int_equal(pmtimer_ops.read(p, 0, 4), 0x12345678);
	assert_int_equal(pmtimer_ops.read(p, 2, 2), 0x1234);
	assert_int_equal(pmtimer_ops.read(p, 1, 1), 0x56);
	assert_int_equal(pmtimer_ops.read(p, 3, 1), 0x12);
	pmtimer_free(p);
	clock_free(clk);
}

static void width_of_24_bits_wraps(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 24);

	(void)state;
	go(clk, ns_of(0x1000000) - 1);
	assert_int_equal(read4(p), 0xffffff);
	go(clk, ns_of(0x1000000));
	assert_int_equal(read4(p), 0);
	pmtimer_free(p);
	clock_free(clk);
}

static void status_follows_the_top_bit(void **state)
{
	static const unsigned widths[] = { 24, 32 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct clock *clk = clock_new_manual();
		struct pmtimer *p = pmtimer_new(clk, widths[i]);
		u64 half = UINT64_C(1) << (widths[i] - 1);

		go(clk, ns_of(half) - 1);
		assert_false(pmtimer_status(p));
		go(clk, ns_of(half));
		assert_true(pmtimer_status(p));
		pmtimer_clear_status(p);
		assert_false(pmtimer_status(p));
		/* From set to clear counts too, and two changes are not none. */
		go(clk, ns_of(3 * half));
		assert_true(pmtimer_status(p));
		pmtimer_clear_status(p);
		go(clk, ns_of(4 * half) - 1);
		assert_false(pmtimer_status(p));
		pmtimer_free(p);
		clock_free(clk);
	}
}

struct heard {
	struct pmtimer *p;
	struct clock *clk;
	unsigned count;
	vns_t at;
};

static void notify(void *opaque)
{
	struct heard *h = opaque;

	h->count++;
	h->at = clock_now(h->clk);
	/* No lock is held. */
	assert_true(pmtimer_status(h->p));
}

static void notifies_only_while_enabled_and_once(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 24);
	struct heard h = { .p = p, .clk = clk };

	(void)state;
	pmtimer_set_notify(p, notify, &h);
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	go(clk, ns_of(0x800000));
	assert_int_equal(h.count, 0);
	pmtimer_clear_status(p);
	pmtimer_set_enable(p, true);
	assert_int_equal(clock_next_deadline(clk), ns_of(0x1000000));
	go(clk, ns_of(0x2000000));
	assert_int_equal(h.count, 1);
	assert_int_equal(h.at, ns_of(0x1000000));
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	pmtimer_clear_status(p);
	go(clk, ns_of(0x2800000));
	assert_int_equal(h.count, 2);
	pmtimer_clear_status(p);
	pmtimer_set_enable(p, false);
	assert_true(clock_next_deadline(clk) == VNS_NEVER);
	pmtimer_free(p);
	clock_free(clk);
}

static void reset_counts_from_zero(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 24);

	(void)state;
	go(clk, ns_of(0x900000));
	pmtimer_reset(p);
	assert_int_equal(read4(p), 0);
	assert_false(pmtimer_status(p));
	clock_advance(clk, ns_of(7));
	assert_int_equal(read4(p), 7);
	pmtimer_free(p);
	clock_free(clk);
}

static void save_load_save_is_identical(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *a, *b;
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };

	(void)state;
	go(clk, 12345);
	a = pmtimer_new(clk, 24);
	go(clk, ns_of(0x900000));
	pmtimer_set_enable(a, true);
	b = pmtimer_new(clk, 24);
	pmtimer_save(a, &one);
	assert_int_equal(pmtimer_load(b, &one, &err), 0);
	pmtimer_save(b, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	assert_int_equal(read4(a), read4(b));
	assert_true(pmtimer_status(b));
	assert_int_equal(state_covered(&pmtimer_desc), pmtimer_desc.size);
	state_buf_fini(&one);
	state_buf_fini(&two);
	pmtimer_free(a);
	pmtimer_free(b);
	clock_free(clk);
}

static void load_refuses_time_out_of_range(void **state)
{
	struct clock *clk = clock_new_manual();
	struct pmtimer *p = pmtimer_new(clk, 32);
	struct state_buf buf = { 0 };
	struct error err = { 0 };
	unsigned refused = 0;

	(void)state;
	pmtimer_save(p, &buf);
	for (size_t i = 0; i < buf.len; i++) {
		u8 was = buf.data[i];

		buf.data[i] = 0xff;
		buf.pos = 0;
		refused += pmtimer_load(p, &buf, &err) < 0;
		buf.data[i] = was;
		pmtimer_status(p);
		pmtimer_set_enable(p, i & 1);
		clock_advance(clk, 1000000);
	}
	assert_true(refused > 20);
	state_buf_fini(&buf);
	pmtimer_free(p);
	clock_free(clk);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_at_3579545_hz),
		cmocka_unit_test(reads_of_part_see_part),
		cmocka_unit_test(width_of_24_bits_wraps),
		cmocka_unit_test(status_follows_the_top_bit),
		cmocka_unit_test(notifies_only_while_enabled_and_once),
		cmocka_unit_test(reset_counts_from_zero),
		cmocka_unit_test(save_load_save_is_identical),
		cmocka_unit_test(load_refuses_time_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
