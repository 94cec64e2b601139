/*
 * How a machine ends: each way switches it off, resets it, or shuts the CPU down. One
 * case a run. SDM volume 3 section 6.15 #DF (shutdown); ACPI 6.3 section 4.8.3; chip set
 * reset control (CF9h), i8042 pulse command, port 92h.
 */
#include "rt.h"

static void wait(void)
{
	for (unsigned i = 0; i < 100000; i++)
		(void)inb(0x80);
	not_ended();
}

static void empty_idt(void)
{
	struct table none = { 0, 0 };

	__asm__ volatile("lidt %0" : : "m"(none));
}

/* No gate for the exception, none for #DF. */
static void triple_fault_ud(void)
{
	ends_with("triple");
	empty_idt();
	__asm__ volatile("ud2");
	wait();
}

static void triple_fault_int(void)
{
	ends_with("triple");
	empty_idt();
	__asm__ volatile("int $0x80");
	wait();
}

/* #DF has a gate, but what it leads to faults; #GP alone could be delivered. */
static void triple_fault_in_df(void)
{
	ends_with("triple");
	set_gate(DF, trap_entry[DF], KDATA, D_TYPE(14) | D_P, 0);
	set_gate(DE, trap_entry[DE], KCODE, D_TYPE(14), 0);
	__asm__ volatile("xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx");
	wait();
}

/* From user mode: level 0's stack is none. */
static word ud_user(word arg)
{
	__asm__ volatile("ud2");
	return arg;
}

static void triple_fault_stack(void)
{
	ends_with("triple");
#if W64
	tss.rsp[0] = 0x800000000100;
#else
	tss.ss0 = 0;
#endif
	user_run(ud_user, 0);
	wait();
}

static void acpi_power_off(void)
{
	ends_with("poweroff");
	outw(0x604, 7 << 10 | 1 << 13);
	wait();
}

/* SLP_EN with a type that does not exist: nothing. */
static void acpi_bad_sleep_type(void)
{
	outw(0x604, 3 << 10 | 1 << 13);
	for (unsigned i = 0; i < 1000; i++)
		(void)inb(0x80);
	ends_with("poweroff");
	/* The two halves of a byte access work too. */
	outb(0x605, 7 << 2 | 1 << 5);
	wait();
}

static void reset_cf9(void)
{
	ends_with("reset");
	outb(0xcf9, 2);
	outb(0xcf9, 6);
	wait();
}

static void reset_cf9_full(void)
{
	ends_with("reset");
	outb(0xcf9, 0xe);
	wait();
}

static void reset_keyboard(void)
{
	ends_with("reset");
	outb(0x64, 0xfe);
	wait();
}

static void reset_port92(void)
{
	/* A20 alone does nothing of the kind. */
	outb(0x92, 2);
	ends_with("reset");
	outb(0x92, 3);
	wait();
}

/* INIT sends the boot CPU to the reset vector, where firmware would be. */
static void reset_init(void)
{
	ends_with("reset");
	*(volatile u32 *)0xfee000f0ul = 0x1ff;
	*(volatile u32 *)0xfee00300ul = 0x84500; /* to all */
	wait();
}

#if !W64
/* Real mode's way: jump to FFFF:0000, where firmware would be. */
void to_reset_vector(void);
__asm__(".section .low, \"ax\"\n"
	".code32\n"
	"to_reset_vector:\n\t"
	"ljmp $0x58, $1f - 0x30000\n" /* KCODE16 */
	".code16\n"
	"1:\tmov %cr0, %eax\n\t"
	"and $~1, %al\n\t"
	"mov %eax, %cr0\n\t"
	"ljmp $0xffff, $0\n\t"
	".code32\n"
	".text\n");

static void reset_vector(void)
{
	ends_with("reset");
	set_gdt(KCODE16, descriptor(0x30000, 0xffff, D_KCODE));
	to_reset_vector();
	wait();
}
#endif

const struct test_case cases[] = {
	CASE_ALONE(triple_fault_ud, "SDM 3 6.15 #DF"),
	CASE_ALONE(triple_fault_int, "SDM 3 6.15 #DF"),
	CASE_ALONE(triple_fault_in_df, "SDM 3 6.15 #DF"),
	CASE_ALONE(triple_fault_stack, "SDM 3 6.15 #DF"),
	CASE_ALONE(acpi_power_off, "ACPI 4.8.3.2"),
	CASE_ALONE(acpi_bad_sleep_type, "ACPI 4.8.3.2"),
	CASE_ALONE(reset_cf9, "chip set CF9h"),
	CASE_ALONE(reset_cf9_full, "chip set CF9h"),
	CASE_ALONE(reset_keyboard, "i8042 FEh"),
	CASE_ALONE(reset_port92, "port 92h"),
	CASE_ALONE(reset_init, "SDM 3 9.4.3"),
#if !W64
	CASE_ALONE(reset_vector, "SDM 3 10.1.4"),
#endif
	CASES_END,
};
