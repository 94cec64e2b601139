/*
 * Virtio console: one or several ports, each a stream of bytes both ways.
 */
#pragma once

#include "dev/chardev.h"
#include "virtio/virtio.h"

struct loop;
struct virtio_console;

#define VIRTIO_CONSOLE_PORTS_MAX 8
#define VIRTIO_CONSOLE_NAME_MAX  64

struct virtio_console_port {
	const char *name; /* for /dev/virtio-ports in the guest, or NULL; copied */
	bool console;     /* a terminal (hvc) */
	bool host_open;   /* somebody is at the other end from the beginning */
	struct chardev_sink out;
	/* virtio_console_rx() may take more than before. On the loop's thread. May be
	 * NULL. */
	void (*room)(void *opaque);
	void *opaque;
};

struct virtio_console *virtio_console_new(struct phys *phys, struct loop *loop,
					  const struct virtio_console_port *ports,
					  unsigned count);
void virtio_console_free(struct virtio_console *d);
struct virtio *virtio_console_core(struct virtio_console *d);
/* Before the machine runs: where a port's output goes. */
void virtio_console_connect(struct virtio_console *d, unsigned port,
			    const struct virtio_console_port *p);

/* ---- Any thread ---- */

/* Bytes for the guest; how many were taken. */
size_t virtio_console_rx(struct virtio_console *d, unsigned port, const u8 *buf,
			 size_t len);
/* The port's sink was full and is not any more. */
void virtio_console_tx_ready(struct virtio_console *d, unsigned port);
/* Somebody came to the other end of a port, or left. */
void virtio_console_set_open(struct virtio_console *d, unsigned port, bool open);
/* The size of the terminal behind the consoles. */
void virtio_console_resize(struct virtio_console *d, u16 cols, u16 rows);

extern const struct state_desc virtio_console_desc;
void virtio_console_save(struct virtio_console *d, struct state_buf *b, u32 instance);
int virtio_console_load(struct virtio_console *d, struct state_buf *b, u32 instance,
			struct error *err);
