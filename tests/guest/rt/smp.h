/*
 * The other processors of a 64-bit guest: started by INIT and SIPI, they wait for work.
 * SDM volume 3 section 9.4.
 */
#pragma once

#include "apic.h"

#define CPUS_MAX 8

/* Start those that answer; how many CPUs there are, this one counted. */
unsigned smp_start(void);
/* What CPUID says: exactly, or the IDs that are set aside, a power of two. */
unsigned smp_count(void);
bool smp_count_is_exact(void);
/* Let CPU n run fn(arg), and do not wait. It has IF = 0 and its own stack; no TRY there.
 */
void smp_run(unsigned n, void (*fn)(word arg), word arg);
/* Wait until it has. */
void smp_wait(unsigned n);
/* Local APIC IDs are those of CPUID: 0, 1 ... in the order of the machine. */
u32 smp_id(unsigned n);
/* What an INIT does to a CPU that is started, and starting it again: smp_run() as before.
 */
void smp_restart(unsigned n);
/* The same with this SIPI vector, where code leads to SMP_START in real mode. */
bool smp_restart_at(unsigned n, u8 vector);
#define SMP_START 0x30 /* the usual one */

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}
