/*
 * Requests to the host by io_uring (io_uring(7), liburing 2.3).
 *
 * A thread of its own takes the completions. Submitters are any threads, under the ring's
 * lock, which is held over io_uring_enter(): that starts requests and waits for none of
 * them. A short transfer, as at the end of a file, is left to a worker.
 */
#include "block/uring.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "block/pool.h"

enum { ENTRIES = 256 };

struct uring {
	struct io_uring ring;
	pthread_t reaper;
	pthread_mutex_t lock; /* the submission side */
	unsigned queued;      /* since the last submit */
	atomic_uint inflight; /* bounded, so that no completion overflows */
};

static void complete(struct uring *u, struct block_req *r, int res)
{
	u64 want;

	/* Pairs with uring_queue(): what the submitter wrote is seen. The kernel sees to
	 * that too, but no sanitizer knows. */
	atomic_fetch_sub(&u->inflight, 1);
	want = r->op == BLOCK_FLUSH ? 0 : r->len;
	if (res >= 0 && (u64)res == want)
		block_finish(r, 0);
	else if (res >= 0 || res == -EAGAIN || res == -EINTR)
		block_retry(r);
	else
		block_finish(r, res);
}

static void *reap(void *arg)
{
	struct uring *u = arg;

	for (;;) {
		struct io_uring_cqe *cqe;
		struct block_req *r;
		int res;

		if (io_uring_wait_cqe(&u->ring, &cqe))
			continue;
		r = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		if (!r)
			return NULL;
		complete(u, r, res);
	}
}

static bool has_ops(struct io_uring *ring)
{
	static const int needed[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
				      IORING_OP_NOP };
	struct io_uring_probe *p = io_uring_get_probe_ring(ring);
	bool all = p != NULL;

	for (size_t i = 0; p && i < sizeof(needed) / sizeof(needed[0]); i++)
		all = all && io_uring_opcode_supported(p, needed[i]);
	io_uring_free_probe(p);
	return all;
}

struct uring *uring_new(char *why, size_t len)
{
	struct uring *u = xzalloc(sizeof(*u));
	int ret = io_uring_queue_init(ENTRIES, &u->ring, 0);

	if (ret) {
		snprintf(why, len, "io_uring: %s", strerror(-ret));
		goto free_uring;
	}
	if (!has_ops(&u->ring)) {
		snprintf(why, len, "io_uring lacks operations");
		goto exit_ring;
	}
	pthread_mutex_init(&u->lock, NULL);
	ret = pool_thread(&u->reaper, reap, u);
	if (ret) {
		snprintf(why, len, "no thread for io_uring: %s", strerror(ret));
		goto destroy_lock;
	}
	return u;
destroy_lock:
	pthread_mutex_destroy(&u->lock);
exit_ring:
	io_uring_queue_exit(&u->ring);
free_uring:
	free(u);
	return NULL;
}

void uring_free(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (!u)
		return;
	pthread_mutex_lock(&u->lock);
	sqe = io_uring_get_sqe(&u->ring);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	while (io_uring_submit(&u->ring) < 0)
		;
	pthread_mutex_unlock(&u->lock);
	pthread_join(u->reaper, NULL);
	pthread_mutex_destroy(&u->lock);
	io_uring_queue_exit(&u->ring);
	free(u);
}

bool uring_queue(struct uring *u, int fd, struct block_req *r, u64 off, int rw_flags)
{
	struct io_uring_sqe *sqe;

	if (atomic_fetch_add(&u->inflight, 1) >= ENTRIES - 1) {
		atomic_fetch_sub(&u->inflight, 1);
		return false;
	}
	pthread_mutex_lock(&u->lock);
	sqe = io_uring_get_sqe(&u->ring);
	if (!sqe) {
		pthread_mutex_unlock(&u->lock);
		atomic_fetch_sub(&u->inflight, 1);
		return false;
	}
	if (r->op == BLOCK_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (r->op == BLOCK_READ)
		io_uring_prep_readv2(sqe, fd, r->iov, r->iovcnt, off, rw_flags);
	else
		io_uring_prep_writev2(sqe, fd, r->iov, r->iovcnt, off, rw_flags);
	io_uring_sqe_set_data(sqe, r);
	u->queued++;
	pthread_mutex_unlock(&u->lock);
	return true;
}

void uring_submit(struct uring *u)
{
	pthread_mutex_lock(&u->lock);
	/* -EBUSY and -EAGAIN pass as the reaper takes completions. */
	while (u->queued) {
		int n = io_uring_submit(&u->ring);

		if (n > 0)
			u->queued -= (unsigned)n < u->queued ? (unsigned)n : u->queued;
		else if (n == 0)
			u->queued = 0;
	}
	pthread_mutex_unlock(&u->lock);
}
