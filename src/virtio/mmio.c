/*
 * Virtio over MMIO: registers, notifications, one interrupt.
 *
 * Virtual I/O Device specification 1.2, section 4.2, version 2 of the interface.
 * Deliberately missing: the legacy interface (4.2.4), shared memory, notification data.
 *
 * The interrupt is a level. Should the input take edges, what is left to acknowledge
 * makes another one.
 *
 * Locks: all under v->lock.
 */
#include "virtio/mmio.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"

#define VERSION 2
#define VENDOR  0x1af4 /* as on PCI; drivers do not look at it */

struct virtio_mmio {
	struct virtio *v;
	struct irq_line irq;
	u32 instance;
};

/* ---- interrupts; lock held ---- */

static void interrupt(struct virtio_mmio *m, u8 bit)
{
	m->v->s.isr |= bit;
	irq_raise(&m->irq);
}

static void queue_irq(void *opaque, unsigned queue)
{
	(void)queue;
	interrupt(opaque, VIRTIO_MMIO_INT_VRING);
}

static void config_irq(void *opaque)
{
	interrupt(opaque, VIRTIO_MMIO_INT_CONFIG);
}

static void acknowledge(struct virtio_mmio *m, u32 bits)
{
	m->v->s.isr &= (u8)~bits;
	irq_lower(&m->irq);
	irq_set(&m->irq, m->v->s.isr);
}

/* ---- registers; lock held ---- */

static u32 read_register(struct virtio_mmio *m, u64 off)
{
	struct virtio *v = m->v;
	const struct vq *q = virtio_selected(v);

	switch (off) {
	case VIRTIO_MMIO_MAGIC_VALUE: return VIRTIO_MMIO_MAGIC;
	case VIRTIO_MMIO_VERSION: return VERSION;
	case VIRTIO_MMIO_DEVICE_ID: return v->class->id;
	case VIRTIO_MMIO_VENDOR_ID: return VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES: return virtio_get_features(v);
	case VIRTIO_MMIO_QUEUE_NUM_MAX: return q ? q->size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY: return q ? q->s.enabled : 0;
	case VIRTIO_MMIO_QUEUE_RESET: return q ? q->resetting : 0;
	case VIRTIO_MMIO_INTERRUPT_STATUS: return v->s.isr;
	case VIRTIO_MMIO_STATUS: return virtio_get_status(v);
	case VIRTIO_MMIO_CONFIG_GENERATION: return virtio_get_generation(v);
	/* 4.2.2.1: all ones say that there is no such region. */
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH: return UINT32_MAX;
	default: return 0;
	}
}

/*
 * Drivers write 0 and go on at once, so what is under way is waited for here; other
 * threads complete it.
 */
static void write_status(struct virtio_mmio *m, u8 status)
{
	virtio_set_status(m->v, status);
	if (!status)
		virtio_drain(m->v);
	if (!m->v->s.isr)
		irq_lower(&m->irq);
}

static void write_queue(struct virtio_mmio *m, struct vq *q, u64 off, u32 val)
{
	switch (off) {
	case VIRTIO_MMIO_QUEUE_NUM: virtio_set_queue_size(q, val); break;
	case VIRTIO_MMIO_QUEUE_READY:
		if (val == 1) {
			virtio_enable_queue(m->v, q);
		} else if (!val && q->s.enabled) {
			/* Reading it back is to say that it has stopped. */
			virtio_reset_queue(m->v, q);
			virtio_drain_queue(m->v, q);
		}
		break;
	case VIRTIO_MMIO_QUEUE_RESET:
		if (val == 1 && virtio_has(m->v, VIRTIO_F_RING_RESET))
			virtio_reset_queue(m->v, q);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		virtio_set_area(q, &q->s.desc, off & 4, val);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		virtio_set_area(q, &q->s.driver, off & 4, val);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		virtio_set_area(q, &q->s.device, off & 4, val);
		break;
	default: break;
	}
}

static void write_register(struct virtio_mmio *m, u64 off, u32 val)
{
	struct virtio *v = m->v;
	struct vq *q = virtio_selected(v);

	switch (off) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL: v->s.device_feature_select = val; break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL: v->s.driver_feature_select = val; break;
	case VIRTIO_MMIO_DRIVER_FEATURES: virtio_set_features(v, val); break;
	/* What does not fit is no queue either. */
	case VIRTIO_MMIO_QUEUE_SEL: v->s.queue_select = (u16)MIN(val, 0xffffu); break;
	case VIRTIO_MMIO_INTERRUPT_ACK: acknowledge(m, val); break;
	case VIRTIO_MMIO_STATUS: write_status(m, (u8)val); break;
	default:
		if (q)
			write_queue(m, q, off, val);
		break;
	}
}

/* 4.2.2.2: registers are read and written whole, the configuration as it is laid out. */
static u64 mmio_read(void *opaque, u64 off, unsigned size)
{
	struct virtio_mmio *m = opaque;
	u64 val = 0;

	pthread_mutex_lock(&m->v->lock);
	if (off >= VIRTIO_MMIO_CONFIG)
		val = virtio_config_read(m->v, off - VIRTIO_MMIO_CONFIG, size);
	else if (size == 4)
		val = read_register(m, off);
	pthread_mutex_unlock(&m->v->lock);
	return val;
}

static void mmio_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct virtio_mmio *m = opaque;

	if (off == VIRTIO_MMIO_QUEUE_NOTIFY && size == 4) {
		virtio_notify(m->v, (u32)val);
		return;
	}
	pthread_mutex_lock(&m->v->lock);
	if (off >= VIRTIO_MMIO_CONFIG)
		virtio_config_write(m->v, off - VIRTIO_MMIO_CONFIG, (u32)val, size);
	else if (size == 4 && !m->v->resetting)
		write_register(m, off, (u32)val);
	pthread_mutex_unlock(&m->v->lock);
}

const struct io_ops virtio_mmio_ops = {
	.read = mmio_read,
	.write = mmio_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

/* ---- set-up and state ---- */

struct virtio_mmio *virtio_mmio_new(struct virtio *v, struct irq_line irq, u32 instance)
{
	struct virtio_mmio *m = xzalloc(sizeof(*m));

	*m = (struct virtio_mmio){ .v = v, .irq = irq, .instance = instance };
	v->transport = (struct virtio_transport){ queue_irq, config_irq, m };
	return m;
}

void virtio_mmio_free(struct virtio_mmio *m)
{
	if (!m)
		return;
	m->v->transport = (struct virtio_transport){ 0 };
	free(m);
}

void virtio_mmio_reset(struct virtio_mmio *m)
{
	virtio_reset(m->v);
	irq_lower(&m->irq);
}

void virtio_mmio_save(struct virtio_mmio *m, struct state_buf *b)
{
	virtio_save(m->v, b, m->instance);
}

int virtio_mmio_load(struct virtio_mmio *m, struct state_buf *b, struct error *err)
{
	int ret = virtio_load(m->v, b, m->instance, err);

	irq_set(&m->irq, m->v->s.isr);
	return ret;
}
