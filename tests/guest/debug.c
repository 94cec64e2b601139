/*
 * Debug exceptions: single steps, breakpoints, DR6 and DR7, RF, and the shadows of MOV SS
 * and STI. SDM volume 3 chapter 17 (17.2 registers, 17.3 exceptions), 6.8.3 (MOV SS), SDM
 * 2 STI.
 */
#include "rt.h"

#define DR6_FIXED 0xffff0ff0u
#define BS        (1 << 14)
#define BD        (1 << 13)
#define DR7_FIXED 0x400
#define DR7_GD    (1 << 13)
/* Breakpoint n: enabled locally; kind 0 execution, 1 write, 2 I/O, 3 access; len 0 1, 1
 * 2, 2 8, 3 4. */
#define BREAK(n, kind, len)                                                              \
	(1u << (2 * (n)) | (u32)(kind) << (16 + 4 * (n)) | (u32)(len) << (18 + 4 * (n)))

static volatile u64 data[4] __attribute__((aligned(64)));

/* ---- a record of all #DB ---- */

static struct {
	word ip, dr6, flags;
} steps[64];
static volatile unsigned step_count, step_max;

static void on_db(struct frame *f)
{
	if (step_count < ARRAY_SIZE(steps)) {
		steps[step_count].ip = f->ip;
		steps[step_count].dr6 = read_dr6();
		steps[step_count].flags = f->flags;
	}
	write_dr6(DR6_FIXED);
	/* Fault-like ones go on behind the breakpoint. */
	f->flags |= FL_RF;
	if (++step_count >= step_max)
		f->flags &= ~(word)FL_TF;
}

static void record_steps(unsigned max)
{
	hook[DB] = on_db;
	step_count = 0;
	step_max = max;
	write_dr6(DR6_FIXED);
}

static void record_end(void)
{
	hook[DB] = NULL;
	write_dr7(DR7_FIXED);
	write_dr6(DR6_FIXED);
}

static void want_step(int line, unsigned n, word ip, word dr6)
{
	if (n >= step_count)
		fail("line %d: only %u debug exceptions, want more", line, step_count);
	else if (steps[n].ip != ip)
		fail("line %d: #DB %u: got ip %lx want %lx (dr6 %lx)", line, n,
		     steps[n].ip, ip, steps[n].dr6);
	else if (steps[n].dr6 != (DR6_FIXED | dr6))
		fail("line %d: #DB %u: got dr6 %lx want %lx", line, n, steps[n].dr6,
		     DR6_FIXED | dr6);
}
#define want_step(n, ip, dr6) want_step(__LINE__, n, ip, dr6)
#define want_steps(n)         want_equal(step_count, n)

/* Labels in assembly. */
#define LABEL(l) extern const u8 l[]
#define AT(l)    ((word)(l))
/* Set TF; the instruction behind is the first to be stepped. */
#define SET_TF   "pushf\n\tor" W " $0x100, (%%" W_SP ")\n\tpopf\n\t"
#define CLEAR_TF "pushf\n\tand" W " $~0x100, (%%" W_SP ")\n\tpopf\n\t"

LABEL(ss0);
LABEL(ss1);
LABEL(ss2);
LABEL(ss3);
LABEL(ss4);

/* One trap behind each instruction, with TF in the pushed flags. POPF itself is not
 * trapped. */
static NOINLINE void single_step(void)
{
	record_steps(100);
	__asm__ volatile(SET_TF "ss0: nop\n"
				"ss1:\tjmp ss2\n\tnop\n"
				"ss2:\tmov $1, %%eax\n"
				"ss3:\t" CLEAR_TF "ss4:\n"
			 :
			 :
			 : "eax", "memory", "cc");
	want_step(0, AT(ss1), BS);
	want_step(1, AT(ss2), BS);
	want_step(2, AT(ss3), BS);
	/* pushf, and, popf: the last is trapped too, as TF was set when it began. */
	want_step(5, AT(ss4), BS);
	want_steps(6);
	want(steps[0].flags & FL_TF);
	want(!(steps[5].flags & FL_TF));
	want(!(steps[0].flags & FL_RF));
	record_end();
}

LABEL(rp0);
LABEL(rp1);

/* Each iteration of REP traps, at the instruction until the last. */
static NOINLINE void single_step_rep(void)
{
	record_steps(100);
	__asm__ volatile("mov $3, %%ecx\n\tlea %0, %%" W_DI "\n\t" SET_TF
			 "rp0: rep stosb\n"
			 "rp1:\t" CLEAR_TF
			 :
			 : "m"(data)
			 : W_DI, "ecx", "memory", "cc");
	want_step(0, AT(rp0), BS);
	want_step(1, AT(rp0), BS);
	want_step(2, AT(rp1), BS);
	want_steps(6);
	record_end();
}

LABEL(si1);

static volatile word int_flags;

static void on_int(struct frame *f)
{
	int_flags = f->flags;
	/* TF is off in here. */
	if (read_flags() & FL_TF)
		int_flags |= 1ul << 31;
}

/* INT n pushes TF and clears it: no trap in the handler, the next is behind what follows.
 */
static NOINLINE void single_step_int(void)
{
	hook[0x81] = on_int;
	record_steps(100);
	__asm__ volatile(SET_TF "int $0x81\n"
				"\tnop\n"
				"si1:\t" CLEAR_TF
			 :
			 :
			 : "memory", "cc");
	want_step(0, AT(si1), BS);
	want_steps(4);
	want_equal(int_flags & (FL_TF | 1ul << 31), FL_TF);
	hook[0x81] = NULL;
	record_end();
}

LABEL(ms0);
LABEL(ms1);

/* MOV SS holds a trap back for one instruction; then there is one for both. */
static NOINLINE void single_step_mov_ss(void)
{
	record_steps(100);
	__asm__ volatile("mov %0, %%eax\n\t" SET_TF "ms0: mov %%eax, %%ss\n\t"
			 "nop\n"
			 "ms1:\t" CLEAR_TF
			 :
			 : "i"(KDATA)
			 : "eax", "memory", "cc");
	want_step(0, AT(ms1), BS);
	want_steps(4);
	record_end();
}

/* A fault of the instruction: it is not done, so it does not trap. */
static NOINLINE void single_step_fault(void)
{
	step_count = 0;
	record_steps(100);
	TRY(SET_TF, "ud2", : : : "memory", "cc");
	want_fault(UD, 0);
	want_steps(0);
	want_equal(trap.flags & (FL_TF | FL_RF), FL_TF | FL_RF);
	record_end();
}

/* ---- breakpoints ---- */

LABEL(eb0);
LABEL(eb1);

/* An instruction breakpoint is a fault: RIP is at it. RF lets it go on, for one
 * instruction. */
static NOINLINE void execution(void)
{
	static volatile u32 n;

	n = 0;
	record_steps(100);
	write_dr0(AT(eb0));
	write_dr7(DR7_FIXED | BREAK(0, 0, 0));
	__asm__ volatile("mov $3, %%ecx\n"
			 "1:\tnop\n"
			 "eb0:\tincl %0\n\t"
			 "dec %%ecx\n\t"
			 "jnz 1b"
			 : "+m"(n)
			 :
			 : "ecx", "memory", "cc");
	want_equal(n, 3);
	want_steps(3);
	want_step(0, AT(eb0), 1);
	want_step(2, AT(eb0), 1);
	/* The image has RF 0 on an instruction breakpoint of these processors or 1: not
	 * asked. */
	/* Not in the middle of an instruction. */
	record_steps(100);
	write_dr0(AT(eb0) + 1);
	__asm__ volatile("jmp eb0_copy\neb0_copy: incl %0" : "+m"(n) : : "memory", "cc");
	want_steps(0);
	record_end();
}

/* Global and local enables, and none. */
static NOINLINE void enables(void)
{
	static const struct {
		u32 dr7;
		unsigned hits;
	} table[] = { { 0, 0 }, { 1, 1 }, { 2, 1 }, { 3, 1 }, { 1 << 2, 0 } };

	write_dr0(AT(eb1));
	write_dr1(0);
	/* Volatile: there is one label, so the loop must not be unrolled. */
	for (volatile unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		record_steps(100);
		write_dr7(DR7_FIXED | table[i].dr7);
		__asm__ volatile(".global eb1\neb1: nop");
		want_steps(table[i].hits);
	}
	record_end();
}

LABEL(dw0);
LABEL(dw1);
LABEL(dw2);
LABEL(dw3);

/* Data breakpoints are traps: RIP is behind, the access is done. */
static NOINLINE void data_write(void)
{
	word v;

	record_steps(100);
	data[0] = 5;
	write_dr1(AT(data));
	write_dr7(DR7_FIXED | BREAK(1, 1, 3));
	__asm__ volatile("movl $7, %1\n"
			 "dw0:\tmov %1, %%eax\n\t"
			 "mov %%" W_AX ", %0\n\t"
			 "addl $1, %1\n"
			 "dw1:\tmovb $9, 3+%1\n"
			 "dw2:\tmovb $9, 4+%1\n\t"
			 "movl $9, -2+%1\n"
			 "dw3:\n"
			 : "=&b"(v), "+m"(data[0])
			 :
			 : "eax", "memory", "cc");
	want_equal((u32)v, 7);
	want_step(0, AT(dw0), 2);
	want_step(1, AT(dw1), 2);
	want_step(2, AT(dw2), 2);
	want_step(3, AT(dw3), 2);
	want_steps(4);
	record_end();
}

LABEL(da0);
LABEL(da1);
LABEL(da2);
LABEL(da3);

static NOINLINE void data_access(void)
{
	record_steps(100);
	write_dr2(AT(data) + 8);
	write_dr7(DR7_FIXED | BREAK(2, 3, 1));
	__asm__ volatile("movb 8+%0, %%al\n"
			 "da0:\tmovw 9+%0, %%ax\n"
			 "da1:\tmovb 10+%0, %%al\n\t"
			 "movb 7+%0, %%al\n\t"
			 "push 8+%0\n"
			 "da2:\tpop 8+%0\n"
			 "da3:\n"
			 :
			 : "m"(data[0])
			 : "eax", "memory");
	want_step(0, AT(da0), 4);
	want_step(1, AT(da1), 4);
	want_step(2, AT(da2), 4);
	want_step(3, AT(da3), 4);
	want_steps(4);
	record_end();
}

LABEL(dl0);
LABEL(dl1);

/* 8 bytes; the low bits of the address are ignored. Two breakpoints at once. */
static NOINLINE void data_length(void)
{
	record_steps(100);
	write_dr0(AT(data) + 8 + 5);
	write_dr3(AT(data) + 15);
	write_dr7(DR7_FIXED | BREAK(0, 1, W64 ? 2 : 3) | BREAK(3, 3, 0));
	__asm__ volatile("movb $1, 12+%0\n"
			 "dl0:\tmovb $1, 15+%0\n"
			 "dl1:\tmovb $1, 16+%0\n"
			 :
			 : "m"(data[0])
			 : "memory");
	want_step(0, AT(dl0), 1);
	want_step(1, AT(dl1), 9);
	want_steps(2);
	record_end();
}

LABEL(dr0_);
LABEL(dr1_);

/* In REP: behind the iteration that hit. */
static NOINLINE void data_rep(void)
{
	word left = 0;

	record_steps(100);
	write_dr0(AT(data) + 2);
	write_dr7(DR7_FIXED | BREAK(0, 1, 0));
	__asm__ volatile("mov $5, %%ecx\n\t"
			 "lea %1, %%" W_DI "\n"
			 "dr0_:\trep stosb\n"
			 "dr1_:\tmov %%" W_CX ", %0\n"
			 : "=&b"(left)
			 : "m"(data[0])
			 : W_DI, "ecx", "memory");
	want_steps(1);
	want_step(0, AT(dr0_), 1);
	want_equal(left, 0);
	record_end();
}

LABEL(io0);
LABEL(io1);
LABEL(io2);

/* I/O breakpoints need CR4.DE. Traps. */
static NOINLINE void io(void)
{
	record_steps(100);
	write_dr0(0x80);
	write_dr7(DR7_FIXED);
	write_cr4(read_cr4() | 8);
	write_dr7(DR7_FIXED | BREAK(0, 2, 1));
	__asm__ volatile("outb %%al, $0x80\n"
			 "io0:\tinb $0x81, %%al\n"
			 "io1:\tinb $0x82, %%al\n\t"
			 "inl $0x7e, %%eax\n"
			 "io2:\n"
			 :
			 : "a"(0)
			 : "memory");
	want_step(0, AT(io0), 1);
	want_step(1, AT(io1), 1);
	want_step(2, AT(io2), 1);
	want_steps(3);
	record_end();
	write_cr4(read_cr4() & ~8ul);
}

LABEL(md0);
LABEL(md1);

/* MOV SS with a data breakpoint: the trap comes behind the next instruction. */
static NOINLINE void data_mov_ss(void)
{
	data[0] = KDATA;
	record_steps(100);
	write_dr0(AT(data));
	write_dr7(DR7_FIXED | BREAK(0, 3, 0));
	__asm__ volatile("mov %0, %%ss\n\t"
			 "nop\n"
			 "md0:\tnop\n"
			 :
			 : "m"(data[0])
			 : "memory");
	want_steps(1);
	want_step(0, AT(md0), 1);
	record_end();
}

/* An instruction breakpoint right behind MOV SS is not seen. */
static NOINLINE void execution_mov_ss(void)
{
	record_steps(100);
	write_dr0(AT(md1));
	write_dr7(DR7_FIXED | BREAK(0, 0, 0));
	__asm__ volatile("mov %0, %%eax\n\t"
			 "mov %%eax, %%ss\n"
			 "md1:\tnop\n"
			 :
			 : "i"(KDATA)
			 : "eax", "memory");
	want_steps(0);
	record_end();
}

/* ---- the registers ---- */

static void dr6_dr7_fixed_bits(void)
{
	write_dr6(0);
	want_equal(read_dr6(), DR6_FIXED);
	write_dr6(0xffffffff);
	want_equal(read_dr6(), DR6_FIXED | 0xe00f);
	write_dr6(DR6_FIXED);
	write_dr7(0);
	want_equal(read_dr7(), DR7_FIXED);
	write_dr7(0xffff0300);
	want_equal(read_dr7(), 0xffff0700);
	write_dr7(DR7_FIXED);
#if W64
	TRY("", "mov %0, %%dr6", : : "r"(BIT(32)));
	want_fault(GP, 0);
	TRY("", "mov %0, %%dr7", : : "r"(BIT(63)));
	want_fault(GP, 0);
	write_dr0(~0ul);
	want_equal(read_dr0(), ~0ul);
	write_dr0(0);
#endif
}

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE. */
static void dr4_dr5(void)
{
	word v = 0;

	TRY("", ".byte 0x0f, 0x21, 0xe0", : "=a"(v)); /* MOV EAX, DR4 */
	want_none();
	want_equal(v, read_dr6());
	TRY("", ".byte 0x0f, 0x21, 0xe8", : "=a"(v));
	want_none();
	want_equal(v, read_dr7());
	write_cr4(read_cr4() | 8);
	TRY("", ".byte 0x0f, 0x21, 0xe0", : "=a"(v));
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0x23, 0xe8", : : "a"(DR7_FIXED));
	want_fault(UD, 0);
	write_cr4(read_cr4() & ~8ul);
}

/* DR7.GD: any access to a debug register is #DB, a fault, and GD goes off. */
static void general_detect(void)
{
	write_dr6(DR6_FIXED);
	write_dr7(DR7_FIXED | DR7_GD);
	TRY("", "mov %%dr0, %0", : : "a"(0l));
	want_fault(DB, 0);
	want_equal(trap.dr6, DR6_FIXED | BD);
	want_equal(read_dr7(), DR7_FIXED);
	write_dr6(DR6_FIXED);
}

/* DR6 keeps what it has; a new trap replaces bits 3:0 at most. */
static void dr6_sticky(void)
{
	write_dr6(DR6_FIXED | BS);
	write_dr0(AT(data));
	write_dr7(DR7_FIXED | BREAK(0, 1, 0));
	TRY("", "movb $0, %0", : "+m"(data[0]));
	want_trap(DB, 0);
	want_equal(trap.dr6, DR6_FIXED | BS | 1);
	write_dr7(DR7_FIXED);
	write_dr6(DR6_FIXED);
}

/* Breakpoints work in user mode too. */
static word user_access(word arg)
{
	(void)arg;
	return TRY("", "movb $0, %0", : "+m"(data[0]));
}

static void user_mode(void)
{
	write_dr0(USER(data));
	write_dr7(DR7_FIXED | BREAK(0, 1, 0));
	want_equal(user_run(user_access, 0), DB);
	want_trap(DB, 0);
	want_equal(trap.dr6, DR6_FIXED | 1);
	write_dr7(DR7_FIXED);
	write_dr6(DR6_FIXED);
	want_equal(user_run(user_access, 0), NONE);
}

/* The CPU's own accesses while it delivers an exception do not count for the instruction.
 */

/* ---- single-stepping on branches: SDM 3 17.4.3 ---- */

#define DEBUGCTL 0x1d9

static u8 *put32(u8 *p, u8 opcode, u32 val)
{
	volatile u8 *q = p;

	*q++ = opcode;
	for (unsigned i = 0; i < 4; i++)
		*q++ = (u8)(val >> 8 * i);
	return p + 5;
}

static void branch_steps(void)
{
	/* With ZF 1, ECX 2 and EDX 12 bytes behind the instruction; then INT3s. */
	static const struct {
		const char *name;
		u8 code[8], len;
		u8 stop; /* where it is then, from the instruction on; 0: at an INT3 */
	} table[] = {
		{ "JMP", { 0xeb, 0x02 }, 2, 4 },
		{ "Jcc, taken", { 0x74, 0x02 }, 2, 4 },
		{ "Jcc, not taken", { 0x75, 0x02 }, 2, 0 },
		{ "LOOP, taken", { 0xe2, 0x02 }, 2, 4 },
		{ "LOOPNE, not taken", { 0xe0, 0x02 }, 2, 0 },
		{ "JCXZ, not taken", { 0xe3, 0x02 }, 2, 0 },
		{ "CALL", { 0xe8, 0x01, 0, 0, 0 }, 5, 6 },
		{ "JMP by register", { 0xff, 0xe2 }, 2, 12 },
		{ "PUSH, RET", { 0x52, 0xc3 }, 2, 12 },
		{ "JMP to what follows", { 0xeb, 0x00 }, 2, 2 },
		{ "MOV", { 0x89, 0xc0 }, 2, 0 },
		{ "REP MOVSB", { 0xf3, 0xa4 }, 2, 0 },
		{ "CPUID", { 0x0f, 0xa2 }, 2, 0 },
	};
	static u8 code[64], buffer[64];

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u8 *p = code;

		row("%s", table[i].name);
		p = put32(p, 0xb9, 2);
		p = put32(p, 0xba, (u32)(word)code + 20 + 12);
		p = put32(p, 0xbe, (u32)(word)buffer);
		p = put32(p, 0xbf, (u32)(word)buffer + 32);
		for (unsigned k = 0; k < 16; k++)
			((volatile u8 *)p)[k] =
				k < table[i].len ? table[i].code[k] : 0xcc;
		for (unsigned btf = 0; btf < 2; btf++) {
			bool stops = table[i].stop;

			write_dr6(0xffff0ff0);
			wrmsr(DEBUGCTL, btf ? 2 : 0);
			enter((word)code, KCODE, FL_TF | 0x40,
			      (word)user_stack + STACK_SIZE - 64, KDATA);
			/* Without it, behind the first instruction. */
			if (!btf) {
				want_equal(trap.vector, DB);
				want_equal(trap.ip, (word)code + 5);
				continue;
			}
			want_equal(trap.vector, stops ? DB : BP);
			want_equal(trap.ip,
				   (word)p + (stops ? table[i].stop : table[i].len + 1u));
			/* It goes off with the trap. */
			want_equal(rdmsr(DEBUGCTL), stops ? 0 : 2);
			if (stops)
				want_equal(trap.dr6 & 0x4000, 0x4000);
		}
	}
	wrmsr(DEBUGCTL, 0);
	write_dr6(0xffff0ff0);
}

/* ---- which instructions read, which write ---- */

enum { READS = 1, WRITES = 2, BOTH = 3, NEITHER = 0 };

/* clang-format off */
static const struct watched {
	const char *name;
	u8 code[6], len, does;
} watched[] = {
	{ "mov eax, [bx]",      { 0x8b, 0x03 }, 2, READS },
	{ "add eax, [bx]",      { 0x03, 0x03 }, 2, READS },
	{ "cmp [bx], eax",      { 0x39, 0x03 }, 2, READS },
	{ "test [bx], eax",     { 0x85, 0x03 }, 2, READS },
	{ "movzx eax, w [bx]",  { 0x0f, 0xb7, 0x03 }, 3, READS },
	{ "imul eax, [bx]",     { 0x0f, 0xaf, 0x03 }, 3, READS },
	{ "mul [bx]",           { 0xf7, 0x23 }, 2, READS },
	{ "push [bx]",          { 0xff, 0x33, 0x58 }, 2, READS },
	{ "bt [bx], 1",         { 0x0f, 0xba, 0x23, 0x01 }, 4, READS },
	{ "cmov, not taken",    { 0x0f, 0x45, 0x03 }, 3, READS },
	{ "xlat",               { 0xd7 }, 1, READS },
	{ "lodsd",              { 0xad }, 1, READS },
	{ "scasd",              { 0xaf }, 1, READS },
	{ "cmpsd",              { 0xa7 }, 1, READS },
	{ "outsb",              { 0x6e }, 1, READS },
	{ "fld m32",            { 0xd9, 0x03 }, 2, READS },
	{ "fild m32",           { 0xdb, 0x03 }, 2, READS },
	{ "fldcw",              { 0xd9, 0x2b }, 2, READS },
	{ "movups load",        { 0x0f, 0x10, 0x03 }, 3, READS },
	{ "movd xmm0, [bx]",    { 0x66, 0x0f, 0x6e, 0x03 }, 4, READS },
	{ "verr [bx]",          { 0x0f, 0x00, 0x23 }, 3, READS },
	{ "mov [bx], eax",      { 0x89, 0x03 }, 2, WRITES },
	{ "mov [bx], imm",      { 0xc7, 0x03, 1, 0, 0, 0 }, 6, WRITES },
	{ "mov [bx], es",       { 0x8c, 0x03 }, 2, WRITES },
	{ "stosd",              { 0xab }, 1, WRITES },
	{ "insb",               { 0x6c }, 1, WRITES },
	{ "setz [bx]",          { 0x0f, 0x94, 0x03 }, 3, WRITES },
	{ "movnti",             { 0x0f, 0xc3, 0x03 }, 3, WRITES },
	{ "fst m32",            { 0xd9, 0x13 }, 2, WRITES },
	{ "fnstcw",             { 0xd9, 0x3b }, 2, WRITES },
	{ "fnstsw",             { 0xdd, 0x3b }, 2, WRITES },
	{ "movups store",       { 0x0f, 0x11, 0x03 }, 3, WRITES },
	{ "movd [bx], xmm0",    { 0x66, 0x0f, 0x7e, 0x03 }, 4, WRITES },
	{ "stmxcsr",            { 0x0f, 0xae, 0x1b }, 3, WRITES },
	{ "smsw [bx]",          { 0x0f, 0x01, 0x23 }, 3, WRITES },
	{ "sldt [bx]",          { 0x0f, 0x00, 0x03 }, 3, WRITES },
	{ "sgdt [bx]",          { 0x0f, 0x01, 0x03 }, 3, WRITES },
	{ "add [bx], eax",      { 0x01, 0x03 }, 2, BOTH },
	{ "inc [bx]",           { 0xff, 0x03 }, 2, BOTH },
	{ "not [bx]",           { 0xf7, 0x13 }, 2, BOTH },
	{ "shl [bx], 1",        { 0xd1, 0x23 }, 2, BOTH },
	{ "xchg [bx], eax",     { 0x87, 0x03 }, 2, BOTH },
	{ "xadd [bx], eax",     { 0x0f, 0xc1, 0x03 }, 3, BOTH },
	{ "bts [bx], 1",        { 0x0f, 0xba, 0x2b, 0x01 }, 4, BOTH },
	{ "lock add [bx], eax", { 0xf0, 0x01, 0x03 }, 3, BOTH },
	{ "cmpxchg, equal",     { 0x0f, 0xb1, 0x0b }, 3, BOTH },
	{ "cmpxchg, not equal", { 0xb0, 0x77, 0x0f, 0xb1, 0x0b }, 5, BOTH },
	{ "cmpxchg8b",          { 0x0f, 0xc7, 0x0b }, 3, BOTH },
	{ "movsd, onto itself", { 0xa5 }, 1, BOTH },
	{ "lea eax, [bx]",      { 0x8d, 0x03 }, 2, NEITHER },
	{ "nop [bx]",           { 0x0f, 0x1f, 0x03 }, 3, NEITHER },
	{ "prefetch [bx]",      { 0x0f, 0x18, 0x0b }, 3, NEITHER },
	{ "invlpg [bx]",        { 0x0f, 0x01, 0x3b }, 3, NEITHER },
};
/* clang-format on */

static void data_by_instruction(void)
{
	static u8 code[16];
	static volatile u32 target[16] __attribute__((aligned(64)));
	word cr4 = read_cr4();

	write_cr4(cr4 | BIT(9));
	__asm__ volatile("clts; fninit");
	for (unsigned i = 0; i < ARRAY_SIZE(watched); i++)
		for (unsigned rw = 1; rw <= 3; rw += 2) {
			const struct watched *w = &watched[i];
			volatile u8 *p = code;
			bool hit = rw == 3 ? w->does != NEITHER : w->does & WRITES;
			word si = (word)target, di = (word)target;

			row("%s, %s", w->name, rw == 3 ? "reads and writes" : "writes");
			for (unsigned k = 0; k < sizeof(w->code); k++)
				p[k] = k < w->len || w->code[k] ? w->code[k] : 0x90;
			p[sizeof(w->code)] = 0xc3;
			target[0] = 0x300;
			target[1] = target[2] = target[3] = 0;
			write_dr0((word)target);
			write_dr7(0x401 | rw << 16 | 3 << 18);
			TRY("", "call *%[code]",
			    : "+S"(si), "+D"(di)
			    : [code] "r"(code), "a"(0x300l), "b"(target), "c"(0l),
			      "d"(0x80l)
			    : "memory", "cc");
			write_dr7(0x400);
			want_equal(trap.vector, hit ? DB : NONE);
			if (hit) {
				want_equal(trap.ip, (word)code + w->len);
				want_equal(trap.dr6 & 0xe00f, 1);
			}
			write_dr6(0xffff0ff0);
			__asm__ volatile("fninit");
		}
	write_dr0(0);
	write_cr4(cr4);
}

const struct test_case cases[] = {
	CASE(single_step, "SDM 3 17.3.1.4"),
	CASE(single_step_rep, "SDM 3 17.3.1.4"),
	CASE(single_step_int, "SDM 3 17.3.1.4"),
	CASE(single_step_mov_ss, "SDM 3 6.8.3"),
	CASE(single_step_fault, "SDM 3 17.3.1.4"),
	CASE(branch_steps, "SDM 3 17.4.3"),
	CASE(execution, "SDM 3 17.3.1.1"),
	CASE(enables, "SDM 3 17.2.4"),
	CASE(data_write, "SDM 3 17.3.1.2"),
	CASE(data_access, "SDM 3 17.3.1.2"),
	CASE(data_length, "SDM 3 17.2.5"),
	CASE(data_by_instruction, "SDM 3 17.2.4"),
	CASE(data_rep, "SDM 3 17.3.1.2"),
	CASE(data_mov_ss, "SDM 3 6.8.3"),
	CASE(execution_mov_ss, "SDM 3 6.8.3"),
	CASE(io, "SDM 3 17.3.1.2"),
	CASE(dr6_dr7_fixed_bits, "SDM 3 17.2"),
	CASE(dr4_dr5, "SDM 3 17.2.2"),
	CASE(general_detect, "SDM 3 17.3.1.3"),
	CASE(dr6_sticky, "SDM 3 17.2.3"),
	CASE(user_mode, "SDM 3 17.3.1.2"),
	CASES_END,
};
