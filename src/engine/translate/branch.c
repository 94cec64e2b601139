/*
 * Branches, calls, returns, pushes and pops of 64-bit code.
 *
 * Within a page a branch is linked to its target when that is translated (T3); elsewhere
 * the target is looked up in struct tr_jumps by code that changes no flags. The address
 * of a branch is checked by the interpreter's function when the look-up misses, so a
 * target that is not canonical faults at the branch.
 */
#include "engine/translate/front.h"

#include "engine/interp/interp.h"

static struct tr_link *link_new(struct translator *t)
{
	struct tr_link *l;

	if (t->arena_size - t->arena_used < sizeof(*l)) {
		t->full = true;
		return NULL;
	}
	l = (struct tr_link *)(void *)(t->arena + t->arena_used);
	t->arena_used += sizeof(*l);
	return l;
}

/* reg = linear address of an offset from the page. */
static void load_lin(struct front *f, unsigned reg, i64 off)
{
	emit_load_rsp(&f->e, reg, FRAME(f->t, page_lin));
	emit_lea(&f->e, true, reg, reg, (i32)off);
}

static bool same_page(i64 target)
{
	return target >= 0 && target < (i64)PAGE_SIZE;
}

/* A link at this rel32, that leads to its exit, which is emitted next, until the dispatcher
 * links it. */
static struct tr_link *link_at(struct front *f, u8 *at, i64 target)
{
	struct tr_link *l = link_new(f->t);

	if (!l)
		return NULL;
	l->at = at;
	l->target = (f->b->gpa & PAGE_MASK) + (u64)target;
	l->next = NULL;
	return l;
}

/* The exit of a link, asking for it to be linked. 'plain', if not NULL, comes to where it
 * does not ask. */
static void link_exit(struct front *f, struct tr_link *l, i64 target, u8 *plain)
{
	struct emit *e = &f->e;

	if (l)
		l->exit = (i32)(e->p - (l->at + 4));
	emit_mov_imm(e, T_KEEP, (u64)l);
	emit_store_rsp(e, T_KEEP, FRAME(f->t, link));
	if (plain)
		emit_patch(plain, e->p);
	load_lin(f, T_ADDR, target);
	emit_jmp(e, f->t->leave_at);
}

/* A jump that leads to its exit until the dispatcher links it. */
static void emit_link(struct front *f, i64 target, bool backward)
{
	struct emit *e = &f->e;
	struct tr_link *l;
	u8 *out = NULL;

	if (backward) {
		/* T4: a kick is looked for where the code may go round. */
		emit_mov_rr(e, T_KEEP, H_RCX);
		emit_load_rsp(e, H_RCX, FRAME(f->t, kicked));
		emit_jrcxz(e, 8); /* over the next mov and jmp */
		emit_mov_rr(e, H_RCX, T_KEEP);
		out = emit_jmp(e, 0);
		emit_mov_rr(e, H_RCX, T_KEEP);
	}
	l = link_at(f, emit_jmp(e, 0), target);
	if (l)
		emit_patch(l->at, e->p);
	link_exit(f, l, target, out);
}

/* The target's linear address is in T_ADDR: look it up. On a miss, 'miss' is called out for;
 * on a hit RSP += pop. */
static void branch_lookup(struct front *f, const struct plan *p, const struct insn *miss,
			  unsigned pop)
{
	struct emit *e = &f->e;
	i32 jumps = FRAME(f->t, jumps) + (i32)(f->mode * sizeof(struct tr_jumps));

	emit_rorx(e, T_SLOT, T_ADDR, 12);
	emit_lea_sib(e, true, T_SLOT, T_SLOT, T_ADDR, 0, 0);
	emit_pext_rsp(e, T_SLOT, T_SLOT, FRAME(f->t, jump_mask));
	/* Times 4 here and times 8 in the addresses: the size of struct tr_jump. */
	emit_lea_sib(e, true, T_SLOT, NO_REG, T_SLOT, 2, 0);
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_rsp_index(e, 0x8b, H_RCX, T_SLOT,
		       jumps + (i32)offsetof(struct tr_jump, neg_lin));
	emit_lea_sib(e, true, H_RCX, H_RCX, T_ADDR, 0, 0);
	emit_jrcxz(e, 5);
	cold_add(f, p, emit_jmp(e, 0), true)->in = miss;
	emit_mov_rr(e, H_RCX, T_KEEP);
	emit_rsp_index(e, 0x8b, T_KEEP, T_SLOT,
		       jumps + (i32)offsetof(struct tr_jump, page));
	emit_store_rsp(e, T_KEEP, FRAME(f->t, page_lin));
	if (pop)
		emit_lea(e, true, H_R8, H_R8, (i32)pop);
	/* jmp [rsp + slot*8 + code] */
	e8(e, 0x42);
	e8(e, 0xff);
	e8(e, 0xa4);
	e8(e, 0xc4 | (T_SLOT & 7) << 3);
	e32(e, (u32)(jumps + (i32)offsetof(struct tr_jump, code)));
}

/* An offset from the page of what follows the instruction. */
static i64 behind(const struct plan *p)
{
	return (i64)p->start + p->in->ip_off + p->in->len;
}

static bool is_backward(const struct plan *p, i64 target)
{
	return target <= (i64)(p->start + p->in->ip_off);
}

void branch_to(struct front *f, const struct plan *p, const struct insn *miss, i64 target)
{
	if (same_page(target)) {
		emit_link(f, target, is_backward(p, target));
		return;
	}
	load_lin(f, T_ADDR, target);
	branch_lookup(f, p, miss, 0);
}

void branch_cold(struct front *f, struct cold *c)
{
	struct tr_link *l;

	if (c->kind == COLD_FAR) {
		load_lin(f, T_ADDR, c->target);
		branch_lookup(f, c->p, c->in, 0);
	} else if (c->backward) {
		emit_link(f, c->target, true);
	} else {
		/* The Jcc itself is linked. */
		l = link_at(f, c->from, c->target);
		link_exit(f, l, c->target, NULL);
	}
}

static i64 target_of(const struct plan *p)
{
	return behind(p) + (i64)p->in->imm;
}

/* Far outside of what lea reaches only when the guest's code says so. */
static bool near_enough(i64 target)
{
	return target == (i32)target;
}

static void jcc(struct front *f, const struct plan *p)
{
	i64 target = target_of(p);
	u8 *at = emit_jcc(&f->e, p->in->opcode & 15);
	struct cold *c = cold_add(f, p, at, false);

	c->kind = same_page(target) ? COLD_LINK : COLD_FAR;
	c->target = target;
	c->backward = is_backward(p, target);
}

/* mov reg, [operand] or the other way round. */
static void move_operand(struct front *f, unsigned opcode, unsigned reg, struct operand o)
{
	struct emit *e = &f->e;

	e8(e, 0x48 | (reg >> 3) << 2 | memop_rex(o));
	e8(e, opcode);
	memop_emit(e, reg, o, false);
}

static void load_operand(struct front *f, unsigned reg, struct operand o)
{
	move_operand(f, 0x8b, reg, o);
}

static void store_operand(struct front *f, unsigned reg, struct operand o)
{
	move_operand(f, 0x89, reg, o);
}

static void push_reg(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	unsigned reg = p->in->rm;

	if (in_memory(reg))
		emit_load_rsp(&f->e, T_KEEP, gpr_slot(reg));
	store_operand(f, in_memory(reg) ? T_KEEP : home(reg), o);
	emit_lea(&f->e, true, H_R8, H_R8, -8);
}

static void push_imm(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	struct emit *e = &f->e;

	/* mov qword [operand], imm32 */
	e8(e, 0x48 | memop_rex(o));
	e8(e, 0xc7);
	memop_emit(e, 0, o, false);
	e32(e, (u32)p->in->imm);
	emit_lea(e, true, H_R8, H_R8, -8);
}

static void pop_reg(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	unsigned reg = p->in->rm;

	load_operand(f, in_memory(reg) ? T_KEEP : home(reg), o);
	if (in_memory(reg))
		emit_store_rsp(&f->e, T_KEEP, gpr_slot(reg));
	emit_lea(&f->e, true, H_R8, H_R8, 8);
}

static void leave(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);

	load_operand(f, T_KEEP, o);
	emit_lea(&f->e, true, H_R8, H_RBP, 8);
	emit_mov_rr(&f->e, H_RBP, T_KEEP);
}

/* The return address is written before the target is known to be translated; writing it
 * again is no harm. */
static void push_return(struct front *f, const struct plan *p, const struct mem_access *a)
{
	struct operand o = memop(f, p, a);

	load_lin(f, T_KEEP, behind(p));
	store_operand(f, T_KEEP, o);
}

static void call_rel(struct front *f, const struct plan *p)
{
	i64 target = target_of(p);

	push_return(f, p, &p->acc);
	if (same_page(target)) {
		emit_lea(&f->e, true, H_R8, H_R8, -8);
		emit_link(f, target, true);
	} else {
		load_lin(f, T_ADDR, target);
		branch_lookup(f, p, p->in, (unsigned)-8);
	}
}

/* JMP and CALL through a register or memory: the target goes to T_ADDR. */
static void load_target(struct front *f, const struct plan *p)
{
	if (p->in->flags & INSN_MEM)
		load_operand(f, T_ADDR, memop(f, p, &p->acc));
	else
		load_guest(f, T_ADDR, p->in->rm);
}

/* A call of which the return address is written, and the target in the frame. */
static enum op_result call_pushed(struct vcpu *v, const struct insn *in)
{
	const struct translator *t = v->engine;

	(void)in;
	if (!is_canonical(v, t->f->tmp))
		return op_gp0(v);
	v->gpr[RSP] -= 8;
	v->rip = t->f->tmp;
	return OP_JUMP;
}

/*
 * An instruction for the miss of a call through memory: to do it all again will not do,
 * since the return address may be where the target was.
 */
static const struct insn *pushed_insn(struct translator *t, const struct insn *in)
{
	struct insn *i = (struct insn *)(void *)(t->arena + t->arena_used);

	if (t->arena_size - t->arena_used < sizeof(*i)) {
		t->full = true;
		return in;
	}
	t->arena_used += align_up(sizeof(*i), 16);
	*i = *in;
	i->fn = call_pushed;
	return i;
}

static void call_rm(struct front *f, const struct plan *p)
{
	struct mem_access push = plan_stack(-8, true);

	load_target(f, p);
	emit_store_rsp(&f->e, T_ADDR, FRAME(f->t, tmp));
	push_return(f, p, &push);
	emit_load_rsp(&f->e, T_ADDR, FRAME(f->t, tmp));
	branch_lookup(f, p, p->in->flags & INSN_MEM ? pushed_insn(f->t, p->in) : p->in,
		      (unsigned)-8);
}

static void ret(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);

	load_operand(f, T_ADDR, o);
	branch_lookup(f, p, p->in, 8 + (p->in->opcode == 0xc2 ? (u16)p->in->imm : 0));
}

/* ---- planning ---- */

static bool plan_stack_access(struct plan *p, i32 disp, bool write)
{
	p->mem = true;
	p->acc = plan_stack(disp, write);
	p->written |= 1u << RSP;
	return true;
}

/* JMP and CALL through ModRM. */
static bool plan_indirect(struct plan *p, unsigned group)
{
	const struct insn *in = p->in;
	i64 disp = in->disp + (in->base == GPR_RIP ? (i64)p->start : 0);

	if ((in->modrm >> 3 & 7) != group)
		return false;
	if (!(in->flags & INSN_MEM))
		return true;
	if (in->adsize == 2 || disp != (i32)disp)
		return false;
	p->mem = true;
	p->acc = (struct mem_access){ .base = in->base,
				  .index = in->index,
				  .scale = in->scale,
				  .seg = in->seg,
				  .wide = in->adsize == 8,
				  .disp = (i32)disp,
				  .size = 8,
				  .group = -1 };
	return true;
}

bool branch_plan(struct plan *p)
{
	const struct insn *in = p->in;

	p->flags = FLAGS_USED;
	if (block_insn_is_jcc(in))
		return near_enough(target_of(p));
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (in->opcode == 0xff)
			return in->opsize == 8 && plan_indirect(p, 4);
		return in->opcode != 0xea && near_enough(target_of(p));
	case ZYDIS_MNEMONIC_CALL:
		if (in->opsize != 8)
			return false;
		if (in->opcode == 0xff)
			return plan_indirect(p, 2);
		return in->opcode == 0xe8 && near_enough(target_of(p)) &&
		       plan_stack_access(p, -8, true);
	case ZYDIS_MNEMONIC_RET:
		return (in->opcode == 0xc2 || in->opcode == 0xc3) && in->opsize == 8 &&
		       plan_stack_access(p, 0, false);
	case ZYDIS_MNEMONIC_PUSH:
		p->flags = FLAGS_ALONE;
		return in->opsize == 8 &&
		       (in->opcode == 0x68 || in->opcode == 0x6a ||
			(in->opcode >= 0x50 && in->opcode <= 0x57)) &&
		       plan_stack_access(p, -8, true);
	case ZYDIS_MNEMONIC_POP:
		if (in->opsize != 8 || in->opcode < 0x58 || in->opcode > 0x5f ||
		    in->rm == RSP)
			return false;
		p->flags = FLAGS_ALONE;
		p->written = (u16)(1u << in->rm);
		return plan_stack_access(p, 0, false);
	case ZYDIS_MNEMONIC_LEAVE:
		if (in->opsize != 8)
			return false;
		p->flags = FLAGS_ALONE;
		p->written = 1u << RBP;
		plan_stack_access(p, 0, false);
		p->acc.base = RBP;
		return true;
	default: return false;
	}
}

void branch_insn(struct front *f, const struct plan *p)
{
	const struct insn *in = p->in;

	if (block_insn_is_jcc(in)) {
		jcc(f, p);
		return;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (in->opcode != 0xff) {
			branch_to(f, p, in, target_of(p));
			return;
		}
		load_target(f, p);
		branch_lookup(f, p, in, 0);
		return;
	case ZYDIS_MNEMONIC_CALL:
		if (in->opcode == 0xff)
			call_rm(f, p);
		else
			call_rel(f, p);
		return;
	case ZYDIS_MNEMONIC_RET: ret(f, p); return;
	case ZYDIS_MNEMONIC_PUSH:
		if (in->opcode == 0x68 || in->opcode == 0x6a)
			push_imm(f, p);
		else
			push_reg(f, p);
		return;
	case ZYDIS_MNEMONIC_POP: pop_reg(f, p); return;
	default: leave(f, p); return;
	}
}
