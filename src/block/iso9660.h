/* A read-only ISO 9660 disk of a few files, made in memory. */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "base/types.h"

enum {
	ISO9660_SECTOR = 2048,
	ISO9660_FILES_MAX = 8,
	ISO9660_NAME_MAX = 30, /* characters of a file's name */
	ISO9660_LABEL_MAX = 16,
};

/* Letters, digits, '-', '_' and '.' only, in the name; borrowed for the call. */
struct iso9660_file {
	const char *name;
	const void *data;
	size_t len;
};

/*
 * The disk, owned by the caller, and its size, a multiple of a sector. The same files
 * give the same bytes. NULL: names or number are not those above, or the sum is 1 GiB or
 * more.
 */
u8 *iso9660_build(const struct iso9660_file *files, size_t count, const char *label,
		  size_t *size);
