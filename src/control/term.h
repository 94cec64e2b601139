/*
 * The user's terminal: raw mode, and that it is never left behind in it.
 *
 * A process has one terminal and one set of signal handlers, so there is one of these
 * for the process; see term.c for why that is the exception.
 */
#pragma once

#include <pthread.h>
#include <signal.h>

#include "base/error.h"
#include "base/types.h"

/*
 * Handle crashes. Before the machine is made: faults of generated code are handled by
 * engines, which pass on to us what is none of theirs.
 */
void term_init(void);
/*
 * Put the terminal at 'fd' in raw mode. It is put back by term_restore(), at exit(), and
 * before a crash (SIGSEGV, SIGABRT ...) ends the process.
 */
int term_raw(int fd, struct error *err);
/* Any thread, and signal handlers. Does nothing when the mode is not raw. */
void term_restore(void);
bool term_is_raw(void);

/* Rows and columns of the terminal at 'fd'. False: it is none, or has no size. */
bool term_size(int fd, u16 *rows, u16 *cols);

/* Lines for the user on standard error, with the line ends that the terminal needs now.
 */
__attribute__((format(printf, 1, 2))) void term_say(const char *fmt, ...);

/*
 * The signals that ask the process to do something: SIGINT, SIGTERM, SIGHUP, SIGQUIT,
 * SIGTSTP, SIGCONT, SIGWINCH. From term_signals_open() on they are blocked, in all
 * threads started later, and those that were not ignored come to a thread of their own:
 * when 'pipe[0]' can be read, term_signals_next() has one. -errno on failure.
 */
struct term_signals {
	int pipe[2];
	sigset_t set;
	pthread_t thread;
	bool open;
};
int term_signals_open(struct term_signals *s, struct error *err);
/* 0: there is none. */
int term_signals_next(struct term_signals *s);
/* Lets pending ones take effect. Also when it was not opened, all 0. */
void term_signals_close(struct term_signals *s);
/* Ends the process as if by this signal, with the terminal restored. */
_Noreturn void term_die(int sig);
/* Stop the process as SIGTSTP would; returns when it goes on, the terminal as it was. */
void term_suspend(void);
/* After SIGCONT: a shell has restored the terminal, make it raw again if it is to be. */
void term_continue(void);
