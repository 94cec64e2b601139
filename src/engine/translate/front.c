/*
 * From blocks of decoded instructions to code.
 *
 * Each instruction is re-encoded (copy.c), is a branch or a stack operation (branch.c),
 * is nothing at all, or is a call out to the interpreter's function. Behind the trace
 * come the slow stubs, one for each place where an instruction may need the interpreter
 * after all, and the exits of branches. Thread: the owner of the vCPU.
 */
#include "engine/translate/front.h"

#include <stdlib.h>

#include "host/execmem.h"
#include "x86/access.h"
#include "x86/stats.h"

/* Times a block must have been found to be made part of a trace. */
#define TRACE_COUNT 4

/*
 * Code memory is taken in regions of which one half is for code that runs and the other
 * for what seldom does, so that the host's instruction caches hold the first alone. A
 * block fits in BLOCK_CODE of each.
 */
#define REGION     KiB(512)
#define BLOCK_CODE KiB(16)

static bool region_new(struct translator *t)
{
	u8 *write, *exec = execmem_alloc(t->mem, REGION, 64, &write);

	if (!exec)
		return false;
	t->hot = (struct emit){ .p = write,
				.end = write + REGION / 2,
				.exec_delta = t->exec_delta,
				.gpr = VCPU(t, gpr) };
	t->cold = (struct emit){ .p = write + REGION / 2,
				 .end = write + REGION,
				 .exec_delta = t->exec_delta,
				 .gpr = VCPU(t, gpr) };
	return true;
}

static bool room(const struct emit *e)
{
	return (size_t)(e->end - e->p) >= BLOCK_CODE;
}

struct cold *cold_add(struct front *f, const struct plan *p, u8 *from, bool rcx)
{
	struct cold *c = &f->cold[f->colds];

	if (f->colds + 1 < COLD_MAX)
		f->colds++;
	else
		f->e.full = true;
	*c = (struct cold){ .kind = COLD_SLOW,
			    .p = p,
			    .in = p->in,
			    .start = p->start,
			    .from = from,
			    .rcx = rcx,
			    .lost = f->lost,
			    .recipe = f->recipe,
			    .x87 = f->x87,
			    .site = -1 };
	return c;
}

void site_add(struct front *f, struct cold *c)
{
	struct translator *t = f->t;
	struct tr_sites *s = &t->sites[f->seldom];

	if (s->count == s->cap) {
		t->full = true;
		return;
	}
	c->seldom = f->seldom;
	c->site = (i32)s->count++;
	s->site[c->site].at = (u32)(emit_exec(&f->e) - (u64)t->base);
}

void load_guest(struct front *f, unsigned host, unsigned guest)
{
	if (in_memory(guest))
		emit_load(&f->e, host, gpr_slot(&f->e, guest));
	else
		emit_mov_rr(&f->e, host, home(guest));
}

void check_zero(struct front *f, const struct plan *p, i32 addr, bool wide)
{
	emit_mov_rr(&f->e, T_KEEP, H_RCX);
	if (wide) {
		emit_load(&f->e, H_RCX, addr);
	} else {
		e8(&f->e, 0x8b); /* mov ecx, [addr] */
		emit_at(&f->e, H_RCX, addr);
	}
	emit_jrcxz(&f->e, f->t->options.slow ? 0 : 5);
	cold_add(f, p, emit_jmp(&f->e, 0), true);
	emit_mov_rr(&f->e, H_RCX, T_KEEP);
}

void emit_call_out(struct front *f, const struct insn *in, u32 start)
{
	struct emit *e = &f->e;

	emit_mov_imm(e, H_R10, start);
	emit_mov_imm(e, H_R11, (u64)in);
	emit_call(e, f->t->call_out);
}

static void emit_lea_insn(struct front *f, const struct plan *p)
{
	const struct insn *in = p->in;
	const struct mem_access *a = &p->acc;
	struct emit *e = &f->e;
	unsigned dst = in_memory(in->reg) ? T_ADDR : home(in->reg);

	if (f->based) {
		memop_offset(f, a);
		emit_mov_sized(e, in->opsize, dst, T_ADDR);
		return;
	}
	if (a->base < 16 && !in_memory(a->base) && a->index == GPR_ZERO) {
		emit_lea(e, a->wide && in->opsize == 8, dst, home(a->base), a->disp);
	} else if (f->narrow && a->index != GPR_ZERO) {
		emit_lea_sib(e, false, dst, a->base == GPR_ZERO ? NO_REG : home(a->base),
			     a->index, a->scale, a->disp);
	} else {
		memop_offset(f, a);
		if (in->opsize == 4) {
			/* mov r32, r9d */
			e8(e, 0x41 | (dst >> 3) << 2);
			e8(e, 0x8b);
			e8(e, 0xc1 | (dst & 7) << 3);
		} else if (dst != T_ADDR) {
			emit_mov_rr(e, dst, T_ADDR);
		}
	}
	if (in_memory(in->reg))
		emit_store(e, T_ADDR, gpr_slot(&f->e, in->reg));
}

static void translate_insn(struct front *f, const struct plan *p)
{
	unsigned first = f->colds;

	/* While lost, the flags can be made as long as what they are made of is there. */
	if (p->flags >= FLAGS_READ ||
	    (p->flags == FLAGS_ALONE && (p->written & f->recipe.uses)))
		eflags_need(f);
	/* Code is left by them, or another segment loaded. */
	if (p->kind == PLAN_BRANCH || p->kind == PLAN_CALL_OUT ||
	    p->kind == PLAN_STRING || p->loads_segment)
		x87_need(f);
	switch (p->kind) {
	case PLAN_NOTHING: return;
	case PLAN_LEA: emit_lea_insn(f, p); break;
	case PLAN_COPY: copy_insn(f, p); break;
	case PLAN_BRANCH: branch_insn(f, p); break;
	case PLAN_SYSTEM: system_insn(f, p); break;
	case PLAN_STRING: string_insn(f, p); break;
	case PLAN_SEGMENT: segment_insn(f, p); break;
	default:
		f->call_outs++;
		emit_call_out(f, p->in, p->start);
		/* It may have parked the vectors; translate_call_out puts them back. */
		f->in_slot = -1;
		break;
	}
	for (unsigned i = first; i < f->colds; i++) {
		if (f->cold[i].kind != COLD_SLOW)
			continue;
		f->cold[i].back = f->e.p;
		/* Nothing in scratch registers outlives a call out. */
		f->in_slot = -1;
	}
	eflags_after(f, p);
}

static void emit_cold(struct front *f)
{
	struct translator *t = f->t;
	struct emit *e = &f->e;

	f->seldom = true;
	/* Exits add some. */
	for (unsigned i = 0; i < f->colds; i++) {
		struct cold *c = &f->cold[i];

		if (c->from)
			emit_patch(c->from, e->p);
		if (c->kind >= COLD_LINK) {
			branch_cold(f, c);
			continue;
		}
		if (c->rcx)
			emit_mov_rr(e, H_RCX, T_KEEP);
		if (c->memo)
			memop_cold(f, c);
		if (c->site >= 0)
			t->sites[c->seldom].site[c->site].slow =
				(u32)(emit_exec(e) - (u64)t->base);
		if (c->lost)
			eflags_make(e, &c->recipe);
		x87_pointers(f, &c->x87);
		if (c->kind == COLD_GROUP) {
			emit_mov_imm(e, H_R10, c->start);
			emit_mov_imm(e, H_R11, (u64)c->group);
			emit_call(e, t->group_miss);
		} else {
			emit_call_out(f, c->in, c->start);
		}
		/* A branch leaves by the call. */
		if (c->back)
			emit_jmp(e, (u64)c->back + (u64)e->exec_delta);
	}
}

/* ---- traces ---- */

static void plan_block(struct front *f, struct block *b, unsigned insns)
{
	u32 start = (u32)(b->gpa & ~PAGE_MASK);

	for (unsigned i = 0; i < insns && f->insns < TRACE_MAX; i++) {
		struct plan *p = &f->plan[f->insns++];

		plan_insn(f, p, &b->insn[i], b->text + b->insn[i].ip_off, start);
		p->block = b;
	}
	f->b->span = (u16)(b->gpa + b->bytes - f->b->gpa);
}

/* The block that the last one falls into, if it has been executed as well. */
static struct block *falls_into(const struct front *f, const struct block *b)
{
	const struct insn *last = &b->insn[b->insns - 1];
	gpa_t next = b->gpa + b->bytes;
	struct block *n;

	if (f->t->options.one || f->t->options.run_block || f->insns >= TRACE_MAX)
		return NULL;
	if (f->plan[f->insns - 1].kind == PLAN_CALL_OUT || block_insn_ends(last) ||
	    ((next ^ b->gpa) & PAGE_MASK))
		return NULL;
	n = block_at(&f->t->cache, next, b->mode);
	if (!n || (next & ~PAGE_MASK) + n->bytes > f->hi || n->once ||
	    n->page2 != GPA_NONE || n->lone || n->stop ||
	    (!f->t->options.eager && n->count < TRACE_COUNT) ||
	    f->insns + n->insns > TRACE_MAX)
		return NULL;
	return n;
}

static void plan_trace(struct front *f)
{
	struct block *b = f->b;
	unsigned insns = f->t->options.one ? 1 : b->insns;

	f->insns = 0;
	while (b) {
		plan_block(f, b, insns);
		b = falls_into(f, b);
		insns = b ? b->insns : 0;
	}
}

/*
 * STI holds interrupts back for an instruction. In line it does so by having that
 * instruction right behind it; at the end of a trace the interpreter's function does it.
 */
static void plan_end(struct front *f)
{
	struct plan *last = &f->plan[f->insns - 1];

	if (last->kind != PLAN_SYSTEM || last->in->mnemonic != ZYDIS_MNEMONIC_STI)
		return;
	last->kind = PLAN_CALL_OUT;
	last->written = 0xffff;
}

static struct front *front_new(struct translator *t, struct block *b)
{
	struct front *f = malloc(sizeof(*f));

	if (!f)
		return NULL;
	f->t = t;
	f->e = t->hot;
	f->b = b;
	f->mode = t->make_mode;
	f->narrow = tr_mode_is_narrow(f->mode);
	f->based = tr_mode_is_based(f->mode);
	f->low = t->v->code_size == 2;
	f->lo = t->clip_lo;
	f->hi = t->clip_hi;
	f->idx = t->v->cpl == 3 ? MMU_USER : MMU_KERNEL;
	f->seldom = false;
	f->vec_checked = false;
	f->lost = false;
	f->recipe = (struct recipe){ 0 };
	f->x87 = (struct x87_last){ 0 };
	f->in_slot = -1;
	f->colds = 0;
	f->call_outs = 0;
	return f;
}

static struct tr_code *code_new(struct translator *t, struct block *b)
{
	struct tr_code *code = (struct tr_code *)(void *)(t->arena + t->arena_used);

	t->arena_used += align_up(sizeof(*code), 16);
	*code = (struct tr_code){ .entry = emit_exec(&t->hot),
				  .block = b,
				  .lo = t->clip_lo,
				  .hi = t->clip_hi,
				  .mode = (u8)t->make_mode };
	return code;
}

struct tr_code *front_translate(struct translator *t, struct block *b)
{
	struct front *f;
	struct tr_code *code;
	const struct plan *last;
	struct vcpu_stats *stats = t->v->stats;
	struct emit hot;

	if (t->arena_size - t->arena_used < sizeof(*code) + KiB(16) ||
	    t->sites[0].cap - t->sites[0].count < COLD_MAX ||
	    t->sites[1].cap - t->sites[1].count < COLD_MAX ||
	    ((!room(&t->hot) || !room(&t->cold)) && !region_new(t))) {
		t->full = true;
		return NULL;
	}
	f = front_new(t, b);
	if (!f) {
		t->full = true;
		return NULL;
	}
	f->code = code = code_new(t, b);
	plan_trace(f);
	plan_end(f);
	group_accesses(f);
	for (unsigned i = 0; i < f->insns; i++)
		translate_insn(f, &f->plan[i]);
	last = &f->plan[f->insns - 1];
	/* What runs on behind the last instruction: one that is called may also do so
	 * where it ends the block (MOV CR2). */
	if (!block_insn_ends(last->in) || last->kind != PLAN_BRANCH) {
		eflags_need(f);
		x87_need(f);
		branch_to(f, last, last->in + 1,
			  (i64)last->start + last->in->ip_off + last->in->len);
	}
	hot = f->e;
	f->e = t->cold;
	code->cold = emit_exec(&f->e);
	emit_cold(f);
	code->size = (u32)(hot.p - t->hot.p);
	code->cold_size = (u32)(f->e.p - t->cold.p);
	code->call_outs = f->call_outs;
	if (hot.full || f->e.full || t->full) {
		t->full = true;
		code = NULL;
	} else {
		t->hot = hot;
		t->cold = f->e;
		stats->insns_translated += f->insns;
		stats->guest_bytes += b->span;
		stats->code_bytes += code->size + code->cold_size;
		stats->cold_bytes += code->cold_size;
	}
	free(f);
	return code;
}
