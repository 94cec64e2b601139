/*
 * The event loop: one thread that waits for file descriptors and for the next timer.
 *
 * epoll with an eventfd that other threads wake it by, and epoll_pwait2() for
 * waits to the nanosecond (a kernel without it waits to the millisecond).
 *
 * I1 epoll hands out pointers to struct loop_fd, which another callback of the same
 *    batch may have removed: a removed one is only marked, and freed between batches.
 * I2 'running' is the object whose callback runs; whoever removes it from another
 *    thread waits on 'idle' until it is something else.
 *
 * Lock: 'lock' covers the lists, each loop_fd and 'running'; it is never held
 * during a callback. 'woken' and 'code' are atomics, so that waking is cheap and
 * loop_stop() can be called by a signal handler.
 */
#include "host/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"

#define BATCH 64

struct loop_fd {
	struct loop *loop;
	int fd;
	unsigned events;
	bool in_epoll; /* epoll watches it now */
	bool always;   /* epoll cannot: always ready */
	bool removed;
	void (*ready)(void *opaque, unsigned events);
	void *opaque;
	struct loop_fd *next;
};

struct loop {
	int epoll, wake;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	struct loop_fd *fds;
	struct loop_work *first, **last;
	const void *running;
	pthread_t thread;
	bool in_run, has_removed;
	bool no_pwait2;
	i64 (*next_ns)(void *opaque);
	void (*run_timers)(void *opaque);
	void *timer_opaque;
	u32 woken; /* atomic: the eventfd was written and not yet read */
	int code;  /* atomic: of loop_stop(), -1 before */
};

struct loop *loop_new(struct error *err)
{
	struct loop *l = xzalloc(sizeof(*l));
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };

	l->code = -1;
	l->last = &l->first;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0) {
		error_set(err, -errno, "event loop: epoll_create1: %s", strerror(errno));
		goto free_loop;
	}
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake < 0) {
		error_set(err, -errno, "event loop: eventfd: %s", strerror(errno));
		goto close_epoll;
	}
	if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &ev)) {
		error_set(err, -errno, "event loop: epoll_ctl: %s", strerror(errno));
		goto close_wake;
	}
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->idle, NULL);
	return l;

close_wake:
	close(l->wake);
close_epoll:
	close(l->epoll);
free_loop:
	free(l);
	return NULL;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	while (l->fds) {
		struct loop_fd *w = l->fds;

		l->fds = w->next;
		free(w);
	}
	close(l->wake);
	close(l->epoll);
	pthread_cond_destroy(&l->idle);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* Async-signal-safe. */
void loop_wake(struct loop *l)
{
	static const u64 one = 1;

	/*
	 * Pairs with the exchange in drain(): either the loop sees what we did before,
	 * or we see 'woken' clear and write. A full barrier, because the loop clears
	 * the flag first and looks at our work after.
	 */
	if (__atomic_exchange_n(&l->woken, 1, __ATOMIC_SEQ_CST))
		return;
	while (write(l->wake, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void drain(struct loop *l)
{
	u64 n;

	while (read(l->wake, &n, sizeof(n)) < 0 && errno == EINTR)
		;
	__atomic_exchange_n(&l->woken, 0, __ATOMIC_SEQ_CST);
}

void loop_stop(struct loop *l, int code)
{
	int none = -1;

	__atomic_compare_exchange_n(&l->code, &none, code, false, __ATOMIC_SEQ_CST,
				    __ATOMIC_SEQ_CST);
	loop_wake(l);
}

void loop_set_timer(struct loop *l, i64 (*next_ns)(void *opaque),
		    void (*run)(void *opaque), void *opaque)
{
	l->next_ns = next_ns;
	l->run_timers = run;
	l->timer_opaque = opaque;
}

/* ---- descriptors ---- */

static bool on_loop_thread(const struct loop *l)
{
	return l->in_run && pthread_equal(l->thread, pthread_self());
}

/* Make epoll agree with w->events. 0 or -errno; lock held. */
static int fd_update(struct loop *l, struct loop_fd *w)
{
	struct epoll_event ev = { .data.ptr = w };
	bool want = w->events && !w->removed;
	int op;

	if (w->always || (!want && !w->in_epoll))
		return 0;
	if (w->events & LOOP_READ)
		ev.events |= EPOLLIN;
	if (w->events & LOOP_WRITE)
		ev.events |= EPOLLOUT;
	op = !want ? EPOLL_CTL_DEL : w->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(l->epoll, op, w->fd, &ev)) {
		/* EPERM: a regular file, or a device that is always ready. */
		if (op != EPOLL_CTL_ADD || errno != EPERM)
			return -errno;
		w->always = true;
	}
	w->in_epoll = want && !w->always;
	return 0;
}

struct loop_fd *loop_add(struct loop *l, int fd, unsigned events,
			 void (*ready)(void *opaque, unsigned events), void *opaque,
			 struct error *err)
{
	struct loop_fd *w = xzalloc(sizeof(*w));
	int ret;

	*w = (struct loop_fd){
		.loop = l, .fd = fd, .events = events, .ready = ready, .opaque = opaque
	};
	pthread_mutex_lock(&l->lock);
	ret = fd_update(l, w);
	if (!ret) {
		w->next = l->fds;
		l->fds = w;
	}
	pthread_mutex_unlock(&l->lock);
	if (ret) {
		error_set(err, ret, "cannot watch descriptor %d: %s", fd, strerror(-ret));
		free(w);
		return NULL;
	}
	if (w->always)
		loop_wake(l);
	return w;
}

void loop_set_events(struct loop_fd *w, unsigned events)
{
	struct loop *l = w->loop;
	bool always;

	pthread_mutex_lock(&l->lock);
	if (!w->removed && w->events != events) {
		w->events = events;
		/* Fails only for a descriptor that its owner closed too early. */
		(void)fd_update(l, w);
	}
	always = w->always;
	pthread_mutex_unlock(&l->lock);
	if (always)
		loop_wake(l);
}

/* Wait until the callback of 'object' has returned; lock held. */
static void wait_idle(struct loop *l, const void *object)
{
	while (l->running == object && !on_loop_thread(l))
		pthread_cond_wait(&l->idle, &l->lock);
}

/* I1: free what was removed; between batches, lock held. */
static void free_removed(struct loop *l)
{
	struct loop_fd **at = &l->fds;

	l->has_removed = false;
	while (*at) {
		struct loop_fd *w = *at;

		if (w->removed) {
			*at = w->next;
			free(w);
		} else {
			at = &w->next;
		}
	}
}

void loop_remove(struct loop_fd *w)
{
	struct loop *l;

	if (!w)
		return;
	l = w->loop;
	pthread_mutex_lock(&l->lock);
	w->removed = true;
	l->has_removed = true;
	(void)fd_update(l, w);
	wait_idle(l, w); /* I2 */
	if (!l->in_run)
		free_removed(l);
	pthread_mutex_unlock(&l->lock);
}

/* ---- work ---- */

void loop_post(struct loop *l, struct loop_work *work)
{
	bool was;

	pthread_mutex_lock(&l->lock);
	was = work->queued;
	if (!was) {
		work->queued = true;
		work->next = NULL;
		*l->last = work;
		l->last = &work->next;
	}
	pthread_mutex_unlock(&l->lock);
	if (!was)
		loop_wake(l);
}

void loop_unpost(struct loop *l, struct loop_work *work)
{
	pthread_mutex_lock(&l->lock);
	for (struct loop_work **at = &l->first; *at; at = &(*at)->next) {
		if (*at != work)
			continue;
		*at = work->next;
		if (!*at)
			l->last = at;
		work->queued = false;
		break;
	}
	wait_idle(l, work); /* I2 */
	pthread_mutex_unlock(&l->lock);
}

/* Run what is queued now; what that queues waits for the next turn. */
static void run_work(struct loop *l)
{
	unsigned n = 0;

	pthread_mutex_lock(&l->lock);
	for (struct loop_work *w = l->first; w; w = w->next)
		n++;
	while (n-- && l->first) {
		struct loop_work *work = l->first;
		void (*run)(void *opaque) = work->run;
		void *opaque = work->opaque;

		l->first = work->next;
		if (!l->first)
			l->last = &l->first;
		work->queued = false;
		l->running = work;
		pthread_mutex_unlock(&l->lock);
		run(opaque); /* may free 'work' */
		pthread_mutex_lock(&l->lock);
		l->running = NULL;
		pthread_cond_broadcast(&l->idle);
	}
	if (l->first)
		loop_wake(l);
	pthread_mutex_unlock(&l->lock);
}

/* ---- the loop ---- */

/* Lock held; released during the callback. */
static void fd_ready(struct loop *l, struct loop_fd *w, unsigned events)
{
	if (w->removed || !w->events)
		return;
	events &= w->events | LOOP_HUP;
	if (!events)
		return;
	l->running = w;
	pthread_mutex_unlock(&l->lock);
	w->ready(w->opaque, events);
	pthread_mutex_lock(&l->lock);
	l->running = NULL;
	pthread_cond_broadcast(&l->idle);
}

static void dispatch(struct loop *l, const struct epoll_event *ev, int n)
{
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < n; i++) {
		struct loop_fd *w = ev[i].data.ptr;
		unsigned events = 0;

		if (!w)
			continue; /* the eventfd: drained by the caller */
		if (ev[i].events & EPOLLIN)
			events |= LOOP_READ;
		if (ev[i].events & EPOLLOUT)
			events |= LOOP_WRITE;
		if (ev[i].events & (EPOLLERR | EPOLLHUP))
			events |= LOOP_HUP;
		fd_ready(l, w, events);
	}
	/* New ones are put in front, and removed ones stay in the list: I1. */
	for (struct loop_fd *w = l->fds; w; w = w->next)
		if (w->always)
			fd_ready(l, w, w->events & (LOOP_READ | LOOP_WRITE));
	if (l->has_removed)
		free_removed(l);
	pthread_mutex_unlock(&l->lock);
}

static bool any_always_ready(struct loop *l)
{
	bool any = false;

	pthread_mutex_lock(&l->lock);
	for (const struct loop_fd *w = l->fds; w && !any; w = w->next)
		any = w->always && w->events && !w->removed;
	pthread_mutex_unlock(&l->lock);
	return any;
}

static int wait_events(struct loop *l, struct epoll_event *ev, i64 ns)
{
	struct timespec ts;
	int n;

	if (ns < 0)
		ns = 0;
	if (!l->no_pwait2) {
		ts.tv_sec = ns / NSEC_PER_SEC;
		ts.tv_nsec = ns % NSEC_PER_SEC;
		n = epoll_pwait2(l->epoll, ev, BATCH, ns == INT64_MAX ? NULL : &ts, NULL);
		/* EPERM: a container's system call filter that is older than the call. */
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		l->no_pwait2 = true;
	}
	/* Rounded up: waking early would only mean to wait again. */
	ns = ns == INT64_MAX ? -1 : MIN(ns / 1000000 + (ns % 1000000 != 0), INT32_MAX);
	return epoll_wait(l->epoll, ev, BATCH, (int)ns);
}

static void set_running(struct loop *l, bool in_run)
{
	pthread_mutex_lock(&l->lock);
	l->in_run = in_run;
	l->thread = pthread_self();
	free_removed(l);
	pthread_mutex_unlock(&l->lock);
}

int loop_run(struct loop *l)
{
	struct epoll_event ev[BATCH];
	int code;

	/* Timers of this thread are not late by the default slack of 50 us. */
	(void)prctl(PR_SET_TIMERSLACK, 1UL);
	set_running(l, true);
	while ((code = __atomic_load_n(&l->code, __ATOMIC_SEQ_CST)) < 0) {
		i64 ns = l->next_ns ? l->next_ns(l->timer_opaque) : INT64_MAX;
		int n;

		if (any_always_ready(l))
			ns = 0;
		n = wait_events(l, ev, ns);
		for (int i = 0; i < n; i++)
			if (!ev[i].data.ptr)
				drain(l);
		if (l->run_timers && l->next_ns(l->timer_opaque) <= 0)
			l->run_timers(l->timer_opaque);
		run_work(l);
		dispatch(l, ev, MAX(n, 0));
	}
	set_running(l, false);
	__atomic_store_n(&l->code, -1, __ATOMIC_SEQ_CST);
	return code;
}
