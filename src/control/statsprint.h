/* The counters of a machine for people and for programs. */
#pragma once

#include <stdio.h>

#include "x86/stats.h"

struct profiling;
struct vm;

/* What is known beside the counters. */
struct stats_context {
	const char *engine;
	const char *end; /* why the machine ended, or "running" */
	unsigned cpus;
	u64 ram_size;
	i64 elapsed_ns;                    /* virtual time since power-on */
	struct vm *vm;                     /* for what its threads did */
	const struct profiling *profiling; /* for the guest's functions; NULL: without */
};

/* Several lines, grouped; counters that are 0 are left out. */
void stats_print(FILE *out, const struct vcpu_stats *s, const struct stats_context *c);
/* One line: a JSON object with all counters. */
void stats_print_json(FILE *out, const struct vcpu_stats *s,
		      const struct stats_context *c);
/* One line in words, for a running machine. */
void stats_line(char *buf, size_t size, const struct vcpu_stats *s,
		const struct stats_context *c);
