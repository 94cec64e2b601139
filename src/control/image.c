/*
 * `umbra image COMMAND`: options in qemu-img's spelling, one table for all commands.
 *
 * Exit status: 0; 1 when something failed; 2 when the command line is wrong. check and
 * compare have qemu-img's (check: 2 damaged, 3 leaks only; compare: 1 they differ).
 */
#include "control/image.h"

#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "block/qcow2_tool.h"
#include "control/options.h"
#include "control/session.h"

static const struct {
	const char *name, *options; /* short ones, as for getopt() */
	const char *usage, *text;
	int min, max; /* names */
	int (*run)(const struct image_args *a);
} commands[] = {
	{ "create", "f:b:F:o:uq",
	  "[-f FORMAT] [-b BACKING -F FORMAT] [-o OPTIONS] FILE [SIZE]",
	  "make a new image", 1, 2, image_create },
	{ "info", "f:U", "[-f FORMAT] [--output=json] [--backing-chain] [-U] FILE",
	  "say what an image is", 1, 1, image_info },
	{ "check",
	  "f:r:pqUT:", "[-f FORMAT] [-r leaks|all] [--output=json] [-p] [-U] FILE",
	  "look for damage, and repair it", 1, 1, image_check },
	{ "convert", "f:O:o:cnpqS:B:F:Ut:T:m:W",
	  "[-f FORMAT] [-O FORMAT] [-c] [-n] [-o OPTIONS] [-B BACKING -F FORMAT] [-S "
	  "SIZE] "
	  "[-p] FILE OUT",
	  "copy into another image or format", 2, 2, image_convert },
	{ "commit", "f:dpqt:", "[-f FORMAT] [-d] [-p] FILE",
	  "write what is in it into its backing file", 1, 1, image_commit },
	{ "rebase", "f:b:F:upqU", "[-f FORMAT] [-u] -b BACKING [-F FORMAT] [-p] FILE",
	  "change its backing file", 1, 1, image_rebase },
	{ "resize", "f:q", "[-f FORMAT] [--shrink] FILE [+-]SIZE", "change its size", 2,
	  2, image_resize },
	{ "snapshot", "f:lc:a:d:qU", "[-l | -c NAME | -a NAME | -d NAME] FILE",
	  "list, create, apply or delete internal snapshots", 1, 1, image_snapshot },
	{ "map", "f:U", "[-f FORMAT] [--output=json] [-U] FILE", "say where its data is",
	  1, 1, image_map },
	{ "compare", "f:F:pqsUT:", "[-f FORMAT] [-F FORMAT] [-s] [-p] FILE FILE",
	  "compare what two images show", 2, 2, image_compare },
	{ "debian", "f:pq",
	  "[--packages LIST] [--kernel PACKAGE] [--size SIZE] [--suite NAME] "
	  "[--ssh-key FILE] [-f FORMAT] [-q] OUT",
	  "make a bootable Debian from packages", 1, 1, image_debian },
};

enum {
	OPT_OUTPUT = 256,
	OPT_SHRINK,
	OPT_CHAIN,
	OPT_HELP,
	OPT_PACKAGES,
	OPT_SIZE,
	OPT_SUITE,
	OPT_KEY,
	OPT_KERNEL
};

static const struct option long_options[] = {
	{ "output", required_argument, NULL, OPT_OUTPUT },
	{ "shrink", no_argument, NULL, OPT_SHRINK },
	{ "backing-chain", no_argument, NULL, OPT_CHAIN },
	{ "force-share", no_argument, NULL, 'U' },
	{ "repair", required_argument, NULL, 'r' },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "packages", required_argument, NULL, OPT_PACKAGES },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "suite", required_argument, NULL, OPT_SUITE },
	{ "ssh-key", required_argument, NULL, OPT_KEY },
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ 0 },
};

int image_failed(const struct error *err)
{
	log_error("%s", err->msg[0] ? err->msg : "it failed");
	return STATUS_FAILED;
}

bool image_size(const char *s, u64 *bytes)
{
	size_t len = strlen(s);
	char buf[64];

	/* options_size() takes a plain number for MiB. */
	if (len && len < sizeof(buf) - 1 && isdigit((unsigned char)s[len - 1])) {
		memcpy(buf, s, len);
		strcpy(buf + len, "B");
		s = buf;
	}
	return options_size(s, bytes);
}

void image_progress(const struct image_args *a, double percent)
{
	if (!a->progress)
		return;
	printf("    (%.2f/100%%)%s", percent, percent >= 100 ? "\n" : "\r");
	fflush(stdout);
}

static void usage(FILE *out, size_t i)
{
	fprintf(out, "Usage: umbra image %s %s\n", commands[i].name, commands[i].usage);
}

static int help(FILE *out)
{
	fprintf(out, "Usage: umbra image COMMAND ...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].text);
	fprintf(out,
		"\nOptions are those of qemu-img; `umbra image COMMAND --help` lists "
		"them. Formats: raw, qcow2.\n");
	return fflush(out) ? STATUS_FAILED : STATUS_OK;
}

static int bad(const char *command, const char *what, const char *val, const char *right)
{
	log_error("image %s: %s '%s': %s", command, what, val, right);
	return STATUS_USAGE;
}

static int set_fix(struct image_args *a, const char *val)
{
	if (!strcmp(val, "leaks"))
		a->fix = QCOW2_FIX_LEAKS;
	else if (!strcmp(val, "all"))
		a->fix = QCOW2_FIX_ALL;
	else
		return bad(a->command, "-r", val, "leaks or all is needed");
	return 0;
}

static int set_option(struct image_args *a, int opt, char *val)
{
	if (opt >= OPT_PACKAGES && strcmp(a->command, "debian"))
		return bad(a->command, "value", val, "only debian has this option");
	switch (opt) {
	case 'f': a->format = val; break;
	case 'O': a->out_format = val; break;
	case 'o':
		if (a->options)
			return bad(a->command, "-o", val,
				   "is given twice; one list with commas is needed");
		a->options = val;
		break;
	case 'b':
	case 'B': a->base = val; break;
	case 'F': a->base_format = val; break;
	case 'r': return set_fix(a, val);
	case 'S':
		if (!image_size(val, &a->sparse))
			return bad(a->command, "-S", val, "a size is needed");
		break;
	case 'c':
		if (val) {
			a->create = true;
			a->snapshot = val;
		} else {
			a->compress = true;
		}
		break;
	case 'a':
		a->apply = true;
		a->snapshot = val;
		break;
	case 'd':
		a->del = val != NULL;
		a->keep = val == NULL;
		a->snapshot = val;
		break;
	case 'l': a->list = true; break;
	case 'n': a->no_create = true; break;
	case 'p': a->progress = true; break;
	case 'q': a->quiet = true; break;
	case 's': a->strict = true; break;
	case 'u': a->unsafe_rebase = true; break;
	case 'U': a->share = true; break;
	case 'm':
	case 'W':
	case 't':
	case 'T': break; /* about speed only */
	case OPT_SHRINK: a->shrink = true; break;
	case OPT_PACKAGES: a->packages = val; break;
	case OPT_SIZE: a->size = val; break;
	case OPT_SUITE: a->suite = val; break;
	case OPT_KEY: a->key = val; break;
	case OPT_KERNEL: a->kernel = val; break;
	case OPT_CHAIN: a->all = true; break;
	case OPT_OUTPUT:
		if (strcmp(val, "json") && strcmp(val, "human"))
			return bad(a->command, "--output", val,
				   "json or human is needed");
		a->json = !strcmp(val, "json");
		break;
	}
	return 0;
}

static int run(size_t i, int argc, char **argv)
{
	struct image_args a = { .command = commands[i].name, .sparse = 4096 };
	/* "-1G" of resize is no option. */
	bool minus = commands[i].run == image_resize && argc > 2 &&
		     argv[argc - 1][0] == '-' &&
		     isdigit((unsigned char)argv[argc - 1][1]);
	char spec[64];
	int opt, ret;

	snprintf(spec, sizeof(spec), ":h%s", commands[i].options);
	optind = 1;
	opterr = 0;
	while ((opt = getopt_long(argc - minus, argv, spec, long_options, NULL)) != -1) {
		if (opt == 'h' || opt == OPT_HELP) {
			usage(stdout, i);
			return fflush(stdout) ? STATUS_FAILED : STATUS_OK;
		}
		if (opt == ':')
			return bad(a.command, "option", argv[optind - 1],
				   "needs a value");
		if (opt == '?')
			return bad(a.command, "option", argv[optind - 1],
				   "is not known; --help lists them");
		ret = set_option(&a, opt, optarg);
		if (ret)
			return ret;
	}
	a.count = argc - optind;
	a.names = argv + optind;
	if (a.count < commands[i].min)
		return bad(a.command, "usage", commands[i].usage,
			   "a name or size is missing");
	if (a.count > commands[i].max)
		return bad(a.command, "argument", a.names[commands[i].max],
			   "is one too many");
	a.progress = a.progress && !a.quiet && !a.json;
	return commands[i].run(&a);
}

int image_main(int argc, char **argv)
{
	const char *names[ARRAY_SIZE(commands) + 1], *nearest;

	if (argc < 2) {
		log_error("image: a command is needed: `umbra image --help` lists them");
		return STATUS_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
	    !strcmp(argv[1], "-help") || !strcmp(argv[1], "help"))
		return help(stdout);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (!strcmp(argv[1], commands[i].name))
			return run(i, argc - 1, argv + 1);
		names[i] = commands[i].name;
	}
	names[ARRAY_SIZE(commands)] = NULL;
	nearest = options_nearest(argv[1], names);
	log_error("image: unknown command '%s'%s%s%s", argv[1], nearest ? ": is " : "",
		  nearest ? nearest : ": `umbra image --help` lists them",
		  nearest ? " meant?" : "");
	return STATUS_USAGE;
}
