/*
 * One PCI function with a type 0 header: configuration space, BARs, capabilities
 * and its interrupt pin.
 *
 * PCI Local Bus Specification 3.0, chapter 6. Configuration space is bytes with a mask
 * of what a write changes and one of what a write of 1 clears; only the command
 * register, the BARs and the interrupt status have meaning here. Deliberately missing:
 * expansion ROM, bridges (type 1), power management, extended space.
 *
 * I1 A BAR's window is placed exactly when its decoder is on (command bits 0 and 1) and
 *    nobody else has its ports. Over memory or other windows it may be hidden
 *    (mem/phys.h).
 * I2 'driving' is pin level and not INTX_OFF, and is counted at the wire.
 *
 * Locks: the host's configuration lock covers everything but pin, 'intx_off',
 * 'driving' (its irq lock) and 'master' (atomic).
 */
#include "pci/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "pci/host.h"

#define BARS       6
#define CAPS_START 0x40

/* Guest-visible state. PCI_STATUS_INTX in config is always 0, it comes from the pin. */
struct pci_state {
	u8 config[PCI_CONFIG_SIZE];
	u8 pin; /* level */
};

static const struct state_field pci_fields[] = {
	STATE_ARRAY(struct pci_state, config, 1),
	STATE_FIELD(struct pci_state, pin, 1),
	{ 0 },
};

static bool pci_valid(const void *state)
{
	const struct pci_state *s = state;

	return s->pin <= 1;
}

const struct state_desc pci_desc_state = {
	.name = "pci",
	.size = sizeof(struct pci_state),
	.version = 1,
	.fields = pci_fields,
	.valid = pci_valid,
};

struct bar {
	enum pci_bar_kind kind;
	u64 size;
	const struct io_ops *ops;
	void *dev;
	bool placed;
	u64 base; /* where, when placed */
};

struct pci_dev {
	struct pci_state s;
	u8 wmask[PCI_CONFIG_SIZE], w1c[PCI_CONFIG_SIZE];
	u8 initial[PCI_CONFIG_SIZE];
	bool started; /* the guest wrote: 'initial' is fixed */
	struct pci_host *host;
	struct pci_desc desc;
	u8 devfn;
	struct bar bars[BARS];
	unsigned cap_last, cap_next; /* offsets: last capability, next free byte */
	bool intx_off, driving;
	bool master;
};

/* ---- configuration space as bytes ---- */

static bool config_ok(unsigned off, unsigned size)
{
	return off < PCI_CONFIG_SIZE && size <= PCI_CONFIG_SIZE - off;
}

u32 pci_config_get(const struct pci_dev *dev, unsigned off, unsigned size)
{
	return config_ok(off, size) ? (u32)le_load(dev->s.config + off, size)
				    : UINT32_MAX;
}

void pci_config_set(struct pci_dev *dev, unsigned off, unsigned size, u32 val)
{
	if (config_ok(off, size))
		le_store(dev->s.config + off, val, size);
}

void pci_config_writable(struct pci_dev *dev, unsigned off, unsigned size, u32 mask)
{
	if (config_ok(off, size))
		le_store(dev->wmask + off, mask, size);
}

void pci_config_write1c(struct pci_dev *dev, unsigned off, unsigned size, u32 mask)
{
	if (config_ok(off, size))
		le_store(dev->w1c + off, mask, size);
}

u8 pci_devfn(const struct pci_dev *dev)
{
	return dev->devfn;
}

/* ---- windows ---- */

static u64 bar_base(const struct pci_dev *dev, unsigned i)
{
	const struct bar *b = &dev->bars[i];
	unsigned off = PCI_BAR0 + 4 * i;
	u64 v = pci_config_get(dev, off, 4);

	if (b->kind == PCI_BAR_MEM64)
		v |= (u64)pci_config_get(dev, off + 4, 4) << 32;
	return v & ~(b->size - 1);
}

static bool bar_wanted(const struct pci_dev *dev, const struct bar *b)
{
	u32 command = pci_config_get(dev, PCI_COMMAND, 2);

	if (b->kind == PCI_BAR_NONE)
		return false;
	return command & (b->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEM);
}

static void bar_place(struct pci_dev *dev, struct bar *b, u64 base)
{
	if (b->kind == PCI_BAR_IO) {
		/*
		 * x86 decodes 16 bits of port address; port 0 is what an unset BAR has.
		 */
		b->placed =
			base && base < 0x10000 &&
			!io_ports_add(pci_host_ports(dev->host), (u16)base, (u16)b->size,
				      dev->desc.name, b->ops, b->dev, NULL);
	} else {
		/* Fails only when the map changed absurdly often: then no window. */
		b->placed =
			base && !phys_add_mmio(pci_host_phys(dev->host), dev->desc.name,
					       base, b->size, b->ops, b->dev, NULL);
	}
	b->base = base;
	if (!b->placed && base)
		guest_bug("pci", "%s: no window at %#llx", dev->desc.name,
			  (unsigned long long)base);
}

static void bar_take_away(struct pci_dev *dev, struct bar *b)
{
	if (b->kind == PCI_BAR_IO)
		io_ports_remove(pci_host_ports(dev->host), (u16)b->base, (u16)b->size);
	else
		phys_remove_mmio(pci_host_phys(dev->host), b->base, b->ops, b->dev);
	b->placed = false;
}

/* I1. Config lock held. */
static void update_maps(struct pci_dev *dev)
{
	bool freed = false;

	for (unsigned i = 0; i < BARS; i++) {
		struct bar *b = &dev->bars[i];

		if (b->placed && (!bar_wanted(dev, b) || bar_base(dev, i) != b->base)) {
			bar_take_away(dev, b);
			freed = true;
		}
	}
	pci_retry_maps(dev);
	if (freed)
		pci_host_retry_maps(dev->host);
}

void pci_retry_maps(struct pci_dev *dev)
{
	for (unsigned i = 0; i < BARS; i++) {
		struct bar *b = &dev->bars[i];

		if (!b->placed && bar_wanted(dev, b))
			bar_place(dev, b, bar_base(dev, i));
	}
}

void pci_set_bar(struct pci_dev *dev, unsigned index, enum pci_bar_kind kind, u64 size,
		 bool prefetchable, const struct io_ops *ops, void *opaque)
{
	unsigned off = PCI_BAR0 + 4 * index;
	u32 type = kind == PCI_BAR_IO ? 1 : kind == PCI_BAR_MEM64 ? 4 : 0;

	if (kind != PCI_BAR_IO && prefetchable)
		type |= 8;
	dev->bars[index] =
		(struct bar){ .kind = kind, .size = size, .ops = ops, .dev = opaque };
	pci_config_set(dev, off, 4, type);
	pci_config_writable(dev, off, 4, (u32) ~(size - 1));
	if (kind == PCI_BAR_MEM64)
		pci_config_writable(dev, off + 4, 4, (u32)(~(size - 1) >> 32));
}

/* ---- capabilities ---- */

int pci_add_cap(struct pci_dev *dev, u8 id, unsigned len)
{
	unsigned off = dev->cap_next;

	if (len > PCI_CONFIG_SIZE - off)
		return -ENOSPC;
	dev->cap_next = (unsigned)align_up(off + len, 4);
	pci_config_set(dev, off, 1, id);
	if (dev->cap_last)
		pci_config_set(dev, dev->cap_last + 1, 1, off);
	else
		pci_config_set(dev, PCI_CAP_PTR, 1, off);
	dev->cap_last = off;
	pci_config_set(dev, PCI_STATUS, 2,
		       pci_config_get(dev, PCI_STATUS, 2) | PCI_STATUS_CAPS);
	return (int)off;
}

/* ---- interrupt pin ---- */

/* I2. Irq lock held. */
static void update_pin(struct pci_dev *dev)
{
	bool drive = dev->desc.pin && dev->s.pin && !dev->intx_off;

	if (drive == dev->driving)
		return;
	dev->driving = drive;
	pci_host_drive(dev->host, dev->devfn, dev->desc.pin - 1u, drive ? 1 : -1);
}

void pci_set_intx(struct pci_dev *dev, bool level)
{
	pthread_mutex_t *lock = pci_host_irq_lock(dev->host);

	pthread_mutex_lock(lock);
	dev->s.pin = level;
	update_pin(dev);
	pthread_mutex_unlock(lock);
}

bool pci_is_master(const struct pci_dev *dev)
{
	return __atomic_load_n(&dev->master, __ATOMIC_RELAXED);
}

/* What follows from the command register and the BARs. Config lock held. */
static void update(struct pci_dev *dev)
{
	pthread_mutex_t *lock = pci_host_irq_lock(dev->host);
	u32 command = pci_config_get(dev, PCI_COMMAND, 2);

	__atomic_store_n(&dev->master, command & PCI_COMMAND_MASTER, __ATOMIC_RELAXED);
	pthread_mutex_lock(lock);
	dev->intx_off = command & PCI_COMMAND_INTX_OFF;
	update_pin(dev);
	pthread_mutex_unlock(lock);
	update_maps(dev);
}

/* ---- guest access ---- */

u32 pci_config_read(struct pci_dev *dev, unsigned off, unsigned size)
{
	pthread_mutex_t *irq_lock = pci_host_irq_lock(dev->host);
	u32 v;

	pthread_mutex_lock(pci_host_config_lock(dev->host));
	if (dev->desc.config_reading && config_ok(off, size))
		dev->desc.config_reading(dev->desc.opaque, off, size);
	v = pci_config_get(dev, off, size) & (u32)size_mask(size);
	pthread_mutex_unlock(pci_host_config_lock(dev->host));
	pthread_mutex_lock(irq_lock);
	if (dev->s.pin && off <= PCI_STATUS && off + size > PCI_STATUS)
		v |= (u32)PCI_STATUS_INTX << (8 * (PCI_STATUS - off));
	pthread_mutex_unlock(irq_lock);
	return v;
}

void pci_config_write(struct pci_dev *dev, unsigned off, u32 val, unsigned size)
{
	pthread_mutex_t *lock = pci_host_config_lock(dev->host);

	if (!config_ok(off, size))
		return;
	pthread_mutex_lock(lock);
	if (!dev->started) {
		memcpy(dev->initial, dev->s.config, sizeof(dev->initial));
		dev->started = true;
	}
	for (unsigned i = 0; i < size; i++) {
		u8 *at = &dev->s.config[off + i], v = (u8)(val >> (8 * i));

		*at = (u8)((*at & ~dev->wmask[off + i]) | (v & dev->wmask[off + i]));
		*at &= (u8) ~(v & dev->w1c[off + i]);
	}
	if (off < PCI_BAR0 + 4 * BARS && off + size > PCI_COMMAND)
		update(dev);
	if (dev->desc.config_written)
		dev->desc.config_written(dev->desc.opaque, off, size);
	pthread_mutex_unlock(lock);
}

/* ---- set-up and state ---- */

struct pci_dev *pci_add(struct pci_host *h, u8 devfn, const struct pci_desc *d,
			struct error *err)
{
	struct pci_dev *dev = xzalloc(sizeof(*dev));

	dev->host = h;
	dev->desc = *d;
	dev->devfn = devfn;
	dev->cap_next = CAPS_START;
	pci_config_set(dev, PCI_VENDOR, 2, d->vendor);
	pci_config_set(dev, PCI_DEVICE, 2, d->device);
	pci_config_set(dev, PCI_REVISION, 1, d->revision);
	pci_config_set(dev, PCI_CLASS, 1, d->class_code & 0xff);
	pci_config_set(dev, PCI_CLASS + 1, 2, d->class_code >> 8);
	pci_config_set(dev, PCI_SUBSYS_VENDOR, 2, d->subsys_vendor);
	pci_config_set(dev, PCI_SUBSYS_DEVICE, 2, d->subsys_device);
	pci_config_set(dev, PCI_INT_PIN, 1, d->pin);
	pci_config_writable(dev, PCI_COMMAND, 2,
			    PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER |
				    PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
				    PCI_COMMAND_INTX_OFF);
	/* 6.2.3: the error bits, which nothing here sets. */
	pci_config_write1c(dev, PCI_STATUS, 2, 0xf900);
	pci_config_writable(dev, PCI_CACHE_LINE, 1, 0xff);
	pci_config_writable(dev, PCI_LATENCY, 1, 0xff);
	pci_config_writable(dev, PCI_INT_LINE, 1, 0xff);
	if (pci_host_attach(h, devfn, dev, err)) {
		free(dev);
		return NULL;
	}
	return dev;
}

static void lower_pin(struct pci_dev *dev)
{
	pci_set_intx(dev, false);
}

void pci_remove(struct pci_dev *dev)
{
	pthread_mutex_t *lock;

	if (!dev)
		return;
	lock = pci_host_config_lock(dev->host);
	lower_pin(dev);
	pthread_mutex_lock(lock);
	pci_config_set(dev, PCI_COMMAND, 2, 0);
	update(dev);
	pthread_mutex_unlock(lock);
	pci_host_detach(dev->host, dev->devfn);
	free(dev);
}

void pci_reset(struct pci_dev *dev)
{
	pthread_mutex_t *lock = pci_host_config_lock(dev->host);

	lower_pin(dev);
	pthread_mutex_lock(lock);
	if (dev->started)
		memcpy(dev->s.config, dev->initial, sizeof(dev->initial));
	update(dev);
	if (dev->desc.config_written)
		dev->desc.config_written(dev->desc.opaque, 0, PCI_CONFIG_SIZE);
	pthread_mutex_unlock(lock);
}

void pci_save(const struct pci_dev *dev, struct state_buf *b)
{
	state_save(b, &pci_desc_state, dev->devfn, &dev->s);
}

/* What a guest cannot change must be what this device has. */
static bool same_device(const struct pci_dev *dev, const struct pci_state *s)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if ((dev->s.config[i] ^ s->config[i]) &
		    (u8) ~(dev->wmask[i] | dev->w1c[i]))
			return false;
	return true;
}

static void load_pin(struct pci_dev *dev, bool level)
{
	pthread_mutex_t *lock = pci_host_irq_lock(dev->host);

	pthread_mutex_lock(lock);
	dev->s.pin = level;
	update_pin(dev);
	pci_host_tell_wires(dev->host);
	pthread_mutex_unlock(lock);
}

int pci_load(struct pci_dev *dev, struct state_buf *b, struct error *err)
{
	pthread_mutex_t *lock = pci_host_config_lock(dev->host);
	struct pci_state s = dev->s;
	int ret = state_load(b, &pci_desc_state, dev->devfn, &s, err);

	if (ret)
		return ret;
	pthread_mutex_lock(lock);
	if (!same_device(dev, &s)) {
		ret = error_set(err, -EINVAL,
				"state of pci %02x.%x: another device than %s",
				dev->devfn >> 3, dev->devfn & 7, dev->desc.name);
		goto out;
	}
	if (!dev->started) {
		memcpy(dev->initial, dev->s.config, sizeof(dev->initial));
		dev->started = true;
	}
	memcpy(dev->s.config, s.config, sizeof(s.config));
	update(dev);
	load_pin(dev, s.pin);
	if (dev->desc.config_written)
		dev->desc.config_written(dev->desc.opaque, 0, PCI_CONFIG_SIZE);
out:
	pthread_mutex_unlock(lock);
	return ret;
}
