/* The memory map: RAM exactly where it is, and nothing twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "machine/e820.h"
#include "machine/layout.h"

/* Where a board of this size has RAM: what pc.c gives to phys_add_ram(). */
static bool is_ram(const struct layout *l, u64 a)
{
	return a < LAYOUT_LOW_END || (a >= LAYOUT_SHADOW && a < l->low_end) ||
	       (a >= LAYOUT_HIGH_RAM && a < l->high_end);
}

static void check_size(u64 size)
{
	struct error err = { 0 };
	struct e820 map;
	struct layout l;
	u64 end = 0;

	assert_int_equal(layout_init(&l, size, 46, &err), 0);
	e820_build(&map, &l);
	for (unsigned i = 0; i < map.count; i++) {
		const struct e820_entry *e = &map.entry[i];

		assert_true(e->len > 0);
		assert_true(e->base >= end); /* sorted, no overlap */
		end = e->base + e->len;
		if (e->type == E820_RAM) {
			assert_true(is_ram(&l, e->base) && is_ram(&l, end - 1));
			assert_int_equal(e->base & 0xfff, 0);
		}
	}
	/* All but the last KiB below 640 KiB, and what is between there and 1 MiB. */
	assert_int_equal(e820_ram_bytes(&map), size - (LAYOUT_EXTENDED - LAYOUT_EBDA));
	/* Where RAM ends the map ends too. */
	assert_true(e820_is_ram(&map, l.low_end - 4096, 4096));
	assert_false(e820_is_ram(&map, l.low_end - 4096, 4097));
	assert_true(l.low_end <= LAYOUT_MMIO32_A);
	if (l.high_end) {
		assert_int_equal(l.low_end, GiB(3));
		assert_true(
			e820_is_ram(&map, LAYOUT_HIGH_RAM, l.high_end - LAYOUT_HIGH_RAM));
		assert_true(l.high_end <= l.mmio64);
	}
	assert_true(l.mmio64 < l.mmio64_end && l.mmio64_end <= BIT(46));
}

static void maps_of_all_sizes_cover_ram_exactly(void **state)
{
	(void)state;
	for (u64 size = LAYOUT_RAM_MIN; size <= GiB(8); size += MiB(13))
		check_size(align_down(size, 4096));
	for (u64 size = GiB(3) - KiB(64); size <= GiB(3) + KiB(64); size += 4096)
		check_size(size);
	check_size(GiB(1000));
	check_size(GiB(16384));
}

static void sizes_that_cannot_be_are_refused(void **state)
{
	struct error err = { 0 };
	struct layout l;

	(void)state;
	assert_int_equal(layout_init(&l, MiB(1), 46, &err), -EINVAL);
	assert_string_equal(err.msg,
			    "memory of 1024 KiB is too small, at least 4 MiB are needed");
	memset(&err, 0, sizeof(err));
	assert_int_equal(layout_init(&l, 0, 46, &err), -EINVAL);
	memset(&err, 0, sizeof(err));
	assert_int_equal(layout_init(&l, MiB(64) + 1, 46, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "not a multiple of 4 KiB"));
	memset(&err, 0, sizeof(err));
	assert_int_equal(layout_init(&l, GiB(32), 36, &err), -E2BIG);
	assert_non_null(strstr(err.msg, "at most 31744 MiB are possible"));
	assert_int_equal(layout_init(&l, GiB(31), 36, &err), 0);
	assert_int_equal(layout_init(&l, UINT64_MAX & ~UINT64_C(4095), 52, &err), -E2BIG);
	/* A CPU of 32 bits has nothing above 4 GiB. */
	assert_int_equal(layout_init(&l, GiB(2), 32, &err), 0);
	assert_int_equal(l.mmio64, 0);
	assert_int_equal(layout_init(&l, GiB(4), 32, &err), -E2BIG);
}

static void queries_see_whole_ranges_only(void **state)
{
	struct error err = { 0 };
	struct e820 map;
	struct layout l;

	(void)state;
	assert_int_equal(layout_init(&l, MiB(64), 46, &err), 0);
	e820_build(&map, &l);
	assert_true(e820_is_ram(&map, 0, LAYOUT_EBDA));
	assert_false(e820_is_ram(&map, 0, LAYOUT_EBDA + 1));
	assert_false(e820_is_ram(&map, LAYOUT_EBDA, 1));
	assert_false(e820_is_ram(&map, MiB(1), UINT64_MAX));
	assert_false(e820_is_ram(&map, UINT64_MAX, 2));
	assert_false(e820_is_ram(&map, LAYOUT_ECAM, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_of_all_sizes_cover_ram_exactly),
		cmocka_unit_test(sizes_that_cannot_be_are_refused),
		cmocka_unit_test(queries_see_whole_ranges_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
