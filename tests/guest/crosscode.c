/*
 * Code that another processor changes: in every state that the one that runs it and the
 * one that writes can be in.
 *
 * SDM volume 3 section 8.1.3 (cross-modifying code): whoever runs it waits until it is
 * told, and executes a serializing instruction before. What is asked here beyond that is
 * what operating systems rely on: one byte changed under a running loop is the old or the
 * new one.
 */
#include "page.h"
#include "smp.h"

static unsigned cpus;
static volatile u32 violations;
static volatile u32 acknowledged[CPUS_MAX];

#define CODE_PAGES 200
static PAGED u8 code[CODE_PAGES][4096];
static volatile u32 version __attribute__((aligned(64)));

static unsigned me(void)
{
	return (u32)(cpuid(1, 0).b >> 24);
}

static bool start(void)
{
	cpus = smp_start();
	if (cpus < 2)
		skip("one CPU");
	violations = 0;
	version = 0;
	for (unsigned n = 0; n < CPUS_MAX; n++)
		acknowledged[n] = 0;
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

/* MOV EAX, imm32; RET. The opcode last, as a CPU may run it meanwhile. */
static void put_mov(volatile u8 *at, u32 imm)
{
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (u8)(imm >> (8 * i));
	at[5] = 0xc3;
	at[0] = 0xb8;
}

static u32 call(const volatile void *p)
{
	return ((u32(*)(void))(word)p)();
}

static void serialize(void)
{
	cpuid(0, 0);
}

/* Tell all, and wait until they have run it. */
static void publish(u32 v)
{
	version = v;
	for (unsigned n = 1; n < cpus; n++)
		while (acknowledged[n] != v)
			pause();
}

/* The protocol of the manual: wait for the flag, serialize, run. Until 'last'. */
static void run_versions(word last)
{
	u32 done = 0;

	while (done != last) {
		u32 v = version;

		if (v == done) {
			pause();
			continue;
		}
		serialize();
		if (call(code[0]) != v)
			violations++;
		done = v;
		acknowledged[me()] = v;
	}
}

static void same_mapping(void)
{
	if (!start())
		return;
	others(run_versions, 300);
	for (u32 i = 1; i <= 300; i++) {
		put_mov(code[0], i);
		publish(i);
	}
	join();
	want_equal(violations, 0);
}

static void other_mapping(void)
{
	volatile u8 *alias = (volatile u8 *)USER(code[0]);

	if (!start())
		return;
	others(run_versions, 300);
	for (u32 i = 1; i <= 300; i++) {
		/* Now and then by both, and read before. */
		put_mov(i % 3 ? alias : code[0], i);
		want_equal(alias[1], i & 0xff);
		publish(i);
	}
	join();
	want_equal(violations, 0);
}

/*
 * The page has code of both: that the writer's own goes, which is all it has there, must
 * not make him forget that of others.
 */
#define MINE (code[0] + 2048)

static void two_functions_in_a_page(void)
{
	if (!start())
		return;
	others(run_versions, 200);
	for (u32 i = 1; i <= 200; i++) {
		put_mov(MINE, i);
		want_equal(call(MINE), i);
		put_mov(MINE, 0);
		put_mov(code[0], i);
		publish(i);
	}
	join();
	want_equal(violations, 0);
}

/* The page is data of each CPU too, which never stops writing there. */
#define OWN(n) (*(volatile u64 *)(void *)&code[0][2048 + 64 * (n)])
#define COMMON (*(volatile u64 *)(void *)&code[0][1024])

static void run_and_write(word last)
{
	u32 done = 0;
	unsigned n = me();

	while (done != last) {
		u32 v = version;

		OWN(n)++;
		__asm__ volatile("lock incq %0" : "+m"(COMMON) : : "cc");
		if (v == done)
			continue;
		serialize();
		if (call(code[0]) != v)
			violations++;
		done = v;
		acknowledged[n] = v;
	}
}

static void code_and_data_in_a_page(void)
{
	u64 sum = 0;

	if (!start())
		return;
	COMMON = 0;
	for (unsigned n = 0; n < cpus; n++)
		OWN(n) = 0;
	others(run_and_write, 100);
	for (u32 i = 1; i <= 100; i++) {
		put_mov(code[0], i);
		publish(i);
	}
	join();
	want_equal(violations, 0);
	for (unsigned n = 0; n < cpus; n++)
		sum += OWN(n);
	want_equal(COMMON, sum);
}

/*
 * All CPUs write code into pages of their own, and then all run all of it, beginning with
 * each other's: pages become code while those that may write to them want the same of
 * others.
 */
static volatile u32 arrived __attribute__((aligned(64)));

static void meet(u32 *round)
{
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	*round += cpus;
	while (arrived < *round)
		pause();
}

#define OWN_PAGE(n, i) PHYS(TEST_PA + (((n)*64 + (i)) << 12))

static void write_and_run_all(word arg)
{
	unsigned n = me();
	u32 round = 0;

	(void)arg;
	for (u32 i = 0; i < 128; i++) {
		put_mov(OWN_PAGE(n, i & 63), i << 8 | n);
		meet(&round);
		serialize();
		for (unsigned k = 1; k <= cpus; k++) {
			unsigned who = (n + k) % cpus;

			if (call(OWN_PAGE(who, i & 63)) != (i << 8 | who))
				violations++;
		}
		meet(&round);
		put_mov(OWN_PAGE(n, i & 63), ~i << 8 | n);
		meet(&round);
		serialize();
		for (unsigned who = 0; who < cpus; who++)
			if (call(OWN_PAGE(who, i & 63)) != (~i << 8 | who))
				violations++;
		meet(&round);
	}
}

static void all_write_all_run(void)
{
	if (!start())
		return;
	arrived = 0;
	others(write_and_run_all, 0);
	write_and_run_all(0);
	join();
	want_equal(violations, 0);
}

/* More pages at once than anybody keeps a list of. */
static void run_all_pages(word last)
{
	u32 done = 0;

	while (done != last) {
		u32 v = version;

		if (v == done) {
			pause();
			continue;
		}
		serialize();
		for (u32 i = 0; i < CODE_PAGES; i++)
			if (call(code[i] + (i & 63) * 16) != v * 1000 + i)
				violations++;
		done = v;
		acknowledged[me()] = v;
	}
}

static void many_pages(void)
{
	if (!start())
		return;
	others(run_all_pages, 20);
	for (u32 v = 1; v <= 20; v++) {
		for (u32 i = 0; i < CODE_PAGES; i++)
			put_mov(code[i] + (i & 63) * 16, v * 1000 + i);
		publish(v);
	}
	join();
	want_equal(violations, 0);
}

/* It halts while its code is changed, and is woken for it: the IPI serializes. */
static volatile u32 woken[CPUS_MAX];

static void on_wake(struct frame *f)
{
	(void)f;
	woken[me()]++;
	eoi();
}

static void run_when_woken(word last)
{
	unsigned n = me();

	for (u32 i = 1; i <= last; i++) {
		while (woken[n] < i)
			sti_hlt();
		if (call(code[0]) != i)
			violations++;
		acknowledged[n] = i;
	}
}

static void halted(void)
{
	if (!start())
		return;
	hook[0x60] = on_wake;
	for (unsigned n = 0; n < cpus; n++)
		woken[n] = 0;
	others(run_when_woken, 60);
	for (u32 i = 1; i <= 60; i++) {
		if (i & 1)
			wait_ms(1);
		put_mov(code[0], i);
		for (unsigned n = 1; n < cpus; n++)
			send_ipi(smp_id(n), 0x4000 | 0x60);
		for (unsigned n = 1; n < cpus; n++)
			while (acknowledged[n] != i)
				pause();
	}
	join();
	want_equal(violations, 0);
	hook[0x60] = NULL;
}

/* It waits for SIPI, with code decoded and with pages that it wrote to. */
static void run_once(word v)
{
	put_mov(code[1], (u32)v);
	if (call(code[0]) != v)
		violations++;
	acknowledged[me()] = (u32)v;
}

static void waiting_for_sipi(void)
{
	if (!start())
		return;
	for (u32 i = 1; i <= 10; i++) {
		put_mov(code[0], i);
		smp_run(1, run_once, i);
		smp_wait(1);
		want_equal(acknowledged[1], i);
		send_ipi(smp_id(1), 0x4500);
		wait_ms(1);
		want_equal(call(code[1]), i);
		put_mov(code[0], 99);
		want_equal(call(code[0]), 99);
		smp_restart(1);
	}
	want_equal(violations, 0);
}

/* One aligned byte changed under a running loop, as kernels do it with INT3. */
static volatile bool stop_loop;

static void loop_code(word arg)
{
	(void)arg;
	while (!stop_loop) {
		u32 v = call(code[0]);

		if (v != 0x11111111 && v != 0x11112211)
			violations++;
	}
}

static void byte_patching(void)
{
	if (!start())
		return;
	put_mov(code[0], 0x11111111);
	stop_loop = false;
	others(loop_code, 0);
	for (unsigned i = 0; i < 2000; i++)
		((volatile u8 *)code[0])[2] = i & 1 ? 0x22 : 0x11;
	stop_loop = true;
	join();
	want_equal(violations, 0);
}

/* A loop that does nothing else ends when another CPU takes its jump away. */
static void loop_for_ever(word arg)
{
	(void)arg;
	__asm__ volatile("call *%0" : : "r"((word)code[0]) : "memory");
}

static void endless_loop(void)
{
	if (!start())
		return;
	for (unsigned i = 0; i < 50; i++) {
		volatile u8 *at = code[0];

		at[0] = 0xeb; /* JMP to itself */
		at[1] = 0xfe;
		at[2] = 0xc3;
		others(loop_for_ever, 0);
		if (i & 1)
			wait_ms(1);
		at[1] = 0x00;
		join();
	}
}

const struct test_case cases[] = {
	CASE(same_mapping, "SDM 3 8.1.3"),
	CASE(other_mapping, "SDM 3 8.1.3"),
	CASE(two_functions_in_a_page, "SDM 3 8.1.3"),
	CASE(code_and_data_in_a_page, "SDM 3 8.1.3"),
	CASE(all_write_all_run, "SDM 3 8.1.3"),
	CASE(many_pages, "SDM 3 8.1.3"),
	CASE(halted, "SDM 3 8.1.3"),
	CASE(waiting_for_sipi, "SDM 3 8.1.3"),
	CASE(byte_patching, "SDM 3 8.1.3"),
	CASE(endless_loop, "SDM 3 8.1.3"),
	CASES_END,
};
