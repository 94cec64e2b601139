/*
 * Segment registers in based code: MOV from them, and where a load sets base and selector
 * and nothing else (vcpu.seg_plain), MOV and POP to DS, ES, FS and GS.
 *
 * SDM volume 3 section 20.1.1. Code is shared by real mode, where it is so, and protected
 * mode, where it is not, so each load asks; what is not plain is left to the
 * interpreter's function. SS is as well, for its shadow. Thread: the owner of the vCPU.
 */
#include "engine/interp/ops.h"
#include "engine/translate/front.h"

/* Which one a POP is of. */
static unsigned popped(const struct insn *in)
{
	return in->opcode < 0xa0 ? in->opcode >> 3 & 3u : in->opcode == 0xa1 ? FS : GS;
}

static bool is_pop(const struct insn *in)
{
	return in->opcode == 0x07 || in->opcode == 0x1f || in->opcode == 0xa1 ||
	       in->opcode == 0xa9;
}

static unsigned loaded(const struct insn *in)
{
	return in->mnemonic == ZYDIS_MNEMONIC_POP ? popped(in) : in->reg;
}

static bool plan_load(const struct front *f, struct plan *p)
{
	unsigned sreg = loaded(p->in);

	if (sreg > GS || sreg == CS || sreg == SS || f->t->v->seg_plain[sreg])
		return false;
	p->loads_segment = true;
	return true;
}

static bool plan_memory(const struct front *f, struct plan *p, bool write)
{
	if (!(p->in->flags & INSN_MEM))
		return true;
	p->mem = true;
	p->acc.size = 2;
	p->acc.write = write;
	return plan_operand(f, p);
}

bool segment_plan(const struct front *f, struct plan *p)
{
	const struct insn *in = p->in;

	p->flags = FLAGS_ALONE;
	if (!f->based || (in->flags & INSN_LOCK))
		return false;
	if (in->mnemonic == ZYDIS_MNEMONIC_POP) {
		if (!is_pop(in) || !p->low || in->opsize != 2 || !plan_load(f, p))
			return false;
		p->mem = true;
		p->acc = plan_stack(f, p, 0, false);
		p->written = 1u << RSP;
		return true;
	}
	if (in->mnemonic != ZYDIS_MNEMONIC_MOV)
		return false;
	if (in->opcode == 0x8e)
		return plan_load(f, p) && plan_memory(f, p, false);
	if (in->opcode != 0x8c || in->reg > GS)
		return false;
	p->written = in->flags & INSN_MEM ? 0 : (u16)(1u << in->rm);
	return plan_memory(f, p, true);
}

static i32 seg_at(const struct front *f, unsigned sreg, size_t field)
{
	return VCPU(f->t, seg) + (i32)(sreg * sizeof(struct seg) + field);
}

/* movzx r, word at the operand */
static void load_selector(struct front *f, unsigned reg, struct operand o)
{
	struct emit *e = &f->e;

	e8(e, 0x40 | (reg >> 3) << 2 | memop_rex(o));
	e8(e, 0x0f);
	e8(e, 0xb7);
	memop_emit(e, reg, o, false);
}

/* T_ADDR, a selector, goes into the register. */
static void put_selector(struct front *f, unsigned sreg)
{
	struct emit *e = &f->e;

	e8(e, 0x66); /* mov [sel], r9w */
	e8(e, 0x44);
	e8(e, 0x89);
	emit_at(e, T_ADDR & 7, seg_at(f, sreg, offsetof(struct seg, sel)));
	emit_lea_sib(e, true, T_ADDR, NO_REG, T_ADDR, 3, 0);
	emit_lea_sib(e, true, T_ADDR, T_ADDR, T_ADDR, 0, 0);
	emit_store(e, T_ADDR, seg_at(f, sreg, offsetof(struct seg, base)));
	for (unsigned w = 0; w < 2; w++)
		emit_store(e, T_ADDR, VCPU(f->t, reach[w][sreg].low));
	emit_lea(e, true, T_ADDR, T_ADDR, 0x10000);
	for (unsigned w = 0; w < 2; w++)
		emit_store(e, T_ADDR, VCPU(f->t, reach[w][sreg].end));
	f->in_slot = -1;
}

static void load_insn(struct front *f, const struct plan *p)
{
	unsigned sreg = loaded(p->in);

	check_zero(f, p, VCPU(f->t, seg_plain[sreg]), false);
	if (p->mem)
		load_selector(f, T_ADDR, memop(f, p, &p->acc));
	else
		emit_movzx16(&f->e, T_ADDR, home(p->in->rm));
	if (p->in->mnemonic == ZYDIS_MNEMONIC_POP)
		move_sp(f, slot_size(p));
	put_selector(f, sreg);
}

void segment_insn(struct front *f, const struct plan *p)
{
	const struct insn *in = p->in;
	struct emit *e = &f->e;
	struct operand o = { 0 };

	if (p->loads_segment) {
		load_insn(f, p);
		return;
	}
	if (p->mem)
		o = memop(f, p, &p->acc);
	e8(e, 0x44); /* movzx r11d, word [sel] */
	e8(e, 0x0f);
	e8(e, 0xb7);
	emit_at(e, T_KEEP & 7, seg_at(f, in->reg, offsetof(struct seg, sel)));
	if (!p->mem) {
		emit_mov_sized(e, in->opsize, home(in->rm), T_KEEP);
		return;
	}
	e8(e, 0x66); /* mov [operand], r11w */
	e8(e, 0x44 | memop_rex(o));
	e8(e, 0x89);
	memop_emit(e, T_KEEP, o, false);
}
