/*
 * The user's terminal and the signals that come from it.
 *
 * Mutable globals, against the rule: the terminal's mode must be restored by signal
 * handlers when the process crashes, and these have no argument. The saved mode is
 * written before 'raw' is set and never after.
 *
 * A process in the background may not touch its terminal (it would be stopped by
 * SIGTTOU), and need not: its shell took the terminal over, with the shell's own mode.
 */
#include "control/term.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"

static struct termios saved, raw_mode;
static int term_fd = -1;
static bool raw; /* atomic: the terminal is in raw_mode, or is to be after SIGCONT */
static bool installed; /* crash handlers and atexit */

static const int crashes[] = {
	SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP
};
static const int requests[] = { SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
				SIGTSTP, SIGCONT, SIGWINCH };

static bool in_foreground(void)
{
	return tcgetpgrp(term_fd) == getpgrp();
}

bool term_is_raw(void)
{
	return __atomic_load_n(&raw, __ATOMIC_SEQ_CST);
}

/* Async-signal-safe. */
void term_restore(void)
{
	int saved_errno = errno;

	if (__atomic_exchange_n(&raw, false, __ATOMIC_SEQ_CST) && in_foreground())
		tcsetattr(term_fd, TCSANOW, &saved);
	log_set_crlf(false);
	errno = saved_errno;
}

/*
 * Die of it, with a core dump: at once or, when host/sig.c passed it on to us and has the
 * signal blocked, when its handler returns.
 */
static void crashed(int sig)
{
	term_restore();
	signal(sig, SIG_DFL);
	raise(sig);
}

void term_init(void)
{
	struct sigaction sa = { .sa_handler = crashed, .sa_flags = SA_NODEFER };

	if (installed)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(crashes); i++)
		sigaction(crashes[i], &sa, NULL);
	atexit(term_restore);
	installed = true;
}

int term_raw(int fd, struct error *err)
{
	if (tcgetattr(fd, &saved) < 0)
		return error_set(err, -errno, "terminal: %s", strerror(errno));
	term_init();
	term_fd = fd;
	raw_mode = saved;
	cfmakeraw(&raw_mode);
	__atomic_store_n(&raw, true, __ATOMIC_SEQ_CST);
	log_set_crlf(true);
	if (tcsetattr(fd, TCSADRAIN, &raw_mode) < 0) {
		term_restore();
		return error_set(err, -errno, "terminal: %s", strerror(errno));
	}
	return 0;
}

bool term_size(int fd, u16 *rows, u16 *cols)
{
	struct winsize ws;

	if (ioctl(fd, TIOCGWINSZ, &ws) < 0 || !ws.ws_row || !ws.ws_col)
		return false;
	*rows = ws.ws_row;
	*cols = ws.ws_col;
	return true;
}

void term_say(const char *fmt, ...)
{
	char text[4096], out[2 * sizeof(text)];
	size_t n = 0;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (const char *p = text; *p; p++) {
		if (*p == '\n' && term_is_raw())
			out[n++] = '\r';
		out[n++] = *p;
	}
	fwrite(out, 1, n, stderr);
}

/* ---- signals ---- */

static void request_set(sigset_t *set)
{
	sigemptyset(set);
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		struct sigaction sa;

		/* A blocked signal is kept even when it is ignored; it must stay ignored
		 * (nohup). */
		if (sigaction(requests[i], NULL, &sa) || sa.sa_handler != SIG_IGN)
			sigaddset(set, requests[i]);
	}
}

/*
 * Not signalfd(2): each signal for any thread of the process, as that of an alarm, wakes
 * whoever waits for one.
 */
static void *signals_thread(void *arg)
{
	struct term_signals *s = arg;
	int state, sig;

	for (;;) {
		u8 byte;

		/* The one place where it can be cancelled. */
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state);
		sig = sigwaitinfo(&s->set, NULL);
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
		if (sig < 0)
			continue;
		byte = (u8)sig;
		while (write(s->pipe[1], &byte, 1) < 0 && errno == EINTR)
			;
	}
	return NULL;
}

int term_signals_open(struct term_signals *s, struct error *err)
{
	int ret;

	signal(SIGPIPE, SIG_IGN);
	request_set(&s->set);
	if (pipe2(s->pipe, O_CLOEXEC | O_NONBLOCK))
		return error_set(err, -errno, "pipe: %s", strerror(errno));
	pthread_sigmask(SIG_BLOCK, &s->set, NULL);
	ret = pthread_create(&s->thread, NULL, signals_thread, s);
	if (ret) {
		pthread_sigmask(SIG_UNBLOCK, &s->set, NULL);
		close(s->pipe[0]);
		close(s->pipe[1]);
		return error_set(err, -ret, "cannot start a thread: %s", strerror(ret));
	}
	s->open = true;
	return 0;
}

int term_signals_next(struct term_signals *s)
{
	u8 byte;

	return read(s->pipe[0], &byte, 1) == 1 ? byte : 0;
}

void term_signals_close(struct term_signals *s)
{
	int sig;

	if (!s->open)
		return;
	s->open = false;
	pthread_cancel(s->thread);
	pthread_join(s->thread, NULL);
	while ((sig = term_signals_next(s)))
		kill(getpid(), sig);
	close(s->pipe[0]);
	close(s->pipe[1]);
	pthread_sigmask(SIG_UNBLOCK, &s->set, NULL);
}

void term_die(int sig)
{
	sigset_t set;

	term_restore();
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	raise(sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	_exit(128 + sig);
}

void term_suspend(void)
{
	bool was_raw = term_is_raw();

	term_restore();
	/* Not SIGTSTP, which is blocked and comes to ourselves. */
	kill(getpid(), SIGSTOP);
	if (was_raw) {
		__atomic_store_n(&raw, true, __ATOMIC_SEQ_CST);
		term_continue();
	}
}

void term_continue(void)
{
	if (!term_is_raw() || !in_foreground())
		return;
	log_set_crlf(true);
	tcsetattr(term_fd, TCSADRAIN, &raw_mode);
}
