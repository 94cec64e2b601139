/*
 * One program in a small machine, run by every engine, and the results compared with the
 * interpreter's. A program is assembled into this test, copied to CODE, and runs to its
 * first exception; it ends itself with INT3. Tables are x86_box.h's; each vector's
 * handler is one HLT.
 */
#pragma once

#include "x86_box.h"

#include "../noplatform.h"
#include "base/alloc.h"
#include "engine/check/check.h"
#include "engine/interp/run.h"
#include "engine/translate/run.h"
#include "host/lowmem.h"
#include "x86/xsave.h"

#define CODE  0x40000u /* programs */
#define CODE2 0x48000u /* a second piece, where a test wants one */
#define DATA  0x60000u /* 64 KiB for data */

/* PROGRAM(name, "assembly in Intel syntax"): bytes from name to name_end. */
#define PROGRAM(name, text)                                                              \
	__asm__(".pushsection .rodata\n.intel_syntax noprefix\n" #name ":\n" text        \
		"\n" #name "_end:\n.att_syntax\n.popsection\n");                         \
	extern const u8 name[], name##_end[]

struct end {
	unsigned vector;
	u64 error, rip, flags, rsp, cr2;
	u64 gpr[16];
	u8 xmm[256], ymm[256];
	u8 *ram;
};

struct program {
	const char *name;
	const u8 *code, *end;
	unsigned cpl;
	/* Further set-up, before each run; may be NULL. */
	void (*prepare)(struct box *b);
};

/* The first is what the others are compared with. */
static const struct engine *const all_engines[] = {
	&engine_interp,        &engine_translate,      &engine_translate_eager,
	&engine_translate_one, &engine_translate_tiny, &engine_translate_slow,
	&engine_check,
};

/* A box whose vCPU is laid out for the engine and opened; NULL: it does not work here. */
static struct box *engine_box_new(const struct engine *e)
{
	struct box *b = box_new();
	struct error err = { "" };
	struct vcpu *v;

	if (e->probe && e->probe(&err)) {
		box_free(b);
		return NULL;
	}
	v = lowmem_new(sizeof(*v));
	b->cpuid.xcr0 = 7;
	v->phys = b->phys;
	v->stats = &b->stats;
	v->platform = &no_platform;
	cpuid_attach(v, &b->cpuid);
	free(b->v);
	b->v = v;
	assert_int_equal(e->vcpu_open(v, &err), 0);
	vcpu_reset(v, false);
	return b;
}

static void engine_box_free(const struct engine *e, struct box *b)
{
	e->vcpu_close(b->v);
	lowmem_free(b->v, sizeof(*b->v));
	b->v = NULL;
	box_free(b);
}

/* Long mode at this CPL, 4 KiB pages, handlers, vector instructions enabled. */
static void engine_box_start(const struct engine *e, struct box *b, unsigned cpl)
{
	memset(b->ram, 0, RAM_SIZE);
	box_long(b, cpl);
	box_map_small(b);
	for (unsigned i = 0; i < 256; i++) {
		set_idt64(b, i, make_gate(14, 3, true, CODE64(0), HANDLERS + 16 * i, 0),
			  0);
		b->ram[HANDLERS + 16 * i] = 0xf4;
	}
	b->v->cr0 |= CR0_MP;
	b->v->cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	b->v->xcr0 = 7;
	b->v->rip = CODE;
	b->v->activity = ACT_RUNNING;
	vcpu_sync(b->v);
	if (e->push)
		e->push(b->v);
}

static void get_vectors(struct box *b, struct end *r)
{
	const u8 *x = b->v->xsave;
	u64 bv = le_load(x + XSAVE_XSTATE_BV, 8);

	memset(r->xmm, 0, 512);
	if (bv & XCR0_SSE)
		memcpy(r->xmm, x + XSAVE_XMM, 256);
	if (bv & XCR0_AVX)
		memcpy(r->ymm, x + XSAVE_YMM, 256);
}

static void get_end(struct box *b, struct end *r)
{
	struct vcpu *v = b->v;
	u64 sp = v->gpr[RSP];

	memset(r, 0, sizeof(*r));
	memcpy(r->gpr, v->gpr, sizeof(r->gpr));
	r->vector = (unsigned)(v->rip - 1 - HANDLERS) / 16;
	if ((1u << r->vector & 0x27d00) && r->vector < 32) {
		r->error = peek(b, sp, 8);
		sp += 8;
	}
	r->rip = peek(b, sp, 8);
	r->flags = peek(b, sp + 16, 8);
	r->rsp = r->gpr[RSP] = peek(b, sp + 24, 8);
	r->cr2 = v->cr2;
	get_vectors(b, r);
	r->ram = malloc(RAM_SIZE);
	memcpy(r->ram, b->ram, RAM_SIZE);
	/* A and D bits are compared by tests that are about them. */
	memset(r->ram + PML4, 0, PT + 0x1000 - PML4);
}

/* From the state that was set up to the HLT of a handler. */
static void engine_box_run(const struct engine *e, struct box *b, struct end *r)
{
	enum vcpu_exit why;

	do
		why = e->run(b->v);
	while (why == VCPU_EXIT_EVENT);
	if (why != VCPU_EXIT_HLT)
		fail_msg("%s: left with %u at %llx", e->name, why,
			 (unsigned long long)b->v->rip);
	get_end(b, r);
}

static void assert_same_end(const char *engine, const struct program *p,
			    const struct end *a, const struct end *want)
{
	if (a->vector != want->vector || a->rip != want->rip || a->error != want->error ||
	    a->flags != want->flags || a->cr2 != want->cr2)
		fail_msg("%s on %s: vector %u error %llx rip %llx flags %llx cr2 %llx, "
			 "interpreter %u %llx %llx %llx %llx",
			 p->name, engine, a->vector, (unsigned long long)a->error,
			 (unsigned long long)a->rip, (unsigned long long)a->flags,
			 (unsigned long long)a->cr2, want->vector,
			 (unsigned long long)want->error, (unsigned long long)want->rip,
			 (unsigned long long)want->flags, (unsigned long long)want->cr2);
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != want->gpr[i])
			fail_msg("%s on %s: register %u is %llx, interpreter %llx",
				 p->name, engine, i, (unsigned long long)a->gpr[i],
				 (unsigned long long)want->gpr[i]);
	if (memcmp(a->xmm, want->xmm, 512))
		fail_msg("%s on %s: vector registers differ", p->name, engine);
	for (u32 i = 0; i < RAM_SIZE; i++)
		if (a->ram[i] != want->ram[i])
			fail_msg("%s on %s: memory at %x is %02x, interpreter %02x",
				 p->name, engine, i, a->ram[i], want->ram[i]);
}

/* Run on all engines; the interpreter's end, for the test to look at. Free r->ram. */
UNUSED static void run_program(const struct program *p, struct end *want)
{
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {
		const struct engine *e = all_engines[i];
		struct box *b = engine_box_new(e);
		struct end r;

		if (!b)
			continue;
		engine_box_start(e, b, p->cpl);
		memcpy(b->ram + CODE, p->code, (size_t)(p->end - p->code));
		if (p->prepare)
			p->prepare(b);
		engine_box_run(e, b, &r);
		engine_box_free(e, b);
		if (!i) {
			*want = r;
			continue;
		}
		assert_same_end(e->name, p, &r, want);
		free(r.ram);
	}
}

/* Run on one engine, for what it counts. Skips the test where it does not work. */
UNUSED static void count_program(const struct engine *e, const struct program *p,
				 struct vcpu_stats *s)
{
	struct box *b = engine_box_new(e);
	struct end r;

	if (!b)
		skip();
	engine_box_start(e, b, p->cpl);
	memcpy(b->ram + CODE, p->code, (size_t)(p->end - p->code));
	if (p->prepare)
		p->prepare(b);
	engine_box_run(e, b, &r);
	free(r.ram);
	*s = b->stats;
	engine_box_free(e, b);
}

#define AT(label, program) (CODE + (u64)((label) - (program)))
