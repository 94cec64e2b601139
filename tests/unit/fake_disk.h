/*
 * Files in memory instead of system calls, for the block layer's tests and fuzz targets:
 * they can fail, do less than asked, and lose power.
 *
 * A power cut leaves of each sector any of the contents it had since the last
 * fdatasync(), chosen by a seed; that is more than a disk may do (it may also reorder,
 * and tear a write between sectors, which is included).
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/hostio.h"

enum { FAKE_FILES = 4, FAKE_SECTOR = 512, FAKE_FDS = 160 };
#define FAKE_MAX MiB(64) /* a larger file is "no space" */

struct fake_version {
	u64 sector;
	u8 data[FAKE_SECTOR];
};

struct fake_file {
	char path[64];
	u8 *data, *stable;
	u64 size, stable_size, room;
	u64 high;                 /* nothing but zeroes from here on */
	struct fake_version *log; /* since the last sync */
	size_t logged, log_room;
};

static struct {
	struct fake_file files[FAKE_FILES];
	int fds[FAKE_FDS]; /* index + 1 */
	bool keep_log;
	unsigned align; /* what direct I/O wants; 0: a sector */
	/* Every call from number 'fail_from' on, or only that one, fails. */
	u64 calls, fail_from;
	bool fail_once;
	int fail_with; /* -errno; 1: a short transfer */
	pthread_mutex_t lock;
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static inline u64 fake_random(u64 *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * UINT64_C(2685821657736338717) >> 16;
}

static inline void fake_reset(void)
{
	for (unsigned i = 0; i < FAKE_FILES; i++) {
		free(fake.files[i].data);
		free(fake.files[i].stable);
		free(fake.files[i].log);
		fake.files[i] = (struct fake_file){ 0 };
	}
	memset(fake.fds, 0, sizeof(fake.fds));
	fake.calls = fake.fail_from = 0;
	fake.fail_with = 0;
	fake.fail_once = fake.keep_log = false;
	fake.align = 0;
}

static inline struct fake_file *fake_find(const char *path)
{
	for (unsigned i = 0; i < FAKE_FILES; i++)
		if (fake.files[i].path[0] && !strcmp(fake.files[i].path, path))
			return &fake.files[i];
	return NULL;
}

static inline bool fake_room(struct fake_file *f, u64 size)
{
	u64 room = f->room ? f->room : 65536;

	if (size > FAKE_MAX)
		return false;
	while (room < size)
		room *= 2;
	if (room != f->room) {
		u8 *more = realloc(f->data, room);

		if (!more)
			abort();
		memset(more + f->room, 0, room - f->room);
		f->data = more;
		f->room = room;
	}
	return true;
}

/* A file with this content; NULL: zeroes. */
static inline struct fake_file *fake_make(const char *path, const void *data, u64 size)
{
	struct fake_file *f = fake_find(path);

	for (unsigned i = 0; i < FAKE_FILES && !f; i++)
		if (!fake.files[i].path[0])
			f = &fake.files[i];
	if (!f || !fake_room(f, size))
		abort();
	strncpy(f->path, path, sizeof(f->path) - 1);
	memset(f->data, 0, f->high);
	if (data)
		memcpy(f->data, data, size);
	f->size = size;
	f->high = MIN(size + 65536, f->room); /* what tests poke is near */
	return f;
}

static inline void fake_settle(struct fake_file *f)
{
	free(f->stable);
	f->stable = malloc(f->size + 1);
	if (!f->stable)
		abort();
	memcpy(f->stable, f->data, f->size);
	f->stable_size = f->size;
	f->logged = 0;
}

/* The file after a power cut, under another name. Seed 0: only the process died. */
static inline void fake_power_cut(const char *from, const char *to, u64 seed)
{
	struct fake_file *f = fake_find(from), *t;
	u64 size = MAX(f->size, f->stable_size);

	if (!seed) {
		fake_make(to, f->data, f->size);
		return;
	}
	if (fake_random(&seed) & 1)
		size = f->stable_size;
	t = fake_make(to, NULL, size);
	memcpy(t->data, f->stable, MIN(size, f->stable_size));
	/* A later version of a sector may replace an earlier one, or not. */
	for (size_t i = 0; i < f->logged; i++) {
		u64 at = f->log[i].sector * FAKE_SECTOR;

		if (at < size && fake_random(&seed) & 1)
			memcpy(t->data + at, f->log[i].data, MIN(size - at, 512u));
	}
}

/* ---- the calls ---- */

/* 0, an error, or 1: do half of it. */
static inline int fake_call(void)
{
	u64 n = ++fake.calls;

	if (!fake.fail_from || n < fake.fail_from ||
	    (fake.fail_once && n != fake.fail_from))
		return 0;
	return fake.fail_with;
}

static inline struct fake_file *fake_of(int fd)
{
	return &fake.files[fake.fds[fd - 100] - 1];
}

static inline int fake_open(const char *path, int flags, unsigned mode)
{
	struct fake_file *f = fake_find(path);

	(void)flags;
	(void)mode;
	if (!f)
		return -ENOENT;
	for (int i = 0; i < FAKE_FDS; i++) {
		if (!fake.fds[i]) {
			fake.fds[i] = (int)(f - fake.files) + 1;
			return i + 100;
		}
	}
	return -EMFILE;
}

static inline int fake_close(int fd)
{
	fake.fds[fd - 100] = 0;
	return 0;
}

static inline int fake_stat(int fd, struct host_file *h)
{
	struct fake_file *f = fake_of(fd);

	*h = (struct host_file){ .size = f->size,
				 .regular = true,
				 .dev = 1,
				 .ino = (u64)(f - fake.files),
				 .mem_align = 512,
				 .off_align = fake.align ? fake.align : 512 };
	return 0;
}

static inline bool fake_aligned(const struct iovec *iov, unsigned n, u64 off)
{
	u64 mask = fake.align ? fake.align - 1 : 0;

	for (unsigned i = 0; i < n; i++)
		off |= iov[i].iov_len | ((uintptr_t)iov[i].iov_base & 511 & mask);
	return !(off & mask);
}

static inline i64 fake_preadv(int fd, const struct iovec *iov, unsigned n, u64 off,
			      int flags)
{
	struct fake_file *f = fake_of(fd);
	int fail;
	i64 sum = 0;

	(void)flags;
	pthread_mutex_lock(&fake.lock);
	fail = fake_aligned(iov, n, off) ? fake_call() : -EINVAL;
	for (unsigned i = 0; i < n && fail >= 0 && off < f->size; i++) {
		u64 len = MIN(iov[i].iov_len, f->size - off);

		if (fail > 0)
			len = (len + 1) / 2;
		memcpy(iov[i].iov_base, f->data + off, len);
		off += len;
		sum += (i64)len;
		if (len < iov[i].iov_len)
			break;
	}
	pthread_mutex_unlock(&fake.lock);
	return fail < 0 ? fail : sum;
}

static inline void fake_log(struct fake_file *f, u64 off, u64 len)
{
	if (!fake.keep_log || !len)
		return;
	for (u64 s = off / 512; s <= (off + len - 1) / 512; s++) {
		if (f->logged == f->log_room) {
			f->log_room = f->log_room ? f->log_room * 2 : 256;
			f->log = realloc(f->log, f->log_room * sizeof(*f->log));
			if (!f->log)
				abort();
		}
		f->log[f->logged].sector = s;
		memcpy(f->log[f->logged++].data, f->data + s * 512, 512);
	}
}

static inline i64 fake_pwritev(int fd, const struct iovec *iov, unsigned n, u64 off,
			       int flags)
{
	struct fake_file *f = fake_of(fd);
	u64 start = off;
	i64 sum = 0;
	int fail;

	(void)flags;
	pthread_mutex_lock(&fake.lock);
	fail = fake_aligned(iov, n, off) ? fake_call() : -EINVAL;
	for (unsigned i = 0; i < n && fail >= 0; i++) {
		u64 len = fail > 0 ? (iov[i].iov_len + 1) / 2 : iov[i].iov_len;

		if (off + len > FAKE_MAX) {
			fail = -ENOSPC;
			break;
		}
		/* A sector more: the log takes whole ones. */
		fake_room(f, align_up(off + len, 512));
		memcpy(f->data + off, iov[i].iov_base, len);
		off += len;
		sum += (i64)len;
		f->size = MAX(f->size, off);
		f->high = MAX(f->high, off);
		if (len < iov[i].iov_len)
			break;
	}
	fake_log(f, start, (u64)sum);
	pthread_mutex_unlock(&fake.lock);
	return fail < 0 ? fail : sum;
}

static inline int fake_fdatasync(int fd)
{
	struct fake_file *f = fake_of(fd);
	int fail;

	pthread_mutex_lock(&fake.lock);
	fail = fake_call();
	if (fail >= 0 && fake.keep_log)
		fake_settle(f);
	pthread_mutex_unlock(&fake.lock);
	return MIN(fail, 0);
}

static inline int fake_fallocate(int fd, int mode, u64 off, u64 len)
{
	struct fake_file *f = fake_of(fd);
	int fail;

	pthread_mutex_lock(&fake.lock);
	fail = fake_call();
	if (fail >= 0 && mode & FALLOC_FL_ZERO_RANGE) {
		fail = -EOPNOTSUPP;
	} else if (fail >= 0 && off < f->size) {
		len = MIN(len, f->size - off);
		memset(f->data + off, 0, len);
		fake_log(f, off, len);
	}
	pthread_mutex_unlock(&fake.lock);
	return MIN(fail, 0);
}

static inline int fake_ftruncate(int fd, u64 len)
{
	struct fake_file *f = fake_of(fd);
	int fail;

	pthread_mutex_lock(&fake.lock);
	fail = fake_call();
	if (fail >= 0 && !fake_room(f, align_up(len, 512)))
		fail = -ENOSPC;
	if (fail >= 0) {
		if (len < f->size)
			memset(f->data + len, 0, f->size - len);
		f->size = len;
	}
	pthread_mutex_unlock(&fake.lock);
	return MIN(fail, 0);
}

static inline i64 fake_seek(int fd, u64 off, int whence)
{
	struct fake_file *f = fake_of(fd);

	if (off >= f->size)
		return -ENXIO;
	return (i64)(whence == SEEK_DATA ? off : f->size);
}

static inline int fake_lock(int fd, u64 byte, short type, bool get)
{
	(void)fd;
	(void)byte;
	(void)type;
	(void)get;
	return 0;
}

static inline i64 fake_now(void)
{
	return 0;
}

static const struct hostio fake_host = {
	.open = fake_open,
	.close = fake_close,
	.stat = fake_stat,
	.preadv = fake_preadv,
	.pwritev = fake_pwritev,
	.fdatasync = fake_fdatasync,
	.fallocate = fake_fallocate,
	.ftruncate = fake_ftruncate,
	.seek = fake_seek,
	.lock = fake_lock,
	.now = fake_now,
};
