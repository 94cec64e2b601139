/*
 * A disk served by an NBD server, through libnbd: the lowest layer, beside files.
 *
 * Only the user can name one, never an image. Calls wait, each on a connection of its
 * own: up to four if the server says that connections see each other's writes. Not there
 * yet: reconnecting, status of extents, time limits. A lost server is -EIO from then on.
 *
 * Worker threads; a connection is used by one at a time, under its lock.
 */
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "block/node.h"

enum { CONNECTIONS = 4 };

#define BOUNCE MiB(4)

struct nbd_disk {
	struct {
		struct nbd_handle *h;
		pthread_mutex_t lock;
	} conn[CONNECTIONS];
	unsigned count;
	atomic_uint next;
	bool can_flush, can_trim, can_zero;
	atomic_bool lost;
};

static int nbd_failed(struct block_node *n)
{
	struct nbd_disk *d = n->impl;
	int code = nbd_get_errno();

	if (!atomic_exchange(&d->lost, true))
		log_error("%s: %s", n->path, nbd_get_error());
	return code == ENOSPC || code == EPERM ? -code : -EIO;
}

/* A free connection, or the next one in turn. */
static unsigned take(struct nbd_disk *d)
{
	unsigned i;

	for (i = 0; i < d->count; i++)
		if (!pthread_mutex_trylock(&d->conn[i].lock))
			return i;
	i = atomic_fetch_add(&d->next, 1) % d->count;
	pthread_mutex_lock(&d->conn[i].lock);
	return i;
}

static int transfer(struct nbd_handle *h, enum block_op op, u64 off, u64 len,
		    const struct iovec *iov, unsigned cnt)
{
	u8 *buf = cnt > 1 || len > BOUNCE ? malloc(MIN(len, BOUNCE)) : iov->iov_base;
	bool own = buf != iov->iov_base;
	int ret = buf ? 0 : -ENOMEM;

	for (u64 done = 0; done < len && !ret; done += BOUNCE) {
		u64 part = MIN(len - done, BOUNCE);

		if (own && op == BLOCK_WRITE)
			iov_to(iov, cnt, done, buf, part);
		ret = op == BLOCK_READ ? nbd_pread(h, buf, part, off + done, 0)
				       : nbd_pwrite(h, buf, part, off + done, 0);
		if (own && op == BLOCK_READ && !ret)
			iov_from(iov, cnt, done, buf, part);
	}
	if (own)
		free(buf);
	return ret;
}

/* Whatever the length, in pieces that the protocol can say. */
static int trim_or_zero(struct nbd_disk *d, struct nbd_handle *h, enum block_op op,
			u64 off, u64 len, unsigned flags)
{
	int ret = 0;

	while (len && !ret) {
		u64 part = MIN(len, GiB(1));

		if (op == BLOCK_DISCARD)
			ret = nbd_trim(h, part, off, 0);
		else if (d->can_zero)
			ret = nbd_zero(h, part, off,
				       flags & BLOCK_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
		if (op == BLOCK_ZERO && !d->can_zero) {
			struct iovec iov = { NULL, part = MIN(part, BOUNCE) };

			iov.iov_base = calloc(1, part);
			ret = iov.iov_base ? transfer(h, BLOCK_WRITE, off, part, &iov, 1)
					   : -ENOMEM;
			free(iov.iov_base);
		}
		off += part;
		len -= part;
	}
	return ret;
}

static int nbd_io(struct block_node *n, enum block_op op, u64 off, u64 len,
		  const struct iovec *iov, unsigned cnt, unsigned flags)
{
	struct nbd_disk *d = n->impl;
	bool flush = op == BLOCK_FLUSH || flags & BLOCK_FUA;
	unsigned i;
	int ret = 0;

	if (n->readonly && op != BLOCK_READ && op != BLOCK_FLUSH)
		return -EROFS;
	if (op == BLOCK_DISCARD && (!n->env->discard || !d->can_trim))
		return 0;
	i = take(d);
	if (len && (op == BLOCK_READ || op == BLOCK_WRITE))
		ret = transfer(d->conn[i].h, op, off, len, iov, cnt);
	else if (op != BLOCK_FLUSH)
		ret = trim_or_zero(d, d->conn[i].h, op, off, len, flags);
	if (!ret && flush && d->can_flush && !n->readonly &&
	    n->env->cache != BLOCK_CACHE_UNSAFE)
		ret = nbd_flush(d->conn[i].h, 0);
	if (ret == -1)
		ret = nbd_failed(n);
	pthread_mutex_unlock(&d->conn[i].lock);
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

static int nbd_disk_close(struct block_node *n)
{
	struct nbd_disk *d = n->impl;

	for (unsigned i = 0; i < CONNECTIONS; i++) {
		if (d->conn[i].h && i < d->count)
			nbd_shutdown(d->conn[i].h, 0);
		nbd_close(d->conn[i].h);
		pthread_mutex_destroy(&d->conn[i].lock);
	}
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

static struct nbd_handle *connect_one(const char *uri)
{
	struct nbd_handle *h = nbd_create();

	if (h && nbd_connect_uri(h, uri)) {
		nbd_close(h);
		h = NULL;
	}
	return h;
}

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
	i64 size = 0;
	int ret = 0;

	n->impl = d;
	n->readonly = !write;
	for (unsigned i = 0; i < CONNECTIONS; i++)
		pthread_mutex_init(&d->conn[i].lock, NULL);
	d->conn[0].h = connect_one(uri);
	if (d->conn[0].h)
		size = nbd_get_size(d->conn[0].h);
	if (!d->conn[0].h || size < 0) {
		ret = error_set(err, -EIO, "%s: %s", uri, nbd_get_error());
	} else if (write && nbd_is_read_only(d->conn[0].h) == 1) {
		ret = error_set(err, -EROFS,
				"%s: the server lets nobody write; readonly=on is needed",
				uri);
	}
	if (ret) {
		node_close(n);
		return ret;
	}
	d->count = 1;
	while (d->count < CONNECTIONS && nbd_can_multi_conn(d->conn[0].h) == 1) {
		d->conn[d->count].h = connect_one(uri);
		if (!d->conn[d->count].h)
			break;
		d->count++;
	}
	d->can_flush = nbd_can_flush(d->conn[0].h) == 1;
	d->can_trim = nbd_can_trim(d->conn[0].h) == 1;
	d->can_zero = nbd_can_zero(d->conn[0].h) == 1;
	/* The tail of a sector cannot be asked for. */
	n->size = align_down((u64)size, BLOCK_SECTOR);
	*node = n;
	return 0;
}
