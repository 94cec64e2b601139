/*
 * Measuring whether direct execution pays.
 *
 * A trap costs some thirty microseconds, and so does a page that is not in the shadow
 * yet. Translated code runs at two thirds of the speed where it is hot, at a quarter or
 * less in a program of many pages, and traps for next to nothing. Times of processes are
 * of CPU; stretches are measured by the host's TSC, which a preemption spoils now and
 * then: none counts for more than a beat.
 *
 * Thread: see policy.h; beat() is a signal handler on that thread.
 */
#include "engine/direct/policy.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/alarm.h"
#include "mem/phys.h"
#include "x86/stats.h"
#include "x86/walk.h"

/* Nanoseconds of CPU time from here on, where system calls are as fast as on hardware;
 * elsewhere stops and what is compared with them is dearer, see policy_stop_took(). What
 * a stop costs the VMM, a trap or a fault, with what it finds cold; the process pays for
 * it as well (struct tally). */
#define STOP         UINT64_C(16000)
#define STOP_MAX     (20 * STOP)
/* So much longer it takes where it finds things cold. */
#define COLDER       3
/* The same, where that is not known. */
#define THERE        UINT64_C(8000)
/* What comparing a page with the tables costs, and what an order of the mapper does:
 * mapping or unmapping, and having that again. */
#define LOOK         UINT64_C(70)
#define ORDER        UINT64_C(5000)
/* What an account is to have first: about what the first pages cost that are mapped for a
 * program, so that one that ends soon has lost no more than as much again. It begins
 * with that, too, whatever a stop costs: where that is much it is to show soon. */
#define EARN         UINT64_C(5000000)
/* The most it can have: so much may be lost before it shows. */
#define CREDIT       UINT64_C(10000000)
/* What translated code takes of which nothing is known, as a multiple of what it takes
 * directly. */
#define SLOWNESS     3
/* The account is made up after so many traps, or when so much has been spent. */
#define LOT          32
#define MUCH         UINT64_C(2000000)
/* A program is away so long at first. What was mapped for it stays, so that the next
 * time costs less; with 2 ms what never pays (mprotect, fork) takes up to twice as long.
 */
#define BACKOFF_MIN  UINT64_C(6000000)
#define BACKOFF_MAX  UINT64_C(500000000)
/* A stretch that is shorter is better translated, whatever it takes directly: by its own
 * time, and by that with the way there and back. */
#define SHORT        UINT64_C(15000)
#define SHORT_DIRECT UINT64_C(25000)
/* A stretch that is known to be long is translated once in a while, to see: after so many
 * times at first, and at last. */
#define TRIAL_MIN    8
#define TRIAL_MAX    256
/* So long translated code runs before it is looked at. */
#define BEAT         UINT64_C(1000000)
/* What the speed of the TSC is measured over, at least. */
#define KNOWN        UINT64_C(100000)
#define SPACES       1024
#define STRETCHES    4096
/* So many short ones in a row make one short of which nothing is known. */
#define PHASE        4
/* After so many short ones of a translated program in a row, as in a loop of system
 * calls, about so many are not measured. */
#define CALM         16

/* What is known of an address space. */
struct space {
	u64 cr3;
	bool on;
	u64 earned;     /* ticks of the host's TSC */
	u64 not_before; /* of the vCPU thread's time; 0: now */
	u64 backoff;
	/* An entry of the top table, which stays while the program does. */
	unsigned top;
	u64 top_entry;
};

/* User code that begins at an address. */
struct stretch {
	u64 tag;
	u32 direct;     /* ticks that it takes directly, with the way there and back */
	u8 brief;       /* how sure it is that translated it takes less: 0 to 3 */
	u16 trial, due; /* a trial after so many times, and how many of them are left */
};

struct policy {
	struct vcpu *v;
	bool always;
	bool hold;                         /* not before the next sample */
	struct space space[SPACES], *here; /* that of CR3, or another one */

	struct stretch stretch[STRETCHES];
	struct stretch *now; /* that runs; NULL: its length is not asked for */
	bool brief;          /* it is to be translated */
	bool went;           /* it has run directly */
	unsigned phase;      /* so many short ones came before it */
	unsigned calm, skip;
	/* In ticks of the host's TSC. 'began' 0: it is not measured. */
	u64 began, tick_earn, tick_beat, tick_trap, short_translated, short_direct;
	u64 tsc_first, ns_first;

	/* Shared with beat(). */
	u64 stretches, watched; /* how many there were, and when the alarm was set */
	bool watch;             /* what runs is translated, and should not for long */
	bool runs;              /* directly */
	bool asked;
	bool no_alarm; /* the host gives none */
	struct alarm alarm;
	void (*ask)(void *opaque);
	void *ask_opaque;

	struct tally *c;
	u64 stop;    /* what one costs the VMM here, */
	bool priced; /* as has been measured */
};

#define NEVER (~UINT64_C(0))

static u64 clock_ns(clockid_t id)
{
	struct timespec t = { 0 };

	clock_gettime(id, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

/* ---- address spaces ---- */

static struct space *space_by(struct policy *p, u64 cr3)
{
	struct space *s = &p->space[(cr3 >> 12) * UINT64_C(0x9e3779b97f4a7c15) >> 54];

	if (s->cr3 != cr3 || !s->backoff)
		*s = (struct space){ .cr3 = cr3, .backoff = BACKOFF_MIN };
	return s;
}

static inline struct space *space_of(struct policy *p)
{
	u64 cr3 = p->v->cr3 & BITS(51, 12);

	if (unlikely(!p->here || p->here->cr3 != cr3))
		p->here = space_by(p, cr3);
	return p->here;
}

static void space_off(struct space *s)
{
	s->on = false;
	s->earned = 0;
}

void policy_lost(struct policy *p, u64 cr3)
{
	space_off(space_by(p, cr3));
}

static void space_anew(struct space *s)
{
	if (s->not_before == NEVER)
		return;
	*s = (struct space){ .cr3 = s->cr3, .backoff = BACKOFF_MIN };
}

void policy_anew(struct policy *p, u64 cr3)
{
	space_anew(space_by(p, cr3));
}

void policy_never(struct policy *p)
{
	struct space *s = space_of(p);

	space_off(s);
	s->not_before = NEVER;
}

static u64 top_entry(const struct vcpu *v, unsigned i)
{
	const u64 *table = phys_host(v->phys, v->cr3 & BITS(51, 12), PAGE_SIZE, false);

	return table ? __atomic_load_n(&table[i], __ATOMIC_RELAXED) & BITS(51, 12) : 0;
}

/* Another program may have got the CR3 of one that has ended. */
static void recognize(struct policy *p, struct space *s)
{
	const struct vcpu *v = p->v;

	if (v->paging < PAGING_4LEVEL)
		return;
	if (s->top_entry && top_entry(v, s->top) != s->top_entry)
		space_anew(s);
	if (s->top_entry)
		return;
	s->top = v->rip >> (v->paging == PAGING_5LEVEL ? 48 : 39) & 511;
	s->top_entry = top_entry(v, s->top);
}

bool policy_wants(struct policy *p)
{
	return !p->hold && (p->always || (!p->brief && space_of(p)->on));
}

/* ---- the alarm ---- */

static void watch_now(struct policy *p)
{
	p->watched = p->stretches;
	alarm_set(&p->alarm, BEAT);
}

static void watch(struct policy *p)
{
	if (p->alarm.set || !p->alarm.made)
		return;
	vcpu_park(p->v);
	watch_now(p);
}

/* Does the same code run still? */
static void beat(void *opaque)
{
	struct policy *p = opaque;

	if (!p->watch || p->runs)
		return;
	if (p->stretches != p->watched) {
		watch_now(p);
		return;
	}
	__atomic_store_n(&p->asked, true, __ATOMIC_RELAXED);
	p->ask(p->ask_opaque);
}

bool policy_asked(struct policy *p)
{
	return __atomic_exchange_n(&p->asked, false, __ATOMIC_RELAXED);
}

/* Until then it is translated, and that should not be long. */
void policy_hold(struct policy *p)
{
	p->hold = p->watch = true;
	watch(p);
}

/* ---- stretches ---- */

/* The longer it is since the first look, the better it is known. */
static u64 ticks_of(const struct policy *p, u64 ns)
{
	u64 ticks, took;

	do {
		ticks = __rdtsc() - p->tsc_first;
		took = clock_ns(CLOCK_MONOTONIC) - p->ns_first;
	} while (took < KNOWN);
	return (u64)((u128)ticks * ns / took);
}

/* What takes this where a stop takes STOP. */
static u64 here(const struct policy *p, u64 ns)
{
	return ns * p->stop / STOP;
}

static void ticks_measure(struct policy *p)
{
	p->tick_earn = ticks_of(p, here(p, EARN));
	p->tick_beat = ticks_of(p, BEAT);
	p->tick_trap = ticks_of(p, here(p, STOP + THERE));
	p->short_translated = ticks_of(p, here(p, SHORT));
	p->short_direct = ticks_of(p, here(p, SHORT_DIRECT));
}

/*
 * The least of all processes counts, as a busy host adds to it.
 *
 * A host that is a guest itself may take ten times as long for a system call or a fault,
 * and with them for all that direct execution is made of.
 */
void policy_stop_took(struct policy *p, u64 own)
{
	u64 stop = MIN(MAX(own * COLDER, STOP), STOP_MAX);

	p->stop = p->priced ? MIN(p->stop, stop) : stop;
	p->priced = true;
	ticks_measure(p);
}

/* So long it has run translated, and then trapped, or not yet. */
static void earn(struct policy *p, struct space *s, u64 took, bool trapped)
{
	u64 more = took * (SLOWNESS - 1) / SLOWNESS;
	u64 less = trapped ? p->tick_trap : 0;

	s->earned = s->earned + more > less ? s->earned + more - less : 0;
}

static struct stretch *stretch_of(struct policy *p)
{
	u64 tag = p->v->rip ^ (p->v->cr3 & BITS(51, 12)) << 16;
	struct stretch *s =
		&p->stretch[tag * UINT64_C(0x9e3779b97f4a7c15) >> 32 & (STRETCHES - 1)];

	if (s->tag != tag)
		*s = (struct stretch){ .tag = tag,
				       .brief = p->phase >= PHASE ? 2 : 0,
				       .trial = TRIAL_MIN,
				       .due = TRIAL_MIN };
	return s;
}

/* Is it to be translated? */
static bool is_brief(struct stretch *s)
{
	if (s->brief >= 2)
		return true;
	if (--s->due)
		return false;
	s->due = s->trial;
	return true;
}

__attribute__((noinline)) static void get_ready(struct policy *p)
{
	vcpu_park(p->v);
	if (!p->alarm.made && !p->no_alarm)
		p->no_alarm = !alarm_init(&p->alarm, beat, p);
	if (!p->tick_beat)
		ticks_measure(p);
}

void policy_user_begins(struct policy *p)
{
	struct space *s = space_of(p);

	p->stretches++;
	p->now = NULL;
	p->brief = p->went = p->watch = false;
	if (p->always)
		return;
	if (unlikely(!p->tick_beat || !(p->alarm.made || p->no_alarm)))
		get_ready(p);
	if (s->on && p->alarm.made) {
		p->now = stretch_of(p);
		p->brief = is_brief(p->now);
	}
	p->watch = !s->on || p->brief;
	if (p->watch)
		watch(p);
	if (p->skip && !p->now) {
		p->skip--;
		p->began = 0;
		return;
	}
	p->began = __rdtsc();
}

static void stretch_was_short(struct policy *p)
{
	struct stretch *s = p->now;

	s->brief = (u8)MIN(s->brief + 1, 3);
	s->trial = s->due = TRIAL_MIN;
	p->phase++;
}

static void stretch_was_long(struct policy *p)
{
	struct stretch *s = p->now;

	p->phase = 0;
	if (!s)
		return;
	s->trial = (u16)MIN(s->trial * 2, TRIAL_MAX);
	s->due = s->trial;
	s->brief = s->brief >= 3 ? 1 : 0;
}

/* A stretch has ended, of a space that does not run directly. */
static void translated(struct policy *p)
{
	struct space *s = space_of(p);
	u64 took;

	if (!p->began || s->on)
		return;
	took = __rdtsc() - p->began;
	if (took < p->tick_trap && !s->earned) {
		if (++p->calm >= CALM)
			p->skip = CALM + (p->stretches & 3);
		return;
	}
	p->calm = 0;
	earn(p, s, MIN(took, p->tick_beat), true);
	if (s->earned >= p->tick_earn && !s->not_before)
		s->on = true;
}

/* What disturbs makes it longer: so up slowly. */
static void direct_took(struct stretch *s, u32 took)
{
	if (!s->direct || took < s->direct)
		s->direct = took;
	else
		s->direct += (took - s->direct) / 8;
}

void policy_user_ends(struct policy *p)
{
	struct stretch *s = p->now;
	u64 took;

	p->watch = false;
	if (!s) {
		translated(p);
		p->began = 0;
		return;
	}
	took = __rdtsc() - p->began;
	if (p->went) {
		took = MIN(took, UINT32_MAX);
		direct_took(s, (u32)took);
		/* On a busy host it may have been the way there and back. */
		if (took < p->short_direct)
			stretch_was_short(p);
		else
			p->phase = 0;
	} else if (took < MAX(p->short_translated, s->direct)) {
		stretch_was_short(p);
	} else {
		stretch_was_long(p);
	}
	p->began = 0;
	p->now = NULL;
	p->brief = false;
}

/* ---- samples ---- */

void policy_sample(struct policy *p, bool user)
{
	struct space *s = space_of(p);
	u64 t;

	vcpu_park(p->v);
	p->hold = false;
	if (s->on) {
		/* It lasts: it runs directly from here on, and the next time. */
		if (user && p->brief)
			stretch_was_long(p);
		p->brief = p->watch = false;
		return;
	}
	if (!user) {
		p->watch = false;
		return;
	}
	recognize(p, s);
	if (unlikely(!p->tick_beat))
		ticks_measure(p);
	t = __rdtsc();
	p->calm = p->skip = 0;
	/* Twice: what has not trapped for so long computes, and will lose little. */
	if (p->began)
		earn(p, s, 2 * MIN(t - p->began, p->tick_beat), false);
	p->began = t;
	s->on = s->earned >= p->tick_earn &&
		clock_ns(CLOCK_THREAD_CPUTIME_ID) >= s->not_before;
	p->watch = !s->on;
	if (p->watch)
		watch(p);
}

/* ---- traps ---- */

static void turn_off(struct policy *p)
{
	struct space *s = space_of(p);

	space_off(s);
	s->not_before = clock_ns(CLOCK_THREAD_CPUTIME_ID) + s->backoff;
	s->backoff = MIN(s->backoff * 2, BACKOFF_MAX);
	p->c->away = true;
	p->v->stats->direct_backoffs++;
}

static void lot_begin(struct tally *c, u64 t)
{
	c->traps = c->faults = 0;
	c->at = t;
	c->before = *c->upkeep;
}

void policy_tally(struct tally *c, clockid_t clock, u64 trap, const struct upkeep *upkeep)
{
	*c = (struct tally){ .clock = clock,
			     .trap = MIN(MAX(trap, THERE / 2), 5 * THERE),
			     .upkeep = upkeep,
			     .balance = EARN };
	lot_begin(c, clock_ns(clock));
}

void policy_settled(struct policy *p, struct tally *c)
{
	space_of(p)->on = true;
	p->c = c;
}

void policy_runs(struct policy *p, bool runs)
{
	struct tally *c = p->c;

	p->runs = runs;
	p->went = true;
	/* What it took to be up to date again is the price of having been away. */
	if (runs && c->away) {
		c->away = false;
		c->balance = (i64)here(p, EARN);
		lot_begin(c, clock_ns(c->clock));
	}
}

/* What a stop takes of the process's time: what it took at first, where nothing was cold,
 * or most of what the shortest ones took. */
static u64 stop_takes(struct tally *c, u64 took)
{
	u64 each = took / MAX(c->traps + c->faults, 1u);

	if (!c->least || each < c->least)
		c->least = MAX(each, 1);
	return MIN(MAX(c->trap, c->least * 3 / 4), 3 * c->trap);
}

/* Make up the account. */
static void lot_end(struct policy *p)
{
	struct tally *c = p->c;
	u64 t = clock_ns(c->clock), took = t - c->at;
	u64 takes = stop_takes(c, took);
	u64 orders = (c->upkeep->orders - c->before.orders) * here(p, ORDER);
	u64 looks = (c->upkeep->looked - c->before.looked) * LOOK;
	/* What of that was no computing. */
	u64 lost = (c->traps + c->faults) * takes + orders;
	u64 cost = (c->traps + c->faults) * (p->stop + takes) + orders + looks;
	i64 saved = took > lost ? (i64)((took - lost) * (SLOWNESS - 1)) : 0;
	struct space *s = space_of(p);

	lot_begin(c, t);
	if (saved > (i64)cost)
		s->backoff = MAX(s->backoff / 2, BACKOFF_MIN);
	c->balance = MIN(c->balance + saved - (i64)cost, (i64)here(p, CREDIT));
	if (c->balance < 0 && !p->always)
		turn_off(p);
}

bool policy_trap(struct policy *p)
{
	struct tally *c = p->c;

	if (++c->traps >= LOT || (c->upkeep->orders - c->before.orders) * ORDER >= MUCH)
		lot_end(p);
	return p->always || space_of(p)->on;
}

void policy_fault(struct policy *p)
{
	/* Not only traps show that it does not pay. */
	if (++p->c->faults * (STOP + THERE) >= MUCH)
		lot_end(p);
}

/* ---- set-up ---- */

struct policy *policy_new(struct vcpu *v, bool always, void (*ask)(void *opaque),
			  void *opaque)
{
	struct policy *p = xzalloc(sizeof(*p));

	p->v = v;
	p->always = always;
	p->ask = ask;
	p->ask_opaque = opaque;
	p->stop = STOP;
	p->tsc_first = __rdtsc();
	p->ns_first = clock_ns(CLOCK_MONOTONIC);
	return p;
}

/* Times are of a thread, and the machine may have been reset. */
void policy_reset(struct policy *p)
{
	alarm_fini(&p->alarm);
	memset(p->space, 0, sizeof(p->space));
	memset(p->stretch, 0, sizeof(p->stretch));
	p->here = NULL;
	p->now = NULL;
	p->c = NULL;
	p->hold = p->brief = p->watch = p->asked = p->no_alarm = false;
	p->phase = 0;
	p->began = 0;
}

void policy_free(struct policy *p)
{
	alarm_fini(&p->alarm);
	free(p);
}
