/*
 * Properties of an option, "key=value,key=value", into a struct by a table.
 *
 * The spelling is QEMU's. One thread, before there is a machine.
 */
#include "control/props.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/keyval.h"
#include "control/options.h"

static const struct prop *find(const struct prop *props, const char *key)
{
	for (; props->name; props++)
		if (!strcmp(props->name, key))
			return props;
	return NULL;
}

static void *place(void *to, const struct prop *p)
{
	return (char *)to + p->offset;
}

/* Bytes when there is no suffix. */
static bool parse_size(const char *s, u64 *bytes)
{
	size_t n = strlen(s);

	if (n && s[n - 1] >= '0' && s[n - 1] <= '9')
		return keyval_number(s, UINT64_MAX, bytes);
	return options_size(s, bytes);
}

static bool parse_switch(const char *s, u8 *val)
{
	bool on;

	if (!strcmp(s, "auto")) {
		*val = SWITCH_AUTO;
		return true;
	}
	if (!keyval_bool(s, &on))
		return false;
	*val = on ? SWITCH_ON : SWITCH_OFF;
	return true;
}

/* What is wanted instead, NULL when it is right. */
static const char *set(void *to, const struct prop *p, const char *val)
{
	struct prop_list *list;
	char **text;
	u64 *number;

	switch (p->kind) {
	case PROP_TEXT:
		text = place(to, p);
		free(*text);
		*text = xstrdup(val);
		return *val ? NULL : "a text";
	case PROP_LIST:
		list = place(to, p);
		if (list->count == PROP_LIST_MAX)
			return "fewer of them";
		list->item[list->count++] = xstrdup(val);
		return NULL;
	case PROP_BOOL: return keyval_bool(val, place(to, p)) ? NULL : "on or off";
	case PROP_SWITCH:
		return parse_switch(val, place(to, p)) ? NULL : "on, off or auto";
	case PROP_NUMBER:
		number = place(to, p);
		return keyval_number(val, p->max, number) && *number >= p->min ? NULL
									       : "";
	case PROP_SIZE:
		return parse_size(val, place(to, p)) ? NULL : "a size like 65536 or 64K";
	default: return NULL;
	}
}

static int wrong(const struct prop *p, const char *option, const char *text,
		 const char *want, struct error *err)
{
	if (*want)
		return error_set(err, -EINVAL, "%s %s: %s is %s", option, text, p->name,
				 want);
	return error_set(err, -EINVAL, "%s %s: %s is a number from %llu to %llu", option,
			 text, p->name, (unsigned long long)p->min,
			 (unsigned long long)p->max);
}

int props_parse(void *to, const struct prop *props, const char *option, const char *text,
		const char *first, struct error *err)
{
	struct keyval kv;
	int ret = 0;

	keyval_init(&kv, text);
	while (!ret && keyval_next(&kv)) {
		const char *key = kv.key, *val = kv.val, *want;
		const struct prop *p;

		if (first && !val) {
			val = key;
			key = first;
		}
		first = NULL;
		p = find(props, key);
		if (!p) {
			ret = error_set(err, -EINVAL, "%s %s: there is no property '%s'",
					option, text, key);
			break;
		}
		/* QEMU takes a word alone for WORD=on. */
		want = set(to, p, val ? val : "on");
		if (want)
			ret = wrong(p, option, text, want, err);
	}
	keyval_fini(&kv);
	return ret;
}

void props_fini(void *to, const struct prop *props)
{
	for (; props->name; props++) {
		struct prop_list *list = place(to, props);
		char **text = place(to, props);

		if (props->kind == PROP_TEXT) {
			free(*text);
			*text = NULL;
		}
		for (unsigned i = 0; props->kind == PROP_LIST && i < list->count; i++)
			free(list->item[i]);
		if (props->kind == PROP_LIST)
			list->count = 0;
	}
}
