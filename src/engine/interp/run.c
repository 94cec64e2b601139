/*
 * The interpreter's loop: block by block, instruction by instruction when somebody
 * has to look in between. Events are looked at between blocks; a REP that is not done
 * comes back here too. Thread: the owner of the vCPU.
 */
#include "engine/interp/run.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "cpu/events.h"
#include "engine/interp/block.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/step.h"
#include "x86/profile.h"

static inline struct block_cache *cache_of(const struct vcpu *v)
{
	return v->engine;
}

static enum vcpu_exit interp_loop(struct vcpu *v, struct block_cache *c)
{
	for (;;) {
		enum step s;
		u32 ev = vcpu_events(v);

		if (unlikely(ev) && vcpu_event_ready(v, ev))
			return VCPU_EXIT_EVENT;
		block_catch_up(c);
		if (unlikely(block_cache_full(c))) {
			vcpu_park(v);
			block_cache_flush(c);
		}
		if (unlikely(v->shadow || v->step_check || v->pending_db)) {
			s = step_one(v, c);
		} else {
			struct block *b = block_find(c, v);

			if (unlikely(!b))
				s = step_deliver(v) ? STEP_ON : STEP_SHUTDOWN;
			else if (unlikely(b->stop))
				s = step_one(v, c);
			else if (likely(v->code_size == 8 ||
					v->rip + b->bytes - 1 <= v->seg[CS].limit))
				s = step_block(v, b);
			else
				s = step_one(v, c);
		}
		if (unlikely(s != STEP_ON))
			return s == STEP_EXIT    ? VCPU_EXIT_HLT
			       : s == STEP_DEBUG ? VCPU_EXIT_DEBUG
						 : VCPU_EXIT_SHUTDOWN;
	}
}

static enum vcpu_exit interp_run(struct vcpu *v)
{
	struct block_cache *c = cache_of(v);
	enum vcpu_exit why;

	__atomic_store_n(&c->owner, pthread_self(), __ATOMIC_RELAXED);
	profile_doing(v, DOING_INTERPRET);
	why = interp_loop(v, c);
	vcpu_park(v);
	return why;
}

static void interp_tlb_flushed(struct vcpu *v, u64 page, unsigned shift)
{
	block_unlink_jumps(cache_of(v), page, shift);
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
		error_set(err, ret,
			  ret == -ENOSPC ? "too many CPUs"
					 : "no memory for decoded code");
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
	block_cache_flush(cache_of(v));
}

const struct engine engine_interp = {
	.name = "interp",
	.probe = interp_probe,
	.vcpu_open = interp_vcpu_open,
	.vcpu_close = interp_vcpu_close,
	.run = interp_run,
	.push = interp_push,
};
