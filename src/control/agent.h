/*
 * The host half of docs/run-command.md: runs one command through the agent in the guest.
 */
#pragma once

#include "base/error.h"
#include "dev/chardev.h"

struct agent;
struct loop;
struct serial;
struct writer;

struct agent_config {
	char **argv; /* ends with NULL; borrowed */
	bool tty;    /* ask for a terminal of this size and type */
	u16 rows, cols;
	const char *term;         /* borrowed */
	struct writer *out, *err; /* borrowed */
	/* Called on the loop's thread. */
	void (*hello)(void *opaque); /* the guest is there, the command starts */
	void (*room)(void *opaque);  /* agent_room() became more */
	void (*ended)(void *opaque); /* the command has ended */
	void *opaque;
};

/* -E2BIG: the command is longer than a guest takes. */
int agent_new(struct agent **agent, const struct agent_config *cfg, struct error *err);
void agent_free(struct agent *a);

/* What the guest's port writes to: give it to the machine. */
struct chardev_sink agent_sink(struct agent *a);
/* The port and loop of that machine, before it runs. */
void agent_attach(struct agent *a, struct loop *loop, struct serial *port);
/* Before the machine, and with it the port, is freed. */
void agent_detach(struct agent *a);

/* ---- Loop's thread ---- */

/* Standard input: bytes that can be given now, the bytes, its end. */
size_t agent_room(struct agent *a);
void agent_input(struct agent *a, const u8 *buf, size_t len);
void agent_input_end(struct agent *a);
/* The command was asked for; signals reach it from then on. */
bool agent_started(const struct agent *a);
void agent_signal(struct agent *a, int sig);
void agent_resize(struct agent *a, u16 rows, u16 cols);

/* The exit status of the command as a shell has it, -1 when it has not ended. */
int agent_status(struct agent *a);
