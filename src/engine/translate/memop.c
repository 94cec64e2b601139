/*
 * Guest memory operands: addresses and the TLB check.
 *
 * The check leaves EFLAGS alone, so flags need no analysis: PEXT cuts the slot out of the
 * address, adding the negated tag gives the offset in the page, and PEXT with the upper
 * bits is zero exactly for a hit that does not cross the page. JRCXZ is the only branch
 * that asks no flag.
 */
#include "engine/translate/front.h"

/* Offsets of tr_jumps and tlb arrays are from rsp, which is the vcpu. */
static i32 tlb_off(const struct front *f, size_t field)
{
	return VCPU(tlb) + (i32)(f->idx * sizeof(struct tlb_way) + field);
}

bool memop_address(struct front *f, const struct insn *in)
{
	struct emit *e = &f->e;
	bool wide = in->adsize == 8;
	unsigned base = NO_REG, index = NO_REG;
	i64 wanted = in->disp + (in->base == GPR_RIP ? (i64)f->start : 0);
	i32 disp = (i32)wanted;

	/* Nearly 2 GiB from RIP, counted from the page: past what LEA reaches. */
	if (in->adsize == 2 || disp != wanted)
		return false;
	if (in->base == GPR_RIP) {
		/* in->disp counts from the block's start. */
		emit_load_rsp(e, T_ADDR, FRAME(f->t, page_lin));
		base = T_ADDR;
	} else if (in->base != GPR_ZERO) {
		base = in_memory(in->base) ? T_ADDR : home(in->base);
		if (in_memory(in->base))
			emit_load_rsp(e, T_ADDR, gpr_slot(in->base));
	}
	if (in->index != GPR_ZERO) {
		index = in_memory(in->index) ? T_SLOT : home(in->index);
		if (in_memory(in->index))
			emit_load_rsp(e, T_SLOT, gpr_slot(in->index));
	}
	if (index != NO_REG)
		emit_lea_sib(e, wide, T_ADDR, base, index, in->scale, disp);
	else if (base != NO_REG)
		emit_lea(e, wide, T_ADDR, base, disp);
	else
		emit_mov_imm(e, T_ADDR, (u64)(i64)disp & size_mask(in->adsize));
	if (in->seg >= FS) {
		emit_load_rsp(e, T_SLOT, VCPU(seg) + (i32)(in->seg * sizeof(struct seg)));
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, 0);
	}
	return true;
}

void memop_check(struct front *f, const struct insn *in, bool write, unsigned size)
{
	struct emit *e = &f->e;
	size_t tag =
		write ? offsetof(struct tlb_way, write) : offsetof(struct tlb_way, read);
	u8 *slow;

	emit_pext_rsp(e, T_SLOT, T_ADDR, FRAME(f->t, index_mask));
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_rsp_index(e, 0x8b, H_RCX, T_SLOT, tlb_off(f, tag));
	/* The offset of the last byte: past the page when the access crosses it. */
	emit_lea_sib(e, true, H_RCX, H_RCX, T_ADDR, 0, (i32)size - 1);
	emit_pext_rsp(e, H_RCX, H_RCX, FRAME(f->t, page_mask));
	emit_rsp_index(e, 0x8b, T_SLOT, T_SLOT,
		       tlb_off(f, offsetof(struct tlb_way, addend)));
	emit_jrcxz(e, f->t->options.slow ? 0 : 5);
	slow = emit_jmp(e, 0);
	f->access = cold_add(f, in, slow, true);
	emit_mov_rr(e, H_RCX, T_KEEP);
}
