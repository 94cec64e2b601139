/*
 * Checksums and segmentation that a guest left to the device.
 *
 * RFC 1071 (checksum), RFC 791 and 8200 (IP), RFC 9293 (TCP). Deliberately missing: UDP
 * fragmentation, IPv6 extension headers in front of TCP, tunnels.
 *
 * No state, no lock.
 */
#include "net/offload.h"

#include <string.h>

#include "base/bits.h"

enum { ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd, ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8 };
enum { IP_TCP = 6 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

static u16 be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put_be16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

static u32 be32(const u8 *p)
{
	return (u32)be16(p) << 16 | be16(p + 2);
}

static void put_be32(u8 *p, u32 v)
{
	put_be16(p, v >> 16);
	put_be16(p + 2, v & 0xffff);
}

/*
 * Sums words in the host's order: the sum is independent of it but for a swap of bytes,
 * which net_fold() does.
 */
u64 net_sum(const u8 *p, u32 len)
{
	u64 sum = 0;

	/* Four at a time, so that the compiler makes vectors of it. */
	for (; len >= 16; len -= 16, p += 16)
		sum += (u64) * (const ua32 *)(const void *)p +
		       *(const ua32 *)(const void *)(p + 4) +
		       *(const ua32 *)(const void *)(p + 8) +
		       *(const ua32 *)(const void *)(p + 12);
	for (; len >= 2; len -= 2, p += 2)
		sum += *(const ua16 *)(const void *)p;
	return len ? sum + *p : sum;
}

u16 net_fold(u64 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return __builtin_bswap16((u16)sum);
}

bool net_offload_valid(const struct net_frame *f)
{
	const struct net_offload *o = &f->off;

	if (f->len < NET_ETH_MIN || f->len > NET_FRAME_MAX)
		return false;
	if (o->flags & NET_NEEDS_CSUM && (u32)o->csum_start + o->csum_offset + 2 > f->len)
		return false;
	switch (o->gso_type & ~NET_GSO_ECN) {
	case NET_GSO_NONE: return true;
	case NET_GSO_TCPV4:
	case NET_GSO_TCPV6:
		/* 5.1.6.2: a checksum is missing, since each segment has another. */
		return o->gso_size >= NET_GSO_MIN && o->flags & NET_NEEDS_CSUM;
	default: return false;
	}
}

void net_checksum(struct net_frame *f)
{
	u8 *at = f->data + f->off.csum_start;
	u16 sum;

	if (!(f->off.flags & NET_NEEDS_CSUM))
		return;
	sum = (u16)~net_fold(net_sum(at, f->len - f->off.csum_start));
	/* 0 means none in UDP; both are the same number. */
	put_be16(at + f->off.csum_offset, sum ? sum : 0xffff);
	f->off.flags = NET_DATA_VALID;
}

/* Where the headers of a TCP frame are. */
struct headers {
	u32 ip, tcp, data; /* offsets */
	bool v6;
};

static bool find_headers(const struct net_frame *f, struct headers *h)
{
	u32 at = 12;
	u16 type = be16(f->data + at);

	for (unsigned i = 0; i < 2 && (type == ETH_VLAN || type == ETH_QINQ); i++) {
		at += 4;
		if (at + 2 > f->len)
			return false;
		type = be16(f->data + at);
	}
	h->ip = at + 2;
	h->v6 = type == ETH_IPV6;
	if ((type != ETH_IPV4 && type != ETH_IPV6) || h->ip + 40 > f->len)
		return false;
	if (h->v6) {
		if (f->data[h->ip + 6] != IP_TCP)
			return false;
		h->tcp = h->ip + 40;
	} else {
		u32 len = 4 * (f->data[h->ip] & 15u);

		if (len < 20 || f->data[h->ip + 9] != IP_TCP)
			return false;
		h->tcp = h->ip + len;
	}
	if (h->tcp + 20 > f->len)
		return false;
	h->data = h->tcp + 4 * (f->data[h->tcp + 12] >> 4);
	return h->data >= h->tcp + 20 && h->data <= f->len;
}

/* Lengths, identification and checksums of one segment. */
static void fix_segment(u8 *p, u32 len, const struct headers *h, unsigned n)
{
	u8 *ip = p + h->ip, *tcp = p + h->tcp;
	u32 tcp_len = len - h->tcp;
	u64 sum;

	if (h->v6) {
		put_be16(ip + 4, tcp_len);
		sum = net_sum(ip + 8, 32);
	} else {
		put_be16(ip + 2, len - h->ip);
		put_be16(ip + 4, be16(ip + 4) + n);
		put_be16(ip + 10, 0);
		put_be16(ip + 10, (u16)~net_fold(net_sum(ip, h->tcp - h->ip)));
		sum = net_sum(ip + 12, 8);
	}
	put_be16(tcp + 16, 0);
	sum += net_sum(tcp, tcp_len) + __builtin_bswap16(IP_TCP) +
	       __builtin_bswap16((u16)tcp_len);
	put_be16(tcp + 16, (u16)~net_fold(sum));
}

bool net_segment(const struct net_frame *f,
		 void (*emit)(void *opaque, struct net_frame *f), void *opaque)
{
	u8 buf[NET_FRAME_MAX];
	struct headers h;
	u32 size = f->off.gso_size, left, at;

	if (!find_headers(f, &h) || !size)
		return false;
	left = f->len - h.data;
	at = h.data;
	for (unsigned n = 0; !n || left; n++) {
		u32 part = MIN(left, size), len = h.data + part;
		struct net_frame out = { .data = buf, .len = len };
		u8 *tcp = buf + h.tcp;

		out.off.flags = NET_DATA_VALID;
		memcpy(buf, f->data, h.data);
		memcpy(buf + h.data, f->data + at, part);
		put_be32(tcp + 4, be32(tcp + 4) + (at - h.data));
		left -= part;
		at += part;
		if (left) /* the last one keeps them */
			tcp[13] &= (u8) ~(TCP_FIN | TCP_PSH);
		if (n) /* the first one keeps it */
			tcp[13] &= (u8)~TCP_CWR;
		fix_segment(buf, len, &h, n);
		emit(opaque, &out);
	}
	return true;
}
