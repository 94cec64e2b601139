/*
 * Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT.
 *
 * SDM volume 2, volume 3 section 5.8.7 and 5.8.8; APM volume 3 for a CPU whose vendor is
 * AMD: there SYSCALL and SYSRET also work in compatibility and legacy mode, SYSENTER and
 * SYSEXIT do not in long mode, and SYSRET does not check RCX. Segments are flat whatever
 * the tables say. Missing: CET. Thread: the owner of the vCPU.
 */
#include "x86/cpuid.h"
#include "x86/far.h"
#include "x86/msr.h"
#include "x86/seg.h"

#define FLAT_LIMIT 0xffffffff
#define FLAT_CODE  (SEG_G | SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED)
#define FLAT_DATA  (SEG_G | SEG_DB | SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED)

static bool is_amd(const struct vcpu *v)
{
	return v->cpuid && cpu_is_amd(v);
}

/* Flat CS and SS of level 'cpl' and what follows from them. SS is 8 above 'cs', or where
 * said. */
static void enter_flat(struct vcpu *v, unsigned cs, unsigned ss, unsigned cpl,
		       bool long64, u64 rip)
{
	u32 dpl = cpl << SEG_DPL_SHIFT;

	seg_replace(v, SS,
		    (struct seg){ .limit = FLAT_LIMIT,
				  .attr = FLAT_DATA | dpl,
				  .sel = (u16)ss });
	seg_replace(v, CS,
		    (struct seg){ .limit = FLAT_LIMIT,
				  .attr = FLAT_CODE | dpl | (long64 ? SEG_L : SEG_DB),
				  .sel = (u16)cs });
	v->cpl = (u8)cpl;
	v->rip = long64 ? rip : (u32)rip;
	vcpu_mode_changed(v);
}

bool sys_syscall(struct vcpu *v, u64 next)
{
	u64 star = v->msr[MSRI_STAR];
	unsigned cs = bits_get(star, 47, 32) & 0xfffc;

	if (!(v->efer & EFER_SCE) || !in_protected(v) || (!in_64bit(v) && !is_amd(v)))
		return raise_ud(v);
	v->gpr[RCX] = next;
	if (!in_long_mode(v)) {
		rflags_set(v, rflags_get(v) & ~(u64)(RFLAGS_IF | RFLAGS_VM | RFLAGS_RF));
		enter_flat(v, cs, cs + 8, 0, false, (u32)star);
		return true;
	}
	v->gpr[R11] = rflags_get(v);
	rflags_set(v, rflags_get(v) & ~v->msr[MSRI_SFMASK] & ~(u64)RFLAGS_RF);
	enter_flat(v, cs, cs + 8, 0, true, v->msr[in_64bit(v) ? MSRI_LSTAR : MSRI_CSTAR]);
	return true;
}

bool sys_sysret(struct vcpu *v, unsigned opsize)
{
	unsigned sel = bits_get(v->msr[MSRI_STAR], 63, 48);
	bool long64 = opsize == 8;

	if (!(v->efer & EFER_SCE) || !in_protected(v) || (!in_64bit(v) && !is_amd(v)))
		return raise_ud(v);
	if (v->cpl || in_v86(v))
		return raise_gp0(v);
	if (long64 && !is_amd(v) && !is_canonical(v, v->gpr[RCX]))
		return raise_gp0(v);
	if (in_long_mode(v))
		rflags_set(v, v->gpr[R11] & (RFLAGS_ALL & ~(u64)(RFLAGS_RF | RFLAGS_VM)));
	else
		v->flags |= RFLAGS_IF;
	enter_flat(v, (sel + (long64 ? 16 : 0)) | 3, (sel + 8) | 3, 3, long64,
		   v->gpr[RCX]);
	return true;
}

bool sys_sysenter(struct vcpu *v)
{
	unsigned cs = v->msr[MSRI_SYSENTER_CS] & 0xfffc;
	bool long64 = in_long_mode(v);
	u64 rsp = v->msr[MSRI_SYSENTER_ESP];

	if (long64 && is_amd(v))
		return raise_ud(v);
	if (!in_protected(v) || !cs)
		return raise_gp0(v);
	rflags_set(v, rflags_get(v) & ~(u64)(RFLAGS_VM | RFLAGS_IF));
	v->gpr[RSP] = long64 ? rsp : (u32)rsp;
	enter_flat(v, cs, cs + 8, 0, long64, v->msr[MSRI_SYSENTER_EIP]);
	return true;
}

bool sys_sysexit(struct vcpu *v, unsigned opsize)
{
	unsigned sel = v->msr[MSRI_SYSENTER_CS] & 0xfffc;
	bool long64 = opsize == 8;

	if (in_long_mode(v) && is_amd(v))
		return v->cpl ? raise_gp0(v) : raise_ud(v);
	if (!in_protected(v) || !sel || v->cpl)
		return raise_gp0(v);
	if (long64 && (!is_canonical(v, v->gpr[RDX]) || !is_canonical(v, v->gpr[RCX])))
		return raise_gp0(v);
	v->gpr[RSP] = long64 ? v->gpr[RCX] : (u32)v->gpr[RCX];
	sel += long64 ? 32 : 16;
	enter_flat(v, sel | 3, (sel + 8) | 3, 3, long64, v->gpr[RDX]);
	return true;
}
