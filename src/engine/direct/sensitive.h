/*
 * Instructions that user code may execute, and that tell it about the host and not about
 * the guest: CPUID and others (Popek and Goldberg's sensitive but unprivileged ones).
 * The processor's instruction breakpoints stop at them; a page with more of them than it
 * has breakpoints is executed by translation.
 */
#pragma once

#include "x86/vcpu.h"

/*
 * How many the page at this linear address, with these bytes, seems to have; the
 * addresses of the first 'max' of them in 'at'. What only looks like one in the middle of
 * other instructions does not count; so code that jumps there is missed.
 */
unsigned sensitive_find(struct vcpu *v, gva_t lin, const u8 *bytes, gva_t *at,
			unsigned max);
