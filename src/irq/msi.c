/*
 * Message-signalled interrupts and the bus that carries messages to local APICs.
 *
 * Intel SDM vol. 3: 11.11 (MSI format), 11.6.2 (destinations), 11.12.10 (x2APIC
 * IDs and clusters), 11.6.2.4 (lowest priority). A message without remapping has
 * 8 destination bits; they reach a CPU in x2APIC mode as its ID zero-extended, or
 * as logical cluster 0, and FFh stays a broadcast.
 *
 * Missing: the focus processor (11.6.2.4: not on Pentium 4 and later).
 * No lock: targets are added before the machine runs; what changes in
 * a target is read atomically, and a message that races with a change of a destination
 * register may see either value, as on hardware.
 */
#include "irq/msi.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"

struct eoi_listener {
	void (*eoi)(void *opaque, u8 vector);
	void *opaque;
};

struct apic_bus {
	struct apic_target *targets[APIC_BUS_MAX]; /* no holes */
	unsigned count;
	struct apic_target *by_id[256];
	struct eoi_listener eoi[APIC_BUS_EOI_MAX];
	unsigned eoi_count;
};

bool msi_decode(u64 addr, u32 data, struct apic_msg *msg)
{
	unsigned mode = (data >> 8) & 7;
	bool level = data & BIT(15), assert = data & BIT(14);
	bool hint = addr & BIT(3);

	if ((addr & MSI_ADDR_MASK) != MSI_ADDR_BASE || mode == 3 ||
	    mode == APIC_DM_STARTUP)
		return false;
	if (level && !assert)
		return false;
	/* The redirection hint asks for one of the addressed, which is lowest priority.
	 */
	if (hint && mode == APIC_DM_FIXED)
		mode = APIC_DM_LOWEST;
	*msg = (struct apic_msg){
		.dest = (addr >> 12) & 0xff,
		.vector = (u8)data,
		.mode = (u8)mode,
		.logical = addr & BIT(2),
		/* 11.11.2: only fixed and lowest priority can be level-triggered. */
		.level = level && mode <= APIC_DM_LOWEST,
	};
	return true;
}

struct apic_bus *apic_bus_new(void)
{
	return xzalloc(sizeof(struct apic_bus));
}

void apic_bus_free(struct apic_bus *bus)
{
	free(bus);
}

bool apic_bus_add(struct apic_bus *bus, struct apic_target *t)
{
	if (bus->count == APIC_BUS_MAX)
		return false;
	for (unsigned i = 0; i < bus->count; i++)
		if (bus->targets[i]->id == t->id)
			return false;
	bus->targets[bus->count++] = t;
	if (t->id < ARRAY_SIZE(bus->by_id))
		bus->by_id[t->id] = t;
	return true;
}

void apic_bus_remove(struct apic_bus *bus, struct apic_target *t)
{
	for (unsigned i = 0; i < bus->count; i++) {
		if (bus->targets[i] != t)
			continue;
		for (unsigned j = i + 1; j < bus->count; j++)
			bus->targets[j - 1] = bus->targets[j];
		bus->count--;
		if (t->id < ARRAY_SIZE(bus->by_id))
			bus->by_id[t->id] = NULL;
		return;
	}
}

bool apic_bus_listen_eoi(struct apic_bus *bus, void (*eoi)(void *opaque, u8 vector),
			 void *opaque)
{
	if (bus->eoi_count == APIC_BUS_EOI_MAX)
		return false;
	bus->eoi[bus->eoi_count++] =
		(struct eoi_listener){ .eoi = eoi, .opaque = opaque };
	return true;
}

void apic_bus_eoi(struct apic_bus *bus, u8 vector)
{
	for (unsigned i = 0; i < bus->eoi_count; i++)
		bus->eoi[i].eoi(bus->eoi[i].opaque, vector);
}

static u32 get(const u32 *reg)
{
	return __atomic_load_n(reg, __ATOMIC_RELAXED);
}

static bool is_on(const struct apic_target *t)
{
	return get(&t->flags) & APIC_T_ON;
}

static bool is_broadcast(const struct apic_msg *msg)
{
	return msg->dest == (msg->wide ? 0xffffffffu : 0xffu);
}

/* 11.6.2.2: flat model one bit a CPU; cluster model cluster number and one bit of 4. */
static bool match_logical_xapic(const struct apic_target *t, u32 mda)
{
	u32 ldr = get(&t->ldr) >> 24;

	if (mda > 0xff)
		return false;
	switch (get(&t->dfr) >> 28) {
	case 0xf: return mda & ldr;
	case 0x0: return (mda >> 4) == (ldr >> 4) && (mda & ldr & 0xf);
	default: return false;
	}
}

/* 11.12.10.2: cluster in bits 31:16, one bit of 16 below. */
static bool match_logical_x2apic(const struct apic_target *t, u32 mda)
{
	u32 ldr = get(&t->ldr);

	return (mda >> 16) == (ldr >> 16) && (mda & ldr & 0xffff);
}

bool apic_match(const struct apic_target *t, const struct apic_msg *msg)
{
	u32 flags = get(&t->flags);

	if (!(flags & APIC_T_ON))
		return false;
	if (is_broadcast(msg))
		return true;
	if (!msg->logical)
		return t->id == msg->dest;
	return flags & APIC_T_X2 ? match_logical_x2apic(t, msg->dest)
				 : match_logical_xapic(t, msg->dest);
}

static bool selects(const struct apic_target *t, const struct apic_target *source,
		    const struct apic_msg *msg)
{
	switch (msg->shorthand) {
	case APIC_SH_SELF: return t == source && is_on(t);
	case APIC_SH_ALL: return is_on(t);
	case APIC_SH_OTHERS: return t != source && is_on(t);
	default: return apic_match(t, msg);
	}
}

/*
 * 11.6.2.4: of the addressed, the one with the lowest priority; how a tie ends is
 * up to the model. The vector decides here: interrupts spread over the CPUs, each of
 * them stays where its data are cached, and nothing needs to be remembered.
 */
static struct apic_target *arbitrate(struct apic_bus *bus,
				     const struct apic_target *source,
				     const struct apic_msg *msg)
{
	struct apic_target *tied[APIC_BUS_MAX];
	unsigned n = 0;
	u32 best = 0;

	for (unsigned i = 0; i < bus->count; i++) {
		struct apic_target *t = bus->targets[i];
		u32 prio = get(&t->ppr) >> 4;

		if (!selects(t, source, msg) || !(get(&t->flags) & APIC_T_ACCEPTS))
			continue;
		if (n && prio > best)
			continue;
		if (prio < best)
			n = 0;
		best = prio;
		tied[n++] = t;
	}
	return n ? tied[msg->vector % n] : NULL;
}

unsigned apic_bus_send(struct apic_bus *bus, const struct apic_target *source,
		       const struct apic_msg *msg)
{
	unsigned n = 0;

	/* The usual case: one CPU by its ID. */
	if (msg->shorthand == APIC_SH_NONE && !msg->logical && !is_broadcast(msg) &&
	    msg->dest < ARRAY_SIZE(bus->by_id)) {
		struct apic_target *t = bus->by_id[msg->dest];

		if (!t || !is_on(t))
			return 0;
		t->deliver(t->opaque, msg);
		return 1;
	}
	if (msg->mode == APIC_DM_LOWEST) {
		struct apic_target *t = arbitrate(bus, source, msg);

		if (!t)
			return 0;
		t->deliver(t->opaque, msg);
		return 1;
	}
	for (unsigned i = 0; i < bus->count; i++) {
		struct apic_target *t = bus->targets[i];

		if (!selects(t, source, msg))
			continue;
		t->deliver(t->opaque, msg);
		n++;
	}
	return n;
}

void apic_bus_msi(void *bus, u64 addr, u32 data)
{
	struct apic_msg msg;

	if (msi_decode(addr, data, &msg))
		apic_bus_send(bus, NULL, &msg);
}
