/*
 * What `umbra run -- COMMAND` and the agent in the guest say to each other.
 *
 * docs/run-command.md is the description; these are its numbers, shared by both
 * halves: src/control and tools/initrd.
 */
#pragma once

/* type (1), payload length (3, little-endian), payload */
#define AGENT_HEADER 4

#define AGENT_MAGIC   "umbra" /* five bytes, no NUL */
#define AGENT_VERSION 1

enum agent_frame {
	/* Guest to host. */
	AGENT_HELLO = 'H',  /* magic (5), version (1), credit (4) */
	AGENT_CREDIT = 'C', /* credit (4) */
	AGENT_STDOUT = 'O', /* bytes */
	AGENT_STDERR = 'E', /* bytes */
	AGENT_EXIT = 'X',   /* how (1), number (1); the last frame */

	/* Host to guest, before the command runs. Cost credit but for START. */
	AGENT_ARG = 'A', /* one string of argv */
	AGENT_ENV = 'V', /* one NAME=VALUE */
	AGENT_CWD = 'D', /* path */
	AGENT_START = 'S',

	/* Host to guest, while the command runs. */
	AGENT_STDIN = 'I',  /* bytes, none is end of file; costs credit */
	AGENT_SIGNAL = 'K', /* number (1) */

	/* Host to guest; before START it asks for a terminal. */
	AGENT_WINSIZE = 'W', /* rows (2), columns (2) */
};

enum agent_how {
	AGENT_EXITED = 0,   /* number is the exit status */
	AGENT_SIGNALED = 1, /* number is the signal */
};

/* Bytes the host may send unasked, once HELLO is there. */
#define AGENT_CREDIT_MAX 16384

/* One string of the request without a NUL, as execve has it; all of them. */
#define AGENT_STRING_MAX  131071
#define AGENT_REQUEST_MAX (1u << 20)

/* Largest payload of STDOUT and STDERR. */
#define AGENT_OUTPUT_MAX 4096
