/* Checksums and segmentation, against sums computed the slow way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "net/offload.h"

static u16 be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* One's complement sum of big-endian words, on top of 'sum'. */
static u32 slow_sum(const u8 *p, u32 len, u32 sum)
{
	for (u32 i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (u32)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void sums_agree(void **state)
{
	u8 buf[300];

	(void)state;
	srand(1);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (u8)rand();
	for (u32 len = 0; len < sizeof(buf) - 8; len++)
		for (unsigned at = 0; at < 4; at++)
			assert_int_equal(net_fold(net_sum(buf + at, len)),
					 slow_sum(buf + at, len, 0));
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(net_fold(net_sum(buf, 300)), slow_sum(buf, 300, 0));
}

/* A TCP frame of 'data' bytes, as a guest that leaves the rest to us sends it. */
static u32 tcp_frame(u8 *p, bool v6, u32 data)
{
	u32 ip = 14, tcp = ip + (v6 ? 40 : 20), len = tcp + 20 + data;

	memset(p, 0, tcp + 20);
	p[12] = v6 ? 0x86 : 8;
	p[13] = v6 ? 0xdd : 0;
	if (v6) {
		p[ip] = 0x60;
		put16(p + ip + 4, 20 + data);
		p[ip + 6] = 6;
		memset(p + ip + 8, 0x11, 32);
	} else {
		p[ip] = 0x45;
		put16(p + ip + 2, len - ip);
		put16(p + ip + 4, 0xfffe);
		p[ip + 9] = 6;
		memset(p + ip + 12, 0x22, 8);
	}
	put16(p + tcp + 6, 1000); /* sequence */
	p[tcp + 12] = 0x50;
	p[tcp + 13] = 0x99; /* CWR ACK PSH FIN */
	for (u32 i = 0; i < data; i++)
		p[tcp + 20 + i] = (u8)(i * 7);
	/* The pseudo header's sum stands where the checksum goes. */
	put16(p + tcp + 16,
	      slow_sum(v6 ? p + ip + 8 : p + ip + 12, v6 ? 32 : 8, 6 + 20 + data));
	return len;
}

static bool tcp_sum_ok(const u8 *p, bool v6, u32 len)
{
	u32 ip = 14, tcp = ip + (v6 ? 40 : 20);
	u32 pseudo = slow_sum(v6 ? p + ip + 8 : p + ip + 12, v6 ? 32 : 8, 6 + len - tcp);

	return slow_sum(p + tcp, len - tcp, pseudo) == 0xffff;
}

static void a_checksum_is_completed(void **state)
{
	static u8 buf[NET_FRAME_MAX];

	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		struct net_frame f = { .data = buf, .len = tcp_frame(buf, v6, 1001) };

		f.off.flags = NET_NEEDS_CSUM;
		f.off.csum_start = v6 ? 54 : 34;
		f.off.csum_offset = 16;
		assert_true(net_offload_valid(&f));
		net_checksum(&f);
		assert_int_equal(f.off.flags, NET_DATA_VALID);
		assert_true(tcp_sum_ok(buf, v6, f.len));
	}
}

struct pieces {
	unsigned count;
	u32 bytes;
	bool v6;
	u32 total;
};

static void piece(void *opaque, struct net_frame *f)
{
	struct pieces *p = opaque;
	u32 tcp = p->v6 ? 54 : 34, data = f->len - tcp - 20;
	bool last = p->bytes + data == p->total;

	assert_true(data <= 1400);
	assert_true(tcp_sum_ok(f->data, p->v6, f->len));
	assert_int_equal(be16(f->data + tcp + 6), 1000 + p->bytes);
	assert_int_equal(f->data[tcp + 13] & 0x09, last ? 0x09 : 0);
	assert_int_equal(f->data[tcp + 13] & 0x80, p->count ? 0 : 0x80);
	if (p->v6) {
		assert_int_equal(be16(f->data + 18), f->len - 54);
	} else {
		assert_int_equal(be16(f->data + 16), f->len - 14);
		assert_int_equal(slow_sum(f->data + 14, 20, 0), 0xffff);
		assert_int_equal(be16(f->data + 18), (u16)(0xfffe + p->count));
	}
	for (u32 i = 0; i < data; i++)
		assert_int_equal(f->data[tcp + 20 + i], (u8)((p->bytes + i) * 7));
	p->count++;
	p->bytes += data;
}

static void frames_are_cut(void **state)
{
	static u8 buf[NET_FRAME_MAX];

	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		static const u32 sizes[] = { 1, 1399, 1400, 1401, 2800, 60001 };

		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			struct net_frame f = { .data = buf };
			struct pieces p = { .v6 = v6, .total = sizes[i] };

			f.len = tcp_frame(buf, v6, sizes[i]);
			f.off = (struct net_offload){ NET_NEEDS_CSUM,
						      v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
						      0,
						      1400,
						      v6 ? 54 : 34,
						      16 };
			assert_true(net_offload_valid(&f));
			assert_true(net_segment(&f, piece, &p));
			assert_int_equal(p.bytes, sizes[i]);
			assert_int_equal(p.count, (sizes[i] + 1399) / 1400);
		}
	}
}

static void nothing(void *opaque, struct net_frame *f)
{
	(void)opaque;
	assert_true(f->len <= NET_FRAME_MAX);
}

/* Whatever stands in headers and offloads. */
static void hostile_frames(void **state)
{
	static u8 buf[NET_FRAME_MAX];
	struct net_frame f = { .data = buf };

	(void)state;
	f.len = 13;
	assert_false(net_offload_valid(&f));
	f.len = 100;
	f.off.flags = NET_NEEDS_CSUM;
	f.off.csum_start = 98;
	f.off.csum_offset = 1;
	assert_false(net_offload_valid(&f));
	f.off.csum_start = 0xffff;
	f.off.csum_offset = 0xffff;
	assert_false(net_offload_valid(&f));
	f.off = (struct net_offload){ .gso_type = NET_GSO_TCPV4, .gso_size = 100 };
	assert_false(net_offload_valid(&f)); /* no checksum */
	f.off.flags = NET_NEEDS_CSUM;
	f.off.gso_size = 0;
	assert_false(net_offload_valid(&f));
	f.off.gso_size = NET_GSO_MIN - 1;
	assert_false(net_offload_valid(&f));
	f.off.gso_type = 3; /* UDP */
	f.off.gso_size = 1;
	assert_false(net_offload_valid(&f));
	srand(2);
	for (unsigned i = 0; i < 20000; i++) {
		f.len = tcp_frame(buf, i & 1, (u32)rand() % 200);
		for (unsigned k = 0; k < 3; k++)
			buf[(u32)rand() % f.len] = (u8)rand();
		f.len -= (u32)rand() % 60;
		f.off = (struct net_offload){
			NET_NEEDS_CSUM, NET_GSO_TCPV4, 0, (u16)(1 + rand() % 100), 0, 0
		};
		if (net_offload_valid(&f))
			net_segment(&f, nothing, NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sums_agree),
		cmocka_unit_test(a_checksum_is_completed),
		cmocka_unit_test(frames_are_cut),
		cmocka_unit_test(hostile_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
