/* Hardware task switches. SDM 3 chapter 7. */
#include "x86_box.h"

#include "x86/except.h"
#include "x86/far.h"

/* The other task; the box's own TSS is the one that runs. */
#define TSS_B 0x7000
#define B_SEL FREE_SEL(8)
#define GATE  FREE_SEL(9)
#define LDT_B FREE_SEL(10)
#define NEXT  0x5007

struct image {
	bool wide; /* 32-bit */
	u32 cr3, eip, eflags;
	u32 gpr[8];
	u16 seg[6]; /* ES to GS */
	u16 ldt;
	u16 trap;
};

static struct image user_task(bool wide)
{
	struct image t = { .wide = wide, .eip = 0x9000, .eflags = RFLAGS_1 | RFLAGS_IF };

	for (unsigned i = 0; i < 8; i++)
		t.gpr[i] = (wide ? 0xb0000000 : 0) + 0x1000 * i + 1;
	t.gpr[RSP] = wide ? STACK3 + 0x800 : 0x800;
	for (unsigned i = 0; i < 6; i++)
		t.seg[i] = DATA32(3) | 3;
	t.seg[CS] = CODE32(3) | 3;
	return t;
}

static struct image kernel_task(bool wide)
{
	struct image t = user_task(wide);

	for (unsigned i = 0; i < 6; i++)
		t.seg[i] = DATA32(0);
	t.seg[CS] = CODE32(0);
	return t;
}

static void put_task(struct box *b, gpa_t base, unsigned sel, const struct image *t,
		     bool busy)
{
	unsigned size = t->wide ? 4 : 2,
		 type = (t->wide ? DESC_TSS32 : DESC_TSS16) | (busy ? 2 : 0);
	gpa_t p = base + (t->wide ? 0x20 : 0x0e);

	memset(b->ram + base, 0, 0x68);
	set_gdt(b, sel,
		make_desc((u32)base, t->wide ? 0x67 : 0x2b, ATTR(type, 0u, 0u, 1u)));
	poke(b, p, t->eip, size);
	poke(b, p + size, t->eflags, size);
	for (unsigned i = 0; i < 8; i++)
		poke(b, p + (2 + i) * size, t->gpr[i], size);
	for (unsigned i = 0; i < (t->wide ? 6 : 4); i++)
		poke(b, p + (10 + i) * size, t->seg[i], 2);
	poke(b, base + (t->wide ? 0x60 : 0x2a), t->ldt, 2);
	if (t->wide) {
		poke(b, base + 0x1c, t->cr3, 4);
		poke(b, base + 0x64, t->trap, 2);
		poke(b, base + 4, STACK0 + 0x1800, 4);
		poke(b, base + 8, DATA32(0), 2);
	} else {
		poke(b, base + 2, 0x1800, 2);
		poke(b, base + 4, DATA16(0), 2);
	}
}

/* Level 0 in the box's task, and task B to go to. */
static void two_tasks(struct box *b, const struct image *t)
{
	struct vcpu *v = b->v;

	box_protected(b, 0);
	v->idtr.limit = 0x7ff;
	for (unsigned i = 0; i < 256; i++)
		set_idt(b, i,
			make_gate(DESC_INT32, 0, true, CODE32(0), HANDLERS + 16 * i, 0));
	for (unsigned i = 0; i < 8; i++)
		v->gpr[i] = 0xa0000000 + i;
	v->gpr[RSP] = STACK3 + 0x1000;
	v->flags |= RFLAGS_IF;
	v->cc = RFLAGS_CF;
	v->seg[LDTR] = seg_null(0, 0);
	put_task(b, TSS_B, B_SEL, t, false);
	set_gdt(b, GATE, make_gate(DESC_TASK_GATE, 3, true, B_SEL, 0, 0));
	set_gdt(b, LDT_B, make_desc(LDT, 0x7f, ATTR(DESC_LDT, 0u, 0u, 1u)));
}

static bool is_busy(struct box *b, unsigned sel)
{
	return get_gdt(b, sel) >> 41 & 1;
}

static void assert_runs(struct box *b, const struct image *t)
{
	struct vcpu *v = b->v;

	assert_int_equal(v->rip, t->eip);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(v->gpr[i], t->gpr[i]);
	for (unsigned i = 0; i < (t->wide ? 6 : 4); i++)
		assert_int_equal(v->seg[i].sel, t->seg[i]);
	assert_int_equal(v->cpl, t->seg[CS] & 3);
	assert_int_equal(v->seg[TR].sel, B_SEL);
	assert_int_equal(v->seg[TR].base, TSS_B);
	assert_int_equal(v->seg[TR].attr & 15,
			 t->wide ? DESC_TSS32_BUSY : DESC_TSS16_BUSY);
	assert_true(is_busy(b, B_SEL));
	assert_true(v->cr0 & CR0_TS);
	assert_synced(b);
}

/* ---- going and coming back ---- */

static void jmp_there_and_back_restores_everything(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 8; i++) {
		bool wide = i & 1, gate = i & 2;
		struct image t = i & 4 ? user_task(wide) : kernel_task(wide);

		two_tasks(b, &t);
		box_remember(b);
		assert_true(far_jmp(v, gate ? GATE : B_SEL, 0xdead, 4, NEXT));
		assert_runs(b, &t);
		assert_int_equal(rflags_get(v), t.eflags);
		assert_false(is_busy(b, TSS_SEL));
		/* The old task is in its TSS. */
		assert_int_equal(peek(b, TSS + 0x20, 4), NEXT);
		assert_int_equal(peek(b, TSS + 0x24, 4),
				 RFLAGS_1 | RFLAGS_IF | RFLAGS_CF);
		assert_int_equal(peek(b, TSS + 0x28, 4), 0xa0000000);
		assert_int_equal(peek(b, TSS + 0x4c, 4), CODE32(0));
		/* From level 3 the way back is a gate. */
		set_gdt(b, GATE, make_gate(DESC_TASK_GATE, 3, true, TSS_SEL, 0, 0));
		assert_true(far_jmp(v, GATE | 3, 0, 4, 0x9002));
		assert_int_equal(v->rip, NEXT);
		assert_int_equal(peek(b, TSS_B + (wide ? 0x20 : 0x0e), 2), 0x9002);
		assert_false(is_busy(b, B_SEL));
		v->rip = b->saved->rip;
		v->cr0 &= ~CR0_TS;
		assert_state_kept(b);
		assert_synced(b);
	}
}

static void call_nests_and_iret_comes_back(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4; i++) {
		struct image t = i & 1 ? kernel_task(true) : kernel_task(false);

		two_tasks(b, &t);
		box_remember(b);
		assert_true(far_call(v, i & 2 ? GATE : B_SEL, 0, 4, NEXT));
		assert_runs(b, &t);
		assert_int_equal(rflags_get(v), t.eflags | RFLAGS_NT);
		assert_true(is_busy(b, TSS_SEL));
		assert_int_equal(peek(b, TSS_B, 2), TSS_SEL);
		assert_true(far_iret(v, 4, 0x9003));
		assert_int_equal(v->rip, NEXT);
		assert_false(is_busy(b, B_SEL));
		assert_true(is_busy(b, TSS_SEL));
		/* NT is clear in the image of the task that was left. */
		assert_false(peek(b, TSS_B + (t.wide ? 0x24 : 0x10), 2) & RFLAGS_NT);
		v->rip = b->saved->rip;
		v->cr0 &= ~CR0_TS;
		assert_state_kept(b);
	}
}

static void interrupt_through_a_task_gate(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < 4; i++) {
		bool error = i & 1, wide = i & 2;
		struct image t = kernel_task(wide);
		unsigned size = wide ? 4 : 2;

		two_tasks(b, &t);
		set_idt(b, VEC_GP, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
		if (error) {
			raise_err(v, VEC_GP, 0x1234);
			assert_true(except_deliver(v));
			t.gpr[RSP] -= size;
			assert_int_equal(peek(b, t.gpr[RSP], size), 0x1234);
		} else {
			assert_true(except_interrupt(v, VEC_GP));
		}
		assert_runs(b, &t);
		assert_true(v->flags & RFLAGS_NT);
		assert_int_equal(peek(b, TSS + 0x20, 4), 0x5000);
		/* A fault's RF is in the image of the old task. */
		assert_int_equal(!!(peek(b, TSS + 0x24, 4) & RFLAGS_RF), error);
		assert_true(far_iret(v, 4, 0x9003));
		assert_int_equal(v->rip, 0x5000);
	}
	/* INT n looks at the DPL of the gate. */
	struct image t = user_task(true);

	two_tasks(b, &t);
	set_idt(b, 0x40, make_gate(DESC_TASK_GATE, 2, true, B_SEL, 0, 0));
	box_enter(b, CODE32(3), DATA32(3), 3);
	box_remember(b);
	assert_false(except_soft_int(v, 0x40, SOFT_INT_N, NEXT));
	assert_fault(b, VEC_GP, 0x202);
	assert_all_kept(b);
	set_idt(b, 0x40, make_gate(DESC_TASK_GATE, 3, true, B_SEL, 0, 0));
	assert_true(except_soft_int(v, 0x40, SOFT_INT_N, NEXT));
	assert_runs(b, &t);
}

static void virtual_8086_task(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	t.eflags |= RFLAGS_VM;
	for (unsigned i = 0; i < 6; i++)
		t.seg[i] = (u16)(0x1110 * i);
	two_tasks(b, &t);
	assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
	assert_int_equal(v->cpl, 3);
	assert_true(in_v86(v));
	for (unsigned i = ES; i <= GS; i++) {
		assert_int_equal(v->seg[i].base, 0x11100 * i);
		assert_int_equal(v->seg[i].limit, 0xffff);
	}
	assert_synced(b);
	/* A 16-bit TSS has no room for VM. */
	t = user_task(false);
	two_tasks(b, &t);
	assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
	assert_false(in_v86(v));
}

static void local_descriptors_come_with_the_task(void **state)
{
	struct box *b = *state;
	struct image t = user_task(true);

	t.ldt = LDT_B;
	t.seg[CS] = 8 | 7;
	t.seg[SS] = 16 | 7;
	t.seg[DS] = t.seg[ES] = t.seg[FS] = t.seg[GS] = 0;
	two_tasks(b, &t);
	set_ldt(b, 8, make_desc(0, 0xfffff, ATTR_CODE(3) | SEG_G | SEG_DB));
	set_ldt(b, 16, make_desc(0, 0xfffff, ATTR_DATA(3) | SEG_G | SEG_DB));
	assert_true(far_jmp(b->v, B_SEL, 0, 4, NEXT));
	assert_runs(b, &t);
	assert_int_equal(b->v->seg[LDTR].base, LDT);
	assert_true(b->v->seg[DS].attr & SEG_UNUSABLE);
}

static void debug_bits_of_a_task_switch(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	t.trap = 1;
	two_tasks(b, &t);
	v->dr[7] = DR7_FIXED | 0x3ff;
	vcpu_mode_changed(v);
	assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
	assert_int_equal(v->pending_db, DR6_BT);
	assert_int_equal(v->dr[7], DR7_FIXED | 0x2aa);
	v->pending_db = 0;
}

/* ---- refused: the old task goes on ---- */

struct refusal {
	const char *what;
	u16 sel;
	u32 attr, limit;
	unsigned vector;
	u32 error;
};

static void bad_tss_descriptors_are_refused(void **state)
{
	const u32 good = ATTR(DESC_TSS32, 0u, 0u, 1u);
	const struct refusal cases[] = {
		{ "good", B_SEL, good, 0x67, 0, 0 },
		{ "busy", B_SEL, good | 2, 0x67, VEC_GP, B_SEL },
		{ "not present", B_SEL, good & ~0x80u, 0x67, VEC_NP, B_SEL },
		{ "too short", B_SEL, good, 0x66, VEC_TS, B_SEL },
		{ "16-bit", B_SEL, ATTR(DESC_TSS16, 0u, 0u, 1u), 0x2b, 0, 0 },
		{ "16-bit too short", B_SEL, ATTR(DESC_TSS16, 0u, 0u, 1u), 0x2a, VEC_TS,
		  B_SEL },
		{ "16-bit busy", B_SEL, ATTR(DESC_TSS16_BUSY, 0u, 0u, 1u), 0x2b, VEC_GP,
		  B_SEL },
		{ "local", B_SEL | 4, good, 0x67, VEC_GP, B_SEL | 4 },
		{ "null", 3, good, 0x67, VEC_GP, 0 },
		{ "beyond", 0x1000, good, 0x67, VEC_GP, 0x1000 },
		{ "code", CODE32(0), good, 0x67, VEC_GP, CODE32(0) },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = kernel_task(true);

	for (unsigned i = 0; i < ARRAY_SIZE(cases) * 2; i++) {
		const struct refusal *c = &cases[i / 2];
		bool ok;

		if (!(cases[i / 2].attr & 8))
			t = kernel_task(false);
		else
			t = kernel_task(true);
		two_tasks(b, &t);
		set_gdt(b, B_SEL, make_desc(TSS_B, c->limit, c->attr));
		set_gdt(b, GATE, make_gate(DESC_TASK_GATE, 3, true, c->sel, 0, 0));
		set_idt(b, 0x40, make_gate(DESC_TASK_GATE, 3, true, c->sel, 0, 0));
		box_remember(b);
		if (i & 1)
			ok = far_call(v, GATE, 0, 4, NEXT);
		else
			ok = except_soft_int(v, 0x40, SOFT_INT_N, NEXT);
		if (ok != !c->vector)
			fail_msg("%s", c->what);
		if (!ok) {
			assert_fault(b, c->vector, c->error);
			assert_all_kept(b);
		}
	}
}

static void privilege_of_tss_and_task_gate(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	for (unsigned i = 0; i < 4 * 4 * 4 * 4; i++) {
		unsigned cpl = i & 3, rpl = i >> 2 & 3, dpl = i >> 4 & 3,
			 gate = i >> 6 & 1, call = i >> 7;
		bool ok = dpl >= cpl && dpl >= rpl;
		u16 sel = gate ? GATE : B_SEL;

		two_tasks(b, &t);
		box_enter(b, CODE32(cpl), DATA32(cpl), cpl);
		if (gate)
			set_gdt(b, GATE,
				make_gate(DESC_TASK_GATE, dpl, true, B_SEL, 0, 0));
		else
			set_gdt(b, B_SEL,
				make_desc(TSS_B, 0x67, ATTR(DESC_TSS32, 0u, dpl, 1u)));
		box_remember(b);
		assert_int_equal(call ? far_call(v, (u16)(sel | rpl), 0, 4, NEXT)
				      : far_jmp(v, (u16)(sel | rpl), 0, 4, NEXT),
				 ok);
		if (!ok) {
			assert_fault(b, VEC_GP, sel);
			assert_all_kept(b);
		}
	}
	two_tasks(b, &t);
	set_gdt(b, GATE, make_gate(DESC_TASK_GATE, 3, false, B_SEL, 0, 0));
	assert_false(far_jmp(v, GATE, 0, 4, NEXT));
	assert_fault(b, VEC_NP, GATE);
}

static void iret_needs_a_busy_task_to_go_to(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = kernel_task(true);

	two_tasks(b, &t);
	poke(b, TSS, B_SEL, 2);
	v->flags |= RFLAGS_NT;
	box_remember(b);
	assert_false(far_iret(v, 4, NEXT));
	assert_fault(b, VEC_TS, B_SEL);
	assert_all_kept(b);
	poke(b, TSS, B_SEL | 4, 2);
	assert_false(far_iret(v, 4, NEXT));
	assert_fault(b, VEC_TS, B_SEL | 4);
	poke(b, TSS, B_SEL, 2);
	set_gdt(b, B_SEL, make_desc(TSS_B, 0x67, ATTR(DESC_TSS32_BUSY, 0u, 0u, 0u)));
	assert_false(far_iret(v, 4, NEXT));
	assert_fault(b, VEC_NP, B_SEL);
	set_gdt(b, B_SEL, make_desc(TSS_B, 0x67, ATTR(DESC_TSS32_BUSY, 0u, 0u, 1u)));
	assert_true(far_iret(v, 4, NEXT));
	assert_runs(b, &t);
	assert_false(v->flags & RFLAGS_NT);
}

static void old_tss_must_be_large_enough(void **state)
{
	struct box *b = *state;
	struct image t = kernel_task(true);

	two_tasks(b, &t);
	b->v->seg[TR].limit = 0x66;
	box_remember(b);
	assert_false(far_jmp(b->v, B_SEL, 0, 4, NEXT));
	assert_fault(b, VEC_TS, TSS_SEL);
	assert_all_kept(b);
}

/* Paging with 4 KiB pages, 32-bit entries: directory at PML4, table at PT. */
static void box_paging_32(struct box *b)
{
	for (unsigned i = 0; i < 1024; i++)
		poke(b, PT + 4 * i, i << 12 | 0x67, 4);
	memset(b->ram + PML4, 0, 0x1000);
	poke(b, PML4, PT | 0x27, 4);
	b->v->cr3 = PML4;
	b->v->cr0 |= CR0_PG | CR0_WP;
	vcpu_sync(b->v);
}

static void pages_are_checked_before_anything_is_written(void **state)
{
	/* Take away or write-protect each page that the switch needs. */
	static const struct {
		gva_t page;
		u32 flags;
		u32 error;
	} cases[] = {
		{ TSS, 0, PF_W },          { TSS, 1, PF_P | PF_W }, { TSS_B, 0, 0 },
		{ TSS_B, 1, PF_P | PF_W }, { GDT, 1, PF_P | PF_W },
	};
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = kernel_task(true);

	t.cr3 = PML4;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		two_tasks(b, &t);
		box_paging_32(b);
		poke(b, PT + (cases[i].page >> 12) * 4, cases[i].page | cases[i].flags,
		     4);
		/* As if the accessed bits had all been set: only A of this page may
		 * change. */
		box_remember(b);
		assert_false(far_call(v, B_SEL, 0, 4, NEXT));
		assert_fault(b, VEC_PF, cases[i].error);
		assert_state_kept(b);
		assert_false(is_busy(b, B_SEL));
		assert_int_equal(peek(b, TSS + 0x20, 4), 0);
	}
}

static void page_directory_comes_with_the_task(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = kernel_task(true);

	t.cr3 = PDPT; /* a second directory: page 1 MiB is somewhere else */
	two_tasks(b, &t);
	box_paging_32(b);
	memset(b->ram + PDPT, 0, 0x2000);
	memcpy(b->ram + PD, b->ram + PT, 0x1000);
	poke(b, PD + 256 * 4, 0x180067, 4);
	poke(b, PDPT, PD | 0x27, 4);
	poke(b, 0x100000, 0xaaaa, 4);
	poke(b, 0x180000, 0xbbbb, 4);
	u64 val;

	assert_true(sys_read(v, 0x100000, 4, &val));
	assert_int_equal(val, 0xaaaa);
	assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
	assert_int_equal(v->cr3, PDPT);
	assert_true(sys_read(v, 0x100000, 4, &val));
	assert_int_equal(val, 0xbbbb);
}

/* ---- faults of the new task ---- */

struct late {
	const char *what;
	unsigned reg; /* whose selector is changed: ES to GS, LDTR */
	u16 sel;
	u32 attr; /* of FREE_SEL(0), 0: leave */
	unsigned vector;
	u32 error;
};

static const struct late late_cases[] = {
	{ "LDT is no LDT", LDTR, DATA32(0), 0, VEC_TS, DATA32(0) },
	{ "LDT not present", LDTR, FREE_SEL(0), ATTR(DESC_LDT, 0u, 0u, 0u), VEC_TS,
	  FREE_SEL(0) },
	{ "LDT local", LDTR, LDT_B | 4, 0, VEC_TS, LDT_B | 4 },
	{ "LDT beyond", LDTR, 0x1000, 0, VEC_TS, 0x1000 },
	{ "CS null", CS, 3, 0, VEC_TS, 0 },
	{ "CS is data", CS, DATA32(3) | 3, 0, VEC_TS, DATA32(3) },
	{ "CS DPL", CS, CODE32(2) | 3, 0, VEC_TS, CODE32(2) },
	{ "CS not present", CS, FREE_SEL(0) | 3, ATTR(0xau, 1u, 3u, 0u), VEC_NP,
	  FREE_SEL(0) },
	{ "SS null", SS, 3, 0, VEC_TS, 0 },
	{ "SS DPL", SS, DATA32(2) | 3, 0, VEC_TS, DATA32(2) },
	{ "SS RPL", SS, DATA32(3) | 2, 0, VEC_TS, DATA32(3) },
	{ "SS is code", SS, CODE32(3) | 3, 0, VEC_TS, CODE32(3) },
	{ "SS not present", SS, FREE_SEL(0) | 3, ATTR(2u, 1u, 3u, 0u), VEC_SS,
	  FREE_SEL(0) },
	{ "DS DPL", DS, DATA32(2) | 3, 0, VEC_TS, DATA32(2) },
	{ "ES execute-only", ES, FREE_SEL(0) | 3, ATTR(8u, 1u, 3u, 1u), VEC_TS,
	  FREE_SEL(0) },
	{ "FS not present", FS, FREE_SEL(0) | 3, ATTR(2u, 1u, 3u, 0u), VEC_NP,
	  FREE_SEL(0) },
	{ "GS beyond", GS, 0x1003, 0, VEC_TS, 0x1000 },
	{ "EIP", CS, FREE_SEL(0) | 3, ATTR(0xau, 1u, 3u, 1u), VEC_GP, 0 },
};

static void descriptors_that_do_not_load_are_the_new_tasks_fault(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;

	for (unsigned i = 0; i < ARRAY_SIZE(late_cases) * 2; i++) {
		const struct late *c = &late_cases[i / 2];
		struct image t = user_task(true);
		bool hard = i & 1;

		if (c->reg == LDTR)
			t.ldt = c->sel;
		else
			t.seg[c->reg] = c->sel;
		two_tasks(b, &t);
		if (c->attr)
			set_gdt(b, FREE_SEL(0), make_desc(0, 0x100, c->attr));
		if (hard) {
			set_idt(b, 0x40, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
			assert_true(except_interrupt(v, 0x40));
		} else {
			assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
		}
		/* The handler runs on the new task's level 0 stack. */
		if (v->rip != HANDLERS + 16 * c->vector)
			fail_msg("%s: at %llx", c->what, (unsigned long long)v->rip);
		assert_int_equal(v->cpl, 0);
		assert_int_equal(v->seg[TR].sel, B_SEL);
		assert_int_equal(v->gpr[RSP], STACK0 + 0x1800 - 24);
		assert_int_equal(peek(b, v->gpr[RSP], 4), c->error | hard);
		assert_int_equal(peek(b, v->gpr[RSP] + 4, 4), 0x9000);
		assert_int_equal(peek(b, v->gpr[RSP] + 8, 4), t.seg[CS]);
		assert_int_equal(peek(b, v->gpr[RSP] + 20, 4), t.seg[SS]);
		assert_int_equal(is_busy(b, TSS_SEL), hard);
		assert_synced(b);
	}
}

/* The same through the other ways in. */
static void late_faults_of_int_n_call_and_iret(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	t.seg[DS] = CODE32(3) | 3; /* fine: readable */
	t.seg[ES] = DATA32(2) | 3;
	for (unsigned i = 0; i < 3; i++) {
		two_tasks(b, &t);
		if (i == 0) {
			set_idt(b, 0x40, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
			assert_true(except_soft_int(v, 0x40, SOFT_INT_N, NEXT));
		} else if (i == 1) {
			assert_true(far_call(v, B_SEL, 0, 4, NEXT));
		} else {
			put_task(b, TSS_B, B_SEL, &t, true);
			poke(b, TSS, B_SEL, 2);
			v->flags |= RFLAGS_NT;
			assert_true(far_iret(v, 4, NEXT));
		}
		assert_int_equal(v->rip, HANDLERS + 16 * VEC_TS);
		assert_int_equal(peek(b, v->gpr[RSP], 4), DATA32(2));
		assert_int_equal(peek(b, v->gpr[RSP] + 4, 4), 0x9000);
		assert_int_equal(!!(peek(b, v->gpr[RSP] + 12, 4) & RFLAGS_NT), i != 2);
		assert_int_equal(v->seg[DS].sel, CODE32(3) | 3);
	}
}

static void error_code_without_room_is_the_new_tasks_fault(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	t.seg[SS] = FREE_SEL(0) | 3;
	t.gpr[RSP] = 3;
	two_tasks(b, &t);
	set_gdt(b, FREE_SEL(0), make_desc(STACK3, 0xfff, ATTR_DATA(3) | SEG_DB));
	set_idt(b, VEC_NP, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
	raise_err(v, VEC_NP, 0x1234);
	assert_true(except_deliver(v));
	/* #NP and then #SS: both contributory. */
	assert_int_equal(v->rip, HANDLERS + 16 * VEC_DF);
	assert_int_equal(peek(b, v->gpr[RSP], 4), 0);
	assert_int_equal(peek(b, v->gpr[RSP] + 4, 4), 0x9000);
}

static void double_fault_task_rescues_a_lost_stack(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = kernel_task(true);

	two_tasks(b, &t);
	set_gdt(b, FREE_SEL(1), make_desc(STACK3, 0xff, ATTR_DATA(0) | SEG_DB));
	box_seg(b, SS, FREE_SEL(1));
	v->gpr[RSP] = 0;
	set_idt(b, VEC_DF, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
	raise_gp0(v);
	assert_true(except_deliver(v));
	t.gpr[RSP] -= 4;
	assert_runs(b, &t);
	assert_int_equal(peek(b, t.gpr[RSP], 4), 0);
	assert_int_equal(peek(b, TSS + 0x38, 4), 0);
	assert_int_equal(peek(b, TSS + 0x20, 4), 0x5000);
	/* And when that task cannot be entered, it is over. */
	two_tasks(b, &t);
	set_gdt(b, B_SEL, make_desc(TSS_B, 0x67, ATTR(DESC_TSS32, 0u, 0u, 0u)));
	box_seg(b, SS, FREE_SEL(1));
	set_gdt(b, FREE_SEL(1), make_desc(STACK3, 0xff, ATTR_DATA(0) | SEG_DB));
	box_seg(b, SS, FREE_SEL(1));
	v->gpr[RSP] = 0;
	set_idt(b, VEC_DF, make_gate(DESC_TASK_GATE, 0, true, B_SEL, 0, 0));
	box_remember(b);
	raise_gp0(v);
	assert_false(except_deliver(v));
	assert_int_equal(v->activity, ACT_SHUTDOWN);
	v->activity = ACT_RUNNING;
	assert_all_kept(b);
}

static void new_task_that_cannot_take_its_fault_shuts_down(void **state)
{
	struct box *b = *state;
	struct vcpu *v = b->v;
	struct image t = user_task(true);

	t.seg[CS] = 3;
	two_tasks(b, &t);
	poke(b, TSS_B + 8, 0, 2); /* no inner stack */
	assert_true(far_jmp(v, B_SEL, 0, 4, NEXT));
	assert_int_equal(v->activity, ACT_SHUTDOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(jmp_there_and_back_restores_everything),
		TEST(call_nests_and_iret_comes_back),
		TEST(interrupt_through_a_task_gate),
		TEST(virtual_8086_task),
		TEST(local_descriptors_come_with_the_task),
		TEST(debug_bits_of_a_task_switch),
		TEST(bad_tss_descriptors_are_refused),
		TEST(privilege_of_tss_and_task_gate),
		TEST(iret_needs_a_busy_task_to_go_to),
		TEST(old_tss_must_be_large_enough),
		TEST(pages_are_checked_before_anything_is_written),
		TEST(page_directory_comes_with_the_task),
		TEST(descriptors_that_do_not_load_are_the_new_tasks_fault),
		TEST(late_faults_of_int_n_call_and_iret),
		TEST(error_code_without_room_is_the_new_tasks_fault),
		TEST(double_fault_task_rescues_a_lost_stack),
		TEST(new_task_that_cannot_take_its_fault_shuts_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
