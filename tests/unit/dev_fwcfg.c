/* The firmware configuration device: items by port and by DMA, files, hostile requests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "dev/fwcfg.h"
#include "mem/phys.h"
#include "state/save.h"

#define RAM   0x100000
#define DESC  0x1000 /* of a request */
#define TO    0x2000
#define ERROR 1
#define READ  2
#define SKIP  4
#define SEL   8
#define WRITE 16

struct rig {
	struct phys *phys;
	struct fwcfg *f;
};

static void rig_init(struct rig *r)
{
	struct error err = { 0 };

	r->phys = phys_new();
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, RAM, &err), 0);
	r->f = fwcfg_new(r->phys);
}

static void rig_fini(struct rig *r)
{
	fwcfg_free(r->f);
	phys_free(r->phys);
}

static void choose(struct rig *r, u16 key)
{
	io_write(&fwcfg_ops, r->f, 0, key, 2);
}

static u8 next(struct rig *r)
{
	return (u8)io_read(&fwcfg_ops, r->f, 1, 1);
}

static u64 number(struct rig *r, u16 key, unsigned bytes)
{
	u64 v = 0;

	choose(r, key);
	for (unsigned i = 0; i < bytes; i++)
		v |= (u64)next(r) << (8 * i);
	return v;
}

static void be(struct rig *r, u64 at, u32 v)
{
	phys_store(r->phys, at, __builtin_bswap32(v), 4);
}

static u32 from_be(struct rig *r, u64 at)
{
	return __builtin_bswap32((u32)phys_load(r->phys, at, 4));
}

/* The control word afterwards. */
static u32 dma(struct rig *r, u32 control, u32 len, u64 to)
{
	be(r, DESC, control);
	be(r, DESC + 4, len);
	be(r, DESC + 8, (u32)(to >> 32));
	be(r, DESC + 12, (u32)to);
	io_write(&fwcfg_dma_ops, r->f, 0, 0, 4);
	io_write(&fwcfg_dma_ops, r->f, 4, __builtin_bswap32(DESC), 4);
	return from_be(r, DESC);
}

static void items_are_read_byte_by_byte(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(number(&r, FWCFG_SIGNATURE, 4), 0x554d4551);
	assert_int_equal(number(&r, FWCFG_ID, 4), 3);
	fwcfg_set_int(r.f, FWCFG_NB_CPUS, 0x1234, 2);
	assert_int_equal(number(&r, FWCFG_NB_CPUS, 4), 0x1234); /* zeroes behind */
	/* The wish to write changes nothing. */
	assert_int_equal(number(&r, FWCFG_NB_CPUS | 0x4000, 2), 0x1234);
	choose(&r, FWCFG_NB_CPUS);
	io_write(&fwcfg_ops, r.f, 1, 0xff, 1);
	assert_int_equal(next(&r), 0x34);
	/* No such items. */
	assert_int_equal(number(&r, 0x3333, 8), 0);
	assert_int_equal(number(&r, 0xffff, 8), 0);
	assert_int_equal(number(&r, FWCFG_ARCH + 7, 8), 0);
	fwcfg_set_int(r.f, FWCFG_IRQ0_OVERRIDE, 1, 1);
	assert_int_equal(number(&r, FWCFG_IRQ0_OVERRIDE, 1), 1);
	/* Accesses of other sizes. */
	assert_int_equal(io_read(&fwcfg_ops, r.f, 0, 2), 0xffff);
	assert_int_equal(io_read(&fwcfg_ops, r.f, 0, 1), 0xff);
	choose(&r, FWCFG_SIGNATURE);
	io_write(&fwcfg_ops, r.f, 0, FWCFG_ID, 1);
	assert_int_equal(next(&r), 'Q');
	rig_fini(&r);
}

static void files_are_in_the_directory(void **state)
{
	struct error err = { 0 };
	char name[57] = { 0 };
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(fwcfg_set_file(r.f, "opt/a", "abc", 3, &err), 0);
	assert_int_equal(fwcfg_set_file(r.f, "etc/b", "", 0, &err), 0);
	assert_int_equal(fwcfg_set_file(r.f, "opt/a", "defgh", 5, &err), 0);
	assert_true(fwcfg_has_file(r.f, "etc/b"));
	assert_false(fwcfg_has_file(r.f, "etc"));
	assert_int_equal(dma(&r, FWCFG_FILE_DIR << 16 | SEL | READ, 4 + 3 * 64, TO), 0);
	assert_int_equal(from_be(&r, TO), 2);
	assert_int_equal(from_be(&r, TO + 4), 5);
	assert_int_equal(from_be(&r, TO + 8), FWCFG_FILE_FIRST << 16);
	assert_true(phys_read(r.phys, TO + 12, name, 56));
	assert_string_equal(name, "opt/a");
	assert_int_equal(from_be(&r, TO + 4 + 64 + 4), (FWCFG_FILE_FIRST + 1) << 16);
	assert_int_equal(number(&r, FWCFG_FILE_FIRST, 6), 0x6867666564);
	rig_fini(&r);
}

static void names_of_files_are_checked(void **state)
{
	struct error err = { 0 };
	char name[64];
	struct rig r;

	(void)state;
	rig_init(&r);
	memset(name, 'x', sizeof(name));
	name[56] = 0;
	assert_true(fwcfg_set_file(r.f, name, "", 0, &err) < 0);
	name[55] = 0;
	assert_int_equal(fwcfg_set_file(r.f, name, "", 0, &err), 0);
	assert_true(fwcfg_set_file(r.f, "", "", 0, NULL) < 0);
	assert_true(fwcfg_set_file(r.f, "a b", "", 0, NULL) < 0);
	assert_true(fwcfg_set_file(r.f, "a\n", "", 0, NULL) < 0);
	for (unsigned i = 1; i < FWCFG_FILES_MAX; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(fwcfg_set_file(r.f, name, "", 0, &err), 0);
	}
	err.msg[0] = 0;
	assert_true(fwcfg_set_file(r.f, "one/more", "", 0, &err) < 0);
	assert_non_null(strstr(err.msg, "one/more: there is room for only 64 files"));
	rig_fini(&r);
}

static void dma_selects_reads_and_skips(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	fwcfg_set(r.f, FWCFG_CMDLINE_DATA, "0123456789", 10);
	assert_int_equal(dma(&r, FWCFG_CMDLINE_DATA << 16 | SEL, 0, 0), 0);
	assert_int_equal(dma(&r, SKIP, 3, 0), 0);
	assert_int_equal(dma(&r, READ, 2, TO), 0);
	assert_int_equal(phys_load(r.phys, TO, 4), '3' | '4' << 8);
	/* The port goes on where DMA stopped. */
	assert_int_equal(next(&r), '5');
	/* Zeroes behind the end, and no further. */
	phys_store(r.phys, TO, UINT64_MAX, 8);
	phys_store(r.phys, TO + 8, UINT64_MAX, 8);
	assert_int_equal(dma(&r, READ, 8, TO), 0);
	assert_int_equal(phys_load(r.phys, TO, 8), 0x39383736);
	assert_int_equal(phys_load(r.phys, TO + 8, 8), UINT64_MAX);
	/* What reading and skipping cannot pass. */
	assert_int_equal(dma(&r, SKIP, UINT32_MAX, 0), 0);
	assert_int_equal(next(&r), 0);
	/* In one access of 8 bytes. */
	be(&r, DESC, FWCFG_SIGNATURE << 16 | SEL | READ);
	be(&r, DESC + 4, 4);
	be(&r, DESC + 8, 0);
	be(&r, DESC + 12, TO);
	io_write(&fwcfg_dma_ops, r.f, 0, __builtin_bswap64(DESC), 8);
	assert_int_equal(phys_load(r.phys, TO, 4), 0x554d4551);
	/* The signature of DMA. */
	assert_int_equal(io_read(&fwcfg_dma_ops, r.f, 0, 8), 0x47464320554d4551);
	assert_int_equal(io_read(&fwcfg_dma_ops, r.f, 4, 4), 0x47464320);
	assert_int_equal(io_read(&fwcfg_dma_ops, r.f, 3, 1), 'U');
	rig_fini(&r);
}

static void hostile_requests_fail(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	fwcfg_set(r.f, FWCFG_CMDLINE_DATA, "0123456789", 10);
	dma(&r, FWCFG_CMDLINE_DATA << 16 | SEL, 0, 0);
	assert_int_equal(dma(&r, READ, 4, RAM - 2), ERROR);
	assert_int_equal(phys_load(r.phys, RAM - 2, 2), 0);
	assert_int_equal(dma(&r, READ, 4, UINT64_MAX - 1), ERROR);
	assert_int_equal(dma(&r, READ, 4, UINT64_MAX), ERROR);
	assert_int_equal(dma(&r, READ, UINT32_MAX, TO), ERROR);
	assert_int_equal(dma(&r, READ, 4, 0xfee00000), ERROR);
	assert_int_equal(dma(&r, WRITE, 4, TO), ERROR);
	/* After a failure nothing has moved. */
	assert_int_equal(next(&r), '0');
	/* Neither this nor that. */
	assert_int_equal(dma(&r, 0xffe0 & ~0xffff, 4, TO), 0);
	assert_int_equal(dma(&r, READ | WRITE | SKIP, 1, TO), 0);
	assert_int_equal(next(&r), '2');
	/* A request over itself: the answer wins. */
	assert_int_equal(dma(&r, READ, 8, DESC), 0);
	/* Requests where nothing is. */
	io_write(&fwcfg_dma_ops, r.f, 4, __builtin_bswap32(RAM - 8), 4);
	io_write(&fwcfg_dma_ops, r.f, 0, UINT64_MAX, 8);
	/* Parts of a register do not start anything. */
	be(&r, DESC, SEL | READ);
	io_write(&fwcfg_dma_ops, r.f, 4, 0x1000, 2);
	io_write(&fwcfg_dma_ops, r.f, 7, 0, 1);
	assert_int_equal(from_be(&r, DESC), SEL | READ);
	rig_fini(&r);
}

static int source(void *opaque, u64 off, void *buf, u64 len)
{
	unsigned *fails = opaque;
	u8 *p = buf;

	if (*fails)
		return -1;
	for (u64 i = 0; i < len; i++)
		p[i] = (u8)((off + i) * 5);
	return 0;
}

static void bytes_can_be_fetched_when_they_are_read(void **state)
{
	unsigned fails = 0;
	struct rig r;

	(void)state;
	rig_init(&r);
	fwcfg_set_source(r.f, FWCFG_INITRD_DATA, 10000, source, &fails);
	choose(&r, FWCFG_INITRD_DATA);
	assert_int_equal(next(&r), 0);
	assert_int_equal(next(&r), 5);
	assert_int_equal(dma(&r, READ, 9998, TO), 0);
	for (unsigned i = 0; i < 9998; i++)
		assert_int_equal(phys_load(r.phys, TO + i, 1), (u8)((i + 2) * 5));
	assert_int_equal(next(&r), 0);
	fails = 1;
	choose(&r, FWCFG_INITRD_DATA);
	assert_int_equal(next(&r), 0);
	assert_int_equal(dma(&r, READ, 5, TO), ERROR);
	rig_fini(&r);
}

static void state_comes_back(void **state)
{
	struct state_buf b = { 0 };
	struct error err = { 0 };
	struct rig r;

	(void)state;
	assert_int_equal(state_covered(&fwcfg_desc), fwcfg_desc.size);
	rig_init(&r);
	choose(&r, FWCFG_SIGNATURE);
	next(&r);
	io_write(&fwcfg_dma_ops, r.f, 0, __builtin_bswap32(7), 4);
	fwcfg_save(r.f, &b);
	fwcfg_reset(r.f);
	assert_int_equal(next(&r), 'Q');
	assert_int_equal(fwcfg_load(r.f, &b, &err), 0);
	assert_int_equal(next(&r), 'E');
	/* The upper half is kept: this goes beyond 4 GiB, where nothing is. */
	be(&r, DESC, SEL | READ);
	io_write(&fwcfg_dma_ops, r.f, 4, __builtin_bswap32(DESC), 4);
	assert_int_equal(from_be(&r, DESC), SEL | READ);
	state_buf_fini(&b);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_are_read_byte_by_byte),
		cmocka_unit_test(files_are_in_the_directory),
		cmocka_unit_test(names_of_files_are_checked),
		cmocka_unit_test(dma_selects_reads_and_skips),
		cmocka_unit_test(hostile_requests_fail),
		cmocka_unit_test(bytes_can_be_fetched_when_they_are_read),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
