/*
 * Intel 82540EM: frames between its rings and the network.
 *
 * Intel 317453, sections 3.2 (receive) and 3.3 (transmit): legacy and extended
 * descriptors, checksums and TCP segmentation of what is sent, address filter. What
 * is received has had its checksums looked at by nobody.
 *
 * Runs on the network's thread, with d->lock but while a frame is sent. One call takes
 * at most TX_BATCH descriptors.
 */
#include <string.h>

#include "base/log.h"
#include "dev/e1000_regs.h"
#include "net/net.h"
#include "net/offload.h"
#include "pci/pci.h"

#define TX_BATCH  256u
#define RX_DESCS  64u /* for one frame */
#define FRAME_LEN 60u /* the shortest, without CRC */
#define CRC_LEN   4u
#define VLAN_LEN  1522u
#define JUMBO_LEN 16384u

/* Command byte of a descriptor, above its length. */
enum { CMD_EOP = 1, CMD_IC = 4, CMD_TSE = 4, CMD_RS = 8, CMD_DEXT = 0x20 };
enum { DTYP_CONTEXT = 0, DTYP_DATA = 1 };
enum { POPTS_IXSM = 1, POPTS_TXSM = 2 };
enum { TUCMD_IP = 2 };
enum { STA_DD = 1, RX_EOP = 2, RX_IXSM = 4 };

/* ---- transmit ---- */

static void context(struct e1000_state *s, const u8 *e)
{
	s->ipcss = e[0];
	s->ipcso = e[1];
	s->ipcse = (u16)le_load(e + 2, 2);
	s->tucss = e[4];
	s->tucso = e[5];
	s->tucmd = e[11];
	s->hdrlen = e[13];
	s->mss = (u16)le_load(e + 14, 2);
}

static void put_be(u8 *p, u32 val)
{
	p[0] = (u8)(val >> 8);
	p[1] = (u8)val;
}

/* The checksum of the IP header, when all of it is there. */
static void ip_checksum(const struct e1000_state *s, u8 *p, u32 len)
{
	u32 end = s->ipcse ? s->ipcse + 1u : len;

	if (end > len || s->ipcss >= end || s->ipcso + 2u > len)
		return;
	put_be(p + s->ipcso, 0);
	put_be(p + s->ipcso, (u16)~net_fold(net_sum(p + s->ipcss, end - s->ipcss)));
}

/*
 * 3.5: the driver leaves out the lengths in the headers of what is to be cut. The network
 * wants them, for those that take it whole.
 */
static void complete_headers(const struct e1000_state *s, u8 *p, u32 len)
{
	u32 tcp = len - s->tucss, at = s->tucso;

	if (s->tucmd & TUCMD_IP)
		put_be(p + s->ipcss + 2, len - s->ipcss);
	else
		put_be(p + s->ipcss + 4, len - s->ipcss - 40);
	/* The sum over the pseudo-header lacks it too. */
	tcp += (u32)p[at] << 8 | p[at + 1];
	put_be(p + at, (tcp & 0xffff) + (tcp >> 16));
}

/* The frame in d->frame is complete: what is left to be done with it. False: drop it. */
static bool finish_frame(struct e1000 *d, struct net_frame *f)
{
	const struct e1000_state *s = &d->s;
	u32 len = d->tx_len;

	*f = (struct net_frame){ .data = d->frame, .len = len };
	if (len < NET_ETH_MIN)
		return false;
	if (d->tx_tse) {
		if (s->tucss + 20u > len || s->ipcss + 40u > len ||
		    s->tucss <= s->ipcss || s->tucso + 2u > len || s->tucso < s->tucss ||
		    len - s->ipcss > 0xffff)
			return false;
		complete_headers(s, d->frame, len);
		f->off.gso_type = s->tucmd & TUCMD_IP ? NET_GSO_TCPV4 : NET_GSO_TCPV6;
		f->off.gso_size = s->mss;
		f->off.hdr_len = s->hdrlen;
	}
	if (d->tx_popts & POPTS_IXSM || (d->tx_tse && s->tucmd & TUCMD_IP))
		ip_checksum(s, d->frame, len);
	if ((d->tx_popts & POPTS_TXSM || d->tx_tse) && s->tucso >= s->tucss) {
		f->off.flags = NET_NEEDS_CSUM;
		f->off.csum_start = s->tucss;
		f->off.csum_offset = (u16)(s->tucso - s->tucss);
	}
	return true;
}

/* A legacy descriptor asks for the one checksum from CSS on, at CSO (3.3.3). */
static void legacy_checksum(struct e1000 *d, const u8 *e)
{
	u32 css = e[13], cso = e[10];

	if (css < d->tx_len && cso + 2 <= d->tx_len) {
		u64 sum = net_sum(d->frame + css, d->tx_len - css);

		put_be(d->frame + cso, (u16)~net_fold(sum));
	}
}

static void add_data(struct e1000 *d, const u8 *e, u32 len)
{
	u64 addr = le_load(e, 8);

	if (d->tx_drop || len > sizeof(d->frame) - d->tx_len ||
	    (len && !phys_dma_read(d->phys, addr, d->frame + d->tx_len, len))) {
		d->tx_drop = true;
		return;
	}
	d->tx_len += len;
}

/* One descriptor. True: *f is to be sent. */
static bool descriptor(struct e1000 *d, const u8 *e, struct net_frame *f)
{
	u8 cmd = e[11];
	bool extended = cmd & CMD_DEXT, send;

	if (extended && (e[10] >> 4) == DTYP_CONTEXT) {
		context(&d->s, e);
		return false;
	}
	/* Of the first one of a frame (3.3.7.1). */
	if (!d->tx_len && !d->tx_drop) {
		d->tx_popts = extended ? e[13] : 0;
		d->tx_tse = extended && cmd & CMD_TSE;
	}
	add_data(d, e, (u32)le_load(e + 8, 4) & (extended ? 0xfffff : 0xffff));
	if (!(cmd & CMD_EOP))
		return false;
	if (!extended && cmd & CMD_IC)
		legacy_checksum(d, e);
	if (d->tx_drop)
		guest_bug("e1000", "a frame that is too long, or not in memory");
	send = !d->tx_drop && finish_frame(d, f);
	d->tx_len = 0;
	d->tx_drop = false;
	return send;
}

static bool tx_ready(const struct e1000 *d)
{
	const struct e1000_state *s = &d->s;
	u32 count = s->tdlen / E_DESC;

	return !d->paused && s->tctl & TCTL_EN && s->tdh != s->tdt && s->tdh < count &&
	       s->tdt < count && pci_is_master(d->dev);
}

/* Copied: what is unlocked must not look at what a reset changes. */
static void send_unlocked(struct e1000 *d, struct net_frame *f)
{
	memcpy(d->sending, f->data, f->len);
	f->data = d->sending;
	d->s.tx_frames++;
	d->s.tx_bytes += f->len;
	pthread_mutex_unlock(&d->lock);
	net_send(d->net, f);
	pthread_mutex_lock(&d->lock);
}

bool e1000_transmit(void *opaque)
{
	struct e1000 *d = opaque;
	struct e1000_state *s = &d->s;
	unsigned left = TX_BATCH;
	u32 causes = 0;
	bool more;

	pthread_mutex_lock(&d->lock);
	while (left && tx_ready(d)) {
		u64 at = s->tdba + (u64)s->tdh * E_DESC;
		struct net_frame f;
		u8 e[E_DESC];
		bool send;

		left--;
		if (!phys_dma_read(d->phys, at, e, sizeof(e))) {
			guest_bug("e1000", "a transmit ring outside memory");
			s->tctl &= ~(u32)TCTL_EN;
			break;
		}
		send = descriptor(d, e, &f);
		if (e[11] & CMD_RS) {
			e[12] |= STA_DD;
			(void)!phys_dma_write(d->phys, at + 12, e + 12, 1);
			causes |= INT_TXDW;
		}
		if (++s->tdh == s->tdlen / E_DESC)
			s->tdh = 0;
		if (send)
			send_unlocked(d, &f);
	}
	more = tx_ready(d);
	if (left < TX_BATCH && !more)
		causes |= INT_TXQE;
	e1000_interrupt(d, causes);
	pthread_mutex_unlock(&d->lock);
	return more;
}

/* ---- receive ---- */

/* 3.2.1 */
static bool wanted(const struct e1000_state *s, const u8 *mac)
{
	static const u8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	static const u8 shift[] = { 4, 3, 2, 0 };
	unsigned hash;

	if (!memcmp(mac, broadcast, 6) && s->rctl & RCTL_BAM)
		return true;
	if (mac[0] & 1 ? s->rctl & RCTL_MPE : s->rctl & RCTL_UPE)
		return true;
	for (unsigned i = 0; i < E_ADDRESSES; i++)
		if (s->ra[2 * i + 1] & BIT(31) && s->ra[2 * i] == (u32)le_load(mac, 4) &&
		    (u16)s->ra[2 * i + 1] == le_load(mac + 4, 2))
			return true;
	if (!(mac[0] & 1))
		return false;
	hash = (u32)le_load(mac + 4, 2) >> shift[s->rctl >> 12 & 3] & 0xfff;
	return s->mta[hash >> 5] >> (hash & 31) & 1;
}

static u32 buffer_size(const struct e1000_state *s)
{
	u32 size = 2048u >> (s->rctl >> 16 & 3);

	return s->rctl & RCTL_BSEX && size < 2048 ? size * 16 : size;
}

/* Where the pieces go, all checked. 0: they are not there yet; -1: they never fit. */
static int find_buffers(struct e1000 *d, u32 len, u64 *addr)
{
	const struct e1000_state *s = &d->s;
	u32 size = buffer_size(s), need = (len + size - 1) / size,
	    count = s->rdlen / E_DESC;
	u32 head = s->rdh, have = (s->rdt + count - head) % count;

	if (need > RX_DESCS || need >= count)
		return -1;
	if (have < need)
		return 0;
	for (u32 i = 0; i < need; i++) {
		u32 piece = MIN(size, len - i * size);
		u8 raw[8];

		if (!phys_dma_read(d->phys, s->rdba + (u64)head * E_DESC, raw, 8))
			return -1;
		addr[i] = le_load(raw, 8);
		if (!phys_host(d->phys, addr[i], piece, true))
			return -1;
		if (++head == count)
			head = 0;
	}
	return (int)need;
}

static void put_frame(struct e1000 *d, const u8 *data, u32 len, const u64 *addr, u32 need)
{
	struct e1000_state *s = &d->s;
	u32 size = buffer_size(s);

	for (u32 i = 0; i < need; i++) {
		u32 piece = MIN(size, len - i * size);
		u64 at = s->rdba + (u64)s->rdh * E_DESC;
		u8 e[8] = { 0 };

		(void)!phys_dma_write(d->phys, addr[i], data + i * size, piece);
		le_store(e, piece, 2);
		e[4] = STA_DD | (i + 1 == need ? RX_EOP | RX_IXSM : 0);
		(void)!phys_dma_write(d->phys, at + 8, e, 4);
		/* The status last: that is what the driver looks at. */
		__atomic_thread_fence(__ATOMIC_RELEASE);
		(void)!phys_dma_write(d->phys, at + 12, e + 4, 4);
		if (++s->rdh == s->rdlen / E_DESC)
			s->rdh = 0;
	}
	s->rx_frames++;
	s->rx_bytes += len;
	e1000_interrupt(d, INT_RXT0);
}

static enum net_result receive_locked(struct e1000 *d, const struct net_frame *f,
				      u8 *room)
{
	const struct e1000_state *s = &d->s;
	u32 crc = s->rctl & RCTL_SECRC ? 0 : CRC_LEN, len = MAX(f->len, FRAME_LEN) + crc;
	u32 count = s->rdlen / E_DESC;
	u64 addr[RX_DESCS];
	int need;

	if (d->paused)
		return NET_FULL;
	if (!(s->rctl & RCTL_EN) || s->rdh >= count || s->rdt >= count ||
	    !pci_is_master(d->dev) || f->len < NET_ETH_MIN || !wanted(s, f->data) ||
	    len > (s->rctl & RCTL_LPE ? JUMBO_LEN : VLAN_LEN))
		return NET_DROPPED;
	need = find_buffers(d, len, addr);
	if (!need) {
		d->starved = true;
		return NET_FULL;
	}
	if (need < 0)
		return NET_DROPPED;
	/* Padded, and with a checksum that nobody looks at. */
	memset(room, 0, len);
	memcpy(room, f->data, f->len);
	put_frame(d, room, len, addr, (u32)need);
	return NET_DONE;
}

static enum net_result receive_one(struct e1000 *d, const struct net_frame *f)
{
	u8 room[JUMBO_LEN];
	enum net_result r;

	pthread_mutex_lock(&d->lock);
	r = receive_locked(d, f, room);
	pthread_mutex_unlock(&d->lock);
	return r;
}

/* A segment that finds no room is lost, as on a wire. */
static void receive_segment(void *opaque, struct net_frame *f)
{
	(void)receive_one(opaque, f);
}

enum net_result e1000_receive(void *opaque, struct net_frame *f)
{
	if (f->off.gso_type)
		return net_segment(f, receive_segment, opaque) ? NET_DONE : NET_DROPPED;
	net_checksum(f);
	return receive_one(opaque, f);
}
