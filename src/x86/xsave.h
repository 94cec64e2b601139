/*
 * Saving and restoring x87, SSE and extended state: FXSAVE, FNSAVE, FNSTENV, XSAVE and
 * their relatives. SDM volume 1 chapters 8, 10.5 and 13.
 *
 * v->xsave is the guest's state. Where a component lies there, below, is the compacted
 * format of all of them, as the standard format differs between hosts; XCOMP_BV is 0 all
 * the same. XSTATE_BV of its header is XINUSE: a component whose bit is clear is in its
 * initial configuration, and its bytes say so too. MXCSR is always valid. PKRU is not in
 * it but in v->pkru, and the instruction and operand pointers are in v->fip and its
 * neighbours; those bytes of the area are copies.
 *
 * Images in the guest's memory have the standard format of the guest's vendor, which is
 * what CPUID.0DH tells: Intel keeps the place of MPX, AMD has no gaps.
 *
 * All functions work on the state parked in v->xsave: the caller has parked live
 * registers (and reloads them after a restore). False: a fault was raised and nothing
 * changed. Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/cpuid.h"
#include "x86/vcpu.h"

/* clang-format off */
#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4	/* abridged: one bit a register, 1 is not empty */
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_MXCSR_MASK 28
#define XSAVE_ST 32	/* 8 of 16 bytes, 10 used; ST(0) first */
#define XSAVE_XMM 160	/* 16 of 16 bytes */
#define XSAVE_LEGACY_SIZE 512
#define XSAVE_XSTATE_BV 512
#define XSAVE_XCOMP_BV 520
#define XSAVE_EXTENDED 576
#define XSAVE_YMM 576	/* upper halves, 16 of 16 bytes */
#define XSAVE_OPMASK 832	/* 8 of 8 bytes */
#define XSAVE_ZMM_HI256 896	/* 16 of 32 bytes */
#define XSAVE_HI16_ZMM 1408	/* 16 of 64 bytes */
#define XSAVE_PKRU 2432
#define XSAVE_SIZE 2440
/* clang-format on */

#define XCOMP_COMPACTED BIT(63)

#define MXCSR_INIT 0x1f80u
#define MXCSR_MASK 0xffffu

/* Where component i lies in v->xsave; size 0: none. i below 10. */
struct xcomp {
	u16 offset, size;
	bool align64; /* in the compacted format */
};

#define XCOMP_COUNT 10

static const struct xcomp xcomp_layout[XCOMP_COUNT] = {
	[2] = { XSAVE_YMM, 256, false },       [5] = { XSAVE_OPMASK, 64, false },
	[6] = { XSAVE_ZMM_HI256, 512, false }, [7] = { XSAVE_HI16_ZMM, 1024, false },
	[9] = { XSAVE_PKRU, 8, false },
};

/* Bytes of the image of these components (a set of XCR0_*), header included. */
static inline u32 xsave_compacted_size(u64 mask)
{
	u32 end = XSAVE_EXTENDED;

	for (unsigned i = 2; i < XCOMP_COUNT; i++) {
		if (!(mask >> i & 1))
			continue;
		if (xcomp_layout[i].align64)
			end = (end + 63) & ~63u;
		end += xcomp_layout[i].size;
	}
	return end;
}

/*
 * Where component i lies in the standard format of a CPU that has the components
 * 'supported'.
 */
static inline u32 xsave_standard_offset(enum cpu_vendor vendor, u64 supported, unsigned i)
{
	static const u16 intel[XCOMP_COUNT] = {
		[2] = 576, [5] = 1088, [6] = 1152, [7] = 1664, [9] = 2688,
	};

	return vendor == VENDOR_AMD ? xsave_compacted_size(supported & (BIT(i) - 1))
				    : intel[i];
}

static inline u32 xsave_standard_size(enum cpu_vendor vendor, u64 supported, u64 mask)
{
	u32 end = XSAVE_EXTENDED;

	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (mask >> i & 1)
			end = xsave_standard_offset(vendor, supported, i) +
			      xcomp_layout[i].size;
	return end;
}

enum xsave_kind { XSAVE_XSAVE, XSAVE_XSAVEOPT, XSAVE_XSAVEC, XSAVE_XSAVES };

/*
 * 'rfbm' is EDX:EAX. 'rexw': the 64-bit form (FIP and FDP of 64 bits instead of
 * selectors). #UD without CR4.OSXSAVE or the feature, #NM with CR0.TS, #GP for alignment
 * and, of XSAVES and XRSTORS, CPL: all done here. 'off' is the offset in 'sreg', cut to
 * the address size.
 */
bool xsave_save(struct vcpu *v, unsigned sreg, u64 off, enum xsave_kind kind, u64 rfbm,
		bool rexw);
bool xsave_restore(struct vcpu *v, unsigned sreg, u64 off, bool supervisor, u64 rfbm,
		   bool rexw);

bool fxsave(struct vcpu *v, unsigned sreg, u64 off, bool rexw);
bool fxrstor(struct vcpu *v, unsigned sreg, u64 off, bool rexw);

/*
 * The forms that do not wait; opsize 2 or 4 (8 is taken as 4). Pending x87 exceptions
 * before FLDENV and FRSTOR are the caller's.
 */
bool fnstenv(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize);
bool fldenv(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize);
bool fnsave(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize);
bool frstor(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize);
/* FNINIT on the parked state. */
void fninit(struct vcpu *v);

/* With all checks; 'vex': the VEX form. */
bool ldmxcsr(struct vcpu *v, unsigned sreg, u64 off, bool vex);
bool stmxcsr(struct vcpu *v, unsigned sreg, u64 off, bool vex);

/* XGETBV with ECX 0 and 1, XSETBV (all checks, CPL too). */
bool xgetbv(struct vcpu *v, u32 index, u64 *val);
bool xsetbv(struct vcpu *v, u32 index, u64 val);

/* The tag word with two bits a register, and the other way round. */
u16 xsave_full_tags(const struct vcpu *v);
u8 xsave_abridged_tags(u64 tags);

/* XINUSE as XGETBV and XSAVEC have it: PKRU and a changed MXCSR counted in. */
u64 xsave_inuse(const struct vcpu *v);

/* Power-up state of v->xsave, v->fip and so on, v->pkru (SDM 3 table 10-1); INIT keeps it
 * all. */
void xsave_reset(struct vcpu *v);
