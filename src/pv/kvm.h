/*
 * KVM's paravirtual interface, as far as it is offered: its clock and steal time.
 *
 * Linux, Documentation/virt/kvm/x86: cpuid.rst (x86/cpuid_build.c), msr.rst. A guest
 * names memory by an MSR, and finds there how its TSC becomes nanoseconds, what civil
 * time it was at nanosecond 0, and for how long its CPU wanted to run and did not.
 *
 * The clock is the machine's virtual time, in a form that never ages:
 *
 *   ns = (TSC - offset) scaled     with 'offset' the TSC at virtual time 0
 *
 * so that the memory changes when the guest writes its TSC, and otherwise not; and it is
 * the same number on all CPUs, however their TSCs differ.
 *
 * Threads: each function says whose. A CPU that writes its TSC changes the memory of
 * others too; a lock of its own covers that. Nothing is called with it held but mem/.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"
#include "state/save.h"

#define MSR_KVM_WALL_CLOCK      0x11
#define MSR_KVM_SYSTEM_TIME     0x12
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_STEAL_TIME      0x4b564d03

struct clock;
struct phys;
struct pv_kvm;
struct tsc;

/* What of it a machine has; what it lacks x86/msr.c refuses. */
struct pv_kvm_config {
	struct phys *phys;   /* borrowed, as the rest */
	struct clock *clock; /* for the civil time of virtual time 0 */
	unsigned cpus;
	bool system_time; /* KVM_FEATURE_CLOCKSOURCE, _CLOCKSOURCE2 */
	bool stable;      /* KVM_FEATURE_CLOCKSOURCE_STABLE_BIT */
	bool steal_time;  /* KVM_FEATURE_STEAL_TIME */
};

struct pv_kvm *pv_kvm_new(const struct pv_kvm_config *cfg);
void pv_kvm_free(struct pv_kvm *k);
/* Before anything else is done with this CPU. Borrowed. */
void pv_kvm_set_tsc(struct pv_kvm *k, unsigned cpu, const struct tsc *tsc);

/* ---- machine stopped ---- */

/* All is off. After the TSCs. */
void pv_kvm_reset(struct pv_kvm *k);

/* What the MSRs hold. Load after the clock and the TSCs: it writes to guest memory. */
void pv_kvm_save(struct pv_kvm *k, struct state_buf *b);
int pv_kvm_load(struct pv_kvm *k, struct state_buf *b, struct error *err);
extern const struct state_desc pv_kvm_desc, pv_kvm_cpu_desc;

/* ---- thread of the CPU ---- */

/* RDMSR, WRMSR: 1 done, 0 #GP, -1 not one of these. */
int pv_kvm_msr_read(struct pv_kvm *k, unsigned cpu, u32 msr, u64 *val);
int pv_kvm_msr_write(struct pv_kvm *k, unsigned cpu, u32 msr, u64 val);
/* Before the guest sees what its TSC is now. */
void pv_kvm_tsc_changed(struct pv_kvm *k, unsigned cpu);
/* INIT: who runs next on this CPU has not asked for anything. */
void pv_kvm_init(struct pv_kvm *k, unsigned cpu);

/* Has the guest asked for it? */
bool pv_kvm_wants_steal(const struct pv_kvm *k, unsigned cpu);
/* So many ns more. */
void pv_kvm_add_steal(struct pv_kvm *k, unsigned cpu, u64 ns);

/* ---- any thread ---- */

/* ns = (ticks << shift) * mul >> 32, or >> -shift when that is negative; mul >= 2^31. */
struct pv_kvm_scale {
	u32 mul;
	i8 shift;
};
struct pv_kvm_scale pv_kvm_scale(u64 khz);
