/*
 * Lists of keys and values, as QEMU writes them in its options (its manual, "Device
 * options"): commas between items, and one in a value doubled. No state; any thread.
 */
#include "base/keyval.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

void keyval_init(struct keyval *kv, const char *list)
{
	*kv = (struct keyval){ .buf = xstrdup(list) };
	kv->at = kv->buf;
}

void keyval_fini(struct keyval *kv)
{
	free(kv->buf);
	*kv = (struct keyval){ 0 };
}

bool keyval_next(struct keyval *kv)
{
	char *in = kv->at, *out = in, *eq;

	if (!in)
		return false;
	kv->key = in;
	/* In place: what comes out is not longer. */
	for (; *in && (*in != ',' || in[1] == ','); in++) {
		in += *in == ',';
		*out++ = *in;
	}
	kv->at = *in ? in + 1 : NULL;
	*out = 0;
	eq = strchr(kv->key, '=');
	kv->val = eq ? eq + 1 : NULL;
	if (eq)
		*eq = 0;
	return true;
}

bool keyval_number(const char *s, u64 max, u64 *val)
{
	unsigned long long n;
	char *end;

	if (!s || !isdigit((unsigned char)*s))
		return false;
	errno = 0;
	n = strtoull(s, &end, s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10);
	if (*end || errno || n > max)
		return false;
	*val = n;
	return true;
}

bool keyval_bool(const char *s, bool *val)
{
	static const char *const words[] = { "off", "on", "no", "yes", "false", "true" };

	for (size_t i = 0; s && i < ARRAY_SIZE(words); i++) {
		if (strcmp(s, words[i]))
			continue;
		*val = i & 1;
		return true;
	}
	return false;
}
