/* The virtio balloon and entropy devices. */
#include "virtio_rig.h"

#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "host/loop.h"
#include "virtio/balloon.h"
#include "virtio/rng.h"

#define SPLIT (~UINT64_C(0) & ~BIT(VIRTIO_F_RING_PACKED) & ~BIT(VIRTIO_RING_F_EVENT_IDX))
#define LIST  BUFS
#define PAGES 0x900000u

struct fixture {
	struct rig r;
	struct loop *loop;
	struct virtio_balloon *d;
	struct drvq q[4];
};

static void stop(void *opaque)
{
	loop_stop(opaque, 0);
}

static void run_loop(struct loop *l)
{
	struct loop_work w = { .run = stop, .opaque = l };

	loop_post(l, &w);
	loop_run(l);
}

static struct fixture *fixture_new(u64 features)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_balloon_setup cfg = { .reporting = true, .target = 16 * PAGE_SIZE };

	rig_init(&f->r);
	f->loop = loop_new(NULL);
	f->d = virtio_balloon_new(f->r.phys, f->loop, &cfg);
	rig_attach(&f->r, virtio_balloon_core(f->d), false);
	rig_negotiate(&f->r, features);
	for (u16 i = 0; i < 4; i++)
		drvq_init(&f->r, &f->q[i], i, 16);
	rig_start(&f->r);
	return f;
}

static void fixture_free(struct fixture *f)
{
	rig_detach(&f->r);
	virtio_balloon_free(f->d);
	loop_free(f->loop);
	rig_fini(&f->r);
	free(f);
}

/* Does the host have memory for the page? */
static bool resident(struct fixture *f, u64 gpa)
{
	unsigned char vec = 0;

	assert_int_equal(mincore(ram(&f->r, gpa), PAGE_SIZE, &vec), 0);
	return vec & 1;
}

static void fill_pages(struct fixture *f)
{
	memset(ram(&f->r, PAGES), 0x55, 16 * PAGE_SIZE);
}

static void inflate(struct fixture *f, const u32 *pfn, unsigned n)
{
	struct seg s = { LIST, 4 * n, false };
	u16 id;
	u32 len;

	memcpy(ram(&f->r, LIST), pfn, 4 * n);
	drvq_add(&f->r, &f->q[0], &s, 1);
	rig_kick(&f->r, 0);
	run_loop(f->loop);
	assert_true(drvq_used(&f->r, &f->q[0], &id, &len));
}

static void pages_go_back_to_the_host(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	const u32 base = PAGES >> 12;
	/* Upwards, downwards, alone, twice, and what is no memory. */
	const u32 pfn[] = { base,       base + 1,       base + 2,  base + 9,
			    base + 8,   base + 7,       base + 12, base + 12,
			    0xffffffff, RAM_SIZE >> 12, 0xfee00,   base + 14 };
	struct virtio_balloon_stats st;

	(void)state;
	fill_pages(f);
	inflate(f, pfn, ARRAY_SIZE(pfn));
	for (unsigned i = 0; i < 16; i++) {
		bool gone = i <= 2 || (i >= 7 && i <= 9) || i == 12 || i == 14;

		assert_int_equal(resident(f, PAGES + i * PAGE_SIZE), !gone);
		assert_int_equal(*ram(&f->r, PAGES + i * PAGE_SIZE), gone ? 0 : 0x55);
	}
	virtio_balloon_get_stats(f->d, &st);
	assert_int_equal(st.freed, 9 * PAGE_SIZE); /* one was twice */
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE, 4), 16);
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 4, 8, 4);
	virtio_balloon_get_stats(f->d, &st);
	assert_int_equal(st.actual, 8 * PAGE_SIZE);
	virtio_balloon_set_target(f->d, MiB(1));
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE, 4), 256);
	fixture_free(f);
}

/* Reported pages are whole ones, whatever is reported; with statistics and without. */
static void free_pages_are_reported(void **state)
{
	(void)state;
	for (unsigned stats = 0; stats < 2; stats++) {
		struct fixture *f = fixture_new(
			SPLIT & ~(stats ? 0 : BIT(VIRTIO_BALLOON_F_STATS_VQ)));
		struct seg s[2] = { { PAGES + 100, 3 * PAGE_SIZE, true },
				    { PAGES + 8 * PAGE_SIZE, 2 * PAGE_SIZE, true } };
		u16 id;
		u32 len;
		unsigned n = stats ? 3 : 2;

		fill_pages(f);
		drvq_add(&f->r, &f->q[n], s, 2);
		rig_kick(&f->r, (u16)n);
		run_loop(f->loop);
		assert_true(drvq_used(&f->r, &f->q[n], &id, &len));
		assert_int_equal(*ram(&f->r, PAGES), 0x55);
		assert_int_equal(*ram(&f->r, PAGES + 3 * PAGE_SIZE), 0x55);
		for (unsigned i = 0; i < 16; i++)
			assert_int_equal(resident(f, PAGES + i * PAGE_SIZE),
					 !(i == 1 || i == 2 || i == 8 || i == 9));
		fixture_free(f);
	}
}

static unsigned noted;

static void written(void *opaque, gpa_t gpa, u64 len)
{
	(void)opaque;
	(void)gpa;
	(void)len;
	noted++;
}

static void code_in_them_is_forgotten(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct code_listener l = { .written = written };
	const u32 pfn[] = { PAGES >> 12 };

	(void)state;
	fill_pages(f);
	assert_int_equal(phys_add_code_listener(f->r.phys, &l), 0);
	assert_true(phys_mark_code(f->r.phys, &l, PAGES));
	noted = 0;
	inflate(f, pfn, 1);
	assert_int_equal(noted, 1);
	phys_remove_code_listener(f->r.phys, &l);
	fixture_free(f);
}

static void statistics_are_asked_for(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct seg s = { LIST, 30, false };
	struct virtio_balloon_stats st;
	u16 id;
	u32 len;

	(void)state;
	assert_false(virtio_balloon_poll_stats(f->d));
	for (unsigned round = 1; round < 20; round++) {
		u8 *p = ram(&f->r, LIST);

		le_store(p, VIRTIO_BALLOON_S_MEMFREE, 2);
		le_store(p + 2, round * 1000, 8);
		le_store(p + 10, 999, 2); /* not known */
		le_store(p + 20, VIRTIO_BALLOON_S_MEMTOT, 2);
		le_store(p + 22, 5000, 8);
		drvq_add(&f->r, &f->q[2], &s, 1);
		rig_kick(&f->r, 2);
		virtio_balloon_get_stats(f->d, &st);
		assert_int_equal(st.updates, round);
		assert_int_equal(st.val[VIRTIO_BALLOON_S_MEMFREE], round * 1000);
		assert_int_equal(st.val[VIRTIO_BALLOON_S_MEMTOT], 5000);
		assert_true(st.val[VIRTIO_BALLOON_S_CACHES] == UINT64_MAX);
		assert_false(drvq_used(&f->r, &f->q[2], &id, &len));
		assert_true(virtio_balloon_poll_stats(f->d));
		assert_false(virtio_balloon_poll_stats(f->d));
		assert_true(drvq_used(&f->r, &f->q[2], &id, &len));
	}
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct state_buf a = { 0 }, b = { 0 };

	(void)state;
	assert_int_equal(state_covered(&virtio_balloon_desc), virtio_balloon_desc.size);
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 4, 8, 4);
	virtio_pci_save(f->r.p, &a);
	virtio_balloon_save(f->d, &a, 1);
	virtio_pci_reset(f->r.p);
	assert_int_equal(virtio_pci_load(f->r.p, &a, NULL), 0);
	assert_int_equal(virtio_balloon_load(f->d, &a, 1, NULL), 0);
	virtio_pci_save(f->r.p, &b);
	virtio_balloon_save(f->d, &b, 1);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

static void random_bytes(void **state)
{
	struct rig r;
	struct loop *loop = loop_new(NULL);
	struct virtio_rng *d;
	struct drvq q;
	struct seg s = { BUFS, 0x100000, true };
	u16 id;
	u32 len;
	unsigned different = 0;

	(void)state;
	rig_init(&r);
	d = virtio_rng_new(r.phys, loop);
	rig_attach(&r, virtio_rng_core(d), false);
	rig_negotiate(&r, SPLIT);
	drvq_init(&r, &q, 0, 8);
	rig_start(&r);
	for (unsigned i = 0; i < 8; i++)
		drvq_add(&r, &q, &s, 1);
	rig_kick(&r, 0);
	for (unsigned i = 0; i < 8; i++) {
		assert_true(drvq_used(&r, &q, &id, &len));
		/* Not all that was asked for at once. */
		assert_int_equal(len, 4096);
	}
	for (unsigned i = 1; i < 4096; i++)
		different += *ram(&r, BUFS + i) != *ram(&r, BUFS + i - 1);
	assert_true(different > 3000);
	assert_int_equal(*ram(&r, BUFS + 4096), 0);
	rig_detach(&r);
	virtio_rng_free(d);
	loop_free(loop);
	rig_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_go_back_to_the_host),
		cmocka_unit_test(free_pages_are_reported),
		cmocka_unit_test(code_in_them_is_forgotten),
		cmocka_unit_test(statistics_are_asked_for),
		cmocka_unit_test(state_comes_back),
		cmocka_unit_test(random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
