/*
 * Programmable interval timer, Intel 8254, and the system control port B beside it.
 *
 * Window pit_ops: 4 ports (40h on a PC): counters 0 to 2, control word. Window
 * pit_port61_ops: 1 port (61h): GATE and OUT of counter 2, speaker, refresh toggle.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

#define PIT_HZ 1193182

struct pit;

/* irq0: OUT of counter 0. 'clk' outlives the chip. In reset state; abort on no memory. */
struct pit *pit_new(struct clock *clk, struct irq_line irq0);
/* No thread may be in clock_run_timers(). */
void pit_free(struct pit *p);

extern const struct io_ops pit_ops;        /* dev: struct pit * */
extern const struct io_ops pit_port61_ops; /* dev: struct pit * */

/* Any thread. */

/* GATE of counters 0 and 1 is tied high on a PC; that of counter 2 is port 61h bit 0. */
void pit_set_gate(struct pit *p, unsigned counter, bool level);
/* Level of an OUT pin now. */
bool pit_out(struct pit *p, unsigned counter);
/* Port 61h bit 1: the speaker follows OUT 2 while it is set. */
bool pit_speaker(struct pit *p);
/* The HPET took over interrupt 0: OUT 0 reaches nobody while cut. Not in the state. */
void pit_cut_irq0(struct pit *p, bool cut);

/* Machine stopped. */

void pit_reset(struct pit *p);
extern const struct state_desc pit_desc;
void pit_save(const struct pit *p, struct state_buf *b);
/* 0 or -EINVAL; then nothing changed. The clock was loaded before. */
int pit_load(struct pit *p, struct state_buf *b, struct error *err);
