/* Disks of a few files: read back by a reader of our own, and by isoinfo where it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/iso9660.h"

enum { SECTOR = ISO9660_SECTOR };

static u32 le(const u8 *p, unsigned n)
{
	u32 val = 0;

	while (n--)
		val = val << 8 | p[n];
	return val;
}

static u32 be(const u8 *p, unsigned n)
{
	u32 val = 0;

	for (unsigned i = 0; i < n; i++)
		val = val << 8 | p[i];
	return val;
}

/* A number in both orders. */
static u32 both(const u8 *p, unsigned n)
{
	assert_int_equal(le(p, n), be(p + n, n));
	return le(p, n);
}

struct reader {
	const u8 *disk;
	size_t size;
	bool joliet;
};

static const u8 *descriptor(const struct reader *r)
{
	for (size_t at = 16 * SECTOR;; at += SECTOR) {
		const u8 *p = r->disk + at;

		assert_true(at + SECTOR <= r->size);
		assert_memory_equal(p + 1, "CD001\1", 6);
		assert_int_not_equal(p[0], 255);
		if (p[0] == (r->joliet ? 2 : 1))
			return p;
	}
}

/* The n-th record of the root; NULL at the end. */
static const u8 *record(const struct reader *r, unsigned n)
{
	const u8 *root = descriptor(r) + 156, *p, *end;

	assert_int_equal(root[0], 34);
	assert_int_equal(root[25], 2);
	p = r->disk + (size_t)both(root + 2, 4) * SECTOR;
	end = p + both(root + 10, 4);
	assert_true(end <= r->disk + r->size);
	while (n--)
		p += p[0];
	assert_true(p < end);
	return p[0] ? p : NULL;
}

/* A name in the directory's own characters, as text. */
static void name_of(const struct reader *r, const u8 *rec, char *out)
{
	unsigned step = r->joliet ? 2 : 1;

	assert_int_equal(rec[0], (33 + rec[32] + 1) & ~1);
	for (unsigned i = 0; i < rec[32]; i += step)
		*out++ = (char)rec[33 + i + step - 1];
	*out = 0;
}

static const u8 *find(const struct reader *r, const char *name, size_t *len)
{
	const u8 *rec;

	for (unsigned i = 2; (rec = record(r, i)); i++) {
		char text[256];

		name_of(r, rec, text);
		if (strcmp(text, name))
			continue;
		*len = both(rec + 10, 4);
		assert_true((u64)both(rec + 2, 4) * SECTOR + *len <= r->size);
		return r->disk + (size_t)both(rec + 2, 4) * SECTOR;
	}
	return NULL;
}

static const char big[5000] = "#cloud-config\n";

static const struct iso9660_file files[] = {
	{ "user-data", big, sizeof(big) },
	{ "meta-data", "instance-id: 1\n", 15 },
	{ "empty", NULL, 0 },
	{ "a.b.txt", "x", 1 },
};

static u8 *build(size_t *size)
{
	u8 *disk = iso9660_build(files, 4, "cidata", size);

	assert_non_null(disk);
	assert_int_equal(*size % SECTOR, 0);
	return disk;
}

static void files_are_found_by_both_names(void **state)
{
	static const char *const primary[] = { "USER_DATA.;1", "META_DATA.;1", "EMPTY.;1",
					       "A_B.TXT;1" };
	size_t size, len;
	u8 *disk = build(&size);

	(void)state;
	for (int joliet = 0; joliet < 2; joliet++) {
		struct reader r = { disk, size, joliet };

		for (unsigned i = 0; i < 4; i++) {
			const u8 *data =
				find(&r, joliet ? files[i].name : primary[i], &len);

			assert_non_null(data);
			assert_int_equal(len, files[i].len);
			if (len)
				assert_memory_equal(data, files[i].data, len);
		}
		assert_null(find(&r, "user", &len));
	}
	free(disk);
}

static void names_are_in_order(void **state)
{
	size_t size;
	u8 *disk = build(&size);

	(void)state;
	for (int joliet = 0; joliet < 2; joliet++) {
		struct reader r = { disk, size, joliet };
		char last[256] = "", name[256];
		const u8 *rec;

		for (unsigned i = 2; (rec = record(&r, i)); i++) {
			name_of(&r, rec, name);
			assert_true(strcmp(last, name) < 0);
			strcpy(last, name);
		}
	}
	free(disk);
}

static void descriptors_are_complete(void **state)
{
	size_t size;
	u8 *disk = build(&size);
	struct reader r = { disk, size, false };
	const u8 *p = descriptor(&r), *j, *paths;

	(void)state;
	assert_memory_equal(p + 40, "cidata          ", 16);
	assert_int_equal(both(p + 80, 4) * SECTOR, size);
	assert_int_equal(both(p + 128, 2), SECTOR);
	assert_int_equal(p[881], 1);
	r.joliet = true;
	j = descriptor(&r);
	assert_memory_equal(j + 88, "%/E", 3);
	assert_memory_equal(j + 40, "\0c\0i\0d\0a\0t\0a\0 ", 14);
	/* The path table names the root, in both orders. */
	paths = disk + (size_t)le(j + 140, 4) * SECTOR;
	assert_int_equal(le(paths + 2, 4), both(j + 156 + 2, 4));
	paths = disk + (size_t)be(j + 148, 4) * SECTOR;
	assert_int_equal(be(paths + 2, 4), both(j + 156 + 2, 4));
	/* The set ends. */
	assert_int_equal(disk[18 * SECTOR], 255);
	assert_memory_equal(disk + 18 * SECTOR + 1, "CD001\1", 6);
	free(disk);
}

static void what_does_not_fit_is_refused(void **state)
{
	static const char *const bad[] = { "", "a/b", "x y", "\xc3\xa4",
					   "a-name-of-thirty-one-characters" };
	struct iso9660_file many[ISO9660_FILES_MAX + 1], one = { "x", "", 1 };
	size_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		one.name = bad[i];
		assert_null(iso9660_build(&one, 1, "cidata", &size));
	}
	for (size_t i = 0; i <= ISO9660_FILES_MAX; i++)
		many[i] = (struct iso9660_file){ "x", "", 1 };
	assert_null(iso9660_build(many, ISO9660_FILES_MAX + 1, "cidata", &size));
	one = (struct iso9660_file){ "x", "", (size_t)1 << 40 };
	assert_null(iso9660_build(&one, 1, "cidata", &size));
	assert_null(iso9660_build(files, 1, "a-label-of-17-chrs", &size));
}

/* The longest names, and as many as there may be, stay within the directory's sector. */
static void all_that_fits_is_there(void **state)
{
	struct iso9660_file many[ISO9660_FILES_MAX];
	char name[ISO9660_FILES_MAX][ISO9660_NAME_MAX + 1];
	size_t size, len;
	u8 *disk;

	(void)state;
	for (unsigned i = 0; i < ISO9660_FILES_MAX; i++) {
		memset(name[i], 'a', ISO9660_NAME_MAX);
		name[i][ISO9660_NAME_MAX] = 0;
		name[i][ISO9660_NAME_MAX - 1] = (char)('9' - i);
		many[i] = (struct iso9660_file){ name[i], name[i], i };
	}
	disk = iso9660_build(many, ISO9660_FILES_MAX, "", &size);
	assert_non_null(disk);
	for (unsigned i = 0; i < ISO9660_FILES_MAX; i++) {
		struct reader r = { disk, size, true };

		assert_non_null(find(&r, name[i], &len));
		assert_int_equal(len, i);
	}
	free(disk);
}

static void isoinfo_reads_it(void **state)
{
	char path[] = "/tmp/umbra-iso-XXXXXX", command[256], out[8192];
	size_t size, n;
	u8 *disk = build(&size);
	int fd = mkstemp(path);
	FILE *f;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, disk, size), size);
	close(fd);
	free(disk);
	if (access("/usr/bin/isoinfo", X_OK)) {
		unlink(path);
		skip();
	}
	snprintf(command, sizeof(command),
		 "isoinfo -d -i %s && isoinfo -J -f -i %s && "
		 "isoinfo -J -x /meta-data -i %s && isoinfo -J -x /user-data -i %s | wc "
		 "-c",
		 path, path, path, path);
	f = popen(command, "r");
	assert_non_null(f);
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = 0;
	assert_int_equal(pclose(f), 0);
	unlink(path);
	assert_non_null(strstr(out, "Volume id: cidata\n"));
	assert_non_null(strstr(out, "Joliet with UCS level 3 found"));
	assert_non_null(strstr(out, "/user-data\n"));
	assert_non_null(strstr(out, "/a.b.txt\n"));
	assert_non_null(strstr(out, "instance-id: 1\n5000\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_found_by_both_names),
		cmocka_unit_test(names_are_in_order),
		cmocka_unit_test(descriptors_are_complete),
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(all_that_fits_is_there),
		cmocka_unit_test(isoinfo_reads_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
