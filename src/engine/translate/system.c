/*
 * The system instructions that kernels execute all the time: CLI, STI, CLAC, STAC, PUSHF,
 * CLD, STD, SWAPGS, MOV from CR0, CR2, CR3 and CR4.
 *
 * SDM volume 2. Code below CPL 3 is translated for CPL 0, where none of them faults. Bits
 * of vcpu.flags are changed by PEXT and PDEP where EFLAGS must stay. STI holds
 * interrupts back for one instruction: when no event is waiting that is so because the
 * next one is in the same trace (front.c), otherwise the interpreter's function does it.
 *
 * After STAC a trace looks addresses up in the TLB for EFLAGS.AC = 1, until CLAC or its
 * end; at its begin it is not known, and the other one is right for both, if slow.
 * Thread: the owner of the vCPU.
 */
#include "engine/interp/ops.h"
#include "engine/translate/front.h"
#include "x86/msr.h"

/* Where in the vCPU the control register of a MOV is; 0: somewhere else. */
static size_t cr_offset(const struct insn *in)
{
	switch (in->reg) {
	case 0: return offsetof(struct vcpu, cr0);
	case 2: return offsetof(struct vcpu, cr2);
	case 3: return offsetof(struct vcpu, cr3);
	case 4: return offsetof(struct vcpu, cr4);
	default: return 0;
	}
}

bool system_plan(const struct front *f, struct plan *p)
{
	const struct translator *t = f->t;
	bool kernel = !tr_mode_is_user(f->mode);

	switch (p->in->mnemonic) {
	case ZYDIS_MNEMONIC_CLI: p->flags = FLAGS_ALONE; return kernel;
	/* The shadow would be missed by whoever compares. */
	case ZYDIS_MNEMONIC_STI:
		p->flags = FLAGS_USED;
		return kernel && !t->options.run_block;
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_STAC:
		p->flags = FLAGS_ALONE;
		return kernel && cpu_has(t->v, FEAT_SMAP);
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFQ:
	case ZYDIS_MNEMONIC_PUSHFD:
		/* In virtual-8086 mode it may fault. */
		if (!is_slot(p) || (p->low && !kernel))
			return false;
		p->flags = FLAGS_USED;
		p->mem = true;
		p->acc = plan_stack(f, p, -1, true);
		p->written = 1u << RSP;
		return true;
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD: return true;
	case ZYDIS_MNEMONIC_SWAPGS: return kernel;
	case ZYDIS_MNEMONIC_MOV:
		if (!kernel || p->in->fn != op_mov_from_cr || !cr_offset(p->in) ||
		    (p->in->flags & INSN_LOCK))
			return false;
		p->written = (u16)(1u << p->in->rm);
		return true;
	default: return false;
	}
}

/* reg = bits of it that the mask in the frame has, in their places. */
static void keep_bits(struct emit *e, unsigned reg, i32 mask)
{
	emit_pext(e, reg, reg, mask);
	emit_pdep(e, reg, reg, mask);
}

static void set_flag(struct front *f, const struct plan *p, u32 bit, bool to)
{
	struct emit *e = &f->e;
	i32 mask = bit == RFLAGS_IF   ? FRAME(f->t, not_if)
		   : bit == RFLAGS_AC ? FRAME(f->t, not_ac)
				      : FRAME(f->t, not_df);

	if (eflags_lose(f, p)) {
		/* and or or dword [flags], imm32 */
		e8(e, 0x81);
		emit_at(e, to ? 1 : 4, VCPU(f->t, flags));
		e32(e, to ? bit : ~bit);
		return;
	}
	emit_load(e, T_ADDR, VCPU(f->t, flags));
	keep_bits(e, T_ADDR, mask);
	if (to)
		emit_lea(e, true, T_ADDR, T_ADDR, (i32)bit);
	emit_store(e, T_ADDR, VCPU(f->t, flags));
}

static void set_ac(struct front *f, const struct plan *p, bool to)
{
	struct emit *e = &f->e;

	set_flag(f, p, RFLAGS_AC, to);
	f->idx = to && (f->t->v->cr4 & CR4_SMAP) ? MMU_KERNEL_AC : MMU_KERNEL;
	/* mov byte [mmu_idx], imm8 */
	e8(e, 0xc6);
	emit_at(e, 0, VCPU(f->t, mmu_idx));
	e8(e, f->idx);
}

static void swap_gs(struct front *f)
{
	struct emit *e = &f->e;
	i32 base = VCPU(f->t, seg) + (i32)(GS * sizeof(struct seg));
	i32 other = VCPU(f->t, msr) + 8 * MSRI_KERNEL_GS_BASE;

	emit_load(e, T_ADDR, base);
	emit_load(e, T_KEEP, other);
	emit_store(e, T_ADDR, other);
	emit_store(e, T_KEEP, base);
}

static void load_cr(struct front *f, const struct plan *p)
{
	unsigned to = p->in->rm;
	i32 from = (i32)(uintptr_t)f->t->v + (i32)cr_offset(p->in);

	if (f->narrow) {
		e8(&f->e, 0x40 | (home(to) >> 3) << 2); /* mov r32, [from] */
		e8(&f->e, 0x8b);
		emit_at(&f->e, home(to), from);
		return;
	}
	emit_load(&f->e, in_memory(to) ? T_ADDR : home(to), from);
	if (in_memory(to))
		emit_store(&f->e, T_ADDR, gpr_slot(&f->e, to));
}

static void push_flags(struct front *f, const struct plan *p)
{
	struct emit *e = &f->e;
	struct operand o;

	if (f->narrow) {
		narrow_push_flags(f, p);
		return;
	}
	o = memop(f, p, &p->acc);
	e8(e, 0x9c); /* pushfq */
	e8(e, 0x41);
	e8(e, 0x5b); /* pop r11 */
	keep_bits(e, T_KEEP, FRAME(f->t, status));
	/* RF and VM, which are not pushed, are 0 in translated code. The operand is off
	 * r8. */
	emit_load(e, T_ADDR, VCPU(f->t, flags));
	emit_lea_sib(e, true, T_KEEP, T_KEEP, T_ADDR, 0, 0);
	e8(e, 0x48 | (T_KEEP >> 3) << 2 | memop_rex(o));
	e8(e, 0x89);
	memop_emit(e, T_KEEP, o, false);
	emit_lea(e, true, H_R8, H_R8, -8);
}

void system_insn(struct front *f, const struct plan *p)
{
	switch (p->in->mnemonic) {
	case ZYDIS_MNEMONIC_CLI: set_flag(f, p, RFLAGS_IF, false); break;
	case ZYDIS_MNEMONIC_STI:
		check_zero(f, p, VCPU(f->t, events), false);
		set_flag(f, p, RFLAGS_IF, true);
		break;
	case ZYDIS_MNEMONIC_CLAC: set_ac(f, p, false); break;
	case ZYDIS_MNEMONIC_STAC: set_ac(f, p, true); break;
	case ZYDIS_MNEMONIC_CLD: set_flag(f, p, RFLAGS_DF, false); break;
	case ZYDIS_MNEMONIC_STD: set_flag(f, p, RFLAGS_DF, true); break;
	case ZYDIS_MNEMONIC_SWAPGS: swap_gs(f); break;
	case ZYDIS_MNEMONIC_MOV: load_cr(f, p); break;
	default: push_flags(f, p); break;
	}
}
