/*
 * The memory map: how RAM is spread over the address space, and what a guest is told of
 * it.
 *
 * RAM ends at 3 GiB and goes on at 4 GiB, as on a Q35 board with the largest hole: the
 * place of a device never depends on the memory size. The map is the one
 * of INT 15h, AX = E820h (ACPI 6.3 section 15). Addresses of interrupt controllers and
 * of ECAM are reserved besides being in ACPI, since a kernel trusts ECAM only
 * when firmware reserved it (Linux arch/x86/pci/mmconfig-shared.c).
 * No locks: built before the machine runs.
 */
#include "machine/e820.h"

#include <assert.h>
#include <errno.h>

#include "base/bits.h"
#include "base/error.h"
#include "machine/layout.h"
#include "mem/phys.h"

/* Largest 64-bit window: more than any device needs, with small page tables. */
#define MMIO64_MAX GiB(1024)

int layout_init(struct layout *l, u64 ram_size, unsigned phys_bits, struct error *err)
{
	u64 half = BIT(phys_bits - 1);

	if (ram_size < LAYOUT_RAM_MIN)
		return error_set(
			err, -EINVAL,
			"memory of %llu KiB is too small, at least %llu MiB are needed",
			(unsigned long long)ram_size >> 10,
			(unsigned long long)LAYOUT_RAM_MIN >> 20);
	if (ram_size & ~PAGE_MASK)
		return error_set(err, -EINVAL,
				 "memory of %llu bytes is not a multiple of 4 KiB",
				 (unsigned long long)ram_size);
	l->low_end = MIN(ram_size, LAYOUT_LOW_RAM_MAX);
	l->high_end =
		ram_size > l->low_end ? LAYOUT_HIGH_RAM + (ram_size - l->low_end) : 0;
	/* The upper half is for devices. A CPU of 32 bits has none above 4 GiB. */
	if (ram_size > half || l->high_end > half)
		return error_set(
			err, -E2BIG,
			"memory of %llu MiB is too large: with %u physical address bits "
			"at "
			"most %llu MiB are possible",
			(unsigned long long)ram_size >> 20, phys_bits,
			(unsigned long long)(half > LAYOUT_HIGH_RAM
						     ? half - GiB(1)
						     : MIN(half, LAYOUT_LOW_RAM_MAX)) >>
				20);
	l->mmio64 = half >= LAYOUT_HIGH_RAM ? half : 0;
	l->mmio64_end = l->mmio64 ? half + MIN(half, MMIO64_MAX) : 0;
	return 0;
}

static void add(struct e820 *map, u64 base, u64 end, enum e820_type type)
{
	if (base >= end)
		return;
	assert(map->count < E820_MAX);
	map->entry[map->count++] = (struct e820_entry){ base, end - base, type };
}

void e820_build(struct e820 *map, const struct layout *l)
{
	map->count = 0;
	add(map, 0, LAYOUT_EBDA, E820_RAM);
	add(map, LAYOUT_EBDA, LAYOUT_LOW_END, E820_RESERVED);
	add(map, LAYOUT_ACPI, LAYOUT_EXTENDED, E820_RESERVED);
	add(map, LAYOUT_EXTENDED, l->low_end, E820_RAM);
	add(map, LAYOUT_ECAM, LAYOUT_ECAM + LAYOUT_ECAM_SIZE, E820_RESERVED);
	add(map, LAYOUT_IOAPIC, LAYOUT_IOAPIC + LAYOUT_IOAPIC_SIZE, E820_RESERVED);
	add(map, LAYOUT_HPET, LAYOUT_HPET + LAYOUT_HPET_SIZE, E820_RESERVED);
	add(map, LAYOUT_LAPIC, LAYOUT_LAPIC + LAYOUT_LAPIC_SIZE, E820_RESERVED);
	add(map, LAYOUT_ROM, (u64)LAYOUT_ROM + LAYOUT_ROM_SIZE, E820_RESERVED);
	add(map, LAYOUT_HIGH_RAM, l->high_end, E820_RAM);
}

bool e820_is_ram(const struct e820 *map, u64 base, u64 len)
{
	for (unsigned i = 0; i < map->count; i++) {
		const struct e820_entry *e = &map->entry[i];

		if (e->type == E820_RAM && base >= e->base && base - e->base <= e->len &&
		    len <= e->len - (base - e->base))
			return true;
	}
	return false;
}

u32 e820_bytes(const struct e820 *map, u8 buf[E820_MAX * E820_ENTRY_SIZE])
{
	for (unsigned i = 0; i < map->count; i++, buf += E820_ENTRY_SIZE) {
		le_store(buf, map->entry[i].base, 8);
		le_store(buf + 8, map->entry[i].len, 8);
		le_store(buf + 16, map->entry[i].type, 4);
	}
	return map->count * E820_ENTRY_SIZE;
}

u64 e820_ram_bytes(const struct e820 *map)
{
	u64 sum = 0;

	for (unsigned i = 0; i < map->count; i++)
		if (map->entry[i].type == E820_RAM)
			sum += map->entry[i].len;
	return sum;
}
