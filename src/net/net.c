/*
 * A network: its thread, the frames that wait for the guest, offloads, recording.
 *
 * The thread waits for the descriptors of the backend and for net_kick(). Frames for a
 * guest without receive buffers wait in a bounded queue; meanwhile backends read
 * no more from the host, so that senders there are slowed down and nothing is lost.
 *
 * Waking a thread costs more than sending a small frame, and the guest's interrupt for
 * what was sent would find its vCPU halted. So while the thread waits somebody else may
 * work in its place, between net_enter() and net_leave(), which wakes it only if there
 * is something else to wait for by then.
 *
 * And a guest that waits for answers has a CPU halted whenever one comes. When that has
 * been so for some time the thread goes in reserve, and who halts waits for the
 * descriptors, between net_stand_in() and net_stood_in(). Between two such times nobody
 * does. So the thread looks every millisecond, and takes its place again when nothing was
 * caught since, or it gets work by net_kick(). An idle network has it wait as ever.
 *
 * Lock: n->lock, held by who works: all state is under it, but what is said to be atomic.
 * Above the locks of devices.
 */
#include "net/net.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "net/backend.h"
#include "net/offload.h"

/* Frames that wait for the guest: from LOW on nothing is read, beyond MAX dropped. */
#define WAITING_LOW 32
#define WAITING_MAX 1024

/* So many times in a row, without a kick, a CPU has halted before something came. */
#define STAND_AFTER 8
#define LOOK_MS     1
/* So often somebody who stands in must catch something in so many looks: else it is not
 * worth them. */
#define LOOKS       20
#define CATCH       10

struct waiting {
	struct waiting *next;
	struct net_frame f;
	u8 data[];
};

struct net {
	struct net_backend be;
	struct net_client client;
	char *id;
	unsigned mtu;
	struct pcap *pcap;
	pthread_t thread;
	bool running;
	int wake;          /* eventfd */
	bool kicked, stop; /* atomic */
	pthread_mutex_t lock;
	int waiter; /* 'wake' of who waits for descriptors; -1: nobody */
	/* What is waited for until 'deadline', and what should be by now. */
	struct net_poll polled, wanted;
	i64 deadline;        /* CLOCK_MONOTONIC, nanoseconds */
	pthread_cond_t left; /* 'waiter' has become -1 */
	bool asleep;         /* atomic: the thread waits, others may enter */
	bool reserve;        /* atomic: it does not wait for descriptors */
	u32 halts;           /* atomic: that found nothing to stand in for */
	unsigned in_step;    /* times that something came after a halt */
	u64 caught, seen;    /* by who stood in; at the last look */
	u64 seen_first;      /* before these looks */
	unsigned looks;
	bool reopened; /* a descriptor is another one since 'polled' */
	bool outdated; /* 'polled' is not 'wanted' */
	bool sent;     /* who entered has sent something */
	struct waiting *first, **last;
	unsigned waiting;
	struct net_stats stats;
};

int net_poll_add(struct net_poll *p, int fd, short events)
{
	if (p->count == p->cap) {
		unsigned cap = p->cap ? 2 * p->cap : 16;
		struct pollfd *fds = reallocarray(p->fds, cap, sizeof(*fds));

		if (!fds)
			return -1;
		p->fds = fds;
		p->cap = cap;
	}
	p->fds[p->count] = (struct pollfd){ .fd = fd, .events = events };
	return (int)p->count++;
}

static void count(u64 *n, u64 by)
{
	__atomic_store_n(n, *n + by, __ATOMIC_RELAXED);
}

/* ---- to the guest ---- */

static void wait_in_line(struct net *n, const struct net_frame *f)
{
	struct waiting *w = n->waiting < WAITING_MAX ? malloc(sizeof(*w) + f->len) : NULL;

	if (!w) {
		count(&n->stats.dropped, 1);
		return;
	}
	w->next = NULL;
	w->f = *f;
	w->f.data = w->data;
	memcpy(w->data, f->data, f->len);
	*n->last = w;
	n->last = &w->next;
	n->waiting++;
}

static void pop_waiting(struct net *n)
{
	struct waiting *w = n->first;

	n->first = w->next;
	if (!n->first)
		n->last = &n->first;
	n->waiting--;
	free(w);
}

static enum net_result give(struct net *n, struct net_frame *f)
{
	u32 len = f->len;
	enum net_result r = n->client.receive(n->client.opaque, f);

	if (r == NET_DONE) {
		count(&n->stats.received, 1);
		count(&n->stats.received_bytes, len);
	} else if (r == NET_DROPPED) {
		count(&n->stats.dropped, 1);
	}
	return r;
}

void net_deliver(struct net *n, struct net_frame *f)
{
	if (!net_offload_valid(f)) {
		count(&n->stats.dropped, 1);
		return;
	}
	if (n->pcap)
		pcap_frame(n->pcap, f->data, f->len);
	if (n->first || give(n, f) == NET_FULL)
		wait_in_line(n, f);
}

bool net_wants(const struct net *n)
{
	return n->waiting < WAITING_LOW;
}

static void deliver_waiting(struct net *n)
{
	while (n->first && give(n, &n->first->f) != NET_FULL)
		pop_waiting(n);
}

/* ---- from the guest ---- */

static void send_plain(void *opaque, struct net_frame *f)
{
	struct net *n = opaque;

	if (n->pcap)
		pcap_frame(n->pcap, f->data, f->len);
	n->be.ops->send(n->be.opaque, f);
}

void net_send(struct net *n, struct net_frame *f)
{
	if (!net_offload_valid(f)) {
		count(&n->stats.dropped, 1);
		return;
	}
	n->sent = true;
	count(&n->stats.sent, 1);
	count(&n->stats.sent_bytes, f->len);
	if (n->be.ops->offloads) {
		send_plain(n, f);
		return;
	}
	if (f->off.gso_type && !n->be.ops->big) {
		if (!net_segment(f, send_plain, n))
			count(&n->stats.dropped, 1);
		return;
	}
	net_checksum(f);
	send_plain(n, f);
}

/* ---- waiting ---- */

static bool takes(const struct net *n)
{
	return !n->be.ops->takes || n->be.ops->takes(n->be.opaque);
}

static i64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (i64)t.tv_sec * NSEC_PER_SEC + t.tv_nsec;
}

/* Collect what is to be waited for, 'wake' first. False without memory. */
static bool fill(struct net *n, int wake, struct net_poll *p)
{
	p->count = 0;
	p->timeout = -1;
	if (net_poll_add(p, wake, POLLIN) < 0)
		return false;
	n->be.ops->fill(n->be.opaque, p);
	return true;
}

/* Nobody else touches 'polled' until end_wait(). */
static void begin_wait(struct net *n)
{
	const struct net_poll *p = &n->polled;

	n->deadline =
		p->timeout < 0 ? INT64_MAX : now_ns() + (i64)p->timeout * NSEC_PER_MSEC;
	n->reopened = n->outdated = false;
	n->waiter = p->fds[0].fd;
}

static void end_wait(struct net *n)
{
	n->waiter = -1;
	pthread_cond_broadcast(&n->left);
}

/* Lock held, but for the time in which it sleeps: 'p', of which the first is its own. */
static void thread_poll(struct net *n, struct pollfd *p, unsigned count, int timeout)
{
	u64 ignored;

	__atomic_store_n(&n->asleep, true, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&n->lock);
	if (poll(p, count, timeout) < 0)
		for (unsigned i = 0; i < count; i++)
			p[i].revents = 0;
	/* Before waiting for the lock: it is our turn. */
	__atomic_store_n(&n->asleep, false, __ATOMIC_RELAXED);
	pthread_mutex_lock(&n->lock);
	if (p[0].revents && read(n->wake, &ignored, sizeof(ignored)) < 0)
		ignored = 0; /* somebody else's wake-up was read with it */
}

static void sleep_until_ready(struct net *n)
{
	begin_wait(n);
	thread_poll(n, n->polled.fds, n->polled.count, n->polled.timeout);
	end_wait(n);
}

/* Has anything come? */
static bool is_ready(const struct net_poll *p)
{
	for (unsigned i = 1; i < p->count; i++)
		if (p->fds[i].revents)
			return true;
	return false;
}

static void wake_up(int fd)
{
	u64 one = 1;

	/* Cannot fail: the counter does not come near its end. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

/* ---- others in its place ---- */

/* The thread has waited, and nothing is left to be sent: should others from now on? What
 * may block is not for a CPU. */
static void consider_reserve(struct net *n)
{
	if (!is_ready(&n->polled))
		return;
	if (!__atomic_exchange_n(&n->halts, 0, __ATOMIC_RELAXED) || n->pcap ||
	    n->be.waits) {
		n->in_step = 0;
		return;
	}
	if (++n->in_step < STAND_AFTER)
		return;
	n->in_step = n->looks = 0;
	n->seen = n->seen_first = n->caught;
	__atomic_store_n(&n->reserve, true, __ATOMIC_RELAXED);
}

/* Nobody else waits from now on. */
static void relieve(struct net *n)
{
	__atomic_store_n(&n->reserve, false, __ATOMIC_RELAXED);
	while (n->waiter >= 0) {
		n->outdated = true;
		wake_up(n->waiter);
		pthread_cond_wait(&n->left, &n->lock);
	}
}

/* False: somebody waits for what may come. */
static bool stay_in_reserve(struct net *n)
{
	struct pollfd own = { .fd = n->wake, .events = POLLIN };

	thread_poll(n, &own, 1, LOOK_MS);
	if (own.revents || (n->waiter < 0 && n->caught == n->seen))
		relieve(n);
	n->seen = n->caught;
	if (++n->looks < LOOKS)
		return n->waiter < 0;
	if (n->caught - n->seen_first < CATCH)
		relieve(n);
	n->seen_first = n->caught;
	n->looks = 0;
	return n->waiter < 0;
}

bool net_stand_in(struct net *n, int wake, struct net_wait *w)
{
	const struct net_poll *p = &n->polled;
	bool may;

	if (!__atomic_load_n(&n->reserve, __ATOMIC_RELAXED)) {
		__atomic_store_n(&n->halts, 1, __ATOMIC_RELAXED);
		return false;
	}
	if (pthread_mutex_trylock(&n->lock))
		return false;
	may = __atomic_load_n(&n->reserve, __ATOMIC_RELAXED) && n->waiter < 0 &&
	      !__atomic_load_n(&n->stop, __ATOMIC_RELAXED) && fill(n, wake, &n->polled);
	if (may) {
		begin_wait(n);
		*w = (struct net_wait){ p->fds, p->count, p->timeout };
	}
	pthread_mutex_unlock(&n->lock);
	return may;
}

void net_stood_in(struct net *n)
{
	pthread_mutex_lock(&n->lock);
	end_wait(n);
	n->caught += is_ready(&n->polled);
	deliver_waiting(n);
	if (!n->outdated)
		n->be.ops->ready(n->be.opaque, &n->polled);
	pthread_mutex_unlock(&n->lock);
}

/* ---- the thread ---- */

static void *net_thread(void *opaque)
{
	struct net *n = opaque;
	bool more = false;

	pthread_setname_np(pthread_self(), "net");
	pthread_mutex_lock(&n->lock);
	while (!__atomic_load_n(&n->stop, __ATOMIC_ACQUIRE)) {
		bool reserve;

		if (more && n->reserve)
			relieve(n);
		reserve = n->reserve;
		if (reserve && !stay_in_reserve(n))
			continue;
		if (!fill(n, n->wake, &n->polled))
			break;
		if ((more && takes(n)) || reserve)
			n->polled.timeout = 0;
		else if (n->pcap)
			pcap_flush(n->pcap);
		sleep_until_ready(n);
		/* Before looking: whoever kicks from now on wakes us again. */
		if (__atomic_exchange_n(&n->kicked, false, __ATOMIC_SEQ_CST)) {
			more = true;
			n->in_step = 0;
		}
		deliver_waiting(n);
		if (!more && !reserve)
			consider_reserve(n);
		/* What was found out about others than those that count is for nobody. */
		if (!n->outdated)
			n->be.ops->ready(n->be.opaque, &n->polled);
		if (more && takes(n))
			more = n->client.transmit(n->client.opaque);
	}
	relieve(n);
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

void net_reopened(struct net *n)
{
	n->reopened = true;
}

bool net_enter(struct net *n)
{
	/* A recording may be to a pipe, and nobody may read that. */
	if (n->pcap || n->be.waits || !__atomic_load_n(&n->asleep, __ATOMIC_RELAXED) ||
	    pthread_mutex_trylock(&n->lock))
		return false;
	n->sent = false;
	if (__atomic_load_n(&n->asleep, __ATOMIC_RELAXED) && takes(n))
		return true;
	pthread_mutex_unlock(&n->lock);
	return false;
}

/* Is what is waited for what should be? */
static bool waits_well(const struct net *n)
{
	const struct net_poll *is = &n->polled, *should = &n->wanted;

	if (n->reopened || is->count != should->count)
		return false;
	for (unsigned i = 0; i < is->count; i++)
		if (is->fds[i].fd != should->fds[i].fd ||
		    is->fds[i].events != should->fds[i].events)
			return false;
	/* They are rounded, down. */
	return should->timeout < 0 ||
	       now_ns() + (should->timeout + 1ll) * NSEC_PER_MSEC >= n->deadline;
}

/* Something was sent, and perhaps somebody waits. */
static void tell_waiter(struct net *n)
{
	if (n->waiter < 0) {
		if (n->be.ops->flush)
			n->be.ops->flush(n->be.opaque);
		return;
	}
	if ((!fill(n, n->waiter, &n->wanted) || !waits_well(n)) && !n->outdated) {
		n->outdated = true;
		wake_up(n->waiter);
	}
}

void net_leave(struct net *n)
{
	if (n->sent)
		tell_waiter(n);
	pthread_mutex_unlock(&n->lock);
}

void net_kick(struct net *n)
{
	if (!__atomic_exchange_n(&n->kicked, true, __ATOMIC_SEQ_CST))
		wake_up(n->wake);
}

int net_attach(struct net *n, const struct net_client *c, struct error *err)
{
	sigset_t all, old;
	int ret;

	n->client = *c;
	n->stop = false;
	/* Signals belong to the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&n->thread, NULL, net_thread, n);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return error_set(err, -ret, "network %s: no thread: %s", n->id,
				 strerror(ret));
	n->running = true;
	return 0;
}

void net_detach(struct net *n)
{
	if (!n->running)
		return;
	__atomic_store_n(&n->stop, true, __ATOMIC_RELEASE);
	wake_up(n->wake);
	pthread_join(n->thread, NULL);
	n->running = false;
	while (n->first)
		pop_waiting(n);
}

/* ---- set-up ---- */

static void none_fill(void *backend, struct net_poll *p)
{
	(void)backend;
	(void)p;
}

static void none_ready(void *backend, const struct net_poll *p)
{
	(void)backend;
	(void)p;
}

static void none_send(void *backend, const struct net_frame *f)
{
	(void)backend;
	(void)f;
}

static void none_close(void *backend)
{
	(void)backend;
}

/* A cable with nobody at the other end. */
static const struct net_ops none_ops = {
	.fill = none_fill,
	.ready = none_ready,
	.send = none_send,
	.close = none_close,
	.big = true,
};

static int open_backend(struct net *n, const struct net_config *cfg, struct error *err)
{
	switch (cfg->kind) {
	case NET_USER: return net_user_open(&n->be, n, cfg, err);
	case NET_TAP: return net_tap_open(&n->be, n, cfg, err);
	case NET_STREAM:
	case NET_DGRAM: return net_socket_open(&n->be, n, cfg, err);
	default: n->be.ops = &none_ops; return 0;
	}
}

int net_open(struct net **out, const struct net_config *cfg, struct error *err)
{
	struct net *n = xzalloc(sizeof(*n));
	int ret;

	n->id = xstrdup(cfg->id ? cfg->id : "");
	n->last = &n->first;
	n->mtu = cfg->mtu ? cfg->mtu : 1500;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->left, NULL);
	n->waiter = -1;
	n->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (n->wake < 0) {
		ret = error_set(err, -errno, "network %s: %s", n->id, strerror(errno));
		goto fail;
	}
	ret = open_backend(n, cfg, err);
	if (!ret && cfg->pcap)
		ret = pcap_open(&n->pcap, cfg->pcap, cfg->clk, err);
	if (ret)
		goto fail;
	*out = n;
	return 0;
fail:
	net_close(n);
	return ret;
}

void net_close(struct net *n)
{
	if (!n)
		return;
	net_detach(n);
	if (n->be.ops)
		n->be.ops->close(n->be.opaque);
	pcap_close(n->pcap);
	if (n->wake >= 0)
		close(n->wake);
	pthread_cond_destroy(&n->left);
	pthread_mutex_destroy(&n->lock);
	free(n->polled.fds);
	free(n->wanted.fds);
	free(n->id);
	free(n);
}

unsigned net_mtu(const struct net *n)
{
	return n->mtu;
}

const char *net_id(const struct net *n)
{
	return n->id;
}

void net_get_stats(const struct net *n, struct net_stats *s)
{
	const u64 *from = &n->stats.sent;
	u64 *to = &s->sent;

	for (size_t i = 0; i < sizeof(*s) / sizeof(u64); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
