/*
 * Model-specific registers: storage, reserved bits, and the few with rules of their own.
 *
 * SDM volume 4 chapter 2, volume 3 sections 4.5.2 (canonical), 12.11 (MTRR), 12.12 (PAT),
 * 16.3 (machine check); APM volume 2 appendix A. The list is msr.def; time stamp, local
 * APIC and what the list lacks are v->platform's. Memory types are stored and checked but
 * have no effect, machine checks never happen.
 * Unknown ones are the platform's to refuse and to log.
 * Thread: the owner of the vCPU, whose vector state the caller has parked.
 */
#include "x86/msr.h"

#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/cr.h"

#define SPEC_CTRL_IBRS  BIT(0)
#define SPEC_CTRL_STIBP BIT(1)
#define SPEC_CTRL_SSBD  BIT(2)
#define PRED_CMD_IBPB   BIT(0)

/* clang-format off */
static const struct msr_def defs[] = {
#define MSR(slot_, id, address_, name_, kind_, reset_, reserved_, feature_, vendor_)       \
	{ .address = address_, .feature = feature_, .slot = slot_, .kind = kind_,          \
	  .vendor = vendor_, .name = name_, .reset = reset_, .reserved = reserved_ },
#define MSR_NOSLOT(id, address_, name_, kind_, reset_, reserved_, feature_, vendor_)       \
	{ .address = address_, .feature = feature_, .slot = MSR_NO_SLOT, .kind = kind_,    \
	  .vendor = vendor_, .name = name_, .reset = reset_, .reserved = reserved_ },
#include "x86/msr.def"
#undef MSR
#undef MSR_NOSLOT
};
/* clang-format on */

const struct msr_def *msr_at(unsigned i)
{
	return i < ARRAY_SIZE(defs) ? &defs[i] : NULL;
}

const struct msr_def *msr_find(u32 msr)
{
	unsigned lo = 0, hi = ARRAY_SIZE(defs);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (defs[mid].address == msr)
			return &defs[mid];
		if (defs[mid].address < msr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

bool msr_canonical(const struct vcpu *v, u64 a)
{
	unsigned shift = cpu_has(v, FEAT_LA57) ? 64 - 57 : 64 - 48;

	return (u64)((i64)(a << shift) >> shift) == a;
}

/* ---- which exist ---- */

static u64 spec_ctrl_valid(const struct vcpu *v)
{
	static const struct {
		u16 feature;
		u64 bits;
	} more[] = {
		{ FEAT_IPRED_CTRL, BITS(4, 3) }, { FEAT_RRSBA_CTRL, BITS(6, 5) },
		{ FEAT_PSFD, BIT(7) },           { FEAT_DDPD_U, BIT(8) },
		{ FEAT_BHI_CTRL, BIT(10) },
	};
	u64 mask = 0;

	if (cpu_has(v, FEAT_SPEC_CTRL) || cpu_has(v, FEAT_AMD_IBRS))
		mask |= SPEC_CTRL_IBRS;
	if (cpu_has(v, FEAT_STIBP) || cpu_has(v, FEAT_AMD_STIBP))
		mask |= SPEC_CTRL_STIBP;
	if (cpu_has(v, FEAT_SSBD) || cpu_has(v, FEAT_AMD_SSBD))
		mask |= SPEC_CTRL_SSBD;
	/*
	 * Setting STIBP is allowed wherever SPEC_CTRL exists, so that software need
	 * not look (SDM 4 table 2-2).
	 */
	if (mask & SPEC_CTRL_IBRS)
		mask |= SPEC_CTRL_STIBP;
	for (unsigned i = 0; i < ARRAY_SIZE(more); i++)
		if (cpu_has(v, more[i].feature))
			mask |= more[i].bits;
	return mask;
}

static bool exists(const struct vcpu *v, const struct msr_def *d)
{
	if (d->vendor != MSR_ANY && (d->vendor == MSR_AMD) != cpu_is_amd(v))
		return false;
	if (d->feature != FEAT_NONE && !cpu_has(v, d->feature))
		return false;
	switch (d->address) {
	case 0x48: /* SPEC_CTRL */ return spec_ctrl_valid(v);
	case 0x49: /* PRED_CMD */
		return cpu_has(v, FEAT_SPEC_CTRL) || cpu_has(v, FEAT_AMD_IBPB);
	case 0xc0000080: /* EFER */
		return cpu_has(v, FEAT_SYSCALL) || cpu_has(v, FEAT_NX) ||
		       cpu_has(v, FEAT_LM);
	case 0xc0000103: /* TSC_AUX */
		return cpu_has(v, FEAT_RDTSCP) || cpu_has(v, FEAT_RDPID);
	case 0xc0011029: /* DE_CFG */ return v->cpuid->family >= 0x10;
	default: return true;
	}
}

/* ---- memory types ---- */

static bool mtrr_type_valid(u64 type)
{
	return type == 0 || type == 1 || type == 4 || type == 5 || type == 6;
}

static bool pat_valid(u64 pat)
{
	for (unsigned i = 0; i < 8; i++) {
		u64 type = pat >> (8 * i) & 0xff;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* Each of the eight bytes a type; all or nothing. */
static bool mtrr_fixed_valid(u64 val)
{
	for (unsigned i = 0; i < 8; i++)
		if (!mtrr_type_valid(val >> (8 * i) & 0xff))
			return false;
	return true;
}

static u64 above_phys(const struct vcpu *v)
{
	return ~UINT64_C(0) << v->phys_bits;
}

static bool mtrr_valid(const struct vcpu *v, u32 msr, u64 val)
{
	if (msr == 0x2ff) /* E, FE, type */
		return !(val & ~(BITS(11, 10) | BITS(7, 0))) &&
		       mtrr_type_valid(val & 0xff);
	if (msr >= 0x250 && msr <= 0x26f)
		return mtrr_fixed_valid(val);
	if (msr & 1) /* PHYSMASKn: V and mask */
		return !(val & (above_phys(v) | BITS(10, 0)));
	return !(val & (above_phys(v) | BITS(11, 8))) && mtrr_type_valid(val & 0xff);
}

/* ---- the rest of those with rules of their own ---- */

/* MISC_ENABLE switches features off: keep v->features in step. */
static void apply_misc_enable(struct vcpu *v)
{
	u64 val = v->msr[MSRI_MISC_ENABLE];

	if (!v->cpuid) /* tests give features and no table */
		return;
	for (unsigned i = 0; i < FEATURE_WORDS; i++)
		v->features[i] = v->cpuid->features[i];
	if (cpu_is_amd(v))
		return;
	if (val & MISC_ENABLE_XD_DISABLE)
		v->features[FEAT_NX / 32] &= ~(1u << (FEAT_NX % 32));
	if (!(val & MISC_ENABLE_MONITOR))
		v->features[FEAT_MONITOR / 32] &= ~(1u << (FEAT_MONITOR % 32));
}

/* Whatever MISC_ENABLE says now. */
static bool table_has(const struct vcpu *v, enum cpu_feature f)
{
	const u32 *features = v->cpuid ? v->cpuid->features : v->features;

	return features[f / 32] >> (f % 32) & 1;
}

static bool misc_enable_write(struct vcpu *v, u64 val)
{
	const u64 read_only = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
	/* Fast strings, thermal control, performance monitoring, FERR, SpeedStep, xTPR.
	 */
	u64 valid = BIT(0) | BIT(3) | BIT(7) | BIT(10) | read_only | BIT(16) |
		    MISC_ENABLE_LIMIT_CPUID | BIT(23);

	if (table_has(v, FEAT_MONITOR))
		valid |= MISC_ENABLE_MONITOR;
	if (table_has(v, FEAT_NX))
		valid |= MISC_ENABLE_XD_DISABLE;
	/* XD cannot be taken away from under EFER.NXE. */
	if (val & ~valid || (val & MISC_ENABLE_XD_DISABLE && v->efer & EFER_NXE))
		return raise_gp0(v);
	val = (val & ~read_only) | (v->msr[MSRI_MISC_ENABLE] & read_only);
	v->msr[MSRI_MISC_ENABLE] = val;
	apply_misc_enable(v);
	return true;
}

static bool segment_base_write(struct vcpu *v, unsigned sreg, u64 val)
{
	if (!msr_canonical(v, val))
		return raise_gp0(v);
	v->seg[sreg].base = val;
	return true;
}

static bool mc_status_write(struct vcpu *v, const struct msr_def *d, u64 val)
{
	bool any = cpu_is_amd(v) && v->msr[MSRI_HWCR] & HWCR_MC_STATUS_WR_EN;

	if (val && !any)
		return raise_gp0(v);
	v->msr[d->slot] = val;
	return true;
}

static bool tsc_aux_write(struct vcpu *v, u64 val)
{
	if (val >> 32 && !cpu_is_amd(v)) /* AMD's upper half is ignored */
		return raise_gp0(v);
	v->msr[MSRI_TSC_AUX] = (u32)val;
	return true;
}

static bool store_if(struct vcpu *v, const struct msr_def *d, u64 val, bool valid)
{
	if (!valid)
		return raise_gp0(v);
	v->msr[d->slot] = val;
	return true;
}

static bool write_special(struct vcpu *v, const struct msr_def *d, u64 val)
{
	u32 msr = d->address;

	if (msr >= 0x200 && msr <= 0x2ff && msr != 0x277)
		return store_if(v, d, val, mtrr_valid(v, msr, val));
	if (msr >= 0x400 && msr < 0x400 + 4 * MCA_BANKS)
		return mc_status_write(v, d, val);
	switch (msr) {
	case 0x48: return store_if(v, d, val, !(val & ~spec_ctrl_valid(v)));
	case 0x49: return val & ~PRED_CMD_IBPB ? raise_gp0(v) : true;
	case 0x1a0: return misc_enable_write(v, val);
	case 0x277: return store_if(v, d, val, pat_valid(val));
	case 0x6e1:
		v->pkrs = (u32)val;
		tlb_flush_all(v); /* translations were made with the old rights */
		return true;
	case 0xda0: return store_if(v, d, val, !(val & ~(v->cpuid ? v->cpuid->xss : 0)));
	case 0xc0000080: return efer_write(v, val);
	case 0xc0000100: return segment_base_write(v, FS, val);
	case 0xc0000101: return segment_base_write(v, GS, val);
	case 0xc0000103: return tsc_aux_write(v, val);
	case 0xc0010016:
	case 0xc0010018: /* IORR_BASE: RdMem, WrMem */
		return store_if(v, d, val,
				!(val & (above_phys(v) | BITS(11, 5) | BITS(2, 0))));
	case 0xc0010017:
	case 0xc0010019: /* IORR_MASK: V */
		return store_if(v, d, val, !(val & (above_phys(v) | BITS(10, 0))));
	case 0xc001001a:
	case 0xc001001d: /* TOP_MEM, TOP_MEM2: 8 MiB units */
		return store_if(v, d, val, !(val & (above_phys(v) | BITS(22, 0))));
	default: return raise_gp0(v);
	}
}

static u64 read_special(const struct vcpu *v, const struct msr_def *d)
{
	switch (d->address) {
	case 0x6e1: return v->pkrs;
	case 0xc0000080: return v->efer;
	case 0xc0000100: return v->seg[FS].base;
	case 0xc0000101: return v->seg[GS].base;
	default: return v->msr[d->slot];
	}
}

/* ---- RDMSR, WRMSR ---- */

static bool platform_read(struct vcpu *v, u32 msr, u64 *val)
{
	if (v->platform && v->platform->msr_read &&
	    v->platform->msr_read(v->platform_opaque, msr, val) == 1)
		return true;
	return raise_gp0(v);
}

static bool platform_write(struct vcpu *v, u32 msr, u64 val)
{
	if (v->platform && v->platform->msr_write &&
	    v->platform->msr_write(v->platform_opaque, msr, val) == 1)
		return true;
	return raise_gp0(v);
}

/* The x2APIC registers are there when the CPU can have that mode; the APIC checks the
 * rest. */
static bool absent_range(const struct vcpu *v, u32 msr)
{
	return msr >= IA32_X2APIC_FIRST && msr <= IA32_X2APIC_LAST &&
	       !cpu_has(v, FEAT_X2APIC);
}

bool msr_read(struct vcpu *v, u32 msr, u64 *val)
{
	const struct msr_def *d = msr_find(msr);

	*val = 0;
	if (!d)
		return absent_range(v, msr) ? raise_gp0(v) : platform_read(v, msr, val);
	if (!exists(v, d) || d->kind == MSR_COMMAND || d->address == 0x49)
		return raise_gp0(v);
	if (d->kind == MSR_PLATFORM)
		return platform_read(v, msr, val);
	if (d->kind == MSR_FN)
		*val = read_special(v, d);
	else
		*val = d->slot == MSR_NO_SLOT ? d->reset : v->msr[d->slot];
	return true;
}

bool msr_write(struct vcpu *v, u32 msr, u64 val)
{
	const struct msr_def *d = msr_find(msr);

	if (!d)
		return absent_range(v, msr) ? raise_gp0(v) : platform_write(v, msr, val);
	if (!exists(v, d) || val & d->reserved)
		return raise_gp0(v);
	switch ((enum msr_kind)d->kind) {
	case MSR_RW: v->msr[d->slot] = val; return true;
	case MSR_CANON: return store_if(v, d, val, msr_canonical(v, val));
	case MSR_ZEROING: return store_if(v, d, val, val == 0);
	case MSR_CONST:
	case MSR_COMMAND: return true;
	case MSR_PLATFORM: return platform_write(v, msr, val);
	case MSR_FN: return write_special(v, d, val);
	case MSR_RO: break;
	}
	return raise_gp0(v);
}

/* ---- reset ---- */

/* As an instruction, so that no compiler makes it a call of memset. */
static void clear_store(struct vcpu *v)
{
	u64 *p = v->msr, n = MSR_STORE_COUNT;

	__asm__ volatile("rep stosq" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

void msr_reset(struct vcpu *v, bool init)
{
	const struct cpuid_table *t = v->cpuid;
	u64 ratio;

	if (init)
		return;
	v->pkrs = 0;
	clear_store(v);
	for (unsigned i = 0; i < ARRAY_SIZE(defs); i++)
		if (defs[i].slot != MSR_NO_SLOT)
			v->msr[defs[i].slot] = defs[i].reset;
	if (!cpu_is_amd(v))
		v->msr[MSRI_MISC_ENABLE] =
			MISC_ENABLE_FAST_STRINGS | MISC_ENABLE_BTS_UNAVAILABLE |
			MISC_ENABLE_PEBS_UNAVAILABLE |
			(table_has(v, FEAT_MONITOR) ? MISC_ENABLE_MONITOR : 0);
	apply_misc_enable(v);
	if (!t)
		return;
	v->msr[MSRI_UCODE_REV] = t->ucode_rev;
	v->msr[MSRI_ARCH_CAPABILITIES] = t->arch_capabilities;
	ratio = MIN(t->tsc_khz / 100000, 255);
	/* Bus ratios: maximum without turbo in 15..8, most efficient in 47..40. */
	v->msr[MSRI_PLATFORM_INFO] = ratio << 8 | ratio << 40;
}

void msr_sync(struct vcpu *v)
{
	apply_misc_enable(v);
}

/* ---- what firmware does ---- */

static u64 repeat_type(u64 type)
{
	return type * UINT64_C(0x0101010101010101);
}

void msr_firmware_mtrrs(struct vcpu *v, gpa_t hole)
{
	const u64 end = GiB(4);
	unsigned slot = MSRI_MTRR_PHYSBASE0;

	if (!cpu_has(v, FEAT_MTRR))
		return;
	v->msr[MSRI_MTRR_FIX64K_00000] = repeat_type(MTRR_WB);
	v->msr[MSRI_MTRR_FIX16K_80000] = repeat_type(MTRR_WB);
	v->msr[MSRI_MTRR_FIX16K_A0000] = repeat_type(MTRR_UC);
	for (unsigned i = MSRI_MTRR_FIX4K_C0000; i <= MSRI_MTRR_FIX4K_F8000; i++)
		v->msr[i] = repeat_type(MTRR_WP);
	/* Uncached from the hole to 4 GiB, in ranges whose size is a power of two. */
	for (u64 base = hole; base < end && slot <= MSRI_MTRR_PHYSBASE7; slot += 2) {
		u64 size = base & -base;

		if (!base || size < KiB(4))
			break;
		v->msr[slot] = base | MTRR_UC;
		v->msr[slot + 1] = (~above_phys(v) & ~(size - 1)) | MTRR_MASK_VALID;
		base += size;
	}
	v->msr[MSRI_MTRR_DEF_TYPE] = MTRR_WB | MTRR_FIXED_ENABLE | MTRR_ENABLE;
}
