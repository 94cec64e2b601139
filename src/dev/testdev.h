/*
 * A device for tests of CPUs and chips, with the ports of QEMU's pc-testdev: a latch, a
 * page flush, the interrupt lines, a window of memory that is not RAM.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/desc.h"

struct phys;
struct state_buf;
struct testdev;

/* Three windows of 4 ports in a row: latch, flush, latch by bytes. */
#define TESTDEV_PORTS     4
#define TESTDEV_LINES     24 /* one port for each GSI */
#define TESTDEV_MMIO_SIZE 0x10000u

/* 'dev' is the struct testdev. */
extern const struct io_ops testdev_latch_ops, testdev_flush_ops, testdev_bytes_ops,
	testdev_line_ops, testdev_mmio_ops;
extern const struct state_desc testdev_desc;

/* Machine stopped. 'gsi' has TESTDEV_LINES pins and is copied. */
struct testdev *testdev_new(struct phys *phys, const struct irq_line *gsi);
void testdev_free(struct testdev *t);
/* Lines fall, latch and scratch memory are cleared. */
void testdev_reset(struct testdev *t);
void testdev_save(struct testdev *t, struct state_buf *b);
int testdev_load(struct testdev *t, struct state_buf *b, struct error *err);
