/*
 * Blocks of decoded instructions: making, finding and dropping them.
 *
 * The invariants I1 to I4 are in block.h. SDM volume 3 section 8.1.3 asks for
 * self-modified code to be seen after the next jump; here it is seen by the next
 * instruction, as processors do. Thread: the owner of the vCPU; another thread's write
 * is only put into the queue.
 */
#include "engine/interp/block.h"

#include <Zydis/Mnemonic.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/ops.h"
#include "x86/debugger.h"
#include "x86/profile.h"
#include "x86/stats.h"

#define ARENA_SIZE  MiB(192) /* of address space; memory comes as it is used */
#define IDLE_WRITES 8
/* After so many writes beside its code a page loses it, as to write there is slow. Making
 * the code again takes about as long. */
#define MISSES_MAX  512
#define TEXT_MAX    (BLOCK_MAX_INSNS * 15)
/* The most one block and two code pages can take. */
#define BLOCK_ROOM                                                                       \
	(sizeof(struct block) + (BLOCK_MAX_INSNS + 1) * sizeof(struct insn) + TEXT_MAX + \
	 2 * sizeof(struct code_page) + 64)

/* What a jump cache entry points to when it is empty: matches no mode. */
static struct block no_block = { .mode = BLOCK_DEAD };
/* The same for an entry that was emptied, and is in the list of those taken. */
static struct block gone_block = { .mode = BLOCK_DEAD };

/* ---- instructions that are none ---- */

/* Behind the last instruction of a block. */
static enum op_result op_block_end(struct vcpu *v, const struct insn *in)
{
	v->rip = this_ip(v, in);
	return OP_JUMP;
}

/* In a dead block: find what memory holds now (I2). */
static enum op_result op_dead(struct vcpu *v, const struct insn *in)
{
	(void)v;
	(void)in;
	return OP_AGAIN;
}

static enum op_result op_too_long(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_gp0(v);
}

/* ---- pages ---- */

static unsigned page_hash(gpa_t page)
{
	return (page >> PAGE_SHIFT) & ((1 << PAGE_HASH_BITS) - 1);
}

static unsigned block_hash(gpa_t gpa)
{
	return (gpa ^ gpa >> 15) & ((1 << BLOCK_HASH_BITS) - 1);
}

static struct code_page *page_find(const struct block_cache *c, gpa_t page)
{
	struct code_page *p = c->pages[page_hash(page)];

	while (p && p->page != page)
		p = p->next;
	return p;
}

struct code_page *block_page(const struct block_cache *c, gpa_t page)
{
	return page_find(c, page);
}

static void *arena_take(struct block_cache *c, size_t n)
{
	void *p = c->arena + c->used;

	c->used += (n + 15) & ~(size_t)15;
	return p;
}

static unsigned page_link(const struct block *b, gpa_t page)
{
	return (b->gpa & PAGE_MASK) == page ? 0 : 1;
}

/*
 * Mark the page (I1), before its bytes are read: a write that comes meanwhile must see
 * that. May wait for the other CPUs, which is a safe point of this one.
 */
static void page_mark(struct block_cache *c, gpa_t page)
{
	phys_mark_code(c->v->phys, &c->listener, page);
}

static void guard(void *opaque, gpa_t page)
{
	struct block_cache *c = opaque;

	c->v->stats->pages_guarded++;
	tlb_protect_code(c->v, page);
	if (c->v->guard_others)
		c->v->guard_others(c->v, page);
}

/* Put a block on the list of a page. */
static void page_add(struct block_cache *c, gpa_t page, struct block *b)
{
	struct code_page *p = page_find(c, page);

	if (!p) {
		p = arena_take(c, sizeof(*p));
		*p = (struct code_page){ .page = page };
		p->next = c->pages[page_hash(page)];
		c->pages[page_hash(page)] = p;
	}
	if (page == (b->gpa & PAGE_MASK))
		b->home = p;
	p->idle = 0;
	b->page_next[page_link(b, page)] = p->first;
	p->first = b;
}

static void kill_block(struct block_cache *c, struct block *b)
{
	struct block **link = &c->hash[block_hash(b->gpa)];

	while (*link && *link != b)
		link = &(*link)->hash_next;
	if (*link)
		*link = b->hash_next;
	b->mode = BLOCK_DEAD;
	if (c->dropped)
		c->dropped(c->dropped_opaque, b);
	for (unsigned i = 0; i < b->insns; i++)
		b->insn[i].fn = op_dead;
	c->v->stats->blocks_dropped++;
}

static bool ranges_overlap(gpa_t start, gpa_t end, gpa_t gpa, u64 len)
{
	return start < gpa + len && gpa < end;
}

/* Is any of it in what was written? Its two pages may be one. */
static bool overlaps(const struct block *b, gpa_t page, gpa_t gpa, u64 len)
{
	gpa_t end = b->gpa + MAX(b->bytes, b->span);
	gpa_t boundary = (b->gpa & PAGE_MASK) + PAGE_SIZE;

	if (b->page2 == GPA_NONE)
		return ranges_overlap(b->gpa, end, gpa, len);
	return (page_link(b, page) == 0 && ranges_overlap(b->gpa, boundary, gpa, len)) ||
	       (b->page2 == page &&
		ranges_overlap(b->page2, b->page2 + (end - boundary), gpa, len));
}

static void page_written(struct block_cache *c, gpa_t page, gpa_t gpa, u64 len)
{
	struct code_page *p = page_find(c, page);
	struct block **link;
	bool all;

	if (!p) {
		/* Marked, and then nothing came of it. */
		phys_unmark_code(c->v->phys, &c->listener, page);
		return;
	}
	if (!p->first)
		p->idle++;
	link = &p->first;
	p->missed += c->write_cost;
	all = p->missed >= MISSES_MAX;
	while (*link) {
		struct block *b = *link;

		if (b->mode != BLOCK_DEAD && (all || overlaps(b, page, gpa, len))) {
			kill_block(c, b);
			p->missed = 0;
		}
		if (b->mode == BLOCK_DEAD)
			*link = b->page_next[page_link(b, page)];
		else
			link = &b->page_next[page_link(b, page)];
	}
	/* Code that is written again and again stays marked: marking costs more than some
	 * writes that find none. Then it is plain data, as far as this CPU goes. */
	if (p->first || (p->idle < IDLE_WRITES && !all))
		return;
	p->idle = 0;
	phys_unmark_code(c->v->phys, &c->listener, page);
}

/*
 * The queue. An entry is a word, so that putting and taking one needs no lock: a page's
 * address, the first and the last 64 bytes of it that were written, and bit 0 so that it
 * is never 0, which is a free place.
 */
#define ENTRY_LINE 64u

static u64 entry_make(gpa_t page, gpa_t gpa, gpa_t last)
{
	u64 lo = gpa > page ? (gpa - page) / ENTRY_LINE : 0;
	u64 hi = last - page < PAGE_SIZE ? (last - page) / ENTRY_LINE : 63;

	return page | lo << 6 | 1 | hi << 58;
}

/* Addresses have 52 bits at most, and those of pages leave 12. */
static void entry_apply(struct block_cache *c, u64 e)
{
	gpa_t page = e & BITS(51, 12);
	u64 lo = bits_get(e, 11, 6) * ENTRY_LINE;
	u64 hi = bits_get(e, 63, 58) * ENTRY_LINE + ENTRY_LINE;

	page_written(c, page, page + lo, hi - lo);
}

/*
 * The same is not put twice. Whoever takes it does so after we have seen it, so after the
 * write (phys.c, C4), and decodes later still.
 */
static bool entry_put(struct block_cache *c, u64 e)
{
	for (unsigned i = 0; i < BLOCK_QUEUE; i++) {
		u64 was = __atomic_load_n(&c->queue[i], __ATOMIC_ACQUIRE);

		if (!was &&
		    __atomic_compare_exchange_n(&c->queue[i], &was, e, false,
						__ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE))
			return true;
		if (was == e)
			return true;
	}
	return false;
}

static void written_by_another(struct block_cache *c, gpa_t gpa, u64 len)
{
	gpa_t page = gpa & PAGE_MASK, last = gpa + len - 1;
	bool fits = last - page < BLOCK_QUEUE * PAGE_SIZE;

	for (; fits && page <= last; page += PAGE_SIZE)
		fits = entry_put(c, entry_make(page, gpa, last));
	if (!fits)
		__atomic_store_n(&c->overflow, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&c->queued, true, __ATOMIC_SEQ_CST);
	vcpu_post(c->v, EV_FLUSH);
	if (c->asked)
		c->asked(c->dropped_opaque);
}

void block_catch_up_slow(struct block_cache *c)
{
	/* What is put from here on sets it again. */
	__atomic_store_n(&c->queued, false, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < BLOCK_QUEUE; i++) {
		u64 e = __atomic_load_n(&c->queue[i], __ATOMIC_RELAXED);

		if (e)
			e = __atomic_exchange_n(&c->queue[i], 0, __ATOMIC_SEQ_CST);
		if (!e)
			continue;
		c->v->stats->writes_told++;
		entry_apply(c, e);
	}
}

static void block_written(void *opaque, gpa_t gpa, u64 len)
{
	struct block_cache *c = opaque;

	if (!pthread_equal(pthread_self(),
			   __atomic_load_n(&c->owner, __ATOMIC_RELAXED))) {
		written_by_another(c, gpa, len);
		return;
	}
	for (gpa_t page = gpa & PAGE_MASK; page < gpa + len; page += PAGE_SIZE)
		page_written(c, page, gpa, len);
}

/* ---- the cache ---- */

static void jumps_clear(struct block_cache *c)
{
	for (unsigned i = 0; i < c->taken_count; i++)
		c->jump[c->taken[i]].block = &no_block;
	c->taken_count = 0;
	c->jump_pages = (struct page_set){ 0 };
}

static void jump_add(struct block_cache *c, gva_t lin, struct block *b)
{
	struct jump *j = jump_slot(c, lin);

	if (j->block == &no_block)
		c->taken[c->taken_count++] = (u16)(j - c->jump);
	j->lin = lin;
	j->block = b;
	page_set_add(&c->jump_pages, lin);
}

void block_unlink_jumps(struct block_cache *c, u64 page, unsigned shift)
{
	if (page >= TLB_FLUSHED_NONGLOBAL) {
		jumps_clear(c);
		return;
	}
	/* The page itself, and the one before: its last instruction may reach into this
	 * one. */
	if (shift == PAGE_SHIFT && !page_set_has(&c->jump_pages, page) &&
	    !page_set_has(&c->jump_pages, page - PAGE_SIZE))
		return;
	for (unsigned i = 0; i < c->taken_count; i++) {
		struct jump *j = &c->jump[c->taken[i]];

		if (!((j->lin ^ page) >> shift) ||
		    !(((j->lin + PAGE_SIZE) ^ page) >> shift))
			j->block = &gone_block;
	}
}

void block_cache_flush(struct block_cache *c)
{
	for (unsigned i = 0; i < ARRAY_SIZE(c->pages); i++) {
		for (struct code_page *p = c->pages[i]; p; p = p->next)
			phys_unmark_code(c->v->phys, &c->listener, p->page);
		c->pages[i] = NULL;
	}
	memset(c->hash, 0, sizeof(c->hash));
	jumps_clear(c);
	c->used = 0;
	__atomic_store_n(&c->overflow, false, __ATOMIC_SEQ_CST);
	native_flush(c->v);
}

bool block_cache_full(const struct block_cache *c)
{
	return c->size - c->used < BLOCK_ROOM || native_full(c->v) ||
	       __atomic_load_n(&c->overflow, __ATOMIC_ACQUIRE);
}

int block_cache_init(struct block_cache *c, struct vcpu *v)
{
	c->v = v;
	c->size = ARENA_SIZE;
	c->write_cost = 1;
	c->owner = pthread_self();
	c->arena = mmap(NULL, c->size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->arena == MAP_FAILED)
		return -errno;
	/* Used from its beginning on, all of it. Speed only. */
	(void)madvise(c->arena, c->size, MADV_HUGEPAGE);
	c->once = calloc(1, sizeof(struct block) + 2 * sizeof(struct insn));
	if (!c->once) {
		munmap(c->arena, c->size);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c->jump); i++)
		c->jump[i].block = &no_block;
	c->listener = (struct code_listener){ .written = block_written,
					      .guard = guard,
					      .opaque = c };
	if (phys_add_code_listener(v->phys, &c->listener)) {
		munmap(c->arena, c->size);
		free(c->once);
		return -ENOSPC;
	}
	return 0;
}

void block_cache_fini(struct block_cache *c)
{
	phys_remove_code_listener(c->v->phys, &c->listener);
	block_cache_flush(c);
	munmap(c->arena, c->size);
	free(c->once);
}

/* ---- making blocks ---- */

bool block_insn_is_jcc(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JO:
	case ZYDIS_MNEMONIC_JNO:
	case ZYDIS_MNEMONIC_JB:
	case ZYDIS_MNEMONIC_JNB:
	case ZYDIS_MNEMONIC_JZ:
	case ZYDIS_MNEMONIC_JNZ:
	case ZYDIS_MNEMONIC_JBE:
	case ZYDIS_MNEMONIC_JNBE:
	case ZYDIS_MNEMONIC_JS:
	case ZYDIS_MNEMONIC_JNS:
	case ZYDIS_MNEMONIC_JP:
	case ZYDIS_MNEMONIC_JNP:
	case ZYDIS_MNEMONIC_JL:
	case ZYDIS_MNEMONIC_JNL:
	case ZYDIS_MNEMONIC_JLE:
	case ZYDIS_MNEMONIC_JNLE: return true;
	default: return false;
	}
}

bool block_insn_ends(const struct insn *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_INVLPG:
	case ZYDIS_MNEMONIC_INVPCID:
	case ZYDIS_MNEMONIC_WRMSR:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_OUT:
	/* Serializing: behind them stands what another CPU may have written (I1). */
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_SERIALIZE:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD: return true;
	/* To control, debug and segment registers. */
	case ZYDIS_MNEMONIC_MOV:
		return in->opcode == 0x22 || in->opcode == 0x23 || in->opcode == 0x8e;
	default: return false;
	}
}

/* Fill in->fn for the instruction at 'bytes'. */
static void bind(struct vcpu *v, const u8 *bytes, struct insn *in)
{
	in->fn = bind_insn(in);
	if (!in->fn && !native_prepare(v, bytes, in))
		in->fn = op_ud2;
	v->stats->insns_decoded++;
}

/* Put the decoded instruction behind the others of the block. */
static void append(struct block *b, const struct insn *in)
{
	struct insn *slot = &b->insn[b->insns++];

	*slot = *in;
	slot->ip_off = b->bytes;
	if (slot->base == GPR_RIP)
		slot->disp += b->bytes;
	b->bytes = (u16)(b->bytes + in->len);
}

static void terminate(struct block *b)
{
	b->insn[b->insns] = (struct insn){ .fn = op_block_end, .ip_off = b->bytes };
}

/* An instruction that cannot be: raises its fault when it is reached. */
static void append_bad(struct block *b, op_fn *fn)
{
	append(b,
	       &(struct insn){ .fn = fn, .len = 1, .base = GPR_ZERO, .index = GPR_ZERO });
}

/* Decode from one page. False when not even the first instruction ends in it. */
static bool fill_from_page(const struct block_cache *c, struct block *b, const u8 *bytes,
			   unsigned avail)
{
	struct vcpu *v = c->v;
	bool amd = cpu_is_amd(v);

	while (b->insns < BLOCK_MAX_INSNS && b->bytes < avail) {
		const u8 *p = bytes + b->bytes;
		struct insn in;
		enum decode_status s;

		if (b->insns && (b->stop || debugger_cuts(v, b->gpa + b->bytes)))
			return true;
		s = decode(p, avail - b->bytes, b->mode & 15, amd, &in);
		if (s == DECODE_MORE)
			return b->insns > 0;
		if (s != DECODE_OK) {
			if (!b->insns)
				append_bad(b, s == DECODE_UD ? op_ud2 : op_too_long);
			return true;
		}
		bind(v, p, &in);
		append(b, &in);
		if (block_insn_ends(&in) || (c->basic && block_insn_is_jcc(&in)))
			return true;
	}
	return b->insns > 0;
}

/* One instruction that reaches into the next page, or is not in RAM at all. */
static bool fill_single(struct block_cache *c, struct block *b, gva_t lin, u8 *bytes)
{
	struct vcpu *v = c->v;
	const unsigned most = 15;
	unsigned first = (unsigned)MIN(most, PAGE_SIZE - (b->gpa & ~PAGE_MASK));
	bool amd = cpu_is_amd(v);
	enum decode_status s;
	struct insn in;
	gpa_t gpa2;

	phys_read_all(v->phys, b->gpa, bytes, first);
	s = decode(bytes, first, b->mode & 15, amd, &in);
	if (s == DECODE_MORE && first < most) {
		gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;

		if (!in_long_mode(v))
			next = (u32)next;
		/* The segment's limit comes before the page. */
		if (v->code_size != 8 && v->rip + first > v->seg[CS].limit)
			return raise_gp0(v);
		if (!fetch_translate(v, next, &gpa2))
			return false;
		page_mark(c, gpa2);
		phys_read_all(v->phys, gpa2, bytes + first, most - first);
		b->page2 = gpa2 & PAGE_MASK;
		s = decode(bytes, most, b->mode & 15, amd, &in);
	}
	if (s == DECODE_OK) {
		bind(v, bytes, &in);
		append(b, &in);
	} else {
		append_bad(b, s == DECODE_UD ? op_ud2 : op_too_long);
	}
	return true;
}

/* Keep a finished block: it takes its place in the arena now. */
static void keep(struct block_cache *c, struct block *b)
{
	unsigned h = block_hash(b->gpa);
	u8 *text = (u8 *)&b->insn[b->insns + 1u];

	arena_take(c, sizeof(*b) + (b->insns + 1u) * sizeof(struct insn) + b->bytes);
	memcpy(text, b->text, b->bytes);
	b->text = text;
	b->hash_next = c->hash[h];
	c->hash[h] = b;
	page_add(c, b->gpa & PAGE_MASK, b);
	if (b->page2 != GPA_NONE && b->page2 != (b->gpa & PAGE_MASK))
		page_add(c, b->page2, b);
}

/* Not inlined: tools/check-vecfree stops here, as the vectors are parked. */
__attribute__((noinline)) static struct block *make_block(struct block_cache *c,
							  gva_t lin, gpa_t gpa, u8 mode)
{
	struct vcpu *v = c->v;
	u8 text[TEXT_MAX];
	unsigned avail = (unsigned)MIN(sizeof(text), PAGE_SIZE - (gpa & ~PAGE_MASK));
	const u8 *bytes = phys_host(v->phys, gpa, avail, false);
	struct block *b = bytes ? (struct block *)(void *)(c->arena + c->used) : c->once;

	b->gpa = gpa;
	b->page2 = GPA_NONE;
	b->mode = mode;
	b->insns = b->bytes = 0;
	b->once = !bytes;
	b->stop = debugger_cuts(v, gpa);
	b->count = 0;
	b->switched = 0;
	b->span = 0;
	b->lone = false;
	b->roams = 0;
	b->code = NULL;
	b->text = text;
	page_mark(c, gpa);
	if (bytes)
		memcpy(text, bytes, avail);
	if ((!bytes || !fill_from_page(c, b, text, avail)) &&
	    !fill_single(c, b, lin, text))
		return NULL;
	terminate(b);
	v->stats->blocks_decoded++;
	if (bytes)
		keep(c, b);
	else
		b->text = NULL;
	return b;
}

struct block *block_at(const struct block_cache *c, gpa_t gpa, u8 mode)
{
	struct block *b = c->hash[block_hash(gpa)];

	while (b && (b->gpa != gpa || b->mode != mode))
		b = b->hash_next;
	return b;
}

struct block *block_find_slow(struct block_cache *c, gva_t lin, u8 mode)
{
	struct vcpu *v = c->v;
	struct block *b;
	gpa_t gpa, gpa2;
	u8 was;

	if (v->code_size != 8 && v->rip > v->seg[CS].limit) {
		raise_gp0(v);
		return NULL;
	}
	if (!fetch_translate(v, lin, &gpa))
		return NULL;
	b = block_at(c, gpa, mode);
	/* The second page may be another one now, or gone. */
	if (b && b->page2 != GPA_NONE) {
		gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;

		if (!fetch_translate(v, in_long_mode(v) ? next : (u32)next, &gpa2))
			return NULL;
		if ((gpa2 & PAGE_MASK) != b->page2) {
			kill_block(c, b);
			b = NULL;
		}
	}
	if (!b) {
		/* Zydis may use vector registers. */
		vcpu_park(v);
		was = profile_doing(v, DOING_DECODE);
		b = make_block(c, lin, gpa, mode);
		profile_doing(v, was);
		if (!b || b->once)
			return b;
	}
	jump_add(c, lin, b);
	return b;
}
