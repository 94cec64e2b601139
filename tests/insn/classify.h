/* What programs over all forms share: walking, classifying, watching a child. */
#pragma once

#include <sys/types.h>

#include "form.h"

/* Seen by the parent, for when the child hangs or dies. */
struct progress {
	u64 tests;
	char now[160];
};

/* All forms of the modes that this host can run, with their class. */
void forms_find(struct form_list *l, const u32 *host, const u32 *guest, struct rng *rng);

/* Shared memory; NULL if there is none. */
struct progress *progress_new(void);
/*
 * Wait for a child that does the tests: its exit code, or 1 after saying where it hung or
 * died.
 */
int progress_watch(const struct progress *p, pid_t child);
