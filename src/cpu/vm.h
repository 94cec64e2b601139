/*
 * A virtual machine as its CPUs see it: memory, ports, clock, vCPU threads.
 *
 * The board (machine/) creates the chips and hands the CPU side their hooks;
 * this part runs the vCPU threads and delivers interrupts into them.
 */
#pragma once

#include "base/error.h"
#include "cpu/engine.h"
#include "cpu/profile.h"
#include "time/clock.h"
#include "x86/stats.h"

struct vm;
struct debug;
struct io_ports;
struct lapic;
struct phys;
struct pv_kvm;
struct tsc;

#define VM_MAX_VCPUS 64

/* Why a machine ended. */
enum vm_end {
	VM_RUNNING,
	VM_POWEROFF,     /* the guest switched it off */
	VM_RESET,        /* the guest asked for a reset */
	VM_TRIPLE_FAULT, /* a CPU shut down */
	VM_STOPPED,      /* somebody outside asked */
	VM_EXITED,       /* the guest ended the process: isa-debug-exit */
	VM_FAILED,       /* the host or the engine failed; logged */
};

struct vm_config {
	const struct engine *engine;
	unsigned cpus;
	const struct cpuid_table *cpuid; /* borrowed for the life of the VM */
	struct phys *phys;
	struct io_ports *ports;
	struct clock *clock;
	u64 tsc_khz;
	struct profile_config profile;
};

/* Machine stopped. */
struct vm *vm_new(const struct vm_config *cfg, struct error *err);
void vm_free(struct vm *vm);
unsigned vm_cpus(const struct vm *vm);
struct vcpu *vm_vcpu(struct vm *vm, unsigned index);
struct tsc *vm_tsc(struct vm *vm, unsigned index);
struct pv_kvm *vm_kvm(struct vm *vm);
/* The board gives each vCPU its local APIC, created with vcpu_apic_event() as event
 * callback. Borrowed. */
void vm_set_lapic(struct vm *vm, unsigned index, struct lapic *lapic);
/* All CPUs to their power-up state: the boot CPU at the reset vector, the others waiting
 * for SIPI. */
void vm_reset_cpus(struct vm *vm);

/* Has the vCPU threads stop where a debugger wants (cpu/debug.h). Borrowed; NULL: none.
 */
void vm_set_debug(struct vm *vm, struct debug *d);
const struct engine *vm_engine(const struct vm *vm);

/* Start the vCPU threads; vm_ended() tells when it is over. */
int vm_start(struct vm *vm, struct error *err);
/*
 * Both on any thread, set before vm_start(): 'ending' whenever vm_end() is called, with
 * whatever locks its caller holds; 'ended' once, when all vCPU threads have left.
 */
void vm_on_end(struct vm *vm, void (*ending)(void *opaque), void (*ended)(void *opaque),
	       void *opaque);
/* Wait until all vCPU threads have left. Why it ended. The VM can be started again
 * afterwards. */
enum vm_end vm_join(struct vm *vm);

/* Any thread. The first reason stays. Returns at once; vCPUs stop at their next safe
 * point. */
void vm_end(struct vm *vm, enum vm_end why);
/* VM_RUNNING, or why it ends. Any thread. */
enum vm_end vm_why(struct vm *vm);
/* Which vCPU shut down, for VM_TRIPLE_FAULT; NULL otherwise. Machine stopped. */
struct vcpu *vm_fault_vcpu(struct vm *vm);

/* Any thread, and signal handlers: post events to a vCPU and make it look. Also the
 * lapic's event callback (opaque is the vcpu). */
void vcpu_kick(struct vcpu *v, u32 events);
void vcpu_apic_event(void *vcpu, unsigned lapic_events);
/* The lapic's base_changed callback: where this CPU sees its window. Owning thread, or
 * machine stopped. */
void vcpu_apic_base_changed(struct vcpu *v);

/*
 * A thread that only waits for what then wakes a CPU costs a second wake-up each time; so
 * a CPU that has nothing to do may wait in its place.
 */
struct vm_wait {
	int wake;           /* the CPU's own */
	struct pollfd *fds; /* begin()'s: first that one for POLLIN, then the others */
	unsigned count;
	int timeout; /* milliseconds; -1: none */
	void *of;    /* for begin() to tell end() */
};

/* On the CPU's thread, without locks, between two blocks of guest code. */
struct vm_idle {
	/* False: there is nothing to wait for now. */
	bool (*begin)(void *opaque, struct vm_wait *w);
	/* After waiting, or not, if there was no time: 'revents' tell. */
	void (*end)(void *opaque, const struct vm_wait *w);
	void *opaque;
};
/* Before vm_start(); copied. */
void vm_on_idle(struct vm *vm, const struct vm_idle *idle);

/* Sums over all vCPUs. Exact when stopped, approximate while running. */
void vm_stats(struct vm *vm, struct vcpu_stats *sum);
/* Of one vCPU; NULL: nothing was wanted. The same. */
const struct profile *vm_profile(struct vm *vm, unsigned index);
