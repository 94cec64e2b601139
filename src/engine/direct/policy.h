/*
 * When user code runs directly: which address spaces, and which of their code.
 *
 * A stretch is what runs from where the kernel returns to until the next trap. Each
 * address space has an account. While it is translated, its stretches earn what running
 * them directly would have saved, less what the traps would have cost; it runs directly
 * once that pays for the pages that have to be mapped first. Then the account goes on:
 * where traps and upkeep have used it up it is translated for a while, longer each time.
 * Of one that runs directly, stretches are translated that have been short before, as
 * after a futex or in a loop that touches new memory. An alarm corrects that where it
 * lasts.
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

/* The process that an address space runs in, its account, and its traps since the lot
 * began. */
struct tally {
	clockid_t clock; /* of its CPU time */
	u64 trap;        /* what one took of it when the process was made */
	u64 least; /* that a stop of any lot took, with what ran before it; 0: none */
	const struct upkeep *upkeep;
	i64 balance; /* nanoseconds */
	bool away;   /* it has not run directly for a while */
	unsigned traps, faults;
	u64 at;
	struct upkeep before;
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
/* The address space with this CR3 has to earn it again, as it has lost its place. */
void policy_lost(struct policy *p, u64 cr3);
/* It is that of another program now, of which nothing is known. */
void policy_anew(struct policy *p, u64 cr3);
/* The present one never runs directly. */
void policy_never(struct policy *p);

/* A stop that finds nothing cold has taken the VMM so many nanoseconds. */
void policy_stop_took(struct policy *p, u64 own);
/* It will run directly, in a process where a trap alone costs so many nanoseconds. */
void policy_tally(struct tally *c, clockid_t clock, u64 trap,
		  const struct upkeep *upkeep);
/* This is the process, from now on. */
void policy_settled(struct policy *p, struct tally *c);
/* It is up to date and begins to run, and has stopped. */
void policy_runs(struct policy *p, bool runs);
/* It has trapped; false: that is too often, it should not go on. */
bool policy_trap(struct policy *p);
/* It has faulted where the shadow could be filled. */
void policy_fault(struct policy *p);
