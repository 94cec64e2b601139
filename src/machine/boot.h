/*
 * Starting a kernel without firmware: a Linux bzImage, a multiboot or PVH kernel, or a
 * plain ELF vmlinux.
 *
 * boot_new() opens and checks everything against the machine's memory and decides
 * where each piece goes; boot_load() and boot_enter() then cannot be surprised,
 * and can be repeated for each reset of the guest.
 *
 * Machine stopped, one thread.
 */
#pragma once

#include "base/error.h"
#include "machine/e820.h"
#include "machine/image.h"

struct fwcfg;
struct layout;
struct phys;
struct vcpu;

struct boot_config {
	const char *kernel;  /* path */
	const char *initrd;  /* path, or NULL; multiboot: "FILE args,FILE args" */
	const char *cmdline; /* or NULL */
	const struct layout *layout;
	bool long_mode; /* the CPU has it: a kernel's 64-bit entry may be used */
};

struct boot;

/* 0 and '*boot', or -errno with one line that names the file and the cause. Strings are
 * copied. */
int boot_new(struct boot **boot, const struct boot_config *cfg, struct error *err);
/*
 * The same with images that are open already; 'initrd' may be NULL. They are closed with
 * the boot, or at once when it fails. cfg->kernel and cfg->initrd are not looked at.
 */
int boot_new_images(struct boot **boot, const struct boot_config *cfg,
		    struct image kernel, const struct image *initrd, struct error *err);
void boot_free(struct boot *b);

/* Write kernel, initrd, command line and boot data to memory. -EIO when a file shrank. */
int boot_load(const struct boot *b, struct phys *phys, struct error *err);
/* Set the registers of the boot CPU, which has been reset, for the kernel's entry. */
void boot_enter(const struct boot *b, struct vcpu *v);

/* The items about kernel, initial RAM disk and command line, which read from here. */
void boot_fwcfg(struct boot *b, struct fwcfg *f);

/* "bzImage, 64-bit entry" and the like. */
const char *boot_describe(const struct boot *b);

/* ---- What the parsers give to boot.c ---- */

enum boot_entry {
	BOOT_LINUX64,   /* long mode, identity map, RSI = boot_params */
	BOOT_LINUX32,   /* protected mode, flat segments, ESI = boot_params */
	BOOT_PVH,       /* protected mode, flat segments, EBX = hvm_start_info */
	BOOT_MULTIBOOT, /* the same with EAX = magic, EBX = multiboot_info */
};

struct boot_segment {
	u64 off, file_len; /* in the file; inside it */
	gpa_t gpa;
	u64 mem_len; /* >= file_len; the rest is zeroed */
};

#define BOOT_SEGMENTS_MAX  32
#define BOOT_HEADER_MAX    (0x290 - 0x1f1)
#define BOOT_CMDLINE_LINUX 2047 /* COMMAND_LINE_SIZE of x86 without its NUL */

struct boot_kernel {
	enum boot_entry entry;
	const char *describe;
	gpa_t start;  /* first instruction */
	gpa_t lo, hi; /* memory the kernel takes while it starts: [lo, hi) */
	struct boot_segment segment[BOOT_SEGMENTS_MAX];
	unsigned segments;
	u64 initrd_max;   /* highest address an initrd byte may have */
	bool initrd_high; /* unless there is no other place, then above 4 GiB will do */
	u32 cmdline_max;  /* bytes without NUL */
	u8 header[BOOT_HEADER_MAX]; /* Linux: setup header, from 1f1h of boot_params */
	unsigned header_len;
};

/* All of [base, base + len) can hold a kernel: RAM below 4 GiB. */
bool boot_usable(const struct e820 *map, u64 base, u64 len);
/* Refuse for lack of memory: the kernel needs RAM at [base, end), and that is not usable.
 */
int boot_too_small(const struct image *img, const struct e820 *map, u64 base, u64 end,
		   struct error *err);
