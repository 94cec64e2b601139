/*
 * Segment registers and descriptors.
 *
 * SDM volume 3 sections 3.4, 3.5, 5.2 to 5.8; SDM volume 2 MOV, LAR, LSL, VERR, LLDT,
 * LTR. A load checks everything, sets the accessed bit in memory, and only then changes
 * the register. A null selector clears the hidden base, as Intel processors do. Thread:
 * the owner of the vCPU.
 */
#include "x86/seg.h"

#include "x86/access.h"
#include "x86/msr.h"

/* Address of a descriptor of 'len' bytes. False: not within its table. */
static bool desc_where(const struct vcpu *v, u16 sel, unsigned len, gva_t *lin)
{
	unsigned off = sel & 0xfff8;
	u32 limit = v->gdtr.limit;
	u64 base = v->gdtr.base;

	if (sel & 4) {
		if (v->seg[LDTR].attr & SEG_UNUSABLE)
			return false;
		limit = v->seg[LDTR].limit;
		base = v->seg[LDTR].base;
	}
	if (off + len - 1 > limit)
		return false;
	*lin = lin_wrap(v, base + off);
	return true;
}

static void desc_parse(struct desc *d)
{
	d->base = bits_get(d->raw, 39, 16) | bits_get(d->raw, 63, 56) << 24;
	d->limit = (u32)(bits_get(d->raw, 15, 0) | bits_get(d->raw, 51, 48) << 16);
	d->attr = (u32)(d->raw >> 40) & 0xf0ff;
	if (d->attr & SEG_G)
		d->limit = d->limit << 12 | 0xfff;
}

bool desc_read_high(struct vcpu *v, u16 sel, enum vector err_vec, struct desc *d)
{
	gva_t lin;

	if (!desc_where(v, sel, 16, &lin))
		return raise_err(v, err_vec, sel & 0xfffc);
	if (!sys_read(v, lin + 8, 8, &d->raw_hi))
		return false;
	d->base = (u32)d->base | d->raw_hi << 32;
	return true;
}

bool desc_read(struct vcpu *v, u16 sel, bool wide, enum vector err_vec, struct desc *d)
{
	d->raw_hi = 0;
	if (!desc_where(v, sel, wide ? 16 : 8, &d->lin))
		return raise_err(v, err_vec, sel & 0xfffc);
	if (!sys_read(v, d->lin, 8, &d->raw))
		return false;
	desc_parse(d);
	return !wide || desc_read_high(v, sel, err_vec, d);
}

bool desc_set_accessed(struct vcpu *v, struct desc *d)
{
	/* The accessed bit of code and data; the busy bit of a TSS is one higher. */
	u32 bit = d->attr & SEG_S ? SEG_ACCESSED : 2;

	if (d->attr & bit)
		return true;
	if (!sys_bits(v, d->lin + 5, (u8)bit, 0))
		return false;
	d->attr |= bit;
	d->raw |= (u64)bit << 40;
	return true;
}

bool seg_check_stack(struct vcpu *v, u16 sel, unsigned cpl, enum vector bad,
		     struct desc *d)
{
	if (sel_is_null(sel))
		return raise_err(v, bad, 0);
	if (!desc_read(v, sel, false, bad, d))
		return false;
	if ((sel & 3) != cpl || attr_dpl(d->attr) != cpl ||
	    (d->attr & (SEG_S | SEG_CODE | SEG_WRITABLE)) != (SEG_S | SEG_WRITABLE))
		return raise_err(v, bad, sel & 0xfffc);
	if (!(d->attr & SEG_P))
		return raise_err(v, VEC_SS, sel & 0xfffc);
	return true;
}

bool seg_check_data(struct vcpu *v, u16 sel, unsigned cpl, enum vector bad,
		    struct desc *d)
{
	if (!desc_read(v, sel, false, bad, d))
		return false;
	if (!(d->attr & SEG_S) || (d->attr & (SEG_CODE | SEG_READABLE)) == SEG_CODE)
		return raise_err(v, bad, sel & 0xfffc);
	if (!attr_is_conforming(d->attr) && attr_dpl(d->attr) < MAX(cpl, sel & 3u))
		return raise_err(v, bad, sel & 0xfffc);
	if (!(d->attr & SEG_P))
		return raise_err(v, VEC_NP, sel & 0xfffc);
	return true;
}

struct seg seg_make(u16 sel, const struct desc *d)
{
	return (struct seg){
		.base = d->base, .limit = d->limit, .attr = d->attr, .sel = sel
	};
}

struct seg seg_null(u16 sel, unsigned dpl)
{
	return (struct seg){ .attr = SEG_UNUSABLE | dpl << SEG_DPL_SHIFT, .sel = sel };
}

struct seg seg_real(u16 sel, const struct seg *old)
{
	struct seg s = { .base = (u64)sel << 4, .sel = sel };

	if ((old->attr & (SEG_UNUSABLE | SEG_S | SEG_P)) == (SEG_S | SEG_P)) {
		s.limit = old->limit;
		s.attr = old->attr & ~SEG_DPL_MASK;
	} else {
		s.limit = 0xffff;
		s.attr = SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED;
	}
	return s;
}

struct seg seg_v86(u16 sel)
{
	return (struct seg){ .base = (u64)sel << 4,
			     .limit = 0xffff,
			     .attr = SEG_P | SEG_DPL_MASK | SEG_S | SEG_WRITABLE |
				     SEG_ACCESSED,
			     .sel = sel };
}

/* Where linear addresses would wrap it is not so simple. */
static struct seg_reach reach_of(const struct seg *s, bool ok)
{
	bool fits = ok && s->base <= 0xffffffff - (u64)s->limit;
	struct seg_reach r = { .room = fits ? (i64)s->limit + 1 : -1 };

	r.end = s->base + (u64)r.room;
	ok = ok && s->limit >= 0xffff && s->base <= 0xffff0000;
	r.low = ok ? s->base : SEG_BARRED;
	return r;
}

/* Is it as a load in real or virtual-8086 mode leaves it? */
static bool is_plain(const struct vcpu *v, const struct seg *s)
{
	struct seg after;

	if (!in_real_or_v86(v) || s->limit != 0xffff || s->base > 0xfffff)
		return false;
	after = in_v86(v) ? seg_v86(s->sel) : seg_real(s->sel, s);
	return after.attr == s->attr && after.limit == s->limit;
}

void seg_update_ok(struct vcpu *v, unsigned sreg)
{
	const struct seg *s = &v->seg[sreg];
	u32 ok = 0;

	if (s->attr & SEG_UNUSABLE) {
		ok = 0;
	} else if (attr_is_code(s->attr)) {
		if (in_real_or_v86(v))
			ok = SEG_R_OK | SEG_W_OK;
		else if (s->attr & SEG_READABLE)
			ok = SEG_R_OK;
	} else if (!(s->attr & SEG_EXPAND_DOWN)) {
		ok = SEG_R_OK;
		if (in_real_or_v86(v) || (s->attr & SEG_WRITABLE))
			ok |= SEG_W_OK;
	}
	if (ok && !s->base && s->limit == 0xffffffff)
		ok |= SEG_FLAT;
	v->seg_ok[sreg] = ok;
	v->seg_bar[sreg] = (ok & SEG_R_OK) && (ok & SEG_W_OK) && s->limit == 0xffffffff
				   ? 0
				   : SEG_BARRED;
	v->reach[0][sreg] = reach_of(s, ok & SEG_R_OK);
	v->reach[1][sreg] = reach_of(s, ok & SEG_W_OK);
	v->seg_plain[sreg] = !((ok & SEG_R_OK) && (ok & SEG_W_OK) && is_plain(v, s));
}

void seg_replace(struct vcpu *v, unsigned sreg, struct seg s)
{
	const struct seg *old = &v->seg[sreg];
	bool alike = old->base == s.base && old->limit == s.limit && !in_real_or_v86(v) &&
		     !((old->attr ^ s.attr) & ~(u32)(SEG_DPL_MASK | SEG_L | SEG_DB));

	v->seg[sreg] = s;
	if (!alike)
		seg_update_ok(v, sreg);
}

void seg_changed(struct vcpu *v, unsigned sreg)
{
	seg_update_ok(v, sreg);
	if (sreg == CS || sreg == SS)
		vcpu_mode_changed(v);
}

static void seg_put(struct vcpu *v, unsigned sreg, struct seg s)
{
	v->seg[sreg] = s;
	seg_changed(v, sreg);
}

void seg_load_real(struct vcpu *v, unsigned sreg, u16 sel)
{
	seg_put(v, sreg, in_v86(v) ? seg_v86(sel) : seg_real(sel, &v->seg[sreg]));
}

void seg_set(struct vcpu *v, unsigned sreg, u16 sel, const struct desc *d)
{
	seg_put(v, sreg, seg_make(sel, d));
}

void seg_set_null(struct vcpu *v, unsigned sreg, u16 sel)
{
	seg_put(v, sreg, seg_null(sel, sreg == SS ? v->cpl : 0));
}

bool seg_load(struct vcpu *v, unsigned sreg, u16 sel)
{
	struct desc d;

	if (in_real_or_v86(v)) {
		seg_load_real(v, sreg, sel);
		return true;
	}
	if (sreg == SS) {
		/* A null SS is fine for a 64-bit kernel: it is what interrupts leave. */
		if (sel_is_null(sel) && in_64bit(v) && v->cpl != 3 &&
		    (sel & 3) == v->cpl) {
			seg_set_null(v, SS, sel);
			return true;
		}
		if (!seg_check_stack(v, sel, v->cpl, VEC_GP, &d))
			return false;
	} else {
		if (sel_is_null(sel)) {
			seg_set_null(v, sreg, sel);
			return true;
		}
		if (!seg_check_data(v, sel, v->cpl, VEC_GP, &d))
			return false;
	}
	if (!desc_set_accessed(v, &d))
		return false;
	seg_set(v, sreg, sel, &d);
	return true;
}

void seg_drop_inner(struct vcpu *v, unsigned cpl)
{
	static const u8 data[] = { ES, DS, FS, GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct seg *s = &v->seg[data[i]];

		/*
		 * An unusable segment counts as one of DPL 0, which is how a selector of
		 * 1 to 3 becomes 0 here. The base stays: that of FS and GS is a 64-bit
		 * program's own.
		 */
		if (attr_is_conforming(s->attr) ||
		    (!(s->attr & SEG_UNUSABLE) && attr_dpl(s->attr) >= cpl))
			continue;
		s->sel = 0;
		s->attr |= SEG_UNUSABLE;
		seg_update_ok(v, data[i]);
	}
}

static bool check_rip(struct vcpu *v, u32 attr, u32 limit, u64 rip)
{
	if (in_long_mode(v) && (attr & SEG_L) ? is_canonical(v, rip) : rip <= limit)
		return true;
	return raise_gp0(v);
}

bool seg_check_rip(struct vcpu *v, const struct desc *cs, u64 rip)
{
	return check_rip(v, cs->attr, cs->limit, rip);
}

bool seg_check_rip_now(struct vcpu *v, u64 rip)
{
	return check_rip(v, v->seg[CS].attr, v->seg[CS].limit, rip);
}

void seg_enter(struct vcpu *v, u16 sel, const struct desc *cs, unsigned cpl, u64 rip)
{
	v->seg[CS] = seg_make((sel & 0xfffc) | (u16)cpl, cs);
	v->cpl = (u8)cpl;
	v->rip = rip;
	seg_update_ok(v, CS);
	seg_update_ok(v, SS);
	vcpu_mode_changed(v);
}

/* The descriptor for LLDT and LTR, except its type. */
static bool read_system(struct vcpu *v, u16 sel, struct desc *d)
{
	if (sel & 4)
		return raise_err(v, VEC_GP, sel & 0xfffc);
	if (!desc_read(v, sel, in_long_mode(v), VEC_GP, d))
		return false;
	/* The second type field of a 16-byte descriptor must be zero. */
	if (bits_get(d->raw_hi, 44, 40))
		return raise_err(v, VEC_GP, sel & 0xfffc);
	return true;
}

static bool check_privileged(struct vcpu *v)
{
	if (in_real_or_v86(v))
		return raise_ud(v);
	return !v->cpl || raise_gp0(v);
}

bool seg_lldt(struct vcpu *v, u16 sel)
{
	struct desc d;

	if (!check_privileged(v))
		return false;
	if (sel_is_null(sel)) {
		seg_set_null(v, LDTR, sel);
		return true;
	}
	if (!read_system(v, sel, &d))
		return false;
	if ((d.attr & (SEG_S | SEG_TYPE_MASK)) != DESC_LDT)
		return raise_err(v, VEC_GP, sel & 0xfffc);
	if (!(d.attr & SEG_P))
		return raise_err(v, VEC_NP, sel & 0xfffc);
	if (in_long_mode(v) && !msr_canonical(v, d.base))
		return raise_err(v, VEC_GP, sel & 0xfffc);
	seg_set(v, LDTR, sel, &d);
	return true;
}

bool seg_ltr(struct vcpu *v, u16 sel)
{
	struct desc d;
	unsigned type;

	if (!check_privileged(v))
		return false;
	if (sel_is_null(sel))
		return raise_gp0(v);
	if (!read_system(v, sel, &d))
		return false;
	type = d.attr & (SEG_S | SEG_TYPE_MASK);
	if (type != DESC_TSS32 && (type != DESC_TSS16 || in_long_mode(v)))
		return raise_err(v, VEC_GP, sel & 0xfffc);
	if (!(d.attr & SEG_P))
		return raise_err(v, VEC_NP, sel & 0xfffc);
	if (in_long_mode(v) && !msr_canonical(v, d.base))
		return raise_err(v, VEC_GP, sel & 0xfffc);
	if (!desc_set_accessed(v, &d))
		return false;
	seg_set(v, TR, sel, &d);
	return true;
}

/* Which system descriptors LAR and LSL accept: a bit per type. SDM 2, tables in LAR and
 * LSL. */
#define LAR_LEGACY 0x1a3e /* TSS, LDT, call gates, task gate */
#define LAR_LONG   0x1a04
#define LSL_LEGACY 0x0a0e
#define LSL_LONG   0x0a04

/* The common part of LAR, LSL, VERR, VERW: *ok says that the descriptor may be looked at.
 */
static bool desc_inspect(struct vcpu *v, u16 sel, unsigned system_types, struct desc *d,
			 bool *ok)
{
	gva_t lin;

	*ok = false;
	if (in_real_or_v86(v))
		return raise_ud(v);
	if (sel_is_null(sel) || !desc_where(v, sel, 8, &lin))
		return true;
	if (!desc_read(v, sel, false, VEC_GP, d))
		return false;
	if (!(d->attr & SEG_S) && !(system_types >> (d->attr & SEG_TYPE_MASK) & 1))
		return true;
	*ok = attr_is_conforming(d->attr) || attr_dpl(d->attr) >= MAX(v->cpl, sel & 3u);
	return true;
}

bool seg_lar(struct vcpu *v, u16 sel, u32 *rights, bool *ok)
{
	struct desc d;

	if (!desc_inspect(v, sel, in_long_mode(v) ? LAR_LONG : LAR_LEGACY, &d, ok))
		return false;
	if (*ok)
		*rights = (u32)(d.raw >> 32) & 0x00ffff00; /* with limit bits 19..16 */
	return true;
}

bool seg_lsl(struct vcpu *v, u16 sel, u32 *limit, bool *ok)
{
	struct desc d;

	if (!desc_inspect(v, sel, in_long_mode(v) ? LSL_LONG : LSL_LEGACY, &d, ok))
		return false;
	if (*ok)
		*limit = d.limit;
	return true;
}

bool seg_verify(struct vcpu *v, u16 sel, bool write, bool *ok)
{
	struct desc d;

	if (!desc_inspect(v, sel, 0, &d, ok))
		return false;
	if (!*ok)
		return true;
	if (write)
		*ok = (d.attr & (SEG_CODE | SEG_WRITABLE)) == SEG_WRITABLE;
	else
		*ok = (d.attr & (SEG_CODE | SEG_READABLE)) != SEG_CODE;
	return true;
}
