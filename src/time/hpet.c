/*
 * High precision event timers, IA-PC HPET specification 1.0a.
 *
 * The main counter is computed from the clock (10 ns a count), comparators are brought up
 * to date when looked at, and one timer is armed for the earliest match that
 * interrupts somebody. A match is the counter passing through the comparator's value, in
 * the timer's width: writing a value that has just passed waits for the counter to come
 * round (42.9 s with 32 bits, for ever with 64), as the hardware does.
 *
 * Where 1.0a leaves a choice: FSB delivery goes before legacy replacement; a
 * comparator of 64 bits written in two halves takes VAL_SET for both, low half first;
 * writes of the main counter while it runs are ignored.
 *
 * Periodic edges that come late are owed, periods below LATE_MIN_GAP (100 us) reach the
 * guest as one edge per 100 us: time/lateness.h. Levels need neither, the guest
 * acknowledges each.
 *
 * Lock: h->lock covers s, levels and armed; taken on vCPU threads and the timer thread,
 * held while lines are driven, messages sent and the PIT and RTC are cut off.
 */
#include "time/hpet.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "time/lateness.h"

/* Registers, table 2. All are 64 bits wide. */
#define REG_CAP        0x000
#define REG_CONFIG     0x010
#define REG_STATUS     0x020
#define REG_MAIN_COUNT 0x0f0
#define REG_TIMERS     0x100 /* 20h each, in which: */
#define REG_T_CONFIG   0x00
#define REG_T_CMP      0x08
#define REG_T_FSB      0x10

/* General Capabilities and ID, 2.3.4. */
#define CAP_REV        0x01
#define CAP_TIM_SHIFT  8
#define CAP_COUNT_SIZE BIT(13)
#define CAP_LEG_RT     BIT(15)
#define CAP_VENDOR     (UINT64_C(0x8086) << 16)

/* General Configuration, 2.3.5. */
#define ENABLE_CNF BIT(0)
#define LEG_RT_CNF BIT(1)

/* Timer n Configuration and Capabilities, 2.3.8. */
#define TN_LEVEL    BIT(1) /* INT_TYPE_CNF */
#define TN_INT_ENB  BIT(2)
#define TN_PERIODIC BIT(3) /* TYPE_CNF */
#define TN_PER_CAP  BIT(4)
#define TN_SIZE_CAP BIT(5)
#define TN_VAL_SET  BIT(6)
#define TN_32MODE   BIT(8)
#define TN_ROUTE    BITS(13, 9)
#define TN_FSB_EN   BIT(14)
#define TN_FSB_CAP  BIT(15)
#define TN_WRITABLE                                                                      \
	(TN_LEVEL | TN_INT_ENB | TN_PERIODIC | TN_VAL_SET | TN_32MODE | TN_ROUTE |       \
	 TN_FSB_EN)

/* Bound for streams. */
#define TIME_MAX (INT64_C(1) << 62)

struct hpet_timer {
	u64 config; /* the writable bits */
	u64 cmp;    /* next match */
	u64 period; /* what was last written to the comparator */
	u64 fsb;    /* FSB interrupt route: address and value */
	u64 seen;   /* matches up to this count have been dealt with */
	struct lateness late;
	u8 half_set; /* the low half took VAL_SET, it holds for the high half too */
	u8 spare[7];
};

struct hpet_state {
	u64 config;
	u64 status;
	u64 count;    /* main counter while halted; else its value at count_at */
	i64 count_at; /* virtual time */
	struct hpet_timer t[HPET_MAX_TIMERS];
};

struct hpet {
	struct hpet_state s;
	pthread_mutex_t lock;
	struct clock *clk;
	struct hpet_config board;
	struct timer timer;
	vns_t armed; /* what the timer is armed for */
	/* Derived from s: what the board has been told. */
	u32 gsi_levels;
	u32 legacy_levels;
	bool legacy_on;
};

static bool enabled(const struct hpet *h)
{
	return h->s.config & ENABLE_CNF;
}

static bool legacy_active(const struct hpet *h)
{
	return (h->s.config & (ENABLE_CNF | LEG_RT_CNF)) == (ENABLE_CNF | LEG_RT_CNF);
}

static u64 counter(const struct hpet *h, vns_t now)
{
	if (!enabled(h) || now < h->s.count_at)
		return h->s.count;
	return h->s.count + (u64)(now - h->s.count_at) / HPET_PERIOD_NS;
}

/* First virtual time at which the running counter is 'ticks' past 'count'. */
static vns_t ticks_time(const struct hpet *h, u128 ticks)
{
	u128 t = ticks * HPET_PERIOD_NS + (u64)h->s.count_at;

	return t < (u128)VNS_NEVER ? (vns_t)t : VNS_NEVER;
}

static u64 width_mask(const struct hpet_timer *t)
{
	return t->config & TN_32MODE ? UINT32_MAX : UINT64_MAX;
}

static vns_t period_ns(const struct hpet_timer *t)
{
	return t->period < BIT(58) ? (vns_t)(t->period * HPET_PERIOD_NS) : TIME_MAX;
}

/* Counts from 'from' to the next match, at least 1; 0 stands for 2^64. */
static u64 counts_to_match(const struct hpet_timer *t, u64 from)
{
	return ((t->cmp - from - 1) & width_mask(t)) + 1;
}

/* Matches in (seen, cur]; the comparator moves on. */
static u64 take_matches(struct hpet_timer *t, u64 cur)
{
	u64 span = cur - t->seen, first = counts_to_match(t, t->seen), n;

	t->seen = cur;
	if (!first || first > span)
		return 0;
	if (t->config & TN_PERIODIC && t->period) {
		n = (span - first) / t->period + 1;
		t->cmp = (t->cmp + n * t->period) & width_mask(t);
		return n;
	}
	return t->config & TN_32MODE ? ((span - first) >> 32) + 1 : 1;
}

/* Outputs. */

/* A timer interrupts by level and not by message or edge. */
static bool by_level(const struct hpet_timer *t)
{
	return (t->config & (TN_LEVEL | TN_FSB_EN)) == TN_LEVEL;
}

static unsigned route(const struct hpet_timer *t)
{
	return (unsigned)bits_get(t->config, 13, 9);
}

static void send_edge(struct hpet *h, unsigned n)
{
	const struct hpet_timer *t = &h->s.t[n];

	if (t->config & TN_FSB_EN) {
		if (h->board.msi.send)
			h->board.msi.send(h->board.msi.sink, t->fsb >> 32, (u32)t->fsb);
	} else if (legacy_active(h) && n < 2) {
		irq_pulse(&h->board.legacy[n]);
	} else if (h->board.route_cap & BIT(route(t))) {
		irq_pulse(&h->board.gsi[route(t)]);
	}
}

static void drive(const struct irq_line *lines, unsigned count, u32 before, u32 after)
{
	for (unsigned i = 0; i < count; i++)
		if ((before ^ after) & BIT(i))
			irq_set(&lines[i], after & BIT(i));
}

/* Bring lines, and who owns the legacy interrupts, to what the state says. */
static void update_outputs(struct hpet *h)
{
	u32 gsi = 0, legacy = 0;
	bool on = legacy_active(h);

	for (unsigned n = 0; n < h->board.timers; n++) {
		const struct hpet_timer *t = &h->s.t[n];

		if (!enabled(h) || !by_level(t) || !(t->config & TN_INT_ENB) ||
		    !(h->s.status & BIT(n)))
			continue;
		if (on && n < 2)
			legacy |= (u32)BIT(n);
		else
			gsi |= (u32)BIT(route(t)) & h->board.route_cap;
	}
	/* Who gives up a line lets go of it before the other drives it. */
	drive(h->board.legacy, 2, h->legacy_levels, h->legacy_levels & legacy);
	if (on != h->legacy_on && h->board.legacy_changed)
		h->board.legacy_changed(h->board.opaque, on);
	h->legacy_on = on;
	drive(h->board.legacy, 2, h->legacy_levels & legacy, legacy);
	h->legacy_levels = legacy;
	drive(h->board.gsi, HPET_GSIS, h->gsi_levels, gsi);
	h->gsi_levels = gsi;
}

static void sync_timer(struct hpet *h, unsigned n, u64 cur, vns_t now)
{
	struct hpet_timer *t = &h->s.t[n];
	u64 matches = take_matches(t, cur);
	bool edge = matches;

	if (by_level(t)) {
		/* "The timer will still operate and generate appropriate status bits" */
		if (matches)
			h->s.status |= BIT(n);
		return;
	}
	if (!(t->config & TN_INT_ENB)) {
		lateness_reset(&t->late);
		return;
	}
	if (t->config & TN_PERIODIC && t->period) {
		lateness_add(&t->late, matches, period_ns(t));
		edge = lateness_take(&t->late, now, period_ns(t));
	}
	if (edge)
		send_edge(h, n);
}

/* Deal with all matches up to now. Returns the counter. */
static u64 sync(struct hpet *h, vns_t now)
{
	u64 cur = counter(h, now);

	if (enabled(h)) {
		for (unsigned n = 0; n < h->board.timers; n++)
			sync_timer(h, n, cur, now);
		update_outputs(h);
	}
	return cur;
}

/* When timer n next needs the timer thread; after sync(). */
static vns_t timer_deadline(const struct hpet *h, unsigned n)
{
	const struct hpet_timer *t = &h->s.t[n];
	u64 counts = counts_to_match(t, t->seen);
	vns_t when;

	if (!(t->config & TN_INT_ENB) || (by_level(t) && h->s.status & BIT(n)))
		return VNS_NEVER; /* nobody waits, or the line is up already */
	when = counts ? ticks_time(h, (u128)(t->seen - h->s.count) + counts) : VNS_NEVER;
	if (!by_level(t) && t->config & TN_PERIODIC && t->period)
		when = lateness_deadline(&t->late, when);
	return when;
}

static void rearm(struct hpet *h)
{
	vns_t when = VNS_NEVER;

	for (unsigned n = 0; enabled(h) && n < h->board.timers; n++)
		when = MIN(when, timer_deadline(h, n));
	if (when == h->armed)
		return;
	h->armed = when;
	timer_arm(&h->timer, when);
}

static void hpet_fire(void *opaque, vns_t deadline)
{
	struct hpet *h = opaque;

	(void)deadline;
	pthread_mutex_lock(&h->lock);
	h->armed = VNS_NEVER;
	sync(h, clock_now(h->clk));
	rearm(h);
	pthread_mutex_unlock(&h->lock);
}

/* Registers. Those of a write are given the bits that were written in 'mask'. */

static u64 capabilities(const struct hpet *h)
{
	return (u64)HPET_PERIOD_FS << 32 | CAP_VENDOR | CAP_LEG_RT | CAP_COUNT_SIZE |
	       (u64)(h->board.timers - 1) << CAP_TIM_SHIFT | CAP_REV;
}

static u64 timer_caps(const struct hpet *h, unsigned n)
{
	return (u64)h->board.route_cap << 32 | TN_SIZE_CAP |
	       (h->board.periodic & BIT(n) ? TN_PER_CAP : 0) |
	       (h->board.msi.send ? TN_FSB_CAP : 0);
}

static u64 reg_read(struct hpet *h, u64 reg)
{
	unsigned n = (unsigned)((reg - REG_TIMERS) / 0x20);

	sync(h, clock_now(h->clk));
	switch (reg) {
	case REG_CAP: return capabilities(h);
	case REG_CONFIG: return h->s.config;
	case REG_STATUS: return h->s.status;
	default: break;
	}
	if (reg < REG_TIMERS || n >= h->board.timers)
		return 0; /* reserved */
	switch (reg & 0x1f) {
	case REG_T_CONFIG: return h->s.t[n].config | timer_caps(h, n);
	case REG_T_CMP: return h->s.t[n].cmp;
	case REG_T_FSB: return h->s.t[n].fsb;
	default: return 0;
	}
}

static void write_config(struct hpet *h, u64 val, u64 cur, vns_t now)
{
	bool was = enabled(h);

	h->s.config = val & (ENABLE_CNF | LEG_RT_CNF);
	if (enabled(h) == was)
		return; /* the fraction of a count that has passed goes on */
	h->s.count = cur;
	h->s.count_at = now;
	for (unsigned n = 0; was && n < h->board.timers; n++)
		lateness_reset(&h->s.t[n].late);
}

static void write_count(struct hpet *h, u64 val)
{
	if (enabled(h)) {
		guest_bug("hpet", "main counter written while it runs");
		return;
	}
	h->s.count = val;
	for (unsigned n = 0; n < h->board.timers; n++)
		h->s.t[n].seen = val - 1;
}

static void write_timer_config(struct hpet *h, unsigned n, u64 val)
{
	struct hpet_timer *t = &h->s.t[n];
	u64 changed;

	val &= TN_WRITABLE;
	if (!(h->board.periodic & BIT(n)))
		val &= ~TN_PERIODIC;
	if (!h->board.msi.send)
		val &= ~TN_FSB_EN;
	/* "If the value is not supported, the value read back will not match" (2.3.8). */
	if (!(h->board.route_cap & BIT(bits_get(val, 13, 9))))
		val = (val & ~TN_ROUTE) | (t->config & TN_ROUTE);
	changed = t->config ^ val;
	t->config = val;
	if (changed & (TN_PERIODIC | TN_INT_ENB | TN_LEVEL | TN_FSB_EN))
		lateness_reset(&t->late);
	if (!by_level(t))
		h->s.status &= ~BIT(n);
	t->cmp &= width_mask(t);
	t->period &= width_mask(t);
}

static void write_timer_cmp(struct hpet *h, unsigned n, u64 val, u64 mask, u64 cur)
{
	struct hpet_timer *t = &h->s.t[n];
	bool set = !(t->config & TN_PERIODIC) || t->config & TN_VAL_SET ||
		   (t->half_set && mask == BITS(63, 32));

	mask &= width_mask(t);
	if (!mask)
		return; /* the high half of 32 bits */
	t->half_set = t->config & TN_VAL_SET && mask == UINT32_MAX;
	t->config &= ~TN_VAL_SET;
	t->period = (t->period & ~mask) | (val & mask);
	if (!set)
		return;
	t->cmp = (t->cmp & ~mask) | (val & mask);
	/* A counter that stands at this very value matches. */
	t->seen = cur - 1;
}

static void reg_write(struct hpet *h, u64 reg, u64 val, u64 mask)
{
	vns_t now = clock_now(h->clk);
	u64 cur = sync(h, now);
	unsigned n = (unsigned)((reg - REG_TIMERS) / 0x20);

	if (reg == REG_CONFIG) {
		write_config(h, (h->s.config & ~mask) | val, cur, now);
	} else if (reg == REG_STATUS) {
		h->s.status &= ~val;
	} else if (reg == REG_MAIN_COUNT) {
		write_count(h, (h->s.count & ~mask) | val);
	} else if (reg >= REG_TIMERS && n < h->board.timers) {
		switch (reg & 0x1f) {
		case REG_T_CONFIG:
			write_timer_config(h, n, (h->s.t[n].config & ~mask) | val);
			break;
		case REG_T_CMP: write_timer_cmp(h, n, val, mask, cur); break;
		case REG_T_FSB:
			if (h->board.msi.send)
				h->s.t[n].fsb = (h->s.t[n].fsb & ~mask) | val;
			break;
		default: break;
		}
	}
	/* What was written may match at once. */
	sync(h, now);
	update_outputs(h);
	rearm(h);
}

static bool aligned(u64 off, unsigned size)
{
	if (!(off & (size - 1)) && off < HPET_WINDOW)
		return true;
	guest_bug("hpet", "access of %u bytes at offset %#llx", size,
		  (unsigned long long)off);
	return false;
}

static u64 hpet_read(void *dev, u64 off, unsigned size)
{
	struct hpet *h = dev;
	u64 val;

	if (!aligned(off, size))
		return size_mask(size);
	pthread_mutex_lock(&h->lock);
	if ((off & ~UINT64_C(7)) == REG_MAIN_COUNT) {
		/* Often: it is the clock source of some guests. */
		val = counter(h, clock_now(h->clk));
	} else {
		val = reg_read(h, off & ~UINT64_C(7));
		rearm(h);
	}
	pthread_mutex_unlock(&h->lock);
	return val >> (8 * (off & 7)) & size_mask(size);
}

static void hpet_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct hpet *h = dev;
	unsigned shift = 8 * (off & 7);

	if (!aligned(off, size))
		return;
	pthread_mutex_lock(&h->lock);
	reg_write(h, off & ~UINT64_C(7), (val & size_mask(size)) << shift,
		  size_mask(size) << shift);
	pthread_mutex_unlock(&h->lock);
}

const struct io_ops hpet_ops = {
	.read = hpet_read,
	.write = hpet_write,
	.sizes = IO_4 | IO_8,
};

u32 hpet_block_id(const struct hpet *h)
{
	return (u32)capabilities(h);
}

void hpet_reset(struct hpet *h)
{
	pthread_mutex_lock(&h->lock);
	h->s = (struct hpet_state){ .count_at = clock_now(h->clk) };
	for (unsigned n = 0; n < HPET_MAX_TIMERS; n++) {
		h->s.t[n].cmp = UINT64_MAX; /* 2.3.9: default all ones */
		h->s.t[n].seen = UINT64_MAX;
	}
	update_outputs(h);
	rearm(h);
	pthread_mutex_unlock(&h->lock);
}

struct hpet *hpet_new(struct clock *clk, const struct hpet_config *config)
{
	struct hpet *h = xzalloc(sizeof(*h));

	pthread_mutex_init(&h->lock, NULL);
	h->clk = clk;
	h->board = *config;
	h->board.timers = MIN(MAX(config->timers, HPET_MIN_TIMERS), HPET_MAX_TIMERS);
	h->board.periodic |= 1; /* 2.3.8: at least one timer must be able to */
	h->armed = VNS_NEVER;
	timer_init(&h->timer, clk, hpet_fire, h);
	hpet_reset(h);
	return h;
}

void hpet_free(struct hpet *h)
{
	if (!h)
		return;
	timer_cancel(&h->timer);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* State. */

/* clang-format off */
#define TIMER_FIELDS(i)                                     \
	STATE_FIELD(struct hpet_state, t[i].config, 1),     \
	STATE_FIELD(struct hpet_state, t[i].cmp, 1),        \
	STATE_FIELD(struct hpet_state, t[i].period, 1),     \
	STATE_FIELD(struct hpet_state, t[i].fsb, 1),        \
	STATE_FIELD(struct hpet_state, t[i].seen, 1),       \
	STATE_FIELD(struct hpet_state, t[i].late.owed, 1),  \
	STATE_FIELD(struct hpet_state, t[i].late.free_at, 1), \
	STATE_FIELD(struct hpet_state, t[i].half_set, 1),   \
	STATE_ARRAY(struct hpet_state, t[i].spare, 1)
/* clang-format on */

static const struct state_field hpet_fields[] = {
	STATE_FIELD(struct hpet_state, config, 1),
	STATE_FIELD(struct hpet_state, status, 1),
	STATE_FIELD(struct hpet_state, count, 1),
	STATE_FIELD(struct hpet_state, count_at, 1),
	TIMER_FIELDS(0),
	TIMER_FIELDS(1),
	TIMER_FIELDS(2),
	TIMER_FIELDS(3),
	TIMER_FIELDS(4),
	TIMER_FIELDS(5),
	TIMER_FIELDS(6),
	TIMER_FIELDS(7),
	{ 0 },
};

static bool hpet_valid(const void *state)
{
	const struct hpet_state *s = state;

	if (s->config & ~(ENABLE_CNF | LEG_RT_CNF) || s->status >= BIT(HPET_MAX_TIMERS) ||
	    s->count_at < 0 || s->count_at > TIME_MAX)
		return false;
	for (unsigned n = 0; n < HPET_MAX_TIMERS; n++) {
		const struct hpet_timer *t = &s->t[n];

		if (t->config & ~TN_WRITABLE || (t->cmp | t->period) & ~width_mask(t) ||
		    t->half_set > 1 || !lateness_valid(&t->late))
			return false;
	}
	return true;
}

const struct state_desc hpet_desc = {
	.name = "hpet",
	.size = sizeof(struct hpet_state),
	.version = 1,
	.fields = hpet_fields,
	.valid = hpet_valid,
};

void hpet_save(const struct hpet *h, struct state_buf *b)
{
	state_save(b, &hpet_desc, 0, &h->s);
}

int hpet_load(struct hpet *h, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&h->lock);
	ret = state_load(b, &hpet_desc, 0, &h->s, err);
	if (!ret) {
		update_outputs(h);
		rearm(h);
	}
	pthread_mutex_unlock(&h->lock);
	return ret;
}
