/*
 * Names of the functions of a guest's kernel: from a System.map, a copy of its
 * /proc/kallsyms, or an ELF file with a symbol table (vmlinux).
 *
 * Immutable once made; any thread.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct symbols;

struct symbol {
	u64 addr;
	const char *name; /* visible ASCII without quotes and backslashes; borrowed */
};

/* The contents of a file. 'name' is that of the file. NULL: the reason is in *err. */
struct symbols *symbols_parse(const u8 *data, size_t len, const char *name,
			      struct error *err);
struct symbols *symbols_load(const char *path, struct error *err);
void symbols_free(struct symbols *s);

/* The function that 'addr' is in, as far as its beginning tells. */
bool symbols_find(const struct symbols *s, u64 addr, struct symbol *found);
/* Where a function begins. */
bool symbols_address(const struct symbols *s, const char *name, u64 *addr);
