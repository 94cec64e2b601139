/*
 * A layer of a block chain: a file, a format over a file. Only block/ includes this.
 *
 * The blocking way is the definition: io() does everything, on a worker or on the thread
 * of a command. start() is the short cut of requests that map to one piece of one file.
 */
#pragma once

#include <stdatomic.h>

#include "block/block.h"
#include "block/hostio.h"

struct block_node;
struct uring;

/* What the layers of one handle share. */
struct block_env {
	const struct hostio *host;
	struct uring *ring; /* NULL: threads only */
	enum block_cache cache;
	bool discard, no_lock, check;
	unsigned reconnect_delay; /* seconds, of a server */
	/* Not 0: since then requests have to end soon, as the host's clock says. */
	_Atomic i64 hurry;
};

enum block_kind {
	EXTENT_DATA,       /* somewhere in this layer's file */
	EXTENT_ZERO,       /* reads as zeroes, no space taken */
	EXTENT_ZERO_ALLOC, /* the same, with space */
	EXTENT_COMPRESSED,
	EXTENT_BACKING, /* not in this layer */
};

struct block_extent {
	u64 len; /* from the offset asked for */
	enum block_kind kind;
	bool has_host;
	u64 host_off;
};

enum node_start { START_NO, START_QUEUED, START_DONE };

struct block_ops {
	const char *name;
	/*
	 * The whole request, waiting. Offsets are checked and within the size; those of a
	 * discard or zero are a multiple of a sector, and may be all of the disk.
	 */
	int (*io)(struct block_node *n, enum block_op op, u64 off, u64 len,
		  const struct iovec *iov, unsigned cnt, unsigned flags);
	/*
	 * Without waiting. 'now': do it here, START_DONE with r->p.ret, or START_NO.
	 * Otherwise START_QUEUED, block_finish() will be called, or START_NO. NULL: no.
	 */
	enum node_start (*start)(struct block_node *n, struct block_req *r, u64 off,
				 bool now);
	/* What is at off; at least one sector, at most len. */
	int (*status)(struct block_node *n, u64 off, u64 len, struct block_extent *e);
	int (*resize)(struct block_node *n, u64 size, struct error *err);
	/* Writes what is in memory; frees n->impl, not n. */
	int (*close)(struct block_node *n);
};

struct block_node {
	const struct block_ops *ops;
	void *impl;
	const struct block_env *env;
	struct block_node *file; /* where this layer's bytes are; NULL: ops is file's */
	struct block_node *backing; /* what EXTENT_BACKING shows; NULL: zeroes */
	u64 size;                   /* as the layer above sees it */
	bool readonly;
	char *path;
};

struct block_node *node_new(const struct block_ops *ops, const struct block_env *env,
			    const char *path);
/* Closes the layers below too. */
int node_close(struct block_node *n);

/*
 * All of [off, off+len), waiting. Behind the end a read gives zeroes; a write there is
 * for files that grow. 0 or -errno.
 */
int node_readv(struct block_node *n, u64 off, u64 len, const struct iovec *iov,
	       unsigned cnt);
int node_writev(struct block_node *n, u64 off, u64 len, const struct iovec *iov,
		unsigned cnt);
int node_read(struct block_node *n, u64 off, void *buf, u64 len);
int node_write(struct block_node *n, u64 off, const void *buf, u64 len);
int node_flush(struct block_node *n);
int node_zero(struct block_node *n, u64 off, u64 len, unsigned flags);
int node_discard(struct block_node *n, u64 off, u64 len);

/* ---- buffers ---- */

/* The part [off, off+len) of iov, as much as 'max' entries hold. Returns how many. */
unsigned iov_slice(struct iovec *out, unsigned max, const struct iovec *iov, unsigned cnt,
		   u64 off, u64 len);
u64 iov_total(const struct iovec *iov, unsigned cnt);
void iov_zero(const struct iovec *iov, unsigned cnt, u64 off, u64 len);
void iov_from(const struct iovec *iov, unsigned cnt, u64 off, const void *buf, u64 len);
void iov_to(const struct iovec *iov, unsigned cnt, u64 off, void *buf, u64 len);
bool mem_is_zero(const void *buf, u64 len);

/* ---- who calls back ---- */

/* The request that start() queued is done. Not inside block_submit(). */
void block_finish(struct block_req *r, int ret);
/* It has to be done by a worker after all, from the beginning. */
void block_retry(struct block_req *r);

/* ---- layers ---- */

enum {
	FILE_WRITE = 1,
	FILE_BACKING = 2, /* named by an image: only regular files */
};
/* Opens and locks. */
int file_open(struct block_node **n, const struct block_env *env, const char *path,
	      unsigned flags, struct error *err);
/* The format was guessed: the guest may not turn the disk into another format. */
void file_set_probed(struct block_node *n);
bool file_same(const struct block_node *a, const struct block_node *b);
/* Bytes from here on were never written since it was opened, and read as zeroes. */
u64 file_end(struct block_node *n);
/* Bytes of the host's disk that it takes; for info. */
u64 file_allocated(const char *path);

/* A server's disk, and whether a path names one. */
int nbd_open(struct block_node **n, const struct block_env *env, const char *uri,
	     bool write, struct error *err);
bool nbd_is_uri(const char *path);

/* 'n' becomes the layer over 'file', which is its own from then on, also on failure. */
int qcow2_open(struct block_node **n, struct block_node *file,
	       const struct block_config *cfg, unsigned depth, struct error *err);
/* Whether the first 'len' bytes are those of a qcow2. */
bool qcow2_probe(const u8 *buf, size_t len);
/* A file that is named by an image, in its format (NULL: guess), read-only. */
int chain_open(struct block_node **n, const struct block_env *env, const char *path,
	       const char *format, unsigned depth, bool writable, struct error *err);

/* The whole chain of a configuration, overlay for snapshot=on included. */
int chain_open_config(struct block_node **n, const struct block_env *env,
		      const struct block_config *cfg, struct error *err);

/* ---- of a handle, for commands ---- */

struct block_node *block_node_of(struct block *b);
