/*
 * Mapping guest pages in the process of guest user code, and taking them away again.
 *
 * INVLPG and CR3 loads do not unmap: what they may have changed is compared with the
 * tables before guest code runs again, so that an address space that others have run in
 * between is still there. For that the table that mapped pages come from is kept as it
 * was, 2 MiB a region: the same bytes mean the same pages. Thread: see shadow.h.
 */
#include "engine/direct/shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/alloc.h"
#include "engine/direct/process.h"
#include "engine/direct/sensitive.h"
#include "mem/phys.h"
#include "x86/cr.h"
#include "x86/stats.h"

#define REGION_SHIFT 21
#define REGION_PAGES 512
#define SLOT_BITS    11
#define SLOTS        (1u << SLOT_BITS)
#define REGIONS_MAX  (SLOTS / 4 * 3)
/* Memory of more than these is given back with them. */
#define REGIONS_KEPT 64
/* The host's limit, vm.max_map_count, is usually 65530. */
#define PIECES_MAX   60000
/* More to unmap than this: all of it. */
#define UNMAP_MAX    256
/* Pages around one that faults that are mapped with it: an aligned block, or what is in
 * the same large page. */
#define AROUND       16
#define AROUND_MAX   512

enum {
	MAY_READ = PROT_READ,
	MAY_WRITE = PROT_WRITE,
	MAY_EXEC = PROT_EXEC,
	REVOKED = 1 << 8, /* is to be unmapped, whatever the tables say */
};

struct shadow_region {
	gva_t key; /* its linear address; ~0: the slot is free */
	struct walk_table
		t; /* as it was when it was looked at last, and so the entries */
	u64 entry[REGION_PAGES];
	/* Of the pages that are mapped. */
	u32 frame[REGION_PAGES]; /* guest-physical, in pages */
	u16 prot[REGION_PAGES];  /* 0: not mapped */
	u16 pages, code;         /* so many, and executable */
	bool revoked;            /* some are */
};

static void *map_lazily(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int shadow_init(struct shadow *s, struct vcpu *v, struct process *p)
{
	s->v = v;
	s->p = p;
	s->cr3 = ~UINT64_C(0);
	s->region = map_lazily(SLOTS * sizeof(*s->region));
	s->slot = xzalloc(SLOTS * sizeof(*s->slot));
	return s->region ? 0 : -ENOMEM;
}

void shadow_fini(struct shadow *s)
{
	if (s->region)
		munmap(s->region, SLOTS * sizeof(*s->region));
	free(s->slot);
}

/* ---- what is mapped ---- */

static gva_t page_lin(const struct shadow_region *g, unsigned i)
{
	return g->key + i * PAGE_SIZE;
}

static unsigned page_index(gva_t lin)
{
	return lin >> PAGE_SHIFT & (REGION_PAGES - 1);
}

/* Where the region's number is, or would be. */
static u16 *slot_of(const struct shadow *s, gva_t key)
{
	u32 i = (u32)((key >> REGION_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >>
		      (64 - SLOT_BITS));

	while (s->slot[i] && s->region[s->slot[i] - 1].key != key)
		i = (i + 1) & (SLOTS - 1);
	return &s->slot[i];
}

/* NULL: nothing of it has been mapped. */
static struct shadow_region *region_of(const struct shadow *s, gva_t lin)
{
	u16 n = *slot_of(s, align_down(lin, BIT(REGION_SHIFT)));

	return n ? &s->region[n - 1] : NULL;
}

/* There is room: is_full() has been asked. */
static struct shadow_region *region_get(struct shadow *s, gva_t lin)
{
	gva_t key = align_down(lin, BIT(REGION_SHIFT));
	u16 *slot = slot_of(s, key);
	struct shadow_region *g;

	if (*slot)
		return &s->region[*slot - 1];
	*slot = (u16)++s->regions;
	g = &s->region[*slot - 1];
	g->key = key;
	g->t = (struct walk_table){ 0 };
	g->pages = g->code = 0;
	g->revoked = false;
	memset(g->prot, 0, sizeof(g->prot));
	return g;
}

static int prot_of(const struct shadow *s, gva_t lin)
{
	const struct shadow_region *g = region_of(s, lin);

	return g ? g->prot[page_index(lin)] : 0;
}

static u64 *writable_word(struct shadow *s, gpa_t gpa, u64 *bit)
{
	u64 h = (gpa >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15) >> 49;

	*bit = BIT(h & 63);
	return &s->writable[h >> 6];
}

static void page_set(struct shadow_region *g, unsigned i, int prot)
{
	g->pages = (u16)(g->pages - !!g->prot[i] + !!prot);
	g->code = (u16)(g->code - !!(g->prot[i] & MAY_EXEC) + !!(prot & MAY_EXEC));
	g->prot[i] = (u16)prot;
}

static void note(struct shadow *s, struct shadow_region *g, gva_t lin, gpa_t gpa,
		 int prot)
{
	unsigned i = page_index(lin);
	u64 bit;

	page_set(g, i, prot);
	g->frame[i] = (u32)(gpa >> PAGE_SHIFT);
	if (prot & MAY_WRITE)
		*writable_word(s, gpa, &bit) |= bit;
}

/* Make room for an order. */
static int order(struct shadow *s, const struct mapper_call *c)
{
	int ret = 0;

	s->upkeep.orders++;
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

	if (s->regions) {
		s->v->stats->direct_drops++;
		ret = unmap(s, PROCESS_LO, s->p->base - PROCESS_LO);
		if (!ret)
			ret = unmap(s, behind, PROCESS_HI - behind);
	}
	memset(s->slot, 0, SLOTS * sizeof(*s->slot));
	if (s->regions > REGIONS_KEPT)
		madvise(s->region, SLOTS * sizeof(*s->region), MADV_DONTNEED);
	for (unsigned i = 0; i < ARRAY_SIZE(s->writable); i++)
		s->writable[i] = 0;
	for (unsigned i = 0; i < PROCESS_BREAKS; i++)
		s->armed[i] = 0;
	s->regions = s->pieces = s->changes = 0;
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

void shadow_flushed(struct shadow *s, u64 page, unsigned shift)
{
	/* One page may be all of a large one. */
	if (page >= TLB_FLUSHED_NONGLOBAL || shift > PAGE_SHIFT || s->large)
		s->stale = true;
	else
		change(s, page);
}

static void protect_in(struct shadow *s, struct shadow_region *g, gpa_t page)
{
	for (unsigned i = 0; g->pages && i < REGION_PAGES; i++) {
		if (g->frame[i] != page >> PAGE_SHIFT || !(g->prot[i] & MAY_WRITE))
			continue;
		page_set(g, i, REVOKED);
		g->revoked = true;
		change(s, page_lin(g, i));
	}
}

void shadow_protect(struct shadow *s, gpa_t page)
{
	u64 bit;

	if (!(*writable_word(s, page, &bit) & bit))
		return;
	for (unsigned n = 0; n < s->regions; n++)
		protect_in(s, &s->region[n], page);
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

/* The table of a small page's region, in the VMM. NULL: the guest has it in no RAM. */
static const u64 *table_of(const struct shadow *s, const struct shadow_region *g)
{
	return (const u64 *)(const void *)phys_host(s->v->phys, g->t.table, PAGE_SIZE,
						    false);
}

/* What the tables say of a page now; that is what is kept. 'g->t' is up to date. */
static bool look(struct shadow *s, struct shadow_region *g, unsigned i, struct walk *w)
{
	u64 entry = g->t.entry;

	if (g->t.shift == PAGE_SHIFT) {
		const u64 *table = table_of(s, g);

		entry = table ? __atomic_load_n(&table[i], __ATOMIC_RELAXED) : 0;
		g->entry[i] = entry;
	}
	return walk_entry(s->v, page_lin(g, i), MMU_USER, &g->t, entry, w);
}

/* Would it be mapped like this now? */
static bool holds(struct shadow *s, struct shadow_region *g, unsigned i)
{
	const struct phys_region *r;
	int prot = g->prot[i];
	struct walk w;

	s->upkeep.looked++;
	if (!look(s, g, i, &w) || prot == REVOKED || w.gpa >> PAGE_SHIFT != g->frame[i] ||
	    w.key)
		return false;
	r = ram_of(s, w.gpa);
	return r && (w.rights & BIT(ACC_READ)) &&
	       (!(prot & MAY_WRITE) || may_write(r, &w)) &&
	       (!(prot & MAY_EXEC) || (w.rights & BIT(ACC_EXEC)));
}

/* What a comparison with the tables has found. */
struct found {
	unsigned unmapped;
	bool code_kept, code_lost;
};

static int recheck(struct shadow *s, struct shadow_region *g, unsigned i, struct found *f)
{
	bool code = g->prot[i] & MAY_EXEC;

	if (!g->prot[i])
		return 0;
	if (holds(s, g, i)) {
		f->code_kept |= code;
		return 0;
	}
	f->code_lost |= code;
	page_set(g, i, 0);
	f->unmapped++;
	return unmap(s, page_lin(g, i), PAGE_SIZE);
}

static bool same_table(const struct walk_table *a, const struct walk_table *b)
{
	return a->table == b->table && a->entry == b->entry && a->shift == b->shift &&
	       a->user == b->user && a->writable == b->writable && a->nx == b->nx;
}

/* Bring g->t up to date. False: it is another than it was. */
static bool same_way(struct shadow *s, struct shadow_region *g)
{
	struct walk_table t;

	if (!walk_down(s->v, g->key, &t))
		/* A page that is not present. */
		t = (struct walk_table){ .shift = REGION_SHIFT };
	if (same_table(&t, &g->t))
		return true;
	g->t = t;
	return false;
}

/* Page by page, and what is not mapped is kept too. */
static int recheck_pages(struct shadow *s, struct shadow_region *g, struct found *f)
{
	int ret = 0;

	for (unsigned i = 0; i < REGION_PAGES && !ret; i++) {
		struct walk w;

		if (g->prot[i])
			ret = recheck(s, g, i, f);
		else
			look(s, g, i, &w);
	}
	g->revoked = false;
	return ret;
}

/* Is all of it made from what the tables have now? */
static bool same_region(struct shadow *s, struct shadow_region *g)
{
	const u64 *table;

	s->upkeep.looked++;
	if (!same_way(s, g) || g->revoked)
		return false;
	if (g->t.shift > PAGE_SHIFT)
		return true;
	table = table_of(s, g);
	return table && !memcmp(table, g->entry, sizeof(g->entry));
}

static int recheck_region(struct shadow *s, struct shadow_region *g, struct found *f)
{
	if (!same_region(s, g))
		return recheck_pages(s, g, f);
	f->code_kept |= g->code > 0;
	return 0;
}

static int recheck_all(struct shadow *s)
{
	struct found f = { 0 };
	int ret = 0;

	s->v->stats->direct_rechecks++;
	for (unsigned n = 0; n < s->regions && !ret && f.unmapped <= UNMAP_MAX; n++)
		if (s->region[n].pages)
			ret = recheck_region(s, &s->region[n], &f);
	s->renewed = f.code_lost && !f.code_kept;
	return ret || f.unmapped <= UNMAP_MAX ? ret : drop_all(s);
}

static int recheck_changes(struct shadow *s)
{
	struct found f = { 0 };
	int ret = 0;

	for (unsigned n = 0; n < s->changes && !ret; n++) {
		struct shadow_region *g = region_of(s, s->change[n]);

		if (!g)
			continue;
		/* Another table, and with it all that it maps. */
		ret = same_way(s, g) ? recheck(s, g, page_index(s->change[n]), &f)
				     : recheck_pages(s, g, &f);
	}
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
	return s->pieces > PIECES_MAX || s->regions >= REGIONS_MAX;
}

int shadow_enter(struct shadow *s)
{
	u64 cr3 = s->v->cr3 & BITS(51, 12), generation = phys_generation(s->v->phys);
	bool nx = s->v->efer & EFER_NXE;
	int ret;

	s->renewed = false;
	if ((s->stale || cr3 != s->cr3) && in_the_way(s))
		return -EADDRINUSE;
	if (cr3 != s->cr3 || generation != s->generation || is_full(s) ||
	    s->v->apic_page != s->apic_page || nx != s->nx || s->v->paging != s->paging) {
		s->cr3 = cr3;
		s->generation = generation;
		s->apic_page = s->v->apic_page;
		s->nx = nx;
		s->paging = s->v->paging;
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
static int arm(struct shadow *s, gva_t lin, const struct sensitive *at, unsigned n)
{
	bool taken = false;
	int ret = 0;

	for (unsigned k = 0; k < n && !ret; k++) {
		unsigned i = s->next_break++ % PROCESS_BREAKS;
		gva_t old = s->armed[i];

		if (old && old != lin && (prot_of(s, old) & MAY_EXEC)) {
			page_set(region_of(s, old), page_index(old), 0);
			ret = unmap(s, old, PAGE_SIZE);
			taken = true;
		}
		s->armed[i] = lin;
		s->guarded[i] = at[k];
		if (!ret)
			ret = process_break(s->p, i, at[k].at);
	}
	s->armings += taken;
	return ret;
}

bool shadow_armed(const struct shadow *s, gva_t page)
{
	for (unsigned i = 0; i < PROCESS_BREAKS; i++)
		if (s->armed[i] == page)
			return true;
	return false;
}

bool shadow_guards(const struct shadow *s, gva_t rip)
{
	for (unsigned i = 0; i < PROCESS_BREAKS; i++)
		if (s->armed[i] && rip >= s->guarded[i].at && rip < s->guarded[i].end)
			return true;
	return false;
}

/* May the page be executed? 'fault': it must. 1, 0, -errno. */
static int executable(struct shadow *s, gva_t lin, const u8 *bytes, bool fault)
{
	struct sensitive at[PROCESS_BREAKS];
	unsigned n = sensitive_find(s->v, lin, bytes, &s->p->host, at, s->p->host.breaks);
	int ret = 0;

	/* It may have been another page before. */
	for (unsigned i = 0; i < PROCESS_BREAKS && !ret; i++) {
		if (s->armed[i] != lin)
			continue;
		s->armed[i] = 0;
		if (!n)
			ret = process_break_off(s->p, i);
	}
	if (ret || !n)
		return ret ? ret : 1;
	if (!fault || n > s->p->host.breaks)
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
static int run_add(struct shadow *s, struct run *run, struct shadow_region *g, gva_t lin,
		   const struct walk *w, enum access acc, bool fault)
{
	const struct phys_region *r = ram_of(s, w->gpa);
	gpa_t gpa = w->gpa & PAGE_MASK;
	int prot, fd, ret = 0;

	if (!r || gpa >> PAGE_SHIFT > UINT32_MAX)
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
	note(s, g, lin, gpa, prot);
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

/* Pages around one that need no walk that changes anything. */
static int fill_around(struct shadow *s, struct shadow_region *g, gva_t page,
		       const struct walk *w, enum access acc)
{
	struct run run = { 0 };
	gva_t from;
	u64 len = around(page, w, &from);
	int ret = 0;

	for (gva_t at = from; at < from + len && !ret; at += PAGE_SIZE) {
		struct walk there;

		if (at != page && mappable(s, at) && !g->prot[page_index(at)] &&
		    look(s, g, page_index(at), &there))
			ret = run_add(s, &run, g, at, &there,
				      acc == ACC_EXEC ? ACC_EXEC : ACC_READ, false);
	}
	return ret ? ret : run_map(s, &run);
}

/*
 * Map a page for this kind of access, and pages around it. It comes first and alone: it
 * may take others' right to be executed.
 */
static int fill(struct shadow *s, gva_t page, enum access acc)
{
	struct shadow_region *g = region_get(s, page);
	struct found f = { 0 };
	struct run run = { 0 };
	struct walk w;
	int ret = 0;

	if (!same_way(s, g))
		ret = recheck_pages(s, g, &f);
	if (!ret && look(s, g, page_index(page), &w))
		ret = run_add(s, &run, g, page, &w, acc, true);
	if (ret)
		return ret;
	if (run.len) {
		ret = run_map(s, &run);
		if (!ret)
			ret = fill_around(s, g, page, &w, acc);
	} else {
		/* What it was mapped from may have been looked at anew. */
		ret = recheck(s, g, page_index(page), &f);
	}
	return ret ? ret : process_map(s->p);
}

int shadow_fill(struct shadow *s, gva_t lin)
{
	gva_t page = lin & PAGE_MASK;
	struct walk w;

	if (!mappable(s, page) || prot_of(s, page) || is_full(s) ||
	    !walk_look(s->v, page, MMU_USER, &w))
		return 0;
	return fill(s, page, ACC_READ);
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
	ret = fill(s, page, acc);
	return ret ? ret : prot_of(s, page) != was;
}
