/*
 * What `umbra run` does for a profile: symbols, the map file for perf(1), the report.
 *
 * Main thread, but for the map, which vCPU threads write with 'lock'.
 */
#pragma once

#include <pthread.h>
#include <stdio.h>

#include "control/options.h"
#include "control/symbols.h"
#include "cpu/profile.h"

struct vm;

struct profiling {
	const struct run_options *o;
	struct symbols *symbols; /* NULL: none */
	u64 entry;               /* its entry_SYSCALL_64; 0: none */
	FILE *report;            /* -profile; NULL: none */
	bool created;            /* it was not there */
	FILE *map;               /* -perfmap; NULL: none */
	char map_path[64];
	pthread_mutex_t lock;
};

/* Reads the symbols. 0 or -errno. */
int profiling_init(struct profiling *p, const struct run_options *o, struct error *err);
/* For the machine. */
struct profile_config profiling_config(struct profiling *p);
/* Creates the files. 0, or -errno and none is left. */
int profiling_open(struct profiling *p, struct error *err);
/* There will be no machine after all: removes what was created. */
void profiling_undo(struct profiling *p);
/* The vCPUs are stopped: write the report, and end the files. False: that failed, and was
 * logged. */
bool profiling_close(struct profiling *p, struct vm *vm);
void profiling_fini(struct profiling *p);

/* The function of the guest's kernel at this linear address, as this vCPU runs it. */
bool profiling_find(const struct profiling *p, const struct vcpu *v, u64 lin,
		    struct symbol *found);
