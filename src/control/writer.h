/*
 * Bytes on their way to a file descriptor of the host, written by a thread of their own,
 * so that a slow reader holds up neither a vCPU nor the event loop.
 */
#pragma once

#include "base/error.h"
#include "dev/chardev.h"

struct writer;

/* 'what' names it in messages and is kept. Nothing is written before writer_start(). */
struct writer *writer_new(const char *what, size_t size);
/* Stops the thread without waiting for what is left; 'fd' stays open. */
void writer_free(struct writer *w);

/* Begin to write to 'fd', which stays the caller's. */
int writer_start(struct writer *w, int fd, struct error *err);

/*
 * room: the writer was full and is not any more. failed: it cannot write and takes and
 * drops everything from now on. Both are called on the writer's thread without its lock.
 * Before writer_start(); may be NULL.
 */
void writer_set_notify(struct writer *w, void (*room)(void *opaque),
		       void (*failed)(void *opaque), void *opaque);

/* ---- Any thread ---- */

/* Take up to 'len' bytes; how many were taken. */
size_t writer_put(struct writer *w, const u8 *buf, size_t len);
/* Wait until everything is written, or cannot be, or for so many seconds (0: for ever).
 */
void writer_drain(struct writer *w, unsigned seconds);
/* -errno of the failure so far, 0 if none. */
int writer_error(struct writer *w);

/* The same as the sink of a character device. */
struct chardev_sink writer_sink(struct writer *w);
