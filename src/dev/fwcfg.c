/*
 * QEMU's firmware configuration device (fw_cfg), with its ports and its DMA.
 *
 * QEMU docs/specs/fw_cfg. A word written to the selector chooses an item by its key and
 * goes back to its first byte; each byte read from the data port is the next of the item,
 * and 0 behind its end. The directory, item 19h, names the items from 20h on. The DMA
 * register takes, big-endian and in two halves, the address of a request of 16 bytes, and
 * its second half starts it: select, then read to memory or skip. Numbers in items are
 * little-endian, those of the directory and of DMA big-endian.
 * No item can be written: bytes for the data port are ignored, a request to write fails.
 * A request whose bytes would mostly be zeroes from behind an item's end fails too, so
 * that its length does not decide for how long a CPU is gone.
 * Lock: 'lock' covers everything; DMA runs with it held and reaches only RAM.
 */
#include "dev/fwcfg.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "mem/phys.h"
#include "state/save.h"

/* Item 1: the ports are there, and DMA. */
#define ID_FEATURES   3
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */
#define KEY_WRITE     0x4000u                      /* a wish to write; not granted */
#define KEY_INVALID   0xffffu
#define ARCH_ITEMS    8
#define DIR_HEADER    4
#define DIR_ENTRY     64
#define ZEROES_MAX    MiB(1)
#define REQUEST_SIZE  16
#define COMMON_ITEMS  (FWCFG_FILE_FIRST + FWCFG_FILES_MAX)

/* Control word of a request. */
enum {
	DMA_ERROR = 1 << 0,
	DMA_READ = 1 << 1,
	DMA_SKIP = 1 << 2,
	DMA_SELECT = 1 << 3,
	DMA_WRITE = 1 << 4,
};

struct item {
	u8 *data; /* owned; NULL: 'read' has it, or there is no such item */
	u32 len;
	int (*read)(void *opaque, u64 off, void *buf, u64 len);
	void *opaque;
};

struct fwcfg_state {
	u32 key;      /* of the selected item */
	u32 offset;   /* of the next byte in it */
	u32 dma_high; /* upper half of the DMA register */
};

struct fwcfg {
	struct fwcfg_state s;
	struct phys *phys;
	struct item common[COMMON_ITEMS];
	struct item arch[ARCH_ITEMS];
	char name[FWCFG_FILES_MAX][FWCFG_NAME_MAX + 1];
	unsigned files;
	pthread_mutex_t lock;
};

static const struct state_field fwcfg_fields[] = {
	STATE_FIELD(struct fwcfg_state, key, 1),
	STATE_FIELD(struct fwcfg_state, offset, 1),
	STATE_FIELD(struct fwcfg_state, dma_high, 1),
	{ 0 },
};

static bool fwcfg_valid(const void *state)
{
	const struct fwcfg_state *s = state;

	return s->key <= 0xffff;
}

const struct state_desc fwcfg_desc = {
	.name = "fwcfg",
	.size = sizeof(struct fwcfg_state),
	.version = 1,
	.fields = fwcfg_fields,
	.valid = fwcfg_valid,
};

static u32 be32(const u8 *p)
{
	return __builtin_bswap32((u32)le_load(p, 4));
}

static void put_be32(u8 *p, u32 v)
{
	le_store(p, __builtin_bswap32(v), 4);
}

/* ---- items ---- */

static struct item *find(struct fwcfg *f, u32 key)
{
	u32 index = key & ~(KEY_WRITE | FWCFG_ARCH);

	if (key & FWCFG_ARCH)
		return index < ARCH_ITEMS ? &f->arch[index] : NULL;
	return index < COMMON_ITEMS ? &f->common[index] : NULL;
}

static void clear(struct item *it)
{
	free(it->data);
	*it = (struct item){ 0 };
}

static void set(struct fwcfg *f, u16 key, const void *data, u32 len)
{
	struct item *it = find(f, key);
	u8 *copy = xzalloc(len ? len : 1);

	if (len)
		memcpy(copy, data, len);
	clear(it);
	it->data = copy;
	it->len = len;
}

void fwcfg_set(struct fwcfg *f, u16 key, const void *data, u32 len)
{
	pthread_mutex_lock(&f->lock);
	set(f, key, data, len);
	pthread_mutex_unlock(&f->lock);
}

void fwcfg_set_int(struct fwcfg *f, u16 key, u64 val, unsigned bytes)
{
	u8 buf[8];

	le_store(buf, val, 8);
	fwcfg_set(f, key, buf, bytes);
}

void fwcfg_set_source(struct fwcfg *f, u16 key, u32 len,
		      int (*read)(void *opaque, u64 off, void *buf, u64 len),
		      void *opaque)
{
	struct item *it = find(f, key);

	pthread_mutex_lock(&f->lock);
	clear(it);
	*it = (struct item){ .len = len, .read = read, .opaque = opaque };
	pthread_mutex_unlock(&f->lock);
}

static int find_file(const struct fwcfg *f, const char *name)
{
	for (unsigned i = 0; i < f->files; i++)
		if (!strcmp(name, f->name[i]))
			return (int)i;
	return -1;
}

bool fwcfg_has_file(struct fwcfg *f, const char *name)
{
	return find_file(f, name) >= 0;
}

static void make_directory(struct fwcfg *f)
{
	u8 dir[DIR_HEADER + FWCFG_FILES_MAX * DIR_ENTRY] = { 0 };

	put_be32(dir, f->files);
	for (unsigned i = 0; i < f->files; i++) {
		u8 *e = dir + DIR_HEADER + (size_t)i * DIR_ENTRY;

		put_be32(e, f->common[FWCFG_FILE_FIRST + i].len);
		put_be32(e + 4, (FWCFG_FILE_FIRST + i) << 16);
		memcpy(e + 8, f->name[i], sizeof(f->name[i]));
	}
	set(f, FWCFG_FILE_DIR, dir, DIR_HEADER + f->files * DIR_ENTRY);
}

int fwcfg_set_file(struct fwcfg *f, const char *name, const void *data, u32 len,
		   struct error *err)
{
	size_t n = strlen(name);
	int i, ret = 0;

	if (!n || n > FWCFG_NAME_MAX)
		return error_set(err, -EINVAL,
				 "-fw_cfg: a name has 1 to %u bytes, and '%.60s' %zu",
				 FWCFG_NAME_MAX, name, n);
	for (const char *s = name; *s; s++)
		if (*s <= ' ' || *s > '~')
			return error_set(err, -EINVAL,
					 "-fw_cfg: a name has no spaces or control "
					 "characters");
	pthread_mutex_lock(&f->lock);
	i = find_file(f, name);
	if (i < 0 && f->files == FWCFG_FILES_MAX) {
		ret = error_set(err, -ENOSPC,
				"-fw_cfg %s: there is room for only %u files", name,
				FWCFG_FILES_MAX);
		goto out;
	}
	if (i < 0) {
		i = (int)f->files++;
		memcpy(f->name[i], name, n + 1);
	}
	set(f, (u16)(FWCFG_FILE_FIRST + i), data, len);
	make_directory(f);
out:
	pthread_mutex_unlock(&f->lock);
	return ret;
}

/* ---- reading; with the lock held ---- */

static void select_item(struct fwcfg *f, u32 key)
{
	f->s.key = find(f, key) ? key : KEY_INVALID;
	f->s.offset = 0;
}

/* Bytes of the selected item from the offset on. */
static u32 left(const struct fwcfg *f, const struct item *it)
{
	return it && f->s.offset < it->len ? it->len - f->s.offset : 0;
}

static void advance(struct fwcfg *f, const struct item *it, u32 n)
{
	f->s.offset += MIN(n, left(f, it));
}

static bool fetch(const struct item *it, u32 off, void *buf, u32 len)
{
	if (it->data)
		memcpy(buf, it->data + off, len);
	else if (it->read(it->opaque, off, buf, len))
		return false;
	return true;
}

static u8 next_byte(struct fwcfg *f)
{
	const struct item *it = find(f, f->s.key);
	u8 byte = 0;

	if (left(f, it) && !fetch(it, f->s.offset, &byte, 1))
		byte = 0;
	advance(f, it, 1);
	return byte;
}

/* ---- DMA ---- */

static bool dma_item(struct fwcfg *f, const struct item *it, gpa_t to, u32 len)
{
	u8 buf[4096];

	if (!len)
		return true;
	if (it->data)
		return phys_dma_write(f->phys, to, it->data + f->s.offset, len);
	for (u32 done = 0, n; done < len; done += n) {
		n = MIN(len - done, (u32)sizeof(buf));
		if (!fetch(it, f->s.offset + done, buf, n) ||
		    !phys_dma_write(f->phys, to + done, buf, n))
			return false;
	}
	return true;
}

static bool dma_zeroes(struct fwcfg *f, gpa_t to, u32 len)
{
	static const u8 zeroes[4096];

	for (u32 done = 0, n; done < len; done += n) {
		n = MIN(len - done, (u32)sizeof(zeroes));
		if (!phys_dma_write(f->phys, to + done, zeroes, n))
			return false;
	}
	return true;
}

static bool dma_read(struct fwcfg *f, gpa_t to, u32 len)
{
	const struct item *it = find(f, f->s.key);
	u32 n = MIN(len, left(f, it));

	if (to + len < to || len - n > ZEROES_MAX)
		return false;
	if (!dma_item(f, it, to, n) || !dma_zeroes(f, to + n, len - n))
		return false;
	advance(f, it, n);
	return true;
}

static void dma_run(struct fwcfg *f, gpa_t at)
{
	u8 request[REQUEST_SIZE], answer[4];
	u32 control, len;
	gpa_t to;
	bool ok;

	if (!phys_dma_read(f->phys, at, request, sizeof(request))) {
		guest_bug("fw_cfg", "no memory at %llxh, where a request should be",
			  (unsigned long long)at);
		return;
	}
	control = be32(request);
	len = be32(request + 4);
	to = (u64)be32(request + 8) << 32 | be32(request + 12);
	if (control & DMA_SELECT)
		select_item(f, control >> 16);
	ok = true;
	if (control & DMA_READ)
		ok = dma_read(f, to, len);
	else if (control & DMA_WRITE)
		ok = false;
	else if (control & DMA_SKIP)
		advance(f, find(f, f->s.key), len);
	if (!ok)
		guest_bug("fw_cfg",
			  "request %xh for %u bytes to %llxh cannot be fulfilled",
			  control, len, (unsigned long long)to);
	put_be32(answer, ok ? 0 : DMA_ERROR);
	/* It was read from there, so it is memory. */
	(void)!phys_dma_write(f->phys, at, answer, sizeof(answer));
}

/* ---- ports ---- */

static u64 fwcfg_read(void *dev, u64 off, unsigned size)
{
	struct fwcfg *f = dev;
	u8 byte;

	if (off != 1 || size != 1)
		return size_mask(size);
	pthread_mutex_lock(&f->lock);
	byte = next_byte(f);
	pthread_mutex_unlock(&f->lock);
	return byte;
}

static void fwcfg_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct fwcfg *f = dev;

	if (off != 0 || size != 2)
		return;
	pthread_mutex_lock(&f->lock);
	select_item(f, (u32)val);
	pthread_mutex_unlock(&f->lock);
}

const struct io_ops fwcfg_ops = {
	.read = fwcfg_read,
	.write = fwcfg_write,
	.sizes = IO_1 | IO_2,
};

/* The signature, its first letter at the lowest port. */
static u64 fwcfg_dma_read(void *dev, u64 off, unsigned size)
{
	(void)dev;
	return (__builtin_bswap64(DMA_SIGNATURE) >> (8 * off)) & size_mask(size);
}

static void fwcfg_dma_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct fwcfg *f = dev;
	gpa_t at;

	pthread_mutex_lock(&f->lock);
	if (size == 4 && off == 0) {
		f->s.dma_high = __builtin_bswap32((u32)val);
	} else if (size == 4 || size == 8) {
		at = size == 8 ? __builtin_bswap64(val)
			       : (u64)f->s.dma_high << 32 | __builtin_bswap32((u32)val);
		f->s.dma_high = 0;
		dma_run(f, at);
	}
	pthread_mutex_unlock(&f->lock);
}

const struct io_ops fwcfg_dma_ops = {
	.read = fwcfg_dma_read,
	.write = fwcfg_dma_write,
	.sizes = IO_1 | IO_2 | IO_4 | IO_8,
};

/* ---- public ---- */

struct fwcfg *fwcfg_new(struct phys *phys)
{
	struct fwcfg *f = xzalloc(sizeof(*f));

	pthread_mutex_init(&f->lock, NULL);
	f->phys = phys;
	fwcfg_set(f, FWCFG_SIGNATURE, "QEMU", 4);
	fwcfg_set_int(f, FWCFG_ID, ID_FEATURES, 4);
	make_directory(f);
	return f;
}

void fwcfg_free(struct fwcfg *f)
{
	if (!f)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(f->common); i++)
		clear(&f->common[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(f->arch); i++)
		clear(&f->arch[i]);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

void fwcfg_reset(struct fwcfg *f)
{
	pthread_mutex_lock(&f->lock);
	f->s = (struct fwcfg_state){ 0 };
	pthread_mutex_unlock(&f->lock);
}

void fwcfg_save(struct fwcfg *f, struct state_buf *b)
{
	pthread_mutex_lock(&f->lock);
	state_save(b, &fwcfg_desc, 0, &f->s);
	pthread_mutex_unlock(&f->lock);
}

int fwcfg_load(struct fwcfg *f, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&f->lock);
	ret = state_load(b, &fwcfg_desc, 0, &f->s, err);
	pthread_mutex_unlock(&f->lock);
	return ret;
}
