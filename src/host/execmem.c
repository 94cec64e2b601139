/*
 * Memory for code made at run time: one memfd, mapped writable and executable; or shared
 * memory without a file, of which mremap(2) makes the second view.
 *
 * The two views are reserved with PROT_NONE and filled chunk by chunk, so the cost of an
 * engine that makes little code is little, and that of a chunk a fault for all its pages.
 * Newly written code has never been executed at its address, or was dropped long before,
 * so no serializing instruction is needed on x86 (SDM volume 3 section 12.6: caches are
 * snooped by physical address). Thread: the owner's; no lock.
 */
#include "host/execmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"

#define CHUNK KiB(64)

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

struct execmem {
	int fd; /* -1: no file */
	u8 *exec, *write;
	size_t max;   /* reserved */
	size_t avail; /* mapped so far */
	size_t used;
};

static int memfd_open(void)
{
	/* Kernels that know MFD_EXEC want to be told; older ones refuse the flag. */
	int fd = memfd_create("umbra-code", MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("umbra-code", MFD_CLOEXEC);
	return fd;
}

static u8 *reserve(size_t size, int kind)
{
	void *p =
		mmap(NULL, size, PROT_NONE, kind | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* A second view of what is shared. */
static u8 *again(u8 *shared, size_t size)
{
	void *p = shared ? mremap(shared, 0, size, MREMAP_MAYMOVE) : MAP_FAILED;

	return p == MAP_FAILED ? NULL : p;
}

static struct execmem *make(size_t max, bool anonymous, struct error *err)
{
	struct execmem *m = xzalloc(sizeof(*m));

	m->max = align_up(max, CHUNK);
	m->fd = anonymous ? -1 : memfd_open();
	if (m->fd < 0 && !anonymous) {
		error_set(err, -errno, "memory for code: memfd_create: %s",
			  strerror(errno));
		goto free_m;
	}
	m->exec = reserve(m->max, anonymous ? MAP_SHARED : MAP_PRIVATE);
	m->write = anonymous ? again(m->exec, m->max) : reserve(m->max, MAP_PRIVATE);
	if (!m->exec || !m->write) {
		error_set(err, -ENOMEM, "memory for code: no address space for %zu bytes",
			  m->max);
		goto free_m;
	}
	/* Fail now rather than at the first instruction when the host forbids this. */
	if (!execmem_alloc(m, 16, 16, &(u8 *){ NULL })) {
		error_set(err, -EACCES,
			  "memory for code: the host refuses executable mappings: %s",
			  strerror(errno));
		goto free_m;
	}
	execmem_reset(m);
	return m;
free_m:
	execmem_free(m);
	return NULL;
}

struct execmem *execmem_new(size_t max, struct error *err)
{
	return make(max, false, err);
}

struct execmem *execmem_new_anonymous(size_t max, struct error *err)
{
	return make(max, true, err);
}

void execmem_free(struct execmem *m)
{
	if (!m)
		return;
	if (m->exec)
		munmap(m->exec, m->max);
	if (m->write)
		munmap(m->write, m->max);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

static bool grow(struct execmem *m, size_t need)
{
	size_t size = align_up(need, CHUNK), len = size - m->avail;
	off_t off = (off_t)m->avail;

	if (m->fd < 0) {
		if (mprotect(m->write + off, len, PROT_READ | PROT_WRITE) ||
		    mprotect(m->exec + off, len, PROT_READ | PROT_EXEC))
			return false;
		m->avail = size;
		return true;
	}
	if (ftruncate(m->fd, (off_t)size) < 0)
		return false;
	if (mmap(m->write + off, len, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED | MAP_POPULATE, m->fd, off) == MAP_FAILED)
		return false;
	if (mmap(m->exec + off, len, PROT_READ | PROT_EXEC,
		 MAP_SHARED | MAP_FIXED | MAP_POPULATE, m->fd, off) == MAP_FAILED)
		return false;
	m->avail = size;
	return true;
}

void *execmem_alloc(struct execmem *m, size_t size, size_t align, u8 **writable)
{
	size_t at = align_up(m->used, align);

	if (size > m->max || at > m->max - size)
		return NULL;
	if (at + size > m->avail && !grow(m, at + size))
		return NULL;
	m->used = at + size;
	*writable = m->write + at;
	return m->exec + at;
}

void execmem_trim(struct execmem *m, size_t size)
{
	m->used -= size;
}

void execmem_reset(struct execmem *m)
{
	m->used = 0;
}

size_t execmem_left(const struct execmem *m)
{
	return m->max - m->used;
}

const u8 *execmem_base(const struct execmem *m)
{
	return m->exec;
}

size_t execmem_size(const struct execmem *m)
{
	return m->max;
}
