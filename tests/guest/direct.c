/*
 * User code of a 64-bit operating system, looked at from its kernel: what direct
 * execution (src/engine/direct) must not change. Registers and vector state across every
 * kind of trap; page faults, A and D; page tables that change under it; code that
 * changes; single steps; addresses that are odd.
 *
 * SDM volume 3 chapters 4, 6 and 17; volume 2. What must be: every want here holds on
 * every engine.
 */
#include "direct.h"

/* ---- registers ---- */

/* Each register grows by its number and one; flags stay. */
SNIPPET(add_all, "lea 1(%rax), %rax; lea 2(%rcx), %rcx; lea 3(%rdx), %rdx\n\t"
		 "lea 4(%rbx), %rbx; lea 5(%rsp), %rsp; lea 6(%rbp), %rbp\n\t"
		 "lea 7(%rsi), %rsi; lea 8(%rdi), %rdi; lea 9(%r8), %r8\n\t"
		 "lea 10(%r9), %r9; lea 11(%r10), %r10; lea 12(%r11), %r11\n\t"
		 "lea 13(%r12), %r12; lea 14(%r13), %r13; lea 15(%r14), %r14\n\t"
		 "lea 16(%r15), %r15");

static const struct end {
	const char *name;
	u8 code[15], len;
	word vector, error;
	bool after; /* a trap: RIP is behind */
} ends[] = {
	{ "syscall", { 0x0f, 0x05 }, 2, SYSCALL_VECTOR, 0, true },
	{ "int 80h", { 0xcd, 0x80 }, 2, EXIT_VECTOR, 0, true },
	{ "int3", { 0xcc }, 1, BP, 0, true },
	{ "int 3", { 0xcd, 3 }, 2, BP, 0, true },
	{ "ud2", { 0x0f, 0x0b }, 2, UD, 0, false },
	{ "hlt", { 0xf4 }, 1, GP, 0, false },
	/* movabs U(NOWHERE), %al */
	{ "read", { 0xa0, 0, 0x80, 0xec, 0xff, 0xff, 0x7f }, 9, PF, 4, false },
	{ "write", { 0xa2, 0, 0x80, 0xec, 0xff, 0xff, 0x7f }, 9, PF, 6, false },
	{ "jmp .", { 0xeb, 0xfe }, 2, TICK, 0, false },
};

/* Where each has its code. */
#define END_AT(n) (128 * (n))

static void check_registers(const struct end *e, u64 *want)
{
	word at = in.ip + (word)(add_all_end - add_all);

	want_out(e->vector, e->error, at + (e->after ? e->len : 0));
	for (unsigned i = 0; i < 16; i++)
		want[i] += i + 1;
	if (e->vector == SYSCALL_VECTOR) {
		want[RCX] = out.ip;
		want[R11] = in.flags;
	}
	for (unsigned i = 0; i < 16; i++) {
		checked();
		if (out.r[i] != want[i])
			fail("%s: register %u: got %llx want %llx", e->name, i, out.r[i],
			     want[i]);
	}
	checked();
	if ((out.flags ^ in.flags) & ~(u64)FL_RF)
		fail("%s: flags: got %llx want %llx", e->name, out.flags, in.flags);
}

static void registers(unsigned rounds)
{
	for (unsigned n = 0; n < ARRAY_SIZE(ends); n++) {
		put_code(CODE, END_AT(n), add_all);
		copy(AT(CODE) + END_AT(n) + (add_all_end - add_all), ends[n].code,
		     ends[n].len);
	}
	unmap_now(CODE);
	for (unsigned n = 0; n < rounds && !failed(); n++) {
		const struct end *e = &ends[n % ARRAY_SIZE(ends)];
		u64 want[16];

		for (unsigned i = 0; i < 16; i++)
			want[i] = in.r[i] = rnd();
		in.ip = U(CODE) + END_AT(n % ARRAY_SIZE(ends));
		in.flags = (rnd() & (FL_STATUS | FL_DF)) | FL_IF | 2;
		/* Now and then, as it stays for a while. */
		if (n / 50 % 2)
			in.flags |= FL_ID;
		if (by_sysret) {
			want[RCX] = in.ip;
			want[R11] = in.flags;
		}
		stop_ip = in.ip + (word)(add_all_end - add_all);
		on_tick = e->vector == TICK ? stop_there_at_tick : NULL;
		run();
		check_registers(e, want);
	}
}

static void registers_across_traps(void)
{
	if (begin())
		registers(400);
}

static void registers_by_sysret(void)
{
	if (!begin())
		return;
	by_sysret = true;
	registers(400);
	by_sysret = false;
}

SNIPPET(bases, "mov %fs:8, %rax; mov %gs:16, %rdx\n\t"
	       "rdfsbase %r8; rdgsbase %r9; wrfsbase %rsi; wrgsbase %rdi\n\t"
	       "mov %fs:8, %r12; mov %gs:16, %r13; rdfsbase %r14; rdgsbase %r15\n\t"
	       "ud2");

static void fs_and_gs_base(void)
{
	if (!begin_with(bases))
		return;
	for (unsigned i = 0; i < 512; i++)
		data_at(DATA)[i] = rnd();
	for (unsigned n = 0; n < 300 && !failed(); n++) {
		u64 b[4];

		for (unsigned i = 0; i < 4; i++)
			b[i] = U(DATA) + rnd() % 500 * 8;
		wrmsr(MSR_FS_BASE, b[0]);
		wrmsr(MSR_GS_BASE, b[1]);
		in.r[RSI] = b[2];
		in.r[RDI] = b[3];
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[R8], b[0]);
		want_equal(out.r[R9], b[1]);
		want_equal(out.r[R14], b[2]);
		want_equal(out.r[R15], b[3]);
		want_equal(rdmsr(MSR_FS_BASE), b[2]);
		want_equal(rdmsr(MSR_GS_BASE), b[3]);
		want_equal(out.r[RAX], data_at(DATA)[(b[0] - U(DATA)) / 8 + 1]);
		want_equal(out.r[RDX], data_at(DATA)[(b[1] - U(DATA)) / 8 + 2]);
		want_equal(out.r[R12], data_at(DATA)[(b[2] - U(DATA)) / 8 + 1]);
		want_equal(out.r[R13], data_at(DATA)[(b[3] - U(DATA)) / 8 + 2]);
	}
}

/* Bases in the kernel's half, which user code may have; and then a page fault that the
 * guest does not see. */
SNIPPET(high_base, "wrfsbase %rsi; wrgsbase %rdi; mov (%rbx), %rax; rdfsbase %r8\n\t"
		   "rdgsbase %r9; ud2");
SNIPPET(bad_base, "wrfsbase %rsi");

static void bases_in_the_upper_half(void)
{
	if (!begin_with(high_base))
		return;
	for (unsigned n = 0; n < 20 && !failed(); n++) {
		in.r[RSI] = 0xffff800000000000 | rnd() >> 20;
		in.r[RDI] = n & 1 ? U(TOP) + 8 : 0xffffffffff600000;
		in.r[RBX] = U(OTHER + n);
		map(OTHER + n, OTHER + n, DATA_BITS);
		*data_at(OTHER + n) = n;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], n);
		want_equal(out.r[R8], in.r[RSI]);
		want_equal(out.r[R9], in.r[RDI]);
		want_equal(rdmsr(MSR_FS_BASE), in.r[RSI]);
		want_equal(rdmsr(MSR_GS_BASE), in.r[RDI]);
		wrmsr(MSR_FS_BASE, 0);
		wrmsr(MSR_GS_BASE, 0);
	}
	put_code(CODE, 0, bad_base);
	in.r[RSI] = 0x1234000000000000;
	run();
	want_out(GP, 0, U(CODE));
}

/* ---- vector state ---- */

static PAGED u8 area[4096], area2[4096], junk[4096];

static u32 vector_mask(void)
{
	return xcr0() & 0xe7;
}

static void xsave(u8 *a)
{
	__asm__ volatile("xsave (%0)" : : "r"(a), "a"(vector_mask()), "d"(0) : "memory");
}

static void xrstor(const u8 *a)
{
	__asm__ volatile("xrstor (%0)" : : "r"(a), "a"(vector_mask()), "d"(0) : "memory");
}

static void random_bytes(u8 *p, unsigned from, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		p[from + i] = (u8)(rnd() >> 24);
}

static void make_state(u8 *a, u64 bv)
{
	fill(a, 0, 4096);
	*(u16 *)(void *)a = (u16)(0x37f | (rnd() & 0xc00));
	*(u16 *)(void *)(a + 2) = (u16)(rnd() & 0x7b00); /* C0 to C3, TOP */
	a[4] = 0xff;
	for (unsigned i = 0; i < 8; i++)
		random_bytes(a, 32 + 16 * i, 10);
	*(u32 *)(void *)(a + 24) = 0x1f80 | (rnd() & 0xe03f);
	random_bytes(a, 160, 256);
	*(u64 *)(void *)(a + 512) = bv;
	for (unsigned i = 2; i < 8; i++) {
		struct cpuid c = cpuid(0xd, i);

		if (vector_mask() & BIT(i))
			random_bytes(a, c.b, c.a);
	}
}

static void compare_bytes(const char *what, const u8 *got, const u8 *want, unsigned from,
			  unsigned to, bool init)
{
	checked();
	for (unsigned i = from; i < to; i++)
		if (got[i] != (init ? 0 : want[i])) {
			fail("%s: byte %u is %x not %x", what, i, got[i],
			     init ? 0 : want[i]);
			return;
		}
}

/* 'want' is an image that was loaded, 'got' one that was saved. */
static void compare_state(const char *what, const u8 *got, const u8 *want)
{
	u64 bv = *(const u64 *)(const void *)(want + 512),
	    got_bv = *(const u64 *)(const void *)(got + 512);

	if (!(bv & 1)) {
		/* What is not saved is in its initial state. */
		if (got_bv & 1)
			want_equal(*(const u16 *)(const void *)got, 0x37f);
	} else {
		compare_bytes(what, got, want, 0, 5, false);
		for (unsigned i = 0; i < 8; i++)
			compare_bytes(what, got, want, 32 + 16 * i, 42 + 16 * i, false);
	}
	compare_bytes(what, got, want, 24, 28, false);
	if ((bv | got_bv) & 2)
		compare_bytes(what, got, want, 160, 416, !(bv & 2));
	for (unsigned i = 2; i < 8; i++) {
		struct cpuid c = cpuid(0xd, i);

		if ((vector_mask() & BIT(i)) && ((bv | got_bv) & BIT(i)))
			compare_bytes(what, got, want, c.b, c.b + c.a, !(bv & BIT(i)));
	}
}

SNIPPET(spin, "1: jmp 1b");
SNIPPET(one_syscall, "syscall");
SNIPPET(save_and_load, "xsave (%rbx); xrstor 0x1000(%rbx); ud2");
SNIPPET(save_spin_load, "xsave (%rbx)\n1: dec %ecx; jnz 1b; xrstor 0x1000(%rbx); ud2");
SNIPPET(read_nowhere, "mov (%rdi), %al");

/* Another program has been there. */
static bool clobber_and_stop(struct frame *f)
{
	static PAGED u8 mine[4096];

	(void)f;
	xsave(mine);
	xrstor(junk);
	xrstor(mine);
	return out.r[RAX] == 1;
}

static bool clobber(struct frame *f)
{
	clobber_and_stop(f);
	return false;
}

static bool clobber_stop(struct frame *f)
{
	clobber_and_stop(f);
	return true;
}

static void vector_state_kept(void)
{
	static const u8 *const code[] = { one_syscall,  one_syscall_end,
					  read_nowhere, read_nowhere_end,
					  spin,         spin_end };
	static const word vector[] = { SYSCALL_VECTOR, PF, TICK };

	if (!begin())
		return;
	in.r[RDI] = U(NOWHERE);
	on_tick = clobber_stop;
	make_state(junk, vector_mask());
	for (unsigned n = 0; n < 90 && !failed(); n++) {
		unsigned k = n % 3;

		copy(AT(CODE), code[2 * k], (word)(code[2 * k + 1] - code[2 * k]));
		make_state(area, vector_mask());
		fill(area2, 0, 4096);
		xrstor(area);
		do
			run();
		while (k != 2 && got_vector == TICK);
		xsave(area2);
		want_out(vector[k], k == 1 ? 4 : 0, U(CODE) + (k ? 0 : 2));
		compare_state("kept", area2, area);
	}
}

static void vector_state_both_ways(void)
{
	if (!begin())
		return;
	on_tick = clobber;
	make_state(junk, vector_mask());
	for (unsigned n = 0; n < 60 && !failed(); n++) {
		bool long_one = n & 1;

		if (long_one)
			put_code(CODE, 0, save_spin_load);
		else
			put_code(CODE, 0, save_and_load);
		make_state(area, n < 30 ? vector_mask() : rnd() & vector_mask());
		make_state(area2, n < 20 ? vector_mask() : rnd() & vector_mask());
		fill(AT(DATA), 0, 4096);
		copy(AT(DATA + 1), area2, 4096);
		in.r[RAX] = vector_mask();
		in.r[RDX] = 0;
		in.r[RCX] = 100000;
		xrstor(area);
		run();
		want_equal(got_vector, UD);
		fill(area2, 0, 4096);
		xsave(area2);
		compare_state("seen by the user", (const u8 *)(word)AT(DATA), area);
		compare_state("left by the user", area2, (const u8 *)(word)AT(DATA + 1));
	}
}

SNIPPET(xm_fault, "ldmxcsr (%rbx); divss %xmm1, %xmm0");
SNIPPET(mf_fault, "fninit; fldcw (%rbx); fldz; fld1; fdivp; nop; fwait");

static void xm_and_mf(void)
{
	if (!begin_with(xm_fault))
		return;
	make_state(area, vector_mask());
	*(u32 *)(void *)(area + 24) = 0x1f80;
	fill(area + 160, 0, 32);
	area[160 + 2] = 0x80; /* 1.0 / 0.0 */
	area[160 + 3] = 0x3f;
	*data_at(DATA) = 0x1d80; /* ZM is 0 */
	xrstor(area);
	run();
	want_out(XM, 0, U(CODE) + 3);
	fill(area2, 0, 4096);
	xsave(area2);
	want_equal(*(u32 *)(void *)(area2 + 24), 0x1d84);
	put_code(CODE, 0, mf_fault);
	*data_at(DATA) = 0x37b;
	run();
	want_out(MF, 0, U(CODE) + (word)(mf_fault_end - mf_fault) - 1);
	__asm__ volatile("fninit");
}

/* ---- exceptions ---- */

static const struct end faults[] = {
	{ "cli", { 0xfa }, 1, GP, 0, false },
	{ "sti", { 0xfb }, 1, GP, 0, false },
	{ "in", { 0xec }, 1, GP, 0, false },
	{ "out", { 0xee }, 1, GP, 0, false },
	{ "insb", { 0x6c }, 1, GP, 0, false },
	{ "mov cr0", { 0x0f, 0x20, 0xc0 }, 3, GP, 0, false },
	{ "mov dr7", { 0x0f, 0x21, 0xf8 }, 3, GP, 0, false },
	{ "rdmsr", { 0x0f, 0x32 }, 2, GP, 0, false },
	{ "wrmsr", { 0x0f, 0x30 }, 2, GP, 0, false },
	{ "clts", { 0x0f, 0x06 }, 2, GP, 0, false },
	{ "invlpg", { 0x0f, 0x01, 0x3b }, 3, GP, 0, false },
	{ "lgdt", { 0x0f, 0x01, 0x13 }, 3, GP, 0, false },
	{ "swapgs", { 0x0f, 0x01, 0xf8 }, 3, GP, 0, false },
	{ "sysretq", { 0x48, 0x0f, 0x07 }, 3, GP, 0, false },
	{ "wbinvd", { 0x0f, 0x09 }, 2, GP, 0, false },
	{ "xsetbv", { 0x0f, 0x01, 0xd1 }, 3, GP, 0, false },
	{ "rdpmc", { 0x0f, 0x33 }, 2, GP, 0, false },
	{ "lldt", { 0x0f, 0x00, 0xd0 }, 3, GP, 0, false },
	{ "mov ss, 8", { 0x8e, 0xd5 }, 2, GP, 8, false },
	{ "mov ds, 8", { 0x8e, 0xdd }, 2, GP, 8, false },
	{ "int 22h, DPL 0", { 0xcd, 0x22 }, 2, GP, 0x22 * 8 + 2, false },
	{ "int 41h", { 0xcd, 0x41 }, 2, 0x41, 0, true },
	{ "int 4", { 0xcd, 4 }, 2, OF, 0, true },
	/* INT 4 is only the end of what is in front. */
	{ "no int 4", { 0xb8, 0, 0, 0xcd, 4, 0xf4 }, 6, GP, 0, false },
	{ "int1", { 0xf1 }, 1, DB, 0, true },
	{ "div", { 0xf7, 0xf1 }, 2, DE, 0, false },
	{ "not canonical", { 0x8a, 0x06 }, 2, GP, 0, false },
	{ "not canonical, write", { 0x88, 0x06 }, 2, GP, 0, false },
	{ "not canonical, stack", { 0x41, 0x5f }, 2, SS, 0, false },
	{ "movaps", { 0x0f, 0x28, 0x43, 0x01 }, 4, GP, 0, false },
	{ "lock mov", { 0xf0, 0x89, 0x03 }, 3, UD, 0, false },
	{ "into", { 0xce }, 1, UD, 0, false },
	{ "ud1", { 0x0f, 0xb9, 0xc0 }, 3, UD, 0, false },
	{ "16 bytes",
	  { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	    0x66, 0x66 },
	  15,
	  GP,
	  0,
	  false },
};

static void exceptions(void)
{
	if (!begin())
		return;
	hook[0x41] = on_trap;
	set_gate(0x22, trap_entry[0x22], KCODE, D_TYPE(14) | D_P, 0);
	for (unsigned n = 0; n < 3 * ARRAY_SIZE(faults) && !failed(); n++) {
		const struct end *e = &faults[n % ARRAY_SIZE(faults)];
		unsigned at = n / ARRAY_SIZE(faults) * 100;

		/* Some NOPs first. */
		fill(AT(CODE), 0x90, 256);
		copy(AT(CODE) + at, e->code, e->len);
		if (e->code[0] == 0xcd)
			unmap_now(CODE);
		in.r[RAX] = in.r[RCX] = in.r[RDX] = 0;
		in.r[RBP] = 8;
		in.r[RSI] = 0x800000000000;
		in.r[RSP] = e->vector == SS ? 0x800000000000 : U(STACK) + 0x2000;
		run();
		checked();
		if (got_vector != e->vector || got_error != e->error ||
		    out.ip != U(CODE) + at +
				      (e->after             ? e->len
				       : e->code[0] == 0xb8 ? 5
							    : 0))
			fail("%s: got vector %lx error %lx ip %llx", e->name, got_vector,
			     got_error, out.ip);
	}
	reset_gate(0x22);
}

/* ---- page faults ---- */

SNIPPET(touch, "mov (%rbx), %al; ud2");
SNIPPET(store, "mov %al, (%rbx); ud2");
SNIPPET(jump, "jmp *%rbx");
SNIPPET(the_end, "ud2");

enum access { READ, WRITE, FETCH };

static void do_access(enum access kind)
{
	if (kind == READ)
		put_code(CODE, 0, touch);
	else if (kind == WRITE)
		put_code(CODE, 0, store);
	else
		put_code(CODE, 0, jump);
	run();
}

static const struct {
	u64 bits;
	int error[3]; /* by kind; -1: it is allowed */
} page_kinds[] = {
	{ 0, { 4, 6, 0x14 } },
	{ RW | US, { 4, 6, 0x14 } },
	{ P | US, { -1, 7, -1 } },
	{ P | RW | US, { -1, -1, -1 } },
	{ P | RW | US | NX, { -1, -1, 0x15 } },
	{ P | US | NX, { -1, 7, 0x15 } },
	{ P | RW, { 5, 7, 0x15 } },
	{ P, { 5, 7, 0x15 } },
	{ P | RW | US | BIT(51), { 0xd, 0xf, 0x1d } },
};

/* From each kind of page to each other one: the tables' last word counts. */
static void page_fault_codes(void)
{
	unsigned kinds = ARRAY_SIZE(page_kinds);

	if (!begin())
		return;
	put_code(OTHER, 0, the_end);
	in.r[RBX] = U(OTHER);
	for (unsigned n = 0; n < kinds * kinds * 3 && !failed(); n++) {
		unsigned was = n / 3 / kinds, now = n / 3 % kinds;

		if ((page_kinds[was].bits | page_kinds[now].bits) & BIT(51) &&
		    phys_bits() == 52)
			continue;
		map(OTHER, OTHER, page_kinds[was].bits);
		for (enum access kind = READ; kind <= FETCH; kind++)
			do_access(kind);
		map(OTHER, OTHER, page_kinds[now].bits);
		put_code(OTHER, 0, the_end);
		for (unsigned k = 0; k < 3; k++) {
			unsigned kind = (n + k) % 3;
			int error = page_kinds[now].error[kind];

			do_access(kind);
			put_code(OTHER, 0, the_end);
			if (error < 0)
				want_equal(got_vector, UD);
			else
				want_pf((word)error, kind == FETCH ? U(OTHER) : U(CODE),
					U(OTHER));
		}
	}
}

/* ---- A and D ---- */

static void want_bits(int line, unsigned n, u64 bits)
{
	checked();
	if ((pt[space][n] & (A | D)) != bits)
		fail("line %d: page %u has %llx", line, n, pt[space][n]);
}
#define want_bits(n, bits) want_bits(__LINE__, n, bits)

static void accessed_and_dirty(void)
{
	if (!begin())
		return;
	for (unsigned i = 0; i < 32; i++) {
		map(OTHER + i, OTHER + i, ALL);
		put_code(OTHER + i, 0, the_end);
	}
	for (unsigned n = 0; n < 32 && !failed(); n++) {
		enum access kind = n % 3;

		in.r[RBX] = U(OTHER + (n * 7) % 32);
		do_access(kind);
		want_equal(got_vector, UD);
		put_code(OTHER + (n * 7) % 32, 0, the_end);
		for (unsigned i = 0; i < 32; i++) {
			unsigned when = i * 23 % 32; /* 7 * 23 is 1 */

			want_bits(OTHER + i, when > n            ? 0
					     : when % 3 == WRITE ? A | D
								 : A);
		}
	}
	/* Cleared by the kernel, set again by the next access. */
	for (unsigned n = 0; n < 48 && !failed(); n++) {
		unsigned page = OTHER + n % 16;
		enum access kind = n / 16;

		map(page, page, ALL);
		in.r[RBX] = U(page);
		do_access(kind);
		want_bits(page, kind == WRITE ? A | D : A);
		/* D alone. */
		pt[space][page] &= ~(u64)D;
		invlpg((void *)U(page));
		do_access(READ);
		want_bits(page, A);
		do_access(WRITE);
		want_bits(page, A | D);
		put_code(page, 0, the_end);
	}
}

/* A level above counts too. */
static void upper_levels(void)
{
	if (!begin())
		return;
	in.r[RBX] = U(DATA);
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		do_access(WRITE);
		want_equal(got_vector, UD);
		high_pd[0][511] &= ~(u64)RW;
		flush_tlb();
		do_access(WRITE);
		want_pf(7, U(CODE), U(DATA));
		high_pd[0][511] |= RW;
		flush_tlb();
		want_equal(high_pd[0][511] & A, A);
		high_pd[0][511] &= ~(u64)A;
		flush_tlb();
		do_access(READ);
		want_equal(high_pd[0][511] & A, A);
		high_pdpt[0][511] &= ~(u64)US;
		flush_tlb();
		run();
		want_pf(0x15, U(CODE), U(CODE));
		high_pdpt[0][511] |= US;
		flush_tlb();
	}
}

/* A page of 2 MiB has one A and one D for all of it. */
static void large_page(void)
{
	word lin = UVA - 0x200000;
	volatile u64 *pde = &high_pd[0][510];

	if (!begin())
		return;
	for (unsigned n = 0; n < 6 && !failed(); n++) {
		*pde = TEST_PA | PS | P | US | RW;
		invlpg((void *)lin);
		in.r[RBX] = lin + FRAME(OTHER + n) - TEST_PA;
		put_code(OTHER + n, 0, the_end);
		do_access(n & 1 ? FETCH : READ);
		want_equal(got_vector, UD);
		want_equal(*pde & (A | D), A);
		in.r[RBX] += 17 * 4096;
		do_access(WRITE);
		want_equal(got_vector, UD);
		want_equal(*pde & (A | D), A | D);
		*pde &= ~(u64)RW;
		invlpg((void *)(lin + 0x3000));
		in.r[RBX] += 4096;
		do_access(READ);
		want_equal(got_vector, UD);
		do_access(WRITE);
		want_pf(7, U(CODE), in.r[RBX]);
		*pde = 0;
		invlpg((void *)lin);
		do_access(READ);
		want_pf(4, U(CODE), in.r[RBX]);
	}
	*pde = 0;
	invlpg((void *)lin);
}

/* ---- tables that change ---- */

SNIPPET(load, "mov (%rbx), %rax; ud2");
SNIPPET(loop_load, "1: mov (%rbx), %rax; inc %rcx; jmp 1b");
SNIPPET(loop_store, "1: mov %rcx, (%rbx); inc %rcx; jmp 1b");

static void remapped(void)
{
	if (!begin_with(load))
		return;
	for (unsigned i = 0; i < 8; i++)
		*data_at(OTHER + i) = 1000 + i;
	for (unsigned n = 0; n < 200 && !failed(); n++) {
		if (n % 3 == 0) {
			map(DATA, OTHER + n % 8, DATA_BITS);
		} else {
			pt[space][DATA] = FRAME(OTHER + n % 8) | DATA_BITS;
			if (n % 3 == 1)
				write_cr3(read_cr3());
			else
				flush_tlb();
		}
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], 1000 + n % 8);
		if (n % 5 == 0) {
			unmap(DATA);
			run();
			want_pf(4, U(CODE), U(DATA));
		}
	}
}

/* The whole table is replaced: by one that differs in one page, or in a page that is not
 * used, or not at all; or the directory says less of the same one. */
static void another_table(void)
{
	static PAGED volatile u64 other[512];
	volatile u64 *pde = &high_pd[0][511];
	volatile u64 *at[2] = { pt[0], other };

	if (!begin_with(load))
		return;
	for (unsigned i = 0; i < 8; i++)
		*data_at(OTHER + i) = 1000 + i;
	map(DATA, OTHER, DATA_BITS);
	for (unsigned n = 0; n < 200 && !failed(); n++) {
		volatile u64 *was = at[n & 1], *is = at[~n & 1];
		unsigned frame = n / 4 % 8;

		run();
		want_equal(got_vector, UD);
		for (unsigned i = 0; i < 512; i++)
			is[i] = was[i];
		is[DATA] = FRAME(OTHER + frame) | DATA_BITS;
		is[OTHER] = n % 3 ? 0 : FRAME(OTHER) | DATA_BITS;
		/* As if it had been walked, or it would be looked at for that. */
		*pde = (word)is | ALL | A;
		if (n % 4 == 0)
			invlpg((void *)U(DATA));
		else
			write_cr3(read_cr3());
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], 1000 + frame);
		/* Only there. */
		was[DATA] = 0;
		flush_tlb();
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], 1000 + frame);
		*pde &= ~(u64)US;
		write_cr3(read_cr3());
		run();
		want_pf(0x15, U(CODE), U(CODE));
		*pde |= US;
		flush_tlb();
	}
	for (unsigned i = 0; i < 512; i++)
		pt[0][i] = other[i];
	*pde = (word)pt[0] | ALL;
	flush_tlb();
}

/* Interrupted by the timer, whose handler takes the page away. */
static bool take_page(struct frame *f)
{
	(void)f;
	unmap(DATA);
	return false;
}

static bool protect_page(struct frame *f)
{
	if (!f->cx)
		return false;
	pt[space][DATA] &= ~(u64)RW;
	invlpg((void *)U(DATA));
	return false;
}

static void changed_by_an_interrupt(void)
{
	if (!begin_with(loop_load))
		return;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		on_tick = take_page;
		map(DATA, DATA, DATA_BITS);
		run();
		want_pf(4, U(CODE), U(DATA));
	}
	put_code(CODE, 0, loop_store);
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		on_tick = protect_page;
		map(DATA, DATA, DATA_BITS);
		run();
		want_pf(7, U(CODE), U(DATA));
		want_equal(*data_at(DATA), out.r[RCX] - 1);
	}
}

/* To the other space; with PCIDs nothing is flushed. */
static void switch_to(unsigned s, bool pcid)
{
	space = s;
	write_cr3((word)top[s] | (pcid ? (s + 1) | BIT(63) : 0));
}

static void invalidate(unsigned pcid, word lin)
{
	u64 desc[2] = { pcid, lin };

	__asm__ volatile("invpcid %0, %1" : : "m"(desc), "r"(0ul) : "memory");
}

static void spaces(bool pcid)
{
	u64 want[2] = { 0x1111222233334444, 0x77778888 };

	put_code(CODE, 0, load);
	copy(AT(CODE + 1), (const u8 *)"\x8b\x03\x0f\x0b", 4); /* mov (%rbx), %eax */
	for (unsigned s = 0; s < 2; s++) {
		use_space(s);
		map(DATA, OTHER + s, DATA_BITS);
		map(CODE, CODE + s, CODE_BITS);
	}
	*data_at(OTHER) = 0x1111222233334444;
	*data_at(OTHER + 1) = 0x5555666677778888;
	for (unsigned n = 0; n < 100 && !failed(); n++) {
		switch_to(n & 1, pcid);
		in.r[RAX] = 0;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], want[n & 1]);
		if (n == 50) {
			/* In the one that does not run now. */
			pt[!space][DATA] = FRAME(OTHER + 2) | DATA_BITS;
			*data_at(OTHER + 2) = want[1] = 0xccccdddd;
			if (pcid)
				invalidate(!space + 1, U(DATA));
		}
	}
	use_space(0);
}

static void two_spaces(void)
{
	if (begin())
		spaces(false);
}

static void two_spaces_with_pcid(void)
{
	if (!HAS_PCID || !HAS_INVPCID) {
		skip("no PCID or INVPCID");
		return;
	}
	if (!begin())
		return;
	use_space(0);
	write_cr4(read_cr4() | CR4_PCIDE);
	spaces(true);
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

SNIPPET(call_other, "1: call *%rbx; inc %rcx; jmp 1b");
SNIPPET(only_ret, "ret");

static bool take_code(struct frame *f)
{
	(void)f;
	unmap(CODE + 1);
	return false;
}

static void code_unmapped(void)
{
	if (!begin_with(call_other))
		return;
	put_code(CODE + 1, 0, only_ret);
	in.r[RBX] = U(CODE + 1);
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		map(CODE + 1, CODE + 1, CODE_BITS);
		on_tick = take_code;
		run();
		want_pf(0x14, U(CODE + 1), U(CODE + 1));
		want_equal(out.r[RSP], in.r[RSP] - 8);
	}
}

/* ---- memory and code that change ---- */

SNIPPET(wait_for, "1: mov (%rbx), %rax; inc %rcx; test %rax, %rax; jz 1b; ud2");

static bool write_data(struct frame *f)
{
	(void)f;
	*data_at(DATA) = 77;
	return false;
}

static void written_by_the_kernel(void)
{
	if (!begin_with(wait_for))
		return;
	for (unsigned n = 0; n < 5 && !failed(); n++) {
		*data_at(DATA) = 0;
		on_tick = write_data;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], 77);
	}
}

SNIPPET(constant, "mov $0, %eax; ud2");
SNIPPET(constant_loop, "1: mov $0, %eax; inc %rcx; test %eax, %eax; jz 1b; ud2");

static bool write_code(struct frame *f)
{
	(void)f;
	*(volatile u32 *)(AT(CODE) + 1) = 99;
	return false;
}

static void code_written_by_the_kernel(void)
{
	if (!begin_with(constant))
		return;
	for (unsigned n = 0; n < 200 && !failed(); n++) {
		*(volatile u32 *)(AT(CODE) + 1) = n;
		run();
		want_out(UD, 0, U(CODE) + 5);
		want_equal(out.r[RAX], n);
	}
	for (unsigned n = 0; n < 5 && !failed(); n++) {
		put_code(CODE, 0, constant_loop);
		on_tick = write_code;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RAX], 99);
	}
}

/* RSI: where the function is called; RDI: where it is written. RDX counts bad results. */
SNIPPET(jit, "1: mov %ecx, 1(%rdi); call *%rsi; cmp %eax, %ecx; je 2f; inc %rdx\n"
	     "2: dec %ecx; jnz 1b; ud2");
SNIPPET(jit_function, "mov $0, %eax; ret");
/* Its own next instruction. */
SNIPPET(jit_self, "1: mov %ecx, 2f + 1(%rip)\n"
		  "2: mov $0, %eax; cmp %eax, %ecx; je 3f; inc %rdx\n"
		  "3: dec %ecx; jnz 1b; ud2");

static void jit_page(void)
{
	if (!begin_with(jit))
		return;
	map(JIT, JIT, ALL);
	map(JIT + 20, JIT, DATA_BITS);
	map(JIT + 40, JIT, CODE_BITS);
	put_code(JIT, 0, jit_function);
	for (unsigned n = 0; n < 4 && !failed(); n++) {
		in.r[RSI] = U(JIT + (n & 2 ? 40 : 0));
		in.r[RDI] = U(JIT + (n & 1 ? 20 : 0));
		in.r[RCX] = 300;
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RDX], 0);
		want_equal(out.r[RCX], 0);
		/* The kernel writes there as well. */
		*(volatile u32 *)(AT(JIT) + 1) = 12345;
		in.ip = in.r[RSI];
		*(volatile u64 *)(AT(STACK + 1) + 0xff0) =
			U(CODE) + (word)(jit_end - jit) - 2;
		in.r[RSP] = U(STACK + 1) + 0xff0;
		run();
		want_equal(out.r[RAX], 12345);
		in.ip = U(CODE);
		in.r[RSP] = U(STACK) + 0x2000;
	}
	put_code(JIT, 0, jit_self);
	in.ip = U(JIT);
	in.r[RCX] = 300;
	run();
	want_equal(got_vector, UD);
	want_equal(out.r[RDX], 0);
	want_equal(out.r[RCX], 0);
}

/* ---- what user code may ask the processor ---- */

SNIPPET(time, "rdtsc; ud2");

static void rdtsc_in_user_mode(void)
{
	if (!begin_with(time))
		return;
	for (unsigned n = 0; n < 50 && !failed(); n++) {
		u64 before = rdtsc(), t;

		run();
		t = out.r[RDX] << 32 | out.r[RAX];
		want_equal(got_vector, UD);
		want(t > before && t < rdtsc());
		write_cr4(read_cr4() | CR4_TSD);
		run();
		want_out(GP, 0, U(CODE));
		write_cr4(read_cr4() & ~(word)CR4_TSD);
	}
}

/* ---- flags that trap ---- */

SNIPPET(set_flags, "push %rax; popf; mov (%rbx), %rdx; nop; nop; ud2");

static void single_step(void)
{
	if (!begin_with(set_flags))
		return;
	for (unsigned n = 0; n < 20 && !failed(); n++) {
		write_dr6(0xffff0ff0);
		in.r[RAX] = FL_TF | FL_IF | 2;
		in.ip = U(CODE);
		in.flags = FL_IF | 2;
		run();
		want_out(DB, 0, U(CODE) + 5);
		want_equal(read_dr6(), 0xffff4ff0);
		want(out.flags & FL_TF);
		/* And so on, by IRET. */
		for (unsigned i = 0; i < 2; i++) {
			write_dr6(0xffff0ff0);
			go_on();
			want_out(DB, 0, U(CODE) + 6 + i);
			want_equal(read_dr6(), 0xffff4ff0);
		}
		in = out;
		in.flags &= ~(u64)FL_TF;
		run();
		want_out(UD, 0, U(CODE) + 7);
		in.r[RAX] = 0;
		in.r[RSP] = U(STACK) + 0x2000;
	}
}

SNIPPET(step_syscall, "push %rax; popf; syscall");
SNIPPET(step_fault, "push %rax; popf; mov (%rdi), %al");

static void single_step_into_traps(void)
{
	if (!begin_with(step_syscall))
		return;
	in.r[RAX] = FL_TF | FL_IF | 2;
	run();
	want_out(SYSCALL_VECTOR, 0, U(CODE) + 4);
	want(out.r[R11] & FL_TF);
	put_code(CODE, 0, step_fault);
	in.r[RDI] = U(NOWHERE);
	run();
	want_pf(4, U(CODE) + 2, U(NOWHERE));
	want(out.flags & FL_TF);
}

static void alignment_check(void)
{
	if (!begin_with(set_flags))
		return;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		bool am = n & 1;

		write_cr0((read_cr0() & ~(word)CR0_AM) | (am ? CR0_AM : 0));
		in.r[RAX] = FL_AC | FL_IF | 2;
		in.r[RBX] = U(DATA) + 1;
		run();
		if (am)
			want_out(AC, 0, U(CODE) + 2);
		else
			want_out(UD, 0, U(CODE) + 7);
		want(out.flags & FL_AC);
		in.r[RBX] = U(DATA);
		run();
		want_out(UD, 0, U(CODE) + 7);
	}
	write_cr0(read_cr0() & ~(word)CR0_AM);
}

static void nested_task_flag(void)
{
	if (host_loses_nt) {
		skip("the host loses NT of user code that runs directly");
		return;
	}
	if (!begin_with(set_flags))
		return;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		in.r[RAX] = (n & 1 ? FL_NT : FL_ID) | FL_IF | 2;
		run();
		want_out(UD, 0, U(CODE) + 7);
		want_equal(out.flags & (FL_NT | FL_ID), n & 1 ? FL_NT : FL_ID);
	}
}

/* ---- breakpoints ---- */

SNIPPET(break_here, "nop; mov %al, (%rbx); nop; nop; ud2");

static void breakpoints(void)
{
	if (!begin_with(break_here))
		return;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		run();
		want_out(UD, 0, U(CODE) + 5);
		write_dr6(0xffff0ff0);
		write_dr0(U(CODE) + 1); /* execution */
		write_dr1(U(DATA));     /* write, 1 byte */
		write_dr7(0x400 | 3 | 1 << 20 | 4);
		run();
		want_out(DB, 0, U(CODE) + 1);
		want_equal(read_dr6() & 0xf, 1);
		want_equal(out.flags & FL_RF, 0);
		write_dr6(0xffff0ff0);
		in = out;
		in.flags |= FL_RF;
		run();
		want_out(DB, 0, U(CODE) + 3);
		want_equal(read_dr6() & 0xf, 2);
		go_on();
		want_out(UD, 0, U(CODE) + 5);
		write_dr7(0x400);
		in.ip = U(CODE);
		in.flags = FL_IF | 2;
	}
}

/* ---- pages that are no RAM, odd addresses ---- */

SNIPPET(read_apic,
	"mov 0x30(%rbx), %ecx; mov 0x20(%rbx), %edx; movl $0x15, 0x80(%rbx)\n\t"
	"ud2");

static void apic_page(void)
{
	if (!begin_with(read_apic))
		return;
	pt[0][OTHER] = LAPIC_AT | P | US | RW | NX | PCD;
	map(OTHER + 1, OTHER + 1, DATA_BITS);
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		in.r[RBX] = U(OTHER);
		lapic_write(LAPIC_TPR, 0);
		run();
		want_equal(got_vector, UD);
		want_equal(out.r[RCX], lapic_read(LAPIC_VERSION));
		want_equal(out.r[RDX], lapic_read(LAPIC_ID));
		want_equal(lapic_read(LAPIC_TPR), 0x15);
		lapic_write(LAPIC_TPR, 0);
		in.r[RBX] = U(OTHER + 1);
		run();
		want_equal(got_vector, UD);
	}
	lapic_write(LAPIC_TPR, 0);
}

SNIPPET(push_pop, "push %rax; incq (%rsp); pop %rdx; call *%rsi; ud2");

/* Code, data and stack at 'lin', whose frame is OTHER. */
static void everything_at(word lin)
{
	put_code(OTHER, 0, only_ret);
	put_code(OTHER, 0x20, load);
	put_code(CODE, 0, push_pop);
	*(volatile u64 *)(AT(OTHER) + 0x100) = 4711;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		in.r[RAX] = n;
		in.r[RSI] = lin;
		in.r[RSP] = lin + 0x1000 - 64;
		in.ip = U(CODE);
		run();
		want_out(UD, 0, U(CODE) + (word)(push_pop_end - push_pop) - 2);
		want_equal(out.r[RDX], n + 1);
		want_equal(out.r[RSP], in.r[RSP]);
		in.r[RBX] = lin + 0x100;
		in.ip = lin + 0x20;
		run();
		want_out(UD, 0, lin + 0x23);
		want_equal(out.r[RAX], 4711);
	}
	in.ip = U(CODE);
}

static void odd_addresses(void)
{
	if (!begin())
		return;
	map(TOP, OTHER, ALL);
	everything_at(U(TOP));
	unmap(TOP);
	low_pt[1] = FRAME(OTHER) | ALL;
	flush_tlb();
	everything_at(0x1000);
	low_pt[1] = 0x1000 | P | RW;
	low_pt[0x21] = FRAME(OTHER) | ALL;
	flush_tlb();
	everything_at(0x21000);
	low_pt[0x21] = 0x21000 | P | RW;
	flush_tlb();
}

SNIPPET(call_rdx, "call *%rdx");

static void jumps_far_away(void)
{
	static const struct {
		word to, error;
	} to[] = {
		{ 0xffffffffff600000, 0x14 },
		{ 0xffffffffff600400, 0x14 },
		{ 0xffffffffff600800, 0x14 },
		{ 0xffffffffff600123, 0x14 },
		{ 0xffff800000000000, 0x14 },
		{ 0xfffffffffffff000, 0x14 },
		{ 0x200000, 0x15 },
		{ 0, 0x15 },
		{ U(TOP), 0x14 },
	};

	if (!begin_with(call_rdx))
		return;
	for (unsigned n = 0; n < 4 * ARRAY_SIZE(to) && !failed(); n++) {
		word a = to[n / 4].to;

		for (unsigned i = 0; i < 16; i++)
			in.r[i] = i == RSP ? in.r[i] : rnd();
		in.r[RDX] = a;
		in.r[RDI] = n & 1 ? U(DATA) : 0;
		in.r[RSI] = n & 2 ? U(DATA) + 64 : 0;
		*data_at(DATA) = 0x7788;
		run();
		want_pf(to[n / 4].error, a, a);
		for (unsigned i = 0; i < 16; i++) {
			/* Linux's vsyscalls, and direct execution, lose this one. */
			if (i == RAX && (a & ~0xc00ul) == 0xffffffffff600000)
				continue;
			checked();
			if (out.r[i] != in.r[i] - (i == RSP ? 8 : 0))
				fail("to %lx: register %u: got %llx want %llx", a, i,
				     out.r[i], in.r[i]);
		}
		want_equal(*data_at(DATA), 0x7788);
	}
}

/* ---- strings, loops ---- */

SNIPPET(rep_movsb, "rep movsb; ud2");

static void rep_movsb_faults(void)
{
	if (!begin_with(rep_movsb))
		return;
	for (unsigned n = 0; n < 20 && !failed(); n++) {
		unsigned off = (unsigned)(rnd() % 4096), dest = (unsigned)(rnd() % 4096);
		word len = 8192 - off + rnd() % 4000;

		for (unsigned i = 0; i < 1536; i++)
			data_at(DATA)[i] = rnd();
		for (unsigned i = 0; i < 4; i++)
			map(OTHER + i, OTHER + i, DATA_BITS);
		unmap(DATA + 2);
		in.r[RSI] = U(DATA) + off;
		in.r[RDI] = U(OTHER) + dest;
		in.r[RCX] = len;
		run();
		if (off + len > 8192) {
			want_pf(4, U(CODE), U(DATA + 2));
			want_equal(out.r[RSI], U(DATA + 2));
			want_equal(out.r[RCX], off + len - 8192);
			want_equal(out.r[RDI], U(OTHER) + dest + 8192 - off);
			map(DATA + 2, DATA + 2, DATA_BITS);
			go_on();
		}
		want_out(UD, 0, U(CODE) + 2);
		want_equal(out.r[RCX], 0);
		checked();
		for (word i = 0; i < len; i++)
			if (AT(OTHER)[dest + i] != AT(DATA)[off + i]) {
				fail("byte %lu of %lu is wrong", i, len);
				break;
			}
		in.ip = U(CODE);
		in.flags = FL_IF | 2;
	}
}

SNIPPET(count_loop, "1: inc %rax; jmp 1b");

static void loop_is_interrupted(void)
{
	if (!begin_with(count_loop))
		return;
	ticks_left = 20;
	on_tick = count_ticks;
	run();
	want_equal(got_vector, TICK);
	want_equal(ticks_left, 0);
}

/* ---- selectors; these come last, as direct execution may be over after them ---- */

SNIPPET(to_compat, "lretq");
/* inc eax; dec ecx; mov edx, esp; int 80h. And with mov al, ss:[edx]. */
SNIPPET(compat_code, ".byte 0x40, 0x49, 0x89, 0xe2, 0xcd, 0x80");
SNIPPET(compat_fault, ".byte 0x40, 0x49, 0x36, 0x8a, 0x02, 0xcd, 0x80");

static void compatibility_mode(void)
{
	if (!begin_with(to_compat))
		return;
	low_pt[0x21] = FRAME(OTHER) | ALL;
	flush_tlb();
	for (unsigned n = 0; n < 4 && !failed(); n++) {
		put_code(OTHER, 0, compat_code);
		if (n & 1)
			put_code(OTHER, 0, compat_fault);
		*(volatile u64 *)AT(STACK) = 0x21000;
		*(volatile u64 *)(AT(STACK) + 8) = USER_CS32;
		in.r[RSP] = U(STACK);
		in.r[RAX] = in.r[RCX] = 41;
		in.r[RDX] = 0xdeadbeef;
		run();
		want_equal(got_vector, n & 1 ? PF : EXIT_VECTOR);
		want_equal(out.cs, USER_CS32);
		want_equal(out.ip, n & 1 ? 0x21002 : 0x21006);
		want_equal(out.r[RAX], 42);
		want_equal(out.r[RCX], 40);
		want_equal(out.r[RSP] & 0xffffffff, (U(STACK) + 16) & 0xffffffff);
	}
	low_pt[0x21] = 0x21000 | P | RW;
	flush_tlb();
}

SNIPPET(load_selectors,
	"mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es; mov %ds, %ecx\n\t"
	"int $0x80; mov %ds, %edx; mov %es, %esi; xor %eax, %eax\n\t"
	"mov %eax, %fs; mov %eax, %ds; int $0x80; mov %ds, %r8d; mov %es, %r9d\n\t"
	"mov %fs, %r10d; int $0x80");

static void selectors_loaded(void)
{
	if (!begin_with(load_selectors))
		return;
	for (unsigned n = 0; n < 10 && !failed(); n++) {
		__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(KDATA));
		in.ip = U(CODE);
		run();
		want_equal(got_vector, EXIT_VECTOR);
		want_equal(out.r[RCX], 0x2b);
		go_on();
		want_equal(got_vector, EXIT_VECTOR);
		want_equal(out.r[RDX], 0x2b);
		want_equal(out.r[RSI], 0x2b);
		go_on();
		want_equal(out.r[R8], 0);
		want_equal(out.r[R9], 0x2b);
		want_equal(out.r[R10], 0);
	}
}

const struct test_case cases[] = {
	CASE(registers_across_traps, "SDM 3 6.12, SDM 2 SYSCALL"),
	CASE(registers_by_sysret, "SDM 2 SYSRET"),
	CASE(fs_and_gs_base, "SDM 2 WRFSBASE"),
	CASE(vector_state_kept, "SDM 1 13"),
	CASE(vector_state_both_ways, "SDM 1 13"),
	CASE(xm_and_mf, "SDM 3 6.15"),
	CASE(exceptions, "SDM 3 6.15"),
	CASE(page_fault_codes, "SDM 3 4.7"),
	CASE(accessed_and_dirty, "SDM 3 4.8"),
	CASE(large_page, "SDM 3 4.8"),
	CASE(upper_levels, "SDM 3 4.6"),
	CASE(remapped, "SDM 3 4.10.4"),
	CASE(another_table, "SDM 3 4.10.4"),
	CASE(changed_by_an_interrupt, "SDM 3 4.10.4"),
	CASE(two_spaces, "SDM 3 4.10.4"),
	CASE(two_spaces_with_pcid, "SDM 3 4.10.4"),
	CASE(code_unmapped, "SDM 3 4.10.4"),
	CASE(written_by_the_kernel, "SDM 3 4.10"),
	CASE(code_written_by_the_kernel, "SDM 3 8.1.3"),
	CASE(jit_page, "SDM 3 8.1.3"),
	CASE(rdtsc_in_user_mode, "SDM 2 RDTSC"),
	CASE(single_step, "SDM 3 17.3.1.4"),
	CASE(single_step_into_traps, "SDM 3 17.3.1.4"),
	CASE(alignment_check, "SDM 3 6.15"),
	CASE(nested_task_flag, "SDM 1 3.4.3"),
	CASE(breakpoints, "SDM 3 17.2"),
	CASE(apic_page, "SDM 3 11.4.1"),
	CASE(odd_addresses, "SDM 1 3.3.7.1"),
	CASE(jumps_far_away, "SDM 3 4.7"),
	CASE(rep_movsb_faults, "SDM 2 REP"),
	CASE(loop_is_interrupted, "SDM 3 6.8"),
	CASE(bases_in_the_upper_half, "SDM 2 WRFSBASE"),
	CASE(compatibility_mode, "SDM 2 RET"),
	CASE(selectors_loaded, "SDM 2 MOV"),
	CASES_END,
};
