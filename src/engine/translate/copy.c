/*
 * Re-encoding: the guest's instruction itself, with its registers where they live and its
 * memory operand where memop() has found it.
 *
 * SDM volume 2 chapter 2 (prefixes, REX, ModRM, VEX, EVEX). Only fields are changed,
 * never the operation, so flags, rounding and everything undefined are the processor's
 * own. What the host may fault on (a division, an unmasked SIMD exception, a misaligned
 * MOVAPS) has the slow stub as its way out, where the interpreter's function makes the
 * exact guest exception of it.
 */
#include "engine/translate/front.h"

/* Host register numbers for the fields, or the memory operand. */
struct fields {
	unsigned reg, rm;
	struct operand at;
};

static unsigned vvvv_of(const struct plan *p)
{
	unsigned at = plan_prefixes(p->bytes);

	return ~p->bytes[at + (p->bytes[at] == 0xc5 ? 1u : 2u)] >> 3 & 15;
}

/*
 * The register in VEX.vvvv goes to T_KEEP. That may be the place of ModRM.reg as well: it
 * is only written then, and by what has read this one.
 */
static void place_vvvv(struct front *f, const struct plan *p, struct fields *x)
{
	if (p->rm_gpr && x->rm == T_KEEP) {
		emit_load(&f->e, x->rm = T_SLOT, gpr_slot(&f->e, p->in->rm));
		f->in_slot = -1;
	}
	if (!p->vvvv_written)
		emit_load(&f->e, T_KEEP, gpr_slot(&f->e, vvvv_of(p)));
}

/* Copies of registers that live in memory go to scratch; the fields name the host's. */
static void place_registers(struct front *f, const struct plan *p, struct fields *x)
{
	struct emit *e = &f->e;
	const struct insn *in = p->in;

	/* With the REX prefix that the operand needs there is no AH: turned round it is
	 * the low byte. */
	if (p->high_byte && p->mem)
		emit_rorx(e, x->reg = T_KEEP, in->reg - 4u, 8);
	if (p->high_byte)
		return;
	if (p->reg_gpr) {
		if (in_memory(in->reg))
			emit_load(e, x->reg = T_KEEP, gpr_slot(&f->e, in->reg));
		else
			x->reg = home(in->reg);
	}
	if (p->rm_gpr || p->opc_gpr) {
		if (p->reg_gpr && in_memory(in->rm) && in->rm == in->reg) {
			x->rm = T_KEEP;
		} else if (in_memory(in->rm)) {
			emit_load(e, x->rm = T_SLOT, gpr_slot(&f->e, in->rm));
			f->in_slot = -1;
		} else {
			x->rm = home(in->rm);
		}
	}
	if (p->vvvv_slot)
		place_vvvv(f, p, x);
}

/* The bit's number in its unit, which is where memop() went. */
static void within_unit(struct front *f, const struct plan *p, struct fields *x)
{
	i32 mask = FRAME(f->t, bit_mask) + (p->acc.size == 8 ? 8 : 0);

	emit_pext(&f->e, T_KEEP, x->reg, mask);
	x->reg = T_KEEP;
}

static void store_registers(struct front *f, const struct plan *p, const struct fields *x)
{
	const struct insn *in = p->in;

	if (p->high_byte && p->mem && p->reg_written)
		emit_rorx(&f->e, in->reg - 4u, T_KEEP, 56);
	if (p->high_byte)
		return;
	if (p->reg_gpr && p->reg_written && in_memory(in->reg))
		emit_store(&f->e, x->reg, gpr_slot(&f->e, in->reg));
	if ((p->rm_gpr || p->opc_gpr) && p->rm_written && in_memory(in->rm))
		emit_store(&f->e, x->rm, gpr_slot(&f->e, in->rm));
	if (p->vvvv_slot && p->vvvv_written)
		emit_store(&f->e, T_KEEP, gpr_slot(&f->e, vvvv_of(p)));
}

/* ModRM, and what belongs to it for memory. */
static void emit_operands(struct emit *e, const struct plan *p, const struct fields *x,
			  bool scaled)
{
	if (p->mem)
		memop_emit(e, x->reg, x->at, scaled);
	else
		e8(e, 0xc0 | (x->reg & 7) << 3 | (x->rm & 7));
}

/* The bytes behind ModRM, SIB and displacement: immediates. */
static void emit_immediates(struct emit *e, const struct plan *p)
{
	for (unsigned i = p->in->len - p->imm_len; i < p->in->len; i++)
		e8(e, p->bytes[i]);
}

/* Is the byte at 'at' the last of the opcode? The maps are one byte, 0F, 0F38 and 0F3A.
 */
static unsigned opcode_last(const u8 *bytes, unsigned at)
{
	if (bytes[at] != 0x0f)
		return at;
	return bytes[at + 1] == 0x38 || bytes[at + 1] == 0x3a ? at + 2 : at + 1;
}

static void emit_legacy(struct emit *e, const struct plan *p, const struct fields *x)
{
	unsigned at = plan_prefixes(p->bytes), rex = 0, last;

	if (p->size66)
		e8(e, 0x66);
	for (unsigned i = 0; i < at; i++)
		if ((p->bytes[i] == 0x66 && !p->low) || p->bytes[i] == 0xf2 ||
		    p->bytes[i] == 0xf3 || p->bytes[i] == 0xf0)
			e8(e, p->bytes[i]);
	/* Also one without bits: it makes SPL, BPL, SIL and DIL what they are. */
	if (!is_narrow(p->in) && (p->bytes[at] & 0xf0) == 0x40)
		rex = 0x40 | (p->bytes[at++] & 8);
	if (p->modrm && x->reg >> 3)
		rex |= 0x44;
	if (p->mem)
		rex |= 0x40 | memop_rex(x->at);
	else if ((p->modrm || p->opc_gpr) && x->rm >> 3)
		rex |= 0x41;
	if (rex)
		e8(e, rex);
	last = opcode_last(p->bytes, at);
	while (at < last)
		e8(e, p->bytes[at++]);
	if (p->recoded)
		e8(e, p->recoded);
	else
		e8(e, p->opc_gpr ? (p->bytes[at] & 0xf8u) | (x->rm & 7) : p->bytes[at]);
	if (p->modrm)
		emit_operands(e, p, x, false);
	emit_immediates(e, p);
}

static void emit_vex_copy(struct emit *e, const struct plan *p, const struct fields *x)
{
	unsigned at = plan_prefixes(p->bytes), map = 1, last, rxb;

	if (is_narrow(p->in) && p->in->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER) {
		narrow_vzeroupper(e);
		return;
	}

	if (p->bytes[at] == 0xc5) {
		last = p->bytes[at + 1] & 0x7f; /* W is 0 */
		at += 2;
	} else {
		map = p->bytes[at + 1] & 31;
		last = p->bytes[at + 2];
		at += 3;
	}
	/* Inverted: set when the register is below 8. */
	rxb = x->reg >> 3 ? 0 : 0x80;
	if (p->mem)
		rxb |= ~memop_rex(x->at) << 5 & 0x60;
	else
		rxb |= 0x40 | (x->rm >> 3 ? 0 : 0x20);
	e8(e, 0xc4);
	e8(e, rxb | map);
	if (p->vvvv_slot)
		last = (last & ~0x78u) | (~(unsigned)T_KEEP & 15) << 3;
	e8(e, last);
	e8(e, p->bytes[at]);
	if (p->modrm) /* not VZEROUPPER */
		emit_operands(e, p, x, false);
	emit_immediates(e, p);
}

/* Of EVEX only the memory operand changes, or general registers below 16. */
static void emit_evex_copy(struct emit *e, const struct plan *p, const struct fields *x)
{
	unsigned at = plan_prefixes(p->bytes), p0 = p->bytes[at + 1];

	if (p->reg_gpr)
		p0 = (p0 & 0x7fu) | (x->reg >> 3 ? 0 : 0x80);
	if (p->mem)
		p0 = (p0 & ~0x60u) | (~memop_rex(x->at) << 5 & 0x60);
	else if (p->rm_gpr)
		p0 = (p0 & ~0x20u) | (x->rm >> 3 ? 0 : 0x20);
	e8(e, 0x62);
	e8(e, p0);
	e8(e, p->bytes[at + 2]);
	e8(e, p->bytes[at + 3]);
	e8(e, p->bytes[at + 4]);
	if (p->mem || p->rm_gpr || p->reg_gpr)
		emit_operands(e, p, x, true);
	else
		e8(e, p->bytes[at + 5]); /* registers above 15 are in the prefix */
	emit_immediates(e, p);
}

/* Vector registers may be the host's own now; asked once a trace (see
 * translate_call_out). */
static void check_vectors(struct front *f, const struct plan *p)
{
	if (f->vec_checked)
		return;
	check_zero(f, p, FRAME(f->t, vec_parked), true);
	f->vec_checked = true;
}

void copy_insn(struct front *f, const struct plan *p)
{
	struct fields x = { .reg = p->recoded ? p->digit : p->in->reg, .rm = p->in->rm };
	struct cold *fault = NULL;

	if (p->vector)
		check_vectors(f, p);
	if (p->mem) {
		x.at = memop(f, p, &p->acc);
		fault = f->access;
	}
	place_registers(f, p, &x);
	if (p->mem && p->acc.bits)
		within_unit(f, p, &x);
	if (p->can_fault) {
		if (!fault)
			fault = cold_add(f, p, NULL, false);
		site_add(f, fault);
	}
	if (p->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		emit_legacy(&f->e, p, &x);
	else if (p->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex_copy(&f->e, p, &x);
	else
		emit_evex_copy(&f->e, p, &x);
	store_registers(f, p, &x);
	x87_after(f, p, x.at);
}
