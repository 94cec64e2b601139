/*
 * Instructions on RFLAGS whose effect depends on privilege, and the I/O permission check.
 *
 * SDM volume 2 POPF, PUSHF, CLI, STI, IN; volume 3 sections 20.2.7, 20.3.3, 20.4 (VME and
 * PVI); volume 1 section 19.5 (I/O privilege).
 * Thread: the owner of the vCPU.
 */
#include "x86/access.h"
#include "x86/cr.h"
#include "x86/seg.h"

/* What every program may change. */
#define FLAGS_USER (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)

/* POPF of 16 bits in v8086 mode with VME and IOPL below 3: IF is VIF. */
static bool popf_vme(struct vcpu *v, u64 val)
{
	u64 old = rflags_get(v);
	u64 mask = FLAGS_USER | RFLAGS_VIF;

	if ((val & RFLAGS_TF) || ((val & RFLAGS_IF) && (old & RFLAGS_VIP)))
		return raise_gp0(v);
	val &= 0xffff;
	if (val & RFLAGS_IF)
		val |= RFLAGS_VIF;
	rflags_set(v, (old & ~mask) | (val & mask));
	return true;
}

bool popf(struct vcpu *v, u64 val, unsigned opsize)
{
	u64 mask = FLAGS_USER;
	u64 old = rflags_get(v);

	if (in_v86(v) && vcpu_iopl(v) < 3) {
		if (opsize == 2 && (v->cr4 & CR4_VME))
			return popf_vme(v, val);
		return raise_gp0(v);
	}
	if (v->cpl <= vcpu_iopl(v))
		mask |= RFLAGS_IF;
	if (!v->cpl)
		mask |= RFLAGS_IOPL;
	if (opsize > 2) {
		mask |= RFLAGS_AC | RFLAGS_ID;
		old &= ~(u64)RFLAGS_RF;
	}
	rflags_set(v, (old & ~mask) | (val & mask));
	return true;
}

bool pushf(struct vcpu *v, u64 *val, unsigned opsize)
{
	u64 f = rflags_get(v) & ~(u64)(RFLAGS_VM | RFLAGS_RF);

	if (in_v86(v) && vcpu_iopl(v) < 3) {
		if (opsize != 2 || !(v->cr4 & CR4_VME))
			return raise_gp0(v);
		f |= RFLAGS_IOPL;
		f = f & RFLAGS_VIF ? f | RFLAGS_IF : f & ~(u64)RFLAGS_IF;
	}
	*val = f & size_mask(opsize);
	return true;
}

enum if_access { IF_REAL, IF_VIRTUAL, IF_DENIED };

/* Does CLI or STI act on IF, on VIF, or not at all? SDM 2, tables of CLI and STI. */
static enum if_access if_access(const struct vcpu *v)
{
	/* In real mode CPL is 0. */
	if (v->cpl <= vcpu_iopl(v))
		return IF_REAL;
	if (v->cpl == 3 && (v->cr4 & (in_v86(v) ? CR4_VME : CR4_PVI)))
		return IF_VIRTUAL;
	return IF_DENIED;
}

bool cli(struct vcpu *v)
{
	switch (if_access(v)) {
	case IF_REAL: v->flags &= ~(u64)RFLAGS_IF; return true;
	case IF_VIRTUAL: v->flags &= ~(u64)RFLAGS_VIF; return true;
	default: return raise_gp0(v);
	}
}

bool sti(struct vcpu *v)
{
	switch (if_access(v)) {
	case IF_REAL:
		if (!(v->flags & RFLAGS_IF))
			v->shadow |= SHADOW_STI;
		v->flags |= RFLAGS_IF;
		return true;
	case IF_VIRTUAL:
		if (v->flags & RFLAGS_VIP)
			return raise_gp0(v);
		v->flags |= RFLAGS_VIF;
		return true;
	default: return raise_gp0(v);
	}
}

bool io_allowed(struct vcpu *v, u16 port, unsigned size)
{
	const struct seg *tr = &v->seg[TR];
	u64 map, bits;
	u32 off;

	if (!in_protected(v) || (!in_v86(v) && v->cpl <= vcpu_iopl(v)))
		return true;
	/* Only a 32-bit or 64-bit TSS has a map. */
	if ((tr->attr & SEG_UNUSABLE) ||
	    (tr->attr & (SEG_S | SEG_TYPE_MASK)) != DESC_TSS32_BUSY || tr->limit < 0x67)
		return raise_gp0(v);
	if (!sys_read(v, lin_wrap(v, tr->base + 0x66), 2, &map))
		return false;
	/* Two bytes are read always, as the bits of a port range may straddle them. */
	off = (u32)map + port / 8;
	if (off + 1 > tr->limit)
		return raise_gp0(v);
	if (!sys_read(v, lin_wrap(v, tr->base + off), 2, &bits))
		return false;
	if (bits >> (port & 7) & ((1u << size) - 1))
		return raise_gp0(v);
	return true;
}
