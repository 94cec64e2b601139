/*
 * Branches, calls, returns, pushes and pops.
 *
 * Within a page a branch is linked to its target when that is translated (T3); elsewhere
 * the target is looked up in struct tr_jumps by code that changes no flags. The address
 * of a branch is checked by the interpreter's function when the look-up misses, so a
 * target that is not canonical faults at the branch.
 *
 * In based code (T2b) T_ADDR holds a key for the look-up, not the address: RIP and
 * frame.cs_key. The same is on the shadow stack. A target beyond the limit of the segment
 * has not been executed, so it is not found.
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

/* reg = address of an offset from the page. */
static void load_lin(struct front *f, unsigned reg, i64 off)
{
	emit_load(&f->e, reg, FRAME(f->t, page_lin));
	emit_lea(&f->e, !f->narrow, reg, reg, (i32)off);
}

void move_sp(struct front *f, i32 by)
{
	if (f->low)
		emit_lea16(&f->e, H_R8, H_R8, by);
	else
		emit_lea(&f->e, !f->narrow, H_R8, H_R8, by);
}

/* reg, an address, becomes the key that it is looked up by. */
static void make_key(struct front *f, unsigned reg, unsigned scratch)
{
	if (!f->based)
		return;
	emit_load(&f->e, scratch, FRAME(f->t, cs_key));
	emit_lea_sib(&f->e, true, reg, reg, scratch, 0, 0);
	f->in_slot = -1;
}

/* The target, an offset from the page, in T_ADDR: a jump's is cut to the operand size. */
static void load_far(struct front *f, i64 target, bool cut)
{
	load_lin(f, T_ADDR, target);
	if (cut)
		emit_movzx16(&f->e, T_ADDR, T_ADDR);
	make_key(f, T_ADDR, T_SLOT);
}

static bool cuts_ip(const struct plan *p)
{
	return p->low && p->in->opsize == 2;
}

/* In based code: in the part of it that is known to be in the segment. */
static bool same_page(const struct front *f, i64 target)
{
	return target >= f->lo && target < f->hi;
}

/* A link at this rel32, which leads to what is emitted next until the dispatcher links
 * it. */
static struct tr_link *link_at(struct front *f, u8 *at, gpa_t target)
{
	struct tr_link *l = link_new(f->t);

	if (l)
		*l = (struct tr_link){ .at = at,
				       .exit = (i32)(f->e.p - (at + 4)),
				       .mode = (u8)f->mode,
				       .block_mode = f->b->mode,
				       .lo = f->lo,
				       .hi = f->hi,
				       .target = target,
				       .of = f->code };
	return l;
}

static void ask_for_link(struct front *f, const struct tr_link *l)
{
	emit_mov_imm(&f->e, T_KEEP, (u64)l);
	emit_store(&f->e, T_KEEP, FRAME(f->t, link));
}

/* T4: where a kick makes the instruction 'miss' be called out for instead. */
static void emit_poll(struct front *f, const struct plan *p, const struct insn *miss)
{
	struct cold *c = cold_add(f, p, NULL, false);

	c->in = miss;
	emit_load(&f->e, T_KEEP, FRAME(f->t, poll));
	site_add(f, c);
	e8(&f->e, 0x4d); /* mov r11, [r11] */
	e8(&f->e, 0x8b);
	e8(&f->e, 0x1b);
}

/* The rel32 at 'at' leads to this offset from the page. */
static void near_link(struct front *f, const struct plan *p, u8 *at, i64 target)
{
	struct cold *c = cold_add(f, p, at, false);

	c->kind = COLD_LINK;
	c->target = target;
}

static void move_page(struct front *f, i64 by)
{
	load_lin(f, T_ADDR, by);
	emit_store(&f->e, T_ADDR, FRAME(f->t, page_lin));
}

/* Go on in another page: a jump, or a call, whose stack operations are done. */
static void far_link(struct front *f, const struct plan *p, const struct insn *miss,
		     i64 target, bool call)
{
	struct cold *c;
	u8 *at;

	move_page(f, target & (i64)PAGE_MASK);
	at = call ? emit_call(&f->e, 0) : emit_jmp(&f->e, 0);
	c = cold_add(f, p, at, false);
	c->kind = COLD_FAR_EXIT;
	c->in = miss;
	c->target = target;
	c->call = call;
}

/* Not linked: take back what was done, and let the instruction do it. */
static void far_exit(struct front *f, const struct cold *c)
{
	ask_for_link(f, link_at(f, c->from, GPA_NONE));
	move_page(f, -(c->target & (i64)PAGE_MASK));
	if (c->call)
		move_sp(f, slot_size(c->p));
	emit_call_out(f, c->in, c->start);
}

/*
 * The target's address is in T_ADDR, or its key: look it up. On a miss, 'miss' is called
 * out for, or the code is left if it is NULL; on a hit RSP += pop.
 */
static void branch_lookup(struct front *f, const struct plan *p, const struct insn *miss,
			  unsigned pop)
{
	struct emit *e = &f->e;
	i32 jumps = FRAME(f->t, jumps) + (i32)(f->mode * sizeof(struct tr_jumps));
	struct cold *c;

	emit_rorx(e, T_SLOT, T_ADDR, 12);
	emit_lea_sib(e, true, T_SLOT, T_SLOT, T_ADDR, 0, 0);
	emit_pext(e, T_SLOT, T_SLOT, FRAME(f->t, jump_mask));
	/* Times 4 here and times 8 in the addresses: the size of struct tr_jump. */
	emit_lea_sib(e, true, T_SLOT, NO_REG, T_SLOT, 2, 0);
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_op_index8(e, 0x8b, H_RCX, T_SLOT,
		       jumps + (i32)offsetof(struct tr_jump, neg_lin));
	emit_lea_sib(e, true, H_RCX, H_RCX, T_ADDR, 0, 0);
	emit_jrcxz(e, 5);
	c = cold_add(f, p, emit_jmp(e, 0), true);
	c->in = miss;
	if (!miss)
		c->kind = COLD_LEAVE;
	emit_mov_rr(e, H_RCX, T_KEEP);
	emit_op_index8(e, 0x8b, T_KEEP, T_SLOT,
		       jumps + (i32)offsetof(struct tr_jump, page));
	emit_store(e, T_KEEP, FRAME(f->t, page_lin));
	if (pop)
		move_sp(f, (i32)pop);
	/* jmp [code + slot*8] */
	e8(e, 0x42);
	e8(e, 0xff);
	e8(e, 0x24);
	e8(e, 0xc5 | (T_SLOT & 7) << 3);
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
	if (!same_page(f, target) && f->based) {
		load_far(f, target, miss == p->in && cuts_ip(p));
		branch_lookup(f, p, miss, 0);
		return;
	}
	if (!same_page(f, target)) {
		emit_poll(f, p, miss);
		far_link(f, p, miss, target, false);
		return;
	}
	if (is_backward(p, target))
		emit_poll(f, p, miss);
	near_link(f, p, emit_jmp(&f->e, 0), target);
}

void branch_cold(struct front *f, struct cold *c)
{
	switch (c->kind) {
	case COLD_LINK:
		ask_for_link(
			f, link_at(f, c->from, (f->b->gpa & PAGE_MASK) + (u64)c->target));
		load_lin(f, T_ADDR, c->target);
		emit_jmp(&f->e, f->t->leave_at);
		break;
	case COLD_FAR:
		if (f->based) {
			load_far(f, c->target, cuts_ip(c->p));
			branch_lookup(f, c->p, c->in, 0);
			break;
		}
		far_link(f, c->p, c->in, c->target, false);
		break;
	case COLD_FAR_EXIT: far_exit(f, c); break;
	case COLD_LEAVE:
		emit_mov_rr(&f->e, H_RCX, T_KEEP);
		emit_jmp(&f->e, f->based ? f->t->leave_key : f->t->leave_at);
		break;
	default:
		/* COLD_LOOKUP */
		if (c->rcx)
			emit_mov_rr(&f->e, H_RCX, T_KEEP);
		/* A return that is not the one on top: whatever it was, it goes. */
		if (c->drop)
			emit_lea_rsp(&f->e, H_RSP, 16);
		branch_lookup(f, c->p, c->in, (unsigned)c->target);
		break;
	}
}

static i64 target_of(const struct plan *p)
{
	i64 target = behind(p) + (i64)p->in->imm;

	return is_narrow(p->in) ? (i32)target : target;
}

/* Far outside of what lea reaches, to there and back, only when the guest's code says so.
 */
static bool near_enough(i64 target)
{
	return target == (i32)target && target >= INT32_MIN + (i64)PAGE_SIZE;
}

static void jcc(struct front *f, const struct plan *p)
{
	i64 target = target_of(p);
	struct cold *c;
	u8 *at;

	if (same_page(f, target) ? is_backward(p, target) : !f->based)
		emit_poll(f, p, p->in);
	at = emit_jcc(&f->e, p->in->opcode & 15);
	if (same_page(f, target)) {
		near_link(f, p, at, target);
		return;
	}
	c = cold_add(f, p, at, false);
	c->kind = COLD_FAR;
	c->target = target;
}

/* With the counter in CX: over the jump, or to it. */
static void count_cx(struct front *f, const struct plan *p, i64 target)
{
	struct emit *e = &f->e;
	bool loop = p->in->opcode == 0xe2;
	u8 *zero, *other;

	if (loop)
		emit_lea16(e, H_RCX, H_RCX, -1);
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_movzx16(e, H_RCX, H_RCX);
	e8(e, 0xe3); /* jrcxz */
	zero = e->p;
	e8(e, 0);
	emit_mov_rr(e, H_RCX, T_KEEP);
	if (loop) {
		near_link(f, p, emit_jmp(e, 0), target);
		emit_patch_short(e, zero);
		emit_mov_rr(e, H_RCX, T_KEEP);
		return;
	}
	other = emit_jmp_short(e);
	emit_patch_short(e, zero);
	emit_mov_rr(e, H_RCX, T_KEEP);
	near_link(f, p, emit_jmp(e, 0), target);
	emit_patch_short(e, other);
}

/* LOOP and JRCXZ, JECXZ or JCXZ, within the page; the others are seldom. */
static void count_branch(struct front *f, const struct plan *p)
{
	i64 target = target_of(p);
	struct emit *e = &f->e;
	bool loop = p->in->opcode == 0xe2;

	if (is_backward(p, target))
		emit_poll(f, p, p->in);
	if (p->in->adsize == 2) {
		count_cx(f, p, target);
		return;
	}
	if (loop)
		emit_lea(e, !f->narrow, H_RCX, H_RCX, -1);
	if (f->narrow)
		e8(e, 0x67);
	/* Over the jump, or to it over a short one. */
	emit_jrcxz(e, loop ? 5 : 2);
	if (!loop) {
		e8(e, 0xeb);
		e8(e, 5);
	}
	near_link(f, p, emit_jmp(e, 0), target);
}

/* mov reg, [operand] or the other way round, of a stack slot's size. */
static void move_operand(struct front *f, const struct plan *p, unsigned opcode,
			 unsigned reg, struct operand o)
{
	struct emit *e = &f->e;

	if (slot_size(p) == 2)
		e8(e, 0x66);
	e8(e, (f->narrow ? 0x40 : 0x48) | (reg >> 3) << 2 | memop_rex(o));
	e8(e, opcode);
	memop_emit(e, reg, o, false);
}

/* Zero-extended. */
static void load_operand(struct front *f, const struct plan *p, unsigned reg,
			 struct operand o)
{
	struct emit *e = &f->e;

	if (slot_size(p) != 2) {
		move_operand(f, p, 0x8b, reg, o);
		return;
	}
	e8(e, 0x40 | (reg >> 3) << 2 | memop_rex(o)); /* movzx reg, word [operand] */
	e8(e, 0x0f);
	e8(e, 0xb7);
	memop_emit(e, reg, o, false);
}

static void store_operand(struct front *f, const struct plan *p, unsigned reg,
			  struct operand o)
{
	move_operand(f, p, 0x89, reg, o);
}

static void push_reg(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	unsigned reg = p->in->rm;

	if (in_memory(reg))
		emit_load(&f->e, T_KEEP, gpr_slot(&f->e, reg));
	store_operand(f, p, in_memory(reg) ? T_KEEP : home(reg), o);
	move_sp(f, -slot_size(p));
}

static void push_imm(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	struct emit *e = &f->e;

	move_operand(f, p, 0xc7, 0, o); /* mov [operand], imm */
	for (i32 i = 0; i < MIN(slot_size(p), 4); i++)
		e8(e, p->in->imm >> (8 * i) & 0xff);
	move_sp(f, -slot_size(p));
}

/* ES, CS, SS, DS; in the two-byte map FS and GS. */
static unsigned pushed_sreg(const struct insn *in)
{
	return in->opcode < 0xa0 ? in->opcode >> 3 & 3u : in->opcode == 0xa0 ? FS : GS;
}

static bool pushes_sreg(const struct insn *in)
{
	return in->opcode < 0x20 || in->opcode == 0xa0 || in->opcode == 0xa8;
}

static void push_sreg(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	struct emit *e = &f->e;

	e8(e, 0x44); /* movzx r11d, word [sel] */
	e8(e, 0x0f);
	e8(e, 0xb7);
	emit_at(e, T_KEEP & 7,
		VCPU(f->t, seg) + (i32)(pushed_sreg(p->in) * sizeof(struct seg) +
					offsetof(struct seg, sel)));
	store_operand(f, p, T_KEEP, o);
	move_sp(f, -slot_size(p));
}

static void push_mem(struct front *f, const struct plan *p)
{
	struct emit *e = &f->e;
	struct operand o;

	load_operand(f, p, T_KEEP, memop(f, p, &p->acc));
	emit_store(e, T_KEEP, FRAME(f->t, tmp));
	o = memop(f, p, &p->acc2);
	emit_load(e, T_KEEP, FRAME(f->t, tmp));
	store_operand(f, p, T_KEEP, o);
	move_sp(f, -slot_size(p));
}

static void pop_reg(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	unsigned reg = p->in->rm;

	/* Of 16 bits the others stay. */
	move_operand(f, p, 0x8b, in_memory(reg) ? T_KEEP : home(reg), o);
	if (in_memory(reg))
		emit_store(&f->e, T_KEEP, gpr_slot(&f->e, reg));
	move_sp(f, slot_size(p));
}

static void leave(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);

	load_operand(f, p, T_KEEP, o);
	if (f->low) {
		emit_lea16(&f->e, H_R8, H_RBP, slot_size(p));
		emit_mov_sized(&f->e, p->in->opsize, H_RBP, T_KEEP);
		return;
	}
	emit_lea(&f->e, !f->narrow, H_R8, H_RBP, slot_size(p));
	emit_mov_rr(&f->e, H_RBP, T_KEEP);
}

/* A call of which the return address is written, and the target in the frame. */
static enum op_result call_pushed(struct vcpu *v, const struct insn *in)
{
	const struct translator *t = v->engine;

	if (is_narrow(in)) {
		if (t->f->tmp > v->seg[CS].limit) {
			/* As above: AMD. */
			if (cpu_is_amd(v))
				mem_write(v, SS,
					  (v->gpr[RSP] - in->opsize) &
						  size_mask(v->stack_size),
					  in->opsize, t->f->under);
			return op_gp0(v);
		}
		sp_set(v, v->gpr[RSP] - in->opsize);
		v->rip = t->f->tmp;
		return OP_JUMP;
	}
	if (!is_canonical(v, t->f->tmp)) {
		/* AMD's processors look before they write. */
		if (cpu_is_amd(v))
			mem_write(v, SS, v->gpr[RSP] - 8, 8, t->f->under);
		return op_gp0(v);
	}
	v->gpr[RSP] -= 8;
	v->rip = t->f->tmp;
	return OP_JUMP;
}

/* An instruction of the translator's own, with the place of the guest's. */
static const struct insn *insn_new(struct translator *t, const struct insn *in, op_fn *fn)
{
	struct insn *i = (struct insn *)(void *)(t->arena + t->arena_used);

	if (t->arena_size - t->arena_used < sizeof(*i)) {
		t->full = true;
		return in;
	}
	t->arena_used += align_up(sizeof(*i), 16);
	*i = *in;
	i->fn = fn;
	return i;
}

/* The return address is written before the target is known to be translated; writing it
 * again is no harm. It is left in T_KEEP. 'keep': see call_pushed(). */
static void push_return(struct front *f, const struct plan *p, const struct mem_access *a,
			bool keep)
{
	struct operand o = memop(f, p, a);

	if (keep) {
		load_operand(f, p, T_KEEP, o);
		emit_store(&f->e, T_KEEP, FRAME(f->t, under));
	}
	load_lin(f, T_KEEP, behind(p));
	store_operand(f, p, T_KEEP, o);
}

/* T5: what RET compares with; a host call comes next. */
static void shadow_push(struct front *f, const struct plan *p)
{
	struct emit *e = &f->e;

	/* A return to behind the segment is to fault as the instruction that it is. No
	 * key is 0: none is returned to. */
	if (f->based && !same_page(f, behind(p)))
		emit_mov_imm(e, T_KEEP, 0);
	else
		make_key(f, T_KEEP, T_SLOT);
	emit_not(e, T_KEEP);
	e8(e, 0x41); /* push r11 */
	e8(e, 0x53);
}

/* T5: where the host returns to, with the guest's address in T_ADDR. */
static void shadow_return(struct front *f, const struct plan *p)
{
	i64 to = behind(p);

	emit_lea_rsp(&f->e, H_RSP, 8);
	f->in_slot = -1;
	/* Behind a call at the very end of the page lies the next one. */
	if (!same_page(f, to)) {
		branch_lookup(f, p, NULL, 0);
		return;
	}
	if (f->based) {
		emit_load(&f->e, T_SLOT, FRAME(f->t, cs_neg));
		emit_lea_sib(&f->e, true, T_ADDR, T_ADDR, T_SLOT, 0, 0);
	}
	emit_lea(&f->e, true, T_ADDR, T_ADDR, -(i32)to);
	emit_store(&f->e, T_ADDR, FRAME(f->t, page_lin));
	near_link(f, p, emit_jmp(&f->e, 0), to);
}

/* The target is in T_ADDR, or its key; all is pushed. */
static void call_lookup(struct front *f, const struct plan *p, const struct insn *miss)
{
	struct cold *c = cold_add(f, p, emit_call(&f->e, 0), false);

	c->kind = COLD_LOOKUP;
	c->in = miss;
	c->target = -slot_size(p);
	shadow_return(f, p);
}

/* To another page of based code: as through a register. */
static void call_far_page(struct front *f, const struct plan *p, i64 target)
{
	bool amd = cpu_is_amd(f->t->v);

	push_return(f, p, &p->acc, amd);
	shadow_push(f, p);
	load_lin(f, T_ADDR, target);
	if (cuts_ip(p))
		emit_movzx16(&f->e, T_ADDR, T_ADDR);
	emit_store(&f->e, T_ADDR, FRAME(f->t, tmp));
	make_key(f, T_ADDR, T_SLOT);
	call_lookup(f, p, amd ? insn_new(f->t, p->in, call_pushed) : p->in);
}

static void call_rel(struct front *f, const struct plan *p)
{
	i64 target = target_of(p);

	if (f->based && !same_page(f, target)) {
		call_far_page(f, p, target);
		return;
	}
	emit_poll(f, p, p->in);
	push_return(f, p, &p->acc, false);
	shadow_push(f, p);
	move_sp(f, -slot_size(p));
	if (same_page(f, target))
		near_link(f, p, emit_call(&f->e, 0), target);
	else
		far_link(f, p, p->in, target, true);
	shadow_return(f, p);
}

/* JMP and CALL through a register or memory: the target goes to T_ADDR. */
static void load_target(struct front *f, const struct plan *p)
{
	if (p->in->flags & INSN_MEM)
		load_operand(f, p, T_ADDR, memop(f, p, &p->acc));
	else if (slot_size(p) == 2)
		emit_movzx16(&f->e, T_ADDR, home(p->in->rm));
	else if (f->narrow)
		emit_lea(&f->e, false, T_ADDR, home(p->in->rm), 0);
	else
		load_guest(f, T_ADDR, p->in->rm);
}

static void call_rm(struct front *f, const struct plan *p)
{
	struct mem_access push = plan_stack(f, p, -1, true);
	bool amd = cpu_is_amd(f->t->v);

	load_target(f, p);
	emit_store(&f->e, T_ADDR, FRAME(f->t, tmp));
	push_return(f, p, &push, amd && (!f->narrow || f->based));
	emit_load(&f->e, T_ADDR, FRAME(f->t, tmp));
	shadow_push(f, p);
	make_key(f, T_ADDR, T_SLOT);
	call_lookup(f, p,
		    p->in->flags & INSN_MEM || amd ? insn_new(f->t, p->in, call_pushed)
						   : p->in);
}

static void ret(struct front *f, const struct plan *p)
{
	struct operand o = memop(f, p, &p->acc);
	i32 pop = slot_size(p) + (p->in->opcode == 0xc2 ? (u16)p->in->imm : 0);
	struct emit *e = &f->e;
	struct cold *c;

	load_operand(f, p, T_ADDR, o);
	make_key(f, T_ADDR, T_SLOT);
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_load_rsp8(e, H_RCX);
	emit_lea_sib(e, true, H_RCX, H_RCX, T_ADDR, 0, 1); /* 0 for its complement */
	emit_jrcxz(e, f->t->options.slow ? 0 : 5);
	c = cold_add(f, p, emit_jmp(e, 0), true);
	c->kind = COLD_LOOKUP;
	c->target = pop;
	c->drop = true;
	emit_mov_rr(e, H_RCX, T_KEEP);
	move_sp(f, pop);
	e8(e, 0xc3);
}

/* ---- planning ---- */

static bool plan_stack_access(const struct front *f, struct plan *p, i32 slot, bool write)
{
	p->mem = true;
	p->acc = plan_stack(f, p, slot, write);
	p->written |= 1u << RSP;
	return true;
}

/* JMP and CALL through ModRM. */
static bool plan_indirect(const struct front *f, struct plan *p, unsigned group)
{
	const struct insn *in = p->in;

	if ((in->modrm >> 3 & 7) != group)
		return false;
	if (!(in->flags & INSN_MEM))
		return true;
	p->mem = true;
	p->acc.size = (u8)slot_size(p);
	return plan_operand(f, p);
}

static bool plan_count_branch(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;

	p->flags = FLAGS_READ;
	p->written = in->opcode == 0xe2 ? 1u << RCX : 0;
	return (in->opcode == 0xe2 || in->opcode == 0xe3) &&
	       (in->adsize == 2 ? f->based : in->adsize == (f->narrow ? 4 : 8)) &&
	       same_page(f, target_of(p));
}

static bool plan_push(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;

	p->flags = FLAGS_ALONE;
	if (in->opcode == 0xff) {
		p->mem2 = true;
		p->acc2 = plan_stack(f, p, -1, true);
		p->written = 1u << RSP;
		return (in->flags & INSN_MEM) && plan_indirect(f, p, 6);
	}
	/* Of 32 bits it writes as many or 16, by the vendor. */
	if (pushes_sreg(in) && !(p->low && in->opsize == 2))
		return false;
	return (in->opcode == 0x68 || in->opcode == 0x6a || pushes_sreg(in) ||
		(in->opcode >= 0x50 && in->opcode <= 0x57)) &&
	       plan_stack_access(f, p, -1, true);
}

/* Calls and jumps through a register or memory, of 32 bits in 16-bit code, are seldom. */
static bool plan_jump(const struct front *f, struct plan *p, unsigned group)
{
	return is_slot(p) && (!p->low || p->in->opsize == 2) &&
	       plan_indirect(f, p, group);
}

bool branch_plan(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;
	bool natural = is_slot(p);

	p->flags = FLAGS_USED;
	/* Near branches that cut RIP to 16 bits. */
	if (in->opsize == 2 && !p->low)
		return false;
	if (block_insn_is_jcc(in)) {
		p->flags = FLAGS_READ;
		return near_enough(target_of(p));
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (in->opcode == 0xff)
			return plan_jump(f, p, 4);
		return in->opcode != 0xea && near_enough(target_of(p));
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: return plan_count_branch(f, p);
	case ZYDIS_MNEMONIC_CALL:
		if (in->opcode == 0xff)
			return plan_jump(f, p, 2);
		return natural && in->opcode == 0xe8 && near_enough(target_of(p)) &&
		       plan_stack_access(f, p, -1, true);
	case ZYDIS_MNEMONIC_RET:
		return (in->opcode == 0xc2 || in->opcode == 0xc3) && natural &&
		       plan_stack_access(f, p, 0, false);
	case ZYDIS_MNEMONIC_PUSH: return natural && plan_push(f, p);
	case ZYDIS_MNEMONIC_POP:
		if (!natural || in->opcode < 0x58 || in->opcode > 0x5f || in->rm == RSP)
			return false;
		p->flags = FLAGS_ALONE;
		p->written = (u16)(1u << in->rm);
		return plan_stack_access(f, p, 0, false);
	case ZYDIS_MNEMONIC_LEAVE:
		if (!natural)
			return false;
		p->flags = FLAGS_ALONE;
		p->written = 1u << RBP;
		plan_stack_access(f, p, 0, false);
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
		make_key(f, T_ADDR, T_SLOT);
		branch_lookup(f, p, in, 0);
		return;
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ: count_branch(f, p); return;
	case ZYDIS_MNEMONIC_CALL:
		if (in->opcode == 0xff)
			call_rm(f, p);
		else
			call_rel(f, p);
		return;
	case ZYDIS_MNEMONIC_RET: ret(f, p); return;
	case ZYDIS_MNEMONIC_PUSH:
		if (in->opcode == 0xff)
			push_mem(f, p);
		else if (in->opcode == 0x68 || in->opcode == 0x6a)
			push_imm(f, p);
		else if (pushes_sreg(in))
			push_sreg(f, p);
		else
			push_reg(f, p);
		return;
	case ZYDIS_MNEMONIC_POP: pop_reg(f, p); return;
	default: leave(f, p); return;
	}
}
