/* What gdb's `monitor` command can ask. */
#pragma once

#include <stdio.h>

#include "base/types.h"

struct virtio_balloon;
struct vm;

/* What a monitor command can change. */
struct gdb_monitor {
	struct vm *vm;
	unsigned cpu;                   /* the one that `info` looks at */
	bool physical, mmio;            /* how memory is accessed */
	struct virtio_balloon *balloon; /* NULL: there is none */
	u64 ram;                        /* bytes that the machine has */
	enum { MONITOR_GO_ON, MONITOR_RESET, MONITOR_QUIT } then;
};

/* All CPUs are stopped. What is to be shown goes to 'out'. */
void gdb_monitor(struct gdb_monitor *m, char *line, FILE *out);
