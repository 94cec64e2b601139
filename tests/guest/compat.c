/*
 * Compatibility mode: 32-bit and 16-bit code under a 64-bit kernel. Segments count again,
 * addresses have 32 bits, the way in and out is that of 64-bit mode.
 * SDM volume 3 sections 5.2.1, 6.14, 10.8.3; volume 2 SYSENTER, SYSCALL, JMP.
 */
#include "rt.h"

#define SEL   FREE_SEL
#define SEL16 (FREE_SEL + 8)

/*
 * Each piece runs at CPL 3 in the alias; it ends with the exit trap, which gives EAX, or
 * where it faults. Labels ending in _at are where that should be.
 */
__asm__(".text\n"
	".code32\n"
	"c_basic: mov $0x80000000, %eax\n\tadd %eax, %eax\n\tadc $5, %eax\n\tinc %eax\n\t"
	"push %eax\n\tpop %edx\n\tpusha\n\tpopa\n\tmov %edx, %eax\n\tint $0x80\n"
	"c_esp: mov %esp, %eax\n\tpush %eax\n\tmov %esp, %ecx\n\tsub %ecx, %eax\n\tint "
	"$0x80\n"
	"c_far64: ljmp $0x2b, $1f + 0x80000000\n" /* UCODE64 */
	".code64\n"
	"1:\tmov $0x1122334455, %rax\n\tshr $32, %rax\n\tint $0x80\n"
	".code32\n"
	"c_limit: mov $0x80, %eax\n\tmov %eax, %fs\n\tmovb %fs:0xff, %al\n\tc_limit_at: "
	"movb %fs:0x100, %al\n\tint $0x80\n"
	"c_null: xor %eax, %eax\n\tmov %eax, %fs\n\tc_null_at: movb %fs:0, %al\n\tint "
	"$0x80\n"
	"c_readonly: mov $0x80, %eax\n\tmov %eax, %es\n\tc_readonly_at: movb %al, "
	"%es:0\n\tint $0x80\n"
	"c_cs_write: movl $0, %cs:0x80000000\n\tint $0x80\n"
	"c_wrap: mov $0xfffffff0, %ebx\n\tmov c_data + 0x80000010(%ebx), %eax\n\tint "
	"$0x80\n"
	"c_data: .long 0x13579bdf\n"
	"c_syscall: syscall\n\tint $0x80\n"
	"c_sysenter: mov %esp, %ecx\n\tmov $1f + 0x80000000, %edx\n\tsysenter\n"
	"1:\tmov $0x66, %eax\n\tint $0x80\n"
	"c_rex: .byte 0x48\n\tmov $7, %eax\n\tint $0x80\n" /* DEC EAX; MOV EAX, 7 */
	"c_into: mov $0x7f, %al\n\tinc %al\n\tinto\n\tc_into_at: nop\n\tint $0x80\n"
	"c_bound: mov $9, %eax\n\tc_bound_at: bound %eax, c_range + 0x80000000\n\tint "
	"$0x80\n"
	"c_range: .long 1, 3\n"
	"c_aaa: mov $0x0f, %eax\n\taaa\n\tint $0x80\n"
	"c_lds: lds c_pointer + 0x80000000, %eax\n\tint $0x80\n"
	"c_pointer: .long 0x12345678\n\t.word 0x23\n"
	"c_arpl: mov $0x10, %eax\n\tmov $3, %ecx\n\tarpl %cx, %ax\n\tint $0x80\n"
	"c_hole: mov 0x40000000, %eax\n\tint $0x80\n"
	"c_step: nop\n\tc_step_at: nop\n\tint $0x80\n"
	/* INC RAX in 64-bit code; DEC EAX, INC EAX in this. */
	"c_same: .byte 0x48, 0xff, 0xc0\n\tret\n"
	"c_modes: xor %eax, %eax\n\tmov $100, %ebp\n"
	"1:\tcall c_same\n\tpush %eax\n\tljmp $0x2b, $2f + 0x80000000\n"
	".code64\n"
	"2:\tcall c_same\n\tlea c_same(%rip), %rdx\n\tcall *%rdx\n\t"
	"ljmp *c_back(%rip)\n"
	".code32\n"
	"3:\tpop %edx\n\tmov $c_same + 0x80000000, %edx\n\tcall *%edx\n\t"
	"dec %ebp\n\tjnz 1b\n\tint $0x80\n"
	"c_back: .long 3b + 0x80000000\n\t.word 0x1b\n"
	/* Through a segment with a base and back, often enough to be translated. */
	"c_bases: mov $40, %ebp\n\txor %edi, %edi\n"
	"1:\tmov $0x80, %eax\n\tmov %eax, %ds\n\tmov 0x10, %ecx\n\t"
	"mov $0x23, %eax\n\tmov %eax, %ds\n\tadd c_data + 0x80000000, %edi\n\t"
	"add %ecx, %edi\n\tdec %ebp\n\tjnz 1b\n\tmov %edi, %eax\n\tint $0x80\n"
	".code16\n"
	"c_16: mov $0xffff, %ax\n\tadd $1, %ax\n\tadc $0x4000, %ax\n\tpush %ax\n\tpop "
	"%bx\n\tint $0x80\n"
	".code64\n");

#define LABEL(l) extern const u8 l[]

static word run_with(const u8 *code, word cs, word flags)
{
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(UDATA));
	return enter(USER(code), cs, flags, USER(user_stack + 4096), UDATA);
}

#define RUN(l)                                                                           \
	({                                                                               \
		LABEL(l);                                                                \
		run_with(l, UCODE32, 0);                                                 \
	})
#define want_at(vec, err, l)                                                             \
	do {                                                                             \
		LABEL(l);                                                                \
		want_equal(trap.vector, vec);                                            \
		want_equal(trap.error, err);                                             \
		want_equal(trap.ip, (word)(l));                                          \
	} while (0)

static void basics(void)
{
	want_equal(RUN(c_basic), 7);
	want_equal(trap.vector, NONE);
	want_equal(RUN(c_esp), 4);
	/* 48h is DEC EAX here. */
	want_equal(RUN(c_rex), 7);
}

/* Instructions that 64-bit mode has not. */
static void old_instructions(void)
{
	RUN(c_into);
	want_at(OF, 0, c_into_at);
	RUN(c_bound);
	want_at(BR, 0, c_bound_at);
	want_equal(RUN(c_aaa), 0x105);
	want_equal(RUN(c_arpl), 0x13);
	want_equal(RUN(c_lds), 0x12345678);
}

static void to_64bit_code(void)
{
	want_equal(RUN(c_far64), 0x11);
	want_equal(trap.vector, NONE);
}

/* The same linear addresses, and neither mode runs what the other has made of them. */
static void one_address_two_modes(void)
{
	want_equal(RUN(c_modes), 200);
	want_equal(trap.vector, NONE);
	want_equal(RUN(c_modes), 200);
}

static void segments_count(void)
{
	set_gdt(SEL, descriptor((u32)USER(user_stack), 0xff, D_KDATA | D_DPL(3) | D_DB));
	RUN(c_limit);
	want_at(GP, 0, c_limit_at);
	RUN(c_null);
	want_at(GP, 0, c_null_at);
	set_gdt(SEL, descriptor((u32)USER(user_stack), 0xfff,
				D_P | D_S | D_A | D_DPL(3) | D_DB));
	RUN(c_readonly);
	want_at(GP, 0, c_readonly_at);
	RUN(c_cs_write);
	want_at(GP, 0, c_cs_write);
}

static void segments_change(void)
{
	u32 *at = (u32 *)(void *)user_stack;

	at[4] = 0x01020304;
	set_gdt(SEL, descriptor((u32)USER(user_stack), 0xff, D_KDATA | D_DPL(3) | D_DB));
	want_equal((u32)RUN(c_bases), (u32)(40 * (0x13579bdfu + 0x01020304u)));
	want_equal(trap.vector, NONE);
}

/* Effective addresses have 32 bits, and so have linear ones. */
static void addresses_wrap(void)
{
	want_equal(RUN(c_wrap), 0x13579bdf);
	RUN(c_hole);
	want_equal(trap.vector, PF);
	want_equal(trap.error, 5); /* the kernel's identity map */
	want_equal(trap.cr2, 0x40000000);
}

/* The frame is that of 64-bit mode; SS and ESP are the old ones. */
static void frame(void)
{
	LABEL(c_hole);

	run_with(c_hole, UCODE32, 0x0c5);
	want_equal(trap.cs, UCODE32);
	want_equal(trap.ss, UDATA);
	want_equal(trap.sp, USER(user_stack + 4096));
	want_equal(trap.flags & 0xff, 0xc7);
	want_equal((word)trap.frame_sp + 40, (word)trap_stack + STACK_SIZE);
}

static void single_step(void)
{
	LABEL(c_step);

	run_with(c_step, UCODE32, FL_TF);
	want_at(DB, 0, c_step_at);
	write_dr6(0xffff0ff0);
}

/* SYSCALL does not work here on Intel's; on AMD's it goes to CSTAR, and SYSRET comes
 * back. */
void cstar_entry(void);
__asm__(".text\n"
	"cstar_entry:\n\t"
	"mov %rcx, seen(%rip)\n\t"
	"mov %cs, %eax\n\t"
	"mov %rax, seen + 8(%rip)\n\t"
	"mov $0x99, %eax\n\t"
	"sysretl\n");
static volatile word seen[2] UNUSED;

static void syscall(void)
{
	LABEL(c_syscall);

	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	wrmsr(0xc0000081, (u64)KCODE << 32 | (u64)UCODE32 << 48);
	wrmsr(0xc0000083, (word)cstar_entry);
	if (!cpu_is_amd()) {
		RUN(c_syscall);
		want_at(UD, 0, c_syscall);
		return;
	}
	want_equal(RUN(c_syscall), 0x99);
	want_equal(trap.vector, NONE);
	want_equal(seen[0], USER(c_syscall) + 2);
	want_equal(seen[1], KCODE);
}

void sysenter_entry(void);
__asm__(".text\n"
	"sysenter_entry:\n\t"
	"mov %rsp, seen(%rip)\n\t"
	"mov %cs, %eax\n\t"
	"mov %rax, seen + 8(%rip)\n\t"
	"sysexit\n"); /* to 32-bit code */

static void sysenter(void)
{
	LABEL(c_sysenter);

	if (cpu_is_amd()) {
		/* Behind two MOVs. */
		RUN(c_sysenter);
		want_equal(trap.vector, UD);
		want(trap.ip > (word)c_sysenter);
		return;
	}
	wrmsr(0x174, KCODE);
	wrmsr(0x175, (word)user_stack + 512);
	wrmsr(0x176, (word)sysenter_entry);
	want_equal(RUN(c_sysenter), 0x66);
	want_equal(trap.vector, NONE);
	want_equal(seen[0], (word)user_stack + 512);
	want_equal(seen[1], KCODE);
}

static void code_16bit(void)
{
	LABEL(c_16);

	set_gdt(SEL16, descriptor((u32)USER(c_16), 0xff, D_KCODE | D_DPL(3)));
	want_equal(enter(0, SEL16 | 3, 0, USER(user_stack + 4096), UDATA) & 0xffff,
		   0x4001);
	want_equal(trap.vector, NONE);
}

const struct test_case cases[] = {
	CASE(basics, "SDM 3 10.8.3"),
	CASE(old_instructions, "SDM 2"),
	CASE(to_64bit_code, "SDM 2 JMP"),
	CASE(one_address_two_modes, "SDM 3 10.8.3"),
	CASE(segments_count, "SDM 3 5.2.1"),
	CASE(segments_change, "SDM 3 3.4.3"),
	CASE(addresses_wrap, "SDM 3 3.3.7"),
	CASE(frame, "SDM 3 6.14.2"),
	CASE(single_step, "SDM 3 17.3.1.4"),
	CASE(syscall, "SDM 2 SYSCALL"),
	CASE(sysenter, "SDM 2 SYSENTER"),
	CASE(code_16bit, "SDM 3 10.8.3"),
	CASES_END,
};
