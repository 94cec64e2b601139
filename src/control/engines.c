/*
 * The engines of this build, and the choice of one.
 *
 * `auto` takes the first of the table whose probe says that it works on this host. One
 * thread, before there is a machine.
 */
#include "control/engines.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/check/check.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"

static const struct engine_entry entries[] = {
	{ &engine_translate, "binary translation, for hosts with BMI2" },
	{ &engine_interp, "interpreter, for any x86-64 host" },
	{ &engine_check,
	  "both at once, and their states compared: to find errors, slow" },
};

/* For tests only: accepted, not listed, never chosen. */
static const struct engine *const hidden[] = {
	&engine_translate_direct, &engine_translate_eager, &engine_translate_one,
	&engine_translate_only,   &engine_translate_tiny,  &engine_translate_slow,
};

const struct engine_entry *engines_get(unsigned index)
{
	return index < ARRAY_SIZE(entries) ? &entries[index] : NULL;
}

static int probe(const struct engine *e, struct error *err)
{
	return e->probe ? e->probe(err) : 0;
}

static const struct engine *choose_auto(const char **why, struct error *err)
{
	struct error first = { 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		if (!probe(entries[i].engine, &first)) {
			*why = ARRAY_SIZE(entries) == 1 ? "the only one of this version"
							: "the best that works here";
			return entries[i].engine;
		}
	}
	error_set(err, -ENOSYS, "no engine works here: %s", first.msg);
	return NULL;
}

const struct engine *engines_choose(const char *name, const char **why, struct error *err)
{
	if (!name || !strcmp(name, "auto"))
		return choose_auto(why, err);
	*why = "as asked for";
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		if (!strcmp(name, entries[i].engine->name))
			return probe(entries[i].engine, err) ? NULL : entries[i].engine;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(hidden); i++)
		if (!strcmp(name, hidden[i]->name))
			return probe(hidden[i], err) ? NULL : hidden[i];
	error_set(err, -EINVAL,
		  "-engine %s: there is no such engine; -engine help lists them", name);
	return NULL;
}

void engines_help(FILE *out)
{
	fprintf(out, "  %-10s %s\n", "auto",
		"the first of these that works here; the default");
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
		fprintf(out, "  %-10s %s\n", entries[i].engine->name, entries[i].text);
}
