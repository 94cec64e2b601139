/*
 * Delivery of interrupts and the way back: gates, stacks, double faults, IRET.
 * SDM volume 3 sections 6.12 to 6.15, table 6-5; SDM volume 2 INT n, IRET.
 */
#include "rt.h"

#define VEC 0x81
#define SEL FREE_SEL

static volatile word seen_flags, seen_sp, seen_ss, seen_cs, seen_error, seen_ip,
	seen_count;

static void look(struct frame *f)
{
	seen_flags = read_flags();
	seen_sp = (word)f;
	seen_cs = f->cs;
	seen_ip = f->ip;
	seen_error = f->error;
	seen_count++;
#if W64
	seen_ss = f->ss;
#endif
}

/* ---- gates ---- */

static word int_user(word flags)
{
	write_flags((read_flags() & ~(word)FL_IF) | flags);
	__asm__ volatile("int %0" : : "i"(VEC));
	return read_flags();
}

/* Interrupt gates clear IF, trap gates do not; both clear TF, NT, RF. */
static void gate_flags(void)
{
	word flags;

	hook[VEC] = look;
	user_iopl = 3;
	for (unsigned type = 14; type <= 15; type++) {
		set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(type) | D_DPL(3) | D_P, 0);
		flags = user_run(int_user, FL_IF | FL_NT);
		want_equal(flags & (FL_IF | FL_NT), FL_IF | FL_NT);
		want_equal(seen_flags & (FL_IF | FL_TF | FL_NT), type == 15 ? FL_IF : 0);
		want_equal(seen_flags & FL_IOPL, FL_IOPL);
	}
	write_flags(2);
	user_iopl = 0;
	hook[VEC] = NULL;
	reset_gate(VEC);
}

/* The current stack at the same level; aligned to 16 bytes in 64-bit mode. */
static void same_level_stack(void)
{
	hook[VEC] = look;
	for (unsigned n = 0; n < 32; n += W64 ? 8 : 4) {
		word sp;

		__asm__ volatile("mov %%" W_SP ", %0\n\t"
				 "mov %%" W_SP ", %%" W_BX "\n\t"
				 "sub %1, %%" W_SP "\n\t"
				 "int %2\n\t"
				 "mov %%" W_BX ", %%" W_SP
				 : "=&r"(sp)
				 : "r"((word)n), "i"(VEC)
				 : W_BX, "memory");
		sp -= n;
#if W64
		want_equal(seen_sp + sizeof(struct frame), sp & ~15ul);
#else
		want_equal(seen_sp + offsetof(struct frame, sp), sp);
#endif
	}
	hook[VEC] = NULL;
}

static word do_int(word arg)
{
	(void)arg;
	__asm__ volatile("int %0" : : "i"(VEC));
	return 1;
}

/* Level 0's stack from the TSS. */
static void inner_stack(void)
{
	static u8 stack[4096] __attribute__((aligned(16)));
	word top = (word)stack + sizeof(stack);

	hook[VEC] = look;
#if W64
	tss.rsp[0] = top - 8;
	want_equal(user_run(do_int, 0), 1);
	want_equal(seen_sp + sizeof(struct frame), top - 16);
	want_equal(seen_ss, UDATA);
	tss.rsp[0] = (word)trap_stack + STACK_SIZE;
#else
	tss.esp0 = top - 4;
	want_equal(user_run(do_int, 0), 1);
	want_equal(seen_sp + offsetof(struct frame, v86_es), top - 4);
	tss.esp0 = (word)trap_stack + STACK_SIZE;
#endif
	want_equal(seen_cs & 0xffff, UCODE);
	hook[VEC] = NULL;
}

#if W64
static void ist(void)
{
	static u8 stack[4096] __attribute__((aligned(16)));
	word top = (word)stack + sizeof(stack);

	hook[VEC] = look;
	for (unsigned n = 1; n < 8; n++) {
		tss.ist[n - 1] = top - 8 * (n & 1);
		set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(3) | D_P, n);
		do_int(0);
		want_equal(seen_sp + sizeof(struct frame), top - (n & 1 ? 16 : 0));
		/* SS is kept when the level is. */
		want_equal(seen_ss, KDATA);
		tss.ist[n - 1] = top;
		user_run(do_int, 0);
		want_equal(seen_sp + sizeof(struct frame), top);
		want_equal(seen_ss, UDATA);
		tss.ist[n - 1] = 0;
	}
	hook[VEC] = NULL;
	reset_gate(VEC);
}

/* A stack that is not canonical is #SS(0), taken on another stack. */
static void ist_not_canonical(void)
{
	static u8 stack[4096] __attribute__((aligned(16)));

	tss.ist[0] = 0x800000000100;
	tss.ist[1] = (word)stack + sizeof(stack);
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(3) | D_P, 1);
	set_gate(SS, trap_entry[SS], KCODE, D_TYPE(14) | D_P, 2);
	TRY("", "int %0", : : "i"(VEC));
	/* EXT is 0: it comes from INT n. */
	want_fault(SS, 0);
	reset_gate(VEC);
	reset_gate(SS);
	tss.ist[0] = tss.ist[1] = 0;
}
#endif

/* A conforming segment keeps the level, which becomes the RPL. */
static void conforming_gate(void)
{
	set_gdt(SEL, descriptor(0, 0xfffff, D_KCODE | D_C | (W64 ? D_L : D_DB) | D_G));
	set_gate(VEC, trap_entry[VEC], SEL, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_trap(VEC, 0);
	want_equal(trap.cs, KCODE);
	reset_gate(VEC);
}

/* ---- double faults ---- */

/* Table 6-5: contributory after contributory is #DF, with error 0 and the RIP of the
 * first. */
static void double_fault_contributory(void)
{
	static const u8 first[] = { DE, NP, GP };

	for (unsigned i = 0; i < 3; i++) {
		/* The gate of the first is not present: #NP, which is contributory. */
		set_gate(first[i], trap_entry[first[i]], KCODE, D_TYPE(14), 0);
		if (first[i] == DE)
			TRY("xor %%ecx, %%ecx", "div %%ecx", : : : "eax", "ecx", "edx");
		else if (first[i] == NP)
			TRY("", "int %0", : : "i"(VEC));
		else
			TRY("", "mov %w0, %%es", : : "r"(GDT_BYTES));
		reset_gate(first[i]);
		if (first[i] == NP)
			want_vector(VEC, 0);
		else
			want_fault(DF, 0);
	}
	/* A missing gate for INT n is #NP, and when that has none #DF. */
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(3), 0);
	set_gate(NP, trap_entry[NP], KCODE, D_TYPE(14), 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(DF, 0);
	reset_gate(VEC);
	reset_gate(NP);
}

/* A benign one first is no double fault. */
static void serial_fault_benign(void)
{
	static const u8 first[] = { UD, BP, DB };

	for (unsigned i = 0; i < 3; i++) {
		set_gate(first[i], trap_entry[first[i]], KCODE, D_TYPE(14) | D_DPL(3), 0);
		switch (first[i]) {
		case UD: TRY("", "ud2", :); break;
		case BP: TRY("", "int3", :); break;
		default: TRY("", ".byte 0xf1", :); break;
		}
		/* EXT is set but for INT3. INT1 counts as an event outside the program.
		 */
		want_fault(NP, first[i] * 8 + (first[i] == BP ? 2 : 3));
		reset_gate(first[i]);
	}
}

#if W64
/* #PF, then a contributory one or #PF: double; the other way round they are served in
 * turn. */
static void double_fault_page(void)
{
	volatile u32 *hole = (volatile u32 *)0x100000000;

	set_gate(PF, trap_entry[PF], KCODE, D_TYPE(14), 0);
	TRY("", "mov (%0), %%eax", : : "r"(hole) : "eax");
	want_fault(DF, 0);
	/* CR2 is that of the page fault. */
	want_equal(trap.cr2, (word)hole);
	reset_gate(PF);
	/* Both: an IST stack that is not mapped. */
	tss.ist[0] = (word)hole + 0x800;
	set_gate(PF, trap_entry[PF], KCODE, D_TYPE(14) | D_P, 1);
	TRY("", "mov (%0), %%eax", : : "r"(hole) : "eax");
	want_fault(DF, 0);
	want_equal(trap.cr2, (word)hole + 0x7f8);
	reset_gate(PF);
	/* #GP whose delivery faults: a page fault. */
	set_gate(GP, trap_entry[GP], KCODE, D_TYPE(14) | D_P, 1);
	TRY("", "mov %w0, %%es", : : "r"(GDT_BYTES));
	want_fault(PF, 2);
	want_equal(trap.cr2, (word)hole + 0x7f8);
	reset_gate(GP);
	tss.ist[0] = 0;
}
#endif

/* ---- IRET ---- */

#if W64
/* In 64-bit mode IRET always pops SS:RSP. */
static void iret_same_level(void)
{
	word sp, ss;

	__asm__ volatile("mov %%rsp, %%rcx\n\t"
			 "push %2\n\t"
			 "lea -0x100(%%rcx), %%rax\n\t"
			 "push %%rax\n\t"
			 "pushf\n\t"
			 "push %3\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "push %%rax\n\t"
			 "iretq\n"
			 "1:\tmov %%rsp, %0\n\t"
			 "mov %%ss, %1\n\t"
			 "sub %%rsp, %%rcx\n\t"
			 "mov %%rcx, %0\n\t"
			 "lea 0x100(%%rsp), %%rsp"
			 : "=&r"(sp), "=&r"(ss)
			 : "i"(KDATA), "i"(KCODE)
			 : "rax", "rcx", "memory");
	want_equal(sp, 0x100);
	want_equal(ss & 0xffff, KDATA);
}

static void iret_faults(void)
{
	word top = (word)user_stack + STACK_SIZE;

	/* A null CS; data; RPL below CPL is impossible at 0; DPL wrong; not canonical. */
	TRY("push %0; push %1; pushf; push $0; push %2", "iretq",
	    :
	    : "i"(KDATA), "r"(top), "r"(0l));
	want_fault(GP, 0);
	TRY("push %0; push %1; pushf; push %0; push %2", "iretq",
	    :
	    : "i"(KDATA), "r"(top), "r"(0l));
	want_fault(GP, KDATA);
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(KDATA), "r"(top), "r"(0l), "i"(KCODE | 1));
	want_fault(GP, KCODE);
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(KDATA), "r"(top), "r"(0x800000000000l), "i"(KCODE));
	want_fault(GP, 0);
	/* To level 3: SS must be writable data of level 3, and not null. */
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(KDATA), "r"(top), "r"(0l), "i"(UCODE64));
	want_fault(GP, KDATA);
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(0), "r"(top), "r"(0l), "i"(UCODE64));
	want_fault(GP, 0);
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KDATA & ~D_P) | D_DPL(3) | D_DB | D_G));
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(SEL | 3), "r"(top), "r"(0l), "i"(UCODE64));
	want_fault(SS, SEL);
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KCODE & ~D_P) | D_DPL(3) | D_L | D_G));
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(UDATA), "r"(top), "r"(0l), "i"(SEL | 3));
	want_fault(NP, SEL);
	/* L and D at once. */
	set_gdt(SEL, descriptor(0, 0xfffff, D_KCODE | D_DPL(3) | D_L | D_DB | D_G));
	TRY("push %0; push %1; pushf; push %3; push %2", "iretq",
	    :
	    : "i"(UDATA), "r"(top), "r"(0l), "i"(SEL | 3));
	want_fault(GP, SEL);
	/* With a null SS to level 0. */
	TRY("mov %%rsp, %%rcx; push $0; push %%rcx; pushf; push %0; lea 1f(%%rip), "
	    "%%rax; push %%rax",
	    "iretq; 1:",
	    :
	    : "i"(KCODE)
	    : "rax", "rcx", "memory");
	want_none();
	__asm__ volatile("mov %0, %%ss" : : "r"(KDATA));
}

/* 32-bit and 16-bit operand sizes work too: the frame is smaller. */
static void iret_sizes(void)
{
	word low, sp;

	/* The stack must lie below 4 GiB, as it does. */
	__asm__ volatile("mov %%rsp, %%rcx\n\t"
			 "sub $20, %%rsp\n\t"
			 "movl %2, 16(%%rsp)\n\t"
			 "mov %%ecx, 12(%%rsp)\n\t"
			 "movl $2, 8(%%rsp)\n\t"
			 "movl %3, 4(%%rsp)\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "mov %%eax, (%%rsp)\n\t"
			 "iretl\n"
			 "1:\tmov %%rcx, %0\n\t"
			 "mov %%rsp, %1"
			 : "=&r"(low), "=&r"(sp)
			 : "i"(KDATA), "i"(KCODE)
			 : "rax", "rcx", "memory");
	want_equal(low, sp);
}

/* Return to compatibility mode and back. */
void compat_code(void);
__asm__(".text\n"
	".code32\n"
	"compat_code:\n\t"
	"mov $0x12345678, %eax\n\t"
	"push %eax\n\t"
	"pop %ebx\n\t"
	"inc %eax\n\t" /* 40h: a REX prefix in 64-bit mode */
	"int $0x80\n\t"
	".code64\n");

static void compatibility_mode(void)
{
	want_equal(enter(USER(compat_code), UCODE32, 0, USER(user_stack + 4096), UDATA),
		   0x12345679);
	want_equal(trap.vector, NONE);
	/* At CPL 0 too. */
	want_equal(enter((word)compat_code, KCODE32, 0, (word)user_stack + 4096, KDATA),
		   0x12345679);
}
#else
static void iret_faults(void)
{
	TRY("pushf; push $0; push $0", "iret", :);
	want_fault(GP, 0);
	TRY("pushf; push %0; push $0", "iret", : : "i"(KDATA));
	want_fault(GP, KDATA);
	TRY("push %0; push $0; pushf; push %1; push $0", "iret",
	    :
	    : "i"(KDATA), "i"(UCODE32));
	want_fault(GP, KDATA);
	TRY("push $0; push $0; pushf; push %0; push $0", "iret", : : "i"(UCODE32));
	want_fault(GP, 0);
	set_gdt(SEL, descriptor(0, 0xfff, D_KCODE | D_DB)); /* 4 KiB */
	TRY("pushf; push %0; push $0x1000", "iret", : : "i"(SEL));
	want_fault(GP, 0);
}
#endif

/* What IRET may change depends on CPL and IOPL. */
static word iret_flags_user(word flags)
{
	word got;

#if W64
	__asm__ volatile("mov %%rsp, %%rcx\n\t"
			 "push %2\n\t"
			 "push %%rcx\n\t"
			 "push %1\n\t"
			 "push %3\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "push %%rax\n\t"
			 "iretq\n"
			 "1:\tpushf\n\t"
			 "pop %0"
			 : "=&r"(got)
			 : "r"(flags), "i"(UDATA), "i"(UCODE64)
			 : "rax", "rcx", "memory", "cc");
#else
	__asm__ volatile("push %1\n\t"
			 "push %2\n\t"
			 "push $1f\n\t"
			 "iret\n"
			 "1:\tpushf\n\t"
			 "pop %0"
			 : "=&r"(got)
			 : "r"(flags), "i"(UCODE32)
			 : "memory", "cc");
#endif
	write_flags(2);
	return got;
}

static void iret_flags(void)
{
	word all = FL_IF | FL_IOPL | FL_NT | FL_AC | FL_VIF | FL_VIP | 0x2000d5 | FL_DF;

	user_iopl = 0;
	want_equal(user_run(iret_flags_user, all), FL_NT | FL_AC | 0x2000d7 | FL_DF);
	user_iopl = 3;
	want_equal(user_run(iret_flags_user, all),
		   FL_IOPL | FL_IF | FL_NT | FL_AC | 0x2000d7 | FL_DF);
	user_iopl = 0;
}

/* A return to an outer level drops segments that it may not have. SDM 3 section 5.8.6. */
static word read_ds(word arg)
{
	word v = 0;

	(void)arg;
	__asm__ volatile("mov %%es, %w0" : "+r"(v));
	return v;
}

static void drop_segments(void)
{
#if W64
	__asm__ volatile("mov %w0, %%es" : : "r"(KDATA));
	want_equal(user_run(read_ds, 0), 0);
	__asm__ volatile("mov %w0, %%es" : : "r"(UDATA));
	want_equal(user_run(read_ds, 0), UDATA);
	__asm__ volatile("mov %w0, %%es" : : "r"(3));
	want_equal(user_run(read_ds, 0) & ~3ul, 0);
	__asm__ volatile("mov %w0, %%es" : : "r"(KDATA));
#else
	/* user_run() loads DS and ES, so this is about a selector that stays. */
	want_equal(user_run(read_ds, 0), UDATA);
#endif
}

const struct test_case cases[] = {
	CASE(gate_flags, "SDM 3 6.12.1.3"),
	CASE(same_level_stack, "SDM 3 6.12.1, 6.14.2"),
	CASE(inner_stack, "SDM 3 6.12.1, 6.14.4"),
	CASE(conforming_gate, "SDM 3 6.12.1.1"),
	CASE(double_fault_contributory, "SDM 3 table 6-5"),
	CASE(serial_fault_benign, "SDM 3 table 6-5"),
#if W64
	CASE(ist, "SDM 3 6.14.5"),
	CASE(ist_not_canonical, "SDM 3 6.14.5"),
	CASE(double_fault_page, "SDM 3 table 6-5"),
	CASE(iret_same_level, "SDM 3 6.14.3"),
	CASE(iret_sizes, "SDM 2 IRET"),
	CASE(compatibility_mode, "SDM 3 10.8.3"),
#endif
	CASE(iret_faults, "SDM 2 IRET"),
	CASE(iret_flags, "SDM 2 IRET"),
	CASE(drop_segments, "SDM 3 5.8.6"),
	CASES_END,
};
