/*
 * Properties of an option, "key=value,key=value", into a struct by a table.
 */
#pragma once

#include "base/bits.h"
#include "base/error.h"
#include "base/types.h"

enum prop_kind {
	PROP_TEXT,    /* char *, allocated */
	PROP_LIST,    /* struct prop_list: may come several times */
	PROP_BOOL,    /* bool: on, off */
	PROP_SWITCH,  /* u8: enum prop_switch: on, off, auto */
	PROP_NUMBER,  /* u64, from min to max */
	PROP_SIZE,    /* u64, with K, M, G; bytes without */
	PROP_IGNORED, /* known, without a meaning here */
};

enum prop_switch { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF };

#define PROP_LIST_MAX 64

struct prop_list {
	char *item[PROP_LIST_MAX];
	unsigned count;
};

struct prop {
	const char *name; /* NULL at the end of a table */
	enum prop_kind kind;
	size_t offset; /* in the struct */
	u64 min, max;  /* PROP_NUMBER */
};

/*
 * 'text' into *to, which is zeroed or has the defaults. The first item without '=' is
 * 'first', if that is not NULL. -EINVAL and a line that begins with "OPTION TEXT".
 */
int props_parse(void *to, const struct prop *props, const char *option, const char *text,
		const char *first, struct error *err);
/* Frees the texts. */
void props_fini(void *to, const struct prop *props);
