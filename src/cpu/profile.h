/*
 * A sampler for each vCPU thread, and the tables it fills (x86/profile.h).
 */
#pragma once

#include "cpu/engine.h"
#include "x86/profile.h"

/* What is wanted; all zero: nothing. */
struct profile_config {
	bool times; /* what the threads spend their time with */
	bool spots; /* where in the guest */
	void (*code_made)(void *opaque, const struct vcpu *v, u64 exec, u32 size,
			  u64 lin);
	void *code_opaque;
};

struct sampling;

/* Before the engine opens the vCPU. NULL: nothing is wanted. Sets v->profile. */
struct sampling *sampling_new(struct vcpu *v, const struct engine *e,
			      const struct profile_config *cfg);
/* The vCPU's thread is gone. */
void sampling_free(struct sampling *s);

/* The vCPU thread, at its beginning and end; 's' may be NULL. */
void sampling_begin(struct sampling *s);
void sampling_end(struct sampling *s);
