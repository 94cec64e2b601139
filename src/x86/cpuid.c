/*
 * The CPUID instruction: answers from the machine's table, with the bits that change.
 *
 * SDM volume 2 CPUID; APM volume 3 appendix E. The table is immutable; what depends on
 * the state of the CPU (OSXSAVE, OSPKE, APIC, MONITOR, NX, sizes in leaf 0DH, APIC IDs)
 * is put in here. No CPUID faulting. Thread: the owner of the vCPU. No vector registers:
 * runs with guest state live.
 */
#include "x86/cpuid.h"

#include "x86/msr.h"
#include "x86/xsave.h"

enum { OUT_EAX, OUT_EBX, OUT_ECX, OUT_EDX };

void cpuid_attach(struct vcpu *v, const struct cpuid_table *t)
{
	v->cpuid = t;
	v->phys_bits = t->phys_bits;
	for (unsigned i = 0; i < FEATURE_WORDS; i++)
		v->features[i] = t->features[i];
}

static bool has_subleaves(u32 leaf)
{
	switch (leaf) {
	case 4:
	case 7:
	case 0xb:
	case 0xd:
	case 0x14:
	case 0x1f:
	case 0x8000001d: return true;
	default: return false;
	}
}

static const struct cpuid_leaf *find(const struct cpuid_table *t, u32 leaf, u32 subleaf)
{
	if (!has_subleaves(leaf))
		subleaf = 0;
	for (unsigned i = 0; i < t->count; i++)
		if (t->leaf[i].leaf == leaf && t->leaf[i].subleaf == subleaf)
			return &t->leaf[i];
	return NULL;
}

static u32 max_basic(const struct vcpu *v)
{
	const struct cpuid_table *t = v->cpuid;

	if (t->vendor == VENDOR_INTEL &&
	    v->msr[MSRI_MISC_ENABLE] & MISC_ENABLE_LIMIT_CPUID)
		return MIN(t->max_basic, 2u);
	return t->max_basic;
}

/*
 * The leaf that is answered. False: all zero. Out of range Intel CPUs answer with
 * the highest basic leaf, AMD's with zeros.
 */
static bool in_range(const struct vcpu *v, u32 *leaf)
{
	const struct cpuid_table *t = v->cpuid;
	u32 max = 0;

	if (*leaf < 0x40000000) {
		if (*leaf <= max_basic(v))
			return true;
	} else if (*leaf < 0x80000000) {
		max = t->max_hypervisor;
	} else {
		max = t->max_extended;
	}
	if (*leaf <= max)
		return true;
	*leaf = max_basic(v);
	return t->vendor == VENDOR_INTEL;
}

static void set_bit32(u32 *reg, unsigned feature, bool on)
{
	u32 bit = 1u << (feature % 32);

	*reg = on ? *reg | bit : *reg & ~bit;
}

static bool apic_enabled(const struct vcpu *v)
{
	u64 base;

	if (!cpu_has(v, FEAT_APIC))
		return false;
	if (!v->platform || !v->platform->msr_read ||
	    v->platform->msr_read(v->platform_opaque, IA32_APIC_BASE, &base) != 1)
		return true;
	return base & BIT(11);
}

static void xsave_leaf(const struct vcpu *v, u32 subleaf, u32 out[4])
{
	const struct cpuid_table *t = v->cpuid;

	if (subleaf == 0)
		out[OUT_EBX] = xsave_standard_size(t->vendor, t->xcr0, v->xcr0);
	else if (subleaf == 1 && cpu_has(v, FEAT_XSAVES))
		out[OUT_EBX] = xsave_compacted_size(v->xcr0 | v->msr[MSRI_XSS]);
	else if (subleaf == 1 && cpu_has(v, FEAT_XSAVEC))
		out[OUT_EBX] = xsave_compacted_size(v->xcr0);
}

static void dynamic(const struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpuid_table *t = v->cpuid;
	u32 id = cpuid_apic_id(t, v->index);

	switch (leaf) {
	case 0: out[OUT_EAX] = max_basic(v); break;
	case 1:
		out[OUT_EBX] |= (id & 0xff) << 24;
		set_bit32(&out[OUT_EDX], FEAT_APIC, apic_enabled(v));
		set_bit32(&out[OUT_ECX], FEAT_OSXSAVE, v->cr4 & CR4_OSXSAVE);
		set_bit32(&out[OUT_ECX], FEAT_MONITOR, cpu_has(v, FEAT_MONITOR));
		break;
	case 7:
		if (subleaf == 0)
			set_bit32(&out[OUT_ECX], FEAT_OSPKE, v->cr4 & CR4_PKE);
		break;
	case 0xb:
	case 0x1f:
		out[OUT_ECX] = (out[OUT_ECX] & ~0xffu) | (subleaf & 0xff);
		out[OUT_EDX] = id;
		break;
	case 0xd: xsave_leaf(v, subleaf, out); break;
	case 0x80000001:
		set_bit32(&out[OUT_EDX], FEAT_NX, cpu_has(v, FEAT_NX));
		if (t->vendor == VENDOR_AMD) /* repeats leaf 1 */
			set_bit32(&out[OUT_EDX], FEAT_APIC, apic_enabled(v));
		else if (v->code_size != 8) /* Intel: SYSCALL is for 64-bit mode alone */
			set_bit32(&out[OUT_EDX], FEAT_SYSCALL, false);
		break;
	case 0x8000001e:
		out[OUT_EAX] = id;
		out[OUT_EBX] |= (id & ((1u << t->package_shift) - 1)) >> t->thread_shift;
		out[OUT_ECX] |= id >> t->package_shift;
		break;
	default: break;
	}
}

void cpuid_query(const struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpuid_leaf *l;

	out[OUT_EAX] = out[OUT_EBX] = out[OUT_ECX] = out[OUT_EDX] = 0;
	if (!in_range(v, &leaf))
		return;
	l = find(v->cpuid, leaf, subleaf);
	if (l) {
		for (unsigned i = 0; i < 4; i++)
			out[i] = l->reg[i];
	} else if (leaf != 0xb && leaf != 0x1f) {
		return;
	}
	dynamic(v, leaf, subleaf, out);
}
