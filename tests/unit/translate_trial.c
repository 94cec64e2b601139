/*
 * Trial runs (x86/trial.h): nothing of them stays, and what they say of memory is true.
 */
#include "x86_box.h"

#include "x86/trial.h"

#define DATA 0x60000u

struct trial_box {
	struct box *b;
	struct vcpu *s; /* the stand-in of b->v */
	struct trial *t;
	struct vcpu_stats stats;
};

static int open_trial(void **state)
{
	struct trial_box *x = calloc(1, sizeof(*x));

	x->b = box_new();
	box_long(x->b, 0);
	box_map_small(x->b);
	x->t = calloc(1, sizeof(*x->t));
	x->t->real = x->b->v;
	x->s = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
	memcpy(x->s, x->b->v, sizeof(*x->s));
	x->s->stats = &x->stats;
	tlb_flush_all(x->s);
	x->s->trial = x->t;
	trial_begin(x->t, 0x5000, 16);
	*state = x;
	return 0;
}

static int close_trial(void **state)
{
	struct trial_box *x = *state;

	free(x->s);
	free(x->t);
	box_free(x->b);
	free(x);
	return 0;
}

static u64 pte(struct trial_box *x, gva_t lin)
{
	return peek(x->b, PT + (lin >> 12) * 8, 8);
}

static void trial_writes_are_seen_and_taken_back(void **state)
{
	struct trial_box *x = *state;
	u64 val;

	poke(x->b, DATA, 0x1111, 8);
	assert_true(mem_write(x->s, DS, DATA, 8, 0x2222));
	assert_true(mem_write(x->s, DS, DATA + 4, 8, 0x3333));
	assert_true(mem_read(x->s, DS, DATA, 8, &val));
	assert_int_equal(val, 0x333300002222);
	trial_undo(x->t);
	assert_int_equal(peek(x->b, DATA, 8), 0x1111);
	assert_int_equal(peek(x->b, DATA + 8, 8), 0);
	assert_non_null(trial_differs(x->t));
	assert_false(x->t->impure);
	/* The real run does the same. */
	assert_true(mem_write(x->b->v, DS, DATA, 8, 0x2222));
	assert_true(mem_write(x->b->v, DS, DATA + 4, 8, 0x3333));
	assert_null(trial_differs(x->t));
}

static void trial_read_modify_write_across_pages(void **state)
{
	struct trial_box *x = *state;
	struct rmw m;

	poke(x->b, DATA + 0xffc, 0x0123456789abcdef, 8);
	assert_true(rmw_begin(x->s, DS, DATA + 0xffc, 8, &m));
	le_store(m.p, 7, 8);
	rmw_end(x->s, &m);
	assert_int_equal(peek(x->b, DATA + 0xffc, 4), 7);
	assert_int_equal(peek(x->b, DATA + 0x1000, 4), 0);
	trial_undo(x->t);
	assert_int_equal(peek(x->b, DATA + 0xffc, 4), 0x89abcdef);
	assert_int_equal(peek(x->b, DATA + 0x1000, 4), 0x01234567);
	assert_false(x->t->impure);
}

static void trial_walks_leave_no_accessed_bits(void **state)
{
	struct trial_box *x = *state;

	poke(x->b, PT + (DATA >> 12) * 8, DATA | 7, 8);
	assert_true(mem_write(x->s, DS, DATA, 4, 1));
	assert_int_equal(pte(x, DATA) & 0x60, 0x60);
	trial_undo(x->t);
	assert_int_equal(pte(x, DATA) & 0x60, 0);
	/* They are not what is compared. */
	assert_true(mem_write(x->b->v, DS, DATA, 4, 1));
	poke(x->b, PT + (DATA >> 12) * 8, DATA | 7, 8);
	assert_null(trial_differs(x->t));
}

static void trial_sees_stale_translations_as_the_real_one(void **state)
{
	struct trial_box *x = *state;
	u64 val;

	poke(x->b, DATA, 0xaaaa, 8);
	poke(x->b, DATA + 0x1000, 0xbbbb, 8);
	assert_true(mem_read(x->b->v, DS, DATA, 8, &val));
	/* Remapped, not flushed: a TLB may know either; both must know the same. */
	poke(x->b, PT + (DATA >> 12) * 8, (DATA + 0x1000) | 0x67, 8);
	assert_true(mem_read(x->s, DS, DATA, 8, &val));
	assert_int_equal(val, 0xaaaa);
	/* It flushes: that counts for the rest of its run. */
	tlb_flush_page(x->s, DATA);
	assert_true(mem_read(x->s, DS, DATA, 8, &val));
	assert_int_equal(val, 0xbbbb);
	assert_true(mem_read(x->b->v, DS, DATA, 8, &val));
	assert_int_equal(val, 0xaaaa);
}

static u64 touched;

static u64 dev_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	(void)off;
	(void)size;
	return touched++;
}

static void dev_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)val;
	(void)dev_read(dev, off, size);
}

static const struct io_ops dev_ops = { dev_read, dev_write, IO_1 | IO_2 | IO_4 | IO_8 };

static void trial_does_not_touch_devices(void **state)
{
	struct trial_box *x = *state;
	struct error err = { "" };
	u64 val;

	assert_int_equal(
		phys_add_mmio(x->b->phys, "dev", MiB(16), 0x1000, &dev_ops, NULL, &err),
		0);
	touched = 0;
	mem_read(x->s, DS, MiB(16), 4, &val);
	assert_true(x->t->impure);
	trial_begin(x->t, 0x5000, 16);
	assert_false(x->t->impure);
	mem_write(x->s, DS, MiB(16) - 4, 8, 5);
	assert_true(x->t->impure);
	assert_int_equal(touched, 0);
}

static void trial_tells_that_somebody_else_wrote(void **state)
{
	struct trial_box *x = *state;
	u64 val;

	assert_true(mem_read(x->s, DS, DATA, 8, &val));
	assert_true(mem_write(x->s, DS, DATA + 16, 8, 5));
	assert_true(mem_read(x->s, DS, DATA + 16, 8, &val));
	trial_undo(x->t);
	assert_false(trial_raced(x->t));
	poke(x->b, DATA + 16, 9, 8);
	assert_false(trial_raced(x->t));
	poke(x->b, DATA, 1, 1);
	assert_true(trial_raced(x->t));
}

static void trial_notices_writes_to_its_own_code(void **state)
{
	struct trial_box *x = *state;

	assert_true(mem_write(x->s, DS, 0x5010, 8, 1));
	assert_false(x->t->code_written);
	assert_true(mem_write(x->s, DS, 0x5008, 8, 1));
	assert_true(x->t->code_written);
}

int main(void)
{
#define TRIAL(f) cmocka_unit_test_setup_teardown(f, open_trial, close_trial)
	const struct CMUnitTest tests[] = {
		TRIAL(trial_writes_are_seen_and_taken_back),
		TRIAL(trial_read_modify_write_across_pages),
		TRIAL(trial_walks_leave_no_accessed_bits),
		TRIAL(trial_sees_stale_translations_as_the_real_one),
		TRIAL(trial_does_not_touch_devices),
		TRIAL(trial_tells_that_somebody_else_wrote),
		TRIAL(trial_notices_writes_to_its_own_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
