/*
 * Virtio entropy device.
 *
 * Virtual I/O Device specification 1.2, section 5.4: one queue of buffers to be filled.
 * Has no state but the queue's. A buffer gets at most FILL_MAX bytes, which the
 * specification allows, and one notification at most a ring full of buffers; the rest is
 * done on the event loop.
 *
 * Lock: the virtio's. getrandom() does not wait once the host has booted.
 */
#include "virtio/rng.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/loop.h"

#define QUEUE_SIZE 16
#define FILL_MAX   4096u

struct virtio_rng {
	struct virtio v;
	struct loop *loop;
	struct loop_work again;
	struct vq_chain chain;
};

/* How many bytes were put there. */
static u32 fill(const struct vq_chain *c)
{
	u8 buf[256];
	u32 done = 0, want = MIN(c->in_len, FILL_MAX);

	while (done < want) {
		u32 n = MIN(want - done, (u32)sizeof(buf));

		/* Up to 256 bytes come whole and are not interrupted. */
		if (getrandom(buf, n, GRND_NONBLOCK) != (ssize_t)n)
			break;
		vq_write(c, done, buf, n);
		done += n;
	}
	return done;
}

static void rng_notify(struct virtio *v, unsigned n)
{
	struct virtio_rng *r = container_of(v, struct virtio_rng, v);
	unsigned left = QUEUE_SIZE;

	do {
		while (left && virtio_pop(v, n, &r->chain)) {
			virtio_push(v, n, &r->chain, fill(&r->chain));
			left--;
		}
	} while (virtio_runs(v, n) && vq_notify_on(&v->vq[n]) && left);
	virtio_publish(v, n);
	if (!left && virtio_runs(v, n) && vq_ready(&v->vq[n]))
		loop_post(r->loop, &r->again);
}

static void rng_again(void *opaque)
{
	struct virtio_rng *r = opaque;

	pthread_mutex_lock(&r->v.lock);
	virtio_notified(&r->v, 0);
	pthread_mutex_unlock(&r->v.lock);
}

static const struct virtio_class rng_class = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.class_code = 0x00ff00,
	.notify = rng_notify,
};

struct virtio_rng *virtio_rng_new(struct phys *phys, struct loop *loop)
{
	struct virtio_rng *r = xzalloc(sizeof(*r));

	virtio_init(&r->v, &rng_class, phys, 0, 0);
	virtio_add_queue(&r->v, QUEUE_SIZE);
	r->loop = loop;
	r->again = (struct loop_work){ .run = rng_again, .opaque = r };
	return r;
}

void virtio_rng_free(struct virtio_rng *r)
{
	if (!r)
		return;
	loop_unpost(r->loop, &r->again);
	virtio_fini(&r->v);
	free(r);
}

struct virtio *virtio_rng_core(struct virtio_rng *r)
{
	return &r->v;
}
