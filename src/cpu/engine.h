/*
 * What the run loop asks of an engine: interp, translate, direct, kvm.
 */
#pragma once

#include "base/error.h"
#include "x86/vcpu.h"

struct vm;

/* Why run() came back. */
enum vcpu_exit {
	VCPU_EXIT_EVENT,    /* v->events has something for the run loop, or may have */
	VCPU_EXIT_HLT,      /* HLT was executed: v->activity is ACT_HLT */
	VCPU_EXIT_SHUTDOWN, /* triple fault: v->activity is ACT_SHUTDOWN */
	VCPU_EXIT_DEBUG,    /* a debugger's break, watch or step: v->debug->stop */
	VCPU_EXIT_ERROR,    /* the engine itself failed; logged */
	VCPU_EXIT_COUNT,
};

struct engine {
	const char *name;
	bool low;          /* struct vcpu must be below 2 GiB (host/lowmem.h) */
	unsigned cpus_max; /* 0: as many as a machine can have */
	/* Does it work on this host? 0, or -errno with the reason. Any thread. */
	int (*probe)(struct error *err);
	int (*vcpu_open)(struct vcpu *v, struct error *err);
	void (*vcpu_close)(struct vcpu *v);
	enum vcpu_exit (*run)(struct vcpu *v); /* vCPU thread */
	void (*kick)(struct vcpu *v); /* any thread, and signal handlers: leave run()
					 soon; may be NULL when v->events is looked at
					 anyway */
	void (*pull)(struct vcpu *v); /* engine's cached state -> v */
	void (*push)(struct vcpu *v); /* v was written from outside -> engine */
	/*
	 * In a signal handler on the vCPU thread, which was at this host address: is that
	 * guest code made into host code? Then *lin becomes the linear address it was
	 * made of, ~0 if that is not known. May be NULL.
	 */
	bool (*locate)(struct vcpu *v, u64 host, u64 *lin);
	/*
	 * vCPU thread: ns for which another thread that runs this CPU's code was ready
	 * and did not run, since the last time. For how much of that, and of what the
	 * vCPU thread waited, the two have kept each other waiting goes to *own. NULL:
	 * there are none.
	 */
	u64 (*delay)(struct vcpu *v, u64 *own);
};
