/*
 * The paging walk, for every paging mode.
 *
 * SDM volume 3 chapter 4: 4.3 (32-bit, PSE-36), 4.4 (PAE), 4.5 (4- and 5-level), 4.6
 * (access rights, protection keys), 4.7 (error codes), 4.8 (A and D). One walker; the
 * modes differ in a format descriptor. Entries above the leaf get A as the walk passes
 * them, the leaf only when the access is allowed.
 * Thread: the owner of the vCPU. Entries are updated with a locked compare-and-exchange,
 * as another CPU may change them meanwhile.
 */
#include "x86/walk.h"

#include <string.h>

#include "mem/phys.h"
#include "x86/stats.h"
#include "x86/trial.h"

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

struct format {
	u8 levels;     /* tables read by the walk */
	u8 index_bits; /* linear-address bits per level */
	u8 entry_size;
	u8 top_shift; /* of the first level's index */
};

static const struct format formats[] = {
	[PAGING_32] = { .levels = 2, .index_bits = 10, .entry_size = 4, .top_shift = 22 },
	[PAGING_PAE] = { .levels = 2, .index_bits = 9, .entry_size = 8, .top_shift = 21 },
	[PAGING_4LEVEL] = { .levels = 4,
			    .index_bits = 9,
			    .entry_size = 8,
			    .top_shift = 39 },
	[PAGING_5LEVEL] = { .levels = 5,
			    .index_bits = 9,
			    .entry_size = 8,
			    .top_shift = 48 },
};

enum paging_mode paging_mode(const struct vcpu *v)
{
	if (!(v->cr0 & CR0_PG))
		return PAGING_NONE;
	if (!(v->cr4 & CR4_PAE))
		return PAGING_32;
	if (!(v->efer & EFER_LMA))
		return PAGING_PAE;
	return v->cr4 & CR4_LA57 ? PAGING_5LEVEL : PAGING_4LEVEL;
}

/* Entries outside RAM read as the bus answers; A and D cannot be kept there. */
static u64 entry_read(struct vcpu *v, gpa_t gpa, unsigned size, void **host)
{
	v->stats->walk_refs++;
	*host = phys_host(v->phys, gpa, size, true);
	if (likely(*host))
		return size == 8 ? __atomic_load_n((u64 *)*host, __ATOMIC_RELAXED)
				 : __atomic_load_n((u32 *)*host, __ATOMIC_RELAXED);
	if (unlikely(v->trial)) {
		v->trial->impure = true;
		return 0;
	}
	vcpu_park(v);
	return phys_load(v->phys, gpa, size);
}

/* Set bits in an entry that still is what was read. False: it changed, walk again. */
static bool entry_set(struct vcpu *v, gpa_t gpa, void *host, unsigned size, u64 *entry,
		      u64 bits)
{
	u64 want = *entry | bits;
	u8 *flags;

	if (want == *entry || !host)
		return true;
	if (unlikely(v->trial) && !trial_write(v->trial, host, gpa, size, true))
		return true;
	if (size == 8) {
		if (!__atomic_compare_exchange_n((u64 *)host, entry, want, false,
						 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			return false;
	} else {
		u32 old = (u32)*entry;

		if (!__atomic_compare_exchange_n((u32 *)host, &old, (u32)want, false,
						 __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			return false;
	}
	*entry = want;
	flags = phys_page_flags(v->phys, gpa);
	if (unlikely(flags && (__atomic_load_n(flags, __ATOMIC_RELAXED) & PAGE_CODE) &&
		     !v->trial))
		phys_note_write(v->phys, gpa, size);
	return true;
}

/* Is the entry a page and not a table? 'shift' is that of its level. */
static bool is_leaf(const struct vcpu *v, enum paging_mode mode, unsigned shift,
		    u64 entry)
{
	if (shift == 12)
		return true;
	if (!(entry & PTE_PS))
		return false;
	if (mode == PAGING_32)
		return v->cr4 & CR4_PSE;
	if (shift == 30)
		return cpu_has(v, FEAT_PDPE1GB);
	return shift == 21;
}

/* Bits of an entry that must be zero (SDM 3 figures 4-4 to 4-11). */
static u64 reserved_bits(const struct vcpu *v, enum paging_mode mode, unsigned shift,
			 bool leaf)
{
	u64 rsvd = v->phys_reserved;

	if (mode == PAGING_32) {
		if (!leaf || shift == 12)
			return 0;
		/* PSE-36: address bits 39:32 in 20:13, as far as MAXPHYADDR goes. */
		rsvd = BIT(21);
		if (v->phys_bits < 40)
			rsvd |= BITS(20,
				     13 + (v->phys_bits > 32 ? v->phys_bits - 32 : 0));
		return rsvd;
	}
	if (mode == PAGING_PAE)
		rsvd |= BITS(62, 52);
	if (!(v->efer & EFER_NXE))
		rsvd |= PTE_NX;
	if (leaf && shift > 12)
		rsvd |= BITS(shift - 1, 13);
	else if (!leaf && shift >= 30)
		rsvd |= PTE_PS;
	return rsvd;
}

/* Protection-key rights that are denied: BIT(ACC_READ), BIT(ACC_WRITE). SDM 3
 * section 4.6.2. */
static unsigned pkey_denied(const struct vcpu *v, enum paging_mode mode, bool user_page,
			    bool user_access, u64 leaf)
{
	unsigned key = (unsigned)bits_get(leaf, 62, 59);
	u32 rights;

	if (mode < PAGING_4LEVEL)
		return 0;
	if (user_page) {
		if (!(v->cr4 & CR4_PKE))
			return 0;
		rights = v->pkru >> (2 * key);
	} else {
		if (!(v->cr4 & CR4_PKS))
			return 0;
		rights = v->pkrs >> (2 * key);
	}
	if (rights & 1)
		return BIT(ACC_READ) | BIT(ACC_WRITE);
	if ((rights & 2) && (user_access || (v->cr0 & CR0_WP)))
		return BIT(ACC_WRITE);
	return 0;
}

/* What this kind of access may do with a page of these attributes. */
static unsigned rights_of(const struct vcpu *v, enum mmu_idx idx, bool user,
			  bool writable, bool nx)
{
	unsigned r = BIT(ACC_READ) | BIT(ACC_WRITE) | BIT(ACC_EXEC);

	if (idx == MMU_USER) {
		if (!user)
			return 0;
		if (!writable)
			r &= ~BIT(ACC_WRITE);
	} else {
		if (!writable && (v->cr0 & CR0_WP))
			r &= ~BIT(ACC_WRITE);
		if (user && (v->cr4 & CR4_SMEP))
			r &= ~BIT(ACC_EXEC);
		if (user && idx == MMU_KERNEL && (v->cr4 & CR4_SMAP))
			r &= ~(BIT(ACC_READ) | BIT(ACC_WRITE));
	}
	if (nx)
		r &= ~BIT(ACC_EXEC);
	return r;
}

static bool fail(const struct vcpu *v, struct walk *w, enum access acc, enum mmu_idx idx,
		 u32 error)
{
	if (acc == ACC_WRITE)
		error |= PF_W;
	if (idx == MMU_USER)
		error |= PF_U;
	if (acc == ACC_EXEC &&
	    ((v->cr4 & CR4_SMEP) || ((v->cr4 & CR4_PAE) && (v->efer & EFER_NXE))))
		error |= PF_I;
	w->pf_error = error;
	return false;
}

/* The address and attributes of a page. */
static void found(const struct vcpu *v, gva_t va, struct walk *w, enum paging_mode mode,
		  unsigned shift, u64 entry)
{
	u64 addr;

	if (mode == PAGING_32) {
		addr = (u32)entry & (u32) ~(BIT(shift) - 1);
		if (shift == 22)
			addr |= bits_get(entry, 20, 13) << 32;
	} else {
		addr = entry & BITS(51, shift);
	}
	w->gpa = addr | (va & (BIT(shift) - 1));
	w->page_shift = (u8)shift;
	w->dirty = entry & PTE_D;
	w->global = (entry & PTE_G) && (v->cr4 & CR4_PGE);
}

/* Check the leaf, set its A and D, fill in the result. */
static bool finish(struct vcpu *v, gva_t va, enum access acc, enum mmu_idx idx,
		   struct walk *w, enum paging_mode mode, unsigned shift, u64 entry,
		   bool writable, bool nx, gpa_t entry_gpa, void *host, bool *again)
{
	unsigned size = formats[mode].entry_size;
	unsigned denied = pkey_denied(v, mode, w->user, idx == MMU_USER, entry);
	unsigned rights = rights_of(v, idx, w->user, writable, nx);

	w->key = w->user ? (u8)bits_get(entry, 62, 59) : 0;
	w->rights = (u8)(rights & ~denied);
	if (!(w->rights & BIT(acc))) {
		u32 error = PF_P;

		if (acc != ACC_EXEC && (denied & BIT(acc)))
			error |= PF_PK;
		return fail(v, w, acc, idx, error);
	}
	if (!entry_set(v, entry_gpa, host, size, &entry,
		       PTE_A | (acc == ACC_WRITE ? PTE_D : 0))) {
		*again = true;
		return false;
	}
	found(v, va, w, mode, shift, entry);
	return true;
}

/* ---- how far walks have come ---- */

void walks_forget(struct vcpu *v)
{
	struct tlb_walks *c = &v->walks;

	/* 0 is the time of what was never filled. */
	if (unlikely(!++c->now)) {
		memset(c, 0, sizeof(*c));
		c->now = 1;
	}
}

static struct tlb_walked *walked_at(struct tlb_walks *c, gva_t va)
{
	u64 region = va >> 21;

	return &c->entry[(region ^ region >> 18) % WALKS_SIZE];
}

/* A stand-in looks at those of the other, as it does at its TLB. */
static struct tlb_walked *walked(struct vcpu *v, gva_t va)
{
	struct tlb_walks *c = v->trial ? &v->trial->real->walks : &v->walks;
	struct tlb_walked *e = walked_at(c, va);
	bool counts = !v->trial || !v->trial->flushed;

	return counts && e->time == c->now && e->region == va >> 21 ? e : NULL;
}

static void walked_drop(struct vcpu *v, struct tlb_walked *e)
{
	if (e && !v->trial)
		e->time = v->walks.now - 1;
}

static void walked_note(struct vcpu *v, gva_t va, gpa_t table, bool user, bool writable,
			bool nx)
{
	if (likely(!v->trial))
		*walked_at(&v->walks, va) =
			(struct tlb_walked){ va >> 21, table,    v->walks.now,
					     user,     writable, nx };
}

static bool walk_once(struct vcpu *v, gva_t va, enum access acc, enum mmu_idx idx,
		      struct walk *w, enum paging_mode mode,
		      const struct tlb_walked *from, bool *again)
{
	const struct format *f = &formats[mode];
	unsigned shift = f->top_shift;
	bool writable = true, nx = false;
	gpa_t table = v->cr3 & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));

	w->user = true;
	if (from) {
		table = from->table;
		shift = PAGE_SHIFT;
		w->user = from->user;
		writable = from->writable;
		nx = from->nx;
	}
	if (mode == PAGING_PAE) {
		u64 pdpte = v->pdpte[bits_get(va, 31, 30)];

		if (!(pdpte & PTE_P))
			return fail(v, w, acc, idx, 0);
		table = pdpte & BITS(51, 12);
	}
	for (;;) {
		u64 index = (va >> shift) & (BIT(f->index_bits) - 1);
		gpa_t gpa = table + index * f->entry_size;
		void *host;
		u64 entry = entry_read(v, gpa, f->entry_size, &host);
		bool leaf;

		if (!(entry & PTE_P))
			return fail(v, w, acc, idx, 0);
		leaf = is_leaf(v, mode, shift, entry);
		if (entry & reserved_bits(v, mode, shift, leaf))
			return fail(v, w, acc, idx, PF_P | PF_RSVD);
		writable &= !!(entry & PTE_W);
		w->user &= !!(entry & PTE_U);
		nx |= f->entry_size == 8 && (entry & PTE_NX);
		if (leaf)
			return finish(v, va, acc, idx, w, mode, shift, entry, writable,
				      nx, gpa, host, again);
		if (!entry_set(v, gpa, host, f->entry_size, &entry, PTE_A)) {
			*again = true;
			return false;
		}
		table = entry & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));
		shift -= f->index_bits;
		if (shift == PAGE_SHIFT && mode >= PAGING_4LEVEL)
			walked_note(v, va, table, w->user, writable, nx);
	}
}

bool walk(struct vcpu *v, gva_t va, enum access acc, enum mmu_idx idx, struct walk *w)
{
	enum paging_mode mode = v->paging;
	struct tlb_walked *from = NULL;
	bool again;

	v->stats->walks++;
	if (mode == PAGING_NONE) {
		w->gpa = va;
		w->page_shift = 12;
		w->user = true;
		w->dirty = true;
		w->global = false;
		w->key = 0;
		w->rights = BIT(ACC_READ) | BIT(ACC_WRITE) | BIT(ACC_EXEC);
		return true;
	}
	if (mode >= PAGING_4LEVEL)
		from = walked(v, va);
	/* Another CPU that keeps changing the entry makes progress itself; it cannot hold
	 * us for long. A fault is what the tables say now. */
	do {
		again = from;
		if (walk_once(v, va, acc, idx, w, mode, from, &again))
			return true;
		walked_drop(v, from);
		from = NULL;
	} while (again);
	return false;
}

/* An entry that a look can pass, or end with. */
static bool is_walked(const struct vcpu *v, enum paging_mode mode, unsigned shift,
		      bool leaf, u64 entry)
{
	return (entry & PTE_P) && (entry & PTE_A) &&
	       !(entry & reserved_bits(v, mode, shift, leaf));
}

bool walk_down(struct vcpu *v, gva_t va, struct walk_table *t)
{
	enum paging_mode mode = v->paging;
	const struct format *f = &formats[mode];
	unsigned shift = f->top_shift;

	if (mode < PAGING_4LEVEL)
		return false;
	*t = (struct walk_table){ .table = v->cr3 & BITS(51, 12),
				  .user = true,
				  .writable = true };
	for (; shift > PAGE_SHIFT; shift -= f->index_bits) {
		u64 index = (va >> shift) & (BIT(f->index_bits) - 1);
		const u64 *host = phys_host(v->phys, t->table + index * 8, 8, false);
		u64 entry = host ? __atomic_load_n(host, __ATOMIC_RELAXED) : 0;

		if (is_leaf(v, mode, shift, entry)) {
			t->entry = entry;
			break;
		}
		if (!is_walked(v, mode, shift, false, entry))
			return false;
		t->writable &= !!(entry & PTE_W);
		t->user &= !!(entry & PTE_U);
		t->nx |= !!(entry & PTE_NX);
		t->table = entry & BITS(51, 12);
	}
	t->shift = (u8)shift;
	return true;
}

bool walk_entry(const struct vcpu *v, gva_t va, enum mmu_idx idx,
		const struct walk_table *t, u64 entry, struct walk *w)
{
	enum paging_mode mode = v->paging;
	bool writable = t->writable && (entry & PTE_W), nx = t->nx || (entry & PTE_NX);

	if (!is_walked(v, mode, t->shift, true, entry))
		return false;
	w->user = t->user && (entry & PTE_U);
	w->key = w->user ? (u8)bits_get(entry, 62, 59) : 0;
	w->rights = (u8)(rights_of(v, idx, w->user, writable, nx) &
			 ~pkey_denied(v, mode, w->user, idx == MMU_USER, entry));
	found(v, va, w, mode, t->shift, entry);
	return true;
}

bool walk_look(struct vcpu *v, gva_t va, enum mmu_idx idx, struct walk *w)
{
	struct walk_table t;
	u64 entry;

	if (!walk_down(v, va, &t))
		return false;
	entry = t.entry;
	if (t.shift == PAGE_SHIFT) {
		gpa_t at = t.table + (va >> PAGE_SHIFT & 511) * 8;
		const u64 *host = phys_host(v->phys, at, 8, false);

		entry = host ? __atomic_load_n(host, __ATOMIC_RELAXED) : 0;
	}
	return walk_entry(v, va, idx, &t, entry, w);
}

bool walk_peek(struct vcpu *v, gva_t va, gpa_t *gpa)
{
	enum paging_mode mode = paging_mode(v);
	const struct format *f = &formats[mode];
	unsigned shift = f->top_shift;
	gpa_t table = v->cr3 & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));

	if (mode == PAGING_NONE) {
		*gpa = va;
		return true;
	}
	if (mode == PAGING_PAE) {
		if (!(v->pdpte[bits_get(va, 31, 30)] & PTE_P))
			return false;
		table = v->pdpte[bits_get(va, 31, 30)] & BITS(51, 12);
	}
	for (;;) {
		u64 index = (va >> shift) & (BIT(f->index_bits) - 1);
		const void *host = phys_host(v->phys, table + index * f->entry_size,
					     f->entry_size, false);
		u64 entry = host ? le_load(host, f->entry_size) : 0;

		if (!(entry & PTE_P))
			return false;
		if (is_leaf(v, mode, shift, entry)) {
			u64 addr = mode == PAGING_32
					   ? (u32)entry & (u32) ~(BIT(shift) - 1)
					   : entry & BITS(51, shift);

			if (mode == PAGING_32 && shift == 22)
				addr |= bits_get(entry, 20, 13) << 32;
			*gpa = addr | (va & (BIT(shift) - 1));
			return true;
		}
		table = entry & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));
		shift -= f->index_bits;
	}
}

/* The linear address with the given bits from 'bit' on, sign-extended in long mode. */
static gva_t lin_extend(enum paging_mode mode, gva_t lin)
{
	unsigned shift = mode == PAGING_5LEVEL ? 64 - 57 : 64 - 48;

	return mode < PAGING_4LEVEL ? lin : (gva_t)((i64)(lin << shift) >> shift);
}

/*
 * Where the walk of 'lin' ends: the page, or how much the missing entry leaves out
 * (*skip). False: missing.
 */
static bool peek_page(struct vcpu *v, enum paging_mode mode, gva_t lin,
		      struct walk_range *r, u64 *skip, unsigned *budget)
{
	const struct format *f = &formats[mode];
	unsigned shift = f->top_shift;
	gpa_t table = v->cr3 & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));
	bool nx = false;

	r->user = r->writable = true;
	*skip = GiB(1);
	if (mode == PAGING_PAE) {
		if (!(v->pdpte[bits_get(lin, 31, 30)] & PTE_P))
			return false;
		table = v->pdpte[bits_get(lin, 31, 30)] & BITS(51, 12);
	}
	for (;;) {
		u64 index = (lin >> shift) & (BIT(f->index_bits) - 1);
		const void *host = phys_host(v->phys, table + index * f->entry_size,
					     f->entry_size, false);
		u64 entry = host ? le_load(host, f->entry_size) : 0;

		*skip = BIT(shift);
		if (!*budget)
			return false;
		--*budget;
		if (!(entry & PTE_P))
			return false;
		r->user &= !!(entry & PTE_U);
		r->writable &= !!(entry & PTE_W);
		nx |= f->entry_size == 8 && (entry & PTE_NX);
		if (is_leaf(v, mode, shift, entry)) {
			r->len = BIT(shift);
			r->lin = lin & ~(r->len - 1);
			r->gpa = entry & BITS(51, shift);
			r->exec = !nx;
			return true;
		}
		table = entry & (mode == PAGING_32 ? BITS(31, 12) : BITS(51, 12));
		shift -= f->index_bits;
	}
}

bool walk_next(struct vcpu *v, gva_t from, struct walk_range *r, unsigned *budget)
{
	enum paging_mode mode = paging_mode(v);
	u64 skip;

	if (mode == PAGING_NONE)
		return false;
	for (gva_t lin = from; *budget;) {
		lin = lin_extend(mode, lin);
		if (mode < PAGING_4LEVEL && lin >> 32)
			return false;
		if (peek_page(v, mode, lin, r, &skip, budget))
			return true;
		lin = (lin & ~(skip - 1)) + skip;
		/* All of it has been looked at. */
		if (!lin)
			return false;
	}
	return false;
}

bool pdpte_load(struct vcpu *v, u64 cr3)
{
	u64 e[4];
	/* SDM 3 table 4-8: bits 2:1, 8:5 and those above MAXPHYADDR. */
	u64 rsvd = v->phys_reserved | BITS(63, 52) | BITS(2, 1) | BITS(8, 5);

	for (unsigned i = 0; i < 4; i++) {
		void *host;

		e[i] = entry_read(v, (cr3 & BITS(31, 5)) + 8 * i, 8, &host);
		if ((e[i] & PTE_P) && (e[i] & rsvd))
			return raise_gp0(v);
	}
	for (unsigned i = 0; i < 4; i++)
		v->pdpte[i] = e[i];
	return true;
}
