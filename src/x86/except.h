/*
 * Delivery of exceptions and interrupts through the IVT or IDT in every mode.
 * SDM volume 3 chapter 6; double-fault rules table 6-5.
 *
 * What is delivered makes a halted CPU run. RF in the pushed flags is 1 for fault-class
 * exceptions, else what RFLAGS.RF is: an engine that interrupts a REP instruction between
 * two iterations sets it first.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "x86/vcpu.h"

/*
 * Deliver v->fault at the current RIP (the faulting instruction's; behind it for 'trap'
 * and 'soft'). Faults during delivery become double faults, and those a shutdown: then
 * false is returned, v->activity is ACT_SHUTDOWN and the state is as at the last good
 * moment (but CR2 and DR6 have seen every fault).
 */
bool except_deliver(struct vcpu *v);

/* An external interrupt or NMI at the current RIP. Same result. */
bool except_interrupt(struct vcpu *v, u8 vector);
bool except_nmi(struct vcpu *v);

/*
 * INT n, INT3, INTO, INT1 (ICEBP): 'next' is the IP behind the instruction. In v8086 mode
 * with CR4.VME the redirection bitmap is honoured. False: a fault was raised, nothing
 * changed; deliver it with v->rip at the instruction. That INTO is #UD in 64-bit mode is
 * the caller's to check. A task gate is as in far.h.
 */
enum soft_kind { SOFT_INT_N, SOFT_INT3, SOFT_INTO, SOFT_INT1 };
bool except_soft_int(struct vcpu *v, u8 vector, enum soft_kind kind, u64 next);
