/* PCI host and functions: configuration access, BARs, interrupt wires, state. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "pci/host.h"

#define ECAM UINT64_C(0xe0000000)

struct rig {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *h;
	struct pci_dev *dev;
	bool wire[PCI_INTX_MAX], isa[16];
	bool loading; /* then levels may be told again */
	unsigned written;
	u8 cf9;
	u8 reg[256];
};

static void wire_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	assert_true(r->loading || r->wire[pin] != level);
	r->wire[pin] = level;
}

static void isa_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	assert_true(r->loading || r->isa[pin] != level);
	r->isa[pin] = level;
}

static u64 cf9_read(void *dev, u64 off, unsigned size)
{
	assert_int_equal(off, 0);
	assert_int_equal(size, 1);
	return ((struct rig *)dev)->cf9;
}

static void cf9_write(void *dev, u64 off, u64 val, unsigned size)
{
	assert_int_equal(off, 0);
	assert_int_equal(size, 1);
	((struct rig *)dev)->cf9 = (u8)val;
}

static u64 reg_read(void *dev, u64 off, unsigned size)
{
	return le_load(((struct rig *)dev)->reg + (off & 0xf8), size);
}

static void reg_write(void *dev, u64 off, u64 val, unsigned size)
{
	le_store(((struct rig *)dev)->reg + (off & 0xf8), val, size);
}

static const struct io_ops cf9_ops = { cf9_read, cf9_write, IO_1 };
static const struct io_ops io_bar_ops = { reg_read, reg_write, IO_1 | IO_2 | IO_4 };
static const struct io_ops mem_bar_ops = { reg_read, reg_write,
					   IO_1 | IO_2 | IO_4 | IO_8 };

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct rig *r = opaque;

	(void)off;
	(void)size;
	r->written++;
}

static void rig_init(struct rig *r)
{
	struct pci_host_args args = { .intx_count = 8,
				      .ecam_base = ECAM,
				      .pm_base = 0x600 };
	struct pci_desc d = {
		.name = "thing",
		.vendor = 0x1af4,
		.device = 0x1042,
		.subsys_vendor = 0x1af4,
		.subsys_device = 2,
		.class_code = 0x010802,
		.revision = 1,
		.pin = 1,
		.config_written = config_written,
		.opaque = r,
	};

	*r = (struct rig){ 0 };
	r->phys = phys_new();
	r->ports = io_ports_new();
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, MiB(16), NULL), 0);
	args.phys = r->phys;
	args.ports = r->ports;
	args.cf9_ops = &cf9_ops;
	args.cf9_dev = r;
	for (unsigned i = 0; i < PCI_INTX_MAX; i++)
		args.intx[i] = (struct irq_line){ wire_set, r, i };
	for (unsigned i = 0; i < 16; i++)
		args.isa[i] = (struct irq_line){ isa_set, r, i };
	r->h = pci_host_new(&args, NULL);
	assert_non_null(r->h);
	assert_int_equal(io_ports_add(r->ports, 0xcf8, PCI_HOST_PORTS, "pci",
				      &pci_host_ops, r->h, NULL),
			 0);
	r->dev = pci_add(r->h, PCI_DEVFN(3, 0), &d, NULL);
	assert_non_null(r->dev);
	pci_set_bar(r->dev, 0, PCI_BAR_IO, 64, false, &io_bar_ops, r);
	pci_set_bar(r->dev, 1, PCI_BAR_MEM32, 0x1000, false, &mem_bar_ops, r);
	pci_set_bar(r->dev, 2, PCI_BAR_MEM64, MiB(1), true, &mem_bar_ops, r);
}

static void rig_fini(struct rig *r)
{
	pci_remove(r->dev);
	pci_host_free(r->h);
	io_ports_free(r->ports);
	phys_free(r->phys);
}

static u32 rd(struct rig *r, u8 devfn, unsigned reg, unsigned size)
{
	io_ports_write(r->ports, 0xcf8, 0x80000000u | (u32)devfn << 8 | (reg & 0xfc), 4);
	return (u32)io_ports_read(r->ports, (u16)(0xcfc + (reg & 3)), size);
}

static void wr(struct rig *r, u8 devfn, unsigned reg, u32 v, unsigned size)
{
	io_ports_write(r->ports, 0xcf8, 0x80000000u | (u32)devfn << 8 | (reg & 0xfc), 4);
	io_ports_write(r->ports, (u16)(0xcfc + (reg & 3)), v, size);
}

#define DEV PCI_DEVFN(3, 0)

static void mechanism_1_reads_at_every_size(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, DEV, 0, 4), 0x10421af4);
	assert_int_equal(rd(&r, DEV, 2, 2), 0x1042);
	assert_int_equal(rd(&r, DEV, 3, 1), 0x10);
	assert_int_equal(rd(&r, DEV, 8, 4), 0x01080201);
	assert_int_equal(rd(&r, DEV, 0x2c, 4), 0x00021af4);
	assert_int_equal(rd(&r, DEV, PCI_INT_PIN, 1), 1);
	assert_int_equal(rd(&r, PCI_DEVFN(0, 0), 0, 4), 0x29c08086);
	assert_int_equal(rd(&r, PCI_DEVFN(0x1f, 0), 0, 4), 0x29188086);
	rig_fini(&r);
}

static void nobody_there_reads_all_ones(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
	assert_int_equal(rd(&r, PCI_DEVFN(3, 1), 0, 2), 0xffff);
	wr(&r, PCI_DEVFN(4, 0), 4, 0xffff, 2);
	/* Bus 1. */
	io_ports_write(r.ports, 0xcf8, 0x80010000u | DEV << 8, 4);
	assert_int_equal(io_ports_read(r.ports, 0xcfc, 4), 0xffffffff);
	/* Not enabled. */
	io_ports_write(r.ports, 0xcf8, DEV << 8, 4);
	assert_int_equal(io_ports_read(r.ports, 0xcfc, 4), 0xffffffff);
	rig_fini(&r);
}

static void address_register_takes_double_words_only(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	io_ports_write(r.ports, 0xcf8, 0xffffffff, 4);
	assert_int_equal(io_ports_read(r.ports, 0xcf8, 4), 0x80fffffc);
	io_ports_write(r.ports, 0xcf8, 0, 2);
	io_ports_write(r.ports, 0xcfb, 0, 1);
	assert_int_equal(io_ports_read(r.ports, 0xcf8, 4), 0x80fffffc);
	assert_int_equal(io_ports_read(r.ports, 0xcf8, 2), 0xffff);
	rig_fini(&r);
}

static void byte_at_cf9_reaches_the_reset_register(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	io_ports_write(r.ports, 0xcf8, 0x80001234, 4);
	io_ports_write(r.ports, 0xcf9, 0x06, 1);
	assert_int_equal(r.cf9, 0x06);
	assert_int_equal(io_ports_read(r.ports, 0xcf9, 1), 0x06);
	assert_int_equal(io_ports_read(r.ports, 0xcf8, 4), 0x80001234);
	rig_fini(&r);
}

static void ecam_is_the_same_space(void **state)
{
	struct rig r;
	unsigned buses;

	(void)state;
	rig_init(&r);
	assert_int_equal(pci_host_ecam(r.h, &buses), ECAM);
	assert_int_equal(buses, 256);
	assert_int_equal(phys_load(r.phys, ECAM + (DEV << 12), 4), 0x10421af4);
	phys_store(r.phys, ECAM + (DEV << 12) + PCI_INT_LINE, 11, 1);
	assert_int_equal(rd(&r, DEV, PCI_INT_LINE, 1), 11);
	/* Extended space and other buses: nobody. */
	assert_int_equal(phys_load(r.phys, ECAM + (DEV << 12) + 0x100, 4), 0xffffffff);
	assert_int_equal(phys_load(r.phys, ECAM + (DEV << 12) + 0xffc, 4), 0xffffffff);
	assert_int_equal(phys_load(r.phys, ECAM + MiB(1), 4), 0xffffffff);
	assert_int_equal(phys_load(r.phys, ECAM + MiB(255), 8), UINT64_MAX);
	phys_store(r.phys, ECAM + MiB(255), 0, 8);
	phys_store(r.phys, ECAM + (DEV << 12) + 0x100, 0, 4);
	rig_fini(&r);
}

static void pciexbar_moves_and_resizes_ecam(void **state)
{
	struct rig r;
	unsigned buses;

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, 0, 0x60, 4), 0xe0000001);
	wr(&r, 0, 0x60, 0xb4000005, 4); /* 64 MiB: 64 buses */
	assert_int_equal(pci_host_ecam(r.h, &buses), 0xb4000000);
	assert_int_equal(buses, 64);
	assert_int_equal(phys_load(r.phys, 0xb4000000, 4), 0x29c08086);
	assert_null(phys_find(r.phys, 0xb8000000));
	assert_null(phys_find(r.phys, ECAM));
	wr(&r, 0, 0x64, 0xffffffff, 4); /* up to 64 GiB */
	assert_int_equal(rd(&r, 0, 0x64, 4), 0xf);
	assert_int_equal(phys_load(r.phys, UINT64_C(0xfb4000000), 4), 0x29c08086);
	wr(&r, 0, 0x60, 0xb4000007, 1); /* reserved length */
	assert_int_equal(pci_host_ecam(r.h, &buses), 0);
	wr(&r, 0, 0x64, 0, 4);
	wr(&r, 0, 0x60, 0x00000001, 4); /* over RAM: RAM wins */
	assert_int_equal(phys_load(r.phys, 0, 4), 0);
	pci_host_reset(r.h);
	assert_int_equal(phys_load(r.phys, ECAM, 4), 0x29c08086);
	rig_fini(&r);
}

static void read_only_bits_stay(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned reg = 0; reg < 0x100; reg += 4)
		if (reg < 0x04 || (reg >= 0x08 && reg < 0x0c) || reg >= 0x28)
			wr(&r, DEV, reg, 0xffffffff, 4);
	assert_int_equal(rd(&r, DEV, 0, 4), 0x10421af4);
	assert_int_equal(rd(&r, DEV, 8, 4), 0x01080201);
	assert_int_equal(rd(&r, DEV, PCI_ROM_BAR, 4), 0);
	assert_int_equal(rd(&r, DEV, 0x3c, 4), 0x000001ff);
	wr(&r, DEV, PCI_COMMAND, 0xffffffff, 4);
	assert_int_equal(rd(&r, DEV, PCI_COMMAND, 4), 0x0547);
	assert_int_equal(r.written, 57); /* each write was told */
	rig_fini(&r);
}

static void bar_sizing_tells_size_and_kind(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned i = 0; i < 6; i++)
		wr(&r, DEV, PCI_BAR0 + 4 * i, 0xffffffff, 4);
	assert_int_equal(rd(&r, DEV, PCI_BAR0, 4), 0xffffffc1);
	assert_int_equal(rd(&r, DEV, PCI_BAR0 + 4, 4), 0xfffff000);
	assert_int_equal(rd(&r, DEV, PCI_BAR0 + 8, 4), 0xfff0000c);
	assert_int_equal(rd(&r, DEV, PCI_BAR0 + 12, 4), 0xffffffff);
	assert_int_equal(rd(&r, DEV, PCI_BAR0 + 16, 4), 0);
	/* Nothing is decoded yet. */
	assert_null(phys_find(r.phys, 0xfffff000));
	rig_fini(&r);
}

static void bars_appear_while_their_decoder_is_on(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.reg[0] = 0x5a;
	wr(&r, DEV, PCI_BAR0, 0xc000, 4);
	wr(&r, DEV, PCI_BAR0 + 4, 0xd0000000, 4);
	wr(&r, DEV, PCI_BAR0 + 8, 0x00000000, 4);
	wr(&r, DEV, PCI_BAR0 + 12, 0x80, 4);
	assert_int_equal(io_ports_read(r.ports, 0xc000, 1), 0xff);
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_IO, 2);
	assert_int_equal(io_ports_read(r.ports, 0xc000, 1), 0x5a);
	assert_null(phys_find(r.phys, 0xd0000000));
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_MEM, 2);
	assert_int_equal(io_ports_read(r.ports, 0xc000, 1), 0xff);
	assert_int_equal(phys_load(r.phys, 0xd0000000, 1), 0x5a);
	assert_int_equal(phys_load(r.phys, UINT64_C(0x8000000000), 1), 0x5a);
	/* Moving while it is on. */
	wr(&r, DEV, PCI_BAR0 + 4, 0xd1000000, 4);
	assert_null(phys_find(r.phys, 0xd0000000));
	assert_int_equal(phys_load(r.phys, 0xd1000000, 1), 0x5a);
	pci_reset(r.dev);
	assert_null(phys_find(r.phys, 0xd1000000));
	assert_int_equal(rd(&r, DEV, PCI_BAR0 + 4, 4), 0);
	assert_int_equal(rd(&r, DEV, PCI_BAR0, 4), 1);
	rig_fini(&r);
}

static void bar_over_ram_or_chips_does_no_harm(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	r.reg[0] = 0x5a;
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEM, 2);
	wr(&r, DEV, PCI_BAR0 + 4, 0x00100000, 4);
	phys_store(r.phys, 0x00100000, 0x1234, 4);
	assert_int_equal(phys_load(r.phys, 0x00100000, 4), 0x1234);
	/* Over ECAM, and over the configuration ports themselves. */
	wr(&r, DEV, PCI_BAR0 + 4, (u32)ECAM, 4);
	assert_int_equal(phys_load(r.phys, ECAM, 4), 0x29c08086);
	wr(&r, DEV, PCI_BAR0, 0xcc0, 4);
	assert_int_equal(rd(&r, DEV, PCI_BAR0, 4), 0xcc1);
	assert_int_equal(io_ports_read(r.ports, 0xcc0, 1), 0xff);
	/* Beyond 64 KiB of ports. */
	wr(&r, DEV, PCI_BAR0, 0x10000, 4);
	assert_int_equal(io_ports_read(r.ports, 0, 1), 0xff);
	/* The very top of the address space. */
	wr(&r, DEV, PCI_BAR0 + 8, 0xffffffff, 4);
	wr(&r, DEV, PCI_BAR0 + 12, 0xffffffff, 4);
	assert_int_equal(phys_load(r.phys, UINT64_MAX - 7, 1), 0);
	wr(&r, DEV, PCI_BAR0, 0xc000, 4);
	assert_int_equal(io_ports_read(r.ports, 0xc000, 1), 0x5a);
	rig_fini(&r);
}

static void io_bar_waits_for_ports_of_another(void **state)
{
	struct rig r;
	struct pci_desc d = { .name = "other", .vendor = 1, .device = 2 };
	struct pci_dev *other;
	u8 devfn = PCI_DEVFN(5, 0);

	(void)state;
	rig_init(&r);
	r.reg[0] = 0x5a;
	other = pci_add(r.h, devfn, &d, NULL);
	pci_set_bar(other, 0, PCI_BAR_IO, 32, false, &io_bar_ops, &r);
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_IO, 2);
	wr(&r, DEV, PCI_BAR0, 0xc000, 4);
	wr(&r, devfn, PCI_COMMAND, PCI_COMMAND_IO, 2);
	wr(&r, devfn, PCI_BAR0, 0xc020, 4);
	wr(&r, DEV, PCI_BAR0, 0xd000, 4);
	assert_int_equal(io_ports_read(r.ports, 0xc000, 1), 0xff);
	assert_int_equal(io_ports_read(r.ports, 0xc020, 1), 0x5a);
	pci_remove(other);
	assert_int_equal(io_ports_read(r.ports, 0xc020, 1), 0xff);
	rig_fini(&r);
}

static void many_moves_are_survived(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_MEM, 2);
	for (u32 i = 0; i < 3 * PHYS_MAX_MAPS; i++)
		wr(&r, DEV, PCI_BAR0 + 4, 0x40000000 + i * 0x1000, 4);
	assert_int_equal(phys_load(r.phys, 0, 4), 0);
	wr(&r, DEV, PCI_COMMAND, 0, 2);
	rig_fini(&r);
}

static void capabilities_are_chained(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, DEV, PCI_STATUS, 2) & PCI_STATUS_CAPS, 0);
	assert_int_equal(pci_add_cap(r.dev, 0x09, 17), 0x40);
	assert_int_equal(pci_add_cap(r.dev, 0x11, 12), 0x54);
	assert_int_equal(rd(&r, DEV, PCI_STATUS, 2) & PCI_STATUS_CAPS, PCI_STATUS_CAPS);
	assert_int_equal(rd(&r, DEV, PCI_CAP_PTR, 1), 0x40);
	assert_int_equal(rd(&r, DEV, 0x40, 2), 0x5409);
	assert_int_equal(rd(&r, DEV, 0x54, 2), 0x0011);
	assert_int_equal(pci_add_cap(r.dev, 0x05, 0x100), -ENOSPC);
	assert_int_equal(pci_add_cap(r.dev, 0x05, 0x100 - 0x60), 0x60);
	assert_int_equal(pci_add_cap(r.dev, 0x05, 1), -ENOSPC);
	rig_fini(&r);
}

static void write_one_to_clear(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	pci_config_set(r.dev, 0x50, 4, 0xff);
	pci_config_write1c(r.dev, 0x50, 4, 0x0f);
	wr(&r, DEV, 0x50, 0xf3, 4);
	assert_int_equal(rd(&r, DEV, 0x50, 4), 0xfc);
	rig_fini(&r);
}

static void intx_pin_drives_its_wire(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	pci_set_intx(r.dev, true);
	assert_true(r.wire[3]); /* device 3, pin A */
	assert_int_equal(rd(&r, DEV, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	assert_int_equal(rd(&r, DEV, PCI_COMMAND, 4) & 0x80000, 0x80000);
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_INTX_OFF, 2);
	assert_false(r.wire[3]);
	/* The status bit does not depend on it (6.2.3). */
	assert_int_equal(rd(&r, DEV, PCI_STATUS, 1) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	wr(&r, DEV, PCI_COMMAND, 0, 2);
	assert_true(r.wire[3]);
	pci_set_intx(r.dev, false);
	assert_false(r.wire[3]);
	assert_int_equal(rd(&r, DEV, PCI_STATUS, 2) & PCI_STATUS_INTX, 0);
	pci_set_intx(r.dev, true);
	pci_reset(r.dev);
	assert_false(r.wire[3]);
	rig_fini(&r);
}

static void wire_is_the_or_of_its_pins(void **state)
{
	struct rig r;
	struct pci_desc d = { .name = "other", .vendor = 1, .device = 2, .pin = 2 };
	struct pci_dev *b, *c;

	(void)state;
	rig_init(&r);
	b = pci_add(r.h, PCI_DEVFN(2, 0), &d, NULL); /* device 2, pin B: wire 3 */
	d.pin = 0;
	c = pci_add(r.h, PCI_DEVFN(11, 0), &d, NULL); /* no pin */
	pci_set_intx(r.dev, true);
	pci_set_intx(b, true);
	pci_set_intx(c, true);
	assert_true(r.wire[3]);
	pci_set_intx(r.dev, false);
	assert_true(r.wire[3]);
	pci_set_intx(b, false);
	assert_false(r.wire[3]);
	pci_set_intx(b, true);
	pci_remove(b);
	assert_false(r.wire[3]);
	pci_remove(c);
	rig_fini(&r);
}

static void pirq_route_selects_an_isa_interrupt(void **state)
{
	struct rig r;
	u8 isa = PCI_DEVFN(0x1f, 0);

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, isa, 0x60, 4), 0x80808080);
	pci_set_intx(r.dev, true);
	assert_false(r.isa[11]);
	wr(&r, isa, 0x63, 11, 1);
	assert_true(r.isa[11]);
	assert_true(r.wire[3]);
	wr(&r, isa, 0x63, 10, 1);
	assert_false(r.isa[11]);
	assert_true(r.isa[10]);
	wr(&r, isa, 0x60, 0x8a8a8a8a, 4);
	assert_false(r.isa[10]);
	wr(&r, isa, 0x68, 0xffffffff, 4);
	assert_int_equal(rd(&r, isa, 0x68, 4), 0x8f8f8f8f);
	assert_int_equal(rd(&r, isa, 0x40, 4), 0x601);
	rig_fini(&r);
}

static void taken_address_is_refused(void **state)
{
	struct rig r;
	struct pci_desc d = { .name = "second" };
	struct error err = { 0 };

	(void)state;
	rig_init(&r);
	assert_null(pci_add(r.h, DEV, &d, &err));
	assert_non_null(strstr(err.msg, "03.0"));
	rig_fini(&r);
}

static void second_function_is_announced_by_the_first(void **state)
{
	struct rig r;
	struct pci_desc d = { .name = "second", .vendor = 1 };
	struct pci_dev *fn;

	(void)state;
	rig_init(&r);
	assert_int_equal(rd(&r, DEV, PCI_HEADER_TYPE, 1), 0);
	fn = pci_add(r.h, PCI_DEVFN(3, 2), &d, NULL);
	assert_int_equal(rd(&r, DEV, PCI_HEADER_TYPE, 1), 0x80);
	assert_int_equal(rd(&r, PCI_DEVFN(3, 2), 0, 2), 1);
	pci_remove(fn);
	assert_int_equal(rd(&r, DEV, PCI_HEADER_TYPE, 1), 0);
	rig_fini(&r);
}

static void bus_master_follows_the_command_register(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_false(pci_is_master(r.dev));
	wr(&r, DEV, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
	assert_true(pci_is_master(r.dev));
	pci_reset(r.dev);
	assert_false(pci_is_master(r.dev));
	rig_fini(&r);
}

static void pci_tables_cover_the_state(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&pci_host_desc), pci_host_desc.size);
	assert_int_equal(state_covered(&pci_desc_state), pci_desc_state.size);
}

static void save_all(struct rig *r, struct state_buf *b)
{
	pci_host_save(r->h, b);
	pci_save(r->dev, b);
}

static void pci_save_load_save_is_identical(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 }, y = { 0 };

	(void)state;
	rig_init(&a);
	rig_init(&b);
	b.reg[0] = 0x77;
	b.loading = true;
	wr(&a, DEV, PCI_BAR0, 0xc000, 4);
	wr(&a, DEV, PCI_BAR0 + 4, 0xd0000000, 4);
	wr(&a, DEV, PCI_COMMAND, 7, 2);
	wr(&a, PCI_DEVFN(0x1f, 0), 0x63, 5, 1);
	wr(&a, 0, 0x60, 0xb0000001, 4);
	pci_set_intx(a.dev, true);
	save_all(&a, &x);
	assert_int_equal(pci_host_load(b.h, &x, NULL), 0);
	assert_int_equal(pci_load(b.dev, &x, NULL), 0);
	save_all(&b, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	assert_true(b.wire[3]);
	assert_true(b.isa[5]);
	assert_true(pci_is_master(b.dev));
	assert_int_equal(phys_load(b.phys, 0xd0000000, 1), 0x77);
	assert_int_equal(io_ports_read(b.ports, 0xc000, 1), 0x77);
	assert_int_equal(phys_load(b.phys, 0xb0000000, 4), 0x29c08086);
	assert_int_equal(io_ports_read(b.ports, 0xcf8, 4), 0x80000060);
	/* Once more over the same: whoever listens is told though nothing changed. */
	memset(b.wire, 0, sizeof(b.wire));
	x.pos = 0;
	assert_int_equal(pci_host_load(b.h, &x, NULL), 0);
	assert_int_equal(pci_load(b.dev, &x, NULL), 0);
	assert_true(b.wire[3]);
	/* A reset still knows the values from before. */
	pci_reset(b.dev);
	assert_false(b.wire[3]);
	assert_int_equal(rd(&b, DEV, PCI_COMMAND, 2), 0);
	state_buf_fini(&x);
	state_buf_fini(&y);
	rig_fini(&a);
	rig_fini(&b);
}

static void pci_state_of_another_device_is_refused(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 };
	struct error err = { 0 };

	(void)state;
	rig_init(&a);
	rig_init(&b);
	b.loading = true;
	pci_config_set(a.dev, PCI_DEVICE, 2, 0x1041);
	pci_save(a.dev, &x);
	assert_int_equal(pci_load(b.dev, &x, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "another device than thing"));
	assert_int_equal(rd(&b, DEV, PCI_DEVICE, 2), 0x1042);
	state_buf_fini(&x);
	rig_fini(&a);
	rig_fini(&b);
}

static void pci_hostile_state_is_refused(void **state)
{
	struct rig r;
	struct state_buf x = { 0 };

	(void)state;
	rig_init(&r);
	r.loading = true;
	wr(&r, DEV, PCI_COMMAND, 7, 2);
	pci_save(r.dev, &x);
	for (size_t bit = 0; bit < 8 * x.len; bit++) {
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
		x.pos = 0;
		(void)!pci_load(r.dev, &x, NULL);
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
	}
	state_buf_fini(&x);
	rig_fini(&r);
}

struct storm {
	struct rig *r;
	bool stop;
};

static void *toggle_pin(void *arg)
{
	struct storm *s = arg;

	for (unsigned i = 0; !__atomic_load_n(&s->stop, __ATOMIC_RELAXED); i++)
		pci_set_intx(s->r->dev, i & 1);
	pci_set_intx(s->r->dev, false);
	return NULL;
}

static void pin_and_configuration_on_two_threads(void **state)
{
	struct rig r;
	struct storm s = { .r = &r };
	pthread_t t;

	(void)state;
	rig_init(&r);
	assert_int_equal(pthread_create(&t, NULL, toggle_pin, &s), 0);
	for (unsigned i = 0; i < 20000; i++) {
		wr(&r, DEV, PCI_COMMAND, i & 1 ? PCI_COMMAND_INTX_OFF : PCI_COMMAND_MEM,
		   2);
		rd(&r, DEV, PCI_COMMAND, 4);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	assert_false(r.wire[3]);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mechanism_1_reads_at_every_size),
		cmocka_unit_test(nobody_there_reads_all_ones),
		cmocka_unit_test(address_register_takes_double_words_only),
		cmocka_unit_test(byte_at_cf9_reaches_the_reset_register),
		cmocka_unit_test(ecam_is_the_same_space),
		cmocka_unit_test(pciexbar_moves_and_resizes_ecam),
		cmocka_unit_test(read_only_bits_stay),
		cmocka_unit_test(bar_sizing_tells_size_and_kind),
		cmocka_unit_test(bars_appear_while_their_decoder_is_on),
		cmocka_unit_test(bar_over_ram_or_chips_does_no_harm),
		cmocka_unit_test(io_bar_waits_for_ports_of_another),
		cmocka_unit_test(many_moves_are_survived),
		cmocka_unit_test(capabilities_are_chained),
		cmocka_unit_test(write_one_to_clear),
		cmocka_unit_test(intx_pin_drives_its_wire),
		cmocka_unit_test(wire_is_the_or_of_its_pins),
		cmocka_unit_test(pirq_route_selects_an_isa_interrupt),
		cmocka_unit_test(taken_address_is_refused),
		cmocka_unit_test(second_function_is_announced_by_the_first),
		cmocka_unit_test(bus_master_follows_the_command_register),
		cmocka_unit_test(pci_tables_cover_the_state),
		cmocka_unit_test(pci_save_load_save_is_identical),
		cmocka_unit_test(pci_state_of_another_device_is_refused),
		cmocka_unit_test(pci_hostile_state_is_refused),
		cmocka_unit_test(pin_and_configuration_on_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
