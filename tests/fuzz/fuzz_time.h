/*
 * What the targets of the timer chips share: time that passes, and lines that count.
 *
 * A chip may interrupt once per LATE_MIN_GAP of virtual time, and a few times more
 * for each thing the guest does to it: lines check that.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/irqline.h"
#include "time/clock.h"
#include "time/lateness.h"

static inline void check(bool ok)
{
	if (!ok)
		abort();
}

/* Time that passes with its timers running; what is beyond it passes in jumps. */
#define FUZZ_RUN_NS (2 * NSEC_PER_SEC)

struct fuzz_time {
	struct clock *clk;
	vns_t ran;
	u64 steps; /* of any kind */
	u64 rises; /* of all lines, and messages */
	unsigned outputs;
	bool level[40];
};

static inline void fuzz_time_init(struct fuzz_time *t, unsigned outputs)
{
	memset(t, 0, sizeof(*t));
	t->clk = clock_new_manual();
	t->outputs = outputs;
}

static inline void fuzz_line_set(void *chip, unsigned pin, bool level)
{
	struct fuzz_time *t = chip;

	t->rises += level && !t->level[pin];
	t->level[pin] = level;
}

static inline struct irq_line fuzz_line(struct fuzz_time *t, unsigned pin)
{
	return (struct irq_line){ .set = fuzz_line_set, .chip = t, .pin = pin };
}

/* As if nobody had come to run the timers for so long. */
static inline void fuzz_jump(struct fuzz_time *t, vns_t ns)
{
	struct clock_state s = { .now = clock_now(t->clk) + ns,
				 .epoch_ns = clock_epoch_ns(t->clk) };
	struct state_buf b = { 0 };
	struct error err = { 0 };

	state_save(&b, &clock_desc, 0, &s);
	check(clock_load(t->clk, &b, &err) == 0);
	state_buf_fini(&b);
	clock_run_timers(t->clk);
}

/* From 16 ns to half a minute, as 'v' says; sometimes years. */
static inline void fuzz_pass(struct fuzz_time *t, u8 v)
{
	vns_t ns = (vns_t)(16 + (v & 15)) << 2 * (v >> 4);

	if (v == 0xff)
		ns = INT64_C(1) << 56;
	if (t->ran + ns <= FUZZ_RUN_NS) {
		clock_advance(t->clk, ns);
		t->ran += ns;
	} else if (clock_now(t->clk) < INT64_C(1) << 61) {
		fuzz_jump(t, ns);
	}
}

/* After each step. */
static inline void fuzz_time_check(struct fuzz_time *t)
{
	t->steps++;
	check(t->rises <= t->outputs * ((u64)(t->ran / LATE_MIN_GAP) + 4 * t->steps + 4));
}

/*
 * The chip's state goes out, comes back and goes out the same; or one byte of it is
 * changed on the way and it is refused, or loaded and then lived with.
 */
#define FUZZ_SAVE_LOAD(thing, chip, damage)                                              \
	do {                                                                             \
		struct state_buf a_ = { 0 }, b_ = { 0 };                                 \
		struct error err_ = { 0 };                                               \
		unsigned at_ = (damage);                                                 \
                                                                                         \
		thing##_save(chip, &a_);                                                 \
		if (at_) {                                                               \
			a_.data[at_ * 7 % a_.len] ^= (u8)(1 + at_ % 255);                \
			(void)thing##_load(chip, &a_, &err_);                            \
		} else {                                                                 \
			check(thing##_load(chip, &a_, &err_) == 0);                      \
			thing##_save(chip, &b_);                                         \
			check(a_.len == b_.len);                                         \
			check(!memcmp(a_.data, b_.data, a_.len));                        \
		}                                                                        \
		state_buf_fini(&a_);                                                     \
		state_buf_fini(&b_);                                                     \
	} while (0)
