/*
 * Where a debugger connects: the socket of -gdb and -s, one client at a time.
 *
 * The thread in pc_run(), and before and after it.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct gdb;
struct pc;

/* Is this a place to listen at? -EINVAL and one line when not; 'option' is its name. */
int gdb_check(const char *option, const char *where, struct error *err);

/* Listen there; the machine is held before its first instruction when 'hold' is set. 0 or
 * -errno. */
int gdb_open(struct gdb **out, const char *where, bool hold, struct pc *pc,
	     struct error *err);
/* The machine is over: a client hears of it. pc_run() has returned. */
void gdb_exited(struct gdb *g, int status);
void gdb_close(struct gdb *g);
