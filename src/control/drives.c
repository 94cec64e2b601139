/*
 * The drives of a machine: images by name, and which device has which.
 *
 * One thread, before and after the machine.
 */
#include "control/drives.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "control/drive.h"

#define DRIVES_MAX 32

struct entry {
	struct drive d;
	char number[16]; /* its id, when none was given */
	bool taken;
	struct block *block;
};

struct drives {
	unsigned count;
	struct entry entry[DRIVES_MAX];
};

int drives_add(struct drives *d, const char *text, struct error *err)
{
	struct entry *e = &d->entry[d->count];
	int ret;

	if (d->count == DRIVES_MAX)
		return error_set(err, -EINVAL,
				 "-drive %s: at most %u drives are possible", text,
				 DRIVES_MAX);
	d->count++;
	ret = drive_parse(&e->d, text, err);
	if (ret)
		return ret;
	if (!e->d.id) {
		snprintf(e->number, sizeof(e->number), "drive%u", d->count - 1);
		e->d.id = e->number;
	}
	for (unsigned i = 0; i + 1 < d->count; i++)
		if (!strcmp(d->entry[i].d.id, e->d.id))
			return error_set(err, -EINVAL,
					 "-drive %s: there is one with id %s already",
					 text, e->d.id);
	return 0;
}

void drives_snapshot(struct drives *d)
{
	for (unsigned i = 0; i < d->count; i++)
		d->entry[i].d.block.snapshot = true;
}

int drives_open(struct drives *d, struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		struct entry *e = &d->entry[i];

		if (!e->taken)
			return error_set(
				err, -EINVAL,
				"-drive id=%s: no -device uses it; say if=virtio or "
				"-device virtio-blk-pci,drive=%s",
				e->d.id, e->d.id);
		if (block_open(&e->block, &e->d.block, err))
			return -EINVAL;
	}
	return 0;
}

struct drives *drives_new(void)
{
	return xzalloc(sizeof(struct drives));
}

void drives_free(struct drives *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < d->count; i++) {
		struct entry *e = &d->entry[i];
		int ret = e->block ? block_close(e->block) : 0;

		if (ret)
			log_error("%s: %s; what was written last may be lost",
				  e->d.block.file, strerror(-ret));
		drive_fini(&e->d);
	}
	free(d);
}

int drives_take(struct drives *d, const char *id, struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		if (strcmp(d->entry[i].d.id, id))
			continue;
		if (d->entry[i].taken)
			return error_set(err, -EINVAL, "drive %s is used by two devices",
					 id);
		d->entry[i].taken = true;
		return (int)i;
	}
	return error_set(err, -EINVAL, "there is no -drive with id '%s'", id);
}

void drives_take_number(struct drives *d, unsigned n)
{
	d->entry[n].taken = true;
}

unsigned drives_count(const struct drives *d)
{
	return d->count;
}

bool drives_is_virtio(const struct drives *d, unsigned n)
{
	return d->entry[n].d.interface == DRIVE_IF_VIRTIO;
}

bool drives_is_ide(const struct drives *d, unsigned n)
{
	return d->entry[n].d.interface == DRIVE_IF_IDE;
}

const char *drives_id(const struct drives *d, unsigned n)
{
	return d->entry[n].d.id;
}

const char *drives_serial(const struct drives *d, unsigned n)
{
	return d->entry[n].d.serial;
}

struct block *drives_block(const struct drives *d, unsigned n)
{
	return d->entry[n].block;
}

bool drives_writethrough(const struct drives *d, unsigned n)
{
	enum block_cache cache = d->entry[n].d.block.cache;

	return cache == BLOCK_CACHE_WRITETHROUGH || cache == BLOCK_CACHE_DIRECTSYNC;
}
