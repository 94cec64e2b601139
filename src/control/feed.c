/*
 * A ring of bytes for a serial port's receiver.
 *
 * The port tells on the vCPU's thread that its FIFO has room, and is refilled right
 * there: a trip through the event loop for every 16 bytes would be slow. Only when the
 * ring itself runs low is the loop told, to bring more.
 *
 * Lock: 'lock' covers all; the port's own lock is taken inside it (serial_rx), so
 * nothing here may be called from a port's sink.
 */
#include "control/feed.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "dev/serial.h"
#include "host/loop.h"

struct feed {
	pthread_mutex_t lock;
	struct serial *port;
	u8 *buf;
	size_t size, tail, len;
	bool held;
	struct loop *loop;
	struct loop_work work;
};

/* Lock held. */
static void pump(struct feed *f)
{
	size_t before = f->len;

	while (f->len && !f->held) {
		size_t run = MIN(f->len, f->size - f->tail);
		size_t n = serial_rx(f->port, f->buf + f->tail,
				     MIN(run, serial_rx_room(f->port)));

		if (!n)
			break;
		f->tail = (f->tail + n) % f->size;
		f->len -= n;
	}
	/* Half of it, so that more comes before the port has to wait, and all. */
	if (f->loop && before != f->len &&
	    (!f->len || (before > f->size / 2 && f->len <= f->size / 2)))
		loop_post(f->loop, &f->work);
}

static void port_has_room(void *opaque)
{
	struct feed *f = opaque;

	pthread_mutex_lock(&f->lock);
	pump(f);
	pthread_mutex_unlock(&f->lock);
}

struct feed *feed_new(struct serial *port, size_t size)
{
	struct feed *f = xzalloc(sizeof(*f));

	pthread_mutex_init(&f->lock, NULL);
	f->port = port;
	f->buf = xzalloc(size);
	f->size = size;
	serial_set_room_notify(port, port_has_room, f);
	return f;
}

void feed_free(struct feed *f)
{
	if (!f)
		return;
	serial_set_room_notify(f->port, NULL, NULL);
	if (f->loop)
		loop_unpost(f->loop, &f->work);
	pthread_mutex_destroy(&f->lock);
	free(f->buf);
	free(f);
}

void feed_set_notify(struct feed *f, struct loop *loop, void (*drained)(void *opaque),
		     void *opaque)
{
	f->loop = loop;
	f->work = (struct loop_work){ .run = drained, .opaque = opaque };
}

void feed_hold(struct feed *f, bool hold)
{
	pthread_mutex_lock(&f->lock);
	f->held = hold;
	pump(f);
	pthread_mutex_unlock(&f->lock);
}

bool feed_put(struct feed *f, const void *buf, size_t len)
{
	size_t head, run;
	bool ok;

	pthread_mutex_lock(&f->lock);
	ok = len <= f->size - f->len;
	if (ok) {
		head = (f->tail + f->len) % f->size;
		run = MIN(len, f->size - head);
		memcpy(f->buf + head, buf, run);
		memcpy(f->buf, (const u8 *)buf + run, len - run);
		f->len += len;
		pump(f);
	}
	pthread_mutex_unlock(&f->lock);
	return ok;
}

size_t feed_room(struct feed *f)
{
	size_t room;

	pthread_mutex_lock(&f->lock);
	room = f->size - f->len;
	pthread_mutex_unlock(&f->lock);
	return room;
}

size_t feed_left(struct feed *f)
{
	size_t left;

	pthread_mutex_lock(&f->lock);
	left = f->len;
	pthread_mutex_unlock(&f->lock);
	return left;
}
