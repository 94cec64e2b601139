/* The real-time clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/bits.h"
#include "time/lateness.h"
#include "time/rtc.h"
#include "time_pin.h"

#define EPOCH INT64_C(1709164799) /* 2024-02-28 23:59:59, a Wednesday */

struct bench {
	struct clock *clk;
	struct rtc *rtc;
	struct pin pin;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	b->clk = clock_new_manual();
	b->pin.clk = b->clk;
	/* Virtual time 0 is a quarter into the second. */
	clock_set_epoch_ns(b->clk, EPOCH * NSEC_PER_SEC + 250000000);
	b->rtc = rtc_new(b->clk, pin_line(&b->pin), 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	rtc_free(b->rtc);
	clock_free(b->clk);
	free(b);
	return 0;
}

static u8 get(struct bench *b, u8 index)
{
	rtc_ops.write(b->rtc, 0, index, 1);
	return (u8)rtc_ops.read(b->rtc, 1, 1);
}

static void set(struct bench *b, u8 index, u8 val)
{
	rtc_ops.write(b->rtc, 0, index, 1);
	rtc_ops.write(b->rtc, 1, val, 1);
}

static void go(struct bench *b, vns_t t)
{
	clock_advance(b->clk, t - clock_now(b->clk));
}

/* hh:mm:ss as three digit pairs. */
static u32 hms(struct bench *b)
{
	return (u32)(get(b, 4) << 16 | get(b, 2) << 8 | get(b, 0));
}

static u32 ymd(struct bench *b)
{
	return (u32)get(b, 0x32) << 24 | (u32)get(b, 9) << 16 | (u32)get(b, 8) << 8 |
	       get(b, 7);
}

/* Stop the clock, write a time, let it go. */
static void set_time(struct bench *b, u32 date, u32 time)
{
	u8 reg_b = get(b, 0xb);

	set(b, 0xb, reg_b | 0x80);
	set(b, 0x32, date >> 24);
	set(b, 9, date >> 16 & 0xff);
	set(b, 8, date >> 8 & 0xff);
	set(b, 7, date & 0xff);
	set(b, 4, time >> 16 & 0xff);
	set(b, 2, time >> 8 & 0xff);
	set(b, 0, time & 0xff);
	set(b, 0xb, reg_b & 0x7f);
}

static void set_alarm(struct bench *b, u32 time)
{
	set(b, 5, time >> 16 & 0xff);
	set(b, 3, time >> 8 & 0xff);
	set(b, 1, time & 0xff);
}

static void shows_civil_time_and_ticks_on_whole_seconds(void **state)
{
	struct bench *b = *state;

	assert_int_equal(ymd(b), 0x20240228);
	assert_int_equal(hms(b), 0x235959);
	assert_int_equal(get(b, 6), 4);
	go(b, 749999999);
	assert_int_equal(hms(b), 0x235959);
	go(b, 750000000);
	assert_int_equal(hms(b), 0);
	assert_int_equal(ymd(b), 0x20240229);
	assert_int_equal(get(b, 6), 5);
	clock_advance(b->clk, 86400 * NSEC_PER_SEC);
	assert_int_equal(ymd(b), 0x20240301);
	assert_int_equal(get(b, 6), 6);
	/* No tick runs for this. */
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	assert_int_equal(b->pin.rises, 0);
}

static void local_time_is_an_offset(void **state)
{
	struct bench *b = *state;
	struct rtc *east = rtc_new(b->clk, (struct irq_line){ 0 }, 5400);
	struct rtc *west = rtc_new(b->clk, (struct irq_line){ 0 }, -86400);

	assert_int_equal(rtc_get_cmos(east, 4), 0x01);
	assert_int_equal(rtc_get_cmos(east, 2), 0x29);
	assert_int_equal(rtc_get_cmos(east, 7), 0x29);
	assert_int_equal(rtc_get_cmos(west, 7), 0x27);
	assert_int_equal(rtc_get_cmos(west, 6), 3);
	rtc_free(east);
	rtc_free(west);
}

static void dates_agree_with_the_c_library(void **state)
{
	struct bench *b = *state;

	for (int i = 0; i < 3000; i++) {
		time_t t = (time_t)(EPOCH + 1 + clock_now(b->clk) / NSEC_PER_SEC);
		struct tm tm;
		u8 year;

		clock_advance(b->clk, 750000000);
		gmtime_r(&t, &tm);
		year = (u8)(tm.tm_year % 100);
		assert_int_equal(get(b, 9), year / 10 << 4 | year % 10);
		assert_int_equal(get(b, 8),
				 (tm.tm_mon + 1) / 10 << 4 | (tm.tm_mon + 1) % 10);
		assert_int_equal(get(b, 7), tm.tm_mday / 10 << 4 | tm.tm_mday % 10);
		assert_int_equal(get(b, 6), tm.tm_wday + 1);
		assert_int_equal(get(b, 4), tm.tm_hour / 10 << 4 | tm.tm_hour % 10);
		assert_int_equal(get(b, 0x32), tm.tm_year < 200 ? 0x20 : 0x21);
		/* To the same fraction of a second, some weeks on. */
		clock_advance(b->clk, (86400 * 31 + 12345) * NSEC_PER_SEC - 750000000);
	}
}

static void modes_12_hours_and_binary(void **state)
{
	static const struct {
		u8 mode, at[6]; /* 00, 01, 11, 12, 13, 23 hours */
	} cases[] = {
		{ 0x02, { 0x00, 0x01, 0x11, 0x12, 0x13, 0x23 } },
		{ 0x06, { 0, 1, 11, 12, 13, 23 } },
		{ 0x00, { 0x12, 0x01, 0x11, 0x92, 0x81, 0x91 } },
		{ 0x04, { 12, 1, 11, 0x80 | 12, 0x80 | 1, 0x80 | 11 } },
	};
	static const u8 hours[] = { 0, 1, 11, 12, 13, 23 };
	struct bench *b = *state;

	for (unsigned m = 0; m < ARRAY_SIZE(cases); m++) {
		bool binary = cases[m].mode & 4;

		set(b, 0xb, cases[m].mode);
		/* From each of these hours to each that follows it. */
		for (unsigned i = 0; i < 6; i++) {
			set_time(b, binary ? 0x200b0c0f : 0x20111215,
				 (u32)cases[m].at[i] << 16 | (binary ? 59 : 0x59));
			for (unsigned j = i + 1; j < 6; j++) {
				clock_advance(b->clk, (hours[j] - hours[j - 1]) * 3600 *
							      NSEC_PER_SEC);
				assert_int_equal(get(b, 4), cases[m].at[j]);
				assert_int_equal(get(b, 2), 0);
				assert_int_equal(get(b, 0), binary ? 59 : 0x59);
				assert_int_equal(get(b, 7), binary ? 15 : 0x15);
			}
		}
	}
	/* 11:59:59 PM in either base is followed by 12:00:00 AM of the next day. */
	set(b, 0xb, 0x00);
	set_time(b, 0x20111231, 0x915959);
	clock_advance(b->clk, NSEC_PER_SEC);
	assert_int_equal(hms(b), 0x120000);
	assert_int_equal(ymd(b), 0x20120101);
	clock_advance(b->clk, 43200 * NSEC_PER_SEC);
	assert_int_equal(hms(b), 0x920000);
	set(b, 0xb, 0x04);
	set_time(b, 0x200c0c1f, 0x8b3b3b);
	clock_advance(b->clk, NSEC_PER_SEC);
	assert_int_equal(hms(b), 0x0c0000);
	assert_int_equal(ymd(b), 0x200d0101);
}

static void set_bit_freezes_updates_and_keeps_the_phase(void **state)
{
	struct bench *b = *state;

	set(b, 0xb, 0x82 | 0x10);
	assert_int_equal(get(b, 0xb), 0x82); /* UIE cleared */
	go(b, 5 * NSEC_PER_SEC);
	assert_int_equal(hms(b), 0x235959);
	assert_int_equal(get(b, 0xa) & 0x80, 0);
	assert_int_equal(get(b, 0xc) & 0x10, 0);
	set(b, 4, 0x10);
	set(b, 2, 0x20);
	set(b, 0, 0x30);
	set(b, 0xb, 0x02);
	/* The divider went on: the next update is at a quarter to. */
	go(b, 5749999999);
	assert_int_equal(hms(b), 0x102030);
	go(b, 5750000000);
	assert_int_equal(hms(b), 0x102031);
}

static void divider_reset_delays_the_update_by_half_a_second(void **state)
{
	struct bench *b = *state;

	set(b, 0xa, 0x70);
	go(b, 10 * NSEC_PER_SEC);
	assert_int_equal(hms(b), 0x235959);
	set(b, 0xa, 0x26);
	go(b, 10499999999);
	assert_int_equal(hms(b), 0x235959);
	go(b, 10500000000);
	assert_int_equal(hms(b), 0);
	go(b, 11500000000);
	assert_int_equal(hms(b), 1);
}

static void uip_warns_244_us_before_the_update(void **state)
{
	struct bench *b = *state;

	assert_int_equal(get(b, 0xa), 0x26);
	go(b, 750000000 - 244142);
	assert_int_equal(get(b, 0xa), 0x26);
	go(b, 750000000 - 244141);
	assert_int_equal(get(b, 0xa), 0xa6);
	go(b, 749999999);
	assert_int_equal(get(b, 0xa), 0xa6);
	go(b, 750000000);
	assert_int_equal(get(b, 0xa), 0x26);
}

static void update_interrupt_is_a_level_until_c_is_read(void **state)
{
	struct bench *b = *state;

	set_alarm(b, 0x121212);
	set(b, 0xb, 0x12);
	assert_int_equal(clock_next_deadline(b->clk), 750000000);
	go(b, 10 * NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 1);
	assert_int_equal(b->pin.rise_at[0], 750000000);
	/* The periodic flag is set too: its divider runs, its interrupt is off. */
	assert_int_equal(get(b, 0xc), 0x80 | 0x40 | 0x10);
	assert_false(b->pin.level);
	assert_int_equal(get(b, 0xc), 0);
	go(b, 11 * NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 2);
	assert_int_equal(b->pin.rise_at[1], 10750000000);
	/* Disabling drops the line, enabling raises it again: the flag is still there. */
	set(b, 0xb, 0x02);
	assert_false(b->pin.level);
	set(b, 0xb, 0x12);
	assert_true(b->pin.level);
}

static void flags_are_kept_without_interrupts(void **state)
{
	struct bench *b = *state;

	set(b, 0xa, 0x20);
	set_alarm(b, 0x121212);
	get(b, 0xc);
	go(b, 749999999);
	assert_int_equal(get(b, 0xc), 0);
	go(b, 750000000);
	assert_int_equal(get(b, 0xc), 0x10);
	assert_int_equal(get(b, 0xc), 0);
	set_alarm(b, 0x000003);
	go(b, 3 * NSEC_PER_SEC);
	assert_int_equal(get(b, 0xc), 0x10);
	go(b, 4 * NSEC_PER_SEC);
	assert_int_equal(get(b, 0xc), 0x30);
	assert_int_equal(b->pin.rises, 0);
}

static void alarm_fires_at_its_time_and_daily(void **state)
{
	struct bench *b = *state;
	vns_t midnight = 750000000;

	set_alarm(b, 0x063005);
	set(b, 0xb, 0x22);
	assert_int_equal(clock_next_deadline(b->clk),
			 midnight + (6 * 3600 + 30 * 60 + 5) * NSEC_PER_SEC);
	go(b, 100000 * NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 1);
	assert_int_equal(get(b, 0xc) & 0xa0, 0xa0);
	assert_int_equal(clock_next_deadline(b->clk),
			 midnight + (86400 + 6 * 3600 + 30 * 60 + 5) * NSEC_PER_SEC);
	/* In the same second as the clock: not before tomorrow. */
	set_time(b, 0x20240301, 0x101112);
	set_alarm(b, 0x101112);
	get(b, 0xc);
	assert_true(clock_next_deadline(b->clk) >
		    clock_now(b->clk) + 86398 * NSEC_PER_SEC);
	set_alarm(b, 0x996000);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
}

static void alarm_fields_can_be_dont_care(void **state)
{
	static const struct {
		u32 now, alarm, first, second;
	} cases[] = {
		{ 0x101112, 0xc0c0c0, 0x101113, 0x101114 },
		{ 0x101112, 0xffff20, 0x101120, 0x101220 },
		{ 0x235930, 0xffff20, 0x000020, 0x000120 },
		{ 0x101112, 0xff1000, 0x111000, 0x121000 },
		{ 0x101112, 0xff11ff, 0x101113, 0x101114 },
		{ 0x101159, 0xff11ff, 0x111100, 0x111101 },
		{ 0x101112, 0x10ff30, 0x101130, 0x101230 },
		{ 0x105959, 0x10ff30, 0x100030, 0x100130 },
		{ 0x105959, 0x105959, 0x105959, 0x105959 },
		{ 0x105959, 0x10ffff, 0x100000, 0x100001 },
	};
	struct bench *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		set_time(b, 0x20240301, cases[i].now);
		set_alarm(b, cases[i].alarm);
		get(b, 0xc);
		set(b, 0xb, 0x22);
		clock_advance(b->clk, clock_next_deadline(b->clk) - clock_now(b->clk));
		assert_true(b->pin.level);
		assert_int_equal(hms(b), cases[i].first);
		get(b, 0xc);
		assert_false(b->pin.level);
		clock_advance(b->clk, clock_next_deadline(b->clk) - clock_now(b->clk));
		assert_true(b->pin.level);
		assert_int_equal(hms(b), cases[i].second);
		set(b, 0xb, 0x02);
	}
}

static void periodic_interrupt_has_all_rates(void **state)
{
	struct bench *b = *state;

	for (unsigned rs = 1; rs < 16; rs++) {
		unsigned hz = rs < 3 ? 512u >> rs : 65536u >> rs;
		unsigned before;

		set(b, 0xa, (u8)(0x20 | rs));
		set(b, 0xb, 0x42);
		get(b, 0xc);
		before = b->pin.rises;
		for (vns_t end = clock_now(b->clk) + NSEC_PER_SEC;
		     clock_next_deadline(b->clk) <= end;) {
			clock_advance(b->clk,
				      clock_next_deadline(b->clk) - clock_now(b->clk));
			assert_true(b->pin.level);
			assert_int_equal(get(b, 0xc) & 0xc0, 0xc0);
		}
		assert_int_equal(b->pin.rises - before, hz);
		set(b, 0xb, 0x02);
	}
	set(b, 0xa, 0x20);
	set(b, 0xb, 0x42);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
}

static void periodic_edges_keep_the_phase_of_the_divider(void **state)
{
	struct bench *b = *state;

	set(b, 0xa, 0x2f); /* 2 Hz: half and whole seconds */
	set(b, 0xb, 0x42);
	go(b, 10 * NSEC_PER_SEC);
	get(b, 0xc);
	assert_int_equal(b->pin.rise_at[0], 250000000);
}

static void unread_periodic_ticks_are_owed_but_bounded(void **state)
{
	struct bench *b = *state;
	unsigned ticks = 0;

	set(b, 0xa, 0x26); /* 1024 Hz */
	set(b, 0xb, 0x42);
	go(b, NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 1);
	get(b, 0xc);
	/* A guest that reads at once sees the backlog and the new ones. */
	while (clock_now(b->clk) < 2 * NSEC_PER_SEC) {
		clock_advance(b->clk, 10000);
		if (b->pin.level)
			ticks++;
		get(b, 0xc);
	}
	assert_in_range(ticks, 1024 + LATE_BACKLOG - 2, 1024 + LATE_BACKLOG + 1);
	/* Turned off and on: nothing is owed. */
	go(b, 3 * NSEC_PER_SEC);
	set(b, 0xb, 0x02);
	set(b, 0xb, 0x42);
	get(b, 0xc);
	go(b, clock_now(b->clk) + 500000);
	assert_false(b->pin.level);
}

static void values_that_are_no_time_are_read_back_and_then_mended(void **state)
{
	struct bench *b = *state;

	set(b, 8, 0x13);
	set(b, 7, 0x45);
	set(b, 4, 0x77);
	set(b, 6, 9);
	assert_int_equal(get(b, 8), 0x13);
	assert_int_equal(get(b, 7), 0x45);
	assert_int_equal(get(b, 4), 0x77);
	assert_int_equal(get(b, 6), 9);
	go(b, NSEC_PER_SEC);
	assert_int_equal(get(b, 8), 0x01);
	assert_int_equal(get(b, 7), 0x01);
	assert_int_equal(get(b, 4), 0x00);
	assert_in_range(get(b, 6), 1, 7);
}

static void index_and_nmi_mask_read_back(void **state)
{
	struct bench *b = *state;

	rtc_ops.write(b->rtc, 0, 0x8d, 1);
	assert_true(rtc_nmi_masked(b->rtc));
	assert_int_equal(rtc_ops.read(b->rtc, 0, 1), 0x8d);
	assert_int_equal(rtc_ops.read(b->rtc, 1, 1), 0x80); /* register D: valid RAM */
	rtc_ops.write(b->rtc, 1, 0, 1);
	assert_int_equal(rtc_ops.read(b->rtc, 1, 1), 0x80);
	rtc_ops.write(b->rtc, 0, 0x0d, 1);
	assert_false(rtc_nmi_masked(b->rtc));
}

static void cmos_memory_has_two_banks(void **state)
{
	struct bench *b = *state;

	rtc_set_cmos(b->rtc, 0x34, 0xab);
	rtc_set_cmos(b->rtc, 0xb4, 0xcd);
	rtc_set_cmos(b->rtc, 0x0, 0x33);
	rtc_set_cmos(b->rtc, 0x32, 0x33);
	rtc_set_cmos(b->rtc, 0x1000, 0x33);
	assert_int_equal(get(b, 0x34), 0xab);
	rtc_ops.write(b->rtc, 2, 0x34, 1);
	assert_int_equal(rtc_ops.read(b->rtc, 3, 1), 0xcd);
	rtc_ops.write(b->rtc, 3, 0x11, 1);
	assert_int_equal(rtc_get_cmos(b->rtc, 0xb4), 0x11);
	assert_int_equal(get(b, 0x34), 0xab);
	assert_int_equal(get(b, 0x32), 0x20);
	assert_int_equal(get(b, 0), 0x59);
	assert_int_equal(rtc_get_cmos(b->rtc, 0x1000), 0xff);
}

static void reset_keeps_time_and_memory(void **state)
{
	struct bench *b = *state;

	set(b, 0x40, 0x5a);
	set_time(b, 0x20240301, 0x101112);
	set(b, 0xb, 0x72);
	go(b, 2 * NSEC_PER_SEC);
	assert_true(b->pin.level);
	rtc_reset(b->rtc);
	assert_false(b->pin.level);
	assert_int_equal(get(b, 0xb), 0x02);
	assert_int_equal(get(b, 0xc), 0);
	assert_int_equal(get(b, 0x40), 0x5a);
	assert_int_equal(hms(b), 0x101114);
}

static void cut_line_hears_nothing_and_comes_back(void **state)
{
	struct bench *b = *state;

	rtc_cut_irq(b->rtc, true);
	set(b, 0xb, 0x12);
	go(b, NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 0);
	rtc_cut_irq(b->rtc, false);
	assert_int_equal(b->pin.rises, 1);
	rtc_cut_irq(b->rtc, true);
	assert_false(b->pin.level);
	get(b, 0xc);
	rtc_cut_irq(b->rtc, false);
	assert_false(b->pin.level);
}

static void save_load_save_is_identical(void **state)
{
	struct bench *b = *state;
	struct pin pin = { .clk = b->clk };
	struct rtc *copy = rtc_new(b->clk, pin_line(&pin), 1000000);
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };

	set(b, 0xa, 0x2a);
	set(b, 0xb, 0x72);
	set_alarm(b, 0xffff30);
	set(b, 0x77, 0x77);
	go(b, 3333333333);
	rtc_ops.write(b->rtc, 0, 0x81, 1);
	rtc_save(b->rtc, &one);
	assert_int_equal(rtc_load(copy, &one, &err), 0);
	assert_true(pin.level);
	rtc_save(copy, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	assert_int_equal(state_covered(&rtc_desc), rtc_desc.size);
	/* And it runs on the same way. */
	b->pin.rises = pin.rises = 0;
	for (int i = 0; i < 50000; i++) {
		clock_advance(b->clk, 1000000);
		rtc_ops.write(copy, 0, 0xc, 1);
		assert_int_equal(get(b, 0xc), rtc_ops.read(copy, 1, 1));
	}
	assert_int_equal(b->pin.rises, pin.rises);
	assert_true(pin.rises > 3000);
	rtc_ops.write(copy, 0, 0x77, 1);
	assert_int_equal(rtc_ops.read(copy, 1, 1), 0x77);
	rtc_ops.write(copy, 0, 0, 1);
	assert_int_equal(get(b, 0), rtc_ops.read(copy, 1, 1));
	state_buf_fini(&one);
	state_buf_fini(&two);
	rtc_free(copy);
}

static void load_refuses_values_out_of_range(void **state)
{
	struct bench *b = *state;
	struct state_buf buf = { 0 };
	struct error err = { 0 };
	unsigned refused = 0;

	set(b, 0xb, 0x72);
	rtc_save(b->rtc, &buf);
	/* Set each byte of a good stream to all ones: refused or harmless. */
	for (size_t i = 0; i < buf.len; i++) {
		u8 was = buf.data[i];

		buf.data[i] = 0xff;
		buf.pos = 0;
		refused += rtc_load(b->rtc, &buf, &err) < 0;
		buf.data[i] = was;
		clock_advance(b->clk, 1000000);
		hms(b);
		get(b, 0xc);
		get(b, 0x0a);
	}
	assert_true(refused > 50);
	state_buf_fini(&buf);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(shows_civil_time_and_ticks_on_whole_seconds),
		TEST(local_time_is_an_offset),
		TEST(dates_agree_with_the_c_library),
		TEST(modes_12_hours_and_binary),
		TEST(set_bit_freezes_updates_and_keeps_the_phase),
		TEST(divider_reset_delays_the_update_by_half_a_second),
		TEST(uip_warns_244_us_before_the_update),
		TEST(update_interrupt_is_a_level_until_c_is_read),
		TEST(flags_are_kept_without_interrupts),
		TEST(alarm_fires_at_its_time_and_daily),
		TEST(alarm_fields_can_be_dont_care),
		TEST(periodic_interrupt_has_all_rates),
		TEST(periodic_edges_keep_the_phase_of_the_divider),
		TEST(unread_periodic_ticks_are_owed_but_bounded),
		TEST(values_that_are_no_time_are_read_back_and_then_mended),
		TEST(index_and_nmi_mask_read_back),
		TEST(cmos_memory_has_two_banks),
		TEST(reset_keeps_time_and_memory),
		TEST(cut_line_hears_nothing_and_comes_back),
		TEST(save_load_save_is_identical),
		TEST(load_refuses_values_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
