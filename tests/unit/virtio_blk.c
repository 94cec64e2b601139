/* The virtio block device, over a disk in memory whose requests wait until told. */
#include "virtio_rig.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>

#include "fake_block.c"
#include "virtio/blk.h"

#define DISK   MiB(1)
#define HEADER BUFS
#define DATA   (BUFS + 0x10000)
#define STATUS (BUFS + 0x8000)

struct fixture {
	struct rig r;
	struct fake_block *f;
	struct virtio_blk *d;
	struct drvq q[2];
};

static struct fixture *fixture_new(bool readonly, u64 features)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_blk_setup cfg = { .queues = 2,
					.serial = "a serial number",
					.physical_block = 4096 };

	rig_init(&f->r);
	f->f = fake_block_new(DISK);
	f->f->readonly = readonly;
	cfg.block = fake_block_handle(f->f);
	f->d = virtio_blk_new(f->r.phys, &cfg);
	rig_attach(&f->r, virtio_blk_core(f->d), false);
	rig_negotiate(&f->r, features);
	drvq_init(&f->r, &f->q[0], 0, 64);
	drvq_init(&f->r, &f->q[1], 1, 64);
	rig_start(&f->r);
	return f;
}

static void fixture_free(struct fixture *f)
{
	fake_block_run(f->f);
	rig_detach(&f->r);
	virtio_blk_free(f->d);
	fake_block_free(f->f);
	rig_fini(&f->r);
	free(f);
}

static void header(struct fixture *f, u32 type, u64 sector)
{
	u8 *p = ram(&f->r, HEADER);

	le_store(p, type, 4);
	le_store(p + 4, 0, 4);
	le_store(p + 8, sector, 8);
	*ram(&f->r, STATUS) = 0xee;
}

/* The status byte, 0xff when it is not done; *len is the used length. */
static u8 finish(struct fixture *f, unsigned n, u32 *len)
{
	u16 id;

	rig_kick(&f->r, (u16)n);
	fake_block_run(f->f);
	return drvq_used(&f->r, &f->q[n], &id, len) ? *ram(&f->r, STATUS) : 0xff;
}

static u8 io(struct fixture *f, u32 type, u64 sector, u32 bytes)
{
	const struct seg s[3] = { { HEADER, 16, false },
				  { DATA, bytes, type == VIRTIO_BLK_T_IN },
				  { STATUS, 1, true } };
	u32 len;

	header(f, type, sector);
	drvq_add(&f->r, &f->q[0], s, 3);
	return finish(f, 0, &len);
}

static u8 plain(struct fixture *f, u32 type)
{
	const struct seg s[2] = { { HEADER, 16, false }, { STATUS, 1, true } };
	u32 len;

	header(f, type, 0);
	drvq_add(&f->r, &f->q[0], s, 2);
	return finish(f, 0, &len);
}

static u8 range(struct fixture *f, u32 type, u64 sector, u32 count, u32 flags)
{
	const struct seg s[3] = { { HEADER, 16, false },
				  { DATA, 16, false },
				  { STATUS, 1, true } };
	u8 *p = ram(&f->r, DATA);
	u32 len;

	le_store(p, sector, 8);
	le_store(p + 8, count, 4);
	le_store(p + 12, flags, 4);
	header(f, type, 0);
	drvq_add(&f->r, &f->q[0], s, 3);
	return finish(f, 0, &len);
}

#define ALL_FEATURES (~UINT64_C(0))
#define NO_PACKED                                                                        \
	(ALL_FEATURES & ~BIT(VIRTIO_F_RING_PACKED) & ~BIT(VIRTIO_RING_F_EVENT_IDX))

static void reads_and_writes(void **state)
{
	(void)state;
	for (unsigned packed = 0; packed < 2; packed++) {
		struct fixture *f = fixture_new(false, packed ? ALL_FEATURES : NO_PACKED);

		memset(ram(&f->r, DATA), 0x5a, 4096);
		assert_int_equal(io(f, VIRTIO_BLK_T_OUT, 3, 4096), VIRTIO_BLK_S_OK);
		assert_int_equal(f->f->data[3 * 512 - 1], 0);
		assert_int_equal(f->f->data[3 * 512], 0x5a);
		assert_int_equal(f->f->data[3 * 512 + 4095], 0x5a);
		assert_int_equal(f->f->data[3 * 512 + 4096], 0);
		memset(ram(&f->r, DATA), 0, 4096);
		assert_int_equal(io(f, VIRTIO_BLK_T_IN, 4, 1024), VIRTIO_BLK_S_OK);
		assert_int_equal(*ram(&f->r, DATA + 1023), 0x5a);
		assert_int_equal(*ram(&f->r, DATA + 1024), 0);
		assert_int_equal(f->f->fuas, 0);
		fixture_free(f);
	}
}

/* Header, data and status in pieces and in one. */
static void any_layout(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	struct seg w[5] = { { HEADER, 3, false },
			    { HEADER + 3, 13, false },
			    { DATA, 100, false },
			    { DATA + 100, 412, false },
			    { STATUS, 1, true } };
	struct seg r[2] = { { HEADER, 16, false }, { DATA, 513, true } };
	u32 len;

	(void)state;
	memset(ram(&f->r, DATA), 0x77, 512);
	header(f, VIRTIO_BLK_T_OUT, 1);
	drvq_add(&f->r, &f->q[0], w, 5);
	assert_int_equal(finish(f, 0, &len), VIRTIO_BLK_S_OK);
	assert_int_equal(len, 1);
	assert_int_equal(f->f->data[1023], 0x77);
	memset(ram(&f->r, DATA), 0xee, 513);
	header(f, VIRTIO_BLK_T_IN, 1);
	drvq_add(&f->r, &f->q[0], r, 2);
	finish(f, 0, &len);
	assert_int_equal(len, 513);
	assert_int_equal(*ram(&f->r, DATA + 511), 0x77);
	assert_int_equal(*ram(&f->r, DATA + 512), VIRTIO_BLK_S_OK);
	/* Header and data in one. */
	le_store(ram(&f->r, DATA), VIRTIO_BLK_T_OUT, 8);
	le_store(ram(&f->r, DATA + 8), 2, 8);
	memset(ram(&f->r, DATA + 16), 0x66, 512);
	r[0] = (struct seg){ DATA, 528, false };
	r[1] = (struct seg){ STATUS, 1, true };
	drvq_add(&f->r, &f->q[0], r, 2);
	assert_int_equal(finish(f, 0, &len), VIRTIO_BLK_S_OK);
	assert_int_equal(f->f->data[1024], 0x66);
	fixture_free(f);
}

static void bad_requests_end_with_a_status(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	struct seg s[2] = { { HEADER, 8, false }, { STATUS, 1, true } };
	u32 len;

	(void)state;
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, DISK / 512 - 1, 1024),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(io(f, VIRTIO_BLK_T_OUT, ~UINT64_C(0), 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(io(f, VIRTIO_BLK_T_OUT, UINT64_C(1) << 55, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, 0, 100), VIRTIO_BLK_S_IOERR);
	assert_int_equal(plain(f, VIRTIO_BLK_T_IN), VIRTIO_BLK_S_IOERR);
	assert_int_equal(plain(f, 77), VIRTIO_BLK_S_UNSUPP);
	header(f, VIRTIO_BLK_T_FLUSH, 0);
	drvq_add(&f->r, &f->q[0], s, 2);
	assert_int_equal(finish(f, 0, &len), VIRTIO_BLK_S_IOERR);
	f->f->fail = -EIO;
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_IOERR);
	f->f->fail = 0;
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	fixture_free(f);
}

static void no_room_for_a_status_needs_reset(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	struct seg s = { HEADER, 16, false };

	(void)state;
	header(f, VIRTIO_BLK_T_FLUSH, 0);
	drvq_add(&f->r, &f->q[0], &s, 1);
	rig_kick(&f->r, 0);
	assert_true(rig_status(&f->r) & VIRTIO_NEEDS_RESET);
	assert_int_equal(f->f->count, 0);
	fixture_free(f);
}

static void flush_and_write_through(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	u64 wce = VIRTIO_PCI_DEVICE + offsetof(struct virtio_blk_config, wce);

	(void)state;
	assert_int_equal(plain(f, VIRTIO_BLK_T_FLUSH), VIRTIO_BLK_S_OK);
	assert_int_equal(f->f->flushes, 1);
	assert_int_equal(bar_read(&f->r, wce, 1), 1);
	bar_write(&f->r, wce, 0, 1);
	assert_int_equal(bar_read(&f->r, wce, 1), 0);
	io(f, VIRTIO_BLK_T_OUT, 0, 512);
	assert_int_equal(f->f->fuas, 1);
	bar_write(&f->r, wce, 1, 1);
	io(f, VIRTIO_BLK_T_OUT, 0, 512);
	assert_int_equal(f->f->fuas, 1);
	fixture_free(f);
	/* A driver that cannot flush. */
	f = fixture_new(false, 0);
	io(f, VIRTIO_BLK_T_OUT, 0, 512);
	assert_int_equal(f->f->fuas, 1);
	fixture_free(f);
}

static void discard_and_zeroes(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);

	(void)state;
	memset(f->f->data, 1, DISK);
	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, 8, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(f->f->discards, 1);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 32, 8, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(f->f->zeroes, 1);
	assert_int_equal(f->f->data[32 * 512], 0);
	assert_int_equal(f->f->data[40 * 512], 1);
	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, 8, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 2),
			 VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, DISK / 512, 1, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, ~UINT64_C(0), ~0u, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, ~0u, 0),
			 VIRTIO_BLK_S_IOERR);
	fixture_free(f);
}

static void identification_and_configuration(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	const struct seg s[3] = { { HEADER, 16, false },
				  { DATA, 20, true },
				  { STATUS, 1, true } };
	u32 len;

	(void)state;
	header(f, VIRTIO_BLK_T_GET_ID, 0);
	drvq_add(&f->r, &f->q[1], s, 3);
	assert_int_equal(finish(f, 1, &len), VIRTIO_BLK_S_OK);
	assert_int_equal(len, 21);
	assert_string_equal((char *)ram(&f->r, DATA), "a serial number");
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE, 4), DISK / 512);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 12, 4), 254);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 24, 1), 3);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 34, 2), 2);
	fixture_free(f);
}

static void a_read_only_disk(void **state)
{
	struct fixture *f = fixture_new(true, NO_PACKED);

	(void)state;
	assert_true(rig_offered(&f->r) & BIT(VIRTIO_BLK_F_RO));
	assert_int_equal(io(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(f->f->submitted, 0);
	fixture_free(f);
}

static void what_is_at_hand_is_done_at_once(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	const struct seg s[3] = { { HEADER, 16, false },
				  { DATA, 512, true },
				  { STATUS, 1, true } };
	u16 id;
	u32 len;

	(void)state;
	f->f->can_try = true;
	header(f, VIRTIO_BLK_T_IN, 0);
	drvq_add(&f->r, &f->q[0], s, 3);
	rig_kick(&f->r, 0);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
	assert_int_equal(f->f->submitted, 0);
	fixture_free(f);
}

static void reset_during_io(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	const struct seg s[3] = { { HEADER, 16, false },
				  { DATA, 512, true },
				  { STATUS, 1, true } };

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		header(f, VIRTIO_BLK_T_IN, 0);
		drvq_add(&f->r, &f->q[0], s, 3);
	}
	rig_kick(&f->r, 0);
	assert_int_equal(f->f->count, 10);
	rig_reset_device(&f->r);
	assert_int_not_equal(rig_status(&f->r), 0);
	fake_block_run(f->f);
	assert_int_equal(rig_status(&f->r), 0);
	rig_negotiate(&f->r, NO_PACKED);
	drvq_init(&f->r, &f->q[0], 0, 64);
	rig_start(&f->r);
	assert_int_equal(io(f, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(false, NO_PACKED);
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	(void)state;
	assert_int_equal(state_covered(&virtio_blk_desc), virtio_blk_desc.size);
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 32, 0, 1);
	virtio_pci_save(f->r.p, &a);
	virtio_blk_save(f->d, &a, 1);
	virtio_pci_reset(f->r.p);
	assert_int_equal(virtio_pci_load(f->r.p, &a, &err), 0);
	assert_int_equal(virtio_blk_load(f->d, &a, 1, &err), 0);
	virtio_pci_save(f->r.p, &b);
	virtio_blk_save(f->d, &b, 1);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_int_equal(io(f, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(f->f->fuas, 1);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(any_layout),
		cmocka_unit_test(bad_requests_end_with_a_status),
		cmocka_unit_test(no_room_for_a_status_needs_reset),
		cmocka_unit_test(flush_and_write_through),
		cmocka_unit_test(discard_and_zeroes),
		cmocka_unit_test(identification_and_configuration),
		cmocka_unit_test(a_read_only_disk),
		cmocka_unit_test(what_is_at_hand_is_done_at_once),
		cmocka_unit_test(reset_during_io),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
