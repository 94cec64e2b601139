/*
 * The host half of the protocol in docs/run-command.md.
 *
 * Frames from the guest are parsed as the port writes them, on the vCPU's thread with the
 * port's lock held: output goes straight to the writers, and when these are full the
 * port's transmitter stays full. What has to be answered is posted to the event loop,
 * which does all sending.
 *
 * The guest is not trusted: credit is capped, a length only counts bytes down, frames out
 * of order are ignored.
 *
 * Lock: 'lock' covers struct from_guest. It is taken inside the port's lock, and no other
 * is taken inside it but those of the writers and the loop. The rest belongs to the
 * loop's thread.
 */
#include "control/agent.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "control/agent_proto.h"
#include "control/feed.h"
#include "control/writer.h"
#include "dev/serial.h"
#include "host/loop.h"

#define STDIN_SIZE  65536
#define STDIN_FRAME 4096 /* payload */
/* All that credit allows, and signals beside it. */
#define FEED_SIZE   (2 * AGENT_CREDIT_MAX)

struct from_guest {
	u8 header[AGENT_HEADER];
	unsigned header_len;
	u32 payload_left;
	u8 small[16]; /* payload of all but STDOUT and STDERR; more is not kept */
	unsigned small_len;
	u32 credit;
	bool hello, exited, bad_version;
	u8 how, number;
};

struct agent {
	struct agent_config cfg;
	pthread_mutex_t lock;
	struct from_guest in;

	struct loop *loop;
	struct serial *port;
	struct feed *feed;
	struct loop_work work;
	bool told_hello, told_end;

	/* ARG, ENV, WINSIZE, START: sent first. */
	u8 *request;
	size_t request_len, request_off;
	size_t frame_left; /* of the frame at request_off */
	bool frame_costs;

	u8 stdin_buf[STDIN_SIZE];
	size_t stdin_tail, stdin_len;
	bool stdin_eof, stdin_done;
	u64 signals; /* to be sent, bit n is signal n */
	bool resized;
};

/* ---- the request ---- */

static u8 *put_header(u8 *p, enum agent_frame type, size_t len)
{
	p[0] = (u8)type;
	p[1] = (u8)len;
	p[2] = (u8)(len >> 8);
	p[3] = (u8)(len >> 16);
	return p + AGENT_HEADER;
}

static u8 *put_frame(u8 *p, enum agent_frame type, const void *payload, size_t len)
{
	p = put_header(p, type, len);
	if (len)
		memcpy(p, payload, len);
	return p + len;
}

static u8 *put_size(u8 *p, u16 rows, u16 cols)
{
	u8 size[4] = { (u8)rows, (u8)(rows >> 8), (u8)cols, (u8)(cols >> 8) };

	return put_frame(p, AGENT_WINSIZE, size, sizeof(size));
}

static int build_request(struct agent *a, struct error *err)
{
	const struct agent_config *cfg = &a->cfg;
	size_t env_len = cfg->tty ? strlen("TERM=") + strlen(cfg->term) : 0;
	size_t payload = env_len, args = 0;
	u8 *p;

	for (; cfg->argv[args]; args++) {
		size_t len = strlen(cfg->argv[args]);

		if (len > AGENT_STRING_MAX)
			return error_set(err, -E2BIG,
					 "argument %zu of the command has %zu bytes, at "
					 "most %d are possible",
					 args, len, AGENT_STRING_MAX);
		payload += len;
	}
	if (env_len > AGENT_STRING_MAX || payload > AGENT_REQUEST_MAX)
		return error_set(err, -E2BIG,
				 "the command and its arguments have %zu bytes, at most "
				 "%u are possible",
				 payload, AGENT_REQUEST_MAX);
	a->request = xzalloc(payload + (args + 4) * AGENT_HEADER + 4);
	p = a->request;
	if (cfg->tty) {
		char *env;

		p = put_size(p, cfg->rows, cfg->cols);
		env = xzalloc(env_len + 1);
		memcpy(env, "TERM=", 5);
		memcpy(env + 5, cfg->term, env_len - 5);
		p = put_frame(p, AGENT_ENV, env, env_len);
		free(env);
	}
	for (size_t i = 0; i < args; i++)
		p = put_frame(p, AGENT_ARG, cfg->argv[i], strlen(cfg->argv[i]));
	p = put_frame(p, AGENT_START, NULL, 0);
	a->request_len = (size_t)(p - a->request);
	return 0;
}

/* ---- from the guest: port's lock held ---- */

static u32 get_le32(const u8 *p)
{
	return (u32)le_load(p, 4);
}

/* Frames are complete when this is called; 'in' under the lock. */
static void frame_end(struct from_guest *in)
{
	switch (in->header[0]) {
	case AGENT_HELLO:
		if (in->hello || in->small_len < 10)
			break;
		in->bad_version = in->small[5] != AGENT_VERSION;
		in->hello = true;
		in->credit = MIN(get_le32(in->small + 6), (u32)AGENT_CREDIT_MAX);
		break;
	case AGENT_CREDIT:
		if (in->small_len >= 4)
			in->credit +=
				MIN(get_le32(in->small), AGENT_CREDIT_MAX - in->credit);
		break;
	case AGENT_EXIT:
		if (in->small_len < 2)
			break;
		in->exited = true;
		in->how = in->small[0];
		in->number = in->small[1];
		break;
	default: break;
	}
}

/* What is on the port before HELLO is noise: look for HELLO byte by byte. */
static void find_hello(struct from_guest *in)
{
	static const u8 hello[AGENT_HEADER] = { AGENT_HELLO, 10, 0, 0 };

	while (in->header_len && memcmp(in->header, hello, in->header_len)) {
		in->header_len--;
		memmove(in->header, in->header + 1, in->header_len);
	}
}

/* One byte of a header. */
static void header_byte(struct from_guest *in, u8 byte)
{
	in->header[in->header_len++] = byte;
	if (!in->hello)
		find_hello(in);
	if (in->header_len < AGENT_HEADER)
		return;
	in->payload_left = get_le32(in->header) >> 8;
	in->small_len = 0;
	if (!in->payload_left)
		in->header_len = 0;
}

/* Bytes of a payload; how many could be taken. */
static size_t payload_bytes(struct agent *a, const u8 *buf, size_t len)
{
	struct from_guest *in = &a->in;
	size_t n = MIN(len, in->payload_left);

	if (in->header[0] == AGENT_STDOUT && in->hello) {
		n = writer_put(a->cfg.out, buf, n);
	} else if (in->header[0] == AGENT_STDERR && in->hello) {
		n = writer_put(a->cfg.err, buf, n);
	} else {
		size_t keep = MIN(n, sizeof(in->small) - in->small_len);

		memcpy(in->small + in->small_len, buf, keep);
		in->small_len += (unsigned)keep;
	}
	in->payload_left -= (u32)n;
	return n;
}

static size_t agent_write(void *opaque, const u8 *buf, size_t len)
{
	struct agent *a = opaque;
	struct from_guest *in = &a->in;
	bool news = false;
	size_t i = 0;

	pthread_mutex_lock(&a->lock);
	while (i < len && !in->exited) {
		size_t n;

		if (in->header_len < AGENT_HEADER) {
			header_byte(in, buf[i++]);
			continue;
		}
		n = payload_bytes(a, buf + i, len - i);
		i += n;
		if (!in->payload_left) {
			frame_end(in);
			in->header_len = 0;
			news |= in->header[0] != AGENT_STDOUT &&
				in->header[0] != AGENT_STDERR;
		}
		if (!n)
			break;
	}
	if (in->exited)
		i = len;
	pthread_mutex_unlock(&a->lock);
	if (news && a->loop)
		loop_post(a->loop, &a->work);
	return i;
}

struct chardev_sink agent_sink(struct agent *a)
{
	return (struct chardev_sink){ .write = agent_write, .opaque = a };
}

/* ---- to the guest: loop's thread ---- */

static u32 credit(struct agent *a)
{
	u32 n;

	pthread_mutex_lock(&a->lock);
	n = a->in.credit;
	pthread_mutex_unlock(&a->lock);
	return n;
}

static void pay(struct agent *a, size_t n)
{
	pthread_mutex_lock(&a->lock);
	a->in.credit -= (u32)n;
	pthread_mutex_unlock(&a->lock);
}

/* True when all of the request is on its way. */
static bool send_request(struct agent *a)
{
	while (a->request_off < a->request_len) {
		const u8 *p = a->request + a->request_off;
		size_t n;

		if (!a->frame_left) {
			a->frame_left = AGENT_HEADER + (get_le32(p) >> 8);
			a->frame_costs = *p == AGENT_ARG || *p == AGENT_ENV;
		}
		n = MIN(a->frame_left, feed_room(a->feed));
		if (a->frame_costs)
			n = MIN(n, credit(a));
		if (!n || !feed_put(a->feed, p, n))
			return false;
		if (a->frame_costs)
			pay(a, n);
		a->request_off += n;
		a->frame_left -= n;
	}
	return true;
}

static void send_control(struct agent *a)
{
	u8 frame[AGENT_HEADER + 4];

	if (a->resized) {
		put_size(frame, a->cfg.rows, a->cfg.cols);
		a->resized = !feed_put(a->feed, frame, AGENT_HEADER + 4);
	}
	for (u8 sig = 1; a->signals && sig < 64; sig++) {
		if (!(a->signals & BIT(sig)))
			continue;
		put_frame(frame, AGENT_SIGNAL, &sig, 1);
		if (!feed_put(a->feed, frame, AGENT_HEADER + 1))
			return;
		a->signals &= ~BIT(sig);
	}
}

/* Whole frames only, so that the other types are never held up inside one. */
static void send_stdin(struct agent *a)
{
	u8 frame[AGENT_HEADER + STDIN_FRAME];

	while (a->stdin_len) {
		size_t most = MIN((size_t)credit(a), feed_room(a->feed));
		size_t n = MIN(a->stdin_len, (size_t)STDIN_FRAME), run;

		if (most <= AGENT_HEADER)
			return;
		n = MIN(n, most - AGENT_HEADER);
		put_header(frame, AGENT_STDIN, n);
		run = MIN(n, STDIN_SIZE - a->stdin_tail);
		memcpy(frame + AGENT_HEADER, a->stdin_buf + a->stdin_tail, run);
		memcpy(frame + AGENT_HEADER + run, a->stdin_buf, n - run);
		if (!feed_put(a->feed, frame, AGENT_HEADER + n))
			return;
		pay(a, AGENT_HEADER + n);
		a->stdin_tail = (a->stdin_tail + n) % STDIN_SIZE;
		a->stdin_len -= n;
	}
	if (!a->stdin_eof || a->stdin_done || credit(a) < AGENT_HEADER)
		return;
	put_header(frame, AGENT_STDIN, 0);
	if (feed_put(a->feed, frame, AGENT_HEADER)) {
		pay(a, AGENT_HEADER);
		a->stdin_done = true;
	}
}

/* Something came from the guest, or there is something to send. */
static void agent_step(void *opaque)
{
	struct agent *a = opaque;
	size_t before = a->stdin_len;
	struct from_guest now;

	pthread_mutex_lock(&a->lock);
	now = a->in;
	pthread_mutex_unlock(&a->lock);
	if (!now.hello || a->told_end)
		return;
	if (!a->told_hello) {
		a->told_hello = true;
		if (now.bad_version)
			log_warn("the guest's agent speaks another version of the "
				 "protocol");
		a->cfg.hello(a->cfg.opaque);
	}
	if (now.exited) {
		a->told_end = true;
		a->cfg.ended(a->cfg.opaque);
		return;
	}
	if (!send_request(a))
		return;
	send_control(a);
	send_stdin(a);
	if (a->stdin_len < before)
		a->cfg.room(a->cfg.opaque);
}

/* ---- public ---- */

int agent_new(struct agent **agent, const struct agent_config *cfg, struct error *err)
{
	struct agent *a = xzalloc(sizeof(*a));
	int ret;

	pthread_mutex_init(&a->lock, NULL);
	a->cfg = *cfg;
	a->work = (struct loop_work){ .run = agent_step, .opaque = a };
	ret = build_request(a, err);
	if (ret) {
		agent_free(a);
		return ret;
	}
	*agent = a;
	return 0;
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	pthread_mutex_destroy(&a->lock);
	free(a->request);
	free(a);
}

void agent_attach(struct agent *a, struct loop *loop, struct serial *port)
{
	a->loop = loop;
	a->port = port;
	a->feed = feed_new(port, FEED_SIZE);
	feed_set_notify(a->feed, loop, agent_step, a);
}

void agent_detach(struct agent *a)
{
	if (!a->loop)
		return;
	loop_unpost(a->loop, &a->work);
	feed_free(a->feed);
	a->feed = NULL;
	a->loop = NULL;
	a->port = NULL;
}

size_t agent_room(struct agent *a)
{
	return STDIN_SIZE - a->stdin_len;
}

void agent_input(struct agent *a, const u8 *buf, size_t len)
{
	for (size_t i = 0; i < len && a->stdin_len < STDIN_SIZE; i++)
		a->stdin_buf[(a->stdin_tail + a->stdin_len++) % STDIN_SIZE] = buf[i];
	agent_step(a);
}

void agent_input_end(struct agent *a)
{
	a->stdin_eof = true;
	agent_step(a);
}

bool agent_started(const struct agent *a)
{
	return a->request_off == a->request_len;
}

void agent_signal(struct agent *a, int sig)
{
	if (sig > 0 && sig < 64)
		a->signals |= BIT(sig);
	agent_step(a);
}

void agent_resize(struct agent *a, u16 rows, u16 cols)
{
	a->cfg.rows = rows;
	a->cfg.cols = cols;
	a->resized = true;
	agent_step(a);
}

int agent_status(struct agent *a)
{
	int status = -1;

	pthread_mutex_lock(&a->lock);
	if (a->in.exited)
		status = a->in.how == AGENT_SIGNALED ? 128 + (a->in.number & 0x7f)
						     : a->in.number;
	pthread_mutex_unlock(&a->lock);
	return status;
}
