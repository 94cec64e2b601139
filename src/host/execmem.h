/*
 * Memory for code made at run time.
 *
 * One piece of memory is mapped twice: a view to write and a view to execute, so that no
 * page is ever both (W^X). Addresses are reserved at once and memory is added in chunks,
 * so pointers stay valid until execmem_free().
 *
 * Thread: one at a time; who executes the code needs no lock.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct execmem;

/* At most 'max' bytes, rounded up to whole chunks. NULL: the reason is in *err. */
struct execmem *execmem_new(size_t max, struct error *err);
/* The same without a name: perf(1) looks the names of functions up in its map file only
 * for such memory. */
struct execmem *execmem_new_anonymous(size_t max, struct error *err);
void execmem_free(struct execmem *m);

/*
 * Room for 'size' bytes at a multiple of 'align' (a power of two up to 4096). The result
 * is the address to execute at; *writable is where to write the same bytes. NULL: full,
 * or the host has no memory.
 */
void *execmem_alloc(struct execmem *m, size_t size, size_t align, u8 **writable);
/* Give the last 'size' bytes of the newest allocation back. */
void execmem_trim(struct execmem *m, size_t size);
/* Give everything back. Nobody executes in it. */
void execmem_reset(struct execmem *m);

/* Bytes still to be had, if the host has them. */
size_t execmem_left(const struct execmem *m);
/* The whole reserved range of the executable view. */
const u8 *execmem_base(const struct execmem *m);
size_t execmem_size(const struct execmem *m);
