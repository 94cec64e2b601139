/*
 * The NVMe controller: enabled and given a pair of queues as a driver would, then
 * arbitrary registers, doorbells, commands and bytes. Input: 8 bytes a step.
 *
 * RAM is 1 MiB; admin queues at 0 and 10000h, those for I/O at 20000h and 30000h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/fake_block.c"
#include "base/bits.h"
#include "dev/nvme_ctrl.h"
#include "fuzz.h"
#include "pci/host.h"

#define RAM_SIZE MiB(1)
#define BAR      UINT64_C(0xd0000000)
#define DEVFN    PCI_DEVFN(1, 0)
#define ENTRIES  16u
#define STEP     8u

struct rig {
	struct phys *phys;
	struct pci_host *host;
	struct fake_block *disk;
	struct nvme *n;
	u16 tail[2];
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
	pci_host_config_write(r->host, DEVFN, PCI_BAR0, (u32)BAR, 4);
	pci_host_config_write(r->host, DEVFN, PCI_BAR0 + 4, 0, 4);
	pci_host_config_write(r->host, DEVFN, PCI_BAR0 + 16, 0xd1000000, 4);
	pci_host_config_write(r->host, DEVFN, PCI_COMMAND, 6, 2);
}

static void wr(struct rig *r, u64 off, u32 val)
{
	phys_store(r->phys, BAR + off, val, 4);
}

static u8 *entry(struct rig *r, unsigned q)
{
	return phys_host(r->phys, q * 0x20000ul + 64ul * (r->tail[q] % ENTRIES), 64,
			 true);
}

static void ring(struct rig *r, unsigned q)
{
	r->tail[q] = (u16)((r->tail[q] + 1) % ENTRIES);
	wr(r, NVME_DOORBELLS + 8 * q, r->tail[q]);
}

static void make_queue(struct rig *r, u8 opcode, u64 base, u32 dw11)
{
	u8 *e = entry(r, 0);

	memset(e, 0, 64);
	e[0] = opcode;
	le_store(e + 24, base, 8);
	le_store(e + 40, 1 | (ENTRIES - 1) << 16, 4);
	le_store(e + 44, dw11, 4);
	ring(r, 0);
}

static void start(struct rig *r)
{
	wr(r, NVME_CC, 0);
	fake_block_run(r->disk);
	r->tail[0] = r->tail[1] = 0;
	wr(r, NVME_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	wr(r, NVME_ASQ, 0);
	wr(r, NVME_ASQ + 4, 0);
	wr(r, NVME_ACQ, 0x10000);
	wr(r, NVME_ACQ + 4, 0);
	wr(r, NVME_CC, 4 << 20 | 6 << 16 | CC_EN);
	make_queue(r, 5, 0x30000, 3);
	make_queue(r, 1, 0x20000, 1 | 1 << 16);
}

/* A command that is mostly possible. */
static void command(struct rig *r, unsigned q, const uint8_t *d)
{
	static const u8 admin[] = { 0, 1, 2, 4, 5, 6, 8, 9, 10, 12 };
	static const u8 io[] = { 0, 1, 2, 8, 9 };
	u8 *e = entry(r, q);

	e[0] = q ? io[d[1] % sizeof(io)] : admin[d[1] % sizeof(admin)];
	e[1] = d[1] == 0xff;
	le_store(e + 4, d[2] % 8 ? q : d[2], 4);
	le_store(e + 24, le_load(d + 3, 2) << 5, 8);
	le_store(e + 32, le_load(d + 4, 2) << (d[2] & 16 ? 5 : 8), 8);
	le_store(e + 40, q ? d[6] : le_load(d + 5, 2), 4);
	le_store(e + 44, q ? d[2] >> 5 & 4 : d[7], 4);
	le_store(e + 48, q ? d[7] : d[2] >> 4, 4);
	ring(r, q);
}

static void save_load(struct rig *r, unsigned damage)
{
	struct state_buf a = { 0 };
	struct error err = { 0 };

	fake_block_run(r->disk);
	nvme_pause(r->n);
	nvme_save(r->n, &a);
	if (damage)
		a.data[damage % a.len] ^= (u8)(1 + damage % 255);
	(void)!nvme_load(r->n, &a, &err);
	if (!damage && err.msg[0]) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	state_buf_fini(&a);
	place(r);
	nvme_resume(r->n);
}

static void one(struct rig *r, const uint8_t *d)
{
	u32 v = (u32)le_load(d + 4, 4);
	unsigned q = d[0] >> 4 & 1;
	u8 *p;

	switch (d[0] & 15) {
	case 0:
	case 1:
	case 2:
	case 3: command(r, q, d); break;
	case 4: wr(r, NVME_DOORBELLS + 8 * q + 4, d[1] % (ENTRIES + 1)); break;
	case 5: wr(r, NVME_DOORBELLS + (le_load(d + 1, 2) & 0x3ff & -4ul), v); break;
	case 6: wr(r, d[1] & 0x3cu, v); break;
	case 7: phys_load(r->phys, BAR + (le_load(d + 1, 2) & 0x3ffc), 4); break;
	case 8:
		p = phys_host(r->phys, le_load(d + 1, 4) % RAM_SIZE & ~7ul, 8, true);
		le_store(p, d[4] & 1 ? v : v & 0xfff00, 8);
		break;
	case 9:
		r->disk->fail = d[1] & 1 ? -EIO : 0;
		r->disk->can_try = d[1] & 2;
		fake_block_run(r->disk);
		break;
	case 10: fake_block_run(r->disk); break;
	case 11: save_load(r, d[1] & 1 ? v & 0xffff : 0); break;
	case 12: pci_host_config_write(r->host, DEVFN, d[2] & 0xfcu, v, 4); break;
	case 13: wr(r, NVME_CC, v & 1 ? 4 << 20 | 6 << 16 | 1 | (v & 0xc000) : 0); break;
	case 14: place(r); break;
	default: start(r); break;
	}
	/* Nothing may wait when the table of requests is full. */
	if (r->disk->count > 1000)
		fake_block_run(r->disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig r = { 0 };
	struct pci_host_args args = { .intx_count = 4 };
	struct nvme_setup cfg = { .queues = 3 };

	args.phys = r.phys = phys_new();
	args.ports = io_ports_new();
	check(!phys_add_ram(r.phys, "ram", 0, RAM_SIZE, NULL));
	for (unsigned i = 0; i < 4; i++)
		args.intx[i] = (struct irq_line){ line, &r, i };
	r.host = pci_host_new(&args, NULL);
	r.disk = fake_block_new(64 << 10);
	cfg.block = fake_block_handle(r.disk);
	r.n = nvme_new(&cfg, r.phys, r.host, DEVFN, (struct msi_sink){ 0 }, NULL);
	check(r.n != NULL);
	place(&r);
	nvme_resume(r.n);
	start(&r);
	for (size_t i = 0; i + STEP <= size && i < 512 * STEP; i += STEP)
		one(&r, data + i);
	fake_block_run(r.disk);
	nvme_pause(r.n);
	nvme_free(r.n);
	fake_block_free(r.disk);
	pci_host_free(r.host);
	io_ports_free(args.ports);
	phys_free(r.phys);
	return 0;
}
