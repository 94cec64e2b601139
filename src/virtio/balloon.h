/*
 * Virtio memory balloon: memory that the guest does not use goes back to the host.
 */
#pragma once

#include "virtio/virtio.h"

struct loop;
struct virtio_balloon;

struct virtio_balloon_setup {
	bool deflate_on_oom; /* the guest may take pages back when it has no memory */
	bool reporting;      /* it reports free pages by itself */
	u64 target;          /* bytes that the balloon should have at first */
};

/* Numbers of the guest as the driver last told them; UINT64_MAX: not told. By
 * tag, 5.5.6.3. */
#define VIRTIO_BALLOON_STATS 10

struct virtio_balloon_stats {
	u64 val[VIRTIO_BALLOON_STATS];
	u64 updates; /* how often they were told */
	u64 actual;  /* bytes in the balloon */
	u64 freed;   /* bytes given back to the host so far, by balloon and reports */
};

struct virtio_balloon *virtio_balloon_new(struct phys *phys, struct loop *loop,
					  const struct virtio_balloon_setup *cfg);
void virtio_balloon_free(struct virtio_balloon *d);
struct virtio *virtio_balloon_core(struct virtio_balloon *d);

/* ---- Any thread ---- */

/* How many bytes the balloon should have. */
void virtio_balloon_set_target(struct virtio_balloon *d, u64 bytes);
/* Ask the driver for new numbers. False: it has not answered the last time yet. */
bool virtio_balloon_poll_stats(struct virtio_balloon *d);
void virtio_balloon_get_stats(struct virtio_balloon *d, struct virtio_balloon_stats *s);

extern const struct state_desc virtio_balloon_desc;
void virtio_balloon_save(struct virtio_balloon *d, struct state_buf *b, u32 instance);
int virtio_balloon_load(struct virtio_balloon *d, struct state_buf *b, u32 instance,
			struct error *err);
