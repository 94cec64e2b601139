/*
 * The interpreter's loop: block by block, instruction by instruction when somebody
 * has to look in between.
 *
 * SDM volume 3 section 6.9 (priorities between instructions), 17.3 (debug exceptions), 6.8.3 (MOV SS
 * and STI). Events are looked at between blocks; a REP that is not done comes back here too.
 * Thread: the owner of the vCPU.
 */
#include "engine/interp/run.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "cpu/events.h"
#include "engine/interp/block.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "x86/cr.h"
#include "x86/except.h"
#include "x86/stats.h"

#include <Zydis/Mnemonic.h>

static inline struct block_cache *cache_of(const struct vcpu *v)
{
	return v->engine;
}

/* Deliver v->fault at v->rip. False: shutdown. */
static bool deliver(struct vcpu *v)
{
	if (v->fault.vector < 32)
		v->stats->exception[v->fault.vector]++;
	return except_deliver(v);
}

/* RIP behind the instruction. */
static inline void advance(struct vcpu *v, const struct insn *in)
{
	v->rip = next_ip(v, in);
}

/* Is the whole instruction inside the code segment? #GP(0) otherwise. */
static bool fits_limit(struct vcpu *v, u64 ip, unsigned len)
{
	return v->code_size == 8 || ip + len - 1 <= v->seg[CS].limit || raise_gp0(v);
}

/* INT n and its kin clear TF themselves before it is looked at. */
static bool clears_tf(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO: return true;
	default: return false;
	}
}

enum step { STEP_ON, STEP_EXIT, STEP_SHUTDOWN };

static enum step step_fault(struct vcpu *v)
{
	v->pending_db = 0;
	return deliver(v) ? STEP_ON : STEP_SHUTDOWN;
}

/* Traps of the instruction that was just completed. */
static enum step step_traps(struct vcpu *v, const struct insn *in, bool tf)
{
	u64 db;

	/* SYSCALL masks TF first: its trap is decided by the new flags. */
	if (in->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		tf = v->flags & RFLAGS_TF;
	if (tf && !clears_tf(in))
		v->pending_db |= DR6_BS;
	if (!v->pending_db || (v->shadow & SHADOW_MOVSS))
		return STEP_ON;
	db = v->pending_db;
	v->pending_db = 0;
	raise_db(v, db, true);
	return deliver(v) ? STEP_ON : STEP_SHUTDOWN;
}

/* One instruction, with everything that can happen around it. */
static enum step step(struct vcpu *v, struct block_cache *c)
{
	bool tf = v->flags & RFLAGS_TF, rf = v->flags & RFLAGS_RF;
	u8 shadow = v->shadow;
	const struct insn *in;
	struct block *b;
	enum op_result r;
	u64 hit;

	v->shadow = 0;
	if (!rf && (v->dr[7] & 0xff) && !(shadow & SHADOW_MOVSS)) {
		hit = debug_match_exec(v, linear_rip(v));
		if (hit) {
			raise_db(v, hit, false);
			return step_fault(v);
		}
	}
	if (!fits_limit(v, v->rip, 1))
		return step_fault(v);
	b = block_find(c, v);
	if (!b)
		return step_fault(v);
	in = &b->insn[0];
	if (!fits_limit(v, v->rip, in->len))
		return step_fault(v);
	if (rf) {
		v->flags &= ~(u64)RFLAGS_RF;
		vcpu_mode_changed(v);
	}
	r = in->fn(v, in);
	if (r == OP_FAULT)
		return step_fault(v);
	if (r == OP_AGAIN) {
		/* RF holds until the repeated instruction is done. */
		if (rf) {
			v->flags |= RFLAGS_RF;
			vcpu_mode_changed(v);
		}
		return step_traps(v, in, tf);
	}
	v->stats->insns++;
	if (r != OP_JUMP)
		advance(v, in);
	if (r == OP_EXIT && !tf && !v->pending_db)
		return STEP_EXIT;
	if (step_traps(v, in, tf) == STEP_SHUTDOWN)
		return STEP_SHUTDOWN;
	/* HLT that was single-stepped: the trap wakes it. */
	if (r == OP_EXIT)
		v->activity = ACT_RUNNING;
	return STEP_ON;
}

/* Run a block to where it is left. */
static inline enum step run_block(struct vcpu *v, struct block *b)
{
	const struct insn *in = b->insn;
	enum op_result r;

	while (likely((r = in->fn(v, in)) == OP_NEXT))
		in++;
	v->stats->insns += (u64)(in - b->insn);
	switch (r) {
	case OP_JUMP:
		/* The end of the block is none; blocks that fall through count one too many otherwise. */
		v->stats->insns += in->len != 0;
		return STEP_ON;
	case OP_END:
		v->stats->insns++;
		advance(v, in);
		return STEP_ON;
	case OP_EXIT:
		v->stats->insns++;
		advance(v, in);
		return STEP_EXIT;
	case OP_AGAIN: v->rip = this_ip(v, in); return STEP_ON;
	default:
		v->rip = this_ip(v, in);
		return deliver(v) ? STEP_ON : STEP_SHUTDOWN;
	}
}

static enum vcpu_exit interp_loop(struct vcpu *v, struct block_cache *c)
{
	for (;;) {
		enum step s;
		u32 ev = vcpu_events(v);

		if (unlikely(ev) && vcpu_event_ready(v, ev))
			return VCPU_EXIT_EVENT;
		if (unlikely(block_cache_full(c))) {
			vcpu_park(v);
			block_flush(c);
		}
		if (unlikely(v->shadow || v->step_check || v->pending_db)) {
			s = step(v, c);
		} else {
			struct block *b = block_find(c, v);

			if (unlikely(!b))
				s = deliver(v) ? STEP_ON : STEP_SHUTDOWN;
			else if (likely(v->code_size == 8 ||
					v->rip + b->bytes - 1 <= v->seg[CS].limit))
				s = run_block(v, b);
			else
				s = step(v, c);
		}
		if (unlikely(s != STEP_ON))
			return s == STEP_EXIT ? VCPU_EXIT_HLT : VCPU_EXIT_SHUTDOWN;
	}
}

static enum vcpu_exit interp_run(struct vcpu *v)
{
	struct block_cache *c = cache_of(v);
	enum vcpu_exit why;

	c->owner = pthread_self();
	why = interp_loop(v, c);
	vcpu_park(v);
	return why;
}

static void interp_tlb_flushed(struct vcpu *v, u64 page)
{
	block_unlink_jumps(cache_of(v), page);
}

static int interp_probe(struct error *err)
{
	(void)err;
	return 0;
}

static int interp_vcpu_open(struct vcpu *v, struct error *err)
{
	struct block_cache *c = xzalloc(sizeof(*c));
	int ret = native_open(v, err);

	if (ret)
		goto free_cache;
	ret = block_cache_init(c, v);
	if (ret) {
		error_set(err, ret, "no memory for decoded code");
		goto close_native;
	}
	v->engine = c;
	v->tlb_flushed = interp_tlb_flushed;
	return 0;
close_native:
	native_close(v);
free_cache:
	free(c);
	return ret;
}

static void interp_vcpu_close(struct vcpu *v)
{
	struct block_cache *c = cache_of(v);

	block_cache_fini(c);
	native_close(v);
	v->engine = NULL;
	v->tlb_flushed = NULL;
	free(c);
}

static void interp_push(struct vcpu *v)
{
	block_flush(cache_of(v));
}

const struct engine engine_interp = {
	.name = "interp",
	.probe = interp_probe,
	.vcpu_open = interp_vcpu_open,
	.vcpu_close = interp_vcpu_close,
	.run = interp_run,
	.push = interp_push,
};
