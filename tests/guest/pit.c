/*
 * The 8254 by its data sheet: what each mode does with OUT, GATE and counts, and how
 * counts and status are read. Counter 2, whose GATE and OUT are bits of port 61h.
 *
 * Intel 8254 data sheet 231164-005. Time is that of the PM timer, which has three ticks
 * for each CLK. The host may stop us anywhere, so a level is looked at between two looks
 * at the time, and judged when both agree.
 */
#include "apic.h"

#define MS 1193

enum { LSB = 1, MSB = 2, WHOLE = 3 };

static u8 p61;

static void gate(bool on)
{
	p61 = (u8)((p61 & ~1) | on);
	outb(0x61, p61);
}

static bool out(void)
{
	return inb(0x61) >> 5 & 1;
}

static void control(unsigned rw, unsigned mode, bool bcd)
{
	outb(0x43, (u8)(0x80 | rw << 4 | mode << 1 | bcd));
}

static void write_count(unsigned n)
{
	outb(0x42, (u8)n);
	outb(0x42, (u8)(n >> 8));
}

static u8 status(void)
{
	outb(0x43, 0xe8);
	return inb(0x42);
}

static unsigned read_count(void)
{
	unsigned v;

	outb(0x43, 0x80);
	v = inb(0x42);
	return v | (unsigned)inb(0x42) << 8;
}

/* Null count goes with the CLK that loads. */
static bool loads(void)
{
	u32 start = inl(0x608);

	while (status() & 0x40)
		if (inl(0x608) - start > 35795)
			return false;
	return true;
}

/* CLKs since the counter began, exact to SLACK. */
#define SLACK 300
static u32 began;

static u32 clks(void)
{
	return (inl(0x608) - began) / 3;
}

static void wait_clks(u32 n)
{
	while (clks() < n)
		;
}

static void trigger(void)
{
	gate(false);
	gate(true);
}

/* Do it, noting when. It is done again when the host took too long. */
static void timed(void (*fn)(unsigned), unsigned arg)
{
	for (unsigned tries = 0; tries < 100; tries++) {
		began = inl(0x608);
		fn(arg);
		if (clks() < SLACK)
			return;
	}
	fail("the host is too slow");
}

static unsigned start_mode;

static void start_once(unsigned n)
{
	gate(true);
	control(WHOLE, start_mode, false);
	write_count(n);
	if (start_mode == 1 || start_mode == 5)
		trigger();
}

/* A counter in this mode with GATE 1 and a count, loaded; modes 1 and 5 are triggered. */
static void start(unsigned mode, unsigned n)
{
	start_mode = mode;
	timed(start_once, n);
	want(loads());
}

/* OUT is that from CLK 'from' on and before 'to'. */
static void want_out_(int line, bool level, u32 from, u32 to)
{
	u32 before = clks();
	bool now = out();
	u32 after = clks();

	checked();
	if (before >= from + SLACK && after + SLACK < to && now != level)
		fail("line %d: OUT is %u between CLK %u and %u", line, now, before,
		     after);
}
#define want_out(level, from, to) want_out_(__LINE__, level, from, to)
#define EVER                      0xf0000000u

/* ---- status and counts ---- */

/* Read-back command, figures 9 to 13. */
static void status_byte(void)
{
	for (unsigned n = 0; n < 3 * 8 * 2; n++) {
		unsigned rw = 1 + n % 3, mode = n / 3 % 8, bcd = n / 24;

		row("RW %u, mode %u%s", rw, mode, bcd ? ", BCD" : "");
		gate(true);
		control(rw, mode, bcd);
		/* Null count; OUT is high but in mode 0. */
		want_equal(status(),
			   (mode ? 0x80u : 0) | 0x40 | rw << 4 | mode << 1 | bcd);
		outb(0x42, 0x77);
		if (rw == WHOLE) {
			want_equal(status() & 0x40, 0x40);
			outb(0x42, 0x77);
		}
		/* Modes 1 and 5 load by a trigger. */
		if (mode == 1 || mode == 5) {
			wait_ms(1);
			want_equal(status() & 0x40, 0x40);
			trigger();
		}
		want(loads());
		want_equal(status() & 0x3f, rw << 4 | mode << 1 | bcd);
	}
}

static void reading(void)
{
	unsigned a, b;

	row("a latched count stays");
	start(2, 0);
	outb(0x43, 0x80);
	wait_ms(1);
	a = inb(0x42);
	a |= (unsigned)inb(0x42) << 8;
	b = read_count();
	want(a != b);
	row("a second latch is ignored");
	start(2, 0);
	outb(0x43, 0x80);
	b = clks();
	wait_clks(b + 2 * MS);
	outb(0x43, 0x80);
	a = inb(0x42);
	a |= (unsigned)inb(0x42) << 8;
	want(a == 0 || 65536 - a <= b + SLACK);
	row("latched between the two bytes of a read");
	start(2, 0);
	outb(0x43, 0x80);
	b = clks();
	(void)inb(0x42);
	wait_ms(1);
	a = (unsigned)inb(0x42) << 8;
	want(a == 0 || 65536 - a <= b + SLACK + 256);
	row("read-back: count alone");
	start(2, 0);
	wait_clks(MS);
	b = clks();
	outb(0x43, 0xd8);
	a = inb(0x42);
	a |= (unsigned)inb(0x42) << 8;
	want(clks() > 60000 || (a <= 65536 - b + SLACK && a + clks() + SLACK >= 65536));
	row("read-back: both, status first");
	outb(0x43, 0xc8);
	want_equal(inb(0x42) & 0x3f, 0x34);
	a = inb(0x42);
	a |= (unsigned)inb(0x42) << 8;
	want(clks() > 60000 || (a <= 65536 - b + SLACK && a + clks() + SLACK >= 65536));
	row("read-back: of another counter nothing is latched");
	start(2, 0);
	outb(0x43, 0xe4);
	want((inb(0x41) & 0x3f) != 0x34);
	/* Not latched, so it moves on between reads. */
	a = inb(0x42);
	a |= (unsigned)inb(0x42) << 8;
	wait_ms(1);
	b = inb(0x42);
	b |= (unsigned)inb(0x42) << 8;
	want(a != b);
	row("read-back: a second status is ignored");
	start(0, 20 * MS);
	outb(0x43, 0xe8);
	a = clks();
	wait_clks(21 * MS);
	outb(0x43, 0xe8);
	want_equal(inb(0x42) >> 7, a > 19 * MS);
	want_equal(status() >> 7, 1);
	/* Held by GATE, so that each read is the same. */
	row("LSB alone");
	gate(true);
	control(LSB, 2, false);
	outb(0x42, 0x55);
	want(loads());
	gate(false);
	a = inb(0x42);
	want(a <= 0x55);
	for (unsigned i = 0; i < 4; i++)
		want_equal(inb(0x42), a);
	row("MSB alone");
	gate(true);
	control(MSB, 2, false);
	outb(0x42, 0x55);
	want(loads());
	gate(false);
	a = inb(0x42);
	want(a <= 0x55);
	for (unsigned i = 0; i < 4; i++)
		want_equal(inb(0x42), a);
	row("BCD");
	gate(true);
	control(WHOLE, 2, true);
	write_count(0x9999);
	want(loads());
	for (unsigned i = 0; i < 50; i++) {
		a = read_count();
		want((a & 15) < 10 && (a >> 4 & 15) < 10 && (a >> 8 & 15) < 10 &&
		     a >> 12 < 10);
	}
	row("BCD: 0 is 10000");
	gate(true);
	control(WHOLE, 0, true);
	began = inl(0x608);
	write_count(0);
	want(loads());
	want_out(false, 0, 10000);
	wait_clks(10000 + SLACK);
	while (clks() < 12 * MS && !out())
		;
	want(out());
	row("0 is 65536");
	start(0, 0);
	wait_clks(40 * MS);
	want_out(false, 0, 65536);
	wait_clks(65536 + SLACK);
	want(out());
	/* Modes 0, 1, 4, 5 go on behind zero. */
	row("mode 0 wraps behind zero");
	start(0, 100);
	wait_ms(1);
	a = read_count();
	want(a > 0x8000 || clks() > 25 * MS);
	row("control word ends a latch");
	start(2, 0);
	outb(0x43, 0x80);
	control(WHOLE, 0, false);
	want_equal(status() & 0x3f, 0x30);
	row("each counter has its own");
	start(0, 20 * MS);
	outb(0x43, 0x74);
	outb(0x41, 18);
	outb(0x41, 0);
	want_equal(status() & 0x3f, 0x30);
	outb(0x43, 0xe4);
	want_equal(inb(0x41) & 0x3f, 0x34);
}

/* ---- modes ---- */

static void mode0(void)
{
	row("OUT is low from the control word to terminal count");
	gate(true);
	control(WHOLE, 0, false);
	want(!out());
	start(0, 20 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(10 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(20 * MS + SLACK);
	want(out());
	row("then it stays high");
	wait_clks(24 * MS);
	want(out());
	row("a new count makes it low and counts");
	timed(write_count, 20 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(20 * MS + SLACK);
	want(out());
	row("the first byte of a count stops it");
	start(0, 4 * MS);
	outb(0x42, 0);
	if (clks() < 3 * MS) {
		wait_clks(6 * MS);
		want(!out());
	}
	row("and the second goes on with the new one");
	outb(0x42, 4);
	wait_ms(2);
	want(out());
	row("GATE low stops it");
	start(0, 4 * MS);
	gate(false);
	if (clks() < 3 * MS) {
		wait_clks(6 * MS);
		want(!out());
	}
	row("GATE high goes on");
	gate(true);
	wait_ms(5);
	want(out());
	row("GATE does not change OUT");
	gate(false);
	want(out());
	gate(true);
	want(out());
	row("a count written with GATE low is loaded");
	gate(false);
	control(WHOLE, 0, false);
	write_count(100);
	want(loads());
	wait_ms(1);
	want(!out());
	gate(true);
	wait_ms(1);
	want(out());
}

static void trigger_once(unsigned arg)
{
	(void)arg;
	trigger();
}

static void mode1(void)
{
	row("OUT is high until a trigger");
	gate(true);
	control(WHOLE, 1, false);
	want(out());
	write_count(3 * MS);
	wait_ms(1);
	want(out());
	row("a trigger makes it low for the count");
	start(1, 20 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(15 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(20 * MS + SLACK);
	want(out());
	row("GATE low does not stop it");
	start(1, 5 * MS);
	gate(false);
	want_out(false, 0, 5 * MS);
	wait_clks(5 * MS + SLACK);
	want(out());
	row("it can be triggered again");
	start(1, 20 * MS);
	wait_clks(15 * MS);
	timed(trigger_once, 0);
	wait_clks(10 * MS);
	want_out(false, 0, 20 * MS);
	wait_clks(20 * MS + SLACK);
	want(out());
	row("a new count waits for the next trigger");
	start(1, 10 * MS);
	write_count(50 * MS);
	wait_clks(10 * MS + SLACK);
	want_out(true, 10 * MS, EVER);
	want_equal(status() & 0x40, 0x40);
	timed(trigger_once, 0);
	want(loads());
	wait_clks(20 * MS);
	want_out(false, 0, 50 * MS);
}

static void mode2(void)
{
	unsigned a, b;

	row("OUT is high");
	start(2, 20 * MS);
	want_out(true, 0, 20 * MS - 10);
	row("the count repeats");
	start(2, MS);
	for (unsigned i = 0; i < 20; i++) {
		wait_ms(1);
		a = read_count();
		want(a >= 1 && a <= MS);
	}
	row("GATE low stops it, with OUT high");
	start(2, 20 * MS);
	gate(false);
	a = read_count();
	wait_ms(2);
	b = read_count();
	want_equal(a, b);
	want(out());
	row("a trigger loads the count");
	start(2, 20 * MS);
	wait_clks(10 * MS);
	timed(trigger_once, 0);
	want(loads());
	a = read_count();
	want(a + clks() + SLACK >= 20 * MS || clks() >= 20 * MS);
	row("a new count comes with the next period");
	start(2, 40 * MS);
	write_count(MS);
	a = read_count();
	b = status() & 0x40;
	if (clks() < 40 * MS) {
		want(a + clks() + SLACK >= 40 * MS);
		want_equal(b, 0x40);
	}
	row("or with a trigger");
	trigger();
	want(loads());
	want(read_count() <= MS);
	row("mode 6 is mode 2");
	start(6, MS);
	wait_ms(3);
	a = read_count();
	want(a >= 1 && a <= MS);
}

static void mode3(void)
{
	unsigned a, b, n, highs = 0;
	u32 begin;

	row("OUT is high, then low, half of the count each");
	start(3, 40 * MS);
	for (unsigned half = 0; half < 4; half++) {
		wait_clks(half * 20 * MS + 10 * MS);
		want_out(!(half & 1), half * 20 * MS, (half + 1) * 20 * MS);
	}
	row("an odd count is longer high");
	start(3, 5);
	for (n = 0; n < 4000; n++)
		highs += out();
	want(highs > 2000);
	row("the count goes down by two");
	for (unsigned tries = 0; tries < 20; tries++) {
		start(3, 50000);
		begin = clks();
		a = read_count();
		wait_clks(begin + 5 * MS);
		b = read_count();
		if (clks() < 24000)
			break;
	}
	want(a - b >= 9 * MS || clks() >= 24000);
	want(!(a & 1) && !(b & 1));
	row("GATE low makes OUT high at once");
	start(3, 20 * MS);
	wait_clks(12 * MS);
	gate(false);
	want(out());
	row("and stops it");
	a = read_count();
	wait_ms(2);
	want_equal(read_count(), a);
	row("a trigger begins a period");
	timed(trigger_once, 0);
	want(loads());
	wait_clks(5 * MS);
	want_out(true, 0, 10 * MS);
	wait_clks(15 * MS);
	want_out(false, 10 * MS, 20 * MS);
	row("a new count comes with the next half");
	start(3, 20 * MS);
	write_count(50 * MS);
	a = status() & 0x40;
	want(a || clks() > 9 * MS);
	wait_clks(10 * MS + SLACK);
	want_equal(status() & 0x40, 0);
	wait_clks(30 * MS);
	want_out(false, 10 * MS, 35 * MS);
	row("mode 7 is mode 3");
	start(7, 40 * MS);
	wait_clks(30 * MS);
	want_out(false, 20 * MS, 40 * MS);
}

static void mode4(void)
{
	unsigned a, b;

	row("OUT is high before and behind the strobe");
	start(4, MS);
	want_out(true, 0, MS);
	wait_ms(3);
	want(out());
	row("it counts once, and on behind zero");
	start(4, MS);
	wait_clks(3 * MS);
	a = read_count();
	want(a > 0x8000 || clks() > 25 * MS);
	row("GATE low stops the count, not OUT");
	start(4, 50 * MS);
	gate(false);
	a = read_count();
	wait_ms(2);
	want_equal(read_count(), a);
	want(out());
	row("GATE high goes on, without a load");
	gate(true);
	wait_ms(2);
	b = read_count();
	want(b + MS < a || clks() > 40 * MS);
	row("a new count is loaded at once");
	start(4, 50 * MS);
	write_count(2 * MS);
	want(loads());
	a = read_count();
	want(a <= 2 * MS || clks() > 2 * MS);
}

static void mode5(void)
{
	unsigned a, b;

	row("a count waits for a trigger");
	gate(true);
	control(WHOLE, 5, false);
	write_count(50 * MS);
	wait_ms(1);
	want_equal(status() & 0xc0, 0xc0);
	row("a trigger loads it");
	start(5, 50 * MS);
	a = read_count();
	want((a <= 50 * MS && a + clks() + SLACK >= 50 * MS) || clks() > 50 * MS);
	row("GATE low does not stop it");
	start(5, 50 * MS);
	gate(false);
	a = read_count();
	wait_ms(2);
	b = read_count();
	want(b + MS < a || clks() > 50 * MS);
	want_out(true, 0, 50 * MS);
	row("it can be triggered again");
	start(5, 50 * MS);
	wait_clks(10 * MS);
	timed(trigger_once, 0);
	want(loads());
	a = read_count();
	want(a + clks() + SLACK >= 50 * MS || clks() > 50 * MS);
	row("a new count waits for the next trigger");
	start(5, 50 * MS);
	write_count(10 * MS);
	a = read_count();
	want(a + clks() + SLACK >= 50 * MS || clks() > 50 * MS);
	timed(trigger_once, 0);
	want(loads());
	a = read_count();
	want(a <= 10 * MS || clks() > 10 * MS);
}

/* ---- port 61h, and the interrupt of counter 0 ---- */

static void port61(void)
{
	row("speaker and GATE read back");
	for (unsigned n = 0; n < 4; n++) {
		outb(0x61, (u8)n);
		want_equal(inb(0x61) & 3, n);
	}
	row("OUT 2 cannot be written");
	gate(true);
	control(WHOLE, 0, false);
	write_count(0);
	outb(0x61, 0x23);
	want_equal(inb(0x61) & 0x20, 0);
	row("the refresh bit toggles");
	{
		unsigned changes = 0, last = inb(0x61) & 0x10;

		for (unsigned i = 0; i < 2000; i++) {
			unsigned now = inb(0x61) & 0x10;

			changes += now != last;
			last = now;
		}
		want(changes > 4);
	}
	row("port 43h reads as nothing latched");
	(void)inb(0x43);
	want(!out());
	outb(0x61, 0);
}

static volatile unsigned ticks;

static void on_tick(struct frame *f)
{
	(void)f;
	ticks++;
	eoi();
}

static void counter0(unsigned mode, unsigned n)
{
	ticks = 0;
	outb(0x43, (u8)(0x30 | mode << 1));
	outb(0x40, (u8)n);
	outb(0x40, (u8)(n >> 8));
}

static void interrupts(void)
{
	static const struct {
		u8 mode;
		bool once, comes;
	} table[] = {
		{ 0, true, true },  { 1, true, false }, /* its GATE is always high: no
							   trigger */
		{ 2, false, true }, { 3, false, true }, { 4, true, true },
		{ 5, true, false },
	};

	hook[0x6a] = on_tick;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	outb(0x43, 0x30);
	ioapic_route(2, 0x6a, (u8)(lapic_read(LAPIC_ID) >> 24));
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("mode %u", table[i].mode);
		counter0(table[i].mode, MS);
		for (unsigned k = 0; k < 6; k++) {
			wait_ms(1);
			sti_nop();
		}
		if (table[i].comes)
			await(&ticks, table[i].once ? 1 : 3);
		/* One edge when the control word raised OUT, too. */
		if (!table[i].comes)
			want(ticks <= 1);
		else if (table[i].once)
			want(ticks >= 1 && ticks <= 2);
		else
			want(ticks >= 3);
		outb(0x43, 0x30);
		sti_nop();
	}
	ioapic_route(2, LVT_MASKED, 0);
}

const struct test_case cases[] = {
	CASE(status_byte, "8254 Read-back command"),
	CASE(reading, "8254 Read operations"),
	CASE(mode0, "8254 Mode 0"),
	CASE(mode1, "8254 Mode 1"),
	CASE(mode2, "8254 Mode 2"),
	CASE(mode3, "8254 Mode 3"),
	CASE(mode4, "8254 Mode 4"),
	CASE(mode5, "8254 Mode 5"),
	CASE(port61, "82371AB NMI status and control"),
	CASE(interrupts, "8254 Mode definitions"),
	CASES_END,
};
