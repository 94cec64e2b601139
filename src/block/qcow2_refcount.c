/*
 * Reference counts of a qcow2: who is free, allocation, frees that wait.
 *
 * A block of counts covers a fixed piece of the file and exists when something in there
 * is used; the table lists the blocks. A new block is put into the piece that it covers
 * itself or into one that has a block already. A table that is too small is replaced by a
 * larger one behind everything that the old one covers.
 *
 * Lock: q->lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2.h"

#define PENDING_MAX 65536u

u64 refcount_get_entry(const struct qcow2 *q, const u8 *block, u64 i)
{
	unsigned order = q->refcount_order, bits = 1u << order, shift;

	if (order >= 3)
		return be_load(block + (i << (order - 3)), bits / 8);
	shift = (unsigned)(i << order & 7);
	return block[i << order >> 3] >> shift & ((1u << bits) - 1);
}

void refcount_set_entry(const struct qcow2 *q, u8 *block, u64 i, u64 v)
{
	unsigned order = q->refcount_order, bits = 1u << order, shift;
	u8 *at, mask;

	if (order >= 3) {
		be_store(block + (i << (order - 3)), v, bits / 8);
		return;
	}
	shift = (unsigned)(i << order & 7);
	at = &block[i << order >> 3];
	mask = (u8)(((1u << bits) - 1) << shift);
	*at = (u8)((*at & ~mask) | ((v << shift) & mask));
}

static u64 in_block(const struct qcow2 *q, u64 cluster)
{
	return cluster & (BIT(q->rb_bits) - 1);
}

/* The block of counts of 'cluster'; *t is NULL when there is none: all 0. */
static int get_block(struct qcow2 *q, u64 cluster, struct qtable **t)
{
	u64 i = cluster >> q->rb_bits;

	*t = NULL;
	if (i >= q->rt_size || !q->rt[i])
		return 0;
	return qcache_get(q, &q->rb, q->rt[i], t);
}

int refcount_get(struct qcow2 *q, u64 cluster, u64 *v)
{
	struct qtable *t;
	int ret = get_block(q, cluster, &t);

	if (!ret)
		*v = t ? refcount_get_entry(q, t->data, in_block(q, cluster)) : 0;
	return ret;
}

static void set_in(struct qcow2 *q, struct qtable *t, u64 i, u64 v)
{
	u32 at = (u32)(i << q->refcount_order >> 3);

	refcount_set_entry(q, t->data, i, v);
	qtable_dirty(t, at, MIN(at + 8, (u32)q->cluster_size));
}

/* ---- new blocks, and a new table ---- */

/* The first free cluster from the hint on. */
static int find_free(struct qcow2 *q, u64 *cluster)
{
	for (u64 c = q->hint;; c++) {
		u64 v;
		int ret = refcount_get(q, c, &v);

		if (ret)
			return ret;
		if (!v) {
			*cluster = c;
			return 0;
		}
	}
}

static int place_block(struct qcow2 *q, u64 index, u64 cluster)
{
	u64 off = cluster << q->cluster_bits;
	struct qtable *t;
	int ret = qcache_new(q, &q->rb, off, &t);

	if (ret)
		return ret;
	/* Its pointer is written after it, by O4. */
	q->rt[index] = off;
	if (q->rt_lo == q->rt_hi)
		q->rt_lo = q->rt_hi = (u32)index;
	q->rt_lo = MIN(q->rt_lo, (u32)index);
	q->rt_hi = MAX(q->rt_hi, (u32)index + 1);
	ret = qset_add(&q->meta, off);
	if (ret)
		return ret == -EEXIST ? qcow2_corrupt(q,
						      "a table is in free space at "
						      "%#llx",
						      (unsigned long long)off)
				      : ret;
	q->clean_from = MAX(q->clean_from, off + q->cluster_size);
	return 0;
}

static int write_new_table(struct qcow2 *q, const u64 *rt, u64 entries, u64 off)
{
	u8 *buf = calloc(entries, 8);
	int ret;

	if (!buf)
		return -ENOMEM;
	for (u64 i = 0; i < entries; i++)
		be_store(buf + i * 8, rt[i], 8);
	ret = node_write(q->file, off, buf, entries * 8);
	free(buf);
	return ret;
}

/*
 * The header names the new table: both fields in one write, within a sector (O4). Until
 * then the old one is in force and nothing has changed.
 */
static int switch_table(struct qcow2 *q, u64 *rt, u64 entries, u64 off)
{
	u64 old = q->rt_off, per = q->cluster_size / 8;
	u64 old_clusters = q->rt_size / per;
	u8 field[12];
	int ret;

	q->sync_needed = true;
	ret = node_flush(q->file);
	be_store(field, off, 8);
	be_store(field + 8, entries / per, 4);
	if (!ret)
		ret = node_write(q->file, H_REFTABLE_OFFSET, field, sizeof(field));
	if (!ret)
		ret = node_flush(q->file);
	if (ret)
		return ret;
	free(q->rt);
	q->rt = rt;
	q->rt_size = (u32)entries;
	q->rt_off = off;
	q->rt_lo = q->rt_hi = 0;
	qcow2_free(q, old, old_clusters);
	return 0;
}

static int grow_table(struct qcow2 *q, u64 needed)
{
	u64 per = q->cluster_size / 8, base = (u64)q->rt_size << q->rb_bits;
	u64 clusters = MAX(needed + needed / 2, (u64)q->rt_size + 1) / per + 1;
	u64 blocks = 1, *rt, off = base << q->cluster_bits;
	struct qtable *t;
	int ret;

	/* Blocks for the table and for themselves. */
	while (blocks << q->rb_bits < clusters + blocks)
		blocks++;
	if ((q->rt_size + blocks + per - 1) / per > clusters)
		clusters = (q->rt_size + blocks + per - 1) / per + 1;
	if (clusters * q->cluster_size > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	while (blocks << q->rb_bits < clusters + blocks)
		blocks++;
	/* What the old table covers is written through the old table. */
	ret = qcow2_sync(q, false);
	if (ret)
		return ret;
	rt = calloc(clusters * per, sizeof(*rt));
	if (!rt)
		return -ENOMEM;
	memcpy(rt, q->rt, q->rt_size * sizeof(*rt));
	for (u64 i = 0; i < blocks && !ret; i++) {
		u64 at = off + ((clusters + i) << q->cluster_bits);

		rt[q->rt_size + i] = at;
		ret = qcache_new(q, &q->rb, at, &t);
		for (u64 j = 0; j < BIT(q->rb_bits) && !ret; j++)
			if ((i << q->rb_bits) + j < clusters + blocks)
				refcount_set_entry(q, t->data, j, 1);
		if (!ret)
			ret = qset_add(&q->meta, at);
	}
	for (u64 i = 0; i < clusters && !ret; i++)
		ret = qset_add(&q->meta, off + (i << q->cluster_bits));
	if (!ret)
		ret = qcow2_sync(q, false);
	if (!ret)
		ret = write_new_table(q, rt, clusters * per, off);
	q->clean_from =
		MAX(q->clean_from, off + ((clusters + blocks) << q->cluster_bits));
	if (!ret)
		ret = switch_table(q, rt, clusters * per, off);
	if (ret)
		free(rt);
	return ret;
}

/* 1: something was allocated; look again at what is free. */
static int ensure_block(struct qcow2 *q, u64 cluster)
{
	u64 index = cluster >> q->rb_bits, at;
	struct qtable *t;
	int ret;

	if (index >= q->rt_size) {
		ret = grow_table(q, index + 1);
		return ret ? ret : 1;
	}
	if (q->rt[index])
		return 0;
	ret = find_free(q, &at);
	if (ret)
		return ret;
	if (at >> q->rb_bits >= q->rt_size) {
		ret = grow_table(q, (at >> q->rb_bits) + 1);
		return ret ? ret : 1;
	}
	if (!q->rt[at >> q->rb_bits])
		index = at >> q->rb_bits; /* it covers itself */
	ret = place_block(q, index, at);
	if (!ret)
		ret = get_block(q, at, &t);
	if (ret)
		return ret;
	set_in(q, t, in_block(q, at), 1);
	q->hint = MAX(q->hint, at + 1);
	return 1;
}

/* ---- counts ---- */

int refcount_set(struct qcow2 *q, u64 cluster, u64 v)
{
	struct qtable *t;
	int ret;

	do
		ret = ensure_block(q, cluster);
	while (ret == 1);
	if (!ret)
		ret = get_block(q, cluster, &t);
	if (ret)
		return ret;
	set_in(q, t, in_block(q, cluster), v);
	if (!v)
		q->hint = MIN(q->hint, cluster);
	return 0;
}

int refcount_add(struct qcow2 *q, u64 off, u64 clusters, i64 by)
{
	u64 first = off >> q->cluster_bits;
	u64 max = q->refcount_order == 6 ? UINT64_MAX : BIT(1u << q->refcount_order) - 1;
	int ret = 0;

	for (u64 c = first; c < first + clusters && !ret; c++) {
		u64 v;

		ret = refcount_get(q, c, &v);
		if (ret)
			break;
		if (by < 0 && v < (u64)-by)
			return qcow2_corrupt(q,
					     "cluster %#llx is used, its refcount is 0",
					     (unsigned long long)(c << q->cluster_bits));
		if (by > 0 && v > max - (u64)by)
			return -ERANGE;
		ret = refcount_set(q, c, v + (u64)by);
	}
	return ret;
}

/* ---- allocation ---- */

/* A free run of up to 'want' clusters from 'from' on. */
static int find_run(struct qcow2 *q, u64 from, u64 want, u64 *first, u64 *len)
{
	u64 n = 0, v;

	for (u64 c = from; n < want; c++) {
		int ret = refcount_get(q, c, &v);

		if (ret)
			return ret;
		if (v && n)
			break;
		if (v)
			continue;
		if (qset_has(&q->meta, c << q->cluster_bits))
			return qcow2_corrupt(q, "the table at %#llx has a refcount of 0",
					     (unsigned long long)(c << q->cluster_bits));
		if (!n++)
			*first = c;
	}
	*len = n;
	return 0;
}

static int alloc(struct qcow2 *q, u64 from, u64 want, u64 least, u64 *off, u64 *got)
{
	u64 first = 0, n = 0;
	int ret;

again:
	do {
		ret = find_run(q, from, want, &first, &n);
		from = first + n;
	} while (!ret && n < least);
	if (ret)
		return ret;
	if ((first + n) << q->cluster_bits > BIT(55))
		return -EFBIG;
	for (u64 c = first; c < first + n; c = ((c >> q->rb_bits) + 1) << q->rb_bits) {
		ret = ensure_block(q, c);
		if (ret < 0)
			return ret;
		if (ret) {
			from = q->hint;
			goto again;
		}
	}
	ret = refcount_add(q, first << q->cluster_bits, n, 1);
	if (ret)
		return ret;
	*off = first << q->cluster_bits;
	*got = n;
	return 0;
}

int qcow2_alloc(struct qcow2 *q, u64 want, u64 *off, u64 *got)
{
	int ret = q->failed ? -EIO : alloc(q, q->hint, want, 1, off, got);

	if (!ret)
		q->hint = (*off >> q->cluster_bits) + *got;
	return ret;
}

int qcow2_alloc_exact(struct qcow2 *q, u64 want, u64 *off)
{
	u64 got;

	return q->failed ? -EIO : alloc(q, q->hint, want, want, off, &got);
}

/* ---- frees ---- */

void qcow2_free(struct qcow2 *q, u64 off, u64 clusters)
{
	struct qextent *last =
		q->pending_count ? &q->pending[q->pending_count - 1] : NULL;

	if (last && last->off + (last->clusters << q->cluster_bits) == off) {
		last->clusters += clusters;
		return;
	}
	if (q->pending_count == q->pending_max) {
		u32 max = q->pending_max ? q->pending_max * 2 : 64;
		struct qextent *more = NULL;

		if (max <= PENDING_MAX)
			more = realloc(q->pending, max * sizeof(*more));
		if (!more) {
			/* They leak, which check finds. */
			if (qcow2_sync(q, true))
				return;
		} else {
			q->pending = more;
			q->pending_max = max;
		}
	}
	q->pending[q->pending_count++] = (struct qextent){ off, clusters };
}

bool qcow2_compressed(const struct qcow2 *q, u64 entry, u64 *off, u64 *len)
{
	unsigned x = 62 - (q->cluster_bits - 8);

	*off = entry & (BIT(x) - 1);
	*len = ((bits_get(entry, 61, x) + 1) << 9) - (*off & 511);
	return *off >= q->cluster_size && *off < BIT(55);
}

void qcow2_free_entry(struct qcow2 *q, u64 entry)
{
	u64 off, len, first, last;

	if (entry & ENTRY_COMPRESSED) {
		if (!qcow2_compressed(q, entry, &off, &len))
			return;
		first = off >> q->cluster_bits;
		last = (off + len - 1) >> q->cluster_bits;
		qcow2_free(q, first << q->cluster_bits, last - first + 1);
	} else if (entry & ENTRY_OFFSET && q->data == q->file) {
		qcow2_free(q, entry & ENTRY_OFFSET & ~(q->cluster_size - 1), 1);
	}
}

/* Space goes back to the host in as few calls as may be. */
static void give_back(struct qcow2 *q, struct qextent *run)
{
	/* A hint: what cannot be given back stays. */
	if (run->clusters &&
	    node_discard(q->file, run->off, run->clusters << q->cluster_bits))
		log_debug("%s: a discard failed", q->node->path);
	run->clusters = 0;
}

static void free_now(struct qcow2 *q, u64 off, struct qextent *run)
{
	u64 v;

	if (refcount_add(q, off, 1, -1) || refcount_get(q, off >> q->cluster_bits, &v))
		return; /* leaks */
	if (v)
		return;
	qset_remove(&q->meta, off);
	qcache_drop(&q->l2, off);
	qcache_drop(&q->rb, off);
	if (run->clusters && run->off + (run->clusters << q->cluster_bits) != off)
		give_back(q, run);
	if (!run->clusters)
		run->off = off;
	run->clusters++;
}

void qcow2_apply_pending(struct qcow2 *q)
{
	struct qextent run = { 0 };

	for (u32 i = 0; i < q->pending_count && !q->failed; i++)
		for (u64 c = 0; c < q->pending[i].clusters && !q->failed; c++)
			free_now(q, q->pending[i].off + (c << q->cluster_bits), &run);
	give_back(q, &run);
	q->pending_count = 0;
}
