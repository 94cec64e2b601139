/*
 * A virtqueue in guest memory, split or packed, as the device sees it.
 *
 * The guest may write anything into the rings at any time: every word is read once,
 * checked, and then used. A ring that breaks the rules makes vq_pop() fail for good; the
 * owner then asks for a reset (virtio.h). No call here does more work than the
 * queue has entries.
 *
 * Locking is the owner's: one thread at a time for each queue. Buffers of a chain stay
 * valid host addresses without a lock, until phys_free().
 */
#pragma once

#include <sys/uio.h>

#include "base/types.h"
#include "mem/phys.h"
#include "state/desc.h"

#define VQ_SIZE_MAX 256 /* entries; no chain is longer than its queue (2.7.5, 2.8.6) */

/* Guest-visible state of one queue. */
struct vq_state {
	u64 desc, driver, device; /* areas, guest-physical */
	u16 size;                 /* entries */
	u16 enabled;
	u16 vector; /* MSI-X vector of the transport */
	/* Split: free-running indices. Packed: places in the ring. */
	u16 avail_idx, used_idx;
	u16 signalled; /* used_idx when the driver was last told */
	u8 avail_wrap; /* packed: wrap counters */
	u8 used_wrap;
	u8 signalled_valid; /* 'signalled' means something */
	u8 signalled_wrap;
};

extern const struct state_desc vq_desc;

struct vq {
	struct vq_state s;
	struct phys *phys;
	u16 size_max;
	bool packed, event_idx, indirect; /* negotiated */
	bool mapped;                      /* the three areas are RAM */
	u8 *desc, *driver, *device;       /* host addresses of the areas */
	u16 in_use; /* entries that the device holds: popped, not pushed */
	u16 staged; /* pushed, not published; split: used elements, packed: entries */
	u16 first_flags, first_at; /* packed: what vq_publish() writes last */
	unsigned busy;  /* virtio.c: chains whose memory is used without the lock */
	bool resetting; /* virtio.c */
};

/* Buffers that the driver made available together. */
struct vq_chain {
	u16 id;      /* the driver's name for it */
	u16 entries; /* of the ring that it takes */
	unsigned out,
		in; /* iov[0, out) is to be read, iov[out, out + in) to be written */
	u32 out_len, in_len; /* bytes */
	struct iovec iov[VQ_SIZE_MAX];
	gpa_t gpa[VQ_SIZE_MAX]; /* of the same */
};

/* 'size_max' is a power of two up to VQ_SIZE_MAX. */
void vq_init(struct vq *q, struct phys *phys, u16 size_max);
/* To the state after a reset of the device; keeps nothing. */
void vq_reset(struct vq *q);

/*
 * Start it with the addresses and size in q->s. False when they are not allowed or not
 * in RAM.
 */
bool vq_enable(struct vq *q, bool packed, bool event_idx, bool indirect);

/* The next chain. 1: there is one, 0: there is none now, -1: the ring is broken. */
int vq_pop(struct vq *q, struct vq_chain *c);
/* Give the chain popped last back, as if it had not been popped. */
void vq_unpop(struct vq *q, const struct vq_chain *c);
/* Is there something to pop? May be true for a broken ring. */
bool vq_ready(const struct vq *q);

/*
 * Return a chain with the first 'written' bytes of its writable part written. The driver
 * sees those pushed since the last vq_publish() all at once.
 */
void vq_push(struct vq *q, const struct vq_chain *c, u32 written);
/* True when the driver wants to be interrupted for it. */
bool vq_publish(struct vq *q);

/* Ask not to be notified of new chains; the driver may do so all the same. */
void vq_notify_off(struct vq *q);
/* Ask to be notified. True: some came meanwhile, look again. */
bool vq_notify_on(struct vq *q);

/*
 * Ask to be notified of chains beyond those that are there, which do not suffice. Look
 * once more afterwards.
 */
void vq_notify_more(struct vq *q);

/* Copy from the readable part, from byte 'off' on. How many bytes there were. */
u32 vq_read(const struct vq_chain *c, u32 off, void *buf, u32 len);
/* Copy to the writable part. How many bytes there was room for. */
u32 vq_write(const struct vq_chain *c, u32 off, const void *buf, u32 len);
