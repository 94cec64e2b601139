/* A TLB miss, for access.c: translate, and remember what may be remembered. */
#pragma once

#include "x86/walk.h"

struct tlb_hit {
	gpa_t gpa;
	u8 *host;  /* NULL: not RAM (nor ROM, for reads): go through phys_load, phys_store
		    */
	bool code; /* a write must be reported with phys_note_write() */
};

/* False: #PF is in v->fault. 'lin' need not be aligned; the result is for its page. */
bool tlb_fill(struct vcpu *v, gva_t lin, enum access acc, enum mmu_idx idx,
	      struct tlb_hit *hit);
