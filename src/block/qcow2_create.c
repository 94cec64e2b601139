/*
 * New qcow2 images, and changes of whole ones: size, backing file, compressed clusters.
 *
 * Used by commands only: the image is theirs alone. A new file is written so that its
 * header comes last; without it the file is no image.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"

/* ---- new images ---- */

static const struct {
	u8 type, bit;
	const char *name;
} features[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

static void add_feature_names(struct qcow2 *q)
{
	u32 len = ARRAY_SIZE(features) * 48;
	u8 *data = xzalloc(len);

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		data[i * 48] = features[i].type;
		data[i * 48 + 1] = features[i].bit;
		strcpy((char *)data + i * 48 + 2, features[i].name);
	}
	q->exts = xzalloc(sizeof(*q->exts));
	q->exts[q->ext_count++] = (struct qext){ EXT_FEATURES, len, data };
}

static int check_create(const struct block_node *file, const struct qcow2_create *c,
			struct error *err)
{
	u64 cluster = c->cluster_size ? c->cluster_size : KiB(64);
	u64 per_l2 = cluster * (cluster / 8);

	if (!is_pow2(cluster) || cluster < 512 || cluster > MiB(2))
		return error_set(err, -EINVAL,
				 "cluster_size: a power of two from 512 to 2M is needed");
	if (c->refcount_bits && (!is_pow2(c->refcount_bits) || c->refcount_bits > 64))
		return error_set(err, -EINVAL,
				 "refcount_bits: a power of two from 1 to 64 is needed");
	if (c->version == 2 && ((c->refcount_bits && c->refcount_bits != 16) ||
				c->lazy_refcounts || c->zstd || c->data_name))
		return error_set(err, -EINVAL,
				 "compat=0.10: refcount_bits other than 16, "
				 "lazy_refcounts, zstd and data_file need compat=1.1");
	if (c->size > INT64_MAX || c->size / per_l2 >= QCOW2_MAX_L1_BYTES / 8)
		return error_set(err, -EFBIG,
				 "%s: a disk of %llu bytes is too large for clusters of "
				 "%llu",
				 file->path, (unsigned long long)c->size,
				 (unsigned long long)cluster);
	return 0;
}

static int fill_new(struct qcow2 *q, const struct qcow2_create *c)
{
	u64 size = c->cluster_size ? c->cluster_size : KiB(64);
	u64 per_l2, l1_clusters;

	q->version = c->version ? c->version : 3;
	q->cluster_size = size;
	q->cluster_bits = (u32)__builtin_ctzll(size);
	q->l2_bits = q->cluster_bits - 3;
	q->refcount_order = c->refcount_bits ? (u32)__builtin_ctz(c->refcount_bits) : 4;
	q->rb_bits = q->cluster_bits + 3 - q->refcount_order;
	q->header_length = q->version < 3 ? QCOW2_HEADER_V2
			   : c->zstd      ? QCOW2_HEADER_V3 + 8
					  : QCOW2_HEADER_V3;
	q->compression = c->zstd;
	q->compat = c->lazy_refcounts ? COMPAT_LAZY : 0;
	q->incompat = (c->zstd ? INCOMPAT_COMPRESSION : 0) |
		      (c->data_name ? INCOMPAT_DATA_FILE : 0);
	q->autoclear = c->data_name && c->data_file_raw ? AUTOCLEAR_RAW : 0;
	q->backing_name = c->backing_name ? xstrdup(c->backing_name) : NULL;
	q->backing_format =
		c->backing_name && c->backing_format ? xstrdup(c->backing_format) : NULL;
	q->data_name = c->data_name ? xstrdup(c->data_name) : NULL;
	if (q->version >= 3 && size >= 4096)
		add_feature_names(q);
	per_l2 = size << q->l2_bits;
	q->l1_size = (u32)((c->size + per_l2 - 1) / per_l2);
	l1_clusters = align_up(q->l1_size * UINT64_C(8), size) >> q->cluster_bits;
	q->l1 = calloc(MAX(l1_clusters, 1u), size);
	q->rt_size = (u32)(size / 8);
	q->rt = calloc(1, size);
	return q->l1 && q->rt ? 0 : -ENOMEM;
}

/* Header, table of refcounts, first block; then whatever is allocated. */
static int write_new_image(struct qcow2 *q)
{
	u64 clusters =
		align_up(q->l1_size * UINT64_C(8), q->cluster_size) >> q->cluster_bits;
	u64 got = 1, off;
	u8 *zero;
	int ret;

	q->rt_off = q->cluster_size;
	q->hint = 2;
	ret = qcache_init(&q->l2, 0, q->cluster_size);
	if (!ret)
		ret = qcache_init(&q->rb, MiB(1), q->cluster_size);
	/* The first block covers header, table, itself. */
	for (u64 i = 0; i < 2 && !ret; i++)
		ret = refcount_set(q, i, 1);
	if (!ret && clusters)
		ret = qcow2_alloc_exact(q, clusters, &off);
	if (ret)
		return ret;
	q->l1_off = clusters ? off : 3 * q->cluster_size;
	zero = calloc(1, q->cluster_size);
	if (!zero)
		return -ENOMEM;
	for (u64 i = 0; i < MAX(clusters, got) && !ret; i++)
		ret = node_write(q->file, q->l1_off + (i << q->cluster_bits), zero,
				 q->cluster_size);
	/* The table, of which only dirty entries will be written. */
	if (!ret)
		ret = node_write(q->file, q->rt_off, zero, q->cluster_size);
	free(zero);
	if (!ret)
		ret = qcow2_sync(q, true);
	return ret ? ret : qcow2_write_header(q);
}

int qcow2_create(struct block_node *file, const struct qcow2_create *c, struct error *err)
{
	struct block_node *n;
	struct qcow2 *q;
	int ret = check_create(file, c, err);

	if (ret)
		return ret;
	n = node_new(&qcow2_ops, file->env, file->path);
	n->impl = q = xzalloc(sizeof(*q));
	n->size = align_up(c->size, BLOCK_SECTOR);
	q->node = n;
	q->file = q->data = file;
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->unpack_lock, NULL);
	pthread_cond_init(&q->range_free, NULL);
	ret = fill_new(q, c);
	if (!ret)
		ret = write_new_image(q);
	n->readonly = true; /* all is written */
	node_close(n);
	return ret ? error_set(err, ret, "%s: cannot be written: %s", file->path,
			       strerror(-ret))
		   : 0;
}

/* ---- changes ---- */

static int discard_tail(struct qcow2 *q, u64 size)
{
	u64 from = align_up(size, q->cluster_size);
	u64 end = align_up(q->node->size, q->cluster_size);
	int ret = 0;

	for (u64 off = from; off < end && !ret;) {
		struct qtable *t;
		struct qmap m;

		ret = qcow2_lookup(q, off, end - off, false, &m);
		if (ret)
			return ret;
		/* One table at a time: the rest of it without mapping. */
		for (u64 at = off; at < off + m.len && m.kind != Q_NONE && !ret;
		     at += q->cluster_size) {
			ret = qcow2_l2_for_write(q, at, &t);
			if (ret)
				return ret;
			qcow2_free_entry(q, l2_entry(t, l2_index(q, at)));
			l2_set(t, l2_index(q, at), 0);
		}
		off += m.len;
	}
	return ret;
}

/* What the disk's last cluster has behind the end is zero before it can be seen. */
static int clear_tail(struct qcow2 *q, u64 old)
{
	u64 end = align_up(old, q->cluster_size);

	if (end == old)
		return 0;
	return node_zero(q->node, old, MIN(end, q->node->size) - old, 0);
}

int qcow2_resize(struct block_node *n, u64 size, struct error *err)
{
	struct qcow2 *q = n->impl;
	u64 per_l2 = q->cluster_size << q->l2_bits, old = n->size;
	u8 field[8];
	int ret;

	if (q->data != q->file || q->nb_snapshots)
		return error_set(err, -ENOTSUP, "%s: has %s; its size cannot be changed",
				 n->path,
				 q->nb_snapshots ? "snapshots" : "an external data file");
	size = align_up(size, BLOCK_SECTOR);
	if (size > INT64_MAX || size / per_l2 >= QCOW2_MAX_L1_BYTES / 8)
		return error_set(err, -EFBIG, "%s: too large for its cluster size",
				 n->path);
	pthread_mutex_lock(&q->lock);
	ret = size < old ? discard_tail(q, size)
			 : qcow2_l1_grow(q, (size + per_l2 - 1) / per_l2);
	if (!ret)
		ret = qcow2_sync(q, true);
	be_store(field, size, 8);
	/* What the backing file has there shall not show: it is zeroed first. */
	if (!ret && size > old)
		n->size = size;
	pthread_mutex_unlock(&q->lock);
	if (!ret && size > old)
		ret = clear_tail(q, old);
	if (!ret && size > old && n->backing && n->backing->size > old) {
		u64 from = align_up(old, q->cluster_size);
		u64 to = MIN(size, n->backing->size);

		if (to > from)
			ret = node_zero(n, from, to - from, 0);
	}
	if (!ret)
		ret = node_flush(n);
	if (!ret)
		ret = node_write(q->file, H_SIZE, field, sizeof(field));
	if (!ret)
		ret = node_flush(q->file);
	if (ret) {
		n->size = old;
		return error_set(err, ret, "%s: cannot be resized: %s", n->path,
				 strerror(-ret));
	}
	n->size = size;
	return 0;
}

int qcow2_set_backing(struct block_node *n, const char *name, const char *format,
		      struct error *err)
{
	struct qcow2 *q = qcow2_of(n);
	int ret;

	if (!q)
		return error_set(err, -ENOTSUP,
				 "%s: is %s; only qcow2 has a backing file", n->path,
				 n->ops->name);
	if (name && strlen(name) > QCOW2_MAX_NAME)
		return error_set(err, -EINVAL,
				 "%s: a backing file's name has at most 1023 bytes",
				 n->path);
	if (name && q->autoclear & AUTOCLEAR_RAW)
		return error_set(err, -ENOTSUP,
				 "%s: has a raw data file, so no backing file", n->path);
	free(q->backing_name);
	free(q->backing_format);
	q->backing_name = name ? xstrdup(name) : NULL;
	q->backing_format = name && format ? xstrdup(format) : NULL;
	ret = qcow2_sync(q, true);
	if (!ret)
		ret = qcow2_write_header(q);
	return ret ? error_set(err, ret, "%s: the header cannot be written: %s", n->path,
			       strerror(-ret))
		   : 0;
}

/* Space for 'len' bytes, packed behind each other. */
static int alloc_bytes(struct qcow2 *q, u64 len, u64 *off)
{
	u64 in = q->compress_off & (q->cluster_size - 1), next, got;
	int ret;

	if (in && in + len <= q->cluster_size) {
		ret = refcount_add(q, q->compress_off - in, 1, 1);
		if (!ret)
			*off = q->compress_off;
		if (!ret)
			q->compress_off += len;
		if (ret != -ERANGE)
			return ret;
		in = 0; /* the count is full: a new cluster */
	}
	ret = qcow2_alloc(q, 1, &next, &got);
	if (ret)
		return ret;
	q->clean_from = MAX(q->clean_from, next + q->cluster_size);
	if (in && next == q->compress_off - in + q->cluster_size) {
		/* The next one follows: across the border. */
		ret = refcount_add(q, q->compress_off - in, 1, 1);
		if (!ret) {
			*off = q->compress_off;
			q->compress_off += len;
			return 0;
		}
		if (ret != -ERANGE)
			return ret;
	}
	*off = next;
	q->compress_off = next + len;
	return 0;
}

int qcow2_write_compressed(struct block_node *n, u64 off, const u8 *cluster)
{
	struct qcow2 *q = qcow2_of(n);
	u64 host = 0, sectors;
	unsigned x;
	struct qtable *t;
	u8 *out;
	i64 len;
	int ret;

	if (!q || q->data != q->file)
		return -ENOTSUP;
	out = malloc(q->cluster_size);
	if (!out)
		return -ENOMEM;
	len = qcow2_pack(q, cluster, out);
	ret = len < 0 ? (int)len : alloc_bytes(q, (u64)len, &host);
	if (!ret)
		ret = node_write(q->file, host, out, (u64)len);
	free(out);
	if (ret)
		return ret;
	ret = qcow2_l2_for_write(q, off, &t);
	if (ret)
		return ret;
	x = 62 - (q->cluster_bits - 8);
	sectors = ((host + (u64)len - 1) >> 9) - (host >> 9);
	qcow2_free_entry(q, l2_entry(t, l2_index(q, off)));
	l2_set(t, l2_index(q, off), ENTRY_COMPRESSED | sectors << x | host);
	q->data_dirty = true;
	q->unpacked_entry = 0;
	return 0;
}

int qcow2_preallocate(struct block_node *n)
{
	struct qcow2 *q = qcow2_of(n);
	int ret = q ? 0 : -ENOTSUP;

	for (u64 off = 0; !ret && off < n->size;) {
		u64 want = (BIT(q->l2_bits) - l2_index(q, off)), host, got, i;
		struct qtable *t;

		want = MIN(want,
			   (n->size - off + q->cluster_size - 1) >> q->cluster_bits);
		if (q->data != q->file) {
			host = off;
			got = want;
		} else {
			ret = qcow2_alloc(q, want, &host, &got);
		}
		if (!ret)
			ret = qcow2_l2_for_write(q, off, &t);
		if (ret)
			break;
		for (i = 0; i < got; i++)
			l2_set(t, l2_index(q, off) + i,
			       (host + (i << q->cluster_bits)) | ENTRY_COPIED);
		q->clean_from = MAX(q->clean_from, host + (got << q->cluster_bits));
		off += got << q->cluster_bits;
	}
	/* So that the file is as long as it says. */
	if (!ret && q->data == q->file && q->clean_from != UINT64_MAX &&
	    q->file->size < q->clean_from)
		ret = q->file->ops->resize(q->file, q->clean_from, NULL);
	return ret ? ret : node_flush(n);
}

int qcow2_make_empty(struct block_node *n)
{
	struct qcow2 *q = qcow2_of(n);
	u64 size = n->size;
	int ret;

	if (!q || q->data != q->file)
		return -ENOTSUP;
	ret = discard_tail(q, 0);
	n->size = size;
	if (!ret)
		ret = qcow2_sync(q, true);
	return ret ? ret : qcow2_sync(q, true);
}

/* ---- facts ---- */

int qcow2_get_info(struct block_node *n, struct qcow2_info *info)
{
	struct qcow2 *q = qcow2_of(n);

	if (!q)
		return -ENOTSUP;
	*info = (struct qcow2_info){
		.version = q->version,
		.refcount_bits = 1u << q->refcount_order,
		.cluster_size = q->cluster_size,
		.lazy_refcounts = q->compat & COMPAT_LAZY,
		.dirty = q->incompat & INCOMPAT_DIRTY,
		.corrupt = q->incompat & INCOMPAT_CORRUPT,
		.data_file_raw = q->autoclear & AUTOCLEAR_RAW,
		.zstd = q->compression == 1,
		.backing_name = q->backing_name,
		.backing_format = q->backing_format,
		.data_name = q->data_name,
		.snapshots = q->nb_snapshots,
	};
	return 0;
}

bool qcow2_get_snapshot(struct block_node *n, u32 i, struct qcow2_snapshot_info *s)
{
	struct qcow2 *q = qcow2_of(n);
	const struct qsnapshot *from;

	if (!q || i >= q->nb_snapshots)
		return false;
	from = &q->snapshots[i];
	*s = (struct qcow2_snapshot_info){
		.id = from->id,
		.name = from->name,
		.vm_state_size = from->vm_state_size,
		.disk_size = from->has_disk_size ? from->disk_size : n->size,
		.vm_clock_ns = from->vm_clock,
		.sec = from->sec,
		.nsec = from->nsec,
	};
	return true;
}
