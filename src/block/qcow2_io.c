/*
 * Requests to a qcow2: read, write, discard, zeroes, flush.
 *
 * Requests that overlap wait for each other by the range of clusters that they hold:
 * those that only use the mapping share a range, those that change it have it alone. So
 * no cluster is freed, and no part of one copied, while another request is on its way to
 * it. A read-only image has no ranges.
 *
 * Data is written first, then the mapping changes in memory, and reaches the disk with
 * the next flush (qcow2_cache.c has the order). Lock: q->lock for the mapping, not held
 * while data moves.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

enum { COPY_IOV = BLOCK_MAX_IOV + 2 };

/* ---- ranges: q->lock ---- */

static bool conflicts(const struct qcow2 *q, u64 lo, u64 hi, bool shared)
{
	for (const struct block_range *r = q->ranges; r; r = r->next)
		if (lo < r->hi && r->lo < hi && !(shared && r->shared))
			return true;
	return false;
}

static void range_add(struct qcow2 *q, struct block_range *r, u64 off, u64 len,
		      bool shared)
{
	r->lo = align_down(off, q->cluster_size);
	r->hi = align_up(off + len, q->cluster_size);
	r->shared = shared;
	r->next = q->ranges;
	r->prev = &q->ranges;
	if (r->next)
		r->next->prev = &r->next;
	q->ranges = r;
}

static void range_lock(struct qcow2 *q, struct block_range *r, u64 off, u64 len,
		       bool shared)
{
	while (conflicts(q, align_down(off, q->cluster_size),
			 align_up(off + len, q->cluster_size), shared))
		pthread_cond_wait(&q->range_free, &q->lock);
	range_add(q, r, off, len, shared);
}

static void range_unlock(struct qcow2 *q, struct block_range *r)
{
	*r->prev = r->next;
	if (r->next)
		r->next->prev = r->prev;
	pthread_cond_broadcast(&q->range_free);
}

/* ---- reading ---- */

static int read_compressed(struct qcow2 *q, u64 entry, u64 in, u64 len,
			   const struct iovec *iov, unsigned cnt)
{
	int ret = 0;

	pthread_mutex_lock(&q->unpack_lock);
	if (!q->unpacked)
		q->unpacked = malloc(q->cluster_size);
	if (!q->unpacked)
		ret = -ENOMEM;
	else if (q->unpacked_entry != entry)
		ret = qcow2_unpack(q, entry, q->unpacked);
	q->unpacked_entry = ret ? 0 : entry;
	if (!ret)
		iov_from(iov, cnt, 0, q->unpacked + in, len);
	pthread_mutex_unlock(&q->unpack_lock);
	return ret;
}

static int read_piece(struct qcow2 *q, const struct qmap *m, u64 off,
		      const struct iovec *iov, unsigned cnt)
{
	switch (m->kind) {
	case Q_NORMAL: return node_readv(q->data, m->host, m->len, iov, cnt);
	case Q_COMPRESSED:
		return read_compressed(q, m->host, off & (q->cluster_size - 1), m->len,
				       iov, cnt);
	case Q_NONE:
		if (q->node->backing)
			return node_readv(q->node->backing, off, m->len, iov, cnt);
		break;
	default: break;
	}
	iov_zero(iov, cnt, 0, m->len);
	return 0;
}

/* The range is held, or nobody writes. */
static int read_mapped(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov,
		       unsigned cnt)
{
	struct iovec part[BLOCK_MAX_IOV];
	u64 done = 0;

	while (done < len) {
		struct qmap m;
		unsigned k;
		int ret;

		pthread_mutex_lock(&q->lock);
		ret = qcow2_lookup(q, off + done, len - done, false, &m);
		pthread_mutex_unlock(&q->lock);
		if (ret)
			return ret;
		k = iov_slice(part, ARRAY_SIZE(part), iov, cnt, done, m.len);
		m.len = MIN(m.len, iov_total(part, k));
		ret = read_piece(q, &m, off + done, part, k);
		if (ret)
			return ret;
		done += m.len;
	}
	return 0;
}

static int qcow2_read(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov,
		      unsigned cnt)
{
	struct block_range range;
	int ret;

	if (q->node->readonly)
		return read_mapped(q, off, len, iov, cnt);
	pthread_mutex_lock(&q->lock);
	range_lock(q, &range, off, len, true);
	pthread_mutex_unlock(&q->lock);
	ret = read_mapped(q, off, len, iov, cnt);
	pthread_mutex_lock(&q->lock);
	range_unlock(q, &range);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

/* ---- writing ---- */

static bool in_place(const struct qmap *m)
{
	return m->kind == Q_NORMAL && m->copied;
}

/* Locked. Data over a table would destroy the image. */
static int check_target(struct qcow2 *q, u64 host, u64 len)
{
	if (q->data != q->file)
		return 0;
	for (u64 at = align_down(host, q->cluster_size); at < host + len;
	     at += q->cluster_size)
		if (qset_has(&q->meta, at))
			return qcow2_corrupt(q,
					     "data and a table share the cluster %#llx",
					     (unsigned long long)at);
	return 0;
}

/* How many clusters from off on need a new mapping: at most to the end of the L2 table.
 */
static int count_new(struct qcow2 *q, u64 off, u64 len, u64 *clusters)
{
	u64 start = align_down(off, q->cluster_size);
	u64 to_end = (BIT(q->l2_bits) - l2_index(q, off)) << q->cluster_bits;
	u64 end = MIN(align_up(off + len, q->cluster_size), start + to_end);
	u64 at = start;

	while (at < end) {
		struct qmap m;
		int ret = qcow2_lookup(q, at, end - at, false, &m);

		if (ret)
			return ret;
		if (in_place(&m))
			break;
		at += m.len;
	}
	*clusters = (at - start) >> q->cluster_bits;
	return 0;
}

/* What is written: the old content around the new. */
struct copy {
	u64 start, host, clusters; /* of the disk; in the file */
	u8 *head, *tail;
	u64 head_len, tail_len;
	bool reuse; /* of a preallocated cluster that reads as zeroes */
};

/* Locked. Where the new clusters are. */
static int find_place(struct qcow2 *q, struct copy *c, bool *clean)
{
	struct qmap m;
	int ret = qcow2_lookup(q, c->start, c->clusters << q->cluster_bits, false, &m);

	*clean = false;
	if (ret)
		return ret;
	if (m.kind == Q_ZERO_ALLOC && m.copied) {
		c->reuse = true;
		c->host = m.host;
		c->clusters = m.len >> q->cluster_bits;
		return check_target(q, c->host, m.len);
	}
	if (q->data != q->file) {
		/* An external file has its data where the disk has it. */
		c->host = c->start;
		return q->failed ? -EIO : 0;
	}
	ret = qcow2_alloc(q, c->clusters, &c->host, &c->clusters);
	if (ret)
		return ret;
	*clean = c->host >= q->clean_from;
	q->clean_from = MAX(q->clean_from, c->host + (c->clusters << q->cluster_bits));
	return 0;
}

/* The old content of [off, off+len); *buf stays NULL where the place is zero as it is. */
static int old_content(struct qcow2 *q, u64 off, u64 len, bool clean, u8 **buf)
{
	struct iovec iov = { NULL, len };
	struct qmap m;
	int ret;

	if (!len)
		return 0;
	pthread_mutex_lock(&q->lock);
	ret = qcow2_lookup(q, off, len, false, &m);
	pthread_mutex_unlock(&q->lock);
	if (ret)
		return ret;
	if (clean && (m.kind == Q_ZERO || m.kind == Q_ZERO_ALLOC ||
		      (m.kind == Q_NONE && !q->node->backing)))
		return 0;
	*buf = iov.iov_base = aligned_alloc(MIN(q->cluster_size, 4096),
					    align_up(len, MIN(q->cluster_size, 4096)));
	if (!*buf)
		return -ENOMEM;
	return read_mapped(q, off, len, &iov, 1);
}

static int write_copy(struct qcow2 *q, const struct copy *c, const struct iovec *iov,
		      unsigned cnt, u64 at, u64 len)
{
	struct iovec out[COPY_IOV];
	unsigned n = 0;
	u64 host = c->host + c->head_len, total = len;

	if (c->head) {
		out[n++] = (struct iovec){ c->head, c->head_len };
		host -= c->head_len;
		total += c->head_len;
	}
	n += iov_slice(out + n, BLOCK_MAX_IOV, iov, cnt, at, len);
	if (c->tail) {
		out[n++] = (struct iovec){ c->tail, c->tail_len };
		total += c->tail_len;
	}
	return node_writev(q->data, host, total, out, n);
}

/* Locked. */
static int link_copy(struct qcow2 *q, const struct copy *c)
{
	u64 first = l2_index(q, c->start);
	struct qtable *t;
	int ret = qcow2_l2_for_write(q, c->start, &t);

	for (u64 i = 0; i < c->clusters && !ret; i++) {
		u64 old = l2_entry(t, first + i);
		u64 host = c->host + (i << q->cluster_bits);

		if (!c->reuse)
			qcow2_free_entry(q, old);
		l2_set(t, first + i, host | ENTRY_COPIED);
	}
	q->data_dirty = true;
	return ret;
}

/* One run of new clusters, for what of the request is in it. *done: bytes of the request.
 */
static int write_new(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov,
		     unsigned cnt, u64 at, u64 *done)
{
	struct copy c = { .start = align_down(off, q->cluster_size) };
	u64 end;
	bool clean = false;
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = count_new(q, off, len, &c.clusters);
	if (!ret)
		ret = find_place(q, &c, &clean);
	pthread_mutex_unlock(&q->lock);
	if (ret)
		return ret;
	end = c.start + (c.clusters << q->cluster_bits);
	*done = MIN(len, end - off);
	c.head_len = off - c.start;
	c.tail_len = end - (off + *done);
	ret = old_content(q, c.start, c.head_len, clean, &c.head);
	if (!ret && off + *done < q->node->size) {
		ret = old_content(q, off + *done, c.tail_len, clean, &c.tail);
	} else if (!ret && c.tail_len && !clean) {
		/* Behind the end of the disk; it may grow. */
		c.tail = calloc(1, c.tail_len);
		ret = c.tail ? 0 : -ENOMEM;
	}
	if (!ret)
		ret = write_copy(q, &c, iov, cnt, at, *done);
	pthread_mutex_lock(&q->lock);
	if (!ret)
		ret = link_copy(q, &c);
	if (ret && !c.reuse && q->data == q->file)
		qcow2_free(q, c.host, c.clusters);
	pthread_mutex_unlock(&q->lock);
	free(c.head);
	free(c.tail);
	return ret;
}

static int write_in_place(struct qcow2 *q, const struct qmap *m, const struct iovec *iov,
			  unsigned cnt, u64 at)
{
	struct iovec part[BLOCK_MAX_IOV];
	unsigned k = iov_slice(part, ARRAY_SIZE(part), iov, cnt, at, m->len);

	return node_writev(q->data, m->host, m->len, part, k);
}

/* The range is held alone, or all is in place. */
static int write_mapped(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov,
			unsigned cnt)
{
	u64 done = 0, part;
	int ret = 0;

	while (done < len && !ret) {
		struct qmap m;

		pthread_mutex_lock(&q->lock);
		ret = q->failed ? -EIO
				: qcow2_lookup(q, off + done, len - done, false, &m);
		if (!ret && in_place(&m))
			ret = check_target(q, m.host, m.len);
		pthread_mutex_unlock(&q->lock);
		if (ret)
			break;
		part = m.len;
		if (in_place(&m))
			ret = write_in_place(q, &m, iov, cnt, done);
		else
			ret = write_new(q, off + done, len - done, iov, cnt, done, &part);
		done += part;
	}
	return ret;
}

/* Locked. */
static int all_in_place(struct qcow2 *q, u64 off, u64 len, bool *all)
{
	*all = true;
	while (len && *all) {
		struct qmap m;
		int ret = qcow2_lookup(q, off, len, false, &m);

		if (ret)
			return ret;
		*all = in_place(&m);
		off += m.len;
		len -= m.len;
	}
	return 0;
}

static int qcow2_write(struct qcow2 *q, u64 off, u64 len, const struct iovec *iov,
		       unsigned cnt)
{
	struct block_range range;
	bool all;
	int ret;

	pthread_mutex_lock(&q->lock);
	range_lock(q, &range, off, len, true);
	ret = all_in_place(q, off, len, &all);
	if (!ret && !all) {
		range_unlock(q, &range);
		range_lock(q, &range, off, len, false);
	}
	pthread_mutex_unlock(&q->lock);
	if (!ret)
		ret = write_mapped(q, off, len, iov, cnt);
	pthread_mutex_lock(&q->lock);
	range_unlock(q, &range);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

/* ---- zeroes and discards ---- */

/* Locked; the range is held alone. One cluster becomes zero, its space is kept or freed.
 */
static int zero_cluster(struct qcow2 *q, u64 off, bool keep)
{
	u64 i = l2_index(q, off), entry = 0;
	struct qtable *t;
	struct qmap m;
	int ret = qcow2_lookup(q, off, q->cluster_size, false, &m);

	if (ret || m.kind == Q_ZERO || (m.kind == Q_NONE && !q->node->backing))
		return ret;
	if (m.kind == Q_ZERO_ALLOC && keep)
		return 0;
	ret = qcow2_l2_for_write(q, off, &t);
	if (ret)
		return ret;
	entry = l2_entry(t, i);
	if (q->data != q->file || (keep && m.copied && m.kind == Q_NORMAL)) {
		l2_set(t, i, entry | ENTRY_ZERO);
		return 0;
	}
	l2_set(t, i, ENTRY_ZERO);
	if (m.kind != Q_NONE)
		qcow2_free_entry(q, entry);
	return 0;
}

/* Whole clusters, in pieces so that others get the lock in between. */
static int zero_clusters(struct qcow2 *q, u64 off, u64 len, bool keep)
{
	enum { AT_ONCE = 256 };
	int ret = 0;

	while (len && !ret) {
		u64 n = MIN(len >> q->cluster_bits, (u64)AT_ONCE);

		pthread_mutex_lock(&q->lock);
		if (q->failed)
			ret = -EIO;
		for (u64 i = 0; i < n && !ret; i++)
			ret = zero_cluster(q, off + (i << q->cluster_bits), keep);
		pthread_mutex_unlock(&q->lock);
		off += n << q->cluster_bits;
		len -= n << q->cluster_bits;
	}
	return ret;
}

static int write_zero_data(struct qcow2 *q, u64 off, u64 len)
{
	struct iovec iov = { NULL, MIN(len, MIN(q->cluster_size, MiB(1))) };
	int ret = 0;

	iov.iov_base = calloc(1, iov.iov_len);
	if (!iov.iov_base)
		return -ENOMEM;
	while (len && !ret) {
		u64 part = MIN(len, (u64)iov.iov_len);
		struct qmap m;

		/* Nothing is allocated only to hold zeroes. */
		pthread_mutex_lock(&q->lock);
		ret = qcow2_lookup(q, off, part, false, &m);
		pthread_mutex_unlock(&q->lock);
		if (ret)
			break;
		part = m.len;
		if (m.kind != Q_ZERO && m.kind != Q_ZERO_ALLOC &&
		    (m.kind != Q_NONE || q->node->backing))
			ret = write_mapped(q, off, part, &iov, 1);
		off += part;
		len -= part;
	}
	free(iov.iov_base);
	return ret;
}

/* A raw external file has to be zero itself. */
static int zero_data_file(struct qcow2 *q, u64 off, u64 len, unsigned flags)
{
	if (q->data == q->file)
		return 0;
	return node_zero(q->data, off, len, flags);
}

static int qcow2_zero(struct qcow2 *q, u64 off, u64 len, unsigned flags)
{
	u64 end = off + len, lo = align_up(off, q->cluster_size);
	/* The last cluster may go beyond the disk. */
	u64 hi = end == q->node->size ? align_up(end, q->cluster_size)
				      : align_down(end, q->cluster_size);
	bool keep = !(flags & BLOCK_UNMAP && q->node->env->discard);
	struct block_range range;
	int ret = 0;

	if (lo >= hi || q->version < 3)
		lo = hi = end;
	pthread_mutex_lock(&q->lock);
	range_lock(q, &range, off, len, false);
	pthread_mutex_unlock(&q->lock);
	if (lo > off)
		ret = write_zero_data(q, off, MIN(lo, end) - off);
	if (!ret && hi > lo)
		ret = zero_data_file(q, lo, MIN(hi, end) - lo, flags);
	if (!ret && hi > lo)
		ret = zero_clusters(q, lo, hi - lo, keep);
	if (!ret && end > hi)
		ret = write_zero_data(q, hi, end - hi);
	pthread_mutex_lock(&q->lock);
	range_unlock(q, &range);
	pthread_mutex_unlock(&q->lock);
	return ret;
}

/* Whole clusters only; version 2 cannot say "zero", so there it does nothing. */
static int qcow2_discard(struct qcow2 *q, u64 off, u64 len)
{
	u64 lo = align_up(off, q->cluster_size), end = off + len;
	u64 hi = align_down(end, q->cluster_size);

	if (!q->node->env->discard || lo >= hi || q->version < 3)
		return 0;
	return qcow2_zero(q, lo, hi - lo, BLOCK_UNMAP);
}

static int qcow2_flush(struct qcow2 *q)
{
	int ret = 0;

	if (q->node->readonly)
		return 0;
	pthread_mutex_lock(&q->lock);
	if (q->failed)
		ret = -EIO;
	else if (qcow2_is_dirty(q))
		ret = qcow2_sync(q, true);
	else {
		/* Data that was written in place needs no order, and so no lock. */
		pthread_mutex_unlock(&q->lock);
		if (q->data != q->file)
			ret = node_flush(q->data);
		return ret ? ret : node_flush(q->file);
	}
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static int qcow2_io(struct block_node *n, enum block_op op, u64 off, u64 len,
		    const struct iovec *iov, unsigned cnt, unsigned flags)
{
	struct qcow2 *q = n->impl;
	int ret = -EINVAL;

	if (n->readonly && op != BLOCK_READ && op != BLOCK_FLUSH)
		return -EROFS;
	switch (op) {
	case BLOCK_READ: return qcow2_read(q, off, len, iov, cnt);
	case BLOCK_WRITE: ret = qcow2_write(q, off, len, iov, cnt); break;
	case BLOCK_FLUSH: return qcow2_flush(q);
	case BLOCK_DISCARD: ret = qcow2_discard(q, off, len); break;
	case BLOCK_ZERO: ret = qcow2_zero(q, off, len, flags); break;
	}
	if (!ret && flags & BLOCK_FUA)
		ret = qcow2_flush(q);
	return ret;
}

/* ---- the short cut ---- */

static void release(struct block_req *r)
{
	struct qcow2 *q = r->p.owner;

	pthread_mutex_lock(&q->lock);
	*r->p.range.prev = r->p.range.next;
	if (r->p.range.next)
		r->p.range.next->prev = r->p.range.prev;
	pthread_cond_broadcast(&q->range_free);
	pthread_mutex_unlock(&q->lock);
}

/* Locked, by trying. The mapping in memory, one piece, nobody in the way. */
static bool map_at_once(struct qcow2 *q, const struct block_req *r, u64 off,
			struct qmap *m)
{
	u64 lo = align_down(off, q->cluster_size);

	if (q->failed || qcow2_lookup(q, off, r->len, true, m) || m->len < r->len)
		return false;
	if (r->op == BLOCK_WRITE && (!in_place(m) || check_target(q, m->host, m->len)))
		return false;
	return q->node->readonly ||
	       !conflicts(q, lo, align_up(off + r->len, q->cluster_size), true);
}

static enum node_start start_data(struct qcow2 *q, struct block_req *r, u64 off, bool now)
{
	bool ranged = !q->node->readonly;
	enum node_start started;
	struct qmap m;

	if (pthread_mutex_trylock(&q->lock))
		return START_NO;
	if (!map_at_once(q, r, off, &m)) {
		pthread_mutex_unlock(&q->lock);
		return START_NO;
	}
	/* A try is over before the lock is given back. */
	if (ranged && !now) {
		range_add(q, &r->p.range, off, r->len, true);
		r->p.owner = q;
		r->p.release = release;
	}
	if (now || !ranged) {
		struct block_node *below =
			m.kind == Q_NORMAL ? q->data
					   : (m.kind == Q_NONE ? q->node->backing : NULL);

		started = below && below->ops->start &&
					  (m.kind == Q_NORMAL ||
					   off + r->len <= below->size)
				  ? below->ops->start(below, r,
						      m.kind == Q_NORMAL ? m.host : off,
						      now)
				  : START_NO;
		if (!below && m.kind != Q_COMPRESSED && now) {
			iov_zero(r->iov, r->iovcnt, 0, r->len);
			r->p.ret = 0;
			started = START_DONE;
		}
		pthread_mutex_unlock(&q->lock);
		return started;
	}
	pthread_mutex_unlock(&q->lock);
	started = START_NO;
	if (m.kind == Q_NORMAL && q->data->ops->start)
		started = q->data->ops->start(q->data, r, m.host, false);
	if (started != START_QUEUED) {
		release(r);
		r->p.release = NULL;
	}
	return started;
}

static enum node_start qcow2_start(struct block_node *n, struct block_req *r, u64 off,
				   bool now)
{
	struct qcow2 *q = n->impl;
	enum node_start ret;
	bool clean;

	if (r->op == BLOCK_READ || (r->op == BLOCK_WRITE && !n->readonly))
		return start_data(q, r, off, now);
	if (r->op != BLOCK_FLUSH || q->data != q->file || now)
		return START_NO;
	if (pthread_mutex_trylock(&q->lock))
		return START_NO;
	clean = !q->failed && !qcow2_is_dirty(q);
	ret = clean && q->file->ops->start ? q->file->ops->start(q->file, r, 0, false)
					   : START_NO;
	pthread_mutex_unlock(&q->lock);
	return ret;
}

static int qcow2_status(struct block_node *n, u64 off, u64 len, struct block_extent *e)
{
	static const enum block_kind kinds[] = {
		[Q_NONE] = EXTENT_BACKING,
		[Q_NORMAL] = EXTENT_DATA,
		[Q_ZERO] = EXTENT_ZERO,
		[Q_ZERO_ALLOC] = EXTENT_ZERO_ALLOC,
		[Q_COMPRESSED] = EXTENT_COMPRESSED,
	};
	struct qcow2 *q = n->impl;
	struct qmap m;
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = qcow2_lookup(q, off, len, false, &m);
	pthread_mutex_unlock(&q->lock);
	if (ret)
		return ret;
	*e = (struct block_extent){ .len = m.len, .kind = kinds[m.kind] };
	e->has_host = m.kind == Q_NORMAL || m.kind == Q_ZERO_ALLOC;
	e->host_off = m.host;
	return 0;
}

const struct block_ops qcow2_ops = {
	.name = "qcow2",
	.io = qcow2_io,
	.start = qcow2_start,
	.status = qcow2_status,
	.resize = qcow2_resize,
	.close = qcow2_close,
};
