/* The cable of sockets: frames stay whole whatever the peer does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/net.h"

enum { LEN = 1400 };

struct rig {
	struct net *n;
	int peer;
	atomic_uint sent, received, wanted;
	u8 frame[LEN];
};

static bool transmit(void *opaque)
{
	struct rig *r = opaque;

	for (unsigned i = 0; i < 64 && r->sent < r->wanted; i++) {
		struct net_frame f = { .data = r->frame, .len = LEN };
		u32 number = r->sent;

		memcpy(r->frame + 20, &number, 4);
		net_send(r->n, &f);
		r->sent++;
	}
	return r->sent < r->wanted;
}

static enum net_result receive(void *opaque, struct net_frame *f)
{
	struct rig *r = opaque;

	if (f->len == LEN)
		r->received++;
	return NET_DONE;
}

static void start_with(struct rig *r, bool (*send)(void *opaque))
{
	struct net_client c = { send, receive, r };
	struct net_config cfg = { .kind = NET_STREAM };
	struct error err = { 0 };
	int fds[2];

	*r = (struct rig){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	r->peer = fds[0];
	cfg.fd = fds[1];
	assert_int_equal(net_open(&r->n, &cfg, &err), 0);
	assert_int_equal(net_attach(r->n, &c, &err), 0);
}

static void start(struct rig *r)
{
	start_with(r, transmit);
}

static void send_frames(struct rig *r, unsigned count)
{
	r->wanted = count;
	net_kick(r->n);
}

/* Wait until it is 'count'; false when that takes long. */
static bool reaches(atomic_uint *n, unsigned count)
{
	for (unsigned i = 0; i < 1000 && *n < count; i++)
		usleep(10000);
	return *n >= count;
}

static void read_all(int fd, void *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (u8 *)buf + done, len - done);

		assert_true(n > 0);
		done += (size_t)n;
	}
}

/* The next frame from the cable: its number. */
static u32 read_frame(struct rig *r)
{
	u8 head[4], data[LEN];
	u32 number;

	read_all(r->peer, head, 4);
	assert_int_equal(head[0] << 24 | head[1] << 16 | head[2] << 8 | head[3], LEN);
	read_all(r->peer, data, LEN);
	memcpy(&number, data + 20, 4);
	return number;
}

static void stop(struct rig *r)
{
	net_detach(r->n);
	net_close(r->n);
	close(r->peer);
}

/* A peer that reads slowly gets everything: the guest waits for it. */
static void nothing_is_lost_on_the_way(void **state)
{
	struct rig r;

	(void)state;
	start(&r);
	send_frames(&r, 20000);
	for (u32 i = 0; i < 20000; i++) {
		assert_int_equal(read_frame(&r), i);
		if (i % 2000 == 0)
			usleep(20000);
	}
	stop(&r);
}

/* One that does not read holds the guest up for a moment only, and loses whole frames. */
static void a_peer_that_hangs_loses_frames(void **state)
{
	u32 last = 0, got = 1;
	struct rig r;

	(void)state;
	start(&r);
	send_frames(&r, 10000);
	assert_true(reaches(&r.sent, 10000));
	assert_int_equal(read_frame(&r), 0);
	/* What is in the buffers, then what is sent now. */
	do {
		u32 number;

		if (got == 500)
			send_frames(&r, 10001);
		number = read_frame(&r);
		assert_true(number > last);
		last = number;
		got++;
	} while (last < 10000);
	assert_true(got < 10000);
	stop(&r);
}

/* Send as many frames as go through from this thread, in place of the network's. */
static unsigned send_from_here(struct rig *r)
{
	u8 frame[LEN] = { 0 };
	unsigned sent = 0;

	for (unsigned tries = 0; !sent && tries < 2000; tries++) {
		usleep(1000);
		while (net_enter(r->n)) {
			struct net_frame f = { .data = frame, .len = LEN };

			memcpy(frame + 20, &sent, 4);
			net_send(r->n, &f);
			net_leave(r->n);
			sent++;
		}
	}
	return sent;
}

/*
 * What a thread in the network's place leaves behind, as the peer does not read, the
 * network's own thread sends when it reads.
 */
static void what_others_leave_is_sent(void **state)
{
	unsigned sent;
	struct rig r;

	(void)state;
	start(&r);
	sent = send_from_here(&r);
	assert_true(sent > 0);
	for (u32 i = 0; i < sent; i++)
		assert_int_equal(read_frame(&r), i);
	stop(&r);
}

/* While it calls transmit(), it does not sleep. */
static bool enter_from_transmit(void *opaque)
{
	struct rig *r = opaque;

	if (!net_enter(r->n))
		r->sent++;
	return false;
}

static void a_network_at_work_is_not_entered(void **state)
{
	struct rig r;

	(void)state;
	start_with(&r, enter_from_transmit);
	net_kick(r.n);
	assert_true(reaches(&r.sent, 1));
	stop(&r);
}

static void frames_come_in_any_pieces(void **state)
{
	u8 buf[3 * (4 + LEN)] = { 0 };
	struct rig r;

	(void)state;
	start(&r);
	for (unsigned i = 0; i < 3; i++) {
		buf[i * (4 + LEN) + 2] = LEN >> 8;
		buf[i * (4 + LEN) + 3] = LEN & 0xff;
	}
	for (size_t at = 0; at < sizeof(buf); at += 701) {
		size_t part = sizeof(buf) - at < 701 ? sizeof(buf) - at : 701;

		assert_int_equal(write(r.peer, buf + at, part), part);
		usleep(2000);
	}
	assert_true(reaches(&r.received, 3));
	stop(&r);
}

static void a_length_that_cannot_be_ends_it(void **state)
{
	static const u8 bad[][4] = { { 0, 0, 0, 1 }, { 0xff, 0xff, 0xff, 0xff } };
	struct rig r;
	char c;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		start(&r);
		assert_int_equal(write(r.peer, bad[i], 4), 4);
		assert_int_equal(read(r.peer, &c, 1), 0);
		stop(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_on_the_way),
		cmocka_unit_test(a_peer_that_hangs_loses_frames),
		cmocka_unit_test(what_others_leave_is_sent),
		cmocka_unit_test(a_network_at_work_is_not_entered),
		cmocka_unit_test(frames_come_in_any_pieces),
		cmocka_unit_test(a_length_that_cannot_be_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
