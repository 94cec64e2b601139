/*
 * The block layer's system calls, as the kernel has them.
 *
 * EINTR is retried here; nothing else is hidden. No lock, any thread.
 */
#include "block/hostio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"

#define RETRY(call)                                                                      \
	({                                                                               \
		__typeof__(call) ret_;                                                   \
		do                                                                       \
			ret_ = (call);                                                   \
		while (ret_ < 0 && errno == EINTR);                                      \
		ret_ < 0 ? -errno : ret_;                                                \
	})

static int linux_open(const char *path, int flags, unsigned mode)
{
	return RETRY(open(path, flags | O_CLOEXEC, mode));
}

static int linux_close(int fd)
{
	return close(fd) ? -errno : 0;
}

static int linux_stat(int fd, struct host_file *f)
{
	struct statx st;
	int size = 512;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st))
		return -errno;
	*f = (struct host_file){
		.size = st.stx_size,
		.regular = S_ISREG(st.stx_mode),
		.blockdev = S_ISBLK(st.stx_mode),
		.dev = (u64)st.stx_dev_major << 32 | st.stx_dev_minor,
		.ino = st.stx_ino,
		/* No file system here wants more of memory than a page, and what it
		 * wants of offsets is at most its block. */
		.mem_align = 4096,
		.off_align = 512,
	};
	if (f->blockdev) {
		if (ioctl(fd, BLKGETSIZE64, &f->size))
			return -errno;
		if (!ioctl(fd, BLKSSZGET, &size) && size > 0)
			f->off_align = (unsigned)size;
		f->dev = (u64)st.stx_rdev_major << 32 | st.stx_rdev_minor;
		f->ino = 0;
	}
#ifdef STATX_DIOALIGN
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) &&
	    st.stx_mask & STATX_DIOALIGN && st.stx_dio_offset_align) {
		f->mem_align = st.stx_dio_mem_align;
		f->off_align = st.stx_dio_offset_align;
	}
#endif
	return 0;
}

static i64 linux_preadv(int fd, const struct iovec *iov, unsigned n, u64 off, int flags)
{
	return RETRY(preadv2(fd, iov, (int)n, (off_t)off, flags));
}

static i64 linux_pwritev(int fd, const struct iovec *iov, unsigned n, u64 off, int flags)
{
	return RETRY(pwritev2(fd, iov, (int)n, (off_t)off, flags));
}

static int linux_fdatasync(int fd)
{
	return RETRY(fdatasync(fd));
}

static int linux_fallocate(int fd, int mode, u64 off, u64 len)
{
	return RETRY(fallocate(fd, mode, (off_t)off, (off_t)len));
}

static int linux_ftruncate(int fd, u64 len)
{
	return RETRY(ftruncate(fd, (off_t)len));
}

static i64 linux_seek(int fd, u64 off, int whence)
{
	return RETRY(lseek(fd, (off_t)off, whence));
}

static int linux_lock(int fd, u64 byte, short type, bool get)
{
	struct flock fl = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)byte,
		.l_len = 1,
	};

	if (fcntl(fd, get ? F_OFD_GETLK : F_OFD_SETLK, &fl))
		return errno == EACCES ? -EAGAIN : -errno;
	return get && fl.l_type != F_UNLCK ? -EAGAIN : 0;
}

static i64 linux_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

const struct hostio hostio_linux = {
	.open = linux_open,
	.close = linux_close,
	.stat = linux_stat,
	.preadv = linux_preadv,
	.pwritev = linux_pwritev,
	.fdatasync = linux_fdatasync,
	.fallocate = linux_fallocate,
	.ftruncate = linux_ftruncate,
	.seek = linux_seek,
	.lock = linux_lock,
	.now = linux_now,
};
