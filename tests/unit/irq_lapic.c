/* Local APICs on one bus: registers, priorities, IPIs, modes, pins (SDM vol. 3, chapter
 * 11). */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "irq/ioapic.h"
#include "irq/lapic.h"
#include "irq/pic.h"

#define CPUS 4

#define TPR         0x080
#define APR         0x090
#define PPR         0x0a0
#define EOI         0x0b0
#define LDR         0x0d0
#define DFR         0x0e0
#define SVR         0x0f0
#define ISR         0x100
#define TMR         0x180
#define IRR         0x200
#define ESR         0x280
#define LVT_CMCI    0x2f0
#define ICR_LOW     0x300
#define ICR_HIGH    0x310
#define LVT_TIMER   0x320
#define LVT_THERMAL 0x330
#define LVT_PMI     0x340
#define LVT_LINT0   0x350
#define LVT_LINT1   0x360
#define LVT_ERROR   0x370
#define INITIAL     0x380
#define CURRENT     0x390
#define DIVIDE      0x3e0

#define MASKED     0x10000
#define X2(offset) (0x800 + (offset) / 16)

struct cpu {
	struct lapic *l;
	unsigned events;
	u64 base; /* last reported */
	unsigned base_changes;
	int inta_vector;
	unsigned intas;
};

struct rig {
	struct clock *clk;
	struct apic_bus *bus;
	struct cpu cpus[CPUS];
	u8 eois[16];
	unsigned eoi_count;
};

static void event(void *opaque, unsigned events)
{
	struct cpu *c = opaque;

	__atomic_fetch_or(&c->events, events, __ATOMIC_SEQ_CST);
}

static int inta(void *opaque)
{
	struct cpu *c = opaque;

	c->intas++;
	return c->inta_vector;
}

static void base_changed(void *opaque, u64 base)
{
	struct cpu *c = opaque;

	c->base = base;
	c->base_changes++;
}

static vns_t tsc_to_vns(void *opaque, u64 tsc)
{
	(void)opaque;
	return tsc > INT64_MAX ? VNS_NEVER : (vns_t)tsc;
}

static u64 vns_to_tsc(void *opaque, vns_t t)
{
	(void)opaque;
	return (u64)t;
}

static const struct lapic_ops ops = {
	.event = event,
	.inta = inta,
	.base_changed = base_changed,
	.tsc_to_vns = tsc_to_vns,
	.vns_to_tsc = vns_to_tsc,
};

static void eoi(void *opaque, u8 vector)
{
	struct rig *r = opaque;

	r->eois[r->eoi_count++ % 16] = vector;
}

static void rig_init(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	r->clk = clock_new_manual();
	r->bus = apic_bus_new();
	apic_bus_listen_eoi(r->bus, eoi, r);
	for (unsigned i = 0; i < CPUS; i++) {
		struct lapic_config cfg = {
			.clk = r->clk,
			.bus = r->bus,
			.id = i,
			.is_bsp = i == 0,
			.x2apic = true,
			.tsc_deadline = true,
			.phys_bits = 40,
			.timer_hz = 1000000000,
			.ops = &ops,
			.opaque = &r->cpus[i],
		};

		r->cpus[i].inta_vector = 0x99;
		r->cpus[i].l = lapic_new(&cfg);
		assert_non_null(r->cpus[i].l);
	}
}

static void rig_fini(struct rig *r)
{
	for (unsigned i = 0; i < CPUS; i++)
		lapic_free(r->cpus[i].l);
	apic_bus_free(r->bus);
	clock_free(r->clk);
}

static u32 rd(struct cpu *c, u64 off)
{
	return (u32)lapic_mmio_ops.read(c->l, off, 4);
}

static void wr(struct cpu *c, u64 off, u32 val)
{
	lapic_mmio_ops.write(c->l, off, val, 4);
}

static u64 rdx(struct cpu *c, u64 off)
{
	u64 val = 0xdead;

	assert_true(lapic_msr_read(c->l, X2(off), &val));
	return val;
}

static void wrx(struct cpu *c, u64 off, u64 val)
{
	assert_true(lapic_msr_write(c->l, X2(off), val));
}

static void go_x2apic(struct cpu *c)
{
	assert_true(lapic_base_write(c->l, lapic_base_read(c->l) | APIC_BASE_EXTD));
}

static unsigned take_events(struct cpu *c)
{
	unsigned e = c->events;

	c->events = 0;
	return e;
}

static void enable_all(struct rig *r)
{
	for (unsigned i = 0; i < CPUS; i++) {
		wr(&r->cpus[i], SVR, 0x1ff);
		take_events(&r->cpus[i]);
	}
}

static bool bit_of(struct cpu *c, u64 bitmap, u8 vector)
{
	return rd(c, bitmap + vector / 32 * 16) >> vector % 32 & 1;
}

static void lapic_registers_after_reset(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned i = 0; i < CPUS; i++) {
		struct cpu *c = &r.cpus[i];

		assert_int_equal(lapic_base_read(c->l),
				 0xfee00800 | (i == 0 ? 0x100 : 0));
		assert_int_equal(rd(c, 0x20), i << 24);
		assert_int_equal(rd(c, 0x30), 0x01060015);
		assert_int_equal(rd(c, TPR), 0);
		assert_int_equal(rd(c, PPR), 0);
		assert_int_equal(rd(c, LDR), 0);
		assert_int_equal(rd(c, DFR), 0xffffffff);
		assert_int_equal(rd(c, SVR), 0xff);
		for (u64 off = ISR; off <= ESR; off += 16)
			assert_int_equal(rd(c, off), 0);
		assert_int_equal(rd(c, ICR_LOW), 0);
		assert_int_equal(rd(c, ICR_HIGH), 0);
		assert_int_equal(rd(c, LVT_CMCI), MASKED);
		for (u64 off = LVT_TIMER; off <= LVT_ERROR; off += 16)
			assert_int_equal(rd(c, off), MASKED);
		assert_int_equal(rd(c, INITIAL), 0);
		assert_int_equal(rd(c, CURRENT), 0);
		assert_int_equal(rd(c, DIVIDE), 0);
		assert_int_equal(take_events(c), 0);
	}
	rig_fini(&r);
}

static void lapic_bits_that_can_be_written(void **state)
{
	static const struct {
		u16 off;
		u32 val;
	} cases[] = {
		{ 0x20, 0x00000000 },     { TPR, 0xff },
		{ LDR, 0xff000000 },      { DFR, 0xffffffff },
		{ SVR, 0x13ff },          { LVT_CMCI, 0x107ff },
		{ LVT_TIMER, 0x700ff },   { LVT_THERMAL, 0x107ff },
		{ LVT_PMI, 0x107ff },     { LVT_LINT0, 0x1a7ff },
		{ LVT_LINT1, 0x1a7ff },   { LVT_ERROR, 0x100ff },
		{ ICR_HIGH, 0xff000000 }, { DIVIDE, 0xb },
	};
	struct rig r;

	(void)state;
	rig_init(&r);
	wr(&r.cpus[0], SVR, 0x1ff);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		wr(&r.cpus[0], cases[i].off, 0xffffffff);
		assert_int_equal(rd(&r.cpus[0], cases[i].off), cases[i].val);
	}
	wr(&r.cpus[0], DFR, 0);
	assert_int_equal(rd(&r.cpus[0], DFR), 0x0fffffff);
	wr(&r.cpus[0], ICR_LOW,
	   0xfff7f7ff & ~0x700u); /* fixed, vector ffh, shorthand 1 */
	assert_int_equal(rd(&r.cpus[0], ICR_LOW), 0x000cc0ff & 0xfff7f7ff);
	rig_fini(&r);
}

static void lapic_software_disable_masks_lvt_and_stops_fixed(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[1];

	(void)state;
	rig_init(&r);
	wr(c, LVT_THERMAL, 0x55);
	assert_int_equal(rd(c, LVT_THERMAL), 0x55 | MASKED);
	lapic_post(c->l, 0x40, false);
	assert_int_equal(take_events(c), 0);
	wr(c, SVR, 0x1ff);
	assert_int_equal(rd(c, LVT_THERMAL), 0x55 | MASKED); /* stays */
	wr(c, LVT_THERMAL, 0x55);
	lapic_post(c->l, 0x40, false);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	wr(c, SVR, 0xff);
	assert_int_equal(rd(c, LVT_THERMAL), 0x55 | MASKED);
	/* What was accepted is still delivered; NMI, INIT and SIPI still arrive. */
	assert_int_equal(lapic_take(c->l), 0x40);
	take_events(c);
	apic_bus_msi(r.bus, 0xfee01000, 0x4400);
	apic_bus_msi(r.bus, 0xfee01000, 0x4500);
	apic_bus_msi(r.bus, 0xfee01000, 0x4041);
	apic_bus_msi(r.bus, 0xfee01000, 0x4700);
	assert_int_equal(take_events(c), LAPIC_EV_NMI | LAPIC_EV_INIT);
	rig_fini(&r);
}

static void lapic_take_in_order_of_priority(void **state)
{
	static const u8 vectors[] = { 0x31, 0xef, 0x10, 0x80, 0x8f, 0x20, 0x9f };
	static const u8 order[] = { 0xef, 0x9f, 0x8f, 0x80, 0x31, 0x20, 0x10 };
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	assert_false(lapic_has_intr(c->l));
	assert_int_equal(lapic_take(c->l), -1);
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++)
		lapic_post(c->l, vectors[i], false);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
		assert_true(lapic_has_intr(c->l));
		assert_true(bit_of(c, IRR, order[i]));
		assert_int_equal(lapic_take(c->l), order[i]);
		assert_false(bit_of(c, IRR, order[i]));
		assert_true(bit_of(c, ISR, order[i]));
		assert_int_equal(rd(c, PPR), order[i] & 0xf0);
		assert_false(lapic_has_intr(c->l));
		take_events(c);
		wr(c, EOI, 0);
		/* The next one is reported by the EOI that lets it through. */
		assert_int_equal(take_events(c),
				 i + 1 < ARRAY_SIZE(order) ? LAPIC_EV_INTR : 0);
		assert_false(bit_of(c, ISR, order[i]));
	}
	assert_int_equal(rd(c, PPR), 0);
	wr(c, EOI, 0);
	rig_fini(&r);
}

static void lapic_nested_service_by_class(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	lapic_post(c->l, 0x45, false);
	assert_int_equal(lapic_take(c->l), 0x45);
	lapic_post(c->l, 0x4f, false); /* same class */
	assert_false(lapic_has_intr(c->l));
	lapic_post(c->l, 0x50, false);
	assert_int_equal(lapic_take(c->l), 0x50);
	assert_int_equal(rd(c, PPR), 0x50);
	wr(c, EOI, 0);
	assert_int_equal(rd(c, PPR), 0x40);
	assert_false(lapic_has_intr(c->l));
	wr(c, EOI, 0);
	assert_int_equal(lapic_take(c->l), 0x4f);
	rig_fini(&r);
}

static void lapic_tpr_and_cr8_hold_back(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned class = 1; class < 16; class ++) {
		u8 v = (u8)(class << 4 | 0xf);

		lapic_post(c->l, v, false);
		for (unsigned tpr = 0; tpr < 256; tpr++) {
			wr(c, TPR, tpr);
			assert_int_equal(rd(c, PPR), tpr);
			assert_int_equal(lapic_cr8_read(c->l), tpr >> 4);
			assert_int_equal(lapic_has_intr(c->l), class > tpr >> 4);
		}
		lapic_cr8_write(c->l, class);
		assert_int_equal(rd(c, TPR), class << 4);
		assert_int_equal(lapic_take(c->l), -1);
		take_events(c);
		lapic_cr8_write(c->l, class - 1);
		assert_int_equal(take_events(c), LAPIC_EV_INTR);
		assert_int_equal(lapic_take(c->l), v);
		/* PPR: the higher of the two classes; TPR's low half only when it is TPR.
		 */
		wr(c, TPR, 0x07);
		assert_int_equal(rd(c, PPR), class << 4);
		wr(c, EOI, 0);
		assert_int_equal(rd(c, PPR), 0x07);
	}
	rig_fini(&r);
}

static void lapic_apr_formula(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(c, TPR, 0x35);
	assert_int_equal(rd(c, APR), 0x35);
	lapic_post(c->l, 0x62, false);
	assert_int_equal(rd(c, APR), 0x60);
	assert_int_equal(lapic_take(c->l), 0x62);
	assert_int_equal(rd(c, APR), 0x35 & 0x60);
	rig_fini(&r);
}

static void lapic_vanished_interrupt_is_spurious(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	wr(c, SVR, 0x1e7);
	lapic_post(c->l, 0x45, false);
	assert_true(lapic_has_intr(c->l));
	wr(c, TPR, 0x40);
	assert_int_equal(lapic_take(c->l), 0xe7);
	assert_false(bit_of(c, ISR, 0xe7));
	assert_int_equal(lapic_take(c->l), -1);
	wr(c, TPR, 0);
	assert_int_equal(lapic_take(c->l), 0x45);
	rig_fini(&r);
}

static void lapic_pending_vector_is_reported_once(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	lapic_post(c->l, 0x45, false);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	lapic_post(c->l, 0x45, false);
	assert_int_equal(take_events(c), 0);
	assert_int_equal(lapic_take(c->l), 0x45);
	/* In service, it can be pending once more. */
	lapic_post(c->l, 0x45, false);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	rig_fini(&r);
}

static void lapic_eoi_broadcasts_level_vectors_only(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	lapic_post(c->l, 0x45, true);
	assert_true(bit_of(c, TMR, 0x45));
	lapic_take(c->l);
	wr(c, EOI, 0);
	assert_int_equal(r.eoi_count, 1);
	assert_int_equal(r.eois[0], 0x45);
	lapic_post(c->l, 0x45, false); /* now edge: TMR follows */
	assert_false(bit_of(c, TMR, 0x45));
	lapic_take(c->l);
	wr(c, EOI, 0);
	assert_int_equal(r.eoi_count, 1);
	/* Suppressed by SVR bit 12. */
	wr(c, SVR, 0x11ff);
	lapic_post(c->l, 0x45, true);
	lapic_take(c->l);
	wr(c, EOI, 0);
	assert_int_equal(r.eoi_count, 1);
	rig_fini(&r);
}

static void lapic_ioapic_level_interrupt_goes_the_whole_way(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[2];
	struct ioapic_config cfg = { .version = 0x20 };
	struct ioapic *io;

	(void)state;
	rig_init(&r);
	enable_all(&r);
	cfg.out = (struct msi_sink){ .send = apic_bus_msi, .opaque = r.bus };
	io = ioapic_new(&cfg);
	apic_bus_listen_eoi(r.bus, ioapic_eoi, io);
	ioapic_ops.write(io, 0, 0x11 + 2 * 20, 4);
	ioapic_ops.write(io, 0x10, 2 << 24, 4);
	ioapic_ops.write(io, 0, 0x10 + 2 * 20, 4);
	ioapic_ops.write(io, 0x10, 0x8071, 4);
	ioapic_set(io, 20, true);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(take_events(c), LAPIC_EV_INTR);
		assert_int_equal(lapic_take(c->l), 0x71);
		assert_true(ioapic_ops.read(io, 0x10, 4) & 0x4000);
		assert_false(lapic_has_intr(c->l));
		if (i == 2)
			ioapic_set(io, 20, false);
		wr(c, EOI, 0);
	}
	assert_false(ioapic_ops.read(io, 0x10, 4) & 0x4000);
	assert_int_equal(take_events(c), 0);
	assert_int_equal(lapic_take(c->l), -1);
	ioapic_free(io);
	rig_fini(&r);
}

/* Every delivery mode of the ICR by every way of addressing CPU 2 from CPU 1. */
static void lapic_icr_modes_and_destinations(void **state)
{
	static const struct {
		u32 high, low;
		unsigned mask; /* CPUs that get it */
	} dest[] = {
		{ 0x02000000, 0x00000, 1 << 2 }, { 0x04000000, 0x00800, 1 << 2 },
		{ 0x0c000000, 0x00800, 3 << 2 }, { 0xff000000, 0x00000, 15 },
		{ 0xff000000, 0x00800, 15 },     { 0x00000000, 0x40000, 1 << 1 },
		{ 0x00000000, 0x80000, 15 },     { 0x00000000, 0xc0000, 13 },
		{ 0x07000000, 0x00000, 0 },      { 0x00000000, 0x00800, 0 },
	};
	static const struct {
		u32 low;
		unsigned event;
	} mode[] = {
		{ 0x4045, LAPIC_EV_INTR },
		{ 0x4200, LAPIC_EV_SMI },
		{ 0x4400, LAPIC_EV_NMI },
		{ 0x4500, LAPIC_EV_INIT },
		{ 0xc500, LAPIC_EV_INIT },
		{ 0x46a5, LAPIC_EV_SIPI },
		{ 0x0045, LAPIC_EV_INTR },
		{ 0xc045, LAPIC_EV_INTR },
		{ 0x8500, 0 }, /* INIT level de-assert */
		{ 0x4300, 0 }, /* reserved */
		{ 0x4700, 0 }, /* no ExtINT by IPI */
	};
	struct rig r;

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned i = 0; i < CPUS; i++)
		wr(&r.cpus[i], LDR, 1u << (24 + i));
	for (unsigned d = 0; d < ARRAY_SIZE(dest); d++)
		for (unsigned m = 0; m < ARRAY_SIZE(mode); m++) {
			wr(&r.cpus[1], ICR_HIGH, dest[d].high);
			wr(&r.cpus[1], ICR_LOW, dest[d].low | mode[m].low);
			assert_int_equal(rd(&r.cpus[1], ICR_LOW),
					 dest[d].low | mode[m].low);
			for (unsigned i = 0; i < CPUS; i++) {
				struct cpu *c = &r.cpus[i];
				unsigned want = dest[d].mask >> i & 1 ? mode[m].event : 0;

				assert_int_equal(take_events(c), want);
				if (want == LAPIC_EV_INTR) {
					assert_false(bit_of(c, TMR, 0x45));
					assert_int_equal(lapic_take(c->l), 0x45);
					wr(c, EOI, 0);
				} else if (want == LAPIC_EV_SIPI) {
					assert_int_equal(lapic_sipi_vector(c->l), 0xa5);
				}
			}
		}
	rig_fini(&r);
}

static void lapic_icr_lowest_priority_goes_to_one(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned i = 0; i < CPUS; i++) {
		wr(&r.cpus[i], LDR, 1u << (24 + i));
		wr(&r.cpus[i], TPR, i == 3 ? 0x10 : 0x20);
	}
	wr(&r.cpus[0], ICR_HIGH, 0x0f000000);
	wr(&r.cpus[0], ICR_LOW, 0x4945);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(take_events(&r.cpus[i]), i == 3 ? LAPIC_EV_INTR : 0);
	rig_fini(&r);
}

static void lapic_esr_collects_and_interrupts_once(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(c, LVT_ERROR, 0xfe);
	wr(c, ICR_LOW, 0x4404f & ~0x40u); /* fixed, self, vector 0fh */
	assert_int_equal(rd(c, ESR), 0);  /* not before it is written */
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	assert_int_equal(lapic_take(c->l), 0xfe);
	wr(c, EOI, 0);
	lapic_post(c->l, 0x0f, false);
	rd(c, 0x40);                         /* reserved register */
	assert_int_equal(take_events(c), 0); /* one interrupt until ESR is written */
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0xe0);
	rd(c, 0x40);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0x80);
	wr(c, 0x3f0, 1); /* SELF IPI is reserved in xAPIC mode */
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0x80);
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0);
	rd(c, 0xc0); /* RRD and APR are not reserved */
	rd(c, 0x90);
	wr(c, 0x30, 5);
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0);
	/* An illegal vector in LVT error itself does not go round in circles. */
	wr(c, LVT_ERROR, 0x05);
	rd(c, 0x40);
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0xc0);
	rig_fini(&r);
}

static void lapic_window_access_sizes(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[3];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	assert_int_equal(lapic_mmio_ops.read(c->l, 0x23, 1), 3);
	assert_int_equal(lapic_mmio_ops.read(c->l, 0x22, 2), 0x300);
	assert_int_equal(lapic_mmio_ops.read(c->l, 0x24, 4), 0);
	assert_int_equal(lapic_mmio_ops.read(c->l, 0x22, 4), 0);
	lapic_mmio_ops.write(c->l, TPR, 0x55, 1);
	lapic_mmio_ops.write(c->l, TPR + 4, 0x55, 4);
	lapic_mmio_ops.write(c->l, TPR + 1, 0x55, 4);
	assert_int_equal(rd(c, TPR), 0);
	for (u64 off = 0; off < 0x1000; off += 4)
		lapic_mmio_ops.read(c->l, off, 4);
	rig_fini(&r);
}

static void lapic_base_transitions(void **state)
{
	/* old and new EN:EXTD as figure 11-27 has them; 1 is invalid as a state. */
	static const u8 legal[4][4] = {
		[0] = { 1, 0, 1, 0 },
		[2] = { 1, 0, 1, 1 },
		[3] = { 1, 0, 0, 1 },
	};

	(void)state;
	for (unsigned old = 0; old < 4; old++) {
		if (old == 1)
			continue;
		for (unsigned new = 0; new < 4; new ++) {
			struct rig r;
			struct cpu *c = &r.cpus[0];
			u64 before, val = 0xfee00100 | new << 10;

			rig_init(&r);
			if (old == 3)
				go_x2apic(c);
			else
				assert_true(
					lapic_base_write(c->l, 0xfee00100 | old << 10));
			before = lapic_base_read(c->l);
			c->base_changes = 0;
			assert_int_equal(lapic_base_write(c->l, val), legal[old][new]);
			assert_int_equal(lapic_base_read(c->l),
					 legal[old][new] ? val : before);
			assert_int_equal(c->base_changes, legal[old][new]);
			rig_fini(&r);
		}
	}
}

static void lapic_base_reserved_bits(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];
	u64 at;

	(void)state;
	rig_init(&r);
	for (unsigned bit = 0; bit < 64; bit++) {
		u64 val = (u64)0xfee00800 ^ BIT(bit);
		/* bits 7:0, 9 and from MAXPHYADDR (40) on; 10 and 11 are the mode */
		bool ok = bit == 8 || (bit >= 12 && bit < 40) || bit == 10 || bit == 11;

		assert_true(lapic_base_write(c->l, 0xfee00000));
		assert_true(lapic_base_write(c->l, 0xfee00800));
		assert_int_equal(lapic_base_write(c->l, val), ok);
	}
	assert_true(lapic_base_write(c->l, 0xfee00000));
	assert_false(lapic_window(c->l, &at));
	assert_true(lapic_base_write(c->l, 0x1234567800));
	assert_true(lapic_window(c->l, &at));
	assert_int_equal(at, 0x1234567000);
	assert_int_equal(c->base, 0x1234567800);
	rig_fini(&r);
}

static void lapic_without_x2apic_has_no_extd(void **state)
{
	struct rig r;
	struct cpu c = { 0 };
	struct lapic_config cfg = { .id = 77, .ops = &ops, .opaque = &c };

	(void)state;
	rig_init(&r);
	cfg.clk = r.clk;
	cfg.bus = r.bus;
	c.l = lapic_new(&cfg);
	assert_false(lapic_base_write(c.l, 0xfee00c00));
	/* nor TSC-deadline mode */
	wr(&c, SVR, 0x1ff);
	wr(&c, LVT_TIMER, 0x40031);
	assert_int_equal(rd(&c, LVT_TIMER), 0x31);
	lapic_tsc_deadline_write(c.l, 1);
	assert_int_equal(take_events(&c), 0);
	lapic_free(c.l);
	rig_fini(&r);
}

static void lapic_disable_resets_and_takes_it_off_the_bus(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[1];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(c, TPR, 0x30);
	wr(c, LVT_THERMAL, 0x55);
	lapic_post(c->l, 0x45, false);
	assert_true(lapic_base_write(c->l, 0xfee00000));
	assert_int_equal(rd(c, TPR), 0xffffffff);
	take_events(c);
	apic_bus_msi(r.bus, 0xfee01000, 0x4045);
	apic_bus_msi(r.bus, 0xfee01000, 0x4400);
	apic_bus_msi(r.bus, 0xfeeff000, 0x4500);
	assert_int_equal(take_events(c), 0);
	assert_false(lapic_has_intr(c->l));
	assert_int_equal(lapic_take(c->l), -1);
	assert_true(lapic_base_write(c->l, 0xfee00800));
	assert_int_equal(rd(c, TPR), 0);
	assert_int_equal(rd(c, SVR), 0xff);
	assert_int_equal(rd(c, LVT_THERMAL), MASKED);
	assert_int_equal(rd(c, IRR + 0x20), 0);
	assert_int_equal(rd(c, 0x20), 1 << 24);
	rig_fini(&r);
}

static void lapic_x2apic_msrs_that_exist(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[1];

	(void)state;
	rig_init(&r);
	for (u32 msr = 0x800; msr < 0x900; msr++) {
		u64 val;

		assert_false(lapic_msr_read(c->l, msr, &val));
		assert_false(lapic_msr_write(c->l, msr, 0));
	}
	go_x2apic(c);
	for (u32 msr = 0x7f0; msr < 0xc00; msr++) {
		u32 reg = msr - 0x800;
		/* table 11-6 */
		bool r_w = reg == 0x08 || reg == 0x0f || reg == 0x28 || reg == 0x2f ||
			   reg == 0x30 || (reg >= 0x32 && reg <= 0x38) || reg == 0x3e;
		bool r_o = reg == 0x02 || reg == 0x03 || reg == 0x0a || reg == 0x0d ||
			   (reg >= 0x10 && reg <= 0x27) || reg == 0x39;
		bool w_o = reg == 0x0b || reg == 0x3f;
		u64 val;

		assert_int_equal(lapic_msr_read(c->l, msr, &val), r_w || r_o);
		assert_int_equal(lapic_msr_write(c->l, msr, 0), r_w || w_o);
	}
	/* The window is gone. */
	assert_int_equal(rd(c, 0x30), 0xffffffff);
	wr(c, TPR, 0x20);
	assert_int_equal(rdx(c, TPR), 0);
	rig_fini(&r);
}

static void lapic_x2apic_reserved_bits(void **state)
{
	static const struct {
		u16 off;
		u64 bits; /* that may be written: the others cause #GP */
		u64 kept; /* of them, what reads back; 0: do not look */
	} cases[] = {
		{ TPR, 0xff, 0xff },
		{ EOI, 0, 0 },
		{ SVR, 0x13ff, 0x13ff },
		{ ESR, 0, 0 },
		{ LVT_CMCI, 0x117ff, 0x107ff },
		{ LVT_TIMER, 0x710ff, 0x700ff },
		{ LVT_THERMAL, 0x117ff, 0x107ff },
		{ LVT_PMI, 0x117ff, 0x107ff },
		{ LVT_LINT0, 0x1f7ff, 0x1a7ff },
		{ LVT_LINT1, 0x1f7ff, 0x1a7ff },
		{ LVT_ERROR, 0x110ff, 0x100ff },
		{ ICR_LOW, 0xffffffff000cdfff, 0xffffffff000ccfff },
		{ INITIAL, 0xffffffff, 0xffffffff },
		{ DIVIDE, 0xb, 0xb },
		{ 0x3f0, 0xff, 0 },
	};
	struct rig r;
	struct cpu *c = &r.cpus[1];

	(void)state;
	rig_init(&r);
	go_x2apic(c);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		for (unsigned bit = 0; bit < 64; bit++) {
			u64 val = BIT(bit), back;
			bool ok = cases[i].bits & val;

			wrx(c, SVR, 0x1ff);
			wrx(c, LVT_TIMER, 0);
			assert_int_equal(lapic_msr_write(c->l, X2(cases[i].off), val),
					 ok);
			if (ok && cases[i].kept) {
				back = rdx(c, cases[i].off);
				assert_int_equal(back, val & cases[i].kept);
			}
		}
	rig_fini(&r);
}

static void lapic_x2apic_ids_and_ipis(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(&r.cpus[1], TPR, 0x10);
	for (unsigned i = 0; i < 3; i++)
		go_x2apic(&r.cpus[i]);
	assert_int_equal(rdx(&r.cpus[1], 0x20), 1);
	assert_int_equal(rdx(&r.cpus[1], LDR), 2);
	assert_int_equal(rdx(&r.cpus[1], TPR), 0x10); /* 11.12.5.1: state is kept */
	assert_int_equal(rdx(&r.cpus[1], SVR), 0x1ff);

	wrx(&r.cpus[0], ICR_LOW, (u64)2 << 32 | 0x4045);
	assert_int_equal(rdx(&r.cpus[0], ICR_LOW), (u64)2 << 32 | 0x4045);
	assert_int_equal(take_events(&r.cpus[2]), LAPIC_EV_INTR);
	/* CPU 3 is still in xAPIC mode: this is how it is started. */
	wrx(&r.cpus[0], ICR_LOW, (u64)3 << 32 | 0x4500);
	wrx(&r.cpus[0], ICR_LOW, (u64)3 << 32 | 0x469a);
	assert_int_equal(take_events(&r.cpus[3]), LAPIC_EV_INIT | LAPIC_EV_SIPI);
	assert_int_equal(lapic_sipi_vector(r.cpus[3].l), 0x9a);
	/* logical: cluster 0, CPUs 1 and 2 */
	wrx(&r.cpus[0], ICR_LOW, (u64)6 << 32 | 0x4846);
	assert_int_equal(take_events(&r.cpus[0]), 0);
	assert_int_equal(take_events(&r.cpus[1]), LAPIC_EV_INTR);
	assert_int_equal(take_events(&r.cpus[2]), LAPIC_EV_INTR);
	/* broadcast */
	wrx(&r.cpus[0], ICR_LOW, (u64)0xffffffff << 32 | 0x4400);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(take_events(&r.cpus[i]), LAPIC_EV_NMI);
	/* SELF IPI */
	lapic_msr_write(r.cpus[0].l, 0x83f, 0x61);
	assert_int_equal(take_events(&r.cpus[0]), LAPIC_EV_INTR);
	assert_int_equal(lapic_take(r.cpus[0].l), 0x61);
	wrx(&r.cpus[0], EOI, 0);
	lapic_msr_write(r.cpus[0].l, 0x83f, 0x0f);
	wrx(&r.cpus[0], ESR, 0);
	assert_int_equal(rdx(&r.cpus[0], ESR), 0x20);
	assert_false(lapic_has_intr(r.cpus[0].l));
	rig_fini(&r);
}

static void lapic_x2apic_logical_id_of_high_ids(void **state)
{
	static const u32 ids[] = { 15, 16, 31, 254, 255, 256, 0x12345 };
	struct rig r;

	(void)state;
	rig_init(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		struct cpu c = { 0 };
		struct lapic_config cfg = {
			.clk = r.clk,
			.bus = r.bus,
			.id = ids[i],
			.x2apic = true,
			.ops = &ops,
			.opaque = &c,
		};

		c.l = lapic_new(&cfg);
		go_x2apic(&c);
		assert_int_equal(rdx(&c, LDR), (ids[i] / 16) << 16 | 1u << ids[i] % 16);
		wrx(&c, SVR, 0x1ff);
		apic_bus_send(r.bus, NULL,
			      &(struct apic_msg){
				      .dest = ids[i], .wide = true, .vector = 0x41 });
		assert_int_equal(take_events(&c), LAPIC_EV_INTR);
		lapic_init(c.l);
		assert_int_equal(rdx(&c, LDR), (ids[i] / 16) << 16 | 1u << ids[i] % 16);
		lapic_free(c.l);
	}
	rig_fini(&r);
}

static void lapic_init_keeps_id_and_base(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[2];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	assert_true(lapic_base_write(c->l, 0xfed00800));
	wr(c, TPR, 0x30);
	wr(c, LDR, 0xff000000);
	wr(c, DFR, 0);
	lapic_post(c->l, 0x55, true);
	lapic_take(c->l);
	lapic_post(c->l, 0x66, false);
	wr(c, LVT_TIMER, 0x20040);
	wr(c, INITIAL, 1000);
	lapic_init(c->l);
	assert_int_equal(lapic_base_read(c->l), 0xfed00800);
	assert_int_equal(rd(c, 0x20), 2 << 24);
	assert_int_equal(rd(c, TPR), 0);
	assert_int_equal(rd(c, PPR), 0);
	assert_int_equal(rd(c, LDR), 0);
	assert_int_equal(rd(c, DFR), 0xffffffff);
	assert_int_equal(rd(c, SVR), 0xff);
	assert_int_equal(rd(c, LVT_TIMER), MASKED);
	for (u64 off = ISR; off < ESR; off += 16)
		assert_int_equal(rd(c, off), 0);
	take_events(c);
	clock_advance(r.clk, 1000000);
	assert_int_equal(take_events(c), 0);
	lapic_reset(c->l);
	assert_int_equal(lapic_base_read(c->l), 0xfee00800);
	assert_int_equal(c->base, 0xfee00800);
	rig_fini(&r);
}

static void lapic_lint_modes(void **state)
{
	static const struct {
		u32 lvt;
		unsigned event[2]; /* of a rising edge at LINT0, LINT1 */
	} cases[] = {
		{ 0x00045, { LAPIC_EV_INTR, LAPIC_EV_INTR } },
		{ 0x00200, { LAPIC_EV_SMI, LAPIC_EV_SMI } },
		{ 0x00400, { LAPIC_EV_NMI, LAPIC_EV_NMI } },
		{ 0x08400, { LAPIC_EV_NMI, LAPIC_EV_NMI } }, /* edge at any rate */
		{ 0x00500, { LAPIC_EV_INIT, LAPIC_EV_INIT } },
		{ 0x00700, { LAPIC_EV_INTR, LAPIC_EV_INTR } },
		{ 0x10400, { 0, 0 } },
		{ 0x00300, { 0, 0 } },
	};
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned pin = 0; pin < 2; pin++)
		for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
			wr(c, LVT_LINT0 + pin * 16, cases[i].lvt);
			take_events(c);
			lapic_lint_set(c->l, pin, true);
			assert_int_equal(take_events(c), cases[i].event[pin]);
			lapic_lint_set(c->l, pin, false);
			assert_int_equal(take_events(c), 0);
			lapic_take(c->l);
			wr(c, EOI, 0);
			/* active low: the falling edge counts */
			wr(c, LVT_LINT0 + pin * 16, cases[i].lvt | 0x2000 | MASKED);
			lapic_lint_set(c->l, pin, true);
			wr(c, LVT_LINT0 + pin * 16, cases[i].lvt | 0x2000);
			take_events(c);
			lapic_lint_set(c->l, pin, false);
			assert_int_equal(take_events(c), cases[i].event[pin]);
			wr(c, LVT_LINT0 + pin * 16, MASKED);
			lapic_take(c->l);
			wr(c, EOI, 0);
			take_events(c);
		}
	lapic_lint_set(c->l, 2, true);
	rig_fini(&r);
}

static void lapic_lint0_level_repeats_after_eoi(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(c, LVT_LINT0, 0x8045);
	lapic_lint_set(c->l, 0, true);
	assert_int_equal(rd(c, LVT_LINT0), 0xc045);
	assert_int_equal(lapic_take(c->l), 0x45);
	assert_true(bit_of(c, TMR, 0x45));
	lapic_lint_set(c->l, 0, false);
	lapic_lint_set(c->l, 0, true);
	assert_false(bit_of(c, IRR, 0x45));
	wr(c, EOI, 0);
	assert_int_equal(lapic_take(c->l), 0x45);
	lapic_lint_set(c->l, 0, false);
	wr(c, EOI, 0);
	assert_int_equal(rd(c, LVT_LINT0), 0x8045);
	assert_int_equal(lapic_take(c->l), -1);
	/* Asserted while masked: delivered when unmasked. LINT1 has no level mode. */
	wr(c, LVT_LINT0, 0x8045 | MASKED);
	lapic_lint_set(c->l, 0, true);
	assert_int_equal(lapic_take(c->l), -1);
	wr(c, LVT_LINT0, 0x8045);
	assert_int_equal(lapic_take(c->l), 0x45);
	wr(c, LVT_LINT1, 0x8046);
	lapic_lint_set(c->l, 1, true);
	assert_int_equal(rd(c, LVT_LINT1), 0x8046);
	wr(c, EOI, 0);
	/* ... but an edge at it interrupts all the same. */
	assert_int_equal(lapic_take(c->l), 0x46);
	assert_false(bit_of(c, TMR, 0x46));
	rig_fini(&r);
}

static void lapic_virtual_wire_takes_from_the_pic(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	lapic_virtual_wire(c->l);
	assert_int_equal(rd(c, LVT_LINT0), 0x700);
	assert_int_equal(rd(c, LVT_LINT1), 0x400);
	wr(c, TPR, 0xff); /* ExtINT does not look at priorities */
	take_events(c);
	lapic_lint_set(c->l, 0, true);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	assert_true(lapic_has_intr(c->l));
	lapic_lint_set(c->l, 0, false);
	assert_false(lapic_has_intr(c->l));
	lapic_lint_set(c->l, 0, true);
	assert_int_equal(lapic_take(c->l), 0x99);
	assert_false(bit_of(c, ISR, 0x99));
	lapic_lint_set(c->l, 0, false);
	assert_int_equal(lapic_take(c->l), -1);
	/* Withdrawn after INTR was seen: the INTA cycle runs, the PIC answers. */
	lapic_lint_set(c->l, 0, true);
	assert_true(lapic_has_intr(c->l));
	lapic_lint_set(c->l, 0, false);
	assert_int_equal(lapic_take(c->l), 0x99);
	assert_int_equal(c->intas, 2);
	lapic_lint_set(c->l, 1, true);
	assert_int_equal(take_events(c), LAPIC_EV_INTR | LAPIC_EV_NMI);
	rig_fini(&r);
}

static void lapic_globally_disabled_pins_are_intr_and_nmi(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	assert_true(lapic_base_write(c->l, 0xfee00100));
	lapic_lint_set(c->l, 0, true);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	assert_true(lapic_has_intr(c->l));
	assert_int_equal(lapic_take(c->l), 0x99);
	lapic_lint_set(c->l, 1, true);
	lapic_lint_set(c->l, 1, true);
	assert_int_equal(take_events(c), LAPIC_EV_NMI);
	/* Enabled again, the entries are masked. */
	assert_true(lapic_base_write(c->l, 0xfee00900));
	assert_false(lapic_has_intr(c->l));
	/* And disabled with the pin up, the owner is told. */
	take_events(c);
	assert_true(lapic_base_write(c->l, 0xfee00100));
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	rig_fini(&r);
}

static void lapic_extint_message_runs_one_inta(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[1];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	apic_bus_msi(r.bus, 0xfee01000, 0x4700);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	assert_true(lapic_has_intr(c->l));
	lapic_post(c->l, 0xf0, false);
	assert_int_equal(lapic_take(c->l), 0x99);
	assert_int_equal(lapic_take(c->l), 0xf0);
	assert_int_equal(lapic_take(c->l), -1);
	assert_int_equal(c->intas, 1);
	rig_fini(&r);
}

static void lapic_internal_sources(void **state)
{
	static const struct {
		enum lapic_source src;
		u16 lvt;
	} cases[] = {
		{ LAPIC_SRC_CMCI, LVT_CMCI },
		{ LAPIC_SRC_THERMAL, LVT_THERMAL },
		{ LAPIC_SRC_PMI, LVT_PMI },
	};
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		lapic_raise(c->l, cases[i].src);
		assert_int_equal(take_events(c), 0);
		wr(c, cases[i].lvt, 0x45 + i);
		lapic_raise(c->l, cases[i].src);
		assert_int_equal(take_events(c), LAPIC_EV_INTR);
		assert_int_equal(lapic_take(c->l), 0x45 + i);
		wr(c, EOI, 0);
		wr(c, cases[i].lvt, 0x400);
		lapic_raise(c->l, cases[i].src);
		assert_int_equal(take_events(c), LAPIC_EV_NMI);
		/* A performance counter interrupt masks its entry. */
		assert_int_equal(rd(c, cases[i].lvt),
				 0x400 | (cases[i].src == LAPIC_SRC_PMI ? MASKED : 0));
	}
	rig_fini(&r);
}

static void lapic_timer_interrupts_through_its_entry(void **state)
{
	struct rig r;
	struct cpu *c = &r.cpus[0];

	(void)state;
	rig_init(&r);
	enable_all(&r);
	wr(c, DIVIDE, 0xb);
	wr(c, LVT_TIMER, 0x000ec);
	wr(c, INITIAL, 50000);
	clock_advance(r.clk, 20000);
	assert_int_equal(rd(c, CURRENT), 30000);
	clock_advance(r.clk, 30000);
	assert_int_equal(take_events(c), LAPIC_EV_INTR);
	assert_int_equal(lapic_take(c->l), 0xec);
	wr(c, EOI, 0);
	/* periodic; masked expiries are lost */
	wr(c, LVT_TIMER, 0x200ed);
	wr(c, INITIAL, 50000);
	for (unsigned i = 0; i < 3; i++) {
		clock_advance(r.clk, 50000);
		assert_int_equal(lapic_take(c->l), 0xed);
		wr(c, EOI, 0);
	}
	wr(c, LVT_TIMER, 0x300ed);
	clock_advance(r.clk, 50000);
	assert_int_equal(lapic_take(c->l), -1);
	/* TSC-deadline; the test's TSC counts nanoseconds */
	wr(c, LVT_TIMER, 0x400ee);
	lapic_tsc_deadline_write(c->l, (u64)clock_now(r.clk) + 700);
	clock_advance(r.clk, 699);
	assert_int_equal(lapic_take(c->l), -1);
	clock_advance(r.clk, 1);
	assert_int_equal(lapic_take(c->l), 0xee);
	assert_int_equal(lapic_tsc_deadline_read(c->l), 0);
	wr(c, EOI, 0);
	/* Masked with another vector when it is due: the old vector, no error. */
	wr(c, LVT_TIMER, 0x000ec);
	wr(c, INITIAL, 50000);
	wr(c, LVT_TIMER, 0x10000);
	clock_advance(r.clk, 60000);
	wr(c, ESR, 0);
	assert_int_equal(rd(c, ESR), 0);
	assert_int_equal(lapic_take(c->l), -1);
	/* A software disable masks it too. */
	wr(c, LVT_TIMER, 0x200ed);
	wr(c, INITIAL, 50000);
	wr(c, SVR, 0xff);
	clock_advance(r.clk, 200000);
	assert_int_equal(lapic_take(c->l), -1);
	assert_int_equal(rd(c, CURRENT), 50000);
	rig_fini(&r);
}

/* L1: posts from several threads, one consumer that follows the protocol, none lost. */
struct poster {
	pthread_t thread;
	struct cpu *c;
	u8 vector;
	u32 *acks; /* bumped by the consumer for each delivery of 'vector' */
};

#define POSTS 20000

static void *post_many(void *arg)
{
	struct poster *p = arg;

	for (u32 n = 0; n < POSTS; n++) {
		lapic_post(p->c->l, p->vector, n & 1);
		/* Wait for the delivery: a lost one hangs the test. */
		while (__atomic_load_n(p->acks, __ATOMIC_ACQUIRE) == n)
			sched_yield();
	}
	return NULL;
}

static void lapic_posts_of_other_threads_are_never_lost(void **state)
{
	struct poster posters[3];
	u32 acks[256] = { 0 };
	struct rig r;
	struct cpu *c = &r.cpus[0];
	unsigned left;

	(void)state;
	rig_init(&r);
	enable_all(&r);
	for (unsigned i = 0; i < ARRAY_SIZE(posters); i++) {
		u8 v = (u8)(0x41 + 0x21 * i);

		posters[i] = (struct poster){ .c = c, .vector = v, .acks = &acks[v] };
		pthread_create(&posters[i].thread, NULL, post_many, &posters[i]);
	}
	left = POSTS * ARRAY_SIZE(posters);
	while (left) {
		if (!(__atomic_exchange_n(&c->events, 0, __ATOMIC_SEQ_CST) &
		      LAPIC_EV_INTR)) {
			sched_yield();
			continue;
		}
		while (lapic_has_intr(c->l)) {
			int v = lapic_take(c->l);

			assert_in_range(v, 0x10, 0xff);
			/* EOI first, so that the next post is not behind it in service.
			 */
			wr(c, EOI, 0);
			__atomic_fetch_add(&acks[v], 1, __ATOMIC_RELEASE);
			left--;
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(posters); i++)
		pthread_join(posters[i].thread, NULL);
	rig_fini(&r);
}

static void make_busy(struct rig *r, struct cpu *c)
{
	enable_all(r);
	wr(c, LDR, 0x02000000);
	wr(c, DFR, 0x0fffffff);
	wr(c, TPR, 0x20);
	lapic_post(c->l, 0x55, true);
	lapic_take(c->l);
	lapic_post(c->l, 0x66, false);
	lapic_post(c->l, 0x44, false);
	wr(c, LVT_LINT0, 0x8077);
	lapic_lint_set(c->l, 0, true);
	wr(c, LVT_TIMER, 0x200ed);
	wr(c, DIVIDE, 0xb);
	wr(c, INITIAL, 50000);
	rd(c, 0x40);
}

static void lapic_save_load_save_is_identical(void **state)
{
	(void)state;
	for (unsigned x2 = 0; x2 < 2; x2++) {
		struct state_buf a = { 0 }, b = { 0 };
		struct error err = { 0 };
		struct rig r, q;

		rig_init(&r);
		rig_init(&q);
		make_busy(&r, &r.cpus[1]);
		if (x2)
			go_x2apic(&r.cpus[1]);
		lapic_save(r.cpus[1].l, &a);
		assert_int_equal(lapic_load(q.cpus[1].l, &a, &err), 0);
		lapic_save(q.cpus[1].l, &b);
		assert_int_equal(a.len, b.len);
		assert_memory_equal(a.data, b.data, a.len);
		/* It goes on: interrupts, PPR, timer, place on the bus. */
		assert_int_equal(take_events(&q.cpus[1]), LAPIC_EV_INTR);
		assert_int_equal(q.cpus[1].base, lapic_base_read(r.cpus[1].l));
		assert_int_equal(lapic_take(q.cpus[1].l), 0x77);
		assert_int_equal(lapic_take(q.cpus[1].l), -1);
		clock_advance(q.clk, 50000);
		assert_int_equal(lapic_take(q.cpus[1].l), 0xed);
		take_events(&q.cpus[1]);
		/* Flat this would match; the loaded DFR says cluster. */
		apic_bus_msi(q.bus, 0xfee12004, 0x4400);
		assert_int_equal(take_events(&q.cpus[1]), x2 ? LAPIC_EV_NMI : 0);
		apic_bus_msi(q.bus, 0xfee02004, 0x4400);
		assert_int_equal(take_events(&q.cpus[1]), LAPIC_EV_NMI);
		state_buf_fini(&a);
		state_buf_fini(&b);
		rig_fini(&r);
		rig_fini(&q);
	}
}

static void lapic_hostile_stream_is_refused_or_harmless(void **state)
{
	struct state_buf a = { 0 };
	struct rig r;

	(void)state;
	rig_init(&r);
	make_busy(&r, &r.cpus[1]);
	lapic_save(r.cpus[1].l, &a);
	for (size_t i = 0; i < a.len; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct error err = { 0 };
			struct rig q;
			struct cpu *c = &q.cpus[1];

			rig_init(&q);
			a.data[i] ^= (u8)(1u << bit);
			a.pos = 0;
			if (lapic_load(c->l, &a, &err) == 0) {
				for (unsigned n = 0; n < 4; n++) {
					lapic_has_intr(c->l);
					lapic_take(c->l);
					wr(c, EOI, 0);
				}
				clock_advance(q.clk, 100000);
				lapic_lint_set(c->l, 0, false);
				rd(c, CURRENT);
			}
			a.data[i] ^= (u8)(1u << bit);
			rig_fini(&q);
		}
	}
	/* Another CPU's state is refused. */
	a.pos = 0;
	assert_true(lapic_load(r.cpus[2].l, &a, &(struct error){ 0 }) < 0);
	state_buf_fini(&a);
	rig_fini(&r);
}

static void lapic_state_table_is_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&lapic_desc), lapic_desc.size);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lapic_registers_after_reset),
		cmocka_unit_test(lapic_bits_that_can_be_written),
		cmocka_unit_test(lapic_software_disable_masks_lvt_and_stops_fixed),
		cmocka_unit_test(lapic_take_in_order_of_priority),
		cmocka_unit_test(lapic_nested_service_by_class),
		cmocka_unit_test(lapic_tpr_and_cr8_hold_back),
		cmocka_unit_test(lapic_apr_formula),
		cmocka_unit_test(lapic_vanished_interrupt_is_spurious),
		cmocka_unit_test(lapic_pending_vector_is_reported_once),
		cmocka_unit_test(lapic_eoi_broadcasts_level_vectors_only),
		cmocka_unit_test(lapic_ioapic_level_interrupt_goes_the_whole_way),
		cmocka_unit_test(lapic_icr_modes_and_destinations),
		cmocka_unit_test(lapic_icr_lowest_priority_goes_to_one),
		cmocka_unit_test(lapic_esr_collects_and_interrupts_once),
		cmocka_unit_test(lapic_window_access_sizes),
		cmocka_unit_test(lapic_base_transitions),
		cmocka_unit_test(lapic_base_reserved_bits),
		cmocka_unit_test(lapic_without_x2apic_has_no_extd),
		cmocka_unit_test(lapic_disable_resets_and_takes_it_off_the_bus),
		cmocka_unit_test(lapic_x2apic_msrs_that_exist),
		cmocka_unit_test(lapic_x2apic_reserved_bits),
		cmocka_unit_test(lapic_x2apic_ids_and_ipis),
		cmocka_unit_test(lapic_x2apic_logical_id_of_high_ids),
		cmocka_unit_test(lapic_init_keeps_id_and_base),
		cmocka_unit_test(lapic_lint_modes),
		cmocka_unit_test(lapic_lint0_level_repeats_after_eoi),
		cmocka_unit_test(lapic_virtual_wire_takes_from_the_pic),
		cmocka_unit_test(lapic_globally_disabled_pins_are_intr_and_nmi),
		cmocka_unit_test(lapic_extint_message_runs_one_inta),
		cmocka_unit_test(lapic_internal_sources),
		cmocka_unit_test(lapic_timer_interrupts_through_its_entry),
		cmocka_unit_test(lapic_posts_of_other_threads_are_never_lost),
		cmocka_unit_test(lapic_save_load_save_is_identical),
		cmocka_unit_test(lapic_hostile_stream_is_refused_or_harmless),
		cmocka_unit_test(lapic_state_table_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
