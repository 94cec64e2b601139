/*
 * A stack during a control transfer: the current one, or the one the CPU will have.
 *
 * Pushes and pops move 'sp' here and not in the vCPU, so a transfer that faults half-way
 * has changed nothing but memory below the stack pointer. SDM volume 3
 * sections 5.8.5, 6.12.1, 6.14.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/access.h"
#include "x86/seg.h"

struct stack {
	struct seg ss; /* not looked at with width 8 */
	u64 sp;        /* the whole register: only its low 'width' bytes move */
	u16 error;     /* error code of #SS when something does not fit */
	u8 width;      /* 2, 4 or 8 bytes of stack pointer */
	u8 idx;        /* enum mmu_idx of its accesses */
	bool current;  /* this privilege's own accesses: alignment is checked */
};

/* Accesses by privilege level 'cpl' with EFLAGS.AC as it is. */
static inline enum mmu_idx mmu_idx_of(const struct vcpu *v, unsigned cpl)
{
	if (cpl == 3)
		return MMU_USER;
	return (v->flags & RFLAGS_AC) && (v->cr4 & CR4_SMAP) ? MMU_KERNEL_AC : MMU_KERNEL;
}

struct stack stack_current(const struct vcpu *v);
/* A 64-bit stack for 'cpl': no segmentation. */
struct stack stack_long(const struct vcpu *v, u64 sp, unsigned cpl);

/*
 * The stack for inner level 'cpl' from the current TSS, with all checks of its selector
 * (#TS, #SS). Outside long mode alone. *d is the descriptor of s->ss; its accessed
 * bit is the caller's to set.
 */
bool stack_inner(struct vcpu *v, unsigned cpl, struct stack *s, struct desc *d);
/* Long mode: the field at 'off' of the TSS, RSPn or ISTn. */
bool tss_read_rsp(struct vcpu *v, unsigned off, u64 *rsp);

/* Is there room to push 'n' items of 'size' bytes; are there 'n' to pop behind 'skip'
 * bytes? #SS when not. */
bool stack_room(struct vcpu *v, const struct stack *s, unsigned n, unsigned size);
bool stack_holds(struct vcpu *v, const struct stack *s, unsigned n, unsigned size);

/* After stack_room() or stack_holds(): only paging (and alignment) can fault. */
bool stack_push(struct vcpu *v, struct stack *s, unsigned size, u64 val);
bool stack_pop(struct vcpu *v, struct stack *s, unsigned size, u64 *val);
/* Move over 'bytes' upwards without reading. */
void stack_skip(struct stack *s, unsigned bytes);
/* Make it RSP. SS is the caller's. */
void stack_commit(struct vcpu *v, const struct stack *s);
