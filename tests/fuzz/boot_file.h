/*
 * A kernel file as a fuzzer makes it: the input itself, or a good kernel with some of its
 * bytes replaced, which gets further. When it is accepted it is loaded too.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "machine/boot.h"
#include "machine/layout.h"
#include "mem/phys.h"

#define FUZZ_RAM MiB(8)

/* Patches of 11 bytes: offset (2), log2 of the size (1), value (8). */
static void fuzz_patch(u8 *file, size_t len, const u8 *data, size_t size)
{
	while (size >= 11) {
		size_t off = le_load(data, 2) % len;
		size_t n = MIN(1u << (data[2] & 3), len - off);

		memcpy(file + off, data + 3, n);
		data += 11;
		size -= 11;
	}
}

static void fuzz_load(const struct boot *b)
{
	static struct phys *phys;
	struct error err = { 0 };

	if (!phys) {
		phys = phys_new();
		if (phys_add_ram(phys, "low", 0, LAYOUT_LOW_END, &err) ||
		    phys_add_ram(phys, "ram", LAYOUT_SHADOW, FUZZ_RAM - LAYOUT_SHADOW,
				 &err))
			abort();
	}
	/* What was accepted fits. */
	if (boot_load(b, phys, &err))
		abort();
}

/* 'good' is copied; 'data' is the file when its first byte is odd, else patches. */
static void fuzz_boot(const u8 *good, size_t good_len, const u8 *data, size_t size)
{
	static const u8 initrd[3000];
	struct boot_config cfg = { .cmdline = "a=b" };
	struct error err = { 0 };
	struct layout layout;
	struct image kernel, rd;
	struct boot *boot;
	size_t len;
	u8 *file;

	if (size < 2)
		return;
	if (layout_init(&layout, FUZZ_RAM, 40, &err))
		abort();
	cfg.layout = &layout;
	cfg.long_mode = data[0] & 2;
	len = data[0] & 1 ? size - 1 : good_len;
	file = malloc(len); /* of exactly its size, for the sanitizer */
	if (!file)
		abort();
	memcpy(file, data[0] & 1 ? data + 1 : good, len);
	if (!(data[0] & 1))
		fuzz_patch(file, len, data + 1, size - 1);
	image_from_memory(&kernel, "kernel", "fuzz", file, len);
	image_from_memory(&rd, "initrd", "fuzz", initrd, sizeof(initrd));
	if (!boot_new_images(&boot, &cfg, kernel, data[0] & 4 ? &rd : NULL, &err)) {
		fuzz_load(boot);
		boot_free(boot);
	} else if (!err.msg[0] || strchr(err.msg, '\n')) {
		abort(); /* refused without a reason, or with more than one line */
	}
	free(file);
}
