/* A disk in memory for tests: what virtio/ and others use of block/block.h. */
#include "fake_block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

static struct fake_block *of(const struct block *b)
{
	return (struct fake_block *)(uintptr_t)b;
}

struct fake_block *fake_block_new(u64 size)
{
	struct fake_block *f = calloc(1, sizeof(*f));

	f->size = size;
	f->data = calloc(1, size);
	return f;
}

void fake_block_free(struct fake_block *f)
{
	free(f->data);
	free(f);
}

struct block *fake_block_handle(struct fake_block *f)
{
	return (struct block *)(void *)f;
}

static int copy(struct fake_block *f, struct block_req *r)
{
	u64 off = r->off, left = r->len;

	for (unsigned i = 0; i < r->iovcnt && left; i++) {
		u64 n = MIN(left, (u64)r->iov[i].iov_len);

		if (r->op == BLOCK_READ)
			memcpy(r->iov[i].iov_base, f->data + off, n);
		else
			memcpy(f->data + off, r->iov[i].iov_base, n);
		off += n;
		left -= n;
	}
	return left ? -EINVAL : 0;
}

static int perform(struct fake_block *f, struct block_req *r)
{
	bool io = r->op == BLOCK_READ || r->op == BLOCK_WRITE;

	f->flushes += r->op == BLOCK_FLUSH;
	f->fuas += r->flags & BLOCK_FUA;
	f->discards += r->op == BLOCK_DISCARD;
	f->zeroes += r->op == BLOCK_ZERO;
	if (f->fail)
		return f->fail;
	if (r->op == BLOCK_FLUSH)
		return 0;
	if (r->off > f->size || r->len > f->size - r->off)
		return -EINVAL;
	if (io)
		return copy(f, r);
	memset(f->data + r->off, 0, r->len);
	return 0;
}

void fake_block_run(struct fake_block *f)
{
	while (f->count) {
		struct block_req *r = f->waiting[0];

		memmove(f->waiting, f->waiting + 1, --f->count * sizeof(r));
		r->done(r, perform(f, r));
	}
}

void block_submit(struct block *b, struct block_req *const *reqs, unsigned n)
{
	struct fake_block *f = of(b);

	for (unsigned i = 0; i < n; i++)
		f->waiting[f->count++] = reqs[i];
	f->submitted += n;
}

bool block_try(struct block *b, struct block_req *r)
{
	struct fake_block *f = of(b);

	if (!f->can_try)
		return false;
	r->p.ret = perform(f, r);
	return true;
}

u64 block_size(const struct block *b)
{
	return of(b)->size;
}

bool block_readonly(const struct block *b)
{
	return of(b)->readonly;
}

bool block_can_discard(const struct block *b)
{
	(void)b;
	return true;
}

const char *block_path(const struct block *b)
{
	(void)b;
	return "fake";
}
