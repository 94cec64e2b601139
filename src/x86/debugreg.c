/*
 * Debug registers: access to them, and which breakpoints an access hits.
 *
 * SDM volume 3 sections 17.2 (registers), 17.2.4 (lengths, alignment), 17.3.1. Only
 * enabled breakpoints are reported, although processors may also report others in DR6.
 * Missing: RTM (DR6 and DR7 bits fixed), LE and GE have no effect, as on current
 * processors. Thread: the owner of the vCPU.
 */
#include "x86/access.h"
#include "x86/cr.h"
#include "x86/debugger.h"

enum { RW_EXEC, RW_WRITE, RW_IO, RW_DATA };

static bool bp_enabled(const struct vcpu *v, unsigned n)
{
	return v->dr[7] >> (2 * n) & 3;
}

static unsigned bp_rw(const struct vcpu *v, unsigned n)
{
	return v->dr[7] >> (16 + 4 * n) & 3;
}

static unsigned bp_len(const struct vcpu *v, unsigned n)
{
	static const u8 len[4] = { 1, 2, 8, 4 };

	return len[v->dr[7] >> (18 + 4 * n) & 3];
}

static bool bp_is_data(const struct vcpu *v, unsigned n)
{
	return bp_enabled(v, n) && (bp_rw(v, n) & 1);
}

static bool any_data(const struct vcpu *v)
{
	return bp_is_data(v, 0) || bp_is_data(v, 1) || bp_is_data(v, 2) ||
	       bp_is_data(v, 3);
}

/* Does [a, a+len) overlap the breakpoint's range? The low bits of its address are
 * ignored. */
static bool bp_overlaps(const struct vcpu *v, unsigned n, u64 a, unsigned len)
{
	u64 start = v->dr[n] & ~(u64)(bp_len(v, n) - 1);

	/* Modulo 2^64, so that an access that wraps is right too. */
	return a - start < bp_len(v, n) || start - a < len;
}

u64 debug_match_data(const struct vcpu *v, gva_t lin, unsigned len, bool write)
{
	u64 hit = 0;

	for (unsigned n = 0; n < 4; n++)
		if (bp_is_data(v, n) && (write || bp_rw(v, n) == RW_DATA) &&
		    bp_overlaps(v, n, lin, len))
			hit |= BIT(n);
	return hit;
}

u64 debug_match_exec(const struct vcpu *v, gva_t lin)
{
	u64 hit = 0;

	for (unsigned n = 0; n < 4; n++)
		if (bp_enabled(v, n) && bp_rw(v, n) == RW_EXEC && v->dr[n] == lin)
			hit |= BIT(n);
	return hit;
}

u64 debug_match_io(const struct vcpu *v, u16 port, unsigned len)
{
	u64 hit = 0;

	if (!(v->cr4 & CR4_DE))
		return 0;
	for (unsigned n = 0; n < 4; n++)
		if (bp_enabled(v, n) && bp_rw(v, n) == RW_IO &&
		    bp_overlaps(v, n, port, len))
			hit |= BIT(n);
	return hit;
}

bool debug_page_watched(const struct vcpu *v, gva_t lin)
{
	if (unlikely(v->debug != NULL) && debugger_page_watched(v, lin))
		return true;
	if (likely(!(v->dr[7] & 0xff)))
		return false;
	for (unsigned n = 0; n < 4; n++)
		if (bp_is_data(v, n) && !((v->dr[n] ^ lin) >> 12))
			return true;
	return false;
}

bool debug_exec_enabled(const struct vcpu *v)
{
	if (likely(!(v->dr[7] & 0xff)))
		return false;
	for (unsigned n = 0; n < 4; n++)
		if (bp_enabled(v, n) && bp_rw(v, n) == RW_EXEC)
			return true;
	return false;
}

/* DR0 to DR3 or DR7 get a new value. Pages with a data breakpoint are not in the TLB. */
static void dr_set(struct vcpu *v, unsigned n, u64 val)
{
	bool watched = any_data(v);

	v->dr[n] = val;
	if (watched || any_data(v))
		tlb_flush_all(v);
	vcpu_mode_changed(v);
}

void debug_clear_local(struct vcpu *v)
{
	/* L0 to L3 and LE. */
	if (v->dr[7] & 0x155)
		dr_set(v, 7, v->dr[7] & ~UINT64_C(0x155));
}

/* The checks of both directions; *n becomes 6 or 7 for the aliases 4 and 5. */
static bool dr_check(struct vcpu *v, unsigned *n)
{
	if (*n == 4 || *n == 5) {
		if (v->cr4 & CR4_DE)
			return raise_ud(v);
		*n += 2;
	}
	if (v->cpl)
		return raise_gp0(v);
	if (v->dr[7] & DR7_GD)
		return raise_db(v, DR6_BD, false);
	return true;
}

bool dr_read(struct vcpu *v, unsigned n, u64 *val)
{
	if (!dr_check(v, &n))
		return false;
	*val = v->dr[n];
	return true;
}

bool dr_write(struct vcpu *v, unsigned n, u64 val)
{
	if (!dr_check(v, &n))
		return false;
	if (n >= 6 && val >> 32)
		return raise_gp0(v);
	if (n == 6)
		v->dr[6] = (val & DR6_WRITABLE) | DR6_FIXED;
	else if (n == 7)
		dr_set(v, 7, (val & DR7_WRITABLE) | DR7_FIXED);
	else
		dr_set(v, n, val);
	return true;
}
