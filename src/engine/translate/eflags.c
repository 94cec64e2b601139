/*
 * The guest's status flags while a check of an access overwrites them.
 *
 * The quick check of an access changes flags. It may be used where two things hold: the
 * flags are overwritten before anybody reads them, and, since a fault shows them all the
 * same (T1), they can be made again from the operands of the instruction that set them,
 * which are still there. Making them again is left to the slow stubs; where flags turn
 * out to be needed after all it is done in line, so what the plan foresees is a matter of
 * speed only.
 *
 * Both vendors' processors clear AF for AND, OR, XOR and TEST, for which the manuals
 * leave it undefined; so a result alone makes their flags again.
 *
 * Thread: the owner of the vCPU.
 */
#include "engine/translate/front.h"

enum {
	MAKE_AGAIN,   /* CMP and TEST: once more */
	MAKE_TEST,    /* AND, OR, XOR: TEST of the result with itself */
	MAKE_ADD_IMM, /* take the immediate off, and add it again */
	MAKE_SUB_IMM,
	MAKE_ADD_REG,
	MAKE_SUB_REG,
};

static u16 bit_of(unsigned gpr)
{
	return (u16)(1u << gpr);
}

/* ModRM.rm, or the accumulator for the forms without ModRM. */
static unsigned rm_of(const struct plan *p)
{
	return p->modrm ? p->in->rm : RAX;
}

static bool has_imm(const struct plan *p)
{
	return !p->reg_gpr;
}

/* The destination is in ModRM.reg. */
static bool to_reg(const struct plan *p)
{
	return p->reg_gpr && (p->in->opcode & 2);
}

/* Register to register or immediate to register, no 8-bit registers above the low byte.
 */
static bool plain(const struct plan *p)
{
	return p->kind == PLAN_COPY && !p->mem && !p->high_byte && p->imm_len <= 4;
}

static bool recipe_of(const struct plan *p, struct recipe *r)
{
	const struct insn *in = p->in;
	bool imm = has_imm(p);

	if (!plain(p))
		return false;
	*r = (struct recipe){ .maker = p };
	r->uses = bit_of(rm_of(p));
	if (p->reg_gpr)
		r->uses |= bit_of(in->reg);
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST: r->kind = MAKE_AGAIN; return true;
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		r->kind = MAKE_TEST;
		r->uses = bit_of(to_reg(p) ? in->reg : rm_of(p));
		return true;
	case ZYDIS_MNEMONIC_ADD:
		r->kind = imm ? MAKE_ADD_IMM : MAKE_ADD_REG;
		return imm || in->reg != in->rm;
	case ZYDIS_MNEMONIC_SUB:
		r->kind = imm ? MAKE_SUB_IMM : MAKE_SUB_REG;
		return imm || in->reg != in->rm;
	default: return false;
	}
}

/* ---- emitting ---- */

static unsigned operand_size(const struct plan *p)
{
	return p->byte_reg ? 1 : p->in->opsize;
}

static void size_prefix(struct emit *e, unsigned size, unsigned reg, unsigned rm)
{
	if (size == 2)
		e8(e, 0x66);
	e8(e, 0x40 | (size == 8 ? 8 : 0) | (reg >> 3) << 2 | rm >> 3);
}

/* 'opcode' is that of the 16- to 64-bit form with the destination in rm. */
static void alu_rr(struct emit *e, unsigned opcode, unsigned size, unsigned rm,
		   unsigned reg)
{
	size_prefix(e, size, reg, rm);
	e8(e, size == 1 ? opcode - 1 : opcode);
	e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

/* ADD, SUB, CMP by the digit of group 1; TEST by 0xf7. */
static void alu_ri(struct emit *e, bool test, unsigned digit, unsigned size, unsigned rm,
		   u64 imm)
{
	size_prefix(e, size, 0, rm);
	if (test)
		e8(e, size == 1 ? 0xf6 : 0xf7);
	else
		e8(e, size == 1 ? 0x80 : 0x81);
	e8(e, 0xc0 | digit << 3 | (rm & 7));
	if (size == 1)
		e8(e, imm & 0xff);
	else if (size == 2) {
		e8(e, imm & 0xff);
		e8(e, imm >> 8 & 0xff);
	} else
		e32(e, (u32)imm);
}

enum { OP_ADD = 0x01, OP_SUB = 0x29, OP_CMP = 0x39, OP_TEST = 0x85 };
enum { DIGIT_ADD = 0, DIGIT_SUB = 5, DIGIT_CMP = 7 };

/* The register's value, where it lives or in the scratch register. */
static unsigned fetch(struct emit *e, unsigned guest, unsigned scratch)
{
	if (!in_memory(guest))
		return home(guest);
	emit_load(e, scratch, gpr_slot(e, guest));
	return scratch;
}

static void make_again(struct emit *e, const struct plan *p)
{
	const struct insn *in = p->in;
	bool test = in->mnemonic == ZYDIS_MNEMONIC_TEST;
	unsigned size = operand_size(p), rm = fetch(e, rm_of(p), T_ADDR), reg;

	if (!p->reg_gpr) {
		alu_ri(e, test, test ? 0 : DIGIT_CMP, size, rm, in->imm);
		return;
	}
	reg = in->reg == in->rm ? rm : fetch(e, in->reg, T_SLOT);
	if (test)
		alu_rr(e, OP_TEST, size, rm, reg);
	else if (to_reg(p))
		alu_rr(e, OP_CMP, size, reg, rm);
	else
		alu_rr(e, OP_CMP, size, rm, reg);
}

void eflags_make(struct emit *e, const struct recipe *r)
{
	const struct plan *p = r->maker;
	const struct insn *in = p->in;
	unsigned size = operand_size(p), src;
	unsigned dst = to_reg(p) ? in->reg : rm_of(p),
		 other = to_reg(p) ? in->rm : in->reg;

	switch (r->kind) {
	case MAKE_AGAIN: make_again(e, p); return;
	case MAKE_TEST:
		dst = fetch(e, dst, T_ADDR);
		alu_rr(e, OP_TEST, size, dst, dst);
		return;
	default: break;
	}
	/* The result in T_ADDR, back to what it was, and forth again. */
	if (in_memory(dst))
		emit_load(e, T_ADDR, gpr_slot(e, dst));
	else
		emit_mov_rr(e, T_ADDR, home(dst));
	switch (r->kind) {
	case MAKE_ADD_IMM:
		alu_ri(e, false, DIGIT_SUB, size, T_ADDR, in->imm);
		alu_ri(e, false, DIGIT_ADD, size, T_ADDR, in->imm);
		break;
	case MAKE_SUB_IMM:
		alu_ri(e, false, DIGIT_ADD, size, T_ADDR, in->imm);
		alu_ri(e, false, DIGIT_SUB, size, T_ADDR, in->imm);
		break;
	case MAKE_ADD_REG:
		src = fetch(e, other, T_SLOT);
		alu_rr(e, OP_SUB, size, T_ADDR, src);
		alu_rr(e, OP_ADD, size, T_ADDR, src);
		break;
	default:
		src = fetch(e, other, T_SLOT);
		alu_rr(e, OP_ADD, size, T_ADDR, src);
		alu_rr(e, OP_SUB, size, T_ADDR, src);
		break;
	}
}

/* ---- where they are ---- */

void eflags_need(struct front *f)
{
	if (!f->lost)
		return;
	eflags_make(&f->e, &f->recipe);
	f->in_slot = -1;
	f->lost = false;
}

bool eflags_lose(struct front *f, const struct plan *p)
{
	if (f->lost)
		return true;
	if (!p->dead || !f->recipe.maker || f->t->options.slow ||
	    (p->flags == FLAGS_ALONE && (p->written & f->recipe.uses)))
		return false;
	f->lost = true;
	return true;
}

void eflags_after(struct front *f, const struct plan *p)
{
	if (p->flags == FLAGS_ALONE || p->flags == FLAGS_READ) {
		if (p->written & f->recipe.uses)
			f->recipe = (struct recipe){ 0 };
		return;
	}
	f->lost = false;
	if (p->flags != FLAGS_SET || !recipe_of(p, &f->recipe))
		f->recipe = (struct recipe){ 0 };
}
