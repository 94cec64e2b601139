/*
 * Instructions of 64-bit user code that tell about the processor, and do not trap in user
 * mode: they must tell what the guest's processor is, wherever they stand, and however
 * many of them (src/engine/direct/sensitive.h).
 *
 * SDM volume 2. What must be: every want here holds on every engine.
 */
#include "direct.h"

SNIPPET(the_end, "ud2");

static const struct tells {
	const char *name;
	u8 code[5], len;
	word vector; /* NONE: it does not trap */
	bool umip;   /* #GP with UMIP */
} tells[] = {
	{ "cpuid", { 0x0f, 0xa2 }, 2, NONE, false },
	{ "xgetbv", { 0x0f, 0x01, 0xd0 }, 3, NONE, false },
	{ "rdtscp", { 0x0f, 0x01, 0xf9 }, 3, NONE, false },
	{ "rdpid", { 0xf3, 0x0f, 0xc7, 0xf8 }, 4, NONE, false },
	{ "smsw", { 0x0f, 0x01, 0xe0 }, 3, NONE, true },
	{ "smsw ax", { 0x66, 0x0f, 0x01, 0xe0 }, 4, NONE, true },
	{ "smsw rax", { 0x48, 0x0f, 0x01, 0xe0 }, 4, NONE, true },
	{ "smsw r8", { 0x49, 0x0f, 0x01, 0xe0 }, 4, NONE, true },
	{ "smsw mem", { 0x0f, 0x01, 0x23 }, 3, NONE, true },
	{ "sgdt", { 0x0f, 0x01, 0x03 }, 3, NONE, true },
	{ "sidt", { 0x0f, 0x01, 0x0b }, 3, NONE, true },
	{ "lar", { 0x0f, 0x02, 0xc5 }, 3, NONE, false },
	{ "lar rax", { 0x48, 0x0f, 0x02, 0xc5 }, 4, NONE, false },
	{ "lsl", { 0x0f, 0x03, 0xc5 }, 3, NONE, false },
	{ "lsl r8", { 0x4c, 0x0f, 0x03, 0xc5 }, 4, NONE, false },
	{ "vmcall", { 0x0f, 0x01, 0xc1 }, 3, UD, false },
	{ "rdpmc", { 0x0f, 0x33 }, 2, GP, false },
	{ "ldtilecfg", { 0xc4, 0xe2, 0x78, 0x49, 0x03 }, 5, UD, false },
	{ "sttilecfg", { 0xc4, 0xe2, 0x79, 0x49, 0x03 }, 5, UD, false },
	{ "tilerelease", { 0xc4, 0xe2, 0x78, 0x49, 0xc0 }, 5, UD, false },
	{ "tilezero", { 0xc4, 0xe2, 0x7b, 0x49, 0xc0 }, 5, UD, false },
};

/* What the kernel is told by the same instruction, in its own place. */
static void ask_kernel(const struct tells *t, struct regs *r)
{
	static PAGED u8 code[64];
	u64 rax = in.r[RAX], rcx = in.r[RCX], rdx = in.r[RDX], rbx = (word)AT(DATA + 1);
	register u64 r8 __asm__("r8") = in.r[R8];

	copy(code, t->code, t->len);
	code[t->len] = 0xc3;
	__asm__ volatile("push %%rbp; mov %6, %%rbp; call *%5; pop %%rbp"
			 : "+a"(rax), "+c"(rcx), "+d"(rdx), "+b"(rbx), "+r"(r8)
			 : "r"(code), "r"(in.r[RBP])
			 : "memory", "cc");
	r->r[RAX] = rax;
	r->r[RCX] = rcx;
	r->r[RDX] = rdx;
	r->r[RBX] = rbx;
	r->r[R8] = r8;
}

static bool has(const struct tells *t)
{
	if (t->code[2] == 0xf9)
		return HAS_RDTSCP;
	if (t->code[0] == 0xf3)
		return HAS(7, 0, c, 22);
	return true;
}

static void tell_one(const struct tells *t, unsigned at, unsigned page, bool umip)
{
	word vector = t->umip && umip ? GP : t->vector;
	struct regs want = { { 0 }, 0, 0, 0, 0 };
	u32 tsc_aux = (u32)rnd() & 0xfff;

	copy(AT(page) + at, t->code, t->len);
	copy(AT(page) + at + t->len, the_end, 2);
	in.ip = U(page) + at;
	in.r[RBX] = U(DATA);
	unmap_now(page);
	unmap_now(page + 1);
	fill(AT(DATA), 0, 16);
	fill(AT(DATA + 1), 0, 16);
	wrmsr(MSR_TSC_AUX, tsc_aux);
	run();
	checked();
	if (got_vector != (vector == NONE ? UD : vector) ||
	    out.ip != in.ip + (vector == NONE ? t->len : 0)) {
		fail("%s at %x, umip %d: got vector %lx ip %llx", t->name, at, umip,
		     got_vector, out.ip);
		return;
	}
	if (vector != NONE)
		return;
	ask_kernel(t, &want);
	for (unsigned i = 0; i <= R8; i++) {
		bool sum = i == RAX || i == RCX || i == RDX || i == R8 ||
			   (i == RBX && want.r[RBX] != (word)AT(DATA + 1));

		/* The time has gone on. */
		if (t->code[2] == 0xf9 && (i == RAX || i == RDX))
			continue;
		if (sum && out.r[i] != want.r[i]) {
			fail("%s at %x, umip %d: register %u: got %llx want %llx",
			     t->name, at, umip, i, out.r[i], want.r[i]);
			return;
		}
	}
	if (t->code[2] == 0xf9)
		want_equal(out.r[RCX], tsc_aux);
	want_equal(*data_at(DATA), *data_at(DATA + 1));
	want_equal(data_at(DATA)[1], data_at(DATA + 1)[1]);
}

static void tell_all(bool umip, unsigned fillers)
{
	unsigned page = fillers > 1 ? MANY : FEW;
	static const unsigned places[] = {
		0, 1, 777, 4090, 4091, 4092, 4093, 4094, 4095
	};
	static const u32 leaves[] = { 0, 1, 7, 0xd, 0x40000000, 0x80000000, 0x80000002 };

	for (unsigned n = 0; n < ARRAY_SIZE(tells) * ARRAY_SIZE(places) && !failed();
	     n++) {
		const struct tells *t = &tells[n % ARRAY_SIZE(tells)];
		unsigned at = places[n / ARRAY_SIZE(tells)];

		if (!has(t))
			continue;
		fill(AT(page), 0x90, 8192);
		for (unsigned i = 0; i < fillers; i++)
			copy(AT(page) + 1000 + 32 * i, tells[0].code, 2);
		in.r[RAX] = t->code[1] == 0xa2 ? leaves[n % 7] : 0x12345678;
		in.r[RCX] = in.r[RDX] = 0;
		in.r[R8] = rnd();
		in.r[RBP] = n & 1 ? 0x7b : USER_SS;
		tell_one(t, at, page, umip);
	}
}

static void tells_of_the_guest(unsigned fillers)
{
	if (!begin())
		return;
	/* As Linux has it for LSL: whose limit tells. */
	set_gdt(0x78, descriptor(0, 0x54321, D_KDATA | D_DPL(3) | D_DB));
	tell_all(false, fillers);
	if (HAS_UMIP) {
		write_cr4(read_cr4() | CR4_UMIP);
		tell_all(true, fillers);
		write_cr4(read_cr4() & ~(word)CR4_UMIP);
	}
	set_gdt(0x78, 0);
}

static void sensitive_few(void)
{
	tells_of_the_guest(1);
}

static void sensitive_many(void)
{
	tells_of_the_guest(10);
}

/* All in a row, from page to page, over and over. */
SNIPPET(cpuid_pages,
	"1: mov $1, %eax; call *%rsi; add %rcx, %r8; mov $1, %eax; call *%rdi\n\t"
	"add %rcx, %r8; dec %r12; jnz 1b; ud2");
SNIPPET(cpuid_three, "cpuid; mov $1, %eax; cpuid; mov $1, %eax; cpuid; ret");

static void sensitive_pages(void)
{
	u64 c;

	if (!begin_with(cpuid_pages))
		return;
	map(CROWD, CROWD, CODE_BITS);
	map(CROWD + 1, CROWD + 1, CODE_BITS);
	put_code(CROWD, 100, cpuid_three);
	put_code(CROWD + 1, 200, cpuid_three);
	c = cpuid(1, 0).c;
	in.r[RSI] = U(CROWD) + 100;
	in.r[RDI] = U(CROWD + 1) + 200;
	in.r[R12] = 100;
	run();
	want_equal(got_vector, UD);
	want_equal(out.r[R12], 0);
	want_equal(out.r[R8], 200 * c);
}

/* A page that is not executed directly has routines of other code, short and long ones.
 */
SNIPPET(call_often,
	"1: mov %r12, %rcx; call *%rdi; add %rax, %r8; dec %r12; jnz 1b; ud2");
SNIPPET(add_up, "xor %eax, %eax; 1: add %rcx, %rax; dec %rcx; jnz 1b; ret");

static void beside_sensitive_code(void)
{
	u64 n = 3000;

	if (!begin_with(call_often))
		return;
	map(CROWD, CROWD, CODE_BITS);
	fill(AT(CROWD), 0x90, 4096);
	for (unsigned i = 0; i < 10; i++)
		copy(AT(CROWD) + 1000 + 32 * i, tells[0].code, 2);
	put_code(CROWD, 100, add_up);
	in.r[RDI] = U(CROWD) + 100;
	in.r[R12] = n;
	run();
	want_equal(got_vector, UD);
	want_equal(out.r[R12], 0);
	want_equal(out.r[R8], n * (n + 1) * (n + 2) / 6);
}

/* A function that begins where functions do, and one behind it. */
#define FUNCTION 0x110
#define BEHIND   0x170
SNIPPET(cpuid_six, "ret; .skip 15, 0x90; endbr64\n\t"
		   ".rept 6; mov $0x80000002, %eax; cpuid; add %rcx, %r8; .endr\n\t"
		   "ret; .skip 31, 0x90; endbr64; lea (%rdi, %rdi), %rax; ret");
SNIPPET(call_both, "1: call *%rsi; call *%r13; add %rax, %r9; dec %r12; jnz 1b; ud2");
SNIPPET(into_it, "jmp . + 0x110 - 0x80 + 24");

/* Code around a function into a page that is not mapped yet. */
#define put_function(name)                                                               \
	do {                                                                             \
		map(CROWD, CROWD, CODE_BITS);                                            \
		fill(AT(CROWD), 0x90, 4096);                                             \
		put_code(CROWD, FUNCTION - 16, name);                                    \
		unmap_now(CROWD);                                                        \
	} while (0)

/* While it runs its page goes away and comes back now and then. */
static volatile unsigned taken_inside;
static bool take_function(struct frame *f)
{
	word off = f->ip - U(CROWD);

	if (off > FUNCTION && off < BEHIND) {
		taken_inside++;
		unmap(CROWD);
		map(CROWD, CROWD, CODE_BITS);
	}
	return false;
}

static void function_with_many(void)
{
	u64 c, n = 3000;

	if (!begin_with(call_both))
		return;
	put_function(cpuid_six);
	c = cpuid(0x80000002, 0).c;
	in.r[RSI] = U(CROWD) + FUNCTION;
	in.r[R13] = U(CROWD) + BEHIND;
	in.r[RDI] = 21;
	in.r[R12] = n;
	on_tick = take_function;
	run();
	on_tick = NULL;
	want_equal(got_vector, UD);
	want_equal(out.r[R12], 0);
	want_equal(out.r[R8], n * 6 * c);
	want_equal(out.r[R9], n * 42);
}

/* To where it has been interrupted; and from another place of the page. */
static void function_entered_in_the_middle(void)
{
	u64 c;

	if (!begin_with(call_both))
		return;
	c = cpuid(0x80000002, 0).c;
	for (unsigned i = 0; i < 7; i++) {
		put_function(cpuid_six);
		put_code(CROWD, FUNCTION + 4 + 6 * 10, the_end);
		in.ip = U(CROWD) + FUNCTION + 4 + i * 10;
		if (i == 6) {
			put_code(CROWD, 0x80, into_it);
			unmap_now(CROWD);
			in.ip = U(CROWD) + 0x80;
		}
		in.r[R8] = 0;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[R8], (i < 6 ? 6 - i : 4) * c);
	}
}

/* It stands behind a jump out of the function before, and begins with nothing. */
SNIPPET(cpuid_behind_a_jump,
	"ret; .skip 15, 0x90; xor %eax, %eax; .byte 0xe9; .long 0x3000; .skip 9, 0x90\n\t"
	".rept 6; mov $0x80000002, %eax; cpuid; add %rcx, %r8; .endr\n\t"
	"ret; .skip 3, 0x90; endbr64; ret");

/* It has six CPUIDs, and is called twice in each round. */
static void call_function(word at)
{
	u64 c = cpuid(0x80000002, 0).c, n = 300;

	in.r[RSI] = in.r[R13] = U(CROWD) + at;
	in.r[R12] = n;
	run();
	want_equal(got_vector, UD);
	want_equal(out.r[R12], 0);
	want_equal(out.r[R8], n * 12 * c);
}

static void function_behind_a_tail_call(void)
{
	if (!begin_with(call_both))
		return;
	put_function(cpuid_behind_a_jump);
	call_function(FUNCTION + 16);
}

/* That the time is read for the guest is no reason to go on directly there. */
SNIPPET(cpuid_behind_rdtscp,
	"ret; .skip 15, 0x90; rdtscp\n\t"
	".rept 6; mov $0x80000002, %eax; cpuid; add %rcx, %r8; .endr\n\t"
	"ret; .skip 3, 0x90; endbr64; ret");

static void function_that_begins_with_rdtscp(void)
{
	if (!HAS_RDTSCP) {
		skip("no RDTSCP");
		return;
	}
	if (!begin_with(call_both))
		return;
	put_function(cpuid_behind_rdtscp);
	call_function(FUNCTION);
}

/* All state that user code can save is the guest's, as large as CPUID says. */
SNIPPET(save_all, "mov $-1, %eax; mov %eax, %edx; xsave (%rbx); ud2");
SNIPPET(save_all_compacted, "mov $-1, %eax; mov %eax, %edx; xsavec (%rbx); ud2");
SNIPPET(load_all, "mov $-1, %eax; mov %eax, %edx; xrstor (%rbx); ud2");

enum { XCR0_PKRU = 1 << 9, AREA = 4 * 4096 };

static u32 read_pkru(void)
{
	u32 a, d;

	__asm__ volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
	return a;
}

static void write_pkru(u32 val)
{
	__asm__ volatile("wrpkru" : : "a"(val), "c"(0), "d"(0));
}

/* What it saves into, of a pattern but for its header. */
static void save(unsigned size)
{
	const volatile u8 *area = AT(DATA);

	fill(AT(DATA), 0xa5, AREA);
	fill(AT(DATA) + 512, 0, 64);
	run();
	want_equal(got_vector, UD);
	want_equal(data_at(DATA)[64] & ~(u64)cpuid(0xd, 0).a, 0);
	for (unsigned i = size; i < AREA; i++)
		if (area[i] != 0xa5) {
			fail("byte %u of %u was written", i, size);
			return;
		}
}

static void state_is_the_guests(void)
{
	bool pkru = HAS(7, 0, c, 3) && (cpuid(0xd, 0).a & XCR0_PKRU);
	u32 before = xcr0(), with;

	if (!begin_with(save_all))
		return;
	with = before | (pkru ? XCR0_PKRU : 0);
	save(cpuid(0xd, 0).b);
	put_code(CODE + 1, 0, save_all_compacted);
	in.ip = U(CODE + 1);
	if (HAS(0xd, 1, a, 1))
		save(cpuid(0xd, 1).b);
	if (!pkru)
		return;
	row("PKRU");
	write_cr4(read_cr4() | CR4_PKE);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(with), "d"(0));
	/* Of no key that is in use. */
	write_pkru(0xc0);
	in.ip = U(CODE);
	save(cpuid(0xd, 0).b);
	want_equal(AT(DATA)[512 + 1] & 2, 2);
	want_equal(*(volatile u32 *)(AT(DATA) + cpuid(0xd, 9).b), 0xc0);
	*(volatile u32 *)(AT(DATA) + cpuid(0xd, 9).b) = 0x30;
	put_code(CODE + 2, 0, load_all);
	in.ip = U(CODE + 2);
	run();
	want_equal(got_vector, UD);
	want_equal(read_pkru(), 0x30);
	write_pkru(0);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(before), "d"(0));
	write_cr4(read_cr4() & ~(word)CR4_PKE);
}

const struct test_case cases[] = {
	CASE(function_with_many, "SDM 2"),
	CASE(function_entered_in_the_middle, "SDM 2"),
	CASE(function_behind_a_tail_call, "SDM 2"),
	CASE(function_that_begins_with_rdtscp, "SDM 2"),
	CASE(sensitive_few, "SDM 2"),
	CASE(sensitive_many, "SDM 2"),
	CASE(sensitive_pages, "SDM 2"),
	CASE(beside_sensitive_code, "SDM 2"),
	CASE(state_is_the_guests, "SDM 1 13.6 to 13.10"),
	CASES_END,
};
