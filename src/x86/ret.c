/*
 * Far RET and IRET: back to the same or an outer level, to virtual-8086 mode, to a task.
 *
 * SDM volume 2 RET and IRET (order of checks and error codes), volume 3
 * sections 5.8.6, 6.12.1, 6.14.3 (IRET in 64-bit mode), 6.7.1 (NMIs), 20.2.7 and 20.3.3
 * (virtual-8086 mode, VME). Everything is read and checked before the first register
 * changes. Missing: CET. Thread: the owner of the vCPU.
 */
#include "x86/cpuid.h"
#include "x86/except.h"
#include "x86/far.h"
#include "x86/stack.h"

/* What every IRET may change. */
#define FLAGS_USER (RFLAGS_STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT)

/* Where a return goes. */
struct target {
	u16 cs_sel, ss_sel;
	u64 rip, rsp;
	struct desc cs, ss;
	bool load_ss; /* SS:RSP come from the stack */
	bool null_ss;
};

static unsigned target_cpl(const struct target *t)
{
	return t->cs_sel & 3;
}

static bool target_is_64bit(const struct vcpu *v, const struct target *t)
{
	return in_long_mode(v) && (t->cs.attr & SEG_L);
}

/* The return CS: read and checked. */
static bool check_cs(struct vcpu *v, struct target *t)
{
	u32 err = t->cs_sel & 0xfffc;
	unsigned rpl = t->cs_sel & 3;

	if (sel_is_null(t->cs_sel))
		return raise_gp0(v);
	if (!desc_read(v, t->cs_sel, false, VEC_GP, &t->cs))
		return false;
	if (!attr_is_code(t->cs.attr) || rpl < v->cpl)
		return raise_err(v, VEC_GP, err);
	if (in_long_mode(v) && (t->cs.attr & SEG_L) && (t->cs.attr & SEG_DB))
		return raise_err(v, VEC_GP, err);
	if (attr_is_conforming(t->cs.attr) ? attr_dpl(t->cs.attr) > rpl
					   : attr_dpl(t->cs.attr) != rpl)
		return raise_err(v, VEC_GP, err);
	if (!(t->cs.attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	return true;
}

/* The return SS. A 64-bit program above level 3 may have a null one. */
static bool check_ss(struct vcpu *v, struct target *t)
{
	unsigned cpl = target_cpl(t);

	t->null_ss = sel_is_null(t->ss_sel);
	if (!t->null_ss)
		return seg_check_stack(v, t->ss_sel, cpl, VEC_GP, &t->ss);
	if (!target_is_64bit(v, t) || cpl == 3 || (t->ss_sel & 3) != cpl)
		return raise_gp0(v);
	return true;
}

/* The rest of the checks that both returns share, and what they write to memory. */
static bool check_target(struct vcpu *v, struct target *t)
{
	if (t->load_ss && !check_ss(v, t))
		return false;
	/* Compatibility mode takes 32 bits of it, as SDM 2 says of JMP. AMD's processors
	 * compare all of it with the limit. */
	if (in_long_mode(v) && !(t->cs.attr & SEG_L) && !cpu_is_amd(v))
		t->rip = (u32)t->rip;
	if (!seg_check_rip(v, &t->cs, t->rip) || !desc_set_accessed(v, &t->cs))
		return false;
	return !t->load_ss || t->null_ss || desc_set_accessed(v, &t->ss);
}

/* The new RSP as the new stack segment takes it. */
static u64 target_rsp(const struct vcpu *v, const struct target *t)
{
	if (target_is_64bit(v, t))
		return t->rsp;
	if (t->ss.attr & SEG_DB)
		return (u32)t->rsp;
	/* Only SP is loaded: bits 31:16 are still those of the inner stack, as on all
	 * processors. */
	return (v->gpr[RSP] & 0xffff0000) | (t->rsp & 0xffff);
}

/* Cannot fail. 's' is the stack behind the frame. */
static void go(struct vcpu *v, const struct target *t, const struct stack *s)
{
	unsigned cpl = target_cpl(t);

	if (t->load_ss) {
		v->gpr[RSP] = target_rsp(v, t);
		v->seg[SS] = t->null_ss ? seg_null(t->ss_sel, cpl)
					: seg_make(t->ss_sel, &t->ss);
	} else {
		stack_commit(v, s);
	}
	if (cpl != v->cpl)
		seg_drop_inner(v, cpl);
	seg_enter(v, t->cs_sel, &t->cs, cpl, t->rip);
}

static bool pop_sel(struct vcpu *v, struct stack *s, unsigned size, u16 *sel)
{
	u64 val;

	if (!stack_pop(v, s, size, &val))
		return false;
	*sel = (u16)val;
	return true;
}

static bool ret_real(struct vcpu *v, struct stack *s, unsigned opsize, u16 pop)
{
	u64 rip;
	u16 cs;

	if (!stack_holds(v, s, 2, opsize) || !stack_pop(v, s, opsize, &rip) ||
	    !pop_sel(v, s, opsize, &cs) || !seg_check_rip_now(v, rip))
		return false;
	stack_skip(s, pop);
	stack_commit(v, s);
	v->rip = rip;
	seg_load_real(v, CS, cs);
	return true;
}

bool far_ret(struct vcpu *v, unsigned opsize, u16 pop)
{
	struct stack s = stack_current(v);
	struct target t = { 0 };

	if (in_real_or_v86(v))
		return ret_real(v, &s, opsize, pop);
	if (!stack_holds(v, &s, 2, opsize) || !stack_pop(v, &s, opsize, &t.rip) ||
	    !pop_sel(v, &s, opsize, &t.cs_sel) || !check_cs(v, &t))
		return false;
	stack_skip(&s, pop);
	if (target_cpl(&t) != v->cpl) {
		t.load_ss = true;
		if (!stack_holds(v, &s, 2, opsize) || !stack_pop(v, &s, opsize, &t.rsp) ||
		    !pop_sel(v, &s, opsize, &t.ss_sel))
			return false;
	}
	if (!check_target(v, &t))
		return false;
	/* The parameters are dropped from the outer stack too. */
	if (t.load_ss)
		t.rsp += pop;
	go(v, &t, &s);
	return true;
}

/* The first three items of every frame. */
static bool pop_frame(struct vcpu *v, struct stack *s, unsigned opsize, struct target *t,
		      u64 *flags)
{
	return stack_holds(v, s, 3, opsize) && stack_pop(v, s, opsize, &t->rip) &&
	       pop_sel(v, s, opsize, &t->cs_sel) && stack_pop(v, s, opsize, flags);
}

/* RFLAGS with the bits of 'mask' from the image. */
static void load_flags(struct vcpu *v, u64 image, u64 mask)
{
	rflags_set(v, (rflags_get(v) & ~mask) | (image & mask));
}

static bool iret_real(struct vcpu *v, unsigned opsize)
{
	u64 mask = FLAGS_USER | RFLAGS_IF | RFLAGS_IOPL, flags;
	struct stack s = stack_current(v);
	struct target t;

	if (!pop_frame(v, &s, opsize, &t, &flags) || !seg_check_rip_now(v, t.rip))
		return false;
	if (opsize > 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	stack_commit(v, &s);
	v->rip = t.rip;
	seg_load_real(v, CS, t.cs_sel);
	load_flags(v, flags, mask);
	return true;
}

/* Executed in virtual-8086 mode. */
static bool iret_v86(struct vcpu *v, unsigned opsize)
{
	bool vme = vcpu_iopl(v) < 3;
	struct stack s = stack_current(v);
	u64 mask = FLAGS_USER, flags;
	struct target t;

	if (vme && (opsize != 2 || !(v->cr4 & CR4_VME)))
		return raise_gp0(v);
	if (!pop_frame(v, &s, opsize, &t, &flags) || !seg_check_rip_now(v, t.rip))
		return false;
	if (vme) {
		if ((flags & RFLAGS_TF) ||
		    ((flags & RFLAGS_IF) && (v->flags & RFLAGS_VIP)))
			return raise_gp0(v);
		mask |= RFLAGS_VIF;
		if (flags & RFLAGS_IF)
			flags |= RFLAGS_VIF;
	} else {
		mask |= RFLAGS_IF;
		if (opsize > 2)
			mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	}
	stack_commit(v, &s);
	v->rip = t.rip;
	seg_load_real(v, CS, t.cs_sel);
	load_flags(v, flags, mask);
	return true;
}

/* From level 0 to virtual-8086 mode: six more items follow. */
static bool iret_to_v86(struct vcpu *v, struct stack *s, const struct target *t,
			u64 flags)
{
	static const u8 order[] = { SS, ES, DS, FS, GS };
	u16 sel[ARRAY_SIZE(order)];
	u64 esp;

	if (!stack_holds(v, s, 6, 4) || !stack_pop(v, s, 4, &esp))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		if (!pop_sel(v, s, 4, &sel[i]))
			return false;
	if (t->rip > 0xffff)
		return raise_gp0(v);
	v->cpl = 3;
	v->gpr[RSP] = (u32)esp;
	v->rip = t->rip;
	v->seg[CS] = seg_v86(t->cs_sel);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		v->seg[order[i]] = seg_v86(sel[i]);
	rflags_set(v, flags);
	for (unsigned i = ES; i <= GS; i++)
		seg_update_ok(v, i);
	vcpu_mode_changed(v);
	return true;
}

static bool iret_protected(struct vcpu *v, unsigned opsize)
{
	u64 mask = FLAGS_USER, flags;
	struct stack s = stack_current(v);
	struct target t = { 0 };

	if (!pop_frame(v, &s, opsize, &t, &flags))
		return false;
	if (opsize == 4 && (flags & RFLAGS_VM) && !v->cpl && !in_long_mode(v))
		return iret_to_v86(v, &s, &t, flags);
	/* In 64-bit mode SS:RSP are there always. */
	t.load_ss = in_64bit(v);
	if (t.load_ss &&
	    (!stack_holds(v, &s, 2, opsize) || !stack_pop(v, &s, opsize, &t.rsp) ||
	     !pop_sel(v, &s, opsize, &t.ss_sel)))
		return false;
	if (!check_cs(v, &t))
		return false;
	if (!t.load_ss && target_cpl(&t) != v->cpl) {
		t.load_ss = true;
		if (!stack_holds(v, &s, 2, opsize) || !stack_pop(v, &s, opsize, &t.rsp) ||
		    !pop_sel(v, &s, opsize, &t.ss_sel))
			return false;
	}
	if (!check_target(v, &t))
		return false;
	if (opsize > 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	/* By the privilege that executes IRET, not the one it returns to. */
	if (v->cpl <= vcpu_iopl(v))
		mask |= RFLAGS_IF;
	if (!v->cpl) {
		mask |= RFLAGS_IOPL;
		if (opsize > 2)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	load_flags(v, flags, mask);
	go(v, &t, &s);
	return true;
}

/* NT is set: back to the task whose selector is in the link field of the TSS. */
static bool iret_task(struct vcpu *v, u64 next)
{
	const struct seg *tr = &v->seg[TR];
	u64 link;

	if (tr->attr & SEG_UNUSABLE)
		return raise_err(v, VEC_TS, 0);
	if (!sys_read(v, (u32)tr->base, 2, &link))
		return false;
	switch (task_switch(v, (u16)link, TASK_IRET, next, rflags_get(v), false, 0)) {
	case TASK_REFUSED: return false;
	case TASK_FAULT: except_deliver(v); return true;
	default: return true;
	}
}

bool far_iret(struct vcpu *v, unsigned opsize, u64 next)
{
	/* Even when it faults (SDM 3 section 6.7.1). */
	v->nmi_blocked = 0;
	if (!in_protected(v))
		return iret_real(v, opsize);
	if (in_v86(v))
		return iret_v86(v, opsize);
	if (v->flags & RFLAGS_NT)
		return in_long_mode(v) ? raise_gp0(v) : iret_task(v, next);
	return iret_protected(v, opsize);
}
