/*
 * Kernels as ELF files: PVH (Xen's x86/HVM direct boot ABI) or a plain 64-bit vmlinux.
 */
#pragma once

#include "machine/boot.h"

bool elf_probe(const struct image *img);
/* Parse, check, and find a place for each segment, which is the one the file names. */
int elf_parse(const struct image *img, const struct e820 *map, bool long_mode,
	      struct boot_kernel *k, struct error *err);

/*
 * Only the segments and the entry, whatever it is to be entered as: for another header
 * that says. 'k' is zero but for what is none of an ELF file's business.
 */
int elf_place(const struct image *img, const struct e820 *map, u64 lowest,
	      struct boot_kernel *k, struct error *err);
/* Is it good enough an ELF file to have a PVH entry, and has it one? */
bool elf_has_pvh(const struct image *img, bool *is64);

/* What hvm_start_info says. */
struct pvh_params {
	gpa_t cmdline;
	u64 initrd, initrd_len; /* 0, 0: none */
	gpa_t rsdp;
	const struct e820 *map;
};

#define PVH_INFO_SIZE 4096

/* Fill in the page at guest-physical 'at' that the kernel gets as its start info. */
void pvh_info_fill(u8 page[PVH_INFO_SIZE], gpa_t at, const struct pvh_params *p);
