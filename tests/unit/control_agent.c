/*
 * The host half of docs/run-command.md against a guest made of the registers of a serial
 * port. The real agent is at the other end in tests/boot/command.sh.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "control/agent.h"
#include "control/agent_proto.h"
#include "control/writer.h"
#include "dev/serial.h"
#include "host/loop.h"

enum { THR = 0, RBR = 0, FCR = 2, LSR = 5 };
enum { LSR_DR = 0x01, LSR_THRE = 0x20 };

struct rig {
	struct clock *clk;
	struct serial *port;
	struct loop *loop;
	struct agent *agent;
	struct writer *out, *err;
	int out_fd, err_fd;
	unsigned hellos, rooms, ends;
	u8 got[2 << 20]; /* what the guest has read */
	size_t got_len;
};

static void no_irq(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static void hello(void *opaque)
{
	struct rig *r = opaque;

	r->hellos++;
}

static void room(void *opaque)
{
	struct rig *r = opaque;

	r->rooms++;
}

static void ended(void *opaque)
{
	struct rig *r = opaque;

	r->ends++;
}

static struct rig *rig_new_with(char **argv, bool tty)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct error err = { 0 };
	struct agent_config cfg = {
		.argv = argv,
		.tty = tty,
		.rows = 24,
		.cols = 80,
		.term = "vt100",
		.hello = hello,
		.room = room,
		.ended = ended,
		.opaque = r,
	};

	assert_non_null(r);
	r->out = cfg.out = writer_new("out", 64);
	r->err = cfg.err = writer_new("err", 64);
	r->out_fd = memfd_create("out", 0);
	r->err_fd = memfd_create("err", 0);
	assert_int_equal(agent_new(&r->agent, &cfg, &err), 0);
	r->clk = clock_new_manual();
	r->loop = loop_new(&err);
	r->port = serial_new(1, r->clk, (struct irq_line){ .set = no_irq },
			     agent_sink(r->agent));
	agent_attach(r->agent, r->loop, r->port);
	serial_ops.write(r->port, FCR, 1, 1);
	return r;
}

static struct rig *rig_new(void)
{
	char *argv[] = { (char[]){ "echo" }, (char[]){ "" }, (char[]){ "a b" }, NULL };

	return rig_new_with(argv, false);
}

static void start_writers(struct rig *r)
{
	struct error err = { 0 };

	assert_int_equal(writer_start(r->out, r->out_fd, &err), 0);
	assert_int_equal(writer_start(r->err, r->err_fd, &err), 0);
}

static void rig_free(struct rig *r)
{
	agent_detach(r->agent);
	writer_free(r->out);
	writer_free(r->err);
	serial_free(r->port);
	agent_free(r->agent);
	loop_free(r->loop);
	clock_free(r->clk);
	close(r->out_fd);
	close(r->err_fd);
	free(r);
}

static void stop(void *opaque)
{
	loop_stop(opaque, 0);
}

/* Let the loop do what was posted, and the guest read, until nothing comes any more. */
static void turn(struct rig *r)
{
	size_t before;

	do {
		struct loop_work work = { .run = stop, .opaque = r->loop };

		before = r->got_len;
		loop_post(r->loop, &work);
		loop_run(r->loop);
		while (serial_ops.read(r->port, LSR, 1) & LSR_DR) {
			assert_true(r->got_len < sizeof(r->got));
			r->got[r->got_len++] = (u8)serial_ops.read(r->port, RBR, 1);
		}
	} while (r->got_len != before);
}

/* The guest writes; how much the port took. */
static size_t guest_write(struct rig *r, const void *data, size_t len)
{
	const u8 *p = data;
	size_t n = 0;

	while (n < len && serial_ops.read(r->port, LSR, 1) & LSR_THRE)
		serial_ops.write(r->port, THR, p[n++], 1);
	return n;
}

static void guest_frame(struct rig *r, u8 type, const void *payload, u32 len)
{
	u8 header[AGENT_HEADER] = { type, (u8)len, (u8)(len >> 8), (u8)(len >> 16) };

	assert_int_equal(guest_write(r, header, sizeof(header)), sizeof(header));
	assert_int_equal(guest_write(r, payload, len), len);
}

static void guest_hello(struct rig *r, u32 credit)
{
	u8 payload[10] = AGENT_MAGIC;

	payload[5] = AGENT_VERSION;
	le_store(payload + 6, credit, 4);
	guest_frame(r, AGENT_HELLO, payload, sizeof(payload));
	turn(r);
}

static void guest_credit(struct rig *r, u32 credit)
{
	guest_frame(r, AGENT_CREDIT, &credit, 4);
	turn(r);
}

static void got(struct rig *r, const void *want, size_t len)
{
	assert_int_equal(r->got_len, len);
	assert_memory_equal(r->got, want, len);
	r->got_len = 0;
}

#define REQUEST "A\4\0\0echoA\0\0\0A\3\0\0a bS\0\0\0"

static void nothing_is_sent_before_hello(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	turn(r);
	agent_input(r->agent, (const u8 *)"early", 5);
	turn(r);
	got(r, "", 0);
	assert_false(agent_started(r->agent));
	guest_hello(r, 1000);
	assert_int_equal(r->hellos, 1);
	assert_true(agent_started(r->agent));
	got(r, REQUEST "I\5\0\0early", sizeof(REQUEST) - 1 + 9);
	rig_free(r);
}

static void noise_before_hello_is_skipped(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	guest_write(r, "H\n\0\1HH\n\0C\4\0\0zzzzH", 17);
	guest_hello(r, 1000);
	assert_int_equal(r->hellos, 1);
	got(r, REQUEST, sizeof(REQUEST) - 1);
	rig_free(r);
}

static void request_waits_for_credit_inside_a_frame(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	guest_hello(r, 6);
	got(r, "A\4\0\0ec", 6);
	guest_credit(r, 2);
	got(r, "ho", 2);
	agent_signal(r->agent, 15);
	turn(r);
	got(r, "", 0);
	guest_credit(r, 11);
	/* START and SIGNAL cost nothing. */
	got(r, "A\0\0\0A\3\0\0a bS\0\0\0K\1\0\0\17", 20);
	rig_free(r);
}

static void terminal_is_asked_for_first(void **state)
{
	char *argv[] = { (char[]){ "sh" }, NULL };
	struct rig *r = rig_new_with(argv, true);

	(void)state;
	guest_hello(r, 1000);
	got(r, "W\4\0\0\30\0\120\0V\12\0\0TERM=vt100A\2\0\0shS\0\0\0", 8 + 14 + 6 + 4);
	agent_resize(r->agent, 0x102, 3);
	turn(r);
	got(r, "W\4\0\0\2\1\3\0", 8);
	rig_free(r);
}

static void stdin_stays_within_credit(void **state)
{
	struct rig *r = rig_new();
	u8 data[100];

	(void)state;
	memset(data, 'x', sizeof(data));
	guest_hello(r, 19 + 4);
	r->got_len = 0;
	agent_input(r->agent, data, sizeof(data));
	agent_input_end(r->agent);
	turn(r);
	/* A frame without a byte in it would be an end of file. */
	got(r, "", 0);
	guest_credit(r, 1);
	got(r, "I\1\0\0x", 5);
	guest_credit(r, 10);
	got(r, "I\6\0\0xxxxxx", 10);
	guest_credit(r, 97);
	assert_int_equal(r->got_len, 97);
	r->got_len = 0;
	guest_credit(r, 3);
	got(r, "", 0);
	guest_credit(r, 1);
	got(r, "I\0\0\0", 4);
	rig_free(r);
}

static void stdin_room_comes_back(void **state)
{
	struct rig *r = rig_new();
	u8 data[1000] = { 0 };
	size_t all = agent_room(r->agent), put = 0, sent = 0;

	(void)state;
	while (agent_room(r->agent) >= sizeof(data)) {
		agent_input(r->agent, data, sizeof(data));
		put += sizeof(data);
	}
	guest_hello(r, AGENT_CREDIT_MAX);
	while (agent_room(r->agent) < all) {
		guest_credit(r, AGENT_CREDIT_MAX);
		sent++;
		assert_true(sent < 100);
	}
	assert_true(r->rooms > 0);
	assert_true(r->got_len >= put);
	rig_free(r);
}

static void credit_of_a_hostile_guest_is_capped(void **state)
{
	struct rig *r = rig_new();
	static const u8 data[60000];

	(void)state;
	guest_hello(r, UINT32_MAX);
	r->got_len = 0;
	guest_frame(r, AGENT_CREDIT, "\377\377\377\377", 4);
	guest_frame(r, AGENT_CREDIT, "\377\377\377\377", 4);
	agent_input(r->agent, data, sizeof(data));
	turn(r);
	assert_true(r->got_len <= AGENT_CREDIT_MAX);
	rig_free(r);
}

static void output_goes_to_its_streams(void **state)
{
	struct rig *r = rig_new();
	char buf[32];

	(void)state;
	start_writers(r);
	/* Not before HELLO. */
	guest_frame(r, AGENT_STDOUT, "no", 2);
	guest_hello(r, 0);
	guest_frame(r, AGENT_STDOUT, "out", 3);
	guest_frame(r, AGENT_STDERR, "error", 5);
	guest_frame(r, 'z', "unknown, and longer than is kept", 32);
	guest_frame(r, AGENT_STDOUT, "put", 3);
	writer_drain(r->out, 0);
	writer_drain(r->err, 0);
	assert_int_equal(pread(r->out_fd, buf, sizeof(buf), 0), 6);
	assert_memory_equal(buf, "output", 6);
	assert_int_equal(pread(r->err_fd, buf, sizeof(buf), 0), 5);
	assert_memory_equal(buf, "error", 5);
	rig_free(r);
}

static void full_output_stops_the_transmitter(void **state)
{
	struct rig *r = rig_new();
	u8 data[200];
	size_t n;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (u8)i;
	guest_hello(r, 0);
	guest_write(r, "O\310\0\0", 4);
	/* The writer has 64, and then the byte in the transmitter waits. */
	n = guest_write(r, data, sizeof(data));
	assert_int_equal(n, 65);
	assert_int_equal(guest_write(r, "x", 1), 0);
	start_writers(r);
	while (n < sizeof(data)) {
		serial_tx_ready(r->port);
		n += guest_write(r, data + n, sizeof(data) - n);
	}
	writer_drain(r->out, 0);
	serial_tx_ready(r->port);
	writer_drain(r->out, 0);
	assert_int_equal(pread(r->out_fd, r->got, 1000, 0), sizeof(data));
	assert_memory_equal(r->got, data, sizeof(data));
	rig_free(r);
}

static void exit_ends_once_and_nothing_counts_after(void **state)
{
	struct rig *r = rig_new();
	char byte;

	(void)state;
	start_writers(r);
	guest_hello(r, 1000);
	assert_int_equal(agent_status(r->agent), -1);
	guest_frame(r, AGENT_EXIT, "\0\7", 2);
	guest_frame(r, AGENT_STDOUT, "late", 4);
	guest_frame(r, AGENT_EXIT, "\0\10", 2);
	turn(r);
	turn(r);
	assert_int_equal(r->ends, 1);
	assert_int_equal(agent_status(r->agent), 7);
	writer_drain(r->out, 0);
	assert_int_equal(pread(r->out_fd, &byte, 1, 0), 0);
	rig_free(r);
}

static void signals_are_statuses_above_128(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	guest_hello(r, 1000);
	guest_frame(r, AGENT_EXIT, "\1\11", 2);
	turn(r);
	assert_int_equal(agent_status(r->agent), 137);
	rig_free(r);
}

static void short_frames_are_ignored(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	guest_frame(r, AGENT_HELLO, "umbra\1", 6);
	turn(r);
	assert_int_equal(r->hellos, 0);
	guest_hello(r, 1000);
	r->got_len = 0;
	guest_frame(r, AGENT_CREDIT, "\1", 1);
	guest_frame(r, AGENT_EXIT, "\0", 1);
	guest_frame(r, AGENT_EXIT, "", 0);
	turn(r);
	assert_int_equal(r->ends, 0);
	assert_int_equal(agent_status(r->agent), -1);
	rig_free(r);
}

static void long_command_is_refused(void **state)
{
	char *argv[12] = { NULL };
	struct agent_config cfg = { .argv = argv };
	struct error err = { 0 };
	struct agent *a;

	(void)state;
	argv[0] = calloc(1, AGENT_STRING_MAX + 2);
	assert_non_null(argv[0]);
	memset(argv[0], 'x', AGENT_STRING_MAX + 1);
	assert_int_equal(agent_new(&a, &cfg, &err), -E2BIG);
	argv[0][AGENT_STRING_MAX] = 0;
	assert_int_equal(agent_new(&a, &cfg, &err), 0);
	agent_free(a);
	for (unsigned i = 1; i < 9; i++)
		argv[i] = argv[0];
	assert_int_equal(agent_new(&a, &cfg, &err), -E2BIG);
	argv[8] = NULL;
	assert_int_equal(agent_new(&a, &cfg, &err), 0);
	agent_free(a);
	free(argv[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_sent_before_hello),
		cmocka_unit_test(noise_before_hello_is_skipped),
		cmocka_unit_test(request_waits_for_credit_inside_a_frame),
		cmocka_unit_test(terminal_is_asked_for_first),
		cmocka_unit_test(stdin_stays_within_credit),
		cmocka_unit_test(stdin_room_comes_back),
		cmocka_unit_test(credit_of_a_hostile_guest_is_capped),
		cmocka_unit_test(output_goes_to_its_streams),
		cmocka_unit_test(full_output_stops_the_transmitter),
		cmocka_unit_test(exit_ends_once_and_nothing_counts_after),
		cmocka_unit_test(signals_are_statuses_above_128),
		cmocka_unit_test(short_frames_are_ignored),
		cmocka_unit_test(long_command_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
