/*
 * Moving the guest's vector and x87 state between the host's registers and v->xsave.
 *
 * SDM volume 1 chapter 13. The components are x87, SSE, AVX and AVX-512, as far as the
 * host has them; PKRU is never given to the host. The compacted format is used where the
 * host has it, as it is the same on all of them; a host without has no AVX-512, or its
 * standard format is like it (host_caps() in native.c). Where XSTATE_BV is clear the
 * component has its initial values and the bytes mean nothing. The x87 pointers are kept
 * in v->fip and its neighbours: those in the registers are addresses of this process.
 * Thread: the owner of the vCPU; no lock.
 */
#include "engine/interp/vector.h"

#include "engine/interp/native.h"
#include "engine/interp/stub.h"
#include "x86/trial.h"

/*
 * What the compiler may assume about the x87 and SSE units at a function call: the ABI's
 * control words and nothing else. XSTATE_BV is 0, so all components get their initial
 * values.
 */
static const struct {
	u8 area[576] __attribute__((aligned(64)));
} host_default = {
	.area = {
		[XSAVE_FCW] = 0x7f,
		[XSAVE_FCW + 1] = 0x03,
		[XSAVE_MXCSR] = 0x80,
		[XSAVE_MXCSR + 1] = 0x1f,
	},
};

static u64 *u64_at(struct vcpu *v, unsigned off)
{
	return (u64 *)(void *)(v->xsave + off);
}

/* No memset: libc's may use vector registers. */
static void clear(void *p, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static void xrstor(const void *area, u64 mask)
{
	__asm__ volatile("xrstor64 (%0)"
			 :
			 : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32))
			 : "memory");
}

static void xsave(void *area, const struct native *n)
{
	u64 mask = n->xcr0;

	if (likely(n->xsavec))
		__asm__ volatile("xsavec64 (%0)"
				 :
				 : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32))
				 : "memory");
	else if (n->xsaveopt)
		__asm__ volatile("xsaveopt64 (%0)"
				 :
				 : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32))
				 : "memory");
	else
		__asm__ volatile("xsave64 (%0)"
				 :
				 : "r"(area), "a"((u32)mask), "d"((u32)(mask >> 32))
				 : "memory");
}

void vec_load(struct vcpu *v)
{
	const struct native *n = v->native;
	u64 *header = u64_at(v, XSAVE_XSTATE_BV);
	u32 *mxcsr = (u32 *)(void *)(v->xsave + XSAVE_MXCSR);

	/* The registers of the one that it stands in for may be live. */
	if (unlikely(v->trial))
		vcpu_park(v->trial->real);
	/*
	 * XRSTOR faults on reserved bits. No guest instruction can put them there, but a
	 * state that was loaded from outside may have them.
	 */
	header[0] &= n->xcr0;
	for (unsigned i = 1; i < 8; i++)
		header[i] = 0;
	*mxcsr &= n->mxcsr_mask;
	if (n->xsavec)
		header[1] = n->xcr0 | XCOMP_COMPACTED;
	xrstor(v->xsave, n->xcr0);
	header[1] = 0;
	/* Compacted, MXCSR is a part of SSE. */
	if (!(header[0] & XCR0_SSE))
		__asm__ volatile("ldmxcsr %0" : : "m"(*mxcsr));
	v->vec_live = true;
}

/* These components are in their initial configuration, and say so: x86/xsave.h. */
static void initial(struct vcpu *v, u64 comps)
{
	if (comps & XCR0_X87) {
		clear(v->xsave, XSAVE_MXCSR);
		*(u16 *)(void *)(v->xsave + XSAVE_FCW) = 0x37f;
		clear(v->xsave + XSAVE_ST, XSAVE_XMM - XSAVE_ST);
	}
	if (comps & XCR0_SSE)
		clear(v->xsave + XSAVE_XMM, 256);
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (comps >> i & 1)
			clear(v->xsave + xcomp_layout[i].offset, xcomp_layout[i].size);
}

void vec_save(struct vcpu *v)
{
	const struct native *n = v->native;
	u64 *bv = u64_at(v, XSAVE_XSTATE_BV), was = *bv;

	/* It may be left out with an otherwise initial SSE state; vec_load() reads it. */
	__asm__ volatile("stmxcsr %0" : "=m"(*(u32 *)(void *)(v->xsave + XSAVE_MXCSR)));
	xsave(v->xsave, n);
	*u64_at(v, XSAVE_XCOMP_BV) = 0;
	/* What has left use was not written. */
	if (unlikely(was & ~*bv))
		initial(v, was & ~*bv);
	xrstor(host_default.area, n->xcr0);
	v->vec_live = false;
	/* Not the addresses of this process: states that are equal must look equal. */
	*(u16 *)(void *)(v->xsave + XSAVE_FOP) = 0;
	*u64_at(v, XSAVE_FIP) = 0;
	*u64_at(v, XSAVE_FDP) = 0;
}

/*
 * Register 'reg' lies in up to three places: bits 127..0, 255..128, 511..256; from 16 on
 * in one.
 */
struct part {
	unsigned off; /* in v->xsave */
	unsigned at, len;
	unsigned comp; /* state component */
};

static unsigned parts_of(unsigned reg, struct part p[3])
{
	if (reg >= 16) {
		p[0] = (struct part){ XSAVE_HI16_ZMM + (reg - 16) * 64, 0, 64, 7 };
		return 1;
	}
	p[0] = (struct part){ XSAVE_XMM + reg * 16, 0, 16, 1 };
	p[1] = (struct part){ XSAVE_YMM + reg * 16, 16, 16, 2 };
	p[2] = (struct part){ XSAVE_ZMM_HI256 + reg * 32, 32, 32, 6 };
	return 3;
}

static bool in_use(const struct vcpu *v, unsigned comp)
{
	return *(const u64 *)(const void *)(v->xsave + XSAVE_XSTATE_BV) >> comp & 1;
}

/* Before writing to a component: its bytes count from now on. */
static void use(struct vcpu *v, unsigned comp)
{
	if (in_use(v, comp))
		return;
	initial(v, BIT(comp));
	*u64_at(v, XSAVE_XSTATE_BV) |= BIT(comp);
}

void vec_get(const struct vcpu *v, unsigned reg, void *buf, unsigned len)
{
	struct part p[3];
	unsigned n = parts_of(reg, p);

	for (unsigned i = 0; i < n && p[i].at < len; i++) {
		unsigned size = MIN(len - p[i].at, p[i].len);

		if (in_use(v, p[i].comp))
			copy((u8 *)buf + p[i].at, v->xsave + p[i].off, size);
		else
			clear((u8 *)buf + p[i].at, size);
	}
}

void vec_merge(struct vcpu *v, unsigned reg, const void *buf, unsigned len)
{
	struct part p[3];
	unsigned n = parts_of(reg, p);

	for (unsigned i = 0; i < n && p[i].at < len; i++) {
		use(v, p[i].comp);
		copy(v->xsave + p[i].off, (const u8 *)buf + p[i].at,
		     MIN(len - p[i].at, p[i].len));
	}
}

void vec_put(struct vcpu *v, unsigned reg, const void *buf, unsigned len)
{
	struct part p[3];
	unsigned n = parts_of(reg, p);

	for (unsigned i = 0; i < n; i++)
		if (in_use(v, p[i].comp))
			clear(v->xsave + p[i].off, p[i].len);
	vec_merge(v, reg, buf, len);
}

u64 vec_k_get(const struct vcpu *v, unsigned k)
{
	return in_use(v, 5)
		       ? *(const u64 *)(const void *)(v->xsave + XSAVE_OPMASK + k * 8)
		       : 0;
}

void vec_k_put(struct vcpu *v, unsigned k, u64 val)
{
	use(v, 5);
	*u64_at(v, XSAVE_OPMASK + k * 8) = val;
}

u64 vec_mmx_get(const struct vcpu *v, unsigned reg)
{
	unsigned top = v->xsave[XSAVE_FSW + 1] >> 3 & 7;

	/* The image is in stack order, MMX registers are the physical ones. */
	if (!in_use(v, 0))
		return 0;
	return *(const u64 *)(const void *)(v->xsave + XSAVE_ST + ((reg - top) & 7) * 16);
}
