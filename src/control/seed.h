/* --seed: a disk from which cloud-init of the guest takes its configuration. */
#pragma once

#include <stddef.h>

#include "base/error.h"
#include "base/types.h"

/* A descriptor of the disk, an unnamed file in memory; -errno and a line otherwise. */
int seed_open(const char *text, struct error *err);

/* ---- for tests ---- */

enum { SEED_BYTES_MAX = 16 << 20 }; /* of each file */

/* Whether cloud-init would know what to do with this. */
bool seed_user_data_ok(const void *data, size_t len);
/* The same, owned by the caller, as the bytes of the disk. NULL: it failed. */
u8 *seed_build(const char *text, size_t *size, struct error *err);
