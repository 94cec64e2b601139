/* The 8259A pair: priorities, modes, cascade, spurious requests (data sheet 231468). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "irq/pic.h"

enum { M = 0, S = 1 };

/* The CPU's INTR pin. */
struct wire {
	bool level;
	unsigned edges; /* rising */
};

struct rig {
	struct pic *pic;
	struct wire intr;
};

static void wire_set(void *chip, unsigned pin, bool level)
{
	struct wire *w = chip;

	assert_int_equal(pin, 7);
	w->edges += level && !w->level;
	w->level = level;
}

static u8 rd(struct rig *r, int chip, unsigned port)
{
	const struct io_ops *ops = chip ? &pic_slave_ops : &pic_master_ops;

	return (u8)ops->read(r->pic, port, 1);
}

static void wr(struct rig *r, int chip, unsigned port, u8 val)
{
	const struct io_ops *ops = chip ? &pic_slave_ops : &pic_master_ops;

	ops->write(r->pic, port, val, 1);
}

static void init_chip(struct rig *r, int chip, u8 base, u8 icw4)
{
	wr(r, chip, 0, 0x11);
	wr(r, chip, 1, base);
	wr(r, chip, 1, chip ? 2 : 4);
	wr(r, chip, 1, icw4);
}

/* As a PC leaves them: vectors 20h and 28h, nothing masked. */
static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->pic =
		pic_new((struct irq_line){ .set = wire_set, .chip = &r->intr, .pin = 7 });
	init_chip(r, M, 0x20, 0x01);
	init_chip(r, S, 0x28, 0x01);
}

static void rig_fini(struct rig *r)
{
	pic_free(r->pic);
}

static void up(struct rig *r, unsigned irq)
{
	pic_set(r->pic, irq, true);
}

static void down(struct rig *r, unsigned irq)
{
	pic_set(r->pic, irq, false);
}

static u8 read_isr(struct rig *r, int chip)
{
	wr(r, chip, 0, 0x0b);
	return rd(r, chip, 0);
}

static u8 read_irr(struct rig *r, int chip)
{
	wr(r, chip, 0, 0x0a);
	return rd(r, chip, 0);
}

static void pic_vectors_of_all_inputs(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned irq = 0; irq < 16; irq++) {
		if (irq == 2)
			continue;
		assert_false(r.intr.level);
		up(&r, irq);
		assert_true(r.intr.level);
		assert_int_equal(pic_take(r.pic), 0x20 + irq);
		assert_false(r.intr.level);
		assert_int_equal(read_isr(&r, M), irq < 8 ? 1 << irq : 4);
		assert_int_equal(read_isr(&r, S), irq < 8 ? 0 : 1 << (irq - 8));
		down(&r, irq);
		if (irq >= 8)
			wr(&r, S, 0, 0x20);
		wr(&r, M, 0, 0x20);
		assert_int_equal(read_isr(&r, M), 0);
		assert_int_equal(read_isr(&r, S), 0);
	}
	rig_fini(&r);
}

static void pic_pin2_and_pins_beyond_do_nothing(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 2);
	up(&r, 16);
	up(&r, ~0u);
	assert_false(r.intr.level);
	assert_int_equal(read_irr(&r, M), 0);
	rig_fini(&r);
}

static void pic_icw2_takes_high_bits_only(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	init_chip(&r, M, 0x77, 0x01);
	up(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x73);
	rig_fini(&r);
}

static void pic_icw1_without_icw4_and_single_shorten_the_sequence(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, M, 0, 0x10); /* no ICW4 */
	wr(&r, M, 1, 0x40);
	wr(&r, M, 1, 0x04);
	wr(&r, M, 1, 0xfb); /* the mask already */
	assert_int_equal(rd(&r, M, 1), 0xfb);
	wr(&r, M, 0, 0x12); /* single, no ICW4 */
	wr(&r, M, 1, 0x48);
	wr(&r, M, 1, 0xf7);
	assert_int_equal(rd(&r, M, 1), 0xf7);
	wr(&r, M, 0, 0x13); /* single, ICW4 */
	wr(&r, M, 1, 0x50);
	wr(&r, M, 1, 0x01);
	wr(&r, M, 1, 0x7f);
	assert_int_equal(rd(&r, M, 1), 0x7f);
	up(&r, 7);
	assert_int_equal(pic_take(r.pic), 0x57);
	rig_fini(&r);
}

static void pic_icw1_forgets_edges_mask_service_and_priority(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 1);
	up(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x21);
	wr(&r, M, 0, 0xc4); /* lowest priority: 4 */
	wr(&r, M, 0, 0x68); /* special mask */
	wr(&r, M, 1, 0x10);
	init_chip(&r, M, 0x20, 0x01);
	assert_int_equal(rd(&r, M, 0), 0); /* IRR: the pins are high, no new edge */
	assert_int_equal(rd(&r, M, 1), 0);
	assert_int_equal(read_isr(&r, M), 0);
	assert_false(r.intr.level);
	down(&r, 3);
	up(&r, 3);
	up(&r, 5);
	assert_int_equal(pic_take(r.pic), 0x23); /* 0 is the top again */
	rig_fini(&r);
}

static void pic_fully_nested_lets_only_higher_through(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 4);
	assert_int_equal(pic_take(r.pic), 0x24);
	up(&r, 5);
	assert_false(r.intr.level);
	down(&r, 4);
	up(&r, 4);
	assert_false(r.intr.level); /* its own level neither */
	up(&r, 1);
	assert_true(r.intr.level);
	assert_int_equal(pic_take(r.pic), 0x21);
	assert_int_equal(read_isr(&r, M), 0x12);
	wr(&r, M, 0, 0x20); /* ends 1 */
	assert_int_equal(read_isr(&r, M), 0x10);
	assert_false(r.intr.level);
	wr(&r, M, 0, 0x20);
	assert_int_equal(pic_take(r.pic), 0x24);
	wr(&r, M, 0, 0x20);
	assert_int_equal(pic_take(r.pic), 0x25);
	rig_fini(&r);
}

static void pic_specific_eoi_ends_the_named_one(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 4);
	pic_take(r.pic);
	up(&r, 1);
	pic_take(r.pic);
	wr(&r, M, 0, 0x64);
	assert_int_equal(read_isr(&r, M), 0x02);
	rig_fini(&r);
}

static void pic_edge_needs_a_new_edge_after_acknowledge(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 3);
	up(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x23);
	wr(&r, M, 0, 0x20);
	assert_false(r.intr.level);
	up(&r, 3); /* still high: no edge */
	assert_false(r.intr.level);
	down(&r, 3);
	up(&r, 3);
	assert_true(r.intr.level);
	rig_fini(&r);
}

static void pic_elcr_level_repeats_until_lowered(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	pic_elcr_ops.write(r.pic, 0, 0xff, 1);
	pic_elcr_ops.write(r.pic, 1, 0xff, 1);
	assert_int_equal(pic_elcr_ops.read(r.pic, 0, 1), 0xf8);
	assert_int_equal(pic_elcr_ops.read(r.pic, 1, 1), 0xde);
	up(&r, 5);
	assert_int_equal(pic_take(r.pic), 0x25);
	assert_false(r.intr.level);
	wr(&r, M, 0, 0x20);
	assert_true(r.intr.level);
	assert_int_equal(pic_take(r.pic), 0x25);
	down(&r, 5);
	wr(&r, M, 0, 0x20);
	assert_false(r.intr.level);
	/* and through the slave */
	up(&r, 11);
	assert_int_equal(pic_take(r.pic), 0x2b);
	wr(&r, S, 0, 0x20);
	wr(&r, M, 0, 0x20);
	assert_int_equal(pic_take(r.pic), 0x2b);
	down(&r, 11);
	wr(&r, S, 0, 0x20);
	wr(&r, M, 0, 0x20);
	assert_false(r.intr.level);
	rig_fini(&r);
}

static void pic_ltim_makes_every_input_level_triggered(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 0);
	wr(&r, M, 0, 0x19);
	wr(&r, M, 1, 0x20);
	wr(&r, M, 1, 0x04);
	wr(&r, M, 1, 0x01);
	assert_int_equal(pic_take(r.pic), 0x20);
	wr(&r, M, 0, 0x20);
	assert_true(r.intr.level);
	rig_fini(&r);
}

static void pic_withdrawn_request_gives_irq7_without_service(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 3);
	down(&r, 3);
	assert_true(r.intr.level); /* data sheet: "a DEFAULT IR7 will occur" */
	assert_int_equal(read_irr(&r, M), 0);
	/* The OCW3 just written was a new look at the requests. */
	assert_false(r.intr.level);
	up(&r, 3);
	down(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x27);
	assert_int_equal(read_isr(&r, M), 0);
	assert_false(r.intr.level);
	/* A real IRQ7 is told from it by its ISR bit. */
	up(&r, 7);
	assert_int_equal(pic_take(r.pic), 0x27);
	assert_int_equal(read_isr(&r, M), 0x80);
	rig_fini(&r);
}

static void pic_withdrawn_slave_request_gives_irq15_and_serves_cascade(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 12);
	down(&r, 12);
	assert_int_equal(pic_take(r.pic), 0x2f);
	assert_int_equal(read_isr(&r, S), 0);
	assert_int_equal(read_isr(&r, M), 4);
	wr(&r, M, 0, 0x20);
	assert_false(r.intr.level);
	/* Another request in time takes its place. */
	up(&r, 12);
	down(&r, 12);
	up(&r, 10);
	assert_int_equal(pic_take(r.pic), 0x2a);
	rig_fini(&r);
}

static void pic_take_with_nothing_pending_is_irq7(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	assert_int_equal(pic_take(r.pic), 0x27);
	assert_int_equal(read_isr(&r, M), 0);
	rig_fini(&r);
}

static void pic_mask_hides_and_keeps_the_edge(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, M, 1, 0x08);
	up(&r, 3);
	assert_false(r.intr.level);
	assert_int_equal(read_irr(&r, M), 0x08);
	wr(&r, M, 1, 0x00);
	assert_true(r.intr.level);
	wr(&r, M, 1, 0x08);
	assert_false(r.intr.level);
	/* Masked in the master, the whole slave is silent. */
	wr(&r, M, 1, 0x0c);
	up(&r, 9);
	assert_false(r.intr.level);
	wr(&r, M, 1, 0x08);
	assert_int_equal(pic_take(r.pic), 0x29);
	rig_fini(&r);
}

static void pic_aeoi_leaves_nothing_in_service(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	init_chip(&r, M, 0x20, 0x03);
	up(&r, 6);
	up(&r, 4);
	assert_int_equal(pic_take(r.pic), 0x24);
	assert_int_equal(read_isr(&r, M), 0);
	assert_true(r.intr.level);
	assert_int_equal(pic_take(r.pic), 0x26);
	rig_fini(&r);
}

static void pic_aeoi_rotation_goes_round(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	init_chip(&r, M, 0x20, 0x03);
	wr(&r, M, 0, 0x80); /* rotate in AEOI mode */
	for (unsigned i = 0; i < 2; i++) {
		up(&r, 3);
		up(&r, 4);
		assert_int_equal(pic_take(r.pic), 0x23);
		down(&r, 3);
		up(&r, 3);
		assert_int_equal(pic_take(r.pic), 0x24); /* 3 is now the lowest */
		assert_int_equal(pic_take(r.pic), 0x23);
		down(&r, 3);
		down(&r, 4);
		up(&r, 7); /* back to top 0 for the next turn */
		assert_int_equal(pic_take(r.pic), 0x27);
		down(&r, 7);
	}
	wr(&r, M, 0, 0x00); /* off */
	up(&r, 3);
	pic_take(r.pic);
	down(&r, 3);
	up(&r, 3);
	up(&r, 4);
	assert_int_equal(pic_take(r.pic), 0x23);
	rig_fini(&r);
}

static void pic_rotate_on_nonspecific_eoi(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 4);
	up(&r, 6);
	assert_int_equal(pic_take(r.pic), 0x24);
	wr(&r, M, 0, 0xa0); /* 4 becomes the lowest: order 5 6 7 0 1 2 3 4 */
	up(&r, 0);
	assert_int_equal(pic_take(r.pic), 0x26);
	assert_false(r.intr.level); /* 0 is below 6 now */
	wr(&r, M, 0, 0x20);
	assert_int_equal(pic_take(r.pic), 0x20);
	rig_fini(&r);
}

static void pic_rotate_on_specific_eoi_and_set_priority(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, M, 0, 0xc2); /* 2 lowest, 3 highest */
	up(&r, 0);
	up(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x23);
	wr(&r, M, 0, 0xe3); /* EOI of 3, 3 lowest */
	down(&r, 3);
	up(&r, 3);
	assert_int_equal(pic_take(r.pic), 0x20);
	wr(&r, M, 0, 0x40); /* no operation */
	assert_int_equal(read_isr(&r, M), 1);
	rig_fini(&r);
}

static void pic_special_mask_lets_lower_through(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 2 + 1);
	assert_int_equal(pic_take(r.pic), 0x23);
	up(&r, 6);
	assert_false(r.intr.level);
	wr(&r, M, 1, 0x08);
	assert_false(r.intr.level);
	wr(&r, M, 0, 0x68);
	assert_int_equal(pic_take(r.pic), 0x26);
	assert_int_equal(read_isr(&r, M), 0x48);
	/* The non-specific EOI does not see the one that is masked. */
	wr(&r, M, 0, 0x20);
	assert_int_equal(read_isr(&r, M), 0x08);
	wr(&r, M, 0, 0x20);
	assert_int_equal(read_isr(&r, M), 0x08);
	wr(&r, M, 0, 0x48); /* special mask off */
	wr(&r, M, 0, 0x20);
	assert_int_equal(read_isr(&r, M), 0x00);
	/* ESMM 0: SMM does not matter. */
	wr(&r, M, 0, 0x28);
	up(&r, 4);
	pic_take(r.pic);
	wr(&r, M, 1, 0x10);
	up(&r, 5);
	assert_false(r.intr.level);
	rig_fini(&r);
}

static void pic_special_fully_nested_lets_slave_interrupt_slave(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 12);
	assert_int_equal(pic_take(r.pic), 0x2c);
	up(&r, 9);
	assert_false(r.intr.level); /* plain: IR2 in service inhibits */

	init_chip(&r, M, 0x20, 0x11);
	init_chip(&r, S, 0x28, 0x01);
	down(&r, 12);
	down(&r, 9);
	up(&r, 12);
	assert_int_equal(pic_take(r.pic), 0x2c);
	up(&r, 14);
	assert_false(r.intr.level); /* the slave's own nesting holds */
	up(&r, 5);
	assert_false(r.intr.level); /* below IR2 in the master */
	up(&r, 9);
	assert_true(r.intr.level);
	assert_int_equal(pic_take(r.pic), 0x29);
	rig_fini(&r);
}

static void pic_poll_acknowledges_without_inta(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, M, 0, 0x0c);
	assert_int_equal(rd(&r, M, 0) & 0x80, 0);
	up(&r, 5);
	up(&r, 6);
	wr(&r, M, 0, 0x0c);
	assert_int_equal(rd(&r, M, 0), 0x85);
	assert_false(r.intr.level);
	assert_int_equal(read_isr(&r, M), 0x20);
	assert_int_equal(read_irr(&r, M), 0x40);
	wr(&r, M, 0, 0x20);
	assert_true(r.intr.level);
	/* The cascade is polled chip by chip, at either port. */
	up(&r, 13);
	wr(&r, M, 0, 0x0c);
	assert_int_equal(rd(&r, M, 1), 0x82);
	wr(&r, S, 0, 0x0c);
	assert_int_equal(rd(&r, S, 1), 0x85);
	assert_int_equal(rd(&r, S, 1), 0x00); /* the mask again */
	rig_fini(&r);
}

static void pic_output_pulses_between_two_requests(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	init_chip(&r, M, 0x20, 0x03);
	up(&r, 1);
	up(&r, 3);
	assert_int_equal(r.intr.edges, 1);
	pic_take(r.pic);
	assert_true(r.intr.level);
	assert_int_equal(r.intr.edges, 2);
	rig_fini(&r);
}

static void pic_slave_second_request_reaches_master_after_both_eois(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 9);
	up(&r, 14);
	assert_int_equal(pic_take(r.pic), 0x29);
	wr(&r, S, 0, 0x20);
	assert_false(r.intr.level);
	wr(&r, M, 0, 0x20);
	assert_int_equal(pic_take(r.pic), 0x2e);
	rig_fini(&r);
}

static void pic_reset_keeps_pins_and_forgets_the_rest(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	pic_elcr_ops.write(r.pic, 0, 0x20, 1);
	up(&r, 5);
	up(&r, 3);
	assert_true(pic_intr(r.pic));
	pic_reset(r.pic);
	assert_false(pic_intr(r.pic));
	assert_int_equal(pic_elcr_ops.read(r.pic, 0, 1), 0);
	pic_elcr_ops.write(r.pic, 0, 0x20, 1);
	assert_int_equal(pic_take(r.pic), 5); /* base 0, the level is still there */
	rig_fini(&r);
}

static void pic_save_load_save_is_identical(void **state)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	struct rig r, q;

	(void)state;
	rig_init(&r);
	rig_init(&q);
	up(&r, 12);
	pic_take(r.pic);
	up(&r, 3);
	up(&r, 4);
	wr(&r, M, 0, 0xc5);
	wr(&r, S, 0, 0x11);
	wr(&r, S, 1, 0x70); /* in the middle of initialisation */
	pic_save(r.pic, &a);
	assert_int_equal(pic_load(q.pic, &a, &err), 0);
	pic_save(q.pic, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_int_equal(q.intr.level, r.intr.level);
	assert_int_equal(pic_take(q.pic), pic_take(r.pic));
	state_buf_fini(&a);
	state_buf_fini(&b);
	rig_fini(&r);
	rig_fini(&q);
}

static void pic_hostile_stream_is_refused_or_harmless(void **state)
{
	struct state_buf a = { 0 };
	struct rig r;

	(void)state;
	rig_init(&r);
	up(&r, 9);
	pic_save(r.pic, &a);
	for (size_t i = 0; i < a.len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct error err = { 0 };
			struct rig q;

			rig_init(&q);
			a.data[i] ^= (u8)(1u << bit);
			a.pos = 0;
			if (pic_load(q.pic, &a, &err) == 0) {
				int v = pic_take(q.pic);

				assert_in_range(v, 0, 255);
			}
			a.data[i] ^= (u8)(1u << bit);
			rig_fini(&q);
		}
	}
	state_buf_fini(&a);
	rig_fini(&r);
}

static void pic_state_table_is_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&pic_desc), pic_desc.size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pic_vectors_of_all_inputs),
		cmocka_unit_test(pic_pin2_and_pins_beyond_do_nothing),
		cmocka_unit_test(pic_icw2_takes_high_bits_only),
		cmocka_unit_test(pic_icw1_without_icw4_and_single_shorten_the_sequence),
		cmocka_unit_test(pic_icw1_forgets_edges_mask_service_and_priority),
		cmocka_unit_test(pic_fully_nested_lets_only_higher_through),
		cmocka_unit_test(pic_specific_eoi_ends_the_named_one),
		cmocka_unit_test(pic_edge_needs_a_new_edge_after_acknowledge),
		cmocka_unit_test(pic_elcr_level_repeats_until_lowered),
		cmocka_unit_test(pic_ltim_makes_every_input_level_triggered),
		cmocka_unit_test(pic_withdrawn_request_gives_irq7_without_service),
		cmocka_unit_test(
			pic_withdrawn_slave_request_gives_irq15_and_serves_cascade),
		cmocka_unit_test(pic_take_with_nothing_pending_is_irq7),
		cmocka_unit_test(pic_mask_hides_and_keeps_the_edge),
		cmocka_unit_test(pic_aeoi_leaves_nothing_in_service),
		cmocka_unit_test(pic_aeoi_rotation_goes_round),
		cmocka_unit_test(pic_rotate_on_nonspecific_eoi),
		cmocka_unit_test(pic_rotate_on_specific_eoi_and_set_priority),
		cmocka_unit_test(pic_special_mask_lets_lower_through),
		cmocka_unit_test(pic_special_fully_nested_lets_slave_interrupt_slave),
		cmocka_unit_test(pic_poll_acknowledges_without_inta),
		cmocka_unit_test(pic_output_pulses_between_two_requests),
		cmocka_unit_test(pic_slave_second_request_reaches_master_after_both_eois),
		cmocka_unit_test(pic_reset_keeps_pins_and_forgets_the_rest),
		cmocka_unit_test(pic_save_load_save_is_identical),
		cmocka_unit_test(pic_hostile_stream_is_refused_or_harmless),
		cmocka_unit_test(pic_state_table_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
