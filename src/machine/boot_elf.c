/*
 * ELF kernels: PVH by the note XEN_ELFNOTE_PHYS32_ENTRY, else a 64-bit Linux vmlinux; and
 * the segments of multiboot kernels.
 *
 * System V ABI, chapter 4 and 5 (ELF); Xen docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h: a PVH kernel is entered in 32-bit protected mode
 * without paging at the address of the note, EBX pointing to hvm_start_info. A vmlinux
 * without the note is entered as boot.rst says of the 64-bit entry, at e_entry.
 * Segments go to their physical addresses. Missing: relocation (ET_DYN goes where its
 * headers say).
 * No locks: one thread, machine stopped.
 */
#include "machine/boot_elf.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "machine/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define PHDRS_MAX                128
#define NOTES_MAX                MiB(1)

/* One program header of either class. */
struct phdr {
	u32 type;
	u64 off, vaddr, paddr, file_len, mem_len, align;
};

struct elf {
	bool is64;
	u16 type, machine;
	u64 entry;
	struct phdr phdr[PHDRS_MAX];
	unsigned phdrs;
};

bool elf_probe(const struct image *img)
{
	struct error ignore = { 0 };
	u8 magic[SELFMAG];

	return image_has(img, 0, SELFMAG) &&
	       !image_read(img, 0, magic, SELFMAG, &ignore) &&
	       !memcmp(magic, ELFMAG, SELFMAG);
}

static void take_phdr(struct phdr *p, const u8 *raw, bool is64)
{
	if (is64) {
		const Elf64_Phdr *h = (const Elf64_Phdr *)raw;

		*p = (struct phdr){ h->p_type,   h->p_offset, h->p_vaddr, h->p_paddr,
				    h->p_filesz, h->p_memsz,  h->p_align };
	} else {
		const Elf32_Phdr *h = (const Elf32_Phdr *)raw;

		*p = (struct phdr){ h->p_type,   h->p_offset, h->p_vaddr, h->p_paddr,
				    h->p_filesz, h->p_memsz,  h->p_align };
	}
}

static int read_phdrs(const struct image *img, struct elf *e, u64 off, unsigned count,
		      unsigned entsize, struct error *err)
{
	unsigned want = e->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	union {
		Elf64_Phdr p64;
		Elf32_Phdr p32;
		u8 raw[sizeof(Elf64_Phdr)];
	} u;

	if (!count)
		return image_refuse(img, err,
				    "is an ELF file without program headers, such as an "
				    "object file; a linked kernel is needed");
	if (count > PHDRS_MAX)
		return image_refuse(img, err,
				    "has %u program headers, at most %u are allowed",
				    count, PHDRS_MAX);
	if (entsize != want)
		return image_refuse(img, err,
				    "damaged, its program headers have %u bytes each "
				    "instead of %u",
				    entsize, want);
	if (!image_has(img, off, (u64)count * want))
		return image_refuse(img, err,
				    "truncated, its program headers are beyond the end");
	for (unsigned i = 0; i < count; i++) {
		int ret = image_read(img, off + (u64)i * want, u.raw, want, err);

		if (ret)
			return ret;
		take_phdr(&e->phdr[i], u.raw, e->is64);
	}
	e->phdrs = count;
	return 0;
}

static int read_headers(const struct image *img, struct elf *e, struct error *err)
{
	union {
		Elf64_Ehdr h64;
		Elf32_Ehdr h32;
		u8 raw[sizeof(Elf64_Ehdr)];
	} u = { 0 };
	int ret;

	if (!image_has(img, 0, sizeof(Elf32_Ehdr)))
		return image_refuse(img, err,
				    "truncated, an ELF header has at least %zu bytes",
				    sizeof(Elf32_Ehdr));
	ret = image_read(img, 0, u.raw, MIN(img->len, sizeof(u.raw)), err);
	if (ret)
		return ret;
	e->is64 = u.raw[EI_CLASS] == ELFCLASS64;
	e->type = u.h32.e_type;
	e->machine = u.h32.e_machine;
	if (u.raw[EI_DATA] != ELFDATA2LSB ||
	    (!e->is64 && u.raw[EI_CLASS] != ELFCLASS32) ||
	    (e->machine != EM_X86_64 && e->machine != EM_386))
		return image_refuse(img, err,
				    "is an ELF file for another processor (machine %u); "
				    "an x86 kernel is needed",
				    e->machine);
	if (e->is64 && img->len < sizeof(u.h64))
		return image_refuse(img, err, "truncated, an ELF header has %zu bytes",
				    sizeof(u.h64));
	switch (e->type) {
	case ET_EXEC:
	case ET_DYN: break;
	case ET_REL:
		return image_refuse(img, err,
				    "is an object file; a linked kernel is needed");
	case ET_CORE: return image_refuse(img, err, "is a core dump, not a kernel");
	default:
		return image_refuse(img, err,
				    "is an ELF file of unknown type %u, not a kernel",
				    e->type);
	}
	e->entry = e->is64 ? u.h64.e_entry : u.h32.e_entry;
	return e->is64 ? read_phdrs(img, e, u.h64.e_phoff, u.h64.e_phnum,
				    u.h64.e_phentsize, err)
		       : read_phdrs(img, e, u.h32.e_phoff, u.h32.e_phnum,
				    u.h32.e_phentsize, err);
}

/* PT_LOAD headers become segments, none of them below 'lowest'. */
static int take_segments(const struct image *img, const struct elf *e,
			 const struct e820 *map, u64 lowest, struct boot_kernel *k,
			 struct error *err)
{
	k->lo = UINT64_MAX;
	for (unsigned i = 0; i < e->phdrs; i++) {
		const struct phdr *p = &e->phdr[i];
		u64 end;

		if (p->type == PT_INTERP)
			return image_refuse(
				img, err,
				"is a program for Linux, not a kernel; a bzImage "
				"(vmlinuz) or vmlinux is needed");
		if (p->type != PT_LOAD || !p->mem_len)
			continue;
		if (p->file_len > p->mem_len)
			return image_refuse(
				img, err,
				"damaged, segment %u is larger in the file than in "
				"memory",
				i);
		if (!image_has(img, p->off, p->file_len))
			return image_refuse(img, err,
					    "truncated, segment %u is beyond the end of "
					    "the file",
					    i);
		if (__builtin_add_overflow(p->paddr, p->mem_len, &end))
			return image_refuse(img, err, "damaged, segment %u wraps round",
					    i);
		if (p->paddr < lowest)
			return image_refuse(
				img, err,
				"segment %u wants to be loaded at %llxh; addresses "
				"below %llxh hold boot data",
				i, (unsigned long long)p->paddr,
				(unsigned long long)lowest);
		if (!boot_usable(map, p->paddr, p->mem_len))
			return boot_too_small(img, map, p->paddr, end, err);
		if (k->segments == BOOT_SEGMENTS_MAX)
			return image_refuse(img, err, "has more than %u segments",
					    BOOT_SEGMENTS_MAX);
		k->segment[k->segments++] = (struct boot_segment){ p->off, p->file_len,
								   p->paddr, p->mem_len };
		k->lo = MIN(k->lo, p->paddr);
		k->hi = MAX(k->hi, end);
	}
	if (!k->segments)
		return image_refuse(img, err,
				    "is an ELF file with nothing to load; a kernel is "
				    "needed");
	return 0;
}

/* Notes of one PT_NOTE: 1 and the address when the PVH entry is in them, 0 when not. */
static int find_entry(const u8 *notes, u64 len, u64 align, u64 *entry)
{
	align = align == 8 ? 8 : 4;
	for (u64 pos = 0; pos + 12 <= len;) {
		u64 name_len = le_load(notes + pos, 4);
		u64 desc_len = le_load(notes + pos + 4, 4);
		u64 type = le_load(notes + pos + 8, 4);
		u64 name = pos + 12;
		u64 desc = align_up(name + name_len, align);

		if (desc > len || desc_len > len - desc)
			break;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_len == 4 &&
		    !memcmp(notes + name, "Xen", 4) && (desc_len == 4 || desc_len == 8)) {
			*entry = le_load(notes + desc, (unsigned)desc_len);
			return 1;
		}
		pos = align_up(desc + desc_len, align);
	}
	return 0;
}

/* 1 and the address, 0 when there is no such note, -errno. */
static int pvh_entry(const struct image *img, const struct elf *e, u64 *entry,
		     struct error *err)
{
	for (unsigned i = 0; i < e->phdrs; i++) {
		const struct phdr *p = &e->phdr[i];
		u8 *notes;
		int ret;

		if (p->type != PT_NOTE || !p->file_len)
			continue;
		if (!image_has(img, p->off, p->file_len))
			return image_refuse(
				img, err,
				"truncated, its notes are beyond the end of the file");
		if (p->file_len > NOTES_MAX)
			return image_refuse(img, err,
					    "damaged, its notes have %llu bytes",
					    (unsigned long long)p->file_len);
		notes = malloc(p->file_len);
		if (!notes)
			return error_set(err, -ENOMEM, "%s %s: out of memory", img->what,
					 img->path);
		ret = image_read(img, p->off, notes, p->file_len, err);
		if (!ret)
			ret = find_entry(notes, p->file_len, p->align, entry);
		free(notes);
		if (ret)
			return ret;
	}
	return 0;
}

static bool loaded(const struct boot_kernel *k, u64 addr)
{
	for (unsigned i = 0; i < k->segments; i++)
		if (addr - k->segment[i].gpa < k->segment[i].file_len &&
		    addr >= k->segment[i].gpa)
			return true;
	return false;
}

/* Physical address of e_entry, which linkers make physical or linear. */
static u64 entry_phys(const struct elf *e, const struct boot_kernel *k)
{
	if (loaded(k, e->entry))
		return e->entry;
	for (unsigned i = 0; i < e->phdrs; i++) {
		const struct phdr *p = &e->phdr[i];

		if (p->type == PT_LOAD && e->entry >= p->vaddr &&
		    e->entry - p->vaddr < p->file_len)
			return e->entry - p->vaddr + p->paddr;
	}
	return e->entry;
}

/* The setup header that a vmlinux, which has none, would have had as a bzImage. */
static void make_header(struct boot_kernel *k)
{
	u8 *h = k->header;

	k->header_len = 0x268 - 0x1f1;
	le_store(h + 0x1fe - 0x1f1, 0xaa55, 2);
	memcpy(h + 0x202 - 0x1f1, "HdrS", 4);
	le_store(h + 0x206 - 0x1f1, 0x020f, 2);
	h[0x211 - 0x1f1] = 1; /* LOADED_HIGH */
	le_store(h + 0x22c - 0x1f1, k->initrd_max, 4);
	le_store(h + 0x230 - 0x1f1, MiB(16), 4);
	le_store(h + 0x236 - 0x1f1, 3, 2); /* XLF_KERNEL_64, XLF_CAN_BE_LOADED_ABOVE_4G */
	le_store(h + 0x238 - 0x1f1, k->cmdline_max, 4);
	le_store(h + 0x258 - 0x1f1, k->lo, 8);
	le_store(h + 0x260 - 0x1f1, MIN(k->hi - k->lo, UINT32_MAX), 4);
}

int elf_parse(const struct image *img, const struct e820 *map, bool long_mode,
	      struct boot_kernel *k, struct error *err)
{
	struct elf *e = calloc(1, sizeof(*e));
	u64 entry = 0;
	int ret;

	*k = (struct boot_kernel){ .cmdline_max = BOOT_CMDLINE_LINUX };
	if (!e)
		return error_set(err, -ENOMEM, "%s %s: out of memory", img->what,
				 img->path);
	ret = read_headers(img, e, err);
	if (!ret)
		ret = take_segments(img, e, map, LAYOUT_BOOT_END, k, err);
	if (ret)
		goto out;
	ret = pvh_entry(img, e, &entry, err);
	if (ret < 0)
		goto out;
	if (ret) {
		k->entry = BOOT_PVH;
		k->describe = "PVH kernel";
		k->initrd_max = UINT32_MAX;
	} else if (e->machine == EM_X86_64 && e->is64 && e->type == ET_EXEC &&
		   long_mode) {
		k->entry = BOOT_LINUX64;
		k->describe = "Linux vmlinux, 64-bit entry";
		k->initrd_max = INT32_MAX;
		k->initrd_high = true;
		entry = entry_phys(e, k);
		make_header(k);
	} else {
		ret = image_refuse(img, err,
				   "is an ELF file without a PVH entry (note 18 of "
				   "\"Xen\") or multiboot header; it needs one, or to "
				   "be a 64-bit vmlinux");
		goto out;
	}
	ret = 0;
	k->start = entry;
	if (!loaded(k, entry))
		ret = image_refuse(img, err,
				   "damaged, its entry at %llxh is in no segment",
				   (unsigned long long)entry);
out:
	free(e);
	return ret;
}

int elf_place(const struct image *img, const struct e820 *map, u64 lowest,
	      struct boot_kernel *k, struct error *err)
{
	struct elf *e = calloc(1, sizeof(*e));
	int ret;

	if (!e)
		return error_set(err, -ENOMEM, "%s %s: out of memory", img->what,
				 img->path);
	ret = read_headers(img, e, err);
	if (!ret)
		ret = take_segments(img, e, map, lowest, k, err);
	if (!ret) {
		k->start = entry_phys(e, k);
		if (!loaded(k, k->start))
			ret = image_refuse(img, err,
					   "damaged, its entry at %llxh is in no segment",
					   (unsigned long long)k->start);
	}
	free(e);
	return ret;
}

bool elf_has_pvh(const struct image *img, bool *is64)
{
	struct elf *e = calloc(1, sizeof(*e));
	struct error ignore = { 0 };
	u64 entry;
	bool pvh;

	if (!e)
		return false;
	pvh = !read_headers(img, e, &ignore) && pvh_entry(img, e, &entry, &ignore) > 0;
	*is64 = e->is64;
	free(e);
	return pvh;
}

/* struct hvm_start_info, its module list and memory map. */
enum {
	INFO_MAGIC = 0x336ec578, /* "xEn3", bit 7 of the E set */
	INFO_VERSION = 1,
	INFO_MODLIST = 64,
	INFO_MODULE_SIZE = 32,
	INFO_MEMMAP = INFO_MODLIST + INFO_MODULE_SIZE,
	INFO_MEMMAP_SIZE = 24,
};

void pvh_info_fill(u8 page[PVH_INFO_SIZE], gpa_t at, const struct pvh_params *p)
{
	memset(page, 0, PVH_INFO_SIZE);
	le_store(page + 0, INFO_MAGIC, 4);
	le_store(page + 4, INFO_VERSION, 4);
	if (p->initrd_len) {
		le_store(page + 12, 1, 4); /* nr_modules */
		le_store(page + 16, at + INFO_MODLIST, 8);
		le_store(page + INFO_MODLIST, p->initrd, 8);
		le_store(page + INFO_MODLIST + 8, p->initrd_len, 8);
	}
	le_store(page + 24, p->cmdline, 8);
	le_store(page + 32, p->rsdp, 8);
	le_store(page + 40, at + INFO_MEMMAP, 8);
	le_store(page + 48, p->map->count, 4);
	for (unsigned i = 0; i < p->map->count; i++) {
		u8 *e = page + INFO_MEMMAP + i * INFO_MEMMAP_SIZE;

		le_store(e, p->map->entry[i].base, 8);
		le_store(e + 8, p->map->entry[i].len, 8);
		le_store(e + 16, p->map->entry[i].type, 4);
	}
}
