/* The message of a failed operation, allocation, and bit arithmetic. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/error.h"

static void error_returns_its_code_and_formats(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_int_equal(error_set(&err, -EIO, "disk %s: %d", "a", 7), -EIO);
	assert_string_equal(err.msg, "disk a: 7");
}

static void error_keeps_the_first_message(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_int_equal(error_set(&err, -EIO, "first"), -EIO);
	assert_int_equal(error_set(&err, -EINVAL, "second"), -EINVAL);
	assert_string_equal(err.msg, "first");
}

static void error_without_a_place_still_returns_its_code(void **state)
{
	(void)state;
	assert_int_equal(error_set(NULL, -ENOMEM, "lost"), -ENOMEM);
}

static void error_cuts_a_long_message(void **state)
{
	struct error err = { 0 };
	char text[2 * sizeof(err.msg)];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	assert_int_equal(error_set(&err, -1, "%s", text), -1);
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
}

static void alloc_is_zeroed_and_aligned(void **state)
{
	u8 *a = xzalloc(100), *b = xzalloc_aligned(256, 100);
	char *c = xstrdup("text");

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(a[i] | b[i], 0);
	assert_int_equal((uintptr_t)b % 256, 0);
	assert_string_equal(c, "text");
	free(a);
	free(b);
	free(c);
}

static void bits_reach_both_ends(void **state)
{
	(void)state;
	assert_int_equal(BITS(63, 0), UINT64_MAX);
	assert_int_equal(BITS(0, 0), 1);
	assert_int_equal(BITS(63, 63), UINT64_C(1) << 63);
	assert_int_equal(bits_get(UINT64_C(0xf000000000000000), 63, 60), 15);
	assert_int_equal(bits_put(UINT64_MAX, 7, 4, 0), UINT64_MAX - 0xf0);
	assert_int_equal(bits_put(0, 7, 4, 0xff), 0xf0);
	assert_int_equal(size_mask(1), 0xff);
	assert_int_equal(size_mask(8), UINT64_MAX);
	assert_int_equal(align_up(4097, 4096), 8192);
	assert_int_equal(align_down(4097, 4096), 4096);
	assert_true(is_pow2(UINT64_C(1) << 63));
	assert_false(is_pow2(0));
	assert_false(is_pow2(6));
}

static void little_endian_access_at_any_address(void **state)
{
	u8 buf[16] = { 0 };

	(void)state;
	le_store(buf + 1, UINT64_C(0x8877665544332211), 8);
	assert_int_equal(buf[1], 0x11);
	assert_int_equal(buf[8], 0x88);
	assert_int_equal(le_load(buf + 3, 4), 0x66554433);
	assert_int_equal(le_load(buf + 3, 2), 0x4433);
	assert_int_equal(le_load(buf + 3, 1), 0x33);
	le_store(buf + 3, 0xabcd, 1);
	assert_int_equal(buf[3], 0xcd);
	assert_int_equal(buf[4], 0x44);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_returns_its_code_and_formats),
		cmocka_unit_test(error_keeps_the_first_message),
		cmocka_unit_test(error_without_a_place_still_returns_its_code),
		cmocka_unit_test(error_cuts_a_long_message),
		cmocka_unit_test(alloc_is_zeroed_and_aligned),
		cmocka_unit_test(bits_reach_both_ends),
		cmocka_unit_test(little_endian_access_at_any_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
