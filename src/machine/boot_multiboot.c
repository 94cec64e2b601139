/*
 * Multiboot 1 kernels and what they are told.
 *
 * Multiboot Specification 0.6.96: the header is at a multiple of four in the first 8 KiB
 * of the file. With bit 16 of its flags it says itself what is loaded where (section
 * 3.1.3, made for a.out files); without, the file is ELF, of either class. The machine
 * state at the entry (3.2) is in boot.c. The information (3.3) has memory sizes, command
 * line, modules, memory map and the loader's name, in one block outside page 0, the image
 * and the modules. Command line and module strings begin with the file's name.
 * Missing: boot device, symbols, drives, APM, video (a wish for a mode is granted with
 * none). No locks: one thread, machine stopped.
 */
#include "machine/boot_multiboot.h"

#include <string.h>

#include "base/bits.h"
#include "machine/boot_elf.h"
#include "machine/layout.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_AREA  8192u
#define LOADER_NAME  "Umbra"

enum {
	PAGE_ALIGN = 1 << 0,  /* modules at page boundaries: always so */
	MEMORY_INFO = 1 << 1, /* always there */
	VIDEO_MODE = 1 << 2,
	ADDRESSES = 1 << 16, /* the address fields are valid */
	/* Bits 0 to 15 are demands: what is not known cannot be met. */
	DEMANDS_UNKNOWN = 0xffff & ~(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE),
};

/* The header, as far as it is there. */
struct header {
	u64 off; /* in the file */
	u32 flags;
	u32 header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static enum multiboot_header find(const struct image *img, struct header *h)
{
	enum multiboot_header found = MULTIBOOT_NONE;
	u8 area[HEADER_AREA];
	u64 len = MIN(img->len, sizeof(area));
	struct error ignore = { 0 };

	if (image_read(img, 0, area, len, &ignore))
		return MULTIBOOT_NONE;
	for (u64 off = 0; off + 12 <= len; off += 4) {
		u32 flags = (u32)le_load(area + off + 4, 4);
		u32 sum = HEADER_MAGIC + flags + (u32)le_load(area + off + 8, 4);

		if (le_load(area + off, 4) != HEADER_MAGIC)
			continue;
		found = MULTIBOOT_DAMAGED;
		*h = (struct header){ .off = off, .flags = flags };
		if (sum)
			continue;
		if (!(flags & ADDRESSES))
			return MULTIBOOT_FOUND;
		if (off + 32 > len)
			continue;
		h->header_addr = (u32)le_load(area + off + 12, 4);
		h->load_addr = (u32)le_load(area + off + 16, 4);
		h->load_end_addr = (u32)le_load(area + off + 20, 4);
		h->bss_end_addr = (u32)le_load(area + off + 24, 4);
		h->entry_addr = (u32)le_load(area + off + 28, 4);
		return MULTIBOOT_FOUND;
	}
	return found;
}

enum multiboot_header multiboot_probe(const struct image *img)
{
	struct header ignore;

	return find(img, &ignore);
}

/* What the address fields say, section 3.1.3. */
static int place_flat(const struct image *img, const struct header *h,
		      const struct e820 *map, struct boot_kernel *k, struct error *err)
{
	u64 before, off, len, end;

	if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > h->off)
		return image_refuse(
			img, err,
			"damaged, its multiboot header is to be loaded at %xh, and the "
			"image that has it at %xh",
			h->header_addr, h->load_addr);
	before = h->header_addr - h->load_addr;
	off = h->off - before;
	len = img->len - off;
	if (h->load_end_addr) {
		if (h->load_end_addr <= h->load_addr)
			return image_refuse(img, err,
					    "damaged, its multiboot header ends the "
					    "image at %xh, and it begins at %xh",
					    h->load_end_addr, h->load_addr);
		len = h->load_end_addr - h->load_addr;
	}
	if (!image_has(img, off, len))
		return image_refuse(img, err,
				    "truncated, its multiboot header wants %llu bytes at "
				    "%llu of it",
				    (unsigned long long)len, (unsigned long long)off);
	end = h->load_addr + len;
	if (h->bss_end_addr && h->bss_end_addr < end)
		return image_refuse(img, err,
				    "damaged, its multiboot header ends the data at "
				    "%llxh and the bss before, at %xh",
				    (unsigned long long)end, h->bss_end_addr);
	end = MAX(end, h->bss_end_addr);
	if (h->load_addr < MULTIBOOT_LOWEST)
		return image_refuse(
			img, err,
			"wants to be loaded at %xh; addresses below %xh hold boot data",
			h->load_addr, MULTIBOOT_LOWEST);
	if (!boot_usable(map, h->load_addr, end - h->load_addr))
		return boot_too_small(img, map, h->load_addr, end, err);
	if (h->entry_addr < h->load_addr || h->entry_addr - h->load_addr >= len)
		return image_refuse(img, err,
				    "damaged, its multiboot header has the entry at %xh, "
				    "where nothing is loaded",
				    h->entry_addr);
	k->segment[0] =
		(struct boot_segment){ off, len, h->load_addr, end - h->load_addr };
	k->segments = 1;
	k->lo = h->load_addr;
	k->hi = end;
	k->start = h->entry_addr;
	return 0;
}

int multiboot_parse(const struct image *img, const struct e820 *map,
		    struct boot_kernel *k, struct error *err)
{
	struct header h = { 0 };

	*k = (struct boot_kernel){ .entry = BOOT_MULTIBOOT,
				   .describe = "multiboot kernel",
				   .cmdline_max = LAYOUT_CMDLINE_MAX - 1,
				   .initrd_max = UINT32_MAX };
	if (find(img, &h) != MULTIBOOT_FOUND)
		return image_refuse(
			img, err,
			"damaged, the checksum of its multiboot header at %llu is wrong",
			(unsigned long long)h.off);
	if (h.flags & DEMANDS_UNKNOWN)
		return image_refuse(img, err,
				    "demands by bits %xh of its multiboot header what "
				    "Multiboot 1 does not have",
				    h.flags & DEMANDS_UNKNOWN);
	if (h.flags & ADDRESSES)
		return place_flat(img, &h, map, k, err);
	if (!elf_probe(img))
		return image_refuse(img, err,
				    "has a multiboot header without addresses, and is "
				    "not an ELF file, which would have them");
	return elf_place(img, map, MULTIBOOT_LOWEST, k, err);
}

/* ---- the information for the kernel ---- */

enum {
	INFO_SIZE = 116, /* with the fields that stay zero */
	INFO_MEM_LOWER = 4,
	INFO_MEM_UPPER = 8,
	INFO_CMDLINE = 16,
	INFO_MODS_COUNT = 20,
	INFO_MODS_ADDR = 24,
	INFO_MMAP_LENGTH = 44,
	INFO_MMAP_ADDR = 48,
	INFO_LOADER_NAME = 64,

	HAS_MEMORY = 1 << 0,
	HAS_CMDLINE = 1 << 2,
	HAS_MODULES = 1 << 3,
	HAS_MMAP = 1 << 6,
	HAS_LOADER_NAME = 1 << 9,

	MMAP_ENTRY = 24,
	MODULE_ENTRY = 16,
};

/* Offsets in the block of what has no fixed place. */
#define AT_MMAP    ((u64)(MULTIBOOT_INFO + INFO_SIZE + 12))
#define AT_MODULES (AT_MMAP + (u64)E820_MAX * MMAP_ENTRY)

static u64 at_text(const struct multiboot_params *p)
{
	return AT_MODULES + (u64)p->modules * MODULE_ENTRY;
}

u64 multiboot_info_size(const struct multiboot_params *p)
{
	u64 size = at_text(p) + sizeof(LOADER_NAME);

	size += strlen(p->kernel) + 1 + strlen(p->cmdline) + 1;
	for (unsigned i = 0; i < p->modules; i++)
		size += strlen(p->module[i].text) + 1;
	return align_up(size, UINT64_C(4096)) + MULTIBOOT_INFO_STACK;
}

static void fill_mmap(u8 *e, const struct e820 *map)
{
	for (unsigned i = 0; i < map->count; i++, e += MMAP_ENTRY) {
		le_store(e, MMAP_ENTRY - 4, 4); /* without the size itself */
		le_store(e + 4, map->entry[i].base, 8);
		le_store(e + 12, map->entry[i].len, 8);
		le_store(e + 20, map->entry[i].type, 4);
	}
}

/* Append to the strings at *pos, with a NUL; the address of it. */
static u32 put_text(u8 *block, gpa_t at, u64 *pos, const char *text)
{
	size_t n = strlen(text) + 1;
	u32 addr = (u32)(at + *pos);

	memcpy(block + *pos, text, n);
	*pos += n;
	return addr;
}

void multiboot_info_fill(u8 *block, gpa_t at, const struct multiboot_params *p)
{
	u8 *info = block + MULTIBOOT_INFO;
	u64 pos = at_text(p);

	memset(block, 0, multiboot_info_size(p));
	le_store(info,
		 HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MMAP | HAS_LOADER_NAME, 4);
	le_store(info + INFO_MEM_LOWER, LAYOUT_EBDA >> 10, 4);
	le_store(info + INFO_MEM_UPPER, (p->layout->low_end - LAYOUT_EXTENDED) >> 10, 4);
	le_store(info + INFO_MMAP_LENGTH, (u64)p->map->count * MMAP_ENTRY, 4);
	le_store(info + INFO_MMAP_ADDR, at + AT_MMAP, 4);
	fill_mmap(block + AT_MMAP, p->map);
	le_store(info + INFO_LOADER_NAME, put_text(block, at, &pos, LOADER_NAME), 4);
	le_store(info + INFO_CMDLINE, put_text(block, at, &pos, p->kernel), 4);
	if (*p->cmdline) {
		block[pos - 1] = ' ';
		put_text(block, at, &pos, p->cmdline);
	}
	le_store(info + INFO_MODS_COUNT, p->modules, 4);
	le_store(info + INFO_MODS_ADDR, p->modules ? at + AT_MODULES : 0, 4);
	for (unsigned i = 0; i < p->modules; i++) {
		u8 *e = block + AT_MODULES + (u64)i * MODULE_ENTRY;

		le_store(e, p->module[i].base, 4);
		le_store(e + 4, p->module[i].end, 4);
		le_store(e + 8, put_text(block, at, &pos, p->module[i].text), 4);
	}
}
