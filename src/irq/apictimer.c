/*
 * Timer of the local APIC: one-shot, periodic and TSC-deadline mode.
 *
 * Intel SDM vol. 3, 11.5.4 and 11.5.4.1. Counts are computed from the clock when
 * read; one timer is armed, for the next unmasked expiry. Expiry n of a running
 * count is at origin + (first + n * initial) counts, in exact arithmetic from the
 * same origin, so a periodic timer does not drift. Expiries that were missed
 * (host late, masked, period below APICTIMER_MIN_NS) coalesce into one.
 *
 * An expiry is dealt with by whoever sees it first, the thread that the timer fires on
 * or the vCPU that reads a count, so a guest never reads 0 before its interrupt is
 * pending. Missing: the reaction of the count to C-states (we claim CPUID.06H:EAX.ARAT).
 * Lock: t->lock, on vCPU threads and the timer thread; expired() runs under it.
 */
#include "irq/apictimer.h"

#include <string.h>

/* Input clocks per count, SDM figure 11-10: DCR bits 3, 1, 0. */
static u32 divisor(u8 dcr)
{
	unsigned n = ((dcr >> 1) & 4) | (dcr & 3);

	return n == 7 ? 1 : 2u << n;
}

/* Whole counts in ns; ns >= 0. */
static u128 counts_in(const struct apictimer *t, vns_t ns)
{
	return (u128)(u64)ns * t->hz / ((u64)divisor((u8)t->s.divide) * NSEC_PER_SEC);
}

/* First nanosecond since origin at which that many counts have gone by; saturates. */
static vns_t ns_of(const struct apictimer *t, u128 counts)
{
	u128 ns;

	/* 2^90 counts of 2^37 ns fit; more are beyond the end of time at any rate. */
	if (counts >> 90)
		return VNS_NEVER;
	ns = (counts * ((u64)divisor((u8)t->s.divide) * NSEC_PER_SEC) + t->hz - 1) /
	     t->hz;
	return ns > (u128)INT64_MAX ? VNS_NEVER : (vns_t)ns;
}

static vns_t add_ns(vns_t a, vns_t b)
{
	vns_t sum;

	return b == VNS_NEVER || __builtin_add_overflow(a, b, &sum) ? VNS_NEVER : sum;
}

static vns_t since_origin(const struct apictimer *t, vns_t now)
{
	vns_t ns;

	if (now <= t->s.origin)
		return 0;
	return __builtin_sub_overflow(now, t->s.origin, &ns) ? VNS_NEVER : ns;
}

/* Virtual time of expiry n, from 0. */
static vns_t expiry(const struct apictimer *t, u64 n)
{
	return add_ns(t->s.origin, ns_of(t, t->s.first + (u128)n * t->s.initial));
}

/* How many expiries lie in the past at 'now'. */
static u64 expiries(const struct apictimer *t, vns_t now)
{
	u128 counts = counts_in(t, since_origin(t, now));

	if (counts < t->s.first)
		return 0;
	if (t->s.mode != APICTIMER_PERIODIC || !t->s.initial)
		return 1;
	counts = 1 + (counts - t->s.first) / t->s.initial;
	return counts > UINT64_MAX ? UINT64_MAX : (u64)counts;
}

static u32 current(const struct apictimer *t, vns_t now)
{
	u128 counts;

	if (!t->s.running)
		return 0;
	counts = counts_in(t, since_origin(t, now));
	if (counts < t->s.first)
		return t->s.first - (u32)counts;
	if (t->s.mode != APICTIMER_PERIODIC || !t->s.initial)
		return 0;
	return t->s.initial - (u32)((counts - t->s.first) % t->s.initial);
}

static void expired(struct apictimer *t)
{
	if (!t->s.masked)
		t->ops->expired(t->opaque);
}

/* Deal with what has expired by now. */
static void catch_up(struct apictimer *t, vns_t now)
{
	if (t->s.mode == APICTIMER_DEADLINE) {
		if (t->s.tsc_deadline &&
		    t->ops->vns_to_tsc(t->opaque, now) >= t->s.tsc_deadline) {
			t->s.tsc_deadline = 0;
			expired(t);
		}
	} else if (t->s.running) {
		u64 n = expiries(t, now);

		if (n <= t->s.fired)
			return;
		t->s.fired = n;
		t->s.running = t->s.mode == APICTIMER_PERIODIC && t->s.initial;
		expired(t);
	}
}

/* Arm for the next expiry that interrupts, if any. */
static void rearm(struct apictimer *t, vns_t now)
{
	vns_t at = VNS_NEVER;

	if (t->s.masked) {
		/* Seen when somebody looks. */
	} else if (t->s.mode == APICTIMER_DEADLINE) {
		/* In the past by rounding: catch_up() has just seen that it is not. */
		if (t->s.tsc_deadline) {
			at = t->ops->tsc_to_vns(t->opaque, t->s.tsc_deadline);
			at = MAX(at, now + 1);
		}
	} else if (t->s.running) {
		at = expiry(t, t->s.fired);
		if (t->s.mode == APICTIMER_PERIODIC && t->s.fired)
			at = MAX(at, add_ns(now, APICTIMER_MIN_NS));
	}
	if (at == VNS_NEVER)
		timer_cancel(&t->t);
	else
		timer_arm(&t->t, at);
}

static void fire(void *opaque, vns_t deadline)
{
	struct apictimer *t = opaque;
	vns_t now;

	(void)deadline;
	pthread_mutex_lock(&t->lock);
	now = clock_now(t->clk);
	catch_up(t, now);
	rearm(t, now);
	pthread_mutex_unlock(&t->lock);
}

void apictimer_init(struct apictimer *t, struct clock *clk, u64 hz,
		    const struct apictimer_ops *ops, void *opaque)
{
	memset(t, 0, sizeof(*t));
	pthread_mutex_init(&t->lock, NULL);
	t->clk = clk;
	t->hz = hz;
	t->ops = ops;
	t->opaque = opaque;
	t->s.masked = 1;
	timer_init(&t->t, clk, fire, t);
}

void apictimer_fini(struct apictimer *t)
{
	timer_cancel(&t->t);
	pthread_mutex_destroy(&t->lock);
}

struct bell *apictimer_bell(struct apictimer *t, void (*ring)(void *opaque), void *opaque)
{
	return bell_new(&t->t, ring, opaque);
}

void apictimer_reset(struct apictimer *t)
{
	pthread_mutex_lock(&t->lock);
	memset(&t->s, 0, sizeof(t->s));
	t->s.masked = 1;
	timer_cancel(&t->t);
	pthread_mutex_unlock(&t->lock);
}

/*
 * Start counting anew from what is left now, before the divisor or the mode
 * changes. The phase within a count is kept to the nanosecond.
 */
static void rebase(struct apictimer *t, vns_t now)
{
	u32 left = current(t, now);

	if (t->s.running) {
		u128 counts = counts_in(t, since_origin(t, now));

		t->s.origin = MIN(add_ns(t->s.origin, ns_of(t, counts)), now);
	}
	t->s.first = left;
	t->s.fired = 0;
	t->s.running = left != 0;
}

/*
 * 11.5.4.1: going to or from TSC-deadline mode disarms the timer. Between one-shot and
 * periodic the count goes on, and one that has ended stays at 0.
 */
void apictimer_set_lvt(struct apictimer *t, unsigned mode, bool masked)
{
	vns_t now;

	pthread_mutex_lock(&t->lock);
	now = clock_now(t->clk);
	catch_up(t, now);
	if (mode != t->s.mode) {
		bool counts =
			mode <= APICTIMER_PERIODIC && t->s.mode <= APICTIMER_PERIODIC;

		if (counts) {
			rebase(t, now);
		} else {
			t->s.running = 0;
			t->s.initial = 0;
			t->s.tsc_deadline = 0;
		}
		t->s.mode = (u16)mode;
	}
	t->s.masked = masked;
	rearm(t, now);
	pthread_mutex_unlock(&t->lock);
}

/* 11.5.4.1: ignored in TSC-deadline mode. Otherwise starts the count; 0 stops it. */
void apictimer_write_initial(struct apictimer *t, u32 count)
{
	vns_t now;

	pthread_mutex_lock(&t->lock);
	if (t->s.mode <= APICTIMER_PERIODIC) {
		now = clock_now(t->clk);
		/* What expired before this write happened before it. */
		catch_up(t, now);
		t->s.initial = count;
		t->s.first = count;
		t->s.origin = now;
		t->s.fired = 0;
		t->s.running = count != 0;
		rearm(t, now);
	}
	pthread_mutex_unlock(&t->lock);
}

void apictimer_write_divide(struct apictimer *t, u8 dcr)
{
	vns_t now;

	pthread_mutex_lock(&t->lock);
	now = clock_now(t->clk);
	catch_up(t, now);
	if ((dcr & 0xb) != t->s.divide) {
		rebase(t, now);
		t->s.divide = dcr & 0xb;
		rearm(t, now);
	}
	pthread_mutex_unlock(&t->lock);
}

u32 apictimer_read_initial(struct apictimer *t)
{
	u32 v;

	pthread_mutex_lock(&t->lock);
	v = t->s.initial;
	pthread_mutex_unlock(&t->lock);
	return v;
}

u32 apictimer_read_current(struct apictimer *t)
{
	vns_t now;
	u32 v = 0;

	pthread_mutex_lock(&t->lock);
	if (t->s.running) {
		now = clock_now(t->clk);
		catch_up(t, now);
		v = current(t, now);
	}
	pthread_mutex_unlock(&t->lock);
	return v;
}

u8 apictimer_read_divide(struct apictimer *t)
{
	u8 v;

	pthread_mutex_lock(&t->lock);
	v = (u8)t->s.divide;
	pthread_mutex_unlock(&t->lock);
	return v;
}

void apictimer_write_deadline(struct apictimer *t, u64 tsc)
{
	vns_t now;

	pthread_mutex_lock(&t->lock);
	if (t->s.mode == APICTIMER_DEADLINE && t->ops->tsc_to_vns) {
		now = clock_now(t->clk);
		/* An earlier deadline that is due was due before this write. */
		catch_up(t, now);
		t->s.tsc_deadline = tsc;
		catch_up(t, now);
		rearm(t, now);
	}
	pthread_mutex_unlock(&t->lock);
}

u64 apictimer_read_deadline(struct apictimer *t)
{
	u64 v;

	pthread_mutex_lock(&t->lock);
	catch_up(t, clock_now(t->clk));
	v = t->s.tsc_deadline;
	pthread_mutex_unlock(&t->lock);
	return v;
}

void apictimer_tsc_changed(struct apictimer *t)
{
	vns_t now;

	pthread_mutex_lock(&t->lock);
	now = clock_now(t->clk);
	catch_up(t, now);
	rearm(t, now);
	pthread_mutex_unlock(&t->lock);
}

static const struct state_field apictimer_fields[] = {
	STATE_FIELD(struct apictimer_state, origin, 1),
	STATE_FIELD(struct apictimer_state, fired, 1),
	STATE_FIELD(struct apictimer_state, tsc_deadline, 1),
	STATE_FIELD(struct apictimer_state, initial, 1),
	STATE_FIELD(struct apictimer_state, first, 1),
	STATE_FIELD(struct apictimer_state, running, 1),
	STATE_FIELD(struct apictimer_state, mode, 1),
	STATE_FIELD(struct apictimer_state, divide, 1),
	STATE_FIELD(struct apictimer_state, masked, 1),
	{ 0 },
};

static bool apictimer_valid(const void *state)
{
	const struct apictimer_state *s = state;

	return s->running <= 1 && s->masked <= 1 && s->mode <= APICTIMER_RESERVED &&
	       !(s->divide & ~0xb) && (!s->running || s->mode <= APICTIMER_PERIODIC) &&
	       (!s->running || s->first) &&
	       (!s->tsc_deadline || s->mode == APICTIMER_DEADLINE);
}

const struct state_desc apictimer_desc = {
	.name = "apictimer",
	.size = sizeof(struct apictimer_state),
	.version = 1,
	.fields = apictimer_fields,
	.valid = apictimer_valid,
};

void apictimer_save(const struct apictimer *t, struct state_buf *b, u32 instance)
{
	state_save(b, &apictimer_desc, instance, &t->s);
}

int apictimer_load(struct apictimer *t, struct state_buf *b, u32 instance,
		   struct error *err)
{
	int ret;

	pthread_mutex_lock(&t->lock);
	ret = state_load(b, &apictimer_desc, instance, &t->s, err);
	if (!ret) {
		/* Nothing can expire in a deadline mode that this machine does not have.
		 */
		if (!t->ops->tsc_to_vns)
			t->s.tsc_deadline = 0;
		rearm(t, clock_now(t->clk));
	}
	pthread_mutex_unlock(&t->lock);
	return ret;
}
