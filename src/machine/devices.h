/*
 * Devices that a user adds by name, with properties: -device NAME,PROPERTY=VALUE,...
 *
 * The board's own chips are none of these: pc.c calls them by name. A new device is an
 * entry of the table in devices.c.
 */
#pragma once

#include <stdio.h>

#include "base/error.h"
#include "base/irqline.h"
#include "dev/chardev.h"

struct device_type;
struct io_ports;
struct phys;
struct state_buf;

#define DEVICES_MAX           16 /* on one board */
#define DEVICE_PROPERTIES_MAX 4

/* One device as asked for, its properties checked. */
struct device_args {
	const struct device_type *type;
	u32 number[DEVICE_PROPERTIES_MAX]; /* in the order of the type's properties */
	char chardev[64];                  /* id of the character device, if it has one */
	struct chardev_sink sink; /* the same, to be filled in before it is made */
};

/*
 * Words only: whether the device fits on a board is found out when it is made. -EINVAL
 * with a line that names the device or property and says what would be right.
 */
int device_args_parse(struct device_args *a, const char *text, struct error *err);
/* This type by name, with its default properties. */
void device_args_default(struct device_args *a, const char *name);
const char *device_name(const struct device_args *a);

/* For -device help; the properties of one type, false when there is no such. 'out' may be
 * NULL then. */
void devices_help(FILE *out);
bool device_help(FILE *out, const char *name);

/* ---- what the board gives and takes; machine stopped ---- */

struct device_board {
	struct phys *phys;
	struct io_ports *ports;
	struct irq_line (*gsi)(void *opaque, unsigned gsi);
	/* Any thread: the guest ends the machine with this value. */
	void (*exit)(void *opaque, u32 val);
	void *opaque;
};

struct device {
	const struct device_type *type;
	void *dev;
};

/* -EBUSY and a line that says who has a port that the device needs. */
int device_new(struct device *d, const struct device_args *a,
	       const struct device_board *board, struct error *err);
void device_free(struct device *d);
void device_reset(struct device *d);
void device_save(struct device *d, struct state_buf *b);
int device_load(struct device *d, struct state_buf *b, struct error *err);
