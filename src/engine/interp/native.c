/*
 * Executing stubs: the functions a decoded instruction points to.
 *
 * Faults of the host CPU in a stub come back as a result: #XM and #MF are the guest's own
 * exceptions, #GP a misaligned operand, #UD an instruction the host does not have. The
 * stub did nothing then. Order of checks: SDM volume 2 section 2.4 (#UD by state, then
 * #NM), memory (native_mem.c), then the instruction itself.
 *
 * x87 pointers follow SDM volume 1 section 8.1.8: FIP and FOP at each non-control
 * instruction, FDP at each with a memory operand. CR0.NE = 0 (FERR and IRQ 13) is treated
 * as NE = 1: an unmasked x87 error is #MF. Thread: the owner of the vCPU; no lock.
 */
#include "engine/interp/native.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "engine/interp/interp.h"
#include "engine/interp/stub.h"
#include "host/execmem.h"
#include "host/sig.h"
#include "x86/stats.h"

/* ---- faults ---- */

/* Signal context: leave the stub with the trap as its result. Stubs keep rsp as it was.
 */
static bool stub_fault(void *opaque, struct sig_regs *r)
{
	const struct native *n = opaque;

	r->gpr[RAX] = r->trap + 1;
	r->rip = (u64)n->fault_exit;
	return true;
}

enum op_result native_fault(struct vcpu *v, u64 trap)
{
	native_done(v);
	switch (trap - 1) {
	case VEC_MF: raise_vec(v, VEC_MF); break;
	case VEC_XM:
		/* SDM 3 section 2.5, CR4.OSXMMEXCPT. */
		raise_vec(v, v->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
		break;
	case VEC_UD: raise_ud(v); break;
	default:
		/* A page fault here would be ours: an operand smaller than the host
		 * thinks. */
		if (trap - 1 != VEC_GP)
			v->stats->native_stray++;
		raise_gp0(v);
	}
	return OP_FAULT;
}

/* Why state_ok() said no. Returns false. */
bool native_state_fault(struct vcpu *v, const struct stub *s)
{
	u64 ud_cr0 = CR0_PE;

	/* EM makes x87 instructions #NM, MMX and SSE #UD. */
	if (s->cls != NC_X87)
		ud_cr0 |= CR0_EM;
	if (((v->cr0 ^ CR0_PE) & s->cr0_bad & ud_cr0) || (~v->cr4 & s->cr4_need) ||
	    (~v->xcr0 & s->xcr0_need) || (v->flags & s->flags_bad))
		return raise_ud(v);
	return raise_vec(v, VEC_NM);
}

static enum op_result bad_state(struct vcpu *v, const struct stub *s)
{
	native_state_fault(v, s);
	return OP_FAULT;
}

/* ---- execution ---- */

/* Host address of an operand in one plain page, NULL: the slow way. */
static inline void *plain(struct vcpu *v, const struct insn *in, unsigned size,
			  enum access acc)
{
	const struct tlb_way *t = &v->tlb.way[v->mmu_idx];
	unsigned slot;
	gva_t lin;

	if (!seg_linear(v, in->seg, ea(v, in), size, acc, &lin))
		return NULL;
	slot = tlb_slot(lin);
	if (likely((acc == ACC_WRITE ? t->write : t->read)[slot] ==
			   tlb_tag(lin & ~UINT64_C(0xfff)) &&
		   in_page(lin, size) && !v->ac_check))
		return (void *)(lin + t->addend[slot]);
	return NULL;
}

static inline enum op_result run(struct vcpu *v, const struct stub *s, void *mem,
				 bool vec)
{
	u64 trap;

	if (vec)
		vec_need(v);
	trap = s->code(v, mem);
	if (unlikely(trap))
		return native_fault(v, trap);
	native_done(v);
	return OP_NEXT;
}

static inline enum op_result run_reg(struct vcpu *v, const struct insn *in, bool vec)
{
	const struct stub *s = stub_of(v, in);

	if (unlikely(!state_ok(v, s)))
		return bad_state(v, s);
	return run(v, s, NULL, vec);
}

static inline enum op_result run_mem(struct vcpu *v, const struct insn *in,
				     enum access acc, bool vec)
{
	const struct stub *s = stub_of(v, in);
	void *p;

	if (unlikely(!state_ok(v, s)))
		return bad_state(v, s);
	p = plain(v, in, s->mem_size, acc);
	if (unlikely(!p))
		return native_slow(v, in, s);
	return run(v, s, p, vec);
}

enum op_result native_reg(struct vcpu *v, const struct insn *in)
{
	return run_reg(v, in, true);
}

enum op_result native_load(struct vcpu *v, const struct insn *in)
{
	return run_mem(v, in, ACC_READ, true);
}

enum op_result native_store(struct vcpu *v, const struct insn *in)
{
	return run_mem(v, in, ACC_WRITE, true);
}

enum op_result native_gpr_reg(struct vcpu *v, const struct insn *in)
{
	return run_reg(v, in, false);
}

enum op_result native_gpr_load(struct vcpu *v, const struct insn *in)
{
	return run_mem(v, in, ACC_READ, false);
}

enum op_result native_gpr_store(struct vcpu *v, const struct insn *in)
{
	return run_mem(v, in, ACC_WRITE, false);
}

/* ---- x87 ---- */

static inline void x87_pointers(struct vcpu *v, const struct insn *in,
				const struct stub *s)
{
	bool zero = cpu_has(v, FEAT_ZERO_FCS_FDS);

	if (!(s->flags & STUB_X87))
		return;
	v->fip = this_ip(v, in);
	v->fcs = zero ? 0 : v->seg[CS].sel;
	v->fop = (u16)((in->opcode & 7) << 8 | in->modrm);
	if (in->flags & INSN_MEM) {
		v->fdp = ea(v, in);
		v->fds = zero ? 0 : v->seg[in->seg].sel;
	}
}

enum op_result native_x87_reg(struct vcpu *v, const struct insn *in)
{
	enum op_result r = run_reg(v, in, true);

	if (likely(r == OP_NEXT))
		x87_pointers(v, in, stub_of(v, in));
	return r;
}

enum op_result native_x87_load(struct vcpu *v, const struct insn *in)
{
	enum op_result r = run_mem(v, in, ACC_READ, true);

	if (likely(r == OP_NEXT))
		x87_pointers(v, in, stub_of(v, in));
	return r;
}

enum op_result native_x87_store(struct vcpu *v, const struct insn *in)
{
	enum op_result r = run_mem(v, in, ACC_WRITE, true);

	if (likely(r == OP_NEXT))
		x87_pointers(v, in, stub_of(v, in));
	return r;
}

enum op_result native_fninit(struct vcpu *v, const struct insn *in)
{
	enum op_result r = run_reg(v, in, true);

	if (likely(r == OP_NEXT)) {
		v->fip = v->fdp = 0;
		v->fcs = v->fds = v->fop = 0;
	}
	return r;
}

/* #NM with MP and TS both set; EM does not matter. SDM 2 WAIT. */
enum op_result native_fwait(struct vcpu *v, const struct insn *in)
{
	if (unlikely((v->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))) {
		raise_vec(v, VEC_NM);
		return OP_FAULT;
	}
	return run(v, stub_of(v, in), NULL, true);
}

/* ---- set-up ---- */

static u64 xgetbv0(void)
{
	u32 lo, hi;

	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (u64)hi << 32 | lo;
}

static u32 mxcsr_mask(void)
{
	static const u32 old =
		0xffbf; /* a zero mask means no DAZ: SDM 1 section 11.6.6 */
	u8 area[512] __attribute__((aligned(16)));
	u32 mask;

	__asm__ volatile("fxsave64 %0" : "=m"(area));
	mask = *(const ua32 *)(area + 28);
	return mask ? mask : old;
}

/* Are the host's images of these components like v->xsave? cpuid_build.c asks the same.
 */
static bool standard_is_ours(u64 xcr0)
{
	unsigned a, b, c, d;

	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (xcr0 >> i & 1 && (!__get_cpuid_count(0xd, i, &a, &b, &c, &d) ||
				      b != xcomp_layout[i].offset))
			return false;
	return true;
}

static int host_caps(struct native *n, struct error *err)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return error_set(err, -ENOTSUP,
				 "the host CPU or its kernel has no XSAVE");
	n->xcr0 = xgetbv0() & XCR0_VECTOR;
	n->mxcsr_mask = mxcsr_mask();
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d)) {
		n->xsaveopt = a & 1;
		n->xsavec = a >> 1 & 1;
	}
	if (!n->xsavec && !standard_is_ours(n->xcr0))
		n->xcr0 &= ~XCR0_AVX512;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
		n->movdir64b = c >> 28 & 1;
	return 0;
}

/* The two pieces of code every stub may need. False: no memory. */
static bool emit_fixed(struct native *n)
{
	static const u8 wait[] = { 0x9b, 0x31, 0xc0,
				   0xc3 }; /* fwait; xor eax, eax; ret */
	u8 *w, *p = execmem_alloc(n->mem, 16, 16, &w);

	if (!p)
		return false;
	w[0] = 0xc3;
	n->fault_exit = p;
	p = execmem_alloc(n->mem, 16, 16, &w);
	if (!p)
		return false;
	for (unsigned i = 0; i < sizeof(wait); i++)
		w[i] = wait[i];
	n->wait = (stub_code *)(uintptr_t)p;
	return true;
}

int native_open(struct vcpu *v, struct error *err)
{
	struct native *n = xzalloc_aligned(64, sizeof(*n));
	int r = host_caps(n, err);

	if (r < 0)
		goto free_n;
	n->mem = execmem_new((STUB_MAX + 2) * STUB_CODE_MAX, err);
	if (!n->mem) {
		r = -EACCES;
		goto free_n;
	}
	if (!emit_fixed(n)) {
		r = error_set(err, -ENOMEM, "no memory for code");
		goto free_mem;
	}
	n->sig = sig_add(execmem_base(n->mem), execmem_size(n->mem), stub_fault, n, err);
	if (n->sig < 0) {
		r = n->sig;
		goto free_mem;
	}
	n->stub = xzalloc(STUB_MAX * sizeof(*n->stub));
	n->count = 1;
	v->native = n;
	v->vec_park = vec_save;
	v->vec_live = false;
	return 0;
free_mem:
	execmem_free(n->mem);
free_n:
	free(n);
	return r;
}

void native_close(struct vcpu *v)
{
	struct native *n = v->native;

	if (!n)
		return;
	vcpu_park(v);
	sig_remove(n->sig);
	execmem_free(n->mem);
	free(n->stub);
	free(n);
	v->native = NULL;
	v->vec_park = NULL;
}

bool native_full(const struct vcpu *v)
{
	return v->native->count > STUB_MAX - NATIVE_MARGIN;
}

void native_flush(struct vcpu *v)
{
	struct native *n = v->native;

	execmem_reset(n->mem);
	emit_fixed(n); /* there is room: it was there before */
	for (unsigned i = 0; i < STUB_HASH; i++)
		n->head[i] = 0;
	n->count = 1;
}
