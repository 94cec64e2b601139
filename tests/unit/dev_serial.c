/* Serial port with a 16550A UART. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "dev/serial.h"

enum {
	RBR = 0,
	THR = 0,
	DLL = 0,
	IER = 1,
	DLM = 1,
	IIR = 2,
	FCR = 2,
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7
};

struct rig {
	struct clock *clk;
	struct serial *d;
	bool level;
	unsigned rises;
	u8 out[4096];
	size_t out_len, out_room;
	unsigned rooms;
};

static void pin_set(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	assert_int_equal(pin, 4);
	r->rises += level && !r->level;
	r->level = level;
}

static size_t out_write(void *opaque, const u8 *buf, size_t len)
{
	struct rig *r = opaque;
	size_t n = MIN(len, r->out_room);

	n = MIN(n, sizeof(r->out) - r->out_len);
	memcpy(r->out + r->out_len, buf, n);
	r->out_len += n;
	r->out_room -= n;
	return n;
}

static void room_told(void *opaque)
{
	struct rig *r = opaque;

	r->rooms++;
	assert_true(serial_rx_room(r->d) > 0); /* its lock is free */
}

static void rig_init(struct rig *r)
{
	*r = (struct rig){ .clk = clock_new_manual(), .out_room = SIZE_MAX };
	r->d = serial_new(0, r->clk, (struct irq_line){ pin_set, r, 4 },
			  (struct chardev_sink){ out_write, r });
	serial_set_room_notify(r->d, room_told, r);
}

static void rig_fini(struct rig *r)
{
	serial_free(r->d);
	clock_free(r->clk);
}

static u8 rd(struct rig *r, unsigned reg)
{
	return (u8)io_read(&serial_ops, r->d, reg, 1);
}

static void wr(struct rig *r, unsigned reg, u8 v)
{
	io_write(&serial_ops, r->d, reg, v, 1);
}

/* 115200 8N1, FIFO on with this trigger (0 to 3), DTR RTS OUT2. */
static void setup(struct rig *r, unsigned trigger, u8 ier)
{
	wr(r, LCR, 0x83);
	wr(r, DLL, 1);
	wr(r, DLM, 0);
	wr(r, LCR, 0x03);
	wr(r, FCR, (u8)(0x07 | trigger << 6));
	wr(r, MCR, 0x0b);
	wr(r, IER, ier);
}

static size_t feed(struct rig *r, const char *s)
{
	return serial_rx(r->d, (const u8 *)s, strlen(s));
}

static void serial_registers_have_reset_values(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	serial_reset(r.d);
	assert_int_equal(rd(&r, IER), 0);
	assert_int_equal(rd(&r, IIR), 0x01);
	assert_int_equal(rd(&r, LCR), 0);
	assert_int_equal(rd(&r, MCR), 0);
	assert_int_equal(rd(&r, LSR), 0x60);
	assert_int_equal(rd(&r, MSR), 0xb0);
	assert_false(r.level);
	rig_fini(&r);
}

static void serial_unused_bits_read_zero(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, IER, 0xf0);
	wr(&r, MCR, 0xe0);
	wr(&r, SCR, 0xa5);
	wr(&r, LSR, 0xff);
	assert_int_equal(rd(&r, IER), 0);
	assert_int_equal(rd(&r, MCR), 0);
	assert_int_equal(rd(&r, SCR), 0xa5);
	assert_int_equal(rd(&r, LSR), 0x60);
	wr(&r, FCR, 0x01);
	assert_int_equal(rd(&r, IIR), 0xc1);
	wr(&r, FCR, 0x00);
	assert_int_equal(rd(&r, IIR), 0x01);
	rig_fini(&r);
}

static void serial_dlab_selects_the_divisor(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, LCR, 0x80);
	wr(&r, DLL, 0x34);
	wr(&r, DLM, 0x12);
	assert_int_equal(rd(&r, DLL), 0x34);
	assert_int_equal(rd(&r, DLM), 0x12);
	wr(&r, LCR, 0);
	assert_int_equal(rd(&r, IER), 0);
	assert_int_equal(r.out_len, 0);
	/* The divisor survives a reset. */
	serial_reset(r.d);
	wr(&r, LCR, 0x80);
	assert_int_equal(rd(&r, DLM), 0x12);
	rig_fini(&r);
}

static void serial_transmits_at_once(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0);
	for (const char *p = "hello"; *p; p++) {
		assert_int_equal(rd(&r, LSR) & 0x60, 0x60);
		wr(&r, THR, (u8)*p);
	}
	assert_int_equal(r.out_len, 5);
	assert_memory_equal(r.out, "hello", 5);
	rig_fini(&r);
}

static void serial_thre_stays_low_while_the_sink_is_full(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x02);
	assert_int_equal(rd(&r, IIR), 0xc2); /* enabling it raised it */
	r.out_room = 2;
	for (unsigned i = 0; i < 18; i++)
		wr(&r, THR, (u8)('a' + i));
	assert_int_equal(r.out_len, 2);
	assert_int_equal(rd(&r, LSR) & 0x60, 0);
	assert_int_equal(rd(&r, IIR), 0xc1);
	wr(&r, THR, '!'); /* FIFO full: lost */
	r.out_room = 10;
	serial_tx_ready(r.d);
	assert_int_equal(r.out_len, 12);
	assert_int_equal(rd(&r, LSR) & 0x60, 0);
	assert_false(r.level);
	r.out_room = 100;
	serial_tx_ready(r.d);
	assert_int_equal(r.out_len, 18);
	assert_memory_equal(r.out, "abcdefghijklmnopqr", 18);
	assert_int_equal(rd(&r, LSR) & 0x60, 0x60);
	assert_true(r.level);
	assert_int_equal(rd(&r, IIR), 0xc2);
	rig_fini(&r);
}

static void serial_thre_interrupt_is_acknowledged_by_iir(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x02);
	assert_true(r.level);
	assert_int_equal(rd(&r, IIR), 0xc2);
	assert_false(r.level);
	assert_int_equal(rd(&r, IIR), 0xc1);
	wr(&r, THR, 'x');
	assert_true(r.level);
	assert_int_equal(rd(&r, IIR), 0xc2);
	/* Writing the same enable again does not raise it, toggling does. */
	wr(&r, IER, 0x02);
	assert_false(r.level);
	wr(&r, IER, 0x00);
	wr(&r, IER, 0x02);
	assert_true(r.level);
	rig_fini(&r);
}

static void serial_iir_read_acknowledges_only_what_it_reports(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x03);
	assert_int_equal(feed(&r, "a"), 1);
	assert_int_equal(rd(&r, IIR), 0xc4); /* receive is higher than THRE */
	assert_int_equal(rd(&r, RBR), 'a');
	assert_int_equal(rd(&r, IIR), 0xc2);
	assert_int_equal(rd(&r, IIR), 0xc1);
	rig_fini(&r);
}

static void serial_interrupts_have_their_priorities(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x0f);
	serial_set_modem(r.d, SERIAL_CTS);
	serial_rx_break(r.d);
	assert_int_equal(rd(&r, IIR), 0xc6);
	assert_int_equal(rd(&r, LSR), 0xf1); /* break, error in FIFO, data */
	assert_int_equal(rd(&r, IIR), 0xc4);
	assert_int_equal(rd(&r, RBR), 0);
	assert_int_equal(rd(&r, IIR), 0xc2);
	assert_int_equal(rd(&r, IIR), 0xc0);
	assert_int_equal(rd(&r, MSR), 0x10 | 0x02 | 0x08);
	assert_int_equal(rd(&r, IIR), 0xc1);
	assert_false(r.level);
	rig_fini(&r);
}

static void serial_receive_trigger_levels(void **state)
{
	static const unsigned levels[4] = { 1, 4, 8, 14 };

	(void)state;
	for (unsigned t = 0; t < 4; t++) {
		struct rig r;

		rig_init(&r);
		setup(&r, t, 0x01);
		for (unsigned i = 1; i <= 16; i++) {
			assert_int_equal(feed(&r, "x"), 1);
			assert_int_equal(r.level, i >= levels[t]);
		}
		assert_int_equal(feed(&r, "x"), 0);
		for (unsigned i = 16; i-- > 0;) {
			assert_int_equal(rd(&r, RBR), 'x');
			assert_int_equal(r.level, i >= levels[t]);
		}
		assert_int_equal(rd(&r, LSR) & 1, 0);
		rig_fini(&r);
	}
}

static void serial_character_timeout_after_four_characters(void **state)
{
	struct rig r;
	/* 40 bits at 115200 baud. */
	vns_t len = (vns_t)muldiv64(40, NSEC_PER_SEC, 115200);

	(void)state;
	rig_init(&r);
	setup(&r, 3, 0x01);
	feed(&r, "ab");
	clock_advance(r.clk, len - 1);
	assert_false(r.level);
	feed(&r, "c"); /* starts it anew */
	clock_advance(r.clk, len - 1);
	assert_false(r.level);
	clock_advance(r.clk, 1);
	assert_true(r.level);
	assert_int_equal(rd(&r, IIR), 0xcc);
	assert_int_equal(rd(&r, IIR), 0xcc); /* only reading data ends it */
	assert_int_equal(rd(&r, RBR), 'a');
	assert_false(r.level);
	clock_advance(r.clk, len);
	assert_int_equal(rd(&r, IIR), 0xcc);
	rd(&r, RBR);
	rd(&r, RBR);
	clock_advance(r.clk, 10 * len);
	assert_int_equal(rd(&r, IIR), 0xc1);
	rig_fini(&r);
}

static void serial_timeout_follows_rate_and_length(void **state)
{
	struct rig r;
	vns_t len = (vns_t)muldiv64(4 * (1 + 7 + 1 + 2) * 12, NSEC_PER_SEC, 115200);

	(void)state;
	rig_init(&r);
	setup(&r, 3, 0x01);
	wr(&r, LCR, 0x80);
	wr(&r, DLL, 12);
	wr(&r, LCR, 0x0e); /* 7 bits, parity, 2 stop bits */
	feed(&r, "a");
	clock_advance(r.clk, len - 1);
	assert_false(r.level);
	clock_advance(r.clk, 1);
	assert_true(r.level);
	rig_fini(&r);
}

static void serial_without_fifo_holds_one_byte(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, MCR, 0x08);
	wr(&r, IER, 0x01);
	assert_int_equal(serial_rx_room(r.d), 1);
	assert_int_equal(feed(&r, "abc"), 1);
	assert_true(r.level);
	assert_int_equal(rd(&r, IIR), 0x04);
	assert_int_equal(r.rooms, 0);
	assert_int_equal(rd(&r, RBR), 'a');
	assert_int_equal(r.rooms, 1);
	assert_false(r.level);
	/* No character timeout either. */
	feed(&r, "b");
	wr(&r, IER, 0);
	clock_advance(r.clk, NSEC_PER_SEC);
	wr(&r, IER, 1);
	assert_int_equal(rd(&r, IIR), 0x04);
	rig_fini(&r);
}

/* One that reads what there is, and is given more each time. Returns how much it was
 * until there is no more, but at most 'most'. */
static unsigned read_on(struct rig *r, unsigned most)
{
	unsigned n = 0;

	while (n < most && (feed(r, "x") || rd(r, LSR) & 1)) {
		rd(r, RBR);
		n++;
	}
	return n;
}

/* Linux gives up an interrupt after 512 rounds, with the line high for good. */
static void serial_pauses_until_the_interrupt_is_over(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 1);
	r.rooms = 0;
	assert_in_range(read_on(&r, 2000), 100, 400);
	assert_int_equal(serial_rx_room(r.d), 0);
	assert_false(r.level);
	/* The handler looks whether there is more. */
	assert_int_equal(rd(&r, IIR) & 1, 1);
	assert_int_equal(r.rooms, 1);
	assert_in_range(read_on(&r, 2000), 100, 400);
	rig_fini(&r);
}

/* Nor does the line fall silent for one that does not look. */
static void serial_pauses_end_by_themselves(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 1);
	read_on(&r, 2000);
	r.rooms = 0;
	clock_advance(r.clk, 10000000);
	clock_run_timers(r.clk);
	assert_int_equal(r.rooms, 1);
	assert_in_range(read_on(&r, 2000), 100, 400);
	/* Without interrupts nobody waits for their end. */
	wr(&r, IER, 0);
	rd(&r, IIR);
	assert_int_equal(read_on(&r, 2000), 2000);
	rig_fini(&r);
}

/* A reset ends a pause, and empties what was full. */
static void serial_tells_of_room_after_a_reset(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 1);
	read_on(&r, 2000);
	assert_int_equal(serial_rx_room(r.d), 0);
	r.rooms = 0;
	serial_reset(r.d);
	assert_int_equal(r.rooms, 1);
	setup(&r, 0, 0);
	feed(&r, "0123456789abcdef");
	assert_int_equal(serial_rx_room(r.d), 0);
	r.rooms = 0;
	serial_reset(r.d);
	assert_int_equal(r.rooms, 1);
	rig_fini(&r);
}

static void serial_tells_of_room_once_it_was_full(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0);
	r.rooms = 0;
	assert_int_equal(feed(&r, "0123456789abcdefgh"), 16);
	assert_int_equal(serial_rx_room(r.d), 0);
	rd(&r, RBR);
	assert_int_equal(r.rooms, 1);
	rd(&r, RBR);
	assert_int_equal(r.rooms, 1);
	feed(&r, "gh");
	wr(&r, FCR, 0x03); /* clears the receiver */
	assert_int_equal(r.rooms, 2);
	assert_int_equal(rd(&r, LSR) & 1, 0);
	rig_fini(&r);
}

static void serial_input_is_wanted_while_its_interrupt_is_on(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x0e);
	assert_false(serial_rx_wanted(r.d));
	wr(&r, IER, 0x01);
	assert_true(serial_rx_wanted(r.d));
	rig_fini(&r);
}

static void serial_fifo_switch_clears_both(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x01);
	feed(&r, "abc");
	r.out_room = 0;
	wr(&r, THR, 'x');
	wr(&r, FCR, 0x00);
	assert_int_equal(rd(&r, LSR), 0x60);
	assert_false(r.level);
	/* Without the enable bit the others are not taken. */
	wr(&r, FCR, 0xc6);
	assert_int_equal(rd(&r, IIR), 0x01);
	rig_fini(&r);
}

static void serial_loopback_returns_data_and_lines(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0);
	rd(&r, MSR);
	wr(&r, MCR, 0x10);
	assert_int_equal(rd(&r, MSR) & 0xf0, 0x00);
	wr(&r, MCR, 0x1a); /* as Linux probes: RTS and OUT2 */
	assert_int_equal(rd(&r, MSR) & 0xf0, 0x90);
	wr(&r, MCR, 0x15);
	assert_int_equal(rd(&r, MSR) & 0xf0, 0x60);
	wr(&r, THR, 'x');
	assert_int_equal(r.out_len, 0);
	assert_int_equal(rd(&r, RBR), 'x');
	/* The outside does not come in. */
	assert_int_equal(serial_rx_room(r.d), 0);
	assert_int_equal(feed(&r, "a"), 0);
	serial_rx_break(r.d);
	assert_int_equal(rd(&r, LSR) & 1, 0);
	/* A FIFO of 16, and then an overrun. */
	for (unsigned i = 0; i < 256; i++)
		wr(&r, THR, (u8)i);
	assert_int_equal(rd(&r, LSR), 0x63);
	assert_int_equal(rd(&r, LSR), 0x61);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(rd(&r, RBR), i);
	assert_int_equal(rd(&r, LSR), 0x60);
	r.rooms = 0;
	wr(&r, MCR, 0x0b);
	assert_int_equal(r.rooms, 1);
	assert_int_equal(rd(&r, MSR) & 0xf0, 0xb0);
	rig_fini(&r);
}

static void serial_overrun_without_fifo_replaces_the_byte(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r, MCR, 0x10);
	wr(&r, THR, 'a');
	wr(&r, THR, 'b');
	assert_int_equal(rd(&r, LSR), 0x63);
	assert_int_equal(rd(&r, RBR), 'b');
	rig_fini(&r);
}

static void serial_modem_changes_set_deltas(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x08);
	serial_set_modem(r.d, SERIAL_CTS | SERIAL_DSR | SERIAL_DCD);
	assert_false(r.level);
	serial_set_modem(r.d, SERIAL_CTS | SERIAL_DSR | SERIAL_DCD | SERIAL_RI);
	assert_false(r.level); /* only the end of ringing counts */
	assert_int_equal(rd(&r, MSR), 0xf0);
	serial_set_modem(r.d, SERIAL_CTS | SERIAL_DSR | SERIAL_DCD);
	assert_true(r.level);
	assert_int_equal(rd(&r, MSR), 0xb4);
	assert_int_equal(rd(&r, MSR), 0xb0);
	assert_false(r.level);
	rig_fini(&r);
}

static void serial_out2_gates_the_interrupt(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x01);
	wr(&r, MCR, 0x03);
	feed(&r, "a");
	assert_false(r.level);
	assert_int_equal(rd(&r, IIR), 0xc4);
	wr(&r, MCR, 0x0b);
	assert_true(r.level);
	wr(&r, MCR, 0x1b);
	assert_false(r.level);
	rig_fini(&r);
}

static void serial_error_shows_when_its_byte_is_next(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	setup(&r, 0, 0x04);
	feed(&r, "a");
	serial_rx_break(r.d);
	assert_false(r.level);
	assert_int_equal(rd(&r, LSR), 0xe1); /* somewhere in the FIFO */
	assert_int_equal(rd(&r, RBR), 'a');
	assert_true(r.level);
	assert_int_equal(rd(&r, LSR), 0xf1);
	assert_int_equal(rd(&r, LSR), 0x61);
	rig_fini(&r);
}

static void serial_table_covers_the_state(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&serial_desc), serial_desc.size);
}

static void serial_save_load_save_is_identical(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 }, y = { 0 };

	(void)state;
	rig_init(&a);
	rig_init(&b);
	setup(&a, 3, 0x0f);
	rd(&a, IIR);
	feed(&a, "abc");
	serial_rx_break(a.d);
	a.out_room = 0;
	wr(&a, THR, 'x');
	wr(&a, THR, 'y');
	serial_save(a.d, &x);
	assert_int_equal(serial_load(b.d, &x, NULL), 0);
	serial_save(b.d, &y);
	assert_int_equal(x.len, y.len);
	assert_memory_equal(x.data, y.data, x.len);
	/* It goes on: the timeout is armed, the transmitter holds its bytes. */
	clock_advance(b.clk, NSEC_PER_SEC);
	assert_true(b.level);
	assert_int_equal(rd(&b, IIR), 0xcc);
	serial_tx_ready(b.d);
	assert_memory_equal(b.out, "xy", 2);
	state_buf_fini(&x);
	state_buf_fini(&y);
	rig_fini(&a);
	rig_fini(&b);
}

static void serial_hostile_state_is_refused(void **state)
{
	struct rig a, b;
	struct state_buf x = { 0 };

	(void)state;
	rig_init(&a);
	setup(&a, 3, 0x0f);
	feed(&a, "abc");
	serial_save(a.d, &x);
	for (size_t bit = 0; bit < 8 * x.len; bit++) {
		x.data[bit / 8] ^= (u8)(1 << bit % 8);
		x.pos = 0;
		rig_init(&b);
		if (!serial_load(b.d, &x, NULL)) {
			/* Taken: then it must work. */
			for (unsigned reg = 0; reg < 8; reg++)
				rd(&b, reg);
			wr(&b, THR, 1);
			feed(&b, "0123456789abcdefgh");
			clock_advance(b.clk, NSEC_PER_SEC);
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
		cmocka_unit_test(serial_registers_have_reset_values),
		cmocka_unit_test(serial_unused_bits_read_zero),
		cmocka_unit_test(serial_dlab_selects_the_divisor),
		cmocka_unit_test(serial_transmits_at_once),
		cmocka_unit_test(serial_thre_stays_low_while_the_sink_is_full),
		cmocka_unit_test(serial_thre_interrupt_is_acknowledged_by_iir),
		cmocka_unit_test(serial_iir_read_acknowledges_only_what_it_reports),
		cmocka_unit_test(serial_interrupts_have_their_priorities),
		cmocka_unit_test(serial_receive_trigger_levels),
		cmocka_unit_test(serial_character_timeout_after_four_characters),
		cmocka_unit_test(serial_timeout_follows_rate_and_length),
		cmocka_unit_test(serial_without_fifo_holds_one_byte),
		cmocka_unit_test(serial_tells_of_room_once_it_was_full),
		cmocka_unit_test(serial_pauses_until_the_interrupt_is_over),
		cmocka_unit_test(serial_pauses_end_by_themselves),
		cmocka_unit_test(serial_tells_of_room_after_a_reset),
		cmocka_unit_test(serial_input_is_wanted_while_its_interrupt_is_on),
		cmocka_unit_test(serial_fifo_switch_clears_both),
		cmocka_unit_test(serial_loopback_returns_data_and_lines),
		cmocka_unit_test(serial_overrun_without_fifo_replaces_the_byte),
		cmocka_unit_test(serial_modem_changes_set_deltas),
		cmocka_unit_test(serial_out2_gates_the_interrupt),
		cmocka_unit_test(serial_error_shows_when_its_byte_is_next),
		cmocka_unit_test(serial_table_covers_the_state),
		cmocka_unit_test(serial_save_load_save_is_identical),
		cmocka_unit_test(serial_hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
