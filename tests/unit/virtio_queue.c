/*
 * Virtqueues: chains of both ring formats come back as they went in, and hostile rings
 * are refused.
 */
#include "virtio_rig.h"

#include <stdlib.h>

#include "virtio/queue.h"

/* A queue without a device. */
struct fixture {
	struct rig r;
	struct vq q;
	struct drvq d;
	struct vq_chain *c;
};

static void fixture_init(struct fixture *f, u16 size, bool packed, bool event,
			 bool indirect)
{
	memset(f, 0, sizeof(*f));
	rig_init(&f->r);
	f->c = malloc(sizeof(*f->c));
	vq_init(&f->q, f->r.phys, VQ_SIZE_MAX);
	f->d = (struct drvq){ .size = size,
			      .packed = packed,
			      .indirect = indirect,
			      .desc = 0x100000,
			      .driver = 0x102000,
			      .device = 0x104000,
			      .wrap = 1,
			      .used_wrap = 1 };
	f->q.s.desc = f->d.desc;
	f->q.s.driver = f->d.driver;
	f->q.s.device = f->d.device;
	f->q.s.size = size;
	assert_true(vq_enable(&f->q, packed, event, true));
}

static void fixture_fini(struct fixture *f)
{
	free(f->c);
	rig_fini(&f->r);
}

/* ---- good rings ---- */

static void round_trips(u16 size, bool packed, bool indirect)
{
	struct fixture f;
	const struct seg s[3] = { { BUFS, 16, false },
				  { BUFS + 0x1000, 100, true },
				  { BUFS + 0x2000, 50, true } };

	fixture_init(&f, size, packed, false, indirect);
	for (unsigned i = 0; i < 1000; i++) {
		u16 id = drvq_add(&f.r, &f.d, s, 3), got;
		u32 len;
		u8 buf[150];

		memset(buf, (int)i, sizeof(buf));
		memset(ram(&f.r, BUFS), (int)(i + 1), 16);
		assert_true(vq_ready(&f.q));
		assert_int_equal(vq_pop(&f.q, f.c), 1);
		assert_int_equal(f.c->id, id);
		assert_int_equal(f.c->out, 1);
		assert_int_equal(f.c->in, 2);
		assert_int_equal(f.c->out_len, 16);
		assert_int_equal(f.c->in_len, 150);
		assert_false(vq_ready(&f.q));
		assert_int_equal(vq_write(f.c, 0, buf, 150), 150);
		assert_int_equal(vq_read(f.c, 4, buf, 150), 12);
		assert_int_equal(buf[0], (u8)(i + 1));
		vq_push(&f.q, f.c, 150);
		assert_false(drvq_used(&f.r, &f.d, &got, &len));
		assert_true(vq_publish(&f.q));
		assert_true(drvq_used(&f.r, &f.d, &got, &len));
		assert_int_equal(got, id);
		assert_int_equal(len, 150);
		assert_int_equal(ram(&f.r, BUFS + 0x2031)[0], (u8)i);
		assert_int_equal(f.q.in_use, 0);
	}
	fixture_fini(&f);
}

static void split_round_trips(void **state)
{
	(void)state;
	round_trips(8, false, false);
	round_trips(256, false, false);
	round_trips(4, false, true);
}

static void packed_round_trips(void **state)
{
	(void)state;
	round_trips(8, true, false);
	round_trips(7, true, false); /* any size will do */
	round_trips(3, true, true);
}

/* Several in flight, returned in another order, published together. */
static void out_of_order(bool packed)
{
	struct fixture f;
	struct vq_chain *c = calloc(4, sizeof(*c));
	const struct seg s[2] = { { BUFS, 16, false }, { BUFS + 0x1000, 100, true } };
	u16 id[4], got;
	u32 len;

	fixture_init(&f, 8, packed, false, false);
	for (unsigned round = 0; round < 50; round++) {
		static const unsigned order[4] = { 2, 0, 3, 1 };

		for (unsigned i = 0; i < 4; i++)
			id[i] = drvq_add(&f.r, &f.d, s, 2);
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(vq_pop(&f.q, &c[i]), 1);
		for (unsigned i = 0; i < 4; i++)
			vq_push(&f.q, &c[order[i]], order[i]);
		assert_false(drvq_used(&f.r, &f.d, &got, &len));
		assert_true(vq_publish(&f.q));
		assert_false(vq_publish(&f.q));
		for (unsigned i = 0; i < 4; i++) {
			assert_true(drvq_used(&f.r, &f.d, &got, &len));
			assert_int_equal(got, id[order[i]]);
			assert_int_equal(len, order[i]);
		}
	}
	free(c);
	fixture_fini(&f);
}

static void chains_return_in_any_order(void **state)
{
	(void)state;
	out_of_order(false);
	out_of_order(true);
}

static void unpop_gives_the_chain_again(void **state)
{
	const struct seg s[2] = { { BUFS, 16, false }, { BUFS + 0x1000, 100, true } };

	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture f;

		fixture_init(&f, 4, packed, false, false);
		for (unsigned i = 0; i < 20; i++) {
			u16 id = drvq_add(&f.r, &f.d, s, 2), got;
			u32 len;

			assert_int_equal(vq_pop(&f.q, f.c), 1);
			vq_unpop(&f.q, f.c);
			assert_int_equal(f.q.in_use, 0);
			assert_int_equal(vq_pop(&f.q, f.c), 1);
			assert_int_equal(f.c->id, id);
			vq_push(&f.q, f.c, 0);
			vq_publish(&f.q);
			assert_true(drvq_used(&f.r, &f.d, &got, &len));
		}
		fixture_fini(&f);
	}
}

/* The driver is told only when it asked for that chain. */
static void event_index(void **state)
{
	const struct seg s = { BUFS, 16, true };

	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture f;

		fixture_init(&f, 8, packed, true, false);
		for (unsigned i = 0; i < 100; i++) {
			bool wanted = i % 3 == 0, told;
			u16 id;
			u32 len;

			if (wanted)
				drvq_want_next(&f.r, &f.d);
			drvq_add(&f.r, &f.d, &s, 1);
			assert_int_equal(vq_pop(&f.q, f.c), 1);
			vq_push(&f.q, f.c, 0);
			told = vq_publish(&f.q);
			if (i) /* the first is always told */
				assert_int_equal(told, wanted);
			assert_true(drvq_used(&f.r, &f.d, &id, &len));
		}
		fixture_fini(&f);
	}
}

static void notifications_on_and_off(void **state)
{
	const struct seg s = { BUFS, 16, true };
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, false, false, false);
	vq_notify_off(&f.q);
	assert_int_equal(le_load(ram(&f.r, f.d.device), 2), 1);
	drvq_add(&f.r, &f.d, &s, 1);
	assert_true(vq_notify_on(&f.q));
	assert_int_equal(le_load(ram(&f.r, f.d.device), 2), 0);
	assert_int_equal(vq_pop(&f.q, f.c), 1);
	assert_false(vq_notify_on(&f.q));
	fixture_fini(&f);

	fixture_init(&f, 8, false, true, false);
	drvq_add(&f.r, &f.d, &s, 1);
	assert_int_equal(vq_pop(&f.q, f.c), 1);
	assert_false(vq_notify_on(&f.q));
	assert_int_equal(le_load(ram(&f.r, f.d.device + 4 + 8 * 8), 2), 1);
	fixture_fini(&f);

	fixture_init(&f, 8, true, true, false);
	drvq_add(&f.r, &f.d, &s, 1);
	assert_int_equal(vq_pop(&f.q, f.c), 1);
	assert_false(vq_notify_on(&f.q));
	assert_int_equal(le_load(ram(&f.r, f.d.device), 4), 0x28001);
	vq_notify_off(&f.q);
	assert_int_equal(le_load(ram(&f.r, f.d.device + 2), 2), 1);
	fixture_fini(&f);
}

/* ---- what is written is reported ---- */

static unsigned written_pages;
static u64 written_at[16];

static void written(void *opaque, gpa_t gpa, u64 len)
{
	(void)opaque;
	(void)len;
	if (written_pages < 16)
		written_at[written_pages] = gpa;
	written_pages++;
}

static void dma_is_reported(void **state)
{
	const struct seg s[2] = { { BUFS, 0x1000, true },
				  { BUFS + 0x1000, 0x1000, true } };
	struct code_listener l = { .written = written };
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, false, false, false);
	assert_int_equal(phys_add_code_listener(f.r.phys, &l), 0);
	assert_true(phys_mark_code(f.r.phys, &l, BUFS + 0x1000));
	for (unsigned i = 0; i < 2; i++) {
		written_pages = 0;
		drvq_add(&f.r, &f.d, s, 2);
		assert_int_equal(vq_pop(&f.q, f.c), 1);
		/* Not as far as that page, then into it. */
		vq_push(&f.q, f.c, i ? 0x1001 : 0x1000);
		vq_publish(&f.q);
		assert_int_equal(written_pages, i);
	}
	assert_int_equal(written_at[0], BUFS + 0x1000);
	/* The used ring is memory like any other. */
	assert_true(phys_mark_code(f.r.phys, &l, f.d.device));
	written_pages = 0;
	drvq_add(&f.r, &f.d, s, 2);
	assert_int_equal(vq_pop(&f.q, f.c), 1);
	vq_push(&f.q, f.c, 0);
	vq_publish(&f.q);
	assert_true(written_pages >= 2);
	phys_remove_code_listener(f.r.phys, &l);
	fixture_fini(&f);
}

/* ---- hostile rings ---- */

/* Descriptor 'i' as it stands in memory. */
static void raw_desc(struct fixture *f, unsigned i, u64 addr, u32 len, u16 flags,
		     u16 next)
{
	struct seg s = { addr, len, false };

	put_desc(&f->r, f->d.desc + 16 * i, &s, flags, next);
}

static void make_available(struct fixture *f, u16 head)
{
	le_store(ram(&f->r, f->d.driver + 4), head, 2);
	le_store(ram(&f->r, f->d.driver + 2), 1, 2);
}

static void expect_broken(const char *what, u64 addr, u32 len, u16 flags, u16 next,
			  u16 head)
{
	struct fixture f;

	fixture_init(&f, 8, false, false, false);
	for (unsigned i = 0; i < 8; i++)
		raw_desc(&f, i, addr, len, flags, next);
	make_available(&f, head);
	if (vq_pop(&f.q, f.c) != -1)
		fail_msg("%s was taken", what);
	fixture_fini(&f);
}

static void split_chains_that_are_refused(void **state)
{
	(void)state;
	expect_broken("a loop to itself", BUFS, 16, 1, 0, 0);
	expect_broken("a loop of two", BUFS, 16, 1, 1, 0);
	expect_broken("a next out of the table", BUFS, 16, 1, 8, 0);
	expect_broken("a wild next", BUFS, 16, 1, 0xffff, 0);
	expect_broken("a head out of the table", BUFS, 16, 0, 0, 8);
	expect_broken("a wild head", BUFS, 16, 0, 0, 0xffff);
	expect_broken("an address outside memory", RAM_SIZE, 16, 0, 0, 0);
	expect_broken("an end outside memory", RAM_SIZE - 8, 16, 0, 0, 0);
	expect_broken("an address that wraps", ~UINT64_C(0) - 7, 16, 0, 0, 0);
	expect_broken("4 GiB", BUFS, 0xffffffff, 0, 0, 0);
	expect_broken("nothing", BUFS, 0, 0, 0, 0);
	expect_broken("the device's own registers", 0xd1000000, 16, 2, 0, 0);
	expect_broken("an indirect table of nothing", BUFS, 0, 4, 0, 0);
	expect_broken("an indirect table of odd length", BUFS, 17, 4, 0, 0);
	expect_broken("an indirect table outside memory", RAM_SIZE, 16, 4, 0, 0);
	expect_broken("an indirect table and a next", BUFS, 16, 5, 1, 0);
	/* Its entry is itself an indirect descriptor. */
	expect_broken("a table in a table", 0x100000, 128, 4, 0, 0);
}

static void readable_behind_writable_is_refused(void **state)
{
	const struct seg s[2] = { { BUFS, 16, true }, { BUFS + 0x1000, 100, false } };
	struct fixture f;

	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		fixture_init(&f, 8, packed, false, false);
		drvq_add(&f.r, &f.d, s, 2);
		assert_int_equal(vq_pop(&f.q, f.c), -1);
		fixture_fini(&f);
	}
}

static void an_index_that_runs_away(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, false, false, false);
	raw_desc(&f, 0, BUFS, 16, 0, 0);
	make_available(&f, 0);
	le_store(ram(&f.r, f.d.driver + 2), 9, 2);
	assert_int_equal(vq_pop(&f.q, f.c), -1);
	le_store(ram(&f.r, f.d.driver + 2), 0xffff, 2);
	assert_int_equal(vq_pop(&f.q, f.c), -1);
	fixture_fini(&f);
}

/* The same chain again and again, without looking at what comes back. */
static void no_more_in_flight_than_entries(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, false, false, false);
	raw_desc(&f, 0, BUFS, 16, 0, 0);
	for (unsigned i = 0; i < 8; i++) {
		le_store(ram(&f.r, f.d.driver + 2), i + 1, 2);
		assert_int_equal(vq_pop(&f.q, f.c), 1);
	}
	le_store(ram(&f.r, f.d.driver + 2), 9, 2);
	assert_int_equal(vq_pop(&f.q, f.c), -1);
	fixture_fini(&f);
}

/* All descriptors say "next", all are available: the chain has no end. */
static void a_packed_ring_without_end(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, true, false, false);
	for (unsigned i = 0; i < 8; i++)
		raw_desc(&f, i, BUFS, 16, 0, 0x81);
	assert_int_equal(vq_pop(&f.q, f.c), -1);
	fixture_fini(&f);
}

static void sizes_sum_up_to_no_more_than_4_gib(void **state)
{
	struct fixture f;
	struct seg s[256];

	(void)state;
	fixture_init(&f, 256, false, false, true);
	for (unsigned i = 0; i < 256; i++)
		s[i] = (struct seg){ 0, RAM_SIZE, false };
	s[255].len -= 1;
	f.d.desc = 0x100000;
	drvq_add(&f.r, &f.d, s, 256);
	assert_int_equal(vq_pop(&f.q, f.c), 1);
	assert_int_equal(f.c->out_len, UINT32_MAX);
	vq_push(&f.q, f.c, 0);
	vq_publish(&f.q);
	s[255].len += 1;
	drvq_add(&f.r, &f.d, s, 256);
	assert_int_equal(vq_pop(&f.q, f.c), -1);
	fixture_fini(&f);
}

static void areas_outside_memory(void **state)
{
	struct fixture f;

	(void)state;
	fixture_init(&f, 8, false, true, false);
	for (unsigned packed = 0; packed < 2; packed++) {
		f.q.s.desc = RAM_SIZE - 127;
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.desc = RAM_SIZE - 112;
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.desc = ~UINT64_C(15);
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.desc = f.d.desc;
		f.q.s.device = RAM_SIZE - (packed ? 0 : 4);
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.device = f.d.device;
		f.q.s.driver = RAM_SIZE;
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.driver = f.d.driver;
		f.q.s.size = 0;
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.size = 257;
		assert_false(vq_enable(&f.q, packed, true, true));
		f.q.s.size = 7;
		assert_int_equal(vq_enable(&f.q, packed, true, true), packed);
		f.q.s.size = 8;
	}
	fixture_fini(&f);
}

static void the_state_is_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&vq_desc), vq_desc.size);
	assert_int_equal(state_covered(&virtio_desc), virtio_desc.size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split_round_trips),
		cmocka_unit_test(packed_round_trips),
		cmocka_unit_test(chains_return_in_any_order),
		cmocka_unit_test(unpop_gives_the_chain_again),
		cmocka_unit_test(event_index),
		cmocka_unit_test(notifications_on_and_off),
		cmocka_unit_test(dma_is_reported),
		cmocka_unit_test(split_chains_that_are_refused),
		cmocka_unit_test(readable_behind_writable_is_refused),
		cmocka_unit_test(an_index_that_runs_away),
		cmocka_unit_test(no_more_in_flight_than_entries),
		cmocka_unit_test(a_packed_ring_without_end),
		cmocka_unit_test(sizes_sum_up_to_no_more_than_4_gib),
		cmocka_unit_test(areas_outside_memory),
		cmocka_unit_test(the_state_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
