/* The ring and the thread between a serial port and a file descriptor. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "control/writer.h"

struct rig {
	struct writer *w;
	int pipe[2];
	unsigned rooms, failures; /* atomic */
};

static void room_told(void *opaque)
{
	struct rig *r = opaque;

	__atomic_add_fetch(&r->rooms, 1, __ATOMIC_SEQ_CST);
}

static void failure_told(void *opaque)
{
	struct rig *r = opaque;

	__atomic_add_fetch(&r->failures, 1, __ATOMIC_SEQ_CST);
}

static void rig_init(struct rig *r, size_t size, int flags)
{
	*r = (struct rig){ 0 };
	assert_int_equal(pipe2(r->pipe, flags), 0);
	r->w = writer_new("test", size);
	writer_set_notify(r->w, room_told, failure_told, r);
}

static void rig_fini(struct rig *r)
{
	writer_free(r->w);
	close(r->pipe[1]);
	if (r->pipe[0] >= 0)
		close(r->pipe[0]);
}

static void start(struct rig *r)
{
	struct error err = { 0 };

	assert_int_equal(writer_start(r->w, r->pipe[1], &err), 0);
}

static void nothing_is_written_before_the_start(void **state)
{
	char buf[16];
	struct rig r;

	(void)state;
	rig_init(&r, 64, O_NONBLOCK);
	assert_int_equal(writer_put(r.w, (const u8 *)"hello", 5), 5);
	writer_drain(r.w, 0);
	assert_int_equal(read(r.pipe[0], buf, sizeof(buf)), -1);
	start(&r);
	writer_drain(r.w, 0);
	assert_int_equal(read(r.pipe[0], buf, sizeof(buf)), 5);
	assert_memory_equal(buf, "hello", 5);
	rig_fini(&r);
}

static void full_writer_takes_a_part_and_tells_of_room(void **state)
{
	struct rig r;
	u8 buf[100];

	(void)state;
	memset(buf, 'x', sizeof(buf));
	rig_init(&r, 64, 0);
	assert_int_equal(writer_put(r.w, buf, 60), 60);
	assert_int_equal(writer_put(r.w, buf, 60), 4);
	assert_int_equal(writer_put(r.w, buf, 1), 0);
	assert_int_equal(r.rooms, 0);
	start(&r);
	writer_drain(r.w, 0);
	for (int i = 0; i < 1000 && !__atomic_load_n(&r.rooms, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	assert_int_equal(__atomic_load_n(&r.rooms, __ATOMIC_SEQ_CST), 1);
	assert_int_equal(read(r.pipe[0], buf, sizeof(buf)), 64);
	rig_fini(&r);
}

/* A non-blocking pipe that is full: another process may have made it so. */
static void order_is_kept_over_many_turns_of_the_ring(void **state)
{
	enum { TOTAL = 500000 };
	size_t put = 0, got = 0;
	struct rig r;

	(void)state;
	rig_init(&r, 4096, O_NONBLOCK);
	start(&r);
	while (got < TOTAL) {
		u8 buf[777];
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (u8)((put + i) % 251);
		if (put < TOTAL)
			put += writer_put(r.w, buf, MIN(sizeof(buf), TOTAL - put));
		n = read(r.pipe[0], buf, sizeof(buf));
		for (ssize_t i = 0; i < n; i++, got++)
			if (buf[i] != got % 251)
				fail_msg("byte %zu", got);
	}
	rig_fini(&r);
}

static void broken_pipe_is_told_once_and_swallows_the_rest(void **state)
{
	struct rig r;

	(void)state;
	signal(SIGPIPE, SIG_IGN);
	rig_init(&r, 64, 0);
	close(r.pipe[0]);
	r.pipe[0] = -1;
	start(&r);
	assert_int_equal(writer_put(r.w, (const u8 *)"x", 1), 1);
	writer_drain(r.w, 0);
	assert_int_equal(writer_error(r.w), -EPIPE);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(writer_put(r.w, (const u8 *)"0123456789", 10), 10);
	writer_drain(r.w, 0);
	rig_fini(&r);
	assert_int_equal(r.failures, 1);
}

/* The pipe is full and nobody reads: the wait has an end. */
static void drain_can_give_up(void **state)
{
	struct rig r;
	u8 buf[4096] = { 0 };

	(void)state;
	rig_init(&r, 4096, 0);
	fcntl(r.pipe[1], F_SETPIPE_SZ, 4096);
	start(&r);
	assert_int_equal(writer_put(r.w, buf, sizeof(buf)), sizeof(buf));
	writer_drain(r.w, 0);
	writer_put(r.w, buf, sizeof(buf));
	writer_drain(r.w, 1);
	assert_int_equal(read(r.pipe[0], buf, sizeof(buf)), sizeof(buf));
	writer_drain(r.w, 0);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_written_before_the_start),
		cmocka_unit_test(full_writer_takes_a_part_and_tells_of_room),
		cmocka_unit_test(order_is_kept_over_many_turns_of_the_ring),
		cmocka_unit_test(broken_pipe_is_told_once_and_swallows_the_rest),
		cmocka_unit_test(drain_can_give_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
