/*
 * A debugger's break- and watchpoints and its single step, on every engine: where the
 * CPU stops, that it goes on as if nothing had been, and that the guest sees nothing of
 * it.
 */
#include "translate_box.h"

#include "x86/debugger.h"
#include "x86/msr.h"

struct rig {
	const struct engine *e;
	struct box *b;
	struct vcpu_debug d;
	struct debug_points p;
};

static struct rig *rig_new(const struct engine *e, const u8 *code, const u8 *end)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->e = e;
	r->b = engine_box_new(e);
	if (!r->b) {
		free(r);
		return NULL;
	}
	engine_box_start(e, r->b, 0);
	memcpy(r->b->ram + CODE, code, (size_t)(end - code));
	r->d.points = &r->p;
	return r;
}

static void rig_free(struct rig *r)
{
	engine_box_free(r->e, r->b);
	free(r);
}

/* What cpu/debug.c does before a CPU goes on. */
static enum vcpu_exit go(struct rig *r, bool step)
{
	struct vcpu *v = r->b->v;
	enum vcpu_exit why;

	r->d.step = step;
	r->d.stop = DEBUG_NONE;
	v->debug = step || r->p.breaks || r->p.watches ? &r->d : NULL;
	v->cuts = r->p.cuts;
	tlb_flush_all(v);
	vcpu_mode_changed(v);
	do
		why = r->e->run(v);
	while (why == VCPU_EXIT_EVENT && !vcpu_events(v));
	return why;
}

static void add_break(struct rig *r, gva_t lin)
{
	unsigned off = lin & 0xfff;

	r->p.at[r->p.breaks++] = lin;
	r->p.cuts[off / 64] |= BIT(off % 64);
	if (r->e->push)
		r->e->push(r->b->v);
}

static void add_watch(struct rig *r, gva_t lin, u64 len, unsigned kind)
{
	r->p.watch[r->p.watches++] = (struct debug_watch){ lin, len, kind };
}

static void assert_stop(struct rig *r, enum vcpu_exit got, enum debug_stop why, u64 rip)
{
	if (got != VCPU_EXIT_DEBUG || r->d.stop != why || r->b->v->rip != rip)
		fail_msg("%s: left with %u, stop %u, at %llx; want stop %u at %llx",
			 r->e->name, got, r->d.stop, (unsigned long long)r->b->v->rip,
			 why, (unsigned long long)rip);
}

static void step_to(struct rig *r, u64 rip)
{
	assert_stop(r, go(r, true), DEBUG_STEP, rip);
}

#define FOR_ALL(name, program)                                                           \
	static void name##_on(struct rig *r);                                            \
	static void name(void **state)                                                   \
	{                                                                                \
		(void)state;                                                             \
		for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {                 \
			struct rig *r = rig_new(all_engines[i], program, program##_end); \
                                                                                         \
			if (!r)                                                          \
				continue;                                                \
			name##_on(r);                                                    \
			rig_free(r);                                                     \
		}                                                                        \
	}                                                                                \
	static void name##_on(struct rig *r)

/* ---- breakpoints ---- */

/* Long enough to be translated, and to have branches into the middle. */
PROGRAM(loop, "mov ecx, 200\n"
	      "xor eax, eax\n"
	      "loop_top: add eax, ecx\n"
	      "test ecx, 1\n"
	      "loop_middle: jz loop_even\n"
	      "add edx, 1\n"
	      "loop_even: lea rbx, [rbx + 2]\n"
	      "dec ecx\n"
	      "jnz loop_top\n"
	      "int3\n");
extern const u8 loop_top[], loop_middle[], loop_even[];

/* The instruction at the breakpoint, without it. */
static void step_over(struct rig *r, u64 next)
{
	struct debug_points keep = r->p;

	r->p.breaks = 0;
	step_to(r, next);
	r->p = keep;
}

FOR_ALL(break_in_a_loop_stops_each_time_around, loop)
{
	u64 at = AT(loop_middle, loop);
	u32 sum = 0;

	add_break(r, at);
	for (u32 n = 200; n; n--) {
		sum += n;
		assert_stop(r, go(r, false), DEBUG_BREAK, at);
		assert_int_equal(r->b->v->gpr[RCX], n);
		assert_int_equal(r->b->v->gpr[RAX], sum);
		step_over(r, n & 1 ? at + 2 : AT(loop_even, loop));
	}
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_int_equal(r->b->v->rip, HANDLERS + 16 * VEC_BP + 1);
	assert_int_equal(r->b->v->gpr[RBX], 400);
	assert_int_equal(r->b->v->gpr[RDX] & 0xff, 100);
}

FOR_ALL(break_that_comes_when_code_is_hot_stops, loop)
{
	struct vcpu *v = r->b->v;

	/* Round and round, until everything is translated. */
	for (unsigned i = 0; i < 20; i++) {
		v->rip = CODE;
		v->activity = ACT_RUNNING;
		assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	}
	v->rip = CODE;
	v->activity = ACT_RUNNING;
	add_break(r, AT(loop_even, loop));
	assert_stop(r, go(r, false), DEBUG_BREAK, AT(loop_even, loop));
	assert_int_equal(v->gpr[RCX], 200);
	/* And when it is gone again nothing stops. */
	r->p.breaks = 0;
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

FOR_ALL(break_where_the_cpu_is_stops_at_once, loop)
{
	add_break(r, CODE);
	for (unsigned i = 0; i < 3; i++)
		assert_stop(r, go(r, false), DEBUG_BREAK, CODE);
}

PROGRAM(same_offset, "mov eax, 1\n"
		     "jmp same_offset + 0x1000\n"
		     ".org same_offset + 0x1000\n"
		     "mov eax, 2\n"
		     "int3\n");

FOR_ALL(break_of_another_page_does_not_stop, same_offset)
{
	add_break(r, CODE + 0x2000);
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_int_equal(r->b->v->gpr[RAX], 2);
}

/* A second mapping of the same page is another address. */
FOR_ALL(break_is_a_linear_address, same_offset)
{
	set_pte(r->b, CODE2, CODE | 0x63);
	tlb_flush_all(r->b->v);
	add_break(r, CODE2);
	r->b->v->rip = CODE;
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	r->b->v->rip = CODE2;
	r->b->v->activity = ACT_RUNNING;
	assert_stop(r, go(r, false), DEBUG_BREAK, CODE2);
}

PROGRAM(in_the_middle, "mov eax, 0x12345678\n"
		       "int3\n");

FOR_ALL(break_inside_an_instruction_does_not_stop, in_the_middle)
{
	add_break(r, CODE + 2);
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_int_equal(r->b->v->gpr[RAX], 0x12345678);
}

PROGRAM(reads_itself, "mov rax, [rip + reads_itself]\n"
		      "pushf\n"
		      "pop rbx\n"
		      "mov rcx, dr7\n"
		      "mov rdx, dr6\n"
		      "int3\n");

FOR_ALL(nothing_can_be_seen, reads_itself)
{
	struct vcpu *v = r->b->v;
	u64 dr6 = v->dr[6], dr7 = v->dr[7];

	for (u64 i = 0; i < 24; i++)
		add_break(r, CODE + i);
	add_watch(r, CODE, 8, DEBUG_READ);
	for (unsigned i = 0; v->rip < HANDLERS || v->rip >= HANDLERS + 0x1000; i++) {
		assert_true(i < 20);
		r->p.breaks = 0;
		assert_int_equal(go(r, true), VCPU_EXIT_DEBUG);
		r->p.breaks = 24;
	}
	assert_int_equal(v->gpr[RAX], le_load(reads_itself, 8));
	assert_int_equal(v->gpr[RBX] & (RFLAGS_TF | RFLAGS_RF), 0);
	assert_int_equal(v->gpr[RCX], dr7);
	assert_int_equal(v->gpr[RDX], dr6);
	assert_memory_equal(r->b->ram + CODE, reads_itself, 16);
	/* Nor what an exception pushes. */
	assert_int_equal(peek(r->b, v->gpr[RSP] + 16, 8) & (RFLAGS_TF | RFLAGS_RF), 0);
}

/* ---- steps ---- */

PROGRAM(mixed, "mov edi, 0x60000\n"
	       "mov ecx, 300\n"
	       "cld\n"
	       "mixed_rep: rep stosb\n"
	       "mixed_ss: mov eax, ss\n"
	       "mov ss, eax\n"
	       "mixed_nop: nop\n"
	       "mixed_ud: ud2\n");
extern const u8 mixed_rep[], mixed_ss[], mixed_nop[], mixed_ud[];

FOR_ALL(step_takes_one_instruction_of_any_kind, mixed)
{
	step_to(r, CODE + 5);
	step_to(r, CODE + 10);
	step_to(r, AT(mixed_rep, mixed));
	/* All of it. */
	step_to(r, AT(mixed_ss, mixed));
	assert_int_equal(r->b->v->gpr[RDI], 0x60000 + 300);
	assert_int_equal(r->b->v->gpr[RCX], 0);
	step_to(r, AT(mixed_ss, mixed) + 2);
	step_to(r, AT(mixed_nop, mixed));
	assert_int_equal(r->b->v->shadow, SHADOW_MOVSS);
	step_to(r, AT(mixed_ud, mixed));
	assert_int_equal(r->b->v->shadow, 0);
	/* A fault leads to the first instruction of its handler. */
	step_to(r, HANDLERS + 16 * VEC_UD);
	assert_int_equal(peek(r->b, r->b->v->gpr[RSP], 8), AT(mixed_ud, mixed));
	/* HLT is one too; the CPU halts. */
	step_to(r, HANDLERS + 16 * VEC_UD + 1);
	assert_int_equal(r->b->v->activity, ACT_HLT);
}

FOR_ALL(break_on_a_rep_hits_once, mixed)
{
	add_break(r, AT(mixed_rep, mixed));
	assert_stop(r, go(r, false), DEBUG_BREAK, AT(mixed_rep, mixed));
	step_over(r, AT(mixed_ss, mixed));
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

PROGRAM(enables, "sti\n"
		 "enables_nop: nop\n"
		 "nop\n"
		 "int3\n");
extern const u8 enables_nop[];

FOR_ALL(step_holds_interrupts_back, enables)
{
	struct vcpu *v = r->b->v;

	vcpu_post(v, EV_INTR | EV_NMI);
	step_to(r, AT(enables_nop, enables));
	step_to(r, AT(enables_nop, enables) + 1);
	step_to(r, AT(enables_nop, enables) + 2);
	/* It is still there. */
	assert_int_equal(go(r, false), VCPU_EXIT_EVENT);
	assert_int_equal(v->rip, AT(enables_nop, enables) + 2);
}

PROGRAM(traps, "pushf\n"
	       "or dword ptr [rsp], 0x100\n"
	       "popf\n"
	       "traps_nop: nop\n"
	       "int3\n");
extern const u8 traps_nop[];

FOR_ALL(step_of_a_guest_that_steps_itself, traps)
{
	struct vcpu *v = r->b->v;

	step_to(r, CODE + 1);
	step_to(r, AT(traps_nop, traps) - 1);
	step_to(r, AT(traps_nop, traps));
	/* The trap is part of the instruction. */
	step_to(r, HANDLERS + 16 * VEC_DB);
	assert_int_equal(peek(r->b, v->gpr[RSP], 8), AT(traps_nop, traps) + 1);
	assert_true(peek(r->b, v->gpr[RSP] + 16, 8) & RFLAGS_TF);
	assert_true(v->dr[6] & DR6_BS);
}

PROGRAM(calls, "syscall\n");

FOR_ALL(step_into_a_system_call, calls)
{
	struct vcpu *v = r->b->v;

	engine_box_start(r->e, r->b, 3);
	memcpy(r->b->ram + CODE, calls, 2);
	v->efer |= EFER_SCE;
	v->msr[MSRI_STAR] = (u64)CODE64(0) << 32;
	v->msr[MSRI_LSTAR] = HANDLERS;
	step_to(r, HANDLERS);
	assert_int_equal(v->cpl, 0);
	assert_int_equal(v->gpr[RCX], CODE + 2);
	assert_int_equal(v->gpr[R11] & RFLAGS_TF, 0);
}

/* ---- watchpoints ---- */

PROGRAM(touches, "mov ebx, 0x60000\n"
		 "mov ecx, 20\n"
		 "touches_loop: mov [rbx + 64], ecx\n"
		 "loop touches_loop\n"
		 "touches_write: mov [rbx + 6], rcx\n"
		 "touches_read: mov eax, [rbx + 8]\n"
		 "touches_add: add dword ptr [rbx + 8], 5\n"
		 "touches_vec: movups [rbx + 1], xmm0\n"
		 "touches_push: lea rsp, [rbx + 16]\n"
		 "push rax\n"
		 "touches_cross: mov [rbx + 0xffe], rax\n"
		 "touches_str: lea edi, [rbx]\n"
		 "mov ecx, 16\n"
		 "rep stosb\n"
		 "touches_last: int3\n");
extern const u8 touches_write[], touches_read[], touches_add[], touches_vec[],
	touches_push[], touches_cross[], touches_str[], touches_last[];

#define TOUCH(label) AT(touches_##label, touches)

FOR_ALL(watch_stops_behind_each_write, touches)
{
	add_watch(r, DATA + 8, 4, DEBUG_WRITE);
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(read));
	assert_int_equal(r->d.lin, DATA + 6);
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(vec));
	assert_int_equal(peek(r->b, DATA + 8, 4), 5);
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(push));
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(cross));
	/* In the middle of the REP, behind the byte. */
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(go(r, false), VCPU_EXIT_DEBUG);
		assert_int_equal(r->d.stop, DEBUG_WATCH);
		assert_int_equal(r->b->v->gpr[RDI], DATA + 9 + i);
	}
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

PROGRAM(strings, "mov esi, 0x60000\n"
		 "mov edi, 0x62000\n"
		 "mov ecx, 3000\n"
		 "strings_movs: rep movsb\n"
		 "mov ecx, 3000\n"
		 "mov edi, 0x62000\n"
		 "strings_scas: repe scasb\n"
		 "strings_last: int3\n");
extern const u8 strings_movs[], strings_scas[], strings_last[];

/* A long REP goes by runs, on either side of what is watched. */
FOR_ALL(watch_stops_a_rep_at_the_element, strings)
{
	struct vcpu *v = r->b->v;

	add_watch(r, DATA + 0x2000 + 1234, 1, DEBUG_WRITE);
	assert_stop(r, go(r, false), DEBUG_WATCH, AT(strings_movs, strings));
	assert_int_equal(v->gpr[RDI], DATA + 0x2000 + 1235);
	assert_int_equal(v->gpr[RCX], 3000 - 1235);
	r->p.watch[0].kind = DEBUG_READ;
	assert_stop(r, go(r, false), DEBUG_WATCH, AT(strings_scas, strings));
	assert_int_equal(v->gpr[RCX], 3000 - 1235);
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_int_equal(v->gpr[RCX], 0);
}

/* The first access in a translated loop is to another page. */
PROGRAM(walks, "mov ebx, 0x60000\n"
	       "walks_top: mov [rbx], rbx\n"
	       "walks_add: add rbx, 64\n"
	       "add dword ptr [0x60000], 1\n"
	       "cmp ebx, 0x68000\n"
	       "jb walks_top\n"
	       "int3\n");
extern const u8 walks_top[], walks_add[];

FOR_ALL(watch_stops_hot_code_and_an_interrupt_waits, walks)
{
	struct vcpu *v = r->b->v;

	add_watch(r, DATA + 0x6000, 8, DEBUG_WRITE);
	v->flags |= RFLAGS_IF;
	assert_stop(r, go(r, false), DEBUG_WATCH, AT(walks_add, walks));
	assert_int_equal(v->gpr[RBX], DATA + 0x6000);
	assert_int_equal(peek(r->b, DATA + 0x6000, 8), DATA + 0x6000);
	r->p.watch[0].lin = DATA + 0x7000;
	assert_stop(r, go(r, false), DEBUG_WATCH, AT(walks_add, walks));
	assert_int_equal(v->gpr[RBX], DATA + 0x7000);
	/* Not before the CPU has been let go. */
	vcpu_post(v, EV_INTR);
	assert_int_equal(r->e->run(v), VCPU_EXIT_DEBUG);
	v->events = 0;
	r->p.watches = 0;
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_int_equal(peek(r->b, DATA, 4), (u32)(DATA + 512));
}

FOR_ALL(watch_of_reads_stops_behind_reads_alone, touches)
{
	add_watch(r, DATA + 8, 4, DEBUG_READ);
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(add));
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(vec));
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

FOR_ALL(watch_over_a_page_boundary_sees_both_sides, touches)
{
	add_watch(r, DATA + 0x1002, 1, DEBUG_READ | DEBUG_WRITE);
	add_watch(r, DATA + 0xffd, 1, DEBUG_READ | DEBUG_WRITE);
	assert_stop(r, go(r, false), DEBUG_WATCH, TOUCH(str));
	assert_int_equal(r->d.watch, 0);
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

FOR_ALL(watch_sees_what_an_exception_pushes, touches)
{
	struct vcpu *v = r->b->v;

	v->rip = TOUCH(last);
	v->gpr[RSP] = DATA + 0x100;
	add_watch(r, DATA + 0x100 - 40, 8, DEBUG_WRITE);
	assert_stop(r, go(r, false), DEBUG_WATCH, HANDLERS + 16 * VEC_BP);
	assert_int_equal(peek(r->b, DATA + 0x100 - 40, 8), TOUCH(last) + 1);
}

FOR_ALL(without_watchpoints_nothing_stops, touches)
{
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
	assert_null(r->b->v->debug);
	assert_false(r->b->v->step_check);
}

/* ---- other modes ---- */

/* 16-bit: inc ax; inc ax; hlt */
static const u8 real_code[] = { 0x40, 0x40, 0xf4 };
#define real_code_end (real_code + sizeof(real_code))

FOR_ALL(real_mode_breaks_at_the_linear_address, real_code)
{
	struct vcpu *v = r->b->v;

	box_real(r->b);
	v->seg[CS].sel = 0x3800;
	v->seg[CS].base = 0x38000;
	v->rip = CODE - 0x38000;
	v->gpr[RAX] = 0;
	vcpu_sync(v);
	add_break(r, CODE + 1);
	assert_stop(r, go(r, false), DEBUG_BREAK, CODE - 0x38000 + 1);
	assert_int_equal(v->gpr[RAX], 1);
	r->p.breaks = 0;
	step_to(r, CODE - 0x38000 + 2);
	assert_int_equal(go(r, false), VCPU_EXIT_HLT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(break_in_a_loop_stops_each_time_around),
		cmocka_unit_test(break_that_comes_when_code_is_hot_stops),
		cmocka_unit_test(break_where_the_cpu_is_stops_at_once),
		cmocka_unit_test(break_of_another_page_does_not_stop),
		cmocka_unit_test(break_is_a_linear_address),
		cmocka_unit_test(break_inside_an_instruction_does_not_stop),
		cmocka_unit_test(nothing_can_be_seen),
		cmocka_unit_test(step_takes_one_instruction_of_any_kind),
		cmocka_unit_test(break_on_a_rep_hits_once),
		cmocka_unit_test(step_holds_interrupts_back),
		cmocka_unit_test(step_of_a_guest_that_steps_itself),
		cmocka_unit_test(step_into_a_system_call),
		cmocka_unit_test(watch_stops_behind_each_write),
		cmocka_unit_test(watch_stops_a_rep_at_the_element),
		cmocka_unit_test(watch_stops_hot_code_and_an_interrupt_waits),
		cmocka_unit_test(watch_of_reads_stops_behind_reads_alone),
		cmocka_unit_test(watch_over_a_page_boundary_sees_both_sides),
		cmocka_unit_test(watch_sees_what_an_exception_pushes),
		cmocka_unit_test(without_watchpoints_nothing_stops),
		cmocka_unit_test(real_mode_breaks_at_the_linear_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
