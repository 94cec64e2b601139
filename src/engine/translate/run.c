/*
 * The translator's loop: run translated code, link it, interpret what is cold, translate
 * what is not.
 *
 * The interpreter executes whatever needs a look at every instruction (single-step,
 * shadows, alignment checks, code whose stack pointer has another width), and everything
 * until it has been seen HOT times. Thread: the owner of the vCPU; translate_kick() any
 * thread.
 */
#include "engine/translate/run.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "cpu/events.h"
#include "engine/direct/direct.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/step.h"
#include "engine/interp/stub.h"
#include "engine/interp/vector.h"
#include "engine/translate/awake.h"
#include "engine/translate/translate.h"
#include "host/execmem.h"
#include "host/lowmem.h"
#include "host/sig.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/debugger.h"
#include "x86/except.h"
#include "x86/profile.h"
#include "x86/seg.h"
#include "x86/stats.h"
#include "x86/tlbfill.h"
#include "x86/walk.h"

/* All of address space; memory comes as it is used. */
#define CODE_SIZE  MiB(256)
#define ARENA_SIZE MiB(128)
#define SITES_MAX  (1u << 20)
/* A shadow stack for each mode between guard pages, and the frame. */
#define LOW_SIZE   (SHADOW_GUARD + CODE_MODES * (SHADOW_SIZE + SHADOW_GUARD))
_Static_assert(LOW_SIZE + sizeof(struct frame) <= MiB(8), "64 CPUs share a GiB");
/* Times a block is interpreted before it is translated. */
#define HOT          6
/* Times the check of a group may fail before there are no groups. */
#define GROUP_MISSES 16
/* So many of so many kicks in a row make a page hot. */
#define HEAT         5
/* So often is 32-bit code made anew for other segments. */
#define SWITCHES     4
#define WINDOW       64
/* What a write to a page of code costs user code that runs directly, as a multiple. */
#define TRAP_WRITE   64

static struct translator *translator_of(const struct vcpu *v)
{
	return v->engine;
}

/* The interpreter's cache drops a block: nothing may enter its code any more. */
static void block_dropped(void *opaque, struct block *b)
{
	struct translator *t = opaque;

	if (!b->code)
		return;
	code_unlink(b->code);
	jumps_forget_code(t, b->code);
	b->code = NULL;
	/* It may be the one that is running, or be returned to. */
	shadows_forget(t);
	t->f->leave = 1;
}

static void forget_code(struct translator *t)
{
	t->v->stats->code_flushes++;
	block_cache_flush(&t->cache);
	execmem_reset(t->mem);
	t->sites[0].count = t->sites[1].count = 0;
	locate_reset(t);
	memos_reset(t);
	t->arena_used = 0;
	for (unsigned m = 0; m < CODE_MODES; m++)
		far_forget(t, m);
	t->f->link = NULL;
	t->hot = t->cold = (struct emit){ 0 };
	t->full = !pieces_emit(t);
	shadows_forget(t);
	for (unsigned m = 0; m < CODE_MODES; m++)
		t->f->jumps[m].slot[0].code = t->leave_at;
}

/* ---- the code segment of based code: T2b ---- */

/* The number of the segment in CS goes into keys, above the linear address and what may
 * be beyond 4 GiB. 0 is none's. */
#define KEY_SHIFT 40

static void segment_note(struct translator *t)
{
	struct tr_segments *s = &t->segments;
	const struct vcpu *v = t->v;
	const struct seg *cs = &v->seg[CS];
	unsigned i = s->now;

	if (likely(i < s->count && s->of[i].base == cs->base &&
		   s->of[i].limit == cs->limit && s->of[i].size == v->code_size))
		return;
	for (i = 0; i < s->count; i++)
		if (s->of[i].base == cs->base && s->of[i].limit == cs->limit &&
		    s->of[i].size == v->code_size)
			break;
	if (i == TR_SEGMENTS) {
		for (unsigned m = 0; m < CODE_MODES; m++)
			if (tr_mode_is_based(m))
				far_forget(t, m);
		i = s->count = 0;
	}
	if (i == s->count)
		s->of[s->count++] =
			(struct tr_segment){ cs->base, cs->limit, v->code_size };
	s->now = i;
	t->f->cs_key = ((u64)(i + 1) << KEY_SHIFT) + cs->base;
	t->f->cs_neg = -t->f->cs_key;
}

/* 64-bit code gives FS and GS bases and no more. */
static void segment_refresh(struct translator *t, unsigned sreg)
{
	struct vcpu *v = t->v;
	const struct seg_reach *r = &v->reach[0][sreg];

	if (likely(r->end - (u64)r->room == v->seg[sreg].base))
		return;
	seg_update_ok(v, sreg);
	t->strayed = true;
}

/* The part of the page of RIP that the code segment has. */
static void segment_clip(struct translator *t, u16 *lo, u16 *hi)
{
	const struct vcpu *v = t->v;
	u64 page = linear_rip(v) & PAGE_MASK, base = v->seg[CS].base;
	u64 end = base + tr_last_ip(v) + 1;

	*lo = (u16)(base > page ? base - page : 0);
	*hi = (u16)MIN(end - page, PAGE_SIZE);
}

/* ---- call outs ---- */

static u64 leave_with(struct translator *t, int outcome)
{
	t->f->left_by_call = 1;
	t->outcome = outcome;
	return 1;
}

/* It was executed, so the state allows it; but for FWAIT, which makes the registers live
 * itself. */
static bool needs_vectors(const struct vcpu *v, const struct insn *in)
{
	return in->aux && stub_of(v, in)->cls >= NC_X87;
}

/* May translated code use the registers, without asking CR0? FWAIT makes them live
 * whatever it says, and CLTS may come and go without check_assumptions(). */
static bool vectors_usable(const struct vcpu *v)
{
	return v->vec_live && !(v->cr0 & (CR0_TS | CR0_EM));
}

/* What polls read: memory, or after a kick the guard pages. */
static u64 poll_fine(const struct translator *t)
{
	return (u64)(uintptr_t)t->f;
}

static bool poll_fails(const struct translator *t)
{
	return __atomic_load_n(&t->f->poll, __ATOMIC_SEQ_CST) != poll_fine(t);
}

/* What a look between two instructions, or iterations of one, is for. */
static bool must_leave(struct translator *t)
{
	struct vcpu *v = t->v;
	u32 ev = vcpu_events(v);

	return t->f->leave || poll_fails(t) || v->shadow || v->step_check ||
	       v->ac_check || v->pending_db || (unlikely(ev) && vcpu_event_ready(v, ev));
}

/* What code was translated under, besides privilege: changed, all of it is wrong. */
#define ASSUMED_CR0 (CR0_TS | CR0_EM)
#define ASSUMED_CR4 (CR4_OSFXSR | CR4_OSXSAVE | CR4_SMAP)

static bool assumptions_changed(const struct translator *t)
{
	const struct vcpu *v = t->v;

	return (v->cr0 & ASSUMED_CR0) != t->cr0 || (v->cr4 & ASSUMED_CR4) != t->cr4 ||
	       v->xcr0 != t->xcr0;
}

static bool translatable(const struct vcpu *v)
{
	if (v->code_size != 8 && !narrow_flat(v) &&
	    (v->stack_size != v->code_size ||
	     v->seg[CS].base + tr_last_ip(v) > 0xffffffff))
		return false;
	return !v->ac_check && (v->cpl == 0 || v->cpl == 3);
}

bool translate_stays(unsigned mode, const struct insn *in)
{
	if (!tr_mode_is_based(mode))
		return false;
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return in->opcode == 0x8e && in->reg != SS;
	case ZYDIS_MNEMONIC_POP: return in->opcode != 0x17;
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS: return true;
	default: return false;
	}
}

/* Must whoever runs come by the loop, rather than go on with code that has been found
 * here before? */
static bool must_come_by(struct translator *t)
{
	struct vcpu *v = t->v;

	return must_leave(t) || __atomic_load_n(&t->kicked, __ATOMIC_SEQ_CST) ||
	       assumptions_changed(t) || v->code_size != 8 || !translatable(v) ||
	       t->options.run_block || block_cache_behind(&t->cache) ||
	       t->memos.retires || t->f->link;
}

/* Tell direct execution, which there is, where user code begins and ends. Is it that? */
static bool at_user_code(struct translator *t)
{
	bool user = t->v->cpl == 3;

	if (user != t->was_user)
		(user ? direct_user_begins : direct_user_ends)(t->direct);
	t->was_user = user;
	return user;
}

/* Must they for it to run directly, perhaps? */
static bool may_run_direct(struct translator *t)
{
	return t->direct && at_user_code(t) && !direct_rests(t->direct);
}

/*
 * A call out has gone elsewhere, and maybe to another privilege level: system calls and
 * faults, and the way back. Where the code is known it goes on there; the executable
 * address, or 0.
 */
static u64 pass_over(struct translator *t)
{
	struct vcpu *v = t->v;
	struct frame *f = t->f;
	const struct tr_jump *j;
	unsigned mode;

	if (must_come_by(t) || may_run_direct(t))
		return 0;
	mode = tr_mode(v);
	j = &f->jumps[mode].slot[tr_jump_slot(v->rip)];
	if (!t->jumps_ready[mode] || j->neg_lin != -v->rip)
		return 0;
	v->stats->code_passed++;
	t->shadow[t->mode] = f->shadow_rsp;
	t->mode = mode;
	f->shadow_rsp = t->shadow[mode];
	f->page_lin = j->page;
	f->flags_in = cc_to_ax(v->cc);
	f->vec_parked = !vectors_usable(v);
	return j->code;
}

static u64 go_elsewhere(struct translator *t)
{
	u64 code = pass_over(t);

	return code ? code : leave_with(t, TR_GO_ON);
}

u64 translate_call_out(struct vcpu *v, const struct insn *in)
{
	struct translator *t = translator_of(v);
	struct frame *f = t->f;
	bool live = !f->vec_parked;
	enum op_result r;

	v->stats->call_outs++;
	profile_doing(v, DOING_INTERPRET);
	profile_note(v, this_ip(v, in), SPOT_CALL_OUT);
	v->cc = f->flags_out & RFLAGS_STATUS;
	f->leave = 0;
	do
		r = in->fn(v, in);
	while (r == OP_AGAIN && (in->flags & (INSN_REP | INSN_REPNE)) && !must_leave(t) &&
	       !t->options.run_block);
	/* A branch between pages wants to be linked to where it leads. */
	if (r != OP_JUMP)
		f->link = NULL;
	if (r == OP_END && translate_stays(t->mode, in))
		r = OP_NEXT;
	switch (r) {
	case OP_NEXT:
		if (must_leave(t)) {
			t->resume = in + 1;
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
	case OP_JUMP: return go_elsewhere(t);
	case OP_END: v->rip = next_ip(v, in); return go_elsewhere(t);
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
		return step_deliver(v) ? go_elsewhere(t) : leave_with(t, TR_SHUTDOWN);
	}
}

/* The linear address of a group in a segment. False: its check would fail again. */
static bool group_linear(const struct vcpu *v, const struct tr_group *g, u64 off,
			 gva_t *lin)
{
	const struct seg_reach *r = &v->reach[g->write][g->seg];

	*lin = (u32)(v->seg[g->seg].base + off);
	switch (g->reach) {
	case REACH_LOW: return !(r->low & SEG_BARRED) && off + g->span <= 0x10000;
	case REACH_ROOM: return (i64)(off + g->span) <= r->room;
	default: return !v->seg_bar[g->seg];
	}
}

/* Nothing between the accesses of a group may take away what its check has found. */
static bool group_fits(struct vcpu *v, const struct tr_group *g, gva_t lin)
{
	const struct tlb_entry *e = &v->tlb.way[g->idx].entry[tlb_slot(lin)];
	struct tlb_hit hit;
	gva_t page = lin & PAGE_MASK;

	if (page != ((lin + g->span - 1) & PAGE_MASK) || !is_canonical(v, lin) ||
	    v->mmu_idx != g->idx)
		return false;
	/* As the first access does it: only that one is certain to be made. */
	if (!tlb_fill(v, lin, g->first_write ? ACC_WRITE : ACC_READ, v->mmu_idx, &hit))
		return false;
	return (g->write ? e->write : e->read) == tlb_tag(page);
}

/* Its groups cross pages, or are not RAM, too often: it is made anew without. */
static void code_ungroup(struct translator *t, struct block *b)
{
	code_unlink(b->code);
	jumps_forget_code(t, b->code);
	b->code = NULL;
	b->lone = true;
	/* What is returned to may be this code. */
	shadows_forget(t);
}

static void code_retire(struct translator *t, struct tr_code *code)
{
	code_unlink(code);
	jumps_forget_code(t, code);
	code->block->code = NULL;
}

/* Accesses that roam are made anew without memos. Nothing runs now; what is returned to
 * is forgotten. */
static void retire_code(struct translator *t)
{
	struct tr_memos *m = &t->memos;

	for (unsigned i = 0; i < m->retires; i++)
		if (m->retire[i]->block->code == m->retire[i])
			code_retire(t, m->retire[i]);
	m->retires = 0;
	shadows_forget(t);
}

/*
 * A kick has found the vCPU at RIP. A page that a good part of them find it in is hot:
 * its code is made anew with memos, which cost more than they bring elsewhere.
 */
static void sample(struct translator *t)
{
	const struct vcpu *v = t->v;
	const struct tlb_way *w = &v->tlb.way[v->mmu_idx];
	gva_t lin = linear_rip(v);
	unsigned slot = tlb_slot(lin);
	struct code_page *p;

	t->samples++;
	if (t->direct)
		direct_sample(t->direct, v->cpl == 3);
	if (!translatable(v) || w->entry[slot].exec != tlb_tag(lin & PAGE_MASK))
		return;
	p = block_page(&t->cache, w->info[slot].gpa);
	if (!p || p->hot)
		return;
	if (p->window != t->samples / WINDOW) {
		p->window = t->samples / WINDOW;
		p->samples = 0;
	}
	if (++p->samples < HEAT)
		return;
	p->hot = true;
	for (struct block *b = p->first; b; b = b->page_next[b->home != p])
		if (b->home == p && b->code)
			code_retire(t, b->code);
	shadows_forget(t);
}

u64 translate_group_miss(struct vcpu *v, const struct tr_group *g)
{
	struct translator *t = translator_of(v);
	struct frame *f = t->f;
	bool live = !f->vec_parked, inside = true;
	gva_t lin =
		(g->base == GPR_RIP ? f->page_lin : v->gpr[g->base]) + (u64)(i64)g->disp;

	v->stats->group_misses++;
	profile_doing(v, DOING_FILL);
	v->cc = f->flags_out & RFLAGS_STATUS;
	f->leave = 0;
	if (tr_mode_is_narrow(t->mode))
		lin = g->low ? (u16)lin : (u32)lin;
	if (tr_mode_is_based(t->mode))
		inside = group_linear(v, g, lin, &lin);
	if (!inside || !group_fits(v, g, lin)) {
		/* The interpreter does it access by access. */
		v->stats->group_splits++;
		if (++g->code->misses > GROUP_MISSES && g->code->block->code == g->code)
			code_ungroup(t, g->code->block);
		t->lone = true;
	} else if (!f->leave) {
		/* A table may be in a device. */
		if (live && !v->vec_live)
			vec_load(v);
		f->vec_parked = !vectors_usable(v);
		f->flags_in = cc_to_ax(v->cc);
		return 0;
	}
	/* Or the walk has set the A bit of an entry that is code as well. */
	t->resume = g->in;
	v->rip = this_ip(v, g->in);
	return leave_with(t, TR_GO_ON);
}

static const struct tr_site *site_find(const struct tr_sites *s, u32 at)
{
	u32 lo = 0, hi = s->count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (s->site[mid].at < at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->count && s->site[lo].at == at ? &s->site[lo] : NULL;
}

/* On either side of a shadow stack. */
static bool is_guard(const struct translator *t, u64 addr)
{
	u64 off = addr - (u64)(uintptr_t)t->low;

	return off < LOW_SIZE;
}

/*
 * The host faulted in translated code: the slow stub of that place does it properly. Or
 * the shadow stack is full, or empty beyond its bottom: it starts anew, and the
 * instruction too.
 */
static bool host_fault(void *opaque, struct sig_regs *r)
{
	struct translator *t = opaque;
	u32 at = (u32)(r->rip - (u64)t->base);
	const struct tr_site *s = site_find(&t->sites[0], at);

	if (!s)
		s = site_find(&t->sites[1], at);
	if (s) {
		r->rip = (u64)t->base + s->slow;
		return true;
	}
	if (r->sig != SIGSEGV || !is_guard(t, r->addr))
		return false;
	r->gpr[4] = shadow_empty(t, t->mode);
	return true;
}

/* ---- the loop ---- */

/* Enter the code, and come back with the guest's state in *v. */
void translate_enter(struct translator *t, const struct tr_code *code)
{
	struct vcpu *v = t->v;
	struct frame *f = t->f;

	t->mode = code->mode;
	f->shadow_rsp = t->shadow[t->mode];
	f->page_lin = v->rip & PAGE_MASK;
	if (unlikely(tr_mode_is_based(t->mode)))
		f->page_lin = page_address(v);
	f->flags_in = cc_to_ax(v->cc);
	f->vec_parked = !vectors_usable(v);
	f->left_by_call = 0;
	v->stats->code_entered++;
	t->outcome = TR_GO_ON;
	t->resume = NULL;
	((void (*)(u64))t->enter)(code->entry);
	t->shadow[t->mode] = f->shadow_rsp;
	if (!f->left_by_call)
		v->cc = f->flags_out & RFLAGS_STATUS;
}

static void check_assumptions(struct translator *t)
{
	struct vcpu *v = t->v;
	u64 cr4 = v->cr4 & ASSUMED_CR4, cr0 = v->cr0 & ASSUMED_CR0;

	if (likely(!assumptions_changed(t)))
		return;
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

/* Can code be made of it, as far as its pages go? One page may not be at two addresses
 * (note_page()), and based code ends where its page does. */
static bool lies_well(const struct translator *t, const struct block *b)
{
	if (likely(b->page2 == GPA_NONE))
		return true;
	return b->page2 != (b->gpa & PAGE_MASK) && !tr_mode_is_based(t->make_mode) &&
	       (t->v->code_size == 8 || (linear_rip(t->v) & PAGE_MASK) != 0xfffff000);
}

/* Code for the block, made now if it is hot. */
static struct tr_code *code_of(struct translator *t, struct block *b)
{
	if (b->code || b->count++ < (t->options.eager ? 0 : HOT) || b->once ||
	    !lies_well(t, b) || t->full)
		return b->code;
	vcpu_park(t->v);
	profile_doing(t->v, DOING_TRANSLATE);
	b->code = front_translate(t, b);
	t->v->stats->blocks_translated += b->code != NULL;
	if (b->code)
		locate_add(t, b->code);
	profile_doing(t->v, DOING_LOOP);
	return b->code;
}

/*
 * The same, made anew if it is for other segments than there are now. 32-bit code that
 * runs in flat ones and in others by turns is based code from some time on, which is for
 * both.
 */
static struct tr_code *code_suited(struct translator *t, struct block *b)
{
	unsigned mode = tr_mode(t->v);
	struct tr_code *code;
	u16 lo = 0, hi = PAGE_SIZE;

	if (unlikely(b->switched >= SWITCHES))
		mode |= 4;
	if (unlikely(tr_mode_is_based(mode))) {
		mode &= ~2u;
		segment_note(t);
		segment_refresh(t, FS);
		segment_refresh(t, GS);
		segment_clip(t, &lo, &hi);
	}
	t->make_mode = mode;
	t->clip_lo = lo;
	t->clip_hi = hi;
	code = code_of(t, b);
	if (likely(!code || (code->mode == mode && code->lo >= lo && code->hi <= hi)))
		return code;
	if (code->mode == mode) {
		t->clip_lo = MAX(code->lo, lo);
		t->clip_hi = MIN(code->hi, hi);
	} else {
		b->switched++;
	}
	code_retire(t, code);
	shadows_forget(t);
	return code_of(t, b);
}

/* Let user code run directly where that pays. True: it has. */
static bool run_direct(struct translator *t, enum step *s)
{
	struct vcpu *v = t->v;

	if (!at_user_code(t) || !direct_wanted(t->direct))
		return false;
	profile_doing(v, DOING_DIRECT);
	switch (direct_run(t->direct, &t->kicked)) {
	case DIRECT_ON: *s = STEP_ON; break;
	case DIRECT_STEP:
		profile_note(v, v->rip, SPOT_TRAP);
		t->cache.write_cost = TRAP_WRITE;
		*s = step_one(v, &t->cache);
		t->cache.write_cost = 1;
		break;
	default: *s = STEP_FAILED; break;
	}
	return true;
}

/* The interpreter alone says it once, and not for each block. */
static enum step interpret(struct vcpu *v, struct block *b)
{
	profile_doing(v, DOING_INTERPRET);
	return step_block(v, b);
}

static enum step run_one(struct translator *t)
{
	struct tr_link *link = t->f->link;
	struct vcpu *v = t->v;
	struct tr_code *code;
	struct block *b;
	unsigned mode;
	enum step s;

	t->f->link = NULL;
	profile_doing(v, DOING_LOOP);
	if (t->direct && run_direct(t, &s))
		return s;
	if (unlikely(v->shadow || v->step_check || v->pending_db ||
		     (t->options.run_block && debugger_watches(v)))) {
		t->strayed = true;
		return step_one(v, &t->cache);
	}
	profile_note(v, linear_rip(v), SPOT_LOOP);
	b = block_find(&t->cache, v);
	if (unlikely(!b)) {
		t->strayed = true;
		return step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
	}
	if (unlikely(b->stop)) {
		t->lone = false;
		t->strayed = true;
		return step_one(v, &t->cache);
	}
	if (unlikely(v->code_size != 8 && v->rip + b->bytes - 1 > v->seg[CS].limit)) {
		t->lone = false;
		t->strayed = true;
		return step_one(v, &t->cache);
	}
	code = NULL;
	if (likely(!t->lone && !(t->direct && direct_aside(t->direct)) &&
		   translatable(v) &&
		   (v->code_size != 2 || v->rip + b->bytes <= 0x10000)))
		code = code_suited(t, b);
	if (!code) {
		t->lone = false;
		t->strayed = true;
		return interpret(v, b);
	}
	mode = code->mode;
	if (unlikely(t->options.run_block)) {
		/* Look-ups are hit as ever, but all lead out. */
		note_pages(t, mode, b, linear_rip(v));
		jumps_add(t, mode, linear_rip(v),
			  tr_mode_is_based(mode) ? t->leave_key : t->leave_at);
		if (!t->options.run_block(t, b))
			return STEP_FAILED;
	} else {
		gva_t lin = linear_rip(v);

		if (note_pages(t, mode, b, lin) && link && !link->linked &&
		    link->mode == mode && link->block_mode == b->mode &&
		    link->lo <= code->lo && link->hi >= code->hi &&
		    (link->target == b->gpa || link->target == GPA_NONE))
			link_to(t, link, code);
		jumps_add(t, mode, lin, code->entry);
		jumps_note_slot(code, mode, tr_jump_slot(lin));
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

		/* First: while 'kicked' is set nobody kicks anew. One who has set it
		 * before may come late, in vain. */
		if (unlikely(poll_fails(t)))
			__atomic_store_n(&f->poll, poll_fine(t), __ATOMIC_SEQ_CST);
		/* Take the kick back before looking at what it was for. */
		if (__atomic_load_n(&t->kicked, __ATOMIC_SEQ_CST)) {
			__atomic_store_n(&t->kicked, false, __ATOMIC_SEQ_CST);
			__atomic_store_n(&f->jump_mask, TR_JUMPS - 1, __ATOMIC_SEQ_CST);
			if (t->direct && direct_asked(t->direct))
				direct_sample(t->direct, v->cpl == 3);
			else
				sample(t);
		}
		ev = vcpu_events(v);
		if (unlikely(ev) && vcpu_event_ready(v, ev))
			return VCPU_EXIT_EVENT;
		check_assumptions(t);
		block_catch_up(&t->cache);
		if (unlikely(t->full || block_cache_full(&t->cache))) {
			vcpu_park(v);
			forget_code(t);
		}
		if (unlikely(t->memos.retires))
			retire_code(t);
		s = run_one(t);
		if (unlikely(s != STEP_ON))
			return s == STEP_EXIT       ? VCPU_EXIT_HLT
			       : s == STEP_DEBUG    ? VCPU_EXIT_DEBUG
			       : s == STEP_SHUTDOWN ? VCPU_EXIT_SHUTDOWN
						    : VCPU_EXIT_ERROR;
	}
}

/*
 * Faults of translated code are handled on a stack of their own, as rsp is no stack to
 * build on then. One for each thread, while it lives.
 */
static bool signal_stack(void)
{
	static _Thread_local u8 stack[KiB(64)] __attribute__((aligned(64)));
	static _Thread_local bool there;
	stack_t now, ours = { .ss_sp = stack, .ss_size = sizeof(stack) };

	if (likely(there))
		return true;
	there = (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE)) ||
		sigaltstack(&ours, NULL) == 0;
	return there;
}

enum vcpu_exit translate_run(struct vcpu *v)
{
	struct translator *t = translator_of(v);
	enum vcpu_exit why;

	__atomic_store_n(&t->cache.owner, pthread_self(), __ATOMIC_RELAXED);
	t->f->link = NULL;
	t->strayed = true;
	if (!signal_stack())
		return VCPU_EXIT_ERROR;
	why = translate_loop(t);
	vcpu_park(v);
	return why;
}

static void kick(void *translator)
{
	struct translator *t = translator;
	bool first;

	/* In this order: where the loop takes it back it finds all, or comes round
	 * again. */
	__atomic_store_n(&t->f->jump_mask, 0, __ATOMIC_SEQ_CST);
	first = !__atomic_exchange_n(&t->kicked, true, __ATOMIC_SEQ_CST);
	/* From direct execution the loop comes round before it runs code of ours. */
	if (first && t->direct && direct_kick(t->direct))
		return;
	/* Also where another has kicked, who may not have come so far yet. */
	__atomic_store_n(&t->f->poll, poll_fine(t) - PAGE_SIZE, __ATOMIC_SEQ_CST);
}

void translate_kick(struct vcpu *v)
{
	kick(translator_of(v));
}

static void translate_tlb_flushed(struct vcpu *v, u64 page, unsigned shift)
{
	struct translator *t = translator_of(v);

	/* What a trace has checked before does not hold any more. */
	t->f->leave = 1;
	if (t->direct)
		direct_tlb_flushed(t->direct, page, shift);
	block_unlink_jumps(&t->cache, page, shift);
	far_flushed(t, page, shift);
	t->f->link = NULL;
}

static void translate_code_protected(struct vcpu *v, u64 page)
{
	struct translator *t = translator_of(v);

	if (t->direct)
		direct_code_protected(t->direct, page);
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
	for (unsigned i = 0; i < 2; i++)
		if (t->sites[i].site)
			munmap(t->sites[i].site, SITES_MAX * sizeof(*t->sites[i].site));
	memos_fini(t);
	locate_fini(t);
	lowmem_free(t->low, LOW_SIZE + sizeof(*t->f));
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
	/* Pages that never were awake have 0. */
	for (unsigned m = 0; m < CODE_MODES; m++)
		t->epoch[m] = 1;
	/* In one, as Linux aligns each to 2 MiB, and 64 CPUs share a GiB.
	 */
	t->low = lowmem_new(LOW_SIZE + sizeof(*t->f));
	if (!t->low || !memos_init(t)) {
		translator_free(t);
		return error_set(err, -ENOMEM, "no memory below 2 GiB");
	}
	t->f = (struct frame *)(void *)(t->low + LOW_SIZE);
	for (unsigned i = 0; i <= CODE_MODES; i++) {
		if (mprotect(t->low + i * (SHADOW_SIZE + SHADOW_GUARD), SHADOW_GUARD,
			     PROT_NONE)) {
			int ret = error_set(err, -errno, "no guard pages: %s",
					    strerror(errno));

			translator_free(t);
			return ret;
		}
	}
	t->f->poll = poll_fine(t);
	t->f->index_mask = (u64)(TLB_SIZE - 1) << PAGE_SHIFT;
	t->f->page_mask = PAGE_MASK;
	for (unsigned i = 0; i < MEMO_SHIFTS; i++)
		t->f->single_mask[i] = PAGE_MASK | (BIT(i) - 1);
	t->f->not_if = ~(u64)RFLAGS_IF;
	t->f->not_ac = ~(u64)RFLAGS_AC;
	t->f->not_df = ~(u64)RFLAGS_DF;
	t->f->status = RFLAGS_STATUS;
	t->f->low_mask = 0xffff | SEG_BARRED;
	t->f->sign_mask = BIT(63);
	t->f->bit_mask[0] = 31;
	t->f->bit_mask[1] = 63;
	t->f->jump_mask = TR_JUMPS - 1;
	t->arena_size = ARENA_SIZE;
	for (unsigned i = 0; i < 2; i++) {
		t->sites[i].cap = SITES_MAX;
		t->sites[i].site = map_lazily(SITES_MAX * sizeof(*t->sites[i].site));
	}
	t->arena = map_lazily(ARENA_SIZE);
	/* Used from its beginning on, all of it. Speed only. */
	if (t->arena)
		(void)madvise(t->arena, ARENA_SIZE, MADV_HUGEPAGE);
	t->mem = (v->profile && v->profile->code_made
			  ? execmem_new_anonymous
			  : execmem_new)(o->code_size ? o->code_size : CODE_SIZE, err);
	if (!t->mem || !t->sites[0].site || !t->sites[1].site || !t->arena ||
	    !pieces_emit(t)) {
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
	int ret;

	if (!lowmem_reaches(v, sizeof(*v)))
		return error_set(err, -EINVAL, "the vCPU is not below 2 GiB");
	ret = native_open(v, err);
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
	t->cache.basic = true;
	t->cache.dropped = block_dropped;
	t->cache.dropped_opaque = t;
	t->cache.asked = kick;
	v->engine = t;
	v->tlb_flushed = translate_tlb_flushed;
	v->tlb_dropped = memo_tlb_dropped;
	v->code_protected = translate_code_protected;
	if (!o->undirect && !o->run_block)
		t->direct = direct_new(v, o->direct, kick, t);
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
	memos_reset(t);
	native_close(v);
	v->engine = NULL;
	v->tlb_flushed = NULL;
	v->tlb_dropped = NULL;
	v->code_protected = NULL;
	direct_free(t->direct);
	translator_free(t);
}

void translate_push(struct vcpu *v)
{
	struct translator *t = translator_of(v);

	forget_code(t);
	if (t->direct)
		direct_reset(t->direct);
}

u64 translate_delay(struct vcpu *v, u64 *own)
{
	struct translator *t = translator_of(v);

	*own = 0;
	return t->direct ? direct_delay(t->direct, own) : 0;
}

const struct engine engine_translate = {
	.name = "translate",
	.low = true,
	.probe = translate_probe,
	.vcpu_open = translate_vcpu_open,
	.vcpu_close = translate_close,
	.run = translate_run,
	.kick = translate_kick,
	.push = translate_push,
	.locate = translate_locate,
	.delay = translate_delay,
};
