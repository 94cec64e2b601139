/* The virtio network device, with a datagram socket as the cable. */
#include "virtio_rig.h"

#include <linux/virtio_net.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net.h"
#include "net/offload.h"
#include "virtio/net.h"

#define PAIRS 2
#define HDR   12u
#define CTRL  (2 * PAIRS)
#define TX    (BUFS + 0x100000)
#define CMD   (BUFS + 0x200000)
#define RXLEN 1536u

struct fixture {
	struct rig r;
	struct net *net;
	struct virtio_net *d;
	struct drvq rx, tx, rx1, tx1, ctrl;
	int wire;
};

static const u8 mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };

#define ALL_FEATURES (~UINT64_C(0))
#define SPLIT        (ALL_FEATURES & ~BIT(VIRTIO_F_RING_PACKED))

static struct fixture *fixture_new(u64 features)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct net_config nc = { .kind = NET_DGRAM, .id = "n0" };
	struct virtio_net_setup cfg = { .pairs = PAIRS, .mtu = 1500 };
	int fd[2];

	rig_init(&f->r);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fd), 0);
	f->wire = fd[0];
	nc.fd = fd[1];
	assert_int_equal(net_open(&f->net, &nc, NULL), 0);
	cfg.net = f->net;
	memcpy(cfg.mac, mac, 6);
	f->d = virtio_net_new(f->r.phys, &cfg);
	rig_attach(&f->r, virtio_net_core(f->d), false);
	assert_int_equal(virtio_net_start(f->d, NULL), 0);
	rig_negotiate(&f->r, features);
	drvq_init(&f->r, &f->rx, 0, 64);
	drvq_init(&f->r, &f->tx, 1, 64);
	drvq_init(&f->r, &f->rx1, 2, 64);
	drvq_init(&f->r, &f->tx1, 3, 64);
	drvq_init(&f->r, &f->ctrl, CTRL, 64);
	rig_start(&f->r);
	return f;
}

static void fixture_free(struct fixture *f)
{
	rig_detach(&f->r);
	virtio_net_free(f->d);
	net_close(f->net);
	close(f->wire);
	rig_fini(&f->r);
	free(f);
}

/* Wait up to two seconds for the queue to have something. */
static bool wait_used(struct fixture *f, struct drvq *q, u16 *id, u32 *len)
{
	*id = 0;
	*len = 0;
	for (unsigned i = 0; i < 2000; i++) {
		if (drvq_used(&f->r, q, id, len))
			return true;
		usleep(1000);
	}
	return false;
}

static ssize_t wire_read(struct fixture *f, u8 *buf, size_t size, int ms)
{
	struct pollfd p = { .fd = f->wire, .events = POLLIN };

	return poll(&p, 1, ms) == 1 ? recv(f->wire, buf, size, 0) : -1;
}

static void fill_frame(u8 *p, u32 len, const u8 *to)
{
	memset(p, 0, len);
	memcpy(p, to, 6);
	p[6] = 2;
	p[12] = 0x88;
	p[13] = 0xb5;
	for (u32 i = 14; i < len; i++)
		p[i] = (u8)i;
}

static void give_buffers(struct fixture *f, struct drvq *q, unsigned n, u32 len)
{
	for (unsigned i = 0; i < n; i++) {
		struct seg s = { BUFS + q->n * 0x40000ul + (q->free % 64) * 0x1000ul, len,
				 true };

		drvq_add(&f->r, q, &s, 1);
	}
	rig_kick(&f->r, q->n);
}

static u8 *buffer(struct fixture *f, struct drvq *q, u16 id)
{
	return ram(&f->r, BUFS + q->n * 0x40000ul + id * 0x1000ul);
}

/* ---- from the guest ---- */

static void frames_are_sent(void **state)
{
	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = fixture_new(packed ? ALL_FEATURES : SPLIT);
		struct seg s[3] = { { TX, HDR, false },
				    { TX + 0x100, 40, false },
				    { TX + 0x200, 60, false } };
		u8 frame[100], got[200];
		u16 id;
		u32 len;

		for (unsigned i = 0; i < 100; i++) {
			fill_frame(frame, 100, mac);
			frame[50] = (u8)i;
			memset(ram(&f->r, TX), 0, HDR);
			memcpy(ram(&f->r, TX + 0x100), frame, 40);
			memcpy(ram(&f->r, TX + 0x200), frame + 40, 60);
			drvq_add(&f->r, &f->tx, s, 3);
			rig_kick(&f->r, 1);
			assert_int_equal(wire_read(f, got, sizeof(got), 2000), 100);
			assert_memory_equal(got, frame, 100);
			assert_true(wait_used(f, &f->tx, &id, &len));
			assert_int_equal(len, 0);
		}
		fixture_free(f);
	}
}

/* Of the next frame, as a driver that knows suppression finds it. */
static bool wants_notification(struct fixture *f, const struct drvq *q)
{
	if (q->packed)
		return le_load(ram(&f->r, q->device + 2), 2) == 2 &&
		       le_load(ram(&f->r, q->device), 2) ==
			       (q->next | (u64)q->wrap << 15);
	return le_load(ram(&f->r, q->device + 4 + 8ul * q->size), 2) == q->next;
}

static void batch_ends_with_a_notification(bool packed, unsigned count)
{
	struct fixture *f = fixture_new(packed ? ALL_FEATURES : SPLIT);
	struct seg s = { TX, HDR + 60, false };
	u8 got[200];
	u16 id;
	u32 len;

	memset(ram(&f->r, TX), 0, HDR);
	fill_frame(ram(&f->r, TX + HDR), 60, mac);
	for (unsigned i = 0; i < count; i++)
		drvq_add(&f->r, &f->tx, &s, 1);
	rig_kick(&f->r, 1);
	for (unsigned i = 0; i < count; i++) {
		assert_int_equal(wire_read(f, got, sizeof(got), 2000), 60);
		assert_true(wait_used(f, &f->tx, &id, &len));
	}
	for (unsigned i = 0; i < 2000 && !wants_notification(f, &f->tx); i++)
		usleep(1000);
	assert_true(wants_notification(f, &f->tx));
	fixture_free(f);
}

/*
 * However many there were, who sent the last asks to be told of what comes next: also
 * when the ring ends where a turn does, of a vCPU after 4, of the network's thread
 * after 64.
 */
static void batches_end_with_a_notification(void **state)
{
	static const unsigned counts[] = { 1, 3, 4, 5, 63, 64 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		batch_ends_with_a_notification(false, counts[i]);
		batch_ends_with_a_notification(true, counts[i]);
	}
}

/* Is a frame of so many bytes on the wire, and returned, when the notification is done?
 */
static bool sent_at_once(struct fixture *f, u32 len)
{
	struct seg s = { TX, HDR + len, false };
	u8 got[4000];
	bool sent;
	u16 id;
	u32 n;

	memset(ram(&f->r, TX), 0, HDR);
	fill_frame(ram(&f->r, TX + HDR), len, mac);
	drvq_add(&f->r, &f->tx, &s, 1);
	rig_kick(&f->r, 1);
	sent = drvq_used(&f->r, &f->tx, &id, &n);
	if (!sent)
		assert_true(wait_used(f, &f->tx, &id, &n));
	assert_int_equal(wire_read(f, got, sizeof(got), 2000), len);
	return sent && wants_notification(f, &f->tx);
}

/* While the network's thread sleeps, which it does sooner or later. */
static void a_small_frame_is_sent_at_once(void **state)
{
	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = fixture_new(packed ? ALL_FEATURES : SPLIT);
		unsigned tries = 0;

		while (!sent_at_once(f, 100) && tries++ < 2000)
			usleep(1000);
		assert_true(tries < 2000);
		/* A large one is too much work for a vCPU's thread, but is sent too. */
		(void)sent_at_once(f, 3000);
		fixture_free(f);
	}
}

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* A TCP frame of 14 + 20 + 20 + data bytes, without checksums. */
static u32 tcp_frame(u8 *p, u32 data)
{
	u32 len = 54 + data;

	fill_frame(p, len, mac);
	put16(p + 12, 0x0800);
	memset(p + 14, 0, 40);
	p[14] = 0x45;
	put16(p + 16, len - 14);
	p[23] = 6;
	p[34 + 12] = 0x50;
	p[34 + 13] = 0x10;
	put16(p + 34 + 16, net_fold(net_sum(p + 26, 8) + __builtin_bswap16(6) +
				    __builtin_bswap16((u16)(20 + data))));
	return len;
}

static void what_is_to_be_cut_is_cut(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct virtio_net_hdr h = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
				    .gso_size = 1000,
				    .csum_start = 34,
				    .csum_offset = 16 };
	struct seg s = { TX, 0, false };
	u8 got[2000];

	(void)state;
	memset(ram(&f->r, TX), 0, HDR);
	memcpy(ram(&f->r, TX), &h, sizeof(h));
	s.len = HDR + tcp_frame(ram(&f->r, TX + HDR), 4500);
	drvq_add(&f->r, &f->tx, &s, 1);
	rig_kick(&f->r, 1);
	for (unsigned i = 0; i < 5; i++) {
		u32 data = i < 4 ? 1000 : 500;

		assert_int_equal(wire_read(f, got, sizeof(got), 2000), 54 + data);
		assert_int_equal(got[54], (u8)(54 + 1000 * i));
		/* The checksum over all makes nothing. */
		assert_int_equal(net_fold(net_sum(got + 34, 20 + data) +
					  net_sum(got + 26, 8) + __builtin_bswap16(6) +
					  __builtin_bswap16((u16)(20 + data))),
				 0xffff);
	}
	fixture_free(f);
}

static void bad_frames_are_dropped(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct seg s[] = {
		{ TX, 5, false },
		{ TX, HDR, false },
		{ TX, HDR + 10, false },
		{ TX, HDR + NET_FRAME_MAX + 1, false },
	};
	u8 got[200];
	u16 id;
	u32 len;

	(void)state;
	memset(ram(&f->r, TX), 0, 0x20000);
	for (unsigned i = 0; i < ARRAY_SIZE(s); i++) {
		drvq_add(&f->r, &f->tx, &s[i], 1);
		rig_kick(&f->r, 1);
		assert_true(wait_used(f, &f->tx, &id, &len));
	}
	/* Offloads that point out of the frame. */
	memset(ram(&f->r, TX), 0xff, HDR);
	s[0].len = HDR + 60;
	drvq_add(&f->r, &f->tx, &s[0], 1);
	rig_kick(&f->r, 1);
	assert_true(wait_used(f, &f->tx, &id, &len));
	assert_int_equal(wire_read(f, got, sizeof(got), 50), -1);
	assert_int_equal(rig_status(&f->r), 15);
	fixture_free(f);
}

/* ---- to the guest ---- */

static void frames_are_received(void **state)
{
	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = fixture_new(packed ? ALL_FEATURES : SPLIT);
		u8 frame[200];
		u16 id;
		u32 len;

		for (unsigned i = 0; i < 100; i++) {
			give_buffers(f, &f->rx, 1, RXLEN);
			fill_frame(frame, 200, mac);
			frame[20] = (u8)i;
			assert_int_equal(send(f->wire, frame, 200, 0), 200);
			assert_true(wait_used(f, &f->rx, &id, &len));
			assert_int_equal(len, HDR + 200);
			assert_memory_equal(buffer(f, &f->rx, id) + HDR, frame, 200);
			assert_int_equal(le_load(buffer(f, &f->rx, id) + 10, 2), 1);
		}
		fixture_free(f);
	}
}

/*
 * A frame of several buffers; and it waits when there are some, but not enough of them,
 * until the driver adds others and says so where the event index asks for it.
 */
static void buffers_are_merged(void **state)
{
	(void)state;
	for (int packed = 0; packed < 2; packed++) {
		struct fixture *f = fixture_new(packed ? ALL_FEATURES : SPLIT);
		u8 frame[4000];
		u16 id;
		u32 len, at = 0;

		give_buffers(f, &f->rx, 2, RXLEN);
		fill_frame(frame, sizeof(frame), mac);
		assert_int_equal(send(f->wire, frame, sizeof(frame), 0), sizeof(frame));
		usleep(50000);
		assert_false(drvq_used(&f->r, &f->rx, &id, &len));
		if (packed) /* all are wanted */
			assert_int_equal(le_load(ram(&f->r, f->rx.device + 2), 2), 0);
		else
			assert_int_equal(
				le_load(ram(&f->r, f->rx.device + 4 + 8 * 64), 2), 2);
		give_buffers(f, &f->rx, 1, RXLEN);
		for (unsigned i = 0; i < 3; i++) {
			u32 skip = i ? 0 : HDR;

			assert_true(wait_used(f, &f->rx, &id, &len));
			if (!i)
				assert_int_equal(le_load(buffer(f, &f->rx, id) + 10, 2),
						 3);
			assert_memory_equal(buffer(f, &f->rx, id) + skip, frame + at,
					    len - skip);
			at += len - skip;
		}
		assert_int_equal(at, sizeof(frame));
		fixture_free(f);
	}
}

/* The answer: 0 is OK. */
static u8 command(struct fixture *f, u8 class, u8 cmd, const void *data, u32 size)
{
	struct seg s[3] = { { CMD, 2, false },
			    { CMD + 16, size, false },
			    { CMD + 0x1000, 1, true } };
	u16 id;
	u32 len;

	*ram(&f->r, CMD) = class;
	*ram(&f->r, CMD + 1) = cmd;
	memcpy(ram(&f->r, CMD + 16), data, size);
	*ram(&f->r, CMD + 0x1000) = 0xee;
	drvq_add(&f->r, &f->ctrl, s, 3);
	rig_kick(&f->r, CTRL);
	assert_true(drvq_used(&f->r, &f->ctrl, &id, &len));
	return *ram(&f->r, CMD + 0x1000);
}

static bool arrives(struct fixture *f, const u8 *to)
{
	static const u8 marker[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	u8 frame[100];
	u16 id;
	u32 len;
	bool came;

	/* Behind it one that always passes. */
	give_buffers(f, &f->rx, 2, RXLEN);
	fill_frame(frame, 100, to);
	send(f->wire, frame, 100, 0);
	fill_frame(frame, 99, marker);
	send(f->wire, frame, 99, 0);
	assert_true(wait_used(f, &f->rx, &id, &len));
	came = len == HDR + 100;
	if (came)
		assert_true(wait_used(f, &f->rx, &id, &len));
	assert_int_equal(len, HDR + 99);
	return came;
}

static void the_filter_is_set_by_commands(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	const u8 off = 0, on = 1, other[6] = { 2, 0, 0, 0, 0, 1 },
		 multi[6] = { 1, 0, 0x5e, 0, 0, 1 };
	u8 table[4 + 6 + 4 + 6] = { 1 };

	(void)state;
	assert_true(arrives(f, other));
	assert_int_equal(
		command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1), 0);
	assert_false(arrives(f, other));
	assert_true(arrives(f, mac));
	assert_false(arrives(f, multi));
	memcpy(table + 4, other, 6);
	table[10] = 1;
	memcpy(table + 14, multi, 6);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
				 table, sizeof(table)),
			 0);
	assert_true(arrives(f, other));
	assert_true(arrives(f, multi));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOUNI, &on, 1),
			 0);
	assert_false(arrives(f, mac));
	assert_int_equal(
		command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOUNI, &off, 1), 0);
	assert_int_equal(
		command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6),
		0);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE, 1), 2);
	fixture_free(f);
}

static void bad_commands_are_refused(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	u8 buf[64];

	(void)state;
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(command(f, 77, 0, buf, 1), 1);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_RX, 77, buf, 1), 1);
	assert_int_equal(
		command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, buf, 64),
		1);
	assert_int_equal(
		command(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, buf, 5), 1);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, buf, 2), 1);
	assert_int_equal(command(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, buf, 8), 1);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, buf, 2), 1);
	buf[0] = 2;
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, buf, 2), 0);
	assert_int_equal(rig_status(&f->r), 15);
	fixture_free(f);
}

/* Frames come back to the pair on which their flow was sent. */
static void flows_stay_on_their_pair(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct seg s = { TX, HDR + 100, false };
	const u8 two[2] = { 2, 0 };
	u8 got[200];
	u16 id;
	u32 len;

	(void)state;
	assert_int_equal(command(f, VIRTIO_NET_CTRL_MQ, 0, two, 2), 0);
	memset(ram(&f->r, TX), 0, HDR);
	tcp_frame(ram(&f->r, TX + HDR), 46);
	drvq_add(&f->r, &f->tx1, &s, 1);
	rig_kick(&f->r, 3);
	assert_int_equal(wire_read(f, got, sizeof(got), 2000), 100);
	give_buffers(f, &f->rx, 1, RXLEN);
	give_buffers(f, &f->rx1, 1, RXLEN);
	assert_int_equal(send(f->wire, got, 100, 0), 100);
	assert_true(wait_used(f, &f->rx1, &id, &len));
	assert_false(drvq_used(&f->r, &f->rx, &id, &len));
	fixture_free(f);
}

static void the_link_goes_down(void **state)
{
	struct fixture *f = fixture_new(SPLIT);

	(void)state;
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 6, 2), 1);
	bar_read(&f->r, VIRTIO_PCI_ISR, 1);
	virtio_net_set_link(f->d, false);
	assert_int_equal(bar_read(&f->r, VIRTIO_PCI_DEVICE + 6, 2), 0);
	assert_true(bar_read(&f->r, VIRTIO_PCI_ISR, 1) & 2);
	virtio_net_set_link(f->d, true);
	assert_true(arrives(f, mac));
	fixture_free(f);
}

static void state_comes_back(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	struct state_buf a = { 0 }, b = { 0 };
	const u8 off = 0;

	(void)state;
	assert_int_equal(state_covered(&virtio_net_desc), virtio_net_desc.size);
	command(f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &off, 1);
	virtio_pause(virtio_net_core(f->d));
	virtio_pci_save(f->r.p, &a);
	virtio_net_save(f->d, &a, 1);
	virtio_pci_reset(f->r.p);
	assert_int_equal(virtio_pci_load(f->r.p, &a, NULL), 0);
	assert_int_equal(virtio_net_load(f->d, &a, 1, NULL), 0);
	virtio_pci_save(f->r.p, &b);
	virtio_net_save(f->d, &b, 1);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	virtio_resume(virtio_net_core(f->d));
	assert_true(arrives(f, mac));
	state_buf_fini(&a);
	state_buf_fini(&b);
	fixture_free(f);
}

static void reset_under_load(void **state)
{
	struct fixture *f = fixture_new(SPLIT);
	u8 frame[100];

	(void)state;
	fill_frame(frame, 100, mac);
	for (unsigned i = 0; i < 200; i++) {
		for (unsigned k = 0; k < 5; k++)
			send(f->wire, frame, 100, MSG_DONTWAIT);
		give_buffers(f, &f->rx, i % 4, RXLEN);
		rig_reset_device(&f->r);
		assert_int_equal(rig_status(&f->r), 0);
		rig_negotiate(&f->r, i & 1 ? ALL_FEATURES : SPLIT);
		drvq_init(&f->r, &f->rx, 0, 64);
		rig_start(&f->r);
	}
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_are_sent),
		cmocka_unit_test(batches_end_with_a_notification),
		cmocka_unit_test(a_small_frame_is_sent_at_once),
		cmocka_unit_test(what_is_to_be_cut_is_cut),
		cmocka_unit_test(bad_frames_are_dropped),
		cmocka_unit_test(frames_are_received),
		cmocka_unit_test(buffers_are_merged),
		cmocka_unit_test(the_filter_is_set_by_commands),
		cmocka_unit_test(bad_commands_are_refused),
		cmocka_unit_test(flows_stay_on_their_pair),
		cmocka_unit_test(the_link_goes_down),
		cmocka_unit_test(state_comes_back),
		cmocka_unit_test(reset_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
