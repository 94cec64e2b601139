/*
 * Sampling vCPU threads: at each signal the time goes to what the thread notes that it is
 * doing, and to the guest code it is at.
 *
 * The signal comes between any two instructions, of translated code as well, where most
 * of *v is in host registers: the handler reads what it needs and changes no more than
 * what is its own, 'sampled' and 'ns'. Thread: the owner of the vCPU.
 */
#include "cpu/profile.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/log.h"
#include "host/sampler.h"

struct sampling {
	struct profile p;
	struct vcpu *v;
	const struct engine *engine;
	struct sampler *sampler;
	bool times;
	u64 ended_ns; /* CPU time of threads that are gone */
};

static u64 rip_of(const struct vcpu *v)
{
	return v->code_size == 8 ? v->rip : (u32)(v->seg[CS].base + v->rip);
}

/* In signal context. */
static void sampled(void *opaque, u64 host, u64 ns)
{
	struct sampling *s = opaque;
	struct profile *p = &s->p;
	struct vcpu *v = s->v;
	unsigned doing = __atomic_load_n(&v->doing, __ATOMIC_RELAXED);
	u64 lin = rip_of(v);

	if (s->engine->locate && s->engine->locate(v, host, &lin))
		doing = DOING_CODE;
	p->ns[doing] += ns;
	p->cpu_ns = s->ended_ns + sampler_thread_ns();
	if (!p->sampled.spot)
		return;
	if (lin == ~UINT64_C(0))
		p->sampled.lost[SPOT_TIME] += ns;
	else
		spot_add(&p->sampled, lin, v->cpl == 3, SPOT_TIME, ns);
}

struct sampling *sampling_new(struct vcpu *v, const struct engine *e,
			      const struct profile_config *cfg)
{
	struct sampling *s;

	if (!cfg->times && !cfg->spots && !cfg->code_made)
		return NULL;
	s = xzalloc(sizeof(*s));
	s->v = v;
	s->engine = e;
	s->times = cfg->times || cfg->spots;
	s->p.code_made = cfg->code_made;
	s->p.code_opaque = cfg->code_opaque;
	if (cfg->spots) {
		s->p.sampled.spot = xzalloc(SPOTS * sizeof(struct spot));
		s->p.noted.spot = xzalloc(SPOTS * sizeof(struct spot));
	}
	v->profile = &s->p;
	return s;
}

void sampling_free(struct sampling *s)
{
	if (!s)
		return;
	free(s->p.sampled.spot);
	free(s->p.noted.spot);
	s->v->profile = NULL;
	free(s);
}

void sampling_begin(struct sampling *s)
{
	struct error err = { 0 };

	if (!s || !s->times)
		return;
	s->sampler = sampler_start(sampled, s, &err);
	if (!s->sampler)
		log_warn("no statistics of CPU time: %s", err.msg);
}

void sampling_end(struct sampling *s)
{
	if (!s || !s->times)
		return;
	sampler_stop(s->sampler);
	s->sampler = NULL;
	s->ended_ns += sampler_thread_ns();
	s->p.cpu_ns = s->ended_ns;
}
