/*
 * A read-only ISO 9660 disk: one directory of files, with their real names in Joliet.
 *
 * ECMA-119 (4th edition), clause numbers below; Joliet Specification, May 22, 1995. The
 * primary descriptor's names are in the characters that it allows (USER_DATA.;1), level
 * 2; who knows Joliet, as Linux does, sees the names that were given. No subdirectories,
 * no Rock Ridge, no boot record; every time is 1970, so that equal files make equal
 * disks. No state, no lock.
 *
 *   sector 16  primary descriptor      19, 20  its path tables, little and big endian
 *          17  Joliet's                21, 22  Joliet's
 *          18  terminator              23, 24  root directories
 *          25  the files, each from a new sector on
 */
#include "block/iso9660.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"

enum {
	PRIMARY = 16,
	JOLIET,
	TERMINATOR,
	PATH_L,
	PATH_M,
	JOLIET_PATH_L,
	JOLIET_PATH_M,
	ROOT,
	JOLIET_ROOT,
	DATA,
};

enum { RECORD = 33, PATH_LEN = 10, SIZE_MAX_ISO = 1 << 30 };

static void put_le(u8 *p, u32 val, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (u8)(val >> (8 * i));
}

static void put_be(u8 *p, u32 val, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (u8)(val >> (8 * (bytes - 1 - i)));
}

/* 7.2.3, 7.3.3 */
static void put_both(u8 *p, u32 val, unsigned bytes)
{
	put_le(p, val, bytes);
	put_be(p + bytes, val, bytes);
}

/* A text in a field that is filled up with blanks; UCS-2 for Joliet. */
static void put_text(u8 *p, const char *s, size_t len, bool joliet)
{
	size_t used = strlen(s);

	for (size_t i = 0; i < (joliet ? len / 2 : len); i++) {
		u8 c = i < used ? (u8)s[i] : ' ';

		if (joliet)
			put_be(p + 2 * i, c, 2);
		else
			p[i] = c;
	}
}

/* 8.4.26.1: the digits of "not specified", then a zero byte. */
static void put_date(u8 *p)
{
	memset(p, '0', 16);
	p[16] = 0;
}

/* 9.1; returns its length. 'name' is as it stands on the disk. */
static unsigned put_record(u8 *p, u32 sector, u32 len, bool directory, const u8 *name,
			   unsigned name_len)
{
	/* Years since 1900, month, day, then hour to time zone. */
	static const u8 date[7] = { 70, 1, 1 };
	unsigned total = RECORD + name_len + !(name_len & 1);

	p[0] = (u8)total;
	put_both(p + 2, sector, 4);
	put_both(p + 10, len, 4);
	memcpy(p + 18, date, sizeof(date));
	p[25] = directory ? 2 : 0;
	put_both(p + 28, 1, 2);
	p[32] = (u8)name_len;
	memcpy(p + RECORD, name, name_len);
	return total;
}

/* As the primary descriptor wants it: 7.5, d-characters, with the separators. */
static unsigned primary_name(u8 *out, const char *name)
{
	const char *dot = strrchr(name, '.');
	unsigned n = 0;

	for (const char *s = name; *s; s++)
		out[n++] = s == dot                     ? '.'
			   : isalnum((unsigned char)*s) ? (u8)toupper((unsigned char)*s)
							: '_';
	if (!dot)
		out[n++] = '.';
	out[n++] = ';';
	out[n++] = '1';
	return n;
}

static unsigned joliet_name(u8 *out, const char *name)
{
	unsigned n = 0;

	for (; name[n]; n++)
		put_be(out + (size_t)2 * n, (u8)name[n], 2);
	return 2 * n;
}

static unsigned disk_name(u8 *out, const char *name, bool joliet)
{
	return joliet ? joliet_name(out, name) : primary_name(out, name);
}

struct layout {
	const struct iso9660_file *files;
	size_t count;
	u32 sector[ISO9660_FILES_MAX];
	u32 end;
};

/* 9.3: records are in the order of their names, in each of both directories. */
static void put_directory(u8 *disk, const struct layout *l, bool joliet)
{
	u32 root = joliet ? JOLIET_ROOT : ROOT;
	u8 *p = disk + (size_t)root * ISO9660_SECTOR;
	u8 names[ISO9660_FILES_MAX][2 * ISO9660_NAME_MAX + 4];
	unsigned len[ISO9660_FILES_MAX];
	size_t order[ISO9660_FILES_MAX];

	for (size_t i = 0; i < l->count; i++) {
		size_t at = i;

		len[i] = disk_name(names[i], l->files[i].name, joliet);
		for (; at; at--) {
			size_t prev = order[at - 1];
			int d = memcmp(names[prev], names[i], MIN(len[prev], len[i]));

			if (d < 0 || (!d && len[prev] <= len[i]))
				break;
			order[at] = prev;
		}
		order[at] = i;
	}
	/* 6.8.2.2: itself, and its parent, which of the root is the root. */
	p += put_record(p, root, ISO9660_SECTOR, true, (const u8 *)"", 1);
	p += put_record(p, root, ISO9660_SECTOR, true, (const u8 *)"\1", 1);
	for (size_t i = 0; i < l->count; i++) {
		size_t n = order[i];

		p += put_record(p, l->sector[n], (u32)l->files[n].len, false, names[n],
				len[n]);
	}
}

/* 8.4, 8.5 */
static void put_descriptor(u8 *disk, const struct layout *l, const char *label,
			   bool joliet)
{
	u32 root = joliet ? JOLIET_ROOT : ROOT, path = joliet ? JOLIET_PATH_L : PATH_L;
	u8 *p = disk + (size_t)(joliet ? JOLIET : PRIMARY) * ISO9660_SECTOR;

	p[0] = joliet ? 2 : 1;
	memcpy(p + 1, "CD001\1", 6);
	put_text(p + 8, "", 32, joliet);
	put_text(p + 40, label, 32, joliet);
	put_both(p + 80, l->end, 4);
	if (joliet)
		memcpy(p + 88, "%/E", 3); /* UCS-2, level 3 */
	put_both(p + 120, 1, 2);
	put_both(p + 124, 1, 2);
	put_both(p + 128, ISO9660_SECTOR, 2);
	put_both(p + 132, PATH_LEN, 4);
	put_le(p + 140, path, 4);
	put_be(p + 148, path + 1, 4);
	put_record(p + 156, root, ISO9660_SECTOR, true, (const u8 *)"", 1);
	/* Set, publisher, preparer, application; three names of files; four times. */
	for (unsigned i = 0; i < 4; i++)
		put_text(p + 190 + (size_t)128 * i, "", 128, joliet);
	for (unsigned i = 0; i < 3; i++)
		put_text(p + 702 + (size_t)37 * i, "", 37, joliet);
	for (unsigned i = 0; i < 4; i++)
		put_date(p + 813 + (size_t)17 * i);
	p[881] = 1;
}

/* 9.4: the root alone. */
static void put_paths(u8 *disk, bool joliet)
{
	u32 root = joliet ? JOLIET_ROOT : ROOT;
	u8 *l = disk + (size_t)(joliet ? JOLIET_PATH_L : PATH_L) * ISO9660_SECTOR;
	u8 *m = l + ISO9660_SECTOR;

	l[0] = m[0] = 1;
	put_le(l + 2, root, 4);
	put_be(m + 2, root, 4);
	put_le(l + 6, 1, 2);
	put_be(m + 6, 1, 2);
}

static bool name_ok(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				  "0123456789-_.");

	return len && len <= ISO9660_NAME_MAX && !name[len];
}

static bool lay_out(struct layout *l, const struct iso9660_file *files, size_t count)
{
	u64 next = DATA;

	if (count > ISO9660_FILES_MAX)
		return false;
	*l = (struct layout){ .files = files, .count = count };
	for (size_t i = 0; i < count; i++) {
		if (!name_ok(files[i].name) || files[i].len >= SIZE_MAX_ISO)
			return false;
		/* An empty file has no extent. */
		l->sector[i] = files[i].len ? (u32)next : 0;
		next += align_up(files[i].len, ISO9660_SECTOR) / ISO9660_SECTOR;
	}
	l->end = (u32)next;
	return next * ISO9660_SECTOR < SIZE_MAX_ISO;
}

u8 *iso9660_build(const struct iso9660_file *files, size_t count, const char *label,
		  size_t *size)
{
	struct layout l;
	u8 *disk;

	if (strlen(label) > ISO9660_LABEL_MAX || !lay_out(&l, files, count))
		return NULL;
	*size = (size_t)l.end * ISO9660_SECTOR;
	disk = calloc(1, *size);
	if (!disk)
		return NULL;
	for (unsigned joliet = 0; joliet < 2; joliet++) {
		put_descriptor(disk, &l, label, joliet);
		put_paths(disk, joliet);
		put_directory(disk, &l, joliet);
	}
	memcpy(disk + (size_t)TERMINATOR * ISO9660_SECTOR,
	       "\xff"
	       "CD001\1",
	       7);
	for (size_t i = 0; i < count; i++)
		if (files[i].len)
			memcpy(disk + (size_t)l.sector[i] * ISO9660_SECTOR, files[i].data,
			       files[i].len);
	return disk;
}
