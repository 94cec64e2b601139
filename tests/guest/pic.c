/*
 * The two 8259A and their ELCR, by the data sheet's modes. Requests are made by the test
 * device, acknowledged by polling or, where the vector counts, through LINT0.
 *
 * Intel 8259A data sheet 231468-003 (section names are those of the cases); ELCR: 82371AB
 * data sheet, "Edge/level control registers". Lines 3 to 7 of the master and all but 8
 * and 13 of the slave's are free for it.
 */
#include "apic.h"

#define MASTER 0x20
#define SLAVE  0xa0
#define FREE   0xf8 /* inputs of the master that are the test's */

static volatile unsigned count[256];

static void on_irq(struct frame *f)
{
	count[f->vector]++;
}

/* The ICWs; ICW4's upper bits are 'mode'. Everything unmasked. */
static void init(u16 port, u8 base, u8 mode)
{
	outb(port, 0x11);
	outb(port + 1, base);
	outb(port + 1, port == MASTER ? 4 : 2);
	outb(port + 1, mode | 1);
	outb(port + 1, 0);
}

static void lines_down(void)
{
	for (unsigned n = 3; n < 16; n++)
		if (n != 8 && n != 13)
			line_set(n, false);
}

static void setup(void)
{
	for (unsigned v = 0x20; v < 256; v++)
		hook[v] = v == EXIT_VECTOR ? NULL : on_irq;
	lines_down();
	outb(0x4d0, 0);
	outb(0x4d1, 0);
	init(MASTER, 0x20, 0);
	init(SLAVE, 0x28, 0);
	/* The timer's, the keyboard's and the clock's. */
	outb(MASTER + 1, 3);
	outb(SLAVE + 1, 0x21);
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED | 7 << 8);
	for (unsigned i = 0; i < 256; i++)
		count[i] = 0;
}

static u8 irr(u16 port)
{
	outb(port, 0x0a);
	return inb(port);
}

static u8 isr(u16 port)
{
	outb(port, 0x0b);
	return inb(port);
}

/* 80h + input, or the bit clear. */
static u8 poll(u16 port)
{
	outb(port, 0x0c);
	return inb(port);
}

static void eoi_all(u16 port)
{
	for (unsigned i = 0; i < 8; i++)
		outb(port, 0x60 | i);
}

static void raise_mask(u8 mask)
{
	for (unsigned n = 3; n < 8; n++)
		if (mask >> n & 1)
			line_set(n, true);
}

static u16 port_of(unsigned n)
{
	return n < 8 ? MASTER : SLAVE;
}

/* ---- initialization ---- */

static void icw(void)
{
	setup();
	row("ICW1 clears the mask");
	outb(MASTER + 1, 0xff);
	outb(MASTER, 0x11);
	outb(MASTER + 1, 0x20);
	outb(MASTER + 1, 4);
	outb(MASTER + 1, 1);
	want_equal(inb(MASTER + 1), 0);
	row("ICW1 makes IRR what is read");
	setup();
	(void)isr(MASTER);
	init(MASTER, 0x20, 0);
	line_set(5, true);
	want_equal(inb(MASTER) & FREE, 0x20);
	row("ICW1 forgets edges");
	setup();
	line_set(5, true);
	init(MASTER, 0x20, 0);
	want_equal(irr(MASTER) & FREE, 0);
	row("ICW1 makes input 7 the lowest");
	setup();
	outb(MASTER, 0xc3);
	init(MASTER, 0x20, 0);
	raise_mask(0x88);
	want_equal(poll(MASTER), 0x83);
	row("ICW1 ends special mask mode");
	setup();
	outb(MASTER, 0x68);
	init(MASTER, 0x20, 0);
	line_set(4, true);
	want_equal(poll(MASTER), 0x84);
	outb(MASTER + 1, 0x13);
	line_set(6, true);
	want_equal(poll(MASTER) & 0x80, 0);
	row("without IC4 there is no ICW4");
	setup();
	outb(MASTER, 0x10);
	outb(MASTER + 1, 0x20);
	outb(MASTER + 1, 4);
	outb(MASTER + 1, 0x5a);
	want_equal(inb(MASTER + 1), 0x5a);
	row("with SNGL there is no ICW3");
	outb(MASTER, 0x13);
	outb(MASTER + 1, 0x20);
	outb(MASTER + 1, 1);
	outb(MASTER + 1, 0xa5);
	want_equal(inb(MASTER + 1), 0xa5);
	row("LTIM: all inputs are levels");
	setup();
	outb(MASTER, 0x19);
	outb(MASTER + 1, 0x20);
	outb(MASTER + 1, 4);
	outb(MASTER + 1, 1);
	outb(MASTER + 1, 3);
	line_set(6, true);
	want_equal(poll(MASTER), 0x86);
	outb(MASTER, 0x20);
	want_equal(poll(MASTER), 0x86);
	row("each bit of the mask reads back");
	setup();
	for (unsigned n = 0; n < 8; n++) {
		outb(SLAVE + 1, 1u << n);
		want_equal(inb(SLAVE + 1), 1u << n);
	}
	setup();
}

/* ICW2: bits 7:3 of the vector. */
static void vectors(void)
{
	for (unsigned base = 0x30; base < 0x100; base += 8) {
		if (base == EXIT_VECTOR)
			continue;
		row("base %x", base);
		setup();
		init(MASTER, (u8)(base | 5), 0);
		outb(MASTER + 1, 0xdf);
		lapic_write(LAPIC_LVT_LINT0, 7 << 8);
		line_set(5, true);
		sti_nop();
		want_equal(count[base + 5], 1);
	}
	setup();
}

/* ---- requests ---- */

static const u8 inputs[] = { 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15 };

static void edges(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(inputs); i++) {
		unsigned n = inputs[i];
		u16 port = port_of(n);
		u8 bit = (u8)(1u << (n & 7));

		row("input %u", n);
		setup();
		line_set(n, true);
		want_equal(irr(port) & bit, bit);
		want_equal(isr(port), 0);
		/* The slave is the master's input 2. */
		if (n >= 8)
			want_equal(poll(MASTER), 0x82);
		want_equal(poll(port), 0x80 | (n & 7));
		want_equal(irr(port) & bit, 0);
		want_equal(isr(port), bit);
		outb(port, 0x20);
		want_equal(isr(port), 0);
		/* Still high: no second one. */
		want_equal(poll(port) & 0x80, 0);
		line_set(n, false);
		line_set(n, true);
		want_equal(poll(port), 0x80 | (n & 7));
		outb(port, 0x20);
		/* Withdrawn before it is acknowledged. */
		line_set(n, false);
		line_set(n, true);
		line_set(n, false);
		want_equal(irr(port) & bit, 0);
		/* Masked it is remembered. */
		outb(port + 1, bit);
		line_set(n, true);
		want_equal(poll(port) & 0x80, 0);
		outb(port + 1, 0);
		want_equal(irr(port) & bit, bit);
	}
	setup();
}

static void levels(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(inputs); i++) {
		unsigned n = inputs[i];
		u16 port = port_of(n), elcr = n < 8 ? 0x4d0 : 0x4d1;
		u8 bit = (u8)(1u << (n & 7));

		row("input %u", n);
		setup();
		outb(elcr, bit);
		line_set(n, true);
		want_equal(poll(port), 0x80 | (n & 7));
		want_equal(isr(port), bit);
		/* In service it waits; after EOI it is there again. */
		want_equal(poll(port) & 0x80, 0);
		outb(port, 0x20);
		want_equal(poll(port), 0x80 | (n & 7));
		line_set(n, false);
		outb(port, 0x20);
		want_equal(poll(port) & 0x80, 0);
		want_equal(irr(port) & bit, 0);
	}
	setup();
}

static void elcr(void)
{
	/* 0, 1, 2, 8 and 13 are edges always. */
	static const u16 fixed = 0x2107;

	setup();
	for (unsigned n = 0; n < 16; n++) {
		row("input %u", n);
		outb((u16)(0x4d0 + n / 8), (u8)(1u << (n & 7)));
		want_equal(inb((u16)(0x4d0 + n / 8)), fixed >> n & 1 ? 0 : 1u << (n & 7));
		outb((u16)(0x4d0 + n / 8), 0);
	}
	setup();
}

/* "Default IR7", spurious interrupts. */
static void spurious(void)
{
	setup();
	row("of the master");
	lapic_write(LAPIC_LVT_LINT0, 7 << 8);
	line_set(5, true);
	line_set(5, false);
	sti_nop();
	want_equal(count[0x25], 0);
	want(count[0x27] <= 1);
	want_equal(isr(MASTER), 0);
	row("of the slave: the master's input 2 is in service");
	setup();
	lapic_write(LAPIC_LVT_LINT0, 7 << 8);
	line_set(11, true);
	line_set(11, false);
	sti_nop();
	want_equal(count[0x2b], 0);
	if (count[0x2f]) {
		want_equal(isr(SLAVE), 0);
		want_equal(isr(MASTER), 4);
	}
	row("poll without a request");
	setup();
	want_equal(poll(MASTER) & 0x80, 0);
	want_equal(isr(MASTER), 0);
	setup();
}

/* ---- priorities ---- */

/* Acknowledge all of 'mask': in the order of priority from behind 'lowest'. */
static void want_order(u8 mask, unsigned lowest)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned n = (lowest + i) & 7;

		if (!(mask >> n & 1))
			continue;
		want_equal(poll(MASTER), 0x80 | n);
		/* Specific: no rotation. */
		outb(MASTER, (u8)(0x60 | n));
	}
	want_equal(poll(MASTER) & 0x80, 0);
}

static void priorities(void)
{
	for (unsigned lowest = 0; lowest < 8; lowest++) {
		row("input %u the lowest by set priority", lowest);
		for (unsigned m = 0; m < 32; m++) {
			setup();
			outb(MASTER, (u8)(0xc0 | lowest));
			raise_mask((u8)(m << 3));
			want_order((u8)(m << 3), lowest);
		}
	}
	setup();
}

/* "Fully nested": what is in service holds back itself and what is lower. */
static void nesting(void)
{
	for (unsigned serving = 3; serving < 8; serving++) {
		row("input %u in service", serving);
		for (unsigned n = 3; n < 8; n++) {
			setup();
			outb(0x4d0, FREE);
			line_set(serving, true);
			want_equal(poll(MASTER), 0x80 | serving);
			line_set(n, true);
			want_equal(poll(MASTER), n < serving ? 0x80 | n : 7u);
			outb(0x4d0, 0);
		}
	}
	setup();
}

/* OCW2. */
static void ends(void)
{
	static const struct {
		const char *name;
		u8 ocw2;   /* 3 bits of the level are 0 */
		u8 isr;    /* left of inputs 4 and 6, both in service; 4 is specified */
		u8 lowest; /* afterwards */
	} table[] = {
		{ "non-specific EOI", 0x20, 0x40, 7 },
		{ "specific EOI", 0x64, 0x40, 7 },
		{ "rotate on non-specific EOI", 0xa0, 0x40, 4 },
		{ "rotate on specific EOI", 0xe4, 0x40, 4 },
		{ "specific EOI of the lower", 0x66, 0x10, 7 },
		{ "rotate on specific EOI of the lower", 0xe6, 0x10, 6 },
		{ "set priority", 0xc5, 0x50, 5 },
		{ "no operation", 0x40, 0x50, 7 },
		{ "specific EOI of none", 0x63, 0x50, 7 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].name);
		setup();
		line_set(6, true);
		want_equal(poll(MASTER), 0x86);
		line_set(4, true);
		want_equal(poll(MASTER), 0x84);
		want_equal(isr(MASTER), 0x50);
		outb(MASTER, table[i].ocw2);
		want_equal(isr(MASTER), table[i].isr);
		eoi_all(MASTER);
		lines_down();
		raise_mask(FREE);
		want_order(FREE, table[i].lowest);
	}
	setup();
}

/* ICW4 and OCW2: automatic EOI, with and without rotation. */
static void automatic(void)
{
	setup();
	row("nothing stays in service");
	init(MASTER, 0x20, 2);
	outb(MASTER + 1, 3);
	line_set(5, true);
	want_equal(poll(MASTER), 0x85);
	want_equal(isr(MASTER), 0);
	row("lower ones follow at once");
	line_set(6, true);
	want_equal(poll(MASTER), 0x86);
	row("rotation is off");
	lines_down();
	raise_mask(0x60);
	want_equal(poll(MASTER), 0x85);
	line_set(5, false);
	line_set(5, true);
	want_equal(poll(MASTER), 0x85);
	row("rotation set: the last one is the lowest");
	lines_down();
	outb(MASTER, 0x80);
	raise_mask(0x60);
	want_equal(poll(MASTER), 0x85);
	line_set(5, false);
	line_set(5, true);
	want_equal(poll(MASTER), 0x86);
	want_equal(poll(MASTER), 0x85);
	row("rotation cleared");
	outb(MASTER, 0x00);
	outb(MASTER, 0xc7);
	lines_down();
	raise_mask(0x60);
	want_equal(poll(MASTER), 0x85);
	line_set(5, false);
	line_set(5, true);
	want_equal(poll(MASTER), 0x85);
	row("by interrupt");
	setup();
	init(MASTER, 0x20, 2);
	outb(MASTER + 1, 3);
	lapic_write(LAPIC_LVT_LINT0, 7 << 8);
	line_set(5, true);
	sti_nop();
	want_equal(count[0x25], 1);
	want_equal(isr(MASTER), 0);
	setup();
}

/* OCW3: special mask mode. */
static void special_mask(void)
{
	setup();
	line_set(4, true);
	want_equal(poll(MASTER), 0x84);
	row("without it, masking what is in service helps nobody");
	outb(MASTER + 1, 0x13);
	line_set(6, true);
	want_equal(poll(MASTER) & 0x80, 0);
	row("with it, lower ones come");
	outb(MASTER, 0x68);
	want_equal(poll(MASTER), 0x86);
	row("and not the masked one");
	line_set(4, false);
	line_set(4, true);
	want_equal(poll(MASTER) & 0x80, 0);
	row("non-specific EOI does not end what is masked");
	outb(MASTER, 0x20);
	want_equal(isr(MASTER), 0x10);
	row("ESMM 0 changes nothing");
	outb(MASTER, 0x28);
	line_set(7, true);
	want_equal(poll(MASTER), 0x87);
	outb(MASTER, 0x67);
	row("reset");
	outb(MASTER, 0x48);
	line_set(5, true);
	want_equal(poll(MASTER) & 0x80, 0);
	setup();
}

/* ICW4: special fully nested mode. */
static void special_nested(void)
{
	for (unsigned on = 0; on < 2; on++) {
		row(on ? "special fully nested" : "not");
		setup();
		init(MASTER, 0x20, on ? 0x10 : 0);
		outb(MASTER + 1, 3);
		line_set(12, true);
		want_equal(poll(MASTER), 0x82);
		want_equal(poll(SLAVE), 0x84);
		/* A higher one of the same slave. */
		line_set(10, true);
		want_equal(irr(SLAVE) & 4, 4);
		want_equal(poll(MASTER) & 0x80, on ? 0x80u : 0);
		want_equal(poll(SLAVE), 0x82);
	}
	setup();
}

/* The cascade, by interrupts. */
static void cascade(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(inputs); i++) {
		unsigned n = inputs[i];

		row("input %u", n);
		setup();
		lapic_write(LAPIC_LVT_LINT0, 7 << 8);
		line_set(n, true);
		sti_nop();
		want_equal(count[0x20 + n], 1);
		want_equal(isr(MASTER), n < 8 ? 1u << n : 4);
		want_equal(isr(SLAVE), n < 8 ? 0 : 1u << (n - 8));
		/* Nothing more before its EOI. */
		line_set(n, false);
		line_set(n, true);
		sti_nop();
		want_equal(count[0x20 + n], 1);
		if (n >= 8)
			outb(SLAVE, 0x20);
		outb(MASTER, 0x20);
		sti_nop();
		want_equal(count[0x20 + n], 2);
	}
	row("the slave comes between inputs 1 and 3");
	setup();
	line_set(3, true);
	line_set(15, true);
	want_equal(poll(MASTER), 0x82);
	row("masked at the master the slave is not heard");
	setup();
	outb(MASTER + 1, 7);
	line_set(10, true);
	want_equal(poll(MASTER) & 0x80, 0);
	want_equal(irr(MASTER) & 4, 4);
	setup();
}

/* OCW3: reading. */
static void reading(void)
{
	setup();
	line_set(6, true);
	(void)poll(MASTER);
	line_set(4, true);
	row("IRR");
	want_equal(irr(MASTER) & FREE, 0x10);
	row("it stays selected");
	want_equal(inb(MASTER) & FREE, 0x10);
	row("ISR");
	want_equal(isr(MASTER), 0x40);
	want_equal(inb(MASTER), 0x40);
	row("RR 0 changes nothing");
	outb(MASTER, 0x08);
	want_equal(inb(MASTER), 0x40);
	row("poll is for one read, of either port");
	outb(MASTER, 0x0c);
	want_equal(inb(MASTER + 1), 0x84);
	want_equal(inb(MASTER + 1), 3);
	want_equal(inb(MASTER), 0x50);
	setup();
}

const struct test_case cases[] = {
	CASE(icw, "8259A Initialization command words"),
	CASE(vectors, "8259A ICW2"),
	CASE(edges, "8259A Edge and level triggered modes"),
	CASE(levels, "8259A Edge and level triggered modes"),
	CASE(elcr, "82371AB ELCR"),
	CASE(spurious, "8259A Edge and level triggered modes"),
	CASE(priorities, "8259A Rotation"),
	CASE(nesting, "8259A Fully nested mode"),
	CASE(ends, "8259A OCW2"),
	CASE(automatic, "8259A Automatic EOI"),
	CASE(special_mask, "8259A Special mask mode"),
	CASE(special_nested, "8259A Special fully nested mode"),
	CASE(cascade, "8259A Cascade mode"),
	CASE(reading, "8259A Reading the status"),
	CASES_END,
};
