/* Worker threads of a handle. Only block/ includes this. */
#pragma once

#include <pthread.h>

#include "block/block.h"

struct pool;

/* pthread_create() for a thread that gets no signals: those are the main thread's. */
int pool_thread(pthread_t *thread, void *(*run)(void *), void *arg);

struct pool *pool_new(void (*work)(struct block_req *r));
/* Nothing queued or running. */
void pool_free(struct pool *p);

/* Any thread. 'work' runs with the request soon; never inside. */
void pool_push(struct pool *p, struct block_req *r);

/* In r->p.state. SERIAL: of such requests one runs at a time, in the order they came. */
enum { BLOCK_REQ_SERIAL = 1 };
