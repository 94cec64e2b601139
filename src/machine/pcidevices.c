/*
 * The PCI devices that a user adds: made, run, saved, all in one list.
 *
 * Each is a device of virtio/ and a transport for it, virtio/pci.c or virtio/mmio.c, or a
 * device of dev/ that is a PCI function by itself (struct plain). Those without a place
 * of their own get the free slots of bus 0 from 1 on, in order, or the free windows of
 * layout.h for MMIO. No locks: machine stopped.
 */
#include "machine/pcidevices.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "block/block.h"
#include "pci/host.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "virtio/rng.h"

#define SLOT_FIRST 1
#define SLOT_LAST  0x1e

/* How a device that is not virtio is handled. */
struct plain {
	void *(*make)(const struct pcidevices_config *cfg,
		      const struct pcidevices_board *board, u8 devfn, struct error *err);
	void (*unmake)(void *dev);
	void (*pause)(void *dev);
	void (*resume)(void *dev);
	void (*reset)(void *dev);
	void (*save)(void *dev, struct state_buf *b);
	int (*load)(void *dev, struct state_buf *b, struct error *err);
};

/* How a kind of device is handled. */
struct kind {
	void *(*make)(const struct pcidevices_config *cfg,
		      const struct pcidevices_board *board);
	struct virtio *(*core)(void *dev);
	void (*unmake)(void *dev);
	/* Once it is on the bus; NULL: nothing to do. */
	int (*start)(void *dev, struct error *err);
	/* What it has beside its virtio; NULL: nothing. */
	void (*save)(void *dev, struct state_buf *b, u32 instance);
	int (*load)(void *dev, struct state_buf *b, u32 instance, struct error *err);
	const struct plain *plain; /* not NULL: not virtio, and all else is NULL */
};

struct device {
	const struct kind *kind;
	unsigned index; /* of its configuration */
	void *dev;
	/* The transport; both NULL: it is none of virtio. */
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
	u8 place;                       /* over MMIO */
	struct block *disk[AHCI_PORTS]; /* behind it; NULL: none */
};

struct pcidevices {
	unsigned count;
	struct device dev[PCIDEVICES_MAX];
};

/* ---- kinds ---- */

/*
 * How many queues a device has where none were asked for: one for each CPU, so that what
 * a CPU has begun interrupts that CPU. Over MMIO they share an interrupt.
 */
static unsigned queues_for(const struct pcidevices_config *cfg,
			   const struct pcidevices_board *board, unsigned most)
{
	return cfg->mmio ? 1 : MIN(board->cpus, most);
}

static void *blk_make(const struct pcidevices_config *cfg,
		      const struct pcidevices_board *board)
{
	struct virtio_blk_setup setup = cfg->blk;

	if (!setup.queues)
		setup.queues = queues_for(cfg, board, VIRTIO_BLK_QUEUES_MAX);
	return virtio_blk_new(board->phys, &setup);
}

static struct virtio *blk_core(void *dev)
{
	return virtio_blk_core(dev);
}

static void blk_unmake(void *dev)
{
	virtio_blk_free(dev);
}

static void blk_save(void *dev, struct state_buf *b, u32 instance)
{
	virtio_blk_save(dev, b, instance);
}

static int blk_load(void *dev, struct state_buf *b, u32 instance, struct error *err)
{
	return virtio_blk_load(dev, b, instance, err);
}

static void *net_make(const struct pcidevices_config *cfg,
		      const struct pcidevices_board *board)
{
	struct virtio_net_setup setup = cfg->net;

	if (!setup.pairs)
		setup.pairs = queues_for(cfg, board, VIRTIO_NET_PAIRS_MAX);
	return virtio_net_new(board->phys, &setup);
}

static struct virtio *net_core(void *dev)
{
	return virtio_net_core(dev);
}

static void net_unmake(void *dev)
{
	virtio_net_free(dev);
}

static int net_start(void *dev, struct error *err)
{
	return virtio_net_start(dev, err);
}

static void net_save(void *dev, struct state_buf *b, u32 instance)
{
	virtio_net_save(dev, b, instance);
}

static int net_load(void *dev, struct state_buf *b, u32 instance, struct error *err)
{
	return virtio_net_load(dev, b, instance, err);
}

static void *rng_make(const struct pcidevices_config *cfg,
		      const struct pcidevices_board *board)
{
	(void)cfg;
	return virtio_rng_new(board->phys, board->loop);
}

static struct virtio *rng_core(void *dev)
{
	return virtio_rng_core(dev);
}

static void rng_unmake(void *dev)
{
	virtio_rng_free(dev);
}

static void *console_make(const struct pcidevices_config *cfg,
			  const struct pcidevices_board *board)
{
	return virtio_console_new(board->phys, board->loop, cfg->port, cfg->ports);
}

static struct virtio *console_core(void *dev)
{
	return virtio_console_core(dev);
}

static void console_unmake(void *dev)
{
	virtio_console_free(dev);
}

static void console_save(void *dev, struct state_buf *b, u32 instance)
{
	virtio_console_save(dev, b, instance);
}

static int console_load(void *dev, struct state_buf *b, u32 instance, struct error *err)
{
	return virtio_console_load(dev, b, instance, err);
}

static void *balloon_make(const struct pcidevices_config *cfg,
			  const struct pcidevices_board *board)
{
	return virtio_balloon_new(board->phys, board->loop, &cfg->balloon);
}

static struct virtio *balloon_core(void *dev)
{
	return virtio_balloon_core(dev);
}

static void balloon_unmake(void *dev)
{
	virtio_balloon_free(dev);
}

static void balloon_save(void *dev, struct state_buf *b, u32 instance)
{
	virtio_balloon_save(dev, b, instance);
}

static int balloon_load(void *dev, struct state_buf *b, u32 instance, struct error *err)
{
	return virtio_balloon_load(dev, b, instance, err);
}

static void *nvme_make(const struct pcidevices_config *cfg,
		       const struct pcidevices_board *board, u8 devfn, struct error *err)
{
	return nvme_new(&cfg->nvme, board->phys, board->pci, devfn, board->msi, err);
}

static void *ahci_make(const struct pcidevices_config *cfg,
		       const struct pcidevices_board *board, u8 devfn, struct error *err)
{
	return ahci_new(&cfg->ahci, board->phys, board->pci, devfn, board->msi, err);
}

static void *e1000_make(const struct pcidevices_config *cfg,
			const struct pcidevices_board *board, u8 devfn, struct error *err)
{
	return e1000_new(&cfg->e1000, board->phys, board->pci, devfn, err);
}

/* What struct plain asks for, of NAME_free() and so on. */
#define PLAIN(name)                                                                      \
	static void name##_unmake(void *dev)                                             \
	{                                                                                \
		name##_free(dev);                                                        \
	}                                                                                \
	static void name##_do_pause(void *dev)                                           \
	{                                                                                \
		name##_pause(dev);                                                       \
	}                                                                                \
	static void name##_do_resume(void *dev)                                          \
	{                                                                                \
		name##_resume(dev);                                                      \
	}                                                                                \
	static void name##_do_reset(void *dev)                                           \
	{                                                                                \
		name##_reset(dev);                                                       \
	}                                                                                \
	static void name##_do_save(void *dev, struct state_buf *b)                       \
	{                                                                                \
		name##_save(dev, b);                                                     \
	}                                                                                \
	static int name##_do_load(void *dev, struct state_buf *b, struct error *err)     \
	{                                                                                \
		return name##_load(dev, b, err);                                         \
	}                                                                                \
	static const struct plain name##_plain = { name##_make,     name##_unmake,       \
						   name##_do_pause, name##_do_resume,    \
						   name##_do_reset, name##_do_save,      \
						   name##_do_load }

PLAIN(nvme);
PLAIN(ahci);
PLAIN(e1000);

static const struct kind kinds[] = {
	[PCIDEVICES_BLK] = { blk_make, blk_core, blk_unmake, NULL, blk_save, blk_load,
			     NULL },
	[PCIDEVICES_NET] = { net_make, net_core, net_unmake, net_start, net_save,
			     net_load, NULL },
	[PCIDEVICES_RNG] = { rng_make, rng_core, rng_unmake, NULL, NULL, NULL, NULL },
	[PCIDEVICES_CONSOLE] = { console_make, console_core, console_unmake, NULL,
				 console_save, console_load, NULL },
	[PCIDEVICES_BALLOON] = { balloon_make, balloon_core, balloon_unmake, NULL,
				 balloon_save, balloon_load, NULL },
	[PCIDEVICES_NVME] = { .plain = &nvme_plain },
	[PCIDEVICES_AHCI] = { .plain = &ahci_plain },
	[PCIDEVICES_E1000] = { .plain = &e1000_plain },
};

/* ---- making them ---- */

static bool is_free(struct pci_host *h, u8 devfn)
{
	return pci_host_config_read(h, devfn, PCI_VENDOR, 2) == 0xffff;
}

/* 0 when there is no free slot. */
static u8 free_slot(struct pci_host *h)
{
	for (unsigned slot = SLOT_FIRST; slot <= SLOT_LAST; slot++)
		if (is_free(h, PCI_DEVFN(slot, 0)))
			return PCI_DEVFN(slot, 0);
	return 0;
}

static void set_disks(struct device *d, const struct pcidevices_config *cfg)
{
	if (cfg->kind == PCIDEVICES_BLK)
		d->disk[0] = cfg->blk.block;
	else if (cfg->kind == PCIDEVICES_NVME)
		d->disk[0] = cfg->nvme.block;
	else if (cfg->kind == PCIDEVICES_AHCI)
		for (unsigned i = 0; i < AHCI_PORTS; i++)
			d->disk[i] = cfg->ahci.disk[i].block;
}

u32 pcidevices_mmio(const struct pcidevices *p)
{
	u32 taken = 0;

	for (unsigned i = 0; i < p->count; i++)
		if (p->dev[i].mmio)
			taken |= (u32)BIT(p->dev[i].place);
	return taken;
}

/* Instances of state up to ffh are those of PCI. */
#define MMIO_INSTANCE(place) (0x100u + (place))

static int add_mmio(struct pcidevices *p, const struct pcidevices_config *cfg,
		    unsigned index, const struct pcidevices_board *board,
		    struct error *err)
{
	struct device *d = &p->dev[p->count];
	u32 taken = pcidevices_mmio(p);
	unsigned place = cfg->place ? cfg->place - 1u : 0;

	while (!cfg->place && place < VIRTIO_MMIO_PLACES && taken >> place & 1)
		place++;
	if (place >= VIRTIO_MMIO_PLACES)
		return error_set(err, -ENOSPC,
				 "-device %s: at most %u virtio devices over MMIO are "
				 "possible",
				 cfg->name, VIRTIO_MMIO_PLACES);
	if (taken >> place & 1)
		return error_set(err, -EBUSY,
				 "-device %s: bus=virtio-mmio-bus.%u is taken", cfg->name,
				 place);
	*d = (struct device){ .kind = &kinds[cfg->kind],
			      .index = index,
			      .place = (u8)place,
			      .dev = kinds[cfg->kind].make(cfg, board) };
	set_disks(d, cfg);
	d->kind->core(d->dev)->features &= ~cfg->without;
	d->mmio = virtio_mmio_new(d->kind->core(d->dev), board->mmio_irq[place],
				  MMIO_INSTANCE(place));
	p->count++;
	if (phys_add_mmio(board->phys, cfg->name,
			  LAYOUT_VIRTIO_MMIO + place * LAYOUT_VIRTIO_MMIO_STEP,
			  LAYOUT_VIRTIO_MMIO_SIZE, &virtio_mmio_ops, d->mmio, err))
		return -EINVAL;
	return d->kind->start ? d->kind->start(d->dev, err) : 0;
}

static int add(struct pcidevices *p, const struct pcidevices_config *cfg, unsigned index,
	       const struct pcidevices_board *board, struct error *err)
{
	struct device *d = &p->dev[p->count];
	struct virtio_pci_config pci = { .host = board->pci,
					 .devfn = cfg->devfn,
					 .msi = board->msi,
					 .legacy = cfg->legacy };

	if (cfg->mmio)
		return add_mmio(p, cfg, index, board, err);
	if (!pci.devfn)
		pci.devfn = free_slot(board->pci);
	if (!pci.devfn)
		return error_set(err, -ENOSPC, "-device %s: no PCI slot is free",
				 cfg->name);
	if (!is_free(board->pci, pci.devfn))
		return error_set(err, -EBUSY, "-device %s: addr=%02x.%x is taken",
				 cfg->name, pci.devfn >> 3, pci.devfn & 7);
	d->kind = &kinds[cfg->kind];
	d->index = index;
	if (d->kind->plain) {
		d->dev = d->kind->plain->make(cfg, board, pci.devfn, err);
		p->count += d->dev != NULL;
		set_disks(d, cfg);
		return d->dev ? 0 : -EINVAL;
	}
	set_disks(d, cfg);
	d->dev = d->kind->make(cfg, board);
	d->kind->core(d->dev)->features &= ~cfg->without;
	p->count++;
	d->pci = virtio_pci_new(d->kind->core(d->dev), &pci, err);
	if (!d->pci)
		return -EINVAL;
	return d->kind->start ? d->kind->start(d->dev, err) : 0;
}

struct pcidevices *pcidevices_new(const struct pcidevices_config *cfg, unsigned count,
				  const struct pcidevices_board *board, struct error *err)
{
	struct pcidevices *p = xzalloc(sizeof(*p));

	if (count > PCIDEVICES_MAX) {
		error_set(err, -E2BIG, "at most %u PCI devices are possible",
			  PCIDEVICES_MAX);
		goto fail;
	}
	/* Those with a place first, so that no other takes it. */
	for (unsigned placed = 0; placed < 2; placed++)
		for (unsigned i = 0; i < count; i++)
			if ((!cfg[i].devfn && !cfg[i].place) == (placed == 1) &&
			    add(p, &cfg[i], i, board, err))
				goto fail;
	return p;
fail:
	pcidevices_free(p);
	return NULL;
}

static void device_pause(struct device *d)
{
	if (d->kind->plain)
		d->kind->plain->pause(d->dev);
	else
		virtio_pause(d->kind->core(d->dev));
}

static void device_resume(struct device *d)
{
	if (d->kind->plain)
		d->kind->plain->resume(d->dev);
	else
		virtio_resume(d->kind->core(d->dev));
}

static void device_reset(struct device *d)
{
	if (d->kind->plain)
		d->kind->plain->reset(d->dev);
	else if (d->mmio)
		virtio_mmio_reset(d->mmio);
	else
		virtio_pci_reset(d->pci);
}

void pcidevices_free(struct pcidevices *p)
{
	if (!p)
		return;
	while (p->count > 0) {
		struct device *d = &p->dev[--p->count];

		device_pause(d);
		if (d->kind->plain) {
			d->kind->plain->unmake(d->dev);
			continue;
		}
		virtio_pci_free(d->pci);
		virtio_mmio_free(d->mmio);
		d->kind->unmake(d->dev);
	}
	free(p);
}

struct virtio_console *pcidevices_console(struct pcidevices *p, unsigned index)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->dev[i].index == index &&
		    p->dev[i].kind == &kinds[PCIDEVICES_CONSOLE])
			return p->dev[i].dev;
	return NULL;
}

struct virtio_balloon *pcidevices_balloon(struct pcidevices *p)
{
	for (unsigned i = 0; i < p->count; i++)
		if (p->dev[i].kind == &kinds[PCIDEVICES_BALLOON])
			return p->dev[i].dev;
	return NULL;
}

/* ---- all of them ---- */

static void hurry(struct pcidevices *p, bool on)
{
	for (unsigned i = 0; i < p->count; i++)
		for (unsigned k = 0; k < AHCI_PORTS; k++)
			if (p->dev[i].disk[k])
				block_hurry(p->dev[i].disk[k], on);
}

void pcidevices_hurry(struct pcidevices *p)
{
	hurry(p, true);
}

void pcidevices_resume(struct pcidevices *p)
{
	hurry(p, false);
	for (unsigned i = 0; i < p->count; i++)
		device_resume(&p->dev[i]);
}

void pcidevices_pause(struct pcidevices *p)
{
	hurry(p, true);
	for (unsigned i = 0; i < p->count; i++)
		device_pause(&p->dev[i]);
}

void pcidevices_reset(struct pcidevices *p)
{
	for (unsigned i = 0; i < p->count; i++)
		device_reset(&p->dev[i]);
}

/* Of what it has beside its transport. */
static u32 instance(const struct device *d)
{
	return d->mmio ? MMIO_INSTANCE(d->place) : pci_devfn(virtio_pci_dev(d->pci));
}

void pcidevices_save(struct pcidevices *p, struct state_buf *b)
{
	for (unsigned i = 0; i < p->count; i++) {
		struct device *d = &p->dev[i];

		if (d->kind->plain) {
			d->kind->plain->save(d->dev, b);
			continue;
		}
		if (d->mmio)
			virtio_mmio_save(d->mmio, b);
		else
			virtio_pci_save(d->pci, b);
		if (d->kind->save)
			d->kind->save(d->dev, b, instance(d));
	}
}

int pcidevices_load(struct pcidevices *p, struct state_buf *b, struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < p->count && !ret; i++) {
		struct device *d = &p->dev[i];

		if (d->kind->plain) {
			ret = d->kind->plain->load(d->dev, b, err);
			continue;
		}
		ret = d->mmio ? virtio_mmio_load(d->mmio, b, err)
			      : virtio_pci_load(d->pci, b, err);
		if (!ret && d->kind->load)
			ret = d->kind->load(d->dev, b, instance(d), err);
	}
	return ret;
}
