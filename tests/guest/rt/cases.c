/*
 * Runs the cases of a guest and prints a line for each:
 *
 *     ok NAME (WHERE)
 *     not ok NAME (WHERE): why
 *     skip NAME (WHERE): why
 *     # checks N matrix M (WHERE) NAME
 *
 * The last, for tools/conformance, is what it counted: see checked().
 * With a name on the command line only that case runs. Cases that are to run alone run no
 * other way.
 */
#include "rt.h"

void rt_main(u32 info);

static const struct test_case *now;
static bool has_failed;
volatile u32 checks_done, matrix_done;
static const char *skipped;
static char why[256];
static const char *cmdline = "";

void fail(const char *fmt, ...)
{
	va_list args;

	if (has_failed)
		return;
	has_failed = true;
	va_start(args, fmt);
	print_to(why, sizeof(why), fmt, args);
	va_end(args);
}

void skip(const char *text)
{
	skipped = text;
}

static void result(void)
{
	if (has_failed && !now->known)
		print("not ok %s (%s): %s\n", now->name, now->where, why);
	else if (has_failed)
		print("skip %s (%s): known failure, %s: %s\n", now->name, now->where,
		      now->known, why);
	else if (skipped)
		print("skip %s (%s): %s\n", now->name, now->where, skipped);
	else
		print("ok %s (%s)\n", now->name, now->where);
	if (!skipped)
		print("# checks %u matrix %u (%s) %s\n", checks_done, matrix_done,
		      now->where, now->name);
}

bool failed(void)
{
	return has_failed;
}

const char *command_line(void)
{
	return cmdline;
}

void ends_with(const char *how)
{
	print("ends %s %s (%s)\n", how, now->name, now->where);
}

void not_ended(void)
{
	stop("the machine still runs");
}

void stop(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	has_failed = true;
	print_to(why, sizeof(why), fmt, args);
	va_end(args);
	result();
	power_off();
}

static bool same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* 'info' is hvm_start_info: its field 24 is the address of the command line. */
void rt_main(u32 info)
{
	const char *text = *(const char **)(word)(info + 24);

	if (text)
		cmdline = text;
	for (now = cases; now->name; now++) {
		if (*cmdline ? !same(cmdline, now->name) : now->alone)
			continue;
		has_failed = false;
		skipped = NULL;
		checks_done = matrix_done = 0;
		now->run();
		result();
	}
	power_off();
}
