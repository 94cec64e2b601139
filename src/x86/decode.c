/*
 * Decoding, over Zydis.
 *
 * SDM volume 2 chapter 2. Zydis checks encodings and gives lengths and fields; what is
 * done here is bringing ModRM, SIB and prefixes of every address size into one base +
 * index << scale + displacement form, so that execution does not know modes. Thread: any;
 * no state.
 */
#include "x86/decode.h"

#include <Zydis/Zydis.h>
#include <stdio.h>

static void decoder_init(ZydisDecoder *d, unsigned code_size, bool amd)
{
	static const struct {
		ZydisMachineMode mode;
		ZydisStackWidth width;
	} modes[] = {
		[2] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[4] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[8] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};

	ZydisDecoderInit(d, modes[code_size].mode, modes[code_size].width);
	/* ENDBR, RDSSP and the bounds instructions are the NOPs they are without CET and
	 * MPX. */
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_AMD_BRANCHES, amd);
}

struct prefixes {
	u8 seg; /* SREG_NONE: no override */
	u8 flags;
};

/* All of them count, wherever they are; it is REX alone that must come last to count. */
static struct prefixes scan_prefixes(const ZydisDecodedInstruction *zi,
				     unsigned code_size)
{
	struct prefixes r = { .seg = SREG_NONE };

	for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
		switch (zi->raw.prefixes[i].value) {
		/* 64-bit mode does not see these. */
		case 0x26: r.seg = code_size == 8 ? r.seg : ES; break;
		case 0x2e: r.seg = code_size == 8 ? r.seg : CS; break;
		case 0x36: r.seg = code_size == 8 ? r.seg : SS; break;
		case 0x3e: r.seg = code_size == 8 ? r.seg : DS; break;
		case 0x64: r.seg = FS; break;
		case 0x65: r.seg = GS; break;
		case 0x66: r.flags |= INSN_OPSIZE; break;
		case 0xf0: r.flags |= INSN_LOCK; break;
		/* The last of the two counts. */
		case 0xf2: r.flags = (r.flags & ~INSN_REP) | INSN_REPNE; break;
		case 0xf3: r.flags = (r.flags & ~INSN_REPNE) | INSN_REP; break;
		default: break;
		}
	}
	return r;
}

/* ModRM with 16-bit addressing. SDM 2 table 2-1. */
static void mem16(struct insn *in, const ZydisDecodedInstruction *zi)
{
	static const u8 base[8] = { RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX };
	static const u8 index[8] = { RSI,      RDI,      RSI,      RDI,
				     GPR_ZERO, GPR_ZERO, GPR_ZERO, GPR_ZERO };
	unsigned rm = zi->raw.modrm.rm;

	in->index = index[rm];
	in->base = rm == 6 && zi->raw.modrm.mod == 0 ? GPR_ZERO : base[rm];
	in->disp = (i32)zi->raw.disp.value;
}

/* ModRM and SIB with 32- and 64-bit addressing. SDM 2 tables 2-2, 2-3. */
static void mem32(struct insn *in, const ZydisDecodedInstruction *zi, u8 rex_x, u8 rex_b,
		  bool mode64)
{
	unsigned mod = zi->raw.modrm.mod, rm = zi->raw.modrm.rm;

	in->disp = (i32)zi->raw.disp.value;
	if (rm == 4) {
		unsigned index = zi->raw.sib.index | rex_x << 3;

		in->index = index == 4 ? GPR_ZERO : (u8)index;
		in->scale = zi->raw.sib.scale;
		in->base = zi->raw.sib.base == 5 && mod == 0
				   ? GPR_ZERO
				   : (u8)(zi->raw.sib.base | rex_b << 3);
	} else if (rm == 5 && mod == 0) {
		in->base = mode64 ? GPR_RIP : GPR_ZERO;
		if (mode64)
			in->disp += zi->length;
	} else {
		in->base = (u8)(rm | rex_b << 3);
	}
}

static u8 default_seg(const struct insn *in)
{
	return in->base == RSP || in->base == RBP ? SS : DS;
}

static u8 byte_reg(unsigned reg, bool rex)
{
	return (u8)(!rex && reg >= 4 && reg < 8 ? (reg - 4) * 8 + 1 : reg * 8);
}

/* The operand size of near branches, which Zydis knows of some only. */
static void fill_amd(struct insn *in, const ZydisDecodedInstruction *zi)
{
	bool near = zi->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT ||
		    zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;

	if (near && (in->flags & INSN_MODE64))
		in->opsize =
			(in->flags & (INSN_OPSIZE | INSN_REXW)) == INSN_OPSIZE ? 2 : 8;
}

/* AMD's UD0 and UD1 have no ModRM byte, which matters at the end of a page. */
static bool is_short_ud(const u8 *bytes, unsigned len, unsigned code_size)
{
	for (unsigned i = 0; i + 1 < len; i++) {
		switch (bytes[i]) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x64:
		case 0x65:
		case 0x66:
		case 0x67:
		case 0xf2:
		case 0xf3: continue;
		case 0x0f: return bytes[i + 1] == 0xb9 || bytes[i + 1] == 0xff;
		default:
			if (code_size == 8 && (bytes[i] & 0xf0) == 0x40)
				continue;
			return false;
		}
	}
	return false;
}

static void fill(struct insn *in, const ZydisDecodedInstruction *zi, unsigned code_size)
{
	struct prefixes p = scan_prefixes(zi, code_size);
	bool legacy = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
	bool rex = legacy && (zi->attributes & ZYDIS_ATTRIB_HAS_REX);
	u8 r = rex ? zi->raw.rex.R : 0, x = rex ? zi->raw.rex.X : 0,
	   b = rex ? zi->raw.rex.B : 0;
	unsigned rm;

	*in = (struct insn){
		.len = zi->length,
		.mnemonic = (u16)zi->mnemonic,
		.opcode = zi->opcode,
		.opsize = zi->operand_width / 8,
		.adsize = zi->address_width / 8,
		.flags = p.flags,
		.base = GPR_ZERO,
		.index = GPR_ZERO,
	};
	if (!legacy)
		in->flags |= INSN_VEX;
	if (code_size == 8)
		in->flags |= INSN_MODE64;
	if (rex && zi->raw.rex.W)
		in->flags |= INSN_REXW;
	if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		in->modrm = (u8)(zi->raw.modrm.mod << 6 | zi->raw.modrm.reg << 3 |
				 zi->raw.modrm.rm);
		if (!legacy && zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
		    code_size == 8) {
			r = !zi->raw.vex.R;
			x = !zi->raw.vex.X;
			b = !zi->raw.vex.B;
		} else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
			   code_size == 8) {
			r = !zi->raw.evex.R;
			x = !zi->raw.evex.X;
			b = !zi->raw.evex.B;
		}
		in->reg = (u8)(zi->raw.modrm.reg | r << 3);
		rm = zi->raw.modrm.rm | (unsigned)b << 3;
		if (zi->raw.modrm.mod != 3) {
			in->flags |= INSN_MEM;
			if (in->adsize == 2)
				mem16(in, zi);
			else
				mem32(in, zi, x, b, code_size == 8);
		}
	} else {
		rm = (zi->opcode & 7) | (unsigned)b << 3;
	}
	in->rm = (u8)rm;
	in->reg8 = byte_reg(in->reg, rex);
	in->rm8 = byte_reg(rm, rex);
	in->seg = p.seg != SREG_NONE ? p.seg : default_seg(in);

	if (zi->raw.imm[0].size)
		in->imm = zi->raw.imm[0].value.u;
	if (zi->raw.imm[1].size)
		in->imm2 = (u16)zi->raw.imm[1].value.u;
	/* Far pointers and moffs: Zydis has them as immediates or as a displacement. */
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) && zi->raw.disp.size) {
		in->flags |= INSN_MEM;
		in->imm = size_mask(in->adsize) & (u64)zi->raw.disp.value;
	}
}

enum decode_status decode(const u8 *bytes, unsigned len, unsigned code_size, bool amd,
			  struct insn *in)
{
	ZydisDecodedInstruction zi;
	ZydisDecoderContext ctx;
	ZydisDecoder d;
	ZyanStatus s;

	if (amd && is_short_ud(bytes, MIN(len, 15u), code_size))
		return DECODE_UD;
	decoder_init(&d, code_size, amd);
	s = ZydisDecoderDecodeInstruction(&d, &ctx, bytes, MIN(len, 15u), &zi);
	if (ZYAN_SUCCESS(s)) {
		fill(in, &zi, code_size);
		if (amd)
			fill_amd(in, &zi);
		return DECODE_OK;
	}
	if (s == ZYDIS_STATUS_NO_MORE_DATA)
		return len >= 15 ? DECODE_TOO_LONG : DECODE_MORE;
	if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return DECODE_TOO_LONG;
	return DECODE_UD;
}

void disassemble(const u8 *bytes, unsigned len, unsigned code_size, u64 rip, char *buf,
		 size_t size)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisFormatter fmt;
	ZydisDecoder d;

	decoder_init(&d, code_size, false);
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&d, bytes, MIN(len, 15u), &zi, ops)) ||
	    ZYAN_FAILED(ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL)) ||
	    ZYAN_FAILED(ZydisFormatterFormatInstruction(
		    &fmt, &zi, ops, zi.operand_count_visible, buf, size, rip, NULL)))
		snprintf(buf, size, "(bad)");
}
