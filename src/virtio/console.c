/*
 * Virtio console device.
 *
 * Virtual I/O Device specification 1.2, section 5.3: several ports with names, size of
 * the terminal, emergency write. Ports do not come and go.
 *
 * What is to be said to the driver on the control queue is kept as bits for each port and
 * not as messages, so that it is bounded and can be saved; a message is made when there
 * is a buffer for it. Output that its sink does not take stays in the ring: the chain is
 * given back, and how much of it was written is kept.
 *
 * Lock: the virtio's. Sinks are called with it.
 */
#include "virtio/console.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/loop.h"

#define PORTS      VIRTIO_CONSOLE_PORTS_MAX
#define QUEUE_SIZE 64
#define CTRL_RX    2
#define CTRL_TX    3
#define CHUNK      4096u
#define OUT_BUDGET MiB(1) /* bytes printed for one notification */

/* What is to be said of a port, in this order. */
enum {
	SAY_ADD = 1,
	SAY_CONSOLE = 2,
	SAY_NAME = 4,
	SAY_OPEN = 8,
	SAY_RESIZE = 16,
	SAY_ALL = 31
};

struct virtio_console_state {
	u32 tx_done[PORTS]; /* bytes of the next chain that were written */
	u16 cols, rows;
	u8 say[PORTS];
	u8 host_open[PORTS];
	u8 guest_open[PORTS];
	u8 pad[4];
};

static const struct state_field console_fields[] = {
	STATE_ARRAY(struct virtio_console_state, tx_done, 1),
	STATE_FIELD(struct virtio_console_state, cols, 1),
	STATE_FIELD(struct virtio_console_state, rows, 1),
	STATE_ARRAY(struct virtio_console_state, say, 1),
	STATE_ARRAY(struct virtio_console_state, host_open, 1),
	STATE_ARRAY(struct virtio_console_state, guest_open, 1),
	STATE_ARRAY(struct virtio_console_state, pad, 1),
	{ 0 },
};

static bool console_valid(const void *state)
{
	const struct virtio_console_state *s = state;

	for (unsigned i = 0; i < PORTS; i++)
		if (s->say[i] & ~SAY_ALL || s->host_open[i] > 1 || s->guest_open[i] > 1)
			return false;
	return true;
}

const struct state_desc virtio_console_desc = {
	.name = "virtio_console",
	.size = sizeof(struct virtio_console_state),
	.version = 1,
	.fields = console_fields,
	.valid = console_valid,
};

struct port {
	struct virtio_console_port p;
	char name[VIRTIO_CONSOLE_NAME_MAX];
	bool rx_starved; /* rx() found no room: tell when there is */
};

struct virtio_console {
	struct virtio v;
	struct virtio_console_state s;
	struct loop *loop;
	struct loop_work work; /* rooms to be told, output to go on with */
	u8 again;              /* ports with output left, a bit each */
	u8 rooms;              /* ports with room again */
	unsigned ports;
	struct port port[PORTS];
	struct vq_chain chain;
};

static struct virtio_console *console_of(struct virtio *v)
{
	return container_of(v, struct virtio_console, v);
}

/* 5.3.2: port 0 has queues 0 and 1, the control queues are 2 and 3, then the others. */
static unsigned rx_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

static unsigned tx_queue(unsigned port)
{
	return rx_queue(port) + 1;
}

static bool multiport(const struct virtio_console *d)
{
	return virtio_has(&d->v, VIRTIO_CONSOLE_F_MULTIPORT);
}

/* ---- output; lock held ---- */

/* False: the sink is full, or the budget used up. */
static bool write_chain(struct virtio_console *d, unsigned i, u64 *budget)
{
	struct virtio_console_port *p = &d->port[i].p;
	u32 *done = &d->s.tx_done[i];
	u8 buf[CHUNK];

	while (*done < d->chain.out_len) {
		u32 n = vq_read(&d->chain, *done, buf, CHUNK);
		size_t took = chardev_write(&p->out, buf, n);

		*done += (u32)took;
		*budget -= MIN(*budget, (u64)took);
		if (took < n || !*budget)
			return false;
	}
	*done = 0;
	return true;
}

static void output(struct virtio_console *d, unsigned i)
{
	unsigned n = tx_queue(i), left = QUEUE_SIZE;
	struct vq *q = &d->v.vq[n];
	u64 budget = OUT_BUDGET;
	bool full = false;

	do {
		while (left && !full && virtio_pop(&d->v, n, &d->chain)) {
			left--;
			full = !write_chain(d, i, &budget);
			if (full) {
				vq_unpop(q, &d->chain);
				break;
			}
			virtio_push(&d->v, n, &d->chain, 0);
		}
	} while (virtio_runs(&d->v, n) && vq_notify_on(q) && left && !full);
	virtio_publish(&d->v, n);
	/* A full sink goes on by virtio_console_tx_ready(). */
	if ((!left || !budget) && virtio_runs(&d->v, n) && vq_ready(q)) {
		d->again |= (u8)BIT(i);
		loop_post(d->loop, &d->work);
	}
}

/* Tell the host, on the loop, if it waits for that. Lock held. */
static void input_room(struct virtio_console *d, unsigned i)
{
	if (!d->port[i].rx_starved)
		return;
	d->port[i].rx_starved = false;
	d->rooms |= (u8)BIT(i);
	loop_post(d->loop, &d->work);
}

/* ---- control; lock held ---- */

/* One message of port 'i' for the lowest of its bits. Its length. */
static u32 make_message(struct virtio_console *d, unsigned i, u8 *buf)
{
	struct virtio_console_control m = { .id = i };
	struct virtio_console_resize {
		u16 cols, rows;
	} size = { d->s.cols, d->s.rows };
	u8 bit = d->s.say[i] & (u8)-d->s.say[i];
	u32 len = sizeof(m);

	switch (bit) {
	case SAY_ADD: m.event = VIRTIO_CONSOLE_PORT_ADD; break;
	case SAY_CONSOLE:
		m.event = VIRTIO_CONSOLE_CONSOLE_PORT;
		m.value = 1;
		break;
	case SAY_NAME:
		m.event = VIRTIO_CONSOLE_PORT_NAME;
		m.value = 1;
		len += (u32)strlen(d->port[i].name);
		memcpy(buf + sizeof(m), d->port[i].name, len - sizeof(m));
		break;
	case SAY_OPEN:
		m.event = VIRTIO_CONSOLE_PORT_OPEN;
		m.value = d->s.host_open[i];
		break;
	default:
		m.event = VIRTIO_CONSOLE_RESIZE;
		memcpy(buf + sizeof(m), &size, sizeof(size));
		len += sizeof(size);
		break;
	}
	memcpy(buf, &m, sizeof(m));
	return len;
}

/* A buffer for a message. Where there is none the driver is asked to tell of the next. */
static bool message_buffer(struct virtio_console *d)
{
	while (!virtio_pop(&d->v, CTRL_RX, &d->chain))
		if (!virtio_runs(&d->v, CTRL_RX) || !vq_notify_on(&d->v.vq[CTRL_RX]))
			return false;
	return true;
}

static void say(struct virtio_console *d)
{
	u8 buf[sizeof(struct virtio_console_control) + VIRTIO_CONSOLE_NAME_MAX];

	if (!multiport(d))
		return;
	for (unsigned i = 0; i < d->ports; i++) {
		while (d->s.say[i] && message_buffer(d)) {
			u32 len = make_message(d, i, buf);

			len = vq_write(&d->chain, 0, buf, len);
			virtio_push(&d->v, CTRL_RX, &d->chain, len);
			d->s.say[i] &= (u8)(d->s.say[i] - 1);
		}
	}
	virtio_publish(&d->v, CTRL_RX);
}

static void port_ready(struct virtio_console *d, unsigned i)
{
	if (d->port[i].p.console)
		d->s.say[i] |= SAY_CONSOLE | (d->s.cols ? SAY_RESIZE : 0);
	if (d->port[i].name[0])
		d->s.say[i] |= SAY_NAME;
	if (d->s.host_open[i])
		d->s.say[i] |= SAY_OPEN;
}

static void heard(struct virtio_console *d, const struct virtio_console_control *m)
{
	switch (m->event) {
	case VIRTIO_CONSOLE_DEVICE_READY:
		for (unsigned i = 0; m->value == 1 && i < d->ports; i++)
			d->s.say[i] |= SAY_ADD;
		break;
	case VIRTIO_CONSOLE_PORT_READY:
		if (m->value == 1 && m->id < d->ports)
			port_ready(d, m->id);
		break;
	case VIRTIO_CONSOLE_PORT_OPEN:
		if (m->id >= d->ports)
			break;
		d->s.guest_open[m->id] = m->value == 1;
		/* What came for a closed port waits at the host. */
		if (m->value == 1)
			input_room(d, m->id);
		break;
	default: break;
	}
}

static void control(struct virtio_console *d)
{
	struct vq *q = &d->v.vq[CTRL_TX];
	unsigned left = QUEUE_SIZE;

	do {
		while (left && virtio_pop(&d->v, CTRL_TX, &d->chain)) {
			struct virtio_console_control m;

			left--;
			if (vq_read(&d->chain, 0, &m, sizeof(m)) == sizeof(m))
				heard(d, &m);
			virtio_push(&d->v, CTRL_TX, &d->chain, 0);
		}
	} while (virtio_runs(&d->v, CTRL_TX) && vq_notify_on(q) && left);
	virtio_publish(&d->v, CTRL_TX);
	say(d);
}

/* ---- the device; lock held ---- */

static void console_notify(struct virtio *v, unsigned n)
{
	struct virtio_console *d = console_of(v);
	unsigned port = n < 2 ? 0 : n / 2 - 1;

	if (n == CTRL_RX)
		say(d);
	else if (n == CTRL_TX)
		control(d);
	else if (n & 1)
		output(d, port);
	else
		input_room(d, port);
}

/* What must not be done in a notification, or with the lock. */
static void console_work(void *opaque)
{
	struct virtio_console *d = opaque;
	u8 rooms, again;

	pthread_mutex_lock(&d->v.lock);
	rooms = d->rooms;
	again = d->again;
	d->rooms = d->again = 0;
	for (unsigned i = 0; i < d->ports; i++)
		if (again & BIT(i))
			virtio_notified(&d->v, tx_queue(i));
	pthread_mutex_unlock(&d->v.lock);
	for (unsigned i = 0; i < d->ports; i++)
		if (rooms & BIT(i) && d->port[i].p.room)
			d->port[i].p.room(d->port[i].p.opaque);
}

static void console_config_read(struct virtio *v, u8 *config)
{
	struct virtio_console *d = console_of(v);
	struct virtio_console_config c = { .cols = d->s.cols,
					   .rows = d->s.rows,
					   .max_nr_ports = d->ports };

	memcpy(config, &c, sizeof(c));
}

/* 5.3.4: one letter for the first port, from a driver that has nothing else yet. */
static void console_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	struct virtio_console *d = console_of(v);
	u8 c = (u8)val;

	(void)size;
	if (off == offsetof(struct virtio_console_config, emerg_wr))
		(void)chardev_write(&d->port[0].p.out, &c, 1);
}

static void console_stop(struct virtio *v, int n)
{
	struct virtio_console *d = console_of(v);

	for (unsigned i = 0; i < d->ports; i++) {
		if (n < 0 || n == (int)tx_queue(i))
			d->s.tx_done[i] = 0;
		if (n >= 0)
			continue;
		d->s.say[i] = 0;
		d->s.guest_open[i] = 0;
	}
}

static const struct virtio_class console_class = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.class_code = 0x078000,
	.notify = console_notify,
	.config_read = console_config_read,
	.config_write = console_config_write,
	.stop = console_stop,
};

/* ---- the host's side ---- */

size_t virtio_console_rx(struct virtio_console *d, unsigned port, const u8 *buf,
			 size_t len)
{
	unsigned n = rx_queue(port);
	size_t done = 0;

	pthread_mutex_lock(&d->v.lock);
	/* A port that the guest has not opened has nobody to read it. */
	while (done < len && (!multiport(d) || d->s.guest_open[port])) {
		u32 part = (u32)MIN(len - done, (size_t)CHUNK), k;

		if (!virtio_pop(&d->v, n, &d->chain)) {
			if (virtio_runs(&d->v, n) && vq_notify_on(&d->v.vq[n]))
				continue;
			break;
		}
		k = vq_write(&d->chain, 0, buf + done, part);
		virtio_push(&d->v, n, &d->chain, k);
		done += k;
		if (!k) {
			virtio_break(&d->v, "a buffer for input that is not writable");
			break;
		}
	}
	virtio_publish(&d->v, n);
	d->port[port].rx_starved |= done < len;
	pthread_mutex_unlock(&d->v.lock);
	return done;
}

void virtio_console_tx_ready(struct virtio_console *d, unsigned port)
{
	pthread_mutex_lock(&d->v.lock);
	virtio_notified(&d->v, tx_queue(port));
	pthread_mutex_unlock(&d->v.lock);
}

void virtio_console_set_open(struct virtio_console *d, unsigned port, bool open)
{
	pthread_mutex_lock(&d->v.lock);
	if (d->s.host_open[port] != open) {
		d->s.host_open[port] = open;
		d->s.say[port] |= SAY_OPEN;
		say(d);
	}
	pthread_mutex_unlock(&d->v.lock);
}

void virtio_console_resize(struct virtio_console *d, u16 cols, u16 rows)
{
	pthread_mutex_lock(&d->v.lock);
	d->s.cols = cols;
	d->s.rows = rows;
	if (multiport(d)) {
		for (unsigned i = 0; i < d->ports; i++)
			if (d->port[i].p.console)
				d->s.say[i] |= SAY_RESIZE;
		say(d);
	} else {
		virtio_config_changed(&d->v);
	}
	pthread_mutex_unlock(&d->v.lock);
}

/* ---- set-up and state ---- */

struct virtio_console *virtio_console_new(struct phys *phys, struct loop *loop,
					  const struct virtio_console_port *ports,
					  unsigned count)
{
	struct virtio_console *d = xzalloc(sizeof(*d));

	d->loop = loop;
	d->work = (struct loop_work){ .run = console_work, .opaque = d };
	d->ports = count;
	virtio_init(&d->v, &console_class, phys,
		    BIT(VIRTIO_CONSOLE_F_SIZE) | BIT(VIRTIO_CONSOLE_F_MULTIPORT) |
			    BIT(VIRTIO_CONSOLE_F_EMERG_WRITE),
		    sizeof(struct virtio_console_config));
	for (unsigned i = 0; i < 2 * (count + 1); i++)
		virtio_add_queue(&d->v, QUEUE_SIZE);
	for (unsigned i = 0; i < count; i++) {
		struct port *p = &d->port[i];

		virtio_console_connect(d, i, &ports[i]);
		if (ports[i].name)
			strncpy(p->name, ports[i].name, sizeof(p->name) - 1);
		d->s.host_open[i] = ports[i].host_open;
	}
	return d;
}

void virtio_console_connect(struct virtio_console *d, unsigned port,
			    const struct virtio_console_port *p)
{
	d->port[port].p = *p;
	d->port[port].p.name = NULL;
}

void virtio_console_free(struct virtio_console *d)
{
	if (!d)
		return;
	loop_unpost(d->loop, &d->work);
	virtio_fini(&d->v);
	free(d);
}

struct virtio *virtio_console_core(struct virtio_console *d)
{
	return &d->v;
}

void virtio_console_save(struct virtio_console *d, struct state_buf *b, u32 instance)
{
	pthread_mutex_lock(&d->v.lock);
	state_save(b, &virtio_console_desc, instance, &d->s);
	pthread_mutex_unlock(&d->v.lock);
}

int virtio_console_load(struct virtio_console *d, struct state_buf *b, u32 instance,
			struct error *err)
{
	struct virtio_console_state s;
	int ret;

	pthread_mutex_lock(&d->v.lock);
	s = d->s;
	ret = state_load(b, &virtio_console_desc, instance, &s, err);
	if (!ret) {
		/* Who is connected here is what counts. */
		memcpy(s.host_open, d->s.host_open, sizeof(s.host_open));
		d->s = s;
	}
	pthread_mutex_unlock(&d->v.lock);
	return ret;
}
