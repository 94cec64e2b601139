/*
 * Names, policies and dependencies of CPU features.
 *
 * SDM volume 1 chapter 5 and sections 14.x (what each extension requires), volume 2
 * CPUID; APM volume 3 appendix E. The list itself is features.def. No state; any thread.
 * Runs at set-up, so it may use vector registers.
 */
#include "x86/features.h"

#include <string.h>

#include "base/bits.h"

static const struct feature {
	u16 id;
	u8 policy; /* enum feature_policy */
	const char *names;
} features[] = {
#define F(id_, names_, word, bit, policy_)                                               \
	{ .id = (word)*32 + (bit), .policy = policy_, .names = names_ },
#include "x86/features.def"
#undef F
};

/* clang-format off */
static const struct {
	u16 feature, needs;
} needs[] = {
#define N(f, n) { FEAT_##f, FEAT_##n }
	N(PSE36, PSE), N(APIC, MSR), N(SEP, MSR), N(MTRR, MSR), N(PAT, MSR), N(MCA, MCE),
	N(MCE, MSR), N(MMX, FPU), N(FXSR, FPU), N(SSE, FXSR), N(SSE, MMX), N(SSE2, SSE),
	N(SSE3, SSE2), N(SSSE3, SSE3), N(SSE41, SSSE3), N(SSE42, SSE41), N(SSE4A, SSE3),
	N(AES, SSE2), N(PCLMULQDQ, SSE2), N(SHA, SSE2), N(GFNI, SSE2), N(MMXEXT, MMX),
	N(MMXEXT, SSE), N(FXSR_OPT, FXSR), N(FXSR_OPT, LM),
	N(X2APIC, APIC), N(TSC_DEADLINE, APIC), N(TSC_DEADLINE, TSC), N(ARAT, APIC),
	N(TSC_ADJUST, TSC), N(TSC_ADJUST, MSR), N(RDTSCP, TSC), N(RDTSCP, MSR), N(INVTSC, TSC),
	N(RDPID, MSR),
	N(LM, PAE), N(LM, MSR), N(LM, FXSR), N(LM, SSE2), N(LM, CX8), N(LM, CMOV),
	N(LM, SYSCALL), N(SYSCALL, MSR), N(NX, PAE), N(NX, MSR),
	N(LAHF_LM, LM), N(CX16, LM), N(CX16, CX8), N(PDPE1GB, LM), N(FSGSBASE, LM),
	N(PCID, LM), N(PCID, PGE), N(INVPCID, PCID), N(LA57, LM), N(PKU, LM), N(PKS, LM),
	N(SMEP, PAE), N(SMAP, SMEP),
	N(XSAVE, FXSR), N(XSAVE, SSE2), N(XSAVEOPT, XSAVE), N(XSAVEC, XSAVE),
	N(XGETBV1, XSAVE), N(XSAVES, XSAVEC), N(XSAVES, XGETBV1), N(XSAVES, MSR),
	N(PKU, XSAVE),
	N(AVX, XSAVE), N(AVX, SSE42), N(F16C, AVX), N(FMA, AVX), N(AVX2, AVX),
	N(VAES, AVX), N(VAES, AES), N(VPCLMULQDQ, AVX), N(VPCLMULQDQ, PCLMULQDQ),
	N(AVX_VNNI, AVX2), N(AVX512F, AVX2), N(AVX512F, FMA), N(AVX512F, F16C),
	N(AVX512DQ, AVX512F), N(AVX512IFMA, AVX512F), N(AVX512CD, AVX512F),
	N(AVX512BW, AVX512F), N(AVX512VL, AVX512F), N(AVX512VBMI, AVX512BW),
	N(AVX512_VBMI2, AVX512BW), N(AVX512_VNNI, AVX512F), N(AVX512_BITALG, AVX512BW),
	N(AVX512_VPOPCNTDQ, AVX512F), N(AVX512_VP2INTERSECT, AVX512F),
	N(AVX512_BF16, AVX512BW), N(AVX512_FP16, AVX512BW), N(AVX512_FP16, AVX512VL),
	N(AVX512_FP16, AVX512DQ),
	N(FSRM, ERMS), N(FZRM, ERMS), N(FSRS, ERMS), N(FSRC, ERMS),
	N(SPEC_CTRL, MSR), N(STIBP, MSR), N(SSBD, MSR), N(FLUSH_L1D, MSR),
	N(ARCH_CAPABILITIES, MSR), N(AMD_IBPB, MSR), N(AMD_IBRS, MSR), N(AMD_STIBP, MSR),
	N(AMD_SSBD, MSR), N(AUTOIBRS, LM),
	N(PSFD, SPEC_CTRL), N(IPRED_CTRL, SPEC_CTRL), N(RRSBA_CTRL, SPEC_CTRL),
	N(DDPD_U, SPEC_CTRL), N(BHI_CTRL, SPEC_CTRL),
	N(KVM, HYPERVISOR), N(KVM_NOP_IO_DELAY, KVM), N(KVMCLOCK, KVM), N(KVMCLOCK, MSR),
	N(KVMCLOCK, TSC), N(KVM_STEAL_TIME, KVM), N(KVM_STEAL_TIME, MSR),
	N(KVMCLOCK_STABLE, KVMCLOCK),
#undef N
};
/* clang-format on */

static char fold(char c)
{
	if (c >= 'A' && c <= 'Z')
		return (char)(c - 'A' + 'a');
	return c == '-' || c == '.' ? '_' : c;
}

static bool same_name(const char *a, const char *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (fold(a[i]) != fold(b[i]))
			return false;
	return true;
}

int cpu_feature_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		const char *p = features[i].names;

		while (*p) {
			size_t n = strcspn(p, "|");

			if (n == len && same_name(p, name, len))
				return features[i].id;
			p += n + (p[n] == '|');
		}
	}
	return -1;
}

static const struct feature *feature_get(unsigned feature)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		if (features[i].id == feature)
			return &features[i];
	return NULL;
}

const char *cpu_feature_names(unsigned feature)
{
	const struct feature *f = feature_get(feature);

	return f ? f->names : NULL;
}

enum feature_policy cpu_feature_policy(unsigned feature)
{
	const struct feature *f = feature_get(feature);

	return f ? f->policy : FEATURE_NEVER;
}

static bool has(const u32 set[FEATURE_WORDS], unsigned f)
{
	return set[f / 32] >> (f % 32) & 1;
}

int cpu_feature_inconsistent(const u32 set[FEATURE_WORDS], int *need)
{
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++) {
		if (has(set, needs[i].feature) && !has(set, needs[i].needs)) {
			*need = needs[i].needs;
			return needs[i].feature;
		}
	}
	return -1;
}
