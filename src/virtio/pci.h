/*
 * Virtio over PCI: one function that drives a struct virtio.
 *
 * BAR 4 (memory, 64 bits) has the structures of the specification 4.1.4, BAR 1 the
 * MSI-X table, and BAR 0 (ports) the legacy interface where it is offered.
 */
#pragma once

#include "pci/msix.h"
#include "pci/pci.h"
#include "virtio/virtio.h"

#define VIRTIO_PCI_BAR_SIZE 0x4000u
/* Offsets in BAR 4. */
enum {
	VIRTIO_PCI_COMMON = 0x0000,
	VIRTIO_PCI_ISR = 0x1000,
	VIRTIO_PCI_DEVICE = 0x2000,
	VIRTIO_PCI_NOTIFY = 0x3000,
};
#define VIRTIO_PCI_NOTIFY_MULTIPLIER 4

/* Common configuration structure, 4.1.4.3. */
enum {
	VIRTIO_PCI_DFSELECT = 0,
	VIRTIO_PCI_DF = 4,
	VIRTIO_PCI_GFSELECT = 8,
	VIRTIO_PCI_GF = 12,
	VIRTIO_PCI_CONFIG_VECTOR = 16,
	VIRTIO_PCI_NUM_QUEUES = 18,
	VIRTIO_PCI_STATUS = 20,
	VIRTIO_PCI_GENERATION = 21,
	VIRTIO_PCI_Q_SELECT = 22,
	VIRTIO_PCI_Q_SIZE = 24,
	VIRTIO_PCI_Q_VECTOR = 26,
	VIRTIO_PCI_Q_ENABLE = 28,
	VIRTIO_PCI_Q_NOTIFY_OFF = 30,
	VIRTIO_PCI_Q_DESC = 32,
	VIRTIO_PCI_Q_DRIVER = 40,
	VIRTIO_PCI_Q_DEVICE = 48,
	VIRTIO_PCI_Q_NOTIFY_DATA = 56,
	VIRTIO_PCI_Q_RESET = 58,
	VIRTIO_PCI_COMMON_SIZE = 60,
};

/* Legacy interface in BAR 0, 4.1.4.10. */
enum {
	VIRTIO_LEGACY_DF = 0,
	VIRTIO_LEGACY_GF = 4,
	VIRTIO_LEGACY_Q_PFN = 8,
	VIRTIO_LEGACY_Q_SIZE = 12,
	VIRTIO_LEGACY_Q_SELECT = 14,
	VIRTIO_LEGACY_Q_NOTIFY = 16,
	VIRTIO_LEGACY_STATUS = 18,
	VIRTIO_LEGACY_ISR = 19,
	VIRTIO_LEGACY_CONFIG_VECTOR = 20, /* with MSI-X; else the device's begins */
	VIRTIO_LEGACY_Q_VECTOR = 22,
};

struct virtio_pci;

struct virtio_pci_config {
	struct pci_host *host;
	u8 devfn;
	struct msi_sink msi;
	bool legacy; /* transitional: offer the legacy interface too */
};

/* 'v' stays the caller's, and outlives it. */
struct virtio_pci *virtio_pci_new(struct virtio *v, const struct virtio_pci_config *cfg,
				  struct error *err);
void virtio_pci_free(struct virtio_pci *p);

struct pci_dev *virtio_pci_dev(struct virtio_pci *p);

/* Machine stopped. With the struct virtio, but without what else the device has. */
void virtio_pci_reset(struct virtio_pci *p);
void virtio_pci_save(struct virtio_pci *p, struct state_buf *b);
int virtio_pci_load(struct virtio_pci *p, struct state_buf *b, struct error *err);
