/*
 * The CPU models one can ask for with -cpu, as one readable table.
 *
 * Family, model, stepping and features follow QEMU's models of the same names, so that a
 * guest may move from one to the other. Features that cannot be offered (TSX, MPX, SVM
 * ...) are left out of a model without a word; see features.def. No state; any thread.
 * Runs at set-up, so it may use vector registers.
 */
#include "x86/cpuid_models.h"

#include <string.h>
#include <strings.h>

#include "base/bits.h"

/* clang-format off */
#define F_486 "fpu vme pse "
#define F_PENTIUM F_486 "de tsc msr mce cx8 mmx "
#define F_PPRO F_486 "de tsc msr mce cx8 pge cmov pat fxsr mmx sse sse2 pae sep apic "
#define F_LEGACY64 F_PPRO "mtrr clflush mca pse36 "

#define F_CORE2 F_LEGACY64 "pni ssse3 cx16 syscall nx lm lahf_lm "
#define F_NEHALEM F_CORE2 "sse4_1 sse4_2 popcnt "
#define F_WESTMERE F_NEHALEM "aes pclmulqdq arat "
#define F_SANDY F_WESTMERE "x2apic tsc_deadline_timer xsave avx xsaveopt rdtscp "
#define F_IVY F_SANDY "f16c rdrand fsgsbase smep erms "
#define F_HASWELL F_IVY "fma pcid movbe bmi1 avx2 bmi2 invpcid abm "
#define F_BROADWELL F_HASWELL "rdseed adx smap 3dnowprefetch "
#define F_SKL_CLIENT F_BROADWELL "xsavec xgetbv1 xsaves "
#define F_SKL_SERVER F_SKL_CLIENT "clflushopt clwb pdpe1gb pku " \
	"avx512f avx512dq avx512bw avx512cd avx512vl "
#define F_CASCADE F_SKL_SERVER "avx512_vnni spec_ctrl ssbd arch_capabilities "
#define F_ICELAKE F_CASCADE "umip rdpid la57 sha_ni wbnoinvd fsrm " \
	"avx512ifma avx512vbmi avx512_vbmi2 gfni vaes vpclmulqdq avx512_bitalg " \
	"avx512_vpopcntdq "
#define F_SAPPHIRE F_ICELAKE "tsc_adjust avx512_bf16 avx512_fp16 avx_vnni serialize " \
	"fzrm fsrs fsrc zero_fcs_fds cldemote movdiri movdir64b "

#define F_OPTERON1 F_LEGACY64 "pni syscall nx lm "
#define F_OPTERON2 F_OPTERON1 "cx16 lahf_lm "
#define F_OPTERON3 F_OPTERON2 "popcnt abm sse4a misalignsse rdtscp "
#define F_OPTERON4 F_OPTERON3 "pclmulqdq ssse3 sse4_1 sse4_2 aes xsave avx pdpe1gb " \
	"3dnowprefetch "
#define F_EPYC F_OPTERON2 "popcnt abm sse4a misalignsse rdtscp pclmulqdq ssse3 fma sse4_1 " \
	"sse4_2 movbe aes xsave avx f16c rdrand mmxext fxsr_opt pdpe1gb cr8_legacy " \
	"3dnowprefetch osvw topoext fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap clflushopt " \
	"sha_ni xsaveopt xsavec xgetbv1 arat "
#define F_ROME F_EPYC "xsaves clwb umip rdpid wbnoinvd xsaveerptr ibpb amd-stibp "
#define F_MILAN F_ROME "pcid invpcid erms fsrm pku vaes vpclmulqdq amd-ibrs amd-ssbd "
#define F_GENOA F_MILAN "avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi " \
	"avx512_vbmi2 gfni avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_bf16 la57 " \
	"no-nested-data-bp lfence-always-serializing null-sel-clr-base autoibrs "

static const struct cpu_model models[] = {
	/* name, alias, vendor, family, model, stepping, phys_bits, level, xlevel, brand, features */
	{ "486", NULL, VENDOR_INTEL, 4, 8, 0, 32, 1, 0, "", F_486 },
	{ "pentium", NULL, VENDOR_INTEL, 5, 4, 3, 32, 1, 0, "", F_PENTIUM },
	{ "pentium2", NULL, VENDOR_INTEL, 6, 5, 2, 36, 2, 0, "",
	  F_PENTIUM "pae sep mtrr pge mca cmov pat pse36 fxsr " },
	{ "pentium3", NULL, VENDOR_INTEL, 6, 7, 3, 36, 3, 0, "",
	  F_PENTIUM "pae sep mtrr pge mca cmov pat pse36 fxsr sse apic " },
	{ "qemu32", NULL, VENDOR_INTEL, 6, 6, 3, 36, 4, 0x80000004, "Umbra Virtual CPU",
	  F_PPRO "pni " },
	{ "kvm32", NULL, VENDOR_INTEL, 15, 6, 1, 36, 5, 0x80000008, "Umbra Virtual CPU",
	  F_PPRO "mtrr clflush mca pse36 pni " },
	{ "kvm64", NULL, VENDOR_INTEL, 15, 6, 1, 40, 0xd, 0x80000008, "Umbra Virtual CPU",
	  F_LEGACY64 "pni cx16 syscall nx lm " },
	{ "athlon", NULL, VENDOR_AMD, 6, 2, 3, 36, 2, 0x80000008, "Umbra Virtual CPU",
	  F_PPRO "mtrr mca pse36 mmxext " },
	{ "coreduo", NULL, VENDOR_INTEL, 6, 14, 8, 36, 10, 0x80000008,
	  "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
	  F_PPRO "mtrr clflush mca ss pni nx " },
	{ "n270", NULL, VENDOR_INTEL, 6, 28, 2, 36, 10, 0x80000008,
	  "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
	  F_PPRO "mtrr clflush mca ss pni ssse3 movbe nx " },
	{ "qemu64", NULL, VENDOR_AMD, 15, 107, 1, 40, 0xd, 0x8000000a, "Umbra Virtual CPU",
	  F_LEGACY64 "pni cx16 syscall nx lm lahf_lm svm " },
	{ "core2duo", "Core2", VENDOR_INTEL, 6, 15, 11, 40, 10, 0x80000008,
	  "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", F_CORE2 "vme ss " },
	{ "Conroe", NULL, VENDOR_INTEL, 6, 15, 3, 40, 10, 0x80000008,
	  "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", F_CORE2 },
	{ "Penryn", NULL, VENDOR_INTEL, 6, 23, 3, 40, 10, 0x80000008,
	  "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", F_CORE2 "sse4_1 " },
	{ "Nehalem", NULL, VENDOR_INTEL, 6, 26, 3, 40, 11, 0x80000008,
	  "Intel Core i7 9xx (Nehalem Class Core i7)", F_NEHALEM },
	{ "Westmere", NULL, VENDOR_INTEL, 6, 44, 1, 40, 11, 0x80000008,
	  "Westmere E56xx/L56xx/X56xx (Nehalem-C)", F_WESTMERE },
	{ "SandyBridge", NULL, VENDOR_INTEL, 6, 42, 1, 40, 0xd, 0x80000008,
	  "Intel Xeon E312xx (Sandy Bridge)", F_SANDY },
	{ "IvyBridge", NULL, VENDOR_INTEL, 6, 58, 9, 40, 0xd, 0x80000008,
	  "Intel Xeon E3-12xx v2 (Ivy Bridge)", F_IVY },
	{ "Haswell", NULL, VENDOR_INTEL, 6, 60, 4, 40, 0xd, 0x80000008,
	  "Intel Core Processor (Haswell)", F_HASWELL },
	{ "Broadwell", NULL, VENDOR_INTEL, 6, 61, 2, 40, 0xd, 0x80000008,
	  "Intel Core Processor (Broadwell)", F_BROADWELL },
	{ "Skylake-Client", NULL, VENDOR_INTEL, 6, 94, 3, 40, 0xd, 0x80000008,
	  "Intel Core Processor (Skylake)", F_SKL_CLIENT },
	{ "Skylake-Server", NULL, VENDOR_INTEL, 6, 85, 4, 46, 0xd, 0x80000008,
	  "Intel Xeon Processor (Skylake)", F_SKL_SERVER },
	{ "Cascadelake-Server", NULL, VENDOR_INTEL, 6, 85, 6, 46, 0xd, 0x80000008,
	  "Intel Xeon Processor (Cascadelake)", F_CASCADE },
	{ "Cooperlake", NULL, VENDOR_INTEL, 6, 85, 10, 46, 0xd, 0x80000008,
	  "Intel Xeon Processor (Cooperlake)", F_CASCADE "avx512_bf16 " },
	{ "Icelake-Server", NULL, VENDOR_INTEL, 6, 106, 6, 46, 0xd, 0x80000008,
	  "Intel Xeon Processor (Icelake)", F_ICELAKE },
	{ "SapphireRapids", NULL, VENDOR_INTEL, 6, 143, 4, 46, 0x20, 0x80000008,
	  "Intel Xeon Processor (SapphireRapids)", F_SAPPHIRE },
	{ "Opteron_G1", NULL, VENDOR_AMD, 15, 6, 1, 40, 5, 0x80000008,
	  "AMD Opteron 240 (Gen 1 Class Opteron)", F_OPTERON1 },
	{ "Opteron_G2", NULL, VENDOR_AMD, 15, 6, 1, 40, 5, 0x80000008,
	  "AMD Opteron 22xx (Gen 2 Class Opteron)", F_OPTERON2 },
	{ "Opteron_G3", NULL, VENDOR_AMD, 16, 2, 3, 40, 5, 0x80000008,
	  "AMD Opteron 23xx (Gen 3 Class Opteron)", F_OPTERON3 },
	{ "phenom", NULL, VENDOR_AMD, 16, 2, 3, 40, 5, 0x8000001a,
	  "AMD Phenom(tm) 9550 Quad-Core Processor", F_OPTERON3 "mmxext fxsr_opt pdpe1gb " },
	{ "Opteron_G4", NULL, VENDOR_AMD, 21, 1, 2, 48, 0xd, 0x8000001a,
	  "AMD Opteron 62xx class CPU", F_OPTERON4 },
	{ "Opteron_G5", NULL, VENDOR_AMD, 21, 2, 0, 48, 0xd, 0x8000001a,
	  "AMD Opteron 63xx class CPU", F_OPTERON4 "f16c fma " },
	{ "EPYC", NULL, VENDOR_AMD, 23, 1, 2, 40, 0xd, 0x8000001e, "AMD EPYC Processor",
	  F_EPYC },
	{ "EPYC-Rome", NULL, VENDOR_AMD, 23, 49, 0, 46, 0xd, 0x8000001e,
	  "AMD EPYC-Rome Processor", F_ROME },
	{ "EPYC-Milan", NULL, VENDOR_AMD, 25, 1, 1, 46, 0xd, 0x8000001e,
	  "AMD EPYC-Milan Processor", F_MILAN },
	{ "EPYC-Genoa", NULL, VENDOR_AMD, 25, 17, 0, 46, 0xd, 0x80000021,
	  "AMD EPYC-Genoa Processor", F_GENOA },
};

/*
 * `max` and `host`: every feature there is. The family and model are those of a CPU whose remaining
 * side channels Linux takes on the word of IA32_ARCH_CAPABILITIES, or of
 * the *_NO bits of leaf 80000021H.
 */
static const struct cpu_model max_models[] = {
	[VENDOR_INTEL] = { "max", NULL, VENDOR_INTEL, 6, 143, 8, 46, 0x1f, 0x80000008,
			   "Umbra Virtual CPU", "" },
	[VENDOR_AMD] = { "max", NULL, VENDOR_AMD, 25, 17, 1, 46, 0x10, 0x80000021,
			 "Umbra Virtual CPU", "" },
};
/* clang-format on */

const struct cpu_model *cpu_model_at(unsigned i)
{
	return i < ARRAY_SIZE(models) ? &models[i] : NULL;
}

static bool same(const char *a, const char *name, size_t len)
{
	return a && strlen(a) == len && !strncasecmp(a, name, len);
}

static const struct cpu_model *find_exact(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(models); i++)
		if (same(models[i].name, name, len) || same(models[i].alias, name, len))
			return &models[i];
	return NULL;
}

/*
 * The length without QEMU's marks of a variant: -v2, -IBRS, -noTSX and so on. They say
 * what of TSX and side channels it has, and here they all have the same.
 */
static size_t without_variant(const char *name, size_t len)
{
	static const char *const marks[] = { "-IBRS", "-IBPB", "-noTSX", "-TSX" };
	size_t digits = 0;

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		size_t n = strlen(marks[i]);

		if (len > n && !strncasecmp(name + len - n, marks[i], n))
			return len - n;
	}
	while (digits < len && name[len - digits - 1] >= '0' &&
	       name[len - digits - 1] <= '9')
		digits++;
	if (digits && len > digits + 2 && !strncasecmp(name + len - digits - 2, "-v", 2))
		return len - digits - 2;
	return len;
}

const struct cpu_model *cpu_model_find(const char *name, size_t len)
{
	const struct cpu_model *m;
	size_t shorter;

	while (!(m = find_exact(name, len))) {
		shorter = without_variant(name, len);
		if (shorter == len)
			return NULL;
		len = shorter;
	}
	return m;
}

const struct cpu_model *cpu_model_max(enum cpu_vendor vendor)
{
	return &max_models[vendor];
}

void cpuid_list(FILE *out)
{
	unsigned column = 0;

	fputs("Models (-cpu MODEL[,+feature][,-feature]):\n", out);
	fprintf(out, "  %-20s %s\n", "max",
		"everything that can be offered here (default)");
	fprintf(out, "  %-20s %s\n", "host",
		"max, with the name and number of the host's CPU");
	for (size_t i = 0; i < ARRAY_SIZE(models); i++)
		fprintf(out, "  %-20s %s\n", models[i].name, models[i].brand);
	fputs("\nFeatures:\n", out);
	for (unsigned f = 0; f < FEATURE_WORDS * 32; f++) {
		const char *names = cpu_feature_names(f);
		enum feature_policy policy = cpu_feature_policy(f);
		int n;

		if (!names || policy == FEATURE_NEVER || policy == FEATURE_AUTO)
			continue;
		n = (int)strcspn(names, "|");
		if (column + (unsigned)n + 1 > 78) {
			fputc('\n', out);
			column = 0;
		}
		column += (unsigned)fprintf(out, "%s%.*s", column ? " " : "  ", n, names);
	}
	fputc('\n', out);
}
