/* ACPI fixed hardware and the reset control register. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/acpi_pm.h"

enum { TMR = 0x0001, PWRBTN = 0x0100, SLPBTN = 0x0200, WAK = 0x8000 };

struct rig {
	struct clock *clk;
	struct pmtimer *tmr;
	struct acpi_pm *a;
	bool sci;
	unsigned sleeps, slp_typ, resets;
	bool full;
};

static void sci_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	(void)pin;
	r->sci = level;
}

static void slept(void *opaque, unsigned slp_typ)
{
	struct rig *r = opaque;

	r->sleeps++;
	r->slp_typ = slp_typ;
	acpi_pm_wake(r->a); /* its lock is free */
}

static void reset(void *opaque, bool full)
{
	struct rig *r = opaque;

	r->resets++;
	r->full = full;
}

static void rig_init(struct rig *r, bool acpi_on)
{
	*r = (struct rig){ .clk = clock_new_manual() };
	r->tmr = pmtimer_new(r->clk, 24);
	r->a = acpi_pm_new((struct irq_line){ sci_set, r, 9 }, acpi_on, r->tmr,
			   (struct acpi_pm_outputs){ slept, reset, r });
}

static void rig_fini(struct rig *r)
{
	acpi_pm_free(r->a);
	pmtimer_free(r->tmr);
	clock_free(r->clk);
}

static u32 evt(struct rig *r, unsigned off, unsigned size)
{
	return (u32)io_read(&acpi_pm_evt_ops, r->a, off, size);
}

static void evt_write(struct rig *r, unsigned off, u32 v, unsigned size)
{
	io_write(&acpi_pm_evt_ops, r->a, off, v, size);
}

static u32 cnt(struct rig *r)
{
	return (u32)io_read(&acpi_pm_cnt_ops, r->a, 0, 2);
}

static void power_button_raises_the_sci_until_cleared(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	acpi_pm_press_power(r.a);
	assert_int_equal(evt(&r, 0, 2), PWRBTN);
	assert_false(r.sci); /* not enabled */
	evt_write(&r, 2, PWRBTN, 2);
	assert_true(r.sci);
	evt_write(&r, 0, SLPBTN, 2); /* another bit */
	assert_true(r.sci);
	evt_write(&r, 0, PWRBTN, 2);
	assert_false(r.sci);
	assert_int_equal(evt(&r, 0, 2), 0);
	acpi_pm_press_sleep(r.a);
	assert_false(r.sci);
	assert_int_equal(evt(&r, 0, 4), SLPBTN | PWRBTN << 16);
	rig_fini(&r);
}

static void registers_take_byte_accesses(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	evt_write(&r, 3, 0x03, 1);
	assert_int_equal(evt(&r, 2, 2), PWRBTN | SLPBTN);
	evt_write(&r, 2, 0x21, 1);
	assert_int_equal(evt(&r, 2, 2), PWRBTN | SLPBTN | 0x21);
	acpi_pm_press_power(r.a);
	assert_int_equal(evt(&r, 1, 1), 0x01);
	evt_write(&r, 0, 0xff, 1);
	assert_true(r.sci);
	evt_write(&r, 1, 0x01, 1);
	assert_false(r.sci);
	rig_fini(&r);
}

static void acpi_mode_is_switched_by_the_smi_port(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, false);
	assert_int_equal(cnt(&r), 0);
	evt_write(&r, 2, PWRBTN, 2);
	acpi_pm_press_power(r.a);
	assert_false(r.sci);
	io_write(&acpi_pm_smi_ops, r.a, 0, ACPI_SMI_ENABLE, 1);
	assert_int_equal(cnt(&r), 1);
	assert_true(r.sci);
	io_write(&acpi_pm_smi_ops, r.a, 0, ACPI_SMI_DISABLE, 1);
	assert_int_equal(cnt(&r), 0);
	assert_false(r.sci);
	io_write(&acpi_pm_smi_ops, r.a, 0, 0x42, 1);
	io_write(&acpi_pm_smi_ops, r.a, 1, 0x17, 1);
	assert_int_equal(io_read(&acpi_pm_smi_ops, r.a, 0, 2), 0x1742);
	assert_int_equal(cnt(&r), 0);
	rig_fini(&r);
}

static void sleep_enable_tells_the_type_and_reads_zero(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	io_write(&acpi_pm_cnt_ops, r.a, 0, 0x1c01, 2);
	assert_int_equal(r.sleeps, 0);
	io_write(&acpi_pm_cnt_ops, r.a, 0, 0x3c01, 2);
	assert_int_equal(r.sleeps, 1);
	assert_int_equal(r.slp_typ, ACPI_SLP_S5);
	assert_int_equal(cnt(&r), 0x1c01);
	assert_int_equal(evt(&r, 0, 2), WAK);
	/* The upper byte alone, with the type that is there. */
	io_write(&acpi_pm_cnt_ops, r.a, 1, 0x20 | ACPI_SLP_S3 << 2, 1);
	assert_int_equal(r.slp_typ, ACPI_SLP_S3);
	assert_int_equal(cnt(&r) & 1, 1);
	rig_fini(&r);
}

static void timer_carry_raises_the_sci(void **state)
{
	struct rig r;
	/* 2^23 ticks: the top bit becomes set. */
	vns_t half = (vns_t)muldiv64(1u << 23, NSEC_PER_SEC, PMTIMER_HZ) + 1000;

	(void)state;
	rig_init(&r, true);
	evt_write(&r, 2, TMR, 2);
	clock_advance(r.clk, half - 10000);
	assert_false(r.sci);
	clock_advance(r.clk, 10000);
	assert_true(r.sci);
	assert_int_equal(evt(&r, 0, 2), TMR);
	evt_write(&r, 0, TMR, 2);
	assert_false(r.sci);
	evt_write(&r, 2, 0, 2);
	clock_advance(r.clk, 2 * half);
	assert_false(r.sci);
	assert_int_equal(evt(&r, 0, 2), TMR); /* also without the interrupt */
	rig_fini(&r);
}

static void gpe_status_and_enable(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	acpi_pm_gpe(r.a, 0);
	acpi_pm_gpe(r.a, 31);
	acpi_pm_gpe(r.a, 32);
	acpi_pm_gpe(r.a, ~0u);
	assert_int_equal(io_read(&acpi_pm_gpe_ops, r.a, 0, 4), 0x80000001);
	assert_false(r.sci);
	io_write(&acpi_pm_gpe_ops, r.a, 4, 0x80000000, 4);
	assert_int_equal(io_read(&acpi_pm_gpe_ops, r.a, 4, 4), 0x80000000);
	assert_true(r.sci);
	io_write(&acpi_pm_gpe_ops, r.a, 0, 1, 1);
	assert_true(r.sci);
	io_write(&acpi_pm_gpe_ops, r.a, 3, 0x80, 1);
	assert_false(r.sci);
	assert_int_equal(io_read(&acpi_pm_gpe_ops, r.a, 0, 4), 0);
	rig_fini(&r);
}

static void reset_needs_a_rising_edge(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	io_write(&acpi_pm_reset_ops, r.a, 0, 0x02, 1);
	assert_int_equal(r.resets, 0);
	io_write(&acpi_pm_reset_ops, r.a, 0, 0x06, 1);
	assert_int_equal(r.resets, 1);
	assert_false(r.full);
	io_write(&acpi_pm_reset_ops, r.a, 0, 0x06, 1);
	assert_int_equal(r.resets, 1);
	assert_int_equal(io_read(&acpi_pm_reset_ops, r.a, 0, 1), 0x06);
	acpi_pm_reset(r.a);
	io_write(&acpi_pm_reset_ops, r.a, 0, 0xfe, 1);
	assert_int_equal(r.resets, 2);
	assert_true(r.full);
	assert_int_equal(io_read(&acpi_pm_reset_ops, r.a, 0, 1), 0x0e);
	rig_fini(&r);
}

static void reset_of_the_chip_lowers_the_sci(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, true);
	evt_write(&r, 2, PWRBTN, 2);
	acpi_pm_press_power(r.a);
	assert_true(r.sci);
	acpi_pm_reset(r.a);
	assert_false(r.sci);
	assert_int_equal(cnt(&r), 1);
	assert_int_equal(evt(&r, 0, 4), 0);
	rig_fini(&r);
}

static void acpi_pm_works_without_timer_and_outputs(void **state)
{
	struct acpi_pm *a = acpi_pm_new((struct irq_line){ 0 }, true, NULL,
					(struct acpi_pm_outputs){ 0 });

	(void)state;
	io_write(&acpi_pm_cnt_ops, a, 0, 0x3c01, 2);
	io_write(&acpi_pm_reset_ops, a, 0, 0x06, 1);
	io_write(&acpi_pm_evt_ops, a, 0, 0xffffffff, 4);
	assert_int_equal(io_read(&acpi_pm_evt_ops, a, 0, 2), 0);
	acpi_pm_reset(a);
	acpi_pm_free(a);
}

static void acpi_pm_table_covers_the_state(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&acpi_pm_desc), acpi_pm_desc.size);
}

static void acpi_pm_save_load_save_is_identical(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 }, y = { 0 };

	(void)state;
	rig_init(&a, true);
	rig_init(&b, false);
	evt_write(&a, 2, PWRBTN | TMR, 2);
	acpi_pm_press_power(a.a);
	acpi_pm_gpe(a.a, 9);
	io_write(&acpi_pm_gpe_ops, a.a, 4, 0x1234, 4);
	io_write(&acpi_pm_smi_ops, a.a, 0, 0x5566, 2);
	io_write(&acpi_pm_reset_ops, a.a, 0, 0x02, 1);
	acpi_pm_save(a.a, &x);
	assert_int_equal(acpi_pm_load(b.a, &x, NULL), 0);
	assert_true(b.sci);
	acpi_pm_save(b.a, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	/* TMR_EN reached the timer. */
	evt_write(&b, 0, PWRBTN, 2);
	evt_write(&b, 2, TMR, 2);
	io_write(&acpi_pm_gpe_ops, b.a, 4, 0, 4);
	assert_false(b.sci);
	clock_advance(b.clk, 3 * NSEC_PER_SEC);
	assert_true(b.sci);
	state_buf_fini(&x);
	state_buf_fini(&y);
	rig_fini(&a);
	rig_fini(&b);
}

static void acpi_pm_hostile_state_is_refused(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 };
	unsigned refused = 0;

	(void)state;
	rig_init(&a, true);
	acpi_pm_save(a.a, &x);
	for (size_t bit = 0; bit < 8 * x.len; bit++) {
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
		x.pos = 0;
		rig_init(&b, true);
		refused += acpi_pm_load(b.a, &x, NULL) != 0;
		evt(&b, 0, 4);
		rig_fini(&b);
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
	}
	assert_true(refused > 0);
	state_buf_fini(&x);
	rig_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_button_raises_the_sci_until_cleared),
		cmocka_unit_test(registers_take_byte_accesses),
		cmocka_unit_test(acpi_mode_is_switched_by_the_smi_port),
		cmocka_unit_test(sleep_enable_tells_the_type_and_reads_zero),
		cmocka_unit_test(timer_carry_raises_the_sci),
		cmocka_unit_test(gpe_status_and_enable),
		cmocka_unit_test(reset_needs_a_rising_edge),
		cmocka_unit_test(reset_of_the_chip_lowers_the_sci),
		cmocka_unit_test(acpi_pm_works_without_timer_and_outputs),
		cmocka_unit_test(acpi_pm_table_covers_the_state),
		cmocka_unit_test(acpi_pm_save_load_save_is_identical),
		cmocka_unit_test(acpi_pm_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
