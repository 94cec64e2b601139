/*
 * Fast system calls and far transfers between levels: SYSCALL, SYSRET, SYSENTER, SYSEXIT,
 * call gates, far calls, jumps and returns.
 * SDM volume 2, volume 3 sections 5.8; APM volume 3 where the vendor is AMD.
 */
#include "page.h"

#define SEL FREE_SEL

enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SFMASK,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP,
};

static volatile word seen[8] UNUSED;

#if W64

/* ---- SYSCALL and SYSRET ---- */

/* Where SYSCALL leads: notes what it finds, and goes to the user's RCX by the exit trap.
 */
void syscall_entry(void);
__asm__(".text\n"
	"syscall_entry:\n\t"
	"mov %rsp, seen(%rip)\n\t"
	"mov %rcx, seen + 8(%rip)\n\t"
	"mov %r11, seen + 16(%rip)\n\t"
	"pushf\n\t"
	"pop %rax\n\t"
	"mov %rax, seen + 24(%rip)\n\t"
	"mov %cs, %eax\n\t"
	"mov %rax, seen + 32(%rip)\n\t"
	"mov %ss, %eax\n\t"
	"mov %rax, seen + 40(%rip)\n\t"
	"sysretq\n");

static word syscall_user(word arg)
{
	word rcx, r11, sp, behind, flags;

	(void)arg;
	write_flags(read_flags() | FL_IF);
	__asm__ volatile("mov %%rsp, %2\n\t"
			 "lea 1f(%%rip), %3\n\t"
			 "stc\n\t"
			 "syscall\n"
			 "1:\tpushf\n\t"
			 "pop %4"
			 : "=&c"(rcx), "=&r"(r11), "=&r"(sp), "=&r"(behind), "=&r"(flags)
			 :
			 : "r11", "rax", "memory", "cc");
	want_equal(seen[0], sp);
	want_equal(seen[1], behind);
	want_equal(rcx, behind);
	want(seen[2] & 1);
	/* SFMASK took CF and IF; RF is 0 in R11. */
	want_equal(seen[3] & (FL_CF | FL_IF | FL_RF), 0);
	want(seen[2] & FL_IF);
	want(flags & FL_CF);
	want(flags & FL_IF);
	return 1;
}

static word syscall_only(word arg)
{
	(void)arg;
	return TRY("", "syscall", : : : "rcx", "r11", "memory");
}

static void enable_syscall(void)
{
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (u64)KCODE << 32 | (u64)UCODE32 << 48);
	wrmsr(MSR_LSTAR, (word)syscall_entry);
	wrmsr(MSR_SFMASK, FL_CF | FL_IF);
}

static void syscall_sysret(void)
{
	wrmsr(EFER, rdmsr(EFER) & ~(u64)EFER_SCE);
	want_equal(user_run(syscall_only, 0), UD);
	TRY("", "sysretq", : : "c"(0l), "r"(0l));
	want_fault(UD, 0);
	enable_syscall();
	user_iopl = 3;
	user_run(syscall_user, 0);
	user_iopl = 0;
	want_equal(seen[4], KCODE);
	want_equal(seen[5], KDATA);
}

static word sysret_user(word arg)
{
	(void)arg;
	return TRY("", "sysretq", : : "c"(0l));
}

static void sysret_faults(void)
{
	enable_syscall();
	want_equal(user_run(sysret_user, 0), GP);
	want_fault(GP, 0);
	/* RCX must be canonical, on Intel: checked at CPL 0. */
	if (!cpu_is_amd()) {
		TRY("mov $2, %%r11d", "sysretq", : : "c"(0x800000000000) : "r11");
		want_fault(GP, 0);
		want_equal(trap.cs, KCODE);
	}
}

/* SYSRET loads what a flat user segment would be, and RFLAGS from R11 but for RF and VM.
 */
static void sysret_state(void)
{
	static const u8 ud2[] = { 0x0f, 0x0b };
	word code = USER(ud2), sp = USER(user_stack + STACK_SIZE - 64);

	enable_syscall();

	for (unsigned q = 0; q < 2; q++) {
		TRY("mov %%rsp, %%rbx; mov %1, %%rsp; mov %2, %%r11",
		    "test %3, %3; jz 1f; sysretq; 1: sysretl",
		    :
		    : "c"(code), "r"(sp), "r"(0x3f7fd5l & ~(word)(FL_TF | FL_VIP)),
		      "r"((word)q)
		    : "r11", "rbx", "memory");
		want_equal(trap.vector, UD);
		want_equal(trap.cs, q ? UCODE64 : UCODE32);
		want_equal(trap.ss, UDATA);
		want_equal(trap.sp, sp);
		want_equal(trap.flags & ~(word)FL_RF,
			   (0x3f7fd7l & ~(word)(FL_TF | FL_VIP | FL_RF | FL_VM)));
		if (failed())
			return;
	}
}

#endif

/* ---- SYSENTER and SYSEXIT ---- */

void sysenter_entry(void);
#if W64
__asm__(".text\n"
	"sysenter_entry:\n\t"
	"mov %rsp, seen(%rip)\n\t"
	"pushf\n\t"
	"pop %rax\n\t"
	"mov %rax, seen + 8(%rip)\n\t"
	"mov %cs, %eax\n\t"
	"mov %rax, seen + 16(%rip)\n\t"
	"mov %ss, %eax\n\t"
	"mov %rax, seen + 24(%rip)\n\t"
	".byte 0x48; sysexit\n");
#else
__asm__(".text\n"
	"sysenter_entry:\n\t"
	"mov %ss, %eax\n\t"
	"mov %eax, %ds\n\t"
	"mov %eax, seen + 12\n\t"
	"mov %esp, seen\n\t"
	"pushf\n\t"
	"pop %eax\n\t"
	"mov %eax, seen + 4\n\t"
	"mov %cs, %eax\n\t"
	"mov %eax, seen + 8\n\t"
	"mov %ss, %eax\n\t"
	"add $16, %eax\n\t"
	"mov %eax, %ds\n\t"
	"sysexit\n");
#endif

/* EDX and ECX are where SYSEXIT goes. */
static word sysenter_user(word arg)
{
	word result = 0;

	(void)arg;
	__asm__ volatile("mov %%" W_SP ", %%" W_CX "\n\t"
#if W64
			 "lea 1f(%%rip), %%rdx\n\t"
#else
			 "mov $1f, %%edx\n\t"
#endif
			 "stc\n\t"
			 "sysenter\n\t"
			 "ud2\n"
			 "1:\tmov $7, %k0"
			 : "=&b"(result)
			 :
			 : W_AX, W_CX, "edx", "memory", "cc");
	return result;
}

static word sysenter_only(word arg)
{
	(void)arg;
	return TRY("", "sysenter", : : : "memory");
}

static word sysexit_only(word arg)
{
	(void)arg;
	return TRY("", "sysexit", : : "d"(0l), "c"(0l) : "memory");
}

static void sysenter_sysexit(void)
{
	static u8 stack[1024] __attribute__((aligned(16)));
	word top = (word)stack + sizeof(stack);

	wrmsr(MSR_SYSENTER_CS, 0);
	if (cpu_is_amd() && W64) {
		want_equal(user_run(sysenter_only, 0), UD);
		return;
	}
	want_equal(user_run(sysenter_only, 0), GP);
	want_fault(GP, 0);
	want_equal(sysexit_only(0), GP);
	wrmsr(MSR_SYSENTER_CS, KCODE);
	wrmsr(MSR_SYSENTER_ESP, top);
	wrmsr(MSR_SYSENTER_EIP, (word)sysenter_entry);
	want_equal(user_run(sysexit_only, 0), GP);
	want_equal(user_run(sysenter_user, 0), 7);
	want_equal(seen[0], top);
	want_equal(seen[1] & (FL_IF | FL_VM), 0);
	want(seen[1] & FL_CF);
	want_equal(seen[2], KCODE);
	want_equal(seen[3], KDATA);
#if W64
	TRY("", ".byte 0x48; sysexit", : : "d"(0x800000000000), "c"(0l) : "memory");
	want_fault(GP, 0);
	TRY("", ".byte 0x48; sysexit", : : "d"(0l), "c"(0x800000000000) : "memory");
	want_fault(GP, 0);
#endif
}

/* ---- call gates and far transfers ---- */

static void set_call_gate(unsigned sel, word to, unsigned cs, unsigned dpl,
			  unsigned params)
{
	u32 lo = ((u32)to & 0xffff) | cs << 16;
	u32 hi = ((u32)to & 0xffff0000) | D_P | D_DPL(dpl) | D_TYPE(12) | params;

	set_gdt(sel, lo | (u64)hi << 32);
#if W64
	set_gdt(sel + 8, (u64)to >> 32);
#endif
}

void gate_entry(void);
#if W64
__asm__(".text\n"
	"gate_entry:\n\t"
	"mov %rsp, seen(%rip)\n\t"
	"mov (%rsp), %rax\n\t"
	"mov %rax, seen + 8(%rip)\n\t"
	"mov 8(%rsp), %rax\n\t"
	"mov %rax, seen + 16(%rip)\n\t"
	"mov 16(%rsp), %rax\n\t"
	"mov %rax, seen + 24(%rip)\n\t"
	"mov 24(%rsp), %rax\n\t"
	"mov %rax, seen + 32(%rip)\n\t"
	"mov %ss, %eax\n\t"
	"mov %rax, seen + 40(%rip)\n\t"
	"mov %cs, %eax\n\t"
	"mov %rax, seen + 48(%rip)\n\t"
	"lretq\n");
#else
__asm__(".text\n"
	"gate_entry:\n\t"
	"push %ds\n\t"
	"mov %ss, %eax\n\t"
	"mov %eax, %ds\n\t"
	"lea 4(%esp), %eax\n\t"
	"mov %eax, seen\n\t"
	"mov 4(%esp), %eax\n\t"
	"mov %eax, seen + 4\n\t"
	"mov 8(%esp), %eax\n\t"
	"mov %eax, seen + 8\n\t"
	"mov 12(%esp), %eax\n\t"
	"mov %eax, seen + 12\n\t"
	"mov 16(%esp), %eax\n\t"
	"mov %eax, seen + 16\n\t"
	"mov 20(%esp), %eax\n\t"
	"mov %eax, seen + 20\n\t"
	"mov 24(%esp), %eax\n\t"
	"mov %eax, seen + 24\n\t"
	"pop %ds\n\t"
	"lret $8\n");
#endif

struct far_pointer {
	u32 off;
	u16 sel;
};
static struct far_pointer to;

static word far_call(word sel)
{
	*(volatile u16 *)&to.sel = (u16)sel;
	return TRY("", "lcall *%0", : : "m"(to) : W_AX, "memory");
}

static word far_jmp(word sel)
{
	*(volatile u16 *)&to.sel = (u16)sel;
	return TRY("", "ljmp *%0", : : "m"(to) : W_AX, "memory");
}

static word call_user(word sel)
{
	word sp;

	*(volatile u16 *)&to.sel = (u16)sel;
#if W64
	__asm__ volatile("mov %%rsp, %0\n\tlcall *%1"
			 : "=&b"(sp)
			 : "m"(to)
			 : "rax", "memory");
#else
	/* Two parameters, which the gate copies and its far return drops. */
	__asm__ volatile("push $0x111\n\tpush $0x222\n\tmov %%esp, %0\n\tlcall *%1"
			 : "=&b"(sp)
			 : "m"(to)
			 : "eax", "memory");
#endif
	return sp;
}

static void call_gate(void)
{
	static u8 stack[1024] __attribute__((aligned(16)));
	word top = (word)stack + sizeof(stack), sp;

#if W64
	tss.rsp[0] = top;
#else
	tss.esp0 = top;
#endif
	set_call_gate(SEL, (word)gate_entry, KCODE, 3, W64 ? 0 : 2);
	sp = user_run(call_user, SEL | 3);
#if W64
	tss.rsp[0] = (word)trap_stack + STACK_SIZE;
	want_equal(seen[0], top - 32);
	want_equal(seen[2], UCODE);
	want_equal(seen[3], sp);
	want_equal(seen[4], UDATA);
	want_equal(seen[5], 0); /* a null SS */
	want_equal(seen[6], KCODE);
#else
	tss.esp0 = (word)trap_stack + STACK_SIZE;
	want_equal(seen[0], top - 24);
	want_equal(seen[2], UCODE);
	want_equal(seen[3], 0x222);
	want_equal(seen[4], 0x111);
	want_equal(seen[5], sp);
	want_equal(seen[6], UDATA);
#endif
}

static word call_gate_user(word arg)
{
	(void)arg;
	/* The gate's DPL, by CPL and RPL. */
	far_call(SEL | 3);
	want_fault(GP, SEL);
	far_call(SEL);
	want_fault(GP, SEL);
	return 0;
}

static word jmp_gate_user(word arg)
{
	(void)arg;
	/* JMP does not go to an inner level. */
	far_jmp(SEL | 3);
	want_fault(GP, KCODE);
	return 0;
}

static void call_gate_faults(void)
{
	set_call_gate(SEL, (word)gate_entry, KCODE, 0, 0);
	user_run(call_gate_user, 0);
	set_call_gate(SEL, (word)gate_entry, KCODE, 3, 0);
	user_run(jmp_gate_user, 0);
	/* Not present; a null, a bad, an outer code segment. */
	set_gdt(SEL, gdt[SEL / 8] & ~BIT(47));
	far_call(SEL);
	want_fault(NP, SEL);
	set_call_gate(SEL, (word)gate_entry, 0, 3, 0);
	far_call(SEL);
	want_fault(GP, 0);
	set_call_gate(SEL, (word)gate_entry, KDATA, 3, 0);
	far_call(SEL);
	want_fault(GP, KDATA);
	set_call_gate(SEL, (word)gate_entry, UCODE, 3, 0);
	far_call(SEL);
	want_fault(GP, UCODE & ~3u);
	set_call_gate(SEL, (word)gate_entry, GDT_BYTES, 3, 0);
	far_call(SEL);
	want_fault(GP, GDT_BYTES);
#if W64
	/* A gate to compatibility mode; the upper half's type must be 0. */
	set_call_gate(SEL, (word)gate_entry, KCODE32, 3, 0);
	far_call(SEL);
	want_fault(GP, KCODE32);
	set_call_gate(SEL, (word)gate_entry, KCODE, 3, 0);
	set_gdt(SEL + 8, (u64)0x100 << 32);
	far_call(SEL);
	want_fault(GP, SEL);
	set_call_gate(SEL, (word)gate_entry, KCODE, 3, 0);
	set_gdt(SEL + 8, 0x8000); /* not canonical */
	far_call(SEL);
	want_fault(GP, 0);
#endif
}

static void far_selectors(void)
{
	to.off = 0;
	far_call(0);
	want_fault(GP, 0);
	far_jmp(3);
	want_fault(GP, 0);
	far_jmp(KDATA);
	want_fault(GP, KDATA);
	far_jmp(UCODE);
	want_fault(GP, UCODE & ~3u);
	far_jmp(KCODE | 1);
	want_fault(GP, KCODE);
	far_jmp(GDT_BYTES);
	want_fault(GP, GDT_BYTES);
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KCODE & ~D_P) | (W64 ? D_L : D_DB) | D_G));
	far_jmp(SEL);
	want_fault(NP, SEL);
#if W64
	/* A TSS is no target in 64-bit mode. */
	far_jmp(TSS_SEL);
	want_fault(GP, TSS_SEL);
	set_gdt(SEL, descriptor(0, 0xfffff, D_KCODE | D_L | D_DB | D_G));
	far_jmp(SEL);
	want_fault(GP, SEL);
#else
	/* The busy TSS; offset beyond the limit. */
	far_jmp(TSS_SEL);
	want_fault(GP, TSS_SEL);
	set_gdt(SEL, descriptor(0, 0xff, D_KCODE | D_DB));
	to.off = 0x100;
	far_jmp(SEL);
	want_fault(GP, 0);
#endif
	to.off = 0;
}

/* Far return to the same level, and with a bad frame. */
static void far_return(void)
{
	word a = 0;

	__asm__ volatile("push %1\n\t"
#if W64
			 "lea 1f(%%rip), %%rax\n\tpush %%rax\n\tlretq\n"
#else
			 "push $1f\n\tlret\n"
#endif
			 "1:\tmov $5, %k0"
			 : "=&b"(a)
			 : "i"(KCODE)
			 : W_AX, "memory");
	want_equal(a, 5);
	TRY("push $0; push $0", "lret" W, :);
	want_fault(GP, 0);
	TRY("push %0; push $0", "lret" W, : : "i"(KDATA));
	want_fault(GP, KDATA);
	/* To level 3: SS is popped too, behind the parameters. */
	TRY("push %1; push $0x1000; push %0; push $0", "lret" W,
	    :
	    : "i"(UCODE), "i"(KDATA));
	want_fault(GP, KDATA);
	TRY("push %1; push $0x1000; push $0; push %0; push $0", "lret" W " $%c2",
	    :
	    : "i"(UCODE), "i"(KDATA), "i"(sizeof(word)));
	want_fault(GP, KDATA);
}

const struct test_case cases[] = {
#if W64
	CASE(syscall_sysret, "SDM 2 SYSCALL, SYSRET"),
	CASE(sysret_faults, "SDM 2 SYSRET"),
	CASE(sysret_state, "SDM 2 SYSRET"),
#endif
	CASE(sysenter_sysexit, "SDM 2 SYSENTER, SYSEXIT"),
	CASE(call_gate, "SDM 3 5.8.3, 5.8.5"),
	CASE(call_gate_faults, "SDM 3 5.8.4, SDM 2 CALL"),
	CASE(far_selectors, "SDM 2 JMP"),
	CASE(far_return, "SDM 2 RET"),
	CASES_END,
};
