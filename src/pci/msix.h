/*
 * Message-signalled interrupts of a PCI function: the MSI and the MSI-X capability.
 *
 * PCI Local Bus 3.0 section 6.8. A device makes one of them (or both; the guest
 * enables at most one) and sends with msi_notify() or msix_notify(). A masked vector
 * of MSI-X is remembered as pending and sent when it is unmasked. Both are freed
 * before their function.
 */
#pragma once

#include "irq/msi.h"
#include "pci/pci.h"

#define MSI_VECTORS_MAX  32
#define MSIX_VECTORS_MAX 2048

struct msi;
struct msix;

/*
 * 'vectors' is a power of two up to 32. With 64-bit addresses, without per-vector
 * masks.
 */
struct msi *msi_new(struct pci_dev *dev, unsigned vectors, struct msi_sink sink,
		    struct error *err);
void msi_free(struct msi *m);

/* Call from the device's config_written(). */
void msi_config_written(struct msi *m, unsigned off, unsigned size);

/* Any thread, device lock may be held. */
bool msi_enabled(const struct msi *m);
/*
 * False: MSI is off, use another way. Vectors wrap round at how many the guest enabled.
 */
bool msi_notify(struct msi *m, unsigned vector);

/*
 * Table and pending bits lie in a memory BAR of the device at these offsets (multiples
 * of 8): the device places msix_table_ops and msix_pba_ops there, with the struct msix
 * as device and offsets from these.
 */
struct msix *msix_new(struct pci_dev *dev, unsigned vectors, unsigned bar, u32 table_off,
		      u32 pba_off, struct msi_sink sink, struct error *err);
void msix_free(struct msix *m);

extern const struct io_ops msix_table_ops, msix_pba_ops;
u32 msix_table_size(const struct msix *m); /* bytes */
u32 msix_pba_size(const struct msix *m);
/*
 * A BAR that holds nothing else: pci_set_bar() with these and msix_bar_size(). Needs
 * table_off 0 and pba_off from msix_bar_pba_off(vectors).
 */
extern const struct io_ops msix_bar_ops;
u32 msix_bar_pba_off(unsigned vectors);
u32 msix_bar_size(unsigned vectors);

void msix_config_written(struct msix *m, unsigned off, unsigned size);

/* Any thread, device lock may be held. */
bool msix_enabled(const struct msix *m);
/* False: MSI-X is off, use another way. A vector that does not exist is ignored. */
bool msix_notify(struct msix *m, unsigned vector);

/*
 * Machine stopped. The MSI capability lies in configuration space and has no other
 * state.
 */
void msix_reset(struct msix *m);
const struct state_desc *msix_desc(const struct msix *m);
void msix_save(const struct msix *m, struct state_buf *b);
int msix_load(struct msix *m, struct state_buf *b, struct error *err);
