/*
 * User code on one CPU (direct.h), and another CPU that executes what it writes, writes
 * what it executes, and takes its pages away: what direct execution must not change.
 *
 * SDM volume 3 sections 8.1.3 (cross-modifying code) and 4.10.5 (TLB shootdown).
 */
#include "direct.h"
#include "smp.h"

#define PAGES     64
#define FUNCTIONS 400 /* the first of PAGES pages */
#define SHOOTDOWN 0x71

/* Its constant is aligned. */
SNIPPET(function, "nop; nop; nop; mov $0, %eax; ret");

/* The other CPU's. */
static volatile u32 rounds_done, bad;
static volatile bool quit;

static u32 call(unsigned page)
{
	return ((u32(*)(void))(word)AT(page))();
}

/* Word 1 of DATA: the user's round; word 0: the last that was looked at. */
static void other_executes(word pages)
{
	u32 r = 0;

	while (!quit) {
		u32 now = (u32)data_at(DATA)[1];

		if (now == r)
			continue;
		r = now;
		for (unsigned i = 0; i < pages; i++)
			if (call(FUNCTIONS + i) != r)
				bad++;
		rounds_done++;
		*data_at(DATA) = r;
	}
}

/* RDI: the functions; R9: how many; RDX: rounds. It calls each as well. */
SNIPPET(write_all, "1: inc %ecx; mov %rdi, %rsi; mov %r9d, %r8d\n"
		   "2: mov %ecx, 4(%rsi); call *%rsi; cmp %eax, %ecx; je 3f; inc %r10\n"
		   "3: add $4096, %rsi; dec %r8d; jnz 2b\n\t"
		   "mov %rcx, 8(%rbx)\n"
		   "4: pause; cmp %rcx, (%rbx); jne 4b; cmp %edx, %ecx; jne 1b; ud2");

static bool begin_smp(void)
{
	if (!begin())
		return false;
	if (smp_start() < 2) {
		skip("one CPU");
		return false;
	}
	bad = rounds_done = 0;
	quit = false;
	return true;
}

static void user_writes(unsigned pages)
{
	if (!begin_smp())
		return;
	put_code(CODE, 0, write_all);
	for (unsigned i = 0; i < pages; i++) {
		put_code(FUNCTIONS + i, 0, function);
		map(FUNCTIONS + i, FUNCTIONS + i, ALL);
	}
	data_at(DATA)[0] = data_at(DATA)[1] = 0;
	smp_run(1, other_executes, pages);
	in.r[RDI] = U(FUNCTIONS);
	in.r[R9] = pages;
	in.r[RDX] = pages > 1 ? 20 : 100;
	run();
	quit = true;
	smp_wait(1);
	want_equal(got_vector, UD);
	want_equal(out.r[RCX], in.r[RDX]);
	want_equal(out.r[R10], 0);
	want_equal(rounds_done, in.r[RDX]);
	want_equal(bad, 0);
}

static void user_writes_code(void)
{
	user_writes(1);
}

static void user_writes_much_code(void)
{
	user_writes(PAGES);
}

/* RSI: a function that changes under it. Counts what comes out of order. */
SNIPPET(call_it, "1: call *%rsi; cmp %ecx, %eax; jae 2f; inc %r10\n"
		 "2: mov %eax, %ecx; mov %rcx, (%rbx); cmp %edx, %ecx; jne 1b; ud2");

static void other_writes(word last)
{
	for (u32 n = 1; n <= last; n++) {
		*(volatile u32 *)(AT(FUNCTIONS) + 4) = n;
		while (*data_at(DATA) != n)
			pause();
	}
}

static void code_written_by_another(void)
{
	if (!begin_smp())
		return;
	put_code(CODE, 0, call_it);
	put_code(FUNCTIONS, 0, function);
	map(FUNCTIONS, FUNCTIONS, CODE_BITS);
	*data_at(DATA) = 0;
	smp_run(1, other_writes, 200);
	in.r[RSI] = U(FUNCTIONS);
	in.r[RDX] = 200;
	run();
	smp_wait(1);
	want_equal(got_vector, UD);
	want_equal(out.r[R10], 0);
}

static void on_shootdown(struct frame *f)
{
	(void)f;
	invlpg((void *)U(DATA + 1));
	eoi();
}

/* The page goes, and the CPU that runs the user is told. */
static void other_unmaps(word n)
{
	u64 before = *data_at(DATA + 1);

	while (*data_at(DATA + 1) - before < 1000)
		pause();
	pt[0][DATA + 1] = n & 1 ? 0 : FRAME(DATA + 1) | P | US | NX;
	send_ipi(smp_id(0), SHOOTDOWN);
}

SNIPPET(count_there, "1: incq (%rbx); jmp 1b");

static void shootdown(void)
{
	if (!begin_smp())
		return;
	hook[SHOOTDOWN] = on_shootdown;
	put_code(CODE, 0, count_there);
	in.r[RBX] = U(DATA + 1);
	for (unsigned n = 0; n < 20 && !failed(); n++) {
		u64 count;

		map(DATA + 1, DATA + 1, DATA_BITS);
		smp_run(1, other_unmaps, n);
		run();
		smp_wait(1);
		want_pf(n & 1 ? 6 : 7, U(CODE), U(DATA + 1));
		/* And it is not written to any more. */
		count = *data_at(DATA + 1);
		wait_ms(1);
		want_equal(*data_at(DATA + 1), count);
	}
	hook[SHOOTDOWN] = NULL;
}

const struct test_case cases[] = {
	CASE(user_writes_code, "SDM 3 8.1.3"),
	CASE(user_writes_much_code, "SDM 3 8.1.3"),
	CASE(code_written_by_another, "SDM 3 8.1.3"),
	CASE(shootdown, "SDM 3 4.10.5"),
	CASES_END,
};
