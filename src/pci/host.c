/*
 * PCI host: configuration access by ports cf8h/cfch and by ECAM, the host bridge
 * (00:00.0), the ISA bridge (00:1f.0), and the interrupt wires of bus 0.
 *
 * Configuration mechanism #1 as in PCI Local Bus 3.0, 3.2.2.3.2; ECAM as in PCI
 * Express 3.0, 7.2.2. The bridges are those of Intel's Q35 (316966, 5.1.13 PCIEXBAR) and
 * ICH9 (316972, 13.1.8 PMBASE, 13.1.10 PIRQn_ROUT) as far as an operating
 * system looks at them. Deliberately missing: buses other than 0, PAM and
 * SMRAM of the host bridge, a PMBASE that moves.
 *
 * I1 The level of a wire is (count of pins on it) > 0; 'wire_level' and 'isa_level' are
 *    what was last told, so each change is told once. A load tells all again,
 *    because whoever listens may have been loaded before.
 *
 * Locks: 'config_lock' covers the functions, their configuration space and windows,
 * and 'ecam_*'; 'addr_lock' the address register; 'irq_lock' the wires. Order:
 * config_lock, device locks, irq_lock.
 */
#include "pci/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

#define DEVFN_BRIDGE PCI_DEVFN(0, 0)
#define DEVFN_ISA    PCI_DEVFN(0x1f, 0)

#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_ADDRESS_KEPT   0x80fffffcu

/* Host bridge. */
enum { PCIEXBAR = 0x60, PCIEXBAR_EN = 1 };
/* ISA bridge. */
enum {
	PMBASE = 0x40,
	ACPI_CNTL = 0x44,
	PIRQA_ROUT = 0x60,
	PIRQE_ROUT = 0x68,
	PIRQ_OFF = 0x80
};

/* Guest-visible state; the bridges' registers are in their configuration space. */
struct pci_host_state {
	u32 address; /* port cf8h */
};

static const struct state_field pci_host_fields[] = {
	STATE_FIELD(struct pci_host_state, address, 1),
	{ 0 },
};

static bool pci_host_valid(const void *state)
{
	const struct pci_host_state *s = state;

	return !(s->address & ~CONFIG_ADDRESS_KEPT);
}

const struct state_desc pci_host_desc = {
	.name = "pci_host",
	.size = sizeof(struct pci_host_state),
	.version = 1,
	.fields = pci_host_fields,
	.valid = pci_host_valid,
};

struct pci_host {
	struct pci_host_state s;
	struct pci_host_args args;
	pthread_mutex_t config_lock, irq_lock, addr_lock;
	struct pci_dev *devs[256];
	struct pci_dev *bridge, *isa;
	gpa_t ecam_base; /* of the window that is placed now */
	u64 ecam_len;    /* 0: none */
	u32 wire_count[PCI_INTX_MAX];
	u8 route[PCI_INTX_MAX]; /* PIRQn_ROUT */
	u8 wire_level;
	u16 isa_level;
};

/* ---- what pci.c needs ---- */

struct phys *pci_host_phys(struct pci_host *h)
{
	return h->args.phys;
}

struct io_ports *pci_host_ports(struct pci_host *h)
{
	return h->args.ports;
}

pthread_mutex_t *pci_host_config_lock(struct pci_host *h)
{
	return &h->config_lock;
}

pthread_mutex_t *pci_host_irq_lock(struct pci_host *h)
{
	return &h->irq_lock;
}

/* 6.2.1: bit 7 of function 0's header type tells of other functions. */
static void update_multi(struct pci_host *h, u8 devfn)
{
	struct pci_dev *zero = h->devs[devfn & ~7];
	u32 multi = 0;

	for (unsigned fn = 1; fn < 8; fn++)
		if (h->devs[(devfn & ~7) | fn])
			multi = 0x80;
	if (zero)
		pci_config_set(zero, PCI_HEADER_TYPE, 1, multi);
}

int pci_host_attach(struct pci_host *h, u8 devfn, struct pci_dev *dev, struct error *err)
{
	int ret = 0;

	pthread_mutex_lock(&h->config_lock);
	if (h->devs[devfn]) {
		ret = error_set(err, -EBUSY, "PCI address %02x.%x is taken", devfn >> 3,
				devfn & 7);
	} else {
		h->devs[devfn] = dev;
		update_multi(h, devfn);
	}
	pthread_mutex_unlock(&h->config_lock);
	return ret;
}

void pci_host_detach(struct pci_host *h, u8 devfn)
{
	pthread_mutex_lock(&h->config_lock);
	h->devs[devfn] = NULL;
	update_multi(h, devfn);
	pthread_mutex_unlock(&h->config_lock);
}

void pci_host_retry_maps(struct pci_host *h)
{
	for (unsigned i = 0; i < ARRAY_SIZE(h->devs); i++)
		if (h->devs[i])
			pci_retry_maps(h->devs[i]);
}

/* ---- interrupt wires; irq lock held ---- */

/* With 'all' also levels that did not change are told. */
static void update_wires(struct pci_host *h, bool all)
{
	u8 wires = 0;
	u16 isa = 0, changed;

	for (unsigned w = 0; w < h->args.intx_count; w++) {
		if (!h->wire_count[w])
			continue;
		wires |= (u8)BIT(w);
		if (!(h->route[w] & PIRQ_OFF))
			isa |= (u16)BIT(h->route[w] & 0xf);
	}
	changed = all ? 0xff : wires ^ h->wire_level;
	h->wire_level = wires;
	for (unsigned w = 0; w < h->args.intx_count; w++)
		if (changed & BIT(w))
			irq_set(&h->args.intx[w], wires & BIT(w));
	changed = all ? 0xffff : isa ^ h->isa_level;
	h->isa_level = isa;
	for (unsigned i = 0; i < 16; i++)
		if (changed & BIT(i))
			irq_set(&h->args.isa[i], isa & BIT(i));
}

void pci_host_drive(struct pci_host *h, u8 devfn, unsigned pin, int change)
{
	h->wire_count[((devfn >> 3) + pin) % h->args.intx_count] += (u32)change;
	update_wires(h, false);
}

void pci_host_tell_wires(struct pci_host *h)
{
	update_wires(h, true);
}

/* ---- host bridge ---- */

static void ecam_remove(struct pci_host *h);
static void ecam_place(struct pci_host *h, gpa_t base, u64 len);

/* Bits that the length field makes part of the base: 256, 128 or 64 MiB. */
static void bridge_written(void *opaque, unsigned off, unsigned size)
{
	struct pci_host *h = opaque;
	u64 v, base, len = 0;

	if (off >= PCIEXBAR + 8 || off + size <= PCIEXBAR || !h->bridge)
		return;
	v = pci_config_get(h->bridge, PCIEXBAR, 4) |
	    (u64)pci_config_get(h->bridge, PCIEXBAR + 4, 4) << 32;
	if (v & PCIEXBAR_EN && bits_get(v, 2, 1) != 3)
		len = MiB(256) >> bits_get(v, 2, 1);
	base = len ? v & BITS(35, 26) & ~(len - 1) : 0;
	if (base == h->ecam_base && len == h->ecam_len)
		return;
	ecam_remove(h);
	if (len)
		ecam_place(h, base, len);
}

static int bridge_new(struct pci_host *h, struct error *err)
{
	struct pci_desc d = {
		.name = "host bridge",
		.vendor = 0x8086,
		.device = 0x29c0,
		.class_code = 0x060000,
		.config_written = bridge_written,
		.opaque = h,
	};
	u64 ecam = h->args.ecam_base;

	h->bridge = pci_add(h, DEVFN_BRIDGE, &d, err);
	if (!h->bridge)
		return -EINVAL;
	pci_config_writable(h->bridge, PCIEXBAR, 4, 0xfc000007);
	pci_config_writable(h->bridge, PCIEXBAR + 4, 4, 0xf);
	pci_config_set(h->bridge, PCIEXBAR, 4, (u32)ecam | (ecam ? PCIEXBAR_EN : 0));
	pci_config_set(h->bridge, PCIEXBAR + 4, 4, (u32)(ecam >> 32));
	bridge_written(h, PCIEXBAR, 8);
	return 0;
}

/* ---- ISA bridge ---- */

static unsigned rout_reg(unsigned wire)
{
	return wire < 4 ? PIRQA_ROUT + wire : PIRQE_ROUT + wire - 4;
}

static void isa_written(void *opaque, unsigned off, unsigned size)
{
	struct pci_host *h = opaque;

	if (off >= PIRQE_ROUT + 4 || off + size <= PIRQA_ROUT || !h->isa)
		return;
	pthread_mutex_lock(&h->irq_lock);
	for (unsigned w = 0; w < PCI_INTX_MAX; w++)
		h->route[w] = (u8)pci_config_get(h->isa, rout_reg(w), 1);
	update_wires(h, false);
	pthread_mutex_unlock(&h->irq_lock);
}

static int isa_new(struct pci_host *h, struct error *err)
{
	struct pci_desc d = {
		.name = "ISA bridge",
		.vendor = 0x8086,
		.device = 0x2918,
		.revision = 2,
		.class_code = 0x060100,
		.config_written = isa_written,
		.opaque = h,
	};

	h->isa = pci_add(h, DEVFN_ISA, &d, err);
	if (!h->isa)
		return -EINVAL;
	if (h->args.pm_base) {
		pci_config_set(h->isa, PMBASE, 4, (h->args.pm_base & 0xff80u) | 1);
		pci_config_set(h->isa, ACPI_CNTL, 1, 0x80);
	}
	for (unsigned w = 0; w < PCI_INTX_MAX; w++) {
		pci_config_set(h->isa, rout_reg(w), 1, PIRQ_OFF);
		pci_config_writable(h->isa, rout_reg(w), 1, 0x8f);
	}
	isa_written(h, PIRQA_ROUT, 16);
	return 0;
}

/* ---- configuration access ---- */

/*
 * Functions come and go only while the machine is stopped or while they are
 * nobody's, so the pointer outlives the lock.
 */
static struct pci_dev *find(struct pci_host *h, u8 devfn)
{
	struct pci_dev *dev;

	pthread_mutex_lock(&h->config_lock);
	dev = h->devs[devfn];
	pthread_mutex_unlock(&h->config_lock);
	return dev;
}

u32 pci_host_config_read(struct pci_host *h, u8 devfn, unsigned off, unsigned size)
{
	struct pci_dev *dev = find(h, devfn);

	return dev ? pci_config_read(dev, off, size) : (u32)size_mask(size);
}

void pci_host_config_write(struct pci_host *h, u8 devfn, unsigned off, u32 val,
			   unsigned size)
{
	struct pci_dev *dev = find(h, devfn);

	if (dev)
		pci_config_write(dev, off, val, size);
}

static u32 address_get(struct pci_host *h)
{
	u32 v;

	pthread_mutex_lock(&h->addr_lock);
	v = h->s.address;
	pthread_mutex_unlock(&h->addr_lock);
	return v;
}

static void address_set(struct pci_host *h, u32 v)
{
	pthread_mutex_lock(&h->addr_lock);
	h->s.address = v & CONFIG_ADDRESS_KEPT;
	pthread_mutex_unlock(&h->addr_lock);
}

/* Enabled, and bus 0: the only one that somebody is on. */
static bool selects(u32 address)
{
	return address & CONFIG_ADDRESS_ENABLE && !bits_get(address, 23, 16);
}

static u64 ports_read(void *dev, u64 off, unsigned size)
{
	struct pci_host *h = dev;
	u32 address = address_get(h);

	/*
	 * Only a double word access is the address register, others pass by
	 * (3.2.2.3.2).
	 */
	if (off < 4) {
		if (off == 0 && size == 4)
			return address;
		if (off == 1 && size == 1 && h->args.cf9_ops)
			return io_read(h->args.cf9_ops, h->args.cf9_dev, 0, 1);
		return size_mask(size);
	}
	if (!selects(address))
		return size_mask(size);
	return pci_host_config_read(h, (u8)(address >> 8), (address & 0xfc) + (off & 3),
				    size);
}

static void ports_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pci_host *h = dev;
	u32 address = address_get(h);

	if (off < 4) {
		if (off == 0 && size == 4)
			address_set(h, (u32)val);
		else if (off == 1 && size == 1 && h->args.cf9_ops)
			io_write(h->args.cf9_ops, h->args.cf9_dev, 0, val, 1);
		return;
	}
	if (selects(address))
		pci_host_config_write(h, (u8)(address >> 8), (address & 0xfc) + (off & 3),
				      (u32)val, size);
}

const struct io_ops pci_host_ops = {
	.read = ports_read,
	.write = ports_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

/*
 * ECAM: bus in bits 27:20 of the offset, device and function in 19:12, register in
 * 11:0.
 */
static u64 ecam_read(void *dev, u64 off, unsigned size)
{
	if (off >> 20)
		return size_mask(size);
	return pci_host_config_read(dev, (u8)(off >> 12), off & 0xfff, size);
}

static void ecam_write(void *dev, u64 off, u64 val, unsigned size)
{
	if (!(off >> 20))
		pci_host_config_write(dev, (u8)(off >> 12), off & 0xfff, (u32)val, size);
}

static const struct io_ops ecam_ops = {
	.read = ecam_read,
	.write = ecam_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

static void ecam_remove(struct pci_host *h)
{
	if (h->ecam_len)
		phys_remove_mmio(h->args.phys, h->ecam_base, &ecam_ops, h);
	h->ecam_base = h->ecam_len = 0;
}

static void ecam_place(struct pci_host *h, gpa_t base, u64 len)
{
	struct error err = { 0 };

	if (phys_add_mmio(h->args.phys, "ECAM", base, len, &ecam_ops, h, &err)) {
		guest_bug("pci", "%s", err.msg);
		return;
	}
	h->ecam_base = base;
	h->ecam_len = len;
}

gpa_t pci_host_ecam(struct pci_host *h, unsigned *buses)
{
	gpa_t base;

	pthread_mutex_lock(&h->config_lock);
	base = h->ecam_base;
	*buses = (unsigned)(h->ecam_len >> 20);
	pthread_mutex_unlock(&h->config_lock);
	return base;
}

/* ---- set-up and state ---- */

struct pci_host *pci_host_new(const struct pci_host_args *args, struct error *err)
{
	struct pci_host *h = xzalloc(sizeof(*h));

	h->args = *args;
	pthread_mutex_init(&h->config_lock, NULL);
	pthread_mutex_init(&h->irq_lock, NULL);
	pthread_mutex_init(&h->addr_lock, NULL);
	if (!args->intx_count || args->intx_count > PCI_INTX_MAX) {
		error_set(err, -EINVAL, "PCI: %u interrupt wires", args->intx_count);
		goto fail;
	}
	if (bridge_new(h, err) || isa_new(h, err))
		goto fail;
	return h;
fail:
	pci_host_free(h);
	return NULL;
}

void pci_host_free(struct pci_host *h)
{
	if (!h)
		return;
	pci_remove(h->isa);
	pci_remove(h->bridge);
	ecam_remove(h);
	pthread_mutex_destroy(&h->config_lock);
	pthread_mutex_destroy(&h->irq_lock);
	pthread_mutex_destroy(&h->addr_lock);
	free(h);
}

void pci_host_reset(struct pci_host *h)
{
	address_set(h, 0);
	pci_reset(h->bridge);
	pci_reset(h->isa);
}

void pci_host_save(const struct pci_host *h, struct state_buf *b)
{
	state_save(b, &pci_host_desc, 0, &h->s);
	pci_save(h->bridge, b);
	pci_save(h->isa, b);
}

int pci_host_load(struct pci_host *h, struct state_buf *b, struct error *err)
{
	int ret = state_load(b, &pci_host_desc, 0, &h->s, err);

	if (!ret)
		ret = pci_load(h->bridge, b, err);
	if (!ret)
		ret = pci_load(h->isa, b, err);
	return ret;
}
