/*
 * High precision event timers, IA-PC HPET 1.0a: 3 to 8 comparators on a 64-bit counter
 * of 100 MHz.
 *
 * Window hpet_ops: 1 KiB of memory, accesses of 4 and 8 bytes.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

#define HPET_WINDOW     1024
#define HPET_PERIOD_FS  10000000 /* 10 ns */
#define HPET_PERIOD_NS  10
#define HPET_MIN_TIMERS 3 /* specification 2.3.4 */
#define HPET_MAX_TIMERS 8
#define HPET_GSIS       32

/* Where FSB interrupts go: one write of 4 bytes, as the message signalled ones of PCI. */
struct hpet_msi {
	void (*send)(void *sink, u64 addr, u32 data);
	void *sink;
};

/* Copied by hpet_new(). */
struct hpet_config {
	unsigned timers; /* brought into HPET_MIN_TIMERS .. HPET_MAX_TIMERS */
	u32 periodic;    /* bit n: timer n can be periodic; bit 0 is taken as set */
	u32 route_cap;   /* bit n: timers may be routed to gsi[n] */
	struct irq_line gsi[HPET_GSIS];
	/*
	 * Legacy replacement: [0] is interrupt 0 (PIC input 0 and GSI 2), [1] is
	 * interrupt 8 (PIC input 8 and GSI 8).
	 */
	struct irq_line legacy[2];
	struct hpet_msi msi; /* send == NULL: no FSB capability */
	/*
	 * Legacy replacement goes on or off: connect or cut the PIT's and the RTC's
	 * lines (pit_cut_irq0, rtc_cut_irq). Called with the HPET's lock held, which is
	 * therefore taken before theirs. May be NULL.
	 */
	void (*legacy_changed)(void *opaque, bool on);
	void *opaque;
};

struct hpet;

struct hpet *hpet_new(struct clock *clk, const struct hpet_config *config);
/* No thread may be in clock_run_timers(). */
void hpet_free(struct hpet *h);

extern const struct io_ops hpet_ops; /* dev: struct hpet * */

/* Any thread. */

/* Low half of General Capabilities and ID: the ACPI table's "event timer block ID". */
u32 hpet_block_id(const struct hpet *h);

/* Machine stopped. */

void hpet_reset(struct hpet *h);
extern const struct state_desc hpet_desc;
void hpet_save(const struct hpet *h, struct state_buf *b);
/* 0 or -EINVAL; then nothing changed. The clock was loaded before. */
int hpet_load(struct hpet *h, struct state_buf *b, struct error *err);
