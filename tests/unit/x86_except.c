/* Delivery of exceptions and interrupts. SDM 3 chapter 6, sections 17.3 and 20.3. */
#include "x86_box.h"

#include "x86/except.h"
#include "x86/msr.h"

#define HANDLER(vector) (HANDLERS + 16u * (vector))

/* 32-bit interrupt gates of DPL 0 for all vectors. */
static void fill_idt(struct box *b)
{
	for (unsigned i = 0; i < 256; i++)
		set_idt(b, i, make_gate(DESC_INT32, 0, true, CODE32(0), HANDLER(i), 0));
}

static void fill_idt64(struct box *b)
{
	for (unsigned i = 0; i < 256; i++)
		set_idt64(b, i, make_gate(DESC_INT32, 0, true, CODE64(0), HANDLER(i), 0),
			  0);
}

static void protected_with_idt(struct box *b, unsigned cpl)
{
	box_protected(b, cpl);
	fill_idt(b);
}

static void long_with_idt(struct box *b, unsigned cpl)
{
	box_long(b, cpl);
	fill_idt64(b);
}

/* The item 'n' of the frame on the current stack. */
static u64 frame(struct box *b, unsigned n, unsigned size)
{
	struct vcpu *v = b->v;
	u64 base = v->stack_size == 8 ? 0 : v->seg[SS].base;

	return peek(b, base + (v->gpr[RSP] & size_mask(v->stack_size)) + n * size, size);
}

/* ---- real mode ---- */

static void real_mode_goes_through_the_ivt(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	poke(b, 0x40 * 4, 0x5678, 2);
	poke(b, 0x40 * 4 + 2, 0x1234, 2);
	rflags_set(v,
		   RFLAGS_1 | RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_CF | RFLAGS_NT);
	v->shadow = SHADOW_STI;
	assert_true(except_interrupt(v, 0x40));
	assert_int_equal(v->seg[CS].sel, 0x1234);
	assert_int_equal(v->seg[CS].base, 0x12340);
	assert_int_equal(v->rip, 0x5678);
	assert_int_equal(v->gpr[RSP], 0x1000 - 6);
	assert_int_equal(frame(b, 0, 2), 0x100);
	assert_int_equal(frame(b, 1, 2), 0x2010);
	assert_int_equal(frame(b, 2, 2),
			 RFLAGS_1 | RFLAGS_IF | RFLAGS_TF | RFLAGS_CF | RFLAGS_NT);
	assert_int_equal(rflags_get(v), RFLAGS_1 | RFLAGS_CF | RFLAGS_NT);
	assert_int_equal(v->shadow, 0);
	assert_synced(b);
}

static void real_mode_pushes_no_error_code(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	poke(b, VEC_GP * 4, 0x00345678, 4);
	raise_gp0(v);
	assert_true(except_deliver(v));
	assert_int_equal(v->gpr[RSP], 0x1000 - 6);
	/* A fault: but FLAGS has no room for RF. */
	assert_int_equal(v->rip, 0x5678);
}

static void real_mode_idt_limit_is_checked(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	poke(b, VEC_GP * 4, 0x00340013, 4);
	v->idtr.limit = 0x40 * 4 + 2;
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0x102));
	assert_int_equal(v->fault.vector, VEC_GP);
	assert_all_kept(b);
	assert_true(except_interrupt(v, 0x40));
	assert_int_equal(v->rip, 0x13);
	/* Not even #DF is in the table. */
	box_real(b);
	v->idtr.limit = 3;
	box_remember(b);
	raise_ud(v);
	assert_false(except_deliver(v));
	assert_int_equal(v->activity, ACT_SHUTDOWN);
	assert_true(v->shutdown);
	v->activity = ACT_RUNNING;
	assert_all_kept(b);
}

static void real_mode_stack_wraps_at_64k_between_items_only(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	v->gpr[RSP] = 0xabcd0002;
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x102));
	assert_int_equal(v->gpr[RSP], 0xabcdfffc);
	box_real(b);
	v->gpr[RSP] = 3;
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0x102));
	assert_int_equal(v->fault.vector, VEC_SS);
	assert_all_kept(b);
}

/* ---- gates ---- */

static void gates_are_checked_in_order(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		for (unsigned i = 0; i < 32 * 4 * 2 * 2; i++) {
			unsigned type = i & 31, dpl = i >> 5 & 3, p = i >> 7 & 1,
				 hard = i >> 8;
			bool known = type == 6 || type == 7 || type == 14 || type == 15;
			bool allowed = hard || dpl >= cpl;
			u32 err = 0x40 * 8 + 2 + hard;
			bool ok;

			if (type == DESC_TASK_GATE)
				continue; /* x86_task.c */
			box_protected(b, cpl);
			fill_idt(b);
			set_idt(b, 0x40, make_gate(type, dpl, p, CODE32(0), 0x1234, 0));
			box_remember(b);
			/* INT1 is not subject to the DPL, and has EXT. */
			ok = except_soft_int(v, 0x40, hard ? SOFT_INT1 : SOFT_INT_N,
					     0x5002);
			assert_int_equal(ok, known && allowed && p);
			if (ok)
				continue;
			assert_all_kept(b);
			assert_fault(b, !known || !allowed ? VEC_GP : VEC_NP, err);
		}
	}
}

static void code_segments_of_gates_are_checked(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned cpl = 0; cpl < 5; cpl++) { /* 4: v86 */
		for (unsigned i = 0; i < 16 * 2 * 4 * 2; i++) {
			unsigned type = i & 15, s = i >> 4 & 1, dpl = i >> 5 & 3,
				 p = i >> 7;
			unsigned level = cpl == 4 ? 3 : cpl;
			bool code = s && (type & 8), conf = type & 4;
			bool good = code && dpl <= level;
			unsigned to = conf ? level : dpl;

			if (cpl == 4)
				box_v86(b, 3);
			else
				box_protected(b, cpl);
			set_gdt(b, FREE_SEL(0),
				make_desc(0, 0xfffff,
					  ATTR(type, s, dpl, p) | SEG_G | SEG_DB));
			set_idt(b, 0x40,
				make_gate(DESC_TRAP32, 3, true, FREE_SEL(0) | 3, 0x1234,
					  0));
			box_remember(b);
			if (except_soft_int(v, 0x40, SOFT_INT_N, 0x102)) {
				assert_true(good && p && (cpl != 4 || to == 0));
				assert_int_equal(v->cpl, to);
				assert_int_equal(v->seg[CS].sel, FREE_SEL(0) | to);
				assert_int_equal(v->seg[SS].sel & 3, to);
				assert_int_equal(get_gdt(b, FREE_SEL(0)) >> 40 & 1, 1);
				assert_synced(b);
			} else {
				assert_all_kept(b);
				assert_fault(b, good && !p ? VEC_NP : VEC_GP,
					     FREE_SEL(0));
			}
		}
	}
}

static void gate_with_null_or_missing_code_segment_faults(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	set_idt(b, 0x40, make_gate(DESC_TRAP32, 3, true, 3, 0x1234, 0));
	assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_GP, 0);
	set_idt(b, 0x40, make_gate(DESC_TRAP32, 3, true, 0x1000, 0x1234, 0));
	assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_GP, 0x1000);
}

static void entry_beyond_the_limit_faults(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	set_gdt(b, FREE_SEL(0), make_desc(0, 0x1233, ATTR_CODE(0) | SEG_DB));
	set_idt(b, 0x40, make_gate(DESC_TRAP32, 3, true, FREE_SEL(0), 0x1234, 0));
	box_remember(b);
	assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	/* A 16-bit gate has a 16-bit offset. */
	set_idt(b, 0x40, make_gate(DESC_TRAP16, 3, true, FREE_SEL(0), 0xffff1233, 0));
	assert_true(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
	assert_int_equal(b->v->rip, 0x1233);
}

/* ---- frames ---- */

static void gate_type_decides_size_and_if(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const u8 types[] = { DESC_INT16, DESC_TRAP16, DESC_INT32, DESC_TRAP32 };
	const u64 flags = RFLAGS_1 | RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_RF |
			  RFLAGS_AC | RFLAGS_CF | RFLAGS_IOPL;

	for (unsigned i = 0; i < 4; i++) {
		for (unsigned cpl = 0; cpl < 4; cpl += 3) {
			unsigned size = types[i] & 8 ? 4 : 2, n = cpl ? 5 : 3;
			u64 mask = size_mask(size);

			box_protected(b, cpl);
			set_idt(b, 0x40,
				make_gate(types[i], 3, true, CODE32(0), 0x1234, 0));
			rflags_set(v, flags);
			v->gpr[RSP] = STACK3 + 0x10010;
			assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x10005002));
			assert_int_equal(frame(b, 0, size), 0x10005002 & mask);
			assert_int_equal(frame(b, 1, size), CODE32(cpl) | cpl);
			assert_int_equal(frame(b, 2, size), flags & mask);
			if (cpl) {
				assert_int_equal(frame(b, 3, size),
						 (STACK3 + 0x10010) & mask);
				assert_int_equal(frame(b, 4, size), DATA32(3) | 3);
				assert_int_equal(v->gpr[RSP], STACK0 + 0x1000 - n * size);
				assert_int_equal(v->seg[SS].sel, DATA32(0));
			} else {
				assert_int_equal(v->gpr[RSP],
						 STACK3 + 0x10010 - n * size);
			}
			assert_int_equal(rflags_get(v),
					 RFLAGS_1 | RFLAGS_AC | RFLAGS_CF | RFLAGS_IOPL |
						 (types[i] & 1 ? RFLAGS_IF : 0));
			assert_int_equal(v->rip, 0x1234);
			assert_synced(b);
		}
	}
}

static void error_code_is_pushed_last(void **state)
{
	struct box *b = *state;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		protected_with_idt(b, cpl);
		raise_err(b->v, VEC_NP, 0xabc);
		assert_true(except_deliver(b->v));
		assert_int_equal(frame(b, 0, 4), 0xabc);
		assert_int_equal(frame(b, 1, 4), 0x5000);
		assert_int_equal(b->v->rip, HANDLER(VEC_NP));
	}
}

static void v86_frame_holds_the_data_segments(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned size = 2; size <= 4; size += 2) {
		box_v86(b, 3);
		set_idt(b, 0x40,
			make_gate(size == 4 ? DESC_INT32 : DESC_INT16, 3, true, CODE32(0),
				  0x1234, 0));
		assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x102));
		assert_int_equal(v->gpr[RSP], STACK0 + 0x1000 - 9 * size);
		assert_int_equal(frame(b, 0, size), 0x102);
		assert_int_equal(frame(b, 1, size), 0x2010);
		assert_int_equal(frame(b, 2, size),
				 (RFLAGS_1 | RFLAGS_VM | RFLAGS_IOPL | RFLAGS_IF) &
					 size_mask(size));
		assert_int_equal(frame(b, 3, size), 0x1000);
		assert_int_equal(frame(b, 4, size), 0x2020); /* SS */
		assert_int_equal(frame(b, 5, size), 0x2000); /* ES */
		assert_int_equal(frame(b, 6, size), 0x2030); /* DS */
		assert_int_equal(frame(b, 7, size), 0x2040); /* FS */
		assert_int_equal(frame(b, 8, size), 0x2050); /* GS */
		for (unsigned i = 0; i < 4; i++) {
			const struct seg *s = &v->seg[(const u8[]){ ES, DS, FS, GS }[i]];

			assert_int_equal(s->sel, 0);
			assert_true(s->attr & SEG_UNUSABLE);
		}
		assert_int_equal(v->cpl, 0);
		assert_int_equal(rflags_get(v), RFLAGS_1 | RFLAGS_IOPL);
		assert_synced(b);
	}
}

static void v86_int_n_needs_iopl_3(void **state)
{
	struct box *b = *state;

	for (unsigned iopl = 0; iopl < 4; iopl++) {
		box_v86(b, iopl);
		set_idt(b, 3, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
		box_remember(b);
		assert_int_equal(except_soft_int(b->v, 3, SOFT_INT_N, 0x102), iopl == 3);
		if (iopl != 3) {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
			/* The one-byte form is not sensitive to IOPL. */
			assert_true(except_soft_int(b->v, 3, SOFT_INT3, 0x102));
		}
	}
}

/* ---- inner stacks ---- */

struct ss_case {
	const char *what;
	u32 attr; /* of the stack segment */
	u16 sel;
	u16 tss_limit;
	u32 esp;
	unsigned vector;
	u32 error;
};

static void bad_inner_stacks_are_refused(void **state)
{
	const u16 sel = FREE_SEL(0);
	const struct ss_case cases[] = {
		{ "good", ATTR_DATA(0) | SEG_DB, sel, 0x67, 0x100, 0, 0 },
		{ "TSS too short", ATTR_DATA(0) | SEG_DB, sel, 8, 0x100, VEC_TS,
		  TSS_SEL },
		{ "TSS just long enough", ATTR_DATA(0) | SEG_DB, sel, 9, 0x100, 0, 0 },
		{ "null", ATTR_DATA(0), 0, 0x67, 0x100, VEC_TS, 0 },
		{ "null with RPL", ATTR_DATA(0), 3, 0x67, 0x100, VEC_TS, 0 },
		{ "beyond the table", ATTR_DATA(0), 0x2000, 0x67, 0x100, VEC_TS, 0x2000 },
		{ "RPL", ATTR_DATA(0), sel | 1, 0x67, 0x100, VEC_TS, sel },
		{ "DPL", ATTR_DATA(1), sel, 0x67, 0x100, VEC_TS, sel },
		{ "read-only", ATTR(0u, 1u, 0u, 1u), sel, 0x67, 0x100, VEC_TS, sel },
		{ "code", ATTR_CODE(0), sel, 0x67, 0x100, VEC_TS, sel },
		{ "system", ATTR(2u, 0u, 0u, 1u), sel, 0x67, 0x100, VEC_TS, sel },
		{ "not present", ATTR(2u, 1u, 0u, 0u), sel, 0x67, 0x100, VEC_SS, sel },
		{ "no room", ATTR_DATA(0) | SEG_DB, sel, 0x67, 0x13, VEC_SS, sel },
		{ "just room", ATTR_DATA(0) | SEG_DB, sel, 0x67, 0x14, 0, 0 },
		{ "beyond its limit", ATTR_DATA(0) | SEG_DB, sel, 0x67, 0x10005, VEC_SS,
		  sel },
		{ "at its limit", ATTR_DATA(0) | SEG_DB, sel, 0x67, 0x10000, 0, 0 },
		{ "expand-down, no room", ATTR(6u, 1u, 0u, 1u) | SEG_DB, sel, 0x67,
		  0x10013, VEC_SS, sel },
		{ "expand-down, just room", ATTR(6u, 1u, 0u, 1u) | SEG_DB, sel, 0x67,
		  0x10014, 0, 0 },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct ss_case *c = &cases[i];

		box_protected(b, 3);
		set_gdt(b, sel, make_desc(STACK0, 0xffff, c->attr));
		set_idt(b, 0x40, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
		poke(b, TSS + 4, c->esp, 4);
		poke(b, TSS + 8, c->sel, 4);
		v->seg[TR].limit = c->tss_limit;
		box_remember(b);
		if (except_soft_int(v, 0x40, SOFT_INT_N, 0x5002) != !c->vector)
			fail_msg("%s", c->what);
		if (c->vector) {
			assert_fault(b, c->vector, c->error);
			assert_all_kept(b);
		} else {
			assert_synced(b);
		}
	}
}

static void tss16_has_16bit_stack_pointers(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 3);
	set_gdt(b, TSS_SEL, make_desc(TSS, 0x2b, ATTR(DESC_TSS16_BUSY, 0u, 0u, 1u)));
	box_seg(b, TR, TSS_SEL);
	set_idt(b, 0x40, make_gate(DESC_INT16, 3, true, CODE16(1), 0x1234, 0));
	poke(b, TSS + 6, 0x800, 2);
	poke(b, TSS + 8, DATA16(1) | 1, 2);
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x5002));
	assert_int_equal(v->cpl, 1);
	assert_int_equal(v->gpr[RSP], 0x800 - 10);
	assert_int_equal(v->seg[SS].sel, DATA16(1) | 1);
	assert_int_equal(frame(b, 0, 2), 0x5002);
	v->seg[TR].limit = 8;
	v->cpl = 3;
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0x5002));
	assert_fault(b, VEC_TS, TSS_SEL);
}

static void sixteen_bit_inner_stack_moves_sp_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 3);
	set_gdt(b, FREE_SEL(0), make_desc(STACK0, 0xffff, ATTR_DATA(0)));
	set_idt(b, 0x40, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
	poke(b, TSS + 4, 0x12340008, 4);
	poke(b, TSS + 8, FREE_SEL(0), 4);
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x5002));
	assert_int_equal(v->gpr[RSP], 0x1234fff4);
	assert_int_equal(peek(b, STACK0 + 4, 4), DATA32(3) | 3);
	assert_int_equal(peek(b, STACK0 + 0xfff4, 4), 0x5002);
}

static void outer_stack_without_room_is_ss_0(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	set_idt(b, 0x40, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
	set_gdt(b, FREE_SEL(0), make_desc(STACK0, 0xff, ATTR_DATA(0) | SEG_DB));
	box_seg(b, SS, FREE_SEL(0));
	b->v->gpr[RSP] = 11;
	box_remember(b);
	assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0x5002));
	assert_fault(b, VEC_SS, 0);
	assert_all_kept(b);
}

/* ---- long mode ---- */

static void long_mode_pushes_five_and_aligns(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned cpl = 0; cpl < 4; cpl += 3) {
		for (unsigned err = 0; err < 2; err++) {
			u64 top = cpl ? STACK0 + 0x1000 : STACK3 + 0x1000 - 16;
			unsigned n = err;

			long_with_idt(b, cpl);
			v->gpr[RSP] = STACK3 + 0x1000 - 5;
			v->flags |= RFLAGS_IF;
			v->rip = 0xffffffff80005000;
			raise_err(v, err ? VEC_NP : 0x40, 0xabc);
			v->fault.has_error = err;
			assert_true(except_deliver(v));
			assert_int_equal(v->gpr[RSP], top - 40 - 8 * err);
			if (err)
				assert_int_equal(frame(b, 0, 8), 0xabc);
			assert_int_equal(frame(b, n, 8), 0xffffffff80005000);
			assert_int_equal(frame(b, n + 1, 8), CODE64(cpl) | cpl);
			assert_int_equal(frame(b, n + 2, 8),
					 RFLAGS_1 | RFLAGS_IF | RFLAGS_RF);
			assert_int_equal(frame(b, n + 3, 8), STACK3 + 0x1000 - 5);
			assert_int_equal(frame(b, n + 4, 8), DATA32(cpl) | cpl);
			assert_int_equal(v->seg[SS].sel, cpl ? 0 : DATA32(0));
			assert_int_equal(!!(v->seg[SS].attr & SEG_UNUSABLE), cpl != 0);
			assert_int_equal(v->cpl, 0);
			assert_int_equal(v->flags, RFLAGS_1);
			assert_synced(b);
		}
	}
}

static void compat_mode_is_left_for_64bit_handlers(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_compat(b, 3);
	fill_idt64(b);
	set_idt64(b, 0x40, make_gate(DESC_TRAP32, 3, true, CONF64(0), 0x1234, 0),
		  0xffffffff);
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0x5002));
	assert_int_equal(v->rip, 0xffffffff00001234);
	assert_int_equal(v->code_size, 8);
	assert_int_equal(v->cpl, 3);
	assert_int_equal(v->seg[CS].sel, CONF64(0) | 3);
	assert_int_equal(v->seg[SS].sel, DATA32(3) | 3);
	assert_int_equal(frame(b, 1, 8), CODE32(3) | 3);
}

static void ist_is_used_at_every_level(void **state)
{
	struct box *b = *state;

	for (unsigned ist = 1; ist < 8; ist++) {
		for (unsigned cpl = 0; cpl < 4; cpl += 3) {
			long_with_idt(b, cpl);
			set_idt64(b, 0x40,
				  make_gate(DESC_INT32, 0, true, CODE64(0), 0x1234, ist),
				  0);
			poke(b, TSS + 0x24 + 8 * (ist - 1), STACK1 + 0x100 * ist + 9, 8);
			assert_true(except_interrupt(b->v, 0x40));
			assert_int_equal(b->v->gpr[RSP], STACK1 + 0x100 * ist - 40);
		}
	}
}

static void long_mode_refuses_what_is_not_64bit(void **state)
{
	static const struct {
		u32 type;
		u16 cs;
		u32 high; /* of the offset */
		u64 rsp0;
		u16 limit; /* of the TSS */
		unsigned vector;
		u32 error;
	} cases[] = {
		{ DESC_INT32, CODE64(0), 0, STACK0, 0x67, 0, 0 },
		{ DESC_INT16, CODE64(0), 0, STACK0, 0x67, VEC_GP, 0x202 },
		{ DESC_TASK_GATE, CODE64(0), 0, STACK0, 0x67, VEC_GP, 0x202 },
		{ DESC_INT32, CODE32(0), 0, STACK0, 0x67, VEC_GP, CODE32(0) },
		{ DESC_INT32, CODE64(0), 0x8000, STACK0, 0x67, VEC_GP, 0 },
		{ DESC_INT32, CODE64(0), 0, UINT64_C(1) << 47, 0x67, 0, 0 },
		{ DESC_INT32, CODE64(0), 0, (UINT64_C(1) << 47) + 16, 0x67, VEC_SS, 0 },
		{ DESC_INT32, CODE64(0), 0, UINT64_C(0xffff800000000000), 0x67, VEC_SS,
		  0 },
		{ DESC_INT32, CODE64(0), 0, STACK0, 10, VEC_TS, TSS_SEL },
		{ DESC_INT32, CODE64(0), 0, STACK0, 11, 0, 0 },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		long_with_idt(b, 3);
		set_idt64(b, 0x40,
			  make_gate(cases[i].type, 3, true, cases[i].cs, 0x1234, 0),
			  cases[i].high);
		poke(b, TSS + 4, cases[i].rsp0, 8);
		/* Map the top of the lower half too: case 5 is fine but for paging. */
		poke(b, PML4 + 255 * 8, peek(b, PML4 + 511 * 8, 8), 8);
		v->seg[TR].limit = cases[i].limit;
		box_remember(b);
		if (except_soft_int(v, 0x40, SOFT_INT_N, 0x5002) != !cases[i].vector)
			fail_msg("case %u", i);
		if (cases[i].vector) {
			assert_fault(b, cases[i].vector, cases[i].error);
			assert_all_kept(b);
		}
	}
}

static void noncanonical_stack_of_the_same_level_is_ss_0(void **state)
{
	struct box *b = *state;

	long_with_idt(b, 0);
	b->v->gpr[RSP] = 0x8000000000000000;
	box_remember(b);
	assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0x5002));
	assert_fault(b, VEC_SS, 0);
	assert_all_kept(b);
}

static void idt_limit_counts_whole_gates(void **state)
{
	struct box *b = *state;

	for (unsigned lm = 0; lm < 2; lm++) {
		if (lm)
			long_with_idt(b, 0);
		else
			protected_with_idt(b, 0);
		b->v->idtr.limit = (u16)(lm ? 0x40 * 16 + 14 : 0x40 * 8 + 6);
		assert_false(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
		assert_fault(b, VEC_GP, 0x202);
		b->v->idtr.limit++;
		assert_true(except_soft_int(b->v, 0x40, SOFT_INT_N, 0));
	}
}

static void pushes_to_the_inner_stack_are_supervisor_accesses(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	long_with_idt(b, 3);
	box_map_small(b);
	set_pte(b, STACK0, 0x63); /* supervisor */
	assert_true(except_interrupt(v, 0x40));
	long_with_idt(b, 3);
	box_map_small(b);
	set_pte(b, STACK0, 0);
	set_idt64(b, 0x40, make_gate(DESC_INT32, 3, true, CODE64(0), 0x1234, 0), 0);
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_PF, PF_W);
	assert_int_equal(v->fault.cr2, STACK0 + 0x1000 - 8);
	assert_state_kept(b);
}

static void missing_tables_are_supervisor_page_faults(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	static const struct {
		gva_t page, cr2;
		unsigned ist;
	} cases[] = {
		{ IDT, IDT + 0x200 * 2, 0 }, /* vector 40h, gates of 16 bytes */
		{ GDT, GDT + CODE64(0), 0 },
		{ TSS, TSS + 4, 0 },
		{ TSS, TSS + 0x24, 1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		long_with_idt(b, 3);
		box_map_small(b);
		set_idt64(b, 0x40,
			  make_gate(DESC_INT32, 3, true, CODE64(0), 0x1234, cases[i].ist),
			  0);
		set_pte(b, cases[i].page, 0);
		box_remember(b);
		assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0));
		assert_fault(b, VEC_PF, 0);
		assert_int_equal(v->fault.cr2, cases[i].cr2);
		assert_all_kept(b);
		/* For the CPU itself the U/S bit does not matter. */
		set_pte(b, cases[i].page, 0x63);
		assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0));
	}
}

/* The second half of a 16-byte gate on a page that is not there. */
static void gate_over_two_pages(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	long_with_idt(b, 3);
	box_map_small(b);
	v->idtr.base = 0x6000 - 0x40 * 16 - 8;
	poke(b, 0x5ff8, make_gate(DESC_INT32, 3, true, CODE64(0), 0x1234, 0), 8);
	poke(b, 0x6000, 0xffff8000, 8);
	set_pte(b, 0x6000, 0);
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_PF, 0);
	assert_int_equal(v->fault.cr2, 0x6000);
	assert_all_kept(b);
	set_pte(b, 0x6000, 0x67);
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0));
	assert_int_equal(v->rip, 0xffff800000001234);
}

/* A frame over two pages, the lower of which is missing. */
static void fault_in_the_middle_of_a_frame_changes_no_register(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	long_with_idt(b, 3);
	box_map_small(b);
	set_idt64(b, 0x40, make_gate(DESC_INT32, 3, true, CODE64(0), 0x1234, 0), 0);
	poke(b, TSS + 4, STACK0 + 0x1010, 8);
	set_pte(b, STACK0, 0);
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, 0));
	assert_fault(b, VEC_PF, PF_W);
	assert_state_kept(b);
	set_pte(b, STACK0, 0x67);
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, 0));
}

/* ---- double faults ---- */

enum cls { BEN, CON, PGF, DBL };

/* Table 6-5, and the row for a fault during #DF. */
static const char *const table_6_5[4][3] = {
	/* second:  benign, contributory, page fault */
	[BEN] = { "second", "second", "second" },
	[CON] = { "second", "double", "second" },
	[PGF] = { "second", "double", "double" },
	[DBL] = { "second", "shutdown", "shutdown" },
};

/* Deliver 'first' so that it raises 'second', and see whose handler runs. */
static void check_pair(struct box *b, unsigned first, enum cls c1, bool interrupt,
		       unsigned second)
{
	struct vcpu *v = b->v;
	enum cls c2 = second == VEC_PF ? PGF : CON;
	const char *want = table_6_5[interrupt ? BEN : c1][c2];
	unsigned runs = second;
	bool ok;

	long_with_idt(b, 0);
	box_map_small(b);
	if (second == VEC_NP)
		set_idt64(b, first, make_gate(DESC_INT32, 0, false, CODE64(0), 0, 0), 0);
	else
		set_idt64(b, first, make_gate(DESC_INT32, 0, true, CODE64(0), 0, 1), 0);
	poke(b, TSS + 0x24, 0x1fe000, 8); /* IST1 */
	set_pte(b, 0x1fd000, 0);
	v->cr2 = 0;
	box_remember(b);
	if (interrupt) {
		ok = except_interrupt(v, (u8)first);
	} else {
		raise_err(v, first, 0x10);
		v->fault.cr2 = 0x1111;
		ok = except_deliver(v);
	}
	if (!strcmp(want, "shutdown")) {
		assert_false(ok);
		assert_int_equal(v->activity, ACT_SHUTDOWN);
		v->activity = ACT_RUNNING;
		v->cr2 = b->saved->cr2;
		assert_state_kept(b);
		return;
	}
	assert_true(ok);
	if (!strcmp(want, "double"))
		runs = VEC_DF;
	if (v->rip != HANDLER(runs))
		fail_msg("%u then %u: handler at %llx", first, second,
			 (unsigned long long)v->rip);
	if (runs == VEC_DF)
		assert_int_equal(frame(b, 0, 8), 0);
	else if (second == VEC_NP)
		assert_int_equal(frame(b, 0, 8), first * 8 + 3);
	else
		assert_int_equal(frame(b, 0, 8), PF_W);
	/* The page fault that came last tells its address, also when it became a #DF. */
	if (second == VEC_PF)
		assert_int_equal(v->cr2, 0x1fe000 - 8);
	assert_int_equal(frame(b, 1, 8), 0x5000);
}

static void double_fault_table_is_obeyed(void **state)
{
	static const struct {
		u8 vector, cls;
	} firsts[] = {
		{ VEC_DE, CON }, { VEC_DB, BEN }, { VEC_BP, BEN }, { VEC_UD, BEN },
		{ VEC_NM, BEN }, { VEC_DF, DBL }, { VEC_TS, CON }, { VEC_SS, CON },
		{ VEC_GP, CON }, { VEC_MF, BEN }, { VEC_AC, BEN }, { VEC_MC, BEN },
		{ VEC_XM, BEN }, { VEC_VE, PGF }, { VEC_CP, CON },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(firsts); i++) {
		check_pair(b, firsts[i].vector, firsts[i].cls, false, VEC_NP);
		check_pair(b, firsts[i].vector, firsts[i].cls, false, VEC_PF);
		check_pair(b, firsts[i].vector, firsts[i].cls, true, VEC_NP);
		check_pair(b, firsts[i].vector, firsts[i].cls, true, VEC_PF);
	}
}

static void page_fault_during_page_fault_is_double(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	/* The stack overflow that Linux tells from other double faults by CR2. */
	long_with_idt(b, 0);
	box_map_small(b);
	set_pte(b, STACK3, 0);
	set_idt64(b, VEC_DF,
		  make_gate(DESC_INT32, 0, true, CODE64(0), HANDLER(VEC_DF), 1), 0);
	poke(b, TSS + 0x24, STACK1, 8);
	set_pte(b, STACK1 - 0x1000, 0x67);
	raise_err(v, VEC_PF, PF_W);
	v->fault.cr2 = STACK3 + 0x10;
	assert_true(except_deliver(v));
	assert_int_equal(v->rip, HANDLER(VEC_DF));
	assert_int_equal(v->cr2, STACK3 + 0x1000 - 8);
	assert_int_equal(v->gpr[RSP], STACK1 - 48);
	assert_int_equal(frame(b, 4, 8), STACK3 + 0x1000);
}

static void triple_fault_shuts_down_with_the_state_kept(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	/* As firmware resets: an empty IDT and INT3. */
	protected_with_idt(b, 0);
	v->idtr.limit = 0;
	box_remember(b);
	raise_ud(v);
	assert_false(except_deliver(v));
	assert_int_equal(v->activity, ACT_SHUTDOWN);
	assert_true(v->shutdown);
	v->activity = ACT_RUNNING;
	assert_all_kept(b);
}

static void endless_alignment_faults_end(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	/* #AC handled at level 3 on a misaligned stack: a real CPU loops for ever. */
	protected_with_idt(b, 3);
	set_idt(b, VEC_AC, make_gate(DESC_INT32, 0, true, CONF32(0), 0x1234, 0));
	v->cr0 |= CR0_AM;
	v->gpr[RSP]++;
	rflags_set(v, RFLAGS_1 | RFLAGS_AC);
	vcpu_mode_changed(v);
	raise_err(v, VEC_AC, 0);
	assert_false(except_deliver(v));
	assert_int_equal(v->activity, ACT_SHUTDOWN);
}

/* ---- what is pushed and what is updated ---- */

static void rf_is_pushed_by_faults_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned vec = 0; vec < 22; vec++) {
		bool fault = vec != VEC_DB && vec != VEC_NMI && vec != VEC_BP &&
			     vec != VEC_OF && vec != VEC_DF && vec != VEC_MC;

		protected_with_idt(b, 3);
		raise_vec(v, vec);
		assert_true(except_deliver(v));
		assert_int_equal(!!(frame(b, 2, 4) & RFLAGS_RF), fault);
		assert_false(v->flags & RFLAGS_RF);
	}
	protected_with_idt(b, 3);
	raise_db(v, BIT(0), true);
	assert_true(except_deliver(v));
	assert_false(frame(b, 2, 4) & RFLAGS_RF);
	protected_with_idt(b, 3);
	raise_db(v, DR6_BD, false);
	assert_true(except_deliver(v));
	assert_true(frame(b, 2, 4) & RFLAGS_RF);
	/* An interrupt between two iterations of REP: RF as the engine set it. */
	protected_with_idt(b, 3);
	rflags_set(v, RFLAGS_1 | RFLAGS_RF);
	assert_true(except_interrupt(v, 0x40));
	assert_true(frame(b, 2, 4) & RFLAGS_RF);
}

static void debug_exception_updates_dr6_and_dr7(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	protected_with_idt(b, 0);
	v->dr[6] = DR6_FIXED | DR6_BT | 0xf;
	v->dr[7] = DR7_FIXED | DR7_GD | 2;
	v->msr[MSRI_DEBUGCTL] = DEBUGCTL_BTF | DEBUGCTL_LBR;
	raise_db(v, DR6_BS | BIT(2), true);
	assert_true(except_deliver(v));
	/* Condition bits are replaced, the others are only ever set. */
	assert_int_equal(v->dr[6], DR6_FIXED | DR6_BT | DR6_BS | BIT(2));
	assert_int_equal(v->dr[7], DR7_FIXED | 2);
	assert_int_equal(v->msr[MSRI_DEBUGCTL], 0);
	/* INT1 tells nothing in DR6. */
	protected_with_idt(b, 0);
	v->dr[6] = DR6_FIXED | 1;
	v->dr[7] = DR7_FIXED | DR7_GD;
	assert_true(except_soft_int(v, VEC_DB, SOFT_INT1, 0x5001));
	assert_int_equal(v->dr[6], DR6_FIXED | 1);
	assert_int_equal(v->dr[7], DR7_FIXED);
	/* INT 1, the two-byte form, is no debug exception. */
	v->dr[7] = DR7_FIXED | DR7_GD;
	assert_true(except_soft_int(v, VEC_DB, SOFT_INT_N, 0x5002));
	assert_int_equal(v->dr[7], DR7_FIXED | DR7_GD);
}

static void page_fault_sets_cr2(void **state)
{
	struct box *b = *state;

	long_with_idt(b, 3);
	raise_err(b->v, VEC_PF, PF_U);
	b->v->fault.cr2 = 0xdeadbeef000;
	assert_true(except_deliver(b->v));
	assert_int_equal(b->v->cr2, 0xdeadbeef000);
}

static void nmi_blocks_nmis_and_wakes(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	long_with_idt(b, 0);
	v->activity = ACT_HLT;
	v->shadow = SHADOW_MOVSS;
	assert_true(except_nmi(v));
	assert_int_equal(v->rip, HANDLER(VEC_NMI));
	assert_int_equal(v->nmi_blocked, 1);
	assert_int_equal(v->activity, ACT_RUNNING);
	assert_int_equal(v->shadow, 0);
}

static void ext_bit_tells_external_events(void **state)
{
	static const struct {
		int kind; /* -1: external, -2: exception, else enum soft_kind */
		u32 ext;
	} cases[] = {
		{ -1, 1 },        { -2, 1 },        { SOFT_INT_N, 0 },
		{ SOFT_INT3, 0 }, { SOFT_INTO, 0 }, { SOFT_INT1, 1 },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		protected_with_idt(b, 3);
		poke(b, TSS + 8, 0x2000, 4); /* SS0 beyond the table */
		set_idt(b, 0x40, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
		/* Its #TS is handled at level 3, so it can be delivered. */
		set_idt(b, VEC_TS, make_gate(DESC_INT32, 0, true, CONF32(0), 0x2000, 0));
		if (cases[i].kind == -1) {
			assert_true(except_interrupt(v, 0x40));
		} else if (cases[i].kind == -2) {
			raise_vec(v, 0x40);
			assert_true(except_deliver(v));
		} else {
			assert_false(except_soft_int(v, 0x40,
						     (enum soft_kind)cases[i].kind, 0));
			assert_true(except_deliver(v));
		}
		assert_int_equal(v->rip, 0x2000);
		assert_int_equal(frame(b, 0, 4), 0x2000 | cases[i].ext);
	}
}

/* ---- VME: SDM 3 table 20-2 ---- */

static void vme_methods(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 2 * 2 * 2 * 4; i++) {
		unsigned vme = i & 1, bit = i >> 1 & 1, vif = i >> 2 & 1, iopl = i >> 3;
		u64 flags;
		bool redirect = vme && !bit;

		box_v86(b, iopl);
		if (vme)
			v->cr4 = CR4_VME;
		v->flags |= RFLAGS_NT | RFLAGS_TF | (vif ? RFLAGS_VIF : 0);
		flags = v->flags;
		set_idt(b, 0x21, make_gate(DESC_INT32, 3, true, CODE32(0), 0x1234, 0));
		poke(b, 0x21 * 4, 0x30405060, 4);
		poke(b, TSS + 0x68 + 0x21 / 8, bit ? 0x02 : 0xfd, 1);
		box_remember(b);
		if (!except_soft_int(v, 0x21, SOFT_INT_N, 0x102)) {
			assert_true(!redirect && iopl < 3);
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
			continue;
		}
		assert_synced(b);
		if (!redirect) {
			assert_int_equal(iopl, 3);
			assert_int_equal(v->cpl, 0);
			assert_int_equal(v->rip, 0x1234);
			continue;
		}
		assert_int_equal(v->cpl, 3);
		assert_int_equal(v->seg[CS].sel, 0x3040);
		assert_int_equal(v->rip, 0x5060);
		assert_int_equal(v->gpr[RSP], 0x1000 - 6);
		assert_int_equal(frame(b, 0, 2), 0x102);
		assert_int_equal(frame(b, 1, 2), 0x2010);
		if (iopl == 3) {
			assert_int_equal(frame(b, 2, 2), flags & 0xffff);
			assert_int_equal(v->flags, flags & ~(u64)(RFLAGS_IF | RFLAGS_TF));
		} else {
			assert_int_equal(frame(b, 2, 2),
					 ((flags & ~(u64)RFLAGS_IF) | RFLAGS_IOPL |
					  (vif ? RFLAGS_IF : 0)) &
						 0xffff);
			assert_int_equal(v->flags,
					 flags & ~(u64)(RFLAGS_VIF | RFLAGS_TF));
		}
	}
}

static void vme_bitmap_must_be_in_the_tss(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_v86(b, 0);
	v->cr4 = CR4_VME;
	v->seg[TR].limit = 0x66;
	assert_false(except_soft_int(v, 0x21, SOFT_INT_N, 0x102));
	assert_fault(b, VEC_GP, 0);
	v->seg[TR].limit = 0x68 + 0x21 / 8 - 1;
	assert_false(except_soft_int(v, 0x21, SOFT_INT_N, 0x102));
	assert_fault(b, VEC_GP, 0);
	v->seg[TR].limit++;
	assert_true(except_soft_int(v, 0x21, SOFT_INT_N, 0x102));
	box_v86(b, 0);
	v->cr4 = CR4_VME;
	v->seg[TR].attr = ATTR(DESC_TSS16_BUSY, 0u, 0u, 1u);
	assert_false(except_soft_int(v, 0x21, SOFT_INT_N, 0x102));
	assert_fault(b, VEC_GP, 0);
	/* Hardware interrupts and INT3 are not redirected. */
	box_v86(b, 0);
	fill_idt(b);
	v->cr4 = CR4_VME;
	assert_true(except_interrupt(v, 0x21));
	assert_int_equal(v->rip, HANDLER(0x21));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(real_mode_goes_through_the_ivt),
		TEST(real_mode_pushes_no_error_code),
		TEST(real_mode_idt_limit_is_checked),
		TEST(real_mode_stack_wraps_at_64k_between_items_only),
		TEST(gates_are_checked_in_order),
		TEST(code_segments_of_gates_are_checked),
		TEST(gate_with_null_or_missing_code_segment_faults),
		TEST(entry_beyond_the_limit_faults),
		TEST(gate_type_decides_size_and_if),
		TEST(error_code_is_pushed_last),
		TEST(v86_frame_holds_the_data_segments),
		TEST(v86_int_n_needs_iopl_3),
		TEST(bad_inner_stacks_are_refused),
		TEST(tss16_has_16bit_stack_pointers),
		TEST(sixteen_bit_inner_stack_moves_sp_alone),
		TEST(outer_stack_without_room_is_ss_0),
		TEST(long_mode_pushes_five_and_aligns),
		TEST(compat_mode_is_left_for_64bit_handlers),
		TEST(ist_is_used_at_every_level),
		TEST(long_mode_refuses_what_is_not_64bit),
		TEST(noncanonical_stack_of_the_same_level_is_ss_0),
		TEST(idt_limit_counts_whole_gates),
		TEST(pushes_to_the_inner_stack_are_supervisor_accesses),
		TEST(missing_tables_are_supervisor_page_faults),
		TEST(gate_over_two_pages),
		TEST(fault_in_the_middle_of_a_frame_changes_no_register),
		TEST(double_fault_table_is_obeyed),
		TEST(page_fault_during_page_fault_is_double),
		TEST(triple_fault_shuts_down_with_the_state_kept),
		TEST(endless_alignment_faults_end),
		TEST(rf_is_pushed_by_faults_alone),
		TEST(debug_exception_updates_dr6_and_dr7),
		TEST(page_fault_sets_cr2),
		TEST(nmi_blocks_nmis_and_wakes),
		TEST(ext_bit_tells_external_events),
		TEST(vme_methods),
		TEST(vme_bitmap_must_be_in_the_tss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
