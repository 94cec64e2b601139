/*
 * The handle of a disk image: requests from devices, workers, limits, statistics.
 *
 * A request is checked, waits for its share if there are limits, and then is started by
 * the layers if they can do so without waiting, or else given to a worker, which does it
 * from beginning to end. Completions come from the workers and from io_uring's thread.
 *
 * Lock: 'lock', for the queue of limits and for waiting until nothing is in flight.
 */
#include "block/block.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/node.h"
#include "block/pool.h"
#include "block/throttle.h"
#include "block/uring.h"

enum { OPS = BLOCK_ZERO + 1 };

struct block {
	struct block_env env;
	struct block_node *top;
	struct pool *pool;
	bool write_through;
	atomic_uint inflight;
	_Atomic u64 ops[OPS], bytes[OPS], errors, inline_ops;
	pthread_mutex_t lock;
	pthread_cond_t idle; /* nothing is in flight */
	/* Limits; the thread exists only when there are any. */
	bool limited, stop;
	struct throttle throttle;
	pthread_t timer;
	pthread_cond_t timer_wake;
	struct block_req *wait_head, **wait_tail;
};

/* ---- the way of a request ---- */

static bool in_range(const struct block *b, const struct block_req *r)
{
	return r->off <= b->top->size && r->len <= b->top->size - r->off;
}

static int check(const struct block *b, const struct block_req *r)
{
	bool data = r->op == BLOCK_READ || r->op == BLOCK_WRITE;

	if ((unsigned)r->op >= OPS)
		return -EINVAL;
	if (r->op == BLOCK_FLUSH)
		return 0;
	if ((r->off | r->len) & (BLOCK_SECTOR - 1))
		return -EINVAL;
	if (!in_range(b, r))
		return r->op == BLOCK_READ ? -EINVAL : -ENOSPC;
	if (data && (r->len > BLOCK_MAX_BYTES || r->iovcnt > BLOCK_MAX_IOV ||
		     iov_total(r->iov, r->iovcnt) < r->len))
		return -EINVAL;
	return r->op != BLOCK_READ && b->top->readonly ? -EROFS : 0;
}

static unsigned flags_of(const struct block *b, const struct block_req *r)
{
	bool writes =
		r->op == BLOCK_WRITE || r->op == BLOCK_ZERO || r->op == BLOCK_DISCARD;

	return r->flags | (writes && b->write_through ? BLOCK_FUA : 0);
}

static void account(struct block *b, const struct block_req *r, int ret)
{
	if (ret) {
		atomic_fetch_add_explicit(&b->errors, 1, memory_order_relaxed);
		return;
	}
	atomic_fetch_add_explicit(&b->ops[r->op], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&b->bytes[r->op], r->len, memory_order_relaxed);
}

static void leave(struct block *b)
{
	if (atomic_fetch_sub(&b->inflight, 1) == 1) {
		pthread_mutex_lock(&b->lock);
		pthread_cond_broadcast(&b->idle);
		pthread_mutex_unlock(&b->lock);
	}
}

void block_finish(struct block_req *r, int ret)
{
	struct block *b = r->p.block;

	if (r->p.release)
		r->p.release(r);
	if ((unsigned)r->op < OPS)
		account(b, r, ret);
	r->done(r, ret);
	/* r may be gone. The count falls last: whoever drains knows that 'done' has run.
	 */
	leave(b);
}

void block_retry(struct block_req *r)
{
	if (r->p.release)
		r->p.release(r);
	r->p.release = NULL;
	pool_push(r->p.block->pool, r);
}

static void work(struct block_req *r)
{
	struct block *b = r->p.block;
	int ret = r->p.ret;

	if (!ret)
		ret = b->top->ops->io(b->top, r->op, r->off, r->len, r->iov, r->iovcnt,
				      flags_of(b, r));
	block_finish(r, ret);
}

static void dispatch(struct block *b, struct block_req *r)
{
	bool plain = !(flags_of(b, r) & BLOCK_FUA);

	if (r->p.ret || !plain || !b->top->ops->start ||
	    b->top->ops->start(b->top, r, r->off, false) != START_QUEUED)
		pool_push(b->pool, r);
}

/* ---- limits ---- */

static bool is_limited(const struct block *b, const struct block_req *r)
{
	return b->limited && !r->p.ret && (r->op == BLOCK_READ || r->op == BLOCK_WRITE);
}

/* Locked. Nanoseconds until the first one may go; 0: nothing waits. */
static i64 release_waiting(struct block *b)
{
	struct block_req *r;

	while ((r = b->wait_head)) {
		i64 wait = atomic_load(&b->env.hurry)
				   ? 0
				   : throttle_admit(&b->throttle, b->env.host->now(),
						    r->op == BLOCK_WRITE, r->len);

		if (wait)
			return wait;
		b->wait_head = r->p.next;
		if (!b->wait_head)
			b->wait_tail = &b->wait_head;
		dispatch(b, r);
	}
	return 0;
}

static void *timer(void *arg)
{
	struct block *b = arg;

	pthread_mutex_lock(&b->lock);
	while (!b->stop) {
		i64 wait = release_waiting(b);
		struct timespec until;

		if (b->env.ring)
			uring_submit(b->env.ring);
		if (!wait) {
			pthread_cond_wait(&b->timer_wake, &b->lock);
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		wait += until.tv_nsec;
		until.tv_sec += wait / NSEC_PER_SEC;
		until.tv_nsec = wait % NSEC_PER_SEC;
		pthread_cond_clockwait(&b->timer_wake, &b->lock, CLOCK_MONOTONIC, &until);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

static void wait_for_share(struct block *b, struct block_req *r)
{
	pthread_mutex_lock(&b->lock);
	r->p.next = NULL;
	*b->wait_tail = r;
	b->wait_tail = &r->p.next;
	if (b->wait_head == r)
		pthread_cond_signal(&b->timer_wake);
	pthread_mutex_unlock(&b->lock);
}

/* ---- any thread ---- */

void block_submit(struct block *b, struct block_req *const *reqs, unsigned n)
{
	atomic_fetch_add(&b->inflight, n);
	for (unsigned i = 0; i < n; i++) {
		struct block_req *r = reqs[i];

		memset(&r->p, 0, sizeof(r->p));
		r->p.block = b;
		r->p.ret = check(b, r);
		if (is_limited(b, r))
			wait_for_share(b, r);
		else
			dispatch(b, r);
	}
	if (b->env.ring)
		uring_submit(b->env.ring);
}

bool block_try(struct block *b, struct block_req *r)
{
	if (b->limited || !b->top->ops->start || (flags_of(b, r) & BLOCK_FUA))
		return false;
	memset(&r->p, 0, sizeof(r->p));
	r->p.block = b;
	if (check(b, r) || b->top->ops->start(b->top, r, r->off, true) != START_DONE)
		return false;
	account(b, r, r->p.ret);
	atomic_fetch_add_explicit(&b->inline_ops, 1, memory_order_relaxed);
	return true;
}

void block_hurry(struct block *b, bool on)
{
	i64 none = 0;

	if (!on)
		atomic_store(&b->env.hurry, 0);
	else
		atomic_compare_exchange_strong(&b->env.hurry, &none,
					       MAX(b->env.host->now(), 1));
	if (!b->limited)
		return;
	pthread_mutex_lock(&b->lock);
	pthread_cond_signal(&b->timer_wake);
	pthread_mutex_unlock(&b->lock);
}

void block_drain(struct block *b)
{
	pthread_mutex_lock(&b->lock);
	while (atomic_load(&b->inflight))
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
}

static int wait_io(struct block *b, enum block_op op, u64 off, u64 len, void *buf,
		   unsigned flags)
{
	struct iovec iov = { buf, len };
	struct block_req r = {
		.op = op, .flags = flags, .off = off, .len = len, .iov = &iov, .iovcnt = 1
	};
	int ret = check(b, &r);

	if (!ret)
		ret = b->top->ops->io(b->top, op, off, len, &iov, 1, flags_of(b, &r));
	account(b, &r, ret);
	return ret;
}

int block_read(struct block *b, u64 off, void *buf, u64 len)
{
	return wait_io(b, BLOCK_READ, off, len, buf, 0);
}

int block_write(struct block *b, u64 off, const void *buf, u64 len, unsigned flags)
{
	void *from;

	memcpy(&from, &buf, sizeof(from)); /* an iovec has no const */
	return wait_io(b, BLOCK_WRITE, off, len, from, flags);
}

int block_zero(struct block *b, u64 off, u64 len, unsigned flags)
{
	return wait_io(b, BLOCK_ZERO, off, len, NULL, flags);
}

int block_discard(struct block *b, u64 off, u64 len)
{
	return wait_io(b, BLOCK_DISCARD, off, len, NULL, 0);
}

int block_sync(struct block *b)
{
	return wait_io(b, BLOCK_FLUSH, 0, 0, NULL, 0);
}

u64 block_size(const struct block *b)
{
	return b->top->size;
}

bool block_readonly(const struct block *b)
{
	return b->top->readonly;
}

bool block_can_discard(const struct block *b)
{
	return b->env.discard && !b->top->readonly;
}

const char *block_format(const struct block *b)
{
	return b->top->ops->name;
}

const char *block_path(const struct block *b)
{
	return b->top->path;
}

struct block_node *block_node_of(struct block *b)
{
	return b->top;
}

void block_get_stats(const struct block *b, struct block_stats *s)
{
	*s = (struct block_stats){ .errors = b->errors, .inline_ops = b->inline_ops };
	for (unsigned i = 0; i < OPS; i++) {
		s->ops[i] = b->ops[i];
		s->bytes[i] = b->bytes[i];
	}
}

const char *block_host_io(char *why, size_t len)
{
	struct uring *u;

	*why = 0;
	u = uring_new(why, len);
	uring_free(u);
	return u ? "io_uring" : "threads";
}

/* ---- opening ---- */

static int start_limits(struct block *b, const struct block_config *cfg,
			struct error *err)
{
	int ret;

	b->wait_tail = &b->wait_head;
	if (!throttle_init(&b->throttle, cfg, b->env.host->now()))
		return 0;
	ret = pool_thread(&b->timer, timer, b);
	if (ret)
		return error_set(err, -ret, "%s: no thread: %s", cfg->file,
				 strerror(ret));
	b->limited = true;
	return 0;
}

static void free_block(struct block *b)
{
	if (b->limited) {
		pthread_mutex_lock(&b->lock);
		b->stop = true;
		pthread_cond_signal(&b->timer_wake);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->timer, NULL);
	}
	pool_free(b->pool);
	uring_free(b->env.ring);
	pthread_cond_destroy(&b->timer_wake);
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

int block_open(struct block **block, const struct block_config *cfg, struct error *err)
{
	struct block *b = xzalloc(sizeof(*b));
	char why[128];
	int ret;

	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->idle, NULL);
	pthread_cond_init(&b->timer_wake, NULL);
	b->env = (struct block_env){
		.host = cfg->host ? cfg->host : &hostio_linux,
		/* The overlay of snapshot=on need not survive anything. */
		.cache = cfg->snapshot ? BLOCK_CACHE_UNSAFE : cfg->cache,
		.discard = cfg->discard,
		.no_lock = cfg->no_lock,
		.check = cfg->check,
		.reconnect_delay = cfg->reconnect_delay,
	};
	b->write_through = b->env.cache == BLOCK_CACHE_WRITETHROUGH ||
			   b->env.cache == BLOCK_CACHE_DIRECTSYNC;
	if (b->env.host == &hostio_linux)
		b->env.ring = uring_new(why, sizeof(why));
	b->pool = pool_new(work);
	ret = chain_open_config(&b->top, &b->env, cfg, err);
	if (!ret)
		ret = start_limits(b, cfg, err);
	if (ret) {
		node_close(b->top);
		free_block(b);
		return ret;
	}
	*block = b;
	return 0;
}

int block_close(struct block *b)
{
	int ret = 0, ret_close;

	if (!b)
		return 0;
	block_drain(b);
	if (!b->top->readonly)
		ret = node_flush(b->top);
	ret_close = node_close(b->top);
	free_block(b);
	return ret ? ret : ret_close;
}
