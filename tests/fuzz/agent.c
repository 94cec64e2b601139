/*
 * The host half of docs/run-command.md and a guest that says anything. Input: what the
 * guest's port writes, with bytes FEh that make the host act in between and FFh that
 * stand for themselves.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <sys/types.h>

#include "base/bits.h"
#include "base/log.h"
#include "control/agent.h"
#include "control/agent_proto.h"
#include "control/writer.h"
#include "dev/serial.h"
#include "host/loop.h"
#include "time/clock.h"

static void nothing(void *opaque)
{
	(void)opaque;
}

static void no_irq(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static void stop(void *opaque)
{
	loop_stop(opaque, 0);
}

/* The loop runs once, and the guest reads some of what is there. */
static void turn(struct loop *loop, struct serial *port, struct agent *a, unsigned n)
{
	struct loop_work work = { .run = stop, .opaque = loop };
	static const u8 data[256];

	if (n & 1)
		agent_input(a, data, MIN(agent_room(a), (size_t)n));
	if (n & 2)
		agent_signal(a, n >> 2);
	if (n & 4)
		agent_resize(a, (u16)n, (u16)n);
	if (n == 255)
		agent_input_end(a);
	loop_post(loop, &work);
	loop_run(loop);
	for (unsigned i = 0; i < n; i++)
		serial_ops.read(port, 0, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[] = { (char[]){ "a" }, (char[]){ "command" }, NULL };
	struct agent_config cfg = {
		.argv = argv,
		.tty = size & 1,
		.term = "t",
		.out = writer_new("out", 256),
		.err = writer_new("err", 256),
		.hello = nothing,
		.room = nothing,
		.ended = nothing,
	};
	struct chardev_sink sink;
	struct serial *port;
	struct clock *clk = clock_new_manual();
	struct error err = { 0 };
	struct loop *loop = loop_new(&err);
	struct agent *a;

	log_set_level(LOG_ERROR);
	if (!loop || agent_new(&a, &cfg, &err))
		abort();
	sink = agent_sink(a);
	port = serial_new(0, clk, (struct irq_line){ .set = no_irq }, sink);
	agent_attach(a, loop, port);
	for (size_t i = 0; i < size && i < 8192; i++) {
		if (data[i] == 0xfe && i + 1 < size)
			turn(loop, port, a, data[++i]);
		else
			sink.write(sink.opaque, data + i, 1);
	}
	if (agent_status(a) > 255)
		abort();
	agent_detach(a);
	serial_free(port);
	agent_free(a);
	writer_free(cfg.out);
	writer_free(cfg.err);
	loop_free(loop);
	clock_free(clk);
	return 0;
}
