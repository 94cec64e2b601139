/*
 * Virtio memory balloon device.
 *
 * Virtual I/O Device specification 1.2, section 5.5: inflate, deflate, statistics, free
 * page reporting. Deliberately missing: free page hinting (for migration), page
 * poisoning.
 *
 * Pages that the guest gives are punched out of the memfd behind RAM: they read as
 * zeroes, and come back from the host when they are touched. So deflating needs
 * nothing. Only whole pages of RAM are taken, whatever the guest says; runs are given
 * back at once. The statistics' buffer is read and left in the ring until new ones are
 * wanted.
 *
 * Lock: the virtio's. The work is done on the event loop's thread, at most BATCH chains
 * at a time.
 */
#include "virtio/balloon.h"

#include <errno.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/loop.h"

#define QUEUE_SIZE 128
#define BATCH      16
#define PFNS_MAX   16384u /* of one chain; pages beyond it only stay where they are */
#define PFN_SHIFT  VIRTIO_BALLOON_PFN_SHIFT
#define STAT_SIZE  10u /* struct virtio_balloon_stat */

enum { INFLATE, DEFLATE, STATS, REPORT, QUEUES };

struct virtio_balloon_state {
	u32 target; /* pages; num_pages of the configuration */
	u32 actual; /* pages, as the driver says */
};

static const struct state_field balloon_fields[] = {
	STATE_FIELD(struct virtio_balloon_state, target, 1),
	STATE_FIELD(struct virtio_balloon_state, actual, 1),
	{ 0 },
};

const struct state_desc virtio_balloon_desc = {
	.name = "virtio_balloon",
	.size = sizeof(struct virtio_balloon_state),
	.version = 1,
	.fields = balloon_fields,
};

struct virtio_balloon {
	struct virtio v;
	struct virtio_balloon_state s;
	struct virtio_balloon_stats stats;
	struct loop *loop;
	struct loop_work work;
	bool polled; /* the statistics' buffer was returned and has not come back */
	struct vq_chain chain;
};

static struct virtio_balloon *balloon_of(struct virtio *v)
{
	return container_of(v, struct virtio_balloon, v);
}

/* What a queue is for depends on the features: those that are not there have no number.
 */
static unsigned role(const struct virtio_balloon *d, unsigned n)
{
	if (n >= STATS && !virtio_has(&d->v, VIRTIO_BALLOON_F_STATS_VQ))
		n++;
	return n;
}

/* ---- giving memory back; lock held ---- */

/* Whole pages within [gpa, gpa + len), if that is RAM. */
static void release(struct virtio_balloon *d, gpa_t gpa, u64 len)
{
	gpa_t from = align_up(gpa, PAGE_SIZE), to = align_down(gpa + len, PAGE_SIZE);

	if (from < gpa || to <= from || !phys_release(d->v.phys, from, to - from))
		return;
	d->stats.freed += to - from;
}

/* A list of page numbers, mostly runs upwards or downwards. */
static void inflate(struct virtio_balloon *d)
{
	u32 pfn[256];
	u64 first = 0, count = 0;

	for (u32 off = 0; off < MIN(d->chain.out_len, PFNS_MAX * (u32)sizeof(pfn[0]));) {
		u32 n = vq_read(&d->chain, off, pfn, sizeof(pfn)) / sizeof(pfn[0]);

		if (!n)
			break;
		off += n * (u32)sizeof(pfn[0]);
		for (u32 i = 0; i < n; i++) {
			if (count && pfn[i] == first + count) {
				count++;
			} else if (count && (u64)pfn[i] + 1 == first) {
				first--;
				count++;
			} else {
				release(d, first << PFN_SHIFT, count << PFN_SHIFT);
				first = pfn[i];
				count = 1;
			}
		}
	}
	release(d, first << PFN_SHIFT, count << PFN_SHIFT);
}

/* The buffers are the pages. */
static void report(struct virtio_balloon *d)
{
	for (unsigned i = d->chain.out; i < d->chain.out + d->chain.in; i++)
		release(d, d->chain.gpa[i], d->chain.iov[i].iov_len);
}

/* True when there is more to do. */
static bool serve(struct virtio_balloon *d, unsigned n)
{
	struct vq *q = &d->v.vq[n];
	unsigned left = BATCH;

	do {
		while (left && virtio_pop(&d->v, n, &d->chain)) {
			left--;
			switch (role(d, n)) {
			case INFLATE: inflate(d); break;
			case REPORT: report(d); break;
			default: break;
			}
			virtio_push(&d->v, n, &d->chain, 0);
		}
	} while (virtio_runs(&d->v, n) && vq_notify_on(q) && left);
	virtio_publish(&d->v, n);
	return !left && virtio_runs(&d->v, n) && vq_ready(q);
}

/* ---- statistics; lock held ---- */

static void read_stats(struct virtio_balloon *d)
{
	u8 stat[STAT_SIZE];

	for (u32 off = 0, i = 0;
	     i < 64 && vq_read(&d->chain, off, stat, STAT_SIZE) == STAT_SIZE;
	     off += STAT_SIZE, i++) {
		u32 tag = (u32)le_load(stat, 2);

		if (tag < VIRTIO_BALLOON_STATS)
			d->stats.val[tag] = le_load(stat + 2, 8);
	}
	d->stats.updates++;
}

static void look_at_stats(struct virtio_balloon *d, unsigned n)
{
	if (!virtio_pop(&d->v, n, &d->chain))
		return;
	read_stats(d);
	d->polled = false;
	vq_unpop(&d->v.vq[n], &d->chain);
}

bool virtio_balloon_poll_stats(struct virtio_balloon *d)
{
	bool asked = false;

	pthread_mutex_lock(&d->v.lock);
	if (virtio_has(&d->v, VIRTIO_BALLOON_F_STATS_VQ) && !d->polled &&
	    virtio_pop(&d->v, STATS, &d->chain)) {
		virtio_push(&d->v, STATS, &d->chain, 0);
		(void)vq_notify_on(&d->v.vq[STATS]);
		virtio_publish(&d->v, STATS);
		asked = d->polled = true;
	}
	pthread_mutex_unlock(&d->v.lock);
	return asked;
}

void virtio_balloon_get_stats(struct virtio_balloon *d, struct virtio_balloon_stats *s)
{
	pthread_mutex_lock(&d->v.lock);
	*s = d->stats;
	s->actual = (u64)d->s.actual << PFN_SHIFT;
	pthread_mutex_unlock(&d->v.lock);
}

/* ---- the device ---- */

static void balloon_notify(struct virtio *v, unsigned n)
{
	struct virtio_balloon *d = balloon_of(v);

	if (role(d, n) == STATS)
		look_at_stats(d, n);
	else
		loop_post(d->loop, &d->work);
}

static void balloon_work(void *opaque)
{
	struct virtio_balloon *d = opaque;
	bool more = false;

	pthread_mutex_lock(&d->v.lock);
	for (unsigned n = 0; n < d->v.queues; n++)
		if (role(d, n) != STATS)
			more |= serve(d, n);
	pthread_mutex_unlock(&d->v.lock);
	if (more)
		loop_post(d->loop, &d->work);
}

static void balloon_config_read(struct virtio *v, u8 *config)
{
	struct virtio_balloon *d = balloon_of(v);
	struct virtio_balloon_config c = { .num_pages = d->s.target,
					   .actual = d->s.actual };

	memcpy(config, &c, v->config_size);
}

static void balloon_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	struct virtio_balloon *d = balloon_of(v);

	if (off == offsetof(struct virtio_balloon_config, actual) && size == 4)
		d->s.actual = val;
}

static void forget_stats(struct virtio_balloon *d)
{
	for (unsigned i = 0; i < VIRTIO_BALLOON_STATS; i++)
		d->stats.val[i] = UINT64_MAX;
	d->polled = false;
}

static void balloon_stop(struct virtio *v, int n)
{
	struct virtio_balloon *d = balloon_of(v);

	forget_stats(d);
	if (n < 0)
		d->s.actual = 0;
}

static const struct virtio_class balloon_class = {
	.name = "virtio-balloon",
	.id = VIRTIO_ID_BALLOON,
	.class_code = 0x00ff00,
	.notify = balloon_notify,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.stop = balloon_stop,
};

static u32 pages(u64 bytes)
{
	return (u32)MIN(bytes >> PFN_SHIFT, (u64)UINT32_MAX);
}

struct virtio_balloon *virtio_balloon_new(struct phys *phys, struct loop *loop,
					  const struct virtio_balloon_setup *cfg)
{
	struct virtio_balloon *d = xzalloc(sizeof(*d));
	u64 features = BIT(VIRTIO_BALLOON_F_STATS_VQ);

	if (cfg->deflate_on_oom)
		features |= BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	if (cfg->reporting)
		features |= BIT(VIRTIO_BALLOON_F_REPORTING);
	d->loop = loop;
	d->work = (struct loop_work){ .run = balloon_work, .opaque = d };
	d->s.target = pages(cfg->target);
	forget_stats(d);
	virtio_init(&d->v, &balloon_class, phys, features,
		    offsetof(struct virtio_balloon_config, free_page_hint_cmd_id));
	for (unsigned i = 0; i < (cfg->reporting ? QUEUES : REPORT); i++)
		virtio_add_queue(&d->v, QUEUE_SIZE);
	return d;
}

void virtio_balloon_free(struct virtio_balloon *d)
{
	if (!d)
		return;
	loop_unpost(d->loop, &d->work);
	virtio_fini(&d->v);
	free(d);
}

struct virtio *virtio_balloon_core(struct virtio_balloon *d)
{
	return &d->v;
}

void virtio_balloon_set_target(struct virtio_balloon *d, u64 bytes)
{
	pthread_mutex_lock(&d->v.lock);
	d->s.target = pages(bytes);
	virtio_config_changed(&d->v);
	pthread_mutex_unlock(&d->v.lock);
}

void virtio_balloon_save(struct virtio_balloon *d, struct state_buf *b, u32 instance)
{
	pthread_mutex_lock(&d->v.lock);
	state_save(b, &virtio_balloon_desc, instance, &d->s);
	pthread_mutex_unlock(&d->v.lock);
}

int virtio_balloon_load(struct virtio_balloon *d, struct state_buf *b, u32 instance,
			struct error *err)
{
	int ret;

	pthread_mutex_lock(&d->v.lock);
	ret = state_load(b, &virtio_balloon_desc, instance, &d->s, err);
	pthread_mutex_unlock(&d->v.lock);
	return ret;
}
