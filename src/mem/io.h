/*
 * Dispatch of port and memory-mapped I/O to chips.
 *
 * A chip gives one io_ops and is given offsets into its window; the dispatcher
 * has checked the size against 'sizes' and split what does not fit: an
 * access of a size the chip does not have becomes several of the largest
 * it has (or is refused, all-ones, when smaller than the smallest). The same
 * happens to an access whose offset is not a multiple of its size, so a chip
 * sees aligned offsets only.
 */
#pragma once

#include "base/types.h"

enum { IO_1 = 1, IO_2 = 2, IO_4 = 4, IO_8 = 8 };

struct io_ops {
	/*
	 * off + size <= length of the window, off a multiple of size; size is one of
	 * 'sizes'. Bits of a value above its size are zero, and ignored in a result.
	 * Any vCPU thread.
	 */
	u64 (*read)(void *dev, u64 off, unsigned size);
	void (*write)(void *dev, u64 off, u64 val, unsigned size);
	u8 sizes; /* IO_1 | IO_2 | IO_4 | IO_8 */
};

/*
 * The 64 KiB port space. Windows may come and go while the machine runs (PCI
 * BARs), also from inside an access; one that was just removed can be called once more.
 */
struct io_ports;

struct io_ports *io_ports_new(void);
void io_ports_free(struct io_ports *p);

/*
 * Place a window. 0, or -EBUSY when ports overlap: then '*owner' (may be NULL) names
 * who has them. -EINVAL beyond port ffffh. 'name', 'ops' and 'dev' are kept.
 */
int io_ports_add(struct io_ports *p, u16 base, u16 len, const char *name,
		 const struct io_ops *ops, void *dev, const char **owner);
/* Take away the window that was placed with exactly this base and length, if any. */
void io_ports_remove(struct io_ports *p, u16 base, u16 len);

/* Ports nobody has read as all ones and ignore writes. size is 1, 2 or 4. */
u64 io_ports_read(struct io_ports *p, u16 port, unsigned size);
void io_ports_write(struct io_ports *p, u16 port, u64 val, unsigned size);

/* One access through an io_ops, split into what the chip takes. */
u64 io_read(const struct io_ops *ops, void *dev, u64 off, unsigned size);
void io_write(const struct io_ops *ops, void *dev, u64 off, u64 val, unsigned size);
