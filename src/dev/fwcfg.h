/*
 * QEMU's firmware configuration device: named and numbered items that a guest reads.
 * Kernels for tests take the number of CPUs from it, firmware its tables.
 */
#pragma once

#include "base/error.h"
#include "mem/io.h"
#include "state/desc.h"

struct fwcfg;
struct phys;
struct state_buf;

#define FWCFG_PORTS     2 /* selector and data */
#define FWCFG_DMA_PORTS 8

extern const struct io_ops fwcfg_ops;     /* 'dev' is the struct fwcfg */
extern const struct io_ops fwcfg_dma_ops; /* the same */
extern const struct state_desc fwcfg_desc;

/* Keys of items, as QEMU numbers them. */
enum {
	FWCFG_SIGNATURE = 0x00,
	FWCFG_ID = 0x01,
	FWCFG_UUID = 0x02,
	FWCFG_RAM_SIZE = 0x03,
	FWCFG_NOGRAPHIC = 0x04,
	FWCFG_NB_CPUS = 0x05,
	FWCFG_KERNEL_ADDR = 0x07,
	FWCFG_KERNEL_SIZE = 0x08,
	FWCFG_INITRD_ADDR = 0x0a,
	FWCFG_INITRD_SIZE = 0x0b,
	FWCFG_BOOT_MENU = 0x0e,
	FWCFG_MAX_CPUS = 0x0f,
	FWCFG_KERNEL_ENTRY = 0x10,
	FWCFG_KERNEL_DATA = 0x11,
	FWCFG_INITRD_DATA = 0x12,
	FWCFG_CMDLINE_ADDR = 0x13,
	FWCFG_CMDLINE_SIZE = 0x14,
	FWCFG_CMDLINE_DATA = 0x15,
	FWCFG_SETUP_ADDR = 0x16,
	FWCFG_SETUP_SIZE = 0x17,
	FWCFG_SETUP_DATA = 0x18,
	FWCFG_FILE_DIR = 0x19,
	FWCFG_FILE_FIRST = 0x20,
	FWCFG_ARCH = 0x8000, /* x86's own */
	FWCFG_IRQ0_OVERRIDE = FWCFG_ARCH + 2,
};

#define FWCFG_FILES_MAX 64
#define FWCFG_NAME_MAX  55 /* bytes of a file's name */

/* ---- Machine stopped ---- */

/* 'phys' is where DMA goes. Signature, id and an empty directory are there. */
struct fwcfg *fwcfg_new(struct phys *phys);
void fwcfg_free(struct fwcfg *f);
void fwcfg_reset(struct fwcfg *f);
void fwcfg_save(struct fwcfg *f, struct state_buf *b);
int fwcfg_load(struct fwcfg *f, struct state_buf *b, struct error *err);

/* Give an item, or another content to it. The bytes are copied. */
void fwcfg_set(struct fwcfg *f, u16 key, const void *data, u32 len);
/* The same with a number, little-endian in so many bytes. */
void fwcfg_set_int(struct fwcfg *f, u16 key, u64 val, unsigned bytes);
/*
 * An item whose bytes are fetched when they are read: 'read' is called with the
 * device's lock held, for bytes inside 'len'; not 0 when it failed.
 */
void fwcfg_set_source(struct fwcfg *f, u16 key, u32 len,
		      int (*read)(void *opaque, u64 off, void *buf, u64 len),
		      void *opaque);
/*
 * A file, or another content of it. -EINVAL for a name that is empty, too long or not
 * printable, -ENOSPC when there are too many. Copied.
 */
int fwcfg_set_file(struct fwcfg *f, const char *name, const void *data, u32 len,
		   struct error *err);
bool fwcfg_has_file(struct fwcfg *f, const char *name);
