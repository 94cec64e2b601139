/*
 * Serial port with a 16550A UART: 8 ports, one interrupt.
 *
 * National PC16550D data sheet (June 1995), section 8. Both FIFOs with trigger
 * levels and the character timeout, interrupt priorities, loopback, modem
 * inputs, and the PC's gate of the interrupt by OUT2.
 *
 * Deliberately missing: baud rate and word length do not slow or change data
 * (they only set the character timeout); FIFO DMA modes; a break that the guest
 * sends. What the sink does not take stays in the transmitter, THRE low.
 *
 * Lock: 'lock' covers all of 's'; taken on vCPU threads, the event loop (receive,
 * transmitter ready) and the timer thread.
 */
#include "dev/serial.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

#define FIFO      16
#define BAUD_BASE 115200 /* 1.8432 MHz / 16 */
/* Bytes received without a pause, and the longest pause. */
#define BURST     256
#define PAUSE_NS  2000000

enum {
	RBR = 0,
	THR = 0,
	DLL = 0,
	IER = 1,
	DLM = 1,
	IIR = 2,
	FCR = 2,
	LCR = 3,
	MCR = 4,
	LSR = 5,
	MSR = 6,
	SCR = 7
};

enum { IER_RX = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum {
	IIR_MODEM = 0x00,
	IIR_NONE = 0x01,
	IIR_THRE = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 0x01, FCR_RX_RESET = 0x02, FCR_TX_RESET = 0x04, FCR_KEPT = 0xc9 };
enum { LCR_STOP = 0x04, LCR_PARITY = 0x08, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum {
	LSR_DR = 0x01,
	LSR_OE = 0x02,
	LSR_BI = 0x10,
	LSR_ERRORS = 0x1e,
	LSR_THRE = 0x20,
	LSR_TEMT = 0x40,
	LSR_FIFO_ERROR = 0x80
};
enum { MSR_DELTAS = 0x0f, MSR_TERI = 0x04, MSR_LINES = 0xf0 };
enum { PENDING_THRE = 1, PENDING_TIMEOUT = 2 };

/* Guest-visible state. */
struct serial_state {
	i64 timeout_ns; /* virtual time of the character timeout, VNS_NEVER when none */
	u16 divisor;
	u16 rx_count, tx_count;
	u8 ier, lcr, mcr, scr;
	u8 fcr;     /* without the reset bits */
	u8 lsr;     /* error bits only, the rest is computed */
	u8 msr;     /* lines as the guest sees them, and deltas */
	u8 lines;   /* modem inputs from outside */
	u8 pending; /* PENDING_* */
	u8 rbr;     /* last byte read */
	u8 tx[FIFO], rx[FIFO];
	u8 rx_error[FIFO]; /* LSR error bits of each byte in rx */
};

static const struct state_field serial_fields[] = {
	STATE_FIELD(struct serial_state, timeout_ns, 1),
	STATE_FIELD(struct serial_state, divisor, 1),
	STATE_FIELD(struct serial_state, rx_count, 1),
	STATE_FIELD(struct serial_state, tx_count, 1),
	STATE_FIELD(struct serial_state, ier, 1),
	STATE_FIELD(struct serial_state, lcr, 1),
	STATE_FIELD(struct serial_state, mcr, 1),
	STATE_FIELD(struct serial_state, scr, 1),
	STATE_FIELD(struct serial_state, fcr, 1),
	STATE_FIELD(struct serial_state, lsr, 1),
	STATE_FIELD(struct serial_state, msr, 1),
	STATE_FIELD(struct serial_state, lines, 1),
	STATE_FIELD(struct serial_state, pending, 1),
	STATE_FIELD(struct serial_state, rbr, 1),
	STATE_ARRAY(struct serial_state, tx, 1),
	STATE_ARRAY(struct serial_state, rx, 1),
	STATE_ARRAY(struct serial_state, rx_error, 1),
	{ 0 },
};

static bool serial_valid(const void *state)
{
	const struct serial_state *s = state;
	u8 errors = 0;

	for (unsigned i = 0; i < FIFO; i++)
		errors |= s->rx_error[i];
	return s->rx_count <= FIFO && s->tx_count <= FIFO && s->ier <= 0x0f &&
	       s->mcr <= 0x1f && !(s->fcr & ~FCR_KEPT) &&
	       !((s->lsr | errors) & ~LSR_ERRORS) && !(s->lines & ~MSR_LINES) &&
	       s->pending <= 3 && s->timeout_ns >= 0;
}

const struct state_desc serial_desc = {
	.name = "serial",
	.size = sizeof(struct serial_state),
	.version = 1,
	.fields = serial_fields,
	.valid = serial_valid,
};

struct serial {
	struct serial_state s;
	/* Bytes received since the guest saw no interrupt pending; no more until it does,
	 * or 'pause' fires. */
	unsigned burst;
	bool pausing;
	struct timer pause;
	pthread_mutex_t lock;
	u32 instance;
	struct clock *clk;
	struct timer timeout;
	struct irq_line irq;
	struct chardev_sink out;
	void (*room)(void *opaque);
	void *room_opaque;
};

/* ---- all below until the public part: lock held ---- */

static bool fifo_on(const struct serial_state *s)
{
	return s->fcr & FCR_ENABLE;
}

static bool loop_on(const struct serial_state *s)
{
	return s->mcr & MCR_LOOP;
}

static unsigned depth(const struct serial_state *s)
{
	return fifo_on(s) ? FIFO : 1;
}

static size_t rx_room(const struct serial_state *s)
{
	return s->rx_count < depth(s) ? depth(s) - s->rx_count : 0;
}

static unsigned trigger(const struct serial_state *s)
{
	static const u8 levels[4] = { 1, 4, 8, 14 };

	return fifo_on(s) ? levels[s->fcr >> 6] : 1;
}

/* The highest of the pending interrupts, table 4 of the data sheet. */
static u8 iir(const struct serial_state *s)
{
	if (s->ier & IER_LINE && s->lsr & LSR_ERRORS)
		return IIR_LINE;
	if (s->ier & IER_RX && s->rx_count >= trigger(s))
		return IIR_RX;
	if (s->ier & IER_RX && s->pending & PENDING_TIMEOUT)
		return IIR_TIMEOUT;
	if (s->ier & IER_THRE && s->pending & PENDING_THRE)
		return IIR_THRE;
	if (s->ier & IER_MODEM && s->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

/*
 * The PC gates INTR with OUT2, and loopback takes the OUT2 pin away (data sheet 8.6.7:
 * "the modem control output pins are forced to their inactive state").
 */
static void update_irq(struct serial *d)
{
	const struct serial_state *s = &d->s;

	irq_set(&d->irq, s->mcr & MCR_OUT2 && !loop_on(s) && iir(s) != IIR_NONE);
}

/* Four characters of silence: start, 5 to 8 data bits, parity, 1 or 2 stop bits each. */
static vns_t timeout_len(const struct serial_state *s)
{
	unsigned bits = 1 + 5 + (s->lcr & 3) + !!(s->lcr & LCR_PARITY) +
			(s->lcr & LCR_STOP ? 2 : 1);

	return (vns_t)muldiv64(4 * bits * MAX(s->divisor, 1u), NSEC_PER_SEC, BAUD_BASE);
}

/* A byte came or went: the timeout starts anew while there is something to time out. */
static void restart_timeout(struct serial *d)
{
	struct serial_state *s = &d->s;

	s->pending &= (u8)~PENDING_TIMEOUT;
	if (fifo_on(s) && s->rx_count) {
		s->timeout_ns = clock_now(d->clk) + timeout_len(s);
		timer_arm(&d->timeout, s->timeout_ns);
	} else if (s->timeout_ns != VNS_NEVER) {
		s->timeout_ns = VNS_NEVER;
		timer_cancel(&d->timeout);
	}
}

static void timeout_fired(void *opaque, vns_t deadline)
{
	struct serial *d = opaque;
	struct serial_state *s = &d->s;

	pthread_mutex_lock(&d->lock);
	if (s->timeout_ns == deadline) {
		s->timeout_ns = VNS_NEVER;
		s->pending |= PENDING_TIMEOUT;
		update_irq(d);
	}
	pthread_mutex_unlock(&d->lock);
}

/* The error bits of a byte show up in LSR when it becomes the next one to be read. */
static void reveal(struct serial_state *s)
{
	if (s->rx_count)
		s->lsr |= s->rx_error[0];
}

static void rx_clear(struct serial *d)
{
	d->s.rx_count = 0;
	memset(d->s.rx, 0, sizeof(d->s.rx));
	memset(d->s.rx_error, 0, sizeof(d->s.rx_error));
	restart_timeout(d);
}

static void rx_push(struct serial *d, u8 byte, u8 error)
{
	struct serial_state *s = &d->s;

	if (!rx_room(s)) {
		/*
		 * Section 8.4: the FIFO keeps what it has, a lone RBR takes the new
		 * byte.
		 */
		s->lsr |= LSR_OE;
		if (fifo_on(s))
			return;
		s->rx_count = 0;
	}
	s->rx[s->rx_count] = byte;
	s->rx_error[s->rx_count] = error;
	s->rx_count++;
	if (s->rx_count == 1)
		reveal(s);
	restart_timeout(d);
}

static u8 rx_pop(struct serial *d)
{
	struct serial_state *s = &d->s;

	if (!s->rx_count)
		return s->rbr;
	s->rbr = s->rx[0];
	s->rx_count--;
	memmove(s->rx, s->rx + 1, FIFO - 1);
	memmove(s->rx_error, s->rx_error + 1, FIFO - 1);
	s->rx[FIFO - 1] = 0;
	s->rx_error[FIFO - 1] = 0;
	reveal(s);
	restart_timeout(d);
	return s->rbr;
}

/* Move what is in the transmitter to where it goes. */
static void tx_flush(struct serial *d)
{
	struct serial_state *s = &d->s;
	size_t n = s->tx_count;

	if (!n)
		return;
	if (loop_on(s)) {
		for (unsigned i = 0; i < n; i++)
			rx_push(d, s->tx[i], 0);
	} else {
		n = chardev_write(&d->out, s->tx, n);
		n = MIN(n, s->tx_count);
	}
	memmove(s->tx, s->tx + n, s->tx_count - n);
	memset(s->tx + s->tx_count - n, 0, n);
	s->tx_count -= (u16)n;
	if (!s->tx_count)
		s->pending |= PENDING_THRE;
}

static void tx_push(struct serial *d, u8 byte)
{
	struct serial_state *s = &d->s;

	s->pending &= (u8)~PENDING_THRE;
	if (s->tx_count >= depth(s)) {
		guest_bug("serial", "transmitter written while full");
		return;
	}
	s->tx[s->tx_count++] = byte;
	tx_flush(d);
}

static u8 lsr_read(struct serial_state *s)
{
	u8 v = s->lsr;

	if (s->rx_count)
		v |= LSR_DR;
	if (!s->tx_count)
		v |= LSR_THRE | LSR_TEMT;
	for (unsigned i = 0; fifo_on(s) && i < s->rx_count; i++)
		if (s->rx_error[i])
			v |= LSR_FIFO_ERROR;
	s->lsr = 0;
	s->rx_error[0] = 0;
	return v;
}

/* What the modem inputs are now, from outside or looped back (section 8.6.7). */
static void update_modem(struct serial *d)
{
	struct serial_state *s = &d->s;
	u8 now = s->lines, changed;

	if (loop_on(s)) {
		now = 0;
		if (s->mcr & MCR_RTS)
			now |= SERIAL_CTS;
		if (s->mcr & MCR_DTR)
			now |= SERIAL_DSR;
		if (s->mcr & MCR_OUT1)
			now |= SERIAL_RI;
		if (s->mcr & MCR_OUT2)
			now |= SERIAL_DCD;
	}
	changed = (s->msr ^ now) >> 4;
	/* The ring indicator counts only when it ends. */
	if (now & SERIAL_RI)
		changed &= (u8)~MSR_TERI;
	s->msr = now | (s->msr & MSR_DELTAS) | changed;
}

static void fcr_write(struct serial *d, u8 v)
{
	struct serial_state *s = &d->s;
	bool toggled = (s->fcr ^ v) & FCR_ENABLE;

	/* Section 8.3: the other bits are taken only together with the enable bit. */
	s->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
	if (toggled)
		v |= FCR_RX_RESET | FCR_TX_RESET;
	else if (!fifo_on(s))
		return;
	if (v & FCR_RX_RESET)
		rx_clear(d);
	if (v & FCR_TX_RESET && s->tx_count) {
		s->tx_count = 0;
		memset(s->tx, 0, sizeof(s->tx));
		s->pending |= PENDING_THRE;
	}
}

static void ier_write(struct serial_state *s, u8 v)
{
	bool thre_on = v & ~s->ier & IER_THRE;

	s->ier = v & 0x0f;
	/* Enabling it with an empty transmitter interrupts at once. */
	if (thre_on && !s->tx_count)
		s->pending |= PENDING_THRE;
}

static void mcr_write(struct serial *d, u8 v)
{
	bool was = loop_on(&d->s);

	d->s.mcr = v & 0x1f;
	update_modem(d);
	/* What waits for the sink goes where the transmitter now leads. */
	if (was != loop_on(&d->s))
		tx_flush(d);
}

/*
 * A line is slow: who handles the interrupt comes to an end, and gives up where it does
 * not (Linux after 512 rounds, and it would never hear of a line that has stayed high).
 * So there is a pause now and then.
 */
static void burst_ends(struct serial *d)
{
	d->burst = 0;
	if (!d->pausing)
		return;
	d->pausing = false;
	timer_cancel(&d->pause);
}

static void burst_grows(struct serial *d, size_t n)
{
	if (!(d->s.ier & IER_RX))
		return;
	d->burst += (unsigned)n;
	if (d->burst < BURST || d->pausing)
		return;
	d->pausing = true;
	/* Some drivers never look. */
	timer_arm(&d->pause, clock_now(d->clk) + PAUSE_NS);
}

static u8 reg_read(struct serial *d, u64 off)
{
	struct serial_state *s = &d->s;
	u8 v;

	switch (off) {
	case RBR: return s->lcr & LCR_DLAB ? (u8)s->divisor : rx_pop(d);
	case IER: return s->lcr & LCR_DLAB ? (u8)(s->divisor >> 8) : s->ier;
	case IIR:
		v = iir(s);
		if (v == IIR_NONE)
			burst_ends(d);
		/* Reading it is the acknowledgement, but only of what it says. */
		if (v == IIR_THRE)
			s->pending &= (u8)~PENDING_THRE;
		return v | (fifo_on(s) ? IIR_FIFO : 0);
	case LCR: return s->lcr;
	case MCR: return s->mcr;
	case LSR: return lsr_read(s);
	case MSR:
		v = s->msr;
		s->msr &= MSR_LINES;
		return v;
	default: return s->scr;
	}
}

static void reg_write(struct serial *d, u64 off, u8 v)
{
	struct serial_state *s = &d->s;

	switch (off) {
	case THR:
		if (s->lcr & LCR_DLAB)
			s->divisor = (u16)((s->divisor & 0xff00) | v);
		else
			tx_push(d, v);
		break;
	case IER:
		if (s->lcr & LCR_DLAB)
			s->divisor = (u16)((s->divisor & 0x00ff) | v << 8);
		else
			ier_write(s, v);
		break;
	case FCR: fcr_write(d, v); break;
	case LCR: s->lcr = v; break;
	case MCR: mcr_write(d, v); break;
	case SCR: s->scr = v; break;
	default: break; /* LSR and MSR: "a write is for factory testing" */
	}
}

/* ---- public ---- */

/* Room for the backend: in loopback the receiver is not connected to it. */
static size_t room_outside(const struct serial *d)
{
	return loop_on(&d->s) || d->pausing ? 0 : rx_room(&d->s);
}

/* After a change: lower the lock, tell of room that was not there before. */
static void finish(struct serial *d, size_t room_before)
{
	bool tell = !room_before && room_outside(d) && d->room;

	update_irq(d);
	pthread_mutex_unlock(&d->lock);
	if (tell)
		d->room(d->room_opaque);
}

static void pause_fired(void *opaque, vns_t deadline)
{
	struct serial *d = opaque;
	size_t room;

	(void)deadline;
	pthread_mutex_lock(&d->lock);
	room = room_outside(d);
	burst_ends(d);
	finish(d, room);
}

static u64 serial_read(void *dev, u64 off, unsigned size)
{
	struct serial *d = dev;
	size_t room;
	u8 v;

	(void)size;
	pthread_mutex_lock(&d->lock);
	room = room_outside(d);
	v = reg_read(d, off);
	finish(d, room);
	return v;
}

static void serial_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct serial *d = dev;
	size_t room;

	(void)size;
	pthread_mutex_lock(&d->lock);
	room = room_outside(d);
	reg_write(d, off, (u8)val);
	finish(d, room);
}

const struct io_ops serial_ops = { .read = serial_read,
				   .write = serial_write,
				   .sizes = IO_1 };

struct serial *serial_new(u32 instance, struct clock *clk, struct irq_line irq,
			  struct chardev_sink out)
{
	struct serial *d = xzalloc(sizeof(*d));

	pthread_mutex_init(&d->lock, NULL);
	d->instance = instance;
	d->clk = clk;
	d->irq = irq;
	d->out = out;
	timer_init(&d->timeout, clk, timeout_fired, d);
	timer_init(&d->pause, clk, pause_fired, d);
	d->s.timeout_ns = VNS_NEVER;
	d->s.divisor = 1;
	d->s.lines = SERIAL_CTS | SERIAL_DSR | SERIAL_DCD;
	d->s.msr = d->s.lines;
	return d;
}

void serial_free(struct serial *d)
{
	if (!d)
		return;
	timer_cancel(&d->timeout);
	timer_cancel(&d->pause);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

/* Table 2 of the data sheet; the divisor and SCR survive a reset. */
void serial_reset(struct serial *d)
{
	struct serial_state *s = &d->s;
	struct serial_state zero = { .timeout_ns = VNS_NEVER,
				     .divisor = s->divisor,
				     .scr = s->scr,
				     .lines = s->lines,
				     .msr = s->lines };
	size_t room;

	pthread_mutex_lock(&d->lock);
	room = room_outside(d);
	timer_cancel(&d->timeout);
	burst_ends(d);
	*s = zero;
	finish(d, room);
}

void serial_save(const struct serial *d, struct state_buf *b)
{
	state_save(b, &serial_desc, d->instance, &d->s);
}

int serial_load(struct serial *d, struct state_buf *b, struct error *err)
{
	size_t room;
	int ret;

	pthread_mutex_lock(&d->lock);
	room = room_outside(d);
	ret = state_load(b, &serial_desc, d->instance, &d->s, err);
	if (!ret) {
		timer_cancel(&d->timeout);
		burst_ends(d);
		if (d->s.timeout_ns != VNS_NEVER)
			timer_arm(&d->timeout, d->s.timeout_ns);
	}
	finish(d, room);
	return ret;
}

void serial_set_room_notify(struct serial *d, void (*room)(void *opaque), void *opaque)
{
	d->room = room;
	d->room_opaque = opaque;
}

void serial_tx_ready(struct serial *d)
{
	pthread_mutex_lock(&d->lock);
	tx_flush(d);
	update_irq(d);
	pthread_mutex_unlock(&d->lock);
}

size_t serial_rx_room(struct serial *d)
{
	size_t n;

	pthread_mutex_lock(&d->lock);
	n = room_outside(d);
	pthread_mutex_unlock(&d->lock);
	return n;
}

size_t serial_rx(struct serial *d, const u8 *buf, size_t len)
{
	size_t n;

	pthread_mutex_lock(&d->lock);
	n = MIN(len, room_outside(d));
	for (size_t i = 0; i < n; i++)
		rx_push(d, buf[i], 0);
	burst_grows(d, n);
	update_irq(d);
	pthread_mutex_unlock(&d->lock);
	return n;
}

bool serial_rx_wanted(struct serial *d)
{
	bool wanted;

	pthread_mutex_lock(&d->lock);
	wanted = d->s.ier & IER_RX;
	pthread_mutex_unlock(&d->lock);
	return wanted;
}

void serial_rx_break(struct serial *d)
{
	pthread_mutex_lock(&d->lock);
	/* Section 8.4: one zero byte enters, marked, however long the break lasts. */
	if (!loop_on(&d->s))
		rx_push(d, 0, LSR_BI);
	update_irq(d);
	pthread_mutex_unlock(&d->lock);
}

void serial_set_modem(struct serial *d, u8 lines)
{
	pthread_mutex_lock(&d->lock);
	d->s.lines = lines & MSR_LINES;
	update_modem(d);
	update_irq(d);
	pthread_mutex_unlock(&d->lock);
}
