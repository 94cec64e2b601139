/*
 * A virtual CPU: reset, and what is derived from its registers.
 *
 * SDM volume 3 section 10.1.1, table 10-1 (power-up, reset, INIT), section 8.4 (SIPI).
 * MSRs and the extended state have their reset values in msr.c and xsave.c. The APIC base
 * is the local APIC's. There is no BIST: EAX is 0. Thread: the owner of the vCPU, or any
 * while it is stopped.
 */
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/debugger.h"
#include "x86/msr.h"
#include "x86/seg.h"
#include "x86/xsave.h"

/* EDX after reset when there is no CPUID table: some family 6 processor. */
#define DEFAULT_SIGNATURE 0x000306c3

static u32 signature(const struct vcpu *v)
{
	u32 reg[4];

	if (!v->cpuid)
		return DEFAULT_SIGNATURE;
	cpuid_query(v, 1, 0, reg);
	return reg[0];
}

static void reset_segments(struct vcpu *v)
{
	const struct seg data = {
		.limit = 0xffff,
		.attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED,
	};

	for (unsigned i = 0; i < SREG_COUNT; i++)
		v->seg[i] = data;
	v->seg[CS].sel = 0xf000;
	v->seg[CS].base = 0xffff0000;
	v->seg[LDTR].attr = SEG_P | DESC_LDT;
	/*
	 * A busy 32-bit TSS: software may enter long mode without having loaded TR, which
	 * a 16-bit one would forbid.
	 */
	v->seg[TR].attr = SEG_P | DESC_TSS32_BUSY;
	v->gdtr = (struct dtr){ .limit = 0xffff };
	v->idtr = (struct dtr){ .limit = 0xffff };
}

void vcpu_reset(struct vcpu *v, bool init)
{
	u64 keep = init ? v->cr0 & (CR0_CD | CR0_NW) : CR0_CD | CR0_NW;

	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = 0;
	v->gpr[RDX] = signature(v);
	v->rip = 0xfff0;
	v->cc = 0;
	v->flags = RFLAGS_1;
	reset_segments(v);
	v->cr0 = CR0_ET | keep;
	v->cr2 = v->cr3 = v->cr4 = 0;
	v->efer = 0;
	for (unsigned i = 0; i < 8; i++)
		v->dr[i] = 0;
	v->dr[6] = DR6_FIXED;
	v->dr[7] = DR7_FIXED;
	for (unsigned i = 0; i < 4; i++)
		v->pdpte[i] = 0;
	v->cpl = 0;
	v->activity = ACT_RUNNING;
	v->shadow = 0;
	v->nmi_blocked = 0;
	v->pending_db = 0;
	v->shutdown = false;
	v->halt_req = 0;
	if (!init) {
		/* What is live in host registers must not come back over the reset state.
		 */
		vcpu_park(v);
		v->xcr0 = XCR0_X87;
		v->sipi_vector = 0;
		xsave_reset(v);
	}
	msr_reset(v, init);
	vcpu_sync(v);
}

void vcpu_sipi(struct vcpu *v, u8 vector)
{
	v->sipi_vector = vector;
	v->seg[CS].sel = (u16)(vector << 8);
	v->seg[CS].base = (u64)vector << 12;
	v->rip = 0;
	v->activity = ACT_RUNNING;
	seg_changed(v, CS);
}

void vcpu_sync(struct vcpu *v)
{
	v->reg_zero = 0;
	if (!v->phys_bits)
		v->phys_bits = 40;
	v->phys_reserved = v->phys_bits < 52 ? BITS(51, v->phys_bits) : 0;
	msr_sync(v);
	vcpu_paging_changed(v);
	for (unsigned i = 0; i < SREG_COUNT; i++)
		seg_update_ok(v, i);
	vcpu_mode_changed(v);
	tlb_flush_all(v);
}

void vcpu_paging_changed(struct vcpu *v)
{
	v->paging = (u8)paging_mode(v);
	v->la57 = in_long_mode(v) && (v->cr4 & CR4_LA57);
}

void vcpu_mode_changed(struct vcpu *v)
{
	u32 cs = v->seg[CS].attr;

	if (in_long_mode(v) && (cs & SEG_L))
		v->code_size = 8;
	else
		v->code_size = cs & SEG_DB ? 4 : 2;
	if (v->code_size == 8)
		v->stack_size = 8;
	else
		v->stack_size = v->seg[SS].attr & SEG_DB ? 4 : 2;
	if (v->cpl == 3)
		v->mmu_idx = MMU_USER;
	else
		v->mmu_idx = (v->flags & RFLAGS_AC) && (v->cr4 & CR4_SMAP) ? MMU_KERNEL_AC
									   : MMU_KERNEL;
	v->ac_check = v->cpl == 3 && (v->flags & RFLAGS_AC) && (v->cr0 & CR0_AM);
	/* The trap of a data or I/O breakpoint comes right behind the instruction. */
	v->step_check = (v->flags & (RFLAGS_TF | RFLAGS_RF)) || (v->dr[7] & 0xff) ||
			debugger_steps(v);
}

void rflags_set(struct vcpu *v, u64 rflags)
{
	u64 old = v->flags;

	v->cc = rflags & RFLAGS_STATUS;
	v->flags = (rflags & (RFLAGS_ALL & ~RFLAGS_STATUS)) | RFLAGS_1;
	if ((old ^ v->flags) & (RFLAGS_TF | RFLAGS_RF | RFLAGS_AC | RFLAGS_VM))
		vcpu_mode_changed(v);
	/* What a segment allows, and what a load of it is, depends on VM; SYSENTER and
	 * SYSCALL leave virtual-8086 mode and load CS and SS alone. */
	if ((old ^ v->flags) & RFLAGS_VM)
		for (unsigned i = ES; i <= GS; i++)
			seg_update_ok(v, i);
}
