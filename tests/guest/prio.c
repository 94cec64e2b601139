/*
 * Which of two exceptions comes first, and what double faults are made of.
 *
 * SDM volume 3 section 6.9, table 6-2 (priorities), table 6-5 (double faults), 17.3;
 * volume 2 for those of one instruction. A row is an instruction with several things
 * wrong with it, and the exception that it has.
 */
#include "page.h"

/* Two pages: PAGE can be read and written, HOLE behind it is not there. */
#define PAGE path.va
#define HOLE (path.va + 0x1000)
#define BAD  0x800000000000ul

static PAGED u8 code[4096];

enum {
	TF = 1 << 0,    /* traps behind the instruction before */
	X_BP = 1 << 1,  /* instruction breakpoint on it */
	TS_ON = 1 << 2, /* CR0.TS */
	EM = 1 << 3,
	NO_OSFXSR = 1 << 4,
	AC_ON = 1 << 5,
	USER_ROW = 1 << 6,
	RBX_HOLE = 1 << 7,
	RBX_BAD = 1 << 8,
	RBX_ODD = 1 << 9,   /* PAGE + 1 */
	RBX_EDGE = 1 << 10, /* HOLE - 4 + 1 */
	AT_EDGE = 1 << 11,  /* the instruction runs into the hole */
	MF_PENDING = 1 << 12,
	D_BP = 1 << 13, /* data breakpoint on [RBX] */
};

struct row {
	const char *what;
	u8 code[16], len;
	u32 flags;
	u16 vector, error;
};

/* clang-format off */
static const struct row rows[] = {
	/* 6-2: traps on the previous instruction come before everything. */
	{ "TF before #UD", { 0x0f, 0x0b }, 2, TF, DB, 0 },
	{ "TF before #GP", { 0x0f, 0x22, 0xe0 }, 3, TF, DB, 0 },
	{ "TF before #PF", { 0x8b, 0x03 }, 2, TF | RBX_HOLE, DB, 0 },
	{ "TF before #NM", { 0xd9, 0xe8 }, 2, TF | TS_ON, DB, 0 },
	{ "TF before a fetch #PF", { 0x48, 0xb8, 0 }, 3, TF | AT_EDGE, DB, 0 },
	{ "TF before #GP by length", { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 }, 16, TF, DB, 0 },
	/* Then instruction breakpoints, before what the fetch finds. */
	{ "breakpoint before #UD", { 0x0f, 0x0b }, 2, X_BP, DB, 0 },
	{ "breakpoint before #GP by length", { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 }, 16, X_BP, DB, 0 },
	{ "breakpoint before a fetch #PF", { 0x48, 0xb8, 0 }, 3, X_BP | AT_EDGE, DB, 0 },
	{ "breakpoint before #NM", { 0xd9, 0xe8 }, 2, X_BP | TS_ON, DB, 0 },
	{ "breakpoint before #PF", { 0x8b, 0x03 }, 2, X_BP | RBX_HOLE, DB, 0 },
	{ "breakpoint before #MF", { 0xd9, 0xe8 }, 2, X_BP | MF_PENDING, DB, 0 },
	/* Fetching: a page that is missing, before the length is known to be too long. */
	{ "fetch #PF", { 0x48, 0xb8, 0 }, 3, AT_EDGE, PF, 0x10 },
	{ "fetch #PF before #GP by length", { 0x66, 0x66, 0x66, 0x66 }, 4, AT_EDGE, PF, 0x10 },
	{ "fetch #PF before #UD", { 0xf0, 0x0f }, 2, AT_EDGE, PF, 0x10 },
	/* Decoding: length, then #UD, then #NM. */
	{ "#GP by length before #UD", { 0xf0, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
	  0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 }, 16, 0, GP, 0 },
	{ "#UD by LOCK before #NM", { 0xf0, 0xd9, 0xe8 }, 3, TS_ON, UD, 0 },
	{ "#UD by EM before #NM", { 0x0f, 0x28, 0xc1 }, 3, EM | TS_ON, UD, 0 },
	{ "#UD by OSFXSR before #NM", { 0x0f, 0x28, 0xc1 }, 3, NO_OSFXSR | TS_ON, UD, 0 },
	{ "#UD by OSFXSR before #PF", { 0x0f, 0x28, 0x03 }, 3, NO_OSFXSR | RBX_HOLE, UD, 0 },
	{ "#UD by OSFXSR before #GP", { 0x0f, 0x28, 0x03 }, 3, NO_OSFXSR | RBX_ODD, UD, 0 },
	{ "#UD of MMX by EM before #NM", { 0x0f, 0x6f, 0x03 }, 3, EM | TS_ON, UD, 0 },
	{ "#UD by LOCK before #PF", { 0xf0, 0x8b, 0x03 }, 3, RBX_HOLE, UD, 0 },
	{ "#UD by LOCK before #GP at CPL 3", { 0xf0, 0x0f, 0x01, 0x13 }, 4, USER_ROW, UD, 0 },
	{ "#UD by MOV CR1 before #GP at CPL 3", { 0x0f, 0x20, 0xc8 }, 3, USER_ROW, UD, 0 },
	{ "#NM before #PF", { 0x0f, 0x28, 0x03 }, 3, TS_ON | RBX_HOLE, NM, 0 },
	{ "#NM before #GP by alignment", { 0x0f, 0x28, 0x03 }, 3, TS_ON | RBX_ODD, NM, 0 },
	{ "#NM before #GP not canonical", { 0x0f, 0x28, 0x03 }, 3, TS_ON | RBX_BAD, NM, 0 },
	{ "#NM before #MF", { 0xd9, 0xe8 }, 2, TS_ON | MF_PENDING, NM, 0 },
	{ "#NM of x87 before #PF", { 0xdd, 0x03 }, 2, TS_ON | RBX_HOLE, NM, 0 },
	{ "#NM of FXSAVE before #GP", { 0x0f, 0xae, 0x03 }, 3, TS_ON | RBX_ODD, NM, 0 },
	/* #MF comes before the operand is looked at; control instructions do not wait. */
	{ "#MF before #PF", { 0xdd, 0x03 }, 2, MF_PENDING | RBX_HOLE, MF, 0 },
	{ "#MF before #GP", { 0xdd, 0x03 }, 2, MF_PENDING | RBX_BAD, MF, 0 },
	{ "#MF by WAIT", { 0x9b }, 1, MF_PENDING, MF, 0 },
	{ "#MF by MMX", { 0x0f, 0x6f, 0x03 }, 3, MF_PENDING | RBX_HOLE, MF, 0 },
	{ "FNSTCW does not wait", { 0xd9, 0x3b }, 2, MF_PENDING | RBX_HOLE, PF, 2 },
	{ "FNSTENV does not wait", { 0xd9, 0x33 }, 2, MF_PENDING | RBX_HOLE, PF, 2 },
	{ "SSE does not wait", { 0x0f, 0x28, 0x03 }, 3, MF_PENDING | RBX_HOLE, PF, 0 },
	/* Privilege before the operand. */
	{ "privilege before #PF", { 0x0f, 0x01, 0x13 }, 3, USER_ROW | RBX_HOLE, GP, 0 },
	{ "privilege before not canonical", { 0x0f, 0x01, 0x1b }, 3, USER_ROW | RBX_BAD, GP, 0 },
	{ "privilege before #PF of LMSW", { 0x0f, 0x01, 0x33 }, 3, USER_ROW | RBX_HOLE, GP, 0 },
	{ "privilege before #PF of LLDT", { 0x0f, 0x00, 0x13 }, 3, USER_ROW | RBX_HOLE, GP, 0 },
	{ "privilege before #DB by GD", { 0x0f, 0x21, 0xc0 }, 3, USER_ROW, GP, 0 },
	/* The operand: canonical, aligned, mapped; and only then what it holds. */
	{ "not canonical before #AC", { 0x8b, 0x03 }, 2, USER_ROW | AC_ON | RBX_BAD, GP, 0 },
	{ "16-byte alignment before #PF", { 0x0f, 0x28, 0x43, 0x01 }, 4, RBX_HOLE, GP, 0 },
	{ "16-byte alignment of FXSAVE before #PF", { 0x0f, 0xae, 0x43, 0x08 }, 4, RBX_HOLE, GP, 0 },
	{ "#PF before #DE", { 0xf7, 0x33 }, 2, RBX_HOLE, PF, 0 },
	{ "not canonical before #DE", { 0xf7, 0x33 }, 2, RBX_BAD, GP, 0 },
	{ "#PF of a selector in memory", { 0x8e, 0x03 }, 2, RBX_HOLE, PF, 0 },
	{ "#PF of a far pointer", { 0xff, 0x2b }, 2, RBX_HOLE, PF, 0 },
	{ "#PF of a near target before #GP", { 0xff, 0x23 }, 2, RBX_HOLE, PF, 0 },
	{ "second page of an operand", { 0x8b, 0x03 }, 2, RBX_EDGE, PF, 0 },
	{ "write to the second page", { 0x89, 0x03 }, 2, RBX_EDGE, PF, 2 },
	{ "read-modify-write is a write", { 0x01, 0x03 }, 2, RBX_HOLE, PF, 2 },
	{ "CMPXCHG is a write", { 0x0f, 0xb1, 0x03 }, 3, RBX_HOLE, PF, 2 },
	{ "BT is a read", { 0x0f, 0xba, 0x23, 0x00 }, 4, RBX_HOLE, PF, 0 },
	{ "XCHG is a write", { 0x87, 0x03 }, 2, RBX_HOLE, PF, 2 },
	{ "SETcc is a write", { 0x0f, 0x90, 0x03 }, 3, RBX_HOLE, PF, 2 },
	{ "TEST is a read", { 0xf7, 0x03, 0, 0, 0, 0 }, 6, RBX_HOLE, PF, 0 },
	{ "SHL by 0 is one too", { 0xc1, 0x23, 0x00 }, 3, RBX_HOLE, PF, 2 },
	/* A fault takes the place of the traps it would have had. */
	{ "fault, no data breakpoint", { 0x8b, 0x03 }, 2, D_BP | RBX_HOLE, PF, 0 },
	{ "data breakpoint", { 0x88, 0x03 }, 2, D_BP, DB, 0 },
};
/* clang-format on */

/* FSW.ES: 1 / 0 with ZM unmasked. */
static void pending_mf(void)
{
	u16 fcw = 0x37b;

	__asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(fcw));
}

static u8 *put(u8 *p, u64 val, unsigned n)
{
	for (; n--; val >>= 8)
		*p++ = (u8)val;
	return p;
}

static u64 operand(const struct row *r)
{
	if (r->flags & RBX_HOLE)
		return HOLE;
	if (r->flags & RBX_BAD)
		return BAD;
	if (r->flags & RBX_EDGE)
		return HOLE - 3;
	return PAGE + (r->flags & RBX_ODD ? 1 : 0);
}

static void run_row(const struct row *r)
{
	bool user = r->flags & USER_ROW;
	word alias = user ? ALIAS : 0, cr0 = read_cr0(), flags = 0, at, addr;
	u8 *p = code, *insn;

	if (r->flags & AT_EDGE)
		p = (u8 *)(word)PHYS(TEST_PA) + 0x1000 - r->len - 11;
	addr = r->flags & AT_EDGE ? HOLE - r->len - 11 : (word)p + alias;
	/* mov rbx, operand; and a NOP, so that TF traps behind it */
	insn = p;
	p = put(put(p, 0xbb48, 2), operand(r), 8);
	*p++ = 0x90;
	at = addr + (word)(p - insn);
	for (unsigned i = 0; i < r->len; i++)
		*p++ = r->code[i];
	if (!(r->flags & AT_EDGE))
		*p = 0xcc;
	if (r->flags & TF) {
		flags |= FL_TF;
		/* The first instruction is the NOP. */
		addr += 10;
	}
	if (r->flags & MF_PENDING)
		pending_mf();
	write_cr4((read_cr4() & ~(word)BIT(9)) | (r->flags & NO_OSFXSR ? 0 : BIT(9)));
	if (r->flags & AC_ON)
		flags |= FL_AC;
	write_cr0((cr0 & ~(word)0xc) | BIT(5) | (r->flags & TS_ON ? 8 : 0) |
		  (r->flags & EM ? 4 : 0) | (r->flags & AC_ON ? BIT(18) : 0));
	write_dr6(0xffff0ff0);
	if (r->flags & X_BP) {
		write_dr0(at);
		write_dr7(0x401);
	} else if (r->flags & D_BP) {
		write_dr0(operand(r));
		write_dr7(0x401 | 3 << 16);
	}
	enter(addr, user ? UCODE64 : KCODE, flags,
	      (word)user_stack + STACK_SIZE - 256 + alias, user ? UDATA64 : KDATA);
	write_dr7(0x400);
	write_cr0(cr0 & ~(word)0xc);
	__asm__ volatile("fninit");
	checked();
	if (r->vector == DB && (r->flags & D_BP))
		at += r->len;
	if (trap.vector != r->vector || trap.error != r->error || trap.ip != at - alias)
		fail("%s: vector %lx error %lx ip %lx, want %x at %lx", r->what,
		     trap.vector, trap.error, trap.ip, r->vector, at - alias);
	else if (r->vector == DB && (trap.dr6 & 0xe00f) != (r->flags & TF ? 0x4000u : 1u))
		fail("%s: dr6 %lx", r->what, trap.dr6);
	write_dr6(0xffff0ff0);
}

static void priorities(void)
{
	paging_on(PAGING_4, true);
	path_set(3, TEST_PA, ALL);
	for (unsigned i = 0; i < ARRAY_SIZE(rows) && !failed(); i++) {
		row("%s", rows[i].what);
		run_row(&rows[i]);
	}
	write_cr4(read_cr4() & ~(word)BIT(9));
}

/* ---- double faults ---- */

/*
 * An exception of each class whose gate has something wrong with it: SDM 3 table 6-5. The
 * second is #NP of the gate, #GP of its type, or #PF by way of an IST that is not mapped.
 */
enum second { NOT_PRESENT, BAD_TYPE, NO_STACK, SECONDS };

#define SOFT 0x100 /* by INT n: benign whatever its number is */

static word first_of(unsigned vector)
{
	switch (vector) {
	case DE: return TRY("", "xor %%ecx, %%ecx; div %%ecx", : : : "eax", "ecx", "edx");
	case BP: return TRY("", "int3", :);
	case UD: return TRY("", "ud2", :);
	case NM:
		return TRY("mov %%cr0, %%rax; or $8, %%eax; mov %%rax, %%cr0", "fld1",
			   :
			   :
			   : "rax");
	case NP: return TRY("", "mov %0, %%fs", : : "r"(FREE_SEL));
	case SS: return TRY("", "mov %0, %%ss", : : "r"(FREE_SEL));
	case GP: return TRY("", "mov %0, %%fs", : : "r"(KDATA + 0x800));
	case PF: return TRY("", "movb (%0), %%al", : : "r"(HOLE) : "eax");
	case SOFT | DE: return TRY("", "int $0", :);
	case SOFT | GP: return TRY("", "int $13", :);
	case SOFT | PF: return TRY("", "int $14", :);
	default: return TRY("", "int $0x91", :);
	}
}

static bool contributory(unsigned vector)
{
	return vector == DE || (vector >= TS && vector <= GP);
}

static void double_fault_table(void)
{
	static const u16 firsts[] = { DE, BP, UD,   NM,        NP,        SS,
				      GP, PF, 0x91, SOFT | DE, SOFT | GP, SOFT | PF };

	paging_on(PAGING_4, true);
	path_set(3, TEST_PA, ALL);
	set_gdt(FREE_SEL, descriptor(0, 0xfffff, (D_KDATA & ~D_P) | D_G));
	tss.ist[1] = HOLE + 0x800;
	for (unsigned i = 0; i < ARRAY_SIZE(firsts); i++)
		for (unsigned s = 0; s < SECONDS && !failed(); s++) {
			unsigned first = firsts[i];
			unsigned second = s == NOT_PRESENT ? NP : s == BAD_TYPE ? GP : PF;
			bool df = (contributory(first) && contributory(second)) ||
				  first == PF;
			u32 attr = s == NOT_PRESENT ? D_TYPE(14) | D_DPL(3)
				   : s == BAD_TYPE  ? D_TYPE(12) | D_DPL(3) | D_P
						    : D_TYPE(14) | D_DPL(3) | D_P;
			bool ext = first != BP && first < 0x91;
			unsigned vector = first & 0xff;

			/* The second one's own gate must be good. */
			if (vector == second && !df)
				continue;
			row("%x%s, then #%s", vector, first & SOFT ? " by INT n" : "",
			    s == NOT_PRESENT ? "NP"
			    : s == BAD_TYPE  ? "GP"
					     : "PF");
			set_gate(vector, trap_entry[vector], KCODE, attr,
				 s == NO_STACK ? 2 : 0);
			first_of(first);
			reset_gate(vector);
			__asm__ volatile("clts");
			checked();
			if (trap.vector != (df ? DF : second))
				fail("%x, then %x: vector %lx error %lx", first, second,
				     trap.vector, trap.error);
			else if (df ? trap.error != 0
				    : second != PF && trap.error != vector * 8 + 2 +
									    (ext ? 1 : 0))
				fail("%x, then %x: error %lx", first, second, trap.error);
		}
	tss.ist[1] = 0;
	write_cr0(read_cr0() & ~(word)8);
}

/* An interrupt is benign, also with the number of a contributory exception (#CP). */
static void interrupt_is_benign(void)
{
	volatile u32 *svr = (volatile u32 *)0xfee000f0, *icr = (volatile u32 *)0xfee00300;
	u32 old = *svr;

	*svr = 0x1ff;
	set_gate(21, trap_entry[21], KCODE, D_TYPE(14), 0);
	TRY("sti; nop", "movl %1, (%0); mov $100000, %%ecx; 2: loop 2b; cli",
	    :
	    : "r"(icr), "r"(0x40000 | 21)
	    : "memory", "ecx");
	reset_gate(21);
	*(volatile u32 *)0xfee000b0 = 0; /* EOI: it was taken */
	*svr = old;
	want_vector(NP, 21 * 8 + 3);
}

/* ---- what the DPL of a gate is for ---- */

/* INT n, INT3, INTO by software; nothing that the processor finds itself. */
static word dpl_user(word which)
{
	switch (which) {
	case 0: return TRY("", "xor %%ecx, %%ecx; div %%ecx", : : : "eax", "ecx", "edx");
	case 1: return TRY("", "ud2", :);
	case 2: return TRY("", "hlt", :);
	case 3: return TRY("", "movb (%0), %%al", : : "r"(HOLE) : "eax");
	case 4: return TRY("", ".byte 0xf1", :); /* INT1 */
	case 5: return TRY("", "int3", :);
	default: return TRY("", "int $6", :);
	}
}

static void gate_dpl(void)
{
	static const struct {
		u8 vector;
		bool soft;
	} table[] = { { DE, false }, { UD, false }, { GP, false }, { PF, false },
		      { DB, false }, { BP, true },  { UD, true } };

	paging_on(PAGING_4, true);
	path_set(3, TEST_PA, ALL);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		for (unsigned dpl = 0; dpl < 4; dpl++) {
			unsigned v = table[i].vector;

			row("vector %u%s, gate's DPL %u", v,
			    table[i].soft ? " by INT n" : "", dpl);
			set_gate(v, trap_entry[v], KCODE, D_TYPE(14) | D_DPL(dpl) | D_P,
				 0);
			user_run(dpl_user, i);
			reset_gate(v);
			checked();
			if (table[i].soft && dpl < 3
				    ? trap.vector != GP || trap.error != v * 8 + 2
				    : trap.vector != v)
				fail("%u, dpl %u: vector %lx error %lx", i, dpl,
				     trap.vector, trap.error);
		}
}

/* ---- RF ---- */

/* SYSRET clears it, IRET takes it: an instruction breakpoint at the target tells. */
static void resume_flag(void)
{
	u64 star = rdmsr(0xc0000081);
	volatile u8 *p = code;
	word target = (word)code + ALIAS + 64, sp = (word)user_stack + STACK_SIZE + ALIAS;

	p[64] = 0xcc;
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(0xc0000081, (u64)(UCODE64 - 16) << 48 | (u64)KCODE << 32);
	write_dr0(target);
	for (unsigned rf = 0; rf < 2; rf++) {
		write_dr7(0x401);
		enter(target, UCODE64, rf ? FL_RF : 0, sp, UDATA64);
		want_equal(trap.vector, rf ? BP : DB);
		/* In 'code': mov ecx, target; mov r11d, flags; SYSRETQ */
		p[0] = 0xb9;
		put(code + 1, target, 4);
		put(code + 5, 0xbb41, 2);
		put(code + 7, rf ? FL_RF | 2 : 2, 4);
		put(code + 11, 0x070f48, 3);
		enter((word)code, KCODE, 0, sp - ALIAS, KDATA);
		want_equal(trap.vector, DB);
		want_equal(trap.ip, target - ALIAS);
		write_dr7(0x400);
	}
	write_dr6(0xffff0ff0);
	write_dr0(0);
	wrmsr(0xc0000081, star);
	wrmsr(EFER, rdmsr(EFER) & ~(u64)EFER_SCE);
}

/* ---- data breakpoints ---- */

/* SDM 3 17.2.4, 17.2.5: every length and access, at every distance. */
static void watch_matrix(void)
{
	static const u8 lens[4] = { 1, 2, 8, 4 };
	static u8 data[64] __attribute__((aligned(64)));

	for (unsigned n = 0; n < 4 * 4 * 2 * 24 && !failed(); n++) {
		unsigned how = n / 24;
		unsigned len = lens[how & 3], size = 1u << (how >> 2 & 3);
		bool write = how >> 4 & 1, rw, hit;
		unsigned off = 12 + n % 24;
		word at = (word)data + off;

		hit = off < 24 + len && off + size > 24;
		for (unsigned kind = 1; kind <= 3; kind += 2) {
			rw = kind == 3;
			row("LEN %u, R/W %u: %s of %u", how & 3, kind,
			    write ? "write" : "read", size);
			write_dr0((word)data + 24);
			write_dr7(0x401 | kind << 16 | (how & 3) << 18);
			switch (size) {
			case 1:
				if (write)
					TRY("", "movb %%al, (%0)",
					    :
					    : "r"(at)
					    : "memory");
				else
					TRY("", "movb (%0), %%al", : : "r"(at) : "eax");
				break;
			case 2:
				if (write)
					TRY("", "movw %%ax, (%0)",
					    :
					    : "r"(at)
					    : "memory");
				else
					TRY("", "movw (%0), %%ax", : : "r"(at) : "eax");
				break;
			case 4:
				if (write)
					TRY("", "movl %%eax, (%0)",
					    :
					    : "r"(at)
					    : "memory");
				else
					TRY("", "movl (%0), %%eax", : : "r"(at) : "eax");
				break;
			default:
				if (write)
					TRY("", "movq %%rax, (%0)",
					    :
					    : "r"(at)
					    : "memory");
				else
					TRY("", "movq (%0), %%rax", : : "r"(at) : "rax");
				break;
			}
			write_dr7(0x400);
			checked();
			if (trap.vector != (hit && (rw || write) ? DB : NONE) ||
			    (trap.vector == DB &&
			     ((trap.dr6 & 0xe00f) != 1 || trap.ip != trap.next)))
				fail("len %u kind %u: %s of %u at %u: vector %lx dr6 %lx",
				     len, kind, write ? "write" : "read", size, off,
				     trap.vector, trap.dr6);
			write_dr6(0xffff0ff0);
		}
	}
	write_dr0(0);
}

const struct test_case cases[] = {
	CASE(priorities, "SDM 3 table 6-2"),
	CASE(double_fault_table, "SDM 3 table 6-5"),
	CASE(interrupt_is_benign, "SDM 3 table 6-5"),
	CASE(gate_dpl, "SDM 3 6.12.1.1"),
	CASE(resume_flag, "SDM 3 17.3.1.1"),
	CASE(watch_matrix, "SDM 3 17.2.5"),
	CASES_END,
};
