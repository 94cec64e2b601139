/*
 * The I/O APIC: its registers, and what each field of a redirection entry does. The test
 * device drives the pins.
 *
 * 82093AA data sheet 290566-001 (3.1 and 3.2: registers); version 20h and the EOI
 * register: ICH9 data sheet 13.5; SDM volume 3 section 11.8.5 (EOI broadcasts).
 */
#include "apic.h"

#define PIN 19 /* most cases' */
#define VEC 0x61

enum { LOW = 1 << 13, RIRR = 1 << 14, LEVEL = 1 << 15, LOGICAL = 1 << 11 };

static volatile unsigned count[256], nmis;

static void on_irq(struct frame *f)
{
	count[f->vector]++;
	eoi();
}

static void no_eoi(struct frame *f)
{
	count[f->vector]++;
}

static void on_nmi(struct frame *f)
{
	(void)f;
	nmis++;
}

static u8 my_id(void)
{
	return (u8)(lapic_read(LAPIC_ID) >> 24);
}

static void drain(void)
{
	for (unsigned i = 0; i < 8; i++)
		sti_nop();
}

static void setup(void)
{
	for (unsigned v = 0x30; v < 256; v++)
		hook[v] = v == EXIT_VECTOR ? NULL : on_irq;
	hook[NMI] = on_nmi;
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	for (unsigned pin = 0; pin < 24; pin++) {
		ioapic_write(0x10 + 2 * pin, LVT_MASKED);
		ioapic_write(0x11 + 2 * pin, 0);
	}
	for (unsigned n = 3; n < 24; n++)
		if (n != 8 && n != 13)
			line_set(n, false);
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
	drain();
	for (unsigned i = 0; i < 256; i++)
		count[i] = 0;
	nmis = 0;
}

/* PIN's entry, destination this CPU. */
static void route(u32 low)
{
	ioapic_route(PIN, low, my_id());
}

static u32 entry(void)
{
	return ioapic_read(0x10 + 2 * PIN);
}

static bool pends(u8 vector)
{
	return lapic_bit(LAPIC_IRR, vector);
}

/* ---- registers ---- */

static void registers(void)
{
	static const struct {
		const char *name;
		u8 from, to;
		bool writable;
	} fields[] = {
		{ "vector", 0, 7, true },
		{ "delivery mode", 8, 10, true },
		{ "destination mode", 11, 11, true },
		{ "delivery status", 12, 12, false },
		{ "polarity", 13, 13, true },
		{ "remote IRR", 14, 14, false },
		{ "trigger mode", 15, 15, true },
		{ "mask", 16, 16, true },
		{ "reserved", 17, 47, false },
		{ "destination", 56, 63, true },
	};

	setup();
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		row("redirection entry, %s", fields[i].name);
		for (unsigned n = fields[i].from; n <= fields[i].to; n++) {
			unsigned reg = 0x10 + 2 * PIN + n / 32;
			u32 bit = 1u << (n & 31), keep = n < 32 ? LVT_MASKED : 0;

			ioapic_write(reg, keep | bit);
			want_equal(ioapic_read(reg),
				   fields[i].writable ? keep | bit : keep);
			ioapic_write(reg, n < 32 ? LVT_MASKED : 0);
		}
	}
	row("ID");
	ioapic_write(0, 0xffffffff);
	want_equal(ioapic_read(0), 0x0f000000);
	ioapic_write(0, 0x05000000);
	want_equal(ioapic_read(0), 0x05000000);
	row("arbitration ID follows the ID");
	want_equal(ioapic_read(2), 0x05000000);
	ioapic_write(0, 0);
	row("version: 24 entries, and read-only");
	want_equal(ioapic_read(1) >> 16 & 0xff, 23);
	want((ioapic_read(1) & 0xff) >= 0x11);
	{
		u32 v = ioapic_read(1);

		ioapic_write(1, ~v);
		want_equal(ioapic_read(1), v);
	}
	row("index register keeps 8 bits");
	*(volatile u32 *)IOAPIC_AT = 0xffffff01;
	want_equal(*(volatile u32 *)IOAPIC_AT & 0xff, 1);
	row("entries are apart");
	for (unsigned pin = 0; pin < 24; pin++) {
		ioapic_write(0x10 + 2 * pin, LVT_MASKED | (0x30 + pin));
		ioapic_write(0x11 + 2 * pin, pin << 24);
	}
	for (unsigned pin = 0; pin < 24; pin++) {
		want_equal(ioapic_read(0x10 + 2 * pin), LVT_MASKED | (0x30 + pin));
		want_equal(ioapic_read(0x11 + 2 * pin), pin << 24);
	}
	setup();
}

/* ---- pins ---- */

static bool usable(unsigned pin)
{
	/* Those of the PIC, the timers, the keyboard and ACPI have other drivers. */
	return pin >= 3 && pin != 8 && pin != 9 && pin != 13;
}

static void pins(void)
{
	for (unsigned pin = 0; pin < 24; pin++) {
		if (!usable(pin))
			continue;
		row("pin %u", pin);
		setup();
		ioapic_route(pin, 0x40 + pin, my_id());
		line_set(pin, pin < 16);
		line_set(pin, pin >= 16);
		line_set(pin, pin < 16);
		want(pends((u8)(0x40 + pin)));
		drain();
		want(count[0x40 + pin] >= 1);
		line_set(pin, false);
	}
	setup();
}

/* What raises PIN as this polarity sees it: the board inverts those of PCI. */
static void active_pin(unsigned pin, bool on, u32 polarity)
{
	line_set(pin, on == (polarity != 0));
}

static void active(bool on, u32 polarity)
{
	active_pin(PIN, on, polarity);
}

/* Trigger mode, polarity, mask, remote IRR. */
static void triggers(void)
{
	for (unsigned n = 0; n < 2; n++) {
		u32 low = n ? LOW : 0;
		const char *name = n ? "low" : "high";

		row("edge, active %s", name);
		setup();
		active(false, low);
		route(VEC | low);
		want(!pends(VEC));
		active(true, low);
		want(pends(VEC));
		drain();
		want_equal(count[VEC], 1);
		want_equal(entry() & RIRR, 0);
		want(!lapic_bit(LAPIC_TMR, VEC));
		/* The other edge does nothing, the next one does. */
		active(false, low);
		want(!pends(VEC));
		active(true, low);
		drain();
		want_equal(count[VEC], 2);
		row("edge while masked is lost, active %s", name);
		active(false, low);
		route(VEC | low | LVT_MASKED);
		active(true, low);
		ioapic_write(0x10 + 2 * PIN, VEC | low);
		drain();
		want_equal(count[VEC], 2);
		row("level, active %s", name);
		setup();
		active(false, low);
		hook[VEC] = no_eoi;
		route(VEC | low | LEVEL);
		want(!pends(VEC));
		active(true, low);
		want(pends(VEC));
		want_equal(entry() & RIRR, RIRR);
		want(lapic_bit(LAPIC_TMR, VEC));
		drain();
		want_equal(count[VEC], 1);
		row("EOI with the level up delivers again, active %s", name);
		eoi();
		want_equal(entry() & RIRR, RIRR);
		drain();
		want_equal(count[VEC], 2);
		row("EOI with the level down ends it, active %s", name);
		active(false, low);
		want_equal(entry() & RIRR, RIRR);
		eoi();
		want_equal(entry() & RIRR, 0);
		drain();
		want_equal(count[VEC], 2);
		row("level while masked is there when unmasked, active %s", name);
		route(VEC | low | LEVEL | LVT_MASKED);
		active(true, low);
		want(!pends(VEC));
		ioapic_write(0x10 + 2 * PIN, VEC | low | LEVEL);
		want(pends(VEC));
		drain();
		active(false, low);
		eoi();
		row("level that went while masked is gone, active %s", name);
		route(VEC | low | LEVEL | LVT_MASKED);
		active(true, low);
		active(false, low);
		ioapic_write(0x10 + 2 * PIN, VEC | low | LEVEL);
		want(!pends(VEC));
		want_equal(entry() & RIRR, 0);
	}
	row("remote IRR holds back while in service");
	setup();
	hook[VEC] = no_eoi;
	active(false, LOW);
	route(VEC | LOW | LEVEL);
	active(true, LOW);
	drain();
	active(false, LOW);
	active(true, LOW);
	drain();
	want_equal(count[VEC], 1);
	active(false, LOW);
	eoi();
	drain();
	want_equal(count[VEC], 1);
	row("switching to edge clears remote IRR");
	active(true, LOW);
	drain();
	want_equal(entry() & RIRR, RIRR);
	ioapic_write(0x10 + 2 * PIN, VEC | LOW | LVT_MASKED);
	want_equal(entry() & RIRR, 0);
	active(false, LOW);
	eoi();
	setup();
}

/* ---- delivery ---- */

static void one_edge(u32 low)
{
	active(false, 0);
	route(low);
	active(true, 0);
}

static void delivery_modes(void)
{
	row("fixed");
	setup();
	one_edge(VEC);
	want(pends(VEC));
	drain();
	row("lowest priority");
	lapic_write(LAPIC_LDR, 0x1000000);
	active(false, 0);
	ioapic_route(PIN, VEC | 1 << 8 | LOGICAL, 1);
	active(true, 0);
	want(pends(VEC));
	drain();
	row("NMI: the vector does not count");
	setup();
	one_edge(4 << 8);
	__asm__ volatile("nop; nop");
	want_equal(nmis, 1);
	row("NMI is an edge even as a level");
	setup();
	one_edge(4 << 8 | LEVEL);
	__asm__ volatile("nop; nop");
	want_equal(entry() & RIRR, 0);
	row("ExtINT asks the PIC");
	setup();
	pic_init(0x7f, 0xff);
	for (unsigned v = 0x20; v < 0x30; v++)
		hook[v] = no_eoi;
	line_set(7, true);
	one_edge(7 << 8);
	drain();
	want_equal(count[0x27], 1);
	pic_init(0xff, 0xff);
	row("a vector below 16 is a receive error");
	setup();
	lapic_write(LAPIC_ESR, 0);
	one_edge(5);
	lapic_write(LAPIC_ESR, 0);
	want_equal(lapic_read(LAPIC_ESR), 0x40);
	setup();
}

static void destinations(void)
{
	setup();
	row("physical: this ID alone");
	for (unsigned id = 0; id < 255; id++) {
		active(false, 0);
		ioapic_route(PIN, VEC, (u8)id);
		active(true, 0);
		want_equal(pends(VEC), id == my_id());
		drain();
	}
	row("physical: broadcast");
	active(false, 0);
	ioapic_route(PIN, VEC, 0xff);
	active(true, 0);
	want(pends(VEC));
	drain();
	for (unsigned bit = 0; bit < 8; bit++) {
		row("logical, flat, LDR bit %u", bit);
		lapic_write(LAPIC_DFR, 0xffffffff);
		lapic_write(LAPIC_LDR, 1u << (24 + bit));
		for (unsigned mda = 0; mda < 256; mda++) {
			active(false, 0);
			ioapic_route(PIN, VEC | LOGICAL, (u8)mda);
			active(true, 0);
			want_equal(pends(VEC), mda >> bit & 1);
			drain();
		}
	}
	row("logical, cluster");
	lapic_write(LAPIC_DFR, 0x0fffffff);
	lapic_write(LAPIC_LDR, 0x24000000);
	for (unsigned mda = 0; mda < 0xf0; mda++) {
		active(false, 0);
		ioapic_route(PIN, VEC | LOGICAL, (u8)mda);
		active(true, 0);
		want_equal(pends(VEC), mda >> 4 == 2 && (mda & 4));
		drain();
	}
	lapic_write(LAPIC_DFR, 0xffffffff);
	setup();
}

/* ---- end of interrupt ---- */

static void level_in_service(void)
{
	setup();
	hook[VEC] = no_eoi;
	active(false, LOW);
	route(VEC | LOW | LEVEL);
	active(true, LOW);
	drain();
	active(false, LOW);
}

static void ends_of_interrupt(void)
{
	bool has_register = (ioapic_read(1) & 0xff) >= 0x20;

	row("broadcast of another vector");
	level_in_service();
	send_ipi(my_id(), 0x4091);
	drain();
	want_equal(entry() & RIRR, RIRR);
	row("broadcast of its vector");
	eoi();
	want_equal(entry() & RIRR, 0);
	row("an edge's EOI is not broadcast");
	level_in_service();
	ioapic_write(0x10 + 2 * PIN, 0x91 | LOW | LEVEL);
	eoi(); /* of VEC: another vector by now */
	want_equal(entry() & RIRR, RIRR);
	send_ipi(my_id(), 0x4091);
	drain();
	want_equal(count[0x91], 1);
	want_equal(entry() & RIRR, RIRR);
	ioapic_write(0x10 + 2 * PIN, LVT_MASKED);
	if (!has_register)
		return;
	row("EOI register, another vector");
	level_in_service();
	*(volatile u32 *)(IOAPIC_AT + 0x40) = VEC + 1;
	want_equal(entry() & RIRR, RIRR);
	row("EOI register, its vector");
	*(volatile u32 *)(IOAPIC_AT + 0x40) = VEC;
	want_equal(entry() & RIRR, 0);
	eoi();
	if (!(lapic_read(LAPIC_VERSION) & BIT(24)))
		return;
	row("suppressed broadcast leaves remote IRR");
	level_in_service();
	lapic_write(LAPIC_SVR, SVR_ENABLE | BIT(12) | 0xff);
	eoi();
	want_equal(entry() & RIRR, RIRR);
	row("then it is the register's to clear");
	*(volatile u32 *)(IOAPIC_AT + 0x40) = VEC;
	want_equal(entry() & RIRR, 0);
	row("two pins with one vector");
	setup();
	hook[VEC] = no_eoi;
	active(false, LOW);
	active_pin(PIN + 1, false, LOW);
	route(VEC | LOW | LEVEL);
	ioapic_route(PIN + 1, VEC | LOW | LEVEL, my_id());
	active(true, LOW);
	active_pin(PIN + 1, true, LOW);
	drain();
	want_equal(entry() & RIRR, RIRR);
	want_equal(ioapic_read(0x12 + 2 * PIN) & RIRR, RIRR);
	active(false, LOW);
	active_pin(PIN + 1, false, LOW);
	eoi();
	want_equal(entry() & RIRR, 0);
	want_equal(ioapic_read(0x12 + 2 * PIN) & RIRR, 0);
	setup();
}

const struct test_case cases[] = {
	CASE(registers, "82093AA 3.1, 3.2"),
	CASE(pins, "82093AA 2.2"),
	CASE(triggers, "82093AA 3.2.4"),
	CASE(delivery_modes, "82093AA 3.2.4"),
	CASE(destinations, "82093AA 3.2.4"),
	CASE(ends_of_interrupt, "SDM 3 11.8.5, ICH9 13.5.5"),
	CASES_END,
};
