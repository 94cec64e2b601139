/*
 * Virtio network device.
 *
 * Virtual I/O Device specification 1.2, section 5.1: several queue pairs, mergeable
 * receive buffers, checksums and TCP segmentation left to the other side, both ways;
 * control queue with receive filter, MAC address, number of pairs, guest offloads.
 * Deliberately missing: RSS and hash reports, VLAN filter, UDP offload, announcements.
 *
 * Frames move on the network's thread (net/net.h); a notification wakes it, or sends a
 * few small frames itself. Frames of a flow go to the receive queue of the pair on which
 * the guest last sent for it.
 *
 * Lock: the virtio's, taken for each frame. It is not held while a frame is sent.
 */
#include "virtio/net.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "base/log.h"
#include "net/net.h"
#include "net/offload.h"

#define MACS_MAX   64
#define FLOWS      256 /* hash buckets */
#define MERGE_MAX  64  /* receive buffers for one frame */
#define TX_BATCH   64  /* frames sent before the network has its turn */
#define TX_NOW     4   /* frames sent on the vCPU's own thread */
/* With their headers: what a copy and a system call of the host do soon. */
#define TX_NOW_LEN 2048u
#define HDR_LEGACY 10u
#define HDR_LEN    12u
#define CTRL_DATA  2u
#define CTRL_BATCH 64

struct virtio_net_state {
	u8 mac[6];
	u16 pairs;    /* in use */
	u64 offloads; /* of the guest: feature bits */
	u8 promisc, allmulti, alluni, nomulti, nouni, nobcast; /* receive mode */
	u8 uni_count, multi_count;                             /* used of 'macs' */
	u8 macs[2 * MACS_MAX * 6];                             /* unicast, multicast */
	u8 uni_overflow, multi_overflow;
	u8 link;        /* the cable is in */
	u8 flow[FLOWS]; /* pair that last sent */
	u8 pad[5];
};

static const struct state_field net_fields[] = {
	STATE_ARRAY(struct virtio_net_state, mac, 1),
	STATE_FIELD(struct virtio_net_state, pairs, 1),
	STATE_FIELD(struct virtio_net_state, offloads, 1),
	STATE_FIELD(struct virtio_net_state, promisc, 1),
	STATE_FIELD(struct virtio_net_state, allmulti, 1),
	STATE_FIELD(struct virtio_net_state, alluni, 1),
	STATE_FIELD(struct virtio_net_state, nomulti, 1),
	STATE_FIELD(struct virtio_net_state, nouni, 1),
	STATE_FIELD(struct virtio_net_state, nobcast, 1),
	STATE_FIELD(struct virtio_net_state, uni_count, 1),
	STATE_FIELD(struct virtio_net_state, multi_count, 1),
	STATE_ARRAY(struct virtio_net_state, macs, 1),
	STATE_FIELD(struct virtio_net_state, uni_overflow, 1),
	STATE_FIELD(struct virtio_net_state, multi_overflow, 1),
	STATE_FIELD(struct virtio_net_state, link, 1),
	STATE_ARRAY(struct virtio_net_state, flow, 1),
	STATE_ARRAY(struct virtio_net_state, pad, 1),
	{ 0 },
};

static bool net_valid(const void *state)
{
	const struct virtio_net_state *s = state;

	for (unsigned i = 0; i < FLOWS; i++)
		if (s->flow[i] >= VIRTIO_NET_PAIRS_MAX)
			return false;
	return s->pairs >= 1 && s->pairs <= VIRTIO_NET_PAIRS_MAX &&
	       s->uni_count <= MACS_MAX && s->multi_count <= MACS_MAX && s->link <= 1;
}

const struct state_desc virtio_net_desc = {
	.name = "virtio_net",
	.size = sizeof(struct virtio_net_state),
	.version = 1,
	.fields = net_fields,
	.valid = net_valid,
};

struct virtio_net {
	struct virtio v;
	struct virtio_net_state s;
	struct virtio_net_setup cfg;
	struct net *net;
	bool rx_starved; /* a frame waits for receive buffers */
	struct vq_chain ctrl;
	/* The network's thread only. */
	struct vq_chain tx, rx[MERGE_MAX];
	u8 frame[NET_FRAME_MAX];
};

static struct virtio_net *net_of(struct virtio *v)
{
	return container_of(v, struct virtio_net, v);
}

static unsigned rx_queue(unsigned pair)
{
	return 2 * pair;
}

static unsigned tx_queue(unsigned pair)
{
	return 2 * pair + 1;
}

/* 5.1.2: behind the pairs that the driver knows of. */
static unsigned ctrl_queue(const struct virtio_net *d)
{
	return virtio_has(&d->v, VIRTIO_NET_F_MQ) ? 2 * d->cfg.pairs : 2;
}

static u32 header_len(const struct virtio_net *d)
{
	return d->v.s.legacy && !virtio_has(&d->v, VIRTIO_NET_F_MRG_RXBUF) ? HDR_LEGACY
									   : HDR_LEN;
}

/* ---- from the guest; network's thread ---- */

/* The same for both directions: addresses and ports are added. */
static u8 flow_hash(const struct net_frame *f)
{
	const u8 *p = f->data;
	u32 sum = 0, ip = NET_ETH_MIN, ports;

	if (f->len < ip + 20)
		return 0;
	if (p[12] == 0x08 && p[13] == 0x00) {
		sum = (u32)le_load(p + ip + 12, 4) + (u32)le_load(p + ip + 16, 4);
		ports = ip + 4u * (p[ip] & 15);
	} else if (p[12] == 0x86 && p[13] == 0xdd && f->len >= ip + 40) {
		for (unsigned i = 8; i < 40; i += 4)
			sum += (u32)le_load(p + ip + i, 4);
		ports = ip + 40;
	} else {
		return 0;
	}
	if (f->len >= ports + 4)
		sum += (u32)le_load(p + ports, 2) + (u32)le_load(p + ports + 2, 2);
	return (u8)((sum * 2654435761u) >> 24);
}

/* The next frame of this pair into d->frame, if it has up to 'most' bytes. Lock held. */
static bool take_frame(struct virtio_net *d, unsigned pair, u32 most, struct net_frame *f)
{
	unsigned n = tx_queue(pair);
	u32 skip = header_len(d);
	struct virtio_net_hdr h;

	if (!virtio_pop(&d->v, n, &d->tx))
		return false;
	if (d->tx.out_len > most) {
		vq_unpop(&d->v.vq[n], &d->tx);
		return false;
	}
	*f = (struct net_frame){ .data = d->frame };
	if (vq_read(&d->tx, 0, &h, sizeof(h)) == sizeof(h) && d->tx.out_len > skip &&
	    d->tx.out_len - skip <= sizeof(d->frame) && !d->tx.in) {
		f->len = vq_read(&d->tx, skip, d->frame, sizeof(d->frame));
		f->off = (struct net_offload){ h.flags & NET_NEEDS_CSUM,
					       h.gso_type,
					       h.hdr_len,
					       h.gso_size,
					       h.csum_start,
					       h.csum_offset };
	} else {
		guest_bug("virtio-net", "a frame to send of %u bytes", d->tx.out_len);
	}
	virtio_push(&d->v, n, &d->tx, 0);
	if (d->cfg.pairs > 1)
		d->s.flow[flow_hash(f)] = (u8)pair;
	if (!d->s.link)
		f->len = 0;
	return true;
}

/*
 * Send what is there, up to *left frames of up to 'most' bytes. True when there is more.
 * The lock is held, but for sending.
 */
static bool send_ready(struct virtio_net *d, unsigned pair, unsigned *left, u32 most)
{
	unsigned n = tx_queue(pair);
	struct vq *q = &d->v.vq[n];
	struct net_frame f;

	if (virtio_runs(&d->v, n))
		vq_notify_off(q);
	while (*left && take_frame(d, pair, most, &f)) {
		--*left;
		if (*left % 16 == 0)
			virtio_publish(&d->v, n);
		pthread_mutex_unlock(&d->v.lock);
		if (f.len)
			net_send(d->net, &f);
		pthread_mutex_lock(&d->v.lock);
	}
	/* Who comes back soon needs no notification; all others do. */
	return virtio_runs(&d->v, n) && (vq_ready(q) || vq_notify_on(q));
}

static bool transmit_pair(struct virtio_net *d, unsigned pair)
{
	unsigned left = TX_BATCH;
	bool more;

	pthread_mutex_lock(&d->v.lock);
	/* What has been pushed is published before anything is saved. */
	virtio_get(&d->v, tx_queue(pair));
	do {
		more = send_ready(d, pair, &left, UINT32_MAX);
	} while (more && left);
	virtio_publish(&d->v, tx_queue(pair));
	virtio_put(&d->v, tx_queue(pair));
	pthread_mutex_unlock(&d->v.lock);
	return more;
}

static bool net_transmit(void *opaque)
{
	struct virtio_net *d = opaque;
	bool more = false;

	for (unsigned i = 0; i < d->cfg.pairs; i++)
		more |= transmit_pair(d, i);
	return more;
}

/*
 * A guest that sends little waits for the answer: waking the network's thread would take
 * longer than sending it.
 */
static bool net_at_once(struct virtio *v, unsigned n)
{
	struct virtio_net *d = net_of(v);
	unsigned left = TX_NOW;
	bool more;

	if (!(n & 1) || n / 2 >= d->cfg.pairs || !net_enter(d->net))
		return false;
	pthread_mutex_lock(&v->lock);
	virtio_get(v, n);
	more = send_ready(d, n / 2, &left, TX_NOW_LEN);
	virtio_publish(v, n);
	virtio_put(v, n);
	pthread_mutex_unlock(&v->lock);
	net_leave(d->net);
	return !more;
}

/* ---- to the guest; network's thread, lock held ---- */

static bool in_table(const u8 *macs, unsigned count, const u8 *mac)
{
	for (unsigned i = 0; i < count; i++)
		if (!memcmp(macs + 6 * i, mac, 6))
			return true;
	return false;
}

static bool wanted(const struct virtio_net_state *s, const u8 *mac)
{
	static const u8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (s->promisc)
		return true;
	if (!memcmp(mac, broadcast, 6))
		return !s->nobcast;
	if (mac[0] & 1)
		return !s->nomulti &&
		       (s->allmulti || s->multi_overflow ||
			in_table(s->macs + 6 * MACS_MAX, s->multi_count, mac));
	return !s->nouni && (s->alluni || s->uni_overflow || !memcmp(mac, s->mac, 6) ||
			     in_table(s->macs, s->uni_count, mac));
}

/* Does the guest want this frame as it is? */
static bool can_take(const struct virtio_net *d, const struct net_offload *o)
{
	u64 g = d->s.offloads;

	if (o->flags & NET_NEEDS_CSUM && !(g & BIT(VIRTIO_NET_F_GUEST_CSUM)))
		return false;
	if (o->gso_type & NET_GSO_ECN && !(g & BIT(VIRTIO_NET_F_GUEST_ECN)))
		return false;
	switch (o->gso_type & ~NET_GSO_ECN) {
	case NET_GSO_TCPV4: return g & BIT(VIRTIO_NET_F_GUEST_TSO4);
	case NET_GSO_TCPV6: return g & BIT(VIRTIO_NET_F_GUEST_TSO6);
	default: return true;
	}
}

static void return_chains(struct virtio_net *d, unsigned n, unsigned count)
{
	while (count-- > 0)
		vq_unpop(&d->v.vq[n], &d->rx[count]);
}

/* Buffers for 'need' bytes, in d->rx. Returns how many; 0: not there. */
static unsigned take_buffers(struct virtio_net *d, unsigned n, u32 need, bool *never)
{
	bool merge = virtio_has(&d->v, VIRTIO_NET_F_MRG_RXBUF);
	unsigned count = 0, most = merge ? MERGE_MAX : 1;
	u32 have = 0;

	*never = false;
	while (have < need) {
		if (count == most) {
			*never = true;
			break;
		}
		if (!virtio_pop(&d->v, n, &d->rx[count]))
			break;
		if (d->rx[count].out || (!count && d->rx[0].in_len < header_len(d))) {
			virtio_break(&d->v, "a receive buffer without room for a header");
			return 0;
		}
		have += MIN(d->rx[count].in_len, (u32)NET_FRAME_MAX + HDR_LEN);
		count++;
	}
	if (have >= need)
		return count;
	if (virtio_runs(&d->v, n))
		return_chains(d, n, count);
	return 0;
}

static void put_frame(struct virtio_net *d, unsigned n, const struct net_frame *f,
		      unsigned count)
{
	u32 skip = header_len(d), at = 0;
	struct virtio_net_hdr_mrg_rxbuf h = { .num_buffers = (u16)count };
	const struct net_offload *o = &f->off;

	if (o->flags & NET_NEEDS_CSUM) {
		h.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		h.hdr.csum_start = o->csum_start;
		h.hdr.csum_offset = o->csum_offset;
	} else if (d->s.offloads & BIT(VIRTIO_NET_F_GUEST_CSUM)) {
		h.hdr.flags = o->flags & NET_DATA_VALID;
	}
	h.hdr.gso_type = o->gso_type;
	h.hdr.gso_size = o->gso_size;
	h.hdr.hdr_len = o->hdr_len;
	vq_write(&d->rx[0], 0, &h, skip);
	for (unsigned i = 0; i < count; i++) {
		u32 off = i ? 0 : skip,
		    k = vq_write(&d->rx[i], off, f->data + at, f->len - at);

		at += k;
		virtio_push(&d->v, n, &d->rx[i], off + k);
	}
	virtio_publish(&d->v, n);
}

static enum net_result receive_locked(struct virtio_net *d, struct net_frame *f)
{
	unsigned pair = d->cfg.pairs > 1 ? d->s.flow[flow_hash(f)] : 0, n, count;
	bool never;

	if (d->v.paused)
		return NET_FULL;
	if (pair >= d->s.pairs)
		pair = 0;
	n = rx_queue(pair);
	if (!virtio_runs(&d->v, n) || !d->s.link || !wanted(&d->s, f->data))
		return NET_DROPPED;
	count = take_buffers(d, n, header_len(d) + f->len, &never);
	if (!count && !never && virtio_runs(&d->v, n)) {
		vq_notify_more(&d->v.vq[n]);
		count = take_buffers(d, n, header_len(d) + f->len, &never);
	}
	if (count) {
		put_frame(d, n, f, count);
		return NET_DONE;
	}
	if (never || !virtio_runs(&d->v, n))
		return NET_DROPPED;
	d->rx_starved = true;
	return NET_FULL;
}

static enum net_result receive_one(struct virtio_net *d, struct net_frame *f)
{
	enum net_result r;

	pthread_mutex_lock(&d->v.lock);
	r = receive_locked(d, f);
	pthread_mutex_unlock(&d->v.lock);
	return r;
}

/* A segment that finds no room is lost, as on a wire. */
static void receive_segment(void *opaque, struct net_frame *f)
{
	(void)receive_one(opaque, f);
}

static enum net_result net_receive(void *opaque, struct net_frame *f)
{
	struct virtio_net *d = opaque;
	bool as_it_is;

	pthread_mutex_lock(&d->v.lock);
	as_it_is = can_take(d, &f->off);
	pthread_mutex_unlock(&d->v.lock);
	if (!as_it_is && f->off.gso_type)
		return net_segment(f, receive_segment, d) ? NET_DONE : NET_DROPPED;
	if (!as_it_is)
		net_checksum(f);
	return receive_one(d, f);
}

/* ---- control queue; lock held ---- */

static bool ctrl_rx(struct virtio_net *d, u8 cmd, u8 on)
{
	u8 *mode[] = {
		[VIRTIO_NET_CTRL_RX_PROMISC] = &d->s.promisc,
		[VIRTIO_NET_CTRL_RX_ALLMULTI] = &d->s.allmulti,
		[VIRTIO_NET_CTRL_RX_ALLUNI] = &d->s.alluni,
		[VIRTIO_NET_CTRL_RX_NOMULTI] = &d->s.nomulti,
		[VIRTIO_NET_CTRL_RX_NOUNI] = &d->s.nouni,
		[VIRTIO_NET_CTRL_RX_NOBCAST] = &d->s.nobcast,
	};

	if (cmd >= ARRAY_SIZE(mode))
		return false;
	*mode[cmd] = on != 0;
	return true;
}

/* One of the two tables that follow each other: a count, addresses. */
static bool ctrl_mac_table(struct virtio_net *d, u32 *off, u8 *macs, u8 *count,
			   u8 *overflow)
{
	u8 raw[4];
	u32 n;

	if (vq_read(&d->ctrl, *off, raw, 4) != 4)
		return false;
	n = (u32)le_load(raw, 4);
	*off += 4;
	if (n > (d->ctrl.out_len - *off) / 6)
		return false;
	*overflow = n > MACS_MAX;
	*count = *overflow ? 0 : (u8)n;
	vq_read(&d->ctrl, *off, macs, 6u * *count);
	*off += 6 * n;
	return true;
}

static bool ctrl_mac(struct virtio_net *d, u8 cmd)
{
	struct virtio_net_state *s = &d->s;
	u32 off = CTRL_DATA;
	u8 mac[6];

	if (cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET) {
		s->uni_count = s->multi_count = 0;
		return ctrl_mac_table(d, &off, s->macs, &s->uni_count,
				      &s->uni_overflow) &&
		       ctrl_mac_table(d, &off, s->macs + 6 * MACS_MAX, &s->multi_count,
				      &s->multi_overflow);
	}
	if (cmd != VIRTIO_NET_CTRL_MAC_ADDR_SET || vq_read(&d->ctrl, off, mac, 6) != 6)
		return false;
	memcpy(s->mac, mac, 6);
	return true;
}

static bool ctrl_pairs(struct virtio_net *d, u8 cmd)
{
	u8 raw[2];
	u32 n;

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
	    !virtio_has(&d->v, VIRTIO_NET_F_MQ) ||
	    vq_read(&d->ctrl, CTRL_DATA, raw, 2) != 2)
		return false;
	n = (u32)le_load(raw, 2);
	if (!n || n > d->cfg.pairs)
		return false;
	d->s.pairs = (u16)n;
	return true;
}

#define GUEST_OFFLOADS                                                                   \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |                   \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))

static bool ctrl_offloads(struct virtio_net *d, u8 cmd)
{
	u8 raw[8];
	u64 want;

	if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET ||
	    !virtio_has(&d->v, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) ||
	    vq_read(&d->ctrl, CTRL_DATA, raw, 8) != 8)
		return false;
	want = le_load(raw, 8);
	if (want & ~(d->v.s.driver_features & GUEST_OFFLOADS))
		return false;
	d->s.offloads = want;
	return true;
}

static bool ctrl_command(struct virtio_net *d)
{
	u8 head[3] = { 0 };
	u32 n = vq_read(&d->ctrl, 0, head, 3);

	if (n < CTRL_DATA)
		return false;
	switch (head[0]) {
	case VIRTIO_NET_CTRL_RX: return n == 3 && ctrl_rx(d, head[1], head[2]);
	case VIRTIO_NET_CTRL_MAC: return ctrl_mac(d, head[1]);
	case VIRTIO_NET_CTRL_MQ: return ctrl_pairs(d, head[1]);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS: return ctrl_offloads(d, head[1]);
	default: return false;
	}
}

static void ctrl_notify(struct virtio_net *d, unsigned n)
{
	struct vq *q = &d->v.vq[n];
	unsigned left = CTRL_BATCH;

	do {
		while (left && virtio_pop(&d->v, n, &d->ctrl)) {
			u8 ack;

			left--;
			if (!d->ctrl.in_len) {
				virtio_break(&d->v,
					     "a command without room for its answer");
				return;
			}
			ack = ctrl_command(d) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
			vq_write(&d->ctrl, 0, &ack, 1);
			virtio_push(&d->v, n, &d->ctrl, 1);
		}
	} while (virtio_runs(&d->v, n) && vq_notify_on(q) && left);
	virtio_publish(&d->v, n);
}

/* ---- the device ---- */

static void net_notify(struct virtio *v, unsigned n)
{
	struct virtio_net *d = net_of(v);

	if (n == ctrl_queue(d) && virtio_has(v, VIRTIO_NET_F_CTRL_VQ)) {
		ctrl_notify(d, n);
	} else if (n & 1) {
		net_kick(d->net);
	} else if (d->rx_starved) {
		d->rx_starved = false;
		net_kick(d->net);
	}
}

static void net_config_read(struct virtio *v, u8 *config)
{
	struct virtio_net *d = net_of(v);
	struct virtio_net_config c = {
		.status = d->s.link ? VIRTIO_NET_S_LINK_UP : 0,
		.max_virtqueue_pairs = (u16)d->cfg.pairs,
		.mtu = d->cfg.mtu,
	};

	memcpy(c.mac, d->s.mac, 6);
	memcpy(config, &c, v->config_size);
}

/* 5.1.4.2: the MAC address is written there only by legacy drivers. */
static void net_config_write(struct virtio *v, u32 off, u32 val, unsigned size)
{
	struct virtio_net *d = net_of(v);

	if (v->s.legacy && off + size <= 6)
		le_store(d->s.mac + off, val, size);
}

static void net_start(struct virtio *v)
{
	struct virtio_net *d = net_of(v);

	d->s.offloads = v->s.driver_features & GUEST_OFFLOADS;
}

static void device_reset(struct virtio_net *d)
{
	u8 link = d->s.link;

	/* All frames pass until the driver says otherwise. */
	d->s = (struct virtio_net_state){ .pairs = 1, .promisc = 1, .link = link };
	memcpy(d->s.mac, d->cfg.mac, 6);
}

static void net_stop(struct virtio *v, int n)
{
	struct virtio_net *d = net_of(v);

	d->rx_starved = false;
	if (n < 0)
		device_reset(d);
	/* What waits is for nobody any more. */
	net_kick(d->net);
}

static const struct virtio_class net_class = {
	.name = "virtio-net",
	.id = VIRTIO_ID_NET,
	.class_code = 0x020000,
	.notify = net_notify,
	.at_once = net_at_once,
	.config_read = net_config_read,
	.config_write = net_config_write,
	.start = net_start,
	.stop = net_stop,
};

static u64 offered(const struct virtio_net_setup *cfg)
{
	u64 f = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
		BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |
		BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);

	if (!cfg->no_offload)
		f |= GUEST_OFFLOADS | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
		     BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |
		     BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN);
	if (!cfg->no_merge)
		f |= BIT(VIRTIO_NET_F_MRG_RXBUF);
	if (cfg->pairs > 1)
		f |= BIT(VIRTIO_NET_F_MQ);
	if (cfg->mtu)
		f |= BIT(VIRTIO_NET_F_MTU);
	return f;
}

struct virtio_net *virtio_net_new(struct phys *phys, const struct virtio_net_setup *cfg)
{
	struct virtio_net *d = xzalloc(sizeof(*d));
	u16 size = cfg->queue_size ? cfg->queue_size : VQ_SIZE_MAX;

	d->cfg = *cfg;
	d->net = cfg->net;
	d->s.link = 1;
	device_reset(d);
	virtio_init(&d->v, &net_class, phys, offered(cfg),
		    offsetof(struct virtio_net_config, speed));
	for (unsigned i = 0; i < 2 * cfg->pairs; i++)
		virtio_add_queue(&d->v, size);
	virtio_add_queue(&d->v, 64);
	return d;
}

int virtio_net_start(struct virtio_net *d, struct error *err)
{
	struct net_client c = { net_transmit, net_receive, d };

	return net_attach(d->net, &c, err);
}

void virtio_net_free(struct virtio_net *d)
{
	if (!d)
		return;
	net_detach(d->net);
	virtio_fini(&d->v);
	free(d);
}

struct virtio *virtio_net_core(struct virtio_net *d)
{
	return &d->v;
}

void virtio_net_set_link(struct virtio_net *d, bool up)
{
	pthread_mutex_lock(&d->v.lock);
	if (d->s.link != up) {
		d->s.link = up;
		virtio_config_changed(&d->v);
	}
	pthread_mutex_unlock(&d->v.lock);
}

void virtio_net_save(struct virtio_net *d, struct state_buf *b, u32 instance)
{
	pthread_mutex_lock(&d->v.lock);
	state_save(b, &virtio_net_desc, instance, &d->s);
	pthread_mutex_unlock(&d->v.lock);
}

int virtio_net_load(struct virtio_net *d, struct state_buf *b, u32 instance,
		    struct error *err)
{
	int ret;

	pthread_mutex_lock(&d->v.lock);
	ret = state_load(b, &virtio_net_desc, instance, &d->s, err);
	d->s.offloads &= GUEST_OFFLOADS;
	if (d->s.pairs > d->cfg.pairs)
		d->s.pairs = 1;
	pthread_mutex_unlock(&d->v.lock);
	return ret;
}
