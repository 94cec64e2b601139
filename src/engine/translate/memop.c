/*
 * Guest memory operands: addresses and the TLB check.
 *
 * There are two checks. The quick one compares, and so overwrites EFLAGS; eflags.c says
 * where it may. The other leaves EFLAGS alone: PEXT cuts the slot out of the
 * address, adding the negated tag gives the offset in the page, and PEXT with the upper
 * bits is zero exactly for a hit that does not cross the page. JRCXZ is the only branch
 * that asks no flag.
 *
 * Either finds the addend, which the operand is addressed with: [base + addend + disp]
 * with the guest's own base register where that is possible, so that the address does
 * not wait for the check.
 *
 * Still the addend comes from a slot that the address chooses. So each access has a memo
 * of the entry it used last (memo.c), and looks there first; the TLB is asked in the
 * seldom-run part. An empty memo must match no address at all, whatever the guest
 * adds up to one, in each form:
 *
 * MEMO_QUICK adds the negated page, which carries exactly for addresses from the page on,
 * and compares what is left. Empty is 0, which never carries. (So is page 0, which
 * therefore is never found.)
 *
 * MEMO_SINGLE, with flags left alone: PEXT takes the page number, of 52 bits, and the
 * bits that an aligned access has 0; the sum with what 'neg_page' is, is 0 for a hit.
 * PEXT's result is below 2^58, so that it does not become 0 with 1 added: empty is 1. An
 * access that is misaligned is not found, so none crosses the page.
 *
 * MEMO_TWICE, the same for odd sizes and whole groups: the numbers of the first and the
 * last byte's page, added. They are the same or differ by 1 (or are 2^52 - 1 and 0), so
 * their sum is twice a page's number only if both are that one's. The sum is below 2^53:
 * empty is 1.
 */
#include "engine/translate/front.h"

/* struct tlb_entry's size as a shift. */
#define ENTRY_SHIFT 5
_Static_assert(sizeof(struct tlb_entry) == 1u << ENTRY_SHIFT, "the code shifts by it");

/* Address of a field of the TLB's first entry. */
static i32 tlb_off(const struct front *f, size_t field)
{
	return VCPU(f->t, tlb) + (i32)(f->idx * sizeof(struct tlb_way) + field);
}

static size_t tag_of(bool write)
{
	return write ? offsetof(struct tlb_entry, write)
		     : offsetof(struct tlb_entry, read);
}

/* The base register is in a host register, and there is nothing else but a displacement.
 */
static bool is_simple(const struct mem_access *a)
{
	return a->wide && a->seg < FS && a->index == GPR_ZERO && a->base < 16 &&
	       !in_memory(a->base) && !a->bits;
}

static i32 reach_off(const struct front *f, const struct mem_access *a, size_t field)
{
	return VCPU(f->t, reach[0][0]) +
	       (i32)((SREG_COUNT * a->write + a->seg) * sizeof(struct seg_reach) + field);
}

/*
 * From the offset in T_ADDR to the linear address of based code; uses T_SLOT.
 *
 * REACH_LOW: the last byte's offset has its bit 16 set where it is beyond FFFFh.
 * REACH_ROOM: what is left behind the access is negative where it does not fit; that from
 * the end of the segment is the address again.
 */
static void to_linear(struct front *f, const struct mem_access *a)
{
	struct emit *e = &f->e;
	i32 rest = a->size - 1;

	switch (a->reach) {
	case REACH_LOW:
		if (rest) {
			emit_lea(e, true, T_ADDR, T_ADDR, rest);
			emit_pdep(e, T_ADDR, T_ADDR, FRAME(f->t, low_mask));
		}
		emit_load(e, T_SLOT, reach_off(f, a, offsetof(struct seg_reach, low)));
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, -rest);
		break;
	case REACH_ROOM:
		emit_load(e, T_SLOT, reach_off(f, a, offsetof(struct seg_reach, room)));
		emit_not(e, T_ADDR);
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, -rest);
		emit_pext(e, T_SLOT, T_ADDR, FRAME(f->t, sign_mask));
		emit_not(e, T_ADDR);
		emit_rorx(e, T_SLOT, T_SLOT, 2); /* SEG_BARRED */
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, -rest);
		emit_load(e, T_SLOT, reach_off(f, a, offsetof(struct seg_reach, end)));
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, 0);
		break;
	default:
		emit_load(e, T_SLOT,
			  VCPU(f->t, seg) + (i32)(a->seg * sizeof(struct seg)));
		emit_lea_sib(e, false, T_ADDR, T_ADDR, T_SLOT, 0, 0);
		emit_load(e, T_SLOT, VCPU(f->t, seg_bar) + 8 * (i32)a->seg);
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, 0);
		break;
	}
}

static void low_offset(struct front *f, const struct mem_access *a)
{
	struct emit *e = &f->e;
	unsigned base = home(a->base);

	if (a->base == GPR_ZERO) {
		emit_mov_imm(e, T_ADDR, (u16)a->disp);
		return;
	}
	if (a->index != GPR_ZERO)
		emit_lea_sib(e, false, base = T_ADDR, home(a->base), a->index, 0,
			     a->disp);
	else if (a->disp)
		emit_lea(e, false, base = T_ADDR, home(a->base), a->disp);
	emit_movzx16(e, T_ADDR, base);
}

/* From the bit string to the unit that has the bit: by its signed number, in T_SLOT. */
static void to_unit(struct front *f, const struct mem_access *a)
{
	struct emit *e = &f->e;
	bool quad = a->size == 8;

	emit_mov_imm(e, T_SLOT, quad ? 6 : 5);
	if (in_memory(a->bit_reg))
		emit_sarx_at(e, quad, T_SLOT, gpr_slot(e, a->bit_reg), T_SLOT);
	else
		emit_sarx(e, quad, T_SLOT, home(a->bit_reg), T_SLOT);
	if (a->wide && !quad)
		emit_movsxd(e, T_SLOT, T_SLOT);
	emit_lea_sib(e, a->wide, T_ADDR, T_ADDR, T_SLOT, quad ? 3 : 2, 0);
}

static void plain_offset(struct front *f, const struct mem_access *a)
{
	struct emit *e = &f->e;
	unsigned base = NO_REG, index = NO_REG;

	f->in_slot = -1;
	if (a->low) {
		low_offset(f, a);
		return;
	}
	if (a->base == GPR_RIP) {
		emit_load(e, T_ADDR, FRAME(f->t, page_lin));
		base = T_ADDR;
	} else if (a->base != GPR_ZERO) {
		base = in_memory(a->base) ? T_ADDR : home(a->base);
		if (in_memory(a->base))
			emit_load(e, T_ADDR, gpr_slot(&f->e, a->base));
	}
	if (a->index != GPR_ZERO) {
		index = in_memory(a->index) ? T_SLOT : home(a->index);
		if (in_memory(a->index))
			emit_load(e, T_SLOT, gpr_slot(&f->e, a->index));
	}
	if (index != NO_REG)
		emit_lea_sib(e, a->wide, T_ADDR, base, index, a->scale, a->disp);
	else if (base == NO_REG)
		emit_mov_imm(e, T_ADDR, (u64)(i64)a->disp & size_mask(a->wide ? 8 : 4));
	else if (base != T_ADDR || a->disp || !a->wide)
		emit_lea(e, a->wide, T_ADDR, base, a->disp);
}

void memop_offset(struct front *f, const struct mem_access *a)
{
	plain_offset(f, a);
	if (a->bits)
		to_unit(f, a);
}

void memop_address(struct front *f, const struct mem_access *a)
{
	struct emit *e = &f->e;

	memop_offset(f, a);
	if (f->based) {
		to_linear(f, a);
		return;
	}
	if (a->seg >= FS) {
		emit_load(e, T_SLOT,
			  VCPU(f->t, seg) + (i32)(a->seg * sizeof(struct seg)));
		emit_lea_sib(e, !f->narrow, T_ADDR, T_ADDR, T_SLOT, 0, 0);
	}
	if (a->seg >= FS && f->narrow) {
		emit_load(e, T_SLOT, VCPU(f->t, seg_bar) + 8 * (i32)a->seg);
		emit_lea_sib(e, true, T_ADDR, T_ADDR, T_SLOT, 0, 0);
	}
}

/* 32-bit code: the address is the instruction's own, and so is the TLB's slot. */
static bool is_fixed(const struct front *f, const struct mem_access *a)
{
	return f->narrow && !f->based && a->base == GPR_ZERO && a->index == GPR_ZERO &&
	       !a->bits && a->seg < FS &&
	       ((u32)a->disp & ~(u32)PAGE_MASK) + a->size <= PAGE_SIZE;
}

/* The addend for such a one in T_SLOT; T_ADDR is kept. Returns as the others below. */
static u8 *fixed_check(struct front *f, const struct mem_access *a, bool quick)
{
	struct emit *e = &f->e;
	u32 page = (u32)a->disp & (u32)PAGE_MASK;
	i32 entry = (i32)(tlb_slot(page) * sizeof(struct tlb_entry));
	i32 tag = tlb_off(f, tag_of(a->write)) + entry;
	i32 addend = tlb_off(f, offsetof(struct tlb_entry, addend)) + entry;
	u8 *slow;

	if (quick) {
		emit_mov_imm(e, T_SLOT, page);
		emit_op_at(e, 0x03, T_SLOT, tag); /* add */
		emit_load(e, T_SLOT, addend);
		return emit_jcc(e, 5); /* jnz */
	}
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_load(e, T_SLOT, tag);
	emit_mov_imm(e, H_RCX, page);
	emit_lea_sib(e, true, H_RCX, H_RCX, T_SLOT, 0, 0);
	emit_load(e, T_SLOT, addend);
	emit_jrcxz(e, f->t->options.slow ? 0 : 5);
	slow = emit_jmp(e, 0);
	emit_mov_rr(e, H_RCX, T_KEEP);
	return slow;
}

/*
 * Of T_ADDR, in T_SLOT; T_ADDR stays if 'keep'. Returns the rel32 that leads to the stub.
 */
static u8 *quick_check(struct front *f, bool write, unsigned size, bool keep)
{
	struct emit *e = &f->e;
	unsigned off = keep ? T_KEEP : T_ADDR;

	emit_rorx(e, T_SLOT, T_ADDR, PAGE_SHIFT - ENTRY_SHIFT);
	emit_and_imm(e, T_SLOT, (TLB_SIZE - 1) << ENTRY_SHIFT);
	if (keep)
		emit_mov_rr(e, T_KEEP, T_ADDR);
	/* add off, [tag + slot]: the offset in the page */
	emit_op_index1(e, 0x03, off, T_SLOT, tlb_off(f, tag_of(write)));
	emit_op_index1(e, 0x8b, T_SLOT, T_SLOT,
		       tlb_off(f, offsetof(struct tlb_entry, addend)));
	emit_cmp_imm(e, off, (i32)(PAGE_SIZE - size));
	return emit_jcc(e, 7); /* ja */
}

/* The same, with EFLAGS left alone and T_ADDR kept. Arriving at the stub, RCX is in
 * T_KEEP. */
static u8 *flagless_check(struct front *f, bool write, unsigned size)
{
	struct emit *e = &f->e;
	u8 *slow;

	emit_pext(e, T_SLOT, T_ADDR, FRAME(f->t, index_mask));
	/* Times 4 here and times 8 in the addresses: the size of struct tlb_entry. */
	emit_lea_sib(e, true, T_SLOT, NO_REG, T_SLOT, 2, 0);
	emit_mov_rr(e, T_KEEP, H_RCX);
	emit_op_index8(e, 0x8b, H_RCX, T_SLOT, tlb_off(f, tag_of(write)));
	/* The offset of the last byte: past the page when the access crosses it. */
	emit_lea_sib(e, true, H_RCX, H_RCX, T_ADDR, 0, (i32)size - 1);
	emit_pext(e, H_RCX, H_RCX, FRAME(f->t, page_mask));
	emit_op_index8(e, 0x8b, T_SLOT, T_SLOT,
		       tlb_off(f, offsetof(struct tlb_entry, addend)));
	emit_jrcxz(e, f->t->options.slow ? 0 : 5);
	slow = emit_jmp(e, 0);
	emit_mov_rr(e, H_RCX, T_KEEP);
	return slow;
}

static i32 memo_at(const struct front *f, u32 memo, size_t field)
{
	return (i32)(uintptr_t)&f->t->memos.memo[memo] + (i32)field;
}

#define MEMO(f, memo, field) memo_at(f, memo, offsetof(struct tr_memo, field))

/* Of T_ADDR, which stays if 'keep', in T_SLOT. Returns as quick_check(). */
static u8 *quick_memo(struct front *f, u32 memo, unsigned size, bool keep)
{
	struct emit *e = &f->e;
	unsigned off = keep ? T_KEEP : T_ADDR;
	u8 *cold, *skip;

	if (keep)
		emit_mov_rr(e, T_KEEP, T_ADDR);
	emit_op_at(e, 0x03, off, MEMO(f, memo, neg_page)); /* add */
	skip = emit_jcc_short(e, 3);                       /* jnc */
	emit_cmp_imm(e, off, (i32)(PAGE_SIZE - size + 1));
	emit_patch_short(e, skip);
	cold = emit_jcc(e, 3); /* jae, that is jnc */
	emit_load(e, T_SLOT, MEMO(f, memo, addend));
	return cold;
}

/* The same, with EFLAGS left alone and T_ADDR kept. Arriving there, RCX is in T_KEEP. */
static u8 *flagless_memo(struct front *f, u32 memo, unsigned form, unsigned size)
{
	struct emit *e = &f->e;
	u8 *cold;

	emit_mov_rr(e, T_KEEP, H_RCX);
	if (form == MEMO_TWICE) {
		emit_lea(e, true, H_RCX, T_ADDR, (i32)size - 1);
		emit_pext(e, T_SLOT, T_ADDR, FRAME(f->t, page_mask));
		emit_pext(e, H_RCX, H_RCX, FRAME(f->t, page_mask));
		emit_lea_sib(e, true, H_RCX, H_RCX, T_SLOT, 0, 0);
	} else {
		emit_pext(e, H_RCX, T_ADDR,
			  FRAME(f->t, single_mask) + 8 * (i32)(form - MEMO_SINGLE));
	}
	emit_load(e, T_SLOT, MEMO(f, memo, neg_page));
	emit_lea_sib(e, true, H_RCX, H_RCX, T_SLOT, 0, 0);
	emit_load(e, T_SLOT, MEMO(f, memo, addend));
	emit_jrcxz(e, 5);
	cold = emit_jmp(e, 0);
	emit_mov_rr(e, H_RCX, T_KEEP);
	return cold;
}

static unsigned memo_form(unsigned size, bool aligned, bool quick)
{
	if (quick)
		return MEMO_QUICK;
	if (!aligned || !is_pow2(size) || size >> MEMO_SHIFTS)
		return MEMO_TWICE;
	return MEMO_SINGLE + (unsigned)__builtin_ctz(size);
}

static u32 new_memo(struct front *f, const struct plan *p, const struct mem_access *a,
		    unsigned form)
{
	unsigned nth = (unsigned)(p->in - p->block->insn);

	if (f->t->options.slow || (p->block->roams >> nth & 1) ||
	    (!f->t->options.eager && !p->block->home->hot))
		return 0;
	return memo_new(f->t, &(struct tr_memo_info){ .roams = &p->block->roams,
						      .nth = (u8)nth,
						      .code = f->code,
						      .idx = (u8)f->idx,
						      .write = a->write,
						      .form = (u8)form });
}

/*
 * The access can be made with the addend in T_SLOT, or the stub that is returned runs.
 * T_ADDR stays if 'keep'. 'aligned': it usually is.
 */
static struct cold *check(struct front *f, const struct plan *p,
			  const struct mem_access *a, bool keep, bool aligned)
{
	bool quick = eflags_lose(f, p), fixed = is_fixed(f, a);
	unsigned form = memo_form(a->size, aligned, quick);
	u32 memo = fixed ? 0 : new_memo(f, p, a, form);
	struct cold *c;
	u8 *from;

	memop_address(f, a);
	if (fixed)
		from = fixed_check(f, a, quick);
	else if (!memo)
		from = quick ? quick_check(f, a->write, a->size, keep)
			     : flagless_check(f, a->write, a->size);
	else
		from = quick ? quick_memo(f, memo, a->size, keep)
			     : flagless_memo(f, memo, form, a->size);
	c = cold_add(f, p, from, !quick);
	c->memo = memo;
	c->idx = f->idx;
	c->access = *a;
	c->keep = keep;
	c->hit = f->e.p;
	return c;
}

/* Count the memo's misses, and call memo_fill now and then. */
static void count_miss(struct front *f, const struct cold *c)
{
	struct emit *e = &f->e;
	i32 wait = (i32)(uintptr_t)&f->t->memos.wait[c->memo];
	u8 *fill, *skip;

	if (c->rcx) {
		emit_load(e, H_RCX, wait);
		emit_lea(e, true, H_RCX, H_RCX, -1);
		emit_store(e, H_RCX, wait);
		e8(e, 0xe3); /* jrcxz */
		fill = e->p;
		e8(e, 0);
		emit_mov_rr(e, H_RCX, T_KEEP);
		skip = emit_jmp_short(e);
		emit_patch_short(e, fill);
		emit_mov_rr(e, H_RCX, T_KEEP);
	} else {
		emit_dec_at(e, wait);
		skip = emit_jcc_short(e, 5); /* jnz */
	}
	emit_mov_imm(e, H_R10, c->memo);
	emit_call(e, f->t->memo_fill);
	emit_patch_short(e, skip);
}

void memop_cold(struct front *f, const struct cold *c)
{
	const struct mem_access *a = &c->access;
	struct emit *e = &f->e;
	u8 *slow;

	f->idx = c->idx;
	/* The check may have spoilt it. */
	memop_address(f, a);
	count_miss(f, c);
	slow = c->rcx ? flagless_check(f, a->write, a->size)
		      : quick_check(f, a->write, a->size, c->keep);
	emit_jmp(e, (u64)c->hit + (u64)e->exec_delta);
	emit_patch(slow, e->p);
	if (c->rcx)
		emit_mov_rr(e, H_RCX, T_KEEP);
}

static struct operand lone(struct front *f, const struct plan *p,
			   const struct mem_access *a)
{
	bool simple = is_simple(a);

	f->access = check(f, p, a, !simple, true);
	f->in_slot = -1;
	return simple ? (struct operand){ home(a->base), a->disp }
		      : (struct operand){ T_ADDR, 0 };
}

static const struct tr_group *group_new(struct front *f, const struct plan *p,
					const struct mem_access *a)
{
	struct translator *t = f->t;
	const struct group *g = &f->group[a->group];
	struct tr_group *r;

	if (t->arena_size - t->arena_used < sizeof(*r)) {
		t->full = true;
		return NULL;
	}
	r = (struct tr_group *)(void *)(t->arena + t->arena_used);
	t->arena_used += align_up(sizeof(*r), 16);
	*r = (struct tr_group){ .in = p->in,
				.code = f->code,
				.disp = a->disp - a->from_lo,
				.span = (u16)(g->hi - g->lo),
				.base = a->base,
				.seg = a->seg,
				.reach = a->reach,
				.low = a->low,
				.idx = f->idx,
				.write = g->write,
				.first_write = a->write };
	return r;
}

/* The check of a whole group; where it fails, C decides whether to try it again. */
static void lead(struct front *f, const struct plan *p, const struct mem_access *a)
{
	struct emit *e = &f->e;
	const struct group *g = &f->group[a->group];
	u8 *again = e->p;
	struct mem_access all = *a;
	struct cold *c;

	all.disp = a->disp - a->from_lo;
	all.write = g->write;
	all.size = (u8)(g->hi - g->lo);
	c = check(f, p, &all, f->narrow, false);
	c->kind = COLD_GROUP;
	c->back = again;
	c->group = group_new(f, p, a);
	/* Addresses of 32 bits wrap, so members are counted from the group's lowest byte,
	 * and not from their register. */
	if (f->narrow)
		emit_lea_sib(e, true, T_SLOT, T_SLOT, T_ADDR, 0, 0);
	emit_store(e, T_SLOT, FRAME(f->t, group) + 8 * g->slot);
	f->in_slot = a->group;
}

static struct operand member(struct front *f, const struct plan *p,
			     const struct mem_access *a)
{
	if (a->leader)
		lead(f, p, a);
	else if (f->in_slot != a->group)
		emit_load(&f->e, T_SLOT,
			  FRAME(f->t, group) + 8 * f->group[a->group].slot);
	f->in_slot = a->group;
	f->access = NULL;
	if (p->can_fault)
		f->access = cold_add(f, p, NULL, false);
	if (f->narrow)
		return (struct operand){ T_SLOT, a->from_lo };
	if (a->base == GPR_RIP) {
		emit_load(&f->e, T_ADDR, FRAME(f->t, page_lin));
		return (struct operand){ T_ADDR, a->disp };
	}
	if (!in_memory(a->base))
		return (struct operand){ home(a->base), a->disp };
	emit_load(&f->e, T_ADDR, gpr_slot(&f->e, a->base));
	return (struct operand){ T_ADDR, a->disp };
}

struct operand memop(struct front *f, const struct plan *p, const struct mem_access *a)
{
	return a->group >= 0 ? member(f, p, a) : lone(f, p, a);
}

void memop_emit(struct emit *e, unsigned reg, struct operand o, bool scaled)
{
	unsigned mod = emit_mod(o.base, o.disp);

	if (o.base == T_SLOT) {
		if (scaled && mod == 0x40)
			mod = 0x80;
		e8(e, mod | (reg & 7) << 3 | (T_SLOT & 7));
		emit_disp(e, mod, o.disp);
		return;
	}
	/* RBP and R13 cannot do without one, which 0 is right for in any scale. */
	if (scaled && mod == 0x40 && o.disp)
		mod = 0x80;
	e8(e, mod | (reg & 7) << 3 | 4);
	e8(e, (T_SLOT & 7) << 3 | (o.base & 7));
	emit_disp(e, mod, o.disp);
}
