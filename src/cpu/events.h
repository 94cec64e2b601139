/*
 * Which pending events can be acted on now. SDM volume 3 sections 6.8 (masking) and 6.7
 * (NMI).
 */
#pragma once

#include "x86/debugger.h"

/*
 * Must run() be left for these events, or a halted CPU wake? STI and MOV SS hold
 * interrupts back for one instruction; the CPU that waits for SIPI hears only that and
 * INIT.
 */
static inline bool vcpu_event_ready(const struct vcpu *v, u32 ev)
{
	/* A SIPI that nobody waits for is taken too, to be forgotten: it must not meet a
	 * later INIT. */
	if (ev & (EV_STOP | EV_INIT | EV_SIPI | EV_FLUSH | EV_TIMER))
		return true;
	if (v->activity == ACT_WAIT_SIPI || v->activity == ACT_SHUTDOWN)
		return false;
	/* Traps of the last instruction come first (SDM 3 table 6-2). */
	if (v->pending_db)
		return false;
	if (debugger_holds_interrupts(v))
		return false;
	if ((ev & EV_NMI) && !v->nmi_blocked && !v->shadow)
		return true;
	return (ev & EV_INTR) && (v->flags & RFLAGS_IF) && !v->shadow;
}
