/* The test device's latch, lines and memory; the debug exit port. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/bits.h"
#include "dev/debugexit.h"
#include "dev/testdev.h"
#include "mem/phys.h"
#include "state/save.h"

struct rig {
	struct phys *phys;
	struct testdev *t;
	u32 levels;
	u64 written; /* page of code that was told to be */
};

static void line_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	r->levels = level ? r->levels | 1u << pin : r->levels & ~(1u << pin);
}

static void code_written(void *opaque, gpa_t gpa, u64 len)
{
	struct rig *r = opaque;

	(void)len;
	r->written = gpa;
}

static void rig_init(struct rig *r)
{
	struct irq_line gsi[TESTDEV_LINES];
	struct error err = { 0 };

	*r = (struct rig){ .phys = phys_new() };
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, 0x10000, &err), 0);
	for (unsigned i = 0; i < TESTDEV_LINES; i++)
		gsi[i] = (struct irq_line){ line_set, r, i };
	r->t = testdev_new(r->phys, gsi);
}

static void rig_fini(struct rig *r)
{
	testdev_free(r->t);
	phys_free(r->phys);
}

static void latch_keeps_each_byte(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	io_write(&testdev_latch_ops, r.t, 0, 0x11223344, 4);
	io_write(&testdev_latch_ops, r.t, 1, 0x99, 1);
	io_write(&testdev_latch_ops, r.t, 2, 0xaabb, 2);
	assert_int_equal(io_read(&testdev_latch_ops, r.t, 0, 4), 0xaabb9944);
	assert_int_equal(io_read(&testdev_latch_ops, r.t, 1, 1), 0x99);
	/* The same latch by bytes. */
	assert_int_equal(io_read(&testdev_bytes_ops, r.t, 0, 4), 0xaabb9944);
	io_write(&testdev_bytes_ops, r.t, 0, 0x5566, 2);
	assert_int_equal(io_read(&testdev_latch_ops, r.t, 0, 4), 0xaabb5566);
	rig_fini(&r);
}

static void lines_follow_their_ports(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	io_write(&testdev_line_ops, r.t, 5, 1, 1);
	io_write(&testdev_line_ops, r.t, 23, 0x80, 1);
	assert_int_equal(r.levels, 1 << 5 | 1 << 23);
	assert_int_equal(io_read(&testdev_line_ops, r.t, 5, 1), 1);
	io_write(&testdev_line_ops, r.t, 5, 0, 1);
	assert_int_equal(r.levels, 1 << 23);
	/* A wider access is one for each port. */
	io_write(&testdev_line_ops, r.t, 0, 0x01000100, 4);
	assert_int_equal(r.levels, 1 << 23 | 1 << 3 | 1 << 1);
	testdev_reset(r.t);
	assert_int_equal(r.levels, 0);
	rig_fini(&r);
}

static void flush_reaches_those_who_hold_code(void **state)
{
	struct code_listener l = { .written = code_written };
	struct rig r;

	(void)state;
	rig_init(&r);
	l.opaque = &r;
	phys_add_code_listener(r.phys, &l);
	assert_true(phys_mark_code(r.phys, 0x3000));
	io_write(&testdev_flush_ops, r.t, 0, 0x3456, 4);
	assert_int_equal(r.written, 0x3000);
	/* Where nothing is, and accesses it does not have. */
	io_write(&testdev_flush_ops, r.t, 0, 0xfffffffe, 4);
	io_write(&testdev_flush_ops, r.t, 0, 0x30, 1);
	assert_int_equal(io_read(&testdev_flush_ops, r.t, 0, 4), 0xffffffff);
	phys_remove_code_listener(r.phys, &l);
	rig_fini(&r);
}

static void memory_keeps_what_is_written(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	io_write(&testdev_mmio_ops, r.t, 0, 0x1122334455667788, 8);
	io_write(&testdev_mmio_ops, r.t, 2, 0xaa, 1);
	io_write(&testdev_mmio_ops, r.t, TESTDEV_MMIO_SIZE - 4, 0x12345678, 4);
	assert_int_equal(io_read(&testdev_mmio_ops, r.t, 0, 8), 0x1122334455aa7788);
	assert_int_equal(io_read(&testdev_mmio_ops, r.t, TESTDEV_MMIO_SIZE - 4, 4),
			 0x12345678);
	rig_fini(&r);
}

static void state_comes_back(void **state)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	struct rig r;

	(void)state;
	assert_int_equal(state_covered(&testdev_desc), testdev_desc.size);
	rig_init(&r);
	io_write(&testdev_latch_ops, r.t, 0, 0x1234, 4);
	io_write(&testdev_line_ops, r.t, 7, 1, 1);
	io_write(&testdev_mmio_ops, r.t, 100, 5, 1);
	testdev_save(r.t, &a);
	testdev_reset(r.t);
	assert_int_equal(testdev_load(r.t, &a, &err), 0);
	assert_int_equal(r.levels, 1 << 7);
	assert_int_equal(io_read(&testdev_latch_ops, r.t, 0, 4), 0x1234);
	testdev_save(r.t, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_fini(&a);
	state_buf_fini(&b);
	rig_fini(&r);
}

static void took(void *opaque, u32 val)
{
	u32 *last = opaque;

	*last = val;
}

static void debug_exit_tells_the_value(void **state)
{
	u32 last = 99;
	struct debugexit *d = debugexit_new(took, &last);

	(void)state;
	assert_int_equal(io_read(&debugexit_ops, d, 0, 4), 0);
	assert_int_equal(last, 99);
	io_write(&debugexit_ops, d, 0, 0x11223344, 4);
	assert_int_equal(last, 0x11223344);
	io_write(&debugexit_ops, d, 3, 7, 1);
	assert_int_equal(last, 7);
	debugexit_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(latch_keeps_each_byte),
		cmocka_unit_test(lines_follow_their_ports),
		cmocka_unit_test(flush_reaches_those_who_hold_code),
		cmocka_unit_test(memory_keeps_what_is_written),
		cmocka_unit_test(state_comes_back),
		cmocka_unit_test(debug_exit_tells_the_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
