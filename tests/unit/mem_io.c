/* Dispatch of port and memory-mapped I/O to chips. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bits.h"
#include "mem/io.h"

/* A chip of 16 bytes that notes each access. */
struct chip {
	u8 reg[16];
	unsigned n;
	u64 off[16];
	unsigned size[16];
};

static void note(struct chip *c, u64 off, unsigned size)
{
	assert_true(off + size <= sizeof(c->reg));
	assert_int_equal(off % size, 0);
	if (c->n < ARRAY_SIZE(c->off)) {
		c->off[c->n] = off;
		c->size[c->n] = size;
	}
	c->n++;
}

static u64 chip_read(void *dev, u64 off, unsigned size)
{
	struct chip *c = dev;

	note(c, off, size);
	/* Garbage above the size must not get through. */
	return le_load(c->reg + off, size) | (size < 8 ? ~size_mask(size) : 0);
}

static void chip_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct chip *c = dev;

	note(c, off, size);
	assert_int_equal(val & ~size_mask(size), 0);
	le_store(c->reg + off, val, size);
}

static const struct io_ops ops1 = { chip_read, chip_write, IO_1 };
static const struct io_ops ops12 = { chip_read, chip_write, IO_1 | IO_2 };
static const struct io_ops ops4 = { chip_read, chip_write, IO_4 };
static const struct io_ops ops48 = { chip_read, chip_write, IO_4 | IO_8 };

static void chip_init(struct chip *c)
{
	*c = (struct chip){ 0 };
	for (unsigned i = 0; i < sizeof(c->reg); i++)
		c->reg[i] = (u8)(0x10 + i);
}

static void io_access_that_fits_is_passed_whole(void **state)
{
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_read(&ops4, &c, 4, 4), 0x17161514);
	assert_int_equal(c.n, 1);
	assert_int_equal(c.size[0], 4);
}

static void io_large_access_is_split_into_the_largest_size(void **state)
{
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_read(&ops12, &c, 8, 4), 0x1b1a1918);
	assert_int_equal(c.n, 2);
	assert_int_equal(c.size[0], 2);
	assert_int_equal(c.off[1], 10);
	c.n = 0;
	io_write(&ops48, &c, 8, UINT64_C(0x8877665544332211), 8);
	assert_int_equal(c.n, 1);
	c.n = 0;
	io_write(&ops1, &c, 4, 0xa4a3a2a1, 4);
	assert_int_equal(c.n, 4);
	assert_int_equal(c.reg[4], 0xa1);
	assert_int_equal(c.reg[7], 0xa4);
}

static void io_access_below_the_smallest_size_is_refused(void **state)
{
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_read(&ops4, &c, 0, 2), 0xffff);
	io_write(&ops4, &c, 0, 0, 1);
	assert_int_equal(c.n, 0);
	assert_int_equal(c.reg[0], 0x10);
}

static void io_unaligned_access_is_cut_into_aligned_ones(void **state)
{
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_read(&ops12, &c, 1, 2), 0x1211);
	assert_int_equal(c.n, 2);
	c.n = 0;
	assert_int_equal(io_read(&ops12, &c, 2, 4), 0x15141312);
	assert_int_equal(c.n, 2);
	c.n = 0;
	assert_int_equal(io_read(&ops4, &c, 2, 4), 0xffffffff);
	assert_int_equal(c.n, 0);
}

static void ports_without_chip_read_all_ones(void **state)
{
	struct io_ports *p = io_ports_new();

	(void)state;
	assert_int_equal(io_ports_read(p, 0x80, 1), 0xff);
	assert_int_equal(io_ports_read(p, 0x80, 2), 0xffff);
	assert_int_equal(io_ports_read(p, 0xffff, 4), 0xffffffff);
	io_ports_write(p, 0xffff, 1, 4);
	io_ports_free(p);
}

static void ports_window_is_given_offsets(void **state)
{
	struct io_ports *p = io_ports_new();
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_ports_add(p, 0x3f8, 16, "chip", &ops12, &c, NULL), 0);
	assert_int_equal(io_ports_read(p, 0x3fb, 1), 0x13);
	assert_int_equal(c.off[0], 3);
	io_ports_write(p, 0x3fc, 0xbeef, 2);
	assert_int_equal(c.reg[4], 0xef);
	assert_int_equal(c.reg[5], 0xbe);
	io_ports_free(p);
}

static void ports_overlap_names_the_owner(void **state)
{
	struct io_ports *p = io_ports_new();
	const char *owner = NULL;
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_ports_add(p, 0x60, 4, "first", &ops1, &c, &owner), 0);
	assert_null(owner);
	assert_int_equal(io_ports_add(p, 0x5e, 3, "second", &ops1, &c, &owner), -EBUSY);
	assert_string_equal(owner, "first");
	assert_int_equal(io_ports_add(p, 0x64, 4, "third", &ops1, &c, &owner), 0);
	assert_int_equal(io_ports_add(p, 0xfff8, 16, "end", &ops1, &c, &owner), -EINVAL);
	assert_int_equal(io_ports_add(p, 0x70, 0, "none", &ops1, &c, &owner), -EINVAL);
	io_ports_free(p);
}

static void ports_access_across_windows_reaches_both(void **state)
{
	struct io_ports *p = io_ports_new();
	struct chip a, b;

	(void)state;
	chip_init(&a);
	chip_init(&b);
	assert_int_equal(io_ports_add(p, 0x100, 2, "a", &ops12, &a, NULL), 0);
	assert_int_equal(io_ports_add(p, 0x103, 1, "b", &ops12, &b, NULL), 0);
	/* Two bytes of a, a hole, one byte of b. */
	assert_int_equal(io_ports_read(p, 0x100, 4), 0x10ff1110);
	assert_int_equal(a.n, 1);
	assert_int_equal(b.n, 1);
	io_ports_write(p, 0x101, 0x44332211, 4);
	assert_int_equal(a.reg[1], 0x11);
	assert_int_equal(b.reg[0], 0x33);
	io_ports_free(p);
}

static void ports_access_past_ffff_does_not_wrap(void **state)
{
	struct io_ports *p = io_ports_new();
	struct chip low, high;

	(void)state;
	chip_init(&low);
	chip_init(&high);
	assert_int_equal(io_ports_add(p, 0, 4, "low", &ops1, &low, NULL), 0);
	assert_int_equal(io_ports_add(p, 0xfffe, 2, "high", &ops1, &high, NULL), 0);
	assert_int_equal(io_ports_read(p, 0xfffe, 4), 0xffff1110);
	io_ports_write(p, 0xffff, 0, 4);
	assert_int_equal(low.n, 0);
	io_ports_free(p);
}

static void ports_removed_window_is_free_again(void **state)
{
	struct io_ports *p = io_ports_new();
	struct chip c;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_ports_add(p, 0x200, 16, "c", &ops1, &c, NULL), 0);
	io_ports_remove(p, 0x200, 8); /* not what was placed */
	assert_int_equal(io_ports_read(p, 0x200, 1), 0x10);
	io_ports_remove(p, 0x200, 16);
	assert_int_equal(io_ports_read(p, 0x200, 1), 0xff);
	/* Coming and going does not use anything up. */
	for (unsigned i = 0; i < 100000; i++) {
		u16 base = (u16)(0x1000 + 16 * (i % 2048));

		assert_int_equal(io_ports_add(p, base, 16, "c", &ops1, &c, NULL), 0);
		io_ports_remove(p, base, 16);
	}
	io_ports_free(p);
}

static void ports_refuse_more_windows_than_there_is_room_for(void **state)
{
	struct io_ports *p = io_ports_new();
	struct chip c;
	int ret = 0;

	(void)state;
	chip_init(&c);
	for (u32 port = 0; port < 0x10000 && !ret; port++)
		ret = io_ports_add(p, (u16)port, 1, "c", &ops1, &c, NULL);
	assert_int_equal(ret, -ENOSPC);
	io_ports_free(p);
}

struct mover {
	struct io_ports *p;
	struct chip *chip;
	bool stop;
};

static void *move_window(void *arg)
{
	struct mover *m = arg;

	for (unsigned i = 0; !__atomic_load_n(&m->stop, __ATOMIC_RELAXED); i++) {
		u16 base = i & 1 ? 0x400 : 0x408;

		assert_int_equal(io_ports_add(m->p, base, 8, "c", &ops1, m->chip, NULL),
				 0);
		io_ports_remove(m->p, base, 8);
	}
	return NULL;
}

static u64 quiet_read(void *dev, u64 off, unsigned size)
{
	(void)size;
	return ((const u8 *)dev)[off];
}

static void quiet_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)dev;
	(void)off;
	(void)val;
	(void)size;
}

static void ports_read_while_a_window_moves_sees_it_or_nothing(void **state)
{
	static const struct io_ops quiet = { quiet_read, quiet_write, IO_1 };
	static const u8 seven[8] = { 7, 7, 7, 7, 7, 7, 7, 7 };
	struct io_ports *p = io_ports_new();
	struct chip c;
	struct mover m = { .p = p, .chip = &c };
	pthread_t t;

	(void)state;
	chip_init(&c);
	assert_int_equal(io_ports_add(p, 0x410, 8, "steady", &quiet,
				      (void *)(uintptr_t)seven, NULL),
			 0);
	assert_int_equal(pthread_create(&t, NULL, move_window, &m), 0);
	for (unsigned i = 0; i < 20000; i++)
		assert_int_equal(io_ports_read(p, 0x410 + i % 8, 1), 7);
	__atomic_store_n(&m.stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	io_ports_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(io_access_that_fits_is_passed_whole),
		cmocka_unit_test(io_large_access_is_split_into_the_largest_size),
		cmocka_unit_test(io_access_below_the_smallest_size_is_refused),
		cmocka_unit_test(io_unaligned_access_is_cut_into_aligned_ones),
		cmocka_unit_test(ports_without_chip_read_all_ones),
		cmocka_unit_test(ports_window_is_given_offsets),
		cmocka_unit_test(ports_overlap_names_the_owner),
		cmocka_unit_test(ports_access_across_windows_reaches_both),
		cmocka_unit_test(ports_access_past_ffff_does_not_wrap),
		cmocka_unit_test(ports_removed_window_is_free_again),
		cmocka_unit_test(ports_refuse_more_windows_than_there_is_room_for),
		cmocka_unit_test(ports_read_while_a_window_moves_sees_it_or_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
