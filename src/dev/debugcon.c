/*
 * Debug console at port e9h: what is written goes out, a read answers that it is here.
 *
 * The convention of Bochs ("port_e9_hack"): a read gives e9h, which firmware
 * takes as the sign that somebody listens. There is no state and no interrupt.
 * Lock: 'lock' keeps the bytes of several vCPUs apart on their way to the sink.
 */
#include "dev/debugcon.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"

struct debugcon {
	struct chardev_sink out;
	u8 readback;
	pthread_mutex_t lock;
};

static u64 debugcon_read(void *dev, u64 off, unsigned size)
{
	const struct debugcon *d = dev;

	(void)off;
	(void)size;
	return d->readback;
}

static void debugcon_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct debugcon *d = dev;
	u8 byte = (u8)val;

	(void)off;
	(void)size;
	pthread_mutex_lock(&d->lock);
	(void)chardev_write(&d->out, &byte, 1);
	pthread_mutex_unlock(&d->lock);
}

const struct io_ops debugcon_ops = {
	.read = debugcon_read,
	.write = debugcon_write,
	.sizes = IO_1,
};

struct debugcon *debugcon_new(struct chardev_sink out, u8 readback)
{
	struct debugcon *d = xzalloc(sizeof(*d));

	pthread_mutex_init(&d->lock, NULL);
	d->out = out;
	d->readback = readback;
	return d;
}

void debugcon_free(struct debugcon *d)
{
	if (!d)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}
