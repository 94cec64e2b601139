/* The NVMe controller, driven as a driver would, over a disk in memory whose requests
 * wait. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/bits.h"
#include "dev/nvme_ctrl.h"
#include "fake_block.c"
#include "pci/host.h"

#define RAM_SIZE MiB(4)
#define BAR      UINT64_C(0xd0000000)
#define MSIX_BAR UINT64_C(0xd1000000)
#define DEVFN    PCI_DEVFN(3, 0)
#define DISK     MiB(1)
#define ASQ      0x10000u
#define ACQ      0x20000u
#define SQ(n)    (0x30000u + (n)*0x10000u)
#define CQ(n)    (0x80000u + (n)*0x10000u)
#define DATA     0x200000u
#define LIST     0x100000u
#define ENTRIES  8u

struct fixture {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct fake_block *disk;
	struct nvme *n;
	bool level;
	unsigned msis[64];
	u16 tail[4], head[4], phase[4], size[4];
	u32 result;
	u16 cid; /* of the last completion */
};

struct sqe {
	u8 opcode, flags;
	u32 nsid, dw10, dw11, dw12;
	u64 prp1, prp2;
};

static void line(void *chip, unsigned pin, bool level)
{
	struct fixture *f = chip;

	if (pin == 3)
		f->level = level;
}

static void msi(void *opaque, u64 addr, u32 data)
{
	struct fixture *f = opaque;

	(void)addr;
	f->msis[data % 64]++;
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

static void place(struct fixture *f)
{
	pci_host_config_write(f->host, DEVFN, PCI_BAR0, (u32)BAR, 4);
	pci_host_config_write(f->host, DEVFN, PCI_BAR0 + 16, (u32)MSIX_BAR, 4);
	pci_host_config_write(f->host, DEVFN, PCI_COMMAND, 6, 2);
}

/* A queue as the driver sees it. */
static void own(struct fixture *f, unsigned id, u16 size)
{
	f->tail[id] = f->head[id] = 0;
	f->phase[id] = 1;
	f->size[id] = size;
	memset(ram(f, id ? CQ(id) : ACQ), 0, 0x1000);
}

static void enable(struct fixture *f)
{
	wr(f, NVME_AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1));
	wr(f, NVME_ASQ, ASQ);
	wr(f, NVME_ASQ + 4, 0);
	wr(f, NVME_ACQ, ACQ);
	wr(f, NVME_ACQ + 4, 0);
	own(f, 0, ENTRIES);
	wr(f, NVME_CC, 4 << 20 | 6 << 16 | CC_EN);
}

static struct fixture *fixture_new(bool readonly)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct pci_host_args args = { .intx_count = 8 };
	struct nvme_setup cfg = { .serial = "a serial", .queues = 3 };

	args.phys = f->phys = phys_new();
	args.ports = f->ports = io_ports_new();
	assert_int_equal(phys_add_ram(f->phys, "ram", 0, RAM_SIZE, NULL), 0);
	for (unsigned i = 0; i < 8; i++)
		args.intx[i] = (struct irq_line){ line, f, i };
	f->host = pci_host_new(&args, NULL);
	f->disk = fake_block_new(DISK);
	f->disk->readonly = readonly;
	cfg.block = fake_block_handle(f->disk);
	f->n = nvme_new(&cfg, f->phys, f->host, DEVFN, (struct msi_sink){ msi, f }, NULL);
	assert_non_null(f->n);
	place(f);
	nvme_resume(f->n);
	enable(f);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY);
	return f;
}

static void fixture_free(struct fixture *f)
{
	fake_block_run(f->disk);
	nvme_pause(f->n);
	nvme_free(f->n);
	fake_block_free(f->disk);
	pci_host_free(f->host);
	io_ports_free(f->ports);
	phys_free(f->phys);
	free(f);
}

static void put(struct fixture *f, unsigned id, const struct sqe *s, u16 cid)
{
	u8 *e = ram(f, (id ? SQ(id) : ASQ) + 64u * f->tail[id]);

	memset(e, 0, 64);
	e[0] = s->opcode;
	e[1] = s->flags;
	le_store(e + 2, cid, 2);
	le_store(e + 4, s->nsid, 4);
	le_store(e + 24, s->prp1, 8);
	le_store(e + 32, s->prp2, 8);
	le_store(e + 40, s->dw10, 4);
	le_store(e + 44, s->dw11, 4);
	le_store(e + 48, s->dw12, 4);
	f->tail[id] = (u16)((f->tail[id] + 1) % f->size[id]);
}

static void ring(struct fixture *f, unsigned id)
{
	wr(f, NVME_DOORBELLS + 8 * id, f->tail[id]);
}

/* The next completion of a queue: its status without DNR; -1: there is none. */
static int reap(struct fixture *f, unsigned id)
{
	u8 *e = ram(f, (id ? CQ(id) : ACQ) + 16u * f->head[id]);
	u32 dw3 = (u32)le_load(e + 12, 4);

	if ((dw3 >> 16 & 1) != f->phase[id])
		return -1;
	f->result = (u32)le_load(e, 4);
	f->cid = (u16)dw3;
	assert_int_equal(le_load(e + 10, 2), id);
	f->head[id] = (u16)((f->head[id] + 1) % f->size[id]);
	f->phase[id] ^= !f->head[id];
	wr(f, NVME_DOORBELLS + 8 * id + 4, f->head[id]);
	return dw3 >> 17 & 0x3fff;
}

static int do_one(struct fixture *f, unsigned id, const struct sqe *s)
{
	static u16 cid;

	put(f, id, s, ++cid);
	ring(f, id);
	fake_block_run(f->disk);
	return reap(f, id);
}

static void make_queues(struct fixture *f, unsigned id, u16 size)
{
	struct sqe cq = { .opcode = 5,
			  .prp1 = CQ(id),
			  .dw10 = id | (size - 1u) << 16,
			  .dw11 = 3 | id << 16 };
	struct sqe sq = { .opcode = 1,
			  .prp1 = SQ(id),
			  .dw10 = id | (size - 1u) << 16,
			  .dw11 = 1 | id << 16 };

	own(f, id, size);
	assert_int_equal(do_one(f, 0, &cq), NVME_OK);
	assert_int_equal(do_one(f, 0, &sq), NVME_OK);
}

static int io(struct fixture *f, u8 opcode, u64 lba, u32 blocks, u64 prp1, u64 prp2)
{
	struct sqe s = { .opcode = opcode,
			 .nsid = 1,
			 .prp1 = prp1,
			 .prp2 = prp2,
			 .dw10 = (u32)lba,
			 .dw11 = (u32)(lba >> 32),
			 .dw12 = blocks - 1 };

	return do_one(f, 1, &s);
}

static int identify(struct fixture *f, u32 cns, u32 nsid)
{
	struct sqe s = { .opcode = 6, .nsid = nsid, .prp1 = DATA, .dw10 = cns };

	memset(ram(f, DATA), 0xee, 4096);
	return do_one(f, 0, &s);
}

static void identifies(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	assert_int_equal(rd(f, NVME_VS), 0x10400);
	assert_int_equal(rd(f, NVME_CAP) & 0xffff, 1023);
	assert_int_equal(identify(f, 1, 0), NVME_OK);
	assert_memory_equal(ram(f, DATA + 4), "a serial            ", 20);
	assert_int_equal(*ram(f, DATA + 512), 0x66);
	assert_int_equal(*ram(f, DATA + 77), NVME_MDTS);
	assert_int_equal(identify(f, 0, 1), NVME_OK);
	assert_int_equal(le_load(ram(f, DATA), 8), DISK / 512);
	assert_int_equal(*ram(f, DATA + 130), 9);
	assert_int_equal(identify(f, 2, 0), NVME_OK);
	assert_int_equal(le_load(ram(f, DATA), 8), 1);
	assert_int_equal(identify(f, 2, 1), NVME_OK);
	assert_int_equal(le_load(ram(f, DATA), 8), 0);
	assert_int_equal(identify(f, 3, 1), NVME_OK);
	assert_int_equal(*ram(f, DATA), 3);
	assert_int_equal(identify(f, 0, 2), NVME_INVALID_NSID);
	assert_int_equal(identify(f, 0, NVME_ALL), NVME_INVALID_NSID);
	assert_int_equal(identify(f, 6, 0), NVME_INVALID_FIELD);
	assert_int_equal(*ram(f, DATA), 0xee);
	fixture_free(f);
}

static void reads_and_writes(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	make_queues(f, 1, 8);
	memset(ram(f, DATA), 0x5a, 0x10000);
	/* Within a page, over two, with a list. */
	assert_int_equal(io(f, 1, 3, 1, DATA, 0), NVME_OK);
	assert_int_equal(f->disk->data[3 * 512 - 1], 0);
	assert_int_equal(f->disk->data[3 * 512], 0x5a);
	assert_int_equal(f->disk->data[4 * 512], 0);
	assert_int_equal(io(f, 1, 16, 8, DATA + 0x204, DATA + 0x3000), NVME_OK);
	assert_int_equal(f->disk->data[24 * 512 - 1], 0x5a);
	for (u64 i = 0; i < 8; i++)
		le_store(ram(f, LIST + 8 * i), DATA + 0x20000 + 0x2000 * i, 8);
	assert_int_equal(io(f, 2, 0, 64, DATA + 0x10000, LIST), NVME_OK);
	assert_int_equal(*ram(f, DATA + 0x10000 + 3 * 512), 0x5a);
	assert_int_equal(*ram(f, DATA + 0x20000 + 0x2000), 0x5a);
	/* A list whose first page ends: the last entry says where it goes on. */
	le_store(ram(f, LIST + 0xff0), DATA + 0x40000, 8);
	le_store(ram(f, LIST + 0xff8), LIST + 0x2000, 8);
	le_store(ram(f, LIST + 0x2000), DATA + 0x41000, 8);
	le_store(ram(f, LIST + 0x2008), DATA + 0x42000, 8);
	assert_int_equal(io(f, 2, 0, 32, DATA + 0x10000, LIST + 0xff0), NVME_OK);
	assert_int_equal(*ram(f, DATA + 0x41000), 0x5a);
	assert_int_equal(f->disk->fuas, 0);
	f->disk->can_try = true;
	assert_int_equal(io(f, 2, 3, 1, DATA, 0), NVME_OK);
	fixture_free(f);
}

static void bad_requests_end_with_a_status(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 2, .nsid = 2, .prp1 = DATA };

	(void)state;
	make_queues(f, 1, 8);
	f->disk->submitted = 0;
	assert_int_equal(do_one(f, 1, &s), NVME_INVALID_NSID);
	s.nsid = 1;
	s.flags = 0x40; /* SGL */
	assert_int_equal(do_one(f, 1, &s), NVME_INVALID_FIELD);
	s.flags = 1; /* fused */
	assert_int_equal(do_one(f, 1, &s), NVME_INVALID_FIELD);
	assert_int_equal(io(f, 0x7f, 0, 1, DATA, 0), NVME_INVALID_OPCODE);
	assert_int_equal(io(f, 2, DISK / 512, 1, DATA, 0), NVME_LBA_RANGE);
	assert_int_equal(io(f, 2, DISK / 512 - 1, 2, DATA, 0), NVME_LBA_RANGE);
	assert_int_equal(io(f, 1, ~UINT64_C(0), 1, DATA, 0), NVME_LBA_RANGE);
	assert_int_equal(io(f, 2, 0, 1025, DATA, LIST), NVME_INVALID_FIELD);
	assert_int_equal(io(f, 2, 0, 1, DATA + 2, 0), NVME_PRP_OFFSET);
	assert_int_equal(io(f, 2, 0, 9, DATA, DATA + 4), NVME_PRP_OFFSET);
	assert_int_equal(io(f, 2, 0, 32, DATA, LIST + 4), NVME_PRP_OFFSET);
	assert_int_equal(io(f, 2, 0, 1, RAM_SIZE, 0), NVME_DATA_TRANSFER);
	assert_int_equal(io(f, 2, 0, 1, BAR, 0), NVME_DATA_TRANSFER);
	assert_int_equal(io(f, 2, 0, 32, DATA, RAM_SIZE), NVME_DATA_TRANSFER);
	assert_int_equal(io(f, 2, 0, 32, DATA, ~UINT64_C(7)), NVME_DATA_TRANSFER);
	/* A list of nothing but its own address. */
	le_store(ram(f, LIST + 0xff8), LIST + 0xff8, 8);
	assert_int_equal(io(f, 2, 0, 32, DATA, LIST + 0xff8), NVME_PRP_OFFSET);
	le_store(ram(f, LIST), DATA + 8, 8);
	assert_int_equal(io(f, 2, 0, 32, DATA, LIST), NVME_PRP_OFFSET);
	assert_int_equal(f->disk->submitted, 0);
	f->disk->fail = -EIO;
	assert_int_equal(io(f, 2, 0, 1, DATA, 0), NVME_READ_ERROR);
	assert_int_equal(io(f, 1, 0, 1, DATA, 0), NVME_WRITE_FAULT);
	f->disk->fail = -ENOSPC;
	assert_int_equal(io(f, 1, 0, 1, DATA, 0), NVME_CAPACITY);
	f->disk->fail = 0;
	assert_int_equal(io(f, 1, 0, 1, DATA, 0), NVME_OK);
	fixture_free(f);
}

static void flush_zeroes_and_discard(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe flush = { .opcode = 0, .nsid = NVME_ALL };
	struct sqe dsm = { .opcode = 9, .nsid = 1, .prp1 = DATA, .dw10 = 2, .dw11 = 4 };
	struct sqe wce = { .opcode = 9, .dw10 = 6 };
	u8 *e = ram(f, DATA);

	(void)state;
	make_queues(f, 1, 8);
	assert_int_equal(do_one(f, 1, &flush), NVME_OK);
	assert_int_equal(f->disk->flushes, 1);
	memset(f->disk->data, 1, DISK);
	assert_int_equal(io(f, 8, 8, 8, 0, 0), NVME_OK);
	assert_int_equal(f->disk->zeroes, 1);
	assert_int_equal(f->disk->data[4096], 0);
	memset(e, 0, 48);
	le_store(e + 4, 8, 4); /* [0, 8), nothing, [32, 40) */
	le_store(e + 32 + 4, 8, 4);
	le_store(e + 32 + 8, 32, 8);
	assert_int_equal(do_one(f, 1, &dsm), NVME_OK);
	assert_int_equal(f->disk->discards, 2);
	assert_int_equal(f->disk->data[0], 0);
	assert_int_equal(f->disk->data[32 * 512], 0);
	assert_int_equal(f->disk->data[31 * 512], 1);
	/* One bad range: nothing is done. */
	le_store(e + 32 + 8, DISK / 512 - 7, 8);
	assert_int_equal(do_one(f, 1, &dsm), NVME_LBA_RANGE);
	dsm.dw11 = 0;
	le_store(e + 32 + 8, 32, 8);
	assert_int_equal(do_one(f, 1, &dsm), NVME_OK);
	assert_int_equal(f->disk->discards, 2);
	/* Without a cache each write is stable. */
	assert_int_equal(do_one(f, 0, &wce), NVME_OK);
	assert_int_equal(io(f, 1, 0, 1, DATA, 0), NVME_OK);
	assert_int_equal(f->disk->fuas, 1);
	fixture_free(f);
	f = fixture_new(true);
	make_queues(f, 1, 8);
	assert_int_equal(io(f, 1, 0, 1, DATA, 0), NVME_WRITE_PROTECTED);
	assert_int_equal(io(f, 8, 0, 1, 0, 0), NVME_WRITE_PROTECTED);
	assert_int_equal(identify(f, 0, 1), NVME_OK);
	assert_int_equal(*ram(f, DATA + 99), 1);
	fixture_free(f);
}

static void malformed_queues(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe cq = { .opcode = 5, .prp1 = CQ(2), .dw10 = 2 | 7 << 16, .dw11 = 3 };
	struct sqe sq = { .opcode = 1, .prp1 = SQ(2), .dw10 = 2 | 7 << 16, .dw11 = 1 };
	struct sqe del = { .opcode = 4, .dw10 = 1 };

	(void)state;
	make_queues(f, 1, 8);
	assert_int_equal(do_one(f, 0, &sq), NVME_CQ_INVALID); /* the admin's */
	sq.dw11 = 1 | 2 << 16;
	assert_int_equal(do_one(f, 0, &sq), NVME_CQ_INVALID);
	sq.dw11 = 1 << 16;
	assert_int_equal(do_one(f, 0, &sq), NVME_INVALID_FIELD); /* not contiguous */
	sq.dw11 = 1 | 1 << 16;
	sq.dw10 = 1 | 7 << 16;
	assert_int_equal(do_one(f, 0, &sq), NVME_QID_INVALID);
	sq.dw10 = 4 | 7 << 16;
	assert_int_equal(do_one(f, 0, &sq), NVME_QID_INVALID);
	sq.dw10 = 2;
	assert_int_equal(do_one(f, 0, &sq), NVME_QSIZE_INVALID);
	sq.dw10 = 2 | 1024u << 16;
	assert_int_equal(do_one(f, 0, &sq), NVME_QSIZE_INVALID);
	sq.dw10 = 2 | 7 << 16;
	sq.prp1 = SQ(2) + 64;
	assert_int_equal(do_one(f, 0, &sq), NVME_PRP_OFFSET);
	sq.prp1 = UINT64_C(1) << 40;
	assert_int_equal(do_one(f, 0, &sq), NVME_INVALID_FIELD);
	cq.dw11 = 3 | 4 << 16;
	assert_int_equal(do_one(f, 0, &cq), NVME_VECTOR_INVALID);
	cq.dw10 = 0 | 7 << 16;
	assert_int_equal(do_one(f, 0, &cq), NVME_QID_INVALID);
	assert_int_equal(do_one(f, 0, &del), NVME_QUEUE_DELETION);
	del.opcode = 0;
	assert_int_equal(do_one(f, 0, &del), NVME_OK);
	assert_int_equal(do_one(f, 0, &del), NVME_QID_INVALID);
	del.opcode = 4;
	assert_int_equal(do_one(f, 0, &del), NVME_OK);
	fixture_free(f);
}

static void enabling_what_is_not_possible_is_fatal(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		wr(f, NVME_CC, 0);
		assert_int_equal(rd(f, NVME_CSTS), 0);
		wr(f, NVME_AQA, i == 0 ? 7 : 7 << 16 | 7);
		wr(f, NVME_ASQ, i == 1 ? 0xfff00000 : ASQ);
		wr(f, NVME_ACQ, i == 2 ? (u32)BAR : ACQ);
		wr(f, NVME_CC, CC_EN | (i == 3 ? 1 << 7 : 0));
		assert_int_equal(rd(f, NVME_CSTS), CSTS_CFS);
		wr(f, NVME_DOORBELLS, 3);
	}
	wr(f, NVME_CC, 0);
	enable(f);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY);
	assert_int_equal(identify(f, 1, 0), NVME_OK);
	fixture_free(f);
}

/* Nothing is fetched that could not be completed. */
static void a_full_completion_queue_waits(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 2, .nsid = 1, .prp1 = DATA };
	struct sqe cq = { .opcode = 5,
			  .prp1 = CQ(1),
			  .dw10 = 1 | 2 << 16, /* room for two */
			  .dw11 = 3 | 1 << 16 };
	struct sqe sq = {
		.opcode = 1, .prp1 = SQ(1), .dw10 = 1 | 7 << 16, .dw11 = 1 | 1 << 16
	};
	u8 *e = ram(f, CQ(1));

	(void)state;
	own(f, 1, 8);
	assert_int_equal(do_one(f, 0, &cq), NVME_OK);
	assert_int_equal(do_one(f, 0, &sq), NVME_OK);
	for (u16 i = 0; i < 6; i++)
		put(f, 1, &s, i);
	ring(f, 1);
	fake_block_run(f->disk);
	assert_int_equal(f->disk->submitted, 2);
	assert_int_equal(le_load(e + 32 + 12, 4), 0);
	/* More than was posted cannot be consumed. */
	wr(f, NVME_DOORBELLS + 12, 0xffff);
	assert_int_equal(f->disk->submitted, 2);
	wr(f, NVME_DOORBELLS + 12, 2);
	fake_block_run(f->disk);
	assert_int_equal(f->disk->submitted, 4);
	wr(f, NVME_DOORBELLS + 12, 1);
	fake_block_run(f->disk);
	assert_int_equal(f->disk->submitted, 6);
	fixture_free(f);
}

static void reset_during_io(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 2, .nsid = 1, .prp1 = DATA };
	struct sqe del = { .opcode = 0, .dw10 = 1 };

	(void)state;
	make_queues(f, 1, 8);
	for (u16 i = 0; i < 5; i++)
		put(f, 1, &s, i);
	ring(f, 1);
	assert_int_equal(f->disk->count, 5);
	/* Even a deletion that waits for them. */
	put(f, 0, &del, 9);
	ring(f, 0);
	wr(f, NVME_CC, 0);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY);
	wr(f, NVME_CC, CC_EN); /* too early: ignored */
	fake_block_run(f->disk);
	assert_int_equal(rd(f, NVME_CSTS), 0);
	assert_int_equal(reap(f, 1), -1);
	enable(f);
	make_queues(f, 1, 8);
	assert_int_equal(io(f, 2, 0, 1, DATA, 0), NVME_OK);
	fixture_free(f);
}

static void a_queue_is_deleted_when_its_commands_are_done(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 2, .nsid = 1, .prp1 = DATA };
	struct sqe del = { .opcode = 0, .dw10 = 1 };

	(void)state;
	make_queues(f, 1, 8);
	for (u16 i = 0; i < 5; i++)
		put(f, 1, &s, i);
	ring(f, 1);
	put(f, 0, &del, 77);
	ring(f, 0);
	assert_int_equal(reap(f, 0), -1);
	/* Nothing more is fetched. */
	put(f, 1, &s, 5);
	ring(f, 1);
	assert_int_equal(f->disk->submitted, 5);
	fake_block_run(f->disk);
	assert_int_equal(reap(f, 0), NVME_OK);
	assert_int_equal(f->cid, 77);
	for (u16 i = 0; i < 5; i++)
		assert_int_equal(reap(f, 1), NVME_OK);
	assert_int_equal(reap(f, 1), -1);
	fixture_free(f);
}

static void shutdown_makes_stable(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	wr(f, NVME_CC, 4 << 20 | 6 << 16 | 1 << 14 | CC_EN);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY | SHST_OCCURRING << 2);
	fake_block_run(f->disk);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY | SHST_COMPLETE << 2);
	assert_int_equal(f->disk->flushes, 1);
	wr(f, NVME_CC, 0);
	enable(f);
	assert_int_equal(rd(f, NVME_CSTS), CSTS_RDY);
	fixture_free(f);
}

static void events_are_bounded_and_told_once(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe aer = { .opcode = 0x0c };
	struct sqe log = { .opcode = 2, .prp1 = DATA, .dw10 = 15 << 16 | LOG_ERROR_INFO };

	(void)state;
	wr(f, NVME_DOORBELLS + 0x100, 0); /* no such queue */
	for (u16 i = 0; i < 4; i++) {
		put(f, 0, &aer, 100 + i);
		ring(f, 0);
	}
	assert_int_equal(reap(f, 0), NVME_OK);
	assert_int_equal(f->cid, 100);
	assert_int_equal(f->result, LOG_ERROR_INFO << 16 | EVENT_BAD_DOORBELL << 8);
	wr(f, NVME_DOORBELLS, 0xffff);
	assert_int_equal(reap(f, 0), -1); /* masked until the log was read */
	assert_int_equal(do_one(f, 0, &log), NVME_OK);
	assert_int_equal(le_load(ram(f, DATA), 8), 2);
	wr(f, NVME_DOORBELLS, 0xffff);
	assert_int_equal(reap(f, 0), NVME_OK);
	assert_int_equal(f->cid, 101);
	assert_int_equal(f->result, LOG_ERROR_INFO << 16 | EVENT_BAD_VALUE << 8);
	for (u16 i = 0; i < 2; i++)
		put(f, 0, &aer, 110 + i);
	ring(f, 0);
	assert_int_equal(reap(f, 0), -1);
	put(f, 0, &aer, 120);
	ring(f, 0);
	assert_int_equal(reap(f, 0), NVME_AER_LIMIT);
	fixture_free(f);
}

static void logs_and_features(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 2, .prp1 = DATA, .dw10 = 127u << 16 | LOG_SMART };

	(void)state;
	assert_int_equal(do_one(f, 0, &s), NVME_OK);
	assert_int_equal(le_load(ram(f, DATA + 1), 2), NVME_KELVIN);
	s.dw12 = 512; /* behind its end */
	assert_int_equal(do_one(f, 0, &s), NVME_INVALID_FIELD);
	s.dw12 = 0;
	s.dw11 = 0xffff; /* 16 GiB */
	assert_int_equal(do_one(f, 0, &s), NVME_INVALID_FIELD);
	s.dw11 = 0;
	s.dw10 = 127u << 16 | 0x70;
	assert_int_equal(do_one(f, 0, &s), NVME_LOG_INVALID);
	s = (struct sqe){ .opcode = 9, .dw10 = 7, .dw11 = 0x003f003f };
	assert_int_equal(do_one(f, 0, &s), NVME_OK);
	assert_int_equal(f->result, 0x00020002);
	make_queues(f, 1, 8);
	assert_int_equal(do_one(f, 0, &s), NVME_SEQUENCE);
	s.dw11 = 0xffff;
	assert_int_equal(do_one(f, 0, &s), NVME_INVALID_FIELD);
	s.dw10 |= 1u << 31;
	assert_int_equal(do_one(f, 0, &s), NVME_NOT_SAVEABLE);
	s = (struct sqe){ .opcode = 9, .dw10 = 4, .dw11 = 300 };
	assert_int_equal(do_one(f, 0, &s), NVME_OK);
	s.opcode = 10;
	s.dw11 = 0;
	assert_int_equal(do_one(f, 0, &s), NVME_OK);
	assert_int_equal(f->result, 300);
	s.nsid = 1;
	assert_int_equal(do_one(f, 0, &s), NVME_NOT_NS_SPECIFIC);
	s = (struct sqe){ .opcode = 8, .dw10 = 1 };
	assert_int_equal(do_one(f, 0, &s), NVME_OK);
	assert_int_equal(f->result, 1);
	s.opcode = 0x80;
	assert_int_equal(do_one(f, 0, &s), NVME_INVALID_OPCODE);
	fixture_free(f);
}

static void interrupts(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 6, .prp1 = DATA, .dw10 = 1 };
	unsigned cap;

	(void)state;
	put(f, 0, &s, 1);
	ring(f, 0);
	assert_true(f->level);
	wr(f, NVME_INTMS, 1);
	assert_false(f->level);
	wr(f, NVME_INTMC, 1);
	assert_true(f->level);
	assert_int_equal(reap(f, 0), NVME_OK);
	assert_false(f->level);
	for (cap = pci_host_config_read(f->host, DEVFN, PCI_CAP_PTR, 1);
	     pci_host_config_read(f->host, DEVFN, cap, 1) != PCI_CAP_MSIX;)
		cap = pci_host_config_read(f->host, DEVFN, cap + 1, 1);
	pci_host_config_write(f->host, DEVFN, cap + 2, 0x8000, 2);
	for (unsigned i = 0; i < 4; i++) {
		phys_store(f->phys, MSIX_BAR + 16 * i, 0xfee00000, 4);
		phys_store(f->phys, MSIX_BAR + 16 * i + 8, i, 4);
		phys_store(f->phys, MSIX_BAR + 16 * i + 12, 0, 4);
	}
	make_queues(f, 1, 8);
	assert_int_equal(f->msis[0], 2);
	assert_int_equal(io(f, 2, 0, 1, DATA, 0), NVME_OK);
	assert_int_equal(f->msis[1], 1);
	assert_false(f->level);
	fixture_free(f);
}

/* Without bus mastering nothing is read from memory; with it what waited goes on. */
static void only_a_bus_master_fetches(void **state)
{
	struct fixture *f = fixture_new(false);
	struct sqe s = { .opcode = 6, .prp1 = DATA, .dw10 = 1 };

	(void)state;
	pci_host_config_write(f->host, DEVFN, PCI_COMMAND, 2, 2);
	put(f, 0, &s, 1);
	ring(f, 0);
	assert_int_equal(reap(f, 0), -1);
	pci_host_config_write(f->host, DEVFN, PCI_COMMAND, 6, 2);
	assert_int_equal(reap(f, 0), NVME_OK);
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(false);
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	struct sqe aer = { .opcode = 0x0c };
	struct sqe s = { .opcode = 2, .nsid = 1, .prp1 = DATA };

	(void)state;
	assert_int_equal(state_covered(&nvme_desc), nvme_desc.size);
	assert_int_equal(state_covered(&nvme_sq_desc), nvme_sq_desc.size);
	assert_int_equal(state_covered(&nvme_cq_desc), nvme_cq_desc.size);
	make_queues(f, 1, 8);
	put(f, 0, &aer, 55);
	ring(f, 0);
	assert_int_equal(io(f, 2, 0, 1, DATA, 0), NVME_OK);
	nvme_pause(f->n);
	/* Told while nothing is fetched: it is seen later. */
	put(f, 1, &s, 66);
	ring(f, 1);
	nvme_save(f->n, &a);
	nvme_reset(f->n);
	assert_int_equal(nvme_load(f->n, &a, &err), 0);
	nvme_save(f->n, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	place(f);
	nvme_resume(f->n);
	fake_block_run(f->disk);
	assert_int_equal(reap(f, 1), NVME_OK);
	assert_int_equal(f->cid, 66);
	wr(f, NVME_DOORBELLS + 0x100, 0);
	assert_int_equal(reap(f, 0), NVME_OK);
	assert_int_equal(f->cid, 55);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identifies),
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(bad_requests_end_with_a_status),
		cmocka_unit_test(flush_zeroes_and_discard),
		cmocka_unit_test(malformed_queues),
		cmocka_unit_test(enabling_what_is_not_possible_is_fatal),
		cmocka_unit_test(a_full_completion_queue_waits),
		cmocka_unit_test(reset_during_io),
		cmocka_unit_test(a_queue_is_deleted_when_its_commands_are_done),
		cmocka_unit_test(shutdown_makes_stable),
		cmocka_unit_test(events_are_bounded_and_told_once),
		cmocka_unit_test(logs_and_features),
		cmocka_unit_test(interrupts),
		cmocka_unit_test(only_a_bus_master_fetches),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
