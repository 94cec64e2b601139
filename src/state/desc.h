/*
 * Guest-visible state, described by name.
 *
 * Each chip keeps everything a guest can see in one plain struct of fixed-width
 * fields without padding, and describes it in a table. Saving, loading,
 * comparing and printing all read that table, so they cannot drift apart (I5).
 *
 * A unit test adds up the fields and compares with sizeof(struct): a field
 * added without a line in the table fails a test, not a migration.
 */
#pragma once

#include "base/bits.h"
#include "base/types.h"

struct state_field {
	const char *name;
	u32 offset;
	u16 elem_size; /* bytes: 1, 2, 4 or 8; stored little-endian */
	u16 since;     /* first version of the struct that has it */
	u32 count;     /* elements; 1 for a scalar */
};

struct state_desc {
	const char *name; /* unique in a machine together with an instance number */
	u32 size;         /* sizeof the struct */
	u16 version;      /* current version; older streams load, newer are refused */
	const struct state_field *fields; /* ends with a zero entry */
	/*
	 * Check values that just came from an untrusted stream (bounds of indices,
	 * enumerations). Return false to refuse them. May be NULL.
	 */
	bool (*valid)(const void *state);
};

/* clang-format off */
#define STATE_FIELD(type, field, since_)                                     \
	{ .name = #field, .offset = offsetof(type, field),                   \
	  .elem_size = sizeof(((type *)0)->field), .since = (since_), .count = 1 }
#define STATE_ARRAY(type, field, since_)                                     \
	{ .name = #field, .offset = offsetof(type, field),                   \
	  .elem_size = sizeof(((type *)0)->field[0]), .since = (since_),      \
	  .count = ARRAY_SIZE(((type *)0)->field) }
/* clang-format on */

/* Bytes that all fields cover; equal to desc->size when the table is complete. */
size_t state_covered(const struct state_desc *desc);
