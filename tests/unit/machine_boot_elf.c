/* ELF kernels: PVH and vmlinux, and hostile files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "machine/boot.h"
#include "machine/boot_elf.h"
#include "machine/layout.h"
#include "mem/phys.h"

#define LOAD UINT64_C(0x200000)

/* One segment of code, one note. */
struct file {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	struct {
		u32 name_len, desc_len, type;
		char name[4];
		u64 entry;
	} note;
	u8 code[256];
};

static void make_kernel(struct file *f)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->eh.e_ident, ELFMAG, SELFMAG);
	f->eh.e_ident[EI_CLASS] = ELFCLASS64;
	f->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	f->eh.e_type = ET_EXEC;
	f->eh.e_machine = EM_X86_64;
	f->eh.e_entry = LOAD + 0x80;
	f->eh.e_phoff = offsetof(struct file, ph);
	f->eh.e_phentsize = sizeof(Elf64_Phdr);
	f->eh.e_phnum = 2;
	f->ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				 .p_offset = offsetof(struct file, code),
				 .p_vaddr = 0xffffffff80000000 + LOAD,
				 .p_paddr = LOAD,
				 .p_filesz = sizeof(f->code),
				 .p_memsz = 0x3000 };
	f->ph[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
				 .p_offset = offsetof(struct file, note),
				 .p_filesz = sizeof(f->note),
				 .p_align = 4 };
	f->note.name_len = 4;
	f->note.desc_len = 8;
	f->note.type = 18;
	memcpy(f->note.name, "Xen", 4);
	f->note.entry = LOAD + 0x10;
	for (unsigned i = 0; i < sizeof(f->code); i++)
		f->code[i] = (u8)(i + 1);
}

static struct layout layout;
static u8 *copy; /* of the file that was given last, in exactly its length for the
		    sanitizer */

static int boot_it(const void *data, size_t len, struct boot **boot, struct error *err)
{
	struct boot_config cfg = { .layout = &layout,
				   .long_mode = true,
				   .cmdline = "x=1" };
	struct image img;

	free(copy);
	copy = malloc(len);
	memset(err, 0, sizeof(*err));
	assert_int_equal(layout_init(&layout, MiB(32), 46, err), 0);
	memcpy(copy, data, len);
	image_from_memory(&img, "kernel", "vmlinux", copy, len);
	return boot_new_images(boot, &cfg, img, NULL, err);
}

static void refuse(const struct file *f, const char *text)
{
	struct boot *boot = NULL;
	struct error err;
	int ret = boot_it(f, sizeof(*f), &boot, &err);

	if (ret >= 0 || !strstr(err.msg, text))
		fail_msg("expected '%s', got %d '%s'", text, ret, err.msg);
	assert_non_null(strstr(err.msg, "kernel vmlinux: "));
}

static void pvh_note_gives_the_32bit_entry(void **state)
{
	struct e820 map;
	struct boot_kernel k;
	struct error err = { 0 };
	struct image img;
	struct file f;

	(void)state;
	make_kernel(&f);
	assert_int_equal(layout_init(&layout, MiB(32), 46, &err), 0);
	e820_build(&map, &layout);
	image_from_memory(&img, "kernel", "vmlinux", &f, sizeof(f));
	assert_int_equal(elf_parse(&img, &map, true, &k, &err), 0);
	assert_int_equal(k.entry, BOOT_PVH);
	assert_int_equal(k.start, LOAD + 0x10);
	assert_int_equal(k.lo, LOAD);
	assert_int_equal(k.hi, LOAD + 0x3000);
	/* A note of four bytes is as good. */
	f.note.desc_len = 4;
	assert_int_equal(elf_parse(&img, &map, true, &k, &err), 0);
	assert_int_equal(k.start, LOAD + 0x10);
}

static void vmlinux_without_note_has_the_64bit_entry(void **state)
{
	struct e820 map;
	struct boot_kernel k;
	struct error err = { 0 };
	struct image img;
	struct file f;

	(void)state;
	make_kernel(&f);
	f.note.type = 17;
	e820_build(&map, &layout);
	image_from_memory(&img, "kernel", "vmlinux", &f, sizeof(f));
	assert_int_equal(elf_parse(&img, &map, true, &k, &err), 0);
	assert_int_equal(k.entry, BOOT_LINUX64);
	assert_int_equal(k.start, LOAD + 0x80);
	/* The entry may be a linear address. */
	f.eh.e_entry = 0xffffffff80000000 + LOAD + 0x80;
	assert_int_equal(elf_parse(&img, &map, true, &k, &err), 0);
	assert_int_equal(k.start, LOAD + 0x80);
}

static void elf32_needs_the_note(void **state)
{
	struct {
		Elf32_Ehdr eh;
		Elf32_Phdr ph[2];
		u32 note[3];
		char name[4];
		u32 entry;
		u8 code[64];
	} f = {
		.eh = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB },
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_phoff = sizeof(Elf32_Ehdr),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 2 },
		.note = { 4, 4, 18 },
		.name = "Xen",
		.entry = LOAD,
	};
	struct boot *boot = NULL;
	struct error err;

	(void)state;
	f.ph[0] = (Elf32_Phdr){ .p_type = PT_LOAD,
				.p_offset = offsetof(__typeof__(f), code),
				.p_paddr = LOAD,
				.p_filesz = 64,
				.p_memsz = 64 };
	f.ph[1] = (Elf32_Phdr){ .p_type = PT_NOTE,
				.p_offset = offsetof(__typeof__(f), note),
				.p_filesz = 20 };
	assert_int_equal(boot_it(&f, sizeof(f), &boot, &err), 0);
	assert_string_equal(boot_describe(boot), "PVH kernel");
	boot_free(boot);
	f.note[2] = 1;
	assert_int_equal(boot_it(&f, sizeof(f), &boot, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "without a PVH entry"));
}

static void start_info_describes_memory_and_modules(void **state)
{
	struct error err = { 0 };
	struct e820 map;
	u8 page[PVH_INFO_SIZE];
	struct pvh_params p = { 0x10000, 0x1800000, 12345, LAYOUT_ACPI, &map };
	u64 at;

	(void)state;
	assert_int_equal(layout_init(&layout, GiB(6), 46, &err), 0);
	e820_build(&map, &layout);
	pvh_info_fill(page, LAYOUT_PVH_INFO, &p);
	assert_int_equal(le_load(page, 4), 0x336ec578);
	assert_int_equal(le_load(page + 4, 4), 1);
	assert_int_equal(le_load(page + 12, 4), 1);
	assert_int_equal(le_load(page + 24, 8), 0x10000);
	assert_int_equal(le_load(page + 32, 8), LAYOUT_ACPI);
	at = le_load(page + 16, 8) - LAYOUT_PVH_INFO;
	assert_int_equal(le_load(page + at, 8), 0x1800000);
	assert_int_equal(le_load(page + at + 8, 8), 12345);
	at = le_load(page + 40, 8) - LAYOUT_PVH_INFO;
	assert_int_equal(le_load(page + 48, 4), map.count);
	for (unsigned i = 0; i < map.count; i++, at += 24) {
		assert_int_equal(le_load(page + at, 8), map.entry[i].base);
		assert_int_equal(le_load(page + at + 8, 8), map.entry[i].len);
		assert_int_equal(le_load(page + at + 16, 4), map.entry[i].type);
	}
	p.initrd = p.initrd_len = 0;
	pvh_info_fill(page, LAYOUT_PVH_INFO, &p);
	assert_int_equal(le_load(page + 12, 4), 0);
}

static void segments_are_loaded_and_the_rest_zeroed(void **state)
{
	struct phys *phys = phys_new();
	struct boot *boot = NULL;
	struct error err;
	struct file f;
	u8 *p;

	(void)state;
	make_kernel(&f);
	assert_int_equal(boot_it(&f, sizeof(f), &boot, &err), 0);
	assert_int_equal(phys_add_ram(phys, "ram", 0, MiB(32), &err), 0);
	p = phys_host(phys, LOAD, 0x4000, true);
	memset(p, 0xee, 0x4000);
	assert_int_equal(boot_load(boot, phys, &err), 0);
	assert_memory_equal(p, f.code, sizeof(f.code));
	for (unsigned i = sizeof(f.code); i < 0x3000; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(p[0x3000], 0xee);
	assert_int_equal(phys_load(phys, LAYOUT_PVH_INFO, 4), 0x336ec578);
	boot_free(boot);
	phys_free(phys);
}

static void bad_headers_are_refused_with_the_cause(void **state)
{
	struct file f;

	(void)state;
#define BAD(change, text)                                                                \
	do {                                                                             \
		make_kernel(&f);                                                         \
		change;                                                                  \
		refuse(&f, text);                                                        \
	} while (0)
	BAD(f.eh.e_machine = EM_AARCH64, "for another processor");
	BAD(f.eh.e_ident[EI_DATA] = ELFDATA2MSB, "for another processor");
	BAD(f.eh.e_ident[EI_CLASS] = 7, "for another processor");
	BAD(f.eh.e_type = ET_REL, "is an object file");
	BAD(f.eh.e_type = ET_CORE, "is a core dump");
	BAD(f.eh.e_type = 99, "unknown type 99");
	BAD(f.eh.e_phnum = 0, "without program headers");
	BAD(f.eh.e_phnum = 0xffff, "65535 program headers");
	BAD(f.eh.e_phentsize = 8, "8 bytes each");
	BAD(f.eh.e_phoff = UINT64_MAX - 8, "program headers are beyond the end");
	BAD(f.eh.e_phoff = sizeof(f) - 8, "program headers are beyond the end");
	BAD(f.ph[0].p_filesz = 0x4000, "larger in the file");
	BAD(f.ph[0].p_offset = UINT64_MAX - 4, "segment 0 is beyond the end");
	BAD(f.ph[0].p_paddr = UINT64_MAX - 4, "wraps round");
	BAD(f.ph[0].p_paddr = 0x7000, "hold boot data");
	BAD(f.ph[0].p_paddr = 0x9f000, "over the BIOS area");
	BAD(f.ph[0].p_paddr = MiB(32), "needs at least 33 MiB");
	BAD(f.ph[0].p_paddr = MiB(32) - 0x2000, "needs at least 33 MiB");
	BAD(f.ph[0].p_paddr = GiB(5), "beyond 3 GiB");
	BAD(f.ph[0].p_memsz = UINT64_MAX, "wraps round");
	BAD(f.ph[0].p_type = PT_INTERP, "is a program for Linux");
	BAD(f.ph[0].p_type = PT_NULL, "nothing to load");
	BAD(f.ph[1].p_offset = UINT64_MAX, "notes are beyond the end");
	BAD(f.note.entry = LOAD - 1, "is in no segment");
	BAD(f.note.entry = LOAD + 256, "is in no segment");
	BAD((f.note.type = 1, f.eh.e_entry = 0), "is in no segment");
	BAD((f.note.type = 1, f.eh.e_type = ET_DYN), "without a PVH entry");
	BAD((f.note.name_len = UINT32_MAX, f.eh.e_type = ET_DYN), "without a PVH entry");
	BAD((f.note.desc_len = UINT32_MAX, f.eh.e_type = ET_DYN), "without a PVH entry");
#undef BAD
}

static void every_truncation_is_refused(void **state)
{
	struct file f;

	(void)state;
	make_kernel(&f);
	for (size_t len = 1; len < sizeof(f); len++) {
		struct boot *boot = NULL;
		struct error err;

		assert_int_equal(boot_it(&f, len, &boot, &err), -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pvh_note_gives_the_32bit_entry),
		cmocka_unit_test(vmlinux_without_note_has_the_64bit_entry),
		cmocka_unit_test(elf32_needs_the_note),
		cmocka_unit_test(start_info_describes_memory_and_modules),
		cmocka_unit_test(segments_are_loaded_and_the_rest_zeroed),
		cmocka_unit_test(bad_headers_are_refused_with_the_cause),
		cmocka_unit_test(every_truncation_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
