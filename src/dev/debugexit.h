/* QEMU's isa-debug-exit: a port with which a guest ends the machine, with a status. */
#pragma once

#include "mem/io.h"

struct debugexit;

extern const struct io_ops debugexit_ops; /* 'dev' is the struct debugexit */

/* 'ended' is told what the guest wrote, on its vCPU's thread, each time it writes. */
struct debugexit *debugexit_new(void (*ended)(void *opaque, u32 val), void *opaque);
void debugexit_free(struct debugexit *d);
