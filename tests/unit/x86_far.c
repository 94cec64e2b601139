/* Far JMP, CALL, RET, IRET and the fast system calls. SDM 2; SDM 3
 * sections 5.8, 6.14, 20.2. */
#include "x86_box.h"

#include "x86/except.h"
#include "x86/far.h"
#include "x86/msr.h"

#define NEXT 0x5007

static bool go(struct box *b, bool call, u16 sel, u64 off, unsigned opsize)
{
	if (call)
		return far_call(b->v, sel, off, opsize, NEXT);
	return far_jmp(b->v, sel, off, opsize, NEXT);
}

static u64 stack_item(struct box *b, unsigned n, unsigned size)
{
	struct vcpu *v = b->v;
	u64 base = v->stack_size == 8 ? 0 : v->seg[SS].base;

	return peek(b, base + (v->gpr[RSP] & size_mask(v->stack_size)) + n * size, size);
}

/* Put items on the current stack, the first of them on top. */
static void put_frame(struct box *b, unsigned size, unsigned n, const u64 *items)
{
	struct vcpu *v = b->v;
	u64 base = v->stack_size == 8 ? 0 : v->seg[SS].base;

	v->gpr[RSP] -= n * size;
	for (unsigned i = 0; i < n; i++)
		poke(b, base + (v->gpr[RSP] & size_mask(v->stack_size)) + i * size,
		     items[i] & size_mask(size), size);
}
#define PUT(b, size, ...)                                                                \
	put_frame(b, size, sizeof((u64[]){ __VA_ARGS__ }) / 8,                           \
		  (const u64[]){ __VA_ARGS__ })

/* ---- JMP and CALL to a code segment ---- */

/* SDM 3 section 5.8.1: what a direct transfer needs. 0: allowed. */
static unsigned oracle_direct(unsigned type, unsigned dpl, bool p, unsigned rpl,
			      unsigned cpl)
{
	bool conforming = type & 4;

	if (conforming ? cpl < dpl : (cpl != dpl || rpl > cpl))
		return VEC_GP;
	return p ? 0 : VEC_NP;
}

static void direct_transfers_agree_with_the_privilege_rules(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		for (unsigned i = 0; i < 16 * 4 * 2 * 4 * 2 * 3; i++) {
			unsigned type = i & 15, dpl = i >> 4 & 3, p = i >> 6 & 1,
				 rpl = i >> 7 & 3, call = i >> 9 & 1, mode = i >> 10;
			u32 size_bits = mode == 2 ? SEG_L : SEG_DB;
			unsigned want;

			if (!mode)
				box_protected(b, cpl);
			else
				box_long(b, cpl);
			set_gdt(b, FREE_SEL(0),
				make_desc(0, 0xfffff,
					  ATTR(type, 1u, dpl, p) | SEG_G | size_bits));
			want = type & 8 ? oracle_direct(type, dpl, p, rpl, cpl) : VEC_GP;
			box_remember(b);
			if (go(b, call, (u16)(FREE_SEL(0) | rpl), 0x1234, 4) != !want)
				fail_msg("type %u dpl %u p %u rpl %u cpl %u", type, dpl,
					 p, rpl, cpl);
			if (want) {
				assert_fault(b, want, FREE_SEL(0));
				assert_all_kept(b);
				continue;
			}
			assert_int_equal(v->seg[CS].sel, FREE_SEL(0) | cpl);
			assert_int_equal(v->cpl, cpl);
			assert_int_equal(v->rip, 0x1234);
			assert_int_equal(v->code_size, mode == 2 ? 8 : 4);
			assert_int_equal(v->gpr[RSP], STACK3 + 0x1000 - (call ? 8 : 0));
			assert_synced(b);
		}
	}
}

static void long_and_default_bits_exclude_each_other(void **state)
{
	struct box *b = *state;

	set_gdt(b, FREE_SEL(0),
		make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_L | SEG_DB));
	for (unsigned call = 0; call < 2; call++) {
		box_long(b, 0);
		set_gdt(b, FREE_SEL(0),
			make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_L | SEG_DB));
		assert_false(go(b, call, FREE_SEL(0), 0, 4));
		assert_fault(b, VEC_GP, FREE_SEL(0));
		/* Outside long mode L means nothing. */
		box_protected(b, 0);
		set_gdt(b, FREE_SEL(0),
			make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_L | SEG_DB));
		assert_true(go(b, call, FREE_SEL(0), 0, 4));
		assert_int_equal(b->v->code_size, 4);
	}
}

static void bad_selectors_and_targets_fault(void **state)
{
	struct box *b = *state;

	for (unsigned call = 0; call < 2; call++) {
		box_protected(b, 0);
		set_gdt(b, FREE_SEL(0), make_desc(0, 0x1233, ATTR_CODE(0) | SEG_DB));
		box_remember(b);
		assert_false(go(b, call, 3, 0, 4));
		assert_fault(b, VEC_GP, 0);
		assert_false(go(b, call, 0x1000, 0, 4));
		assert_fault(b, VEC_GP, 0x1000);
		assert_false(go(b, call, FREE_SEL(0), 0x1234, 4));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		/* Cut to the operand size first. */
		assert_true(go(b, call, FREE_SEL(0), 0x11233, 2));
		box_long(b, 0);
		box_remember(b);
		assert_false(go(b, call, CODE64(0), 0x800000000000, 8));
		assert_fault(b, VEC_GP, 0);
		assert_false(go(b, call, CODE32(0), 0x100000000, 8));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		assert_true(go(b, call, CODE64(0), 0xffffffff80001000, 8));
		assert_int_equal(b->v->rip, 0xffffffff80001000);
	}
}

static void call_without_room_is_ss_0(void **state)
{
	struct box *b = *state;

	box_protected(b, 0);
	set_gdt(b, FREE_SEL(1), make_desc(STACK0, 0xff, ATTR_DATA(0) | SEG_DB));
	box_seg(b, SS, FREE_SEL(1));
	b->v->gpr[RSP] = 7;
	box_remember(b);
	assert_false(go(b, true, CODE32(0), 0, 4));
	assert_fault(b, VEC_SS, 0);
	assert_all_kept(b);
	assert_true(go(b, true, CODE32(0), 0, 2));
}

/* ---- call gates ---- */

/* SDM 3 table 5-1: privilege rules of call gates. Error code 0 stands for the gate, 1 for
 * the target. */
static unsigned oracle_gate(bool call, unsigned cpl, unsigned rpl, unsigned gdpl,
			    unsigned tdpl, bool conforming, u32 *which)
{
	*which = 0;
	if (cpl > gdpl || rpl > gdpl)
		return VEC_GP;
	*which = 1;
	if (conforming || call)
		return tdpl <= cpl ? 0 : VEC_GP;
	return tdpl == cpl ? 0 : VEC_GP;
}

static void call_gates_agree_with_the_privilege_rules(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	const u16 gate = FREE_SEL(0), code = FREE_SEL(2);

	for (unsigned i = 0; i < 4 * 4 * 4 * 4 * 2 * 2 * 3; i++) {
		unsigned cpl = i & 3, rpl = i >> 2 & 3, gdpl = i >> 4 & 3,
			 tdpl = i >> 6 & 3, conf = i >> 8 & 1, call = i >> 9 & 1,
			 kind = i >> 10;
		u32 which;
		unsigned want = oracle_gate(call, cpl, rpl, gdpl, tdpl, conf, &which);
		unsigned to = conf || !call ? cpl : tdpl;
		unsigned type = kind == 0 ? DESC_CALL16 : DESC_CALL32;
		unsigned size = (const u8[]){ 2, 4, 8 }[kind];

		if (kind == 2)
			box_long(b, cpl);
		else
			box_protected(b, cpl);
		set_gdt(b, code,
			make_desc(0, 0xfffff,
				  (conf ? ATTR_CONF(tdpl) : ATTR_CODE(tdpl)) | SEG_G |
					  (kind == 2 ? SEG_L : SEG_DB)));
		set_gdt(b, gate, make_gate(type, gdpl, true, code | 3, 0x1234, 0));
		set_gdt(b, gate + 8u, 0);
		box_remember(b);
		if (go(b, call, (u16)(gate | rpl), 0xdead, 4) != !want)
			fail_msg("cpl %u rpl %u gate %u code %u conf %u call %u", cpl,
				 rpl, gdpl, tdpl, conf, call);
		if (want) {
			assert_fault(b, want, which ? code : gate);
			assert_all_kept(b);
			continue;
		}
		assert_int_equal(v->cpl, to);
		assert_int_equal(v->seg[CS].sel, code | to);
		assert_int_equal(v->rip, 0x1234);
		assert_synced(b);
		if (!call) {
			assert_int_equal(v->gpr[RSP], STACK3 + 0x1000);
			continue;
		}
		assert_int_equal(stack_item(b, 0, size), NEXT);
		if (to == cpl) {
			assert_int_equal(v->gpr[RSP], STACK3 + 0x1000 - 2 * size);
			continue;
		}
		assert_int_equal(v->gpr[RSP], STACK0 + 0x2000 * to + 0x1000 - 4 * size);
		assert_int_equal(stack_item(b, 2, size),
				 (STACK3 + 0x1000) & size_mask(size));
		assert_int_equal(stack_item(b, 3, size), DATA32(cpl) | cpl);
		assert_int_equal(v->seg[SS].sel, kind == 2 ? to : DATA32(to) | to);
	}
}

struct gate_case {
	const char *what;
	u64 gate, high, code;
	bool lm;
	unsigned vector;
	u32 error;
};

static void broken_gates_are_refused(void **state)
{
	const u16 sel = FREE_SEL(0), code = FREE_SEL(2);
	const u64 good64 = make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_L);
	const u64 good32 = make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_DB);
	const u64 gate = make_gate(DESC_CALL32, 3, true, code, 0x1234, 0);
	const struct gate_case cases[] = {
		{ "good 32", gate, 0, good32, false, 0, 0 },
		{ "good 64", gate, 0xffffffff, good64, true, 0, 0 },
		{ "gate not present", gate & ~BIT(47), 0, good32, false, VEC_NP, sel },
		{ "null code", make_gate(DESC_CALL32, 3, true, 3, 0, 0), 0, good32, false,
		  VEC_GP, 0 },
		{ "code beyond", make_gate(DESC_CALL32, 3, true, 0x1000, 0, 0), 0, good32,
		  false, VEC_GP, 0x1000 },
		{ "data", gate, 0, make_desc(0, 0xfffff, ATTR_DATA(0) | SEG_G), false,
		  VEC_GP, code },
		{ "code not present", gate, 0, good32 & ~BIT(47), false, VEC_NP, code },
		{ "limit", gate, 0, make_desc(0, 0x1233, ATTR_CODE(0) | SEG_DB), false,
		  VEC_GP, 0 },
		{ "16-bit gate in long mode", make_gate(DESC_CALL16, 3, true, code, 0, 0),
		  0, good64, true, VEC_GP, sel },
		{ "32-bit code in long mode", gate, 0, good32, true, VEC_GP, code },
		{ "L and D", gate, 0, good64 | BIT(54), true, VEC_GP, code },
		{ "upper type", gate, BIT(40), good64, true, VEC_GP, sel },
		{ "not canonical", gate, 0x8000, good64, true, VEC_GP, 0 },
		{ "64-bit not present", gate & ~BIT(47), 0, good64, true, VEC_NP, sel },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
		const struct gate_case *c = &cases[i / 2];

		if (c->lm)
			box_long(b, 0);
		else
			box_protected(b, 0);
		set_gdt(b, sel, c->gate);
		set_gdt(b, sel + 8u, c->high);
		set_gdt(b, code, c->code);
		box_remember(b);
		if (go(b, i & 1, sel, 0, 4) != !c->vector)
			fail_msg("%s", c->what);
		if (c->vector) {
			assert_fault(b, c->vector, c->error);
			assert_all_kept(b);
		}
	}
}

static void system_descriptors_of_other_types_are_refused(void **state)
{
	struct box *b = *state;

	for (unsigned type = 0; type < 16; type++) {
		bool legacy =
			type == 1 || type == 4 || type == 5 || type == 9 || type == 12;

		for (unsigned call = 0; call < 2; call++) {
			if (!legacy) {
				box_protected(b, 0);
				set_gdt(b, FREE_SEL(0),
					make_desc(0, 0x67, ATTR(type, 0u, 3u, 1u)));
				assert_false(go(b, call, FREE_SEL(0), 0, 4));
				assert_fault(b, VEC_GP, FREE_SEL(0));
			}
			if (type != 12) {
				box_long(b, 0);
				set_gdt(b, FREE_SEL(0),
					make_desc(0, 0x67, ATTR(type, 0u, 3u, 1u)));
				assert_false(go(b, call, FREE_SEL(0), 0, 4));
				assert_fault(b, VEC_GP, FREE_SEL(0));
			}
		}
	}
}

static void gate_parameters_are_copied_and_dropped_on_return(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned count = 0; count < 32; count++) {
		for (unsigned size = 2; size <= 4; size += 2) {
			struct seg cs, ss;

			box_protected(b, 3);
			set_gdt(b, FREE_SEL(0),
				make_gate(size == 4 ? DESC_CALL32 : DESC_CALL16, 3, true,
					  CODE32(1), 0x1234, count));
			for (unsigned i = 0; i < count; i++)
				PUT(b, size, 0x11110000 * i + 0x100 + i);
			if (size ==
			    2) /* the stack pointer must fit in 16 bits to come back */
				v->gpr[RSP] = (u16)v->gpr[RSP] | 0x20000;
			v->gpr[RSP] &= 0xffffffff;
			for (unsigned i = 0; i < count; i++)
				poke(b, v->gpr[RSP] + i * size, 0x1000 + i, size);
			cs = v->seg[CS];
			ss = v->seg[SS];
			box_remember(b);
			assert_true(go(b, true, FREE_SEL(0), 0, 4));
			assert_int_equal(v->cpl, 1);
			assert_int_equal(v->gpr[RSP],
					 STACK1 + 0x1000 - (count + 4) * size);
			assert_int_equal(stack_item(b, 1, size), CODE32(3) | 3);
			for (unsigned i = 0; i < count; i++)
				assert_int_equal(stack_item(b, 2 + i, size), 0x1000 + i);
			assert_int_equal(stack_item(b, 2 + count, size),
					 b->saved->gpr[RSP] & size_mask(size));
			assert_int_equal(stack_item(b, 3 + count, size), DATA32(3) | 3);
			assert_true(far_ret(v, size, (u16)(count * size)));
			assert_int_equal(v->cpl, 3);
			assert_int_equal(v->rip, NEXT);
			assert_int_equal(v->gpr[RSP],
					 (b->saved->gpr[RSP] & size_mask(size)) +
						 count * size);
			assert_memory_equal(&v->seg[CS], &cs, sizeof(cs));
			assert_memory_equal(&v->seg[SS], &ss, sizeof(ss));
			assert_synced(b);
		}
	}
}

static void gate_with_unreadable_parameters_changes_nothing(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 3);
	set_gdt(b, FREE_SEL(0), make_gate(DESC_CALL32, 3, true, CODE32(0), 0x1234, 4));
	set_gdt(b, FREE_SEL(1), make_desc(STACK3, 0xfff, ATTR_DATA(3) | SEG_DB));
	box_seg(b, SS, FREE_SEL(1) | 3);
	v->gpr[RSP] = 0xff4;
	box_remember(b);
	assert_false(go(b, true, FREE_SEL(0), 0, 4));
	assert_fault(b, VEC_SS, 0);
	assert_all_kept(b);
	/* No room on the inner stack: the error code names it. */
	poke(b, TSS + 4, 0x1f, 4);
	set_gdt(b, DATA32(0), make_desc(STACK0, 0xfff, ATTR_DATA(0) | SEG_DB));
	v->gpr[RSP] = 0x100;
	box_remember(b);
	assert_false(go(b, true, FREE_SEL(0), 0, 4));
	assert_fault(b, VEC_SS, DATA32(0));
	assert_all_kept(b);
}

static void inner_call_of_64bit_code_comes_back(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned compat = 0; compat < 2; compat++) {
		if (compat)
			box_compat(b, 3);
		else
			box_long(b, 3);
		set_gdt(b, FREE_SEL(0),
			make_gate(DESC_CALL32, 3, true, CODE64(1), 0x1234, 7));
		set_gdt(b, FREE_SEL(1), 0xffffffff);
		poke(b, TSS + 12, STACK1 + 0xff9, 8); /* not aligned: it stays so */
		box_remember(b);
		assert_true(go(b, true, FREE_SEL(0), 0, 4));
		assert_int_equal(v->rip, 0xffffffff00001234);
		assert_int_equal(v->seg[SS].sel, 1);
		assert_int_equal(v->gpr[RSP], STACK1 + 0xff9 - 32);
		assert_synced(b);
		assert_true(far_ret(v, 8, 0));
		assert_int_equal(v->rip, NEXT);
		v->rip = b->saved->rip;
		/* The accessed bits are set in the box from the start. */
		assert_state_kept(b);
		assert_synced(b);
	}
}

/* ---- real and virtual-8086 mode ---- */

static void real_mode_calls_and_returns(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned v86 = 0; v86 < 2; v86++) {
		for (unsigned size = 2; size <= 4; size += 2) {
			if (v86)
				box_v86(b, 0);
			else
				box_real(b);
			box_remember(b);
			assert_true(far_call(v, 0x1234, 0x5678, size, 0x105));
			assert_int_equal(v->seg[CS].base, 0x12340);
			assert_int_equal(v->rip, 0x5678);
			assert_int_equal(v->gpr[RSP], 0x1000 - 2 * size);
			assert_int_equal(stack_item(b, 0, size), 0x105);
			assert_int_equal(stack_item(b, 1, size), 0x2010);
			assert_true(far_ret(v, size, 0));
			assert_int_equal(v->rip, 0x105);
			v->rip = b->saved->rip;
			assert_state_kept(b);
			box_remember(b);
			assert_false(far_jmp(v, 0x1234, 0x10000, 4, 0));
			assert_fault(b, VEC_GP, 0);
			assert_false(far_call(v, 0x1234, 0x10000, 4, 0));
			assert_state_kept(b);
			PUT(b, size, 0xffff, 0x4321);
			assert_true(far_ret(v, size, 0x10));
			assert_int_equal(v->seg[CS].sel, 0x4321);
			assert_int_equal(v->gpr[RSP], 0x1010);
			assert_true(far_jmp(v, 0x1234, 0xffff, 4, 0));
			assert_int_equal(v->seg[CS].base, 0x12340);
			assert_int_equal(v->rip, 0xffff);
			assert_synced(b);
		}
	}
}

/* ---- RET ---- */

static void returns_agree_with_the_privilege_rules(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	const u16 code = FREE_SEL(0);

	for (unsigned i = 0; i < 4 * 4 * 4 * 16 * 2 * 4; i++) {
		unsigned cpl = i & 3, rpl = i >> 2 & 3, dpl = i >> 4 & 3,
			 type = i >> 6 & 15, p = i >> 10 & 1, iret = i >> 11 & 1,
			 lm = i >> 12;
		bool conf = type & 4;
		bool good = (type & 8) && rpl >= cpl && (conf ? dpl <= rpl : dpl == rpl);

		if (lm)
			box_compat(b, cpl);
		else
			box_protected(b, cpl);
		set_gdt(b, code,
			make_desc(0, 0xfffff, ATTR(type, 1u, dpl, p) | SEG_G | SEG_DB));
		if (rpl > cpl)
			PUT(b, 4, 0x123450, DATA32(rpl) | rpl);
		if (iret)
			PUT(b, 4, RFLAGS_1);
		PUT(b, 4, 0x1234, code | rpl);
		box_remember(b);
		if (iret ? far_iret(v, 4, NEXT) : far_ret(v, 4, 0)) {
			assert_true(good && p);
			assert_int_equal(v->cpl, rpl);
			assert_int_equal(v->seg[CS].sel, code | rpl);
			assert_int_equal(v->gpr[RSP],
					 rpl > cpl ? 0x123450 : STACK3 + 0x1000);
			assert_int_equal(v->seg[SS].sel, DATA32(rpl) | rpl);
			assert_synced(b);
		} else {
			assert_false(good && p);
			assert_fault(b, good ? VEC_NP : VEC_GP, code);
			assert_all_kept(b);
		}
	}
}

struct ss_case {
	const char *what;
	u16 ss;
	u32 attr;
	unsigned vector;
	u32 error;
};

static void outer_stacks_are_checked(void **state)
{
	const u16 sel = FREE_SEL(1);
	const struct ss_case cases[] = {
		{ "good", sel | 3, ATTR_DATA(3), 0, 0 },
		{ "null", 3, 0, VEC_GP, 0 },
		{ "beyond", 0x1003, 0, VEC_GP, 0x1000 },
		{ "RPL", sel | 2, ATTR_DATA(3), VEC_GP, sel },
		{ "DPL", sel | 3, ATTR_DATA(2), VEC_GP, sel },
		{ "read-only", sel | 3, ATTR(0u, 1u, 3u, 1u), VEC_GP, sel },
		{ "code", sel | 3, ATTR_CODE(3), VEC_GP, sel },
		{ "not present", sel | 3, ATTR(2u, 1u, 3u, 0u), VEC_SS, sel },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 4; i++) {
		const struct ss_case *c = &cases[i / 4];
		bool iret = i & 1, lm = i & 2;
		unsigned size = lm ? 8 : 4;

		if (lm)
			box_long(b, 0);
		else
			box_protected(b, 0);
		set_gdt(b, sel, make_desc(0, 0xfffff, c->attr | SEG_G | SEG_DB));
		PUT(b, size, 0x123450, c->ss);
		if (iret)
			PUT(b, size, RFLAGS_1);
		PUT(b, size, 0x1234, (lm ? CODE64(3) : CODE32(3)) | 3);
		box_remember(b);
		if ((iret ? far_iret(v, size, NEXT) : far_ret(v, size, 0)) != !c->vector)
			fail_msg("%s", c->what);
		if (c->vector) {
			assert_fault(b, c->vector, c->error);
			assert_all_kept(b);
		}
	}
}

static void return_targets_are_checked(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned iret = 0; iret < 2; iret++) {
		box_protected(b, 0);
		set_gdt(b, FREE_SEL(0), make_desc(0, 0x1233, ATTR_CODE(0) | SEG_DB));
		if (iret)
			PUT(b, 4, RFLAGS_1);
		PUT(b, 4, 0x1234, FREE_SEL(0));
		box_remember(b);
		assert_false(iret ? far_iret(v, 4, NEXT) : far_ret(v, 4, 0));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		poke(b, v->gpr[RSP] + 4, 3, 4); /* null */
		assert_false(iret ? far_iret(v, 4, NEXT) : far_ret(v, 4, 0));
		assert_fault(b, VEC_GP, 0);
		/* L and D. */
		box_long(b, 0);
		set_gdt(b, FREE_SEL(0),
			make_desc(0, 0xfffff, ATTR_CODE(0) | SEG_G | SEG_L | SEG_DB));
		PUT(b, 8, RFLAGS_1, 0, DATA32(0));
		PUT(b, 8, 0x1234, FREE_SEL(0));
		assert_false(iret ? far_iret(v, 8, NEXT) : far_ret(v, 8, 0));
		assert_fault(b, VEC_GP, FREE_SEL(0));
		/* 64 bits. */
		box_long(b, 0);
		PUT(b, 8, RFLAGS_1, 0, 0);
		PUT(b, 8, 0x800000000000, CODE64(0));
		box_remember(b);
		assert_false(iret ? far_iret(v, 8, NEXT) : far_ret(v, 8, 0));
		assert_fault(b, VEC_GP, 0);
		assert_all_kept(b);
		/* The stack ends inside the frame. */
		box_protected(b, 0);
		set_gdt(b, FREE_SEL(1), make_desc(STACK0, 0xfff, ATTR_DATA(0) | SEG_DB));
		box_seg(b, SS, FREE_SEL(1));
		v->gpr[RSP] = iret ? 0xff5 : 0xff9;
		box_remember(b);
		assert_false(iret ? far_iret(v, 4, NEXT) : far_ret(v, 4, 0));
		assert_fault(b, VEC_SS, 0);
		assert_all_kept(b);
		/* And right behind it. */
		v->gpr[RSP] = iret ? 0xff4 : 0xff8;
		poke(b, STACK0 + v->gpr[RSP], 0x1234, 4);
		poke(b, STACK0 + v->gpr[RSP] + 4, CODE32(0), 4);
		assert_true(iret ? far_iret(v, 4, NEXT) : far_ret(v, 4, 0));
		assert_int_equal(v->gpr[RSP], 0x1000);
	}
}

static void return_drops_inner_data_segments(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 0);
	box_seg(b, DS, DATA32(0));
	box_seg(b, ES, DATA32(3) | 3);
	box_seg(b, FS, CONF32(1));
	box_seg(b, GS, CODE32(2) | 2);
	PUT(b, 4, 0x1234, CODE32(2) | 2, 0x100, DATA32(2) | 2);
	assert_true(far_ret(v, 4, 0));
	assert_int_equal(v->seg[DS].sel, 0);
	assert_int_equal(v->seg_ok[DS], 0);
	assert_int_equal(v->seg[ES].sel, DATA32(3) | 3);
	assert_int_equal(v->seg[FS].sel, CONF32(1));
	assert_int_equal(v->seg[GS].sel, CODE32(2) | 2);
}

/* ---- IRET ---- */

/* Take an interrupt, come back, and be as before. */
static void check_round_trip(struct box *b, unsigned size)
{
	struct vcpu *v = b->v;

	v->flags |= RFLAGS_IF;
	v->cc = RFLAGS_CF | RFLAGS_ZF;
	box_remember(b);
	assert_true(except_interrupt(v, 0x40));
	assert_int_equal(v->cpl, 0);
	assert_synced(b);
	assert_true(far_iret(v, size, NEXT));
	assert_state_kept(b);
	assert_synced(b);
}

static void interrupt_and_iret_are_inverse(void **state)
{
	struct box *b = *state;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		box_protected(b, cpl);
		set_idt(b, 0x40, make_gate(DESC_INT32, 0, true, CODE32(0), 0x1234, 0));
		check_round_trip(b, 4);
		box_protected(b, cpl);
		set_idt(b, 0x40, make_gate(DESC_INT16, 0, true, CODE32(0), 0x1234, 0));
		b->v->gpr[RSP] = 0x8000;
		check_round_trip(b, 2);
		box_long(b, cpl);
		set_idt64(b, 0x40, make_gate(DESC_INT32, 0, true, CODE64(0), 0x1234, 0),
			  0);
		b->v->gpr[RSP] -= 3;
		check_round_trip(b, 8);
		box_compat(b, cpl);
		set_idt64(b, 0x40, make_gate(DESC_INT32, 0, true, CODE64(0), 0x1234, 0),
			  0);
		check_round_trip(b, 8);
	}
	/* A kernel with a null SS, interrupted. */
	box_long(b, 0);
	set_idt64(b, 0x40, make_gate(DESC_INT32, 0, true, CODE64(0), 0x1234, 0), 0);
	box_seg(b, SS, 0);
	check_round_trip(b, 8);
	box_real(b);
	poke(b, 0x40 * 4, 0x12345678, 4);
	check_round_trip(b, 2);
	box_v86(b, 1);
	set_idt(b, 0x40, make_gate(DESC_INT32, 0, true, CODE32(0), 0x1234, 0));
	check_round_trip(b, 4);
}

static void iret_changes_the_flags_it_may(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 4 * 3 * 2 * 2; i++) {
		unsigned cpl = i & 3, iopl = i >> 2 & 3, ones = i >> 4 & 1,
			 outer = i >> 5 & 1, size = (const u8[]){ 2, 4, 8 }[i >> 6];
		u64 old = (ones ? 0 : 0x3d7fd5 & ~(u64)(RFLAGS_NT | RFLAGS_VM)) &
			  ~(u64)RFLAGS_IOPL;
		u64 image =
			ones ? RFLAGS_ALL & ~(u64)(size == 4 ? RFLAGS_VM : 0) : RFLAGS_1;
		u64 mask = 0x4dd5; /* NT OF DF TF SF ZF AF PF CF */
		unsigned to = outer ? 3 : cpl;

		if (size == 8)
			box_long(b, cpl);
		else
			box_protected(b, cpl);
		old |= RFLAGS_1 | iopl << 12;
		rflags_set(v, old);
		if (to != cpl || size == 8)
			PUT(b, size, 0x8000, DATA32(to) | to);
		PUT(b, size, 0x1234, (size == 8 ? CODE64(to) : CODE32(to)) | to, image);
		if (size > 2)
			mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
		if (cpl <= iopl)
			mask |= RFLAGS_IF;
		if (!cpl)
			mask |= RFLAGS_IOPL | (size > 2 ? RFLAGS_VIF | RFLAGS_VIP : 0);
		assert_true(far_iret(v, size, NEXT));
		assert_int_equal(rflags_get(v),
				 (old & ~mask) | (image & mask) | RFLAGS_1);
		assert_synced(b);
	}
}

static void real_mode_iret_keeps_the_v86_flags(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	rflags_set(v, RFLAGS_1 | RFLAGS_VIP);
	PUT(b, 4, 0x1234, 0x5678, RFLAGS_ALL & ~(u64)RFLAGS_VIP);
	assert_true(far_iret(v, 4, NEXT));
	assert_int_equal(rflags_get(v), (0x257fd5 & RFLAGS_ALL) | RFLAGS_1 | RFLAGS_VIP);
	assert_int_equal(v->seg[CS].base, 0x56780);
	PUT(b, 4, 0x10000, 0x5678, 0);
	box_remember(b);
	assert_false(far_iret(v, 4, NEXT));
	assert_int_equal(v->fault.vector, VEC_GP);
	assert_all_kept(b);
}

static void iret_enters_v86_from_level_0_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned cpl = 0; cpl < 4; cpl++) {
		box_protected(b, cpl);
		PUT(b, 4, 0x1234, cpl ? CODE32(cpl) | cpl : 0xf000u,
		    RFLAGS_1 | RFLAGS_VM | RFLAGS_IF | RFLAGS_VIF |
			    2 << RFLAGS_IOPL_SHIFT,
		    0xabcd8000, 0x1111, 0x2222, 0x3333, 0x4444, 0x5555);
		assert_true(far_iret(v, 4, NEXT));
		if (cpl) {
			assert_false(in_v86(v));
			continue;
		}
		assert_int_equal(v->cpl, 3);
		assert_int_equal(v->seg[CS].base, 0xf0000);
		assert_int_equal(v->seg[SS].sel, 0x1111);
		assert_int_equal(v->seg[ES].sel, 0x2222);
		assert_int_equal(v->seg[DS].sel, 0x3333);
		assert_int_equal(v->seg[FS].sel, 0x4444);
		assert_int_equal(v->seg[GS].sel, 0x5555);
		assert_int_equal(v->gpr[RSP], 0xabcd8000);
		assert_int_equal(rflags_get(v), RFLAGS_1 | RFLAGS_VM | RFLAGS_IF |
							RFLAGS_VIF |
							2 << RFLAGS_IOPL_SHIFT);
		assert_int_equal(v->code_size, 2);
		assert_synced(b);
	}
	/* IP beyond 64 KiB. */
	box_protected(b, 0);
	PUT(b, 4, 0x10000, 0xf000, RFLAGS_1 | RFLAGS_VM, 0, 0, 0, 0, 0, 0);
	box_remember(b);
	assert_false(far_iret(v, 4, NEXT));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	/* In long mode there is no such mode: the bit is ignored. */
	box_compat(b, 0);
	PUT(b, 4, 0x1234, CODE32(0), RFLAGS_1 | RFLAGS_VM);
	assert_true(far_iret(v, 4, NEXT));
	assert_false(in_v86(v));
}

static void iret_in_v86_obeys_iopl_and_vme(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 2 * 2 * 2; i++) {
		unsigned iopl = i & 3, vme = i >> 2 & 1, size = i & 8 ? 4 : 2,
			 vip = i >> 4 & 1;
		bool ok = iopl == 3 || (vme && size == 2 && !vip);

		box_v86(b, iopl);
		v->cr4 = vme ? CR4_VME : 0;
		v->flags &= ~(u64)RFLAGS_IF;
		v->flags |= vip ? RFLAGS_VIP : 0;
		PUT(b, size, 0x1234, 0x5678,
		    RFLAGS_IF | RFLAGS_CF | RFLAGS_NT | RFLAGS_ID | RFLAGS_AC |
			    RFLAGS_RF);
		box_remember(b);
		assert_int_equal(far_iret(v, size, NEXT), ok);
		if (!ok) {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
			continue;
		}
		assert_int_equal(v->seg[CS].sel, 0x5678);
		assert_int_equal(v->flags & (RFLAGS_IF | RFLAGS_VIF),
				 iopl == 3 ? RFLAGS_IF : RFLAGS_VIF);
		assert_int_equal(vcpu_iopl(v), iopl);
		assert_true(v->flags & RFLAGS_NT);
		assert_int_equal(v->flags & (RFLAGS_ID | RFLAGS_AC | RFLAGS_RF),
				 size == 4 ? RFLAGS_ID | RFLAGS_AC | RFLAGS_RF : 0);
		assert_true(in_v86(v));
	}
	box_v86(b, 0);
	v->cr4 = CR4_VME;
	PUT(b, 2, 0x1234, 0x5678, RFLAGS_TF);
	assert_false(far_iret(v, 2, NEXT));
	assert_fault(b, VEC_GP, 0);
}

static void iret_of_64bit_code_always_pops_the_stack(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned size = 2; size <= 8; size *= 2) {
		box_long(b, 0);
		PUT(b, size, 0x1234, CODE64(0), RFLAGS_1, 0x8000, DATA32(0));
		assert_true(far_iret(v, size, NEXT));
		assert_int_equal(v->gpr[RSP], 0x8000);
		assert_int_equal(v->seg[SS].sel, DATA32(0));
		/* To compatibility mode. */
		box_long(b, 0);
		PUT(b, size, 0x1234, CODE32(3) | 3, RFLAGS_1, 0x9000, DATA32(3) | 3);
		assert_true(far_iret(v, size, NEXT));
		assert_int_equal(v->gpr[RSP], 0x9000);
		assert_int_equal(v->code_size, 4);
		assert_int_equal(v->cpl, 3);
		assert_synced(b);
	}
}

static void null_ss_returns_to_64bit_code_above_level_3_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4 * 4 * 2; i++) {
		unsigned to = i & 3, rpl = i >> 2 & 3, compat = i >> 4;
		bool ok = !compat && to != 3 && rpl == to;

		box_long(b, 0);
		PUT(b, 8, 0x1234, (compat ? CODE32(to) : CODE64(to)) | to, RFLAGS_1,
		    0x8000, rpl);
		box_remember(b);
		assert_int_equal(far_iret(v, 8, NEXT), ok);
		if (ok) {
			assert_int_equal(v->seg[SS].sel, rpl);
			assert_int_equal(attr_dpl(v->seg[SS].attr), to);
		} else {
			assert_fault(b, VEC_GP, 0);
			assert_all_kept(b);
		}
	}
}

static void sixteen_bit_outer_stack_gets_sp_alone(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	/* What Linux's espfix works around: bits 31:16 of the kernel's ESP show through.
	 */
	box_long(b, 0);
	PUT(b, 8, 0x1234, CODE32(3) | 3, RFLAGS_1, 0x77778888, DATA16(3) | 3);
	assert_true(far_iret(v, 8, NEXT));
	assert_int_equal(v->gpr[RSP], (STACK3 & 0xffff0000) | 0x8888);
	assert_int_equal(v->stack_size, 2);
}

static void iret_unblocks_nmis_even_when_it_faults(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	PUT(b, 8, 0x1234, 0, RFLAGS_1, 0x8000, 0);
	v->nmi_blocked = 1;
	assert_false(far_iret(v, 8, NEXT));
	assert_fault(b, VEC_GP, 0);
	assert_int_equal(v->nmi_blocked, 0);
	/* Nested tasks do not exist in long mode. */
	v->flags |= RFLAGS_NT;
	poke(b, v->gpr[RSP] + 8, CODE64(0), 8);
	assert_false(far_iret(v, 8, NEXT));
	assert_fault(b, VEC_GP, 0);
}

static void fault_on_the_frame_changes_nothing(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	box_map_small(b);
	v->gpr[RSP] = STACK3 + 0x1000 - 24; /* SS:RSP are on the next page */
	poke(b, v->gpr[RSP], 0x1234, 8);
	poke(b, v->gpr[RSP] + 8, CODE64(3) | 3, 8);
	poke(b, v->gpr[RSP] + 16, RFLAGS_1, 8);
	set_pte(b, STACK3 + 0x1000, 0);
	box_remember(b);
	assert_false(far_iret(v, 8, NEXT));
	assert_fault(b, VEC_PF, 0);
	assert_int_equal(v->fault.cr2, STACK3 + 0x1000);
	assert_all_kept(b);
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT ---- */

static void set_star(struct box *b)
{
	b->v->msr[MSRI_STAR] = UINT64_C(0x00230010) << 32 | 0x1234;
	b->v->msr[MSRI_LSTAR] = 0xffffffff80001000;
	b->v->msr[MSRI_CSTAR] = 0xffffffff80002000;
	b->v->msr[MSRI_SFMASK] = RFLAGS_IF | RFLAGS_TF | RFLAGS_DF;
	b->v->msr[MSRI_SYSENTER_CS] = 0x60;
	b->v->msr[MSRI_SYSENTER_ESP] = 0xffff800000002000;
	b->v->msr[MSRI_SYSENTER_EIP] = 0xffff800000001000;
}

static void check_flat(const struct seg *s, u16 sel, u32 attr)
{
	assert_int_equal(s->sel, sel);
	assert_int_equal(s->base, 0);
	assert_int_equal(s->limit, 0xffffffff);
	assert_int_equal(s->attr, attr);
}

static void syscall_and_sysret_are_inverse(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	const u64 flags = RFLAGS_1 | RFLAGS_IF | RFLAGS_DF | RFLAGS_CF | RFLAGS_AC;

	box_long(b, 3);
	set_star(b);
	rflags_set(v, flags);
	assert_true(sys_syscall(v, 0x5002));
	assert_int_equal(v->rip, 0xffffffff80001000);
	assert_int_equal(v->gpr[RCX], 0x5002);
	assert_int_equal(v->gpr[R11], flags);
	assert_int_equal(rflags_get(v), RFLAGS_1 | RFLAGS_CF | RFLAGS_AC);
	check_flat(&v->seg[CS], 0x10, 0xa09b);
	check_flat(&v->seg[SS], 0x18, 0xc093);
	assert_int_equal(v->cpl, 0);
	assert_synced(b);
	v->gpr[R11] |= RFLAGS_RF | RFLAGS_VM | BIT(3);
	assert_true(sys_sysret(v, 8));
	assert_int_equal(v->rip, 0x5002);
	assert_int_equal(rflags_get(v), flags);
	check_flat(&v->seg[CS], 0x33, 0xa0fb);
	check_flat(&v->seg[SS], 0x2b, 0xc0f3);
	assert_int_equal(v->cpl, 3);
	assert_synced(b);
	/* To compatibility mode. */
	box_long(b, 0);
	set_star(b);
	v->gpr[RCX] = 0xffffffff12345678;
	assert_true(sys_sysret(v, 4));
	assert_int_equal(v->rip, 0x12345678);
	check_flat(&v->seg[CS], 0x23, 0xc0fb);
	check_flat(&v->seg[SS], 0x2b, 0xc0f3);
	assert_int_equal(v->code_size, 4);
}

static void syscall_is_for_64bit_mode_on_intel(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 3; i++) {
		if (i == 0)
			box_protected(b, 0);
		else if (i == 1)
			box_compat(b, 0);
		else
			box_long(b, 0);
		if (i == 2)
			v->efer &= ~EFER_SCE;
		else
			v->efer |= EFER_SCE;
		box_remember(b);
		assert_false(sys_syscall(v, 0));
		assert_fault_plain(b, VEC_UD);
		assert_false(sys_sysret(v, 4));
		assert_fault_plain(b, VEC_UD);
		assert_all_kept(b);
	}
	/* An AMD processor takes it from compatibility mode. */
	b->cpuid.vendor = VENDOR_AMD;
	box_compat(b, 3);
	set_star(b);
	assert_true(sys_syscall(v, 0x5002));
	assert_int_equal(v->rip, 0xffffffff80002000);
	assert_int_equal(v->code_size, 8);
}

static void amd_has_syscall_in_legacy_mode(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	b->cpuid.vendor = VENDOR_AMD;
	box_protected(b, 3);
	set_star(b);
	v->efer = EFER_SCE;
	v->flags |= RFLAGS_IF;
	v->gpr[R11] = 77;
	assert_true(sys_syscall(v, 0x5002));
	check_flat(&v->seg[CS], 0x10, 0xc09b);
	assert_int_equal(v->rip, 0x1234);
	assert_int_equal(v->gpr[RCX], 0x5002);
	assert_int_equal(v->gpr[R11], 77);
	assert_int_equal(v->flags, RFLAGS_1);
	assert_true(sys_sysret(v, 4));
	check_flat(&v->seg[CS], 0x23, 0xc0fb);
	assert_int_equal(v->rip, 0x5002);
	assert_true(v->flags & RFLAGS_IF);
	/* From virtual-8086 mode. */
	box_v86(b, 0);
	set_star(b);
	v->efer = EFER_SCE;
	assert_true(sys_syscall(v, 0x5002));
	assert_false(in_v86(v));
	assert_synced(b);
	/* And SYSRET leaves the check of RCX to the next fetch. */
	box_long(b, 0);
	set_star(b);
	v->gpr[RCX] = 0x800000000000;
	assert_true(sys_sysret(v, 8));
	assert_int_equal(v->cpl, 3);
}

static void sysret_faults_at_level_0_for_a_bad_rcx(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_long(b, 0);
	set_star(b);
	v->gpr[RCX] = 0x800000000000;
	box_remember(b);
	assert_false(sys_sysret(v, 8));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	assert_true(sys_sysret(v, 4));
	box_long(b, 3);
	assert_false(sys_sysret(v, 8));
	assert_fault(b, VEC_GP, 0);
}

static void sysenter_and_sysexit(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_protected(b, 3);
	set_star(b);
	v->flags |= RFLAGS_IF;
	assert_true(sys_sysenter(v));
	check_flat(&v->seg[CS], 0x60, 0xc09b);
	check_flat(&v->seg[SS], 0x68, 0xc093);
	assert_int_equal(v->rip, 0x1000);
	assert_int_equal(v->gpr[RSP], 0x2000);
	assert_int_equal(v->flags, RFLAGS_1);
	assert_synced(b);
	v->gpr[RDX] = 0xffffffff00005002;
	v->gpr[RCX] = 0xffffffff00008000;
	assert_true(sys_sysexit(v, 4));
	check_flat(&v->seg[CS], 0x73, 0xc0fb);
	check_flat(&v->seg[SS], 0x7b, 0xc0f3);
	assert_int_equal(v->rip, 0x5002);
	assert_int_equal(v->gpr[RSP], 0x8000);
	assert_int_equal(v->cpl, 3);

	box_compat(b, 3);
	set_star(b);
	assert_true(sys_sysenter(v));
	check_flat(&v->seg[CS], 0x60, 0xa09b);
	assert_int_equal(v->rip, 0xffff800000001000);
	assert_int_equal(v->gpr[RSP], 0xffff800000002000);
	v->gpr[RDX] = 0x5002;
	v->gpr[RCX] = 0x7fffffff8000;
	assert_true(sys_sysexit(v, 8));
	check_flat(&v->seg[CS], 0x83, 0xa0fb);
	check_flat(&v->seg[SS], 0x8b, 0xc0f3);
	assert_int_equal(v->gpr[RSP], 0x7fffffff8000);
	assert_synced(b);
	/* From virtual-8086 mode. */
	box_v86(b, 0);
	set_star(b);
	assert_true(sys_sysenter(v));
	assert_false(in_v86(v));
	assert_int_equal(v->cpl, 0);
	assert_synced(b);
}

static void sysenter_and_sysexit_refuse(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	box_real(b);
	set_star(b);
	assert_false(sys_sysenter(v));
	assert_fault(b, VEC_GP, 0);
	assert_false(sys_sysexit(v, 4));
	assert_fault(b, VEC_GP, 0);
	box_protected(b, 3);
	assert_false(sys_sysexit(v, 4));
	assert_fault(b, VEC_GP, 0);
	v->msr[MSRI_SYSENTER_CS] = 3;
	assert_false(sys_sysenter(v));
	assert_fault(b, VEC_GP, 0);
	box_long(b, 0);
	set_star(b);
	v->gpr[RDX] = 0x800000000000;
	box_remember(b);
	assert_false(sys_sysexit(v, 8));
	assert_fault(b, VEC_GP, 0);
	assert_all_kept(b);
	b->cpuid.vendor = VENDOR_AMD;
	assert_false(sys_sysenter(v));
	assert_fault_plain(b, VEC_UD);
	assert_false(sys_sysexit(v, 4));
	assert_fault_plain(b, VEC_UD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(direct_transfers_agree_with_the_privilege_rules),
		TEST(long_and_default_bits_exclude_each_other),
		TEST(bad_selectors_and_targets_fault),
		TEST(call_without_room_is_ss_0),
		TEST(call_gates_agree_with_the_privilege_rules),
		TEST(broken_gates_are_refused),
		TEST(system_descriptors_of_other_types_are_refused),
		TEST(gate_parameters_are_copied_and_dropped_on_return),
		TEST(gate_with_unreadable_parameters_changes_nothing),
		TEST(inner_call_of_64bit_code_comes_back),
		TEST(real_mode_calls_and_returns),
		TEST(returns_agree_with_the_privilege_rules),
		TEST(outer_stacks_are_checked),
		TEST(return_targets_are_checked),
		TEST(return_drops_inner_data_segments),
		TEST(interrupt_and_iret_are_inverse),
		TEST(iret_changes_the_flags_it_may),
		TEST(real_mode_iret_keeps_the_v86_flags),
		TEST(iret_enters_v86_from_level_0_alone),
		TEST(iret_in_v86_obeys_iopl_and_vme),
		TEST(iret_of_64bit_code_always_pops_the_stack),
		TEST(null_ss_returns_to_64bit_code_above_level_3_alone),
		TEST(sixteen_bit_outer_stack_gets_sp_alone),
		TEST(iret_unblocks_nmis_even_when_it_faults),
		TEST(fault_on_the_frame_changes_nothing),
		TEST(syscall_and_sysret_are_inverse),
		TEST(syscall_is_for_64bit_mode_on_intel),
		TEST(amd_has_syscall_in_legacy_mode),
		TEST(sysret_faults_at_level_0_for_a_bad_rcx),
		TEST(sysenter_and_sysexit),
		TEST(sysenter_and_sysexit_refuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
