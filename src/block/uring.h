/* Requests to the host by io_uring, one ring for a handle. Only block/ includes this. */
#pragma once

#include <sys/types.h>

#include "block/node.h"

/* NULL where the host does not allow it; 'why' says so. */
struct uring *uring_new(char *why, size_t len);
/* Nothing in flight. */
void uring_free(struct uring *u);

/*
 * Any thread. Queue a read, write or flush of 'fd'; false: no room, do it otherwise. It
 * starts with the next uring_submit(), and ends in block_finish(), or block_retry() if
 * the host did less than asked.
 */
bool uring_queue(struct uring *u, int fd, struct block_req *r, u64 off, int rw_flags);
void uring_submit(struct uring *u);
