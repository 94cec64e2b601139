/*
 * What happens from outside while the machine runs: keys, signals, the end of the
 * command.
 *
 * All on the thread that is in pc_run().
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "control/agent.h"
#include "control/console.h"
#include "control/feed.h"
#include "control/input.h"
#include "control/session.h"
#include "control/statsprint.h"
#include "control/term.h"
#include "dev/serial.h"
#include "host/loop.h"
#include "time/clock.h"

#define WINSIZE_PORT 1 /* COM2: tools/initrd/init reads sizes from it */

/* ---- Ctrl-a ---- */

static void show_help(void)
{
	term_say("\nCtrl-a x       leave: switches the machine off at once\n"
		 "Ctrl-a c       what the machine does, in one line\n"
		 "Ctrl-a s       statistics\n"
		 "Ctrl-a Ctrl-a  a Ctrl-a for the guest\n"
		 "Ctrl-a h       this\n");
}

static void show_status(struct session *s, bool all)
{
	struct stats_context ctx = {
		.engine = s->engine->name,
		.end = "running",
		.cpus = vm_cpus(pc_vm(s->pc)),
		.ram_size = s->o.ram_size,
		.elapsed_ns = clock_now(s->clock),
		.vm = pc_vm(s->pc),
	};
	struct vcpu_stats sum = { 0 };
	char line[256], *text = NULL;
	size_t size;
	FILE *f;

	vm_stats(pc_vm(s->pc), &sum);
	stats_line(line, sizeof(line), &sum, &ctx);
	term_say("\numbra: %s\n", line);
	f = all ? open_memstream(&text, &size) : NULL;
	if (!f)
		return;
	stats_print(f, &sum, &ctx);
	fclose(f);
	term_say("%s", text);
	free(text);
}

static void key(void *opaque, u8 c)
{
	struct session *s = opaque;

	switch (c) {
	case 'x':
		s->left = true;
		pc_end(s->pc, VM_STOPPED);
		break;
	case 'h':
	case '?': show_help(); break;
	case 'c': show_status(s, false); break;
	case 's': show_status(s, true); break;
	default: break;
	}
}

/* ---- signals ---- */

static void resized(struct session *s)
{
	int fd = s->o.command ? STDOUT_FILENO : STDIN_FILENO;
	char line[32];
	u16 rows, cols;

	if (!s->terminal.terminal || !term_size(fd, &rows, &cols))
		return;
	if (s->agent) {
		agent_resize(s->agent, rows, cols);
		return;
	}
	/* Only /init of our guest listens. */
	if (!s->winsize || !serial_rx_wanted(pc_serial(s->pc, WINSIZE_PORT)))
		return;
	snprintf(line, sizeof(line), "%u %u\n", rows, cols);
	feed_put(s->winsize, line, strlen(line));
}

/* A request to end: the first one is for the command, if it runs. */
static void end_request(struct session *s, int sig)
{
	if (s->agent && agent_started(s->agent) && !s->told) {
		s->told = true;
		agent_signal(s->agent, sig);
		return;
	}
	s->signal = sig;
	pc_end(s->pc, VM_STOPPED);
}

static void signalled(void *opaque, unsigned events)
{
	struct session *s = opaque;
	int sig;

	(void)events;
	while ((sig = term_signals_next(&s->signals))) {
		switch (sig) {
		case SIGWINCH: resized(s); break;
		case SIGTSTP:
			/* No time passes for the guest meanwhile. */
			clock_stop(s->clock);
			term_suspend();
			clock_start(s->clock);
			resized(s);
			break;
		case SIGCONT:
			term_continue();
			resized(s);
			break;
		default: end_request(s, sig); break;
		}
	}
}

/* ---- the command ---- */

void events_hello(void *opaque)
{
	struct session *s = opaque;
	struct error err = { 0 };

	/* Until now Ctrl-C was a signal for us; from here on it is a key for the command.
	 */
	if (s->terminal.terminal && term_raw(STDIN_FILENO, &err))
		log_warn("%s", err.msg);
}

void events_room(void *opaque)
{
	struct session *s = opaque;

	if (s->input)
		input_resume(s->input);
}

void events_ended(void *opaque)
{
	struct session *s = opaque;

	pc_end(s->pc, VM_STOPPED);
}

static size_t command_room(void *opaque)
{
	struct session *s = opaque;

	return agent_room(s->agent);
}

static void command_take(void *opaque, const u8 *buf, size_t len)
{
	struct session *s = opaque;

	agent_input(s->agent, buf, len);
}

static void command_eof(void *opaque)
{
	struct session *s = opaque;

	agent_input_end(s->agent);
}

static const struct input_ops command_input = {
	.room = command_room,
	.take = command_take,
	.eof = command_eof,
	.key = key,
};

/* ---- public ---- */

static int open_console(struct session *s, struct error *err)
{
	unsigned port = 0;
	int ret;

	while (s->o.serial[port].backend != BACKEND_STDIO)
		port++;
	if (s->terminal.terminal) {
		ret = term_raw(STDIN_FILENO, err);
		if (ret)
			return ret;
		if (s->guest.ours && port != WINSIZE_PORT && !s->console[WINSIZE_PORT])
			s->winsize = feed_new(pc_serial(s->pc, WINSIZE_PORT), 256);
	}
	return console_input(s->console[port], STDIN_FILENO, s->terminal.terminal,
			     s->first, s->first_len, s->terminal.at_end, key, s, err);
}

int events_open(struct session *s, struct error *err)
{
	int ret = term_signals_open(&s->signals, err);

	if (ret < 0)
		return ret;
	s->watch = loop_add(pc_loop(s->pc), s->signals.pipe[0], LOOP_READ, signalled, s,
			    err);
	if (!s->watch)
		return -EINVAL;
	if (s->terminal.console)
		return open_console(s, err);
	if (!s->agent)
		return 0;
	s->input = input_new(pc_loop(s->pc), STDIN_FILENO, s->terminal.terminal,
			     &command_input, s, err);
	return s->input ? 0 : -EINVAL;
}

void events_close(struct session *s)
{
	input_free(s->input);
	s->input = NULL;
	feed_free(s->winsize);
	s->winsize = NULL;
	term_restore();
	if (s->watch)
		loop_remove(s->watch);
	s->watch = NULL;
	term_signals_close(&s->signals);
}
