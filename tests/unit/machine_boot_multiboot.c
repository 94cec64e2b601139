/* Multiboot kernels: both ways to say what is loaded, modules, information, hostile
 * files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "machine/boot.h"
#include "machine/boot_multiboot.h"
#include "machine/layout.h"
#include "mem/phys.h"
#include "x86/stats.h"
#include "x86/vcpu.h"

#define RAM MiB(16)

/* A flat image: header at 16, code behind. Loaded at 2 MiB. */
enum { FLAT_LEN = 256, HEADER = 16, FLAT_LOAD = 0x200000 };
/* Fields of the header. */
enum { MAGIC, FLAGS, CHECKSUM, HEADER_ADDR, LOAD, LOAD_END, BSS_END, ENTRY };

static void set_field(u8 *f, unsigned field, u32 v)
{
	le_store(f + HEADER + 4 * (size_t)field, v, 4);
}

static void set_flags(u8 *f, u32 flags)
{
	set_field(f, MAGIC, 0x1badb002);
	set_field(f, FLAGS, flags);
	set_field(f, CHECKSUM, -(0x1badb002 + flags));
}

static void make_flat(u8 f[FLAT_LEN])
{
	for (unsigned i = 0; i < FLAT_LEN; i++)
		f[i] = (u8)(i * 3 + 1);
	set_flags(f, 0x10003);
	set_field(f, HEADER_ADDR, FLAT_LOAD + HEADER);
	set_field(f, LOAD, FLAT_LOAD);
	set_field(f, LOAD_END, 0);
	set_field(f, BSS_END, FLAT_LOAD + 0x3000);
	set_field(f, ENTRY, FLAT_LOAD + 0x40);
}

/* ELF of either class with one segment that is the whole file; the header at E_HEADER. */
enum { ELF_LEN = 512, E_HEADER = 256, E_LOAD = 0x100000, E_ENTRY = 0x180 };

static void make_elf(u8 f[ELF_LEN], bool is64, u64 paddr, u64 mem_len)
{
	unsigned ph = is64 ? 64 : 52;

	memset(f, 0x90, ELF_LEN);
	memset(f, 0, E_HEADER);
	memcpy(f,
	       "\x7f"
	       "ELF",
	       4);
	f[4] = is64 ? 2 : 1;
	f[5] = f[6] = 1;
	le_store(f + 16, 2, 2);
	le_store(f + 18, is64 ? 62 : 3, 2);
	if (is64) {
		le_store(f + 24, E_LOAD + E_ENTRY, 8);
		le_store(f + 32, ph, 8);
		le_store(f + 54, 56, 2);
		le_store(f + 56, 1, 2);
		le_store(f + ph, 1, 4);
		le_store(f + ph + 16, E_LOAD, 8);
		le_store(f + ph + 24, paddr, 8);
		le_store(f + ph + 32, ELF_LEN, 8);
		le_store(f + ph + 40, mem_len, 8);
	} else {
		le_store(f + 24, E_LOAD + E_ENTRY, 4);
		le_store(f + 28, ph, 4);
		le_store(f + 42, 32, 2);
		le_store(f + 44, 1, 2);
		le_store(f + ph, 1, 4);
		le_store(f + ph + 8, E_LOAD, 4);
		le_store(f + ph + 12, paddr, 4);
		le_store(f + ph + 16, ELF_LEN, 4);
		le_store(f + ph + 20, mem_len, 4);
	}
	le_store(f + E_HEADER, 0x1badb002, 4);
	le_store(f + E_HEADER + 4, 0, 4);
	le_store(f + E_HEADER + 8, -0x1badb002, 4);
}

struct rig {
	struct layout layout;
	struct boot_config cfg;
	struct boot *boot;
	struct phys *phys;
	struct vcpu v;
	struct vcpu_stats stats;
	struct error err;
	u8 *copy; /* in exactly its length for the sanitizer */
};

static int begin(struct rig *r, const void *file, size_t len)
{
	struct image img;

	memset(r, 0, sizeof(*r));
	assert_int_equal(layout_init(&r->layout, RAM, 40, &r->err), 0);
	r->cfg = (struct boot_config){ .layout = &r->layout,
				       .cmdline = "a b",
				       .long_mode = true };
	r->copy = malloc(len);
	memcpy(r->copy, file, len);
	image_from_memory(&img, "kernel", "dir/k", r->copy, len);
	return boot_new_images(&r->boot, &r->cfg, img, NULL, &r->err);
}

static void end(struct rig *r)
{
	boot_free(r->boot);
	if (r->phys)
		phys_free(r->phys);
	free(r->copy);
}

/* Into memory, and the CPU to the entry. */
static void load(struct rig *r)
{
	r->phys = phys_new();
	assert_int_equal(phys_add_ram(r->phys, "low", 0, LAYOUT_LOW_END, &r->err), 0);
	assert_int_equal(
		phys_add_ram(r->phys, "ram", LAYOUT_SHADOW, RAM - LAYOUT_SHADOW, &r->err),
		0);
	assert_int_equal(boot_load(r->boot, r->phys, &r->err), 0);
	r->v.stats = &r->stats;
	boot_enter(r->boot, &r->v);
}

static void accept(struct rig *r, const void *file, size_t len)
{
	if (begin(r, file, len))
		fail_msg("%s", r->err.msg);
	load(r);
}

static void refuse(const void *file, size_t len, const char *text)
{
	struct rig r;
	int ret = begin(&r, file, len);

	if (ret >= 0 || !strstr(r.err.msg, text) || strchr(r.err.msg, '\n'))
		fail_msg("expected '%s', got %d '%s'", text, ret, r.err.msg);
	assert_non_null(strstr(r.err.msg, "dir/k"));
	end(&r);
}

static u32 word(struct rig *r, u64 at)
{
	return (u32)phys_load(r->phys, at, 4);
}

static void text_is(struct rig *r, u32 at, const char *text)
{
	char buf[256] = { 0 };

	assert_true(phys_read(r->phys, at, buf, strlen(text) + 1));
	assert_string_equal(buf, text);
}

static void flat_image_goes_where_its_header_says(void **state)
{
	u8 f[FLAT_LEN];
	struct rig r;

	(void)state;
	make_flat(f);
	accept(&r, f, sizeof(f));
	assert_string_equal(boot_describe(r.boot), "multiboot kernel");
	assert_int_equal(r.v.rip, FLAT_LOAD + 0x40);
	for (unsigned i = 0; i < FLAT_LEN; i++)
		assert_int_equal(phys_load(r.phys, FLAT_LOAD + i, 1), f[i]);
	assert_int_equal(phys_load(r.phys, FLAT_LOAD + FLAT_LEN, 8), 0);
	end(&r);
	/* The image begins behind the start of the file, and ends before its end. */
	set_field(f, LOAD, FLAT_LOAD + 8);
	set_field(f, LOAD_END, FLAT_LOAD + 0x80);
	set_field(f, BSS_END, 0);
	accept(&r, f, sizeof(f));
	assert_int_equal(phys_load(r.phys, FLAT_LOAD + 8, 1), f[8]);
	assert_int_equal(phys_load(r.phys, FLAT_LOAD + 0x7f, 1), f[0x7f]);
	assert_int_equal(phys_load(r.phys, FLAT_LOAD + 0x80, 1), 0);
	end(&r);
}

static void elf_of_both_classes_is_taken(void **state)
{
	u8 f[ELF_LEN];
	struct rig r;

	(void)state;
	for (unsigned is64 = 0; is64 < 2; is64++) {
		/* The entry is linear, the segment elsewhere. */
		make_elf(f, is64, E_LOAD + 0x10000, 0x2000);
		accept(&r, f, sizeof(f));
		assert_int_equal(r.v.rip, E_LOAD + 0x10000 + E_ENTRY);
		assert_int_equal(word(&r, E_LOAD + 0x10000 + E_HEADER), 0x1badb002);
		end(&r);
	}
}

static void addresses_of_the_header_win_over_elf(void **state)
{
	u8 f[ELF_LEN];
	struct rig r;

	(void)state;
	make_elf(f, false, E_LOAD, 0x2000);
	le_store(f + E_HEADER + 4, 0x10000, 4);
	le_store(f + E_HEADER + 8, -(0x1badb002u + 0x10000u), 4);
	le_store(f + E_HEADER + 12, 0x300000 + E_HEADER, 4);
	le_store(f + E_HEADER + 16, 0x300000, 4);
	le_store(f + E_HEADER + 20, 0, 4);
	le_store(f + E_HEADER + 24, 0, 4);
	le_store(f + E_HEADER + 28, 0x300001, 4);
	accept(&r, f, sizeof(f));
	assert_int_equal(r.v.rip, 0x300001);
	end(&r);
}

static void entry_state_is_that_of_the_specification(void **state)
{
	u8 f[FLAT_LEN];
	struct rig r;

	(void)state;
	make_flat(f);
	accept(&r, f, sizeof(f));
	assert_int_equal(r.v.gpr[RAX], 0x2badb002);
	assert_true(r.v.gpr[RBX] >= 0x1000);
	assert_int_equal(r.v.cr0 & (CR0_PE | CR0_PG), CR0_PE);
	assert_int_equal(r.v.flags & (RFLAGS_IF | RFLAGS_VM), 0);
	assert_int_equal(r.v.code_size, 4);
	for (unsigned i = 0; i < 6; i++) {
		assert_int_equal(r.v.seg[i].base, 0);
		assert_int_equal(r.v.seg[i].limit, UINT32_MAX);
	}
	/* Not in page 0: kernels start other CPUs there. */
	assert_true(r.v.gdtr.base >= 0x1000);
	assert_true(r.v.gpr[RSP] > 0x2000);
	end(&r);
}

static void information_is_complete(void **state)
{
	u8 f[FLAT_LEN];
	struct rig r;
	u32 info, at, end_at;
	u64 ram = 0;

	(void)state;
	make_flat(f);
	accept(&r, f, sizeof(f));
	info = (u32)r.v.gpr[RBX];
	assert_int_equal(word(&r, info), 0x24d);
	assert_int_equal(word(&r, info + 4), 639);
	assert_int_equal(word(&r, info + 8), 15 * 1024);
	text_is(&r, word(&r, info + 16), "dir/k a b");
	assert_int_equal(word(&r, info + 20), 0);
	text_is(&r, word(&r, info + 64), "Umbra");
	at = word(&r, info + 48);
	end_at = at + word(&r, info + 44);
	while (at < end_at) {
		if (word(&r, at + 20) == 1)
			ram += phys_load(r.phys, at + 12, 8);
		at += word(&r, at) + 4;
	}
	assert_int_equal(at, end_at);
	assert_int_equal(ram, RAM - MiB(1) + LAYOUT_EBDA);
	end(&r);
}

static void information_keeps_off_the_image(void **state)
{
	u8 f[ELF_LEN];
	struct rig r;
	u64 at[] = { 0x1000, 0x8000, 0x10000, 0x11000 };
	u64 len[] = { 0x9ec00, 0x20000, 0x100, 0x80000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		u64 block, stack;

		make_elf(f, false, at[i], MAX(len[i], (u64)ELF_LEN));
		accept(&r, f, sizeof(f));
		block = r.v.gdtr.base;
		stack = r.v.gpr[RSP];
		assert_true(block >= 0x1000);
		assert_true(stack <= at[i] || block >= at[i] + len[i]);
		assert_true(stack <= LAYOUT_EBDA || block >= MiB(1));
		assert_true(r.v.gpr[RBX] > block && r.v.gpr[RBX] < stack);
		end(&r);
	}
}

static void damaged_headers_are_refused(void **state)
{
	u8 f[FLAT_LEN], e[ELF_LEN];

	(void)state;
	make_flat(f);
	set_field(f, CHECKSUM, 5);
	refuse(f, sizeof(f), "the checksum of its multiboot header at 16 is wrong");
	make_flat(f);
	set_flags(f, 0x3);
	refuse(f, sizeof(f), "without addresses");
	set_flags(f, 0x10023);
	refuse(f, sizeof(f), "demands by bits 20h");
	make_flat(f);
	refuse(f, HEADER + 31, "the checksum"); /* the addresses are cut off */
	set_field(f, LOAD, FLAT_LOAD + HEADER + 4);
	refuse(f, sizeof(f), "and the image that has it at");
	set_field(f, LOAD, FLAT_LOAD - 4);
	refuse(f, sizeof(f), "and the image that has it at");
	make_flat(f);
	set_field(f, LOAD_END, FLAT_LOAD + FLAT_LEN + 1);
	refuse(f, sizeof(f), "truncated, its multiboot header wants 257 bytes at 0");
	set_field(f, LOAD_END, FLAT_LOAD);
	refuse(f, sizeof(f), "ends the image at 200000h, and it begins at 200000h");
	make_flat(f);
	set_field(f, BSS_END, FLAT_LOAD + 4);
	refuse(f, sizeof(f), "and the bss before");
	make_flat(f);
	set_field(f, ENTRY, FLAT_LOAD + FLAT_LEN);
	refuse(f, sizeof(f), "where nothing is loaded");
	make_elf(e, false, E_LOAD, 0x2000);
	e[E_HEADER + 8]++;
	refuse(e, sizeof(e), "the checksum of its multiboot header at 256 is wrong");
	make_elf(e, true, E_LOAD, 0x2000);
	le_store(e + 24, 0x999999, 8);
	refuse(e, sizeof(e), "its entry at 999999h is in no segment");
}

static void places_without_memory_are_refused(void **state)
{
	static const struct {
		u32 at, len;
		const char *text;
	} cases[] = {
		{ 0, 0x1000, "hold boot data" },
		{ 0xff0, 0x1000, "hold boot data" },
		{ 0x9f000, 0x1000, "over the BIOS area" },
		{ 0xa0000, 0x1000, "over the BIOS area" },
		{ 0xf0000, 0x20000, "over the BIOS area" },
		{ 0x2000, 0x200000, "over the BIOS area" },
		{ MiB(15), MiB(2), "needs at least 17 MiB of memory" },
		{ 0xc0000000, 0x1000, "beyond 3 GiB" },
		{ 0xfffff000, 0x1000, "beyond 3 GiB" },
	};
	u8 f[FLAT_LEN], e[ELF_LEN];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		make_elf(e, false, cases[i].at, cases[i].len);
		refuse(e, sizeof(e), cases[i].text);
		make_flat(f);
		set_field(f, HEADER_ADDR, cases[i].at + HEADER);
		set_field(f, LOAD, cases[i].at);
		set_field(f, BSS_END, cases[i].at + cases[i].len - 1);
		set_field(f, ENTRY, cases[i].at);
		refuse(f, sizeof(f), cases[i].text);
	}
}

static void header_is_looked_for_in_8_KiB(void **state)
{
	static u8 f[16384];
	struct rig r;

	(void)state;
	make_flat(f + 8192 - HEADER - 32);
	le_store(f + 8192 - 32 + 12, FLAT_LOAD + 8192 - 32, 4);
	le_store(f + 8192 - 32 + 24, 0, 4);
	accept(&r, f, sizeof(f));
	end(&r);
	memset(f, 0, sizeof(f));
	make_flat(f + 8192 - HEADER - 8);
	refuse(f, sizeof(f), "is not a kernel");
	/* Not at a multiple of four. */
	memset(f, 0, sizeof(f));
	make_flat(f + 1);
	refuse(f, sizeof(f), "is not a kernel");
}

/* ---- modules ---- */

static char dir[] = "/tmp/umbra-mb-XXXXXX";

static void write_file(const char *name, const void *data, size_t len)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	fclose(f);
}

static int with_modules(struct rig *r, const char *initrd, u64 ram)
{
	char kernel[64], line[8192];
	char *out = line;

	memset(r, 0, sizeof(*r));
	assert_int_equal(layout_init(&r->layout, ram, 40, &r->err), 0);
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	/* "@" stands for the directory. */
	for (const char *s = initrd; *s; s++) {
		if (*s == '@')
			out += sprintf(out, "%s/", dir);
		else
			*out++ = *s;
	}
	*out = 0;
	r->cfg = (struct boot_config){ .layout = &r->layout,
				       .kernel = kernel,
				       .initrd = line };
	return boot_new(&r->boot, &r->cfg, &r->err);
}

static void refuse_modules(const char *initrd, const char *text)
{
	struct rig r;
	int ret = with_modules(&r, initrd, RAM);

	if (ret >= 0 || !strstr(r.err.msg, text) || strchr(r.err.msg, '\n'))
		fail_msg("expected '%s', got %d '%s'", text, ret, r.err.msg);
}

static void modules_have_their_arguments(void **state)
{
	static const char *const want[] = { "one", "with,comma", "one" };
	static const char *const args[] = { " first arg", "", " x=1,y" };
	struct rig r;
	u32 info, mods;

	(void)state;
	if (with_modules(&r, "@one first arg,@with,,comma, @one x=1,,y", RAM))
		fail_msg("%s", r.err.msg);
	load(&r);
	info = (u32)r.v.gpr[RBX];
	assert_int_equal(word(&r, info + 20), 3);
	mods = word(&r, info + 24);
	for (unsigned i = 0; i < 3; i++) {
		u32 base = word(&r, mods + 16 * i), end_at = word(&r, mods + 16 * i + 4);
		char text[128];

		snprintf(text, sizeof(text), "%s/%s%s", dir, want[i], args[i]);
		text_is(&r, word(&r, mods + 16 * i + 8), text);
		assert_int_equal(base & 0xfff, 0);
		assert_int_equal(end_at - base, i == 1 ? 5000 : 3);
		assert_int_equal(phys_load(r.phys, base, 1), i == 1 ? 'w' : 'o');
		/* Behind the kernel with its bss, each behind the one before. */
		assert_true(base >= FLAT_LOAD + 0x3000);
		assert_true(!i || base >= word(&r, mods + 16 * i - 12));
	}
	end(&r);
}

static void modules_that_cannot_be_are_refused(void **state)
{
	char many[8192] = "@one";

	(void)state;
	refuse_modules("@one,@none", "/none: No such file");
	refuse_modules("@one,", "module 2 of -initrd has no file name");
	refuse_modules(",@one", "module 1 of -initrd has no file name");
	refuse_modules("@one,  ,@one", "module 2 of -initrd has no file name");
	refuse_modules("@large,@large,@large", "do not fit behind the kernel in 16 MiB");
	for (unsigned i = 0; i < 64; i++)
		strcat(many, ",@one");
	refuse_modules(many, "can have only 64 modules");
}

static int make_files(void **state)
{
	static u8 large[MiB(5)];
	u8 f[FLAT_LEN], w[5000];

	(void)state;
	assert_non_null(mkdtemp(dir));
	make_flat(f);
	memset(w, 'w', sizeof(w));
	write_file("kernel", f, sizeof(f));
	write_file("one", "one", 3);
	write_file("with,comma", w, sizeof(w));
	write_file("large", large, sizeof(large));
	return 0;
}

static int remove_files(void **state)
{
	static const char *const names[] = { "kernel", "one", "with,comma", "large" };
	char path[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flat_image_goes_where_its_header_says),
		cmocka_unit_test(elf_of_both_classes_is_taken),
		cmocka_unit_test(addresses_of_the_header_win_over_elf),
		cmocka_unit_test(entry_state_is_that_of_the_specification),
		cmocka_unit_test(information_is_complete),
		cmocka_unit_test(information_keeps_off_the_image),
		cmocka_unit_test(damaged_headers_are_refused),
		cmocka_unit_test(places_without_memory_are_refused),
		cmocka_unit_test(header_is_looked_for_in_8_KiB),
		cmocka_unit_test(modules_have_their_arguments),
		cmocka_unit_test(modules_that_cannot_be_are_refused),
	};

	return cmocka_run_group_tests(tests, make_files, remove_files);
}
