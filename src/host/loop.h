/*
 * The event loop: one thread that waits for file descriptors and for the next timer.
 *
 * Callbacks run on the thread in loop_run(), one at a time, with no lock of the
 * loop held. Unless said otherwise a function may be called on any thread,
 * callbacks included.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct loop;
struct loop_fd; /* one watched descriptor */

enum {
	LOOP_READ = 1,
	LOOP_WRITE = 2,
	LOOP_HUP = 4, /* error or hang-up: reported with or without being asked for */
};

/* NULL and a message on failure. */
struct loop *loop_new(struct error *err);
/* Nobody in loop_run(), no other user left. Watched descriptors stay open. */
void loop_free(struct loop *l);

/*
 * Watch 'fd' (stays the caller's) for 'events', level-triggered. A regular file, which
 * cannot be waited for, counts as always ready: mute it when there is nothing to do.
 * NULL and a message on failure.
 */
struct loop_fd *loop_add(struct loop *l, int fd, unsigned events,
			 void (*ready)(void *opaque, unsigned events), void *opaque,
			 struct error *err);
/*
 * Other events from now on. With 0 not even LOOP_HUP is reported: a descriptor whose
 * peer is gone does not keep the loop busy.
 */
void loop_set_events(struct loop_fd *w, unsigned events);
/*
 * Watch no more. On return the callback does not run any more (except when it is
 * the caller), so hold no lock that it takes. The descriptor may be closed then.
 */
void loop_remove(struct loop_fd *w);

/*
 * The one timer source. next_ns() says how many nanoseconds to wait (0 or less:
 * due now, INT64_MAX: no need to wake up) and run() does what is due. Both on the
 * loop's thread. Before loop_run(), once.
 */
void loop_set_timer(struct loop *l, i64 (*next_ns)(void *opaque),
		    void (*run)(void *opaque), void *opaque);
/* Ask next_ns() again. Cheap when the loop is awake already. */
void loop_wake(struct loop *l);

/* Something to do once on the loop's thread. Lives in its owner, zeroed at first. */
struct loop_work {
	void (*run)(void *opaque);
	void *opaque;
	bool queued; /* loop.c only */
	struct loop_work *next;
};
/* Queue it; nothing happens when it is queued already. */
void loop_post(struct loop *l, struct loop_work *work);
/* Take it out again. On return it does not run any more, as with loop_remove(). */
void loop_unpost(struct loop *l, struct loop_work *work);

/* Run until loop_stop(). Returns the code given to the first loop_stop(). */
int loop_run(struct loop *l);
/* Any thread, and signal handlers. 'code' is not negative. */
void loop_stop(struct loop *l, int code);
