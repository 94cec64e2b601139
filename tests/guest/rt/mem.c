/*
 * What the compiler calls without being asked.
 */
#include "rt.h"

void *memset(void *dst, int c, size_t n);
void *memcpy(void *dst, const void *src, size_t n);

void *memset(void *dst, int c, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((volatile u8 *)dst)[i] = (u8)c;
	return dst;
}

void *memcpy(void *dst, const void *src, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((volatile u8 *)dst)[i] = ((const u8 *)src)[i];
	return dst;
}
