/*
 * How long a thread may run in one go beside others: a shorter slice lets it have the CPU
 * sooner when it wakes up, not more of it.
 */
#pragma once

#include "base/types.h"

/*
 * The calling thread, and what it starts from now on; 0: what the host takes by itself.
 * Hosts before Linux 6.12 have no such thing, and nothing happens. Makes system calls
 * alone.
 */
void slice_set(u64 ns);
