/*
 * Virtqueues in guest memory: split and packed rings, indirect descriptors, event index.
 *
 * Virtual I/O Device specification 1.2, 2.7 (split) and 2.8 (packed). Deliberately
 * missing: VIRTIO_F_IN_ORDER, which would only allow the driver to look at less.
 *
 * Memory order. The guest runs on other threads of this process, so its barriers
 * and ours meet as those of two CPUs:
 * M1 The index (split) or the flags (packed) that make a chain available are loaded with
 *    acquire, before the descriptors; pairs with the driver's write barrier in front of
 *    that store.
 * M2 A used element is stored before the index or flags that publish it, with release;
 *    pairs with the driver's read barrier behind its load.
 * M3 Between publishing and reading whether an interrupt is wanted, and between asking
 *    for notifications and looking for chains once more, is a full barrier; pairs with
 * the driver's between the same two in the other order. One of the two sees the other.
 *
 * I1 'in_use' is at most the size of the queue, so that used elements cannot overtake
 *    what the driver has read, whatever it makes available twice.
 * I2 A chain has at most as many descriptors as the queue entries, counted over direct
 *    and indirect ones, so a loop ends.
 * I3 Whatever is stored to guest memory is reported by phys_note_write() afterwards.
 *
 * Lock: the owner's.
 */
#include "virtio/queue.h"

#include <string.h>

#include "base/bits.h"

#define DESC_SIZE 16u

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
/* Packed only: bits 7 and 15 of the flags. */
enum { DESC_AVAIL = 1 << 7, DESC_USED = 1 << 15 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
/* Packed: event suppression structures, 2.8.10. */
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };
/* Offsets in the split rings. */
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ENTRIES = 4 };

static const struct state_field vq_fields[] = {
	STATE_FIELD(struct vq_state, desc, 1),
	STATE_FIELD(struct vq_state, driver, 1),
	STATE_FIELD(struct vq_state, device, 1),
	STATE_FIELD(struct vq_state, size, 1),
	STATE_FIELD(struct vq_state, enabled, 1),
	STATE_FIELD(struct vq_state, vector, 1),
	STATE_FIELD(struct vq_state, avail_idx, 1),
	STATE_FIELD(struct vq_state, used_idx, 1),
	STATE_FIELD(struct vq_state, signalled, 1),
	STATE_FIELD(struct vq_state, avail_wrap, 1),
	STATE_FIELD(struct vq_state, used_wrap, 1),
	STATE_FIELD(struct vq_state, signalled_valid, 1),
	STATE_FIELD(struct vq_state, signalled_wrap, 1),
	{ 0 },
};

/* Places in a packed ring are checked when the queue is enabled again. */
static bool vq_valid(const void *state)
{
	const struct vq_state *s = state;

	return s->size <= VQ_SIZE_MAX && s->enabled <= 1 && s->avail_wrap <= 1 &&
	       s->used_wrap <= 1 && s->signalled_valid <= 1 && s->signalled_wrap <= 1;
}

const struct state_desc vq_desc = {
	.name = "virtqueue",
	.size = sizeof(struct vq_state),
	.version = 1,
	.fields = vq_fields,
	.valid = vq_valid,
};

/* One access each: what the guest races for is read once. */
static u16 load16(const u8 *p)
{
	return __atomic_load_n((const u16 *)(const void *)p, __ATOMIC_RELAXED);
}

static u16 load16_acquire(const u8 *p)
{
	return __atomic_load_n((const u16 *)(const void *)p, __ATOMIC_ACQUIRE);
}

static u32 load32(const u8 *p)
{
	return __atomic_load_n((const u32 *)(const void *)p, __ATOMIC_RELAXED);
}

static u64 load64(const u8 *p)
{
	return __atomic_load_n((const u64 *)(const void *)p, __ATOMIC_RELAXED);
}

static void store16(u8 *p, u16 v)
{
	__atomic_store_n((u16 *)(void *)p, v, __ATOMIC_RELAXED);
}

static void store16_release(u8 *p, u16 v)
{
	__atomic_store_n((u16 *)(void *)p, v, __ATOMIC_RELEASE);
}

static void store32(u8 *p, u32 v)
{
	__atomic_store_n((u32 *)(void *)p, v, __ATOMIC_RELAXED);
}

static void full_barrier(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* I3, for a store to the device area. */
static void note_device(struct vq *q, u64 off, u64 len)
{
	phys_note_write(q->phys, q->s.device + off, len);
}

/* ---- set-up ---- */

void vq_init(struct vq *q, struct phys *phys, u16 size_max)
{
	memset(q, 0, sizeof(*q));
	q->phys = phys;
	q->size_max = size_max;
	vq_reset(q);
}

void vq_reset(struct vq *q)
{
	q->s = (struct vq_state){
		.size = q->size_max, .vector = 0xffff, .avail_wrap = 1, .used_wrap = 1
	};
	q->mapped = q->packed = q->event_idx = q->indirect = false;
	q->desc = q->driver = q->device = NULL;
	q->in_use = q->staged = 0;
}

static u8 *area(struct vq *q, gpa_t gpa, u64 len, u64 align, bool write)
{
	return gpa & (align - 1) ? NULL : phys_host(q->phys, gpa, len, write);
}

static bool map_areas(struct vq *q)
{
	u64 n = q->s.size;

	q->desc = area(q, q->s.desc, n * DESC_SIZE, 16, q->packed);
	if (q->packed) {
		q->driver = area(q, q->s.driver, 4, 4, false);
		q->device = area(q, q->s.device, 4, 4, true);
	} else {
		/* With the event index behind each ring; older drivers lack only that. */
		u64 event = q->event_idx ? 2 : 0;

		q->driver = area(q, q->s.driver, 4 + 2 * n + event, 2, false);
		q->device = area(q, q->s.device, 4 + 8 * n + event, 4, true);
	}
	return q->desc && q->driver && q->device;
}

bool vq_enable(struct vq *q, bool packed, bool event_idx, bool indirect)
{
	q->packed = packed;
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->in_use = q->staged = 0;
	if (!q->s.size || q->s.size > q->size_max || (!packed && !is_pow2(q->s.size)))
		return false;
	if (packed && (q->s.avail_idx >= q->s.size || q->s.used_idx >= q->s.size))
		return false;
	q->mapped = map_areas(q);
	return q->mapped;
}

/* ---- taking chains ---- */

struct desc {
	u64 addr;
	u32 len;
	u16 flags, next; /* packed: the buffer's ID */
};

/* Split layout: flags, next. Packed: ID, flags. */
static struct desc get_desc(const struct vq *q, const u8 *p)
{
	struct desc d = { .addr = load64(p), .len = load32(p + 8) };
	u16 a = load16(p + 12), b = load16(p + 14);

	d.flags = q->packed ? b : a;
	d.next = q->packed ? a : b;
	return d;
}

/* One buffer more. */
static bool add_buffer(const struct vq *q, struct vq_chain *c, const struct desc *d)
{
	unsigned i = c->out + c->in;
	bool write = d->flags & DESC_WRITE;
	u32 *len = write ? &c->in_len : &c->out_len;

	/* 2.7.4.2: what the device writes comes behind all that it reads. */
	if (i >= q->s.size || (!write && c->in) || !d->len)
		return false;
	if (__builtin_add_overflow(*len, d->len, len))
		return false;
	c->iov[i].iov_base = phys_host(q->phys, d->addr, d->len, write);
	c->iov[i].iov_len = d->len;
	c->gpa[i] = d->addr;
	if (write)
		c->in++;
	else
		c->out++;
	return c->iov[i].iov_base != NULL;
}

/* The table of an indirect descriptor: its host address, and how many entries it has. */
static const u8 *indirect_table(const struct vq *q, const struct desc *d, u32 *entries)
{
	*entries = d->len / DESC_SIZE;
	if (!q->indirect || d->flags & DESC_NEXT || !d->len || d->len % DESC_SIZE)
		return NULL;
	/* Nothing says that it is aligned, and atomic loads need not be. */
	return phys_host(q->phys, d->addr, d->len, false);
}

static bool split_chain(const struct vq *q, struct vq_chain *c, u16 head)
{
	const u8 *table = q->desc;
	u32 entries = q->s.size, i = head;
	bool inside = false;

	for (;;) {
		struct desc d;

		if (i >= entries)
			return false;
		d = get_desc(q, table + (size_t)i * DESC_SIZE);
		if (d.flags & DESC_INDIRECT) {
			if (inside)
				return false;
			table = indirect_table(q, &d, &entries);
			if (!table)
				return false;
			inside = true;
			i = 0;
			continue;
		}
		if (!add_buffer(q, c, &d)) /* I2 */
			return false;
		if (!(d.flags & DESC_NEXT))
			return true;
		i = d.next;
	}
}

static u16 split_avail(const struct vq *q)
{
	return (u16)(load16_acquire(q->driver + RING_IDX) - q->s.avail_idx); /* M1 */
}

static int split_pop(struct vq *q, struct vq_chain *c)
{
	u16 avail = split_avail(q), mask = (u16)(q->s.size - 1);

	if (!avail)
		return 0;
	if (avail > q->s.size || q->in_use >= q->s.size) /* I1 */
		return -1;
	c->id = load16(q->driver + RING_ENTRIES + 2 * (q->s.avail_idx & mask));
	c->entries = 1;
	if (!split_chain(q, c, c->id))
		return -1;
	q->s.avail_idx++;
	q->in_use++;
	return 1;
}

static bool packed_avail(const struct vq *q, u16 flags)
{
	bool avail = flags & DESC_AVAIL, used = flags & DESC_USED;

	return avail == (bool)q->s.avail_wrap && used != avail;
}

static const u8 *packed_at(const struct vq *q, u16 i)
{
	return q->desc + (size_t)i * DESC_SIZE;
}

static bool packed_table(const struct vq *q, struct vq_chain *c, const struct desc *d)
{
	u32 entries;
	const u8 *table = indirect_table(q, d, &entries);

	if (!table)
		return false;
	for (u32 i = 0; i < entries; i++) {
		struct desc e = get_desc(q, table + (size_t)i * DESC_SIZE);

		if (!add_buffer(q, c, &e)) /* I2 */
			return false;
	}
	return true;
}

/* Move 'by' places on in the ring; the wrap counter turns at its end. */
static void packed_step(const struct vq *q, u16 *at, u8 *wrap, u16 by)
{
	unsigned i = *at + by;

	if (i >= q->s.size) {
		i -= q->s.size;
		*wrap ^= 1;
	}
	*at = (u16)i;
}

static int packed_pop(struct vq *q, struct vq_chain *c)
{
	u16 i = q->s.avail_idx;
	u8 wrap = 1;

	/* M1. A chain becomes available by the flags of its first descriptor. */
	if (!packed_avail(q, load16_acquire(packed_at(q, i) + 14)))
		return 0;
	for (;;) {
		struct desc d = get_desc(q, packed_at(q, i));

		c->id = d.next;
		if (++c->entries > q->s.size - q->in_use) /* I1, I2 */
			return -1;
		if (d.flags & DESC_INDIRECT) {
			/* 2.8.8: it is alone. */
			if (c->entries > 1 || !packed_table(q, c, &d))
				return -1;
			break;
		}
		if (!add_buffer(q, c, &d))
			return -1;
		if (!(d.flags & DESC_NEXT))
			break;
		packed_step(q, &i, &wrap, 1);
	}
	packed_step(q, &q->s.avail_idx, &q->s.avail_wrap, c->entries);
	q->in_use = (u16)(q->in_use + c->entries);
	return 1;
}

int vq_pop(struct vq *q, struct vq_chain *c)
{
	if (!q->mapped)
		return 0;
	c->out = c->in = 0;
	c->out_len = c->in_len = 0;
	c->entries = 0;
	return q->packed ? packed_pop(q, c) : split_pop(q, c);
}

void vq_unpop(struct vq *q, const struct vq_chain *c)
{
	q->in_use = (u16)(q->in_use - c->entries);
	if (!q->packed) {
		q->s.avail_idx--;
	} else if (q->s.avail_idx >= c->entries) {
		q->s.avail_idx = (u16)(q->s.avail_idx - c->entries);
	} else {
		q->s.avail_idx = (u16)(q->s.avail_idx + q->s.size - c->entries);
		q->s.avail_wrap ^= 1;
	}
}

bool vq_ready(const struct vq *q)
{
	if (!q->mapped)
		return false;
	if (!q->packed)
		return split_avail(q);
	return packed_avail(q, load16_acquire(packed_at(q, q->s.avail_idx) + 14));
}

/* ---- giving them back ---- */

/* I3, for the buffers: the first 'written' bytes. */
static void note_buffers(struct vq *q, const struct vq_chain *c, u32 written)
{
	for (unsigned i = c->out; i < c->out + c->in && written; i++) {
		u32 n = (u32)MIN((size_t)written, c->iov[i].iov_len);

		phys_note_write(q->phys, c->gpa[i], n);
		written -= n;
	}
}

static void split_push(struct vq *q, const struct vq_chain *c, u32 written)
{
	u16 at = (u16)((q->s.used_idx + q->staged) & (q->s.size - 1));
	u64 off = RING_ENTRIES + 8u * at;

	store32(q->device + off, c->id);
	store32(q->device + off + 4, written);
	note_device(q, off, 8);
	q->staged++;
}

static void packed_push(struct vq *q, const struct vq_chain *c, u32 written)
{
	u16 at = q->s.used_idx;
	u8 *p = q->desc + (size_t)at * DESC_SIZE;
	u16 flags = (u16)((q->s.used_wrap ? DESC_AVAIL | DESC_USED : 0) |
			  (c->in ? DESC_WRITE : 0));

	store32(p + 8, written);
	store16(p + 12, c->id);
	if (q->staged) {
		store16_release(p + 14, flags); /* M2 */
	} else {
		q->first_flags = flags;
		q->first_at = at;
	}
	phys_note_write(q->phys, q->s.desc + at * DESC_SIZE, DESC_SIZE);
	packed_step(q, &q->s.used_idx, &q->s.used_wrap, c->entries);
	q->staged = (u16)(q->staged + c->entries);
}

void vq_push(struct vq *q, const struct vq_chain *c, u32 written)
{
	if (!q->mapped)
		return;
	note_buffers(q, c, MIN(written, c->in_len));
	if (q->packed)
		packed_push(q, c, written);
	else
		split_push(q, c, written);
	q->in_use = (u16)(q->in_use - c->entries);
}

/* 2.7.10: has 'event' been passed when the index went from 'before' to 'now'? */
static bool passed(u16 event, u16 now, u16 before)
{
	return (u16)(now - event - 1) < (u16)(now - before);
}

static bool split_publish(struct vq *q)
{
	u16 before = q->s.signalled, now = (u16)(q->s.used_idx + q->staged);
	bool first = !q->s.signalled_valid;

	q->s.used_idx = now;
	store16_release(q->device + RING_IDX, now); /* M2 */
	note_device(q, RING_IDX, 2);
	full_barrier(); /* M3 */
	if (!q->event_idx)
		return !(load16(q->driver + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	q->s.signalled = now;
	q->s.signalled_valid = 1;
	return first ||
	       passed(load16(q->driver + RING_ENTRIES + 2u * q->s.size), now, before);
}

static bool packed_publish(struct vq *q)
{
	u16 before = q->s.signalled, now = q->s.used_idx, event, n = q->s.size;
	bool first = !q->s.signalled_valid,
	     wrapped = q->s.signalled_wrap != q->s.used_wrap;
	u16 off_wrap, flags;

	store16_release(q->desc + (size_t)q->first_at * DESC_SIZE + 14,
			q->first_flags); /* M2 */
	phys_note_write(q->phys, q->s.desc + q->first_at * DESC_SIZE, DESC_SIZE);
	full_barrier(); /* M3 */
	off_wrap = load16(q->driver);
	flags = load16(q->driver + 2);
	q->s.signalled = now;
	q->s.signalled_wrap = q->s.used_wrap;
	q->s.signalled_valid = 1;
	if (flags == EVENT_DISABLE)
		return false;
	if (flags != EVENT_DESC || !q->event_idx || first)
		return true;
	/* As free-running numbers: 'before' is in the round before, if that has ended. */
	event = off_wrap & 0x7fff;
	if (event >= n)
		return true;
	if (off_wrap >> 15 != q->s.used_wrap)
		event = (u16)(event - n);
	if (wrapped)
		before = (u16)(before - n);
	return passed(event, now, before);
}

bool vq_publish(struct vq *q)
{
	bool tell;

	if (!q->mapped || !q->staged)
		return false;
	tell = q->packed ? packed_publish(q) : split_publish(q);
	q->staged = 0;
	return tell;
}

/* ---- notifications ---- */

void vq_notify_off(struct vq *q)
{
	if (!q->mapped)
		return;
	if (q->packed) {
		store16(q->device + 2, EVENT_DISABLE);
		note_device(q, 2, 2);
	} else if (!q->event_idx) {
		store16(q->device + RING_FLAGS, USED_NO_NOTIFY);
		note_device(q, RING_FLAGS, 2);
	}
	/* With the event index it is enough to leave that behind. */
}

bool vq_notify_on(struct vq *q)
{
	if (!q->mapped)
		return false;
	if (q->packed) {
		store16(q->device, (u16)(q->s.avail_idx | q->s.avail_wrap << 15));
		store16_release(q->device + 2, q->event_idx ? EVENT_DESC : EVENT_ENABLE);
		note_device(q, 0, 4);
	} else if (q->event_idx) {
		u64 off = RING_ENTRIES + 8u * q->s.size;

		store16(q->device + off, q->s.avail_idx);
		note_device(q, off, 2);
	} else {
		store16(q->device + RING_FLAGS, 0);
		note_device(q, RING_FLAGS, 2);
	}
	full_barrier(); /* M3 */
	return vq_ready(q);
}

void vq_notify_more(struct vq *q)
{
	u64 off = RING_ENTRIES + 8u * q->s.size;

	if (!q->mapped)
		return;
	if (q->packed) {
		/* Where the ring ends now is not known: all. */
		store16(q->device + 2, EVENT_ENABLE);
		note_device(q, 2, 2);
	} else if (q->event_idx) {
		store16(q->device + off, load16(q->driver + RING_IDX));
		note_device(q, off, 2);
	} else {
		store16(q->device + RING_FLAGS, 0);
		note_device(q, RING_FLAGS, 2);
	}
	full_barrier(); /* M3 */
}

/* ---- bytes ---- */

static u32 copy(const struct iovec *iov, unsigned n, u32 off, u8 *buf, u32 len,
		bool write)
{
	u32 done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t k;

		if (off >= iov[i].iov_len) {
			off -= (u32)iov[i].iov_len;
			continue;
		}
		k = MIN(iov[i].iov_len - off, (size_t)(len - done));
		if (write)
			memcpy((u8 *)iov[i].iov_base + off, buf + done, k);
		else
			memcpy(buf + done, (u8 *)iov[i].iov_base + off, k);
		done += (u32)k;
		off = 0;
	}
	return done;
}

u32 vq_read(const struct vq_chain *c, u32 off, void *buf, u32 len)
{
	return copy(c->iov, c->out, off, buf, len, false);
}

u32 vq_write(const struct vq_chain *c, u32 off, const void *buf, u32 len)
{
	return copy(c->iov + c->out, c->in, off, (u8 *)(uintptr_t)buf, len, true);
}
