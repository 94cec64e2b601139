/* What samples and notes of vCPU threads say (x86/profile.h), for people and programs. */
#pragma once

#include <stdio.h>

#include "base/types.h"

struct profiling;
struct vcpu_stats;
struct vm;

/* Where CPU time went, and rates of what is counted; several lines each. Nothing when
 * there are no samples. */
void times_print(FILE *out, struct vm *vm);
void rates_print(FILE *out, const struct vcpu_stats *s, struct vm *vm);
/* Members of a JSON object, each with a comma in front. */
void times_json(FILE *out, struct vm *vm);
void rates_json(FILE *out, const struct vcpu_stats *s, struct vm *vm);

/* The guest's functions that took most time and left translated code most often. Machine
 * stopped. */
void profile_print(FILE *out, const struct profiling *p, struct vm *vm);
/* A member, as above. */
void profile_json(FILE *out, const struct profiling *p, struct vm *vm);
