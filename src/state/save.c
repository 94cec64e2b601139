/* Save and load of described state as a stream of named records. */
#include "state/save.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define RECORD_MAGIC 0x43455255u /* "UREC" */

size_t state_covered(const struct state_desc *desc)
{
	size_t n = 0;

	for (const struct state_field *f = desc->fields; f->name; f++)
		n += (size_t)f->elem_size * f->count;
	return n;
}

void state_buf_fini(struct state_buf *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

static void put(struct state_buf *b, const void *p, size_t n)
{
	if (b->cap - b->len < n) {
		size_t cap = MAX(b->cap * 2, b->len + n + 256);
		u8 *data = xzalloc(cap);

		if (b->len)
			memcpy(data, b->data, b->len);
		free(b->data);
		b->data = data;
		b->cap = cap;
	}
	memcpy(b->data + b->len, p, n);
	b->len += n;
}

static void put_int(struct state_buf *b, u64 v, unsigned size)
{
	put(b, &v, size);
}

static void put_name(struct state_buf *b, const char *name)
{
	size_t n = strlen(name);

	put_int(b, n, 1);
	put(b, name, n);
}

static unsigned count_fields(const struct state_desc *desc)
{
	unsigned n = 0;

	while (desc->fields[n].name)
		n++;
	return n;
}

void state_save(struct state_buf *b, const struct state_desc *desc, u32 instance,
		const void *state)
{
	put_int(b, RECORD_MAGIC, 4);
	put_int(b, desc->version, 2);
	put_int(b, count_fields(desc), 2);
	put_int(b, instance, 4);
	put_name(b, desc->name);
	for (const struct state_field *f = desc->fields; f->name; f++) {
		put_name(b, f->name);
		put_int(b, f->elem_size, 1);
		put_int(b, f->count, 4);
		put(b, (const u8 *)state + f->offset, (size_t)f->elem_size * f->count);
	}
}

static const u8 *take(struct state_buf *b, size_t n)
{
	const u8 *p = b->data + b->pos;

	if (b->len - b->pos < n)
		return NULL;
	b->pos += n;
	return p;
}

static bool take_int(struct state_buf *b, unsigned size, u64 *v)
{
	const u8 *p = take(b, size);

	*v = 0;
	if (p)
		memcpy(v, p, size);
	return p != NULL;
}

static bool take_name(struct state_buf *b, char name[256])
{
	u64 n;
	const u8 *p;

	if (!take_int(b, 1, &n) || !(p = take(b, n)))
		return false;
	memcpy(name, p, n);
	name[n] = 0;
	return strlen(name) == n;
}

static const struct state_field *field_find(const struct state_desc *desc,
					    const char *name)
{
	for (const struct state_field *f = desc->fields; f->name; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

/* Read one field into 'state', and mark it in 'seen'. */
static int load_field(struct state_buf *b, const struct state_desc *desc, u8 *state,
		      bool *seen, struct error *err)
{
	char name[256];
	u64 elem_size, count;
	const struct state_field *f;
	const u8 *p;

	if (!take_name(b, name) || !take_int(b, 1, &elem_size) || !take_int(b, 4, &count))
		return error_set(err, -EINVAL, "state of %s: stream ends inside a field",
				 desc->name);
	f = field_find(desc, name);
	if (!f)
		return error_set(err, -EINVAL, "state of %s: unknown field '%s'",
				 desc->name, name);
	if (seen[f - desc->fields])
		return error_set(err, -EINVAL, "state of %s: field '%s' comes twice",
				 desc->name, name);
	seen[f - desc->fields] = true;
	if (f->elem_size != elem_size || f->count != count)
		return error_set(err, -EINVAL, "state of %s: field '%s' has another size",
				 desc->name, name);
	p = take(b, elem_size * count);
	if (!p)
		return error_set(err, -EINVAL,
				 "state of %s: stream ends inside field '%s'", desc->name,
				 name);
	memcpy(state + f->offset, p, elem_size * count);
	return 0;
}

/* What the version of the stream had must have been in it. */
static int check_complete(const struct state_desc *desc, u64 version, const bool *seen,
			  struct error *err)
{
	for (unsigned i = 0; desc->fields[i].name; i++)
		if (!seen[i] && desc->fields[i].since <= version)
			return error_set(err, -EINVAL,
					 "state of %s: field '%s' is missing", desc->name,
					 desc->fields[i].name);
	return 0;
}

int state_load(struct state_buf *b, const struct state_desc *desc, u32 instance,
	       void *state, struct error *err)
{
	u64 magic, version, fields, inst;
	char name[256];
	bool *seen;
	u8 *copy;
	int ret = 0;

	if (!take_int(b, 4, &magic) || !take_int(b, 2, &version) ||
	    !take_int(b, 2, &fields) || !take_int(b, 4, &inst) || !take_name(b, name))
		return error_set(err, -EINVAL, "state of %s: stream ends early",
				 desc->name);
	if (magic != RECORD_MAGIC)
		return error_set(err, -EINVAL, "state of %s: not a state record",
				 desc->name);
	if (strcmp(name, desc->name) || inst != instance)
		return error_set(err, -EINVAL, "state of %s %u expected, found %s %u",
				 desc->name, instance, name, (unsigned)inst);
	if (version > desc->version)
		return error_set(err, -EINVAL, "state of %s: version %u is newer than %u",
				 desc->name, (unsigned)version, desc->version);

	copy = xzalloc(desc->size);
	memcpy(copy, state, desc->size);
	seen = xzalloc(count_fields(desc) + 1);
	for (u64 i = 0; i < fields && !ret; i++)
		ret = load_field(b, desc, copy, seen, err);
	if (!ret)
		ret = check_complete(desc, version, seen, err);
	if (!ret && desc->valid && !desc->valid(copy))
		ret = error_set(err, -EINVAL, "state of %s: a value is out of range",
				desc->name);
	if (!ret)
		memcpy(state, copy, desc->size);
	free(seen);
	free(copy);
	return ret;
}
