/*
 * `umbra image` info, check and map: what an image is. Text and JSON as qemu-img prints
 * them.
 *
 * Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "block/qcow2_tool.h"
#include "control/image.h"
#include "control/session.h"

/* ---- JSON ---- */

static void json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c < ' ')
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

static void json_text(const char *key, const char *val)
{
	printf(", \"%s\": ", key);
	json_string(val);
}

static const char *json_bool(bool b)
{
	return b ? "true" : "false";
}

static void print_size(char *out, size_t len, u64 bytes)
{
	static const char units[] = "BKMGTPE";
	double v = (double)bytes;
	unsigned i = 0;

	for (; v >= 1000 && i < 6; i++)
		v /= 1024;
	if (i)
		snprintf(out, len, "%.3g %ciB", v, units[i]);
	else
		snprintf(out, len, "%" PRIu64 " B", bytes);
}

/* ---- info ---- */

static void info_json(struct block *b, const struct qcow2_info *i)
{
	printf("{\"virtual-size\": %" PRIu64, block_size(b));
	json_text("filename", block_path(b));
	json_text("format", block_format(b));
	printf(", \"actual-size\": %" PRIu64, file_allocated(block_path(b)));
	printf(", \"dirty-flag\": %s", json_bool(i && i->dirty));
	if (i) {
		struct qcow2_snapshot_info s;

		printf(", \"cluster-size\": %" PRIu64, i->cluster_size);
		if (i->backing_name) {
			char *full = qcow2_relative(block_path(b), i->backing_name);

			json_text("backing-filename", i->backing_name);
			json_text("full-backing-filename", full);
			free(full);
		}
		if (i->backing_format)
			json_text("backing-filename-format", i->backing_format);
		for (u32 k = 0; qcow2_get_snapshot(block_node_of(b), k, &s); k++) {
			printf("%s{\"id\": ", k ? ", " : ", \"snapshots\": [");
			json_string(s.id);
			json_text("name", s.name);
			printf(", \"vm-state-size\": %" PRIu64 ", \"date-sec\": %u, "
			       "\"date-nsec\": %u, \"vm-clock-sec\": %" PRIu64
			       ", \"vm-clock-nsec\": %" PRIu64 "}",
			       s.vm_state_size, s.sec, s.nsec, s.vm_clock_ns / 1000000000,
			       s.vm_clock_ns % 1000000000);
		}
		if (i->snapshots)
			putchar(']');
		printf(", \"format-specific\": {\"type\": \"qcow2\", \"data\": "
		       "{\"compat\": \"%s\"",
		       i->version >= 3 ? "1.1" : "0.10");
		if (i->data_name)
			json_text("data-file", i->data_name);
		if (i->data_name)
			printf(", \"data-file-raw\": %s", json_bool(i->data_file_raw));
		printf(", \"compression-type\": \"%s\", \"lazy-refcounts\": %s, "
		       "\"refcount-bits\": %u, \"corrupt\": %s, \"extended-l2\": "
		       "false}}",
		       i->zstd ? "zstd" : "zlib", json_bool(i->lazy_refcounts),
		       i->refcount_bits, json_bool(i->corrupt));
	}
	printf("}");
}

static void print_snapshots(struct block_node *n)
{
	struct qcow2_snapshot_info s;

	printf("%-10s%-25s%8s%20s%15s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK");
	for (u32 i = 0; qcow2_get_snapshot(n, i, &s); i++) {
		char size[32], date[32] = "";
		time_t sec = s.sec;
		u64 clock = s.vm_clock_ns / 1000000;
		struct tm tm;

		print_size(size, sizeof(size), s.vm_state_size);
		if (localtime_r(&sec, &tm))
			strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
		printf("%-9s %-24s %7s%20s   %02u:%02u:%02u.%03u\n", s.id, s.name, size,
		       date, (unsigned)(clock / 3600000), (unsigned)(clock / 60000 % 60),
		       (unsigned)(clock / 1000 % 60), (unsigned)(clock % 1000));
	}
}

static void info_text(struct block *b, const struct qcow2_info *i)
{
	char size[32];

	print_size(size, sizeof(size), block_size(b));
	printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\n",
	       block_path(b), block_format(b), size, block_size(b));
	print_size(size, sizeof(size), file_allocated(block_path(b)));
	printf("disk size: %s\n", size);
	if (!i)
		return;
	printf("cluster_size: %" PRIu64 "\n", i->cluster_size);
	if (i->backing_name) {
		char *full = qcow2_relative(block_path(b), i->backing_name);

		printf("backing file: %s", i->backing_name);
		if (strcmp(full, i->backing_name))
			printf(" (actual path: %s)", full);
		printf("\n");
		free(full);
	}
	if (i->backing_format)
		printf("backing file format: %s\n", i->backing_format);
	if (i->snapshots) {
		printf("Snapshot list:\n");
		print_snapshots(block_node_of(b));
	}
	printf("Format specific information:\n    compat: %s\n",
	       i->version >= 3 ? "1.1" : "0.10");
	printf("    compression type: %s\n    lazy refcounts: %s\n    refcount bits: "
	       "%u\n",
	       i->zstd ? "zstd" : "zlib", json_bool(i->lazy_refcounts), i->refcount_bits);
	if (i->data_name)
		printf("    data file: %s\n    data file raw: %s\n", i->data_name,
		       json_bool(i->data_file_raw));
	printf("    corrupt: %s\n    dirty: %s\n", json_bool(i->corrupt),
	       json_bool(i->dirty));
}

static int info_one(const struct image_args *a, const char *path, const char *format,
		    char **next, char **next_format, struct error *err)
{
	struct block_config cfg = {
		.file = path,
		.format = format,
		.readonly = true,
		.no_lock = a->share,
		.no_backing = true,
	};
	struct qcow2_info i;
	struct block *b;
	bool qcow2;
	int ret = block_open(&b, &cfg, err);

	if (ret)
		return ret;
	qcow2 = !qcow2_get_info(block_node_of(b), &i);
	if (a->json)
		info_json(b, qcow2 ? &i : NULL);
	else
		info_text(b, qcow2 ? &i : NULL);
	*next = qcow2 && i.backing_name ? qcow2_relative(path, i.backing_name) : NULL;
	*next_format = qcow2 && i.backing_format ? strdup(i.backing_format) : NULL;
	block_close(b);
	return 0;
}

int image_info(const struct image_args *a)
{
	char *path = strdup(a->names[0]), *format = a->format ? strdup(a->format) : NULL;
	struct error err = { 0 };
	unsigned depth = 0;
	int ret = 0;

	if (a->json && a->all)
		printf("[");
	while (path && !ret && depth++ < 64) {
		char *next = NULL, *next_format = NULL;

		if (depth > 1)
			printf(a->json ? ", " : "\n");
		ret = info_one(a, path, format, &next, &next_format, &err);
		free(path);
		free(format);
		path = a->all ? next : NULL;
		format = next_format;
		if (!a->all)
			free(next);
	}
	free(path);
	free(format);
	if (a->json)
		printf(a->all ? "]\n" : "\n");
	if (ret)
		return image_failed(&err);
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

/* ---- check ---- */

static void found(void *opaque, const char *line)
{
	(void)opaque;
	fprintf(stderr, "%s\n", line);
}

static void progress(void *opaque, double percent)
{
	image_progress(opaque, percent);
}

static void check_json(struct block *b, const struct qcow2_check *c)
{
	printf("{\"filename\": ");
	json_string(block_path(b));
	json_text("format", block_format(b));
	printf(", \"check-errors\": 0, \"image-end-offset\": %" PRIu64
	       ", \"total-clusters\": %" PRIu64 ", \"allocated-clusters\": %" PRIu64
	       ", \"fragmented-clusters\": %" PRIu64 ", \"compressed-clusters\": %" PRIu64
	       ", \"leaks\": %" PRIu64 ", \"corruptions\": %" PRIu64
	       ", \"leaks-fixed\": %" PRIu64 ", \"corruptions-fixed\": %" PRIu64 "}\n",
	       c->end, c->total, c->allocated, c->fragmented, c->compressed,
	       c->leaks - c->leaks_fixed, c->corruptions - c->corruptions_fixed,
	       c->leaks_fixed, c->corruptions_fixed);
}

static void check_text(const struct qcow2_check *c)
{
	u64 bad = c->corruptions - c->corruptions_fixed,
	    leaks = c->leaks - c->leaks_fixed;

	if (c->leaks_fixed || c->corruptions_fixed)
		printf("Repaired: %" PRIu64 " errors, %" PRIu64 " leaked clusters.\n",
		       c->corruptions_fixed, c->leaks_fixed);
	if (!bad && !leaks)
		printf("No errors were found on the image.\n");
	if (bad)
		printf("%" PRIu64
		       " errors were found on the image.\nData may be damaged; "
		       "-r all repairs what can be.\n",
		       bad);
	if (leaks)
		printf("%" PRIu64 " leaked clusters were found on the image.\nSpace is "
		       "wasted, no data is harmed; -r leaks gives it back.\n",
		       leaks);
	if (c->total)
		printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, "
		       "%.2f%% compressed clusters\n",
		       c->allocated, c->total,
		       (double)c->allocated * 100 / (double)c->total,
		       c->allocated ? (double)c->fragmented * 100 / (double)c->allocated
				    : 0,
		       c->allocated ? (double)c->compressed * 100 / (double)c->allocated
				    : 0);
	printf("Image end offset: %" PRIu64 "\n", c->end);
}

int image_check(const struct image_args *a)
{
	struct image_args shown = *a;
	struct qcow2_check c = { .fix = (enum qcow2_fix)a->fix,
				 .found = a->quiet || a->json ? NULL : found,
				 .progress = progress,
				 .opaque = &shown };
	struct block_config cfg = {
		.file = a->names[0],
		.format = a->format,
		.readonly = !a->fix,
		.no_lock = a->share,
		.no_backing = true,
		.check = true,
	};
	struct error err = { 0 };
	struct block *b;
	int ret = block_open(&b, &cfg, &err);

	if (ret)
		return image_failed(&err);
	ret = qcow2_check(block_node_of(b), &c);
	if (ret == -ENOTSUP) {
		log_error("%s: is %s, which has nothing to check", block_path(b),
			  block_format(b));
		block_close(b);
		return 63; /* qemu-img's */
	}
	if (!ret && a->json)
		check_json(b, &c);
	else if (!ret && !a->quiet)
		check_text(&c);
	if (ret)
		error_set(&err, ret, "%s: the check did not get to its end: %s",
			  block_path(b),
			  ret == -EFBIG ? "the file has more than 2^28 clusters"
					: strerror(-ret));
	block_close(b);
	if (ret)
		return image_failed(&err);
	if (fflush(stdout))
		return STATUS_FAILED;
	return c.corruptions > c.corruptions_fixed ? 2 : c.leaks > c.leaks_fixed ? 3 : 0;
}

/* ---- map ---- */

int image_status(struct block_node *n, u64 off, u64 len, struct block_extent *e,
		 unsigned *depth, struct block_node **where)
{
	u64 want = len;
	int ret = 0;

	*depth = 0;
	*where = n;
	*e = (struct block_extent){ .len = len, .kind = EXTENT_BACKING };
	while (n) {
		if (off >= n->size) {
			/* A short backing file: zeroes behind it. */
			e->kind = EXTENT_ZERO;
			return 0;
		}
		ret = n->ops->status(n, off, MIN(want, n->size - off), e);
		if (ret)
			return ret;
		*where = n;
		if (e->kind != EXTENT_BACKING || !n->backing)
			break;
		want = e->len;
		n = n->backing;
		++*depth;
	}
	return 0;
}

struct shown {
	u64 start, len, host;
	unsigned depth;
	enum block_kind kind;
	bool has_host;
	const char *file;
};

static void show(const struct image_args *a, const struct shown *s, bool first)
{
	bool data = s->kind == EXTENT_DATA || s->kind == EXTENT_COMPRESSED;

	if (a->json) {
		printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
		       ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
		       first ? "[" : ",\n", s->start, s->len, s->depth,
		       json_bool(s->kind != EXTENT_BACKING), json_bool(!data),
		       json_bool(data));
		if (s->kind == EXTENT_COMPRESSED)
			printf(", \"compressed\": true");
		if (s->has_host)
			printf(", \"offset\": %" PRIu64, s->host);
		printf("}");
	} else if (s->kind == EXTENT_DATA && s->has_host) {
		printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", s->start,
		       s->len, s->host, s->file);
	} else if (s->kind == EXTENT_COMPRESSED) {
		printf("%#-16" PRIx64 "%#-16" PRIx64 "%-16s%s\n", s->start, s->len,
		       "compressed", s->file);
	}
}

static bool joins(const struct shown *s, const struct shown *next)
{
	return s->len && s->kind == next->kind && s->depth == next->depth &&
	       s->file == next->file && s->has_host == next->has_host &&
	       (!s->has_host || s->host + s->len == next->host);
}

static int map(const struct image_args *a, struct block_node *n)
{
	struct shown last = { 0 };
	bool first = true;

	if (!a->json)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	for (u64 off = 0; off < n->size;) {
		struct block_extent e;
		struct block_node *where;
		struct shown s;
		unsigned depth;
		int ret = image_status(n, off, n->size - off, &e, &depth, &where);

		if (ret)
			return ret;
		s = (struct shown){ off,    e.len,      e.host_off, depth,
				    e.kind, e.has_host, where->path };
		off += e.len;
		if (joins(&last, &s)) {
			last.len += s.len;
			continue;
		}
		if (last.len) {
			show(a, &last, first);
			first = false;
		}
		last = s;
	}
	if (last.len)
		show(a, &last, first);
	else if (a->json)
		printf("[");
	if (a->json)
		printf("]\n");
	return 0;
}

int image_map(const struct image_args *a)
{
	struct block_config cfg = {
		.file = a->names[0],
		.format = a->format,
		.readonly = true,
		.no_lock = a->share,
	};
	struct error err = { 0 };
	struct block *b;
	int ret = block_open(&b, &cfg, &err);

	if (ret)
		return image_failed(&err);
	ret = map(a, block_node_of(b));
	if (ret)
		error_set(&err, ret, "%s: %s", block_path(b), strerror(-ret));
	block_close(b);
	if (ret)
		return image_failed(&err);
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

static int list_snapshots(const struct image_args *a, struct block_node *n)
{
	(void)a;
	print_snapshots(n);
	return fflush(stdout) ? -EIO : 0;
}

int image_snapshot(const struct image_args *a)
{
	bool list = !a->create && !a->apply && !a->del;
	struct block_config cfg = {
		.file = a->names[0],
		.format = a->format,
		.readonly = list,
		.no_lock = a->share && list,
		.no_backing = list,
	};
	struct error err = { 0 };
	struct block_node *n;
	struct timespec now;
	struct block *b;
	int ret, ret_close;

	if (a->create + a->apply + a->del + a->list > 1) {
		log_error("image snapshot: only one of -l, -c, -a, -d is possible");
		return STATUS_USAGE;
	}
	ret = block_open(&b, &cfg, &err);
	if (ret)
		return image_failed(&err);
	n = block_node_of(b);
	clock_gettime(CLOCK_REALTIME, &now);
	if (list)
		ret = list_snapshots(a, n);
	else if (a->create)
		ret = qcow2_snapshot_create(n, a->snapshot, (u32)now.tv_sec,
					    (u32)now.tv_nsec, &err);
	else if (a->apply)
		ret = qcow2_snapshot_apply(n, a->snapshot, &err);
	else
		ret = qcow2_snapshot_delete(n, a->snapshot, &err);
	ret_close = block_close(b);
	if (!ret && ret_close)
		ret = error_set(&err, ret_close, "%s: %s", a->names[0],
				strerror(-ret_close));
	return ret ? image_failed(&err) : STATUS_OK;
}
