/* The words of `umbra image debian`, and what is taken from apt's configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/debian.h"

static void names_of_packages_are_checked(void **state)
{
	static const char *const good[] = { "", "fio", "g++,libstdc++6", "a1 b2,\n c3," };
	static const char *const bad[] = {
		"-oX=1", "a", "Fio", "fio;rm", "fio,$x", "../x"
	};
	struct error err;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		err = (struct error){ 0 };
		assert_int_equal(debian_check_packages(good[i], &err), 0);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		err = (struct error){ 0 };
		assert_true(debian_check_packages(bad[i], &err) < 0);
		assert_non_null(strstr(err.msg, "not the name of a package"));
	}
	assert_true(debian_suite_ok("bookworm"));
	assert_false(debian_suite_ok(""));
	assert_false(debian_suite_ok("-x"));
	assert_false(debian_suite_ok("book worm"));
}

static void sources_are_those_of_the_suite(void **state)
{
	char *s = debian_sources("deb http://a/debian/ bookworm main\n"
				 "deb http://a/debian/ bookworm main\n"
				 "deb http://a/debian/ bookworm-updates main\n"
				 "deb http://b/node/ nodistro main\n"
				 "deb http://c/x/ bookwormish main\n"
				 "deb http://a/debian/ bookworm-backports main\n"
				 "deb http://d/s/ bookworm-security main\n"
				 "deb  bookworm main\ndeb\ndeb x\n"
				 "deb http://e/ bookworm\nnonsense",
				 "bookworm");

	(void)state;
	assert_string_equal(s, "deb http://a/debian/ bookworm main\n"
			       "deb http://a/debian/ bookworm-updates main\n"
			       "deb http://d/s/ bookworm-security main\n");
	free(s);
	s = debian_sources("deb http://a/ bookworm main", "trixie");
	assert_string_equal(s, "");
	free(s);
}

static void only_what_reaches_a_mirror_is_taken_from_apt(void **state)
{
	char *s = debian_apt_options("Acquire \"\";\nAcquire::http \"\";\n"
				     "Acquire::http::Proxy \"http://p:1\";\n"
				     "Acquire::https::Proxy \"\";\n"
				     "DPkg::Post-Invoke:: \"rm x\";\n"
				     "Acquire::Check-Valid-Until \"false\";\n");

	(void)state;
	assert_string_equal(s, "Acquire::http::Proxy \"http://p:1\";\n"
			       "Acquire::Check-Valid-Until \"false\";\n");
	free(s);
}

static void text_reaches_the_shell_as_it_is(void **state)
{
	char *s = debian_quote("a'b $(x)");

	(void)state;
	assert_string_equal(s, "'a'\\''b $(x)'");
	free(s);
}

static void the_cause_is_told_rather_than_the_consequence(void **state)
{
	(void)state;
	assert_true(debian_tells_more("E: it failed", "I: installing"));
	assert_true(debian_tells_more("Err: Failed to fetch x", "E: it failed"));
	assert_false(debian_tells_more("E: it failed", "E: Failed to fetch x"));
}

static void the_kernel_lies_beside_the_image(void **state)
{
	static const char *const names[][2] = {
		{ "d.qcow2", "d.initrd" },       { "/a.b/d", "/a.b/d.initrd" },
		{ "a/d.x.img", "a/d.x.initrd" }, { ".d", ".d.initrd" },
		{ "a/.d", "a/.d.initrd" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char *s = debian_beside(names[i][0], "initrd");

		assert_string_equal(s, names[i][1]);
		free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_packages_are_checked),
		cmocka_unit_test(sources_are_those_of_the_suite),
		cmocka_unit_test(only_what_reaches_a_mirror_is_taken_from_apt),
		cmocka_unit_test(text_reaches_the_shell_as_it_is),
		cmocka_unit_test(the_cause_is_told_rather_than_the_consequence),
		cmocka_unit_test(the_kernel_lies_beside_the_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
