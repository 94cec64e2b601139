/* A Debian system from packages: what is checked and composed before any program runs. */
#pragma once

#include "base/error.h"
#include "base/types.h"

/* Package names with commas or blanks between them: 0, or -EINVAL and a line. */
int debian_check_packages(const char *list, struct error *err);
/* A release's name, as bookworm. */
bool debian_suite_ok(const char *suite);
/*
 * Those lines "deb URI RELEASE COMPONENT" of 'text' whose release is the suite, its
 * updates or its security updates, each once. Owned by the caller; empty: there is none.
 */
char *debian_sources(const char *text, const char *suite);
/* Of the output of `apt-config dump`, the lines that say how to reach a mirror. Owned. */
char *debian_apt_options(const char *text);
/* In single quotes for sh. Owned. */
char *debian_quote(const char *s);
/* Whether a line of mmdebstrap's output tells more about a failure than 'best' does. */
bool debian_tells_more(const char *line, const char *best);
/* "dir/debian.qcow2", "initrd": "dir/debian.initrd". Owned. */
char *debian_beside(const char *path, const char *what);

/* The shell script that makes the new system ours; $1 is its root directory. */
extern const char debian_hook[];
