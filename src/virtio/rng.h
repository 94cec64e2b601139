/*
 * Virtio entropy device: random bytes from the host's kernel.
 */
#pragma once

#include "virtio/virtio.h"

struct loop;
struct virtio_rng;

/* 'loop' continues what is too much for one notification. */
struct virtio_rng *virtio_rng_new(struct phys *phys, struct loop *loop);
void virtio_rng_free(struct virtio_rng *r);
struct virtio *virtio_rng_core(struct virtio_rng *r);
