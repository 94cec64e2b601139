/*
 * Allocation of small things whose size we choose: these abort when memory is
 * exhausted. What a guest, a file or a user sizes is allocated with calloc and
 * checked.
 */
#pragma once

#include <stddef.h>

__attribute__((malloc, returns_nonnull)) void *xzalloc(size_t size);
__attribute__((malloc, returns_nonnull)) char *xstrdup(const char *s);
/* Zeroed, 'align' a power of two; free with free(). */
__attribute__((malloc, returns_nonnull)) void *xzalloc_aligned(size_t align, size_t size);
