/*
 * What all layers share: buffers, and blocking I/O on a layer.
 *
 * No state, no lock.
 */
#include "block/node.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

struct block_node *node_new(const struct block_ops *ops, const struct block_env *env,
			    const char *path)
{
	struct block_node *n = xzalloc(sizeof(*n));

	n->ops = ops;
	n->env = env;
	n->path = xstrdup(path);
	return n;
}

int node_close(struct block_node *n)
{
	int ret = 0, ret_file;

	if (!n)
		return 0;
	if (n->impl)
		ret = n->ops->close(n);
	ret_file = node_close(n->file);
	if (!ret)
		ret = ret_file;
	node_close(n->backing);
	free(n->path);
	free(n);
	return ret;
}

int node_readv(struct block_node *n, u64 off, u64 len, const struct iovec *iov,
	       unsigned cnt)
{
	/* A file may grow meanwhile. */
	u64 size = __atomic_load_n(&n->size, __ATOMIC_RELAXED);
	u64 here = off >= size ? 0 : MIN(len, size - off);

	if (here < len)
		iov_zero(iov, cnt, here, len - here);
	return here ? n->ops->io(n, BLOCK_READ, off, here, iov, cnt, 0) : 0;
}

int node_writev(struct block_node *n, u64 off, u64 len, const struct iovec *iov,
		unsigned cnt)
{
	return len ? n->ops->io(n, BLOCK_WRITE, off, len, iov, cnt, 0) : 0;
}

int node_read(struct block_node *n, u64 off, void *buf, u64 len)
{
	struct iovec iov = { buf, len };

	return node_readv(n, off, len, &iov, 1);
}

int node_write(struct block_node *n, u64 off, const void *buf, u64 len)
{
	struct iovec iov = { NULL, len };

	/* An iovec has no const. */
	memcpy(&iov.iov_base, &buf, sizeof(buf));
	return node_writev(n, off, len, &iov, 1);
}

int node_flush(struct block_node *n)
{
	return n->ops->io(n, BLOCK_FLUSH, 0, 0, NULL, 0, 0);
}

int node_zero(struct block_node *n, u64 off, u64 len, unsigned flags)
{
	return len ? n->ops->io(n, BLOCK_ZERO, off, len, NULL, 0, flags) : 0;
}

int node_discard(struct block_node *n, u64 off, u64 len)
{
	return len ? n->ops->io(n, BLOCK_DISCARD, off, len, NULL, 0, 0) : 0;
}

/* ---- buffers ---- */

unsigned iov_slice(struct iovec *out, unsigned max, const struct iovec *iov, unsigned cnt,
		   u64 off, u64 len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < cnt && len && n < max; i++) {
		u64 part;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - off, len);
		out[n++] = (struct iovec){ (char *)iov[i].iov_base + off, part };
		len -= part;
		off = 0;
	}
	return n;
}

u64 iov_total(const struct iovec *iov, unsigned cnt)
{
	u64 sum = 0;

	for (unsigned i = 0; i < cnt; i++)
		if (__builtin_add_overflow(sum, iov[i].iov_len, &sum))
			return UINT64_MAX;
	return sum;
}

enum iov_way { IOV_ZERO, IOV_FROM, IOV_TO };

static void iov_move(const struct iovec *iov, unsigned cnt, u64 off, u8 *buf, u64 len,
		     enum iov_way way)
{
	for (unsigned i = 0; i < cnt && len; i++) {
		u64 part;
		u8 *at;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - off, len);
		at = (u8 *)iov[i].iov_base + off;
		if (way == IOV_ZERO) {
			memset(at, 0, part);
		} else {
			if (way == IOV_FROM)
				memcpy(at, buf, part);
			else
				memcpy(buf, at, part);
			buf += part;
		}
		len -= part;
		off = 0;
	}
}

void iov_zero(const struct iovec *iov, unsigned cnt, u64 off, u64 len)
{
	iov_move(iov, cnt, off, NULL, len, IOV_ZERO);
}

void iov_from(const struct iovec *iov, unsigned cnt, u64 off, const void *buf, u64 len)
{
	u8 *from;

	memcpy(&from, &buf, sizeof(from)); /* only read */
	iov_move(iov, cnt, off, from, len, IOV_FROM);
}

void iov_to(const struct iovec *iov, unsigned cnt, u64 off, void *buf, u64 len)
{
	iov_move(iov, cnt, off, buf, len, IOV_TO);
}

bool mem_is_zero(const void *buf, u64 len)
{
	const u8 *p = buf;

	/* Equal to itself one byte further on: all bytes are the first. */
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}
