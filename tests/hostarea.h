/*
 * The host's own XSAVE images, of the standard format, and areas laid out as v->xsave is
 * (x86/xsave.h): where components lie differs between hosts. SDM volume 1 section 13.4.3.
 * Single-threaded.
 */
#pragma once

#include <cpuid.h>
#include <string.h>

#include "x86/xsave.h"

static inline bool host_is_amd(void)
{
	/* Asked once: CPUID is slow on a virtual host. */
	static unsigned vendor;
	unsigned a, c, d;

	if (!vendor)
		__get_cpuid(0, &a, &vendor, &c, &d);
	return vendor == signature_AMD_ebx || vendor == 0x6f677948; /* or Hygon */
}

/* As FXSAVE tells it; AMD's CPUs have bit 17. */
static inline u32 host_mxcsr_mask(void)
{
	u8 image[512] __attribute__((aligned(16)));
	u32 mask;

	__asm__ volatile("fxsave64 %0" : "=m"(image));
	memcpy(&mask, image + XSAVE_MXCSR_MASK, 4);
	return mask;
}

static inline unsigned host_component_at(unsigned i)
{
	static unsigned at[XCOMP_COUNT];
	unsigned a, c, d;

	if (!at[i])
		__get_cpuid_count(0xd, i, &a, &at[i], &c, &d);
	return at[i];
}

/* Legacy region, header and components 2 to 7; what the host does not have is zero. */
static inline void area_from_host(u8 *area, const u8 *image)
{
	memcpy(area, image, XSAVE_EXTENDED);
	for (unsigned i = 2; i < 8; i++) {
		const struct xcomp *c = &xcomp_layout[i];

		if (c->size && host_component_at(i))
			memcpy(area + c->offset, image + host_component_at(i), c->size);
		else
			memset(area + c->offset, 0, c->size);
	}
}

static inline void area_to_host(u8 *image, const u8 *area)
{
	memcpy(image, area, XSAVE_EXTENDED);
	for (unsigned i = 2; i < 8; i++) {
		const struct xcomp *c = &xcomp_layout[i];

		if (c->size && host_component_at(i))
			memcpy(image + host_component_at(i), area + c->offset, c->size);
	}
}
