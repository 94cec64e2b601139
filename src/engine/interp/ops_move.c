/*
 * Moving data: MOV, MOVZX, MOVSX, LEA, XCHG, PUSH, POP, CMOVcc, SETcc, BSWAP,
 * conversions, ENTER and LEAVE, segment register moves.
 *
 * SDM volume 2. The forms of MOV are functions of their own, by size, as they are a third
 * of all instructions.
 */
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

#include "x86/seg.h"

/* ---- MOV ---- */

#define DEFINE_MOV(T, size)                                                              \
	static enum op_result mov_rm_r_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		if (size == 1)                                                           \
			reg8_set(v, in->rm8, reg8_get(v, in->reg8));                     \
		else                                                                     \
			reg_set(v, in->rm, size, v->gpr[in->reg]);                       \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result mov_r_rm_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		if (size == 1)                                                           \
			reg8_set(v, in->reg8, reg8_get(v, in->rm8));                     \
		else                                                                     \
			reg_set(v, in->reg, size, v->gpr[in->rm]);                       \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result mov_m_r_##T(struct vcpu *v, const struct insn *in)         \
	{                                                                                \
		return op_done(                                                          \
			mem_write(v, in->seg, ea(v, in), size, r_read(v, in, size)));    \
	}                                                                                \
	static enum op_result mov_r_m_##T(struct vcpu *v, const struct insn *in)         \
	{                                                                                \
		u64 val;                                                                 \
		if (unlikely(!mem_read(v, in->seg, ea(v, in), size, &val)))              \
			return OP_FAULT;                                                 \
		r_write(v, in, size, val);                                               \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result mov_rm_i_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		if (size == 1)                                                           \
			reg8_set(v, in->rm8, in->imm);                                   \
		else                                                                     \
			reg_set(v, in->rm, size, in->imm);                               \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result mov_m_i_##T(struct vcpu *v, const struct insn *in)         \
	{                                                                                \
		return op_done(mem_write(v, in->seg, ea(v, in), size, in->imm));         \
	}

DEFINE_MOV(u8, 1)
DEFINE_MOV(u16, 2)
DEFINE_MOV(u32, 4)
DEFINE_MOV(u64, 8)

/* A0 to A3: the address is in the instruction. */
static enum op_result mov_acc_moffs(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (!mem_read(v, in->seg, in->imm, in->opsize, &val))
		return OP_FAULT;
	if (in->opsize == 1)
		reg8_set(v, 0, val);
	else
		reg_set(v, RAX, in->opsize, val);
	return OP_NEXT;
}

static enum op_result mov_moffs_acc(struct vcpu *v, const struct insn *in)
{
	return op_done(mem_write(v, in->seg, in->imm, in->opsize,
				 v->gpr[RAX] & size_mask(in->opsize)));
}

/* 8C: the selector, zero-extended to a register, 16 bits to memory. */
static enum op_result mov_rm_sreg(struct vcpu *v, const struct insn *in)
{
	unsigned sreg = in->modrm >> 3 & 7;

	if (sreg > GS)
		return op_ud(v);
	if (in->flags & INSN_MEM)
		return op_done(mem_write(v, in->seg, ea(v, in), 2, v->seg[sreg].sel));
	reg_set(v, in->rm, in->opsize, v->seg[sreg].sel);
	return OP_NEXT;
}

/* After a load of SS nothing may interrupt before the next instruction, which loads RSP.
 */
static enum op_result sreg_loaded(struct vcpu *v, unsigned sreg, bool ok)
{
	if (!ok)
		return OP_FAULT;
	if (sreg == SS)
		v->shadow |= SHADOW_MOVSS;
	return OP_END;
}

static enum op_result mov_sreg_rm(struct vcpu *v, const struct insn *in)
{
	unsigned sreg = in->modrm >> 3 & 7;
	u64 sel;

	if (sreg > GS || sreg == CS)
		return op_ud(v);
	if (!rm_read(v, in, 2, &sel))
		return OP_FAULT;
	return sreg_loaded(v, sreg, seg_load(v, sreg, (u16)sel));
}

op_fn *bind_mov(const struct insn *in)
{
#define SIZES(form)                                                                      \
	{                                                                                \
		mov_##form##_u8, mov_##form##_u16, mov_##form##_u32, mov_##form##_u64    \
	}
	static op_fn *const rm_r[4] = SIZES(rm_r), *const m_r[4] = SIZES(m_r);
	static op_fn *const r_rm[4] = SIZES(r_rm), *const r_m[4] = SIZES(r_m);
	static op_fn *const rm_i[4] = SIZES(rm_i), *const m_i[4] = SIZES(m_i);
#undef SIZES
	unsigned i = (unsigned)__builtin_ctz(in->opsize);
	bool mem = in->flags & INSN_MEM;

	switch (in->opcode) {
	case 0x88:
	case 0x89: return mem ? m_r[i] : rm_r[i];
	case 0x8a:
	case 0x8b: return mem ? r_m[i] : r_rm[i];
	case 0x8c: return mov_rm_sreg;
	case 0x8e: return mov_sreg_rm;
	case 0xa0:
	case 0xa1: return mov_acc_moffs;
	case 0xa2:
	case 0xa3: return mov_moffs_acc;
	case 0xc6:
	case 0xc7: return mem ? m_i[i] : rm_i[i];
	case 0x20: return op_mov_from_cr;
	case 0x21: return op_mov_from_dr;
	case 0x22: return op_mov_to_cr;
	case 0x23: return op_mov_to_dr;
	default: return in->opcode >= 0xb0 && in->opcode <= 0xbf ? rm_i[i] : NULL;
	}
}

/* ---- MOVZX, MOVSX, MOVSXD ---- */

#define DEFINE_EXTEND(name, S, size, cast)                                               \
	static enum op_result name##_##S##_r(struct vcpu *v, const struct insn *in)      \
	{                                                                                \
		u64 val = size == 1 ? reg8_get(v, in->rm8) : v->gpr[in->rm];             \
		reg_set(v, in->reg, in->opsize, (u64)(cast)(S)val);                      \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result name##_##S##_m(struct vcpu *v, const struct insn *in)      \
	{                                                                                \
		u64 val;                                                                 \
		if (unlikely(!mem_read(v, in->seg, ea(v, in), size, &val)))              \
			return OP_FAULT;                                                 \
		reg_set(v, in->reg, in->opsize, (u64)(cast)(S)val);                      \
		return OP_NEXT;                                                          \
	}

DEFINE_EXTEND(movzx, u8, 1, u64)
DEFINE_EXTEND(movzx, u16, 2, u64)
DEFINE_EXTEND(movsx, i8, 1, i64)
DEFINE_EXTEND(movsx, i16, 2, i64)
DEFINE_EXTEND(movsx, i32, 4, i64)

op_fn *bind_movzx(const struct insn *in)
{
	bool mem = in->flags & INSN_MEM;

	if (in->opcode & 1)
		return mem ? movzx_u16_m : movzx_u16_r;
	return mem ? movzx_u8_m : movzx_u8_r;
}

op_fn *bind_movsx(const struct insn *in)
{
	bool mem = in->flags & INSN_MEM;

	if (in->opcode & 1)
		return mem ? movsx_i16_m : movsx_i16_r;
	return mem ? movsx_i8_m : movsx_i8_r;
}

/* With 16 bits it is a MOV; AMD's processors read four bytes for it. */
static enum op_result movsxd_16_m(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (!mem_read(v, in->seg, ea(v, in), cpu_is_amd(v) ? 4 : 2, &val))
		return OP_FAULT;
	reg_set(v, in->reg, 2, val);
	return OP_NEXT;
}

op_fn *bind_movsxd(const struct insn *in)
{
	if (in->opsize == 2)
		return in->flags & INSN_MEM ? movsxd_16_m : movsx_i16_r;
	return in->flags & INSN_MEM ? movsx_i32_m : movsx_i32_r;
}

/* CBW, CWDE, CDQE; CWD, CDQ, CQO. */
enum op_result op_cbw(struct vcpu *v, const struct insn *in)
{
	switch (in->opsize) {
	case 2: reg_set(v, RAX, 2, (u64)(i8)v->gpr[RAX]); break;
	case 4: reg_set(v, RAX, 4, (u64)(i16)v->gpr[RAX]); break;
	default: v->gpr[RAX] = (u64)(i32)v->gpr[RAX]; break;
	}
	return OP_NEXT;
}

enum op_result op_cwd(struct vcpu *v, const struct insn *in)
{
	u64 sign = v->gpr[RAX] >> (8 * in->opsize - 1) & 1;

	reg_set(v, RDX, in->opsize, sign ? ~UINT64_C(0) : 0);
	return OP_NEXT;
}

/* ---- LEA, BSWAP, XCHG ---- */

static enum op_result lea(struct vcpu *v, const struct insn *in)
{
	reg_set(v, in->reg, in->opsize, ea(v, in));
	return OP_NEXT;
}

static enum op_result lea64(struct vcpu *v, const struct insn *in)
{
	v->gpr[in->reg] =
		v->gpr[in->base] + (v->gpr[in->index] << in->scale) + (u64)in->disp;
	return OP_NEXT;
}

op_fn *bind_lea(const struct insn *in)
{
	return in->opsize == 8 && in->adsize == 8 ? lea64 : lea;
}

enum op_result op_bswap(struct vcpu *v, const struct insn *in)
{
	switch (in->opsize) {
	case 8: v->gpr[in->rm] = __builtin_bswap64(v->gpr[in->rm]); break;
	case 4: v->gpr[in->rm] = __builtin_bswap32((u32)v->gpr[in->rm]); break;
	/* Undefined; processors give zero. */
	default: reg_set(v, in->rm, 2, 0); break;
	}
	return OP_NEXT;
}

enum op_result op_movbe(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 val;

	if (!cpu_has(v, FEAT_MOVBE))
		return op_ud(v);
	if (in->opcode == 0xf0) {
		if (!mem_read(v, in->seg, ea(v, in), size, &val))
			return OP_FAULT;
		reg_set(v, in->reg, size, __builtin_bswap64(val) >> (64 - 8 * size));
		return OP_NEXT;
	}
	val = __builtin_bswap64(reg_get(v, in->reg, size)) >> (64 - 8 * size);
	return op_done(mem_write(v, in->seg, ea(v, in), size, val));
}

/* With memory XCHG is locked without a prefix. */
enum op_result op_xchg(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	struct rmw m;
	u64 a;

	if (!(in->flags & INSN_MEM)) {
		/* 90 to 97: with the accumulator. */
		if (in->opcode >= 0x90) {
			a = reg_get(v, RAX, size);
			reg_set(v, RAX, size, v->gpr[in->rm]);
			reg_set(v, in->rm, size, a);
		} else {
			u64 b = r_read(v, in, size);

			rm_read(v, in, size, &a);
			r_write(v, in, size, a);
			rm_write(v, in, size, b);
		}
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), size, &m))
		return OP_FAULT;
	a = r_read(v, in, size);
	switch (size) {
	case 1: a = __atomic_exchange_n((u8 *)m.p, (u8)a, __ATOMIC_SEQ_CST); break;
	case 2: __asm__ volatile("xchgw %w0, %1" : "+r"(a), "+m"(*(ua16 *)m.p)); break;
	case 4: __asm__ volatile("xchgl %k0, %1" : "+r"(a), "+m"(*(ua32 *)m.p)); break;
	default: __asm__ volatile("xchgq %0, %1" : "+r"(a), "+m"(*(ua64 *)m.p)); break;
	}
	rmw_end(v, &m);
	r_write(v, in, size, a);
	return OP_NEXT;
}

/* ---- CMOVcc, SETcc ---- */

enum op_result op_cmov(struct vcpu *v, const struct insn *in)
{
	u64 val;

	/* The source is read whatever the condition says, and the upper half cleared. */
	if (!rm_read(v, in, in->opsize, &val))
		return OP_FAULT;
	if (cc_test(v->cc, in->opcode & 15))
		reg_set(v, in->reg, in->opsize, val);
	else if (in->opsize == 4)
		v->gpr[in->reg] = (u32)v->gpr[in->reg];
	return OP_NEXT;
}

enum op_result op_setcc(struct vcpu *v, const struct insn *in)
{
	return op_done(rm_write(v, in, 1, cc_test(v->cc, in->opcode & 15)));
}

/* ---- stack ---- */

static enum op_result push_r(struct vcpu *v, const struct insn *in)
{
	return op_done(push(v, in->opsize, reg_get(v, in->rm, in->opsize)));
}

static enum op_result push_i(struct vcpu *v, const struct insn *in)
{
	return op_done(push(v, in->opsize, in->imm & size_mask(in->opsize)));
}

static enum op_result push_m(struct vcpu *v, const struct insn *in)
{
	u64 val;

	return op_done(rm_read(v, in, in->opsize, &val) && push(v, in->opsize, val));
}

static unsigned opcode_sreg(const struct insn *in)
{
	switch (in->opcode) {
	case 0x06:
	case 0x07: return ES;
	case 0x0e: return CS;
	case 0x16:
	case 0x17: return SS;
	case 0x1e:
	case 0x1f: return DS;
	case 0xa0:
	case 0xa1: return FS;
	default: return GS;
	}
}

/* A 32-bit push of a selector writes 16 bits and leaves the others, as Intel's processors
 * do. */
static enum op_result push_sreg(struct vcpu *v, const struct insn *in)
{
	u16 sel = v->seg[opcode_sreg(in)].sel;
	u64 sp = (v->gpr[RSP] - in->opsize) & size_mask(v->stack_size);

	if (in->opsize == 8 || cpu_is_amd(v))
		return op_done(push(v, in->opsize, sel));
	if (!mem_write(v, SS, sp, 2, sel))
		return OP_FAULT;
	sp_set(v, sp);
	return OP_NEXT;
}

op_fn *bind_push(const struct insn *in)
{
	switch (in->opcode) {
	case 0x68:
	case 0x6a: return push_i;
	case 0xff: return in->flags & INSN_MEM ? push_m : push_r;
	default: return in->opcode >= 0x50 && in->opcode <= 0x57 ? push_r : push_sreg;
	}
}

static enum op_result pop_r(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (unlikely(!pop(v, in->opsize, &val)))
		return OP_FAULT;
	reg_set(v, in->rm, in->opsize, val);
	return OP_NEXT;
}

/* The address is computed with the stack pointer already moved (SDM POP). */
static enum op_result pop_m(struct vcpu *v, const struct insn *in)
{
	u64 old = v->gpr[RSP], val;

	if (!pop(v, in->opsize, &val))
		return OP_FAULT;
	if (mem_write(v, in->seg, ea(v, in), in->opsize, val))
		return OP_NEXT;
	v->gpr[RSP] = old;
	return OP_FAULT;
}

static enum op_result pop_sreg(struct vcpu *v, const struct insn *in)
{
	unsigned sreg = opcode_sreg(in);
	u64 sel;

	if (!stack_peek(v, cpu_is_amd(v) ? in->opsize : 2, &sel) ||
	    !seg_load(v, sreg, (u16)sel))
		return OP_FAULT;
	sp_set(v, v->gpr[RSP] + in->opsize);
	return sreg_loaded(v, sreg, true);
}

op_fn *bind_pop(const struct insn *in)
{
	if (in->opcode == 0x8f)
		return in->flags & INSN_MEM ? pop_m : pop_r;
	return in->opcode >= 0x58 && in->opcode <= 0x5f ? pop_r : pop_sreg;
}

enum op_result op_pusha(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 sp = v->gpr[RSP], mask = size_mask(v->stack_size);

	/* Every slot is checked before the first is written. */
	for (unsigned i = 1; i <= 8; i++)
		if (!mem_probe_write(v, SS, (sp - i * size) & mask, size))
			return OP_FAULT;
	for (unsigned i = 0; i < 8; i++)
		if (!mem_write(v, SS, (sp - (i + 1) * size) & mask, size,
			       (i == RSP ? sp : v->gpr[i]) & size_mask(size)))
			return OP_FAULT;
	sp_set(v, sp - 8 * size);
	return OP_NEXT;
}

enum op_result op_popa(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 sp = v->gpr[RSP], mask = size_mask(v->stack_size), val[8];

	for (unsigned i = 0; i < 8; i++)
		if (!mem_read(v, SS, (sp + i * size) & mask, size, &val[i]))
			return OP_FAULT;
	for (unsigned i = 0; i < 8; i++)
		if (7 - i != RSP)
			reg_set(v, 7 - i, size, val[i]);
	sp_set(v, sp + 8 * size);
	return OP_NEXT;
}

/* The check of the new top is for an operand, but nothing is stored. */
static bool stack_aligned(struct vcpu *v, u64 sp, unsigned size)
{
	gva_t lin = sp + (v->code_size == 8 ? 0 : v->seg[SS].base);

	return !v->ac_check || !(lin & (size - 1)) || raise_err(v, VEC_AC, 0);
}

enum op_result op_enter(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, level = in->imm2 & 31;
	u64 mask = size_mask(v->stack_size), frame_mask = mask;
	u64 sp = v->gpr[RSP], bp = v->gpr[RBP], frame, val;
	u64 last = (sp - size - (level ? level * size : 0) - (u16)in->imm) & mask;

	/* The manual wants the new top writable before anything is changed. */
	frame = (sp - size) & mask;
	if (!stack_aligned(v, frame, size) || !stack_aligned(v, last, size) ||
	    !mem_probe_write(v, SS, frame, size) || !mem_probe_write(v, SS, last, 1))
		return OP_FAULT;
	if (!mem_write(v, SS, frame, size, bp & size_mask(size)))
		return OP_FAULT;
	sp = frame;
	for (unsigned i = 1; i < level; i++) {
		bp -= size;
		sp = (sp - size) & mask;
		if (!mem_read(v, SS, bp & frame_mask, size, &val) ||
		    !mem_write(v, SS, sp, size, val))
			return OP_FAULT;
	}
	if (level) {
		sp = (sp - size) & mask;
		if (!mem_write(v, SS, sp, size, frame & size_mask(size)))
			return OP_FAULT;
	}
	reg_set(v, RBP, size, frame);
	sp_set(v, sp - (u16)in->imm);
	return OP_NEXT;
}

enum op_result op_leave(struct vcpu *v, const struct insn *in)
{
	u64 bp = v->gpr[RBP] & size_mask(v->stack_size), val;

	if (unlikely(!mem_read(v, SS, bp, in->opsize, &val)))
		return OP_FAULT;
	sp_set(v, bp + in->opsize);
	reg_set(v, RBP, in->opsize, val);
	return OP_NEXT;
}

/* LES, LDS, LSS, LFS, LGS. */
static enum op_result load_far(struct vcpu *v, const struct insn *in, unsigned sreg)
{
	unsigned size = far_size(v, in);
	u64 addr = ea(v, in), off, sel;

	if (!(in->flags & INSN_MEM))
		return op_ud(v);
	if (!mem_read(v, in->seg, addr, size, &off) ||
	    !mem_read(v, in->seg, (addr + size) & size_mask(in->adsize), 2, &sel) ||
	    !seg_load(v, sreg, (u16)sel))
		return OP_FAULT;
	reg_set(v, in->reg, size, off);
	return OP_END;
}

enum op_result op_les(struct vcpu *v, const struct insn *in)
{
	return load_far(v, in, ES);
}
enum op_result op_lds(struct vcpu *v, const struct insn *in)
{
	return load_far(v, in, DS);
}
enum op_result op_lss(struct vcpu *v, const struct insn *in)
{
	return load_far(v, in, SS);
}
enum op_result op_lfs(struct vcpu *v, const struct insn *in)
{
	return load_far(v, in, FS);
}
enum op_result op_lgs(struct vcpu *v, const struct insn *in)
{
	return load_far(v, in, GS);
}

enum op_result op_nop(struct vcpu *v, const struct insn *in)
{
	(void)v;
	(void)in;
	return OP_NEXT;
}

/* 0F 0D with a register: APM 3 PREFETCH. */
static enum op_result nop_0d(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return cpu_is_amd(v) ? op_ud(v) : OP_NEXT;
}

op_fn *bind_nop(const struct insn *in)
{
	return in->opcode == 0x0d && in->modrm >= 0xc0 ? nop_0d : op_nop;
}

/* XLAT: the byte at (R/E)BX + AL. */
enum op_result op_xlat(struct vcpu *v, const struct insn *in)
{
	u64 off = (v->gpr[RBX] + (u8)v->gpr[RAX]) & size_mask(in->adsize), val;

	if (!mem_read(v, in->seg, off, 1, &val))
		return OP_FAULT;
	reg8_set(v, 0, val);
	return OP_NEXT;
}

/* LAHF, SAHF. */
enum op_result op_lahf(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (in_64bit(v) && !cpu_has(v, FEAT_LAHF_LM))
		return op_ud(v);
	reg8_set(v, 1, (v->cc & 0xd5) | 2);
	return OP_NEXT;
}

enum op_result op_sahf(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (in_64bit(v) && !cpu_has(v, FEAT_LAHF_LM))
		return op_ud(v);
	v->cc = (v->cc & RFLAGS_OF) | (reg8_get(v, 1) & 0xd5);
	return OP_NEXT;
}

enum op_result op_clc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	v->cc &= ~(u64)RFLAGS_CF;
	return OP_NEXT;
}

enum op_result op_stc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	v->cc |= RFLAGS_CF;
	return OP_NEXT;
}

enum op_result op_cmc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	v->cc ^= RFLAGS_CF;
	return OP_NEXT;
}

enum op_result op_cld(struct vcpu *v, const struct insn *in)
{
	(void)in;
	v->flags &= ~(u64)RFLAGS_DF;
	return OP_NEXT;
}

enum op_result op_std(struct vcpu *v, const struct insn *in)
{
	(void)in;
	v->flags |= RFLAGS_DF;
	return OP_NEXT;
}

/* SALC, undocumented: AL = CF ? ff : 0. */
enum op_result op_salc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	reg8_set(v, 0, v->cc & RFLAGS_CF ? 0xff : 0);
	return OP_NEXT;
}
