/*
 * A virtual machine as its CPUs see it: vCPU threads and the delivery of events into
 * them.
 *
 * SDM volume 3 sections 6.9 (priorities), 9.4 (INIT and SIPI), 11.8 (interrupt
 * acceptance). One thread per vCPU runs the engine until an event needs attention, a
 * HLT waits, or the machine ends.
 *
 * Threads: a struct cpu belongs to its thread; events are posted by any thread, and by
 * signal handlers, with vcpu_kick(). A CPU sleeps on the futex 'asleep', which it sets
 * before it looks at the events a last time, and who has posted one clears it and wakes
 * whom it finds there; what each side writes first is a full barrier. So either the
 * sleeper sees the event, or the word has changed and the host does not let it sleep, or
 * wakes it. One that waits for descriptors as well (struct vm_idle) has an eventfd for
 * that, which remembers.
 *
 * The timer of a CPU's local APIC rings a bell (time/clock.h): its signal posts EV_TIMER
 * on the CPU's own thread. One that interrupts the thread on its way to sleep clears
 * 'asleep', and the host looks at that again after a handler.
 *
 * Before a CPU decodes the first code of a page, all others lose what lets them write
 * there unseen (guard_others()). A CPU between two blocks is at a safe point: nothing
 * that it found in its TLB is still to be used. One that stays there says so by 'quiet',
 * and whoever holds its quiet_lock may then act on its TLB; that is one that sleeps, one
 * that has no thread, and one that waits for others in guard_others() itself, so two that
 * wait for each other do not wait for ever. Of one that runs it is asked, and answered
 * when run() is left, soon. No other lock is held meanwhile.
 */
#include "cpu/vm.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "cpu/debug.h"
#include "cpu/events.h"
#include "cpu/msrmap.h"
#include "host/lowmem.h"
#include "host/rundelay.h"
#include "host/slice.h"
#include "irq/lapic.h"
#include "mem/phys.h"
#include "pv/kvm.h"
#include "time/tsc.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/except.h"
#include "x86/xsave.h"

/* So often stolen time is looked at, where the guest wants to know: about a microsecond.
 */
#define STEAL_EVERY_NS 2000000

/* Pages that wait to be guarded: who asks waits for the answer. */
#define GUARDS VM_MAX_VCPUS

/* The least that a host takes. What a guest computes goes on until others want the CPU.
 */
#define SLICE_NS 100000

enum sleep { AWAKE, ON_FUTEX, ON_DESCRIPTORS };

struct cpu {
	struct vcpu v; /* first: vcpu_kick() finds the cpu by it */
	struct vm *vm;
	struct lapic *lapic;
	struct tsc tsc;
	struct vcpu_stats stats;
	struct sampling *sampling; /* NULL: not wanted */
	struct rundelay delay;
	vns_t steal_at; /* when to look again; 0: the guest does not want to know */
	pthread_t thread;
	bool started, opened;
	struct bell *bell; /* its thread's; NULL: none */
	u32 asleep;        /* atomic, a futex: enum sleep */
	int wake;          /* eventfd; -1: none */
	pthread_mutex_t quiet_lock;
	/* With quiet_lock. */
	bool quiet;
	unsigned guards; /* asked for and not done */
	gpa_t guard[GUARDS];
	u64 asked, answered;   /* how often */
	pthread_cond_t answer; /* 'answered' has changed */
};

struct vm {
	struct vm_config cfg;
	struct cpu *cpu[VM_MAX_VCPUS];
	unsigned cpus;
	enum vm_end end;  /* atomic; the first reason stays */
	unsigned running; /* atomic: vCPU threads that have not left */
	struct vcpu *fault_vcpu;
	struct debug *debug; /* NULL: no debugger can come */
	struct pv_kvm *kvm;
	struct vm_idle idle;
	void (*ending)(void *opaque);
	void (*ended)(void *opaque);
	void *end_opaque;
};

static struct cpu *cpu_of(struct vcpu *v)
{
	return container_of(v, struct cpu, v);
}

/* ---- one CPU asks the others ---- */

/* Do what was asked for. At a safe point, with quiet_lock. */
static void answer(struct cpu *c)
{
	if (c->answered == c->asked)
		return;
	for (unsigned i = 0; i < c->guards; i++)
		tlb_protect_code(&c->v, c->guard[i]);
	c->guards = 0;
	c->answered = c->asked;
	pthread_cond_broadcast(&c->answer);
}

/* From here to leave_quiet() this CPU does nothing that needs its TLB. */
static void enter_quiet(struct cpu *c)
{
	pthread_mutex_lock(&c->quiet_lock);
	answer(c);
	c->quiet = true;
	pthread_mutex_unlock(&c->quiet_lock);
}

static void leave_quiet(struct cpu *c)
{
	pthread_mutex_lock(&c->quiet_lock);
	c->quiet = false;
	pthread_mutex_unlock(&c->quiet_lock);
}

/* 0: it is done. Else what 'answered' will be then. */
static u64 ask(struct cpu *c, gpa_t page)
{
	u64 ticket = 0;

	pthread_mutex_lock(&c->quiet_lock);
	if (c->quiet) {
		tlb_protect_code(&c->v, page);
	} else {
		assert(c->guards < GUARDS);
		c->guard[c->guards++] = page;
		ticket = ++c->asked;
	}
	pthread_mutex_unlock(&c->quiet_lock);
	if (ticket)
		vcpu_kick(&c->v, EV_FLUSH);
	return ticket;
}

static void guard_others(struct vcpu *v, u64 page)
{
	struct cpu *me = cpu_of(v);
	struct vm *vm = me->vm;
	u64 ticket[VM_MAX_VCPUS] = { 0 };

	enter_quiet(me);
	for (unsigned i = 0; i < vm->cpus; i++)
		if (vm->cpu[i] != me)
			ticket[i] = ask(vm->cpu[i], page);
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct cpu *c = vm->cpu[i];

		if (!ticket[i])
			continue;
		pthread_mutex_lock(&c->quiet_lock);
		while (c->answered < ticket[i])
			pthread_cond_wait(&c->answer, &c->quiet_lock);
		pthread_mutex_unlock(&c->quiet_lock);
	}
	leave_quiet(me);
}

static void relax(struct vcpu *v)
{
	(void)v;
	sched_yield();
}

/* ---- set-up ---- */

static void cpu_free(struct cpu *c)
{
	if (!c)
		return;
	if (c->opened)
		c->vm->cfg.engine->vcpu_close(&c->v);
	msrmap_detach(&c->v);
	sampling_free(c->sampling);
	rundelay_fini(&c->delay);
	if (c->wake >= 0)
		close(c->wake);
	pthread_cond_destroy(&c->answer);
	pthread_mutex_destroy(&c->quiet_lock);
	munmap(c, sizeof(*c));
}

/* NULL: no memory. */
static struct cpu *cpu_alloc(const struct engine *e)
{
	void *p = e->low ? lowmem_new(sizeof(struct cpu))
			 : mmap(NULL, sizeof(struct cpu), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int cpu_new(struct vm *vm, unsigned index, struct error *err)
{
	struct cpu *c = cpu_alloc(vm->cfg.engine);
	struct vcpu *v;
	int ret;

	if (!c)
		return error_set(err, -ENOMEM, "no memory for CPU %u", index);
	v = &c->v;
	vm->cpu[index] = c;
	c->vm = vm;
	pthread_mutex_init(&c->quiet_lock, NULL);
	pthread_cond_init(&c->answer, NULL);
	c->quiet = true;
	c->wake = -1;
	rundelay_init(&c->delay);
	tsc_init(&c->tsc, vm->cfg.tsc_khz, clock_now(vm->cfg.clock));
	pv_kvm_set_tsc(vm->kvm, index, &c->tsc);
	v->index = index;
	v->apic_page = ~UINT64_C(0);
	v->phys = vm->cfg.phys;
	v->ports = vm->cfg.ports;
	v->stats = &c->stats;
	c->sampling = sampling_new(v, vm->cfg.engine, &vm->cfg.profile);
	if (vm->cpus > 1) {
		v->guard_others = guard_others;
		v->relax = relax;
	}
	cpuid_attach(v, vm->cfg.cpuid);
	ret = vm->cfg.engine->vcpu_open(v, err);
	if (ret)
		return ret;
	c->opened = true;
	vcpu_reset(v, false);
	return 0;
}

static bool offers(const struct vm *vm, enum cpu_feature f)
{
	return vm->cfg.cpuid->features[f / 32] >> (f % 32) & 1;
}

struct vm *vm_new(const struct vm_config *cfg, struct error *err)
{
	struct vm *vm = xzalloc(sizeof(*vm));

	vm->cfg = *cfg;
	vm->cpus = cfg->cpus;
	vm->kvm = pv_kvm_new(
		&(struct pv_kvm_config){ .phys = cfg->phys,
					 .clock = cfg->clock,
					 .cpus = cfg->cpus,
					 .system_time = offers(vm, FEAT_KVMCLOCK),
					 .stable = offers(vm, FEAT_KVMCLOCK_STABLE),
					 .steal_time = offers(vm, FEAT_KVM_STEAL_TIME) });
	for (unsigned i = 0; i < cfg->cpus; i++) {
		if (cpu_new(vm, i, err)) {
			vm_free(vm);
			return NULL;
		}
	}
	return vm;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	for (unsigned i = 0; i < vm->cpus; i++)
		cpu_free(vm->cpu[i]);
	pv_kvm_free(vm->kvm);
	free(vm);
}

unsigned vm_cpus(const struct vm *vm)
{
	return vm->cpus;
}

const struct engine *vm_engine(const struct vm *vm)
{
	return vm->cfg.engine;
}

void vm_set_debug(struct vm *vm, struct debug *d)
{
	vm->debug = d;
}

struct vcpu *vm_vcpu(struct vm *vm, unsigned index)
{
	return &vm->cpu[index]->v;
}

struct tsc *vm_tsc(struct vm *vm, unsigned index)
{
	return &vm->cpu[index]->tsc;
}

struct pv_kvm *vm_kvm(struct vm *vm)
{
	return vm->kvm;
}

void vm_set_lapic(struct vm *vm, unsigned index, struct lapic *lapic)
{
	struct cpu *c = vm->cpu[index];

	c->lapic = lapic;
	msrmap_attach(&c->v, &(struct msrmap){ .lapic = lapic,
					       .tsc = &c->tsc,
					       .clock = vm->cfg.clock,
					       .kvm = vm->kvm,
					       .cpu = index });
	vcpu_apic_base_changed(&c->v);
}

void vm_reset_cpus(struct vm *vm)
{
	vns_t now = clock_now(vm->cfg.clock); /* one for all, so the TSCs are in step */

	for (unsigned i = 0; i < vm->cpus; i++) {
		struct cpu *c = vm->cpu[i];

		vcpu_reset(&c->v, false);
		__atomic_store_n(&c->v.events, 0, __ATOMIC_SEQ_CST);
		tsc_init(&c->tsc, vm->cfg.tsc_khz, now);
		if (c->lapic)
			lapic_reset(c->lapic);
		if (i)
			c->v.activity = ACT_WAIT_SIPI;
		if (vm->cfg.engine->push)
			vm->cfg.engine->push(&c->v);
	}
	pv_kvm_reset(vm->kvm);
	vm->fault_vcpu = NULL;
}

/* ---- events ---- */

static void wake_poll(const struct cpu *c)
{
	u64 one = 1;

	/* Cannot fail: the counter does not come near its end. */
	if (write(c->wake, &one, sizeof(one)) < 0)
		return;
}

void vcpu_kick(struct vcpu *v, u32 events)
{
	struct cpu *c = cpu_of(v);

	vcpu_post(v, events);
	if (c->vm->cfg.engine->kick)
		c->vm->cfg.engine->kick(v);
	if (!__atomic_load_n(&c->asleep, __ATOMIC_SEQ_CST))
		return;
	switch (__atomic_exchange_n(&c->asleep, AWAKE, __ATOMIC_SEQ_CST)) {
	case ON_FUTEX:
		syscall(SYS_futex, &c->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		break;
	case ON_DESCRIPTORS: wake_poll(c); break;
	default: break;
	}
}

/* In signal context on the CPU's thread. */
static void rung(void *cpu)
{
	struct cpu *c = cpu;

	vcpu_kick(&c->v, EV_TIMER);
}

static void event_clear(struct vcpu *v, u32 events)
{
	__atomic_and_fetch(&v->events, ~events, __ATOMIC_SEQ_CST);
}

void vcpu_apic_event(void *vcpu, unsigned lapic_events)
{
	static const struct {
		unsigned lapic;
		u32 vcpu;
	} map[] = {
		{ LAPIC_EV_INTR, EV_INTR }, { LAPIC_EV_NMI, EV_NMI },
		{ LAPIC_EV_SMI, EV_SMI },   { LAPIC_EV_INIT, EV_INIT },
		{ LAPIC_EV_SIPI, EV_SIPI },
	};
	u32 events = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(map); i++)
		if (lapic_events & map[i].lapic)
			events |= map[i].vcpu;
	/* One that came before an INIT is void. */
	if (events & EV_INIT)
		event_clear(vcpu, EV_SIPI);
	vcpu_kick(vcpu, events);
}

void vcpu_apic_base_changed(struct vcpu *v)
{
	struct cpu *c = cpu_of(v);
	u64 base;

	v->apic_ops = &lapic_mmio_ops;
	v->apic = c->lapic;
	v->apic_page = c->lapic && lapic_window(c->lapic, &base) ? base : ~UINT64_C(0);
	tlb_flush_all(v);
}

enum vm_end vm_why(struct vm *vm)
{
	return __atomic_load_n(&vm->end, __ATOMIC_SEQ_CST);
}

/* As long as the debugger wants this CPU to stay where it is. */
static void park(struct cpu *c)
{
	if (!c->vm->debug || !debug_holds(c->vm->debug, &c->v))
		return;
	enter_quiet(c);
	debug_park(c->vm->debug, &c->v);
	leave_quiet(c);
}

static void shut_down(struct cpu *c)
{
	enum vm_end none = VM_RUNNING;

	c->v.activity = ACT_SHUTDOWN;
	if (c->vm->debug)
		debug_shutdown(c->vm->debug, &c->v);
	park(c);
	if (__atomic_compare_exchange_n(&c->vm->end, &none, VM_TRIPLE_FAULT, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		c->vm->fault_vcpu = &c->v;
	vm_end(c->vm, VM_TRIPLE_FAULT);
}

/* INIT: the registers and the APIC; processors other than the first then wait for SIPI.
 */
static void take_init(struct cpu *c)
{
	/* A SIPI may be right behind the INIT; it stays. */
	event_clear(&c->v, EV_INIT | EV_NMI | EV_SMI);
	vcpu_reset(&c->v, true);
	lapic_init(c->lapic);
	pv_kvm_init(c->vm->kvm, c->v.index);
	c->v.activity =
		lapic_base_read(c->lapic) & APIC_BASE_BSP ? ACT_RUNNING : ACT_WAIT_SIPI;
}

/*
 * A SIPI that pends came after the last INIT, see vcpu_apic_event(). Not while there is
 * an INIT to be taken first.
 */
static bool claim_sipi(struct vcpu *v)
{
	u32 ev = vcpu_events(v);

	while ((ev & (EV_INIT | EV_SIPI)) == EV_SIPI)
		if (__atomic_compare_exchange_n(&v->events, &ev, ev & ~(u32)EV_SIPI,
						false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			return true;
	return false;
}

/* SIPI: real mode at vector * 4 KiB. Ignored by a CPU that does not wait. */
static void take_sipi(struct cpu *c)
{
	struct vcpu *v = &c->v;

	if (v->activity != ACT_WAIT_SIPI)
		return;
	vcpu_sipi(v, lapic_sipi_vector(c->lapic));
	vcpu_sync(v);
}

static void take_nmi(struct cpu *c)
{
	event_clear(&c->v, EV_NMI);
	c->v.activity = ACT_RUNNING;
	c->stats.exception[VEC_NMI]++;
	if (!except_nmi(&c->v))
		shut_down(c);
}

/*
 * The bit is cleared before the APIC is asked, so that an interrupt that arrives in
 * between sets it again.
 */
static void take_intr(struct cpu *c)
{
	int vector;

	event_clear(&c->v, EV_INTR);
	if (!c->lapic || !lapic_has_intr(c->lapic))
		return;
	vector = lapic_take(c->lapic);
	if (vector < 0)
		return;
	c->v.activity = ACT_RUNNING;
	c->stats.interrupt[vector & 0xff]++;
	if (!except_interrupt(&c->v, (u8)vector)) {
		shut_down(c);
		return;
	}
	if (lapic_has_intr(c->lapic))
		vcpu_post(&c->v, EV_INTR);
}

/* Act on what can be acted on. */
static void take_events(struct cpu *c)
{
	struct vcpu *v = &c->v;
	u32 ev = vcpu_events(v);

	if (ev & EV_STOP)
		event_clear(v, EV_STOP);
	if (ev & EV_TIMER) {
		/* Cleared first: what rings from here on does so once more. */
		event_clear(v, EV_TIMER);
		if (c->bell)
			bell_run(c->bell);
	}
	if (ev & EV_FLUSH) {
		event_clear(v, EV_FLUSH);
		pthread_mutex_lock(&c->quiet_lock);
		answer(c);
		pthread_mutex_unlock(&c->quiet_lock);
	}
	if (ev & EV_SMI)
		event_clear(v, EV_SMI);
	if ((ev & EV_INIT) && c->lapic)
		take_init(c);
	if (c->lapic && claim_sipi(v))
		take_sipi(c);
	if (v->activity == ACT_WAIT_SIPI || v->activity == ACT_SHUTDOWN)
		return;
	if ((vcpu_events(v) & EV_NMI) && vcpu_event_ready(v, EV_NMI))
		take_nmi(c);
	if ((vcpu_events(v) & EV_INTR) && vcpu_event_ready(v, EV_INTR))
		take_intr(c);
}

/*
 * Wait in the place of another thread, for what that waits for too, and do its work then.
 * False: there is none.
 */
static bool wait_in_place(struct cpu *c)
{
	const struct vm_idle *idle = &c->vm->idle;
	struct vm_wait w = { .wake = c->wake };
	bool kicked;
	u64 ignored;

	if (!idle->begin || c->wake < 0 || !idle->begin(idle->opaque, &w))
		return false;
	__atomic_store_n(&c->asleep, ON_DESCRIPTORS, __ATOMIC_SEQ_CST);
	if (vcpu_event_ready(&c->v, vcpu_events(&c->v)) ||
	    poll(w.fds, w.count, w.timeout) < 0)
		for (unsigned i = 0; i < w.count; i++)
			w.fds[i].revents = 0;
	kicked = __atomic_exchange_n(&c->asleep, AWAKE, __ATOMIC_SEQ_CST) == AWAKE;
	/* What is not yet written ends the next wait. */
	if ((kicked || w.fds[0].revents) && read(c->wake, &ignored, sizeof(ignored)) < 0)
		ignored = 0;
	profile_doing(&c->v, DOING_DEVICES);
	idle->end(idle->opaque, &w);
	profile_doing(&c->v, DOING_WAIT);
	return true;
}

/* Sleep until something can be acted on. */
static void wait_event(struct cpu *c)
{
	struct vcpu *v = &c->v;

	enter_quiet(c);
	profile_doing(v, DOING_WAIT);
	while (!vcpu_event_ready(v, vcpu_events(v))) {
		if (wait_in_place(c))
			continue;
		__atomic_store_n(&c->asleep, ON_FUTEX, __ATOMIC_SEQ_CST);
		if (vcpu_event_ready(v, vcpu_events(v)))
			break;
		syscall(SYS_futex, &c->asleep, FUTEX_WAIT_PRIVATE, ON_FUTEX, NULL, NULL,
			0);
	}
	__atomic_store_n(&c->asleep, AWAKE, __ATOMIC_SEQ_CST);
	profile_doing(v, DOING_LOOP);
	leave_quiet(c);
}

/* Before the guest's tick is delivered, which adds up what its CPU did. */
static void note_steal(struct cpu *c, vns_t now)
{
	const struct engine *e = c->vm->cfg.engine;
	bool first = !c->steal_at;
	u64 ns, own = 0;

	if (now < c->steal_at)
		return;
	if (!pv_kvm_wants_steal(c->vm->kvm, c->v.index)) {
		c->steal_at = 0;
		return;
	}
	c->steal_at = now + STEAL_EVERY_NS;
	ns = rundelay_more(&c->delay, getpid(), gettid());
	if (e->delay)
		ns += e->delay(&c->v, &own);
	ns = ns > own ? ns - own : 0;
	if (ns && !first)
		pv_kvm_add_steal(c->vm->kvm, c->v.index, ns);
}

static void *cpu_thread(void *arg)
{
	struct cpu *c = arg;
	struct vm *vm = c->vm;
	struct clock *clk = vm->cfg.clock;

	/* Another thread than the last time, and another time perhaps. */
	rundelay_fini(&c->delay);
	c->steal_at = 0;
	sampling_begin(c->sampling);
	slice_set(SLICE_NS);
	if (c->lapic)
		c->bell = lapic_bell(c->lapic, rung, c);
	leave_quiet(c);
	while (vm_why(vm) == VM_RUNNING) {
		vns_t start, now;

		park(c);
		if (vm_why(vm) != VM_RUNNING)
			break;
		start = clock_now(clk);
		if (c->v.activity != ACT_RUNNING) {
			wait_event(c);
			now = clock_now(clk);
			c->stats.ns_idle += (u64)(now - start);
			note_steal(c, now);
			take_events(c);
			if (vm->debug)
				debug_woken(vm->debug, &c->v);
			continue;
		}
		switch (vm->cfg.engine->run(&c->v)) {
		case VCPU_EXIT_EVENT: c->stats.exit_event++; break;
		case VCPU_EXIT_HLT: c->stats.exit_hlt++; break;
		case VCPU_EXIT_SHUTDOWN: shut_down(c); break;
		/* Events wait until the debugger lets it go. */
		case VCPU_EXIT_DEBUG: debug_hit(vm->debug, &c->v); continue;
		default: vm_end(vm, VM_FAILED); break;
		}
		profile_doing(&c->v, DOING_LOOP);
		now = clock_now(clk);
		c->stats.ns_run += (u64)(now - start);
		note_steal(c, now);
		take_events(c);
	}
	if (vm->debug)
		debug_left(vm->debug, &c->v);
	enter_quiet(c);
	bell_free(c->bell);
	c->bell = NULL;
	sampling_end(c->sampling);
	if (!__atomic_sub_fetch(&vm->running, 1, __ATOMIC_SEQ_CST) && vm->ended)
		vm->ended(vm->end_opaque);
	return NULL;
}

/* ---- running ---- */

void vm_on_end(struct vm *vm, void (*ending)(void *opaque), void (*ended)(void *opaque),
	       void *opaque)
{
	vm->ending = ending;
	vm->ended = ended;
	vm->end_opaque = opaque;
}

void vm_on_idle(struct vm *vm, const struct vm_idle *idle)
{
	vm->idle = *idle;
	/* A CPU without one sleeps as ever. */
	for (unsigned i = 0; i < vm->cpus; i++)
		if (vm->cpu[i]->wake < 0)
			vm->cpu[i]->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int vm_start(struct vm *vm, struct error *err)
{
	__atomic_store_n(&vm->end, VM_RUNNING, __ATOMIC_SEQ_CST);
	__atomic_store_n(&vm->running, vm->cpus, __ATOMIC_SEQ_CST);
	if (vm->debug)
		debug_started(vm->debug);
	/* What decoded code there is belongs to threads that are gone. */
	for (unsigned i = 0; i < vm->cpus && vm->cfg.engine->push; i++)
		vm->cfg.engine->push(&vm->cpu[i]->v);
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct cpu *c = vm->cpu[i];
		int ret = pthread_create(&c->thread, NULL, cpu_thread, c);

		if (ret) {
			__atomic_sub_fetch(&vm->running, vm->cpus - i, __ATOMIC_SEQ_CST);
			vm_end(vm, VM_FAILED);
			vm_join(vm);
			return error_set(err, -ret,
					 "cannot start a thread for CPU %u: %s", i,
					 strerror(ret));
		}
		c->started = true;
	}
	return 0;
}

enum vm_end vm_join(struct vm *vm)
{
	for (unsigned i = 0; i < vm->cpus; i++) {
		struct cpu *c = vm->cpu[i];

		if (c->started)
			pthread_join(c->thread, NULL);
		c->started = false;
	}
	return vm_why(vm);
}

void vm_end(struct vm *vm, enum vm_end why)
{
	enum vm_end none = VM_RUNNING;

	__atomic_compare_exchange_n(&vm->end, &none, why, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < vm->cpus; i++)
		vcpu_kick(&vm->cpu[i]->v, EV_STOP);
	if (vm->debug)
		debug_wake(vm->debug);
	if (vm->ending)
		vm->ending(vm->end_opaque);
}

struct vcpu *vm_fault_vcpu(struct vm *vm)
{
	return vm->fault_vcpu;
}

void vm_stats(struct vm *vm, struct vcpu_stats *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (unsigned i = 0; i < vm->cpus; i++) {
		const u64 *from = (const u64 *)&vm->cpu[i]->stats;
		u64 *to = (u64 *)sum;

		for (size_t n = 0; n < sizeof(*sum) / sizeof(u64); n++)
			to[n] += from[n];
	}
}

const struct profile *vm_profile(struct vm *vm, unsigned index)
{
	return vm->cpu[index]->v.profile;
}
