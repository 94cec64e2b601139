/*
 * String instructions: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, with and without REP.
 *
 * SDM volume 2, REP. State after each iteration is exact, so a fault in the middle leaves
 * RSI, RDI, RCX at the element that faulted. Forward MOVS and STOS on plain memory go a
 * page run at a time. An instruction that is not done after a bounded number of elements
 * returns OP_AGAIN, so that interrupts are taken in between as on a processor.
 */
#include "engine/interp/flags.h"
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

#include "mem/io.h"
#include "x86/cr.h"
#include "x86/debugger.h"
#include "x86/profile.h"
#include "x86/stats.h"

/* Elements before a look at events. */
#define REP_CHUNK 4096

static inline u64 step_of(const struct vcpu *v, unsigned size)
{
	return v->flags & RFLAGS_DF ? -(u64)size : size;
}

static inline u64 index_get(const struct vcpu *v, unsigned r, unsigned adsize)
{
	return v->gpr[r] & size_mask(adsize);
}

static inline void index_add(struct vcpu *v, unsigned r, unsigned adsize, u64 n)
{
	reg_set(v, r, adsize, v->gpr[r] + n);
}

static inline bool has_rep(const struct insn *in)
{
	return in->flags & (INSN_REP | INSN_REPNE);
}

/* One iteration. False: fault, nothing changed. */
typedef bool string_fn(struct vcpu *v, const struct insn *in);

static bool movs_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 val, step = step_of(v, size);

	if (!mem_read(v, in->seg, index_get(v, RSI, ad), size, &val) ||
	    !mem_write(v, ES, index_get(v, RDI, ad), size, val))
		return false;
	index_add(v, RSI, ad, step);
	index_add(v, RDI, ad, step);
	return true;
}

static u64 acc_get(const struct vcpu *v, unsigned size)
{
	return v->gpr[RAX] & size_mask(size);
}

static bool stos_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;

	if (!mem_write(v, ES, index_get(v, RDI, ad), size, acc_get(v, size)))
		return false;
	index_add(v, RDI, ad, step_of(v, size));
	return true;
}

static bool lods_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 val;

	if (!mem_read(v, in->seg, index_get(v, RSI, ad), size, &val))
		return false;
	if (size == 1)
		reg8_set(v, 0, val);
	else
		reg_set(v, RAX, size, val);
	index_add(v, RSI, ad, step_of(v, size));
	return true;
}

static bool cmps_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 a, b, step = step_of(v, size);

	/* Intel processors fault on the second operand first, AMD's on the first. */
	if (cpu_is_amd(v) && !mem_read(v, in->seg, index_get(v, RSI, ad), size, &a))
		return false;
	if (!mem_read(v, ES, index_get(v, RDI, ad), size, &b) ||
	    !mem_read(v, in->seg, index_get(v, RSI, ad), size, &a))
		return false;
	flags_of_compare(v, a, b, size);
	index_add(v, RSI, ad, step);
	index_add(v, RDI, ad, step);
	return true;
}

static bool scas_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 b;

	if (!mem_read(v, ES, index_get(v, RDI, ad), size, &b))
		return false;
	flags_of_compare(v, acc_get(v, size), b, size);
	index_add(v, RDI, ad, step_of(v, size));
	return true;
}

/*
 * The destination is checked before the port is read: a device must not lose a byte to a
 * page fault.
 */
static bool ins_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 off = index_get(v, RDI, ad), val;
	u8 was;

	if (!mem_probe_write(v, ES, off, size))
		return false;
	vcpu_park(v);
	v->stats->port_reads++;
	was = profile_doing(v, DOING_DEVICES);
	val = io_ports_read(v->ports, (u16)v->gpr[RDX], size);
	profile_doing(v, was);
	v->pending_db |= debug_match_io(v, (u16)v->gpr[RDX], size);
	if (!mem_write(v, ES, off, size, val))
		return false;
	index_add(v, RDI, ad, step_of(v, size));
	return true;
}

static bool outs_one(struct vcpu *v, const struct insn *in)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 val;
	u8 was;

	if (!mem_read(v, in->seg, index_get(v, RSI, ad), size, &val))
		return false;
	vcpu_park(v);
	v->stats->port_writes++;
	was = profile_doing(v, DOING_DEVICES);
	io_ports_write(v->ports, (u16)v->gpr[RDX], val, size);
	profile_doing(v, was);
	v->pending_db |= debug_match_io(v, (u16)v->gpr[RDX], size);
	index_add(v, RSI, ad, step_of(v, size));
	return true;
}

/* How many iterations now: one at a time when every one is to be looked at. */
static u64 chunk(const struct vcpu *v, u64 count)
{
	return v->step_check ? 1 : MIN(count, (u64)REP_CHUNK);
}

static enum op_result rep_end(u64 left)
{
	return left ? OP_AGAIN : OP_NEXT;
}

/* REP without a condition. */
static enum op_result rep(struct vcpu *v, const struct insn *in, string_fn *one)
{
	u64 left = index_get(v, RCX, in->adsize), n;

	if (!has_rep(in))
		return op_done(one(v, in));
	if (!left)
		return OP_NEXT;
	for (n = chunk(v, left); n; n--) {
		if (!one(v, in))
			return OP_FAULT;
		reg_set(v, RCX, in->adsize, --left);
		if (debugger_was_hit(v))
			break;
	}
	return rep_end(left);
}

/*
 * REPE and REPNE: until the comparison says otherwise. Until then, at a fault or an
 * interrupt, the flags are those before the instruction: SDM 2, REP. AMD's processors
 * have those of the last iteration.
 */
static enum op_result rep_while(struct vcpu *v, const struct insn *in, string_fn *one)
{
	u64 left = index_get(v, RCX, in->adsize), n;
	bool want = in->flags & INSN_REP;
	bool restore = !cpu_is_amd(v);
	u64 cc = v->cc;

	if (!has_rep(in))
		return op_done(one(v, in));
	if (!left)
		return OP_NEXT;
	for (n = chunk(v, left); n; n--) {
		if (!one(v, in)) {
			if (restore)
				v->cc = cc;
			return OP_FAULT;
		}
		reg_set(v, RCX, in->adsize, --left);
		if (!!(v->cc & RFLAGS_ZF) != want)
			return OP_NEXT;
		if (debugger_was_hit(v))
			break;
	}
	if (left && restore)
		v->cc = cc;
	return rep_end(left);
}

/* Elements from off up to the end of its page and of the index register's range, at most
 * n. */
static u64 run_length(u64 off, u64 lin_in_page, unsigned size, unsigned adsize, u64 n)
{
	u64 to_page = (0x1000 - (lin_in_page & 0xfff)) / size;
	u64 to_wrap = adsize == 8 ? n : (size_mask(adsize) - off + 1) / size;

	return MIN(n, MIN(to_page, to_wrap));
}

/* Several elements of REP STOS at once. 0: take the slow way. */
static u64 stos_run(struct vcpu *v, const struct insn *in, u64 n)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 off = index_get(v, RDI, ad), count, val = acc_get(v, size);
	gva_t lin;
	void *p;

	if ((v->flags & RFLAGS_DF) || v->step_check || n < 4)
		return 0;
	if (!seg_linear(v, ES, off, size, ACC_WRITE, &lin))
		return 0;
	n = run_length(off, lin, size, ad, n);
	if (!n)
		return 0;
	p = mem_fast_ptr(v, ES, off, (unsigned)(n * size), ACC_WRITE);
	if (!p)
		return 0;
	count = n;
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb"
				 : "+D"(p), "+c"(count)
				 : "a"(val)
				 : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw"
				 : "+D"(p), "+c"(count)
				 : "a"(val)
				 : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl"
				 : "+D"(p), "+c"(count)
				 : "a"(val)
				 : "memory");
		break;
	default:
		__asm__ volatile("rep stosq"
				 : "+D"(p), "+c"(count)
				 : "a"(val)
				 : "memory");
		break;
	}
	index_add(v, RDI, ad, n * size);
	return n;
}

static u64 movs_run(struct vcpu *v, const struct insn *in, u64 n)
{
	unsigned size = in->opsize, ad = in->adsize;
	u64 src = index_get(v, RSI, ad), dst = index_get(v, RDI, ad), count;
	gva_t lin_src, lin_dst;
	void *s, *d;

	if ((v->flags & RFLAGS_DF) || v->step_check || n < 4)
		return 0;
	if (!seg_linear(v, in->seg, src, size, ACC_READ, &lin_src) ||
	    !seg_linear(v, ES, dst, size, ACC_WRITE, &lin_dst))
		return 0;
	n = run_length(src, lin_src, size, ad, run_length(dst, lin_dst, size, ad, n));
	if (!n)
		return 0;
	s = mem_fast_ptr(v, in->seg, src, (unsigned)(n * size), ACC_READ);
	d = mem_fast_ptr(v, ES, dst, (unsigned)(n * size), ACC_WRITE);
	if (!s || !d)
		return 0;
	count = n;
	/* The element size matters when the two overlap. */
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb"
				 : "+S"(s), "+D"(d), "+c"(count)
				 :
				 : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw"
				 : "+S"(s), "+D"(d), "+c"(count)
				 :
				 : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl"
				 : "+S"(s), "+D"(d), "+c"(count)
				 :
				 : "memory");
		break;
	default:
		__asm__ volatile("rep movsq"
				 : "+S"(s), "+D"(d), "+c"(count)
				 :
				 : "memory");
		break;
	}
	index_add(v, RSI, ad, n * size);
	index_add(v, RDI, ad, n * size);
	return n;
}

typedef u64 run_fn(struct vcpu *v, const struct insn *in, u64 n);

/* REP of an operation that has a fast way for runs. */
static enum op_result rep_runs(struct vcpu *v, const struct insn *in, string_fn *one,
			       run_fn *run)
{
	u64 left = index_get(v, RCX, in->adsize), n;

	if (!has_rep(in))
		return op_done(one(v, in));
	if (!left)
		return OP_NEXT;
	for (n = chunk(v, left); n;) {
		u64 done = run(v, in, n);

		if (!done) {
			if (!one(v, in))
				return OP_FAULT;
			done = 1;
		}
		n -= done;
		left -= done;
		reg_set(v, RCX, in->adsize, left);
		if (debugger_was_hit(v))
			break;
	}
	return rep_end(left);
}

enum op_result op_movs(struct vcpu *v, const struct insn *in)
{
	return rep_runs(v, in, movs_one, movs_run);
}

enum op_result op_stos(struct vcpu *v, const struct insn *in)
{
	return rep_runs(v, in, stos_one, stos_run);
}

enum op_result op_lods(struct vcpu *v, const struct insn *in)
{
	return rep(v, in, lods_one);
}

enum op_result op_cmps(struct vcpu *v, const struct insn *in)
{
	return rep_while(v, in, cmps_one);
}

enum op_result op_scas(struct vcpu *v, const struct insn *in)
{
	return rep_while(v, in, scas_one);
}

enum op_result op_ins(struct vcpu *v, const struct insn *in)
{
	if (!io_allowed(v, (u16)v->gpr[RDX], in->opsize))
		return OP_FAULT;
	return rep(v, in, ins_one);
}

enum op_result op_outs(struct vcpu *v, const struct insn *in)
{
	if (!io_allowed(v, (u16)v->gpr[RDX], in->opsize))
		return OP_FAULT;
	return rep(v, in, outs_one);
}
