/*
 * A disk at an NBD server that hangs, vanishes, comes back or talks nonsense.
 *
 * The server is a thread here, with a thread for each connection; the block layer's clock
 * goes fast, so that its seconds are short.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/block.h"
#include "block/hostio.h"

#define SPEED 25
#define SIZE  MiB(16)

/* Of the protocol. */
enum { READ, WRITE, DISC, FLUSH, TRIM, ZEROES = 6 };
enum {
	HAS_FLAGS = 1,
	SEND_FLUSH = 4,
	SEND_TRIM = 32,
	SEND_ZEROES = 64,
	MULTI_CONN = 256
};

enum mode { ANSWERS, HANGS, HANGS_UP, FAILS, BABBLES, SAYS_NOTHING };

struct server {
	char path[64], uri[128];
	int listener;
	pthread_t thread;
	pthread_mutex_t lock;
	enum mode mode;
	int only; /* a mode other than ANSWERS is for this command; -1: for all */
	u64 size;
	u16 flags;
	unsigned connections, commands[8];
	int fd[64];
	pthread_t of[64];
	unsigned over; /* connections whose threads have been waited for */
	u8 *data;
};

/* ---- the server ---- */

static u64 be(const u8 *p, unsigned n)
{
	u64 v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

static u8 *put(u8 *p, u64 v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> 8 * (n - 1 - i));
	return p + n;
}

static bool get(int fd, void *buf, size_t len)
{
	return !len || recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static bool say(int fd, const void *buf, size_t len)
{
	return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool option_reply(int fd, u32 option, u32 type, const u8 *data, u32 len)
{
	u8 b[20];

	put(put(put(put(b, 0x3e889045565a9, 8), option, 4), type, 4), len, 4);
	return say(fd, b, sizeof(b)) && (!len || say(fd, data, len));
}

static bool handshake(struct server *s, int fd)
{
	u8 b[18], junk[4096], info[12];

	put(put(put(b, 0x4e42444d41474943, 8), 0x49484156454f5054, 8), 3, 2);
	if (!say(fd, b, 18) || !get(fd, b, 4))
		return false;
	for (;;) {
		u32 option, len;

		if (!get(fd, b, 16))
			return false;
		option = (u32)be(b + 8, 4);
		len = (u32)be(b + 12, 4);
		if (len > sizeof(junk) || !get(fd, junk, len))
			return false;
		if (option != 7) {
			if (!option_reply(fd, option, 0x80000001, NULL, 0))
				return false;
			continue;
		}
		put(put(put(info, 0, 2), s->size, 8), s->flags, 2);
		return option_reply(fd, option, 3, info, 12) &&
		       option_reply(fd, option, 1, NULL, 0);
	}
}

/* False: the connection is over. */
static bool command(struct server *s, int fd)
{
	u8 b[28], reply[16];
	u32 type, len;
	enum mode mode;
	u64 off;
	bool ok = true;

	if (!get(fd, b, sizeof(b)))
		return false;
	type = (u32)be(b + 6, 2);
	off = be(b + 16, 8);
	len = (u32)be(b + 24, 4);
	if (type == DISC)
		return false;
	pthread_mutex_lock(&s->lock);
	s->commands[type % 8]++;
	mode = s->only < 0 || s->only == (int)type ? s->mode : ANSWERS;
	if (type == WRITE)
		ok = off + len <= SIZE && get(fd, s->data + off, len);
	pthread_mutex_unlock(&s->lock);
	switch (ok ? mode : HANGS_UP) {
	case HANGS: return true;
	case HANGS_UP: return false;
	case BABBLES: memset(reply, 0x55, sizeof(reply)); break;
	default:
		put(put(reply, 0x67446698, 4), mode == FAILS ? 5 : 0, 4);
		memcpy(reply + 8, b + 8, 8);
		break;
	}
	if (!say(fd, reply, 16))
		return false;
	return type != READ || mode != ANSWERS || say(fd, s->data + off, len);
}

struct connection {
	struct server *s;
	int fd;
};

static void *serve(void *arg)
{
	struct connection *c = arg;
	struct server *s = c->s;
	bool speaks;

	pthread_mutex_lock(&s->lock);
	speaks = s->mode != SAYS_NOTHING;
	pthread_mutex_unlock(&s->lock);
	if (speaks && handshake(s, c->fd))
		while (command(s, c->fd))
			;
	/* One that says nothing keeps it open. */
	if (speaks)
		shutdown(c->fd, SHUT_RDWR);
	free(c);
	return NULL;
}

static void *accept_all(void *arg)
{
	struct server *s = arg;
	int fd;

	while ((fd = accept(s->listener, NULL, NULL)) >= 0) {
		struct connection *c = malloc(sizeof(*c));

		pthread_mutex_lock(&s->lock);
		assert_true(s->connections < ARRAY_SIZE(s->fd));
		*c = (struct connection){ s, fd };
		s->fd[s->connections] = fd;
		assert_int_equal(pthread_create(&s->of[s->connections++], NULL, serve, c),
				 0);
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

static void server_listen(struct server *s)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	strcpy(a.sun_path, s->path);
	unlink(s->path);
	s->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(s->listener, (void *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s->listener, 16), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, accept_all, s), 0);
}

/* No more connections, and none of those that are there. */
static void server_gone(struct server *s)
{
	unlink(s->path);
	shutdown(s->listener, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->listener);
	for (; s->over < s->connections; s->over++) {
		shutdown(s->fd[s->over], SHUT_RDWR);
		pthread_join(s->of[s->over], NULL);
		close(s->fd[s->over]);
	}
}

static struct server *server_new(u16 flags)
{
	struct server *s = calloc(1, sizeof(*s));

	snprintf(s->path, sizeof(s->path), "/tmp/umbra-nbd-%d", (int)getpid());
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->path);
	pthread_mutex_init(&s->lock, NULL);
	s->only = -1;
	s->size = SIZE;
	s->flags = flags | HAS_FLAGS;
	s->data = calloc(1, SIZE);
	server_listen(s);
	return s;
}

static void server_end(struct server *s)
{
	server_gone(s);
	pthread_mutex_destroy(&s->lock);
	free(s->data);
	free(s);
}

static void set_mode(struct server *s, enum mode mode, int only)
{
	pthread_mutex_lock(&s->lock);
	s->mode = mode;
	s->only = only;
	pthread_mutex_unlock(&s->lock);
}

/* ---- the client ---- */

static struct hostio fast;

static i64 fast_now(void)
{
	return hostio_linux.now() * SPEED;
}

static void seconds(unsigned n)
{
	usleep(n * 1000000 / SPEED);
}

static struct block *open_at(struct server *s, unsigned delay)
{
	const struct block_config cfg = { .file = s->uri,
					  .format = "raw",
					  .host = &fast,
					  .discard = true,
					  .reconnect_delay = delay };
	struct error err = { 0 };
	struct block *b;

	if (block_open(&b, &cfg, &err))
		fail_msg("%s", err.msg);
	return b;
}

/* Lines on standard error between the two calls. */
static int old_stderr;
static FILE *lines;

static void listen_to_log(void)
{
	lines = tmpfile();
	old_stderr = dup(2);
	dup2(fileno(lines), 2);
}

static unsigned heard(const char *text)
{
	char line[512];
	unsigned n = 0;

	dup2(old_stderr, 2);
	close(old_stderr);
	rewind(lines);
	while (fgets(line, sizeof(line), lines))
		n += !text || strstr(line, text);
	fclose(lines);
	return n;
}

struct batch {
	pthread_mutex_t lock;
	unsigned done, failed;
	struct block_req r[200], *p[200];
	struct iovec iov[200];
	u8 buf[200][512];
};

static void batch_done(struct block_req *r, int ret)
{
	struct batch *t = r->opaque;

	pthread_mutex_lock(&t->lock);
	t->done++;
	t->failed += ret == -EIO;
	pthread_mutex_unlock(&t->lock);
}

/* 200 reads, or writes, of different sectors. */
static struct batch *batch_submit(struct block *b, enum block_op op)
{
	struct batch *t = calloc(1, sizeof(*t));

	pthread_mutex_init(&t->lock, NULL);
	for (unsigned i = 0; i < 200; i++) {
		t->iov[i] = (struct iovec){ t->buf[i], 512 };
		t->r[i] = (struct block_req){ .op = op,
					      .off = i * 512,
					      .len = 512,
					      .iov = &t->iov[i],
					      .iovcnt = 1,
					      .done = batch_done,
					      .opaque = t };
		t->p[i] = &t->r[i];
	}
	block_submit(b, t->p, 200);
	return t;
}

/* ---- tests ---- */

static void data_goes_both_ways(void **state)
{
	const u16 flags[] = { 0, SEND_FLUSH | SEND_TRIM | SEND_ZEROES | MULTI_CONN };
	static u8 a[MiB(9)], b[MiB(9)];

	(void)state;
	for (size_t i = 0; i < sizeof(a); i++)
		a[i] = (u8)(i * 7 >> 3);
	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
		struct server *s = server_new(flags[i]);
		struct block *d = open_at(s, 0);

		assert_int_equal(block_size(d), SIZE);
		assert_int_equal(block_write(d, 512, a, sizeof(a), 0), 0);
		assert_int_equal(block_read(d, 512, b, sizeof(b)), 0);
		assert_memory_equal(a, b, sizeof(a));
		assert_int_equal(block_sync(d), 0);
		assert_int_equal(block_zero(d, 1024, MiB(5), 0), 0);
		assert_int_equal(block_discard(d, 0, SIZE), 0);
		assert_int_equal(s->connections, flags[i] & MULTI_CONN ? 4 : 1);
		assert_int_equal(s->commands[FLUSH], flags[i] & SEND_FLUSH ? 1 : 0);
		assert_int_equal(s->commands[TRIM], flags[i] & SEND_TRIM ? 1 : 0);
		assert_int_equal(s->commands[ZEROES], flags[i] & SEND_ZEROES ? 1 : 0);
		assert_int_equal(block_close(d), 0);
		server_end(s);
	}
}

static void no_answer_is_an_error_after_a_while(void **state)
{
	struct server *s = server_new(MULTI_CONN);
	struct block *d = open_at(s, 0);
	i64 start = fast_now();
	struct batch *t;

	(void)state;
	listen_to_log();
	set_mode(s, HANGS, -1);
	t = batch_submit(d, BLOCK_READ);
	block_drain(d);
	assert_int_equal(heard("the server is lost, requests fail: no answer"), 1);
	assert_int_equal(t->done, 200);
	assert_int_equal(t->failed, 200);
	/* 30 seconds, an attempt to connect, and how exactly it looks. */
	assert_in_range(fast_now() - start, 25 * NSEC_PER_SEC, 300 * NSEC_PER_SEC);
	free(t);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void stopping_does_not_wait_for_it(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 100);
	i64 start = fast_now();
	struct batch *t;
	u8 buf[512];

	(void)state;
	listen_to_log();
	set_mode(s, HANGS, -1);
	t = batch_submit(d, BLOCK_WRITE);
	/* The seconds it has count from the first time that it is said. */
	for (unsigned i = 0, done = 0; i < 9 && done < 200; i++) {
		block_hurry(d, true);
		seconds(3);
		pthread_mutex_lock(&t->lock);
		done = t->done;
		pthread_mutex_unlock(&t->lock);
	}
	block_drain(d);
	assert_int_equal(heard(s->uri), 1);
	assert_int_equal(t->done, 200);
	assert_int_equal(t->failed, 200);
	assert_in_range(fast_now() - start, 4 * NSEC_PER_SEC, 28 * NSEC_PER_SEC);
	assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	/* And when it goes on there is another one. */
	set_mode(s, ANSWERS, -1);
	block_hurry(d, false);
	listen_to_log();
	assert_int_equal(block_read(d, 0, buf, 512), 0);
	assert_int_equal(heard("connected again"), 1);
	free(t);
	block_hurry(d, true);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void it_comes_back(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 0);
	unsigned tries = 0;
	u8 buf[512];

	(void)state;
	listen_to_log();
	set_mode(s, HANGS_UP, READ);
	assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	set_mode(s, ANSWERS, -1);
	while (block_read(d, 0, buf, 512) && tries++ < 200)
		seconds(1);
	assert_in_range(tries, 0, 100);
	assert_int_equal(s->connections, 2);
	assert_int_equal(heard(NULL), 2); /* lost, connected again */
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

/* It answers no read, but takes each connection. */
static void a_server_that_comes_and_goes_fills_no_log(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 0);
	i64 end = fast_now() + 40 * NSEC_PER_SEC;
	u8 buf[512];

	(void)state;
	listen_to_log();
	set_mode(s, HANGS_UP, READ);
	while (fast_now() < end)
		assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	assert_in_range(s->connections, 3, 8);
	assert_in_range(heard(NULL), 3, 16);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void requests_wait_for_it(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 60);
	struct batch *t;
	i64 start;

	(void)state;
	server_gone(s);
	t = batch_submit(d, BLOCK_WRITE);
	seconds(10);
	pthread_mutex_lock(&t->lock);
	assert_int_equal(t->done, 0);
	pthread_mutex_unlock(&t->lock);
	server_listen(s);
	block_drain(d);
	assert_int_equal(t->done, 200);
	assert_int_equal(t->failed, 0);
	assert_int_equal(s->commands[WRITE], 200);
	free(t);
	/* But not for longer than was said. */
	server_gone(s);
	start = fast_now();
	t = batch_submit(d, BLOCK_READ);
	block_drain(d);
	assert_int_equal(t->failed, 200);
	assert_in_range(fast_now() - start, 50 * NSEC_PER_SEC, 300 * NSEC_PER_SEC);
	free(t);
	server_listen(s);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

/* What was written and not flushed may be gone with a server: the next flush says so. */
static void what_may_be_lost_is_not_lost_silently(void **state)
{
	struct server *s = server_new(SEND_FLUSH);
	struct block *d = open_at(s, 60);
	u8 buf[512] = { 0 };

	(void)state;
	listen_to_log();
	assert_int_equal(block_write(d, 0, buf, 512, 0), 0);
	assert_int_equal(block_sync(d), 0);
	server_gone(s);
	server_listen(s);
	/* All of it is stable. */
	assert_int_equal(block_sync(d), 0);
	assert_int_equal(block_write(d, 0, buf, 512, 0), 0);
	server_gone(s);
	server_listen(s);
	assert_int_equal(block_read(d, 0, buf, 512), 0);
	assert_int_equal(block_sync(d), -EIO);
	assert_int_equal(block_sync(d), 0);
	assert_int_equal(heard("may be lost too"), 1);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void another_disk_is_not_taken_for_it(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 30);
	u8 buf[512];

	(void)state;
	server_gone(s);
	s->size = SIZE / 2;
	listen_to_log();
	server_listen(s);
	assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	assert_int_equal(heard("another size"), 1);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void errors_and_nonsense(void **state)
{
	struct server *s = server_new(0);
	struct block *d = open_at(s, 0);
	u8 buf[512];

	(void)state;
	listen_to_log();
	set_mode(s, FAILS, READ);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	assert_int_equal(s->connections, 1);
	assert_int_equal(heard(NULL), 1);
	set_mode(s, BABBLES, READ);
	listen_to_log();
	assert_int_equal(block_read(d, 0, buf, 512), -EIO);
	assert_int_equal(heard("the server is lost"), 1);
	assert_int_equal(block_close(d), 0);
	server_end(s);
}

static void one_that_says_nothing_is_not_waited_for(void **state)
{
	struct server *s = server_new(0);
	const struct block_config cfg = { .file = s->uri,
					  .format = "raw",
					  .host = &fast };
	i64 start = fast_now();
	struct error err = { 0 };
	struct block *b;

	(void)state;
	set_mode(s, SAYS_NOTHING, -1);
	assert_int_equal(block_open(&b, &cfg, &err), -EIO);
	assert_non_null(strstr(err.msg, s->path));
	assert_non_null(strstr(err.msg, "no answer"));
	assert_in_range(fast_now() - start, 25 * NSEC_PER_SEC, 300 * NSEC_PER_SEC);
	server_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data_goes_both_ways),
		cmocka_unit_test(no_answer_is_an_error_after_a_while),
		cmocka_unit_test(stopping_does_not_wait_for_it),
		cmocka_unit_test(it_comes_back),
		cmocka_unit_test(a_server_that_comes_and_goes_fills_no_log),
		cmocka_unit_test(requests_wait_for_it),
		cmocka_unit_test(what_may_be_lost_is_not_lost_silently),
		cmocka_unit_test(another_disk_is_not_taken_for_it),
		cmocka_unit_test(errors_and_nonsense),
		cmocka_unit_test(one_that_says_nothing_is_not_waited_for),
	};

	fast = hostio_linux;
	fast.now = fast_now;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
