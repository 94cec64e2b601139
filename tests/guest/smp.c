/*
 * Several processors: starting, IPIs, atomicity, memory order, translations and code that
 * another one changes.
 * SDM volume 3 chapters 8 (multiprocessing, memory order), 9.4 (INIT and SIPI), 11.6
 * (IPIs), 4.10.5 (TLB shootdown), 8.1.3 (cross-modifying code).
 */
#include "smp.h"
#include "page.h"

static unsigned cpus;
static volatile unsigned taken[CPUS_MAX][256];

static unsigned me(void)
{
	return (u32)(cpuid(1, 0).b >> 24);
}

static void on_ipi(struct frame *f)
{
	taken[me()][f->vector]++;
	eoi();
}

static bool start(void)
{
	cpus = smp_start();
	for (unsigned v = 0x40; v < 0x80; v++)
		hook[v] = on_ipi;
	if (cpus < 2)
		skip("one CPU");
	return cpus >= 2;
}

static void others(void (*fn)(word), word arg)
{
	for (unsigned n = 1; n < cpus; n++)
		smp_run(n, fn, arg);
}

static void join(void)
{
	for (unsigned n = 1; n < cpus; n++)
		smp_wait(n);
}

static void all_start(void)
{
	if (!start())
		return;
	want_equal(cpus, cpuid(1, 0).b >> 16 & 0xff);
}

/* ---- IPIs ---- */

static volatile bool go;

static void take_ipis(word vector)
{
	while (!go) {
		__asm__ volatile("sti; nop; nop; cli" : : : "memory");
		pause();
	}
	(void)vector;
}

static void halt_for_ipi(word vector)
{
	unsigned n = me();

	while (!taken[n][vector])
		sti_hlt();
}

static void ipis(void)
{
	if (!start())
		return;
	go = false;
	others(take_ipis, 0);
	for (unsigned round = 1; round <= 50; round++) {
		for (unsigned n = 1; n < cpus; n++)
			send_ipi(smp_id(n), 0x4000 | 0x41);
		for (unsigned n = 1; n < cpus; n++)
			while (taken[n][0x41] < round)
				pause();
	}
	/* To all others. */
	lapic_write(LAPIC_ICR, 0xc4000 | 0x42);
	for (unsigned n = 1; n < cpus; n++)
		while (!taken[n][0x42])
			pause();
	want_equal(taken[0][0x42], 0);
	/* Logical, flat: each has its bit, if it set one. */
	go = true;
	join();
	for (unsigned n = 1; n < cpus; n++)
		want_equal(taken[n][0x41], 50);
}

/* A halted CPU wakes. */
static void halted(void)
{
	if (!start())
		return;
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned n = 1; n < cpus; n++)
			taken[n][0x50 + round] = 0;
		others(halt_for_ipi, 0x50 + round);
		if (round & 1)
			wait_ms(2);
		for (unsigned n = 1; n < cpus; n++)
			send_ipi(smp_id(n), 0x4000 | (0x50 + round));
		join();
	}
}

static volatile unsigned nmis[CPUS_MAX];

static void on_nmi(struct frame *f)
{
	(void)f;
	nmis[me()]++;
}

static void spin_for_nmi(word arg)
{
	(void)arg;
	while (!nmis[me()])
		pause();
}

static void nmi(void)
{
	if (!start())
		return;
	hook[NMI] = on_nmi;
	others(spin_for_nmi, 0);
	for (unsigned n = 1; n < cpus; n++)
		send_ipi(smp_id(n), 0x4400);
	join();
	hook[NMI] = NULL;
	want_equal(nmis[0], 0);
}

/* INIT stops a CPU wherever it is; SIPI starts it again; a SIPI to one that runs is
 * nothing. */
static volatile u32 counter[CPUS_MAX];

static void count_for_ever(word n)
{
	for (;;)
		counter[n]++;
}

/* Does it count, within a second? For not to, it must stand still for a while. */
static bool counts(unsigned n)
{
	u32 at = counter[n];

	for (unsigned i = 0; i < 50; i++) {
		wait_ms(20);
		if (counter[n] != at)
			return true;
	}
	return false;
}

static void init_again(void)
{
	if (!start())
		return;
	smp_run(1, count_for_ever, 1);
	want(counts(1));
	send_ipi(smp_id(1), 0x4630);
	want(counts(1));
	send_ipi(smp_id(1), 0x4500);
	/* It may be a moment before the other side gets to it. */
	if (counts(1))
		want(!counts(1));
	smp_restart(1);
	nmis[1] = 1;
	smp_run(1, spin_for_nmi, 0);
	smp_wait(1);
}

/* ---- atomic operations and memory order ---- */

static volatile u32 shared __attribute__((aligned(64)));
static u64 wide[9] __attribute__((aligned(64)));
#define CROSSING ((u8 *)wide + 62)
#define ROUNDS   20000

static void add_locked(word arg)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		__asm__ volatile("lock incl %0" : "+m"(shared) : : "cc");
		/* Across a cache line, and by CMPXCHG8B. */
		__asm__ volatile("lock addl $1, %0"
				 : "+m"(*(volatile u32 *)CROSSING)
				 :
				 : "cc");
		__asm__ volatile("mov (%0), %%eax\n\t"
				 "mov 4(%0), %%edx\n"
				 "1:\tmov %%eax, %%ebx\n\t"
				 "mov %%edx, %%ecx\n\t"
				 "add $1, %%ebx\n\t"
				 "adc $0, %%ecx\n\t"
				 "lock cmpxchg8b (%0)\n\t"
				 "jnz 1b"
				 :
				 : "D"(&wide[2])
				 : "eax", "ebx", "ecx", "edx", "memory", "cc");
	}
	(void)arg;
}

static void atomic(void)
{
	if (!start())
		return;
	shared = 0;
	((volatile u64 *)wide)[2] = 0xffffff00;
	*(volatile u32 *)CROSSING = 0;
	others(add_locked, 0);
	add_locked(0);
	join();
	want_equal(shared, cpus * ROUNDS);
	want_equal(((volatile u64 *)wide)[2], 0xffffff00 + (u64)cpus * ROUNDS);
	want_equal(*(volatile u32 *)CROSSING, cpus * ROUNDS);
}

/* Stores are seen in order: the flag never before the data. */
static volatile u32 data __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static volatile unsigned violations;

static void reader(word arg)
{
	for (;;) {
		u32 f = flag, d = data;

		if (d < f)
			violations++;
		if (f == ROUNDS)
			return;
		(void)arg;
	}
}

static void message_passing(void)
{
	if (!start())
		return;
	data = flag = 0;
	violations = 0;
	others(reader, 0);
	for (u32 i = 1; i <= ROUNDS; i++) {
		data = i;
		flag = i;
	}
	join();
	want_equal(violations, 0);
}

/* With a fence between store and load, two CPUs cannot both miss the other's store. */
static volatile u32 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u32 turn __attribute__((aligned(64))), seen_x, seen_y, ready;

static void store_y(word kind)
{
	for (u32 i = 1; i <= 2000; i++) {
		while (turn != i)
			pause();
		y = i;
		if (kind)
			__asm__ volatile("mfence" : : : "memory");
		else
			__asm__ volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
		seen_x = x;
		__atomic_store_n(&ready, i, __ATOMIC_SEQ_CST);
	}
}

static void store_buffer(void)
{
	if (!start())
		return;
	for (word kind = 0; kind < 2; kind++) {
		x = y = turn = ready = 0;
		smp_run(1, store_y, kind);
		for (u32 i = 1; i <= 2000; i++) {
			turn = i;
			x = i;
			if (kind)
				__asm__ volatile("mfence" : : : "memory");
			else
				__asm__ volatile("lock orl $0, (%%rsp)"
						 :
						 :
						 : "memory", "cc");
			seen_y = y;
			while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) != i)
				pause();
			if (seen_x < i && seen_y < i)
				fail("round %u: neither saw the other's store", i);
		}
		smp_wait(1);
	}
}

/* ---- translations and code ---- */

static volatile u32 acknowledged[CPUS_MAX];
static volatile word shot_va;

static void on_shootdown(struct frame *f)
{
	(void)f;
	invlpg((void *)shot_va);
	eoi();
	acknowledged[me()]++;
}

static volatile u32 epoch __attribute__((aligned(64)));

/* Reads the page all the time; after an acknowledged shootdown it must see the new one.
 */
static void watch_page(word arg)
{
	u32 e, v;

	(void)arg;
	do {
		__asm__ volatile("sti" : : : "memory");
		e = epoch;
		v = *(volatile u32 *)shot_va;
		__asm__ volatile("cli" : : : "memory");
		if (v < e)
			violations++;
	} while (e != 200);
}

static void shootdown(void)
{
	unsigned leaf;

	if (!start())
		return;
	paging_on(PAGING_4, true);
	path_set(leaf = path.levels - 1, TEST_PA, ALL);
	hook[0x45] = on_shootdown;
	shot_va = path.va;
	epoch = 0;
	violations = 0;
	*(volatile u32 *)PHYS(TEST_PA) = 0;
	others(watch_page, 0);
	for (u32 i = 1; i <= 200; i++) {
		u32 pa = TEST_PA + (i & 1) * 0x1000;
		u32 before[CPUS_MAX];

		*(volatile u32 *)PHYS(pa) = i;
		entry_set(leaf, pa | ALL);
		for (unsigned n = 1; n < cpus; n++) {
			before[n] = acknowledged[n];
			send_ipi(smp_id(n), 0x4000 | 0x45);
		}
		for (unsigned n = 1; n < cpus; n++)
			while (acknowledged[n] == before[n])
				pause();
		epoch = i;
	}
	join();
	want_equal(violations, 0);
	hook[0x45] = on_ipi;
}

static PAGED u8 code[4096];
static volatile u32 version __attribute__((aligned(64)));

static void put_mov(u32 imm)
{
	volatile u8 *at = code;

	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (u8)(imm >> (8 * i));
	at[0] = 0xb8;
	at[5] = 0xc3;
}

/* The protocol of the manual: wait for the flag, serialize, run. */
static void run_code(word arg)
{
	u32 done = 0;

	(void)arg;
	while (done != 300) {
		u32 v = version, got;

		if (v == done) {
			pause();
			continue;
		}
		cpuid(0, 0);
		got = ((u32(*)(void))(word)code)();
		if (got != v)
			violations++;
		done = v;
		acknowledged[me()] = v;
	}
}

static void cross_modifying_code(void)
{
	if (!start())
		return;
	violations = 0;
	version = 0;
	for (unsigned n = 0; n < CPUS_MAX; n++)
		acknowledged[n] = 0;
	others(run_code, 0);
	for (u32 i = 1; i <= 300; i++) {
		put_mov(i);
		version = i;
		for (unsigned n = 1; n < cpus; n++)
			while (acknowledged[n] != i)
				pause();
	}
	join();
	want_equal(violations, 0);
}

/* One aligned byte changed under a running loop, as kernels do it with INT3. */
static volatile bool stop_loop;

static void loop_code(word arg)
{
	(void)arg;
	while (!stop_loop) {
		u32 v = ((u32(*)(void))(word)code)();

		if (v != 0x11111111 && v != 0x11112211)
			violations++;
	}
}

static void byte_patching(void)
{
	if (!start())
		return;
	put_mov(0x11111111);
	violations = 0;
	stop_loop = false;
	others(loop_code, 0);
	for (unsigned i = 0; i < 2000; i++)
		((volatile u8 *)code)[2] = i & 1 ? 0x22 : 0x11;
	stop_loop = true;
	join();
	want_equal(violations, 0);
}

/* A and D bits by several CPUs at once: none is lost, and no other bit changes. */
static void touch(word arg)
{
	for (unsigned i = 0; i < 2000; i++) {
		invlpg((void *)shot_va);
		*(volatile u32 *)(shot_va + 64 * arg) = i;
		*(volatile u32 *)(shot_va + 64 * arg);
	}
}

static void accessed_dirty(void)
{
	unsigned leaf;
	u64 e;

	if (!start())
		return;
	paging_on(PAGING_4, true);
	path_set(leaf = path.levels - 1, TEST_PA, ALL);
	shot_va = path.va;
	for (unsigned n = 1; n < cpus; n++)
		smp_run(n, touch, n);
	/* Software bits are changed meanwhile, with LOCK, as an OS would. */
	for (unsigned i = 0; i < 2000; i++) {
		__asm__ volatile("lock xorq %1, %0"
				 : "+m"(*(volatile u64 *)path.entry[leaf])
				 : "r"(BIT(9))
				 : "cc");
		__asm__ volatile("lock xorq %1, %0"
				 : "+m"(*(volatile u64 *)path.entry[leaf])
				 : "r"(BIT(10))
				 : "cc");
	}
	join();
	e = entry_get(leaf);
	want_equal(e & ~(u64)(A | D), TEST_PA | ALL);
	want_equal(e & (A | D), A | D);
}

/* The TSC is one for all. */
static volatile u64 tsc_there;
static volatile u32 tsc_turn;

static void tsc_answer(word arg)
{
	(void)arg;
	for (u32 i = 1; i <= 200; i++) {
		while (tsc_turn != 2 * i - 1)
			pause();
		tsc_there = rdtsc();
		tsc_turn = 2 * i;
	}
}

static void tsc_in_step(void)
{
	if (!start())
		return;
	tsc_turn = 0;
	smp_run(1, tsc_answer, 0);
	for (u32 i = 1; i <= 200; i++) {
		u64 a = rdtsc(), b;

		tsc_turn = 2 * i - 1;
		while (tsc_turn != 2 * i)
			pause();
		b = rdtsc();
		if (tsc_there < a || tsc_there > b)
			fail("round %u: %llx is not between %llx and %llx", i, tsc_there,
			     a, b);
	}
	smp_wait(1);
}

/* ---- the end ---- */

static void triple(word arg)
{
	struct table none = { 0, 0 };

	(void)arg;
	__asm__ volatile("lidt %0\n\tud2" : : "m"(none));
}

static void triple_fault_of_another(void)
{
	if (!start())
		return;
	ends_with("triple");
	smp_run(1, triple, 0);
	wait_ms(1000);
	not_ended();
}

static void power_off_by_another(word arg)
{
	(void)arg;
	power_off();
}

static void power_off_while_spinning(void)
{
	if (!start())
		return;
	for (unsigned n = 2; n < cpus; n++)
		smp_run(n, count_for_ever, n);
	ends_with("poweroff");
	smp_run(1, power_off_by_another, 0);
	for (;;)
		pause();
}

const struct test_case cases[] = {
	CASE(all_start, "SDM 3 9.4.4"),
	CASE(ipis, "SDM 3 11.6"),
	CASE(halted, "SDM 2 HLT"),
	CASE(nmi, "SDM 3 11.6"),
	CASE(init_again, "SDM 3 9.4"),
	CASE(atomic, "SDM 3 8.1"),
	CASE(message_passing, "SDM 3 8.2.3.2"),
	CASE(store_buffer, "SDM 3 8.2.3.4, 8.2.5"),
	CASE(shootdown, "SDM 3 4.10.5"),
	CASE(cross_modifying_code, "SDM 3 8.1.3"),
	CASE(byte_patching, "SDM 3 8.1.3"),
	CASE(accessed_dirty, "SDM 3 4.8"),
	CASE(tsc_in_step, "SDM 3 17.17"),
	CASE_ALONE(triple_fault_of_another, "SDM 3 6.15 #DF"),
	CASE_ALONE(power_off_while_spinning, "ACPI 4.8.3.2"),
	CASES_END,
};
