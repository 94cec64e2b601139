/*
 * What a debugger outside the machine wants to know of a vCPU. Nothing of it can be seen
 * by the guest: memory holds no breakpoint instructions, and DR0 to DR7, RF and TF are
 * the guest's own.
 *
 * Breakpoints are linear addresses, in whatever address space. A block of decoded code
 * begins and ends where the offset in the page is that of a breakpoint (v->cuts), and
 * such a block is never translated; so only there somebody has to compare addresses.
 * A watched page has no tags in the TLB, so each access to it comes to debugger_access().
 * While single-stepping, and from a hit on until the CPU has stopped, step_check makes
 * the engines go by single instructions, and no interrupt comes in between.
 *
 * Thread: the owner of the vCPU; cpu/debug.c while it is stopped.
 */
#pragma once

#include "base/bits.h"
#include "x86/vcpu.h"

#define DEBUG_BREAKS  256
#define DEBUG_WATCHES 64

enum { DEBUG_READ = 1, DEBUG_WRITE = 2 };

struct debug_watch {
	gva_t lin;
	u64 len;       /* bytes, not 0 */
	unsigned kind; /* DEBUG_READ, DEBUG_WRITE, or both */
};

/* Of all vCPUs; changed only while all of them are stopped. */
struct debug_points {
	unsigned breaks, watches;
	gva_t at[DEBUG_BREAKS];
	struct debug_watch watch[DEBUG_WATCHES];
	u64 cuts[4096 / 64]; /* offsets in a page at which some block was cut */
};

enum debug_stop {
	DEBUG_NONE,
	DEBUG_BREAK,
	DEBUG_WATCH,
	DEBUG_STEP,
	DEBUG_SHUTDOWN, /* triple fault: the CPU goes no further */
};

struct vcpu_debug {
	const struct debug_points *points;
	bool step; /* stop behind one instruction */
	bool over; /* there is no breakpoint at 'past', for one instruction */
	gva_t past;
	enum debug_stop stop; /* why it stopped, DEBUG_NONE before */
	unsigned watch;       /* DEBUG_WATCH: which */
	gva_t lin;            /* and the address that was accessed */
};

/* Is an instruction at this address to be stopped at? Notes why. */
bool debugger_stops_at(struct vcpu *v, gva_t lin);
/* An access was made. */
void debugger_access(struct vcpu *v, gva_t lin, unsigned len, unsigned kind);
/* Any watchpoint in this linear page. */
bool debugger_page_watched(const struct vcpu *v, gva_t lin);

/* Any watchpoint at all. */
static inline bool debugger_watches(const struct vcpu *v)
{
	return unlikely(v->debug != NULL) && v->debug->points->watches;
}

/* Has one been hit? */
static inline bool debugger_was_hit(const struct vcpu *v)
{
	return unlikely(v->debug != NULL) && v->debug->stop != DEBUG_NONE;
}

/* Must the engine execute one instruction at a time? */
static inline bool debugger_steps(const struct vcpu *v)
{
	return unlikely(v->debug != NULL) &&
	       (v->debug->step || v->debug->stop != DEBUG_NONE);
}

/*
 * A running CPU that is stepped takes no interrupts: each step would end in the handler
 * of the next timer tick.
 */
static inline bool debugger_holds_interrupts(const struct vcpu *v)
{
	return debugger_steps(v) && v->activity == ACT_RUNNING;
}

/* Does a block begin at this address, wherever it is mapped? */
static inline bool debugger_cuts(const struct vcpu *v, gpa_t gpa)
{
	unsigned off = gpa & 0xfff;

	return unlikely(v->cuts != NULL) && (v->cuts[off / 64] >> (off % 64) & 1);
}
