/*
 * The paging walk: every mode of SDM volume 3 chapter 4 through one walker driven by
 * a format descriptor.
 */
#pragma once

#include "x86/vcpu.h"

enum paging_mode { PAGING_NONE, PAGING_32, PAGING_PAE, PAGING_4LEVEL, PAGING_5LEVEL };

enum access { ACC_READ, ACC_WRITE, ACC_EXEC };

struct walk {
	gpa_t gpa;     /* of the address asked for */
	u8 page_shift; /* 12, 21, 22 or 30 */
	bool user;     /* every level has U/S = 1 */
	bool dirty;    /* D was set, or was set by this walk */
	bool global;
	u8 key;       /* protection key of a user page, else 0 */
	u8 rights;    /* BIT(ACC_*) of what this mmu_idx may do */
	u32 pf_error; /* when false was returned: the error code */
};

/* Which mode CR0, CR4 and EFER select. */
enum paging_mode paging_mode(const struct vcpu *v);

/*
 * Translate for an access of this kind by this mmu_idx. Sets A, and D for a write.
 * False: w->pf_error says why, and nothing was raised.
 */
bool walk(struct vcpu *v, gva_t va, enum access acc, enum mmu_idx idx, struct walk *w);

/* Forget how far walks have come. */
void walks_forget(struct vcpu *v);

/* How far a walk gets without the entry of the page. */
struct walk_table {
	gpa_t table; /* that has the entry */
	u64 entry;   /* of a large page, else 0 */
	u8 shift;    /* of the page: 12, 21 or 30 */
	bool user, writable, nx;
};

/*
 * Two halves of walk_look(), for who looks at many pages: where the entry is, and what it
 * means. In 4- and 5-level paging only.
 */
bool walk_down(struct vcpu *v, gva_t va, struct walk_table *t);
bool walk_entry(const struct vcpu *v, gva_t va, enum mmu_idx idx,
		const struct walk_table *t, u64 entry, struct walk *w);

/*
 * What a walk would find, without setting A and D: w->rights says what this mmu_idx may
 * do. False: not mapped, or A is not set yet everywhere.
 */
bool walk_look(struct vcpu *v, gva_t va, enum mmu_idx idx, struct walk *w);

/* The same without setting A and D and without permission checks: debuggers. False: not
 * mapped. */
bool walk_peek(struct vcpu *v, gva_t va, gpa_t *gpa);

/* A page as the tables map it, whatever its size. */
struct walk_range {
	gva_t lin;
	u64 len;
	gpa_t gpa;
	bool user, writable, exec;
};
/*
 * Debuggers: the first page mapped at or behind 'from'; non-canonical addresses are left
 * out. *budget counts down the entries read. False: there is none, or the budget is 0.
 */
bool walk_next(struct vcpu *v, gva_t from, struct walk_range *r, unsigned *budget);

/*
 * PAE: read the four PDPTEs at this CR3 into v->pdpte. False with #GP(0) raised when one
 * has reserved bits set (SDM 3 section 4.4.1).
 */
bool pdpte_load(struct vcpu *v, u64 cr3);
