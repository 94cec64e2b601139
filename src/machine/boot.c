/*
 * Starting a kernel directly, in the place of firmware and a boot loader.
 *
 * Everything that can be wrong with the files is found in boot_new(), which decides the
 * place of each piece: the kernel where its format says, the initial RAM disk as
 * high as the kernel takes it, boot data below 30000h (layout.h). Multiboot modules
 * follow the kernel, and the data for it goes wherever there is room. The CPU state at
 * the entry is that of Linux boot.rst ("32-bit" and "64-bit boot protocol"), of Xen's
 * pvh.pandoc, and of Multiboot 0.6.96 section 3.2. On a reset the same open files are
 * read again; RAM that nothing is loaded to keeps its contents, as on a warm reset. No
 * locks: one thread, machine stopped.
 */
#include "machine/boot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "dev/fwcfg.h"
#include "machine/boot_elf.h"
#include "machine/boot_linux.h"
#include "machine/boot_multiboot.h"
#include "machine/layout.h"
#include "mem/phys.h"
#include "x86/vcpu.h"

/* The initial RAM disk, or one of the modules of a multiboot kernel. */
struct module {
	struct image img;
	char *path;
	char *text; /* multiboot: what the kernel is told of it */
	gpa_t gpa;
};

/* Some bytes of a file, for fw_cfg. */
struct part {
	const struct image *img;
	u64 off;
};

struct boot {
	struct image kernel;
	char *kernel_path, *cmdline;
	struct layout layout;
	struct e820 map;
	struct boot_kernel k;
	struct module *module;
	unsigned modules;
	/* Multiboot: the block of information. */
	gpa_t info;
	u64 info_len;
	struct part setup, rest, initrd; /* of the files */
};

/* Descriptors of the GDT that kernels are entered with. Linux: __BOOT_CS, __BOOT_DS. */
enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20, GDT_LIMIT = 0x2f };

bool boot_usable(const struct e820 *map, u64 base, u64 len)
{
	return base < LAYOUT_LOW_RAM_MAX && len <= LAYOUT_LOW_RAM_MAX - base &&
	       e820_is_ram(map, base, len);
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

int boot_too_small(const struct image *img, const struct e820 *map, u64 base, u64 end,
		   struct error *err)
{
	if (base < LAYOUT_EXTENDED && end > LAYOUT_EBDA)
		return image_refuse(img, err,
				    "wants to be loaded at %llxh to %llxh, over the BIOS "
				    "area from %xh to %xh",
				    (unsigned long long)base, (unsigned long long)end - 1,
				    LAYOUT_EBDA, LAYOUT_EXTENDED - 1);
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

/*
 * A file may be several things at once. A multiboot header is taken at its word unless
 * the file is ELF64 with a PVH entry, which was made for loaders like this one.
 */
static int parse_kernel(struct boot *b, bool long_mode, struct error *err)
{
	const struct image *img = &b->kernel;
	enum multiboot_header multiboot = multiboot_probe(img);
	bool elf = elf_probe(img), is64 = false, pvh = elf && elf_has_pvh(img, &is64);
	struct bzimage bz;
	int ret;

	if (!elf && bzimage_probe(img)) {
		ret = bzimage_parse(img, &bz, err);
		return ret ? ret
			   : bzimage_place(img, &bz, &b->map, long_mode, &b->k, err);
	}
	if ((multiboot == MULTIBOOT_FOUND && !(pvh && is64)) ||
	    (multiboot == MULTIBOOT_DAMAGED && !pvh))
		return multiboot_parse(img, &b->map, &b->k, err);
	if (elf)
		return elf_parse(img, &b->map, long_mode, &b->k, err);
	return image_refuse(img, err,
			    "is not a kernel but %s; a Linux bzImage (vmlinuz), a "
			    "vmlinux, or a PVH or multiboot kernel is needed",
			    image_looks_like(img));
}

/* ---- the initial RAM disk ---- */

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

static int place_initrd(struct boot *b, struct module *m, struct error *err)
{
	u64 len = m->img.len;
	u64 limit = MIN(b->k.initrd_max, UINT32_MAX) + 1;

	if (find_top(b, limit, len, &m->gpa))
		return 0;
	if (b->k.initrd_high && find_top(b, UINT64_MAX, len, &m->gpa))
		return 0;
	if (len > limit || low_end(&b->map) >= limit)
		return image_refuse(
			&m->img, err,
			"%llu MiB are too large, this kernel takes an initrd only "
			"below %llu MiB",
			(unsigned long long)mib_up(len), (unsigned long long)limit >> 20);
	return error_set(
		err, -ENOMEM,
		"%s %s: %llu MiB do not fit beside the kernel in %llu MiB of memory; "
		"%llu MiB would do",
		m->img.what, m->img.path, (unsigned long long)mib_up(len),
		(unsigned long long)mib_up(low_end(&b->map)),
		(unsigned long long)mib_up(align_up(b->k.hi, PAGE_SIZE) + len));
}

/* ---- modules and information of a multiboot kernel ---- */

/* Does the kernel or a module placed before lie in [base, base + len)? Where it ends. */
static bool taken(const struct boot *b, u64 base, u64 len, u64 *end)
{
	for (unsigned i = 0; i < b->k.segments; i++) {
		const struct boot_segment *s = &b->k.segment[i];

		*end = s->gpa + s->mem_len;
		if (base < *end && s->gpa < base + len)
			return true;
	}
	for (unsigned i = 0; i < b->modules; i++) {
		const struct module *m = &b->module[i];

		*end = m->gpa + m->img.len;
		if (m->gpa && base < *end && m->gpa < base + len)
			return true;
	}
	return false;
}

/* The lowest free pages in [from, to), which is RAM. Each turn passes one piece. */
static bool find_gap(const struct boot *b, u64 from, u64 to, u64 len, gpa_t *at)
{
	u64 base = align_up(from, PAGE_SIZE), end;

	while (base < to && len <= to - base) {
		if (!taken(b, base, len, &end)) {
			*at = base;
			return true;
		}
		base = align_up(end, PAGE_SIZE);
	}
	return false;
}

static int place_modules(struct boot *b, struct error *err)
{
	u64 top = low_end(&b->map), sum = 0;

	/* Right behind the kernel, where loaders put them and kernels expect them. */
	for (unsigned i = 0; i < b->modules; i++) {
		struct module *m = &b->module[i];

		sum += m->img.len;
		if (!find_gap(b, MAX(b->k.hi, LAYOUT_EXTENDED), top, m->img.len, &m->gpa))
			return error_set(
				err, -ENOMEM,
				"%s %s: with %llu MiB the modules up to this one do not "
				"fit behind the kernel in %llu MiB of memory",
				m->img.what, m->img.path, (unsigned long long)mib_up(sum),
				(unsigned long long)mib_up(top));
	}
	return 0;
}

/* 'module' has room for MULTIBOOT_MODULES_MAX. */
static struct multiboot_params info_params(const struct boot *b,
					   struct multiboot_module *module)
{
	for (unsigned i = 0; i < b->modules; i++) {
		const struct module *m = &b->module[i];

		module[i] =
			(struct multiboot_module){ (u32)m->gpa,
						   (u32)(m->gpa + m->img.len), m->text };
	}
	return (struct multiboot_params){ b->kernel_path, b->cmdline, module,
					  b->modules,     &b->map,    &b->layout };
}

static int place_info(struct boot *b, struct error *err)
{
	struct multiboot_module module[MULTIBOOT_MODULES_MAX];
	struct multiboot_params p = info_params(b, module);

	b->info_len = multiboot_info_size(&p);
	/* Guests start further CPUs in the lowest pages, so these come last. */
	if (find_gap(b, LAYOUT_CMDLINE, LAYOUT_EBDA, b->info_len, &b->info) ||
	    find_gap(b, MULTIBOOT_LOWEST, LAYOUT_EBDA, b->info_len, &b->info) ||
	    find_gap(b, LAYOUT_EXTENDED, low_end(&b->map), b->info_len, &b->info))
		return 0;
	return error_set(
		err, -ENOMEM,
		"kernel %s: leaves no room for %llu KiB of multiboot information "
		"in %llu MiB of memory",
		b->kernel_path, (unsigned long long)b->info_len >> 10,
		(unsigned long long)mib_up(low_end(&b->map)));
}

/* ---- set-up ---- */

static int plan(struct boot *b, struct error *err)
{
	size_t n = strlen(b->cmdline);
	u32 max = MIN(b->k.cmdline_max, LAYOUT_CMDLINE_MAX - 1);
	int ret;

	if (n > max)
		return error_set(
			err, -E2BIG,
			"kernel command line of %zu bytes is too long, %s takes at most "
			"%u",
			n, b->kernel.path, max);
	if (b->k.entry != BOOT_MULTIBOOT)
		return b->modules ? place_initrd(b, &b->module[0], err) : 0;
	ret = place_modules(b, err);
	return ret ? ret : place_info(b, err);
}

/* Take the open kernel, and look into it. */
static int begin(struct boot **boot, const struct boot_config *cfg, struct image kernel,
		 struct error *err)
{
	struct boot *b = *boot = xzalloc(sizeof(*b));

	b->kernel = kernel;
	b->kernel_path = xstrdup(kernel.path);
	b->kernel.path = b->kernel_path;
	b->cmdline = xstrdup(cfg->cmdline ? cfg->cmdline : "");
	b->layout = *cfg->layout;
	b->module = xzalloc(MULTIBOOT_MODULES_MAX * sizeof(*b->module));
	e820_build(&b->map, &b->layout);
	return parse_kernel(b, cfg->long_mode, err);
}

/* 'path' and 'text' are taken. */
static void add_module(struct boot *b, struct image img, char *path, char *text)
{
	struct module *m = &b->module[b->modules++];

	*m = (struct module){ .img = img, .path = path, .text = text };
	m->img.path = path;
}

static int open_module(struct boot *b, const char *what, char *path, char *text,
		       struct error *err)
{
	struct image img;
	int ret = image_open(&img, what, path, err);

	if (ret) {
		free(path);
		free(text);
		return ret;
	}
	add_module(b, img, path, text);
	return 0;
}

/* The next of "FILE args,FILE args", where ",," is a comma. To be freed. */
static char *next_module(const char **list)
{
	char *text = xzalloc(strlen(*list) + 1);
	const char *s = *list;
	size_t n = 0;

	s += strspn(s, " ");
	for (; *s && (*s != ',' || s[1] == ','); s++) {
		s += *s == ',';
		text[n++] = *s;
	}
	*list = *s ? s + 1 : NULL;
	return text;
}

static int open_modules(struct boot *b, const char *list, struct error *err)
{
	while (list) {
		char *text = next_module(&list), *path;
		int ret;

		path = xstrdup(text);
		path[strcspn(path, " ")] = 0;
		if (*path && b->modules < MULTIBOOT_MODULES_MAX) {
			ret = open_module(b, "module", path, text, err);
			if (ret)
				return ret;
			continue;
		}
		ret = *path ? error_set(err, -E2BIG,
					"module %s: the kernel can have only %u modules",
					path, MULTIBOOT_MODULES_MAX)
			    : error_set(
				      err, -EINVAL,
				      "module %u of -initrd has no file name; a comma in "
				      "a name is written twice",
				      b->modules + 1);
		free(path);
		free(text);
		return ret;
	}
	return 0;
}

int boot_new_images(struct boot **boot, const struct boot_config *cfg,
		    struct image kernel, const struct image *initrd, struct error *err)
{
	int ret = begin(boot, cfg, kernel, err);

	if (initrd)
		add_module(*boot, *initrd, xstrdup(initrd->path), xstrdup(initrd->path));
	if (!ret)
		ret = plan(*boot, err);
	if (ret) {
		boot_free(*boot);
		*boot = NULL;
	}
	return ret;
}

int boot_new(struct boot **boot, const struct boot_config *cfg, struct error *err)
{
	struct image kernel;
	struct boot *b;
	int ret;

	if (!cfg->kernel)
		return error_set(err, -EINVAL, "no kernel was given");
	ret = image_open(&kernel, "kernel", cfg->kernel, err);
	if (ret)
		return ret;
	ret = begin(&b, cfg, kernel, err);
	if (!ret && cfg->initrd && b->k.entry == BOOT_MULTIBOOT)
		ret = open_modules(b, cfg->initrd, err);
	else if (!ret && cfg->initrd)
		ret = open_module(b, "initrd", xstrdup(cfg->initrd), NULL, err);
	if (!ret)
		ret = plan(b, err);
	if (ret) {
		boot_free(b);
		return ret;
	}
	*boot = b;
	return 0;
}

void boot_free(struct boot *b)
{
	if (!b)
		return;
	image_close(&b->kernel);
	for (unsigned i = 0; i < b->modules; i++) {
		image_close(&b->module[i].img);
		free(b->module[i].path);
		free(b->module[i].text);
	}
	free(b->module);
	free(b->kernel_path);
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

static void put_gdt(struct phys *phys, gpa_t at, bool long_mode)
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

	put(phys, at, gdt, sizeof(gdt));
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

static int put_multiboot(const struct boot *b, struct phys *phys, struct error *err)
{
	struct multiboot_module module[MULTIBOOT_MODULES_MAX];
	struct multiboot_params p = info_params(b, module);
	u8 *block = malloc(b->info_len);

	if (!block)
		return error_set(err, -ENOMEM, "kernel %s: out of memory",
				 b->kernel_path);
	multiboot_info_fill(block, b->info, &p);
	put(phys, b->info, block, b->info_len);
	free(block);
	put_gdt(phys, b->info + MULTIBOOT_INFO_GDT, false);
	return 0;
}

/* Boot data of the other kinds has its place in layout.h. */
static void put_data(const struct boot *b, struct phys *phys)
{
	const struct module *initrd = b->modules ? &b->module[0] : NULL;
	u64 rd = initrd ? initrd->gpa : 0, rd_len = initrd ? initrd->img.len : 0;
	u8 page[PAGE_SIZE];

	put(phys, LAYOUT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);
	put_gdt(phys, LAYOUT_GDT, b->k.entry == BOOT_LINUX64);
	if (b->k.entry == BOOT_LINUX64)
		put_page_tables(phys);
	if (b->k.entry == BOOT_PVH) {
		struct pvh_params p = { LAYOUT_CMDLINE, rd, rd_len, LAYOUT_ACPI,
					&b->map };

		pvh_info_fill(page, LAYOUT_PVH_INFO, &p);
		put(phys, LAYOUT_PVH_INFO, page, sizeof(page));
	} else {
		struct linux_params p = { LAYOUT_CMDLINE, rd, rd_len, LAYOUT_ACPI,
					  &b->map };

		linux_params_fill(page, &b->k, &p);
		put(phys, LAYOUT_ZERO_PAGE, page, sizeof(page));
	}
}

int boot_load(const struct boot *b, struct phys *phys, struct error *err)
{
	int ret;

	for (unsigned i = 0; i < b->k.segments; i++) {
		ret = load_range(&b->kernel, &b->k.segment[i], phys, err);
		if (ret)
			return ret;
	}
	for (unsigned i = 0; i < b->modules; i++) {
		const struct module *m = &b->module[i];
		struct boot_segment s = { 0, m->img.len, m->gpa, m->img.len };

		ret = load_range(&m->img, &s, phys, err);
		if (ret)
			return ret;
	}
	if (b->k.entry == BOOT_MULTIBOOT)
		return put_multiboot(b, phys, err);
	put_data(b, phys);
	return 0;
}

/* ---- in the firmware configuration device ---- */

static int read_part(void *opaque, u64 off, void *buf, u64 len)
{
	const struct part *part = opaque;
	struct error ignore = { 0 };

	return image_read(part->img, part->off + off, buf, len, &ignore);
}

/* Items for the size and the bytes of [part->off, part->off + len) of a file. */
static void set_part(struct fwcfg *f, u16 size_key, u16 data_key, struct part *part,
		     u64 len)
{
	if (len > UINT32_MAX)
		return;
	fwcfg_set_int(f, size_key, len, 4);
	fwcfg_set_source(f, data_key, (u32)len, read_part, part);
}

void boot_fwcfg(struct boot *b, struct fwcfg *f)
{
	bool bzimage = b->k.header_len && !elf_probe(&b->kernel);
	u64 setup_len = bzimage ? b->k.segment[0].off : 0;
	size_t n = strlen(b->cmdline) + 1;

	/* Only a bzImage has two parts. */
	b->setup = (struct part){ &b->kernel, 0 };
	b->rest = (struct part){ &b->kernel, setup_len };
	set_part(f, FWCFG_SETUP_SIZE, FWCFG_SETUP_DATA, &b->setup, setup_len);
	set_part(f, FWCFG_KERNEL_SIZE, FWCFG_KERNEL_DATA, &b->rest,
		 b->kernel.len - setup_len);
	fwcfg_set_int(f, FWCFG_KERNEL_ADDR, b->k.lo, 4);
	fwcfg_set_int(f, FWCFG_KERNEL_ENTRY, b->k.start, 4);
	if (b->modules) {
		b->initrd = (struct part){ &b->module[0].img, 0 };
		set_part(f, FWCFG_INITRD_SIZE, FWCFG_INITRD_DATA, &b->initrd,
			 b->module[0].img.len);
		fwcfg_set_int(f, FWCFG_INITRD_ADDR, b->module[0].gpa, 4);
	}
	fwcfg_set_int(f, FWCFG_CMDLINE_SIZE, n, 4);
	fwcfg_set(f, FWCFG_CMDLINE_DATA, b->cmdline, (u32)n);
	fwcfg_set_int(f, FWCFG_CMDLINE_ADDR,
		      b->k.entry == BOOT_MULTIBOOT ? 0 : LAYOUT_CMDLINE, 4);
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
	gpa_t gdt = LAYOUT_GDT;

	memset(v->gpr, 0, sizeof(v->gpr));
	v->rip = b->k.start;
	v->cc = 0;
	v->flags = RFLAGS_1;
	v->gpr[RSP] = LAYOUT_STACK;
	switch (b->k.entry) {
	case BOOT_MULTIBOOT:
		v->gpr[RAX] = MULTIBOOT_LOADER_MAGIC;
		v->gpr[RBX] = b->info + MULTIBOOT_INFO;
		v->gpr[RSP] = b->info + b->info_len;
		gdt = b->info + MULTIBOOT_INFO_GDT;
		break;
	case BOOT_PVH: v->gpr[RBX] = LAYOUT_PVH_INFO; break;
	case BOOT_LINUX32:
	case BOOT_LINUX64: v->gpr[RSI] = LAYOUT_ZERO_PAGE; break;
	}

	set_seg(v, CS, SEL_CODE, UINT32_MAX, code | (long_mode ? SEG_L : SEG_DB));
	for (unsigned i = 0; i < 5; i++) {
		static const u8 flat[] = { ES, SS, DS, FS, GS };

		set_seg(v, flat[i], SEL_DATA, UINT32_MAX, data);
	}
	set_seg(v, TR, SEL_TSS, 0x67, SEG_P | DESC_TSS32_BUSY);
	set_seg(v, LDTR, 0, 0, SEG_UNUSABLE);
	v->gdtr = (struct dtr){ .base = gdt, .limit = GDT_LIMIT };
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
