/* Where the output of a character device goes. */
#pragma once

#include "base/types.h"

struct chardev_sink {
	/*
	 * Take up to 'len' bytes and return how many. Fewer: the sink is full, and
	 * its owner tells the device when there is room again. Called with the
	 * device's lock held, so it must not call back. NULL: output is thrown away.
	 */
	size_t (*write)(void *opaque, const u8 *buf, size_t len);
	void *opaque;
};

static inline size_t chardev_write(const struct chardev_sink *sink, const u8 *buf,
				   size_t len)
{
	return sink->write ? sink->write(sink->opaque, buf, len) : len;
}
