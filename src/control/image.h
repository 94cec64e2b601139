/* `umbra image`: what one does with disk images. Its commands, in image_*.c. */
#pragma once

#include "block/block.h"
#include "block/node.h"

/* argv[0] is "image". */
int image_main(int argc, char **argv);

/* ---- shared by the commands ---- */

struct image_args {
	const char *command;
	const char *format, *out_format, *base, *base_format, *snapshot;
	const char *options;                                /* -o */
	const char *packages, *size, *suite, *key, *kernel; /* of debian */
	bool quiet, progress, share, json, strict, compress, unsafe_rebase, shrink;
	bool no_create, keep, all, list, create, apply, del;
	int fix; /* enum qcow2_fix */
	u64 sparse;
	int count; /* of names */
	char **names;
};

int image_create(const struct image_args *a);
int image_info(const struct image_args *a);
int image_check(const struct image_args *a);
int image_convert(const struct image_args *a);
int image_commit(const struct image_args *a);
int image_rebase(const struct image_args *a);
int image_resize(const struct image_args *a);
int image_snapshot(const struct image_args *a);
int image_map(const struct image_args *a);
int image_compare(const struct image_args *a);
int image_debian(const struct image_args *a);

/* Print the message; 1. */
int image_failed(const struct error *err);
/* Like 512 or 1.5G: a plain number is in bytes. */
bool image_size(const char *s, u64 *bytes);
/* "(12.34/100%)" on standard output, if wanted. Ends with a newline at 100. */
void image_progress(const struct image_args *a, double percent);

/* What a new image is to be like: -o, -b, -F and a size. */
struct image_new {
	const char *path, *format;
	struct error err;
	u64 size;
	bool has_size;
	/* Of -o */
	char *options; /* owned; the pointers below point into it */
	const char *backing, *backing_format, *data_file, *preallocation;
	u64 cluster_size, refcount_bits;
	u32 version;
	bool lazy, zstd, data_raw;
};
/* 0, or -EINVAL with a message. */
int image_new_parse(struct image_new *n, const char *format, const char *options);
/* Make the file. It is removed again by image_new_undo(), or when a signal ends us. */
int image_new_make(struct image_new *n);
void image_new_undo(struct image_new *n);
/* It is complete. */
void image_new_keep(struct image_new *n);
void image_new_fini(struct image_new *n);

/* What [off, off+len) shows, looking through backing files; 'depth' is where it is. */
int image_status(struct block_node *n, u64 off, u64 len, struct block_extent *e,
		 unsigned *depth, struct block_node **where);
