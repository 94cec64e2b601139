/*
 * What accesses of translated code remember of the TLB: one entry each, copied (struct
 * tr_memo).
 *
 * A memo is on a list of its TLB entry, and emptied when that changes or goes
 * (tlb_info.copies): at no time does it allow more than the TLB does. Filling looks only
 * there, walks no page tables and sets no A or D bits.
 *
 * The check of a memo, where it misses, leads to the seldom-run part of the code, which
 * counts and asks the TLB itself; only now and then, and on the first executions, is C
 * called to fill the memo. An access whose first executions go to different pages never
 * gets it filled; nor does one that misses again and again in short time. That is noted
 * in its block, and the code is made anew without that memo.
 *
 * Code of hot pages alone has memos (run.c): one costs memory, code and the first
 * executions, and flat code is slower with them.
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

/* So many that 64 CPUs find room in the GiB of lowmem.h: 24 bytes each there. */
#define MEMOS        (7u << 15)
/* Executions before the first fill, and how many of them must be in the page of the one
 * before. */
#define PROBES       8
#define PROBES_SAME  6
/*
 * Misses from one fill to the next. It is doubled when these came one in CYCLES or
 * faster, so that filling costs little beside them; too often means that memos do not
 * help.
 */
#define PATIENCE     64
#define PATIENCE_MAX 2048
#define CYCLES       256

enum { MEMO_PROBE, MEMO_FILLS, MEMO_ROAMS, MEMO_RETIRED };

bool memos_init(struct translator *t)
{
	struct tr_memos *m = &t->memos;
	void *info = mmap(NULL, MEMOS * sizeof(*m->info), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	m->info = info == MAP_FAILED ? NULL : info;
	m->memo = lowmem_new(MEMOS * sizeof(*m->memo));
	m->wait = lowmem_new(MEMOS * sizeof(*m->wait));
	m->count = 1;
	return m->info && m->memo && m->wait;
}

void memos_fini(struct translator *t)
{
	if (t->memos.info)
		munmap(t->memos.info, MEMOS * sizeof(*t->memos.info));
	lowmem_free(t->memos.memo, MEMOS * sizeof(*t->memos.memo));
	lowmem_free(t->memos.wait, MEMOS * sizeof(*t->memos.wait));
}

/* What matches no address: memop.c. */
static u64 empty(unsigned form)
{
	return form == MEMO_QUICK ? 0 : 1;
}

u32 memo_new(struct translator *t, const struct tr_memo_info *like)
{
	struct tr_memos *m = &t->memos;

	if (m->count == MEMOS)
		return 0;
	m->info[m->count] = *like;
	m->memo[m->count] = (struct tr_memo){ .neg_page = empty(like->form) };
	m->wait[m->count] = 1;
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
	t->memos.retires = 0;
}

static u64 neg_page(unsigned form, u64 page)
{
	switch (form) {
	case MEMO_QUICK: return -page;
	case MEMO_TWICE: return -(2 * (page >> PAGE_SHIFT));
	default: return -(page >> PAGE_SHIFT << (form - MEMO_SINGLE));
	}
}

static void roam(struct translator *t, struct tr_memo_info *i)
{
	i->state = MEMO_ROAMS;
	*i->roams |= BIT(i->nth);
	t->v->stats->memo_polymorphic++;
}

/* Some time later, as by then others of the same code will have been found out as well.
 */
static void retire(struct translator *t, struct tr_memo_info *i)
{
	struct tr_memos *m = &t->memos;

	if (m->retires == ARRAY_SIZE(m->retire))
		return;
	m->retire[m->retires++] = i->code;
	i->state = MEMO_RETIRED;
}

static void probe(struct translator *t, struct tr_memo_info *i, u64 page)
{
	i->same += i->seen && page == i->page;
	i->page = page;
	if (++i->seen < PROBES)
		return;
	if (i->same < PROBES_SAME)
		roam(t, i);
	else
		i->state = MEMO_FILLS;
}

static void fill(struct translator *t, u32 memo, u64 page)
{
	struct tr_memo_info *i = &t->memos.info[memo];
	struct tlb_way *w = &t->v->tlb.way[i->idx];
	unsigned slot = tlb_slot(page);
	const struct tlb_entry *e = &w->entry[slot];
	u32 now = (u32)(__builtin_ia32_rdtsc() / CYCLES);

	if ((i->write ? e->write : e->read) != tlb_tag(page))
		return;
	if (now - i->filled_at < i->patience)
		i->patience *= 2;
	else
		i->patience = MAX(i->patience / 2, PATIENCE);
	i->filled_at = now;
	if (i->patience > PATIENCE_MAX) {
		roam(t, i);
		return;
	}
	memo_empty(t, memo);
	t->v->stats->memo_fills++;
	i->filled = true;
	i->slot = (u16)slot;
	i->prev = 0;
	i->next = w->info[slot].copies;
	if (i->next)
		t->memos.info[i->next].prev = memo;
	w->info[slot].copies = memo;
	t->memos.memo[memo] = (struct tr_memo){ neg_page(i->form, page), e->addend };
}

void translate_memo_fill(struct vcpu *v, u64 memo)
{
	struct translator *t = v->engine;
	struct tr_memo_info *i = &t->memos.info[memo];
	u64 page = t->f->addr & PAGE_MASK;

	t->f->flags_in = cc_to_ax(t->f->flags_out & RFLAGS_STATUS);
	t->v->stats->memo_misses +=
		i->state == MEMO_PROBE ? 1 : MAX(i->patience, PATIENCE);
	if (i->state == MEMO_ROAMS)
		retire(t, i);
	if (i->state == MEMO_PROBE)
		probe(t, i, page);
	if (i->state == MEMO_FILLS)
		fill(t, (u32)memo, page);
	t->memos.wait[memo] = i->state == MEMO_PROBE     ? 1
			      : i->state == MEMO_RETIRED ? UINT64_MAX
							 : MAX(i->patience, PATIENCE);
}
