/*
 * What all virtio devices share, without a transport: status, features, queues, reset.
 *
 * A device embeds a struct virtio, a transport (pci.h, mmio.h) drives it. Both keep to
 * one lock, v->lock. Guest accesses come on vCPU threads; a device may do its work on any
 * thread, and calls in with the lock held.
 *
 * Reset at any time: chains that somebody else works on without the lock are counted
 * by virtio_get() and virtio_put(). While there are some, a reset asked for by the guest
 * is pending: the status register does not read 0 yet, and nothing touches the queues;
 * what is done meanwhile is dropped. The last virtio_put() completes the reset.
 */
#pragma once

#include <linux/virtio_config.h> /* features that are no device's, chapter 6 */
#include <linux/virtio_ids.h>    /* device types, chapter 5 */
#include <linux/virtio_ring.h>
#include <pthread.h>

#include "base/error.h"
#include "state/save.h"
#include "virtio/queue.h"

#define VIRTIO_QUEUES_MAX 32
#define VIRTIO_NO_VECTOR  0xffff

/* Device status, 2.1. */
enum {
	VIRTIO_ACKNOWLEDGE = 1,
	VIRTIO_DRIVER = 2,
	VIRTIO_DRIVER_OK = 4,
	VIRTIO_FEATURES_OK = 8,
	VIRTIO_NEEDS_RESET = 64,
	VIRTIO_FAILED = 128,
};

struct virtio;

/* A kind of device. All but one are called with the lock held. */
struct virtio_class {
	const char *name;
	u16 id;
	u32 class_code; /* of a PCI function */
	/* The driver notified queue 'n', which is enabled. vCPU thread, or the loop's. */
	void (*notify)(struct virtio *v, unsigned n);
	/*
	 * Before that, and without the lock: true when all is done. vCPU thread; 'n' is
	 * what the driver wrote. May be NULL.
	 */
	bool (*at_once)(struct virtio *v, unsigned n);
	/* The whole configuration space, 'v->config_size' bytes. NULL: it has none. */
	void (*config_read)(struct virtio *v, u8 *config);
	/* [off, off + size) lies within it. NULL: it is read-only. */
	void (*config_write)(struct virtio *v, u32 off, u32 val, unsigned size);
	/* The driver is ready: DRIVER_OK was set. May be NULL. */
	void (*start)(struct virtio *v);
	/*
	 * A reset: of the device, or of queue 'n' when that is not negative. Forget what
	 * waits; chains under way are waited for by the caller. May be NULL.
	 */
	void (*stop)(struct virtio *v, int n);
};

/* How the transport interrupts. Lock held. */
struct virtio_transport {
	void (*queue_irq)(void *opaque, unsigned queue);
	void (*config_irq)(void *opaque);
	void *opaque;
};

/* Guest-visible state that is not a queue's. */
struct virtio_state {
	u64 driver_features;
	u32 device_feature_select, driver_feature_select;
	u16 queue_select;
	u16 config_vector;
	u8 status;
	u8 isr;
	u8 generation;
	u8 legacy; /* the driver uses the legacy interface */
};

extern const struct state_desc virtio_desc;

struct virtio {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* busy became 0, or a queue's reset is done */
	struct virtio_state s;
	const struct virtio_class *class;
	struct phys *phys;
	struct virtio_transport transport;
	u64 features; /* offered */
	u32 config_size;
	unsigned queues;
	unsigned busy;        /* sum of the queues' */
	bool resetting;       /* a reset waits for busy == 0 */
	bool paused;          /* nothing is popped; true at first */
	bool generation_seen; /* the driver looked at the generation since it last changed
			       */
	struct vq vq[VIRTIO_QUEUES_MAX];
};

/* ---- for devices: set-up ---- */

/* 'features': what the device offers itself; rings and version 1 are added. */
void virtio_init(struct virtio *v, const struct virtio_class *class, struct phys *phys,
		 u64 features, u32 config_size);
void virtio_add_queue(struct virtio *v, u16 size_max);
void virtio_fini(struct virtio *v);

/* ---- for devices: lock held ---- */

static inline bool virtio_has(const struct virtio *v, unsigned feature)
{
	return v->s.driver_features >> feature & 1;
}

/* Chains may be popped: the machine runs, the driver is ready, nothing is broken. */
bool virtio_runs(const struct virtio *v, unsigned n);
/* The next chain of a queue, if it runs. A broken ring is told to the guest. */
bool virtio_pop(struct virtio *v, unsigned n, struct vq_chain *c);
/* vq_push(), unless the queue was reset meanwhile. */
void virtio_push(struct virtio *v, unsigned n, const struct vq_chain *c, u32 written);
/* Publish what was pushed, interrupt if wanted. */
void virtio_publish(struct virtio *v, unsigned n);
/* The guest broke a rule that cannot be answered otherwise: DEVICE_NEEDS_RESET. */
void virtio_break(struct virtio *v, const char *why);
/* The configuration changed: generation and interrupt. */
void virtio_config_changed(struct virtio *v);
/*
 * Somebody begins or ends to use a chain of queue 'n' without the lock. Put after
 * pushing; what was popped before a reset must not be touched after its put.
 */
void virtio_get(struct virtio *v, unsigned n);
void virtio_put(struct virtio *v, unsigned n);

/* ---- for transports: lock held ---- */

void virtio_set_status(struct virtio *v, u8 status);
u8 virtio_get_status(const struct virtio *v);
u32 virtio_get_features(const struct virtio *v);
void virtio_set_features(struct virtio *v, u32 low);
u8 virtio_get_generation(struct virtio *v);
/* The selected queue, NULL if there is none. */
struct vq *virtio_selected(struct virtio *v);
/* Both do nothing while the queue runs. 'area' is one of q->s, 'high' its upper half. */
void virtio_set_queue_size(struct vq *q, u32 size);
void virtio_set_area(struct vq *q, u64 *area, bool high, u32 val);
void virtio_enable_queue(struct virtio *v, struct vq *q);
/* Of the selected queue; RING_RESET is negotiated. */
void virtio_reset_queue(struct virtio *v, struct vq *q);
/* Wait until its reset is done. */
void virtio_drain_queue(struct virtio *v, const struct vq *q);
void virtio_notified(struct virtio *v, unsigned n);
/* The driver says that queue 'n' has something. Lock not held. */
void virtio_notify(struct virtio *v, unsigned n);
u32 virtio_config_read(struct virtio *v, u64 off, unsigned size);
void virtio_config_write(struct virtio *v, u64 off, u32 val, unsigned size);

/* ---- the board ---- */

/*
 * Stop and go on touching memory: around each stretch in which the machine runs. Pause
 * waits for what is under way, which other threads complete.
 */
void virtio_pause(struct virtio *v);
void virtio_resume(struct virtio *v);

/* ---- machine stopped ---- */

/* Wait until nobody uses a chain. Lock held. */
void virtio_drain(struct virtio *v);
void virtio_reset(struct virtio *v);
void virtio_save(struct virtio *v, struct state_buf *b, u32 instance);
int virtio_load(struct virtio *v, struct state_buf *b, u32 instance, struct error *err);
