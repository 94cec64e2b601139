/*
 * Model-specific registers. SDM volume 4; AMD APM volume 2 appendix A.
 *
 * The list is msr.def. Most registers are a slot of v->msr[]; code that uses one reads
 * v->msr[MSRI_LSTAR] and the like directly. Those that belong to the clock and the local
 * APIC, and all that msr.def does not name, go to v->platform.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/vcpu.h"

enum msr_vendor { MSR_ANY, MSR_INTEL, MSR_AMD };

enum msr_kind {
	MSR_RW,       /* storage; a reserved bit that is set gives #GP */
	MSR_RO,       /* writing gives #GP */
	MSR_CONST,    /* writing has no effect */
	MSR_CANON,    /* storage of a canonical address */
	MSR_COMMAND,  /* write only, nothing is kept */
	MSR_ZEROING,  /* storage that software can only set to 0 */
	MSR_PLATFORM, /* v->platform has it */
	MSR_FN,       /* rules of its own, in msr.c */
};

struct msr_def {
	u32 address;
	u16 feature; /* enum cpu_feature that brings it, FEAT_NONE: always there */
	u8 slot;     /* in v->msr[], MSR_NO_SLOT: none */
	u8 kind;     /* enum msr_kind */
	u8 vendor;   /* enum msr_vendor */
	const char *name;
	u64 reset;
	u64 reserved;
};

#define MSR_NO_SLOT 0xff

/* Index into v->msr[]: MSRI_LSTAR, MSRI_PAT, ... */
enum msr_slot {
#define MSR(slot, id, address, name, kind, reset, reserved, feature, vendor)             \
	MSRI_##id = (slot),
#define MSR_NOSLOT(id, address, name, kind, reset, reserved, feature, vendor)
#include "x86/msr.def"
#undef MSR
#undef MSR_NOSLOT
};

#define IA32_APIC_BASE    0x1b
#define IA32_X2APIC_FIRST 0x800
#define IA32_X2APIC_LAST  0x8ff

#define MISC_ENABLE_FAST_STRINGS     BIT(0)
#define MISC_ENABLE_BTS_UNAVAILABLE  BIT(11)
#define MISC_ENABLE_PEBS_UNAVAILABLE BIT(12)
#define MISC_ENABLE_MONITOR          BIT(18)
#define MISC_ENABLE_LIMIT_CPUID      BIT(22)
#define MISC_ENABLE_XD_DISABLE       BIT(34)

/* Memory types and bits of MTRRs. SDM 3 section 12.11. */
#define MTRR_UC           0u
#define MTRR_WC           1u
#define MTRR_WT           4u
#define MTRR_WP           5u
#define MTRR_WB           6u
#define MTRR_FIXED_ENABLE BIT(10)
#define MTRR_ENABLE       BIT(11)
#define MTRR_MASK_VALID   BIT(11)

#define DEBUGCTL_LBR BIT(0)
#define DEBUGCTL_BTF BIT(1)

#define HWCR_MC_STATUS_WR_EN BIT(18)
#define HWCR_TSC_FREQ_SEL    BIT(24)

/* Machine-check banks (MCG_CAP). */
#define MCA_BANKS 4

/*
 * RDMSR, WRMSR without the CPL check. False: #GP(0) raised. Live vector state must be
 * parked: v->platform may be asked.
 */
bool msr_read(struct vcpu *v, u32 msr, u64 *val);
bool msr_write(struct vcpu *v, u32 msr, u64 val);

/*
 * Power-up values (SDM 3 table 10-1); INIT leaves MSRs alone. EFER and the segment bases
 * are not touched: vcpu_reset() has them.
 */
void msr_reset(struct vcpu *v, bool init);

/*
 * Memory types as firmware leaves them: RAM write-back, [hole, 4 GiB) and video memory
 * uncached, ROM write-protected. For boots without firmware: Linux does without PAT when
 * MTRRs are off, and wants them alike on all CPUs. After vcpu_reset().
 */
void msr_firmware_mtrrs(struct vcpu *v, gpa_t hole);

/* Recompute what follows from MSRs (v->features) after v->msr[] was written from outside.
 */
void msr_sync(struct vcpu *v);

/* The description, or NULL; also of MSRs that this CPU's features do not include. */
const struct msr_def *msr_find(u32 msr);
/* All of them by rising address: for tests and dumps. NULL when i is too large. */
const struct msr_def *msr_at(unsigned i);

/* Is 'a' canonical for an MSR? By the width the CPU has, not by CR4.LA57 (SDM 3
 * section 4.5.2). */
bool msr_canonical(const struct vcpu *v, u64 a);
