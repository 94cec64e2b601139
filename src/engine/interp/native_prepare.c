/*
 * From a decoded instruction to a stub: what it accesses, under which conditions.
 *
 * Exception conditions: SDM volume 2 section 2.4 and 2.8 (classes), memory operands: the
 * instruction pages. Zydis knows operand sizes and directions; what it does not know is
 * here: alignment rules, which lanes a mask covers, which x87 instructions wait.
 * Equal stubs are made once and found by hash.
 * Thread: the owner of the vCPU; no lock.
 */
#include "base/log.h"
#include "engine/interp/stub.h"
#include "host/execmem.h"
#include "x86/stats.h"

void native_decoder(ZydisDecoder *d, unsigned code_size)
{
	ZydisMachineMode mode = code_size == 8   ? ZYDIS_MACHINE_MODE_LONG_64
				: code_size == 4 ? ZYDIS_MACHINE_MODE_LEGACY_32
						 : ZYDIS_MACHINE_MODE_LEGACY_16;
	ZydisStackWidth width = code_size == 8   ? ZYDIS_STACK_WIDTH_64
				: code_size == 4 ? ZYDIS_STACK_WIDTH_32
						 : ZYDIS_STACK_WIDTH_16;

	ZydisDecoderInit(d, mode, width);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
}

static bool redecode(const struct vcpu *v, struct native_insn *x, const u8 *bytes,
		     unsigned len)
{
	ZydisDecoder d;

	native_decoder(&d, v->code_size);
	x->bytes = bytes;
	x->code_size = v->code_size;
	x->amd = cpu_is_amd(v);
	x->mem = NULL;
	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&d, &x->ctx, bytes, len, &x->zi)) ||
	    ZYAN_FAILED(ZydisDecoderDecodeOperands(&d, &x->ctx, &x->zi, x->op,
						   x->zi.operand_count)))
		return false;
	for (unsigned i = 0; i < x->zi.operand_count; i++)
		if (x->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    x->op[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			x->mem = &x->op[i];
	return true;
}

/* ---- conditions ---- */

static void set_conditions(struct stub *s)
{
	switch (s->cls) {
	case NC_X87:
	case NC_MMX: s->cr0_bad = CR0_EM | CR0_TS; break;
	case NC_SSE:
		s->cr0_bad = CR0_EM | CR0_TS;
		s->cr4_need = CR4_OSFXSR;
		break;
	case NC_AVX:
	case NC_AVX512:
		s->cr0_bad = CR0_TS | CR0_PE;
		s->cr4_need = CR4_OSXSAVE;
		s->xcr0_need = XCR0_SSE | XCR0_AVX;
		if (s->cls == NC_AVX512)
			s->xcr0_need |= XCR0_AVX512;
		s->flags_bad = RFLAGS_VM;
		break;
	case NC_VEXGPR:
		s->cr0_bad = CR0_PE;
		s->flags_bad = RFLAGS_VM;
		break;
	default: break;
	}
}

/* ---- x87 ---- */

/* Control instructions leave the pointers alone; some of them do not look for pending
 * errors. */
static u8 x87_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNSTCW: return 0;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FWAIT: return STUB_WAIT;
	default: return STUB_WAIT | STUB_X87;
	}
}

/* Environment images: done in C, since they hold guest pointers. */
static bool x87_image(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_FNSTENV || m == ZYDIS_MNEMONIC_FLDENV ||
	       m == ZYDIS_MNEMONIC_FNSAVE || m == ZYDIS_MNEMONIC_FRSTOR;
}

static bool has_mmx(const struct native_insn *x)
{
	for (unsigned i = 0; i < x->zi.operand_count; i++)
		if (x->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(x->op[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

/* ---- memory operand ---- */

static bool legacy_unaligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_MASKMOVDQU: return true;
	default: return false;
	}
}

/* AMD's processors take any address here, Intel's want it aligned. */
static bool is_sha(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHA1RNDS4:
	case ZYDIS_MNEMONIC_SHA1NEXTE:
	case ZYDIS_MNEMONIC_SHA1MSG1:
	case ZYDIS_MNEMONIC_SHA1MSG2:
	case ZYDIS_MNEMONIC_SHA256RNDS2:
	case ZYDIS_MNEMONIC_SHA256MSG1:
	case ZYDIS_MNEMONIC_SHA256MSG2: return true;
	default: return false;
	}
}

static bool vex_aligned(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVDQA32:
	case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA: return true;
	default: return false;
	}
}

static u8 align_of(const struct native_insn *x, const struct stub *s)
{
	if (x->amd && is_sha(x->zi.mnemonic))
		return 0;
	if (x->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return s->cls == NC_SSE && s->mem_size == 16 &&
				       !legacy_unaligned(x->zi.mnemonic)
			       ? 15
			       : 0;
	return vex_aligned(x->zi.mnemonic) ? (u8)(s->mem_size - 1) : 0;
}

static u8 ac_of(const struct native_insn *x, unsigned size)
{
	/* AMD: operands of 16 bytes and more by 16. */
	if (x->amd && size >= 16)
		return 15;
	switch (size) {
	case 2:
	case 4:
	case 8: return (u8)(size - 1);
	case 10: return 7; /* SDM 3 table 6-7: extended precision, 8 bytes */
	default: return 0;
	}
}

/* Lanes of a broadcast: the second number of 1to8 and the like. */
static unsigned broadcast_lanes(ZydisBroadcastMode m)
{
	static const u8 lanes[] = {
		[ZYDIS_BROADCAST_MODE_1_TO_2] = 2,   [ZYDIS_BROADCAST_MODE_1_TO_4] = 4,
		[ZYDIS_BROADCAST_MODE_1_TO_8] = 8,   [ZYDIS_BROADCAST_MODE_1_TO_16] = 16,
		[ZYDIS_BROADCAST_MODE_1_TO_32] = 32, [ZYDIS_BROADCAST_MODE_1_TO_64] = 64,
		[ZYDIS_BROADCAST_MODE_2_TO_4] = 4,   [ZYDIS_BROADCAST_MODE_2_TO_8] = 8,
		[ZYDIS_BROADCAST_MODE_2_TO_16] = 16, [ZYDIS_BROADCAST_MODE_4_TO_8] = 8,
		[ZYDIS_BROADCAST_MODE_4_TO_16] = 16, [ZYDIS_BROADCAST_MODE_8_TO_16] = 16,
	};

	return (unsigned)m < ARRAY_SIZE(lanes) ? lanes[m] : 0;
}

/* Exception classes with NF in their name: masks do not suppress faults. SDM 2
 * section 2.8. */
static bool no_suppression(const struct native_insn *x)
{
	switch (x->zi.mnemonic) {
	/* E4NF too, which Zydis 4.0 has as E4. */
	case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VDBPSADBW:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB: return true;
	default: break;
	}
	switch (x->zi.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF:
	case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF:
	case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF:
	case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF:
	case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF: return true;
	default: return false;
	}
}

static bool is_compress(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VCOMPRESSPS:
	case ZYDIS_MNEMONIC_VPCOMPRESSB:
	case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD:
	case ZYDIS_MNEMONIC_VPCOMPRESSQ:
	case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VEXPANDPS:
	case ZYDIS_MNEMONIC_VPEXPANDB:
	case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD:
	case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
	default: return false;
	}
}

/* EVEX with an opmask: which elements of memory a lane stands for. */
static void set_opmask(const struct native_insn *x, struct stub *s)
{
	const ZydisDecodedOperand *dst = &x->op[0];
	unsigned elem = x->mem->element_size / 8, elems = x->mem->element_count;

	s->mask = MASK_K;
	s->mask_reg = (u8)ZydisRegisterGetId(x->zi.avx.mask.reg);
	if (is_compress(x->zi.mnemonic))
		s->flags |= STUB_COMPRESS;
	else if (no_suppression(x))
		s->flags |= STUB_NOSUPP;
	/* Dot products: memory elements are finer than the lanes they go to. */
	if (dst->type == ZYDIS_OPERAND_TYPE_REGISTER && !x->zi.avx.broadcast.mode &&
	    dst->size == x->mem->size && dst->element_count &&
	    dst->element_count < elems) {
		elems = dst->element_count;
		elem = dst->element_size / 8;
	}
	s->elem = (u8)elem;
	s->elems = (u8)elems;
	/* AMD: each element is an operand of its own. */
	if (x->amd && !(s->flags & STUB_NOSUPP))
		s->ac = ac_of(x, elem);
	s->lanes =
		(u8)(x->zi.avx.broadcast.mode ? broadcast_lanes(x->zi.avx.broadcast.mode)
					      : elems);
}

/* VMASKMOVPS and the like, MASKMOVDQU, MASKMOVQ: sign bits of a register. */
static void set_signmask(const struct native_insn *x, struct stub *s)
{
	unsigned elem;

	switch (x->zi.mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD: elem = 4; break;
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: elem = 8; break;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		elem = 1;
		/* SDM 2: faults of bytes that are not stored are up to the processor;
		 * ours check all. */
		s->flags |= STUB_NOSUPP;
		s->ac = 7; /* of either size, whatever the mask */
		break;
	default: return;
	}
	if (elem > 1)
		s->ac = 0;
	s->mask = x->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? MASK_SIGN_MMX : MASK_SIGN;
	/* Operand 1 in all of them but the stores of VMASKMOV, where it is 1 too: mem,
	 * mask, source. */
	s->mask_reg = (u8)ZydisRegisterGetId(x->op[1].reg.value);
	s->elem = (u8)elem;
	s->elems = s->lanes = (u8)(s->mem_size / elem);
}

/* MASKMOVDQU, MASKMOVQ: the operand at [rDI] that is not in ModRM. */
static const ZydisDecodedOperand *hidden_mem(const struct native_insn *x)
{
	for (unsigned i = 0; i < x->zi.operand_count; i++)
		if (x->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &x->op[i];
	return NULL;
}

/* EVEX: disp8 counts in units of the operand, which decode() does not know. */
static void set_disp8(const struct native_insn *x, struct insn *in)
{
	if (x->zi.raw.disp.size == 8)
		in->disp = (i32)x->mem->mem.disp.value;
}

/* Exception class 11: SDM 2 table 2-27. AMD's processors do not know it. */
static bool never_ac(const struct native_insn *x)
{
	return !x->amd && (x->zi.meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11 ||
			   x->zi.meta.exception_class == ZYDIS_EXCEPTION_CLASS_E11 ||
			   x->zi.meta.exception_class == ZYDIS_EXCEPTION_CLASS_E11NF);
}

static bool set_mem(const struct native_insn *x, struct stub *s, struct insn *in)
{
	const ZydisDecodedOperand *m = x->mem ? x->mem : hidden_mem(x);

	if (!m)
		return true;
	if (m->mem.type != ZYDIS_MEMOP_TYPE_MEM || !m->size || m->size > 512)
		return false;
	s->mem_size = m->size / 8;
	if (m->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		s->flags |= STUB_READ;
	if (m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		s->flags |= STUB_WRITE;
	s->align = align_of(x, s);
	s->ac = never_ac(x) ? 0 : ac_of(x, s->mem_size);
	if (!x->mem) {
		in->base = RDI;
		in->index = GPR_ZERO;
		in->disp = 0;
	} else if (x->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
		set_disp8(x, in);
		if (x->zi.raw.evex.aaa)
			set_opmask(x, s);
	}
	set_signmask(x, s);
	return true;
}

/* ---- gather and scatter ---- */

/* Bytes of an index; 0: not one of these instructions. */
static unsigned gather_index_size(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPSCATTERDD:
	case ZYDIS_MNEMONIC_VPSCATTERDQ:
	case ZYDIS_MNEMONIC_VSCATTERDPS:
	case ZYDIS_MNEMONIC_VSCATTERDPD: return 4;
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPSCATTERQD:
	case ZYDIS_MNEMONIC_VPSCATTERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPS:
	case ZYDIS_MNEMONIC_VSCATTERQPD: return 8;
	default: return 0;
	}
}

static bool set_gather(const struct native_insn *x, struct stub *s, struct insn *in)
{
	bool evex = x->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	unsigned mem = (unsigned)(x->mem - x->op), data;

	s->flags = mem == 0 ? STUB_SCATTER : 0;
	/* VEX gather: data, memory, mask. EVEX: data, mask, memory. EVEX scatter: memory,
	 * mask, data. */
	data = mem == 0 ? 2 : 0;
	s->data = (u8)ZydisRegisterGetId(x->op[data].reg.value);
	s->mask_reg = (u8)ZydisRegisterGetId(x->op[evex ? 1 : 2].reg.value);
	s->mask = evex ? MASK_K : MASK_SIGN;
	s->index = (u8)ZydisRegisterGetId(x->mem->mem.index);
	s->index_size = (u8)gather_index_size(x->zi.mnemonic);
	s->elem = (u8)(x->mem->element_size / 8);
	if (!s->index_size || (s->elem != 4 && s->elem != 8))
		return false;
	/* SDM 2: #UD when registers are the same, or without a mask. */
	if (mem != 0 && s->data == s->index)
		return false;
	if (evex ? !s->mask_reg : s->mask_reg == s->index || s->mask_reg == s->data)
		return false;
	s->lanes = s->elems =
		(u8)(x->zi.avx.vector_length / 8 / MAX(s->elem, s->index_size));
	s->scale = x->mem->mem.scale == 8   ? 3
		   : x->mem->mem.scale == 4 ? 2
					    : x->mem->mem.scale == 2;
	in->index = GPR_ZERO;
	in->scale = 0;
	if (evex)
		set_disp8(x, in);
	return true;
}

/* ---- the table of stubs ---- */

static bool same_stub(const struct stub *a, const struct stub *b, const u8 *code)
{
	const u8 *have = (const u8 *)(uintptr_t)a->code;

	if (a->hash != b->hash || a->code_len != b->code_len ||
	    a->cr0_bad != b->cr0_bad || a->cr4_need != b->cr4_need ||
	    a->xcr0_need != b->xcr0_need || a->flags_bad != b->flags_bad ||
	    a->mem_size != b->mem_size || a->flags != b->flags || a->cls != b->cls ||
	    a->align != b->align || a->ac != b->ac || a->mask != b->mask ||
	    a->mask_reg != b->mask_reg || a->elem != b->elem || a->elems != b->elems ||
	    a->lanes != b->lanes || a->data != b->data || a->index != b->index ||
	    a->index_size != b->index_size || a->scale != b->scale)
		return false;
	for (unsigned i = 0; i < b->code_len; i++)
		if (have[i] != code[i])
			return false;
	return true;
}

static u32 hash_bytes(u32 h, const void *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		h = (h ^ ((const u8 *)p)[i]) * 0x01000193;
	return h;
}

/* The number of this stub, made if it is new. 0: no memory. */
static u32 intern(struct vcpu *v, struct stub *s, const u8 *code)
{
	struct native *n = v->native;
	const u8 key[] = { s->cls,  s->flags, (u8)s->mem_size, s->mask,  s->mask_reg,
			   s->elem, s->data,  s->index,        s->lanes, s->scale };
	u32 *head;
	u8 *w;
	void *p;

	s->hash = hash_bytes(0x811c9dc5, key, sizeof(key));
	s->hash = hash_bytes(s->hash, code, s->code_len);
	head = &n->head[s->hash % STUB_HASH];
	for (u32 i = *head; i; i = n->stub[i].next)
		if (same_stub(&n->stub[i], s, code))
			return i;
	if (n->count == STUB_MAX)
		return 0;
	if (s->code_len) {
		p = execmem_alloc(n->mem, s->code_len, 16, &w);
		if (!p) {
			log_error("no memory for native code");
			return 0;
		}
		for (unsigned i = 0; i < s->code_len; i++)
			w[i] = code[i];
		s->code = (stub_code *)(uintptr_t)p;
	}
	s->next = *head;
	*head = n->count;
	n->stub[n->count] = *s;
	v->stats->native_stubs++;
	return n->count++;
}

/* ---- choice of function ---- */

static op_fn *choose_fn(const struct stub *s)
{
	static op_fn *const table[3][3] = {
		{ native_gpr_reg, native_gpr_load, native_gpr_store },
		{ native_x87_reg, native_x87_load, native_x87_store },
		{ native_reg, native_load, native_store },
	};
	unsigned row = s->cls == NC_NONE || s->cls == NC_VEXGPR ? 0
		       : s->cls == NC_X87                       ? 1
								: 2;

	return table[row][s->flags & STUB_WRITE ? 2 : s->flags & STUB_READ ? 1 : 0];
}

static bool build(struct vcpu *v, struct native_insn *x, struct insn *in)
{
	struct stub s = { .cls = isa_class(x) };
	u8 code[STUB_CODE_MAX];
	bool vsib = x->mem && x->mem->mem.type == ZYDIS_MEMOP_TYPE_VSIB;

	set_conditions(&s);
	if (vsib) {
		if (!set_gather(x, &s, in))
			return false;
	} else {
		if (s.cls == NC_X87)
			s.flags = x87_flags(x->zi.mnemonic);
		else if (has_mmx(x))
			s.flags = STUB_WAIT;
		if (!set_mem(x, &s, in))
			return false;
		if (x->zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL)
			s.flags |= STUB_ZERO_ALL;
		s.code_len = (u8)emit_stub(x, code);
		if (!s.code_len)
			return false;
	}
	in->aux = intern(v, &s, code);
	if (!in->aux)
		return false;
	if (vsib)
		in->fn = native_gather;
	else if (x->code_size != 8 && (x->zi.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
				       x->zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL))
		in->fn = native_vzero;
	else if (x->zi.mnemonic == ZYDIS_MNEMONIC_FNINIT)
		in->fn = native_fninit;
	else if (x->zi.mnemonic == ZYDIS_MNEMONIC_FWAIT)
		in->fn = native_fwait;
	else
		in->fn = choose_fn(&s);
	return true;
}

/* Outside 64-bit mode VEX.W is ignored here, but not by AMD's processors. */
static bool is_amd_ud(const struct native_insn *x)
{
	return x->amd && x->code_size != 8 &&
	       x->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && x->zi.raw.vex.W &&
	       (x->zi.mnemonic == ZYDIS_MNEMONIC_VPEXTRD ||
		x->zi.mnemonic == ZYDIS_MNEMONIC_VPINSRD);
}

bool native_prepare(struct vcpu *v, const u8 *bytes, struct insn *in)
{
	struct native_insn x;

	vcpu_park(v);
	if (!redecode(v, &x, bytes, in->len) || x87_image(x.zi.mnemonic) ||
	    !isa_offered(v, &x.zi) || is_amd_ud(&x))
		return false;
	if (x.zi.mnemonic == ZYDIS_MNEMONIC_MOVDIR64B) {
		in->fn = native_movdir64b;
		return true;
	}
	return build(v, &x, in);
}
