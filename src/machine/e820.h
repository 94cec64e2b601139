/*
 * The E820 map: which physical addresses are memory a guest may use.
 * ACPI specification 6.3 section 15 (INT 15h, AX = E820h).
 */
#pragma once

#include "base/types.h"

struct layout;

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

struct e820_entry {
	u64 base, len;
	u32 type; /* enum e820_type */
};

#define E820_MAX 16

/* Sorted, without overlap; what is in no entry is free for devices. */
struct e820 {
	struct e820_entry entry[E820_MAX];
	unsigned count;
};

#define E820_ENTRY_SIZE 20

void e820_build(struct e820 *map, const struct layout *l);

/* [base, base + len) is RAM for the guest, whole. */
bool e820_is_ram(const struct e820 *map, u64 base, u64 len);
/* The entries as INT 15h and QEMU's fw_cfg give them; returns their bytes. */
u32 e820_bytes(const struct e820 *map, u8 buf[E820_MAX * E820_ENTRY_SIZE]);
/* Bytes of RAM for the guest. */
u64 e820_ram_bytes(const struct e820 *map);
