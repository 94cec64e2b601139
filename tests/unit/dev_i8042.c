/* Keyboard controller, PS/2 keyboard and mouse, port 92h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dev/i8042.h"

enum { OBF = 0x01, SYS = 0x04, CMD = 0x08, AUX = 0x20 };

struct rig {
	struct i8042 *k;
	bool level[2];
	unsigned rises[2];
	unsigned resets, a20_calls;
	bool a20;
};

static void pin_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	r->rises[pin] += level && !r->level[pin];
	r->level[pin] = level;
}

static void reset(void *opaque)
{
	struct rig *r = opaque;

	r->resets++;
	(void)i8042_a20_open(r->k); /* its lock is free */
}

static void a20(void *opaque, bool open)
{
	struct rig *r = opaque;

	r->a20_calls++;
	r->a20 = open;
	assert_int_equal(i8042_a20_open(r->k), open);
}

static void rig_init(struct rig *r, bool mouse)
{
	*r = (struct rig){ .a20 = true };
	r->k = i8042_new((struct irq_line){ pin_set, r, 0 },
			 (struct irq_line){ pin_set, r, 1 }, mouse,
			 (struct i8042_outputs){ reset, a20, r });
}

static void rig_fini(struct rig *r)
{
	i8042_free(r->k);
}

static u8 data(struct rig *r)
{
	return (u8)io_read(&i8042_data_ops, r->k, 0, 1);
}

static u8 status(struct rig *r)
{
	return (u8)io_read(&i8042_status_ops, r->k, 0, 1);
}

static void put(struct rig *r, u8 v)
{
	io_write(&i8042_data_ops, r->k, 0, v, 1);
}

static void cmd(struct rig *r, u8 v)
{
	io_write(&i8042_status_ops, r->k, 0, v, 1);
}

/* The next byte, which must be there and from the keyboard or controller. */
static u8 next(struct rig *r)
{
	assert_int_equal(status(r) & (OBF | AUX), OBF);
	return data(r);
}

static u8 next_aux(struct rig *r)
{
	assert_int_equal(status(r) & (OBF | AUX), OBF | AUX);
	return data(r);
}

static void empty(struct rig *r)
{
	assert_int_equal(status(r) & OBF, 0);
}

static void to_mouse(struct rig *r, u8 v)
{
	cmd(r, 0xd4);
	put(r, v);
}

static void set_mode(struct rig *r, u8 v)
{
	cmd(r, 0x60);
	put(r, v);
}

static void i8042_self_test_and_interface_tests_pass(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	cmd(&r, 0xaa);
	assert_int_equal(status(&r) & (SYS | CMD), SYS | CMD);
	assert_int_equal(next(&r), 0x55);
	cmd(&r, 0xab);
	assert_int_equal(next(&r), 0);
	cmd(&r, 0xa9);
	assert_int_equal(next(&r), 0);
	empty(&r);
	rig_fini(&r);
}

static void i8042_command_byte_and_ram_read_back(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x65);
	set_mode(&r, 0x03);
	assert_int_equal(status(&r) & (CMD | SYS), 0);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x03);
	cmd(&r, 0x7f);
	put(&r, 0x5a);
	cmd(&r, 0x3f);
	assert_int_equal(next(&r), 0x5a);
	cmd(&r, 0xad);
	cmd(&r, 0xa7);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x33);
	cmd(&r, 0xae);
	cmd(&r, 0xa8);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x03);
	rig_fini(&r);
}

static void i8042_unknown_commands_do_nothing(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	for (unsigned v = 0; v < 0x100; v++)
		if (v < 0x20 || (v >= 0x80 && v < 0xa0) || v == 0xd8)
			cmd(&r, (u8)v);
	empty(&r);
	assert_int_equal(r.resets, 0);
	rig_fini(&r);
}

static void i8042_keyboard_resets_and_identifies(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	set_mode(&r, 0x05); /* not translating */
	put(&r, 0xff);
	assert_int_equal(next(&r), 0xfa);
	assert_int_equal(next(&r), 0xaa);
	put(&r, 0xf2);
	assert_int_equal(next(&r), 0xfa);
	assert_int_equal(next(&r), 0xab);
	assert_int_equal(next(&r), 0x83);
	empty(&r);
	set_mode(&r, 0x45);
	put(&r, 0xf2);
	assert_int_equal(next(&r), 0xfa);
	assert_int_equal(next(&r), 0xab);
	assert_int_equal(next(&r), 0x41);
	empty(&r);
	rig_fini(&r);
}

static void i8042_keyboard_commands_are_acknowledged(void **state)
{
	struct rig r;
	static const u8 with_argument[] = { 0xed, 0xf3, 0xfb, 0xfc, 0xfd };

	(void)state;
	rig_init(&r, true);
	set_mode(&r, 0x05);
	for (unsigned i = 0; i < sizeof(with_argument); i++) {
		put(&r, with_argument[i]);
		assert_int_equal(next(&r), 0xfa);
		put(&r, 0x02);
		assert_int_equal(next(&r), 0xfa);
	}
	put(&r, 0xee);
	assert_int_equal(next(&r), 0xee);
	put(&r, 0xfe); /* again, please */
	assert_int_equal(next(&r), 0xee);
	put(&r, 0xf0);
	assert_int_equal(next(&r), 0xfa);
	put(&r, 0x00);
	assert_int_equal(next(&r), 0xfa);
	assert_int_equal(next(&r), 0x02);
	put(&r, 0xf0);
	assert_int_equal(next(&r), 0xfa);
	put(&r, 0x03);
	assert_int_equal(next(&r), 0xfe);
	put(&r, 0x11);
	assert_int_equal(next(&r), 0xfe);
	/* A command in place of an argument starts over. */
	put(&r, 0xed);
	assert_int_equal(next(&r), 0xfa);
	put(&r, 0xf4);
	assert_int_equal(next(&r), 0xfa);
	put(&r, 0x02);
	assert_int_equal(next(&r), 0xfe);
	rig_fini(&r);
}

static void i8042_keys_are_translated(void **state)
{
	static const u8 enter[] = { 0x5a }, release[] = { 0xf0, 0x5a };
	static const u8 up[] = { 0xe0, 0xf0, 0x75 };
	struct rig r;

	(void)state;
	rig_init(&r, true);
	assert_true(i8042_key(r.k, enter, 1));
	assert_true(r.level[0]);
	assert_int_equal(next(&r), 0x1c);
	assert_true(i8042_key(r.k, release, 2));
	assert_int_equal(next(&r), 0x9c);
	assert_true(i8042_key(r.k, up, 3));
	assert_int_equal(next(&r), 0xe0);
	assert_int_equal(next(&r), 0xc8);
	empty(&r);
	set_mode(&r, 0x05);
	assert_true(i8042_key(r.k, release, 2));
	assert_int_equal(next(&r), 0xf0);
	assert_int_equal(next(&r), 0x5a);
	rig_fini(&r);
}

static void i8042_interrupt_is_an_edge_for_each_byte(void **state)
{
	static const u8 keys[] = { 0x1c, 0x32, 0x21 };
	struct rig r;

	(void)state;
	rig_init(&r, true);
	assert_true(i8042_key(r.k, keys, 3));
	assert_int_equal(r.rises[0], 1);
	data(&r);
	assert_int_equal(r.rises[0], 2);
	data(&r);
	data(&r);
	assert_int_equal(r.rises[0], 3);
	assert_false(r.level[0]);
	/* Enabling it with a byte there raises it. */
	set_mode(&r, 0x44);
	assert_true(i8042_key(r.k, keys, 1));
	assert_false(r.level[0]);
	set_mode(&r, 0x45);
	assert_true(r.level[0]);
	assert_int_equal(r.rises[1], 0);
	rig_fini(&r);
}

static void i8042_disabled_keyboard_keeps_its_keys(void **state)
{
	static const u8 key[] = { 0x1c };
	struct rig r;

	(void)state;
	rig_init(&r, true);
	cmd(&r, 0xad);
	assert_true(i8042_key(r.k, key, 1));
	empty(&r);
	/* The controller still answers. */
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x75);
	cmd(&r, 0xae);
	assert_int_equal(next(&r), 0x1e);
	put(&r, 0xf5); /* now the keyboard itself is off */
	assert_int_equal(next(&r), 0xfa);
	assert_false(i8042_key(r.k, key, 1));
	rig_fini(&r);
}

static void i8042_full_keyboard_queue_refuses_whole_keys(void **state)
{
	static const u8 key[] = { 0xf0, 0x1c };
	struct rig r;
	unsigned n = 0;

	(void)state;
	rig_init(&r, true);
	cmd(&r, 0xad);
	while (i8042_key(r.k, key, 2))
		assert_true(++n < 100);
	cmd(&r, 0xae);
	while (n--)
		assert_int_equal(next(&r), 0x9e);
	empty(&r);
	rig_fini(&r);
}

static void i8042_mouse_is_a_standard_mouse(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	set_mode(&r, 0x47);
	to_mouse(&r, 0xff);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_int_equal(next_aux(&r), 0xaa);
	assert_int_equal(next_aux(&r), 0x00);
	assert_int_equal(r.rises[1], 3);
	to_mouse(&r, 0xf2);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_int_equal(next_aux(&r), 0x00);
	to_mouse(&r, 0xe8);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 0x03);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 0xf3);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 200);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 0xe7);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 0xe9);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_int_equal(next_aux(&r), 0x10);
	assert_int_equal(next_aux(&r), 3);
	assert_int_equal(next_aux(&r), 200);
	to_mouse(&r, 0xbb);
	assert_int_equal(next_aux(&r), 0xfe);
	empty(&r);
	rig_fini(&r);
}

static void i8042_mouse_reports_movement(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	set_mode(&r, 0x47);
	assert_false(i8042_mouse(r.k, 1, 1, 0)); /* not enabled */
	to_mouse(&r, 0xf4);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_true(i8042_mouse(r.k, 5, -3, 1));
	assert_int_equal(next_aux(&r), 0x29);
	assert_int_equal(next_aux(&r), 5);
	assert_int_equal(next_aux(&r), 0xfd);
	assert_true(i8042_mouse(r.k, INT32_MAX, INT32_MIN, 0xff));
	assert_int_equal(next_aux(&r), 0x2f);
	assert_int_equal(next_aux(&r), 0xff);
	assert_int_equal(next_aux(&r), 0x01);
	/* Remote mode: only when asked. */
	to_mouse(&r, 0xf0);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_false(i8042_mouse(r.k, 1, 0, 0));
	assert_false(i8042_mouse(r.k, 1, 0, 0));
	empty(&r);
	to_mouse(&r, 0xeb);
	assert_int_equal(next_aux(&r), 0xfa);
	assert_int_equal(next_aux(&r), 0x08);
	assert_int_equal(next_aux(&r), 2);
	assert_int_equal(next_aux(&r), 0);
	/* Wrap mode: everything comes back. */
	to_mouse(&r, 0xee);
	assert_int_equal(next_aux(&r), 0xfa);
	to_mouse(&r, 0xe9);
	assert_int_equal(next_aux(&r), 0xe9);
	to_mouse(&r, 0xec);
	assert_int_equal(next_aux(&r), 0xfa);
	for (unsigned i = 0; i < 100; i++)
		i8042_mouse(r.k, 1, 1, 0);
	rig_fini(&r);
}

static void i8042_aux_loop_comes_back_on_irq_12(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	set_mode(&r, 0x47);
	cmd(&r, 0xd3);
	put(&r, 0xa5);
	assert_true(r.level[1]);
	assert_int_equal(next_aux(&r), 0xa5);
	cmd(&r, 0xd2);
	put(&r, 0x12);
	assert_true(r.level[0]);
	assert_int_equal(next(&r), 0x12);
	rig_fini(&r);
}

static void i8042_without_mouse_has_no_aux_port(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, false);
	cmd(&r, 0xd3);
	put(&r, 0x5a);
	assert_int_equal(next(&r), 0x5a); /* not marked as from the aux port */
	cmd(&r, 0xa9);
	assert_int_equal(next(&r), 0x01);
	cmd(&r, 0xa8);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x65); /* cannot be switched on */
	set_mode(&r, 0x47);
	cmd(&r, 0x20);
	assert_int_equal(next(&r), 0x67);
	to_mouse(&r, 0xff);
	empty(&r);
	assert_false(i8042_mouse(r.k, 1, 1, 1));
	rig_fini(&r);
}

static void i8042_reset_by_pulse_output_port_and_port92(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	cmd(&r, 0xfe);
	assert_int_equal(r.resets, 1);
	cmd(&r, 0xff);
	cmd(&r, 0xf1);
	assert_int_equal(r.resets, 1);
	cmd(&r, 0xd1);
	put(&r, 0x02);
	assert_int_equal(r.resets, 2);
	io_write(&i8042_port92_ops, r.k, 0, 0x01, 1);
	assert_int_equal(r.resets, 3);
	io_write(&i8042_port92_ops, r.k, 0, 0x01, 1); /* no edge */
	assert_int_equal(r.resets, 3);
	rig_fini(&r);
}

static void i8042_a20_is_open_when_either_gate_is(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	assert_true(i8042_a20_open(r.k));
	cmd(&r, 0xd1);
	put(&r, 0xdd);
	assert_int_equal(r.a20_calls, 1);
	assert_false(r.a20);
	cmd(&r, 0xd0);
	assert_int_equal(next(&r) & 0x03, 0x01);
	io_write(&i8042_port92_ops, r.k, 0, 0x02, 1);
	assert_true(r.a20);
	assert_int_equal(io_read(&i8042_port92_ops, r.k, 0, 1), 0x02);
	cmd(&r, 0xd1);
	put(&r, 0xdf);
	io_write(&i8042_port92_ops, r.k, 0, 0x00, 1);
	assert_int_equal(r.a20_calls, 2); /* never closed in between */
	cmd(&r, 0xdd);
	assert_false(r.a20);
	i8042_reset(r.k);
	assert_true(r.a20);
	rig_fini(&r);
}

static void i8042_table_covers_the_state(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&i8042_desc), i8042_desc.size);
}

static void i8042_save_load_save_is_identical(void **state)
{
	static const u8 keys[] = { 0x1c, 0xf0, 0x1c };
	struct rig a, b;
	struct state_buf x = { 0 }, y = { 0 };

	(void)state;
	rig_init(&a, true);
	rig_init(&b, true);
	set_mode(&a, 0x47);
	to_mouse(&a, 0xf4);
	i8042_key(a.k, keys, 3);
	i8042_mouse(a.k, 3, 4, 1);
	cmd(&a, 0xdd);
	cmd(&a, 0x20);
	cmd(&a, 0xd1);
	i8042_save(a.k, &x);
	assert_int_equal(i8042_load(b.k, &x, NULL), 0);
	assert_false(b.a20);
	assert_int_equal(b.level[1], a.level[1]);
	i8042_save(b.k, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	put(&b, 0xdf); /* still the argument of d1h */
	assert_true(b.a20);
	state_buf_fini(&x);
	state_buf_fini(&y);
	rig_fini(&a);
	rig_fini(&b);
}

static void i8042_hostile_state_is_refused(void **state)
{
	static const u8 keys[] = { 0x1c, 0xf0, 0x1c };
	struct rig a, b;
	struct state_buf x = { 0 };

	(void)state;
	rig_init(&a, true);
	i8042_key(a.k, keys, 3);
	i8042_save(a.k, &x);
	for (size_t bit = 0; bit < 8 * x.len; bit++) {
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
		x.pos = 0;
		rig_init(&b, true);
		if (!i8042_load(b.k, &x, NULL)) {
			for (unsigned i = 0; i < 80; i++)
				data(&b);
			put(&b, 0xff);
			to_mouse(&b, 0xff);
			i8042_mouse(b.k, 255, 255, 7);
			i8042_key(b.k, keys, 3);
		}
		rig_fini(&b);
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
	}
	state_buf_fini(&x);
	rig_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(i8042_self_test_and_interface_tests_pass),
		cmocka_unit_test(i8042_command_byte_and_ram_read_back),
		cmocka_unit_test(i8042_unknown_commands_do_nothing),
		cmocka_unit_test(i8042_keyboard_resets_and_identifies),
		cmocka_unit_test(i8042_keyboard_commands_are_acknowledged),
		cmocka_unit_test(i8042_keys_are_translated),
		cmocka_unit_test(i8042_interrupt_is_an_edge_for_each_byte),
		cmocka_unit_test(i8042_disabled_keyboard_keeps_its_keys),
		cmocka_unit_test(i8042_full_keyboard_queue_refuses_whole_keys),
		cmocka_unit_test(i8042_mouse_is_a_standard_mouse),
		cmocka_unit_test(i8042_mouse_reports_movement),
		cmocka_unit_test(i8042_aux_loop_comes_back_on_irq_12),
		cmocka_unit_test(i8042_without_mouse_has_no_aux_port),
		cmocka_unit_test(i8042_reset_by_pulse_output_port_and_port92),
		cmocka_unit_test(i8042_a20_is_open_when_either_gate_is),
		cmocka_unit_test(i8042_table_covers_the_state),
		cmocka_unit_test(i8042_save_load_save_is_identical),
		cmocka_unit_test(i8042_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
