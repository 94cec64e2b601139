/*
 * Internal snapshots of a qcow2: an L1 table each, that shares L2 tables and data by
 * their refcounts.
 *
 * Only for commands, with the image at rest. The flags "copied" of the active mapping and
 * the refcounts change at many places, so the image is marked dirty meanwhile: who opens
 * it after a crash repairs it (version 2 has no such mark). State of a running machine in
 * a snapshot is kept and can be deleted, not made.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"

enum { ENTRY_FIXED = 40, EXTRA_KNOWN = 24, EXTRA_MAX = 1024 };

void qcow2_snapshots_free(struct qcow2 *q)
{
	for (u32 i = 0; q->snapshots && i < q->nb_snapshots; i++) {
		free(q->snapshots[i].id);
		free(q->snapshots[i].name);
		free(q->snapshots[i].extra);
	}
	free(q->snapshots);
	q->snapshots = NULL;
}

static char *text_of(const u8 *p, u64 len)
{
	char *s = xzalloc(len + 1);

	memcpy(s, p, len);
	return s;
}

/* One entry at 'at' of 'len' bytes. Returns its size, or 0: it is damaged. */
static u64 parse(struct qsnapshot *s, const u8 *p, u64 len)
{
	u64 id_len, name_len, extra, size;

	if (len < ENTRY_FIXED)
		return 0;
	id_len = be_load(p + 12, 2);
	name_len = be_load(p + 14, 2);
	extra = be_load(p + 36, 4);
	size = ENTRY_FIXED + extra + id_len + name_len;
	if (extra > EXTRA_MAX || size > len)
		return 0;
	*s = (struct qsnapshot){
		.l1_offset = be_load(p, 8),
		.l1_size = (u32)be_load(p + 8, 4),
		.sec = (u32)be_load(p + 16, 4),
		.nsec = (u32)be_load(p + 20, 4),
		.vm_clock = be_load(p + 24, 8),
		.vm_state_size = be_load(p + 32, 4),
	};
	p += ENTRY_FIXED;
	if (extra >= 8)
		s->vm_state_size = be_load(p, 8);
	s->has_disk_size = extra >= 16;
	if (extra >= 16)
		s->disk_size = be_load(p + 8, 8);
	s->has_icount = extra >= 24;
	if (extra >= 24)
		s->icount = be_load(p + 16, 8);
	if (extra > EXTRA_KNOWN) {
		s->extra_len = (u32)extra - EXTRA_KNOWN;
		s->extra = (u8 *)text_of(p + EXTRA_KNOWN, s->extra_len);
	}
	s->id = text_of(p + extra, id_len);
	s->name = text_of(p + extra + id_len, name_len);
	return size;
}

int qcow2_snapshots_load(struct qcow2 *q, struct error *err)
{
	u32 count = q->nb_snapshots, bytes;
	u64 end = align_up(q->file->size, q->cluster_size), at = 0, l1_bytes = 0;
	int ret;
	u8 *buf;

	q->nb_snapshots = 0;
	if (!count)
		return 0;
	/* At most what such a table can have; the file says where it ends. */
	bytes = (u32)MIN(MIN(end - q->snapshots_off, QCOW2_MAX_SNAPSHOTS_BYTES),
			 count * (u64)(ENTRY_FIXED + EXTRA_MAX + 2 * 65536));
	q->snapshots = calloc(count, sizeof(*q->snapshots));
	buf = malloc(bytes);
	ret = q->snapshots && buf ? node_read(q->file, q->snapshots_off, buf, bytes)
				  : -ENOMEM;
	if (ret) {
		free(buf);
		return error_set(err, ret, "%s: the snapshots cannot be read: %s",
				 q->file->path, strerror(-ret));
	}
	for (u32 i = 0; i < count; i++) {
		struct qsnapshot *s = &q->snapshots[i];
		u64 size = at > bytes ? 0 : parse(s, buf + at, bytes - at);

		if (size)
			q->nb_snapshots++;
		if (!size || s->l1_size > QCOW2_MAX_L1_BYTES / 8 ||
		    (s->l1_size &&
		     (s->l1_offset & (q->cluster_size - 1) || s->l1_offset > end ||
		      s->l1_size * UINT64_C(8) > end - s->l1_offset))) {
			ret = error_set(err, -EINVAL, "%s: qcow2: snapshot %u is damaged",
					q->file->path, i + 1);
			break;
		}
		/* None may be that of another, so together they are in the file. */
		l1_bytes += s->l1_size * UINT64_C(8);
		if (l1_bytes > MIN(end, QCOW2_MAX_SNAPSHOTS_L1)) {
			ret = error_set(err, -EINVAL,
					"%s: qcow2: the L1 tables of the snapshots are "
					"too large",
					q->file->path);
			break;
		}
		at = align_up(at + size, 8);
	}
	q->snapshots_bytes = (u32)MIN(at, bytes);
	free(buf);
	return ret;
}

int qcow2_snapshot_l1(struct qcow2 *q, const struct qsnapshot *s, u64 **l1)
{
	int ret;

	*l1 = calloc(MAX(s->l1_size, 1u), 8);
	if (!*l1)
		return -ENOMEM;
	ret = node_read(q->file, s->l1_offset, *l1, s->l1_size * UINT64_C(8));
	for (u32 i = 0; i < s->l1_size && !ret; i++)
		(*l1)[i] = be_load(&(*l1)[i], 8);
	if (ret) {
		free(*l1);
		*l1 = NULL;
	}
	return ret;
}

/* ---- references ---- */

static int ref_entry(struct qcow2 *q, u64 entry)
{
	u64 off, len, first, last;

	if (entry & ENTRY_COMPRESSED) {
		if (!qcow2_compressed(q, entry, &off, &len))
			return -EIO;
		first = off >> q->cluster_bits;
		last = (off + len - 1) >> q->cluster_bits;
		return refcount_add(q, first << q->cluster_bits, last - first + 1, 1);
	}
	if (qcow2_kind(q, entry) == Q_BAD)
		return -EIO;
	return entry & ENTRY_OFFSET ? refcount_add(q, entry & ENTRY_OFFSET, 1, 1) : 0;
}

/* An L1 that leads to a table twice is damaged, and could take for ever. */
static int check_distinct(const u64 *l1, u32 size)
{
	struct qset set = { 0 };
	int ret = 0;

	for (u32 i = 0; i < size && !ret; i++)
		if (l1[i] & ENTRY_OFFSET)
			ret = qset_add(&set, l1[i] & ENTRY_OFFSET);
	free(set.slots);
	return ret == -EEXIST ? -EIO : ret;
}

/* One reference more, or less, to all that an L2 table leads to. 'copy': room for it. */
static int ref_table(struct qcow2 *q, u64 off, u64 *copy, bool more)
{
	struct qtable *t;
	int ret = qcache_get(q, &q->l2, off, &t);

	if (ret)
		return ret;
	memcpy(copy, t->data, q->cluster_size);
	for (u64 j = 0; j < BIT(q->l2_bits) && !ret; j++) {
		u64 entry = be_load(&copy[j], 8);

		if (more)
			ret = ref_entry(q, entry);
		else
			qcow2_free_entry(q, entry);
	}
	return ret;
}

/* The same to all that an L1 leads to. */
static int ref_all(struct qcow2 *q, const u64 *l1, u32 size, bool more)
{
	u64 *copy = malloc(q->cluster_size);
	int ret = copy ? check_distinct(l1, size) : -ENOMEM;

	for (u32 i = 0; i < size && !ret; i++) {
		u64 off = l1[i] & ENTRY_OFFSET;

		if (!off)
			continue;
		if (!qcache_is_hole(q, &q->l2, off))
			ret = ref_table(q, off, copy, more);
		if (!ret && more)
			ret = refcount_add(q, off, 1, 1);
		else if (!ret)
			qcow2_free(q, off, 1);
	}
	free(copy);
	return ret;
}

/* The flags "copied" of the active mapping, as the refcounts are. */
static int fix_copied(struct qcow2 *q)
{
	for (u32 i = 0; i < q->l1_size; i++) {
		u64 off = q->l1[i] & ENTRY_OFFSET, v;
		struct qtable *t;
		int ret;

		if (!off)
			continue;
		ret = refcount_get(q, off >> q->cluster_bits, &v);
		if (!ret)
			ret = qcache_get(q, &q->l2, off, &t);
		if (ret)
			return ret;
		if ((v == 1) != !!(q->l1[i] & ENTRY_COPIED)) {
			q->l1[i] ^= ENTRY_COPIED;
			q->l1_lo = q->l1_lo == q->l1_hi ? i : MIN(q->l1_lo, i);
			q->l1_hi = MAX(q->l1_hi, i + 1);
		}
		for (u64 j = 0; j < BIT(q->l2_bits); j++) {
			u64 entry = l2_entry(t, j);
			enum qkind kind = qcow2_kind(q, entry);

			if (kind != Q_NORMAL && kind != Q_ZERO_ALLOC)
				continue;
			ret = refcount_get(q, (entry & ENTRY_OFFSET) >> q->cluster_bits,
					   &v);
			if (ret)
				return ret;
			if ((v == 1) != !!(entry & ENTRY_COPIED))
				l2_set(t, j, entry ^ ENTRY_COPIED);
		}
	}
	return 0;
}

/* ---- the table ---- */

static u64 put(u8 *p, const struct qsnapshot *s)
{
	u64 id = strlen(s->id), name = strlen(s->name);
	u64 extra = (s->has_icount || s->extra_len ? 24u : 16u) + s->extra_len;

	if (p) {
		be_store(p, s->l1_offset, 8);
		be_store(p + 8, s->l1_size, 4);
		be_store(p + 12, id, 2);
		be_store(p + 14, name, 2);
		be_store(p + 16, s->sec, 4);
		be_store(p + 20, s->nsec, 4);
		be_store(p + 24, s->vm_clock, 8);
		be_store(p + 32, s->vm_state_size > UINT32_MAX ? 0 : s->vm_state_size, 4);
		be_store(p + 36, extra, 4);
		be_store(p + 40, s->vm_state_size, 8);
		be_store(p + 48, s->disk_size, 8);
		if (extra >= EXTRA_KNOWN)
			be_store(p + 56, s->icount, 8);
		if (s->extra_len)
			memcpy(p + ENTRY_FIXED + EXTRA_KNOWN, s->extra, s->extra_len);
		memcpy(p + ENTRY_FIXED + extra, s->id, id);
		memcpy(p + ENTRY_FIXED + extra + id, s->name, name);
	}
	return align_up(ENTRY_FIXED + extra + id + name, 8);
}

/* 'count' snapshots replace those in the file: a new table, then the header. */
static int write_table(struct qcow2 *q, const struct qsnapshot *s, u32 count)
{
	u64 bytes = 0, at = 0, clusters, off = 0;
	u64 old = align_up(q->snapshots_bytes, q->cluster_size) >> q->cluster_bits;
	u8 field[12], *buf;
	int ret = 0;

	for (u32 i = 0; i < count; i++)
		bytes += put(NULL, &s[i]);
	if (bytes > QCOW2_MAX_SNAPSHOTS_BYTES)
		return -EFBIG;
	clusters = align_up(bytes, q->cluster_size) >> q->cluster_bits;
	buf = calloc(MAX(clusters, 1u), q->cluster_size);
	if (!buf)
		return -ENOMEM;
	for (u32 i = 0; i < count; i++)
		at += put(buf + at, &s[i]);
	if (clusters)
		ret = qcow2_alloc_exact(q, clusters, &off);
	if (!ret && clusters)
		ret = node_write(q->file, off, buf, clusters << q->cluster_bits);
	free(buf);
	for (u64 i = 0; i < clusters && !ret; i++)
		ret = qset_add(&q->meta, off + (i << q->cluster_bits));
	if (!ret)
		ret = qcow2_sync(q, true);
	be_store(field, count, 4);
	be_store(field + 4, off, 8);
	if (!ret)
		ret = node_write(q->file, H_NB_SNAPSHOTS, field, sizeof(field));
	if (!ret)
		ret = node_flush(q->file);
	if (ret)
		return ret;
	q->clean_from = MAX(q->clean_from, off + (clusters << q->cluster_bits));
	if (old && q->snapshots_off)
		qcow2_free(q, q->snapshots_off, old);
	q->snapshots_off = off;
	q->snapshots_bytes = (u32)bytes;
	return 0;
}

/* ---- commands ---- */

static int begin(struct block_node *n, const char *what, struct qcow2 **q,
		 struct error *err)
{
	int ret;

	*q = qcow2_of(n);
	if (!*q)
		return error_set(err, -ENOTSUP,
				 "%s: is %s; only qcow2 has internal snapshots", n->path,
				 n->ops->name);
	if ((*q)->data != (*q)->file)
		return error_set(err, -ENOTSUP,
				 "%s: snapshots are not possible with an external data "
				 "file",
				 n->path);
	ret = qcow2_sync(*q, true);
	if (!ret)
		ret = qcow2_set_dirty(*q, true);
	return ret ? error_set(err, ret, "%s: snapshot %s: %s", n->path, what,
			       strerror(-ret))
		   : 0;
}

static int end(struct qcow2 *q, const char *what, int ret, struct error *err)
{
	/* Twice: the frees of the first are counts to be written. */
	for (unsigned i = 0; i < 2 && !ret; i++)
		ret = qcow2_sync(q, true);
	if (!ret)
		ret = qcow2_set_dirty(q, false);
	return ret ? error_set(err, ret, "%s: snapshot %s: %s", q->node->path, what,
			       strerror(-ret))
		   : 0;
}

static int find(struct qcow2 *q, const char *name)
{
	for (u32 i = 0; i < q->nb_snapshots; i++)
		if (!strcmp(q->snapshots[i].id, name))
			return (int)i;
	for (u32 i = 0; i < q->nb_snapshots; i++)
		if (!strcmp(q->snapshots[i].name, name))
			return (int)i;
	return -1;
}

static char *next_id(const struct qcow2 *q)
{
	unsigned long max = 0;
	char id[24];

	for (u32 i = 0; i < q->nb_snapshots; i++) {
		unsigned long n = strtoul(q->snapshots[i].id, NULL, 10);

		max = n < UINT32_MAX && n > max ? n : max;
	}
	snprintf(id, sizeof(id), "%lu", max + 1);
	return xstrdup(id);
}

/* A copy of the active L1 in the file. */
static int copy_l1(struct qcow2 *q, struct qsnapshot *s)
{
	u64 clusters =
		align_up(q->l1_size * UINT64_C(8), q->cluster_size) >> q->cluster_bits;
	u8 *buf = calloc(MAX(clusters, 1u), q->cluster_size);
	int ret = buf ? 0 : -ENOMEM;

	s->l1_size = q->l1_size;
	if (!ret && clusters)
		ret = qcow2_alloc_exact(q, clusters, &s->l1_offset);
	for (u32 i = 0; i < q->l1_size && !ret; i++)
		be_store(buf + i * 8, q->l1[i] & ~ENTRY_COPIED, 8);
	if (!ret && clusters)
		ret = node_write(q->file, s->l1_offset, buf, clusters << q->cluster_bits);
	free(buf);
	for (u64 i = 0; i < clusters && !ret; i++)
		ret = qset_add(&q->meta, s->l1_offset + (i << q->cluster_bits));
	if (!ret)
		q->clean_from =
			MAX(q->clean_from, s->l1_offset + (clusters << q->cluster_bits));
	return ret;
}

int qcow2_snapshot_create(struct block_node *n, const char *name, u32 sec, u32 nsec,
			  struct error *err)
{
	struct qsnapshot *more, *s;
	struct qcow2 *q;
	int ret;

	if (!*name || strlen(name) > 255)
		return error_set(err, -EINVAL, "a snapshot's name has 1 to 255 bytes");
	ret = begin(n, name, &q, err);
	if (ret)
		return ret;
	if (q->nb_snapshots >= QCOW2_MAX_SNAPSHOTS)
		return end(q, name, -EMFILE, err);
	more = realloc(q->snapshots, (q->nb_snapshots + 1) * sizeof(*more));
	if (!more)
		return end(q, name, -ENOMEM, err);
	q->snapshots = more;
	s = &more[q->nb_snapshots];
	*s = (struct qsnapshot){
		.id = next_id(q),
		.name = xstrdup(name),
		.sec = sec,
		.nsec = nsec,
		.disk_size = n->size,
		.has_disk_size = true,
	};
	ret = copy_l1(q, s);
	if (!ret)
		ret = ref_all(q, q->l1, q->l1_size, true);
	if (!ret)
		ret = fix_copied(q);
	if (!ret)
		ret = write_table(q, q->snapshots, q->nb_snapshots + 1);
	if (ret) {
		free(s->id);
		free(s->name);
	} else {
		q->nb_snapshots++;
	}
	return end(q, name, ret, err);
}

static int none(const struct block_node *n, const char *name, struct error *err)
{
	return error_set(err, -ENOENT, "%s: has no snapshot '%s'", n->path, name);
}

int qcow2_snapshot_apply(struct block_node *n, const char *name, struct error *err)
{
	struct qcow2 *q = qcow2_of(n);
	int i = q ? find(q, name) : -1, ret;
	u64 *l1 = NULL, *old = NULL, per_l2;
	const struct qsnapshot *s;
	u8 field[8];

	if (q && i < 0)
		return none(n, name, err);
	ret = begin(n, name, &q, err);
	if (ret)
		return ret;
	s = &q->snapshots[i];
	per_l2 = q->cluster_size << q->l2_bits;
	if (s->has_disk_size &&
	    (s->disk_size > INT64_MAX || s->disk_size & (BLOCK_SECTOR - 1) ||
	     (s->disk_size + per_l2 - 1) / per_l2 > s->l1_size))
		return end(q, name, -EINVAL, err);
	ret = qcow2_snapshot_l1(q, s, &l1);
	if (!ret)
		ret = ref_all(q, l1, s->l1_size, true);
	if (!ret)
		ret = qcow2_l1_grow(q, s->l1_size);
	if (!ret)
		ret = qcow2_sync(q, true);
	if (ret)
		goto free_l1;
	old = malloc(MAX(q->l1_size, 1u) * sizeof(*old));
	if (!old) {
		ret = -ENOMEM;
		goto free_l1;
	}
	memcpy(old, q->l1, q->l1_size * sizeof(*old));
	for (u32 j = 0; j < q->l1_size; j++)
		q->l1[j] = j < s->l1_size ? l1[j] & ~ENTRY_COPIED : 0;
	q->l1_lo = 0;
	q->l1_hi = q->l1_size;
	ret = qcow2_sync(q, true);
	be_store(field, s->disk_size, 8);
	if (!ret && s->has_disk_size && s->disk_size != n->size) {
		ret = node_write(q->file, H_SIZE, field, sizeof(field));
		if (!ret)
			n->size = s->disk_size;
	}
	if (!ret)
		ret = ref_all(q, old, q->l1_size, false);
	for (unsigned k = 0; k < 2 && !ret; k++)
		ret = qcow2_sync(q, true);
	if (!ret)
		ret = fix_copied(q);
free_l1:
	free(l1);
	free(old);
	return end(q, name, ret, err);
}

int qcow2_snapshot_delete(struct block_node *n, const char *name, struct error *err)
{
	struct qcow2 *q = qcow2_of(n);
	int i = q ? find(q, name) : -1, ret;
	struct qsnapshot gone;
	u64 *l1 = NULL;

	if (q && i < 0)
		return none(n, name, err);
	ret = begin(n, name, &q, err);
	if (ret)
		return ret;
	gone = q->snapshots[i];
	ret = qcow2_snapshot_l1(q, &gone, &l1);
	if (ret)
		return end(q, name, ret, err);
	memmove(&q->snapshots[i], &q->snapshots[i + 1],
		(q->nb_snapshots - (u32)i - 1) * sizeof(gone));
	q->nb_snapshots--;
	ret = write_table(q, q->snapshots, q->nb_snapshots);
	if (!ret)
		ret = ref_all(q, l1, gone.l1_size, false);
	if (!ret && gone.l1_size)
		qcow2_free(q, gone.l1_offset,
			   align_up(gone.l1_size * UINT64_C(8), q->cluster_size) >>
				   q->cluster_bits);
	for (unsigned k = 0; k < 2 && !ret; k++)
		ret = qcow2_sync(q, true);
	if (!ret)
		ret = fix_copied(q);
	free(l1);
	free(gone.id);
	free(gone.name);
	free(gone.extra);
	return end(q, name, ret, err);
}
