/* Messages on standard error, and the limit on those a guest provokes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static int saved_stderr, capture;
static char text[65536];

static void capture_start(void)
{
	fflush(stderr);
	capture = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(capture >= 0);
	saved_stderr = dup(2);
	assert_true(dup2(capture, 2) >= 0);
}

/* What was written since, as a string; returns the number of lines. */
static unsigned capture_end(void)
{
	unsigned lines = 0;
	ssize_t n;

	fflush(stderr);
	assert_true(dup2(saved_stderr, 2) >= 0);
	close(saved_stderr);
	n = pread(capture, text, sizeof(text) - 1, 0);
	assert_true(n >= 0);
	text[n] = 0;
	close(capture);
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	return lines;
}

static void log_line_has_prefix_and_newline(void **state)
{
	(void)state;
	log_set_level(LOG_WARN);
	capture_start();
	log_error("no %s", "disk");
	log_warn("slow");
	assert_int_equal(capture_end(), 2);
	assert_string_equal(text, "umbra: no disk\numbra: warning: slow\n");
}

static void log_level_hides_what_is_below(void **state)
{
	(void)state;
	log_set_level(LOG_WARN);
	capture_start();
	log_info("hidden");
	log_debug("hidden");
	log_set_level(LOG_DEBUG);
	log_info("shown");
	log_debug("shown");
	assert_int_equal(log_get_level(), LOG_DEBUG);
	assert_int_equal(capture_end(), 2);
	log_set_level(LOG_WARN);
}

static void log_line_is_cut_at_its_limit(void **state)
{
	char big[5000];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = 0;
	capture_start();
	log_error("%s", big);
	assert_int_equal(capture_end(), 1);
	assert_true(strlen(text) <= 1024);
	assert_int_equal(text[strlen(text) - 1], '\n');
}

static void log_line_stays_one_line(void **state)
{
	(void)state;
	capture_start();
	log_error("a\nb\x1b[31m\x7f\tc");
	log_error("caf\xc3\xa9");
	assert_int_equal(capture_end(), 2);
	assert_string_equal(text, "umbra: a?b?[31m??c\numbra: caf\xc3\xa9\n");
}

static void log_line_ends_with_cr_lf_in_raw_mode(void **state)
{
	(void)state;
	log_set_crlf(true);
	capture_start();
	log_error("raw");
	log_set_crlf(false);
	log_error("cooked");
	assert_int_equal(capture_end(), 2);
	assert_string_equal(text, "umbra: raw\r\numbra: cooked\n");
}

static void provoke(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		guest_bug("chip", "bad value %u", i);
}

static void guest_bug_stays_silent_by_default(void **state)
{
	(void)state;
	log_set_level(LOG_WARN);
	capture_start();
	provoke(5);
	assert_int_equal(capture_end(), 0);
}

static void guest_bug_is_limited_at_each_site(void **state)
{
	(void)state;
	log_set_level(LOG_INFO);
	capture_start();
	provoke(1000000);
	for (unsigned i = 0; i < 100; i++)
		guest_bug("other", "another site");
	assert_int_equal(capture_end(), 16);
	assert_non_null(strstr(text, "umbra: guest: chip: bad value 0\n"));
	assert_non_null(strstr(text, "umbra: guest: other: another site\n"));
	capture_start();
	provoke(1000);
	assert_int_equal(capture_end(), 0);
	log_set_level(LOG_WARN);
}

static void guest_bug_count_does_not_wrap_round(void **state)
{
	struct log_limit limit = { .count = UINT32_MAX - 2 };

	(void)state;
	log_set_level(LOG_INFO);
	capture_start();
	for (unsigned i = 0; i < 10; i++)
		guest_bug_log(&limit, "chip", "again");
	assert_int_equal(capture_end(), 0);
	log_set_level(LOG_WARN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_line_has_prefix_and_newline),
		cmocka_unit_test(log_level_hides_what_is_below),
		cmocka_unit_test(log_line_is_cut_at_its_limit),
		cmocka_unit_test(log_line_stays_one_line),
		cmocka_unit_test(log_line_ends_with_cr_lf_in_raw_mode),
		cmocka_unit_test(guest_bug_stays_silent_by_default),
		cmocka_unit_test(guest_bug_is_limited_at_each_site),
		cmocka_unit_test(guest_bug_count_does_not_wrap_round),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
