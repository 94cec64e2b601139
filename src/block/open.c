/*
 * From a configuration to a chain of layers: format, backing files, temporary overlay.
 *
 * What an image names is opened read-only and must be a regular file; a chain has a
 * limited depth and visits no file twice. One thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "block/node.h"
#include "block/qcow2.h"
#include "block/qcow2_tool.h"

enum format { FORMAT_RAW, FORMAT_QCOW2, FORMAT_OTHER };

/* Other formats, so that they are not taken for raw by mistake. */
static const struct {
	const char *name, *magic;
	unsigned len, at;
} others[] = {
	{ "vmdk", "KDMV", 4, 0 },
	{ "vhdx", "vhdxfile", 8, 0 },
	{ "vdi", "\x7f\x10\xda\xbe", 4, 0x40 },
	{ "vpc (vhd)", "conectix", 8, 0 },
	{ "qed", "QED\0", 4, 0 },
	{ "parallels", "WithoutFreeSpace", 16, 0 },
	{ "luks", "LUKS\xba\xbe", 6, 0 },
};

static int guess(struct block_node *file, enum format *format, struct error *err)
{
	u8 head[BLOCK_SECTOR] = { 0 };
	int ret = node_read(file, 0, head, MIN(file->size, sizeof(head)));

	if (ret)
		return error_set(err, ret, "%s: %s", file->path, strerror(-ret));
	*format = qcow2_probe(head, sizeof(head)) ? FORMAT_QCOW2 : FORMAT_RAW;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (!memcmp(head + others[i].at, others[i].magic, others[i].len))
			return error_set(err, -ENOTSUP,
					 "%s: looks like %s, which is not supported; raw "
					 "and qcow2 are (format=raw takes it as it is)",
					 file->path, others[i].name);
	return 0;
}

static int parse_format(const char *name, enum format *format, const char *path,
			struct error *err)
{
	if (!strcmp(name, "raw") || !strcmp(name, "file") || !strcmp(name, "host_device"))
		*format = FORMAT_RAW;
	else if (!strcmp(name, "qcow2"))
		*format = FORMAT_QCOW2;
	else
		return error_set(err, -EINVAL,
				 "%s: the format '%s' is not supported; raw and qcow2 "
				 "are",
				 path, name);
	return 0;
}

static bool is_protocol(const char *path)
{
	const char *colon = strchr(path, ':'), *slash = strchr(path, '/');

	return colon && (!slash || colon < slash);
}

/* A file in its format. */
static int open_layer(struct block_node **n, const struct block_env *env,
		      const struct block_config *cfg, const char *path,
		      const char *format_name, unsigned flags, unsigned depth,
		      struct error *err)
{
	enum format format = FORMAT_RAW;
	struct block_node *file;
	bool remote;
	int ret;

	if (!*path)
		return error_set(err, -EINVAL, "an empty file name");
	remote = nbd_is_uri(path) && !(flags & FILE_BACKING);
	if (!remote && is_protocol(path) && access(path, F_OK))
		return error_set(err, -EINVAL,
				 "%s: only files, block devices and nbd:// are supported",
				 path);
	if (remote && !format_name && flags & FILE_WRITE)
		return error_set(err, -EINVAL,
				 "%s: its format is needed: format=raw or format=qcow2",
				 path);
	if (format_name) {
		ret = parse_format(format_name, &format, path, err);
		if (ret)
			return ret;
	}
	ret = remote ? nbd_open(&file, env, path, flags & FILE_WRITE, err)
		     : file_open(&file, env, path, flags, err);
	if (ret)
		return ret;
	if (!format_name) {
		ret = guess(file, &format, err);
		if (ret) {
			node_close(file);
			return ret;
		}
		if (format == FORMAT_RAW && !remote)
			file_set_probed(file);
	}
	if (format == FORMAT_QCOW2)
		return qcow2_open(n, file, cfg, depth, err);
	*n = file;
	return 0;
}

int chain_open(struct block_node **n, const struct block_env *env, const char *path,
	       const char *format, unsigned depth, bool writable, struct error *err)
{
	const struct block_config cfg = { .file = path };

	if (depth > QCOW2_MAX_DEPTH)
		return error_set(err, -ELOOP,
				 "%s: more than %d backing files, or a circle of them",
				 path, QCOW2_MAX_DEPTH);
	return open_layer(n, env, &cfg, path, format,
			  FILE_BACKING | (writable ? FILE_WRITE : 0), depth, err);
}

static int check_circle(const struct block_node *top, struct error *err)
{
	for (const struct block_node *a = top; a; a = a->backing)
		for (const struct block_node *b = a->backing; b; b = b->backing)
			if (file_same(a->file ? a->file : a, b->file ? b->file : b))
				return error_set(err, -ELOOP,
						 "%s: is its own backing file, by way of "
						 "%s",
						 a->path, b->path);
	return 0;
}

/* ---- snapshot=on ---- */

static int make_overlay(struct block_node **n, const struct block_env *env,
			struct block_node *base, struct error *err)
{
	const char *dir = getenv("TMPDIR");
	struct block_config cfg = { .no_backing = true };
	const struct qcow2_create create = { .size = base->size };
	struct block_node *file;
	char path[4096];
	int fd, ret;

	if (snprintf(path, sizeof(path), "%s/umbra-snapshot-XXXXXX",
		     dir && *dir ? dir : "/var/tmp") >= (int)sizeof(path))
		return error_set(err, -ENAMETOOLONG, "TMPDIR is too long");
	fd = mkstemp(path);
	if (fd < 0)
		return error_set(err, -errno, "%s: no place for a temporary overlay: %s",
				 path, strerror(errno));
	close(fd);
	ret = file_open(&file, env, path, FILE_WRITE, err);
	/* From here on nobody else can see it, and it goes when we do. */
	unlink(path);
	if (ret)
		return ret;
	ret = qcow2_create(file, &create, err);
	if (ret) {
		node_close(file);
		return ret;
	}
	ret = qcow2_open(n, file, &cfg, 0, err);
	if (ret)
		return ret;
	(*n)->backing = base;
	free((*n)->path);
	(*n)->path = xstrdup(base->path);
	return 0;
}

int chain_open_config(struct block_node **n, const struct block_env *env,
		      const struct block_config *cfg, struct error *err)
{
	bool write = !cfg->readonly && !cfg->snapshot;
	struct block_node *base = NULL;
	int ret = open_layer(&base, env, cfg, cfg->file, cfg->format,
			     write ? FILE_WRITE : 0, 0, err);

	if (ret)
		return ret;
	ret = check_circle(base, err);
	if (!ret && write && !cfg->format && base->ops != &qcow2_ops)
		log_warn("%s: taken as raw since no format was given; the guest cannot "
			 "write a qcow2 header to it (format=raw says it)",
			 cfg->file);
	if (!ret && cfg->snapshot) {
		ret = make_overlay(n, env, base, err);
		if (!ret && cfg->readonly)
			(*n)->readonly = true;
	} else if (!ret) {
		*n = base;
	}
	if (ret)
		node_close(base);
	return ret;
}
