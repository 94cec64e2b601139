/*
 * Multiboot 1 kernels: an ELF file or a flat image with a header in its first 8 KiB.
 */
#pragma once

#include "machine/boot.h"

#define MULTIBOOT_LOADER_MAGIC 0x2badb002u /* EAX at the entry */
#define MULTIBOOT_MODULES_MAX  64

/* A kernel may be loaded from here on: page 0 has the BIOS's data. */
#define MULTIBOOT_LOWEST 0x1000u

enum multiboot_header { MULTIBOOT_NONE, MULTIBOOT_FOUND, MULTIBOOT_DAMAGED };

/* Is there a header? Damaged: its magic number is there, and no checksum fits. */
enum multiboot_header multiboot_probe(const struct image *img);
/* Check header and file, and find a place for each piece, which is the one they name. */
int multiboot_parse(const struct image *img, const struct e820 *map,
		    struct boot_kernel *k, struct error *err);

/* ---- the information for the kernel ---- */

struct multiboot_module {
	u32 base, end;
	const char *text; /* the file's name and its arguments */
};

struct multiboot_params {
	const char *kernel, *cmdline;
	const struct multiboot_module *module;
	unsigned modules;
	const struct e820 *map;
	const struct layout *layout;
};

/* Where in it things are that boot.c must know. */
#define MULTIBOOT_INFO_GDT   0x00 /* free for descriptors of the entry, 40h bytes */
#define MULTIBOOT_INFO       0x40 /* struct multiboot_info */
/* A stack ends where it ends. Kernels are to bring their own, and some do not. */
#define MULTIBOOT_INFO_STACK 0x1000

/* Bytes of the block, a multiple of the page size. */
u64 multiboot_info_size(const struct multiboot_params *p);
/* Fill in the block of that size that will lie at guest-physical 'at'. */
void multiboot_info_fill(u8 *block, gpa_t at, const struct multiboot_params *p);
