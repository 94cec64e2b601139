/* bzImage kernels: what is refused and why, where things go, what the kernel is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "machine/boot.h"
#include "machine/boot_linux.h"
#include "machine/layout.h"
#include "mem/phys.h"
#include "x86/vcpu.h"

#define SECTS       4
#define PAYLOAD_OFF ((SECTS + 1) * 512)
#define PAYLOAD_LEN 0x3000
#define FILE_LEN    (PAYLOAD_OFF + PAYLOAD_LEN)

/* A kernel like those of Debian, of protocol 2.15, with a payload of a pattern. */
static void make_kernel(u8 f[FILE_LEN])
{
	memset(f, 0, FILE_LEN);
	f[0x1f1] = SECTS;
	le_store(f + 0x1f4, PAYLOAD_LEN / 16, 4);
	le_store(f + 0x1fe, 0xaa55, 2);
	f[0x200] = 0xeb;
	f[0x201] = 0x6a; /* the header ends at 26ch */
	memcpy(f + 0x202, "HdrS", 4);
	le_store(f + 0x206, 0x020f, 2);
	f[0x211] = 1; /* LOADED_HIGH */
	le_store(f + 0x214, 0x100000, 4);
	le_store(f + 0x22c, 0x7fffffff, 4);
	le_store(f + 0x230, 0x200000, 4);
	f[0x234] = 1; /* relocatable */
	le_store(f + 0x236, 3, 2);
	le_store(f + 0x238, 2047, 4);
	le_store(f + 0x258, 0x1000000, 8);
	le_store(f + 0x260, 0x800000, 4);
	for (unsigned i = 0; i < PAYLOAD_LEN; i++)
		f[PAYLOAD_OFF + i] = (u8)(i * 7 + 1);
}

struct rig {
	u8 file[FILE_LEN];
	u64 len;
	struct layout layout;
	struct boot_config cfg;
	u64 ram;
	struct error err;
	struct boot *boot;
};

static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	make_kernel(r->file);
	r->len = FILE_LEN;
	r->ram = MiB(64);
	r->cfg.long_mode = true;
	r->cfg.cmdline = "console=ttyS0";
	r->cfg.layout = &r->layout;
}

static int rig_boot(struct rig *r, const void *initrd, u64 initrd_len)
{
	struct image kernel, rd;

	memset(&r->err, 0, sizeof(r->err));
	assert_int_equal(layout_init(&r->layout, r->ram, 46, &r->err), 0);
	image_from_memory(&kernel, "kernel", "vmlinuz", r->file, r->len);
	image_from_memory(&rd, "initrd", "initrd.img", initrd, initrd_len);
	return boot_new_images(&r->boot, &r->cfg, kernel, initrd_len ? &rd : NULL,
			       &r->err);
}

/* Refused with one line that names the file and contains 'text'. */
static void expect_refused(struct rig *r, const char *text)
{
	int ret = rig_boot(r, NULL, 0);

	if (ret >= 0 || !strstr(r->err.msg, text))
		fail_msg("expected '%s', got %d '%s'", text, ret, r->err.msg);
	assert_null(strchr(r->err.msg, '\n'));
	assert_non_null(strstr(r->err.msg, "vmlinuz"));
}

static void good_kernel_is_accepted(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	assert_string_equal(boot_describe(r.boot), "Linux bzImage, 64-bit entry");
	boot_free(r.boot);
}

static void every_truncation_is_refused_or_harmless(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (r.len = 1; r.len < FILE_LEN; r.len++) {
		/* A copy of exactly this length, for the sanitizer. */
		struct image img;
		u8 *copy = malloc(r.len);
		int ret;

		memcpy(copy, r.file, r.len);
		memset(&r.err, 0, sizeof(r.err));
		assert_int_equal(layout_init(&r.layout, r.ram, 46, &r.err), 0);
		image_from_memory(&img, "kernel", "vmlinuz", copy, r.len);
		ret = boot_new_images(&r.boot, &r.cfg, img, NULL, &r.err);
		assert_int_equal(ret, -EINVAL);
		assert_non_null(strstr(r.err.msg, "kernel vmlinuz: "));
		free(copy);
	}
}

static void bad_fields_are_refused_with_the_cause(void **state)
{
	static const struct {
		unsigned off, size;
		u64 val;
		const char *text;
	} bad[] = {
		{ 0x1fe, 2, 0, "is not a Linux kernel but" },
		{ 0x202, 4, 0, "is not a kernel but" },
		{ 0x200, 1, 0x90, "setup header is too short" },
		{ 0x201, 1, 0x20, "setup header is too short" },
		{ 0x206, 2, 0x0205, "boot protocol 2.05, too old" },
		{ 0x211, 1, 0, "is a zImage" },
		{ 0x1f1, 1, 0xff, "truncated" },
		{ 0x1f4, 4, 0xffffffff, "truncated" },
		{ 0x1f4, 4, PAYLOAD_LEN / 16 + 1, "truncated" },
		{ 0x230, 4, 0, "no power of two" },
		{ 0x230, 4, 0x300000, "no power of two" },
		{ 0x214, 4, 0, "entry at" },
		{ 0x214, 4, 0x100000 + PAYLOAD_LEN, "entry at" },
		{ 0x260, 4, 0xffffffff, "beyond 3 GiB" },
		{ 0x260, 4, 0x4000000,
		  "needs at least 66 MiB of memory, the machine has 64 MiB" },
		{ 0x230, 4, 0x80000000, "needs at least 2056 MiB" },
		{ 0x238, 4, 5, "takes at most 5" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rig r;

		rig_init(&r);
		le_store(r.file + bad[i].off, bad[i].val, bad[i].size);
		expect_refused(&r, bad[i].text);
	}
}

static void files_that_are_no_kernels_are_named(void **state)
{
	static const struct {
		const char *bytes;
		const char *text;
	} kinds[] = {
		{ "\x1f\x8b\x08 gzip", "a gzip file" },
		{ "\xfd"
		  "7zXZ",
		  "an xz file" },
		{ "070701cpio", "a cpio archive" },
		{ "!<arch>\ndebian", "Debian package" },
		{ "#!/bin/sh\n", "a script" },
		{ "QFI\xfb", "a qcow2 disk image" },
		{ "hello, world\n", "a text file" },
		{ "\x01\x02\x03\x04", "data of an unknown kind" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct rig r;

		rig_init(&r);
		r.len = MAX(strlen(kinds[i].bytes), 8);
		memcpy(r.file, kinds[i].bytes, strlen(kinds[i].bytes));
		expect_refused(&r, kinds[i].text);
	}
}

static void kernel_goes_to_its_preferred_address_or_as_low_as_it_can(void **state)
{
	struct rig r;
	struct bzimage bz;
	struct boot_kernel k;
	struct e820 map;
	struct image img;

	(void)state;
	rig_init(&r);
	image_from_memory(&img, "kernel", "vmlinuz", r.file, r.len);
	assert_int_equal(bzimage_parse(&img, &bz, &r.err), 0);
	assert_int_equal(layout_init(&r.layout, MiB(64), 46, &r.err), 0);
	e820_build(&map, &r.layout);
	assert_int_equal(bzimage_place(&img, &bz, &map, true, &k, &r.err), 0);
	assert_int_equal(k.lo, MiB(16));
	assert_int_equal(k.hi, MiB(24));
	assert_int_equal(k.start, MiB(16) + 0x200);
	assert_int_equal(k.segment[0].gpa, MiB(16));
	assert_int_equal(k.segment[0].file_len, PAYLOAD_LEN);

	/* 16 MiB of memory end before 16 + 8 MiB, but 2 + 8 fit. */
	assert_int_equal(layout_init(&r.layout, MiB(16), 46, &r.err), 0);
	e820_build(&map, &r.layout);
	assert_int_equal(bzimage_place(&img, &bz, &map, true, &k, &r.err), 0);
	assert_int_equal(k.lo, MiB(2));

	bz.relocatable = false;
	assert_int_equal(bzimage_place(&img, &bz, &map, true, &k, &r.err), -ENOMEM);
}

static void kernel_without_64bit_entry_gets_the_32bit_one(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	le_store(r.file + 0x236, 0, 2);
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	assert_string_equal(boot_describe(r.boot), "Linux bzImage, 32-bit entry");
	boot_free(r.boot);
	rig_init(&r);
	r.cfg.long_mode = false;
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	assert_string_equal(boot_describe(r.boot), "Linux bzImage, 32-bit entry");
	boot_free(r.boot);
}

static void old_protocols_do_without_the_newer_fields(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	le_store(r.file + 0x206, 0x0206, 2);
	r.file[0x201] = 0x3a; /* the header ends at 23ch: what follows is code */
	memset(r.file + 0x23c, 0xcc, 0x40);
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	assert_string_equal(boot_describe(r.boot), "Linux bzImage, 32-bit entry");
	boot_free(r.boot);
}

static struct phys *make_ram(u64 size)
{
	struct phys *p = phys_new();
	struct error err = { 0 };

	assert_int_equal(phys_add_ram(p, "low", 0, LAYOUT_LOW_END, &err), 0);
	assert_int_equal(
		phys_add_ram(p, "ram", LAYOUT_SHADOW, size - LAYOUT_SHADOW, &err), 0);
	return p;
}

static void boot_params_say_what_was_loaded(void **state)
{
	static u8 initrd[5000];
	struct rig r;
	struct phys *p;
	u8 zp[4096], text[32];
	u64 at;

	(void)state;
	rig_init(&r);
	memset(initrd, 0x5a, sizeof(initrd));
	assert_int_equal(rig_boot(&r, initrd, sizeof(initrd)), 0);
	p = make_ram(r.ram);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);

	assert_true(phys_read(p, LAYOUT_ZERO_PAGE, zp, sizeof(zp)));
	assert_int_equal(le_load(zp + 0x1fe, 2), 0xaa55);
	assert_memory_equal(zp + 0x202, "HdrS", 4);
	assert_int_equal(zp[0x210], 0xff);
	assert_int_equal(zp[0x1ef], 0); /* sentinel */
	assert_int_equal(le_load(zp + 0x70, 8), LAYOUT_ACPI);
	assert_int_equal(le_load(zp + 0x214, 4), MiB(16));
	at = le_load(zp + 0x228, 4);
	assert_true(phys_read(p, at, text, 14));
	assert_string_equal((char *)text, "console=ttyS0");
	assert_int_equal(zp[0x1e8], 9);
	assert_int_equal(le_load(zp + 0x2d0 + 16, 4), E820_RAM);

	/* The initrd is page aligned and ends at the top of memory, whole. */
	at = le_load(zp + 0x218, 4);
	assert_int_equal(at, MiB(64) - 8192);
	assert_int_equal(le_load(zp + 0x21c, 4), sizeof(initrd));
	assert_memory_equal(phys_host(p, at, sizeof(initrd), false), initrd,
			    sizeof(initrd));
	assert_memory_equal(phys_host(p, MiB(16), PAYLOAD_LEN, false),
			    r.file + PAYLOAD_OFF, PAYLOAD_LEN);
	phys_free(p);
	boot_free(r.boot);
}

static void identity_map_covers_4_gib(void **state)
{
	struct rig r;
	struct phys *p;

	(void)state;
	rig_init(&r);
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	p = make_ram(r.ram);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);
	for (u64 va = 0; va < GiB(4); va += MiB(2)) {
		u64 e = phys_load(p, LAYOUT_PAGE_TABLES + (va >> 39 & 511) * 8, 8);

		assert_int_equal(e & 0xfff, 3);
		e = phys_load(p, (e & ~UINT64_C(0xfff)) + (va >> 30 & 511) * 8, 8);
		assert_int_equal(e & 0xfff, 3);
		e = phys_load(p, (e & ~UINT64_C(0xfff)) + (va >> 21 & 511) * 8, 8);
		assert_int_equal(e, va | 0x83);
	}
	phys_free(p);
	boot_free(r.boot);
}

static void initrd_respects_the_kernels_limit(void **state)
{
	struct rig r;
	struct phys *p;
	u8 *initrd = xzalloc(MiB(4));

	(void)state;
	rig_init(&r);
	/* At most up to 40 MiB. */
	le_store(r.file + 0x22c, MiB(40) - 1, 4);
	assert_int_equal(rig_boot(&r, initrd, MiB(4)), 0);
	p = make_ram(r.ram);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);
	assert_int_equal(phys_load(p, LAYOUT_ZERO_PAGE + 0x218, 4), MiB(36));
	boot_free(r.boot);
	/* Up to 27 MiB: not enough above the kernel, which ends at 24, so below it. */
	le_store(r.file + 0x22c, MiB(27) - 1, 4);
	assert_int_equal(rig_boot(&r, initrd, MiB(4)), 0);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);
	assert_int_equal(phys_load(p, LAYOUT_ZERO_PAGE + 0x218, 4), MiB(12));
	boot_free(r.boot);
	/* Up to 4 MiB, where only 3 are: above, since the kernel can do with that. */
	le_store(r.file + 0x22c, MiB(4) - 1, 4);
	assert_int_equal(rig_boot(&r, initrd, MiB(4)), 0);
	boot_free(r.boot);
	le_store(r.file + 0x236, 1, 2); /* or cannot */
	assert_int_equal(rig_boot(&r, initrd, MiB(4)), -EINVAL);
	assert_non_null(strstr(r.err.msg, "initrd initrd.img: 4 MiB are too large"));
	phys_free(p);
	free(initrd);
}

static void initrd_larger_than_memory_is_refused_with_what_would_do(void **state)
{
	struct rig r;
	u8 *initrd = xzalloc(MiB(30));

	(void)state;
	rig_init(&r);
	r.ram = MiB(32);
	assert_int_equal(rig_boot(&r, initrd, MiB(30)), -ENOMEM);
	assert_string_equal(r.err.msg,
			    "initrd initrd.img: 30 MiB do not fit beside the kernel in "
			    "32 MiB of memory; 54 MiB would do");
	r.ram = MiB(54);
	assert_int_equal(rig_boot(&r, initrd, MiB(30)), 0);
	boot_free(r.boot);
	free(initrd);
}

static void command_line_may_have_its_full_length(void **state)
{
	char *line = xzalloc(2049);
	struct rig r;

	(void)state;
	rig_init(&r);
	memset(line, 'a', 2047);
	r.cfg.cmdline = line;
	assert_int_equal(rig_boot(&r, NULL, 0), 0);
	boot_free(r.boot);
	line[2047] = 'a';
	assert_int_equal(rig_boot(&r, NULL, 0), -E2BIG);
	assert_string_equal(r.err.msg,
			    "kernel command line of 2048 bytes is too long, vmlinuz "
			    "takes at most 2047");
	free(line);
}

static void files_that_cannot_be_read_are_named(void **state)
{
	char dir[] = "/tmp/umbra-boot-XXXXXX", path[64];
	struct image img;
	struct error err = { 0 };

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/missing", dir);
	assert_int_equal(image_open(&img, "kernel", path, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "missing: No such file or directory"));
	memset(&err, 0, sizeof(err));
	assert_int_equal(image_open(&img, "kernel", dir, &err), -EISDIR);
	assert_non_null(strstr(err.msg, "is a directory, not a regular file"));
	memset(&err, 0, sizeof(err));
	snprintf(path, sizeof(path), "%s/pipe", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(image_open(&img, "initrd", path, &err),
			 -EINVAL); /* and does not hang */
	assert_non_null(strstr(err.msg, "is a pipe, not a regular file"));
	unlink(path);
	memset(&err, 0, sizeof(err));
	snprintf(path, sizeof(path), "%s/empty", dir);
	fclose(fopen(path, "w"));
	assert_int_equal(image_open(&img, "initrd", path, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "empty: is empty"));
	unlink(path);
	rmdir(dir);
}

/* The file is replaced by a shorter one between two boots of the machine. */
static void file_that_shrinks_is_an_error(void **state)
{
	char path[] = "/tmp/umbra-boot-XXXXXX";
	int fd = mkstemp(path);
	struct rig r;
	struct phys *p;

	(void)state;
	rig_init(&r);
	assert_int_equal(write(fd, r.file, FILE_LEN), FILE_LEN);
	r.cfg.kernel = path;
	assert_int_equal(layout_init(&r.layout, r.ram, 46, &r.err), 0);
	assert_int_equal(boot_new(&r.boot, &r.cfg, &r.err), 0);
	p = make_ram(r.ram);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);
	assert_int_equal(boot_load(r.boot, p, &r.err), 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(boot_load(r.boot, p, &r.err), -EIO);
	assert_non_null(strstr(r.err.msg, "the file became shorter"));
	close(fd);
	unlink(path);
	phys_free(p);
	boot_free(r.boot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_kernel_is_accepted),
		cmocka_unit_test(every_truncation_is_refused_or_harmless),
		cmocka_unit_test(bad_fields_are_refused_with_the_cause),
		cmocka_unit_test(files_that_are_no_kernels_are_named),
		cmocka_unit_test(
			kernel_goes_to_its_preferred_address_or_as_low_as_it_can),
		cmocka_unit_test(kernel_without_64bit_entry_gets_the_32bit_one),
		cmocka_unit_test(old_protocols_do_without_the_newer_fields),
		cmocka_unit_test(boot_params_say_what_was_loaded),
		cmocka_unit_test(identity_map_covers_4_gib),
		cmocka_unit_test(initrd_respects_the_kernels_limit),
		cmocka_unit_test(initrd_larger_than_memory_is_refused_with_what_would_do),
		cmocka_unit_test(command_line_may_have_its_full_length),
		cmocka_unit_test(files_that_cannot_be_read_are_named),
		cmocka_unit_test(file_that_shrinks_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
