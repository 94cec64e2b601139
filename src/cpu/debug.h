/*
 * Stopping the vCPUs of a machine for a debugger, letting them go or step, its break- and
 * watchpoints, and guest memory by linear address without side effects.
 *
 *   running --debug_pause(), or one CPU hits something--> stopping: all CPUs are kicked
 *   stopping --the last CPU parks--> stopped, cfg.stopped is called
 *   stopped --debug_resume()--> running; CPUs that were not named stay parked
 *
 * Resets and the end of a machine go on under it: parked threads leave when the machine
 * ends, and a machine that is started while it is to be stopped parks at once.
 */
#pragma once

#include "x86/debugger.h"

struct debug;
struct vm;

struct debug_config {
	struct vm *vm;
	/* All CPUs are parked. On any thread, no lock held. */
	void (*stopped)(void *opaque);
	void *opaque;
};

enum debug_action { DEBUG_HOLD, DEBUG_RUN, DEBUG_ONE }; /* stay, go, one instruction */

/* ---- One thread, which is not a vCPU's ---- */

/* Before vm_start(). */
struct debug *debug_new(const struct debug_config *cfg);
/* Machine stopped. */
void debug_free(struct debug *d);

/* Somebody is there to be told of crashes. Without, they end the machine as ever. */
void debug_attach(struct debug *d, bool attached);

/*
 * Ask all CPUs to stop; before vm_start() too. cfg.stopped follows, at once when no CPU
 * runs, unless the machine ends first.
 */
void debug_pause(struct debug *d);
/* All CPUs are parked, and the debugger has not let go any. */
bool debug_is_stopped(struct debug *d);

/* ---- The same thread, while debug_is_stopped() ---- */

/* One action for each CPU. */
void debug_resume(struct debug *d, const enum debug_action *action);

/*
 * A CPU that stopped for a reason of its own and was not asked for yet: its number, -1
 * when there is none.
 */
int debug_next_stop(struct debug *d);
const struct vcpu_debug *debug_vcpu(const struct debug *d, unsigned cpu);
const struct debug_points *debug_points(const struct debug *d);

/* A breakpoint at a linear address. False: there are too many. Twice is once. */
bool debug_add_break(struct debug *d, gva_t lin);
void debug_remove_break(struct debug *d, gva_t lin);
bool debug_add_watch(struct debug *d, const struct debug_watch *w);
void debug_remove_watch(struct debug *d, const struct debug_watch *w);
/* No points left. */
void debug_clear(struct debug *d);

/* Registers of the CPU were written: derived state and the engine follow on resuming. */
void debug_touched(struct debug *d, unsigned cpu);

enum debug_space {
	DEBUG_LINEAR,
	DEBUG_PHYSICAL,
	DEBUG_SPACE_MASK = 1,
	DEBUG_MMIO =
		2, /* devices too, with all that comes of it; otherwise RAM and ROM */
};
/*
 * Bytes that could be read or written from the front; page tables are those of 'v'. No
 * accessed or dirty bits, no faults. ROM is not written.
 */
u64 debug_read(struct vcpu *v, enum debug_space how, u64 addr, void *buf, u64 len);
u64 debug_write(struct vcpu *v, enum debug_space how, u64 addr, const void *buf, u64 len);

/* ---- For cpu/vm.c: vCPU threads, but for debug_started() and debug_wake() ---- */

/* vm_start(): these CPUs get threads. */
void debug_started(struct debug *d);
/* Between two runs of the engine: is this CPU to stay where it is? */
bool debug_holds(const struct debug *d, const struct vcpu *v);
/* Then it waits here for as long as the debugger wants, or until the machine ends. */
void debug_park(struct debug *d, struct vcpu *v);
/* VCPU_EXIT_DEBUG: v->debug->stop says why. */
void debug_hit(struct debug *d, struct vcpu *v);
/* A halted CPU took an event, which is a step. */
void debug_woken(struct debug *d, struct vcpu *v);
/* A triple fault, before it ends the machine: the debugger may want to see it first. */
void debug_shutdown(struct debug *d, struct vcpu *v);
/* The thread ends. */
void debug_left(struct debug *d, struct vcpu *v);
/* The machine ends. Any thread. */
void debug_wake(struct debug *d);
