/* -fw_cfg: files of the user for the firmware configuration device. */
#pragma once

#include "base/error.h"
#include "machine/pc.h"

#define FWFILES_MAX 48

/* The words of one option are right. Opens nothing. */
int fwfiles_check(const char *text, struct error *err);

struct fwfiles {
	struct pc_file file[FWFILES_MAX];
	unsigned count;
};

/* Take the texts apart and read the files. Nothing is left behind on failure. */
int fwfiles_load(struct fwfiles *f, const char *const *text, unsigned count,
		 struct error *err);
void fwfiles_fini(struct fwfiles *f);
