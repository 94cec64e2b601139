/*
 * Stopping vCPUs for a debugger, and what it wants of them.
 *
 * A CPU that is to be held parks in debug_park(), between two runs of its engine, where
 * its struct vcpu is complete. Which CPUs are to be held, are parked and have a thread
 * are bits of three words.
 *
 * Lock: 'lock' covers the words and each CPU's reason to have stopped. The points, and
 * 'debug' and 'cuts' of the vCPUs, change only while all are parked, and so need
 * none: a CPU goes on by taking the lock.
 */
#include "cpu/debug.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cpu/vm.h"
#include "mem/phys.h"
#include "x86/access.h"

static_assert(VM_MAX_VCPUS <= 64, "a bit for each CPU");

/* Offsets that blocks were cut at for breakpoints that are gone, before all is decoded
 * anew. */
#define OLD_CUTS_MAX 64

struct debug {
	struct debug_config cfg;
	pthread_mutex_t lock;
	pthread_cond_t go;
	u64 all;        /* every CPU of the machine */
	u64 hold;       /* to be parked; also read without the lock */
	u64 parked;     /* in debug_park() */
	u64 alive;      /* have a thread */
	u64 untold;     /* stopped for a reason of their own, see debug_next_stop() */
	bool stopping;  /* all are to be parked, cfg.stopped was not called yet */
	bool stopped;   /* it was */
	bool attached;  /* atomic */
	bool new_cuts;  /* blocks must be cut where they are not */
	bool new_watch; /* the TLBs may have tags for watched pages */
	u64 touched;    /* CPUs whose registers were written */
	struct debug_points points;
	struct vcpu_debug cpu[VM_MAX_VCPUS];
};

static u64 bit_of(const struct vcpu *v)
{
	return BIT(v->index);
}

static const struct engine *engine_of(const struct debug *d)
{
	return vm_engine(d->cfg.vm);
}

struct debug *debug_new(const struct debug_config *cfg)
{
	struct debug *d = xzalloc(sizeof(*d));

	d->cfg = *cfg;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->go, NULL);
	for (unsigned i = 0; i < vm_cpus(cfg->vm); i++) {
		d->all |= BIT(i);
		d->cpu[i].points = &d->points;
	}
	vm_set_debug(cfg->vm, d);
	return d;
}

void debug_free(struct debug *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < vm_cpus(d->cfg.vm); i++) {
		struct vcpu *v = vm_vcpu(d->cfg.vm, i);

		v->debug = NULL;
		v->cuts = NULL;
	}
	vm_set_debug(d->cfg.vm, NULL);
	pthread_cond_destroy(&d->go);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void debug_attach(struct debug *d, bool attached)
{
	__atomic_store_n(&d->attached, attached, __ATOMIC_SEQ_CST);
}

/* ---- stopping ---- */

/* With the lock held: are all parked for the first time? */
static bool all_parked(struct debug *d)
{
	if (!d->stopping || (d->alive & ~d->parked))
		return false;
	d->stopping = false;
	d->stopped = true;
	return true;
}

static void tell(struct debug *d, bool stopped)
{
	if (stopped)
		d->cfg.stopped(d->cfg.opaque);
}

/* With the lock held. The caller kicks the CPUs afterwards. */
static void hold_all(struct debug *d)
{
	if (d->stopped)
		return;
	d->stopping = true;
	__atomic_store_n(&d->hold, d->all, __ATOMIC_SEQ_CST);
}

static void kick_others(struct debug *d, const struct vcpu *me)
{
	for (unsigned i = 0; i < vm_cpus(d->cfg.vm); i++)
		if (vm_vcpu(d->cfg.vm, i) != me)
			vcpu_kick(vm_vcpu(d->cfg.vm, i), EV_STOP);
}

void debug_pause(struct debug *d)
{
	bool stopped;

	pthread_mutex_lock(&d->lock);
	hold_all(d);
	stopped = all_parked(d);
	pthread_mutex_unlock(&d->lock);
	kick_others(d, NULL);
	tell(d, stopped);
}

bool debug_is_stopped(struct debug *d)
{
	bool stopped;

	pthread_mutex_lock(&d->lock);
	stopped = d->stopped;
	pthread_mutex_unlock(&d->lock);
	return stopped;
}

/* ---- the vCPU's side ---- */

void debug_started(struct debug *d)
{
	pthread_mutex_lock(&d->lock);
	d->alive = d->all;
	d->parked = 0;
	/* Why somebody had stopped before a reset says nothing any more. */
	d->untold = 0;
	for (unsigned i = 0; i < VM_MAX_VCPUS; i++)
		d->cpu[i].stop = DEBUG_NONE;
	/* Those who were waited for last time are to be waited for again. */
	if (d->stopped) {
		d->stopped = false;
		d->stopping = true;
		d->hold = d->all;
	}
	pthread_mutex_unlock(&d->lock);
}

bool debug_holds(const struct debug *d, const struct vcpu *v)
{
	return __atomic_load_n(&d->hold, __ATOMIC_SEQ_CST) & bit_of(v);
}

void debug_park(struct debug *d, struct vcpu *v)
{
	bool stopped;

	pthread_mutex_lock(&d->lock);
	d->parked |= bit_of(v);
	stopped = all_parked(d);
	pthread_mutex_unlock(&d->lock);
	tell(d, stopped);
	pthread_mutex_lock(&d->lock);
	while ((d->hold & bit_of(v)) && vm_why(d->cfg.vm) == VM_RUNNING)
		pthread_cond_wait(&d->go, &d->lock);
	d->parked &= ~bit_of(v);
	pthread_mutex_unlock(&d->lock);
}

static void stop_for(struct debug *d, struct vcpu *v, enum debug_stop why)
{
	pthread_mutex_lock(&d->lock);
	d->cpu[v->index].stop = why;
	d->untold |= bit_of(v);
	hold_all(d);
	pthread_mutex_unlock(&d->lock);
	kick_others(d, v);
}

void debug_hit(struct debug *d, struct vcpu *v)
{
	stop_for(d, v, d->cpu[v->index].stop);
}

void debug_woken(struct debug *d, struct vcpu *v)
{
	if (d->cpu[v->index].step && v->activity == ACT_RUNNING)
		stop_for(d, v, DEBUG_STEP);
}

void debug_shutdown(struct debug *d, struct vcpu *v)
{
	if (!__atomic_load_n(&d->attached, __ATOMIC_SEQ_CST))
		return;
	stop_for(d, v, DEBUG_SHUTDOWN);
}

void debug_left(struct debug *d, struct vcpu *v)
{
	pthread_mutex_lock(&d->lock);
	d->alive &= ~bit_of(v);
	pthread_mutex_unlock(&d->lock);
}

void debug_wake(struct debug *d)
{
	pthread_mutex_lock(&d->lock);
	pthread_cond_broadcast(&d->go);
	pthread_mutex_unlock(&d->lock);
}

/* ---- going on ---- */

/* Blocks are cut at each breakpoint; those that are cut for nothing cost only time. */
static bool cuts_are_stale(const struct debug *d)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(d->points.cuts); i++)
		n += (unsigned)__builtin_popcountll(d->points.cuts[i]);
	return n > d->points.breaks + OLD_CUTS_MAX;
}

static void cuts_make(struct debug *d)
{
	memset(d->points.cuts, 0, sizeof(d->points.cuts));
	for (unsigned i = 0; i < d->points.breaks; i++) {
		unsigned off = d->points.at[i] & ~PAGE_MASK;

		d->points.cuts[off / 64] |= BIT(off % 64);
	}
}

/*
 * gdb itself goes over a breakpoint that it was told of, but where CS has a base it does
 * not see that there is one: it compares the address with RIP.
 */
static void go_over(struct vcpu *v, struct vcpu_debug *c)
{
	c->past = (u32)(v->seg[CS].base + v->rip);
	c->over = c->stop == DEBUG_BREAK && !in_64bit(v) && c->past != v->rip;
}

/* What the CPU needs to know before it goes on. */
static void prepare(struct debug *d, unsigned i, enum debug_action action)
{
	struct vcpu *v = vm_vcpu(d->cfg.vm, i);
	struct vcpu_debug *c = &d->cpu[i];

	if (action != DEBUG_HOLD) {
		go_over(v, c);
		c->step = action == DEBUG_ONE;
		c->stop = DEBUG_NONE;
	}
	v->debug = c->step || d->points.breaks || d->points.watches ? c : NULL;
	v->cuts = d->points.cuts;
	if (d->touched & BIT(i))
		vcpu_sync(v);
	else if (d->new_watch)
		tlb_flush_all(v);
	vcpu_mode_changed(v);
	if (((d->touched & BIT(i)) || d->new_cuts) && engine_of(d)->push)
		engine_of(d)->push(v);
}

void debug_resume(struct debug *d, const enum debug_action *action)
{
	bool steps = false;
	u64 go = 0;

	for (unsigned i = 0; i < vm_cpus(d->cfg.vm); i++) {
		steps |= action[i] == DEBUG_ONE;
		if (action[i] != DEBUG_HOLD)
			go |= BIT(i);
	}
	/* While one steps over a breakpoint it is gone, and comes back. */
	if (d->new_cuts || (!steps && cuts_are_stale(d))) {
		cuts_make(d);
		d->new_cuts = true;
	}
	for (unsigned i = 0; i < vm_cpus(d->cfg.vm); i++)
		prepare(d, i, action[i]);
	d->new_cuts = d->new_watch = false;
	d->touched = 0;
	pthread_mutex_lock(&d->lock);
	d->untold &= ~go;
	d->stopped = false;
	__atomic_and_fetch(&d->hold, ~go, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&d->go);
	pthread_mutex_unlock(&d->lock);
}

int debug_next_stop(struct debug *d)
{
	int cpu = -1;

	pthread_mutex_lock(&d->lock);
	if (d->untold) {
		cpu = __builtin_ctzll(d->untold);
		d->untold &= d->untold - 1;
	}
	pthread_mutex_unlock(&d->lock);
	return cpu;
}

const struct vcpu_debug *debug_vcpu(const struct debug *d, unsigned cpu)
{
	return &d->cpu[cpu];
}

const struct debug_points *debug_points(const struct debug *d)
{
	return &d->points;
}

void debug_touched(struct debug *d, unsigned cpu)
{
	d->touched |= BIT(cpu);
}

/* ---- points ---- */

static int find_break(const struct debug *d, gva_t lin)
{
	for (unsigned i = 0; i < d->points.breaks; i++)
		if (d->points.at[i] == lin)
			return (int)i;
	return -1;
}

bool debug_add_break(struct debug *d, gva_t lin)
{
	struct debug_points *p = &d->points;
	unsigned off = lin & ~PAGE_MASK;

	if (find_break(d, lin) >= 0)
		return true;
	if (p->breaks == DEBUG_BREAKS)
		return false;
	p->at[p->breaks++] = lin;
	if (!(p->cuts[off / 64] >> (off % 64) & 1))
		d->new_cuts = true;
	return true;
}

void debug_remove_break(struct debug *d, gva_t lin)
{
	int i = find_break(d, lin);

	if (i >= 0)
		d->points.at[i] = d->points.at[--d->points.breaks];
}

static int find_watch(const struct debug *d, const struct debug_watch *w)
{
	for (unsigned i = 0; i < d->points.watches; i++) {
		const struct debug_watch *p = &d->points.watch[i];

		if (p->lin == w->lin && p->len == w->len && p->kind == w->kind)
			return (int)i;
	}
	return -1;
}

bool debug_add_watch(struct debug *d, const struct debug_watch *w)
{
	if (find_watch(d, w) >= 0)
		return true;
	if (d->points.watches == DEBUG_WATCHES)
		return false;
	d->points.watch[d->points.watches++] = *w;
	d->new_watch = true;
	return true;
}

void debug_remove_watch(struct debug *d, const struct debug_watch *w)
{
	int i = find_watch(d, w);

	if (i >= 0)
		d->points.watch[i] = d->points.watch[--d->points.watches];
}

void debug_clear(struct debug *d)
{
	d->points.breaks = d->points.watches = 0;
	/* Nothing is to be cut any more, and what was is to be decoded anew. */
	d->new_cuts = true;
}

/* ---- memory ---- */

static bool to_physical(struct vcpu *v, enum debug_space how, u64 addr, gpa_t *gpa)
{
	if ((how & DEBUG_SPACE_MASK) == DEBUG_PHYSICAL) {
		*gpa = addr;
		return true;
	}
	if (!in_long_mode(v))
		addr = (u32)addr;
	else if (!is_canonical(v, addr))
		return false;
	return walk_peek(v, addr, gpa);
}

/* Within a page. */
static bool move(struct vcpu *v, enum debug_space how, gpa_t gpa, u8 *to, const u8 *from,
		 u64 len)
{
	if (to)
		return phys_dma_read(v->phys, gpa, to, len) ||
		       ((how & DEBUG_MMIO) && phys_read(v->phys, gpa, to, len));
	/* ROM would swallow it. */
	if (phys_host(v->phys, gpa, len, true))
		return phys_dma_write(v->phys, gpa, from, len);
	return (how & DEBUG_MMIO) && !phys_host(v->phys, gpa, len, false) &&
	       phys_write(v->phys, gpa, from, len);
}

static u64 move_all(struct vcpu *v, enum debug_space how, u64 addr, u8 *to,
		    const u8 *from, u64 len)
{
	u64 done = 0;

	while (done < len) {
		u64 n = MIN(len - done, PAGE_SIZE - ((addr + done) & ~PAGE_MASK));
		gpa_t gpa;

		if (!to_physical(v, how, addr + done, &gpa) ||
		    !move(v, how, gpa, to ? to + done : NULL, from ? from + done : NULL,
			  n))
			break;
		done += n;
	}
	return done;
}

u64 debug_read(struct vcpu *v, enum debug_space how, u64 addr, void *buf, u64 len)
{
	return move_all(v, how, addr, buf, NULL, len);
}

u64 debug_write(struct vcpu *v, enum debug_space how, u64 addr, const void *buf, u64 len)
{
	return move_all(v, how, addr, NULL, buf, len);
}
