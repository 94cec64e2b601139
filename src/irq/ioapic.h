/*
 * I/O APIC with 24 pins: 82093AA (version 11h) or the one of later chip sets with an
 * EOI register (version 20h).
 *
 * A pin's level is logical: true is asserted. 'active_low' says which pins are wired
 * low-active on this board, as the ACPI tables tell the guest (MADT overrides, _PRT):
 * a guest that programs the other polarity sees the line inverted, as on hardware.
 *
 * Interrupts leave as MSI writes: entry bits 63:48 become address bits 19:4, as chip sets
 * do it, so that interrupt remapping finds its remappable format there.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "irq/msi.h"
#include "mem/io.h"
#include "state/save.h"

#define IOAPIC_PINS 24

struct ioapic_config {
	u8 version;     /* 0x11 or 0x20 */
	u8 id;          /* initial ID register, 0..15 */
	u32 active_low; /* pins asserted by a low level: bit n for pin n */
	u32 instance;   /* number in saved state when there are several */
	struct msi_sink out;
};

struct ioapic;

/* Set-up. 'out' is called on any thread with the ioapic's lock held. */
struct ioapic *ioapic_new(const struct ioapic_config *cfg);
void ioapic_free(struct ioapic *io);

/* The 4 KiB window: index 00h, data 10h, EOI 40h. */
extern const struct io_ops ioapic_ops;

/* Any thread. Input pin; usable as irq_line.set with a struct ioapic as chip. */
void ioapic_set(void *chip, unsigned pin, bool level);
/* Any thread: EOI broadcast of a level-triggered vector; fits apic_bus_listen_eoi(). */
void ioapic_eoi(void *ioapic, u8 vector);

/* Machine stopped. Power-up; the input pins keep their levels. */
void ioapic_reset(struct ioapic *io);

extern const struct state_desc ioapic_desc;
void ioapic_save(const struct ioapic *io, struct state_buf *b);
int ioapic_load(struct ioapic *io, struct state_buf *b, struct error *err);
