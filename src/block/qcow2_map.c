/*
 * From an offset of the disk to a place in the file: L1 and L2 of a qcow2.
 *
 * L1 is in memory as a whole, L2 tables are cached. Every entry is checked when it is
 * used: alignment, and that data which is overwritten in place is no table.
 *
 * Lock: q->lock.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2.h"

int qcow2_corrupt(struct qcow2 *q, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (q->failed)
		return -EIO;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	q->failed = true;
	if (q->node->env->check)
		return -EIO; /* check tells in its own way */
	log_error("%s: the image is damaged: %s; nothing more is written to it "
		  "(umbra image check)",
		  q->node->path, text);
	if (q->version >= 3 && !q->node->readonly) {
		q->incompat |= INCOMPAT_CORRUPT;
		if (qcow2_write_features(q))
			log_error("%s: and cannot be marked so", q->node->path);
	}
	return -EIO;
}

enum qkind qcow2_kind(const struct qcow2 *q, u64 entry)
{
	u64 off = entry & ENTRY_OFFSET;
	bool zero = q->version >= 3 && entry & ENTRY_ZERO;

	if (entry & ENTRY_COMPRESSED)
		return q->data == q->file ? Q_COMPRESSED : Q_BAD;
	if (off & (q->cluster_size - 1))
		return Q_BAD;
	/* Offset 0 is data in an external file only. */
	if (!off && !(q->data != q->file && entry & ENTRY_COPIED))
		return zero ? Q_ZERO : Q_NONE;
	if (zero)
		return Q_ZERO_ALLOC;
	return Q_NORMAL;
}

u64 l2_entry(const struct qtable *t, u64 i)
{
	return be_load(t->data + i * 8, 8);
}

void l2_set(struct qtable *t, u64 i, u64 entry)
{
	be_store(t->data + i * 8, entry, 8);
	qtable_dirty(t, (u32)i * 8, (u32)i * 8 + 8);
}

/* How far the entries from i on continue the first one. */
static u64 run_length(struct qcow2 *q, const struct qtable *t, u64 i, u64 want,
		      enum qkind kind)
{
	u64 first = l2_entry(t, i), n = 1;

	if (kind == Q_COMPRESSED || kind == Q_BAD)
		return 1;
	for (; n < want && i + n < BIT(q->l2_bits); n++) {
		u64 e = l2_entry(t, i + n);

		if (qcow2_kind(q, e) != kind || ((e ^ first) & ENTRY_COPIED))
			break;
		if ((kind == Q_NORMAL || kind == Q_ZERO_ALLOC) &&
		    (e & ENTRY_OFFSET) != (first & ENTRY_OFFSET) + (n << q->cluster_bits))
			break;
	}
	return n;
}

int qcow2_lookup(struct qcow2 *q, u64 off, u64 len, bool cached, struct qmap *m)
{
	u64 l1 = l1_index(q, off), i = l2_index(q, off), in = off & (q->cluster_size - 1);
	u64 to_end = ((BIT(q->l2_bits) - i) << q->cluster_bits) - in, entry, n;
	struct qtable *t;
	int ret;

	*m = (struct qmap){ .kind = Q_NONE, .len = MIN(len, to_end) };
	if (l1 >= q->l1_size || !(q->l1[l1] & ENTRY_OFFSET))
		return 0;
	if (cached) {
		t = qcache_find(&q->l2, q->l1[l1] & ENTRY_OFFSET);
		if (!t)
			return -EAGAIN;
	} else {
		ret = qcache_get(q, &q->l2, q->l1[l1] & ENTRY_OFFSET, &t);
		if (ret)
			return ret;
	}
	entry = l2_entry(t, i);
	m->kind = qcow2_kind(q, entry);
	if (m->kind == Q_BAD)
		return qcow2_corrupt(q, "entry %#llx of the mapping of offset %#llx",
				     (unsigned long long)entry, (unsigned long long)off);
	n = run_length(q, t, i, (m->len + in + q->cluster_size - 1) >> q->cluster_bits,
		       m->kind);
	m->len = MIN(m->len, (n << q->cluster_bits) - in);
	m->copied = entry & ENTRY_COPIED;
	m->host = m->kind == Q_COMPRESSED ? entry : (entry & ENTRY_OFFSET) + in;
	return 0;
}

static void l1_set(struct qcow2 *q, u64 i, u64 entry)
{
	q->l1[i] = entry;
	if (q->l1_lo == q->l1_hi)
		q->l1_lo = q->l1_hi = (u32)i;
	q->l1_lo = MIN(q->l1_lo, (u32)i);
	q->l1_hi = MAX(q->l1_hi, (u32)i + 1);
}

/* A new table, a copy of the one at 'old' if that is not 0. */
static int new_l2(struct qcow2 *q, u64 i, u64 old, struct qtable **t)
{
	u8 *copy = NULL;
	u64 off, got;
	int ret;

	if (old) {
		ret = qcache_get(q, &q->l2, old, t);
		if (ret)
			return ret;
		copy = malloc(q->cluster_size);
		if (!copy)
			return -ENOMEM;
		memcpy(copy, (*t)->data, q->cluster_size);
	}
	ret = qcow2_alloc(q, 1, &off, &got);
	if (!ret)
		ret = qset_add(&q->meta, off);
	if (!ret)
		ret = qcache_new(q, &q->l2, off, t);
	if (!ret && copy)
		memcpy((*t)->data, copy, q->cluster_size);
	free(copy);
	if (ret)
		return ret;
	q->clean_from = MAX(q->clean_from, off + q->cluster_size);
	l1_set(q, i, off | ENTRY_COPIED);
	if (old) {
		/* Snapshots keep it: the count falls, but not to 0. */
		qcow2_free(q, old, 1);
	}
	return 0;
}

int qcow2_l2_for_write(struct qcow2 *q, u64 off, struct qtable **t)
{
	u64 i = l1_index(q, off);

	if (i >= q->l1_size)
		return -EIO;
	if (q->l1[i] & ENTRY_OFFSET && q->l1[i] & ENTRY_COPIED)
		return qcache_get(q, &q->l2, q->l1[i] & ENTRY_OFFSET, t);
	return new_l2(q, i, q->l1[i] & ENTRY_OFFSET, t);
}

/* A longer L1, for a larger disk. It replaces the old one in the header at once. */
int qcow2_l1_grow(struct qcow2 *q, u64 entries)
{
	u64 clusters = align_up(entries * 8, q->cluster_size) >> q->cluster_bits;
	u64 off, *l1, old = q->l1_off;
	u64 old_clusters =
		align_up(q->l1_size * UINT64_C(8), q->cluster_size) >> q->cluster_bits;
	u8 field[12], *buf;
	int ret;

	if (entries * 8 > QCOW2_MAX_L1_BYTES)
		return -EFBIG;
	if (entries <= q->l1_size)
		return 0;
	l1 = calloc(clusters * q->cluster_size / 8, sizeof(*l1));
	buf = calloc(clusters, q->cluster_size);
	ret = l1 && buf ? qcow2_alloc_exact(q, clusters, &off) : -ENOMEM;
	/* What the old one refers to is stable before the new one is. */
	if (!ret)
		ret = qcow2_sync(q, true);
	if (ret)
		goto free_buf;
	memcpy(l1, q->l1, q->l1_size * sizeof(*l1));
	for (u64 i = 0; i < q->l1_size; i++)
		be_store(buf + i * 8, l1[i], 8);
	ret = node_write(q->file, off, buf, clusters * q->cluster_size);
	if (!ret)
		ret = node_flush(q->file);
	be_store(field, entries, 4);
	be_store(field + 4, off, 8);
	if (!ret)
		ret = node_write(q->file, H_L1_SIZE, field, sizeof(field));
	if (!ret)
		ret = node_flush(q->file);
	if (ret)
		goto free_buf;
	for (u64 i = 0; i < clusters; i++)
		if (qset_add(&q->meta, off + (i << q->cluster_bits)) == -ENOMEM)
			ret = -ENOMEM;
	q->clean_from = MAX(q->clean_from, off + (clusters << q->cluster_bits));
	free(q->l1);
	q->l1 = l1;
	q->l1_off = off;
	q->l1_size = (u32)entries;
	l1 = NULL;
	if (old_clusters)
		qcow2_free(q, old, old_clusters);
free_buf:
	free(l1);
	free(buf);
	return ret;
}
