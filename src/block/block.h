/*
 * A disk image as a device or a command sees it: a chain of filters, formats and files
 * behind one handle.
 *
 * Offsets and lengths are in bytes and multiples of BLOCK_SECTOR. What a request says may
 * come straight from a guest: range, alignment and length are checked here, and a bad one
 * ends with -EINVAL (or -EROFS, -ENOSPC behind the end).
 *
 * Order is that of a disk with a volatile write cache: requests in flight at the same
 * time are done in any order. BLOCK_FLUSH makes stable what was completed (not only
 * submitted) before it was submitted.
 */
#pragma once

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

struct block;
struct hostio;
struct block_req;

enum {
	BLOCK_SECTOR = 512,
	BLOCK_MAX_BYTES = 64 << 20, /* of one read or write; the others have no limit */
	BLOCK_MAX_IOV = 1024,       /* buffers of one read or write */
};

/* block/ only: part of a disk that a request holds. */
struct block_range {
	u64 lo, hi;
	bool shared;
	struct block_range *next, **prev;
};

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_ZERO };

enum {
	BLOCK_FUA = 1,   /* BLOCK_WRITE, BLOCK_ZERO: stable when completed */
	BLOCK_UNMAP = 2, /* BLOCK_ZERO: space may be given back */
};

/*
 * One request. Lives in its owner, who fills in the first part (the rest zeroed or left
 * from the last use) and touches nothing of it until it is done; iov and the buffers stay
 * valid as long. The buffers may be any memory, of any alignment, and may be guest RAM
 * that the guest writes meanwhile.
 */
struct block_req {
	enum block_op op;
	unsigned flags;
	u64 off;
	u64 len; /* for reads and writes, at most the sum of iov */
	const struct iovec *iov;
	unsigned iovcnt;
	/*
	 * 'ret' is 0 or -errno. On a thread of the block layer, never inside
	 * block_submit(): take the device's lock there, but do not block for long. The
	 * request belongs to its owner again and may be submitted from here.
	 */
	void (*done)(struct block_req *r, int ret);
	void *opaque; /* the owner's */

	/* block/ only */
	struct {
		struct block *block; /* submitted to */
		struct block_req *next;
		/* Called before 'done', by the layer that started it. */
		void (*release)(struct block_req *r);
		void *owner;
		struct block_range range;
		int ret;
		u8 state; /* pool.h */
	} p;
};

/* ---- Set-up: one thread. ---- */

enum block_cache {
	BLOCK_CACHE_WRITEBACK, /* host page cache; a flush is fdatasync() */
	BLOCK_CACHE_NONE,      /* O_DIRECT; a flush is fdatasync() */
	BLOCK_CACHE_WRITETHROUGH,
	BLOCK_CACHE_DIRECTSYNC,
	BLOCK_CACHE_UNSAFE, /* flushes do nothing */
};

/* Limits per second; 0: none. 'max' is the burst allowed, 0: a tenth of a second's worth.
 */
struct block_rate {
	u64 per_second, max;
};

enum { BLOCK_RATE_TOTAL, BLOCK_RATE_READ, BLOCK_RATE_WRITE, BLOCK_RATES };

struct block_config {
	const char *file;   /* a path, or nbd://... */
	const char *format; /* "raw", "qcow2"; NULL: look (refused for a writable raw
			       header) */
	bool readonly;
	bool snapshot;   /* writes go to a temporary overlay that nobody sees */
	bool discard;    /* BLOCK_DISCARD gives space back; otherwise it does nothing */
	bool no_lock;    /* do not care who else has it open (-U) */
	bool no_backing; /* do not open the backing file (info, check) */
	bool check;      /* for repair: dirty and corrupt images are opened as they are */
	const struct hostio *host; /* NULL: the kernel; for tests */
	enum block_cache cache;
	/* Seconds for which requests wait for a lost server to come back. */
	unsigned reconnect_delay;
	struct block_rate bps[BLOCK_RATES], iops[BLOCK_RATES];
};

/* Strings are only borrowed for the call. 0, or -errno and one line. */
int block_open(struct block **b, const struct block_config *cfg, struct error *err);
/*
 * Waits for what is in flight, makes everything stable, closes. -errno when data may not
 * have reached the disk; the handle is gone anyway.
 */
int block_close(struct block *b);

/* ---- Any thread. ---- */

u64 block_size(const struct block *b); /* bytes; a multiple of BLOCK_SECTOR */
bool block_readonly(const struct block *b);
/* Zeroes written with BLOCK_UNMAP, and discards, do something. */
bool block_can_discard(const struct block *b);
/* "qcow2", "raw"; for messages and statistics. */
const char *block_format(const struct block *b);
const char *block_path(const struct block *b);

/*
 * Start 'n' requests. Does not block, allocates nothing, cannot fail: errors come with
 * 'done'. Cheaper for several at once, as one doorbell brings them. vCPU threads call it
 * with their device's lock held.
 */
void block_submit(struct block *b, struct block_req *const *reqs, unsigned n);
/*
 * Do it at once if that needs no waiting (the data is in the host's page cache, the
 * mapping in ours): true, with r->p.ret as the result and without 'done'. Otherwise
 * false, nothing was done: submit it.
 */
bool block_try(struct block *b, struct block_req *r);
/*
 * From now on (or no longer) everything in flight is to end soon, since the machine
 * stops: limits hold nothing back, and what a server does not answer within some seconds
 * ends with -EIO. Files are waited for. Said again it changes nothing.
 */
void block_hurry(struct block *b, bool on);
/*
 * Wait until nothing is in flight. Submit nothing meanwhile (quiesce the device first)
 * and hold no lock that 'done' takes. Not from 'done'.
 */
void block_drain(struct block *b);

/* The same, waiting for the result. Not on a vCPU's or the event loop's thread. */
int block_read(struct block *b, u64 off, void *buf, u64 len);
int block_write(struct block *b, u64 off, const void *buf, u64 len, unsigned flags);
int block_zero(struct block *b, u64 off, u64 len, unsigned flags);
int block_discard(struct block *b, u64 off, u64 len);
int block_sync(struct block *b);

/* ---- Statistics, any thread. ---- */

struct block_stats {
	u64 ops[5], bytes[5]; /* by enum block_op, completed */
	u64 errors;
	u64 inline_ops; /* done by block_try() */
};
void block_get_stats(const struct block *b, struct block_stats *s);
/* How requests reach the host: "io_uring", or "threads" and why. Tries it. */
const char *block_host_io(char *why, size_t len);
