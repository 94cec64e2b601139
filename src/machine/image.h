/*
 * A file given to boot from: a kernel or an initial RAM disk.
 *
 * Files are hostile and may change while we read: only regular files, the size is
 * taken once, every read is inside it, and a short one is an error.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct image {
	const char *what; /* "kernel", "initrd": for messages */
	const char *path; /* for messages; borrowed */
	int fd;           /* -1 when in memory */
	const u8 *data;   /* in memory: borrowed */
	u64 len;          /* not 0 */
};

/*
 * Open and check. 0, or -errno and a message that names the file and what is wrong:
 * missing, not readable, not a regular file, empty. 'what' and 'path' are kept.
 */
int image_open(struct image *img, const char *what, const char *path, struct error *err);
/* The same for bytes in memory, which stay the caller's. */
void image_from_memory(struct image *img, const char *what, const char *path,
		       const void *data, u64 len);
void image_close(struct image *img);

/* [off, off + len) lies in the file. */
static inline bool image_has(const struct image *img, u64 off, u64 len)
{
	return off <= img->len && len <= img->len - off;
}

/* Exactly 'len' bytes. -EINVAL when they are not in the file, -EIO when it shrank. */
int image_read(const struct image *img, u64 off, void *buf, u64 len, struct error *err);

/* What the file seems to be ("a gzip file", ...), for "is not a kernel but ..."; never
 * NULL. */
const char *image_looks_like(const struct image *img);

/* -EINVAL with "WHAT PATH: ...". */
__attribute__((format(printf, 3, 4))) int
image_refuse(const struct image *img, struct error *err, const char *fmt, ...);
