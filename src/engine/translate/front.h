/* What the files of the translator's front end share. */
#pragma once

#include <Zydis/Zydis.h>

#include "engine/translate/translate.h"

#define T_ADDR H_R9  /* address; also a jump target */
#define T_SLOT H_R10 /* TLB slot, then addend; or the rm operand's copy */
#define T_KEEP H_R11 /* RCX while it is needed; or the reg operand's copy */

/* Code that is seldom run, put behind the block. */
struct cold {
	enum { COLD_SLOW, COLD_LINK, COLD_FAR } kind;
	u8 *from; /* rel32 that leads here, NULL: none */
	bool rcx; /* arriving that way, RCX is in T_KEEP */
	const struct insn *in;
	u8 *back;      /* SLOW: where to go on */
	i32 site;      /* SLOW: index into sites, -1: none */
	i64 target;    /* LINK, FAR: offset from the page */
	bool backward; /* LINK: look for a kick */
};

#define COLD_MAX (BLOCK_MAX_INSNS * 4)

struct front {
	struct translator *t;
	struct emit e; /* the main part; while emit_cold() runs, the seldom-run part */
	const struct block *b;
	const u8 *bytes; /* of the block's code */
	unsigned mode;   /* index of tr_jumps */
	enum mmu_idx idx;
	u32 start; /* offset of the block from its page */
	bool vec_checked;
	struct cold cold[COLD_MAX];
	unsigned colds, call_outs;
	struct cold *access; /* of the last memop_check() */
};

/* A guest register that lives in memory. */
static inline bool in_memory(unsigned guest)
{
	return guest >= R8 && guest <= R11;
}

/* The host register of one that does not. */
static inline unsigned home(unsigned guest)
{
	return guest == RSP ? H_R8 : guest;
}

static inline i32 gpr_slot(unsigned guest)
{
	return VCPU(gpr) + 8 * (i32)guest;
}

/* ---- memop.c ---- */

/* The operand's linear address in T_ADDR; uses T_SLOT. False: not a form that is
 * translated. */
bool memop_address(struct front *f, const struct insn *in);
/*
 * Check an access of 'size' bytes at T_ADDR; T_SLOT gets the addend, so that [T_ADDR +
 * T_SLOT] is the operand. On a miss the slow stub of this instruction runs. Uses T_KEEP;
 * changes no flags.
 */
void memop_check(struct front *f, const struct insn *in, bool write, unsigned size);

/* ---- copy.c ---- */

/* Re-encode an instruction that has at most one memory operand. False: it is not of that
 * kind. */
bool copy_insn(struct front *f, const struct insn *in, const u8 *bytes);

/* ---- branch.c ---- */

/* Branches, calls, returns, pushes and pops. False: not one of them, or not a translated
 * form. */
bool branch_insn(struct front *f, const struct insn *in);
/* Go on at this offset from the page. */
void branch_to(struct front *f, const struct insn *in, i64 target);
/* The target's linear address is in T_ADDR: look it up. On a miss, the slow stub; on a
 * hit RSP += pop. */
void branch_lookup(struct front *f, const struct insn *in, unsigned pop);
void branch_cold(struct front *f, struct cold *c);

/* ---- front.c ---- */

struct cold *cold_add(struct front *f, const struct insn *in, u8 *from, bool rcx);
/* The next instruction emitted may fault on the host: then the slow stub runs. */
void site_add(struct front *f, struct cold *c);
/* mov host, guest register, from wherever it lives. */
void load_guest(struct front *f, unsigned host, unsigned guest);
/* Save RCX, load a word from the frame into RCX, and go to the cold stub unless it is 0;
 * RCX is back then. */
void check_zero(struct front *f, const struct insn *in, i32 off);
