/*
 * A disk served by an NBD server, through libnbd: the lowest layer, beside files.
 *
 * Only the user can name one, never an image. Requests wait, each on a connection of its
 * own: up to four if the server says that connections see each other's writes. Not there
 * yet: status of extents.
 *
 * Time limits. A command that is not answered within ANSWER seconds, or STOP seconds when
 * the handle is told to hurry, costs its connection, since only then nobody writes to
 * its buffer any more. When the last one is gone the disk is lost: requests are -EIO, or
 * wait for up to 'reconnect_delay' and are done again. A request that finds the disk
 * lost connects anew, at most once in 'backoff'; while one does, others do not.
 *
 * A server that comes back may have lost what it had not made stable. If there was such,
 * the next flush is -EIO, once: nothing is lost silently.
 *
 * Worker threads. 'lock' covers all but the connection that a thread has taken.
 */
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "block/node.h"

enum { CONNECTIONS = 4 };

/* Seconds. */
enum {
	ANSWER = 30,      /* for a command to be answered, and to connect at first */
	STOP = 5,         /* the same while the machine stops or ends */
	CONNECT = 5,      /* to connect again */
	BYE = 1,          /* for the server to hang up at the end */
	BACKOFF_MAX = 32, /* between two attempts to connect */
	STEADY = 60,      /* a connection that lived that long is no part of a series */
};

#define BOUNCE MiB(4)
#define SLICE  (NSEC_PER_SEC / 10) /* to look whether to hurry */
#define LOST   (-ENOTCONN)         /* of a command: its connection is gone */

struct nbd_disk {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a connection is free, or came, or went */
	struct {
		struct nbd_handle *h; /* NULL: gone */
		bool taken;
	} conn[CONNECTIONS];
	bool can_flush, can_trim, can_zero;
	bool complained; /* of an answer that was an error, or of another disk */
	u64 size;
	/* Lost, or not: */
	unsigned connected; /* how many there are */
	bool connecting;
	unsigned backoff; /* seconds */
	i64 since;        /* when it was connected, or lost */
	i64 retry_at;
	/* Writes done, and how many of them a flush has made stable. */
	u64 writes, stable;
	bool doubtful; /* of some nobody knows */
};

/* ---- waiting, with limits ---- */

static i64 now_of(const struct block_node *n)
{
	return n->env->host->now();
}

/* When what began at 'start' and may take 'seconds' has to end. */
static i64 end_of(const struct block_node *n, i64 start, unsigned seconds)
{
	i64 end = start + seconds * NSEC_PER_SEC, hurry = atomic_load(&n->env->hurry);

	return hurry ? MIN(end, MAX(start, hurry) + STOP * NSEC_PER_SEC) : end;
}

/* Locked. */
static void wait_slice(struct nbd_disk *d)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += SLICE;
	until.tv_sec += until.tv_nsec / NSEC_PER_SEC;
	until.tv_nsec %= NSEC_PER_SEC;
	pthread_cond_clockwait(&d->changed, &d->lock, CLOCK_MONOTONIC, &until);
}

static bool is_gone(struct nbd_handle *h)
{
	return nbd_aio_is_dead(h) == 1 || nbd_aio_is_closed(h) == 1;
}

/* 0, -errno as the server answered, or LOST with *why. */
static int finish(const struct block_node *n, struct nbd_handle *h, i64 cookie,
		  const char **why)
{
	i64 start = now_of(n);
	int done = cookie < 0 ? -1 : 0;
	bool broken = false;

	*why = NULL;
	while (!done) {
		done = nbd_aio_command_completed(h, (u64)cookie);
		if (done)
			break;
		if (now_of(n) >= end_of(n, start, ANSWER)) {
			*why = "no answer";
			return LOST;
		}
		broken = nbd_poll(h, SLICE / 1000000) < 0;
		done = -broken;
	}
	if (done > 0)
		return 0;
	if (!broken && is_gone(h)) {
		*why = "it hung up";
		return LOST;
	}
	*why = nbd_get_error();
	if (broken)
		return LOST;
	switch (nbd_get_errno()) {
	case ENOSPC: return -ENOSPC;
	case EPERM: return -EPERM;
	default: return -EIO;
	}
}

/* NULL and *why. */
static struct nbd_handle *connect_one(const struct block_node *n, unsigned seconds,
				      const char **why)
{
	struct nbd_handle *h = nbd_create();
	i64 start = now_of(n);

	*why = NULL;
	if (!h || nbd_aio_connect_uri(h, n->path))
		goto fail;
	while (nbd_aio_is_connecting(h) == 1 || nbd_aio_is_negotiating(h) == 1) {
		if (now_of(n) >= end_of(n, start, seconds)) {
			*why = "no answer";
			goto fail;
		}
		if (nbd_poll(h, SLICE / 1000000) < 0)
			goto fail;
	}
	if (nbd_aio_is_ready(h) == 1)
		return h;
fail:
	if (!*why)
		*why = nbd_get_error();
	if (!*why)
		*why = "the server hung up";
	nbd_close(h);
	return NULL;
}

/* ---- connections ---- */

/* Locked: connection 'i', whose thread this is, is gone. */
static void lose(struct block_node *n, unsigned i)
{
	struct nbd_disk *d = n->impl;
	i64 now = now_of(n);

	nbd_close(d->conn[i].h);
	d->conn[i].h = NULL;
	if (--d->connected)
		return;
	d->backoff = now - d->since >= STEADY * NSEC_PER_SEC ? 0 : MAX(d->backoff, 1u);
	d->since = now;
	d->retry_at = now + d->backoff * NSEC_PER_SEC;
	d->doubtful |= d->can_flush && d->writes != d->stable;
	d->stable = d->writes;
}

/* The server as it was: size, and what can be done. */
static int look(struct nbd_disk *d, struct nbd_handle *h, bool write, const char **why)
{
	i64 size = nbd_get_size(h);

	if (size < 0)
		*why = nbd_get_error();
	else if (write && nbd_is_read_only(h) == 1)
		*why = "the server lets nobody write; readonly=on is needed";
	else if (d->size && (u64)size != d->size)
		*why = "the server is back with another size";
	else
		*why = NULL;
	if (*why)
		return -EIO;
	d->size = (u64)size;
	d->can_flush = nbd_can_flush(h) == 1;
	d->can_trim = nbd_can_trim(h) == 1;
	d->can_zero = nbd_can_zero(h) == 1;
	return 0;
}

/* Locked; the lock is not held while it waits. */
static void reconnect(struct block_node *n)
{
	struct nbd_disk *d = n->impl;
	struct nbd_handle *h;
	const char *why;

	d->connecting = true;
	pthread_mutex_unlock(&d->lock);
	h = connect_one(n, CONNECT, &why);
	pthread_mutex_lock(&d->lock);
	d->connecting = false;
	if (h && look(d, h, !n->readonly, &why)) {
		if (!d->complained)
			log_error("%s: %s", n->path, why);
		d->complained = true;
		nbd_close(h);
		h = NULL;
	}
	if (h) {
		log_warn("%s: connected again", n->path);
		d->conn[0].h = h;
		d->connected = 1;
		d->complained = false;
		d->since = now_of(n);
	}
	/* Doubled on success too: a server may come and go. */
	d->backoff = MIN(MAX(2 * d->backoff, 1u), (unsigned)BACKOFF_MAX);
	d->retry_at = now_of(n) + d->backoff * NSEC_PER_SEC;
	pthread_cond_broadcast(&d->changed);
}

/* Locked. A connection for this thread alone, or -EIO when the disk is lost. */
static int take(struct block_node *n)
{
	struct nbd_disk *d = n->impl;

	for (;;) {
		i64 now = now_of(n);

		for (int i = 0; i < CONNECTIONS; i++) {
			if (!d->conn[i].h || d->conn[i].taken)
				continue;
			d->conn[i].taken = true;
			return i;
		}
		if (d->connected) {
			wait_slice(d);
			continue;
		}
		if (atomic_load(&n->env->hurry))
			return -EIO;
		if (!d->connecting && now >= d->retry_at)
			reconnect(n);
		else if (now < d->since + n->env->reconnect_delay * NSEC_PER_SEC)
			wait_slice(d);
		else
			return -EIO;
	}
}

/* Locked. The connection is given back, or was lost as 'ret' says. */
static void give(struct block_node *n, unsigned i, int ret, const char *why)
{
	struct nbd_disk *d = n->impl;

	if (ret == LOST) {
		lose(n, i);
		if (!d->connected)
			log_error("%s: the server is lost, requests %s: %s", n->path,
				  n->env->reconnect_delay && !atomic_load(&n->env->hurry)
					  ? "wait for it"
					  : "fail",
				  why ? why : "it hung up");
	} else if (ret && !d->complained) {
		d->complained = true;
		log_error("%s: %s", n->path, why ? why : strerror(-ret));
	}
	d->conn[i].taken = false;
	pthread_cond_broadcast(&d->changed);
}

/* ---- requests ---- */

static int transfer(const struct block_node *n, struct nbd_handle *h, enum block_op op,
		    u64 off, u64 len, const struct iovec *iov, unsigned cnt,
		    const char **why)
{
	u8 *buf = cnt > 1 || len > BOUNCE ? malloc(MIN(len, BOUNCE)) : iov->iov_base;
	bool own = buf != iov->iov_base;
	int ret = buf ? 0 : -ENOMEM;

	for (u64 done = 0; done < len && !ret; done += BOUNCE) {
		u64 part = MIN(len - done, BOUNCE);

		if (own && op == BLOCK_WRITE)
			iov_to(iov, cnt, done, buf, part);
		ret = finish(n, h,
			     op == BLOCK_READ ? nbd_aio_pread(h, buf, part, off + done,
							      NBD_NULL_COMPLETION, 0)
					      : nbd_aio_pwrite(h, buf, part, off + done,
							       NBD_NULL_COMPLETION, 0),
			     why);
		if (own && op == BLOCK_READ && !ret)
			iov_from(iov, cnt, done, buf, part);
	}
	/* Of a lost connection nothing is read any more: it is only closed. */
	if (own)
		free(buf);
	return ret;
}

/* Whatever the length, in pieces that the protocol can say. */
static int trim_or_zero(const struct block_node *n, struct nbd_handle *h,
			enum block_op op, u64 off, u64 len, unsigned flags,
			const char **why)
{
	const struct nbd_disk *d = n->impl;
	int ret = 0;

	while (len && !ret) {
		u64 part = MIN(len, GiB(1));

		if (op == BLOCK_DISCARD)
			ret = finish(n, h,
				     nbd_aio_trim(h, part, off, NBD_NULL_COMPLETION, 0),
				     why);
		else if (d->can_zero)
			ret = finish(n, h,
				     nbd_aio_zero(h, part, off, NBD_NULL_COMPLETION,
						  flags & BLOCK_UNMAP
							  ? 0
							  : LIBNBD_CMD_FLAG_NO_HOLE),
				     why);
		if (op == BLOCK_ZERO && !d->can_zero) {
			struct iovec iov = { NULL, part = MIN(part, BOUNCE) };

			iov.iov_base = calloc(1, part);
			ret = iov.iov_base ? transfer(n, h, BLOCK_WRITE, off, part, &iov,
						      1, why)
					   : -ENOMEM;
			free(iov.iov_base);
		}
		off += part;
		len -= part;
	}
	return ret;
}

/* Once, on a connection that the thread has taken. */
static int try_io(const struct block_node *n, struct nbd_handle *h, enum block_op op,
		  u64 off, u64 len, const struct iovec *iov, unsigned cnt, unsigned flags,
		  bool flush, const char **why)
{
	int ret = 0;

	*why = NULL;
	if (len && (op == BLOCK_READ || op == BLOCK_WRITE))
		ret = transfer(n, h, op, off, len, iov, cnt, why);
	else if (op != BLOCK_FLUSH)
		ret = trim_or_zero(n, h, op, off, len, flags, why);
	if (!ret && flush)
		ret = finish(n, h, nbd_aio_flush(h, NBD_NULL_COMPLETION, 0), why);
	return ret;
}

/* Locked: may this flush succeed? */
static bool flush_allowed(const struct block_node *n)
{
	struct nbd_disk *d = n->impl;

	if (!d->doubtful)
		return true;
	d->doubtful = false;
	log_error("%s: what was written before the server was lost may be lost too: a "
		  "flush fails",
		  n->path);
	return false;
}

/* Locked. One attempt; LOST when it can be made again. */
static int one_io(struct block_node *n, enum block_op op, u64 off, u64 len,
		  const struct iovec *iov, unsigned cnt, unsigned flags)
{
	struct nbd_disk *d = n->impl;
	bool flush = (op == BLOCK_FLUSH || flags & BLOCK_FUA) && !n->readonly &&
		     n->env->cache != BLOCK_CACHE_UNSAFE;
	const char *why;
	u64 writes;
	int ret, i = take(n);

	if (i < 0)
		return i;
	flush = flush && d->can_flush;
	if (flush && !flush_allowed(n)) {
		give(n, (unsigned)i, 0, NULL);
		return -EIO;
	}
	writes = d->writes;
	pthread_mutex_unlock(&d->lock);
	ret = try_io(n, d->conn[i].h, op, off, len, iov, cnt, flags, flush, &why);
	pthread_mutex_lock(&d->lock);
	if (!ret && op != BLOCK_READ && op != BLOCK_FLUSH)
		d->writes++;
	if (!ret && flush)
		d->stable = MAX(d->stable, writes);
	give(n, (unsigned)i, ret, why);
	return ret;
}

/* Locked. It has no effect: unused space stays, or what was written is stable already. */
static bool nothing_to_do(const struct block_node *n, enum block_op op)
{
	const struct nbd_disk *d = n->impl;

	switch (op) {
	case BLOCK_DISCARD: return !n->env->discard || !d->can_trim;
	case BLOCK_FLUSH:
		return !d->can_flush || n->readonly ||
		       n->env->cache == BLOCK_CACHE_UNSAFE ||
		       (d->writes == d->stable && !d->doubtful);
	default: return false;
	}
}

static int nbd_io(struct block_node *n, enum block_op op, u64 off, u64 len,
		  const struct iovec *iov, unsigned cnt, unsigned flags)
{
	struct nbd_disk *d = n->impl;
	i64 again_until =
		now_of(n) + (i64)(ANSWER + n->env->reconnect_delay) * NSEC_PER_SEC;
	int ret;

	if (n->readonly && op != BLOCK_READ && op != BLOCK_FLUSH)
		return -EROFS;
	pthread_mutex_lock(&d->lock);
	ret = nothing_to_do(n, op) ? 0 : LOST;
	while (ret == LOST) {
		ret = one_io(n, op, off, len, iov, cnt, flags);
		if (ret == LOST && (!n->env->reconnect_delay || now_of(n) >= again_until))
			ret = -EIO;
	}
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static int nbd_status(struct block_node *n, u64 off, u64 len, struct block_extent *e)
{
	(void)n;
	*e = (struct block_extent){
		.len = len, .kind = EXTENT_DATA, .has_host = true, .host_off = off
	};
	return 0;
}

static int nbd_resize(struct block_node *n, u64 size, struct error *err)
{
	(void)size;
	return error_set(err, -ENOTSUP, "%s: the server decides on its size", n->path);
}

/* In order, if the server lets us. */
static void hang_up(const struct block_node *n, struct nbd_handle *h)
{
	i64 start = now_of(n);

	if (nbd_aio_disconnect(h, 0))
		return;
	while (!is_gone(h) && now_of(n) < start + BYE * NSEC_PER_SEC &&
	       nbd_poll(h, SLICE / 1000000) >= 0)
		;
}

static int nbd_disk_close(struct block_node *n)
{
	struct nbd_disk *d = n->impl;

	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (d->conn[i].h)
			hang_up(n, d->conn[i].h);
		nbd_close(d->conn[i].h);
	}
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	free(d);
	return 0;
}

static const struct block_ops nbd_ops = {
	.name = "raw",
	.io = nbd_io,
	.status = nbd_status,
	.resize = nbd_resize,
	.close = nbd_disk_close,
};

bool nbd_is_uri(const char *path)
{
	return !strncmp(path, "nbd://", 6) || !strncmp(path, "nbds://", 7) ||
	       !strncmp(path, "nbd+unix://", 11) || !strncmp(path, "nbds+unix://", 12);
}

int nbd_open(struct block_node **node, const struct block_env *env, const char *uri,
	     bool write, struct error *err)
{
	struct block_node *n = node_new(&nbd_ops, env, uri);
	struct nbd_disk *d = xzalloc(sizeof(*d));
	const char *why;

	n->impl = d;
	n->readonly = !write;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->changed, NULL);
	d->conn[0].h = connect_one(n, ANSWER, &why);
	if (!d->conn[0].h || look(d, d->conn[0].h, write, &why)) {
		int ret = error_set(err, -EIO, "%s: %s", uri, why);

		node_close(n);
		return ret;
	}
	d->connected = 1;
	d->since = now_of(n);
	while (d->connected < CONNECTIONS && nbd_can_multi_conn(d->conn[0].h) == 1) {
		d->conn[d->connected].h = connect_one(n, ANSWER, &why);
		if (!d->conn[d->connected].h)
			break;
		d->connected++;
	}
	/* The tail of a sector cannot be asked for. */
	n->size = align_down(d->size, BLOCK_SECTOR);
	*node = n;
	return 0;
}
