/* ACPI and MP tables: checksums, lengths, references; AML encodings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "irq/lapic.h"
#include "machine/acpi.h"
#include "machine/aml.h"
#include "machine/layout.h"

static u8 blob[LAYOUT_ACPI_MAX];
static struct acpi_config cfg;
static struct layout layout;

static size_t build(unsigned cpus)
{
	struct error err = { 0 };

	assert_int_equal(layout_init(&layout, GiB(6), 46, &err), 0);
	memset(&cfg, 0, sizeof(cfg));
	cfg.layout = &layout;
	cfg.cpus = cpus;
	for (unsigned i = 0; i < ACPI_CPUS_MAX; i++)
		cfg.apic_id[i] = i < 250 ? i : 300 + i;
	cfg.ioapic_version = 0x20;
	cfg.hpet_block_id = 0x8086a201;
	cfg.ecam = LAYOUT_ECAM;
	cfg.ecam_buses = 256;
	memset(cfg.serial, true, sizeof(cfg.serial));
	cfg.mouse = true;
	cfg.s3 = true;
	memset(blob, 0xaa, sizeof(blob));
	return acpi_build(blob, sizeof(blob), &cfg);
}

static u8 sum(const u8 *p, size_t n)
{
	u8 s = 0;

	while (n--)
		s = (u8)(s + *p++);
	return s;
}

/* The table at this guest-physical address, checked. */
static const u8 *table(u64 gpa, size_t used)
{
	const u8 *p = blob + (gpa - LAYOUT_ACPI);
	u64 len;

	assert_true(gpa >= LAYOUT_ACPI && gpa + 36 <= LAYOUT_ACPI + used);
	len = le_load(p + 4, 4);
	assert_true(gpa + len <= LAYOUT_ACPI + used);
	if (memcmp(p, "FACS", 4))
		assert_int_equal(sum(p, len), 0);
	return p;
}

static const u8 *find(const char *sig, size_t used)
{
	const u8 *xsdt = table(le_load(blob + 24, 8), used);

	for (u32 i = 36; i < le_load(xsdt + 4, 4); i += 8) {
		const u8 *t = table(le_load(xsdt + i, 8), used);

		if (!memcmp(t, sig, 4))
			return t;
	}
	return NULL;
}

static void root_pointer_leads_to_all_tables(void **state)
{
	size_t used = build(4);
	const u8 *rsdt, *xsdt, *fadt;

	(void)state;
	assert_true(used > 0);
	assert_memory_equal(blob, "RSD PTR ", 8);
	assert_int_equal(sum(blob, 20), 0);
	assert_int_equal(sum(blob, 36), 0);
	assert_int_equal(blob[15], 2);
	rsdt = table(le_load(blob + 16, 4), used);
	xsdt = table(le_load(blob + 24, 8), used);
	assert_memory_equal(rsdt, "RSDT", 4);
	assert_memory_equal(xsdt, "XSDT", 4);
	assert_int_equal((le_load(rsdt + 4, 4) - 36) / 4,
			 (le_load(xsdt + 4, 4) - 36) / 8);
	for (unsigned i = 0; i < (le_load(rsdt + 4, 4) - 36) / 4; i++)
		assert_int_equal(le_load(rsdt + 36 + 4 * i, 4),
				 le_load(xsdt + 36 + 8 * i, 8));
	assert_non_null(find("APIC", used));
	assert_non_null(find("HPET", used));
	assert_non_null(find("MCFG", used));
	fadt = find("FACP", used);
	assert_non_null(fadt);
	assert_int_equal(le_load(fadt + 4, 4), 276);
	assert_int_equal(le_load(fadt + 40, 4), le_load(fadt + 140, 8));
	assert_memory_equal(table(le_load(fadt + 40, 4), used), "DSDT", 4);
	assert_memory_equal(table(le_load(fadt + 36, 4), used), "FACS", 4);
	/* The global lock is in the FACS: aligned to 64 bytes (5.2.10). */
	assert_int_equal(le_load(fadt + 36, 4) % 64, 0);
	assert_int_equal(acpi_find_facs(blob, used), le_load(fadt + 36, 4) - LAYOUT_ACPI);
}

static void what_the_board_lacks_has_no_table(void **state)
{
	size_t used;

	(void)state;
	build(1);
	cfg.hpet_block_id = 0;
	cfg.ecam = 0;
	used = acpi_build(blob, sizeof(blob), &cfg);
	assert_true(used > 0);
	assert_null(find("HPET", used));
	assert_null(find("MCFG", used));
	assert_non_null(find("FACP", used));
}

static bool says(size_t used, const char *name)
{
	return memmem(blob, used, name, 4) != NULL;
}

static void chips_left_out_are_not_named(void **state)
{
	enum { HAS_8042 = 2 };
	size_t used = build(1);

	(void)state;
	assert_true(says(used, "TIMR") && says(used, "SPKR") && says(used, "KBD_"));
	assert_true(says(used, "FWCF"));
	assert_int_equal(le_load(find("FACP", used) + 109, 2) & HAS_8042, HAS_8042);
	cfg.no_pit = cfg.no_i8042 = true;
	cfg.hpet_block_id = 0;
	used = acpi_build(blob, sizeof(blob), &cfg);
	assert_false(says(used, "TIMR") || says(used, "SPKR") || says(used, "KBD_"));
	assert_false(says(used, "HPET"));
	assert_int_equal(le_load(find("FACP", used) + 109, 2) & HAS_8042, 0);
}

static void madt_entries_add_up(void **state)
{
	static const unsigned cpus[] = { 1, 2, 64, 255, 256 };

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(cpus); n++) {
		size_t used = build(cpus[n]);
		const u8 *madt = find("APIC", used);
		unsigned count[16] = { 0 };
		u64 len = le_load(madt + 4, 4), at = 44;

		while (at < len) {
			const u8 *e = madt + at;

			assert_true(e[0] < 16 && e[1] >= 6 && at + e[1] <= len);
			count[e[0]]++;
			if (e[0] == 0)
				assert_int_equal(e[3], cfg.apic_id[e[2]]);
			if (e[0] == 9)
				assert_int_equal(le_load(e + 4, 4),
						 cfg.apic_id[le_load(e + 12, 4)]);
			at += e[1];
		}
		assert_int_equal(at, len);
		assert_int_equal(count[0] + count[9], cpus[n]);
		assert_int_equal(count[9] > 0, cpus[n] > 250);
		assert_int_equal(count[10], cpus[n] > 250);
		assert_int_equal(count[1], 1);
		assert_int_equal(count[2], 2);
		assert_int_equal(count[4], 1);
	}
}

static void too_little_room_is_reported(void **state)
{
	size_t used = build(8);

	(void)state;
	for (size_t cap = 0; cap < used; cap++) {
		memset(blob, 0x77, sizeof(blob));
		assert_int_equal(acpi_build(blob, cap, &cfg), 0);
		assert_int_equal(blob[cap], 0x77);
	}
	assert_int_equal(acpi_build(blob, used, &cfg), used);
}

static void mp_table_checks_and_counts(void **state)
{
	static u8 buf[LAYOUT_MPTABLE_MAX];
	size_t used;
	u8 *h = buf + 16;
	u64 len, at = 44;
	unsigned entries = 0, cpus = 0;

	(void)state;
	build(64);
	used = mptable_build(buf, sizeof(buf), &cfg);
	assert_true(used > 0);
	assert_memory_equal(buf, "_MP_", 4);
	assert_int_equal(sum(buf, 16), 0);
	assert_int_equal(le_load(buf + 4, 4), LAYOUT_MPTABLE + 16);
	assert_memory_equal(h, "PCMP", 4);
	len = le_load(h + 4, 2);
	assert_int_equal(len + 16, used);
	assert_int_equal(sum(h, len), 0);
	while (at < len) {
		assert_true(h[at] <= 4);
		if (!h[at]) {
			/* Linux compares it with the register. */
			assert_int_equal(h[at + 2], LAPIC_VERSION);
			cpus++;
		}
		/* Nobody sets up a pin of the IOAPIC for the PICs. */
		assert_false(h[at] == 3 && h[at + 1] == 3);
		at += h[at] ? 8 : 20;
		entries++;
	}
	assert_int_equal(at, len);
	assert_int_equal(cpus, 64);
	assert_int_equal(entries, le_load(h + 34, 2));
	for (size_t cap = 0; cap < used; cap += 3)
		assert_int_equal(mptable_build(buf, cap, &cfg), 0);
}

static void aml_lengths_use_as_many_bytes_as_they_need(void **state)
{
	static u8 buf[0x20000];

	(void)state;
	/* A scope of "A" (5 bytes with length and name) filled with Zero. */
	for (size_t fill = 0; fill < 0x11000;
	     fill = fill < 80 ? fill + 1 : fill * 2 + 5) {
		struct aml a;
		size_t len, bytes;

		aml_init(&a, buf, sizeof(buf));
		aml_scope(&a, "A");
		for (size_t i = 0; i < fill; i++)
			aml_int(&a, 0);
		aml_close(&a);
		assert_true(aml_done(&a));
		assert_int_equal(buf[0], 0x10);
		bytes = (buf[1] >> 6) + 1u;
		len = bytes == 1 ? buf[1] & 0x3f : buf[1] & 0x0f;
		for (size_t i = 1; i < bytes; i++)
			len |= (size_t)buf[1 + i] << (8 * i - 4);
		assert_int_equal(len + 1, a.len);
		assert_int_equal(len, bytes + 4 + fill);
		assert_int_equal(bytes, len < 0x40 ? 1 : len < 0x1000 ? 2 : 3);
	}
}

static void aml_names_ids_and_numbers_are_encoded(void **state)
{
	static const u8 want[] = {
		'\\', 0x2e, '_',  'S',  'B',  '_',  'P',  'C',  'I',  '0', /* \_SB.PCI0 */
		0x2f, 3,    'A',  '_',  '_',  '_',  'B',  'B',  '_',  '_',
		'C',  'C',  'C',  '_',       /* A.BB.CCC */
		'^',  'X',  '_',  '_',  '_', /* ^X */
		0x00, 0x01, 0x0a, 2,    0x0b, 0x34, 0x12, 0x0c, 0x78, 0x56,
		0x34, 0x12, 0x0e, 0,    0,    0,    0,    1,    0,    0,
		0,    0x0c, 0x41, 0xd0, 0x0a, 0x08, /* PNP0A08 */
		0x11, 0x13, 0x0a, 16,   0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f,
		0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66,
	};
	u8 buf[256];
	struct aml a;

	(void)state;
	aml_init(&a, buf, sizeof(buf));
	aml_name(&a, "\\_SB.PCI0");
	aml_name(&a, "A.BB.CCC");
	aml_name(&a, "^X");
	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0x1234);
	aml_int(&a, 0x12345678);
	aml_int(&a, 0x100000000);
	aml_eisa(&a, "PNP0A08");
	aml_uuid(&a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	assert_int_equal(a.len, sizeof(want));
	assert_memory_equal(buf, want, sizeof(want));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(root_pointer_leads_to_all_tables),
		cmocka_unit_test(what_the_board_lacks_has_no_table),
		cmocka_unit_test(chips_left_out_are_not_named),
		cmocka_unit_test(madt_entries_add_up),
		cmocka_unit_test(too_little_room_is_reported),
		cmocka_unit_test(mp_table_checks_and_counts),
		cmocka_unit_test(aml_lengths_use_as_many_bytes_as_they_need),
		cmocka_unit_test(aml_names_ids_and_numbers_are_encoded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
