/* Who halts waits in the place of the network's thread, and hands back what it took. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/net.h"

enum { LEN = 100 };

/* A guest with one CPU, which waits for a frame each time, and the cable's other end. */
struct rig {
	struct net *n;
	int peer, wake;
	pthread_t cpu;
	atomic_bool stop, waits;
	atomic_uint received, by_cpu, sent;
	atomic_uint
		halted_at; /* as many had been received when it last had nothing to do */
	atomic_bool may_send;
};

static bool transmit(void *opaque)
{
	struct rig *r = opaque;
	u8 data[LEN] = { 0 };
	struct net_frame f = { .data = data, .len = LEN };

	if (atomic_exchange(&r->may_send, false)) {
		net_send(r->n, &f);
		r->sent++;
	}
	return false;
}

static enum net_result receive(void *opaque, struct net_frame *f)
{
	struct rig *r = opaque;

	assert_int_equal(f->len, LEN);
	if (pthread_equal(pthread_self(), r->cpu))
		r->by_cpu++;
	r->received++;
	return NET_DONE;
}

static void wait_in_place(struct rig *r)
{
	unsigned seen = r->received;
	struct net_wait w;
	u64 n;

	if (!net_stand_in(r->n, r->wake, &w)) {
		r->halted_at = seen;
		while (r->received == seen && !r->stop)
			usleep(20);
		return;
	}
	r->waits = true;
	r->halted_at = seen;
	assert_int_equal(w.fds[0].fd, r->wake);
	poll(w.fds, w.count, w.timeout);
	if (w.fds[0].revents)
		assert_int_equal(read(r->wake, &n, sizeof(n)), sizeof(n));
	r->waits = false;
	net_stood_in(r->n);
}

static void *cpu(void *opaque)
{
	struct rig *r = opaque;

	while (!r->stop)
		wait_in_place(r);
	return NULL;
}

static void start(struct rig *r)
{
	struct net_client c = { transmit, receive, r };
	struct net_config cfg = { .kind = NET_STREAM };
	struct error err = { 0 };
	int fds[2];

	*r = (struct rig){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	r->peer = fds[0];
	cfg.fd = fds[1];
	r->wake = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(net_open(&r->n, &cfg, &err), 0);
	assert_int_equal(pthread_create(&r->cpu, NULL, cpu, r), 0);
	assert_int_equal(net_attach(r->n, &c, &err), 0);
}

static void stop(struct rig *r)
{
	u64 one = 1;

	r->stop = true;
	assert_int_equal(write(r->wake, &one, sizeof(one)), sizeof(one));
	pthread_join(r->cpu, NULL);
	net_close(r->n);
	close(r->peer);
	close(r->wake);
}

static void put_frame(struct rig *r)
{
	u8 frame[4 + LEN] = { 0, 0, 0, LEN };

	assert_int_equal(write(r->peer, frame, sizeof(frame)), sizeof(frame));
}

/* For as long as a busy host may need. */
#define UNTIL(condition)                                                                 \
	do {                                                                             \
		unsigned tries = 0;                                                      \
                                                                                         \
		while (!(condition)) {                                                   \
			if (++tries == 200000)                                           \
				fail_msg("not in 20 seconds: %s", #condition);           \
			usleep(100);                                                     \
		}                                                                        \
	} while (0)

/* A frame, when the CPU has nothing to do since the last one. */
static void exchange(struct rig *r)
{
	unsigned before = r->received;

	UNTIL(r->halted_at == before);
	put_frame(r);
	UNTIL(r->received == before + 1);
}

static bool exchange_and(struct rig *r, bool done)
{
	if (!done)
		exchange(r);
	return done;
}

/* Until the CPU has seen to some. */
static void converse(struct rig *r)
{
	unsigned before = r->by_cpu;

	UNTIL(exchange_and(r, r->by_cpu >= before + 20));
}

static void the_cpu_takes_over(void **state)
{
	struct rig r;

	(void)state;
	start(&r);
	converse(&r);
	/* While it waits the network goes away. */
	UNTIL(exchange_and(&r, r.waits));
	net_detach(r.n);
	assert_false(r.waits);
	stop(&r);
}

/* Nothing comes for some time: the thread waits again, and the CPU is let go. */
static void the_thread_takes_back(void **state)
{
	struct rig r;
	unsigned by_cpu;

	(void)state;
	start(&r);
	for (unsigned i = 0; i < 3; i++) {
		converse(&r);
		UNTIL(!r.waits && r.halted_at == r.received);
		usleep(50000);
		UNTIL(!r.waits);
		by_cpu = r.by_cpu;
		exchange(&r);
		assert_int_equal(r.by_cpu, by_cpu);
	}
	net_detach(r.n);
	stop(&r);
}

/* What the guest sends in bulk is the thread's, also while somebody stands in, and not
 * only when that has nothing else to do. */
static void kicks_are_heard(void **state)
{
	struct rig r;

	(void)state;
	start(&r);
	for (unsigned i = 0; i < 20; i++) {
		converse(&r);
		r.may_send = true;
		net_kick(r.n);
		UNTIL(exchange_and(&r, r.sent == i + 1));
	}
	net_detach(r.n);
	stop(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_cpu_takes_over),
		cmocka_unit_test(the_thread_takes_back),
		cmocka_unit_test(kicks_are_heard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
