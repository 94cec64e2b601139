/*
 * Memory operands that a stub cannot use in place.
 *
 * An operand that crosses pages, lies in MMIO, code pages or watched pages is brought
 * into a bounce buffer of the same alignment. A vector store changes no register, so it
 * is executed first and written then; an x87 store may pop, and an MMX store enters MMX
 * mode, so they are checked before. With
 * a mask only active elements are touched (fault suppression, SDM volume 2 sections 2.7.6
 * and VMASKMOV, VPMASKMOV). Gathers and scatters are done here altogether, element by
 * element from the least significant: on a fault those before are complete and their mask
 * bits clear (SDM volume 2 VPGATHERDD, VPSCATTERDD). Alignment checking (#AC) of elements
 * of 2, 4 and 8 bytes: SDM volume 3 section 6.15. Thread: the owner of the vCPU; no lock.
 */
#include "engine/interp/interp.h"
#include "engine/interp/stub.h"

static void clear(void *p, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

/* Linear address without checks: for alignment only. */
static gva_t lin_of(const struct vcpu *v, const struct insn *in, u64 off)
{
	return off + (v->code_size == 8 && in->seg < FS ? 0 : v->seg[in->seg].base);
}

static u64 off_add(const struct insn *in, u64 off, u64 n)
{
	return (off + n) & size_mask(in->adsize);
}

static bool check_align(struct vcpu *v, const struct stub *s, gva_t lin)
{
	/* Before the address is looked at: #GP even where that would be #SS. */
	if (lin & s->align)
		return raise_gp0(v);
	return true;
}

/*
 * After the segment's limits and an address that is not canonical, before a missing page.
 * 'active': the elements of a masked operand.
 */
static bool check_ac(struct vcpu *v, const struct insn *in, const struct stub *s, u64 off,
		     u64 active)
{
	enum access acc = s->flags & STUB_WRITE ? ACC_WRITE : ACC_READ;
	bool elements = s->mask != MASK_NONE && !(s->flags & STUB_NOSUPP);
	unsigned size = s->mem_size;
	gva_t lin;

	if (likely(!v->ac_check || !s->ac))
		return true;
	/* AMD's processors take one element after the other. */
	if (elements && cpu_is_amd(v)) {
		off = off_add(in, off, (u64)__builtin_ctzll(active) * s->elem);
		size = s->elem;
	}
	/* A masked operand may go beyond the limit where it is not accessed. */
	if (!seg_linear(v, in->seg, off, size, acc, &lin))
		return elements;
	if ((lin & s->ac) && is_canonical(v, lin))
		return raise_err(v, VEC_AC, 0);
	return true;
}

/* A pending x87 exception comes before faults of the memory operand. */
static bool check_wait(struct vcpu *v, const struct stub *s)
{
	u64 trap;

	if (!(s->flags & STUB_WAIT))
		return true;
	vec_need(v);
	trap = v->native->wait(v, NULL);
	if (trap)
		native_fault(v, trap);
	return !trap;
}

static u64 run(struct vcpu *v, const struct stub *s, void *mem)
{
	if (s->cls != NC_NONE && s->cls != NC_VEXGPR)
		vec_need(v);
	return s->code(v, mem);
}

/* ---- whole operands ---- */

static bool whole_in(struct vcpu *v, const struct insn *in, const struct stub *s, u64 off,
		     void *buf)
{
	/* With Intel's processors a SIMD exception (VCVTPS2PH) comes before a missing
	 * page, with AMD's it is the other way round. */
	if ((s->cls == NC_X87 || (s->flags & STUB_WAIT) || cpu_is_amd(v)) &&
	    (s->flags & STUB_WRITE) && !mem_probe_write(v, in->seg, off, s->mem_size))
		return false;
	/* x87 stores leave memory alone on some unmasked errors, so it must come back as
	 * it was. */
	if (s->cls == NC_X87 || (s->flags & STUB_READ))
		return mem_read_bytes(v, in->seg, off, buf, s->mem_size);
	return true;
}

/*
 * An x87 store that memory refuses: is there an unmasked error, so that nothing would be
 * stored? Then the instruction is done, and the error is reported later. If not, all is
 * as before.
 */
static bool store_suppressed(struct vcpu *v, const struct stub *s, u8 *buf)
{
	u64 *bv = (void *)(v->xsave + XSAVE_XSTATE_BV), was;
	u8 x87[XSAVE_XMM];
	u16 fcw, fsw;

	/* AMD's processors look at the memory first. */
	if (!(s->flags & STUB_X87) || !(s->flags & STUB_WRITE) || cpu_is_amd(v))
		return false;
	vcpu_park(v);
	was = *bv;
	copy(x87, v->xsave, sizeof(x87));
	if (run(v, s, buf))
		return false;
	vcpu_park(v);
	fcw = *(ua16 *)(v->xsave + XSAVE_FCW);
	fsw = *(ua16 *)(v->xsave + XSAVE_FSW);
	/* Invalid operation, overflow, underflow; after a loss of precision the result is
	 * stored. */
	if ((*bv & XCR0_X87) && (fsw & ~fcw & 0x19))
		return true;
	copy(v->xsave, x87, XSAVE_MXCSR);
	copy(v->xsave + XSAVE_ST, x87 + XSAVE_ST, XSAVE_XMM - XSAVE_ST);
	*bv = was;
	return false;
}

static enum op_result slow_whole(struct vcpu *v, const struct insn *in,
				 const struct stub *s)
{
	u64 off = ea(v, in), trap;
	gva_t lin = lin_of(v, in, off);
	u8 *buf = v->native->bounce + (lin & 63);

	if (!check_wait(v, s) || !check_align(v, s, lin))
		return OP_FAULT;
	if (!check_ac(v, in, s, off, 1) || !whole_in(v, in, s, off, buf))
		return op_done(store_suppressed(v, s, buf));
	trap = run(v, s, buf);
	if (trap)
		return native_fault(v, trap);
	native_done(v);
	if ((s->flags & STUB_WRITE) &&
	    !mem_write_bytes(v, in->seg, off, buf, s->mem_size))
		return OP_FAULT;
	return OP_NEXT;
}

/* ---- masked operands ---- */

static u64 low_bits(unsigned n)
{
	return n >= 64 ? ~UINT64_C(0) : BIT(n) - 1;
}

static unsigned count_bits(u64 x)
{
	unsigned n = 0;

	for (; x; x &= x - 1)
		n++;
	return n;
}

/* Bit i: lane i is active. The state is parked. */
static u64 lane_mask(const struct vcpu *v, const struct stub *s)
{
	unsigned lanes = s->lanes, size = s->elem;
	u8 reg[64];
	u64 m = 0;

	switch (s->mask) {
	case MASK_K: return vec_k_get(v, s->mask_reg) & low_bits(lanes);
	case MASK_SIGN: vec_get(v, s->mask_reg, reg, lanes * size); break;
	case MASK_SIGN_MMX: *(ua64 *)reg = vec_mmx_get(v, s->mask_reg); break;
	default: return low_bits(lanes);
	}
	for (unsigned i = 0; i < lanes; i++)
		m |= (u64)(reg[i * size + size - 1] >> 7) << i;
	return m;
}

/* Bit i: element i in memory is accessed. */
static u64 active_elements(const struct vcpu *v, const struct stub *s)
{
	u64 m = lane_mask(v, s), a = 0;

	if (s->flags & STUB_COMPRESS)
		return low_bits(count_bits(m));
	if (s->elems == s->lanes)
		return m;
	for (unsigned i = 0; i < s->lanes; i++)
		a |= (m >> i & 1) << (i % s->elems);
	return a;
}

enum run_op { RUN_READ, RUN_PROBE, RUN_WRITE };

/* Do something with each run of neighbouring active elements. */
static bool for_runs(struct vcpu *v, const struct insn *in, const struct stub *s, u64 off,
		     u64 active, u8 *buf, enum run_op op)
{
	unsigned i = 0;

	while (i < s->elems) {
		unsigned first = i, at, len;
		u64 o;
		bool ok;

		if (!(active >> i & 1)) {
			i++;
			continue;
		}
		while (i < s->elems && (active >> i & 1))
			i++;
		at = first * s->elem;
		len = (i - first) * s->elem;
		o = off_add(in, off, at);
		if (op == RUN_READ)
			ok = mem_read_bytes(v, in->seg, o, buf + at, len);
		else if (op == RUN_PROBE)
			ok = mem_probe_write(v, in->seg, o, len);
		else
			ok = mem_write_bytes(v, in->seg, o, buf + at, len);
		if (!ok)
			return false;
	}
	return true;
}

static bool masked_writable(struct vcpu *v, const struct insn *in, const struct stub *s,
			    u64 off, u64 active, u8 *buf)
{
	return s->flags & STUB_NOSUPP ? mem_probe_write(v, in->seg, off, s->mem_size)
				      : for_runs(v, in, s, off, active, buf, RUN_PROBE);
}

static bool masked_in(struct vcpu *v, const struct insn *in, const struct stub *s,
		      u64 off, u64 active, u8 *buf)
{
	clear(buf, s->mem_size);
	if ((s->flags & STUB_WRITE) && cpu_is_amd(v)) /* as in whole_in() */
		return masked_writable(v, in, s, off, active, buf);
	if (s->flags & STUB_WRITE)
		return true;
	if (s->flags & STUB_NOSUPP)
		return mem_read_bytes(v, in->seg, off, buf, s->mem_size);
	return for_runs(v, in, s, off, active, buf, RUN_READ);
}

static bool masked_out(struct vcpu *v, const struct insn *in, const struct stub *s,
		       u64 off, u64 active, u8 *buf)
{
	if (!(s->flags & STUB_WRITE))
		return true;
	if (!masked_writable(v, in, s, off, active, buf))
		return false;
	return for_runs(v, in, s, off, active, buf, RUN_WRITE);
}

static enum op_result slow_masked(struct vcpu *v, const struct insn *in,
				  const struct stub *s)
{
	u64 off = ea(v, in), active, trap;
	gva_t lin = lin_of(v, in, off);
	u8 *buf = v->native->bounce + (lin & 63);

	if (!check_wait(v, s))
		return OP_FAULT;
	vcpu_park(v);
	active = active_elements(v, s);
	/* With no active element even the alignment does not matter. */
	if ((active || (s->flags & STUB_NOSUPP)) &&
	    (!check_align(v, s, lin) || !check_ac(v, in, s, off, active)))
		return OP_FAULT;
	if (!masked_in(v, in, s, off, active, buf))
		return OP_FAULT;
	trap = run(v, s, buf);
	if (trap)
		return native_fault(v, trap);
	native_done(v);
	if (!masked_out(v, in, s, off, active, buf))
		return OP_FAULT;
	return OP_NEXT;
}

enum op_result native_slow(struct vcpu *v, const struct insn *in, const struct stub *s)
{
	return s->mask == MASK_NONE ? slow_whole(v, in, s) : slow_masked(v, in, s);
}

/* ---- gather and scatter ---- */

struct gather {
	u64 base; /* offset without index */
	u64 mask; /* elements still to do */
	u8 index[64], data[64];
};

static u64 gather_off(const struct insn *in, const struct stub *s, const struct gather *g,
		      unsigned i)
{
	const u8 *p = g->index + i * s->index_size;
	u64 index = s->index_size == 8 ? le_load(p, 8) : (u64)(i64)(i32)le_load(p, 4);

	return off_add(in, g->base, index << s->scale);
}

static bool gather_one(struct vcpu *v, const struct insn *in, const struct stub *s,
		       struct gather *g, unsigned i)
{
	u64 off = gather_off(in, s, g, i);
	u8 *p = g->data + i * s->elem;

	/* Elements are not checked for alignment. */
	if (s->flags & STUB_SCATTER)
		return mem_write_bytes(v, in->seg, off, p, s->elem);
	return mem_read_bytes(v, in->seg, off, p, s->elem);
}

/*
 * The mask register after the elements in g->mask are all that is left. Those that are
 * become all ones; with AMD's processors all from the one that faults on stay.
 */
static void gather_put_mask(struct vcpu *v, const struct stub *s, const struct gather *g)
{
	bool amd = cpu_is_amd(v);
	u64 zero = amd && g->mask ? (g->mask & -g->mask) - 1 : ~g->mask;
	u8 m[64];

	/* Bits above the lanes stay until all is done. */
	if (s->mask == MASK_K) {
		u64 keep = g->mask ? vec_k_get(v, s->mask_reg) & ~low_bits(s->lanes) : 0;

		vec_k_put(v, s->mask_reg, keep | g->mask);
		return;
	}
	vec_get(v, s->mask_reg, m, s->lanes * s->elem);
	for (unsigned i = 0; i < s->lanes * s->elem; i++) {
		if (zero >> (i / s->elem) & 1)
			m[i] = 0;
		else if (!amd)
			m[i] = 0xff;
	}
	vec_put(v, s->mask_reg, m, s->lanes * s->elem);
}

enum op_result native_gather(struct vcpu *v, const struct insn *in)
{
	const struct stub *s = stub_of(v, in);
	unsigned len = s->lanes * s->elem;
	bool ok = true;
	struct gather g;
	u64 all;

	if (unlikely(!state_ok(v, s))) {
		native_state_fault(v, s);
		return OP_FAULT;
	}
	vcpu_park(v);
	g.base = ea(v, in);
	g.mask = all = lane_mask(v, s);
	vec_get(v, s->index, g.index, s->lanes * s->index_size);
	vec_get(v, s->data, g.data, len);
	for (unsigned i = 0; i < s->lanes && ok; i++) {
		if (!(g.mask >> i & 1))
			continue;
		ok = gather_one(v, in, s, &g, i);
		if (ok)
			g.mask &= ~BIT(i);
	}
	if (!ok && g.mask == all && s->mask == MASK_K)
		return OP_FAULT;
	gather_put_mask(v, s, &g);
	if (!(s->flags & STUB_SCATTER)) {
		if (ok)
			vec_put(v, s->data, g.data, len);
		else
			vec_merge(v, s->data, g.data, len);
	}
	/* A single-step trap comes first when there was progress: SDM 2 VPGATHERDD. */
	if (!ok && g.mask != all && (v->flags & RFLAGS_TF))
		return OP_AGAIN;
	return op_done(ok);
}

/* ---- VZEROUPPER, VZEROALL outside 64-bit mode ---- */

/* Registers 8 to 15 cannot be named there, and stay. */
enum op_result native_vzero(struct vcpu *v, const struct insn *in)
{
	const struct stub *s = stub_of(v, in);
	bool all = s->flags & STUB_ZERO_ALL;
	u8 low[16];

	if (unlikely(!state_ok(v, s))) {
		native_state_fault(v, s);
		return OP_FAULT;
	}
	vcpu_park(v);
	clear(low, sizeof(low));
	for (unsigned i = 0; i < 8; i++) {
		if (!all)
			vec_get(v, i, low, sizeof(low));
		vec_put(v, i, low, sizeof(low));
	}
	return OP_NEXT;
}

/* ---- MOVDIR64B ---- */

/* Destination ES:reg, no override; it must be aligned, and faults come source first. */
enum op_result native_movdir64b(struct vcpu *v, const struct insn *in)
{
	u64 dst = v->gpr[in->reg] & size_mask(in->adsize);
	gva_t lin = dst + (v->code_size == 8 ? 0 : v->seg[ES].base);
	u8 *buf = v->native->bounce;
	void *p;

	if (!mem_read_bytes(v, in->seg, ea(v, in), buf, 64))
		return OP_FAULT;
	if (lin & 63)
		return op_gp0(v);
	p = v->native->movdir64b ? mem_fast_ptr(v, ES, dst, 64, ACC_WRITE) : NULL;
	if (!p)
		return op_done(mem_write_bytes(v, ES, dst, buf, 64));
	/* movdir64b rdi, [rsi]: one write of 64 bytes, as the guest may rely on. */
	__asm__ volatile(".byte 0x66, 0x0f, 0x38, 0xf8, 0x3e"
			 :
			 : "D"(p), "S"(buf)
			 : "memory");
	return OP_NEXT;
}
