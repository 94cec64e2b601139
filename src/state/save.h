/*
 * Save and load of described state as a stream of named records.
 *
 *   record  = u32 magic 'UREC', u16 version, u16 fields, u32 instance,
 *             u8 name length, name, field*
 *   field   = u8 name length, name, u8 elem size, u32 count, elements
 *
 * All little-endian. Fields are matched by name, so order is free; a stream of an
 * older version lacks fields (they keep their reset value). A field that is not
 * known, that comes twice or that its version should have is an error. Streams are
 * untrusted: every length is checked, and nothing is written to the target until the
 * whole record was checked.
 */
#pragma once

#include "base/error.h"
#include "state/desc.h"

struct state_buf {
	u8 *data;
	size_t len, cap; /* bytes written, allocated */
	size_t pos;      /* read position */
};

void state_buf_fini(struct state_buf *b);

/* Append one record. */
void state_save(struct state_buf *b, const struct state_desc *desc, u32 instance,
		const void *state);

/*
 * Read the record at b->pos, which must be of this description and instance. 0 or
 * -errno.
 */
int state_load(struct state_buf *b, const struct state_desc *desc, u32 instance,
	       void *state, struct error *err);
