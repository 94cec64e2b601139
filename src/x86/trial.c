/*
 * Trial runs: the record of what was written, and a TLB that is another vCPU's.
 *
 * Two runs of the same instructions, one of them on trial, then meet the same
 * translations, also where the guest has changed a page table and not yet flushed. Only
 * if a TLB entry is replaced in the middle of the real run can they differ, in A bits and
 * for guests that rely on stale entries. Missing: two vCPUs that run at the same time.
 * Thread: the owner of both vCPUs.
 */
#include "x86/trial.h"

#include "mem/phys.h"
#include "x86/access.h"

/* No libc here: it may use vector registers while the guest's are live. */
static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static bool same(const u8 *a, const u8 *b, size_t n)
{
	for (; n >= 8; n -= 8, a += 8, b += 8)
		if (le_load(a, 8) != le_load(b, 8))
			return false;
	for (; n; n--)
		if (*a++ != *b++)
			return false;
	return true;
}

static bool overlap(u64 a, u64 a_len, u64 b, u64 b_len)
{
	return a < b + b_len && b < a + a_len;
}

void trial_begin(struct trial *t, gpa_t code, u32 len)
{
	t->code = code;
	t->code_len = len;
	t->code_written = t->impure = t->flushed = false;
	t->writes = t->write_bytes = 0;
	t->reads = t->read_bytes = 0;
}

bool trial_write(struct trial *t, u8 *host, gpa_t gpa, u64 len, bool walk)
{
	struct trial_span *w = &t->write[t->writes];

	/* More than any instruction writes before it is interrupted. */
	if (t->impure || t->writes == TRIAL_WRITES ||
	    TRIAL_BYTES - t->write_bytes < len) {
		t->impure = true;
		return false;
	}
	*w = (struct trial_span){ .host = host,
				  .gpa = gpa,
				  .at = t->write_bytes,
				  .len = (u16)len,
				  .walk = walk };
	copy(t->old + w->at, host, len);
	t->writes++;
	t->write_bytes += (u32)len;
	if (overlap(gpa, len, t->code, t->code_len))
		t->code_written = true;
	return true;
}

/* A record that is full only makes trial_raced() blind. */
void trial_read(struct trial *t, u8 *host, gpa_t gpa, u64 len)
{
	struct trial_span *r = &t->read[t->reads];

	if (t->reads == TRIAL_READS || TRIAL_READ_BYTES - t->read_bytes < len)
		return;
	*r = (struct trial_span){
		.host = host, .gpa = gpa, .at = t->read_bytes, .len = (u16)len
	};
	copy(t->seen + r->at, host, len);
	t->reads++;
	t->read_bytes += (u32)len;
}

void trial_undo(struct trial *t)
{
	for (u32 i = 0; i < t->writes; i++)
		copy(t->new + t->write[i].at, t->write[i].host, t->write[i].len);
	for (u32 i = t->writes; i-- > 0;)
		copy(t->write[i].host, t->old + t->write[i].at, t->write[i].len);
}

const struct trial_span *trial_differs(const struct trial *t)
{
	for (u32 i = 0; i < t->writes; i++) {
		const struct trial_span *w = &t->write[i];

		if (!w->walk && !same(w->host, t->new + w->at, w->len))
			return w;
	}
	return NULL;
}

static bool written(const struct trial *t, const struct trial_span *r)
{
	for (u32 i = 0; i < t->writes; i++)
		if (overlap(r->gpa, r->len, t->write[i].gpa, t->write[i].len))
			return true;
	return false;
}

bool trial_raced(const struct trial *t)
{
	for (u32 i = 0; i < t->reads; i++) {
		const struct trial_span *r = &t->read[i];

		if (!same(r->host, t->seen + r->at, r->len) && !written(t, r))
			return true;
	}
	return false;
}

/* What the real vCPU's TLB says. */
static bool look_up(const struct vcpu *real, gva_t lin, enum access acc, enum mmu_idx idx,
		    struct tlb_hit *hit)
{
	const struct tlb_way *w = &real->tlb.way[idx];
	unsigned slot = tlb_slot(lin);
	const struct tlb_entry *e = &w->entry[slot];
	u64 tag = acc == ACC_READ ? e->read : acc == ACC_WRITE ? e->write : e->exec;

	if (tag != tlb_tag(lin & PAGE_MASK))
		return false;
	hit->host = (u8 *)(lin + e->addend);
	hit->gpa = w->info[slot].gpa | (lin & ~PAGE_MASK);
	hit->code = false;
	return true;
}

bool trial_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
		struct tlb_hit *hit)
{
	struct trial *t = v->trial;
	const struct phys_region *r;
	struct walk w;

	if (!t->flushed && look_up(t->real, lin, acc, idx, hit))
		return true;
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
	if ((w.gpa & PAGE_MASK) == v->apic_page && v->apic_ops)
		return true;
	r = phys_find(v->phys, w.gpa);
	if (r && (r->kind == PHYS_RAM || (r->kind == PHYS_ROM && acc != ACC_WRITE)))
		hit->host = r->host + (w.gpa - r->base);
	return true;
}
