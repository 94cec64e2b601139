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

/* T_ADDR = linear address of an offset from the page. */
static void load_lin(struct front *f, unsigned reg, i64 off)
{
	emit_load_rsp(&f->e, reg, FRAME(f->t, page_lin));
	emit_lea(&f->e, true, reg, reg, (i32)off);
}

static bool same_page(i64 target)
{
	return target >= 0 && target < (i64)PAGE_SIZE;
}

/* A jump that leads to its exit until the dispatcher links it. */
static void emit_link(struct front *f, i64 target, bool backward)
{
	struct emit *e = &f->e;
	struct tr_link *l = link_new(f->t);
	u8 *out = NULL;

	if (!l)
		return;
	if (backward) {
		/* T4: a kick is looked for where the code may go round. */
		emit_mov_rr(e, T_KEEP, H_RCX);
		emit_load_rsp(e, H_RCX, FRAME(f->t, kicked));
		emit_jrcxz(e, 8); /* over the next mov and jmp */
		emit_mov_rr(e, H_RCX, T_KEEP);
		out = emit_jmp(e, 0);
		emit_mov_rr(e, H_RCX, T_KEEP);
	}
	l->at = emit_jmp(e, 0);
	l->target = (f->b->gpa & PAGE_MASK) + (u64)target;
	l->next = NULL;
	le_store(l->at, 0, 4);
	/* The exit, asking for a link. */
	emit_mov_imm(e, T_KEEP, (u64)l);
	emit_store_rsp(e, T_KEEP, FRAME(f->t, link));
	if (backward)
		emit_patch(out, e->p);
	load_lin(f, T_ADDR, target);
	emit_jmp(e, f->t->leave_at);
}

void branch_lookup(struct front *f, const struct insn *in, unsigned pop)
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
	cold_add(f, in, emit_jmp(e, 0), true);
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

void branch_to(struct front *f, const struct insn *in, i64 target)
{
	if (same_page(target)) {
		emit_link(f, target, target <= (i64)(f->start + in->ip_off));
		return;
	}
	load_lin(f, T_ADDR, target);
	branch_lookup(f, in, 0);
}

void branch_cold(struct front *f, struct cold *c)
{
	if (c->kind == COLD_LINK) {
		emit_link(f, c->target, c->backward);
	} else {
		load_lin(f, T_ADDR, c->target);
		branch_lookup(f, c->in, 0);
	}
}

static i64 target_of(const struct front *f, const struct insn *in)
{
	return (i64)f->start + in->ip_off + in->len + (i64)in->imm;
}

/* Far outside of what lea reaches only when the guest's code says so. */
static bool near_enough(i64 target)
{
	return target == (i32)target;
}

static bool jcc(struct front *f, const struct insn *in)
{
	i64 target = target_of(f, in);
	struct cold *c;
	u8 *at = emit_jcc(&f->e, in->opcode & 15);

	c = cold_add(f, in, at, false);
	c->kind = same_page(target) ? COLD_LINK : COLD_FAR;
	c->target = target;
	c->backward = target <= (i64)(f->start + in->ip_off);
	return true;
}

/* Store T_KEEP, or the guest register, below RSP; RSP is not moved yet. */
static void push_check(struct front *f, const struct insn *in)
{
	emit_lea(&f->e, true, T_ADDR, H_R8, -8);
	memop_check(f, in, true, 8);
}

/* mov [T_ADDR + T_SLOT], reg */
static void store_operand(struct front *f, unsigned reg)
{
	struct emit *e = &f->e;

	site_add(f, f->access);
	e8(e, 0x4b | (reg >> 3) << 2);
	e8(e, 0x89);
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0x11); /* [r9 + r10] */
}

static void load_operand(struct front *f, unsigned reg)
{
	struct emit *e = &f->e;

	site_add(f, f->access);
	e8(e, 0x4b | (reg >> 3) << 2);
	e8(e, 0x8b);
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0x11);
}

static void finish_slow(struct front *f, unsigned first)
{
	for (unsigned i = first; i < f->colds; i++)
		if (f->cold[i].kind == COLD_SLOW && !f->cold[i].back)
			f->cold[i].back = f->e.p;
}

static bool push_reg(struct front *f, const struct insn *in, unsigned reg)
{
	push_check(f, in);
	if (in_memory(reg))
		emit_load_rsp(&f->e, T_KEEP, gpr_slot(reg));
	store_operand(f, in_memory(reg) ? T_KEEP : home(reg));
	emit_mov_rr(&f->e, H_R8, T_ADDR);
	return true;
}

static bool push_imm(struct front *f, const struct insn *in)
{
	push_check(f, in);
	/* mov qword [r9 + r10], imm32 */
	site_add(f, f->access);
	e8(&f->e, 0x4b);
	e8(&f->e, 0xc7);
	e8(&f->e, 0x04);
	e8(&f->e, 0x11);
	e32(&f->e, (u32)in->imm);
	emit_mov_rr(&f->e, H_R8, T_ADDR);
	return true;
}

static bool pop_reg(struct front *f, const struct insn *in)
{
	if (in->rm == RSP)
		return false;
	emit_mov_rr(&f->e, T_ADDR, H_R8);
	memop_check(f, in, false, 8);
	load_operand(f, in_memory(in->rm) ? T_KEEP : home(in->rm));
	if (in_memory(in->rm))
		emit_store_rsp(&f->e, T_KEEP, gpr_slot(in->rm));
	emit_lea(&f->e, true, H_R8, H_R8, 8);
	return true;
}

static bool leave(struct front *f, const struct insn *in)
{
	emit_mov_rr(&f->e, T_ADDR, H_RBP);
	memop_check(f, in, false, 8);
	load_operand(f, T_KEEP);
	emit_lea(&f->e, true, H_R8, H_RBP, 8);
	emit_mov_rr(&f->e, H_RBP, T_KEEP);
	return true;
}

/* The return address is written before the target is known to be translated; writing it
 * again is no harm. */
static void push_return(struct front *f, const struct insn *in)
{
	push_check(f, in);
	load_lin(f, T_KEEP, (i64)f->start + in->ip_off + in->len);
	store_operand(f, T_KEEP);
}

static bool call_rel(struct front *f, const struct insn *in)
{
	i64 target = target_of(f, in);

	push_return(f, in);
	if (same_page(target)) {
		emit_mov_rr(&f->e, H_R8, T_ADDR);
		emit_link(f, target, true);
	} else {
		load_lin(f, T_ADDR, target);
		branch_lookup(f, in, (unsigned)-8);
	}
	return true;
}

/* JMP and CALL through a register or memory: the target goes to T_ADDR. */
static bool load_target(struct front *f, const struct insn *in)
{
	if (!(in->flags & INSN_MEM)) {
		load_guest(f, T_ADDR, in->rm);
		return true;
	}
	if (!memop_address(f, in))
		return false;
	memop_check(f, in, false, 8);
	load_operand(f, T_ADDR);
	return true;
}

static bool jmp_rm(struct front *f, const struct insn *in)
{
	if (!load_target(f, in))
		return false;
	branch_lookup(f, in, 0);
	return true;
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

static bool call_rm(struct front *f, const struct insn *in)
{
	if (!load_target(f, in))
		return false;
	emit_store_rsp(&f->e, T_ADDR, FRAME(f->t, tmp));
	push_return(f, in);
	emit_load_rsp(&f->e, T_ADDR, FRAME(f->t, tmp));
	branch_lookup(f, in->flags & INSN_MEM ? pushed_insn(f->t, in) : in, (unsigned)-8);
	return true;
}

static bool ret(struct front *f, const struct insn *in)
{
	emit_mov_rr(&f->e, T_ADDR, H_R8);
	memop_check(f, in, false, 8);
	load_operand(f, T_ADDR);
	branch_lookup(f, in, 8 + (in->opcode == 0xc2 ? (u16)in->imm : 0));
	return true;
}

static bool emit_branch(struct front *f, const struct insn *in)
{
	unsigned group = in->modrm >> 3 & 7;

	/* Near branches of AMD that cut RIP to 16 bits. */
	if (in->opsize == 2)
		return false;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JO:
	case ZYDIS_MNEMONIC_JNO:
	case ZYDIS_MNEMONIC_JB:
	case ZYDIS_MNEMONIC_JNB:
	case ZYDIS_MNEMONIC_JZ:
	case ZYDIS_MNEMONIC_JNZ:
	case ZYDIS_MNEMONIC_JBE:
	case ZYDIS_MNEMONIC_JNBE:
	case ZYDIS_MNEMONIC_JS:
	case ZYDIS_MNEMONIC_JNS:
	case ZYDIS_MNEMONIC_JP:
	case ZYDIS_MNEMONIC_JNP:
	case ZYDIS_MNEMONIC_JL:
	case ZYDIS_MNEMONIC_JNL:
	case ZYDIS_MNEMONIC_JLE:
	case ZYDIS_MNEMONIC_JNLE: return near_enough(target_of(f, in)) && jcc(f, in);
	case ZYDIS_MNEMONIC_JMP:
		if (in->opcode == 0xff)
			return group == 4 && in->opsize == 8 && jmp_rm(f, in);
		if (in->opcode == 0xea || !near_enough(target_of(f, in)))
			return false;
		branch_to(f, in, target_of(f, in));
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (in->opsize != 8)
			return false;
		if (in->opcode == 0xff)
			return group == 2 && call_rm(f, in);
		return in->opcode == 0xe8 && near_enough(target_of(f, in)) &&
		       call_rel(f, in);
	case ZYDIS_MNEMONIC_RET:
		return (in->opcode == 0xc2 || in->opcode == 0xc3) && in->opsize == 8 &&
		       ret(f, in);
	case ZYDIS_MNEMONIC_PUSH:
		if (in->opsize != 8)
			return false;
		if (in->opcode == 0x68 || in->opcode == 0x6a)
			return push_imm(f, in);
		if (in->opcode >= 0x50 && in->opcode <= 0x57)
			return push_reg(f, in, in->rm);
		return false;
	case ZYDIS_MNEMONIC_POP:
		return in->opsize == 8 && in->opcode >= 0x58 && in->opcode <= 0x5f &&
		       pop_reg(f, in);
	case ZYDIS_MNEMONIC_LEAVE: return in->opsize == 8 && leave(f, in);
	default: return false;
	}
}

bool branch_insn(struct front *f, const struct insn *in)
{
	unsigned first = f->colds;

	if (!emit_branch(f, in))
		return false;
	finish_slow(f, first);
	return true;
}
