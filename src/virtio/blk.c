/*
 * Virtio block device.
 *
 * Virtual I/O Device specification 1.2, section 5.2: reads, writes, flush, discard, write
 * zeroes, identification; several queues; write cache toggle. Deliberately missing:
 * secure erase, lifetime, zoned devices, SCSI commands.
 *
 * A chain is a header of 16 bytes, data, and a status byte, cut into descriptors in any
 * way. What is wrong with a request is its status; a chain without room for a status
 * has none, and means DEVICE_NEEDS_RESET.
 *
 * I1 A request that block_submit() has is counted by virtio_get(), until its chain was
 * pushed. I2 At most as many requests exist as the queues have entries; they are reused.
 *
 * Lock: the virtio's. Requests are submitted on vCPU threads and done on the block
 * layer's. What the host has in its memory is done at once by block_try().
 */
#include "virtio/blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/block.h"

/* Larger ones find memory where they are read, on another thread. */
#define BACK_MAX     MiB(1)
#define HEADER_SIZE  16u
#define RANGE_SIZE   16u /* struct virtio_blk_discard_write_zeroes */
#define BATCH        32u
/* What is longer is not copied on a vCPU's thread, unless io_uring would do so. */
#define INLINE_READ  MiB(1)
#define INLINE_WRITE KiB(256)
/* Of one discard or write-zeroes request: fits a u32 of bytes. */
#define SECTORS_MAX  ((u32)(GiB(2) / BLOCK_SECTOR))

struct virtio_blk_state {
	u8 writeback; /* as the driver set it */
};

static const struct state_field blk_fields[] = {
	STATE_FIELD(struct virtio_blk_state, writeback, 1),
	{ 0 },
};

static bool blk_valid(const void *state)
{
	const struct virtio_blk_state *s = state;

	return s->writeback <= 1;
}

const struct state_desc virtio_blk_desc = {
	.name = "virtio_blk",
	.size = sizeof(struct virtio_blk_state),
	.version = 1,
	.fields = blk_fields,
	.valid = blk_valid,
};

struct request {
	struct block_req r;
	struct virtio_blk *d;
	struct request *next; /* free */
	unsigned queue;
	u32 in_data; /* bytes of data for the guest, when it succeeds */
	struct vq_chain chain;
	struct iovec data[VQ_SIZE_MAX];
};

struct virtio_blk {
	struct virtio v;
	struct virtio_blk_state s;
	struct virtio_blk_setup cfg;
	struct block *block;
	char serial[VIRTIO_BLK_SERIAL_MAX];
	struct request *free;
	unsigned requests, requests_max;
	bool starved; /* no memory for a request: look again when one is done */
};

static struct virtio_blk *blk_of(struct virtio *v)
{
	return container_of(v, struct virtio_blk, v);
}

/* ---- requests; lock held ---- */

static struct request *request_get(struct virtio_blk *d)
{
	struct request *r = d->free;

	if (r) {
		d->free = r->next;
		return r;
	}
	if (d->requests == d->requests_max) /* I2 */
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	d->requests++;
	r->d = d;
	return r;
}

static void request_put(struct virtio_blk *d, struct request *r)
{
	r->next = d->free;
	d->free = r;
}

static u8 status_of(int ret)
{
	return !ret              ? VIRTIO_BLK_S_OK
	       : ret == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP
				 : VIRTIO_BLK_S_IOERR;
}

/* Answer; the status is the last byte that the driver gave. */
static void request_end(struct request *r, u8 status)
{
	struct vq_chain *c = &r->chain;
	u32 written = status == VIRTIO_BLK_S_OK ? r->in_data : 0, last = c->in_len - 1;
	unsigned i = c->out + c->in - 1;

	/* 2.7.8.2: the length counts what was written from the beginning on, without gap.
	 */
	/* Also when a reset waits for it: until it is put, the memory is ours. */
	vq_write(c, last, &status, 1);
	phys_note_write(r->d->v.phys, c->gpa[i] + c->iov[i].iov_len - 1, 1);
	virtio_push(&r->d->v, r->queue, c, written == last ? last + 1 : written);
	request_put(r->d, r);
}

static void request_done(struct block_req *br, int ret)
{
	struct request *r = container_of(br, struct request, r);
	struct virtio_blk *d = r->d;
	unsigned n = r->queue;

	pthread_mutex_lock(&d->v.lock);
	request_end(r, status_of(ret));
	virtio_publish(&d->v, n);
	virtio_put(&d->v, n);
	if (d->starved) {
		d->starved = false;
		for (unsigned i = 0; i < d->cfg.queues; i++)
			virtio_notified(&d->v, i);
	}
	pthread_mutex_unlock(&d->v.lock);
}

/* ---- parsing; lock held ---- */

/* Bytes [off, off + len) of 'n' buffers. Returns how many buffers that makes. */
static unsigned slice(const struct iovec *iov, unsigned n, u32 off, u32 len,
		      struct iovec *out)
{
	unsigned k = 0;

	for (unsigned i = 0; i < n && len; i++) {
		size_t have = iov[i].iov_len, take;

		if (off >= have) {
			off -= (u32)have;
			continue;
		}
		take = MIN(have - off, (size_t)len);
		out[k].iov_base = (u8 *)iov[i].iov_base + off;
		out[k++].iov_len = take;
		len -= (u32)take;
		off = 0;
	}
	return k;
}

/* 5.2.6.4: without a way to flush, or with the cache off, a write is stable when done. */
static bool write_through(const struct virtio_blk *d)
{
	if (virtio_has(&d->v, VIRTIO_BLK_F_CONFIG_WCE))
		return !d->s.writeback;
	return !virtio_has(&d->v, VIRTIO_BLK_F_FLUSH);
}

static u8 prepare_io(struct request *r, bool write, u64 sector)
{
	struct vq_chain *c = &r->chain;
	u32 len = write ? c->out_len - HEADER_SIZE : c->in_len - 1;

	if (sector > UINT64_MAX / BLOCK_SECTOR || len % BLOCK_SECTOR || !len)
		return VIRTIO_BLK_S_IOERR;
	r->r.op = write ? BLOCK_WRITE : BLOCK_READ;
	r->r.flags = write && write_through(r->d) ? BLOCK_FUA : 0;
	r->r.off = sector * BLOCK_SECTOR;
	r->r.len = len;
	r->r.iov = r->data;
	r->r.iovcnt = write ? slice(c->iov, c->out, HEADER_SIZE, len, r->data)
			    : slice(c->iov + c->out, c->in, 0, len, r->data);
	r->in_data = write ? 0 : len;
	if (!write && len <= BACK_MAX)
		for (unsigned i = c->out; i < c->out + c->in; i++)
			phys_back_range(r->d->v.phys, c->gpa[i], c->iov[i].iov_len);
	return VIRTIO_BLK_S_OK;
}

/* Discard and write zeroes: one range, as the configuration says. */
static u8 prepare_range(struct request *r, bool zero)
{
	struct vq_chain *c = &r->chain;
	struct virtio_blk *d = r->d;
	u8 range[RANGE_SIZE];
	u64 sector, sectors = block_size(d->block) / BLOCK_SECTOR;
	u32 count, flags;

	if (c->out_len != HEADER_SIZE + RANGE_SIZE)
		return VIRTIO_BLK_S_UNSUPP;
	vq_read(c, HEADER_SIZE, range, sizeof(range));
	sector = le_load(range, 8);
	count = (u32)le_load(range + 8, 4);
	flags = (u32)le_load(range + 12, 4);
	/* 5.2.6.2: unknown flags, or unmap for a discard. */
	if (flags & ~(zero ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return VIRTIO_BLK_S_UNSUPP;
	if (count > SECTORS_MAX || sector > sectors || count > sectors - sector)
		return VIRTIO_BLK_S_IOERR;
	r->r.op = zero ? BLOCK_ZERO : BLOCK_DISCARD;
	r->r.flags =
		(flags ? BLOCK_UNMAP : 0) | (zero && write_through(d) ? BLOCK_FUA : 0u);
	r->r.off = sector * BLOCK_SECTOR;
	r->r.len = (u64)count * BLOCK_SECTOR;
	r->r.iov = NULL;
	r->r.iovcnt = 0;
	return VIRTIO_BLK_S_OK;
}

static void get_id(struct request *r)
{
	u32 n = MIN(r->chain.in_len - 1, (u32)VIRTIO_BLK_ID_BYTES);

	vq_write(&r->chain, 0, r->d->serial, n);
	r->in_data = n;
}

/* OK: 'r' is ready to be submitted, or *answered. Otherwise the status to answer with. */
static u8 parse(struct request *r, bool *answered)
{
	struct virtio *v = &r->d->v;
	u8 header[HEADER_SIZE];

	*answered = false;
	r->in_data = 0;
	if (vq_read(&r->chain, 0, header, sizeof(header)) != sizeof(header))
		return VIRTIO_BLK_S_IOERR;
	switch (le_load(header, 4)) {
	case VIRTIO_BLK_T_IN: return prepare_io(r, false, le_load(header + 8, 8));
	case VIRTIO_BLK_T_OUT:
		if (block_readonly(r->d->block))
			return VIRTIO_BLK_S_IOERR;
		return prepare_io(r, true, le_load(header + 8, 8));
	case VIRTIO_BLK_T_FLUSH:
		r->r.op = BLOCK_FLUSH;
		r->r.flags = 0;
		r->r.off = r->r.len = 0;
		r->r.iovcnt = 0;
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		*answered = true;
		return VIRTIO_BLK_S_OK;
	case VIRTIO_BLK_T_DISCARD:
		if (!virtio_has(v, VIRTIO_BLK_F_DISCARD))
			return VIRTIO_BLK_S_UNSUPP;
		return prepare_range(r, false);
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (!virtio_has(v, VIRTIO_BLK_F_WRITE_ZEROES))
			return VIRTIO_BLK_S_UNSUPP;
		return prepare_range(r, true);
	default: return VIRTIO_BLK_S_UNSUPP;
	}
}

static bool fits_inline(const struct block_req *r)
{
	return (r->op == BLOCK_READ && r->len <= INLINE_READ) ||
	       (r->op == BLOCK_WRITE && r->len <= INLINE_WRITE &&
		!(r->flags & BLOCK_FUA));
}

/* Answered at once, or to be submitted: then it is counted. */
static bool begin(struct request *r)
{
	struct virtio_blk *d = r->d;
	bool answered;
	u8 status = parse(r, &answered);

	if (status != VIRTIO_BLK_S_OK || answered) {
		request_end(r, status);
		return false;
	}
	r->r.done = request_done;
	if (fits_inline(&r->r) && block_try(d->block, &r->r)) {
		request_end(r, status_of(r->r.p.ret));
		return false;
	}
	virtio_get(&d->v, r->queue); /* I1 */
	return true;
}

/* ---- queues; lock held ---- */

/* One chain: 1: in *r when it is to be submitted, else NULL; 0: there is none. */
static bool take(struct virtio_blk *d, unsigned n, struct request **out)
{
	struct request *r = request_get(d);

	*out = NULL;
	if (!r) {
		d->starved = true;
		return false;
	}
	if (!virtio_pop(&d->v, n, &r->chain)) {
		request_put(d, r);
		return false;
	}
	r->queue = n;
	if (!r->chain.in_len) {
		request_put(d, r);
		virtio_break(&d->v, "a request without a status byte");
		return false;
	}
	if (begin(r))
		*out = r;
	return true;
}

static void blk_notify(struct virtio *v, unsigned n)
{
	struct virtio_blk *d = blk_of(v);
	struct vq *q = &v->vq[n];
	struct block_req *batch[BATCH];
	struct request *r;
	unsigned count = 0, left = q->s.size;

	vq_notify_off(q);
	do {
		while (left && take(d, n, &r)) {
			left--;
			if (r)
				batch[count++] = &r->r;
			if (count == BATCH) {
				block_submit(d->block, batch, count);
				count = 0;
			}
		}
		/* A guest that fills faster than it is served notifies again. */
	} while (virtio_runs(v, n) && vq_notify_on(q) && left && !d->starved);
	if (count)
		block_submit(d->block, batch, count);
	virtio_publish(v, n);
}

/* ---- configuration ---- */

static void blk_config_read(struct virtio *v, u8 *config)
{
	struct virtio_blk *d = blk_of(v);
	struct virtio_blk_config c = {
		.capacity = block_size(d->block) / BLOCK_SECTOR,
		.seg_max = d->cfg.queue_size - 2u,
		.blk_size = d->cfg.logical_block,
		.physical_block_exp =
			(u8)__builtin_ctz(d->cfg.physical_block / d->cfg.logical_block),
		.min_io_size = (u16)(d->cfg.physical_block / d->cfg.logical_block),
		.wce = d->s.writeback,
		.num_queues = (u16)d->cfg.queues,
		.max_discard_sectors = SECTORS_MAX,
		.max_discard_seg = 1,
		.discard_sector_alignment = d->cfg.logical_block / BLOCK_SECTOR,
		.max_write_zeroes_sectors = SECTORS_MAX,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = block_can_discard(d->block),
	};

	memcpy(config, &c, v->config_size);
}

static void blk_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	struct virtio_blk *d = blk_of(v);

	/* 5.2.5.1: only the cache mode, and only when agreed on. */
	if (off == offsetof(struct virtio_blk_config, wce) && size == 1 &&
	    virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
		d->s.writeback = val & 1;
}

static void blk_stop(struct virtio *v, int n)
{
	struct virtio_blk *d = blk_of(v);

	d->starved = false;
	if (n < 0)
		d->s.writeback = !d->cfg.write_cache_off;
}

static const struct virtio_class blk_class = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.class_code = 0x010000,
	.notify = blk_notify,
	.config_read = blk_config_read,
	.config_write = blk_config_write,
	.stop = blk_stop,
};

/* ---- set-up and state ---- */

struct virtio_blk *virtio_blk_new(struct phys *phys, const struct virtio_blk_setup *cfg)
{
	struct virtio_blk *d = xzalloc(sizeof(*d));
	u64 features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
		       BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
		       BIT(VIRTIO_BLK_F_CONFIG_WCE);

	d->cfg = *cfg;
	d->block = cfg->block;
	if (!d->cfg.queue_size)
		d->cfg.queue_size = VQ_SIZE_MAX;
	if (!d->cfg.logical_block)
		d->cfg.logical_block = BLOCK_SECTOR;
	d->cfg.physical_block = MAX(cfg->physical_block, d->cfg.logical_block);
	if (cfg->serial)
		memcpy(d->serial, cfg->serial,
		       strnlen(cfg->serial, VIRTIO_BLK_SERIAL_MAX));
	d->cfg.serial = NULL;
	d->s.writeback = !cfg->write_cache_off;
	if (cfg->queues > 1)
		features |= BIT(VIRTIO_BLK_F_MQ);
	if (block_readonly(cfg->block))
		features |= BIT(VIRTIO_BLK_F_RO);
	else
		features |= BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_BLK_F_DISCARD);
	virtio_init(&d->v, &blk_class, phys, features, sizeof(struct virtio_blk_config));
	for (unsigned i = 0; i < cfg->queues; i++)
		virtio_add_queue(&d->v, d->cfg.queue_size);
	d->requests_max = cfg->queues * d->cfg.queue_size;
	return d;
}

void virtio_blk_free(struct virtio_blk *d)
{
	if (!d)
		return;
	while (d->free) {
		struct request *r = d->free;

		d->free = r->next;
		free(r);
	}
	virtio_fini(&d->v);
	free(d);
}

struct virtio *virtio_blk_core(struct virtio_blk *d)
{
	return &d->v;
}

void virtio_blk_resized(struct virtio_blk *d)
{
	pthread_mutex_lock(&d->v.lock);
	virtio_config_changed(&d->v);
	pthread_mutex_unlock(&d->v.lock);
}

void virtio_blk_save(struct virtio_blk *d, struct state_buf *b, u32 instance)
{
	pthread_mutex_lock(&d->v.lock);
	state_save(b, &virtio_blk_desc, instance, &d->s);
	pthread_mutex_unlock(&d->v.lock);
}

int virtio_blk_load(struct virtio_blk *d, struct state_buf *b, u32 instance,
		    struct error *err)
{
	int ret;

	pthread_mutex_lock(&d->v.lock);
	ret = state_load(b, &virtio_blk_desc, instance, &d->s, err);
	pthread_mutex_unlock(&d->v.lock);
	return ret;
}
