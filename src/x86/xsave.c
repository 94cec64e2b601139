/*
 * Saving and restoring x87, SSE and extended state.
 *
 * SDM volume 1 sections 8.1.8 to 8.1.10 (x87 environment), 10.5 (FXSAVE), 13.5 to 13.12
 * (XSAVE and relatives), volume 2 for the order of faults. Details that the manual leaves
 * open (which bytes of an image stay untouched, how FCW, FSW and FIP are normalized) are
 * those measured on an Intel host; tests/unit/x86_xsave.c holds them equal. Left out: the
 * modified optimization of XSAVEOPT and XSAVES (writing a component that did not change
 * is allowed), supervisor components (IA32_XSS is 0), the older AMD CPUs whose FXSAVE
 * leaves the pointers of the image alone without a pending exception.
 * Thread: the owner of the vCPU. No vector registers: nothing here copies through libc.
 */
#include "x86/xsave.h"

#include "x86/access.h"
#include "x86/cr.h"
#include "x86/msr.h"

#define FCW_INIT       0x37f
#define FCW_VALID      0x1f3f
#define FCW_ONE        0x40
#define FSW_EXCEPTIONS 0x3f
#define FSW_ES         BIT(7)
#define FSW_B          BIT(15)

/* The components that have bytes in v->xsave. */
#define VECTOR_BITS (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

static inline void copy(void *dst, const void *src, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline void clear(void *dst, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}

static u64 get(const struct vcpu *v, unsigned off, unsigned size)
{
	return le_load(v->xsave + off, size);
}

static void put(struct vcpu *v, unsigned off, u64 val, unsigned size)
{
	le_store(v->xsave + off, val, size);
}

static u32 mxcsr(const struct vcpu *v)
{
	return (u32)get(v, XSAVE_MXCSR, 4);
}

/* ---- the parked state ---- */

/* But for its pointers. */
static bool x87_initial(const struct vcpu *v)
{
	u64 bits = (get(v, XSAVE_FCW, 2) ^ FCW_INIT) | get(v, XSAVE_FSW, 2) |
		   get(v, XSAVE_FTW, 1);

	for (unsigned i = 0; i < 128; i += 8)
		bits |= get(v, XSAVE_ST + i, 8);
	return !bits;
}

static bool all_zero(const struct vcpu *v, unsigned off, unsigned size)
{
	for (unsigned i = 0; i < size; i += 8)
		if (get(v, off + i, 8))
			return false;
	return true;
}

/* XINUSE as XSAVE and XSAVEOPT see it. It goes by the contents: processors may track that
 * or not, but we may not change our mind when state has been live between. */
static u64 inuse(const struct vcpu *v)
{
	u64 bv = get(v, XSAVE_XSTATE_BV, 8) & VECTOR_BITS;

	if ((bv & XCR0_X87) && x87_initial(v))
		bv &= ~XCR0_X87;
	if ((bv & XCR0_SSE) && all_zero(v, XSAVE_XMM, 256))
		bv &= ~XCR0_SSE;
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if ((bv >> i & 1) &&
		    all_zero(v, xcomp_layout[i].offset, xcomp_layout[i].size))
			bv &= ~BIT(i);
	if (v->fip | v->fdp | v->fcs | v->fds | v->fop)
		bv |= XCR0_X87;
	if (v->pkru)
		bv |= XCR0_PKRU;
	/* Registers 16 to 31 do not exist there: SDM 1 section 13.6. AMD's say what is.
	 */
	if (!in_64bit(v) && !cpu_is_amd(v))
		bv &= ~XCR0_HI16_ZMM;
	return bv;
}

/* For the others MXCSR belongs to SSE: SDM 1 sections 13.6, 13.10. */
u64 xsave_inuse(const struct vcpu *v)
{
	return inuse(v) | (mxcsr(v) != MXCSR_INIT ? XCR0_SSE : 0);
}

/*
 * Bytes 0 to 31 as the instruction shows them; area_tidy() afterwards. They can be
 * formatted in place as the pointers there mean nothing.
 */
static void format_legacy(struct vcpu *v, bool rexw)
{
	bool zero = cpu_has(v, FEAT_ZERO_FCS_FDS);
	/* AMD: they are those of a pending exception or zero. APM 2 section 11.4.4.3. */
	bool none = cpu_is_amd(v) && !(get(v, XSAVE_FSW, 2) & FSW_ES);

	put(v, XSAVE_FTW + 1, 0, 1);
	put(v, XSAVE_FOP, none ? 0 : v->fop, 2);
	if (none) {
		put(v, XSAVE_FIP, 0, 8);
		put(v, XSAVE_FDP, 0, 8);
	} else if (rexw) {
		put(v, XSAVE_FIP, v->fip, 8);
		put(v, XSAVE_FDP, v->fdp, 8);
	} else {
		put(v, XSAVE_FIP, (u32)v->fip | (zero ? 0 : (u64)v->fcs << 32), 8);
		put(v, XSAVE_FDP, (u32)v->fdp | (zero ? 0 : (u64)v->fds << 32), 8);
	}
	put(v, XSAVE_MXCSR_MASK, MXCSR_MASK, 4);
	put(v, XSAVE_PKRU, v->pkru, 8);
}

/* One form for the same state, so that states can be compared. */
static void area_tidy(struct vcpu *v)
{
	put(v, XSAVE_FOP, v->fop, 2);
	put(v, XSAVE_FIP, v->fip, 8);
	put(v, XSAVE_FDP, v->fdp, 8);
	put(v, XSAVE_PKRU, 0, 8);
}

static u64 fsw_normal(u64 fsw, u64 fcw)
{
	u64 pending = fsw & ~fcw & FSW_EXCEPTIONS;

	fsw &= ~(FSW_ES | FSW_B);
	return pending ? fsw | FSW_ES | FSW_B : fsw;
}

static void set_control(struct vcpu *v, u64 fcw, u64 fsw, u8 abridged)
{
	fcw = (fcw & FCW_VALID) | FCW_ONE;
	put(v, XSAVE_FCW, fcw, 2);
	put(v, XSAVE_FSW, fsw_normal(fsw, fcw), 2);
	put(v, XSAVE_FTW, abridged, 1);
	put(v, XSAVE_FTW + 1, 0, 1);
}

static void set_pointers(struct vcpu *v, u64 fip, u64 fdp, u16 fcs, u16 fds, u16 fop)
{
	bool zero = cpu_has(v, FEAT_ZERO_FCS_FDS);

	v->fip = fip;
	v->fdp = fdp;
	v->fcs = zero ? 0 : fcs;
	v->fds = zero ? 0 : fds;
	v->fop = fop & 0x7ff;
	put(v, XSAVE_FOP, v->fop, 2);
	put(v, XSAVE_FIP, fip, 8);
	put(v, XSAVE_FDP, fdp, 8);
}

static void set_inuse(struct vcpu *v, u64 bits)
{
	put(v, XSAVE_XSTATE_BV, get(v, XSAVE_XSTATE_BV, 8) | bits, 8);
}

/* Bytes 0 to 23 and 32 to 159 of an FXSAVE image become the x87 state. */
static void load_x87(struct vcpu *v, const u8 *img, bool rexw)
{
	set_control(v, le_load(img + XSAVE_FCW, 2), le_load(img + XSAVE_FSW, 2),
		    img[XSAVE_FTW]);
	if (rexw) {
		/* FIP is kept canonical, FDP is not. */
		unsigned shift = cpu_has(v, FEAT_LA57) ? 64 - 57 : 64 - 48;
		u64 fip = (u64)((i64)(le_load(img + XSAVE_FIP, 8) << shift) >> shift);

		set_pointers(v, fip, le_load(img + XSAVE_FDP, 8), 0, 0,
			     (u16)le_load(img + XSAVE_FOP, 2));
	} else {
		set_pointers(v, le_load(img + XSAVE_FIP, 4), le_load(img + XSAVE_FDP, 4),
			     (u16)le_load(img + XSAVE_FIP + 4, 2),
			     (u16)le_load(img + XSAVE_FDP + 4, 2),
			     (u16)le_load(img + XSAVE_FOP, 2));
	}
	for (unsigned i = 0; i < 8; i++) {
		put(v, XSAVE_ST + 16 * i, le_load(img + XSAVE_ST + 16 * i, 8), 8);
		put(v, XSAVE_ST + 16 * i + 8, le_load(img + XSAVE_ST + 16 * i + 8, 2), 8);
	}
	set_inuse(v, XCR0_X87);
}

static void init_x87(struct vcpu *v)
{
	set_control(v, FCW_INIT, 0, 0);
	set_pointers(v, 0, 0, 0, 0, 0);
	clear(v->xsave + XSAVE_ST, 128);
	put(v, XSAVE_XSTATE_BV, get(v, XSAVE_XSTATE_BV, 8) & ~XCR0_X87, 8);
}

void xsave_reset(struct vcpu *v)
{
	clear(v->xsave, XSAVE_AREA_SIZE);
	/*
	 * After power-up FCW is 0040H and all registers are tagged valid, +0; FNINIT
	 * brings 037FH. SDM 3 table 10-1.
	 */
	set_control(v, 0x40, 0, 0xff);
	set_pointers(v, 0, 0, 0, 0, 0);
	put(v, XSAVE_MXCSR, MXCSR_INIT, 4);
	put(v, XSAVE_MXCSR_MASK, MXCSR_MASK, 4);
	put(v, XSAVE_XSTATE_BV, XCR0_X87, 8);
	v->pkru = 0;
}

/* ---- checks ---- */

/* The linear address of an image of 'align'-aligned bytes. Its end is checked by the
 * access. */
static bool aligned(struct vcpu *v, unsigned sreg, u64 off, enum access acc,
		    unsigned align)
{
	gva_t lin;

	if (!seg_linear(v, sreg, off, 1, acc, &lin))
		return false;
	if (v->code_size == 8 && !is_canonical(v, lin))
		return raise_err(v, sreg == SS ? VEC_SS : VEC_GP, 0);
	/* Where alignment is checked it comes first: SDM 2 FXSAVE, XSAVE. */
	if (v->ac_check && (lin & 3))
		return raise_err(v, VEC_AC, 0);
	return lin & (align - 1) ? raise_gp0(v) : true;
}

/* FNSTENV and its kin: alignment is checked by the operand size. SDM 3 table 6-7. */
static bool env_aligned(struct vcpu *v, unsigned sreg, u64 off, enum access acc,
			unsigned opsize)
{
	gva_t lin;

	if (!v->ac_check)
		return true;
	if (!seg_linear(v, sreg, off, 1, acc, &lin))
		return false;
	if ((lin & (opsize == 2 ? 1 : 3)) && is_canonical(v, lin))
		return raise_err(v, VEC_AC, 0);
	return true;
}

static bool xsave_allowed(struct vcpu *v, enum cpu_feature f)
{
	if (!cpu_has(v, f) || !(v->cr4 & CR4_OSXSAVE))
		return raise_ud(v);
	if (v->cr0 & CR0_TS)
		return raise_vec(v, VEC_NM);
	return true;
}

/* FXSAVE, and the x87 instructions. */
static bool x87_allowed(struct vcpu *v)
{
	return v->cr0 & (CR0_EM | CR0_TS) ? raise_vec(v, VEC_NM) : true;
}

/* ---- pieces of an image ---- */

struct piece {
	u32 at;   /* in the image */
	u32 area; /* in v->xsave, or in a buffer of that layout */
	u32 len;
};

struct pieces {
	unsigned count;
	struct piece p[12];
};

static void piece_add(struct pieces *l, u32 at, u32 area, u32 len)
{
	struct piece *last = l->p + (l->count ? l->count - 1 : 0);

	if (!len)
		return;
	if (l->count && last->at + last->len == at && last->area + last->len == area)
		last->len += len;
	else
		l->p[l->count++] = (struct piece){ at, area, len };
}

/* Bytes of component i that exist in this mode: outside 64-bit mode half the registers.
 */
static u32 comp_len(const struct vcpu *v, unsigned i)
{
	u32 size = xcomp_layout[i].size;

	if (in_64bit(v))
		return size;
	switch (BIT(i)) {
	case XCR0_AVX:
	case XCR0_ZMM_HI256: return size / 2;
	case XCR0_HI16_ZMM: return 0;
	default: return size;
	}
}

/*
 * The parts of an image that hold the components 'which', of those in 'format': a
 * compacted image has no room for others. 'mx': with MXCSR.
 */
static void pieces_of(const struct vcpu *v, struct pieces *l, u64 which, u64 format,
		      bool compact, bool mx)
{
	enum cpu_vendor vendor = cpu_is_amd(v) ? VENDOR_AMD : VENDOR_INTEL;
	u64 supported = v->cpuid ? v->cpuid->xcr0 : 0;
	u32 at = XSAVE_EXTENDED;

	l->count = 0;
	if (which & XCR0_X87)
		piece_add(l, 0, 0, 24);
	if (mx)
		piece_add(l, XSAVE_MXCSR, XSAVE_MXCSR, 8);
	if (which & XCR0_X87)
		piece_add(l, XSAVE_ST, XSAVE_ST, 128);
	if (which & XCR0_SSE)
		piece_add(l, XSAVE_XMM, XSAVE_XMM, in_64bit(v) ? 256 : 128);
	for (unsigned i = 2; i < XCOMP_COUNT; i++) {
		const struct xcomp *c = &xcomp_layout[i];

		if (!(format >> i & 1) || !c->size)
			continue;
		if (!compact)
			at = xsave_standard_offset(vendor, supported, i);
		else if (c->align64)
			at = (at + 63) & ~63u;
		if (which >> i & 1)
			piece_add(l, at, c->offset, comp_len(v, i));
		at += c->size;
	}
}

static bool pieces_write(struct vcpu *v, unsigned sreg, u64 off, const struct pieces *l,
			 const u64 header[2], unsigned header_len)
{
	/* A single write is all or nothing by itself; several are tried first. */
	if (!mem_probe_write(v, sreg, off + XSAVE_XSTATE_BV, header_len))
		return false;
	for (unsigned i = 0; i < l->count; i++)
		if (!mem_probe_write(v, sreg, off + l->p[i].at, l->p[i].len))
			return false;
	for (unsigned i = 0; i < l->count; i++)
		if (!mem_write_bytes(v, sreg, off + l->p[i].at, v->xsave + l->p[i].area,
				     l->p[i].len))
			return false;
	return mem_write_bytes(v, sreg, off + XSAVE_XSTATE_BV, header, header_len);
}

static bool pieces_read(struct vcpu *v, unsigned sreg, u64 off, const struct pieces *l,
			u8 *img)
{
	for (unsigned i = 0; i < l->count; i++)
		if (!mem_read_bytes(v, sreg, off + l->p[i].at, img + l->p[i].area,
				    l->p[i].len))
			return false;
	return true;
}

/* ---- XSAVE ---- */

static const u16 save_feature[] = {
	[XSAVE_XSAVE] = FEAT_XSAVE,
	[XSAVE_XSAVEOPT] = FEAT_XSAVEOPT,
	[XSAVE_XSAVEC] = FEAT_XSAVEC,
	[XSAVE_XSAVES] = FEAT_XSAVES,
};

bool xsave_save(struct vcpu *v, unsigned sreg, u64 off, enum xsave_kind kind, u64 rfbm,
		bool rexw)
{
	bool compact = kind == XSAVE_XSAVEC || kind == XSAVE_XSAVES;
	struct pieces l;
	u64 header[2], bv, which;
	bool ok;

	if (!xsave_allowed(v, save_feature[kind]))
		return false;
	if (kind == XSAVE_XSAVES && v->cpl)
		return raise_gp0(v);
	if (!aligned(v, sreg, off, ACC_WRITE, 64))
		return false;
	rfbm &= v->xcr0 | (kind == XSAVE_XSAVES ? v->msr[MSRI_XSS] : 0);
	bv = (compact ? xsave_inuse(v) : inuse(v)) & rfbm;
	which = kind == XSAVE_XSAVE ? rfbm : bv;
	if (compact) {
		pieces_of(v, &l, which, rfbm, true, which & XCR0_SSE);
		header[0] = bv;
		header[1] = rfbm | XCOMP_COMPACTED;
	} else {
		pieces_of(v, &l, which, ~UINT64_C(0), false,
			  rfbm & (XCR0_SSE | XCR0_AVX));
		/* It is read in order to be written. */
		if (!mem_probe_write(v, sreg, off + XSAVE_XSTATE_BV, 8) ||
		    !mem_read_bytes(v, sreg, off + XSAVE_XSTATE_BV, header, 8))
			return false;
		header[0] = (header[0] & ~rfbm) | bv;
	}
	format_legacy(v, rexw);
	ok = pieces_write(v, sreg, off, &l, header, compact ? 16 : 8);
	area_tidy(v);
	return ok;
}

/* ---- XRSTOR ---- */

/* SDM 1 sections 13.8.1 and 13.8.2, 13.12: what in a header gives #GP. */
static bool header_valid(const struct vcpu *v, const u64 h[8], u64 enabled,
			 bool supervisor)
{
	if (!(h[1] & XCOMP_COMPACTED))
		return !supervisor && !(h[0] & ~enabled) && !h[1] && !h[2];
	if (!cpu_has(v, FEAT_XSAVEC) || (h[1] & ~XCOMP_COMPACTED & ~enabled) ||
	    (h[0] & ~(h[1] & ~XCOMP_COMPACTED)))
		return false;
	for (unsigned i = 2; i < 8; i++)
		if (h[i])
			return false;
	return true;
}

static void set_component(struct vcpu *v, unsigned i, unsigned off, u32 len,
			  const u8 *img)
{
	if (img) {
		copy(v->xsave + off, img + off, len);
		set_inuse(v, BIT(i));
	} else {
		clear(v->xsave + off, len);
		if (in_64bit(v)) /* else the registers of 64-bit mode may be in use */
			put(v, XSAVE_XSTATE_BV, get(v, XSAVE_XSTATE_BV, 8) & ~BIT(i), 8);
	}
}

/* Make the state that of 'img' (laid out like v->xsave), or initial. Nothing can fail
 * here. */
static void restore_commit(struct vcpu *v, const u8 *img, u64 rfbm, u64 load, bool rexw)
{
	if (load & XCR0_X87)
		load_x87(v, img, rexw);
	else if (rfbm & XCR0_X87)
		init_x87(v);
	if (rfbm & XCR0_SSE)
		set_component(v, 1, XSAVE_XMM, in_64bit(v) ? 256 : 128,
			      load & XCR0_SSE ? img : NULL);
	for (unsigned i = 2; i <= 7; i++)
		if (rfbm >> i & 1 && comp_len(v, i))
			set_component(v, i, xcomp_layout[i].offset, comp_len(v, i),
				      load >> i & 1 ? img : NULL);
	if (rfbm & XCR0_PKRU) {
		u32 pkru = load & XCR0_PKRU ? (u32)le_load(img + XSAVE_PKRU, 4) : 0;

		pkru_set(v, pkru);
	}
}

bool xsave_restore(struct vcpu *v, unsigned sreg, u64 off, bool supervisor, u64 rfbm,
		   bool rexw)
{
	u8 img[XSAVE_AREA_SIZE];
	struct pieces l;
	u64 h[8], enabled, load, new_mxcsr = mxcsr(v);
	bool compact, mx;

	if (!xsave_allowed(v, supervisor ? FEAT_XSAVES : FEAT_XSAVE))
		return false;
	if (supervisor && v->cpl)
		return raise_gp0(v);
	if (!aligned(v, sreg, off, ACC_READ, 64))
		return false;
	if (!mem_read_bytes(v, sreg, off + XSAVE_XSTATE_BV, h, sizeof(h)))
		return false;
	enabled = v->xcr0 | (supervisor ? v->msr[MSRI_XSS] : 0);
	if (!header_valid(v, h, enabled, supervisor))
		return raise_gp0(v);
	compact = h[1] & XCOMP_COMPACTED;
	rfbm &= enabled;
	load = rfbm & h[0];
	/* In the standard form MXCSR does not follow XSTATE_BV; compacted, it is part of
	 * SSE. */
	mx = compact ? load & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
	pieces_of(v, &l, load, compact ? h[1] : ~UINT64_C(0), compact, mx);
	if (!pieces_read(v, sreg, off, &l, img))
		return false;
	if (mx)
		new_mxcsr = le_load(img + XSAVE_MXCSR, 4);
	else if (compact && rfbm & XCR0_SSE)
		new_mxcsr = MXCSR_INIT;
	if (new_mxcsr & ~(u64)MXCSR_MASK)
		return raise_gp0(v);
	put(v, XSAVE_MXCSR, new_mxcsr, 4);
	restore_commit(v, img, rfbm, load, rexw);
	return true;
}

/* ---- FXSAVE ---- */

/* Length of the part that moves: without XMM, with 8 or with 16 of them. */
static u32 fxsave_len(const struct vcpu *v)
{
	if (!(v->cr4 & CR4_OSFXSR))
		return XSAVE_XMM;
	if (!in_64bit(v))
		return XSAVE_XMM + 128;
	/* AMD's fast form. APM 2 section 11.4.4. */
	return v->efer & EFER_FFXSR && v->cpl == 0 ? XSAVE_XMM : XSAVE_XMM + 256;
}

static bool fx_allowed(struct vcpu *v)
{
	return cpu_has(v, FEAT_FXSR) ? x87_allowed(v) : raise_ud(v);
}

bool fxsave(struct vcpu *v, unsigned sreg, u64 off, bool rexw)
{
	bool ok;

	if (!fx_allowed(v) || !aligned(v, sreg, off, ACC_WRITE, 16))
		return false;
	format_legacy(v, rexw);
	ok = mem_write_bytes(v, sreg, off, v->xsave, fxsave_len(v));
	area_tidy(v);
	return ok;
}

bool fxrstor(struct vcpu *v, unsigned sreg, u64 off, bool rexw)
{
	u8 img[XSAVE_LEGACY_SIZE];
	u32 len = fxsave_len(v);

	if (!fx_allowed(v) || !aligned(v, sreg, off, ACC_READ, 16) ||
	    !mem_read_bytes(v, sreg, off, img, len))
		return false;
	if (le_load(img + XSAVE_MXCSR, 4) & ~(u64)MXCSR_MASK)
		return raise_gp0(v);
	load_x87(v, img, rexw);
	put(v, XSAVE_MXCSR, le_load(img + XSAVE_MXCSR, 4), 4);
	if (len > XSAVE_XMM)
		set_component(v, 1, XSAVE_XMM, len - XSAVE_XMM, img);
	return true;
}

/* ---- FNSTENV, FNSAVE ---- */

/*
 * The tag of a register that is not empty: 0 valid, 1 zero, 2 special (NaN, infinity,
 * denormal, unsupported).
 */
static unsigned tag_of(u64 mantissa, unsigned exponent)
{
	if (exponent == 0)
		return mantissa ? 2 : 1;
	if (exponent == 0x7fff)
		return 2;
	return mantissa >> 63 ? 0 : 2;
}

u16 xsave_full_tags(const struct vcpu *v)
{
	unsigned abridged = (unsigned)get(v, XSAVE_FTW, 1);
	unsigned top = (unsigned)get(v, XSAVE_FSW, 2) >> 11 & 7;
	u16 tags = 0;

	for (unsigned r = 0; r < 8; r++) {
		unsigned st = XSAVE_ST + ((r - top) & 7) * 16;
		unsigned tag = 3;

		if (abridged >> r & 1)
			tag = tag_of(get(v, st, 8), (unsigned)get(v, st + 8, 2) & 0x7fff);
		tags |= (u16)(tag << (2 * r));
	}
	return tags;
}

u8 xsave_abridged_tags(u64 tags)
{
	u8 abridged = 0;

	for (unsigned r = 0; r < 8; r++)
		if ((tags >> (2 * r) & 3) != 3)
			abridged |= (u8)(1u << r);
	return abridged;
}

/*
 * The four layouts of the environment (SDM 1 figures 8-9 to 8-12), of words or of double
 * words: FCW, FSW, FTW, then
 *
 *   protected 16, 32   FIP   FCS; 32: FOP above       FDP   FDS
 *   real 16            FIP   FIP[19:16] 15..12, FOP   FDP   FDP[19:16] 15..12
 *   real 32            FIP   FIP[31:16] 27..12, FOP   FDP   FDP[31:16] 27..12
 *
 * The upper halves of double words that nothing is said of are all ones. Addresses
 * in real mode are linear.
 */
static unsigned env_size(unsigned opsize)
{
	return opsize == 2 ? 14 : 28;
}

static void env_format(const struct vcpu *v, u8 env[28], unsigned opsize)
{
	bool zero = cpu_has(v, FEAT_ZERO_FCS_FDS);
	u64 fip = v->fip, fdp = v->fdp;
	u64 fcs = zero ? 0 : v->fcs, fds = zero ? 0 : v->fds;
	unsigned size = opsize == 2 ? 2 : 4;
	const u64 ones = size == 4 ? 0xffff0000 : 0;
	u64 w[7] = { get(v, XSAVE_FCW, 2) | ones, get(v, XSAVE_FSW, 2) | ones,
		     xsave_full_tags(v) | ones };

	if (in_real_or_v86(v)) {
		fip += fcs << 4;
		fdp += fds << 4;
		w[3] = (fip & 0xffff) | ones;
		w[4] = (fip >> 16 & 0xffff) << 12 | v->fop;
		w[5] = (fdp & 0xffff) | ones;
		w[6] = (fdp >> 16 & 0xffff) << 12;
	} else {
		w[3] = fip;
		w[4] = fcs | (u64)v->fop << 16;
		w[5] = fdp;
		w[6] = fds | ones;
	}
	for (unsigned i = 0; i < 7; i++)
		le_store(env + i * size, w[i], size);
}

/*
 * ST(i) is another register when TOP changes: move the contents so that each stays in
 * the register it is in.
 */
static void turn_stack(struct vcpu *v, u64 fsw)
{
	unsigned by = (unsigned)((fsw >> 11) - (get(v, XSAVE_FSW, 2) >> 11)) & 7;
	u64 st[16];

	if (!by)
		return;
	copy(st, v->xsave + XSAVE_ST, 128);
	for (unsigned i = 0; i < 8; i++)
		copy(v->xsave + XSAVE_ST + i * 16, &st[2 * ((i + by) & 7)], 16);
}

static void env_load(struct vcpu *v, const u8 env[28], unsigned opsize)
{
	unsigned size = opsize == 2 ? 2 : 4;
	u64 w[7];

	for (unsigned i = 0; i < 7; i++)
		w[i] = le_load(env + i * size, size);
	turn_stack(v, w[1]);
	set_control(v, w[0] & 0xffff, w[1] & 0xffff, xsave_abridged_tags(w[2]));
	if (in_real_or_v86(v))
		set_pointers(v, (w[3] & 0xffff) | (w[4] >> 12 & 0xffff) << 16,
			     (w[5] & 0xffff) | (w[6] >> 12 & 0xffff) << 16, 0, 0,
			     (u16)w[4]);
	else
		set_pointers(v, w[3], w[5], (u16)w[4], (u16)w[6],
			     size == 4 ? (u16)(w[4] >> 16) : 0);
	set_inuse(v, XCR0_X87);
}

bool fnstenv(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize)
{
	u8 env[28];

	if (!x87_allowed(v) || !env_aligned(v, sreg, off, ACC_WRITE, opsize))
		return false;
	env_format(v, env, opsize);
	if (!mem_write_bytes(v, sreg, off, env, env_size(opsize)))
		return false;
	/* All exceptions are masked after it. */
	set_control(v, get(v, XSAVE_FCW, 2) | FSW_EXCEPTIONS, get(v, XSAVE_FSW, 2),
		    (u8)get(v, XSAVE_FTW, 1));
	set_inuse(v, XCR0_X87);
	return true;
}

bool fldenv(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize)
{
	u8 env[28];

	if (!x87_allowed(v) || !env_aligned(v, sreg, off, ACC_READ, opsize) ||
	    !mem_read_bytes(v, sreg, off, env, env_size(opsize)))
		return false;
	env_load(v, env, opsize);
	return true;
}

void fninit(struct vcpu *v)
{
	/* The registers keep their contents and become empty. */
	turn_stack(v, 0);
	set_control(v, FCW_INIT, 0, 0);
	set_pointers(v, 0, 0, 0, 0, 0);
	set_inuse(v, XCR0_X87);
}

bool fnsave(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize)
{
	u8 img[28 + 80];
	unsigned n = env_size(opsize);

	if (!x87_allowed(v) || !env_aligned(v, sreg, off, ACC_WRITE, opsize))
		return false;
	env_format(v, img, opsize);
	for (unsigned i = 0; i < 8; i++)
		copy(img + n + 10 * i, v->xsave + XSAVE_ST + 16 * i, 10);
	if (!mem_write_bytes(v, sreg, off, img, n + 80))
		return false;
	fninit(v);
	return true;
}

bool frstor(struct vcpu *v, unsigned sreg, u64 off, unsigned opsize)
{
	u8 img[28 + 80];
	unsigned n = env_size(opsize);

	if (!x87_allowed(v) || !env_aligned(v, sreg, off, ACC_READ, opsize) ||
	    !mem_read_bytes(v, sreg, off, img, n + 80))
		return false;
	env_load(v, img, opsize);
	for (unsigned i = 0; i < 8; i++) {
		put(v, XSAVE_ST + 16 * i, le_load(img + n + 10 * i, 8), 8);
		put(v, XSAVE_ST + 16 * i + 8, le_load(img + n + 10 * i + 8, 2), 8);
	}
	return true;
}

/* ---- MXCSR ---- */

static bool sse_allowed(struct vcpu *v)
{
	if (!cpu_has(v, FEAT_SSE) || v->cr0 & CR0_EM || !(v->cr4 & CR4_OSFXSR))
		return raise_ud(v);
	return v->cr0 & CR0_TS ? raise_vec(v, VEC_NM) : true;
}

static bool avx_allowed(struct vcpu *v)
{
	const u64 need = XCR0_SSE | XCR0_AVX;

	if (!cpu_has(v, FEAT_AVX) || !(v->cr4 & CR4_OSXSAVE) ||
	    (v->xcr0 & need) != need || in_real_or_v86(v))
		return raise_ud(v);
	return v->cr0 & CR0_TS ? raise_vec(v, VEC_NM) : true;
}

bool ldmxcsr(struct vcpu *v, unsigned sreg, u64 off, bool vex)
{
	u64 val;

	if (!(vex ? avx_allowed(v) : sse_allowed(v)) || !mem_read(v, sreg, off, 4, &val))
		return false;
	if (val & ~(u64)MXCSR_MASK)
		return raise_gp0(v);
	put(v, XSAVE_MXCSR, val, 4);
	set_inuse(v, XCR0_SSE);
	return true;
}

bool stmxcsr(struct vcpu *v, unsigned sreg, u64 off, bool vex)
{
	return (vex ? avx_allowed(v) : sse_allowed(v)) &&
	       mem_write(v, sreg, off, 4, mxcsr(v));
}

/* ---- XCR0 ---- */

bool xgetbv(struct vcpu *v, u32 index, u64 *val)
{
	if (!cpu_has(v, FEAT_XSAVE) || !(v->cr4 & CR4_OSXSAVE))
		return raise_ud(v);
	if (index == 0)
		*val = v->xcr0;
	else if (index == 1 && cpu_has(v, FEAT_XGETBV1))
		*val = v->xcr0 & xsave_inuse(v);
	else
		return raise_gp0(v);
	return true;
}

bool xsetbv(struct vcpu *v, u32 index, u64 val)
{
	if (!cpu_has(v, FEAT_XSAVE) || !(v->cr4 & CR4_OSXSAVE))
		return raise_ud(v);
	if (v->cpl)
		return raise_gp0(v);
	return xcr0_write(v, index, val);
}
