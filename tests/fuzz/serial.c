/*
 * The 16550A driven by arbitrary accesses, received bytes, a sink that fills up, and
 * time. Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "dev/serial.h"

struct sink {
	size_t room;
};

static size_t sink_write(void *opaque, const u8 *buf, size_t len)
{
	struct sink *s = opaque;
	size_t n = len < s->room ? len : s->room;

	(void)buf;
	check(len > 0 && len <= 16);
	s->room -= n;
	return n;
}

static void room_told(void *opaque)
{
	struct serial **d = opaque;

	check(serial_rx_room(*d) > 0);
}

static void receive(struct serial *d, u8 v)
{
	u8 buf[32] = { v };
	size_t room = serial_rx_room(d), n = v & 31;

	check(room <= 16);
	check(serial_rx(d, buf, n) == (n < room ? n : room));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct sink sink = { .room = 16 };
	struct fuzz_time t;
	struct serial *d;

	fuzz_time_init(&t, 1);
	d = serial_new(1, t.clk, fuzz_line(&t, 0),
		       (struct chardev_sink){ sink_write, &sink });
	serial_set_room_notify(d, room_told, &d);
	for (size_t i = 0; i + 1 < size && i < 4096; i += 2) {
		unsigned op = data[i] & 15, reg = data[i] >> 4 & 7;
		u8 v = data[i + 1];

		switch (op) {
		case 0:
		case 1:
		case 2:
		case 3: serial_ops.write(d, reg, v, 1); break;
		case 4:
		case 5:
		case 6: check(serial_ops.read(d, reg, 1) <= 0xff); break;
		case 7: receive(d, v); break;
		case 8:
			sink.room = v & 31;
			serial_tx_ready(d);
			break;
		case 9: serial_rx_break(d); break;
		case 10: serial_set_modem(d, v); break;
		case 11: FUZZ_SAVE_LOAD(serial, d, 0); break;
		case 12: FUZZ_SAVE_LOAD(serial, d, v << 3 | reg); break;
		case 13:
			if (v == 0)
				serial_reset(d);
			break;
		default: fuzz_pass(&t, v); break;
		}
	}
	serial_free(d);
	clock_free(t.clk);
	return 0;
}
