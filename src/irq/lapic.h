/*
 * Local APIC of one CPU: xAPIC and x2APIC, with its timer.
 *
 * Interrupts are accepted on any thread by an atomic bit in IRR and an event; ISR and
 * PPR belong to the vCPU's thread. Protocol of the owner: clear the event bit, then look
 * with lapic_has_intr(). Whoever makes an interrupt deliverable (a message, a pin, the
 * timer, but also the owner by lowering TPR or by EOI) reports LAPIC_EV_INTR after the
 * fact. While the owner cannot take it (IF = 0) it may leave the bit set or ask again
 * later.
 */
#pragma once

#include "base/bits.h"
#include "base/error.h"
#include "base/irqline.h"
#include "irq/msi.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

/* Bits 7:0 of the version register; the MP table repeats them. */
#define LAPIC_VERSION 0x15u

/* Events for the vCPU. */
enum {
	LAPIC_EV_INTR = 1, /* lapic_has_intr() may have become true */
	LAPIC_EV_NMI = 2,
	LAPIC_EV_INIT = 4,
	LAPIC_EV_SIPI = 8, /* vector: lapic_sipi_vector() */
	LAPIC_EV_SMI = 16,
};

struct lapic_ops {
	/* Any thread, may be called with locks held: set bits, kick, return. */
	void (*event)(void *opaque, unsigned events);
	/* Owner: INTA cycle of the PIC; returns its vector. NULL: no PIC. */
	int (*inta)(void *opaque);
	/* Owner: IA32_APIC_BASE was written with this value (mode, place), or reset. May
	 * be NULL. */
	void (*base_changed)(void *opaque, u64 apic_base);
	/*
	 * Owner and timer thread, with the timer's lock held: the first moment at which
	 * this CPU's TSC reads 'tsc' or more (a moment in the past will do, VNS_NEVER
	 * when beyond reach), and what it reads at a moment. NULL without TSC-deadline
	 * mode.
	 */
	vns_t (*tsc_to_vns)(void *opaque, u64 tsc);
	u64 (*vns_to_tsc)(void *opaque, vns_t t);
};

struct lapic_config {
	struct clock *clk;
	struct apic_bus *bus;
	u32 id; /* initial APIC ID */
	bool is_bsp;
	bool x2apic;       /* CPUID.01H:ECX.x2APIC: the mode can be entered */
	bool tsc_deadline; /* CPUID.01H:ECX.TSC_Deadline */
	u8 phys_bits;      /* MAXPHYADDR, 32..52; 0 means 52 */
	u64 timer_hz;      /* input clock of the timer; 0 means LAPIC_TIMER_HZ */
	const struct lapic_ops *ops;
	void *opaque;
};

#define LAPIC_TIMER_HZ     UINT64_C(25000000) /* the crystal that CPUID.15H reports */
#define LAPIC_BASE_DEFAULT UINT64_C(0xfee00000)

/* IA32_APIC_BASE */
#define APIC_BASE_BSP  BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN   BIT(11)

struct lapic;

/* Set-up: the state is that after power-up. NULL when the bus refuses the id. */
struct lapic *lapic_new(const struct lapic_config *cfg);
void lapic_free(struct lapic *l);

/* --- Any thread -------------------------------------------------------------- */

/* Accept a fixed interrupt, as if a message had arrived. */
void lapic_post(struct lapic *l, u8 vector, bool level);
/* Pins LINT0 and LINT1 (0 and 1), true asserted; usable as irq_line.set. */
void lapic_lint_set(void *chip, unsigned pin, bool level);
/* Vector of the last SIPI: execution starts at vector << 12. */
u8 lapic_sipi_vector(const struct lapic *l);
u32 lapic_id(const struct lapic *l);

/* Sources inside the processor that have a local vector table entry. */
enum lapic_source { LAPIC_SRC_CMCI, LAPIC_SRC_THERMAL, LAPIC_SRC_PMI };
void lapic_raise(struct lapic *l, enum lapic_source src);

/* --- Owning vCPU thread ------------------------------------------------------ */

/* Something can be delivered now: a vector above PPR, or ExtINT. */
bool lapic_has_intr(struct lapic *l);
/*
 * Acknowledge: the vector moves from IRR to ISR, or the PIC's INTA cycle is run.
 * -1 when there is nothing; the spurious vector when lapic_has_intr() said yes and since
 * then it became undeliverable.
 */
int lapic_take(struct lapic *l);

/* The xAPIC window of 4 KiB, device a struct lapic. Reads all ones unless xAPIC mode is
 * on. */
extern const struct io_ops lapic_mmio_ops;
/* The window exists at this address now: xAPIC mode on; in 'base' where, if so. */
bool lapic_window(const struct lapic *l, u64 *base);

/* x2APIC registers, MSRs 800h..8FFh. False: #GP. */
bool lapic_msr_read(struct lapic *l, u32 msr, u64 *val);
bool lapic_msr_write(struct lapic *l, u32 msr, u64 val);

/* IA32_APIC_BASE. Write: false on #GP (reserved bits, illegal transition). */
u64 lapic_base_read(const struct lapic *l);
bool lapic_base_write(struct lapic *l, u64 val);

/* IA32_TSC_DEADLINE (the caller knows whether CPUID offers it). */
u64 lapic_tsc_deadline_read(struct lapic *l);
void lapic_tsc_deadline_write(struct lapic *l, u64 tsc);
/* The relation of TSC to time changed (TSC or TSC_ADJUST written): look at the deadline
 * again. */
void lapic_tsc_changed(struct lapic *l);

/* A bell (time/clock.h) of its timer, for the owner. */
struct bell *lapic_bell(struct lapic *l, void (*ring)(void *opaque), void *opaque);

/* CR8: TPR[7:4]. The caller has checked that the upper bits of val are zero. */
u64 lapic_cr8_read(const struct lapic *l);
void lapic_cr8_write(struct lapic *l, u64 val);

/* INIT: all registers but ID and IA32_APIC_BASE. Also the caller's reply to
 * LAPIC_EV_INIT. */
void lapic_init(struct lapic *l);

/* --- Machine stopped --------------------------------------------------------- */

/* Power-up. */
void lapic_reset(struct lapic *l);
/*
 * What firmware leaves on the bootstrap processor, for boot protocols without firmware:
 * enabled, virtual wire: LINT0 ExtINT, LINT1 NMI.
 */
void lapic_virtual_wire(struct lapic *l);

/* Two records, lapic and apictimer, instance = APIC ID. After a failed load:
 * lapic_reset(). */
extern const struct state_desc lapic_desc;
void lapic_save(const struct lapic *l, struct state_buf *b);
int lapic_load(struct lapic *l, struct state_buf *b, struct error *err);
