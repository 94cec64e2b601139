/*
 * ACPI power management timer: 24 or 32 bits at 3.579545 MHz.
 *
 * Window pmtimer_ops: 4 ports (X_PM_TMR_BLK). TMR_STS and TMR_EN live in the PM1
 * registers, which another chip owns: it asks here.
 */
#pragma once

#include "base/error.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

#define PMTIMER_HZ 3579545

struct pmtimer;

/* bits: 24 or 32 (then FADT.TMR_VAL_EXT is set). */
struct pmtimer *pmtimer_new(struct clock *clk, unsigned bits);
/* No thread may be in clock_run_timers(). */
void pmtimer_free(struct pmtimer *p);

extern const struct io_ops pmtimer_ops; /* dev: struct pmtimer * */

/* Any thread. */

u32 pmtimer_count(struct pmtimer *p);
/* TMR_STS: the top bit changed since the status was last cleared. */
bool pmtimer_status(struct pmtimer *p);
void pmtimer_clear_status(struct pmtimer *p);
/* TMR_EN: only then a timer is armed for the next change of the top bit. */
void pmtimer_set_enable(struct pmtimer *p, bool on);

/*
 * Told, on the timer thread and with no lock of this chip held, that the status became
 * set while enabled: time to look at the SCI. May be NULL. Before the machine runs.
 */
void pmtimer_set_notify(struct pmtimer *p, void (*notify)(void *opaque), void *opaque);

/* Machine stopped. */

/* Counter and status zero, not enabled. */
void pmtimer_reset(struct pmtimer *p);
extern const struct state_desc pmtimer_desc;
void pmtimer_save(const struct pmtimer *p, struct state_buf *b);
/* 0 or -EINVAL; then nothing changed. The clock was loaded before. */
int pmtimer_load(struct pmtimer *p, struct state_buf *b, struct error *err);
