/*
 * Lists like "NAME,key=value,key=value" of command lines, in which a comma inside a value
 * is written twice.
 */
#pragma once

#include "base/types.h"

struct keyval {
	char *buf; /* owned; what the rest points into */
	char *at;  /* the next item; NULL at the end */
	const char *key;
	const char *val; /* NULL: there is no '=' */
};

/* Copies 'list'. */
void keyval_init(struct keyval *kv, const char *list);
void keyval_fini(struct keyval *kv);
/* Take the next item apart into key and val. False at the end. */
bool keyval_next(struct keyval *kv);

/* A number without sign, decimal or with 0x in front, up to 'max'. */
bool keyval_number(const char *s, u64 max, u64 *val);
/* on, off, yes, no, true, false. */
bool keyval_bool(const char *s, bool *val);
