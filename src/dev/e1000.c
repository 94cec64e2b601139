/*
 * Intel 82540EM network card: registers, EEPROM, PHY, interrupts, PCI function, state.
 *
 * Intel 317453 (PCI/PCI-X family software developer's manual). Deliberately missing: VLAN
 * tagging and filter, wake-up, flow control, interrupt moderation (registers are
 * stored), statistics but for good frames and bytes, EEPROM writes, MSI.
 *
 * Frames move on the network's thread (e1000_ring.c); all DMA is done with the lock held,
 * so that a reset is complete at once.
 *
 * Lock: d->lock, below the PCI configuration lock, above the pin.
 */
#include "dev/e1000.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "dev/e1000_regs.h"
#include "pci/host.h"
#include "pci/pci.h"

#define IO_SIZE 64

enum { CTRL_FD = 1, CTRL_SLU = 0x40, CTRL_PHY_RST = 1 << 31 };
#define CTRL_RST BIT(26)
/* Full duplex, link up, 1000 Mbit/s. */
#define STATUS   0x00000083u
/* EECD */
enum { EE_SK = 1, EE_CS = 2, EE_DI = 4, EE_DO = 8, EE_REQ = 0x40, EE_GNT = 0x80 };
enum { EE_PRES = 0x100, EE_WORDS = 64, EE_READ = 6, EE_COMMAND = 9 };
#define MDIC_READY BIT(28)
#define MDIC_IRQ   BIT(29)
#define MDIC_ERROR BIT(30)

static const struct state_field e1000_fields[] = {
	STATE_FIELD(struct e1000_state, rdba, 1),
	STATE_FIELD(struct e1000_state, tdba, 1),
	STATE_FIELD(struct e1000_state, rx_bytes, 1),
	STATE_FIELD(struct e1000_state, tx_bytes, 1),
	STATE_FIELD(struct e1000_state, rdlen, 1),
	STATE_FIELD(struct e1000_state, rdh, 1),
	STATE_FIELD(struct e1000_state, rdt, 1),
	STATE_FIELD(struct e1000_state, tdlen, 1),
	STATE_FIELD(struct e1000_state, tdh, 1),
	STATE_FIELD(struct e1000_state, tdt, 1),
	STATE_FIELD(struct e1000_state, ctrl, 1),
	STATE_FIELD(struct e1000_state, eecd, 1),
	STATE_FIELD(struct e1000_state, eerd, 1),
	STATE_FIELD(struct e1000_state, mdic, 1),
	STATE_FIELD(struct e1000_state, icr, 1),
	STATE_FIELD(struct e1000_state, itr, 1),
	STATE_FIELD(struct e1000_state, ims, 1),
	STATE_FIELD(struct e1000_state, rctl, 1),
	STATE_FIELD(struct e1000_state, tctl, 1),
	STATE_FIELD(struct e1000_state, pba, 1),
	STATE_FIELD(struct e1000_state, rxcsum, 1),
	STATE_FIELD(struct e1000_state, rx_frames, 1),
	STATE_FIELD(struct e1000_state, tx_frames, 1),
	STATE_ARRAY(struct e1000_state, mta, 1),
	STATE_ARRAY(struct e1000_state, ra, 1),
	STATE_ARRAY(struct e1000_state, vfta, 1),
	STATE_ARRAY(struct e1000_state, phy, 1),
	STATE_FIELD(struct e1000_state, ee_in, 1),
	STATE_FIELD(struct e1000_state, ee_out, 1),
	STATE_FIELD(struct e1000_state, ee_bits, 1),
	STATE_FIELD(struct e1000_state, ee_reading, 1),
	STATE_FIELD(struct e1000_state, ipcss, 1),
	STATE_FIELD(struct e1000_state, ipcso, 1),
	STATE_FIELD(struct e1000_state, tucss, 1),
	STATE_FIELD(struct e1000_state, tucso, 1),
	STATE_FIELD(struct e1000_state, hdrlen, 1),
	STATE_FIELD(struct e1000_state, tucmd, 1),
	STATE_FIELD(struct e1000_state, ipcse, 1),
	STATE_FIELD(struct e1000_state, mss, 1),
	STATE_FIELD(struct e1000_state, ioaddr, 1),
	{ 0 },
};

/* Rings are checked whenever they are used: a guest can write anything. */
static bool e1000_valid(const void *state)
{
	const struct e1000_state *s = state;

	return s->ee_reading <= 1;
}

const struct state_desc e1000_desc = {
	.name = "e1000",
	.size = sizeof(struct e1000_state),
	.version = 1,
	.fields = e1000_fields,
	.valid = e1000_valid,
};

/* ---- interrupts; lock held ---- */

void e1000_interrupt(struct e1000 *d, u32 causes)
{
	d->s.icr |= causes;
	pci_set_intx(d->dev, d->s.icr & d->s.ims);
}

/* ---- EEPROM, 5.3 ---- */

static u16 ee_word(const struct e1000 *d, unsigned i)
{
	const u8 *m = d->cfg.mac;
	u16 sum = 0;

	switch (i) {
	case 0:
	case 1:
	case 2: return (u16)(m[2 * i] | m[2 * i + 1] << 8);
	case 0x0a: return 0x0000;
	case 0x0b: return 0x1100; /* subsystem */
	case 0x0c: return 0x1af4;
	case 0x0d: return 0x100e;
	case 0x0e: return 0x8086;
	case EE_WORDS - 1:
		/* All together make babah. */
		for (unsigned k = 0; k < EE_WORDS - 1; k++)
			sum = (u16)(sum + ee_word(d, k));
		return (u16)(0xbaba - sum);
	default: return 0;
	}
}

/* Bits in at rising edges of the clock, out at falling ones. */
static void eecd_write(struct e1000 *d, u32 val)
{
	struct e1000_state *s = &d->s;
	u32 old = s->eecd, edge = val ^ old;

	s->eecd = val & (EE_SK | EE_CS | EE_DI | EE_REQ | 0x30);
	if (!(val & EE_CS))
		return;
	if (edge & EE_CS)
		s->ee_in = s->ee_out = s->ee_bits = s->ee_reading = 0;
	if (!(edge & EE_SK))
		return;
	if (!(val & EE_SK)) {
		s->ee_out++;
		return;
	}
	if (s->ee_reading || s->ee_bits >= EE_COMMAND)
		return;
	s->ee_in = (u16)(s->ee_in << 1 | !!(val & EE_DI));
	if (++s->ee_bits < EE_COMMAND)
		return;
	s->ee_reading = (s->ee_in >> 6 & 7) == EE_READ;
	s->ee_out = (u16)((s->ee_in & (EE_WORDS - 1)) * 16 - 1);
}

static u32 eecd_read(const struct e1000 *d)
{
	const struct e1000_state *s = &d->s;
	u32 val = s->eecd | EE_PRES | (s->eecd & EE_REQ ? EE_GNT : 0u);
	u16 word = ee_word(d, s->ee_out / 16 % EE_WORDS);

	if (!s->ee_reading || word >> (15 - s->ee_out % 16) & 1)
		val |= EE_DO;
	return val;
}

static void eerd_write(struct e1000 *d, u32 val)
{
	d->s.eerd = val & 0xff00;
	if (val & 1)
		d->s.eerd |= 0x10 | (u32)ee_word(d, val >> 8 & (EE_WORDS - 1)) << 16;
}

/* ---- PHY: an M88E1011 whose link is up ---- */

static void phy_reset(struct e1000 *d)
{
	static const u16 initial[32] = {
		[0] = 0x1140,  [1] = 0x796d,  [2] = 0x0141,  [3] = 0x0c20,
		[4] = 0x0de1,  [5] = 0x41e0,  [6] = 0x0001,  [9] = 0x0e00,
		[10] = 0x3c00, [16] = 0x0360, [17] = 0xac08, [20] = 0x0d60,
	};

	memcpy(d->s.phy, initial, sizeof(initial));
}

static void phy_write(struct e1000 *d, unsigned reg, u16 val)
{
	switch (reg) {
	case 0:
		if (val & 0x8000)
			phy_reset(d);
		/* Reset and a restart of negotiation are over at once. */
		d->s.phy[0] = val & 0x7dff;
		break;
	case 4:
	case 9:
	case 16:
	case 18:
	case 20:
	case 29:
	case 30: d->s.phy[reg] = val; break;
	default: break;
	}
}

static void mdic_write(struct e1000 *d, u32 val)
{
	unsigned reg = val >> 16 & 31, op = val >> 26 & 3;

	val &= ~(u32)(MDIC_READY | MDIC_ERROR);
	if ((val >> 21 & 31) != 1 || (op != 1 && op != 2))
		val |= (u32)MDIC_ERROR;
	else if (op == 2)
		val = (val & 0xffff0000) | d->s.phy[reg];
	else
		phy_write(d, reg, (u16)val);
	d->s.mdic = val | (u32)MDIC_READY;
	if (val & MDIC_IRQ)
		e1000_interrupt(d, INT_MDAC);
}

/* ---- registers; lock held ---- */

static void registers_reset(struct e1000 *d)
{
	const u8 *m = d->cfg.mac;

	d->s = (struct e1000_state){ .ctrl = CTRL_FD | CTRL_SLU, .pba = 0x00100030 };
	d->s.ra[0] = (u32)le_load(m, 4);
	d->s.ra[1] = (u32)le_load(m + 4, 2) | (u32)BIT(31);
	phy_reset(d);
	d->tx_len = 0;
	d->tx_drop = false;
	d->starved = false;
	e1000_interrupt(d, 0);
	/* What waits is for nobody any more. */
	net_kick(d->net);
}

static u32 take(u32 *stat)
{
	u32 val = *stat;

	*stat = 0;
	return val;
}

static u32 take_high(u64 *stat)
{
	u32 val = (u32)(*stat >> 32);

	*stat = 0;
	return val;
}

static u32 table_read(const struct e1000 *d, u64 off)
{
	if (off >= E_MTA && off < E_MTA + 4 * E_TABLE)
		return d->s.mta[(off - E_MTA) / 4];
	if (off >= E_RA && off < E_RA + 8 * E_ADDRESSES)
		return d->s.ra[(off - E_RA) / 4];
	if (off >= E_VFTA && off < E_VFTA + 4 * E_TABLE)
		return d->s.vfta[(off - E_VFTA) / 4];
	return 0;
}

static u32 reg_read(struct e1000 *d, u64 off)
{
	struct e1000_state *s = &d->s;
	u32 val;

	switch (off) {
	case E_CTRL: return s->ctrl;
	case E_STATUS: return STATUS;
	case E_EECD: return eecd_read(d);
	case E_EERD: return s->eerd;
	case E_MDIC: return s->mdic;
	case E_ICR:
		val = s->icr & s->ims ? s->icr | (u32)BIT(31) : s->icr;
		s->icr = 0;
		e1000_interrupt(d, 0);
		return val;
	case E_ITR: return s->itr;
	case E_IMS: return s->ims;
	case E_RCTL: return s->rctl;
	case E_TCTL: return s->tctl;
	case E_PBA: return s->pba;
	case E_RDBAL: return (u32)s->rdba;
	case E_RDBAH: return (u32)(s->rdba >> 32);
	case E_RDLEN: return s->rdlen;
	case E_RDH: return s->rdh;
	case E_RDT: return s->rdt;
	case E_TDBAL: return (u32)s->tdba;
	case E_TDBAH: return (u32)(s->tdba >> 32);
	case E_TDLEN: return s->tdlen;
	case E_TDH: return s->tdh;
	case E_TDT: return s->tdt;
	case E_GPRC: return take(&s->rx_frames);
	case E_GPTC: return take(&s->tx_frames);
	case E_GORCL: return (u32)s->rx_bytes;
	case E_GORCH: return take_high(&s->rx_bytes);
	case E_GOTCL: return (u32)s->tx_bytes;
	case E_GOTCH: return take_high(&s->tx_bytes);
	case E_RXCSUM: return s->rxcsum;
	default: return table_read(d, off);
	}
}

static void table_write(struct e1000 *d, u64 off, u32 val)
{
	if (off >= E_MTA && off < E_MTA + 4 * E_TABLE)
		d->s.mta[(off - E_MTA) / 4] = val;
	else if (off >= E_RA && off < E_RA + 8 * E_ADDRESSES)
		d->s.ra[(off - E_RA) / 4] = val;
	else if (off >= E_VFTA && off < E_VFTA + 4 * E_TABLE)
		d->s.vfta[(off - E_VFTA) / 4] = val;
}

static void set_low(u64 *reg, u32 val)
{
	*reg = (*reg & ~(u64)UINT32_MAX) | (val & ~15u);
}

static void set_high(u64 *reg, u32 val)
{
	*reg = (u32)*reg | (u64)val << 32;
}

static void more_buffers(struct e1000 *d)
{
	if (d->starved)
		net_kick(d->net);
	d->starved = false;
}

static void ctrl_write(struct e1000 *d, u32 val)
{
	if (val & CTRL_RST) {
		registers_reset(d);
		return;
	}
	if (val & (u32)CTRL_PHY_RST)
		phy_reset(d);
	if (val & ~d->s.ctrl & CTRL_SLU)
		e1000_interrupt(d, INT_LSC);
	d->s.ctrl = val & ~(u32)CTRL_PHY_RST;
}

static void reg_write(struct e1000 *d, u64 off, u32 val)
{
	struct e1000_state *s = &d->s;

	switch (off) {
	case E_CTRL: ctrl_write(d, val); break;
	case E_EECD: eecd_write(d, val); break;
	case E_EERD: eerd_write(d, val); break;
	case E_MDIC: mdic_write(d, val); break;
	case E_ICR:
		s->icr &= ~val;
		e1000_interrupt(d, 0);
		break;
	case E_ITR: s->itr = val & 0xffff; break;
	case E_ICS: e1000_interrupt(d, val & 0x1ffff); break;
	case E_IMS:
		s->ims |= val & 0x1ffff;
		e1000_interrupt(d, 0);
		break;
	case E_IMC:
		s->ims &= ~val;
		e1000_interrupt(d, 0);
		break;
	case E_RCTL:
		s->rctl = val;
		more_buffers(d);
		break;
	case E_TCTL:
		s->tctl = val;
		net_kick(d->net);
		break;
	case E_PBA: s->pba = val; break;
	case E_RDBAL: set_low(&s->rdba, val); break;
	case E_RDBAH: set_high(&s->rdba, val); break;
	case E_RDLEN: s->rdlen = val & 0xfff80; break;
	case E_RDH: s->rdh = val & 0xffff; break;
	case E_RDT:
		s->rdt = val & 0xffff;
		more_buffers(d);
		break;
	case E_TDBAL: set_low(&s->tdba, val); break;
	case E_TDBAH: set_high(&s->tdba, val); break;
	case E_TDLEN: s->tdlen = val & 0xfff80; break;
	case E_TDH: s->tdh = val & 0xffff; break;
	case E_TDT:
		s->tdt = val & 0xffff;
		net_kick(d->net);
		break;
	case E_RXCSUM: s->rxcsum = val; break;
	default: table_write(d, off, val); break;
	}
}

static u64 mem_read(void *opaque, u64 off, unsigned size)
{
	struct e1000 *d = opaque;
	u32 val;

	(void)size;
	pthread_mutex_lock(&d->lock);
	val = reg_read(d, off);
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void mem_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct e1000 *d = opaque;

	(void)size;
	pthread_mutex_lock(&d->lock);
	reg_write(d, off, (u32)val);
	pthread_mutex_unlock(&d->lock);
}

static const struct io_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.sizes = IO_4,
};

/* 13.2: IOADDR and IODATA. */
static u64 port_read(void *opaque, u64 off, unsigned size)
{
	struct e1000 *d = opaque;
	u32 val = 0;

	(void)size;
	pthread_mutex_lock(&d->lock);
	if (off == 0)
		val = d->s.ioaddr;
	else if (off == 4)
		val = reg_read(d, d->s.ioaddr);
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void port_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct e1000 *d = opaque;

	(void)size;
	pthread_mutex_lock(&d->lock);
	if (off == 0)
		d->s.ioaddr = (u32)val & (E_SIZE - 4);
	else if (off == 4)
		reg_write(d, d->s.ioaddr, (u32)val);
	pthread_mutex_unlock(&d->lock);
}

static const struct io_ops port_ops = {
	.read = port_read,
	.write = port_write,
	.sizes = IO_4,
};

/* ---- set-up and state ---- */

struct e1000 *e1000_new(const struct e1000_setup *cfg, struct phys *phys,
			struct pci_host *host, u8 devfn, struct error *err)
{
	struct e1000 *d = xzalloc(sizeof(*d));
	struct net_client client = { e1000_transmit, e1000_receive, d };
	struct pci_desc desc = {
		.name = "e1000",
		.vendor = 0x8086,
		.device = 0x100e,
		.subsys_vendor = 0x1af4,
		.subsys_device = 0x1100,
		.class_code = 0x020000,
		.revision = 3,
		.pin = 1,
		.opaque = d,
	};

	pthread_mutex_init(&d->lock, NULL);
	d->cfg = *cfg;
	d->phys = phys;
	d->net = cfg->net;
	d->paused = true;
	d->dev = pci_add(host, devfn, &desc, err);
	if (!d->dev)
		goto fail;
	registers_reset(d);
	pci_set_bar(d->dev, 0, PCI_BAR_MEM32, E_SIZE, false, &mem_ops, d);
	pci_set_bar(d->dev, 1, PCI_BAR_IO, IO_SIZE, false, &port_ops, d);
	if (net_attach(d->net, &client, err))
		goto fail;
	return d;
fail:
	e1000_free(d);
	return NULL;
}

void e1000_free(struct e1000 *d)
{
	if (!d)
		return;
	net_detach(d->net);
	pci_remove(d->dev);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void e1000_pause(struct e1000 *d)
{
	pthread_mutex_lock(&d->lock);
	d->paused = true;
	pthread_mutex_unlock(&d->lock);
}

void e1000_resume(struct e1000 *d)
{
	pthread_mutex_lock(&d->lock);
	d->paused = false;
	net_kick(d->net);
	pthread_mutex_unlock(&d->lock);
}

void e1000_reset(struct e1000 *d)
{
	pthread_mutex_lock(&d->lock);
	registers_reset(d);
	pthread_mutex_unlock(&d->lock);
	pci_reset(d->dev);
}

void e1000_save(struct e1000 *d, struct state_buf *b)
{
	pthread_mutex_lock(&d->lock);
	state_save(b, &e1000_desc, pci_devfn(d->dev), &d->s);
	pthread_mutex_unlock(&d->lock);
	pci_save(d->dev, b);
}

int e1000_load(struct e1000 *d, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&d->lock);
	registers_reset(d);
	ret = state_load(b, &e1000_desc, pci_devfn(d->dev), &d->s, err);
	d->s.ioaddr &= E_SIZE - 4;
	pthread_mutex_unlock(&d->lock);
	if (!ret)
		ret = pci_load(d->dev, b, err);
	pthread_mutex_lock(&d->lock);
	e1000_interrupt(d, 0);
	pthread_mutex_unlock(&d->lock);
	return ret;
}
