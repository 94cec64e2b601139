/*
 * Mapping guest pages in the process of guest user code, and taking them away again.
 *
 * INVLPG and CR3 loads do not unmap: what they may have changed is compared with the
 * tables before guest code runs again, so that an address space that others have run in
 * between is still there. Thread: see shadow.h.
 */
#include "engine/direct/shadow.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "engine/direct/process.h"
#include "engine/direct/sensitive.h"
#include "mem/phys.h"
#include "x86/stats.h"

#define SLOT_BITS  17
#define SLOTS      (1u << SLOT_BITS)
#define PAGES_MAX  (SLOTS / 4 * 3)
/* The host's limit, vm.max_map_count, is usually 65530. */
#define PIECES_MAX 60000
/* More to unmap than this: all of it. */
#define UNMAP_MAX  256
/* Pages around one that faults that are mapped with it: an aligned block, or what is in
 * the same large page. */
#define AROUND     16
#define AROUND_MAX 512

enum {
	MAY_READ = PROT_READ,
	MAY_WRITE = PROT_WRITE,
	MAY_EXEC = PROT_EXEC,
	REVOKED = 1 << 8, /* is to be unmapped, whatever the tables say */
};

struct shadow_page {
	gva_t lin; /* 0: the slot is free */
	gpa_t gpa;
	int prot; /* 0: not mapped any more */
};

int shadow_init(struct shadow *s, struct vcpu *v, struct process *p)
{
	size_t pages = SLOTS * sizeof(*s->page), used = SLOTS * sizeof(*s->used);

	s->v = v;
	s->p = p;
	s->cr3 = ~UINT64_C(0);
	s->page = mmap(NULL, pages, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	s->used = mmap(NULL, used, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->page != MAP_FAILED && s->used != MAP_FAILED)
		return 0;
	s->page = s->page == MAP_FAILED ? NULL : s->page;
	s->used = s->used == MAP_FAILED ? NULL : s->used;
	return -ENOMEM;
}

void shadow_fini(struct shadow *s)
{
	if (s->page)
		munmap(s->page, SLOTS * sizeof(*s->page));
	if (s->used)
		munmap(s->used, SLOTS * sizeof(*s->used));
}

/* ---- what is mapped ---- */

/* Its slot, or the free one where it would be. */
static struct shadow_page *slot_of(const struct shadow *s, gva_t lin)
{
	u32 i = (u32)((lin >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >>
		      (64 - SLOT_BITS));

	while (s->page[i].lin && s->page[i].lin != lin)
		i = (i + 1) & (SLOTS - 1);
	return &s->page[i];
}

static int prot_of(const struct shadow *s, gva_t lin)
{
	const struct shadow_page *g = slot_of(s, lin & PAGE_MASK);

	return g->lin ? g->prot : 0;
}

static u64 *writable_word(struct shadow *s, gpa_t gpa, u64 *bit)
{
	u64 h = (gpa >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 49;

	*bit = BIT(h & 63);
	return &s->writable[h >> 6];
}

static void note(struct shadow *s, gva_t lin, gpa_t gpa, int prot)
{
	struct shadow_page *g = slot_of(s, lin);
	u64 bit;

	if (!g->lin)
		s->used[s->count++] = (u32)(g - s->page);
	*g = (struct shadow_page){ lin, gpa, prot };
	if (prot & MAY_WRITE)
		*writable_word(s, gpa, &bit) |= bit;
}

/* Make room for an order. */
static int order(struct shadow *s, const struct mapper_call *c)
{
	int ret = 0;

	if (!process_order(s->p, c)) {
		ret = process_map(s->p);
		process_order(s->p, c);
	}
	return ret;
}

static int unmap(struct shadow *s, gva_t lin, u64 len)
{
	/* It may be in the middle of one. */
	s->pieces++;
	return order(s, &(struct mapper_call){ .nr = SYS_munmap, .arg = { lin, len } });
}

static int drop_all(struct shadow *s)
{
	gva_t behind = s->p->base + MAPPER_SIZE;
	int ret = 0;

	if (s->count) {
		s->v->stats->direct_drops++;
		ret = unmap(s, PROCESS_LO, s->p->base - PROCESS_LO);
		if (!ret)
			ret = unmap(s, behind, PROCESS_HI - behind);
	}
	for (unsigned n = 0; n < s->count; n++)
		s->page[s->used[n]].lin = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(s->writable); i++)
		s->writable[i] = 0;
	for (unsigned i = 0; i < PROCESS_BREAKS; i++)
		s->armed[i] = 0;
	s->count = s->pieces = s->changes = 0;
	s->stale = s->large = false;
	if (!ret)
		ret = process_map(s->p);
	process_wipe(s->p);
	return ret ? ret : process_break_none(s->p);
}

/* ---- the guest's tables have changed ---- */

static void change(struct shadow *s, gva_t page)
{
	if (s->changes == SHADOW_CHANGES)
		s->stale = true;
	else
		s->change[s->changes++] = page;
}

void shadow_flushed(struct shadow *s, u64 page)
{
	/* One page may be all of a large one. */
	if (page >= TLB_FLUSHED_NONGLOBAL || s->large)
		s->stale = true;
	else
		change(s, page);
}

void shadow_protect(struct shadow *s, gpa_t page)
{
	u64 bit;

	if (!(*writable_word(s, page, &bit) & bit))
		return;
	for (unsigned n = 0; n < s->count; n++) {
		struct shadow_page *g = &s->page[s->used[n]];

		if (g->gpa != page || !(g->prot & MAY_WRITE))
			continue;
		g->prot = REVOKED;
		change(s, g->lin);
	}
}

/* The RAM that a page is in; NULL: it is not for us. */
static const struct phys_region *ram_of(const struct shadow *s, gpa_t gpa)
{
	const struct phys_region *r = phys_find(s->v->phys, gpa);

	if (!r || r->kind != PHYS_RAM)
		return NULL;
	return (gpa & PAGE_MASK) == s->v->apic_page && s->v->apic_ops ? NULL : r;
}

static bool may_write(const struct phys_region *r, const struct walk *w)
{
	u64 off = (w->gpa & PAGE_MASK) - r->base;

	return (w->rights & BIT(ACC_WRITE)) && w->dirty &&
	       phys_page_writer(r->page_flags + (off >> PAGE_SHIFT));
}

/* The large page that was looked at last. */
struct leaf {
	gva_t lin;
	struct walk w; /* page_shift 0: there is none */
};

/* walk_look(), once for all of a large page. */
static bool look(struct shadow *s, gva_t lin, struct leaf *l, struct walk *w)
{
	u64 off = BIT(l->w.page_shift) - 1;

	if (!l->w.page_shift || (lin ^ l->lin) & ~off) {
		s->looked++;
		l->w.page_shift = 0;
		if (!walk_look(s->v, lin, MMU_USER, w))
			return false;
		if (w->page_shift > PAGE_SHIFT)
			*l = (struct leaf){ lin, *w };
		return true;
	}
	*w = l->w;
	w->gpa = (l->w.gpa & ~off) | (lin & off);
	return true;
}

/* Would it be mapped like this now? */
static bool holds(struct shadow *s, const struct shadow_page *g, struct leaf *l)
{
	const struct phys_region *r;
	struct walk w;

	if (g->prot == REVOKED || !look(s, g->lin, l, &w) ||
	    (w.gpa & PAGE_MASK) != g->gpa || w.key)
		return false;
	r = ram_of(s, w.gpa);
	return r && (w.rights & BIT(ACC_READ)) &&
	       (!(g->prot & MAY_WRITE) || may_write(r, &w)) &&
	       (!(g->prot & MAY_EXEC) || (w.rights & BIT(ACC_EXEC)));
}

/* What a comparison with the tables has found. */
struct found {
	unsigned unmapped;
	bool code_kept, code_lost;
	struct leaf leaf;
};

static int recheck(struct shadow *s, struct shadow_page *g, struct found *f)
{
	bool code = g->prot & MAY_EXEC;

	if (!g->lin || !g->prot)
		return 0;
	if (holds(s, g, &f->leaf)) {
		f->code_kept |= code;
		return 0;
	}
	f->code_lost |= code;
	g->prot = 0;
	f->unmapped++;
	return unmap(s, g->lin, PAGE_SIZE);
}

static int recheck_all(struct shadow *s)
{
	struct found f = { 0 };
	int ret = 0;

	s->v->stats->direct_rechecks++;
	for (unsigned n = 0; n < s->count && !ret && f.unmapped <= UNMAP_MAX; n++)
		ret = recheck(s, &s->page[s->used[n]], &f);
	s->renewed = f.code_lost && !f.code_kept;
	return ret || f.unmapped <= UNMAP_MAX ? ret : drop_all(s);
}

static int recheck_changes(struct shadow *s)
{
	struct found f = { 0 };
	int ret = 0;

	for (unsigned n = 0; n < s->changes && !ret; n++)
		ret = recheck(s, slot_of(s, s->change[n]), &f);
	return ret;
}

/* Has the guest mapped something where the mapper is? */
static bool in_the_way(const struct shadow *s)
{
	gpa_t gpa;

	for (gva_t at = s->p->base; at < s->p->base + MAPPER_SIZE; at += PAGE_SIZE)
		if (walk_peek(s->v, at, &gpa))
			return true;
	return false;
}

static bool is_full(const struct shadow *s)
{
	return s->pieces > PIECES_MAX || s->count > PAGES_MAX - AROUND_MAX;
}

int shadow_enter(struct shadow *s)
{
	u64 cr3 = s->v->cr3 & BITS(51, 12), generation = phys_generation(s->v->phys);
	int ret;

	s->renewed = false;
	if ((s->stale || cr3 != s->cr3) && in_the_way(s))
		return -EADDRINUSE;
	if (cr3 != s->cr3 || generation != s->generation || is_full(s)) {
		s->cr3 = cr3;
		s->generation = generation;
		return drop_all(s);
	}
	ret = s->stale ? recheck_all(s) : recheck_changes(s);
	s->stale = false;
	s->changes = 0;
	return ret;
}

/* ---- filling ---- */

/* A run of pages that one mmap() makes. */
struct run {
	gva_t lin;
	u64 len;
	int fd, prot;
	u64 off;
};

static bool mappable(const struct shadow *s, gva_t lin)
{
	return lin >= PROCESS_LO && lin < PROCESS_HI && !process_owns(s->p, lin);
}

/* Give each of these addresses of a page a breakpoint, and take those of other pages for
 * it, with the right to execute them. */
static int arm(struct shadow *s, gva_t lin, const gva_t *at, unsigned n)
{
	int ret = 0;

	s->armings++;
	for (unsigned k = 0; k < n && !ret; k++) {
		unsigned i = s->next_break++ % PROCESS_BREAKS;
		struct shadow_page *g = slot_of(s, s->armed[i]);

		if (s->armed[i] && s->armed[i] != lin && g->lin && (g->prot & MAY_EXEC)) {
			g->prot = 0;
			ret = unmap(s, g->lin, PAGE_SIZE);
		}
		s->armed[i] = lin;
		if (!ret)
			ret = process_break(s->p, i, at[k]);
	}
	return ret;
}

/* May the page be executed? 'fault': it must. 1, 0, -errno. */
static int executable(struct shadow *s, gva_t lin, const u8 *bytes, bool fault)
{
	gva_t at[PROCESS_BREAKS];
	unsigned n = sensitive_find(s->v, lin, bytes, at, PROCESS_BREAKS);
	int ret;

	if (!n)
		return 1;
	if (!fault || n > PROCESS_BREAKS)
		return 0;
	ret = arm(s, lin, at, n);
	return ret ? ret : 1;
}

/*
 * How a page is mapped for an access of this kind; 0: not at all. 'fault': it is the one
 * that is needed.
 */
static int prot_for(struct shadow *s, gva_t lin, const struct walk *w, enum access acc,
		    const struct phys_region *r, bool fault)
{
	u64 off = (w->gpa & PAGE_MASK) - r->base;
	int prot = MAY_READ;

	if (w->key || !(w->rights & BIT(ACC_READ)))
		return 0;
	if (may_write(r, w))
		prot |= MAY_WRITE;
	if ((w->rights & BIT(ACC_EXEC)) &&
	    (acc == ACC_EXEC || (prot_of(s, lin) & MAY_EXEC))) {
		int may = executable(s, lin, r->host + off, fault);

		if (may < 0)
			return may;
		prot |= may ? MAY_EXEC : 0;
	}
	if ((acc == ACC_WRITE && !(prot & MAY_WRITE)) ||
	    (acc == ACC_EXEC && !(prot & MAY_EXEC)))
		return 0;
	return prot;
}

static int run_map(struct shadow *s, const struct run *r)
{
	if (!r->len)
		return 0;
	/* It may be in the middle of one. */
	s->pieces += 2;
	return order(
		s, &(struct mapper_call){ .nr = SYS_mmap,
					  .arg = { r->lin, r->len, (u64)r->prot,
						   MAP_SHARED | MAP_FIXED | MAP_POPULATE,
						   (u64)r->fd, r->off } });
}

/* Put the page at the end of the run, or map the run and begin another. */
static int run_add(struct shadow *s, struct run *run, gva_t lin, const struct walk *w,
		   enum access acc, bool fault)
{
	const struct phys_region *r = ram_of(s, w->gpa);
	gpa_t gpa = w->gpa & PAGE_MASK;
	int prot, fd, ret = 0;

	if (!r)
		return 0;
	prot = prot_for(s, lin, w, acc, r, fault);
	if (prot <= 0)
		return prot;
	fd = phys_ram_fd(s->v->phys, r->base);
	if (!run->len || lin != run->lin + run->len || prot != run->prot ||
	    fd != run->fd || gpa - r->base != run->off + run->len) {
		ret = run_map(s, run);
		*run = (struct run){
			.lin = lin, .prot = prot, .fd = fd, .off = gpa - r->base
		};
	}
	run->len += PAGE_SIZE;
	s->v->stats->direct_pages++;
	s->large |= w->page_shift > PAGE_SHIFT;
	note(s, lin, gpa, prot);
	return ret;
}

/* What kind of access it must have been, from what was allowed; the host does not say. */
static enum access guess(int prot, bool fetch)
{
	if (fetch && !(prot & MAY_EXEC))
		return ACC_EXEC;
	return prot & MAY_READ ? ACC_WRITE : ACC_READ;
}

/* What is mapped with a page: from where, and how many bytes. */
static u64 around(gva_t page, const struct walk *w, gva_t *from)
{
	u64 pages = w->page_shift > PAGE_SHIFT
			    ? MIN(BIT(w->page_shift - PAGE_SHIFT), AROUND_MAX)
			    : AROUND;

	*from = align_down(page, pages * PAGE_SIZE);
	return pages * PAGE_SIZE;
}

/*
 * Map a page for this kind of access, and pages around it that need no walk that changes
 * anything. It comes first and alone: it may take others' right to be executed.
 */
static int fill(struct shadow *s, gva_t page, const struct walk *w, enum access acc)
{
	gva_t from;
	u64 len = around(page, w, &from);
	struct leaf leaf = { page, *w };
	struct run run = { 0 };
	int ret = run_add(s, &run, page, w, acc, true);

	if (!ret)
		ret = run_map(s, &run);
	if (w->page_shift == PAGE_SHIFT)
		leaf.w.page_shift = 0;
	run.len = 0;
	for (gva_t at = from; at < from + len && !ret; at += PAGE_SIZE) {
		struct walk there;

		if (at != page && mappable(s, at) && !prot_of(s, at) &&
		    look(s, at, &leaf, &there))
			ret = run_add(s, &run, at, &there,
				      acc == ACC_EXEC ? ACC_EXEC : ACC_READ, false);
	}
	if (!ret)
		ret = run_map(s, &run);
	return ret ? ret : process_map(s->p);
}

int shadow_fill(struct shadow *s, gva_t lin)
{
	gva_t page = lin & PAGE_MASK;
	struct walk w;

	if (!mappable(s, page) || prot_of(s, page) || is_full(s) ||
	    !walk_look(s->v, page, MMU_USER, &w))
		return 0;
	return fill(s, page, &w, ACC_READ);
}

int shadow_fault(struct shadow *s, gva_t lin, bool fetch)
{
	gva_t page = lin & PAGE_MASK;
	int was, ret;
	enum access acc;
	struct walk w;

	s->v->stats->direct_faults++;
	if (!mappable(s, page))
		return 0;
	if (is_full(s)) {
		ret = drop_all(s);
		if (ret)
			return ret;
	}
	was = prot_of(s, page);
	acc = guess(was, fetch);
	if (was & MAY_WRITE && acc == ACC_WRITE) {
		/* All is allowed, and yet it is not there. */
		change(s, page);
		return 0;
	}
	if (!walk(s->v, lin, acc, MMU_USER, &w))
		return 0;
	ret = fill(s, page, &w, acc);
	return ret ? ret : prot_of(s, page) != was;
}
