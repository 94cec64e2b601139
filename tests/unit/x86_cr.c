/*
 * Control and debug registers, privileged flags, I/O permission, reset and saved state.
 * SDM 3 chapters 2, 4.1, 10.1, 17.2, 20.3; SDM 1 section 19.5.
 */
#include "x86_box.h"

#include "base/error.h"
#include "state/save.h"
#include "x86/msr.h"
#include "x86/xsave.h"

/* ---- CR0 ---- */

/* SDM 2 MOV CR and SDM 3 sections 4.1.2, 10.8.5, as a list of reasons to refuse. */
static bool cr0_refused(struct box *b, u64 val)
{
	struct vcpu *v = b->v;
	bool was_on = v->cr0 & CR0_PG, on = val & CR0_PG;
	unsigned tss = v->seg[TR].attr & 15;

	return val > 0xffffffff || (on && !(val & CR0_PE)) ||
	       ((val & CR0_NW) && !(val & CR0_CD)) ||
	       (on && !was_on && (v->efer & EFER_LME) &&
		(!(v->cr4 & CR4_PAE) || (v->seg[CS].attr & SEG_L) || tss == 1 ||
		 tss == 3)) ||
	       (!on && was_on && (v->code_size == 8 || (v->cr4 & CR4_PCIDE)));
}

static void check_cr0(struct box *b, u64 val)
{
	struct vcpu *v = b->v;
	bool refused = cr0_refused(b, val);

	box_remember(b);
	if (cr0_write(v, val) != !refused)
		fail_msg("cr0 %llx to %llx cr4 %llx efer %llx",
			 (unsigned long long)b->saved->cr0, (unsigned long long)val,
			 (unsigned long long)v->cr4, (unsigned long long)v->efer);
	if (refused) {
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		return;
	}
	assert_int_equal(v->cr0, (val & 0xe005003f) | CR0_ET);
	assert_int_equal(!!(v->efer & EFER_LMA), (val & CR0_PG) && (v->efer & EFER_LME));
	assert_int_equal(v->paging, paging_mode(v));
	assert_synced(b);
}

static void cr0_transitions_follow_the_table(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const u64 bits[] = { CR0_PE, CR0_PG,  CR0_NW, CR0_CD,
				    CR0_WP, BIT(32), BIT(6) };

	for (unsigned from = 0; from < 7; from++) {
		for (unsigned i = 0; i < 1u << ARRAY_SIZE(bits); i++) {
			u64 val = 0;

			for (unsigned j = 0; j < ARRAY_SIZE(bits); j++)
				if (i >> j & 1)
					val |= bits[j];
			switch (from) {
			case 0: box_real(b); break;
			case 1: box_protected(b, 0); break;
			case 2: /* ready for long mode */
			case 3: /* without PAE */
			case 4: /* with a 16-bit TSS */
				box_protected(b, 0);
				v->cr3 = PML4;
				v->cr4 = from == 3 ? 0 : CR4_PAE;
				v->efer = EFER_LME;
				if (from == 4)
					v->seg[TR].attr =
						ATTR(DESC_TSS16_BUSY, 0u, 0u, 1u);
				break;
			case 5: box_long(b, 0); break;
			default: box_compat(b, 0); break;
			}
			/* PDPTEs must be fine for PAE paging. */
			memset(b->ram + PML4, 0, 0x20);
			check_cr0(b, val);
		}
	}
}

static void paging_with_pcids_cannot_be_switched_off(void **state)
{
	struct box *b = *state;

	box_compat(b, 0);
	b->v->cr4 |= CR4_PCIDE;
	check_cr0(b, CR0_PE | CR0_ET);
	b->v->cr4 &= ~CR4_PCIDE;
	check_cr0(b, CR0_PE | CR0_ET);
	assert_int_equal(b->v->paging, PAGING_NONE);
}

static void long_flag_of_cs_forbids_entering_long_mode(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	b->v->cr4 = CR4_PAE;
	b->v->efer = EFER_LME;
	b->v->seg[CS].attr |= SEG_L;
	check_cr0(b, CR0_PE | CR0_PG);
	b->v->seg[CS].attr &= ~SEG_L;
	check_cr0(b, CR0_PE | CR0_PG);
}

static void control_registers_are_for_level_0(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	u64 val;

	for (unsigned cpl = 1; cpl < 4; cpl++) {
		box_protected(b, cpl);
		box_remember(b);
		assert_false(cr0_write(v, v->cr0));
		assert_fault(b, VEC_GP, 0);
		assert_false(cr3_write(v, 0));
		assert_false(cr4_write(v, 0));
		assert_false(cr8_write(v, 0));
		assert_false(dr_read(v, 7, &val));
		assert_fault(b, VEC_GP, 0);
		assert_false(dr_write(v, 0, 0));
		assert_false(invlpg(v, DS, 0));
		assert_all_kept(b);
	}
}

static void lmsw_sets_pe_and_never_clears_it(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	lmsw(v, 0xffff);
	assert_int_equal(v->cr0 & 0xffff, CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET);
	assert_synced(b);
	lmsw(v, 0);
	assert_int_equal(v->cr0 & 0xffff, CR0_PE | CR0_ET);
}

/* ---- CR3, PDPTEs ---- */

static void cr3_reserved_bits_fault_in_64bit_mode_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned bit = 0; bit < 64; bit++) {
		box_long(b, 0);
		box_remember(b);
		assert_int_equal(cr3_write(v, PML4 | BIT(bit)), bit < 40);
		if (bit >= 40) {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
		} else {
			assert_int_equal(v->cr3, PML4 | BIT(bit));
		}
		box_protected(b, 0);
		assert_true(cr3_write(v, PML4 | BIT(bit)));
		assert_int_equal(v->cr3, (u32)(PML4 | BIT(bit)));
	}
	box_long(b, 0);
	v->cr4 |= CR4_PCIDE;
	assert_true(cr3_write(v, PML4 | 5 | CR3_NOFLUSH));
	assert_int_equal(v->cr3, PML4 | 5);
}

static void pdptes_are_loaded_and_checked(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	v->cr4 = CR4_PAE;
	v->cr3 = 0x8000;
	memset(b->ram + 0x8000, 0, 64);
	for (unsigned i = 0; i < 4; i++)
		poke(b, 0x8000 + 8 * i, 0x10000 + 0x1000 * i + 1, 8);
	poke(b, 0x8000 + 24, BIT(62), 8); /* not present: anything goes */
	assert_true(cr0_write(v, CR0_PE | CR0_PG));
	assert_int_equal(v->paging, PAGING_PAE);
	assert_int_equal(v->pdpte[1], 0x11001);
	assert_int_equal(v->pdpte[3], BIT(62));
	/* The CPU keeps them until something reloads them. */
	poke(b, 0x8000 + 8, 0x22001, 8);
	poke(b, 0x8020, 0x33001, 8);
	assert_int_equal(v->pdpte[1], 0x11001);
	assert_true(cr3_write(v, 0x8000));
	assert_int_equal(v->pdpte[1], 0x22001);
	assert_true(cr3_write(v, 0x8020));
	assert_int_equal(v->pdpte[0], 0x33001);
	/* A change of CR4 that matters, and one that does not. */
	poke(b, 0x8020, 0x44001, 8);
	assert_true(cr4_write(v, CR4_PAE | CR4_DE));
	assert_int_equal(v->pdpte[0], 0x33001);
	assert_true(cr4_write(v, CR4_PAE | CR4_PGE));
	assert_int_equal(v->pdpte[0], 0x44001);
	/* Reserved bits of a present entry refuse all three ways. */
	poke(b, 0x8020, 0x44003, 8);
	box_remember(b);
	assert_false(cr3_write(v, 0x8020));
	assert_fault(b, VEC_GP, 0);
	assert_false(cr4_write(v, CR4_PAE));
	assert_fault(b, VEC_GP, 0);
	assert_false(cr0_write(v, CR0_PE | CR0_PG | CR0_CD));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	assert_true(cr0_write(v, CR0_PE | CR0_PG | CR0_WP));
}

/* ---- what flushes what ---- */

/* Cache the translation of page 1 MiB, change its PTE, and tell whether the old one is
 * gone. */
static void cache(struct box *b, u64 flags)
{
	u64 val;

	box_map_small(b);
	poke(b, 0x100000, 0x11, 1);
	poke(b, 0x101000, 0x22, 1);
	poke(b, PT + 256 * 8, 0x100000 | flags, 8);
	assert_true(sys_read(b->v, 0x100000, 1, &val));
	assert_int_equal(val, 0x11);
	poke(b, PT + 256 * 8, 0x101000 | flags, 8);
	assert_true(sys_read(b->v, 0x100000, 1, &val));
	assert_int_equal(val, 0x11);
}

static bool flushed(struct box *b)
{
	u64 val;

	assert_true(sys_read(b->v, 0x100000, 1, &val));
	return val == 0x22;
}

#define GLOBAL_PAGE 0x163
#define LOCAL_PAGE  0x063

static void cr3_load_keeps_global_pages(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	assert_true(cr4_write(v, v->cr4 | CR4_PGE));
	cache(b, GLOBAL_PAGE);
	assert_true(cr3_write(v, v->cr3));
	assert_false(flushed(b));
	cache(b, LOCAL_PAGE);
	assert_true(cr3_write(v, v->cr3));
	assert_true(flushed(b));
	cache(b, GLOBAL_PAGE);
	assert_true(cr4_write(v, v->cr4 & ~CR4_PGE));
	assert_true(flushed(b));
}

static void bit_63_of_cr3_keeps_translations_of_the_same_pcid(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	assert_true(cr4_write(v, v->cr4 | CR4_PCIDE));
	cache(b, LOCAL_PAGE);
	assert_true(cr3_write(v, v->cr3 | CR3_NOFLUSH));
	assert_false(flushed(b));
	assert_true(cr3_write(v, v->cr3));
	assert_true(flushed(b));
	/* Another PCID must not see them. */
	cache(b, LOCAL_PAGE);
	assert_true(cr3_write(v, v->cr3 | 7 | CR3_NOFLUSH));
	assert_true(flushed(b));
}

static void permission_bits_flush(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const u64 bits[] = { CR4_PSE, CR4_PGE, CR4_SMEP, CR4_SMAP,
				    CR4_PKE, CR4_PKS, CR4_PCIDE };

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		box_long(b, 0);
		cache(b, LOCAL_PAGE);
		assert_true(cr4_write(v, v->cr4 ^ bits[i]));
		assert_true(flushed(b));
		cache(b, LOCAL_PAGE);
		assert_true(cr4_write(v, v->cr4 ^ bits[i]));
		assert_true(flushed(b));
	}
	box_long(b, 0);
	cache(b, LOCAL_PAGE);
	assert_true(cr0_write(v, v->cr0 ^ CR0_WP));
	assert_true(flushed(b));
	cache(b, LOCAL_PAGE);
	assert_true(efer_write(v, v->efer ^ EFER_NXE));
	assert_true(flushed(b));
	/* Linux does this at every context switch with lazy FPU: it must be cheap. */
	cache(b, LOCAL_PAGE);
	assert_true(cr0_write(v, v->cr0 ^ CR0_TS));
	assert_false(flushed(b));
}

static void invlpg_drops_one_page(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	assert_true(cr4_write(v, v->cr4 | CR4_PGE));
	cache(b, GLOBAL_PAGE);
	assert_true(invlpg(v, DS, 0x101000));
	assert_false(flushed(b));
	assert_true(invlpg(v, DS, 0x800000000000));
	assert_false(flushed(b));
	assert_true(invlpg(v, DS, 0x100fff));
	assert_true(flushed(b));
	/* Bases: of FS and GS alone in 64-bit mode. */
	cache(b, GLOBAL_PAGE);
	v->seg[FS].base = 0x80000;
	v->seg[DS].base = 0x1000;
	assert_true(invlpg(v, DS, 0xff000));
	assert_true(invlpg(v, FS, 0x100000));
	assert_false(flushed(b));
	assert_true(invlpg(v, FS, 0x80000));
	assert_true(flushed(b));
	box_compat(b, 0);
	cache(b, GLOBAL_PAGE);
	v->seg[DS].base = 0x200000;
	assert_true(invlpg(v, DS, 0xfff00000));
	assert_true(flushed(b));
}

static void invpcid_checks_and_flushes(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const struct {
		u64 type, pcid, lin;
		bool pcide, ok, global_gone, local_gone;
	} cases[] = {
		{ 0, 0, 0x100000, false, true, true, true },
		{ 0, 0, 0x200000, false, true, false, false },
		{ 0, 5, 0x100000, true, true, true, true },
		{ 0, 6, 0x100000, true, true, false, false },
		{ 0, 5, 0x100000, false, false, false, false },
		/* What is canonical follows the CPU's LA57, not CR4.LA57. */
		{ 0, 5, 0x800000000000, true, true, false, false },
		{ 0, 5, 0x100000000000000, true, false, false, false },
		{ 0, 0x1000, 0x100000, true, false, false, false },
		{ 1, 5, 0x800000000000, true, true, false, true },
		{ 1, 6, 0, true, true, false, false },
		{ 1, 5, 0, false, false, false, false },
		{ 2, 0, 0, true, true, true, true },
		{ 3, 0, 0, true, true, false, true },
		{ 3, 0x1000, 0, true, false, false, false },
		{ 4, 0, 0, true, false, false, false },
		{ UINT64_C(1) << 32, 0, 0, true, false, false, false },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
		bool global = i & 1, gone;
		u64 desc[2] = { cases[i / 2].pcid, cases[i / 2].lin };

		box_long(b, 0);
		v->cr4 |= CR4_PGE;
		assert_true(cr4_write(v, v->cr4 | (cases[i / 2].pcide ? CR4_PCIDE : 0)));
		if (cases[i / 2].pcide)
			assert_true(cr3_write(v, v->cr3 | 5));
		cache(b, global ? GLOBAL_PAGE : LOCAL_PAGE);
		if (invpcid(v, cases[i / 2].type, desc) != cases[i / 2].ok)
			fail_msg("case %u", i / 2);
		gone = global ? cases[i / 2].global_gone : cases[i / 2].local_gone;
		if (flushed(b) != gone)
			fail_msg("case %u global %u", i / 2, global);
	}
}

/* ---- CR4, EFER, XCR0, CR8 ---- */

static void cr4_bits_follow_the_features(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const struct {
		u64 bit;
		int feature; /* -1: always, -2: never */
	} bits[] = {
		{ CR4_VME, FEAT_VME },
		{ CR4_PVI, FEAT_VME },
		{ CR4_TSD, FEAT_TSC },
		{ CR4_DE, FEAT_DE },
		{ CR4_PSE, FEAT_PSE },
		{ CR4_PAE, FEAT_PAE },
		{ CR4_MCE, FEAT_MCE },
		{ CR4_PGE, FEAT_PGE },
		{ CR4_PCE, -1 },
		{ CR4_OSFXSR, FEAT_FXSR },
		{ CR4_OSXMMEXCPT, FEAT_SSE },
		{ CR4_UMIP, FEAT_UMIP },
		{ CR4_LA57, FEAT_LA57 },
		{ CR4_VMXE, -2 },
		{ CR4_SMXE, -2 },
		{ CR4_FSGSBASE, FEAT_FSGSBASE },
		{ CR4_OSXSAVE, FEAT_XSAVE },
		{ CR4_SMEP, FEAT_SMEP },
		{ CR4_SMAP, FEAT_SMAP },
		{ CR4_PKE, FEAT_PKU },
		{ CR4_CET, -2 },
		{ CR4_PKS, FEAT_PKS },
		{ BIT(15), -2 },
		{ BIT(19), -2 },
		{ BIT(25), -2 },
		{ BIT(32), -2 },
		{ BIT(63), -2 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++) {
		box_protected(b, 0);
		box_remember(b);
		assert_int_equal(cr4_write(v, bits[i].bit), bits[i].feature != -2);
		if (bits[i].feature < 0)
			continue;
		box_protected(b, 0);
		v->features[bits[i].feature / 32] &= ~(1u << bits[i].feature % 32);
		box_remember(b);
		assert_false(cr4_write(v, bits[i].bit));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		v->features[bits[i].feature / 32] |= 1u << bits[i].feature % 32;
	}
}

static void long_mode_pins_pae_and_la57(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	box_remember(b);
	assert_false(cr4_write(v, 0));
	assert_fault(b, VEC_GP, 0);
	assert_false(cr4_write(v, CR4_PAE | CR4_LA57));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	/* PCIDE: in long mode only, and with PCID 0. */
	assert_true(cr3_write(v, v->cr3 | 8));
	assert_false(cr4_write(v, CR4_PAE | CR4_PCIDE));
	assert_true(cr3_write(v, PML4));
	assert_true(cr4_write(v, CR4_PAE | CR4_PCIDE));
	assert_true(cr3_write(v, PML4 | 8));
	assert_true(cr4_write(v, CR4_PAE | CR4_PCIDE | CR4_PGE));
	assert_true(cr4_write(v, CR4_PAE));
	box_protected(b, 0);
	assert_false(cr4_write(v, CR4_PAE | CR4_PCIDE));
	assert_fault(b, VEC_GP, 0);
	/* With LA57 set before, long mode has five levels. */
	assert_true(cr4_write(v, CR4_PAE | CR4_LA57));
	assert_true(efer_write(v, EFER_LME));
	assert_false(v->la57);
	v->cr3 = PML4;
	assert_true(cr0_write(v, CR0_PE | CR0_PG));
	assert_int_equal(v->paging, PAGING_5LEVEL);
	assert_true(v->la57);
	assert_true(is_canonical(v, 0x00ffffffffffffff));
}

static void efer_checks(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	for (unsigned bit = 0; bit < 64; bit++) {
		/* SCE, LME, LMA, NXE; FFXSR and AUTOIBRS of AMD. */
		bool ok = (UINT64_C(0x204d01) >> bit) & 1;

		v->efer = 0;
		assert_int_equal(efer_write(v, BIT(bit)), ok);
		/* LMA cannot be written. */
		if (ok)
			assert_int_equal(v->efer, bit == 10 ? 0 : BIT(bit));
	}
	v->features[FEAT_NX / 32] &= ~(1u << FEAT_NX % 32);
	assert_false(efer_write(v, EFER_NXE));
	v->features[FEAT_NX / 32] |= 1u << FEAT_NX % 32;
	box_long(b, 0);
	box_remember(b);
	assert_false(efer_write(v, v->efer & ~EFER_LME));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	assert_true(efer_write(v, EFER_LME | EFER_NXE));
	assert_int_equal(v->efer, EFER_LME | EFER_NXE | EFER_LMA);
	/* Leaving: paging off takes LMA, and then LME may go. */
	box_compat(b, 0);
	assert_true(cr0_write(v, CR0_PE));
	assert_false(v->efer & EFER_LMA);
	assert_true(efer_write(v, 0));
}

static void xcr0_combinations(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	for (u64 val = 0; val < 0x400; val++) {
		unsigned avx512 = val >> 5 & 7;
		bool ok = (val & 1) && !(val & ~UINT64_C(0x2e7)) &&
			  (!(val & 4) || (val & 2)) &&
			  (avx512 == 0 || (avx512 == 7 && (val & 4)));

		assert_int_equal(xcr0_write(v, 0, val), ok);
		if (ok)
			assert_int_equal(v->xcr0, val);
	}
	assert_false(xcr0_write(v, 1, 1));
	assert_false(xcr0_write(v, 0, BIT(63) | 1));
	v->features[FEAT_AVX / 32] &= ~(1u << FEAT_AVX % 32);
	assert_false(xcr0_write(v, 0, 7));
	v->features[FEAT_AVX / 32] |= 1u << FEAT_AVX % 32;
}

static u8 fake_tpr;

static u8 tpr_read(void *opaque)
{
	return *(u8 *)opaque;
}

static void tpr_write(void *opaque, u8 val)
{
	*(u8 *)opaque = val;
}

static void cr8_is_the_apic_s(void **state)
{
	static const struct vcpu_platform platform = { .cr8_read = tpr_read,
						       .cr8_write = tpr_write };
	struct box *b = *state;

	box_long(b, 0);
	b->v->platform = &platform;
	b->v->platform_opaque = &fake_tpr;
	assert_true(cr8_write(b->v, 9));
	assert_int_equal(fake_tpr, 9);
	assert_int_equal(cr8_read(b->v), 9);
	assert_false(cr8_write(b->v, 16));
	assert_fault(b, VEC_GP, 0);
	assert_int_equal(fake_tpr, 9);
}

/* ---- debug registers ---- */

static void debug_registers_have_fixed_and_aliased_bits(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	u64 val;

	box_long(b, 0);
	assert_true(dr_write(v, 6, 0xffffffff));
	assert_int_equal(v->dr[6], 0xffffefff);
	assert_true(dr_write(v, 6, 0));
	assert_int_equal(v->dr[6], 0xffff0ff0);
	assert_true(dr_write(v, 7, 0xffffffff & ~DR7_GD));
	assert_int_equal(v->dr[7], 0xffff07ff);
	assert_true(dr_write(v, 7, 0));
	assert_int_equal(v->dr[7], 0x400);
	for (unsigned n = 6; n < 8; n++) {
		box_remember(b);
		assert_false(dr_write(v, n, BIT(32)));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
	}
	assert_true(dr_write(v, 3, 0x8000000000000000));
	assert_true(dr_read(v, 3, &val));
	assert_int_equal(val, 0x8000000000000000);
	/* 4 and 5 are 6 and 7 unless CR4.DE. */
	assert_true(dr_write(v, 5, 0x401));
	assert_int_equal(v->dr[7], 0x401);
	assert_true(dr_read(v, 4, &val));
	assert_int_equal(val, v->dr[6]);
	v->cr4 |= CR4_DE;
	assert_false(dr_read(v, 4, &val));
	assert_fault_plain(b, VEC_UD);
	assert_false(dr_write(v, 5, 0));
	assert_fault_plain(b, VEC_UD);
}

static void general_detect_faults_on_access(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	u64 val;

	box_long(b, 0);
	assert_true(dr_write(v, 7, DR7_GD));
	box_remember(b);
	assert_false(dr_read(v, 0, &val));
	assert_int_equal(v->fault.vector, VEC_DB);
	assert_int_equal(v->fault.dr6, DR6_BD);
	assert_false(v->fault.trap);
	assert_false(dr_write(v, 7, 0));
	assert_int_equal(v->fault.vector, VEC_DB);
	assert_all_kept(b);
}

/* Data breakpoints, against a byte-by-byte definition. */
static void data_breakpoints_match_byte_ranges(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const unsigned lens[4] = { 1, 2, 8, 4 };

	box_long(b, 0);
	for (unsigned i = 0; i < 4 * 4 * 2; i++) {
		unsigned rw = i & 3, len = i >> 2 & 3, on = i >> 4;

		v->dr[1] = 0x100013;
		v->dr[7] = DR7_FIXED | (on ? 8 : 0) | rw << 20 | len << 22;
		for (u64 a = 0x100000; a < 0x100030; a++) {
			for (unsigned n = 1; n <= 16; n *= 2) {
				u64 lo = 0x100013 & ~(u64)(lens[len] - 1);
				bool touch = a < lo + lens[len] && lo < a + n;
				bool data = on && (rw == 1 || rw == 3);

				assert_int_equal(debug_match_data(v, a, n, true),
						 data && touch ? 2 : 0);
				assert_int_equal(debug_match_data(v, a, n, false),
						 data && touch && rw == 3 ? 2 : 0);
			}
		}
		assert_int_equal(debug_page_watched(v, 0x100fff), on && (rw & 1));
		assert_false(debug_page_watched(v, 0x101000));
		assert_int_equal(debug_match_exec(v, 0x100013), on && rw == 0 ? 2 : 0);
		assert_int_equal(debug_match_exec(v, 0x100012), 0);
		assert_int_equal(debug_exec_enabled(v), on && rw == 0);
	}
}

static void io_breakpoints_need_cr4_de(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	v->dr[0] = 0x3f8;
	v->dr[7] = DR7_FIXED | 1 | 2 << 16 | 3u << 18; /* I/O, 4 ports */
	assert_int_equal(debug_match_io(v, 0x3fa, 1), 0);
	v->cr4 |= CR4_DE;
	assert_int_equal(debug_match_io(v, 0x3fa, 1), 1);
	assert_int_equal(debug_match_io(v, 0x3f5, 4), 1);
	assert_int_equal(debug_match_io(v, 0x3f4, 4), 0);
	assert_int_equal(debug_match_io(v, 0x3fc, 1), 0);
	assert_int_equal(debug_match_data(v, 0x3f8, 1, true), 0);
}

static void watched_page_is_seen_at_once(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	u64 val;

	box_long(b, 0);
	assert_true(lin_read(v, DS, 0x100000, 4, &val)); /* now cached */
	assert_true(dr_write(v, 0, 0x100002));
	assert_true(dr_write(v, 7, 1 | 3u << 16));
	v->pending_db = 0;
	assert_true(lin_read(v, DS, 0x100000, 4, &val));
	assert_int_equal(v->pending_db, 1);
	assert_true(dr_write(v, 7, 0));
	v->pending_db = 0;
	assert_true(lin_read(v, DS, 0x100000, 4, &val));
	assert_int_equal(v->pending_db, 0);
}

static void code_breakpoints_and_tf_ask_for_single_steps(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	assert_false(v->step_check);
	assert_true(dr_write(v, 7, 2));
	assert_true(v->step_check);
	assert_true(dr_write(v, 7, 0));
	assert_false(v->step_check);
	rflags_set(v, RFLAGS_1 | RFLAGS_TF);
	assert_true(v->step_check);
	rflags_set(v, RFLAGS_1 | RFLAGS_RF);
	assert_true(v->step_check);
	rflags_set(v, RFLAGS_1);
	assert_false(v->step_check);
}

static void alignment_and_smap_follow_flags_and_level(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 2 * 2 * 2; i++) {
		unsigned cpl = i & 3, ac = i >> 2 & 1, am = i >> 3 & 1, smap = i >> 4;

		box_long(b, cpl);
		v->cr0 |= am ? CR0_AM : 0;
		v->cr4 |= smap ? CR4_SMAP : 0;
		rflags_set(v, RFLAGS_1 | (ac ? RFLAGS_AC : 0));
		vcpu_mode_changed(v);
		assert_int_equal(v->ac_check, cpl == 3 && ac && am);
		assert_int_equal(v->mmu_idx, cpl == 3     ? MMU_USER
					     : ac && smap ? MMU_KERNEL_AC
							  : MMU_KERNEL);
	}
}

/* ---- POPF, PUSHF, CLI, STI ---- */

enum where { REAL, PROTECTED, V86, WHERES };

static void place(struct box *b, enum where w, unsigned cpl, unsigned iopl)
{
	if (w == REAL)
		box_real(b);
	else if (w == PROTECTED)
		box_protected(b, cpl);
	else
		box_v86(b, iopl);
	rflags_set(b->v,
		   (rflags_get(b->v) & ~(u64)RFLAGS_IF) | iopl << RFLAGS_IOPL_SHIFT);
}

static void popf_changes_the_flags_it_may(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < WHERES * 4 * 4 * 2 * 2; i++) {
		unsigned w = i % WHERES, cpl = i / WHERES & 3, iopl = i / WHERES >> 2 & 3;
		unsigned size = i / WHERES >> 4 & 1 ? 4 : 2, ones = i / WHERES >> 5 & 1;
		u64 mask = 0x4dd5, old, image = ones ? 0x3f7fd7 : 0;

		if (w == V86 && iopl < 3)
			continue;
		place(b, w, cpl, iopl);
		cpl = v->cpl;
		if (!ones)
			rflags_set(v, rflags_get(v) | 0x3d4fd5);
		old = rflags_get(v);
		if (cpl == 0)
			mask |= RFLAGS_IOPL;
		if (cpl <= iopl)
			mask |= RFLAGS_IF;
		if (size == 4)
			mask |= RFLAGS_AC | RFLAGS_ID | RFLAGS_RF;
		assert_true(popf(v, image, size));
		/* RF is cleared, never set. */
		assert_int_equal(rflags_get(v),
				 (old & ~mask) | (image & mask & ~(u64)RFLAGS_RF));
		assert_synced(b);
	}
}

static void v86_flags_follow_iopl_and_vme(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 2 * 2 * 2 * 8; i++) {
		unsigned iopl = i & 3, vme = i >> 2 & 1, size = i & 8 ? 4 : 2,
			 vip = i >> 4 & 1;
		u64 image =
			(i & 32 ? RFLAGS_IF : 0) | (i & 64 ? RFLAGS_TF : 0) | RFLAGS_CF;
		bool virtual = iopl < 3 && vme && size == 2;
		bool ok = iopl == 3 || (virtual && !(image & RFLAGS_TF) &&
					!(vip && (image & RFLAGS_IF)));
		u64 val;

		place(b, V86, 3, iopl);
		v->cr4 = vme ? CR4_VME : 0;
		v->flags |= (vip ? RFLAGS_VIP : 0) | (i & 128 ? RFLAGS_VIF : 0);
		box_remember(b);
		assert_int_equal(popf(v, image, size), ok);
		if (!ok) {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
		} else if (virtual) {
			assert_int_equal(!!(v->flags & RFLAGS_VIF),
					 !!(image & RFLAGS_IF));
			assert_false(v->flags & RFLAGS_IF);
			assert_int_equal(vcpu_iopl(v), iopl);
		}
		place(b, V86, 3, iopl);
		v->cr4 = vme ? CR4_VME : 0;
		v->flags |= (i & 128 ? RFLAGS_VIF : 0) | RFLAGS_RF;
		assert_int_equal(pushf(v, &val, size), iopl == 3 || virtual);
		if (virtual)
			assert_int_equal(val, RFLAGS_1 | RFLAGS_IOPL |
						      (i & 128 ? RFLAGS_IF : 0));
		else if (iopl == 3)
			assert_int_equal(val, (RFLAGS_1 | RFLAGS_IOPL |
					       (i & 128 ? RFLAGS_VIF : 0)) &
						      size_mask(size));
		else
			assert_fault(b, VEC_GP, 0);
	}
}

static void cli_and_sti_follow_the_table(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < WHERES * 4 * 4 * 2 * 2 * 2; i++) {
		unsigned w = i % WHERES, cpl = i / WHERES & 3, iopl = i / WHERES >> 2 & 3,
			 vme = i / WHERES >> 4 & 1, pvi = i / WHERES >> 5 & 1,
			 vip = i / WHERES >> 6;
		bool real, virtual;

		place(b, w, cpl, iopl);
		real = w == REAL || v->cpl <= iopl;
		virtual = !real && v->cpl == 3 && (w == V86 ? vme : pvi);
		v->cr4 = (vme ? CR4_VME : 0) | (pvi ? CR4_PVI : 0);
		v->flags |= vip ? RFLAGS_VIP : 0;
		box_remember(b);
		assert_int_equal(sti(v), real || (virtual && !vip));
		if (real) {
			assert_true(v->flags & RFLAGS_IF);
			assert_int_equal(v->shadow, SHADOW_STI);
			v->shadow = 0;
			assert_true(sti(v));
			assert_int_equal(v->shadow, 0); /* it was set already */
		} else if (virtual && !vip) {
			assert_true(v->flags & RFLAGS_VIF);
			assert_false(v->flags & RFLAGS_IF);
		} else {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
		}
		v->flags |= RFLAGS_IF | RFLAGS_VIF;
		box_remember(b);
		assert_int_equal(cli(v), real || virtual);
		if (real)
			assert_int_equal(v->flags & (RFLAGS_IF | RFLAGS_VIF), RFLAGS_VIF);
		else if (virtual)
			assert_int_equal(v->flags & (RFLAGS_IF | RFLAGS_VIF), RFLAGS_IF);
		else
			assert_all_kept(b);
	}
}

/* ---- ports ---- */

static void port_bitmap_is_consulted_below_iopl(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 4; i++) {
		unsigned cpl = i & 3, iopl = i >> 2;

		place(b, PROTECTED, cpl, iopl);
		memset(b->ram + TSS + 0x68 + 32, 0xff, 0x2000);
		assert_int_equal(io_allowed(v, 0x80, 1), cpl <= iopl);
	}
	place(b, V86, 3, 3);
	memset(b->ram + TSS + 0x68 + 32, 0xff, 0x2000);
	assert_false(io_allowed(v, 0x80, 1));
	assert_fault(b, VEC_GP, 0);
	place(b, REAL, 0, 0);
	assert_true(io_allowed(v, 0x80, 4));
}

static void every_port_of_an_access_must_be_allowed(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	const u32 map = TSS + 0x68 + 32;

	place(b, PROTECTED, 3, 0);
	for (unsigned closed = 0x80; closed < 0x98; closed++) {
		memset(b->ram + map, 0, 0x2000);
		poke(b, map + closed / 8, 1u << (closed & 7), 1);
		for (unsigned port = 0x80; port < 0x90; port++)
			for (unsigned size = 1; size <= 4; size *= 2)
				assert_int_equal(io_allowed(v, (u16)port, size),
						 closed < port || closed >= port + size);
	}
	/* Both bytes that are read must be in the TSS. */
	memset(b->ram + map, 0, 0x2000);
	v->seg[TR].limit = 0x68 + 32 + 2;
	assert_true(io_allowed(v, 15, 1));
	assert_false(io_allowed(v, 16, 1));
	assert_fault(b, VEC_GP, 0);
	v->seg[TR].limit = 0x66;
	assert_false(io_allowed(v, 0, 1));
	v->seg[TR] = seg_null(0, 0);
	assert_false(io_allowed(v, 0, 1));
	place(b, PROTECTED, 3, 0);
	v->seg[TR].attr = ATTR(DESC_TSS16_BUSY, 0u, 0u, 1u);
	assert_false(io_allowed(v, 0, 1));
	assert_fault(b, VEC_GP, 0);
}

/* ---- reset, saved state ---- */

static void power_up_state_is_that_of_the_manual(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const u8 data[] = { DS, ES, FS, GS, SS };

	b->cpuid.leaf[0] = (struct cpuid_leaf){ 1, 0, { 0x306c3, 0, 0, 0 } };
	b->cpuid.count = 1;
	b->cpuid.max_basic = 1;
	box_long(b, 3);
	v->gpr[RAX] = 5;
	v->nmi_blocked = 1;
	v->pending_db = 1;
	vcpu_reset(v, false);
	assert_int_equal(v->rip, 0xfff0);
	assert_int_equal(rflags_get(v), 2);
	assert_int_equal(v->cr0, 0x60000010);
	assert_int_equal(v->cr2 | v->cr3 | v->cr4 | v->efer, 0);
	assert_int_equal(v->seg[CS].sel, 0xf000);
	assert_int_equal(v->seg[CS].base, 0xffff0000);
	assert_int_equal(v->seg[CS].limit, 0xffff);
	assert_int_equal(v->seg[CS].attr, 0x93);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		assert_int_equal(v->seg[data[i]].sel, 0);
		assert_int_equal(v->seg[data[i]].base, 0);
		assert_int_equal(v->seg[data[i]].limit, 0xffff);
		assert_int_equal(v->seg[data[i]].attr, 0x93);
		assert_int_equal(v->seg_ok[data[i]], SEG_R_OK | SEG_W_OK);
	}
	assert_int_equal(v->gdtr.base | v->idtr.base, 0);
	assert_int_equal(v->gdtr.limit & v->idtr.limit, 0xffff);
	assert_int_equal(v->seg[LDTR].limit, 0xffff);
	assert_int_equal(v->seg[LDTR].attr, 0x82);
	assert_int_equal(v->seg[TR].limit, 0xffff);
	for (unsigned i = 0; i < 16; i++)
		if (i != RDX)
			assert_int_equal(v->gpr[i], 0);
	assert_int_equal(v->gpr[RDX], 0x306c3);
	assert_int_equal(v->dr[6], 0xffff0ff0);
	assert_int_equal(v->dr[7], 0x400);
	assert_int_equal(v->xcr0, 1);
	assert_int_equal(v->cpl | v->nmi_blocked | v->shadow | v->pending_db, 0);
	assert_int_equal(v->activity, ACT_RUNNING);
	assert_int_equal(v->msr[MSRI_PAT], 0x0007040600070406);
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2), 0x40);
	assert_int_equal(le_load(v->xsave + XSAVE_MXCSR, 4), 0x1f80);
	assert_int_equal(v->code_size, 2);
	assert_synced(b);
}

static void init_keeps_caches_and_extended_state(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	v->xcr0 = 7;
	v->pkru = 0x55;
	v->cr0 &= ~(CR0_CD | CR0_NW);
	v->msr[MSRI_LSTAR] = 0x1234;
	le_store(v->xsave + XSAVE_FCW, 0x27f, 2);
	vcpu_reset(v, true);
	assert_int_equal(v->cr0, 0x10);
	assert_int_equal(v->xcr0, 7);
	assert_int_equal(v->pkru, 0x55);
	assert_int_equal(v->msr[MSRI_LSTAR], 0x1234);
	assert_int_equal(le_load(v->xsave + XSAVE_FCW, 2), 0x27f);
	assert_int_equal(v->efer, 0);
	vcpu_sipi(v, 0x9f);
	assert_int_equal(v->seg[CS].sel, 0x9f00);
	assert_int_equal(v->seg[CS].base, 0x9f000);
	assert_int_equal(v->rip, 0);
	assert_int_equal(v->activity, ACT_RUNNING);
}

static void reset_cpu_can_enter_long_mode_without_a_tss(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	/* What an application processor's trampoline does. */
	vcpu_reset(v, true);
	assert_true(cr0_write(v, CR0_PE));
	assert_true(cr4_write(v, CR4_PAE));
	assert_true(cr3_write(v, PML4));
	assert_true(efer_write(v, EFER_LME));
	assert_true(cr0_write(v, CR0_PE | CR0_PG));
	assert_true(in_long_mode(v));
	assert_int_equal(v->code_size, 2);
}

static void state_table_covers_the_architectural_part(void **state)
{
	(void)state;
	assert_int_equal(vcpu_desc.size, offsetof(struct vcpu, arch_end));
	assert_int_equal(state_covered(&vcpu_desc), vcpu_desc.size);
}

static void save_load_save_is_the_same(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 5; i++) {
		struct state_buf one = { 0 }, two = { 0 };
		struct error err = { "" };

		switch (i) {
		case 0: box_real(b); break;
		case 1: box_v86(b, 1); break;
		case 2: box_long(b, 3); break;
		case 3: box_compat(b, 0); break;
		default: vcpu_reset(v, false); break;
		}
		v->gpr[R9] = 0x123456789abcdef0;
		v->xcr0 = 0x2e7;
		le_store(v->xsave + XSAVE_XSTATE_BV, 7, 8);
		box_remember(b);
		vcpu_save(v, &one);
		vcpu_reset(v, false);
		if (vcpu_load(v, &one, &err))
			fail_msg("%s", err.msg);
		assert_state_kept(b);
		assert_synced(b);
		vcpu_save(v, &two);
		assert_int_equal(one.len, two.len);
		assert_memory_equal(one.data, two.data, one.len);
		state_buf_fini(&one);
		state_buf_fini(&two);
	}
}

/* Save the state after 'spoil' and see that it does not load. */
#define REFUSED(statement)                                                               \
	do {                                                                             \
		struct state_buf buf = { 0 };                                            \
		struct error err = { "" };                                               \
		memset(v, 0, offsetof(struct vcpu, arch_end));                           \
		vcpu_reset(v, false);                                                    \
		box_long(b, 0);                                                          \
		le_store(v->xsave + XSAVE_MXCSR, MXCSR_INIT, 4);                         \
		statement;                                                               \
		vcpu_save(v, &buf);                                                      \
		vcpu_reset(v, false);                                                    \
		if (!vcpu_load(v, &buf, &err))                                           \
			fail_msg("loaded: " #statement);                                 \
		assert_int_equal(v->rip, 0xfff0);                                        \
		state_buf_fini(&buf);                                                    \
	} while (0)

static void impossible_states_are_refused(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	{
		struct state_buf buf = { 0 };
		struct error err = { "" };

		box_long(b, 0);
		vcpu_save(v, &buf);
		assert_int_equal(vcpu_load(v, &buf, &err), 0);
		state_buf_fini(&buf);
	}
	REFUSED(v->cpl = 4);
	REFUSED(v->activity = 9);
	REFUSED(v->reg_zero = 1);
	REFUSED(v->pad0 = 1);
	REFUSED(v->cc = RFLAGS_IF);
	REFUSED(v->flags = RFLAGS_1 | RFLAGS_CF);
	REFUSED(v->flags = 0);
	REFUSED(v->flags = RFLAGS_1 | RFLAGS_VM);
	REFUSED(v->cr0 |= BIT(6));
	REFUSED(v->cr0 &= ~CR0_PE);
	REFUSED(v->cr4 &= ~CR4_PAE);
	REFUSED(v->cr4 |= CR4_VMXE);
	REFUSED(v->efer &= ~EFER_LMA);
	REFUSED(v->efer |= EFER_SVME);
	REFUSED(v->xcr0 = 0);
	REFUSED(v->xcr0 = XCR0_X87 | XCR0_AVX);
	REFUSED(v->xcr0 = XCR0_X87 | BIT(3));
	REFUSED(v->dr[7] = 0);
	REFUSED(v->dr[6] = 0);
	REFUSED(v->seg[DS].attr = BIT(20));
	REFUSED(v->seg[DS].base = BIT(32));
	REFUSED(v->seg[CS].attr |= SEG_DB);
	REFUSED(v->rip = 0x800000000000);
	REFUSED(v->cr3 = BIT(45));
	REFUSED(v->pending_db = BIT(12));
	REFUSED(le_store(v->xsave + XSAVE_MXCSR, 0x10000, 4));
	REFUSED(le_store(v->xsave + XSAVE_XCOMP_BV, BIT(63), 8));
	REFUSED(le_store(v->xsave + XSAVE_XSTATE_BV, BIT(9), 8));
	REFUSED(v->xsave[570] = 1);
	/* A truncated stream. */
	struct state_buf buf = { 0 };
	struct error err = { "" };

	box_long(b, 0);
	vcpu_save(v, &buf);
	box_remember(b);
	for (size_t len = buf.len; len-- > 0;) {
		struct state_buf part = { .data = buf.data, .len = len };

		assert_int_not_equal(vcpu_load(v, &part, &err), 0);
	}
	assert_state_kept(b);
	state_buf_fini(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(cr0_transitions_follow_the_table),
		TEST(paging_with_pcids_cannot_be_switched_off),
		TEST(long_flag_of_cs_forbids_entering_long_mode),
		TEST(control_registers_are_for_level_0),
		TEST(lmsw_sets_pe_and_never_clears_it),
		TEST(cr3_reserved_bits_fault_in_64bit_mode_alone),
		TEST(pdptes_are_loaded_and_checked),
		TEST(cr3_load_keeps_global_pages),
		TEST(bit_63_of_cr3_keeps_translations_of_the_same_pcid),
		TEST(permission_bits_flush),
		TEST(invlpg_drops_one_page),
		TEST(invpcid_checks_and_flushes),
		TEST(cr4_bits_follow_the_features),
		TEST(long_mode_pins_pae_and_la57),
		TEST(efer_checks),
		TEST(xcr0_combinations),
		TEST(cr8_is_the_apic_s),
		TEST(debug_registers_have_fixed_and_aliased_bits),
		TEST(general_detect_faults_on_access),
		TEST(data_breakpoints_match_byte_ranges),
		TEST(io_breakpoints_need_cr4_de),
		TEST(watched_page_is_seen_at_once),
		TEST(code_breakpoints_and_tf_ask_for_single_steps),
		TEST(alignment_and_smap_follow_flags_and_level),
		TEST(popf_changes_the_flags_it_may),
		TEST(v86_flags_follow_iopl_and_vme),
		TEST(cli_and_sti_follow_the_table),
		TEST(port_bitmap_is_consulted_below_iopl),
		TEST(every_port_of_an_access_must_be_allowed),
		TEST(power_up_state_is_that_of_the_manual),
		TEST(init_keeps_caches_and_extended_state),
		TEST(reset_cpu_can_enter_long_mode_without_a_tss),
		TEST(state_table_covers_the_architectural_part),
		TEST(save_load_save_is_the_same),
		TEST(impossible_states_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
