/*
 * Joining TCP segments of one flow into large frames.
 *
 * What Linux calls generic receive offload
 * (Documentation/networking/segmentation-offloads): segments are joined only when cutting
 * the result gives the same frames again, but for IP identification. So headers must be
 * equal, data must follow on, and only the last segment may be shorter or carry PSH.
 * Deliberately missing: several flows at once, VLAN tags, IP options.
 *
 * One thread at a time; no lock.
 */
#include "net/merge.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "net/offload.h"

#define ETH 14u

enum { TCP_PSH = 0x08, TCP_ACK = 0x10 };

struct net_merge {
	void (*emit)(void *opaque, struct net_frame *f);
	void *opaque;
	bool trusted;
	/* The frame under construction; len 0: none. */
	u32 len, head, tcp; /* bytes; of headers; where TCP's begins */
	u32 segment;        /* data bytes of each but the last */
	u32 next;           /* sequence number that would follow */
	unsigned count;
	bool valid; /* somebody has looked at its checksums */
	u8 buf[NET_FRAME_MAX];
};

static u32 be16(const u8 *p)
{
	return (u32)p[0] << 8 | p[1];
}

static u32 be32(const u8 *p)
{
	return be16(p) << 16 | be16(p + 2);
}

static void put_be16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* Offset of the TCP header, of the kind of frame that can be joined; else 0. */
static u32 tcp_offset(const u8 *p, u32 len)
{
	if (len < ETH + 40)
		return 0;
	if (p[12] == 0x08 && p[13] == 0x00 && p[ETH] == 0x45 && p[ETH + 9] == 6 &&
	    !(be16(p + ETH + 6) & 0xbfff) && be16(p + ETH + 2) == len - ETH)
		return ETH + 20;
	if (p[12] == 0x86 && p[13] == 0xdd && p[ETH] >> 4 == 6 && p[ETH + 6] == 6 &&
	    len >= ETH + 60 && be16(p + ETH + 4) == len - ETH - 40)
		return ETH + 40;
	return 0;
}

/* Length of all headers when there is data behind them, else 0. */
static u32 head_len(const u8 *p, u32 len)
{
	u32 tcp = tcp_offset(p, len), head;

	if (!tcp)
		return 0;
	head = tcp + 4 * (p[tcp + 12] >> 4);
	if (head < tcp + 20 || head >= len || (p[tcp + 13] & ~TCP_PSH) != TCP_ACK)
		return 0;
	return head;
}

/* Both checksums of a TCP frame. */
static bool checksums_ok(const u8 *p, u32 len, u32 tcp)
{
	const u8 *ip = p + ETH;
	u32 tcp_len = len - tcp;
	bool v6 = tcp == ETH + 40;
	u64 sum = v6 ? net_sum(ip + 8, 32) : net_sum(ip + 12, 8);

	if (!v6 && net_fold(net_sum(ip, 20)) != 0xffff)
		return false;
	sum += net_sum(p + tcp, tcp_len) + __builtin_bswap16(6) +
	       (u64)__builtin_bswap16((u16)tcp_len);
	return net_fold(sum) == 0xffff;
}

/* Equal but for lengths, identification, checksums, sequence number and PSH. */
static bool same_flow(const u8 *a, const u8 *b, u32 head, u32 tcp)
{
	const u8 *ia = a + ETH, *ib = b + ETH;
	bool v6 = tcp == ETH + 40;

	if (memcmp(a, b, ETH))
		return false;
	if (v6 ? memcmp(ia, ib, 4) || memcmp(ia + 6, ib + 6, 34)
	       : ia[1] != ib[1] || memcmp(ia + 6, ib + 6, 4) ||
			    memcmp(ia + 12, ib + 12, 8))
		return false;
	a += tcp;
	b += tcp;
	/* Ports; acknowledgement and header length; window; urgent pointer and options.
	 */
	return !memcmp(a, b, 4) && !memcmp(a + 8, b + 8, 5) &&
	       !memcmp(a + 14, b + 14, 2) && !memcmp(a + 18, b + 18, head - tcp - 18);
}

static bool can_join(const struct net_merge *m, const u8 *p, u32 len, u32 head)
{
	u32 tcp = tcp_offset(p, len);

	return m->len && m->segment >= NET_GSO_MIN && head == m->head && tcp == m->tcp &&
	       len - head <= m->segment && m->len + (len - head) <= ETH + 65535 &&
	       be32(p + tcp + 4) == m->next && same_flow(m->buf, p, head, tcp);
}

/* The checksum is left out, with the pseudo header's sum in its place. */
static void finish(struct net_merge *m, struct net_frame *f)
{
	u8 *ip = m->buf + ETH;
	u32 tcp = m->tcp, tcp_len = m->len - tcp;
	bool v6 = tcp == ETH + 40;
	u64 sum;

	if (v6) {
		put_be16(ip + 4, tcp_len);
		sum = net_sum(ip + 8, 32);
	} else {
		put_be16(ip + 2, m->len - ETH);
		put_be16(ip + 10, 0);
		put_be16(ip + 10, (u16)~net_fold(net_sum(ip, 20)));
		sum = net_sum(ip + 12, 8);
	}
	sum += __builtin_bswap16(6) + (u64)__builtin_bswap16((u16)tcp_len);
	put_be16(m->buf + tcp + 16, net_fold(sum));
	f->off = (struct net_offload){ .flags = NET_NEEDS_CSUM,
				       .gso_type = v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
				       .hdr_len = (u16)m->head,
				       .gso_size = (u16)m->segment,
				       .csum_start = (u16)tcp,
				       .csum_offset = 16 };
}

void net_merge_flush(struct net_merge *m)
{
	struct net_frame f = { .data = m->buf, .len = m->len };

	if (!m->len)
		return;
	if (m->count > 1)
		finish(m, &f);
	else
		f.off.flags = m->valid ? NET_DATA_VALID : 0;
	m->len = 0;
	m->emit(m->opaque, &f);
}

void net_merge_add(struct net_merge *m, const u8 *data, u32 len)
{
	u32 head = head_len(data, len), tcp = tcp_offset(data, len), part;
	bool valid = m->trusted, last;

	if (len > sizeof(m->buf))
		return;
	if (head && !valid) {
		valid = checksums_ok(data, len, tcp);
		if (!valid)
			head = 0;
	}
	part = len - head;
	if (head && can_join(m, data, len, head)) {
		memcpy(m->buf + m->len, data + head, part);
		m->len += part;
		m->buf[tcp + 13] |= data[tcp + 13];
		m->next += part;
		m->count++;
	} else {
		net_merge_flush(m);
		memcpy(m->buf, data, len);
		m->len = len;
		m->count = 1;
		m->valid = valid;
		m->head = head;
		m->tcp = tcp;
		m->segment = part;
		m->next = head ? be32(data + tcp + 4) + part : 0;
	}
	last = !head || part < m->segment || data[tcp + 13] & TCP_PSH;
	if (last)
		net_merge_flush(m);
}

struct net_merge *net_merge_new(void (*emit)(void *opaque, struct net_frame *f),
				void *opaque, bool trusted)
{
	struct net_merge *m = xzalloc(sizeof(*m));

	m->emit = emit;
	m->opaque = opaque;
	m->trusted = trusted;
	return m;
}

void net_merge_free(struct net_merge *m)
{
	free(m);
}
