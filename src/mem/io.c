/*
 * Dispatch of port and memory-mapped I/O to chips.
 *
 * The port space is one byte-wide map from port to window number, so that an
 * access finds its chip with one load and an overlap is found while placing.
 * An access is cut so that a chip sees only sizes it has, at multiples of the
 * size, inside its window; this is what byte enables do on a real bus.
 *
 * Lock: 'lock' serialises placing and removing. Accesses take no lock: they copy
 * the window out under a sequence count (odd while a writer works) and call the
 * chip afterwards, so a chip may move windows from inside its own access. A chip
 * can therefore be called once more just after its window was removed.
 */
#include "mem/io.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"

#define PORTS       0x10000u
#define WINDOWS_MAX 1024

struct window {
	u32 base, len;
	const struct io_ops *ops;
	void *dev;
	const char *name;
};

struct io_ports {
	u16 map[PORTS]; /* index into windows, 0: nobody */
	struct window windows[WINDOWS_MAX];
	u32 seq;
	pthread_mutex_t lock;
};

/* The largest size the chip has that is at most 'size'; 0 when all are larger. */
static unsigned largest(u8 sizes, unsigned size)
{
	while (size && !(sizes & size))
		size >>= 1;
	return size;
}

u64 io_read(const struct io_ops *ops, void *dev, u64 off, unsigned size)
{
	unsigned align = off ? (unsigned)(off & -off) : 8;
	unsigned piece = largest(ops->sizes, MIN(size, align));
	u64 val = 0;

	if (!piece)
		return size_mask(size);
	for (unsigned i = 0; i < size; i += piece)
		val |= (ops->read(dev, off + i, piece) & size_mask(piece)) << (8 * i);
	return val;
}

void io_write(const struct io_ops *ops, void *dev, u64 off, u64 val, unsigned size)
{
	unsigned align = off ? (unsigned)(off & -off) : 8;
	unsigned piece = largest(ops->sizes, MIN(size, align));

	if (!piece)
		return;
	for (unsigned i = 0; i < size; i += piece)
		ops->write(dev, off + i, (val >> (8 * i)) & size_mask(piece), piece);
}

struct io_ports *io_ports_new(void)
{
	struct io_ports *p = xzalloc(sizeof(*p));

	pthread_mutex_init(&p->lock, NULL);
	return p;
}

void io_ports_free(struct io_ports *p)
{
	if (!p)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void change_begin(struct io_ports *p)
{
	/*
	 * Odd before any change: an acquire keeps the stores behind it. They are
	 * releases and pair with the loads in find(): who sees one also sees the
	 * count that is odd, or newer.
	 */
	__atomic_fetch_add(&p->seq, 1, __ATOMIC_ACQUIRE);
}

static void change_end(struct io_ports *p)
{
	__atomic_store_n(&p->seq, p->seq + 1, __ATOMIC_RELEASE);
}

static void map_set(struct io_ports *p, u32 base, u32 len, u16 index)
{
	for (u32 i = base; i < base + len; i++)
		__atomic_store_n(&p->map[i], index, __ATOMIC_RELEASE);
}

int io_ports_add(struct io_ports *p, u16 base, u16 len, const char *name,
		 const struct io_ops *ops, void *dev, const char **owner)
{
	struct window *w = NULL;
	int ret = 0;
	u16 index;

	if (owner)
		*owner = NULL;
	if (!len || (u32)base + len > PORTS)
		return -EINVAL;
	pthread_mutex_lock(&p->lock);
	for (u32 i = base; i < (u32)base + len; i++) {
		if (!p->map[i])
			continue;
		if (owner)
			*owner = p->windows[p->map[i]].name;
		ret = -EBUSY;
		goto out;
	}
	for (index = 1; index < WINDOWS_MAX; index++) {
		if (!p->windows[index].len) {
			w = &p->windows[index];
			break;
		}
	}
	if (!w) {
		ret = -ENOSPC;
		goto out;
	}
	change_begin(p);
	__atomic_store_n(&w->base, base, __ATOMIC_RELEASE);
	__atomic_store_n(&w->len, len, __ATOMIC_RELEASE);
	__atomic_store_n(&w->ops, ops, __ATOMIC_RELEASE);
	__atomic_store_n(&w->dev, dev, __ATOMIC_RELEASE);
	w->name = name;
	map_set(p, base, len, index);
	change_end(p);
out:
	pthread_mutex_unlock(&p->lock);
	return ret;
}

void io_ports_remove(struct io_ports *p, u16 base, u16 len)
{
	pthread_mutex_lock(&p->lock);
	for (u16 index = 1; index < WINDOWS_MAX; index++) {
		struct window *w = &p->windows[index];

		if (w->len != len || w->base != base || !len)
			continue;
		change_begin(p);
		map_set(p, base, len, 0);
		__atomic_store_n(&w->len, 0, __ATOMIC_RELEASE);
		change_end(p);
		break;
	}
	pthread_mutex_unlock(&p->lock);
}

/* Copy the window that holds 'port'. False when nobody has it. */
static bool find(struct io_ports *p, u32 port, struct window *w)
{
	for (;;) {
		u32 seq = __atomic_load_n(&p->seq, __ATOMIC_ACQUIRE);
		u16 index = __atomic_load_n(&p->map[port], __ATOMIC_ACQUIRE);
		const struct window *s = &p->windows[index];

		/* Each an acquire, so that the count is read again after all of them. */
		w->base = __atomic_load_n(&s->base, __ATOMIC_ACQUIRE);
		w->len = __atomic_load_n(&s->len, __ATOMIC_ACQUIRE);
		w->ops = __atomic_load_n(&s->ops, __ATOMIC_ACQUIRE);
		w->dev = __atomic_load_n(&s->dev, __ATOMIC_ACQUIRE);
		if (likely(!(seq & 1) &&
			   __atomic_load_n(&p->seq, __ATOMIC_RELAXED) == seq))
			return index != 0;
		sched_yield();
	}
}

/* Bytes of an access at 'port' that one window can take at once: a power of two. */
static unsigned fits(const struct window *w, u32 port, unsigned size)
{
	while (size > 1 && port + size > w->base + w->len)
		size >>= 1;
	return size;
}

u64 io_ports_read(struct io_ports *p, u16 port, unsigned size)
{
	u64 val = 0;

	for (unsigned i = 0; i < size;) {
		/* Beyond port ffffh there is nothing: the bus has 16 address lines. */
		unsigned n = 1;
		u64 piece = 0xff;
		struct window w;

		if ((u32)port + i < PORTS && find(p, (u32)port + i, &w)) {
			n = fits(&w, (u32)port + i, (size - i) & -(size - i));
			piece = io_read(w.ops, w.dev, port + i - w.base, n);
		}
		val |= piece << (8 * i);
		i += n;
	}
	return val;
}

void io_ports_write(struct io_ports *p, u16 port, u64 val, unsigned size)
{
	for (unsigned i = 0; i < size;) {
		unsigned n = 1;
		struct window w;

		if ((u32)port + i < PORTS && find(p, (u32)port + i, &w)) {
			n = fits(&w, (u32)port + i, (size - i) & -(size - i));
			io_write(w.ops, w.dev, port + i - w.base,
				 (val >> (8 * i)) & size_mask(n), n);
		}
		i += n;
	}
}
