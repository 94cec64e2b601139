/* The virtio console device: ports, control messages, sinks that are full. */
#include "virtio_rig.h"

#include <linux/virtio_console.h>
#include <stdlib.h>

#include "host/loop.h"
#include "virtio/console.h"

#define SPLIT (~UINT64_C(0) & ~BIT(VIRTIO_F_RING_PACKED) & ~BIT(VIRTIO_RING_F_EVENT_IDX))
#define OUT   BUFS
#define IN    (BUFS + 0x40000)
#define CTRL  (BUFS + 0x80000)

struct fixture {
	struct rig r;
	struct loop *loop;
	struct virtio_console *d;
	struct drvq rx[2], tx[2], ctrl_rx, ctrl_tx;
	u8 got[4096];
	size_t len, room;
	unsigned rooms;
};

static size_t sink(void *opaque, const u8 *buf, size_t len)
{
	struct fixture *f = opaque;
	size_t n = MIN(len, f->room);

	memcpy(f->got + f->len, buf, n);
	f->len += n;
	f->room -= n;
	return n;
}

static void room(void *opaque)
{
	struct fixture *f = opaque;

	f->rooms++;
}

static void stop(void *opaque)
{
	loop_stop(opaque, 0);
}

static void run_loop(struct fixture *f)
{
	struct loop_work w = { .run = stop, .opaque = f->loop };

	loop_post(f->loop, &w);
	loop_run(f->loop);
}

static struct fixture *fixture_new(u64 features)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct virtio_console_port p[2] = {
		{ .console = true,
		  .host_open = true,
		  .out = { sink, f },
		  .room = room,
		  .opaque = f },
		{ .name = "org.umbra.test",
		  .out = { sink, f },
		  .room = room,
		  .opaque = f },
	};

	rig_init(&f->r);
	f->room = sizeof(f->got);
	f->loop = loop_new(NULL);
	f->d = virtio_console_new(f->r.phys, f->loop, p, 2);
	rig_attach(&f->r, virtio_console_core(f->d), false);
	rig_negotiate(&f->r, features);
	drvq_init(&f->r, &f->rx[0], 0, 16);
	drvq_init(&f->r, &f->tx[0], 1, 16);
	drvq_init(&f->r, &f->ctrl_rx, 2, 16);
	drvq_init(&f->r, &f->ctrl_tx, 3, 16);
	drvq_init(&f->r, &f->rx[1], 4, 16);
	drvq_init(&f->r, &f->tx[1], 5, 16);
	rig_start(&f->r);
	return f;
}

static void fixture_free(struct fixture *f)
{
	rig_detach(&f->r);
	virtio_console_free(f->d);
	loop_free(f->loop);
	rig_fini(&f->r);
	free(f);
}

static void print(struct fixture *f, unsigned port, const char *text)
{
	struct seg s = { OUT, (u32)strlen(text), false };

	memcpy(ram(&f->r, OUT), text, s.len);
	drvq_add(&f->r, &f->tx[port], &s, 1);
	rig_kick(&f->r, f->tx[port].n);
}

static void tell(struct fixture *f, u32 id, u16 event, u16 value)
{
	struct virtio_console_control m = { id, event, value };
	struct seg s = { CTRL, sizeof(m), false };
	u16 got;
	u32 len;

	memcpy(ram(&f->r, CTRL), &m, sizeof(m));
	drvq_add(&f->r, &f->ctrl_tx, &s, 1);
	rig_kick(&f->r, 3);
	assert_true(drvq_used(&f->r, &f->ctrl_tx, &got, &len));
}

static void give_ctrl(struct fixture *f)
{
	struct seg s = { CTRL + 0x1000ul * (1 + f->ctrl_rx.free % 16), 64, true };

	drvq_add(&f->r, &f->ctrl_rx, &s, 1);
	rig_kick(&f->r, 2);
}

/* The next message, which must be this one. */
static void hear(struct fixture *f, u32 id, u16 event, u16 value, const char *more)
{
	struct virtio_console_control m;
	u16 got;
	u32 len;

	assert_true(drvq_used(&f->r, &f->ctrl_rx, &got, &len));
	memcpy(&m, ram(&f->r, CTRL + 0x1000ul * (1u + got)), sizeof(m));
	assert_int_equal(m.id, id);
	assert_int_equal(m.event, event);
	assert_int_equal(m.value, value);
	assert_int_equal(len, sizeof(m) + strlen(more));
	assert_memory_equal(ram(&f->r, CTRL + 0x1000ul * (1u + got) + sizeof(m)), more,
			    strlen(more));
}

static bool silent(struct fixture *f)
{
	u16 got;
	u32 len;

	return !drvq_used(&f->r, &f->ctrl_rx, &got, &len);
}

static void ports_are_announced(void **state)
{
	struct fixture *f = fixture_new(SPLIT);

	(void)state;
	tell(f, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	/* One buffer, one message; the others wait. */
	give_ctrl(f);
	hear(f, 0, VIRTIO_CONSOLE_PORT_ADD, 0, "");
	assert_true(silent(f));
	for (unsigned i = 0; i < 8; i++)
		give_ctrl(f);
	hear(f, 1, VIRTIO_CONSOLE_PORT_ADD, 0, "");
	tell(f, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	hear(f, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1, "");
	hear(f, 0, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	tell(f, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	hear(f, 1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.umbra.test");
	virtio_console_set_open(f->d, 1, true);
	hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1, "");
	virtio_console_set_open(f->d, 1, false);
	hear(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 0, "");
	virtio_console_resize(f->d, 0x5150, 0x1a19);
	hear(f, 0, VIRTIO_CONSOLE_RESIZE, 0, "PQ\x19\x1a");
	/* Of a port that does not exist, and what makes no sense. */
	tell(f, 2, VIRTIO_CONSOLE_PORT_READY, 1);
	tell(f, ~0u, VIRTIO_CONSOLE_PORT_OPEN, 1);
	tell(f, 0, 77, 1);
	assert_true(silent(f));
	fixture_free(f);
}

/* A driver with one buffer at a time, and the event index, is asked for the next one. */
static void messages_wait_for_buffers(void **state)
{
	struct fixture *f = fixture_new(SPLIT | BIT(VIRTIO_RING_F_EVENT_IDX));

	(void)state;
	give_ctrl(f);
	tell(f, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	hear(f, 0, VIRTIO_CONSOLE_PORT_ADD, 0, "");
	assert_true(silent(f));
	assert_int_equal(le_load(ram(&f->r, f->ctrl_rx.device + 4 + 8 * 16), 2),
			 f->ctrl_rx.next);
	give_ctrl(f);
	hear(f, 1, VIRTIO_CONSOLE_PORT_ADD, 0, "");
	fixture_free(f);
}

static void output_waits_for_its_sink(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	u16 id;
	u32 len;

	(void)state;
	print(f, 1, "hello");
	assert_true(drvq_used(&f->r, &f->tx[1], &id, &len));
	f->room = 3;
	print(f, 1, " world");
	assert_false(drvq_used(&f->r, &f->tx[1], &id, &len));
	assert_int_equal(f->len, 8);
	virtio_console_tx_ready(f->d, 1);
	assert_false(drvq_used(&f->r, &f->tx[1], &id, &len));
	f->room = 100;
	virtio_console_tx_ready(f->d, 1);
	assert_true(drvq_used(&f->r, &f->tx[1], &id, &len));
	assert_int_equal(f->len, 11);
	assert_memory_equal(f->got, "hello world", 11);
	/* The letter for emergencies. */
	bar_write(&f->r, VIRTIO_PCI_DEVICE + 8, '!', 4);
	assert_int_equal(f->got[11], '!');
	fixture_free(f);
}

static void input_waits_for_buffers_and_an_open_port(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct seg s = { IN, 4, true };
	u16 id;
	u32 len;

	(void)state;
	drvq_add(&f->r, &f->rx[1], &s, 1);
	rig_kick(&f->r, 4);
	assert_int_equal(virtio_console_rx(f->d, 1, (const u8 *)"abcdef", 6), 0);
	tell(f, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	run_loop(f);
	assert_int_equal(f->rooms, 1);
	assert_int_equal(virtio_console_rx(f->d, 1, (const u8 *)"abcdef", 6), 4);
	assert_true(drvq_used(&f->r, &f->rx[1], &id, &len));
	assert_int_equal(len, 4);
	assert_memory_equal(ram(&f->r, IN), "abcd", 4);
	drvq_add(&f->r, &f->rx[1], &s, 1);
	rig_kick(&f->r, 4);
	run_loop(f);
	assert_int_equal(f->rooms, 2);
	assert_int_equal(virtio_console_rx(f->d, 1, (const u8 *)"ef", 2), 2);
	fixture_free(f);
}

static void one_port_for_a_simple_driver(void **state)
{
	struct fixture *f = fixture_new(0);
	struct seg s = { IN, 4, true };

	(void)state;
	print(f, 0, "x");
	assert_int_equal(f->len, 1);
	drvq_add(&f->r, &f->rx[0], &s, 1);
	rig_kick(&f->r, 0);
	assert_int_equal(virtio_console_rx(f->d, 0, (const u8 *)"ab", 2), 2);
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct state_buf a = { 0 }, b = { 0 };
	u16 id;
	u32 len;

	(void)state;
	assert_int_equal(state_covered(&virtio_console_desc), virtio_console_desc.size);
	tell(f, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	f->room = 3;
	print(f, 1, "hello");
	virtio_pci_save(f->r.p, &a);
	virtio_console_save(f->d, &a, 1);
	virtio_pci_reset(f->r.p);
	assert_int_equal(virtio_pci_load(f->r.p, &a, NULL), 0);
	assert_int_equal(virtio_console_load(f->d, &a, 1, NULL), 0);
	virtio_pci_save(f->r.p, &b);
	virtio_console_save(f->d, &b, 1);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	/* Half a line was printed, the rest comes now. */
	f->room = 100;
	virtio_console_tx_ready(f->d, 1);
	assert_true(drvq_used(&f->r, &f->tx[1], &id, &len));
	assert_memory_equal(f->got, "hello", 5);
	give_ctrl(f);
	hear(f, 0, VIRTIO_CONSOLE_PORT_ADD, 0, "");
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ports_are_announced),
		cmocka_unit_test(messages_wait_for_buffers),
		cmocka_unit_test(output_waits_for_its_sink),
		cmocka_unit_test(input_waits_for_buffers_and_an_open_port),
		cmocka_unit_test(one_port_for_a_simple_driver),
		cmocka_unit_test(state_comes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
