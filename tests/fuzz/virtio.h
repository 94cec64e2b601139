/*
 * A virtio device on PCI or over MMIO, set up as a driver would and then driven by
 * arbitrary accesses and arbitrary bytes in its rings. Input: a byte of features, then 8
 * bytes a step.
 *
 * RAM is 1 MiB; queue n lies at 10000h * (n % 8), with the layout of unit/virtio_rig.h.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "fuzz.h"
#include "pci/host.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

#define V_RAM   MiB(1)
#define V_MMIO  UINT64_C(0xfef00000)
#define V_BAR   UINT64_C(0xd0000000)
#define V_MSIX  UINT64_C(0xd1000000)
#define V_PORTS 0x2000u
#define V_DEVFN PCI_DEVFN(1, 0)
#define V_STEP  8u
#define V_SIZE  16

static inline void check(bool ok)
{
	if (!ok)
		abort();
}

struct vfuzz {
	struct phys *phys;
	struct io_ports *ports;
	struct pci_host *host;
	struct virtio *v;
	struct virtio_pci *p;
	struct virtio_mmio *m; /* not NULL: instead of 'p' */
	u16 avail[VIRTIO_QUEUES_MAX];
	/* What the device has beside its virtio; NULL: nothing. */
	void (*step)(void *opaque, u32 val); /* what the host does */
	void (*save)(void *opaque, struct state_buf *b);
	int (*load)(void *opaque, struct state_buf *b, struct error *err);
	void *opaque;
};

static void vfuzz_line(void *chip, unsigned pin, bool level)
{
	(void)chip;
	(void)pin;
	(void)level;
}

static void vfuzz_init(struct vfuzz *f)
{
	struct pci_host_args args = { .intx_count = 4 };

	memset(f, 0, sizeof(*f));
	args.phys = f->phys = phys_new();
	args.ports = f->ports = io_ports_new();
	check(!phys_add_ram(f->phys, "ram", 0, V_RAM, NULL));
	for (unsigned i = 0; i < 4; i++)
		args.intx[i] = (struct irq_line){ vfuzz_line, f, i };
	f->host = pci_host_new(&args, NULL);
}

static void vfuzz_place(struct vfuzz *f)
{
	pci_host_config_write(f->host, V_DEVFN, PCI_BAR0, V_PORTS, 4);
	pci_host_config_write(f->host, V_DEVFN, PCI_BAR0 + 4, (u32)V_MSIX, 4);
	pci_host_config_write(f->host, V_DEVFN, PCI_BAR0 + 16, (u32)V_BAR, 4);
	pci_host_config_write(f->host, V_DEVFN, PCI_BAR0 + 20, 0, 4);
	pci_host_config_write(f->host, V_DEVFN, PCI_COMMAND, 7, 2);
}

static void vfuzz_attach_pci(struct vfuzz *f, struct virtio *v)
{
	struct virtio_pci_config cfg = { .host = f->host,
					 .devfn = V_DEVFN,
					 .legacy = true };

	f->v = v;
	f->p = virtio_pci_new(v, &cfg, NULL);
	check(f->p != NULL);
	vfuzz_place(f);
	virtio_resume(v);
}

static void vfuzz_attach_mmio(struct vfuzz *f, struct virtio *v)
{
	f->v = v;
	f->m = virtio_mmio_new(v, (struct irq_line){ vfuzz_line, f, 0 }, V_DEVFN);
	check(!phys_add_mmio(f->phys, "virtio", V_MMIO, VIRTIO_MMIO_SIZE,
			     &virtio_mmio_ops, f->m, NULL));
	virtio_resume(v);
}

/* 'how' is the byte of features: which transport is in it too. */
static void vfuzz_attach(struct vfuzz *f, struct virtio *v, u8 how)
{
	if ((how & 12) == 8)
		vfuzz_attach_mmio(f, v);
	else
		vfuzz_attach_pci(f, v);
}

static void vfuzz_detach(struct vfuzz *f)
{
	virtio_pause(f->v);
	virtio_pci_free(f->p);
	virtio_mmio_free(f->m);
}

static void vfuzz_fini(struct vfuzz *f)
{
	pci_host_free(f->host);
	io_ports_free(f->ports);
	phys_free(f->phys);
}

static void vw(struct vfuzz *f, u64 off, u64 val, unsigned size)
{
	phys_store(f->phys, V_BAR + off, val, size);
}

/* The same register of both transports. */
static void vset(struct vfuzz *f, u64 pci, u64 mmio, u64 val, unsigned size)
{
	if (!f->m)
		vw(f, pci, val, size);
	else
		phys_store(f->phys, V_MMIO + mmio, val, size < 4 ? 4 : size);
}

static void vnotify(struct vfuzz *f, unsigned n)
{
	vset(f, VIRTIO_PCI_NOTIFY + 4 * n, VIRTIO_MMIO_QUEUE_NOTIFY, n, 2);
}

/* As a driver does it; features by 'how'. */
static void vfuzz_start(struct vfuzz *f, u8 how)
{
	u64 features = BIT(VIRTIO_F_VERSION_1) | (how & 1 ? f->v->features : 0);

	if (how & 2)
		features &= ~BIT(VIRTIO_F_RING_PACKED);
	vset(f, VIRTIO_PCI_STATUS, VIRTIO_MMIO_STATUS, 0, 1);
	vset(f, VIRTIO_PCI_STATUS, VIRTIO_MMIO_STATUS, 3, 1);
	for (u32 i = 0; i < 2; i++) {
		vset(f, VIRTIO_PCI_GFSELECT, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i, 4);
		vset(f, VIRTIO_PCI_GF, VIRTIO_MMIO_DRIVER_FEATURES,
		     (u32)(features >> 32 * i), 4);
	}
	vset(f, VIRTIO_PCI_STATUS, VIRTIO_MMIO_STATUS, 11, 1);
	for (unsigned n = 0; n < f->v->queues; n++) {
		u64 base = n % 8 * 0x10000ul;

		vset(f, VIRTIO_PCI_Q_SELECT, VIRTIO_MMIO_QUEUE_SEL, n, 2);
		vset(f, VIRTIO_PCI_Q_SIZE, VIRTIO_MMIO_QUEUE_NUM, V_SIZE, 2);
		vset(f, VIRTIO_PCI_Q_DESC, VIRTIO_MMIO_QUEUE_DESC_LOW, base, 8);
		vset(f, VIRTIO_PCI_Q_DRIVER, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x2000,
		     8);
		vset(f, VIRTIO_PCI_Q_DEVICE, VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x4000,
		     8);
		vset(f, VIRTIO_PCI_Q_ENABLE, VIRTIO_MMIO_QUEUE_READY, 1, 2);
		f->avail[n] = 0;
	}
	vset(f, VIRTIO_PCI_STATUS, VIRTIO_MMIO_STATUS, 15, 1);
}

/* One descriptor, of a size and place that are mostly possible. */
static void vfuzz_desc(struct vfuzz *f, unsigned n, unsigned i, const uint8_t *d)
{
	u8 *p = phys_host(f->phys, n % 8 * 0x10000ul + 16ul * (i % V_SIZE), 16, true);
	u32 len = (u32)le_load(d + 4, 2);

	le_store(p, (u64)le_load(d + 2, 2) << 4, 8);
	le_store(p + 8, d[1] & 0x80 ? len << 16 : len & 0xfff, 4);
	le_store(p + 12, d[6], 2);
	le_store(p + 14, d[7] % (V_SIZE + 1) | (d[1] & 0x40 ? 0x80 : 0), 2);
}

static void vfuzz_avail(struct vfuzz *f, unsigned n, u16 head)
{
	u8 *p = phys_host(f->phys, n % 8 * 0x10000ul + 0x2000, 64, true);

	le_store(p + 4 + 2 * (f->avail[n] % V_SIZE), head, 2);
	le_store(p + 2, ++f->avail[n], 2);
	vnotify(f, n);
}

static int vfuzz_load(struct vfuzz *f, struct state_buf *b, struct error *err)
{
	return f->m ? virtio_mmio_load(f->m, b, err) : virtio_pci_load(f->p, b, err);
}

static void vfuzz_save_load(struct vfuzz *f, unsigned damage)
{
	struct state_buf a = { 0 };
	struct error err = { 0 };

	if (f->m)
		virtio_mmio_save(f->m, &a);
	else
		virtio_pci_save(f->p, &a);
	if (f->save)
		f->save(f->opaque, &a);
	if (damage)
		a.data[damage % a.len] ^= (u8)(1 + damage % 255);
	if (!vfuzz_load(f, &a, &err) && f->load)
		(void)!f->load(f->opaque, &a, &err);
	if (!damage && err.msg[0]) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	state_buf_fini(&a);
	if (f->p)
		vfuzz_place(f);
}

/* An access to the registers, of any size. */
static void vfuzz_register(struct vfuzz *f, const uint8_t *d, bool write)
{
	u64 off = le_load(d + 1, 2) & -(1ul << d[3] % 3);
	u64 at = f->m ? V_MMIO + off % VIRTIO_MMIO_SIZE : V_BAR + (off & 0x3fff);

	if (write)
		phys_store(f->phys, at, le_load(d + 4, 4), 1u << d[3] % 3);
	else
		phys_load(f->phys, f->p ? at & -4ul : at, f->p ? 4 : 1u << d[3] % 3);
}

static void vfuzz_one(struct vfuzz *f, const uint8_t *d)
{
	unsigned n = (d[0] >> 4) % f->v->queues;
	u32 v = (u32)le_load(d + 4, 4);

	switch (d[0] & 15) {
	case 0:
	case 1:
	case 2:
	case 3: vfuzz_desc(f, n, d[1], d); break;
	case 4:
	case 5:
	case 6: vfuzz_avail(f, n, d[1] % (V_SIZE + 1)); break;
	case 7:
	case 8: vfuzz_register(f, d, (d[0] & 15) == 7); break;
	case 9: phys_store(f->phys, le_load(d + 1, 4) % V_RAM & ~3ul, v, 4); break;
	case 10: vnotify(f, n); break;
	case 11:
		io_ports_write(f->ports, (u16)(V_PORTS + d[1] % 64), v, 1u << d[2] % 3);
		break;
	case 12:
		io_ports_read(f->ports, (u16)(V_PORTS + d[1] % 64), 1u << d[2] % 3);
		break;
	case 13:
		if (d[1] & 0x80)
			pci_host_config_write(f->host, V_DEVFN, d[2] & 0xfcu, v, 4);
		else if (f->step)
			f->step(f->opaque, v);
		break;
	case 14: vfuzz_save_load(f, d[1] & 1 ? v & 0xffff : 0); break;
	default:
		if (d[1] & 1)
			vfuzz_start(f, d[2]);
		else if (f->p)
			vfuzz_place(f);
		break;
	}
}

static inline void vfuzz_run(struct vfuzz *f, const uint8_t *data, size_t size)
{
	vfuzz_start(f, data[0]);
	for (size_t i = 1; i + V_STEP <= size && i < 512 * V_STEP; i += V_STEP)
		vfuzz_one(f, data + i);
}
