/*
 * Blocks of decoded instructions, kept by physical address and mode.
 *
 *   linear RIP --jump cache--> block <--hash-- (physical address, mode)
 *                                ^--list-- code page
 *
 * I1 A block's instructions are what memory holds: each page with a block is marked
 * PAGE_CODE, and a write to it by this CPU kills the blocks it overlaps before the next
 * instruction starts. One by another thread is queued, and this CPU told to look
 * (EV_FLUSH): it kills them before it starts another block. What the other thread does
 * after its write, be it an IPI or another write, is seen here no earlier than the
 * queue; serializing instructions end blocks, so behind one the code is new (SDM volume 3
 * section 8.1.3).
 *
 * I2 A dead block has mode BLOCK_DEAD, so no lookup finds it, and all its instructions
 * lead out of it; its memory stays until block_cache_flush().
 *
 * I3 The jump cache is emptied when linear addresses may translate differently.
 *
 * I4 block_cache_flush() runs only between blocks.
 *
 * I5 Bytes are fetched from memory once. Somebody else may be writing to them, and what
 * is looked at a second time would not be what was checked.
 *
 * Thread: the owner of the vCPU; block_written() any thread, without a lock.
 */
#pragma once

#include <pthread.h>

#include "base/bits.h"
#include "mem/phys.h"
#include "x86/decode.h"

#define BLOCK_DEAD      0xff
#define BLOCK_MAX_INSNS 48
#define GPA_NONE        (~UINT64_C(0))
/* 64-bit code, 32-bit code in flat segments, and any other; for CPL < 3 and for CPL 3. */
#define CODE_MODES      6

struct block {
	gpa_t gpa;   /* of the first byte */
	gpa_t page2; /* page the last instruction reaches into, GPA_NONE if it does not */
	struct block *hash_next;
	struct block *page_next[2]; /* lists of the first and the second page */
	u16 insns, bytes;
	u16 span;  /* bytes from the first that 'code' was made of: more than 'bytes' when
		    it  goes on into the blocks behind */
	u8 mode;   /* code size, and 16 for CPL 3; BLOCK_DEAD */
	bool lone; /* for that engine: accesses are checked one by one */
	bool once; /* not from RAM: not kept */
	bool stop; /* a debugger may have a breakpoint here: one instruction, to be
		      executed by step_one(), never translated */
	u8 switched; /* times its code was for other segments than it had to be */
	u16 count;   /* times it was found, for an engine that translates what is hot */
	u64 roams;   /* for it: instructions, by bit, whose accesses change pages often */
	struct code_page *home; /* of the first byte */
	struct tr_code *code;   /* that engine's translation, or NULL */
	const u8 *text;         /* the bytes as they were decoded; not of 'once' */
	struct insn insn[];     /* the last one is no instruction, but leads out */
};

struct code_page {
	gpa_t page;
	/* For an engine that translates: the linear page it is executed at, by mode,
	 * while 'epoch' is the engine's; links out of it. */
	gva_t lin[CODE_MODES];
	u64 epoch[CODE_MODES];
	struct tr_link *far[CODE_MODES];
	/* And how often it was found there of late: in this one of its windows. */
	u32 window;
	u8 samples;
	bool hot;
	struct block *first;
	struct code_page *next;
	unsigned idle;   /* writes since there was no block any more */
	unsigned missed; /* what they have cost since one of them hit a block */
};

/* Writes by others that may wait to be looked at; more cost the whole cache. */
#define BLOCK_QUEUE 64

#define JUMP_BITS       14
#define BLOCK_HASH_BITS 17
#define PAGE_HASH_BITS  12

struct jump {
	gva_t lin;
	struct block *block;
};

/* A set of pages that may say yes to some more. */
struct page_set {
	u64 bits[64];
};

static inline u64 page_set_bit(u64 page, unsigned *word)
{
	u64 h = (page >> PAGE_SHIFT) * UINT64_C(0x9e3779b97f4a7c15);

	*word = h >> 58;
	return BIT(h >> 52 & 63);
}

static inline void page_set_add(struct page_set *s, u64 page)
{
	unsigned word;
	u64 bit = page_set_bit(page, &word);

	s->bits[word] |= bit;
}

static inline bool page_set_has(const struct page_set *s, u64 page)
{
	unsigned word;
	u64 bit = page_set_bit(page, &word);

	return s->bits[word] & bit;
}

struct block_cache {
	struct jump jump[1 << JUMP_BITS];
	u16 taken[1 << JUMP_BITS]; /* slots of 'jump' that are not empty, each once */
	unsigned taken_count;
	struct page_set jump_pages; /* linear pages that 'jump' has addresses of */
	struct block *hash[1 << BLOCK_HASH_BITS];
	struct code_page *pages[1 << PAGE_HASH_BITS];
	bool basic; /* a block ends with a conditional branch */
	/* What a write to a page of code costs now, as a multiple of one by interpreted
	 * or translated code. */
	unsigned write_cost;
	u8 *arena; /* blocks and code pages, handed out from the front */
	size_t used, size;
	struct block *once; /* a buffer for code outside RAM */
	struct vcpu *v;
	struct code_listener listener;
	pthread_t owner; /* atomic: the thread that is or was in run() */
	/* By other threads, atomic: which bytes they wrote (see block.c), and that there
	 * were too many. 'queued' is set last. */
	u64 queue[BLOCK_QUEUE];
	bool overflow;
	bool queued;
	/* That has just happened: make the engine look at its events. Any thread; may be
	 * NULL. */
	void (*asked)(void *opaque);
	/* A block dies. May be NULL. */
	void (*dropped)(void *opaque, struct block *b);
	void *dropped_opaque; /* of both */
};

/* 0 or -ENOMEM. */
int block_cache_init(struct block_cache *c, struct vcpu *v);
void block_cache_fini(struct block_cache *c);

/* Forget everything. Between blocks only (I4). */
void block_cache_flush(struct block_cache *c);
/* Drop what other threads wrote to. Between blocks only, before each one. */
void block_catch_up_slow(struct block_cache *c);
static inline bool block_cache_behind(const struct block_cache *c)
{
	return __builtin_expect(__atomic_load_n(&c->queued, __ATOMIC_ACQUIRE), 0);
}
static inline void block_catch_up(struct block_cache *c)
{
	if (block_cache_behind(c))
		block_catch_up_slow(c);
}
/* There may be no room for another block: flush first. */
bool block_cache_full(const struct block_cache *c);
/* Linear addresses may translate differently now. */
void block_unlink_jumps(struct block_cache *c, u64 page, unsigned shift);

/* A block that begins at this physical address and was decoded for this mode, or NULL. */
struct block *block_at(const struct block_cache *c, gpa_t gpa, u8 mode);
/* Of a guest-physical page. NULL: no code of it is cached. */
struct code_page *block_page(const struct block_cache *c, gpa_t page);

/* One of the sixteen Jcc. */
bool block_insn_is_jcc(const struct insn *in);

/* Nothing falls through this instruction, or what follows is looked up anew anyway. */
bool block_insn_ends(const struct insn *in);

/* The block at CS:RIP; NULL: a fault is in v->fault. */
struct block *block_find_slow(struct block_cache *c, gva_t lin, u8 mode);

static inline u8 block_mode(const struct vcpu *v)
{
	return (u8)(v->code_size | (v->cpl == 3 ? 16 : 0));
}

static inline gva_t linear_rip(const struct vcpu *v)
{
	return v->code_size == 8 ? v->rip : (u32)(v->seg[CS].base + v->rip);
}

static inline struct jump *jump_slot(struct block_cache *c, gva_t lin)
{
	return &c->jump[(lin ^ lin >> JUMP_BITS) & ((1 << JUMP_BITS) - 1)];
}

static inline struct block *block_find(struct block_cache *c, const struct vcpu *v)
{
	gva_t lin = linear_rip(v);
	u8 mode = block_mode(v);
	const struct jump *j = jump_slot(c, lin);

	if (likely(j->lin == lin && j->block->mode == mode))
		return j->block;
	return block_find_slow(c, lin, mode);
}
