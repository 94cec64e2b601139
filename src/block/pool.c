/*
 * Worker threads of a handle: requests in the order they came, each on one thread.
 *
 * Threads are started as needed, up to 16, and end after ten idle seconds. Serial
 * requests would wait for each other in the kernel: one thread does them one after the
 * other, and is not woken for each. Lock: the pool's, never held while work runs.
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

struct queue {
	struct block_req *head, **tail;
};

struct pool {
	void (*work)(struct block_req *r);
	pthread_mutex_t lock;
	pthread_cond_t wake, ended;
	struct queue any, serial;
	bool serial_runs;
	unsigned threads, idle;
	unsigned queued; /* that a thread may take: of the serial ones at most one */
	bool stop;
};

struct pool *pool_new(void (*work)(struct block_req *r))
{
	struct pool *p = xzalloc(sizeof(*p));

	p->work = work;
	p->any.tail = &p->any.head;
	p->serial.tail = &p->serial.head;
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

static struct block_req *pop(struct queue *q)
{
	struct block_req *r = q->head;

	q->head = r->p.next;
	if (!q->head)
		q->tail = &q->head;
	return r;
}

/* Locked. The serial ones first: there is one thread for all of them. */
static struct block_req *take(struct pool *p, bool *serial)
{
	*serial = p->serial.head && !p->serial_runs;
	if (!*serial && !p->any.head)
		return NULL;
	p->queued--;
	p->serial_runs |= *serial;
	return pop(*serial ? &p->serial : &p->any);
}

/* Locked. False: the thread has nothing to do and shall end. */
static bool wait_for_work(struct pool *p)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_SECONDS;
	p->idle++;
	while (!p->queued && !p->stop && ret != ETIMEDOUT)
		ret = pthread_cond_clockwait(&p->wake, &p->lock, CLOCK_MONOTONIC, &until);
	p->idle--;
	return p->queued;
}

static void *worker(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	while (p->queued || wait_for_work(p)) {
		bool serial;
		struct block_req *r = take(p, &serial);

		pthread_mutex_unlock(&p->lock);
		p->work(r);
		pthread_mutex_lock(&p->lock);
		if (serial) {
			p->serial_runs = false;
			p->queued += p->serial.head != NULL;
		}
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
	struct queue *q = r->p.state & BLOCK_REQ_SERIAL ? &p->serial : &p->any;
	bool wake;

	pthread_mutex_lock(&p->lock);
	r->p.next = NULL;
	*q->tail = r;
	q->tail = &r->p.next;
	/* Whoever does, or will do, the serial one before it takes this one too. */
	wake = q == &p->any || (!p->serial_runs && q->head == r);
	p->queued += wake;
	if (!wake && p->threads) {
		pthread_mutex_unlock(&p->lock);
		return;
	}
	if (p->idle >= p->queued)
		pthread_cond_signal(&p->wake);
	else if (p->threads < THREADS && !start_thread(p) && !p->threads)
		log_error("no thread for disk requests: they wait for the next try");
	pthread_mutex_unlock(&p->lock);
}
