/*
 * The real-time clock, the HPET and the ACPI timer and event registers, by their
 * specifications.
 *
 * MC146818A data sheet (section names are those of the cases); IA-PC HPET 1.0a section
 * 2.3; ACPI 6.4 section 4.8.3. An update of the clock is had half a second after its
 * divider leaves reset.
 */
#include "apic.h"

static volatile unsigned count[256];

static void on_irq(struct frame *f)
{
	count[f->vector]++;
	eoi();
}

static u8 my_id(void)
{
	return (u8)(lapic_read(LAPIC_ID) >> 24);
}

static void setup(void)
{
	for (unsigned v = 0x60; v < 0x70; v++) {
		hook[v] = on_irq;
		count[v] = 0;
	}
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
}

static u32 pm_now(void)
{
	return inl(0x608);
}

/* ---- real-time clock ---- */

enum {
	SEC,
	SEC_ALARM,
	MIN,
	MIN_ALARM,
	HOUR,
	HOUR_ALARM,
	WDAY,
	MDAY,
	MONTH,
	YEAR,
	A_,
	B_,
	C_,
	D_
};
enum { H24 = 2, DM = 4, UIE = 0x10, AIE = 0x20, PIE = 0x40, SET = 0x80 };
enum { UFLAG = 0x10, AFLAG = 0x20, PFLAG = 0x40, IRQF = 0x80 };

static u8 cmos(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void cmos_set(u8 reg, u8 v)
{
	outb(0x70, reg);
	outb(0x71, v);
}

static u8 coded(unsigned v, u8 b)
{
	return (u8)(b & DM ? v : v / 10 << 4 | v % 10);
}

static u8 coded_hour(unsigned h, u8 b)
{
	if (b & H24)
		return coded(h, b);
	return coded(h % 12 ? h % 12 : 12, b) | (h >= 12 ? 0x80 : 0);
}

struct date {
	unsigned year, month, mday, hour, min, sec;
};

/* Stopped, at this time, in the format of 'b'. */
static void clock_set(const struct date *d, u8 b)
{
	cmos_set(B_, SET | b);
	cmos_set(A_, 0x70); /* divider in reset, no periodic flag */
	cmos_set(WDAY, 7);
	cmos_set(YEAR, coded(d->year % 100, b));
	cmos_set(0x32, coded(d->year / 100, b));
	cmos_set(MONTH, coded(d->month, b));
	cmos_set(MDAY, coded(d->mday, b));
	cmos_set(HOUR, coded_hour(d->hour, b));
	cmos_set(MIN, coded(d->min, b));
	cmos_set(SEC, coded(d->sec, b));
	(void)cmos(C_);
}

/*
 * From 'd', one update on; what C was then, as SET takes UIE away. Done again when the
 * host was so slow that there may have been two.
 */
static u8 clock_step(const struct date *d, u8 b)
{
	u8 c = 0;

	for (unsigned tries = 0; tries < 10; tries++) {
		u32 start;

		clock_set(d, b & ~(UIE | AIE));
		start = pm_now();
		cmos_set(B_, b);
		cmos_set(A_, 0x20);
		while (!(cmos(A_) & 0x80) && pm_now() - start < 3579545)
			;
		while ((cmos(A_) & 0x80) && pm_now() - start < 3579545)
			;
		sti_nop();
		c = cmos(C_);
		cmos_set(B_, SET | b);
		if (pm_now() - start < 3579545 / 10 * 14)
			break;
		count[0x61] = 0;
	}
	return c;
}

static void want_date(const struct date *d, u8 b)
{
	want_equal(cmos(YEAR), coded(d->year % 100, b));
	want_equal(cmos(MONTH), coded(d->month, b));
	want_equal(cmos(MDAY), coded(d->mday, b));
	want_equal(cmos(HOUR), coded_hour(d->hour, b));
	want_equal(cmos(MIN), coded(d->min, b));
	want_equal(cmos(SEC), coded(d->sec, b));
}

/* The formats, and what carries over. */
static void updates(void)
{
	static const struct {
		const char *name;
		u8 b;
		struct date from, to;
	} table[] = {
		{ "BCD, 24 hours: year",
		  H24,
		  { 2025, 12, 31, 23, 59, 59 },
		  { 2026, 1, 1, 0, 0, 0 } },
		{ "binary, 24 hours: month",
		  H24 | DM,
		  { 2025, 4, 30, 23, 59, 59 },
		  { 2025, 5, 1, 0, 0, 0 } },
		{ "BCD, 12 hours: noon",
		  0,
		  { 2025, 3, 9, 11, 59, 59 },
		  { 2025, 3, 9, 12, 0, 0 } },
		{ "binary, 12 hours: midnight",
		  DM,
		  { 2025, 3, 9, 23, 59, 59 },
		  { 2025, 3, 10, 0, 0, 0 } },
		{ "leap year",
		  H24,
		  { 2024, 2, 28, 23, 59, 59 },
		  { 2024, 2, 29, 0, 0, 0 } },
		{ "no leap year",
		  H24,
		  { 2023, 2, 28, 23, 59, 59 },
		  { 2023, 3, 1, 0, 0, 0 } },
		{ "second",
		  H24 | DM,
		  { 2025, 6, 7, 8, 9, 10 },
		  { 2025, 6, 7, 8, 9, 11 } },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].name);
		clock_set(&table[i].from, table[i].b);
		want_date(&table[i].from, table[i].b);
		/* Every update sets UF, alarm or not. */
		want_equal(clock_step(&table[i].from, table[i].b) & UFLAG, UFLAG);
		want_date(&table[i].to, table[i].b);
	}
	row("day of the week");
	clock_step(&table[0].from, H24);
	want_equal(cmos(WDAY), 1);
}

static void alarms(void)
{
	/* At 12:34:56 after the update. C0h and more is any. */
	static const struct {
		const char *name;
		u8 hour, min, sec;
		bool hit;
	} table[] = {
		{ "exact", 0x12, 0x34, 0x56, true },
		{ "other second", 0x12, 0x34, 0x57, false },
		{ "other hour", 0x13, 0x34, 0x56, false },
		{ "any hour", 0xc0, 0x34, 0x56, true },
		{ "any hour and minute, other second", 0xff, 0xff, 0x55, false },
		{ "any time", 0xff, 0xff, 0xff, true },
	};
	static const struct date before = { 2025, 1, 2, 12, 34, 55 };

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].name);
		cmos_set(HOUR_ALARM, table[i].hour);
		cmos_set(MIN_ALARM, table[i].min);
		cmos_set(SEC_ALARM, table[i].sec);
		want_equal(clock_step(&before, H24) & (AFLAG | IRQF),
			   table[i].hit ? AFLAG : 0u);
		/* Reading cleared it. */
		want_equal(cmos(C_), 0);
	}
}

static void rtc_interrupts(void)
{
	static const struct {
		const char *name;
		u8 b, c;
	} table[] = {
		{ "update ended", UIE, IRQF | UFLAG },
		{ "alarm", AIE, IRQF | AFLAG },
		{ "none enabled", 0, 0 },
	};
	static const struct date before = { 2025, 1, 2, 12, 34, 55 };

	setup();
	ioapic_route(8, 0x61, my_id());
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u8 c;

		row("%s", table[i].name);
		count[0x61] = 0;
		cmos_set(HOUR_ALARM, 0xff);
		cmos_set(MIN_ALARM, 0xff);
		cmos_set(SEC_ALARM, 0xff);
		c = clock_step(&before, H24 | table[i].b);
		want_equal(count[0x61], table[i].c ? 1 : 0);
		want_equal(c & table[i].c, table[i].c);
		want_equal(c & IRQF, table[i].c ? IRQF : 0u);
	}
	row("periodic");
	count[0x61] = 0;
	cmos_set(A_, 0x26);
	(void)cmos(C_);
	cmos_set(B_, SET | H24 | PIE);
	for (unsigned i = 0; i < 3; i++) {
		sti_hlt();
		want_equal(cmos(C_) & (IRQF | PFLAG), IRQF | PFLAG);
	}
	want(count[0x61] >= 3);
	row("an unread one holds the line");
	wait_ms(3);
	sti_nop();
	count[0x61] = 0;
	wait_ms(5);
	sti_nop();
	want(count[0x61] <= 1);
	cmos_set(B_, H24);
	(void)cmos(C_);
	ioapic_route(8, LVT_MASKED, 0);
}

/* When the next edge behind 'last' came, to *slack how exactly that is known. */
static u32 next_edge(u32 last, u32 *slack)
{
	u32 start = last, before, now = start;

	do {
		before = now;
		now = pm_now();
	} while (!(cmos(C_) & PFLAG) && now - start < 3579545);
	now = pm_now();
	*slack += now - before;
	return now;
}

/* Periodic rates, table 5 of the data sheet. The host may stop us, but not always. */
static void rates(void)
{
	cmos_set(B_, SET | H24);
	for (unsigned rs = 0; rs < 14; rs++) {
		/* 32.768 kHz: 1 and 2 are as 8 and 9. */
		unsigned shift = rs < 3 ? rs + 6 : rs - 1;
		u32 period = 3579545u / (32768u >> shift), begin = pm_now();
		bool tried = false, right = false;

		row("rate %u", rs);
		cmos_set(A_, (u8)(0x20 | rs));
		(void)cmos(C_);
		if (!rs) {
			wait_ms(10);
			want_equal(cmos(C_) & PFLAG, 0);
			continue;
		}
		/* For half a second; an edge may be late, but not each time. */
		while (!right && pm_now() - begin < 1789772) {
			u32 slack = 0, first = next_edge(pm_now(), &slack), got;

			got = next_edge(next_edge(first, &slack), &slack) - first;
			if (slack > period / 4 + 80)
				continue;
			tried = true;
			right = got + slack >= 2 * period && got <= 2 * period + slack;
		}
		want(right || !tried);
	}
	cmos_set(A_, 0x26);
	cmos_set(B_, H24);
}

static void rtc_registers(void)
{
	static const struct date d = { 2025, 1, 2, 3, 4, 5 };

	row("UIP is read-only");
	clock_set(&d, H24);
	cmos_set(A_, 0xa6);
	want_equal(cmos(A_) & 0x7f, 0x26);
	row("B keeps its bits");
	for (unsigned n = 0; n < 8; n++) {
		cmos_set(B_, (u8)(SET | 1u << n));
		want_equal(cmos(B_) & ~UIE, (SET | 1u << n) & ~UIE);
	}
	row("SET clears UIE");
	cmos_set(B_, H24 | UIE);
	cmos_set(B_, SET | H24 | UIE);
	want_equal(cmos(B_) & UIE, 0);
	row("C and D are read-only");
	(void)cmos(C_);
	cmos_set(C_, 0xff);
	want_equal(cmos(C_) & 0x0f, 0);
	cmos_set(D_, 0);
	want_equal(cmos(D_), 0x80);
	row("SET holds the time");
	clock_set(&d, H24);
	cmos_set(A_, 0x26);
	wait_ms(700);
	want_equal(cmos(SEC), 5);
	want_equal(cmos(A_) & 0x80, 0);
	row("a divider in reset holds the time");
	cmos_set(A_, 0x76);
	cmos_set(B_, H24);
	wait_ms(700);
	want_equal(cmos(SEC), 5);
	row("alarm registers keep any byte");
	cmos_set(HOUR_ALARM, 0xfe);
	want_equal(cmos(HOUR_ALARM), 0xfe);
	row("memory keeps any byte");
	for (unsigned n = 0x40; n < 0x80; n++) {
		u8 old = cmos((u8)n);

		cmos_set((u8)n, (u8)(n ^ 0xa5));
		want_equal(cmos((u8)n), (u8)(n ^ 0xa5));
		cmos_set((u8)n, old);
	}
	row("bit 7 of the index is the NMI mask");
	outb(0x70, 0x80 | SEC);
	want_equal(inb(0x71), cmos(SEC));
	cmos_set(A_, 0x26);
}

/* ---- HPET ---- */

#define HPET_AT 0xfed00000ul
enum { T_LEVEL = 2, T_ENABLE = 4, T_PERIODIC = 8, T_SET = 0x40, T_32 = 0x100 };

static volatile u64 *hpet(unsigned reg)
{
	return (volatile u64 *)(HPET_AT + reg);
}

static u64 hpet_us(u32 us)
{
	u32 ns = (u32)(*hpet(0) >> 32) / 1000000;

	return us * 1000ull / ns;
}

static void hpet_off(void)
{
	*hpet(0x10) = 0;
	for (unsigned n = 0; n < 3; n++)
		*hpet(0x100 + 0x20 * n) = 0;
	*hpet(0x20) = ~0ull;
	*hpet(0xf0) = 0;
}

static void hpet_registers(void)
{
	u64 cap = *hpet(0);
	unsigned timers = (unsigned)(cap >> 8 & 31) + 1;

	hpet_off();
	row("capabilities");
	want((u32)(cap >> 32) > 0 && (u32)(cap >> 32) <= 100000000);
	want(timers >= 3);
	want(cap & 0xff);
	*hpet(0) = 0;
	want_equal(*hpet(0), cap);
	row("halted the counter stands, and can be written");
	*hpet(0xf0) = 0x123456789abcull;
	want_equal(*hpet(0xf0), 0x123456789abcull);
	row("each half of it");
	*(volatile u32 *)hpet(0xf0) = 0x11111111;
	*(volatile u32 *)hpet(0xf4) = 0x2222;
	want_equal(*hpet(0xf0), 0x222211111111);
	row("enabled it goes on from there");
	*hpet(0x10) = 1;
	wait_ms(1);
	want(*hpet(0xf0) > 0x222211111111 + hpet_us(900));
	*hpet(0x10) = 0;
	want(*hpet(0xf0) > 0x222211111111 + hpet_us(900));
	row("configuration has two bits");
	*hpet(0x10) = ~0ull;
	want_equal(*hpet(0x10), cap >> 15 & 1 ? 3 : 1);
	*hpet(0x10) = 0;
	for (unsigned n = 0; n < 3; n++) {
		unsigned reg = 0x100 + 0x20 * n;
		u64 caps = *hpet(reg), route = caps >> 32;

		row("timer %u, bits that are read-only", n);
		*hpet(reg) = ~caps & ~0x7f44ull;
		want_equal(*hpet(reg) & 0xffffffff00008030, caps & 0xffffffff00008030);
		want_equal(*hpet(reg) & 1, 0);
		*hpet(reg) = 0;
		row("timer %u, type", n);
		*hpet(reg) = T_PERIODIC;
		want_equal(*hpet(reg) >> 3 & 1, caps >> 4 & 1);
		row("timer %u, level and enable", n);
		*hpet(reg) = T_LEVEL | T_ENABLE;
		want_equal(*hpet(reg) & 6, 6);
		row("timer %u, routes", n);
		for (unsigned pin = 0; pin < 32; pin++) {
			*hpet(reg) = (u64)pin << 9;
			if (route >> pin & 1)
				want_equal(*hpet(reg) >> 9 & 31, pin);
		}
		row("timer %u, comparator", n);
		*hpet(reg) = 0;
		*hpet(reg + 8) = 0x123456789abc;
		want_equal(*hpet(reg + 8), caps >> 5 & 1 ? 0x123456789abc : 0x56789abc);
		row("timer %u, 32 bits", n);
		*hpet(reg) = T_32;
		want_equal(*hpet(reg) & T_32, caps >> 5 & 1 ? T_32 : 0u);
		want_equal(*hpet(reg + 8) >> 32, 0);
		*hpet(reg) = 0;
	}
	hpet_off();
}

static unsigned route_of(unsigned n)
{
	u32 route = (u32)(*hpet(0x100 + 0x20 * n) >> 32);
	unsigned pin = 0;

	while (pin < 31 && !(route >> pin & 1))
		pin++;
	return pin;
}

/* The level goes before its EOI. */
static void on_level(struct frame *f)
{
	*hpet(0x20) = 7;
	on_irq(f);
}

static void hpet_timers(void)
{
	for (unsigned n = 0; n < 3; n++) {
		unsigned reg = 0x100 + 0x20 * n, pin = route_of(n);
		u64 base = T_ENABLE | (u64)pin << 9;
		bool periodic = *hpet(reg) & 0x10;

		setup();
		hpet_off();
		ioapic_route(pin, 0x61, my_id());
		row("timer %u, edge, once", n);
		*hpet(reg) = base;
		*hpet(reg + 8) = hpet_us(500);
		*hpet(0x10) = 1;
		await(&count[0x61], 1);
		wait_ms(1);
		sti_nop();
		want_equal(count[0x61], 1);
		want_equal(*hpet(0x20), 0);
		row("timer %u, not enabled", n);
		*hpet(reg) = (u64)pin << 9;
		*hpet(reg + 8) = *hpet(0xf0) + hpet_us(500);
		wait_ms(2);
		sti_nop();
		want_equal(count[0x61], 1);
		row("timer %u, counter halted", n);
		*hpet(0x10) = 0;
		*hpet(reg) = base;
		*hpet(reg + 8) = *hpet(0xf0) + hpet_us(500);
		wait_ms(2);
		sti_nop();
		want_equal(count[0x61], 1);
		row("timer %u, level: status until it is cleared", n);
		hpet_off();
		/* Shared with PCI: active low. */
		ioapic_route(pin, 0x62 | 1 << 15 | 1 << 13, my_id());
		*hpet(reg) = base | T_LEVEL;
		*hpet(reg + 8) = hpet_us(500);
		*hpet(0x10) = 1;
		wait_ms(2);
		want_equal(*hpet(0x20), 1u << n);
		want(ioapic_read(0x10 + 2 * pin) & 1 << 14);
		hook[0x62] = on_level;
		await(&count[0x62], 1);
		want_equal(count[0x62], 1);
		want_equal(*hpet(0x20), 0);
		wait_ms(1);
		sti_nop();
		want_equal(count[0x62], 1);
		hpet_off();
		if (!periodic)
			continue;
		row("timer %u, periodic", n);
		ioapic_route(pin, 0x63, my_id());
		*hpet(reg) = base | T_PERIODIC | T_SET;
		*hpet(reg + 8) = hpet_us(1000);
		*hpet(reg + 8) = hpet_us(1000);
		*hpet(0x10) = 1;
		for (unsigned i = 0; i < 4; i++)
			sti_hlt();
		want(count[0x63] >= 4);
		row("timer %u, the comparator adds the period", n);
		want_equal(*hpet(reg + 8) % hpet_us(1000), 0);
		want(*hpet(reg + 8) >= hpet_us(4000));
		hpet_off();
		ioapic_route(pin, LVT_MASKED, 0);
	}
	setup();
}

/* 2.3.5: legacy replacement takes interrupts 0 and 8 from PIT and RTC. */
static void hpet_legacy(void)
{
	if (!(*hpet(0) >> 15 & 1)) {
		skip("no legacy replacement");
		return;
	}
	for (unsigned n = 0; n < 2; n++) {
		unsigned pin = n ? 8 : 2, reg = 0x100 + 0x20 * n;

		row("timer %u is interrupt %u", n, n ? 8 : 0);
		setup();
		hpet_off();
		outb(0x43, 0x30);
		ioapic_route(pin, 0x61, my_id());
		sti_nop();
		count[0x61] = 0;
		*hpet(reg) = T_ENABLE;
		*hpet(reg + 8) = hpet_us(500);
		*hpet(0x10) = 3;
		await(&count[0x61], 1);
		want_equal(count[0x61], 1);
		row("which the %s no longer drives", n ? "RTC" : "PIT");
		if (n) {
			cmos_set(A_, 0x26);
			cmos_set(B_, SET | H24 | PIE);
			(void)cmos(C_);
		} else {
			outb(0x43, 0x30);
			outb(0x40, 100);
			outb(0x40, 0);
		}
		wait_ms(3);
		sti_nop();
		want_equal(count[0x61], 1);
		hpet_off();
		cmos_set(B_, H24);
		(void)cmos(C_);
		ioapic_route(pin, LVT_MASKED, 0);
	}
	hpet_off();
}

/* ---- ACPI ---- */

enum { PM1_STS = 0x600, PM1_EN = 0x602, PM1_CNT = 0x604, GPE0 = 0x620 };

static void acpi_registers(void)
{
	static const struct {
		const char *name;
		u16 bit;
	} events[] = {
		{ "timer", 0x001 },        { "global lock", 0x020 },
		{ "power button", 0x100 }, { "sleep button", 0x200 },
		{ "RTC", 0x400 },
	};
	u32 a, b;

	for (unsigned i = 0; i < ARRAY_SIZE(events); i++) {
		row("enable of the %s", events[i].name);
		outw(PM1_EN, events[i].bit);
		want_equal(inw(PM1_EN), events[i].bit);
		outw(PM1_EN, 0);
	}
	row("no other enables");
	outw(PM1_EN, 0xf8de);
	want_equal(inw(PM1_EN), 0);
	row("status is cleared by ones");
	outw(PM1_STS, 0xffff);
	want_equal(inw(PM1_STS) & 0x8720, 0);
	row("SCI_EN by the SMI port");
	outb(0xb2, 0);
	{
		u16 old = inw(PM1_CNT);

		outw(PM1_CNT, 0);
		want_equal(inw(PM1_CNT) & 1, 0);
		outw(PM1_CNT, old);
	}
	row("SLP_EN reads as 0");
	outw(PM1_CNT, 0x1c00);
	want_equal(inw(PM1_CNT) & 0x3c00, 0x1c00);
	/* Type 2 is no sleep state here. */
	outw(PM1_CNT, 0x2800);
	want_equal(inw(PM1_CNT), 0x0800);
	outw(PM1_CNT, 0x03f8);
	want_equal(inw(PM1_CNT), 0);
	outw(PM1_CNT, 0);
	row("the timer cannot be written");
	a = inl(0x608);
	outl(0x608, a + 0x100000);
	b = inl(0x608);
	want(b - a < 0x100000);
	row("bytes and words of it");
	(void)inb(0x608);
	want(((inw(0x60a) ^ inl(0x608) >> 16) & 0xff) <= 1);
	row("general events: enables");
	outb(GPE0 + 4, 0x02);
	want_equal(inb(GPE0 + 4) & 0x02, 0x02);
	outb(GPE0 + 4, 0);
}

const struct test_case cases[] = {
	CASE(updates, "MC146818A Time, calendar and alarm locations"),
	CASE(alarms, "MC146818A Alarm interrupt"),
	CASE(rtc_interrupts, "MC146818A Interrupts"),
	CASE(rates, "MC146818A Periodic interrupt"),
	CASE(rtc_registers, "MC146818A Registers"),
	CASE(hpet_registers, "HPET 2.3"),
	CASE(hpet_timers, "HPET 2.3.9"),
	CASE(hpet_legacy, "HPET 2.3.5"),
	CASE(acpi_registers, "ACPI 4.8.3"),
	CASES_END,
};
