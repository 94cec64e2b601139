/* qcow2: what is refused, what is repaired, what commands do. Files in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/node.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"
#include "fake_disk.h"

enum { SIZE = 4 << 20 };

static void create(const char *path, struct qcow2_create c)
{
	const struct block_env env = { .host = &fake_host };
	struct block_node *file;
	struct error err = { 0 };

	c.size = c.size ? c.size : SIZE;
	fake_make(path, NULL, 0);
	fake_find(path)->size = 0;
	if (file_open(&file, &env, path, FILE_WRITE, &err) ||
	    qcow2_create(file, &c, &err))
		fail_msg("%s", err.msg);
	node_close(file);
}

static int try_open(const char *path, bool readonly, struct block **b, struct error *err)
{
	struct block_config cfg = { .file = path,
				    .format = "qcow2",
				    .readonly = readonly,
				    .discard = true,
				    .host = &fake_host };

	*err = (struct error){ 0 };
	return block_open(b, &cfg, err);
}

static struct block *open_image(const char *path, bool readonly)
{
	struct error err;
	struct block *b;

	if (try_open(path, readonly, &b, &err))
		fail_msg("%s", err.msg);
	return b;
}

static void poke(const char *path, u64 off, u64 val, unsigned size)
{
	struct fake_file *f = fake_find(path);

	be_store(f->data + off, val, size);
}

static u64 peek(const char *path, u64 off, unsigned size)
{
	return be_load(fake_find(path)->data + off, size);
}

/* Both for reading and for writing, with this in the message. */
static void refused(const char *path, const char *text)
{
	for (unsigned i = 0; i < 2; i++) {
		struct error err;
		struct block *b;

		assert_int_not_equal(try_open(path, i, &b, &err), 0);
		if (!strstr(err.msg, text))
			fail_msg("'%s' does not say '%s'", err.msg, text);
	}
}

static u64 corruptions(const char *path, enum qcow2_fix fix)
{
	struct block_config cfg = { .file = path,
				    .format = "qcow2",
				    .readonly = fix == QCOW2_FIX_NONE,
				    .check = true,
				    .no_backing = true,
				    .host = &fake_host };
	struct qcow2_check c = { .fix = fix };
	struct error err = { 0 };
	struct block *b;

	if (block_open(&b, &cfg, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(qcow2_check(block_node_of(b), &c), 0);
	block_close(b);
	return c.corruptions + c.leaks - c.corruptions_fixed - c.leaks_fixed;
}

static const struct {
	u64 off, val;
	unsigned size;
	const char *text;
} bad_fields[] = {
	{ H_VERSION, 1, 4, "version 1" },
	{ H_VERSION, 4, 4, "version 4" },
	{ H_CLUSTER_BITS, 8, 4, "cluster size" },
	{ H_CLUSTER_BITS, 22, 4, "cluster size" },
	{ H_CRYPT, 1, 4, "encrypted" },
	{ H_REFCOUNT_ORDER, 7, 4, "64 bits" },
	{ H_LENGTH, 100, 4, "impossible length" },
	{ H_LENGTH, 1 << 30, 4, "impossible length" },
	{ H_SIZE, UINT64_MAX, 8, "impossible disk size" },
	{ H_SIZE, BIT(62), 8, "disk size" },
	{ H_L1_SIZE, 1 << 30, 4, "L1 table is too large" },
	{ H_L1_SIZE, 0, 4, "L1 table is too small" },
	{ H_L1_OFFSET, 12345, 8, "L1 table is not inside" },
	{ H_L1_OFFSET, BIT(60), 8, "L1 table is not inside" },
	{ H_L1_OFFSET, 0, 8, "L1 table is not inside" },
	{ H_L1_OFFSET, 65536, 8, "overlaps" },
	{ H_REFTABLE_OFFSET, 1 << 30, 8, "refcount table is not inside" },
	{ H_REFTABLE_CLUSTERS, 1 << 20, 4, "refcount table is too large" },
	{ H_REFTABLE_CLUSTERS, 0, 4, "refcount table is not inside" },
	{ H_NB_SNAPSHOTS, 100000, 4, "65536 snapshots" },
	{ H_NB_SNAPSHOTS, 2, 4, "snapshot table is not inside" },
	{ H_BACKING_OFFSET, 1 << 20, 8, "outside the header" },
	{ H_INCOMPAT, BIT(4), 8, "extended L2" },
	{ H_INCOMPAT, BIT(63), 8, "'unknown' (bit 63)" },
	{ H_INCOMPAT, BIT(2), 8, "external data file is missing" },
	{ H_LENGTH + 4, UINT64_C(0x1234567800ffffff), 8, "extension is cut off" },
};

static void damaged_headers_are_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad_fields); i++) {
		fake_reset();
		create("a", (struct qcow2_create){ 0 });
		poke("a", bad_fields[i].off, bad_fields[i].val, bad_fields[i].size);
		if (bad_fields[i].off == H_BACKING_OFFSET)
			poke("a", H_BACKING_SIZE, 10, 4);
		refused("a", bad_fields[i].text);
	}
	fake_reset();
	create("a", (struct qcow2_create){ 0 });
	fake_find("a")->size = 0;
	refused("a", "cut off");
	fake_reset();
}

static void unknown_feature_is_named_by_the_image(void **state)
{
	(void)state;
	fake_reset();
	create("a", (struct qcow2_create){ 0 });
	/* The table of names is the first extension. */
	poke("a", QCOW2_HEADER_V3 + 8 + 1, 9, 1);
	memcpy(fake_find("a")->data + QCOW2_HEADER_V3 + 10, "time travel\0", 12);
	poke("a", H_INCOMPAT, BIT(9), 8);
	refused("a", "'time travel' (bit 9)");
	fake_reset();
}

static void overlapping_tables_are_refused(void **state)
{
	struct block *b;
	u64 l1, rt;

	(void)state;
	fake_reset();
	create("a", (struct qcow2_create){ .cluster_size = 512 });
	b = open_image("a", false);
	assert_int_equal(block_write(b, 0, fake_find("a")->data, 512, 0), 0);
	assert_int_equal(block_write(b, 65536, fake_find("a")->data, 512, 0), 0);
	assert_int_equal(block_close(b), 0);
	l1 = peek("a", H_L1_OFFSET, 8);
	rt = peek("a", H_REFTABLE_OFFSET, 8);
	/* Two L2 tables in one place; one in the header; one behind the end. */
	poke("a", l1 + 8, peek("a", l1, 8), 8);
	refused("a", "overlaps");
	poke("a", l1 + 8, 0, 8);
	poke("a", l1, rt | ENTRY_COPIED, 8);
	refused("a", "overlaps");
	poke("a", l1, (UINT64_C(1) << 40) | ENTRY_COPIED, 8);
	refused("a", "outside the file");
	/* The same block of refcounts for everything: a bomb. */
	poke("a", l1, 0, 8);
	for (unsigned i = 0; i < 64; i++)
		poke("a", rt + i * 8, peek("a", rt, 8), 8);
	refused("a", "overlaps");
	assert_true(corruptions("a", QCOW2_FIX_NONE) > 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_ALL), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	fake_reset();
}

static void data_over_a_table_is_not_written(void **state)
{
	static u8 buf[512];
	struct block *b;
	u64 l1, l2;

	(void)state;
	log_set_level(LOG_ERROR);
	fake_reset();
	create("a", (struct qcow2_create){ 0 });
	b = open_image("a", false);
	assert_int_equal(block_write(b, 0, buf, 512, 0), 0);
	assert_int_equal(block_close(b), 0);
	l1 = peek("a", H_L1_OFFSET, 8);
	l2 = peek("a", l1, 8) & ENTRY_OFFSET;
	poke("a", l2, ENTRY_COPIED | l1, 8);
	b = open_image("a", false);
	assert_int_equal(block_write(b, 0, buf, 512, 0), -EIO);
	/* And nothing more. */
	assert_int_equal(block_write(b, 1 << 20, buf, 512, 0), -EIO);
	block_close(b);
	assert_int_equal(peek("a", H_INCOMPAT, 8), INCOMPAT_CORRUPT);
	struct error err;

	assert_int_not_equal(try_open("a", false, &b, &err), 0);
	assert_non_null(strstr(err.msg, "marked as damaged"));
	block_close(open_image("a", true));
	log_set_level(LOG_WARN);
	fake_reset();
}

static void free_space_that_is_used_is_found(void **state)
{
	static u8 buf[512];
	struct block *b;
	u64 rb;

	(void)state;
	log_set_level(LOG_ERROR);
	fake_reset();
	create("a", (struct qcow2_create){ 0 });
	rb = peek("a", peek("a", H_REFTABLE_OFFSET, 8), 8);
	memset(fake_find("a")->data + rb, 0, 64);
	b = open_image("a", false);
	assert_int_equal(block_write(b, 0, buf, 512, 0), -EIO);
	block_close(b);
	assert_int_equal(corruptions("a", QCOW2_FIX_ALL), 0);
	b = open_image("a", false);
	assert_int_equal(block_write(b, 0, buf, 512, 0), 0);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	log_set_level(LOG_WARN);
	fake_reset();
}

static void dirty_image_is_repaired_when_opened(void **state)
{
	static u8 buf[512] = { 1, 2, 3 }, got[512];
	struct block *b;
	u64 rb;

	(void)state;
	log_set_level(LOG_ERROR);
	fake_reset();
	create("a", (struct qcow2_create){ .lazy_refcounts = true });
	b = open_image("a", false);
	assert_int_equal(block_write(b, 65536, buf, 512, 0), 0);
	assert_int_equal(block_close(b), 0);
	/* As QEMU leaves one: the data's count was not written. */
	rb = peek("a", peek("a", H_REFTABLE_OFFSET, 8), 8);
	poke("a", rb + 5 * 2, 0, 2);
	poke("a", H_INCOMPAT, INCOMPAT_DIRTY, 8);
	b = open_image("a", false);
	assert_int_equal(block_read(b, 65536, got, 512), 0);
	assert_memory_equal(buf, got, 512);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(peek("a", H_INCOMPAT, 8), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	log_set_level(LOG_WARN);
	fake_reset();
}

static void backing_circle_is_refused(void **state)
{
	struct qcow2_create c = { .backing_format = "qcow2" };
	struct error err;
	struct block *b;

	(void)state;
	fake_reset();
	c.backing_name = "b";
	create("a", c);
	c.backing_name = "a";
	create("b", c);
	refused("a", "circle");
	c.backing_name = "nobody";
	create("a", c);
	assert_int_equal(try_open("a", false, &b, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "nobody"));
	fake_reset();
}

/* Each sector has the number n. */
static void put(struct block *b, u64 off, u64 len, u8 n)
{
	static u8 buf[SIZE];

	memset(buf, n, len);
	assert_int_equal(block_write(b, off, buf, len, 0), 0);
}

static u8 at(struct block *b, u64 off)
{
	u8 buf[512];

	assert_int_equal(block_read(b, align_down(off, 512), buf, 512), 0);
	return buf[off & 511];
}

static void backing_shows_where_nothing_was_written(void **state)
{
	struct block *b;

	(void)state;
	fake_reset();
	create("base", (struct qcow2_create){ .size = 1 << 20 });
	b = open_image("base", false);
	put(b, 0, 1 << 20, 7);
	assert_int_equal(block_close(b), 0);
	create("top", (struct qcow2_create){ .backing_name = "base",
					     .backing_format = "qcow2",
					     .cluster_size = 4096 });
	b = open_image("top", false);
	put(b, 5 * 512, 512, 9);
	assert_int_equal(at(b, 4 * 512), 7);
	assert_int_equal(at(b, 5 * 512), 9);
	assert_int_equal(at(b, 6 * 512), 7);
	assert_int_equal(at(b, 1 << 20), 0);
	/* A discard does not bring the old data back. */
	assert_int_equal(block_discard(b, 65536, 4096), 0);
	assert_int_equal(at(b, 65536), 0);
	assert_int_equal(at(b, 65536 + 4096), 7);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("top", QCOW2_FIX_NONE), 0);
	fake_reset();
}

static void snapshots_keep_what_was(void **state)
{
	struct error err = { 0 };
	struct block_node *n;
	struct block *b;

	(void)state;
	fake_reset();
	create("a", (struct qcow2_create){ .cluster_size = 4096 });
	b = open_image("a", false);
	n = block_node_of(b);
	put(b, 0, 100000 & ~511u, 1);
	assert_int_equal(qcow2_snapshot_create(n, "one", 1, 2, &err), 0);
	put(b, 8192, 65536, 2);
	assert_int_equal(qcow2_snapshot_create(n, "two", 3, 4, &err), 0);
	assert_int_equal(block_discard(b, 0, SIZE), 0);
	assert_int_equal(at(b, 0), 0);
	assert_int_equal(qcow2_snapshot_apply(n, "one", &err), 0);
	assert_int_equal(at(b, 8192), 1);
	put(b, 8192, 512, 5);
	assert_int_equal(qcow2_snapshot_apply(n, "two", &err), 0);
	assert_int_equal(at(b, 8192), 2);
	assert_int_equal(at(b, 0), 1);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	b = open_image("a", false);
	n = block_node_of(b);
	assert_int_equal(qcow2_snapshot_delete(n, "nobody", &err), -ENOENT);
	err = (struct error){ 0 };
	assert_int_equal(qcow2_snapshot_delete(n, "one", &err), 0);
	assert_int_equal(qcow2_snapshot_delete(n, "2", &err), 0);
	assert_int_equal(at(b, 8192), 2);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	fake_reset();
}

static void version_2_works(void **state)
{
	struct block *b;

	(void)state;
	fake_reset();
	create("a", (struct qcow2_create){ .version = 2, .cluster_size = 4096 });
	b = open_image("a", false);
	put(b, 3 * 512, 100 * 512, 3);
	assert_int_equal(block_zero(b, 5 * 512, 50 * 512, BLOCK_UNMAP), 0);
	assert_int_equal(at(b, 4 * 512), 3);
	assert_int_equal(at(b, 5 * 512), 0);
	assert_int_equal(at(b, 60 * 512), 3);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	fake_reset();
}

static void compressed_clusters_read_back(void **state)
{
	static u8 buf[4096];

	(void)state;
	for (unsigned zstd = 0; zstd < 2; zstd++) {
		struct block *b;

		fake_reset();
		create("a", (struct qcow2_create){ .cluster_size = 4096, .zstd = zstd });
		b = open_image("a", false);
		for (unsigned i = 0; i < 64; i++) {
			memset(buf, (int)i + 1, sizeof(buf));
			le_store(buf, i * 77, 4);
			assert_int_equal(
				qcow2_write_compressed(block_node_of(b), i * 4096, buf),
				0);
		}
		assert_int_equal(at(b, 10 * 4096 + 100), 11);
		put(b, 10 * 4096, 512, 99);
		assert_int_equal(at(b, 10 * 4096 + 100), 99);
		assert_int_equal(at(b, 10 * 4096 + 600), 11);
		assert_int_equal(at(b, 11 * 4096 + 600), 12);
		assert_int_equal(block_close(b), 0);
		assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
		b = open_image("a", true);
		assert_int_equal(at(b, 10 * 4096 + 100), 99);
		assert_int_equal(at(b, 63 * 4096 + 100), 64);
		block_close(b);
	}
	fake_reset();
}

static void header_extensions_are_kept(void **state)
{
	struct error err = { 0 };
	struct block *b;
	u64 where = 0;

	(void)state;
	fake_reset();
	create("a", (struct qcow2_create){ .cluster_size = 4096 });
	/* Behind the table of names. */
	for (u64 i = QCOW2_HEADER_V3; i < 4000 && !where; i += 8)
		if (!peek("a", i, 8))
			where = i;
	where += 0;
	for (u64 i = QCOW2_HEADER_V3; peek("a", i, 4);
	     i += 8 + align_up(peek("a", i + 4, 4), 8))
		where = i + 8 + align_up(peek("a", i + 4, 4), 8);
	poke("a", where, 0x12345678, 4);
	poke("a", where + 4, 5, 4);
	memcpy(fake_find("a")->data + where + 8, "hello", 5);
	b = open_image("a", false);
	assert_int_equal(qcow2_set_backing(block_node_of(b), "some", "raw", &err), 0);
	assert_int_equal(block_close(b), 0);
	fake_make("some", NULL, 65536);
	b = open_image("a", false);
	assert_int_equal(qcow2_set_backing(block_node_of(b), NULL, NULL, &err), 0);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(peek("a", where, 4), 0x12345678);
	assert_memory_equal(fake_find("a")->data + where + 8, "hello", 5);
	fake_reset();
}

static void growth_shows_zeroes(void **state)
{
	struct error err = { 0 };
	struct block_node *n;
	struct block *b;

	(void)state;
	fake_reset();
	fake_make("base", NULL, SIZE);
	memset(fake_find("base")->data, 0x77, SIZE);
	create("a", (struct qcow2_create){ .size = 65536 + 512,
					   .backing_name = "base",
					   .backing_format = "raw",
					   .cluster_size = 512 });
	b = open_image("a", false);
	n = block_node_of(b);
	assert_int_equal(at(b, 65536), 0x77);
	assert_int_equal(n->ops->resize(n, SIZE * 2, &err), 0);
	assert_int_equal(at(b, 65536), 0x77);
	assert_int_equal(at(b, 65536 + 512), 0);
	assert_int_equal(at(b, SIZE - 1), 0);
	assert_int_equal(at(b, SIZE * 2 - 1), 0);
	assert_int_equal(block_close(b), 0);
	assert_int_equal(corruptions("a", QCOW2_FIX_NONE), 0);
	fake_reset();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(damaged_headers_are_refused),
		cmocka_unit_test(unknown_feature_is_named_by_the_image),
		cmocka_unit_test(overlapping_tables_are_refused),
		cmocka_unit_test(data_over_a_table_is_not_written),
		cmocka_unit_test(free_space_that_is_used_is_found),
		cmocka_unit_test(dirty_image_is_repaired_when_opened),
		cmocka_unit_test(backing_circle_is_refused),
		cmocka_unit_test(backing_shows_where_nothing_was_written),
		cmocka_unit_test(snapshots_keep_what_was),
		cmocka_unit_test(version_2_works),
		cmocka_unit_test(compressed_clusters_read_back),
		cmocka_unit_test(header_extensions_are_kept),
		cmocka_unit_test(growth_shows_zeroes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
