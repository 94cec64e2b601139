/*
 * QEMU's isa-debug-exit: what a guest writes to the port ends the machine, and the
 * process with status (value << 1) | 1, modulo 256.
 *
 * QEMU -device isa-debug-exit. The value has the size of the access. A read gives 0.
 * There is no state and no lock: the board takes the first value and ignores more.
 */
#include "dev/debugexit.h"

#include <stdlib.h>

#include "base/alloc.h"

struct debugexit {
	void (*ended)(void *opaque, u32 val);
	void *opaque;
};

static u64 debugexit_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	(void)off;
	(void)size;
	return 0;
}

static void debugexit_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct debugexit *d = dev;

	(void)off;
	(void)size;
	d->ended(d->opaque, (u32)val);
}

const struct io_ops debugexit_ops = {
	.read = debugexit_read,
	.write = debugexit_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

struct debugexit *debugexit_new(void (*ended)(void *opaque, u32 val), void *opaque)
{
	struct debugexit *d = xzalloc(sizeof(*d));

	d->ended = ended;
	d->opaque = opaque;
	return d;
}

void debugexit_free(struct debugexit *d)
{
	free(d);
}
