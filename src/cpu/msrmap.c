/*
 * The MSRs, CR8 and the time-stamp counter that belong to chips and not to the CPU core.
 *
 * SDM volume 3 sections 11.4.3 (IA32_APIC_BASE), 11.12 (x2APIC), 11.5.4.1
 * (TSC-deadline), 18.17 (time-stamp counter). KVM's are pv/kvm.c's. Thread: the owner of
 * the vCPU.
 */
#include "cpu/msrmap.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "irq/lapic.h"
#include "pv/kvm.h"
#include "time/clock.h"
#include "time/tsc.h"

#define IA32_TSC           0x10
#define IA32_APIC_BASE_MSR 0x1b
#define IA32_TSC_ADJUST    0x3b
#define IA32_TSC_DEADLINE  0x6e0

static u64 read_tsc(void *opaque)
{
	struct msrmap *m = opaque;
	vns_t now = clock_now(m->clock);

	/*
	 * A guest that waits for a tick and looks at the TSC meanwhile, as Linux does to
	 * find out whether the timer works, gets the ticks of the time that it sees.
	 */
	clock_catch_up(m->clock, now);
	return tsc_read(m->tsc, now);
}

static int read_msr(void *opaque, u32 msr, u64 *val)
{
	struct msrmap *m = opaque;

	switch (msr) {
	case IA32_TSC: *val = read_tsc(m); return 1;
	case IA32_TSC_ADJUST: *val = tsc_adjust_read(m->tsc); return 1;
	case IA32_APIC_BASE_MSR: *val = lapic_base_read(m->lapic); return 1;
	case IA32_TSC_DEADLINE: *val = lapic_tsc_deadline_read(m->lapic); return 1;
	default: break;
	}
	if (msr >= 0x800 && msr <= 0x8ff)
		return lapic_msr_read(m->lapic, msr, val);
	return pv_kvm_msr_read(m->kvm, m->cpu, msr, val);
}

static void tsc_changed(struct msrmap *m)
{
	lapic_tsc_changed(m->lapic);
	pv_kvm_tsc_changed(m->kvm, m->cpu);
}

static int write_msr(void *opaque, u32 msr, u64 val)
{
	struct msrmap *m = opaque;

	switch (msr) {
	case IA32_TSC:
		tsc_write(m->tsc, clock_now(m->clock), val);
		tsc_changed(m);
		return 1;
	case IA32_TSC_ADJUST:
		tsc_adjust_write(m->tsc, val);
		tsc_changed(m);
		return 1;
	case IA32_APIC_BASE_MSR: return lapic_base_write(m->lapic, val);
	case IA32_TSC_DEADLINE: lapic_tsc_deadline_write(m->lapic, val); return 1;
	default: break;
	}
	if (msr >= 0x800 && msr <= 0x8ff)
		return lapic_msr_write(m->lapic, msr, val);
	return pv_kvm_msr_write(m->kvm, m->cpu, msr, val);
}

static u8 read_cr8(void *opaque)
{
	struct msrmap *m = opaque;

	return (u8)lapic_cr8_read(m->lapic);
}

static void write_cr8(void *opaque, u8 val)
{
	struct msrmap *m = opaque;

	lapic_cr8_write(m->lapic, val);
}

static const struct vcpu_platform platform = {
	.tsc = read_tsc,
	.msr_read = read_msr,
	.msr_write = write_msr,
	.cr8_read = read_cr8,
	.cr8_write = write_cr8,
};

void msrmap_attach(struct vcpu *v, const struct msrmap *map)
{
	struct msrmap *m = xzalloc(sizeof(*m));

	*m = *map;
	msrmap_detach(v);
	v->platform = &platform;
	v->platform_opaque = m;
}

void msrmap_detach(struct vcpu *v)
{
	free(v->platform_opaque);
	v->platform = NULL;
	v->platform_opaque = NULL;
}
