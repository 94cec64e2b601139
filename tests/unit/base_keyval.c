/* Lists of keys and values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/keyval.h"

/* "key=val|key|..." of what comes out. */
static void comes_out(const char *list, const char *want)
{
	char got[256] = "";
	struct keyval kv;

	keyval_init(&kv, list);
	while (keyval_next(&kv)) {
		strcat(got, kv.key);
		if (kv.val) {
			strcat(got, "=");
			strcat(got, kv.val);
		}
		strcat(got, "|");
	}
	assert_false(keyval_next(&kv));
	keyval_fini(&kv);
	assert_string_equal(got, want);
}

static void items_are_taken_apart(void **state)
{
	(void)state;
	comes_out("name,a=1,b=2", "name|a=1|b=2|");
	comes_out("a=b=c,d=", "a=b=c|d=|");
	comes_out("", "|");
	comes_out("a,", "a||");
	comes_out(",a", "|a|");
	comes_out("=x", "=x|");
}

static void doubled_commas_are_one(void **state)
{
	(void)state;
	comes_out("f=a,,b,c", "f=a,b|c|");
	comes_out("a,,", "a,|");
	comes_out("a,,,b", "a,|b|");
	comes_out(",,,,", ",,|");
	comes_out(",,,", ",||");
}

static void numbers_and_switches(void **state)
{
	bool on = false;
	u64 n = 0;

	(void)state;
	assert_true(keyval_number("0xf4", 0xffff, &n));
	assert_int_equal(n, 0xf4);
	assert_true(keyval_number("010", 0xffff, &n));
	assert_int_equal(n, 10);
	assert_true(keyval_number("65535", 0xffff, &n));
	assert_false(keyval_number("65536", 0xffff, &n));
	assert_false(keyval_number("", 1, &n));
	assert_false(keyval_number(NULL, 1, &n));
	assert_false(keyval_number("-1", 0xffff, &n));
	assert_false(keyval_number("0x", 0xffff, &n));
	assert_false(keyval_number("1k", 0xffff, &n));
	assert_false(keyval_number("99999999999999999999", UINT64_MAX, &n));
	assert_true(keyval_bool("on", &on) && on);
	assert_true(keyval_bool("false", &on) && !on);
	assert_false(keyval_bool("", &on));
	assert_false(keyval_bool(NULL, &on));
	assert_false(keyval_bool("ON", &on));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_are_taken_apart),
		cmocka_unit_test(doubled_commas_are_one),
		cmocka_unit_test(numbers_and_switches),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
