/*
 * A ring of bytes and the thread that writes them to a file descriptor.
 *
 * The descriptor may be anything and blocking or not: it came from whoever started us,
 * and others may use the same open file, so its flags are left alone. After it was woken
 * the thread waits a moment for more: a serial port brings single bytes.
 *
 * Lock: 'lock' covers all but the notifications and 'fd', which are set before the thread
 * exists. It is not held while writing: bytes in [tail, tail + busy) belong to the
 * thread.
 */
#include "control/writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"

#define LINGER_NS    1000000
#define DRAIN_NAP_NS 10000000

struct writer {
	pthread_mutex_t lock;
	pthread_cond_t work; /* the thread waits for bytes or the end */
	pthread_cond_t idle; /* writer_drain() waits */
	u8 *buf;
	size_t size, tail, len;
	bool waiting; /* the thread does: wake it */
	bool starved; /* somebody was told that it is full */
	bool stop;
	bool started;
	int error;
	int fd;
	const char *what;
	pthread_t thread;
	void (*room)(void *opaque);
	void (*failed)(void *opaque);
	void *opaque;
};

struct writer *writer_new(const char *what, size_t size)
{
	struct writer *w = xzalloc(sizeof(*w));

	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	pthread_cond_init(&w->idle, NULL);
	w->buf = xzalloc(size);
	w->size = size;
	w->what = what;
	w->fd = -1;
	return w;
}

void writer_set_notify(struct writer *w, void (*room)(void *opaque),
		       void (*failed)(void *opaque), void *opaque)
{
	w->room = room;
	w->failed = failed;
	w->opaque = opaque;
}

/* Write some; blocks. How much was written, or -errno. */
static ssize_t write_some(int fd, const u8 *buf, size_t len)
{
	for (;;) {
		ssize_t n = write(fd, buf, len);

		if (n >= 0)
			return n;
		if (errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };

			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

/* Lock held; let go while writing. */
static void write_ring(struct writer *w)
{
	size_t run = MIN(w->len, w->size - w->tail);
	const u8 *from = w->buf + w->tail;
	bool tell = false;
	ssize_t n;

	pthread_mutex_unlock(&w->lock);
	n = write_some(w->fd, from, run);
	pthread_mutex_lock(&w->lock);
	if (n < 0) {
		w->error = (int)n;
		w->len = 0;
	} else {
		w->tail = (w->tail + (size_t)n) % w->size;
		w->len -= (size_t)n;
	}
	/* Not for every byte: when a good part is free. */
	if (w->starved && w->len <= w->size / 2) {
		w->starved = false;
		tell = true;
	}
	if (!w->len)
		pthread_cond_broadcast(&w->idle);
	if (!tell && n >= 0)
		return;
	pthread_mutex_unlock(&w->lock);
	if (n < 0 && w->failed)
		w->failed(w->opaque);
	if (tell && w->room)
		w->room(w->opaque);
	pthread_mutex_lock(&w->lock);
}

static void linger(struct writer *w)
{
	struct timespec ts = { .tv_nsec = LINGER_NS };

	pthread_mutex_unlock(&w->lock);
	nanosleep(&ts, NULL);
	pthread_mutex_lock(&w->lock);
}

static void *writer_thread(void *arg)
{
	struct writer *w = arg;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		if (w->len) {
			write_ring(w);
			continue;
		}
		w->waiting = true;
		pthread_cond_wait(&w->work, &w->lock);
		w->waiting = false;
		if (w->len && !w->stop)
			linger(w);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int writer_start(struct writer *w, int fd, struct error *err)
{
	int ret;

	w->fd = fd;
	ret = pthread_create(&w->thread, NULL, writer_thread, w);
	if (ret)
		return error_set(err, -ret, "cannot start a thread for %s: %s", w->what,
				 strerror(ret));
	w->started = true;
	return 0;
}

void writer_free(struct writer *w)
{
	if (!w)
		return;
	if (w->started) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_signal(&w->work);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
	}
	pthread_cond_destroy(&w->idle);
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w->buf);
	free(w);
}

size_t writer_put(struct writer *w, const u8 *buf, size_t len)
{
	size_t head, run;

	pthread_mutex_lock(&w->lock);
	if (w->error) {
		pthread_mutex_unlock(&w->lock);
		return len;
	}
	if (len > w->size - w->len) {
		len = w->size - w->len;
		w->starved = true;
	}
	head = (w->tail + w->len) % w->size;
	run = MIN(len, w->size - head);
	memcpy(w->buf + head, buf, run);
	memcpy(w->buf, buf + run, len - run);
	w->len += len;
	if (w->waiting && len)
		pthread_cond_signal(&w->work);
	pthread_mutex_unlock(&w->lock);
	return len;
}

void writer_drain(struct writer *w, unsigned seconds)
{
	const struct timespec nap = { .tv_nsec = DRAIN_NAP_NS };
	u64 naps = (u64)seconds * NSEC_PER_SEC / DRAIN_NAP_NS;

	pthread_mutex_lock(&w->lock);
	while (!seconds && w->started && w->len)
		pthread_cond_wait(&w->idle, &w->lock);
	while (w->started && w->len && naps--) {
		pthread_mutex_unlock(&w->lock);
		nanosleep(&nap, NULL);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
}

int writer_error(struct writer *w)
{
	int error;

	pthread_mutex_lock(&w->lock);
	error = w->error;
	pthread_mutex_unlock(&w->lock);
	return error;
}

static size_t sink_write(void *opaque, const u8 *buf, size_t len)
{
	return writer_put(opaque, buf, len);
}

struct chardev_sink writer_sink(struct writer *w)
{
	return (struct chardev_sink){ .write = sink_write, .opaque = w };
}
