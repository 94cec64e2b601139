/* MSRs: reserved bits of every register, features and vendors, canonical addresses,
 * reset. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "mem/phys.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/stats.h"
#include "x86/xsave.h"

static struct cpuid_table table;
static struct vcpu vcpu;
static struct vcpu_stats stats;
static struct phys *phys;

/* A CPU of this model on a host that has everything. */
static struct vcpu *cpu(const char *model)
{
	struct host_cpu host = { .xcr0 = 0xe7 };
	struct cpuid_request r = { .cpu = model, .cpus = 1, .tsc_khz = 2600000 };
	struct error err = { "" };

	memset(host.features, 0xff, sizeof(host.features));
	for (unsigned i = 2; i < HOST_XCOMP_COUNT; i++) {
		host.xoffset[i] = xcomp_layout[i].offset;
		host.xsize[i] = xcomp_layout[i].size;
	}
	if (cpuid_build(&table, &r, &host, NULL, &err))
		fail_msg("%s", err.msg);
	memset(&vcpu, 0, sizeof(vcpu));
	vcpu.stats = &stats;
	vcpu.phys = phys;
	cpuid_attach(&vcpu, &table);
	msr_reset(&vcpu, false);
	return &vcpu;
}

static u64 rd(struct vcpu *v, u32 msr)
{
	u64 val;

	if (!msr_read(v, msr, &val))
		fail_msg("RDMSR %x", msr);
	return val;
}

/* True: written. False: #GP(0), and nothing changed. */
static bool wr(struct vcpu *v, u32 msr, u64 val)
{
	u64 before = 0, after = 0;
	bool readable = msr_read(v, msr, &before);

	memset(&v->fault, 0, sizeof(v->fault));
	if (msr_write(v, msr, val))
		return true;
	assert_int_equal(v->fault.vector, VEC_GP);
	assert_true(v->fault.has_error);
	assert_int_equal(v->fault.error, 0);
	if (readable) {
		assert_true(msr_read(v, msr, &after));
		assert_true(before == after);
	}
	return false;
}

static bool absent(struct vcpu *v, u32 msr)
{
	u64 val;

	return !msr_read(v, msr, &val) && !msr_write(v, msr, 0);
}

static void table_is_sorted_and_slots_are_unique(void **state)
{
	bool used[MSR_STORE_COUNT] = { false };

	(void)state;
	for (unsigned i = 0; msr_at(i); i++) {
		const struct msr_def *d = msr_at(i);

		if (i)
			assert_true(msr_at(i - 1)->address < d->address);
		assert_ptr_equal(msr_find(d->address), d);
		if (d->slot == MSR_NO_SLOT) {
			assert_true(d->kind != MSR_RW && d->kind != MSR_CANON &&
				    d->kind != MSR_ZEROING);
			continue;
		}
		assert_in_range(d->slot, 0, MSR_STORE_COUNT - 1);
		assert_false(used[d->slot]);
		used[d->slot] = true;
	}
	assert_null(msr_find(2));
	assert_null(msr_find(0xffffffff));
}

/* Each bit of each plain register on its own. */
static void check_bits(struct vcpu *v, const struct msr_def *d)
{
	for (unsigned b = 0; b < 64; b++) {
		bool ok = !(d->reserved >> b & 1);

		if (d->kind == MSR_ZEROING)
			ok = false;
		else if (d->kind == MSR_CANON)
			ok = b < (table.linear_bits > 48 ? 56 : 47);
		else if (d->kind == MSR_RO)
			ok = false;
		if (wr(v, d->address, BIT(b)) != ok)
			fail_msg("%s bit %u", d->name, b);
		if (ok && d->kind == MSR_RW)
			assert_true(rd(v, d->address) == BIT(b));
	}
	if (d->kind != MSR_RO)
		assert_true(wr(v, d->address, 0));
}

static void every_reserved_bit_gives_gp(void **state)
{
	static const char *const models[] = {
		"max",        "Haswell",  "max,vendor=AuthenticAMD",
		"EPYC,-la57", "pentium3", "486"
	};

	(void)state;
	for (unsigned m = 0; m < ARRAY_SIZE(models); m++) {
		struct vcpu *v = cpu(models[m]);

		for (unsigned i = 0; msr_at(i); i++) {
			const struct msr_def *d = msr_at(i);
			bool amd = table.vendor == VENDOR_AMD;
			bool here = d->vendor == MSR_ANY || (d->vendor == MSR_AMD) == amd;

			if (d->feature != FEAT_NONE)
				here = here && cpu_has(v, d->feature);
			if (d->kind == MSR_PLATFORM || !here)
				assert_true(absent(v, d->address)); /* no platform here */
			else if (d->kind == MSR_RW || d->kind == MSR_RO ||
				 d->kind == MSR_CANON || d->kind == MSR_ZEROING ||
				 d->kind == MSR_COMMAND)
				if (d->address != 0xc0011029)
					check_bits(v, d);
		}
	}
}

static void const_msrs_ignore_writes(void **state)
{
	struct vcpu *v = cpu("max");

	(void)state;
	assert_true(rd(v, 0x8b) == BIT(32));
	assert_true(wr(v, 0x8b, 0)); /* as Linux does before CPUID to read the revision */
	assert_true(rd(v, 0x8b) == BIT(32));
	assert_true(wr(v, 0x79, 0x12345678));
	assert_false(msr_read(v, 0x79, &(u64){ 0 }));
}

static void features_bring_their_msrs(void **state)
{
	static const struct {
		const char *off;
		u32 msr;
	} f[] = {
		{ "max,-pat", 0x277 },
		{ "max,-mtrr", 0x200 },
		{ "max,-mtrr", 0xfe },
		{ "max,-mca,-mce", 0x179 },
		{ "max,-sep", 0x174 },
		{ "max,-arch_capabilities", 0x10a },
		{ "max,-flush_l1d", 0x10b },
		{ "max,-pks", 0x6e1 },
		{ "max,-xsaves", 0xda0 },
		{ "max,-rdtscp,-rdpid", 0xc0000103 },
		{ "max,-spec_ctrl,-stibp,-ssbd", 0x48 },
		{ "max,-spec_ctrl", 0x49 },
		{ "pentium3", 0xc0000080 },
		{ "pentium3", 0xc0000082 },
		{ "max", 0xc0010015 },
		{ "max,vendor=AuthenticAMD", 0x1a0 },
		{ "max,vendor=AuthenticAMD", 0xce },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(f); i++)
		if (!absent(cpu(f[i].off), f[i].msr))
			fail_msg("%s has MSR %x", f[i].off, f[i].msr);
	assert_false(absent(cpu("max,-rdtscp"), 0xc0000103)); /* RDPID needs it too */
	assert_false(absent(cpu("max,vendor=AuthenticAMD"), 0xc0010015));
	/* What we have none of. */
	for (u32 msr = 0x480; msr <= 0x491; msr++)
		assert_true(absent(cpu("max"), msr));
	assert_true(absent(cpu("max"), 0x3a));
	assert_true(absent(cpu("max"), 0xe7));
	assert_true(absent(cpu("max"), 0x186));
	assert_true(absent(cpu("max"), 0x38f));
	assert_true(absent(cpu("max"), 0xc0010114));
}

static void canonical_is_by_the_width_of_the_cpu(void **state)
{
	static const u32 msrs[] = { 0x175,      0x176,      0xc0000082, 0xc0000083,
				    0xc0000100, 0xc0000101, 0xc0000102 };
	const u64 low48 = BITS(46, 0), low57 = BITS(55, 0);

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		struct vcpu *v = cpu("max,-la57");

		assert_true(wr(v, msrs[i], low48));
		assert_true(rd(v, msrs[i]) == low48);
		assert_true(wr(v, msrs[i], ~low48));
		assert_true(rd(v, msrs[i]) == ~low48);
		assert_false(wr(v, msrs[i], low48 + 1));
		assert_false(wr(v, msrs[i], ~low48 - 1));
		v = cpu("max"); /* with LA57, though CR4.LA57 is off */
		assert_true(wr(v, msrs[i], low48 + 1));
		assert_true(wr(v, msrs[i], ~low57));
		assert_false(wr(v, msrs[i], low57 + 1));
	}
	assert_true(wr(cpu("max"), 0xc0000100, 0x1234));
	assert_true(vcpu.seg[FS].base == 0x1234);
	assert_true(wr(&vcpu, 0xc0000101, 0x5678));
	assert_true(vcpu.seg[GS].base == 0x5678);
}

static void efer_goes_through_its_checks(void **state)
{
	struct vcpu *v = cpu("max");

	(void)state;
	assert_true(wr(v, 0xc0000080, EFER_SCE | EFER_NXE | EFER_LME));
	assert_true(rd(v, 0xc0000080) == (EFER_SCE | EFER_NXE | EFER_LME));
	assert_true(v->efer == (EFER_SCE | EFER_NXE | EFER_LME));
	assert_false(wr(v, 0xc0000080, EFER_SVME));
	assert_false(wr(v, 0xc0000080, BIT(1)));
	assert_false(wr(v, 0xc0000080, EFER_FFXSR));
	v = cpu("max,vendor=AuthenticAMD");
	assert_true(wr(v, 0xc0000080, EFER_FFXSR | EFER_AUTOIBRS));
}

static void pat_and_mtrr_types_are_checked(void **state)
{
	struct vcpu *v = cpu("max,phys-bits=40");

	(void)state;
	assert_true(rd(v, 0x277) == 0x0007040600070406);
	for (u64 type = 0; type < 256; type++)
		for (unsigned i = 0; i < 64; i += 8) {
			bool pat = type == 0 || type == 1 || (type >= 4 && type <= 7);
			bool mtrr = pat && type != 7;

			assert_int_equal(wr(v, 0x277, type << i), pat);
			assert_int_equal(wr(v, 0x250, type << i), mtrr);
			assert_int_equal(wr(v, 0x26f, type << i), mtrr);
			if (i == 0) {
				assert_int_equal(wr(v, 0x200, type), mtrr);
				assert_int_equal(wr(v, 0x2ff, type), mtrr);
			}
		}
	for (unsigned b = 8; b < 64; b++) {
		assert_int_equal(wr(v, 0x20e, BIT(b)), b >= 12 && b < 40);
		assert_int_equal(wr(v, 0x20f, BIT(b)), b >= 11 && b < 40);
		assert_int_equal(wr(v, 0x2ff, BIT(b)), b == 10 || b == 11);
	}
	assert_true(rd(v, 0xfe) == 0x508);
	assert_true(absent(v, 0x210)); /* eight ranges */
	assert_true(absent(v, 0x251));
	assert_true(absent(v, 0x270));
}

static void firmware_mtrrs_leave_the_hole_uncached(void **state)
{
	struct vcpu *v = cpu("max,phys-bits=46");

	(void)state;
	msr_firmware_mtrrs(v, 0xb0000000);
	assert_true(rd(v, 0x2ff) == (BIT(11) | BIT(10) | 6));
	assert_true(rd(v, 0x200) == 0xb0000000);
	assert_true(rd(v, 0x201) == ((BITS(45, 0) & ~UINT64_C(0xfffffff)) | BIT(11)));
	assert_true(rd(v, 0x202) == 0xc0000000);
	assert_true(rd(v, 0x203) == ((BITS(45, 0) & ~UINT64_C(0x3fffffff)) | BIT(11)));
	assert_true(rd(v, 0x204) == 0);
	assert_true(rd(v, 0x250) == 0x0606060606060606);
	assert_true(rd(v, 0x259) == 0);
	for (unsigned i = 0; msr_at(i); i++) /* what is there can be written back */
		if (msr_at(i)->address >= 0x200 && msr_at(i)->address <= 0x2ff)
			assert_true(wr(v, msr_at(i)->address, rd(v, msr_at(i)->address)));
}

static void misc_enable_switches_features(void **state)
{
	struct vcpu *v = cpu("max,+monitor");
	u64 val = rd(v, 0x1a0);

	(void)state;
	assert_true(val & BIT(0));  /* fast strings: else Linux turns ERMS off */
	assert_true(val & BIT(11)); /* no BTS, no PEBS */
	assert_true(val & BIT(12));
	assert_true(wr(v, 0x1a0, val & ~(BIT(11) | BIT(12))));
	assert_true(rd(v, 0x1a0) == val); /* these are read-only */
	assert_true(cpu_has(v, FEAT_NX));
	assert_true(wr(v, 0x1a0, val | BIT(34)));
	assert_false(cpu_has(v, FEAT_NX));
	assert_false(wr(v, 0xc0000080, EFER_NXE));
	assert_true(wr(v, 0x1a0, val));
	assert_true(cpu_has(v, FEAT_NX));
	assert_true(wr(v, 0xc0000080, EFER_NXE));
	assert_false(wr(v, 0x1a0, val | BIT(34))); /* not under EFER.NXE */
	assert_true(wr(v, 0x1a0, val & ~BIT(18)));
	assert_false(cpu_has(v, FEAT_MONITOR));
	v->features[FEAT_MONITOR / 32] = 0; /* as after loading a state */
	v->msr[MSRI_MISC_ENABLE] = val;
	msr_sync(v);
	assert_true(cpu_has(v, FEAT_MONITOR));
	assert_true(cpu_has(v, FEAT_SSE2));
	assert_false(wr(v, 0x1a0, val | BIT(1)));
	assert_false(wr(v, 0x1a0, val | BIT(63)));
}

static void speculation_controls_follow_their_features(void **state)
{
	struct vcpu *v = cpu("max");

	(void)state;
	for (unsigned b = 0; b < 64; b++)
		assert_int_equal(wr(v, 0x48, BIT(b)), b < 9 || b == 10);
	v = cpu("max,-ipred_ctrl,-rrsba_ctrl,-psfd,-ddpd_u,-bhi_ctrl");
	for (unsigned b = 0; b < 64; b++)
		assert_int_equal(wr(v, 0x48, BIT(b)), b < 3);
	for (unsigned b = 0; b < 64; b++)
		assert_int_equal(wr(v, 0x49, BIT(b)), b == 0);
	assert_false(msr_read(v, 0x49, &(u64){ 0 }));
	v = cpu("max,-ssbd,-stibp,-bhi_ctrl");
	assert_true(wr(v, 0x48, 3)); /* STIBP is ignored where only IBRS is */
	assert_false(wr(v, 0x48, 4));
	v = cpu("max,vendor=AuthenticAMD,-amd-ibrs,-amd-ssbd");
	assert_true(wr(v, 0x48, 2));
	assert_false(wr(v, 0x48, 1));
	assert_true(wr(v, 0x49, 1));
}

static void tsc_aux_and_machine_check_rules_differ_by_vendor(void **state)
{
	struct vcpu *v = cpu("max");

	(void)state;
	assert_true(wr(v, 0xc0000103, 0xffffffff));
	assert_false(wr(v, 0xc0000103, BIT(32)));
	assert_false(wr(v, 0x401, 1));
	assert_true(wr(v, 0x401, 0));
	assert_true(wr(v, 0x400, ~UINT64_C(0)));
	assert_true(rd(v, 0x179) == (0x100 | MCA_BANKS));
	assert_true(absent(v, 0x400 + 4 * MCA_BANKS));
	v = cpu("EPYC");
	assert_true(wr(v, 0xc0000103, BIT(32) | 5));
	assert_true(rd(v, 0xc0000103) == 5);
	assert_false(wr(v, 0x401, 1));
	assert_true(rd(v, 0xc0010015) ==
		    BIT(24)); /* TSC at P0 rate: Linux warns otherwise */
	assert_true(wr(v, 0xc0010015, BIT(24) | BIT(18)));
	assert_true(wr(v, 0x401, 1));
	assert_true(rd(v, 0xc0011029) & BIT(1)); /* LFENCE serializes */
	assert_true(rd(v, 0xc0010010) == 0);
	assert_true(absent(cpu("qemu64"), 0xc0011029)); /* from family 10H on */
}

static void protection_keys_of_the_supervisor_drop_translations(void **state)
{
	struct vcpu *v = cpu("max");

	(void)state;
	v->tlb.way[0].entry[5].read = 0x5000;
	assert_true(wr(v, 0x6e1, 0x12345678));
	assert_int_equal(v->pkrs, 0x12345678);
	assert_true(v->tlb.way[0].entry[5].read == tlb_none(5));
	assert_true(rd(v, 0x6e1) == 0x12345678);
	assert_false(wr(v, 0x6e1, BIT(32)));
	assert_false(wr(v, 0xda0, 1)); /* no supervisor states */
	assert_true(wr(v, 0xda0, 0));
}

struct fake {
	u32 msr;
	u64 val;
	unsigned calls;
};

static int fake_read(void *opaque, u32 msr, u64 *val)
{
	struct fake *f = opaque;

	f->calls++;
	if (msr != f->msr)
		return msr == 0x10 ? 0 : -1;
	*val = f->val;
	return 1;
}

static int fake_write(void *opaque, u32 msr, u64 val)
{
	struct fake *f = opaque;

	f->calls++;
	if (msr != f->msr)
		return -1;
	f->val = val;
	return 1;
}

static void platform_has_its_msrs_and_the_unknown(void **state)
{
	static const struct vcpu_platform platform = { .msr_read = fake_read,
						       .msr_write = fake_write };
	static const u32 msrs[] = { 0x10,  0x1b,       0x3b,       0x6e0,
				    0x800, 0x8ff,      0x40000000, 0x11,
				    0x12,  0x4b564d00, 0x4b564d01, 0x4b564d03 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
		struct vcpu *v = cpu("max");
		struct fake f = { .msr = msrs[i], .val = 77 };

		v->platform = &platform;
		v->platform_opaque = &f;
		assert_true(rd(v, msrs[i]) == 77);
		assert_true(wr(v, msrs[i], 78));
		assert_true(f.val == 78);
		f.msr = 1;
		assert_true(absent(v, msrs[i]));
		f.calls = 0;
		assert_true(rd(v, 0x277) != 0); /* not asked for what is ours */
		assert_int_equal(f.calls, 0);
	}
	/* Without the feature nobody is asked. */
	struct vcpu *v = cpu("max,-x2apic,-tsc_adjust,-tsc_deadline_timer");
	struct fake f = { .msr = 0x800 };

	v->platform = &platform;
	v->platform_opaque = &f;
	assert_true(absent(v, 0x800));
	assert_true(absent(v, 0x3b));
	assert_true(absent(v, 0x6e0));
	assert_int_equal(f.calls, 0);
	v = cpu("max,-kvmclock");
	v->platform = &platform;
	v->platform_opaque = &f;
	assert_true(absent(v, 0x11));
	assert_true(absent(v, 0x12));
	assert_true(absent(v, 0x4b564d00));
	assert_true(absent(v, 0x4b564d01));
	f.msr = 0x4b564d03;
	assert_true(wr(v, 0x4b564d03, 1));
	f.calls = 0;
	v = cpu("max,-kvm");
	v->platform = &platform;
	v->platform_opaque = &f;
	assert_true(absent(v, 0x4b564d03));
	assert_int_equal(f.calls, 0);
}

static void reset_restores_and_init_keeps(void **state)
{
	struct vcpu *v = cpu("max");
	u64 fresh[MSR_STORE_COUNT];

	(void)state;
	memcpy(fresh, v->msr, sizeof(fresh));
	assert_true(wr(v, 0xc0000082, 0x1000));
	assert_true(wr(v, 0x277, 0));
	assert_true(wr(v, 0x6e1, 3));
	msr_reset(v, true);
	assert_true(rd(v, 0xc0000082) == 0x1000);
	assert_true(rd(v, 0x277) == 0);
	msr_reset(v, false);
	assert_memory_equal(v->msr, fresh, sizeof(fresh));
	assert_int_equal(v->pkrs, 0);
}

static int make_phys(void **state)
{
	(void)state;
	phys = phys_new();
	return 0;
}

static int free_phys(void **state)
{
	(void)state;
	phys_free(phys);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_sorted_and_slots_are_unique),
		cmocka_unit_test(every_reserved_bit_gives_gp),
		cmocka_unit_test(const_msrs_ignore_writes),
		cmocka_unit_test(features_bring_their_msrs),
		cmocka_unit_test(canonical_is_by_the_width_of_the_cpu),
		cmocka_unit_test(efer_goes_through_its_checks),
		cmocka_unit_test(pat_and_mtrr_types_are_checked),
		cmocka_unit_test(firmware_mtrrs_leave_the_hole_uncached),
		cmocka_unit_test(misc_enable_switches_features),
		cmocka_unit_test(speculation_controls_follow_their_features),
		cmocka_unit_test(tsc_aux_and_machine_check_rules_differ_by_vendor),
		cmocka_unit_test(protection_keys_of_the_supervisor_drop_translations),
		cmocka_unit_test(platform_has_its_msrs_and_the_unknown),
		cmocka_unit_test(reset_restores_and_init_keeps),
	};

	return cmocka_run_group_tests(tests, make_phys, free_phys);
}
