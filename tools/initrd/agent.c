/*
 * The guest's half of `umbra run -- COMMAND`: runs one command for the host.
 *
 * docs/run-command.md describes the protocol; this is its guest side. The agent
 * is process 1, started by /init with the port as its argument. One loop moves
 * bytes between port and command and blocks on neither: what it receives has
 * room, because the host only sends what it was granted, and the command's
 * output is read only while a frame of it fits. Linked statically, so that the
 * guest needs no C library. When it is not process 1 (in tests) it ends where it
 * would power off.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "control/agent_proto.h"

enum {
	STATUS_PROTOCOL = 125,
	STATUS_CANNOT_RUN = 126,
	STATUS_NOT_FOUND = 127,

	/* Set aside in the output for CREDIT, EXIT and a message. */
	OUTPUT_RESERVE = 256,
	/* What a terminal may still hold beyond FIONREAD when its command ends. */
	TERMINAL_SLACK = 16384,
};

/* Frames on their way to the host. */
struct output {
	unsigned char buf[16 * AGENT_OUTPUT_MAX];
	size_t len;
};

/* Standard input on its way to the command: a ring the size of the credit. */
struct input {
	unsigned char buf[AGENT_CREDIT_MAX];
	size_t start, len;
	bool eof;
};

/* Standard output or error on its way from the command. */
struct stream {
	int fd; /* -1 is closed */
	enum agent_frame type;
};

/* A NULL-terminated vector, as execve wants it. */
struct strings {
	char **v;
	size_t n;
};

struct agent {
	int port;
	int sigchld; /* signalfd */

	/* The frame being received. The payload of STDIN goes to `in` at once. */
	unsigned char header[AGENT_HEADER];
	size_t header_len;
	char *payload;
	size_t payload_len, payload_left;

	/* The request. */
	struct strings argv, env;
	size_t request_size;
	char *cwd;
	bool tty;
	struct winsize size;

	/* The command. With a terminal, its master is to_stdin and out. */
	pid_t pid;
	int to_stdin;
	struct stream out, err;
	bool started, ended, broken;
	size_t drain; /* once it has ended: output still to be sent */
	unsigned char how, number;

	struct input input;
	struct output output;
	unsigned owed; /* credit to give back */
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

static unsigned get_le(const void *from, unsigned bytes)
{
	const unsigned char *p = from;
	unsigned val = 0;

	for (unsigned i = 0; i < bytes; i++)
		val |= (unsigned)p[i] << (8 * i);
	return val;
}

static void put_le(unsigned char *p, unsigned val, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (unsigned char)(val >> (8 * i));
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* To the host. */

static bool output_fits(const struct output *o, size_t payload)
{
	return sizeof(o->buf) - o->len >= AGENT_HEADER + payload;
}

static void output_frame(struct output *o, enum agent_frame type, const void *payload,
			 size_t len)
{
	if (!output_fits(o, len))
		abort();
	o->buf[o->len] = (unsigned char)type;
	put_le(o->buf + o->len + 1, (unsigned)len, 3);
	memcpy(o->buf + o->len + AGENT_HEADER, payload, len);
	o->len += AGENT_HEADER + len;
}

static void output_write(struct output *o, int port)
{
	ssize_t n = write(port, o->buf, o->len);

	if (n <= 0)
		return;
	o->len -= (size_t)n;
	memmove(o->buf, o->buf + n, o->len);
}

/* In larger pieces: a frame of eight bytes for every few would be dear. */
static void give_credit(struct agent *a)
{
	unsigned char credit[4];

	if (a->owed < AGENT_CREDIT_MAX / 4 || !output_fits(&a->output, sizeof(credit)))
		return;
	put_le(credit, a->owed, sizeof(credit));
	output_frame(&a->output, AGENT_CREDIT, credit, sizeof(credit));
	a->owed = 0;
}

/* The end of the command. Its output so far is still to be sent. */
static void finish(struct agent *a, enum agent_how how, int number)
{
	int out = 0, err = 0;

	if (a->ended)
		return;
	a->ended = true;
	a->how = (unsigned char)how;
	a->number = (unsigned char)number;
	if (a->out.fd >= 0)
		ioctl(a->out.fd, FIONREAD, &out);
	if (a->err.fd >= 0)
		ioctl(a->err.fd, FIONREAD, &err);
	a->drain = (size_t)out + (size_t)err + TERMINAL_SLACK;
}

static void refuse(struct agent *a, const char *why)
{
	if (output_fits(&a->output, strlen(why)))
		output_frame(&a->output, AGENT_STDERR, why, strlen(why));
	a->broken = true;
	finish(a, AGENT_EXITED, STATUS_PROTOCOL);
}

/* From the command: one read. Without data after its end, the stream is done. */
static void collect(struct agent *a, struct stream *s)
{
	char buf[AGENT_OUTPUT_MAX];
	ssize_t n;

	if (s->fd < 0 || !output_fits(&a->output, sizeof(buf) + OUTPUT_RESERVE))
		return;
	n = read(s->fd, buf, sizeof(buf));
	if (n > 0) {
		output_frame(&a->output, s->type, buf, (size_t)n);
		if (!a->ended)
			return;
		/* Its children may write for ever; that is not waited for. */
		a->drain -= (size_t)n < a->drain ? (size_t)n : a->drain;
		if (!a->drain)
			close_fd(&s->fd);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR) || a->ended) {
		close_fd(&s->fd);
	}
}

/* To the command. */
static void feed(struct agent *a)
{
	struct input *in = &a->input;
	size_t run = sizeof(in->buf) - in->start;
	ssize_t n = 0;

	if (in->len) {
		n = write(a->to_stdin, in->buf + in->start,
			  in->len < run ? in->len : run);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
	}
	if (n < 0) {
		/* The command has closed it: what is left is dropped, unpaid. */
		close_fd(&a->to_stdin);
		in->len = 0;
		return;
	}
	in->start = (in->start + (size_t)n) % sizeof(in->buf);
	in->len -= (size_t)n;
	a->owed += (unsigned)n;
	if (in->eof && !in->len && !a->tty)
		close_fd(&a->to_stdin);
}

/* Starting the command. */

static _Noreturn void child_fail(const char *name, const char *why, int status)
{
	const char *parts[] = { "umbra: ", name, ": ", why, "\n" };

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
			break;
	_exit(status);
}

static _Noreturn void child_run(struct agent *a, const int fds[3])
{
	char **argv = a->argv.v;
	sigset_t none;

	setsid();
	if (a->tty)
		ioctl(fds[0], TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		dup2(fds[i], i);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);

	if (chdir(a->cwd) < 0)
		child_fail(a->cwd, strerror(errno), STATUS_CANNOT_RUN);
	environ = a->env.v;
	execvp(argv[0], argv);
	if (errno == ENOENT)
		child_fail(argv[0], "not found", STATUS_NOT_FOUND);
	child_fail(argv[0], strerror(errno), STATUS_CANNOT_RUN);
}

/* Makes the command's three descriptors; the other ends are ours. */
static bool open_pipes(struct agent *a, int fds[3])
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 ||
	    pipe2(err, O_CLOEXEC) < 0)
		return false;
	fds[0] = in[0];
	fds[1] = out[1];
	fds[2] = err[1];
	a->to_stdin = in[1];
	a->out.fd = out[0];
	a->err.fd = err[0];
	fcntl(a->to_stdin, F_SETFL, O_NONBLOCK);
	fcntl(a->out.fd, F_SETFL, O_NONBLOCK);
	fcntl(a->err.fd, F_SETFL, O_NONBLOCK);
	return true;
}

static bool open_terminal(struct agent *a, int fds[3])
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);

	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
		return false;
	ioctl(master, TIOCSWINSZ, &a->size);
	for (int i = 0; i < 3; i++) {
		fds[i] = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (fds[i] < 0)
			return false;
	}
	a->out.fd = master;
	a->to_stdin = fcntl(master, F_DUPFD_CLOEXEC, 0);
	return a->to_stdin >= 0;
}

static void start(struct agent *a)
{
	int fds[3];

	if (a->started)
		return;
	a->started = true;
	if (!a->argv.n) {
		refuse(a, "umbra-agent: no command\n");
		return;
	}
	if (!(a->tty ? open_terminal(a, fds) : open_pipes(a, fds))) {
		refuse(a, "umbra-agent: cannot make pipes or a terminal\n");
		return;
	}
	a->pid = fork();
	if (a->pid == 0)
		child_run(a, fds);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	if (a->pid < 0)
		refuse(a, "umbra-agent: cannot fork\n");
}

static void signal_command(const struct agent *a, int number)
{
	/* No such group: the child has not come to setsid() yet, and is alone. */
	if (kill(-a->pid, number) < 0)
		kill(a->pid, number);
}

/* Process 1 inherits every orphan; only one child matters. */
static void reap(struct agent *a)
{
	struct signalfd_siginfo drop;
	int status;
	pid_t pid;

	while (read(a->sigchld, &drop, sizeof(drop)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != a->pid)
			continue;
		if (WIFSIGNALED(status))
			finish(a, AGENT_SIGNALED, WTERMSIG(status));
		else
			finish(a, AGENT_EXITED, WEXITSTATUS(status));
	}
}

/* From the host. */

static void strings_add(struct strings *s, char *string)
{
	s->v = must(realloc(s->v, (s->n + 2) * sizeof(*s->v)));
	s->v[s->n++] = string;
	s->v[s->n] = NULL;
}

/* Of one name the last value counts. */
static void env_set(struct strings *env, char *string)
{
	size_t name = strcspn(string, "=") + 1;

	for (size_t i = 0; i < env->n; i++) {
		if (!strncmp(env->v[i], string, name)) {
			free(env->v[i]);
			env->v[i] = string;
			return;
		}
	}
	strings_add(env, string);
}

static void set_size(struct agent *a, const char *payload)
{
	a->size.ws_row = (unsigned short)get_le(payload, 2);
	a->size.ws_col = (unsigned short)get_le(payload + 2, 2);
	if (!a->started)
		a->tty = true;
	else if (a->tty && a->out.fd >= 0)
		ioctl(a->out.fd, TIOCSWINSZ, &a->size);
}

static bool costs_credit(unsigned type)
{
	return type == AGENT_ARG || type == AGENT_ENV || type == AGENT_CWD ||
	       type == AGENT_STDIN;
}

static bool frame_begin(struct agent *a)
{
	unsigned type = a->header[0];
	size_t len = get_le(a->header + 1, 3);

	a->payload_len = a->payload_left = len;
	if (costs_credit(type))
		a->owed += AGENT_HEADER;
	if (type == AGENT_STDIN)
		return len <= AGENT_CREDIT_MAX;
	if (costs_credit(type))
		a->request_size += len;
	if (len > AGENT_STRING_MAX || a->request_size > AGENT_REQUEST_MAX)
		return false;
	a->payload = must(calloc(len + 1, 1));
	return true;
}

static bool stdin_bytes(struct agent *a, const unsigned char *p, size_t n)
{
	struct input *in = &a->input;

	if (a->started && a->to_stdin < 0)
		return true;
	if (n > sizeof(in->buf) - in->len)
		return false;
	for (size_t i = 0; i < n; i++)
		in->buf[(in->start + in->len++) % sizeof(in->buf)] = p[i];
	return true;
}

static void stdin_eof(struct agent *a)
{
	static const unsigned char control_d = 4;

	if (a->tty) {
		/* The byte takes one of the credit that its header cost. */
		a->owed--;
		stdin_bytes(a, &control_d, 1);
	}
	a->input.eof = true;
}

/* A frame is complete; its payload ends in a NUL. */
static void frame_end(struct agent *a)
{
	char *payload = a->payload;

	a->payload = NULL;
	a->header_len = 0;
	switch (a->header[0]) {
	case AGENT_ARG: strings_add(&a->argv, payload); return;
	case AGENT_ENV: env_set(&a->env, payload); return;
	case AGENT_CWD:
		free(a->cwd);
		a->cwd = payload;
		return;
	case AGENT_START: start(a); break;
	case AGENT_STDIN:
		if (a->payload_len == 0)
			stdin_eof(a);
		break;
	case AGENT_WINSIZE:
		if (a->payload_len == 4)
			set_size(a, payload);
		break;
	case AGENT_SIGNAL:
		if (a->payload_len == 1 && a->pid > 0 && !a->ended)
			signal_command(a, payload[0]);
		break;
	}
	free(payload);
}

/* Takes bytes of a payload: false is a host that breaks the protocol. */
static bool frame_bytes(struct agent *a, const unsigned char *p, size_t n)
{
	size_t done = a->payload_len - a->payload_left;

	a->payload_left -= n;
	if (a->header[0] == AGENT_STDIN)
		return stdin_bytes(a, p, n);
	if (costs_credit(a->header[0]))
		a->owed += (unsigned)n;
	memcpy(a->payload + done, p, n);
	return true;
}

/* False when the other side is gone, which happens only in tests. */
static bool receive(struct agent *a)
{
	unsigned char buf[4096];
	ssize_t n = read(a->port, buf, sizeof(buf));
	const unsigned char *p = buf, *end = buf + (n > 0 ? n : 0);
	bool ok = true;

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	while (ok && p < end) {
		if (a->header_len < AGENT_HEADER) {
			a->header[a->header_len++] = *p++;
			if (a->header_len < AGENT_HEADER)
				continue;
			ok = frame_begin(a);
		} else {
			size_t len = (size_t)(end - p);

			len = len < a->payload_left ? len : a->payload_left;
			ok = frame_bytes(a, p, len);
			p += len;
		}
		if (ok && !a->payload_left)
			frame_end(a);
	}
	if (!ok)
		refuse(a, "umbra-agent: the host broke the protocol\n");
	return true;
}

/* The loop. */

static bool loop_once(struct agent *a)
{
	bool input = a->input.len || (a->input.eof && !a->tty);
	bool room = output_fits(&a->output, AGENT_OUTPUT_MAX + OUTPUT_RESERVE);
	bool draining = a->ended && room;
	struct pollfd fds[] = {
		{ .fd = a->port, .events = a->broken ? 0 : POLLIN },
		{ .fd = a->sigchld, .events = POLLIN },
		{ .fd = room ? a->out.fd : -1, .events = POLLIN },
		{ .fd = room ? a->err.fd : -1, .events = POLLIN },
		{ .fd = input ? a->to_stdin : -1, .events = POLLOUT },
	};

	if (a->output.len)
		fds[0].events |= POLLOUT;
	if (poll(fds, sizeof(fds) / sizeof(fds[0]), draining ? 0 : -1) < 0)
		return true;
	if (fds[0].revents & POLLOUT)
		output_write(&a->output, a->port);
	if (fds[1].revents)
		reap(a);
	if (fds[2].revents || a->ended)
		collect(a, &a->out);
	if (fds[3].revents || a->ended)
		collect(a, &a->err);
	if (fds[4].revents)
		feed(a);
	if (!a->broken && (fds[0].revents & (POLLIN | POLLHUP)) && !receive(a))
		return false;
	give_credit(a);
	return true;
}

static void serve(struct agent *a)
{
	unsigned char hello[10] = AGENT_MAGIC;
	unsigned char how[2];

	hello[5] = AGENT_VERSION;
	put_le(hello + 6, AGENT_CREDIT_MAX, 4);
	output_frame(&a->output, AGENT_HELLO, hello, sizeof(hello));
	while (!a->ended || a->out.fd >= 0 || a->err.fd >= 0)
		if (!loop_once(a))
			return;
	/* Before EXIT, as the host may stop the machine when it has that. */
	sync();
	how[0] = a->how;
	how[1] = a->number;
	fcntl(a->port, F_SETFL, 0);
	while (!output_fits(&a->output, sizeof(how)))
		output_write(&a->output, a->port);
	output_frame(&a->output, AGENT_EXIT, how, sizeof(how));
	while (a->output.len)
		output_write(&a->output, a->port);
	tcdrain(a->port);
}

static int open_port(const char *path)
{
	int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	struct termios raw;

	if (fd < 0 || tcgetattr(fd, &raw) < 0)
		return -1;
	cfmakeraw(&raw);
	cfsetspeed(&raw, B115200);
	raw.c_cflag |= CLOCAL | CREAD;
	raw.c_cflag &= ~(tcflag_t)HUPCL;
	return tcsetattr(fd, TCSANOW, &raw) < 0 ? -1 : fd;
}

static int open_sigchld(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int main(int argc, char **argv)
{
	static const char *const environment[] = {
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"LOGNAME=root",
	};
	static struct agent a = {
		.to_stdin = -1,
		.out = { -1, AGENT_STDOUT },
		.err = { -1, AGENT_STDERR },
	};

	a.cwd = must(strdup("/"));
	for (size_t i = 0; i < sizeof(environment) / sizeof(environment[0]); i++)
		strings_add(&a.env, must(strdup(environment[i])));
	signal(SIGPIPE, SIG_IGN);
	a.sigchld = open_sigchld();
	a.port = argc == 2 ? open_port(argv[1]) : -1;
	if (a.port >= 0)
		serve(&a);
	else
		child_fail(argc == 2 ? argv[1] : "umbra-agent", "cannot open the port",
			   STATUS_PROTOCOL);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
