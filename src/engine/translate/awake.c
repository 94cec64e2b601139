/*
 * Where translated code is executed, and what holds only there: the table that branches
 * look their targets up in, links between pages, and the shadow stack. T3 and T5 in
 * translate.h.
 *
 * Thread: the owner of the vCPU.
 */
#include "engine/translate/awake.h"

#include "base/bits.h"
#include "mem/phys.h"
#include "x86/stats.h"
#include "x86/tlb.h"
#include "x86/walk.h"

/* The upper end of a shadow stack is its bottom. */
#define BOTTOM 512

/* ---- the look-up table ---- */

/* Not before the mode is used: a table is a megabyte. */
static void jumps_init(struct translator *t, unsigned m)
{
	for (unsigned i = 0; i < TR_JUMPS; i++)
		t->f->jumps[m].slot[i].neg_lin = i ? TR_NO_JUMP : TR_SLOT0;
	t->jumps_ready[m] = true;
}

static void jumps_clear(struct translator *t, unsigned m)
{
	struct tr_taken *k = &t->taken[m];

	for (unsigned n = 0; n < k->count; n++)
		t->f->jumps[m].slot[k->slot[n]].neg_lin = TR_NO_JUMP;
	k->count = 0;
}

/* Slots that are emptied one by one stay on the list, which is harmless: 'taken' holds
 * each once. */
static void jump_forget(struct translator *t, unsigned m, unsigned i, u64 entry)
{
	struct tr_jump *j = &t->f->jumps[m].slot[i];

	if (j->code == entry && j->neg_lin != TR_NO_JUMP)
		j->neg_lin = TR_FORGOTTEN;
}

void jumps_forget_code(struct translator *t, const struct tr_code *code)
{
	if (likely(code->slots <= ARRAY_SIZE(code->slot))) {
		for (unsigned n = 0; n < code->slots; n++)
			jump_forget(t, code->slot[n] / TR_JUMPS, code->slot[n] % TR_JUMPS,
				    code->entry);
		return;
	}
	for (unsigned m = 0; m < CODE_MODES; m++)
		for (unsigned n = 0; n < t->taken[m].count; n++)
			jump_forget(t, m, t->taken[m].slot[n], code->entry);
}

/* Remember where the code can be found, so that it can be forgotten. */
void jumps_note_slot(struct tr_code *code, unsigned m, unsigned i)
{
	u32 where = m * TR_JUMPS + i;

	for (unsigned n = 0; n < MIN(code->slots, ARRAY_SIZE(code->slot)); n++)
		if (code->slot[n] == where)
			return;
	if (code->slots < ARRAY_SIZE(code->slot))
		code->slot[code->slots] = where;
	if (code->slots <= ARRAY_SIZE(code->slot))
		code->slots++;
}

/* Will a CR3 load keep the mapping that code is fetched by? */
static bool is_global(struct vcpu *v, gva_t lin)
{
	const struct tlb_way *w = &v->tlb.way[v->mmu_idx];
	unsigned slot = tlb_slot(lin);
	gpa_t gpa;

	if (w->entry[slot].exec != tlb_tag(lin & PAGE_MASK) &&
	    !fetch_translate(v, lin, &gpa))
		return false;
	return w->entry[slot].exec == tlb_tag(lin & PAGE_MASK) && w->info[slot].global;
}

/* What frame.page_lin is to be. */
u64 page_address(const struct vcpu *v)
{
	return v->rip - (linear_rip(v) & ~PAGE_MASK);
}

void jumps_add(struct translator *t, unsigned m, gva_t lin, u64 entry)
{
	unsigned i = tr_jump_slot(lin);
	struct tr_jump *j = &t->f->jumps[m].slot[i];
	struct tr_taken *k = &t->taken[m];

	if (!tr_mode_is_user(m) && !t->kernel_local[m])
		t->kernel_local[m] = !is_global(t->v, lin);
	if (unlikely(!t->jumps_ready[m]))
		jumps_init(t, m);
	/* Slot 0 stays empty: a kick sends every look-up there. */
	if (!i)
		return;
	if (j->neg_lin == TR_NO_JUMP)
		k->slot[k->count++] = (u16)i;
	j->neg_lin = -lin;
	j->code = entry;
	j->page = lin & PAGE_MASK;
	if (tr_mode_is_based(m)) {
		j->neg_lin = -(t->v->rip + t->f->cs_key);
		j->page = page_address(t->v);
	}
}

/* ---- code ---- */

static void link_undo(struct tr_link *l)
{
	le_store(l->at, (u64)(i64)l->exit, 4);
	*l->link = l->next;
	if (l->next)
		l->next->link = l->link;
	l->linked = false;
}

void code_unlink(struct tr_code *code)
{
	while (code->links)
		link_undo(code->links);
}

/* ---- linear pages ---- */

static unsigned pages_slot(const struct tr_pages *s, u64 page)
{
	unsigned i =
		(unsigned)((page >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 52);

	while (s->page[i] && s->page[i] != page)
		i = (i + 1) % TR_PAGES;
	return i;
}

static bool pages_have(const struct tr_pages *s, u64 page)
{
	return s->full || s->page[pages_slot(s, page)] == page;
}

/* Is other code executed there? */
static bool pages_other(const struct tr_pages *s, u64 page, const struct code_page *code)
{
	unsigned i = pages_slot(s, page);

	return s->page[i] && s->code[i] != code;
}

static void pages_add(struct tr_pages *s, u64 page, struct code_page *code)
{
	unsigned i = pages_slot(s, page);

	if (!page || s->count == TR_PAGES / 2) {
		s->full = true;
		return;
	}
	if (!s->page[i]) {
		s->page[i] = page;
		s->used[s->count++] = (u16)i;
	}
	s->code[i] = code;
}

static void pages_clear(struct tr_pages *s)
{
	for (unsigned n = 0; n < s->count; n++)
		s->page[s->used[n]] = 0;
	s->count = 0;
	s->full = false;
}

/* ---- what holds while addresses translate as they do: T3, T5 ---- */

static u8 *shadow_top(const struct translator *t, unsigned mode)
{
	return t->low + SHADOW_GUARD + mode * (SHADOW_SIZE + SHADOW_GUARD) + SHADOW_SIZE -
	       BOTTOM;
}

/*
 * The bottom matches returns to address 0 alone, and leads out. Each time anew: where
 * returns have gone beyond it calls are pushed there, and whatever else is pushed.
 */
u64 shadow_empty(const struct translator *t, unsigned mode)
{
	u64 *p = (u64 *)(void *)shadow_top(t, mode);

	for (unsigned i = 0; i < BOTTOM / sizeof(*p); i += 2) {
		p[i] = t->lost_return;
		p[i + 1] = ~UINT64_C(0);
	}
	return (u64)(uintptr_t)p;
}

/* Whoever runs code of this mode must leave it now. */
static void shadow_forget(struct translator *t, unsigned mode)
{
	t->shadow[mode] = shadow_empty(t, mode);
	if (mode == t->mode)
		t->f->shadow_rsp = t->shadow[mode];
}

/* What is returned to may be gone. */
void shadows_forget(struct translator *t)
{
	for (unsigned m = 0; m < CODE_MODES; m++)
		shadow_forget(t, m);
}

/* All pages fall asleep. Whoever runs code of this mode must leave it now. */
void far_forget(struct translator *t, unsigned mode)
{
	t->f->leave = 1;
	/* Nothing has been executed since. */
	if (!t->pages[mode].count && !t->pages[mode].full)
		return;
	/* What is found there would be executed without note_page(). */
	jumps_clear(t, mode);
	pages_clear(&t->pages[mode]);
	t->kernel_local[mode] = false;
	t->far_shift[mode] = PAGE_SHIFT;
	t->v->stats->far_forgets++;
	t->epoch[mode]++;
	shadow_forget(t, mode);
}

/* Is the page there, for fetches of this mode? As the CPU might know from now on: so A
 * must be set. */
static bool still_there(struct translator *t, unsigned m, u64 lin,
			const struct code_page *p)
{
	enum mmu_idx idx = tr_mode_is_user(m) ? MMU_USER : MMU_KERNEL;
	struct walk w;

	if (!walk_look(t->v, lin, idx, &w) || !(w.rights & BIT(ACC_EXEC)) ||
	    (w.gpa & PAGE_MASK) != p->page)
		return false;
	if (!tr_mode_is_user(m) && !w.global)
		t->kernel_local[m] = true;
	/* The TLB need not know of it any more. */
	t->far_shift[m] = MAX(t->far_shift[m], w.page_shift);
	return true;
}

/* So many pages in vain: another program runs now, and has none of them. */
#define STRANGER 8

/* Move the pages that are not where they were from 'pages' to 'gone'. False: that is all
 * of them, as it seems, and they were not moved. */
static bool find_gone(struct translator *t, unsigned m, u64 page, unsigned shift)
{
	struct tr_pages *s = &t->pages[m], *gone = &t->gone;
	bool one = page < TLB_FLUSHED_NONGLOBAL;
	u64 kept[TR_PAGES / 2];
	struct code_page *code[TR_PAGES / 2];
	unsigned n = 0;

	pages_clear(gone);
	if (!one)
		t->kernel_local[m] = false;
	for (unsigned i = 0; i < s->count; i++) {
		u64 lin = s->page[s->used[i]];
		struct code_page *p = s->code[s->used[i]];

		if ((one && (lin ^ page) >> shift) || still_there(t, m, lin, p)) {
			kept[n] = lin;
			code[n++] = p;
		} else {
			pages_add(gone, lin, p);
			if (!n && gone->count == STRANGER)
				return false;
		}
	}
	if (!n)
		return false;
	if (!gone->count)
		return true;
	pages_clear(s);
	for (unsigned i = 0; i < n; i++)
		pages_add(s, kept[i], code[i]);
	return true;
}

static bool is_awake(const struct translator *t, unsigned m, const struct code_page *p)
{
	return p->epoch[m] == t->epoch[m];
}

/* To it, or to an instruction that reaches into it. */
static bool leads_to_gone(const struct translator *t, unsigned m, const struct tr_link *l)
{
	const struct block *to = l->to->block;

	return !is_awake(t, m, to->home) ||
	       (to->page2 != GPA_NONE &&
		!is_awake(t, m, block_page(&t->cache, to->page2)));
}

/* Take those from the links out of a page that are not linked, or of code that is no
 * more.
 */
static void far_prune(struct code_page *p, unsigned m)
{
	struct tr_link **at = &p->far[m], *l;

	while ((l = *at)) {
		if (l->linked && l->of->block->code == l->of) {
			at = &l->far_next;
			continue;
		}
		l->far_listed = false;
		*at = l->far_next;
	}
}

/* Links to 'gone' from what stays awake, and whatever else leads there. */
static void forget_gone(struct translator *t, unsigned m)
{
	const struct tr_pages *s = &t->pages[m];
	struct tr_taken *k = &t->taken[m];

	for (unsigned i = 0; i < t->gone.count; i++)
		t->gone.code[t->gone.used[i]]->epoch[m] = t->epoch[m] - 1;
	for (unsigned i = 0; i < s->count; i++) {
		struct code_page *p = s->code[s->used[i]];

		far_prune(p, m);
		for (struct tr_link *l = p->far[m]; l; l = l->far_next)
			if (leads_to_gone(t, m, l))
				link_undo(l);
	}
	for (unsigned n = 0; n < k->count; n++) {
		struct tr_jump *j = &t->f->jumps[m].slot[k->slot[n]];
		u64 page = -j->neg_lin & PAGE_MASK;

		/* What is there may reach into the next page. */
		if (j->neg_lin != TR_NO_JUMP && (pages_have(&t->gone, page) ||
						 pages_have(&t->gone, page + PAGE_SIZE)))
			j->neg_lin = TR_FORGOTTEN;
	}
	shadow_forget(t, m);
}

/* Can it be told from the guest's tables where a page is? */
static bool can_look(const struct translator *t, unsigned m)
{
	return !tr_mode_is_based(m) && t->v->paging >= PAGING_4LEVEL;
}

/*
 * This page, or those that TLB_FLUSHED_* says, may translate differently. What is
 * executed of them elsewhere now, or nowhere, falls asleep.
 */
static void far_check(struct translator *t, unsigned m, u64 page, unsigned shift)
{
	const struct tr_pages *s = &t->pages[m];

	t->f->leave = 1;
	if (!s->count && !s->full)
		return;
	if (page == TLB_FLUSHED_ALL || s->full || !can_look(t, m) ||
	    !find_gone(t, m, page, shift))
		far_forget(t, m);
	else if (t->gone.count)
		forget_gone(t, m);
}

/* So many pages are woken at once, as each takes a look at the guest's tables: who
 * switches between programs often needs few of each. */
#define WAKE_MAX   64
/* Nor does a kick wait for more links than that. */
#define WAKE_LINKS 16384

struct wake {
	struct translator *t;
	unsigned m;
	struct code_page *page[WAKE_MAX];
	unsigned count, links;
};

/* Is it awake there, or can it be? */
static bool wakes_at(struct wake *w, struct code_page *p, u64 lin)
{
	struct translator *t = w->t;
	unsigned m = w->m;

	if (tr_mode_is_narrow(m))
		lin = (u32)lin;
	if (is_awake(t, m, p))
		return p->lin[m] == lin;
	/* The tables do not tell. */
	if (!is_canonical(t->v, lin))
		return false;
	if (w->count == WAKE_MAX || !can_look(t, m) ||
	    pages_other(&t->pages[m], lin, p) || !still_there(t, m, lin, p))
		return false;
	p->epoch[m] = t->epoch[m];
	p->lin[m] = lin;
	pages_add(&t->pages[m], lin, p);
	w->page[w->count++] = p;
	return true;
}

static bool holds(struct wake *w, const struct code_page *p, const struct tr_link *l)
{
	const struct block *to = l->to->block;
	u64 lin = p->lin[w->m] + l->delta;

	return wakes_at(w, to->home, lin) &&
	       (to->page2 == GPA_NONE ||
		wakes_at(w, block_page(&w->t->cache, to->page2), lin + PAGE_SIZE));
}

/* The page is awake now: what its links lead to must be, too. */
static void wake(struct translator *t, unsigned m, struct code_page *p)
{
	struct wake w = { .t = t, .m = m, .page = { p }, .count = 1 };

	for (unsigned i = 0; i < w.count; i++) {
		p = w.page[i];
		far_prune(p, m);
		for (struct tr_link *l = p->far[m]; l; l = l->far_next)
			if (w.links++ >= WAKE_LINKS || !holds(&w, p, l))
				link_undo(l);
	}
}

/* The page is about to be executed at this linear address. False: from where it was come
 * from has not been noted, as it has just been forgotten. */
static bool note_page(struct translator *t, unsigned m, struct code_page *p, gva_t lin)
{
	bool known = true;
	gva_t page = lin & PAGE_MASK;

	if (likely(p->epoch[m] == t->epoch[m] && p->lin[m] == page))
		return true;
	/* Here and there at once, or two here: start anew. */
	if (p->epoch[m] == t->epoch[m] || pages_other(&t->pages[m], page, p)) {
		far_forget(t, m);
		known = false;
	}
	p->epoch[m] = t->epoch[m];
	p->lin[m] = page;
	pages_add(&t->pages[m], page, p);
	if (p->far[m])
		wake(t, m, p);
	return known;
}

/* The same for the block's page, and for the one that it reaches into. */
bool note_pages(struct translator *t, unsigned m, const struct block *b, gva_t lin)
{
	bool known = note_page(t, m, b->home, lin);
	gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;

	if (likely(b->page2 == GPA_NONE))
		return known;
	if (!note_page(t, m, block_page(&t->cache, b->page2), next)) {
		note_page(t, m, b->home, lin);
		known = false;
	}
	if (!tr_mode_is_user(m) && !t->kernel_local[m])
		t->kernel_local[m] = !is_global(t->v, next);
	return known;
}

/* ---- links ---- */

void link_to(struct translator *t, struct tr_link *l, struct tr_code *code)
{
	le_store(l->at, code->entry - ((u64)l->at + t->exec_delta + 4), 4);
	t->v->stats->links++;
	l->linked = true;
	l->to = code;
	l->link = &code->links;
	l->next = code->links;
	if (l->next)
		l->next->link = &l->next;
	code->links = l;
	if (l->target == GPA_NONE || code->block->page2 != GPA_NONE) {
		struct code_page *from = l->of->block->home;

		l->delta = code->block->home->lin[l->mode] - from->lin[l->mode];
		if (l->far_listed)
			return;
		l->far_listed = true;
		l->far_next = from->far[l->mode];
		from->far[l->mode] = l;
	}
}

/* ---- flushes ---- */

void far_flushed(struct translator *t, u64 page, unsigned shift)
{
	for (unsigned m = 0; m < CODE_MODES; m++) {
		unsigned around = MAX(shift, t->far_shift[m]);
		bool any;

		if (page < TLB_FLUSHED_NONGLOBAL)
			any = around > PAGE_SHIFT || pages_have(&t->pages[m], page);
		else
			any = page > TLB_FLUSHED_NONGLOBAL || tr_mode_is_user(m) ||
			      t->kernel_local[m];
		if (any)
			far_check(t, m, page, around);
	}
}
