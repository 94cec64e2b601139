/*
 * Memory below 2 GiB: Linux has a flag for it. Its range is 1 GiB and shared with nobody
 * in a program that is loaded elsewhere, as position-independent ones are.
 */
#include "host/lowmem.h"

#include <sys/mman.h>

void *lowmem_new(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void lowmem_free(void *p, size_t len)
{
	if (p)
		munmap(p, len);
}

bool lowmem_reaches(const void *p, size_t len)
{
	return (uintptr_t)p + len <= UINT64_C(0x80000000);
}
