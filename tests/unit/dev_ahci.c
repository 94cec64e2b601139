/* The AHCI adapter and its disks, driven as a driver would, over disks in memory that
 * wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/bits.h"
#include "dev/ahci_port.h"
#include "fake_block.c"
#include "pci/host.h"

#define RAM_SIZE MiB(4)
#define BAR      UINT64_C(0xd0000000)
#define DEVFN    PCI_DEVFN(0x1e, 2)
#define DISK     MiB(1)
#define CLB      0x10000u
#define FB       0x11000u
#define TABLE(s) (0x20000u + (s)*0x1000u)
#define DATA     0x200000u
#define PORT     1u

struct fixture {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct fake_block *disk;
	struct ahci *a;
	bool level;
};

static void line(void *chip, unsigned pin, bool level)
{
	struct fixture *f = chip;

	if (pin == 6)
		f->level = level;
}

static u8 *ram(struct fixture *f, u64 gpa)
{
	return (u8 *)phys_host(f->phys, 0, RAM_SIZE, true) + gpa;
}

static u32 rd(struct fixture *f, u64 off)
{
	return (u32)phys_load(f->phys, BAR + off, 4);
}

static void wr(struct fixture *f, u64 off, u64 val)
{
	phys_store(f->phys, BAR + off, val, 4);
}

static u32 prd(struct fixture *f, u64 off)
{
	return rd(f, HBA_PORTS + PORT * HBA_PORT_SIZE + off);
}

static void pwr(struct fixture *f, u64 off, u64 val)
{
	wr(f, HBA_PORTS + PORT * HBA_PORT_SIZE + off, val);
}

static void place(struct fixture *f)
{
	pci_host_config_write(f->host, DEVFN, PCI_BAR0 + 20, (u32)BAR, 4);
	pci_host_config_write(f->host, DEVFN, PCI_COMMAND, 6, 2);
}

static void start(struct fixture *f)
{
	wr(f, HBA_GHC, GHC_AE | GHC_IE);
	pwr(f, PX_CLB, CLB);
	pwr(f, PX_FB, FB);
	pwr(f, PX_CMD, CMD_FRE);
	pwr(f, PX_SERR, ~0u);
	pwr(f, PX_IS, ~0u);
	wr(f, HBA_IS, ~0u);
	pwr(f, PX_IE, ~0u);
	pwr(f, PX_CMD, CMD_FRE | CMD_ST);
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct pci_host_args args = { .intx_count = 8 };
	struct ahci_setup cfg = { 0 };

	args.phys = f->phys = phys_new();
	args.ports = f->ports = io_ports_new();
	assert_int_equal(phys_add_ram(f->phys, "ram", 0, RAM_SIZE, NULL), 0);
	for (unsigned i = 0; i < 8; i++)
		args.intx[i] = (struct irq_line){ line, f, i };
	f->host = pci_host_new(&args, NULL);
	f->disk = fake_block_new(DISK);
	cfg.disk[PORT].block = fake_block_handle(f->disk);
	cfg.disk[PORT].serial = "a serial";
	f->a = ahci_new(&cfg, f->phys, f->host, DEVFN, (struct msi_sink){ 0 }, NULL);
	assert_non_null(f->a);
	place(f);
	ahci_resume(f->a);
	start(f);
	return f;
}

static void fixture_free(struct fixture *f)
{
	fake_block_run(f->disk);
	ahci_pause(f->a);
	ahci_free(f->a);
	fake_block_free(f->disk);
	pci_host_free(f->host);
	io_ports_free(f->ports);
	phys_free(f->phys);
	free(f);
}

/* A command in a slot: two buffers, the first of 512 bytes at DATA, the rest a page on.
 */
static void put(struct fixture *f, unsigned slot, u8 command, u64 lba, u32 count)
{
	u8 *h = ram(f, CLB + 32 * slot), *t = ram(f, TABLE(slot));
	bool ncq = ata_is_ncq(command);

	memset(h, 0, 32);
	le_store(h, 5 | 2 << 16, 4);
	le_store(h + 8, TABLE(slot), 8);
	memset(t, 0, 0x100);
	t[0] = 0x27;
	t[1] = 0x80;
	t[2] = command;
	for (unsigned i = 0; i < 3; i++) {
		t[4 + i] = (u8)(lba >> 8 * i);
		t[8 + i] = (u8)(lba >> (24 + 8 * i));
	}
	t[7] = 0x40;
	le_store(t + (ncq ? 3 : 12), count & 0xff, 1);
	le_store(t + (ncq ? 11 : 13), count >> 8 & 0xff, 1);
	if (ncq)
		t[12] = (u8)(slot << 3);
	le_store(t + 0x80, DATA, 8);
	le_store(t + 0x8c, 511, 4);
	le_store(t + 0x90, DATA + 0x1000, 8);
	le_store(t + 0x9c, 0x3fffff, 4);
}

/* Run it: the ATA status, with the error above it. */
static u32 run(struct fixture *f, unsigned slot)
{
	pwr(f, PX_CI, 1u << slot);
	fake_block_run(f->disk);
	return prd(f, PX_TFD);
}

static u32 command(struct fixture *f, u8 cmd, u64 lba, u32 count)
{
	put(f, 0, cmd, lba, count);
	return run(f, 0);
}

/* As a driver clears an error. */
static void restart(struct fixture *f)
{
	pwr(f, PX_CMD, CMD_FRE);
	assert_false(prd(f, PX_CMD) & CMD_CR);
	pwr(f, PX_IS, ~0u);
	wr(f, HBA_IS, ~0u);
	pwr(f, PX_CMD, CMD_FRE | CMD_ST);
}

static void identifies(void **state)
{
	struct fixture *f = fixture_new();
	u8 sum = 0;

	(void)state;
	assert_int_equal(rd(f, HBA_PI), 0x3f);
	assert_int_equal(prd(f, PX_SIG), 0x101);
	assert_int_equal(prd(f, PX_SSTS), 0x133);
	assert_int_equal(rd(f, HBA_PORTS + PX_SSTS), 0);
	assert_int_equal(rd(f, HBA_PORTS + PX_TFD), 0x7f);
	assert_int_equal(command(f, 0xec, 0, 0), 0x50);
	assert_memory_equal(ram(f, DATA + 20), " aesirla", 8);
	assert_int_equal(le_load(ram(f, DATA + 200), 8), DISK / 512);
	assert_int_equal(le_load(ram(f, DATA + 120), 4), DISK / 512);
	for (unsigned i = 0; i < 512; i++)
		sum = (u8)(sum + *ram(f, DATA + i));
	assert_int_equal(sum, 0);
	/* PIO: a setup FIS, and the count. */
	assert_int_equal(prd(f, PX_IS), IS_PSS);
	assert_int_equal(*ram(f, FB + 0x20), 0x5f);
	assert_int_equal(le_load(ram(f, CLB + 4), 4), 512);
	assert_int_equal(prd(f, PX_CI), 0);
	assert_true(f->level);
	pwr(f, PX_IS, IS_PSS);
	assert_true(f->level);
	wr(f, HBA_IS, 1 << PORT);
	assert_false(f->level);
	fixture_free(f);
}

static void reads_and_writes(void **state)
{
	static const u8 writes[] = { 0x30, 0x34, 0x35, 0x39, 0x3d, 0xc5, 0xca, 0xce };
	static const u8 reads[] = { 0x20, 0x24, 0x25, 0x29, 0xc4, 0xc8 };
	struct fixture *f = fixture_new();

	(void)state;
	for (unsigned i = 0; i < sizeof(writes); i++) {
		memset(ram(f, DATA), 0x50 + (int)i, 512);
		memset(ram(f, DATA + 0x1000), 0x60 + (int)i, 512);
		assert_int_equal(command(f, writes[i], 4 * i, 2), 0x50);
		assert_int_equal(f->disk->data[4 * i * 512], 0x50 + i);
		assert_int_equal(f->disk->data[4 * i * 512 + 1023], 0x60 + i);
		assert_int_equal(f->disk->data[4 * i * 512 + 1024], 0);
		assert_true(prd(f, PX_IS) & IS_DHRS);
	}
	assert_int_equal(f->disk->fuas, 2);
	for (unsigned i = 0; i < sizeof(reads); i++) {
		memset(ram(f, DATA), 0, 0x2000);
		assert_int_equal(command(f, reads[i], 4, 2), 0x50);
		assert_int_equal(*ram(f, DATA), 0x51);
		assert_int_equal(*ram(f, DATA + 0x1000), 0x61);
		assert_int_equal(le_load(ram(f, CLB + 4), 4), 1024);
	}
	assert_int_equal(command(f, 0xe7, 0, 0), 0x50);
	assert_int_equal(f->disk->flushes, 1);
	fixture_free(f);
}

static void queued_commands_run_together(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	memset(f->disk->data, 0x33, DISK);
	for (unsigned i = 0; i < 3; i++)
		put(f, i, 0x60, i, 1);
	put(f, 3, 0xea, 0, 0);
	pwr(f, PX_SACT, 7);
	pwr(f, PX_CI, 15);
	/* The flush waits for them. */
	assert_int_equal(f->disk->count, 3);
	assert_int_equal(prd(f, PX_CI), 8);
	assert_int_equal(prd(f, PX_SACT), 7);
	fake_block_run(f->disk);
	assert_int_equal(prd(f, PX_CI), 0);
	assert_int_equal(prd(f, PX_SACT), 0);
	assert_int_equal(f->disk->flushes, 1);
	assert_int_equal(prd(f, PX_IS), IS_SDBS | IS_DHRS);
	assert_int_equal(*ram(f, FB + 0x58), 0xa1);
	assert_int_equal(*ram(f, DATA), 0x33);
	/* A tag that is not the slot's. */
	put(f, 4, 0x61, 0, 1);
	*ram(f, TABLE(4) + 12) = 5 << 3;
	pwr(f, PX_SACT, 1 << 4);
	assert_int_equal(run(f, 4), 0x0451);
	assert_true(prd(f, PX_IS) & IS_TFES);
	fixture_free(f);
}

static void a_queued_error_is_in_the_log(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	put(f, 5, 0x60, DISK / 512, 1);
	put(f, 6, 0x60, 0, 1);
	pwr(f, PX_SACT, 1 << 5 | 1 << 6);
	pwr(f, PX_CI, 1 << 6);
	pwr(f, PX_CI, 1 << 5);
	assert_int_equal(prd(f, PX_TFD), 0x1051);
	fake_block_run(f->disk);
	/* What was queued beside it is not answered. */
	assert_int_equal(prd(f, PX_SACT), 1 << 5 | 1 << 6);
	restart(f);
	assert_int_equal(prd(f, PX_SACT), 0);
	assert_int_equal(command(f, 0x2f, 0x10, 1), 0x50);
	assert_int_equal(*ram(f, DATA), 5);
	assert_int_equal(*ram(f, DATA + 3), ATA_IDNF);
	assert_int_equal(command(f, 0x2f, 0x10, 1), 0x50);
	assert_int_equal(*ram(f, DATA), 0x80);
	fixture_free(f);
}

static void malformed_commands(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	assert_int_equal(command(f, 0x25, DISK / 512 - 1, 2), 0x1051);
	assert_int_equal(prd(f, PX_CI), 1);
	/* Nothing goes on before ST is cleared. */
	put(f, 1, 0xec, 0, 0);
	pwr(f, PX_CI, 2);
	assert_int_equal(prd(f, PX_CI), 3);
	restart(f);
	assert_int_equal(command(f, 0xb0, 0, 0), 0x0451);
	restart(f);
	assert_int_equal(command(f, 0x25, ~UINT64_C(0), 1), 0x1051);
	restart(f);
	/* Buffers too short. */
	put(f, 0, 0x25, 0, 2);
	le_store(ram(f, CLB + 2), 1, 2);
	assert_int_equal(run(f, 0), 0x0451);
	restart(f);
	/* Not a command. */
	put(f, 0, 0x25, 0, 1);
	*ram(f, TABLE(0)) = 0x34;
	assert_int_equal(run(f, 0), 0x0451);
	restart(f);
	/* Outside memory: buffer, list, table. */
	put(f, 0, 0x25, 0, 1);
	le_store(ram(f, TABLE(0) + 0x80), BAR, 8);
	run(f, 0);
	assert_int_equal(prd(f, PX_IS), IS_HBFS);
	restart(f);
	put(f, 0, 0x25, 0, 1);
	le_store(ram(f, CLB + 8), ~UINT64_C(0x7f), 8);
	run(f, 0);
	assert_int_equal(prd(f, PX_IS), IS_HBFS);
	restart(f);
	pwr(f, PX_CLBU, 0x1000);
	run(f, 0);
	assert_int_equal(prd(f, PX_IS), IS_HBFS);
	pwr(f, PX_CLBU, 0);
	restart(f);
	assert_int_equal(f->disk->submitted, 0);
	/* 64 Ki buffers of two bytes, all the same: refused soon enough. */
	put(f, 0, 0x25, 0, DISK / 512);
	le_store(ram(f, CLB + 2), 0xffff, 2);
	le_store(ram(f, CLB + 8), 0x100000, 8);
	memcpy(ram(f, 0x100000), ram(f, TABLE(0)), 0x80);
	for (u64 i = 0; i < 0xffff; i++) {
		le_store(ram(f, 0x100080 + 16 * i), DATA, 8);
		le_store(ram(f, 0x100080 + 16 * i + 8), UINT64_C(1) << 32, 8);
	}
	assert_int_equal(run(f, 0), 0x0451);
	restart(f);
	f->disk->fail = -EIO;
	assert_int_equal(command(f, 0x25, 0, 1), 0x4051);
	restart(f);
	assert_int_equal(command(f, 0x35, 0, 1), 0x0451);
	restart(f);
	f->disk->fail = 0;
	assert_int_equal(command(f, 0x25, 0, 1), 0x50);
	fixture_free(f);
}

static void trim(void **state)
{
	struct fixture *f = fixture_new();
	u8 *e = ram(f, DATA);

	(void)state;
	memset(f->disk->data, 1, DISK);
	memset(e, 0, 512);
	le_store(e, UINT64_C(4) << 48, 8);
	le_store(e + 16, UINT64_C(2) << 48 | 100, 8);
	put(f, 0, 0x06, 0, 1);
	*ram(f, TABLE(0) + 3) = 1;
	assert_int_equal(run(f, 0), 0x50);
	assert_int_equal(f->disk->discards, 2);
	assert_int_equal(f->disk->data[2047], 0);
	assert_int_equal(f->disk->data[2048], 1);
	assert_int_equal(f->disk->data[100 * 512], 0);
	/* One bad range: nothing is done. */
	le_store(e + 24, UINT64_C(2) << 48 | (DISK / 512 - 1), 8);
	put(f, 0, 0x06, 0, 1);
	*ram(f, TABLE(0) + 3) = 1;
	assert_int_equal(run(f, 0), 0x1051);
	assert_int_equal(f->disk->discards, 2);
	fixture_free(f);
}

static void resets_during_io(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	/* ST. */
	put(f, 0, 0x25, 0, 1);
	pwr(f, PX_CI, 1);
	assert_true(prd(f, PX_TFD) & ATA_BSY);
	pwr(f, PX_CMD, CMD_FRE);
	assert_true(prd(f, PX_CMD) & CMD_CR);
	assert_int_equal(prd(f, PX_CI), 0);
	fake_block_run(f->disk);
	assert_false(prd(f, PX_CMD) & CMD_CR);
	assert_int_equal(prd(f, PX_IS) & IS_DHRS, 0);
	/* COMRESET. */
	restart(f);
	pwr(f, PX_CI, 1);
	pwr(f, PX_CMD, CMD_FRE);
	pwr(f, PX_SCTL, 0x301);
	assert_int_equal(prd(f, PX_SSTS), 0);
	pwr(f, PX_SCTL, 0x300);
	assert_int_equal(prd(f, PX_SSTS), 0);
	fake_block_run(f->disk);
	assert_int_equal(prd(f, PX_SSTS), 0x133);
	assert_int_equal(prd(f, PX_SIG), 0x101);
	assert_true(prd(f, PX_IS) & IS_PCS);
	/* The whole adapter. */
	restart(f);
	pwr(f, PX_CI, 1);
	wr(f, HBA_GHC, GHC_HR);
	assert_true(rd(f, HBA_GHC) & GHC_HR);
	fake_block_run(f->disk);
	assert_int_equal(rd(f, HBA_GHC), GHC_AE);
	start(f);
	assert_int_equal(command(f, 0x25, 0, 1), 0x50);
	/* SRST. */
	put(f, 0, 0, 0, 0);
	*ram(f, TABLE(0) + 1) = 0;
	*ram(f, TABLE(0) + 15) = 4;
	run(f, 0);
	*ram(f, TABLE(0) + 15) = 0;
	assert_int_equal(run(f, 0), 0x0150);
	assert_int_equal(prd(f, PX_CI), 0);
	assert_int_equal(*ram(f, FB + 0x40), 0x34);
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new();
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(state_covered(&ahci_desc), ahci_desc.size);
	assert_int_equal(state_covered(&ahci_port_desc), ahci_port_desc.size);
	assert_int_equal(command(f, 0x25, 0, 1), 0x50);
	ahci_pause(f->a);
	/* Told while nothing is begun: it is done later. */
	put(f, 7, 0x25, 0, 1);
	pwr(f, PX_CI, 1 << 7);
	ahci_save(f->a, &a);
	ahci_reset(f->a);
	assert_int_equal(ahci_load(f->a, &a, &err), 0);
	ahci_save(f->a, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	place(f);
	assert_int_equal(prd(f, PX_CI), 1 << 7);
	ahci_resume(f->a);
	fake_block_run(f->disk);
	assert_int_equal(prd(f, PX_CI), 0);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies),
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(queued_commands_run_together),
		cmocka_unit_test(a_queued_error_is_in_the_log),
		cmocka_unit_test(malformed_commands),
		cmocka_unit_test(trim),
		cmocka_unit_test(resets_during_io),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
