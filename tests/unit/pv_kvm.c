/*
 * KVM's clock and steal time: what MSRs are taken, what stands in memory, and that it is
 * the machine's time on each CPU whatever the guest does to its TSCs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bits.h"
#include "mem/phys.h"
#include "pv/kvm.h"
#include "time/clock.h"
#include "time/tsc.h"

#define RAM   MiB(1)
#define ROM   GiB(3)
#define MMIO  GiB(2)
#define EPOCH INT64_C(1700000000123456789)
#define CPUS  3
#define PAGE  UINT64_C(0x5000)

struct rig {
	struct phys *phys;
	struct clock *clock;
	struct pv_kvm *k;
	struct tsc tsc[CPUS];
	unsigned mmio; /* accesses */
};

static u64 mmio_read(void *dev, u64 off, unsigned size)
{
	(void)off;
	(void)size;
	((struct rig *)dev)->mmio++;
	return 0;
}

static void mmio_write(void *dev, u64 off, u64 val, unsigned size)
{
	(void)off;
	(void)val;
	(void)size;
	((struct rig *)dev)->mmio++;
}

static const struct io_ops mmio_ops = { .read = mmio_read,
					.write = mmio_write,
					.sizes = IO_1 | IO_2 | IO_4 | IO_8 };

static void rig_init(struct rig *r, struct pv_kvm_config cfg, u64 khz)
{
	static const u8 rom[PAGE_SIZE];
	struct error err = { 0 };

	memset(r, 0, sizeof(*r));
	r->phys = phys_new();
	assert_int_equal(phys_add_ram(r->phys, "ram", 0, RAM, &err), 0);
	assert_int_equal(phys_add_rom(r->phys, "rom", ROM, rom, sizeof(rom), &err), 0);
	assert_int_equal(
		phys_add_mmio(r->phys, "mmio", MMIO, PAGE_SIZE, &mmio_ops, r, &err), 0);
	r->clock = clock_new_manual();
	clock_set_epoch_ns(r->clock, EPOCH);
	clock_advance(r->clock, 12345678901);
	cfg.phys = r->phys;
	cfg.clock = r->clock;
	cfg.cpus = CPUS;
	r->k = pv_kvm_new(&cfg);
	for (unsigned i = 0; i < CPUS; i++) {
		tsc_init(&r->tsc[i], khz, clock_now(r->clock));
		pv_kvm_set_tsc(r->k, i, &r->tsc[i]);
	}
}

static void rig_fini(struct rig *r)
{
	pv_kvm_free(r->k);
	clock_free(r->clock);
	phys_free(r->phys);
}

static const struct pv_kvm_config all = { .system_time = true,
					  .stable = true,
					  .steal_time = true };

static int wr(struct rig *r, unsigned cpu, u32 msr, u64 val)
{
	return pv_kvm_msr_write(r->k, cpu, msr, val);
}

static u64 rd(struct rig *r, unsigned cpu, u32 msr)
{
	u64 val = ~UINT64_C(0);

	assert_int_equal(pv_kvm_msr_read(r->k, cpu, msr, &val), 1);
	return val;
}

static u64 mem(struct rig *r, gpa_t at, unsigned size)
{
	return phys_load(r->phys, at, size);
}

/* As a guest computes it. */
static u64 guest_ns(struct rig *r, gpa_t at, u64 tsc)
{
	u64 t = tsc - mem(r, at + 8, 8);
	i8 shift = (i8)mem(r, at + 28, 1);

	assert_int_equal(mem(r, at, 4) & 1, 0);
	t = shift < 0 ? t >> -shift : t << shift;
	return (u64)((u128)t * (u32)mem(r, at + 24, 4) >> 32) + mem(r, at + 16, 8);
}

static u64 cpu_ns(struct rig *r, unsigned cpu, gpa_t at)
{
	return guest_ns(r, at, tsc_read(&r->tsc[cpu], clock_now(r->clock)));
}

static void fill(struct rig *r, gpa_t at, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		phys_store(r->phys, at + i, 0xa5, 1);
}

static bool filled(struct rig *r, gpa_t at, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (mem(r, at + i, 1) != 0xa5)
			return false;
	return true;
}

static void scales_are_exact_to_half_a_billionth(void **state)
{
	static const u64 khz[] = { 1,       3,          999,     1000,    32768,
				   500000,  999999,     1000000, 1000001, 2000000,
				   2000001, 2893297,    2600000, 3999999, 4000000,
				   4000001, TSC_KHZ_MAX };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		struct pv_kvm_scale s = pv_kvm_scale(khz[i]);
		const u64 day = UINT64_C(86400) * 1000000000;
		u64 ticks = khz[i] * 86400 * 1000;
		u64 t = s.shift < 0 ? ticks >> -s.shift : ticks << s.shift;
		u64 ns = (u64)((u128)t * s.mul >> 32);

		assert_true(s.mul >= UINT32_C(1) << 31);
		assert_true(ns <= day);
		assert_true(day - ns <= day / 2000000000 + 2);
	}
	assert_int_equal(pv_kvm_scale(1000000).mul, UINT32_C(1) << 31);
	assert_int_equal(pv_kvm_scale(1000000).shift, 1);
}

static void both_names_are_one_register(void **state)
{
	struct rig r;
	u64 val;

	(void)state;
	rig_init(&r, all, 1000000);
	assert_int_equal(wr(&r, 0, 0x4b564d01, PAGE | 1), 1);
	assert_int_equal(rd(&r, 0, 0x12), PAGE | 1);
	assert_int_equal(rd(&r, 1, 0x12), 0);
	assert_int_equal(wr(&r, 1, 0x12, (PAGE + 64) | 1), 1);
	assert_int_equal(rd(&r, 1, 0x4b564d01), (PAGE + 64) | 1);
	assert_int_equal(wr(&r, 0, 0x11, PAGE + 128), 1);
	assert_int_equal(rd(&r, 0, 0x4b564d00), PAGE + 128);
	/* That is the machine's. */
	assert_int_equal(rd(&r, 2, 0x11), PAGE + 128);
	assert_int_equal(pv_kvm_msr_read(r.k, 0, 0x4b564d02, &val), -1);
	assert_int_equal(wr(&r, 0, 0x4b564d02, 0), -1);
	rig_fini(&r);
}

static void reserved_bits_are_refused(void **state)
{
	static const struct {
		u32 msr;
		u64 val;
		int ret;
	} table[] = {
		{ 0x11, PAGE + 1, 0 },
		{ 0x11, PAGE + 2, 0 },
		{ 0x4b564d00, PAGE + 3, 0 },
		{ 0x4b564d00, PAGE + 4, 1 },
		{ 0x4b564d01, PAGE + 3, 0 },
		{ 0x4b564d01, PAGE + 2, 1 }, /* not enabled */
		{ 0x12, PAGE + 5, 1 },
		{ 0x12, PAGE + 7, 0 },
		{ 0x4b564d03, PAGE + 3, 0 },
		{ 0x4b564d03, PAGE + 0x21, 0 },
		{ 0x4b564d03, PAGE + 0x20, 0 },
		{ 0x4b564d03, PAGE + 0x41, 1 },
	};
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		assert_int_equal(wr(&r, 0, table[i].msr, 0), 1);
		assert_int_equal(wr(&r, 0, table[i].msr, table[i].val), table[i].ret);
		assert_int_equal(rd(&r, 0, table[i].msr),
				 table[i].ret ? table[i].val : 0);
	}
	rig_fini(&r);
}

static void wall_clock_is_civil_time_of_nanosecond_0(void **state)
{
	static const struct {
		i64 epoch;
		u32 sec, nsec;
	} table[] = {
		{ EPOCH, 1700000000, 123456789 },
		{ 0, 0, 0 },
		{ -1, UINT32_MAX, 999999999 },
		{ -1000000000, UINT32_MAX, 0 },
	};
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u32 version = (u32)mem(&r, PAGE, 4);

		fill(&r, PAGE + 12, 4);
		clock_set_epoch_ns(r.clock, table[i].epoch);
		assert_int_equal(wr(&r, i % CPUS, 0x11, PAGE), 1);
		assert_int_equal(mem(&r, PAGE, 4), version + 2);
		assert_int_equal(mem(&r, PAGE + 4, 4), table[i].sec);
		assert_int_equal(mem(&r, PAGE + 8, 4), table[i].nsec);
		assert_true(filled(&r, PAGE + 12, 4));
	}
	/* What was there before does not make it odd. */
	phys_store(r.phys, PAGE, 0xffffffff, 4);
	assert_int_equal(wr(&r, 0, 0x11, PAGE), 1);
	assert_int_equal(mem(&r, PAGE, 4) & 1, 0);
	rig_fini(&r);
}

static void system_time_is_virtual_time(void **state)
{
	static const u64 khz[] = { 1000000, 2600000, 333333, 1, TSC_KHZ_MAX };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		struct rig r;

		rig_init(&r, all, khz[i]);
		fill(&r, PAGE + 32, 4);
		assert_int_equal(wr(&r, 0, 0x4b564d01, PAGE | 1), 1);
		assert_true(filled(&r, PAGE + 32, 4));
		assert_int_equal(mem(&r, PAGE + 29, 1), 1);
		assert_int_equal(mem(&r, PAGE + 30, 2), 0);
		for (unsigned n = 0; n < 10; n++) {
			u64 tick = 1000000 / khz[i] + 1, now, ns;

			clock_advance(r.clock, INT64_C(77777777777));
			now = (u64)clock_now(r.clock);
			ns = cpu_ns(&r, 0, PAGE);
			assert_true(ns <= now);
			assert_true(now - ns <= tick + now / 2000000000);
		}
		rig_fini(&r);
	}
}

static void clock_does_not_see_that_the_tsc_is_written(void **state)
{
	struct rig r;
	u64 before, version;

	(void)state;
	rig_init(&r, all, 2500000);
	assert_int_equal(wr(&r, 1, 0x12, PAGE | 1), 1);
	before = cpu_ns(&r, 1, PAGE);
	version = mem(&r, PAGE, 4);
	tsc_write(&r.tsc[1], clock_now(r.clock), UINT64_C(0xfedcba9876543210));
	pv_kvm_tsc_changed(r.k, 1);
	assert_int_equal(cpu_ns(&r, 1, PAGE), before);
	assert_true(mem(&r, PAGE, 4) > version);
	tsc_adjust_write(&r.tsc[1], 0);
	pv_kvm_tsc_changed(r.k, 1);
	assert_int_equal(cpu_ns(&r, 1, PAGE), before);
	rig_fini(&r);
}

static u8 flags(struct rig *r, unsigned cpu)
{
	return (u8)mem(r, PAGE + 64 * cpu + 29, 1);
}

/* Stable: anyone's structure will do, with anyone's TSC. */
static void stable_while_all_tscs_are_the_same(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(wr(&r, i, 0x12, (PAGE + 64 * i) | 1), 1);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(flags(&r, i), 1);
	tsc_write(&r.tsc[2], clock_now(r.clock), 5);
	pv_kvm_tsc_changed(r.k, 2);
	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(flags(&r, i), 0);
		assert_int_equal(cpu_ns(&r, i, PAGE + 64 * i), (u64)clock_now(r.clock));
	}
	/* One that comes now hears of it. */
	assert_int_equal(wr(&r, 1, 0x12, (PAGE + 64) | 1), 1);
	assert_int_equal(flags(&r, 1), 0);
	tsc_adjust_write(&r.tsc[2], 0);
	pv_kvm_tsc_changed(r.k, 2);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(flags(&r, i), 1);
	rig_fini(&r);
}

static void stable_only_where_cpuid_has_the_bit(void **state)
{
	struct pv_kvm_config cfg = all;
	struct rig r;

	(void)state;
	cfg.stable = false;
	rig_init(&r, cfg, 1000000);
	assert_int_equal(wr(&r, 0, 0x12, PAGE | 1), 1);
	assert_int_equal(flags(&r, 0), 0);
	rig_fini(&r);
}

static void what_is_not_ram_is_left_alone(void **state)
{
	static const u64 bad[] = { RAM - 4, RAM,      RAM + 0x1000, MMIO,
				   ROM,     MMIO - 4, BIT(40),      BITS(63, 6) };
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	fill(&r, RAM - 64, 64);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(wr(&r, 0, 0x11, bad[i]), 1);
		assert_int_equal(wr(&r, 0, 0x12, bad[i] | 1), 1);
		assert_int_equal(rd(&r, 0, 0x12), bad[i] | 1);
		if (wr(&r, 0, 0x4b564d03, bad[i] | 1))
			pv_kvm_add_steal(r.k, 0, 1);
		pv_kvm_tsc_changed(r.k, 0);
	}
	assert_true(filled(&r, RAM - 64, 64));
	assert_int_equal(mem(&r, ROM, 8), 0);
	assert_int_equal(r.mmio, 0);
	/* The last that fits, and one that lies in two pages. */
	assert_int_equal(wr(&r, 0, 0x12, (RAM - 32) | 1), 1);
	assert_int_equal(cpu_ns(&r, 0, RAM - 32), (u64)clock_now(r.clock));
	assert_int_equal(wr(&r, 0, 0x12, (PAGE - 12) | 1), 1);
	assert_int_equal(cpu_ns(&r, 0, PAGE - 12), (u64)clock_now(r.clock));
	rig_fini(&r);
}

/* As another CPU sees it come. */
struct watch {
	struct code_listener l;
	struct rig *r;
	gpa_t version;
	unsigned stores, versions;
};

static void stored(void *opaque, gpa_t gpa, u64 len)
{
	struct watch *w = opaque;

	assert_int_equal(len, 4);
	w->stores++;
	if (gpa == w->version)
		w->versions++;
	assert_int_equal(mem(w->r, w->version, 4) & 1, w->versions == 1);
	if (w->versions != 1)
		assert_int_equal(gpa, w->version);
}

static void version_is_odd_while_the_rest_changes(void **state)
{
	static const struct {
		u32 msr;
		gpa_t version;
		unsigned stores;
	} table[] = { { 0x11, PAGE, 4 }, { 0x12, PAGE, 8 }, { 0x4b564d03, PAGE + 8, 4 } };
	struct rig r;
	struct watch w = { .l = { .written = stored, .opaque = &w }, .r = &r };

	(void)state;
	rig_init(&r, all, 1000000);
	assert_int_equal(phys_add_code_listener(r.phys, &w.l), 0);
	assert_true(phys_mark_code(r.phys, &w.l, PAGE));
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		w.version = table[i].version;
		w.stores = w.versions = 0;
		assert_int_equal(wr(&r, 0, table[i].msr, PAGE | (i > 0)), 1);
		if (table[i].msr == 0x4b564d03)
			pv_kvm_add_steal(r.k, 0, 1);
		assert_int_equal(w.versions, 2);
		assert_int_equal(w.stores, table[i].stores);
	}
	phys_remove_code_listener(r.phys, &w.l);
	rig_fini(&r);
}

struct heard {
	struct code_listener l;
	u64 lo, hi;
};

static void written(void *opaque, gpa_t gpa, u64 len)
{
	struct heard *h = opaque;

	h->lo = MIN(h->lo, gpa);
	h->hi = MAX(h->hi, gpa + len);
}

static void holders_of_code_are_told(void **state)
{
	struct heard h = { .l = { .written = written, .opaque = &h } };
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	assert_int_equal(phys_add_code_listener(r.phys, &h.l), 0);
	assert_true(phys_mark_code(r.phys, &h.l, PAGE));
	h.lo = ~UINT64_C(0);
	assert_int_equal(wr(&r, 0, 0x12, (PAGE + 0x40) | 1), 1);
	assert_int_equal(h.lo, PAGE + 0x40);
	assert_int_equal(h.hi, PAGE + 0x60);
	h.lo = ~UINT64_C(0);
	h.hi = 0;
	assert_int_equal(wr(&r, 0, 0x11, PAGE + 0x80), 1);
	assert_int_equal(h.lo, PAGE + 0x80);
	assert_int_equal(h.hi, PAGE + 0x8c);
	h.lo = ~UINT64_C(0);
	assert_int_equal(wr(&r, 0, 0x4b564d03, (PAGE + 0xc0) | 1), 1);
	pv_kvm_add_steal(r.k, 0, 1);
	assert_int_equal(h.lo, PAGE + 0xc0);
	phys_remove_code_listener(r.phys, &h.l);
	rig_fini(&r);
}

static void steal_time_adds_up_in_memory(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, all, 1000000);
	assert_false(pv_kvm_wants_steal(r.k, 1));
	pv_kvm_add_steal(r.k, 1, 5);
	assert_int_equal(wr(&r, 1, 0x4b564d03, PAGE | 1), 1);
	assert_true(pv_kvm_wants_steal(r.k, 1));
	assert_false(pv_kvm_wants_steal(r.k, 0));
	pv_kvm_add_steal(r.k, 1, UINT64_C(0x1ffffffff));
	pv_kvm_add_steal(r.k, 1, 2);
	assert_int_equal(mem(&r, PAGE, 8), UINT64_C(0x200000001));
	assert_int_equal(mem(&r, PAGE + 8, 4), 4);
	for (unsigned i = 12; i < 64; i += 4)
		assert_int_equal(mem(&r, PAGE + i, 4), 0);
	assert_int_equal(wr(&r, 1, 0x4b564d03, PAGE), 1);
	pv_kvm_add_steal(r.k, 1, 7);
	assert_int_equal(mem(&r, PAGE, 8), UINT64_C(0x200000001));
	rig_fini(&r);
}

static void ends_by_bit_0_by_init_and_by_reset(void **state)
{
	struct rig r;

	(void)state;
	for (unsigned how = 0; how < 3; how++) {
		rig_init(&r, all, 1000000);
		assert_int_equal(wr(&r, 0, 0x11, PAGE + 0x100), 1);
		assert_int_equal(wr(&r, 0, 0x12, PAGE | 1), 1);
		assert_int_equal(wr(&r, 1, 0x12, (PAGE + 64) | 1), 1);
		assert_int_equal(wr(&r, 0, 0x4b564d03, (PAGE + 128) | 1), 1);
		switch (how) {
		case 0: assert_int_equal(wr(&r, 0, 0x12, 0), 1); break;
		case 1: pv_kvm_init(r.k, 0); break;
		default: pv_kvm_reset(r.k); break;
		}
		assert_int_equal(pv_kvm_wants_steal(r.k, 0), how == 0);
		assert_int_equal(rd(&r, 0, 0x11), how < 2 ? PAGE + 0x100 : 0);
		assert_int_equal(rd(&r, 1, 0x12), how < 2 ? (PAGE + 64) | 1 : 0);
		fill(&r, PAGE, 32);
		tsc_write(&r.tsc[0], clock_now(r.clock), 1);
		pv_kvm_tsc_changed(r.k, 0);
		assert_true(filled(&r, PAGE, 32));
		rig_fini(&r);
	}
}

static void saved_and_loaded(void **state)
{
	struct state_buf one = { 0 }, two = { 0 };
	struct error err = { 0 };
	struct rig a, b;

	(void)state;
	rig_init(&a, all, 1000000);
	rig_init(&b, all, 1000000);
	assert_int_equal(wr(&a, 0, 0x11, PAGE + 0x100), 1);
	assert_int_equal(wr(&a, 1, 0x12, PAGE | 1), 1);
	assert_int_equal(wr(&a, 2, 0x4b564d03, (PAGE + 64) | 1), 1);
	pv_kvm_save(a.k, &one);
	assert_int_equal(pv_kvm_load(b.k, &one, &err), 0);
	pv_kvm_save(b.k, &two);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	/* Whatever memory came with it. */
	assert_int_equal(cpu_ns(&b, 1, PAGE), (u64)clock_now(b.clock));
	assert_true(pv_kvm_wants_steal(b.k, 2));
	assert_int_equal(state_covered(&pv_kvm_desc), pv_kvm_desc.size);
	assert_int_equal(state_covered(&pv_kvm_cpu_desc), pv_kvm_cpu_desc.size);
	state_buf_fini(&one);
	state_buf_fini(&two);
	rig_fini(&a);
	rig_fini(&b);
}

/* With the wrong 'wall', 'time', 'steal' of the last CPU. */
static void load_refused(const struct pv_kvm_config *cfg, u64 wall, u64 time, u64 steal)
{
	struct state_buf b = { 0 };
	struct error err = { 0 };
	u64 cpu[2] = { 0 };
	struct rig r;

	rig_init(&r, *cfg, 1000000);
	assert_int_equal(pv_kvm_desc.size, sizeof(wall));
	assert_int_equal(pv_kvm_cpu_desc.size, sizeof(cpu));
	state_save(&b, &pv_kvm_desc, 0, &wall);
	for (unsigned i = 0; i < CPUS; i++) {
		if (i == CPUS - 1) {
			cpu[0] = time;
			cpu[1] = steal;
		}
		state_save(&b, &pv_kvm_cpu_desc, i, cpu);
	}
	fill(&r, PAGE, 128);
	assert_true(pv_kvm_load(r.k, &b, &err) < 0);
	assert_int_equal(rd(&r, 0, 0x11), 0);
	assert_int_equal(rd(&r, CPUS - 1, 0x12), 0);
	assert_true(filled(&r, PAGE, 128));
	state_buf_fini(&b);
	rig_fini(&r);
}

static void bad_states_are_refused(void **state)
{
	struct pv_kvm_config no_clock = all, no_steal = all;

	(void)state;
	no_clock.system_time = no_clock.stable = false;
	no_steal.steal_time = false;
	load_refused(&all, PAGE + 1, 0, 0);
	load_refused(&all, PAGE, PAGE | 3, 0);
	load_refused(&all, PAGE, PAGE | 1, PAGE | 2);
	load_refused(&no_clock, 0, PAGE | 1, 0);
	load_refused(&no_steal, PAGE, PAGE | 1, (PAGE + 64) | 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scales_are_exact_to_half_a_billionth),
		cmocka_unit_test(both_names_are_one_register),
		cmocka_unit_test(reserved_bits_are_refused),
		cmocka_unit_test(wall_clock_is_civil_time_of_nanosecond_0),
		cmocka_unit_test(system_time_is_virtual_time),
		cmocka_unit_test(clock_does_not_see_that_the_tsc_is_written),
		cmocka_unit_test(stable_while_all_tscs_are_the_same),
		cmocka_unit_test(stable_only_where_cpuid_has_the_bit),
		cmocka_unit_test(what_is_not_ram_is_left_alone),
		cmocka_unit_test(version_is_odd_while_the_rest_changes),
		cmocka_unit_test(holders_of_code_are_told),
		cmocka_unit_test(steal_time_adds_up_in_memory),
		cmocka_unit_test(ends_by_bit_0_by_init_and_by_reset),
		cmocka_unit_test(saved_and_loaded),
		cmocka_unit_test(bad_states_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
