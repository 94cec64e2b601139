/*
 * Looking at what a thread is doing, again and again: a timer of its CPU time.
 *
 * The host's kernel looks at such a timer on its tick, mostly every 4 ms, and says how
 * many periods have passed; a thread that waits is not woken. One thread has one sampler;
 * the signal is SIGPROF.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

struct sampler;

/*
 * In signal context on the sampled thread: only async-signal-safe calls. 'rip' is where
 * the thread is, 'ns' the CPU time that it stands for.
 */
typedef void sampler_fn(void *opaque, u64 rip, u64 ns);

/*
 * Sample the calling thread. NULL: the reason is in *err. The signal uses the thread's
 * alternate stack where it has one.
 */
struct sampler *sampler_start(sampler_fn *fn, void *opaque, struct error *err);
/* The same thread. */
void sampler_stop(struct sampler *s);

/* CPU time of the calling thread, in nanoseconds. */
u64 sampler_thread_ns(void);
