/*
 * Real-time clock and CMOS memory, Motorola MC146818A as in a PC.
 *
 * Window rtc_ops: 2 ports (70h, 71h on a PC), or 4 when the second bank of 128
 * bytes is wanted (72h, 73h).
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

/* Both banks. */
#define RTC_CMOS_SIZE   256
/* Kept up to date with the date; FADT.CENTURY points at it. */
#define RTC_REG_CENTURY 0x32

struct rtc;

/*
 * irq: the interrupt output (8 on a PC), high while IRQF. Shows the clock's civil time
 * plus utc_offset seconds: 0 for a clock in UTC, the zone's offset for local time. The
 * daylight-saving time of that zone is the guest's business.
 */
struct rtc *rtc_new(struct clock *clk, struct irq_line irq, i64 utc_offset);
/* No thread may be in clock_run_timers(). */
void rtc_free(struct rtc *r);

extern const struct io_ops rtc_ops; /* dev: struct rtc * */

/* Any thread. */

/*
 * CMOS memory the board presets (memory size, boot order ...) or keeps in a file. index
 * below RTC_CMOS_SIZE; the clock's own registers 00h to 0Dh and the century are not
 * memory: set ignores them, get reads what the guest would, without its side effects.
 */
void rtc_set_cmos(struct rtc *r, unsigned index, u8 val);
u8 rtc_get_cmos(struct rtc *r, unsigned index);
/* Port 70h bit 7: the board's NMI gate is closed. */
bool rtc_nmi_masked(struct rtc *r);
/* The HPET took over interrupt 8: nobody hears the output while cut. Not in the state. */
void rtc_cut_irq(struct rtc *r, bool cut);

/* Machine stopped. */

/* The RESET pin: interrupts off, flags cleared; time, memory and modes stay (battery). */
void rtc_reset(struct rtc *r);
extern const struct state_desc rtc_desc;
void rtc_save(const struct rtc *r, struct state_buf *b);
/* 0 or -EINVAL; then nothing changed. The clock was loaded before. */
int rtc_load(struct rtc *r, struct state_buf *b, struct error *err);
