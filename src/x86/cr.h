/*
 * Control and debug registers, and the flags that need privilege. SDM volume 3 chapter
 * 2, 17. Register writes check everything the manual says, then commit and flush what
 * they must. False: a fault was raised and nothing changed. CPL is checked too, except
 * where said.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/vcpu.h"

/* clang-format off */
/* Bits of CR0 that exist. Others are ignored when written, if below 32. */
#define CR0_VALID (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | \
		   CR0_NW | CR0_CD | CR0_PG)
/* Bits of XCR0 that we know at all; xcr0_valid_bits() has those of this CPU. */
#define XCR0_KNOWN (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU)
/* Bits of DR6 and DR7 that software can change. RTM and DEBUGCTL.RTM are not offered. */
#define DR6_WRITABLE (BITS(3, 0) | DR6_BD | DR6_BS | DR6_BT)
#define DR7_WRITABLE (BITS(9, 0) | DR7_GD | BITS(31, 16))
/* clang-format on */

/* MOV to CRn; lmsw has the operand of LMSW. CPL is the caller's to check for lmsw and the
 * last three. */
bool cr0_write(struct vcpu *v, u64 val);
bool cr3_write(struct vcpu *v, u64 val);
bool cr4_write(struct vcpu *v, u64 val);
bool cr8_write(struct vcpu *v, u64 val);
void lmsw(struct vcpu *v, u16 val);
u64 cr8_read(struct vcpu *v);
bool xcr0_write(struct vcpu *v, u32 index, u64 val);
bool efer_write(struct vcpu *v, u64 val);

/* What this CPU's features allow. */
u64 cr4_valid_bits(const struct vcpu *v);
u64 efer_valid_bits(const struct vcpu *v); /* with LMA */
u64 xcr0_valid_bits(const struct vcpu *v); /* 0 without XSAVE */
bool xcr0_valid(const struct vcpu *v, u64 val);

/* MOV from and to DRn with all checks (CR4.DE, DR7.GD, reserved bits), n 0..7. */
bool dr_read(struct vcpu *v, unsigned n, u64 *val);
bool dr_write(struct vcpu *v, unsigned n, u64 val);

/* DR6 bits of enabled breakpoints that this access or fetch hits; 0 when none. */
u64 debug_match_data(const struct vcpu *v, gva_t lin, unsigned len, bool write);
u64 debug_match_exec(const struct vcpu *v, gva_t lin);
u64 debug_match_io(const struct vcpu *v, u16 port, unsigned len);
/* Any data breakpoint in this linear page, a debugger's included. */
bool debug_page_watched(const struct vcpu *v, gva_t lin);
/* Any instruction breakpoint at all. */
bool debug_exec_enabled(const struct vcpu *v);
/* A task switch clears the local enables (SDM 3 section 17.2.4). */
void debug_clear_local(struct vcpu *v);

/* PKRU = val; drops what is cached of pages whose keys' rights change. */
void pkru_set(struct vcpu *v, u32 val);

/* POPF, PUSHF image, CLI, STI with VME and PVI rules. opsize 2, 4 or 8. */
bool popf(struct vcpu *v, u64 val, unsigned opsize);
bool pushf(struct vcpu *v, u64 *val, unsigned opsize);
bool cli(struct vcpu *v);
bool sti(struct vcpu *v); /* sets the shadow when IF goes from 0 to 1 */

/* May this CPL use the port? IOPL, then the TSS bitmap. #GP(0) when not. */
bool io_allowed(struct vcpu *v, u16 port, unsigned size);

bool invlpg(struct vcpu *v, unsigned sreg, u64 off);
bool invpcid(struct vcpu *v, u64 type, const u64 desc[2]);
