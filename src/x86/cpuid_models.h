/* The CPU models one can ask for with -cpu. */
#pragma once

#include "x86/cpuid.h"

struct cpu_model {
	const char *name;
	const char *alias; /* another name, or NULL */
	enum cpu_vendor vendor;
	u8 family;
	u8 model;
	u8 stepping;
	u8 phys_bits;
	u32 level, xlevel; /* highest basic and extended leaf */
	const char *brand;
	const char
		*features; /* separated by spaces; what cannot be offered is left out */
};

/* NULL when i is too large. */
const struct cpu_model *cpu_model_at(unsigned i);
/* By name or alias, letters of either case, variants like Haswell-v2 too; NULL: unknown.
 */
const struct cpu_model *cpu_model_find(const char *name, size_t len);
/* What `max` is on a host of this vendor, besides its features. */
const struct cpu_model *cpu_model_max(enum cpu_vendor vendor);
