/*
 * Hardware task switches through 16-bit and 32-bit TSSs.
 *
 * SDM volume 3 chapter 7: 7.2.1 and 7.6 (layouts), 7.3 (steps and table 7-1, checks), 7.4
 * (nesting). Up to commit_memory() a fault belongs to the old task and nothing has
 * changed. From then on the new task runs, with all its selectors visible, and a
 * descriptor that cannot be loaded is its fault. Long mode has no task switches. Thread:
 * the owner of the vCPU.
 */
#include "x86/cr.h"
#include "x86/far.h"
#include "x86/stack.h"

/* Where a TSS keeps things. General registers are in encoding order from 'regs' on. */
struct tss_layout {
	u8 size; /* of a register; selectors too are that far apart */
	u8 min_limit;
	u8 ip, flags, regs;
	u8 segs, nsegs; /* ES, CS, SS, DS, and FS, GS in the larger one */
	u8 ldt;
	u8 save_first, save_len; /* the dynamic fields, that is what is saved */
};

static const struct tss_layout tss16 = { .size = 2,
					 .min_limit = 0x2b,
					 .ip = 0x0e,
					 .flags = 0x10,
					 .regs = 0x12,
					 .segs = 0x22,
					 .nsegs = 4,
					 .ldt = 0x2a,
					 .save_first = 0x0e,
					 .save_len = 0x2a - 0x0e };

static const struct tss_layout tss32 = { .size = 4,
					 .min_limit = 0x67,
					 .ip = 0x20,
					 .flags = 0x24,
					 .regs = 0x28,
					 .segs = 0x48,
					 .nsegs = 6,
					 .ldt = 0x60,
					 .save_first = 0x20,
					 .save_len = 0x60 - 0x20 };

#define TSS32_CR3  0x1c
#define TSS32_TRAP 0x64
#define TSS_MAX    0x68

struct switching {
	enum task_reason why;
	u16 sel;
	struct desc tss; /* of the new task */
	const struct tss_layout *from, *to;
	gva_t old_busy, new_busy; /* the bytes with the types in the GDT */
	u8 image[TSS_MAX];        /* the new TSS as it was read */
};

static const struct tss_layout *layout_of(u32 attr)
{
	return attr & 8 ? &tss32 : &tss16;
}

static u64 image_get(const struct switching *s, unsigned off, unsigned size)
{
	return le_load(s->image + off, size);
}

/* Does the old task stay busy and get linked? */
static bool is_nesting(const struct switching *s)
{
	return s->why == TASK_CALL || s->why == TASK_GATE;
}

/* The descriptor of the new TSS. Table 7-1, conditions 1 to 5. */
static bool check_new(struct vcpu *v, struct switching *s)
{
	enum vector bad = s->why == TASK_IRET ? VEC_TS : VEC_GP;
	u32 err = s->sel & 0xfffc;
	unsigned type;

	if (sel_is_null(s->sel) || (s->sel & 4) || in_long_mode(v))
		return raise_err(v, bad, err);
	if (!desc_read(v, s->sel, false, bad, &s->tss))
		return false;
	type = s->tss.attr & (SEG_S | SEG_TYPE_MASK);
	if (s->why == TASK_IRET ? type != DESC_TSS16_BUSY && type != DESC_TSS32_BUSY
				: type != DESC_TSS16 && type != DESC_TSS32)
		return raise_err(v, bad, err);
	if (!(s->tss.attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	s->to = layout_of(s->tss.attr);
	if (s->tss.limit < s->to->min_limit)
		return raise_err(v, VEC_TS, err);
	return true;
}

/* Everything that will be written can be, and the new TSS is read. */
static bool check_memory(struct vcpu *v, struct switching *s)
{
	const struct seg *tr = &v->seg[TR];
	u64 type;

	if ((tr->attr & SEG_UNUSABLE) || tr->limit < layout_of(tr->attr)->min_limit)
		return raise_err(v, VEC_TS, tr->sel & 0xfffc);
	s->from = layout_of(tr->attr);
	s->old_busy = (u32)(v->gdtr.base + (tr->sel & 0xfff8) + 5);
	s->new_busy = s->tss.lin + 5;
	if (!sys_read_bytes(v, s->tss.base, s->image, s->to->min_limit + 1u) ||
	    !sys_probe_write(v, (u32)(tr->base + s->from->save_first), s->from->save_len))
		return false;
	if (is_nesting(s) && !sys_probe_write(v, s->tss.base, 2))
		return false;
	if (!is_nesting(s) &&
	    (!sys_read(v, s->old_busy, 1, &type) || !sys_probe_write(v, s->old_busy, 1)))
		return false;
	return s->why == TASK_IRET || sys_probe_write(v, s->new_busy, 1);
}

/* Steps 6 to 10: the old task's TSS, busy bits, link. */
static bool commit_memory(struct vcpu *v, struct switching *s, u64 next, u64 rflags)
{
	const struct tss_layout *l = s->from;
	const struct seg *tr = &v->seg[TR];
	gva_t base = tr->base;

	if (s->why == TASK_IRET)
		rflags &= ~(u64)RFLAGS_NT;
	if (!sys_write(v, (u32)(base + l->ip), l->size, next & size_mask(l->size)) ||
	    !sys_write(v, (u32)(base + l->flags), l->size, rflags & size_mask(l->size)))
		return false;
	for (unsigned i = 0; i < 8; i++)
		if (!sys_write(v, (u32)(base + l->regs + i * l->size), l->size,
			       v->gpr[i] & size_mask(l->size)))
			return false;
	for (unsigned i = 0; i < l->nsegs; i++)
		if (!sys_write(v, (u32)(base + l->segs + i * l->size), 2, v->seg[i].sel))
			return false;
	if (is_nesting(s)) {
		if (!sys_write(v, s->tss.base, 2, tr->sel))
			return false;
	} else if (!sys_bits(v, s->old_busy, 0, 2)) {
		return false;
	}
	return s->why == TASK_IRET || desc_set_accessed(v, &s->tss);
}

/* Step 12: everything but descriptors and paging. Selectors are visible, not yet usable.
 */
static void commit_registers(struct vcpu *v, const struct switching *s)
{
	const struct tss_layout *l = s->to;
	u64 flags = image_get(s, l->flags, l->size);

	v->seg[TR] = seg_make(s->sel, &s->tss);
	v->cr0 |= CR0_TS;
	for (unsigned i = 0; i < 8; i++)
		v->gpr[i] = image_get(s, l->regs + i * l->size, l->size);
	v->rip = image_get(s, l->ip, l->size);
	for (unsigned i = ES; i <= GS; i++)
		v->seg[i] = seg_null(
			i < l->nsegs ? (u16)image_get(s, l->segs + i * l->size, 2) : 0,
			0);
	v->seg[LDTR] = seg_null((u16)image_get(s, l->ldt, 2), 0);
	v->cpl = flags & RFLAGS_VM ? 3 : v->seg[CS].sel & 3;
	v->shadow = 0;
	if (is_nesting(s))
		flags |= RFLAGS_NT;
	rflags_set(v, flags);
	for (unsigned i = 0; i < SREG_COUNT; i++)
		seg_update_ok(v, i);
	vcpu_mode_changed(v);
	debug_clear_local(v);
}

/* The page directory of the new task. */
static bool load_cr3(struct vcpu *v, const struct switching *s)
{
	u64 cr3;

	if (s->to != &tss32 || !(v->cr0 & CR0_PG))
		return true;
	cr3 = image_get(s, TSS32_CR3, 4);
	if (cr3 == v->cr3)
		return true;
	if ((v->cr4 & CR4_PAE) && !pdpte_load(v, cr3))
		return false;
	v->cr3 = cr3;
	tlb_flush_nonglobal(v);
	return true;
}

static bool load_ldt(struct vcpu *v)
{
	u16 sel = v->seg[LDTR].sel;
	struct desc d;

	if (sel_is_null(sel))
		return true;
	if (sel & 4)
		return raise_err(v, VEC_TS, sel & 0xfffc);
	if (!desc_read(v, sel, false, VEC_TS, &d))
		return false;
	if ((d.attr & (SEG_S | SEG_TYPE_MASK)) != DESC_LDT || !(d.attr & SEG_P))
		return raise_err(v, VEC_TS, sel & 0xfffc);
	seg_set(v, LDTR, sel, &d);
	return true;
}

static bool load_cs(struct vcpu *v)
{
	u16 sel = v->seg[CS].sel;
	u32 err = sel & 0xfffc;
	struct desc d;

	if (sel_is_null(sel))
		return raise_err(v, VEC_TS, 0);
	if (!desc_read(v, sel, false, VEC_TS, &d))
		return false;
	if (!attr_is_code(d.attr) ||
	    (attr_is_conforming(d.attr) ? attr_dpl(d.attr) > v->cpl
					: attr_dpl(d.attr) != v->cpl))
		return raise_err(v, VEC_TS, err);
	if (!(d.attr & SEG_P))
		return raise_err(v, VEC_NP, err);
	if (!desc_set_accessed(v, &d))
		return false;
	seg_set(v, CS, sel, &d);
	return true;
}

/* Step 13: the descriptors, in the context of the new task. */
static bool load_segments(struct vcpu *v)
{
	static const u8 data[] = { DS, ES, FS, GS };
	struct desc d;

	if (!load_ldt(v))
		return false;
	if (in_v86(v)) {
		for (unsigned i = ES; i <= GS; i++)
			seg_load_real(v, i, v->seg[i].sel);
		return true;
	}
	if (!load_cs(v))
		return false;
	if (!seg_check_stack(v, v->seg[SS].sel, v->cpl, VEC_TS, &d) ||
	    !desc_set_accessed(v, &d))
		return false;
	seg_set(v, SS, v->seg[SS].sel, &d);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		u16 sel = v->seg[data[i]].sel;

		if (sel_is_null(sel))
			continue;
		if (!seg_check_data(v, sel, v->cpl, VEC_TS, &d) ||
		    !desc_set_accessed(v, &d))
			return false;
		seg_set(v, data[i], sel, &d);
	}
	return true;
}

static bool push_error(struct vcpu *v, unsigned size, u32 error)
{
	struct stack st = stack_current(v);

	if (!stack_room(v, &st, 1, size) || !stack_push(v, &st, size, error))
		return false;
	stack_commit(v, &st);
	return true;
}

enum task_result task_switch(struct vcpu *v, u16 tss_sel, enum task_reason why, u64 next,
			     u64 rflags, bool has_error, u32 error)
{
	struct switching s = { .why = why, .sel = tss_sel };

	if (!check_new(v, &s) || !check_memory(v, &s) ||
	    !commit_memory(v, &s, next, rflags))
		return TASK_REFUSED;
	commit_registers(v, &s);
	if (!load_cr3(v, &s) || !load_segments(v))
		return TASK_FAULT;
	if (has_error && !push_error(v, s.to->size, error))
		return TASK_FAULT;
	if (!seg_check_rip_now(v, v->rip))
		return TASK_FAULT;
	/* The debug trap flag: a trap before the first instruction of the task. */
	if (s.to == &tss32 && (image_get(&s, TSS32_TRAP, 2) & 1))
		v->pending_db |= DR6_BT;
	return TASK_OK;
}
