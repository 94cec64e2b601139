/*
 * What commands do with a qcow2 besides reading and writing. The image is theirs alone:
 * no request is in flight. Any format is taken; others than qcow2 give -ENOTSUP.
 */
#pragma once

#include "block/node.h"

/* ---- facts ---- */

struct qcow2_info {
	u32 version, refcount_bits;
	u64 cluster_size;
	bool lazy_refcounts, dirty, corrupt, data_file_raw, zstd;
	const char *backing_name, *backing_format, *data_name; /* NULL: none; borrowed */
	u32 snapshots;
};

struct qcow2_snapshot_info {
	const char *id, *name; /* borrowed */
	u64 vm_state_size, disk_size, vm_clock_ns;
	u32 sec, nsec;
};

int qcow2_get_info(struct block_node *n, struct qcow2_info *info);
/* False: there are not that many. */
bool qcow2_get_snapshot(struct block_node *n, u32 i, struct qcow2_snapshot_info *s);
/* The name as seen from the image's folder; free(). */
char *qcow2_relative(const char *image, const char *name);

/* ---- new images ---- */

struct qcow2_create {
	u64 size, cluster_size; /* 0: 64 KiB */
	u32 version;            /* 0: 3 */
	u32 refcount_bits;      /* 0: 16 */
	bool lazy_refcounts, zstd, data_file_raw;
	/* NULL: none. As they are written into the image. */
	const char *backing_name, *backing_format, *data_name;
};
/* Into an empty file. */
int qcow2_create(struct block_node *file, const struct qcow2_create *c,
		 struct error *err);

/* ---- changes ---- */

/* A NULL name: none. Data is not touched. */
int qcow2_set_backing(struct block_node *n, const char *name, const char *format,
		      struct error *err);
/* Of a cluster that is written for the first time. -ENOSPC: it does not get smaller. */
int qcow2_write_compressed(struct block_node *n, u64 off, const u8 *cluster);
/* Clusters of metadata only, so that later writes allocate nothing. */
int qcow2_preallocate(struct block_node *n);
/* All clusters are unallocated again: the backing file shows. */
int qcow2_make_empty(struct block_node *n);

int qcow2_snapshot_create(struct block_node *n, const char *name, u32 sec, u32 nsec,
			  struct error *err);
/* By id or name. */
int qcow2_snapshot_apply(struct block_node *n, const char *name, struct error *err);
int qcow2_snapshot_delete(struct block_node *n, const char *name, struct error *err);

/* ---- check ---- */

enum qcow2_fix { QCOW2_FIX_NONE, QCOW2_FIX_LEAKS, QCOW2_FIX_ALL };

struct qcow2_check {
	enum qcow2_fix fix;
	/* One finding, a line without newline; at most 100 of them. NULL: nobody listens.
	 */
	void (*found)(void *opaque, const char *line);
	/* 0 to 100. */
	void (*progress)(void *opaque, double percent);
	void *opaque;
	/* The result. */
	u64 corruptions, leaks, corruptions_fixed, leaks_fixed;
	u64 allocated, total, fragmented, compressed; /* clusters of the disk */
	u64 end;                                      /* bytes of the file in use */
};
int qcow2_check(struct block_node *n, struct qcow2_check *c);
