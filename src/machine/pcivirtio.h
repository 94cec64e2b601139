/*
 * The PCI devices that a user adds: made, run, saved, all in one list. Those of virtio,
 * and disk controllers and a network card for guests without its drivers.
 *
 * Machine stopped, but for what says otherwise.
 */
#pragma once

#include "base/error.h"
#include "dev/ahci.h"
#include "dev/e1000.h"
#include "dev/nvme.h"
#include "irq/msi.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net.h"

struct loop;
struct pci_host;
struct pcivirtio;

#define PCIVIRTIO_MAX 28 /* slots 1 to 1eh, without those that QEMU's boards use */

enum pcivirtio_kind {
	PCIVIRTIO_BLK,
	PCIVIRTIO_NET,
	PCIVIRTIO_RNG,
	PCIVIRTIO_CONSOLE,
	PCIVIRTIO_BALLOON,
	PCIVIRTIO_NVME,
	PCIVIRTIO_AHCI,
	PCIVIRTIO_E1000,
};

/* One device as it is asked for. */
struct pcivirtio_config {
	enum pcivirtio_kind kind;
	const char *name; /* for messages */
	const char *id;   /* the user's name for it, or NULL */
	unsigned backend; /* the user's: which of his drives or networks */
	u8 devfn;         /* 0: the next free slot */
	bool legacy;      /* transitional: with the interface for old guests */
	u64 without;      /* features not to be offered */
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
struct pcivirtio_board {
	struct phys *phys;
	struct pci_host *pci;
	struct loop *loop;
	struct msi_sink msi;
};

/* In the order given. What they borrow lives longer. */
struct pcivirtio *pcivirtio_new(const struct pcivirtio_config *cfg, unsigned count,
				const struct pcivirtio_board *board, struct error *err);
void pcivirtio_free(struct pcivirtio *p);

/* The console made from cfg[index]; NULL if that is something else. */
struct virtio_console *pcivirtio_console(struct pcivirtio *p, unsigned index);

/* Around each stretch in which the CPUs run. */
void pcivirtio_resume(struct pcivirtio *p);
void pcivirtio_pause(struct pcivirtio *p);

void pcivirtio_reset(struct pcivirtio *p);
void pcivirtio_save(struct pcivirtio *p, struct state_buf *b);
int pcivirtio_load(struct pcivirtio *p, struct state_buf *b, struct error *err);
