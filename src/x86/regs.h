/*
 * Names of the architecture: registers, control bits, vectors, MSRs.
 * Intel SDM volume 3 sections 2.5 (control registers), 6.3 (vectors), 17.2 (debug
 * registers), volume 4 (MSRs); AMD APM volume 2 for EFER.
 */
#pragma once

#include "base/bits.h"

/* clang-format off */

/* General registers in encoding order, then the two slots that make address arithmetic uniform. */
enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
	   GPR_RIP, GPR_ZERO, GPR_COUNT };

/* Segment registers in encoding order (and VMCS order), then the system ones. */
enum sreg { ES, CS, SS, DS, FS, GS, LDTR, TR, SREG_COUNT, SREG_NONE = 0xff };

/* RFLAGS. SDM 1 section 3.4.3. */
enum {
	RFLAGS_CF = 1 << 0,  RFLAGS_1 = 1 << 1,   RFLAGS_PF = 1 << 2,   RFLAGS_AF = 1 << 4,
	RFLAGS_ZF = 1 << 6,  RFLAGS_SF = 1 << 7,  RFLAGS_TF = 1 << 8,   RFLAGS_IF = 1 << 9,
	RFLAGS_DF = 1 << 10, RFLAGS_OF = 1 << 11, RFLAGS_IOPL = 3 << 12, RFLAGS_NT = 1 << 14,
	RFLAGS_RF = 1 << 16, RFLAGS_VM = 1 << 17, RFLAGS_AC = 1 << 18,  RFLAGS_VIF = 1 << 19,
	RFLAGS_VIP = 1 << 20, RFLAGS_ID = 1 << 21,
	RFLAGS_STATUS = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF,
	RFLAGS_ALL = 0x3f7fd7,	/* every defined bit with the fixed bit 1 */
};
#define RFLAGS_IOPL_SHIFT 12

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR3_PWT BIT(3)
#define CR3_PCD BIT(4)
#define CR3_PCID_MASK BITS(11, 0)
#define CR3_NOFLUSH BIT(63)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)
#define CR4_CET BIT(23)
#define CR4_PKS BIT(24)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define EFER_SVME BIT(12)
#define EFER_LMSLE BIT(13)
#define EFER_FFXSR BIT(14)
#define EFER_AUTOIBRS BIT(21)

/* Extended states. SDM 1 section 13.1. */
#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_OPMASK BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM BIT(7)
#define XCR0_PKRU BIT(9)
#define XCR0_TILES (BIT(17) | BIT(18)) /* AMX: TILECFG and TILEDATA */
#define XCR0_AVX512 (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

#define DR6_FIXED UINT64_C(0xffff0ff0)
#define DR6_BD BIT(13)
#define DR6_BS BIT(14)
#define DR6_BT BIT(15)
#define DR6_RTM BIT(16)
#define DR7_FIXED UINT64_C(0x400)
#define DR7_GD BIT(13)

enum vector {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6,
	VEC_NM = 7, VEC_DF = 8, VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14,
	VEC_MF = 16, VEC_AC = 17, VEC_MC = 18, VEC_XM = 19, VEC_VE = 20, VEC_CP = 21,
};

/* Page-fault error code. SDM 3 section 4.7. */
enum { PF_P = 1 << 0, PF_W = 1 << 1, PF_U = 1 << 2, PF_RSVD = 1 << 3, PF_I = 1 << 4, PF_PK = 1 << 5 };

/*
 * Segment access rights as in the VMCS (SDM 3 table 25-2):
 *
 *   16       15 14 13 12   11..8  7   6..5  4  3..0
 *   unusable  G D/B L  AVL   0    P   DPL   S  type
 */
#define SEG_TYPE_MASK 0xfu
#define SEG_ACCESSED (1u << 0)
#define SEG_WRITABLE (1u << 1)	/* data */
#define SEG_READABLE (1u << 1)	/* code */
#define SEG_EXPAND_DOWN (1u << 2)	/* data */
#define SEG_CONFORMING (1u << 2)	/* code */
#define SEG_CODE (1u << 3)
#define SEG_S (1u << 4)
#define SEG_DPL_SHIFT 5
#define SEG_DPL_MASK (3u << 5)
#define SEG_P (1u << 7)
#define SEG_AVL (1u << 12)
#define SEG_L (1u << 13)
#define SEG_DB (1u << 14)
#define SEG_G (1u << 15)
#define SEG_UNUSABLE (1u << 16)

/* System descriptor types. SDM 3 table 3-2. */
enum { DESC_TSS16 = 1, DESC_LDT = 2, DESC_TSS16_BUSY = 3, DESC_CALL16 = 4, DESC_TASK_GATE = 5,
       DESC_INT16 = 6, DESC_TRAP16 = 7, DESC_TSS32 = 9, DESC_TSS32_BUSY = 11, DESC_CALL32 = 12,
       DESC_INT32 = 14, DESC_TRAP32 = 15 };
/* clang-format on */
