/*
 * Linux kernels in bzImage form, protocol 2.06 to 2.15 and what comes later.
 *
 * Linux Documentation/arch/x86/boot.rst: the setup header at 1f1h of the file describes
 * the kernel and is copied into boot_params; the part behind the setup sectors is
 * loaded at or above 1 MiB and entered in long mode (offset 200h) when
 * XLF_KERNEL_64 is set, in 32-bit protected mode when not. The real-mode setup code
 * is never run: what it would ask the BIOS is in boot_params.
 * Missing: zImage (loaded low), handover through EFI, loading above 4 GiB.
 * No locks: one thread, machine stopped.
 */
#include "machine/boot_linux.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "machine/layout.h"

/* Offsets in the file, and the same in boot_params. */
enum {
	HDR = 0x1f1,
	HDR_SETUP_SECTS = 0x1f1,  /* u8 */
	HDR_SYSSIZE = 0x1f4,      /* u32, in 16 bytes */
	HDR_VID_MODE = 0x1fa,     /* u16 */
	HDR_BOOT_FLAG = 0x1fe,    /* u16 */
	HDR_JUMP = 0x200,         /* u16: EBh and the distance from 202h */
	HDR_MAGIC = 0x202,        /* "HdrS" */
	HDR_VERSION = 0x206,      /* u16 */
	HDR_LOADER = 0x210,       /* u8 */
	HDR_LOADFLAGS = 0x211,    /* u8 */
	HDR_CODE32_START = 0x214, /* u32 */
	HDR_RAMDISK = 0x218,      /* u32 */
	HDR_RAMDISK_SIZE = 0x21c, /* u32 */
	HDR_CMDLINE = 0x228,      /* u32 */
	HDR_INITRD_MAX = 0x22c,   /* u32 */
	HDR_ALIGNMENT = 0x230,    /* u32 */
	HDR_RELOCATABLE = 0x234,  /* u8 */
	HDR_XLOADFLAGS = 0x236,   /* u16, 2.12 */
	HDR_CMDLINE_SIZE = 0x238, /* u32, 2.06 */
	HDR_SETUP_DATA = 0x250,   /* u64, 2.09 */
	HDR_PREF_ADDRESS = 0x258, /* u64, 2.10 */
	HDR_INIT_SIZE = 0x260,    /* u32, 2.10 */
	HDR_END_206 = 0x23c,
	HDR_END_210 = 0x264,
	HDR_END_MAX = HDR + BOOT_HEADER_MAX,
};

/* Fields of boot_params outside the header, zero-page.rst. */
enum {
	ZP_RSDP = 0x070,             /* u64 */
	ZP_EXT_RAMDISK = 0x0c0,      /* u32, upper half */
	ZP_EXT_RAMDISK_SIZE = 0x0c4, /* u32 */
	ZP_EXT_CMDLINE = 0x0c8,      /* u32 */
	ZP_E820_COUNT = 0x1e8,       /* u8 */
	ZP_E820 = 0x2d0,             /* entries of 20 bytes */
	ZP_E820_ENTRY = 20,
};

enum { LOADED_HIGH = 1 << 0 };
enum { XLF_KERNEL_64 = 1 << 0, XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1 };
#define LOADER_UNDEFINED 0xff
#define VID_MODE_NORMAL  0xffff
#define ENTRY64_OFFSET   0x200u
#define PROTOCOL_MIN     0x0206
#define DEFAULT_LOAD     0x100000u
/* What a kernel of a protocol before 2.10 may use beyond its file; they do not say. */
#define OLD_INIT_SLACK   MiB(16)

bool bzimage_probe(const struct image *img)
{
	struct error ignore = { 0 };
	u8 magic[4];

	return image_has(img, HDR_MAGIC, sizeof(magic)) &&
	       !image_read(img, HDR_MAGIC, magic, sizeof(magic), &ignore) &&
	       !memcmp(magic, "HdrS", 4);
}

/* Sizes of the file's two parts. */
static int parse_payload(const struct image *img, const u8 *head, struct bzimage *bz,
			 struct error *err)
{
	unsigned sects = head[HDR_SETUP_SECTS] ? head[HDR_SETUP_SECTS] : 4;
	u64 syssize = le_load(head + HDR_SYSSIZE, 4) * 16;

	bz->payload_off = (sects + 1) * UINT64_C(512);
	if (bz->payload_off >= img->len)
		return image_refuse(
			img, err,
			"truncated, %llu bytes are less than its setup part of %llu",
			(unsigned long long)img->len,
			(unsigned long long)bz->payload_off);
	bz->payload_len = img->len - bz->payload_off;
	/* What follows, a signature for instance, is not loaded. */
	if (syssize > bz->payload_len)
		return image_refuse(img, err, "truncated, has %llu bytes of %llu",
				    (unsigned long long)img->len,
				    (unsigned long long)(bz->payload_off + syssize));
	if (syssize)
		bz->payload_len = syssize;
	return 0;
}

/* Fields that only newer protocols have. */
static int parse_new(const struct image *img, const u8 *head, struct bzimage *bz,
		     struct error *err)
{
	u64 init_size = 0;

	if (bz->version >= 0x020a) {
		bz->pref = le_load(head + HDR_PREF_ADDRESS, 8);
		init_size = le_load(head + HDR_INIT_SIZE, 4);
		bz->init_size = MAX(init_size, bz->payload_len);
	} else {
		bz->pref = DEFAULT_LOAD;
		bz->init_size = bz->payload_len + OLD_INIT_SLACK;
	}
	if (bz->version >= 0x020c) {
		u16 flags = (u16)le_load(head + HDR_XLOADFLAGS, 2);

		bz->entry64 = flags & XLF_KERNEL_64;
		bz->initrd_high = flags & XLF_CAN_BE_LOADED_ABOVE_4G;
	}
	if (bz->entry64 && bz->payload_len <= ENTRY64_OFFSET)
		return image_refuse(img, err,
				    "damaged, its 64-bit entry is beyond its end");
	return 0;
}

int bzimage_parse(const struct image *img, struct bzimage *bz, struct error *err)
{
	u8 head[HDR_END_MAX] = { 0 };
	u64 n = MIN(img->len, sizeof(head));
	unsigned end;
	int ret;

	*bz = (struct bzimage){ 0 };
	ret = image_read(img, 0, head, n, err);
	if (ret)
		return ret;
	if (n < HDR_VERSION + 2 || memcmp(head + HDR_MAGIC, "HdrS", 4) ||
	    le_load(head + HDR_BOOT_FLAG, 2) != 0xaa55)
		return image_refuse(img, err, "is not a Linux kernel but %s",
				    image_looks_like(img));
	bz->version = (u16)le_load(head + HDR_VERSION, 2);
	if (bz->version < PROTOCOL_MIN)
		return image_refuse(
			img, err,
			"is a Linux kernel of boot protocol %u.%02u, too old; 2.06 "
			"(Linux 2.6.22) or later is needed",
			bz->version >> 8, bz->version & 0xff);
	/* The jump over the header says where it ends. */
	end = HDR_MAGIC + head[HDR_JUMP + 1];
	if (head[HDR_JUMP] != 0xeb ||
	    end < (bz->version >= 0x020a ? HDR_END_210 : HDR_END_206))
		return image_refuse(img, err,
				    "damaged, its setup header is too short for boot "
				    "protocol %u.%02u",
				    bz->version >> 8, bz->version & 0xff);
	end = MIN(end, HDR_END_MAX);
	if (end > img->len)
		return image_refuse(img, err, "truncated inside its setup header");
	bz->header_len = end - HDR;
	memcpy(bz->header, head + HDR, bz->header_len);
	/* Behind the header there is code. */
	memset(head + end, 0, sizeof(head) - end);

	if (!(head[HDR_LOADFLAGS] & LOADED_HIGH))
		return image_refuse(img, err,
				    "is a zImage, which loads below 640 KiB; a bzImage "
				    "is needed");
	ret = parse_payload(img, head, bz, err);
	if (ret)
		return ret;
	bz->initrd_max = le_load(head + HDR_INITRD_MAX, 4);
	bz->cmdline_max = (u32)le_load(head + HDR_CMDLINE_SIZE, 4);
	bz->relocatable = head[HDR_RELOCATABLE];
	bz->alignment = bz->relocatable ? le_load(head + HDR_ALIGNMENT, 4) : 1;
	if (!is_pow2(bz->alignment))
		return image_refuse(img, err,
				    "damaged, its alignment of %llu bytes is no power "
				    "of two",
				    (unsigned long long)bz->alignment);
	bz->entry32 = (u32)le_load(head + HDR_CODE32_START, 4) - DEFAULT_LOAD;
	if (bz->entry32 >= bz->payload_len)
		return image_refuse(img, err,
				    "damaged, its entry at %xh is beyond its end",
				    bz->entry32 + DEFAULT_LOAD);
	return parse_new(img, head, bz, err);
}

int bzimage_place(const struct image *img, const struct bzimage *bz,
		  const struct e820 *map, bool long_mode, struct boot_kernel *k,
		  struct error *err)
{
	/* Below 4 GiB: that much is mapped at the entry, and 32-bit code sees no more. */
	u64 load = bz->pref < LAYOUT_LOW_RAM_MAX ? align_up(bz->pref, bz->alignment)
						 : UINT64_MAX;

	if (load < LAYOUT_EXTENDED || !boot_usable(map, load, bz->init_size)) {
		if (!bz->relocatable && bz->pref >= LAYOUT_EXTENDED)
			return boot_too_small(
				img, map, load,
				load == UINT64_MAX ? load : load + bz->init_size, err);
		if (!bz->relocatable)
			return image_refuse(img, err,
					    "wants to be loaded at %llxh, below 1 MiB",
					    (unsigned long long)bz->pref);
		load = align_up(LAYOUT_EXTENDED, bz->alignment);
		if (!boot_usable(map, load, bz->init_size))
			return boot_too_small(img, map, load, load + bz->init_size, err);
	}
	*k = (struct boot_kernel){
		.entry = bz->entry64 && long_mode ? BOOT_LINUX64 : BOOT_LINUX32,
		.lo = load,
		.hi = load + bz->init_size,
		.segments = 1,
		.initrd_max = bz->initrd_max,
		.initrd_high = bz->initrd_high,
		.cmdline_max = bz->cmdline_max,
		.header_len = bz->header_len,
	};
	k->segment[0] = (struct boot_segment){ bz->payload_off, bz->payload_len, load,
					       bz->payload_len };
	if (k->entry == BOOT_LINUX64) {
		k->start = load + ENTRY64_OFFSET;
		k->describe = "Linux bzImage, 64-bit entry";
	} else {
		k->start = load + bz->entry32;
		k->describe = "Linux bzImage, 32-bit entry";
	}
	memcpy(k->header, bz->header, bz->header_len);
	return 0;
}

static void fill_e820(u8 *page, const struct e820 *map)
{
	page[ZP_E820_COUNT] = (u8)map->count;
	for (unsigned i = 0; i < map->count; i++) {
		u8 *e = page + ZP_E820 + i * ZP_E820_ENTRY;

		le_store(e, map->entry[i].base, 8);
		le_store(e + 8, map->entry[i].len, 8);
		le_store(e + 16, map->entry[i].type, 4);
	}
}

void linux_params_fill(u8 page[LINUX_PARAMS_SIZE], const struct boot_kernel *k,
		       const struct linux_params *p)
{
	/* Zero outside the header: a kernel tells by the sentinel at 1efh that it is. */
	memset(page, 0, LINUX_PARAMS_SIZE);
	memcpy(page + HDR, k->header, k->header_len);
	page[HDR_LOADER] = LOADER_UNDEFINED;
	le_store(page + HDR_VID_MODE, VID_MODE_NORMAL, 2);
	le_store(page + HDR_CODE32_START, k->lo, 4);
	le_store(page + HDR_RAMDISK, p->initrd, 4);
	le_store(page + HDR_RAMDISK_SIZE, p->initrd_len, 4);
	le_store(page + ZP_EXT_RAMDISK, p->initrd >> 32, 4);
	le_store(page + ZP_EXT_RAMDISK_SIZE, p->initrd_len >> 32, 4);
	le_store(page + HDR_CMDLINE, p->cmdline, 4);
	le_store(page + ZP_EXT_CMDLINE, p->cmdline >> 32, 4);
	if (k->header_len >= HDR_SETUP_DATA + 8 - HDR)
		le_store(page + HDR_SETUP_DATA, 0, 8);
	le_store(page + ZP_RSDP, p->rsdp, 8);
	fill_e820(page, p->map);
}
