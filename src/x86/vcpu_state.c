/*
 * The description of a vCPU's state, and what a stream of it must satisfy.
 *
 * A stream is untrusted. Refused is what the architecture cannot reach (SDM 3 sections
 * 2.5, 4.1.1, 27.3.1 lists the same conditions for VM entry) and what would
 * fault when it is loaded into host registers (MXCSR, the XSAVE header). What needs
 * the CPU's features is checked by vcpu_load().
 * Thread: any, while the vCPU is stopped.
 */
#include <assert.h>
#include <errno.h>

#include "state/save.h"
#include "x86/cr.h"
#include "x86/seg.h"
#include "x86/xsave.h"

#define ARCH_SIZE offsetof(struct vcpu, arch_end)

/* The table below names every byte: no padding in front of the aligned area. */
static_assert(offsetof(struct vcpu, xsave) == offsetof(struct vcpu, pending_db) + 8,
	      "struct vcpu has a hole before xsave");

/* clang-format off */
#define ARRAY(f) STATE_ARRAY(struct vcpu, f, 1)
#define FIELD(f) STATE_FIELD(struct vcpu, f, 1)
#define SEGMENT(s)                                                           \
	FIELD(seg[s].base), FIELD(seg[s].limit), FIELD(seg[s].attr),          \
	FIELD(seg[s].sel), ARRAY(seg[s].pad)
#define TABLE(t) FIELD(t.base), FIELD(t.limit), ARRAY(t.pad)

static const struct state_field vcpu_fields[] = {
	/* The two pseudo registers behind the 16 have names of their own. */
	{ .name = "gpr", .offset = offsetof(struct vcpu, gpr), .elem_size = 8, .since = 1,
	  .count = 16 },
	FIELD(rip), FIELD(reg_zero), FIELD(cc), FIELD(flags),
	SEGMENT(ES), SEGMENT(CS), SEGMENT(SS), SEGMENT(DS), SEGMENT(FS), SEGMENT(GS),
	SEGMENT(LDTR), SEGMENT(TR),
	TABLE(gdtr), TABLE(idtr),
	FIELD(cr0), FIELD(cr2), FIELD(cr3), FIELD(cr4), FIELD(xcr0),
	ARRAY(dr), FIELD(efer), ARRAY(pdpte), ARRAY(msr),
	FIELD(fip), FIELD(fdp), FIELD(fcs), FIELD(fds), FIELD(fop),
	FIELD(cpl), FIELD(activity), FIELD(shadow), FIELD(nmi_blocked),
	FIELD(sipi_vector), FIELD(pad0), FIELD(pkru), FIELD(pkrs), FIELD(pad1), FIELD(pending_db),
	ARRAY(xsave),
	{ 0 },
};
/* clang-format on */

static bool flags_valid(const struct vcpu *v)
{
	if ((v->cc & ~(u64)RFLAGS_STATUS) ||
	    (v->flags & ~(u64)(RFLAGS_ALL & ~RFLAGS_STATUS)) || !(v->flags & RFLAGS_1))
		return false;
	/* Virtual-8086 mode: protected mode at level 3, not in long mode. */
	return !(v->flags & RFLAGS_VM) ||
	       (v->cpl == 3 && (v->cr0 & CR0_PE) && !(v->efer & EFER_LMA));
}

static bool control_valid(const struct vcpu *v)
{
	bool pg = v->cr0 & CR0_PG, lme = v->efer & EFER_LME;

	if (v->cr0 & ~CR0_VALID || !(v->cr0 & CR0_ET))
		return false;
	if ((pg && !(v->cr0 & CR0_PE)) || ((v->cr0 & CR0_NW) && !(v->cr0 & CR0_CD)))
		return false;
	if (!!(v->efer & EFER_LMA) != (pg && lme) || ((pg && lme) && !(v->cr4 & CR4_PAE)))
		return false;
	if ((v->cr4 & CR4_PCIDE) && !(v->efer & EFER_LMA))
		return false;
	if (!(v->cr0 & CR0_PE) && v->cpl)
		return false;
	if ((v->dr[6] & ~DR6_WRITABLE) != DR6_FIXED ||
	    (v->dr[7] & ~DR7_WRITABLE) != DR7_FIXED)
		return false;
	return !(v->xcr0 & ~XCR0_KNOWN) && (v->xcr0 & XCR0_X87);
}

static bool segments_valid(const struct vcpu *v)
{
	bool long64 = (v->efer & EFER_LMA) && (v->seg[CS].attr & SEG_L);

	for (unsigned i = 0; i < SREG_COUNT; i++) {
		const struct seg *s = &v->seg[i];

		if (s->attr & ~(SEG_UNUSABLE | 0xf0ffu) || s->pad[0] || s->pad[1] ||
		    s->pad[2])
			return false;
		/* Only FS, GS, LDTR and TR have bases of 64 bits. */
		if (i < FS && s->base > 0xffffffff)
			return false;
	}
	/* A task without a code segment cannot run: it has shut down. */
	if ((v->seg[CS].attr & SEG_UNUSABLE) && v->activity != ACT_SHUTDOWN)
		return false;
	if (long64 && (v->seg[CS].attr & SEG_DB))
		return false;
	if (!long64 && v->rip > 0xffffffff)
		return false;
	for (unsigned i = 0; i < 3; i++)
		if (v->gdtr.pad[i] || v->idtr.pad[i])
			return false;
	return true;
}

static bool xsave_valid(const struct vcpu *v)
{
	if (le_load(v->xsave + XSAVE_MXCSR, 4) & ~(u64)MXCSR_MASK)
		return false;
	if (le_load(v->xsave + XSAVE_XSTATE_BV, 8) & ~(XCR0_KNOWN & ~XCR0_PKRU))
		return false;
	for (unsigned i = XSAVE_XCOMP_BV; i < XSAVE_EXTENDED; i += 8)
		if (le_load(v->xsave + i, 8))
			return false;
	return true;
}

/* Only the first ARCH_SIZE bytes are there. */
static bool vcpu_valid(const void *state)
{
	const struct vcpu *v = state;

	if (v->reg_zero || v->pad0 || v->pad1 || v->cpl > 3 ||
	    v->activity > ACT_WAIT_SIPI || v->shadow > (SHADOW_STI | SHADOW_MOVSS) ||
	    v->nmi_blocked > 1 || v->pending_db & ~DR6_WRITABLE)
		return false;
	return flags_valid(v) && control_valid(v) && segments_valid(v) && xsave_valid(v);
}

const struct state_desc vcpu_desc = {
	.name = "vcpu",
	.size = ARCH_SIZE,
	.version = 1,
	.fields = vcpu_fields,
	.valid = vcpu_valid,
};

void vcpu_save(const struct vcpu *v, struct state_buf *b)
{
	state_save(b, &vcpu_desc, v->index, v);
}

/* Does this CPU have what the state uses? */
static const char *unsupported(const struct vcpu *v)
{
	if (v->cr4 & ~cr4_valid_bits(v))
		return "CR4";
	if (v->efer & ~efer_valid_bits(v))
		return "EFER";
	if (!xcr0_valid(v, v->xcr0))
		return "XCR0";
	if (in_long_mode(v) && !is_canonical(v, v->rip))
		return "RIP";
	if ((v->cr0 & CR0_PG) && (v->cr3 & v->phys_reserved))
		return "CR3";
	if (le_load(v->xsave + XSAVE_XSTATE_BV, 8) &
	    ~(xcr0_valid_bits(v) | XCR0_X87 | XCR0_SSE))
		return "extended state";
	return NULL;
}

bool vcpu_consistent(const struct vcpu *v)
{
	return vcpu_valid(v) && !unsupported(v);
}

int vcpu_load(struct vcpu *v, struct state_buf *b, struct error *err)
{
	const char *what;
	int ret;

	vcpu_park(v);
	ret = state_load(b, &vcpu_desc, v->index, v, err);
	if (ret)
		return ret;
	v->shutdown = v->activity == ACT_SHUTDOWN;
	vcpu_sync(v);
	what = unsupported(v);
	if (!what)
		return 0;
	vcpu_reset(v, false);
	return error_set(err, -EINVAL,
			 "vCPU %u: %s of the saved state is more than this CPU model has",
			 v->index, what);
}
