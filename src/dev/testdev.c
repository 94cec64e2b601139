/*
 * A device for tests, with the ports of QEMU's pc-testdev.
 *
 * As test kernels use it: the latch at e0h keeps what was written at each of its four
 * bytes, in accesses of any size; the one at e8h is the same latch behind a bus of one
 * byte. A linear address in 32 bits at e4h is a page whose translations are to be
 * dropped: there, what engines hold of the page's code. A byte at 2000h + n raises GSI n,
 * or lowers it when it is 0. The memory window keeps what is written, for accesses that
 * must leave the CPU. Lock: 'lock' covers the state; it is not held while a line is told,
 * so that the order of two CPUs that write the same line is theirs.
 */
#include "dev/testdev.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "mem/phys.h"
#include "state/save.h"

struct testdev_state {
	u32 latch;
	u32 lines; /* levels */
	u8 mem[TESTDEV_MMIO_SIZE];
};

struct testdev {
	struct testdev_state s;
	struct phys *phys;
	struct irq_line gsi[TESTDEV_LINES];
	pthread_mutex_t lock;
};

static const struct state_field testdev_fields[] = {
	STATE_FIELD(struct testdev_state, latch, 1),
	STATE_FIELD(struct testdev_state, lines, 1),
	STATE_ARRAY(struct testdev_state, mem, 1),
	{ 0 },
};

static bool testdev_valid(const void *state)
{
	const struct testdev_state *s = state;

	return !(s->lines >> TESTDEV_LINES);
}

const struct state_desc testdev_desc = {
	.name = "testdev",
	.size = sizeof(struct testdev_state),
	.version = 1,
	.fields = testdev_fields,
	.valid = testdev_valid,
};

/* ---- latch ---- */

static u64 latch_read(void *dev, u64 off, unsigned size)
{
	struct testdev *t = dev;
	u64 val;

	pthread_mutex_lock(&t->lock);
	val = (t->s.latch >> (8 * off)) & size_mask(size);
	pthread_mutex_unlock(&t->lock);
	return val;
}

static void latch_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;
	u32 mask = (u32)(size_mask(size) << (8 * off));

	pthread_mutex_lock(&t->lock);
	t->s.latch = (t->s.latch & ~mask) | ((u32)(val << (8 * off)) & mask);
	pthread_mutex_unlock(&t->lock);
}

const struct io_ops testdev_latch_ops = { latch_read, latch_write, IO_1 | IO_2 | IO_4 };
const struct io_ops testdev_bytes_ops = { latch_read, latch_write, IO_1 };

/* ---- page flush ---- */

static u64 flush_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	(void)off;
	return size_mask(size);
}

static void flush_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	(void)off;
	(void)size;
	phys_note_write(t->phys, val & PAGE_MASK, PAGE_SIZE);
}

const struct io_ops testdev_flush_ops = { flush_read, flush_write, IO_4 };

/* ---- interrupt lines ---- */

static u64 line_read(void *dev, u64 off, unsigned size)
{
	struct testdev *t = dev;
	u64 val;

	(void)size;
	pthread_mutex_lock(&t->lock);
	val = t->s.lines >> off & 1;
	pthread_mutex_unlock(&t->lock);
	return val;
}

static void line_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;
	u32 bit = (u32)BIT(off);

	(void)size;
	pthread_mutex_lock(&t->lock);
	t->s.lines = val ? t->s.lines | bit : t->s.lines & ~bit;
	pthread_mutex_unlock(&t->lock);
	irq_set(&t->gsi[off], val != 0);
}

const struct io_ops testdev_line_ops = { line_read, line_write, IO_1 };

/* ---- memory window ---- */

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	struct testdev *t = dev;
	u64 val;

	pthread_mutex_lock(&t->lock);
	val = le_load(t->s.mem + off, size);
	pthread_mutex_unlock(&t->lock);
	return val;
}

static void mmio_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct testdev *t = dev;

	pthread_mutex_lock(&t->lock);
	le_store(t->s.mem + off, val, size);
	pthread_mutex_unlock(&t->lock);
}

const struct io_ops testdev_mmio_ops = { mmio_read, mmio_write,
					 IO_1 | IO_2 | IO_4 | IO_8 };

/* ---- public ---- */

struct testdev *testdev_new(struct phys *phys, const struct irq_line *gsi)
{
	struct testdev *t = xzalloc(sizeof(*t));

	pthread_mutex_init(&t->lock, NULL);
	t->phys = phys;
	memcpy(t->gsi, gsi, sizeof(t->gsi));
	return t;
}

void testdev_free(struct testdev *t)
{
	if (!t)
		return;
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static void tell_lines(struct testdev *t)
{
	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		irq_set(&t->gsi[i], t->s.lines >> i & 1);
}

void testdev_reset(struct testdev *t)
{
	pthread_mutex_lock(&t->lock);
	memset(&t->s, 0, sizeof(t->s));
	pthread_mutex_unlock(&t->lock);
	tell_lines(t);
}

void testdev_save(struct testdev *t, struct state_buf *b)
{
	pthread_mutex_lock(&t->lock);
	state_save(b, &testdev_desc, 0, &t->s);
	pthread_mutex_unlock(&t->lock);
}

int testdev_load(struct testdev *t, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&t->lock);
	ret = state_load(b, &testdev_desc, 0, &t->s, err);
	pthread_mutex_unlock(&t->lock);
	if (!ret)
		tell_lines(t);
	return ret;
}
