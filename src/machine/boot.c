/*
 * Starting a kernel directly, in the place of firmware and a boot loader.
 *
 * Everything that can be wrong with the files is found in boot_new(), which decides the
 * place of each piece: the kernel where its format says, the initial RAM disk as
 * high as the kernel takes it, boot data below 30000h (layout.h). The CPU state at the
 * entry is that of Linux boot.rst ("32-bit" and "64-bit boot protocol") and of Xen's
 * pvh.pandoc. On a reset the same open files are read again; RAM that nothing is loaded
 * to keeps its contents, as on a warm reset. No locks: one thread, machine stopped.
 */
#include "machine/boot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "machine/boot_elf.h"
#include "machine/boot_linux.h"
#include "machine/layout.h"
#include "mem/phys.h"
#include "x86/vcpu.h"

struct boot {
	struct image kernel, initrd; /* initrd.len is 0 when there is none */
	char *kernel_path, *initrd_path, *cmdline;
	struct e820 map;
	struct boot_kernel k;
	gpa_t initrd_gpa;
};

/* Descriptors of the GDT that kernels are entered with. Linux: __BOOT_CS, __BOOT_DS. */
enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20, GDT_LIMIT = 0x2f };

bool boot_usable(const struct e820 *map, u64 base, u64 len)
{
	return base >= LAYOUT_BOOT_END && base < LAYOUT_LOW_RAM_MAX &&
	       len <= LAYOUT_LOW_RAM_MAX - base && e820_is_ram(map, base, len);
}

static u64 mib_up(u64 bytes)
{
	return (bytes >> 20) + ((bytes & (MiB(1) - 1)) != 0);
}

/* End of RAM below 4 GiB. */
static u64 low_end(const struct e820 *map)
{
	u64 end = 0;

	for (unsigned i = 0; i < map->count; i++) {
		const struct e820_entry *e = &map->entry[i];

		if (e->type == E820_RAM && e->base < LAYOUT_HIGH_RAM)
			end = MAX(end, e->base + e->len);
	}
	return end;
}

int boot_too_small(const struct image *img, const struct e820 *map, u64 end,
		   struct error *err)
{
	if (end > LAYOUT_LOW_RAM_MAX)
		return image_refuse(img, err,
				    "wants to be loaded beyond 3 GiB, where there is no "
				    "memory; it is damaged or not for this machine");
	if (end <= low_end(map))
		return image_refuse(img, err,
				    "wants to be loaded where there is no memory, below "
				    "%llxh",
				    (unsigned long long)end);
	return error_set(
		err, -ENOMEM,
		"%s %s: needs at least %llu MiB of memory, the machine has %llu MiB",
		img->what, img->path, (unsigned long long)mib_up(end),
		(unsigned long long)mib_up(low_end(map)));
}

static int parse_kernel(struct boot *b, bool long_mode, struct error *err)
{
	struct bzimage bz;
	int ret;

	if (elf_probe(&b->kernel))
		return elf_parse(&b->kernel, &b->map, long_mode, &b->k, err);
	if (!bzimage_probe(&b->kernel))
		return image_refuse(
			&b->kernel, err,
			"is not a kernel but %s; a Linux bzImage (vmlinuz), a vmlinux "
			"or a PVH kernel is needed",
			image_looks_like(&b->kernel));
	ret = bzimage_parse(&b->kernel, &bz, err);
	if (ret)
		return ret;
	return bzimage_place(&b->kernel, &bz, &b->map, long_mode, &b->k, err);
}

/* The highest page-aligned place for 'len' bytes below 'limit', off the kernel. */
static bool find_top(const struct boot *b, u64 limit, u64 len, u64 *at)
{
	for (unsigned i = b->map.count; i-- > 0;) {
		const struct e820_entry *e = &b->map.entry[i];
		u64 lo = MAX(e->base, LAYOUT_EXTENDED);
		u64 hi = MIN(e->base + e->len, limit);

		if (e->type != E820_RAM)
			continue;
		for (int pass = 0; pass < 2; pass++) {
			if (hi >= lo && hi - lo >= len) {
				u64 base = align_down(hi - len, PAGE_SIZE);

				if (base >= lo &&
				    (base >= b->k.hi || base + len <= b->k.lo)) {
					*at = base;
					return true;
				}
			}
			hi = MIN(hi, b->k.lo);
		}
	}
	return false;
}

static int place_initrd(struct boot *b, struct error *err)
{
	u64 len = b->initrd.len;
	u64 limit = MIN(b->k.initrd_max, UINT32_MAX) + 1;

	if (find_top(b, limit, len, &b->initrd_gpa))
		return 0;
	if (b->k.initrd_high && find_top(b, UINT64_MAX, len, &b->initrd_gpa))
		return 0;
	if (len > limit || low_end(&b->map) >= limit)
		return image_refuse(
			&b->initrd, err,
			"%llu MiB are too large, this kernel takes an initrd only "
			"below %llu MiB",
			(unsigned long long)mib_up(len), (unsigned long long)limit >> 20);
	return error_set(
		err, -ENOMEM,
		"%s %s: %llu MiB do not fit beside the kernel in %llu MiB of memory; "
		"%llu MiB would do",
		b->initrd.what, b->initrd.path, (unsigned long long)mib_up(len),
		(unsigned long long)mib_up(low_end(&b->map)),
		(unsigned long long)mib_up(align_up(b->k.hi, PAGE_SIZE) + len));
}

static int plan(struct boot *b, const struct boot_config *cfg, struct error *err)
{
	size_t n = strlen(b->cmdline);
	u32 max;
	int ret;

	e820_build(&b->map, cfg->layout);
	ret = parse_kernel(b, cfg->long_mode, err);
	if (ret)
		return ret;
	max = MIN(b->k.cmdline_max, LAYOUT_CMDLINE_MAX - 1);
	if (n > max)
		return error_set(
			err, -E2BIG,
			"kernel command line of %zu bytes is too long, %s takes at most "
			"%u",
			n, b->kernel.path, max);
	return b->initrd.len ? place_initrd(b, err) : 0;
}

int boot_new_images(struct boot **boot, const struct boot_config *cfg,
		    struct image kernel, const struct image *initrd, struct error *err)
{
	struct boot *b = xzalloc(sizeof(*b));
	int ret;

	b->kernel = kernel;
	b->initrd.fd = -1;
	if (initrd)
		b->initrd = *initrd;
	b->kernel_path = xstrdup(kernel.path);
	b->kernel.path = b->kernel_path;
	if (initrd) {
		b->initrd_path = xstrdup(initrd->path);
		b->initrd.path = b->initrd_path;
	}
	b->cmdline = xstrdup(cfg->cmdline ? cfg->cmdline : "");
	ret = plan(b, cfg, err);
	if (ret) {
		boot_free(b);
		return ret;
	}
	*boot = b;
	return 0;
}

int boot_new(struct boot **boot, const struct boot_config *cfg, struct error *err)
{
	struct image kernel, initrd;
	int ret;

	if (!cfg->kernel)
		return error_set(err, -EINVAL, "no kernel was given");
	ret = image_open(&kernel, "kernel", cfg->kernel, err);
	if (ret)
		return ret;
	if (!cfg->initrd)
		return boot_new_images(boot, cfg, kernel, NULL, err);
	ret = image_open(&initrd, "initrd", cfg->initrd, err);
	if (ret) {
		image_close(&kernel);
		return ret;
	}
	return boot_new_images(boot, cfg, kernel, &initrd, err);
}

void boot_free(struct boot *b)
{
	if (!b)
		return;
	image_close(&b->kernel);
	image_close(&b->initrd);
	free(b->kernel_path);
	free(b->initrd_path);
	free(b->cmdline);
	free(b);
}

const char *boot_describe(const struct boot *b)
{
	return b->k.describe;
}

/* ---- into memory ---- */

/* File contents straight into guest RAM. */
static int load_range(const struct image *img, const struct boot_segment *s,
		      struct phys *phys, struct error *err)
{
	u8 *p = phys_host(phys, s->gpa, s->mem_len, true);
	int ret;

	if (!p)
		return error_set(err, -EFAULT, "%s %s: no memory at %llxh", img->what,
				 img->path, (unsigned long long)s->gpa);
	ret = image_read(img, s->off, p, s->file_len, err);
	memset(p + s->file_len, 0, s->mem_len - s->file_len);
	phys_note_write(phys, s->gpa, s->mem_len);
	return ret;
}

static void put(struct phys *phys, gpa_t at, const void *data, u64 len)
{
	/* Boot data lies in RAM on every machine that boot_new() accepts. */
	phys_write(phys, at, data, len);
}

static void put_gdt(struct phys *phys, bool long_mode)
{
	const u64 gdt[] = {
		[0] = 0,
		/* Flat code, 64-bit or 32-bit, and flat data; accessed, as loaded. */
		[SEL_CODE / 8] = long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
		[SEL_DATA / 8] = 0x00cf93000000ffff,
		/* A busy TSS that nobody uses, at 0; 16 bytes in long mode. */
		[SEL_TSS / 8] = 0x00008b0000000067,
		[SEL_TSS / 8 + 1] = 0,
	};

	put(phys, LAYOUT_GDT, gdt, sizeof(gdt));
}

/* Linear = physical for the first 4 GiB, in pages of 2 MiB. */
static void put_page_tables(struct phys *phys)
{
	enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80 };
	u64 table[512] = { (LAYOUT_PAGE_TABLES + PAGE_SIZE) | PRESENT | WRITABLE };

	put(phys, LAYOUT_PAGE_TABLES, table, sizeof(table));
	for (unsigned i = 0; i < 4; i++)
		table[i] =
			(LAYOUT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | PRESENT | WRITABLE;
	put(phys, LAYOUT_PAGE_TABLES + PAGE_SIZE, table, sizeof(table));
	for (unsigned i = 0; i < 4; i++) {
		for (u64 j = 0; j < 512; j++)
			table[j] = GiB(i) | MiB(2 * j) | PRESENT | WRITABLE | LARGE;
		put(phys, LAYOUT_PAGE_TABLES + (2 + i) * PAGE_SIZE, table, sizeof(table));
	}
}

int boot_load(const struct boot *b, struct phys *phys, struct error *err)
{
	u8 page[PAGE_SIZE];
	int ret;

	for (unsigned i = 0; i < b->k.segments; i++) {
		ret = load_range(&b->kernel, &b->k.segment[i], phys, err);
		if (ret)
			return ret;
	}
	if (b->initrd.len) {
		struct boot_segment s = { 0, b->initrd.len, b->initrd_gpa,
					  b->initrd.len };

		ret = load_range(&b->initrd, &s, phys, err);
		if (ret)
			return ret;
	}
	put(phys, LAYOUT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);
	put_gdt(phys, b->k.entry == BOOT_LINUX64);
	if (b->k.entry == BOOT_LINUX64)
		put_page_tables(phys);
	if (b->k.entry == BOOT_PVH) {
		struct pvh_params p = { LAYOUT_CMDLINE, b->initrd_gpa, b->initrd.len,
					LAYOUT_ACPI, &b->map };

		pvh_info_fill(page, LAYOUT_PVH_INFO, &p);
		put(phys, LAYOUT_PVH_INFO, page, sizeof(page));
	} else {
		struct linux_params p = { LAYOUT_CMDLINE, b->initrd_gpa, b->initrd.len,
					  LAYOUT_ACPI, &b->map };

		linux_params_fill(page, &b->k, &p);
		put(phys, LAYOUT_ZERO_PAGE, page, sizeof(page));
	}
	return 0;
}

/* ---- the CPU ---- */

static void set_seg(struct vcpu *v, enum sreg reg, u16 sel, u32 limit, u32 attr)
{
	v->seg[reg] = (struct seg){ .limit = limit, .attr = attr, .sel = sel };
}

void boot_enter(const struct boot *b, struct vcpu *v)
{
	const u32 data = SEG_G | SEG_DB | SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
	const u32 code = SEG_G | SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED;
	bool long_mode = b->k.entry == BOOT_LINUX64;

	memset(v->gpr, 0, sizeof(v->gpr));
	v->rip = b->k.start;
	v->cc = 0;
	v->flags = RFLAGS_1;
	v->gpr[RSP] = LAYOUT_STACK;
	if (b->k.entry == BOOT_PVH)
		v->gpr[RBX] = LAYOUT_PVH_INFO;
	else
		v->gpr[RSI] = LAYOUT_ZERO_PAGE;

	set_seg(v, CS, SEL_CODE, UINT32_MAX, code | (long_mode ? SEG_L : SEG_DB));
	for (unsigned i = 0; i < 5; i++) {
		static const u8 flat[] = { ES, SS, DS, FS, GS };

		set_seg(v, flat[i], SEL_DATA, UINT32_MAX, data);
	}
	set_seg(v, TR, SEL_TSS, 0x67, SEG_P | DESC_TSS32_BUSY);
	set_seg(v, LDTR, 0, 0, SEG_UNUSABLE);
	v->gdtr = (struct dtr){ .base = LAYOUT_GDT, .limit = GDT_LIMIT };
	/* No IDT: interrupts are off, and an exception here has nowhere to go. */
	v->idtr = (struct dtr){ 0 };
	v->cpl = 0;
	v->cr0 = CR0_PE | CR0_ET;
	v->cr3 = 0;
	v->cr4 = 0;
	v->efer = 0;
	if (long_mode) {
		v->cr0 |= CR0_PG;
		v->cr3 = LAYOUT_PAGE_TABLES;
		v->cr4 = CR4_PAE;
		v->efer = EFER_LME | EFER_LMA;
	}
	v->activity = ACT_RUNNING;
	vcpu_sync(v);
}
