/*
 * Direct execution: guest user code runs unmodified on the processor, in a process whose
 * address space is the shadow of the guest's page tables (process.h, shadow.h).
 *
 * A part of the translator: it pays where code computes for a while, as every trap costs
 * some ten microseconds; the policy is here. What trapped is executed by the interpreter.
 *
 * What must be so for a program not to notice: the CPU offers it what the host's has
 * (isa and XCR0), and selectors are those that the host's kernel gives.
 *
 * Thread: the owner of the vCPU; direct_kick() any thread.
 */
#pragma once

#include "base/error.h"
#include "x86/vcpu.h"

struct direct;

/* What the host does for user code as it should (trial.c). */
struct direct_host {
	bool tsc_traps;  /* RDTSC and RDTSCP, as has been asked for */
	bool pmc_traps;  /* RDPMC */
	bool bases_kept; /* WRFSBASE and WRGSBASE have an effect, or trap */
	bool nt_kept;    /* RFLAGS.NT */
	unsigned breaks; /* instruction breakpoints that there are: 4, or none */
};

/* Does it let user code run directly? 0, or -errno with the reason. Any thread. */
int direct_probe(struct direct_host *host, struct error *err);

/* Never NULL. 'always': as soon as it is possible, for tests. 'ask': have translated code
 * left soon; called in signal context. */
struct direct *direct_new(struct vcpu *v, bool always, void (*ask)(void *opaque),
			  void *opaque);
void direct_free(struct direct *d);
/* Another thread owns the vCPU from now on: processes belong to the one that made them.
 * No thread runs it. */
void direct_reset(struct direct *d);

/* A kick has found the vCPU in user code, or not. */
void direct_sample(struct direct *d, bool user);
/* The vCPU has come to user code from the kernel, and the other way. */
void direct_user_begins(struct direct *d);
void direct_user_ends(struct direct *d);
/* For a translator that has been asked to leave its code: was it by us, to look again
 * whether what runs should run directly? */
bool direct_asked(struct direct *d);
/* Should what comes next be executed directly? */
bool direct_wanted(struct direct *d);
/* Will it say no, and direct_aside() too? */
bool direct_rests(const struct direct *d);
/* Or, as it says no, be interpreted, block by block? Direct execution goes on soon. */
bool direct_aside(struct direct *d);

enum direct_result {
	DIRECT_ON,   /* look at what is pending, and go on */
	DIRECT_STEP, /* the next instruction is for the interpreter */
	DIRECT_LOST, /* the process is gone, and the guest's state with it */
};

/* direct_wanted() has said so. Vector state is parked. */
enum direct_result direct_run(struct direct *d, const bool *kicked);
/* ns for which the process that ran last was ready and did not run, since the last time
 * that it was asked about; for how much of that and of what this thread waited the two
 * have kept each other waiting goes to *own. Vector state is parked. */
u64 direct_delay(struct direct *d, u64 *own);
/* After *kicked is set. True: it is in direct_run(), or was just now, and leaves it. */
bool direct_kick(struct direct *d);

/* For the vCPU's callbacks of these names. */
void direct_tlb_flushed(struct direct *d, u64 page, unsigned shift);
void direct_code_protected(struct direct *d, gpa_t page);
