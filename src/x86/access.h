/*
 * Guest memory as instructions see it: segmentation, paging, alignment and data
 * breakpoints.
 *
 * All return false with v->fault filled in when the access faults, and then have changed
 * nothing. 'sreg' is the segment register used; 'off' the offset in it, already cut
 * to the address size. Accesses may cross pages; both pages are checked before
 * anything is written.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "base/bits.h"
#include "x86/walk.h"

/* seg_ok: the inline limit check is enough for a read, a write; and: base 0, limit 4G
 * - 1. */
enum { SEG_R_OK = 1, SEG_W_OK = 2, SEG_FLAT = 4 };
/* For vcpu.seg_bar. */
#define SEG_BARRED BIT(62)

/* Check an access of 'len' bytes and give its linear address. #GP or #SS when refused. */
bool seg_linear_slow(struct vcpu *v, unsigned sreg, u64 off, u64 len, enum access acc,
		     gva_t *lin);

static inline bool seg_linear(struct vcpu *v, unsigned sreg, u64 off, unsigned len,
			      enum access acc, gva_t *lin)
{
	if (v->code_size == 8) {
		/* Canonical is implied by a TLB hit and checked on a miss. */
		*lin = off + (sreg >= FS ? v->seg[sreg].base : 0);
		return true;
	}
	if (likely((v->seg_ok[sreg] & (acc == ACC_WRITE ? SEG_W_OK : SEG_R_OK)) &&
		   off + len - 1 <= v->seg[sreg].limit && (u32)off == off)) {
		*lin = (u32)(off + v->seg[sreg].base);
		return true;
	}
	return seg_linear_slow(v, sreg, off, len, acc, lin);
}

static inline unsigned tlb_slot(gva_t lin)
{
	return (lin >> 12) & (TLB_SIZE - 1);
}

/* True when [lin, lin+size) lies in one page. */
static inline bool in_page(gva_t lin, unsigned size)
{
	return (lin & 0xfff) + size <= 0x1000;
}

/* Linear accesses with the current privilege. sreg decides #SS or #GP when not canonical.
 */
bool lin_read_slow(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
		   enum mmu_idx idx, u64 *val);
bool lin_write_slow(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
		    enum mmu_idx idx, u64 val);

static inline bool lin_read(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
			    u64 *val)
{
	const struct tlb_way *t = &v->tlb.way[v->mmu_idx];
	unsigned slot = tlb_slot(lin);

	if (likely((lin & ~UINT64_C(0xfff)) + t->entry[slot].read == 0 &&
		   in_page(lin, size) && !(v->ac_check && (lin & (size - 1))))) {
		*val = le_load((const void *)(lin + t->entry[slot].addend), size);
		return true;
	}
	return lin_read_slow(v, sreg, lin, size, v->mmu_idx, val);
}

static inline bool lin_write(struct vcpu *v, unsigned sreg, gva_t lin, unsigned size,
			     u64 val)
{
	const struct tlb_way *t = &v->tlb.way[v->mmu_idx];
	unsigned slot = tlb_slot(lin);

	if (likely((lin & ~UINT64_C(0xfff)) + t->entry[slot].write == 0 &&
		   in_page(lin, size) && !(v->ac_check && (lin & (size - 1))))) {
		le_store((void *)(lin + t->entry[slot].addend), val, size);
		return true;
	}
	return lin_write_slow(v, sreg, lin, size, v->mmu_idx, val);
}

/* An operand of 1, 2, 4 or 8 bytes, zero-extended. */
static inline bool mem_read(struct vcpu *v, unsigned sreg, u64 off, unsigned size,
			    u64 *val)
{
	gva_t lin;

	return seg_linear(v, sreg, off, size, ACC_READ, &lin) &&
	       lin_read(v, sreg, lin, size, val);
}

static inline bool mem_write(struct vcpu *v, unsigned sreg, u64 off, unsigned size,
			     u64 val)
{
	gva_t lin;

	return seg_linear(v, sreg, off, size, ACC_WRITE, &lin) &&
	       lin_write(v, sreg, lin, size, val);
}

/*
 * Any length up to 4096 bytes: vector operands, FXSAVE images. No alignment check (the
 * instruction's own rule); 'lin' results let the caller know the alignment.
 */
bool mem_read_bytes(struct vcpu *v, unsigned sreg, u64 off, void *buf, unsigned len);
bool mem_write_bytes(struct vcpu *v, unsigned sreg, u64 off, const void *buf,
		     unsigned len);
/* Check that a write of [off, off+len) would succeed, without writing. Sets A and D. */
bool mem_probe_write(struct vcpu *v, unsigned sreg, u64 off, unsigned len);
bool mem_probe_read(struct vcpu *v, unsigned sreg, u64 off, unsigned len);

/*
 * Read-modify-write of 1 to 16 bytes: rmw_begin() gives a pointer to operate on. It is
 * guest RAM itself when that is possible ('direct'), so a host LOCK instruction on it is
 * atomic for the guest too; else a copy, that rmw_end() writes back. Between the two
 * nothing else may be done with guest memory. Abandon (CMPXCHG that does not
 * store still writes back the old value, as the manual says) by not calling rmw_end.
 */
struct rmw {
	void *p;
	gpa_t gpa, gpa2; /* of the first byte, and of the first byte in a second page */
	u8 size, first;  /* bytes, of which in the first page */
	bool direct;
	bool note; /* code page: report the write */
	u8 buf[16] __attribute__((aligned(16)));
};
bool rmw_begin(struct vcpu *v, unsigned sreg, u64 off, unsigned size, struct rmw *m);
void rmw_end(struct vcpu *v, struct rmw *m);

/*
 * Host address for [off, off+len) inside one page when the fast path applies, NULL
 * without a fault raised when not: string instructions and vector operands then take the
 * slow way.
 */
void *mem_fast_ptr(struct vcpu *v, unsigned sreg, u64 off, unsigned len, enum access acc);

/* Implicit supervisor accesses (descriptor tables, TSS, stacks of inner levels at CPL 0).
 * Linear address. */
bool sys_read(struct vcpu *v, gva_t lin, unsigned size, u64 *val);
bool sys_write(struct vcpu *v, gva_t lin, unsigned size, u64 val);
bool sys_read_bytes(struct vcpu *v, gva_t lin, void *buf, unsigned len);
/* Set and clear bits of a byte, locked as processors do it with descriptors. */
bool sys_bits(struct vcpu *v, gva_t lin, u8 set, u8 clear);
/* Check for writing without writing; sets A and D. */
bool sys_probe_write(struct vcpu *v, gva_t lin, unsigned len);
/* As user or supervisor by choice: stacks of another privilege level during transfers. */
bool lin_read_as(struct vcpu *v, enum mmu_idx idx, unsigned sreg, gva_t lin,
		 unsigned size, u64 *val);
bool lin_write_as(struct vcpu *v, enum mmu_idx idx, unsigned sreg, gva_t lin,
		  unsigned size, u64 val);

/*
 * Instruction fetch: the physical address of the byte at linear 'lin', with execute
 * permission of the current privilege checked. False: fault raised.
 */
bool fetch_translate(struct vcpu *v, gva_t lin, gpa_t *gpa);

/* Drop cached translations. */
void tlb_flush_all(struct vcpu *v);
/* The same where the tables may have changed, but nothing else. */
void tlb_flush_global(struct vcpu *v);
void tlb_flush_nonglobal(struct vcpu *v);
void tlb_flush_page(struct vcpu *v, gva_t lin);
/*
 * A physical page now holds decoded code: writes to it must be seen. Any linear alias.
 * Also on another thread while the owner is known to wait (cpu/vm.c).
 */
void tlb_protect_code(struct vcpu *v, gpa_t page);
