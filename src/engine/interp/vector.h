/*
 * Guest vector and x87 state: live in the host's registers, or parked in v->xsave.
 *
 * The interpreter and x86/ are compiled without vector registers, so once loaded the
 * guest's state stays in the host's until somebody needs those: vcpu_park() (x86/vcpu.h)
 * comes before all such code. The layout of parked state is in x86/xsave.h.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/xsave.h"

#define XCR0_VECTOR (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

/* Make the state live; it was parked. */
void vec_load(struct vcpu *v);
/* The vcpu.vec_park callback: what vcpu_park() calls for live state. */
void vec_save(struct vcpu *v);

static inline void vec_need(struct vcpu *v)
{
	if (unlikely(!v->vec_live))
		vec_load(v);
}

/*
 * Registers in parked state, for instructions done in C. 'len' is 1 to 64 bytes; whole
 * 16, 32 or 64 bytes are what is fast. vec_put() clears the rest of the 512 bits, as VEX
 * and EVEX instructions do; vec_merge() leaves it.
 */
void vec_get(const struct vcpu *v, unsigned reg, void *buf, unsigned len);
void vec_put(struct vcpu *v, unsigned reg, const void *buf, unsigned len);
void vec_merge(struct vcpu *v, unsigned reg, const void *buf, unsigned len);
u64 vec_k_get(const struct vcpu *v, unsigned k);
void vec_k_put(struct vcpu *v, unsigned k, u64 val);
/* The 64 bits of MM0 to MM7. */
u64 vec_mmx_get(const struct vcpu *v, unsigned reg);
