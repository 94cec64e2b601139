/*
 * Programmable interval timer, Intel 8254, three counters and port 61h.
 *
 * Intel 8254 data sheet 231164-005; port 61h as in the 82371AB (PIIX4) data sheet, "NMI
 * Status and Control". Counters are computed from the clock when read, no tick runs; a
 * timer is armed only for counter 0's next edge. Time is counted in CLK pulses since
 * virtual time 0 (PIT_HZ of them a second, exactly), so that nothing drifts.
 *
 * Missing: the analogue side. GATE is sampled when it changes, not at the CLK's rising
 * edge. After power-up no counter counts, OUT is high (data sheet: undefined). Counter 1
 * (DRAM refresh) drives nothing; the refresh toggle of port 61h has its usual period.
 * Deviation: OUT 0 in mode 2 is low for less than a microsecond; the interrupt line shows
 * that as a short low pulse at its end. A read of OUT 2 may be late once, see held_up().
 * Periods below LATE_MIN_GAP (100 us) reach the
 * interrupt line as one edge per 100 us, see time/lateness.h.
 *
 * Lock: pit->lock covers s and armed; taken on vCPU threads and the timer thread, and
 * held while the interrupt line is driven.
 */
#include "time/pit.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "time/lateness.h"

/* Control word, data sheet figure 7. */
#define CW_BCD      BIT(0)
#define CW_RW_SHIFT 4
#define CW_BITS     0x3f
#define CW_READBACK 3 /* in the counter select field */

enum { RW_LATCH, RW_LSB, RW_MSB, RW_BOTH };

/* Read-back command: latches are active low. */
#define RB_NO_STATUS BIT(4)
#define RB_NO_COUNT  BIT(5)

/* Port 61h. */
#define P61_GATE2   BIT(0)
#define P61_SPEAKER BIT(1)
#define P61_WRITE   0x0f
#define P61_REFRESH BIT(4)
#define P61_OUT2    BIT(5)

/* Counter 1 as every BIOS programs it: a refresh each 18 CLK (15.09 us). */
#define REFRESH_CLK 18

/* What held_up() takes for a loop that reads port 61h: so many reads, none later than
 * this (20 us) after the one before. */
#define POLLS    16
#define POLL_CLK 24

#define CLK_NEVER UINT64_MAX
/* Bound for streams; beyond what the clock can count. */
#define CLK_MAX   (UINT64_C(1) << 53)

/*
 * One counter. The counting element (CE) is known from a segment: it held 'count' at CLK
 * 'base' and has counted since, if 'counting'. What the CPU or GATE does ends the segment
 * at once, or at the CLK 'load', when the count register goes to the CE.
 */
struct pit_counter {
	u64 base;
	u64 load;  /* CLK_NEVER: nothing pending */
	u64 term;  /* modes 0, 1, 4, 5: CLK of terminal count; CLK_NEVER: held, none */
	u32 count; /* 0 .. 65536 */
	u32 n;     /* what was loaded last: modes 2, 3: the period; 1 .. 65536 */
	u16 cr;    /* count register */
	u16 latch;
	u8 control; /* as in the status byte: RW, mode, BCD */
	u8 gate;
	u8 have_count; /* a whole count was written since the control word */
	u8 loaded;     /* ... and has reached the CE */
	u8 counting;
	u8 out_base; /* mode 3: OUT at 'base' */
	u8 null_count;
	u8 write_msb;  /* RW_BOTH: the next write is the second */
	u8 write_lsb;  /* the first */
	u8 read_msb;   /* RW_BOTH: the next unlatched read is the second */
	u8 latch_left; /* bytes of 'latch' to be read */
	u8 status_latched;
	u8 status;
	u8 spare[7];
};

struct pit_state {
	struct pit_counter c[3];
	u64 irq_clk; /* edges of OUT 0 up to this CLK have been dealt with */
	struct lateness late;
	u8 irq_pin; /* level of the interrupt line */
	u8 port61;
	u8 spare[6];
};

struct pit {
	struct pit_state s;
	pthread_mutex_t lock;
	struct clock *clk;
	struct irq_line irq0;
	struct timer timer;
	vns_t armed; /* what the timer is armed for */
	bool cut;
	/* See held_up(). Not in the state: to forget it does no harm. */
	u64 polled_clk;
	u8 polls;
	bool polled_out;
};

/* CLK pulses that have passed at t. */
static u64 clk_at(vns_t t)
{
	u64 sec, ns;

	if (t < 0)
		return 0;
	sec = (u64)t / NSEC_PER_SEC;
	ns = (u64)t % NSEC_PER_SEC;
	return sec * PIT_HZ + ns * PIT_HZ / NSEC_PER_SEC;
}

/* First virtual time at which 'clk' pulses have passed. */
static vns_t clk_time(u64 clk)
{
	u64 sec = clk / PIT_HZ, rest = clk % PIT_HZ;

	if (clk > CLK_MAX)
		return VNS_NEVER;
	return (vns_t)(sec * NSEC_PER_SEC + (rest * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

static vns_t clk_duration(u64 n)
{
	return (vns_t)(n * NSEC_PER_SEC / PIT_HZ);
}

/* One counter: pure functions of its state and a CLK number. */

static unsigned mode_of(const struct pit_counter *c)
{
	unsigned mode = c->control >> 1 & 7;

	return mode > 5 ? mode & 3 : mode; /* X10, X11 */
}

static unsigned rw_of(const struct pit_counter *c)
{
	return c->control >> CW_RW_SHIFT & 3;
}

static bool periodic(const struct pit_counter *c)
{
	return mode_of(c) == 2 || mode_of(c) == 3;
}

/* Counts until CE returns to the same value. */
static u32 modulus(const struct pit_counter *c)
{
	return c->control & CW_BCD ? 10000 : 65536;
}

static u32 count_of_reg(const struct pit_counter *c)
{
	u32 n = c->cr;

	/* Digits above 9 count as what they are worth: the chip does not check. */
	if (c->control & CW_BCD)
		n = (n >> 12) * 1000 + (n >> 8 & 15) * 100 + (n >> 4 & 15) * 10 +
		    (n & 15);
	return n ? n : modulus(c);
}

static u16 reg_of_count(const struct pit_counter *c, u32 n)
{
	if (!(c->control & CW_BCD))
		return (u16)n;
	n %= 10000;
	return (u16)(n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

static u64 elapsed(const struct pit_counter *c, u64 k)
{
	return k > c->base ? k - c->base : 0;
}

/* Mode 3: CLKs of the half in which the segment began; of an odd count, high is longer.
 */
static u32 first_half(const struct pit_counter *c)
{
	return c->out_base ? (c->n + 1) / 2 : c->n / 2;
}

static u32 count_at(const struct pit_counter *c, u64 k)
{
	u64 j = elapsed(c, k);
	u32 p;

	if (!c->counting)
		return c->count;
	switch (mode_of(c)) {
	case 2: return c->n - (u32)(j % c->n);
	case 3:
		p = (u32)(j % c->n);
		if (p >= first_half(c))
			p -= first_half(c);
		return (c->n & ~1u) - 2 * p;
	default: return (u32)((c->count + modulus(c) - j % modulus(c)) % modulus(c));
	}
}

static bool out_at(const struct pit_counter *c, u64 k)
{
	u64 j = elapsed(c, k);

	switch (mode_of(c)) {
	case 0: return k >= c->term;
	case 1: return !c->loaded || k >= c->term;
	/* A count of 1 is illegal in mode 2 and leaves OUT low; in mode 3, high. */
	case 2: return !c->counting || j % c->n != c->n - 1;
	case 3:
		return !c->counting || c->n == 1 ||
		       (j % c->n < first_half(c)) == c->out_base;
	default: return k != c->term;
	}
}

/* First CLK after k at which OUT rises, or falls (mode 3 only), in this segment. */
static u64 segment_edge(const struct pit_counter *c, u64 k, bool rise)
{
	u64 first;

	switch (mode_of(c)) {
	case 0:
	case 1: return rise && k < c->term ? c->term : CLK_NEVER;
	case 2:
	case 3:
		if (!c->counting || c->n == 1 || (!rise && mode_of(c) == 2))
			return CLK_NEVER;
		/* The end of the first half or period, and every period after. */
		first = mode_of(c) == 3 && rise != c->out_base ? first_half(c) : c->n;
		first += c->base;
		return k < first ? first : first + ((k - first) / c->n + 1) * c->n;
	default:
		if (!rise || c->term == CLK_NEVER || k > c->term)
			return CLK_NEVER;
		return c->term + 1;
	}
}

/* How often OUT rises in (from, to] of this segment. */
static u64 segment_rises(const struct pit_counter *c, u64 from, u64 to)
{
	u64 first = segment_edge(c, from, true);

	if (first > to)
		return 0;
	return periodic(c) ? (to - first) / c->n + 1 : 1;
}

/* The pending load happens: a new segment at CLK 'load'. */
static void counter_load(struct pit_counter *c)
{
	unsigned mode = mode_of(c);

	c->out_base = out_at(c, c->load);
	c->base = c->load;
	c->n = count_of_reg(c);
	c->count = mode == 3 ? c->n & ~1u : c->n;
	c->loaded = 1;
	c->null_count = 0;
	c->load = CLK_NEVER;
	/* GATE is a level in modes 0, 2, 3, 4 and an edge, which has been, in 1 and 5. */
	c->counting = mode == 1 || mode == 5 || (c->gate && !(mode == 0 && c->write_msb));
	c->term = c->counting && !periodic(c) ? c->base + c->n : CLK_NEVER;
}

/* Bring the counter to CLK k; how often OUT rose in (from, k]. */
static u64 counter_advance(struct pit_counter *c, u64 from, u64 k)
{
	u64 rises = 0;

	if (c->load <= k) {
		u64 at = c->load;
		bool before = out_at(c, at - 1);

		if (at > from)
			rises = segment_rises(c, from, at - 1);
		counter_load(c);
		rises += at > from && !before && out_at(c, at);
		from = MAX(from, at);
	}
	return rises + segment_rises(c, from, k);
}

/* First edge after k, looking through a pending load. By value: this is a rehearsal. */
static u64 counter_edge(struct pit_counter c, u64 k, bool rise)
{
	u64 edge = segment_edge(&c, k, rise), at = c.load;
	bool before;

	if (at == CLK_NEVER || edge < at)
		return edge;
	before = out_at(&c, at - 1);
	counter_load(&c);
	if (before != rise && out_at(&c, at) == rise)
		return at;
	return segment_edge(&c, at, rise);
}

/* Counting stops at k with GATE, or between the two bytes of a count in mode 0. */
static void counter_hold(struct pit_counter *c, u64 k)
{
	u32 count = count_at(c, k);

	if (!c->counting)
		return;
	if (c->term != CLK_NEVER && k < c->term) {
		/* The same, but 65536 and not 0; a loaded state may say anything. */
		count = (u32)MIN(c->term - k, 65536);
		c->term = CLK_NEVER;
	}
	c->count = count;
	c->base = k;
	c->counting = 0;
}

/* ... and goes on: modes 0 and 4. */
static void counter_resume(struct pit_counter *c, u64 k)
{
	if (c->counting || !c->loaded || (mode_of(c) == 0 && c->write_msb))
		return;
	c->base = k;
	c->counting = 1;
	/* A terminal count in the past stays there. A pending load sets its own. */
	if (c->term == CLK_NEVER && c->load == CLK_NEVER)
		c->term = k + c->count;
}

static void counter_set_control(struct pit_counter *c, u64 k, u8 control)
{
	c->count = count_at(c, k); /* what a read finds before the next count is loaded */
	c->base = k;
	c->control = control;
	c->load = CLK_NEVER;
	c->term = CLK_NEVER;
	c->have_count = 0;
	c->loaded = 0;
	c->counting = 0;
	c->null_count = 1;
	c->write_msb = 0;
	c->read_msb = 0;
	c->latch_left = 0;
	c->status_latched = 0;
}

/* A whole count was written. */
static void counter_set_count(struct pit_counter *c, u64 k, u16 cr)
{
	c->cr = cr;
	c->have_count = 1;
	c->null_count = 1;
	switch (mode_of(c)) {
	case 0:
		c->term = CLK_NEVER; /* OUT goes low, needing no CLK */
		c->load = k + 1;
		break;
	case 2:
	case 3:
		/*
		 * The first count at the next CLK, later ones at the end of the period or
		 * half-cycle; held by GATE, at the trigger that ends that.
		 */
		if (c->load != CLK_NEVER)
			break;
		if (!c->loaded || (c->counting && c->n == 1))
			c->load = k + 1;
		else if (c->counting)
			c->load =
				MIN(segment_edge(c, k, true), segment_edge(c, k, false));
		break;
	case 4: c->load = k + 1; break;
	default: break; /* 1, 5: at the next trigger */
	}
}

static void counter_write(struct pit_counter *c, u64 k, u8 val)
{
	switch (rw_of(c)) {
	case RW_LSB: counter_set_count(c, k, val); return;
	case RW_MSB: counter_set_count(c, k, (u16)(val << 8)); return;
	default: break;
	}
	if (c->write_msb) {
		c->write_msb = 0;
		counter_set_count(c, k, (u16)(val << 8 | c->write_lsb));
		return;
	}
	c->write_lsb = val;
	c->write_msb = 1;
	if (mode_of(c) == 0) {
		/* The first byte disables counting and sets OUT low. */
		counter_hold(c, k);
		c->term = CLK_NEVER;
	}
}

static void counter_latch_count(struct pit_counter *c, u64 k)
{
	if (c->latch_left)
		return; /* still held from an earlier command */
	c->latch = reg_of_count(c, count_at(c, k));
	c->latch_left = rw_of(c) == RW_BOTH ? 2 : 1;
}

static void counter_latch_status(struct pit_counter *c, u64 k)
{
	if (c->status_latched)
		return;
	c->status_latched = 1;
	c->status = (u8)(out_at(c, k) << 7 | c->null_count << 6 | c->control);
}

static u8 counter_read(struct pit_counter *c, u64 k)
{
	unsigned rw = rw_of(c);
	u16 val;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->latch_left) {
		bool msb = rw == RW_MSB || (rw == RW_BOTH && c->latch_left == 1);

		c->latch_left--;
		return (u8)(msb ? c->latch >> 8 : c->latch);
	}
	val = reg_of_count(c, count_at(c, k));
	if (rw == RW_BOTH) {
		c->read_msb ^= 1;
		return (u8)(c->read_msb ? val : val >> 8);
	}
	return (u8)(rw == RW_MSB ? val >> 8 : val);
}

static void counter_set_gate(struct pit_counter *c, u64 k, bool level)
{
	if (c->gate == level)
		return;
	c->gate = level;
	switch (mode_of(c)) {
	case 0:
	case 4:
		if (level)
			counter_resume(c, k);
		else
			counter_hold(c, k);
		break;
	case 2:
	case 3:
		if (level) {
			if (c->have_count)
				c->load = k + 1;
		} else if (c->counting) {
			/* The period at whose end a load may be due never ends. */
			c->load = CLK_NEVER;
			counter_hold(c, k);
		}
		break;
	default: /* 1, 5: a trigger */
		if (level && c->have_count)
			c->load = k + 1;
		break;
	}
}

/* The chip. All under p->lock. */

static u64 clk_now(struct pit *p)
{
	return clk_at(clock_now(p->clk));
}

static void pin_set(struct pit *p, bool level)
{
	if (p->s.irq_pin == level)
		return;
	p->s.irq_pin = level;
	if (!p->cut)
		irq_set(&p->irq0, level);
}

/* A rising edge, whatever the level was. */
static void pin_edge(struct pit *p)
{
	pin_set(p, false);
	pin_set(p, true);
}

/* Falling edges of mode 3 are shown when they cost one timer per LATE_MIN_GAP at most. */
static bool shows_falls(const struct pit_counter *c)
{
	return mode_of(c) == 3 && clk_duration(c->n / 2) >= LATE_MIN_GAP;
}

static void rearm(struct pit *p, u64 k)
{
	struct pit_counter *c = &p->s.c[0];
	vns_t when = clk_time(counter_edge(*c, k, true));

	if (periodic(c))
		when = lateness_deadline(&p->s.late, when);
	if (p->s.irq_pin && shows_falls(c))
		when = MIN(when, clk_time(counter_edge(*c, k, false)));
	if (when == p->armed)
		return;
	p->armed = when;
	timer_arm(&p->timer, when);
}

/* Deliver counter 0's edges up to now. Returns the CLK. */
static u64 irq_update(struct pit *p)
{
	struct pit_counter *c = &p->s.c[0];
	vns_t now = clock_now(p->clk);
	u64 k = clk_at(now), rises = counter_advance(c, p->s.irq_clk, k);
	vns_t period = clk_duration(c->n); /* the one that runs now */
	bool edge;

	p->s.irq_clk = k;
	if (periodic(c)) {
		lateness_add(&p->s.late, rises, period);
		edge = lateness_take(&p->s.late, now, period);
	} else {
		edge = rises;
	}
	if (edge)
		pin_edge(p);
	else if (shows_falls(c) && !out_at(c, k))
		pin_set(p, false);
	return k;
}

/* Before and after something that may change counter n at once. Returns the CLK. */
static u64 counter_enter(struct pit *p, unsigned n, bool *out)
{
	u64 k;

	if (n == 0) {
		k = irq_update(p);
	} else {
		k = clk_now(p);
		counter_advance(&p->s.c[n], k, k);
	}
	*out = out_at(&p->s.c[n], k);
	return k;
}

static void counter_leave(struct pit *p, unsigned n, u64 k, bool out)
{
	bool now = out_at(&p->s.c[n], k);

	if (n != 0)
		return;
	if (!periodic(&p->s.c[0]))
		lateness_reset(&p->s.late);
	if (now && !out)
		pin_edge(p);
	else if (!now && out)
		pin_set(p, false);
	rearm(p, k);
}

static void pit_fire(void *opaque, vns_t deadline)
{
	struct pit *p = opaque;

	(void)deadline;
	pthread_mutex_lock(&p->lock);
	p->armed = VNS_NEVER;
	rearm(p, irq_update(p));
	pthread_mutex_unlock(&p->lock);
}

static void write_readback(struct pit *p, u8 val)
{
	u64 k = clk_now(p);

	for (unsigned n = 0; n < 3; n++) {
		if (!(val & 2 << n))
			continue;
		if (n == 0)
			k = irq_update(p);
		else
			counter_advance(&p->s.c[n], k, k);
		if (!(val & RB_NO_COUNT))
			counter_latch_count(&p->s.c[n], k);
		if (!(val & RB_NO_STATUS))
			counter_latch_status(&p->s.c[n], k);
		if (n == 0)
			rearm(p, k);
	}
}

static void write_control(struct pit *p, u8 val)
{
	unsigned n = val >> 6;
	bool out;
	u64 k;

	if (n == CW_READBACK) {
		write_readback(p, val);
		return;
	}
	k = counter_enter(p, n, &out);
	if ((val >> CW_RW_SHIFT & 3) == RW_LATCH) {
		counter_latch_count(&p->s.c[n], k);
	} else {
		counter_set_control(&p->s.c[n], k, val & CW_BITS);
		if (n == 0)
			lateness_reset(&p->s.late);
	}
	counter_leave(p, n, k, out);
}

static u64 pit_read(void *dev, u64 off, unsigned size)
{
	struct pit *p = dev;
	bool out;
	u64 k;
	u8 val;

	(void)size;
	if (off >= 3)
		return 0xff; /* control word: "no operation", the bus floats */
	pthread_mutex_lock(&p->lock);
	k = counter_enter(p, (unsigned)off, &out);
	val = counter_read(&p->s.c[off], k);
	counter_leave(p, (unsigned)off, k, out);
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void pit_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pit *p = dev;
	bool out;
	u64 k;

	(void)size;
	if (off > 3)
		return;
	pthread_mutex_lock(&p->lock);
	p->polls = 0; /* OUT 2 may rise by this */
	if (off == 3) {
		write_control(p, (u8)val);
	} else {
		k = counter_enter(p, (unsigned)off, &out);
		counter_write(&p->s.c[off], k, (u8)val);
		counter_leave(p, (unsigned)off, k, out);
	}
	pthread_mutex_unlock(&p->lock);
}

const struct io_ops pit_ops = { .read = pit_read, .write = pit_write, .sizes = IO_1 };

/*
 * Whether OUT 2 rose while the host held up a loop that reads it all the time. The loop
 * measures another clock: Linux takes the TSC's frequency from its last look at it
 * before the read that shows OUT 2 high, does not see a pause between the two, and had a
 * clock 50 times too fast. So the read counts as one before the pause: the next look
 * then shows the pause, and the next read OUT 2.
 */
static bool held_up(struct pit *p, u64 k, bool out)
{
	bool dense = k - p->polled_clk <= POLL_CLK;
	bool held = !dense && p->polls == POLLS && out && !p->polled_out;

	p->polls = dense ? (u8)MIN(p->polls + 1, POLLS) : 0;
	p->polled_clk = k;
	p->polled_out = out && !held;
	return held;
}

static u64 port61_read(void *dev, u64 off, unsigned size)
{
	struct pit *p = dev;
	bool out;
	u64 k;
	u8 val;

	(void)off;
	(void)size;
	pthread_mutex_lock(&p->lock);
	k = counter_enter(p, 2, &out);
	val = p->s.port61;
	if (k / REFRESH_CLK & 1)
		val |= P61_REFRESH;
	if (!held_up(p, k, out) && out)
		val |= P61_OUT2;
	pthread_mutex_unlock(&p->lock);
	return val;
}

static void port61_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pit *p = dev;
	bool out;
	u64 k;

	(void)off;
	(void)size;
	pthread_mutex_lock(&p->lock);
	p->polls = 0; /* OUT 2 may rise by this */
	p->s.port61 = val & P61_WRITE;
	k = counter_enter(p, 2, &out);
	counter_set_gate(&p->s.c[2], k, val & P61_GATE2);
	pthread_mutex_unlock(&p->lock);
}

const struct io_ops pit_port61_ops = {
	.read = port61_read,
	.write = port61_write,
	.sizes = IO_1,
};

void pit_set_gate(struct pit *p, unsigned counter, bool level)
{
	bool out;
	u64 k;

	if (counter > 2)
		return;
	pthread_mutex_lock(&p->lock);
	k = counter_enter(p, counter, &out);
	counter_set_gate(&p->s.c[counter], k, level);
	counter_leave(p, counter, k, out);
	pthread_mutex_unlock(&p->lock);
}

bool pit_out(struct pit *p, unsigned counter)
{
	bool out;
	u64 k;

	if (counter > 2)
		return true;
	pthread_mutex_lock(&p->lock);
	k = counter_enter(p, counter, &out);
	counter_leave(p, counter, k, out);
	pthread_mutex_unlock(&p->lock);
	return out;
}

bool pit_speaker(struct pit *p)
{
	bool on;

	pthread_mutex_lock(&p->lock);
	on = p->s.port61 & P61_SPEAKER;
	pthread_mutex_unlock(&p->lock);
	return on;
}

void pit_cut_irq0(struct pit *p, bool cut)
{
	pthread_mutex_lock(&p->lock);
	if (p->cut != cut && p->s.irq_pin)
		irq_set(&p->irq0, !cut);
	p->cut = cut;
	pthread_mutex_unlock(&p->lock);
}

void pit_reset(struct pit *p)
{
	pthread_mutex_lock(&p->lock);
	p->s = (struct pit_state){ .irq_clk = clk_now(p), .irq_pin = p->s.irq_pin };
	for (unsigned n = 0; n < 3; n++)
		p->s.c[n] = (struct pit_counter){
			.base = p->s.irq_clk,
			.load = CLK_NEVER,
			.term = CLK_NEVER,
			.n = 65536,
			.control = RW_BOTH << CW_RW_SHIFT | 3 << 1,
			.gate = n != 2,
			.null_count = 1,
		};
	pin_set(p, true);
	rearm(p, p->s.irq_clk);
	pthread_mutex_unlock(&p->lock);
}

struct pit *pit_new(struct clock *clk, struct irq_line irq0)
{
	struct pit *p = xzalloc(sizeof(*p));

	pthread_mutex_init(&p->lock, NULL);
	p->clk = clk;
	p->irq0 = irq0;
	p->armed = VNS_NEVER;
	timer_init(&p->timer, clk, pit_fire, p);
	pit_reset(p);
	return p;
}

void pit_free(struct pit *p)
{
	if (!p)
		return;
	timer_cancel(&p->timer);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* State. */

/* clang-format off */
#define COUNTER_FIELDS(i)                                       \
	STATE_FIELD(struct pit_state, c[i].base, 1),            \
	STATE_FIELD(struct pit_state, c[i].load, 1),            \
	STATE_FIELD(struct pit_state, c[i].term, 1),            \
	STATE_FIELD(struct pit_state, c[i].count, 1),           \
	STATE_FIELD(struct pit_state, c[i].n, 1),               \
	STATE_FIELD(struct pit_state, c[i].cr, 1),              \
	STATE_FIELD(struct pit_state, c[i].latch, 1),           \
	STATE_FIELD(struct pit_state, c[i].control, 1),         \
	STATE_FIELD(struct pit_state, c[i].gate, 1),            \
	STATE_FIELD(struct pit_state, c[i].have_count, 1),      \
	STATE_FIELD(struct pit_state, c[i].loaded, 1),          \
	STATE_FIELD(struct pit_state, c[i].counting, 1),        \
	STATE_FIELD(struct pit_state, c[i].out_base, 1),        \
	STATE_FIELD(struct pit_state, c[i].null_count, 1),      \
	STATE_FIELD(struct pit_state, c[i].write_msb, 1),       \
	STATE_FIELD(struct pit_state, c[i].write_lsb, 1),       \
	STATE_FIELD(struct pit_state, c[i].read_msb, 1),        \
	STATE_FIELD(struct pit_state, c[i].latch_left, 1),      \
	STATE_FIELD(struct pit_state, c[i].status_latched, 1),  \
	STATE_FIELD(struct pit_state, c[i].status, 1),          \
	STATE_ARRAY(struct pit_state, c[i].spare, 1)
/* clang-format on */

static const struct state_field pit_fields[] = {
	COUNTER_FIELDS(0),
	COUNTER_FIELDS(1),
	COUNTER_FIELDS(2),
	STATE_FIELD(struct pit_state, irq_clk, 1),
	STATE_FIELD(struct pit_state, late.owed, 1),
	STATE_FIELD(struct pit_state, late.free_at, 1),
	STATE_FIELD(struct pit_state, irq_pin, 1),
	STATE_FIELD(struct pit_state, port61, 1),
	STATE_ARRAY(struct pit_state, spare, 1),
	{ 0 },
};

static bool counter_valid(const struct pit_counter *c)
{
	return c->base <= CLK_MAX && (c->load <= CLK_MAX || c->load == CLK_NEVER) &&
	       c->load != 0 && (c->term <= CLK_MAX || c->term == CLK_NEVER) &&
	       c->count <= 65536 && c->n >= 1 && c->n <= 65536 && c->control <= CW_BITS &&
	       rw_of(c) != RW_LATCH && c->gate <= 1 && c->have_count <= 1 &&
	       c->loaded <= 1 && c->counting <= 1 && c->out_base <= 1 &&
	       c->null_count <= 1 && c->write_msb <= 1 && c->read_msb <= 1 &&
	       c->latch_left <= 2 && c->status_latched <= 1;
}

static bool pit_valid(const void *state)
{
	const struct pit_state *s = state;

	return counter_valid(&s->c[0]) && counter_valid(&s->c[1]) &&
	       counter_valid(&s->c[2]) && s->irq_clk <= CLK_MAX &&
	       lateness_valid(&s->late) && s->irq_pin <= 1 && s->port61 <= P61_WRITE &&
	       s->c[2].gate == (s->port61 & P61_GATE2);
}

const struct state_desc pit_desc = {
	.name = "pit",
	.size = sizeof(struct pit_state),
	.version = 1,
	.fields = pit_fields,
	.valid = pit_valid,
};

void pit_save(const struct pit *p, struct state_buf *b)
{
	state_save(b, &pit_desc, 0, &p->s);
}

int pit_load(struct pit *p, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&p->lock);
	ret = state_load(b, &pit_desc, 0, &p->s, err);
	if (!ret) {
		if (!p->cut)
			irq_set(&p->irq0, p->s.irq_pin);
		rearm(p, clk_now(p));
	}
	pthread_mutex_unlock(&p->lock);
	return ret;
}
