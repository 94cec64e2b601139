/*
 * How many processors there are and which: CPUID, MADT, MP table and the local APICs say
 * the same; and the tables' sums.
 *
 * SDM volume 3 section 8.9 (topology), volume 2 CPUID leaves 1, 4 and 0BH; ACPI 6.4
 * sections 5.2.5 (RSDP), 5.2.12 (MADT); MultiProcessor Specification 1.4 chapter 4.
 */
#include "smp.h"

static volatile u32 seen_leaf1[CPUS_MAX], seen_apic[CPUS_MAX], seen_0b[CPUS_MAX];
static volatile bool seen_bsp[CPUS_MAX];
static unsigned how_many; /* by CPUID, or if that does not say it, those that came up */

static u32 get32(word at)
{
	return *(volatile u32 *)at;
}

static u8 get8(word at)
{
	return *(volatile u8 *)at;
}

static u8 sum(word at, u32 len)
{
	u8 s = 0;

	while (len--)
		s += get8(at++);
	return s;
}

static word find(const char *what, word from, word to)
{
	for (word at = from; at < to; at += 16) {
		unsigned n = 0;

		while (what[n] && get8(at + n) == (u8)what[n])
			n++;
		if (!what[n])
			return at;
	}
	return 0;
}

static word rsdp(void)
{
	return find("RSD PTR ", 0xe0000, 0x100000);
}

static word acpi_table(u32 signature)
{
	word r = rsdp(), rsdt = r ? get32(r + 16) : 0;

	for (u32 i = 36; rsdt && i < get32(rsdt + 4); i += 4)
		if (get32(get32(rsdt + i)) == signature)
			return get32(rsdt + i);
	return 0;
}

/* ---- CPUID ---- */

static bool has_levels(void)
{
	return cpuid(0, 0).a >= 0xb && cpuid(0xb, 0).b;
}

static void look(word n)
{
	seen_leaf1[n] = cpuid(1, 0).b >> 24;
	seen_apic[n] = lapic_read(LAPIC_ID) >> 24;
	seen_0b[n] = cpuid(0xb, 0).d;
	seen_bsp[n] = rdmsr(IA32_APIC_BASE) >> 8 & 1;
}

static unsigned look_at_all(void)
{
	unsigned cpus = smp_start();

	how_many = smp_count_is_exact() ? smp_count() : cpus;
	look(0);
	for (unsigned n = 1; n < cpus; n++) {
		smp_run(n, look, n);
		smp_wait(n);
	}
	return cpus;
}

static void identities(void)
{
	unsigned cpus = look_at_all(), bsps = 0;

	row("all CPUs come up");
	want_equal(cpus, how_many);
	row("leaf 1 and the local APIC");
	for (unsigned n = 0; n < cpus; n++)
		want_equal(seen_leaf1[n], seen_apic[n]);
	row("leaf 0Bh and the local APIC");
	for (unsigned n = 0; n < cpus && has_levels(); n++)
		want_equal(seen_0b[n], seen_apic[n]);
	row("each ID is another");
	for (unsigned n = 0; n < cpus; n++)
		for (unsigned k = 0; k < n; k++)
			want(seen_apic[n] != seen_apic[k]);
	row("one boot CPU, the first");
	for (unsigned n = 0; n < cpus; n++)
		bsps += seen_bsp[n];
	want_equal(bsps, 1);
	want(seen_bsp[0]);
}

static void levels(void)
{
	u32 thread = cpuid(0xb, 0).a & 31, package = cpuid(0xb, 1).a & 31;

	if (!has_levels()) {
		skip("no leaf 0Bh");
		return;
	}
	row("leaf 0Bh: types of levels");
	want_equal(cpuid(0xb, 0).c >> 8 & 0xff, 1);
	want_equal(cpuid(0xb, 1).c >> 8 & 0xff, 2);
	want_equal(cpuid(0xb, 2).c >> 8 & 0xff, 0);
	row("leaf 0Bh: an outer level is as wide at least");
	want(package >= thread);
	want(cpuid(0xb, 1).b >= cpuid(0xb, 0).b);
	row("leaf 0Bh: its IDs hold its CPUs");
	want(BIT(thread) >= (cpuid(0xb, 0).b & 0xffff));
	want(BIT(package) >= (cpuid(0xb, 1).b & 0xffff));
	row("leaf 1: HTT");
	want_equal(HAS(1, 0, d, 28), (cpuid(0xb, 1).b & 0xffff) > 1);
	row("leaf 1: IDs of a package");
	if (HAS(1, 0, d, 28))
		want((cpuid(1, 0).b >> 16 & 0xff) >= (cpuid(0xb, 1).b & 0xffff));
}

/* ---- ACPI ---- */

static void acpi_sums(void)
{
	word r = rsdp(), rsdt, xsdt;

	row("RSDP");
	if (!r) {
		fail("not found");
		return;
	}
	want_equal(sum(r, 20), 0);
	want_equal(get8(r + 15), 2);
	want_equal(sum(r, 36), 0);
	rsdt = get32(r + 16);
	xsdt = get32(r + 24);
	row("RSDT");
	want_equal(sum(rsdt, get32(rsdt + 4)), 0);
	row("XSDT");
	want_equal(sum(xsdt, get32(xsdt + 4)), 0);
	row("both have the same tables");
	want_equal((get32(rsdt + 4) - 36) / 4, (get32(xsdt + 4) - 36) / 8);
	for (u32 i = 0; i < (get32(rsdt + 4) - 36) / 4; i++)
		want_equal(get32(rsdt + 36 + 4 * i), get32(xsdt + 36 + 8 * i));
	row("every table's sum");
	for (u32 i = 36; i < get32(rsdt + 4); i += 4)
		want_equal(sum(get32(rsdt + i), get32(get32(rsdt + i) + 4)), 0);
	row("DSDT");
	{
		word fadt = acpi_table(0x50434146), dsdt = fadt ? get32(fadt + 40) : 0;

		want(dsdt);
		want_equal(get32(dsdt), 0x54445344);
		want_equal(sum(dsdt, get32(dsdt + 4)), 0);
	}
}

static void madt(void)
{
	word m = acpi_table(0x43495041), end;
	unsigned cpus = 0, ioapics = 0, irq0 = 0, nmis = 0;

	look_at_all();
	row("there is one");
	if (!m) {
		fail("no MADT");
		return;
	}
	end = m + get32(m + 4);
	row("address of the local APICs");
	want_equal(get32(m + 36), LAPIC_AT);
	for (word p = m + 44; p < end && get8(p + 1); p += get8(p + 1)) {
		u8 type = get8(p);

		if (type == 0 && (get32(p + 4) & 1)) {
			row("processor entries");
			want(cpus < CPUS_MAX);
			if (cpus < CPUS_MAX)
				want_equal(get8(p + 3), seen_apic[cpus]);
			cpus++;
		} else if (type == 1) {
			row("I/O APIC");
			want_equal(get32(p + 4), IOAPIC_AT);
			want_equal(get32(p + 8), 0);
			want_equal(get8(p + 2), ioapic_read(0) >> 24);
			ioapics++;
		} else if (type == 2 && get8(p + 3) == 0) {
			row("interrupt 0 is pin 2");
			want_equal(get32(p + 4), 2);
			irq0++;
		} else if (type == 4) {
			row("NMI is at LINT1");
			want_equal(get8(p + 5), 1);
			nmis++;
		}
	}
	row("as many as CPUID says");
	want_equal(cpus, how_many);
	row("one of each");
	want_equal(ioapics, 1);
	want_equal(irq0, 1);
	want(nmis >= 1);
}

/* ---- MP table ---- */

static void mp_table(void)
{
	word f = find("_MP_", 0xf0000, 0x100000), t, p;
	unsigned cpus = 0, boot = 0, ioapics = 0, buses = 0, ints = 0;

	look_at_all();
	if (!f)
		f = find("_MP_", 0x9fc00, 0xa0000);
	row("floating pointer");
	if (!f) {
		fail("not found");
		return;
	}
	want_equal(sum(f, 16), 0);
	t = get32(f + 4);
	row("header");
	want_equal(get32(t), 0x504d4350); /* PCMP */
	want_equal(sum(t, get32(t + 4) & 0xffff), 0);
	want_equal(get32(t + 36), LAPIC_AT);
	p = t + 44;
	for (u32 i = 0; i < (get32(t + 32) >> 16); i++) {
		switch (get8(p)) {
		case 0:
			row("processor entries");
			if (cpus < CPUS_MAX)
				want_equal(get8(p + 1), seen_apic[cpus]);
			want(get8(p + 3) & 1);
			boot += get8(p + 3) >> 1 & 1;
			cpus++;
			p += 20;
			continue;
		case 1: buses++; break;
		case 2:
			row("I/O APIC entry");
			want_equal(get32(p + 4), IOAPIC_AT);
			want_equal(get8(p + 1), ioapic_read(0) >> 24);
			ioapics++;
			break;
		case 3: ints++; break;
		default: break;
		}
		p += 8;
	}
	row("as many CPUs as CPUID says");
	want_equal(cpus, how_many);
	want_equal(boot, 1);
	row("the entries fill the table");
	want_equal(p, t + (get32(t + 4) & 0xffff));
	row("buses, I/O APIC, interrupts");
	want(buses >= 1);
	want_equal(ioapics, 1);
	want(ints >= 15);
}

const struct test_case cases[] = {
	CASE(identities, "SDM 3 8.9"), CASE(levels, "SDM 3 8.9.1"),
	CASE(acpi_sums, "ACPI 5.2.5"), CASE(madt, "ACPI 5.2.12"),
	CASE(mp_table, "MP 1.4 4"),    CASES_END,
};
