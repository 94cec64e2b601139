/*
 * Comparing two vCPUs: by struct offsets where it is done for every block, component by
 * component for vector state, where bytes of what is in its initial state mean nothing
 * (SDM volume 1 section 13.6). Thread: the owner of both.
 */
#include "engine/check/state.h"

#include "x86/xsave.h"

/* Both aligned, n a multiple of 8. */
static bool words_same(const void *a, const void *b, size_t n)
{
	const u64 *p = a, *q = b;
	u64 d = 0;

	for (size_t i = 0; i < n / 8; i++)
		d |= p[i] ^ q[i];
	return !d;
}

static void copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

#define OFF(field) offsetof(struct vcpu, field)

_Static_assert(OFF(xsave) % 8 == 0 && OFF(arch_end) % 8 == 0 && OFF(fault) % 8 == 0,
	       "words");

bool state_same(const struct vcpu *a, const struct vcpu *b)
{
	return words_same(a, b, OFF(xsave)) &&
	       words_same((const u8 *)a + OFF(arch_end), (const u8 *)b + OFF(arch_end),
			  OFF(fault) - OFF(arch_end));
}

static bool in_use(const struct vcpu *v, unsigned comp)
{
	return *(const u64 *)(const void *)(v->xsave + XSAVE_XSTATE_BV) >> comp & 1;
}

static bool is_zero(const struct vcpu *v, unsigned off, unsigned len)
{
	const u64 *p = (const u64 *)(const void *)(v->xsave + off);
	u64 d = 0;

	for (unsigned i = 0; i < len / 8; i++)
		d |= p[i];
	return !d;
}

/* A part of a component that is zero when initial. */
static bool part_same(const struct vcpu *a, const struct vcpu *b, unsigned comp,
		      unsigned off, unsigned len)
{
	if (in_use(a, comp) && in_use(b, comp))
		return words_same(a->xsave + off, b->xsave + off, len);
	return (!in_use(a, comp) || is_zero(a, off, len)) &&
	       (!in_use(b, comp) || is_zero(b, off, len));
}

/* Control, status and tag word. */
static u64 x87_words(const struct vcpu *v)
{
	const u64 *p = (const u64 *)(const void *)v->xsave;

	return in_use(v, 0) ? *p & ((UINT64_C(1) << 48) - 1) : 0x37f;
}

static u32 mxcsr(const struct vcpu *v)
{
	return *(const u32 *)(const void *)(v->xsave + XSAVE_MXCSR);
}

bool vectors_same(const struct vcpu *a, const struct vcpu *b)
{
	if (a->fip != b->fip || a->fdp != b->fdp || a->fcs != b->fcs ||
	    a->fds != b->fds || a->fop != b->fop)
		return false;
	if (x87_words(a) != x87_words(b) || mxcsr(a) != mxcsr(b) ||
	    !part_same(a, b, 0, XSAVE_ST, 128) || !part_same(a, b, 1, XSAVE_XMM, 256))
		return false;
	for (unsigned i = 2; i < 8; i++)
		if (xcomp_layout[i].size &&
		    !part_same(a, b, i, xcomp_layout[i].offset, xcomp_layout[i].size))
			return false;
	return true;
}

void state_copy(struct vcpu *dst, struct vcpu *src)
{
	copy(dst, src, OFF(fault));
	copy(dst->features, src->features, sizeof(dst->features));
	dst->apic_page = src->apic_page;
	dst->apic_ops = src->apic_ops;
}
