/*
 * Memory below 2 GiB, which generated code reaches by a 32-bit displacement alone.
 * Any thread.
 */
#pragma once

#include "base/types.h"

/* Zeroed, 'len' bytes in whole pages. NULL: none left there. */
void *lowmem_new(size_t len);
void lowmem_free(void *p, size_t len);
/* Can all of [p, p + len) be reached so? */
bool lowmem_reaches(const void *p, size_t len);
