/* Joined frames are those that come out again when they are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "net/merge.h"
#include "net/offload.h"

#define MSS 1000u

struct sink {
	u8 buf[NET_FRAME_MAX];
	unsigned frames;   /* emitted */
	unsigned segments; /* after cutting */
	struct net_frame last;
	u8 *expect[128];
	u32 expect_len[128];
};

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

/* A complete TCP frame. */
static u8 *frame(bool v6, u16 port, u32 seq, u32 data, u8 flags, u32 *len)
{
	static u8 buf[4096];
	u32 ip = 14, tcp = ip + (v6 ? 40 : 20);
	u64 sum;

	*len = tcp + 20 + data;
	memset(buf, 0, tcp + 20);
	buf[12] = v6 ? 0x86 : 8;
	buf[13] = v6 ? 0xdd : 0;
	if (v6) {
		buf[ip] = 0x60;
		put16(buf + ip + 4, 20 + data);
		buf[ip + 6] = 6;
		memset(buf + ip + 8, 0x11, 32);
		sum = net_sum(buf + ip + 8, 32);
	} else {
		buf[ip] = 0x45;
		put16(buf + ip + 2, *len - ip);
		buf[ip + 8] = 64;
		buf[ip + 9] = 6;
		memset(buf + ip + 12, 0x22, 8);
		put16(buf + ip + 10, (u16)~net_fold(net_sum(buf + ip, 20)));
		sum = net_sum(buf + ip + 12, 8);
	}
	put16(buf + tcp, port);
	put16(buf + tcp + 4, seq >> 16);
	put16(buf + tcp + 6, seq);
	buf[tcp + 12] = 0x50;
	buf[tcp + 13] = flags;
	for (u32 i = 0; i < data; i++)
		buf[tcp + 20 + i] = (u8)(seq + i);
	sum += net_sum(buf + tcp, 20 + data) + __builtin_bswap16(6) +
	       __builtin_bswap16((u16)(20 + data));
	put16(buf + tcp + 16, (u16)~net_fold(sum));
	return buf;
}

/* Identification of IPv4 is counted up by the cutter, and its checksum with it. */
static void forget_id(u8 *p)
{
	if (p[12] != 8)
		return;
	put16(p + 18, 0);
	put16(p + 24, 0);
}

static void segment(void *opaque, struct net_frame *f)
{
	struct sink *s = opaque;
	u8 *want = s->expect[s->segments];

	assert_int_equal(f->len, s->expect_len[s->segments]);
	forget_id(f->data);
	forget_id(want);
	assert_memory_equal(f->data, want, f->len);
	s->segments++;
}

static void emit(void *opaque, struct net_frame *f)
{
	struct sink *s = opaque;

	s->frames++;
	assert_true(net_offload_valid(f));
	if (f->off.gso_type)
		assert_true(net_segment(f, segment, s));
	else
		segment(s, f);
	s->last = *f;
}

static unsigned expected;

static void add(struct net_merge *m, struct sink *s, bool v6, u16 port, u32 seq, u32 data,
		u8 flags)
{
	u32 len;
	u8 *p = frame(v6, port, seq, data, flags, &len);

	s->expect[expected] = malloc(len);
	memcpy(s->expect[expected], p, len);
	s->expect_len[expected++] = len;
	net_merge_add(m, p, len);
}

static void expect_of(unsigned frames, bool v6, bool trusted,
		      void (*what)(struct net_merge *m, struct sink *s, bool v6))
{
	struct sink *s = calloc(1, sizeof(*s));
	struct net_merge *m = net_merge_new(emit, s, trusted);

	expected = 0;
	what(m, s, v6);
	net_merge_flush(m);
	assert_int_equal(s->segments, expected);
	assert_int_equal(s->frames, frames);
	net_merge_free(m);
	for (unsigned i = 0; i < expected; i++)
		free(s->expect[i]);
	free(s);
}

static void expect(unsigned frames,
		   void (*what)(struct net_merge *m, struct sink *s, bool v6))
{
	for (int i = 0; i < 4; i++)
		expect_of(frames, i & 1, i & 2, what);
}

static void run(struct net_merge *m, struct sink *s, bool v6)
{
	for (u32 i = 0; i < 20; i++)
		add(m, s, v6, 80, 0xffffff00 + i * MSS, MSS, 0x10);
	add(m, s, v6, 80, 0xffffff00 + 20 * MSS, 10, 0x18);
}

static void long_run(struct net_merge *m, struct sink *s, bool v6)
{
	for (u32 i = 0; i < 100; i++)
		add(m, s, v6, 80, i * MSS, MSS, 0x10);
}

static void gaps(struct net_merge *m, struct sink *s, bool v6)
{
	add(m, s, v6, 80, 0, MSS, 0x10);
	add(m, s, v6, 80, 2 * MSS, MSS, 0x10);     /* lost one */
	add(m, s, v6, 81, 3 * MSS, MSS, 0x10);     /* another flow */
	add(m, s, v6, 81, 4 * MSS, MSS + 1, 0x10); /* longer */
	add(m, s, v6, 81, 5 * MSS + 1, 0, 0x10);   /* no data */
	add(m, s, v6, 81, 5 * MSS + 1, 5, 0x11);   /* FIN */
}

static void pushed(struct net_merge *m, struct sink *s, bool v6)
{
	add(m, s, v6, 80, 0, MSS, 0x10);
	add(m, s, v6, 80, MSS, MSS, 0x18);
	add(m, s, v6, 80, 2 * MSS, MSS, 0x10);
	add(m, s, v6, 80, 3 * MSS, 7, 0x10);
	add(m, s, v6, 80, 3 * MSS + 7, MSS, 0x10);
}

/* What could not be cut again. */
static void letters(struct net_merge *m, struct sink *s, bool v6)
{
	for (u32 i = 0; i < 5; i++)
		add(m, s, v6, 80, i, 1, 0x10);
}

static void segments_are_joined(void **state)
{
	(void)state;
	expect(1, run);
	expect(2, long_run);
}

static void what_does_not_follow_is_not_joined(void **state)
{
	(void)state;
	expect(6, gaps);
	expect(3, pushed);
	expect(5, letters);
}

struct flags {
	unsigned count;
	u8 of[8];
};

static void note_flags(void *opaque, struct net_frame *f)
{
	struct flags *n = opaque;

	n->of[n->count++] = f->off.flags;
}

/* What a peer sends with a wrong checksum reaches the guest as it is. */
static void wrong_checksums_are_left_to_the_guest(void **state)
{
	/* Of data, of TCP, of the addresses, of IPv4's header. */
	static const u32 at[] = { 14 + 40 + 7, 14 + 20 + 16, 14 + 12, 14 + 8 };

	(void)state;
	for (size_t i = 0; i < sizeof(at) / sizeof(*at); i++) {
		struct flags n = { 0 };
		struct net_merge *m = net_merge_new(note_flags, &n, false);

		for (u32 k = 0; k < 3; k++) {
			u32 len;
			u8 *p = frame(false, 80, k * MSS, MSS, 0x10, &len);

			p[at[i]] ^= k == 1 ? 0x10 : 0;
			net_merge_add(m, p, len);
		}
		net_merge_flush(m);
		assert_int_equal(n.count, 3);
		assert_int_equal(n.of[0], NET_DATA_VALID);
		assert_int_equal(n.of[1], 0);
		assert_int_equal(n.of[2], NET_DATA_VALID);
		net_merge_free(m);
	}
}

static void ignore(void *opaque, struct net_frame *f)
{
	(void)opaque;
	assert_true(net_offload_valid(f));
}

static void garbage_passes(void **state)
{
	struct net_merge *m = net_merge_new(ignore, NULL, true);
	u8 buf[256];

	(void)state;
	srand(3);
	for (unsigned i = 0; i < 20000; i++) {
		u32 len;
		u8 *p = frame(i & 1, 80, (u32)rand() % 4 * 50, 50, 0x10, &len);

		memcpy(buf, p, len);
		buf[12 + (u32)rand() % 60] ^= (u8)(1 << rand() % 8);
		net_merge_add(m, buf, (u32)MAX(14, (int)len - rand() % 70));
	}
	net_merge_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_are_joined),
		cmocka_unit_test(what_does_not_follow_is_not_joined),
		cmocka_unit_test(wrong_checksums_are_left_to_the_guest),
		cmocka_unit_test(garbage_passes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
