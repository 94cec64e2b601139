/*
 * Walking the opcode space: see form.h.
 *
 * SDM volume 2 chapter 2 and appendix A. Prefixes, maps, W, L and ModRM are tried in all
 * combinations that can select an instruction; the decoder says what is one. Two
 * encodings with the same opcode and the same kinds and sizes of operands are one form.
 */
#include "form.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../hostarea.h"

/* ---- bytes ---- */

static void put(u8 **p, u8 b)
{
	*(*p)++ = b;
}

static void put_legacy(u8 **p, const struct enc *e)
{
	if (e->rex || e->w || e->r || e->x || e->b)
		put(p, (u8)(0x40 | e->w << 3 | e->r << 2 | e->x << 1 | e->b));
	if (e->map)
		put(p, 0x0f);
	if (e->map == 2)
		put(p, 0x38);
	if (e->map == 3)
		put(p, 0x3a);
}

static void put_vex(u8 **p, const struct enc *e)
{
	u8 last = (u8)((~e->vvvv & 15) << 3 | (e->l & 1) << 2 | e->pp);

	if (e->vex2 && e->map == 1 && !e->w && !e->x && !e->b) {
		put(p, 0xc5);
		put(p, (u8)(!e->r << 7 | last));
		return;
	}
	put(p, e->kind == ENC_XOP ? 0x8f : 0xc4);
	put(p, (u8)(!e->r << 7 | !e->x << 6 | !e->b << 5 | e->map));
	put(p, (u8)(e->w << 7 | last));
}

static void put_evex(u8 **p, const struct enc *e)
{
	put(p, 0x62);
	put(p, (u8)(!e->r << 7 | !e->x << 6 | !e->b << 5 | !e->r2 << 4 | e->map));
	put(p, (u8)(e->w << 7 | (~e->vvvv & 15) << 3 | 4 | e->pp));
	put(p, (u8)(e->z << 7 | e->l << 5 | e->bc << 4 | !e->v2 << 3 | e->aaa));
}

unsigned enc_bytes(const struct enc *e, u8 *buf)
{
	u8 *p = buf;

	for (unsigned i = 0; i < e->prefixes; i++)
		put(&p, e->prefix[i]);
	if (e->kind == ENC_LEGACY)
		put_legacy(&p, e);
	else if (e->kind == ENC_EVEX)
		put_evex(&p, e);
	else
		put_vex(&p, e);
	put(&p, e->opcode);
	memcpy(p, e->tail, sizeof(e->tail));
	return (unsigned)(p - buf) + (unsigned)sizeof(e->tail);
}

/* ---- decoding ---- */

bool form_decode(enum mode mode, const u8 *bytes, unsigned len, struct decoded *d)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth width;
	} modes[] = {
		[MODE64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
		[MODE32] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32 },
		[MODE16] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16 },
	};
	static ZydisDecoder decoder[MODE_COUNT];
	static bool ready;

	if (!ready) {
		for (unsigned m = 0; m < MODE_COUNT; m++) {
			ZydisDecoderInit(&decoder[m], modes[m].mode, modes[m].width);
			/* NOPs on processors without these; as x86/decode.c has it. */
			ZydisDecoderEnableMode(&decoder[m], ZYDIS_DECODER_MODE_MPX,
					       ZYAN_FALSE);
			ZydisDecoderEnableMode(&decoder[m], ZYDIS_DECODER_MODE_CET,
					       ZYAN_FALSE);
			ZydisDecoderEnableMode(&decoder[m],
					       ZYDIS_DECODER_MODE_AMD_BRANCHES,
					       host_is_amd());
		}
		ready = true;
	}
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder[mode], bytes, MIN(len, 15u),
						   &d->zi, d->op));
}

/* ---- identity ---- */

#define PREFIX_ATTRS                                                                     \
	(ZYDIS_ATTRIB_HAS_LOCK | ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |          \
	 ZYDIS_ATTRIB_HAS_REPNE)

static void mix(u64 *h, u64 v)
{
	*h = (*h ^ v) * UINT64_C(0x100000001b3);
	*h ^= *h >> 29;
}

static u8 opcode_of(const struct decoded *d)
{
	for (unsigned i = 0; i < d->zi.operand_count; i++)
		if (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			return d->zi.opcode & 0xf8;
	return d->zi.opcode;
}

static bool fixed_register(const ZydisDecodedOperand *o)
{
	return o->visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT;
}

u64 form_key(const struct decoded *d)
{
	const ZydisDecodedInstruction *zi = &d->zi;
	u64 h = UINT64_C(0xcbf29ce484222325);

	mix(&h, zi->mnemonic);
	mix(&h, (u64)zi->encoding << 16 | (u64)zi->opcode_map << 8 | opcode_of(d));
	mix(&h, zi->attributes & PREFIX_ATTRS);
	/* A broadcast that is the instruction's nature is in its operands. */
	mix(&h, (u64)(zi->avx.broadcast.mode && !zi->avx.broadcast.is_static) << 2 |
			(u64)(zi->avx.rounding.mode != 0) << 1 | zi->avx.has_sae);
	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		const ZydisDecodedOperand *o = &d->op[i];

		mix(&h, (u64)o->type << 32 | o->size);
		switch (o->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (o->encoding == ZYDIS_OPERAND_ENCODING_MASK)
				mix(&h, 1);
			else if (fixed_register(o))
				mix(&h, 1000u + o->reg.value);
			else
				mix(&h, ZydisRegisterGetClass(o->reg.value));
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			mix(&h, o->mem.type);
			if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
				mix(&h, ZydisRegisterGetClass(o->mem.index));
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE:
			mix(&h, o->imm.is_relative);
			mix(&h, fixed_register(o));
			break;
		default: break;
		}
	}
	return h;
}

static int operand_name(const ZydisDecodedOperand *o, char *buf, size_t size)
{
	const char *cls;

	switch (o->type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (o->encoding == ZYDIS_OPERAND_ENCODING_MASK)
			return snprintf(buf, size, "{k}");
		if (fixed_register(o))
			return snprintf(buf, size, "%s",
					ZydisRegisterGetString(o->reg.value));
		switch (ZydisRegisterGetClass(o->reg.value)) {
		case ZYDIS_REGCLASS_GPR8: cls = "r8"; break;
		case ZYDIS_REGCLASS_GPR16: cls = "r16"; break;
		case ZYDIS_REGCLASS_GPR32: cls = "r32"; break;
		case ZYDIS_REGCLASS_GPR64: cls = "r64"; break;
		case ZYDIS_REGCLASS_X87: cls = "st"; break;
		case ZYDIS_REGCLASS_MMX: cls = "mm"; break;
		case ZYDIS_REGCLASS_XMM: cls = "xmm"; break;
		case ZYDIS_REGCLASS_YMM: cls = "ymm"; break;
		case ZYDIS_REGCLASS_ZMM: cls = "zmm"; break;
		case ZYDIS_REGCLASS_TMM: cls = "tmm"; break;
		case ZYDIS_REGCLASS_MASK: cls = "k"; break;
		case ZYDIS_REGCLASS_SEGMENT: cls = "sreg"; break;
		case ZYDIS_REGCLASS_CONTROL: cls = "cr"; break;
		case ZYDIS_REGCLASS_DEBUG: cls = "dr"; break;
		default: cls = "reg"; break;
		}
		return snprintf(buf, size, "%s", cls);
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			return snprintf(buf, size, "m%u[%s]", o->size,
					ZydisRegisterGetClass(o->mem.index) ==
							ZYDIS_REGCLASS_XMM
						? "xmm"
					: ZydisRegisterGetClass(o->mem.index) ==
							ZYDIS_REGCLASS_YMM
						? "ymm"
						: "zmm");
		return snprintf(buf, size, "m%u", o->size);
	case ZYDIS_OPERAND_TYPE_POINTER: return snprintf(buf, size, "ptr%u", o->size);
	default:
		if (fixed_register(o))
			return snprintf(buf, size, "1");
		return snprintf(buf, size, "%s%u", o->imm.is_relative ? "rel" : "imm",
				o->size);
	}
}

static void form_name(const struct decoded *d, char *buf, size_t size)
{
	static const char *const maps[] = { "",     "0f",   "0f38", "0f3a",
					    "map4", "map5", "map6", "map7",
					    "0f0f", "xop8", "xop9", "xopA" };
	const ZydisDecodedInstruction *zi = &d->zi;
	unsigned n;

#define ADD(...)                                                                         \
	n += (unsigned)snprintf(buf + MIN(n, size - 1), size - MIN(n, size - 1),         \
				__VA_ARGS__)
	n = 0;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		ADD("lock ");
	if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		ADD("rep ");
	if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
		ADD("repne ");
	ADD("%s", ZydisMnemonicGetString(zi->mnemonic));
	for (unsigned i = 0; i < zi->operand_count_visible; i++) {
		char op[32];

		operand_name(&d->op[i], op, sizeof(op));
		ADD("%s%s", i ? ", " : " ", op);
	}
	if (zi->avx.broadcast.mode && !zi->avx.broadcast.is_static)
		ADD(" {bcst}");
	if (zi->avx.rounding.mode)
		ADD(" {er}");
	else if (zi->avx.has_sae)
		ADD(" {sae}");
	ADD(" [%s%s%s%02x]",
	    zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX    ? "vex "
	    : zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? "evex "
	    : zi->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP  ? "xop "
							      : "",
	    (unsigned)zi->opcode_map < ARRAY_SIZE(maps) ? maps[zi->opcode_map] : "?",
	    zi->opcode_map ? " " : "", opcode_of(d));
#undef ADD
}

/* ---- the list ---- */

static void rehash(struct form_list *l)
{
	free(l->hash);
	l->hash_size = l->size * 4;
	l->hash = calloc(l->hash_size, sizeof(*l->hash));
	for (unsigned i = 0; i < l->count; i++) {
		unsigned h = (unsigned)(l->form[i].key % l->hash_size);

		while (l->hash[h])
			h = (h + 1) % l->hash_size;
		l->hash[h] = i + 1;
	}
}

static struct form *find(struct form_list *l, u64 key, enum mode mode)
{
	unsigned h;

	key += mode;
	if (l->count == l->size) {
		l->size = l->size ? l->size * 2 : 4096;
		l->form = realloc(l->form, l->size * sizeof(*l->form));
		rehash(l);
	}
	for (h = (unsigned)(key % l->hash_size); l->hash[h]; h = (h + 1) % l->hash_size)
		if (l->form[l->hash[h] - 1].key == key)
			return &l->form[l->hash[h] - 1];
	memset(&l->form[l->count], 0, sizeof(*l->form));
	l->form[l->count].key = key;
	l->hash[h] = ++l->count;
	return &l->form[l->count - 1];
}

static void add(struct form_list *l, enum mode mode, const struct enc *e, struct rng *rng)
{
	struct decoded d;
	struct form *f;
	u8 bytes[40];
	unsigned slot;

	if (!form_decode(mode, bytes, enc_bytes(e, bytes), &d))
		return;
	f = find(l, form_key(&d), mode);
	if (!f->seen) {
		form_name(&d, f->name, sizeof(f->name));
		f->mnemonic = (u16)d.zi.mnemonic;
		f->mode = (u8)mode;
		f->kind = e->kind;
		f->isa = (u8)d.zi.meta.isa_set;
	}
	/* Reservoir: each encoding has the same chance to be kept. */
	slot = f->seen < FORM_SAMPLES ? f->seen : rng_below(rng, f->seen + 1);
	if (slot < FORM_SAMPLES)
		f->sample[slot] = *e;
	f->seen++;
}

void form_free(struct form_list *l)
{
	free(l->form);
	free(l->hash);
	memset(l, 0, sizeof(*l));
}

/* ---- the walk ---- */

static const u8 tail_filler[12] = { 0x11, 0x12, 0x13, 0x14, 0x15, 0x16,
				    0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c };

static void set_tail(struct enc *e, u8 modrm)
{
	e->tail[0] = modrm;
	memcpy(e->tail + 1, tail_filler, sizeof(tail_filler));
}

static void walk_legacy_opcode(struct form_list *l, enum mode mode, struct enc *e,
			       struct rng *rng)
{
	/* One memory operand of each kind, and all registers: some opcodes end in
	 * ModRM.rm. */
	for (unsigned reg = 0; reg < 8; reg++) {
		set_tail(e, (u8)(reg << 3 | 1));
		add(l, mode, e, rng);
		for (unsigned rm = 0; rm < 8; rm++) {
			set_tail(e, (u8)(0xc0 | reg << 3 | rm));
			add(l, mode, e, rng);
		}
	}
	/* 3DNow!: the opcode comes last. */
	if (e->map == 1 && e->opcode == 0x0f) {
		for (unsigned op = 0; op < 256; op++) {
			set_tail(e, 0xc1);
			e->tail[1] = (u8)op;
			add(l, mode, e, rng);
			set_tail(e, 0x01);
			e->tail[1] = (u8)op;
			add(l, mode, e, rng);
		}
	}
}

static void walk_legacy(struct form_list *l, enum mode mode, struct rng *rng)
{
	static const u8 sets[][3] = { { 0 },          { 0x66 },       { 0xf2 },
				      { 0xf3 },       { 0x66, 0xf2 }, { 0x66, 0xf3 },
				      { 0xf0 },       { 0xf0, 0x66 }, { 0x67 },
				      { 0x67, 0x66 }, { 0x67, 0xf3 }, { 0x67, 0xf2 } };

	for (unsigned s = 0; s < ARRAY_SIZE(sets); s++) {
		for (unsigned w = 0; w < (mode == MODE64 ? 2u : 1u); w++) {
			for (unsigned map = 0; map < 4; map++) {
				for (unsigned op = 0; op < 256; op++) {
					struct enc e = { .map = (u8)map,
							 .opcode = (u8)op,
							 .w = (u8)w };

					while (e.prefixes < 3 && sets[s][e.prefixes])
						e.prefixes++;
					memcpy(e.prefix, sets[s], 3);
					walk_legacy_opcode(l, mode, &e, rng);
				}
			}
		}
	}
}

static void walk_modrm(struct form_list *l, enum mode mode, struct enc *e,
		       struct rng *rng)
{
	for (unsigned reg = 0; reg < 8; reg++) {
		set_tail(e, (u8)(0xc1 | reg << 3));
		add(l, mode, e, rng);
		set_tail(e, (u8)(0x01 | reg << 3));
		add(l, mode, e, rng);
		/* With SIB, for vector indexes: index 2, base 1. */
		set_tail(e, (u8)(0x04 | reg << 3));
		e->tail[1] = 0x11;
		add(l, mode, e, rng);
	}
}

static void walk_vex(struct form_list *l, enum mode mode, enum enc_kind kind,
		     struct rng *rng)
{
	unsigned first = kind == ENC_XOP ? 8 : 1;

	for (unsigned map = first; map < first + 3; map++)
		for (unsigned n = 0; n < 16; n++)
			for (unsigned op = 0; op < 256; op++) {
				struct enc e = { .kind = (u8)kind,
						 .map = (u8)map,
						 .opcode = (u8)op,
						 .pp = n & 3,
						 .l = n >> 2 & 1,
						 .w = (u8)(n >> 3) };

				walk_modrm(l, mode, &e, rng);
			}
}

static void walk_evex(struct form_list *l, enum mode mode, struct rng *rng)
{
	static const u8 maps[] = { 1, 2, 3, 5, 6 };

	for (unsigned m = 0; m < ARRAY_SIZE(maps); m++)
		for (unsigned n = 0; n < 128; n++)
			for (unsigned op = 0; op < 256; op++) {
				struct enc e = { .kind = ENC_EVEX,
						 .map = maps[m],
						 .opcode = (u8)op,
						 .pp = n & 3,
						 .w = n >> 2 & 1,
						 .l = n >> 3 & 3,
						 .bc = n >> 5 & 1,
						 .aaa = (u8)(n >> 6) };

				walk_modrm(l, mode, &e, rng);
			}
}

void form_walk(struct form_list *l, enum mode mode, struct rng *rng)
{
	walk_legacy(l, mode, rng);
	walk_vex(l, mode, ENC_VEX, rng);
	walk_vex(l, mode, ENC_XOP, rng);
	walk_evex(l, mode, rng);
}
