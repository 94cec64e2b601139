/*
 * Standard input on the event loop.
 *
 * The descriptor's flags are left alone (others may share the open file), so one read is
 * done for each report that it is ready, which does not block. While its consumer has no
 * room it is not watched. Everything runs on the loop's thread; no lock.
 */
#include "control/input.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/loop.h"

struct input {
	int fd;
	struct loop_fd *watch;
	bool escapes, escaped; /* Ctrl-a was the last byte */
	bool muted, ended;
	const struct input_ops *ops;
	void *opaque;
};

static void mute(struct input *in, bool on)
{
	if (in->muted != on)
		loop_set_events(in->watch, on ? 0 : LOOP_READ);
	in->muted = on;
}

static void end(struct input *in)
{
	in->ended = true;
	mute(in, true);
	in->ops->eof(in->opaque);
}

/* Takes Ctrl-a sequences out, in place; what is left. */
static size_t filter(struct input *in, u8 *buf, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		u8 c = buf[i];

		if (!in->escaped && c == INPUT_ESCAPE) {
			in->escaped = true;
		} else if (!in->escaped) {
			buf[n++] = c;
		} else {
			in->escaped = false;
			if (c == INPUT_ESCAPE || c == 'a')
				buf[n++] = INPUT_ESCAPE;
			else
				in->ops->key(in->opaque, c);
		}
	}
	return n;
}

static void ready(void *opaque, unsigned events)
{
	struct input *in = opaque;
	size_t room = in->ops->room(in->opaque), most;
	u8 buf[4096];
	ssize_t n;

	(void)events;
	if (in->ended)
		return;
	if (!room && !in->escapes) {
		mute(in, true);
		return;
	}
	most = in->escapes ? sizeof(buf) : MIN(room, sizeof(buf));
	n = read(in->fd, buf, most);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* A terminal that was hung up gives EIO. */
		end(in);
		return;
	}
	if (in->escapes)
		n = (ssize_t)filter(in, buf, (size_t)n);
	if (n)
		in->ops->take(in->opaque, buf, MIN((size_t)n, room));
}

struct input *input_new(struct loop *loop, int fd, bool escapes,
			const struct input_ops *ops, void *opaque, struct error *err)
{
	struct input *in = xzalloc(sizeof(*in));

	in->fd = fd;
	in->escapes = escapes;
	in->ops = ops;
	in->opaque = opaque;
	in->watch = loop_add(loop, fd, LOOP_READ, ready, in, err);
	if (!in->watch) {
		free(in);
		return NULL;
	}
	return in;
}

void input_free(struct input *in)
{
	if (!in)
		return;
	loop_remove(in->watch);
	free(in);
}

void input_resume(struct input *in)
{
	if (in->muted && !in->ended && in->ops->room(in->opaque))
		mute(in, false);
}
