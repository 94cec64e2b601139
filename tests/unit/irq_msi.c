/*
 * Message decode and destination matching, against an oracle that lists what
 * each CPU answers to instead of comparing registers (SDM vol.
 * 3, 11.6.2, 11.11, 11.12.10).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "irq/msi.h"

struct cpu {
	struct apic_target t;
	unsigned got;
	struct apic_msg last;
};

struct rig {
	struct apic_bus *bus;
	struct cpu cpus[APIC_BUS_MAX];
	unsigned count;
};

static void deliver(void *opaque, const struct apic_msg *msg)
{
	struct cpu *c = opaque;

	c->got++;
	c->last = *msg;
}

static struct cpu *add(struct rig *r, u32 id, u32 flags, u32 ldr, u32 dfr)
{
	struct cpu *c = &r->cpus[r->count++];

	c->t = (struct apic_target){
		.id = id,
		.flags = flags,
		.ldr = ldr,
		.dfr = dfr,
		.deliver = deliver,
		.opaque = c,
	};
	assert_true(apic_bus_add(r->bus, &c->t));
	return c;
}

static struct rig *rig_new(void)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	r->bus = apic_bus_new();
	return r;
}

static void rig_free(struct rig *r)
{
	apic_bus_free(r->bus);
	free(r);
}

static unsigned send(struct rig *r, const struct cpu *from, struct apic_msg msg)
{
	for (unsigned i = 0; i < r->count; i++)
		r->cpus[i].got = 0;
	return apic_bus_send(r->bus, from ? &from->t : NULL, &msg);
}

static void msi_decode_fields(void **state)
{
	static const struct {
		u64 addr;
		u32 data;
		bool ok;
		struct apic_msg msg;
	} cases[] = {
		/* address, data, accepted, dest, vector, mode, shorthand, logical, wide,
		   level */
		{ 0xfee00000,
		  0x0031,
		  true,
		  { 0x00, 0x31, APIC_DM_FIXED, 0, false, false, false } },
		{ 0xfee12000,
		  0x40fe,
		  true,
		  { 0x12, 0xfe, APIC_DM_FIXED, 0, false, false, false } },
		{ 0xfeeff004,
		  0xc031,
		  true,
		  { 0xff, 0x31, APIC_DM_FIXED, 0, true, false, true } },
		{ 0xfee03000,
		  0x0131,
		  true,
		  { 0x03, 0x31, APIC_DM_LOWEST, 0, false, false, false } },
		{ 0xfee0300c,
		  0x0031,
		  true,
		  { 0x03, 0x31, APIC_DM_LOWEST, 0, true, false, false } },
		{ 0xfee0300c,
		  0x0431,
		  true,
		  { 0x03, 0x31, APIC_DM_NMI, 0, true, false, false } },
		{ 0xfee03000,
		  0x0200,
		  true,
		  { 0x03, 0x00, APIC_DM_SMI, 0, false, false, false } },
		{ 0xfee03000,
		  0x0500,
		  true,
		  { 0x03, 0x00, APIC_DM_INIT, 0, false, false, false } },
		{ 0xfee03000,
		  0xc700,
		  true,
		  { 0x03, 0x00, APIC_DM_EXTINT, 0, false, false, false } },
		/* reserved bits do not matter */
		{ 0xfee03ff3,
		  0xffff3031,
		  true,
		  { 0x03, 0x31, APIC_DM_FIXED, 0, false, false, false } },
		/* reserved modes, de-assert, elsewhere */
		{ 0xfee00000, 0x0331, false, { 0 } },
		{ 0xfee00000, 0x0631, false, { 0 } },
		{ 0xfee00000, 0x8031, false, { 0 } },
		{ 0xfed00000, 0x0031, false, { 0 } },
		{ 0xfef00000, 0x0031, false, { 0 } },
		{ 0x1fee00000, 0x0031, false, { 0 } },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct apic_msg m = { 0 };

		assert_int_equal(msi_decode(cases[i].addr, cases[i].data, &m),
				 cases[i].ok);
		if (!cases[i].ok)
			continue;
		assert_int_equal(m.dest, cases[i].msg.dest);
		assert_int_equal(m.vector, cases[i].msg.vector);
		assert_int_equal(m.mode, cases[i].msg.mode);
		assert_int_equal(m.shorthand, cases[i].msg.shorthand);
		assert_int_equal(m.logical, cases[i].msg.logical);
		assert_int_equal(m.wide, cases[i].msg.wide);
		assert_int_equal(m.level, cases[i].msg.level);
	}
}

/*
 * The oracle: the set of destinations that a CPU answers to, filled in from its side,
 * in the order in which the manual tells it. 'narrow' are 8-bit destinations.
 */
struct answers {
	bool physical[256], logical[256];
};

static void oracle_xapic(struct answers *a, unsigned id, unsigned ldr, bool flat)
{
	memset(a, 0, sizeof(*a));
	if (id < 256)
		a->physical[id] = true;
	for (unsigned bit = 0; bit < (flat ? 8 : 4); bit++) {
		if (!(ldr & (1u << bit)))
			continue;
		/* Every destination in which my bit is set, among the others' bits. */
		for (unsigned others = 0; others < (flat ? 256u : 16u); others++) {
			unsigned set = others | 1u << bit;

			a->logical[flat ? set : (ldr / 16) * 16 + set] = true;
		}
	}
	a->physical[255] = true;
	a->logical[255] = true;
}

static void apic_match_xapic_agrees_with_oracle_for_every_destination(void **state)
{
	struct answers a;

	(void)state;
	for (unsigned flat = 0; flat < 2; flat++)
		for (unsigned ldr = 0; ldr < 256; ldr++) {
			struct apic_target t = {
				.id = ldr ^ 0x5a,
				.flags = APIC_T_ON,
				.ldr = ldr << 24,
				.dfr = flat ? 0xffffffff : 0x0fffffff,
			};

			oracle_xapic(&a, t.id, ldr, flat);
			for (unsigned dest = 0; dest < 256; dest++) {
				struct apic_msg m = { .dest = dest, .logical = true };

				assert_int_equal(apic_match(&t, &m), a.logical[dest]);
				m.logical = false;
				assert_int_equal(apic_match(&t, &m), a.physical[dest]);
			}
		}
}

static void apic_match_other_dfr_models_match_broadcast_only(void **state)
{
	(void)state;
	for (u32 model = 1; model < 15; model++) {
		struct apic_target t = {
			.id = 1,
			.flags = APIC_T_ON,
			.ldr = 0xff000000,
			.dfr = model << 28 | 0x0fffffff,
		};

		for (unsigned dest = 0; dest < 256; dest++) {
			struct apic_msg m = { .dest = dest, .logical = true };

			assert_int_equal(apic_match(&t, &m), dest == 255);
		}
	}
}

static void apic_match_x2apic_agrees_with_oracle(void **state)
{
	(void)state;
	for (u32 id = 0; id < 600; id += 7) {
		struct apic_target t = {
			.id = id,
			.flags = APIC_T_ON | APIC_T_X2,
			.ldr = id >> 4 << 16 | 1u << (id & 15),
			.dfr = 0xffffffff,
		};

		for (u32 cluster = 0; cluster < 40; cluster++)
			for (u32 set = 0; set < 0x10000; set += 0x101) {
				struct apic_msg m = {
					.dest = cluster << 16 | set,
					.logical = true,
					.wide = true,
				};
				bool want = id / 16 == cluster && (set >> id % 16) % 2;

				assert_int_equal(apic_match(&t, &m), want);
			}
		for (u32 dest = 0; dest < 700; dest++) {
			struct apic_msg m = { .dest = dest, .wide = true };

			assert_int_equal(apic_match(&t, &m), dest == id);
		}
	}
}

static void apic_match_across_modes(void **state)
{
	static const struct apic_target x = {
		.id = 3,
		.flags = APIC_T_ON,
		.ldr = 0x08000000,
		.dfr = 0xffffffff,
	};
	static const struct apic_target x2 = {
		.id = 3,
		.flags = APIC_T_ON | APIC_T_X2,
		.ldr = 0x00000008,
		.dfr = 0xffffffff,
	};
	static const struct {
		u32 dest;
		bool logical, wide;
		bool to_x, to_x2;
	} cases[] = {
		/* an x2APIC starts the others while they are in xAPIC mode */
		{ 3, false, true, true, true },
		{ 0xff, false, true, false, false },
		{ 0x103, false, true, false, false },
		{ 0xffffffff, false, true, true, true },
		{ 0xffffffff, true, true, true, true },
		{ 8, true, true, true, true },
		{ 0x10008, true, true, false, false },
		/* 8 bits, as MSI has without remapping */
		{ 3, false, false, true, true },
		{ 0xff, false, false, true, true },
		{ 0xff, true, false, true, true },
		{ 8, true, false, true, true },
		{ 0x10, true, false, false, false },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct apic_msg m = {
			.dest = cases[i].dest,
			.logical = cases[i].logical,
			.wide = cases[i].wide,
		};

		assert_int_equal(apic_match(&x, &m), cases[i].to_x);
		assert_int_equal(apic_match(&x2, &m), cases[i].to_x2);
	}
}

static void apic_bus_refuses_a_second_id_and_a_257th_cpu(void **state)
{
	struct rig *r = rig_new();
	struct apic_target t = { .id = 17, .deliver = deliver };

	(void)state;
	for (u32 id = 0; id < APIC_BUS_MAX; id++) {
		if (id == 18)
			assert_false(apic_bus_add(r->bus, &t));
		add(r, id, APIC_T_ON, 0, 0xffffffff);
	}
	t.id = 1000;
	assert_false(apic_bus_add(r->bus, &t));
	apic_bus_remove(r->bus, &r->cpus[5].t);
	assert_true(apic_bus_add(r->bus, &t));
	assert_int_equal(send(r, NULL, (struct apic_msg){ .dest = 5, .vector = 0x40 }),
			 0);
	assert_int_equal(send(r, NULL, (struct apic_msg){ .dest = 255, .wide = true }),
			 1);
	assert_int_equal(r->cpus[255].got, 1);
	rig_free(r);
}

static void apic_bus_physical_reaches_one(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (u32 id = 0; id < 100; id++)
		add(r, id * 3, APIC_T_ON | APIC_T_X2 | APIC_T_ACCEPTS, 0, 0);
	for (u32 dest = 0; dest < 400; dest++) {
		unsigned n =
			send(r, NULL, (struct apic_msg){ .dest = dest, .wide = true });
		bool hit = dest % 3 == 0 && dest < 300;

		assert_int_equal(n, hit);
		if (hit)
			assert_int_equal(r->cpus[dest / 3].got, 1);
	}
	rig_free(r);
}

static void apic_bus_shorthands(void **state)
{
	static const struct {
		unsigned shorthand, to_self, to_others;
	} cases[] = {
		{ APIC_SH_SELF, 1, 0 },
		{ APIC_SH_ALL, 1, 1 },
		{ APIC_SH_OTHERS, 0, 1 },
	};
	struct rig *r = rig_new();

	(void)state;
	for (u32 id = 0; id < 6; id++)
		add(r, id, id == 4 ? 0 : APIC_T_ON | (id & 1 ? APIC_T_X2 : 0), 0,
		    0xffffffff);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		send(r, &r->cpus[2],
		     (struct apic_msg){
			     .shorthand = (u8)cases[i].shorthand,
			     .dest = 1,
			     .mode = APIC_DM_NMI,
		     });
		for (unsigned c = 0; c < 6; c++) {
			unsigned want = c == 2 ? cases[i].to_self : cases[i].to_others;

			/* CPU 4 has its local APIC off. */
			assert_int_equal(r->cpus[c].got, c == 4 ? 0 : want);
		}
	}
	rig_free(r);
}

static void apic_bus_broadcast_reaches_all_that_are_on(void **state)
{
	struct rig *r = rig_new();

	(void)state;
	for (u32 id = 0; id < 10; id++)
		add(r, id, id == 9 ? 0 : APIC_T_ON, 0, 0xffffffff);
	assert_int_equal(send(r, NULL, (struct apic_msg){ .dest = 0xff }), 9);
	assert_int_equal(
		send(r, NULL, (struct apic_msg){ .dest = 0xff, .logical = true }), 9);
	assert_int_equal(send(r, NULL, (struct apic_msg){ .dest = ~0u, .wide = true }),
			 9);
	rig_free(r);
}

static void apic_bus_lowest_priority_takes_the_lowest_that_accepts(void **state)
{
	struct apic_msg m = {
		.dest = 0x0f,
		.logical = true,
		.mode = APIC_DM_LOWEST,
		.vector = 0x51,
	};
	struct rig *r = rig_new();

	(void)state;
	for (u32 id = 0; id < 5; id++)
		add(r, id, APIC_T_ON | APIC_T_ACCEPTS, 1u << (24 + id), 0xffffffff);
	r->cpus[0].t.ppr = 0x60;
	r->cpus[1].t.ppr = 0x20;
	r->cpus[2].t.ppr = 0x10;
	r->cpus[2].t.flags = APIC_T_ON; /* software disabled */
	r->cpus[3].t.ppr = 0x30;
	/* CPU 4 has 0 and is not addressed. */
	assert_int_equal(send(r, NULL, m), 1);
	assert_int_equal(r->cpus[1].got, 1);
	/* Equal classes share by vector: each always goes to the same, all get some. */
	r->cpus[0].t.ppr = 0x2f;
	r->cpus[3].t.ppr = 0x20;
	for (unsigned v = 0x30; v < 0x100; v++) {
		static const unsigned order[] = { 0, 1, 3 };

		m.vector = (u8)v;
		assert_int_equal(send(r, NULL, m), 1);
		assert_int_equal(r->cpus[order[v % 3]].got, 1);
	}
	m.dest = 0x04;
	assert_int_equal(send(r, NULL, m), 0);
	rig_free(r);
}

static void apic_bus_msi_goes_the_whole_way(void **state)
{
	struct rig *r = rig_new();
	struct msi_sink sink = { .send = apic_bus_msi, .opaque = r->bus };

	(void)state;
	add(r, 0, APIC_T_ON | APIC_T_ACCEPTS, 0x01000000, 0xffffffff);
	add(r, 1, APIC_T_ON | APIC_T_ACCEPTS, 0x02000000, 0xffffffff);
	msi_send(&sink, 0xfee01000, 0x4045);
	assert_int_equal(r->cpus[1].got, 1);
	assert_int_equal(r->cpus[1].last.vector, 0x45);
	assert_false(r->cpus[1].last.level);
	msi_send(&sink, 0xfee03004, 0xc046);
	assert_int_equal(r->cpus[0].got, 1);
	assert_int_equal(r->cpus[1].got, 2);
	assert_true(r->cpus[0].last.level);
	msi_send(&sink, 0x1000, 0x4045);
	msi_send(&(struct msi_sink){ 0 }, 0xfee01000, 0x4045);
	assert_int_equal(r->cpus[1].got, 2);
	rig_free(r);
}

static void eoi(void *opaque, u8 vector)
{
	unsigned *sum = opaque;

	*sum += vector;
}

static void apic_bus_eoi_reaches_every_listener(void **state)
{
	struct rig *r = rig_new();
	unsigned sum[APIC_BUS_EOI_MAX + 1] = { 0 };

	(void)state;
	for (unsigned i = 0; i < APIC_BUS_EOI_MAX; i++)
		assert_true(apic_bus_listen_eoi(r->bus, eoi, &sum[i]));
	assert_false(apic_bus_listen_eoi(r->bus, eoi, &sum[APIC_BUS_EOI_MAX]));
	apic_bus_eoi(r->bus, 0x77);
	for (unsigned i = 0; i < APIC_BUS_EOI_MAX; i++)
		assert_int_equal(sum[i], 0x77);
	assert_int_equal(sum[APIC_BUS_EOI_MAX], 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msi_decode_fields),
		cmocka_unit_test(
			apic_match_xapic_agrees_with_oracle_for_every_destination),
		cmocka_unit_test(apic_match_other_dfr_models_match_broadcast_only),
		cmocka_unit_test(apic_match_x2apic_agrees_with_oracle),
		cmocka_unit_test(apic_match_across_modes),
		cmocka_unit_test(apic_bus_refuses_a_second_id_and_a_257th_cpu),
		cmocka_unit_test(apic_bus_physical_reaches_one),
		cmocka_unit_test(apic_bus_shorthands),
		cmocka_unit_test(apic_bus_broadcast_reaches_all_that_are_on),
		cmocka_unit_test(apic_bus_lowest_priority_takes_the_lowest_that_accepts),
		cmocka_unit_test(apic_bus_msi_goes_the_whole_way),
		cmocka_unit_test(apic_bus_eoi_reaches_every_listener),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
