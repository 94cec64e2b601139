/*
 * The AHCI adapter with two disks: started as a driver would, then arbitrary registers,
 * commands and bytes. Input: 8 bytes a step.
 *
 * RAM is 1 MiB; a port's list lies at 0 or 40000h, its FISes 1000h, its tables 2000h
 * above.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/fake_block.c"
#include "base/bits.h"
#include "dev/ahci_port.h"
#include "fuzz.h"
#include "pci/host.h"

#define RAM_SIZE MiB(1)
#define BAR      UINT64_C(0xd0000000)
#define DEVFN    PCI_DEVFN(1, 0)
#define STEP     8u
#define BASE(p)  ((p)*0x40000ul)

struct rig {
	struct phys *phys;
	struct pci_host *host;
	struct fake_block *disk[2];
	struct ahci *a;
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void line(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static void place(struct rig *r)
{
	pci_host_config_write(r->host, DEVFN, PCI_BAR0 + 20, (u32)BAR, 4);
	pci_host_config_write(r->host, DEVFN, PCI_COMMAND, 6, 2);
}

static void wr(struct rig *r, u64 off, u32 val)
{
	phys_store(r->phys, BAR + off, val, 4);
}

static void pwr(struct rig *r, unsigned p, u64 off, u32 val)
{
	wr(r, HBA_PORTS + p * HBA_PORT_SIZE + off, val);
}

static void finish(struct rig *r)
{
	/* What is done may begin more on the same disk. */
	fake_block_run(r->disk[0]);
	fake_block_run(r->disk[1]);
}

static void start(struct rig *r, unsigned p)
{
	pwr(r, p, PX_CMD, 0);
	finish(r);
	wr(r, HBA_GHC, GHC_IE);
	pwr(r, p, PX_CLB, (u32)BASE(p));
	pwr(r, p, PX_CLBU, 0);
	pwr(r, p, PX_FB, (u32)BASE(p) + 0x1000);
	pwr(r, p, PX_FBU, 0);
	pwr(r, p, PX_IS, ~0u);
	pwr(r, p, PX_IE, ~0u);
	pwr(r, p, PX_CMD, CMD_FRE | CMD_ST);
}

/* A command that is mostly possible. */
static void command(struct rig *r, unsigned p, const uint8_t *d)
{
	static const u8 ops[] = { 0x06, 0x20, 0x25, 0x2f, 0x30, 0x35, 0x3d, 0x42, 0x60,
				  0x61, 0x60, 0x61, 0xc6, 0xe5, 0xea, 0xec, 0xef };
	unsigned slot = d[1] & 7;
	u64 table = BASE(p) + 0x2000 + slot * 0x400;
	u8 *h = phys_host(r->phys, BASE(p) + 32 * slot, 32, true);
	u8 *t = phys_host(r->phys, table, 0x100, true);

	le_store(h, 5 | (d[2] & 3u) << 16, 4);
	le_store(h + 8, table, 8);
	memset(t, 0, 20);
	t[0] = d[1] == 0xff ? 0 : 0x27;
	t[1] = d[1] & 0xf8 ? 0x80 : 0;
	t[2] = d[2] == 0xff ? d[3] : ops[d[2] % sizeof(ops)];
	t[3] = d[3] & 7;
	t[4] = d[4];
	t[7] = d[3] & 0x80 ? 0 : 0x40;
	t[12] = ata_is_ncq(t[2]) ? (u8)(slot << 3) : d[5] & 15;
	t[15] = d[5] & 4;
	for (unsigned i = 0; i < 3; i++) {
		le_store(t + 0x80 + 16 * i, (u64)d[6] << 12 | d[5], 8);
		le_store(t + 0x8c + 16 * i, (u32)d[7] << 5 | 1, 4);
	}
	if (ata_is_ncq(t[2]))
		pwr(r, p, PX_SACT, 1u << slot);
	pwr(r, p, PX_CI, 1u << slot);
}

static void save_load(struct rig *r, unsigned damage)
{
	struct state_buf a = { 0 };
	struct error err = { 0 };

	finish(r);
	ahci_pause(r->a);
	ahci_save(r->a, &a);
	if (damage)
		a.data[damage % a.len] ^= (u8)(1 + damage % 255);
	(void)!ahci_load(r->a, &a, &err);
	if (!damage && err.msg[0]) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	state_buf_fini(&a);
	place(r);
	ahci_resume(r->a);
}

static void one(struct rig *r, const uint8_t *d)
{
	u32 v = (u32)le_load(d + 4, 4);
	unsigned p = d[0] >> 4 & 1;

	switch (d[0] & 15) {
	case 0:
	case 1:
	case 2:
	case 3: command(r, p, d); break;
	case 4: pwr(r, p, d[1] & 0x3c, v); break;
	case 5: wr(r, le_load(d + 1, 2) & 0x7fc, v); break;
	case 6: phys_load(r->phys, BAR + (le_load(d + 1, 2) & 0xffc), 4); break;
	case 7: phys_store(r->phys, le_load(d + 1, 4) % RAM_SIZE & ~3ul, v, 4); break;
	case 8:
		r->disk[p]->fail = d[1] & 1 ? -EIO : 0;
		fake_block_run(r->disk[p]);
		break;
	case 9: fake_block_run(r->disk[p]); break;
	case 10: save_load(r, d[1] & 1 ? v & 0xffff : 0); break;
	case 11: pci_host_config_write(r->host, DEVFN, d[2] & 0xfcu, v, 4); break;
	case 12: pwr(r, p, PX_SCTL, d[1] & 1); break;
	case 13: pwr(r, p, PX_CMD, d[1] & (CMD_ST | CMD_FRE | CMD_CLO)); break;
	case 14: place(r); break;
	default: start(r, p); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = { 0 };
	struct pci_host_args args = { .intx_count = 4 };
	struct ahci_setup cfg = { 0 };

	args.phys = r.phys = phys_new();
	args.ports = io_ports_new();
	check(!phys_add_ram(r.phys, "ram", 0, RAM_SIZE, NULL));
	for (unsigned i = 0; i < 4; i++)
		args.intx[i] = (struct irq_line){ line, &r, i };
	r.host = pci_host_new(&args, NULL);
	for (unsigned i = 0; i < 2; i++) {
		r.disk[i] = fake_block_new(64 << 10);
		cfg.disk[i].block = fake_block_handle(r.disk[i]);
	}
	r.a = ahci_new(&cfg, r.phys, r.host, DEVFN, (struct msi_sink){ 0 }, NULL);
	check(r.a != NULL);
	place(&r);
	ahci_resume(r.a);
	start(&r, 0);
	start(&r, 1);
	for (size_t i = 0; i + STEP <= size && i < 512 * STEP; i += STEP)
		one(&r, data + i);
	finish(&r);
	ahci_pause(r.a);
	ahci_free(r.a);
	for (unsigned i = 0; i < 2; i++)
		fake_block_free(r.disk[i]);
	pci_host_free(r.host);
	io_ports_free(args.ports);
	phys_free(r.phys);
	return 0;
}
