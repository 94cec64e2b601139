/*
 * The debugger's side of gdb's remote protocol: bytes in, bytes out, commands carried out
 * on the vCPUs. Knows no sockets.
 *
 * One thread. What comes in may be anything.
 */
#pragma once

#include "base/types.h"

struct debug;
struct gdb_stub;
struct virtio_balloon;
struct vm;

struct gdb_stub_config {
	struct vm *vm;
	struct virtio_balloon *balloon; /* for `monitor`, or NULL */
	u64 ram;                        /* the same: bytes that the machine has */
	struct debug *debug; /* borrowed; cfg.stopped leads to gdb_stub_stopped() */
	void (*send)(void *opaque, const char *data, size_t len);
	void (*running)(void *opaque, bool on); /* CPUs are let go, or are stopped */
	void (*hang_up)(void *opaque);          /* nothing more to say to this client */
	void (*reset)(void *opaque);            /* the machine, with all CPUs held */
	void (*quit)(void *opaque);             /* end the machine */
	void *opaque;
};

struct gdb_stub *gdb_stub_new(const struct gdb_stub_config *cfg);
void gdb_stub_free(struct gdb_stub *s);

/* A client is there: the machine is stopped for it. */
void gdb_stub_attach(struct gdb_stub *s);
/* May it be read from? Not before its machine has stopped. */
bool gdb_stub_listens(const struct gdb_stub *s);
void gdb_stub_input(struct gdb_stub *s, const u8 *data, size_t len);
/* It is gone: no points are left behind, and the machine goes on. */
void gdb_stub_detach(struct gdb_stub *s);

/* All CPUs have stopped, for whatever reason. */
void gdb_stub_stopped(struct gdb_stub *s);
/* The machine is over; the status is that of the process. */
void gdb_stub_exited(struct gdb_stub *s, int status);
