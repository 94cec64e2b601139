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
	r->known = false;
	r->seen = 0;
}

void rundelay_close(struct rundelay *r)
{
	if (r->fd < 0)
		return;
	close(r->fd);
	r->fd = FD_NONE;
}

void rundelay_fini(struct rundelay *r)
{
	rundelay_close(r);
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

static void open_file(struct rundelay *r, int pid, int tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
}

u64 rundelay_more(struct rundelay *r, int pid, int tid)
{
	u64 now, more;

	if (r->fd == FD_NONE)
		open_file(r, pid, tid);
	if (r->fd < 0 || !read_now(r, &now)) {
		rundelay_fini(r);
		r->fd = FD_CANNOT;
		return 0;
	}
	more = r->known ? now - r->seen : 0;
	r->known = true;
	r->seen = now;
	return more;
}
