/*
 * Instructions that user code may execute, and that tell it about the host and not about
 * the guest: CPUID and others (Popek and Goldberg's sensitive but unprivileged ones).
 * The processor's instruction breakpoints stop at them; where a page has more of them
 * than there are breakpoints, at the beginnings of the functions that have them, which
 * are translated then as a whole. A page where that does not do either is executed by
 * translation.
 */
#pragma once

#include "engine/direct/process.h"
#include "x86/regs.h"
#include "x86/vcpu.h"

/* State components that the guest and the host may each have alone, or differently. */
#define XCR0_APART (XCR0_PKRU | XCR0_TILES)

/* A breakpoint, and the end of the function that it stands for; the same address: it is
 * for one instruction. */
struct sensitive {
	gva_t at, end;
};

/*
 * How many breakpoints the page at this linear address, with these bytes, seems to need;
 * where, if they are no more than 'max'. What is among them depends on what the host does
 * by itself. What only looks like a sensitive instruction in
 * the middle of other instructions does not count; so code that jumps there is missed, as
 * is code that comes into the middle of a function from another page.
 */
unsigned sensitive_find(struct vcpu *v, gva_t lin, const u8 *bytes,
			const struct direct_host *host, struct sensitive *s,
			unsigned max);
