/*
 * Disk images by name: -drive, in QEMU's spelling.
 *
 * Deliberately missing: werror and rerror other than reporting to the guest,
 * detect-zeroes, several media. One thread, before and after the machine.
 */
#include "control/drives.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "block/block.h"
#include "control/props.h"

#define DRIVES_MAX 32

struct drive {
	/* What was said. */
	char *file, *format, *id, *iface, *cache, *serial, *discard, *media, *werror,
		*rerror;
	bool readonly, snapshot;
	u8 locking;
	u64 bps[BLOCK_RATES], bps_max[BLOCK_RATES], iops[BLOCK_RATES],
		iops_max[BLOCK_RATES];
	/* What it means. */
	enum block_cache mode;
	bool taken;
	struct block *block;
};

struct drives {
	unsigned count;
	struct drive drive[DRIVES_MAX];
};

#define AT(field) offsetof(struct drive, field)
#define RATE(name, field)                                                                \
	{                                                                                \
		name, PROP_SIZE, AT(field), 0, 0                                         \
	}
#define TEXT(name, field)                                                                \
	{                                                                                \
		name, PROP_TEXT, AT(field), 0, 0                                         \
	}

static const struct prop props[] = {
	TEXT("file", file),
	TEXT("format", format),
	TEXT("driver", format),
	TEXT("id", id),
	TEXT("if", iface),
	TEXT("cache", cache),
	TEXT("serial", serial),
	TEXT("discard", discard),
	TEXT("media", media),
	TEXT("werror", werror),
	TEXT("rerror", rerror),
	{ "readonly", PROP_BOOL, AT(readonly), 0, 0 },
	{ "read-only", PROP_BOOL, AT(readonly), 0, 0 },
	{ "snapshot", PROP_BOOL, AT(snapshot), 0, 0 },
	{ "file.locking", PROP_SWITCH, AT(locking), 0, 0 },
	{ "aio", PROP_IGNORED, 0, 0, 0 },
	{ "index", PROP_IGNORED, 0, 0, 0 },
	RATE("bps", bps[BLOCK_RATE_TOTAL]),
	RATE("bps_rd", bps[BLOCK_RATE_READ]),
	RATE("bps_wr", bps[BLOCK_RATE_WRITE]),
	RATE("bps_max", bps_max[BLOCK_RATE_TOTAL]),
	RATE("bps_rd_max", bps_max[BLOCK_RATE_READ]),
	RATE("bps_wr_max", bps_max[BLOCK_RATE_WRITE]),
	RATE("iops", iops[BLOCK_RATE_TOTAL]),
	RATE("iops_rd", iops[BLOCK_RATE_READ]),
	RATE("iops_wr", iops[BLOCK_RATE_WRITE]),
	RATE("iops_max", iops_max[BLOCK_RATE_TOTAL]),
	RATE("iops_rd_max", iops_max[BLOCK_RATE_READ]),
	RATE("iops_wr_max", iops_max[BLOCK_RATE_WRITE]),
	RATE("throttling.bps-total", bps[BLOCK_RATE_TOTAL]),
	RATE("throttling.bps-read", bps[BLOCK_RATE_READ]),
	RATE("throttling.bps-write", bps[BLOCK_RATE_WRITE]),
	RATE("throttling.bps-total-max", bps_max[BLOCK_RATE_TOTAL]),
	RATE("throttling.bps-read-max", bps_max[BLOCK_RATE_READ]),
	RATE("throttling.bps-write-max", bps_max[BLOCK_RATE_WRITE]),
	RATE("throttling.iops-total", iops[BLOCK_RATE_TOTAL]),
	RATE("throttling.iops-read", iops[BLOCK_RATE_READ]),
	RATE("throttling.iops-write", iops[BLOCK_RATE_WRITE]),
	RATE("throttling.iops-total-max", iops_max[BLOCK_RATE_TOTAL]),
	RATE("throttling.iops-read-max", iops_max[BLOCK_RATE_READ]),
	RATE("throttling.iops-write-max", iops_max[BLOCK_RATE_WRITE]),
	{ 0 },
};

/* One of 'words' (NULL at the end), or not said: its number; -1: something else. */
static int one_of(const char *val, const char *const *words)
{
	for (int i = 0; words[i]; i++)
		if (val && !strcmp(val, words[i]))
			return i;
	return val ? -1 : 0;
}

static int check_words(struct drive *d, const char *text, struct error *err)
{
	static const char *const ifs[] = { "virtio", "none", NULL };
	static const char *const caches[] = { "writeback",  "none",   "writethrough",
					      "directsync", "unsafe", NULL };
	static const char *const discards[] = { "ignore", "unmap", "off", "on", NULL };
	static const char *const medias[] = { "disk", NULL };
	static const char *const werrors[] = { "report", "enospc", NULL };
	static const char *const rerrors[] = { "report", NULL };
	const struct {
		const char *name, *val;
		const char *const *words;
		const char *all;
	} checks[] = {
		{ "if", d->iface, ifs, "virtio or none" },
		{ "cache", d->cache, caches,
		  "writeback, none, writethrough, directsync or unsafe" },
		{ "discard", d->discard, discards, "unmap or ignore" },
		{ "media", d->media, medias, "disk" },
		{ "werror", d->werror, werrors, "report" },
		{ "rerror", d->rerror, rerrors, "report" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		if (one_of(checks[i].val, checks[i].words) < 0)
			return error_set(err, -EINVAL, "-drive %s: %s is %s", text,
					 checks[i].name, checks[i].all);
	d->mode = (enum block_cache[]){ BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE,
					BLOCK_CACHE_WRITETHROUGH, BLOCK_CACHE_DIRECTSYNC,
					BLOCK_CACHE_UNSAFE }[one_of(d->cache, caches)];
	return 0;
}

int drives_add(struct drives *d, const char *text, struct error *err)
{
	struct drive *n = &d->drive[d->count];
	char id[32];
	int ret;

	if (d->count == DRIVES_MAX)
		return error_set(err, -EINVAL,
				 "-drive %s: at most %u drives are possible", text,
				 DRIVES_MAX);
	d->count++;
	ret = props_parse(n, props, "-drive", text, "file", err);
	if (!ret)
		ret = check_words(n, text, err);
	if (ret)
		return ret;
	if (!n->file)
		return error_set(err, -EINVAL, "-drive %s: file= is needed", text);
	if (!n->id) {
		snprintf(id, sizeof(id), "drive%u", d->count - 1);
		n->id = xstrdup(id);
	}
	for (unsigned i = 0; i + 1 < d->count; i++)
		if (!strcmp(d->drive[i].id, n->id))
			return error_set(err, -EINVAL,
					 "-drive %s: there is one with id %s already",
					 text, n->id);
	return 0;
}

void drives_snapshot(struct drives *d)
{
	for (unsigned i = 0; i < d->count; i++)
		d->drive[i].snapshot = true;
}

static int open_one(struct drive *d, struct error *err)
{
	struct block_config cfg = {
		.file = d->file,
		.format = d->format,
		.readonly = d->readonly,
		.snapshot = d->snapshot,
		.discard = d->discard &&
			   (!strcmp(d->discard, "unmap") || !strcmp(d->discard, "on")),
		.no_lock = d->locking == SWITCH_OFF,
		.cache = d->mode,
	};

	for (unsigned i = 0; i < BLOCK_RATES; i++) {
		cfg.bps[i] = (struct block_rate){ d->bps[i], d->bps_max[i] };
		cfg.iops[i] = (struct block_rate){ d->iops[i], d->iops_max[i] };
	}
	return block_open(&d->block, &cfg, err);
}

int drives_open(struct drives *d, struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		if (!d->drive[i].taken)
			return error_set(
				err, -EINVAL,
				"-drive id=%s: no -device uses it; say if=virtio or "
				"-device virtio-blk-pci,drive=%s",
				d->drive[i].id, d->drive[i].id);
		if (open_one(&d->drive[i], err))
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
		struct drive *n = &d->drive[i];

		if (n->block) {
			int ret = block_close(n->block);

			if (ret)
				log_error("%s: %s; what was written last may be lost",
					  n->file, strerror(-ret));
		}
		props_fini(n, props);
	}
	free(d);
}

int drives_take(struct drives *d, const char *id, struct error *err)
{
	for (unsigned i = 0; i < d->count; i++) {
		if (strcmp(d->drive[i].id, id))
			continue;
		if (d->drive[i].taken)
			return error_set(err, -EINVAL, "drive %s is used by two devices",
					 id);
		d->drive[i].taken = true;
		return (int)i;
	}
	return error_set(err, -EINVAL, "there is no -drive with id '%s'", id);
}

void drives_take_number(struct drives *d, unsigned n)
{
	d->drive[n].taken = true;
}

unsigned drives_count(const struct drives *d)
{
	return d->count;
}

enum drive_if drives_if(const struct drives *d, unsigned n)
{
	const char *iface = d->drive[n].iface;

	return iface && !strcmp(iface, "none") ? DRIVE_NONE : DRIVE_VIRTIO;
}

const char *drives_serial(const struct drives *d, unsigned n)
{
	return d->drive[n].serial;
}

struct block *drives_block(const struct drives *d, unsigned n)
{
	return d->drive[n].block;
}

bool drives_writethrough(const struct drives *d, unsigned n)
{
	return d->drive[n].mode == BLOCK_CACHE_WRITETHROUGH ||
	       d->drive[n].mode == BLOCK_CACHE_DIRECTSYNC;
}
