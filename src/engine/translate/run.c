/*
 * The translator's loop: run translated code, link it, interpret what is cold, translate
 * what is not.
 *
 * The interpreter executes whatever needs a look at every instruction (single-step,
 * shadows, 16- and 32-bit code, alignment checks), and everything until it has been seen
 * HOT times. Thread: the owner of the vCPU; translate_kick() any thread.
 */
#include "engine/translate/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "cpu/events.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/step.h"
#include "engine/interp/stub.h"
#include "engine/interp/vector.h"
#include "engine/translate/translate.h"
#include "host/execmem.h"
#include "host/sig.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/except.h"
#include "x86/stats.h"

#define CODE_SIZE  MiB(64)
#define ARENA_SIZE MiB(32)
#define SITES_MAX  (1u << 21)
/* Times a block is interpreted before it is translated. */
#define HOT        16

static struct translator *translator_of(const struct vcpu *v)
{
	return v->engine;
}

/* ---- the look-up table ---- */

enum { KEEP_NONE, KEEP_GLOBAL };

static void jumps_init(struct frame *f)
{
	for (unsigned m = 0; m < 2; m++)
		for (unsigned i = 0; i < TR_JUMPS; i++)
			f->jumps[m].slot[i].neg_lin = i ? TR_NO_JUMP : TR_SLOT0;
}

/* Forget all, or what is not global, for either privilege. */
static void jumps_clear(struct translator *t, int keep)
{
	for (unsigned m = 0; m < 2; m++) {
		struct tr_taken *k = &t->taken[m];
		unsigned kept = 0;

		for (unsigned n = 0; n < k->count; n++) {
			unsigned i = k->slot[n];

			if (keep == KEEP_GLOBAL && k->global[i])
				k->slot[kept++] = (u16)i;
			else
				t->f->jumps[m].slot[i].neg_lin = TR_NO_JUMP;
		}
		k->count = kept;
	}
}

/* Slots that are emptied one by one stay on the list, which is harmless: 'taken' holds
 * each once. */
static void jumps_forget_page(struct translator *t, u64 page)
{
	for (unsigned m = 0; m < 2; m++) {
		for (unsigned n = 0; n < t->taken[m].count; n++) {
			u64 *neg = &t->f->jumps[m].slot[t->taken[m].slot[n]].neg_lin;

			if ((-*neg & PAGE_MASK) == page)
				*neg = TR_FORGOTTEN;
		}
	}
}

static void jumps_forget_code(struct translator *t, u64 entry)
{
	for (unsigned m = 0; m < 2; m++) {
		for (unsigned n = 0; n < t->taken[m].count; n++) {
			unsigned i = t->taken[m].slot[n];

			if (t->f->jumps[m].slot[i].code == entry)
				t->f->jumps[m].slot[i].neg_lin = TR_FORGOTTEN;
		}
	}
}

static void jumps_add(struct translator *t, gva_t lin, u64 entry)
{
	const struct vcpu *v = t->v;
	unsigned m = v->cpl == 3, i = tr_jump_slot(lin);
	struct tr_jump *j = &t->f->jumps[m].slot[i];
	struct tr_taken *k = &t->taken[m];

	/* Slot 0 stays empty: a kick sends every look-up there. */
	if (!i)
		return;
	if (j->neg_lin == TR_NO_JUMP)
		k->slot[k->count++] = (u16)i;
	k->global[i] =
		v->tlb.way[v->mmu_idx].exec[tlb_slot(lin)] == tlb_tag(lin & PAGE_MASK) &&
		v->tlb.way[v->mmu_idx].global[tlb_slot(lin)];
	j->neg_lin = -lin;
	j->code = entry;
	j->page = lin & PAGE_MASK;
}

/* ---- code ---- */

static void unlink_all(struct tr_code *code)
{
	for (struct tr_link *l = code->links; l; l = l->next)
		le_store(l->at, 0, 4);
	code->links = NULL;
}

/* The interpreter's cache drops a block: nothing may enter its code any more. */
static void block_dropped(void *opaque, struct block *b)
{
	struct translator *t = opaque;

	if (!b->code)
		return;
	unlink_all(b->code);
	jumps_forget_code(t, b->code->entry);
	b->code = NULL;
	/* It may be the one that is running. */
	t->f->leave = 1;
}

static void forget_code(struct translator *t)
{
	t->v->stats->code_flushes++;
	block_cache_flush(&t->cache);
	jumps_clear(t, KEEP_NONE);
	execmem_reset(t->mem);
	t->site_count = 0;
	t->arena_used = 0;
	t->f->link = NULL;
	t->hot = t->cold = (struct emit){ 0 };
	t->full = !pieces_emit(t);
	for (unsigned m = 0; m < 2; m++)
		t->f->jumps[m].slot[0].code = t->leave_at;
}

static void link_to(struct translator *t, struct tr_link *l, struct tr_code *code)
{
	le_store(l->at, code->entry - ((u64)l->at + t->exec_delta + 4), 4);
	t->v->stats->links++;
	l->next = code->links;
	code->links = l;
}

/* ---- call outs ---- */

static u64 leave_with(struct translator *t, int outcome)
{
	t->f->left_by_call = 1;
	t->outcome = outcome;
	return 1;
}

/* It was executed, so the state allows it. */
static bool needs_vectors(const struct vcpu *v, const struct insn *in)
{
	return in->aux && stub_of(v, in)->cls >= NC_MMX;
}

/* May translated code use the registers, without asking CR0? FWAIT makes them live
 * whatever it says, and CLTS may come and go without check_assumptions(). */
static bool vectors_usable(const struct vcpu *v)
{
	return v->vec_live && !(v->cr0 & (CR0_TS | CR0_EM));
}

u64 translate_call_out(struct vcpu *v, const struct insn *in)
{
	struct translator *t = translator_of(v);
	struct frame *f = t->f;
	bool live = !f->vec_parked;
	enum op_result r;
	u32 ev;

	v->stats->call_outs++;
	v->cc = f->flags_out & RFLAGS_STATUS;
	f->leave = 0;
	r = in->fn(v, in);
	switch (r) {
	case OP_NEXT:
		ev = vcpu_events(v);
		if (f->leave || v->shadow || v->step_check || v->ac_check ||
		    v->pending_db || (unlikely(ev) && vcpu_event_ready(v, ev))) {
			t->cut = in;
			v->rip = next_ip(v, in);
			return leave_with(t, TR_GO_ON);
		}
		/* Code that has found the vectors live relies on it, and so does what
		 * follows the instruction that asked. */
		if ((live || needs_vectors(v, in)) && !v->vec_live)
			vec_load(v);
		f->vec_parked = !vectors_usable(v);
		f->flags_in = cc_to_ax(v->cc);
		return 0;
	case OP_JUMP: return leave_with(t, TR_GO_ON);
	case OP_END: v->rip = next_ip(v, in); return leave_with(t, TR_GO_ON);
	case OP_EXIT:
		if (v->activity == ACT_SHUTDOWN)
			return leave_with(t, TR_SHUTDOWN);
		v->rip = next_ip(v, in);
		return leave_with(t, TR_STEP_EXIT);
	case OP_AGAIN:
		v->rip = this_ip(v, in);
		step_repeats(v);
		return leave_with(t, TR_GO_ON);
	default:
		v->rip = this_ip(v, in);
		v->pending_db = 0;
		return leave_with(t, step_deliver(v) ? TR_GO_ON : TR_SHUTDOWN);
	}
}

/* The host faulted in translated code: the slow stub of that place does it properly. */
static bool host_fault(void *opaque, struct sig_regs *r)
{
	struct translator *t = opaque;
	u32 at = (u32)(r->rip - (u64)t->base);
	u32 lo = 0, hi = t->site_count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (t->sites[mid].at < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == t->site_count || t->sites[lo].at != at)
		return false;
	r->rip = (u64)t->base + t->sites[lo].slow;
	return true;
}

/* ---- the loop ---- */

/* Enter the code, and come back with the guest's state in *v. */
void translate_enter(struct translator *t, const struct tr_code *code)
{
	struct vcpu *v = t->v;
	struct frame *f = t->f;

	f->page_lin = v->rip & PAGE_MASK;
	f->flags_in = cc_to_ax(v->cc);
	f->vec_parked = !vectors_usable(v);
	f->left_by_call = 0;
	v->stats->code_entered++;
	t->outcome = TR_GO_ON;
	t->cut = NULL;
	((void (*)(struct vcpu *, u64))t->enter)(v, code->entry);
	if (!f->left_by_call)
		v->cc = f->flags_out & RFLAGS_STATUS;
}

/* What code was translated under, besides privilege: changed, all of it is wrong. */
static void check_assumptions(struct translator *t)
{
	struct vcpu *v = t->v;
	u64 cr4 = v->cr4 & (CR4_OSFXSR | CR4_OSXSAVE), cr0 = v->cr0 & (CR0_TS | CR0_EM);

	if (unlikely(cr0 != t->cr0)) {
		/* Vector instructions ask the interpreter again. */
		vcpu_park(v);
		t->cr0 = cr0;
	}
	if (unlikely(cr4 != t->cr4 || v->xcr0 != t->xcr0)) {
		vcpu_park(v);
		t->cr4 = cr4;
		t->xcr0 = v->xcr0;
		forget_code(t);
	}
}

/* Code for the block, made now if it is hot. */
static struct tr_code *code_of(struct translator *t, struct block *b)
{
	if (b->code || b->count++ < (t->options.eager ? 0 : HOT) || b->once ||
	    b->page2 != GPA_NONE || t->full)
		return b->code;
	vcpu_park(t->v);
	b->code = front_translate(t, b);
	t->v->stats->blocks_translated += b->code != NULL;
	return b->code;
}

static bool translatable(const struct vcpu *v)
{
	return v->code_size == 8 && !v->ac_check;
}

static enum step run_one(struct translator *t)
{
	struct tr_link *link = t->f->link;
	struct vcpu *v = t->v;
	struct tr_code *code;
	struct block *b;

	t->f->link = NULL;
	if (unlikely(v->shadow || v->step_check || v->pending_db)) {
		t->strayed = true;
		return step_one(v, &t->cache);
	}
	b = block_find(&t->cache, v);
	if (unlikely(!b)) {
		t->strayed = true;
		return step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
	}
	if (!translatable(v)) {
		t->strayed = true;
		if (v->code_size != 8 && v->rip + b->bytes - 1 > v->seg[CS].limit)
			return step_one(v, &t->cache);
		return step_block(v, b);
	}
	code = code_of(t, b);
	if (!code) {
		t->strayed = true;
		return step_block(v, b);
	}
	if (unlikely(t->options.run_block)) {
		/* Look-ups are hit as ever, but all lead out. */
		jumps_add(t, v->rip, t->leave_at);
		if (!t->options.run_block(t, b))
			return STEP_FAILED;
	} else {
		if (link && link->target == b->gpa)
			link_to(t, link, code);
		jumps_add(t, v->rip, code->entry);
		translate_enter(t, code);
	}
	return t->outcome == TR_GO_ON       ? STEP_ON
	       : t->outcome == TR_STEP_EXIT ? STEP_EXIT
					    : STEP_SHUTDOWN;
}

static enum vcpu_exit translate_loop(struct translator *t)
{
	struct vcpu *v = t->v;
	struct frame *f = t->f;

	for (;;) {
		enum step s;
		u32 ev;

		/* Take the kick back before looking at what it was for. */
		if (__atomic_load_n(&f->kicked, __ATOMIC_ACQUIRE)) {
			__atomic_store_n(&f->kicked, 0, __ATOMIC_SEQ_CST);
			__atomic_store_n(&f->jump_mask, TR_JUMPS - 1, __ATOMIC_SEQ_CST);
		}
		ev = vcpu_events(v);
		if (unlikely(ev) && vcpu_event_ready(v, ev))
			return VCPU_EXIT_EVENT;
		check_assumptions(t);
		if (unlikely(t->full || block_cache_full(&t->cache))) {
			vcpu_park(v);
			forget_code(t);
		}
		s = run_one(t);
		if (unlikely(s != STEP_ON))
			return s == STEP_EXIT       ? VCPU_EXIT_HLT
			       : s == STEP_SHUTDOWN ? VCPU_EXIT_SHUTDOWN
						    : VCPU_EXIT_ERROR;
	}
}

enum vcpu_exit translate_run(struct vcpu *v)
{
	struct translator *t = translator_of(v);
	enum vcpu_exit why;

	t->cache.owner = pthread_self();
	t->f->link = NULL;
	t->strayed = true;
	why = translate_loop(t);
	vcpu_park(v);
	return why;
}

static void kick(void *translator)
{
	struct translator *t = translator;

	/* In this order: where the loop takes it back it finds both, or comes round
	 * again. */
	__atomic_store_n(&t->f->jump_mask, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&t->f->kicked, 1, __ATOMIC_SEQ_CST);
}

void translate_kick(struct vcpu *v)
{
	kick(translator_of(v));
}

static void translate_tlb_flushed(struct vcpu *v, u64 page)
{
	struct translator *t = translator_of(v);

	block_unlink_jumps(&t->cache, page);
	if (page == TLB_FLUSHED_ALL)
		jumps_clear(t, KEEP_NONE);
	else if (page == TLB_FLUSHED_NONGLOBAL)
		jumps_clear(t, KEEP_GLOBAL);
	else
		jumps_forget_page(t, page);
	t->f->link = NULL;
}

/* ---- set-up ---- */

int translate_probe(struct error *err)
{
	if (!__builtin_cpu_supports("bmi2"))
		return error_set(err, -ENODEV, "the host CPU has no BMI2");
	return 0;
}

static void translator_free(struct translator *t)
{
	if (t->sig >= 0)
		sig_remove(t->sig);
	if (t->mem)
		execmem_free(t->mem);
	if (t->sites)
		munmap(t->sites, SITES_MAX * sizeof(*t->sites));
	if (t->arena)
		munmap(t->arena, ARENA_SIZE);
	free(t);
}

static void *map_lazily(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int translator_new(struct translator **out, struct vcpu *v,
			  const struct translate_options *o, struct error *err)
{
	struct translator *t = xzalloc_aligned(64, sizeof(*t));

	t->v = v;
	t->options = *o;
	t->sig = -1;
	t->f = v->engine_area;
	t->frame_off = (i32)((u8 *)t->f - (u8 *)v);
	t->f->index_mask = (u64)(TLB_SIZE - 1) << PAGE_SHIFT;
	t->f->page_mask = PAGE_MASK;
	t->f->jump_mask = TR_JUMPS - 1;
	jumps_init(t->f);
	t->site_cap = SITES_MAX;
	t->arena_size = ARENA_SIZE;
	t->sites = map_lazily(SITES_MAX * sizeof(*t->sites));
	t->arena = map_lazily(ARENA_SIZE);
	t->mem = execmem_new(o->code_size ? o->code_size : CODE_SIZE, err);
	if (!t->mem || !t->sites || !t->arena || !pieces_emit(t)) {
		translator_free(t);
		return error_set(err, -ENOMEM, "no memory for translated code");
	}
	t->base = execmem_base(t->mem);
	t->sig = sig_add(t->base, execmem_size(t->mem), host_fault, t, err);
	if (t->sig < 0) {
		int ret = t->sig;

		translator_free(t);
		return ret;
	}
	*out = t;
	return 0;
}

int translate_open(struct vcpu *v, const struct translate_options *o, struct error *err)
{
	struct translator *t = NULL;
	int ret = native_open(v, err);

	if (ret)
		return ret;
	ret = translator_new(&t, v, o, err);
	if (ret)
		goto close_native;
	ret = block_cache_init(&t->cache, v);
	if (ret) {
		error_set(err, ret, "no memory for decoded code");
		goto free_translator;
	}
	t->cache.dropped = block_dropped;
	t->cache.dropped_opaque = t;
	t->cache.asked = kick;
	v->engine = t;
	v->tlb_flushed = translate_tlb_flushed;
	forget_code(t);
	return 0;
free_translator:
	translator_free(t);
close_native:
	native_close(v);
	return ret;
}

static int translate_vcpu_open(struct vcpu *v, struct error *err)
{
	return translate_open(v, &(struct translate_options){ 0 }, err);
}

void translate_close(struct vcpu *v)
{
	struct translator *t = translator_of(v);

	block_cache_fini(&t->cache);
	native_close(v);
	v->engine = NULL;
	v->tlb_flushed = NULL;
	translator_free(t);
}

void translate_push(struct vcpu *v)
{
	forget_code(translator_of(v));
}

const struct engine engine_translate = {
	.name = "translate",
	.stack = TRANSLATE_STACK,
	.area = sizeof(struct frame),
	.probe = translate_probe,
	.vcpu_open = translate_vcpu_open,
	.vcpu_close = translate_close,
	.run = translate_run,
	.kick = translate_kick,
	.push = translate_push,
};
