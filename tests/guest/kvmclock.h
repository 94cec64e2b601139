/*
 * KVM's clock and steal time as a guest reads them, from the text of Linux's
 * Documentation/virt/kvm/x86/msr.rst.
 */
#pragma once

#include "apic.h"

enum {
	KVM_WALL_CLOCK = 0x11,
	KVM_SYSTEM_TIME = 0x12,
	KVM_WALL_CLOCK_NEW = 0x4b564d00,
	KVM_SYSTEM_TIME_NEW = 0x4b564d01,
	KVM_STEAL_TIME = 0x4b564d03,
	IA32_TSC = 0x10,
	IA32_TSC_ADJUST = 0x3b,
};

/* Bits of CPUID.40000001H:EAX. */
enum {
	HAS_CLOCK = 1 << 0,
	HAS_NOP_IO_DELAY = 1 << 1,
	HAS_CLOCK2 = 1 << 3,
	HAS_STEAL_TIME = 1 << 5,
	HAS_STABLE = 1 << 24,
};

#define HAS_TSC_ADJUST HAS(7, 0, b, 1)

struct wall_clock {
	u32 version, sec, nsec;
} __attribute__((packed));

struct system_time {
	u32 version, pad;
	u64 tsc, ns;
	u32 mul;
	int8_t shift;
	u8 flags;
	u8 pad2[2];
} __attribute__((packed));

struct steal_time {
	u64 ns;
	u32 version, flags;
	u8 preempted;
	u8 pad[47];
} __attribute__((packed));

static inline bool has_kvm(void)
{
	struct cpuid c = cpuid(0x40000000, 0);

	return HAS(1, 0, c, 31) && c.b == 0x4b4d564b && c.c == 0x564b4d56 && c.d == 0x4d;
}

static inline u32 kvm_features(void)
{
	return has_kvm() ? cpuid(0x40000001, 0).a : 0;
}

/* And not later than the loads before it, nor before it those behind. */
static inline u64 tsc_ordered(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi) : : "memory");
	return lo | (u64)hi << 32;
}

/* Also at any privilege level. */
static inline u64 clock_read(const volatile struct system_time *s)
{
	u32 version;
	u64 t, ns;

	do {
		version = s->version;
		__asm__ volatile("" : : : "memory");
		t = tsc_ordered() - s->tsc;
		t = s->shift < 0 ? t >> -s->shift : t << s->shift;
		ns = (t >> 32) * s->mul + ((t & 0xffffffff) * s->mul >> 32) + s->ns;
		__asm__ volatile("" : : : "memory");
	} while ((version & 1) || version != s->version);
	return ns;
}
