/*
 * The system calls that the block layer makes on images, as a table: tests put their own
 * in its place, which fail, do less than asked, or keep a record for a power cut.
 *
 * All return 0 or a count, or -errno. Any thread.
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"

struct host_file {
	u64 size;
	bool regular, blockdev;
	u64 dev, ino;
	/* What O_DIRECT wants of addresses, and of offsets and lengths. */
	unsigned mem_align, off_align;
};

struct hostio {
	int (*open)(const char *path, int flags, unsigned mode); /* O_CLOEXEC is added */
	int (*close)(int fd);
	int (*stat)(int fd, struct host_file *f);
	i64 (*preadv)(int fd, const struct iovec *iov, unsigned n, u64 off, int flags);
	i64 (*pwritev)(int fd, const struct iovec *iov, unsigned n, u64 off, int flags);
	int (*fdatasync)(int fd);
	int (*fallocate)(int fd, int mode, u64 off, u64 len);
	int (*ftruncate)(int fd, u64 len);
	i64 (*seek)(int fd, u64 off, int whence); /* SEEK_DATA, SEEK_HOLE */
	/* Open file description lock of one byte; 'get': only ask who is in the way. */
	int (*lock)(int fd, u64 byte, short type, bool get);
	i64 (*now)(void); /* ns, monotonic; for throttling and progress only */
};

/* The kernel's. io_uring is used with this table only. */
extern const struct hostio hostio_linux;
