/*
 * Starting the other processors, and handing them work.
 *
 * SDM volume 3 section 9.4.4. A CPU comes up in real mode at 30000h (SIPI vector 30h),
 * goes straight to 64-bit mode with the page tables of the first, and waits in a loop
 * that looks at its slot.
 */
#include "smp.h"

void smp_main(word n);

struct slot {
	void (*volatile fn)(word arg);
	volatile word arg;
	volatile bool up;
	u8 pad[64 - 17];
} __attribute__((aligned(64)));
static struct slot slot[CPUS_MAX];
static unsigned cpus = 1;

extern volatile u32 smp_next; /* number of the CPU that is to come up */
extern volatile u32 smp_cr3;
u8 smp_stacks[CPUS_MAX][8192] __attribute__((aligned(16)));

__asm__(".section .low, \"ax\"\n"
	".balign 4096\n" /* the very start: nothing else of a 64-bit guest is here */
	"smp_low:\n\t"
	".code16\n\t"
	"cli\n\t"
	"mov %cs, %ax\n\t"
	"mov %ax, %ds\n\t"
	"lgdtl smp_gdtr - smp_low\n\t"
	"mov $0x11, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"ljmpl $0x8, $1f - smp_low + 0x30000\n\t"
	".code32\n"
	"1:\tmov $0x10, %eax\n\t"
	"mov %eax, %ds\n\tmov %eax, %es\n\tmov %eax, %ss\n\t"
	"mov $0xa0, %eax\n\t"
	"mov %eax, %cr4\n\t"
	"mov smp_cr3 - smp_low + 0x30000, %eax\n\t"
	"mov %eax, %cr3\n\t"
	"mov $0xc0000080, %ecx\n\t"
	"rdmsr\n\t"
	"or $0x900, %eax\n\t"
	"wrmsr\n\t"
	"mov $0x80010033, %eax\n\t"
	"mov %eax, %cr0\n\t"
	"ljmp $0x18, $2f - smp_low + 0x30000\n\t"
	".code64\n"
	"2:\tmov smp_next(%rip), %edi\n\t"
	"lea 1(%rdi), %eax\n\t"
	"shl $13, %eax\n\t"
	"movabs $smp_stacks, %rsp\n\t"
	"add %rax, %rsp\n\t"
	"movabs $smp_main, %rax\n\t"
	"call *%rax\n"
	".balign 8\n"
	"smp_gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff\n"
	"smp_gdtr: .word 31\n\t.long smp_gdt - smp_low + 0x30000\n"
	".balign 8\n"
	"smp_next: .long 0\n"
	"smp_cr3: .long 0\n"
	".text\n");

void smp_main(word n)
{
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
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	slot[n].up = true;
	for (;;) {
		while (!slot[n].fn)
			pause();
		slot[n].fn(slot[n].arg);
		slot[n].fn = NULL;
	}
}

u32 smp_id(unsigned n)
{
	return n;
}

static bool came_up(unsigned n, unsigned ms)
{
	for (unsigned i = 0; i < ms && !slot[n].up; i++)
		wait_ms(1);
	return slot[n].up;
}

bool smp_restart_at(unsigned n, u8 vector)
{
	slot[n].up = false;
	slot[n].fn = NULL;
	smp_next = n;
	smp_cr3 = (u32)read_cr3();
	send_ipi(smp_id(n), 0x4500);
	wait_ms(1);
	send_ipi(smp_id(n), 0x4600 | vector);
	/* One is enough; a second must not matter to one that runs. */
	if (came_up(n, 500))
		return true;
	send_ipi(smp_id(n), 0x4600 | vector);
	return came_up(n, 500);
}

bool smp_count_is_exact(void)
{
	return (cpuid(0, 0).a >= 0xb && cpuid(0xb, 1).b) || cpu_is_amd();
}

unsigned smp_count(void)
{
	if (cpuid(0, 0).a >= 0xb && cpuid(0xb, 1).b)
		return cpuid(0xb, 1).b & 0xffff;
	if (cpu_is_amd())
		return (cpuid(0x80000008, 0).c & 0xff) + 1;
	return HAS(1, 0, d, 28) ? cpuid(1, 0).b >> 16 & 0xff : 1;
}

unsigned smp_start(void)
{
	if (cpus > 1)
		return cpus;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	while (cpus < CPUS_MAX && cpus < smp_count() && smp_restart_at(cpus, SMP_START))
		cpus++;
	return cpus;
}

void smp_restart(unsigned n)
{
	smp_restart_at(n, SMP_START);
}

void smp_run(unsigned n, void (*fn)(word arg), word arg)
{
	slot[n].arg = arg;
	slot[n].fn = fn;
}

void smp_wait(unsigned n)
{
	while (slot[n].fn)
		pause();
}
