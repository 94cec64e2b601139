/*
 * A machine with one virtio function on PCI, and a driver for it: split and packed rings,
 * for the tests of virtio/.
 *
 * RAM is 16 MiB at 0. Queue n lies at 100000h + n * 10000h: descriptors, +2000h the
 * driver's area, +4000h the device's, +8000h indirect tables. From 800000h on is free.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "pci/host.h"
#include "virtio/pci.h"

#define RAM_SIZE  MiB(16)
#define BAR_IO    0x2000u
#define BAR_MSIX  UINT64_C(0xd0000000)
#define BAR_MEM   UINT64_C(0xd1000000)
#define DEVFN     PCI_DEVFN(3, 0)
#define BUFS      0x800000u
#define MSI_ADDR  0xfee00000u
#define RIG_LINES 8

struct seg {
	u64 gpa;
	u32 len;
	bool write;
};

/* The driver's side of a queue. */
struct drvq {
	u16 n, size;
	bool packed, indirect;
	u64 desc, driver, device;
	u16 next, used; /* split: free-running; packed: places */
	u8 wrap, used_wrap;
	u16 free;               /* split: next descriptor to use */
	u16 ndesc[VQ_SIZE_MAX]; /* packed: by id */
};

struct rig {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct virtio *v;
	struct virtio_pci *p;
	bool level[RIG_LINES]; /* wires */
	unsigned msis[64];     /* by data */
	u64 features;          /* negotiated */
};

static void rig_line(void *chip, unsigned pin, bool level)
{
	struct rig *r = chip;

	r->level[pin] = level;
}

static void rig_msi(void *opaque, u64 addr, u32 data)
{
	struct rig *r = opaque;

	(void)addr;
	r->msis[data % 64]++;
}

static u8 *ram(struct rig *r, u64 gpa)
{
	return (u8 *)phys_host(r->phys, 0, RAM_SIZE, true) + gpa;
}

static inline void rig_init(struct rig *r)
{
	struct pci_host_args args = { .intx_count = RIG_LINES };

	memset(r, 0, sizeof(*r));
	args.phys = r->phys = phys_new();
	args.ports = r->ports = io_ports_new();
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, RAM_SIZE, NULL), 0);
	for (unsigned i = 0; i < RIG_LINES; i++)
		args.intx[i] = (struct irq_line){ rig_line, r, i };
	r->host = pci_host_new(&args, NULL);
}

static inline void rig_cfg_write(struct rig *r, unsigned off, u32 val, unsigned size)
{
	pci_host_config_write(r->host, DEVFN, off, val, size);
}

static inline u32 rig_cfg_read(struct rig *r, unsigned off, unsigned size)
{
	return pci_host_config_read(r->host, DEVFN, off, size);
}

/* Where the driver's firmware would have put the windows. */
static inline void rig_place(struct rig *r)
{
	rig_cfg_write(r, PCI_BAR0, BAR_IO, 4);
	rig_cfg_write(r, PCI_BAR0 + 4, (u32)BAR_MSIX, 4);
	rig_cfg_write(r, PCI_BAR0 + 16, (u32)BAR_MEM, 4);
	rig_cfg_write(r, PCI_BAR0 + 20, 0, 4);
	rig_cfg_write(r, PCI_COMMAND, 7, 2);
}

static inline void rig_attach(struct rig *r, struct virtio *v, bool legacy)
{
	struct virtio_pci_config cfg = {
		.host = r->host, .devfn = DEVFN, .msi = { rig_msi, r }, .legacy = legacy
	};

	r->v = v;
	r->p = virtio_pci_new(v, &cfg, NULL);
	assert_non_null(r->p);
	rig_place(r);
	virtio_resume(v);
}

/* The device goes before, the function of it here. */
static inline void rig_detach(struct rig *r)
{
	virtio_pause(r->v);
	virtio_pci_free(r->p);
}

static inline void rig_fini(struct rig *r)
{
	pci_host_free(r->host);
	io_ports_free(r->ports);
	phys_free(r->phys);
}

/* ---- registers ---- */

static inline u32 bar_read(struct rig *r, u64 off, unsigned size)
{
	return (u32)phys_load(r->phys, BAR_MEM + off, size);
}

static inline void bar_write(struct rig *r, u64 off, u64 val, unsigned size)
{
	phys_store(r->phys, BAR_MEM + off, val, size);
}

static inline u8 rig_status(struct rig *r)
{
	return (u8)bar_read(r, VIRTIO_PCI_STATUS, 1);
}

static inline void rig_set_status(struct rig *r, u8 s)
{
	bar_write(r, VIRTIO_PCI_STATUS, s, 1);
}

static inline u64 rig_offered(struct rig *r)
{
	u64 f;

	bar_write(r, VIRTIO_PCI_DFSELECT, 0, 4);
	f = bar_read(r, VIRTIO_PCI_DF, 4);
	bar_write(r, VIRTIO_PCI_DFSELECT, 1, 4);
	return f | (u64)bar_read(r, VIRTIO_PCI_DF, 4) << 32;
}

/* Up to FEATURES_OK. 'features' that are offered, and version 1. */
static inline void rig_negotiate(struct rig *r, u64 features)
{
	r->features = (features & rig_offered(r)) | BIT(VIRTIO_F_VERSION_1);
	rig_set_status(r, VIRTIO_ACKNOWLEDGE);
	rig_set_status(r, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	for (u32 i = 0; i < 2; i++) {
		bar_write(r, VIRTIO_PCI_GFSELECT, i, 4);
		bar_write(r, VIRTIO_PCI_GF, (u32)(r->features >> 32 * i), 4);
	}
	rig_set_status(r, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	assert_true(rig_status(r) & VIRTIO_FEATURES_OK);
}

static inline void rig_start(struct rig *r)
{
	rig_set_status(r, rig_status(r) | VIRTIO_DRIVER_OK);
}

static inline void rig_reset_device(struct rig *r)
{
	rig_set_status(r, 0);
}

static inline void rig_kick(struct rig *r, u16 n)
{
	bar_write(r, VIRTIO_PCI_NOTIFY + n * VIRTIO_PCI_NOTIFY_MULTIPLIER, n, 2);
}

/* MSI-X on; vector n sends data n. */
static inline void rig_msix(struct rig *r, unsigned vectors)
{
	for (unsigned off = rig_cfg_read(r, PCI_CAP_PTR, 1); off;
	     off = rig_cfg_read(r, off + 1, 1))
		if (rig_cfg_read(r, off, 1) == PCI_CAP_MSIX)
			rig_cfg_write(r, off + 2, 0x8000, 2);
	for (unsigned i = 0; i < vectors; i++) {
		phys_store(r->phys, BAR_MSIX + 16 * i, MSI_ADDR, 4);
		phys_store(r->phys, BAR_MSIX + 16 * i + 8, i, 4);
		phys_store(r->phys, BAR_MSIX + 16 * i + 12, 0, 4);
	}
}

/* ---- the driver's rings ---- */

/* Set up and enable queue n. Vector n + 1. */
static inline void drvq_init(struct rig *r, struct drvq *q, u16 n, u16 size)
{
	u64 base = 0x100000 + n * 0x10000ul;

	*q = (struct drvq){ .n = n, .size = size, .wrap = 1, .used_wrap = 1 };
	q->packed = r->features & BIT(VIRTIO_F_RING_PACKED);
	q->desc = base;
	q->driver = base + 0x2000;
	q->device = base + 0x4000;
	memset(ram(r, base), 0, 0x10000);
	bar_write(r, VIRTIO_PCI_Q_SELECT, n, 2);
	bar_write(r, VIRTIO_PCI_Q_SIZE, size, 2);
	bar_write(r, VIRTIO_PCI_Q_VECTOR, n + 1u, 2);
	bar_write(r, VIRTIO_PCI_Q_DESC, q->desc, 8);
	bar_write(r, VIRTIO_PCI_Q_DRIVER, q->driver, 8);
	bar_write(r, VIRTIO_PCI_Q_DEVICE, q->device, 8);
	bar_write(r, VIRTIO_PCI_Q_ENABLE, 1, 2);
}

static inline void put_desc(struct rig *r, u64 at, const struct seg *s, u16 a, u16 b)
{
	u8 *p = ram(r, at);

	le_store(p, s->gpa, 8);
	le_store(p + 8, s->len, 4);
	le_store(p + 12, a, 2);
	le_store(p + 14, b, 2);
}

static inline u16 packed_flags(const struct drvq *q, u8 wrap, const struct seg *s,
			       bool more)
{
	(void)q;
	return (u16)((s->write ? 2 : 0) | (more ? 1 : 0) | (wrap ? 0x80 : 0x8000));
}

/* Make a chain available, as 'id' (split: its head is found out, and returned). */
static inline u16 drvq_add(struct rig *r, struct drvq *q, const struct seg *s, unsigned n)
{
	struct seg table = { q->desc + 0x8000, 16 * n, false };
	u16 head = q->free;

	if (q->indirect) {
		for (unsigned i = 0; i < n; i++)
			put_desc(r, table.gpa + 16 * i, &s[i],
				 q->packed ? 0
					   : (u16)((s[i].write ? 2 : 0) | (i + 1 < n)),
				 q->packed ? (s[i].write ? 2 : 0) : (u16)(i + 1));
		s = &table;
		n = 1;
	}
	if (q->packed) {
		u16 first = q->next, id = head;
		u8 first_wrap = q->wrap;

		for (unsigned i = 0; i < n; i++) {
			u16 f = (u16)(packed_flags(q, q->wrap, &s[i], i + 1 < n) |
				      (q->indirect ? 4 : 0));

			if (i)
				put_desc(r, q->desc + 16ul * q->next, &s[i], id, f);
			else
				put_desc(r, q->desc + 16ul * q->next, &s[i], id,
					 (u16)(f ^ 0x8080));
			if (++q->next == q->size) {
				q->next = 0;
				q->wrap ^= 1;
			}
		}
		le_store(ram(r, q->desc + 16ul * first + 14),
			 (u16)(packed_flags(q, first_wrap, &s[0], n > 1) |
			       (q->indirect ? 4 : 0)),
			 2);
		q->ndesc[id] = (u16)n;
		q->free = (u16)((q->free + 1) % q->size);
		return id;
	}
	for (unsigned i = 0; i < n; i++) {
		u16 at = (u16)((head + i) % q->size);

		put_desc(
			r, q->desc + 16ul * at, &s[i],
			(u16)((s[i].write ? 2 : 0) | (i + 1 < n) | (q->indirect ? 4 : 0)),
			(u16)((at + 1) % q->size));
	}
	q->free = (u16)((head + n) % q->size);
	le_store(ram(r, q->driver + 4 + 2 * (q->next % q->size)), head, 2);
	q->next++;
	le_store(ram(r, q->driver + 2), q->next, 2);
	return head;
}

/* The next used chain. False: there is none. */
static inline bool drvq_used(struct rig *r, struct drvq *q, u16 *id, u32 *len)
{
	if (q->packed) {
		u8 *p = ram(r, q->desc + 16ul * q->used);
		u16 flags = (u16)le_load(p + 14, 2);

		if (!!(flags & 0x8000) != q->used_wrap ||
		    !!(flags & 0x80) != q->used_wrap)
			return false;
		*id = (u16)le_load(p + 12, 2);
		*len = (u32)le_load(p + 8, 4);
		assert_true(*id < q->size);
		q->used = (u16)(q->used + q->ndesc[*id]);
		if (q->used >= q->size) {
			q->used = (u16)(q->used - q->size);
			q->used_wrap ^= 1;
		}
		return true;
	}
	if ((u16)le_load(ram(r, q->device + 2), 2) == q->used)
		return false;
	*id = (u16)le_load(ram(r, q->device + 4 + 8 * (q->used % q->size)), 4);
	*len = (u32)le_load(ram(r, q->device + 8 + 8 * (q->used % q->size)), 4);
	q->used++;
	return true;
}

/* Say that an interrupt is wanted for the next chain, and only for it. */
static inline void drvq_want_next(struct rig *r, struct drvq *q)
{
	if (q->packed) {
		le_store(ram(r, q->driver), (u64)q->used | (u64)q->used_wrap << 15, 2);
		le_store(ram(r, q->driver + 2), 2, 2);
	} else {
		le_store(ram(r, q->driver + 4 + 2ul * q->size), q->used, 2);
	}
}
