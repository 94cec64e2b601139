/*
 * Interrupts: local APIC, IPIs, IOAPIC, PIC, and how the CPU takes them: IF, shadows,
 * HLT, TPR, NMI. SDM volume 3 chapters 6.8, 11; 8259A and 82093AA data sheets.
 */
#include "apic.h"

static volatile unsigned count[256], order[64], order_n;
static volatile word last_ip;

static void on_irq(struct frame *f)
{
	unsigned v = (unsigned)f->vector;

	count[v]++;
	last_ip = f->ip;
	if (order_n < ARRAY_SIZE(order))
		order[order_n++] = v;
	eoi();
}

static void on_irq_no_eoi(struct frame *f)
{
	count[f->vector]++;
	last_ip = f->ip;
	if (order_n < ARRAY_SIZE(order))
		order[order_n++] = (unsigned)f->vector;
}

static void setup(void)
{
	for (unsigned v = 0x30; v < 256; v++)
		hook[v] = v == EXIT_VECTOR ? NULL : on_irq;
	for (unsigned v = 0x20; v < 0x30; v++)
		hook[v] = on_irq_no_eoi;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED | 7 << 8);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	/* What the last case left. */
	sti_nop();
	sti_nop();
	for (unsigned i = 0; i < 256; i++)
		count[i] = 0;
	order_n = 0;
}

static u32 my_id(void)
{
	return is_x2apic() ? lapic_read(LAPIC_ID) : lapic_read(LAPIC_ID) >> 24;
}

static void self_ipi(void)
{
	setup();
	send_ipi(my_id(), 0x4000 | 0x61);
	/* IF is 0: it waits in IRR. */
	want_equal(count[0x61], 0);
	want(lapic_bit(LAPIC_IRR, 0x61));
	sti_nop();
	want_equal(count[0x61], 1);
	want(!lapic_bit(LAPIC_IRR, 0x61));
	want(!lapic_bit(LAPIC_ISR, 0x61));
	/* By shorthand: self, all including self; not by all excluding self. */
	lapic_write(LAPIC_ICR, 0x44000 | 0x62);
	sti_nop();
	lapic_write(LAPIC_ICR, 0x84000 | 0x63);
	sti_nop();
	lapic_write(LAPIC_ICR, 0xc4000 | 0x64);
	sti_nop();
	want_equal(count[0x62], 1);
	want_equal(count[0x63], 1);
	want_equal(count[0x64], 0);
	/* Twice the same before it is taken is once. */
	send_ipi(my_id(), 0x4000 | 0x65);
	send_ipi(my_id(), 0x4000 | 0x65);
	sti_nop();
	want_equal(count[0x65], 1);
}

/* The higher vector first; one that is in service holds back its class. */
static volatile unsigned nested_seen;

static void on_nested(struct frame *f)
{
	count[f->vector]++;
	order[order_n++] = (unsigned)f->vector;
	/* Lower and equal class pend, higher comes through. */
	send_ipi(my_id(), 0x4000 | 0x71);
	send_ipi(my_id(), 0x4000 | 0x7e);
	send_ipi(my_id(), 0x4000 | 0x81);
	sti_nop();
	nested_seen = count[0x71] + count[0x7e];
	want_equal(count[0x81], 1);
	eoi();
}

static void priorities(void)
{
	static const u8 want_order[] = { 0x91, 0x82, 0x79, 0x31 };

	setup();
	for (unsigned i = 4; i-- > 0;)
		send_ipi(my_id(), 0x4000u | want_order[i]);
	sti_nop();
	/* One may come at each instruction; all have come by now. */
	sti_nop();
	for (unsigned i = 0; i < 4; i++)
		want_equal(order[i], want_order[i]);
	setup();
	hook[0x7a] = on_nested;
	send_ipi(my_id(), 0x4000 | 0x7a);
	sti_nop();
	want_equal(nested_seen, 0);
	sti_nop();
	want_equal(count[0x71] + count[0x7e], 2);
	want_equal(order[0], 0x7a);
	want_equal(order[1], 0x81);
	want_equal(order[2], 0x7e);
	want_equal(order[3], 0x71);
}

static void tpr(void)
{
	setup();
	lapic_write(LAPIC_TPR, 0x60);
	send_ipi(my_id(), 0x4000 | 0x6f);
	send_ipi(my_id(), 0x4000 | 0x70);
	sti_nop();
	want_equal(count[0x6f], 0);
	want_equal(count[0x70], 1);
	want_equal(lapic_read(LAPIC_PPR), 0x60);
#if W64
	want_equal(read_cr8(), 6);
	write_cr8(5);
	want_equal(lapic_read(LAPIC_TPR), 0x50);
#else
	lapic_write(LAPIC_TPR, 0x50);
#endif
	sti_nop();
	want_equal(count[0x6f], 1);
	lapic_write(LAPIC_TPR, 0);
}

/* Vectors below 16 are errors: ESR bit 5 (send) or 6 (receive). */
static void illegal_vector(void)
{
	setup();
	lapic_write(LAPIC_ESR, 0);
	lapic_write(LAPIC_LVT_ERROR, 0x51);
	send_ipi(my_id(), 0x4000 | 5);
	lapic_write(LAPIC_ESR, 0);
	want(lapic_read(LAPIC_ESR) & 0x60);
	sti_nop();
	want_equal(count[0x51], 1);
	lapic_write(LAPIC_LVT_ERROR, LVT_MASKED);
	lapic_write(LAPIC_ESR, 0);
}

/* ---- how the CPU takes them ---- */

extern const u8 sti_at1[], sti_at2[], mov_ss_at[];

/* STI: not before the instruction behind it. */
static NOINLINE void sti_shadow(void)
{
	setup();
	send_ipi(my_id(), 0x4000 | 0x61);
	__asm__ volatile("sti\n\tnop\n"
			 "sti_at1:\tnop\n\tcli"
			 :
			 :
			 : "memory");
	want_equal(count[0x61], 1);
	want_equal(last_ip, (word)sti_at1);
	/* STI; CLI lets none in. */
	send_ipi(my_id(), 0x4000 | 0x62);
	__asm__ volatile("sti\n\tcli\n\tsti\n\tcli" : : : "memory");
	want_equal(count[0x62], 0);
	/* With IF already 1 there is no shadow; POPF has none either. */
	__asm__ volatile("pushf\n\tor" W " $0x200, (%%" W_SP ")\n\tpopf\n"
			 "sti_at2:\tnop\n\tnop\n\tcli"
			 :
			 :
			 : "memory", "cc");
	want_equal(count[0x62], 1);
	want_equal(last_ip, (word)sti_at2);
}

/* MOV SS and POP SS hold interrupts back for one instruction. */
static NOINLINE void mov_ss_shadow(void)
{
	setup();
	send_ipi(my_id(), 0x4000 | 0x61);
	__asm__ volatile(
		"mov %0, %%eax\n\t"
		"mov %%ss, %%ecx\n\t"
		"sti\n\t"
		"mov %%eax, %%ss\n\t" /* in the shadow of STI, and makes its own */
		"nop\n"
		"mov_ss_at:\tnop\n\tnop\n\tcli"
		:
		: "i"(KDATA)
		: "eax", "ecx", "memory");
	want_equal(count[0x61], 1);
	/* Of two shadows in a row the second may be ignored: then it is one earlier. */
	want(last_ip == (word)mov_ss_at || last_ip == (word)mov_ss_at - 1);
}

/* HLT wakes up, and RIP is behind it. */
extern const u8 hlt_at[];

static NOINLINE void hlt_wakes(void)
{
	setup();
	send_ipi(my_id(), 0x4000 | 0x61);
	__asm__ volatile("sti\n\thlt\n"
			 "hlt_at:\tcli"
			 :
			 :
			 : "memory");
	want_equal(count[0x61], 1);
	want_equal(last_ip, (word)hlt_at);
	/* By the timer, while it sleeps. */
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_LVT_TIMER, 0x62);
	lapic_write(LAPIC_TIMER_INIT, 100000);
	sti_hlt();
	want_equal(count[0x62], 1);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

/* NMI: not held back by IF, blocked until IRET. */
static volatile unsigned nmis, nmi_depth, nmi_max;

static void on_nmi(struct frame *f)
{
	(void)f;
	nmis++;
	if (++nmi_depth > nmi_max)
		nmi_max = nmi_depth;
	if (nmis == 1) {
		/* Another one waits until the IRET of this. */
		send_ipi(my_id(), 0x4000 | 4 << 8);
		for (volatile unsigned i = 0; i < 100; i++)
			;
	}
	nmi_depth--;
}

static void nmi(void)
{
	setup();
	nmis = nmi_max = nmi_depth = 0;
	hook[NMI] = on_nmi;
	send_ipi(my_id(), 0x4000 | 4 << 8);
	for (volatile unsigned i = 0; i < 100; i++)
		;
	want_equal(nmis, 2);
	want_equal(nmi_max, 1);
	/* It wakes a HLT with IF 0. */
	nmis = 5;
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_LVT_TIMER, 4 << 8);
	send_ipi(my_id(), 0x4000 | 4 << 8);
	__asm__ volatile("nop");
	want_equal(nmis, 6);
	hook[NMI] = NULL;
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

/* An interrupt in user mode comes on level 0's stack, and in the middle of a loop. */
static word spin(word arg)
{
	write_flags(read_flags() | FL_IF);
	for (unsigned i = 0; i < 100000000 && !count[0x66]; i++)
		__asm__ volatile("" : : : "memory");
	return arg + count[0x66];
}

static void in_user_mode(void)
{
	setup();
	user_iopl = 3;
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_LVT_TIMER, 0x66);
	lapic_write(LAPIC_TIMER_INIT, 100000);
	want_equal(user_run(spin, 100), 101);
	user_iopl = 0;
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

/* Spurious interrupt: masked, or TPR raised, between INTR and INTA is not to be had here.
 */

/* ---- IOAPIC and PIC, with the PIT behind them ---- */

static void pit_one_shot(u16 n)
{
	outb(0x43, 0x30); /* counter 0, mode 0 */
	outb(0x40, n & 0xff);
	outb(0x40, n >> 8);
}

static void ioapic(void)
{
	u32 v;

	setup();
	outb(0x21, 0xff);
	v = ioapic_read(1);
	want_equal(v >> 16 & 0xff, 23);
	ioapic_route(2, 0x6a, (u8)my_id());
	pit_one_shot(1000);
	sti_hlt();
	want_equal(count[0x6a], 1);
	/* Masked: nothing, and an edge meanwhile is lost. */
	ioapic_route(2, 0x6a | LVT_MASKED, (u8)my_id());
	pit_one_shot(100);
	wait_ms(20);
	sti_nop();
	want_equal(count[0x6a], 1);
	/* Periodic. */
	ioapic_route(2, 0x6b, (u8)my_id());
	outb(0x43, 0x34);
	outb(0x40, 0x00);
	outb(0x40, 0x08); /* 1.7 ms */
	for (unsigned i = 0; i < 5; i++)
		sti_hlt();
	want(count[0x6b] >= 5);
	outb(0x43, 0x30);
	ioapic_route(2, LVT_MASKED, 0);
}

static void pic(void)
{
	setup();
	pic_init(0xfe, 0xff);
	lapic_write(LAPIC_LVT_LINT0, 7 << 8); /* ExtINT */
	pit_one_shot(1000);
	sti_hlt();
	want_equal(count[0x20], 1);
	/* In service: no other until EOI. */
	outb(0x20, 0x0b);
	want_equal(inb(0x20), 1);
	pit_one_shot(100);
	wait_ms(20);
	sti_nop();
	want_equal(count[0x20], 1);
	outb(0x20, 0x20);
	sti_nop();
	want_equal(count[0x20], 2);
	outb(0x20, 0x20);
	/* The slave: the RTC's update interrupt would take a second; IRQ 8 by its
	 * periodic one. */
	outb(0x21, 0xfb);
	outb(0xa1, 0xfe);
	outb(0x70, 0x0a);
	outb(0x71, 0x26); /* 1024 Hz */
	/* The flag runs without its enable: clear it, or there is an edge at once. */
	outb(0x70, 0x0c);
	(void)inb(0x71);
	outb(0x70, 0x0b);
	outb(0x71, 0x42);
	sti_hlt();
	want_equal(count[0x28], 1);
	outb(0x70, 0x0c);
	want_equal(inb(0x71) & 0xc0, 0xc0);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	outb(0x70, 0x0b);
	outb(0x71, 2);
	/* Through LINT0 masked nothing comes. */
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED | 7 << 8);
	pic_init(0xff, 0xff);
}

/* The APIC off: INTR of the PIC goes straight to the CPU. */
static void apic_off(void)
{
	u64 b = rdmsr(IA32_APIC_BASE);

	setup();
	pic_init(0xfe, 0xff);
	wrmsr(IA32_APIC_BASE, b & ~(u64)APIC_ENABLE);
	want_equal(HAS(1, 0, d, 9), 0);
	pit_one_shot(1000);
	sti_hlt();
	want_equal(count[0x20], 1);
	outb(0x20, 0x20);
	wrmsr(IA32_APIC_BASE, b);
	want_equal(HAS(1, 0, d, 9), 1);
	/* It comes back as after reset: software-disabled. */
	want_equal(lapic_read(LAPIC_SVR) & SVR_ENABLE, 0);
	pic_init(0xff, 0xff);
}

/* ---- x2APIC ---- */

static void x2apic(void)
{
	u64 b = rdmsr(IA32_APIC_BASE), v;

	if (!HAS_X2APIC) {
		skip("no x2APIC");
		return;
	}
	setup();
	want_equal(try_rdmsr(0x802, &v), GP);
	/* X2 without enable. */
	want_equal(try_wrmsr(IA32_APIC_BASE, (b & ~(u64)APIC_ENABLE) | APIC_X2), GP);
	want_equal(try_wrmsr(IA32_APIC_BASE, b | APIC_X2), NONE);
	setup();
	want_equal(lapic_read(LAPIC_ID), cpuid(1, 0).b >> 24);
	want_equal(rdmsr(0x80d), BIT(my_id() & 15) | (u64)(my_id() >> 4) << 16);
	send_ipi(my_id(), 0x4000 | 0x61);
	sti_nop();
	want_equal(count[0x61], 1);
	wrmsr(0x83f, 0x62);
	sti_nop();
	want_equal(count[0x62], 1);
	/* Reserved bits and registers that are not there: #GP. */
	want_equal(try_wrmsr(0x83f, 0x100), GP);
	want_equal(try_wrmsr(0x80b, 1), GP);
	want_equal(try_wrmsr(0x802, 0), GP);
	want_equal(try_rdmsr(0x80e, &v), GP); /* DFR */
	want_equal(try_rdmsr(0x831, &v), GP); /* ICR high */
	want_equal(try_rdmsr(0x83f, &v), GP);
	want_equal(try_wrmsr(0x808, 0x100), GP);
	want_equal(try_wrmsr(0x828, 1), GP); /* ESR takes 0 alone */
	/* Back: only by way of off. */
	want_equal(try_wrmsr(IA32_APIC_BASE, b), GP);
	want_equal(try_wrmsr(IA32_APIC_BASE, b & ~(u64)APIC_ENABLE), NONE);
	want_equal(try_wrmsr(IA32_APIC_BASE, b | APIC_X2), GP);
	want_equal(try_wrmsr(IA32_APIC_BASE, b), NONE);
	setup();
	want_equal(lapic_read(LAPIC_VERSION) & 0xff, lapic_read(LAPIC_VERSION) & 0xff);
}

const struct test_case cases[] = {
	CASE(self_ipi, "SDM 3 11.6"),
	CASE(priorities, "SDM 3 11.8.3"),
	CASE(tpr, "SDM 3 11.8.3.1, 11.8.6"),
	CASE(illegal_vector, "SDM 3 11.5.3"),
	CASE(sti_shadow, "SDM 2 STI"),
	CASE(mov_ss_shadow, "SDM 3 6.8.3"),
	CASE(hlt_wakes, "SDM 2 HLT"),
	CASE(nmi, "SDM 3 6.7"),
	CASE(in_user_mode, "SDM 3 6.12"),
	CASE(ioapic, "82093AA"),
	CASE(pic, "8259A"),
	CASE(apic_off, "SDM 3 11.4.3"),
	CASE(x2apic, "SDM 3 11.12"),
	CASES_END,
};
