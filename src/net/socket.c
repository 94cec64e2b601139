/*
 * A cable of Unix sockets: between two umbra processes, or to passt.
 *
 * stream: frames behind their length in four bytes, big-endian, as QEMU's -netdev stream
 * and passt have them; one side listens and takes one peer at a time, the other
 * connects and tries again when the peer goes. dgram: each frame is a datagram, from
 * 'local' to 'peer'. The peer is as hostile as a guest: a length that cannot be ends
 * the connection.
 *
 * A system call for each frame would be most of the cost: frames to a stream are gathered
 * until the thread waits, those from a peer are joined (merge.h). A peer that does not
 * read for a moment holds up the guest; one that hangs loses whole frames.
 *
 * Runs on the network's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "net/backend.h"
#include "net/merge.h"

#define READS_MAX  64
#define RETRY_MSEC 500
#define OUT_MAX    MiB(1)
#define OUT_HIGH   KiB(256) /* the guest waits */
#define OUT_BATCH  KiB(64)  /* worth a system call */
#define HUNG_MSEC  500      /* a peer that took nothing for so long */
#define LEN_SIZE   4u

struct cable {
	struct net *n;
	bool stream;
	int listener, fd; /* -1: none */
	int listener_at, fd_at;
	char *local, *peer; /* paths; NULL */
	struct sockaddr_un to;
	struct net_merge *merge;
	/* Stream: out[out_at, out_len) is what the peer did not take yet. */
	u8 *out;
	size_t out_at, out_len;
	bool blocked, hung; /* it takes nothing now; for long */
	i64 blocked_at;
	i64 retry_at; /* 0: now */
	/* An unfinished frame from it. */
	u32 in_len;
	u8 in[LEN_SIZE + NET_FRAME_MAX];
};

static int address(struct sockaddr_un *a, const char *path, struct error *err)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a->sun_path))
		return error_set(err, -EINVAL, "network socket %s: the path is too long",
				 path);
	strcpy(a->sun_path, path);
	return 0;
}

static void disconnect(struct cable *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	net_reopened(c->n);
	c->out_at = c->out_len = 0;
	c->blocked = c->hung = false;
	c->in_len = 0;
}

static int connect_to(struct cable *c)
{
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		return -errno;
	if (connect(c->fd, (struct sockaddr *)&c->to, sizeof(c->to))) {
		int ret = -errno;

		close(c->fd);
		c->fd = -1;
		return ret;
	}
	net_reopened(c->n);
	return 0;
}

/* ---- sending ---- */

static i64 now_msec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (i64)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void flush_out(struct cable *c)
{
	ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at,
			 MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		disconnect(c);
		return;
	}
	if (n > 0) {
		c->out_at += (size_t)n;
		c->hung = false;
	}
	if (c->out_at == c->out_len) {
		c->out_at = c->out_len = 0;
		c->blocked = false;
	} else if (n > 0 || !c->blocked) {
		c->blocked = true;
		c->blocked_at = now_msec();
	}
}

/* Without room a frame is lost, as a whole. */
static void send_stream(struct cable *c, const struct net_frame *f)
{
	u8 *at;

	if (c->out_at && c->out_len + LEN_SIZE + f->len > OUT_MAX) {
		c->out_len -= c->out_at;
		memmove(c->out, c->out + c->out_at, c->out_len);
		c->out_at = 0;
	}
	if (c->out_len + LEN_SIZE + f->len > OUT_MAX)
		return;
	at = c->out + c->out_len;
	at[0] = (u8)(f->len >> 24);
	at[1] = (u8)(f->len >> 16);
	at[2] = (u8)(f->len >> 8);
	at[3] = (u8)f->len;
	memcpy(at + LEN_SIZE, f->data, f->len);
	c->out_len += LEN_SIZE + f->len;
	if (!c->blocked && c->out_len - c->out_at >= OUT_BATCH)
		flush_out(c);
}

static void cable_send(void *opaque, const struct net_frame *f)
{
	struct cable *c = opaque;

	if (c->fd < 0)
		return;
	if (c->stream)
		send_stream(c, f);
	else if (c->to.sun_path[0])
		sendto(c->fd, f->data, f->len, MSG_NOSIGNAL | MSG_DONTWAIT,
		       (struct sockaddr *)&c->to, sizeof(c->to));
	else
		send(c->fd, f->data, f->len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool cable_takes(void *opaque)
{
	struct cable *c = opaque;

	return !c->blocked || c->hung || c->out_len - c->out_at < OUT_HIGH;
}

/* ---- waiting ---- */

/* Look again when a peer that is blocked would count as hung. */
static void watch_blocked(struct cable *c, struct net_poll *p)
{
	i64 left = c->blocked_at + HUNG_MSEC - now_msec();

	c->hung |= left <= 0;
	if (!c->hung && (p->timeout < 0 || p->timeout > left))
		p->timeout = (int)left;
}

/* Not more often than every RETRY_MSEC. */
static void connect_again(struct cable *c, struct net_poll *p)
{
	i64 left = c->retry_at - now_msec();

	if (left <= 0) {
		if (!connect_to(c))
			return;
		left = RETRY_MSEC;
		c->retry_at = now_msec() + left;
	}
	if (p->timeout < 0 || p->timeout > left)
		p->timeout = (int)left;
}

static void cable_flush(void *opaque)
{
	struct cable *c = opaque;

	if (c->fd >= 0 && c->out_len && !c->blocked)
		flush_out(c);
}

static void cable_fill(void *opaque, struct net_poll *p)
{
	struct cable *c = opaque;
	short events = net_wants(c->n) ? POLLIN : 0;

	c->fd_at = c->listener_at = -1;
	cable_flush(c);
	if (c->fd < 0 && c->stream && c->peer)
		connect_again(c, p);
	if (c->fd < 0 && c->listener >= 0)
		c->listener_at = net_poll_add(p, c->listener, POLLIN);
	if (c->blocked) {
		events |= POLLOUT;
		watch_blocked(c, p);
	}
	if (c->fd >= 0 && events)
		c->fd_at = net_poll_add(p, c->fd, events);
}

/* Length of the frame that begins at 'p'. */
static u32 frame_len(const u8 *p)
{
	return (u32)p[0] << 24 | (u32)p[1] << 16 | (u32)p[2] << 8 | p[3];
}

/* All whole frames in c->in. False: the peer breaks the rules. */
static bool split_frames(struct cable *c)
{
	u32 at = 0;

	while (c->in_len - at >= LEN_SIZE) {
		u32 len = frame_len(c->in + at);

		if (len < NET_ETH_MIN || len > NET_FRAME_MAX)
			return false;
		if (c->in_len - at - LEN_SIZE < len)
			break;
		net_merge_add(c->merge, c->in + at + LEN_SIZE, len);
		at += LEN_SIZE + len;
	}
	c->in_len -= at;
	memmove(c->in, c->in + at, c->in_len);
	return true;
}

static void read_stream(struct cable *c)
{
	for (unsigned i = 0; i < READS_MAX && net_wants(c->n); i++) {
		ssize_t n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len,
				 MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n > 0)
			c->in_len += (u32)n;
		if (n > 0 && split_frames(c))
			continue;
		if (n > 0)
			guest_bug("net", "%s: the peer sent no frames", net_id(c->n));
		disconnect(c);
		return;
	}
}

static void read_dgrams(struct cable *c)
{
	for (unsigned i = 0; i < READS_MAX && net_wants(c->n); i++) {
		ssize_t n = recv(c->fd, c->in, sizeof(c->in), MSG_DONTWAIT | MSG_TRUNC);

		if (n < 0)
			return;
		if (n < NET_ETH_MIN || n > NET_FRAME_MAX)
			continue;
		net_merge_add(c->merge, c->in, (u32)n);
	}
}

static void cable_ready(void *opaque, const struct net_poll *p)
{
	struct cable *c = opaque;
	short events = c->fd_at >= 0 ? p->fds[c->fd_at].revents : 0;

	if (c->listener_at >= 0 && p->fds[c->listener_at].revents) {
		c->fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		net_reopened(c->n);
	}
	if (events & POLLOUT && c->out_len)
		flush_out(c);
	if (c->fd < 0 || !(events & (POLLIN | POLLHUP | POLLERR)))
		return;
	if (c->stream)
		read_stream(c);
	else
		read_dgrams(c);
	net_merge_flush(c->merge);
}

static void on_merged(void *opaque, struct net_frame *f)
{
	struct cable *c = opaque;

	net_deliver(c->n, f);
}

static void cable_close(void *opaque)
{
	struct cable *c = opaque;

	disconnect(c);
	if (c->listener >= 0)
		close(c->listener);
	if (c->local)
		unlink(c->local);
	free(c->local);
	free(c->peer);
	free(c->out);
	net_merge_free(c->merge);
	free(c);
}

static const struct net_ops cable_ops = {
	.fill = cable_fill,
	.flush = cable_flush,
	.ready = cable_ready,
	.send = cable_send,
	.takes = cable_takes,
	.close = cable_close,
};

/* ---- set-up ---- */

/* A name that nobody listens at was left behind. */
static bool is_stale(const struct sockaddr_un *a, int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) &&
		     errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return stale;
}

static int bind_local(struct cable *c, const char *path, int *fd, struct error *err)
{
	int type = c->stream ? SOCK_STREAM : SOCK_DGRAM;
	struct sockaddr_un a;

	if (address(&a, path, err))
		return -EINVAL;
	if (is_stale(&a, type))
		unlink(path);
	*fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*fd < 0 || bind(*fd, (struct sockaddr *)&a, sizeof(a)) ||
	    (c->stream && listen(*fd, 1)))
		return error_set(err, -errno, "network socket %s: %s", path,
				 strerror(errno));
	c->local = xstrdup(path);
	return 0;
}

static int open_fd(struct cable *c, int fd, struct error *err)
{
	socklen_t len = sizeof(int);
	int type, flags = fcntl(fd, F_GETFL);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || flags < 0 ||
	    type != (c->stream ? SOCK_STREAM : SOCK_DGRAM))
		return error_set(err, -EINVAL, "network: fd=%d is no %s socket", fd,
				 c->stream ? "stream" : "datagram");
	c->fd = fd;
	return 0;
}

int net_socket_open(struct net_backend *b, struct net *n, const struct net_config *cfg,
		    struct error *err)
{
	struct cable *c = xzalloc(sizeof(*c));
	int ret;

	c->n = n;
	c->stream = cfg->kind == NET_STREAM;
	c->listener = c->fd = -1;
	c->merge = net_merge_new(on_merged, c, false);
	b->ops = &cable_ops;
	b->opaque = c;
	if (c->stream)
		c->out = xzalloc(OUT_MAX);
	if (cfg->fd)
		return open_fd(c, cfg->fd, err);
	if (cfg->peer) {
		if (address(&c->to, cfg->peer, err))
			return -EINVAL;
		c->peer = xstrdup(cfg->peer);
	}
	if (cfg->local)
		return bind_local(c, cfg->local, c->stream ? &c->listener : &c->fd, err);
	if (!c->stream)
		return error_set(err, -EINVAL, "network %s: dgram needs a local path",
				 cfg->id ? cfg->id : "");
	if (!c->peer)
		return error_set(err, -EINVAL, "network %s: stream needs a path",
				 cfg->id ? cfg->id : "");
	/* Later it may go and come back; that it is not there at first is a mistake. */
	ret = connect_to(c);
	if (ret)
		return error_set(err, ret, "network socket %s: %s", cfg->peer,
				 strerror(-ret));
	return 0;
}
