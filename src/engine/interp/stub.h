/*
 * What the files of native execution share: the description of a stub, and its making.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "engine/interp/native.h"
#include "engine/interp/vector.h"

struct execmem;

/* Which state an instruction needs, and so its faults. SDM 2 section 2.4 and 2.7, SDM 3
 * section 2.5. */
enum native_class {
	NC_NONE,   /* general registers only */
	NC_VEXGPR, /* the same, VEX encoded: not in real and virtual-8086 mode */
	NC_X87,
	NC_MMX,
	NC_SSE,
	NC_AVX,
	NC_AVX512,
};

/* stub.flags */
enum {
	STUB_READ = 1 << 0, /* memory operand is read */
	STUB_WRITE = 1 << 1,
	STUB_WAIT =
		1 << 2, /* reports a pending x87 exception: x87 but the FN forms, MMX */
	STUB_X87 = 1 << 3,      /* x87, not a control instruction: FIP, FDP, FOP */
	STUB_COMPRESS = 1 << 4, /* memory holds the active elements, packed */
	STUB_NOSUPP = 1 << 5,   /* masked, but all of the operand must be accessible */
	STUB_SCATTER = 1 << 6,
	STUB_ZERO_ALL = 1 << 7, /* native_vzero(): VZEROALL */
};

/* Where the mask is that says which elements of the memory operand are accessed. */
enum mask_kind {
	MASK_NONE,
	MASK_K,        /* opmask register */
	MASK_SIGN,     /* sign bits of the elements of a vector register */
	MASK_SIGN_MMX, /* the same of an MMX register */
};

/* Trap vector + 1 of a host fault, 0 when the instruction was done. */
typedef u64 stub_code(struct vcpu *v, void *mem);

struct stub {
	stub_code *code; /* NULL: done in C */
	u32 cr0_bad;     /* of CR0 with PE inverted */
	u32 cr4_need;
	u32 xcr0_need;
	u32 flags_bad; /* of RFLAGS */
	u16 mem_size;  /* bytes */
	u8 flags;
	u8 cls;   /* enum native_class */
	u8 align; /* address bits that must be 0, else #GP(0) */
	u8 ac;    /* address bits that must be 0 under alignment checking */
	u8 mask;  /* enum mask_kind */
	u8 mask_reg;
	u8 elem;  /* bytes of an element in memory */
	u8 elems; /* how many there are in memory */
	u8 lanes; /* mask bits that count: lane i uses element i % elems */
	/* Gather and scatter. */
	u8 data, index; /* vector registers */
	u8 index_size;  /* 4 or 8 */
	u8 scale;       /* shift */
	u8 code_len;
	u32 next; /* in its hash chain; 0 ends it */
	u32 hash;
};

#define STUB_MAX      16384u
#define STUB_CODE_MAX 160u /* bytes of the longest stub, a multiple of 16 */
#define STUB_HASH     4096u

struct native {
	struct stub *stub; /* STUB_MAX; 0 is not used */
	u32 count;
	u32 head[STUB_HASH];
	struct execmem *mem;
	int sig; /* number at host/sig */
	const u8 *fault_exit;
	stub_code *wait; /* FWAIT */
	u64 xcr0;        /* components we move, of those the host has */
	u32 mxcsr_mask;
	bool xsavec, xsaveopt;
	bool movdir64b; /* the host has it */
	/* A memory operand that is not used in place, at its address modulo 64. */
	u8 bounce[128] __attribute__((aligned(64)));
};

/* An instruction on its way to a stub. */
struct native_insn {
	ZydisDecoderContext ctx;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const u8 *bytes;
	unsigned code_size;
	bool amd;                       /* the guest's CPU */
	const ZydisDecodedOperand *mem; /* the explicit memory operand or NULL */
};

/* native_isa.c: what the guest must have, and the class. False: not ours, or not offered.
 */
bool isa_offered(const struct vcpu *v, const ZydisDecodedInstruction *zi);
enum native_class isa_class(const struct native_insn *x);

/* native_emit.c: the stub's code. 0: cannot be done. */
unsigned emit_stub(const struct native_insn *x, u8 code[STUB_CODE_MAX]);
/* ZydisDecoderInit() for a code size, as x86/decode.c has it. */
void native_decoder(ZydisDecoder *d, unsigned code_size);

/* native_mem.c: the operand is not in one plain page, or alignment is checked. */
enum op_result native_slow(struct vcpu *v, const struct insn *in, const struct stub *s);
op_fn native_gather;
op_fn native_movdir64b, native_vzero;

/* native.c */
enum op_result native_fault(struct vcpu *v, u64 trap);
bool native_state_fault(struct vcpu *v, const struct stub *s);
op_fn native_reg, native_load, native_store, native_gpr_reg, native_gpr_load,
	native_gpr_store;
op_fn native_x87_reg, native_x87_load, native_x87_store, native_fninit, native_fwait;

static inline const struct stub *stub_of(const struct vcpu *v, const struct insn *in)
{
	return &v->native->stub[in->aux];
}

/* May the instruction execute in the state the CPU is in? */
static inline bool state_ok(const struct vcpu *v, const struct stub *s)
{
	return likely(!(((v->cr0 ^ CR0_PE) & s->cr0_bad) | (~v->cr4 & s->cr4_need) |
			(~v->xcr0 & s->xcr0_need) | (v->flags & s->flags_bad)));
}

/* After an instruction that made the state live. */
static inline void native_done(struct vcpu *v)
{
#ifdef UMBRA_VEC_EAGER
	vcpu_park(v);
#else
	(void)v;
#endif
}
