/*
 * Opening and closing a qcow2 (versions 2 and 3): header, extensions, tables.
 *
 * Specification: QEMU's docs/interop/qcow2.txt. Not supported, and refused by name:
 * encryption, extended L2 entries (subclusters), unknown incompatible features. Bitmaps
 * are kept by read-only users; who writes declares them stale, as the specification
 * wants.
 *
 * Everything is checked before it is used; a refused image costs bounded memory and time.
 * One thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"

/* All of a header has to be in here; QEMU wants it within the first cluster. */
#define HEADER_MAX KiB(64)

bool qcow2_probe(const u8 *buf, size_t len)
{
	return len >= 8 && be_load(buf, 4) == QCOW2_MAGIC && be_load(buf + 4, 4) >= 2;
}

struct qcow2 *qcow2_of(struct block_node *n)
{
	return n && n->ops == &qcow2_ops ? n->impl : NULL;
}

/* ---- parsing ---- */

static int refuse(const struct qcow2 *q, struct error *err, const char *why)
{
	return error_set(err, -EINVAL, "%s: qcow2: %s", q->file->path, why);
}

/* A table of the header: in the file, aligned, and behind the header. */
static bool table_fits(const struct qcow2 *q, u64 off, u64 bytes)
{
	u64 end = align_up(q->file->size, q->cluster_size);

	return !(off & (q->cluster_size - 1)) && off >= q->cluster_size && off <= end &&
	       bytes <= end - off;
}

static int parse_features(struct qcow2 *q, const u8 *h, struct error *err)
{
	q->incompat = be_load(h + H_INCOMPAT, 8);
	q->compat = be_load(h + H_COMPAT, 8);
	q->autoclear = be_load(h + H_AUTOCLEAR, 8);
	q->refcount_order = (u32)be_load(h + H_REFCOUNT_ORDER, 4);
	q->header_length = (u32)be_load(h + H_LENGTH, 4);
	if (q->refcount_order > 6)
		return refuse(q, err, "refcounts of more than 64 bits");
	if (q->header_length < QCOW2_HEADER_V3 || q->header_length & 7 ||
	    q->header_length > q->cluster_size || q->header_length > HEADER_MAX)
		return refuse(q, err, "a header of an impossible length");
	if (q->incompat & INCOMPAT_EXTL2)
		return refuse(q, err,
			      "extended L2 entries (subclusters) are not supported; "
			      "convert it with extended_l2=off");
	if (q->incompat & INCOMPAT_COMPRESSION) {
		q->compression = q->header_length > H_COMPRESSION ? h[H_COMPRESSION] : 0;
		if (q->compression > 1)
			return refuse(q, err,
				      "compressed neither by zlib nor by zstd, which "
				      "are what is supported");
	}
	return 0;
}

static int parse_fixed(struct qcow2 *q, const u8 *h, size_t len, struct error *err)
{
	int ret;

	if (len < QCOW2_HEADER_V2 || be_load(h, 4) != QCOW2_MAGIC)
		return refuse(q, err, "the header is cut off, or not that of a qcow2");
	q->version = (u32)be_load(h + H_VERSION, 4);
	if (q->version != 2 && q->version != 3)
		return error_set(err, -EINVAL,
				 "%s: qcow2 version %u; 2 and 3 are supported",
				 q->file->path, q->version);
	q->cluster_bits = (u32)be_load(h + H_CLUSTER_BITS, 4);
	if (q->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    q->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return refuse(q, err, "the cluster size is not from 512 bytes to 2 MiB");
	q->cluster_size = BIT(q->cluster_bits);
	q->l2_bits = q->cluster_bits - 3;
	q->refcount_order = 4;
	q->header_length = QCOW2_HEADER_V2;
	if (be_load(h + H_CRYPT, 4))
		return refuse(q, err, "encrypted images are not supported");
	if (q->version >= 3) {
		if (len < QCOW2_HEADER_V3)
			return refuse(q, err, "the header is cut off");
		ret = parse_features(q, h, err);
		if (ret)
			return ret;
	}
	q->rb_bits = q->cluster_bits + 3 - q->refcount_order;
	q->node->size = be_load(h + H_SIZE, 8);
	q->l1_size = (u32)be_load(h + H_L1_SIZE, 4);
	q->l1_off = be_load(h + H_L1_OFFSET, 8);
	q->rt_off = be_load(h + H_REFTABLE_OFFSET, 8);
	q->rt_size = (u32)be_load(h + H_REFTABLE_CLUSTERS, 4);
	q->nb_snapshots = (u32)be_load(h + H_NB_SNAPSHOTS, 4);
	q->snapshots_off = be_load(h + H_SNAPSHOTS_OFFSET, 8);
	return 0;
}

static int check_fixed(struct qcow2 *q, struct error *err)
{
	u64 size = q->node->size, per_l2 = q->cluster_size << q->l2_bits;
	u64 rt_bytes = q->rt_size * q->cluster_size;

	/* In a file the tail of a sector reads as zeroes, and may not be asked for. */
	if (size & (BLOCK_SECTOR - 1)) {
		if (size > INT64_MAX)
			return refuse(q, err, "an impossible disk size");
		q->node->size = size = align_down(size, BLOCK_SECTOR);
	}
	if (size > INT64_MAX || size / per_l2 > QCOW2_MAX_L1_BYTES / 8)
		return refuse(q, err, "an impossible disk size");
	if (q->l1_size > QCOW2_MAX_L1_BYTES / 8)
		return refuse(q, err, "the L1 table is too large");
	if (q->l1_size < (size + per_l2 - 1) / per_l2)
		return refuse(q, err, "the L1 table is too small for the disk");
	if (q->l1_size && !table_fits(q, q->l1_off, q->l1_size * UINT64_C(8)))
		return refuse(q, err, "the L1 table is not inside the file");
	if (rt_bytes > QCOW2_MAX_REFTABLE_BYTES)
		return refuse(q, err, "the refcount table is too large");
	/* check repairs an image without one */
	if ((!q->rt_size && !q->node->env->check) ||
	    (q->rt_size && !table_fits(q, q->rt_off, rt_bytes)))
		return refuse(q, err, "the refcount table is not inside the file");
	if (q->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
		return refuse(q, err, "more than 65536 snapshots");
	if (q->nb_snapshots && !table_fits(q, q->snapshots_off, q->nb_snapshots * 40))
		return refuse(q, err, "the snapshot table is not inside the file");
	return 0;
}

/* Names the first unknown incompatible feature, by the image's own table if it has one.
 */
static int check_unknown(struct qcow2 *q, const u8 *names, u32 len, struct error *err)
{
	u64 unknown = q->incompat & ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT |
				      INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION);
	char name[47] = "";
	unsigned bit;

	if (!unknown)
		return 0;
	bit = (unsigned)__builtin_ctzll(unknown);
	for (u32 i = 0; i + 48 <= len; i += 48) {
		if (names[i] || names[i + 1] != bit)
			continue;
		memcpy(name, names + i + 2, 46);
		for (char *c = name; *c; c++)
			if (*c < ' ' || *c > '~')
				*c = '?';
	}
	return error_set(err, -ENOTSUP,
			 "%s: qcow2: needs the feature '%s' (bit %u), which is not "
			 "supported",
			 q->file->path, name[0] ? name : "unknown", bit);
}

static char *text_of(const u8 *p, u64 len)
{
	char *s = xzalloc(len + 1);

	memcpy(s, p, len);
	return s;
}

static int keep_extension(struct qcow2 *q, u32 type, const u8 *p, u32 len)
{
	struct qext *more;

	if (type == EXT_BACKING_FORMAT || type == EXT_DATA_FILE) {
		char **s = type == EXT_DATA_FILE ? &q->data_name : &q->backing_format;

		free(*s);
		*s = text_of(p, len);
		return 0;
	}
	more = realloc(q->exts, (q->ext_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	q->exts = more;
	more[q->ext_count++] = (struct qext){ type, len, (u8 *)text_of(p, len) };
	return 0;
}

static int parse_extensions(struct qcow2 *q, const u8 *h, u64 end, struct error *err)
{
	const u8 *names = NULL;
	u32 names_len = 0;
	u64 at = q->header_length;

	while (at + 8 <= end) {
		u32 type = (u32)be_load(h + at, 4), len = (u32)be_load(h + at + 4, 4);

		at += 8;
		if (type == EXT_END)
			break;
		if (len > end - at)
			return refuse(q, err, "a header extension is cut off");
		if (type == EXT_FEATURES) {
			names = h + at;
			names_len = len;
		}
		if ((type == EXT_BACKING_FORMAT && len > 15) ||
		    (type == EXT_DATA_FILE && len > QCOW2_MAX_NAME))
			return refuse(q, err, "a name in the header is too long");
		if (keep_extension(q, type, h + at, len))
			return error_set(err, -ENOMEM, "%s: no memory", q->file->path);
		at += align_up(len, 8);
	}
	return check_unknown(q, names, names_len, err);
}

static int parse_header(struct qcow2 *q, struct error *err)
{
	u8 *h = xzalloc(HEADER_MAX);
	u64 len = MIN(q->file->size, HEADER_MAX), off, name_len, end;
	int ret = node_read(q->file, 0, h, len);

	if (ret) {
		error_set(err, ret, "%s: %s", q->file->path, strerror(-ret));
		goto free_header;
	}
	ret = parse_fixed(q, h, len, err);
	if (ret)
		goto free_header;
	off = be_load(h + H_BACKING_OFFSET, 8);
	name_len = be_load(h + H_BACKING_SIZE, 4);
	end = MIN(len, q->cluster_size);
	if (off && name_len > QCOW2_MAX_NAME) {
		ret = refuse(q, err, "the name of the backing file is too long");
		goto free_header;
	}
	if (off && (off > end || name_len > end - off)) {
		ret = refuse(q, err,
			     "the name of the backing file is outside the header");
		goto free_header;
	}
	if (off && name_len)
		q->backing_name = text_of(h + off, name_len);
	ret = parse_extensions(q, h, off >= q->header_length ? off : end, err);
	if (!ret)
		ret = check_fixed(q, err);
free_header:
	free(h);
	return ret;
}

/* ---- tables ---- */

static int load_table(struct qcow2 *q, u64 off, u64 entries, u64 **table)
{
	/* Room up to a cluster's end, as later writes go by sectors. */
	u64 bytes = MAX(align_up(entries * 8, q->cluster_size), q->cluster_size);
	int ret;

	*table = calloc(1, bytes);
	if (!*table)
		return -ENOMEM;
	if (!entries)
		return 0;
	ret = node_read(q->file, off, *table, entries * 8);
	for (u64 i = 0; i < entries && !ret; i++)
		(*table)[i] = be_load(&(*table)[i], 8);
	return ret;
}

static int claim(struct qcow2 *q, const char *what, u64 off, u64 clusters,
		 struct error *err)
{
	for (u64 i = 0; i < clusters; i++) {
		int ret = qset_add(&q->meta, off + (i << q->cluster_bits));

		if (ret == -ENOMEM)
			return error_set(err, ret, "%s: no memory", q->file->path);
		if (ret && !q->node->env->check)
			return error_set(err, -EINVAL,
					 "%s: qcow2: %s at %#llx overlaps another table; "
					 "umbra image check tells more",
					 q->file->path, what, (unsigned long long)off);
	}
	return 0;
}

static int claim_listed(struct qcow2 *q, const char *what, const u64 *table, u32 size,
			struct error *err)
{
	u64 end = align_up(q->file->size, q->cluster_size);
	int ret = 0;

	for (u32 i = 0; i < size && !ret; i++) {
		u64 off = table[i] & ENTRY_OFFSET;

		if (!off)
			continue;
		if (off & (q->cluster_size - 1) || off >= end) {
			if (!q->node->env->check)
				ret = error_set(err, -EINVAL,
						"%s: qcow2: %s %u is at %#llx, outside "
						"the file; umbra image check tells more",
						q->file->path, what, i,
						(unsigned long long)off);
			continue;
		}
		ret = claim(q, what, off, 1, err);
	}
	return ret;
}

static u64 clusters_for(const struct qcow2 *q, u64 bytes)
{
	return align_up(bytes, q->cluster_size) >> q->cluster_bits;
}

static int load_tables(struct qcow2 *q, struct error *err)
{
	u64 rt_clusters = q->rt_size;
	int ret;

	q->rt_size = (u32)(rt_clusters * q->cluster_size / 8);
	ret = load_table(q, q->l1_off, q->l1_size, &q->l1);
	if (!ret)
		ret = load_table(q, q->rt_off, q->rt_size, &q->rt);
	if (!ret)
		ret = qcache_init(&q->l2,
				  MIN(MiB(32), align_up(q->node->size >> q->l2_bits,
							q->cluster_size)),
				  q->cluster_size);
	if (!ret)
		ret = qcache_init(&q->rb, MIN(MiB(4), q->rt_size * q->cluster_size),
				  q->cluster_size);
	if (ret)
		return error_set(err, ret, "%s: the tables cannot be read: %s",
				 q->file->path, strerror(-ret));
	ret = qcow2_snapshots_load(q, err);
	if (!ret)
		ret = claim(q, "the header", 0, 1, err);
	if (!ret)
		ret = claim(q, "the L1 table", q->l1_off,
			    clusters_for(q, q->l1_size * UINT64_C(8)), err);
	if (!ret)
		ret = claim(q, "the refcount table", q->rt_off, rt_clusters, err);
	if (!ret && q->nb_snapshots)
		ret = claim(q, "the snapshot table", q->snapshots_off,
			    clusters_for(q, q->snapshots_bytes), err);
	for (u32 i = 0; i < q->nb_snapshots && !ret; i++)
		ret = claim(q, "the L1 table of a snapshot", q->snapshots[i].l1_offset,
			    clusters_for(q, q->snapshots[i].l1_size * UINT64_C(8)), err);
	if (!ret)
		ret = claim_listed(q, "refcount block", q->rt, q->rt_size, err);
	return ret ? ret : claim_listed(q, "L2 table", q->l1, q->l1_size, err);
}

/* ---- writing the header ---- */

int qcow2_write_features(struct qcow2 *q)
{
	u8 field[24];
	int ret;

	be_store(field, q->incompat, 8);
	be_store(field + 8, q->compat, 8);
	be_store(field + 16, q->autoclear, 8);
	ret = node_write(q->file, H_INCOMPAT, field, sizeof(field));
	return ret ? ret : node_flush(q->file);
}

int qcow2_set_dirty(struct qcow2 *q, bool dirty)
{
	if (q->version < 3 || !!(q->incompat & INCOMPAT_DIRTY) == dirty)
		return 0;
	q->incompat ^= INCOMPAT_DIRTY;
	return qcow2_write_features(q);
}

static u64 put_extension(u8 *h, u64 at, u32 type, const void *data, u64 len)
{
	be_store(h + at, type, 4);
	be_store(h + at + 4, len, 4);
	memcpy(h + at + 8, data, len);
	return at + 8 + align_up(len, 8);
}

static u64 text_len(const char *s)
{
	return s ? strlen(s) : 0;
}

int qcow2_write_header(struct qcow2 *q)
{
	u64 need = q->header_length + 64 + text_len(q->backing_name) +
		   text_len(q->backing_format) + text_len(q->data_name),
	    at;
	u8 *h;
	int ret;

	for (u32 i = 0; i < q->ext_count; i++)
		need += 8 + align_up(q->exts[i].len, 8);
	if (need > q->cluster_size || need > HEADER_MAX)
		return -ENOSPC;
	h = calloc(1, q->cluster_size);
	if (!h)
		return -ENOMEM;
	/* Fields behind those we know are kept. */
	ret = node_read(q->file, 0, h, q->header_length);
	be_store(h + H_MAGIC, QCOW2_MAGIC, 4);
	be_store(h + H_VERSION, q->version, 4);
	be_store(h + H_CLUSTER_BITS, q->cluster_bits, 4);
	be_store(h + H_SIZE, q->node->size, 8);
	be_store(h + H_L1_SIZE, q->l1_size, 4);
	be_store(h + H_L1_OFFSET, q->l1_off, 8);
	be_store(h + H_REFTABLE_OFFSET, q->rt_off, 8);
	be_store(h + H_REFTABLE_CLUSTERS, q->rt_size * UINT64_C(8) >> q->cluster_bits, 4);
	be_store(h + H_NB_SNAPSHOTS, q->nb_snapshots, 4);
	be_store(h + H_SNAPSHOTS_OFFSET, q->snapshots_off, 8);
	if (q->version >= 3) {
		be_store(h + H_INCOMPAT, q->incompat, 8);
		be_store(h + H_COMPAT, q->compat, 8);
		be_store(h + H_AUTOCLEAR, q->autoclear, 8);
		be_store(h + H_REFCOUNT_ORDER, q->refcount_order, 4);
		be_store(h + H_LENGTH, q->header_length, 4);
		if (q->header_length > H_COMPRESSION)
			h[H_COMPRESSION] = q->compression;
	}
	at = q->header_length;
	if (q->backing_format)
		at = put_extension(h, at, EXT_BACKING_FORMAT, q->backing_format,
				   strlen(q->backing_format));
	if (q->data_name)
		at = put_extension(h, at, EXT_DATA_FILE, q->data_name,
				   strlen(q->data_name));
	for (u32 i = 0; i < q->ext_count; i++)
		at = put_extension(h, at, q->exts[i].type, q->exts[i].data,
				   q->exts[i].len);
	at += 8; /* EXT_END */
	be_store(h + H_BACKING_OFFSET, q->backing_name ? at : 0, 8);
	be_store(h + H_BACKING_SIZE, text_len(q->backing_name), 4);
	if (q->backing_name)
		memcpy(h + at, q->backing_name, strlen(q->backing_name));
	if (!ret)
		ret = node_write(q->file, 0, h, q->cluster_size);
	free(h);
	return ret ? ret : node_flush(q->file);
}

/* ---- opening and closing ---- */

static void free_qcow2(struct qcow2 *q)
{
	if (q->data && q->data != q->file)
		node_close(q->data);
	qcow2_snapshots_free(q);
	qcache_fini(&q->l2);
	qcache_fini(&q->rb);
	for (u32 i = 0; i < q->ext_count; i++)
		free(q->exts[i].data);
	free(q->exts);
	free(q->meta.slots);
	free(q->pending);
	free(q->l1);
	free(q->rt);
	free(q->backing_name);
	free(q->backing_format);
	free(q->data_name);
	free(q->unpacked);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->unpack_lock);
	pthread_cond_destroy(&q->range_free);
	free(q);
}

int qcow2_close(struct block_node *n)
{
	struct qcow2 *q = n->impl;
	int ret = 0;

	if (!n->readonly && q->rt && !q->node->env->check) {
		ret = qcow2_sync(q, true);
		/* The frees of the last sync. */
		if (!ret)
			ret = qcow2_sync(q, true);
	}
	free_qcow2(q);
	n->impl = NULL;
	return ret;
}

/* "dir/" of the image + name, unless the name is absolute. */
char *qcow2_relative(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	size_t dir = slash && name[0] != '/' ? (size_t)(slash - image) + 1 : 0;
	char *path = xzalloc(dir + strlen(name) + 1);

	memcpy(path, image, dir);
	strcpy(path + dir, name);
	return path;
}

static int open_data(struct qcow2 *q, struct error *err)
{
	char *path;
	int ret;

	q->data = q->file;
	if (!(q->incompat & INCOMPAT_DATA_FILE))
		return 0;
	if (!q->data_name || !*q->data_name)
		return refuse(q, err, "the name of its external data file is missing");
	path = qcow2_relative(q->file->path, q->data_name);
	q->data = NULL;
	ret = file_open(&q->data, q->node->env, path,
			FILE_BACKING | (q->node->readonly ? 0 : FILE_WRITE), err);
	free(path);
	if (!ret && file_same(q->data, q->file))
		return refuse(q, err, "is its own external data file");
	return ret;
}

static int open_backing(struct qcow2 *q, const struct block_config *cfg, unsigned depth,
			struct error *err)
{
	char *path;
	int ret;

	if (!q->backing_name || cfg->no_backing)
		return 0;
	if (q->data_name && q->autoclear & AUTOCLEAR_RAW)
		return refuse(q, err, "has a raw external data file and a backing file");
	path = qcow2_relative(q->file->path, q->backing_name);
	ret = chain_open(&q->node->backing, q->node->env, path, q->backing_format,
			 depth + 1, false, err);
	free(path);
	return ret;
}

static int check_states(struct qcow2 *q, struct error *err)
{
	u64 known = AUTOCLEAR_RAW;
	int ret;

	if (q->node->readonly || q->node->env->check)
		return 0;
	if (q->incompat & INCOMPAT_CORRUPT)
		return error_set(err, -EIO,
				 "%s: is marked as damaged; umbra image check -r all "
				 "repairs it, readonly=on reads it",
				 q->file->path);
	if (q->incompat & INCOMPAT_DIRTY) {
		struct qcow2_check c = { .fix = QCOW2_FIX_ALL };

		log_warn("%s: was not closed properly; its refcounts are repaired",
			 q->file->path);
		ret = qcow2_check(q->node, &c);
		if (ret || c.corruptions > c.corruptions_fixed)
			return error_set(err, ret ? ret : -EIO,
					 "%s: cannot be repaired: umbra image check "
					 "tells more",
					 q->file->path);
	}
	/* What we do not keep up to date is stale from now on. */
	if (q->version >= 3 && q->autoclear & ~known) {
		q->autoclear &= known;
		ret = qcow2_write_features(q);
		if (ret)
			return error_set(err, ret, "%s: %s", q->file->path,
					 strerror(-ret));
	}
	return 0;
}

int qcow2_open(struct block_node **node, struct block_node *file,
	       const struct block_config *cfg, unsigned depth, struct error *err)
{
	struct block_node *n = node_new(&qcow2_ops, file->env, file->path);
	struct qcow2 *q = xzalloc(sizeof(*q));
	int ret;

	n->impl = q;
	n->file = file;
	n->readonly = file->readonly;
	q->node = n;
	q->file = file;
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->unpack_lock, NULL);
	pthread_cond_init(&q->range_free, NULL);
	ret = parse_header(q, err);
	if (!ret)
		ret = load_tables(q, err);
	if (!ret)
		ret = open_data(q, err);
	if (!ret) {
		u64 end = file_end(file);

		q->clean_from = end == UINT64_MAX ? end : align_up(end, q->cluster_size);
		ret = check_states(q, err);
	}
	if (!ret)
		ret = open_backing(q, cfg, depth, err);
	if (ret) {
		/* Nothing is to be written at the end. */
		n->readonly = true;
		node_close(n);
		return ret;
	}
	*node = n;
	return 0;
}
