/*
 * Virtio block device over a disk image.
 */
#pragma once

#include "virtio/virtio.h"

struct block;
struct virtio_blk;

#define VIRTIO_BLK_QUEUES_MAX 16
#define VIRTIO_BLK_SERIAL_MAX 20

struct virtio_blk_setup {
	struct block *block;               /* borrowed; nobody else uses it */
	unsigned queues;                   /* 1 to VIRTIO_BLK_QUEUES_MAX */
	u16 queue_size;                    /* a power of two up to VQ_SIZE_MAX; 0: that */
	u32 logical_block, physical_block; /* bytes, powers of two from 512; 0: 512 */
	const char *serial;                /* or NULL; what is too long is cut off */
	bool write_cache_off;              /* begin in write-through mode */
};

struct virtio_blk *virtio_blk_new(struct phys *phys, const struct virtio_blk_setup *cfg);
/* Nothing is in flight: after virtio_reset(). */
void virtio_blk_free(struct virtio_blk *d);
struct virtio *virtio_blk_core(struct virtio_blk *d);

/* The image has another size now. Any thread. */
void virtio_blk_resized(struct virtio_blk *d);

extern const struct state_desc virtio_blk_desc;
void virtio_blk_save(struct virtio_blk *d, struct state_buf *b, u32 instance);
int virtio_blk_load(struct virtio_blk *d, struct state_buf *b, u32 instance,
		    struct error *err);
