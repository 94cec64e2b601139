/*
 * qcow2 and the end of the world at any moment: what was flushed is there, what was not
 * is old or new sector by sector, and the image has at most leaks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/node.h"
#include "block/qcow2_tool.h"
#include "fake_disk.h"

enum { SECTORS = 2048, VERSIONS = 64 };

/* What a sector may hold: its flushed version and all since. */
static struct {
	u32 v[VERSIONS];
	unsigned n;
	bool unsure; /* the last write failed: done or not */
} model[SECTORS];
static u32 last_version;

static void create(const char *path, u64 cluster, u32 refcount_bits, u32 version)
{
	const struct block_env env = { .host = &fake_host };
	const struct qcow2_create c = { .size = SECTORS * 512,
					.cluster_size = cluster,
					.refcount_bits = refcount_bits,
					.version = version };
	struct block_node *file;
	struct error err = { 0 };

	fake_make(path, NULL, 0);
	if (file_open(&file, &env, path, FILE_WRITE, &err) ||
	    qcow2_create(file, &c, &err))
		fail_msg("%s", err.msg);
	node_close(file);
}

static struct block *open_image(const char *path, bool readonly)
{
	struct block_config cfg = { .file = path,
				    .format = "qcow2",
				    .readonly = readonly,
				    .discard = true,
				    .host = &fake_host };
	struct error err = { 0 };
	struct block *b;

	if (block_open(&b, &cfg, &err))
		fail_msg("%s", err.msg);
	return b;
}

static void add_version(u64 s, u32 v)
{
	/* Too many since the last flush: the oldest are as good as any other. */
	if (model[s].n == VERSIONS)
		fail_msg("flush more often");
	model[s].v[model[s].n++] = v;
	model[s].unsure = false;
}

static void flushed(void)
{
	for (unsigned s = 0; s < SECTORS; s++) {
		if (model[s].unsure)
			continue;
		model[s].v[0] = model[s].v[model[s].n - 1];
		model[s].n = 1;
	}
}

static bool allowed(u64 s, u32 v)
{
	for (unsigned i = 0; i < model[s].n; i++)
		if (model[s].v[i] == v)
			return true;
	return false;
}

static void say(void *opaque, const char *line)
{
	(void)opaque;
	print_message("    %s\n", line);
}

/* The image after a cut: opens, has at most leaks, and shows what it may. */
static void examine(const char *path, bool whole)
{
	struct qcow2_check c = { .found = NULL };
	struct block *b = open_image(path, true);
	static u8 buf[SECTORS * 512];

	assert_int_equal(qcow2_check(block_node_of(b), &c), 0);
	if (c.corruptions) {
		struct qcow2_check again = { .found = say };

		(void)qcow2_check(block_node_of(b), &again);
	}
	assert_int_equal(c.corruptions, 0);
	assert_int_equal(block_read(b, 0, buf, sizeof(buf)), 0);
	for (unsigned s = 0; s < SECTORS; s++) {
		u32 v = (u32)le_load(buf + s * 512, 4);

		for (unsigned i = 0; i < 512; i += 4)
			assert_int_equal(le_load(buf + s * 512 + i, 4), v);
		if (!allowed(s, v))
			fail_msg("sector %u: version %u is lost, there is %u", s,
				 model[s].v[0], v);
	}
	block_close(b);
	if (!whole)
		return;
	/* It goes on from there. */
	b = open_image(path, false);
	memset(buf, 0x55, sizeof(buf));
	assert_int_equal(block_write(b, 512, buf, sizeof(buf) - 1024, 0), 0);
	assert_int_equal(block_close(b), 0);
	b = open_image(path, true);
	c = (struct qcow2_check){ .found = NULL };
	assert_int_equal(qcow2_check(block_node_of(b), &c), 0);
	assert_int_equal(c.corruptions, 0);
	block_close(b);
}

static void write_some(struct block *b, u64 *seed)
{
	static u8 buf[SECTORS * 512];
	u64 s = fake_random(seed) % SECTORS;
	u64 n = 1 + fake_random(seed) % (fake_random(seed) % 8 ? 16 : 300);

	n = MIN(n, SECTORS - s);
	for (u64 i = 0; i < n; i++) {
		last_version++;
		for (unsigned j = 0; j < 512; j += 4)
			le_store(buf + i * 512 + j, last_version, 4);
		add_version(s + i, last_version);
	}
	assert_int_equal(block_write(b, s * 512, buf, n * 512, 0), 0);
}

static void zero_some(struct block *b, u64 *seed, bool discard)
{
	u64 s = fake_random(seed) % SECTORS, n = 1 + fake_random(seed) % 128;
	static u8 buf[SECTORS * 512];

	n = MIN(n, SECTORS - s);
	if (!discard) {
		for (u64 i = 0; i < n; i++)
			add_version(s + i, 0);
		assert_int_equal(block_zero(b, s * 512, n * 512,
					    fake_random(seed) & 1 ? BLOCK_UNMAP : 0),
				 0);
		return;
	}
	assert_int_equal(block_discard(b, s * 512, n * 512), 0);
	assert_int_equal(block_read(b, s * 512, buf, n * 512), 0);
	for (u64 i = 0; i < n; i++)
		add_version(s + i, (u32)le_load(buf + i * 512, 4));
}

static void cut_now(u64 *seed)
{
	fake_power_cut("disk", "cut", 0);
	examine("cut", false);
	for (unsigned i = 0; i < 4; i++) {
		fake_power_cut("disk", "cut", fake_random(seed) | 1);
		examine("cut", i == 0);
	}
}

/* Cuts between requests; those within one are made by power_fails_within_a_flush. */
static void workload(u64 seed, u64 cluster, u32 refcount_bits, unsigned steps)
{
	struct block *b;

	fake_reset();
	memset(model, 0, sizeof(model));
	for (unsigned s = 0; s < SECTORS; s++)
		model[s].n = 1;
	create("disk", cluster, refcount_bits, 3);
	fake.keep_log = true;
	fake_settle(fake_find("disk"));
	b = open_image("disk", false);
	for (unsigned i = 0; i < steps; i++) {
		unsigned what = (unsigned)(fake_random(&seed) % 100);

		if (what < 70)
			write_some(b, &seed);
		else if (what < 82)
			zero_some(b, &seed, what & 1);
		if (what >= 82 || i % 20 == 19) {
			assert_int_equal(block_sync(b), 0);
			flushed();
		}
		if (!(fake_random(&seed) % 12))
			cut_now(&seed);
	}
	assert_int_equal(block_close(b), 0);
	flushed();
	fake.keep_log = false;
	examine("disk", false);
	fake_reset();
}

static void power_fails_between_requests(void **state)
{
	(void)state;
	for (u64 seed = 1; seed <= 6; seed++) {
		workload(seed * 7919, 512, 16, 150);
		workload(seed * 104729, 4096, 16, 150);
		workload(seed * 1299709, 512, 64, 100);
		workload(seed * 15485863, 65536, 1, 60);
	}
}

/*
 * Every system call may be the last one, or fail once: the same workload, with that at
 * call N. False: there were not so many calls.
 */
static bool fail_at(u64 seed, u64 cluster, u32 bits, u64 call, int how, bool once)
{
	struct block *b;
	u64 start = seed;
	bool died = false;

	fake_reset();
	memset(model, 0, sizeof(model));
	for (unsigned s = 0; s < SECTORS; s++)
		model[s].n = 1;
	create("disk", cluster, bits, 3);
	fake.keep_log = true;
	fake_settle(fake_find("disk"));
	b = open_image("disk", false);
	fake.calls = 0;
	fake.fail_from = call;
	fake.fail_with = how;
	fake.fail_once = once;
	for (unsigned i = 0; i < 24 && (once || !died); i++) {
		u64 s = fake_random(&seed) % SECTORS, n = 1 + fake_random(&seed) % 200;
		static u8 buf[SECTORS * 512];
		int ret = 0;

		n = MIN(n, SECTORS - s);
		if (i % 6 == 5) {
			ret = block_sync(b);
			if (!ret)
				flushed();
		} else if (i % 6 == 4) {
			for (u64 k = 0; k < n; k++)
				add_version(s + k, 0);
			ret = block_zero(b, s * 512, n * 512, BLOCK_UNMAP);
		} else {
			for (u64 k = 0; k < n; k++) {
				last_version++;
				for (unsigned j = 0; j < 512; j += 4)
					le_store(buf + k * 512 + j, last_version, 4);
				add_version(s + k, last_version);
			}
			ret = block_write(b, s * 512, buf, n * 512, 0);
		}
		for (u64 k = 0; k < n && ret && i % 6 != 5; k++)
			model[s + k].unsure = true;
		died = died || ret != 0;
	}
	died = fake.calls >= call;
	fake.fail_from = 0;
	fake_power_cut("disk", "cut", 0);
	examine("cut", false);
	for (unsigned i = 0; i < 3; i++) {
		fake_power_cut("disk", "cut", (start + call * 31 + i) | 1);
		examine("cut", false);
	}
	(void)block_close(b);
	return died;
}

static void power_fails_within_a_request(void **state)
{
	(void)state;
	for (u64 call = 1; fail_at(12345, 512, 16, call, -EIO, false) && call < 600;
	     call += 1)
		;
	for (u64 call = 1; fail_at(54321, 4096, 16, call, -EIO, false) && call < 300;
	     call++)
		;
	for (u64 call = 1; fail_at(999, 512, 64, call, -EIO, false) && call < 1200;
	     call += 3)
		;
	fake_reset();
}

/* Every sector of the disk has one of these numbers. */
static void shows(const char *path, u32 one, u32 other)
{
	static u8 buf[SECTORS * 512];
	struct qcow2_check c = { .found = NULL };
	/* For writing: a dirty image is repaired. */
	struct block *b = open_image(path, false);

	assert_int_equal(block_read(b, 0, buf, sizeof(buf)), 0);
	for (unsigned s = 0; s < SECTORS; s++) {
		u32 v = (u32)le_load(buf + s * 512, 4);

		if (v != one && v != other)
			fail_msg("sector %u is %u", s, v);
	}
	assert_int_equal(block_close(b), 0);
	b = open_image(path, true);
	assert_int_equal(qcow2_check(block_node_of(b), &c), 0);
	assert_int_equal(c.corruptions, 0);
	block_close(b);
}

static void fill(struct block *b, u32 v)
{
	static u8 buf[SECTORS * 512];

	for (unsigned i = 0; i < sizeof(buf); i += 4)
		le_store(buf + i, v, 4);
	assert_int_equal(block_write(b, 0, buf, sizeof(buf), 0), 0);
}

enum snapshot_step { SNAPSHOT_CREATE, SNAPSHOT_APPLY, SNAPSHOT_DELETE };

/* The disk shows 2, snapshot "old" has 1. False: it took fewer calls. */
static bool snapshot_dies_at(enum snapshot_step step, u64 call)
{
	struct error err = { 0 };
	struct block_node *n;
	struct block *b;
	int ret;

	fake_reset();
	create("disk", 4096, 16, 3);
	b = open_image("disk", false);
	n = block_node_of(b);
	fill(b, 1);
	assert_int_equal(qcow2_snapshot_create(n, "old", 0, 0, &err), 0);
	fill(b, 2);
	assert_int_equal(block_sync(b), 0);
	fake.keep_log = true;
	fake_settle(fake_find("disk"));
	fake.calls = 0;
	fake.fail_from = call;
	fake.fail_with = -EIO;
	ret = step == SNAPSHOT_CREATE  ? qcow2_snapshot_create(n, "new", 0, 0, &err)
	      : step == SNAPSHOT_APPLY ? qcow2_snapshot_apply(n, "old", &err)
				       : qcow2_snapshot_delete(n, "old", &err);
	fake.fail_from = 0;
	fake.keep_log = false;
	for (unsigned i = 0; i < 5; i++) {
		fake_power_cut("disk", "cut", i ? call * 77 + i : 0);
		shows("cut", 2, step == SNAPSHOT_APPLY ? 1 : 2);
	}
	(void)block_close(b);
	return ret != 0;
}

static void power_fails_during_a_snapshot(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	for (enum snapshot_step step = SNAPSHOT_CREATE; step <= SNAPSHOT_DELETE; step++) {
		u64 call = 1;

		while (snapshot_dies_at(step, call))
			call++;
		assert_true(call > 5);
	}
	fake_reset();
}

static void one_call_fails(void **state)
{
	static const int how[] = { -EIO, -ENOSPC, 1 };

	(void)state;
	log_set_level(LOG_ERROR);
	for (unsigned i = 0; i < 3; i++) {
		for (u64 call = 1;
		     fail_at(4711, 512, 16, call, how[i], true) && call < 900; call += 2)
			;
		for (u64 call = 1;
		     fail_at(815, 4096, 16, call, how[i], true) && call < 300; call++)
			;
	}
	fake_reset();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_fails_between_requests),
		cmocka_unit_test(power_fails_within_a_request),
		cmocka_unit_test(power_fails_during_a_snapshot),
		cmocka_unit_test(one_call_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
