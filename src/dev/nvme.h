/*
 * NVMe controller with one namespace, as a PCI function.
 *
 * BAR 0 (memory, 64 bits) has the registers and doorbells, BAR 4 the MSI-X table.
 * Without MSI-X it interrupts by its pin. Guest accesses come on vCPU threads,
 * completions on those of the block layer.
 */
#pragma once

#include "base/error.h"
#include "irq/msi.h"
#include "state/save.h"

struct block;
struct nvme;
struct pci_dev;
struct pci_host;
struct phys;

#define NVME_QUEUES_MAX 63 /* pairs for I/O */
#define NVME_SERIAL_MAX 20

extern const struct state_desc nvme_desc, nvme_sq_desc, nvme_cq_desc;

struct nvme_setup {
	struct block *block; /* borrowed */
	const char *serial;  /* NULL: made from the slot; cut after NVME_SERIAL_MAX */
	unsigned queues;     /* pairs for I/O; 0: NVME_QUEUES_MAX */
	u32 logical_block;   /* bytes, 512 to 4096; 0: 512 */
	bool write_cache_off;
};

/* 'devfn' must be free. NULL and a message otherwise. */
struct nvme *nvme_new(const struct nvme_setup *cfg, struct phys *phys,
		      struct pci_host *host, u8 devfn, struct msi_sink msi,
		      struct error *err);
/* After nvme_pause(). */
void nvme_free(struct nvme *n);
struct pci_dev *nvme_pci_dev(struct nvme *n);

/*
 * Stop and go on touching memory, around each stretch in which the machine runs. Pause
 * waits for what is under way, which other threads complete. Paused at first.
 */
void nvme_pause(struct nvme *n);
void nvme_resume(struct nvme *n);

/* Machine stopped, and paused but for reset. With its PCI function. */
void nvme_reset(struct nvme *n);
void nvme_save(struct nvme *n, struct state_buf *b);
int nvme_load(struct nvme *n, struct state_buf *b, struct error *err);
