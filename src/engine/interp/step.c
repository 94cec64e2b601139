/*
 * Executing decoded instructions: a block of them, or one with everything that can happen
 * around it.
 *
 * SDM volume 3 section 6.9 (priorities between instructions), 17.3 (debug
 * exceptions), 6.8.3 (MOV SS and STI). Thread: the owner of the vCPU.
 */
#include "engine/interp/step.h"

#include <Zydis/Mnemonic.h>

#include "engine/interp/interp.h"
#include "x86/cr.h"
#include "x86/debugger.h"
#include "x86/except.h"
#include "x86/msr.h"
#include "x86/profile.h"
#include "x86/stats.h"

bool step_deliver(struct vcpu *v)
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

static enum step step_fault(struct vcpu *v)
{
	v->pending_db = 0;
	return step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
}

static enum step step_debug(struct vcpu *v)
{
	u64 db = v->pending_db;

	v->pending_db = 0;
	raise_db(v, db, true);
	return step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
}

/*
 * Traps of the instruction that was just completed; 'jumped': it went elsewhere, and INTO
 * was taken. With DEBUGCTL.BTF only such ones are stepped (SDM 3 section 17.4.3).
 */
static enum step step_traps(struct vcpu *v, const struct insn *in, bool tf, bool jumped)
{
	/* SYSCALL masks TF first: its trap is decided by the new flags. */
	if (in->mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		tf = v->flags & RFLAGS_TF;
	/* After MOV SS there is no single-step trap; other traps wait for the next
	 * instruction. */
	tf = tf && (jumped || !(v->msr[MSRI_DEBUGCTL] & DEBUGCTL_BTF));
	if (tf && !(jumped && clears_tf(in)) && !(v->shadow & SHADOW_MOVSS))
		v->pending_db |= DR6_BS;
	if (!v->pending_db || (v->shadow & SHADOW_MOVSS))
		return STEP_ON;
	return step_debug(v);
}

/* '*again': the instruction is a REP that is not done. */
static enum step execute(struct vcpu *v, struct block_cache *c, bool *again)
{
	bool tf = v->flags & RFLAGS_TF, rf = v->flags & RFLAGS_RF;
	u8 shadow = v->shadow;
	const struct insn *in;
	struct block *b;
	enum op_result r;
	u64 hit;

	/* Not of an instruction here: the T bit of a task (SDM 3 section 7.2.1). */
	if (v->pending_db && !(shadow & SHADOW_MOVSS))
		return step_debug(v);
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
		*again = true;
		/* RF holds until the repeated instruction is done. */
		if (rf) {
			v->flags |= RFLAGS_RF;
			vcpu_mode_changed(v);
		}
		return step_traps(v, in, tf, false);
	}
	v->stats->insns++;
	if (v->activity == ACT_SHUTDOWN)
		return STEP_SHUTDOWN;
	if (r != OP_JUMP)
		advance(v, in);
	if (r == OP_EXIT && !tf && !v->pending_db)
		return STEP_EXIT;
	if (step_traps(v, in, tf, r == OP_JUMP) == STEP_SHUTDOWN)
		return STEP_SHUTDOWN;
	/* HLT that was single-stepped: the trap wakes it. */
	if (r == OP_EXIT)
		v->activity = ACT_RUNNING;
	return STEP_ON;
}

/*
 * A debugger's step is one instruction, of a REP all iterations, or the delivery of its
 * fault. What a watchpoint has seen since the last stop is told first.
 */
static enum step step_debugged(struct vcpu *v, struct block_cache *c)
{
	struct vcpu_debug *d = v->debug;
	u64 rip = v->rip;
	bool again = false;
	enum step s;

	if (d->stop != DEBUG_NONE)
		return STEP_DEBUG;
	/* A trap that is due comes before the instruction. */
	if ((!v->pending_db || (v->shadow & SHADOW_MOVSS)) &&
	    !(d->over && d->past == linear_rip(v)) && debugger_stops_at(v, linear_rip(v)))
		return STEP_DEBUG;
	d->over = false;
	s = execute(v, c, &again);
	if (s == STEP_SHUTDOWN)
		return s;
	if (d->stop == DEBUG_NONE && d->step && !(again && v->rip == rip))
		d->stop = DEBUG_STEP;
	return d->stop == DEBUG_NONE ? s : STEP_DEBUG;
}

enum step step_one(struct vcpu *v, struct block_cache *c)
{
	bool again;

	profile_doing(v, DOING_INTERPRET);
	return unlikely(v->debug != NULL) ? step_debugged(v, c) : execute(v, c, &again);
}

void step_repeats(struct vcpu *v)
{
	if (likely(!vcpu_events(v)))
		return;
	v->flags |= RFLAGS_RF;
	vcpu_mode_changed(v);
}

/* Instructions from *in on, up to one that hits a watchpoint. */
static enum op_result run_watched(struct vcpu *v, const struct insn **in)
{
	for (;; (*in)++) {
		enum op_result r = (*in)->fn(v, *in);

		if (r != OP_NEXT)
			return r;
		if (debugger_was_hit(v))
			return OP_END;
	}
}

enum step step_block(struct vcpu *v, struct block *b)
{
	const struct insn *in = b->insn;
	enum op_result r;

	if (unlikely(v->debug != NULL))
		r = run_watched(v, &in);
	else
		while (likely((r = in->fn(v, in)) == OP_NEXT))
			in++;
	v->stats->insns += (u64)(in - b->insn);
	switch (r) {
	case OP_JUMP:
		/* The end of the block is none; blocks that fall through count one too
		 * many otherwise. */
		v->stats->insns += in->len != 0;
		return STEP_ON;
	case OP_END:
		v->stats->insns++;
		advance(v, in);
		return STEP_ON;
	case OP_EXIT:
		v->stats->insns++;
		if (v->activity == ACT_SHUTDOWN)
			return STEP_SHUTDOWN;
		advance(v, in);
		return STEP_EXIT;
	case OP_AGAIN:
		v->rip = this_ip(v, in);
		step_repeats(v);
		return STEP_ON;
	default:
		v->rip = this_ip(v, in);
		v->pending_db = 0;
		return step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
	}
}
