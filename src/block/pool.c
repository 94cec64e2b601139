/*
 * Worker threads of a handle: requests in the order they came, each on one thread.
 *
 * Threads are started as needed, up to 16, and end after ten idle seconds. Lock: the
 * pool's, never held while work runs.
 */
#include "block/pool.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"

enum { THREADS = 16, IDLE_SECONDS = 10 };

struct pool {
	void (*work)(struct block_req *r);
	pthread_mutex_t lock;
	pthread_cond_t wake, ended;
	struct block_req *head, **tail;
	unsigned threads, idle, queued;
	bool stop;
};

struct pool *pool_new(void (*work)(struct block_req *r))
{
	struct pool *p = xzalloc(sizeof(*p));

	p->work = work;
	p->tail = &p->head;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	pthread_cond_init(&p->ended, NULL);
	return p;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->wake);
	while (p->threads)
		pthread_cond_wait(&p->ended, &p->lock);
	pthread_mutex_unlock(&p->lock);
	pthread_cond_destroy(&p->ended);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* Locked. False: the thread has nothing to do and shall end. */
static bool wait_for_work(struct pool *p)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	p->idle++;
	while (!p->head && !p->stop && ret != ETIMEDOUT)
		ret = pthread_cond_clockwait(&p->wake, &p->lock, CLOCK_MONOTONIC, &until);
	p->idle--;
	return p->head != NULL;
}

static void *worker(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	while (p->head || wait_for_work(p)) {
		struct block_req *r = p->head;

		p->head = r->p.next;
		if (!p->head)
			p->tail = &p->head;
		p->queued--;
		pthread_mutex_unlock(&p->lock);
		p->work(r);
		pthread_mutex_lock(&p->lock);
	}
	p->threads--;
	pthread_cond_signal(&p->ended);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

int pool_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

/* Locked. */
static bool start_thread(struct pool *p)
{
	pthread_t thread;

	if (pool_thread(&thread, worker, p))
		return false;
	pthread_detach(thread);
	p->threads++;
	return true;
}

void pool_push(struct pool *p, struct block_req *r)
{
	pthread_mutex_lock(&p->lock);
	r->p.next = NULL;
	*p->tail = r;
	p->tail = &r->p.next;
	p->queued++;
	if (p->idle >= p->queued)
		pthread_cond_signal(&p->wake);
	else if (p->threads < THREADS && !start_thread(p) && !p->threads)
		log_error("no thread for disk requests: they wait for the next try");
	pthread_mutex_unlock(&p->lock);
}
