/*
 * The MSRs, CR8 and the time-stamp counter that belong to chips and not to the CPU core:
 * what x86/ reaches through struct vcpu_platform.
 */
#pragma once

#include "x86/vcpu.h"

struct clock;
struct lapic;
struct pv_kvm;
struct tsc;

struct msrmap {
	struct lapic *lapic;
	struct tsc *tsc;
	struct clock *clock;
	struct pv_kvm *kvm;
	unsigned cpu;
};

/* The map is copied; it is freed by msrmap_detach(). Machine stopped. */
void msrmap_attach(struct vcpu *v, const struct msrmap *map);
void msrmap_detach(struct vcpu *v);
