/* The high precision event timers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "time/hpet.h"
#include "time/lateness.h"
#include "time_pin.h"

#define CAP       0x000
#define CONF      0x010
#define STATUS    0x020
#define COUNT     0x0f0
#define T_CONF(n) (0x100 + 0x20 * (n))
#define T_CMP(n)  (0x108 + 0x20 * (n))
#define T_FSB(n)  (0x110 + 0x20 * (n))

#define ENB      0x004
#define LEVEL    0x002
#define PERIODIC 0x008
#define VAL_SET  0x040
#define MODE32   0x100
#define ROUTE(g) ((g) << 9)
#define FSB_EN   0x4000

struct bench {
	struct clock *clk;
	struct hpet *hpet;
	struct pin gsi[4]; /* 20 to 23 */
	struct pin legacy[2];
	unsigned messages;
	u64 msi_addr;
	u32 msi_data;
	bool legacy_on;
	unsigned legacy_changes;
};

static void msi_send(void *sink, u64 addr, u32 data)
{
	struct bench *b = sink;

	b->messages++;
	b->msi_addr = addr;
	b->msi_data = data;
}

static void legacy_changed(void *opaque, bool on)
{
	struct bench *b = opaque;

	b->legacy_on = on;
	b->legacy_changes++;
}

static struct bench *bench_new(struct clock *clk)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct hpet_config c = {
		.timers = 3,
		.periodic = 3,
		.route_cap = 0x00f00000,
		.msi = { .send = msi_send, .sink = b },
		.legacy_changed = legacy_changed,
		.opaque = b,
	};

	b->clk = clk;
	for (unsigned i = 0; i < 4; i++) {
		b->gsi[i].clk = clk;
		c.gsi[20 + i] = pin_line(&b->gsi[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		b->legacy[i].clk = clk;
		c.legacy[i] = pin_line(&b->legacy[i]);
	}
	b->hpet = hpet_new(clk, &c);
	return b;
}

static int setup(void **state)
{
	*state = bench_new(clock_new_manual());
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	hpet_free(b->hpet);
	clock_free(b->clk);
	free(b);
	return 0;
}

static u64 rd(struct bench *b, u64 off)
{
	return hpet_ops.read(b->hpet, off, 8);
}

static void wr(struct bench *b, u64 off, u64 val)
{
	hpet_ops.write(b->hpet, off, val, 8);
}

static void wr4(struct bench *b, u64 off, u32 val)
{
	hpet_ops.write(b->hpet, off, val, 4);
}

static void go(struct bench *b, vns_t t)
{
	clock_advance(b->clk, t - clock_now(b->clk));
}

static void capabilities_say_what_there_is(void **state)
{
	struct bench *b = *state;

	assert_int_equal(rd(b, CAP), UINT64_C(10000000) << 32 | 0x8086a201);
	assert_int_equal(hpet_block_id(b->hpet), 0x8086a201);
	assert_int_equal(hpet_ops.read(b->hpet, CAP + 4, 4), 10000000);
	wr(b, CAP, 0);
	assert_int_equal(hpet_ops.read(b->hpet, CAP, 4), 0x8086a201);
	assert_int_equal(rd(b, T_CONF(0)), UINT64_C(0x00f00000) << 32 | 0x8030);
	assert_int_equal(rd(b, T_CONF(2)), UINT64_C(0x00f00000) << 32 | 0x8020);
	assert_int_equal(rd(b, T_CMP(0)), UINT64_MAX);
	assert_int_equal(rd(b, T_CONF(3)), 0);
	assert_int_equal(rd(b, 0x3f8), 0);
	/* Not aligned: the bus sees nobody. */
	assert_int_equal(hpet_ops.read(b->hpet, 4, 8), UINT64_MAX);
	assert_int_equal(hpet_ops.read(b->hpet, 2, 4), UINT32_MAX);
}

static void counter_counts_100_mhz_while_enabled(void **state)
{
	struct bench *b = *state;

	go(b, 1000);
	assert_int_equal(rd(b, COUNT), 0);
	wr(b, COUNT, UINT64_C(0xfffffff0));
	wr(b, CONF, 1);
	go(b, 1009);
	assert_int_equal(rd(b, COUNT), UINT64_C(0xfffffff0));
	go(b, 1010);
	assert_int_equal(rd(b, COUNT), UINT64_C(0xfffffff1));
	/* A write of the same configuration does not lose the fraction. */
	go(b, 1017);
	wr(b, CONF, 1);
	go(b, 1020);
	assert_int_equal(rd(b, COUNT), UINT64_C(0xfffffff2));
	go(b, 1160);
	assert_int_equal(rd(b, COUNT), UINT64_C(0x100000000));
	assert_int_equal(hpet_ops.read(b->hpet, COUNT + 4, 4), 1);
	/* Not while it runs. */
	wr(b, COUNT, 5);
	assert_int_equal(rd(b, COUNT), UINT64_C(0x100000000));
	wr(b, CONF, 0);
	go(b, 5000);
	assert_int_equal(rd(b, COUNT), UINT64_C(0x100000000));
	wr4(b, COUNT, 7);
	assert_int_equal(rd(b, COUNT), UINT64_C(0x100000007));
	wr4(b, COUNT + 4, 0);
	assert_int_equal(rd(b, COUNT), 7);
}

static void oneshot_fires_once_at_the_match(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(2), ENB | ROUTE(21));
	wr(b, T_CMP(2), 12345);
	assert_int_equal(clock_next_deadline(b->clk), 123450);
	clock_advance(b->clk, NSEC_PER_SEC);
	assert_int_equal(b->gsi[1].rises, 1);
	assert_int_equal(b->gsi[1].rise_at[0], 123450);
	assert_false(b->gsi[1].level);
	assert_int_equal(rd(b, STATUS), 0);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	/* The value at which the counter stands matches; one that has passed does not. */
	wr(b, T_CMP(2), rd(b, COUNT));
	assert_int_equal(b->gsi[1].rises, 2);
	wr(b, T_CMP(2), rd(b, COUNT) - 1);
	clock_advance(b->clk, 1000 * NSEC_PER_SEC);
	assert_int_equal(b->gsi[1].rises, 2);
}

static void oneshot_of_32_bits_comes_round(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	go(b, 1000000);
	wr(b, T_CONF(2), ENB | MODE32 | ROUTE(20));
	wr(b, T_CMP(2), UINT64_C(0x1234567800000064));
	assert_int_equal(rd(b, T_CMP(2)), 100);
	go(b, 100 * NSEC_PER_SEC);
	assert_int_equal(b->gsi[0].rises, 2);
	assert_int_equal(b->gsi[0].rise_at[0], (INT64_C(100) + (INT64_C(1) << 32)) * 10);
	assert_int_equal(b->gsi[0].rise_at[1], (INT64_C(100) + (INT64_C(2) << 32)) * 10);
}

static void level_holds_the_line_until_status_is_cleared(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(2), ENB | LEVEL | ROUTE(22));
	wr(b, T_CMP(2), 100);
	go(b, 5000);
	assert_true(b->gsi[2].level);
	assert_int_equal(b->gsi[2].rise_at[0], 1000);
	assert_int_equal(rd(b, STATUS), 4);
	wr(b, STATUS, 3);
	assert_true(b->gsi[2].level);
	/* Its enable, the whole block's enable and its route all act at once. */
	wr(b, T_CONF(2), LEVEL | ROUTE(22));
	assert_false(b->gsi[2].level);
	wr(b, T_CONF(2), ENB | LEVEL | ROUTE(22));
	assert_true(b->gsi[2].level);
	wr(b, CONF, 0);
	assert_false(b->gsi[2].level);
	wr(b, CONF, 1);
	wr(b, T_CONF(2), ENB | LEVEL | ROUTE(23));
	assert_false(b->gsi[2].level);
	assert_true(b->gsi[3].level);
	wr(b, STATUS, 4);
	assert_false(b->gsi[3].level);
	assert_int_equal(rd(b, STATUS), 0);
}

static void level_lines_are_shared(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(1), ENB | LEVEL | ROUTE(20));
	wr(b, T_CONF(2), ENB | LEVEL | ROUTE(20));
	wr(b, T_CMP(1), 100);
	wr(b, T_CMP(2), 200);
	go(b, 5000);
	assert_int_equal(rd(b, STATUS), 6);
	wr(b, STATUS, 2);
	assert_true(b->gsi[0].level);
	wr(b, STATUS, 4);
	assert_false(b->gsi[0].level);
	assert_int_equal(b->gsi[0].rises, 1);
}

static void status_is_set_without_interrupt_enable(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(1), LEVEL | ROUTE(20));
	wr(b, T_CMP(1), 100);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	go(b, 999);
	assert_int_equal(rd(b, STATUS), 0);
	go(b, 1000);
	assert_int_equal(rd(b, STATUS), 2);
	assert_int_equal(b->gsi[0].rises, 0);
}

/* As Linux programs it: accumulator with VAL_SET, then the period. */
static void periodic_steps_do_not_drift(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	go(b, 50000);
	wr4(b, T_CONF(0), ENB | PERIODIC | VAL_SET | MODE32 | ROUTE(20));
	wr4(b, T_CMP(0), 100000);
	wr4(b, T_CMP(0), 99999);
	for (unsigned i = 0; i < 5000; i++) {
		vns_t at = 1000000 + (vns_t)i * 999990;

		assert_int_equal(clock_next_deadline(b->clk), at);
		go(b, at);
		assert_int_equal(b->gsi[0].rises, i + 1);
		if (i < PIN_LOG)
			assert_int_equal(b->gsi[0].rise_at[i], at);
		assert_int_equal(rd(b, T_CMP(0)), 100000 + (u64)(i + 1) * 99999);
	}
	/* Another period from the next match on. */
	wr4(b, T_CMP(0), 200000);
	go(b, 1000000 + INT64_C(5000) * 999990);
	assert_int_equal(b->gsi[0].rises, 5001);
	assert_int_equal(clock_next_deadline(b->clk),
			 1000000 + INT64_C(5000) * 999990 + 2000000);
}

static void periodic_needs_the_capability(void **state)
{
	struct bench *b = *state;

	wr(b, T_CONF(2), PERIODIC | ENB | ROUTE(20));
	assert_int_equal(rd(b, T_CONF(2)) & PERIODIC, 0);
	wr(b, T_CONF(1), PERIODIC | ENB | ROUTE(20));
	assert_int_equal(rd(b, T_CONF(1)) & PERIODIC, PERIODIC);
	/* A route that is not offered reads back as the old one. */
	wr(b, T_CONF(1), ENB | ROUTE(19));
	assert_int_equal(rd(b, T_CONF(1)) & 0xffff, 0x8030 | ENB | ROUTE(20));
}

static void val_set_holds_for_both_halves(void **state)
{
	struct bench *b = *state;

	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | ROUTE(20));
	wr4(b, T_CMP(0), 0x1000);
	wr4(b, T_CMP(0) + 4, 2);
	assert_int_equal(rd(b, T_CMP(0)), UINT64_C(0x200001000));
	wr4(b, T_CMP(0), 0x500);
	wr4(b, T_CMP(0) + 4, 0);
	assert_int_equal(rd(b, T_CMP(0)), UINT64_C(0x200001000));
	wr(b, COUNT, UINT64_C(0x200000ff0));
	wr(b, CONF, 1);
	go(b, 160);
	assert_int_equal(b->gsi[0].rises, 1);
	assert_int_equal(rd(b, T_CMP(0)), UINT64_C(0x200001500));
}

static void periodic_of_32_bits_wraps(void **state)
{
	struct bench *b = *state;

	wr(b, COUNT, UINT64_C(0xffff0000));
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | MODE32 | ROUTE(20));
	wr(b, T_CMP(0), 0xffffff00);
	wr(b, T_CMP(0), 0x100000);
	wr(b, CONF, 1);
	go(b, 0xfeff * 10);
	assert_int_equal(b->gsi[0].rises, 0);
	go(b, 0xff00 * 10);
	assert_int_equal(b->gsi[0].rises, 1);
	assert_int_equal(rd(b, T_CMP(0)), 0x000fff00);
	go(b, (0xff00 + 3 * 0x100000) * 10);
	assert_int_equal(b->gsi[0].rises, 4);
}

static void halting_holds_everything(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(0), ENB | ROUTE(20));
	wr(b, T_CMP(0), 1000);
	go(b, 9995);
	wr(b, CONF, 0);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	go(b, 1000000);
	wr(b, CONF, 1);
	assert_int_equal(clock_next_deadline(b->clk), 1000010);
	go(b, 2000000);
	assert_int_equal(b->gsi[0].rises, 1);
	assert_int_equal(b->gsi[0].rise_at[0], 1000010);
}

static void fsb_sends_the_message(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 3); /* FSB goes before legacy replacement too */
	wr(b, T_FSB(1), UINT64_C(0xfee01000) << 32 | 0x4031);
	assert_int_equal(rd(b, T_FSB(1)), UINT64_C(0xfee01000) << 32 | 0x4031);
	wr(b, T_CONF(1), ENB | FSB_EN | PERIODIC | VAL_SET | ROUTE(20));
	wr(b, T_CMP(1), 50000);
	go(b, 499999);
	assert_int_equal(b->messages, 0);
	go(b, 500000);
	assert_int_equal(b->messages, 1);
	assert_int_equal(b->msi_addr, 0xfee01000);
	assert_int_equal(b->msi_data, 0x4031);
	go(b, 5000000);
	assert_int_equal(b->messages, 10);
	assert_int_equal(b->gsi[0].rises, 0);
	assert_int_equal(b->legacy[1].rises, 0);
}

static void no_sink_no_fsb(void **state)
{
	struct bench *b = *state;
	struct hpet_config c = { .timers = 1, .route_cap = 1 };
	struct hpet *h = hpet_new(b->clk, &c);

	assert_int_equal(hpet_ops.read(h, CAP, 4) >> 8 & 31, 2);
	hpet_ops.write(h, T_CONF(0), FSB_EN | ENB, 8);
	assert_int_equal(hpet_ops.read(h, T_CONF(0), 8) & (FSB_EN | 0x8000), 0);
	hpet_free(h);
}

static void legacy_replacement_takes_over_0_and_8(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 2);
	assert_false(b->legacy_on);
	wr(b, CONF, 3);
	assert_true(b->legacy_on);
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | ROUTE(20));
	wr(b, T_CMP(0), 100000);
	wr(b, T_CONF(1), ENB | LEVEL | ROUTE(21));
	wr(b, T_CMP(1), 150000);
	go(b, 5000000);
	assert_int_equal(b->legacy[0].rises, 5);
	assert_int_equal(b->legacy[0].rise_at[0], 1000000);
	assert_int_equal(b->gsi[0].rises, 0);
	assert_int_equal(b->gsi[1].rises, 0);
	assert_true(b->legacy[1].level);
	/* Back to the routes; the level goes with it. */
	wr(b, CONF, 1);
	assert_false(b->legacy_on);
	assert_false(b->legacy[1].level);
	assert_true(b->gsi[1].level);
	go(b, 6000000);
	assert_int_equal(b->legacy[0].rises, 5);
	assert_int_equal(b->gsi[0].rises, 1);
	wr(b, CONF, 3);
	hpet_reset(b->hpet);
	assert_false(b->legacy_on);
	assert_int_equal(b->legacy_changes, 4);
	assert_false(b->legacy[1].level);
	assert_int_equal(rd(b, T_CMP(0)), UINT64_MAX);
}

static void short_periods_interrupt_once_per_100_us(void **state)
{
	struct bench *b = *state;

	wr(b, CONF, 1);
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | ROUTE(20));
	wr(b, T_CMP(0), 1);
	clock_advance(b->clk, NSEC_PER_SEC / 10);
	assert_in_range(b->gsi[0].rises, 990, 1001);
}

static void late_edges_are_caught_up_but_bounded(void **state)
{
	struct bench *b = *state;
	struct clock_state t = { .now = 100500000 };
	struct state_buf save = { 0 };
	struct error err = { 0 };

	wr(b, CONF, 1);
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | ROUTE(20));
	wr(b, T_CMP(0), 100000); /* 1 ms */
	/* A hundred periods pass without anybody looking. */
	state_save(&save, &clock_desc, 0, &t);
	assert_int_equal(clock_load(b->clk, &save, &err), 0);
	clock_advance(b->clk, 0);
	assert_int_equal(b->gsi[0].rises, 1);
	go(b, 101000000);
	assert_int_equal(b->gsi[0].rises, 2);
	go(b, 200500000);
	assert_int_equal(b->gsi[0].rises, 100 + LATE_BACKLOG);
	for (unsigned i = 1; i < b->gsi[0].rises; i++)
		assert_true(b->gsi[0].rise_at[i] - b->gsi[0].rise_at[i - 1] >= 500000);
	state_buf_fini(&save);
}

static void save_load_save_is_identical(void **state)
{
	struct bench *b = *state, *copy = bench_new(b->clk);
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };

	wr(b, CONF, 3);
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | MODE32 | ROUTE(20));
	wr(b, T_CMP(0), 100000);
	wr(b, T_CONF(1), ENB | LEVEL | ROUTE(21));
	wr(b, T_CMP(1), 150000);
	wr(b, T_CONF(2), ENB | LEVEL | ROUTE(23));
	wr(b, T_CMP(2), 150001);
	wr(b, T_FSB(2), 77);
	go(b, 1765432);
	hpet_save(b->hpet, &one);
	assert_int_equal(hpet_load(copy->hpet, &one, &err), 0);
	assert_true(copy->legacy_on);
	assert_true(copy->legacy[1].level);
	assert_true(copy->gsi[3].level);
	hpet_save(copy->hpet, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	assert_int_equal(state_covered(&hpet_desc), hpet_desc.size);
	/* And it runs on the same way. */
	b->legacy[0].rises = 0;
	go(b, 10000000);
	assert_int_equal(rd(b, COUNT), rd(copy, COUNT));
	assert_int_equal(b->legacy[0].rises, 9);
	assert_int_equal(copy->legacy[0].rises, 9);
	assert_memory_equal(b->legacy[0].rise_at, copy->legacy[0].rise_at,
			    9 * sizeof(vns_t));
	state_buf_fini(&one);
	state_buf_fini(&two);
	hpet_free(copy->hpet);
	free(copy);
}

static void load_refuses_values_out_of_range(void **state)
{
	struct bench *b = *state;
	struct state_buf buf = { 0 };
	struct error err = { 0 };
	unsigned refused = 0;

	wr(b, CONF, 1);
	wr(b, T_CONF(0), ENB | PERIODIC | VAL_SET | MODE32 | ROUTE(20));
	wr(b, T_CMP(0), 100000);
	hpet_save(b->hpet, &buf);
	/* Set each byte of a good stream to all ones: refused or harmless. */
	for (size_t i = 0; i < buf.len; i++) {
		u8 was = buf.data[i];

		buf.data[i] = 0xff;
		buf.pos = 0;
		refused += hpet_load(b->hpet, &buf, &err) < 0;
		buf.data[i] = was;
		clock_advance(b->clk, 1000000);
		rd(b, STATUS);
		wr(b, STATUS, 7);
		rd(b, T_CMP(0));
	}
	assert_true(refused > 200);
	state_buf_fini(&buf);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(capabilities_say_what_there_is),
		TEST(counter_counts_100_mhz_while_enabled),
		TEST(oneshot_fires_once_at_the_match),
		TEST(oneshot_of_32_bits_comes_round),
		TEST(level_holds_the_line_until_status_is_cleared),
		TEST(level_lines_are_shared),
		TEST(status_is_set_without_interrupt_enable),
		TEST(periodic_steps_do_not_drift),
		TEST(periodic_needs_the_capability),
		TEST(val_set_holds_for_both_halves),
		TEST(periodic_of_32_bits_wraps),
		TEST(halting_holds_everything),
		TEST(fsb_sends_the_message),
		TEST(no_sink_no_fsb),
		TEST(legacy_replacement_takes_over_0_and_8),
		TEST(short_periods_interrupt_once_per_100_us),
		TEST(late_edges_are_caught_up_but_bounded),
		TEST(save_load_save_is_identical),
		TEST(load_refuses_values_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
