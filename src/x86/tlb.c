/*
 * Filling and flushing the software TLB.
 *
 * SDM volume 3 section 4.10. Entries are 4 KiB pieces of whatever page size the guest
 * uses, so INVLPG of an address in a large page must find all its pieces.
 * Thread: the owner of the vCPU.
 */
#include "x86/tlb.h"

#include "mem/phys.h"
#include "x86/access.h"
#include "x86/cr.h"
#include "x86/stats.h"
#include "x86/tlbfill.h"
#include "x86/trial.h"

bool tlb_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
	      struct tlb_hit *hit)
{
	unsigned slot = tlb_slot(lin);
	struct tlb_way *t = &v->tlb.way[idx];
	const struct phys_region *r;
	u64 page = lin & PAGE_MASK;
	struct walk w;
	u8 *flags;

	if (unlikely(v->trial))
		return trial_fill(v, lin, acc, idx, hit);
	v->stats->tlb_misses++;
	if (!walk(v, lin, acc, idx, &w)) {
		v->fault = (struct fault){ .vector = VEC_PF,
					   .has_error = true,
					   .error = w.pf_error,
					   .cr2 = lin };
		return false;
	}
	hit->gpa = w.gpa;
	hit->host = NULL;
	hit->code = false;
	if (unlikely((w.gpa & PAGE_MASK) == v->apic_page && v->apic_ops))
		return true;
	r = phys_find(v->phys, w.gpa);
	if (!r || (r->kind != PHYS_RAM && r->kind != PHYS_ROM))
		return true;
	if (r->kind == PHYS_ROM && acc == ACC_WRITE)
		return true;
	hit->host = r->host + (w.gpa - r->base);
	flags = r->page_flags + ((w.gpa - r->base) >> PAGE_SHIFT);
	hit->code = acc == ACC_WRITE
			    ? !phys_page_writer(flags)
			    : __atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_CODE;

	t->addend[slot] = (u64)(hit->host - (lin & ~PAGE_MASK)) - page;
	t->gpa[slot] = w.gpa & PAGE_MASK;
	t->global[slot] = w.global;
	t->shift[slot] = w.page_shift;
	if (w.page_shift > PAGE_SHIFT)
		v->tlb.large[idx] = true;
	t->exec[slot] = w.rights & BIT(ACC_EXEC) ? tlb_tag(page) : TLB_NONE;
	t->read[slot] = t->write[slot] = TLB_NONE;
	if (unlikely(debug_page_watched(v, lin)))
		return true;
	if (w.rights & BIT(ACC_READ))
		t->read[slot] = tlb_tag(page);
	/* Not with a fetch, as what is code cannot keep it. */
	if ((w.rights & BIT(ACC_WRITE)) && w.dirty && !hit->code && acc != ACC_EXEC &&
	    r->kind == PHYS_RAM && (acc == ACC_WRITE || phys_page_writer(flags)))
		t->write[slot] = tlb_tag(page);
	return true;
}

/* A stand-in has nothing to flush, but stops looking at the TLB of the other. */
static bool on_trial(struct vcpu *v)
{
	if (likely(!v->trial))
		return false;
	v->trial->flushed = true;
	return true;
}

static void flushed(struct vcpu *v, u64 page)
{
	if (v->tlb_flushed)
		v->tlb_flushed(v, page);
}

static void drop(struct tlb_way *t, unsigned slot)
{
	t->read[slot] = t->write[slot] = t->exec[slot] = TLB_NONE;
}

void tlb_flush_all(struct vcpu *v)
{
	if (on_trial(v))
		return;
	v->stats->tlb_flushes++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
		for (unsigned s = 0; s < TLB_SIZE; s++)
			drop(&v->tlb.way[i], s);
		v->tlb.large[i] = false;
	}
	flushed(v, TLB_FLUSHED_ALL);
}

void tlb_flush_nonglobal(struct vcpu *v)
{
	if (on_trial(v))
		return;
	v->stats->tlb_flushes++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		for (unsigned s = 0; s < TLB_SIZE; s++)
			if (!v->tlb.way[i].global[s])
				drop(&v->tlb.way[i], s);
	flushed(v, TLB_FLUSHED_NONGLOBAL);
}

/* Is this entry, of whatever access, a piece of the page around 'lin'? */
static bool covers(const struct tlb_way *t, unsigned slot, gva_t lin)
{
	u64 tag = t->read[slot] != TLB_NONE   ? t->read[slot]
		  : t->exec[slot] != TLB_NONE ? t->exec[slot]
					      : t->write[slot];

	return tag != TLB_NONE && (-tag ^ lin) >> t->shift[slot] == 0;
}

void tlb_flush_page(struct vcpu *v, gva_t lin)
{
	bool large = false;

	if (on_trial(v))
		return;
	v->stats->tlb_flush_pages++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
		struct tlb_way *t = &v->tlb.way[i];

		if (covers(t, tlb_slot(lin), lin))
			drop(t, tlb_slot(lin));
		if (!v->tlb.large[i])
			continue;
		large = true;
		for (unsigned s = 0; s < TLB_SIZE; s++)
			if (covers(t, s, lin))
				drop(t, s);
	}
	/* Code of a large page may be cached under other linear pages. */
	flushed(v, large ? TLB_FLUSHED_ALL : lin & PAGE_MASK);
}

void tlb_protect_code(struct vcpu *v, gpa_t page)
{
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		for (unsigned s = 0; s < TLB_SIZE; s++)
			if (v->tlb.way[i].gpa[s] == (page & PAGE_MASK))
				v->tlb.way[i].write[s] = TLB_NONE;
}
