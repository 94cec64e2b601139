/* The value of -drive, -hda and the like: an image and what it is connected to. */
#pragma once

#include "block/block.h"

enum drive_if { DRIVE_IF_VIRTIO, DRIVE_IF_NONE, DRIVE_IF_IDE };

struct drive {
	enum drive_if interface;
	bool has_interface, cdrom;
	const char *id, *serial; /* NULL: not given */
	int index;               /* -1: not given */
	/* Strings point into 'text'. */
	struct block_config block;
	char *text; /* owned */
};

/*
 * Parse a value as of QEMU's -drive; no file is opened. 0, or -EINVAL and one line that
 * names the key. drive_fini() in any case.
 */
int drive_parse(struct drive *d, const char *val, struct error *err);
void drive_fini(struct drive *d);
