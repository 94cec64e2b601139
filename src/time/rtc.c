/*
 * Real-time clock and CMOS memory, Motorola MC146818A as in a PC.
 *
 * Data sheet MC146818A (ADI1026), ports and NMI mask as in the 82371AB (PIIX4) data
 * sheet. No tick runs: the registers hold the time of the last update that somebody asked
 * for and are brought up to date when looked at, flags included. A timer is armed only
 * for interrupts that are enabled.
 *
 * The date follows the Gregorian calendar with the century byte 32h (the chip alone:
 * every fourth year leaps, no century). The day of the week is counted on its own, as in
 * the chip. Values that are no time (a 13th month) are read back as written until the
 * next update, which brings them into range. Missing: daylight saving (DSE; the rule of
 * the USA before 1987 is of no use) and square-wave output (SQWE), both bits are just
 * kept; bases other than 32.768 kHz (DV 000, 001): the divider stands still, as in reset.
 *
 * Periodic interrupts that find the last one unread, or come late, are owed and repeated
 * as time/lateness.h says; all other interrupts are levels.
 *
 * Lock: rtc->lock covers s and armed; taken on vCPU threads and the timer thread, and
 * held while the interrupt line is driven.
 */
#include "time/rtc.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "time/lateness.h"

enum {
	RTC_SEC = 0,
	RTC_SEC_ALARM,
	RTC_MIN,
	RTC_MIN_ALARM,
	RTC_HOUR,
	RTC_HOUR_ALARM,
	RTC_WDAY,
	RTC_MDAY,
	RTC_MONTH,
	RTC_YEAR,
	RTC_A,
	RTC_B,
	RTC_C,
	RTC_D,
};

#define A_RS   0x0f
#define A_DV   0x70
#define A_UIP  0x80
#define DV_32K 0x20 /* the divider runs */

#define B_24H 0x02
#define B_DM  0x04 /* binary */
#define B_UIE 0x10
#define B_AIE 0x20
#define B_PIE 0x40
#define B_SET 0x80

#define C_UF    0x10
#define C_AF    0x20
#define C_PF    0x40
/* Each is enabled by the bit of the same place in B. */
#define C_FLAGS (C_UF | C_AF | C_PF)
#define C_IRQF  0x80

#define D_VRT 0x80

#define HOUR_PM    0x80
#define ALARM_ANY  0xc0 /* two most significant bits set: don't care */
#define INDEX_BITS 0x7f
#define NMI_MASK   0x80

#define BASE_HZ   32768
/* From UIP set to the update: t_BUC, 8 periods of the time base. */
#define UIP_NS    244141
#define DAY       86400
#define NEVER_SEC INT64_MAX
/* Bound for streams. */
#define TIME_MAX  (INT64_C(1) << 62)

struct rtc_state {
	/*
	 * The divider was at zero: updates follow at whole seconds after 'base', unless
	 * the divider is stopped. After a stop this is made up, see write_a().
	 */
	i64 base;
	i64 seen; /* periodic edges up to this time have been dealt with */
	struct lateness late;
	u8 cmos[RTC_CMOS_SIZE]; /* registers as of 'base' */
	u8 index[2];            /* of each bank; bit 7 of the first is the NMI mask */
	u8 irq_pin;
	u8 spare[5];
};

struct rtc {
	struct rtc_state s;
	pthread_mutex_t lock;
	struct clock *clk;
	struct irq_line irq;
	struct timer timer;
	vns_t armed; /* what the timer is armed for */
	bool cut;
};

/* Registers and civil time. */

static bool divider_runs(const struct rtc *r)
{
	return (r->s.cmos[RTC_A] & A_DV) == DV_32K;
}

static bool updates(const struct rtc *r)
{
	return divider_runs(r) && !(r->s.cmos[RTC_B] & B_SET);
}

static unsigned decode(const struct rtc *r, u8 v)
{
	return r->s.cmos[RTC_B] & B_DM ? v : (v >> 4) * 10u + (v & 15);
}

static u8 encode(const struct rtc *r, unsigned v)
{
	return (u8)(r->s.cmos[RTC_B] & B_DM ? v : v / 10 << 4 | v % 10);
}

static unsigned decode_hour(const struct rtc *r, u8 v)
{
	if (r->s.cmos[RTC_B] & B_24H)
		return decode(r, v);
	return decode(r, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

static u8 encode_hour(const struct rtc *r, unsigned h)
{
	if (r->s.cmos[RTC_B] & B_24H)
		return encode(r, h);
	return encode(r, h % 12 ? h % 12 : 12) | (h >= 12 ? HOUR_PM : 0);
}

/* Days since 1970-01-01 of a date of the Gregorian calendar; month 1 .. 12. */
static i64 days_of_date(i64 year, unsigned month, unsigned day)
{
	i64 y = month <= 2 ? year - 1 : year; /* years that begin in March */
	i64 era = (y >= 0 ? y : y - 399) / 400;
	i64 yoe = y - era * 400;
	i64 doy = (153 * ((i64)month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static void date_of_days(i64 days, i64 *year, unsigned *month, unsigned *day)
{
	i64 z = days + 719468;
	i64 era = (z >= 0 ? z : z - 146096) / 146097;
	i64 doe = z - era * 146097;
	i64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	i64 doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	i64 mp = (5 * doy + 2) / 153;

	*day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
	*month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
	*year = yoe + era * 400 + (*month <= 2);
}

/* Second of the day the registers show, brought into range. */
static unsigned regs_tod(const struct rtc *r)
{
	const u8 *c = r->s.cmos;

	return MIN(decode_hour(r, c[RTC_HOUR]), 23u) * 3600 +
	       MIN(decode(r, c[RTC_MIN]), 59u) * 60 + MIN(decode(r, c[RTC_SEC]), 59u);
}

static i64 regs_days(const struct rtc *r)
{
	const u8 *c = r->s.cmos;
	/* The century is BCD in either data mode: to the chip it is memory. */
	unsigned century = (c[RTC_REG_CENTURY] >> 4) * 10u + (c[RTC_REG_CENTURY] & 15);
	unsigned month = decode(r, c[RTC_MONTH]), day = decode(r, c[RTC_MDAY]);

	month = MIN(MAX(month, 1u), 12u);
	day = MIN(MAX(day, 1u), 31u);
	return days_of_date(century * 100 + MIN(decode(r, c[RTC_YEAR]), 99u), month, day);
}

/* Show the civil time 'days' since 1970 and 'tod' seconds. */
static void regs_set(struct rtc *r, i64 days, unsigned tod)
{
	u8 *c = r->s.cmos;
	unsigned month, day, year_of_century, century;
	i64 year;

	date_of_days(days, &year, &month, &day);
	year = (year % 10000 + 10000) % 10000;
	year_of_century = (unsigned)(year % 100);
	century = (unsigned)(year / 100);
	c[RTC_SEC] = encode(r, tod % 60);
	c[RTC_MIN] = encode(r, tod / 60 % 60);
	c[RTC_HOUR] = encode_hour(r, tod / 3600);
	c[RTC_MDAY] = encode(r, day);
	c[RTC_MONTH] = encode(r, month);
	c[RTC_YEAR] = encode(r, year_of_century);
	c[RTC_REG_CENTURY] = (u8)(century / 10 << 4 | century % 10);
}

/* Let the registers make n updates. */
static void regs_advance(struct rtc *r, i64 n)
{
	i64 tod = regs_tod(r) + n % DAY, days = n / DAY;
	unsigned wday = decode(r, r->s.cmos[RTC_WDAY]);

	if (tod >= DAY) {
		tod -= DAY;
		days++;
	}
	if (wday < 1 || wday > 7)
		wday = 1;
	r->s.cmos[RTC_WDAY] = encode(r, (unsigned)((wday - 1 + days % 7) % 7 + 1));
	regs_set(r, regs_days(r) + days, (unsigned)tod);
}

static bool alarm_field(u8 alarm, unsigned want, unsigned have)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || want == have;
}

/* Updates until the time that the registers show matches the alarm; NEVER_SEC. */
static i64 seconds_to_alarm(const struct rtc *r)
{
	const u8 *c = r->s.cmos;
	unsigned now = regs_tod(r), h0 = now / 3600, m0 = now / 60 % 60;
	unsigned hour = decode_hour(r, c[RTC_HOUR_ALARM]);
	unsigned min = decode(r, c[RTC_MIN_ALARM]), sec = decode(r, c[RTC_SEC_ALARM]);
	bool any_sec = (c[RTC_SEC_ALARM] & ALARM_ANY) == ALARM_ANY;

	/* The hour we are in from the next second on, the others, it again to its end. */
	for (unsigned i = 0; i <= 24; i++) {
		unsigned h = (h0 + i) % 24;

		if (!alarm_field(c[RTC_HOUR_ALARM], hour, h))
			continue;
		for (unsigned m = i ? 0 : m0; m < 60; m++) {
			unsigned from = i == 0 && m == m0 ? now % 60 + 1 : 0;
			unsigned s = any_sec ? from : sec;

			if (!alarm_field(c[RTC_MIN_ALARM], min, m) || s < from || s > 59)
				continue;
			return (i64)(h0 + i) * 3600 + m * 60 + s - now;
		}
	}
	return NEVER_SEC;
}

/* Periodic interrupt. */

/* Periods of the time base between two periodic edges, 0 if none. MC146818A table 5. */
static unsigned period_base(const struct rtc *r)
{
	unsigned rs = r->s.cmos[RTC_A] & A_RS;

	if (!rs || !divider_runs(r))
		return 0;
	return rs < 3 ? 1u << (rs + 6) : 1u << (rs - 1);
}

static vns_t period_ns(unsigned base)
{
	return (vns_t)((u64)base * NSEC_PER_SEC / BASE_HZ);
}

/* Edges of the selected tap in (base, t]. */
static u64 edges_at(const struct rtc *r, vns_t t, unsigned period)
{
	if (t <= r->s.base)
		return 0;
	return muldiv64((u64)(t - r->s.base), BASE_HZ, NSEC_PER_SEC) / period;
}

/* Time of the first edge after t. */
static vns_t next_edge(const struct rtc *r, vns_t t, unsigned period)
{
	u128 ticks = ((u128)edges_at(r, t, period) + 1) * period;

	return r->s.base + (vns_t)((ticks * NSEC_PER_SEC + BASE_HZ - 1) / BASE_HZ);
}

/* The chip. All under r->lock. */

static void pin_update(struct rtc *r)
{
	bool level = r->s.cmos[RTC_C] & r->s.cmos[RTC_B] & C_FLAGS;

	if (level)
		r->s.cmos[RTC_C] |= C_IRQF;
	else
		r->s.cmos[RTC_C] &= (u8)~C_IRQF;
	if (r->s.irq_pin == level)
		return;
	r->s.irq_pin = level;
	if (!r->cut)
		irq_set(&r->irq, level);
}

/* The periodic edges in (seen, now]. */
static void sync_periodic(struct rtc *r, vns_t now)
{
	unsigned period = period_base(r);
	u64 n = 0;

	if (period && now > r->s.seen)
		n = edges_at(r, now, period) - edges_at(r, r->s.seen, period);
	r->s.seen = now;
	if (!period || !(r->s.cmos[RTC_B] & B_PIE)) {
		/* Nobody is interrupted: a flag is all there is. */
		lateness_reset(&r->s.late);
		if (n)
			r->s.cmos[RTC_C] |= C_PF;
		return;
	}
	lateness_add(&r->s.late, n, period_ns(period));
	if (!(r->s.cmos[RTC_C] & C_PF) &&
	    lateness_take(&r->s.late, now, period_ns(period)))
		r->s.cmos[RTC_C] |= C_PF;
}

/* Bring registers, flags and pin to 'now'. */
static void sync(struct rtc *r, vns_t now)
{
	i64 n;

	sync_periodic(r, now);
	n = now > r->s.base ? (now - r->s.base) / NSEC_PER_SEC : 0;
	if (n && divider_runs(r)) {
		if (updates(r)) {
			r->s.cmos[RTC_C] |= C_UF;
			if (!(r->s.cmos[RTC_C] & C_AF) && seconds_to_alarm(r) <= n)
				r->s.cmos[RTC_C] |= C_AF;
			regs_advance(r, n);
		}
		r->s.base += n * NSEC_PER_SEC;
	}
	pin_update(r);
}

/* For the next event that somebody waits for; after sync(). */
static void rearm(struct rtc *r, vns_t now)
{
	u8 wanted = r->s.cmos[RTC_B] & ~r->s.cmos[RTC_C] & C_FLAGS;
	unsigned period = period_base(r);
	vns_t when = VNS_NEVER, next;

	/* With its flag set the pin is up already. */
	if (wanted & B_UIE && updates(r))
		when = r->s.base + NSEC_PER_SEC;
	if (wanted & B_AIE && updates(r)) {
		i64 n = seconds_to_alarm(r);

		if (n != NEVER_SEC)
			when = MIN(when, r->s.base + n * NSEC_PER_SEC);
	}
	if (wanted & B_PIE && period) {
		next = next_edge(r, now, period);
		when = MIN(when, lateness_deadline(&r->s.late, next));
	}
	if (when == r->armed)
		return;
	r->armed = when;
	timer_arm(&r->timer, when);
}

static void rtc_fire(void *opaque, vns_t deadline)
{
	struct rtc *r = opaque;
	vns_t now;

	(void)deadline;
	pthread_mutex_lock(&r->lock);
	r->armed = VNS_NEVER;
	now = clock_now(r->clk);
	sync(r, now);
	rearm(r, now);
	pthread_mutex_unlock(&r->lock);
}

static void write_a(struct rtc *r, u8 val, vns_t now)
{
	bool ran = divider_runs(r);

	r->s.cmos[RTC_A] = val & ~A_UIP;
	/*
	 * "When the divider reset is removed the first update cycle begins one-half
	 * second later" (register A, DV).
	 */
	if (!ran && divider_runs(r)) {
		r->s.base = now - NSEC_PER_SEC / 2;
		r->s.seen = now;
	}
}

static void write_b(struct rtc *r, u8 val)
{
	if (val & B_SET)
		val &= (u8)~B_UIE; /* "the SET bit going high clears the UIE bit" */
	if ((r->s.cmos[RTC_B] ^ val) & B_PIE)
		lateness_reset(&r->s.late);
	r->s.cmos[RTC_B] = val;
	pin_update(r);
}

static void reg_write(struct rtc *r, unsigned index, u8 val)
{
	vns_t now = clock_now(r->clk);

	sync(r, now);
	switch (index) {
	case RTC_A: write_a(r, val, now); break;
	case RTC_B: write_b(r, val); break;
	case RTC_C:
	case RTC_D: break; /* read-only */
	default: r->s.cmos[index] = val; break;
	}
	rearm(r, now);
}

static u8 read_a(const struct rtc *r, vns_t now)
{
	u8 val = r->s.cmos[RTC_A];

	if (updates(r) && now >= r->s.base + NSEC_PER_SEC - UIP_NS)
		val |= A_UIP;
	return val;
}

/* As seen now; 'effects': clear what a read clears. */
static u8 reg_read(struct rtc *r, unsigned index, bool effects)
{
	vns_t now;
	u8 val;

	if (index > RTC_D && index != RTC_REG_CENTURY)
		return r->s.cmos[index];
	now = clock_now(r->clk);
	sync(r, now);
	val = index == RTC_A ? read_a(r, now) : r->s.cmos[index];
	if (index == RTC_C && effects) {
		r->s.cmos[RTC_C] = 0;
		pin_update(r);
	}
	rearm(r, now);
	return val;
}

static u64 rtc_read(void *dev, u64 off, unsigned size)
{
	struct rtc *r = dev;
	unsigned bank = off >> 1 & 1;
	u8 val;

	(void)size;
	pthread_mutex_lock(&r->lock);
	val = r->s.index[bank];
	if (off & 1)
		val = reg_read(r, bank * 128 + (val & INDEX_BITS), true);
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void rtc_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct rtc *r = dev;
	unsigned bank = off >> 1 & 1;

	(void)size;
	pthread_mutex_lock(&r->lock);
	if (off & 1)
		reg_write(r, bank * 128 + (r->s.index[bank] & INDEX_BITS), (u8)val);
	else
		r->s.index[bank] = (u8)val & (bank ? INDEX_BITS : 0xff);
	pthread_mutex_unlock(&r->lock);
}

const struct io_ops rtc_ops = { .read = rtc_read, .write = rtc_write, .sizes = IO_1 };

void rtc_set_cmos(struct rtc *r, unsigned index, u8 val)
{
	if (index >= RTC_CMOS_SIZE || index <= RTC_D || index == RTC_REG_CENTURY)
		return;
	pthread_mutex_lock(&r->lock);
	r->s.cmos[index] = val;
	pthread_mutex_unlock(&r->lock);
}

u8 rtc_get_cmos(struct rtc *r, unsigned index)
{
	u8 val;

	if (index >= RTC_CMOS_SIZE)
		return 0xff;
	pthread_mutex_lock(&r->lock);
	val = reg_read(r, index, false);
	pthread_mutex_unlock(&r->lock);
	return val;
}

bool rtc_nmi_masked(struct rtc *r)
{
	bool masked;

	pthread_mutex_lock(&r->lock);
	masked = r->s.index[0] & NMI_MASK;
	pthread_mutex_unlock(&r->lock);
	return masked;
}

void rtc_cut_irq(struct rtc *r, bool cut)
{
	pthread_mutex_lock(&r->lock);
	if (r->cut != cut && r->s.irq_pin)
		irq_set(&r->irq, !cut);
	r->cut = cut;
	pthread_mutex_unlock(&r->lock);
}

void rtc_reset(struct rtc *r)
{
	vns_t now;

	pthread_mutex_lock(&r->lock);
	now = clock_now(r->clk);
	sync(r, now);
	r->s.cmos[RTC_B] &= B_SET | B_DM | B_24H | 1 /* DSE */;
	r->s.cmos[RTC_C] = 0;
	lateness_reset(&r->s.late);
	pin_update(r);
	rearm(r, now);
	pthread_mutex_unlock(&r->lock);
}

struct rtc *rtc_new(struct clock *clk, struct irq_line irq, i64 utc_offset)
{
	struct rtc *r = xzalloc(sizeof(*r));
	vns_t now = clock_now(clk);
	i128 civil = (i128)clock_epoch_ns(clk) + now + (i128)utc_offset * NSEC_PER_SEC;
	i64 sec = (i64)(civil / NSEC_PER_SEC), frac = (i64)(civil % NSEC_PER_SEC), days;

	if (frac < 0) {
		frac += NSEC_PER_SEC;
		sec--;
	}
	days = (sec >= 0 ? sec : sec - (DAY - 1)) / DAY;
	pthread_mutex_init(&r->lock, NULL);
	r->clk = clk;
	r->irq = irq;
	r->armed = VNS_NEVER;
	timer_init(&r->timer, clk, rtc_fire, r);
	r->s.base = now - frac;
	r->s.seen = now;
	r->s.cmos[RTC_A] = DV_32K | 6; /* 1024 Hz, as every BIOS leaves it */
	r->s.cmos[RTC_B] = B_24H;
	r->s.cmos[RTC_D] = D_VRT;
	regs_set(r, days, (unsigned)(sec - days * DAY));
	/* 1970-01-01 was a Thursday; Sunday is 1. */
	r->s.cmos[RTC_WDAY] = (u8)(((days + 4) % 7 + 7) % 7 + 1);
	return r;
}

void rtc_free(struct rtc *r)
{
	if (!r)
		return;
	timer_cancel(&r->timer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* State. */

static const struct state_field rtc_fields[] = {
	STATE_FIELD(struct rtc_state, base, 1),
	STATE_FIELD(struct rtc_state, seen, 1),
	STATE_FIELD(struct rtc_state, late.owed, 1),
	STATE_FIELD(struct rtc_state, late.free_at, 1),
	STATE_ARRAY(struct rtc_state, cmos, 1),
	STATE_ARRAY(struct rtc_state, index, 1),
	STATE_FIELD(struct rtc_state, irq_pin, 1),
	STATE_ARRAY(struct rtc_state, spare, 1),
	{ 0 },
};

static bool rtc_valid(const void *state)
{
	const struct rtc_state *s = state;

	return s->base >= -NSEC_PER_SEC && s->base <= TIME_MAX && s->seen >= 0 &&
	       s->seen <= TIME_MAX && lateness_valid(&s->late) &&
	       !(s->cmos[RTC_A] & A_UIP) && s->cmos[RTC_D] == D_VRT &&
	       s->index[1] <= INDEX_BITS && s->irq_pin <= 1;
}

const struct state_desc rtc_desc = {
	.name = "rtc",
	.size = sizeof(struct rtc_state),
	.version = 1,
	.fields = rtc_fields,
	.valid = rtc_valid,
};

void rtc_save(const struct rtc *r, struct state_buf *b)
{
	state_save(b, &rtc_desc, 0, &r->s);
}

int rtc_load(struct rtc *r, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&r->lock);
	ret = state_load(b, &rtc_desc, 0, &r->s, err);
	if (!ret) {
		vns_t now = clock_now(r->clk);

		if (!r->cut)
			irq_set(&r->irq, r->s.irq_pin);
		/* Not sync(): what passed in the meantime is the timer's business. */
		rearm(r, now);
	}
	pthread_mutex_unlock(&r->lock);
	return ret;
}
