/*
 * The commands of the program. A new one is a line of the table.
 *
 * Called once, by main().
 */
#include "control/commands.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "control/doctor.h"
#include "control/image.h"
#include "control/options.h"
#include "control/run.h"
#include "control/session.h"

struct command {
	const char *name;
	const char *text; /* NULL: not listed */
	/* argv[0] is the name. */
	int (*run)(int argc, char **argv);
};

static int help_main(int argc, char **argv);
static int version_main(int argc, char **argv);

static const struct command commands[] = {
	{ "run", "boot a machine, or run a command in one", run_main },
	{ "image", "make, check, convert and change disk images", image_main },
	{ "doctor", "say what works on this host, and why not", doctor_main },
	{ "help", "this text, or the help of a command", help_main },
	{ "version", "print the version", version_main },
	{ "--help", NULL, help_main },
	{ "-help", NULL, help_main },
	{ "-h", NULL, help_main },
	{ "--version", NULL, version_main },
	{ "-version", NULL, version_main },
	{ "-V", NULL, version_main },
};

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(name, commands[i].name))
			return &commands[i];
	return NULL;
}

static int unknown(const char *name)
{
	const char *names[ARRAY_SIZE(commands) + 1], *nearest;
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].text)
			names[n++] = commands[i].name;
	names[n] = NULL;
	nearest = options_nearest(name, names);
	if (nearest)
		log_error("unknown command '%s': is %s meant?", name, nearest);
	else if (name[0] == '-')
		log_error("'%s' comes before the command: umbra run %s ...", name, name);
	else
		log_error("unknown command '%s': `umbra help` lists them", name);
	return STATUS_USAGE;
}

static int help_main(int argc, char **argv)
{
	const struct command *c = argc > 1 ? find(argv[1]) : NULL;

	if (argc > 1 && !c)
		return unknown(argv[1]);
	if (c && c->text && c->run != help_main && c->run != version_main) {
		char *args[] = { argv[1], (char[]){ "--help" }, NULL };

		return c->run(2, args);
	}
	printf("Umbra " UMBRA_VERSION ", a virtual machine monitor for x86-64.\n\n"
	       "Usage: umbra COMMAND ...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].text)
			printf("  %-9s %s\n", commands[i].name, commands[i].text);
	printf("\n`umbra COMMAND --help` says more; so does umbra(1).\n");
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

static int version_main(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	printf("umbra " UMBRA_VERSION "\n");
	return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
}

/* A program may be started without its standard descriptors; no file of ours shall take
 * their place. */
static void open_standard(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 &&
		    open("/dev/null", fd ? O_WRONLY : O_RDONLY) < 0)
			return;
}

int commands_main(int argc, char **argv)
{
	const struct command *c;

	open_standard();
	if (argc < 2) {
		log_error("a command is needed: `umbra help` lists them");
		return STATUS_USAGE;
	}
	c = find(argv[1]);
	return c ? c->run(argc - 1, argv + 1) : unknown(argv[1]);
}
