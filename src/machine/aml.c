/*
 * AML by appending: names, constants, scopes and resource templates.
 *
 * ACPI 6.3 section 20.2 (AML grammar) and 6.4 (resource data types). A package length
 * has one to four bytes depending on what it counts, so it is inserted when the
 * thing is closed. Only what the tables of acpi.c need is here.
 * No locks, no state but the struct aml.
 */
#include "machine/aml.h"

#include <assert.h>
#include <string.h>

#include "base/bits.h"

void aml_init(struct aml *a, u8 *buf, size_t cap)
{
	*a = (struct aml){ .buf = buf, .cap = cap };
}

bool aml_done(const struct aml *a)
{
	return !a->full && !a->depth;
}

static void put(struct aml *a, const void *p, size_t n)
{
	if (n > a->cap - a->len)
		a->full = true;
	if (a->full)
		return;
	memcpy(a->buf + a->len, p, n);
	a->len += n;
}

static void put_int(struct aml *a, u64 v, unsigned size)
{
	put(a, &v, size);
}

void aml_op(struct aml *a, unsigned op)
{
	put_int(a, op, 1);
}

void aml_name(struct aml *a, const char *path)
{
	unsigned segs = 1;

	for (; *path == '\\' || *path == '^'; path++)
		put(a, path, 1);
	for (const char *p = path; *p; p++)
		segs += *p == '.';
	if (segs == 2) {
		put_int(a, 0x2e, 1); /* DualNamePrefix */
	} else if (segs > 2) {
		put_int(a, 0x2f, 1); /* MultiNamePrefix */
		put_int(a, segs, 1);
	}
	while (segs--) {
		size_t n = strcspn(path, ".");
		char seg[4] = { '_', '_', '_', '_' };

		assert(n >= 1 && n <= 4);
		memcpy(seg, path, n);
		put(a, seg, 4);
		path += n + 1;
	}
}

void aml_int(struct aml *a, u64 v)
{
	static const u8 prefix[] = { [1] = 0x0a, [2] = 0x0b, [4] = 0x0c, [8] = 0x0e };
	unsigned size = v <= 0xff ? 1 : v <= 0xffff ? 2 : v <= UINT32_MAX ? 4 : 8;

	if (v <= 1) {
		put_int(a, v, 1); /* ZeroOp, OneOp */
		return;
	}
	put_int(a, prefix[size], 1);
	put_int(a, v, size);
}

void aml_str(struct aml *a, const char *s)
{
	put_int(a, 0x0d, 1);
	put(a, s, strlen(s) + 1);
}

static unsigned hex(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

/* Three letters of five bits and four hexadecimal digits, big-endian (6.1.5). */
void aml_eisa(struct aml *a, const char *id)
{
	u32 v = 0;

	for (unsigned i = 0; i < 3; i++)
		v = v << 5 | (u32)(id[i] - 0x40);
	for (unsigned i = 3; i < 7; i++)
		v = v << 4 | hex(id[i]);
	aml_int(a, __builtin_bswap32(v));
}

void aml_uuid(struct aml *a, const char *uuid)
{
	/* Where byte i of the buffer stands in the text (19.6.142). */
	static const u8 at[16] = { 6,  4,  2,  0,  11, 9,  16, 14,
				   19, 21, 24, 26, 28, 30, 32, 34 };
	static const u8 head[] = { 0x11, 0x13, 0x0a,
				   16 }; /* Buffer (16), 19 bytes long */

	put(a, head, sizeof(head));
	for (unsigned i = 0; i < 16; i++)
		put_int(a, hex(uuid[at[i]]) << 4 | hex(uuid[at[i] + 1]), 1);
}

void aml_def(struct aml *a, const char *path)
{
	put_int(a, 0x08, 1);
	aml_name(a, path);
}

void aml_def_int(struct aml *a, const char *path, u64 v)
{
	aml_def(a, path);
	aml_int(a, v);
}

void aml_def_eisa(struct aml *a, const char *path, const char *id)
{
	aml_def(a, path);
	aml_eisa(a, id);
}

static void open_length(struct aml *a)
{
	assert(a->depth < AML_DEPTH);
	a->open[a->depth++] = a->len;
}

void aml_scope(struct aml *a, const char *path)
{
	put_int(a, 0x10, 1);
	open_length(a);
	aml_name(a, path);
}

void aml_device(struct aml *a, const char *name)
{
	put_int(a, 0x825b, 2);
	open_length(a);
	aml_name(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned args, bool serialized)
{
	put_int(a, 0x14, 1);
	open_length(a);
	aml_name(a, name);
	put_int(a, args | (serialized ? 0x08u : 0), 1);
}

void aml_if(struct aml *a)
{
	put_int(a, 0xa0, 1);
	open_length(a);
}

void aml_else(struct aml *a)
{
	put_int(a, 0xa1, 1);
	open_length(a);
}

void aml_package(struct aml *a, u8 elements)
{
	put_int(a, 0x12, 1);
	open_length(a);
	put_int(a, elements, 1);
}

/* PkgLength, 20.2.4: counts itself; 6 bits in one byte, or 4 bits and up to three more
 * bytes. */
void aml_close(struct aml *a)
{
	size_t at = a->open[--a->depth];
	size_t n = a->len - at;
	u8 enc[4];
	unsigned bytes = 1;

	if (a->full)
		return;
	if (n + 1 < 0x40) {
		enc[0] = (u8)(n + 1);
	} else {
		bytes = n + 2 < 0x1000 ? 2 : n + 3 < 0x100000 ? 3 : 4;
		n += bytes;
		enc[0] = (u8)((bytes - 1) << 6 | (n & 0xf));
		for (unsigned i = 1; i < bytes; i++)
			enc[i] = (u8)(n >> (8 * i - 4));
	}
	if (bytes > a->cap - a->len) {
		a->full = true;
		return;
	}
	memmove(a->buf + at + bytes, a->buf + at, a->len - at);
	memcpy(a->buf + at, enc, bytes);
	a->len += bytes;
}

/* ---- resource templates: a buffer whose size is inserted at the end ---- */

void aml_crs(struct aml *a)
{
	aml_def(a, "_CRS");
	put_int(a, 0x11, 1);
	open_length(a);
	a->template = a->len;
}

void aml_crs_end(struct aml *a)
{
	u8 size[4];
	struct aml tmp;
	size_t n;

	put_int(a, 0x0079, 2); /* end tag; checksum 0: none */
	n = a->len - a->template;
	aml_init(&tmp, size, sizeof(size));
	aml_int(&tmp, n);
	put(a, size, tmp.len); /* makes room */
	if (!a->full) {
		memmove(a->buf + a->template + tmp.len, a->buf + a->template, n);
		memcpy(a->buf + a->template, size, tmp.len);
	}
	aml_close(a);
}

void aml_res_io(struct aml *a, u16 base, u8 len)
{
	put_int(a, 0x47, 1);
	put_int(a, 1, 1); /* decodes 16 bits */
	put_int(a, base, 2);
	put_int(a, base, 2);
	put_int(a, 1, 1); /* alignment */
	put_int(a, len, 1);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	put_int(a, 0x22, 1);
	put_int(a, BIT(irq), 2);
}

/* Extended interrupt descriptor, 6.4.3.6. */
void aml_res_gsi(struct aml *a, u32 gsi)
{
	enum { CONSUMER = 1 << 0, SHARED = 1 << 3 };

	put_int(a, 0x89, 1);
	put_int(a, 6, 2);
	put_int(a, CONSUMER | SHARED, 1);
	put_int(a, 1, 1);
	put_int(a, gsi, 4);
}

void aml_res_mem32(struct aml *a, u32 base, u32 len, bool writable)
{
	put_int(a, 0x86, 1);
	put_int(a, 9, 2);
	put_int(a, writable, 1);
	put_int(a, base, 4);
	put_int(a, len, 4);
}

/* Address space descriptors, 6.4.3.5: minimum and maximum fixed, the bridge produces
 * them. */
static void window(struct aml *a, unsigned tag, unsigned type, unsigned flags, u64 lo,
		   u64 hi, unsigned size)
{
	enum { MIN_FIXED = 1 << 2, MAX_FIXED = 1 << 3 };

	put_int(a, tag, 1);
	put_int(a, 3 + 5 * size, 2);
	put_int(a, type, 1);
	put_int(a, MIN_FIXED | MAX_FIXED, 1);
	put_int(a, flags, 1);
	put_int(a, 0, size); /* granularity */
	put_int(a, lo, size);
	put_int(a, hi, size);
	put_int(a, 0, size); /* translation */
	put_int(a, hi - lo + 1, size);
}

void aml_res_bus(struct aml *a, u16 lo, u16 hi)
{
	window(a, 0x88, 2, 0, lo, hi, 2);
}

void aml_res_io_window(struct aml *a, u16 lo, u16 hi)
{
	window(a, 0x88, 1, 3 /* entire range */, lo, hi, 2);
}

void aml_res_mem32_window(struct aml *a, u32 lo, u32 hi)
{
	window(a, 0x87, 0, 1 /* not cached, read and write */, lo, hi, 4);
}

void aml_res_mem64_window(struct aml *a, u64 lo, u64 hi)
{
	/* Prefetchable: 64-bit BARs mostly are, and Linux puts the others below 4 GiB. */
	window(a, 0x8a, 0, 7 /* prefetchable, read and write */, lo, hi, 8);
}
