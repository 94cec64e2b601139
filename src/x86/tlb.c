/*
 * Filling and flushing the software TLB.
 *
 * SDM volume 3 section 4.10. Entries are 4 KiB pieces of whatever page size the guest
 * uses, so INVLPG of an address in a large page must find all its pieces; whether there
 * are any is remembered in a few bits, as the most pages that are flushed are small.
 * Thread: the owner of the vCPU.
 */
#include "x86/tlb.h"

#include "mem/phys.h"
#include "x86/access.h"
#include "x86/cr.h"
#include "x86/profile.h"
#include "x86/stats.h"
#include "x86/tlbfill.h"
#include "x86/trial.h"

static u64 *large_word(struct tlb_large *l, unsigned shift, gva_t lin, u64 *bit)
{
	u64 h = (lin >> (shift >= 30 ? 30 : 21)) * UINT64_C(0x9e3779b97f4a7c15);

	*bit = BIT(h >> 58);
	return shift >= 30 ? &l->gib1 : &l->mib2[h >> 54 & 15];
}

/* A piece of which page around 'lin' can be in the TLB? Up to 1 << that. */
static unsigned shift_around(struct tlb_way *t, gva_t lin)
{
	u64 b2, b30;
	u64 *w2 = large_word(&t->large, 21, lin, &b2),
	    *w30 = large_word(&t->large, 30, lin, &b30);

	return *w30 & b30 ? 30 : *w2 & b2 ? 22 : PAGE_SHIFT;
}

static void note_filled(struct tlb_way *t, unsigned slot, const struct walk *w, u64 page)
{
	struct tlb_info *i = &t->info[slot];
	u64 bit;

	i->gpa = w->gpa & PAGE_MASK;
	i->global = w->global;
	i->shift = w->page_shift;
	if (!i->listed[w->global]) {
		i->listed[w->global] = true;
		t->list[w->global].slot[t->list[w->global].count++] = (u16)slot;
	}
	if (w->page_shift > PAGE_SHIFT) {
		/* A page of 4 MiB has two of the bits. */
		*large_word(&t->large, w->page_shift, page, &bit) |= bit;
		if (w->page_shift == 22)
			*large_word(&t->large, 21, page ^ MiB(2), &bit) |= bit;
	}
}

/* What was copied from the entry is not more than it, at any time. */
static void drop_copies(struct vcpu *v, struct tlb_info *i)
{
	if (unlikely(i->copies))
		v->tlb_dropped(v, i);
}

static bool fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
		 struct tlb_hit *hit)
{
	unsigned slot = tlb_slot(lin);
	struct tlb_way *t = &v->tlb.way[idx];
	const struct phys_region *r;
	struct tlb_entry *e;
	u64 page = lin & PAGE_MASK;
	struct walk w;
	u8 *flags;

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
	if (unlikely(!(__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_BACKED)) &&
	    r->kind == PHYS_RAM)
		phys_back(r, w.gpa - r->base);
	hit->code = acc == ACC_WRITE
			    ? !phys_page_writer(flags)
			    : __atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_CODE;

	drop_copies(v, &t->info[slot]);
	e = &t->entry[slot];
	e->addend = (u64)(hit->host - (lin & ~PAGE_MASK)) - page;
	note_filled(t, slot, &w, page);
	v->tlb.keys |= w.user ? 3u << (2 * w.key) : 0;
	e->exec = w.rights & BIT(ACC_EXEC) ? tlb_tag(page) : tlb_none(slot);
	e->read = e->write = tlb_none(slot);
	if (unlikely(debug_page_watched(v, lin)))
		return true;
	if (w.rights & BIT(ACC_READ))
		e->read = tlb_tag(page);
	/* Not with a fetch, as what is code cannot keep it. */
	if ((w.rights & BIT(ACC_WRITE)) && w.dirty && !hit->code && acc != ACC_EXEC &&
	    r->kind == PHYS_RAM && (acc == ACC_WRITE || phys_page_writer(flags)))
		e->write = tlb_tag(page);
	return true;
}

bool tlb_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
	      struct tlb_hit *hit)
{
	u8 was;
	bool ok;

	if (unlikely(v->trial))
		return trial_fill(v, lin, acc, idx, hit);
	v->stats->tlb_misses++;
	was = profile_doing(v, DOING_FILL);
	ok = fill(v, lin, acc, idx, hit);
	profile_doing(v, was);
	return ok;
}

/* A stand-in has nothing to flush, but stops looking at the TLB of the other. */
static bool on_trial(struct vcpu *v)
{
	if (likely(!v->trial))
		return false;
	v->trial->flushed = true;
	return true;
}

static void flushed(struct vcpu *v, u64 page, unsigned shift)
{
	walks_forget(v);
	if (v->tlb_flushed)
		v->tlb_flushed(v, page, shift);
}

static void drop(struct vcpu *v, struct tlb_way *t, unsigned slot)
{
	drop_copies(v, &t->info[slot]);
	t->entry[slot].read = t->entry[slot].write = t->entry[slot].exec = tlb_none(slot);
}

static void make_ready(struct vcpu *v)
{
	struct tlb *tlb = &v->tlb;

	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		for (unsigned s = 0; s < TLB_SIZE; s++)
			drop(v, &tlb->way[i], s);
	tlb->ready = true;
}

/* Drop the entries of a list that are still of its kind, and the list. */
static void list_flush(struct vcpu *v, struct tlb_way *t, bool global)
{
	struct tlb_list *l = &t->list[global];

	for (unsigned n = 0; n < l->count; n++) {
		unsigned s = l->slot[n];

		if (t->info[s].global == global)
			drop(v, t, s);
		t->info[s].listed[global] = false;
	}
	l->count = 0;
}

static void way_flush(struct vcpu *v, struct tlb_way *t, bool keep_global)
{
	list_flush(v, t, false);
	if (!keep_global)
		list_flush(v, t, true);
	/* Of the global ones it is not known which are large. */
	if (!t->list[1].count)
		t->large = (struct tlb_large){ 0 };
}

static void flush_all(struct vcpu *v, u64 what)
{
	if (on_trial(v))
		return;
	v->stats->tlb_flushes++;
	if (unlikely(!v->tlb.ready))
		make_ready(v);
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		way_flush(v, &v->tlb.way[i], false);
	v->tlb.keys = 0;
	flushed(v, what, PAGE_SHIFT);
}

void tlb_flush_all(struct vcpu *v)
{
	flush_all(v, TLB_FLUSHED_ALL);
}

void tlb_flush_global(struct vcpu *v)
{
	flush_all(v, TLB_FLUSHED_GLOBAL);
}

void tlb_flush_nonglobal(struct vcpu *v)
{
	if (on_trial(v))
		return;
	v->stats->tlb_flushes++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		way_flush(v, &v->tlb.way[i], true);
	flushed(v, TLB_FLUSHED_NONGLOBAL, PAGE_SHIFT);
}

/* Is this entry, of whatever access, a piece of the page around 'lin'? */
static bool covers(const struct tlb_way *t, unsigned slot, gva_t lin)
{
	const struct tlb_entry *e = &t->entry[slot];
	u64 none = tlb_none(slot);
	u64 tag = e->read != none ? e->read : e->exec != none ? e->exec : e->write;

	return tag != none && (-tag ^ lin) >> t->info[slot].shift == 0;
}

void tlb_flush_page(struct vcpu *v, gva_t lin)
{
	unsigned shift = PAGE_SHIFT;

	if (on_trial(v))
		return;
	v->stats->tlb_flush_pages++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
		struct tlb_way *t = &v->tlb.way[i];
		unsigned around = shift_around(t, lin);

		if (covers(t, tlb_slot(lin), lin))
			drop(v, t, tlb_slot(lin));
		if (likely(around == PAGE_SHIFT))
			continue;
		shift = MAX(shift, around);
		for (unsigned k = 0; k < 2; k++)
			for (unsigned n = 0; n < t->list[k].count; n++)
				if (covers(t, t->list[k].slot[n], lin))
					drop(v, t, t->list[k].slot[n]);
	}
	/* Code of a large page may be cached under other linear pages. */
	flushed(v, lin & PAGE_MASK, shift);
}

void tlb_protect_code(struct vcpu *v, gpa_t page)
{
	for (unsigned i = 0; i < 2 * MMU_IDX_COUNT; i++) {
		struct tlb_way *t = &v->tlb.way[i / 2];
		const struct tlb_list *l = &t->list[i & 1];

		for (unsigned n = 0; n < l->count; n++) {
			struct tlb_info *info = &t->info[l->slot[n]];

			if (info->gpa != (page & PAGE_MASK))
				continue;
			drop_copies(v, info);
			t->entry[l->slot[n]].write = tlb_none(l->slot[n]);
		}
	}
	if (v->code_protected)
		v->code_protected(v, page & PAGE_MASK);
}
