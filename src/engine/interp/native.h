/*
 * Instructions executed by the host itself: x87, MMX, SSE, AVX, AVX-512, AES, SHA, BMI,
 * ...
 *
 * Each gets a stub of generated code: the same instruction with its memory operand
 * replaced by [rsi] and its general registers loaded from and stored to struct vcpu.
 * Stubs are shared by all instructions that differ in the memory operand only.
 * Instructions whose memory accesses depend on data (masks, gathers) are done element by
 * element when the operand is not in one plain page of RAM.
 *
 * Thread: the owner of the vCPU. Nothing is shared between vCPUs.
 */
#pragma once

#include "base/error.h"
#include "x86/decode.h"

/* Sets v->native and v->vec_park. 0 or -errno: no XSAVE, no executable memory. */
int native_open(struct vcpu *v, struct error *err);
void native_close(struct vcpu *v);

/*
 * Called when a block is decoded, for an instruction that decode() accepted and that has
 * no C function. 'bytes' are its in->len bytes. Sets in->fn and in->aux, and for
 * vector-indexed operands and EVEX displacements in->base, index and disp. The vector
 * state is parked. False: #UD, the guest has no such instruction.
 */
bool native_prepare(struct vcpu *v, const u8 *bytes, struct insn *in);

/*
 * The stubs are used up: forget every decoded instruction and call native_flush(). To be
 * asked at least every NATIVE_MARGIN calls of native_prepare(), when no block is half
 * done.
 */
#define NATIVE_MARGIN 256
bool native_full(const struct vcpu *v);
void native_flush(struct vcpu *v);
