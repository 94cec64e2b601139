/*
 * Building a machine's CPUID table from a model, the user's wishes and the host.
 *
 * SDM volume 2 CPUID; APM volume 3 appendix E; hypervisor leaves as VMware and KVM define
 * them. Of what the host's units execute only what the host has is offered; what Umbra
 * does itself is offered anywhere (features.def). Caches are made up: nothing depends on
 * them. Missing: performance monitoring (0AH), RDT, PT, SGX, AMX leaves: all zero. No
 * state; any thread. Runs at set-up, so it may use vector registers.
 */
#include "x86/cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "x86/cpuid_models.h"
#include "x86/xsave.h"

#define DEFAULT_CRYSTAL_HZ 25000000u
#define APICID_BITS_MAX    8
#define OUR_SIGNATURE      "UmbraUmbraUm"
#define KVM_SIGNATURE      "KVMKVMKVM\0\0" /* 12 bytes, with the last 0 */

/*
 * IA32_ARCH_CAPABILITIES (SDM 4 table 2-2). No instruction of an interpreted guest
 * runs ahead of a check of ours, so all the "not affected" bits are true. RSBA and
 * the bits that announce further MSRs stay clear.
 */
#define ARCH_CAP_RDCL_NO            BIT(0)
#define ARCH_CAP_IBRS_ALL           BIT(1)
#define ARCH_CAP_SKIP_L1DFL_VMENTRY BIT(3)
#define ARCH_CAP_SSB_NO             BIT(4)
#define ARCH_CAP_MDS_NO             BIT(5)
#define ARCH_CAP_PSCHANGE_MC_NO     BIT(6)
#define ARCH_CAP_TAA_NO             BIT(8)
#define ARCH_CAP_SBDR_SSDP_NO       BIT(13)
#define ARCH_CAP_FBSDP_NO           BIT(14)
#define ARCH_CAP_PSDP_NO            BIT(15)
#define ARCH_CAP_BHI_NO             BIT(20)
#define ARCH_CAP_PBRSB_NO           BIT(24)
#define ARCH_CAP_GDS_NO             BIT(26)
#define ARCH_CAP_RFDS_NO            BIT(27)
#define ARCH_CAP_ITS_NO             BIT(62)
#define ARCH_CAP_NOT_AFFECTED                                                            \
	(ARCH_CAP_RDCL_NO | ARCH_CAP_SKIP_L1DFL_VMENTRY | ARCH_CAP_SSB_NO |              \
	 ARCH_CAP_MDS_NO | ARCH_CAP_PSCHANGE_MC_NO | ARCH_CAP_TAA_NO |                   \
	 ARCH_CAP_SBDR_SSDP_NO | ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO |                  \
	 ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO | ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO |      \
	 ARCH_CAP_ITS_NO)

/* What is being put together. */
struct build {
	struct cpuid_table *t;
	const struct cpuid_request *req;
	const struct host_cpu *host;
	struct error *err;
	u32 asked[FEATURE_WORDS]; /* by +feature: dropping one is an error */
	u32 host_has[FEATURE_WORDS];
	u32 level, xlevel;
	char brand[49];
};

static bool has(const u32 set[FEATURE_WORDS], unsigned f)
{
	return set[f / 32] >> (f % 32) & 1;
}

static void set(u32 words[FEATURE_WORDS], unsigned f, bool on)
{
	u32 bit = 1u << (f % 32);

	words[f / 32] = on ? words[f / 32] | bit : words[f / 32] & ~bit;
}

/* ---- features ---- */

/* The host's features, without those whose state the host cannot save in our layout. */
static void host_features(struct build *b)
{
	const struct host_cpu *host = b->host;
	bool compacts = has(host->features, FEAT_XSAVEC);
	u64 usable = 0;

	memcpy(b->host_has, host->features, sizeof(b->host_has));
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (host->xcr0 >> i & 1 && host->xsize[i] == xcomp_layout[i].size &&
		    (compacts || host->xoffset[i] == xcomp_layout[i].offset))
			usable |= BIT(i);
	if (!(usable & XCR0_AVX))
		set(b->host_has, FEAT_AVX, false);
	if ((usable & XCR0_AVX512) != XCR0_AVX512)
		set(b->host_has, FEAT_AVX512F, false);
}

/* May the table have it? On the way of a model the answer no is not an error. */
static bool offered(const struct build *b, unsigned f)
{
	bool amd = b->t->vendor == VENDOR_AMD;

	switch (cpu_feature_policy(f)) {
	case FEATURE_HOST: return has(b->host_has, f);
	case FEATURE_HOST_A: return amd && has(b->host_has, f);
	case FEATURE_OURS:
	case FEATURE_ASK: return true;
	case FEATURE_OURS_I: return !amd;
	case FEATURE_OURS_A: return amd;
	case FEATURE_AUTO:
	case FEATURE_NEVER: break;
	}
	return false;
}

static void model_features(struct build *b, const char *list)
{
	while (*list) {
		size_t n = strcspn(list, " ");
		int f = cpu_feature_find(list, n);

		if (f >= 0 && offered(b, f))
			set(b->t->features, f, true);
		list += n;
		list += strspn(list, " ");
	}
}

static void all_features(struct build *b)
{
	for (unsigned f = 0; f < FEATURE_WORDS * 32; f++)
		if (offered(b, f) && cpu_feature_policy(f) != FEATURE_ASK)
			set(b->t->features, f, true);
}

static int feature_name_len(unsigned f)
{
	return (int)strcspn(cpu_feature_names(f), "|");
}

static int ask_feature(struct build *b, const char *name, size_t len, bool on)
{
	int f = cpu_feature_find(name, len);
	const char *why;

	if (f < 0)
		return error_set(b->err, -EINVAL, "-cpu: no feature is called '%.*s'",
				 (int)len, name);
	if (!on) {
		set(b->t->features, f, false);
		set(b->asked, f, false);
		return 0;
	}
	if (!offered(b, f)) {
		switch (cpu_feature_policy(f)) {
		case FEATURE_HOST:
		case FEATURE_HOST_A: why = "the host's CPU does not have it"; break;
		case FEATURE_OURS_I: why = "only Intel CPUs have it"; break;
		case FEATURE_OURS_A: why = "only AMD CPUs have it"; break;
		case FEATURE_AUTO: why = "it follows from other settings"; break;
		default: why = "Umbra does not offer it"; break;
		}
		if (cpu_feature_policy(f) == FEATURE_HOST_A && b->t->vendor != VENDOR_AMD)
			why = "only AMD CPUs have it";
		return error_set(b->err, -EINVAL, "-cpu: feature '%.*s': %s", (int)len,
				 name, why);
	}
	set(b->t->features, f, true);
	set(b->asked, f, true);
	return 0;
}

/* Drop what lacks a prerequisite; refuse when the user asked for it. */
static int make_consistent(struct build *b)
{
	int f, need;

	while ((f = cpu_feature_inconsistent(b->t->features, &need)) >= 0) {
		if (has(b->asked, f))
			return error_set(b->err, -EINVAL,
					 "-cpu: feature '%.*s' needs '%.*s', which is %s",
					 feature_name_len(f), cpu_feature_names(f),
					 feature_name_len(need), cpu_feature_names(need),
					 has(b->host_has, need) || offered(b, need)
						 ? "off"
						 : "not offered");
		set(b->t->features, f, false);
	}
	return 0;
}

/* ---- the -cpu text ---- */

static bool starts(const char *s, size_t len, const char *key)
{
	size_t n = strlen(key);

	return len >= n && !strncmp(s, key, n);
}

static int parse_number(struct build *b, const char *s, size_t len, unsigned max,
			unsigned *n)
{
	const char *value = memchr(s, '=', len);
	char text[16], *end;
	size_t value_len = len - (size_t)(value + 1 - s);
	unsigned long u;

	memset(text, 0, sizeof(text));
	memcpy(text, value + 1, MIN(value_len, sizeof(text) - 1));
	errno = 0;
	u = strtoul(text, &end, 0);
	if (!text[0] || *end || errno || u > max || text[0] == '-')
		return error_set(b->err, -EINVAL,
				 "-cpu: '%.*s': a number up to %u is needed", (int)len, s,
				 max);
	*n = (unsigned)u;
	return 0;
}

static int parse_vendor(struct build *b, const char *s, size_t len)
{
	const char *name = s + strlen("vendor=");
	size_t n = len - strlen("vendor=");

	if (n == 12 && !strncmp(name, "GenuineIntel", n))
		b->t->vendor = VENDOR_INTEL;
	else if (n == 12 && !strncmp(name, "AuthenticAMD", n))
		b->t->vendor = VENDOR_AMD;
	else
		return error_set(b->err, -EINVAL,
				 "-cpu: vendor '%.*s': GenuineIntel or AuthenticAMD",
				 (int)n, name);
	return 0;
}

static bool is_word(const char *s, size_t len, const char *word)
{
	return len == strlen(word) && !strncmp(s, word, len);
}

/* "=on", "=off" or nothing, which is on. 1, 0, or -EINVAL with a message. */
static int parse_switch(struct build *b, const char *s, size_t len, size_t name_len)
{
	const char *val = s + name_len;
	size_t n = len - name_len;

	if (!n || is_word(val, n, "=on") || is_word(val, n, "=yes") ||
	    is_word(val, n, "=true"))
		return 1;
	if (is_word(val, n, "=off") || is_word(val, n, "=no") ||
	    is_word(val, n, "=false"))
		return 0;
	return error_set(b->err, -EINVAL, "-cpu: '%.*s': on or off is needed", (int)len,
			 s);
}

/*
 * Properties of QEMU about how it gets at features, which nothing here depends on.
 * Features that cannot be had are always refused ("enforce").
 */
static bool is_ignored(const char *s, size_t name_len)
{
	static const char *const names[] = {
		"check", "enforce",   "migratable",          "l3-cache",
		"pmu",   "tcg-cpuid", "x-migrate-smi-count", "full-cpuid-auto-level"
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (is_word(s, name_len, names[i]))
			return true;
	return false;
}

/* Properties that are on or off, without being features. 1: done, 0: not one, -errno. */
static int parse_switches(struct build *b, const char *s, size_t len, size_t name_len)
{
	int on;

	if (!is_word(s, name_len, "host-phys-bits") && !is_ignored(s, name_len))
		return 0;
	on = parse_switch(b, s, len, name_len);
	if (on < 0)
		return on;
	if (is_word(s, name_len, "pmu") && on)
		return error_set(b->err, -EINVAL,
				 "-cpu: pmu: Umbra has no performance counters");
	if (is_word(s, name_len, "host-phys-bits") && on)
		b->t->phys_bits = MAX(b->host->phys_bits, 32);
	return 1;
}

/* Properties that are not features. 1: done, 0: not one, or -errno. */
static int parse_property(struct build *b, const char *s, size_t len)
{
	struct cpuid_table *t = b->t;
	unsigned n = 0;
	int ret;

	if (starts(s, len, "vendor=")) /* before the features: see parse_vendors() */
		return 1;
	if (starts(s, len, "family=")) {
		ret = parse_number(b, s, len, 255 + 15, &n);
		t->family = (u16)n;
	} else if (starts(s, len, "model=")) {
		ret = parse_number(b, s, len, 255, &n);
		t->model = (u16)n;
	} else if (starts(s, len, "stepping=")) {
		ret = parse_number(b, s, len, 15, &n);
		t->stepping = (u8)n;
	} else if (starts(s, len, "phys-bits=")) {
		ret = parse_number(b, s, len, 52, &n);
		if (!ret && n < 32)
			ret = error_set(b->err, -EINVAL,
					"-cpu: phys-bits: from 32 to 52");
		t->phys_bits = (u8)n;
	} else if (starts(s, len, "level=") || starts(s, len, "min-level=")) {
		ret = parse_number(b, s, len, 0x20, &n);
		b->level = *s == 'l' ? n : MAX(n, b->level);
	} else if (starts(s, len, "xlevel=") || starts(s, len, "min-xlevel=")) {
		ret = parse_number(b, s, len, 0x80000021, &n);
		if (!ret && n && n < 0x80000000)
			ret = error_set(b->err, -EINVAL,
					"-cpu: xlevel: 0, or from 0x80000000 on");
		b->xlevel = *s == 'x' ? n : MAX(n, b->xlevel);
	} else if (starts(s, len, "model-id=")) {
		memset(b->brand, 0, sizeof(b->brand));
		memcpy(b->brand, s + 9, MIN(len - 9, sizeof(b->brand) - 1));
		ret = 0;
	} else {
		return 0;
	}
	return ret ? ret : 1;
}

static int parse_item(struct build *b, const char *s, size_t len)
{
	const char *eq = memchr(s, '=', len);
	size_t name_len = eq ? (size_t)(eq - s) : len;
	int ret, on;

	if (!len)
		return error_set(b->err, -EINVAL, "-cpu: an empty item between commas");
	if (*s == '+' || *s == '-')
		return ask_feature(b, s + 1, len - 1, *s == '+');
	ret = parse_switches(b, s, len, name_len);
	if (!ret && eq)
		ret = parse_property(b, s, len);
	if (ret)
		return MIN(ret, 0);
	on = parse_switch(b, s, len, name_len);
	return on < 0 ? on : ask_feature(b, s, name_len, on);
}

/* Each item behind the model's name. */
static int for_items(struct build *b, const char *s,
		     int (*item)(struct build *b, const char *s, size_t len))
{
	while (*s == ',') {
		size_t n = strcspn(++s, ",");
		int ret = item(b, s, n);

		if (ret)
			return ret;
		s += n;
	}
	return 0;
}

static int item_vendor(struct build *b, const char *s, size_t len)
{
	return starts(s, len, "vendor=") ? parse_vendor(b, s, len) : 0;
}

/* What belongs to the machine and not to the processor that a model is like. */
static const u16 every_model[] = { FEAT_HYPERVISOR,       FEAT_KVM,
				   FEAT_KVMCLOCK,         FEAT_KVMCLOCK_STABLE,
				   FEAT_KVM_NOP_IO_DELAY, FEAT_KVM_STEAL_TIME };

static int parse_cpu(struct build *b)
{
	const char *text = b->req->cpu ? b->req->cpu : "max";
	size_t n = strcspn(text, ",");
	bool host = n == 4 && !strncmp(text, "host", 4);
	bool max = host || (n == 3 && !strncmp(text, "max", 3));
	const struct cpu_model *m;
	struct cpuid_table *t = b->t;
	int ret;

	m = max ? cpu_model_max(b->host->amd ? VENDOR_AMD : VENDOR_INTEL)
		: cpu_model_find(text, n);
	if (!m)
		return error_set(b->err, -EINVAL,
				 "-cpu: no model is called '%.*s'; -cpu help lists them",
				 (int)MIN(n, 100u), text);
	t->vendor = m->vendor;
	ret = for_items(b, text + n, item_vendor);
	if (ret)
		return ret;
	if (max && t->vendor != m->vendor)
		m = cpu_model_max(t->vendor);

	t->family = host ? b->host->family : m->family;
	t->model = host ? b->host->model : m->model;
	t->stepping = host ? b->host->stepping : m->stepping;
	t->phys_bits = m->phys_bits;
	b->level = m->level;
	b->xlevel = m->xlevel;
	memcpy(b->brand, m->brand, MIN(strlen(m->brand), sizeof(b->brand) - 1));
	if (host && b->host->brand[0])
		memcpy(b->brand, b->host->brand, sizeof(b->brand));
	memcpy(t->model_name, text, MIN(n, sizeof(t->model_name) - 1));

	if (max)
		all_features(b);
	else
		model_features(b, m->features);
	for (size_t i = 0; i < ARRAY_SIZE(every_model); i++)
		set(t->features, every_model[i], true);
	ret = for_items(b, text + n, parse_item);
	if (!ret)
		ret = make_consistent(b);
	set(t->features, FEAT_KVMCLOCK_OLD, has(t->features, FEAT_KVMCLOCK));
	return ret;
}

/* ---- topology ---- */

static unsigned log2_up(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

static int topology(struct build *b)
{
	const struct cpuid_request *r = b->req;
	struct cpuid_table *t = b->t;
	unsigned sockets = r->sockets, threads = r->threads ? r->threads : 1;
	unsigned cores = r->cores;

	if (!r->cpus || r->cpus > 255)
		return error_set(b->err, -EINVAL, "-smp: from 1 to 255 CPUs");
	if (sockets > 255 || cores > 255 || threads > 255)
		return error_set(b->err, -EINVAL,
				 "-smp: too many sockets, cores or threads");
	if (!cores)
		cores = r->cpus / (sockets ? sockets : 1) / threads;
	if (!sockets)
		sockets = cores ? r->cpus / cores / threads : 0;
	if (sockets * cores * threads != r->cpus)
		return error_set(
			b->err, -EINVAL,
			"-smp: %u sockets of %u cores of %u threads are not %u CPUs",
			sockets, cores, threads, r->cpus);
	t->cpus = (u16)r->cpus;
	t->sockets = (u16)sockets;
	t->cores = (u16)cores;
	t->threads = (u16)threads;
	t->thread_shift = (u8)log2_up(threads);
	t->package_shift = (u8)(t->thread_shift + log2_up(cores));
	if (t->package_shift + log2_up(sockets) > APICID_BITS_MAX ||
	    cpuid_apic_id(t, r->cpus - 1) >= 255)
		return error_set(b->err, -EINVAL,
				 "-smp: APIC IDs of this topology do not fit in 8 bits");
	set(t->features, FEAT_HTT, cores * threads > 1);
	set(t->features, FEAT_CMP_LEGACY, t->vendor == VENDOR_AMD && cores * threads > 1);
	return 0;
}

/* ---- leaves ---- */

static void put(struct build *b, u32 leaf, u32 subleaf, u32 a, u32 bx, u32 c, u32 d)
{
	struct cpuid_table *t = b->t;

	if (t->count < CPUID_MAX_LEAVES)
		t->leaf[t->count++] =
			(struct cpuid_leaf){ leaf, subleaf, { a, bx, c, d } };
}

/* EBX, EDX, ECX of a vendor's name, or any 4 bytes of a text. */
static u32 text4(const char *s)
{
	u32 v;

	memcpy(&v, s, sizeof(v));
	return v;
}

static u32 signature(const struct cpuid_table *t)
{
	u32 family = MIN(t->family, 15), extended = t->family - family;

	return extended << 20 | (t->model >> 4u) << 16 | family << 8 |
	       (t->model & 0xfu) << 4 | t->stepping;
}

/* EAX to EDX of leaf 4 and 8000001DH. 'sharing': bits of the APIC ID below those that
 * share it. */
static void put_cache(struct build *b, u32 leaf, u32 subleaf, unsigned type,
		      unsigned level, unsigned ways, unsigned sets, unsigned sharing)
{
	const struct cpuid_table *t = b->t;
	u32 eax = type | level << 5 | 1u << 8 | ((1u << sharing) - 1) << 14;

	if (leaf == 4) /* APIC IDs for cores in the package; reserved on AMD */
		eax |= MIN((1u << (t->package_shift - t->thread_shift)) - 1, 63u) << 26;
	put(b, leaf, subleaf, eax, (ways - 1) << 22 | (64 - 1), sets - 1, 0);
}

/* 32 KiB each of code and data, 2 MiB a core, 16 MiB a package; lines of 64 bytes. */
static void put_caches(struct build *b, u32 leaf)
{
	unsigned core = b->t->thread_shift, package = b->t->package_shift;

	put_cache(b, leaf, 0, 1, 1, 8, 64, core);
	put_cache(b, leaf, 1, 2, 1, 8, 64, core);
	put_cache(b, leaf, 2, 3, 2, 16, 2048, core);
	put_cache(b, leaf, 3, 3, 3, 16, 16384, package);
}

static void put_topology(struct build *b, u32 leaf)
{
	const struct cpuid_table *t = b->t;

	put(b, leaf, 0, t->thread_shift, t->threads, 1u << 8, 0);
	put(b, leaf, 1, t->package_shift, t->threads * t->cores, 2u << 8, 0);
}

static void put_xsave(struct build *b)
{
	const struct cpuid_table *t = b->t;

	/* EBX of subleaves 0 and 1 follow XCR0: cpuid.c. */
	put(b, 0xd, 0, (u32)t->xcr0, 0, xsave_standard_size(t->vendor, t->xcr0, t->xcr0),
	    (u32)(t->xcr0 >> 32));
	put(b, 0xd, 1, t->features[W_D_1_EAX], 0, (u32)t->xss, (u32)(t->xss >> 32));
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (t->xcr0 >> i & 1)
			put(b, 0xd, i, xcomp_layout[i].size,
			    xsave_standard_offset(t->vendor, t->xcr0, i),
			    xcomp_layout[i].align64 ? 2 : 0, 0);
}

static u64 gcd(u64 a, u64 b)
{
	while (b) {
		u64 r = a % b;

		a = b;
		b = r;
	}
	return a;
}

/* TSC and crystal (SDM 3 section 18.7.3), nominal frequencies. */
static void put_frequencies(struct build *b)
{
	const struct cpuid_table *t = b->t;
	u64 crystal_khz = t->crystal_hz / 1000;
	u64 g = gcd(crystal_khz, t->tsc_khz);

	if (!g)
		return;
	/* Linux multiplies crystal kHz by the numerator in 32 bits. */
	if (b->level >= 0x15 && t->tsc_khz / g * crystal_khz <= UINT32_MAX)
		put(b, 0x15, 0, (u32)(crystal_khz / g), (u32)(t->tsc_khz / g),
		    t->crystal_hz, 0);
	if (b->level >= 0x16) {
		u32 mhz = (u32)(t->tsc_khz / 1000) & 0xffff;

		put(b, 0x16, 0, mhz, mhz, 100, 0);
	}
}

static void put_basic(struct build *b)
{
	const struct cpuid_table *t = b->t;
	bool amd = t->vendor == VENDOR_AMD;
	const char *name = amd ? "AuthenticAMD" : "GenuineIntel";
	const u32 *f = t->features;
	u32 logical = MIN(1u << t->package_shift, 255u);

	put(b, 0, 0, b->level, text4(name), text4(name + 8), text4(name + 4));
	put(b, 1, 0, signature(t),
	    (has(f, FEAT_CLFSH) ? 8u << 8 : 0) | (has(f, FEAT_HTT) ? logical << 16 : 0),
	    f[W_1_ECX], f[W_1_EDX]);
	if (!amd && b->level >= 4) {
		/* FFH: caches are in leaf 4. F0H: 64-byte prefetch. No TLB descriptors.
		 */
		put(b, 2, 0, 0x00000001, 0x000000f0, 0, 0x000000ff);
		put_caches(b, 4);
	} else if (!amd && b->level >= 2) {
		/* 32 KiB L1 code and data, 2 MiB L2. */
		put(b, 2, 0, 0x00000001, 0, 0, 0x002c307d);
	}
	if (has(f, FEAT_MONITOR) && b->level >= 5)
		put(b, 5, 0, 64, 64, 3, 0);
	if (b->level >= 6)
		put(b, 6, 0, f[W_6_EAX], 0, 0, 0);
	if (b->level >= 7) {
		u32 top = f[W_7_2_EDX] ? 2 : f[W_7_1_EAX] || f[W_7_1_EDX] ? 1 : 0;

		put(b, 7, 0, top, f[W_7_EBX], f[W_7_ECX], f[W_7_EDX]);
		if (top >= 1)
			put(b, 7, 1, f[W_7_1_EAX], 0, 0, f[W_7_1_EDX]);
		if (top >= 2)
			put(b, 7, 2, 0, 0, 0, f[W_7_2_EDX]);
	}
	/* Leaf 0BH means that the APIC has its ID there: with x2APIC only. */
	if (b->level >= 0xb && has(f, FEAT_X2APIC))
		put_topology(b, 0xb);
	if (b->level >= 0xd && t->xcr0)
		put_xsave(b);
	if (!amd)
		put_frequencies(b);
	if (b->level >= 0x1f && has(f, FEAT_X2APIC))
		put_topology(b, 0x1f);
}

/*
 * Guests look for the name of one hypervisor that they know; for ours none does. So it is
 * there only as long as nothing else is.
 */
static void put_hypervisor(struct build *b)
{
	struct cpuid_table *t = b->t;
	bool kvm = has(t->features, FEAT_KVM);
	const char *s = kvm ? KVM_SIGNATURE : OUR_SIGNATURE;

	if (!has(t->features, FEAT_HYPERVISOR))
		return;
	t->max_hypervisor = 0x40000010;
	put(b, 0x40000000, 0, t->max_hypervisor, text4(s), text4(s + 4), text4(s + 8));
	if (kvm)
		put(b, 0x40000001, 0, t->features[W_KVM_EAX], 0, 0, 0);
	/* TSC and local APIC timer in kHz, as VMware, and QEMU with KVM, have it. */
	put(b, 0x40000010, 0, (u32)t->tsc_khz, t->crystal_hz / 1000, 0, 0);
}

static void put_amd_extended(struct build *b)
{
	const struct cpuid_table *t = b->t;

	if (b->xlevel >= 0x8000001d && has(t->features, FEAT_TOPOEXT))
		put_caches(b, 0x8000001d);
	/* EAX, the core in EBX and the node in ECX are the CPU's own: cpuid.c. */
	if (b->xlevel >= 0x8000001e && has(t->features, FEAT_TOPOEXT))
		put(b, 0x8000001e, 0, 0, (t->threads - 1u) << 8, 0, 0);
	if (b->xlevel >= 0x80000021)
		put(b, 0x80000021, 0, t->features[W_821_EAX], 0, t->features[W_821_ECX],
		    0);
}

static void put_extended(struct build *b)
{
	const struct cpuid_table *t = b->t;
	bool amd = t->vendor == VENDOR_AMD;
	const char *name = amd ? "AuthenticAMD" : "GenuineIntel";
	const u32 *f = t->features;
	u32 edx = f[W_81_EDX];

	if (b->xlevel < 0x80000001)
		return;
	if (amd) {
		put(b, 0x80000000, 0, b->xlevel, text4(name), text4(name + 8),
		    text4(name + 4));
		edx |= f[W_1_EDX] & 0x0183f3ff; /* repeated from leaf 1 */
	} else {
		put(b, 0x80000000, 0, b->xlevel, 0, 0, 0);
	}
	put(b, 0x80000001, 0, amd ? signature(t) : 0, 0, f[W_81_ECX], edx);
	for (u32 i = 0; i < 3 && b->xlevel >= 0x80000004; i++)
		put(b, 0x80000002 + i, 0, text4(b->brand + 16 * i),
		    text4(b->brand + 16 * i + 4), text4(b->brand + 16 * i + 8),
		    text4(b->brand + 16 * i + 12));
	if (amd &&
	    b->xlevel >= 0x80000005) /* TLBs; 32 KiB, 8 ways, 64 bytes a line, twice */
		put(b, 0x80000005, 0, 0xff48ff40, 0xff48ff40, 0x20080140, 0x20080140);
	if (b->xlevel >= 0x80000006) /* L2 of 2 MiB, 16 ways; L3 of 16 MiB, 16 ways */
		put(b, 0x80000006, 0, amd ? 0x48002200 : 0, amd ? 0x68004200 : 0,
		    2048u << 16 | 8u << 12 | (amd ? 1u << 8 : 0) | 64,
		    amd ? 32u << 18 | 8u << 12 | 1u << 8 | 64 : 0);
	if (b->xlevel >= 0x80000007)
		put(b, 0x80000007, 0, 0, 0, 0, f[W_87_EDX]);
	if (b->xlevel >= 0x80000008) {
		u32 nc = amd ? t->package_shift << 12 | (t->cores * t->threads - 1u) : 0;

		put(b, 0x80000008, 0, t->phys_bits | (u32)t->linear_bits << 8,
		    f[W_88_EBX], nc, 0);
	}
	if (amd)
		put_amd_extended(b);
}

/* Features the user added may need a higher leaf than the model had. */
static void adjust_levels(struct build *b)
{
	const u32 *f = b->t->features;
	u32 l = b->level, x = b->xlevel;

	if (f[W_6_EAX])
		l = MAX(l, 6u);
	if (f[W_7_EBX] || f[W_7_ECX] || f[W_7_EDX] || f[W_7_1_EAX] || f[W_7_2_EDX])
		l = MAX(l, 7u);
	if (has(f, FEAT_X2APIC) && b->t->package_shift)
		l = MAX(l, 0xbu);
	if (has(f, FEAT_XSAVE))
		l = MAX(l, 0xdu);
	if (f[W_81_EDX] || f[W_81_ECX])
		x = MAX(x, 0x80000004u);
	if (f[W_87_EDX])
		x = MAX(x, 0x80000007u);
	if (f[W_88_EBX] || has(f, FEAT_LM))
		x = MAX(x, 0x80000008u);
	if (has(f, FEAT_TOPOEXT))
		x = MAX(x, 0x8000001eu);
	if (f[W_821_EAX] || f[W_821_ECX])
		x = MAX(x, 0x80000021u);
	b->level = l;
	b->xlevel = x;
}

static void derive(struct build *b)
{
	struct cpuid_table *t = b->t;
	const u32 *f = t->features;

	t->linear_bits = has(f, FEAT_LA57) ? 57 : has(f, FEAT_LM) ? 48 : 32;
	if (!has(f, FEAT_LM))
		t->phys_bits = MIN(t->phys_bits,
				   has(f, FEAT_PAE) || has(f, FEAT_PSE36) ? 36 : 32);
	if (has(f, FEAT_XSAVE))
		t->xcr0 = XCR0_X87 | XCR0_SSE | (has(f, FEAT_AVX) ? XCR0_AVX : 0) |
			  (has(f, FEAT_AVX512F) ? XCR0_AVX512 : 0) |
			  (has(f, FEAT_PKU) ? XCR0_PKRU : 0);
	if (has(f, FEAT_ARCH_CAPABILITIES))
		t->arch_capabilities = ARCH_CAP_NOT_AFFECTED |
				       (has(f, FEAT_SPEC_CTRL) ? ARCH_CAP_IBRS_ALL : 0);
	t->ucode_rev = t->vendor == VENDOR_AMD ? 0x01000065 : BIT(32);
	t->tsc_khz = b->req->tsc_khz;
	t->crystal_hz = b->req->crystal_hz ? b->req->crystal_hz : DEFAULT_CRYSTAL_HZ;
	adjust_levels(b);
	t->max_basic = b->level;
	t->max_extended = b->xlevel;
}

int cpuid_build(struct cpuid_table *t, const struct cpuid_request *req,
		const struct host_cpu *host, u32 features[FEATURE_WORDS],
		struct error *err)
{
	struct build b = { .t = t, .req = req, .host = host, .err = err };
	int ret;

	memset(t, 0, sizeof(*t));
	host_features(&b);
	ret = parse_cpu(&b);
	if (!ret)
		ret = topology(&b);
	if (ret)
		return ret;
	derive(&b);
	put_basic(&b);
	put_hypervisor(&b);
	put_extended(&b);
	if (features)
		memcpy(features, t->features, sizeof(t->features));
	return 0;
}
