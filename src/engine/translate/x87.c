/*
 * x87 instructions: the instruction and operand pointers that come with them.
 *
 * The instructions themselves are re-encoded like vector ones (copy.c), since their state
 * is live with the others'. Those that are not for control set FIP, FCS and FOP, and FDP
 * and FDS with a memory operand (SDM volume 1 section 8.1.8, interp/native.c). The host's
 * own are addresses of this process, so code keeps them in the vCPU: FDP at once, as its
 * registers may change; the others only where somebody may see them: at the end of a
 * block, before a call out, and in the slow stubs. They are known from the place in the
 * code, and selectors do not change within a trace but in calls out. An unmasked error
 * faults in the next instruction that waits, and its slow stub makes #MF of it.
 *
 * Left to the interpreter: FNINIT, FWAIT (whose #NM has its own rule), and all that
 * stores or loads an environment. Thread: the owner of the vCPU.
 */
#include "engine/interp/stub.h"
#include "engine/translate/front.h"

static const struct stub *stub_of_plan(const struct front *f, const struct plan *p)
{
	return p->kind == PLAN_COPY && p->in->aux ? stub_of(f->t->v, p->in) : NULL;
}

static bool no_selectors(const struct front *f)
{
	return cpu_has(f->t->v, FEAT_ZERO_FCS_FDS);
}

/* mov word [addr], T_ADDR's low half */
static void store16(struct emit *e, i32 addr)
{
	e8(e, 0x66);
	e8(e, 0x44);
	e8(e, 0x89);
	emit_at(e, T_ADDR & 7, addr);
}

/* A selector, or 0. */
static void put_selector(struct front *f, unsigned sreg, i32 addr)
{
	struct emit *e = &f->e;

	if (no_selectors(f)) {
		emit_mov_imm(e, T_ADDR, 0);
	} else {
		e8(e, 0x44); /* movzx r9d, word [sel] */
		e8(e, 0x0f);
		e8(e, 0xb7);
		emit_at(e, T_ADDR & 7,
			VCPU(f->t, seg) + (i32)(sreg * sizeof(struct seg) +
						offsetof(struct seg, sel)));
	}
	store16(e, addr);
}

void x87_pointers(struct front *f, const struct x87_last *x)
{
	struct emit *e = &f->e;
	const struct plan *p = x->any;
	const struct insn *in;

	if (x->mem)
		put_selector(f, x->mem->acc.seg, VCPU(f->t, fds));
	if (!p)
		return;
	in = p->in;
	emit_load(e, T_ADDR, FRAME(f->t, page_lin));
	emit_lea(e, true, T_ADDR, T_ADDR, (i32)(p->start + in->ip_off));
	emit_store(e, T_ADDR, VCPU(f->t, fip));
	emit_mov_imm(e, T_ADDR, (in->opcode & 7u) << 8 | in->modrm);
	store16(e, VCPU(f->t, fop));
	put_selector(f, CS, VCPU(f->t, fcs));
}

void x87_need(struct front *f)
{
	x87_pointers(f, &f->x87);
	f->x87 = (struct x87_last){ 0 };
}

/* The offset in the segment, cut to the address size. */
static void put_operand(struct front *f, const struct plan *p, struct operand at)
{
	struct emit *e = &f->e;

	if (p->acc.seg >= FS || f->narrow) {
		memop_offset(f, &p->acc);
	} else if (at.base != T_ADDR || at.disp) {
		emit_lea(e, true, T_ADDR, at.base, at.disp);
	}
	emit_store(e, T_ADDR, VCPU(f->t, fdp));
	f->x87.mem = p;
}

void x87_after(struct front *f, const struct plan *p, struct operand at)
{
	const struct stub *s = stub_of_plan(f, p);

	if (!s || !(s->flags & STUB_X87))
		return;
	if (p->mem)
		put_operand(f, p, at);
	f->x87.any = p;
}
