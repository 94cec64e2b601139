/* Segment loads, descriptor tables, LAR, LSL, VERR, VERW, LLDT, LTR. SDM 3 chapters 3
 * and 5. */
#include "x86_box.h"

/* ---- an oracle, written from the tables of SDM 3 section 5.6 and 5.7, not from seg.c
 * ---- */

struct verdict {
	bool ok;
	unsigned vector;
};

enum kind { SYSTEM, RO_DATA, RW_DATA, XO_CODE, RX_CODE, XO_CONF, RX_CONF };

static enum kind kind_of(unsigned type, unsigned s)
{
	/* Data: A, W, E from bit 0 on. Code: A, R, C. */
	static const enum kind kinds[16] = { RO_DATA, RO_DATA, RW_DATA, RW_DATA,
					     RO_DATA, RO_DATA, RW_DATA, RW_DATA,
					     XO_CODE, XO_CODE, RX_CODE, RX_CODE,
					     XO_CONF, XO_CONF, RX_CONF, RX_CONF };

	return s ? kinds[type] : SYSTEM;
}

static struct verdict oracle_ss(enum kind k, unsigned dpl, bool p, unsigned rpl,
				unsigned cpl)
{
	if (k != RW_DATA || dpl != cpl || rpl != cpl)
		return (struct verdict){ false, VEC_GP };
	return p ? (struct verdict){ true, 0 } : (struct verdict){ false, VEC_SS };
}

static struct verdict oracle_data(enum kind k, unsigned dpl, bool p, unsigned rpl,
				  unsigned cpl)
{
	switch (k) {
	case SYSTEM:
	case XO_CODE:
	case XO_CONF: return (struct verdict){ false, VEC_GP };
	case RX_CONF: break;
	default:
		if (cpl > dpl || rpl > dpl)
			return (struct verdict){ false, VEC_GP };
	}
	return p ? (struct verdict){ true, 0 } : (struct verdict){ false, VEC_NP };
}

/* Load one selector and compare with what the oracle says. */
static void check_load(struct box *b, unsigned sreg, u16 sel, u64 raw,
		       struct verdict want)
{
	struct vcpu *v = b->v;

	box_remember(b);
	if (seg_load(v, sreg, sel) != want.ok)
		fail_msg("sreg %u sel %x desc %llx cpl %u: want %s", sreg, sel,
			 (unsigned long long)raw, v->cpl, want.ok ? "ok" : "fault");
	if (!want.ok) {
		assert_fault(b, want.vector, sel & 0xfffc);
		assert_all_kept(b);
		return;
	}
	assert_int_equal(v->seg[sreg].sel, sel);
	assert_int_equal(v->seg[sreg].base, 0x123000);
	assert_int_equal(v->seg[sreg].limit, 0x4567);
	assert_int_equal(get_gdt(b, sel), raw | BIT(40));
	assert_int_equal(v->seg[sreg].attr, ((raw >> 40) & 0xf0ff) | 1);
	assert_synced(b);
}

static void loads_agree_with_the_privilege_tables(void **state)
{
	struct box *b = *state;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		box_protected(b, cpl);
		for (unsigned i = 0; i < 16 * 2 * 4 * 2 * 4; i++) {
			unsigned type = i & 15, s = i >> 4 & 1, dpl = i >> 5 & 3,
				 p = i >> 7 & 1, rpl = i >> 8 & 3;
			u16 sel = (u16)(FREE_SEL(0) | rpl);
			u64 raw = make_desc(0x123000, 0x4567, ATTR(type, s, dpl, p));
			enum kind k = kind_of(type, s);

			set_gdt(b, sel, raw);
			check_load(b, SS, sel, raw, oracle_ss(k, dpl, p, rpl, cpl));
			box_seg(b, SS, DATA32(cpl) | cpl);
			set_gdt(b, sel, raw);
			check_load(b, (const u8[]){ ES, DS, FS, GS }[i & 3], sel, raw,
				   oracle_data(k, dpl, p, rpl, cpl));
		}
	}
}

static void null_selector_loads_into_data_and_not_into_ss(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (u16 sel = 0; sel < 4; sel++) {
		box_protected(b, sel);
		assert_true(seg_load(v, DS, sel));
		assert_int_equal(v->seg[DS].sel, sel);
		assert_true(v->seg[DS].attr & SEG_UNUSABLE);
		assert_int_equal(v->seg_ok[DS], 0);
		box_remember(b);
		assert_false(seg_load(v, SS, sel));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
	}
}

static void null_ss_is_for_64bit_code_above_level_3(void **state)
{
	struct box *b = *state;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		for (u16 rpl = 0; rpl < 4; rpl++) {
			bool ok = cpl != 3 && rpl == cpl;

			box_long(b, cpl);
			assert_int_equal(seg_load(b->v, SS, rpl), ok);
			if (ok) {
				assert_int_equal(attr_dpl(b->v->seg[SS].attr), cpl);
				assert_int_equal(b->v->stack_size, 8);
			} else {
				assert_fault(b, VEC_GP, 0);
			}
			box_compat(b, cpl);
			assert_false(seg_load(b->v, SS, rpl));
		}
	}
}

static void null_load_clears_the_hidden_base(void **state)
{
	struct box *b = *state;

	box_long(b, 3);
	b->v->seg[GS].base = 0x123456789000;
	assert_true(seg_load(b->v, GS, 0));
	assert_int_equal(b->v->seg[GS].base, 0);
}

static void limit_and_base_are_put_together_from_the_descriptor(void **state)
{
	struct box *b = *state;
	u64 seed = 42;

	box_protected(b, 0);
	for (unsigned i = 0; i < 2000; i++) {
		u32 base, limit, attr;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		base = (u32)(seed >> 32);
		limit = (u32)(seed >> 12) & 0xfffff;
		attr = ATTR_DATA(3) |
		       ((u32)(seed >> 5) & (SEG_AVL | SEG_L | SEG_DB | SEG_G));
		set_gdt(b, FREE_SEL(1), make_desc(base, limit, attr));
		assert_true(seg_load(b->v, FS, FREE_SEL(1)));
		assert_int_equal(b->v->seg[FS].base, base);
		assert_int_equal(b->v->seg[FS].limit,
				 attr & SEG_G ? limit << 12 | 0xfff : limit);
	}
}

static void selectors_beyond_the_table_fault(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	for (unsigned cut = 0; cut < 16; cut++) {
		v->gdtr.limit = (u16)(DATA32(0) + cut);
		v->seg[LDTR].limit = 8 + cut;
		set_ldt(b, 8, make_desc(0, 0xfffff, ATTR_DATA(0)));
		assert_int_equal(seg_load(v, ES, DATA32(0)), cut >= 7);
		assert_int_equal(seg_load(v, ES, 8 | 4), cut >= 7);
		if (cut < 7)
			assert_fault(b, VEC_GP, 8 | 4);
	}
	v->seg[LDTR] = seg_null(0, 0);
	assert_false(seg_load(v, ES, 8 | 4));
	assert_fault(b, VEC_GP, 8 | 4);
}

static void tables_wrap_at_4_gib_outside_long_mode_only(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	v->gdtr.base = 0xfffff000;
	v->gdtr.limit = 0xffff;
	poke(b, 0x40, make_desc(0x777000, 1, ATTR_DATA(0)), 8);
	assert_true(seg_load(v, ES, 0x1040));
	assert_int_equal(v->seg[ES].base, 0x777000);
}

static void unreadable_table_is_a_supervisor_page_fault(void **state)
{
	struct box *b = *state;

	box_long(b, 3);
	box_map_small(b);
	set_pte(b, GDT, 0);
	box_remember(b);
	assert_false(seg_load(b->v, ES, DATA32(3) | 3));
	assert_fault(b, VEC_PF, 0);
	assert_int_equal(b->v->fault.cr2, GDT + DATA32(3));
	assert_all_kept(b);
	/* Supervisor pages can be read from level 3. */
	set_pte(b, GDT, 3);
	assert_true(seg_load(b->v, ES, DATA32(3) | 3));
	/* The accessed bit of a read-only table cannot be set. */
	set_gdt(b, FREE_SEL(0), make_desc(0, 1, ATTR_DATA(3)));
	set_pte(b, GDT, 1);
	box_remember(b);
	assert_false(seg_load(b->v, ES, FREE_SEL(0) | 3));
	assert_fault(b, VEC_PF, PF_P | PF_W);
	assert_state_kept(b);
	/* When it is set already, no write is done. */
	assert_true(seg_load(b->v, ES, DATA32(3) | 3));
}

static void real_mode_load_keeps_limit_and_rights(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	v->seg[DS].limit = 0xffffffff;
	assert_true(seg_load(v, DS, 0xffff));
	assert_int_equal(v->seg[DS].base, 0xffff0);
	assert_int_equal(v->seg[DS].limit, 0xffffffff);
	v->seg[DS] = seg_null(0, 0);
	assert_true(seg_load(v, DS, 0x1234));
	assert_int_equal(v->seg[DS].limit, 0xffff);
	assert_int_equal(v->seg_ok[DS], SEG_R_OK | SEG_W_OK);
}

static void v86_load_sets_limit_and_rights(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_v86(b, 0);
	v->seg[DS].limit = 0xffffffff;
	assert_true(seg_load(v, DS, 0xffff));
	assert_int_equal(v->seg[DS].base, 0xffff0);
	assert_int_equal(v->seg[DS].limit, 0xffff);
	assert_int_equal(v->seg[DS].attr, 0xf3);
}

/* The inline check may only say yes where the full one does. */
static void fast_limit_check_agrees_with_the_slow_one(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const u64 offs[] = { 0,       1,          0x4564,    0x4565,
				    0x4567,  0x4568,     0xfffc,    0xffff,
				    0x10000, 0xfffffffc, 0xffffffff };

	box_protected(b, 0);
	for (unsigned i = 0; i < 16 * 2 * 2; i++) {
		unsigned type = i & 15, db = i >> 4 & 1, g = i >> 5;

		set_gdt(b, FREE_SEL(0),
			make_desc(0x123000, g ? 0xfffff : 0x4567,
				  ATTR(type, 1u, 3u, 1u) | (db ? SEG_DB : 0) |
					  (g ? SEG_G : 0)));
		if (!seg_load(v, ES, FREE_SEL(0)))
			continue;
		for (unsigned j = 0; j < ARRAY_SIZE(offs) * 2; j++) {
			enum access acc = j & 1 ? ACC_WRITE : ACC_READ;
			gva_t fast, slow;
			bool ok = seg_linear_slow(v, ES, offs[j / 2], 4, acc, &slow);

			assert_int_equal(seg_linear(v, ES, offs[j / 2], 4, acc, &fast),
					 ok);
			if (ok)
				assert_int_equal(fast, slow);
		}
	}
}

static void inner_data_segments_are_dropped(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	box_seg(b, DS, DATA32(0));
	box_seg(b, ES, DATA32(3) | 3);
	box_seg(b, FS, CONF32(0));
	v->seg[GS] = seg_null(2, 0);
	v->seg[GS].base = 0x1234;
	seg_drop_inner(v, 3);
	assert_int_equal(v->seg[DS].sel, 0);
	assert_true(v->seg[DS].attr & SEG_UNUSABLE);
	assert_int_equal(v->seg[ES].sel, DATA32(3) | 3);
	assert_int_equal(v->seg[FS].sel, CONF32(0));
	assert_int_equal(v->seg[GS].sel, 0);
	assert_int_equal(v->seg[GS].base, 0x1234);
}

/* ---- LAR, LSL, VERR, VERW ---- */

/* SDM 2, tables "Segment and Gate Types" of LAR and LSL. */
static bool lar_type(unsigned type, bool long_mode)
{
	switch (type) {
	case 2:
	case 9:
	case 11:
	case 12: return true;
	case 1:
	case 3:
	case 4:
	case 5: return !long_mode;
	default: return false;
	}
}

static bool lsl_type(unsigned type, bool long_mode)
{
	return lar_type(type, long_mode) && type != 4 && type != 5 && type != 12;
}

static void check_inspection(struct box *b, u16 sel, unsigned type, unsigned s,
			     unsigned dpl)
{
	struct vcpu *v = b->v;
	enum kind k = kind_of(type, s);
	bool lm = in_long_mode(v), ok, vis;
	u32 val = 0xdead;

	vis = k == XO_CONF || k == RX_CONF || (v->cpl <= dpl && (sel & 3u) <= dpl);
	assert_true(seg_lar(v, sel, &val, &ok));
	assert_int_equal(ok, vis && (s || lar_type(type, lm)));
	if (ok)
		/* With bits 19..16 of the limit, which the manual leaves open. */
		assert_int_equal(val, ATTR(type, s, dpl, 1u) << 8 | 0xd30000);
	assert_true(seg_lsl(v, sel, &val, &ok));
	assert_int_equal(ok, vis && (s || lsl_type(type, lm)));
	if (ok)
		assert_int_equal(val, 0x34567fff);
	assert_true(seg_verify(v, sel, false, &ok));
	assert_int_equal(ok, vis && s && k != XO_CODE && k != XO_CONF);
	assert_true(seg_verify(v, sel, true, &ok));
	assert_int_equal(ok, vis && k == RW_DATA);
}

static void inspection_agrees_with_the_tables(void **state)
{
	struct box *b = *state;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		for (unsigned lm = 0; lm < 2; lm++) {
			if (lm)
				box_long(b, cpl);
			else
				box_protected(b, cpl);
			for (unsigned i = 0; i < 16 * 2 * 4 * 4; i++) {
				unsigned type = i & 15, s = i >> 4 & 1, dpl = i >> 5 & 3;
				u16 sel = (u16)(FREE_SEL(0) | i >> 7);

				set_gdt(b, sel,
					make_desc(0x89abcdef, 0x34567,
						  ATTR(type, s, dpl, 1u) | SEG_G |
							  SEG_DB | SEG_AVL));
				box_remember(b);
				check_inspection(b, sel, type, s, dpl);
				assert_all_kept(b);
			}
		}
	}
}

static void inspection_of_nothing_clears_zf(void **state)
{
	struct box *b = *state;
	static const u16 sels[] = { 0, 3, 0x1000, 0x403 | 4, 0xfff8 };
	bool ok;
	u32 val;

	box_protected(b, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(sels); i++) {
		assert_true(seg_lar(b->v, sels[i], &val, &ok));
		assert_false(ok);
		assert_true(seg_lsl(b->v, sels[i], &val, &ok));
		assert_false(ok);
		assert_true(seg_verify(b->v, sels[i], false, &ok));
		assert_false(ok);
	}
}

static void protected_mode_instructions_are_undefined_elsewhere(void **state)
{
	struct box *b = *state;
	bool ok;
	u32 val;

	for (unsigned i = 0; i < 2; i++) {
		if (i)
			box_v86(b, 3);
		else
			box_real(b);
		assert_false(seg_lar(b->v, CODE32(3), &val, &ok));
		assert_fault_plain(b, VEC_UD);
		assert_false(seg_lsl(b->v, CODE32(3), &val, &ok));
		assert_false(seg_verify(b->v, CODE32(3), false, &ok));
		assert_false(seg_lldt(b->v, LDT_SEL));
		assert_fault_plain(b, VEC_UD);
		assert_false(seg_ltr(b->v, TSS_SEL));
		assert_fault_plain(b, VEC_UD);
	}
}

/* ---- LLDT, LTR ---- */

static void system_loads_take_their_own_types_only(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned lm = 0; lm < 2; lm++) {
		for (unsigned i = 0; i < 16 * 2 * 2; i++) {
			unsigned type = i & 15, s = i >> 4 & 1, p = i >> 5;
			bool ldt = !s && type == DESC_LDT;
			bool tss =
				!s && (type == DESC_TSS32 || (type == DESC_TSS16 && !lm));
			u64 raw = make_desc(0x123000, 0x67, ATTR(type, s, 0u, p));

			if (lm)
				box_long(b, 0);
			else
				box_protected(b, 0);
			set_gdt(b, FREE_SEL(0), raw);
			set_gdt(b, FREE_SEL(1), lm ? 0xffff8000 : 0);
			box_remember(b);
			if (seg_lldt(v, FREE_SEL(0) | 2)) {
				assert_true(ldt && p);
				assert_int_equal(v->seg[LDTR].sel, FREE_SEL(0) | 2);
				assert_int_equal(v->seg[LDTR].base,
						 lm ? 0xffff800000123000 : 0x123000);
			} else {
				assert_fault(b, ldt && !p ? VEC_NP : VEC_GP, FREE_SEL(0));
				assert_all_kept(b);
			}
			box_remember(b);
			if (seg_ltr(v, FREE_SEL(0))) {
				assert_true(tss && p);
				assert_int_equal(v->seg[TR].base,
						 lm ? 0xffff800000123000 : 0x123000);
				assert_int_equal(v->seg[TR].attr & 15, type | 2);
				assert_int_equal(get_gdt(b, FREE_SEL(0)), raw | BIT(41));
			} else {
				assert_fault(b, tss && !p ? VEC_NP : VEC_GP, FREE_SEL(0));
				assert_all_kept(b);
			}
		}
	}
}

static void system_loads_refuse_bad_selectors(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	assert_true(seg_lldt(v, 3));
	assert_true(v->seg[LDTR].attr & SEG_UNUSABLE);
	assert_false(seg_ltr(v, 0));
	assert_fault(b, VEC_GP, 0);
	assert_false(seg_ltr(v, 8 | 4));
	assert_fault(b, VEC_GP, 8 | 4);
	assert_false(seg_lldt(v, 8 | 4));
	assert_fault(b, VEC_GP, 8 | 4);
	box_protected(b, 1);
	assert_false(seg_lldt(v, LDT_SEL));
	assert_fault(b, VEC_GP, 0);
	assert_false(seg_ltr(v, TSS_SEL));
	assert_fault(b, VEC_GP, 0);
}

static void wide_descriptors_are_checked_as_a_whole(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	u64 raw = make_desc(0, 0x67, ATTR(DESC_TSS32, 0u, 0u, 1u));

	box_long(b, 0);
	set_gdt(b, FREE_SEL(0), raw);
	/* The type field of the second half. */
	for (unsigned bit = 40; bit < 45; bit++) {
		set_gdt(b, FREE_SEL(1), BIT(bit));
		assert_false(seg_ltr(v, FREE_SEL(0)));
		assert_fault(b, VEC_GP, FREE_SEL(0));
	}
	/* Not canonical: with 57 bits in the CPU the check is as wide, whatever CR4 says.
	 */
	set_gdt(b, FREE_SEL(1), 0x01000000);
	assert_false(seg_ltr(v, FREE_SEL(0)));
	assert_fault(b, VEC_GP, FREE_SEL(0));
	set_gdt(b, FREE_SEL(1), 0x00800000);
	assert_true(seg_ltr(v, FREE_SEL(0)));
	/* All 16 bytes must be in the table. */
	set_gdt(b, FREE_SEL(0), raw);
	set_gdt(b, FREE_SEL(1), 0);
	v->gdtr.limit = FREE_SEL(0) + 14;
	assert_false(seg_ltr(v, FREE_SEL(0)));
	assert_fault(b, VEC_GP, FREE_SEL(0));
	v->gdtr.limit++;
	assert_true(seg_ltr(v, FREE_SEL(0)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(loads_agree_with_the_privilege_tables),
		TEST(null_selector_loads_into_data_and_not_into_ss),
		TEST(null_ss_is_for_64bit_code_above_level_3),
		TEST(null_load_clears_the_hidden_base),
		TEST(limit_and_base_are_put_together_from_the_descriptor),
		TEST(selectors_beyond_the_table_fault),
		TEST(tables_wrap_at_4_gib_outside_long_mode_only),
		TEST(unreadable_table_is_a_supervisor_page_fault),
		TEST(real_mode_load_keeps_limit_and_rights),
		TEST(v86_load_sets_limit_and_rights),
		TEST(fast_limit_check_agrees_with_the_slow_one),
		TEST(inner_data_segments_are_dropped),
		TEST(inspection_agrees_with_the_tables),
		TEST(inspection_of_nothing_clears_zf),
		TEST(protected_mode_instructions_are_undefined_elsewhere),
		TEST(system_loads_take_their_own_types_only),
		TEST(system_loads_refuse_bad_selectors),
		TEST(wide_descriptors_are_checked_as_a_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
