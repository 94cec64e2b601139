/*
 * The 8254, against exact times and against a model that steps CLK by CLK.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "time/lateness.h"
#include "time/pit.h"
#include "time_pin.h"

/* First ns at which n CLK pulses have passed. */
static vns_t ns_of(u64 n)
{
	return (vns_t)(((u128)n * 1000000000 + 1193181) / 1193182);
}

struct bench {
	struct clock *clk;
	struct pit *pit;
	struct pin pin;
};

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	b->clk = clock_new_manual();
	b->pin.clk = b->clk;
	b->pit = pit_new(b->clk, pin_line(&b->pin));
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	pit_free(b->pit);
	clock_free(b->clk);
	free(b);
	return 0;
}

static void out(struct bench *b, unsigned port, u8 val)
{
	if (port == 0x61)
		pit_port61_ops.write(b->pit, 0, val, 1);
	else
		pit_ops.write(b->pit, port - 0x40, val, 1);
}

static u8 in(struct bench *b, unsigned port)
{
	return (u8)(port == 0x61 ? pit_port61_ops.read(b->pit, 0, 1)
				 : pit_ops.read(b->pit, port - 0x40, 1));
}

static void program(struct bench *b, unsigned n, unsigned mode, u16 count)
{
	out(b, 0x43, (u8)(n << 6 | 3 << 4 | mode << 1));
	out(b, 0x40 + n, count & 0xff);
	out(b, 0x40 + n, count >> 8);
}

/* To the moment at which n CLK pulses have passed. */
static void go(struct bench *b, u64 n)
{
	clock_advance(b->clk, ns_of(n) - clock_now(b->clk));
}

/* Latched. */
static u16 count(struct bench *b, unsigned n)
{
	u16 v;

	out(b, 0x43, (u8)(n << 6));
	v = in(b, 0x40 + n);
	return (u16)(v | in(b, 0x40 + n) << 8);
}

static u8 status(struct bench *b, unsigned n)
{
	out(b, 0x43, (u8)(0xe0 | 2 << n));
	return in(b, 0x40 + n);
}

static void nothing_runs_after_reset(void **state)
{
	struct bench *b = *state;

	assert_true(b->pin.level);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	clock_advance(b->clk, NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 1);
	assert_true(status(b, 0) & 0x40);
	assert_int_equal(in(b, 0x43), 0xff);
}

static void mode0_rises_n_plus_1_clocks_after_the_write(void **state)
{
	struct bench *b = *state;

	go(b, 100);
	program(b, 0, 0, 1000);
	assert_false(b->pin.level);
	/* OUT low, null count, both bytes, mode 0. */
	assert_int_equal(status(b, 0), 0x70);
	go(b, 101);
	assert_int_equal(count(b, 0), 1000);
	assert_int_equal(status(b, 0), 0x30);
	assert_int_equal(clock_next_deadline(b->clk), ns_of(1101));
	go(b, 1100);
	assert_int_equal(count(b, 0), 1);
	assert_false(b->pin.level);
	go(b, 1101);
	assert_int_equal(count(b, 0), 0);
	assert_true(b->pin.level);
	assert_int_equal(b->pin.rise_at[1], ns_of(1101));
	go(b, 1102);
	assert_int_equal(count(b, 0), 0xffff);
	/* One interrupt, then silence. */
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
}

static void mode0_first_byte_of_a_new_count_stops_the_old(void **state)
{
	struct bench *b = *state;

	program(b, 0, 0, 1000);
	go(b, 501);
	out(b, 0x40, 50);
	go(b, 5000);
	assert_false(b->pin.level);
	assert_int_equal(count(b, 0), 500);
	out(b, 0x40, 0);
	go(b, 5050);
	assert_false(b->pin.level);
	go(b, 5051);
	assert_true(b->pin.level);
}

static void mode0_count_of_zero_is_65536(void **state)
{
	struct bench *b = *state;

	program(b, 0, 0, 0);
	go(b, 65536);
	assert_false(b->pin.level);
	go(b, 65537);
	assert_true(b->pin.level);
}

static void mode2_edges_do_not_drift(void **state)
{
	struct bench *b = *state;
	u64 n = 1193; /* 999.85 us */

	program(b, 0, 2, (u16)n);
	for (unsigned i = 1; i <= 3000; i++) {
		go(b, 1 + i * n);
		assert_int_equal(b->pin.rises, 1 + i);
		assert_int_equal(b->pin.rise_at[i], ns_of(1 + i * n));
	}
	/* An hour later still to the ns. */
	go(b, 1 + UINT64_C(4000000) * n);
	assert_int_equal(clock_next_deadline(b->clk), ns_of(1 + UINT64_C(4000001) * n));
	assert_int_equal(b->pin.rises, 1 + 4000000);
}

static void mode2_out_is_low_for_the_last_clock(void **state)
{
	struct bench *b = *state;

	program(b, 1, 2, 5);
	for (unsigned k = 1; k < 50; k++) {
		go(b, k);
		assert_int_equal(count(b, 1), 5 - (k - 1) % 5);
		assert_int_equal(pit_out(b->pit, 1), (k - 1) % 5 != 4);
	}
}

static void mode2_reload_keeps_phase(void **state)
{
	struct bench *b = *state;

	program(b, 0, 2, 1000);
	go(b, 2500);
	/* A new count waits for the end of the period. */
	out(b, 0x40, 2000 & 0xff);
	out(b, 0x40, 2000 >> 8);
	assert_int_equal(status(b, 0) & 0x40, 0x40);
	go(b, 3000);
	assert_int_equal(count(b, 0), 1);
	go(b, 3001);
	assert_int_equal(count(b, 0), 2000);
	assert_int_equal(status(b, 0) & 0x40, 0);
	go(b, 9000);
	assert_int_equal(b->pin.rises, 1 + 5);
	assert_int_equal(b->pin.rise_at[3], ns_of(3001));
	assert_int_equal(b->pin.rise_at[4], ns_of(5001));
	assert_int_equal(b->pin.rise_at[5], ns_of(7001));
}

static void mode3_is_a_square_wave(void **state)
{
	struct bench *b = *state;

	program(b, 0, 3, 1001);
	go(b, 4500);
	assert_int_equal(b->pin.rises, 1 + 4);
	/* An odd count: 501 CLK high, 500 low. */
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(b->pin.fall_at[i], ns_of(1 + 501 + 1001 * i));
		assert_int_equal(b->pin.rise_at[i + 1], ns_of(1 + 1001 * (i + 1)));
	}
}

static void mode3_counts_by_two(void **state)
{
	static const u8 even[] = { 4, 2, 4, 2 }, odd[] = { 4, 2, 0, 4, 2 };
	struct bench *b = *state;

	/* The waveforms of the data sheet, figure 18. */
	program(b, 1, 3, 4);
	for (unsigned k = 0; k < 16; k++) {
		go(b, 1 + k);
		assert_int_equal(count(b, 1), even[k % 4]);
		assert_int_equal(pit_out(b->pit, 1), k % 4 < 2);
	}
	program(b, 1, 3, 5);
	for (unsigned k = 0; k < 20; k++) {
		go(b, 17 + k);
		assert_int_equal(count(b, 1), odd[k % 5]);
		assert_int_equal(pit_out(b->pit, 1), k % 5 < 3);
	}
}

static void mode4_strobes_once(void **state)
{
	struct bench *b = *state;

	program(b, 0, 4, 300);
	go(b, 301);
	assert_false(pit_out(b->pit, 0));
	go(b, 302);
	assert_true(pit_out(b->pit, 0));
	assert_int_equal(b->pin.rises, 2);
	assert_int_equal(b->pin.rise_at[1], ns_of(302));
	clock_advance(b->clk, NSEC_PER_SEC);
	assert_int_equal(b->pin.rises, 2);
}

static void mode1_needs_a_trigger_and_can_be_retriggered(void **state)
{
	struct bench *b = *state;

	program(b, 2, 1, 100);
	go(b, 50);
	assert_true(pit_out(b->pit, 2));
	out(b, 0x61, 1);
	assert_true(pit_out(b->pit, 2));
	go(b, 51);
	assert_false(pit_out(b->pit, 2));
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	out(b, 0x61, 0);
	go(b, 100);
	out(b, 0x61, 1);
	go(b, 200);
	assert_false(pit_out(b->pit, 2));
	go(b, 201);
	assert_true(pit_out(b->pit, 2));
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
}

static void latched_count_is_held_until_read(void **state)
{
	struct bench *b = *state;

	program(b, 2, 0, 5000);
	out(b, 0x61, 1);
	go(b, 1 + 0x123);
	out(b, 0x43, 0x80);
	go(b, 1000);
	out(b, 0x43, 0x80); /* ignored */
	assert_int_equal(in(b, 0x42), (5000 - 0x123) & 0xff);
	go(b, 2000);
	assert_int_equal(in(b, 0x42), (5000 - 0x123) >> 8);
	assert_int_equal(in(b, 0x42), (5000 - 1999) & 0xff);
	assert_int_equal(in(b, 0x42), (5000 - 1999) >> 8);
}

static void readback_gives_status_before_count(void **state)
{
	struct bench *b = *state;

	program(b, 0, 2, 1000);
	program(b, 2, 3, 2000);
	go(b, 11);
	out(b, 0x43, 0xc0 | 0x02 | 0x08); /* count and status of 0 and 2 */
	go(b, 500);
	assert_int_equal(in(b, 0x40), 0x80 | 0x30 | 2 << 1);
	assert_int_equal(in(b, 0x40), (1000 - 10) & 0xff);
	assert_int_equal(in(b, 0x40), (1000 - 10) >> 8);
	assert_int_equal(in(b, 0x42), 0x80 | 0x30 | 3 << 1);
	/* GATE 2 is low: loaded and held. */
	assert_int_equal(in(b, 0x42), 2000 & 0xff);
	assert_int_equal(in(b, 0x42), 2000 >> 8);
}

static void reads_and_writes_of_two_bytes_interleave(void **state)
{
	struct bench *b = *state;

	program(b, 1, 4, 0x1234);
	go(b, 1);
	assert_int_equal(in(b, 0x41), 0x34);
	out(b, 0x41, 0x78);
	assert_int_equal(in(b, 0x41), 0x12);
	out(b, 0x41, 0x56);
	go(b, 2);
	assert_int_equal(count(b, 1), 0x5678);
}

static void bcd_counts_in_decimal(void **state)
{
	struct bench *b = *state;

	out(b, 0x43, 1 << 6 | 3 << 4 | 0 << 1 | 1);
	out(b, 0x41, 0x01);
	out(b, 0x41, 0x10);
	go(b, 1);
	assert_int_equal(count(b, 1), 0x1001);
	go(b, 3);
	assert_int_equal(count(b, 1), 0x0999);
	go(b, 1002);
	assert_int_equal(count(b, 1), 0);
	assert_true(pit_out(b->pit, 1));
	go(b, 1003);
	assert_int_equal(count(b, 1), 0x9999);
}

static void port61_gates_counter_2_and_toggles_refresh(void **state)
{
	struct bench *b = *state;
	unsigned toggles = 0;
	u8 last;

	assert_int_equal(in(b, 0x61) & 0xcf, 0);
	program(b, 2, 0, 1000);
	go(b, 500);
	assert_int_equal(count(b, 2), 1000);
	out(b, 0x61, 0xf1);
	assert_int_equal(in(b, 0x61) & 0xef, 0x01);
	go(b, 1499);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	go(b, 1500);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	out(b, 0x61, 0x02);
	assert_true(pit_speaker(b->pit));
	last = in(b, 0x61) & 0x10;
	for (unsigned k = 1500; k < 3300; k++) {
		u8 now;

		go(b, k);
		now = in(b, 0x61) & 0x10;
		toggles += now != last;
		last = now;
	}
	assert_int_equal(toggles, 100);
}

static void poll(struct bench *b, unsigned from, unsigned n)
{
	for (unsigned k = from; k < from + n; k++) {
		go(b, k);
		assert_int_equal(in(b, 0x61) & 0x20, 0);
	}
}

static void loop_that_the_host_held_up_sees_the_pause_before_out_2(void **state)
{
	struct bench *b = *state;

	program(b, 2, 0, 1000);
	out(b, 0x61, 1);
	poll(b, 1, 100);
	go(b, 5000);
	assert_int_equal(in(b, 0x61) & 0x20, 0);
	assert_true(pit_out(b->pit, 2));
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	go(b, 6000);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);

	/* Neither one that is not held up, */
	program(b, 2, 0, 1000);
	poll(b, 6900, 100);
	go(b, 7001);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	/* nor one that looks now and then. */
	program(b, 2, 0, 1000);
	poll(b, 7500, 10);
	go(b, 9000);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
	/* nor one that has made OUT high itself. */
	program(b, 2, 3, 1000);
	poll(b, 9600, 100);
	go(b, 9800);
	out(b, 0x61, 0);
	assert_int_equal(in(b, 0x61) & 0x20, 0x20);
}

static void illegal_count_of_1_raises_nothing(void **state)
{
	struct bench *b = *state;

	program(b, 0, 2, 1);
	go(b, 100);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	program(b, 0, 3, 1);
	go(b, 200);
	assert_true(clock_next_deadline(b->clk) == VNS_NEVER);
	assert_true(pit_out(b->pit, 0));
	out(b, 0x40, 100);
	out(b, 0x40, 0);
	go(b, 202);
	assert_int_equal(count(b, 0), 98);
}

static void short_periods_reach_the_line_once_per_100_us(void **state)
{
	struct bench *b = *state;
	unsigned before = b->pin.rises;

	program(b, 0, 2, 2); /* 597 kHz */
	clock_advance(b->clk, NSEC_PER_SEC / 10);
	assert_in_range(b->pin.rises - before, 900, 1001);
	program(b, 0, 3, 2);
	before = b->pin.rises;
	clock_advance(b->clk, NSEC_PER_SEC / 10);
	assert_in_range(b->pin.rises - before, 900, 1001);
}

/* A real clock would come back late: here it is moved with its timers held up. */
static void late_edges_are_caught_up_one_at_a_time(void **state)
{
	struct bench *b = *state;
	struct state_buf save = { 0 };
	struct clock_state t;
	struct error err = { 0 };

	program(b, 0, 2, 11932); /* 100 Hz */
	go(b, 1 + 11932 * 100);
	assert_int_equal(b->pin.rises, 101);
	/* Ten periods pass without anybody looking. */
	t = (struct clock_state){ .now = ns_of(1 + 11932 * 110 + 10) };
	state_save(&save, &clock_desc, 0, &t);
	assert_int_equal(clock_load(b->clk, &save, &err), 0);
	clock_advance(b->clk, 0);
	assert_int_equal(b->pin.rises, 102);
	clock_advance(b->clk, 4000000);
	assert_int_equal(b->pin.rises, 102);
	clock_advance(b->clk, 2000000);
	assert_int_equal(b->pin.rises, 103);
	/* At double speed ten owed ones and ten new ones take ten periods. */
	go(b, 1 + 11932 * 121);
	assert_int_equal(b->pin.rises, 122);
	go(b, 1 + 11932 * 125);
	assert_int_equal(b->pin.rises, 126);
	/* Two hundred are too many: a backlog of 16 is kept. */
	t.now = ns_of(1 + 11932 * 325 + 10);
	save.len = save.pos = 0;
	state_save(&save, &clock_desc, 0, &t);
	assert_int_equal(clock_load(b->clk, &save, &err), 0);
	go(b, 1 + 11932 * 2000);
	assert_int_equal(b->pin.rises, 126 + LATE_BACKLOG + (2000 - 325));
	state_buf_fini(&save);
}

static void cut_line_hears_nothing_and_comes_back(void **state)
{
	struct bench *b = *state;

	program(b, 0, 2, 1000);
	pit_cut_irq0(b->pit, true);
	assert_false(b->pin.level);
	go(b, 5500);
	assert_int_equal(b->pin.rises, 1);
	assert_int_equal(count(b, 0), 501);
	pit_cut_irq0(b->pit, false);
	assert_true(b->pin.level);
	go(b, 6001);
	assert_int_equal(b->pin.rises, 3);
}

/* The model: every CLK is a step. Written from the data sheet, not from pit.c. */
struct model {
	unsigned mode, rw, bcd;
	bool gate, out, null, first, trigger, loaded, armed, half, odd;
	u16 cr;
	u8 low;
	unsigned ce;
};

static unsigned model_n(const struct model *m)
{
	unsigned n = m->cr;

	if (m->bcd)
		n = (n >> 12) * 1000 + (n >> 8 & 15) * 100 + (n >> 4 & 15) * 10 +
		    (n & 15);
	return n ? n : m->bcd ? 10000 : 65536;
}

static void model_load(struct model *m)
{
	m->ce = model_n(m);
	if (m->mode == 3) {
		m->odd = m->ce & 1;
		m->ce &= ~1u;
	}
	m->null = false;
	m->loaded = true;
	m->first = m->trigger = false;
}

static void model_dec(struct model *m)
{
	m->ce = m->ce ? m->ce - 1 : m->bcd ? 9999 : 65535;
}

static void model_clk(struct model *m)
{
	switch (m->mode) {
	case 0:
		if (m->first) {
			model_load(m);
			m->armed = true;
		} else if (m->loaded && m->gate && !m->half) {
			model_dec(m);
			if (!m->ce && m->armed) {
				m->out = true;
				m->armed = false;
			}
		}
		break;
	case 1:
		if (m->trigger) {
			model_load(m);
			m->armed = true;
			m->out = false;
		} else if (m->loaded) {
			model_dec(m);
			if (!m->ce && m->armed) {
				m->out = true;
				m->armed = false;
			}
		}
		break;
	case 2:
		if (m->first || m->trigger || (m->loaded && m->gate && m->ce == 1)) {
			model_load(m);
			m->out = true;
		} else if (m->loaded && m->gate) {
			model_dec(m);
			if (m->ce == 1)
				m->out = false;
		}
		break;
	case 3:
		if (m->first || m->trigger) {
			model_load(m);
			m->out = true;
		} else if (m->loaded && m->gate) {
			if (m->odd && m->out) {
				if (m->ce) {
					m->ce -= 2;
				} else {
					m->out = false;
					model_load(m);
				}
			} else {
				m->ce -= 2;
				if (!m->ce) {
					m->out = !m->out;
					model_load(m);
				}
			}
		}
		break;
	case 4:
	case 5:
		m->out = true;
		if (m->mode == 4 ? m->first : m->trigger) {
			model_load(m);
			m->armed = true;
		} else if (m->loaded && (m->gate || m->mode == 5)) {
			model_dec(m);
			if (!m->ce && m->armed) {
				m->out = false;
				m->armed = false;
			}
		}
		break;
	}
}

static void model_control(struct model *m, u8 cw)
{
	m->mode = cw >> 1 & 7;
	if (m->mode > 5)
		m->mode -= 4;
	m->rw = cw >> 4 & 3;
	m->bcd = cw & 1;
	m->out = m->mode != 0;
	m->null = true;
	m->first = m->trigger = m->loaded = m->armed = m->half = false;
	m->cr = 0;
}

static void model_count(struct model *m, u16 cr)
{
	m->cr = cr;
	m->null = true;
	if (m->mode == 0) {
		m->out = false;
		m->armed = false;
		m->first = true;
	} else if (m->mode == 4) {
		m->first = true;
	} else if ((m->mode == 2 || m->mode == 3) && !m->loaded) {
		m->first = true;
	}
}

static void model_write(struct model *m, u8 val, bool *whole)
{
	if (m->rw == 3 && !m->half) {
		m->low = val;
		m->half = true;
		if (m->mode == 0) {
			m->out = false;
			m->armed = false;
		}
		return;
	}
	m->half = false;
	*whole = true;
	if (m->rw == 1)
		model_count(m, val);
	else
		model_count(m, (u16)(val << 8 | (m->rw == 2 ? 0 : m->low)));
}

static void model_gate(struct model *m, bool level, bool whole)
{
	bool rose = level && !m->gate;

	m->gate = level;
	if (!level && (m->mode == 2 || m->mode == 3))
		m->out = true;
	if (rose && whole &&
	    (m->mode == 1 || m->mode == 2 || m->mode == 3 || m->mode == 5))
		m->trigger = true;
}

static u16 model_reg(const struct model *m)
{
	unsigned n = m->ce;

	if (!m->bcd)
		return (u16)n;
	n %= 10000;
	return (u16)(n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

static u32 rnd_state;

static u32 rnd(u32 n)
{
	rnd_state = rnd_state * 1664525 + 1013904223;
	return (u32)((u64)(rnd_state >> 8) * n >> 24);
}

static u16 to_bcd(unsigned n)
{
	return (u16)(n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

/* Compare one counter through a read-back, in whatever access mode it is. */
static void compare(struct bench *b, const struct model *m, unsigned n)
{
	u8 st;
	u16 v = model_reg(m), got = 0;

	out(b, 0x43, (u8)(0xc0 | 2 << n));
	st = in(b, 0x40 + n);
	assert_int_equal(st >> 7, m->out);
	assert_int_equal(st >> 6 & 1, m->null);
	assert_int_equal(st >> 4 & 3, m->rw);
	if (m->rw & 1)
		got = in(b, 0x40 + n);
	if (m->rw & 2)
		got |= (u16)(in(b, 0x40 + n) << 8);
	if (m->rw == 1)
		v &= 0xff;
	if (m->rw == 2)
		v &= 0xff00;
	/* What a counter holds before its first count is nobody's business. */
	if (m->loaded)
		assert_int_equal(got, v);
	assert_int_equal(pit_out(b->pit, n), m->out);
}

static void random_program(struct bench *b, struct model *m, unsigned n, bool *whole)
{
	u8 cw = (u8)((1 + rnd(3)) << 4 | rnd(8) << 1 | (rnd(4) == 0));

	*whole = false;
	model_control(m, cw);
	out(b, 0x43, (u8)(n << 6 | cw));
}

static void random_count(struct bench *b, struct model *m, unsigned n, bool *whole)
{
	bool slow = n == 0 && (m->mode == 2 || m->mode == 3);
	unsigned v = rnd(3) ? 2 + rnd(40) : rnd(9000);
	bool second = m->half;
	u8 byte;

	/* Counter 0 periodic: slower than the bound on interrupts, and no count of 1. */
	if (slow && v < 300)
		v += 300;
	if ((m->mode == 2 || m->mode == 3) && v < 2)
		v = 2;
	if (m->bcd)
		v = to_bcd(v);
	if (m->rw == 1)
		byte = (u8)(slow ? 0 : v & 0xff);
	else if (m->rw == 2)
		byte = (u8)(v >> 8 ? v >> 8 : slow ? 3u : 1u);
	else
		byte = (u8)(second ? v >> 8 : v);
	if (m->rw == 1 && m->mode >= 2 && m->mode <= 3 && byte == 1)
		byte = 2;
	/* The two halves come from two draws: keep the whole legal. */
	if (m->rw == 3 && second && slow && byte < 4)
		byte = 4;
	if (m->rw == 3 && second && (m->mode == 2 || m->mode == 3) && !byte)
		byte = 1;
	model_write(m, byte, whole);
	out(b, 0x40 + n, byte);
}

static void random_session(struct bench *b, u32 seed)
{
	struct model m[3];
	bool whole[3] = { false };
	u64 k = 0;
	unsigned rises = 0, seen = b->pin.rises;

	rnd_state = seed;
	memset(m, 0, sizeof(m));
	for (unsigned n = 0; n < 3; n++) {
		m[n].gate = n != 2;
		random_program(b, &m[n], n, &whole[n]);
	}
	seen = b->pin.rises;
	for (unsigned step = 0; step < 400; step++) {
		unsigned n = rnd(3), dice = rnd(16);
		bool was = m[0].out;
		vns_t when;

		if (dice < 2)
			random_program(b, &m[n], n, &whole[n]);
		else if (dice < 7)
			random_count(b, &m[n], n, &whole[n]);
		else if (dice < 11 && n) {
			bool level = rnd(2);

			model_gate(&m[n], level, whole[n]);
			pit_set_gate(b->pit, n, level);
		}
		rises += m[0].out && !was;
		for (u32 c = rnd(3) ? rnd(30) : rnd(4000); c; c--) {
			k++;
			was = m[0].out;
			for (unsigned i = 0; i < 3; i++)
				model_clk(&m[i]);
			rises += m[0].out && !was;
		}
		/* Somewhere within the CLK, which takes 838 ns. */
		when = ns_of(k) + rnd(800);
		if (when > clock_now(b->clk))
			clock_advance(b->clk, when - clock_now(b->clk));
		for (unsigned i = 0; i < 3; i++) {
			compare(b, &m[i], i);
		}
		assert_int_equal(b->pin.rises - seen, rises);
	}
}

static void random_programs_agree_with_the_stepping_model(void **state)
{
	(void)state;
	for (u32 seed = 1; seed <= 60; seed++) {
		void *s;

		setup(&s);
		random_session(s, seed * 2654435761u);
		teardown(&s);
	}
}

static void save_load_save_is_identical(void **state)
{
	struct bench *b = *state;
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };
	struct pin pin = { .clk = b->clk };
	struct pit *copy = pit_new(b->clk, pin_line(&pin));

	program(b, 0, 2, 5000);
	program(b, 2, 3, 777);
	out(b, 0x61, 3);
	go(b, 12345);
	out(b, 0x43, 0xc0 | 2);
	in(b, 0x40);
	out(b, 0x41, 0x12);
	pit_save(b->pit, &one);
	assert_int_equal(pit_load(copy, &one, &err), 0);
	pit_save(copy, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	assert_int_equal(state_covered(&pit_desc), pit_desc.size);
	/* And it runs on the same way. */
	b->pin.rises = pin.rises = 0;
	go(b, 200000);
	assert_int_equal(b->pin.rises, 37);
	assert_int_equal(pin.rises, 37);
	assert_memory_equal(b->pin.rise_at, pin.rise_at, 37 * sizeof(vns_t));
	state_buf_fini(&one);
	state_buf_fini(&two);
	pit_free(copy);
}

static void load_refuses_values_out_of_range(void **state)
{
	struct bench *b = *state;
	struct state_buf buf = { 0 };
	struct error err = { 0 };
	unsigned refused = 0;

	/* Set each byte of a good stream to all ones: refused or harmless. */
	pit_save(b->pit, &buf);
	for (size_t i = 0; i < buf.len; i++) {
		u8 was = buf.data[i];

		buf.data[i] = 0xff;
		buf.pos = 0;
		refused += pit_load(b->pit, &buf, &err) < 0;
		buf.data[i] = was;
		clock_advance(b->clk, 1000000);
		count(b, 0);
		status(b, 1);
		in(b, 0x61);
	}
	assert_true(refused > 100);
	state_buf_fini(&buf);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(nothing_runs_after_reset),
		TEST(mode0_rises_n_plus_1_clocks_after_the_write),
		TEST(mode0_first_byte_of_a_new_count_stops_the_old),
		TEST(mode0_count_of_zero_is_65536),
		TEST(mode2_edges_do_not_drift),
		TEST(mode2_out_is_low_for_the_last_clock),
		TEST(mode2_reload_keeps_phase),
		TEST(mode3_is_a_square_wave),
		TEST(mode3_counts_by_two),
		TEST(mode4_strobes_once),
		TEST(mode1_needs_a_trigger_and_can_be_retriggered),
		TEST(latched_count_is_held_until_read),
		TEST(readback_gives_status_before_count),
		TEST(reads_and_writes_of_two_bytes_interleave),
		TEST(bcd_counts_in_decimal),
		TEST(port61_gates_counter_2_and_toggles_refresh),
		TEST(loop_that_the_host_held_up_sees_the_pause_before_out_2),
		TEST(illegal_count_of_1_raises_nothing),
		TEST(short_periods_reach_the_line_once_per_100_us),
		TEST(late_edges_are_caught_up_one_at_a_time),
		TEST(cut_line_hears_nothing_and_comes_back),
		cmocka_unit_test(random_programs_agree_with_the_stepping_model),
		TEST(save_load_save_is_identical),
		TEST(load_refuses_values_out_of_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
