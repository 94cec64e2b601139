/*
 * Decimal adjustment: AAA, AAS, AAM, AAD, DAA, DAS. Invalid in 64-bit mode.
 *
 * SDM volume 2. The host, in 64-bit mode, does not have them, so these few are computed.
 * Flags the manual calls undefined are set as processors do. Intel: from the result, OF
 * clear. AMD: AAA and AAS those of an operation on AX, DAA and DAS have its OF. AAD is an
 * addition.
 */
#include "engine/interp/flags.h"
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

static u64 szp(u8 al)
{
	u64 cc = 0;

	if (!al)
		cc |= RFLAGS_ZF;
	if (al & 0x80)
		cc |= RFLAGS_SF;
	if (!__builtin_parity(al))
		cc |= RFLAGS_PF;
	return cc;
}

static enum op_result ascii_adjust(struct vcpu *v, int sign)
{
	u16 old = (u16)v->gpr[RAX], by = 0, ax = old;
	u64 cc = 0;

	if ((ax & 15) > 9 || (v->cc & RFLAGS_AF)) {
		by = 0x106;
		ax = (u16)(ax + sign * by);
		cc = RFLAGS_AF | RFLAGS_CF;
	}
	ax &= 0xff0f;
	reg_set(v, RAX, 2, ax);
	if (!cpu_is_amd(v)) {
		v->cc = cc | szp((u8)ax);
		return OP_NEXT;
	}
	if (sign > 0)
		flags_of_add(v, old, by, 2);
	else
		flags_of_compare(v, old, by, 2);
	v->cc = (v->cc & ~(u64)(RFLAGS_AF | RFLAGS_CF)) | cc;
	return OP_NEXT;
}

enum op_result op_aaa(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return ascii_adjust(v, 1);
}

enum op_result op_aas(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return ascii_adjust(v, -1);
}

enum op_result op_aam(struct vcpu *v, const struct insn *in)
{
	u8 al = (u8)v->gpr[RAX], base = (u8)in->imm;

	if (!base) {
		raise_vec(v, VEC_DE);
		return OP_FAULT;
	}
	reg_set(v, RAX, 2, (u64)(al / base) << 8 | al % base);
	v->cc = szp(al % base);
	return OP_NEXT;
}

enum op_result op_aad(struct vcpu *v, const struct insn *in)
{
	u8 al = (u8)v->gpr[RAX], tens = (u8)((v->gpr[RAX] >> 8) * (u8)in->imm);

	flags_of_add(v, al, tens, 1);
	reg_set(v, RAX, 2, (u8)(al + tens));
	return OP_NEXT;
}

static enum op_result decimal_adjust(struct vcpu *v, bool subtract)
{
	u8 old = (u8)v->gpr[RAX], al = old;
	bool old_cf = v->cc & RFLAGS_CF;
	u64 cc = 0;

	if ((al & 15) > 9 || (v->cc & RFLAGS_AF)) {
		/* DAS: a borrow out of the low nibble's correction is a carry too. */
		if (subtract && al < 6)
			cc |= RFLAGS_CF;
		al = (u8)(subtract ? al - 6 : al + 6);
		cc |= RFLAGS_AF | (old_cf ? RFLAGS_CF : 0);
	}
	if (old > 0x99 || old_cf) {
		al = (u8)(subtract ? al - 0x60 : al + 0x60);
		cc |= RFLAGS_CF;
	}
	reg8_set(v, 0, al);
	if (cpu_is_amd(v)) {
		if (subtract)
			flags_of_compare(v, old, (u8)(old - al), 1);
		else
			flags_of_add(v, old, (u8)(al - old), 1);
		cc |= v->cc & RFLAGS_OF;
	}
	v->cc = cc | szp(al);
	return OP_NEXT;
}

enum op_result op_daa(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return decimal_adjust(v, false);
}

enum op_result op_das(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return decimal_adjust(v, true);
}
