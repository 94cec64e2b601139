/*
 * Compressed clusters of a qcow2: raw deflate (zlib), or a zstd frame.
 *
 * A descriptor gives the length in sectors only, so what follows the stream is ignored;
 * and a stream that would give more than a cluster stops there. No lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2.h"

enum {
	WINDOW_BITS = 12, /* QEMU's; a larger one reads both */
	LEVEL_ZLIB = Z_DEFAULT_COMPRESSION,
	LEVEL_ZSTD = 3,
};

static int inflate_all(const u8 *in, u64 in_len, u8 *out, u64 out_len)
{
	z_stream z = { .avail_in = (uInt)in_len, .avail_out = (uInt)out_len };
	u8 *from;
	int ret;

	memcpy(&from, &in, sizeof(from)); /* zlib reads only */
	z.next_in = from;
	z.next_out = out;
	if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* Z_BUF_ERROR: the cluster is full, and there would be more. */
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int unzstd_all(const u8 *in, u64 in_len, u8 *out, u64 out_len)
{
	ZSTD_inBuffer src = { in, in_len, 0 };
	ZSTD_outBuffer dst = { out, out_len, 0 };
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	size_t ret = 0;

	if (!ctx)
		return -ENOMEM;
	while (dst.pos < dst.size) {
		size_t in_before = src.pos, out_before = dst.pos;

		ret = ZSTD_decompressStream(ctx, &dst, &src);
		if (ZSTD_isError(ret) || (src.pos == in_before && dst.pos == out_before))
			break;
	}
	ZSTD_freeDCtx(ctx);
	return dst.pos == dst.size ? 0 : -EIO;
}

int qcow2_unpack(struct qcow2 *q, u64 entry, u8 *out)
{
	u64 off, len;
	u8 *in;
	int ret;

	if (!qcow2_compressed(q, entry, &off, &len))
		return -EIO;
	in = malloc(len);
	if (!in)
		return -ENOMEM;
	ret = node_read(q->file, off, in, len);
	if (!ret)
		ret = q->compression ? unzstd_all(in, len, out, q->cluster_size)
				     : inflate_all(in, len, out, q->cluster_size);
	free(in);
	return ret;
}

static i64 deflate_all(const u8 *in, u8 *out, u64 len)
{
	z_stream z = { .avail_in = (uInt)len, .avail_out = (uInt)len - 1 };
	u8 *from;
	int ret;

	memcpy(&from, &in, sizeof(from));
	z.next_in = from;
	z.next_out = out;
	if (deflateInit2(&z, LEVEL_ZLIB, Z_DEFLATED, -WINDOW_BITS, 9,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	ret = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return ret == Z_STREAM_END ? (i64)(len - 1 - z.avail_out) : -ENOSPC;
}

i64 qcow2_pack(const struct qcow2 *q, const u8 *in, u8 *out)
{
	size_t n;

	if (!q->compression)
		return deflate_all(in, out, q->cluster_size);
	n = ZSTD_compress(out, q->cluster_size - 1, in, q->cluster_size, LEVEL_ZSTD);
	return ZSTD_isError(n) ? -ENOSPC : (i64)n;
}
