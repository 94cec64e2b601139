/*
 * Segment registers and descriptors. SDM volume 3 chapters 3 and 5; SDM volume 2 MOV,
 * LDS, LAR, LSL, VERR, LLDT, LTR.
 */
#pragma once

#include "x86/vcpu.h"

/* A descriptor as read from a table; 'raw_hi' is the upper half of a 16-byte system
 * descriptor. */
struct desc {
	u64 raw, raw_hi;
	gva_t lin; /* where it was read from */
	u64 base;
	u32 limit;
	u32 attr; /* SEG_* */
};

static inline unsigned attr_dpl(u32 attr)
{
	return (attr & SEG_DPL_MASK) >> SEG_DPL_SHIFT;
}

static inline bool attr_is_code(u32 attr)
{
	return (attr & (SEG_S | SEG_CODE)) == (SEG_S | SEG_CODE);
}

static inline bool attr_is_conforming(u32 attr)
{
	return attr_is_code(attr) && (attr & SEG_CONFORMING);
}

/* An address computed from a base in a register: 32 bits wide outside long mode. */
static inline gva_t lin_wrap(const struct vcpu *v, u64 lin)
{
	return in_long_mode(v) ? lin : (u32)lin;
}

/* Index and table are all zero: RPL is not looked at. */
static inline bool sel_is_null(u16 sel)
{
	return !(sel & 0xfffc);
}

/*
 * Read the descriptor of a selector from the GDT or LDT. 'err_vec' (VEC_GP, VEC_TS ...)
 * with error code sel & ~3 is raised when it lies outside the table. 'wide' reads 16
 * bytes (system descriptors in long mode). Whether the selector is null is the caller's
 * to check.
 */
bool desc_read(struct vcpu *v, u16 sel, bool wide, enum vector err_vec, struct desc *d);
/* The upper half of a descriptor that turned out to be a 16-byte one. */
bool desc_read_high(struct vcpu *v, u16 sel, enum vector err_vec, struct desc *d);
/* Set the accessed or busy bit in memory and in *d. */
bool desc_set_accessed(struct vcpu *v, struct desc *d);

/*
 * The checks of a selector that is to become SS (or DS, ES, FS, GS) at privilege 'cpl',
 * without a load: 'bad' is raised with the selector for what is wrong with it, #SS (#NP)
 * when not present. A null SS is refused with bad(0); a null data selector must not come
 * here.
 */
bool seg_check_stack(struct vcpu *v, u16 sel, unsigned cpl, enum vector bad,
		     struct desc *d);
bool seg_check_data(struct vcpu *v, u16 sel, unsigned cpl, enum vector bad,
		    struct desc *d);

/* What a segment register holds after loading this descriptor. */
struct seg seg_make(u16 sel, const struct desc *d);
/* What a null selector leaves; 'dpl' matters for SS in 64-bit mode alone. */
struct seg seg_null(u16 sel, unsigned dpl);
/* Real mode: 'old' keeps its limit and rights (big real mode). */
struct seg seg_real(u16 sel, const struct seg *old);
/* Virtual-8086 mode. */
struct seg seg_v86(u16 sel);

/* MOV to ES, SS, DS, FS, GS, and POP: all checks and the load. CS is not allowed here. */
bool seg_load(struct vcpu *v, unsigned sreg, u16 sel);
/* Without checks: real mode and v8086 value. */
void seg_load_real(struct vcpu *v, unsigned sreg, u16 sel);
/* Put a checked descriptor into a segment register. */
void seg_set(struct vcpu *v, unsigned sreg, u16 sel, const struct desc *d);
/* Null selector: unusable. */
void seg_set_null(struct vcpu *v, unsigned sreg, u16 sel);
/* Recompute v->seg_ok[sreg]; vcpu_mode_changed() besides for CS and SS. */
void seg_changed(struct vcpu *v, unsigned sreg);
/* Put a segment there; real, virtual-8086 or protected mode is as it was for the one
 * before. For whoever calls vcpu_mode_changed() afterwards. */
void seg_replace(struct vcpu *v, unsigned sreg, struct seg s);
/* v->seg_ok alone, for whoever calls vcpu_mode_changed() afterwards. */
void seg_update_ok(struct vcpu *v, unsigned sreg);
/*
 * After a return to 'cpl' from an inner level: drop data segments that this level may not
 * use.
 */
void seg_drop_inner(struct vcpu *v, unsigned cpl);

/* May execution go on at 'rip' in this code segment? #GP(0): beyond the limit, or not
 * canonical. */
bool seg_check_rip(struct vcpu *v, const struct desc *cs, u64 rip);
/* The same for the CS that is loaded. */
bool seg_check_rip_now(struct vcpu *v, u64 rip);
/* The commit of a transfer: CS (its RPL becomes 'cpl'), CPL, RIP and what follows from
 * them. */
void seg_enter(struct vcpu *v, u16 sel, const struct desc *cs, unsigned cpl, u64 rip);

/* Including the checks of mode (#UD) and CPL. */
bool seg_lldt(struct vcpu *v, u16 sel);
bool seg_ltr(struct vcpu *v, u16 sel);

/* LAR, LSL, VERR, VERW: *ok is ZF. False: a page fault or the like was raised, or #UD in
 * real mode. */
bool seg_lar(struct vcpu *v, u16 sel, u32 *rights, bool *ok);
bool seg_lsl(struct vcpu *v, u16 sel, u32 *limit, bool *ok);
bool seg_verify(struct vcpu *v, u16 sel, bool write, bool *ok);
