/*
 * What the files of the translator's front end share.
 *
 * A trace is a block and, as long as it falls through, the blocks behind it in the same
 * page that have been executed too. It goes through three passes: what each instruction
 * is (plan.c, narrow.c), which accesses share a check (group.c), and code (front.c,
 * copy.c, branch.c, memop.c, eflags.c).
 */
#pragma once

#include <Zydis/Zydis.h>

#include "engine/translate/translate.h"

#define T_ADDR H_R9  /* address; also a jump target */
#define T_SLOT H_R10 /* TLB slot, then addend; or the rm operand's copy */
#define T_KEEP H_R11 /* RCX while it is needed; or the reg operand's copy */

#define TRACE_MAX 64 /* instructions */

enum plan_kind {
	PLAN_CALL_OUT, /* the interpreter's function executes it */
	PLAN_NOTHING,
	PLAN_LEA,
	PLAN_COPY,    /* re-encoded */
	PLAN_BRANCH,  /* branch or stack operation */
	PLAN_SYSTEM,  /* of system.c */
	PLAN_STRING,  /* of string.c */
	PLAN_SEGMENT, /* of segment.c */
};

/* What an instruction does to the status flags. */
enum flag_use {
	FLAGS_ALONE,
	FLAGS_SET,  /* all of them, and it reads none */
	FLAGS_READ, /* and changes none */
	FLAGS_USED, /* anything else: they must be right before it */
};

/* A memory access. */
struct mem_access {
	u8 base, index; /* enum gpr */
	u8 scale, seg;
	u8 reach;  /* enum tr_reach */
	bool wide; /* 64-bit address */
	bool low;  /* 16-bit address */
	bool write;
	bool bits; /* the unit of 'size' bytes that has bit 'bit_reg' of a bit string */
	u8 bit_reg;
	u8 size;
	i8 group;    /* shares the check of this group; -1: has its own */
	i32 disp;    /* from base and index; RIP: from the page */
	i32 from_lo; /* of a group: the address counted from the group's lowest */
	bool leader; /* the first of the group, which has the check */
};

struct plan {
	const struct insn *in;
	struct block *block; /* it is in */
	const u8 *bytes;
	u32 start; /* offset of its block from the page */
	u8 kind;
	bool low;    /* of 16-bit code */
	u8 flags;    /* enum flag_use */
	u16 written; /* general registers, by bit */
	struct mem_access acc;
	bool mem;               /* acc is valid */
	struct mem_access acc2; /* PUSH from memory: the push */
	bool mem2;
	/* PLAN_COPY */
	u8 encoding; /* ZydisInstructionEncoding */
	u8 imm_len;
	u8 recoded, digit; /* opcode and ModRM.reg instead of a form that 64-bit mode
			    * has not; 0: its own */
	bool modrm;
	bool size66;                   /* 16-bit code: on the host it has a 66 prefix */
	bool reg_gpr, rm_gpr, opc_gpr; /* the field names a general register */
	bool reg_wide; /* and not 8 bits of it, whatever the other one is: MOVZX, CRC32 */
	bool reg_written, rm_written;
	bool vvvv_slot; /* VEX.vvvv names a general register that lives in memory */
	bool vvvv_written;
	bool high_byte; /* AH, BH, CH, DH: no REX prefix allowed */
	bool byte_reg;
	bool vector;    /* touches vector registers */
	bool can_fault; /* on the host, for other reasons than the address */
	bool loads_segment;
	bool dead; /* the flags before it are overwritten unread */
};

/* Accesses off one register that one check covers (group.c). */
struct group {
	i32 lo, hi; /* bytes, counted from the register where the group began */
	bool write;
	bool rip; /* off RIP: counted from the page of the code */
	u8 seg;
	u8 members;
	u8 slot; /* of frame.group */
};

#define GROUP_MAX TR_GROUPS

/* How to get the flags back that a check has overwritten: eflags.c. */
struct recipe {
	const struct plan *maker; /* the instruction that set them; NULL: none */
	u16 uses;                 /* registers that must not change */
	u8 kind;
};

/* The x87 instructions whose pointers are not in the vCPU; NULL: they are. */
struct x87_last {
	const struct plan *any; /* FIP, FCS, FOP */
	const struct plan *mem; /* FDS */
};

/* Code that is seldom run, put behind the block. */
struct cold {
	enum {
		COLD_SLOW,
		COLD_GROUP,
		COLD_LINK,     /* a link within the page, not linked */
		COLD_FAR,      /* a jump to another page, and its link */
		COLD_FAR_EXIT, /* a link between pages, not linked */
		COLD_LOOKUP,   /* look T_ADDR up */
		COLD_LEAVE,    /* T_ADDR was not found */
	} kind;
	u8 *from;  /* rel32 that leads here, NULL: none */
	bool rcx;  /* arriving that way, RCX is in T_KEEP */
	bool lost; /* arriving, the flags are not in EFLAGS, but 'recipe' makes them */
	struct recipe recipe;
	struct x87_last x87; /* arriving, x87_pointers() of these are to be made */
	const struct plan *p;
	const struct insn *in;
	u32 start;
	u8 *back;    /* SLOW, GROUP: where to go on */
	i32 site;    /* SLOW: index into sites, -1: none */
	bool seldom; /* ... of the seldom-run parts */
	i64 target;  /* offset from the page; LOOKUP: what is added to RSP */
	bool call;   /* FAR_EXIT: of a call */
	bool drop;   /* LOOKUP: take one from the shadow stack */
	const struct tr_group *group;
	/* SLOW, GROUP: what to do first when it arrives from an access's memo. */
	u32 memo; /* 0: nothing */
	enum mmu_idx idx;
	struct mem_access access;
	bool keep; /* T_ADDR is needed */
	u8 *hit;   /* where T_SLOT is the addend */
};

#define COLD_MAX (TRACE_MAX * 4)

struct front {
	struct translator *t;
	struct emit e; /* the main part; while emit_cold() runs, the seldom-run part */
	struct tr_code *code;
	struct block *b; /* the first of the trace */
	unsigned mode;   /* tr_mode() */
	bool narrow;     /* not 64-bit code */
	bool based;      /* T2b */
	bool low;        /* 16-bit code */
	u16 lo, hi;      /* the part of the page that it is made for */
	bool seldom;     /* emit_cold() runs */
	enum mmu_idx idx;
	bool vec_checked;
	bool lost; /* the flags are not in EFLAGS, but 'recipe' makes them */
	struct recipe recipe;
	struct x87_last x87;
	int in_slot; /* T_SLOT holds the addend of this group; -1: it does not */
	struct plan plan[TRACE_MAX];
	unsigned insns;
	struct group group[GROUP_MAX];
	unsigned groups;
	struct cold cold[COLD_MAX];
	unsigned colds, call_outs;
	struct cold *access; /* of the last memop(): its slow stub, NULL: it has none */
};

/* Not 64-bit code. */
static inline bool is_narrow(const struct insn *in)
{
	return !(in->flags & INSN_MODE64);
}

/* Bytes of a stack slot, in 16-bit code by the operand size. */
static inline i32 slot_size(const struct plan *p)
{
	return p->low ? p->in->opsize : is_narrow(p->in) ? 4 : 8;
}

/* Its operand is a stack slot of the size that the mode has. */
static inline bool is_slot(const struct plan *p)
{
	return p->low ? p->in->opsize == 2 || p->in->opsize == 4
		      : p->in->opsize == slot_size(p);
}

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

/* The address of one that does. */
static inline i32 gpr_slot(const struct emit *e, unsigned guest)
{
	return e->gpr + 8 * (i32)guest;
}

/* ---- plan.c ---- */

void plan_insn(const struct front *f, struct plan *p, const struct insn *in,
	       const u8 *bytes, u32 start);
/* The place of the operand of ModRM in p->acc. False: not a form that is translated. */
bool plan_operand(const struct front *f, struct plan *p);
/* How an access gets to its linear address: the fastest that the segment allows now. */
u8 plan_reach(const struct front *f, unsigned seg, bool low);
/* The access to a slot of the stack, counted from RSP. */
struct mem_access plan_stack(const struct front *f, const struct plan *p, i32 slot,
			     bool write);
/* How many legacy prefixes an instruction begins with. */
unsigned plan_prefixes(const u8 *bytes);

/* ---- narrow.c ---- */

/* Forms of 32-bit and 16-bit code that 64-bit mode encodes otherwise. */
bool narrow_plan(const struct front *f, struct plan *p);
/* Decode an instruction of such code. False: in 64-bit mode its bytes are another. */
bool narrow_decode(struct plan *p, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op);
/* VZEROUPPER of the 8 registers that 32-bit code has. */
void narrow_vzeroupper(struct emit *e);
void narrow_push_flags(struct front *f, const struct plan *p);

/* ---- group.c ---- */

/* Find the accesses that share a check, and where flags are dead. */
void group_accesses(struct front *f);

/* ---- eflags.c ---- */

/* The flags must be in EFLAGS here. */
void eflags_need(struct front *f);
/* May the check of this instruction's access overwrite EFLAGS? Then they are lost from
 * here on. */
bool eflags_lose(struct front *f, const struct plan *p);
/* The instruction has been emitted. */
void eflags_after(struct front *f, const struct plan *p);
/* Emit what makes the flags. Uses T_ADDR and T_SLOT. */
void eflags_make(struct emit *e, const struct recipe *r);

/* ---- memop.c ---- */

/* An operand is at [base + T_SLOT + disp], or at [T_SLOT + disp] when that is 'base'. */
struct operand {
	unsigned base; /* host register */
	i32 disp;
};

/* The access's linear address in T_ADDR; uses T_SLOT. */
void memop_address(struct front *f, const struct mem_access *a);
/* Its offset in the segment. */
void memop_offset(struct front *f, const struct mem_access *a);
/*
 * Check the access, so that it can be made at the operand; on a miss the slow stub of
 * this instruction runs, or that of its group. Uses all scratch registers; f->access is
 * the stub for faults of the access itself.
 */
struct operand memop(struct front *f, const struct plan *p, const struct mem_access *a);
/* Arriving from an access's memo: fill it, and check in the TLB. */
void memop_cold(struct front *f, const struct cold *c);
/* ModRM, SIB and displacement of the operand; 'scaled': no 8-bit displacement (EVEX). */
void memop_emit(struct emit *e, unsigned reg, struct operand o, bool scaled);
/* The REX bits X and B of the operand. */
static inline unsigned memop_rex(struct operand o)
{
	return (o.base == T_SLOT ? 0 : 2u) | o.base >> 3;
}

/* ---- copy.c ---- */

/* Re-encode an instruction that has at most one memory operand. */
void copy_insn(struct front *f, const struct plan *p);

/* ---- branch.c ---- */

/* Is it one of the branches, calls, returns, pushes and pops that are translated? */
bool branch_plan(const struct front *f, struct plan *p);
void branch_insn(struct front *f, const struct plan *p);
/* Go on at this offset from the page. The instruction 'miss' does it where the look-up of
 * another page misses. */
void branch_to(struct front *f, const struct plan *p, const struct insn *miss,
	       i64 target);
void branch_cold(struct front *f, struct cold *c);
/* RSP += by, as wide as the mode's stack is. */
void move_sp(struct front *f, i32 by);

/* ---- system.c ---- */

/* Is it one of the system instructions that are translated? */
bool system_plan(const struct front *f, struct plan *p);
void system_insn(struct front *f, const struct plan *p);

/* ---- string.c ---- */

/* Is it one of the string instructions that are translated? */
bool string_plan(const struct front *f, struct plan *p);
void string_insn(struct front *f, const struct plan *p);

/* ---- segment.c ---- */

/* Is it one of the moves from and to segment registers that are translated? */
bool segment_plan(const struct front *f, struct plan *p);
void segment_insn(struct front *f, const struct plan *p);

/* ---- x87.c ---- */

/* The pointers must be in the vCPU here. */
void x87_need(struct front *f);
/* Emit what puts them there. Uses T_ADDR. */
void x87_pointers(struct front *f, const struct x87_last *x);
/* An instruction of PLAN_COPY has been emitted; its operand was there. */
void x87_after(struct front *f, const struct plan *p, struct operand at);

/* ---- front.c ---- */

struct cold *cold_add(struct front *f, const struct plan *p, u8 *from, bool rcx);
/* Have the interpreter's function execute the instruction of the block that starts at
 * this offset from the page. */
void emit_call_out(struct front *f, const struct insn *in, u32 start);
/* The next instruction emitted may fault on the host: then the slow stub runs. */
void site_add(struct front *f, struct cold *c);
/* mov host, guest register, from wherever it lives. */
void load_guest(struct front *f, unsigned host, unsigned guest);
/* Save RCX, load the word at this address into RCX, and go to the cold stub
 * unless it is 0; RCX is back then. 'wide': of 64 bits, else of 32. */
void check_zero(struct front *f, const struct plan *p, i32 addr, bool wide);
