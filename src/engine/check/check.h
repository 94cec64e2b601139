/*
 * The checking engine: translated code and the interpreter in lockstep.
 *
 * Each block is executed twice from the same state: first by the interpreter on a
 * stand-in, on trial (x86/trial.h), then by its translation on the vCPU itself. State and
 * memory must be the same then; if not, both are printed and the machine ends. A block
 * that reaches a device, the clock or the APIC cannot be executed twice; only its
 * translation runs.
 *
 * One vCPU. DMA that changes what a block reads between the two runs is told apart.
 */
#pragma once

#include "cpu/engine.h"

extern const struct engine engine_check;

/*
 * The translator made awkward, for tests: all is translated at once; one instruction a
 * block; so little code memory that it is full all the time; no operand ever found by
 * translated code.
 */
extern const struct engine engine_translate_direct, engine_translate_eager,
	engine_translate_only, engine_translate_one, engine_translate_tiny,
	engine_translate_slow;
