/*
 * ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT: the two-operand group
 * and its relatives.
 *
 * SDM volume 2. Each operation runs as itself on the host, so flags are the processor's
 * own. The functions are made by macros: operation x size x operand form, because this is
 * where an interpreter spends its time.
 * A LOCK prefix makes the host instruction locked as well: on guest RAM itself that is
 * atomic against other virtual CPUs.
 */
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

/* Operation on two values: result in 'a', new flags in v->cc. ADC and SBB take CF in. */
#define ALU(T, text, a, b)                                                               \
	do {                                                                             \
		u32 ax_;                                                                 \
		__asm__(text " %2, %0\n\tlahf\n\tseto %%al"                              \
			: "+r"(a), "=&a"(ax_)                                            \
			: "r"((T)(b))                                                    \
			: "cc");                                                         \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

#define ALU_CF(T, text, a, b)                                                            \
	do {                                                                             \
		u32 ax_;                                                                 \
		__asm__("btl $0, %k3\n\t" text " %2, %0\n\tlahf\n\tseto %%al"            \
			: "+r"(a), "=&a"(ax_)                                            \
			: "r"((T)(b)), "r"(v->cc)                                        \
			: "cc");                                                         \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

/* The same on memory, locked. */
#define ALU_LOCKED(T, text, p, b)                                                        \
	do {                                                                             \
		u32 ax_;                                                                 \
		__asm__ volatile("lock " text " %2, %0\n\tlahf\n\tseto %%al"             \
				 : "+m"(*(T *)(p)), "=&a"(ax_)                           \
				 : "r"((T)(b))                                           \
				 : "cc", "memory");                                      \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

#define ALU_CF_LOCKED(T, text, p, b)                                                     \
	do {                                                                             \
		u32 ax_;                                                                 \
		__asm__ volatile("btl $0, %k3\n\tlock " text                             \
				 " %2, %0\n\tlahf\n\tseto %%al"                          \
				 : "+m"(*(T *)(p)), "=&a"(ax_)                           \
				 : "r"((T)(b)), "r"(v->cc)                               \
				 : "cc", "memory");                                      \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

/* Register operands of a type, without masks. */
#define GPR_u8(r)     (*((u8 *)v->gpr + in->r##8))
#define GPR_u16(r)    (*(ua16 *)&v->gpr[in->r])
#define GPR_u32(r)    (*(ua32 *)&v->gpr[in->r])
#define GPR_u64(r)    (v->gpr[in->r])
#define SET_u8(r, x)  (GPR_u8(r) = (x))
#define SET_u16(r, x) (GPR_u16(r) = (x))
#define SET_u32(r, x) (v->gpr[in->r] = (u32)(x))
#define SET_u64(r, x) (v->gpr[in->r] = (x))

#define READ_MEM(T, var)                                                                 \
	T var;                                                                           \
	u64 var##_raw;                                                                   \
	if (unlikely(!mem_read(v, in->seg, ea(v, in), sizeof(T), &var##_raw)))           \
		return OP_FAULT;                                                         \
	var = (T)var##_raw

/* rm op= source; memory through rmw so that faults and LOCK are right. */
#define DEFINE_MEM_FORM(name, T, DO, LOCKED, text, source)                               \
	{                                                                                \
		struct rmw m;                                                            \
		if (unlikely(!rmw_begin(v, in->seg, ea(v, in), sizeof(T), &m)))          \
			return OP_FAULT;                                                 \
		if (in->flags & INSN_LOCK) {                                             \
			LOCKED(T, text, m.p, source);                                    \
		} else {                                                                 \
			T a = (T)le_load(m.p, sizeof(T));                                \
			DO(T, text, a, source);                                          \
			le_store(m.p, a, sizeof(T));                                     \
		}                                                                        \
		rmw_end(v, &m);                                                          \
		return OP_NEXT;                                                          \
	}

#define DEFINE_ALU_SIZE(op, T, DO, LOCKED, text)                                         \
	static enum op_result op##_rm_r_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(rm);                                                       \
		DO(T, text, a, GPR_##T(reg));                                            \
		SET_##T(rm, a);                                                          \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_m_r_##T(struct vcpu *v, const struct insn *in)        \
		DEFINE_MEM_FORM(op, T, DO, LOCKED, text,                                 \
				GPR_##T(reg)) static enum op_result                      \
			op##_r_m_##T(struct vcpu *v, const struct insn *in)              \
	{                                                                                \
		READ_MEM(T, b);                                                          \
		T a = GPR_##T(reg);                                                      \
		DO(T, text, a, b);                                                       \
		SET_##T(reg, a);                                                         \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_r_rm_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(reg);                                                      \
		DO(T, text, a, GPR_##T(rm));                                             \
		SET_##T(reg, a);                                                         \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_rm_i_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(rm);                                                       \
		DO(T, text, a, in->imm);                                                 \
		SET_##T(rm, a);                                                          \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_m_i_##T(struct vcpu *v, const struct insn *in)        \
		DEFINE_MEM_FORM(op, T, DO, LOCKED, text, in->imm) static enum op_result  \
			op##_a_i_##T(struct vcpu *v, const struct insn *in)              \
	{                                                                                \
		T a = (T)v->gpr[RAX];                                                    \
		DO(T, text, a, in->imm);                                                 \
		acc_set(v, sizeof(T), a);                                                \
		return OP_NEXT;                                                          \
	}

/* The accumulator forms (opcodes 04, 05 and their kin). */
static inline void acc_set(struct vcpu *v, unsigned size, u64 a)
{
	if (size == 1)
		reg8_set(v, 0, a);
	else
		reg_set(v, RAX, size, a);
}

/* The forms of one operation for each operand size: index 0..3 for 1, 2, 4, 8 bytes. */
struct alu_forms {
	op_fn *rm_r, *m_r, *r_m, *r_rm, *rm_i, *m_i, *a_i;
};

#define FORMS(op, T)                                                                     \
	{                                                                                \
		op##_rm_r_##T, op##_m_r_##T, op##_r_m_##T, op##_r_rm_##T, op##_rm_i_##T, \
			op##_m_i_##T, op##_a_i_##T                                       \
	}

static op_fn *pick(const struct insn *in, const struct alu_forms forms[4])
{
	const struct alu_forms *f = &forms[__builtin_ctz(in->opsize)];
	bool mem = in->flags & INSN_MEM;

	if (in->opcode >= 0x80)
		return mem ? f->m_i : f->rm_i;
	switch (in->opcode & 7) {
	case 0:
	case 1: return mem ? f->m_r : f->rm_r;
	case 2:
	case 3: return mem ? f->r_m : f->r_rm;
	default: return f->a_i;
	}
}

#define DEFINE_ALU(op, DO, LOCKED, text)                                                 \
	DEFINE_ALU_SIZE(op, u8, DO, LOCKED, text "b")                                    \
	DEFINE_ALU_SIZE(op, u16, DO, LOCKED, text "w")                                   \
	DEFINE_ALU_SIZE(op, u32, DO, LOCKED, text "l")                                   \
	DEFINE_ALU_SIZE(op, u64, DO, LOCKED, text "q")                                   \
	op_fn *bind_##op(const struct insn *in)                                          \
	{                                                                                \
		static const struct alu_forms forms[4] = {                               \
			FORMS(op, u8), FORMS(op, u16), FORMS(op, u32), FORMS(op, u64)    \
		};                                                                       \
		return pick(in, forms);                                                  \
	}

DEFINE_ALU(add, ALU, ALU_LOCKED, "add")
DEFINE_ALU(or, ALU, ALU_LOCKED, "or")
DEFINE_ALU(adc, ALU_CF, ALU_CF_LOCKED, "adc")
DEFINE_ALU(sbb, ALU_CF, ALU_CF_LOCKED, "sbb")
DEFINE_ALU(and, ALU, ALU_LOCKED, "and")
DEFINE_ALU(sub, ALU, ALU_LOCKED, "sub")
DEFINE_ALU(xor, ALU, ALU_LOCKED, "xor")

/* CMP and TEST: only flags. */
#define DEFINE_COMPARE_SIZE(op, T, text)                                                 \
	static enum op_result op##_rm_r_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(rm);                                                       \
		ALU(T, text, a, GPR_##T(reg));                                           \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_m_r_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		READ_MEM(T, a);                                                          \
		ALU(T, text, a, GPR_##T(reg));                                           \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_r_m_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		READ_MEM(T, b);                                                          \
		T a = GPR_##T(reg);                                                      \
		ALU(T, text, a, b);                                                      \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_r_rm_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(reg);                                                      \
		ALU(T, text, a, GPR_##T(rm));                                            \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_rm_i_##T(struct vcpu *v, const struct insn *in)       \
	{                                                                                \
		T a = GPR_##T(rm);                                                       \
		ALU(T, text, a, in->imm);                                                \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_m_i_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		READ_MEM(T, a);                                                          \
		ALU(T, text, a, in->imm);                                                \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_a_i_##T(struct vcpu *v, const struct insn *in)        \
	{                                                                                \
		T a = (T)v->gpr[RAX];                                                    \
		ALU(T, text, a, in->imm);                                                \
		return OP_NEXT;                                                          \
	}

#define DEFINE_COMPARE(op, text)                                                         \
	DEFINE_COMPARE_SIZE(op, u8, text "b")                                            \
	DEFINE_COMPARE_SIZE(op, u16, text "w")                                           \
	DEFINE_COMPARE_SIZE(op, u32, text "l")                                           \
	DEFINE_COMPARE_SIZE(op, u64, text "q")                                           \
	static const struct alu_forms op##_forms[4] = { FORMS(op, u8), FORMS(op, u16),   \
							FORMS(op, u32),                  \
							FORMS(op, u64) };

DEFINE_COMPARE(cmp, "cmp")
DEFINE_COMPARE(test, "test")

op_fn *bind_cmp(const struct insn *in)
{
	return pick(in, cmp_forms);
}

/* TEST: 84, 85 with a register, A8, A9 with the accumulator, F6, F7 with an immediate. */
op_fn *bind_test(const struct insn *in)
{
	const struct alu_forms *f = &test_forms[__builtin_ctz(in->opsize)];
	bool mem = in->flags & INSN_MEM;

	if (in->opcode >= 0xf6)
		return mem ? f->m_i : f->rm_i;
	if (in->opcode >= 0xa8)
		return f->a_i;
	return mem ? f->m_r : f->rm_r;
}

/* ---- one operand ---- */

/* INC and DEC keep CF: it is put into the host's before. NEG ignores it. */
#define UNARY(text, operand)                                                             \
	__asm__ volatile("btl $0, %k2\n\t" text " %0\n\tlahf\n\tseto %%al"               \
			 : operand, "=&a"(ax)                                            \
			 : "r"(v->cc)                                                    \
			 : "cc", "memory")

#define DEFINE_UNARY_SIZE(op, T, text)                                                   \
	static enum op_result op##_rm_##T(struct vcpu *v, const struct insn *in)         \
	{                                                                                \
		T a = GPR_##T(rm);                                                       \
		u32 ax;                                                                  \
		UNARY(text, "+r"(a));                                                    \
		v->cc = cc_from_ax(ax);                                                  \
		SET_##T(rm, a);                                                          \
		return OP_NEXT;                                                          \
	}                                                                                \
	static enum op_result op##_m_##T(struct vcpu *v, const struct insn *in)          \
	{                                                                                \
		struct rmw m;                                                            \
		u32 ax;                                                                  \
		if (unlikely(!rmw_begin(v, in->seg, ea(v, in), sizeof(T), &m)))          \
			return OP_FAULT;                                                 \
		if (in->flags & INSN_LOCK)                                               \
			UNARY("lock " text, "+m"(*(T *)m.p));                            \
		else                                                                     \
			UNARY(text, "+m"(*(T *)m.p));                                    \
		v->cc = cc_from_ax(ax);                                                  \
		rmw_end(v, &m);                                                          \
		return OP_NEXT;                                                          \
	}

#define DEFINE_UNARY(op, text)                                                           \
	DEFINE_UNARY_SIZE(op, u8, text "b")                                              \
	DEFINE_UNARY_SIZE(op, u16, text "w")                                             \
	DEFINE_UNARY_SIZE(op, u32, text "l")                                             \
	DEFINE_UNARY_SIZE(op, u64, text "q")                                             \
	op_fn *bind_##op(const struct insn *in)                                          \
	{                                                                                \
		static op_fn *const reg[4] = { op##_rm_u8, op##_rm_u16, op##_rm_u32,     \
					       op##_rm_u64 };                            \
		static op_fn *const mem[4] = { op##_m_u8, op##_m_u16, op##_m_u32,        \
					       op##_m_u64 };                             \
		unsigned i = (unsigned)__builtin_ctz(in->opsize);                        \
		return in->flags & INSN_MEM ? mem[i] : reg[i];                           \
	}

DEFINE_UNARY(inc, "inc")
DEFINE_UNARY(dec, "dec")
DEFINE_UNARY(neg, "neg")

/* NOT changes no flags. */
static enum op_result op_not(struct vcpu *v, const struct insn *in)
{
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		u64 val;

		rm_read(v, in, in->opsize, &val);
		rm_write(v, in, in->opsize, ~val);
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), in->opsize, &m))
		return OP_FAULT;
	switch (in->opsize) {
	case 1: __asm__ volatile("lock notb %0" : "+m"(*(u8 *)m.p)); break;
	case 2: __asm__ volatile("lock notw %0" : "+m"(*(u16 *)m.p)); break;
	case 4: __asm__ volatile("lock notl %0" : "+m"(*(u32 *)m.p)); break;
	default: __asm__ volatile("lock notq %0" : "+m"(*(u64 *)m.p)); break;
	}
	rmw_end(v, &m);
	return OP_NEXT;
}

op_fn *bind_not(const struct insn *in)
{
	(void)in;
	return op_not;
}
