/*
 * The two cascaded 8259A of a PC and their edge/level control registers.
 *
 * Intel 8259A data sheet 231468-003; ELCR as in the PIIX and ICH south bridges. All
 * modes: fully nested, special fully nested, automatic EOI, rotation, special
 * mask, poll. As in the south bridges the cascade is hard-wired: ICW3 is stored only, and
 * SNGL only leaves ICW3 out.
 *
 * A request is the input pin and, for an edge-triggered one, a latch that its rising
 * edge sets and its falling edge, an acknowledge and ICW1 clear. There is no other
 * copy: IRR is computed. INT stays up when a request is withdrawn before its INTA, which
 * then finds nothing and yields input 7 (data sheet, "Edge and level triggered modes");
 * any write to the chip lets it look again.
 *
 * Missing: MCS-80/85 mode (vectors are always those of 8086 mode), buffered mode (no
 * bus). Lock: p->lock covers everything; taken on vCPU threads and by whoever drives a
 * pin.
 */
#include "irq/pic.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

enum { MASTER, SLAVE };

#define CASCADE 2 /* input of the master at which the slave is */

/* ICW1, ICW4, OCW2, OCW3 */
#define ICW1_IC4        BIT(0)
#define ICW1_SNGL       BIT(1)
#define ICW1_LTIM       BIT(3)
#define ICW1_SELECT     BIT(4)
#define ICW4_UPM        BIT(0)
#define ICW4_AEOI       BIT(1)
#define ICW4_SFNM       BIT(4)
#define OCW_SELECT_OCW3 BIT(3)
#define OCW3_RIS        BIT(0)
#define OCW3_RR         BIT(1)
#define OCW3_P          BIT(2)
#define OCW3_SMM        BIT(5)
#define OCW3_ESMM       BIT(6)

/* IRQ0, 1, 2, 8 and 13 cannot be level-triggered. */
static const u8 elcr_writable[2] = { 0xf8, 0xde };

/* Guest-visible, each for master and slave. */
struct pic_state {
	u8 pins[2];  /* input levels */
	u8 latch[2]; /* edges not acknowledged */
	u8 imr[2];
	u8 isr[2];
	u8 elcr[2];
	u8 icw1[2];
	u8 icw2[2]; /* vector base, bits 7:3 */
	u8 icw3[2];
	u8 icw4[2];
	u8 next_icw[2]; /* port 1 is waiting for this ICW; 0: IMR */
	u8 top[2];      /* input of the highest priority */
	u8 special_mask[2];
	u8 rotate_aeoi[2];
	u8 read_isr[2]; /* port 0 reads ISR, else IRR */
	u8 poll[2];     /* the next read is a poll */
	u8 held[2];     /* INT is up although its request was withdrawn */
	u8 intr;        /* output of the master */
	u8 slave_int;   /* output of the slave, at the master's IR2 */
};

struct pic {
	struct pic_state s;
	pthread_mutex_t lock;
	struct irq_line intr;
};

static u8 level_pins(const struct pic_state *s, int c)
{
	/* South bridges ignore LTIM; the 8259A does not. Nobody sets it by mistake. */
	return s->icw1[c] & ICW1_LTIM ? 0xff : s->elcr[c];
}

static u8 irr(const struct pic_state *s, int c)
{
	return s->pins[c] & (s->latch[c] | level_pins(s, c));
}

/* The input of highest priority in 'mask' by rank from the top, 8 when there is none. */
static unsigned rank_of(const struct pic_state *s, int c, u8 mask)
{
	unsigned rank;

	for (rank = 0; rank < 8; rank++)
		if (mask & (1u << ((s->top[c] + rank) & 7)))
			break;
	return rank;
}

/* The request that the chip would have acknowledged now, -1 if none. */
static int pending(const struct pic_state *s, int c)
{
	unsigned rank = rank_of(s, c, irr(s, c) & ~s->imr[c]);
	unsigned irq = (s->top[c] + rank) & 7;
	u8 isr = s->isr[c];
	unsigned serving;

	if (rank == 8)
		return -1;
	/* Special mask mode: an input that is masked does not inhibit others. */
	if (s->special_mask[c])
		isr &= ~s->imr[c];
	serving = rank_of(s, c, isr);
	if (rank < serving)
		return (int)irq;
	/* Special fully nested: the slave in service may ask again. */
	if (rank == serving && c == MASTER && irq == CASCADE && (s->icw4[c] & ICW4_SFNM))
		return (int)irq;
	return -1;
}

static bool int_output(const struct pic_state *s, int c)
{
	return s->held[c] || pending(s, c) >= 0;
}

static void set_pin(struct pic_state *s, int c, unsigned irq, bool level)
{
	u8 bit = (u8)(1u << irq);

	if (level) {
		if (!(s->pins[c] & bit))
			s->latch[c] |= bit;
		s->pins[c] |= bit;
	} else {
		s->pins[c] &= ~bit;
		s->latch[c] &= ~bit;
	}
}

/* Outputs after a change. Called with the lock. */
static void update(struct pic *p)
{
	struct pic_state *s = &p->s;
	bool intr;

	s->slave_int = int_output(s, SLAVE);
	set_pin(s, MASTER, CASCADE, s->slave_int);
	intr = int_output(s, MASTER);
	if (intr != s->intr) {
		s->intr = intr;
		irq_set(&p->intr, intr);
	}
}

static void clear_isr(struct pic_state *s, int c, unsigned irq, bool rotate)
{
	s->isr[c] &= ~(1u << irq);
	if (rotate)
		s->top[c] = (irq + 1) & 7;
}

/* One INTA of a chip: the input, 7 when the request has gone (then nothing changes). */
static unsigned acknowledge(struct pic_state *s, int c)
{
	int irq = pending(s, c);

	s->held[c] = 0;
	if (irq >= 0) {
		s->latch[c] &= ~(1u << irq);
		s->isr[c] |= 1u << irq;
		if (s->icw4[c] & ICW4_AEOI)
			clear_isr(s, c, (unsigned)irq, s->rotate_aeoi[c]);
	}
	/* INT falls with INTA even when more is pending: the master sees an edge. */
	if (c == SLAVE) {
		s->slave_int = 0;
		set_pin(s, MASTER, CASCADE, false);
	}
	return irq < 0 ? 7 : (unsigned)irq;
}

static void drop_intr(struct pic *p)
{
	if (p->s.intr) {
		p->s.intr = 0;
		irq_set(&p->intr, false);
	}
}

int pic_take(struct pic *p)
{
	struct pic_state *s = &p->s;
	bool cascade;
	int vector;

	pthread_mutex_lock(&p->lock);
	cascade = pending(s, MASTER) == CASCADE;
	vector = s->icw2[MASTER] + (int)acknowledge(s, MASTER);
	if (cascade)
		vector = s->icw2[SLAVE] + (int)acknowledge(s, SLAVE);
	drop_intr(p);
	update(p);
	pthread_mutex_unlock(&p->lock);
	return vector;
}

/* OCW3 with P: the read is the INTA. Bit 7 says whether there was a request. */
static u8 poll(struct pic *p, int c)
{
	struct pic_state *s = &p->s;
	u8 v = pending(s, c) >= 0 ? 0x80 : 0;

	s->poll[c] = 0;
	v |= (u8)acknowledge(s, c);
	if (c == MASTER)
		drop_intr(p);
	update(p);
	return v;
}

static u8 chip_read(struct pic *p, int c, u64 port)
{
	const struct pic_state *s = &p->s;
	u8 v;

	pthread_mutex_lock(&p->lock);
	if (s->poll[c])
		v = poll(p, c);
	else if (port)
		v = s->imr[c];
	else
		v = s->read_isr[c] ? s->isr[c] : irr(s, c);
	pthread_mutex_unlock(&p->lock);
	return v;
}

/* Data sheet, "Initialization Command Words 1": what it resets. */
static void write_icw1(struct pic_state *s, int c, u8 v)
{
	s->icw1[c] = v;
	s->next_icw[c] = 2;
	s->latch[c] = 0;
	s->imr[c] = 0;
	s->isr[c] = 0;
	s->top[c] = 0;
	s->special_mask[c] = 0;
	s->read_isr[c] = 0;
	s->poll[c] = 0;
	s->rotate_aeoi[c] = 0;
	s->icw4[c] = 0;
}

static void write_icw(struct pic_state *s, int c, u8 v)
{
	switch (s->next_icw[c]) {
	case 2:
		s->icw2[c] = v & 0xf8;
		s->next_icw[c] = s->icw1[c] & ICW1_SNGL ? 4 : 3;
		break;
	case 3:
		s->icw3[c] = v;
		s->next_icw[c] = 4;
		break;
	default:
		s->icw4[c] = v & 0x1f;
		if (!(v & ICW4_UPM))
			guest_bug("pic", "MCS-80 mode is not supported, ICW4 is %02x", v);
		s->next_icw[c] = 0;
		break;
	}
	if (s->next_icw[c] == 4 && !(s->icw1[c] & ICW1_IC4))
		s->next_icw[c] = 0;
}

static void write_ocw2(struct pic_state *s, int c, u8 v)
{
	unsigned irq = v & 7, rank;
	u8 isr = s->isr[c];

	switch (v >> 5) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4: s->rotate_aeoi[c] = v >> 7; break;
	case 1: /* non-specific EOI, without and with rotation */
	case 5:
		/* In special mask mode it does not reach an input that is masked. */
		if (s->special_mask[c])
			isr &= ~s->imr[c];
		rank = rank_of(s, c, isr);
		if (rank < 8)
			clear_isr(s, c, (s->top[c] + rank) & 7, v & 0x80);
		break;
	case 3: /* specific EOI, without and with rotation */
	case 7: clear_isr(s, c, irq, v & 0x80); break;
	case 6: /* set priority: this one is the lowest */
		s->top[c] = (irq + 1) & 7;
		break;
	default: /* no operation */ break;
	}
}

static void write_ocw3(struct pic_state *s, int c, u8 v)
{
	if (v & OCW3_ESMM)
		s->special_mask[c] = !!(v & OCW3_SMM);
	if (v & OCW3_P)
		s->poll[c] = 1;
	else if (v & OCW3_RR)
		s->read_isr[c] = v & OCW3_RIS;
}

static void chip_write(struct pic *p, int c, u64 port, u8 v)
{
	struct pic_state *s = &p->s;

	pthread_mutex_lock(&p->lock);
	s->held[c] = 0;
	if (port && s->next_icw[c])
		write_icw(s, c, v);
	else if (port)
		s->imr[c] = v;
	else if (v & ICW1_SELECT)
		write_icw1(s, c, v);
	else if (v & OCW_SELECT_OCW3)
		write_ocw3(s, c, v);
	else
		write_ocw2(s, c, v);
	update(p);
	pthread_mutex_unlock(&p->lock);
}

static u64 master_read(void *dev, u64 off, unsigned size)
{
	(void)size;
	return chip_read(dev, MASTER, off);
}

static void master_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)size;
	chip_write(dev, MASTER, off, (u8)val);
}

static u64 slave_read(void *dev, u64 off, unsigned size)
{
	(void)size;
	return chip_read(dev, SLAVE, off);
}

static void slave_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)size;
	chip_write(dev, SLAVE, off, (u8)val);
}

static u64 elcr_read(void *dev, u64 off, unsigned size)
{
	struct pic *p = dev;
	u8 v;

	(void)size;
	pthread_mutex_lock(&p->lock);
	v = p->s.elcr[off & 1];
	pthread_mutex_unlock(&p->lock);
	return v;
}

static void elcr_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct pic *p = dev;

	(void)size;
	pthread_mutex_lock(&p->lock);
	p->s.elcr[off & 1] = (u8)val & elcr_writable[off & 1];
	update(p);
	pthread_mutex_unlock(&p->lock);
}

const struct io_ops pic_master_ops = { .read = master_read,
				       .write = master_write,
				       .sizes = IO_1 };
const struct io_ops pic_slave_ops = { .read = slave_read,
				      .write = slave_write,
				      .sizes = IO_1 };
const struct io_ops pic_elcr_ops = { .read = elcr_read,
				     .write = elcr_write,
				     .sizes = IO_1 };

void pic_set(void *chip, unsigned pin, bool level)
{
	struct pic *p = chip;
	struct pic_state *s = &p->s;
	int c = pin < 8 ? MASTER : SLAVE;
	bool up;

	if (pin >= 16 || pin == CASCADE)
		return;
	pthread_mutex_lock(&p->lock);
	up = int_output(s, c);
	set_pin(s, c, pin & 7, level);
	s->held[c] = up && pending(s, c) < 0;
	update(p);
	pthread_mutex_unlock(&p->lock);
}

bool pic_intr(struct pic *p)
{
	bool intr;

	pthread_mutex_lock(&p->lock);
	intr = p->s.intr;
	pthread_mutex_unlock(&p->lock);
	return intr;
}

struct pic *pic_new(struct irq_line intr)
{
	struct pic *p = xzalloc(sizeof(*p));

	pthread_mutex_init(&p->lock, NULL);
	p->intr = intr;
	return p;
}

void pic_free(struct pic *p)
{
	if (!p)
		return;
	pthread_mutex_destroy(&p->lock);
	free(p);
}

void pic_reset(struct pic *p)
{
	struct pic_state *s = &p->s;

	pthread_mutex_lock(&p->lock);
	for (int c = MASTER; c <= SLAVE; c++) {
		write_icw1(s, c, 0);
		s->next_icw[c] = 0;
		s->icw2[c] = 0;
		s->icw3[c] = 0;
		s->held[c] = 0;
		s->elcr[c] = 0;
	}
	update(p);
	pthread_mutex_unlock(&p->lock);
}

static const struct state_field pic_fields[] = {
	STATE_ARRAY(struct pic_state, pins, 1),
	STATE_ARRAY(struct pic_state, latch, 1),
	STATE_ARRAY(struct pic_state, imr, 1),
	STATE_ARRAY(struct pic_state, isr, 1),
	STATE_ARRAY(struct pic_state, elcr, 1),
	STATE_ARRAY(struct pic_state, icw1, 1),
	STATE_ARRAY(struct pic_state, icw2, 1),
	STATE_ARRAY(struct pic_state, icw3, 1),
	STATE_ARRAY(struct pic_state, icw4, 1),
	STATE_ARRAY(struct pic_state, next_icw, 1),
	STATE_ARRAY(struct pic_state, top, 1),
	STATE_ARRAY(struct pic_state, special_mask, 1),
	STATE_ARRAY(struct pic_state, rotate_aeoi, 1),
	STATE_ARRAY(struct pic_state, read_isr, 1),
	STATE_ARRAY(struct pic_state, poll, 1),
	STATE_ARRAY(struct pic_state, held, 1),
	STATE_FIELD(struct pic_state, intr, 1),
	STATE_FIELD(struct pic_state, slave_int, 1),
	{ 0 },
};

static bool pic_valid(const void *state)
{
	const struct pic_state *s = state;

	for (int c = MASTER; c <= SLAVE; c++) {
		if ((s->latch[c] & ~s->pins[c]) || (s->elcr[c] & ~elcr_writable[c]) ||
		    (s->icw2[c] & 7) || (s->icw4[c] & ~0x1f) || s->next_icw[c] == 1 ||
		    s->next_icw[c] > 4 || s->top[c] > 7 || s->special_mask[c] > 1 ||
		    s->rotate_aeoi[c] > 1 || s->read_isr[c] > 1 || s->poll[c] > 1 ||
		    s->held[c] > 1)
			return false;
	}
	return s->slave_int <= 1 && s->slave_int == (s->pins[MASTER] >> CASCADE & 1) &&
	       s->slave_int == int_output(s, SLAVE) && s->intr <= 1 &&
	       s->intr == int_output(s, MASTER);
}

const struct state_desc pic_desc = {
	.name = "pic",
	.size = sizeof(struct pic_state),
	.version = 1,
	.fields = pic_fields,
	.valid = pic_valid,
};

void pic_save(const struct pic *p, struct state_buf *b)
{
	state_save(b, &pic_desc, 0, &p->s);
}

int pic_load(struct pic *p, struct state_buf *b, struct error *err)
{
	int ret;

	pthread_mutex_lock(&p->lock);
	ret = state_load(b, &pic_desc, 0, &p->s, err);
	if (!ret)
		irq_set(&p->intr, p->s.intr);
	pthread_mutex_unlock(&p->lock);
	return ret;
}
