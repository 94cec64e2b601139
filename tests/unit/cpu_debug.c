/*
 * Stopping the CPUs of a machine, all and one by one, whatever they are doing, on their
 * own threads and on each engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "cpu/debug.h"
#include "cpu/vm.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"
#include "irq/lapic.h"
#include "irq/msi.h"
#include "mem/io.h"
#include "mem/phys.h"
#include "time/clock.h"
#include "x86/cpuid.h"

/* ---- programs, in real mode with 4 GiB limits: what they count is at COUNT(n) ---- */

#define CODE     0x1000
#define CODE2    0x1800 /* of the second CPU */
#define DATA     0x3000
#define COUNT(n) (DATA + 4 * (n))

#define PROGRAM(name, text)                                                              \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code16\n" #name          \
		":\n" text "\n" #name "_end:\n.code64\n.att_syntax\n.popsection\n");     \
	extern const u8 name[], name##_end[]

/* Each instruction of 5 bytes. */
PROGRAM(spin, "1: inc dword ptr [0x3000]\n"
	      "nop\n"
	      "jmp 1b\n");
PROGRAM(spin2, "1: inc dword ptr [0x3004]\n"
	       "nop\n"
	       "jmp 1b\n");
PROGRAM(halts, "1: inc dword ptr [0x3000]\n"
	       "cli\n"
	       "hlt\n"
	       "jmp 1b\n");
PROGRAM(crashes, "lidt cs:[0x1100]\n" /* a limit of 0 */
		 "crashes_ud: ud2\n");
extern const u8 crashes_ud[];

#define SPIN_NOP  (CODE + 5)
#define SPIN2_NOP (CODE2 + 5)

#define CPUS 2

struct rig {
	const struct engine *e;
	struct phys *phys;
	struct io_ports *ports;
	struct clock *clock;
	struct cpuid_table cpuid;
	struct apic_bus *bus;
	struct vm *vm;
	struct debug *debug;
	struct lapic *lapic[CPUS];
	u8 *ram;
	unsigned stops; /* atomic: calls of cfg.stopped */
	unsigned seen;
};

static const struct engine *const engines[] = {
	&engine_interp,
#ifndef __SANITIZE_ADDRESS__ /* translated code has a stack of its own */
	&engine_translate,
#endif
};

static void cpu_event(void *opaque, unsigned events)
{
	vcpu_apic_event(opaque, events);
}

static const struct lapic_ops lapic_ops = { .event = cpu_event };

static void on_stopped(void *opaque)
{
	struct rig *r = opaque;

	__atomic_fetch_add(&r->stops, 1, __ATOMIC_SEQ_CST);
}

/* CPU n at this code. */
static void enter(struct rig *r, unsigned n, u32 at, const u8 *code, const u8 *end)
{
	struct vcpu *v = vm_vcpu(r->vm, n);

	memcpy(r->ram + at, code, (size_t)(end - code));
	for (unsigned i = ES; i <= GS; i++) {
		v->seg[i].sel = 0;
		v->seg[i].base = 0;
		v->seg[i].limit = i == CS ? 0xffff : 0xffffffff;
	}
	v->gpr[RSP] = 0x8000 + 0x1000 * n;
	v->rip = at;
	v->activity = ACT_RUNNING;
	vcpu_sync(v);
	if (r->e->push)
		r->e->push(v);
}

static struct rig *rig_new(const struct engine *e)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct vm_config cfg = { .engine = e, .cpus = CPUS, .tsc_khz = 1000000 };
	struct debug_config debug = { .stopped = on_stopped, .opaque = r };
	struct error err = { "" };

	assert_non_null(r);
	r->e = e;
	cfg.phys = r->phys = phys_new();
	cfg.ports = r->ports = io_ports_new();
	cfg.clock = r->clock = clock_new();
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, MiB(1), &err), 0);
	r->ram = phys_host(r->phys, 0, MiB(1), true);
	memset(r->cpuid.features, 0xff, sizeof(r->cpuid.features));
	r->cpuid.phys_bits = 40;
	r->cpuid.linear_bits = 48;
	r->cpuid.xcr0 = 7;
	cfg.cpuid = &r->cpuid;
	r->bus = apic_bus_new();
	r->vm = vm_new(&cfg, &err);
	if (!r->vm)
		fail_msg("%s: %s", e->name, err.msg);
	for (unsigned i = 0; i < CPUS; i++) {
		struct lapic_config lapic = {
			.clk = r->clock,
			.bus = r->bus,
			.id = i,
			.is_bsp = i == 0,
			.ops = &lapic_ops,
			.opaque = vm_vcpu(r->vm, i),
		};

		r->lapic[i] = lapic_new(&lapic);
		vm_set_lapic(r->vm, i, r->lapic[i]);
	}
	debug.vm = r->vm;
	r->debug = debug_new(&debug);
	vm_reset_cpus(r->vm);
	enter(r, 0, CODE, spin, spin_end);
	enter(r, 1, CODE2, spin2, spin2_end);
	return r;
}

static void rig_free(struct rig *r)
{
	debug_free(r->debug);
	vm_free(r->vm);
	for (unsigned i = 0; i < CPUS; i++)
		lapic_free(r->lapic[i]);
	apic_bus_free(r->bus);
	phys_free(r->phys);
	io_ports_free(r->ports);
	clock_free(r->clock);
	free(r);
}

static void start(struct rig *r)
{
	struct error err = { "" };

	if (vm_start(r->vm, &err))
		fail_msg("%s", err.msg);
}

static void end(struct rig *r, enum vm_end why)
{
	vm_end(r->vm, VM_STOPPED);
	assert_int_equal(vm_join(r->vm), why);
}

static u32 count(struct rig *r, unsigned n)
{
	return __atomic_load_n((u32 *)(void *)(r->ram + COUNT(n)), __ATOMIC_SEQ_CST);
}

/* Until the next stop, for as long as a busy host may need. */
static void await_stop(struct rig *r)
{
	for (unsigned ms = 0; ms < 10000; ms++) {
		if (__atomic_load_n(&r->stops, __ATOMIC_SEQ_CST) != r->seen) {
			r->seen++;
			assert_int_equal(__atomic_load_n(&r->stops, __ATOMIC_SEQ_CST),
					 r->seen);
			assert_true(debug_is_stopped(r->debug));
			return;
		}
		usleep(1000);
	}
	fail_msg("%s: the CPUs do not stop", r->e->name);
}

static void await_count(struct rig *r, unsigned n)
{
	u32 was = count(r, n);

	for (unsigned ms = 0; ms < 10000; ms++) {
		if (count(r, n) != was)
			return;
		usleep(1000);
	}
	fail_msg("%s: CPU %u does not go on", r->e->name, n);
}

static void resume(struct rig *r, enum debug_action first, enum debug_action second)
{
	debug_resume(r->debug, (enum debug_action[]){ first, second });
}

static void assert_stop(struct rig *r, int cpu, enum debug_stop why, u64 rip)
{
	await_stop(r);
	assert_int_equal(debug_next_stop(r->debug), cpu);
	assert_int_equal(debug_vcpu(r->debug, (unsigned)cpu)->stop, why);
	assert_int_equal(vm_vcpu(r->vm, (unsigned)cpu)->rip, rip);
}

#define FOR_ALL(name)                                                                    \
	static void name##_on(struct rig *r);                                            \
	static void name(void **state)                                                   \
	{                                                                                \
		struct error err = { "" };                                               \
                                                                                         \
		(void)state;                                                             \
		for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {                     \
			struct rig *r;                                                   \
                                                                                         \
			if (engines[i]->probe && engines[i]->probe(&err))                \
				continue;                                                \
			r = rig_new(engines[i]);                                         \
			name##_on(r);                                                    \
			rig_free(r);                                                     \
		}                                                                        \
	}                                                                                \
	static void name##_on(struct rig *r)

FOR_ALL(pause_stops_all_and_resume_lets_them_go)
{
	start(r);
	for (unsigned i = 0; i < 200; i++) {
		u32 was[CPUS];

		debug_pause(r->debug);
		await_stop(r);
		assert_int_equal(debug_next_stop(r->debug), -1);
		was[0] = count(r, 0);
		was[1] = count(r, 1);
		if (i % 50 == 0)
			usleep(2000);
		assert_int_equal(count(r, 0), was[0]);
		assert_int_equal(count(r, 1), was[1]);
		resume(r, DEBUG_RUN, DEBUG_RUN);
		if (i % 50 == 0) {
			await_count(r, 0);
			await_count(r, 1);
		}
	}
	end(r, VM_STOPPED);
}

FOR_ALL(pause_before_the_start_holds_the_first_instruction)
{
	debug_pause(r->debug);
	await_stop(r);
	start(r);
	await_stop(r);
	usleep(2000);
	assert_int_equal(count(r, 0), 0);
	assert_int_equal(vm_vcpu(r->vm, 0)->rip, CODE);
	resume(r, DEBUG_RUN, DEBUG_RUN);
	await_count(r, 0);
	end(r, VM_STOPPED);
}

FOR_ALL(break_of_one_stops_all)
{
	debug_pause(r->debug);
	await_stop(r);
	start(r);
	await_stop(r);
	assert_true(debug_add_break(r->debug, SPIN2_NOP));
	for (unsigned i = 1; i < 20; i++) {
		resume(r, DEBUG_RUN, DEBUG_RUN);
		assert_stop(r, 1, DEBUG_BREAK, SPIN2_NOP);
		assert_int_equal(count(r, 1), i);
		/* Over it, alone. */
		debug_remove_break(r->debug, SPIN2_NOP);
		resume(r, DEBUG_HOLD, DEBUG_ONE);
		assert_stop(r, 1, DEBUG_STEP, SPIN2_NOP + 1);
		assert_true(debug_add_break(r->debug, SPIN2_NOP));
	}
	debug_clear(r->debug);
	resume(r, DEBUG_RUN, DEBUG_RUN);
	await_count(r, 0);
	await_count(r, 1);
	end(r, VM_STOPPED);
}

/* gdb does not see that the CPU is at its breakpoint, so it is not taken away. */
FOR_ALL(break_where_cs_has_a_base_is_gone_over)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);
	u64 nop;

	v->seg[CS].sel = 0x80;
	v->seg[CS].base = 0x800;
	v->rip = CODE - 0x800;
	nop = SPIN_NOP - 0x800;
	vcpu_sync(v);
	debug_pause(r->debug);
	await_stop(r);
	start(r);
	await_stop(r);
	assert_true(debug_add_break(r->debug, SPIN_NOP));
	for (u32 i = 1; i < 5; i++) {
		resume(r, DEBUG_RUN, DEBUG_HOLD);
		assert_stop(r, 0, DEBUG_BREAK, nop);
		assert_int_equal(count(r, 0), i);
	}
	resume(r, DEBUG_ONE, DEBUG_HOLD);
	assert_stop(r, 0, DEBUG_STEP, nop + 1);
	end(r, VM_STOPPED);
}

FOR_ALL(one_steps_while_the_other_runs)
{
	u32 was;

	start(r);
	debug_pause(r->debug);
	await_stop(r);
	for (unsigned i = 0; i < 30; i++) {
		was = count(r, 1);
		resume(r, DEBUG_ONE, DEBUG_RUN);
		await_stop(r);
		assert_int_equal(debug_next_stop(r->debug), 0);
		assert_int_equal(debug_vcpu(r->debug, 0)->stop, DEBUG_STEP);
	}
	was = count(r, 1);
	resume(r, DEBUG_RUN, DEBUG_HOLD);
	await_count(r, 0);
	assert_int_equal(count(r, 1), was);
	debug_pause(r->debug);
	await_stop(r);
	end(r, VM_STOPPED);
}

FOR_ALL(watch_sees_the_other_cpu)
{
	struct debug_watch w = { COUNT(1), 4, DEBUG_WRITE };
	u32 was;

	start(r);
	debug_pause(r->debug);
	await_stop(r);
	assert_true(debug_add_watch(r->debug, &w));
	was = count(r, 1);
	for (unsigned i = 1; i < 10; i++) {
		resume(r, DEBUG_RUN, DEBUG_RUN);
		assert_stop(r, 1, DEBUG_WATCH, SPIN2_NOP);
		assert_int_equal(count(r, 1), was + i);
	}
	debug_remove_watch(r->debug, &w);
	resume(r, DEBUG_RUN, DEBUG_RUN);
	await_count(r, 1);
	end(r, VM_STOPPED);
}

FOR_ALL(halted_cpu_stops_and_halts_on)
{
	enter(r, 0, CODE, halts, halts_end);
	start(r);
	for (unsigned i = 0; i < 20; i++) {
		usleep(200);
		debug_pause(r->debug);
		await_stop(r);
		resume(r, DEBUG_RUN, DEBUG_RUN);
	}
	usleep(1000);
	assert_int_equal(count(r, 0), 1);
	debug_pause(r->debug);
	await_stop(r);
	assert_int_equal(vm_vcpu(r->vm, 0)->activity, ACT_HLT);
	end(r, VM_STOPPED);
}

FOR_ALL(machine_ends_while_it_is_stopped)
{
	start(r);
	debug_pause(r->debug);
	await_stop(r);
	end(r, VM_STOPPED);
	/* What is stopped stays so over a reset. */
	vm_reset_cpus(r->vm);
	enter(r, 0, CODE, spin, spin_end);
	start(r);
	await_stop(r);
	assert_int_equal(vm_vcpu(r->vm, 0)->rip, CODE);
	resume(r, DEBUG_RUN, DEBUG_RUN);
	await_count(r, 0);
	end(r, VM_STOPPED);
}

FOR_ALL(crash_is_shown_before_it_ends_the_machine)
{
	enter(r, 0, CODE, crashes, crashes_end);
	debug_attach(r->debug, true);
	start(r);
	assert_stop(r, 0, DEBUG_SHUTDOWN, CODE + (u64)(crashes_ud - crashes));
	resume(r, DEBUG_RUN, DEBUG_RUN);
	assert_int_equal(vm_join(r->vm), VM_TRIPLE_FAULT);
	assert_ptr_equal(vm_fault_vcpu(r->vm), vm_vcpu(r->vm, 0));
}

FOR_ALL(crash_ends_the_machine_when_nobody_looks)
{
	enter(r, 0, CODE, crashes, crashes_end);
	start(r);
	assert_int_equal(vm_join(r->vm), VM_TRIPLE_FAULT);
	assert_int_equal(r->stops, 0);
}

FOR_ALL(points_are_bounded)
{
	struct debug_watch w = { 0, 1, DEBUG_WRITE };

	for (unsigned i = 0; i < DEBUG_BREAKS; i++)
		assert_true(debug_add_break(r->debug, i));
	assert_true(debug_add_break(r->debug, 0));
	assert_false(debug_add_break(r->debug, DEBUG_BREAKS));
	debug_remove_break(r->debug, 7);
	assert_true(debug_add_break(r->debug, DEBUG_BREAKS));
	for (; w.lin < DEBUG_WATCHES; w.lin++)
		assert_true(debug_add_watch(r->debug, &w));
	assert_false(debug_add_watch(r->debug, &w));
	debug_clear(r->debug);
	assert_int_equal(debug_points(r->debug)->breaks, 0);
	assert_int_equal(debug_points(r->debug)->watches, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pause_stops_all_and_resume_lets_them_go),
		cmocka_unit_test(pause_before_the_start_holds_the_first_instruction),
		cmocka_unit_test(break_of_one_stops_all),
		cmocka_unit_test(break_where_cs_has_a_base_is_gone_over),
		cmocka_unit_test(one_steps_while_the_other_runs),
		cmocka_unit_test(watch_sees_the_other_cpu),
		cmocka_unit_test(halted_cpu_stops_and_halts_on),
		cmocka_unit_test(machine_ends_while_it_is_stopped),
		cmocka_unit_test(crash_is_shown_before_it_ends_the_machine),
		cmocka_unit_test(crash_ends_the_machine_when_nobody_looks),
		cmocka_unit_test(points_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
