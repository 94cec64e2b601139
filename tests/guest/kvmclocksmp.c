/*
 * KVM's clock on several CPUs: it is one, whosever structure is read while the flag says
 * so and one's own always; a CPU that writes its TSC; INIT.
 *
 * Linux, Documentation/virt/kvm/x86/msr.rst. That INIT ends it is KVM's.
 */
#include "kvmclock.h"
#include "smp.h"

static PAGED u8 memory[CPUS_MAX * 64];

static volatile struct system_time *of(unsigned n)
{
	return (volatile struct system_time *)(memory + 64 * n);
}

static void enable(word n)
{
	wrmsr(KVM_SYSTEM_TIME_NEW, (word)of((unsigned)n) | 1);
}

static void disable(word n)
{
	(void)n;
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

static void run_and_wait(unsigned n, void (*fn)(word arg), word arg)
{
	smp_run(n, fn, arg);
	smp_wait(n);
}

static unsigned cpus;

static bool begin(void)
{
	if (!(kvm_features() & HAS_CLOCK2)) {
		skip("not offered");
		return false;
	}
	cpus = smp_start();
	if (cpus < 2) {
		skip("one CPU");
		return false;
	}
	enable(0);
	run_and_wait(1, enable, 1);
	return true;
}

static void end(void)
{
	disable(0);
	run_and_wait(1, disable, 1);
}

static volatile u64 got;

static void read_msr(word msr)
{
	got = rdmsr((u32)msr);
}

static void write_wall_clock(word at)
{
	wrmsr(KVM_WALL_CLOCK, at);
}

static void whose_msrs(void)
{
	if (!begin())
		return;
	row("system time is a CPU's own");
	run_and_wait(1, read_msr, KVM_SYSTEM_TIME_NEW);
	want_equal(got, (word)of(1) | 1);
	want_equal(rdmsr(KVM_SYSTEM_TIME_NEW), (word)of(0) | 1);
	row("the wall clock is the machine's");
	run_and_wait(1, write_wall_clock, (word)of(2));
	want_equal(rdmsr(KVM_WALL_CLOCK), (word)of(2));
	end();
}

/* ---- monotonic ---- */

static volatile u32 turn;
static volatile u64 passed; /* the last that anybody read */
static volatile unsigned back;
static volatile bool own; /* read one's own structure, else CPU 0's */

#define TURNS 4000

/* They take turns; each has to read no less than the other did. */
static void play(word n)
{
	for (u32 t = (u32)n; t < TURNS; t += 2) {
		u64 now;

		while (turn != t)
			pause();
		now = clock_read(of(own ? (unsigned)n : 0));
		if (now < passed)
			back++;
		passed = now;
		turn = t + 1;
	}
}

static void compare(bool by_own)
{
	turn = back = 0;
	passed = 0;
	own = by_own;
	smp_run(1, play, 1);
	play(0);
	smp_wait(1);
	want_equal(back, 0);
	want(passed);
}

static void set_tsc(word val)
{
	wrmsr(IA32_TSC, val);
}

static void set_adjust(word val)
{
	wrmsr(IA32_TSC_ADJUST, val);
}

/* Of all but this CPU; the flag comes with the last. */
static void set_adjusts(word val)
{
	for (unsigned n = 1; n < cpus; n++) {
		want_equal(of(0)->flags, 0);
		run_and_wait(n, set_adjust, val);
	}
}

static void one_clock(void)
{
	u8 stable = kvm_features() & HAS_STABLE ? 1 : 0;

	if (!begin())
		return;
	row("the flag is set in both");
	want_equal(of(0)->flags, stable);
	want_equal(of(1)->flags, stable);
	if (stable) {
		row("both by the structure of the first");
		compare(false);
	}
	row("each by its own");
	compare(true);
	row("a CPU writes its TSC: the flag goes");
	run_and_wait(1, set_tsc, 12345);
	want_equal(of(0)->flags, 0);
	want_equal(of(1)->flags, 0);
	row("each by its own, then");
	compare(true);
	row("this one writes its TSC too");
	wrmsr(IA32_TSC, ~0ull);
	want_equal(of(0)->flags, 0);
	compare(true);
	if (HAS_TSC_ADJUST) {
		row("in step again: the flag comes back");
		wrmsr(IA32_TSC_ADJUST, 0x1234);
		set_adjusts(0x1234);
		want_equal(of(0)->flags, stable);
		want_equal(of(1)->flags, stable);
		if (stable)
			compare(false);
		wrmsr(IA32_TSC_ADJUST, 0);
		want_equal(of(1)->flags, 0);
		set_adjusts(0);
		want_equal(of(1)->flags, stable);
	}
	end();
}

/* ---- while another CPU has them written ---- */

static volatile bool quit;
static volatile u32 changes;

static void disturb(word n)
{
	(void)n;
	while (!quit) {
		wrmsr(IA32_TSC_ADJUST, 1000000000000);
		wrmsr(IA32_TSC_ADJUST, 0);
		changes++;
	}
}

static void written_by_another(void)
{
	u64 last;

	if (!HAS_TSC_ADJUST) {
		skip("no IA32_TSC_ADJUST");
		return;
	}
	if (!begin())
		return;
	quit = false;
	changes = 0;
	smp_run(1, disturb, 1);
	last = clock_read(of(0));
	for (unsigned i = 0; i < 30000 || changes < 100; i++) {
		u64 now = clock_read(of(0));

		if (now < last || now - last > 60000000000)
			fail("from %llx to %llx", last, now);
		checked();
		last = now;
	}
	quit = true;
	smp_wait(1);
	end();
}

/* ---- INIT ---- */

static void init_ends_it(void)
{
	u32 version;

	if (!begin())
		return;
	run_and_wait(1, enable, 1);
	smp_restart(1);
	row("the MSR is 0");
	run_and_wait(1, read_msr, KVM_SYSTEM_TIME_NEW);
	want_equal(got, 0);
	row("memory is not written any more");
	version = of(1)->version;
	run_and_wait(1, set_tsc, 1);
	want_equal(of(1)->version, version);
	row("that of other CPUs is");
	want_equal(rdmsr(KVM_SYSTEM_TIME_NEW), (word)of(0) | 1);
	want_equal(of(0)->flags, 0);
	row("and it can be had again");
	run_and_wait(1, enable, 1);
	want(of(1)->version != version);
	compare(true);
	if (HAS_TSC_ADJUST)
		run_and_wait(1, set_adjust, 0);
	end();
}

const struct test_case cases[] = {
	CASE(whose_msrs, "KVM msr.rst"),
	CASE(one_clock, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(written_by_another, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(init_ends_it, "KVM"),
	CASES_END,
};
