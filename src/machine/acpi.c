/*
 * ACPI tables of the board: RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET, MCFG, DSDT.
 *
 * ACPI specification 6.3: chapter 5 (tables), 6 (devices), 20 (AML); IA-PC HPET 1.0a
 * section 3.2.4; PCI Firmware 3.2 section 4.1.2 (MCFG) and 4.5.1 (_OSC). A table says
 * only what the board has, with addresses from layout.h: it is what pc.c wires.
 * Missing: NUMA (SRAT, SLIT), CPU and PCI hot-plug, power states of processors.
 * No locks: built before the machine runs.
 */
#include "machine/acpi.h"

#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "dev/acpi_pm.h"
#include "machine/aml.h"
#include "machine/layout.h"
#include "time/hpet.h"
#include "time/lateness.h"
#include "time/rtc.h"

enum { HEADER = 36, TABLES_MAX = 8 };

/* The blob while it is built. */
struct tables {
	u8 *buf;
	size_t len, cap;
	bool full;
	u32 addr[TABLES_MAX]; /* what RSDT and XSDT list */
	unsigned count;
};

static u8 checksum(const u8 *p, size_t n)
{
	u8 sum = 0;

	while (n--)
		sum = (u8)(sum + *p++);
	return (u8)-sum;
}

/* 'size' bytes of zeroes at the next multiple of 'align'; NULL when full. */
static u8 *reserve(struct tables *t, size_t size, size_t align)
{
	size_t at = align_up(t->len, align);

	if (t->full || at > t->cap || size > t->cap - at) {
		t->full = true;
		return NULL;
	}
	t->len = at + size;
	return memset(t->buf + at, 0, size);
}

static u32 addr_of(const struct tables *t, const u8 *p)
{
	return LAYOUT_ACPI + (u32)(p - t->buf);
}

/* A table of 'size' bytes with its header; checksum with seal(). */
static u8 *begin(struct tables *t, const char *sig, u8 revision, size_t size)
{
	u8 *p = reserve(t, size, 16);

	if (!p)
		return NULL;
	memcpy(p, sig, 4);
	le_store(p + 4, size, 4);
	p[8] = revision;
	memcpy(p + 10, "UMBRA UMBRAPC ", 14); /* OEM ID, OEM table ID */
	le_store(p + 24, 1, 4);               /* OEM revision */
	memcpy(p + 28, "UMBR", 4);            /* creator */
	le_store(p + 32, 1, 4);
	return p;
}

static void seal(u8 *p)
{
	p[9] = 0;
	p[9] = checksum(p, le_load(p + 4, 4));
}

static void list(struct tables *t, const u8 *p)
{
	if (t->count < TABLES_MAX)
		t->addr[t->count++] = addr_of(t, p);
}

/* Generic address structure, 5.2.3.2. */
enum { GAS_MEMORY = 0, GAS_IO = 1 };

static void gas(u8 *p, u8 space, u8 bits, u8 access, u64 addr)
{
	p[0] = space;
	p[1] = bits;
	p[2] = 0;
	p[3] = access; /* 1 byte, 2 word, 3 dword */
	le_store(p + 4, addr, 8);
}

/* ---- DSDT ---- */

static void isa_io_irq(struct aml *a, const char *name, const char *hid, u16 port, u8 len,
		       unsigned irq)
{
	aml_device(a, name);
	aml_def_eisa(a, "_HID", hid);
	aml_crs(a);
	aml_res_io(a, port, len);
	aml_res_irq(a, irq);
	aml_crs_end(a);
	aml_close(a);
}

static void isa_serials(struct aml *a, const struct acpi_config *cfg)
{
	static const struct {
		u16 port;
		u8 irq;
	} com[ACPI_SERIALS] = { { PORT_COM1, IRQ_COM1 },
				{ PORT_COM2, IRQ_COM2 },
				{ PORT_COM3, IRQ_COM3 },
				{ PORT_COM4, IRQ_COM4 } };

	for (unsigned i = 0; i < ACPI_SERIALS; i++) {
		char name[5] = { 'C', 'O', 'M', (char)('1' + i), 0 };

		if (!cfg->serial[i])
			continue;
		aml_device(a, name);
		aml_def_eisa(a, "_HID", "PNP0501");
		aml_def_int(a, "_UID", i + 1);
		aml_crs(a);
		aml_res_io(a, com[i].port, 8);
		aml_res_irq(a, com[i].irq);
		aml_crs_end(a);
		aml_close(a);
	}
}

static void isa_keyboard(struct aml *a, const struct acpi_config *cfg)
{
	aml_device(a, "KBD");
	aml_def_eisa(a, "_HID", "PNP0303");
	aml_crs(a);
	aml_res_io(a, PORT_KBD_DATA, 1);
	aml_res_io(a, PORT_KBD_STATUS, 1);
	aml_res_irq(a, IRQ_KBD);
	aml_crs_end(a);
	aml_close(a);
	if (!cfg->mouse)
		return;
	aml_device(a, "MOU");
	aml_def_eisa(a, "_HID", "PNP0F13");
	aml_crs(a);
	aml_res_irq(a, IRQ_MOUSE);
	aml_crs_end(a);
	aml_close(a);
}

static void isa_timer(struct aml *a)
{
	isa_io_irq(a, "TIMR", "PNP0100", PORT_PIT, 4, IRQ_PIT);
	aml_device(a, "SPKR");
	aml_def_eisa(a, "_HID", "PNP0800");
	aml_crs(a);
	aml_res_io(a, PORT_SYSTEM_B, 1);
	aml_crs_end(a);
	aml_close(a);
}

static void isa_bridge(struct aml *a, const struct acpi_config *cfg)
{
	aml_device(a, "ISA");
	aml_def_int(a, "_ADR", 0x001f0000);

	aml_device(a, "PIC");
	aml_def_eisa(a, "_HID", "PNP0000");
	aml_crs(a);
	aml_res_io(a, PORT_PIC_MASTER, 2);
	aml_res_io(a, PORT_PIC_SLAVE, 2);
	aml_res_io(a, PORT_ELCR, 2);
	aml_res_irq(a, 2);
	aml_crs_end(a);
	aml_close(a);

	isa_io_irq(a, "RTC", "PNP0B00", PORT_RTC, 4, IRQ_RTC);
	if (!cfg->no_pit)
		isa_timer(a);
	if (!cfg->no_i8042)
		isa_keyboard(a, cfg);
	isa_serials(a, cfg);
	aml_close(a);
}

/* One interrupt routing package: for all slots, pin p of slot d is wire (d + p) %
 * PCI_WIRES. */
static void prt(struct aml *a, const char *name, bool ioapic)
{
	aml_def(a, name);
	aml_package(a, 32 * 4);
	for (unsigned slot = 0; slot < 32; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			unsigned wire = (slot + pin) % PCI_WIRES;
			unsigned pic = wire & 1 ? IRQ_PCI_ODD : IRQ_PCI_EVEN;

			aml_package(a, 4);
			aml_int(a, slot << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0); /* the next is a GSI */
			aml_int(a, ioapic ? GSI_PCI + wire : pic);
			aml_close(a);
		}
	}
	aml_close(a);
}

/* PCI Firmware 3.2 section 4.5.1: give the operating system what it asks for, if it
 * exists. */
static void pci_osc(struct aml *a)
{
	enum { HOTPLUG = 1 << 0, PME = 1 << 2, AER = 1 << 3, CAPABILITY = 1 << 4 };
	enum { BAD_UUID = 1 << 2, BAD_REVISION = 1 << 3, MASKED = 1 << 4 };

	aml_method(a, "_OSC", 4, true);
	aml_op(a, AML_CREATE_DWORD), aml_op(a, AML_ARG0 + 3), aml_int(a, 0),
		aml_name(a, "CDW1");
	aml_if(a);
	aml_op(a, AML_EQUAL), aml_op(a, AML_ARG0);
	aml_uuid(a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	aml_op(a, AML_CREATE_DWORD), aml_op(a, AML_ARG0 + 3), aml_int(a, 8),
		aml_name(a, "CDW3");
	aml_op(a, AML_AND), aml_name(a, "CDW3"),
		aml_int(a, HOTPLUG | PME | AER | CAPABILITY);
	aml_op(a, AML_LOCAL0);
	aml_if(a);
	aml_op(a, AML_NOT), aml_op(a, AML_EQUAL), aml_op(a, AML_ARG0 + 1),
		aml_op(a, AML_ONE);
	aml_op(a, AML_OR), aml_name(a, "CDW1"), aml_int(a, BAD_REVISION),
		aml_name(a, "CDW1");
	aml_close(a);
	aml_if(a);
	aml_op(a, AML_NOT), aml_op(a, AML_EQUAL), aml_name(a, "CDW3"),
		aml_op(a, AML_LOCAL0);
	aml_op(a, AML_OR), aml_name(a, "CDW1"), aml_int(a, MASKED), aml_name(a, "CDW1");
	aml_close(a);
	aml_op(a, AML_STORE), aml_op(a, AML_LOCAL0), aml_name(a, "CDW3");
	aml_close(a);
	aml_else(a);
	aml_op(a, AML_OR), aml_name(a, "CDW1"), aml_int(a, BAD_UUID), aml_name(a, "CDW1");
	aml_close(a);
	aml_op(a, AML_RETURN), aml_op(a, AML_ARG0 + 3);
	aml_close(a);
}

static void pci_root(struct aml *a, const struct acpi_config *cfg)
{
	const struct layout *l = cfg->layout;

	aml_device(a, "PCI0");
	/* PCI Express needs ECAM; without it this is a plain PCI bus. */
	aml_def_eisa(a, "_HID", cfg->ecam ? "PNP0A08" : "PNP0A03");
	if (cfg->ecam)
		aml_def_eisa(a, "_CID", "PNP0A03");
	aml_def_int(a, "_UID", 0);
	aml_def_int(a, "_SEG", 0);
	aml_def_int(a, "_BBN", 0);
	aml_crs(a);
	aml_res_bus(a, 0, cfg->ecam ? (u16)(cfg->ecam_buses - 1) : 255);
	aml_res_io(a, PORT_PCI_HOST, 8);
	aml_res_io_window(a, 0, PORT_PCI_HOST - 1);
	aml_res_io_window(a, PORT_PCI_HOST + 8, 0xffff);
	aml_res_mem32_window(a, LAYOUT_LOW_END, LAYOUT_SHADOW - 1);
	aml_res_mem32_window(a, LAYOUT_MMIO32_A, LAYOUT_MMIO32_A_END - 1);
	aml_res_mem32_window(a, LAYOUT_MMIO32_B, LAYOUT_MMIO32_B_END - 1);
	if (l->mmio64)
		aml_res_mem64_window(a, l->mmio64, l->mmio64_end - 1);
	aml_crs_end(a);

	prt(a, "PRTP", false);
	prt(a, "PRTA", true);
	aml_method(a, "_PRT", 0, false);
	aml_if(a);
	aml_name(a, "PICF");
	aml_op(a, AML_RETURN), aml_name(a, "PRTA");
	aml_close(a);
	aml_op(a, AML_RETURN), aml_name(a, "PRTP");
	aml_close(a);
	if (cfg->ecam)
		pci_osc(a);
	isa_bridge(a, cfg);
	aml_close(a);
}

static void motherboard(struct aml *a, const struct acpi_config *cfg)
{
	aml_device(a, "MBRD");
	aml_def_eisa(a, "_HID", "PNP0C02");
	aml_def_int(a, "_UID", 1);
	aml_crs(a);
	aml_res_io(a, PORT_POST, 1);
	aml_res_io(a, PORT_SYSTEM_A, 1);
	aml_res_io(a, PORT_SMI, 2);
	aml_res_io(a, PORT_PM_EVT, PORT_PM_LEN);
	aml_res_mem32(a, LAYOUT_LAPIC, LAYOUT_LAPIC_SIZE, true);
	if (cfg->ecam)
		aml_res_mem32(a, (u32)cfg->ecam, cfg->ecam_buses << 20, true);
	aml_crs_end(a);
	aml_close(a);
	/* What QEMU calls its own: selector, data and DMA ports. */
	aml_device(a, "FWCF");
	aml_def(a, "_HID");
	aml_str(a, "QEMU0002");
	aml_def_int(a, "_STA", 0x0b);
	aml_crs(a);
	aml_res_io(a, PORT_FWCFG, PORT_FWCFG_DMA + 8 - PORT_FWCFG);
	aml_crs_end(a);
	aml_close(a);
	if (!cfg->hpet_block_id)
		return;
	aml_device(a, "HPET");
	aml_def_eisa(a, "_HID", "PNP0103");
	aml_def_int(a, "_UID", 0);
	aml_crs(a);
	aml_res_mem32(a, LAYOUT_HPET, LAYOUT_HPET_SIZE, false);
	aml_crs_end(a);
	aml_close(a);
}

/* Virtio over MMIO, by the name that operating systems know: the virtio drivers look. */
static void virtio_mmio(struct aml *a, const struct acpi_config *cfg)
{
	static const u8 irq[] = VIRTIO_MMIO_IRQS;

	for (unsigned i = 0; i < VIRTIO_MMIO_PLACES; i++) {
		char name[5] = { 'V', 'I', 'R', (char)('0' + i), 0 };

		if (!(cfg->virtio_mmio >> i & 1))
			continue;
		aml_device(a, name);
		aml_def(a, "_HID");
		aml_str(a, "LNRO0005");
		aml_def_int(a, "_UID", i);
		aml_crs(a);
		aml_res_mem32(a, LAYOUT_VIRTIO_MMIO + i * LAYOUT_VIRTIO_MMIO_STEP,
			      LAYOUT_VIRTIO_MMIO_SIZE, true);
		aml_res_gsi(a, irq[i % ARRAY_SIZE(irq)]);
		aml_crs_end(a);
		aml_close(a);
	}
}

static void processors(struct aml *a, const struct acpi_config *cfg)
{
	for (unsigned i = 0; i < cfg->cpus && i < ACPI_CPUS_MAX; i++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", i);
		aml_device(a, name);
		aml_def(a, "_HID");
		aml_str(a, "ACPI0007");
		aml_def_int(a, "_UID", i); /* as in the MADT */
		aml_close(a);
	}
}

static void sleep_state(struct aml *a, const char *name, unsigned slp_typ)
{
	aml_def(a, name);
	aml_package(a, 4);
	aml_int(a, slp_typ); /* PM1a_CNT.SLP_TYP */
	aml_int(a, slp_typ); /* PM1b_CNT, which does not exist */
	aml_int(a, 0);
	aml_int(a, 0);
	aml_close(a);
}

static u8 *dsdt(struct tables *t, const struct acpi_config *cfg)
{
	u8 *p = begin(t, "DSDT", 2, HEADER);
	struct aml a;

	if (!p)
		return NULL;
	aml_init(&a, p + HEADER, t->cap - t->len);
	aml_def_int(&a, "PICF", 0); /* 1: the guest uses the IOAPIC */
	aml_method(&a, "_PIC", 1, false);
	aml_op(&a, AML_STORE), aml_op(&a, AML_ARG0), aml_name(&a, "PICF");
	aml_close(&a);
	sleep_state(&a, "_S0", ACPI_SLP_S0);
	if (cfg->s3)
		sleep_state(&a, "_S3", ACPI_SLP_S3);
	sleep_state(&a, "_S5", ACPI_SLP_S5);
	aml_scope(&a, "\\_SB");
	pci_root(&a, cfg);
	motherboard(&a, cfg);
	virtio_mmio(&a, cfg);
	processors(&a, cfg);
	aml_close(&a);
	if (!aml_done(&a)) {
		t->full = true;
		return NULL;
	}
	t->len += a.len;
	le_store(p + 4, HEADER + a.len, 4);
	seal(p);
	return p;
}

/* ---- the fixed tables ---- */

/* 5.2.10. The global lock lives here: memory, and aligned to 64 bytes. */
static u8 *facs(struct tables *t)
{
	u8 *p = reserve(t, 64, 64);

	if (!p)
		return NULL;
	memcpy(p, "FACS", 4);
	le_store(p + 4, 64, 4);
	p[32] = 2; /* version */
	return p;
}

/* 5.2.9, table 5-33. */
static void fadt(struct tables *t, const struct acpi_config *cfg, const u8 *facs_at,
		 const u8 *dsdt_at)
{
	enum {
		WBINVD = 1 << 0,
		PROC_C1 = 1 << 2,
		FIX_RTC = 1 << 6, /* the RTC alarm wakes nobody */
		TMR_VAL_EXT = 1 << 8,
		RESET_REG_SUP = 1 << 10,
	};
	enum { LEGACY_DEVICES = 1, HAS_8042 = 2, NO_VGA = 4, NO_ASPM = 16 };
	u8 *p = begin(t, "FACP", 6, 276);

	if (!p)
		return;
	le_store(p + 36, addr_of(t, facs_at), 4);
	le_store(p + 40, addr_of(t, dsdt_at), 4);
	le_store(p + 46, IRQ_SCI, 2);
	le_store(p + 48, PORT_SMI, 4);
	p[52] = ACPI_SMI_ENABLE;
	p[53] = ACPI_SMI_DISABLE;
	le_store(p + 56, PORT_PM_EVT, 4);
	le_store(p + 64, PORT_PM_CNT, 4);
	le_store(p + 76, PORT_PM_TIMER, 4);
	le_store(p + 80, PORT_PM_GPE, 4);
	p[88] = ACPI_PM_EVT_LEN;
	p[89] = ACPI_PM_CNT_LEN;
	p[91] = 4; /* timer */
	p[92] = ACPI_PM_GPE_LEN;
	le_store(p + 96, 0xffff, 2); /* no C2 */
	le_store(p + 98, 0xffff, 2); /* no C3 */
	p[108] = RTC_REG_CENTURY;
	le_store(p + 109,
		 LEGACY_DEVICES | (cfg->no_i8042 ? 0 : HAS_8042) | NO_VGA | NO_ASPM, 2);
	le_store(p + 112, WBINVD | PROC_C1 | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP, 4);
	gas(p + 116, GAS_IO, 8, 1, PORT_RESET);
	p[128] = 0x06; /* CPU reset, pulsed */
	p[131] = 3;    /* minor version: ACPI 6.3 */
	le_store(p + 140, addr_of(t, dsdt_at), 8);
	gas(p + 148, GAS_IO, 8 * ACPI_PM_EVT_LEN, 2, PORT_PM_EVT);
	gas(p + 172, GAS_IO, 8 * ACPI_PM_CNT_LEN, 2, PORT_PM_CNT);
	gas(p + 208, GAS_IO, 32, 3, PORT_PM_TIMER);
	gas(p + 220, GAS_IO, 8 * ACPI_PM_GPE_LEN, 1, PORT_PM_GPE);
	memcpy(p + 268, "UMBRA", 5); /* hypervisor */
	seal(p);
	list(t, p);
}

/* 5.2.12. */
static void madt(struct tables *t, const struct acpi_config *cfg)
{
	enum { ISO_CONFORMS = 0, ISO_LEVEL_HIGH = 0x0d };
	size_t size = HEADER + 8 + 12 + 2 * 10 + 6 + 12 + cfg->cpus * 16ul;
	u8 *p = begin(t, "APIC", 5, size), *e;
	bool x2 = false;

	if (!p)
		return;
	le_store(p + 36, LAYOUT_LAPIC, 4);
	le_store(p + 40, 1, 4); /* PCAT_COMPAT: there is a pair of 8259s */
	e = p + 44;
	for (unsigned i = 0; i < cfg->cpus; i++) {
		u32 id = cfg->apic_id[i];

		if (id < 255) { /* local APIC */
			e[0] = 0;
			e[1] = 8;
			e[2] = (u8)i;
			e[3] = (u8)id;
			le_store(e + 4, 1, 4); /* enabled */
		} else {                       /* local x2APIC */
			x2 = true;
			e[0] = 9;
			e[1] = 16;
			le_store(e + 4, id, 4);
			le_store(e + 8, 1, 4);
			le_store(e + 12, i, 4);
		}
		e += e[1];
	}
	e[0] = 1; /* IOAPIC */
	e[1] = 12;
	e[2] = cfg->ioapic_id;
	le_store(e + 4, LAYOUT_IOAPIC, 4);
	e += 12;
	e[0] = 2; /* override: the PIT */
	e[1] = 10;
	e[3] = IRQ_PIT;
	le_store(e + 4, GSI_PIT, 4);
	le_store(e + 8, ISO_CONFORMS, 2);
	e += 10;
	e[0] = 2; /* override: the SCI */
	e[1] = 10;
	e[3] = IRQ_SCI;
	le_store(e + 4, IRQ_SCI, 4);
	le_store(e + 8, ISO_LEVEL_HIGH, 2);
	e += 10;
	e[0] = 4; /* NMI on LINT1 of all */
	e[1] = 6;
	e[2] = 0xff;
	e[5] = 1;
	e += 6;
	if (x2) {
		e[0] = 10;
		e[1] = 12;
		le_store(e + 4, 0xffffffff, 4);
		e[8] = 1;
		e += 12;
	}
	le_store(p + 4, (u64)(e - p), 4);
	t->len =
		(size_t)(e -
			 t->buf); /* the last one begun: give back what it did not need */
	seal(p);
	list(t, p);
}

/* IA-PC HPET 1.0a section 3.2.4. */
static void hpet(struct tables *t, const struct acpi_config *cfg)
{
	u8 *p = begin(t, "HPET", 1, 56);

	if (!p)
		return;
	le_store(p + 36, cfg->hpet_block_id, 4);
	gas(p + 40, GAS_MEMORY, 64, 0, LAYOUT_HPET);
	le_store(p + 53, LATE_MIN_GAP / HPET_PERIOD_NS, 2);
	seal(p);
	list(t, p);
}

/* PCI Firmware 3.2 section 4.1.2. */
static void mcfg(struct tables *t, const struct acpi_config *cfg)
{
	u8 *p = begin(t, "MCFG", 1, 60);

	if (!p)
		return;
	le_store(p + 44, cfg->ecam, 8);
	p[55] = (u8)(cfg->ecam_buses - 1);
	seal(p);
	list(t, p);
}

static u8 *root(struct tables *t, const char *sig, unsigned width)
{
	u8 *p = begin(t, sig, 1, HEADER + (size_t)t->count * width);

	if (!p)
		return NULL;
	for (unsigned i = 0; i < t->count; i++)
		le_store(p + HEADER + i * width, t->addr[i], width);
	seal(p);
	return p;
}

size_t acpi_build(u8 *buf, size_t cap, const struct acpi_config *cfg)
{
	struct tables t = { .buf = buf, .cap = cap };
	u8 *rsdp = reserve(&t, ACPI_RSDP_SIZE, 16);
	u8 *facs_at = facs(&t);
	u8 *dsdt_at = dsdt(&t, cfg);
	u8 *rsdt, *xsdt;

	if (!rsdp || !facs_at || !dsdt_at)
		return 0;
	fadt(&t, cfg, facs_at, dsdt_at);
	madt(&t, cfg);
	if (cfg->hpet_block_id)
		hpet(&t, cfg);
	if (cfg->ecam)
		mcfg(&t, cfg);
	rsdt = root(&t, "RSDT", 4);
	xsdt = root(&t, "XSDT", 8);
	if (t.full || !rsdt || !xsdt)
		return 0;
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "UMBRA ", 6);
	rsdp[15] = 2;
	le_store(rsdp + 16, addr_of(&t, rsdt), 4);
	le_store(rsdp + 20, 36, 4);
	le_store(rsdp + 24, addr_of(&t, xsdt), 8);
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, 36);
	return t.len;
}

size_t acpi_find_facs(const u8 *buf, size_t len)
{
	for (size_t at = 64; at + 64 <= len; at += 64)
		if (!memcmp(buf + at, "FACS", 4))
			return at;
	return 0;
}
