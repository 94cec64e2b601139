/*
 * The MP table, for guests that know no ACPI or are told not to use it.
 *
 * Intel MultiProcessor Specification 1.4, chapter 4. Says the same as the MADT and
 * _PRT: processors, one IOAPIC, ISA interrupts on the pins of their number (0 on 2),
 * PCI wires on pins 16 to 23.
 * Missing: extended entries (address spaces), which only ACPI describes.
 * No locks: built before the machine runs.
 */
#include <string.h>

#include "base/bits.h"
#include "irq/lapic.h"
#include "machine/acpi.h"
#include "machine/layout.h"

enum { BUS_PCI = 0, BUS_ISA = 1 };
enum { FLOATING = 16, HEADER = 44, CPU = 20, ENTRY = 8 };
enum { INT_NORMAL = 0, INT_NMI = 1, INT_EXTINT = 3 };
/* Polarity (bits 1:0) and trigger mode (bits 3:2): as the bus has it, or stated. */
enum { CONFORMS = 0, LEVEL_HIGH = 0x0d, LEVEL_LOW = 0x0f };

struct mp {
	u8 *p, *end;
	unsigned entries;
	bool full;
};

static u8 *entry(struct mp *m, u8 type, size_t size)
{
	u8 *e = m->p;

	if ((size_t)(m->end - m->p) < size) {
		m->full = true;
		return NULL;
	}
	memset(e, 0, size);
	e[0] = type;
	m->p += size;
	m->entries++;
	return e;
}

static void bus(struct mp *m, u8 id, const char *name)
{
	u8 *e = entry(m, 1, ENTRY);

	if (e) {
		e[1] = id;
		memcpy(e + 2, name, 6);
	}
}

/* 'local': to LINT pin of all local APICs, else to the IOAPIC. */
static void irq(struct mp *m, bool local, u8 type, u8 flags, u8 src_bus, u8 src, u8 dest,
		u8 pin)
{
	u8 *e = entry(m, local ? 4 : 3, ENTRY);

	if (!e)
		return;
	e[1] = type;
	le_store(e + 2, flags, 2);
	e[4] = src_bus;
	e[5] = src;
	e[6] = dest;
	e[7] = pin;
}

static void cpus(struct mp *m, const struct acpi_config *cfg)
{
	for (unsigned i = 0; i < cfg->cpus; i++) {
		u8 *e;

		if (cfg->apic_id[i] >= 255)
			continue;
		e = entry(m, 0, CPU);
		if (!e)
			return;
		e[1] = (u8)cfg->apic_id[i];
		e[2] = LAPIC_VERSION;
		e[3] = i ? 1 : 3;          /* enabled, boot processor */
		le_store(e + 4, 0x600, 4); /* family 6; the kernel asks CPUID */
		le_store(e + 8, 0x201, 4); /* APIC, FPU */
	}
}

/*
 * The PICs are at pin 0 too. That is not told, as in the MADT: Linux warns of a pin that
 * is reported and not set up, and firmware sets up LINT0 alone.
 */
static void irqs(struct mp *m, const struct acpi_config *cfg)
{
	for (u8 i = 0; i < 16; i++) {
		if (i == 2)
			continue;
		irq(m, false, INT_NORMAL, i == IRQ_SCI ? LEVEL_HIGH : CONFORMS, BUS_ISA,
		    i, cfg->ioapic_id, i == IRQ_PIT ? GSI_PIT : i);
	}
	for (u8 slot = 1; slot < 32; slot++)
		for (u8 pin = 0; pin < 4; pin++)
			irq(m, false, INT_NORMAL, LEVEL_LOW, BUS_PCI,
			    (u8)(slot << 2 | pin), cfg->ioapic_id,
			    (u8)(GSI_PCI + (slot + pin) % PCI_WIRES));
	irq(m, true, INT_EXTINT, CONFORMS, BUS_ISA, 0, 0xff, 0);
	irq(m, true, INT_NMI, CONFORMS, BUS_ISA, 0, 0xff, 1);
}

static u8 sum(const u8 *p, size_t n)
{
	u8 s = 0;

	while (n--)
		s = (u8)(s + *p++);
	return (u8)-s;
}

size_t mptable_build(u8 *buf, size_t cap, const struct acpi_config *cfg)
{
	u8 *h = buf + FLOATING, *e;
	struct mp m = { .p = h + HEADER, .end = buf + cap };

	if (cap < FLOATING + HEADER)
		return 0;
	memset(buf, 0, FLOATING + HEADER);
	cpus(&m, cfg);
	bus(&m, BUS_PCI, "PCI   ");
	bus(&m, BUS_ISA, "ISA   ");
	e = entry(&m, 2, ENTRY);
	if (e) {
		e[1] = cfg->ioapic_id;
		e[2] = cfg->ioapic_version;
		e[3] = 1; /* enabled */
		le_store(e + 4, LAYOUT_IOAPIC, 4);
	}
	irqs(&m, cfg);
	if (m.full)
		return 0;

	memcpy(buf, "_MP_", 4);
	le_store(buf + 4, LAYOUT_MPTABLE + FLOATING, 4);
	buf[8] = 1; /* 16 bytes */
	buf[9] = 4; /* specification 1.4 */
	buf[10] = sum(buf, FLOATING);

	memcpy(h, "PCMP", 4);
	le_store(h + 4, (u64)(m.p - h), 2);
	h[6] = 4;
	memcpy(h + 8, "UMBRA   UMBRAPC     ", 20);
	le_store(h + 34, m.entries, 2);
	le_store(h + 36, LAYOUT_LAPIC, 4);
	h[7] = sum(h, (size_t)(m.p - h));
	return (size_t)(m.p - buf);
}
