/*
 * New image files: the options of `create` and `convert`, and a file that disappears
 * again when it was not finished.
 *
 * Main thread; the signal handler removes the file and ends the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/qcow2_tool.h"
#include "control/image.h"

/* ---- options ---- */

static bool parse_bool(const char *s, bool *val)
{
	*val = !strcmp(s, "on") || !strcmp(s, "yes") || !strcmp(s, "true");
	return *val || !strcmp(s, "off") || !strcmp(s, "no") || !strcmp(s, "false");
}

static int parse_compat(struct image_new *n, const char *val)
{
	if (!strcmp(val, "0.10") || !strcmp(val, "v2"))
		n->version = 2;
	else if (!strcmp(val, "1.1") || !strcmp(val, "v3"))
		n->version = 3;
	else
		return -EINVAL;
	return 0;
}

/* The value is wrong: -EINVAL; no such option: -ENOENT. */
static int set(struct image_new *n, const char *key, const char *val)
{
	bool on, qcow2 = !strcmp(n->format, "qcow2");

	if (!strcmp(key, "size")) {
		n->has_size = true;
		return image_size(val, &n->size) ? 0 : -EINVAL;
	}
	if (!strcmp(key, "preallocation")) {
		n->preallocation = val;
		return !strcmp(val, "off") || !strcmp(val, "falloc") ||
				       !strcmp(val, "full") ||
				       (qcow2 && !strcmp(val, "metadata"))
			       ? 0
			       : -EINVAL;
	}
	if (!qcow2)
		return -ENOENT;
	if (!strcmp(key, "cluster_size"))
		return image_size(val, &n->cluster_size) && n->cluster_size ? 0 : -EINVAL;
	if (!strcmp(key, "refcount_bits"))
		return image_size(val, &n->refcount_bits) && n->refcount_bits &&
				       n->refcount_bits <= 64
			       ? 0
			       : -EINVAL;
	if (!strcmp(key, "compat"))
		return parse_compat(n, val);
	if (!strcmp(key, "lazy_refcounts"))
		return parse_bool(val, &n->lazy) ? 0 : -EINVAL;
	if (!strcmp(key, "data_file_raw"))
		return parse_bool(val, &n->data_raw) ? 0 : -EINVAL;
	if (!strcmp(key, "extended_l2"))
		return parse_bool(val, &on) && !on ? 0 : -EINVAL;
	if (!strcmp(key, "compression_type")) {
		n->zstd = !strcmp(val, "zstd");
		return n->zstd || !strcmp(val, "zlib") ? 0 : -EINVAL;
	}
	if (!strcmp(key, "backing_file"))
		n->backing = val;
	else if (!strcmp(key, "backing_fmt"))
		n->backing_format = val;
	else if (!strcmp(key, "data_file"))
		n->data_file = val;
	else
		return -ENOENT;
	return 0;
}

/* The next of "a=b,c=d"; ",," is a comma. */
static char *next_option(char **list)
{
	char *item = *list, *to = item, *from = item;

	if (!item || !*item)
		return NULL;
	while (*from && (from[0] != ',' || from[1] == ',')) {
		if (from[0] == ',')
			from++;
		*to++ = *from++;
	}
	*list = *from ? from + 1 : from;
	*to = 0;
	return item;
}

int image_new_parse(struct image_new *n, const char *format, const char *options)
{
	char *list, *item;

	n->format = format ? format : "raw";
	if (strcmp(n->format, "raw") && strcmp(n->format, "qcow2"))
		return error_set(&n->err, -EINVAL,
				 "the format '%s' is not supported; raw and qcow2 are",
				 n->format);
	n->options = list = xstrdup(options ? options : "");
	while ((item = next_option(&list))) {
		char *val = strchr(item, '=');
		int ret;

		if (val)
			*val++ = 0;
		ret = set(n, item, val ? val : "on");
		if (ret == -ENOENT)
			return error_set(&n->err, -EINVAL,
					 "-o %s: %s images have no such option", item,
					 n->format);
		if (ret)
			return error_set(&n->err, -EINVAL,
					 "-o %s: the value '%s' is not possible", item,
					 val ? val : "");
	}
	return 0;
}

/* ---- the file ---- */

static const char *volatile unfinished;

static void on_signal(int sig)
{
	if (unfinished)
		unlink(unfinished);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void guard(const char *path)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction sa = { .sa_handler = on_signal };

	unfinished = path;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

static int set_data_file(struct image_new *n)
{
	char *path;
	int fd;

	if (!n->data_file)
		return 0;
	path = qcow2_relative(n->path, n->data_file);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
	if (fd < 0 || ftruncate(fd, (off_t)n->size))
		error_set(&n->err, -errno, "%s: %s", path, strerror(errno));
	free(path);
	if (fd >= 0)
		close(fd);
	return n->err.msg[0] ? -EIO : 0;
}

static int make_qcow2(struct image_new *n, struct block_node *file)
{
	struct qcow2_create c = {
		.size = n->size,
		.cluster_size = n->cluster_size,
		.version = n->version,
		.refcount_bits = (u32)n->refcount_bits,
		.lazy_refcounts = n->lazy,
		.zstd = n->zstd,
		.data_file_raw = n->data_raw,
		.backing_name = n->backing,
		.backing_format = n->backing_format,
		.data_name = n->data_file,
	};
	int ret;

	if (n->data_file && n->backing && n->data_raw)
		return error_set(&n->err, -EINVAL,
				 "a raw data file and a backing file exclude each other");
	ret = set_data_file(n);
	return ret ? ret : qcow2_create(file, &c, &n->err);
}

static int fill(struct image_new *n, struct block_node *file)
{
	bool full = n->preallocation && !strcmp(n->preallocation, "full");
	bool falloc = n->preallocation && !strcmp(n->preallocation, "falloc");
	int fd, ret;

	if (!strcmp(n->format, "qcow2"))
		return make_qcow2(n, file);
	ret = file->ops->resize(file, n->size, &n->err);
	if (ret || (!full && !falloc))
		return ret;
	fd = open(n->path, O_WRONLY | O_CLOEXEC);
	ret = fd < 0 || fallocate(fd, 0, 0, (off_t)n->size) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return ret ? error_set(&n->err, ret, "%s: preallocation: %s", n->path,
			       strerror(-ret))
		   : 0;
}

static int preallocate(struct image_new *n)
{
	struct block_config cfg = { .file = n->path, .format = n->format };
	struct block *b;
	int ret, ret_close;

	if (!n->preallocation || !strcmp(n->preallocation, "off") ||
	    strcmp(n->format, "qcow2"))
		return 0;
	ret = block_open(&b, &cfg, &n->err);
	if (ret)
		return ret;
	ret = qcow2_preallocate(block_node_of(b));
	ret_close = block_close(b);
	if (!ret)
		ret = ret_close;
	return ret ? error_set(&n->err, ret, "%s: preallocation: %s", n->path,
			       strerror(-ret))
		   : 0;
}

int image_new_make(struct image_new *n)
{
	const struct block_env env = { .host = &hostio_linux };
	struct block_node *file;
	int fd, ret;

	if (!*n->path)
		return error_set(&n->err, -EINVAL, "an empty file name");
	fd = open(n->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
	if (fd < 0)
		return error_set(&n->err, -errno, "%s: %s", n->path, strerror(errno));
	close(fd);
	ret = file_open(&file, &env, n->path, FILE_WRITE, &n->err);
	if (ret)
		return ret; /* somebody's: it stays */
	/* From here on it is ours, and what was in it is gone. */
	ret = file->ops->resize(file, 0, &n->err);
	if (!ret) {
		guard(n->path);
		ret = fill(n, file);
	}
	node_close(file);
	if (!ret)
		ret = preallocate(n);
	if (ret)
		image_new_undo(n);
	return ret;
}

void image_new_undo(struct image_new *n)
{
	if (unfinished == n->path)
		unlink(n->path);
	unfinished = NULL;
}

void image_new_keep(struct image_new *n)
{
	(void)n;
	unfinished = NULL;
}

void image_new_fini(struct image_new *n)
{
	free(n->options);
}
