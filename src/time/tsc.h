/*
 * The time-stamp counter of one vCPU, computed from the machine's clock.
 *
 *   TSC(t) = floor(t * khz / 10^6) + offset      (modulo 2^64; t in virtual ns)
 *
 * Intel SDM vol. 3, 18.17 "Time-Stamp Counter" and 18.17.3 "Time-Stamp Counter
 * Adjustment": WRMSR to IA32_TIME_STAMP_COUNTER adds to IA32_TSC_ADJUST what it added to
 * the counter, and the other way round. The counter is invariant and does not stop.
 *
 * Writes: owning vCPU thread, or any thread while the machine is stopped. Reads: any
 * thread. No lock: each word is read and written as a whole, and a reader on another
 * thread (a deadline timer) is told to look again after a write.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "state/save.h"

struct tsc_state {
	u64 khz;    /* 1 .. TSC_KHZ_MAX */
	u64 offset; /* TSC at virtual time 0 */
	u64 adjust; /* IA32_TSC_ADJUST */
};

/* 100 GHz: a bound for streams, far above any real processor. */
#define TSC_KHZ_MAX UINT64_C(100000000)

struct tsc {
	struct tsc_state s;
};

/*
 * Power-up: the counter reads 0 at 'now' and IA32_TSC_ADJUST is 0. khz
 * outside 1 .. TSC_KHZ_MAX is brought into it. (INIT changes neither.)
 */
void tsc_init(struct tsc *t, u64 khz, vns_t now);

/* RDTSC, RDMSR IA32_TIME_STAMP_COUNTER. */
u64 tsc_read(const struct tsc *t, vns_t now);
/* TSC at virtual time 0, and its rate: what it reads is a function of these. */
u64 tsc_offset(const struct tsc *t);
u64 tsc_khz(const struct tsc *t);
/* WRMSR IA32_TIME_STAMP_COUNTER. */
void tsc_write(struct tsc *t, vns_t now, u64 val);
/* IA32_TSC_ADJUST. */
u64 tsc_adjust_read(const struct tsc *t);
void tsc_adjust_write(struct tsc *t, u64 val);

/*
 * The first virtual time, not before 'now', at which the TSC is >= value as RDTSC would
 * compare it (unsigned); 'now' itself when it already is. VNS_NEVER when that is beyond
 * what the clock can count. For IA32_TSC_DEADLINE and UMWAIT.
 */
vns_t tsc_to_vns(const struct tsc *t, u64 value, vns_t now);

/* Durations: ticks that pass in ns, rounded down; ns that many ticks take, rounded up. */
u64 tsc_ticks(const struct tsc *t, vns_t ns);
vns_t tsc_duration(const struct tsc *t, u64 ticks);

extern const struct state_desc tsc_desc;
/* instance: the vCPU's number. */
void tsc_save(const struct tsc *t, struct state_buf *b, u32 instance);
int tsc_load(struct tsc *t, struct state_buf *b, u32 instance, struct error *err);
