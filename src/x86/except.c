/*
 * Exceptions and interrupts: raising, delivery in every mode, double and triple faults.
 *
 * SDM volume 3 sections 6.12 (delivery), 6.13 (error codes), 6.14 (64-bit mode), table
 * 6-5 (double faults), 17.2.3 and 17.3.1 (DR6, DR7.GD, RF), 20.1.4, 20.2 and 20.3.3 (real
 * and virtual-8086 mode, VME); the order of checks is that of INT n in SDM volume 2.
 *
 * deliver() does one event: checks, pushes, and then commits in one place, so a
 * fault on the way leaves the old state. deliver_all() goes on with what was raised.
 * Missing: CET shadow stacks, FRED.
 * Thread: the owner of the vCPU.
 */
#include "x86/except.h"

#include "x86/cr.h"
#include "x86/far.h"
#include "x86/msr.h"
#include "x86/stack.h"

/* Error code bits. SDM 3 figure 6-7. */
#define ERR_EXT 1u
#define ERR_IDT 2u

/*
 * Serial benign faults (#AC on the push of an #AC frame at CPL 3) hang a real CPU until
 * an NMI; ours gives up.
 */
#define MAX_NESTED 16

struct event {
	u8 vector;
	bool exception; /* takes part in the double-fault rules */
	bool has_error;
	bool soft;     /* gate DPL is checked */
	bool ext;      /* EXT bit of error codes raised on the way */
	bool switched; /* out: a task gate led to a new task */
	u32 error;
	u64 rip;    /* to push */
	u64 rflags; /* to push */
};

bool raise_vec(struct vcpu *v, enum vector vector)
{
	v->fault = (struct fault){ .vector = (u8)vector };
	return false;
}

bool raise_err(struct vcpu *v, enum vector vector, u32 error)
{
	v->fault =
		(struct fault){ .vector = (u8)vector, .has_error = true, .error = error };
	return false;
}

bool raise_ud(struct vcpu *v)
{
	return raise_vec(v, VEC_UD);
}

bool raise_db(struct vcpu *v, u64 dr6, bool trap)
{
	v->fault = (struct fault){ .vector = VEC_DB, .trap = trap, .dr6 = dr6 };
	return false;
}

/* The end of every delivery but a task switch: flags, and what an event resets. */
static void commit(struct vcpu *v, u64 clear_flags, unsigned cpl)
{
	v->cpl = (u8)cpl;
	v->flags &= ~clear_flags;
	seg_update_ok(v, CS);
	seg_update_ok(v, SS);
	vcpu_mode_changed(v);
}

static bool deliver_real(struct vcpu *v, const struct event *e)
{
	struct stack s = stack_current(v);
	u64 entry;

	if (e->vector * 4u + 3 > v->idtr.limit)
		return raise_err(v, VEC_GP, e->vector * 8u + ERR_IDT);
	if (!sys_read(v, (u32)(v->idtr.base + e->vector * 4u), 4, &entry) ||
	    !stack_room(v, &s, 3, 2) || !stack_push(v, &s, 2, e->rflags) ||
	    !stack_push(v, &s, 2, v->seg[CS].sel) || !stack_push(v, &s, 2, e->rip))
		return false;
	stack_commit(v, &s);
	v->seg[CS] = seg_real((u16)(entry >> 16), &v->seg[CS]);
	v->rip = entry & 0xffff;
	commit(v, RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF, 0);
	return true;
}

/* A gate of the IDT, decoded. */
struct gate {
	u64 off;
	u16 sel;
	u8 type; /* DESC_* */
	u8 ist;
};

/* Read and check the gate of a vector: 8 bytes, or 16 in long mode. */
static bool gate_read(struct vcpu *v, const struct event *e, struct gate *g)
{
	unsigned size = in_long_mode(v) ? 16 : 8;
	u32 err = e->vector * 8u + ERR_IDT, off = e->vector * size, types;
	u64 lo, hi = 0;
	u32 attr;

	if (off + size - 1 > v->idtr.limit)
		return raise_err(v, VEC_GP, err);
	if (!sys_read(v, lin_wrap(v, v->idtr.base + off), 8, &lo))
		return false;
	if (size == 16 && !sys_read(v, v->idtr.base + off + 8, 8, &hi))
		return false;
	attr = (u32)(lo >> 40) & 0xff;
	types = BIT(DESC_INT32) | BIT(DESC_TRAP32);
	if (size == 8)
		types |= BIT(DESC_INT16) | BIT(DESC_TRAP16) | BIT(DESC_TASK_GATE);
	/* With the S bit the number is above 15. */
	if (!(types >> (attr & (SEG_S | SEG_TYPE_MASK)) & 1))
		return raise_err(v, VEC_GP, err);
	if (e->soft && attr_dpl(attr) < v->cpl)
		return raise_err(v, VEC_GP, err);
	if (!(attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	g->type = attr & SEG_TYPE_MASK;
	g->sel = (u16)(lo >> 16);
	g->off = bits_get(lo, 15, 0) | bits_get(lo, 63, 48) << 16 | hi << 32;
	g->ist = (u8)bits_get(lo, 34, 32);
	if (g->type == DESC_INT16 || g->type == DESC_TRAP16)
		g->off &= 0xffff;
	return true;
}

/* The code segment of a gate, and the privilege it gives. */
static bool gate_code(struct vcpu *v, const struct gate *g, struct desc *cs,
		      unsigned *cpl)
{
	u32 err = g->sel & 0xfffc;

	if (sel_is_null(g->sel))
		return raise_gp0(v);
	if (!desc_read(v, g->sel, false, VEC_GP, cs))
		return false;
	if (!attr_is_code(cs->attr) || attr_dpl(cs->attr) > v->cpl)
		return raise_err(v, VEC_GP, err);
	if (in_long_mode(v) && (cs->attr & (SEG_L | SEG_DB)) != SEG_L)
		return raise_err(v, VEC_GP, err);
	if (!(cs->attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	*cpl = attr_is_conforming(cs->attr) ? v->cpl : attr_dpl(cs->attr);
	if (in_v86(v) && *cpl)
		return raise_err(v, VEC_GP, err);
	return true;
}

static u64 gate_clears(const struct gate *g)
{
	u64 clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF;

	return g->type == DESC_INT32 || g->type == DESC_INT16 ? clear | RFLAGS_IF : clear;
}

static bool deliver_long(struct vcpu *v, const struct event *e)
{
	struct stack s;
	struct gate g;
	struct desc cs;
	unsigned cpl;
	/* Compatibility mode has 32 bits of it, whatever the upper half still holds. */
	u64 old_rsp = in_64bit(v) ? v->gpr[RSP] : (u32)v->gpr[RSP];
	u64 rsp = v->gpr[RSP];

	if (!gate_read(v, e, &g) || !gate_code(v, &g, &cs, &cpl))
		return false;
	if (g.ist) {
		if (!tss_read_rsp(v, g.ist * 8u + 28, &rsp))
			return false;
	} else if (cpl < v->cpl) {
		if (!tss_read_rsp(v, cpl * 8 + 4, &rsp))
			return false;
	}
	s = stack_long(v, rsp & ~UINT64_C(15), cpl);
	if (!stack_room(v, &s, e->has_error ? 6 : 5, 8))
		return false;
	if (!is_canonical(v, g.off))
		return raise_gp0(v);
	if (!desc_set_accessed(v, &cs) || !stack_push(v, &s, 8, v->seg[SS].sel) ||
	    !stack_push(v, &s, 8, old_rsp) || !stack_push(v, &s, 8, e->rflags) ||
	    !stack_push(v, &s, 8, v->seg[CS].sel) || !stack_push(v, &s, 8, e->rip) ||
	    (e->has_error && !stack_push(v, &s, 8, e->error)))
		return false;
	stack_commit(v, &s);
	v->seg[CS] = seg_make((g.sel & 0xfffc) | (u16)cpl, &cs);
	if (cpl != v->cpl)
		v->seg[SS] = seg_null((u16)cpl, cpl);
	v->rip = g.off;
	commit(v, gate_clears(&g), cpl);
	return true;
}

/* The segment registers that a frame from virtual-8086 mode holds, in order of pushing.
 */
static const u8 v86_segments[] = { GS, FS, DS, ES };

static bool push_legacy(struct vcpu *v, const struct event *e, struct stack *s,
			unsigned size, bool inner)
{
	if (in_v86(v))
		for (unsigned i = 0; i < ARRAY_SIZE(v86_segments); i++)
			if (!stack_push(v, s, size, v->seg[v86_segments[i]].sel))
				return false;
	if (inner && (!stack_push(v, s, size, v->seg[SS].sel) ||
		      !stack_push(v, s, size, v->gpr[RSP])))
		return false;
	return stack_push(v, s, size, e->rflags) &&
	       stack_push(v, s, size, v->seg[CS].sel) && stack_push(v, s, size, e->rip) &&
	       (!e->has_error || stack_push(v, s, size, e->error));
}

/* A 16-bit or 32-bit interrupt or trap gate. */
static bool deliver_gate(struct vcpu *v, const struct event *e, const struct gate *g)
{
	unsigned size = g->type == DESC_INT32 || g->type == DESC_TRAP32 ? 4 : 2;
	unsigned items = e->has_error ? 4 : 3, cpl;
	struct stack s = stack_current(v);
	struct desc cs, ss;
	bool inner;

	if (!gate_code(v, g, &cs, &cpl))
		return false;
	inner = cpl < v->cpl;
	if (inner) {
		if (!stack_inner(v, cpl, &s, &ss))
			return false;
		items += in_v86(v) ? 6 : 2;
	}
	if (!stack_room(v, &s, items, size))
		return false;
	if (g->off > cs.limit)
		return raise_gp0(v);
	if (!desc_set_accessed(v, &cs) || (inner && !desc_set_accessed(v, &ss)) ||
	    !push_legacy(v, e, &s, size, inner))
		return false;
	stack_commit(v, &s);
	v->seg[CS] = seg_make((g->sel & 0xfffc) | (u16)cpl, &cs);
	if (inner)
		v->seg[SS] = seg_make(s.ss.sel, &ss);
	v->rip = g->off;
	if (in_v86(v)) {
		for (unsigned i = 0; i < ARRAY_SIZE(v86_segments); i++) {
			v->seg[v86_segments[i]] = seg_null(0, 0);
			seg_update_ok(v, v86_segments[i]);
		}
		/* The types of segments count again. */
		v->flags &= ~(u64)RFLAGS_VM;
	}
	commit(v, gate_clears(g), cpl);
	return true;
}

static bool deliver_task(struct vcpu *v, struct event *e, const struct gate *g)
{
	switch (task_switch(v, g->sel, TASK_GATE, e->rip, e->rflags, e->has_error,
			    e->error)) {
	case TASK_OK: return true;
	case TASK_FAULT: e->switched = true; return false;
	default: return false;
	}
}

/* One event. False: v->fault says why, and nothing has changed unless e->switched. */
static bool deliver(struct vcpu *v, struct event *e)
{
	struct gate g;
	bool ok;

	e->switched = false;
	if (!in_protected(v))
		ok = deliver_real(v, e);
	else if (in_long_mode(v))
		ok = deliver_long(v, e);
	else if (!gate_read(v, e, &g))
		ok = false;
	else if (g.type == DESC_TASK_GATE)
		ok = deliver_task(v, e, &g);
	else
		ok = deliver_gate(v, e, &g);
	if (ok) {
		v->shadow = 0;
		if (v->activity == ACT_HLT)
			v->activity = ACT_RUNNING;
	} else if (e->ext && v->fault.vector >= VEC_TS && v->fault.vector <= VEC_GP) {
		v->fault.error |= ERR_EXT;
	}
	return ok;
}

/* DR7.GD and, of IA32_DEBUGCTL, LBR and BTF go off when a debug exception is taken. */
static void debug_taken(struct vcpu *v)
{
	v->dr[7] &= ~DR7_GD;
	v->msr[MSRI_DEBUGCTL] &= ~(DEBUGCTL_LBR | DEBUGCTL_BTF);
}

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class class_of(unsigned vector)
{
	switch (vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
	case VEC_CP: return CONTRIBUTORY;
	case VEC_PF:
	case VEC_VE: return PAGE_FAULT;
	case VEC_DF: return DOUBLE_FAULT;
	default: return BENIGN;
	}
}

/* Instruction breakpoints are faults that push RF as it is; #BP and #OF come here only as
 * 'soft'. */
static bool pushes_rf(const struct fault *f)
{
	switch (f->vector) {
	case VEC_DB: return !f->trap && (f->dr6 & DR6_BD);
	case VEC_NMI:
	case VEC_BP:
	case VEC_OF:
	case VEC_DF:
	case VEC_MC: return false;
	default: return !f->soft && !f->trap;
	}
}

/* v->fault becomes an event; the registers that tell about it are set at once. */
static struct event event_of_fault(struct vcpu *v)
{
	const struct fault *f = &v->fault;
	struct event e = { .vector = f->vector,
			   .exception = !f->soft,
			   .has_error = f->has_error && in_protected(v),
			   .soft = f->soft,
			   .ext = !f->soft,
			   .error = f->error,
			   .rip = v->rip,
			   .rflags = rflags_get(v) };

	if (pushes_rf(f))
		e.rflags |= RFLAGS_RF;
	if (f->vector == VEC_PF)
		v->cr2 = f->cr2;
	if (f->vector == VEC_DB && f->dr6)
		v->dr[6] = (v->dr[6] & ~BITS(3, 0)) | (f->dr6 & DR6_WRITABLE);
	return e;
}

static struct event double_fault(const struct vcpu *v)
{
	return (struct event){ .vector = VEC_DF,
			       .exception = true,
			       .has_error = in_protected(v),
			       .ext = true,
			       .rip = v->rip,
			       .rflags = rflags_get(v) };
}

static bool shut_down(struct vcpu *v)
{
	v->activity = ACT_SHUTDOWN;
	v->shutdown = true;
	return false;
}

/* Table 6-5: what follows when v->fault was raised while 'e' was delivered. False:
 * shutdown. */
static bool next_event(struct vcpu *v, struct event *e)
{
	enum fault_class first = e->exception ? class_of(e->vector) : BENIGN;
	enum fault_class second = class_of(v->fault.vector);
	struct event n = event_of_fault(v);

	if (first == DOUBLE_FAULT && second != BENIGN)
		return false;
	if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
	    (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT)))
		n = double_fault(v);
	*e = n;
	return true;
}

static bool deliver_all(struct vcpu *v, struct event *e)
{
	for (unsigned i = 0; i < MAX_NESTED; i++) {
		if (deliver(v, e)) {
			if (e->exception && e->vector == VEC_DB)
				debug_taken(v);
			return true;
		}
		if (!next_event(v, e))
			break;
	}
	return shut_down(v);
}

bool except_deliver(struct vcpu *v)
{
	struct event e = event_of_fault(v);

	return deliver_all(v, &e);
}

bool except_interrupt(struct vcpu *v, u8 vector)
{
	struct event e = {
		.vector = vector, .ext = true, .rip = v->rip, .rflags = rflags_get(v)
	};

	return deliver_all(v, &e);
}

bool except_nmi(struct vcpu *v)
{
	/* Blocked from now on, and also when the delivery faults (SDM 3 section 6.7.1).
	 */
	v->nmi_blocked = 1;
	return except_interrupt(v, VEC_NMI);
}

/* Does the TSS send this INT n to the 8086 program's own handler? SDM 3 section 20.3.3.
 */
static bool vme_redirects(struct vcpu *v, u8 vector, bool *redirect)
{
	const struct seg *tr = &v->seg[TR];
	u64 map, bits;
	u32 off;

	if ((tr->attr & SEG_UNUSABLE) ||
	    (tr->attr & (SEG_S | SEG_TYPE_MASK)) != DESC_TSS32_BUSY || tr->limit < 0x67)
		return raise_gp0(v);
	if (!sys_read(v, (u32)(tr->base + 0x66), 2, &map))
		return false;
	/* The 32 bytes below the I/O map. */
	off = (u32)map - 32 + vector / 8;
	if (off > tr->limit)
		return raise_gp0(v);
	if (!sys_read(v, (u32)(tr->base + off), 1, &bits))
		return false;
	*redirect = !(bits >> (vector & 7) & 1);
	return true;
}

/* INT n through the IVT at linear address 0, in virtual-8086 mode (methods 5 and 6). */
static bool deliver_vme(struct vcpu *v, u8 vector, u64 next)
{
	u64 flags = rflags_get(v), entry, clear = RFLAGS_TF | RFLAGS_RF;
	struct stack s = stack_current(v);

	if (vcpu_iopl(v) == 3) {
		clear |= RFLAGS_IF;
	} else {
		clear |= RFLAGS_VIF;
		flags |= RFLAGS_IOPL;
		flags = flags & RFLAGS_VIF ? flags | RFLAGS_IF : flags & ~(u64)RFLAGS_IF;
	}
	if (!sys_read(v, vector * 4u, 4, &entry) || !stack_room(v, &s, 3, 2) ||
	    !stack_push(v, &s, 2, flags) || !stack_push(v, &s, 2, v->seg[CS].sel) ||
	    !stack_push(v, &s, 2, next))
		return false;
	stack_commit(v, &s);
	v->seg[CS] = seg_v86((u16)(entry >> 16));
	v->rip = entry & 0xffff;
	v->shadow = 0;
	commit(v, clear, 3);
	return true;
}

bool except_soft_int(struct vcpu *v, u8 vector, enum soft_kind kind, u64 next)
{
	struct event e = { .vector = vector,
			   .soft = kind != SOFT_INT1,
			   .ext = kind == SOFT_INT1,
			   .rip = next,
			   .rflags = rflags_get(v) };

	if (in_v86(v) && kind == SOFT_INT_N) {
		if (v->cr4 & CR4_VME) {
			bool redirect;

			if (!vme_redirects(v, vector, &redirect))
				return false;
			if (redirect)
				return deliver_vme(v, vector, next);
		}
		if (vcpu_iopl(v) < 3)
			return raise_gp0(v);
	}
	if (deliver(v, &e)) {
		if (kind == SOFT_INT1)
			debug_taken(v);
		return true;
	}
	if (!e.switched)
		return false;
	/* The new task's fault: shutdown shows in v->activity. */
	except_deliver(v);
	return true;
}
