/* Debug console, mostly at port e9h: what is written goes out, a read answers that it is
 * here. */
#pragma once

#include "dev/chardev.h"
#include "mem/io.h"

#define DEBUGCON_PORTS 1

struct debugcon;

extern const struct io_ops debugcon_ops; /* 'dev' is the struct debugcon */

/* 'readback' is what a read gives; e9h is what guests expect. Bytes the sink refuses are
 * lost: the port has no way to make the guest wait. */
struct debugcon *debugcon_new(struct chardev_sink out, u8 readback);
void debugcon_free(struct debugcon *d);
