/*
 * Writing x86-64 instructions.
 *
 * Only what the translator's own code needs; guest instructions are re-encoded
 * from their bytes (front.c). None of these changes flags unless its name is an
 * instruction that does. SDM volume 2 chapter 2.
 */
#pragma once

#include "base/bits.h"

/* Host registers by number. */
enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
};

struct emit {
	u8 *p, *end;    /* where the next byte goes in the writable view, and the limit */
	i64 exec_delta; /* executable address = writable address + exec_delta */
	i32 gpr;        /* address of the guest's general registers */
	bool full;      /* ran into the limit: the code is useless */
};

static inline void e8(struct emit *e, unsigned b)
{
	if (likely(e->p < e->end))
		*e->p++ = (u8)b;
	else
		e->full = true;
}

static inline void e32(struct emit *e, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		e8(e, v >> (8 * i) & 0xff);
}

static inline void e64(struct emit *e, u64 v)
{
	e32(e, (u32)v);
	e32(e, (u32)(v >> 32));
}

static inline u64 emit_exec(const struct emit *e)
{
	return (u64)e->p + (u64)e->exec_delta;
}

/* REX.W opcode with registers: reg, rm. */
static inline void emit_rr(struct emit *e, unsigned opcode, unsigned reg, unsigned rm)
{
	e8(e, 0x48 | (reg >> 3) << 2 | rm >> 3);
	e8(e, opcode);
	e8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov_rr(struct emit *e, unsigned dst, unsigned src)
{
	emit_rr(e, 0x8b, dst, src);
}

/* ModRM and SIB for an address below 2 GiB. */
static inline void emit_at(struct emit *e, unsigned reg, i32 addr)
{
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0x25);
	e32(e, (u32)addr);
}

/* REX.W opcode reg, [addr]. */
static inline void emit_op_at(struct emit *e, unsigned opcode, unsigned reg, i32 addr)
{
	e8(e, 0x48 | (reg >> 3) << 2);
	e8(e, opcode);
	emit_at(e, reg, addr);
}

static inline void emit_load(struct emit *e, unsigned reg, i32 addr)
{
	emit_op_at(e, 0x8b, reg, addr);
}

static inline void emit_store(struct emit *e, unsigned reg, i32 addr)
{
	emit_op_at(e, 0x89, reg, addr);
}

/* REX.W opcode reg, [addr + index*8]. */
static inline void emit_op_index8(struct emit *e, unsigned opcode, unsigned reg,
				  unsigned index, i32 addr)
{
	e8(e, 0x48 | (reg >> 3) << 2 | (index >> 3) << 1);
	e8(e, opcode);
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0xc5 | (index & 7) << 3);
	e32(e, (u32)addr);
}

/* REX.W opcode reg, [addr + index]. */
static inline void emit_op_index1(struct emit *e, unsigned opcode, unsigned reg,
				  unsigned index, i32 addr)
{
	e8(e, 0x48 | (reg >> 3) << 2 | (index >> 3) << 1);
	e8(e, opcode);
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0x05 | (index & 7) << 3);
	e32(e, (u32)addr);
}

/* and reg, imm32, in 32 bits. Changes flags. */
static inline void emit_and_imm(struct emit *e, unsigned reg, u32 imm)
{
	e8(e, 0x40 | reg >> 3);
	e8(e, 0x81);
	e8(e, 0xe0 | (reg & 7));
	e32(e, imm);
}

/* cmp reg, imm32. Changes flags. */
static inline void emit_cmp_imm(struct emit *e, unsigned reg, i32 imm)
{
	e8(e, 0x48 | reg >> 3);
	e8(e, 0x81);
	e8(e, 0xf8 | (reg & 7));
	e32(e, (u32)imm);
}

/* ModRM.mod for a displacement from a base register; RBP and R13 always have one. */
static inline unsigned emit_mod(unsigned base, i32 disp)
{
	if (!disp && (base & 7) != 5)
		return 0;
	return disp == (i8)disp ? 0x40 : 0x80;
}

static inline void emit_disp(struct emit *e, unsigned mod, i32 disp)
{
	if (mod == 0x40)
		e8(e, (u8)disp);
	else if (mod == 0x80)
		e32(e, (u32)disp);
}

/* lea reg, [base + disp]; 64-bit, or 32-bit with a zero-extended result. */
static inline void emit_lea(struct emit *e, bool wide, unsigned reg, unsigned base,
			    i32 disp)
{
	unsigned mod = emit_mod(base, disp);

	e8(e, 0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | base >> 3);
	e8(e, 0x8d);
	e8(e, mod | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		e8(e, 0x24);
	emit_disp(e, mod, disp);
}

/* The same of 16 bits: the upper ones stay. */
static inline void emit_lea16(struct emit *e, unsigned reg, unsigned base, i32 disp)
{
	e8(e, 0x66);
	emit_lea(e, false, reg, base, disp);
}

/* movzx reg, 16 bits of reg */
static inline void emit_movzx16(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, 0x40 | (dst >> 3) << 2 | src >> 3);
	e8(e, 0x0f);
	e8(e, 0xb7);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

/* mov reg, reg of 2 or 4 bytes. */
static inline void emit_mov_sized(struct emit *e, unsigned size, unsigned dst,
				  unsigned src)
{
	if (size == 2)
		e8(e, 0x66);
	e8(e, 0x40 | (dst >> 3) << 2 | src >> 3);
	e8(e, 0x8b);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

/* not reg */
static inline void emit_not(struct emit *e, unsigned reg)
{
	e8(e, 0x48 | reg >> 3);
	e8(e, 0xf7);
	e8(e, 0xd0 | (reg & 7));
}

/* lea reg, [rsp + disp8] */
static inline void emit_lea_rsp(struct emit *e, unsigned reg, i8 disp)
{
	e8(e, 0x48 | (reg >> 3) << 2);
	e8(e, 0x8d);
	e8(e, 0x44 | (reg & 7) << 3);
	e8(e, 0x24);
	e8(e, (u8)disp);
}

/* mov reg, [rsp + 8] */
static inline void emit_load_rsp8(struct emit *e, unsigned reg)
{
	e8(e, 0x48 | (reg >> 3) << 2);
	e8(e, 0x8b);
	e8(e, 0x44 | (reg & 7) << 3);
	e8(e, 0x24);
	e8(e, 8);
}

#define NO_REG 0xff

/* lea reg, [base + index << scale + disp]; base may be NO_REG; index is never rsp. */
static inline void emit_lea_sib(struct emit *e, bool wide, unsigned reg, unsigned base,
				unsigned index, unsigned scale, i32 disp)
{
	unsigned b = base == NO_REG ? 5 : base;
	unsigned mod = base == NO_REG ? 0 : emit_mod(base, disp);

	e8(e, 0x40 | (wide ? 8 : 0) | (reg >> 3) << 2 | (index >> 3) << 1 | b >> 3);
	e8(e, 0x8d);
	e8(e, mod | (reg & 7) << 3 | 4);
	e8(e, scale << 6 | (index & 7) << 3 | (b & 7));
	if (base == NO_REG)
		e32(e, (u32)disp);
	else
		emit_disp(e, mod, disp);
}

/* mov reg, imm: the shortest that zero- or sign-extends to it. */
static inline void emit_mov_imm(struct emit *e, unsigned reg, u64 imm)
{
	if (imm == (u32)imm) {
		if (reg >> 3)
			e8(e, 0x41);
		e8(e, 0xb8 | (reg & 7));
		e32(e, (u32)imm);
	} else {
		e8(e, 0x48 | reg >> 3);
		e8(e, 0xb8 | (reg & 7));
		e64(e, imm);
	}
}

/* Three-byte VEX, L0, W1 if 'wide': map 2 is 0F38, 3 is 0F3A; pp 2 is F3, 3 is F2. */
static inline void emit_vex_sized(struct emit *e, bool wide, unsigned map, unsigned pp,
				  unsigned opcode, unsigned reg, unsigned vvvv,
				  unsigned rm_high)
{
	e8(e, 0xc4);
	e8(e, (reg >> 3 ? 0 : 0x80) | 0x40 | (rm_high ? 0 : 0x20) | map);
	e8(e, (wide ? 0x80 : 0) | (~vvvv & 15) << 3 | pp);
	e8(e, opcode);
}

static inline void emit_vex(struct emit *e, unsigned map, unsigned pp, unsigned opcode,
			    unsigned reg, unsigned vvvv, unsigned rm_high)
{
	emit_vex_sized(e, true, map, pp, opcode, reg, vvvv, rm_high);
}

/* pext dst, src, [addr]: the bits of src that the mask has. BMI2. */
static inline void emit_pext(struct emit *e, unsigned dst, unsigned src, i32 addr)
{
	emit_vex(e, 2, 2, 0xf5, dst, src, 0);
	emit_at(e, dst, addr);
}

/* pdep dst, src, [addr]: the low bits of src to where the mask has bits. BMI2. */
static inline void emit_pdep(struct emit *e, unsigned dst, unsigned src, i32 addr)
{
	emit_vex(e, 2, 3, 0xf5, dst, src, 0);
	emit_at(e, dst, addr);
}

/* sarx dst, src, count: of 64 bits, or of 32 with a zero-extended result. BMI2. */
static inline void emit_sarx(struct emit *e, bool wide, unsigned dst, unsigned src,
			     unsigned count)
{
	emit_vex_sized(e, wide, 2, 2, 0xf7, dst, count, src >> 3);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
}

/* The same of what is at 'addr'. */
static inline void emit_sarx_at(struct emit *e, bool wide, unsigned dst, i32 addr,
				unsigned count)
{
	emit_vex_sized(e, wide, 2, 2, 0xf7, dst, count, 0);
	emit_at(e, dst, addr);
}

/* movsxd dst, src */
static inline void emit_movsxd(struct emit *e, unsigned dst, unsigned src)
{
	emit_rr(e, 0x63, dst, src);
}

/* rorx dst, src, count. BMI2. */
static inline void emit_rorx(struct emit *e, unsigned dst, unsigned src, unsigned count)
{
	emit_vex(e, 3, 3, 0xf0, dst, 0, src >> 3);
	e8(e, 0xc0 | (dst & 7) << 3 | (src & 7));
	e8(e, count);
}

/* jmp rel32 to an executable address; returns where the displacement is. */
static inline u8 *emit_jmp(struct emit *e, u64 target)
{
	u8 *at;

	e8(e, 0xe9);
	at = e->p;
	e32(e, (u32)(target - emit_exec(e) - 4));
	return at;
}

/* jcc rel32 to be filled in with emit_patch(). */
static inline u8 *emit_jcc(struct emit *e, unsigned cond)
{
	u8 *at;

	e8(e, 0x0f);
	e8(e, 0x80 | cond);
	at = e->p;
	e32(e, 0);
	return at;
}

/* jrcxz over the next 'skip' bytes. */
static inline void emit_jrcxz(struct emit *e, unsigned skip)
{
	e8(e, 0xe3);
	e8(e, skip);
}

/* call rel32, as emit_jmp(). */
static inline u8 *emit_call(struct emit *e, u64 target)
{
	u8 *at;

	e8(e, 0xe8);
	at = e->p;
	e32(e, (u32)(target - emit_exec(e) - 4));
	return at;
}

/* Make the rel32 at 'at' lead to the writable address 'to' of the same view. */
static inline void emit_patch(u8 *at, const u8 *to)
{
	le_store(at, (u64)(to - (at + 4)), 4);
}

/* jcc and jmp rel8 to be filled in with emit_patch_short(). */
static inline u8 *emit_jcc_short(struct emit *e, unsigned cond)
{
	u8 *at;

	e8(e, 0x70 | cond);
	at = e->p;
	e8(e, 0);
	return at;
}

static inline u8 *emit_jmp_short(struct emit *e)
{
	u8 *at;

	e8(e, 0xeb);
	at = e->p;
	e8(e, 0);
	return at;
}

/* The jump leads here, which is at most 127 bytes behind it. */
static inline void emit_patch_short(const struct emit *e, u8 *at)
{
	if (!e->full)
		*at = (u8)(e->p - (at + 1));
}

/* sub qword [addr], 1. Changes flags. */
static inline void emit_dec_at(struct emit *e, i32 addr)
{
	e8(e, 0x48);
	e8(e, 0x83);
	emit_at(e, 5, addr);
	e8(e, 1);
}
