/*
 * The tables that tell a guest what the board has: ACPI, and the older MP table.
 */
#pragma once

#include "base/types.h"

struct layout;

#define ACPI_CPUS_MAX  256
#define ACPI_SERIALS   4
#define ACPI_RSDP_SIZE 36

struct acpi_config {
	const struct layout *layout;
	unsigned cpus;
	u32 apic_id[ACPI_CPUS_MAX];
	u8 ioapic_id;
	u8 ioapic_version; /* as its version register says */
	u32 hpet_block_id; /* 0: no HPET */
	u64 ecam;          /* 0: no ECAM */
	unsigned ecam_buses;
	bool serial[ACPI_SERIALS];
	bool mouse; /* on the keyboard controller */
	bool no_pit, no_i8042;
	bool s3;         /* suspend to RAM works */
	u32 virtio_mmio; /* a bit for each place that is taken, layout.h */
};

/*
 * Write all ACPI tables to 'buf', which will lie at guest-physical LAYOUT_ACPI: the RSDP
 * is at its start. Returns the bytes used, 0 when 'cap' is too small.
 */
size_t acpi_build(u8 *buf, size_t cap, const struct acpi_config *cfg);

/* Offset of the firmware waking vector (FACS) in what acpi_build() made; 0 if there is
 * none. */
size_t acpi_find_facs(const u8 *buf, size_t len);

/* The MP table, for LAYOUT_MPTABLE, its floating pointer first. Same return value. */
size_t mptable_build(u8 *buf, size_t cap, const struct acpi_config *cfg);
