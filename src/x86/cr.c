/*
 * Control registers, EFER and XCR0: what may be written when, and what that flushes.
 *
 * SDM volume 3 sections 2.5, 4.1.1 to 4.1.2 (transitions between paging modes), 4.4.1
 * (PDPTE loads), 4.10.4 (what invalidates the TLB), 10.8.5 (entering and leaving long
 * mode); SDM volume 2 MOV CR, LMSW, XSETBV, INVLPG, INVPCID; APM volume 2 section 3.1.7
 * (EFER). The software TLB proves permissions by its tags, so whatever changes the
 * meaning of U/S, R/W or NX flushes it, also where the manual does not ask for it. It has
 * no PCID tags: each CR3 load that changes the register drops what is not global.
 * Missing: CET, LAM, SMX, VMX.
 * Thread: the owner of the vCPU.
 */
#include "x86/cr.h"

#include "x86/access.h"
#include "x86/msr.h"
#include "x86/seg.h"

/* CR4 bits that are part of what a cached translation means. */
#define CR4_TLB                                                                          \
	(CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP |      \
	 CR4_PKE | CR4_PKS)
/* A change of these reloads the PDPTEs of PAE paging. */
#define CR0_PDPTE (CR0_PG | CR0_CD | CR0_NW)
#define CR4_PDPTE (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)

/* Would these values select PAE paging? */
static bool is_pae(u64 cr0, u64 cr4, u64 efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* CR0.PG goes from 0 to 1: may paging start, and is it in long mode? SDM 3
 * section 10.8.5. */
static bool paging_may_start(struct vcpu *v)
{
	unsigned tss = v->seg[TR].attr & (SEG_S | SEG_TYPE_MASK);

	if (!(v->efer & EFER_LME))
		return true;
	if (!(v->cr4 & CR4_PAE) || (v->seg[CS].attr & SEG_L))
		return raise_gp0(v);
	if (!(v->seg[TR].attr & SEG_UNUSABLE) &&
	    (tss == DESC_TSS16 || tss == DESC_TSS16_BUSY))
		return raise_gp0(v);
	return true;
}

static bool cr0_check(struct vcpu *v, u64 val)
{
	if (val >> 32)
		return raise_gp0(v);
	if ((val & CR0_PG) && !(val & CR0_PE))
		return raise_gp0(v);
	if ((val & CR0_NW) && !(val & CR0_CD))
		return raise_gp0(v);
	if (!(val & CR0_WP) && (v->cr4 & CR4_CET))
		return raise_gp0(v);
	if (!(val & CR0_PG) && (v->cr0 & CR0_PG) && (in_64bit(v) || (v->cr4 & CR4_PCIDE)))
		return raise_gp0(v);
	if ((val & CR0_PG) && !(v->cr0 & CR0_PG))
		return paging_may_start(v);
	return true;
}

/* The commit of CR0, whose value was checked. */
static void cr0_set(struct vcpu *v, u64 val, u64 efer)
{
	u64 changed = v->cr0 ^ val;

	v->cr0 = val;
	v->efer = efer;
	if (changed & (CR0_PG | CR0_WP)) {
		vcpu_paging_changed(v);
		tlb_flush_all(v);
	}
	/* Real mode ignores the type of a segment. */
	if (changed & CR0_PE)
		for (unsigned i = 0; i < SREG_COUNT; i++)
			seg_update_ok(v, i);
	if (changed & (CR0_PE | CR0_PG | CR0_AM))
		vcpu_mode_changed(v);
}

bool cr0_write(struct vcpu *v, u64 val)
{
	u64 efer = v->efer;

	if (v->cpl)
		return raise_gp0(v);
	if (!cr0_check(v, val))
		return false;
	val = (val & CR0_VALID) | CR0_ET;
	if ((val & CR0_PG) && (efer & EFER_LME))
		efer |= EFER_LMA;
	else
		efer &= ~EFER_LMA;
	if (is_pae(val, v->cr4, efer) && ((v->cr0 ^ val) & CR0_PDPTE) &&
	    !pdpte_load(v, v->cr3))
		return false;
	cr0_set(v, val, efer);
	return true;
}

void lmsw(struct vcpu *v, u16 val)
{
	u64 low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;

	/* PE can be set but not cleared; nothing here can be refused. */
	cr0_set(v, (v->cr0 & ~(low & ~CR0_PE)) | (val & low), v->efer);
}

bool cr3_write(struct vcpu *v, u64 val)
{
	bool keep = false;

	if (v->cpl)
		return raise_gp0(v);
	if (in_long_mode(v) && (v->cr4 & CR4_PCIDE)) {
		keep = val & CR3_NOFLUSH;
		val &= ~CR3_NOFLUSH;
	}
	if (in_64bit(v)) {
		if (val & (v->phys_reserved | BITS(63, 52)))
			return raise_gp0(v);
	} else {
		val = (u32)val;
	}
	if (is_pae(v->cr0, v->cr4, v->efer) && !pdpte_load(v, val))
		return false;
	keep = keep && val == v->cr3;
	v->cr3 = val;
	if (!keep)
		tlb_flush_nonglobal(v);
	return true;
}

void pkru_set(struct vcpu *v, u32 val)
{
	u32 changed = v->pkru ^ val;

	v->pkru = val;
	/* Kernels write it often, and mostly about keys that nobody uses. */
	if (changed & v->tlb.keys)
		tlb_flush_all(v);
}

u64 cr4_valid_bits(const struct vcpu *v)
{
	static const struct {
		u32 bits;
		u16 feature;
	} table[] = {
		{ CR4_VME | CR4_PVI, FEAT_VME },
		{ CR4_TSD, FEAT_TSC },
		{ CR4_DE, FEAT_DE },
		{ CR4_PSE, FEAT_PSE },
		{ CR4_PAE, FEAT_PAE },
		{ CR4_MCE, FEAT_MCE },
		{ CR4_PGE, FEAT_PGE },
		{ CR4_OSFXSR, FEAT_FXSR },
		{ CR4_OSXMMEXCPT, FEAT_SSE },
		{ CR4_UMIP, FEAT_UMIP },
		{ CR4_LA57, FEAT_LA57 },
		{ CR4_FSGSBASE, FEAT_FSGSBASE },
		{ CR4_PCIDE, FEAT_PCID },
		{ CR4_OSXSAVE, FEAT_XSAVE },
		{ CR4_SMEP, FEAT_SMEP },
		{ CR4_SMAP, FEAT_SMAP },
		{ CR4_PKE, FEAT_PKU },
		{ CR4_PKS, FEAT_PKS },
	};
	u64 valid = CR4_PCE;

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (cpu_has(v, table[i].feature))
			valid |= table[i].bits;
	return valid;
}

static bool cr4_check(struct vcpu *v, u64 val)
{
	u64 changed = v->cr4 ^ val;

	if (val & ~cr4_valid_bits(v))
		return raise_gp0(v);
	if (in_long_mode(v) && (!(val & CR4_PAE) || (changed & CR4_LA57)))
		return raise_gp0(v);
	if ((val & changed & CR4_PCIDE) && (!in_long_mode(v) || (v->cr3 & CR3_PCID_MASK)))
		return raise_gp0(v);
	if ((val & CR4_CET) && !(v->cr0 & CR0_WP))
		return raise_gp0(v);
	return true;
}

bool cr4_write(struct vcpu *v, u64 val)
{
	u64 changed = v->cr4 ^ val;
	u64 old = v->cr4;

	if (v->cpl)
		return raise_gp0(v);
	if (!cr4_check(v, val))
		return false;
	if (is_pae(v->cr0, val, v->efer) && (changed & CR4_PDPTE) &&
	    !pdpte_load(v, v->cr3))
		return false;
	v->cr4 = val;
	if ((changed & CR4_TLB) == CR4_PGE) {
		tlb_flush_global(v);
	} else if (changed & CR4_TLB) {
		vcpu_paging_changed(v);
		tlb_flush_all(v);
	}
	if ((old ^ val) & (CR4_SMAP | CR4_DE))
		vcpu_mode_changed(v);
	return true;
}

bool cr8_write(struct vcpu *v, u64 val)
{
	if (v->cpl || (val & ~UINT64_C(0xf)))
		return raise_gp0(v);
	vcpu_park(v);
	if (v->platform && v->platform->cr8_write)
		v->platform->cr8_write(v->platform_opaque, (u8)val);
	return true;
}

u64 cr8_read(struct vcpu *v)
{
	vcpu_park(v);
	if (v->platform && v->platform->cr8_read)
		return v->platform->cr8_read(v->platform_opaque) & 0xf;
	return 0;
}

u64 xcr0_valid_bits(const struct vcpu *v)
{
	u64 valid = XCR0_X87 | XCR0_SSE;

	if (!cpu_has(v, FEAT_XSAVE))
		return 0;
	if (cpu_has(v, FEAT_AVX))
		valid |= XCR0_AVX;
	if (cpu_has(v, FEAT_AVX512F))
		valid |= XCR0_AVX512;
	if (cpu_has(v, FEAT_PKU))
		valid |= XCR0_PKRU;
	return valid;
}

bool xcr0_valid(const struct vcpu *v, u64 val)
{
	if (val == XCR0_X87)
		return true;
	if ((val & ~xcr0_valid_bits(v)) || !(val & XCR0_X87))
		return false;
	if ((val & XCR0_AVX) && !(val & XCR0_SSE))
		return false;
	if (val & XCR0_AVX512)
		return (val & XCR0_AVX) && (val & XCR0_AVX512) == XCR0_AVX512;
	return true;
}

bool xcr0_write(struct vcpu *v, u32 index, u64 val)
{
	if (index || !xcr0_valid(v, val))
		return raise_gp0(v);
	v->xcr0 = val;
	return true;
}

u64 efer_valid_bits(const struct vcpu *v)
{
	u64 valid = 0;

	if (cpu_has(v, FEAT_SYSCALL))
		valid |= EFER_SCE;
	if (cpu_has(v, FEAT_LM))
		valid |= EFER_LME | EFER_LMA;
	if (cpu_has(v, FEAT_NX))
		valid |= EFER_NXE;
	if (cpu_has(v, FEAT_FXSR_OPT))
		valid |= EFER_FFXSR;
	if (cpu_has(v, FEAT_AUTOIBRS))
		valid |= EFER_AUTOIBRS;
	return valid;
}

bool efer_write(struct vcpu *v, u64 val)
{
	u64 changed;

	if (val & ~efer_valid_bits(v))
		return raise_gp0(v);
	/* LMA is for reading: writes to it are ignored. */
	val = (val & ~EFER_LMA) | (v->efer & EFER_LMA);
	changed = v->efer ^ val;
	if ((changed & EFER_LME) && (v->cr0 & CR0_PG))
		return raise_gp0(v);
	v->efer = val;
	if (changed & EFER_NXE)
		tlb_flush_all(v);
	return true;
}

bool invlpg(struct vcpu *v, unsigned sreg, u64 off)
{
	gva_t lin = v->seg[sreg].base + off;

	if (v->cpl)
		return raise_gp0(v);
	/* No limit check: the address is not used. */
	if (in_64bit(v))
		lin = off + (sreg == FS || sreg == GS ? v->seg[sreg].base : 0);
	else
		lin = (u32)lin;
	if (in_long_mode(v) && !is_canonical(v, lin))
		return true;
	tlb_flush_page(v, lin);
	return true;
}

bool invpcid(struct vcpu *v, u64 type, const u64 desc[2])
{
	u64 pcid = desc[0];

	if (v->cpl)
		return raise_gp0(v);
	if (type > 3)
		return raise_gp0(v);
	/* Types 2 and 3 take no PCID, but its reserved bits are looked at all the same.
	 */
	if (pcid & ~CR3_PCID_MASK)
		return raise_gp0(v);
	if (type < 2 && pcid && !(v->cr4 & CR4_PCIDE))
		return raise_gp0(v);
	/* By what the CPU has, not by CR4.LA57. */
	if (type == 0 && !msr_canonical(v, desc[1]))
		return raise_gp0(v);
	if (type == 2) {
		tlb_flush_global(v);
		return true;
	}
	/* Other PCIDs have nothing cached: see the top. */
	if (type < 2 && pcid != (v->cr4 & CR4_PCIDE ? v->cr3 & CR3_PCID_MASK : 0))
		return true;
	if (type == 0)
		tlb_flush_page(v, desc[1]);
	else
		tlb_flush_nonglobal(v);
	return true;
}
