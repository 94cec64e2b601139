/*
 * -drive in QEMU's spelling: "file=disk.qcow2,if=virtio,cache=none", a comma in a value
 * doubled.
 *
 * One table of keys. What QEMU has and Umbra does not is refused by name. Words only:
 * files are opened by block_open(). Main thread.
 */
#include "control/drive.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "control/options.h"

#define RECONNECT_MAX 3600

typedef int set_fn(struct drive *d, const char *key, const char *val, struct error *err);

static int wrong(const char *key, const char *val, const char *right, struct error *err)
{
	return error_set(err, -EINVAL, "-drive %s=%s: %s", key, val, right);
}

static bool parse_switch(const char *val, bool *on)
{
	*on = !strcmp(val, "on") || !strcmp(val, "yes") || !strcmp(val, "true");
	return *on || !strcmp(val, "off") || !strcmp(val, "no") || !strcmp(val, "false");
}

static int set_file(struct drive *d, const char *key, const char *val, struct error *err)
{
	(void)key;
	d->block.file = val;
	return *val ? 0 : error_set(err, -EINVAL, "-drive file=: an empty file name");
}

static int set_format(struct drive *d, const char *key, const char *val,
		      struct error *err)
{
	d->block.format = val;
	if (!strcmp(val, "raw") || !strcmp(val, "qcow2"))
		return 0;
	return wrong(key, val, "raw or qcow2 is needed", err);
}

static int set_if(struct drive *d, const char *key, const char *val, struct error *err)
{
	d->has_interface = true;
	if (!strcmp(val, "virtio"))
		d->interface = DRIVE_IF_VIRTIO;
	else if (!strcmp(val, "none"))
		d->interface = DRIVE_IF_NONE;
	else if (!strcmp(val, "ide"))
		d->interface = DRIVE_IF_IDE;
	else
		return wrong(key, val, "virtio, ide or none is needed", err);
	return 0;
}

static int set_media(struct drive *d, const char *key, const char *val, struct error *err)
{
	d->cdrom = !strcmp(val, "cdrom");
	if (d->cdrom)
		d->block.readonly = true;
	return d->cdrom || !strcmp(val, "disk")
		       ? 0
		       : wrong(key, val, "disk or cdrom is needed", err);
}

static int set_id(struct drive *d, const char *key, const char *val, struct error *err)
{
	if (!*val)
		return wrong(key, val, "a name is needed", err);
	*(!strcmp(key, "id") ? &d->id : &d->serial) = val;
	return 0;
}

static int set_index(struct drive *d, const char *key, const char *val, struct error *err)
{
	char *end;
	unsigned long n = strtoul(val, &end, 10);

	if (*val < '0' || *val > '9' || *end || n > 255)
		return wrong(key, val, "a number from 0 to 255 is needed", err);
	d->index = (int)n;
	return 0;
}

static int set_switch(struct drive *d, const char *key, const char *val,
		      struct error *err)
{
	bool *to = !strcmp(key, "snapshot") ? &d->block.snapshot : &d->block.readonly;

	return parse_switch(val, to) ? 0 : wrong(key, val, "on or off is needed", err);
}

static int set_cache(struct drive *d, const char *key, const char *val, struct error *err)
{
	static const char *const names[] = {
		[BLOCK_CACHE_WRITEBACK] = "writeback",
		[BLOCK_CACHE_NONE] = "none",
		[BLOCK_CACHE_WRITETHROUGH] = "writethrough",
		[BLOCK_CACHE_DIRECTSYNC] = "directsync",
		[BLOCK_CACHE_UNSAFE] = "unsafe",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(val, names[i])) {
			d->block.cache = (enum block_cache)i;
			return 0;
		}
	}
	return wrong(key, val,
		     "one of writeback, none, writethrough, directsync, unsafe is needed",
		     err);
}

static int set_reconnect(struct drive *d, const char *key, const char *val,
			 struct error *err)
{
	char *end;
	unsigned long n = strtoul(val, &end, 10);

	if (*val < '0' || *val > '9' || *end || n > RECONNECT_MAX)
		return wrong(key, val, "seconds, a number from 0 to 3600, are needed",
			     err);
	d->block.reconnect_delay = (unsigned)n;
	return 0;
}

static int set_discard(struct drive *d, const char *key, const char *val,
		       struct error *err)
{
	d->block.discard = !strcmp(val, "unmap") || !strcmp(val, "on");
	if (d->block.discard || !strcmp(val, "ignore") || !strcmp(val, "off"))
		return 0;
	return wrong(key, val, "unmap or ignore is needed", err);
}

/* How requests reach the host is found out at run time: all are accepted. */
static int set_aio(struct drive *d, const char *key, const char *val, struct error *err)
{
	(void)d;
	if (!strcmp(val, "threads") || !strcmp(val, "native") || !strcmp(val, "io_uring"))
		return 0;
	return wrong(key, val, "threads, native or io_uring is needed", err);
}

/* throttling.bps-read-max, bps_rd_max and bps_rd_max are one thing. */
static int set_rate(struct drive *d, const char *key, const char *val, struct error *err)
{
	bool plain = !!strncmp(key, "throttling.", 11);
	const char *name = plain ? key : key + 11;
	bool iops = !strncmp(name, "iops", 4);
	const char *way = name + (iops ? 5 : 4), *max;
	struct block_rate *r = iops ? d->block.iops : d->block.bps;
	u64 n;

	if (!strncmp(way, "read", 4) || !strncmp(way, "rd", 2))
		r += BLOCK_RATE_READ;
	else if (!strncmp(way, "write", 5) || !strncmp(way, "wr", 2))
		r += BLOCK_RATE_WRITE;
	max = strlen(way) >= 3 ? way + strlen(way) - 3 : way;
	for (const char *c = val; *c; c++)
		if (*c < '0' || *c > '9')
			return wrong(key, val, "a number is needed", err);
	n = strtoull(val, NULL, 10);
	if (!*val || strlen(val) > 15)
		return wrong(key, val, "a number up to 10^15 is needed", err);
	if (!strcmp(max, "max"))
		r->max = n;
	else
		r->per_second = n;
	return 0;
}

static const struct {
	const char *key;
	set_fn *set;
} keys[] = {
	{ "file", set_file },
	{ "format", set_format },
	{ "if", set_if },
	{ "media", set_media },
	{ "id", set_id },
	{ "serial", set_id },
	{ "index", set_index },
	{ "readonly", set_switch },
	{ "read-only", set_switch },
	{ "snapshot", set_switch },
	{ "cache", set_cache },
	{ "discard", set_discard },
	{ "reconnect-delay", set_reconnect },
	{ "file.reconnect-delay", set_reconnect },
	{ "aio", set_aio },
	{ "bps", set_rate },
	{ "bps_rd", set_rate },
	{ "bps_wr", set_rate },
	{ "iops", set_rate },
	{ "iops_rd", set_rate },
	{ "iops_wr", set_rate },
	{ "bps_max", set_rate },
	{ "bps_rd_max", set_rate },
	{ "bps_wr_max", set_rate },
	{ "iops_max", set_rate },
	{ "iops_rd_max", set_rate },
	{ "iops_wr_max", set_rate },
	{ "throttling.bps-total", set_rate },
	{ "throttling.bps-read", set_rate },
	{ "throttling.bps-write", set_rate },
	{ "throttling.iops-total", set_rate },
	{ "throttling.iops-read", set_rate },
	{ "throttling.iops-write", set_rate },
	{ "throttling.bps-total-max", set_rate },
	{ "throttling.bps-read-max", set_rate },
	{ "throttling.bps-write-max", set_rate },
	{ "throttling.iops-total-max", set_rate },
	{ "throttling.iops-read-max", set_rate },
	{ "throttling.iops-write-max", set_rate },
};

static int set(struct drive *d, const char *key, const char *val, struct error *err)
{
	const char *names[ARRAY_SIZE(keys) + 1], *nearest;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (!strcmp(keys[i].key, key))
			return keys[i].set(d, key, val, err);
		names[i] = keys[i].key;
	}
	names[ARRAY_SIZE(keys)] = NULL;
	nearest = options_nearest(key, names);
	return error_set(err, -EINVAL, "-drive: '%s' is not supported%s%s%s", key,
			 nearest ? ": is " : "", nearest ? nearest : "",
			 nearest ? " meant?" : "");
}

/* The next of "a=b,c=d"; ",," is a comma. */
static char *next_item(char **list)
{
	char *item = *list, *to = item, *from = item;

	if (!*item)
		return NULL;
	while (*from && (from[0] != ',' || from[1] == ',')) {
		if (from[0] == ',')
			from++;
		*to++ = *from++;
	}
	*list = *from ? from + 1 : from;
	*to = 0;
	return item;
}

int drive_parse(struct drive *d, const char *val, struct error *err)
{
	char *list, *item;

	*d = (struct drive){ .index = -1, .text = xstrdup(val) };
	list = d->text;
	while ((item = next_item(&list))) {
		char *eq = strchr(item, '=');
		int ret;

		if (!eq)
			return error_set(err, -EINVAL,
					 "-drive %s: '%s' has no value; file=NAME,... is "
					 "needed",
					 val, item);
		*eq = 0;
		ret = set(d, item, eq + 1, err);
		if (ret)
			return ret;
	}
	if (!d->block.file)
		return error_set(err, -EINVAL, "-drive %s: file=NAME is missing", val);
	return 0;
}

void drive_fini(struct drive *d)
{
	free(d->text);
	d->text = NULL;
}
