/*
 * Instruction forms: every combination of mnemonic, opcode, encoding and operand kinds
 * and sizes that the decoder knows, found by walking the opcode space.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "rng.h"
#include "state.h"
#include "x86/features.h"

/* An instruction before it is bytes: what can be varied without leaving the form. */
enum enc_kind { ENC_LEGACY, ENC_VEX, ENC_EVEX, ENC_XOP };

struct enc {
	u8 kind;
	u8 map;       /* legacy: 0 none, 1 0F, 2 0F38, 3 0F3A; else as encoded */
	u8 prefix[4]; /* legacy prefixes, in this order */
	u8 prefixes;
	bool rex;                    /* have one even if it is empty */
	bool vex2;                   /* two-byte VEX where that is possible */
	u8 w, r, x, b, r2, v2, vvvv; /* as numbers: not inverted */
	u8 l, pp, z, bc, aaa;
	u8 opcode;
	u8 tail[13]; /* ModRM, SIB, displacement, immediates: as many as the decoder takes
		      */
};

enum form_class {
	FORM_USER,   /* anybody may execute it */
	FORM_FAULTS, /* not at CPL 3: the fault is compared */
	FORM_OWN, /* its result is the machine's own (time, CPUID): the rest is compared
		   */
	FORM_SYSTEM,  /* cannot be tried in a host process: guest tests */
	FORM_ABSENT,  /* the host lacks it */
	FORM_REFUSED, /* the host has it, the guest's CPU never does */
	FORM_CLASS_COUNT,
};

#define FORM_SAMPLES 4

struct form {
	u64 key;
	char name[96];
	struct enc sample[FORM_SAMPLES]; /* different encodings of it */
	u32 seen;                        /* encodings seen in the walk */
	u16 mnemonic;
	u8 mode; /* enum mode */
	u8 kind; /* enum enc_kind */
	u8 cls;  /* enum form_class */
	u8 isa;  /* ZydisISASet */
	/* Filled by the tests. */
	u32 runs, completed, failures;
	char why[256]; /* the first failure */
};

struct form_list {
	struct form *form;
	unsigned count, size;
	u32 *hash; /* indexes + 1 */
	unsigned hash_size;
};

/* A decoded instruction. */
struct decoded {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* Bytes of an encoding, at most 15 + 13. The instruction's length is for the decoder to
 * say. */
unsigned enc_bytes(const struct enc *e, u8 *buf);
bool form_decode(enum mode mode, const u8 *bytes, unsigned len, struct decoded *d);
/* Equal for encodings of one form. */
u64 form_key(const struct decoded *d);

/* Walk the opcode space of a mode and add what is found. */
void form_walk(struct form_list *list, enum mode mode, struct rng *rng);
void form_free(struct form_list *list);

/* isa.c: does a CPU with these features (x86/features.h) have the instruction? */
bool isa_present(const u32 features[FEATURE_WORDS], const ZydisDecodedInstruction *zi);
enum form_class form_class_of(const u32 features[FEATURE_WORDS], const struct decoded *d);
