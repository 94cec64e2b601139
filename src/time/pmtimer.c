/*
 * ACPI power management timer: 24 or 32 bits at 3.579545 MHz.
 *
 * ACPI 6.4, 4.8.2.1 "Power Management Timer" and 4.8.4.3. The counter is computed from
 * the clock when read. TMR_STS is set whenever the top bit changes; it too is computed,
 * by comparing how often the bit has changed with how often it had when the guest last
 * cleared the status. A timer is armed only while TMR_EN is set.
 *
 * Lock: p->lock covers s; taken on vCPU threads and the timer thread. The notify callback
 * is called without it.
 */
#include "time/pmtimer.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"

/* Bound for streams; the clock stays below it. */
#define TIME_MAX (INT64_C(1) << 62)

struct pmtimer_state {
	i64 zero_ns; /* virtual time at which the counter read zero */
	u64 cleared; /* changes of the top bit when the status was last cleared */
	u64 enabled; /* TMR_EN as told */
};

struct pmtimer {
	struct pmtimer_state s;
	pthread_mutex_t lock;
	struct clock *clk;
	struct timer timer;
	unsigned bits;
	void (*notify)(void *opaque);
	void *opaque;
};

static u64 ticks(struct pmtimer *p)
{
	vns_t t = clock_now(p->clk) - p->s.zero_ns;

	return t > 0 ? muldiv64((u64)t, PMTIMER_HZ, NSEC_PER_SEC) : 0;
}

/* How often the top bit has changed. */
static u64 changes(struct pmtimer *p)
{
	return ticks(p) >> (p->bits - 1);
}

static void rearm(struct pmtimer *p)
{
	u64 now = changes(p);
	u128 at;

	if (!p->s.enabled || now != p->s.cleared) {
		timer_cancel(&p->timer);
		return;
	}
	at = ((u128)(now + 1) << (p->bits - 1)) * NSEC_PER_SEC;
	at = (at + PMTIMER_HZ - 1) / PMTIMER_HZ + (u64)p->s.zero_ns;
	timer_arm(&p->timer, at < (u128)VNS_NEVER ? (vns_t)at : VNS_NEVER);
}

static void pmtimer_fire(void *opaque, vns_t deadline)
{
	struct pmtimer *p = opaque;
	bool tell;

	(void)deadline;
	pthread_mutex_lock(&p->lock);
	tell = p->s.enabled && changes(p) != p->s.cleared;
	rearm(p);
	pthread_mutex_unlock(&p->lock);
	if (tell && p->notify)
		p->notify(p->opaque);
}

u32 pmtimer_count(struct pmtimer *p)
{
	u64 n;

	pthread_mutex_lock(&p->lock);
	n = ticks(p) & BITS(p->bits - 1, 0);
	pthread_mutex_unlock(&p->lock);
	return (u32)n;
}

bool pmtimer_status(struct pmtimer *p)
{
	bool set;

	pthread_mutex_lock(&p->lock);
	set = changes(p) != p->s.cleared;
	pthread_mutex_unlock(&p->lock);
	return set;
}

void pmtimer_clear_status(struct pmtimer *p)
{
	pthread_mutex_lock(&p->lock);
	p->s.cleared = changes(p);
	rearm(p);
	pthread_mutex_unlock(&p->lock);
}

void pmtimer_set_enable(struct pmtimer *p, bool on)
{
	pthread_mutex_lock(&p->lock);
	p->s.enabled = on;
	rearm(p);
	pthread_mutex_unlock(&p->lock);
}

void pmtimer_set_notify(struct pmtimer *p, void (*notify)(void *opaque), void *opaque)
{
	pthread_mutex_lock(&p->lock);
	p->notify = notify;
	p->opaque = opaque;
	pthread_mutex_unlock(&p->lock);
}

static u64 pmtimer_read(void *dev, u64 off, unsigned size)
{
	return off < 4 ? (u64)pmtimer_count(dev) >> (8 * off) & size_mask(size) : 0;
}

/* Read-only (ACPI 6.4, 4.8.4.3). */
static void pmtimer_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)dev;
	(void)off;
	(void)val;
	(void)size;
}

const struct io_ops pmtimer_ops = {
	.read = pmtimer_read,
	.write = pmtimer_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

void pmtimer_reset(struct pmtimer *p)
{
	pthread_mutex_lock(&p->lock);
	p->s = (struct pmtimer_state){ .zero_ns = clock_now(p->clk) };
	rearm(p);
	pthread_mutex_unlock(&p->lock);
}

struct pmtimer *pmtimer_new(struct clock *clk, unsigned bits)
{
	struct pmtimer *p = xzalloc(sizeof(*p));

	pthread_mutex_init(&p->lock, NULL);
	p->clk = clk;
	p->bits = bits == 24 ? 24 : 32;
	timer_init(&p->timer, clk, pmtimer_fire, p);
	pmtimer_reset(p);
	return p;
}

void pmtimer_free(struct pmtimer *p)
{
	if (!p)
		return;
	timer_cancel(&p->timer);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* State. */

static const struct state_field pmtimer_fields[] = {
	STATE_FIELD(struct pmtimer_state, zero_ns, 1),
	STATE_FIELD(struct pmtimer_state, cleared, 1),
	STATE_FIELD(struct pmtimer_state, enabled, 1),
	{ 0 },
};

static bool pmtimer_valid(const void *state)
{
	const struct pmtimer_state *s = state;

	return s->zero_ns >= 0 && s->zero_ns <= TIME_MAX && s->enabled <= 1;
}

const struct state_desc pmtimer_desc = {
	.name = "pmtimer",
	.size = sizeof(struct pmtimer_state),
	.version = 1,
	.fields = pmtimer_fields,
	.valid = pmtimer_valid,
};

void pmtimer_save(const struct pmtimer *p, struct state_buf *b)
{
	state_save(b, &pmtimer_desc, 0, &p->s);
}

int pmtimer_load(struct pmtimer *p, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&p->lock);
	ret = state_load(b, &pmtimer_desc, 0, &p->s, err);
	if (!ret)
		rearm(p);
	pthread_mutex_unlock(&p->lock);
	return ret;
}
