/*
 * The shadow of the guest's page tables: what of a guest address space is mapped in the
 * process of guest user code, at the same linear addresses.
 *
 * It is filled by page faults that the guest does not see, and allows at no time more
 * than the guest's tables did when its TLB was last flushed: a page is mapped once a walk
 * has set its A bit, and writable once D is set too. A page that holds code that the VMM
 * has decoded is never writable. Pages that are not RAM are not mapped.
 *
 * Thread: the owner of the vCPU, while guest code is stopped.
 */
#pragma once

#include "engine/direct/policy.h"
#include "engine/direct/process.h"
#include "engine/direct/sensitive.h"
#include "x86/walk.h"

#define SHADOW_CHANGES 64
#define SHADOW_FILTER  512

struct shadow {
	struct vcpu *v;
	struct process *p;
	struct shadow_region *region; /* 'regions' of them, of 2 MiB each */
	u16 *slot;                    /* where a region is, by hash: its number + 1 */
	unsigned regions;
	unsigned pieces; /* mappings made since all were dropped */
	u64 cr3;         /* of which it is the shadow; ~0: of none */
	/* What else it depends on. */
	u64 generation; /* of the guest-physical map */
	gpa_t apic_page;
	bool nx; /* EFER.NXE */
	enum paging_mode paging;
	bool stale;       /* everything may have changed */
	unsigned changes; /* these pages may have */
	gva_t change[SHADOW_CHANGES];
	bool renewed; /* shadow_enter() has found nothing of the code that was there */
	bool large;   /* pieces of large pages are mapped */
	struct upkeep upkeep;
	/* Which guest-physical pages may be writable, by hash. */
	u64 writable[SHADOW_FILTER];
	/* The page that each breakpoint is in; all sensitive instructions of a page that
	 * may be executed have one. 0: none. */
	gva_t armed[PROCESS_BREAKS];
	struct sensitive guarded[PROCESS_BREAKS]; /* for what each is */
	unsigned next_break;
	/* Pages that have taken some from another one since somebody made it 0. */
	unsigned armings;
};

/* 0 or -ENOMEM. */
int shadow_init(struct shadow *s, struct vcpu *v, struct process *p);
void shadow_fini(struct shadow *s);

/* For vcpu.tlb_flushed. */
void shadow_flushed(struct shadow *s, u64 page, unsigned shift);
/* For vcpu.code_protected: take back the right to write there. */
void shadow_protect(struct shadow *s, gpa_t page);

/*
 * Before guest code runs: make it the shadow of what CR3 is now. -EADDRINUSE: the guest
 * has something mapped where the process has the mapper; other -errno here and below: the
 * process is of no use any more.
 */
int shadow_enter(struct shadow *s);

/* Map the page at this address for reading, with what else is allowed, if it can be. 0 or
 * -errno. */
int shadow_fill(struct shadow *s, gva_t lin);

/* Has the page a breakpoint? */
bool shadow_armed(const struct shadow *s, gva_t page);
/* Is code there in a function that one breakpoint stands for? */
bool shadow_guards(const struct shadow *s, gva_t rip);

/*
 * An access at this address has faulted; 'fetch': it may be an instruction. 1: mapped, do
 * it again. 0: it is for the interpreter. -errno.
 */
int shadow_fault(struct shadow *s, gva_t lin, bool fetch);
