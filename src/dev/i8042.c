/*
 * Keyboard controller with a PS/2 keyboard and, if wanted, a PS/2 mouse.
 *
 * The 8042 as programmed in the PS/2 (IBM PS/2 Hardware Interface Technical
 * Reference, "Keyboard and Auxiliary Device Controller"), with the keyboard and
 * mouse of the same manual; port 92h as in Intel's ICH9 (316972, 13.7.3): line A20
 * is open when either of the two gates is. After a reset the controller is as
 * firmware leaves it: translating, keyboard on, auxiliary port off.
 * Deliberately missing: time (every answer is there at once, the input buffer is
 * never full), passwords, security lock, scan code sets 1 and 3, mouse wheel.
 *
 * The output buffer holds one byte, from the controller, the keyboard or the mouse;
 * what the devices want to send waits in their own queues, as the real
 * ones do while their clock line is held.
 *
 * Lock: 'lock' covers 's'; taken on vCPU threads and by whoever brings key and mouse
 * events. The outputs are called without it.
 */
#include "dev/i8042.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"

enum { ST_OBF = 0x01, ST_SYS = 0x04, ST_CMD = 0x08, ST_UNLOCKED = 0x10, ST_AUX = 0x20 };

/* Command byte. */
enum {
	MODE_KBD_INT = 0x01,
	MODE_AUX_INT = 0x02,
	MODE_SYS = 0x04,
	MODE_KBD_OFF = 0x10,
	MODE_AUX_OFF = 0x20,
	MODE_XLAT = 0x40
};

/* Output port. */
enum {
	P2_NO_RESET = 0x01,
	P2_A20 = 0x02,
	P2_KBD_OBF = 0x10,
	P2_AUX_OBF = 0x20,
	P2_IDLE = 0xc0
};

enum { P92_RESET = 0x01, P92_A20 = 0x02, P92_KEPT = 0xca };

enum { FROM_NONE, FROM_KBD, FROM_AUX };
enum { ACK = 0xfa, RESEND = 0xfe, BAT_OK = 0xaa };

/* mouse_flags */
enum { M_ON = 1, M_SCALED = 2, M_REMOTE = 4, M_WRAP = 8 };

#define QUEUE       32
#define MOUSE_LIMIT 255 /* what a packet can tell */

/* Guest-visible state. */
struct i8042_state {
	i16 dx, dy;          /* movement not yet told */
	u8 ram[32];          /* byte 0 is the command byte */
	u8 outbuf, out_from; /* output buffer, FROM_* or empty */
	u8 ctl, ctl_from; /* the controller's answer that waits for the output buffer */
	u8 cmd_last;      /* the last write went to port 64h */
	u8 arg_of; /* command whose argument is the next write to port 60h; 0: none */
	u8 gate_a20, port92;
	u8 xlat_break; /* translation: f0h was seen */
	u8 kbd_arg_of, kbd_leds, kbd_rate, kbd_on, kbd_last, kbd_count;
	u8 kbd[QUEUE];
	u8 mouse_arg_of, mouse_flags, mouse_res, mouse_rate, mouse_buttons, mouse_last;
	u8 mouse_count;
	u8 mouse[QUEUE];
};

static const struct state_field i8042_fields[] = {
	STATE_FIELD(struct i8042_state, dx, 1),
	STATE_FIELD(struct i8042_state, dy, 1),
	STATE_ARRAY(struct i8042_state, ram, 1),
	STATE_FIELD(struct i8042_state, outbuf, 1),
	STATE_FIELD(struct i8042_state, out_from, 1),
	STATE_FIELD(struct i8042_state, ctl, 1),
	STATE_FIELD(struct i8042_state, ctl_from, 1),
	STATE_FIELD(struct i8042_state, cmd_last, 1),
	STATE_FIELD(struct i8042_state, arg_of, 1),
	STATE_FIELD(struct i8042_state, gate_a20, 1),
	STATE_FIELD(struct i8042_state, port92, 1),
	STATE_FIELD(struct i8042_state, xlat_break, 1),
	STATE_FIELD(struct i8042_state, kbd_arg_of, 1),
	STATE_FIELD(struct i8042_state, kbd_leds, 1),
	STATE_FIELD(struct i8042_state, kbd_rate, 1),
	STATE_FIELD(struct i8042_state, kbd_on, 1),
	STATE_FIELD(struct i8042_state, kbd_last, 1),
	STATE_FIELD(struct i8042_state, kbd_count, 1),
	STATE_ARRAY(struct i8042_state, kbd, 1),
	STATE_FIELD(struct i8042_state, mouse_arg_of, 1),
	STATE_FIELD(struct i8042_state, mouse_flags, 1),
	STATE_FIELD(struct i8042_state, mouse_res, 1),
	STATE_FIELD(struct i8042_state, mouse_rate, 1),
	STATE_FIELD(struct i8042_state, mouse_buttons, 1),
	STATE_FIELD(struct i8042_state, mouse_last, 1),
	STATE_FIELD(struct i8042_state, mouse_count, 1),
	STATE_ARRAY(struct i8042_state, mouse, 1),
	{ 0 },
};

static bool i8042_valid(const void *state)
{
	const struct i8042_state *s = state;

	return s->dx >= -MOUSE_LIMIT && s->dx <= MOUSE_LIMIT && s->dy >= -MOUSE_LIMIT &&
	       s->dy <= MOUSE_LIMIT && s->out_from <= FROM_AUX &&
	       s->ctl_from <= FROM_AUX && s->cmd_last <= 1 && s->gate_a20 <= 1 &&
	       !(s->port92 & ~(P92_KEPT | P92_RESET)) && s->xlat_break <= 1 &&
	       s->kbd_on <= 1 && s->kbd_count <= QUEUE && s->mouse_count <= QUEUE &&
	       s->mouse_buttons <= 7 && s->mouse_flags <= 15;
}

const struct state_desc i8042_desc = {
	.name = "i8042",
	.size = sizeof(struct i8042_state),
	.version = 1,
	.fields = i8042_fields,
	.valid = i8042_valid,
};

struct i8042 {
	struct i8042_state s;
	pthread_mutex_t lock;
	struct irq_line kbd_irq, aux_irq;
	bool has_mouse;
	struct i8042_outputs out;
};

/* What an access does to the outputs; carried out after the lock was released. */
struct effect {
	bool reset, a20_changed, a20;
};

/* Scan code set 2 to set 1, as the controller's ROM has it. */
/* clang-format off */
static const u8 set2_to_set1[0x85] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
	0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
	0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
	0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
	0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
	0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
	0x80, 0x81, 0x82, 0x41, 0x54,
};
/* clang-format on */

/* ---- all below until the public part: lock held ---- */

static bool mode(const struct i8042_state *s, u8 bit)
{
	return s->ram[0] & bit;
}

static bool a20_open(const struct i8042_state *s)
{
	return s->gate_a20 || s->port92 & P92_A20;
}

static void update_irq(struct i8042 *k)
{
	const struct i8042_state *s = &k->s;

	irq_set(&k->kbd_irq, s->out_from == FROM_KBD && mode(s, MODE_KBD_INT));
	irq_set(&k->aux_irq, s->out_from == FROM_AUX && mode(s, MODE_AUX_INT));
}

static u8 queue_pop(u8 *q, u8 *count)
{
	u8 v = q[0];

	memmove(q, q + 1, QUEUE - 1);
	q[QUEUE - 1] = 0;
	(*count)--;
	return v;
}

/*
 * The next byte of the keyboard, translated if wanted. False when f0h was all there
 * was.
 */
static bool kbd_next(struct i8042_state *s, u8 *v)
{
	while (s->kbd_count) {
		*v = queue_pop(s->kbd, &s->kbd_count);
		if (!mode(s, MODE_XLAT)) {
			s->xlat_break = 0;
			return true;
		}
		if (*v == 0xf0) {
			s->xlat_break = 1;
			continue;
		}
		if (*v < sizeof(set2_to_set1))
			*v = set2_to_set1[*v];
		if (s->xlat_break)
			*v |= 0x80;
		s->xlat_break = 0;
		return true;
	}
	return false;
}

/* Fill the output buffer when it is empty and somebody has something. */
static void fill(struct i8042 *k)
{
	struct i8042_state *s = &k->s;

	if (s->out_from != FROM_NONE)
		return;
	if (s->ctl_from != FROM_NONE) {
		s->outbuf = s->ctl;
		s->out_from = s->ctl_from;
		s->ctl_from = FROM_NONE;
	} else if (!mode(s, MODE_KBD_OFF) && kbd_next(s, &s->outbuf)) {
		s->out_from = FROM_KBD;
	} else if (!mode(s, MODE_AUX_OFF) && s->mouse_count) {
		s->outbuf = queue_pop(s->mouse, &s->mouse_count);
		s->out_from = FROM_AUX;
	}
}

static void ctl_answer(struct i8042_state *s, u8 v, u8 from)
{
	s->ctl = v;
	s->ctl_from = from;
}

/* ---- keyboard ---- */

static void kbd_send(struct i8042_state *s, u8 v)
{
	if (s->kbd_count < QUEUE)
		s->kbd[s->kbd_count++] = v;
	s->kbd_last = v;
}

static void kbd_defaults(struct i8042_state *s)
{
	s->kbd_rate = 0x2b; /* 10.9 characters a second after 500 ms */
	s->kbd_leds = 0;
}

static void kbd_argument(struct i8042_state *s, u8 v)
{
	switch (s->kbd_arg_of) {
	case 0xed: s->kbd_leds = v & 7; break;
	case 0xf3: s->kbd_rate = v & 0x7f; break;
	case 0xf0:
		kbd_send(s, v <= 2 && v != 1 ? ACK : RESEND);
		if (!v)
			kbd_send(s, 2);
		goto done;
	default: break; /* fbh to fdh: a key in set 3 */
	}
	kbd_send(s, ACK);
done:
	s->kbd_arg_of = 0;
}

static void kbd_command(struct i8042_state *s, u8 v)
{
	u8 last = s->kbd_last;

	/* An argument has bit 7 clear; anything else is a new command. */
	if (s->kbd_arg_of && v < 0x80) {
		kbd_argument(s, v);
		return;
	}
	s->kbd_arg_of = 0;
	switch (v) {
	case 0xed:
	case 0xf0:
	case 0xf3:
	case 0xfb:
	case 0xfc:
	case 0xfd:
		s->kbd_arg_of = v;
		kbd_send(s, ACK);
		break;
	case 0xee: kbd_send(s, 0xee); break;
	case 0xf2:
		kbd_send(s, ACK);
		kbd_send(s, 0xab);
		kbd_send(s, 0x83);
		break;
	case 0xf4:
	case 0xf5:
	case 0xf6:
		s->kbd_count = 0;
		if (v != 0xf4)
			kbd_defaults(s);
		if (v != 0xf6)
			s->kbd_on = v == 0xf4;
		kbd_send(s, ACK);
		break;
	case 0xf7:
	case 0xf8:
	case 0xf9:
	case 0xfa: kbd_send(s, ACK); break;
	case 0xfe: kbd_send(s, last); break;
	case 0xff:
		s->kbd_count = 0;
		kbd_defaults(s);
		s->kbd_on = 1;
		kbd_send(s, ACK);
		kbd_send(s, BAT_OK);
		break;
	default: kbd_send(s, RESEND); break;
	}
}

/* ---- mouse ---- */

static void mouse_send(struct i8042_state *s, u8 v)
{
	if (s->mouse_count < QUEUE)
		s->mouse[s->mouse_count++] = v;
	s->mouse_last = v;
}

static void mouse_packet(struct i8042_state *s)
{
	u8 first = 0x08 | s->mouse_buttons;

	if (s->dx < 0)
		first |= 0x10;
	if (s->dy < 0)
		first |= 0x20;
	mouse_send(s, first);
	mouse_send(s, (u8)s->dx);
	mouse_send(s, (u8)s->dy);
	s->dx = s->dy = 0;
}

static void mouse_defaults(struct i8042_state *s)
{
	s->mouse_flags = 0;
	s->mouse_res = 2;
	s->mouse_rate = 100;
	s->dx = s->dy = 0;
}

static void mouse_status(struct i8042_state *s)
{
	u8 v = 0;

	v |= s->mouse_flags & M_REMOTE ? 0x40 : 0;
	v |= s->mouse_flags & M_ON ? 0x20 : 0;
	v |= s->mouse_flags & M_SCALED ? 0x10 : 0;
	/* The button bits stand in another order than in a packet. */
	v |= s->mouse_buttons & 1 ? 4 : 0;
	v |= s->mouse_buttons & 4 ? 2 : 0;
	v |= s->mouse_buttons & 2 ? 1 : 0;
	mouse_send(s, v);
	mouse_send(s, s->mouse_res);
	mouse_send(s, s->mouse_rate);
}

static void mouse_flag(struct i8042_state *s, u8 flag, bool on)
{
	if (on)
		s->mouse_flags |= flag;
	else
		s->mouse_flags &= (u8)~flag;
}

static void mouse_argument(struct i8042_state *s, u8 v)
{
	if (s->mouse_arg_of == 0xe8)
		s->mouse_res = v & 3;
	else
		s->mouse_rate = v;
	s->mouse_arg_of = 0;
	mouse_send(s, ACK);
}

static void mouse_command(struct i8042_state *s, u8 v)
{
	u8 last = s->mouse_last;

	if (s->mouse_arg_of) {
		mouse_argument(s, v);
		return;
	}
	if (s->mouse_flags & M_WRAP && v != 0xec && v != 0xff) {
		mouse_send(s, v);
		return;
	}
	/* A command ends what the mouse was about to send. */
	s->mouse_count = 0;
	if (v == 0xfe) {
		mouse_send(s, last);
		return;
	}
	if (v < 0xe6 || v == 0xed || v == 0xef || v == 0xf1 || (v >= 0xf7 && v <= 0xfd)) {
		mouse_send(s, RESEND);
		return;
	}
	mouse_send(s, ACK);
	switch (v) {
	case 0xe6:
	case 0xe7: mouse_flag(s, M_SCALED, v == 0xe7); break;
	case 0xe8:
	case 0xf3: s->mouse_arg_of = v; break;
	case 0xe9: mouse_status(s); break;
	case 0xea: mouse_flag(s, M_REMOTE, false); break;
	case 0xeb: mouse_packet(s); break;
	case 0xec:
	case 0xee: mouse_flag(s, M_WRAP, v == 0xee); break;
	case 0xf0: mouse_flag(s, M_REMOTE, true); break;
	case 0xf2: mouse_send(s, 0); break;
	case 0xf4:
	case 0xf5: mouse_flag(s, M_ON, v == 0xf4); break;
	case 0xf6: mouse_defaults(s); break;
	case 0xff:
		mouse_defaults(s);
		mouse_send(s, BAT_OK);
		mouse_send(s, 0);
		break;
	default: break;
	}
}

/* ---- controller ---- */

static void set_a20(struct i8042_state *s, struct effect *e, u8 gate, u8 port92)
{
	bool was = a20_open(s);

	s->gate_a20 = gate;
	s->port92 = port92;
	e->a20 = a20_open(s);
	e->a20_changed = e->a20 != was;
}

static u8 output_port(const struct i8042_state *s)
{
	u8 v = P2_NO_RESET | P2_IDLE;

	v |= s->gate_a20 ? P2_A20 : 0;
	v |= s->out_from == FROM_KBD ? P2_KBD_OBF : 0;
	v |= s->out_from == FROM_AUX ? P2_AUX_OBF : 0;
	return v;
}

/* Commands of the auxiliary port. Without a mouse the controller is one that has none. */
static void aux_command(struct i8042 *k, u8 v)
{
	struct i8042_state *s = &k->s;

	switch (v) {
	case 0xa7:
		if (k->has_mouse)
			s->ram[0] |= MODE_AUX_OFF;
		break;
	case 0xa8:
		if (k->has_mouse)
			s->ram[0] &= (u8)~MODE_AUX_OFF;
		break;
	default: /* a9h: interface test; 1 is "clock line stuck low" */
		ctl_answer(s, k->has_mouse ? 0 : 1, FROM_KBD);
		break;
	}
}

static void ctl_command(struct i8042 *k, u8 v, struct effect *e)
{
	struct i8042_state *s = &k->s;

	s->arg_of = 0;
	switch (v) {
	case 0x20 ... 0x3f: ctl_answer(s, s->ram[v & 0x1f], FROM_KBD); break;
	case 0x60 ... 0x7f:
	case 0xd1:
	case 0xd2:
	case 0xd3:
	case 0xd4: s->arg_of = v; break;
	case 0xa4: ctl_answer(s, 0xf1, FROM_KBD); break; /* no password */
	case 0xa7:
	case 0xa8:
	case 0xa9: aux_command(k, v); break;
	case 0xaa:
		s->ram[0] |= MODE_SYS;
		ctl_answer(s, 0x55, FROM_KBD);
		break;
	case 0xab: ctl_answer(s, 0, FROM_KBD); break;
	case 0xad: s->ram[0] |= MODE_KBD_OFF; break;
	case 0xae: s->ram[0] &= (u8)~MODE_KBD_OFF; break;
	case 0xc0: ctl_answer(s, 0x80, FROM_KBD); break; /* not locked */
	case 0xd0: ctl_answer(s, output_port(s), FROM_KBD); break;
	case 0xdd:
	case 0xdf: set_a20(s, e, v == 0xdf, s->port92); break;
	case 0xe0: ctl_answer(s, 0, FROM_KBD); break;
	case 0xf0 ... 0xff: e->reset = !(v & P2_NO_RESET); break;
	default: guest_bug("i8042", "unknown command %02xh", v); break;
	}
}

static void ctl_argument(struct i8042 *k, u8 v, struct effect *e)
{
	struct i8042_state *s = &k->s;
	u8 cmd = s->arg_of;

	s->arg_of = 0;
	switch (cmd) {
	case 0xd1:
		set_a20(s, e, !!(v & P2_A20), s->port92);
		e->reset = !(v & P2_NO_RESET);
		break;
	case 0xd2: ctl_answer(s, v, FROM_KBD); break;
	case 0xd3: ctl_answer(s, v, k->has_mouse ? FROM_AUX : FROM_KBD); break;
	case 0xd4:
		if (!k->has_mouse)
			break;
		/* Talking to a device lets its clock go. */
		s->ram[0] &= (u8)~MODE_AUX_OFF;
		mouse_command(s, v);
		break;
	default: /* 60h to 7fh */
		s->ram[cmd & 0x1f] = v;
		if (!(cmd & 0x1f) && !k->has_mouse)
			s->ram[0] |= MODE_AUX_OFF;
		break;
	}
}

/* ---- public ---- */

static void act(struct i8042 *k, const struct effect *e)
{
	if (e->a20_changed && k->out.a20)
		k->out.a20(k->out.opaque, e->a20);
	if (e->reset && k->out.reset)
		k->out.reset(k->out.opaque);
}

static u64 data_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;
	u8 v;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	v = k->s.outbuf;
	k->s.out_from = FROM_NONE;
	/* The line falls between two bytes: the PIC input is edge-triggered. */
	update_irq(k);
	fill(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	return v;
}

static void data_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;
	struct effect e = { 0 };

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	k->s.cmd_last = 0;
	if (k->s.arg_of) {
		ctl_argument(k, (u8)val, &e);
	} else {
		k->s.ram[0] &= (u8)~MODE_KBD_OFF;
		kbd_command(&k->s, (u8)val);
	}
	fill(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	act(k, &e);
}

static u64 status_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;
	const struct i8042_state *s = &k->s;
	u8 v = ST_UNLOCKED;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	v |= s->out_from != FROM_NONE ? ST_OBF : 0;
	v |= s->out_from == FROM_AUX ? ST_AUX : 0;
	v |= mode(s, MODE_SYS) ? ST_SYS : 0;
	v |= s->cmd_last ? ST_CMD : 0;
	pthread_mutex_unlock(&k->lock);
	return v;
}

static void command_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;
	struct effect e = { 0 };

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	k->s.cmd_last = 1;
	ctl_command(k, (u8)val, &e);
	fill(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	act(k, &e);
}

static u64 port92_read(void *dev, u64 off, unsigned size)
{
	struct i8042 *k = dev;
	u8 v;

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	v = k->s.port92;
	pthread_mutex_unlock(&k->lock);
	return v;
}

static void port92_write(void *dev, u64 off, u64 val, unsigned size)
{
	struct i8042 *k = dev;
	struct effect e = { 0 };

	(void)off;
	(void)size;
	pthread_mutex_lock(&k->lock);
	e.reset = val & ~(u64)k->s.port92 & P92_RESET;
	set_a20(&k->s, &e, k->s.gate_a20, val & (P92_KEPT | P92_RESET));
	pthread_mutex_unlock(&k->lock);
	act(k, &e);
}

const struct io_ops i8042_data_ops = { .read = data_read,
				       .write = data_write,
				       .sizes = IO_1 };
const struct io_ops i8042_status_ops = {
	.read = status_read,
	.write = command_write,
	.sizes = IO_1,
};
const struct io_ops i8042_port92_ops = {
	.read = port92_read,
	.write = port92_write,
	.sizes = IO_1,
};

static void set_power_on(struct i8042 *k)
{
	struct i8042_state *s = &k->s;

	memset(s, 0, sizeof(*s));
	s->ram[0] = MODE_KBD_INT | MODE_SYS | MODE_AUX_OFF | MODE_XLAT;
	s->gate_a20 = 1;
	s->kbd_on = 1;
	kbd_defaults(s);
	mouse_defaults(s);
}

struct i8042 *i8042_new(struct irq_line kbd, struct irq_line aux, bool mouse,
			struct i8042_outputs out)
{
	struct i8042 *k = xzalloc(sizeof(*k));

	pthread_mutex_init(&k->lock, NULL);
	k->kbd_irq = kbd;
	k->aux_irq = aux;
	k->has_mouse = mouse;
	k->out = out;
	set_power_on(k);
	return k;
}

void i8042_free(struct i8042 *k)
{
	if (!k)
		return;
	pthread_mutex_destroy(&k->lock);
	free(k);
}

void i8042_reset(struct i8042 *k)
{
	pthread_mutex_lock(&k->lock);
	set_power_on(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	if (k->out.a20)
		k->out.a20(k->out.opaque, true);
}

void i8042_save(const struct i8042 *k, struct state_buf *b)
{
	state_save(b, &i8042_desc, 0, &k->s);
}

int i8042_load(struct i8042 *k, struct state_buf *b, struct error *err)
{
	bool open;
	int ret;

	pthread_mutex_lock(&k->lock);
	ret = state_load(b, &i8042_desc, 0, &k->s, err);
	open = a20_open(&k->s);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	if (!ret && k->out.a20)
		k->out.a20(k->out.opaque, open);
	return ret;
}

bool i8042_a20_open(struct i8042 *k)
{
	bool open;

	pthread_mutex_lock(&k->lock);
	open = a20_open(&k->s);
	pthread_mutex_unlock(&k->lock);
	return open;
}

bool i8042_key(struct i8042 *k, const u8 *codes, size_t n)
{
	struct i8042_state *s = &k->s;
	bool ok;

	pthread_mutex_lock(&k->lock);
	ok = s->kbd_on && n <= QUEUE - (size_t)s->kbd_count;
	for (size_t i = 0; ok && i < n; i++)
		kbd_send(s, codes[i]);
	fill(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	return ok;
}

static i16 moved(i16 old, int by)
{
	i64 v = (i64)old + by;

	return (i16)(v > MOUSE_LIMIT ? MOUSE_LIMIT : v < -MOUSE_LIMIT ? -MOUSE_LIMIT : v);
}

bool i8042_mouse(struct i8042 *k, int dx, int dy, u8 buttons)
{
	struct i8042_state *s = &k->s;
	bool ok;

	pthread_mutex_lock(&k->lock);
	ok = k->has_mouse && s->mouse_flags & M_ON;
	if (ok) {
		s->dx = moved(s->dx, dx);
		s->dy = moved(s->dy, dy);
		s->mouse_buttons = buttons & 7;
		/* While packets wait, movement adds up instead. */
		ok = !(s->mouse_flags & (M_REMOTE | M_WRAP)) &&
		     s->mouse_count <= QUEUE - 3;
		if (ok)
			mouse_packet(s);
	}
	fill(k);
	update_irq(k);
	pthread_mutex_unlock(&k->lock);
	return ok;
}
