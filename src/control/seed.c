/*
 * --seed USER_DATA: the seed disk of cloud-init's data source NoCloud.
 *
 * cloud-init's documentation, "NoCloud" and "User-data formats": a file system labelled
 * cidata with user-data and meta-data, and perhaps vendor-data and network-config. The
 * instance's id is made of the contents: changed data is a new instance, to which all is
 * done again. What the files mean is left to cloud-init, except for what would be ignored
 * without a word. Main thread, before there is a machine.
 */
#include "control/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "block/iso9660.h"
#include "control/props.h"

enum { USER_DATA, META_DATA, VENDOR_DATA, NETWORK_CONFIG, FILES };

static const char *const names[FILES] = { "user-data", "meta-data", "vendor-data",
					  "network-config" };

struct words {
	char *path[FILES];
};

static const struct prop props[] = {
	{ "user-data", PROP_TEXT, offsetof(struct words, path[USER_DATA]), 0, 0 },
	{ "meta-data", PROP_TEXT, offsetof(struct words, path[META_DATA]), 0, 0 },
	{ "vendor-data", PROP_TEXT, offsetof(struct words, path[VENDOR_DATA]), 0, 0 },
	{ "network-config", PROP_TEXT, offsetof(struct words, path[NETWORK_CONFIG]), 0,
	  0 },
	{ 0 },
};

struct seed {
	struct iso9660_file file[FILES];
	u8 *data[FILES]; /* owned; NULL: there is none */
	size_t len[FILES];
	char id[64];
};

/* ---- files ---- */

static int read_all(int fd, u8 *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, data + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO; /* it became shorter */
		done += (size_t)n;
	}
	return 0;
}

static int read_file(struct seed *s, unsigned i, const char *path, struct error *err)
{
	/* A FIFO shall not make us wait. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret = 0;
	struct stat st;

	if (fd < 0)
		return error_set(err, -errno, "--seed: %s: %s", path, strerror(errno));
	if (fstat(fd, &st))
		ret = error_set(err, -errno, "--seed: %s: %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		ret = error_set(err, -EINVAL, "--seed: %s: not a regular file", path);
	else if (!st.st_size)
		ret = error_set(err, -EINVAL, "--seed: %s: is empty", path);
	else if (st.st_size > SEED_BYTES_MAX)
		ret = error_set(err, -EFBIG, "--seed: %s: larger than %u MiB", path,
				SEED_BYTES_MAX >> 20);
	if (ret)
		goto out;
	s->len[i] = (size_t)st.st_size;
	s->data[i] = malloc(s->len[i]);
	ret = s->data[i] ? read_all(fd, s->data[i], s->len[i]) : -ENOMEM;
	if (ret)
		error_set(err, ret, "--seed: %s: %s", path, strerror(-ret));
out:
	close(fd);
	return ret;
}

/* Of a directory those with the names of the disk; all but the first may be missing. */
static int read_directory(struct seed *s, const struct words *w, struct error *err)
{
	const char *dir = w->path[USER_DATA];

	for (unsigned i = 0; i < FILES; i++) {
		char *path;
		int ret = 0;

		if (i != USER_DATA && w->path[i])
			continue;
		if (asprintf(&path, "%s/%s", dir, names[i]) < 0)
			return -ENOMEM;
		if (i == USER_DATA || !access(path, F_OK))
			ret = read_file(s, i, path, err);
		free(path);
		if (ret)
			return ret;
	}
	return 0;
}

static int read_files(struct seed *s, const struct words *w, struct error *err)
{
	struct stat st;
	bool directory;
	int ret = 0;

	if (!w->path[USER_DATA])
		return error_set(err, -EINVAL,
				 "--seed: the file of user data is missing");
	directory = !stat(w->path[USER_DATA], &st) && S_ISDIR(st.st_mode);
	if (directory)
		ret = read_directory(s, w, err);
	for (unsigned i = directory; i < FILES && !ret; i++)
		if (w->path[i])
			ret = read_file(s, i, w->path[i], err);
	return ret;
}

/* ---- contents ---- */

bool seed_user_data_ok(const void *data, size_t len)
{
	static const char *const starts[] = {
		"#cloud-config", "#!",
		"#include",      "#cloud-boothook",
		"#part-handler", "## template: jinja",
		"\x1f\x8b" /* gzip */
	};
	static const char mime[] = "mime-version:";
	const char *text = data;
	size_t head = MIN(len, (size_t)4096);

	for (size_t i = 0; i < ARRAY_SIZE(starts); i++)
		if (len >= strlen(starts[i]) &&
		    !memcmp(text, starts[i], strlen(starts[i])))
			return true;
	for (size_t i = 0; i + sizeof(mime) - 1 <= head; i++)
		if (!strncasecmp(text + i, mime, sizeof(mime) - 1))
			return true;
	return false;
}

static int check(const struct seed *s, const struct words *w, struct error *err)
{
	static const char id[] = "instance-id";

	if (!seed_user_data_ok(s->data[USER_DATA], s->len[USER_DATA]))
		return error_set(
			err, -EINVAL,
			"--seed: %s: cloud-init would ignore it: it begins with "
			"neither '#cloud-config' nor '#!', and has no MIME header",
			w->path[USER_DATA]);
	if (s->data[META_DATA] &&
	    !memmem(s->data[META_DATA], s->len[META_DATA], id, sizeof(id) - 1))
		return error_set(err, -EINVAL,
				 "--seed: %s: cloud-init needs a line 'instance-id: ...'",
				 w->path[META_DATA] ? w->path[META_DATA]
						    : names[META_DATA]);
	return 0;
}

static u64 hash(u64 h, const void *data, size_t len)
{
	const u8 *p = data;

	/* FNV-1a. */
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return h;
}

static void make_meta_data(struct seed *s)
{
	u64 h = 0xcbf29ce484222325;

	for (unsigned i = 0; i < FILES; i++) {
		h = hash(h, &s->len[i], sizeof(s->len[i]));
		h = hash(h, s->data[i], s->len[i]);
	}
	snprintf(s->id, sizeof(s->id), "instance-id: umbra-%016" PRIx64 "\n", h);
}

static u8 *make_disk(struct seed *s, size_t *size, struct error *err)
{
	size_t n = 0;
	u8 *disk;

	for (unsigned i = 0; i < FILES; i++)
		if (s->data[i])
			s->file[n++] =
				(struct iso9660_file){ names[i], s->data[i], s->len[i] };
	if (!s->data[META_DATA])
		s->file[n++] =
			(struct iso9660_file){ names[META_DATA], s->id, strlen(s->id) };
	disk = iso9660_build(s->file, n, "cidata", size);
	if (!disk)
		error_set(err, -ENOMEM, "--seed: no memory for it");
	return disk;
}

u8 *seed_build(const char *text, size_t *size, struct error *err)
{
	struct words w = { 0 };
	struct seed s = { 0 };
	u8 *disk = NULL;

	if (!props_parse(&w, props, "--seed", text, names[USER_DATA], err) &&
	    !read_files(&s, &w, err) && !check(&s, &w, err)) {
		make_meta_data(&s);
		disk = make_disk(&s, size, err);
	}
	for (unsigned i = 0; i < FILES; i++)
		free(s.data[i]);
	props_fini(&w, props);
	return disk;
}

int seed_open(const char *text, struct error *err)
{
	size_t size, done = 0;
	u8 *disk = seed_build(text, &size, err);
	int fd;

	if (!disk)
		return -EINVAL;
	fd = memfd_create("umbra-seed", MFD_CLOEXEC);
	while (fd >= 0 && done < size) {
		ssize_t n = write(fd, disk + done, size - done);

		if (n < 0) {
			close(fd);
			fd = -1;
		}
		done += (size_t)n;
	}
	free(disk);
	return fd < 0 ? error_set(err, -errno, "--seed: no memory for it: %s",
				  strerror(errno))
		      : fd;
}
