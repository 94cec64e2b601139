/*
 * Reading of boot files: bounded, regular files only, one-line errors with the file's
 * name.
 *
 * The descriptor stays open, so that a guest's reset loads the same file again even
 * when a package upgrade has replaced it in the directory.
 * No locks: one thread, while the machine is stopped.
 */
#include "machine/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return "a directory";
	case S_IFIFO: return "a pipe";
	case S_IFSOCK: return "a socket";
	case S_IFCHR: return "a character device";
	case S_IFBLK: return "a block device";
	default: return "no regular file";
	}
}

int image_open(struct image *img, const char *what, const char *path, struct error *err)
{
	struct stat st;
	int ret;

	*img = (struct image){ .what = what, .path = path, .fd = -1 };
	/* O_NONBLOCK: a pipe without writer must not hang us before we can refuse it. */
	img->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (img->fd < 0) {
		ret = -errno;
		/* A socket cannot be opened at all; say so, not "No such device". */
		if (ret == -ENXIO && !stat(path, &st))
			return error_set(err, ret, "%s %s: is %s, not a regular file",
					 what, path, type_name(st.st_mode));
		return error_set(err, ret, "%s %s: %s", what, path, strerror(-ret));
	}
	if (fstat(img->fd, &st)) {
		ret = error_set(err, -errno, "%s %s: %s", what, path, strerror(errno));
		goto close;
	}
	if (!S_ISREG(st.st_mode)) {
		ret = error_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL,
				"%s %s: is %s, not a regular file", what, path,
				type_name(st.st_mode));
		goto close;
	}
	if (!st.st_size) {
		ret = error_set(err, -EINVAL, "%s %s: is empty", what, path);
		goto close;
	}
	img->len = (u64)st.st_size;
	return 0;
close:
	image_close(img);
	return ret;
}

void image_from_memory(struct image *img, const char *what, const char *path,
		       const void *data, u64 len)
{
	*img = (struct image){
		.what = what, .path = path, .fd = -1, .data = data, .len = len
	};
}

void image_close(struct image *img)
{
	if (img->fd >= 0)
		close(img->fd);
	img->fd = -1;
}

int image_read(const struct image *img, u64 off, void *buf, u64 len, struct error *err)
{
	u8 *p = buf;

	if (!image_has(img, off, len))
		return error_set(err, -EINVAL,
				 "%s %s: truncated, %llu bytes at %llu are missing",
				 img->what, img->path, (unsigned long long)len,
				 (unsigned long long)off);
	if (img->data) {
		memcpy(buf, img->data + off, len);
		return 0;
	}
	while (len) {
		ssize_t n = pread(img->fd, p, MIN(len, MiB(1024)), (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "%s %s: %s", img->what, img->path,
					 strerror(errno));
		if (!n)
			return error_set(
				err, -EIO,
				"%s %s: the file became shorter while it was read",
				img->what, img->path);
		p += n;
		off += (u64)n;
		len -= (u64)n;
	}
	return 0;
}

/* clang-format off */
static const struct magic {
	u16 off;
	u8 len;
	const char *bytes;
	const char *text;
} magics[] = {
	{ 0, 2, "\x1f\x8b", "a gzip file" },
	{ 0, 6, "\xfd" "7zXZ", "an xz file" },
	{ 0, 4, "\x28\xb5\x2f\xfd", "a zstd file" },
	{ 0, 3, "BZh", "a bzip2 file" },
	{ 0, 4, "\x04\x22\x4d\x18", "an lz4 file" },
	{ 0, 4, "\x02\x21\x4c\x18", "an lz4 file" },
	{ 0, 6, "070701", "a cpio archive (an initial RAM disk?)" },
	{ 0, 6, "070707", "a cpio archive (an initial RAM disk?)" },
	{ 0, 8, "!<arch>\n", "an ar archive or Debian package" },
	{ 0, 4, "QFI\xfb", "a qcow2 disk image" },
	{ 0, 2, "#!", "a script" },
	{ 0, 4, "PK\x03\x04", "a zip file" },
	{ 0, 4, "hsqs", "a squashfs file system" },
	{ 0, 4, "\xd0\x0d\xfe\xed", "a flattened device tree" },
	{ 0, 4, "\x27\x05\x19\x56", "a U-Boot image" },
	{ 0x38, 4, "ARM\x64", "an arm64 kernel" },
	{ 0x30, 5, "RISCV", "a RISC-V kernel" },
	{ 0x30, 4, "RSC\x05", "a RISC-V kernel" },
	{ 0, 4, "\x7f" "ELF", "an ELF file" },
	{ 0, 2, "MZ", "an EFI or DOS program" },
	{ 257, 5, "ustar", "a tar archive" },
	{ 510, 2, "\x55\xaa", "a disk image or boot sector" },
};
/* clang-format on */

const char *image_looks_like(const struct image *img)
{
	u8 head[512] = { 0 };
	u64 n = MIN(img->len, sizeof(head));
	struct error err = { 0 };
	bool text = true, zero = true;

	if (image_read(img, 0, head, n, &err))
		return "unreadable";
	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		const struct magic *m = &magics[i];

		if (m->off + m->len <= n && !memcmp(head + m->off, m->bytes, m->len))
			return m->text;
	}
	for (u64 i = 0; i < n; i++) {
		zero = zero && !head[i];
		text = text && ((head[i] >= ' ' && head[i] < 0x7f) ||
				(head[i] >= '\t' && head[i] <= '\r') || head[i] >= 0x80);
	}
	if (zero)
		return "nothing but zeroes";
	return text ? "a text file" : "data of an unknown kind";
}

int image_refuse(const struct image *img, struct error *err, const char *fmt, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return error_set(err, -EINVAL, "%s %s: %s", img->what, img->path, text);
}
