/*
 * From an address in the code memory to the guest code there, for a sampler
 * (cpu/profile.h), and telling who wants to know of code that was made.
 *
 * To the beginning of a trace, not to the instruction: traces are short, and what is
 * asked for is a function. The table exists only when somebody wants either. Thread: the
 * owner of the vCPU; translate_locate() in its signal handler. Code that was made runs
 * only when the table has it.
 */
#include <sys/mman.h>

#include "engine/translate/translate.h"
#include "host/execmem.h"
#include "x86/profile.h"

#define STARTS_MAX (1u << 20)

struct tr_start {
	u32 at;  /* offset from the base of the code memory */
	u32 off; /* of the guest code from its page */
};

/* Not inlined: tools/check-vecfree stops here, as the vectors are parked. */
__attribute__((noinline)) static bool starts_init(struct tr_starts *s)
{
	void *p = mmap(NULL, STARTS_MAX * sizeof(*s->start), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	s->start = p == MAP_FAILED ? NULL : p;
	return s->start != NULL;
}

static void add(struct translator *t, struct tr_starts *s, u64 exec, u32 off)
{
	if (s->count == STARTS_MAX || (!s->start && !starts_init(s)))
		return;
	s->start[s->count] = (struct tr_start){ (u32)(exec - (u64)t->base), off };
	__atomic_store_n(&s->count, s->count + 1, __ATOMIC_RELEASE);
}

static void tell(const struct vcpu *v, u64 exec, u32 size)
{
	const struct profile *p = v->profile;

	if (p->code_made && size)
		p->code_made(p->code_opaque, v, exec, size, linear_rip(v));
}

void locate_add(struct translator *t, const struct tr_code *code)
{
	const struct vcpu *v = t->v;
	u32 off = (u32)(code->block->gpa & ~PAGE_MASK);

	if (!v->profile)
		return;
	if (v->profile->sampled.spot) {
		add(t, &t->starts[0], code->entry, off);
		add(t, &t->starts[1], code->cold, off);
	}
	tell(v, code->entry, code->size);
	tell(v, code->cold, code->cold_size);
}

void locate_reset(struct translator *t)
{
	t->starts[0].count = t->starts[1].count = 0;
}

void locate_fini(struct translator *t)
{
	for (unsigned i = 0; i < 2; i++)
		if (t->starts[i].start)
			munmap(t->starts[i].start, STARTS_MAX * sizeof(struct tr_start));
}

/* The last that begins at or before 'at'; NULL: none. */
static const struct tr_start *last_before(const struct tr_starts *s, u32 at)
{
	u32 lo = 0, hi = s->count;

	while (lo < hi) {
		u32 mid = (lo + hi) / 2;

		if (s->start[mid].at <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? &s->start[lo - 1] : NULL;
}

bool translate_locate(struct vcpu *v, u64 host, u64 *lin)
{
	const struct translator *t = v->engine;
	u64 at = host - (u64)t->base;
	const struct tr_start *hot, *cold;
	u64 page = t->f->page_lin;

	/* Of based code it is an offset; the low half of a key is the base of CS. */
	if (tr_mode_is_based(t->mode))
		page += (u32)t->f->cs_key;
	if (at >= execmem_size(t->mem))
		return false;
	hot = last_before(&t->starts[0], (u32)at);
	cold = last_before(&t->starts[1], (u32)at);
	if (hot)
		*lin = page + (cold && cold->at > hot->at ? cold : hot)->off;
	/* The common pieces are in front of all code. Those for strings run long. */
	else if (host >= t->string[0][0][0])
		*lin = page + t->f->save[SAVE_R10];
	else
		*lin = ~UINT64_C(0);
	return true;
}
