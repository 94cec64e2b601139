/*
 * Standard input: read when there is room for it, with Ctrl-a as the way to talk to Umbra
 * itself when it is a terminal.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

#define INPUT_ESCAPE 0x01 /* Ctrl-a */

struct input;
struct loop;

/* All called on the loop's thread. */
struct input_ops {
	size_t (*room)(void *opaque); /* bytes that take() will take */
	void (*take)(void *opaque, const u8 *buf, size_t len);
	void (*eof)(void *opaque);       /* at most once, after the last take() */
	void (*key)(void *opaque, u8 c); /* what was typed behind Ctrl-a */
};

/*
 * Watch 'fd', which stays the caller's. With 'escapes' Ctrl-a is interpreted, and read
 * even when there is no room, so that one can always leave: what is typed then is lost.
 */
struct input *input_new(struct loop *loop, int fd, bool escapes,
			const struct input_ops *ops, void *opaque, struct error *err);
void input_free(struct input *in);

/* Room became more, on the loop's thread. */
void input_resume(struct input *in);
