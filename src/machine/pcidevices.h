/*
 * The PCI devices that a user adds: made, run, saved, all in one list. Those of virtio,
 * and disk controllers and a network card for guests without its drivers. Those of virtio
 * can also sit outside PCI, over MMIO.
 *
 * Machine stopped, but for what says otherwise.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "dev/ahci.h"
#include "dev/e1000.h"
#include "dev/nvme.h"
#include "irq/msi.h"
#include "machine/layout.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"

struct loop;
struct pci_host;
struct pcidevices;

#define PCIDEVICES_MAX 28 /* slots 1 to 1eh, without those that QEMU's boards use */

enum pcidevices_kind {
	PCIDEVICES_BLK,
	PCIDEVICES_NET,
	PCIDEVICES_RNG,
	PCIDEVICES_CONSOLE,
	PCIDEVICES_BALLOON,
	PCIDEVICES_NVME,
	PCIDEVICES_AHCI,
	PCIDEVICES_E1000,
};

/* One device as it is asked for. */
struct pcidevices_config {
	enum pcidevices_kind kind;
	const char *name; /* for messages */
	const char *id;   /* the user's name for it, or NULL */
	unsigned backend; /* the user's: which of his drives or networks */
	u8 devfn;         /* 0: the next free slot */
	bool mmio;        /* virtio: not on PCI */
	u8 place;         /* over MMIO: counted from 1; 0: the next free one */
	bool legacy;      /* transitional: with the interface for old guests */
	u64 without;      /* features not to be offered */
	/* No queues: as many as there are CPUs. */
	struct virtio_blk_setup blk;
	struct virtio_net_setup net;
	struct virtio_balloon_setup balloon;
	struct virtio_console_port port[VIRTIO_CONSOLE_PORTS_MAX];
	unsigned ports;
	struct nvme_setup nvme;
	struct e1000_setup e1000;
	struct ahci_setup ahci;
	/* The user's, as 'backend': of each port, counted from 1. */
	unsigned drive[AHCI_PORTS];
};

/* What the board gives. */
struct pcidevices_board {
	struct phys *phys;
	struct pci_host *pci;
	struct loop *loop;
	struct msi_sink msi;
	unsigned cpus;
	struct irq_line mmio_irq[VIRTIO_MMIO_PLACES];
};

/* In the order given. What they borrow lives longer. */
struct pcidevices *pcidevices_new(const struct pcidevices_config *cfg, unsigned count,
				  const struct pcidevices_board *board,
				  struct error *err);
void pcidevices_free(struct pcidevices *p);

/* The console made from cfg[index]; NULL if that is something else. */
struct virtio_console *pcidevices_console(struct pcidevices *p, unsigned index);

/* The first balloon; NULL: there is none. */
struct virtio_balloon *pcidevices_balloon(struct pcidevices *p);

/* Places of virtio over MMIO that are taken, a bit each. */
u32 pcidevices_mmio(const struct pcidevices *p);

/*
 * The CPUs are about to stop, or stop already: what the disks have in flight is to end
 * soon, for which one of the CPUs may wait. Until the next resume.
 */
void pcidevices_hurry(struct pcidevices *p);
/* Around each stretch in which the CPUs run. */
void pcidevices_resume(struct pcidevices *p);
void pcidevices_pause(struct pcidevices *p);

void pcidevices_reset(struct pcidevices *p);
void pcidevices_save(struct pcidevices *p, struct state_buf *b);
int pcidevices_load(struct pcidevices *p, struct state_buf *b, struct error *err);
