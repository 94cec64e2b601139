/*
 * The guest-physical address space: RAM, ROM and MMIO windows.
 *
 * 'all' lists everything that was added, in order of rank: RAM and ROM, then
 * windows in order of arrival. build() makes the sorted snapshot of what is
 * visible: a window that meets anything of higher rank is left out as a whole.
 *
 * I1 A snapshot is immutable once 'cur' pointed to it, and lives as long as the map.
 * I2 No two regions of a snapshot overlap, and none wraps round.
 * I3 Maps kept: at most PHYS_MAX_MAPS made by adding, as many again made by
 *    removing, and from there on nothing can be added, so each window costs one more.
 *
 * Lock: 'lock' covers 'all', the list of snapshots and the listener list, 'code_lock' who
 * holds code; neither is held while another is taken or anybody is called. Lookups
 * and accesses take none. The generation changes after 'cur', so that whoever reads the
 * generation first and the map second never takes an old map for a new one.
 */
#include "mem/phys.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"

#define HUGE_SIZE MiB(2)
/* What phys_back() asks for at once. A guest may never touch all of more. */
#define BACK_SIZE KiB(64)
/* Of 2 MiB the share that was touched, from which on all of it may be a large page. */
#define HUGE_FROM (HUGE_SIZE / 8)
#define PHYS_END  BIT(52) /* SDM vol. 3, 4.1.4: MAXPHYADDR is at most 52 */

struct map {
	struct map *older;
	u32 hash;
	u32 n;
	/*
	 * The two largest RAM regions, where nearly every access goes; empty ones if
	 * none.
	 */
	const struct phys_region *large[2];
	struct phys_region r[];
};

struct mem {
	struct phys_region r;
	void *mapping; /* RAM and ROM: what munmap needs */
	size_t mapping_len;
	int fd;
	struct mem *next;
};

struct phys {
	struct map *cur;
	u64 generation;
	struct mem *all;  /* in order of rank */
	struct mem *gone; /* removed ROM, may still be read */
	struct map *maps; /* all snapshots, newest first */
	u32 map_count;
	bool barrier; /* membarrier() works here */
	struct code_listener *listeners;
	pthread_mutex_t code_lock; /* see "code pages" */
	pthread_mutex_t lock;
};

/* ---- the map ---- */

static bool overlaps(const struct phys_region *a, const struct phys_region *b)
{
	return a->base - b->base < b->len || b->base - a->base < a->len;
}

static bool is_memory(const struct phys_region *r)
{
	return r->kind == PHYS_RAM || r->kind == PHYS_ROM;
}

static void find_large(struct map *m)
{
	/* r[n] is there and empty, so nothing is ever inside of it. */
	m->large[0] = m->large[1] = &m->r[m->n];
	for (u32 i = 0; i < m->n; i++) {
		const struct phys_region *r = &m->r[i];

		if (r->kind != PHYS_RAM)
			continue;
		if (r->len > m->large[0]->len) {
			m->large[1] = m->large[0];
			m->large[0] = r;
		} else if (r->len > m->large[1]->len) {
			m->large[1] = r;
		}
	}
}

static struct map *build(const struct phys *p)
{
	struct map *m;
	u32 n = 0;

	for (const struct mem *e = p->all; e; e = e->next)
		n++;
	m = xzalloc(sizeof(*m) + (n + 1) * sizeof(m->r[0]));
	for (const struct mem *e = p->all; e; e = e->next) {
		u32 at;

		for (at = 0; at < m->n && !overlaps(&m->r[at], &e->r); at++)
			;
		if (at < m->n)
			continue;
		for (at = m->n; at && m->r[at - 1].base > e->r.base; at--)
			m->r[at] = m->r[at - 1];
		m->r[at] = e->r;
		m->n++;
	}
	for (u32 i = 0; i < m->n; i++) {
		u64 v = m->r[i].base + m->r[i].len * 31 + (uintptr_t)m->r[i].dev * 7;

		m->hash = m->hash * 1000003 + (u32)(v ^ v >> 32);
	}
	find_large(m);
	return m;
}

static bool region_same(const struct phys_region *a, const struct phys_region *b)
{
	return a->base == b->base && a->len == b->len && a->kind == b->kind &&
	       a->host == b->host && a->ops == b->ops && a->dev == b->dev &&
	       a->name == b->name;
}

static bool map_same(const struct map *a, const struct map *b)
{
	if (a->hash != b->hash || a->n != b->n)
		return false;
	for (u32 i = 0; i < a->n; i++)
		if (!region_same(&a->r[i], &b->r[i]))
			return false;
	return true;
}

/* Make the map that 'all' describes the current one. -ENOSPC: no, there were too many. */
static int publish(struct phys *p, bool adding)
{
	struct map *m = build(p), *old;

	for (old = p->maps; old && !map_same(old, m); old = old->older)
		;
	if (adding && p->map_count >= (old ? 2u : 1u) * PHYS_MAX_MAPS) { /* I3 */
		free(m);
		return -ENOSPC;
	}
	if (old) {
		free(m);
		m = old;
	} else {
		m->older = p->maps;
		p->maps = m;
		p->map_count++;
	}
	__atomic_store_n(&p->cur, m, __ATOMIC_RELEASE);
	__atomic_store_n(&p->generation, p->generation + 1, __ATOMIC_RELEASE);
	return 0;
}

static unsigned rank(const struct mem *e)
{
	return is_memory(&e->r) ? 0 : 1;
}

static int add(struct phys *p, struct mem *e, struct error *err)
{
	struct mem **at;
	int ret = 0;

	pthread_mutex_lock(&p->lock);
	for (at = &p->all; *at && rank(*at) <= rank(e); at = &(*at)->next) {
		if (rank(e) == 0 && overlaps(&(*at)->r, &e->r)) {
			ret = error_set(err, -EBUSY, "%s at %#llx overlaps %s", e->r.name,
					(unsigned long long)e->r.base, (*at)->r.name);
			goto out;
		}
	}
	e->next = *at;
	*at = e;
	ret = publish(p, true);
	if (ret) {
		*at = e->next;
		error_set(err, ret, "%s: the guest-physical map changed too often",
			  e->r.name);
	}
out:
	pthread_mutex_unlock(&p->lock);
	return ret;
}

static void mem_free(struct mem *e)
{
	if (e->r.page_flags)
		munmap(e->r.page_flags, e->r.len / PAGE_SIZE);
	if (e->r.code_users)
		munmap(e->r.code_users, e->r.len / PAGE_SIZE * sizeof(u64));
	if (e->mapping)
		munmap(e->mapping, e->mapping_len);
	if (e->fd >= 0)
		close(e->fd);
	free(e);
}

static void free_list(struct mem *e)
{
	while (e) {
		struct mem *next = e->next;

		mem_free(e);
		e = next;
	}
}

struct phys *phys_new(void)
{
	struct phys *p = xzalloc(sizeof(*p));

	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->code_lock, NULL);
	p->barrier =
		!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	publish(p, false);
	return p;
}

void phys_free(struct phys *p)
{
	if (!p)
		return;
	free_list(p->all);
	free_list(p->gone);
	while (p->maps) {
		struct map *m = p->maps;

		p->maps = m->older;
		free(m);
	}
	pthread_mutex_destroy(&p->code_lock);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

u64 phys_generation(struct phys *p)
{
	return __atomic_load_n(&p->generation, __ATOMIC_ACQUIRE);
}

/* ---- RAM, ROM and windows ---- */

static int check_memory(const char *name, gpa_t base, u64 len, struct error *err)
{
	if (!len || (base | len) & ~PAGE_MASK)
		return error_set(err, -EINVAL,
				 "%s: base and size must be multiples of 4 KiB", name);
	if (base >= PHYS_END || len > PHYS_END - base)
		return error_set(err, -EINVAL, "%s: %llu MiB do not fit below 2^52", name,
				 (unsigned long long)(len >> 20));
	return 0;
}

static struct mem *mem_new(const char *name, gpa_t base, u64 len, enum phys_kind kind)
{
	struct mem *e = xzalloc(sizeof(*e));

	e->r = (struct phys_region){
		.base = base, .len = len, .kind = kind, .name = name
	};
	e->fd = -1;
	return e;
}

/* Zeroed on demand: for a byte a page of a guest that may have terabytes. */
static void *map_lazy(u64 len)
{
	void *m = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return m == MAP_FAILED ? NULL : m;
}

static bool map_flags(struct mem *e)
{
	e->r.page_flags = map_lazy(e->r.len / PAGE_SIZE);
	e->r.code_users = map_lazy(e->r.len / PAGE_SIZE * sizeof(u64));
	return e->r.page_flags && e->r.code_users;
}

/* Map e->fd at a host address that allows huge pages. */
static int map_ram(struct mem *e)
{
	u64 len = e->r.len, slack = len >= HUGE_SIZE ? HUGE_SIZE : 0;
	u8 *at;

	e->mapping_len = len + slack;
	e->mapping = mmap(NULL, e->mapping_len, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (e->mapping == MAP_FAILED) {
		e->mapping = NULL;
		return -errno;
	}
	at = e->mapping;
	if (slack)
		at += -(uintptr_t)at & (HUGE_SIZE - 1);
	if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
		 e->fd, 0) == MAP_FAILED)
		return -errno;
	/* Speed only: a host without huge pages for shared memory refuses. */
	if (slack)
		(void)madvise(at, len, MADV_HUGEPAGE);
	e->r.host = at;
	return 0;
}

int phys_add_ram(struct phys *p, const char *name, gpa_t base, u64 len, struct error *err)
{
	int ret = check_memory(name, base, len, err);
	struct mem *e;

	if (ret)
		return ret;
	e = mem_new(name, base, len, PHYS_RAM);
	e->fd = memfd_create(name, MFD_CLOEXEC);
	if (e->fd < 0) {
		ret = error_set(err, -errno, "%s: memfd_create: %s", name,
				strerror(errno));
		goto fail;
	}
	if (ftruncate(e->fd, (off_t)len)) {
		ret = errno;
	} else {
		ret = -map_ram(e);
	}
	if (ret) {
		error_set(err, -ENOMEM, "%s: the host refuses %llu MiB: %s", name,
			  (unsigned long long)(len >> 20), strerror(ret));
		ret = -ENOMEM;
		goto fail;
	}
	if (!map_flags(e)) {
		ret = error_set(err, -ENOMEM, "%s: no memory for page flags", name);
		goto fail;
	}
	ret = add(p, e, err);
	if (ret)
		goto fail;
	return 0;
fail:
	mem_free(e);
	return ret;
}

int phys_add_rom(struct phys *p, const char *name, gpa_t base, const void *data, u64 len,
		 struct error *err)
{
	int ret = check_memory(name, base, len, err);
	struct mem *e;

	if (ret)
		return ret;
	e = mem_new(name, base, len, PHYS_ROM);
	e->mapping = e->r.host = map_lazy(len);
	e->mapping_len = len;
	if (!e->r.host || !map_flags(e)) {
		ret = error_set(err, -ENOMEM, "%s: the host refuses %llu KiB", name,
				(unsigned long long)(len >> 10));
		goto fail;
	}
	memcpy(e->r.host, data, len);
	ret = add(p, e, err);
	if (ret)
		goto fail;
	return 0;
fail:
	mem_free(e);
	return ret;
}

int phys_add_mmio(struct phys *p, const char *name, gpa_t base, u64 len,
		  const struct io_ops *ops, void *dev, struct error *err)
{
	struct mem *e;
	int ret;

	if (!len || len - 1 > ~base)
		return error_set(err, -EINVAL, "%s: a window of %#llx bytes at %#llx",
				 name, (unsigned long long)len, (unsigned long long)base);
	e = mem_new(name, base, len, PHYS_MMIO);
	e->r.ops = ops;
	e->r.dev = dev;
	ret = add(p, e, err);
	if (ret)
		mem_free(e);
	return ret;
}

/* Memory stays mapped until the end: somebody may still be reading a removed ROM. */
static void take_away(struct phys *p, struct mem **at)
{
	struct mem *e = *at;

	*at = e->next;
	publish(p, false);
	if (e->r.kind == PHYS_MMIO) {
		mem_free(e);
	} else {
		e->next = p->gone;
		p->gone = e;
	}
}

bool phys_remove_mmio(struct phys *p, gpa_t base, const struct io_ops *ops,
		      const void *dev)
{
	bool found = false;

	pthread_mutex_lock(&p->lock);
	for (struct mem **at = &p->all; *at && !found; at = &(*at)->next) {
		const struct phys_region *r = &(*at)->r;

		if (r->kind != PHYS_MMIO || r->base != base || r->ops != ops ||
		    r->dev != dev)
			continue;
		take_away(p, at);
		found = true;
		break;
	}
	pthread_mutex_unlock(&p->lock);
	return found;
}

bool phys_remove(struct phys *p, gpa_t base)
{
	bool found = false;

	pthread_mutex_lock(&p->lock);
	for (struct mem **at = &p->all; *at; at = &(*at)->next) {
		if ((*at)->r.kind == PHYS_RAM || (*at)->r.base != base)
			continue;
		take_away(p, at);
		found = true;
		break;
	}
	pthread_mutex_unlock(&p->lock);
	return found;
}

/* ---- lookup ---- */

static inline bool inside(const struct phys_region *r, gpa_t gpa)
{
	return gpa - r->base < r->len;
}

/* Index of the first region that ends above gpa; m->n if none. */
static u32 search(const struct map *m, gpa_t gpa)
{
	u32 lo = 0, hi = m->n;

	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;

		if (m->r[mid].base + (m->r[mid].len - 1) < gpa)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static inline const struct map *current(const struct phys *p)
{
	return __atomic_load_n(&p->cur, __ATOMIC_ACQUIRE);
}

static inline const struct phys_region *find(const struct map *m, gpa_t gpa)
{
	u32 at;

	if (likely(inside(m->large[0], gpa)))
		return m->large[0];
	if (inside(m->large[1], gpa))
		return m->large[1];
	at = search(m, gpa);
	return at < m->n && inside(&m->r[at], gpa) ? &m->r[at] : NULL;
}

const struct phys_region *phys_find(struct phys *p, gpa_t gpa)
{
	return find(current(p), gpa);
}

void *phys_host(struct phys *p, gpa_t gpa, u64 len, bool write)
{
	const struct phys_region *r = phys_find(p, gpa);

	if (!r || !r->host || (write && r->kind != PHYS_RAM) ||
	    len > r->len - (gpa - r->base))
		return NULL;
	return r->host + (gpa - r->base);
}

/* ---- memory of the host ---- */

static void flag_pages(const struct phys_region *r, u64 from, u64 to, u8 set, u8 clear)
{
	for (u64 i = from >> PAGE_SHIFT; i < to >> PAGE_SHIFT; i++) {
		if (clear)
			__atomic_fetch_and(&r->page_flags[i], (u8)~clear,
					   __ATOMIC_RELAXED);
		if (set)
			__atomic_fetch_or(&r->page_flags[i], set, __ATOMIC_RELAXED);
	}
}

/* Asking is of no use any more after so many refusals in a row. */
#define REFUSALS 16

/*
 * The 2 MiB around 'off' as one large page of the host: it costs less to make than its
 * small ones, and saves TLB misses ever after. Linux makes none for a memfd by itself
 * unless the administrator says so, but does when asked (6.1 and later).
 */
static bool back_huge(const struct phys_region *r, u64 off)
{
	static unsigned refusals;
	u64 from = align_down(off, HUGE_SIZE), to = from + HUGE_SIZE, touched = 0;

	if (to > r->len || ((uintptr_t)r->host & (HUGE_SIZE - 1)) ||
	    __atomic_load_n(&refusals, __ATOMIC_RELAXED) >= REFUSALS)
		return false;
	for (u64 i = from >> PAGE_SHIFT; i < to >> PAGE_SHIFT; i++) {
		u8 flags = __atomic_load_n(&r->page_flags[i], __ATOMIC_RELAXED);

		if (flags & PAGE_RELEASED)
			return false;
		touched += flags & PAGE_BACKED ? PAGE_SIZE : 0;
	}
	/* Tried a few times: what is there may be in use by a disk. */
	if (touched < HUGE_FROM || (touched & (touched - 1)))
		return false;
	/* It may be too old, have no such page left, or be using some of these. */
	if (madvise(r->host + from, HUGE_SIZE, MADV_COLLAPSE)) {
		__atomic_fetch_add(&refusals, 1, __ATOMIC_RELAXED);
		return false;
	}
	__atomic_store_n(&refusals, 0, __ATOMIC_RELAXED);
	flag_pages(r, from, to, PAGE_BACKED, 0);
	return true;
}

void phys_back(const struct phys_region *r, u64 off)
{
	u64 from = align_down(off, BACK_SIZE), to = MIN(from + BACK_SIZE, r->len);

	if (back_huge(r, off))
		return;
	for (u64 i = from >> PAGE_SHIFT; i < to >> PAGE_SHIFT; i++) {
		if (__atomic_load_n(&r->page_flags[i], __ATOMIC_RELAXED) &
		    PAGE_RELEASED) {
			from = align_down(off, PAGE_SIZE);
			to = from + PAGE_SIZE;
			break;
		}
	}
	/* Speed only: older kernels refuse, and one without memory will say so later. */
	(void)madvise(r->host + from, to - from, MADV_POPULATE_WRITE);
	flag_pages(r, from, to, PAGE_BACKED, 0);
}

void phys_back_range(struct phys *p, gpa_t gpa, u64 len)
{
	const struct phys_region *r = phys_find(p, gpa);
	u64 from = r ? gpa - r->base : 0;

	if (!r || r->kind != PHYS_RAM || len > r->len - from)
		return;
	for (u64 at = align_down(from, PAGE_SIZE); at < from + len; at += PAGE_SIZE)
		if (!(__atomic_load_n(&r->page_flags[at >> PAGE_SHIFT],
				      __ATOMIC_RELAXED) &
		      PAGE_BACKED))
			phys_back(r, at);
}

bool phys_release(struct phys *p, gpa_t gpa, u64 len)
{
	const struct phys_region *r = phys_find(p, gpa);
	u64 from, to;

	if (!r || r->kind != PHYS_RAM || len > r->len - (gpa - r->base))
		return false;
	from = gpa - r->base;
	to = from + len;
	/* What is around must not bring them back. */
	flag_pages(r, from, to, PAGE_RELEASED, 0);
	if (madvise(r->host + from, len, MADV_REMOVE))
		return false;
	/* Wholly released, 2 MiB are as they were in the beginning. */
	for (u64 at = align_up(from, HUGE_SIZE); at < to && to - at >= HUGE_SIZE;
	     at += HUGE_SIZE)
		flag_pages(r, at, at + HUGE_SIZE, 0, PAGE_BACKED | PAGE_RELEASED);
	/* It is a write of zeroes. */
	phys_note_write(p, gpa, len);
	return true;
}

u8 *phys_page_flags(struct phys *p, gpa_t gpa)
{
	const struct phys_region *r = phys_find(p, gpa);

	return r && r->page_flags ? &r->page_flags[(gpa - r->base) >> PAGE_SHIFT] : NULL;
}

u64 phys_ram_size(struct phys *p)
{
	const struct map *m = current(p);
	u64 size = 0;

	for (u32 i = 0; i < m->n; i++)
		if (m->r[i].kind == PHYS_RAM)
			size += m->r[i].len;
	return size;
}

const struct phys_region *phys_ram_region(struct phys *p, unsigned index)
{
	const struct map *m = current(p);

	for (u32 i = 0; i < m->n; i++)
		if (m->r[i].kind == PHYS_RAM && !index--)
			return &m->r[i];
	return NULL;
}

int phys_ram_fd(struct phys *p, gpa_t base)
{
	int fd = -1;

	pthread_mutex_lock(&p->lock);
	for (const struct mem *e = p->all; e; e = e->next)
		if (e->r.kind == PHYS_RAM && e->r.base == base)
			fd = e->fd;
	pthread_mutex_unlock(&p->lock);
	return fd;
}

/* ---- code pages ----
 *
 * C1 A listener's bit in code_users is set before PAGE_CODE, and cleared with it when it
 *    was the last. 'code_lock' covers both, and PAGE_GUARDED.
 *
 * C2 PAGE_GUARDED is set when since PAGE_CODE all other threads have passed a barrier,
 *    and all CPUs that had write entries a safe point. Only then may the page be
 *    decoded. PAGE_CODE cannot have been away in between, as the caller's own bit is
 *    set. Two that mark a page at the same time may both do that work.
 *
 * C3 Writers that look (note_write()) store and then load the flag, without a fence
 *    between. A write that misses PAGE_CODE was in the store buffer when the barrier
 *    came, so it is in memory afterwards, and seen by the decoding.
 *
 * C4 One who finds PAGE_CODE set runs a fence before he looks who holds code: a listener
 *    that joins a page that others have already guarded runs no barrier on other
 *    threads, but its own locked instruction stands between its bit and the decoding.
 *    Either the writer sees the bit or the decoding sees the write.
 */

static u64 *users_of(const struct phys_region *r, gpa_t gpa)
{
	return &r->code_users[(gpa - r->base) >> PAGE_SHIFT];
}

static const struct phys_region *find_memory(struct phys *p, gpa_t gpa)
{
	const struct phys_region *r = phys_find(p, gpa);

	return r && r->page_flags ? r : NULL;
}

bool phys_mark_code(struct phys *p, struct code_listener *l, gpa_t gpa)
{
	const struct phys_region *r = find_memory(p, gpa);
	u8 *flags, was;

	if (!r)
		return false;
	flags = &r->page_flags[(gpa - r->base) >> PAGE_SHIFT];
	if ((__atomic_load_n(users_of(r, gpa), __ATOMIC_RELAXED) & l->user) &&
	    (__atomic_load_n(flags, __ATOMIC_ACQUIRE) & PAGE_GUARDED))
		return true;
	pthread_mutex_lock(&p->code_lock);
	__atomic_fetch_or(users_of(r, gpa), l->user, __ATOMIC_SEQ_CST); /* C1, C4 */
	was = __atomic_fetch_or(flags, PAGE_CODE, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&p->code_lock);
	if (was & PAGE_GUARDED)
		return true;
	/*
	 * Without membarrier() a write that is in another CPU's store buffer just now
	 * can be missed; guests do not modify code that way (SDM vol. 3, 8.1.3).
	 */
	if (p->barrier)
		syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0); /* C3 */
	if ((was & PAGE_WRITERS) && l->guard)
		l->guard(l->opaque, gpa & PAGE_MASK);
	pthread_mutex_lock(&p->code_lock);
	/* New writers have found PAGE_CODE and been refused, but leave the bit behind. */
	__atomic_fetch_and(flags, (u8)~PAGE_WRITERS, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(flags, PAGE_GUARDED, __ATOMIC_SEQ_CST); /* C2 */
	pthread_mutex_unlock(&p->code_lock);
	return true;
}

void phys_unmark_code(struct phys *p, struct code_listener *l, gpa_t gpa)
{
	const struct phys_region *r = find_memory(p, gpa);

	if (!r)
		return;
	pthread_mutex_lock(&p->code_lock);
	if (!__atomic_and_fetch(users_of(r, gpa), ~l->user, __ATOMIC_SEQ_CST))
		__atomic_fetch_and(&r->page_flags[(gpa - r->base) >> PAGE_SHIFT],
				   (u8) ~(PAGE_CODE | PAGE_GUARDED), __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&p->code_lock);
}

static void tell(struct phys *p, u64 users, gpa_t gpa, u64 len)
{
	struct code_listener *l = __atomic_load_n(&p->listeners, __ATOMIC_ACQUIRE);

	for (; l; l = l->next)
		if (users & l->user)
			l->written(l->opaque, gpa, len);
}

/* [gpa, gpa + len) of region r was written. */
static void note_write(struct phys *p, const struct phys_region *r, gpa_t gpa, u64 len)
{
	u64 first = (gpa - r->base) >> PAGE_SHIFT;
	u64 last = (gpa - r->base + len - 1) >> PAGE_SHIFT;
	u64 users = 0;

	/* The compiler must not look at the flags before the write is done. */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	for (u64 i = first; i <= last; i++) {
		if (likely(!(__atomic_load_n(&r->page_flags[i], __ATOMIC_ACQUIRE) &
			     PAGE_CODE)))
			continue;
		if (!users)
			__atomic_thread_fence(__ATOMIC_SEQ_CST); /* C4 */
		users |= __atomic_load_n(&r->code_users[i], __ATOMIC_ACQUIRE);
	}
	if (unlikely(users))
		tell(p, users, gpa, len);
}

void phys_note_write(struct phys *p, gpa_t gpa, u64 len)
{
	while (len) {
		const struct phys_region *r = phys_find(p, gpa);
		u64 n;

		if (!r)
			return;
		n = MIN(len, r->len - (gpa - r->base));
		if (r->page_flags)
			note_write(p, r, gpa, n);
		gpa += n;
		len -= n;
	}
}

int phys_add_code_listener(struct phys *p, struct code_listener *l)
{
	u64 taken = 0;
	int ret = 0;

	pthread_mutex_lock(&p->lock);
	for (const struct code_listener *o = p->listeners; o; o = o->next)
		taken |= o->user;
	if (~taken) {
		l->user = ~taken & (taken + 1);
		l->next = p->listeners;
		__atomic_store_n(&p->listeners, l, __ATOMIC_RELEASE);
	} else {
		ret = -ENOSPC;
	}
	pthread_mutex_unlock(&p->lock);
	return ret;
}

void phys_remove_code_listener(struct phys *p, struct code_listener *l)
{
	pthread_mutex_lock(&p->lock);
	for (struct code_listener **at = &p->listeners; *at; at = &(*at)->next) {
		if (*at == l) {
			*at = l->next;
			break;
		}
	}
	pthread_mutex_unlock(&p->lock);
}

/* ---- access ---- */

/* Size of the next aligned piece of an access that has 'len' bytes to go: 1 to 8. */
static unsigned piece(u64 off, u64 len)
{
	unsigned n = 8;

	while (n > len || off & (n - 1))
		n >>= 1;
	return n;
}

static void mmio_copy(const struct phys_region *r, u64 off, u8 *buf, u64 len, bool write)
{
	while (len) {
		unsigned n = piece(off, len);
		u64 v = 0;

		if (write) {
			memcpy(&v, buf, n);
			io_write(r->ops, r->dev, off, v, n);
		} else {
			v = io_read(r->ops, r->dev, off, n);
			memcpy(buf, &v, n);
		}
		off += n;
		buf += n;
		len -= n;
	}
}

/*
 * Bytes from gpa to the end of the region r it is in, or to the next region if r is
 * NULL.
 */
static u64 extent(const struct map *m, const struct phys_region *r, gpa_t gpa)
{
	u32 next;

	if (r)
		return r->len - (gpa - r->base);
	next = search(m, gpa);
	return next < m->n ? m->r[next].base - gpa : UINT64_MAX;
}

/* Copy within one region, or where there is none. */
static void region_copy(struct phys *p, const struct phys_region *r, gpa_t gpa, u8 *buf,
			u64 len, bool write)
{
	u64 off = r ? gpa - r->base : 0;

	if (!r) {
		if (!write)
			memset(buf, 0xff, len);
	} else if (r->kind == PHYS_MMIO) {
		mmio_copy(r, off, buf, len, write);
	} else if (!write) {
		memcpy(buf, r->host + off, len);
	} else if (r->kind == PHYS_RAM) {
		memcpy(r->host + off, buf, len);
		note_write(p, r, gpa, len);
	}
}

static bool copy(struct phys *p, const struct map *m, gpa_t gpa, u8 *buf, u64 len,
		 bool write)
{
	bool all = true;

	while (len) {
		const struct phys_region *r = find(m, gpa);
		u64 n = MIN(len, extent(m, r, gpa));

		region_copy(p, r, gpa, buf, n, write);
		all = all && r;
		gpa += n;
		buf += n;
		len -= n;
	}
	return all;
}

bool phys_read(struct phys *p, gpa_t gpa, void *buf, u64 len)
{
	return copy(p, current(p), gpa, buf, len, false);
}

/* copy() only reads the buffer when it writes memory, hence the casts without const. */
bool phys_write(struct phys *p, gpa_t gpa, const void *buf, u64 len)
{
	return copy(p, current(p), gpa, (u8 *)(uintptr_t)buf, len, true);
}

static bool dma_ok(const struct map *m, gpa_t gpa, u64 len)
{
	while (len) {
		const struct phys_region *r = find(m, gpa);
		u64 n;

		if (!r || !is_memory(r))
			return false;
		n = MIN(len, r->len - (gpa - r->base));
		gpa += n;
		len -= n;
	}
	return true;
}

bool phys_dma_read(struct phys *p, gpa_t gpa, void *buf, u64 len)
{
	const struct map *m = current(p);

	return dma_ok(m, gpa, len) && copy(p, m, gpa, buf, len, false);
}

bool phys_dma_write(struct phys *p, gpa_t gpa, const void *buf, u64 len)
{
	const struct map *m = current(p);

	return dma_ok(m, gpa, len) && copy(p, m, gpa, (u8 *)(uintptr_t)buf, len, true);
}

/*
 * One host access each, so an aligned access is atomic as the architecture demands.
 * What vCPUs race for is the guest's business, not the thread sanitizer's.
 */
#define GUEST_RACES __attribute__((no_sanitize("thread")))

GUEST_RACES static u64 host_load(const u8 *at, unsigned size)
{
	switch (size) {
	case 1: return *(const volatile u8 *)at;
	case 2: return *(const volatile ua16 *)at;
	case 4: return *(const volatile ua32 *)at;
	default: return *(const volatile ua64 *)at;
	}
}

GUEST_RACES static void host_store(u8 *at, u64 val, unsigned size)
{
	switch (size) {
	case 1: *(volatile u8 *)at = (u8)val; break;
	case 2: *(volatile ua16 *)at = (u16)val; break;
	case 4: *(volatile ua32 *)at = (u32)val; break;
	default: *(volatile ua64 *)at = val; break;
	}
}

u64 phys_load(struct phys *p, gpa_t gpa, unsigned size)
{
	const struct phys_region *r = phys_find(p, gpa);
	u64 val = 0;

	if (unlikely(!r))
		return size_mask(size);
	if (unlikely(size > r->len - (gpa - r->base))) {
		/* A window that ends inside the page: byte by byte. */
		for (unsigned i = 0; i < size; i++)
			val |= phys_load(p, gpa + i, 1) << (8 * i);
		return val;
	}
	if (likely(r->host != NULL))
		return host_load(r->host + (gpa - r->base), size);
	return io_read(r->ops, r->dev, gpa - r->base, size);
}

void phys_store(struct phys *p, gpa_t gpa, u64 val, unsigned size)
{
	const struct phys_region *r = phys_find(p, gpa);

	if (unlikely(!r))
		return;
	if (unlikely(size > r->len - (gpa - r->base))) {
		for (unsigned i = 0; i < size; i++)
			phys_store(p, gpa + i, val >> (8 * i) & 0xff, 1);
		return;
	}
	if (likely(r->kind == PHYS_RAM)) {
		host_store(r->host + (gpa - r->base), val, size);
		note_write(p, r, gpa, size);
	} else if (r->kind == PHYS_MMIO) {
		io_write(r->ops, r->dev, gpa - r->base, val & size_mask(size), size);
	}
}
