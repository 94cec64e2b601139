/* The handle of an image: requests, limits, draining, locks, files of the host. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/throttle.h"
#include "fake_disk.h"

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	unsigned count;
	int ret;
};

static void done(struct block_req *r, int ret)
{
	struct waiter *w = r->opaque;

	pthread_mutex_lock(&w->lock);
	w->count++;
	w->ret = ret;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

static int submit(struct block *b, struct block_req r)
{
	struct waiter w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1 };
	struct block_req *one = &r;

	r.done = done;
	r.opaque = &w;
	block_submit(b, &one, 1);
	pthread_mutex_lock(&w.lock);
	while (!w.count)
		pthread_cond_wait(&w.wake, &w.lock);
	pthread_mutex_unlock(&w.lock);
	block_drain(b);
	assert_int_equal(w.count, 1);
	return w.ret;
}

static char path[] = "/tmp/umbra-block-XXXXXX";

static int setup(void **state)
{
	int fd = mkstemp(strcpy(path, "/tmp/umbra-block-XXXXXX"));

	(void)state;
	log_set_level(LOG_ERROR);
	return fd < 0 || ftruncate(fd, 1 << 20) || close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

static struct block *open_file(struct block_config cfg)
{
	struct error err = { 0 };
	struct block *b;

	cfg.file = cfg.file ? cfg.file : path;
	cfg.format = cfg.format ? cfg.format : "raw";
	if (block_open(&b, &cfg, &err))
		fail_msg("%s", err.msg);
	return b;
}

static void bad_requests_end_with_an_error(void **state)
{
	struct block *b = open_file((struct block_config){ 0 });
	static u8 buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	const struct {
		struct block_req r;
		int ret;
	} bad[] = {
		{ { .op = BLOCK_READ, .off = 1, .len = 512 }, -EINVAL },
		{ { .op = BLOCK_READ, .len = 100 }, -EINVAL },
		{ { .op = BLOCK_READ, .len = 8192 }, -EINVAL }, /* than buffers */
		{ { .op = BLOCK_READ, .off = 1 << 20, .len = 512 }, -EINVAL },
		{ { .op = BLOCK_READ, .off = UINT64_MAX - 511, .len = 512 }, -EINVAL },
		{ { .op = BLOCK_READ, .off = 512, .len = UINT64_MAX - 511 }, -EINVAL },
		{ { .op = BLOCK_WRITE, .off = 1 << 20, .len = 512 }, -ENOSPC },
		{ { .op = BLOCK_WRITE, .len = UINT64_C(1) << 32 }, -ENOSPC },
		{ { .op = BLOCK_ZERO, .off = 512, .len = 1 << 20 }, -ENOSPC },
		{ { .op = (enum block_op)7, .len = 512 }, -EINVAL },
		{ { .op = BLOCK_READ, .len = 0 }, 0 },
		{ { .op = BLOCK_FLUSH, .off = 77, .len = 99 }, 0 },
		{ { .op = BLOCK_DISCARD, .len = 1 << 20 }, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct block_req r = bad[i].r;

		r.iov = &iov;
		r.iovcnt = 1;
		assert_int_equal(submit(b, r), bad[i].ret);
	}
	assert_int_equal(block_close(b), 0);
	b = open_file((struct block_config){ .readonly = true });
	assert_true(block_readonly(b));
	assert_int_equal(submit(b, (struct block_req){ .op = BLOCK_WRITE,
						       .len = 512,
						       .iov = &iov,
						       .iovcnt = 1 }),
			 -EROFS);
	assert_int_equal(block_close(b), 0);
}

static void written_data_is_read_by_every_way(void **state)
{
	static const enum block_cache modes[] = { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE,
						  BLOCK_CACHE_WRITETHROUGH,
						  BLOCK_CACHE_DIRECTSYNC,
						  BLOCK_CACHE_UNSAFE };

	(void)state;
	for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
		struct block_config cfg = { .file = path,
					    .format = "raw",
					    .cache = modes[m] };
		static u8 out[8192 + 1], in[8192];
		struct error err = { 0 };
		struct block *b;
		/* Misaligned on purpose. */
		struct iovec iov[2] = { { out + 1, 700 }, { out + 701, 7492 } };
		struct block_req r = { .op = BLOCK_WRITE,
				       .off = 512 * (m + 1),
				       .len = 8192,
				       .iov = iov,
				       .iovcnt = 2 };

		if (block_open(&b, &cfg, &err)) {
			assert_non_null(strstr(err.msg, "O_DIRECT"));
			continue;
		}
		memset(out, 'a' + (int)m, sizeof(out));
		assert_int_equal(submit(b, r), 0);
		assert_int_equal(block_read(b, r.off, in, 8192), 0);
		assert_memory_equal(in, out, 8192);
		r.op = BLOCK_READ;
		memset(out, 0, sizeof(out));
		if (!block_try(b, &r))
			assert_int_equal(submit(b, r), 0);
		assert_memory_equal(in, out + 1, 8192);
		assert_int_equal(block_close(b), 0);
	}
}

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool open;
	unsigned running, most, order[16], count;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static i64 gated_pwritev(int fd, const struct iovec *iov, unsigned cnt, u64 off,
			 int flags)
{
	pthread_mutex_lock(&gate.lock);
	gate.order[gate.count++] = (unsigned)(off / BLOCK_SECTOR);
	gate.running++;
	gate.most = MAX(gate.most, gate.running);
	pthread_cond_broadcast(&gate.changed);
	while (!gate.open)
		pthread_cond_wait(&gate.changed, &gate.lock);
	gate.running--;
	pthread_mutex_unlock(&gate.lock);
	return hostio_linux.pwritev(fd, iov, cnt, off, flags);
}

/* Writes through the page cache wait for each other, and nothing else waits for them. */
static void writes_to_a_file_go_one_by_one(void **state)
{
	struct hostio host = hostio_linux;
	struct block *b;
	struct waiter w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1 };
	static u8 buf[512];
	struct iovec iov = { buf, 512 };
	struct block_req r[8], *p[8];
	struct waiter other = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0,
				1 };
	struct block_req f = { .op = BLOCK_FLUSH, .done = done, .opaque = &other };
	struct block_req *one = &f;

	(void)state;
	host.pwritev = gated_pwritev;
	b = open_file((struct block_config){ .host = &host });
	for (unsigned i = 0; i < 8; i++) {
		r[i] = (struct block_req){ .op = BLOCK_WRITE,
					   .off = (u64)i * BLOCK_SECTOR,
					   .len = 512,
					   .iov = &iov,
					   .iovcnt = 1,
					   .done = done,
					   .opaque = &w };
		p[i] = &r[i];
	}
	block_submit(b, p, 8);
	pthread_mutex_lock(&gate.lock);
	while (!gate.running)
		pthread_cond_wait(&gate.changed, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	assert_int_equal(block_read(b, 4096, buf, 512), 0);
	block_submit(b, &one, 1);
	pthread_mutex_lock(&other.lock);
	while (!other.count)
		pthread_cond_wait(&other.wake, &other.lock);
	pthread_mutex_unlock(&other.lock);
	assert_int_equal(w.count, 0);
	pthread_mutex_lock(&gate.lock);
	gate.open = true;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
	block_drain(b);
	assert_int_equal(w.count, 8);
	assert_int_equal(gate.most, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(gate.order[i], i);
	assert_int_equal(block_close(b), 0);
}

/* A disk with sectors of 4096 bytes and O_DIRECT: neighbours of a small write survive. */
static void small_writes_to_large_sectors(void **state)
{
	struct block_config cfg = { .file = "big",
				    .cache = BLOCK_CACHE_NONE,
				    .host = &fake_host };
	static u8 copy[65536], buf[65536];
	u64 seed = 42;
	struct block *b;

	(void)state;
	fake_reset();
	fake.align = 4096;
	fake_make("big", NULL, sizeof(copy));
	b = open_file(cfg);
	for (unsigned i = 0; i < 300; i++) {
		u64 off = fake_random(&seed) % 128 * 512;
		u64 len = 512 * (1 + fake_random(&seed) % 20);

		len = MIN(len, sizeof(copy) - off);
		memset(copy + off, (int)i, len);
		assert_int_equal(block_write(b, off, copy + off, len, 0), 0);
		assert_int_equal(block_read(b, off, buf, len), 0);
		assert_memory_equal(buf, copy + off, len);
	}
	assert_int_equal(block_read(b, 0, buf, sizeof(buf)), 0);
	assert_memory_equal(buf, copy, sizeof(buf));
	assert_int_equal(block_close(b), 0);
	fake_reset();
}

static void a_guessed_raw_does_not_become_qcow2(void **state)
{
	struct block_config cfg = { .file = path };
	struct error err = { 0 };
	static u8 buf[1024];
	struct block *b;

	(void)state;
	assert_int_equal(block_open(&b, &cfg, &err), 0);
	assert_string_equal(block_format(b), "raw");
	memcpy(buf, "QFI\xfb\0\0\0\3", 8);
	assert_int_equal(block_write(b, 0, buf, 1024, 0), -EPERM);
	assert_int_equal(block_write(b, 512, buf, 512, 0), 0);
	buf[0] = 0;
	assert_int_equal(block_write(b, 0, buf, 1024, 0), 0);
	assert_int_equal(block_close(b), 0);
}

static void an_image_is_opened_once_for_writing(void **state)
{
	struct block *b = open_file((struct block_config){ 0 }), *other;
	struct block_config cfg = { .file = path, .format = "raw" };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(block_open(&other, &cfg, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "is in use"));
	cfg.readonly = true;
	assert_int_equal(block_open(&other, &cfg, &err), -EBUSY);
	cfg.no_lock = true;
	assert_int_equal(block_open(&other, &cfg, &err), 0);
	block_close(other);
	block_close(b);
	b = open_file((struct block_config){ .readonly = true });
	cfg.no_lock = false;
	assert_int_equal(block_open(&other, &cfg, &err), 0);
	cfg.readonly = false;
	block_close(other);
	assert_int_equal(block_open(&other, &cfg, &err), -EBUSY);
	block_close(b);
}

static void what_is_no_file_is_refused(void **state)
{
	static const struct {
		const char *file, *format, *text;
	} bad[] = {
		{ "/tmp", "raw", "directory" },
		{ "/tmp", NULL, "directory" },
		{ "/dev/null", "raw", "neither a regular file nor a block device" },
		{ "/nonexistent/x", "raw", "No such file" },
		{ "", "raw", "empty file name" },
		{ "nbd://localhost/x", NULL, "its format is needed" },
		{ "nbd+unix:///?socket=/nonexistent", "raw", "connect" },
		{ "http://localhost/x", NULL, "only files, block devices" },
		{ "json:{}", NULL, "only files, block devices" },
		{ "/dev/null", "vmdk", "'vmdk' is not supported" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct block_config cfg = { .file = bad[i].file,
					    .format = bad[i].format };
		struct error err = { 0 };
		struct block *b;

		assert_true(block_open(&b, &cfg, &err) < 0);
		if (!strstr(err.msg, bad[i].text))
			fail_msg("'%s' does not say '%s'", err.msg, bad[i].text);
	}
}

static void snapshot_leaves_the_image_alone(void **state)
{
	struct block *b = open_file((struct block_config){ 0 });
	u8 one[512] = { 1 }, two[512] = { 2 }, got[512];

	(void)state;
	assert_int_equal(block_write(b, 512, one, 512, 0), 0);
	assert_int_equal(block_close(b), 0);
	b = open_file((struct block_config){ .snapshot = true });
	assert_false(block_readonly(b));
	assert_int_equal(block_read(b, 512, got, 512), 0);
	assert_memory_equal(got, one, 512);
	assert_int_equal(block_write(b, 512, two, 512, 0), 0);
	assert_int_equal(block_read(b, 512, got, 512), 0);
	assert_memory_equal(got, two, 512);
	assert_int_equal(block_close(b), 0);
	b = open_file((struct block_config){ .readonly = true });
	assert_int_equal(block_read(b, 512, got, 512), 0);
	assert_memory_equal(got, one, 512);
	assert_int_equal(block_close(b), 0);
}

static void buckets_leak(void **state)
{
	struct block_config cfg = { .iops[BLOCK_RATE_TOTAL] = { 100, 2 },
				    .bps[BLOCK_RATE_WRITE] = { 1 << 20, 1 << 20 } };
	struct throttle t;
	i64 now = 0, wait;

	(void)state;
	assert_false(throttle_init(&t, &(struct block_config){ 0 }, 0));
	assert_true(throttle_init(&t, &cfg, 0));
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(throttle_admit(&t, now, false, 512), 0);
	/* 3 in the bucket, 2 are allowed: 10 ms for one. */
	wait = throttle_admit(&t, now, false, 512);
	assert_in_range(wait, 9900000, 10100000);
	now += wait;
	assert_int_equal(throttle_admit(&t, now, false, 512), 0);
	assert_true(throttle_admit(&t, now, true, 512) > 0);
	now += NSEC_PER_SEC;
	/* One that is larger than the burst goes, and the next one waits for it. */
	assert_int_equal(throttle_admit(&t, now, true, 4 << 20), 0);
	wait = throttle_admit(&t, now, true, 512);
	assert_in_range(wait, 2900000000, 3100000000);
	assert_int_equal(throttle_admit(&t, now, false, 512), 0);
	/* Time that goes back is no time. */
	assert_true(throttle_admit(&t, 0, true, 512) > 0);
}

static void limits_delay_and_hurry_ends_waiting(void **state)
{
	struct block_config cfg = { .iops[BLOCK_RATE_TOTAL] = { 1, 1 } };
	struct block *b = open_file(cfg);
	struct waiter w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 1 };
	static u8 buf[512];
	struct iovec iov = { buf, 512 };
	struct block_req r[8], *p[8];

	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		r[i] = (struct block_req){ .op = BLOCK_READ,
					   .len = 512,
					   .iov = &iov,
					   .iovcnt = 1,
					   .done = done,
					   .opaque = &w };
		p[i] = &r[i];
	}
	block_submit(b, p, 8);
	/* The burst and one more; the next one has to wait for a second. */
	pthread_mutex_lock(&w.lock);
	while (w.count < 2)
		pthread_cond_wait(&w.wake, &w.lock);
	assert_in_range(w.count, 2, 4);
	pthread_mutex_unlock(&w.lock);
	block_hurry(b, true);
	block_drain(b);
	assert_int_equal(w.count, 8);
	assert_int_equal(w.ret, 0);
	assert_int_equal(block_close(b), 0);
}

static void many_at_once_all_come_back(void **state)
{
	enum { N = 500 };
	struct block *b = open_file((struct block_config){ .discard = true });
	struct waiter w = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0 };
	static struct block_req r[N], *p[N];
	static u8 buf[N][1024];
	static struct iovec iov[N];
	struct block_stats s;

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		iov[i] = (struct iovec){ buf[i], 1024 };
		r[i] = (struct block_req){ .op = (enum block_op)(i % 5),
					   .off = i * 1024,
					   .len = 1024,
					   .iov = &iov[i],
					   .iovcnt = 1,
					   .done = done,
					   .opaque = &w };
		p[i] = &r[i];
	}
	block_submit(b, p, N);
	block_drain(b);
	assert_int_equal(w.count, N);
	assert_int_equal(w.ret, 0);
	block_get_stats(b, &s);
	assert_int_equal(s.ops[BLOCK_READ], N / 5);
	assert_int_equal(s.bytes[BLOCK_WRITE], N / 5 * 1024);
	assert_int_equal(s.errors, 0);
	assert_int_equal(block_close(b), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_requests_end_with_an_error),
		cmocka_unit_test(written_data_is_read_by_every_way),
		cmocka_unit_test(writes_to_a_file_go_one_by_one),
		cmocka_unit_test(small_writes_to_large_sectors),
		cmocka_unit_test(a_guessed_raw_does_not_become_qcow2),
		cmocka_unit_test(an_image_is_opened_once_for_writing),
		cmocka_unit_test(what_is_no_file_is_refused),
		cmocka_unit_test(snapshot_leaves_the_image_alone),
		cmocka_unit_test(buckets_leak),
		cmocka_unit_test(limits_delay_and_hurry_ends_waiting),
		cmocka_unit_test(many_at_once_all_come_back),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
