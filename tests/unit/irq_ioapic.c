/* The I/O APIC: entries, triggering, remote IRR, delivery (82093AA, ICH). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "irq/ioapic.h"

#define LOGICAL    (1u << 11)
#define ACTIVE_LOW (1u << 13)
#define REMOTE_IRR (1u << 14)
#define LEVEL      (1u << 15)
#define MASKED     (1u << 16)

struct rig {
	struct ioapic *io;
	unsigned sent;
	u64 addr;
	u32 data;
};

static void sink(void *opaque, u64 addr, u32 data)
{
	struct rig *r = opaque;

	r->sent++;
	r->addr = addr;
	r->data = data;
}

static void rig_init(struct rig *r, u8 version, u32 active_low)
{
	struct ioapic_config cfg = {
		.version = version,
		.id = 5,
		.active_low = active_low,
		.out = { .send = sink, .opaque = r },
	};

	memset(r, 0, sizeof(*r));
	r->io = ioapic_new(&cfg);
}

static void rig_fini(struct rig *r)
{
	ioapic_free(r->io);
}

static u32 rd(struct rig *r, u8 reg)
{
	ioapic_ops.write(r->io, 0x00, reg, 4);
	return (u32)ioapic_ops.read(r->io, 0x10, 4);
}

static void wr(struct rig *r, u8 reg, u32 val)
{
	ioapic_ops.write(r->io, 0x00, reg, 4);
	ioapic_ops.write(r->io, 0x10, val, 4);
}

static void set_entry(struct rig *r, unsigned pin, u32 high, u32 low)
{
	wr(r, (u8)(0x11 + 2 * pin), high);
	wr(r, (u8)(0x10 + 2 * pin), low);
}

static u32 low_half(struct rig *r, unsigned pin)
{
	return rd(r, (u8)(0x10 + 2 * pin));
}

static void ioapic_registers_after_reset(void **state)
{
	static const u8 versions[] = { 0x11, 0x20 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rig r;

		rig_init(&r, versions[i], 0);
		assert_int_equal(rd(&r, 0), 0x05000000);
		assert_int_equal(rd(&r, 1), 0x00170000 | versions[i]);
		assert_int_equal(rd(&r, 2), 0x05000000);
		for (unsigned pin = 0; pin < 24; pin++) {
			assert_int_equal(low_half(&r, pin), MASKED);
			assert_int_equal(rd(&r, (u8)(0x11 + 2 * pin)), 0);
		}
		for (unsigned reg = 0x40; reg < 0x100; reg++)
			assert_int_equal(rd(&r, (u8)reg), 0);
		wr(&r, 0, 0xffffffff);
		assert_int_equal(rd(&r, 0), 0x0f000000);
		wr(&r, 1, 0);
		assert_int_equal(rd(&r, 1), 0x00170000 | versions[i]);
		rig_fini(&r);
	}
}

static void ioapic_entry_bits_that_can_be_written(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x11, 0);
	set_entry(&r, 3, 0xffffffff, 0xffffffff);
	assert_int_equal(low_half(&r, 3), 0x0001afff);
	assert_int_equal(rd(&r, 0x17), 0xff000000);
	rig_fini(&r);
	rig_init(&r, 0x20, 0);
	set_entry(&r, 3, 0xffffffff, 0xffffffff);
	assert_int_equal(low_half(&r, 3), 0x0001afff);
	assert_int_equal(rd(&r, 0x17), 0xffff0000);
	rig_fini(&r);
}

static void ioapic_window_takes_narrow_reads_and_ignores_odd_writes(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	ioapic_ops.write(r.io, 0x00, 0x01, 1);
	assert_int_equal(ioapic_ops.read(r.io, 0x00, 1), 1);
	assert_int_equal(ioapic_ops.read(r.io, 0x10, 1), 0x20);
	assert_int_equal(ioapic_ops.read(r.io, 0x12, 1), 0x17);
	assert_int_equal(ioapic_ops.read(r.io, 0x12, 2), 0x17);
	assert_int_equal(ioapic_ops.read(r.io, 0x13, 2), 0xffff);
	ioapic_ops.write(r.io, 0x00, 0x10, 4);
	ioapic_ops.write(r.io, 0x10, 0x31, 1); /* not 32 bits */
	ioapic_ops.write(r.io, 0x14, 0x31, 4);
	ioapic_ops.write(r.io, 0xffc, 0x31, 4);
	assert_int_equal(low_half(&r, 0), MASKED);
	assert_int_equal(ioapic_ops.read(r.io, 0x40, 4), 0);
	assert_int_equal(ioapic_ops.read(r.io, 0xffc, 4), 0);
	rig_fini(&r);
}

/* Entry, message: all delivery modes, both destination modes. */
static void ioapic_message_carries_the_entry(void **state)
{
	static const struct {
		u32 high, low;
		u64 addr;
		u32 data;
	} cases[] = {
		{ 0x00000000, 0x0031, 0xfee00000, 0x4031 },
		{ 0x03000000, 0x0031, 0xfee03000, 0x4031 },
		{ 0xff000000, 0x0831, 0xfeeff004, 0x4031 },
		{ 0x05000000, 0x0931, 0xfee05004, 0x4131 },
		{ 0x01000000, 0x0200, 0xfee01000, 0x4200 },
		{ 0x01000000, 0x0431, 0xfee01000, 0x4431 },
		{ 0x01000000, 0x0531, 0xfee01000, 0x4531 },
		{ 0x01000000, 0x0731, 0xfee01000, 0x4731 },
		{ 0x01000000, 0x8031, 0xfee01000, 0xc031 },
		{ 0x01000000, 0x8131, 0xfee01000, 0xc131 },
		/* modes that are edge-triggered whatever bit 15 says */
		{ 0x01000000, 0x8431, 0xfee01000, 0x4431 },
		{ 0x01000000, 0x8731, 0xfee01000, 0x4731 },
		/* remappable format: index 1234h */
		{ 0x1234 << 17 | 1 << 16, 0x0031, 0xfee00000 | 0x1234 << 5 | 1 << 4,
		  0x4031 },
	};

	(void)state;
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig r;

		rig_init(&r, 0x20, 0);
		set_entry(&r, 7, cases[i].high, cases[i].low);
		assert_int_equal(r.sent, 0);
		ioapic_set(r.io, 7, true);
		assert_int_equal(r.sent, 1);
		assert_int_equal(r.addr, cases[i].addr);
		assert_int_equal(r.data, cases[i].data);
		rig_fini(&r);
	}
}

static void ioapic_edge_sends_once_an_edge(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 4, 0, 0x34);
	ioapic_set(r.io, 4, true);
	ioapic_set(r.io, 4, true);
	assert_int_equal(r.sent, 1);
	ioapic_set(r.io, 4, false);
	assert_int_equal(r.sent, 1);
	ioapic_set(r.io, 4, true);
	assert_int_equal(r.sent, 2);
	assert_int_equal(low_half(&r, 4), 0x34); /* no remote IRR */
	ioapic_set(r.io, 24, true);
	ioapic_set(r.io, ~0u, true);
	assert_int_equal(r.sent, 2);
	rig_fini(&r);
}

static void ioapic_edge_while_masked_is_lost(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 4, 0, 0x34 | MASKED);
	ioapic_set(r.io, 4, true);
	set_entry(&r, 4, 0, 0x34);
	assert_int_equal(r.sent, 0);
	ioapic_set(r.io, 4, false);
	ioapic_set(r.io, 4, true);
	assert_int_equal(r.sent, 1);
	rig_fini(&r);
}

static void ioapic_level_waits_for_eoi(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	ioapic_set(r.io, 9, true);
	assert_int_equal(r.sent, 1);
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL | REMOTE_IRR);
	ioapic_set(r.io, 9, false);
	ioapic_set(r.io, 9, true);
	assert_int_equal(r.sent, 1); /* remote IRR holds it back */
	ioapic_eoi(r.io, 0x58);
	assert_int_equal(r.sent, 1);
	ioapic_eoi(r.io, 0x59);
	assert_int_equal(r.sent, 2); /* still asserted */
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL | REMOTE_IRR);
	ioapic_set(r.io, 9, false);
	ioapic_eoi(r.io, 0x59);
	assert_int_equal(r.sent, 2);
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL);
	rig_fini(&r);
}

static void ioapic_level_while_masked_waits_for_unmask(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL | MASKED);
	ioapic_set(r.io, 9, true);
	assert_int_equal(r.sent, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	assert_int_equal(r.sent, 1);
	/* Masked in service: EOI ends it, unmask starts it again. */
	set_entry(&r, 9, 0, 0x59 | LEVEL | MASKED);
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL | MASKED | REMOTE_IRR);
	ioapic_eoi(r.io, 0x59);
	assert_int_equal(r.sent, 1);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	assert_int_equal(r.sent, 2);
	rig_fini(&r);
}

static void ioapic_switch_to_edge_clears_remote_irr(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x11, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	ioapic_set(r.io, 9, true);
	wr(&r, 0x10 + 2 * 9, 0x59 | MASKED);
	assert_int_equal(low_half(&r, 9), 0x59 | MASKED);
	wr(&r, 0x10 + 2 * 9, 0x59 | LEVEL);
	assert_int_equal(r.sent, 2);
	rig_fini(&r);
}

static void ioapic_remote_irr_is_read_only(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL | REMOTE_IRR);
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL);
	ioapic_set(r.io, 9, true);
	wr(&r, 0x10 + 2 * 9, 0x59 | LEVEL);
	assert_int_equal(low_half(&r, 9), 0x59 | LEVEL | REMOTE_IRR);
	rig_fini(&r);
}

static void ioapic_eoi_register_exists_in_version_20_only(void **state)
{
	static const u8 versions[] = { 0x11, 0x20 };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		struct rig r;

		rig_init(&r, versions[i], 0);
		set_entry(&r, 9, 0, 0x59 | LEVEL);
		ioapic_set(r.io, 9, true);
		ioapic_set(r.io, 9, false);
		ioapic_ops.write(r.io, 0x40, 0x59, 4);
		assert_int_equal(!!(low_half(&r, 9) & REMOTE_IRR), versions[i] == 0x11);
		rig_fini(&r);
	}
}

static void ioapic_eoi_reaches_every_entry_with_the_vector(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 1, 0, 0x61 | LEVEL);
	set_entry(&r, 23, 0, 0x61 | LEVEL);
	set_entry(&r, 5, 0, 0x62 | LEVEL);
	ioapic_set(r.io, 1, true);
	ioapic_set(r.io, 23, true);
	ioapic_set(r.io, 5, true);
	assert_int_equal(r.sent, 3);
	ioapic_eoi(r.io, 0x61);
	assert_int_equal(r.sent, 5);
	rig_fini(&r);
}

/* Board wiring and programmed polarity: only their disagreement inverts. */
static void ioapic_polarity_against_the_wiring(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		bool wired_low = i & 1, programmed_low = i & 2;
		bool inverted = wired_low != programmed_low;
		u32 low = 0x71 | (programmed_low ? ACTIVE_LOW : 0);
		struct rig r;

		rig_init(&r, 0x20, wired_low ? 1u << 10 : 0);
		set_entry(&r, 10, 0, low | LEVEL);
		assert_int_equal(r.sent, inverted);
		ioapic_eoi(r.io, 0x71);
		assert_int_equal(r.sent, inverted ? 2 : 0);
		ioapic_set(r.io, 10, true);
		assert_int_equal(r.sent, inverted ? 2 : 1);
		ioapic_eoi(r.io, 0x71);
		assert_int_equal(r.sent, 2);
		rig_fini(&r);

		rig_init(&r, 0x20, wired_low ? 1u << 10 : 0);
		set_entry(&r, 10, 0, low);
		assert_int_equal(r.sent, 0);
		ioapic_set(r.io, 10, true);
		assert_int_equal(r.sent, !inverted);
		ioapic_set(r.io, 10, false);
		assert_int_equal(r.sent, 1);
		rig_fini(&r);
	}
}

static void ioapic_programming_an_edge_entry_makes_no_edge(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	ioapic_set(r.io, 2, true);
	set_entry(&r, 2, 0, 0x32);
	set_entry(&r, 2, 0, 0x32 | ACTIVE_LOW);
	set_entry(&r, 2, 0, 0x32);
	assert_int_equal(r.sent, 0);
	rig_fini(&r);
}

static void ioapic_reset_masks_and_keeps_pins(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	ioapic_set(r.io, 9, true);
	ioapic_reset(r.io);
	assert_int_equal(low_half(&r, 9), MASKED);
	set_entry(&r, 9, 0, 0x59 | LEVEL);
	assert_int_equal(r.sent, 2);
	rig_fini(&r);
}

static void ioapic_save_load_save_is_identical(void **state)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };
	struct rig r, q;

	(void)state;
	rig_init(&r, 0x20, 0);
	rig_init(&q, 0x20, 0);
	set_entry(&r, 9, 0x03000000, 0x59 | LEVEL);
	set_entry(&r, 4, 0x01000000, 0x34);
	ioapic_set(r.io, 9, true);
	ioapic_set(r.io, 4, true);
	ioapic_save(r.io, &a);
	assert_int_equal(ioapic_load(q.io, &a, &err), 0);
	assert_int_equal(q.sent, 0);
	ioapic_save(q.io, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	/* It goes on where it was: remote IRR is set, the edge pin is high. */
	ioapic_set(q.io, 4, true);
	assert_int_equal(q.sent, 0);
	ioapic_eoi(q.io, 0x59);
	assert_int_equal(q.sent, 1);
	assert_int_equal(q.addr, 0xfee03000);
	state_buf_fini(&a);
	state_buf_fini(&b);
	rig_fini(&r);
	rig_fini(&q);
}

static void ioapic_hostile_stream_is_refused_or_harmless(void **state)
{
	struct state_buf a = { 0 };
	struct rig r;

	(void)state;
	rig_init(&r, 0x20, 0);
	ioapic_save(r.io, &a);
	for (size_t i = 0; i < a.len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct error err = { 0 };
			struct rig q;

			rig_init(&q, 0x20, 0);
			a.data[i] ^= (u8)(1u << bit);
			a.pos = 0;
			if (ioapic_load(q.io, &a, &err) == 0)
				for (unsigned pin = 0; pin < 24; pin++) {
					rd(&q, (u8)(0x10 + pin));
					ioapic_set(q.io, pin, true);
				}
			a.data[i] ^= (u8)(1u << bit);
			rig_fini(&q);
		}
	}
	state_buf_fini(&a);
	rig_fini(&r);
}

static void ioapic_state_table_is_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&ioapic_desc), ioapic_desc.size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ioapic_registers_after_reset),
		cmocka_unit_test(ioapic_entry_bits_that_can_be_written),
		cmocka_unit_test(ioapic_window_takes_narrow_reads_and_ignores_odd_writes),
		cmocka_unit_test(ioapic_message_carries_the_entry),
		cmocka_unit_test(ioapic_edge_sends_once_an_edge),
		cmocka_unit_test(ioapic_edge_while_masked_is_lost),
		cmocka_unit_test(ioapic_level_waits_for_eoi),
		cmocka_unit_test(ioapic_level_while_masked_waits_for_unmask),
		cmocka_unit_test(ioapic_switch_to_edge_clears_remote_irr),
		cmocka_unit_test(ioapic_remote_irr_is_read_only),
		cmocka_unit_test(ioapic_eoi_register_exists_in_version_20_only),
		cmocka_unit_test(ioapic_eoi_reaches_every_entry_with_the_vector),
		cmocka_unit_test(ioapic_polarity_against_the_wiring),
		cmocka_unit_test(ioapic_programming_an_edge_entry_makes_no_edge),
		cmocka_unit_test(ioapic_reset_masks_and_keeps_pins),
		cmocka_unit_test(ioapic_save_load_save_is_identical),
		cmocka_unit_test(ioapic_hostile_stream_is_refused_or_harmless),
		cmocka_unit_test(ioapic_state_table_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
