/*
 * KVM's clock and steal time: CPUID, the MSRs, what stands in memory, that it is time,
 * and addresses that are none of RAM.
 *
 * Linux, Documentation/virt/kvm/x86: cpuid.rst, msr.rst. KVM's own answer where the text
 * has none: reserved bits of steal time.
 */
#include "kvmclock.h"

#define PM_TIMER 0x608

static PAGED u8 memory[3 * 4096];

static volatile struct system_time *time_at(unsigned off)
{
	return (volatile struct system_time *)(memory + off);
}

static void clear(void)
{
	for (unsigned i = 0; i < sizeof(memory); i++)
		((volatile u8 *)memory)[i] = 0;
}

static u64 at(unsigned off)
{
	return (word)memory + off;
}

static bool none(u32 feature)
{
	if (kvm_features() & feature)
		return false;
	skip("not offered");
	return true;
}

/* ---- CPUID and which MSRs there are ---- */

static void leaves(void)
{
	u32 eax;

	if (!has_kvm()) {
		skip("no interface of KVM");
		return;
	}
	row("40000000h: the highest leaf");
	want(cpuid(0x40000000, 0).a >= 0x40000001);
	row("40000001h: bits of what is done here alone");
	eax = cpuid(0x40000001, 0).a;
	want_equal(eax & ~(u32)(HAS_CLOCK | HAS_NOP_IO_DELAY | HAS_CLOCK2 |
				HAS_STEAL_TIME | HAS_STABLE),
		   0);
	row("40000001h: both clocks or none");
	want_equal(!(eax & HAS_CLOCK), !(eax & HAS_CLOCK2));
	row("40000001h: stable is said of a clock");
	want(!(eax & HAS_STABLE) || (eax & HAS_CLOCK2));
	row("40000001h: no hints");
	want_equal(cpuid(0x40000001, 0).d, 0);
	want_equal(cpuid(0x40000001, 0).b | cpuid(0x40000001, 0).c, 0);
}

static void features_and_msrs(void)
{
	static const struct {
		u32 msr, feature;
	} table[] = {
		{ KVM_WALL_CLOCK, HAS_CLOCK },
		{ KVM_SYSTEM_TIME, HAS_CLOCK },
		{ KVM_WALL_CLOCK_NEW, HAS_CLOCK2 },
		{ KVM_SYSTEM_TIME_NEW, HAS_CLOCK2 },
		{ 0x4b564d02, 1 << 4 },
		{ KVM_STEAL_TIME, HAS_STEAL_TIME },
		{ 0x4b564d04, 1 << 6 },
		{ 0x4b564d05, 1 << 12 },
		{ 0x4b564d06, 1 << 14 },
		{ 0x4b564d07, 1 << 14 },
		{ 0x4b564d08, 1 << 17 },
		{ 0x4b564d09, 0 },
	};
	u32 have = kvm_features();

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		bool there = have & table[i].feature;
		u64 val;

		row("MSR %x", table[i].msr);
		try_rdmsr(table[i].msr, &val);
		if (there)
			want_none();
		else
			want_fault(GP, 0);
		if (there)
			want_equal(val, 0);
		try_wrmsr(table[i].msr, 0);
		if (there)
			want_none();
		else
			want_fault(GP, 0);
	}
}

static void reserved_bits(void)
{
	static const struct {
		const char *name;
		u32 msr;
		u16 bits;
		bool ok;
	} table[] = {
		{ "the wall clock's bit 0", KVM_WALL_CLOCK, 1, false },
		{ "the wall clock's bit 1", KVM_WALL_CLOCK_NEW, 2, false },
		{ "the wall clock at 4 bytes", KVM_WALL_CLOCK_NEW, 4, true },
		{ "system time's bit 1", KVM_SYSTEM_TIME, 3, false },
		{ "system time's bit 1", KVM_SYSTEM_TIME_NEW, 3, false },
		{ "system time at 4 bytes", KVM_SYSTEM_TIME_NEW, 5, true },
		{ "system time that is off", KVM_SYSTEM_TIME_NEW, 2, true },
		{ "steal time's bit 1", KVM_STEAL_TIME, 0x3, false },
		{ "steal time's bit 5", KVM_STEAL_TIME, 0x21, false },
		{ "steal time's bit 5, off", KVM_STEAL_TIME, 0x20, false },
		{ "steal time at 64 bytes", KVM_STEAL_TIME, 0x41, true },
	};

	if (none(HAS_CLOCK2))
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u64 val = at(0) + table[i].bits, got;

		if (table[i].msr == KVM_STEAL_TIME && !(kvm_features() & HAS_STEAL_TIME))
			continue;
		row("%s", table[i].name);
		wrmsr(table[i].msr, 0);
		try_wrmsr(table[i].msr, val);
		if (table[i].ok)
			want_none();
		else
			want_fault(GP, 0);
		try_rdmsr(table[i].msr, &got);
		want_equal(got, table[i].ok ? val : 0);
		wrmsr(table[i].msr, 0);
	}
}

static void old_and_new_names(void)
{
	if (none(HAS_CLOCK2))
		return;
	row("system time");
	wrmsr(KVM_SYSTEM_TIME, at(64) | 1);
	want_equal(rdmsr(KVM_SYSTEM_TIME_NEW), at(64) | 1);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
	want_equal(rdmsr(KVM_SYSTEM_TIME), 0);
	row("the wall clock");
	wrmsr(KVM_WALL_CLOCK, at(128));
	want_equal(rdmsr(KVM_WALL_CLOCK_NEW), at(128));
	wrmsr(KVM_WALL_CLOCK_NEW, at(256));
	want_equal(rdmsr(KVM_WALL_CLOCK), at(256));
}

/* ---- time ---- */

static void enable(unsigned off)
{
	wrmsr(KVM_SYSTEM_TIME_NEW, at(off) | 1);
}

static void fields(void)
{
	volatile struct system_time *s = time_at(0x40);

	if (none(HAS_CLOCK2))
		return;
	clear();
	s->version = 7;
	s->pad = 0x12345678;
	enable(0x40);
	row("the version is even, and another");
	want_equal(s->version & 1, 0);
	want(s->version > 7);
	row("each write makes another version");
	{
		u32 v = s->version;

		enable(0x40);
		want(s->version != v);
		want_equal(s->version & 1, 0);
	}
	row("the multiplier has all its bits");
	want(s->mul >> 31);
	row("the frequency of the TSC");
	/* As Linux has it, in kHz: 10^6 * 2^32 / mul, shifted. */
	if (s->mul == 1u << 31)
		want_equal(s->shift < 0 ? 2000000u << -s->shift : 2000000u >> s->shift,
			   cpuid(0x40000010, 0).a);
	row("the flag that CPUID has, and no other");
	want_equal(s->flags, kvm_features() & HAS_STABLE ? 1 : 0);
	row("nothing else is written");
	want_equal(s->pad, 0x12345678);
	for (unsigned i = 0x40 + sizeof(*s); i < 4096; i++)
		want_equal(memory[i], 0);
	for (unsigned i = 0; i < 0x40; i++)
		want_equal(memory[i], 0);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

static void goes_on(void)
{
	volatile struct system_time *s = time_at(0);
	u32 began, ticks = 0;
	u64 first, last;

	if (none(HAS_CLOCK2))
		return;
	enable(0);
	row("it never goes back");
	last = clock_read(s);
	for (unsigned i = 0; i < 20000; i++) {
		u64 now = clock_read(s);

		if (now < last)
			fail("from %llx to %llx", last, now);
		checked();
		last = now;
	}
	row("as fast as the PM timer");
	/* The reads of the one before and behind those of the other. */
	first = clock_read(s);
	began = inl(PM_TIMER);
	while (ticks < 71591) /* 20 ms */
		ticks = inl(PM_TIMER) - began;
	last = clock_read(s) - first;
	/* 279.365 ns each. */
	want(last >= (u64)ticks * 279);
	/* And the other way round. */
	began = inl(PM_TIMER);
	first = last = clock_read(s);
	while (last - first < 20000000)
		last = clock_read(s);
	ticks = inl(PM_TIMER) - began;
	want((u64)(ticks + 1) * 280 >= last - first);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

/* What is written to the MSR of the TSC does not show in the clock. */
static void write_tsc_by(volatile struct system_time *s, u32 msr)
{
	static const u64 values[] = { 0, 1, 0x123456789abcdef, ~0ull, ~0ull << 63 };
	u64 before = clock_read(s);

	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		u64 now;

		wrmsr(msr, values[i]);
		now = clock_read(s);
		/* A minute is for hosts that have something else to do. */
		if (now < before || now - before > 60000000000)
			fail("%llx: from %llx to %llx", values[i], before, now);
		checked();
		before = now;
	}
}

static void tsc_is_written(void)
{
	volatile struct system_time *s = time_at(0);

	if (none(HAS_CLOCK2))
		return;
	enable(0);
	row("by IA32_TIME_STAMP_COUNTER");
	write_tsc_by(s, IA32_TSC);
	row("by IA32_TSC_ADJUST");
	if (HAS_TSC_ADJUST)
		write_tsc_by(s, IA32_TSC_ADJUST);
	row("the flag stays: there is one CPU");
	want_equal(s->flags, kvm_features() & HAS_STABLE ? 1 : 0);
	if (HAS_TSC_ADJUST)
		wrmsr(IA32_TSC_ADJUST, 0);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

/* Where there is a TSC to be written there are writes to be seen. */
static bool is_written(unsigned off)
{
	u32 v = time_at(off)->version;

	wrmsr(IA32_TSC, 0);
	return time_at(off)->version != v;
}

static void on_and_off(void)
{
	if (none(HAS_CLOCK2))
		return;
	clear();
	row("on");
	enable(0);
	want(is_written(0));
	row("at another place");
	enable(0x100);
	want(!is_written(0));
	want(is_written(0x100));
	row("off: bit 0 clear");
	wrmsr(KVM_SYSTEM_TIME_NEW, at(0x100));
	want(!is_written(0x100));
	want_equal(rdmsr(KVM_SYSTEM_TIME), at(0x100));
	row("on by the old name");
	wrmsr(KVM_SYSTEM_TIME, at(0x200) | 1);
	want(is_written(0x200));
	wrmsr(KVM_SYSTEM_TIME, 0);
	want(!is_written(0x200));
	if (HAS_TSC_ADJUST)
		wrmsr(IA32_TSC_ADJUST, 0);
}

static u8 cmos(u8 reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

/* Seconds since 1970; BCD unless register B says otherwise. */
static u32 rtc_now(void)
{
	static const u16 before[] = { 0,   31,  59,  90,  120, 151,
				      181, 212, 243, 273, 304, 334 };
	static const u8 regs[] = { 0, 2, 4, 7, 8, 9 };
	u32 v[ARRAY_SIZE(regs)], days;

	do {
		while (cmos(0x0a) & 0x80)
			;
		for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
			v[i] = cmos(regs[i]);
			if (!(cmos(0x0b) & 4))
				v[i] = (v[i] >> 4) * 10 + (v[i] & 15);
		}
	} while (cmos(0x0a) & 0x80);
	days = (30 + v[5]) * 365 + (30 + v[5] + 1) / 4 + before[v[4] - 1] + v[3] - 1;
	if (v[5] % 4 == 0 && v[4] > 2)
		days++;
	return ((days * 24 + v[2]) * 60 + v[1]) * 60 + v[0];
}

static void wall_clock(void)
{
	volatile struct wall_clock *w = (volatile struct wall_clock *)(memory + 4092);
	u64 ns;
	u32 sec, rtc;

	if (none(HAS_CLOCK2))
		return;
	clear();
	w->version = 3;
	row("it lies where it should, in two pages");
	wrmsr(KVM_WALL_CLOCK_NEW, at(4092));
	want(w->version > 3);
	want_equal(w->version & 1, 0);
	want(w->nsec < 1000000000);
	want_equal(memory[4091], 0);
	want_equal(memory[4092 + sizeof(*w)], 0);
	row("with system time it is the time of day");
	enable(0);
	rtc = rtc_now();
	for (ns = clock_read(time_at(0)) + w->nsec, sec = w->sec; ns >= 1000000000;
	     ns -= 1000000000)
		sec++;
	/* The registers may be a second behind, and the host busy. */
	want(sec - rtc + 2 < 30);
	row("written once: it does not change");
	{
		u32 v = w->version;

		wrmsr(IA32_TSC, 0);
		want_equal(w->version, v);
	}
	row("again, it says the same");
	sec = w->sec;
	wrmsr(KVM_WALL_CLOCK, at(4092));
	want_equal(w->sec, sec);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
	if (HAS_TSC_ADJUST)
		wrmsr(IA32_TSC_ADJUST, 0);
}

static word user_reads(word s)
{
	u64 last = 0;

	for (unsigned i = 0; i < 20000; i++) {
		u64 now = clock_read((const volatile struct system_time *)s);

		if (now < last)
			return 1;
		last = now;
	}
	return last ? 0 : 2;
}

/* As Linux's vDSO does. */
static void from_user_mode(void)
{
	u64 before, after;

	if (none(HAS_CLOCK2))
		return;
	enable(0);
	before = clock_read(time_at(0));
	want_equal(user_run(user_reads, USER(memory)), 0);
	after = clock_read(time_at(0));
	want(after > before);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

/* ---- memory ---- */

static void in_two_pages(void)
{
	if (none(HAS_CLOCK2))
		return;
	for (unsigned off = 4096 - 28; off < 4096; off += 4) {
		u64 t;

		clear();
		enable(off);
		t = clock_read(time_at(off));
		want(t);
		want(clock_read(time_at(off)) - t < 60000000000);
		want_equal(memory[off - 1], 0);
		want_equal(memory[off + 32], 0);
	}
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

#define RAM_END 0x4000000ul /* tests/guest/runner.c */

static void not_in_ram(void)
{
	static const struct {
		const char *name;
		u64 at;
	} table[] = {
		{ "ROM", 0xffffffc0 },
		{ "the local APIC", LAPIC_AT + LAPIC_TPR - 8 },
		{ "the local APIC, from its start", LAPIC_AT },
		{ "the I/O APIC", 0xfec00000 },
		{ "the HPET", 0xfed00000 },
		{ "behind RAM", RAM_END },
		{ "part of it behind RAM", RAM_END - 8 },
		{ "nowhere", 0x123456789000 },
		{ "beyond all addresses", 0xffffffffffffffc0 },
		{ "wraps", 0xfffffffffffffffc },
	};
	volatile u8 *end = (volatile u8 *)(RAM_END - 64);

	if (none(HAS_CLOCK2))
		return;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	for (unsigned i = 0; i < 64; i++)
		end[i] = 0xa5;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u32 rom = *(volatile u32 *)0xfffffff0ul;

		row("%s", table[i].name);
		lapic_write(LAPIC_TPR, 0x20);
		try_wrmsr(KVM_SYSTEM_TIME_NEW, table[i].at | 1);
		want_none();
		want_equal(rdmsr(KVM_SYSTEM_TIME_NEW), table[i].at | 1);
		wrmsr(IA32_TSC, 0);
		try_wrmsr(KVM_WALL_CLOCK_NEW, table[i].at);
		want_none();
		if ((kvm_features() & HAS_STEAL_TIME) && !(table[i].at & 63)) {
			try_wrmsr(KVM_STEAL_TIME, table[i].at | 1);
			want_none();
		}
		want_equal(lapic_read(LAPIC_TPR), 0x20);
		want_equal(*(volatile u32 *)0xfffffff0ul, rom);
		for (unsigned n = 0; n < 64; n++)
			want_equal(end[n], 0xa5);
	}
	if (kvm_features() & HAS_STEAL_TIME)
		wrmsr(KVM_STEAL_TIME, 0);
	row("it is right again afterwards");
	enable(0);
	want(clock_read(time_at(0)));
	row("up to the last byte of RAM");
	wrmsr(KVM_SYSTEM_TIME_NEW, (RAM_END - 32) | 1);
	want(clock_read((volatile struct system_time *)(RAM_END - 32)));
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
	lapic_write(LAPIC_TPR, 0);
	if (HAS_TSC_ADJUST)
		wrmsr(IA32_TSC_ADJUST, 0);
}

/* The version, which each write changes, is the constant of an instruction that has run.
 */
static void over_code(void)
{
	volatile u8 *f = memory + 0x803;
	u32 (*call)(void) = (u32(*)(void))(word)f;

	if (none(HAS_CLOCK2))
		return;
	clear();
	f[0] = 0xb8; /* MOV EAX, imm32 */
	f[5] = 0xc3; /* RET, in what is not written */
	for (unsigned i = 0; i < 100; i++)
		want_equal(call(), 0);
	enable(0x804);
	for (u32 last = 0, i = 0; i < 100; i++) {
		u32 now = call();

		want_equal(now, time_at(0x804)->version);
		want(now != last);
		last = now;
		if (i & 1)
			enable(0x804);
		else
			wrmsr(IA32_TSC, 0);
	}
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
	f[5] = 0xc3;
	want_equal(call(), time_at(0x804)->version);
	if (HAS_TSC_ADJUST)
		wrmsr(IA32_TSC_ADJUST, 0);
}

/* ---- steal time ---- */

static volatile unsigned ticks;

static void on_tick(struct frame *f)
{
	(void)f;
	ticks++;
	eoi();
}

static void steal_time(void)
{
	volatile struct steal_time *s = (volatile struct steal_time *)(memory + 0x80);
	u64 last = 0, began, stolen;

	if (none(HAS_STEAL_TIME) || none(HAS_CLOCK2))
		return;
	clear();
	enable(0);
	began = clock_read(time_at(0));
	wrmsr(KVM_STEAL_TIME, at(0x80) | 1);
	hook[0x61] = on_tick;
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_LVT_TIMER, 0x61 | LVT_PERIODIC);
	lapic_write(LAPIC_TIMER_INIT, 100000);
	row("it does not fall");
	write_flags(read_flags() | 0x200);
	for (ticks = 0; ticks < 20;) {
		u64 now = s->ns;

		want(now >= last);
		last = now;
		want_equal(s->version & 1, 0);
	}
	write_flags(read_flags() & ~(word)0x200);
	lapic_write(LAPIC_TIMER_INIT, 0);
	lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
	row("no more than there was");
	stolen = s->ns;
	want(stolen <= clock_read(time_at(0)) - began);
	row("nothing else is written");
	want_equal(s->flags, 0);
	want_equal(s->preempted, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(s->pad); i++)
		want_equal(s->pad[i], 0);
	wrmsr(KVM_STEAL_TIME, 0);
	wrmsr(KVM_SYSTEM_TIME_NEW, 0);
}

const struct test_case cases[] = {
	CASE(leaves, "KVM cpuid.rst"),
	CASE(features_and_msrs, "KVM msr.rst"),
	CASE(reserved_bits, "KVM msr.rst"),
	CASE(old_and_new_names, "KVM msr.rst"),
	CASE(fields, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(goes_on, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(tsc_is_written, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(on_and_off, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(wall_clock, "KVM msr.rst, WALL_CLOCK_NEW"),
	CASE(from_user_mode, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(in_two_pages, "KVM msr.rst, SYSTEM_TIME_NEW"),
	CASE(not_in_ram, "KVM msr.rst"),
	CASE(over_code, "KVM msr.rst; SDM 3 8.1.3"),
	CASE(steal_time, "KVM msr.rst, STEAL_TIME"),
	CASES_END,
};
