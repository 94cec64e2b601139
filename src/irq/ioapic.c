/*
 * I/O APIC with 24 redirection entries.
 *
 * Intel 82093AA data sheet 290566-001 (version 11h); EOI register and version 20h as in
 * the ICH and PCH data sheets. A write of an entry counts when it is written: what an
 * edge-triggered pin did while masked is forgotten (82093AA, 3.2.4, bit 16).
 *
 *   level-triggered pin:  asserted, unmasked, remote IRR 0  -- deliver -->  remote IRR 1
 *                         remote IRR 1  -- EOI of its vector (broadcast or register) -->
 * 0
 *
 * Missing: the serial APIC bus (delivery status is always idle, arbitration ID is the
 * ID) and the pin assertion register of some ICHs, which 82093AA does not have.
 * Lock: io->lock covers everything; messages are sent with it held.
 */
#include "irq/ioapic.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

/* Window. */
#define IOREGSEL 0x00
#define IOWIN    0x10
#define IOEOI    0x40

/* Registers behind the index. */
#define IOAPICID  0x00
#define IOAPICVER 0x01
#define IOAPICARB 0x02
#define IOREDTBL  0x10

/* Redirection entry. */
#define RTE_VECTOR     BITS(7, 0)
#define RTE_MODE       BITS(10, 8)
#define RTE_LOGICAL    BIT(11)
#define RTE_STATUS     BIT(12) /* read-only */
#define RTE_ACTIVE_LOW BIT(13)
#define RTE_REMOTE_IRR BIT(14) /* read-only */
#define RTE_LEVEL      BIT(15)
#define RTE_MASK       BIT(16)
#define RTE_DEST       BITS(63, 56)
#define RTE_DEST_EXT   BITS(55, 48) /* version 20h: to address bits 11:4 */
#define RTE_WRITABLE                                                                     \
	(RTE_VECTOR | RTE_MODE | RTE_LOGICAL | RTE_ACTIVE_LOW | RTE_LEVEL | RTE_MASK |   \
	 RTE_DEST)

#define PIN_MASK ((1u << IOAPIC_PINS) - 1)

struct ioapic_state {
	u64 rte[IOAPIC_PINS];
	u32 pins;   /* input levels, true asserted, before the board's inverters */
	u32 id;     /* ID register: bits 27:24 */
	u32 select; /* index register */
	u32 version;
};

struct ioapic {
	struct ioapic_state s;
	pthread_mutex_t lock;
	struct ioapic_config cfg;
};

static unsigned rte_mode(u64 rte)
{
	return (unsigned)bits_get(rte, 10, 8);
}

/* SMI, NMI, INIT and ExtINT are edge-triggered whatever the entry says (82093AA, 3.2.4).
 */
static bool is_level(u64 rte)
{
	return (rte & RTE_LEVEL) && rte_mode(rte) <= APIC_DM_LOWEST;
}

/* Is the pin active as this entry understands it? */
static bool is_active(const struct ioapic *io, unsigned pin)
{
	bool high = ((io->s.pins ^ io->cfg.active_low) >> pin) & 1;
	bool active_low = io->s.rte[pin] & RTE_ACTIVE_LOW;

	return high != active_low;
}

static void deliver(struct ioapic *io, unsigned pin)
{
	u64 rte = io->s.rte[pin];
	u64 addr = MSI_ADDR_BASE | bits_get(rte, 63, 48) << 4;
	u32 data = (u32)(rte & (RTE_VECTOR | RTE_MODE)) | BIT(14);

	if (rte & RTE_LOGICAL)
		addr |= BIT(2);
	if (is_level(rte)) {
		data |= BIT(15);
		io->s.rte[pin] |= RTE_REMOTE_IRR;
	}
	msi_send(&io->cfg.out, addr, data);
}

/* A level-triggered pin that is due is delivered; called after any change to it. */
static void service_level(struct ioapic *io, unsigned pin)
{
	u64 rte = io->s.rte[pin];

	if (is_level(rte) && !(rte & (RTE_MASK | RTE_REMOTE_IRR)) && is_active(io, pin))
		deliver(io, pin);
}

void ioapic_set(void *chip, unsigned pin, bool level)
{
	struct ioapic *io = chip;
	bool was;

	if (pin >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&io->lock);
	was = is_active(io, pin);
	io->s.pins = (u32)bits_put(io->s.pins, pin, pin, level);
	if (is_level(io->s.rte[pin]))
		service_level(io, pin);
	else if (!was && is_active(io, pin) && !(io->s.rte[pin] & RTE_MASK))
		deliver(io, pin);
	pthread_mutex_unlock(&io->lock);
}

static void eoi(struct ioapic *io, u8 vector)
{
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 *rte = &io->s.rte[pin];

		if (!(*rte & RTE_REMOTE_IRR) || (*rte & RTE_VECTOR) != vector)
			continue;
		*rte &= ~RTE_REMOTE_IRR;
		service_level(io, pin);
	}
}

void ioapic_eoi(void *ioapic, u8 vector)
{
	struct ioapic *io = ioapic;

	pthread_mutex_lock(&io->lock);
	eoi(io, vector);
	pthread_mutex_unlock(&io->lock);
}

static u32 reg_read(const struct ioapic *io)
{
	u32 reg = io->s.select;

	if (reg >= IOREDTBL && reg < IOREDTBL + 2 * IOAPIC_PINS)
		return (u32)(io->s.rte[(reg - IOREDTBL) / 2] >> (reg & 1 ? 32 : 0));
	switch (reg) {
	case IOAPICID:
	case IOAPICARB: return io->s.id;
	case IOAPICVER: return io->s.version | (IOAPIC_PINS - 1) << 16;
	default: return 0;
	}
}

static void rte_write(struct ioapic *io, unsigned pin, bool high, u32 val)
{
	u64 *rte = &io->s.rte[pin];
	u64 writable = RTE_WRITABLE | (io->s.version >= 0x20 ? RTE_DEST_EXT : 0);
	u64 v = bits_put(*rte, high ? 63 : 31, high ? 32 : 0, val);

	*rte = (v & writable) | (*rte & RTE_REMOTE_IRR);
	/* An edge-triggered entry has none; switching over is how systems clear a stale
	 * one. */
	if (!is_level(*rte))
		*rte &= ~RTE_REMOTE_IRR;
	service_level(io, pin);
}

static void reg_write(struct ioapic *io, u32 val)
{
	u32 reg = io->s.select;

	if (reg >= IOREDTBL && reg < IOREDTBL + 2 * IOAPIC_PINS)
		rte_write(io, (reg - IOREDTBL) / 2, reg & 1, val);
	else if (reg == IOAPICID)
		io->s.id = val & BITS(27, 24);
	else
		guest_bug("ioapic", "write of read-only or missing register %02x", reg);
}

/* The registers are 32 bits wide; narrower reads get the bytes they ask for. */
static u64 window_read(void *dev, u64 off, unsigned size)
{
	struct ioapic *io = dev;
	u32 v = 0;

	if ((off & 3) + size > 4)
		return size_mask(size);
	pthread_mutex_lock(&io->lock);
	switch (off & ~UINT64_C(3)) {
	case IOREGSEL: v = io->s.select; break;
	case IOWIN: v = reg_read(io); break;
	default: break; /* IOEOI is write-only */
	}
	pthread_mutex_unlock(&io->lock);
	return (v >> (off & 3) * 8) & size_mask(size);
}

/* 82093AA, 3.1: writes are 32 bits; the index and EOI have 8 that matter. */
static void window_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct ioapic *io = dev;

	pthread_mutex_lock(&io->lock);
	if (off == IOREGSEL)
		io->s.select = val & 0xff;
	else if (off == IOWIN && size == 4)
		reg_write(io, (u32)val);
	else if (off == IOEOI && io->s.version >= 0x20)
		eoi(io, (u8)val);
	else
		guest_bug("ioapic", "write of %u bytes at %03x", size, (unsigned)off);
	pthread_mutex_unlock(&io->lock);
}

const struct io_ops ioapic_ops = {
	.read = window_read,
	.write = window_write,
	.sizes = IO_1 | IO_2 | IO_4,
};

void ioapic_reset(struct ioapic *io)
{
	pthread_mutex_lock(&io->lock);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->s.rte[pin] = RTE_MASK;
	io->s.id = (io->cfg.id & 0xfu) << 24;
	io->s.select = 0;
	io->s.version = io->cfg.version;
	pthread_mutex_unlock(&io->lock);
}

struct ioapic *ioapic_new(const struct ioapic_config *cfg)
{
	struct ioapic *io = xzalloc(sizeof(*io));

	pthread_mutex_init(&io->lock, NULL);
	io->cfg = *cfg;
	ioapic_reset(io);
	return io;
}

void ioapic_free(struct ioapic *io)
{
	if (!io)
		return;
	pthread_mutex_destroy(&io->lock);
	free(io);
}

static const struct state_field ioapic_fields[] = {
	STATE_ARRAY(struct ioapic_state, rte, 1),
	STATE_FIELD(struct ioapic_state, pins, 1),
	STATE_FIELD(struct ioapic_state, id, 1),
	STATE_FIELD(struct ioapic_state, select, 1),
	STATE_FIELD(struct ioapic_state, version, 1),
	{ 0 },
};

static bool ioapic_valid(const void *state)
{
	const struct ioapic_state *s = state;
	u64 bits =
		RTE_WRITABLE | RTE_REMOTE_IRR | (s->version >= 0x20 ? RTE_DEST_EXT : 0);

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		if ((s->rte[pin] & ~bits) ||
		    ((s->rte[pin] & RTE_REMOTE_IRR) && !is_level(s->rte[pin])))
			return false;
	return !(s->pins & ~PIN_MASK) && !(s->id & ~BITS(27, 24)) && s->select <= 0xff &&
	       (s->version == 0x11 || s->version == 0x20);
}

const struct state_desc ioapic_desc = {
	.name = "ioapic",
	.size = sizeof(struct ioapic_state),
	.version = 1,
	.fields = ioapic_fields,
	.valid = ioapic_valid,
};

void ioapic_save(const struct ioapic *io, struct state_buf *b)
{
	state_save(b, &ioapic_desc, io->cfg.instance, &io->s);
}

int ioapic_load(struct ioapic *io, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&io->lock);
	ret = state_load(b, &ioapic_desc, io->cfg.instance, &io->s, err);
	pthread_mutex_unlock(&io->lock);
	return ret;
}
