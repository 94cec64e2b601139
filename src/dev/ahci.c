/*
 * AHCI host adapter: registers of the adapter, interrupts, PCI function, state.
 *
 * Serial ATA AHCI 1.3.1, sections 3.1, 10; as the ICH9 has it, with six ports.
 * Deliberately missing: hotplug, port multipliers, ATAPI, power management of links,
 * command completion coalescing, enclosure management. Sections in dev/ahci*.c are
 * those of that specification.
 *
 * I1 What the block layer has is counted in 'busy' and marked in its port's 'active'.
 * PxCMD.CR, GHC.HR and a COMRESET stay as they are until that is over, so after them
 * nobody touches the guest's memory. I2 Command header, FIS and PRDT are copied once,
 * then checked, then acted upon.
 *
 * Lock: a->lock, below the PCI configuration lock, above pins and messages.
 */
#include "dev/ahci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "dev/ahci_port.h"
#include "pci/msix.h"

#define BAR_REGS 5

static const struct state_field ahci_fields[] = {
	STATE_FIELD(struct ahci_state, ghc, 1),
	STATE_FIELD(struct ahci_state, is, 1),
	{ 0 },
};

static const struct state_field port_fields[] = {
	STATE_FIELD(struct ahci_port_state, clb, 1),
	STATE_FIELD(struct ahci_port_state, fb, 1),
	STATE_FIELD(struct ahci_port_state, error_lba, 1),
	STATE_FIELD(struct ahci_port_state, is, 1),
	STATE_FIELD(struct ahci_port_state, ie, 1),
	STATE_FIELD(struct ahci_port_state, cmd, 1),
	STATE_FIELD(struct ahci_port_state, tfd, 1),
	STATE_FIELD(struct ahci_port_state, sig, 1),
	STATE_FIELD(struct ahci_port_state, ssts, 1),
	STATE_FIELD(struct ahci_port_state, sctl, 1),
	STATE_FIELD(struct ahci_port_state, serr, 1),
	STATE_FIELD(struct ahci_port_state, sact, 1),
	STATE_FIELD(struct ahci_port_state, ci, 1),
	STATE_FIELD(struct ahci_port_state, next, 1),
	STATE_FIELD(struct ahci_port_state, halted, 1),
	STATE_FIELD(struct ahci_port_state, srst, 1),
	STATE_FIELD(struct ahci_port_state, write_cache, 1),
	STATE_FIELD(struct ahci_port_state, error_valid, 1),
	STATE_FIELD(struct ahci_port_state, error_tag, 1),
	STATE_FIELD(struct ahci_port_state, error_error, 1),
	STATE_FIELD(struct ahci_port_state, pad, 1),
	{ 0 },
};

static bool ahci_valid(const void *state)
{
	const struct ahci_state *s = state;

	/* A reset that is pending is waited for before a save. */
	return !(s->ghc & ~(u32)(GHC_AE | GHC_IE)) && s->is < BIT(AHCI_PORTS);
}

static bool port_valid(const void *state)
{
	const struct ahci_port_state *s = state;

	return s->next < AHCI_SLOTS && s->halted <= 1 && s->srst <= 1 &&
	       s->write_cache <= 1 && s->error_valid <= 1 && s->error_tag < AHCI_SLOTS &&
	       !(s->clb & 0x3ff) && !(s->fb & 0xff);
}

const struct state_desc ahci_desc = {
	.name = "ahci",
	.size = sizeof(struct ahci_state),
	.version = 1,
	.fields = ahci_fields,
	.valid = ahci_valid,
};

const struct state_desc ahci_port_desc = {
	.name = "ahci_port",
	.size = sizeof(struct ahci_port_state),
	.version = 1,
	.fields = port_fields,
	.valid = port_valid,
};

/* ---- interrupts ---- */

/* 10.7: 'event': something new, for which a message is sent. */
void ahci_update(struct ahci *a, bool event)
{
	bool level;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (a->port[i].s.is & a->port[i].s.ie)
			a->s.is |= 1u << i;
	level = a->s.ghc & GHC_IE && a->s.is;
	if (!msi_enabled(a->msi))
		pci_set_intx(a->dev, level);
	else if (level && event)
		msi_notify(a->msi, 0);
}

void ahci_event(struct ahci_port *p, u32 is)
{
	p->s.is |= is;
	if (is & p->s.ie)
		ahci_update(p->a, true);
}

/* ---- reset ---- */

bool ahci_runs(const struct ahci *a)
{
	return !a->paused && !a->resetting && pci_is_master(a->dev);
}

static void reset_done(struct ahci *a)
{
	a->resetting = false;
	a->s = (struct ahci_state){ .ghc = (u32)GHC_AE };
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_reset(&a->port[i]);
	ahci_update(a, false);
}

void ahci_put(struct ahci *a)
{
	if (--a->busy)
		return;
	if (a->resetting)
		reset_done(a); /* I1 */
	pthread_cond_broadcast(&a->idle);
}

static void begin_reset(struct ahci *a)
{
	a->resetting = true;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_drop(&a->port[i]);
	if (!a->busy)
		reset_done(a);
}

/* ---- registers ---- */

/* Six ports, 32 slots, AHCI only, 6 Gbit/s, override, NCQ, 64 bits. */
static u32 cap(void)
{
	return (u32)((AHCI_PORTS - 1) | (AHCI_SLOTS - 1) << 8 | BIT(18) | 3 << 20 |
		     BIT(24) | BIT(30) | BIT(31));
}

static u32 reg_read(const struct ahci *a, u64 off)
{
	u64 port = (off - HBA_PORTS) / HBA_PORT_SIZE;

	if (off >= HBA_PORTS)
		return port < AHCI_PORTS
			       ? ahci_port_read(&a->port[port], off % HBA_PORT_SIZE)
			       : 0;
	switch (off) {
	case HBA_CAP: return cap();
	case HBA_GHC: return a->s.ghc | (a->resetting ? GHC_HR : 0u);
	case HBA_IS: return a->s.is;
	case HBA_PI: return (u32)BIT(AHCI_PORTS) - 1;
	case HBA_VS: return 0x00010301;
	default: return 0;
	}
}

static void reg_write(struct ahci *a, u64 off, u32 val)
{
	u64 port = (off - HBA_PORTS) / HBA_PORT_SIZE;

	if (a->resetting)
		return;
	if (off >= HBA_PORTS) {
		if (port < AHCI_PORTS)
			ahci_port_write(&a->port[port], off % HBA_PORT_SIZE, val);
		return;
	}
	switch (off) {
	case HBA_GHC:
		if (val & GHC_HR) {
			begin_reset(a);
			break;
		}
		a->s.ghc = (u32)GHC_AE | (val & GHC_IE);
		ahci_update(a, true);
		break;
	case HBA_IS:
		/* What a port still has comes again, and is told again. */
		a->s.is &= ~val;
		ahci_update(a, true);
		break;
	default: break;
	}
}

static u64 ahci_read(void *opaque, u64 off, unsigned size)
{
	struct ahci *a = opaque;
	u32 val;

	(void)size;
	pthread_mutex_lock(&a->lock);
	val = reg_read(a, off);
	pthread_mutex_unlock(&a->lock);
	return val;
}

static void ahci_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct ahci *a = opaque;

	(void)size;
	pthread_mutex_lock(&a->lock);
	reg_write(a, off, (u32)val);
	pthread_mutex_unlock(&a->lock);
}

static const struct io_ops ahci_ops = {
	.read = ahci_read,
	.write = ahci_write,
	.sizes = IO_4,
};

static void config_written(void *opaque, unsigned off, unsigned size)
{
	struct ahci *a = opaque;

	if (!a->msi)
		return;
	msi_config_written(a->msi, off, size);
	pthread_mutex_lock(&a->lock);
	if (msi_enabled(a->msi))
		pci_set_intx(a->dev, false);
	else
		ahci_update(a, false);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_run(&a->port[i]);
	pthread_mutex_unlock(&a->lock);
}

/* ---- set-up ---- */

static void port_init(struct ahci *a, unsigned i, const struct ahci_setup *cfg, u8 devfn)
{
	struct ahci_port *p = &a->port[i];
	char made[AHCI_SERIAL_MAX + 1];
	const char *s = cfg->disk[i].serial;

	p->a = a;
	p->index = i;
	p->block = cfg->disk[i].block;
	p->write_cache_off = cfg->disk[i].write_cache_off;
	if (!s) {
		snprintf(made, sizeof(made), "umbra-%02x.%x-%u", devfn >> 3, devfn & 7,
			 i);
		s = made;
	}
	memset(p->serial, ' ', sizeof(p->serial));
	memcpy(p->serial, s, strnlen(s, sizeof(p->serial)));
}

struct ahci *ahci_new(const struct ahci_setup *cfg, struct phys *phys,
		      struct pci_host *host, u8 devfn, struct msi_sink msi,
		      struct error *err)
{
	struct ahci *a = xzalloc(sizeof(*a));
	struct pci_desc d = {
		.name = "ahci",
		.vendor = 0x8086,
		.device = 0x2922, /* ICH9 in AHCI mode */
		.subsys_vendor = 0x1af4,
		.subsys_device = 0x1100,
		.class_code = 0x010601,
		.revision = 2,
		.pin = 1,
		.config_written = config_written,
		.opaque = a,
	};

	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->idle, NULL);
	a->phys = phys;
	a->paused = true;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		port_init(a, i, cfg, devfn);
	a->dev = pci_add(host, devfn, &d, err);
	if (!a->dev)
		goto fail;
	a->msi = msi_new(a->dev, 1, msi, err);
	if (!a->msi)
		goto fail;
	pci_set_bar(a->dev, BAR_REGS, PCI_BAR_MEM32, HBA_SIZE, false, &ahci_ops, a);
	reset_done(a);
	return a;
fail:
	ahci_free(a);
	return NULL;
}

void ahci_free(struct ahci *a)
{
	if (!a)
		return;
	msi_free(a->msi);
	a->msi = NULL;
	pci_remove(a->dev);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_fini(&a->port[i]);
	pthread_cond_destroy(&a->idle);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

/* ---- the board ---- */

static void drain(struct ahci *a)
{
	while (a->busy)
		pthread_cond_wait(&a->idle, &a->lock);
}

void ahci_pause(struct ahci *a)
{
	pthread_mutex_lock(&a->lock);
	a->paused = true;
	drain(a);
	pthread_mutex_unlock(&a->lock);
}

void ahci_resume(struct ahci *a)
{
	pthread_mutex_lock(&a->lock);
	a->paused = false;
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_port_run(&a->port[i]);
	pthread_mutex_unlock(&a->lock);
}

void ahci_reset(struct ahci *a)
{
	pthread_mutex_lock(&a->lock);
	begin_reset(a);
	drain(a);
	pthread_mutex_unlock(&a->lock);
	pci_reset(a->dev);
}

void ahci_save(struct ahci *a, struct state_buf *b)
{
	u32 devfn = pci_devfn(a->dev);

	pthread_mutex_lock(&a->lock);
	drain(a);
	state_save(b, &ahci_desc, devfn, &a->s);
	for (u32 i = 0; i < AHCI_PORTS; i++)
		state_save(b, &ahci_port_desc, devfn << 8 | i, &a->port[i].s);
	pthread_mutex_unlock(&a->lock);
	pci_save(a->dev, b);
}

static int load_locked(struct ahci *a, struct state_buf *b, struct error *err)
{
	u32 devfn = pci_devfn(a->dev);
	int ret = state_load(b, &ahci_desc, devfn, &a->s, err);

	for (u32 i = 0; i < AHCI_PORTS && !ret; i++) {
		struct ahci_port *p = &a->port[i];

		ret = state_load(b, &ahci_port_desc, devfn << 8 | i, &p->s, err);
		if (!ret && !p->block && (p->s.ssts & 0xf) == 3)
			ret = error_set(err, -EINVAL, "state of ahci: port %u had a disk",
					i);
	}
	return ret;
}

int ahci_load(struct ahci *a, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&a->lock);
	begin_reset(a);
	drain(a);
	ret = load_locked(a, b, err);
	if (ret)
		reset_done(a);
	pthread_mutex_unlock(&a->lock);
	if (!ret)
		ret = pci_load(a->dev, b, err);
	pthread_mutex_lock(&a->lock);
	ahci_update(a, false);
	pthread_mutex_unlock(&a->lock);
	return ret;
}
