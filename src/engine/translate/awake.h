/*
 * Where translated code is executed, and what holds only there: T3 and T5 in translate.h.
 * Modes are those of tr_mode(), numbers of tables and shadow stacks.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "engine/translate/translate.h"

/* Of struct translator.low: a shadow stack for each mode, between guard pages. */
#define SHADOW_GUARD KiB(64)
#define SHADOW_SIZE  KiB(256)

/* ---- the table that branches look their targets up in ---- */

/* The vCPU is at 'lin', whose page is awake: go to 'entry' from now on. */
void jumps_add(struct translator *t, unsigned m, gva_t lin, u64 entry);
/* The code is found in this slot of the table, so that it can be forgotten. */
void jumps_note_slot(struct tr_code *code, unsigned m, unsigned slot);
void jumps_forget_code(struct translator *t, const struct tr_code *code);
/* What frame.page_lin is where the vCPU is now. */
u64 page_address(const struct vcpu *v);

/* ---- links ---- */

/* From a branch that is awake to code that is. */
void link_to(struct translator *t, struct tr_link *l, struct tr_code *code);
/* Undo all that lead there. */
void code_unlink(struct tr_code *code);

/* ---- pages ---- */

/*
 * A block is about to be executed at this linear address: its pages are woken, unless
 * they are awake there. False: where it was come from is asleep now.
 */
bool note_pages(struct translator *t, unsigned m, const struct block *b, gva_t lin);
/* All pages fall asleep. Whoever runs code of this mode must leave it now. */
void far_forget(struct translator *t, unsigned m);
/* The TLB was flushed: struct vcpu.tlb_flushed. Whoever runs must leave now. */
void far_flushed(struct translator *t, u64 page, unsigned shift);

/* ---- the shadow stacks ---- */

/* An empty one of this mode: its rsp. */
u64 shadow_empty(const struct translator *t, unsigned m);
/* What is returned to may be gone. Whoever runs code must leave it now. */
void shadows_forget(struct translator *t);
