/*
 * What the sources of the AHCI adapter share. For dev/ahci*.c and dev/ata.c only.
 *
 * ahci.c: registers, PCI, state. ahci_port.c: a port: command list, FISes, PRDT,
 * resets. ata.c: the disk's commands. All functions: lock held.
 */
#pragma once

#include <pthread.h>

#include "base/bits.h"
#include "block/block.h"
#include "dev/ahci.h"
#include "mem/phys.h"

#define AHCI_SLOTS   32u
/* Buffers of one command, after joining: 2 MiB in pages, and what bounds its memory. */
#define AHCI_IOV_MAX 520u
#define ATA_MULTIPLE 16u

/* Registers of the adapter, AHCI 1.3.1 section 3.1, and of a port, 3.3. */
enum {
	HBA_CAP = 0x00,
	HBA_GHC = 0x04,
	HBA_IS = 0x08,
	HBA_PI = 0x0c,
	HBA_VS = 0x10,
	HBA_PORTS = 0x100,
	HBA_PORT_SIZE = 0x80,
	HBA_SIZE = 0x1000,
};

enum {
	PX_CLB = 0x00,
	PX_CLBU = 0x04,
	PX_FB = 0x08,
	PX_FBU = 0x0c,
	PX_IS = 0x10,
	PX_IE = 0x14,
	PX_CMD = 0x18,
	PX_TFD = 0x20,
	PX_SIG = 0x24,
	PX_SSTS = 0x28,
	PX_SCTL = 0x2c,
	PX_SERR = 0x30,
	PX_SACT = 0x34,
	PX_CI = 0x38,
};

enum { GHC_HR = 1, GHC_IE = 2 };
#define GHC_AE BIT(31)

enum {
	CMD_ST = 1,
	CMD_SUD = 1 << 1,
	CMD_POD = 1 << 2,
	CMD_CLO = 1 << 3,
	CMD_FRE = 1 << 4,
	CMD_FR = 1 << 14,
	CMD_CR = 1 << 15,
};

/* PxIS. */
enum {
	IS_DHRS = 1,
	IS_PSS = 1 << 1,
	IS_SDBS = 1 << 3,
	IS_PCS = 1 << 6,
	IS_HBFS = 1 << 29,
	IS_TFES = 1 << 30,
};

/* ATA status and error. */
enum { ATA_ERR = 0x01, ATA_DRQ = 0x08, ATA_DSC = 0x10, ATA_DRDY = 0x40, ATA_BSY = 0x80 };
enum { ATA_ABRT = 0x04, ATA_IDNF = 0x10, ATA_UNC = 0x40 };
#define ATA_READY (ATA_DRDY | ATA_DSC)

/* Guest-visible state of a port and its disk. */
struct ahci_port_state {
	u64 clb, fb;
	u64 error_lba;
	u32 is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
	u8 next;   /* slot to be looked at first */
	u8 halted; /* an error: until ST is cleared */
	u8 srst;
	u8 write_cache;
	/* NCQ error log: there is one, of this tag. */
	u8 error_valid, error_tag, error_error;
	u8 pad; /* always 0 */
};

struct ahci_state {
	u32 ghc, is;
};

struct ahci_port;

/* A command in a slot, taken apart. Copies: the guest cannot change them any more. */
struct ahci_cmd {
	u8 fis[20];
	u16 prdtl;
	u64 table;
	/* Of the FIS. */
	u64 lba;
	u32 count; /* sectors */
};

struct ahci_request {
	struct block_req r;
	struct ahci_port *p;
	struct ahci_cmd cmd;
	u8 slot;
	bool ncq, pio;
	u32 len; /* bytes of data */
	unsigned iovs;
	struct iovec iov[AHCI_IOV_MAX];
	gpa_t gpa[AHCI_IOV_MAX];
	/* Dataset management: what is still to be discarded. */
	unsigned ranges, range;
	u8 *list; /* allocated */
};

struct ahci_port {
	struct ahci_port_state s;
	struct ahci *a;
	unsigned index;
	struct block *block; /* NULL: no disk */
	char serial[AHCI_SERIAL_MAX];
	bool write_cache_off;
	u32 active;     /* slots whose request the block layer has */
	bool exclusive; /* the one in 'active' is not queued */
	bool dropping;  /* what is active is not to be answered */
	bool comreset;  /* a COMRESET waits for active == 0 */
	struct ahci_request *req[AHCI_SLOTS]; /* made as needed, kept */
};

struct ahci {
	pthread_mutex_t lock;
	pthread_cond_t idle; /* busy became 0 */
	struct ahci_state s;
	struct phys *phys;
	struct pci_dev *dev;
	struct msi *msi;
	unsigned busy;  /* of all ports */
	bool resetting; /* GHC.HR, waits for busy == 0 */
	bool paused;
	struct ahci_port port[AHCI_PORTS];
};

/* How a command goes on. */
enum ata_next {
	ATA_DONE,   /* answered with success: request's len was transferred */
	ATA_SUBMIT, /* r->r is ready */
	ATA_FAILED, /* *error says why */
	ATA_FATAL,  /* its memory is not there: HBFS */
};

/* ---- ahci.c ---- */

/* Something happened at a port: PxIS bits. */
void ahci_event(struct ahci_port *p, u32 is);
void ahci_update(struct ahci *a, bool event);
bool ahci_runs(const struct ahci *a);
void ahci_put(struct ahci *a);

/* ---- ahci_port.c ---- */

u32 ahci_port_read(const struct ahci_port *p, u64 off);
void ahci_port_write(struct ahci_port *p, u64 off, u32 val);
/* Begin what waits in the command list. */
void ahci_port_run(struct ahci_port *p);
/* As after power-on; nothing is active. */
void ahci_port_reset(struct ahci_port *p);
/* Forget what is active; it is waited for by the caller. */
void ahci_port_drop(struct ahci_port *p);
void ahci_port_fini(struct ahci_port *p);
/* For ata.c: where 'len' bytes of data are. */
enum ata_next ahci_map(struct ahci_request *r, u32 len, bool to_guest, u8 *error);
void ahci_give(struct ahci_request *r, const void *data);
void ahci_take(struct ahci_request *r, void *data);
void ahci_note_written(struct ahci_request *r);

/* ---- ata.c ---- */

bool ata_is_ncq(u8 command);
enum ata_next ata_command(struct ahci_request *r, u8 *error);
/* The block layer is done: true: r->r is to be submitted once more. */
bool ata_more(struct ahci_request *r);
u8 ata_error_of(const struct ahci_request *r, int ret);
void ata_reset(struct ahci_port *p);
