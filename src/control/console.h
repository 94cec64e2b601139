/*
 * A serial port as the guest's console: its output passed on and watched for a kernel
 * panic, standard input typed into it.
 */
#pragma once

#include <stdio.h>

#include "base/error.h"
#include "dev/chardev.h"

struct console;
struct input;
struct loop;
struct serial;
struct writer;

/* 'out' is borrowed; NULL: output is only watched. */
struct console *console_new(struct writer *out);
void console_free(struct console *c);

/* What the port writes to: give it to the machine. */
struct chardev_sink console_sink(struct console *c);
/*
 * The same for another port: the guest writes to it when it wants input, which is held
 * until then.
 */
struct chardev_sink console_ready_sink(struct console *c);
/* The port and loop of that machine, before it runs. */
void console_attach(struct console *c, struct loop *loop, struct serial *port);
/*
 * Type what comes from 'fd', which stays the caller's, and 'first' before it. A terminal
 * is passed on as it is, with Ctrl-a sequences told to key(). Of anything else the end is
 * typed as Ctrl-D.
 */
int console_input(struct console *c, int fd, bool terminal, const u8 *first, size_t len,
		  bool eof, void (*key)(void *opaque, u8 c), void *opaque,
		  struct error *err);
/* Before the machine, and with it the port, is freed. */
void console_detach(struct console *c);

/* ---- Machine stopped ---- */

/* The line in which a Linux kernel says that it panicked, if it is among the last it
 * wrote. */
bool console_panic(struct console *c, char *line, size_t size);
/* The last lines, each with 'prefix'. False: there are none. */
bool console_tail(struct console *c, FILE *out, const char *prefix, unsigned lines);
