/*
 * Suspend to RAM and the way back, and what INIT leaves in a processor.
 *
 * ACPI 6.4 sections 16.1.3 (S3), 5.2.10 (waking vector); SDM volume 3 table 10-1, column
 * INIT. With two CPUs, of which the second is looked at after INIT and SIPI.
 */
#include "kvmclock.h"
#include "page.h"
#include "smp.h"

/* ---- INIT ---- */

#define AT   0x50000ul /* segment 5000h */
#define SEEN 0x800     /* offset of what the code there found */

extern const u8 look_begin[], look_end[];
__asm__(".section .rodata\n"
	".code16\n"
	"look_begin:\n\t"
	"cs mov %eax, 0x800\n\t"
	"cs mov %ebx, 0x804\n\t"
	"cs mov %ecx, 0x808\n\t"
	"cs mov %edx, 0x80c\n\t"
	"cs mov %esi, 0x810\n\t"
	"cs mov %edi, 0x814\n\t"
	"cs mov %ebp, 0x818\n\t"
	"cs mov %esp, 0x81c\n\t"
	"cs mov %ds, 0x820\n\t"
	"cs mov %es, 0x824\n\t"
	"cs mov %fs, 0x828\n\t"
	"cs mov %gs, 0x82c\n\t"
	"cs mov %ss, 0x830\n\t"
	"cs mov %cs, 0x834\n\t"
	"mov %cs, %ax\n\t"
	"mov %ax, %ss\n\t"
	"mov $0xf00, %esp\n\t"
	"pushfl\n\t"
	"cs popl 0x838\n\t"
	"mov %cr0, %eax\n\tcs mov %eax, 0x83c\n\t"
	"mov %cr2, %eax\n\tcs mov %eax, 0x840\n\t"
	"mov %cr3, %eax\n\tcs mov %eax, 0x844\n\t"
	"mov %cr4, %eax\n\tcs mov %eax, 0x848\n\t"
	"mov %dr6, %eax\n\tcs mov %eax, 0x84c\n\t"
	"mov %dr7, %eax\n\tcs mov %eax, 0x850\n\t"
	"mov %dr0, %eax\n\tcs mov %eax, 0x854\n\t"
	"cs sgdtl 0x858\n\t"
	"cs sidtl 0x860\n\t"
	"mov $0xc0000080, %ecx\n\trdmsr\n\tcs mov %eax, 0x868\n\t"
	"mov $0x277, %ecx\n\trdmsr\n\tcs mov %eax, 0x86c\n\t"
	"mov $0x1b, %ecx\n\trdmsr\n\tcs mov %eax, 0x870\n\t"
	"xor %eax, %eax\n\tmov %ax, %ss\n\t"
	"ljmp $0x3000, $0\n"
	"look_end:\n"
	".code64\n"
	".text\n");

static u32 seen(unsigned off)
{
	return *(volatile u32 *)(AT + SEEN + off);
}

/* It is to find nothing of what this leaves. */
static void make_dirty(word arg)
{
	(void)arg;
	wrmsr(0x277, 0x0007040600070401);
	__asm__ volatile("mov %0, %%dr0; mov %0, %%cr2" : : "r"(0x12345678ul));
	__asm__ volatile("mov %0, %%fs; mov %0, %%gs" : : "r"(KDATA));
	write_dr7(0x402);
}

static void init_state(void)
{
	static const struct {
		const char *name;
		u16 off;
		u32 want, mask;
	} table[] = {
		{ "EAX", 0x00, 0, ~0u },
		{ "EBX", 0x04, 0, ~0u },
		{ "ECX", 0x08, 0, ~0u },
		{ "ESI", 0x10, 0, ~0u },
		{ "EDI", 0x14, 0, ~0u },
		{ "EBP", 0x18, 0, ~0u },
		{ "ESP", 0x1c, 0, ~0u },
		{ "DS", 0x20, 0, 0xffff },
		{ "ES", 0x24, 0, 0xffff },
		{ "FS", 0x28, 0, 0xffff },
		{ "GS", 0x2c, 0, 0xffff },
		{ "SS", 0x30, 0, 0xffff },
		{ "CS is the SIPI's vector", 0x34, AT >> 4, 0xffff },
		{ "EFLAGS", 0x38, 2, ~0u },
		{ "CR0 but for CD and NW", 0x3c, 0x10, 0x9fffffff },
		{ "CR2", 0x40, 0, ~0u },
		{ "CR3", 0x44, 0, ~0u },
		{ "CR4", 0x48, 0, ~0u },
		{ "DR6", 0x4c, 0xffff0ff0, ~0u },
		{ "DR7", 0x50, 0x400, ~0u },
		{ "DR0", 0x54, 0, ~0u },
		{ "limit of the GDT", 0x58, 0xffff, 0xffff },
		{ "base of the GDT", 0x5a, 0, ~0u },
		{ "limit of the IDT", 0x60, 0xffff, 0xffff },
		{ "base of the IDT", 0x62, 0, ~0u },
		{ "EFER", 0x68, 0, ~0u },
		{ "PAT is unchanged", 0x6c, 0x00070401, ~0u },
		{ "the APIC is on, and this is not the boot CPU", 0x70, 0xfee00800, ~0u },
	};

	if (smp_start() < 2) {
		skip("one CPU");
		return;
	}
	smp_run(1, make_dirty, 0);
	smp_wait(1);
	for (word i = 0; i < (word)(look_end - look_begin); i++)
		((volatile u8 *)AT)[i] = look_begin[i];
	want(smp_restart_at(1, AT >> 12));
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].name);
		want_equal(seen(table[i].off) & table[i].mask, table[i].want);
	}
	row("EDX is the processor's signature");
	want_equal(seen(0x0c), cpuid(1, 0).a);
}

/* ---- S3 ---- */

static u32 find(const char *what, u32 from, u32 to, unsigned step)
{
	for (u32 at = from; at < to; at += step) {
		const volatile u8 *p = (const volatile u8 *)(word)at;
		unsigned n = 0;

		while (what[n] && p[n] == (u8)what[n])
			n++;
		if (!what[n])
			return at;
	}
	return 0;
}

void sleep_now(void);
void wake_begin(void);
extern const u8 wake_end[];
extern volatile u64 sleep_sp;
/* In real mode at AT; back to 64-bit mode with what SLEEP_NOW left at AT + SEEN. */
__asm__(".text\n"
	"sleep_now:\n\t"
	"push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
	"mov %rsp, sleep_sp(%rip)\n\t"
	"mov %cr3, %rax\n\t"
	"mov %eax, 0x50804\n\t"
	"mov $0x604, %edx\n\t"
	"mov $0x3400, %eax\n\t" /* S3, SLP_EN */
	"out %ax, %dx\n"
	"1:\tpause\n\t"
	"jmp 1b\n"
	".section .rodata\n"
	"wake_begin:\n\t"
	"ud2; ud2; ud2; ud2\n\t" /* the vector is behind them */
	".code16\n\t"
	"mov %cs, %bx\n\t"
	"mov %bx, %ds\n\t"
	"mov %bx, 0x808\n\t"
	"lgdtl wake_gdtr - wake_begin\n\t"
	"mov $0x11, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"ljmpl $0x8, $1f - wake_begin + 0x50000\n\t"
	".code32\n"
	"1:\tmov $0x10, %eax\n\t"
	"mov %eax, %ds\n\tmov %eax, %es\n\tmov %eax, %ss\n\t"
	"mov $0xa0, %eax\n\t"
	"mov %eax, %cr4\n\t"
	"mov 0x50804, %eax\n\t"
	"mov %eax, %cr3\n\t"
	"mov $0xc0000080, %ecx\n\t"
	"rdmsr\n\t"
	"or $0x900, %eax\n\t"
	"wrmsr\n\t"
	"mov $0x80010033, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"ljmp $0x18, $2f - wake_begin + 0x50000\n\t"
	".code64\n"
	"2:\tmovabs $woken, %rax\n\t"
	"jmp *%rax\n"
	".balign 8\n"
	"wake_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff\n"
	"wake_gdtr: .word 31\n\t.long wake_gdt - wake_begin + 0x50000\n"
	"wake_end:\n"
	".text\n"
	"woken:\n\t"
	"mov sleep_sp(%rip), %rsp\n\t"
	"pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
	"ret\n"
	".bss\n.balign 8\n"
	"sleep_sp: .skip 8\n"
	".text\n");

static u32 facs_of(u32 rsdp)
{
	u32 rsdt = *(volatile u32 *)(word)(rsdp + 16);

	for (u32 i = 36; i < *(volatile u32 *)(word)(rsdt + 4); i += 4) {
		u32 table = *(volatile u32 *)(word)(rsdt + i);

		if (*(volatile u32 *)(word)table == 0x50434146) /* FACP */
			return *(volatile u32 *)(word)(table + 36);
	}
	return 0;
}

static volatile u8 kept[4096];
static volatile struct system_time kvm_time __attribute__((aligned(64)));

static void suspend(void)
{
	u32 rsdp = find("RSD PTR ", 0xe0000, 0x100000, 16),
	    facs = rsdp ? facs_of(rsdp) : 0;
	const u8 *code = (const u8 *)wake_begin;
	bool kvm = kvm_features() & HAS_CLOCK2;
	u64 time = 0;

	if (!facs) {
		fail("no FACS");
		return;
	}
	for (unsigned i = 0; i < sizeof(kept); i++)
		kept[i] = (u8)(i * 7);
	for (word i = 0; i < (word)(wake_end - code); i++)
		((volatile u8 *)AT)[i] = code[i];
	/* Traces, by which a reset of the chips shows. */
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | 0x61);
	ioapic_write(0x10 + 2 * 20, LVT_MASKED | 0x61);
	pic_init(0x5a, 0xff);
	outw(0x602, 0x100); /* the power button's event */
	*(volatile u32 *)(word)(facs + 12) = AT + 8;
	if (kvm) {
		wrmsr(KVM_SYSTEM_TIME_NEW, (word)&kvm_time | 1);
		time = clock_read(&kvm_time);
	}
	print("press\n");
	sleep_now();
	load_gdt();
	__asm__ volatile("mov %0, %%ss\n\t"
			 "push %1\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "push %%rax\n\t"
			 "lretq\n"
			 "1:"
			 :
			 : "r"(KDATA), "i"(KCODE)
			 : "rax", "memory");
	load_idt();
	load_tss();
	row("in real mode, at the waking vector");
	want_equal(*(volatile u16 *)(AT + SEEN + 8), AT >> 4);
	row("memory is as it was");
	for (unsigned i = 0; i < sizeof(kept); i++)
		want_equal(kept[i], (u8)(i * 7));
	row("WAK_STS");
	want_equal(inw(0x600) & 0x8000, 0x8000);
	row("the local APIC is as after reset");
	want_equal(lapic_read(LAPIC_LVT_TIMER), LVT_MASKED);
	row("the I/O APIC too");
	want_equal(ioapic_read(0x10 + 2 * 20), LVT_MASKED);
	row("the second CPU waits for INIT and SIPI");
	smp_restart(1);
	smp_run(1, make_dirty, 0);
	smp_wait(1);
	if (kvm) {
		u32 version = kvm_time.version;

		row("KVM's clock is off");
		want_equal(rdmsr(KVM_SYSTEM_TIME_NEW), 0);
		wrmsr(IA32_TSC, 0);
		want_equal(kvm_time.version, version);
		row("and has gone on: the power button was pressed after 0.2 s");
		wrmsr(KVM_SYSTEM_TIME_NEW, (word)&kvm_time | 1);
		want(clock_read(&kvm_time) - time > 100000000);
		wrmsr(KVM_SYSTEM_TIME_NEW, 0);
	}
	row("clocks go on");
	wait_ms(1);
	outw(0x600, 0x8000);
	want_equal(inw(0x600) & 0x8000, 0);
}

const struct test_case cases[] = {
	CASE(init_state, "SDM 3 table 10-1"),
	CASE(suspend, "ACPI 16.1.3"),
	CASES_END,
};
