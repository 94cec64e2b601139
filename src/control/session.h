/*
 * One run of a machine and all that is connected to it: its consoles, the command in it,
 * the user's terminal and signals.
 */
#pragma once

#include "control/guest.h"
#include "control/options.h"
#include "control/profile.h"
#include "control/term.h"
#include "x86/cpuid.h"

struct agent;
struct clock;
struct console;
struct feed;
struct gdb;
struct input;
struct loop_fd;
struct writer;

/* The exit status of umbra itself; docs/umbra.1 has the list. */
enum status {
	STATUS_OK = 0,
	STATUS_FAILED = 1, /* the host or the engine failed */
	STATUS_USAGE = 2,
	STATUS_CRASHED = 3,   /* the guest did: triple fault or panic */
	STATUS_NO_EXIT = 125, /* the machine ended before the command */
	STATUS_TOO_LONG = 126,
	STATUS_PIPE = 128 + 13, /* nobody reads our output: what SIGPIPE would give */
};

struct session {
	struct run_options o;
	const struct engine *engine;
	const char *engine_why;
	struct cpuid_table cpuid;
	struct guest guest;
	struct fwfiles files;
	struct guest_terminal terminal;
	u8 first[4096]; /* what standard input had before the machine started */
	size_t first_len;

	struct clock *clock;
	struct devices_pci devices;
	struct pc *pc;
	struct profiling profiling;
	struct writer *out, *err; /* standard output and error; may be the same */
	struct console
		*console[PC_SERIALS]; /* of each port that is connected, and COM1 */
	struct writer *file[PC_SERIALS +
			    1]; /* of each port with a file, and of the debug port */
	int fd[PC_SERIALS + 1];
	struct agent *agent; /* when there is a command */
	struct input *input; /* of the command */
	struct feed *winsize;
	struct gdb *gdb;

	struct term_signals signals;
	struct loop_fd *watch;
	/* Why it ended, beside what the machine says. */
	int signal;    /* that ends us */
	bool left;     /* Ctrl-a x */
	bool told;     /* a signal was passed to the command: the next one is for us */
	int failed_fd; /* cannot be written; atomic; -1 */
};

/* ---- session.c: making it and running it ---- */

/* Everything that can be wrong with what the user asked for is found in here. 0 or an
 * enum status. */
int session_init(struct session *s, struct error *err);
/* Opens what has to be opened last, and takes the terminal. 0 or an enum status. */
int session_open(struct session *s, struct error *err);
/* Gives terminal and signals back, and waits until output is written. */
void session_close(struct session *s);
void session_fini(struct session *s);

/* ---- events.c: what happens while the machine runs ---- */

/* Standard input, signals. 0 or -errno. */
int events_open(struct session *s, struct error *err);
void events_close(struct session *s);
/* Callbacks of the command's agent: opaque is the session. */
void events_hello(void *opaque);
void events_room(void *opaque);
void events_ended(void *opaque);
