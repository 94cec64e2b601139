/*
 * What accesses of translated code remember of the TLB: one entry each, copied (struct
 * tr_memo).
 *
 * A memo is on a list of its TLB entry, and emptied when that changes or goes
 * (tlb_info.copies): at no time does it allow more than the TLB does. Filling looks only
 * there, walks no page tables and sets no A or D bits.
 *
 * An access that goes to many pages in turn would be filled all the time. When that
 * happens at short intervals, it is not filled any more: then its code asks the TLB at
 * once.
 *
 * Thread: the owner of the vCPU.
 */
#include <string.h>
#include <sys/mman.h>

#include "engine/interp/interp.h"
#include "engine/translate/translate.h"
#include "host/lowmem.h"
#include "x86/access.h"
#include "x86/stats.h"

#define MEMOS      (1u << 20)
/* Of the host's time-stamp counter; what is sooner is too soon, as filling takes some
 * hundred. So many times more often than not, it is the last one. */
#define SOON_SHIFT 6
#define SOON       (2048u >> SOON_SHIFT)
#define HURRY_MAX  8

bool memos_init(struct translator *t)
{
	struct tr_memos *m = &t->memos;
	void *info = mmap(NULL, MEMOS * sizeof(*m->info), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	m->info = info == MAP_FAILED ? NULL : info;
	m->memo = lowmem_new(MEMOS * sizeof(*m->memo));
	m->count = 1;
	return m->info && m->memo;
}

void memos_fini(struct translator *t)
{
	if (t->memos.info)
		munmap(t->memos.info, MEMOS * sizeof(*t->memos.info));
	lowmem_free(t->memos.memo, MEMOS * sizeof(*t->memos.memo));
}

/* What matches no address: memop.c. */
static u64 empty(unsigned form)
{
	return form == MEMO_QUICK ? 0 : 1;
}

u32 memo_new(struct translator *t, enum mmu_idx idx, bool write, unsigned form)
{
	struct tr_memos *m = &t->memos;

	if (m->count == MEMOS)
		return 0;
	m->info[m->count] =
		(struct tr_memo_info){ .idx = (u8)idx, .write = write, .form = (u8)form };
	m->memo[m->count] = (struct tr_memo){ .neg_page = empty(form) };
	return m->count++;
}

static struct tlb_info *entry_info(struct translator *t, const struct tr_memo_info *i)
{
	return &t->v->tlb.way[i->idx].info[i->slot];
}

static void memo_empty(struct translator *t, u32 memo)
{
	struct tr_memo_info *i = &t->memos.info[memo];

	if (!i->filled)
		return;
	if (i->prev)
		t->memos.info[i->prev].next = i->next;
	else
		entry_info(t, i)->copies = i->next;
	if (i->next)
		t->memos.info[i->next].prev = i->prev;
	i->filled = false;
	t->memos.memo[memo].neg_page = empty(i->form);
}

void memo_tlb_dropped(struct vcpu *v, struct tlb_info *info)
{
	struct translator *t = v->engine;

	while (info->copies)
		memo_empty(t, info->copies);
}

void memos_reset(struct translator *t)
{
	for (u32 memo = 1; memo < t->memos.count; memo++)
		memo_empty(t, memo);
	t->memos.count = 1;
}

static u64 neg_page(unsigned form, u64 page)
{
	switch (form) {
	case MEMO_QUICK: return -page;
	case MEMO_TWICE: return -(2 * (page >> PAGE_SHIFT));
	default: return -(page >> PAGE_SHIFT << (form - MEMO_SINGLE));
	}
}

/* It has been filled too often in too short a time, of late: its code does not call
 * again. */
static void give_up(struct translator *t, const struct tr_memo_info *i)
{
	static const u8 nop5[5] = { 0x0f, 0x1f, 0x44, 0, 0 };

	memcpy((void *)((u64)t->base + i->call - (u64)t->exec_delta), nop5, sizeof(nop5));
	t->v->stats->memo_polymorphic++;
}

static void note_time(struct translator *t, struct tr_memo_info *i)
{
	u32 now = (u32)(__builtin_ia32_rdtsc() >> SOON_SHIFT);

	if (now - i->filled_at < SOON)
		i->hurry++;
	else if (i->hurry)
		i->hurry--;
	i->filled_at = now;
	if (i->hurry == HURRY_MAX)
		give_up(t, i);
}

void translate_memo_fill(struct vcpu *v, u64 memo)
{
	struct translator *t = v->engine;
	struct tr_memo_info *i = &t->memos.info[memo];
	gva_t lin = t->f->addr;
	struct tlb_way *w = &v->tlb.way[i->idx];
	unsigned slot = tlb_slot(lin);
	const struct tlb_entry *e = &w->entry[slot];

	t->f->flags_in = cc_to_ax(t->f->flags_out & RFLAGS_STATUS);
	if ((i->write ? e->write : e->read) != tlb_tag(lin & PAGE_MASK))
		return;
	note_time(t, i);
	memo_empty(t, (u32)memo);
	v->stats->memo_fills++;
	i->filled = true;
	i->slot = (u16)slot;
	i->prev = 0;
	i->next = w->info[slot].copies;
	if (i->next)
		t->memos.info[i->next].prev = (u32)memo;
	w->info[slot].copies = (u32)memo;
	t->memos.memo[memo] =
		(struct tr_memo){ neg_page(i->form, lin & PAGE_MASK), e->addend };
}
