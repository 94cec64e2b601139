/* Serial port with a 16550A UART: 8 ports, one interrupt. */
#pragma once

#include "base/irqline.h"
#include "dev/chardev.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/clock.h"

#define SERIAL_PORTS 8

struct serial;

extern const struct io_ops serial_ops; /* 'dev' is the struct serial */
extern const struct state_desc serial_desc;

/* 'instance' tells several ports apart in saved state: 0 is COM1. */
struct serial *serial_new(u32 instance, struct clock *clk, struct irq_line irq,
			  struct chardev_sink out);
void serial_free(struct serial *s);

/* Machine stopped. */
void serial_reset(struct serial *s);
void serial_save(const struct serial *s, struct state_buf *b);
int serial_load(struct serial *s, struct state_buf *b, struct error *err);

/*
 * Told when serial_rx_room() became more than zero, on the thread that made it so (a
 * vCPU reading, whoever runs timers, who resets) and without the port's lock. Before the
 * machine runs.
 */
void serial_set_room_notify(struct serial *s, void (*room)(void *opaque), void *opaque);

/* Any thread. The sink that was full can take more. */
void serial_tx_ready(struct serial *s);
/* Bytes that serial_rx() would take now. */
size_t serial_rx_room(struct serial *s);
/* Bytes for the guest; returns how many were taken. */
size_t serial_rx(struct serial *s, const u8 *buf, size_t len);
/* The guest wants an interrupt for what it receives: its driver has the port open. */
bool serial_rx_wanted(struct serial *s);
/* The other side sends a break. */
void serial_rx_break(struct serial *s);

/*
 * The inputs of the modem as they appear in MSR bits 4 to 7. All but RI set after
 * serial_new().
 */
enum { SERIAL_CTS = 0x10, SERIAL_DSR = 0x20, SERIAL_RI = 0x40, SERIAL_DCD = 0x80 };
void serial_set_modem(struct serial *s, u8 lines);
