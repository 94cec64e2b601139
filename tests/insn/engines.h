/* The engines that tests can name, and a vCPU laid out as an engine wants it. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "engine/check/check.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"
#include "host/lowmem.h"
#include "mem/phys.h"

static inline const struct engine *engine_by_name(const char *name)
{
	static const struct engine *const engines[] = {
		&engine_interp,        &engine_translate,      &engine_translate_eager,
		&engine_translate_one, &engine_translate_tiny, &engine_translate_slow,
		&engine_check,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}

static inline struct vcpu *engine_vcpu_new(void)
{
	return lowmem_new(sizeof(struct vcpu));
}

static inline void engine_vcpu_free(struct vcpu *v)
{
	lowmem_free(v, sizeof(*v));
}
