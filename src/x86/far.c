/*
 * Far JMP and CALL: to code segments, through call gates, to tasks.
 *
 * SDM volume 2 JMP and CALL (order of checks and error codes), volume 3 sections 5.8
 * (call gates, stack switching, parameters), 5.8.3.1 (64-bit call gates), 7.3 (tasks).
 * Everything is checked and pushed before the first register changes. Missing: CET.
 * Thread: the owner of the vCPU.
 */
#include "x86/far.h"

#include "x86/except.h"
#include "x86/stack.h"

struct call_gate {
	u64 off;
	u16 sel;
	u8 size;   /* of what is pushed: 2, 4, 8 */
	u8 params; /* items of 'size' to copy */
};

/* Run a task switch; what faults in the new task is delivered there. */
static bool to_task(struct vcpu *v, u16 sel, enum task_reason why, u64 next)
{
	switch (task_switch(v, sel, why, next, rflags_get(v), false, 0)) {
	case TASK_REFUSED: return false;
	case TASK_FAULT: except_deliver(v); return true;
	default: return true;
	}
}

static bool is_dpl_ok(const struct vcpu *v, u16 sel, const struct desc *d)
{
	return attr_dpl(d->attr) >= MAX(v->cpl, sel & 3u);
}

/* JMP or CALL straight to a code segment: no change of privilege. */
static bool check_code(struct vcpu *v, u16 sel, const struct desc *d)
{
	unsigned dpl = attr_dpl(d->attr);
	u32 err = sel & 0xfffc;

	if (in_long_mode(v) && (d->attr & SEG_L) && (d->attr & SEG_DB))
		return raise_err(v, VEC_GP, err);
	if (attr_is_conforming(d->attr)) {
		if (dpl > v->cpl)
			return raise_err(v, VEC_GP, err);
	} else if ((sel & 3) > v->cpl || dpl != v->cpl) {
		return raise_err(v, VEC_GP, err);
	}
	if (!(d->attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	return true;
}

/*
 * Read the call gate in *d and the descriptor of the code segment it names. 'call': a
 * more privileged one is allowed.
 */
static bool gate_open(struct vcpu *v, u16 sel, struct desc *d, bool call,
		      struct call_gate *g, struct desc *cs)
{
	bool wide = in_long_mode(v);
	u32 err;

	if (!is_dpl_ok(v, sel, d))
		return raise_err(v, VEC_GP, sel & 0xfffc);
	if (wide) {
		if (!desc_read_high(v, sel, VEC_GP, d))
			return false;
		if (bits_get(d->raw_hi, 44, 40))
			return raise_err(v, VEC_GP, sel & 0xfffc);
	}
	if (!(d->attr & SEG_P))
		return raise_err(v, VEC_NP, sel & 0xfffc);
	g->sel = (u16)(d->raw >> 16);
	g->off = bits_get(d->raw, 15, 0) | bits_get(d->raw, 63, 48) << 16 |
		 d->raw_hi << 32;
	g->params = (u8)bits_get(d->raw, 36, 32);
	g->size = wide ? 8 : 4;
	if (wide) {
		g->params = 0;
	} else if ((d->attr & SEG_TYPE_MASK) == DESC_CALL16) {
		g->size = 2;
		g->off &= 0xffff;
	}
	err = g->sel & 0xfffc;
	if (sel_is_null(g->sel))
		return raise_gp0(v);
	if (!desc_read(v, g->sel, false, VEC_GP, cs))
		return false;
	if (!attr_is_code(cs->attr) || attr_dpl(cs->attr) > v->cpl)
		return raise_err(v, VEC_GP, err);
	if (!call && !attr_is_conforming(cs->attr) && attr_dpl(cs->attr) != v->cpl)
		return raise_err(v, VEC_GP, err);
	if (wide && (cs->attr & (SEG_L | SEG_DB)) != SEG_L)
		return raise_err(v, VEC_GP, err);
	if (!(cs->attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	return true;
}

static bool jmp_gate(struct vcpu *v, u16 sel, struct desc *d)
{
	struct call_gate g;
	struct desc cs;

	if (!gate_open(v, sel, d, false, &g, &cs) || !seg_check_rip(v, &cs, g.off) ||
	    !desc_set_accessed(v, &cs))
		return false;
	seg_enter(v, g.sel, &cs, v->cpl, g.off);
	return true;
}

/* CALL through a gate without change of privilege: on the current stack. */
static bool call_gate_same(struct vcpu *v, const struct call_gate *g, struct desc *cs,
			   u64 next)
{
	struct stack s =
		g->size == 8 ? stack_long(v, v->gpr[RSP], v->cpl) : stack_current(v);

	if (!stack_room(v, &s, 2, g->size) || !seg_check_rip(v, cs, g->off) ||
	    !desc_set_accessed(v, cs) || !stack_push(v, &s, g->size, v->seg[CS].sel) ||
	    !stack_push(v, &s, g->size, next))
		return false;
	stack_commit(v, &s);
	seg_enter(v, g->sel, cs, v->cpl, g->off);
	return true;
}

static bool call_gate_inner_long(struct vcpu *v, const struct call_gate *g,
				 struct desc *cs, u64 next)
{
	unsigned cpl = attr_dpl(cs->attr);
	struct stack s;
	u64 rsp;

	if (!tss_read_rsp(v, cpl * 8 + 4, &rsp))
		return false;
	s = stack_long(v, rsp, cpl);
	if (!stack_room(v, &s, 4, 8) || !seg_check_rip(v, cs, g->off) ||
	    !desc_set_accessed(v, cs) || !stack_push(v, &s, 8, v->seg[SS].sel) ||
	    !stack_push(v, &s, 8, v->gpr[RSP]) || !stack_push(v, &s, 8, v->seg[CS].sel) ||
	    !stack_push(v, &s, 8, next))
		return false;
	stack_commit(v, &s);
	v->seg[SS] = seg_null((u16)cpl, cpl);
	seg_enter(v, g->sel, cs, cpl, g->off);
	return true;
}

static bool read_params(struct vcpu *v, const struct call_gate *g, u32 param[31])
{
	struct stack s = stack_current(v);

	if (!stack_holds(v, &s, g->params, g->size))
		return false;
	for (unsigned i = 0; i < g->params; i++) {
		u64 val;

		if (!stack_pop(v, &s, g->size, &val))
			return false;
		param[i] = (u32)val;
	}
	return true;
}

static bool call_gate_inner(struct vcpu *v, const struct call_gate *g, struct desc *cs,
			    u64 next)
{
	unsigned cpl = attr_dpl(cs->attr);
	struct stack s;
	struct desc ss;
	u32 param[31];

	if (!stack_inner(v, cpl, &s, &ss) ||
	    !stack_room(v, &s, g->params + 4u, g->size) ||
	    !seg_check_rip(v, cs, g->off) || !read_params(v, g, param) ||
	    !desc_set_accessed(v, cs) || !desc_set_accessed(v, &ss) ||
	    !stack_push(v, &s, g->size, v->seg[SS].sel) ||
	    !stack_push(v, &s, g->size, v->gpr[RSP]))
		return false;
	for (unsigned i = g->params; i > 0; i--)
		if (!stack_push(v, &s, g->size, param[i - 1]))
			return false;
	if (!stack_push(v, &s, g->size, v->seg[CS].sel) ||
	    !stack_push(v, &s, g->size, next))
		return false;
	stack_commit(v, &s);
	v->seg[SS] = seg_make(s.ss.sel, &ss);
	seg_enter(v, g->sel, cs, cpl, g->off);
	return true;
}

static bool call_gate(struct vcpu *v, u16 sel, struct desc *d, u64 next)
{
	struct call_gate g;
	struct desc cs;

	if (!gate_open(v, sel, d, true, &g, &cs))
		return false;
	if (attr_is_conforming(cs.attr) || attr_dpl(cs.attr) == v->cpl)
		return call_gate_same(v, &g, &cs, next);
	if (g.size == 8)
		return call_gate_inner_long(v, &g, &cs, next);
	return call_gate_inner(v, &g, &cs, next);
}

/* The descriptor is no code segment: gates and tasks. */
static bool to_system(struct vcpu *v, u16 sel, struct desc *d, bool call, u64 next)
{
	enum task_reason why = call ? TASK_CALL : TASK_JMP;
	unsigned type = d->attr & (SEG_S | SEG_TYPE_MASK);

	if (in_long_mode(v) && type != DESC_CALL32)
		return raise_err(v, VEC_GP, sel & 0xfffc);
	switch (type) {
	case DESC_CALL16:
	case DESC_CALL32: return call ? call_gate(v, sel, d, next) : jmp_gate(v, sel, d);
	case DESC_TASK_GATE:
		if (!is_dpl_ok(v, sel, d))
			return raise_err(v, VEC_GP, sel & 0xfffc);
		if (!(d->attr & SEG_P))
			return raise_err(v, VEC_NP, sel & 0xfffc);
		return to_task(v, (u16)(d->raw >> 16), why, next);
	case DESC_TSS16:
	case DESC_TSS32:
		if (!is_dpl_ok(v, sel, d))
			return raise_err(v, VEC_GP, sel & 0xfffc);
		return to_task(v, sel, why, next);
	default: return raise_err(v, VEC_GP, sel & 0xfffc);
	}
}

/* Real and virtual-8086 mode. */
static void enter_real(struct vcpu *v, u16 sel, u64 off)
{
	v->rip = off;
	seg_load_real(v, CS, sel);
}

bool far_jmp(struct vcpu *v, u16 sel, u64 off, unsigned opsize, u64 next)
{
	struct desc d;

	off &= size_mask(opsize);
	if (in_real_or_v86(v)) {
		if (!seg_check_rip_now(v, off))
			return false;
		enter_real(v, sel, off);
		return true;
	}
	if (sel_is_null(sel))
		return raise_gp0(v);
	if (!desc_read(v, sel, false, VEC_GP, &d))
		return false;
	if (!attr_is_code(d.attr))
		return to_system(v, sel, &d, false, next);
	if (!check_code(v, sel, &d) || !seg_check_rip(v, &d, off) ||
	    !desc_set_accessed(v, &d))
		return false;
	seg_enter(v, sel, &d, v->cpl, off);
	return true;
}

bool far_call(struct vcpu *v, u16 sel, u64 off, unsigned opsize, u64 next)
{
	struct stack s = stack_current(v);
	struct desc d;

	off &= size_mask(opsize);
	if (in_real_or_v86(v)) {
		if (!stack_room(v, &s, 2, opsize) || !seg_check_rip_now(v, off) ||
		    !stack_push(v, &s, opsize, v->seg[CS].sel) ||
		    !stack_push(v, &s, opsize, next))
			return false;
		stack_commit(v, &s);
		enter_real(v, sel, off);
		return true;
	}
	if (sel_is_null(sel))
		return raise_gp0(v);
	if (!desc_read(v, sel, false, VEC_GP, &d))
		return false;
	if (!attr_is_code(d.attr))
		return to_system(v, sel, &d, true, next);
	if (!check_code(v, sel, &d))
		return false;
	/* Processors push as the new segment has it: without SS when it is a 64-bit one.
	 */
	if (in_long_mode(v) && (d.attr & SEG_L))
		s = stack_long(v, v->gpr[RSP], v->cpl);
	else if (in_long_mode(v))
		s.width = v->seg[SS].attr & SEG_DB ? 4 : 2;
	if (!stack_room(v, &s, 2, opsize) || !seg_check_rip(v, &d, off) ||
	    !desc_set_accessed(v, &d) || !stack_push(v, &s, opsize, v->seg[CS].sel) ||
	    !stack_push(v, &s, opsize, next))
		return false;
	stack_commit(v, &s);
	seg_enter(v, sel, &d, v->cpl, off);
	return true;
}
