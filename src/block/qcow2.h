/*
 * qcow2 from the inside, for the files qcow2_*.c. The numbers are those of QEMU's
 * docs/interop/qcow2.txt; all of the file is big-endian.
 *
 * Order of writes, so that what is on the disk is never worse than leaking clusters,
 * whatever of the writes since the last fdatasync() got there:
 *
 *  O1 A cluster's refcount is stable before anything that is stable points to it.
 *  O2 Data, and the table that a pointer points to, are stable before the pointer is.
 *  O3 A cluster's refcount falls, and the cluster is used again, only when no stable
 *     pointer to it is left: frees wait in 'pending' for the next complete sync.
 *  O4 A table of refcounts is stable before the header points to it.
 *
 * qcow2_sync() (qcow2_cache.c) is the one place that writes tables, in that order.
 */
#pragma once

#include <pthread.h>

#include "base/bits.h"
#include "block/node.h"

enum {
	QCOW2_MAGIC = 0x514649fb,
	QCOW2_MIN_CLUSTER_BITS = 9,
	QCOW2_MAX_CLUSTER_BITS = 21,
	QCOW2_HEADER_V2 = 72,
	QCOW2_HEADER_V3 = 104,
	QCOW2_MAX_SNAPSHOTS = 65536,
	QCOW2_MAX_DEPTH = 64, /* of backing chains */
	QCOW2_MAX_NAME = 1023,
};

#define QCOW2_MAX_L1_BYTES        MiB(32)
#define QCOW2_MAX_REFTABLE_BYTES  MiB(8)
#define QCOW2_MAX_SNAPSHOTS_BYTES MiB(64)
#define QCOW2_MAX_SNAPSHOTS_L1    GiB(4) /* of all together */

/* Offsets in the header. */
enum {
	H_MAGIC = 0,
	H_VERSION = 4,
	H_BACKING_OFFSET = 8,
	H_BACKING_SIZE = 16,
	H_CLUSTER_BITS = 20,
	H_SIZE = 24,
	H_CRYPT = 32,
	H_L1_SIZE = 36,
	H_L1_OFFSET = 40,
	H_REFTABLE_OFFSET = 48,
	H_REFTABLE_CLUSTERS = 56,
	H_NB_SNAPSHOTS = 60,
	H_SNAPSHOTS_OFFSET = 64,
	H_INCOMPAT = 72,
	H_COMPAT = 80,
	H_AUTOCLEAR = 88,
	H_REFCOUNT_ORDER = 96,
	H_LENGTH = 100,
	H_COMPRESSION = 104,
};

#define INCOMPAT_DIRTY       BIT(0)
#define INCOMPAT_CORRUPT     BIT(1)
#define INCOMPAT_DATA_FILE   BIT(2)
#define INCOMPAT_COMPRESSION BIT(3)
#define INCOMPAT_EXTL2       BIT(4)
#define COMPAT_LAZY          BIT(0)
#define AUTOCLEAR_BITMAPS    BIT(0)
#define AUTOCLEAR_RAW        BIT(1)

enum {
	EXT_END = 0,
	EXT_BACKING_FORMAT = 0xe2792aca,
	EXT_FEATURES = 0x6803f857,
	EXT_BITMAPS = 0x23852875,
	EXT_CRYPTO = 0x0537be77,
	EXT_DATA_FILE = 0x44415441,
};

/* Entries of L1 and L2. */
#define ENTRY_COPIED     BIT(63)
#define ENTRY_COMPRESSED BIT(62)
#define ENTRY_ZERO       BIT(0)
#define ENTRY_OFFSET     BITS(55, 9)

static inline u64 be_load(const void *p, unsigned size)
{
	switch (size) {
	case 2: return __builtin_bswap16((u16)le_load(p, 2));
	case 4: return __builtin_bswap32((u32)le_load(p, 4));
	case 8: return __builtin_bswap64(le_load(p, 8));
	default: return *(const u8 *)p;
	}
}

static inline void be_store(void *p, u64 v, unsigned size)
{
	switch (size) {
	case 2: le_store(p, __builtin_bswap16((u16)v), 2); break;
	case 4: le_store(p, __builtin_bswap32((u32)v), 4); break;
	case 8: le_store(p, __builtin_bswap64(v), 8); break;
	default: *(u8 *)p = (u8)v; break;
	}
}

/* A cluster of the file that is a table, in memory. */
struct qtable {
	u64 off;
	u8 *data;
	u32 lo, hi; /* bytes that are not on the disk; lo == hi: none */
	bool fresh; /* nothing stable points to it: may be written any time */
	bool valid;
	u64 used;      /* for the choice of whom to drop */
	u32 hash_next; /* index + 1 */
};

struct qcache {
	struct qtable *tables;
	u32 count, max;
	u32 *hash; /* of 'max' rounded up, times two; index + 1 */
	u32 hash_mask;
	u64 clock;
	u32 last; /* where the last one was found */
};

/* Offsets of clusters that are tables. Open addressing; 0 is free, 1 deleted. */
struct qset {
	u64 *slots;
	u64 mask, used, live;
};

struct qextent {
	u64 off, clusters;
};

struct qext {
	u32 type, len;
	u8 *data;
};

struct qsnapshot {
	u64 l1_offset;
	u32 l1_size;
	char *id, *name;
	u32 sec, nsec;
	u64 vm_clock, vm_state_size, disk_size;
	u8 *extra; /* behind what is known */
	u32 extra_len;
	u64 icount;
	bool has_icount, has_disk_size;
};

struct qcow2 {
	struct block_node *node, *file, *data; /* data: file, or the external one */
	u32 version, cluster_bits, l2_bits, refcount_order, rb_bits, header_length;
	u64 cluster_size, incompat, compat, autoclear;
	u8 compression; /* 0: zlib, 1: zstd */
	char *backing_name, *backing_format, *data_name;
	struct qext *exts; /* as in the file, less those above */
	u32 ext_count;

	/* Everything below: 'lock'. */
	pthread_mutex_t lock;
	u64 l1_off, rt_off;
	u64 *l1, *rt; /* in the host's order */
	u32 l1_size, rt_size;
	u32 l1_lo, l1_hi, rt_lo, rt_hi; /* entries that are not on the disk */
	struct qcache l2, rb;
	struct qset meta;
	struct qextent *pending;
	u32 pending_count, pending_max;
	u64 hint;         /* cluster where the search for a free one starts */
	u64 clean_from;   /* bytes of the file from here on read as zeroes */
	bool data_dirty;  /* data was written since the last sync */
	bool sync_needed; /* anything was */
	bool failed;      /* found corrupt: no more writes */
	bool growing;     /* the refcount table is being moved */
	u64 compress_off; /* next byte for compressed data; 0: a new cluster */

	struct qsnapshot *snapshots;
	u32 nb_snapshots, snapshots_bytes;
	u64 snapshots_off;

	/* Requests under way, cluster-aligned. Those that conflict wait. */
	struct block_range *ranges;
	pthread_cond_t range_free;

	/* The compressed cluster that was read last. */
	pthread_mutex_t unpack_lock;
	u8 *unpacked;
	u64 unpacked_entry;
	bool exclusive; /* a command's: nobody else submits */
};

/* All below: q->lock held, or only one thread yet. 0 or -errno. */

/* ---- qcow2_cache.c ---- */

int qcache_init(struct qcache *c, u64 bytes, u64 cluster_size);
void qcache_fini(struct qcache *c);
/* Reads it if need be. Valid until the next qcache_get() of this cache. */
int qcache_get(struct qcow2 *q, struct qcache *c, u64 off, struct qtable **t);
/* Only what is in memory; NULL. */
struct qtable *qcache_find(struct qcache *c, u64 off);
/* All zeroes, and not even in the file: it need not be read. */
bool qcache_is_hole(struct qcow2 *q, struct qcache *c, u64 off);
/* A table that has just been allocated, zeroed. */
int qcache_new(struct qcow2 *q, struct qcache *c, u64 off, struct qtable **t);
void qcache_drop(struct qcache *c, u64 off);
void qtable_dirty(struct qtable *t, u32 lo, u32 hi);
/*
 * Write tables in the order above. 'complete': also what was written last is stable, and
 * pending frees are done.
 */
int qcow2_sync(struct qcow2 *q, bool complete);
bool qcow2_is_dirty(const struct qcow2 *q);

int qset_add(struct qset *s, u64 off); /* -EEXIST: is in there */
void qset_remove(struct qset *s, u64 off);
bool qset_has(const struct qset *s, u64 off);

/* ---- qcow2_refcount.c ---- */

u64 refcount_get_entry(const struct qcow2 *q, const u8 *block, u64 i);
void refcount_set_entry(const struct qcow2 *q, u8 *block, u64 i, u64 v);
int refcount_get(struct qcow2 *q, u64 cluster, u64 *v);
/* Add to that of each cluster; makes blocks as needed. */
int refcount_add(struct qcow2 *q, u64 off, u64 clusters, i64 by);
int refcount_set(struct qcow2 *q, u64 cluster, u64 v);
/* 1 to 'want' clusters in one piece; *got of them, with refcount 1. */
int qcow2_alloc(struct qcow2 *q, u64 want, u64 *off, u64 *got);
int qcow2_alloc_exact(struct qcow2 *q, u64 want, u64 *off);
/* One reference less, when the next complete sync is over (O3). */
void qcow2_free(struct qcow2 *q, u64 off, u64 clusters);
void qcow2_free_entry(struct qcow2 *q, u64 entry);
void qcow2_apply_pending(struct qcow2 *q);
/* Where a compressed cluster is. False: the entry is damaged. */
bool qcow2_compressed(const struct qcow2 *q, u64 entry, u64 *off, u64 *len);

/* ---- qcow2_map.c ---- */

enum qkind { Q_NONE, Q_NORMAL, Q_ZERO, Q_ZERO_ALLOC, Q_COMPRESSED, Q_BAD };

struct qmap {
	enum qkind kind;
	u64 host; /* of the byte asked for; Q_COMPRESSED: the entry */
	u64 len;  /* this far it goes on so, at most what was asked */
	bool copied;
};

enum qkind qcow2_kind(const struct qcow2 *q, u64 entry);
/* 'cached': -EAGAIN rather than read a table. */
int qcow2_lookup(struct qcow2 *q, u64 off, u64 len, bool cached, struct qmap *m);
/* The L2 table of 'off', its own and not shared with a snapshot. */
int qcow2_l2_for_write(struct qcow2 *q, u64 off, struct qtable **t);
static inline u64 l2_index(const struct qcow2 *q, u64 off)
{
	return off >> q->cluster_bits & (BIT(q->l2_bits) - 1);
}
static inline u64 l1_index(const struct qcow2 *q, u64 off)
{
	return off >> q->cluster_bits >> q->l2_bits;
}
u64 l2_entry(const struct qtable *t, u64 i);
void l2_set(struct qtable *t, u64 i, u64 entry);
int qcow2_l1_grow(struct qcow2 *q, u64 entries);
/* Something in the file cannot be right: say so once, mark it, write no more. -EIO. */
__attribute__((format(printf, 2, 3))) int qcow2_corrupt(struct qcow2 *q, const char *fmt,
							...);

/* ---- qcow2_header.c, qcow2_create.c ---- */

int qcow2_close(struct block_node *n);
int qcow2_resize(struct block_node *n, u64 size, struct error *err);

/* The fields of the header that change: written one by one, each within a sector. */
int qcow2_write_features(struct qcow2 *q);
/* All of it, with extensions and backing name. */
int qcow2_write_header(struct qcow2 *q);
int qcow2_set_dirty(struct qcow2 *q, bool dirty);
struct qcow2 *qcow2_of(struct block_node *n); /* NULL: another format */

/* ---- qcow2_snapshot.c ---- */

int qcow2_snapshots_load(struct qcow2 *q, struct error *err);
void qcow2_snapshots_free(struct qcow2 *q);
/* L1 of a snapshot, checked, in the host's order; free(). */
int qcow2_snapshot_l1(struct qcow2 *q, const struct qsnapshot *s, u64 **l1);

/* ---- qcow2_compress.c: no lock ---- */

int qcow2_unpack(struct qcow2 *q, u64 entry, u8 *out);
/* Bytes, or -ENOSPC: does not get smaller. 'out' is as large as 'in', a cluster. */
i64 qcow2_pack(const struct qcow2 *q, const u8 *in, u8 *out);

extern const struct block_ops qcow2_ops;
