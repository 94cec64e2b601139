/*
 * Which native instructions a guest has: from Zydis' instruction set names to CPUID bits.
 *
 * SDM volume 2, the "CPUID feature flag" column of each instruction; volume 1 chapter 5.
 * Sets that are not listed do not exist for a guest: 3DNow!, XOP, FMA4, TBM, MPX, AMX,
 * KNC and what is done in C: MOVBE, POPCNT, PREFETCH, fences, CLFLUSH, XSAVE, all that is
 * sensitive. Thread: any; no state.
 */
#include "engine/interp/stub.h"

struct isa {
	u16 need[3]; /* enum cpu_feature; 0 is FEAT_FPU, which everything has */
};

#define N1(a)                                                                            \
	{                                                                                \
		{                                                                        \
			FEAT_##a, 0, 0                                                   \
		}                                                                        \
	}
#define N2(a, b)                                                                         \
	{                                                                                \
		{                                                                        \
			FEAT_##a, FEAT_##b, 0                                            \
		}                                                                        \
	}
#define N3(a, b, c)                                                                      \
	{                                                                                \
		{                                                                        \
			FEAT_##a, FEAT_##b, FEAT_##c                                     \
		}                                                                        \
	}
/* The 128-, 256- and 512-bit forms of an AVX-512 set. */
#define EVEX(set, a)                                                                     \
	[ZYDIS_ISA_SET_##set##_128] = N3(AVX512F, AVX512VL, a),                          \
	[ZYDIS_ISA_SET_##set##_256] = N3(AVX512F, AVX512VL, a),                          \
	[ZYDIS_ISA_SET_##set##_512] = N2(AVX512F, a)

/* clang-format off */
static const struct isa isa_table[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
	[ZYDIS_ISA_SET_X87] = N1(FPU),
	[ZYDIS_ISA_SET_FCMOV] = N2(FPU, CMOV),
	[ZYDIS_ISA_SET_PPRO] = N2(FPU, CMOV), /* FCOMI: see isa_offered() */
	[ZYDIS_ISA_SET_SSE3X87] = N1(SSE3),
	[ZYDIS_ISA_SET_PENTIUMMMX] = N1(MMX),
	[ZYDIS_ISA_SET_SSE] = N1(SSE),
	[ZYDIS_ISA_SET_SSEMXCSR] = N1(SSE),
	[ZYDIS_ISA_SET_SSE2] = N1(SSE2),
	[ZYDIS_ISA_SET_SSE2MMX] = N1(SSE2),
	[ZYDIS_ISA_SET_SSE3] = N1(SSE3),
	[ZYDIS_ISA_SET_SSSE3] = N1(SSSE3),
	[ZYDIS_ISA_SET_SSSE3MMX] = N1(SSSE3),
	[ZYDIS_ISA_SET_SSE4] = N1(SSE41),
	[ZYDIS_ISA_SET_SSE42] = N1(SSE42),
	[ZYDIS_ISA_SET_SSE4A] = N1(SSE4A),
	[ZYDIS_ISA_SET_AES] = N1(AES),
	[ZYDIS_ISA_SET_PCLMULQDQ] = N1(PCLMULQDQ),
	[ZYDIS_ISA_SET_SHA] = N1(SHA),
	[ZYDIS_ISA_SET_GFNI] = N1(GFNI),
	[ZYDIS_ISA_SET_BMI1] = N1(BMI1),
	[ZYDIS_ISA_SET_BMI2] = N1(BMI2),
	[ZYDIS_ISA_SET_ADOX_ADCX] = N1(ADX),
	[ZYDIS_ISA_SET_RDRAND] = N1(RDRAND),
	[ZYDIS_ISA_SET_RDSEED] = N1(RDSEED),
	[ZYDIS_ISA_SET_MOVDIR] = N1(MOVDIRI), /* MOVDIR64B: see isa_offered() */

	[ZYDIS_ISA_SET_AVX] = N1(AVX),
	[ZYDIS_ISA_SET_AVX2] = N2(AVX, AVX2),
	[ZYDIS_ISA_SET_AVX2GATHER] = N2(AVX, AVX2),
	[ZYDIS_ISA_SET_FMA] = N2(AVX, FMA),
	[ZYDIS_ISA_SET_F16C] = N2(AVX, F16C),
	[ZYDIS_ISA_SET_AVXAES] = N2(AVX, AES),
	[ZYDIS_ISA_SET_VAES] = N2(AVX, VAES),
	[ZYDIS_ISA_SET_VPCLMULQDQ] = N2(AVX, VPCLMULQDQ),
	[ZYDIS_ISA_SET_AVX_GFNI] = N2(AVX, GFNI),
	[ZYDIS_ISA_SET_AVX_VNNI] = N2(AVX, AVX_VNNI),

	EVEX(AVX512F, AVX512F),
	[ZYDIS_ISA_SET_AVX512F_128N] = N1(AVX512F),
	[ZYDIS_ISA_SET_AVX512F_SCALAR] = N1(AVX512F),
	[ZYDIS_ISA_SET_AVX512F_KOP] = N1(AVX512F),
	EVEX(AVX512BW, AVX512BW),
	[ZYDIS_ISA_SET_AVX512BW_128N] = N2(AVX512F, AVX512BW),
	[ZYDIS_ISA_SET_AVX512BW_KOP] = N2(AVX512F, AVX512BW),
	EVEX(AVX512CD, AVX512CD),
	EVEX(AVX512DQ, AVX512DQ),
	[ZYDIS_ISA_SET_AVX512DQ_128N] = N2(AVX512F, AVX512DQ),
	[ZYDIS_ISA_SET_AVX512DQ_SCALAR] = N2(AVX512F, AVX512DQ),
	[ZYDIS_ISA_SET_AVX512DQ_KOP] = N2(AVX512F, AVX512DQ),
	EVEX(AVX512_BF16, AVX512_BF16),
	EVEX(AVX512_BITALG, AVX512_BITALG),
	EVEX(AVX512_FP16, AVX512_FP16),
	[ZYDIS_ISA_SET_AVX512_FP16_128N] = N2(AVX512F, AVX512_FP16),
	[ZYDIS_ISA_SET_AVX512_FP16_SCALAR] = N2(AVX512F, AVX512_FP16),
	EVEX(AVX512_GFNI, GFNI),
	EVEX(AVX512_IFMA, AVX512IFMA),
	EVEX(AVX512_VAES, VAES),
	EVEX(AVX512_VBMI, AVX512VBMI),
	EVEX(AVX512_VBMI2, AVX512_VBMI2),
	EVEX(AVX512_VNNI, AVX512_VNNI),
	EVEX(AVX512_VP2INTERSECT, AVX512_VP2INTERSECT),
	EVEX(AVX512_VPCLMULQDQ, VPCLMULQDQ),
	EVEX(AVX512_VPOPCNTDQ, AVX512_VPOPCNTDQ),
};
/* clang-format on */

/* FEAT_FPU is number 0, so an absent row must be told from one that needs it alone. */
static bool listed(ZydisISASet set)
{
	const struct isa *i = &isa_table[set];

	return i->need[0] || set == ZYDIS_ISA_SET_X87 || set == ZYDIS_ISA_SET_FCMOV ||
	       set == ZYDIS_ISA_SET_PPRO;
}

static bool x87_opcode(const ZydisDecodedInstruction *zi)
{
	return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	       ((zi->opcode & 0xf8) == 0xd8 || zi->opcode == 0x9b);
}

bool isa_offered(const struct vcpu *v, const ZydisDecodedInstruction *zi)
{
	ZydisISASet set = zi->meta.isa_set;

	if ((unsigned)set > ZYDIS_ISA_SET_MAX_VALUE || !listed(set))
		return false;
	/* Sets that Zydis does not tell apart. */
	if (set == ZYDIS_ISA_SET_PPRO && !x87_opcode(zi))
		return false;
	if (zi->mnemonic == ZYDIS_MNEMONIC_MOVDIR64B)
		return cpu_has(v, FEAT_MOVDIR64B);
	if (set == ZYDIS_ISA_SET_AVX && zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ &&
	    !cpu_has(v, FEAT_PCLMULQDQ))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(isa_table[set].need); i++)
		if (!cpu_has(v, isa_table[set].need[i]))
			return false;
	return true;
}

static bool is_kop(ZydisISASet set)
{
	return set == ZYDIS_ISA_SET_AVX512F_KOP || set == ZYDIS_ISA_SET_AVX512BW_KOP ||
	       set == ZYDIS_ISA_SET_AVX512DQ_KOP;
}

/* SSE instructions that may have no XMM register operand. */
static bool sse_without_xmm(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
	case ZYDIS_MNEMONIC_CVTSS2SI:
	case ZYDIS_MNEMONIC_CVTTSS2SI:
	case ZYDIS_MNEMONIC_CVTSD2SI:
	case ZYDIS_MNEMONIC_CVTTSD2SI: return true;
	default: return false;
	}
}

enum native_class isa_class(const struct native_insn *x)
{
	const ZydisDecodedInstruction *zi = &x->zi;
	bool mmx = zi->mnemonic == ZYDIS_MNEMONIC_EMMS;

	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || is_kop(zi->meta.isa_set))
		return NC_AVX512;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return zi->meta.isa_set == ZYDIS_ISA_SET_BMI1 ||
				       zi->meta.isa_set == ZYDIS_ISA_SET_BMI2
			       ? NC_VEXGPR
			       : NC_AVX;
	if (x87_opcode(zi))
		return NC_X87;
	if (sse_without_xmm(zi))
		return NC_SSE;
	/* An XMM register makes it SSE even beside an MMX register: CVTPI2PS, MOVQ2DQ. */
	for (unsigned i = 0; i < zi->operand_count; i++) {
		ZydisRegisterClass c;

		if (x->op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		c = ZydisRegisterGetClass(x->op[i].reg.value);
		if (c == ZYDIS_REGCLASS_XMM)
			return NC_SSE;
		mmx |= c == ZYDIS_REGCLASS_MMX;
	}
	return mmx ? NC_MMX : NC_NONE;
}
