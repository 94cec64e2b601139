/* CPUID: models, consistency, what the host limits, answers that depend on state. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/hostcpu.h"
#include "x86/cpuid_models.h"
#include "x86/msr.h"
#include "x86/xsave.h"

/* ---- hosts ---- */

static void host_add(struct host_cpu *h, unsigned f)
{
	h->features[f / 32] |= 1u << (f % 32);
}

/* A host with everything there is, AMX and VMX included. */
static struct host_cpu host_full(void)
{
	struct host_cpu h = {
		.xcr0 = 0x602ff, .phys_bits = 52, .family = 6, .model = 0x8f
	};

	memset(h.features, 0xff, sizeof(h.features));
	for (unsigned i = 2; i < HOST_XCOMP_COUNT; i++) {
		h.xoffset[i] = xcomp_layout[i].offset;
		h.xsize[i] = xcomp_layout[i].size;
	}
	strcpy(h.brand, "Some Host CPU");
	return h;
}

/* The least that runs 64-bit code. */
static struct host_cpu host_bare(void)
{
	static const unsigned has[] = { FEAT_FPU, FEAT_MMX, FEAT_FXSR, FEAT_SSE,
					FEAT_SSE2 };
	struct host_cpu h = { .phys_bits = 40, .family = 15, .model = 5, .amd = true };

	for (unsigned i = 0; i < ARRAY_SIZE(has); i++)
		host_add(&h, has[i]);
	return h;
}

static bool has(const struct cpuid_table *t, unsigned f)
{
	return t->features[f / 32] >> (f % 32) & 1;
}

static struct cpuid_table built(const char *cpu, const struct host_cpu *host,
				unsigned cpus)
{
	struct cpuid_request r = { .cpu = cpu, .cpus = cpus, .tsc_khz = 2600000 };
	struct cpuid_table t;
	struct error err = { "" };

	if (cpuid_build(&t, &r, host, NULL, &err))
		fail_msg("%s: %s", cpu, err.msg);
	return t;
}

static void refused(const char *cpu, const struct host_cpu *host, const char *message)
{
	struct cpuid_request r = { .cpu = cpu, .cpus = 1, .tsc_khz = 1000000 };
	struct cpuid_table t;
	struct error err = { "" };

	assert_true(cpuid_build(&t, &r, host, NULL, &err) < 0);
	if (!strstr(err.msg, message))
		fail_msg("%s: '%s' expected, got '%s'", cpu, message, err.msg);
}

static void attach(struct vcpu *v, const struct cpuid_table *t)
{
	memset(v, 0, sizeof(*v));
	cpuid_attach(v, t);
	msr_reset(v, false);
	v->code_size = 8;
}

/* ---- features ---- */

static void feature_spellings_are_unique(void **state)
{
	(void)state;
	for (unsigned f = 0; f < FEATURE_WORDS * 32; f++) {
		const char *names = cpu_feature_names(f);

		while (names && *names) {
			size_t n = strcspn(names, "|");

			assert_int_equal(cpu_feature_find(names, n), f);
			names += n + (names[n] == '|');
		}
	}
	assert_int_equal(cpu_feature_find("SSE4-1", 6), FEAT_SSE41);
	assert_int_equal(cpu_feature_find("sse4.2", 6), FEAT_SSE42);
	assert_int_equal(cpu_feature_find("sse3", 4), FEAT_SSE3);
	assert_int_equal(cpu_feature_find("pni", 3), FEAT_SSE3);
	assert_int_equal(cpu_feature_find("sha-ni", 6), FEAT_SHA);
	assert_int_equal(cpu_feature_find("tsc-deadline", 12), FEAT_TSC_DEADLINE);
	assert_int_equal(cpu_feature_find("", 0), -1);
	assert_int_equal(cpu_feature_find("avx51", 5), -1);
}

static void check_table(const struct cpuid_table *t, const char *name)
{
	int need;

	assert_int_equal(cpu_feature_inconsistent(t->features, &need), -1);
	assert_true(t->count < CPUID_MAX_LEAVES);
	for (unsigned f = 0; f < FEATURE_WORDS * 32; f++)
		if (has(t, f) && cpu_feature_policy(f) == FEATURE_NEVER)
			fail_msg("%s offers %s", name, cpu_feature_names(f));
	for (unsigned i = 0; i < t->count; i++) {
		u32 leaf = t->leaf[i].leaf;
		u32 max = leaf < 0x40000000   ? t->max_basic
			  : leaf < 0x80000000 ? t->max_hypervisor
					      : t->max_extended;

		if (leaf > max)
			fail_msg("%s: leaf %x lies above %x", name, leaf, max);
	}
}

static void every_model_is_consistent_on_every_host(void **state)
{
	struct host_cpu hosts[3] = { host_full(), host_bare() };

	(void)state;
	hostcpu_read(&hosts[2]);
	for (unsigned h = 0; h < 3; h++) {
		struct cpuid_table t = built("max", &hosts[h], 2);

		check_table(&t, "max");
		t = built("host", &hosts[h], 2);
		check_table(&t, "host");
		for (unsigned i = 0; cpu_model_at(i); i++) {
			const char *name = cpu_model_at(i)->name;

			t = built(name, &hosts[h], 4);
			check_table(&t, name);
			assert_string_equal(t.model_name, name);
		}
	}
}

/* A typing error in a model's list would silently drop a feature. */
static void every_word_in_a_model_is_a_feature(void **state)
{
	(void)state;
	for (unsigned i = 0; cpu_model_at(i); i++) {
		const char *s = cpu_model_at(i)->features;

		while (*s) {
			size_t n = strcspn(s, " ");

			if (cpu_feature_find(s, n) < 0)
				fail_msg("%s: '%.*s'", cpu_model_at(i)->name, (int)n, s);
			s += n;
			s += strspn(s, " ");
		}
	}
}

/* ... and one that a prerequisite is missing for would be dropped as silently. */
static void models_keep_on_a_full_host_all_that_can_be_offered(void **state)
{
	struct host_cpu host = host_full();

	(void)state;
	for (unsigned i = 0; cpu_model_at(i); i++) {
		const struct cpu_model *m = cpu_model_at(i);
		struct cpuid_table t = built(m->name, &host, 1);
		const char *s = m->features;

		while (*s) {
			size_t n = strcspn(s, " ");
			int f = cpu_feature_find(s, n);

			if (cpu_feature_policy((unsigned)f) != FEATURE_NEVER &&
			    !has(&t, (unsigned)f))
				fail_msg("%s lost %.*s", m->name, (int)n, s);
			s += n;
			s += strspn(s, " ");
		}
	}
}

static void model_names_are_unique(void **state)
{
	(void)state;
	for (unsigned i = 0; cpu_model_at(i); i++) {
		const struct cpu_model *m = cpu_model_at(i);

		assert_ptr_equal(cpu_model_find(m->name, strlen(m->name)), m);
		if (m->alias)
			assert_ptr_equal(cpu_model_find(m->alias, strlen(m->alias)), m);
	}
	assert_non_null(cpu_model_find("haswell", 7));
	assert_null(cpu_model_find("haswel", 6));
}

static void host_limits_unprivileged_features_only(void **state)
{
	struct host_cpu bare = host_bare(), full = host_full();
	struct cpuid_table t = built("max", &bare, 1);

	(void)state;
	assert_int_equal(t.vendor, VENDOR_AMD);
	assert_false(has(&t, FEAT_AVX));
	assert_false(has(&t, FEAT_AES));
	assert_false(has(&t, FEAT_POPCNT));
	assert_true(has(&t, FEAT_SMAP));
	assert_true(has(&t, FEAT_PKU));
	assert_true(has(&t, FEAT_LA57));
	assert_true(has(&t, FEAT_XSAVES));
	assert_int_equal(t.xcr0, XCR0_X87 | XCR0_SSE | XCR0_PKRU);
	t = built("max", &full, 1);
	assert_true(has(&t, FEAT_AVX512F));
	assert_false(has(&t, FEAT_VMX));
	assert_false(has(&t, FEAT_AMX_TILE));
	assert_int_equal(t.xcr0, 0x2e7);
}

static void component_elsewhere_on_the_host_is_not_offered(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t;

	(void)state;
	host.xoffset[6] += 64;
	host.features[W_D_1_EAX] &=
		~(u32)BIT(1); /* XSAVEC would put it where we have it */
	t = built("max", &host, 1);
	assert_true(has(&t, FEAT_AVX2));
	assert_false(has(&t, FEAT_AVX512F));
	assert_false(has(&t, FEAT_AVX512VL));
	host.xcr0 = 3; /* the kernel does not enable AVX */
	t = built("max", &host, 1);
	assert_false(has(&t, FEAT_AVX2));
	assert_false(has(&t, FEAT_FMA));
	assert_true(has(&t, FEAT_SSE42));
}

static void requests_change_features(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("core2duo,+avx,+sse4.2,+sse4.1,+xsave", &host, 1);

	(void)state;
	assert_true(has(&t, FEAT_AVX));
	assert_int_equal(t.max_basic, 0xd);
	t = built("max,-xsave", &host, 1);
	assert_false(has(&t, FEAT_AVX));
	assert_false(has(&t, FEAT_AVX512_FP16));
	assert_false(has(&t, FEAT_PKU));
	assert_true(has(&t, FEAT_SSE42));
	assert_int_equal(t.xcr0, 0);
	t = built("Nehalem,smap=on,smep=on,sse3=off", &host, 1);
	assert_true(has(&t, FEAT_SMAP));
	assert_false(has(&t, FEAT_SSE3));
	assert_false(has(&t, FEAT_SSE42));
	assert_int_equal(t.max_basic, 0xb);
	t = built("max,vendor=AuthenticAMD,family=25,model=1,stepping=2,phys-bits=44,"
		  "model-id=My CPU",
		  &host, 1);
	assert_int_equal(t.vendor, VENDOR_AMD);
	assert_int_equal(t.family, 25);
	assert_int_equal(t.model, 1);
	assert_int_equal(t.stepping, 2);
	assert_int_equal(t.phys_bits, 44);
	assert_true(has(&t, FEAT_AUTOIBRS));
	assert_false(has(&t, FEAT_ARCH_CAPABILITIES));
	/* As QEMU also writes it. */
	t = built("qemu64,fsgsbase,-svm,enforce,migratable=off,pmu=off,host-phys-bits",
		  &host, 1);
	assert_true(has(&t, FEAT_FSGSBASE));
	assert_int_equal(t.phys_bits, host.phys_bits);
	t = built("qemu64,level=7,xlevel=0x80000008", &host, 1);
	assert_int_equal(t.max_extended, 0x80000008);
}

static void names_of_variants_are_known(void **state)
{
	struct host_cpu host = host_full();
	static const char *const names[] = {
		"Haswell-v2",
		"haswell-noTSX-IBRS",
		"EPYC-IBPB",
		"EPYC-Rome-v12",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		built(names[i], &host, 1);
}

static void requests_that_cannot_be_met_are_refused_by_name(void **state)
{
	struct host_cpu full = host_full(), bare = host_bare();

	(void)state;
	refused("Pentium9", &full, "no model is called 'Pentium9'");
	refused("max,+frobnicate", &full, "no feature is called 'frobnicate'");
	refused("max,+avx512f", &bare,
		"feature 'avx512f': the host's CPU does not have it");
	refused("max,+vmx", &full, "feature 'vmx': Umbra does not offer it");
	refused("max,rtm=on", &full, "feature 'rtm': Umbra does not offer it");
	refused("max,+amx-tile", &full, "feature 'amx-tile': Umbra does not offer it");
	refused("max,+osxsave", &full, "it follows from other settings");
	refused("Haswell,+autoibrs", &full, "only AMD CPUs have it");
	refused("EPYC,+arch_capabilities", &full, "only Intel CPUs have it");
	refused("max,-xsave,+avx", &full, "feature 'avx' needs 'xsave', which is off");
	refused("max,frobnicate", &full, "no feature is called 'frobnicate'");
	refused("max,pmu", &full, "no performance counters");
	refused("max,pmu=maybe", &full, "on or off");
	refused("max,xlevel=7", &full, "from 0x80000000 on");
	refused("Haswell-v", &full, "no model is called");
	refused("max,avx=maybe", &full, "on or off");
	refused("max,", &full, "an empty item");
	refused("max,+", &full, "no feature is called ''");
	refused("max,phys-bits=60", &full, "a number up to 52");
	refused("max,phys-bits=20", &full, "from 32 to 52");
	refused("max,family=-1", &full, "a number up to");
	refused("max,family=", &full, "a number up to");
	refused("max,family=11111111111111111111111", &full, "a number up to");
	refused("max,vendor=Me", &full, "GenuineIntel or AuthenticAMD");
	refused("", &full, "no model is called ''");
}

static void max_claims_no_side_channels(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("max", &host, 1);

	(void)state;
	/* RDCL_NO, IBRS_ALL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, MMIO, BHI_NO ... */
	assert_int_equal(t.arch_capabilities & 0x0110e173, 0x0110e173);
	assert_int_equal(t.arch_capabilities & BIT(2), 0); /* RSBA */
	assert_true(t.arch_capabilities & BIT(27));        /* RFDS_NO */
	assert_true(t.arch_capabilities & BIT(62));        /* ITS_NO */
}

/* ---- leaves ---- */

static void names_and_numbers_come_back(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("EPYC-Milan", &host, 1);
	char text[49] = { 0 };
	struct vcpu v;
	u32 r[4];

	(void)state;
	attach(&v, &t);
	cpuid_query(&v, 0, 0, r);
	memcpy(text, &r[1], 4);
	memcpy(text + 4, &r[3], 4);
	memcpy(text + 8, &r[2], 4);
	assert_string_equal(text, "AuthenticAMD");
	cpuid_query(&v, 1, 0, r);
	assert_int_equal(r[0], 0x00a00f11);
	for (u32 i = 0; i < 3; i++) {
		cpuid_query(&v, 0x80000002 + i, 0, r);
		memcpy(text + 16 * i, r, 16);
	}
	assert_string_equal(text, "AMD EPYC-Milan Processor");
	cpuid_query(&v, 0x80000008, 0, r);
	assert_int_equal(r[0] & 0xffff, 48 << 8 | 46);

	t = built("Haswell,-hypervisor", &host, 1);
	attach(&v, &t);
	cpuid_query(&v, 1, 0, r);
	assert_int_equal(r[0], 0x000306c4);
	assert_int_equal(r[2] >> 31, 0);
	t = built("host", &host, 1);
	assert_int_equal(t.model, 0x8f);
}

static void leaves_out_of_range_follow_the_vendor(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("SandyBridge,-hypervisor", &host, 1);
	static const u32 outside[] = { 0xe,        0x1234,     0x40000000, 0x40000010,
				       0x80000009, 0xc0000000, 0xffffffff };
	struct vcpu v;
	u32 r[4], top[4];

	(void)state;
	attach(&v, &t);
	v.xcr0 = 7;
	cpuid_query(&v, t.max_basic, 1, top);
	assert_int_equal(t.max_basic, 0xd);
	assert_int_not_equal(top[0], 0);
	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		cpuid_query(&v, outside[i], 1, r);
		assert_memory_equal(r, top, sizeof(r));
	}
	t = built("Opteron_G3", &host, 1);
	attach(&v, &t);
	for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
		if (outside[i] >> 28 == 4)
			continue;
		cpuid_query(&v, outside[i], 1, r);
		assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	}
}

#define KVM_ALL 0x0100002bu /* the bits of leaf 40000001H that there are */

static void every_model_has_the_interface_of_kvm(void **state)
{
	struct host_cpu full = host_full(), bare = host_bare();
	const struct cpu_model *m;
	u32 r[4];

	(void)state;
	for (unsigned i = 0; (m = cpu_model_at(i)); i++) {
		struct cpuid_table t = built(m->name, i % 2 ? &full : &bare, 1);
		/* They are MSRs, and the clock is the TSC. */
		bool old = !strcmp(m->name, "486");
		struct vcpu v;

		attach(&v, &t);
		cpuid_query(&v, 1, 0, r);
		assert_int_equal(r[2] >> 31, 1);
		cpuid_query(&v, 0x40000000, 0, r);
		assert_int_equal(r[0], 0x40000010);
		assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
		cpuid_query(&v, 0x40000001, 0, r);
		assert_int_equal(r[0], old ? 2 : KVM_ALL);
		assert_int_equal(r[1] | r[2] | r[3], 0);
		cpuid_query(&v, 0x40000010, 0, r);
		assert_int_equal(r[0], 2600000);
		assert_int_equal(r[1], 25000);
		cpuid_query(&v, 0x40000002, 0, r);
		assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	}
}

static void interface_of_kvm_can_be_switched(void **state)
{
	static const struct {
		const char *cpu;
		u32 eax;
	} table[] = {
		{ "max", KVM_ALL },
		{ "host", KVM_ALL },
		{ "max,kvm=on", KVM_ALL },
		{ "Haswell,-kvmclock", 0x22 },
		{ "Haswell,kvmclock=off", 0x22 },
		{ "max,-kvmclock-stable-bit", 0x2b },
		{ "max,kvm-steal-time=off", 0x0100000b },
		{ "max,-kvm_nopiodelay", 0x01000029 },
		{ "max,-tsc", 0x22 },
		{ "Haswell,-kvm-steal-time,-kvmclock,-kvm-nopiodelay", 0 },
		{ "max,-kvm-pv-eoi,-kvm-asyncpf", KVM_ALL },
	};
	struct host_cpu host = host_full();
	u32 r[4];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		struct cpuid_table t = built(table[i].cpu, &host, 1);
		struct vcpu v;

		attach(&v, &t);
		cpuid_query(&v, 0x40000000, 0, r);
		assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
		cpuid_query(&v, 0x40000001, 0, r);
		if (r[0] != table[i].eax)
			fail_msg("%s: %x", table[i].cpu, r[0]);
	}
	refused("max,+kvmclock,-kvm", &host, "'kvmclock' needs 'kvm', which is off");
	refused("max,kvmclock=on,-hypervisor", &host,
		"'kvmclock' needs 'kvm', which is off");
	refused("max,+kvm,-hypervisor", &host, "'kvm' needs 'hypervisor', which is off");
	refused("max,+kvm-pv-eoi", &host, "'kvm-pv-eoi': Umbra does not offer it");
	refused("max,+kvmclock-old", &host, "it follows from other settings");
}

/* Then we say who we are. */
static void without_kvm_the_leaves_name_us(void **state)
{
	static const char *const cpus[] = { "max,-kvm", "Haswell,kvm=off" };
	struct host_cpu host = host_full();
	u32 r[4];

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cpus); i++) {
		struct cpuid_table t = built(cpus[i], &host, 1);
		struct vcpu v;

		attach(&v, &t);
		cpuid_query(&v, 0x40000000, 0, r);
		assert_int_equal(r[0], 0x40000010);
		assert_memory_equal(&r[1], "UmbraUmbraUm", 12);
		cpuid_query(&v, 0x40000001, 0, r);
		assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
		cpuid_query(&v, 0x40000010, 0, r);
		assert_int_equal(r[0], 2600000);
		assert_int_equal(r[1], 25000);
	}
}

static u32 reg(const struct vcpu *v, u32 leaf, u32 subleaf, unsigned i)
{
	u32 r[4];

	cpuid_query(v, leaf, subleaf, r);
	return r[i];
}

static int fake_base(void *opaque, u32 msr, u64 *val)
{
	if (msr != IA32_APIC_BASE)
		return -1;
	*val = *(u64 *)opaque;
	return 1;
}

static void bits_that_follow_the_state_of_the_cpu(void **state)
{
	static const struct vcpu_platform platform = { .msr_read = fake_base };
	struct host_cpu host = host_full();
	struct cpuid_table t = built("max,+monitor", &host, 1);
	u64 base = 0xfee00900;
	struct vcpu v;

	(void)state;
	attach(&v, &t);
	v.platform = &platform;
	v.platform_opaque = &base;
	assert_true(reg(&v, 1, 0, 3) & BIT(9));
	base = 0xfee00100;
	assert_false(reg(&v, 1, 0, 3) & BIT(9));
	assert_false(reg(&v, 1, 0, 2) & BIT(27));
	v.cr4 |= CR4_OSXSAVE;
	assert_true(reg(&v, 1, 0, 2) & BIT(27));
	assert_false(reg(&v, 7, 0, 2) & BIT(4));
	v.cr4 |= CR4_PKE;
	assert_true(reg(&v, 7, 0, 2) & BIT(4));
	assert_true(reg(&v, 0x80000001, 0, 3) & BIT(11));
	v.code_size = 4; /* Intel: SYSCALL in 64-bit mode alone */
	assert_false(reg(&v, 0x80000001, 0, 3) & BIT(11));
	/* MISC_ENABLE */
	assert_true(reg(&v, 1, 0, 2) & BIT(3));
	assert_true(msr_write(&v, 0x1a0, v.msr[MSRI_MISC_ENABLE] & ~MISC_ENABLE_MONITOR));
	assert_false(reg(&v, 1, 0, 2) & BIT(3));
	assert_true(reg(&v, 0x80000001, 0, 3) & BIT(20));
	assert_true(
		msr_write(&v, 0x1a0, v.msr[MSRI_MISC_ENABLE] | MISC_ENABLE_XD_DISABLE));
	assert_false(reg(&v, 0x80000001, 0, 3) & BIT(20));
	assert_true(
		msr_write(&v, 0x1a0, v.msr[MSRI_MISC_ENABLE] | MISC_ENABLE_LIMIT_CPUID));
	assert_int_equal(reg(&v, 0, 0, 0), 2);
}

static void xsave_leaf_follows_xcr0(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("max", &host, 1);
	struct vcpu v;

	(void)state;
	attach(&v, &t);
	v.xcr0 = 1;
	assert_int_equal(reg(&v, 0xd, 0, 1), 576);
	v.xcr0 = 7;
	assert_int_equal(reg(&v, 0xd, 0, 1), 832);
	v.xcr0 = 0xe7;
	assert_int_equal(reg(&v, 0xd, 0, 1), 2688);
	assert_int_equal(reg(&v, 0xd, 1, 1), 2432);
	v.xcr0 = 0x207; /* PKRU without AVX-512: not far behind when compacted */
	assert_int_equal(reg(&v, 0xd, 0, 1), 2696);
	assert_int_equal(reg(&v, 0xd, 1, 1), 840);
	assert_int_equal(reg(&v, 0xd, 0, 2), 2696);
	assert_int_equal(reg(&v, 0xd, 0, 0), 0x2e7);
	assert_int_equal(reg(&v, 0xd, 2, 0), 256);
	assert_int_equal(reg(&v, 0xd, 2, 1), 576);
	assert_int_equal(reg(&v, 0xd, 9, 1), 2688);
	assert_int_equal(reg(&v, 0xd, 3, 0), 0);
	assert_int_equal(reg(&v, 0xd, 63, 0), 0);
}

/* AMD leaves no gap for MPX, nor for what a CPU does not have. */
static void xsave_leaf_of_amd_has_no_gaps(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_table t = built("max,vendor=AuthenticAMD", &host, 1);
	struct vcpu v;

	(void)state;
	attach(&v, &t);
	assert_int_equal(reg(&v, 0xd, 2, 1), 576);
	assert_int_equal(reg(&v, 0xd, 5, 1), 832);
	assert_int_equal(reg(&v, 0xd, 6, 1), 896);
	assert_int_equal(reg(&v, 0xd, 7, 1), 1408);
	assert_int_equal(reg(&v, 0xd, 9, 1), 2432);
	assert_int_equal(reg(&v, 0xd, 0, 2), 2440);
	v.xcr0 = 0x207;
	assert_int_equal(reg(&v, 0xd, 0, 1), 2440);
	v.xcr0 = 0xe7;
	assert_int_equal(reg(&v, 0xd, 0, 1), 2432);
	t = built("EPYC-Milan", &host, 1);
	attach(&v, &t);
	assert_int_equal(reg(&v, 0xd, 9, 1), 832);
	assert_int_equal(reg(&v, 0xd, 0, 2), 840);
}

static bool offers_avx512(const struct host_cpu *host)
{
	struct cpuid_table t = built("max", host, 1);

	return t.features[FEAT_AVX512F / 32] >> FEAT_AVX512F % 32 & 1;
}

/* Our own area is in the compacted format; without XSAVEC the host's must be like it. */
static void avx512_needs_a_host_that_saves_it_our_way(void **state)
{
	struct host_cpu host = host_full();

	(void)state;
	host.features[W_D_1_EAX] |= BIT(1);
	host.xoffset[5] = 1088;
	assert_true(offers_avx512(&host));
	host.features[W_D_1_EAX] &= ~(u32)BIT(1);
	assert_false(offers_avx512(&host));
	host.xoffset[5] = XSAVE_OPMASK;
	assert_true(offers_avx512(&host));
	host.xsize[5] = 128;
	assert_false(offers_avx512(&host));
}

static void tsc_ratio_is_exact_in_32_bits(void **state)
{
	static const u64 khz[] = { 800000,  1000000, 2100000, 2599998,
				   3333333, 4799999, 5700000 };
	struct host_cpu host = host_full();

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(khz); i++) {
		struct cpuid_request r = { .cpus = 1,
					   .tsc_khz = cpuid_tsc_khz_round(khz[i]) };
		struct cpuid_table t;
		struct error err;
		struct vcpu v;
		u32 l[4], product;

		assert_int_equal(cpuid_build(&t, &r, &host, NULL, &err), 0);
		attach(&v, &t);
		cpuid_query(&v, 0x15, 0, l);
		assert_int_equal(l[2], 25000000);
		product = l[2] / 1000 * l[1]; /* as Linux does it */
		assert_int_equal(product / l[0], r.tsc_khz);
	}
}

/* ---- topology ---- */

static void topology_is_told_in_every_leaf(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_request r = {
		.cpus = 12, .sockets = 2, .cores = 3, .threads = 2, .tsc_khz = 1000000
	};
	struct cpuid_table t;
	struct error err;
	struct vcpu v;
	u32 seen[12];

	(void)state;
	assert_int_equal(cpuid_build(&t, &r, &host, NULL, &err), 0);
	assert_int_equal(t.thread_shift, 1);
	assert_int_equal(t.package_shift, 3);
	for (unsigned i = 0; i < 12; i++) {
		u32 id = cpuid_apic_id(&t, i);

		attach(&v, &t);
		v.index = i;
		assert_int_equal(reg(&v, 1, 0, 1) >> 24, id);
		assert_int_equal(reg(&v, 0xb, 0, 3), id);
		assert_int_equal(reg(&v, 0x1f, 1, 3), id);
		assert_int_equal(id >> 3, i / 6);
		assert_int_equal(id & 1, i & 1);
		for (unsigned j = 0; j < i; j++)
			assert_int_not_equal(seen[j], id);
		seen[i] = id;
	}
	assert_int_equal(reg(&v, 0xb, 0, 0), 1);
	assert_int_equal(reg(&v, 0xb, 0, 1), 2);
	assert_int_equal(reg(&v, 0xb, 0, 2), 0x100);
	assert_int_equal(reg(&v, 0xb, 1, 0), 3);
	assert_int_equal(reg(&v, 0xb, 1, 1), 6);
	assert_int_equal(reg(&v, 0xb, 1, 2), 0x201);
	assert_int_equal(reg(&v, 0xb, 2, 1), 0);
	assert_int_equal(reg(&v, 0xb, 2, 2), 2);
	assert_int_equal(reg(&v, 4, 0, 0) >> 14 & 0xfff, 1);
	assert_int_equal(reg(&v, 4, 3, 0) >> 14 & 0xfff, 7);
	assert_int_equal(reg(&v, 4, 0, 0) >> 26, 3);
	assert_int_equal(reg(&v, 4, 4, 0), 0);
	assert_true(reg(&v, 1, 0, 3) & BIT(28));
}

static void amd_topology_is_told_in_its_own_leaves(void **state)
{
	struct host_cpu host = host_full();
	struct cpuid_request r = {
		.cpu = "EPYC-Milan", .cpus = 8, .threads = 2, .tsc_khz = 1000000
	};
	struct cpuid_table t;
	struct error err;
	struct vcpu v;

	(void)state;
	assert_int_equal(cpuid_build(&t, &r, &host, NULL, &err), 0);
	attach(&v, &t);
	v.index = 5;
	assert_int_equal(reg(&v, 0x80000008, 0, 2), 3 << 12 | 7);
	assert_int_equal(reg(&v, 0x8000001e, 0, 0), 5);
	assert_int_equal(reg(&v, 0x8000001e, 0, 1), 1 << 8 | 2);
	assert_int_equal(reg(&v, 0x8000001d, 0, 0), 0x00004121);
	/* Leaf 80000001H repeats leaf 1. */
	assert_true(reg(&v, 0x80000001, 0, 3) & BIT(0));
	assert_true(reg(&v, 0x80000001, 0, 3) & BIT(24));
	assert_true(reg(&v, 0x80000001, 0, 2) & BIT(1)); /* CMP_LEGACY */
}

static void topology_that_does_not_add_up_is_refused(void **state)
{
	static const struct cpuid_request bad[] = {
		{ .cpus = 0 },
		{ .cpus = 256 },
		{ .cpus = 4, .sockets = 3 },
		{ .cpus = 4, .cores = 3 },
		{ .cpus = 4, .sockets = 2, .cores = 2, .threads = 2 },
		{ .cpus = 4, .threads = 8 },
		{ .cpus = 4, .sockets = 0xffffffff, .cores = 0xffffffff, .threads = 4 },
		{ .cpus = 255, .sockets = 85, .cores = 3 }, /* APIC IDs up to 338 */
	};
	struct host_cpu host = host_full();
	struct cpuid_table t;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = { "" };

		assert_true(cpuid_build(&t, &bad[i], &host, NULL, &err) < 0);
		assert_non_null(strstr(err.msg, "-smp"));
	}
}

static void this_host_is_read(void **state)
{
	struct host_cpu host;

	(void)state;
	hostcpu_read(&host);
	assert_true(host.features[W_1_EDX] >> 26 & 1); /* SSE2: this is 64-bit code */
	assert_true(host.features[W_81_EDX] >> 29 & 1);
	assert_true(host.phys_bits >= 32 && host.phys_bits <= 52);
	if (host.xcr0 & XCR0_AVX)
		assert_int_equal(host.xoffset[2], 576);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(feature_spellings_are_unique),
		cmocka_unit_test(every_model_is_consistent_on_every_host),
		cmocka_unit_test(every_word_in_a_model_is_a_feature),
		cmocka_unit_test(models_keep_on_a_full_host_all_that_can_be_offered),
		cmocka_unit_test(model_names_are_unique),
		cmocka_unit_test(host_limits_unprivileged_features_only),
		cmocka_unit_test(component_elsewhere_on_the_host_is_not_offered),
		cmocka_unit_test(requests_change_features),
		cmocka_unit_test(names_of_variants_are_known),
		cmocka_unit_test(requests_that_cannot_be_met_are_refused_by_name),
		cmocka_unit_test(max_claims_no_side_channels),
		cmocka_unit_test(names_and_numbers_come_back),
		cmocka_unit_test(leaves_out_of_range_follow_the_vendor),
		cmocka_unit_test(every_model_has_the_interface_of_kvm),
		cmocka_unit_test(interface_of_kvm_can_be_switched),
		cmocka_unit_test(without_kvm_the_leaves_name_us),
		cmocka_unit_test(bits_that_follow_the_state_of_the_cpu),
		cmocka_unit_test(xsave_leaf_follows_xcr0),
		cmocka_unit_test(xsave_leaf_of_amd_has_no_gaps),
		cmocka_unit_test(avx512_needs_a_host_that_saves_it_our_way),
		cmocka_unit_test(tsc_ratio_is_exact_in_32_bits),
		cmocka_unit_test(topology_is_told_in_every_leaf),
		cmocka_unit_test(amd_topology_is_told_in_its_own_leaves),
		cmocka_unit_test(topology_that_does_not_add_up_is_refused),
		cmocka_unit_test(this_host_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
