/*
 * Runs the cases of a guest and prints a line for each:
 *
 *     ok NAME (WHERE)
 *     not ok NAME (WHERE): why
 *     skip NAME (WHERE): why
 *     # failed NAME, ROW: why
 *     # row (WHERE) NAME: ROW
 *     # checks N matrix M (WHERE) NAME
 *
 * The command line is "[-rows] [-no-nt] [NAME]". With a name only that case runs; cases
 * that are to run alone run no other way. The third line from the end comes for each row
 * that fails, the next for each row with -rows, the last is for tools/conformance: see
 * row() and checked().
 */
#include "rt.h"

void rt_main(u32 info);

#define FAILED_ROWS_MAX 20 /* printed for a case */

static const struct test_case *now;
static bool has_failed;
volatile u32 checks_done, matrix_done;
static const char *skipped;
static char why[256];
static const char *cmdline = "";
static bool list_rows;
bool host_loses_nt;
/* The row under way, if any, and how it failed. */
static char row_name[128], row_why[256];
static bool row_failed;
static unsigned failed_rows;

/* Nothing is printed here: it may be user mode. */
void fail(const char *fmt, ...)
{
	va_list args;

	if (row_failed)
		return;
	row_failed = true;
	va_start(args, fmt);
	print_to(row_why, sizeof(row_why), fmt, args);
	va_end(args);
}

static void take(char *to, const char *from, size_t size)
{
	while (--size && *from)
		*to++ = *from++;
	*to = 0;
}

/* What has been said about the row under way, or the case outside of rows. */
static void row_end(void)
{
	if (!row_failed)
		return;
	if (!has_failed)
		take(why, row_why, sizeof(why));
	has_failed = true;
	row_failed = false;
	if (*row_name && ++failed_rows <= FAILED_ROWS_MAX)
		print("# failed %s, %s: %s\n", now->name, row_name, row_why);
}

void row(const char *fmt, ...)
{
	va_list args;

	row_end();
	va_start(args, fmt);
	print_to(row_name, sizeof(row_name), fmt, args);
	va_end(args);
	if (list_rows)
		print("# row (%s) %s: %s\n", now->where, now->name, row_name);
}

void skip(const char *text)
{
	skipped = text;
}

static void result(void)
{
	row_end();
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
	return has_failed || row_failed;
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
	row_failed = true;
	print_to(row_why, sizeof(row_why), fmt, args);
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

/* Does the text begin with this option? Then it is skipped. */
static bool option(const char **text, const char *flag)
{
	const char *at = *text;

	while (*flag && *at == *flag)
		at++, flag++;
	if (*flag)
		return false;
	while (*at == ' ')
		at++;
	*text = at;
	return true;
}

static void read_command_line(const char *text)
{
	list_rows = option(&text, "-rows");
	host_loses_nt = option(&text, "-no-nt");
	cmdline = text;
}

/* 'info' is hvm_start_info: its field 24 is the address of the command line. */
void rt_main(u32 info)
{
	const char *text = *(const char **)(word)(info + 24);

	if (text)
		read_command_line(text);
	for (now = cases; now->name; now++) {
		if (*cmdline ? !same(cmdline, now->name) : now->alone)
			continue;
		has_failed = row_failed = false;
		failed_rows = 0;
		*row_name = 0;
		skipped = NULL;
		checks_done = matrix_done = 0;
		now->run();
		result();
	}
	power_off();
}
