/*
 * Interrupt messages between chips and local APICs: the message-signalled
 * format of PCI, and the bus that finds the local APICs a message is for.
 *
 * MSI address (Intel SDM vol. 3, 11.11.1) and data (11.11.2):
 *
 *    31       20 19      12 11       4  3   2  1 0
 *   +-----------+----------+----------+---+---+---+
 *   |   FEEh    |   dest   |    -     |RH |DM | - |   RH redirection hint
 *   +-----------+----------+----------+---+---+---+   DM 1 logical, 0 physical
 *
 *    31                16  15  14 13 11 10    8 7       0
 *   +---------------------+---+---+----+-------+---------+
 *   |          -          |TM |LV | -  | mode  | vector  |   TM 1 level, 0 edge
 *   +---------------------+---+---+----+-------+---------+   LV 1 assert
 */
#pragma once

#include "base/types.h"

#define MSI_ADDR_BASE UINT64_C(0xfee00000)
#define MSI_ADDR_MASK UINT64_C(0xfffffffffff00000) /* addr & mask == base: a message */

/* Where interrupt messages go: a value, like an irq_line. send: any thread, may be called
 * with locks. */
struct msi_sink {
	void (*send)(void *opaque, u64 addr, u32 data);
	void *opaque;
};

static inline void msi_send(const struct msi_sink *sink, u64 addr, u32 data)
{
	if (sink->send)
		sink->send(sink->opaque, addr, data);
}

/* Delivery modes as encoded in ICR, LVT, redirection entries and MSI data. */
enum {
	APIC_DM_FIXED = 0,
	APIC_DM_LOWEST = 1,
	APIC_DM_SMI = 2,
	APIC_DM_NMI = 4,
	APIC_DM_INIT = 5,
	APIC_DM_STARTUP = 6, /* ICR only */
	APIC_DM_EXTINT = 7,  /* not in the ICR */
};

/* Destination shorthands as encoded in ICR[19:18]. */
enum { APIC_SH_NONE = 0, APIC_SH_SELF = 1, APIC_SH_ALL = 2, APIC_SH_OTHERS = 3 };

/* One interrupt message. */
struct apic_msg {
	u32 dest; /* 8 bits, or 32 when 'wide'; all ones is a broadcast */
	u8 vector;
	u8 mode;      /* APIC_DM_*; never a reserved encoding */
	u8 shorthand; /* APIC_SH_*: other than NONE, dest and logical do not matter */
	bool logical; /* logical destination, else physical */
	bool wide;    /* an x2APIC sent it, or interrupt remapping in extended mode */
	bool level;   /* sets the receiver's TMR bit, so that its EOI is broadcast */
};

/*
 * Decode a write to the message window. False when it is no interrupt: address
 * outside, reserved delivery mode, or a level de-assert, which does nothing.
 */
bool msi_decode(u64 addr, u32 data, struct apic_msg *msg);

/*
 * What the bus knows of one local APIC. The owner writes with atomic stores,
 * any thread reads with atomic loads.
 */
struct apic_target {
	u32 id;    /* x2APIC ID; constant */
	u32 flags; /* APIC_T_* */
	u32 ldr;   /* logical destination register as the guest reads it */
	u32 dfr;   /* destination format register; xAPIC only */
	u32 ppr;   /* processor priority, for lowest priority arbitration */
	/* Any thread, may be called with locks of devices, PIC and IOAPIC held. */
	void (*deliver)(void *opaque, const struct apic_msg *msg);
	void *opaque;
};

enum {
	APIC_T_ON = 1,      /* IA32_APIC_BASE.EN: it is on the bus at all */
	APIC_T_X2 = 2,      /* x2APIC mode */
	APIC_T_ACCEPTS = 4, /* SVR enabled: takes part in lowest priority arbitration */
};

#define APIC_BUS_MAX 256

struct apic_bus;

/* Set-up: not while the machine runs. */
struct apic_bus *apic_bus_new(void);
void apic_bus_free(struct apic_bus *bus);
/* False when the bus is full or has this id already. The target stays the caller's. */
bool apic_bus_add(struct apic_bus *bus, struct apic_target *t);
void apic_bus_remove(struct apic_bus *bus, struct apic_target *t);
/* Who hears the EOI of level-triggered vectors (IOAPICs); at most APIC_BUS_EOI_MAX. */
#define APIC_BUS_EOI_MAX 16
bool apic_bus_listen_eoi(struct apic_bus *bus, void (*eoi)(void *opaque, u8 vector),
			 void *opaque);

/*
 * Any thread. Give the message to all it is for (for lowest priority, to one of them);
 * 'source' is the sender of a shorthand, else NULL. Returns how many got it.
 */
unsigned apic_bus_send(struct apic_bus *bus, const struct apic_target *source,
		       const struct apic_msg *msg);
/* Any thread: a message write reached the CPUs. Fits struct msi_sink with a struct
 * apic_bus. */
void apic_bus_msi(void *bus, u64 addr, u32 data);
/* The owner of a local APIC: broadcast EOI. */
void apic_bus_eoi(struct apic_bus *bus, u8 vector);

/* Is this local APIC addressed, shorthands aside? */
bool apic_match(const struct apic_target *t, const struct apic_msg *msg);
