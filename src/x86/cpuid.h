/*
 * What CPUID answers: built once per machine from a model, the user's wishes and the
 * host.
 *
 * cpuid_models.c has the models, cpuid_build.c makes the table, cpuid.c answers. A table
 * is never written after cpuid_build(), so all vCPUs share it.
 */
#pragma once

#include <stdio.h>

#include "base/error.h"
#include "x86/vcpu.h"

enum cpu_vendor { VENDOR_INTEL, VENDOR_AMD };

/* Extended-state components we know: 0..9 (SDM 1 section 13.1). */
#define HOST_XCOMP_COUNT 10 /* = XCOMP_COUNT */

/* What the host's CPU is and has; filled by cpu/hostcpu.c, or by a test. */
struct host_cpu {
	u32 features[FEATURE_WORDS];   /* as its CPUID says, less what its kernel did not
					  enable */
	u64 xcr0;                      /* 0 without OSXSAVE */
	u32 xoffset[HOST_XCOMP_COUNT]; /* of each component in the standard XSAVE format
					*/
	u32 xsize[HOST_XCOMP_COUNT];
	u32 xsave_size; /* CPUID.(0DH,0):EBX; 0 without OSXSAVE */
	bool amd;       /* AuthenticAMD or HygonGenuine */
	u8 phys_bits;
	u16 family, model;
	u8 stepping;
	char brand[49];
};

struct cpuid_request {
	/*
	 * "MODEL[,+feature][,-feature][,feature=on|off][,vendor=..][,family=..][,model=..]
	 * [,stepping=..][,model-id=..][,phys-bits=..]"; NULL: "max".
	 */
	const char *cpu;
	unsigned cpus;                    /* at least 1 */
	unsigned sockets, cores, threads; /* 0: derived, cores taking what is not given */
	u64 tsc_khz;
	u32 crystal_hz; /* CPUID.15H and local APIC timer; 0: 25 MHz */
};

#define CPUID_MAX_LEAVES 80

struct cpuid_leaf {
	u32 leaf, subleaf;
	u32 reg[4]; /* EAX, EBX, ECX, EDX */
};

struct cpuid_table {
	u32 features[FEATURE_WORDS];
	enum cpu_vendor vendor;
	u16 family, model; /* as displayed: extended fields added */
	u8 stepping;
	u8 phys_bits, linear_bits;
	u8 thread_shift, package_shift; /* APIC ID bits below the core, the package */
	u16 sockets, cores, threads;
	u16 cpus;
	u32 max_basic, max_hypervisor, max_extended; /* 0: range absent */
	u64 xcr0;              /* what XCR0 can have; 0 without XSAVE */
	u64 xss;               /* what IA32_XSS can have */
	u64 arch_capabilities; /* IA32_ARCH_CAPABILITIES */
	u64 ucode_rev;         /* IA32_BIOS_SIGN_ID or the AMD patch level */
	u64 tsc_khz;
	u32 crystal_hz;
	unsigned count;
	struct cpuid_leaf leaf[CPUID_MAX_LEAVES]; /* by rising leaf, subleaf */
	char model_name[32];
};

/*
 * Fill *t. 'features' (may be NULL) gets a copy of t->features. 0, or -EINVAL with a line
 * that names what is wrong: an unknown model or feature, one that the host lacks, one
 * without its prerequisite.
 */
int cpuid_build(struct cpuid_table *t, const struct cpuid_request *req,
		const struct host_cpu *host, u32 features[FEATURE_WORDS],
		struct error *err);

/* Give a vCPU its table: v->cpuid, v->features, v->phys_bits. Before the first
 * vcpu_reset(). */
void cpuid_attach(struct vcpu *v, const struct cpuid_table *t);

/* The CPUID instruction. Owning vCPU thread, live vector state parked: v->platform is
 * asked. */
void cpuid_query(const struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4]);

/* APIC ID of CPU 'index': equal to it unless cores or threads are no power of two. */
static inline u32 cpuid_apic_id(const struct cpuid_table *t, unsigned index)
{
	unsigned thread = index % t->threads;
	unsigned core = index / t->threads % t->cores;
	unsigned package = index / t->threads / t->cores;

	return package << t->package_shift | core << t->thread_shift | thread;
}

static inline bool cpu_is_amd(const struct vcpu *v)
{
	return v->cpuid && v->cpuid->vendor == VENDOR_AMD;
}

/* For `-cpu help`: the models and the features that can be asked for. */
void cpuid_list(FILE *out);

/*
 * A frequency near 'khz' that CPUID.15H can express exactly and that Linux computes
 * without overflow: a multiple of 100 kHz.
 */
static inline u64 cpuid_tsc_khz_round(u64 khz)
{
	return (khz + 50) / 100 * 100;
}
