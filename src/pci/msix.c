/*
 * Message-signalled interrupts of a PCI function: the MSI and the MSI-X capability.
 *
 * PCI Local Bus Specification 3.0, sections 6.8.1 (MSI) and 6.8.2 (MSI-X). The
 * registers in configuration space are kept by pci/pci.c and copied here when the guest
 * writes them; the MSI-X table and pending bits are here. Deliberately missing:
 * per-vector masks of MSI, which are optional.
 *
 * I1 A pending bit of MSI-X is set only while the vector cannot be sent: whatever
 *    unmasks it sends it, under the same lock, so none is lost or sent twice.
 *
 * Lock: one in each object, covers all of it. It comes after device locks, and is held
 * while a message is sent, so that none comes after the guest masked it.
 */
#include "pci/msix.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"

/* The function may send: a message is a memory write of a bus master. */
static void send(struct pci_dev *dev, const struct msi_sink *sink, u64 addr, u32 data)
{
	if (pci_is_master(dev))
		msi_send(sink, addr, data);
}

static bool touches(unsigned off, unsigned size, int cap, unsigned len)
{
	return off < (unsigned)cap + len && off + size > (unsigned)cap;
}

/* ---- MSI ---- */

#define MSI_CAP_LEN 14

/* Offsets in the capability, and bits of the control register. */
enum { MSI_CTRL = 2, MSI_ADDR = 4, MSI_ADDR_HI = 8, MSI_DATA = 12 };
enum { MSI_ENABLE = 0x0001, MSI_MME = 0x0070, MSI_64 = 0x0080 };

struct msi {
	struct pci_dev *dev;
	struct msi_sink sink;
	int cap;
	pthread_mutex_t lock;
	bool enabled;
	unsigned count; /* vectors the guest enabled */
	u64 addr;
	u32 data;
};

struct msi *msi_new(struct pci_dev *dev, unsigned vectors, struct msi_sink sink,
		    struct error *err)
{
	int cap = pci_add_cap(dev, PCI_CAP_MSI, MSI_CAP_LEN);
	struct msi *m;

	if (cap < 0) {
		error_set(err, cap, "no room for an MSI capability");
		return NULL;
	}
	m = xzalloc(sizeof(*m));
	pthread_mutex_init(&m->lock, NULL);
	m->dev = dev;
	m->sink = sink;
	m->cap = cap;
	pci_config_set(dev, (unsigned)cap + MSI_CTRL, 2,
		       MSI_64 | (unsigned)__builtin_ctz(vectors) << 1);
	pci_config_writable(dev, (unsigned)cap + MSI_CTRL, 2, MSI_ENABLE | MSI_MME);
	pci_config_writable(dev, (unsigned)cap + MSI_ADDR, 4, ~3u);
	pci_config_writable(dev, (unsigned)cap + MSI_ADDR_HI, 4, ~0u);
	pci_config_writable(dev, (unsigned)cap + MSI_DATA, 2, 0xffff);
	msi_config_written(m, (unsigned)cap, MSI_CAP_LEN);
	return m;
}

void msi_free(struct msi *m)
{
	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m);
}

void msi_config_written(struct msi *m, unsigned off, unsigned size)
{
	unsigned cap = (unsigned)m->cap, ctrl, mme, mmc;

	if (!touches(off, size, m->cap, MSI_CAP_LEN))
		return;
	pthread_mutex_lock(&m->lock);
	ctrl = pci_config_get(m->dev, cap + MSI_CTRL, 2);
	/* More than the function has, or a reserved encoding: all it has. */
	mmc = (unsigned)bits_get(ctrl, 3, 1);
	mme = (unsigned)bits_get(ctrl, 6, 4);
	m->count = 1u << MIN(mme, mmc);
	m->addr = pci_config_get(m->dev, cap + MSI_ADDR, 4) |
		  (u64)pci_config_get(m->dev, cap + MSI_ADDR_HI, 4) << 32;
	m->data = pci_config_get(m->dev, cap + MSI_DATA, 2);
	__atomic_store_n(&m->enabled, ctrl & MSI_ENABLE, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&m->lock);
}

bool msi_enabled(const struct msi *m)
{
	return __atomic_load_n(&m->enabled, __ATOMIC_RELAXED);
}

bool msi_notify(struct msi *m, unsigned vector)
{
	bool enabled;

	pthread_mutex_lock(&m->lock);
	enabled = m->enabled;
	if (enabled)
		send(m->dev, &m->sink, m->addr,
		     (m->data & ~(m->count - 1)) | (vector & (m->count - 1)));
	pthread_mutex_unlock(&m->lock);
	return enabled;
}

/* ---- MSI-X ---- */

#define MSIX_CAP_LEN 12
#define ENTRY_SIZE   16u

enum { MSIX_CTRL = 2, MSIX_TABLE = 4, MSIX_PBA = 8 };
enum { MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000 };
/* Words of a table entry. */
enum { ENTRY_ADDR, ENTRY_ADDR_HI, ENTRY_DATA, ENTRY_CTRL };
enum { ENTRY_MASKED = 1 };

/*
 * The guest-visible state is as long as the function has vectors, so its
 * description is made with it.
 */
struct msix {
	struct pci_dev *dev;
	struct msi_sink sink;
	int cap;
	unsigned vectors;
	pthread_mutex_t lock;
	bool enabled, mask_all;
	u8 *state;    /* table, then pending bits */
	u32 *table;   /* 4 words for each vector */
	u64 *pending; /* a bit for each vector */
	struct state_field fields[3];
	struct state_desc desc;
};

u32 msix_table_size(const struct msix *m)
{
	return m->vectors * ENTRY_SIZE;
}

u32 msix_pba_size(const struct msix *m)
{
	return (m->vectors + 63) / 64 * 8;
}

static void table_reset(struct msix *m)
{
	memset(m->state, 0, m->desc.size);
	/* 6.8.2.9: the mask bit is set after reset. */
	for (unsigned i = 0; i < m->vectors; i++)
		m->table[4 * i + ENTRY_CTRL] = ENTRY_MASKED;
}

static void describe(struct msix *m)
{
	u32 words = m->vectors * (ENTRY_SIZE / 4), bits = msix_pba_size(m) / 8;

	m->fields[0] = (struct state_field){
		.name = "table", .offset = 0, .elem_size = 4, .since = 1, .count = words
	};
	m->fields[1] = (struct state_field){ .name = "pending",
					     .offset = 4 * words,
					     .elem_size = 8,
					     .since = 1,
					     .count = bits };
	m->desc = (struct state_desc){ .name = "msix",
				       .size = 4 * words + 8 * bits,
				       .version = 1,
				       .fields = m->fields };
	m->state = xzalloc(m->desc.size);
	m->table = (u32 *)(void *)m->state;
	m->pending = (u64 *)(void *)(m->state + 4 * words);
}

struct msix *msix_new(struct pci_dev *dev, unsigned vectors, unsigned bar, u32 table_off,
		      u32 pba_off, struct msi_sink sink, struct error *err)
{
	int cap = pci_add_cap(dev, PCI_CAP_MSIX, MSIX_CAP_LEN);
	struct msix *m;

	if (cap < 0) {
		error_set(err, cap, "no room for an MSI-X capability");
		return NULL;
	}
	m = xzalloc(sizeof(*m));
	pthread_mutex_init(&m->lock, NULL);
	m->dev = dev;
	m->sink = sink;
	m->cap = cap;
	m->vectors = vectors;
	describe(m);
	table_reset(m);
	pci_config_set(dev, (unsigned)cap + MSIX_CTRL, 2, vectors - 1);
	pci_config_writable(dev, (unsigned)cap + MSIX_CTRL, 2,
			    MSIX_ENABLE | MSIX_MASK_ALL);
	pci_config_set(dev, (unsigned)cap + MSIX_TABLE, 4, table_off | bar);
	pci_config_set(dev, (unsigned)cap + MSIX_PBA, 4, pba_off | bar);
	return m;
}

void msix_free(struct msix *m)
{
	if (!m)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m->state);
	free(m);
}

/* ---- lock held ---- */

static bool can_send(const struct msix *m, unsigned vector)
{
	return m->enabled && !m->mask_all &&
	       !(m->table[4 * vector + ENTRY_CTRL] & ENTRY_MASKED);
}

static void send_vector(struct msix *m, unsigned vector)
{
	const u32 *e = &m->table[4 * vector];

	send(m->dev, &m->sink, e[ENTRY_ADDR] | (u64)e[ENTRY_ADDR_HI] << 32,
	     e[ENTRY_DATA]);
}

/* I1. */
static void send_pending(struct msix *m, unsigned vector)
{
	u64 bit = BIT(vector % 64);

	if (!(m->pending[vector / 64] & bit) || !can_send(m, vector))
		return;
	m->pending[vector / 64] &= ~bit;
	send_vector(m, vector);
}

void msix_config_written(struct msix *m, unsigned off, unsigned size)
{
	unsigned ctrl;

	if (!touches(off, size, m->cap, MSIX_CAP_LEN))
		return;
	pthread_mutex_lock(&m->lock);
	ctrl = pci_config_get(m->dev, (unsigned)m->cap + MSIX_CTRL, 2);
	__atomic_store_n(&m->enabled, ctrl & MSIX_ENABLE, __ATOMIC_RELAXED);
	m->mask_all = ctrl & MSIX_MASK_ALL;
	for (unsigned i = 0; i < m->vectors; i++)
		send_pending(m, i);
	pthread_mutex_unlock(&m->lock);
}

bool msix_enabled(const struct msix *m)
{
	return __atomic_load_n(&m->enabled, __ATOMIC_RELAXED);
}

bool msix_notify(struct msix *m, unsigned vector)
{
	bool enabled;

	pthread_mutex_lock(&m->lock);
	enabled = m->enabled;
	if (enabled && vector < m->vectors) {
		if (can_send(m, vector))
			send_vector(m, vector);
		else
			m->pending[vector / 64] |= BIT(vector % 64);
	}
	pthread_mutex_unlock(&m->lock);
	return enabled;
}

/* ---- table and pending bits as the guest sees them ---- */

static u64 table_read(void *dev, u64 off, unsigned size)
{
	struct msix *m = dev;
	u64 v = 0;

	if (off >= msix_table_size(m))
		return v;
	pthread_mutex_lock(&m->lock);
	v = le_load(m->state + off, size);
	pthread_mutex_unlock(&m->lock);
	return v;
}

static void table_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct msix *m = dev;
	unsigned vector = (unsigned)(off / ENTRY_SIZE);
	u32 *e;

	if (off >= msix_table_size(m))
		return;
	pthread_mutex_lock(&m->lock);
	le_store(m->state + off, val, size);
	e = &m->table[4 * vector];
	e[ENTRY_ADDR] &= ~3u; /* 6.8.2.7: double words only */
	e[ENTRY_CTRL] &= ENTRY_MASKED;
	send_pending(m, vector);
	pthread_mutex_unlock(&m->lock);
}

static u64 pba_read(void *dev, u64 off, unsigned size)
{
	struct msix *m = dev;
	u64 v = 0;

	if (off >= msix_pba_size(m))
		return v;
	pthread_mutex_lock(&m->lock);
	v = le_load((const u8 *)m->pending + off, size);
	pthread_mutex_unlock(&m->lock);
	return v;
}

static void pba_write(void *dev, u64 off, u64 val, unsigned size)
{
	/* 6.8.2.10: software should not write, and nothing happens. */
	(void)dev;
	(void)off;
	(void)val;
	(void)size;
}

const struct io_ops msix_table_ops = {
	.read = table_read,
	.write = table_write,
	.sizes = IO_4 | IO_8,
};
const struct io_ops msix_pba_ops = {
	.read = pba_read,
	.write = pba_write,
	.sizes = IO_4 | IO_8,
};

/* Half of the BAR is the table, half the pending bits: nothing else shares it. */
u32 msix_bar_pba_off(unsigned vectors)
{
	u32 half = 2048;

	while (half < vectors * ENTRY_SIZE)
		half *= 2;
	return half;
}

u32 msix_bar_size(unsigned vectors)
{
	return 2 * msix_bar_pba_off(vectors);
}

static u64 bar_read(void *dev, u64 off, unsigned size)
{
	const struct msix *m = dev;
	u32 half = msix_bar_pba_off(m->vectors);

	return off < half ? table_read(dev, off, size) : pba_read(dev, off - half, size);
}

static void bar_write(void *dev, u64 off, u64 val, unsigned size)
{
	const struct msix *m = dev;

	if (off < msix_bar_pba_off(m->vectors))
		table_write(dev, off, val, size);
}

const struct io_ops msix_bar_ops = {
	.read = bar_read,
	.write = bar_write,
	.sizes = IO_4 | IO_8,
};

/* ---- state ---- */

void msix_reset(struct msix *m)
{
	pthread_mutex_lock(&m->lock);
	table_reset(m);
	pthread_mutex_unlock(&m->lock);
}

const struct state_desc *msix_desc(const struct msix *m)
{
	return &m->desc;
}

void msix_save(const struct msix *m, struct state_buf *b)
{
	state_save(b, &m->desc, pci_devfn(m->dev), m->state);
}

int msix_load(struct msix *m, struct state_buf *b, struct error *err)
{
	u32 instance = pci_devfn(m->dev);
	int ret;

	pthread_mutex_lock(&m->lock);
	ret = state_load(b, &m->desc, instance, m->state, err);
	for (unsigned i = 0; !ret && i < m->vectors; i++) {
		m->table[4 * i + ENTRY_ADDR] &= ~3u;
		m->table[4 * i + ENTRY_CTRL] &= ENTRY_MASKED;
	}
	pthread_mutex_unlock(&m->lock);
	return ret;
}
