/*
 * Linux/x86 boot protocol: the bzImage format and struct boot_params.
 * Linux Documentation/arch/x86/boot.rst and zero-page.rst.
 */
#pragma once

#include "machine/boot.h"

/* The setup header, checked. */
struct bzimage {
	u16 version;     /* protocol: 0x0206 and up */
	u64 payload_off; /* protected-mode part in the file */
	u64 payload_len;
	u64 alignment; /* of the load address; power of two */
	u64 pref;      /* preferred load address */
	u64 init_size; /* memory from the load address on; >= payload_len */
	u64 initrd_max;
	u32 cmdline_max; /* without NUL */
	u32 entry32;     /* offset of the 32-bit entry from the load address */
	bool relocatable;
	bool entry64;               /* XLF_KERNEL_64: an entry at offset 200h */
	bool initrd_high;           /* XLF_CAN_BE_LOADED_ABOVE_4G */
	u8 header[BOOT_HEADER_MAX]; /* as in the file, from 1f1h on */
	unsigned header_len;
};

/* Does it have the "HdrS" of a Linux kernel? Says nothing about the rest. */
bool bzimage_probe(const struct image *img);
/* Parse and check. 0 or -errno with a message. */
int bzimage_parse(const struct image *img, struct bzimage *bz, struct error *err);
/* Choose where it goes in this memory. */
int bzimage_place(const struct image *img, const struct bzimage *bz,
		  const struct e820 *map, bool long_mode, struct boot_kernel *k,
		  struct error *err);

/* What boot_params says besides the setup header. */
struct linux_params {
	gpa_t cmdline;
	u64 initrd, initrd_len; /* 0, 0: none */
	gpa_t rsdp;
	const struct e820 *map;
};

#define LINUX_PARAMS_SIZE 4096

/* Fill in the page that the kernel gets as its boot_params. */
void linux_params_fill(u8 page[LINUX_PARAMS_SIZE], const struct boot_kernel *k,
		       const struct linux_params *p);
