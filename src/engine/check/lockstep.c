/*
 * The checking engine's run of a block: on trial, for real, compare.
 *
 * The stand-in is the same as the vCPU between blocks as long as blocks are compared,
 * since that is what comparing means; only after others is it made a copy again. Vector
 * registers are the host's for both, so whichever needs them parks the other.
 *
 * Translated code may be left before the end of its block, for an event or because some
 * code was written to. The interpreter then finishes the block on the vCPU too.
 *
 * Missing: branches from block to block without leaving; what runs is each block by
 * itself, its look-ups included. Thread: the owner of the vCPU.
 */
#include "engine/check/check.h"

#include <Zydis/Mnemonic.h>
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/check/state.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/step.h"
#include "engine/interp/vector.h"
#include "mem/io.h"
#include "x86/access.h"

static struct check *check_of(const struct vcpu *v)
{
	const struct translator *t = v->engine;

	return t->options.opaque;
}

/* ---- the interpreter's run ---- */

/* Every time another result. */
static bool is_random(const struct insn *in)
{
	return in->mnemonic == ZYDIS_MNEMONIC_RDRAND ||
	       in->mnemonic == ZYDIS_MNEMONIC_RDSEED;
}

static enum left deliver(struct vcpu *v)
{
	return step_deliver(v) ? LEFT_ON : LEFT_SHUTDOWN;
}

/* The conditions on which translated code is left behind an instruction. */
static bool must_leave(const struct vcpu *v)
{
	return (v->trial && v->trial->code_written) || v->shadow || v->step_check ||
	       v->ac_check || v->pending_db;
}

/* Execute from 'in' to where the block is left, whose code is of this mode; v->rip is
 * where it begins. */
static enum left interpret(struct vcpu *v, unsigned mode, const struct insn *in,
			   struct ended *e)
{
	enum op_result r;

	for (;; in++) {
		if (v->trial && is_random(in))
			v->trial->impure = true;
		else
			r = in->fn(v, in);
		if (v->trial && v->trial->impure)
			return LEFT_ON;
		if (r == OP_END && translate_stays(mode, in))
			r = OP_NEXT;
		if (r == OP_NEXT && must_leave(v))
			r = OP_END;
		if (r != OP_NEXT)
			break;
	}
	e->last = in;
	e->again = r == OP_AGAIN;
	switch (r) {
	case OP_JUMP: return LEFT_ON;
	case OP_END: v->rip = next_ip(v, in); return LEFT_ON;
	case OP_EXIT:
		if (v->activity == ACT_SHUTDOWN)
			return LEFT_SHUTDOWN;
		v->rip = next_ip(v, in);
		return LEFT_EXIT;
	case OP_AGAIN: v->rip = this_ip(v, in); return LEFT_ON;
	default:
		v->rip = this_ip(v, in);
		v->pending_db = 0;
		return deliver(v);
	}
}

/* ---- the translation's run ---- */

/* Left in the middle, not where the trial was left: the interpreter does the rest. */
static void finish(struct check *c, unsigned mode, const struct insn *resume, u64 pc)
{
	struct ended e;

	if (resume && resume != c->ended.last + 1) {
		c->v->rip = pc;
		c->left[1] = interpret(c->v, mode, resume, &e);
	}
	/* Set when an event is waiting (step_repeats()), of which the stand-in knows
	 * nothing. */
	if (c->ended.again && (c->v->flags & RFLAGS_RF)) {
		c->s->flags |= RFLAGS_RF;
		vcpu_mode_changed(c->s);
	}
}

static void run_real(struct translator *t, const struct tr_code *code)
{
	static const enum left left[] = { [TR_GO_ON] = LEFT_ON,
					  [TR_STEP_EXIT] = LEFT_EXIT,
					  [TR_SHUTDOWN] = LEFT_SHUTDOWN };
	struct check *c = t->options.opaque;

	translate_enter(t, code);
	c->left[1] = left[t->outcome];
}

/* ---- comparing ---- */

/* 'all': more than general registers, flags and memory may have changed. */
static enum difference compare(const struct check *c, bool all, bool vectors)
{
	if (c->left[0] != c->left[1])
		return DIFF_EXIT;
	if (!gprs_same(c->s, c->v) || (all && !state_same(c->s, c->v)))
		return DIFF_STATE;
	if (vectors && !vectors_same(c->s, c->v))
		return DIFF_VECTORS;
	return trial_differs(&c->trial) ? DIFF_MEMORY : DIFF_NONE;
}

/* The stand-in becomes a copy, without the vectors' ceasing to be live. */
static void renew(struct check *c)
{
	bool live = c->v->vec_live;

	vcpu_park(c->v);
	state_copy(c->s, c->v);
	if (live)
		vec_load(c->v);
	c->v->stats->check_copies++;
}

bool check_run_block(struct translator *t, struct block *b)
{
	struct check *c = t->options.opaque;
	const struct tr_code *code = b->code;
	struct vcpu *v = c->v, *s = c->s;
	bool live = v->vec_live, vectors;
	u64 pc = v->rip, call_outs = v->stats->call_outs;
	enum difference d;

	if (t->strayed)
		renew(c);
	t->strayed = false;
	t->lone = false;
	trial_begin(&c->trial, b->gpa, b->bytes);
	c->left[0] = interpret(s, code->mode, b->insn, &c->ended);
	vectors = s->vec_live;
	vcpu_park(s);
	trial_undo(&c->trial);
	if (live && !v->vec_live)
		vec_load(v);
	run_real(t, code);
	if (c->trial.impure) {
		v->stats->check_impure++;
		t->strayed = true;
		return true;
	}
	finish(c, code->mode, t->resume, pc);
	live = v->vec_live;
	vectors |= live;
	if (vectors)
		vcpu_park(v);
	d = compare(c, v->stats->call_outs != call_outs, vectors);
	v->stats->check_blocks++;
	v->stats->check_insns += (u64)(c->ended.last - b->insn) + 1;
	if (d != DIFF_NONE && trial_raced(&c->trial)) {
		v->stats->check_raced++;
		t->strayed = true;
		d = DIFF_NONE;
	}
	if (d != DIFF_NONE) {
		vcpu_park(v);
		check_report(c, b, code, pc, d);
		return false;
	}
	if (live)
		vec_load(v);
	return true;
}

/* ---- the platform of the stand-in: all of it is impure ---- */

static void impure(struct check *c)
{
	c->trial.impure = true;
}

static u64 no_tsc(void *opaque)
{
	impure(opaque);
	return 0;
}

static int no_msr_read(void *opaque, u32 msr, u64 *val)
{
	(void)msr;
	impure(opaque);
	*val = 0;
	return 1;
}

static int no_msr_write(void *opaque, u32 msr, u64 val)
{
	(void)msr;
	(void)val;
	impure(opaque);
	return 1;
}

static u8 no_cr8_read(void *opaque)
{
	impure(opaque);
	return 0;
}

static void no_cr8_write(void *opaque, u8 val)
{
	(void)val;
	impure(opaque);
}

static const struct vcpu_platform no_platform = {
	.tsc = no_tsc,
	.msr_read = no_msr_read,
	.msr_write = no_msr_write,
	.cr8_read = no_cr8_read,
	.cr8_write = no_cr8_write,
};

static u64 no_port_read(void *dev, u64 off, unsigned size)
{
	(void)off;
	(void)size;
	impure(dev);
	return 0;
}

static void no_port_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)off;
	(void)val;
	(void)size;
	impure(dev);
}

static const struct io_ops no_port = {
	.read = no_port_read,
	.write = no_port_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

/* ---- set-up ---- */

static struct check *check_new(struct vcpu *v)
{
	struct check *c = xzalloc_aligned(64, sizeof(*c));
	struct vcpu *s = xzalloc_aligned(64, sizeof(*s));

	c->v = v;
	c->s = s;
	c->trial.real = v;
	c->ports = io_ports_new();
	/* All of them, in two windows, since the length has 16 bits. */
	io_ports_add(c->ports, 0, 0x8000, "lockstep", &no_port, c, NULL);
	io_ports_add(c->ports, 0x8000, 0x8000, "lockstep", &no_port, c, NULL);
	s->index = v->index;
	s->phys = v->phys;
	s->ports = c->ports;
	s->stats = &c->stats;
	s->platform = &no_platform;
	s->platform_opaque = c;
	s->cpuid = v->cpuid;
	s->native = v->native;
	s->vec_park = v->vec_park;
	/* Not through tlb_fill() any more from here on: empty, and stays so. */
	tlb_flush_all(s);
	s->trial = &c->trial;
	return c;
}

static void check_free(struct check *c)
{
	io_ports_free(c->ports);
	free(c->s);
	free(c);
}

static int check_vcpu_open(struct vcpu *v, struct error *err)
{
	struct translate_options o = { .eager = true, .run_block = check_run_block };
	struct translator *t;
	int ret;

	if (v->index)
		return error_set(err, -ENOTSUP, "-engine check runs one CPU, no more");
	ret = translate_open(v, &o, err);
	if (ret)
		return ret;
	t = v->engine;
	t->options.opaque = check_new(v);
	return 0;
}

static void check_vcpu_close(struct vcpu *v)
{
	struct check *c = check_of(v);

	translate_close(v);
	check_free(c);
}

const struct engine engine_check = {
	.name = "check",
	.cpus_max = 1, /* memory that another one writes to cannot be compared */
	.low = true,
	.probe = translate_probe,
	.vcpu_open = check_vcpu_open,
	.vcpu_close = check_vcpu_close,
	.run = translate_run,
	.kick = translate_kick,
	.push = translate_push,
};
