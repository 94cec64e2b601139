/*
 * Decoded instructions. Zydis decodes, this keeps what execution needs in a form that is
 * quick to use; each instruction is decoded once per code page and mode.
 */
#pragma once

#include "x86/vcpu.h"

struct insn;

/* What executing an instruction says about how to go on. */
enum op_result {
	OP_NEXT,  /* the next instruction of the block */
	OP_JUMP,  /* v->rip was set: find its block */
	OP_FAULT, /* v->fault: deliver, v->rip is made that of the instruction */
	OP_END,   /* as OP_NEXT, but modes or translations may have changed: find the next
		     block anew */
	OP_EXIT,  /* as OP_END, and leave run(): HLT, shutdown */
	OP_AGAIN, /* not finished (REP): the same instruction again, after a look at
		     events */
};

typedef enum op_result op_fn(struct vcpu *v, const struct insn *in);

/* insn.flags */
enum {
	INSN_MEM = 1 << 0, /* has a memory operand in ModRM or moffs */
	INSN_LOCK = 1 << 1,
	INSN_REP = 1 << 2,   /* F3 */
	INSN_REPNE = 1 << 3, /* F2 */
	INSN_MODE64 = 1 << 4,
	INSN_REXW = 1 << 5,
	INSN_OPSIZE = 1 << 6, /* 66 prefix present */
	INSN_VEX = 1 << 7,    /* VEX, EVEX or XOP encoded */
};

struct insn {
	op_fn *fn;
	u64 imm; /* immediate, sign-extended to 64 bits; moffs address; far pointer offset
		  */
	/* RIP-relative: counted from v->rip at the start of the block, so of 33 bits. */
	i64 disp;
	u16 ip_off; /* of this instruction from the start of its block */
	u8 len;
	u8 opsize;      /* effective operand size in bytes: 1, 2, 4, 8 */
	u8 adsize;      /* 2, 4, 8 */
	u8 seg;         /* of the memory operand, overrides applied; ES..GS */
	u8 base, index; /* enum gpr; GPR_RIP, GPR_ZERO */
	u8 scale;       /* shift count 0..3 */
	/*
	 * Register operands: ModRM.reg, and ModRM.rm or the register in the opcode. reg8,
	 * rm8: the same register as an 8-bit operand, as its byte offset in gpr[] (AH is
	 * 1, SPL is 32).
	 */
	u8 reg, rm, reg8, rm8;
	u8 flags;  /* INSN_* */
	u8 opcode; /* the last opcode byte */
	u8 modrm;
	u16 mnemonic; /* ZydisMnemonic */
	u16 imm2;     /* ENTER level, far pointer selector */
	u32 aux;      /* the engine's: index of a native stub or the like */
};

enum decode_status { DECODE_OK, DECODE_UD, DECODE_TOO_LONG, DECODE_MORE };

/*
 * Decode the instruction in bytes[0..len) (len up to 15) for a code size of 2, 4 or 8.
 * Everything but fn, ip_off and aux is filled; disp of a RIP-relative operand is that of
 * the instruction plus its length. 'amd': in 64-bit mode a 66 prefix makes near branches
 * 16-bit ones (APM 3 section 1.2.3), which Intel's CPUs do not know. DECODE_MORE: it goes
 * on behind len. DECODE_TOO_LONG: more than 15 bytes, #GP(0).
 */
enum decode_status decode(const u8 *bytes, unsigned len, unsigned code_size, bool amd,
			  struct insn *in);

/* One line of Intel syntax for reports. 'rip' is its address. Not on a hot path. */
void disassemble(const u8 *bytes, unsigned len, unsigned code_size, u64 rip, char *buf,
		 size_t size);
