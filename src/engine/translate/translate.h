/*
 * The translator: guest code of every mode to host code of the same instruction set.
 *
 * Guest registers live in host registers, guest flags in the host's EFLAGS, guest vectors
 * in the host's vector registers. What is not translated is executed by the interpreter's
 * function for that instruction, called from translated code.
 *
 *   host rsp    the shadow stack: return addresses of the guest's calls
 *   host r8     guest RSP
 *   host r9     scratch: address
 *   host r10    scratch: TLB slot, addend or rm operand
 *   host r11    scratch: saved RCX or reg operand
 *   all others  the guest register of the same name
 *
 * Guest R8 to R11 are in memory, vcpu.gpr[]. That and struct frame are below 2 GiB, so
 * that no register is needed to reach them.
 *
 * Translated code hangs on the interpreter's blocks: the same key, the same instructions,
 * the same invalidation (engine/interp/block.h).
 *
 * T1 At every instruction boundary of translated code the guest's state is complete:
 * registers as above, flags in EFLAGS or made again on the way out (eflags.c), RIP known
 * from the place in the code. So any instruction may be left before it has done anything,
 * for the slow way or a fault.
 *
 * T2 Code is translated for a mode (tr_mode()): CPL 3 or CPL 0, 64-bit code, 32-bit code
 * in flat segments (narrow_flat()), or based code: 16-bit code, and 32-bit code in other
 * segments. It is entered only in that mode, and what is found by linear address is kept
 * apart by it. Whatever loads a segment register leaves flat code (OP_END, OP_JUMP); FS
 * and GS may have a base there.
 *
 * T2b Based code holds for any segments (struct seg_reach), so only a load of CS or SS
 * leaves it. What is found by linear address is found by that and the segment in CS
 * (frame.cs_key). A link within a page holds while the offsets in the code segment do not
 * wrap, and do not pass its limit: so code has been made for a part of its page, and is
 * entered only where all of that is in the segment (tr_code.lo). There are no links
 * between pages.
 *
 * T3 A direct link within one page always holds: source and target have the same
 * mapping. One between pages, or to an instruction that reaches into another page, holds
 * while both are executed at linear addresses that are as far from each other as when it
 * was made. A page is awake while it is known where it is executed (struct
 * code_page.lin): only such code runs, and what its links lead to is awake at the right
 * address. When addresses may translate differently pages fall asleep that are not found
 * where they were (far_check()); links to them from pages that stay awake are undone, and
 * their own kept. Before a page is executed again it is woken, and with it those that its
 * links lead to, if they are there; if not, they are undone (wake()). So a program's
 * links last through those that run meanwhile, and those of a library hold wherever it
 * is. Everything else looks the target up by linear address, in a table without those
 * that sleep.
 *
 * T4 Each loop of translated code passes a place where a kick gets it out: backward
 * links, calls and links between pages read where frame.poll points to, which after a
 * kick is a guard page; table look-ups find nothing.
 *
 * T5 A CALL pushes the complement of its return address and where to go on to the shadow
 * stack, a host call; a RET whose address is the one on top is a host return. What is on
 * it holds as long as nothing falls asleep, and is forgotten then. It may hold too
 * much or too little (a guest switches stacks): then a RET looks its target up. Guard
 * pages on both sides start it anew.
 *
 * T6 A memo (struct tr_memo) allows what its TLB entry allows, and is emptied when that
 * changes. An empty one matches no address.
 *
 * T7 A call out that goes elsewhere, SYSCALL or a fault, goes on with code that the table
 * has for the mode that there is now (pass_over()), unless there is anything that the
 * loop in run.c would look at; each mode has its own table and shadow stack.
 *
 * Thread: the owner of the vCPU; translate_kick() any thread.
 */
#pragma once

#include "cpu/engine.h"
#include "engine/interp/block.h"
#include "engine/translate/emit.h"
#include "x86/access.h"

#define TR_JUMP_BITS 15
#define TR_JUMPS     (1u << TR_JUMP_BITS)

/* Where a table look-up of a linear address goes: half a cache line, as each branch
 * touches one. */
struct tr_jump {
	u64 neg_lin; /* the address negated; TR_NO_JUMP: none */
	u64 code;    /* executable address */
	u64 page;    /* what frame.page_lin becomes */
	u64 pad;
};

struct tr_jumps {
	struct tr_jump slot[TR_JUMPS];
};

/*
 * No jump: only one address matches it, which belongs to slot 0. Slot 0 is never used.
 * When a kick sends all look-ups there, one address matches it, 1, which belongs to slot
 * 1; its code leads out.
 */
#define TR_NO_JUMP   UINT64_C(0x8000000000000000)
#define TR_SLOT0     (-UINT64_C(1))
/* The same for a slot that is on the list of those taken; its address belongs to slot 0
 * too. */
#define TR_FORGOTTEN (-UINT64_C(0x8000000008000000))

/* A jump to a place in the same page, or one between pages, and its exit until it is
 * linked. */
struct tr_link {
	u8 *at;   /* the rel32, in the writable view */
	i32 exit; /* what it holds while it is not linked */
	u8 mode;  /* index of tr_jumps */
	u8 block_mode;
	bool linked;
	bool far_listed; /* far_next */
	u16 lo, hi;      /* as those of the code that it is in */
	gpa_t target; /* of its first byte: a mapping may change meanwhile (T3). GPA_NONE:
		       * it is in another page */
	struct tr_code *of, *to;      /* it is in; it leads to */
	struct tr_link *next, **link; /* others that lead to the same code */
	/* Others out of the page, and how far away the other page is, in linear
	 * addresses. */
	struct tr_link *far_next;
	u64 delta;
};

struct tr_code {
	u64 entry;             /* executable address */
	struct block *block;   /* of which it is the code */
	struct tr_link *links; /* that lead here */
	u64 cold;              /* executable address of the part that is seldom run */
	u32 size, cold_size;
	u32 call_outs; /* instructions that are not translated */
	u32 misses;    /* of its groups, in vain */
	/* It holds where the code segment has all of [lo, hi) of its page. */
	u16 lo, hi;
	u8 mode; /* tr_mode() */
	/* Where it may be found in struct tr_jumps: numbers of slots, those of each table
	 * behind those of the one before. More than fit: anywhere. */
	u32 slots, slot[4];
};

/* How an access gets from the offset in its segment to a linear address that is found
 * nowhere if the segment does not allow it. */
enum tr_reach {
	REACH_FLAT, /* flat code */
	REACH_LOW,  /* offsets of 16 bits, all of which the segment has: seg_reach.low */
	REACH_ROOM, /* the limit is compared with: seg_reach.room */
	REACH_ALL,  /* offsets of 32 bits, the same: vcpu.seg_bar */
};

/* Accesses that share one check, for translate_group_miss(). */
struct tr_group {
	const struct insn *in; /* the first of them */
	struct tr_code *code;
	i32 disp; /* the lowest byte of all, from the register as it is at 'in' */
	u16 span;
	u8 base, seg;
	u8 reach;                /* enum tr_reach */
	u8 idx;                  /* enum mmu_idx */
	bool low;                /* offsets of 16 bits */
	bool write, first_write; /* any of them; the first */
};

/*
 * What an access, or the first of a group, has found in the TLB the last time, so that
 * its host address does not wait for a look-up: memo.c. Copies of TLB entries, dropped
 * with them.
 */
struct tr_memo {
	u64 neg_page; /* in the form of its check */
	u64 addend;
};

/* How the page is looked for, and what 'neg_page' is: memop.c. */
enum memo_form {
	MEMO_QUICK,  /* the page's address */
	MEMO_TWICE,  /* twice the page's number */
	MEMO_SINGLE, /* + n: its number, and n zero bits */
};
#define MEMO_SHIFTS 7 /* accesses of up to 64 bytes */

struct tr_memo_info {
	u32 next, prev; /* of the same TLB entry; prev 0: the first */
	u32 patience;   /* what 'wait' was last set to */
	u32 filled_at;  /* by the host's clock, in units of 64 cycles */
	u64 page;       /* PROBE: the last one */
	u64 *roams;     /* struct block.roams, and the bit */
	struct tr_code *code;
	u16 slot; /* of the TLB */
	u8 nth;
	u8 idx; /* enum mmu_idx */
	u8 form;
	u8 state;
	u8 seen, same; /* PROBE */
	bool write, filled;
};

/* The first is not used. */
struct tr_memos {
	struct tr_memo *memo; /* below 2 GiB */
	u64 *wait; /* so many misses from now on, memo_fill is called; below 2 GiB */
	struct tr_memo_info *info;
	u32 count;
	/* Code that does better without some of them. */
	struct tr_code *retire[64];
	unsigned retires;
};

#define TR_GROUPS 24 /* at most in one piece of code */

/* R10 is where the code that calls begins in its page. */
enum {
	SAVE_RAX,
	SAVE_R10,
	SAVE_R11,
	SAVE_FLAGS,
	/* With addresses of 16 bits. */
	SAVE_SEG,
	SAVE_RSI,
	SAVE_RDI,
	SAVE_RCX,
	SAVES
};

/* What translated code reaches besides struct vcpu. */
struct frame {
	u64 host_rsp;
	u64 shadow_rsp; /* rsp while C code runs */
	u64 flags_out;  /* EFLAGS of the guest when code was left */
	u64 flags_in;   /* LAHF and SETO image to enter with */
	u64 page_lin;   /* address of the page that is executed, in the code segment:
			 * linear but for based code, where it may be below 0 */
	u64 cs_key;     /* based code: added to RIP for a key of struct tr_jumps */
	u64 cs_neg;     /* the same negated */
	u64 tmp;        /* a jump target while the stack is written */
	u64 addr;       /* while memo_fill runs */
	u64 under;      /* what an indirect call's return address overwrote, on AMD */
	u64 index_mask; /* address bits that choose a TLB slot */
	u64 page_mask;
	u64 single_mask[MEMO_SHIFTS];       /* page number and bits that must be 0 */
	u64 not_if, not_ac, not_df, status; /* bits of RFLAGS */
	u64 low_mask;    /* 16 bits of an offset, and SEG_BARRED for the next one */
	u64 sign_mask;   /* bit 63 */
	u64 bit_mask[2]; /* of a bit's number: its place in 4 and in 8 bytes */
	u64 jump_mask;   /* TR_JUMPS - 1, or 0 when kicked; atomic */
	u64 poll;        /* an address that can be read, or not when kicked; atomic */
	struct tr_link *link; /* the exit taken, or NULL */
	u64 leave;        /* set while a call out runs: do not go back into the code */
	u64 left_by_call; /* code was left by a call out: *v is complete */
	u64 vec_parked;   /* 0: vector instructions may run */
	u64 group[TR_GROUPS]; /* addends */
	u64 save[SAVES];      /* of string.c */
	struct tr_jumps jumps[CODE_MODES] __attribute__((aligned(64)));
};

/* Which slots of a struct tr_jumps are taken, so that emptying it costs what was put in.
 */
struct tr_taken {
	u16 slot[TR_JUMPS];
	unsigned count;
};

/* Code segments of based code: their numbers are part of keys (frame.cs_key). */
#define TR_SEGMENTS 64u
struct tr_segments {
	struct tr_segment {
		u64 base;
		u32 limit, size; /* of the code: 2 or 4 */
	} of[TR_SEGMENTS];
	unsigned count, now;
};

/* A set of linear pages, hashed, and what is executed there; when it is full it has all
 * of them. */
#define TR_PAGES 4096u
struct tr_pages {
	u64 page[TR_PAGES]; /* 0: free; page 0 is in 'full' */
	struct code_page *code[TR_PAGES];
	u16 used[TR_PAGES]; /* slots that are not free */
	unsigned count;
	bool full;
};

/* String instructions with pieces of their own (string.c), and how they address: by 64 or
 * 32 bits in flat segments, or by 16 bits in any. */
enum tr_string_addr { TR_ADDR64, TR_ADDR32, TR_ADDR16, TR_STRING_ADDRS };
enum tr_string { TR_MOVS, TR_STOS, TR_LODS, TR_REP_MOVS, TR_REP_STOS, TR_STRING_OPS };

/* A place where the host may fault: the code to go on with instead. */
struct tr_site {
	u32 at, slow; /* offsets from the base of the code memory */
};

/* Ascending. */
struct tr_sites {
	struct tr_site *site;
	u32 count, cap;
};

/* Where code begins, ascending (locate.c). */
struct tr_starts {
	struct tr_start *start; /* NULL: nobody asks */
	u32 count;
};

struct direct;
struct execmem;

struct translator;

/* How to translate, for tests of the translator; all zero is the best. */
struct translate_options {
	size_t code_size; /* bytes of code memory, 0: plenty */
	bool eager;       /* translate what is seen for the first time */
	bool one;         /* one instruction a block */
	bool slow;        /* no operand is found in the TLB, no vector state live */
	bool direct;      /* user code runs directly as soon as it can (engine/direct) */
	bool undirect;    /* it never does */
	/* Leave after each block, and have this run it. False: give up (VCPU_EXIT_ERROR).
	 */
	bool (*run_block)(struct translator *t, struct block *b);
	void *opaque;
};

struct translator {
	struct block_cache cache; /* first: shared with the interpreter's functions */
	struct vcpu *v;
	struct frame *f;
	struct execmem *mem;
	const u8 *base;
	i64 exec_delta;     /* executable address = writable address + exec_delta */
	u64 cr0, cr4, xcr0; /* the bits that code was translated under */
	int sig;
	/* Executable addresses of the common pieces. */
	u64 enter, leave, call_out, group_miss, memo_fill, leave_at, leave_key,
		lost_return;
	u64 string[TR_STRING_OPS][4][TR_STRING_ADDRS]; /* by operation, operand size */
	struct tr_sites sites[2]; /* in the main parts of code, in the seldom-run ones */
	struct tr_starts starts[2]; /* the same */
	struct tr_segments segments;
	unsigned make_mode;    /* what code is made for, */
	u16 clip_lo, clip_hi;  /* and the part of a page */
	struct direct *direct; /* NULL: without */
	bool was_user;         /* the CPL was 3 when the loop last came by */
	struct tr_memos memos;
	struct tr_taken taken[CODE_MODES];
	bool jumps_ready[CODE_MODES];
	struct tr_pages pages[CODE_MODES]; /* that are awake */
	struct tr_pages gone;              /* inside far_check() */
	u8 far_shift[CODE_MODES];          /* of the largest page that has stayed awake */
	u64 epoch[CODE_MODES];             /* of pages that are awake, by mode */
	unsigned mode;                     /* of the code that runs: tr_mode() */
	u64 shadow[CODE_MODES];            /* its rsp while code of another mode runs */
	u8 *low;                           /* guard, shadow stacks, guard, frame */
	/* Atomic. */
	bool kicked;                   /* leave */
	bool kernel_local[CODE_MODES]; /* some of its code is not in global pages */
	struct emit hot,
		cold; /* where the next block's code goes, and its seldom-run part */
	u8 *arena;    /* tr_code and tr_link */
	size_t arena_used, arena_size;
	enum { TR_GO_ON, TR_STEP_EXIT, TR_SHUTDOWN } outcome;
	/* Code was left in the middle of a block: this one is the next. NULL: it was not.
	 */
	const struct insn *resume;
	bool lone;   /* the next block is for the interpreter: a group's check failed */
	u32 samples; /* of where kicks found it */
	bool full;
	bool strayed; /* something else than translated code has run; for
			 options.run_block */
	struct translate_options options;
};

/* Of a mode that code is made for. */
static inline bool tr_mode_is_user(unsigned mode)
{
	return mode & 1;
}

/* Not 64-bit code. */
static inline bool tr_mode_is_narrow(unsigned mode)
{
	return mode >= 2;
}

static inline bool tr_mode_is_based(unsigned mode)
{
	return mode >= 4;
}

/* The segments that 32-bit code is flat in. */
static inline bool narrow_flat(const struct vcpu *v)
{
	u32 data = v->seg_ok[SS] & v->seg_ok[DS] & v->seg_ok[ES];

	return (data & v->seg_ok[CS] & SEG_FLAT) && (data & SEG_W_OK) &&
	       v->stack_size == 4 && !in_real_or_v86(v);
}

/* By what code and the ways to it are kept apart: 1 at CPL 3, 2 for 32-bit code in flat
 * segments, 4 for based code. */
static inline unsigned tr_mode(const struct vcpu *v)
{
	unsigned user = v->cpl == 3;

	if (likely(v->code_size == 8))
		return user;
	return user | (v->code_size == 4 && narrow_flat(v) ? 2u : 4u);
}

/* The last offset that based code is executed at. */
static inline u32 tr_last_ip(const struct vcpu *v)
{
	return v->code_size == 2 ? MIN(v->seg[CS].limit, 0xffffu) : v->seg[CS].limit;
}

/* ---- run.c ---- */

/* For engines made of this one. */
int translate_probe(struct error *err);
int translate_open(struct vcpu *v, const struct translate_options *o, struct error *err);
void translate_close(struct vcpu *v);
enum vcpu_exit translate_run(struct vcpu *v);
void translate_kick(struct vcpu *v);
void translate_push(struct vcpu *v);
/* Does code of this mode go on behind an instruction that ends a block (OP_END)? Based
 * code depends on no segment but those in CS and SS. */
bool translate_stays(unsigned mode, const struct insn *in);
/* For options.run_block: the code of the block at RIP. */
void translate_enter(struct translator *t, const struct tr_code *code);

/* Called from translated code through the 'call_out' piece: 0 go on behind the
 * instruction, 1 leave, else go on with the code at that executable address. */
u64 translate_call_out(struct vcpu *v, const struct insn *in);

/* The same through the 'group_miss' piece: 0 check again, 1 leave. */
u64 translate_group_miss(struct vcpu *v, const struct tr_group *g);

/* ---- memo.c ---- */

bool memos_init(struct translator *t);
void memos_fini(struct translator *t);
/* Forget them, for code that is gone. */
void memos_reset(struct translator *t);
/* An empty one. 0: there are no more. */
u32 memo_new(struct translator *t, const struct tr_memo_info *like);
/* For vcpu.tlb_dropped: empty what was copied from the entry. */
void memo_tlb_dropped(struct vcpu *v, struct tlb_info *info);
/* Called from translated code through the 'memo_fill' piece. Runs nothing of the guest.
 */
void translate_memo_fill(struct vcpu *v, u64 memo);

/* ---- pieces.c ---- */

/* Emit the common pieces. False: no memory for code. */
bool pieces_emit(struct translator *t);

/* ---- locate.c ---- */

/* Code was made of the block at RIP. Vectors parked. */
void locate_add(struct translator *t, const struct tr_code *code);
/* All code is gone. */
void locate_reset(struct translator *t);
void locate_fini(struct translator *t);
/* For engine.locate. */
bool translate_locate(struct vcpu *v, u64 host, u64 *lin);
u64 translate_delay(struct vcpu *v, u64 *own);

/* ---- string.c ---- */

/* Its own. */
bool string_pieces(struct translator *t);

/* ---- front.c ---- */

/* Translate a block. NULL: it cannot be, or memory is full (t->full). */
struct tr_code *front_translate(struct translator *t, struct block *b);

/* The slot of a linear address in struct tr_jumps. */
static inline unsigned tr_jump_slot(gva_t lin)
{
	return (lin + (lin >> 12)) & (TR_JUMPS - 1);
}

/* Addresses of their fields, which fit: both are below 2 GiB. */
#define FRAME(t, field) ((i32)(uintptr_t)(t)->f + (i32)offsetof(struct frame, field))
#define VCPU(t, field)  ((i32)(uintptr_t)(t)->v + (i32)offsetof(struct vcpu, field))
