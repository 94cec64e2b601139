/*
 * Check and repair of a qcow2: every reference in the image is counted, and compared with
 * the refcounts it has.
 *
 * A count that is too high is a leak: space is lost. One that is too low is damage: the
 * cluster would be used a second time. Repair writes counts and the flags "copied". If
 * the counts themselves are unusable, it puts new ones behind the end of the file.
 * Entries that point nowhere are cleared.
 *
 * An image can say of one table that it maps everything. So each L2 table is gone through
 * once, and what it leads to is counted as often as it is referenced; tables in holes of
 * the file are not read. The time is that of reading the file's data, then.
 *
 * Memory: 8 bytes per cluster of the file, at most 2 GiB, of which what is mapped by
 * nothing is never touched. The image is the caller's alone.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"
#include "block/qcow2_tool.h"

#define MAX_CLUSTERS BIT(28)
#define MAX_LINES    100u

struct check {
	struct qcow2 *q;
	struct qcow2_check *out;
	u32 *refs;
	u32 *l2;      /* SEEN, COPIED_SEEN, and how often it was referenced once more */
	u64 clusters; /* of the file */
	u64 found;
	bool rebuild; /* the refcount structures themselves are damaged */
	u64 last_host;
};

__attribute__((format(printf, 2, 3))) static void say(struct check *c, const char *fmt,
						      ...)
{
	char line[256];
	va_list ap;

	if (!c->out->found || c->found > MAX_LINES)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->out->found(c->out->opaque,
		      c->found++ < MAX_LINES ? line : "and more of the kind");
}

typedef unsigned long long ull;

enum { SEEN = 1u << 31, COPIED_SEEN = 1 << 30, MORE_MAX = COPIED_SEEN - 1 };

/* 'n' references. False: not in the file. */
static bool add(struct check *c, u64 off, u64 len, u32 n)
{
	u64 first = off >> c->q->cluster_bits, last;

	if (!len)
		return true;
	last = (off + len - 1) >> c->q->cluster_bits;
	if (off + len < off || last >= c->clusters)
		return false;
	for (u64 i = first; i <= last; i++)
		c->refs[i] = (u32)MIN((u64)c->refs[i] + n, UINT32_MAX);
	return true;
}

static bool count(struct check *c, const char *what, u64 off, u64 len)
{
	if (add(c, off, len, 1))
		return true;
	say(c, "%s at %#llx is outside the file", what, (ull)off);
	c->out->corruptions++;
	return false;
}

static bool fixes(const struct check *c)
{
	return c->out->fix == QCOW2_FIX_ALL;
}

/* ---- counting ---- */

static bool compressed_span(const struct check *c, u64 entry, u64 *off, u64 *len)
{
	u64 end = c->clusters << c->q->cluster_bits;

	if (!qcow2_compressed(c->q, entry, off, len) || entry & ENTRY_COPIED)
		return false;
	/* The last sector may be cut off by the end of the file. */
	if (*off + *len > end)
		*len = *off < end ? end - *off : 0;
	return *len;
}

static void count_entry(struct check *c, struct qtable *t, u64 i, u64 disk, bool active)
{
	struct qcow2 *q = c->q;
	u64 entry = l2_entry(t, i), off, len;
	enum qkind kind = qcow2_kind(q, entry);
	bool good = true;

	switch (kind) {
	case Q_NONE:
	case Q_ZERO: return;
	case Q_BAD: good = false; break;
	case Q_COMPRESSED:
		good = compressed_span(c, entry, &off, &len) &&
		       count(c, "compressed data", off, len);
		c->out->compressed += active;
		c->out->fragmented += active;
		break;
	case Q_NORMAL:
	case Q_ZERO_ALLOC:
		off = entry & ENTRY_OFFSET;
		if (q->data == q->file)
			good = count(c, "data", off, q->cluster_size);
		if (active && c->last_host && off != c->last_host + q->cluster_size)
			c->out->fragmented++;
		c->last_host = off;
		break;
	}
	if (good) {
		c->out->allocated += active;
		return;
	}
	if (kind == Q_BAD || kind == Q_COMPRESSED) {
		say(c, "the mapping of offset %#llx is damaged: %#llx", (ull)disk,
		    (ull)entry);
		c->out->corruptions += kind == Q_BAD || !(entry & ENTRY_OFFSET);
	}
	if (fixes(c)) {
		l2_set(t, i, 0);
		c->out->corruptions_fixed++;
	}
}

/* An L2 table, which is in the file: was it gone through? */
static bool seen(struct check *c, u64 off)
{
	u32 *l2 = &c->l2[off >> c->q->cluster_bits];

	if (!(*l2 & SEEN)) {
		*l2 |= SEEN;
		return false;
	}
	if ((*l2 & MORE_MAX) < MORE_MAX)
		++*l2;
	return true;
}

static int count_l1(struct check *c, const u64 *l1, u32 size, bool active)
{
	struct qcow2 *q = c->q;

	for (u32 i = 0; i < size; i++) {
		u64 off = l1[i] & ENTRY_OFFSET, n = BIT(q->l2_bits);
		struct qtable *t;
		int ret;

		if (active && c->out->progress && !(i & 15))
			c->out->progress(c->out->opaque, i * 90.0 / size);
		if (!off)
			continue;
		if (off & (q->cluster_size - 1) || !count(c, "an L2 table", off, 1)) {
			if (off & (q->cluster_size - 1)) {
				say(c, "L1 entry %u is damaged: %#llx", i, (ull)l1[i]);
				c->out->corruptions++;
			}
			if (active && fixes(c)) {
				q->l1[i] = 0;
				q->l1_lo = 0;
				q->l1_hi = q->l1_size;
				c->out->corruptions_fixed++;
			}
			continue;
		}
		if (seen(c, off) || qcache_is_hole(q, &q->l2, off))
			continue;
		ret = qcache_get(q, &q->l2, off, &t);
		if (ret)
			return ret;
		for (u64 j = 0; j < n; j++)
			count_entry(c, t, j, (i * n + j) << q->cluster_bits, active);
	}
	return 0;
}

/* What the tables lead to that are referenced more than once. */
static int count_shared(struct check *c)
{
	struct qcow2 *q = c->q;

	for (u64 i = 0; i < c->clusters; i++) {
		u32 more = c->l2[i] & MORE_MAX;
		u64 at = i << q->cluster_bits, off, len;
		struct qtable *t;
		int ret;

		if (!more || qcache_is_hole(q, &q->l2, at))
			continue;
		ret = qcache_get(q, &q->l2, at, &t);
		if (ret)
			return ret;
		for (u64 j = 0; j < BIT(q->l2_bits); j++) {
			u64 entry = l2_entry(t, j);
			enum qkind kind = qcow2_kind(q, entry);

			if (kind == Q_COMPRESSED && compressed_span(c, entry, &off, &len))
				add(c, off, len, more);
			else if ((kind == Q_NORMAL || kind == Q_ZERO_ALLOC) &&
				 q->data == q->file)
				add(c, entry & ENTRY_OFFSET, q->cluster_size, more);
		}
	}
	return 0;
}

/* The directory of bitmaps, with what it points to. */
static int count_bitmaps(struct check *c, const struct qext *e)
{
	struct qcow2 *q = c->q;
	u64 size, off, at = 0;
	u8 *dir, *table;
	int ret;

	if (!(q->autoclear & AUTOCLEAR_BITMAPS) || e->len < 24)
		return 0;
	size = be_load(e->data + 8, 8);
	off = be_load(e->data + 16, 8);
	if (size > MiB(64) || !count(c, "the bitmap directory", off, size))
		return 0;
	dir = malloc(size + 1);
	if (!dir)
		return -ENOMEM;
	ret = node_read(q->file, off, dir, size);
	while (!ret && at + 24 <= size) {
		u64 where = be_load(dir + at, 8), n = be_load(dir + at + 8, 4) * 8;

		at = align_up(at + 24 + be_load(dir + at + 18, 2) +
				      be_load(dir + at + 20, 4),
			      8);
		if (n > MiB(64) || !count(c, "a bitmap", where, n))
			continue;
		table = malloc(n + 1);
		ret = table ? node_read(q->file, where, table, n) : -ENOMEM;
		for (u64 i = 0; i < n && !ret; i += 8) {
			u64 entry = be_load(table + i, 8) & ENTRY_OFFSET;

			if (entry)
				count(c, "bitmap data", entry, q->cluster_size);
		}
		free(table);
	}
	free(dir);
	return ret;
}

static int count_all(struct check *c)
{
	struct qcow2 *q = c->q;
	u64 cs = q->cluster_size;
	int ret = 0;

	count(c, "the header", 0, 1);
	count(c, "the L1 table", q->l1_off, q->l1_size * UINT64_C(8));
	if (q->nb_snapshots)
		count(c, "the snapshot table", q->snapshots_off, q->snapshots_bytes);
	ret = count_l1(c, q->l1, q->l1_size, true);
	for (u32 i = 0; i < q->nb_snapshots && !ret; i++) {
		const struct qsnapshot *s = &q->snapshots[i];
		u64 *l1;

		count(c, "the L1 table of a snapshot", s->l1_offset,
		      s->l1_size * UINT64_C(8));
		ret = qcow2_snapshot_l1(q, s, &l1);
		if (!ret)
			ret = count_l1(c, l1, s->l1_size, false);
		free(l1);
	}
	if (!ret)
		ret = count_shared(c);
	for (u32 i = 0; i < q->ext_count && !ret; i++)
		if (q->exts[i].type == EXT_BITMAPS)
			ret = count_bitmaps(c, &q->exts[i]);
	if (ret)
		return ret;
	if (!count(c, "the refcount table", q->rt_off, q->rt_size * UINT64_C(8)))
		c->rebuild = true;
	for (u32 i = 0; i < q->rt_size; i++) {
		u64 off = q->rt[i] & ENTRY_OFFSET;

		if (!q->rt[i])
			continue;
		if (off != q->rt[i] || off & (cs - 1)) {
			say(c, "refcount block %u is damaged: %#llx", i, (ull)q->rt[i]);
			c->out->corruptions++;
			c->rebuild = true;
		} else if (!count(c, "a refcount block", off, cs)) {
			c->rebuild = true;
		} else if (c->refs[off >> q->cluster_bits] > 1) {
			say(c, "the refcount block at %#llx is used for something else",
			    (ull)off);
			c->out->corruptions++;
			c->rebuild = true;
		}
	}
	return 0;
}

/* ---- comparing ---- */

static int compare(struct check *c)
{
	struct qcow2 *q = c->q;
	enum qcow2_fix fix = c->out->fix;
	u64 end = MAX(c->clusters, (u64)q->rt_size << q->rb_bits), v;

	for (u64 i = 0; i < end && !c->rebuild; i++) {
		u32 want = i < c->clusters ? c->refs[i] : 0;
		bool leak;
		int ret;

		/* A block that is not there says 0 for all it covers. */
		if (!want && !(i & (BIT(q->rb_bits) - 1)) && i >= c->clusters &&
		    (i >> q->rb_bits >= q->rt_size || !q->rt[i >> q->rb_bits] ||
		     qcache_is_hole(q, &q->rb, q->rt[i >> q->rb_bits]))) {
			i += BIT(q->rb_bits) - 1;
			continue;
		}
		ret = refcount_get(q, i, &v);
		if (ret)
			return ret;
		if (v == want)
			continue;
		leak = v > want;
		say(c, "%s cluster %#llx: refcount %llu, referenced %u times",
		    leak ? "leaked" : "damaged:", (ull)(i << q->cluster_bits), (ull)v,
		    want);
		c->out->leaks += leak;
		c->out->corruptions += !leak;
		if (fix == QCOW2_FIX_NONE || (!leak && fix != QCOW2_FIX_ALL))
			continue;
		if (refcount_set(q, i, want))
			continue;
		c->out->leaks_fixed += leak;
		c->out->corruptions_fixed += !leak;
	}
	return 0;
}

/*
 * New counts for everything, behind the end of the file, and a new table. The old ones
 * are not referenced any more, so they are not counted.
 */
static int rebuild(struct check *c)
{
	struct qcow2 *q = c->q;
	u64 per = q->cluster_size / 8, used = c->clusters, blocks = 1, tables = 1, base;
	u64 max = q->refcount_order == 6 ? UINT64_MAX : BIT(1u << q->refcount_order) - 1;
	u8 field[12], *buf;
	u64 *rt;
	int ret = 0;

	memset(c->refs, 0, c->clusters * sizeof(*c->refs));
	memset(c->l2, 0, c->clusters * sizeof(*c->l2));
	q->rt_size = 0;
	ret = count_all(c);
	if (ret)
		return ret;
	base = used;
	for (;;) {
		u64 all = used + blocks + tables;

		if (blocks << q->rb_bits < all)
			blocks++;
		else if (tables * per < blocks)
			tables++;
		else
			break;
	}
	if (tables * q->cluster_size > QCOW2_MAX_REFTABLE_BYTES)
		return -EFBIG;
	rt = calloc(tables * per, 8);
	buf = malloc(q->cluster_size);
	if (!rt || !buf)
		ret = -ENOMEM;
	for (u64 b = 0; b < blocks && !ret; b++) {
		u64 at = base + tables + b;

		memset(buf, 0, q->cluster_size);
		for (u64 i = 0; i < BIT(q->rb_bits); i++) {
			u64 n = (b << q->rb_bits) + i, v = 0;

			if (n < used)
				v = MIN(c->refs[n], max);
			else if (n < used + blocks + tables)
				v = 1;
			refcount_set_entry(q, buf, i, v);
		}
		be_store(&rt[b], at << q->cluster_bits, 8);
		ret = node_write(q->file, at << q->cluster_bits, buf, q->cluster_size);
	}
	if (!ret)
		ret = node_write(q->file, base << q->cluster_bits, rt,
				 tables << q->cluster_bits);
	if (!ret)
		ret = node_flush(q->file);
	be_store(field, base << q->cluster_bits, 8);
	be_store(field + 8, tables, 4);
	if (!ret)
		ret = node_write(q->file, H_REFTABLE_OFFSET, field, sizeof(field));
	if (!ret)
		ret = node_flush(q->file);
	free(buf);
	if (ret) {
		free(rt);
		return ret;
	}
	for (u64 i = 0; i < tables * per; i++)
		rt[i] = be_load(&rt[i], 8);
	free(q->rt);
	q->rt = rt;
	q->rt_size = (u32)(tables * per);
	q->rt_off = base << q->cluster_bits;
	q->rt_lo = q->rt_hi = 0;
	for (u32 i = 0; i < q->rb.count; i++)
		if (q->rb.tables[i].valid)
			qcache_drop(&q->rb, q->rb.tables[i].off);
	c->rebuild = false;
	c->out->corruptions_fixed = c->out->corruptions;
	return 0;
}

/* ---- the flags "copied" of the active mapping ---- */

static bool wrong_flag(struct check *c, u64 entry, u64 off, const char *what, u64 where)
{
	u64 v;

	if (refcount_get(c->q, off >> c->q->cluster_bits, &v) ||
	    (v == 1) == !!(entry & ENTRY_COPIED))
		return false;
	say(c, "the flag \"copied\" of %s %#llx is wrong: refcount %llu", what,
	    (ull)where, (ull)v);
	c->out->corruptions++;
	c->out->corruptions_fixed += fixes(c);
	return fixes(c);
}

static int check_copied(struct check *c)
{
	struct qcow2 *q = c->q;

	for (u32 i = 0; i < q->l1_size; i++) {
		u64 off = q->l1[i] & ENTRY_OFFSET, n = BIT(q->l2_bits);
		struct qtable *t;
		int ret;

		if (!off || off & (q->cluster_size - 1) ||
		    off >> q->cluster_bits >= c->clusters)
			continue;
		if (wrong_flag(c, q->l1[i], off, "L1 entry", i)) {
			q->l1[i] ^= ENTRY_COPIED;
			q->l1_lo = 0;
			q->l1_hi = q->l1_size;
		}
		if (c->l2[off >> q->cluster_bits] & COPIED_SEEN ||
		    qcache_is_hole(q, &q->l2, off))
			continue;
		c->l2[off >> q->cluster_bits] |= COPIED_SEEN;
		ret = qcache_get(q, &q->l2, off, &t);
		if (ret)
			return ret;
		for (u64 j = 0; j < n && q->data == q->file; j++) {
			u64 entry = l2_entry(t, j);
			enum qkind kind = qcow2_kind(q, entry);

			if (kind != Q_NORMAL && kind != Q_ZERO_ALLOC)
				continue;
			if (wrong_flag(c, entry, entry & ENTRY_OFFSET, "the mapping of",
				       (i * n + j) << q->cluster_bits))
				l2_set(t, j, entry ^ ENTRY_COPIED);
		}
	}
	return 0;
}

static void end_of_use(struct check *c)
{
	u64 i = c->clusters;

	while (i && !c->refs[i - 1])
		i--;
	c->out->end = i << c->q->cluster_bits;
}

/* Repaired: the marks go. */
static int finish(struct check *c)
{
	struct qcow2 *q = c->q;
	struct qcow2_check *out = c->out;
	int ret;

	if (out->fix == QCOW2_FIX_NONE || q->node->readonly)
		return 0;
	ret = qcow2_sync(q, true);
	if (ret || out->fix != QCOW2_FIX_ALL || out->corruptions > out->corruptions_fixed)
		return ret;
	q->failed = false;
	if (q->version >= 3 && q->incompat & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)) {
		q->incompat &= ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
		ret = qcow2_write_features(q);
	}
	return ret;
}

int qcow2_check(struct block_node *n, struct qcow2_check *out)
{
	struct qcow2 *q = qcow2_of(n);
	struct check c = { .q = q, .out = out };
	int ret;

	if (!q)
		return -ENOTSUP;
	c.clusters = align_up(q->file->size, q->cluster_size) >> q->cluster_bits;
	if (c.clusters > MAX_CLUSTERS)
		return -EFBIG;
	c.refs = calloc(MAX(c.clusters, 1u), sizeof(*c.refs));
	c.l2 = calloc(MAX(c.clusters, 1u), sizeof(*c.l2));
	if (!c.refs || !c.l2) {
		free(c.refs);
		free(c.l2);
		return -ENOMEM;
	}
	out->total = (n->size + q->cluster_size - 1) >> q->cluster_bits;
	ret = count_all(&c);
	if (!ret && q->rt_size == 0)
		c.rebuild = true;
	if (!ret && c.rebuild && fixes(&c) && !n->readonly) {
		struct qcow2_check before = *out;

		/* Counted and said once already. */
		out->found = NULL;
		out->allocated = out->fragmented = out->compressed = 0;
		ret = rebuild(&c);
		out->found = before.found;
		out->corruptions = MAX(before.corruptions, 1u);
		out->corruptions_fixed =
			ret ? before.corruptions_fixed : out->corruptions;
		/* Its own clusters are not in 'refs'. */
		if (!ret)
			ret = check_copied(&c);
	} else if (!ret) {
		ret = compare(&c);
		if (!ret && !c.rebuild)
			ret = check_copied(&c);
	}
	end_of_use(&c);
	free(c.refs);
	free(c.l2);
	if (!ret)
		ret = finish(&c);
	if (out->progress)
		out->progress(out->opaque, 100);
	return ret;
}
