/*
 * vCPU threads and what is delivered into them: sleeping in HLT and waking, interrupts
 * that wait for IF, NMI, INIT and SIPI, and the end of a machine, with real guest code on
 * each engine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "cpu/events.h"
#include "cpu/vm.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"
#include "irq/lapic.h"
#include "irq/msi.h"
#include "mem/io.h"
#include "mem/phys.h"
#include "time/clock.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/seg.h"
#include "x86/stats.h"

/* ---- programs, in real mode with 4 GiB limits: what they count is at COUNT(n) ---- */

#define CODE      0x1000
#define HANDLER   0x2000 /* of interrupt VECTOR: counts in COUNT(1), EOI */
#define NMI       0x2100 /* counts in COUNT(2) */
#define SIPI_PAGE 0x5000 /* where a SIPI with vector 5 leads: counts in COUNT(3) */
#define DATA      0x3000
#define COUNT(n)  (DATA + 4 * (n))
#define VECTOR    0x40

#define PROGRAM(name, text)                                                              \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code16\n" #name          \
		":\n" text "\n" #name "_end:\n.code64\n.att_syntax\n.popsection\n");     \
	extern const u8 name[], name##_end[]

PROGRAM(on_interrupt, "inc dword ptr [0x3004]\n"
		      "push eax\n"
		      "push ebx\n"
		      "mov ebx, 0xfee000b0\n"
		      "xor eax, eax\n"
		      "mov [ebx], eax\n"
		      "pop ebx\n"
		      "pop eax\n"
		      "iret\n");
PROGRAM(on_nmi, "inc dword ptr [0x3008]\n"
		"iret\n");
PROGRAM(on_sipi, "1: inc dword ptr [0x300c]\n"
		 "jmp 1b\n");

PROGRAM(halt_loop, "1: inc dword ptr [0x3000]\n"
		   "sti\n"
		   "hlt\n"
		   "cli\n"
		   "jmp 1b\n");
PROGRAM(halt_for_ever, "inc dword ptr [0x3000]\n"
		       "cli\n"
		       "1: hlt\n"
		       "inc dword ptr [0x3000]\n"
		       "jmp 1b\n");
/* The local APIC's timer at VECTOR, counting each 40 ns, or 5 us again and again. */
#define SET_TIMER(lvt)                                                                   \
	"mov ebx, 0xfee003e0\n"                                                          \
	"mov dword ptr [ebx], 0xb\n"                                                     \
	"mov ebx, 0xfee00320\n"                                                          \
	"mov dword ptr [ebx], " lvt "\n"                                                 \
	"mov ebx, 0xfee00380\n"
PROGRAM(halt_for_timer, SET_TIMER("0x40") "1: inc dword ptr [0x3000]\n"
					  "mov eax, [0x3000]\n"
					  "and eax, 0x3ff\n"
					  "inc eax\n"
					  "mov [ebx], eax\n"
					  "sti\n"
					  "hlt\n"
					  "cli\n"
					  "jmp 1b\n");
PROGRAM(spin_for_timer, SET_TIMER("0x20040") "mov dword ptr [ebx], 1000\n"
					     "sti\n"
					     "1: inc dword ptr [0x3000]\n"
					     "jmp 1b\n");
PROGRAM(spin, "sti\n"
	      "1: inc dword ptr [0x3000]\n"
	      "jmp 1b\n");
PROGRAM(spin_one_instruction, "1: jmp 1b\n");
PROGRAM(spin_rep, "1: mov cx, 0xffff\n"
		  "xor di, di\n"
		  "mov ax, 0x4000\n"
		  "mov es, ax\n"
		  "rep stosb\n"
		  "inc dword ptr [0x3000]\n"
		  "jmp 1b\n");
/* IF is 0 until [COUNT(4)] says otherwise. */
PROGRAM(wait_then_sti, "cli\n"
		       "1: inc dword ptr [0x3000]\n"
		       "cmp dword ptr [0x3010], 0\n"
		       "je 1b\n"
		       "sti\n"
		       "2: inc dword ptr [0x3014]\n"
		       "jmp 2b\n");
PROGRAM(bad_opcode, "lidt cs:[0x1100]\n" /* a limit of 0 */
		    "ud2\n");

/*
 * Writes NOP and a far RET to each of 128 pages in turn, and calls it: two of these keep
 * asking each other not to write.
 */
#define CODE_MAKER(count, stack)                                                         \
	"cli\n"                                                                          \
	"xor ax, ax\n"                                                                   \
	"mov ds, ax\n"                                                                   \
	"mov ss, ax\n"                                                                   \
	"mov sp, " stack "\n"                                                            \
	"1: inc dword ptr [" count "]\n"                                                 \
	"mov cx, [" count "]\n"                                                          \
	"and cx, 0x7f\n"                                                                 \
	"shl cx, 8\n"                                                                    \
	"add cx, 0x2000\n"                                                               \
	"mov es, cx\n"                                                                   \
	"mov word ptr es:[0], 0xcb90\n"                                                  \
	"push es\n"                                                                      \
	"push ax\n"                                                                      \
	"mov bp, sp\n"                                                                   \
	".byte 0xff, 0x5e, 0x00\n" /* call far [bp] */                                   \
	"add sp, 4\n"                                                                    \
	"jmp 1b\n"
PROGRAM(ask_a_device, "inc dword ptr [0x3000]\n"
		      "mov dx, 0x500\n"
		      "out dx, al\n"
		      "1: jmp 1b\n");
PROGRAM(make_code, CODE_MAKER("0x3000", "0x7f00"));
PROGRAM(make_code_too, CODE_MAKER("0x300c", "0x7d00"));

/* ---- the machine ---- */

#define CPUS_MAX 2

struct rig {
	const struct engine *e;
	struct phys *phys;
	struct io_ports *ports;
	struct clock *clock;
	struct cpuid_table cpuid;
	struct apic_bus *bus;
	struct vm *vm;
	struct lapic *lapic[CPUS_MAX];
	unsigned cpus;
	u8 *ram;
	unsigned ending, ended; /* atomic: calls of the end callbacks */
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

static void on_ending(void *opaque)
{
	struct rig *r = opaque;

	__atomic_fetch_add(&r->ending, 1, __ATOMIC_SEQ_CST);
}

static void on_ended(void *opaque)
{
	struct rig *r = opaque;

	__atomic_fetch_add(&r->ended, 1, __ATOMIC_SEQ_CST);
}

static const struct lapic_ops lapic_ops = { .event = cpu_event };

static void rig_cpu(struct rig *r, unsigned i)
{
	struct lapic_config cfg = {
		.clk = r->clock,
		.bus = r->bus,
		.id = i,
		.is_bsp = i == 0,
		.ops = &lapic_ops,
		.opaque = vm_vcpu(r->vm, i),
	};

	r->lapic[i] = lapic_new(&cfg);
	assert_non_null(r->lapic[i]);
	vm_set_lapic(r->vm, i, r->lapic[i]);
}

static void put_code(struct rig *r, u32 at, const u8 *code, const u8 *end)
{
	memcpy(r->ram + at, code, (size_t)(end - code));
}

/* The boot CPU at CODE, with big real-mode segments. */
static void enter(struct rig *r, const u8 *code, const u8 *end)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);

	memset(r->ram, 0, 0x10000);
	put_code(r, CODE, code, end);
	put_code(r, HANDLER, on_interrupt, on_interrupt_end);
	put_code(r, NMI, on_nmi, on_nmi_end);
	put_code(r, SIPI_PAGE, on_sipi, on_sipi_end);
	le_store(r->ram + VECTOR * 4, HANDLER, 4);
	le_store(r->ram + VEC_NMI * 4, NMI, 4);
	vm_reset_cpus(r->vm);
	lapic_virtual_wire(r->lapic[0]);
	for (unsigned i = ES; i <= GS; i++) {
		v->seg[i].sel = 0;
		v->seg[i].base = 0;
		v->seg[i].limit = i == CS ? 0xffff : 0xffffffff;
	}
	v->gpr[RSP] = 0x8000;
	v->rip = CODE;
	vcpu_sync(v);
	if (r->e->push)
		r->e->push(v);
	__atomic_store_n(&r->ending, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&r->ended, 0, __ATOMIC_SEQ_CST);
}

static struct rig *rig_new(const struct engine *e, unsigned cpus)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct vm_config cfg = { .engine = e, .cpus = cpus, .tsc_khz = 1000000 };
	struct error err = { "" };

	assert_non_null(r);
	r->e = e;
	r->cpus = cpus;
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
	for (unsigned i = 0; i < cpus; i++)
		rig_cpu(r, i);
	vm_on_end(r->vm, on_ending, on_ended, r);
	return r;
}

static void rig_free(struct rig *r)
{
	vm_free(r->vm);
	for (unsigned i = 0; i < r->cpus; i++)
		lapic_free(r->lapic[i]);
	apic_bus_free(r->bus);
	phys_free(r->phys);
	io_ports_free(r->ports);
	clock_free(r->clock);
	free(r);
}

static void go(struct rig *r)
{
	struct error err = { "" };

	if (vm_start(r->vm, &err))
		fail_msg("%s", err.msg);
}

static u32 count(struct rig *r, unsigned n)
{
	return __atomic_load_n((u32 *)(void *)(r->ram + COUNT(n)), __ATOMIC_SEQ_CST);
}

/* Wait for a counter, for as long as a busy host may need. */
static void until(struct rig *r, unsigned n, u32 at_least)
{
	for (unsigned ms = 0; ms < 10000; ms++) {
		if (count(r, n) >= at_least)
			return;
		usleep(1000);
	}
	fail_msg("%s: count %u is %u, want %u", r->e->name, n, count(r, n), at_least);
}

static void stop(struct rig *r)
{
	vm_end(r->vm, VM_STOPPED);
	assert_int_equal(vm_join(r->vm), VM_STOPPED);
	assert_int_equal(__atomic_load_n(&r->ended, __ATOMIC_SEQ_CST), 1);
}

#define ENTER(r, program) enter(r, program, program##_end)

/* A claim for each engine that works here, on a machine of this many CPUs. */
#define FOR_ALL(name, n)                                                                 \
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
			r = rig_new(engines[i], n);                                      \
			name##_on(r);                                                    \
			rig_free(r);                                                     \
		}                                                                        \
	}                                                                                \
	static void name##_on(struct rig *r)

/* ---- HLT ---- */

FOR_ALL(halted_cpu_wakes_by_an_interrupt, 1)
{
	ENTER(r, halt_loop);
	go(r);
	for (u32 i = 1; i <= 50; i++) {
		until(r, 0, i);
		lapic_post(r->lapic[0], VECTOR, false);
		until(r, 1, i);
	}
	stop(r);
}

/* A kick without anything to do does not end a HLT for the guest. */
FOR_ALL(kick_for_nothing_does_not_end_a_halt, 1)
{
	ENTER(r, halt_for_ever);
	go(r);
	until(r, 0, 1);
	for (unsigned i = 0; i < 50; i++) {
		vcpu_kick(vm_vcpu(r->vm, 0), i & 1 ? EV_INTR : EV_FLUSH);
		usleep(200);
	}
	/* Nor does an interrupt with IF = 0. */
	lapic_post(r->lapic[0], VECTOR, false);
	usleep(5000);
	assert_int_equal(count(r, 0), 1);
	stop(r);
}

FOR_ALL(nmi_wakes_a_halt_with_interrupts_off, 1)
{
	ENTER(r, halt_for_ever);
	go(r);
	for (u32 i = 1; i <= 20; i++) {
		until(r, 0, i);
		vcpu_apic_event(vm_vcpu(r->vm, 0), LAPIC_EV_NMI);
		until(r, 2, i);
	}
	stop(r);
}

/*
 * The wake-up is never lost, however it falls between the CPU's last look and its sleep:
 * each interrupt is answered before the next is sent, as fast as it goes.
 */
FOR_ALL(wake_up_is_never_lost, 1)
{
	ENTER(r, halt_loop);
	go(r);
	for (u32 i = 1; i <= 20000; i++) {
		lapic_post(r->lapic[0], VECTOR, false);
		for (unsigned spins = 0; count(r, 1) < i; spins++) {
			if (spins > 1000)
				sched_yield();
			if (spins > 20000000)
				fail_msg("%s: interrupt %u got lost", r->e->name, i);
		}
		/* At changing distances. */
		for (volatile unsigned n = 0; n < i % 400; n++)
			;
	}
	stop(r);
}

struct sender {
	struct rig *r;
	u32 sent;
	bool stop; /* atomic */
};

static void *send_thread(void *arg)
{
	struct sender *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
		vcpu_apic_event(vm_vcpu(s->r->vm, 0), LAPIC_EV_NMI);
		vcpu_kick(vm_vcpu(s->r->vm, 0), EV_INTR);
		s->sent++;
		usleep(50);
	}
	return NULL;
}

/* Several threads at once; in the end the CPU still answers. */
FOR_ALL(kicks_of_several_threads_at_once, 1)
{
	struct sender s[3] = { { .r = r }, { .r = r }, { .r = r } };
	pthread_t thread[3];
	u32 before;

	ENTER(r, halt_loop);
	go(r);
	for (unsigned i = 0; i < 3; i++)
		pthread_create(&thread[i], NULL, send_thread, &s[i]);
	for (u32 i = 1; i <= 2000; i++) {
		lapic_post(r->lapic[0], VECTOR, false);
		if (i % 500 == 0)
			usleep(1000);
	}
	/* On a busy host they may have hardly begun. */
	until(r, 2, 1);
	for (unsigned i = 0; i < 3; i++) {
		__atomic_store_n(&s[i].stop, true, __ATOMIC_SEQ_CST);
		pthread_join(thread[i], NULL);
	}
	until(r, 1, 1);
	usleep(2000);
	before = count(r, 1);
	lapic_post(r->lapic[0], VECTOR, false);
	until(r, 1, before + 1);
	stop(r);
}

/* ---- HLT, with something else to wait for ---- */

/* A pipe; each byte in it is an interrupt. Only every other time there is a need. */
struct idle {
	struct rig *r;
	int pipe[2];
	struct pollfd fds[2];
	unsigned asked, ended;
};

static bool idle_begin(void *opaque, struct vm_wait *w)
{
	struct idle *i = opaque;

	if (i->asked++ % 4 == 3)
		return false;
	i->fds[0] = (struct pollfd){ .fd = w->wake, .events = POLLIN };
	i->fds[1] = (struct pollfd){ .fd = i->pipe[0], .events = POLLIN };
	w->fds = i->fds;
	w->count = 2;
	w->timeout = i->asked & 1 ? 1 : -1;
	w->of = i;
	return true;
}

static void idle_end(void *opaque, const struct vm_wait *w)
{
	struct idle *i = opaque;
	u8 byte;

	assert_ptr_equal(w->of, i);
	i->ended++;
	if (i->fds[1].revents) {
		assert_int_equal(read(i->pipe[0], &byte, 1), 1);
		lapic_post(i->r->lapic[0], VECTOR, false);
	}
}

static void idle_open(struct idle *i, struct rig *r)
{
	struct vm_idle hooks = { idle_begin, idle_end, i };

	*i = (struct idle){ .r = r };
	assert_int_equal(pipe(i->pipe), 0);
	vm_on_idle(r->vm, &hooks);
}

static void idle_close(struct idle *i)
{
	assert_true(i->ended > 0);
	close(i->pipe[0]);
	close(i->pipe[1]);
}

/* From the pipe, from another thread, and the end, which finds it waiting. */
FOR_ALL(halted_cpu_waits_for_descriptors, 1)
{
	struct idle idle;

	idle_open(&idle, r);
	ENTER(r, halt_loop);
	go(r);
	for (u32 i = 1; i <= 1000; i++) {
		if (i % 3)
			assert_int_equal(write(idle.pipe[1], "x", 1), 1);
		else
			lapic_post(r->lapic[0], VECTOR, false);
		for (unsigned spins = 0; count(r, 1) < i; spins++) {
			/* A CPU on its futex does not see the pipe. */
			if (spins % 100 == 99)
				vcpu_kick(vm_vcpu(r->vm, 0), EV_FLUSH);
			sched_yield();
			if (spins > 20000000)
				fail_msg("%s: interrupt %u got lost", r->e->name, i);
		}
		for (volatile unsigned n = 0; n < i % 400; n++)
			;
	}
	stop(r);
	idle_close(&idle);
}

FOR_ALL(its_timer_wakes_it_then, 1)
{
	struct idle idle;

	idle_open(&idle, r);
	ENTER(r, halt_for_timer);
	go(r);
	until(r, 1, 3000);
	stop(r);
	idle_close(&idle);
}

/* ---- running code ---- */

FOR_ALL(interrupt_comes_into_a_loop, 1)
{
	ENTER(r, spin);
	go(r);
	until(r, 0, 1000);
	for (u32 i = 1; i <= 50; i++) {
		lapic_post(r->lapic[0], VECTOR, false);
		until(r, 1, i);
	}
	/* It goes on. */
	until(r, 0, count(r, 0) + 1000);
	stop(r);
}

FOR_ALL(interrupt_waits_for_sti, 1)
{
	u32 at;

	ENTER(r, wait_then_sti);
	go(r);
	until(r, 0, 100);
	lapic_post(r->lapic[0], VECTOR, false);
	at = count(r, 0);
	until(r, 0, at + 10000);
	assert_int_equal(count(r, 1), 0);
	__atomic_store_n((u32 *)(void *)(r->ram + COUNT(4)), 1, __ATOMIC_SEQ_CST);
	until(r, 1, 1);
	until(r, 5, 1);
	assert_int_equal(count(r, 1), 1);
	stop(r);
}

FOR_ALL(nmi_comes_with_interrupts_off, 1)
{
	ENTER(r, wait_then_sti);
	go(r);
	until(r, 0, 100);
	for (u32 i = 1; i <= 20; i++) {
		vcpu_apic_event(vm_vcpu(r->vm, 0), LAPIC_EV_NMI);
		until(r, 2, i);
	}
	stop(r);
}

static void tick(void *opaque, vns_t deadline)
{
	(void)deadline;
	++*(unsigned *)opaque;
}

/* Nobody runs timers here, as when the host does not let the main thread run. */
FOR_ALL(reading_the_tsc_fires_late_timers, 1)
{
	struct vcpu *v = vm_vcpu(r->vm, 0);
	unsigned ticks = 0;
	struct timer t;

	timer_init(&t, r->clock, tick, &ticks);
	timer_arm(&t, 0);
	usleep(2000);
	v->platform->tsc(v->platform_opaque);
	assert_int_equal(ticks, 1);
}

/* Nobody waits for timers here: the CPU's own thread hears its own. */
FOR_ALL(halted_cpu_wakes_by_its_timer, 1)
{
	u32 rounds;

	ENTER(r, halt_for_timer);
	go(r);
	until(r, 1, 20000);
	assert_int_equal(clock_next_deadline(r->clock), VNS_NEVER);
	stop(r);
	/* One that is left over is not forgotten, and heard when the thread is there
	 * again.
	 */
	rounds = count(r, 1);
	usleep(1000);
	clock_run_timers(r->clock);
	assert_int_equal(clock_next_deadline(r->clock), VNS_NEVER);
	__atomic_store_n(&r->ended, 0, __ATOMIC_SEQ_CST);
	go(r);
	until(r, 1, rounds + 1000);
	stop(r);
}

FOR_ALL(timer_comes_into_a_loop, 1)
{
	u32 ticks;

	ENTER(r, spin_for_timer);
	go(r);
	until(r, 1, 1000);
	/* It goes on. */
	until(r, 0, count(r, 0) + 1000);
	/* No ticks while time stands still, and then again. */
	clock_stop(r->clock);
	usleep(2000);
	ticks = count(r, 1);
	usleep(5000);
	assert_int_equal(count(r, 1), ticks);
	clock_start(r->clock);
	until(r, 1, ticks + 1000);
	stop(r);
}

/* ---- the end ---- */

static void ends_soon(struct rig *r)
{
	struct timespec a, b;

	usleep(3000);
	clock_gettime(CLOCK_MONOTONIC, &a);
	vm_end(r->vm, VM_STOPPED);
	assert_int_equal(vm_join(r->vm), VM_STOPPED);
	clock_gettime(CLOCK_MONOTONIC, &b);
	/* Generous: the host may be busy. */
	assert_in_range(b.tv_sec - a.tv_sec, 0, 3);
}

FOR_ALL(end_stops_a_guest_that_spins, 1)
{
	ENTER(r, spin);
	go(r);
	ends_soon(r);
	ENTER(r, spin_one_instruction);
	go(r);
	ends_soon(r);
	ENTER(r, spin_rep);
	go(r);
	ends_soon(r);
}

FOR_ALL(end_stops_a_guest_that_sleeps, 2)
{
	ENTER(r, halt_for_ever);
	go(r);
	until(r, 0, 1);
	stop(r);
}

/* Holds the CPU up until it is told that the machine ends. */
static void slow_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct rig *r = dev;

	(void)off;
	(void)val;
	(void)size;
	for (unsigned ms = 0;
	     ms < 10000 && !__atomic_load_n(&r->ending, __ATOMIC_SEQ_CST); ms++)
		usleep(1000);
	le_store(r->ram + COUNT(1), __atomic_load_n(&r->ending, __ATOMIC_SEQ_CST), 4);
}

static u64 slow_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	(void)off;
	(void)size;
	return 0;
}

/* Who has to let CPUs go hears of the end before they have left. */
FOR_ALL(end_is_told_while_a_device_holds_a_cpu_up, 1)
{
	static const struct io_ops slow = { slow_read, slow_write, IO_1 };
	const char *owner;

	assert_int_equal(io_ports_add(r->ports, 0x500, 1, "slow", &slow, r, &owner), 0);
	ENTER(r, ask_a_device);
	go(r);
	until(r, 0, 1);
	usleep(3000);
	stop(r);
	assert_int_equal(count(r, 1), 1);
}

/* The first reason stays, and the callback comes once. */
FOR_ALL(first_reason_of_the_end_stays, 1)
{
	ENTER(r, spin);
	go(r);
	until(r, 0, 1);
	vm_end(r->vm, VM_POWEROFF);
	vm_end(r->vm, VM_RESET);
	assert_int_equal(vm_join(r->vm), VM_POWEROFF);
	vm_end(r->vm, VM_STOPPED);
	assert_int_equal(vm_join(r->vm), VM_POWEROFF);
	assert_int_equal(r->ended, 1);
}

/* Without a reset in between it goes on where it was, also in a HLT. */
FOR_ALL(machine_goes_on_after_a_stop, 1)
{
	ENTER(r, halt_loop);
	for (u32 i = 1; i <= 20; i++) {
		__atomic_store_n(&r->ended, 0, __ATOMIC_SEQ_CST);
		go(r);
		until(r, 0, i);
		if (i & 1)
			usleep(1000);
		lapic_post(r->lapic[0], VECTOR, false);
		until(r, 1, i);
		stop(r);
	}
}

FOR_ALL(triple_fault_ends_the_machine, 2)
{
	ENTER(r, bad_opcode);
	go(r);
	assert_int_equal(vm_join(r->vm), VM_TRIPLE_FAULT);
	assert_ptr_equal(vm_fault_vcpu(r->vm), vm_vcpu(r->vm, 0));
	assert_int_equal(vm_vcpu(r->vm, 0)->activity, ACT_SHUTDOWN);
	/* And after a reset all is well again. */
	ENTER(r, spin);
	assert_null(vm_fault_vcpu(r->vm));
	go(r);
	until(r, 0, 1);
	stop(r);
}

FOR_ALL(machine_can_be_started_again_and_again, 2)
{
	for (unsigned i = 0; i < 30; i++) {
		if (i & 1)
			ENTER(r, spin);
		else
			ENTER(r, halt_loop);
		go(r);
		if (i % 3)
			until(r, 0, 1);
		stop(r);
	}
}

/* ---- INIT and SIPI ---- */

static void send_to(struct rig *r, unsigned cpu, unsigned mode, unsigned vector)
{
	struct apic_msg m = { .dest = cpu, .mode = (u8)mode, .vector = (u8)vector };

	apic_bus_send(r->bus, NULL, &m);
}

static bool counts(struct rig *r, unsigned n)
{
	u32 at = count(r, n);

	for (unsigned ms = 0; ms < 300; ms++) {
		usleep(1000);
		if (count(r, n) != at)
			return true;
	}
	return false;
}

FOR_ALL(second_cpu_waits_for_sipi, 2)
{
	ENTER(r, spin);
	go(r);
	until(r, 0, 1);
	/* Neither an interrupt nor an NMI gets it going. */
	send_to(r, 1, APIC_DM_NMI, 0);
	assert_false(counts(r, 3));
	assert_int_equal(count(r, 2), 0);
	send_to(r, 1, APIC_DM_STARTUP, 5);
	until(r, 3, 1);
	assert_int_equal(vm_vcpu(r->vm, 1)->index, 1);
	stop(r);
	assert_int_equal(vm_vcpu(r->vm, 1)->seg[CS].sel, 0x500);
}

/* SIPI right behind INIT, a hundred times: neither is lost. */
FOR_ALL(init_and_sipi_back_to_back, 2)
{
	ENTER(r, spin);
	go(r);
	for (unsigned i = 0; i < 100; i++) {
		send_to(r, 1, APIC_DM_INIT, 0);
		send_to(r, 1, APIC_DM_STARTUP, 5);
		until(r, 3, count(r, 3) + 1);
	}
	stop(r);
}

/* One that runs forgets a SIPI at once: it must not start after the next INIT. */
FOR_ALL(sipi_to_a_running_cpu_is_forgotten, 2)
{
	ENTER(r, spin);
	go(r);
	send_to(r, 1, APIC_DM_STARTUP, 5);
	until(r, 3, 1);
	for (unsigned i = 0; i < 3; i++) {
		send_to(r, 1, APIC_DM_STARTUP, 5);
		assert_true(counts(r, 3));
		send_to(r, 1, APIC_DM_INIT, 0);
		/* It may run on for a moment. */
		if (counts(r, 3))
			assert_false(counts(r, 3));
		send_to(r, 1, APIC_DM_STARTUP, 5);
		until(r, 3, count(r, 3) + 1);
	}
	stop(r);
}

/* Is the TLB asked in vain for this access to 3000h? */
static bool misses(struct vcpu *v, bool write)
{
	u64 before = v->stats->tlb_misses, val;

	assert_true(write ? mem_write(v, DS, 0x3000, 4, 1)
			  : mem_read(v, DS, 0x3000, 4, &val));
	return v->stats->tlb_misses != before;
}

/* Whoever decodes the first code of a page takes a CPU that does not run its write entry
 * of it itself. */
FOR_ALL(write_entry_of_a_stopped_cpu_is_taken, 2)
{
	struct vcpu *v = vm_vcpu(r->vm, 0), *other = vm_vcpu(r->vm, 1);

	ENTER(r, spin);
	assert_true(mem_write(other, DS, 0x3000, 4, 1));
	v->guard_others(v, 0x2000);
	assert_false(misses(other, true));
	v->guard_others(v, 0x3000);
	assert_false(misses(other, false));
	assert_true(misses(other, true));
}

/* Two that keep asking each other, while one of them is stopped or both are. */
FOR_ALL(cpus_that_ask_each_other_end, 2)
{
	for (unsigned i = 0; i < 20; i++) {
		ENTER(r, make_code);
		put_code(r, SIPI_PAGE, make_code_too, make_code_too_end);
		go(r);
		send_to(r, 1, APIC_DM_STARTUP, 5);
		until(r, 0, 200);
		until(r, 3, 200);
		send_to(r, 1, APIC_DM_INIT, 0);
		until(r, 0, count(r, 0) + 200);
		send_to(r, 1, APIC_DM_STARTUP, 5);
		usleep(i * 100);
		stop(r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(halted_cpu_wakes_by_an_interrupt),
		cmocka_unit_test(kick_for_nothing_does_not_end_a_halt),
		cmocka_unit_test(nmi_wakes_a_halt_with_interrupts_off),
		cmocka_unit_test(wake_up_is_never_lost),
		cmocka_unit_test(kicks_of_several_threads_at_once),
		cmocka_unit_test(halted_cpu_waits_for_descriptors),
		cmocka_unit_test(its_timer_wakes_it_then),
		cmocka_unit_test(interrupt_comes_into_a_loop),
		cmocka_unit_test(interrupt_waits_for_sti),
		cmocka_unit_test(nmi_comes_with_interrupts_off),
		cmocka_unit_test(reading_the_tsc_fires_late_timers),
		cmocka_unit_test(halted_cpu_wakes_by_its_timer),
		cmocka_unit_test(timer_comes_into_a_loop),
		cmocka_unit_test(end_stops_a_guest_that_spins),
		cmocka_unit_test(end_stops_a_guest_that_sleeps),
		cmocka_unit_test(end_is_told_while_a_device_holds_a_cpu_up),
		cmocka_unit_test(first_reason_of_the_end_stays),
		cmocka_unit_test(machine_goes_on_after_a_stop),
		cmocka_unit_test(triple_fault_ends_the_machine),
		cmocka_unit_test(machine_can_be_started_again_and_again),
		cmocka_unit_test(second_cpu_waits_for_sipi),
		cmocka_unit_test(init_and_sipi_back_to_back),
		cmocka_unit_test(sipi_to_a_running_cpu_is_forgotten),
		cmocka_unit_test(write_entry_of_a_stopped_cpu_is_taken),
		cmocka_unit_test(cpus_that_ask_each_other_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
