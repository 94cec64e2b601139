/*
 * Three local APICs on a bus, with timers, pins and messages, driven at will.
 * Input: 8 bytes a step: operation, CPU, 2 bytes of place, 4 bytes of value.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "irq/lapic.h"

#define CPUS 3

struct cpu {
	struct lapic *l;
	struct clock *clk;
	unsigned events;
	u64 offset; /* TSC */
};

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void event(void *opaque, unsigned events)
{
	struct cpu *c = opaque;

	c->events |= events;
}

static int inta(void *opaque)
{
	(void)opaque;
	return 0x20;
}

static vns_t tsc_to_vns(void *opaque, u64 tsc)
{
	struct cpu *c = opaque;
	u64 ns = (tsc - c->offset) / 2 + ((tsc - c->offset) & 1);

	if (tsc < c->offset)
		return 0;
	return ns > INT64_MAX ? VNS_NEVER : (vns_t)ns;
}

static u64 vns_to_tsc(void *opaque, vns_t t)
{
	struct cpu *c = opaque;

	return (u64)t * 2 + c->offset;
}

static const struct lapic_ops ops = {
	.event = event,
	.inta = inta,
	.tsc_to_vns = tsc_to_vns,
	.vns_to_tsc = vns_to_tsc,
};

static void save_load(struct lapic *l)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	lapic_save(l, &a);
	check(lapic_load(l, &a, &err) == 0);
	lapic_save(l, &b);
	check(a.len == b.len && !memcmp(a.data, b.data, a.len));
	state_buf_fini(&a);
	state_buf_fini(&b);
}

/* What a vCPU does, following the protocol: an interrupt must not hide without an event.
 */
static void run(struct cpu *c)
{
	bool told = c->events & LAPIC_EV_INTR;

	c->events = 0;
	if (!lapic_has_intr(c->l))
		return;
	check(told);
	check(lapic_take(c->l) >= 0);
	/* More may be deliverable at once; then ask again later, like IF = 0 would. */
	if (lapic_has_intr(c->l))
		c->events |= LAPIC_EV_INTR;
}

static void step(struct cpu *cpus, struct apic_bus *bus, const uint8_t *p)
{
	struct cpu *c = &cpus[p[1] % CPUS];
	unsigned reg = p[2] & 63;
	u64 got;
	u32 val;

	memcpy(&val, &p[4], 4);
	switch (p[0] & 15) {
	case 0:
		lapic_mmio_ops.read(c->l, reg * 16 + (p[3] & 12), 1u << (p[3] & 3) % 3);
		break;
	case 1:
	case 2: lapic_mmio_ops.write(c->l, reg * 16, val, 4); break;
	case 3: lapic_msr_read(c->l, 0x800 + reg, &got); break;
	case 4: lapic_msr_write(c->l, 0x800 + reg, val); break;
	/* The ICR, with few bits that are reserved. */
	case 5: lapic_msr_write(c->l, 0x830, (u64)p[3] << 32 | (val & 0xccfff)); break;
	case 6: lapic_base_write(c->l, (val & 0xfffff000) | (p[3] & 15) << 8); break;
	case 7: apic_bus_msi(bus, 0xfee00000 | (val & 0xff00c), p[2] | p[3] << 8); break;
	case 8: lapic_lint_set(c->l, p[2] % 3, p[3] & 1); break;
	case 9: lapic_tsc_deadline_write(c->l, val); break;
	case 10: clock_advance(c->clk, val & 0xfffff); break;
	case 11:
		if (p[2] == 0)
			lapic_init(c->l);
		else if (p[2] == 1)
			lapic_reset(c->l);
		else if (p[2] == 2)
			lapic_virtual_wire(c->l);
		else
			save_load(c->l);
		break;
	case 12:
		lapic_cr8_write(c->l, p[2] & 15);
		lapic_cr8_read(c->l);
		lapic_tsc_deadline_read(c->l);
		break;
	case 13: lapic_raise(c->l, p[2] % 3); break;
	case 14:
		c->offset = val;
		lapic_tsc_changed(c->l);
		break;
	default: run(c); break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct clock *clk = clock_new_manual();
	struct apic_bus *bus = apic_bus_new();
	struct cpu cpus[CPUS] = { 0 };

	for (unsigned i = 0; i < CPUS; i++) {
		struct lapic_config cfg = {
			.clk = clk,
			.bus = bus,
			.id = i,
			.is_bsp = i == 0,
			.x2apic = i != 2,
			.tsc_deadline = i != 1,
			.timer_hz = 1000000000,
			.ops = &ops,
			.opaque = &cpus[i],
		};

		cpus[i].clk = clk;
		cpus[i].l = lapic_new(&cfg);
		lapic_mmio_ops.write(cpus[i].l, 0xf0, 0x1ff, 4);
	}
	for (size_t i = 0; i + 7 < size && i < 8 * 1024; i += 8)
		step(cpus, bus, &data[i]);
	for (unsigned i = 0; i < CPUS; i++)
		lapic_free(cpus[i].l);
	apic_bus_free(bus);
	clock_free(clk);
	return 0;
}
