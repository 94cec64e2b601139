/*
 * Bytes on their way into a serial port of the guest, which takes 16 at a time: the rest
 * waits here and is handed over as the guest reads.
 */
#pragma once

#include "base/types.h"

struct feed;
struct loop;
struct serial;

struct feed *feed_new(struct serial *port, size_t size);
/* Machine stopped. */
void feed_free(struct feed *f);

/*
 * drained: half of it has become free, or the port has taken all. Called on the loop's
 * thread. Before the machine runs.
 */
void feed_set_notify(struct feed *f, struct loop *loop, void (*drained)(void *opaque),
		     void *opaque);

/* ---- Any thread, but not with a lock of the port held ---- */

/* Nothing goes to the port while held: its driver is not there yet. */
void feed_hold(struct feed *f, bool hold);
/* All of it, or nothing when there is no room for all. */
bool feed_put(struct feed *f, const void *buf, size_t len);
size_t feed_room(struct feed *f);
/* Bytes that the port has not taken yet. */
size_t feed_left(struct feed *f);
