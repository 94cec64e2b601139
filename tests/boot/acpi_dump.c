/*
 * Write the ACPI tables of a board to files: acpi_dump DIRECTORY CPUS MEMORY_MIB.
 *
 * Each table that the XSDT lists, the DSDT, the FACS and the XSDT itself become
 * DIRECTORY/SIGNATURE.aml, as acpidump would make them on the guest.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "machine/acpi.h"
#include "machine/layout.h"

static u8 blob[LAYOUT_ACPI_MAX];

static u8 *at(u64 gpa)
{
	if (gpa < LAYOUT_ACPI || gpa - LAYOUT_ACPI > sizeof(blob) - 64) {
		fprintf(stderr, "table at %llx is outside\n", (unsigned long long)gpa);
		exit(1);
	}
	return blob + (gpa - LAYOUT_ACPI);
}

static void dump(const char *dir, const u8 *table)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%.4s.aml", dir, (const char *)table);
	f = fopen(path, "w");
	if (!f || fwrite(table, le_load(table + 4, 4), 1, f) != 1 || fclose(f)) {
		perror(path);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static struct acpi_config cfg;
	struct layout l;
	struct error err = { 0 };
	u8 *xsdt;

	if (argc != 4) {
		fprintf(stderr, "usage: acpi_dump DIRECTORY CPUS MEMORY_MIB\n");
		return 2;
	}
	if (layout_init(&l, MiB(strtoull(argv[3], NULL, 0)), 46, &err)) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	cfg.layout = &l;
	cfg.cpus = (unsigned)strtoul(argv[2], NULL, 0);
	for (unsigned i = 0; i < ACPI_CPUS_MAX; i++)
		cfg.apic_id[i] = i < 200 ? i : 1000 + i;
	cfg.ioapic_version = 0x20;
	cfg.hpet_block_id = 0x8086a201;
	cfg.virtio_mmio = 0xff;
	cfg.ecam = LAYOUT_ECAM;
	cfg.ecam_buses = 256;
	memset(cfg.serial, true, sizeof(cfg.serial));
	cfg.mouse = true;
	cfg.s3 = true;
	if (!acpi_build(blob, sizeof(blob), &cfg)) {
		fprintf(stderr, "the tables do not fit\n");
		return 1;
	}
	xsdt = at(le_load(blob + 24, 8));
	dump(argv[1], xsdt);
	for (u32 i = 36; i < le_load(xsdt + 4, 4); i += 8) {
		u8 *table = at(le_load(xsdt + i, 8));

		dump(argv[1], table);
		if (!memcmp(table, "FACP", 4)) {
			dump(argv[1], at(le_load(table + 36, 4)));
			dump(argv[1], at(le_load(table + 140, 8)));
		}
	}
	return 0;
}
