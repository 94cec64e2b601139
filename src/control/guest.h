/* What to boot: the files given, or the guest that `make` put beside the program. */
#pragma once

#include "control/options.h"

struct guest {
	char *kernel, *initrd; /* paths; initrd may be NULL */
	char *cmdline;
	char *describe; /* "Linux 6.1.0-37-cloud-amd64", or the kernel's path */
	bool ours;      /* our own initrd: it knows the parameters umbra.* */
};

/* How the user sits at the guest. */
struct guest_terminal {
	bool console;   /* standard input is typed into the console */
	bool terminal;  /* and is a terminal */
	bool at_end;    /* standard input has nothing at all */
	u16 rows, cols; /* 0: not known */
	const char *type;
};

/* 0, or -errno and a message. */
int guest_find(struct guest *g, const struct run_options *o,
	       const struct guest_terminal *t, struct error *err);
void guest_fini(struct guest *g);

/* The directory in which the guest is looked for first, for messages. To be freed. */
char *guest_directory(void);
