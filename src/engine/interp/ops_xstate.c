/*
 * Instructions that save and restore x87, SSE and extended state, or name its parts:
 * FXSAVE, FNSAVE, FNSTENV, XSAVE, XGETBV and their relatives.
 *
 * SDM volume 2, their pages; what they do is in x86/xsave.c and works on the parked
 * state. Here: #NM for CR0.EM and TS, and pending x87 errors, which FLDENV and FRSTOR
 * report first. STMXCSR, FNINIT and FWAIT run natively; LDMXCSR would too but that AMD's
 * hosts take bit 17 (misaligned exception mask), which guests do not have. Thread: the
 * owner of the vCPU; no lock.
 */
#include "engine/interp/ops.h"
#include "x86/xsave.h"

static bool rexw(const struct insn *in)
{
	return in->flags & INSN_REXW;
}

static u64 rfbm(const struct vcpu *v)
{
	return (u64)(u32)v->gpr[RDX] << 32 | (u32)v->gpr[RAX];
}

static bool x87_ready(struct vcpu *v)
{
	if (v->cr0 & (CR0_EM | CR0_TS))
		return raise_vec(v, VEC_NM);
	vcpu_park(v);
	return true;
}

/* The same for instructions that report an unmasked x87 error before they do anything. */
static bool x87_ready_wait(struct vcpu *v)
{
	const u64 *bv = (const void *)(v->xsave + XSAVE_XSTATE_BV);

	if (!x87_ready(v))
		return false;
	/* FSW.ES */
	if ((*bv & XCR0_X87) && (v->xsave[XSAVE_FSW] & 0x80))
		return raise_vec(v, VEC_MF);
	return true;
}

enum op_result op_fxsave(struct vcpu *v, const struct insn *in)
{
	vcpu_park(v);
	return op_done(fxsave(v, in->seg, ea(v, in), rexw(in)));
}

enum op_result op_fxrstor(struct vcpu *v, const struct insn *in)
{
	vcpu_park(v);
	return op_done(fxrstor(v, in->seg, ea(v, in), rexw(in)));
}

enum op_result op_fnstenv(struct vcpu *v, const struct insn *in)
{
	return op_done(x87_ready(v) && fnstenv(v, in->seg, ea(v, in), in->opsize));
}

enum op_result op_fnsave(struct vcpu *v, const struct insn *in)
{
	return op_done(x87_ready(v) && fnsave(v, in->seg, ea(v, in), in->opsize));
}

enum op_result op_fldenv(struct vcpu *v, const struct insn *in)
{
	return op_done(x87_ready_wait(v) && fldenv(v, in->seg, ea(v, in), in->opsize));
}

enum op_result op_frstor(struct vcpu *v, const struct insn *in)
{
	return op_done(x87_ready_wait(v) && frstor(v, in->seg, ea(v, in), in->opsize));
}

static enum op_result load_mxcsr(struct vcpu *v, const struct insn *in, bool vex)
{
	if (!ldmxcsr(v, in->seg, ea(v, in), vex))
		return OP_FAULT;
	if (v->vec_live)
		__asm__ volatile(
			"ldmxcsr %0"
			:
			: "m"(*(const u32 *)(const void *)(v->xsave + XSAVE_MXCSR)));
	return OP_NEXT;
}

enum op_result op_ldmxcsr(struct vcpu *v, const struct insn *in)
{
	return load_mxcsr(v, in, false);
}

enum op_result op_vldmxcsr(struct vcpu *v, const struct insn *in)
{
	return load_mxcsr(v, in, true);
}

static enum op_result save(struct vcpu *v, const struct insn *in, enum xsave_kind kind)
{
	vcpu_park(v);
	return op_done(xsave_save(v, in->seg, ea(v, in), kind, rfbm(v), rexw(in)));
}

enum op_result op_xsave(struct vcpu *v, const struct insn *in)
{
	return save(v, in, XSAVE_XSAVE);
}

enum op_result op_xsaveopt(struct vcpu *v, const struct insn *in)
{
	return save(v, in, XSAVE_XSAVEOPT);
}

enum op_result op_xsavec(struct vcpu *v, const struct insn *in)
{
	return save(v, in, XSAVE_XSAVEC);
}

enum op_result op_xsaves(struct vcpu *v, const struct insn *in)
{
	return save(v, in, XSAVE_XSAVES);
}

/* PKRU can be among what is restored, so translations may have changed. */
enum op_result op_xrstor(struct vcpu *v, const struct insn *in)
{
	vcpu_park(v);
	return op_ended(xsave_restore(v, in->seg, ea(v, in), false, rfbm(v), rexw(in)));
}

enum op_result op_xrstors(struct vcpu *v, const struct insn *in)
{
	vcpu_park(v);
	return op_ended(xsave_restore(v, in->seg, ea(v, in), true, rfbm(v), rexw(in)));
}

enum op_result op_xgetbv(struct vcpu *v, const struct insn *in)
{
	u64 val;

	(void)in;
	vcpu_park(v);
	if (!xgetbv(v, (u32)v->gpr[RCX], &val))
		return OP_FAULT;
	v->gpr[RAX] = (u32)val;
	v->gpr[RDX] = val >> 32;
	return OP_NEXT;
}

enum op_result op_xsetbv(struct vcpu *v, const struct insn *in)
{
	(void)in;
	vcpu_park(v);
	return op_ended(xsetbv(v, (u32)v->gpr[RCX], rfbm(v)));
}
