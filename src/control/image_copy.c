/*
 * `umbra image` convert and compare: what images show, block by block.
 *
 * Zeroes are neither read nor written where the formats say where they are. Main thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "block/qcow2_tool.h"
#include "control/image.h"
#include "control/session.h"

enum { CHUNK = 2 << 20 };

struct copy {
	const struct image_args *a;
	struct block *from, *to;
	u8 *buf;
	bool zeroes; /* have to be written: something else shows there */
	u64 cluster; /* of the target, for -c */
	struct error err;
};

static int failed(struct copy *c, struct block *b, u64 off, int ret)
{
	return error_set(&c->err, ret, "%s: at %" PRIu64 ": %s", block_path(b), off,
			 strerror(-ret));
}

static int put_zero(struct copy *c, u64 off, u64 len)
{
	int ret = c->zeroes ? block_zero(c->to, off, len, BLOCK_UNMAP) : 0;

	return ret ? failed(c, c->to, off, ret) : 0;
}

/* A piece in memory: runs of zeroes of at least -S bytes are left out. */
static int put_data(struct copy *c, u64 off, const u8 *buf, u64 len)
{
	u64 grain = c->a->sparse ? align_up(c->a->sparse, BLOCK_SECTOR) : len, at = 0;

	while (at < len) {
		u64 run = MIN(grain, len - at);
		bool zero = c->a->sparse && mem_is_zero(buf + at, run);
		int ret;

		while (at + run < len) {
			u64 next = MIN(grain, len - at - run);

			if ((c->a->sparse && mem_is_zero(buf + at + run, next)) != zero)
				break;
			run += next;
		}
		ret = zero ? put_zero(c, off + at, run)
			   : block_write(c->to, off + at, buf + at, run, 0);
		if (ret)
			return failed(c, c->to, off + at, ret);
		at += run;
	}
	return 0;
}

static int put_compressed(struct copy *c, u64 off, u64 len)
{
	for (u64 at = 0; at < len; at += c->cluster) {
		u64 part = MIN(c->cluster, len - at);
		int ret;

		if (part < c->cluster)
			memset(c->buf + at + part, 0, c->cluster - part);
		if (mem_is_zero(c->buf + at, part)) {
			ret = put_zero(c, off + at, part);
		} else {
			ret = qcow2_write_compressed(block_node_of(c->to), off + at,
						     c->buf + at);
			if (ret == -ENOSPC) /* no smaller */
				ret = block_write(c->to, off + at, c->buf + at, part, 0);
		}
		if (ret)
			return failed(c, c->to, off + at, ret);
	}
	return 0;
}

static int copy_piece(struct copy *c, u64 off, u64 *len)
{
	struct block_node *n = block_node_of(c->from), *where;
	struct block_extent e;
	unsigned depth;
	int ret = image_status(n, off, *len, &e, &depth, &where);

	if (ret)
		return failed(c, c->from, off, ret);
	if (c->a->compress && e.len % c->cluster && e.len < *len) {
		/* A cluster of the target that is half this and half that is data. */
		if (e.len < c->cluster)
			e.kind = EXTENT_DATA;
		e.len = e.len < c->cluster ? MIN(c->cluster, *len)
					   : align_down(e.len, c->cluster);
	}
	*len = e.len;
	if (e.kind != EXTENT_DATA && e.kind != EXTENT_COMPRESSED)
		return put_zero(c, off, *len);
	*len = MIN(*len, (u64)CHUNK);
	ret = block_read(c->from, off, c->buf, *len);
	if (ret)
		return failed(c, c->from, off, ret);
	return c->a->compress ? put_compressed(c, off, *len)
			      : put_data(c, off, c->buf, *len);
}

static int copy_all(struct copy *c)
{
	u64 size = block_size(c->from);
	int ret = 0;

	for (u64 off = 0; off < size && !ret;) {
		u64 len = size - off;

		image_progress(c->a, (double)off * 100 / (double)size);
		ret = copy_piece(c, off, &len);
		off += len;
	}
	if (!ret && block_size(c->to) > size)
		ret = put_zero(c, size, block_size(c->to) - size);
	if (!ret)
		image_progress(c->a, 100);
	return ret;
}

static int open_target(struct copy *c, struct image_new *new)
{
	const struct image_args *a = c->a;
	struct block_config cfg = {
		.file = new->path,
		.format = new->format,
		.discard = true,
		.no_backing = !a->no_create,
	};
	struct qcow2_info i;
	int ret = 0;

	if (!a->no_create)
		ret = image_new_make(new);
	if (ret) {
		c->err = new->err;
		return ret;
	}
	ret = block_open(&c->to, &cfg, &c->err);
	if (ret)
		return ret;
	c->cluster = qcow2_get_info(block_node_of(c->to), &i) ? 0 : i.cluster_size;
	if (block_size(c->to) < block_size(c->from))
		return error_set(&c->err, -ENOSPC, "%s: is smaller than %s", new->path,
				 block_path(c->from));
	if (a->compress && (!c->cluster || i.data_name))
		return error_set(&c->err, -ENOTSUP,
				 "-c: only qcow2 without a data file is compressed");
	return 0;
}

int image_convert(const struct image_args *a)
{
	struct block_config cfg = {
		.file = a->names[0],
		.format = a->format,
		.readonly = true,
		.no_lock = a->share,
	};
	struct copy c = { .a = a };
	struct image_new new = { .path = a->names[1] };
	int ret;

	if (image_new_parse(&new, a->out_format, a->options)) {
		image_failed(&new.err);
		image_new_fini(&new);
		return STATUS_USAGE;
	}
	if (a->base)
		new.backing = a->base;
	if (a->base_format)
		new.backing_format = a->base_format;
	ret = block_open(&c.from, &cfg, &c.err);
	if (ret)
		goto free_new;
	new.size = align_up(MAX(new.has_size ? new.size : 0, block_size(c.from)),
			    BLOCK_SECTOR);
	c.zeroes = a->no_create || new.backing;
	c.buf = aligned_alloc(4096, CHUNK);
	ret = c.buf ? open_target(&c, &new) : -ENOMEM;
	if (!ret)
		ret = copy_all(&c);
	if (c.to) {
		int ret_close = block_close(c.to);

		if (!ret && ret_close)
			ret = error_set(&c.err, ret_close, "%s: %s", new.path,
					strerror(-ret_close));
	}
	if (ret)
		image_new_undo(&new);
	else
		image_new_keep(&new);
	free(c.buf);
	block_close(c.from);
free_new:
	image_new_fini(&new);
	return ret ? image_failed(&c.err) : STATUS_OK;
}

/* ---- compare ---- */

struct side {
	struct block *b;
	u8 *buf;
};

static int open_side(struct side *s, const struct image_args *a, int i, struct error *err)
{
	struct block_config cfg = {
		.file = a->names[i],
		.format = i ? a->base_format : a->format,
		.readonly = true,
		.no_lock = a->share,
	};

	s->buf = aligned_alloc(4096, CHUNK);
	return s->buf ? block_open(&s->b, &cfg, err) : -ENOMEM;
}

/* Zero for sure? Otherwise buf is filled. *len shrinks to what is alike. */
static int fetch(struct side *s, u64 off, u64 *len, bool *zero, struct error *err)
{
	struct block_node *where;
	struct block_extent e;
	unsigned depth;
	int ret;

	*zero = off >= block_size(s->b);
	if (*zero)
		return 0;
	*len = MIN(*len, block_size(s->b) - off);
	ret = image_status(block_node_of(s->b), off, *len, &e, &depth, &where);
	if (!ret) {
		*len = e.len;
		*zero = e.kind != EXTENT_DATA && e.kind != EXTENT_COMPRESSED;
	}
	return ret ? error_set(err, ret, "%s: at %" PRIu64 ": %s", block_path(s->b), off,
			       strerror(-ret))
		   : 0;
}

static int load(struct side *s, u64 off, u64 len, bool zero, struct error *err)
{
	int ret = 0;

	if (zero)
		memset(s->buf, 0, len);
	else
		ret = block_read(s->b, off, s->buf, len);
	return ret ? error_set(err, ret, "%s: at %" PRIu64 ": %s", block_path(s->b), off,
			       strerror(-ret))
		   : 0;
}

/* 0: the same, 1: differ at *at, or -errno. */
static int compare(const struct image_args *a, struct side *s, u64 *at, struct error *err)
{
	u64 size = MAX(block_size(s[0].b), block_size(s[1].b));

	for (u64 off = 0; off < size;) {
		u64 len = size - off;
		bool zero[2];
		int ret = fetch(&s[0], off, &len, &zero[0], err);

		if (!ret)
			ret = fetch(&s[1], off, &len, &zero[1], err);
		image_progress(a, (double)off * 100 / (double)size);
		if (!ret && !(zero[0] && zero[1])) {
			len = MIN(len, (u64)CHUNK);
			ret = load(&s[0], off, len, zero[0], err);
			if (!ret)
				ret = load(&s[1], off, len, zero[1], err);
			if (!ret && memcmp(s[0].buf, s[1].buf, len)) {
				for (u64 i = 0; s[0].buf[i] == s[1].buf[i];)
					*at = off + ++i;
				*at = align_down(MAX(*at, off), BLOCK_SECTOR);
				return 1;
			}
		}
		if (ret)
			return ret;
		off += len;
	}
	image_progress(a, 100);
	return 0;
}

int image_compare(const struct image_args *a)
{
	struct side s[2] = { 0 };
	struct error err = { 0 };
	u64 at = 0;
	int ret = open_side(&s[0], a, 0, &err);
	bool differ = false;

	if (!ret)
		ret = open_side(&s[1], a, 1, &err);
	if (!ret && block_size(s[0].b) != block_size(s[1].b)) {
		differ = a->strict;
		if (!a->quiet)
			printf("%s: Image size mismatch!\n",
			       a->strict ? "Strict mode" : "Warning");
	}
	if (!ret && !differ) {
		ret = compare(a, s, &at, &err);
		differ = ret == 1;
		if (!a->quiet && differ)
			printf("Content mismatch at offset %" PRIu64 "!\n", at);
		else if (!a->quiet && !ret)
			printf("Images are identical.\n");
	}
	for (unsigned i = 0; i < 2; i++) {
		block_close(s[i].b);
		free(s[i].buf);
	}
	if (ret < 0) {
		image_failed(&err);
		return STATUS_USAGE; /* qemu-img: more than 1 */
	}
	return fflush(stdout) ? STATUS_FAILED : differ;
}
