/*
 * What the ports of virtio consoles are connected to: Unix sockets, files, nothing.
 */
#pragma once

#include "base/error.h"
#include "virtio/console.h"

struct loop;
struct ports;

struct ports *ports_new(void);
void ports_free(struct ports *p);

/* Words only: the text of -chardev. */
int ports_add_chardev(struct ports *p, const char *text, struct error *err);
/* Is this text of -chardev one for here, and not for a serial port? */
bool ports_has(const char *text);
/* Claim a character device for a port of a console: fill in *port. */
int ports_take(struct ports *p, const char *chardev, struct virtio_console_port *port,
	       struct error *err);
/* Listen or connect, and create files. */
int ports_open(struct ports *p, struct error *err);
/* The device that has what was claimed for 'port', before the machine runs. */
int ports_attach(struct ports *p, const struct virtio_console_port *port,
		 struct virtio_console *dev, unsigned number, struct loop *loop,
		 struct error *err);
/* Before the machine goes. */
void ports_detach(struct ports *p);
