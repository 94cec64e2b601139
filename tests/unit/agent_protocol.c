/*
 * The agent of tools/initrd against docs/run-command.md: this is a small host half
 * on a pseudo-terminal, with the real agent at the other end running host commands.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/agent_proto.h"

struct host {
	int port;
	pid_t agent;
	size_t credit;
	/* Received and not yet parsed; what frames brought so far. */
	unsigned char buf[AGENT_HEADER + AGENT_OUTPUT_MAX];
	size_t len;
	char *out, *err;
	size_t out_len, err_len;
	int how, number; /* -1 before EXIT */
};

static unsigned get_le(const unsigned char *p, unsigned bytes)
{
	unsigned val = 0;

	while (bytes--)
		val = val << 8 | p[bytes];
	return val;
}

static void append(char **to, size_t *len, const unsigned char *p, size_t n)
{
	*to = realloc(*to, *len + n + 1);
	assert_non_null(*to);
	if (n)
		memcpy(*to + *len, p, n);
	*len += n;
	(*to)[*len] = 0;
}

static void take_frame(struct host *h, unsigned type, const unsigned char *p, size_t n)
{
	assert_int_equal(h->number, -1);
	switch (type) {
	case AGENT_HELLO:
		assert_int_equal(n, 10);
		assert_memory_equal(p, AGENT_MAGIC, 5);
		assert_int_equal(p[5], AGENT_VERSION);
		h->credit = get_le(p + 6, 4);
		break;
	case AGENT_CREDIT:
		assert_int_equal(n, 4);
		h->credit += get_le(p, 4);
		break;
	case AGENT_STDOUT: append(&h->out, &h->out_len, p, n); break;
	case AGENT_STDERR: append(&h->err, &h->err_len, p, n); break;
	case AGENT_EXIT:
		assert_int_equal(n, 2);
		h->how = p[0];
		h->number = p[1];
		break;
	default: fail_msg("frame of type %02x", type);
	}
	assert_true(h->credit <= AGENT_CREDIT_MAX);
}

/* Waits at most that long for bytes from the agent. False is silence or the end. */
static bool receive(struct host *h, int milliseconds)
{
	struct pollfd fd = { .fd = h->port, .events = POLLIN };
	ssize_t n;

	if (poll(&fd, 1, milliseconds) <= 0)
		return false;
	n = read(h->port, h->buf + h->len, sizeof(h->buf) - h->len);
	if (n <= 0)
		return false;
	h->len += (size_t)n;
	while (h->len >= AGENT_HEADER) {
		size_t len = get_le(h->buf + 1, 3);

		assert_true(len <= AGENT_OUTPUT_MAX);
		if (h->len < AGENT_HEADER + len)
			break;
		take_frame(h, h->buf[0], h->buf + AGENT_HEADER, len);
		h->len -= AGENT_HEADER + len;
		memmove(h->buf, h->buf + AGENT_HEADER + len, h->len);
	}
	return true;
}

/* Writes what the agent has room for, reading meanwhile. */
static void send_bytes(struct host *h, const void *data, size_t n, bool costs)
{
	const unsigned char *p = data;

	while (n) {
		size_t most = costs && h->credit < n ? h->credit : n;
		struct pollfd fd = { .fd = h->port, .events = POLLIN };
		ssize_t done;

		if (most)
			fd.events |= POLLOUT;
		assert_true(poll(&fd, 1, 5000) > 0);
		if (fd.revents & POLLIN)
			assert_true(receive(h, 0));
		done = most ? write(h->port, p, most) : 0;
		if (done <= 0)
			continue;
		p += done;
		n -= (size_t)done;
		if (costs)
			h->credit -= (size_t)done;
	}
}

static void send_frame(struct host *h, enum agent_frame type, const void *data, size_t n)
{
	unsigned char header[AGENT_HEADER] = { (unsigned char)type, (unsigned char)n,
					       (unsigned char)(n >> 8),
					       (unsigned char)(n >> 16) };
	bool costs = type == AGENT_ARG || type == AGENT_ENV || type == AGENT_CWD ||
		     type == AGENT_STDIN;

	send_bytes(h, header, sizeof(header), costs);
	send_bytes(h, data, n, costs);
}

static void send_stdin(struct host *h, const char *data, size_t n)
{
	while (n) {
		size_t len = h->credit > AGENT_HEADER ? h->credit - AGENT_HEADER : 0;

		if (!len) {
			assert_true(receive(h, 5000));
			continue;
		}
		len = len < n ? len : n;
		send_frame(h, AGENT_STDIN, data, len);
		data += len;
		n -= len;
	}
}

static void open_agent(struct host *h)
{
	char path[4096];

	memset(h, 0, sizeof(*h));
	h->how = h->number = -1;
	h->port = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_true(h->port >= 0);
	assert_int_equal(grantpt(h->port), 0);
	assert_int_equal(unlockpt(h->port), 0);
	assert_non_null(getenv("BUILD"));
	snprintf(path, sizeof(path), "%s/umbra-agent", getenv("BUILD"));
	h->agent = fork();
	if (h->agent == 0) {
		execl(path, path, ptsname(h->port), NULL);
		_exit(1);
	}
	while (!h->credit)
		assert_true(receive(h, 5000));
}

/* Starts `sh -c script`, or for a script without a space, that program. */
static void start(struct host *h, const char *script)
{
	if (strchr(script, ' ')) {
		send_frame(h, AGENT_ARG, "sh", 2);
		send_frame(h, AGENT_ARG, "-c", 2);
	}
	send_frame(h, AGENT_ARG, script, strlen(script));
	send_frame(h, AGENT_START, "", 0);
}

/* Runs to EXIT; then nothing may follow it. */
static void finish(struct host *h, enum agent_how how, int number)
{
	while (h->number < 0)
		assert_true(receive(h, 5000));
	while (receive(h, 5000))
		;
	assert_int_equal(h->how, how);
	assert_int_equal(h->number, number);
	waitpid(h->agent, NULL, 0);
	close(h->port);
	if (!h->out)
		append(&h->out, &h->out_len, NULL, 0);
	if (!h->err)
		append(&h->err, &h->err_len, NULL, 0);
}

static void done(struct host *h)
{
	free(h->out);
	free(h->err);
}

static void output_errors_and_status_arrive(void **state)
{
	struct host h;

	(void)state;
	open_agent(&h);
	start(&h, "echo out; echo err >&2; exit 7");
	finish(&h, AGENT_EXITED, 7);
	assert_string_equal(h.out, "out\n");
	assert_string_equal(h.err, "err\n");
	done(&h);
}

static void every_byte_passes_both_ways(void **state)
{
	static char data[300000];
	struct host h;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 256);
	open_agent(&h);
	start(&h, "cat");
	send_stdin(&h, data, sizeof(data));
	send_frame(&h, AGENT_STDIN, "", 0);
	finish(&h, AGENT_EXITED, 0);
	assert_int_equal(h.out_len, sizeof(data));
	assert_memory_equal(h.out, data, sizeof(data));
	done(&h);
}

static void a_command_that_does_not_read_stops_the_host(void **state)
{
	static char data[AGENT_CREDIT_MAX - AGENT_HEADER];
	unsigned char term = SIGTERM;
	struct host h;

	(void)state;
	open_agent(&h);
	/* The agent's ring and the pipe fill up; then credit ends. */
	start(&h, "sleep 60");
	for (int i = 0; i < 100 && h.credit > AGENT_HEADER; i++) {
		send_frame(&h, AGENT_STDIN, data, h.credit - AGENT_HEADER);
		while (h.credit <= AGENT_HEADER && receive(&h, 200))
			;
	}
	assert_true(h.credit <= AGENT_HEADER);
	/* A signal still gets through. */
	send_frame(&h, AGENT_SIGNAL, &term, 1);
	finish(&h, AGENT_SIGNALED, SIGTERM);
	done(&h);
}

static void input_may_come_before_start(void **state)
{
	struct host h;

	(void)state;
	open_agent(&h);
	send_stdin(&h, "early\n", 6);
	send_frame(&h, AGENT_STDIN, "", 0);
	start(&h, "cat");
	finish(&h, AGENT_EXITED, 0);
	assert_string_equal(h.out, "early\n");
	done(&h);
}

static void failures_to_start_are_as_in_a_shell(void **state)
{
	struct host h;

	(void)state;
	open_agent(&h);
	start(&h, "no-such-command");
	finish(&h, AGENT_EXITED, 127);
	assert_string_equal(h.err, "umbra: no-such-command: not found\n");
	done(&h);

	open_agent(&h);
	start(&h, "/etc/passwd");
	finish(&h, AGENT_EXITED, 126);
	assert_string_equal(h.err, "umbra: /etc/passwd: Permission denied\n");
	done(&h);

	open_agent(&h);
	send_frame(&h, AGENT_CWD, "/no/such", 8);
	start(&h, "true");
	finish(&h, AGENT_EXITED, 126);
	done(&h);

	open_agent(&h);
	send_frame(&h, AGENT_START, "", 0);
	finish(&h, AGENT_EXITED, 125);
	done(&h);
}

static void request_sets_environment_and_directory(void **state)
{
	struct host h;

	(void)state;
	open_agent(&h);
	send_frame(&h, AGENT_ENV, "COLOUR=blue", 11);
	send_frame(&h, AGENT_ENV, "HOME=/elsewhere", 15);
	send_frame(&h, AGENT_CWD, "/usr", 4);
	start(&h, "echo $COLOUR $HOME $PWD");
	finish(&h, AGENT_EXITED, 0);
	assert_string_equal(h.out, "blue /elsewhere /usr\n");
	done(&h);
}

static void long_arguments_pass(void **state)
{
	static char arg[AGENT_STRING_MAX];
	struct host h;

	(void)state;
	memset(arg, 'x', sizeof(arg));
	open_agent(&h);
	send_frame(&h, AGENT_ARG, "echo", 4);
	send_frame(&h, AGENT_ARG, arg, sizeof(arg));
	send_frame(&h, AGENT_ARG, "", 0);
	start(&h, "end");
	finish(&h, AGENT_EXITED, 0);
	assert_int_equal(h.out_len, sizeof(arg) + strlen("  end\n"));
	assert_memory_equal(h.out, arg, sizeof(arg));
	done(&h);
}

static void what_the_command_leaves_behind_is_not_waited_for(void **state)
{
	struct host h;

	(void)state;
	open_agent(&h);
	start(&h, "while :; do echo y; done & sleep 3 & kill -9 $$");
	finish(&h, AGENT_SIGNALED, SIGKILL);
	done(&h);
}

static void a_terminal_has_size_echo_and_end_of_file(void **state)
{
	static const unsigned char size[] = { 33, 0, 99, 0 },
				   new_size[] = { 40, 0, 44, 1 };
	struct host h;

	(void)state;
	open_agent(&h);
	send_frame(&h, AGENT_WINSIZE, size, sizeof(size));
	start(&h, "stty size; read x; stty size; cat; echo end");
	while (h.out_len < strlen("33 99\r\n"))
		assert_true(receive(&h, 5000));
	send_frame(&h, AGENT_WINSIZE, new_size, sizeof(new_size));
	send_stdin(&h, "go\n", 3);
	while (!h.out || !strstr(h.out, "40 300\r\n"))
		assert_true(receive(&h, 5000));
	send_frame(&h, AGENT_STDIN, "", 0);
	finish(&h, AGENT_EXITED, 0);
	assert_string_equal(h.out, "33 99\r\ngo\r\n40 300\r\nend\r\n");
	done(&h);
}

static void a_host_beyond_its_credit_is_refused(void **state)
{
	static const unsigned char header[] = { AGENT_STDIN, 0, 0, 1 };
	struct host h;

	(void)state;
	open_agent(&h);
	send_bytes(&h, header, sizeof(header), false);
	finish(&h, AGENT_EXITED, 125);
	assert_string_equal(h.err, "umbra-agent: the host broke the protocol\n");
	done(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_errors_and_status_arrive),
		cmocka_unit_test(every_byte_passes_both_ways),
		cmocka_unit_test(a_command_that_does_not_read_stops_the_host),
		cmocka_unit_test(input_may_come_before_start),
		cmocka_unit_test(failures_to_start_are_as_in_a_shell),
		cmocka_unit_test(request_sets_environment_and_directory),
		cmocka_unit_test(long_arguments_pass),
		cmocka_unit_test(what_the_command_leaves_behind_is_not_waited_for),
		cmocka_unit_test(a_terminal_has_size_echo_and_end_of_file),
		cmocka_unit_test(a_host_beyond_its_credit_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
