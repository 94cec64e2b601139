/*
 * The timer of a local APIC: one-shot, periodic and TSC-deadline.
 *
 * The owner of this timer is the local APIC in which it is embedded.
 */
#pragma once

#include <pthread.h>

#include "base/error.h"
#include "state/save.h"
#include "time/clock.h"

/* As encoded in LVT timer bits 18:17; 3 is reserved and stops the timer. */
enum { APICTIMER_ONESHOT, APICTIMER_PERIODIC, APICTIMER_DEADLINE, APICTIMER_RESERVED };

/* Shortest time between two interrupts of periodic mode; edges in between coalesce. */
#define APICTIMER_MIN_NS 10000

struct apictimer_state {
	i64 origin;       /* virtual time at which 'first' was loaded */
	u64 fired;        /* expiries since origin that have been dealt with */
	u64 tsc_deadline; /* 0: disarmed */
	u32 initial;      /* initial count register */
	u32 first;   /* counts from origin to the first expiry; then 'initial' each */
	u16 running; /* one-shot and periodic: counting */
	u16 mode;    /* APICTIMER_* */
	u16 divide;  /* divide configuration register: bits 3, 1, 0 */
	u16 masked;  /* LVT mask: expiries go by without interrupt */
};

struct apictimer_ops {
	/* With the timer's lock held: an unmasked expiry. Any thread. */
	void (*expired)(void *opaque);
	vns_t (*tsc_to_vns)(void *opaque,
			    u64 tsc); /* see lapic.h; NULL: no TSC-deadline */
	u64 (*vns_to_tsc)(void *opaque, vns_t t);
};

struct apictimer {
	struct apictimer_state s;
	pthread_mutex_t lock; /* covers s and the arming of t */
	struct timer t;
	struct clock *clk;
	u64 hz; /* input clock before division */
	const struct apictimer_ops *ops;
	void *opaque;
};

void apictimer_init(struct apictimer *t, struct clock *clk, u64 hz,
		    const struct apictimer_ops *ops, void *opaque);
void apictimer_fini(struct apictimer *t);
/* See time/clock.h. The thread that hears it. */
struct bell *apictimer_bell(struct apictimer *t, void (*ring)(void *opaque),
			    void *opaque);
/* After power-up and INIT: stopped, masked, one-shot, divide by 2. */
void apictimer_reset(struct apictimer *t);

/* Owning vCPU thread. */
void apictimer_set_lvt(struct apictimer *t, unsigned mode, bool masked);
void apictimer_write_initial(struct apictimer *t, u32 count);
void apictimer_write_divide(struct apictimer *t, u8 dcr);
u32 apictimer_read_initial(struct apictimer *t);
u32 apictimer_read_current(struct apictimer *t);
u8 apictimer_read_divide(struct apictimer *t);
void apictimer_write_deadline(struct apictimer *t, u64 tsc);
u64 apictimer_read_deadline(struct apictimer *t);
void apictimer_tsc_changed(struct apictimer *t);

extern const struct state_desc apictimer_desc;
void apictimer_save(const struct apictimer *t, struct state_buf *b, u32 instance);
int apictimer_load(struct apictimer *t, struct state_buf *b, u32 instance,
		   struct error *err);
