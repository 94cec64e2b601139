/*
 * AHCI host adapter with up to six SATA disks, as a PCI function.
 *
 * BAR 5 (memory) has the registers. It interrupts by MSI or by its pin. Guest accesses
 * come on vCPU threads, completions on those of the block layer.
 */
#pragma once

#include "base/error.h"
#include "irq/msi.h"
#include "state/save.h"

struct ahci;
struct block;
struct pci_dev;
struct pci_host;
struct phys;

#define AHCI_PORTS      6
#define AHCI_SERIAL_MAX 20

extern const struct state_desc ahci_desc, ahci_port_desc;

struct ahci_setup {
	struct {
		struct block *block; /* borrowed, writable; NULL: nothing is connected */
		const char *serial;  /* NULL: made from slot and port */
		bool write_cache_off;
	} disk[AHCI_PORTS];
};

/* 'devfn' must be free. NULL and a message otherwise. */
struct ahci *ahci_new(const struct ahci_setup *cfg, struct phys *phys,
		      struct pci_host *host, u8 devfn, struct msi_sink msi,
		      struct error *err);
/* After ahci_pause(). */
void ahci_free(struct ahci *a);

/*
 * Stop and go on touching memory, around each stretch in which the machine runs. Pause
 * waits for what is under way, which other threads complete. Paused at first.
 */
void ahci_pause(struct ahci *a);
void ahci_resume(struct ahci *a);

/* Machine stopped, and paused but for reset. With its PCI function. */
void ahci_reset(struct ahci *a);
void ahci_save(struct ahci *a, struct state_buf *b);
int ahci_load(struct ahci *a, struct state_buf *b, struct error *err);
