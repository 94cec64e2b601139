/*
 * Stacks of control transfers: limits, canonical addresses, stack pointers from the TSS.
 *
 * SDM volume 3 sections 5.8.5 (inner stacks), 7.2.1 and 7.7 (TSS layouts), 3.5.1
 * (expand-down); the checks and error codes are those of the pseudo-code of CALL and INT
 * n in SDM volume 2. Thread: the owner of the vCPU.
 */
#include "x86/stack.h"

struct stack stack_current(const struct vcpu *v)
{
	return (struct stack){ .ss = v->seg[SS],
			       .sp = v->gpr[RSP],
			       .width = v->stack_size,
			       .idx = v->mmu_idx,
			       .current = true };
}

struct stack stack_long(const struct vcpu *v, u64 sp, unsigned cpl)
{
	return (struct stack){ .sp = sp, .width = 8, .idx = (u8)mmu_idx_of(v, cpl) };
}

bool tss_read_rsp(struct vcpu *v, unsigned off, u64 *rsp)
{
	const struct seg *tr = &v->seg[TR];

	if ((tr->attr & SEG_UNUSABLE) || off + 7 > tr->limit)
		return raise_err(v, VEC_TS, tr->sel & 0xfffc);
	return sys_read(v, tr->base + off, 8, rsp);
}

bool stack_inner(struct vcpu *v, unsigned cpl, struct stack *s, struct desc *d)
{
	const struct seg *tr = &v->seg[TR];
	bool wide = (tr->attr & SEG_TYPE_MASK) == DESC_TSS32_BUSY;
	unsigned off = wide ? cpl * 8 + 4 : cpl * 4 + 2;
	unsigned size = wide ? 4 : 2;
	u64 sel, sp;

	if ((tr->attr & SEG_UNUSABLE) || off + size + 1 > tr->limit)
		return raise_err(v, VEC_TS, tr->sel & 0xfffc);
	if (!sys_read(v, (u32)(tr->base + off), size, &sp) ||
	    !sys_read(v, (u32)(tr->base + off + size), 2, &sel))
		return false;
	if (!seg_check_stack(v, (u16)sel, cpl, VEC_TS, d))
		return false;
	*s = (struct stack){ .ss = seg_make((u16)sel, d),
			     .sp = sp,
			     .error = sel & 0xfffc,
			     .width = d->attr & SEG_DB ? 4 : 2,
			     .idx = (u8)mmu_idx_of(v, cpl) };
	return true;
}

/* May the stack segment be accessed at [off, off+len)? */
static bool within(struct vcpu *v, const struct stack *s, u64 off, unsigned len)
{
	u64 last = off + len - 1;

	if (s->width == 8)
		return is_canonical(v, off) && is_canonical(v, last);
	if (s->ss.attr & SEG_UNUSABLE)
		return false;
	if ((s->ss.attr & (SEG_CODE | SEG_EXPAND_DOWN)) == SEG_EXPAND_DOWN)
		return off > s->ss.limit &&
		       last <= (s->ss.attr & SEG_DB ? 0xffffffff : 0xffff);
	/* A segment of 4 GiB wraps, as in seg_linear_slow(). */
	return last <= s->ss.limit || s->ss.limit == 0xffffffff;
}

static u64 moved(const struct stack *s, u64 by)
{
	u64 mask = size_mask(s->width);

	return (s->sp & ~mask) | ((s->sp + by) & mask);
}

/* The offset in the segment that a stack pointer means. */
static u64 offset(const struct stack *s, u64 sp)
{
	return sp & size_mask(s->width);
}

bool stack_room(struct vcpu *v, const struct stack *s, unsigned n, unsigned size)
{
	for (unsigned i = 1; i <= n; i++)
		if (!within(v, s, offset(s, moved(s, -(u64)i * size)), size))
			return raise_err(v, VEC_SS, s->error);
	return true;
}

bool stack_holds(struct vcpu *v, const struct stack *s, unsigned n, unsigned size)
{
	for (unsigned i = 0; i < n; i++)
		if (!within(v, s, offset(s, moved(s, (u64)i * size)), size))
			return raise_err(v, VEC_SS, s->error);
	return true;
}

static gva_t linear(const struct stack *s)
{
	return s->width == 8 ? s->sp : (u32)(s->ss.base + offset(s, s->sp));
}

bool stack_push(struct vcpu *v, struct stack *s, unsigned size, u64 val)
{
	u64 old = s->sp;
	bool ok;

	s->sp = moved(s, -(u64)size);
	if (s->current)
		ok = lin_write(v, SS, linear(s), size, val & size_mask(size));
	else
		ok = lin_write_as(v, s->idx, SS, linear(s), size, val & size_mask(size));
	if (!ok)
		s->sp = old;
	return ok;
}

bool stack_pop(struct vcpu *v, struct stack *s, unsigned size, u64 *val)
{
	bool ok;

	if (s->current)
		ok = lin_read(v, SS, linear(s), size, val);
	else
		ok = lin_read_as(v, s->idx, SS, linear(s), size, val);
	if (ok)
		s->sp = moved(s, size);
	return ok;
}

void stack_skip(struct stack *s, unsigned bytes)
{
	s->sp = moved(s, bytes);
}

void stack_commit(struct vcpu *v, const struct stack *s)
{
	v->gpr[RSP] = s->width == 4 ? (u32)s->sp : s->sp;
}
