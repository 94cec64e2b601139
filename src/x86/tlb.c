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

bool tlb_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx, struct tlb_hit *hit)
{
	unsigned slot = tlb_slot(lin);
	struct tlb_entry *e = &v->tlb.e[idx][slot];
	const struct phys_region *r;
	u64 page = lin & PAGE_MASK;
	struct walk w;
	u8 *flags;

	v->stats->tlb_misses++;
	if (!walk(v, lin, acc, idx, &w)) {
		v->fault = (struct fault){ .vector = VEC_PF, .has_error = true, .error = w.pf_error,
					   .cr2 = lin };
		return false;
	}
	hit->gpa = w.gpa;
	hit->host = NULL;
	hit->code = false;
	if (unlikely((w.gpa & PAGE_MASK) == v->apic_page))
		return true;
	r = phys_find(v->phys, w.gpa);
	if (!r || (r->kind != PHYS_RAM && r->kind != PHYS_ROM))
		return true;
	if (r->kind == PHYS_ROM && acc == ACC_WRITE)
		return true;
	hit->host = r->host + (w.gpa - r->base);
	flags = r->page_flags + ((w.gpa - r->base) >> PAGE_SHIFT);
	hit->code = *flags & PAGE_CODE;

	if (e->read != page && e->write != page && e->exec != page)
		e->read = e->write = e->exec = TLB_NONE;
	e->addend = (u64)(hit->host - (lin & ~PAGE_MASK)) - page;
	v->tlb.gpa[idx][slot] = w.gpa & PAGE_MASK;
	v->tlb.global[idx][slot] = w.global;
	v->tlb.shift[idx][slot] = w.page_shift;
	if (w.page_shift > PAGE_SHIFT)
		v->tlb.large[idx] = true;
	e->exec = w.rights & BIT(ACC_EXEC) ? page : TLB_NONE;
	e->read = e->write = TLB_NONE;
	if (unlikely(debug_page_watched(v, lin)))
		return true;
	if (w.rights & BIT(ACC_READ))
		e->read = page;
	if ((w.rights & BIT(ACC_WRITE)) && w.dirty && !hit->code && r->kind == PHYS_RAM)
		e->write = page;
	return true;
}

static void flushed(struct vcpu *v, u64 page)
{
	if (v->tlb_flushed)
		v->tlb_flushed(v, page);
}

static void drop(struct tlb_entry *e)
{
	e->read = e->write = e->exec = TLB_NONE;
}

void tlb_flush_all(struct vcpu *v)
{
	v->stats->tlb_flushes++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
		for (unsigned s = 0; s < TLB_SIZE; s++)
			drop(&v->tlb.e[i][s]);
		v->tlb.large[i] = false;
	}
	flushed(v, ~UINT64_C(0));
}

void tlb_flush_nonglobal(struct vcpu *v)
{
	v->stats->tlb_flushes++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		for (unsigned s = 0; s < TLB_SIZE; s++)
			if (!v->tlb.global[i][s])
				drop(&v->tlb.e[i][s]);
	flushed(v, ~UINT64_C(0));
}

/* The page size of any cached piece of the large page around 'lin' in this TLB, 0 if none. */
static void drop_large(struct vcpu *v, enum mmu_idx idx, gva_t lin)
{
	for (unsigned s = 0; s < TLB_SIZE; s++) {
		struct tlb_entry *e = &v->tlb.e[idx][s];
		unsigned shift = v->tlb.shift[idx][s];
		u64 tag = e->read != TLB_NONE ? e->read : e->exec != TLB_NONE ? e->exec : e->write;

		if (tag != TLB_NONE && (tag ^ lin) >> shift == 0)
			drop(e);
	}
}

void tlb_flush_page(struct vcpu *v, gva_t lin)
{
	u64 page = lin & PAGE_MASK;
	bool large = false;

	v->stats->tlb_flush_pages++;
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++) {
		struct tlb_entry *e = &v->tlb.e[i][tlb_slot(lin)];

		if (e->read == page || e->write == page || e->exec == page)
			drop(e);
		if (v->tlb.large[i]) {
			drop_large(v, i, lin);
			large = true;
		}
	}
	/* Code of a large page may be cached under other linear pages. */
	flushed(v, large ? ~UINT64_C(0) : page);
}

void tlb_protect_code(struct vcpu *v, gpa_t page)
{
	for (unsigned i = 0; i < MMU_IDX_COUNT; i++)
		for (unsigned s = 0; s < TLB_SIZE; s++)
			if (v->tlb.gpa[i][s] == (page & PAGE_MASK))
				v->tlb.e[i][s].write = TLB_NONE;
}
