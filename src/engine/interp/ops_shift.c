/*
 * Shifts, rotates, bit tests and scans, multiplication and division, decimal adjustment,
 * compare-and-exchange.
 *
 * SDM volume 2. All of them run as themselves on the host with the guest's status
 * flags loaded before, so that flags which the manual leaves undefined come
 * out as on this processor.
 */
#include "engine/interp/flags.h"
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

/* SAHF restores SF ZF AF PF CF from AH; adding 7fh to the 1 or 0 in AL restores OF. */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

/* text uses %0 as its read-write operand, %2 (in rcx) as the other. */
#define RUN(T, text, a, c)                                                               \
	do {                                                                             \
		u32 ax_ = cc_to_ax(v->cc);                                               \
		__asm__(FLAGS_IN text FLAGS_OUT : "+r"(a), "+a"(ax_) : "c"(c) : "cc");   \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

/* ---- shifts and rotates ---- */

#define DEFINE_SHIFT_RUN(op, text)                                                       \
	static u64 op##_run(struct vcpu *v, u64 a, unsigned size, u64 count)             \
	{                                                                                \
		switch (size) {                                                          \
		case 1: {                                                                \
			u8 x = (u8)a;                                                    \
			RUN(u8, text "b %%cl, %0", x, count);                            \
			return x;                                                        \
		}                                                                        \
		case 2: {                                                                \
			u16 x = (u16)a;                                                  \
			RUN(u16, text "w %%cl, %0", x, count);                           \
			return x;                                                        \
		}                                                                        \
		case 4: {                                                                \
			u32 x = (u32)a;                                                  \
			RUN(u32, text "l %%cl, %0", x, count);                           \
			return x;                                                        \
		}                                                                        \
		default: RUN(u64, text "q %%cl, %0", a, count); return a;                \
		}                                                                        \
	}

#define DEFINE_SHIFT(op, text)                                                           \
	DEFINE_SHIFT_RUN(op, text)                                                       \
	enum op_result op_##op(struct vcpu *v, const struct insn *in)                    \
	{                                                                                \
		return shift(v, in, op##_run);                                           \
	}

/*
 * OF of a rotation by more than 1 is undefined, and some processors have it differ when a
 * register is rotated by an immediate count. It is then taken from such a rotation with
 * the same result: by 2, of the result rotated back by 2.
 */
#define DEFINE_ROTATE(op, back, text)                                                    \
	DEFINE_SHIFT_RUN(op, text)                                                       \
	static u64 op##_imm(struct vcpu *v, u64 a, unsigned size, u64 count)             \
	{                                                                                \
		unsigned n = (unsigned)count & (size == 8 ? 63 : 31);                    \
		if (n < 2)                                                               \
			return op##_run(v, a, size, count);                              \
		a = rotate_##back(rotate_##op(a, n, size), 2, size);                     \
		switch (size) {                                                          \
		case 1: {                                                                \
			u8 x = (u8)a;                                                    \
			RUN(u8, text "b $2, %0", x, 0);                                  \
			return x;                                                        \
		}                                                                        \
		case 2: {                                                                \
			u16 x = (u16)a;                                                  \
			RUN(u16, text "w $2, %0", x, 0);                                 \
			return x;                                                        \
		}                                                                        \
		case 4: {                                                                \
			u32 x = (u32)a;                                                  \
			RUN(u32, text "l $2, %0", x, 0);                                 \
			return x;                                                        \
		}                                                                        \
		default: RUN(u64, text "q $2, %0", a, 0); return a;                      \
		}                                                                        \
	}                                                                                \
	enum op_result op_##op(struct vcpu *v, const struct insn *in)                    \
	{                                                                                \
		return shift(v, in,                                                      \
			     in->opcode < 0xd0 && !(in->flags & INSN_MEM) ? op##_imm     \
									  : op##_run);   \
	}

static u64 rotate_rol(u64 a, unsigned n, unsigned size)
{
	unsigned bits = size * 8;

	a &= size_mask(size);
	n %= bits;
	return n ? (a << n | a >> (bits - n)) & size_mask(size) : a;
}

static u64 rotate_ror(u64 a, unsigned n, unsigned size)
{
	return rotate_rol(a, size * 8 - n % (size * 8), size);
}

typedef u64 shift_fn(struct vcpu *v, u64 a, unsigned size, u64 count);

/* C0, C1: imm8; D0, D1: 1; D2, D3: CL. */
static enum op_result shift(struct vcpu *v, const struct insn *in, shift_fn *run)
{
	unsigned size = in->opsize;
	u64 count = in->opcode >= 0xd2 ? v->gpr[RCX] : in->opcode >= 0xd0 ? 1 : in->imm;
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		if (size == 1)
			reg8_set(v, in->rm8, run(v, reg8_get(v, in->rm8), 1, (u8)count));
		else
			reg_set(v, in->rm, size, run(v, v->gpr[in->rm], size, (u8)count));
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), size, &m))
		return OP_FAULT;
	le_store(m.p, run(v, le_load(m.p, size), size, (u8)count), size);
	rmw_end(v, &m);
	return OP_NEXT;
}

DEFINE_ROTATE(rol, ror, "rol")
DEFINE_ROTATE(ror, rol, "ror")
DEFINE_SHIFT(rcl, "rcl")
DEFINE_SHIFT(rcr, "rcr")
DEFINE_SHIFT(shl, "shl")
DEFINE_SHIFT(shr, "shr")
DEFINE_SHIFT(sar, "sar")

/* SHLD, SHRD: count in imm8 (A4, AC) or CL (A5, AD). */
#define RUN3(text, a, b, c)                                                              \
	do {                                                                             \
		u32 ax_ = cc_to_ax(v->cc);                                               \
		__asm__(FLAGS_IN text FLAGS_OUT                                          \
			: "+r"(a), "+a"(ax_)                                             \
			: "c"(c), "r"(b)                                                 \
			: "cc");                                                         \
		v->cc = cc_from_ax(ax_);                                                 \
	} while (0)

static u64 double_shift(struct vcpu *v, bool left, unsigned size, u64 a, u64 b, u8 count)
{
	u16 a16 = (u16)a, b16 = (u16)b;
	u32 a32 = (u32)a, b32 = (u32)b;

	switch (size) {
	case 2:
		if (left)
			RUN3("shldw %%cl, %3, %0", a16, b16, count);
		else
			RUN3("shrdw %%cl, %3, %0", a16, b16, count);
		return a16;
	case 4:
		if (left)
			RUN3("shldl %%cl, %3, %0", a32, b32, count);
		else
			RUN3("shrdl %%cl, %3, %0", a32, b32, count);
		return a32;
	default:
		if (left)
			RUN3("shldq %%cl, %3, %0", a, b, count);
		else
			RUN3("shrdq %%cl, %3, %0", a, b, count);
		return a;
	}
}

enum op_result op_shd(struct vcpu *v, const struct insn *in)
{
	u8 count = (u8)(in->opcode & 1 ? v->gpr[RCX] : in->imm);
	bool left = in->opcode < 0xa8;
	u64 b = reg_get(v, in->reg, in->opsize);
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		reg_set(v, in->rm, in->opsize,
			double_shift(v, left, in->opsize, v->gpr[in->rm], b, count));
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), in->opsize, &m))
		return OP_FAULT;
	le_store(m.p,
		 double_shift(v, left, in->opsize, le_load(m.p, in->opsize), b, count),
		 in->opsize);
	rmw_end(v, &m);
	return OP_NEXT;
}

/* ---- bit tests ---- */

enum bit_op { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static u64 bit_run(struct vcpu *v, enum bit_op op, u64 a, u64 bit)
{
	switch (op) {
	case BIT_TEST: RUN(u64, "btq %2, %0", a, bit); break;
	case BIT_SET: RUN(u64, "btsq %2, %0", a, bit); break;
	case BIT_RESET: RUN(u64, "btrq %2, %0", a, bit); break;
	default: RUN(u64, "btcq %2, %0", a, bit); break;
	}
	return a;
}

/* Locked, on guest RAM: as an atomic or on the unit that holds the bit. */
static u64 bit_locked(enum bit_op op, void *p, unsigned size, u64 bit)
{
	u64 mask = BIT(bit), old, want;

	old = le_load(p, size);
	do {
		want = op == BIT_SET     ? old | mask
		       : op == BIT_RESET ? old & ~mask
					 : old ^ mask;
	} while (!cas(p, size, &old, want));
	return old;
}

/* With a register bit offset the operand is a bit string: any bit of the address space.
 */
static enum op_result bit(struct vcpu *v, const struct insn *in, enum bit_op op)
{
	unsigned size = in->opsize, bits = size * 8;
	bool immediate = in->opcode == 0xba;
	u64 index = immediate ? in->imm : v->gpr[in->reg];
	u64 off, val;
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		val = bit_run(v, op, reg_get(v, in->rm, size), index & (bits - 1));
		if (op != BIT_TEST)
			reg_set(v, in->rm, size, val);
		return OP_NEXT;
	}
	off = ea(v, in);
	if (!immediate) {
		i64 i = size == 8 ? (i64)index : size == 4 ? (i32)index : (i16)index;

		off = (off + (u64)((i >> (size == 8   ? 6
					  : size == 4 ? 5
						      : 4)) *
				   (i64)size)) &
		      size_mask(in->adsize);
	}
	index &= bits - 1;
	if (op == BIT_TEST) {
		if (!mem_read(v, in->seg, off, size, &val))
			return OP_FAULT;
		bit_run(v, op, val, index);
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, off, size, &m))
		return OP_FAULT;
	if (in->flags & INSN_LOCK)
		bit_run(v, BIT_TEST, bit_locked(op, m.p, size, index), index);
	else
		le_store(m.p, bit_run(v, op, le_load(m.p, size), index), size);
	rmw_end(v, &m);
	return OP_NEXT;
}

enum op_result op_bt(struct vcpu *v, const struct insn *in)
{
	return bit(v, in, BIT_TEST);
}
enum op_result op_bts(struct vcpu *v, const struct insn *in)
{
	return bit(v, in, BIT_SET);
}
enum op_result op_btr(struct vcpu *v, const struct insn *in)
{
	return bit(v, in, BIT_RESET);
}
enum op_result op_btc(struct vcpu *v, const struct insn *in)
{
	return bit(v, in, BIT_COMPLEMENT);
}

/* ---- scans and counts ---- */

/* text: source %2 (in rcx), destination %0, which keeps its value when the source is
 * zero. */
#define SCAN(name, text)                                                                 \
	static u64 name##_run(struct vcpu *v, unsigned size, u64 dst, u64 src)           \
	{                                                                                \
		switch (size) {                                                          \
		case 2: {                                                                \
			u16 d = (u16)dst;                                                \
			RUN(u16, text "w %%cx, %0", d, src);                             \
			return d;                                                        \
		}                                                                        \
		case 4: RUN(u64, text "l %%ecx, %k0", dst, src); return dst;             \
		default: RUN(u64, text "q %%rcx, %0", dst, src); return dst;             \
		}                                                                        \
	}

SCAN(bsf, "bsf")
SCAN(bsr, "bsr")
SCAN(tzcnt, "tzcnt")
SCAN(lzcnt, "lzcnt")
SCAN(popcnt, "popcnt")

typedef u64 scan_fn(struct vcpu *v, unsigned size, u64 dst, u64 src);

static enum op_result scan(struct vcpu *v, const struct insn *in, scan_fn *run)
{
	u64 src, dst;

	if (!rm_read(v, in, in->opsize, &src))
		return OP_FAULT;
	dst = run(v, in->opsize, v->gpr[in->reg], src);
	/* A 32-bit BSF of zero leaves the whole register; what the host did stands in
	 * dst. */
	if (in->opsize == 2)
		reg_set(v, in->reg, 2, dst);
	else
		v->gpr[in->reg] = dst;
	return OP_NEXT;
}

enum op_result op_bsf(struct vcpu *v, const struct insn *in)
{
	return scan(v, in, bsf_run);
}
enum op_result op_bsr(struct vcpu *v, const struct insn *in)
{
	return scan(v, in, bsr_run);
}

/* Without the feature the F3 prefix is ignored. */
enum op_result op_tzcnt(struct vcpu *v, const struct insn *in)
{
	return scan(v, in, cpu_has(v, FEAT_BMI1) ? tzcnt_run : bsf_run);
}

enum op_result op_lzcnt(struct vcpu *v, const struct insn *in)
{
	return scan(v, in, cpu_has(v, FEAT_ABM) ? lzcnt_run : bsr_run);
}

enum op_result op_popcnt(struct vcpu *v, const struct insn *in)
{
	if (!cpu_has(v, FEAT_POPCNT))
		return op_ud(v);
	return scan(v, in, popcnt_run);
}

/* ---- multiplication ---- */

/* One operand: AX = AL * rm8, or DX:AX, EDX:EAX, RDX:RAX = accumulator * rm. */
#define MUL1(text, src)                                                                  \
	do {                                                                             \
		u64 rax_ = v->gpr[RAX], rdx_ = v->gpr[RDX], fl_;                         \
		__asm__("pushq %3\n\tpopfq\n\t" text "\n\tpushfq\n\tpopq %2"             \
			: "+a"(rax_), "+d"(rdx_), "=&r"(fl_)                             \
			: "r"(v->cc | 2), "c"(src)                                       \
			: "cc", "memory");                                               \
		rax = rax_;                                                              \
		rdx = rdx_;                                                              \
		v->cc = fl_ & RFLAGS_STATUS;                                             \
	} while (0)

static enum op_result mul(struct vcpu *v, const struct insn *in, bool is_signed)
{
	u64 src, rax, rdx;

	if (!rm_read(v, in, in->opsize, &src))
		return OP_FAULT;
	switch (in->opsize) {
	case 1:
		if (is_signed)
			MUL1("imulb %%cl", src);
		else
			MUL1("mulb %%cl", src);
		reg_set(v, RAX, 2, rax);
		return OP_NEXT;
	case 2:
		if (is_signed)
			MUL1("imulw %%cx", src);
		else
			MUL1("mulw %%cx", src);
		break;
	case 4:
		if (is_signed)
			MUL1("imull %%ecx", src);
		else
			MUL1("mull %%ecx", src);
		break;
	default:
		if (is_signed)
			MUL1("imulq %%rcx", src);
		else
			MUL1("mulq %%rcx", src);
		break;
	}
	reg_set(v, RAX, in->opsize, rax);
	reg_set(v, RDX, in->opsize, rdx);
	return OP_NEXT;
}

enum op_result op_mul(struct vcpu *v, const struct insn *in)
{
	return mul(v, in, false);
}

/* F6, F7: one operand; 0F AF: reg *= rm; 69, 6B: reg = rm * imm. */
enum op_result op_imul(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 a, b;

	if (in->opcode >= 0xf6)
		return mul(v, in, true);
	if (!rm_read(v, in, size, &a))
		return OP_FAULT;
	b = in->opcode == 0xaf ? reg_get(v, in->reg, size) : in->imm;
	if (size == 2) {
		u16 x = (u16)a;

		RUN(u16, "imulw %%cx, %0", x, b);
		a = x;
	} else if (size == 4) {
		u32 x = (u32)a;

		RUN(u32, "imull %%ecx, %0", x, b);
		a = x;
	} else {
		RUN(u64, "imulq %%rcx, %0", a, b);
	}
	reg_set(v, in->reg, size, a);
	return OP_NEXT;
}

/*
 * ---- division: flags are undefined, and those that the host makes ----
 *
 * Intel's processors leave them, AMD's clear or set some, whatever the operands are; so
 * translated code, which divides itself, and this agree.
 */

static void div_flags(struct vcpu *v)
{
	u64 flags = v->cc, a = 1;

	__asm__("push %0\n\tpopf\n\tdivb %b2\n\tpushf\n\tpop %0"
		: "+r"(flags), "+a"(a)
		: "c"(1)
		: "cc");
	v->cc = flags & RFLAGS_STATUS;
}

static enum op_result op_de(struct vcpu *v)
{
	raise_vec(v, VEC_DE);
	return OP_FAULT;
}

static enum op_result div_unsigned(struct vcpu *v, unsigned size, u64 d)
{
	u64 mask = size_mask(size), n_lo, n_hi, q, r;

	if (!d)
		return op_de(v);
	if (size == 1) {
		n_lo = v->gpr[RAX] & 0xffff;
		if (n_lo / d > 0xff)
			return op_de(v);
		reg_set(v, RAX, 2, n_lo / d | (n_lo % d) << 8);
		return OP_NEXT;
	}
	n_lo = v->gpr[RAX] & mask;
	n_hi = v->gpr[RDX] & mask;
	/* The quotient fits exactly when the upper half is below the divisor. */
	if (n_hi >= d)
		return op_de(v);
	if (size == 8) {
		__asm__("divq %4"
			: "=a"(q), "=d"(r)
			: "a"(n_lo), "d"(n_hi), "r"(d)
			: "cc");
	} else {
		u64 n = n_hi << (8 * size) | n_lo;

		q = n / d;
		r = n % d;
	}
	reg_set(v, RAX, size, q);
	reg_set(v, RDX, size, r);
	return OP_NEXT;
}

/* By magnitude, so that no overflow of ours can trap: the remainder has the dividend's
 * sign. */
static enum op_result div_signed(struct vcpu *v, unsigned size, u64 raw)
{
	unsigned bits = 8 * size;
	i64 d = (i64)(raw << (64 - bits)) >> (64 - bits);
	bool n_neg, d_neg = d < 0, q_neg;
	u64 ud = d_neg ? -(u64)d : (u64)d, q, r, hi, lo;
	u128 n;

	if (!d)
		return op_de(v);
	if (size == 1) {
		i16 ax = (i16)v->gpr[RAX];

		n = (u128)(i128)ax;
	} else {
		hi = v->gpr[RDX] & size_mask(size);
		lo = v->gpr[RAX] & size_mask(size);
		n = (u128)hi << bits | lo;
		if (size < 8)
			n = (u128)(i128)((i64)((u64)n << (64 - 2 * bits)) >>
					 (64 - 2 * bits));
	}
	n_neg = n >> 127;
	if (n_neg)
		n = -n;
	q_neg = n_neg != d_neg;
	hi = (u64)(n >> 64);
	if (hi >= ud)
		return op_de(v);
	__asm__("divq %4" : "=a"(q), "=d"(r) : "a"((u64)n), "d"(hi), "r"(ud) : "cc");
	/* Largest magnitudes: 2^(bits-1) when negative, one less when positive. */
	if (q > (BIT(bits - 1) - 1) + q_neg)
		return op_de(v);
	q = q_neg ? -q : q;
	r = n_neg ? -r : r;
	if (size == 1) {
		reg_set(v, RAX, 2, (q & 0xff) | (r & 0xff) << 8);
	} else {
		reg_set(v, RAX, size, q);
		reg_set(v, RDX, size, r);
	}
	return OP_NEXT;
}

enum op_result op_div(struct vcpu *v, const struct insn *in)
{
	enum op_result r;
	u64 d;

	if (!rm_read(v, in, in->opsize, &d))
		return OP_FAULT;
	r = div_unsigned(v, in->opsize, d);
	if (r == OP_NEXT)
		div_flags(v);
	return r;
}

enum op_result op_idiv(struct vcpu *v, const struct insn *in)
{
	enum op_result r;
	u64 d;

	if (!rm_read(v, in, in->opsize, &d))
		return OP_FAULT;
	r = div_signed(v, in->opsize, d);
	if (r == OP_NEXT)
		div_flags(v);
	return r;
}

/* ---- compare and exchange ---- */

enum op_result op_cmpxchg(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 acc = size == 1 ? reg8_get(v, 0) : reg_get(v, RAX, size), val, cmp = acc;
	u64 src = r_read(v, in, size);
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		rm_read(v, in, size, &val);
		flags_of_compare(v, acc, val, size);
		if (acc == val)
			rm_write(v, in, size, src);
		else if (size == 1)
			reg8_set(v, 0, val);
		else
			reg_set(v, RAX, size, val);
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), size, &m))
		return OP_FAULT;
	/* Locked or not, one host instruction. */
	if (cas(m.p, size, &cmp, src))
		flags_of_compare(v, acc, acc, size);
	else
		flags_of_compare(v, acc, cmp, size);
	rmw_end(v, &m);
	if (cmp != acc) {
		if (size == 1)
			reg8_set(v, 0, cmp);
		else
			reg_set(v, RAX, size, cmp);
	}
	return OP_NEXT;
}

enum op_result op_xadd(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize;
	u64 src = r_read(v, in, size), val;
	struct rmw m;

	if (!(in->flags & INSN_MEM)) {
		rm_read(v, in, size, &val);
		flags_of_add(v, val, src, size);
		r_write(v, in, size, val);
		rm_write(v, in, size, val + src);
		return OP_NEXT;
	}
	if (!rmw_begin(v, in->seg, ea(v, in), size, &m))
		return OP_FAULT;
	val = le_load(m.p, size);
	while (!cas(m.p, size, &val, (val + src) & size_mask(size)))
		;
	flags_of_add(v, val, src, size);
	rmw_end(v, &m);
	r_write(v, in, size, val);
	return OP_NEXT;
}

/* CMPXCHG8B, CMPXCHG16B: only ZF changes. */
enum op_result op_cmpxchg8b(struct vcpu *v, const struct insn *in)
{
	bool wide = in->flags & INSN_REXW;
	u64 off, lo, hi;
	struct rmw m;
	gva_t lin;
	bool same;

	if (!(in->flags & INSN_MEM) || !cpu_has(v, wide ? FEAT_CX16 : FEAT_CX8))
		return op_ud(v);
	off = ea(v, in);
	if (!wide) {
		u64 old = (u64)(u32)v->gpr[RDX] << 32 | (u32)v->gpr[RAX];
		u64 want = (u64)(u32)v->gpr[RCX] << 32 | (u32)v->gpr[RBX];

		if (!rmw_begin(v, in->seg, off, 8, &m))
			return OP_FAULT;
		same = cas(m.p, 8, &old, want);
		rmw_end(v, &m);
		if (!same) {
			v->gpr[RAX] = (u32)old;
			v->gpr[RDX] = old >> 32;
		}
	} else {
		if (!seg_linear(v, in->seg, off, 16, ACC_WRITE, &lin))
			return OP_FAULT;
		if (lin & 15)
			return op_gp0(v);
		if (!rmw_begin(v, in->seg, off, 16, &m))
			return OP_FAULT;
		lo = v->gpr[RAX];
		hi = v->gpr[RDX];
		__asm__ volatile("lock cmpxchg16b %1"
				 : "=@ccz"(same), "+m"(*(u128 *)m.p), "+a"(lo), "+d"(hi)
				 : "b"(v->gpr[RBX]), "c"(v->gpr[RCX])
				 : "memory");
		rmw_end(v, &m);
		if (!same) {
			v->gpr[RAX] = lo;
			v->gpr[RDX] = hi;
		}
	}
	v->cc = (v->cc & ~(u64)RFLAGS_ZF) | (same ? RFLAGS_ZF : 0);
	return OP_NEXT;
}
