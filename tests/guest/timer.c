/*
 * Clocks and timers: they move, agree with each other, and interrupt when they should.
 * SDM volume 3 sections 11.5.4 (APIC timer), 17.17 (TSC); MC146818; IA-PC HPET 1.0a;
 * ACPI 6.3 section 4.8.3.3 (PM timer); 8254. Frequencies: CPUID.15H, which AMD does not
 * have, or the leaf 40000010H of hypervisors.
 */
#include "apic.h"

#define PM_TIMER 0x608
#define PM_HZ    3579545u
#define HPET_AT  0xfed00000ul

static volatile unsigned count;

static void on_timer(struct frame *f)
{
	(void)f;
	count++;
	eoi();
}

static void setup(void)
{
	hook[0x61] = on_timer;
	hook[0xff] = on_timer;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
	lapic_write(LAPIC_TIMER_DIV, 0xb); /* by 1 */
	/* What the last case left. */
	lapic_write(LAPIC_TIMER_INIT, 0);
	sti_nop();
	count = 0;
}

/* Microseconds by the PM timer. */
static u32 pm_now(void)
{
	return inl(PM_TIMER);
}

static u32 pm_us(u32 since)
{
	u32 ticks = pm_now() - since;

	/* Without a division of 64 bits: 1 us is 3.58 ticks. */
	return ticks / 358 * 100 + ticks % 358 * 100 / 358;
}

static u32 apic_hz(void)
{
	u32 hz = cpuid(0, 0).a >= 0x15 ? cpuid(0x15, 0).c : 0;

	return hz ? hz : cpuid(0x40000010, 0).b * 1000;
}

static u32 tsc_khz(void)
{
	struct cpuid c = { 0 };

	if (cpuid(0, 0).a >= 0x15)
		c = cpuid(0x15, 0);
	return c.a && c.b ? c.c / 1000 / c.a * c.b : cpuid(0x40000010, 0).a;
}

static void pm_timer(void)
{
	u32 a = pm_now(), b = a;

	for (unsigned i = 0; i < 1000; i++) {
		u32 next = pm_now();

		if (next - b > 0x7fffffff)
			fail("went back from %x to %x", b, next);
		b = next;
	}
	want(b != a);
}

static void frequencies(void)
{
	u32 hz = apic_hz(), khz = tsc_khz();

	want(hz);
	want(khz);
	/* Where both leaves are, they agree. */
	want(hz / 1000 == cpuid(0x40000010, 0).b);
	want(khz - khz / 1000 <= cpuid(0x40000010, 0).a &&
	     khz + khz / 1000 >= cpuid(0x40000010, 0).a);
}

static void one_shot(void)
{
	u32 start, us;

	setup();
	lapic_write(LAPIC_LVT_TIMER, 0x61);
	start = pm_now();
	lapic_write(LAPIC_TIMER_INIT, apic_hz() / 200); /* 5 ms */
	sti_hlt();
	us = pm_us(start);
	want_equal(count, 1);
	want_equal(lapic_read(LAPIC_TIMER_NOW), 0);
	if (us < 4900)
		fail("5 ms took %u us", us);
	/* Once. */
	for (unsigned i = 0; i < 1000; i++)
		(void)inb(0x80);
	sti_nop();
	want_equal(count, 1);
	/* Stopped by 0. */
	lapic_write(LAPIC_TIMER_INIT, 100000);
	lapic_write(LAPIC_TIMER_INIT, 0);
	want_equal(lapic_read(LAPIC_TIMER_NOW), 0);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
}

static void counts_down(void)
{
	u32 a, b;

	setup();
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_write(LAPIC_TIMER_INIT, 0xffffffff);
	a = lapic_read(LAPIC_TIMER_NOW);
	for (unsigned i = 0; i < 100; i++)
		(void)inb(0x80);
	b = lapic_read(LAPIC_TIMER_NOW);
	want(b < a);
	lapic_write(LAPIC_TIMER_INIT, 0);
}

static void periodic(void)
{
	u32 hz = apic_hz(), start, us;

	setup();
	lapic_write(LAPIC_LVT_TIMER, 0x61 | LVT_PERIODIC);
	start = pm_now();
	lapic_write(LAPIC_TIMER_INIT, hz / 1000);
	while (count < 20)
		sti_hlt();
	us = pm_us(start);
	if (us < 19500)
		fail("20 ms took %u us", us);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	lapic_write(LAPIC_TIMER_INIT, 0);
}

static void tsc_deadline(void)
{
	u32 khz = tsc_khz(), start, us;
	u64 at;

	if (!HAS_DEADLINE) {
		skip("no TSC deadline");
		return;
	}
	setup();
	lapic_write(LAPIC_LVT_TIMER, 0x61 | LVT_DEADLINE);
	start = pm_now();
	at = rdtsc() + (u64)khz * 5;
	wrmsr(IA32_TSC_DEADLINE, at);
	want_equal(rdmsr(IA32_TSC_DEADLINE), at);
	sti_hlt();
	us = pm_us(start);
	want_equal(count, 1);
	want(rdtsc() >= at);
	want_equal(rdmsr(IA32_TSC_DEADLINE), 0);
	if (us < 4900)
		fail("5 ms took %u us", us);
	/* In the past: at once. 0 disarms. */
	wrmsr(IA32_TSC_DEADLINE, 1);
	sti_nop();
	want_equal(count, 2);
	wrmsr(IA32_TSC_DEADLINE, rdtsc() + (u64)khz * 100);
	wrmsr(IA32_TSC_DEADLINE, 0);
	start = pm_now();
	while (pm_us(start) < 120000)
		sti_nop();
	want_equal(count, 2);
	/* In another mode the MSR is 0 and ignores writes. */
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	wrmsr(IA32_TSC_DEADLINE, at);
	want_equal(rdmsr(IA32_TSC_DEADLINE), 0);
}

static void tsc_rate(void)
{
	u32 khz = tsc_khz(), us = 0, ms = 0;

	/* The host may take the CPU away between the looks at the two clocks, but not
	 * each time. */
	for (unsigned i = 0; i < 10; i++) {
		u32 start = pm_now();
		u64 t = rdtsc();

		while ((us = pm_us(start)) < 20000)
			;
		ms = (u32)(rdtsc() - t) / khz;
		if (ms + 1 >= us / 1000 && ms <= us / 1000 + 1)
			return;
	}
	fail("%u us are %u ms of the TSC", us, ms);
}

static volatile u64 *hpet(unsigned reg)
{
	return (volatile u64 *)(HPET_AT + reg);
}

static u32 hpet32(unsigned reg)
{
	return *(volatile u32 *)(HPET_AT + reg);
}

static void hpet_counts(void)
{
	u32 period = hpet32(4), a, b, start, us, got;

	want(period > 0 && period <= 100000000); /* fs */
	*(volatile u32 *)(HPET_AT + 0x10) = 0;
	a = hpet32(0xf0);
	b = hpet32(0xf0);
	want_equal(a, b);
	*(volatile u32 *)(HPET_AT + 0x10) = 1;
	a = hpet32(0xf0);
	start = pm_now();
	while ((us = pm_us(start)) < 10000)
		;
	b = hpet32(0xf0);
	got = (b - a) / (1000000000 / period);
	if (got < 9900 || got > us + 50000)
		fail("%u us are %u us of the HPET", us, got);
	(void)hpet;
}

static void hpet_interrupts(void)
{
	u32 pin, caps;

	setup();
	*(volatile u32 *)(HPET_AT + 0x10) = 0;
	*(volatile u32 *)(HPET_AT + 0xf0) = 0;
	*(volatile u32 *)(HPET_AT + 0xf4) = 0;
	caps = hpet32(0x104);
	want(caps);
	for (pin = 0; pin < 32 && !(caps >> pin & 1);)
		pin++;
	ioapic_route(pin, 0x61, (u8)(lapic_read(LAPIC_ID) >> 24));
	*(volatile u32 *)(HPET_AT + 0x100) = 4 | pin << 9;
	*(volatile u32 *)(HPET_AT + 0x108) = 1000000 / (hpet32(4) / 1000000); /* 1 ms */
	*(volatile u32 *)(HPET_AT + 0x10c) = 0;
	*(volatile u32 *)(HPET_AT + 0x10) = 1;
	sti_hlt();
	want_equal(count, 1);
	*(volatile u32 *)(HPET_AT + 0x100) = 0;
	ioapic_route(pin, LVT_MASKED, 0);
}

static u8 cmos(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void rtc(void)
{
	u8 b, sec;
	u32 start;

	want_equal(cmos(0x0d) & 0x80, 0x80); /* the battery is fine */
	b = cmos(0x0b);
	sec = cmos(0);
	want((b & 4) ? sec < 60 : (sec & 15) < 10 && sec >> 4 < 6);
	want(cmos(8) >= 1);
	/* An update takes place within a second or two. */
	start = pm_now();
	(void)cmos(0x0c);
	while (!(cmos(0x0c) & 0x10) && pm_us(start) < 3000000)
		;
	want(pm_us(start) < 2000000);
	/* RAM. */
	outb(0x70, 0x50);
	outb(0x71, 0xa5);
	want_equal(cmos(0x50), 0xa5);
}

/* Counter 2's output is bit 5 of port 61h. */
static void pit(void)
{
	u32 start, us;
	u16 a, b;

	outb(0x61, (inb(0x61) & ~3) | 1);
	outb(0x43, 0xb0); /* counter 2, mode 0 */
	start = pm_now();
	outb(0x42, 0x00);
	outb(0x42, 0x10); /* 4096: 3.4 ms */
	want_equal(inb(0x61) & 0x20, 0);
	while (!(inb(0x61) & 0x20) && pm_us(start) < 1000000)
		;
	us = pm_us(start);
	if (us < 3400 || us > 500000)
		fail("3433 us took %u us", us);
	/* Latched reads go down, but when it starts anew in between. */
	outb(0x43, 0xb4);
	outb(0x42, 0);
	outb(0x42, 0);
	for (unsigned i = 0; i < 20; i++) {
		outb(0x43, 0x80);
		a = inb(0x42);
		a |= (u16)(inb(0x42) << 8);
		outb(0x43, 0x80);
		b = inb(0x42);
		b |= (u16)(inb(0x42) << 8);
		if (b < a)
			return;
	}
	fail("from %x to %x", a, b);
}

const struct test_case cases[] = {
	CASE(pm_timer, "ACPI 4.8.3.3"),
	CASE(frequencies, "SDM 2 CPUID"),
	CASE(one_shot, "SDM 3 11.5.4"),
	CASE(counts_down, "SDM 3 11.5.4"),
	CASE(periodic, "SDM 3 11.5.4"),
	CASE(tsc_deadline, "SDM 3 11.5.4.1"),
	CASE(tsc_rate, "SDM 3 17.17"),
	CASE(hpet_counts, "HPET 2.3"),
	CASE(hpet_interrupts, "HPET 2.3"),
	CASE(rtc, "MC146818"),
	CASE(pit, "8254"),
	CASES_END,
};
