/*
 * -fw_cfg [name=]NAME,file=FILE or string=TEXT: what the guest reads as NAME.
 *
 * QEMU's manual, "-fw_cfg". A file is read once, before the machine is made. One thread.
 */
#include "control/fwfiles.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/keyval.h"
#include "base/log.h"
#include "machine/image.h"

#define FILE_BYTES_MAX MiB(64)

/* Words into '*out', whose strings belong to 'kv'. */
struct words {
	const char *name, *file, *string;
};

static int take_words(struct words *w, struct keyval *kv, const char *text,
		      struct error *err)
{
	bool first = true;

	*w = (struct words){ 0 };
	while (keyval_next(kv)) {
		if (first && !kv->val)
			w->name = kv->key;
		else if (!strcmp(kv->key, "name") && kv->val)
			w->name = kv->val;
		else if (!strcmp(kv->key, "file") && kv->val)
			w->file = kv->val;
		else if (!strcmp(kv->key, "string") && kv->val)
			w->string = kv->val;
		else
			return error_set(err, -EINVAL,
					 "-fw_cfg %s: '%s' is not one of name=, file=, "
					 "string=",
					 text, kv->key);
		first = false;
	}
	if (!w->name || !*w->name)
		return error_set(err, -EINVAL, "-fw_cfg %s: a name is needed", text);
	if (!w->file == !w->string)
		return error_set(err, -EINVAL,
				 "-fw_cfg %s: either file= or string= is needed", text);
	return 0;
}

int fwfiles_check(const char *text, struct error *err)
{
	struct keyval kv;
	struct words w;
	int ret;

	keyval_init(&kv, text);
	ret = take_words(&w, &kv, text, err);
	keyval_fini(&kv);
	return ret;
}

static int read_file(struct pc_file *file, const char *path, struct error *err)
{
	struct image img;
	int ret = image_open(&img, "-fw_cfg file", path, err);
	void *data;

	if (ret)
		return ret;
	if (img.len > FILE_BYTES_MAX) {
		ret = image_refuse(&img, err, "has %llu MiB, at most %llu are allowed",
				   (unsigned long long)img.len >> 20,
				   (unsigned long long)FILE_BYTES_MAX >> 20);
		goto close;
	}
	data = malloc(img.len);
	if (!data) {
		ret = error_set(err, -ENOMEM, "-fw_cfg file %s: out of memory", path);
		goto close;
	}
	ret = image_read(&img, 0, data, img.len, err);
	if (ret) {
		free(data);
		goto close;
	}
	file->data = data;
	file->len = (u32)img.len;
close:
	image_close(&img);
	return ret;
}

static int load(struct pc_file *file, const char *text, struct error *err)
{
	struct keyval kv;
	struct words w;
	int ret;

	keyval_init(&kv, text);
	ret = take_words(&w, &kv, text, err);
	if (!ret && w.file)
		ret = read_file(file, w.file, err);
	if (!ret && w.string) {
		file->data = xstrdup(w.string);
		file->len = (u32)strlen(w.string); /* without its NUL, as QEMU has it */
	}
	if (!ret) {
		file->name = xstrdup(w.name);
		if (strncmp(w.name, "opt/", 4))
			log_warn("-fw_cfg %s: names outside opt/ are for firmware",
				 w.name);
	}
	keyval_fini(&kv);
	return ret;
}

int fwfiles_load(struct fwfiles *f, const char *const *text, unsigned count,
		 struct error *err)
{
	*f = (struct fwfiles){ 0 };
	for (unsigned i = 0; i < count && i < FWFILES_MAX; i++) {
		int ret = load(&f->file[i], text[i], err);

		if (ret) {
			fwfiles_fini(f);
			return ret;
		}
		f->count++;
	}
	return 0;
}

void fwfiles_fini(struct fwfiles *f)
{
	for (unsigned i = 0; i < f->count; i++) {
		free((void *)(uintptr_t)f->file[i].name);
		free((void *)(uintptr_t)f->file[i].data);
	}
	*f = (struct fwfiles){ 0 };
}
