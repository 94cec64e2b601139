/*
 * PCI host: configuration access by ports cf8h/cfch and by ECAM, the host bridge
 * (00:00.0), the ISA bridge (00:1f.0), and the interrupt wires of bus 0.
 */
#pragma once

#include <pthread.h>

#include "mem/phys.h"
#include "pci/pci.h"

#define PCI_HOST_PORTS 8 /* at cf8h */
#define PCI_INTX_MAX   8

struct pci_host;

struct pci_host_args {
	struct phys *phys; /* where memory BARs and ECAM appear */
	struct io_ports
		*ports; /* where I/O BARs appear; the board places pci_host_ops itself */
	/*
	 * Interrupt wires, 4 or 8 of them: pin p (0 to 3) of device d drives wire
	 * (d + p) % intx_count. Each is the OR of the pins on it.
	 */
	struct irq_line intx[PCI_INTX_MAX];
	unsigned intx_count;
	/*
	 * Inputs of the PIC: wire n also drives the one that PIRQn_ROUT of the ISA
	 * bridge (60h to 63h, 68h to 6bh) selects, for guests without IOAPIC. May be
	 * left unconnected.
	 */
	struct irq_line isa[16];
	/*
	 * PMBASE of the ISA bridge (40h), where the board has the ACPI registers. The
	 * guest cannot move it.
	 */
	u16 pm_base;
	/*
	 * ECAM window after reset, a multiple of 256 MiB; 0: off until firmware sets
	 * PCIEXBAR.
	 */
	gpa_t ecam_base;
	/*
	 * Port cf9h lies in the middle of cf8h to cffh and is another chip's: byte
	 * accesses at cf9h go to these, offset 0. May be NULL.
	 */
	const struct io_ops *cf9_ops;
	void *cf9_dev;
};

extern const struct io_ops
	pci_host_ops; /* ports cf8h to cffh; 'dev' is the struct pci_host */
extern const struct state_desc pci_host_desc;

struct pci_host *pci_host_new(const struct pci_host_args *args, struct error *err);
/* All devices must have been removed. */
void pci_host_free(struct pci_host *h);

/* Where ECAM is now, for the MCFG table; 0 when it is off. '*buses' is 64, 128 or 256. */
gpa_t pci_host_ecam(struct pci_host *h, unsigned *buses);

/*
 * Access configuration space of bus 0 as a guest would: for the board, when there is no
 * firmware to assign BARs. Nobody there reads as all ones.
 */
u32 pci_host_config_read(struct pci_host *h, u8 devfn, unsigned off, unsigned size);
void pci_host_config_write(struct pci_host *h, u8 devfn, unsigned off, u32 val,
			   unsigned size);

/*
 * Machine stopped. The host's own registers and both bridges; each other device does
 * its own.
 */
void pci_host_reset(struct pci_host *h);
void pci_host_save(const struct pci_host *h, struct state_buf *b);
int pci_host_load(struct pci_host *h, struct state_buf *b, struct error *err);

/* ---- pci.c only ---- */

int pci_host_attach(struct pci_host *h, u8 devfn, struct pci_dev *dev, struct error *err);
void pci_host_detach(struct pci_host *h, u8 devfn);
struct phys *pci_host_phys(struct pci_host *h);
struct io_ports *pci_host_ports(struct pci_host *h);
pthread_mutex_t *pci_host_config_lock(struct pci_host *h);
/* Covers interrupt pins and wires. */
pthread_mutex_t *pci_host_irq_lock(struct pci_host *h);
/* One more (+1) or fewer (-1) pin of this function drives its wire. Irq lock held. */
void pci_host_drive(struct pci_host *h, u8 devfn, unsigned pin, int change);
/* The level of every wire once more. Irq lock held. */
void pci_host_tell_wires(struct pci_host *h);
/*
 * Ports became free: I/O BARs that lay over others may have their turn. Config lock
 * held.
 */
void pci_host_retry_maps(struct pci_host *h);
/* Try to place those windows of 'dev' that could not be placed. Config lock held. */
void pci_retry_maps(struct pci_dev *dev);
