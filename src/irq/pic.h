/*
 * The pair of 8259A interrupt controllers of a PC, with the edge/level control
 * registers at 4D0h and 4D1h.
 *
 * Inputs are pins 0..15 (IRQ0..IRQ15); pin 2 is the cascade and not connected.
 * true means asserted. As the data sheet demands, an edge-triggered request must
 * stay asserted until it is acknowledged: one that is withdrawn before turns into a
 * spurious IRQ7 or IRQ15. The output INTR is a level; it drops at each INTA and
 * rises again when more is pending, so that an edge-triggered receiver sees an edge.
 */
#pragma once

#include "base/error.h"
#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"

struct pic;

/* Set-up. 'intr' is set from any thread, with the pic's lock held. */
struct pic *pic_new(struct irq_line intr);
void pic_free(struct pic *p);

/* Windows, all with a struct pic as device: 20h (2 ports), A0h (2), 4D0h (2). */
extern const struct io_ops pic_master_ops;
extern const struct io_ops pic_slave_ops;
extern const struct io_ops pic_elcr_ops;

/* Any thread. Input pin; usable as irq_line.set with a struct pic as chip. */
void pic_set(void *chip, unsigned pin, bool level);
/* The output INTR as it is now. */
bool pic_intr(struct pic *p);

/* A vCPU thread: the INTA cycle. Always returns a vector, 0..255. */
int pic_take(struct pic *p);

/* Machine stopped. Power-up; the input pins keep their levels. */
void pic_reset(struct pic *p);

extern const struct state_desc pic_desc;
void pic_save(const struct pic *p, struct state_buf *b);
int pic_load(struct pic *p, struct state_buf *b, struct error *err);
