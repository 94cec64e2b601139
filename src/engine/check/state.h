/*
 * Comparing two vCPUs, and telling what differs.
 */
#pragma once

#include "engine/check/lockstep.h"

/* Registers, RIP, flags. */
static inline bool gprs_same(const struct vcpu *a, const struct vcpu *b)
{
	u64 d = (a->cc ^ b->cc) | (a->flags ^ b->flags);

	for (unsigned i = 0; i < GPR_COUNT; i++)
		d |= a->gpr[i] ^ b->gpr[i];
	return !d;
}

/* All that a guest can see but vector and x87 registers, and all that is derived from it.
 */
bool state_same(const struct vcpu *a, const struct vcpu *b);
/* Vector and x87 registers; both are parked. */
bool vectors_same(const struct vcpu *a, const struct vcpu *b);
/* dst gets all of that from src, and what the host side says about features and the APIC.
 * Parked. */
void state_copy(struct vcpu *dst, struct vcpu *src);
