/*
 * Virtio over MMIO: one window of registers that drives a struct virtio.
 *
 * The registers are those of <linux/virtio_mmio.h>; the device does not know where the
 * window lies.
 */
#pragma once

#include <linux/virtio_mmio.h>

#include "base/irqline.h"
#include "mem/io.h"
#include "virtio/virtio.h"

#define VIRTIO_MMIO_SIZE        0x200u /* registers, and the device's configuration */
#define VIRTIO_MMIO_MAGIC       0x74726976u
#define VIRTIO_MMIO_QUEUE_RESET 0x0c0 /* not in older headers */

struct virtio_mmio;

/*
 * 'v' stays the caller's, and outlives it. 'irq' is up while an interrupt is not
 * acknowledged. 'instance' names its state.
 */
struct virtio_mmio *virtio_mmio_new(struct virtio *v, struct irq_line irq, u32 instance);
void virtio_mmio_free(struct virtio_mmio *m);

extern const struct io_ops virtio_mmio_ops;

/* Machine stopped. With the struct virtio, but without what else the device has. */
void virtio_mmio_reset(struct virtio_mmio *m);
void virtio_mmio_save(struct virtio_mmio *m, struct state_buf *b);
int virtio_mmio_load(struct virtio_mmio *m, struct state_buf *b, struct error *err);
