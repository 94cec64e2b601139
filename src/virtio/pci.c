/*
 * Virtio over PCI: capabilities, common configuration, notifications, interrupts.
 *
 * Virtual I/O Device specification 1.2, section 4.1: the modern interface in BAR 4, and
 * the legacy one of 4.1.4.10 in BAR 0 of a transitional device. Interrupts are MSI-X
 * or, without it, the pin with the ISR register. Deliberately missing: shared
 * memory capabilities, notification data.
 *
 * Locks: all under v->lock, but the window in configuration space (4.1.4.9), which the
 * host's configuration lock covers; that comes before v->lock.
 */
#include "virtio/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

#define VENDOR          0x1af4
#define BAR_LEGACY      0
#define BAR_MSIX        1
#define BAR_MODERN      4
#define LEGACY_BAR_SIZE 0x100
#define LEGACY_PAGE     12

/* cfg_type, 4.1.4. */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };
enum { CAP_LEN = 16, CAP_NOTIFY_LEN = 20, CAP_PCI_LEN = 20 };
/* Offsets in the capability. */
enum { CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_DATA = 16 };

enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

struct virtio_pci {
	struct virtio *v;
	struct pci_dev *dev;
	struct msix *msix;
	unsigned vectors;
	unsigned window; /* offset of the capability CAP_PCI */
	bool legacy;
};

/* ---- interrupts; lock held ---- */

static void interrupt(struct virtio_pci *p, u16 vector, u8 isr)
{
	if (msix_enabled(p->msix)) {
		if (vector != VIRTIO_NO_VECTOR)
			msix_notify(p->msix, vector);
		return;
	}
	p->v->s.isr |= isr;
	pci_set_intx(p->dev, true);
}

static void queue_irq(void *opaque, unsigned queue)
{
	struct virtio_pci *p = opaque;

	interrupt(p, p->v->vq[queue].s.vector, ISR_QUEUE);
}

static void config_irq(void *opaque)
{
	struct virtio_pci *p = opaque;

	interrupt(p, p->v->s.config_vector, ISR_CONFIG);
}

/* 4.1.5.1.2.1: reading acknowledges. */
static u8 isr_read(struct virtio_pci *p)
{
	u8 isr = p->v->s.isr;

	p->v->s.isr = 0;
	pci_set_intx(p->dev, false);
	return isr;
}

static u16 vector_of(const struct virtio_pci *p, u32 val)
{
	return val < p->vectors ? (u16)val : VIRTIO_NO_VECTOR;
}

static void set_status(struct virtio_pci *p, u8 status)
{
	virtio_set_status(p->v, status);
	if (!p->v->s.isr)
		pci_set_intx(p->dev, false);
}

/* ---- modern: lock held ---- */

static void common_queue(struct virtio_pci *p, u8 *c)
{
	const struct vq *q = virtio_selected(p->v);

	if (!q)
		return; /* 4.1.4.3.1: size 0 says so */
	le_store(c + VIRTIO_PCI_Q_SIZE, q->s.size, 2);
	le_store(c + VIRTIO_PCI_Q_VECTOR, q->s.vector, 2);
	le_store(c + VIRTIO_PCI_Q_ENABLE, q->s.enabled, 2);
	le_store(c + VIRTIO_PCI_Q_NOTIFY_OFF, p->v->s.queue_select, 2);
	le_store(c + VIRTIO_PCI_Q_DESC, q->s.desc, 8);
	le_store(c + VIRTIO_PCI_Q_DRIVER, q->s.driver, 8);
	le_store(c + VIRTIO_PCI_Q_DEVICE, q->s.device, 8);
	le_store(c + VIRTIO_PCI_Q_RESET, q->resetting, 2);
}

static u32 common_read(struct virtio_pci *p, u64 off, unsigned size)
{
	struct virtio *v = p->v;
	u8 c[64] = { 0 };

	if (off >= VIRTIO_PCI_COMMON_SIZE)
		return 0;
	if (off == VIRTIO_PCI_GENERATION)
		return virtio_get_generation(v);
	le_store(c + VIRTIO_PCI_DFSELECT, v->s.device_feature_select, 4);
	le_store(c + VIRTIO_PCI_DF, virtio_get_features(v), 4);
	le_store(c + VIRTIO_PCI_GFSELECT, v->s.driver_feature_select, 4);
	if (v->s.driver_feature_select < 2)
		le_store(c + VIRTIO_PCI_GF,
			 v->s.driver_features >> 32 * v->s.driver_feature_select, 4);
	le_store(c + VIRTIO_PCI_CONFIG_VECTOR, v->s.config_vector, 2);
	le_store(c + VIRTIO_PCI_NUM_QUEUES, v->queues, 2);
	c[VIRTIO_PCI_STATUS] = virtio_get_status(v);
	c[VIRTIO_PCI_GENERATION] = v->s.generation;
	le_store(c + VIRTIO_PCI_Q_SELECT, v->s.queue_select, 2);
	common_queue(p, c);
	return (u32)le_load(c + off, size);
}

static u64 *area_at(struct vq *q, u64 off)
{
	return off < VIRTIO_PCI_Q_DRIVER   ? &q->s.desc
	       : off < VIRTIO_PCI_Q_DEVICE ? &q->s.driver
					   : &q->s.device;
}

static void queue_write(struct virtio_pci *p, u64 off, u32 val, unsigned size)
{
	struct vq *q = virtio_selected(p->v);

	if (!q)
		return;
	if (size == 4 && off >= VIRTIO_PCI_Q_DESC && off < VIRTIO_PCI_Q_NOTIFY_DATA) {
		virtio_set_area(q, area_at(q, off), off & 4, val);
		return;
	}
	if (size != 2)
		return;
	switch (off) {
	case VIRTIO_PCI_Q_SIZE: virtio_set_queue_size(q, val); break;
	case VIRTIO_PCI_Q_VECTOR: q->s.vector = vector_of(p, val); break;
	case VIRTIO_PCI_Q_ENABLE:
		if (val == 1)
			virtio_enable_queue(p->v, q);
		break;
	case VIRTIO_PCI_Q_RESET:
		if (val == 1 && virtio_has(p->v, VIRTIO_F_RING_RESET))
			virtio_reset_queue(p->v, q);
		break;
	default: break;
	}
}

/* Only whole fields, as drivers must (4.1.3.1). */
static void common_write(struct virtio_pci *p, u64 off, u32 val, unsigned size)
{
	struct virtio *v = p->v;

	if (v->resetting && off != VIRTIO_PCI_STATUS)
		return;
	switch (off) {
	case VIRTIO_PCI_DFSELECT:
		if (size == 4)
			v->s.device_feature_select = val;
		break;
	case VIRTIO_PCI_GFSELECT:
		if (size == 4)
			v->s.driver_feature_select = val;
		break;
	case VIRTIO_PCI_GF:
		if (size == 4)
			virtio_set_features(v, val);
		break;
	case VIRTIO_PCI_CONFIG_VECTOR:
		if (size == 2)
			v->s.config_vector = vector_of(p, val);
		break;
	case VIRTIO_PCI_STATUS:
		if (size == 1)
			set_status(p, (u8)val);
		break;
	case VIRTIO_PCI_Q_SELECT:
		if (size == 2)
			v->s.queue_select = (u16)val;
		break;
	default: queue_write(p, off, val, size); break;
	}
}

/* What is where in BAR 4: one page each. */
static u64 modern_read(void *opaque, u64 off, unsigned size)
{
	struct virtio_pci *p = opaque;
	u64 in = off & 0xfff, val = 0;

	pthread_mutex_lock(&p->v->lock);
	switch (off & ~0xfffu) {
	case VIRTIO_PCI_COMMON: val = common_read(p, in, size); break;
	case VIRTIO_PCI_ISR:
		if (!in)
			val = isr_read(p);
		break;
	case VIRTIO_PCI_DEVICE: val = virtio_config_read(p->v, in, size); break;
	default: break;
	}
	pthread_mutex_unlock(&p->v->lock);
	return val;
}

static void modern_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct virtio_pci *p = opaque;
	u64 in = off & 0xfff, window = off & ~0xfffu;

	if (window == VIRTIO_PCI_NOTIFY) {
		virtio_notify(p->v, (unsigned)in / VIRTIO_PCI_NOTIFY_MULTIPLIER);
		return;
	}
	pthread_mutex_lock(&p->v->lock);
	switch (window) {
	case VIRTIO_PCI_COMMON: common_write(p, in, (u32)val, size); break;
	case VIRTIO_PCI_DEVICE: virtio_config_write(p->v, in, (u32)val, size); break;
	default: break;
	}
	pthread_mutex_unlock(&p->v->lock);
}

static const struct io_ops modern_ops = {
	.read = modern_read,
	.write = modern_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

/* ---- legacy: lock held ---- */

/* Where the device's configuration begins. */
static u64 legacy_header(const struct virtio_pci *p)
{
	return msix_enabled(p->msix) ? 24 : 20;
}

static u32 legacy_read_register(struct virtio_pci *p, u64 off)
{
	struct virtio *v = p->v;
	const struct vq *q = virtio_selected(v);

	switch (off) {
	case VIRTIO_LEGACY_DF: return (u32)v->features;
	case VIRTIO_LEGACY_GF: return (u32)v->s.driver_features;
	case VIRTIO_LEGACY_Q_PFN:
		return q && q->s.enabled ? (u32)(q->s.desc >> LEGACY_PAGE) : 0;
	case VIRTIO_LEGACY_Q_SIZE: return q ? q->size_max : 0;
	case VIRTIO_LEGACY_Q_SELECT: return v->s.queue_select;
	case VIRTIO_LEGACY_STATUS: return virtio_get_status(v);
	case VIRTIO_LEGACY_ISR: return isr_read(p);
	case VIRTIO_LEGACY_CONFIG_VECTOR: return v->s.config_vector;
	case VIRTIO_LEGACY_Q_VECTOR: return q ? q->s.vector : VIRTIO_NO_VECTOR;
	default: return 0;
	}
}

static u64 legacy_read(void *opaque, u64 off, unsigned size)
{
	struct virtio_pci *p = opaque;
	u64 header = legacy_header(p), val;

	pthread_mutex_lock(&p->v->lock);
	if (off < header)
		val = legacy_read_register(p, off);
	else
		val = virtio_config_read(p->v, off - header, size);
	pthread_mutex_unlock(&p->v->lock);
	return val;
}

/* 2.7.2: all in one piece, the used ring on the next page. */
static void legacy_place(struct virtio_pci *p, u32 pfn)
{
	struct vq *q = virtio_selected(p->v);
	u64 base = (u64)pfn << LEGACY_PAGE;
	u16 vector;

	if (!q)
		return;
	if (!pfn) {
		/* Linux does it before it forgets a queue; vectors stay. */
		vector = q->s.vector;
		virtio_reset_queue(p->v, q);
		if (!q->resetting)
			q->s.vector = vector;
		return;
	}
	if (q->s.enabled)
		return;
	q->s.size = q->size_max;
	q->s.desc = base;
	q->s.driver = base + 16ul * q->s.size;
	q->s.device = align_up(q->s.driver + 4 + 2ul * q->s.size + 2, BIT(LEGACY_PAGE));
	virtio_enable_queue(p->v, q);
}

/*
 * A legacy driver does not wait for a reset to complete, so it is waited for here; what
 * it waits for are requests under way, which other threads complete.
 */
static void legacy_status(struct virtio_pci *p, u8 status)
{
	set_status(p, status);
	if (status)
		return;
	virtio_drain(p->v);
}

static void legacy_write_register(struct virtio_pci *p, u64 off, u32 val)
{
	struct virtio *v = p->v;
	struct vq *q = virtio_selected(v);

	switch (off) {
	case VIRTIO_LEGACY_GF:
		v->s.driver_feature_select = 0;
		virtio_set_features(v, val & (u32)v->features);
		break;
	case VIRTIO_LEGACY_Q_PFN: legacy_place(p, val); break;
	case VIRTIO_LEGACY_Q_SELECT: v->s.queue_select = (u16)val; break;
	case VIRTIO_LEGACY_STATUS: legacy_status(p, (u8)val); break;
	case VIRTIO_LEGACY_CONFIG_VECTOR: v->s.config_vector = vector_of(p, val); break;
	case VIRTIO_LEGACY_Q_VECTOR:
		if (q)
			q->s.vector = vector_of(p, val);
		break;
	default: break;
	}
}

static void legacy_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct virtio_pci *p = opaque;
	u64 header = legacy_header(p);

	if (off == VIRTIO_LEGACY_Q_NOTIFY) {
		virtio_notify(p->v, val & 0xffff);
		return;
	}
	pthread_mutex_lock(&p->v->lock);
	if (!p->v->resetting) {
		/* Whoever writes here does not know of version 1. */
		if (off == VIRTIO_LEGACY_STATUS && !(p->v->s.status & VIRTIO_FEATURES_OK))
			p->v->s.legacy = 1;
		if (off < header)
			legacy_write_register(p, off, (u32)val);
		else
			virtio_config_write(p->v, off - header, (u32)val, size);
	}
	pthread_mutex_unlock(&p->v->lock);
}

static const struct io_ops legacy_ops = {
	.read = legacy_read,
	.write = legacy_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

/* ---- configuration space ---- */

/* 4.1.4.9: offset and length of the window that the driver chose; false: not allowed. */
static bool window_place(const struct virtio_pci *p, u32 *off, unsigned *size)
{
	u32 len = pci_config_get(p->dev, p->window + CAP_LENGTH, 4);

	*off = pci_config_get(p->dev, p->window + CAP_OFFSET, 4);
	*size = len;
	return pci_config_get(p->dev, p->window + CAP_BAR, 1) == BAR_MODERN &&
	       (len == 1 || len == 2 || len == 4) && !(*off & (len - 1)) &&
	       *off < VIRTIO_PCI_BAR_SIZE;
}

static bool touches_data(const struct virtio_pci *p, unsigned off, unsigned size)
{
	unsigned data = p->window + CAP_DATA;

	return p->window && off < data + 4 && off + size > data;
}

static void config_reading(void *opaque, unsigned off, unsigned size)
{
	struct virtio_pci *p = opaque;
	unsigned len;
	u32 at;

	if (touches_data(p, off, size) && window_place(p, &at, &len))
		pci_config_set(p->dev, p->window + CAP_DATA, 4,
			       (u32)modern_read(p, at, len));
}

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct virtio_pci *p = opaque;
	unsigned len;
	u32 at;

	if (p->msix)
		msix_config_written(p->msix, off, size);
	/* After a reset or load comes the whole space: that is no access. */
	if (size > 4 || !touches_data(p, off, size) || !window_place(p, &at, &len))
		return;
	modern_write(p, at,
		     pci_config_get(p->dev, p->window + CAP_DATA, 4) & size_mask(len),
		     len);
}

/* One capability; returns its offset, or -ENOSPC. */
static int add_cap(struct virtio_pci *p, unsigned type, unsigned len, u32 offset,
		   u32 length)
{
	int cap = pci_add_cap(p->dev, PCI_CAP_VENDOR, len);
	unsigned at = (unsigned)cap;

	if (cap < 0)
		return cap;
	pci_config_set(p->dev, at + 2, 1, len);
	pci_config_set(p->dev, at + 3, 1, type);
	pci_config_set(p->dev, at + CAP_BAR, 1, BAR_MODERN);
	pci_config_set(p->dev, at + CAP_OFFSET, 4, offset);
	pci_config_set(p->dev, at + CAP_LENGTH, 4, length);
	return cap;
}

static int add_caps(struct virtio_pci *p, struct error *err)
{
	u32 notify_len = MAX(p->v->queues, 1u) * VIRTIO_PCI_NOTIFY_MULTIPLIER;
	int notify, window;

	if (add_cap(p, CAP_COMMON, CAP_LEN, VIRTIO_PCI_COMMON, VIRTIO_PCI_COMMON_SIZE) <
		    0 ||
	    add_cap(p, CAP_ISR, CAP_LEN, VIRTIO_PCI_ISR, 1) < 0 ||
	    (p->v->config_size &&
	     add_cap(p, CAP_DEVICE, CAP_LEN, VIRTIO_PCI_DEVICE, p->v->config_size) < 0) ||
	    (notify = add_cap(p, CAP_NOTIFY, CAP_NOTIFY_LEN, VIRTIO_PCI_NOTIFY,
			      notify_len)) < 0 ||
	    (window = add_cap(p, CAP_PCI, CAP_PCI_LEN, 0, 0)) < 0)
		return error_set(err, -ENOSPC, "no room for virtio capabilities");
	pci_config_set(p->dev, (unsigned)notify + CAP_DATA, 4,
		       VIRTIO_PCI_NOTIFY_MULTIPLIER);
	p->window = (unsigned)window;
	pci_config_set(p->dev, p->window + CAP_BAR, 1, 0);
	pci_config_writable(p->dev, p->window + CAP_BAR, 1, 0xff);
	pci_config_writable(p->dev, p->window + CAP_OFFSET, 4, ~0u);
	pci_config_writable(p->dev, p->window + CAP_LENGTH, 4, ~0u);
	pci_config_writable(p->dev, p->window + CAP_DATA, 4, ~0u);
	return 0;
}

/* ---- set-up and state ---- */

/* 4.1.2.1: of a transitional device. */
static u16 legacy_id(u16 id)
{
	static const u16 ids[] = {
		[VIRTIO_ID_NET] = 0x1000,     [VIRTIO_ID_BLOCK] = 0x1001,
		[VIRTIO_ID_CONSOLE] = 0x1003, [VIRTIO_ID_RNG] = 0x1005,
		[VIRTIO_ID_BALLOON] = 0x1002,
	};

	return id < ARRAY_SIZE(ids) ? ids[id] : 0;
}

struct virtio_pci *virtio_pci_new(struct virtio *v, const struct virtio_pci_config *cfg,
				  struct error *err)
{
	struct virtio_pci *p = xzalloc(sizeof(*p));
	struct pci_desc d = {
		.name = v->class->name,
		.vendor = VENDOR,
		.device = cfg->legacy ? legacy_id(v->class->id) : 0x1040 + v->class->id,
		.subsys_vendor = VENDOR,
		.subsys_device = cfg->legacy ? v->class->id : 0x1100,
		.class_code = v->class->class_code,
		.revision = cfg->legacy ? 0 : 1,
		.pin = 1,
		.config_written = config_written,
		.config_reading = config_reading,
		.opaque = p,
	};

	p->v = v;
	p->legacy = cfg->legacy;
	p->vectors = v->queues + 1;
	p->dev = pci_add(cfg->host, cfg->devfn, &d, err);
	if (!p->dev)
		goto fail;
	p->msix = msix_new(p->dev, p->vectors, BAR_MSIX, 0, msix_bar_pba_off(p->vectors),
			   cfg->msi, err);
	if (!p->msix || add_caps(p, err))
		goto fail;
	if (cfg->legacy)
		pci_set_bar(p->dev, BAR_LEGACY, PCI_BAR_IO, LEGACY_BAR_SIZE, false,
			    &legacy_ops, p);
	pci_set_bar(p->dev, BAR_MSIX, PCI_BAR_MEM32, msix_bar_size(p->vectors), false,
		    &msix_bar_ops, p->msix);
	pci_set_bar(p->dev, BAR_MODERN, PCI_BAR_MEM64, VIRTIO_PCI_BAR_SIZE, true,
		    &modern_ops, p);
	v->transport = (struct virtio_transport){ queue_irq, config_irq, p };
	return p;
fail:
	virtio_pci_free(p);
	return NULL;
}

void virtio_pci_free(struct virtio_pci *p)
{
	if (!p)
		return;
	p->v->transport = (struct virtio_transport){ 0 };
	msix_free(p->msix);
	pci_remove(p->dev);
	free(p);
}

struct pci_dev *virtio_pci_dev(struct virtio_pci *p)
{
	return p->dev;
}

void virtio_pci_reset(struct virtio_pci *p)
{
	virtio_reset(p->v);
	pci_reset(p->dev);
	msix_reset(p->msix);
}

void virtio_pci_save(struct virtio_pci *p, struct state_buf *b)
{
	virtio_save(p->v, b, pci_devfn(p->dev));
	pci_save(p->dev, b);
	msix_save(p->msix, b);
}

int virtio_pci_load(struct virtio_pci *p, struct state_buf *b, struct error *err)
{
	int ret = virtio_load(p->v, b, pci_devfn(p->dev), err);

	if (!ret)
		ret = pci_load(p->dev, b, err);
	if (!ret)
		ret = msix_load(p->msix, b, err);
	return ret;
}
