/*
 * Executing decoded instructions: what the interpreter's loop is made of, and the translator's when it
 * does not translate.
 *
 * Thread: the owner of the vCPU.
 */
#pragma once

#include "engine/interp/block.h"

enum step {
	STEP_ON,
	STEP_EXIT,     /* HLT */
	STEP_SHUTDOWN, /* triple fault */
	STEP_FAILED,   /* the engine itself */
};

/* Deliver v->fault at v->rip. False: shutdown. */
bool step_deliver(struct vcpu *v);

/* The instruction at CS:RIP, with breakpoints, single-step and shadows. */
enum step step_one(struct vcpu *v, struct block_cache *c);

/* Run a block to where it is left: none of those is about. */
enum step step_block(struct vcpu *v, struct block *b);
