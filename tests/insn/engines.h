/* The engines that tests can name, and a vCPU laid out as an engine wants it. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "engine/check/check.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"
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

static inline size_t engine_front(const struct engine *e)
{
	return align_up(e->stack, PAGE_SIZE);
}

/* Zeroed, with the engine's stack below and its area behind (cpu/engine.h). */
static inline struct vcpu *engine_vcpu_new(const struct engine *e)
{
	size_t own = align_up(sizeof(struct vcpu), 64);
	u8 *p = xzalloc_aligned(PAGE_SIZE,
				engine_front(e) + align_up(own + e->area, PAGE_SIZE));
	struct vcpu *v = (struct vcpu *)(void *)(p + engine_front(e));

	v->engine_area = (u8 *)v + own;
	return v;
}

static inline void engine_vcpu_free(const struct engine *e, struct vcpu *v)
{
	if (v)
		free((u8 *)v - engine_front(e));
}
