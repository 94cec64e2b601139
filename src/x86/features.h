/*
 * CPU features as numbers: word * 32 + bit, a word being one register of one CPUID leaf.
 * The list is features.def: F(NAME, "command-line names", WORD, bit, POLICY).
 *
 * Names are those of Linux (/proc/cpuinfo) and QEMU (-cpu); several are separated by '|',
 * the first is the one we print. In a look-up '_', '-' and '.' are the same character.
 */
#pragma once

#include "base/types.h"

enum feature_word {
	W_1_EDX, /* CPUID.01H:EDX */
	W_1_ECX, /* CPUID.01H:ECX */
	W_7_EBX, /* CPUID.(07H,0):EBX */
	W_7_ECX,
	W_7_EDX,
	W_7_1_EAX, /* CPUID.(07H,1):EAX */
	W_7_1_EDX,
	W_7_2_EDX, /* CPUID.(07H,2):EDX */
	W_D_1_EAX, /* CPUID.(0DH,1):EAX */
	W_6_EAX,   /* CPUID.06H:EAX */
	W_81_EDX,  /* CPUID.80000001H:EDX */
	W_81_ECX,
	W_87_EDX,  /* CPUID.80000007H:EDX */
	W_88_EBX,  /* CPUID.80000008H:EBX */
	W_821_EAX, /* CPUID.80000021H:EAX */
	W_821_ECX,
	W_PV,      /* no register: which interfaces of hypervisors it has */
	W_KVM_EAX, /* CPUID.40000001H:EAX */
	FEATURE_WORDS,
};

/* Where a feature comes from, and so when a machine may have it. */
enum feature_policy {
	/* Executed by the host's units: offered when the host has it too. */
	FEATURE_HOST,
	/* Done by Umbra: offered on any host. _I and _A: on a CPU of that vendor alone.
	 */
	FEATURE_OURS,
	FEATURE_OURS_I,
	FEATURE_OURS_A,
	FEATURE_HOST_A,
	/* Done by Umbra, in no model: must be asked for. */
	FEATURE_ASK,
	/* Follows from the topology or from other registers; cannot be asked for. */
	FEATURE_AUTO,
	/* Not offered: asking for it is an error. */
	FEATURE_NEVER,
};

/* clang-format off */
enum cpu_feature {
#define F(id, names, word, bit, policy) FEAT_##id = (word) * 32 + (bit),
#include "x86/features.def"
#undef F
	FEAT_NONE = 0xffff, /* where a table says "needs none" */
};
/* clang-format on */

/* Look up a feature by any of its spellings; 'len' bytes of 'name'. -1: unknown. */
int cpu_feature_find(const char *name, size_t len);
/* Its spellings with '|' between them, or NULL for a bit that has no name. */
const char *cpu_feature_names(unsigned feature);
enum feature_policy cpu_feature_policy(unsigned feature);

/*
 * The first feature of the set that lacks something it needs, with what it needs in
 * *need; -1 when the set is consistent.
 */
int cpu_feature_inconsistent(const u32 set[FEATURE_WORDS], int *need);
