/*
 * Counters, one list for all uses: stats.def. Per vCPU, written by its thread alone,
 * added up when printed.
 */
#pragma once

#include "base/types.h"

struct vcpu_stats {
#define STAT(id, group, text) u64 id;
#include "x86/stats.def"
#undef STAT
	u64 interrupt[256]; /* external interrupts taken, by vector */
	u64 exception[32];  /* exceptions delivered, by vector */
};
