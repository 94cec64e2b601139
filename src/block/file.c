/*
 * A file or block device of the host: the lowest layer, and by itself the format "raw".
 *
 * Locking is QEMU's (docs/interop, "image locking"; block/file-posix.c of 7.2 for the
 * numbers): open file description locks on single bytes, all of them read locks. Byte
 * 100+n says that its holder uses permission n, byte 200+n that it does not let others
 * have it; who comes sets its own and then looks for conflicting ones.
 *
 * With O_DIRECT what is not aligned goes through a buffer. Where the host wants more than
 * a sector of offsets (4096-byte disks) a smaller write is read, changed and written,
 * alone.
 *
 * Any thread. 'rmw' orders those writes; sizes are atomic.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/node.h"
#include "block/pool.h"
#include "block/uring.h"

/* QEMU's permissions, block/block-common.h: bit numbers. */
enum { PERM_CONSISTENT_READ, PERM_WRITE, PERM_WRITE_UNCHANGED, PERM_RESIZE, PERM_COUNT };
enum { LOCK_PERM = 100, LOCK_UNSHARED = 200 };

#define BOUNCE MiB(1)

struct file {
	int fd;
	struct host_file info;
	bool direct, probed;
	atomic_bool no_punch, no_zero, no_nowait; /* the host cannot */
	/* fdatasync() failed: pages may be gone, so no later one can be believed. */
	atomic_bool sync_failed;
	pthread_rwlock_t rmw;
	bool order_rmw;
};

static void grow(struct block_node *n, u64 end)
{
	u64 size = __atomic_load_n(&n->size, __ATOMIC_RELAXED);

	end = align_up(end, BLOCK_SECTOR);
	while (size < end &&
	       !__atomic_compare_exchange_n(&n->size, &size, end, true, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED))
		;
}

/* ---- plain transfers ---- */

static int transfer(struct block_node *n, enum block_op op, u64 off, u64 len,
		    const struct iovec *iov, unsigned cnt)
{
	const struct hostio *host = n->env->host;
	struct file *f = n->impl;
	struct iovec part[BLOCK_MAX_IOV];
	u64 done = 0;

	while (done < len) {
		unsigned k =
			iov_slice(part, ARRAY_SIZE(part), iov, cnt, done, len - done);
		i64 ret = op == BLOCK_READ ? host->preadv(f->fd, part, k, off + done, 0)
					   : host->pwritev(f->fd, part, k, off + done, 0);

		if (ret < 0)
			return (int)ret;
		if (!ret && op == BLOCK_WRITE)
			return -ENOSPC;
		/* The end of the file; it need not be aligned. */
		if (op == BLOCK_READ &&
		    (!ret || (f->direct && ret % f->info.off_align))) {
			iov_zero(iov, cnt, done + (u64)ret, len - done - (u64)ret);
			return 0;
		}
		done += (u64)ret;
	}
	if (op == BLOCK_WRITE)
		grow(n, off + len);
	return 0;
}

static bool aligned(const struct file *f, u64 off, u64 len, const struct iovec *iov,
		    unsigned cnt)
{
	if (!f->direct)
		return true;
	if ((off | len) & (f->info.off_align - 1))
		return false;
	for (unsigned i = 0; i < cnt; i++)
		if (((uintptr_t)iov[i].iov_base & (f->info.mem_align - 1)) ||
		    (iov[i].iov_len & (f->info.off_align - 1)))
			return false;
	return true;
}

/* One piece, at most BOUNCE bytes, through 'buf', which has room for two blocks more. */
static int bounce_piece(struct block_node *n, enum block_op op, u64 off, u64 len,
			const struct iovec *iov, unsigned cnt, u64 at, u8 *buf)
{
	struct file *f = n->impl;
	u64 block = f->info.off_align;
	u64 lo = align_down(off, block), hi = align_up(off + len, block);
	struct iovec whole = { buf, hi - lo };
	int ret = 0;

	if (op == BLOCK_READ) {
		ret = transfer(n, BLOCK_READ, lo, hi - lo, &whole, 1);
		if (!ret)
			iov_from(iov, cnt, at, buf + (off - lo), len);
		return ret;
	}
	if (off > lo || off + len < hi)
		ret = transfer(n, BLOCK_READ, lo, hi - lo, &whole, 1);
	if (ret)
		return ret;
	iov_to(iov, cnt, at, buf + (off - lo), len);
	return transfer(n, BLOCK_WRITE, lo, hi - lo, &whole, 1);
}

static int bounce(struct block_node *n, enum block_op op, u64 off, u64 len,
		  const struct iovec *iov, unsigned cnt)
{
	struct file *f = n->impl;
	u8 *buf = aligned_alloc(4096, BOUNCE + 2 * align_up(f->info.off_align, 4096));
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	for (u64 done = 0; done < len && !ret;) {
		u64 part = MIN(len - done, BOUNCE);

		ret = bounce_piece(n, op, off + done, part, iov, cnt, done, buf);
		done += part;
	}
	free(buf);
	return ret;
}

static int read_write(struct block_node *n, enum block_op op, u64 off, u64 len,
		      const struct iovec *iov, unsigned cnt)
{
	struct file *f = n->impl;
	bool order = f->order_rmw && op == BLOCK_WRITE, whole;
	int ret;

	if (f->probed && op == BLOCK_WRITE && off < BLOCK_SECTOR) {
		u8 head[8] = { 0 };

		iov_to(iov, cnt, 0, head, MIN(len, sizeof(head)));
		if (qcow2_probe(head, sizeof(head)))
			return -EPERM;
	}
	whole = aligned(f, off, len, iov, cnt);
	if (order && whole)
		pthread_rwlock_rdlock(&f->rmw);
	else if (order)
		pthread_rwlock_wrlock(&f->rmw);
	ret = whole ? transfer(n, op, off, len, iov, cnt)
		    : bounce(n, op, off, len, iov, cnt);
	if (order)
		pthread_rwlock_unlock(&f->rmw);
	return ret;
}

/* ---- the other operations ---- */

static int write_zeroes(struct block_node *n, u64 off, u64 len)
{
	struct iovec iov = { aligned_alloc(4096, BOUNCE), 0 };
	int ret = 0;

	if (!iov.iov_base)
		return -ENOMEM;
	memset(iov.iov_base, 0, BOUNCE);
	while (len && !ret) {
		iov.iov_len = MIN(len, BOUNCE);
		ret = read_write(n, BLOCK_WRITE, off, iov.iov_len, &iov, 1);
		off += iov.iov_len;
		len -= iov.iov_len;
	}
	free(iov.iov_base);
	return ret;
}

static bool unsupported(int ret)
{
	return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENODEV || ret == -EINVAL;
}

/* 0, an error, or 1: not possible here. */
static int punch(struct block_node *n, u64 off, u64 len)
{
	struct file *f = n->impl;
	int ret;

	if (atomic_load(&f->no_punch))
		return 1;
	ret = n->env->host->fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				      off, len);
	if (!unsupported(ret))
		return ret;
	if (ret != -EINVAL) /* of this range, perhaps */
		atomic_store(&f->no_punch, true);
	return 1;
}

static int zero(struct block_node *n, u64 off, u64 len, unsigned flags)
{
	struct file *f = n->impl;
	int ret = 1;

	if (flags & BLOCK_UNMAP && n->env->discard)
		ret = punch(n, off, len);
	if (ret == 1 && !atomic_load(&f->no_zero)) {
		ret = n->env->host->fallocate(f->fd, FALLOC_FL_ZERO_RANGE, off, len);
		if (!ret)
			grow(n, off + len);
		if (unsupported(ret)) {
			if (ret != -EINVAL)
				atomic_store(&f->no_zero, true);
			ret = 1;
		}
	}
	return ret == 1 ? write_zeroes(n, off, len) : ret;
}

static int flush(struct block_node *n)
{
	struct file *f = n->impl;
	int ret;

	if (n->readonly || n->env->cache == BLOCK_CACHE_UNSAFE)
		return 0;
	if (atomic_load(&f->sync_failed))
		return -EIO;
	ret = n->env->host->fdatasync(f->fd);
	if (ret && !f->direct)
		atomic_store(&f->sync_failed, true);
	return ret;
}

static int file_io(struct block_node *n, enum block_op op, u64 off, u64 len,
		   const struct iovec *iov, unsigned cnt, unsigned flags)
{
	int ret = -EINVAL;

	if (n->readonly && op != BLOCK_READ && op != BLOCK_FLUSH)
		return -EROFS;
	switch (op) {
	case BLOCK_READ:
	case BLOCK_WRITE: ret = read_write(n, op, off, len, iov, cnt); break;
	case BLOCK_FLUSH: ret = flush(n); break;
	case BLOCK_DISCARD:
		ret = n->env->discard ? punch(n, off, len) : 0;
		if (ret == 1)
			ret = 0; /* a hint */
		break;
	case BLOCK_ZERO: ret = zero(n, off, len, flags); break;
	}
	if (!ret && flags & BLOCK_FUA)
		ret = flush(n);
	return ret;
}

/* Nothing but the bytes changes. */
static bool plain_write(struct block_node *n, const struct block_req *r, u64 off)
{
	const struct file *f = n->impl;

	return !f->order_rmw && !f->probed && !n->readonly &&
	       off + r->len <= __atomic_load_n(&n->size, __ATOMIC_RELAXED);
}

/* From or to the page cache, if the kernel need not wait for anything. */
static enum node_start try_now(struct block_node *n, struct block_req *r, u64 off)
{
	const struct hostio *host = n->env->host;
	struct file *f = n->impl;
	i64 ret;

	if (f->direct)
		return START_NO;
	if (r->op == BLOCK_READ) {
		ret = host->preadv(f->fd, r->iov, r->iovcnt, off, RWF_NOWAIT);
	} else if (r->op == BLOCK_WRITE && !atomic_load(&f->no_nowait) &&
		   plain_write(n, r, off)) {
		ret = host->pwritev(f->fd, r->iov, r->iovcnt, off, RWF_NOWAIT);
		if (ret == -EOPNOTSUPP)
			atomic_store(&f->no_nowait, true);
	} else {
		return START_NO;
	}
	/* A part is done again by who waits. */
	if (ret != (i64)r->len)
		return START_NO;
	r->p.ret = 0;
	return START_DONE;
}

static enum node_start file_start(struct block_node *n, struct block_req *r, u64 off,
				  bool now)
{
	struct file *f = n->impl;
	bool flushes = r->op == BLOCK_FLUSH;

	if (now) {
		if (flushes && n->env->cache == BLOCK_CACHE_UNSAFE) {
			r->p.ret = 0;
			return START_DONE;
		}
		return try_now(n, r, off);
	}
	/* File systems take a lock of the file for a write to the page cache: several
	 * threads would only fight for it, which costs more than the write. */
	if (r->op == BLOCK_WRITE && !f->direct && f->info.regular)
		r->p.state |= BLOCK_REQ_SERIAL;
	if (!n->env->ring || r->op > BLOCK_FLUSH)
		return START_NO;
	if (flushes) {
		/* The rest is flush()'s business. */
		if (n->readonly || n->env->cache == BLOCK_CACHE_UNSAFE || !f->direct)
			return START_NO;
	} else if (!aligned(f, off, r->len, r->iov, r->iovcnt)) {
		return START_NO;
	}
	/* Through the page cache the kernel gives writes to threads of its own, which
	 * costs twice what ours do. */
	if (r->op == BLOCK_WRITE && (!f->direct || !plain_write(n, r, off)))
		return START_NO;
	return uring_queue(n->env->ring, f->fd, r, off,
			   r->flags & BLOCK_FUA && r->op == BLOCK_WRITE ? RWF_DSYNC : 0)
		       ? START_QUEUED
		       : START_NO;
}

static int file_status(struct block_node *n, u64 off, u64 len, struct block_extent *e)
{
	const struct hostio *host = n->env->host;
	struct file *f = n->impl;
	i64 data = host->seek(f->fd, off, SEEK_DATA), hole;
	u64 end;

	*e = (struct block_extent){
		.len = len, .kind = EXTENT_DATA, .has_host = true, .host_off = off
	};
	if (data == -ENXIO) {
		e->kind = EXTENT_ZERO;
	} else if (data > 0 && (u64)data > off) {
		/* A sector with any data in it counts as data. */
		end = align_down((u64)data, BLOCK_SECTOR);
		if (end > off) {
			e->kind = EXTENT_ZERO;
			e->len = MIN(len, end - off);
		} else {
			e->len = MIN(len, (u64)BLOCK_SECTOR);
		}
	} else if (data >= 0) {
		hole = host->seek(f->fd, off, SEEK_HOLE);
		if (hole > 0 && (u64)hole > off)
			e->len = MIN(len, align_up((u64)hole, BLOCK_SECTOR) - off);
	}
	return 0;
}

static int file_resize(struct block_node *n, u64 size, struct error *err)
{
	struct file *f = n->impl;
	int ret;

	if (!f->info.regular)
		return error_set(err, -ENOTSUP, "%s: a device has the size it has",
				 n->path);
	ret = n->env->host->ftruncate(f->fd, size);
	if (ret)
		return error_set(err, ret, "%s: cannot be made %llu bytes: %s", n->path,
				 (unsigned long long)size, strerror(-ret));
	__atomic_store_n(&n->size, align_up(size, BLOCK_SECTOR), __ATOMIC_RELAXED);
	return 0;
}

static int file_close(struct block_node *n)
{
	struct file *f = n->impl;
	int ret = n->env->host->close(f->fd);

	pthread_rwlock_destroy(&f->rmw);
	free(f);
	return ret;
}

static const struct block_ops file_ops = {
	.name = "raw",
	.io = file_io,
	.start = file_start,
	.status = file_status,
	.resize = file_resize,
	.close = file_close,
};

/* ---- opening ---- */

static int lock_once(struct block_node *n, bool write)
{
	const struct hostio *host = n->env->host;
	struct file *f = n->impl;
	unsigned used = BIT(PERM_CONSISTENT_READ);
	unsigned unshared = BIT(PERM_WRITE) | BIT(PERM_RESIZE);
	int ret = 0;

	if (write)
		used |= BIT(PERM_WRITE) | BIT(PERM_RESIZE);
	for (unsigned i = 0; i < PERM_COUNT && !ret; i++) {
		if (used & BIT(i))
			ret = host->lock(f->fd, LOCK_PERM + i, F_RDLCK, false);
		if (!ret && unshared & BIT(i))
			ret = host->lock(f->fd, LOCK_UNSHARED + i, F_RDLCK, false);
	}
	/* A write lock asked for, and not taken, finds the read locks of others. */
	for (unsigned i = 0; i < PERM_COUNT && !ret; i++) {
		if (used & BIT(i))
			ret = host->lock(f->fd, LOCK_UNSHARED + i, F_WRLCK, true);
		if (!ret && unshared & BIT(i))
			ret = host->lock(f->fd, LOCK_PERM + i, F_WRLCK, true);
	}
	return ret;
}

static void unlock(struct block_node *n)
{
	const struct hostio *host = n->env->host;
	struct file *f = n->impl;

	for (unsigned i = 0; i < PERM_COUNT; i++) {
		(void)host->lock(f->fd, LOCK_PERM + i, F_UNLCK, false);
		(void)host->lock(f->fd, LOCK_UNSHARED + i, F_UNLCK, false);
	}
}

/* The kernel gives up the locks of a killed process a moment later. */
static int lock(struct block_node *n, bool write, struct error *err)
{
	enum { TRIES = 10, WAIT_US = 30000 };
	int ret = lock_once(n, write);

	for (unsigned i = 0; ret == -EAGAIN && i < TRIES; i++) {
		unlock(n);
		usleep(WAIT_US);
		ret = lock_once(n, write);
	}
	/* A file system without locks. */
	if (ret == -ENOLCK || ret == -EOPNOTSUPP || ret == -EINVAL || ret == -ENOSYS)
		return 0;
	if (ret == -EAGAIN)
		return error_set(err, -EBUSY,
				 "%s: is in use: another process has it open%s", n->path,
				 write ? "" : " for writing");
	return ret ? error_set(err, ret, "%s: cannot be locked: %s", n->path,
			       strerror(-ret))
		   : 0;
}

static int not_regular(const char *path, struct error *err)
{
	return error_set(err, -EINVAL,
			 "%s: named by another image, but not a regular file", path);
}

static int check_kind(struct block_node *n, unsigned flags, struct error *err)
{
	struct file *f = n->impl;

	if (!f->info.regular && flags & FILE_BACKING)
		return not_regular(n->path, err);
	if (!f->info.regular && !f->info.blockdev)
		return error_set(err, -EINVAL,
				 "%s: neither a regular file nor a block device",
				 n->path);
	if (!is_pow2(f->info.off_align) || !is_pow2(f->info.mem_align) ||
	    f->info.off_align > KiB(64) || f->info.mem_align > 4096)
		return error_set(err, -EINVAL, "%s: odd alignment of direct I/O",
				 n->path);
	if (f->info.size > INT64_MAX - MiB(1))
		return error_set(err, -EFBIG, "%s: too large", n->path);
	return 0;
}

/* What direct I/O wants of offsets is not always told: try. */
static void probe_alignment(struct block_node *n)
{
	struct file *f = n->impl;
	struct iovec iov = { aligned_alloc(4096, 4096), BLOCK_SECTOR };

	if (iov.iov_base &&
	    n->env->host->preadv(f->fd, &iov, 1, BLOCK_SECTOR, 0) == -EINVAL)
		f->info.off_align = MAX(f->info.off_align, 4096u);
	free(iov.iov_base);
}

/*
 * What an image names is not opened before it is known to be a regular file: to open a
 * device can do something.
 */
static int check_named(const struct block_env *env, const char *path, struct error *err)
{
	struct host_file info = { 0 };
	int fd = env->host->open(path, O_PATH, 0);

	if (fd < 0)
		return error_set(err, fd, "%s: %s", path, strerror(-fd));
	/* Of a device the size cannot be asked for in this way: it stays as it is. */
	(void)env->host->stat(fd, &info);
	env->host->close(fd);
	return info.regular ? 0 : not_regular(path, err);
}

int file_open(struct block_node **node, const struct block_env *env, const char *path,
	      unsigned flags, struct error *err)
{
	bool direct =
		env->cache == BLOCK_CACHE_NONE || env->cache == BLOCK_CACHE_DIRECTSYNC;
	/* O_NONBLOCK: a FIFO shall not make us wait. It means nothing to files. */
	int open_flags = (flags & FILE_WRITE ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY;
	int fd, ret = flags & FILE_BACKING ? check_named(env, path, err) : 0;
	struct block_node *n;
	struct file *f;

	if (ret)
		return ret;
	fd = env->host->open(path, open_flags | (direct ? O_DIRECT : 0), 0);
	if (fd == -EINVAL && direct) {
		direct = false;
		fd = env->host->open(path, open_flags, 0);
		if (fd >= 0) {
			env->host->close(fd);
			return error_set(err, -EINVAL,
					 "%s: the file system has no O_DIRECT; "
					 "cache=none and directsync need it",
					 path);
		}
	}
	if (fd < 0)
		return error_set(err, fd, "%s: %s", path, strerror(-fd));
	n = node_new(&file_ops, env, path);
	n->impl = f = xzalloc(sizeof(*f));
	f->fd = fd;
	f->direct = direct;
	pthread_rwlock_init(&f->rmw, NULL);
	n->readonly = !(flags & FILE_WRITE);
	ret = env->host->stat(fd, &f->info);
	if (ret)
		error_set(err, ret, "%s: %s", path, strerror(-ret));
	else
		ret = check_kind(n, flags, err);
	if (!ret && !env->no_lock)
		ret = lock(n, flags & FILE_WRITE, err);
	if (ret) {
		node_close(n);
		return ret;
	}
	if (direct)
		probe_alignment(n);
	f->order_rmw = direct && f->info.off_align > BLOCK_SECTOR;
	n->size = align_up(f->info.size, BLOCK_SECTOR);
	*node = n;
	return 0;
}

void file_set_probed(struct block_node *n)
{
	struct file *f = n->impl;

	f->probed = true;
}

bool file_same(const struct block_node *a, const struct block_node *b)
{
	const struct file *fa, *fb;

	if (a->ops != &file_ops || b->ops != &file_ops)
		return false;
	fa = a->impl;
	fb = b->impl;
	return fa->info.dev == fb->info.dev && fa->info.ino == fb->info.ino;
}

u64 file_end(struct block_node *n)
{
	const struct file *f = n->impl;

	return n->ops == &file_ops && f->info.regular ? f->info.size : UINT64_MAX;
}

u64 file_allocated(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (u64)st.st_blocks * 512;
}
