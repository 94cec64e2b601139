/*
 * From a block of decoded instructions to code.
 *
 * Each instruction is re-encoded (copy.c), is a branch or a stack operation (branch.c),
 * is nothing at all, or is a call out to the interpreter's function. Behind the block
 * come the slow stubs, one for each place where an instruction may need the interpreter
 * after all, and the exits of branches. Thread: the owner of the vCPU.
 */
#include "engine/translate/front.h"

#include <stdlib.h>

#include "host/execmem.h"
#include "x86/access.h"

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
				.exec_delta = t->exec_delta };
	t->cold = (struct emit){ .p = write + REGION / 2,
				 .end = write + REGION,
				 .exec_delta = t->exec_delta };
	return true;
}

static bool room(const struct emit *e)
{
	return (size_t)(e->end - e->p) >= BLOCK_CODE;
}

struct cold *cold_add(struct front *f, const struct insn *in, u8 *from, bool rcx)
{
	struct cold *c = &f->cold[f->colds];

	if (f->colds + 1 < COLD_MAX)
		f->colds++;
	else
		f->e.full = true;
	*c = (struct cold){
		.kind = COLD_SLOW, .in = in, .from = from, .rcx = rcx, .site = -1
	};
	return c;
}

void site_add(struct front *f, struct cold *c)
{
	struct translator *t = f->t;

	if (t->site_count == t->site_cap) {
		t->full = true;
		return;
	}
	c->site = (i32)t->site_count++;
	t->sites[c->site].at = (u32)(emit_exec(&f->e) - (u64)t->base);
}

void load_guest(struct front *f, unsigned host, unsigned guest)
{
	if (in_memory(guest))
		emit_load_rsp(&f->e, host, gpr_slot(guest));
	else
		emit_mov_rr(&f->e, host, home(guest));
}

void check_zero(struct front *f, const struct insn *in, i32 off)
{
	emit_mov_rr(&f->e, T_KEEP, H_RCX);
	emit_load_rsp(&f->e, H_RCX, off);
	emit_jrcxz(&f->e, f->t->options.slow ? 0 : 5);
	cold_add(f, in, emit_jmp(&f->e, 0), true);
	emit_mov_rr(&f->e, H_RCX, T_KEEP);
}

/* Have the interpreter's function execute the instruction. */
static void emit_call_out(struct front *f, const struct insn *in)
{
	struct emit *e = &f->e;

	emit_mov_imm(e, H_R10, f->start);
	emit_mov_imm(e, H_R11, (u64)in);
	emit_call(e, f->t->call_out);
}

/* Instructions that do nothing that can be seen. */
static bool is_nothing(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_NOP: return in->opcode != 0x0d; /* #UD on AMD */
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHW: return true;
	default: return false;
	}
}

static bool emit_lea_insn(struct front *f, const struct insn *in)
{
	struct emit *e = &f->e;
	unsigned dst = in_memory(in->reg) ? T_ADDR : home(in->reg);
	struct insn plain = *in;

	if (in->opsize == 2)
		return false;
	plain.seg = DS; /* a segment override changes nothing */
	if (!memop_address(f, &plain))
		return false;
	if (in->opsize == 4) {
		/* mov r32, r9d */
		e8(e, 0x41 | (dst >> 3) << 2);
		e8(e, 0x8b);
		e8(e, 0xc1 | (dst & 7) << 3);
	} else if (dst != T_ADDR) {
		emit_mov_rr(e, dst, T_ADDR);
	}
	if (in_memory(in->reg))
		emit_store_rsp(e, T_ADDR, gpr_slot(in->reg));
	return true;
}

static void translate_insn(struct front *f, const struct insn *in)
{
	/* Start over where it began if a form turns out not to be translatable. */
	u8 *start = f->e.p;
	unsigned colds = f->colds;
	u32 sites = f->t->site_count;
	bool vec_checked = f->vec_checked;

	if (is_nothing(in))
		return;
	if (in->mnemonic == ZYDIS_MNEMONIC_LEA && emit_lea_insn(f, in))
		return;
	if (branch_insn(f, in) || copy_insn(f, in, f->bytes + in->ip_off))
		return;
	f->e.p = start;
	f->colds = colds;
	f->t->site_count = sites;
	f->vec_checked = vec_checked;
	f->call_outs++;
	emit_call_out(f, in);
	/* It may have parked the vectors; translate_call_out puts them back. */
}

static void emit_cold(struct front *f)
{
	struct translator *t = f->t;

	for (unsigned i = 0; i < f->colds; i++) {
		struct cold *c = &f->cold[i];

		if (c->from)
			emit_patch(c->from, f->e.p);
		if (c->kind != COLD_SLOW) {
			branch_cold(f, c);
			continue;
		}
		if (c->rcx)
			emit_mov_rr(&f->e, H_RCX, T_KEEP);
		if (c->site >= 0)
			t->sites[c->site].slow = (u32)(emit_exec(&f->e) - (u64)t->base);
		emit_call_out(f, c->in);
		/* A branch leaves by the call. */
		if (c->back)
			emit_jmp(&f->e, (u64)c->back + (u64)f->e.exec_delta);
	}
}

struct tr_code *front_translate(struct translator *t, struct block *b)
{
	struct front *f;
	struct tr_code *code;
	struct emit hot;
	unsigned insns = t->options.one ? 1 : b->insns, called = 0;
	const struct insn *last = &b->insn[insns - 1];

	if (t->arena_size - t->arena_used < sizeof(*code) + KiB(8) ||
	    t->site_cap - t->site_count < COLD_MAX) {
		t->full = true;
		return NULL;
	}
	if ((!room(&t->hot) || !room(&t->cold)) && !region_new(t)) {
		t->full = true;
		return NULL;
	}
	f = malloc(sizeof(*f));
	if (!f) {
		t->full = true;
		return NULL;
	}
	f->t = t;
	f->e = t->hot;
	f->b = b;
	f->bytes = b->text;
	f->mode = t->v->cpl == 3;
	f->idx = t->v->cpl == 3 ? MMU_USER : MMU_KERNEL;
	f->start = (u32)(b->gpa & ~PAGE_MASK);
	f->vec_checked = false;
	f->colds = 0;
	f->call_outs = 0;
	code = (struct tr_code *)(void *)(t->arena + t->arena_used);
	t->arena_used += (sizeof(*code) + 15) & ~(size_t)15;
	code->entry = emit_exec(&f->e);
	code->links = NULL;

	for (unsigned i = 0; i < insns; i++) {
		called = f->call_outs;
		translate_insn(f, &b->insn[i]);
	}
	/* What runs on behind the last instruction: one that is called may also do so
	 * where it ends the block (MOV CR2). */
	if (!block_insn_ends(last) || f->call_outs != called)
		branch_to(f, last + 1, (i64)f->start + last->ip_off + last->len);
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
	}
	free(f);
	return code;
}
