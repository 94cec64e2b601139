/*
 * `umbra image` create, resize, commit and rebase: images are made and changed.
 *
 * Data is stable before what refers to it changes, so an interrupted command can be run
 * again. Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "block/qcow2_tool.h"
#include "control/image.h"
#include "control/session.h"

enum { CHUNK = 1 << 20 };

/* ---- create ---- */

/* The backing file has to be there, and gives the size if none is said. */
static int look_at_backing(const struct image_args *a, struct image_new *n)
{
	struct block_config cfg = { .readonly = true, .format = n->backing_format };
	struct block *b;
	char *path;
	int ret;

	if (!n->backing)
		return 0;
	if (!n->backing_format)
		return error_set(&n->err, -EINVAL,
				 "-b %s: its format is needed too: -F raw or -F qcow2",
				 n->backing);
	if (a->unsafe_rebase && n->has_size)
		return 0;
	path = qcow2_relative(n->path, n->backing);
	cfg.file = path;
	ret = block_open(&b, &cfg, &n->err);
	free(path);
	if (ret)
		return ret;
	if (!n->has_size)
		n->size = block_size(b);
	n->has_size = true;
	block_close(b);
	return 0;
}

int image_create(const struct image_args *a)
{
	struct image_new n = { .path = a->names[0] };
	int ret = image_new_parse(&n, a->format, a->options);

	if (!ret && a->base)
		n.backing = a->base;
	if (!ret && a->base_format)
		n.backing_format = a->base_format;
	if (!ret && n.backing && strcmp(n.format, "qcow2"))
		ret = error_set(&n.err, -EINVAL, "-b: only qcow2 has a backing file");
	if (!ret && a->count > 1) {
		n.has_size = true;
		if (!image_size(a->names[1], &n.size))
			ret = error_set(&n.err, -EINVAL,
					"the size '%s': something like 10G is needed",
					a->names[1]);
	}
	if (!ret && !n.has_size && !n.backing)
		ret = error_set(&n.err, -EINVAL, "%s: a size is needed", n.path);
	if (!ret && n.size > INT64_MAX / 2)
		ret = error_set(&n.err, -EINVAL, "%s: the size is too large", n.path);
	if (ret) {
		image_failed(&n.err);
		image_new_fini(&n);
		return STATUS_USAGE;
	}
	ret = look_at_backing(a, &n);
	n.size = align_up(n.size, BLOCK_SECTOR);
	if (!ret)
		ret = image_new_make(&n);
	if (ret) {
		image_failed(&n.err);
	} else {
		image_new_keep(&n);
		if (!a->quiet)
			printf("%s: %s, %" PRIu64 " bytes\n", n.path, n.format, n.size);
	}
	image_new_fini(&n);
	return ret || fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

/* ---- resize ---- */

int image_resize(const struct image_args *a)
{
	struct block_config cfg = { .file = a->names[0], .format = a->format };
	const char *size = a->names[1];
	char sign = *size == '+' || *size == '-' ? *size++ : 0;
	struct error err = { 0 };
	struct block *b;
	u64 by, new;
	int ret;

	if (!image_size(size, &by)) {
		log_error("image resize: the size '%s': something like 10G or +1G is "
			  "needed",
			  a->names[1]);
		return STATUS_USAGE;
	}
	ret = block_open(&b, &cfg, &err);
	if (ret)
		return image_failed(&err);
	new = sign == '+' ? block_size(b) + by : sign == '-' ? block_size(b) - by : by;
	new = align_up(new, BLOCK_SECTOR);
	if ((sign == '-' && by > block_size(b)) || new > INT64_MAX / 2)
		ret = error_set(&err, -EINVAL, "%s: the size is impossible", a->names[0]);
	else if (new < block_size(b) && !a->shrink)
		ret = error_set(
			&err, -EINVAL,
			"%s: would become smaller and lose what is behind %" PRIu64
			"; --shrink allows that",
			a->names[0], new);
	else
		ret = block_node_of(b)->ops->resize(block_node_of(b), new, &err);
	if (block_close(b) && !ret)
		ret = error_set(&err, -EIO, "%s: could not be written", a->names[0]);
	if (ret)
		return image_failed(&err);
	if (!a->quiet)
		printf("Image resized.\n");
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

/* ---- commit ---- */

static int commit_data(const struct image_args *a, struct block *top, struct block *base,
		       u8 *buf)
{
	struct block_node *n = block_node_of(top);
	int ret = 0;

	for (u64 off = 0; off < n->size && !ret;) {
		struct block_extent e;

		image_progress(a, (double)off * 100 / (double)n->size);
		ret = n->ops->status(n, off, n->size - off, &e);
		if (ret)
			break;
		if (e.kind == EXTENT_ZERO || e.kind == EXTENT_ZERO_ALLOC) {
			ret = block_zero(base, off, e.len, BLOCK_UNMAP);
		} else if (e.kind != EXTENT_BACKING) {
			e.len = MIN(e.len, (u64)CHUNK);
			ret = block_read(top, off, buf, e.len);
			if (!ret)
				ret = block_write(base, off, buf, e.len, 0);
		}
		off += e.len;
	}
	/* Stable there before it goes here. */
	return ret ? ret : block_sync(base);
}

static int open_base(struct block *top, bool write, struct block **base,
		     struct error *err)
{
	struct block_config cfg = { .readonly = !write, .discard = true };
	struct qcow2_info i;
	char *path;
	int ret;

	if (qcow2_get_info(block_node_of(top), &i) || !i.backing_name)
		return error_set(err, -EINVAL, "%s: has no backing file",
				 block_path(top));
	path = qcow2_relative(block_path(top), i.backing_name);
	cfg.file = path;
	cfg.format = i.backing_format;
	ret = block_open(base, &cfg, err);
	free(path);
	return ret;
}

int image_commit(const struct image_args *a)
{
	struct block_config cfg = { .file = a->names[0],
				    .format = a->format,
				    .no_backing = true };
	struct block *top, *base = NULL;
	struct error err = { 0 };
	u8 *buf = aligned_alloc(4096, CHUNK);
	int ret = buf ? block_open(&top, &cfg, &err) : -ENOMEM;

	if (ret) {
		free(buf);
		return image_failed(&err);
	}
	ret = open_base(top, true, &base, &err);
	if (!ret && block_size(base) < block_size(top))
		ret = block_node_of(base)->ops->resize(block_node_of(base),
						       block_size(top), &err);
	if (!ret) {
		ret = commit_data(a, top, base, buf);
		if (ret)
			error_set(&err, ret, "%s: %s", block_path(base), strerror(-ret));
	}
	if (base && block_close(base) && !ret)
		ret = error_set(&err, -EIO, "%s: the backing file could not be written",
				a->names[0]);
	if (!ret && !a->keep) {
		ret = qcow2_make_empty(block_node_of(top));
		if (ret)
			error_set(&err, ret, "%s: cannot be emptied: %s", a->names[0],
				  strerror(-ret));
	}
	if (block_close(top) && !ret)
		ret = error_set(&err, -EIO, "%s: could not be written", a->names[0]);
	free(buf);
	if (ret)
		return image_failed(&err);
	image_progress(a, 100);
	if (!a->quiet)
		printf("Image committed.\n");
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

/* ---- rebase ---- */

struct rebase {
	const struct image_args *a;
	struct block *top, *new; /* new is NULL: no backing file */
	u8 *old_buf, *new_buf;
};

static int read_new(struct rebase *r, u64 off, u64 len)
{
	u64 here = !r->new || off >= block_size(r->new)
			   ? 0
			   : MIN(len, block_size(r->new) - off);

	memset(r->new_buf + here, 0, len - here);
	return here ? block_read(r->new, off, r->new_buf, here) : 0;
}

/* What the old backing file shows and the new one does not is copied. */
static int keep_content(struct rebase *r)
{
	struct block_node *n = block_node_of(r->top);
	int ret = 0;

	for (u64 off = 0; off < n->size && !ret;) {
		struct block_extent e;

		image_progress(r->a, (double)off * 100 / (double)n->size);
		ret = n->ops->status(n, off, MIN(n->size - off, (u64)CHUNK), &e);
		if (!ret && e.kind == EXTENT_BACKING) {
			ret = block_read(r->top, off, r->old_buf, e.len);
			if (!ret)
				ret = read_new(r, off, e.len);
			for (u64 at = 0; at < e.len && !ret; at += 4096) {
				u64 part = MIN(e.len - at, 4096u);

				if (memcmp(r->old_buf + at, r->new_buf + at, part))
					ret = block_write(r->top, off + at,
							  r->old_buf + at, part, 0);
			}
		}
		off += e.len;
	}
	return ret ? ret : block_sync(r->top);
}

static int open_new(struct rebase *r, struct error *err)
{
	struct block_config cfg = { .readonly = true, .format = r->a->base_format };
	char *path;
	int ret;

	if (!*r->a->base)
		return 0;
	path = qcow2_relative(block_path(r->top), r->a->base);
	cfg.file = path;
	ret = block_open(&r->new, &cfg, err);
	free(path);
	return ret;
}

int image_rebase(const struct image_args *a)
{
	struct block_config cfg = { .file = a->names[0],
				    .format = a->format,
				    .no_backing = a->unsafe_rebase };
	struct rebase r = { .a = a };
	struct error err = { 0 };
	int ret;

	if (!a->base) {
		log_error("image rebase: -b BACKING is needed (-b '' for none)");
		return STATUS_USAGE;
	}
	if (*a->base && !a->base_format) {
		log_error("image rebase: -b %s: its format is needed too: -F raw or -F "
			  "qcow2",
			  a->base);
		return STATUS_USAGE;
	}
	ret = block_open(&r.top, &cfg, &err);
	if (ret)
		return image_failed(&err);
	if (strcmp(block_format(r.top), "qcow2")) {
		ret = error_set(&err, -ENOTSUP,
				"%s: is %s; only qcow2 has a backing file", a->names[0],
				block_format(r.top));
	} else if (!a->unsafe_rebase) {
		r.old_buf = aligned_alloc(4096, CHUNK);
		r.new_buf = aligned_alloc(4096, CHUNK);
		ret = r.old_buf && r.new_buf ? open_new(&r, &err) : -ENOMEM;
		if (!ret) {
			ret = keep_content(&r);
			if (ret)
				error_set(&err, ret, "%s: %s", a->names[0],
					  strerror(-ret));
		}
		block_close(r.new);
	}
	if (!ret)
		ret = qcow2_set_backing(block_node_of(r.top), *a->base ? a->base : NULL,
					a->base_format, &err);
	if (block_close(r.top) && !ret)
		ret = error_set(&err, -EIO, "%s: could not be written", a->names[0]);
	free(r.old_buf);
	free(r.new_buf);
	if (ret)
		return image_failed(&err);
	image_progress(a, 100);
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}
