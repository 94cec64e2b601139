/*
 * Which accesses of a trace share a check, and where the flags are dead.
 *
 * Accesses off one register, of which only constants are added to the register in
 * between, are one group as long as they span few bytes: its first access checks that all
 * of the span is in one page that may be accessed so; the others use the host address it
 * found. Nothing between them can take that away: whatever flushes the TLB also leaves
 * the trace (translate_call_out()). A check that fails because of the others' bytes
 * leaves the trace too, see translate_group_miss().
 *
 * Operands off RIP, in 32-bit code off nothing, stay where they are while the trace runs,
 * so all of one page are one group, loads and stores apart: a store may be beyond a
 * branch, and its page write-protected. In based code they are off a register that is
 * always 0, and each group is in one segment. Thread: the owner of the vCPU.
 */
#include "engine/translate/front.h"

/* The wider the span, the more often it crosses a page. */
#define SPAN       64
#define SPAN_STACK 128
#define DRIFT_MAX  (1 << 20)

/* The general registers, and none at all. */
#define NO_BASE 16u
#define REGS    (NO_BASE + 1)

/* What is known of each register while the trace is walked. */
struct walk_state {
	i32 added[REGS]; /* since its last untracked change */
	i8 open[REGS];   /* group, or -1 */
	unsigned rip;    /* groups off RIP from this number on are open */
};

/* The number of a base register here. */
static unsigned reg_of(const struct mem_access *a)
{
	return MIN(a->base, NO_BASE);
}

/* In 16-bit code groups have addresses of 16 bits. */
static bool is_wide_enough(const struct plan *p, unsigned size)
{
	return p->low ? size >= 2 : size == (is_narrow(p->in) ? 4 : 8);
}

/* ADD, SUB, INC, DEC and LEA that add a constant to a register as wide as addresses are;
 * the implied ones of the stack. */
static bool adds_constant(const struct plan *p, unsigned *reg, i64 *n)
{
	const struct insn *in = p->in;

	if (p->kind == PLAN_LEA) {
		*reg = in->reg;
		*n = p->acc.disp;
		return in->base == in->reg && in->index == GPR_ZERO &&
		       is_wide_enough(p, in->opsize) && is_wide_enough(p, in->adsize);
	}
	if (p->kind != PLAN_COPY || p->mem || !is_wide_enough(p, in->opsize) ||
	    !p->rm_gpr)
		return false;
	*reg = in->rm;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		*n = (i64)in->imm;
		return in->opcode == 0x81 || in->opcode == 0x83;
	case ZYDIS_MNEMONIC_SUB:
		*n = -(i64)in->imm;
		return in->opcode == 0x81 || in->opcode == 0x83;
	case ZYDIS_MNEMONIC_INC: *n = 1; return in->opcode != 0xfe;
	case ZYDIS_MNEMONIC_DEC: *n = -1; return in->opcode != 0xfe;
	default: return false;
	}
}

static void move(struct walk_state *s, unsigned reg, i64 n)
{
	i64 sum = s->added[reg] + n;

	if (n != (i32)n || sum > DRIFT_MAX || sum < -DRIFT_MAX) {
		s->open[reg] = -1;
		s->added[reg] = 0;
	} else {
		s->added[reg] = (i32)sum;
	}
}

static void note_writes(const struct front *f, struct walk_state *s, const struct plan *p)
{
	u16 written = p->written;
	unsigned reg;
	i64 n;

	/* What may be accessed changes with EFLAGS.AC. */
	if (p->in->mnemonic == ZYDIS_MNEMONIC_STAC ||
	    p->in->mnemonic == ZYDIS_MNEMONIC_CLAC) {
		written = 0xffff;
		s->rip = f->groups;
		s->open[NO_BASE] = -1;
	}
	if (adds_constant(p, &reg, &n)) {
		move(s, reg, n);
		return;
	}
	if (p->kind != PLAN_CALL_OUT && (p->in->mnemonic == ZYDIS_MNEMONIC_PUSH ||
					 p->in->mnemonic == ZYDIS_MNEMONIC_PUSHF ||
					 p->in->mnemonic == ZYDIS_MNEMONIC_PUSHFQ ||
					 p->in->mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
					 p->in->mnemonic == ZYDIS_MNEMONIC_POP)) {
		i32 slot = slot_size(p);

		move(s, RSP, p->in->mnemonic == ZYDIS_MNEMONIC_POP ? slot : -slot);
		written &= (u16) ~(1u << RSP);
	}
	/* It may load a segment register, or does. */
	if (p->kind == PLAN_CALL_OUT)
		s->open[NO_BASE] = -1;
	for (reg = 0; reg < REGS && p->loads_segment; reg++)
		if (reg != RSP || (s->open[RSP] >= 0 && f->group[s->open[RSP]].seg != SS))
			s->open[reg] = -1;
	for (reg = 0; reg < 16; reg++) {
		if (written >> reg & 1) {
			s->open[reg] = -1;
			s->added[reg] = 0;
		}
	}
}

/* The address is as wide as the mode has it. */
static bool is_natural(const struct front *f, const struct mem_access *a)
{
	return a->wide != f->narrow && a->low == f->low;
}

static bool groupable(const struct front *f, const struct mem_access *a)
{
	if (f->based ? a->base == GPR_RIP : a->seg >= FS || a->base >= 16)
		return false;
	return is_natural(f, a) && a->index == GPR_ZERO && !a->bits && a->size <= SPAN &&
	       a->disp > -DRIFT_MAX && a->disp < DRIFT_MAX;
}

/* In 32-bit code, without any register. */
static bool groupable_rip(const struct front *f, const struct mem_access *a)
{
	return is_natural(f, a) && !f->based && !a->bits && a->seg < FS &&
	       a->base == (f->narrow ? GPR_ZERO : GPR_RIP) && a->index == GPR_ZERO &&
	       (a->disp & (i32)(PAGE_SIZE - 1)) + a->size <= (i32)PAGE_SIZE;
}

static void join_rip(struct front *f, const struct walk_state *s, struct mem_access *a)
{
	i32 lo = a->disp, hi = lo + a->size;
	unsigned i;

	for (i = s->rip; i < f->groups; i++) {
		struct group *g = &f->group[i];

		if (!g->rip || g->write != a->write ||
		    (g->lo ^ lo) & ~(i32)(PAGE_SIZE - 1))
			continue;
		g->lo = MIN(lo, g->lo);
		g->hi = MAX(hi, g->hi);
		g->members++;
		break;
	}
	if (i == GROUP_MAX)
		return;
	if (i == f->groups) {
		f->groups++;
		f->group[i] = (struct group){ .lo = lo,
					      .hi = hi,
					      .write = a->write,
					      .rip = true,
					      .members = 1,
					      .slot = (u8)i };
		a->leader = true;
	}
	a->group = (i8)i;
	a->from_lo = lo;
}

/* 'lead': it may begin a group. */
static void join(struct front *f, struct walk_state *s, struct mem_access *a, bool lead)
{
	unsigned reg = reg_of(a);
	i32 lo = s->added[reg] + a->disp, hi = lo + a->size;
	i32 span = reg == RSP ? SPAN_STACK : SPAN;
	int i = s->open[reg];
	struct group *g;

	/* They wrap at 64 KiB; where the limit is above, nothing keeps them from it. */
	if (a->low && a->reach == REACH_ROOM)
		return;
	if (i >= 0 && (!f->based || f->group[i].seg == a->seg)) {
		g = &f->group[i];
		if (MAX(hi, g->hi) - MIN(lo, g->lo) <= span) {
			g->lo = MIN(lo, g->lo);
			g->hi = MAX(hi, g->hi);
			g->write |= a->write;
			g->members++;
			a->group = (i8)i;
			a->from_lo = lo; /* made relative at the end */
			return;
		}
	}
	if (f->groups == GROUP_MAX || !lead)
		return;
	i = (int)f->groups++;
	f->group[i] = (struct group){ .lo = lo,
				      .hi = hi,
				      .write = a->write,
				      .seg = a->seg,
				      .members = 1,
				      .slot = (u8)i };
	s->open[reg] = (i8)i;
	a->group = (i8)i;
	a->from_lo = lo;
	a->leader = true;
}

/* All groups are known: one without company is none. */
static void settle(const struct front *f, struct mem_access *a)
{
	if (a->group < 0)
		return;
	if (f->group[a->group].members == 1)
		a->group = -1;
	else
		a->from_lo -= f->group[a->group].lo;
}

static void find_groups(struct front *f)
{
	struct walk_state s = { 0 };
	bool vectors = false;

	for (unsigned i = 0; i < REGS; i++)
		s.open[i] = -1;
	for (unsigned i = 0; i < f->insns; i++) {
		struct plan *p = &f->plan[i];

		/* The first vector instruction may be left to the interpreter as it is
		 * (copy.c), and a check with it; so may a load of a segment. */
		bool lone = p->loads_segment || (p->vector && !vectors);

		vectors |= p->vector;
		if (!lone && p->mem && p->kind != PLAN_LEA && groupable(f, &p->acc))
			join(f, &s, &p->acc, true);
		else if (!lone && p->mem && p->kind != PLAN_LEA &&
			 groupable_rip(f, &p->acc))
			join_rip(f, &s, &p->acc);
		/* The slow stub of the first access does both. */
		if (p->mem2)
			join(f, &s, &p->acc2, p->acc.group >= 0 && !p->acc.leader);
		note_writes(f, &s, p);
	}
	for (unsigned i = 0; i < f->insns; i++) {
		settle(f, &f->plan[i].acc);
		if (f->plan[i].mem2)
			settle(f, &f->plan[i].acc2);
	}
}

static void find_dead_flags(struct front *f)
{
	bool dead = false;

	for (unsigned i = f->insns; i-- > 0;) {
		struct plan *p = &f->plan[i];

		if (p->flags == FLAGS_SET)
			dead = true;
		else if (p->flags >= FLAGS_READ)
			dead = false;
		p->dead = dead;
	}
}

void group_accesses(struct front *f)
{
	f->groups = 0;
	if (!f->b->lone && !f->t->options.slow)
		find_groups(f);
	find_dead_flags(f);
}
