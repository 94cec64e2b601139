/*
 * Tables of a qcow2 in memory, and the order in which they are written (O1 to O4 of
 * qcow2.h).
 *
 * A cache holds a bounded number of tables. When one is needed and all are unwritten,
 * everything is written first. Lock: q->lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

/* ---- the set of tables' places ---- */

static u64 mix(u64 x)
{
	x = (x >> 9) * UINT64_C(0x9e3779b97f4a7c15);
	return x ^ x >> 29;
}

static int qset_grow(struct qset *s)
{
	u64 n = s->mask ? (s->live * 4 > s->mask ? (s->mask + 1) * 2 : s->mask + 1) : 256;
	struct qset new = { calloc(n, sizeof(u64)), n - 1, 0, 0 };

	if (!new.slots)
		return -ENOMEM;
	for (u64 i = 0; s->mask && i <= s->mask; i++)
		if (s->slots[i] > 1)
			qset_add(&new, s->slots[i] - 2);
	free(s->slots);
	*s = new;
	return 0;
}

int qset_add(struct qset *s, u64 off)
{
	u64 i, room = UINT64_MAX;

	if (s->used * 2 >= s->mask && qset_grow(s))
		return -ENOMEM;
	for (i = mix(off) & s->mask; s->slots[i]; i = (i + 1) & s->mask) {
		if (s->slots[i] == off + 2)
			return -EEXIST;
		if (s->slots[i] == 1 && room == UINT64_MAX)
			room = i;
	}
	if (room == UINT64_MAX)
		s->used++;
	s->slots[room == UINT64_MAX ? i : room] = off + 2;
	s->live++;
	return 0;
}

static u64 *qset_slot(const struct qset *s, u64 off)
{
	if (!s->mask)
		return NULL;
	for (u64 i = mix(off) & s->mask; s->slots[i]; i = (i + 1) & s->mask)
		if (s->slots[i] == off + 2)
			return &s->slots[i];
	return NULL;
}

void qset_remove(struct qset *s, u64 off)
{
	u64 *slot = qset_slot(s, off);

	if (slot) {
		*slot = 1;
		s->live--;
	}
}

bool qset_has(const struct qset *s, u64 off)
{
	return qset_slot(s, off) != NULL;
}

/* ---- tables ---- */

int qcache_init(struct qcache *c, u64 bytes, u64 cluster_size)
{
	u32 slots = 4;

	/* The oldest is looked for one by one, so not too many. */
	*c = (struct qcache){ .max = (u32)MIN(MAX(bytes / cluster_size, 8u), 4096u) };
	while (slots < c->max * 2)
		slots *= 2;
	c->hash_mask = slots - 1;
	c->hash = calloc(slots, sizeof(*c->hash));
	c->tables = calloc(c->max, sizeof(*c->tables));
	return c->hash && c->tables ? 0 : -ENOMEM;
}

void qcache_fini(struct qcache *c)
{
	for (u32 i = 0; i < c->count; i++)
		free(c->tables[i].data);
	free(c->tables);
	free(c->hash);
	*c = (struct qcache){ 0 };
}

struct qtable *qcache_find(struct qcache *c, u64 off)
{
	struct qtable *t = &c->tables[c->last];

	if (t->valid && t->off == off)
		return t;
	for (u32 i = c->hash[mix(off) & c->hash_mask]; i; i = t->hash_next) {
		t = &c->tables[i - 1];
		if (t->off == off) {
			c->last = i - 1;
			t->used = ++c->clock;
			return t;
		}
	}
	return NULL;
}

bool qcache_is_hole(struct qcow2 *q, struct qcache *c, u64 off)
{
	struct block_extent e;

	return !qcache_find(c, off) &&
	       !q->file->ops->status(q->file, off, q->cluster_size, &e) &&
	       e.kind == EXTENT_ZERO && e.len >= q->cluster_size;
}

static void unhash(struct qcache *c, struct qtable *t)
{
	u32 *at = &c->hash[mix(t->off) & c->hash_mask];

	while (&c->tables[*at - 1] != t)
		at = &c->tables[*at - 1].hash_next;
	*at = t->hash_next;
	t->valid = false;
}

static void rehash(struct qcache *c, struct qtable *t, u64 off)
{
	u32 *at = &c->hash[mix(off) & c->hash_mask];

	t->off = off;
	t->valid = true;
	t->fresh = false;
	t->lo = t->hi = 0;
	t->used = ++c->clock;
	t->hash_next = *at;
	*at = (u32)(t - c->tables) + 1;
}

static struct qtable *oldest_clean(struct qcache *c)
{
	struct qtable *best = NULL;

	for (u32 i = 0; i < c->count; i++) {
		struct qtable *t = &c->tables[i];

		if (!t->valid)
			return t;
		if (t->lo == t->hi && (!best || t->used < best->used))
			best = t;
	}
	return best;
}

/* A place for a table, not in the hash. */
static int take(struct qcow2 *q, struct qcache *c, struct qtable **t)
{
	int ret;

	if (c->count < c->max) {
		struct qtable *new = &c->tables[c->count];

		/* Aligned for O_DIRECT. */
		new->data = aligned_alloc(MIN(q->cluster_size, 4096), q->cluster_size);
		if (!new->data)
			return -ENOMEM;
		c->count++;
		*t = new;
		return 0;
	}
	*t = oldest_clean(c);
	if (!*t) {
		ret = qcow2_sync(q, false);
		if (ret)
			return ret;
		*t = oldest_clean(c);
		/* With lazy refcounts nothing else writes those blocks. */
		if (!*t)
			return -EIO;
	}
	if ((*t)->valid)
		unhash(c, *t);
	return 0;
}

int qcache_get(struct qcow2 *q, struct qcache *c, u64 off, struct qtable **t)
{
	u64 end = align_up(__atomic_load_n(&q->file->size, __ATOMIC_RELAXED),
			   q->cluster_size);
	int ret;

	*t = qcache_find(c, off);
	if (*t)
		return 0;
	if (!off || off & (q->cluster_size - 1) || off + q->cluster_size > end)
		return qcow2_corrupt(q, "a table at %#llx, outside the file",
				     (unsigned long long)off);
	ret = take(q, c, t);
	if (!ret)
		ret = node_read(q->file, off, (*t)->data, q->cluster_size);
	if (!ret)
		rehash(c, *t, off);
	return ret;
}

int qcache_new(struct qcow2 *q, struct qcache *c, u64 off, struct qtable **t)
{
	int ret;

	qcache_drop(c, off);
	ret = take(q, c, t);
	if (ret)
		return ret;
	rehash(c, *t, off);
	memset((*t)->data, 0, q->cluster_size);
	(*t)->fresh = true;
	qtable_dirty(*t, 0, (u32)q->cluster_size);
	return 0;
}

void qcache_drop(struct qcache *c, u64 off)
{
	struct qtable *t = qcache_find(c, off);

	if (t) {
		unhash(c, t);
		t->lo = t->hi = 0;
		t->used = 0;
	}
}

void qtable_dirty(struct qtable *t, u32 lo, u32 hi)
{
	if (t->lo == t->hi) {
		t->lo = lo;
		t->hi = hi;
		return;
	}
	t->lo = MIN(t->lo, lo);
	t->hi = MAX(t->hi, hi);
}

/* ---- writing ---- */

static int write_table(struct qcow2 *q, struct qtable *t)
{
	u32 page = (u32)MIN(q->cluster_size, 4096);
	u32 lo = (u32)align_down(t->lo, page), hi = (u32)align_up(t->hi, page);
	int ret = node_write(q->file, t->off + lo, t->data + lo, hi - lo);

	if (ret)
		return ret;
	t->lo = t->hi = 0;
	q->sync_needed = true;
	return 0;
}

static int write_tables(struct qcow2 *q, struct qcache *c, bool only_fresh)
{
	int ret = 0;

	for (u32 i = 0; i < c->count && !ret; i++) {
		struct qtable *t = &c->tables[i];

		if (!t->valid || t->lo == t->hi || (only_fresh && !t->fresh))
			continue;
		ret = write_table(q, t);
		if (!ret)
			t->fresh = false;
	}
	return ret;
}

/* Entries lo to hi of a table that the header points to, and only whole sectors. */
static int write_entries(struct qcow2 *q, u64 off, const u64 *table, u32 size, u32 *lo,
			 u32 *hi)
{
	enum { SECTOR_ENTRIES = BLOCK_SECTOR / 8, AT_ONCE = 4096 / 8 };
	u8 buf[AT_ONCE * 8];
	int ret = 0;

	*lo = (u32)align_down(*lo, SECTOR_ENTRIES);
	while (*lo < *hi && !ret) {
		u32 n = MIN((u32)AT_ONCE, size - *lo);

		for (u32 i = 0; i < n; i++)
			be_store(buf + i * 8, table[*lo + i], 8);
		ret = node_write(q->file, off + *lo * UINT64_C(8), buf, n * 8);
		if (!ret)
			*lo += n;
	}
	if (ret)
		return ret;
	*lo = *hi = 0;
	q->sync_needed = true;
	return 0;
}

static bool any_dirty(const struct qcache *c)
{
	for (u32 i = 0; i < c->count; i++)
		if (c->tables[i].valid && c->tables[i].lo != c->tables[i].hi)
			return true;
	return false;
}

bool qcow2_is_dirty(const struct qcow2 *q)
{
	return q->l1_lo != q->l1_hi || q->rt_lo != q->rt_hi || q->pending_count ||
	       any_dirty(&q->l2) || any_dirty(&q->rb);
}

static int flush_files(struct qcow2 *q)
{
	int ret = 0;

	if (q->data != q->file && q->data_dirty)
		ret = node_flush(q->data);
	if (!ret && (q->sync_needed || q->data_dirty))
		ret = node_flush(q->file);
	if (!ret)
		q->data_dirty = q->sync_needed = false;
	return ret;
}

int qcow2_sync(struct qcow2 *q, bool complete)
{
	int ret;

	/* O1, O2: what nothing stable points to yet, and the counts. */
	ret = write_tables(q, &q->rb, false);
	if (!ret)
		ret = write_tables(q, &q->l2, true);
	if (!ret && q->rt_lo != q->rt_hi) {
		/* O4 */
		ret = flush_files(q);
		if (!ret)
			ret = write_entries(q, q->rt_off, q->rt, q->rt_size, &q->rt_lo,
					    &q->rt_hi);
	}
	if (!ret && (any_dirty(&q->l2) || q->l1_lo != q->l1_hi)) {
		ret = flush_files(q);
		if (!ret)
			ret = write_tables(q, &q->l2, false);
		if (!ret)
			ret = write_entries(q, q->l1_off, q->l1, q->l1_size, &q->l1_lo,
					    &q->l1_hi);
	}
	if (ret || !complete)
		return ret;
	/* Also what was written in place, of which nobody keeps a record. */
	q->data_dirty = q->sync_needed = true;
	ret = flush_files(q);
	if (!ret)
		qcow2_apply_pending(q);
	return ret;
}
