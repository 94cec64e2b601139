/* Allocation of small things whose size we choose. */
#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *check(void *p)
{
	if (!p) {
		fputs("umbra: out of memory\n", stderr);
		abort();
	}
	return p;
}

void *xzalloc(size_t size)
{
	return check(calloc(1, size));
}

char *xstrdup(const char *s)
{
	return check(strdup(s));
}

void *xzalloc_aligned(size_t align, size_t size)
{
	size_t len = (size + align - 1) & ~(align - 1);
	void *p = check(aligned_alloc(align, len));

	return memset(p, 0, len);
}
