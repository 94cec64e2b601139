/* The engines that tests can name. */
#pragma once

#include <string.h>

#include "engine/check/check.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"

static inline const struct engine *engine_by_name(const char *name)
{
	static const struct engine *const engines[] = {
		&engine_interp,	       &engine_translate,      &engine_translate_eager,
		&engine_translate_one, &engine_translate_tiny, &engine_translate_slow,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
		if (!strcmp(engines[i]->name, name))
			return engines[i];
	return NULL;
}
