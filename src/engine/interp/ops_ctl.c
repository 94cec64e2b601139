/*
 * Control transfer: JMP, Jcc, CALL, RET, LOOP, JCXZ, far forms, INT, IRET, BOUND.
 *
 * SDM volume 2. Near targets are cut to the operand size and checked against the code
 * segment (or for being canonical) before anything is changed.
 */
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

#include "x86/except.h"
#include "x86/far.h"

/* Is this a place that may be jumped to? Raises #GP(0) when not. */
static inline bool target_ok(struct vcpu *v, u64 ip)
{
	if (likely(v->code_size == 8))
		return likely(is_canonical(v, ip)) || raise_gp0(v);
	return likely(ip <= v->seg[CS].limit) || raise_gp0(v);
}

static inline enum op_result jump(struct vcpu *v, u64 ip)
{
	if (unlikely(!target_ok(v, ip)))
		return OP_FAULT;
	v->rip = ip;
	return OP_JUMP;
}

static inline u64 relative(const struct vcpu *v, const struct insn *in)
{
	u64 ip = v->rip + in->ip_off + in->len + in->imm;

	/* In 64-bit mode the operand size of near branches is 64 bits, or on AMD 16. */
	if (v->code_size == 8 && in->opsize == 8)
		return ip;
	return ip & size_mask(in->opsize) & ip_mask(v);
}

static enum op_result jmp_rel(struct vcpu *v, const struct insn *in)
{
	return jump(v, relative(v, in));
}

static enum op_result jmp_rm(struct vcpu *v, const struct insn *in)
{
	u64 ip;

	if (unlikely(!rm_read(v, in, in->opsize, &ip)))
		return OP_FAULT;
	return jump(v, ip);
}

/* FF /5, /3: pointer in memory, offset first. */
static bool read_far(struct vcpu *v, const struct insn *in, u16 *sel, u64 *off)
{
	unsigned size = far_size(v, in);
	u64 addr = ea(v, in), s;

	if (!mem_read(v, in->seg, addr, size, off) ||
	    !mem_read(v, in->seg, (addr + size) & size_mask(in->adsize), 2, &s))
		return false;
	*sel = (u16)s;
	return true;
}

static enum op_result jmp_far(struct vcpu *v, const struct insn *in)
{
	u64 off = in->imm & size_mask(in->opsize);
	u16 sel = in->imm2;

	if (in->opcode == 0xff) {
		if (!(in->flags & INSN_MEM))
			return op_ud(v);
		if (!read_far(v, in, &sel, &off))
			return OP_FAULT;
	}
	return op_transferred(v, far_jmp(v, sel, off, far_size(v, in), next_ip(v, in)));
}

op_fn *bind_jmp(const struct insn *in)
{
	if (in->opcode == 0xea || (in->opcode == 0xff && (in->modrm >> 3 & 7) == 5))
		return jmp_far;
	return in->opcode == 0xff ? jmp_rm : jmp_rel;
}

/* Intel's processors store the return address first, and then look at where they go. */
static enum op_result call(struct vcpu *v, const struct insn *in, u64 ip)
{
	u64 sp = (v->gpr[RSP] - in->opsize) & size_mask(v->stack_size);

	/* The target's fault is the one that counts if the stack has none. */
	if (unlikely(!target_ok(v, ip) && cpu_is_amd(v))) {
		mem_probe_write(v, SS, sp, in->opsize);
		return OP_FAULT;
	}
	if (unlikely(!mem_write(v, SS, sp, in->opsize, next_ip(v, in)) ||
		     !target_ok(v, ip)))
		return OP_FAULT;
	sp_set(v, sp);
	v->rip = ip;
	return OP_JUMP;
}

static enum op_result call_rel(struct vcpu *v, const struct insn *in)
{
	return call(v, in, relative(v, in));
}

static enum op_result call_rm(struct vcpu *v, const struct insn *in)
{
	u64 ip;

	if (unlikely(!rm_read(v, in, in->opsize, &ip)))
		return OP_FAULT;
	return call(v, in, ip);
}

static enum op_result call_far(struct vcpu *v, const struct insn *in)
{
	u64 off = in->imm & size_mask(in->opsize);
	u16 sel = in->imm2;

	if (in->opcode == 0xff) {
		if (!(in->flags & INSN_MEM))
			return op_ud(v);
		if (!read_far(v, in, &sel, &off))
			return OP_FAULT;
	}
	return op_transferred(v, far_call(v, sel, off, far_size(v, in), next_ip(v, in)));
}

op_fn *bind_call(const struct insn *in)
{
	if (in->opcode == 0x9a || (in->opcode == 0xff && (in->modrm >> 3 & 7) == 3))
		return call_far;
	return in->opcode == 0xff ? call_rm : call_rel;
}

static enum op_result ret_near(struct vcpu *v, const struct insn *in)
{
	u64 ip;

	if (unlikely(!stack_peek(v, in->opsize, &ip) || !target_ok(v, ip)))
		return OP_FAULT;
	sp_set(v, v->gpr[RSP] + in->opsize + (in->opcode == 0xc2 ? (u16)in->imm : 0));
	v->rip = ip;
	return OP_JUMP;
}

static enum op_result ret_far(struct vcpu *v, const struct insn *in)
{
	return op_transferred(
		v, far_ret(v, in->opsize, in->opcode == 0xca ? (u16)in->imm : 0));
}

op_fn *bind_ret(const struct insn *in)
{
	return in->opcode == 0xca || in->opcode == 0xcb ? ret_far : ret_near;
}

enum op_result op_iret(struct vcpu *v, const struct insn *in)
{
	return op_transferred(v, far_iret(v, in->opsize, next_ip(v, in)));
}

/* ---- conditions: a function for each, so that the test is a constant ---- */

#define DEFINE_JCC(cond)                                                                 \
	static enum op_result jcc_##cond(struct vcpu *v, const struct insn *in)          \
	{                                                                                \
		return cc_test(v->cc, cond) ? jump(v, relative(v, in)) : OP_NEXT;        \
	}

/* clang-format off */
DEFINE_JCC(0) DEFINE_JCC(1) DEFINE_JCC(2) DEFINE_JCC(3)
DEFINE_JCC(4) DEFINE_JCC(5) DEFINE_JCC(6) DEFINE_JCC(7)
DEFINE_JCC(8) DEFINE_JCC(9) DEFINE_JCC(10) DEFINE_JCC(11)
DEFINE_JCC(12) DEFINE_JCC(13) DEFINE_JCC(14) DEFINE_JCC(15)
	/* clang-format on */

	op_fn *bind_jcc(const struct insn *in)
{
	static op_fn *const jcc[16] = { jcc_0,  jcc_1,  jcc_2,  jcc_3, jcc_4,  jcc_5,
					jcc_6,  jcc_7,  jcc_8,  jcc_9, jcc_10, jcc_11,
					jcc_12, jcc_13, jcc_14, jcc_15 };

	return jcc[in->opcode & 15];
}

/* The count register is as wide as the address size. */
enum op_result op_jcxz(struct vcpu *v, const struct insn *in)
{
	if (v->gpr[RCX] & size_mask(in->adsize))
		return OP_NEXT;
	return jump(v, relative(v, in));
}

/* E0 LOOPNE, E1 LOOPE, E2 LOOP. */
enum op_result op_loop(struct vcpu *v, const struct insn *in)
{
	u64 count = (v->gpr[RCX] - 1) & size_mask(in->adsize);
	bool taken = count != 0;
	enum op_result r = OP_NEXT;
	u8 opcode = in->opcode;

	/* To AMD's processors REPE and REPNE say what ZF must be. */
	if (opcode != 0xe2 && (in->flags & (INSN_REP | INSN_REPNE)) && cpu_is_amd(v))
		opcode = in->flags & INSN_REP ? 0xe1 : 0xe0;
	if (opcode == 0xe0)
		taken = taken && !(v->cc & RFLAGS_ZF);
	else if (opcode == 0xe1)
		taken = taken && (v->cc & RFLAGS_ZF);
	if (taken)
		r = jump(v, relative(v, in));
	if (r != OP_FAULT)
		reg_set(v, RCX, in->adsize, count);
	return r;
}

/* ---- software interrupts ---- */

enum op_result op_int(struct vcpu *v, const struct insn *in)
{
	return op_transferred(
		v, except_soft_int(v, (u8)in->imm, SOFT_INT_N, next_ip(v, in)));
}

enum op_result op_int3(struct vcpu *v, const struct insn *in)
{
	return op_transferred(v, except_soft_int(v, VEC_BP, SOFT_INT3, next_ip(v, in)));
}

enum op_result op_int1(struct vcpu *v, const struct insn *in)
{
	return op_transferred(v, except_soft_int(v, VEC_DB, SOFT_INT1, next_ip(v, in)));
}

enum op_result op_into(struct vcpu *v, const struct insn *in)
{
	if (!(v->cc & RFLAGS_OF))
		return OP_NEXT;
	return op_transferred(v, except_soft_int(v, VEC_OF, SOFT_INTO, next_ip(v, in)));
}

enum op_result op_bound(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, shift = 64 - 8 * size;
	u64 addr = ea(v, in), lo, hi = 0;
	bool low;
	i64 index = (i64)(v->gpr[in->reg] << shift) >> shift;

	if (!(in->flags & INSN_MEM))
		return op_ud(v);
	/* Intel: the upper bound is not looked at when the lower one decides. */
	if (!mem_read(v, in->seg, addr, size, &lo))
		return OP_FAULT;
	low = index < (i64)(lo << shift) >> shift;
	if ((!low || cpu_is_amd(v)) &&
	    !mem_read(v, in->seg, (addr + size) & size_mask(in->adsize), size, &hi))
		return OP_FAULT;
	if (low || index > (i64)(hi << shift) >> shift) {
		raise_vec(v, VEC_BR);
		return OP_FAULT;
	}
	return OP_NEXT;
}

enum op_result op_ud2(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_ud(v);
}

enum op_result op_syscall(struct vcpu *v, const struct insn *in)
{
	return op_jumped(sys_syscall(v, next_ip(v, in)));
}

enum op_result op_sysret(struct vcpu *v, const struct insn *in)
{
	return op_jumped(sys_sysret(v, in->opsize));
}

enum op_result op_sysenter(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_jumped(sys_sysenter(v));
}

enum op_result op_sysexit(struct vcpu *v, const struct insn *in)
{
	return op_jumped(sys_sysexit(v, in->opsize));
}
