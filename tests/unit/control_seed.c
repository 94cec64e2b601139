/* --seed: what becomes the disk of cloud-init, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/seed.h"

static char dir[] = "/tmp/umbra-seed-XXXXXX";

static const char *at(const char *name)
{
	static char path[2][128];
	static unsigned turn;

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
	return path[turn];
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(at(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
	fclose(f);
}

/* The disk has this somewhere. */
static bool has(const u8 *disk, size_t size, const char *what)
{
	return memmem(disk, size, what, strlen(what));
}

static u8 *build(const char *text, size_t *size)
{
	struct error err = { 0 };
	u8 *disk = seed_build(text, size, &err);

	if (!disk)
		print_error("%s\n", err.msg);
	assert_non_null(disk);
	return disk;
}

static void refused(const char *text, const char *what)
{
	struct error err = { 0 };
	size_t size;

	assert_null(seed_build(text, &size, &err));
	if (!strstr(err.msg, what))
		print_error("'%s' lacks '%s'\n", err.msg, what);
	assert_non_null(strstr(err.msg, what));
	assert_null(strchr(err.msg, '\n'));
}

static const char config[] = "#cloud-config\nhostname: x\n";

static void id_of(const u8 *disk, size_t size, char *id)
{
	const char *p = memmem(disk, size, "instance-id: umbra-", 19);

	assert_non_null(p);
	memcpy(id, p, 35);
	id[35] = 0;
}

static void the_instance_is_that_of_the_contents(void **state)
{
	char first[64], second[64], third[64], text[256];
	size_t size;
	u8 *disk;

	(void)state;
	put("u", config);
	disk = build(at("u"), &size);
	assert_true(has(disk, size, config));
	assert_true(has(disk, size, "cidata"));
	id_of(disk, size, first);
	free(disk);
	disk = build(at("u"), &size);
	id_of(disk, size, second);
	free(disk);
	assert_string_equal(first, second);
	put("n", "version: 2\n");
	snprintf(text, sizeof(text), "%s,network-config=%s", at("u"), at("n"));
	disk = build(text, &size);
	assert_true(has(disk, size, "version: 2\n"));
	id_of(disk, size, third);
	assert_string_not_equal(first, third);
	free(disk);
}

static void meta_data_may_be_given(void **state)
{
	char text[256];
	size_t size;
	u8 *disk;

	(void)state;
	put("u", config);
	put("m", "instance-id: mine\n");
	put("bad", "local-hostname: x\n");
	snprintf(text, sizeof(text), "user-data=%s,meta-data=%s", at("u"), at("m"));
	disk = build(text, &size);
	assert_true(has(disk, size, "instance-id: mine\n"));
	assert_false(has(disk, size, "umbra-"));
	free(disk);
	snprintf(text, sizeof(text), "%s,meta-data=%s", at("u"), at("bad"));
	refused(text, "cloud-init needs a line 'instance-id: ...'");
}

static void a_directory_has_the_names_of_the_disk(void **state)
{
	size_t size;
	u8 *disk;

	(void)state;
	mkdir(at("d"), 0700);
	refused(at("d"), "d/user-data: No such file or directory");
	put("d/user-data", "#!/bin/sh\necho hello\n");
	put("d/vendor-data", "#cloud-config\n{}\n");
	put("d/other", "not for the guest");
	disk = build(at("d"), &size);
	assert_true(has(disk, size, "echo hello"));
	assert_true(has(disk, size, "#cloud-config\n{}\n"));
	assert_true(has(disk, size, "instance-id: umbra-"));
	assert_false(has(disk, size, "not for the guest"));
	free(disk);
}

static void what_cloud_init_would_ignore_is_refused(void **state)
{
	static const char *const good[] = {
		"#cloud-config",
		"#!/bin/sh\n",
		"Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n",
		"#include\nhttp://x/\n",
		"## template: jinja\n#cloud-config\n",
		"\x1f\x8b\x08",
	};
	static const char *const bad[] = { " #cloud-config", "hostname: x\n", "#", "",
					   "\xef\xbb\xbf#cloud-config" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_true(seed_user_data_ok(good[i], strlen(good[i])));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(seed_user_data_ok(bad[i], strlen(bad[i])));
	put("u", "hostname: x\n");
	refused(at("u"), "begins with neither '#cloud-config' nor '#!'");
}

static void bad_files_are_named(void **state)
{
	char text[256];

	(void)state;
	put("u", config);
	put("empty", "");
	refused("/nosuch/file", "--seed: /nosuch/file: No such file");
	refused(at("empty"), "empty: is empty");
	refused("/dev/null", "/dev/null: not a regular file");
	refused("meta-data=x", "the file of user data is missing");
	snprintf(text, sizeof(text), "%s,metadata=x", at("u"));
	refused(text, "metadata");
	snprintf(text, sizeof(text), "%s,vendor-data=/nosuch", at("u"));
	refused(text, "--seed: /nosuch: No such file");
	assert_int_equal(truncate(at("empty"), SEED_BYTES_MAX + 1), 0);
	refused(at("empty"), "larger than 16 MiB");
}

static void it_becomes_a_file(void **state)
{
	struct error err = { 0 };
	struct stat st;
	char head[8];
	int fd;

	(void)state;
	put("u", config);
	fd = seed_open(at("u"), &err);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size % 2048, 0);
	assert_int_equal(pread(fd, head, 6, 16 * 2048), 6);
	assert_memory_equal(head, "\1CD001", 6);
	close(fd);
	assert_true(seed_open("/nosuch", &err) < 0);
}

static int make_dir(void **state)
{
	(void)state;
	return !mkdtemp(dir);
}

static int remove_dir(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_instance_is_that_of_the_contents),
		cmocka_unit_test(meta_data_may_be_given),
		cmocka_unit_test(a_directory_has_the_names_of_the_disk),
		cmocka_unit_test(what_cloud_init_would_ignore_is_refused),
		cmocka_unit_test(bad_files_are_named),
		cmocka_unit_test(it_becomes_a_file),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
