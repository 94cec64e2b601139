/* Keyboard controller with a PS/2 keyboard and, if wanted, a PS/2 mouse. */
#pragma once

#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"

struct i8042;

/*
 * What the controller's output port and port 92h do to the machine. Called without
 * its lock, on a vCPU's thread. Either may be NULL.
 */
struct i8042_outputs {
	void (*reset)(void *opaque); /* pulse on the CPU's reset */
	/*
	 * Address line 20 changed; closed: it is held low. When two vCPUs do it at
	 * once, the calls may come in either order: i8042_a20_open() has the truth.
	 */
	void (*a20)(void *opaque, bool open);
	void *opaque;
};

/* 'dev' is the struct i8042; one port each. */
extern const struct io_ops i8042_data_ops;   /* port 60h */
extern const struct io_ops i8042_status_ops; /* port 64h */
extern const struct io_ops i8042_port92_ops; /* port 92h: fast A20 and reset */
extern const struct state_desc i8042_desc;

/* 'kbd' is IRQ 1 and 'aux' IRQ 12. Without a mouse the auxiliary port answers nothing. */
struct i8042 *i8042_new(struct irq_line kbd, struct irq_line aux, bool mouse,
			struct i8042_outputs out);
void i8042_free(struct i8042 *k);

/* Machine stopped. */
void i8042_reset(struct i8042 *k);
void i8042_save(const struct i8042 *k, struct state_buf *b);
int i8042_load(struct i8042 *k, struct state_buf *b, struct error *err);

/* Any thread. Open after reset, as firmware leaves it. */
bool i8042_a20_open(struct i8042 *k);

/*
 * Any thread. One key event as scan code set 2 sends it (e.g. 1c or f0 1c); false
 * when the keyboard is off or its queue is full.
 */
bool i8042_key(struct i8042 *k, const u8 *codes, size_t n);
/* Movement to the right and up, buttons 1 left, 2 right, 4 middle. */
bool i8042_mouse(struct i8042 *k, int dx, int dy, u8 buttons);
