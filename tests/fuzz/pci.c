/*
 * The PCI host with two functions and their MSI and MSI-X, driven by arbitrary accesses
 * to configuration space (ports and ECAM), ports and memory. Input: 6 bytes a step:
 * operation, place, value.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "pci/host.h"
#include "pci/msix.h"

#define ECAM UINT64_C(0xe0000000)

struct rig {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *h;
	struct pci_dev *dev[2];
	struct msi *msi;
	struct msix *msix;
	u64 accesses;
};

static u64 bar_read(void *dev, u64 off, unsigned size)
{
	struct rig *r = dev;

	check(off + size <= 0x1000);
	r->accesses++;
	return 0;
}

static void bar_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)val;
	bar_read(dev, off, size);
}

static const struct io_ops bar_ops = { bar_read, bar_write, IO_1 | IO_2 | IO_4 };

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct rig *r = opaque;

	msi_config_written(r->msi, off, size);
	msix_config_written(r->msix, off, size);
}

static void rig_init(struct rig *r, struct fuzz_time *t)
{
	struct pci_host_args args = { .intx_count = 4, .ecam_base = ECAM };
	struct pci_desc d = { .name = "first",
			      .vendor = 1,
			      .pin = 1,
			      .opaque = r,
			      .config_written = config_written };
	struct msi_sink sink = { 0 };

	memset(r, 0, sizeof(*r));
	args.phys = r->phys = phys_new();
	args.ports = r->ports = io_ports_new();
	check(!phys_add_ram(r->phys, "ram", 0, 0x10000, NULL));
	for (unsigned i = 0; i < 4; i++)
		args.intx[i] = fuzz_line(t, i);
	for (unsigned i = 0; i < 16; i++)
		args.isa[i] = fuzz_line(t, 4 + i);
	r->h = pci_host_new(&args, NULL);
	check(!io_ports_add(r->ports, 0xcf8, PCI_HOST_PORTS, "pci", &pci_host_ops, r->h,
			    NULL));
	r->dev[0] = pci_add(r->h, PCI_DEVFN(1, 0), &d, NULL);
	r->msi = msi_new(r->dev[0], 4, sink, NULL);
	r->msix = msix_new(r->dev[0], 5, 4, 0, msix_bar_pba_off(5), sink, NULL);
	pci_set_bar(r->dev[0], 0, PCI_BAR_IO, 0x40, false, &bar_ops, r);
	pci_set_bar(r->dev[0], 1, PCI_BAR_MEM32, 0x1000, false, &bar_ops, r);
	pci_set_bar(r->dev[0], 2, PCI_BAR_MEM64, 0x1000, true, &bar_ops, r);
	pci_set_bar(r->dev[0], 4, PCI_BAR_MEM32, msix_bar_size(5), false, &msix_bar_ops,
		    r->msix);
	d = (struct pci_desc){ .name = "second", .vendor = 1, .pin = 4 };
	r->dev[1] = pci_add(r->h, PCI_DEVFN(1, 1), &d, NULL);
	pci_set_bar(r->dev[1], 0, PCI_BAR_IO, 0x10, false, &bar_ops, r);
	pci_set_bar(r->dev[1], 1, PCI_BAR_MEM32, 0x100, false, &bar_ops, r);
}

static void rig_fini(struct rig *r)
{
	pci_remove(r->dev[1]);
	msi_free(r->msi);
	msix_free(r->msix);
	pci_remove(r->dev[0]);
	pci_host_free(r->h);
	io_ports_free(r->ports);
	phys_free(r->phys);
}

/* One of the functions that are there, mostly. */
static u8 pick(u8 v)
{
	static const u8 devfns[4] = { PCI_DEVFN(0, 0), PCI_DEVFN(0x1f, 0),
				      PCI_DEVFN(1, 0), PCI_DEVFN(1, 1) };

	return v & 0x80 ? v : devfns[v & 3];
}

static void config(struct rig *r, u8 where, u8 reg, u32 v, unsigned size, bool write)
{
	reg &= (u8)-size;
	if (where & 0x40) {
		gpa_t at = ECAM + ((u64)pick(where) << 12) + reg;

		if (write)
			phys_store(r->phys, at, v, size);
		else
			phys_load(r->phys, at, size);
		return;
	}
	io_ports_write(r->ports, 0xcf8,
		       0x80000000u | (u32)pick(where) << 8 | (reg & 0xfc), 4);
	if (write)
		io_ports_write(r->ports, (u16)(0xcfc + (reg & 3)), v, size);
	else
		io_ports_read(r->ports, (u16)(0xcfc + (reg & 3)), size);
}

static void save_load(struct rig *r, u8 what, unsigned damage)
{
	switch (what & 3) {
	case 0: FUZZ_SAVE_LOAD(pci_host, r->h, damage); break;
	case 1: FUZZ_SAVE_LOAD(msix, r->msix, damage); break;
	default: FUZZ_SAVE_LOAD(pci, r->dev[what & 1], damage); break;
	}
}

/* RAM is never shadowed by a window. */
static void check_ram(struct rig *r)
{
	phys_store(r->phys, 0x1000, 0x55, 1);
	check(phys_load(r->phys, 0x1000, 1) == 0x55);
	check(phys_host(r->phys, 0, 0x10000, true) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_time t;
	struct rig r;

	fuzz_time_init(&t, 20);
	rig_init(&r, &t);
	for (size_t i = 0; i + 5 < size && i < 6 * 512; i += 6) {
		unsigned op = data[i] & 15, n = data[i] >> 4;
		u8 where = data[i + 1];
		u32 v = (u32)le_load(data + i + 2, 4);

		switch (op) {
		case 0:
		case 1:
		case 2:
		case 3:
		case 4: config(&r, where, (u8)(n << 2), v, 4, true); break;
		case 5: config(&r, where, (u8)v, v >> 8, 1u << (n & 1), true); break;
		case 6: config(&r, where, (u8)v, 0, 1u << n % 3, false); break;
		case 7: config(&r, 2, PCI_COMMAND, v & 0x407, 2, true); break;
		case 8: pci_set_intx(r.dev[n & 1], v & 1); break;
		case 9: io_ports_write(r.ports, (u16)v, v >> 16, 1u << n % 3); break;
		case 10: io_ports_read(r.ports, (u16)v, 1u << n % 3); break;
		case 11: phys_store(r.phys, v & ~7u, v, 1u << (n & 3)); break;
		case 12: phys_load(r.phys, v & ~7u, 1u << (n & 3)); break;
		case 13:
			if (n & 1)
				msix_notify(r.msix, v % 8);
			else
				msi_notify(r.msi, v);
			break;
		case 14: save_load(&r, where, n & 8 ? v & 0xffff : 0); break;
		default:
			if (n == 0)
				pci_reset(r.dev[where & 1]);
			else if (n == 1)
				pci_host_reset(r.h);
			break;
		}
	}
	check_ram(&r);
	rig_fini(&r);
	for (unsigned i = 0; i < 20; i++)
		check(!t.level[i]);
	clock_free(t.clk);
	return 0;
}
