/*
 * One PCI function with a type 0 header: configuration space, BARs, capabilities
 * and its interrupt pin.
 *
 * A device makes its function with pci_add(), describes its BARs and capabilities,
 * and is from then on called through the io_ops of its BARs, wherever the guest
 * puts them. Set-up functions are called before the machine runs.
 *
 * Locks: the host's configuration lock is held while configuration space is read or
 * written and while config_written() runs; it comes before device locks. Interrupt
 * pins and MSI have a lock of their own, below device locks.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"

struct pci_host;
struct pci_dev;

#define PCI_DEVFN(dev, fn) ((u8)((dev) << 3 | (fn)))
#define PCI_CONFIG_SIZE    256

/* Registers of the header, PCI Local Bus 3.0 section 6.1. */
enum {
	PCI_VENDOR = 0x00,
	PCI_DEVICE = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09,
	PCI_CACHE_LINE = 0x0c,
	PCI_LATENCY = 0x0d,
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBSYS_VENDOR = 0x2c,
	PCI_SUBSYS_DEVICE = 0x2e,
	PCI_ROM_BAR = 0x30,
	PCI_CAP_PTR = 0x34,
	PCI_INT_LINE = 0x3c,
	PCI_INT_PIN = 0x3d,
};

enum {
	PCI_COMMAND_IO = 0x0001,
	PCI_COMMAND_MEM = 0x0002,
	PCI_COMMAND_MASTER = 0x0004,
	PCI_COMMAND_PARITY = 0x0040,
	PCI_COMMAND_SERR = 0x0100,
	PCI_COMMAND_INTX_OFF = 0x0400,
	PCI_STATUS_INTX = 0x0008,
	PCI_STATUS_CAPS = 0x0010,
};

enum { PCI_CAP_MSI = 0x05, PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_desc {
	const char *name;
	u16 vendor, device;
	u16 subsys_vendor, subsys_device;
	u32 class_code; /* base class, subclass, interface: 24 bits */
	u8 revision;
	u8 pin; /* 0: none, 1 to 4: INTA# to INTD# */
	/*
	 * The guest wrote [off, off + size) of configuration space; what is writable
	 * is stored already. Also with the whole space after a reset or load.
	 * Configuration lock held. May be NULL.
	 */
	void (*config_written)(void *opaque, unsigned off, unsigned size);
	/*
	 * The guest is about to read them: for registers that are a window to something
	 * else, set with pci_config_set(). Configuration lock held. May be NULL.
	 */
	void (*config_reading)(void *opaque, unsigned off, unsigned size);
	void *opaque;
};

/*
 * Put a function at bus 0, 'devfn'. 'd' is copied, its name kept. NULL and a
 * message when the place is taken. Functions 1 to 7 are found by a guest only
 * when function 0 exists, which then says that it has several.
 */
struct pci_dev *pci_add(struct pci_host *h, u8 devfn, const struct pci_desc *d,
			struct error *err);
/*
 * Take it out of the host, with its windows. Machine stopped, or the device gone from
 * use.
 */
void pci_remove(struct pci_dev *dev);

/*
 * BAR 'index' of 'size' bytes, a power of two: at least 4 for I/O (at most 256), 16
 * for memory. A 64-bit BAR also takes the next index. 'ops' is given offsets into the
 * BAR and 'dev' as its device.
 */
void pci_set_bar(struct pci_dev *dev, unsigned index, enum pci_bar_kind kind, u64 size,
		 bool prefetchable, const struct io_ops *ops, void *opaque);

/*
 * Append a capability of 'len' bytes, header included; returns its offset, which is a
 * multiple of 4. It reads as zero and is read-only until the functions below say
 * otherwise. -ENOSPC when there is no room left.
 */
int pci_add_cap(struct pci_dev *dev, u8 id, unsigned len);

/*
 * Aligned registers of size 1, 2 or 4. pci_config_set() goes past the write mask.
 * During set-up or in config_written(); at other times a device uses what it kept then.
 */
u32 pci_config_get(const struct pci_dev *dev, unsigned off, unsigned size);
void pci_config_set(struct pci_dev *dev, unsigned off, unsigned size, u32 val);
/* Bits that the guest may change. */
void pci_config_writable(struct pci_dev *dev, unsigned off, unsigned size, u32 mask);
/* Bits that the guest clears by writing 1. */
void pci_config_write1c(struct pci_dev *dev, unsigned off, unsigned size, u32 mask);

u8 pci_devfn(const struct pci_dev *dev);

/*
 * One guest access, aligned, size 1, 2 or 4, off up to 4095 (what is not there reads
 * as all ones). Takes the configuration lock. For pci/host.c; a guest comes from there.
 */
u32 pci_config_read(struct pci_dev *dev, unsigned off, unsigned size);
void pci_config_write(struct pci_dev *dev, unsigned off, u32 val, unsigned size);

/* Any thread, device lock may be held. */

/* The level of the interrupt pin. */
void pci_set_intx(struct pci_dev *dev, bool level);
/* The guest lets the function read and write memory and send MSIs. */
bool pci_is_master(const struct pci_dev *dev);

/*
 * Machine stopped. Configuration space becomes what it was before the guest first wrote
 * to it, the pin is lowered and the windows go.
 */
void pci_reset(struct pci_dev *dev);
/*
 * Configuration space and pin. A load is refused when what a guest cannot change
 * is different; windows move to where the BARs now say.
 */
extern const struct state_desc pci_desc_state;
void pci_save(const struct pci_dev *dev, struct state_buf *b);
int pci_load(struct pci_dev *dev, struct state_buf *b, struct error *err);
