/*
 * What the files of the interpreter share: addressing, operands, flags, block ends.
 */
#pragma once

#include "base/bits.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/decode.h"

/* Choose the function for a decoded instruction: by operand size, register or memory
 * form. NULL: #UD. */
typedef op_fn *bind_fn(const struct insn *in);

/* In bind.c, from ops.def: the C function, or NULL when there is none. */
op_fn *bind_insn(const struct insn *in);

/* ---- operands ---- */

static inline u64 ea(const struct vcpu *v, const struct insn *in)
{
	u64 a = v->gpr[in->base] + (v->gpr[in->index] << in->scale) + (u64)in->disp;

	return a & size_mask(in->adsize);
}

static inline u64 reg_get(const struct vcpu *v, unsigned r, unsigned size)
{
	return v->gpr[r] & size_mask(size);
}

/* 16-bit writes keep the upper bits, 32-bit writes clear them. Not for 8-bit registers.
 */
static inline void reg_set(struct vcpu *v, unsigned r, unsigned size, u64 val)
{
	if (size == 8)
		v->gpr[r] = val;
	else if (size == 4)
		v->gpr[r] = (u32)val;
	else
		*(ua16 *)&v->gpr[r] = (u16)val;
}

static inline u8 reg8_get(const struct vcpu *v, unsigned off)
{
	return ((const u8 *)v->gpr)[off];
}

static inline void reg8_set(struct vcpu *v, unsigned off, u64 val)
{
	((u8 *)v->gpr)[off] = (u8)val;
}

/* ModRM.rm of any operand size, register or memory. */
static inline bool rm_read(struct vcpu *v, const struct insn *in, unsigned size, u64 *val)
{
	if (in->flags & INSN_MEM)
		return mem_read(v, in->seg, ea(v, in), size, val);
	*val = size == 1 ? reg8_get(v, in->rm8) : reg_get(v, in->rm, size);
	return true;
}

static inline bool rm_write(struct vcpu *v, const struct insn *in, unsigned size, u64 val)
{
	if (in->flags & INSN_MEM)
		return mem_write(v, in->seg, ea(v, in), size, val);
	if (size == 1)
		reg8_set(v, in->rm8, val);
	else
		reg_set(v, in->rm, size, val);
	return true;
}

static inline u64 r_read(const struct vcpu *v, const struct insn *in, unsigned size)
{
	return size == 1 ? reg8_get(v, in->reg8) : reg_get(v, in->reg, size);
}

static inline void r_write(struct vcpu *v, const struct insn *in, unsigned size, u64 val)
{
	if (size == 1)
		reg8_set(v, in->reg8, val);
	else
		reg_set(v, in->reg, size, val);
}

/* The offset of a far pointer: AMD's CPUs have none of 64 bits (APM 3 CALL, LFS). */
static inline unsigned far_size(const struct vcpu *v, const struct insn *in)
{
	return in->opsize == 8 && cpu_is_amd(v) ? 4 : in->opsize;
}

/* ---- instruction pointer; v->rip is that of the block's first instruction ---- */

static inline u64 this_ip(const struct vcpu *v, const struct insn *in)
{
	return (v->rip + in->ip_off) & ip_mask(v);
}

static inline u64 next_ip(const struct vcpu *v, const struct insn *in)
{
	return (v->rip + in->ip_off + in->len) & ip_mask(v);
}

static inline enum op_result op_done(bool ok)
{
	return likely(ok) ? OP_NEXT : OP_FAULT;
}

/* After an operation that set v->rip itself. */
static inline enum op_result op_jumped(bool ok)
{
	return likely(ok) ? OP_JUMP : OP_FAULT;
}

/* The same for one that may deliver faults itself (a task switch past its point of no
 * return), up to shutdown. */
static inline enum op_result op_transferred(const struct vcpu *v, bool ok)
{
	if (unlikely(!ok))
		return OP_FAULT;
	return likely(v->activity == ACT_RUNNING) ? OP_JUMP : OP_EXIT;
}

/* After an operation that may have changed modes or translations. */
static inline enum op_result op_ended(bool ok)
{
	return likely(ok) ? OP_END : OP_FAULT;
}

static inline enum op_result op_ud(struct vcpu *v)
{
	raise_ud(v);
	return OP_FAULT;
}

static inline enum op_result op_gp0(struct vcpu *v)
{
	raise_gp0(v);
	return OP_FAULT;
}

/* ---- stack ---- */

static inline u64 sp_get(const struct vcpu *v)
{
	return v->gpr[RSP] & size_mask(v->stack_size);
}

static inline void sp_set(struct vcpu *v, u64 sp)
{
	if (v->stack_size == 8)
		v->gpr[RSP] = sp;
	else if (v->stack_size == 4)
		v->gpr[RSP] = (u32)sp;
	else
		*(ua16 *)&v->gpr[RSP] = (u16)sp;
}

static inline bool push(struct vcpu *v, unsigned size, u64 val)
{
	u64 sp = (v->gpr[RSP] - size) & size_mask(v->stack_size);

	if (unlikely(!mem_write(v, SS, sp, size, val)))
		return false;
	sp_set(v, sp);
	return true;
}

/* Read the top without moving the stack pointer, so that a later fault changes nothing.
 */
static inline bool stack_peek(struct vcpu *v, unsigned size, u64 *val)
{
	return mem_read(v, SS, sp_get(v), size, val);
}

static inline bool pop(struct vcpu *v, unsigned size, u64 *val)
{
	if (unlikely(!stack_peek(v, size, val)))
		return false;
	sp_set(v, v->gpr[RSP] + size);
	return true;
}

/* ---- status flags ---- */

/* The host computes the flags: LAHF and SETO take them from the host's EFLAGS into ax. */
static inline u64 cc_from_ax(u32 ax)
{
	return (u64)((ax >> 8 & 0xd5) | (ax & 1) << 11);
}

static inline u32 cc_to_ax(u64 cc)
{
	return (u32)((cc & 0xff) << 8 | (cc >> 11 & 1));
}

/* The sixteen conditions of Jcc, SETcc, CMOVcc (SDM 1 appendix B). */
static inline bool cc_test(u64 cc, unsigned cond)
{
	bool r;

	switch (cond >> 1) {
	case 0: r = cc & RFLAGS_OF; break;
	case 1: r = cc & RFLAGS_CF; break;
	case 2: r = cc & RFLAGS_ZF; break;
	case 3: r = cc & (RFLAGS_CF | RFLAGS_ZF); break;
	case 4: r = cc & RFLAGS_SF; break;
	case 5: r = cc & RFLAGS_PF; break;
	case 6: r = ((cc >> 7) ^ (cc >> 11)) & 1; break;
	default: r = (((cc >> 7) ^ (cc >> 11)) & 1) || (cc & RFLAGS_ZF); break;
	}
	return r ^ (cond & 1);
}
