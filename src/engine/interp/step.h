/*
 * Executing decoded instructions: what the interpreter's loop is made of, and the
 * translator's when it does not translate.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "engine/interp/block.h"

enum step {
	STEP_ON,
	STEP_EXIT,     /* HLT */
	STEP_SHUTDOWN, /* triple fault */
	STEP_DEBUG,    /* v->debug wants to stop here */
	STEP_FAILED,   /* the engine itself */
};

/* Deliver v->fault at v->rip. False: shutdown. */
bool step_deliver(struct vcpu *v);

/*
 * The instruction at CS:RIP, with breakpoints, single-step and shadows, and what a
 * debugger wants.
 */
enum step step_one(struct vcpu *v, struct block_cache *c);

/*
 * A repeated string instruction is left in the middle: an interrupt that comes now pushes
 * RF, so that a breakpoint on the instruction does not hit again (SDM 3
 * section 17.3.1.1).
 */
void step_repeats(struct vcpu *v);

/* Run a block to where it is left: none of those is about. */
enum step step_block(struct vcpu *v, struct block *b);
