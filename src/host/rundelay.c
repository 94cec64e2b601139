/*
 * For how long a thread was ready to run while the host ran others.
 *
 * The file has three numbers: ns on a CPU, ns that it waited for one, and how often it
 * ran. Hosts without CONFIG_SCHED_INFO do not have it. Thread: see rundelay.h.
 */
#include "host/rundelay.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FD_NONE = -1, FD_CANNOT = -2 };

void rundelay_init(struct rundelay *r)
{
	r->fd = FD_NONE;
	r->seen = 0;
}

void rundelay_fini(struct rundelay *r)
{
	if (r->fd >= 0)
		close(r->fd);
	rundelay_init(r);
}

static bool read_now(struct rundelay *r, u64 *ns)
{
	char text[80], *wait;
	ssize_t n = pread(r->fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return false;
	text[n] = 0;
	wait = strchr(text, ' ');
	if (!wait)
		return false;
	*ns = strtoull(wait, NULL, 10);
	return true;
}

u64 rundelay_more(struct rundelay *r, int pid, int tid)
{
	bool first = r->fd == FD_NONE;
	u64 now, more;

	if (first) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
		r->fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (r->fd < 0 || !read_now(r, &now)) {
		rundelay_fini(r);
		r->fd = FD_CANNOT;
		return 0;
	}
	more = now - r->seen;
	r->seen = now;
	return first ? 0 : more;
}
