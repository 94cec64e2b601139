/* The engines of this build: the one list of them. */
#pragma once

#include <stdio.h>

#include "cpu/engine.h"

struct engine_entry {
	const struct engine *engine;
	const char *text; /* what it is, for lists */
};

/* Best first; index from 0, NULL at the end. */
const struct engine_entry *engines_get(unsigned index);

/*
 * The engine called 'name', or for NULL and "auto" the first that works here. *why gets a
 * few words for the user. NULL and a message when there is none.
 */
const struct engine *engines_choose(const char *name, const char **why,
				    struct error *err);

void engines_help(FILE *out);
