/*
 * Virtio network device.
 */
#pragma once

#include "virtio/virtio.h"

struct net;
struct virtio_net;

#define VIRTIO_NET_PAIRS_MAX 8

struct virtio_net_setup {
	struct net *net; /* borrowed; nobody else uses it */
	u8 mac[6];
	unsigned pairs;  /* of queues, 1 to VIRTIO_NET_PAIRS_MAX */
	u16 queue_size;  /* a power of two up to VQ_SIZE_MAX; 0: that */
	u16 mtu;         /* told to the guest; 0: not told */
	bool no_offload; /* offer neither checksums nor segmentation */
	bool no_merge;   /* do not offer mergeable receive buffers */
};

struct virtio_net *virtio_net_new(struct phys *phys, const struct virtio_net_setup *cfg);
void virtio_net_free(struct virtio_net *d);
/* Starts the network's thread. Free stops it. */
int virtio_net_start(struct virtio_net *d, struct error *err);
struct virtio *virtio_net_core(struct virtio_net *d);

/* Plug the cable in or pull it. Any thread. */
void virtio_net_set_link(struct virtio_net *d, bool up);

extern const struct state_desc virtio_net_desc;
void virtio_net_save(struct virtio_net *d, struct state_buf *b, u32 instance);
int virtio_net_load(struct virtio_net *d, struct state_buf *b, u32 instance,
		    struct error *err);
