/*
 * The options of `umbra run`, in QEMU's spelling. Parsing looks at the words only: no
 * file is opened and nothing is changed.
 */
#pragma once

#include <stdio.h>

#include "base/error.h"
#include "control/devices_pci.h"
#include "control/fwfiles.h"
#include "machine/devices.h"
#include "machine/pc.h"

/* What a character device is connected to. */
enum backend {
	BACKEND_DEFAULT, /* not said */
	BACKEND_STDIO,
	BACKEND_FILE,
	BACKEND_NULL,    /* output is thrown away */
	BACKEND_CHARDEV, /* while options are parsed: the -chardev with this id */
	BACKEND_STDERR,  /* not to be asked for: the console of `run --verbose -- COMMAND`
			  */
};

struct port_option {
	enum backend backend;
	const char *path; /* BACKEND_FILE; BACKEND_CHARDEV: id */
};

/* -chardev: a backend with a name. */
#define CHARDEVS_MAX 8

struct chardev_option {
	char id[64];
	char path[1024]; /* BACKEND_FILE */
	enum backend backend;
};

enum stats_format { STATS_OFF, STATS_TEXT, STATS_JSON };

enum rtc_base { RTC_BASE_UTC, RTC_BASE_LOCAL, RTC_BASE_DATE };

/* What is to be done. */
enum run_action {
	RUN_MACHINE,
	RUN_HELP,
	RUN_CPU_HELP,
	RUN_ENGINE_HELP,
	RUN_MACHINE_HELP,
	RUN_DEVICE_HELP,
};

/* Strings are borrowed from argv. */
struct run_options {
	enum run_action action;
	const char *kernel, *initrd, *append; /* NULL: not given */
	const char *cpu, *engine, *name;      /* NULL: not given */
	const char *gdb;                      /* where to wait for it; NULL: do not */
	u64 ram_size;                         /* bytes */
	unsigned cpus;
	unsigned sockets, cores, threads; /* 0: not given */
	struct port_option serial[PC_SERIALS];
	unsigned serials;            /* how many were given */
	struct port_option debugcon; /* what isa-debugcon prints to */
	struct chardev_option chardev[CHARDEVS_MAX];
	unsigned chardevs;
	struct device_args device[DEVICES_MAX];
	unsigned devices;
	struct virtio_words virtio;
	const char *device_help; /* for RUN_DEVICE_HELP: "NAME,help", or NULL for all */
	const char *fw_cfg[FWFILES_MAX]; /* checked */
	unsigned fw_cfgs;
	bool no_pit, no_hpet, no_i8042;
	bool nodefaults; /* no serial port unless asked for */
	enum rtc_base rtc_base;
	i64 rtc_date; /* seconds since 1970, for RTC_BASE_DATE */
	bool no_reboot, verbose;
	bool hold; /* before the first instruction */
	enum stats_format stats;
	const char *profile, *symbols; /* NULL: not given */
	size_t symbols_len;            /* of the path in it */
	bool symbols_moved;            /* the guest's kernel is not where they say */
	u64 symbols_offset;            /* by so much */
	bool perfmap;
	char **command; /* what is behind "--", ends with NULL; NULL: none */
};

/* argv[0] is the command's name. 0, or -EINVAL and one line that names the option. */
int options_parse(struct run_options *o, int argc, char **argv, struct error *err);

/* Like 512 or 1.5G: a plain number is in MiB. False: it is no such thing, or no u64. */
bool options_size(const char *s, u64 *bytes);

/*
 * The entry of 'names' (ends with NULL) that 'word' was probably meant to be: few letters
 * differ. NULL when none is near.
 */
const char *options_nearest(const char *word, const char *const *names);

/* One line per option. */
void options_help(FILE *out);
