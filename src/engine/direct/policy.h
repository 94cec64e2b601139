/*
 * When user code runs directly: which address spaces, and which of their code.
 *
 * An address space does where traps are far enough apart by the translator's own clock,
 * and does not for a while, longer each time, where they turn out to be too near each
 * other. Of one that does, stretches are translated that have been short before: a
 * stretch is what runs from where the kernel returns to until the next trap, as after a
 * futex or in a loop that touches new memory. An alarm corrects that where it lasts.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include <time.h>

#include "x86/vcpu.h"

struct policy;

/* What keeping the shadow has taken, ever. */
struct upkeep {
	u64 looked; /* pages and tables compared */
	u64 orders; /* of the mapper */
};

/* The process that an address space runs in, and its traps since the lot began. */
struct tally {
	clockid_t clock; /* of its CPU time */
	u64 apart;       /* what traps should be, by that clock, with the trap itself */
	const struct upkeep *upkeep;
	unsigned traps, faults, all_faults, fault_lots;
	u64 at, upkeep_at, faults_at;
};

/* Never NULL. 'always': whatever the cost. 'ask': have translated code left soon; called
 * in signal context. */
struct policy *policy_new(struct vcpu *v, bool always, void (*ask)(void *opaque),
			  void *opaque);
void policy_free(struct policy *p);
/* Another thread owns the vCPU from now on. */
void policy_reset(struct policy *p);

/* The vCPU has come to user code from the kernel, and the other way. */
void policy_user_begins(struct policy *p);
void policy_user_ends(struct policy *p);
/* Translated code has been left, in user code or not. */
void policy_sample(struct policy *p, bool user);
/* Because the policy has asked for it? */
bool policy_asked(struct policy *p);

/* Should what comes next run directly? */
bool policy_wants(struct policy *p);
/* Not before the next sample. */
void policy_hold(struct policy *p);
/* The address space with this CR3 has to earn it again: it has lost its place, or is that
 * of another program now. */
void policy_anew(struct policy *p, u64 cr3);
/* The present one never runs directly. */
void policy_never(struct policy *p);

/* It will run directly, in a process where a trap alone costs so many nanoseconds. */
void policy_tally(struct tally *c, clockid_t clock, u64 trap,
		  const struct upkeep *upkeep);
/* This is the process, from now on. */
void policy_settled(struct policy *p, struct tally *c);
/* It begins to run, and has stopped. */
void policy_runs(struct policy *p, bool runs);
/* It has trapped; false: that is too often, it should not go on. */
bool policy_trap(struct policy *p);
/* It has faulted where the shadow could be filled. */
void policy_fault(struct policy *p);
