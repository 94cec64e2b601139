/*
 * A serial port as the guest's console.
 *
 * Input waits until the guest's driver has the port open: Linux clears the FIFO when it
 * opens a port, and what was typed before would be lost. That it is open shows in the
 * receive interrupt being enabled (twice in a row, since probing enables it for a
 * moment). A guest that polls never enables it, so after a silence input goes out all the
 * same. Our own guest says on another port when it is ready.
 *
 * The end of input is Ctrl-D, which a terminal in its usual mode turns into an end of
 * file for whoever reads it at that moment. A guest that does not end of it gets
 * another after some silence, a few times: the first may have come while a program
 * was running that did not care.
 *
 * Lock: none. The sink runs under the port's lock and is the only writer of 'tail' and
 * 'written'; all else belongs to the loop's thread.
 */
#include "control/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "control/feed.h"
#include "control/input.h"
#include "control/writer.h"
#include "dev/serial.h"
#include "host/loop.h"

#define TAIL_SIZE      8192
#define FEED_SIZE      262144
#define TICK_MS        20
#define OPEN_TICKS     2    /* the driver is there when seen so often */
#define QUIET_TERMINAL 1000 /* ms of silence until input goes out all the same */
#define QUIET_OTHER    10000
#define QUIET_EOF      2000 /* ms of silence until the next Ctrl-D */
#define EOF_TRIES      10
#define CONTROL_D      4

struct console {
	struct writer *out;
	u8 tail[TAIL_SIZE]; /* ring: the last of the output */
	u64 written;        /* atomic: bytes of output ever */

	struct serial *port;
	struct loop *loop;
	struct feed *feed;
	struct input *input;
	int timer; /* timerfd, -1 when there is no input */
	struct loop_fd *tick;
	bool terminal, held, eof;
	bool announces; /* console_ready_sink() was asked for */
	bool ready;     /* atomic: something came there */
	u8 last;        /* byte typed */
	unsigned open_ticks, quiet_ms, eof_tries;
	u64 seen; /* 'written' at the last tick */
	void (*key)(void *opaque, u8 c);
	void *opaque;
};

struct console *console_new(struct writer *out)
{
	struct console *c = xzalloc(sizeof(*c));

	c->out = out;
	c->timer = -1;
	c->last = '\n';
	return c;
}

void console_free(struct console *c)
{
	free(c);
}

/* ---- output ---- */

static size_t console_write(void *opaque, const u8 *buf, size_t len)
{
	struct console *c = opaque;
	u64 at = c->written;

	if (c->out)
		len = writer_put(c->out, buf, len);
	for (size_t i = 0; i < len; i++)
		c->tail[at++ % TAIL_SIZE] = buf[i];
	__atomic_store_n(&c->written, at, __ATOMIC_RELAXED);
	return len;
}

struct chardev_sink console_sink(struct console *c)
{
	return (struct chardev_sink){ .write = console_write, .opaque = c };
}

static size_t ready_write(void *opaque, const u8 *buf, size_t len)
{
	struct console *c = opaque;

	(void)buf;
	__atomic_store_n(&c->ready, true, __ATOMIC_RELAXED);
	return len;
}

struct chardev_sink console_ready_sink(struct console *c)
{
	c->announces = true;
	return (struct chardev_sink){ .write = ready_write, .opaque = c };
}

void console_attach(struct console *c, struct loop *loop, struct serial *port)
{
	c->loop = loop;
	c->port = port;
}

/* The ring in order, without what cannot be shown, ended by NUL. To be freed. */
static char *tail_text(const struct console *c)
{
	size_t n = MIN(c->written, (u64)TAIL_SIZE);
	char *text = xzalloc(n + 1), *p = text;

	for (size_t i = 0; i < n; i++) {
		char ch = (char)c->tail[(c->written - n + i) % TAIL_SIZE];

		if (ch == '\n' || ch == '\t' || (u8)ch >= ' ')
			*p++ = ch;
	}
	*p = 0;
	return text;
}

bool console_panic(struct console *c, char *line, size_t size)
{
	char *text = tail_text(c);
	char *at = strstr(text, "Kernel panic - not syncing");

	if (at)
		snprintf(line, size, "%.*s", (int)strcspn(at, "\n"), at);
	free(text);
	return at != NULL;
}

bool console_tail(struct console *c, FILE *out, const char *prefix, unsigned lines)
{
	char *text = tail_text(c), *start;
	size_t n = strlen(text);
	bool any;

	while (n && text[n - 1] == '\n')
		text[--n] = 0;
	start = text + n;
	while (start > text && (start[-1] != '\n' || --lines))
		start--;
	any = *start != 0;
	for (char *line; any && (line = strsep(&start, "\n"));)
		fprintf(out, "%s%s\n", prefix, line);
	free(text);
	return any;
}

/* ---- input: loop's thread ---- */

static size_t room(void *opaque)
{
	struct console *c = opaque;

	return feed_room(c->feed);
}

static void take(void *opaque, const u8 *buf, size_t len)
{
	struct console *c = opaque;

	if (feed_put(c->feed, buf, len))
		c->last = buf[len - 1];
}

static void drained(void *opaque)
{
	struct console *c = opaque;

	input_resume(c->input);
}

static void set_tick(struct console *c, bool on)
{
	struct itimerspec t = { 0 };

	if (on)
		t.it_interval.tv_nsec = t.it_value.tv_nsec = TICK_MS * 1000000;
	timerfd_settime(c->timer, 0, &t, NULL);
}

/* In the middle of a line the first Ctrl-D only hands over what there is of it. */
static void type_eof(struct console *c)
{
	static const u8 eof[2] = { CONTROL_D, CONTROL_D };

	feed_put(c->feed, eof, c->last == '\n' ? 1 : 2);
	c->last = '\n';
	c->eof_tries++;
	c->quiet_ms = 0;
	set_tick(c, true);
}

static void input_eof(void *opaque)
{
	struct console *c = opaque;

	c->eof = true;
	if (!c->terminal)
		type_eof(c);
}

static void input_key(void *opaque, u8 key)
{
	struct console *c = opaque;

	c->key(c->opaque, key);
}

static const struct input_ops console_input_ops = {
	.room = room,
	.take = take,
	.eof = input_eof,
	.key = input_key,
};

/* May what was typed go to the guest? Asked at each tick. */
static bool guest_ready(struct console *c)
{
	if (c->quiet_ms >= (c->terminal ? QUIET_TERMINAL : QUIET_OTHER))
		return true;
	if (c->announces)
		return __atomic_load_n(&c->ready, __ATOMIC_RELAXED);
	c->open_ticks = serial_rx_wanted(c->port) ? c->open_ticks + 1 : 0;
	return c->open_ticks >= OPEN_TICKS;
}

static void tick(void *opaque, unsigned events)
{
	struct console *c = opaque;
	u64 now = __atomic_load_n(&c->written, __ATOMIC_RELAXED), expired;

	(void)events;
	if (read(c->timer, &expired, sizeof(expired)) < 0)
		return;
	c->quiet_ms = now == c->seen ? c->quiet_ms + TICK_MS : 0;
	c->seen = now;
	if (c->held) {
		if (!guest_ready(c))
			return;
		c->held = false;
		feed_hold(c->feed, false);
	}
	if (!c->eof || c->terminal || c->eof_tries >= EOF_TRIES)
		set_tick(c, false);
	else if (c->quiet_ms >= QUIET_EOF && !feed_left(c->feed))
		type_eof(c);
}

int console_input(struct console *c, int fd, bool terminal, const u8 *first, size_t len,
		  bool eof, void (*key)(void *opaque, u8 c), void *opaque,
		  struct error *err)
{
	c->terminal = terminal;
	c->key = key;
	c->opaque = opaque;
	c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (c->timer < 0)
		return error_set(err, -errno, "timerfd: %s", strerror(errno));
	c->tick = loop_add(c->loop, c->timer, LOOP_READ, tick, c, err);
	if (!c->tick)
		return -EINVAL;
	c->feed = feed_new(c->port, FEED_SIZE);
	c->held = true;
	feed_hold(c->feed, true);
	set_tick(c, true);
	if (len)
		take(c, first, len);
	if (eof) {
		input_eof(c);
		return 0;
	}
	c->input = input_new(c->loop, fd, terminal, &console_input_ops, c, err);
	if (!c->input)
		return -EINVAL;
	feed_set_notify(c->feed, c->loop, drained, c);
	return 0;
}

void console_detach(struct console *c)
{
	if (c->tick)
		loop_remove(c->tick);
	c->tick = NULL;
	if (c->timer >= 0)
		close(c->timer);
	c->timer = -1;
	input_free(c->input);
	c->input = NULL;
	feed_free(c->feed);
	c->feed = NULL;
	c->port = NULL;
}
