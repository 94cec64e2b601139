/*
 * Two ways to execute one instruction: in a vCPU through native_prepare(), and directly
 * on the host CPU. The guest's linear addresses LIN_BASE.. are the host's too, so both
 * use the same registers; an unmapped guest page is an inaccessible host page.
 *
 * struct regs holds the state that goes in and comes out of both.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../hostarea.h"
#include "engine/interp/interp.h"
#include "engine/interp/native.h"
#include "engine/interp/vector.h"
#include "host/sig.h"
#include "mem/phys.h"
#include "x86/access.h"
#include "x86/stats.h"

#define LIN_BASE    UINT64_C(0x10000000)
#define PAGES       4u
#define LIN_END     (LIN_BASE + PAGES * PAGE_SIZE)
#define CODE_LIN    (LIN_BASE - PAGE_SIZE) /* where the guest's RIP is; nothing is there */
#define PHYS_BASE   UINT64_C(0x100000)
#define RAM_SIZE    MiB(4)
#define XSAVE_BYTES XSAVE_PKRU

#define STATUS  ((u64)RFLAGS_STATUS)
#define NO_TRAP 0xffu

struct regs {
	u8 xsave[XSAVE_AREA_SIZE] __attribute__((aligned(64)));
	u64 gpr[16]; /* RSP is not used */
	u64 flags;   /* status flags only */
	u8 mem[PAGES][4096];
	bool mapped[PAGES];
	/* Result. */
	unsigned trap; /* vector or NO_TRAP */
	u64 cr2;
};

/* ---- random numbers: xorshift, so that a failure repeats ---- */

static u64 rng_state = 0x9e3779b97f4a7c15;

static u64 rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545f4914f6cdd1d;
}

static void rnd_fill(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)p)[i] = (u8)(rnd() >> 32);
}

/* The vector state components of this host. */
static u64 oracle_xcr0(void)
{
	u32 lo, hi;

	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo & XCR0_VECTOR;
}

/* ---- the host's way ---- */

/* One page of code and data for direct execution. */
struct direct {
	u8 code[512];
	u64 gpr[16];
	u64 flags, host_rsp;
	u8 xsave[2816] __attribute__((aligned(64)));
	u8 host_xsave[2816] __attribute__((aligned(64)));
	/* Written by the signal handler. */
	u64 trap, cr2, resume;
};

struct oracle {
	struct direct *d;
	int sig;
	struct vcpu *v;
	struct phys *phys;
	u8 *ram;
	struct cpuid_table cpuid;
	struct vcpu_stats stats;
};

static bool direct_fault(void *opaque, struct sig_regs *r)
{
	struct direct *d = opaque;

	d->trap = r->trap;
	d->cr2 = r->addr;
	r->rip = d->resume;
	return true;
}

struct code {
	struct direct *d;
	unsigned at;
};

static void code_put(struct code *c, const char *hex)
{
	unsigned b;

	for (; *hex; hex += *hex == ' ' ? 1 : 2) {
		if (*hex == ' ')
			continue;
		sscanf(hex, "%2x", &b);
		c->d->code[c->at++] = (u8)b;
	}
}

/* An instruction that ends in a RIP-relative displacement to 'target'. */
static void code_rel(struct code *c, const char *hex, const void *target)
{
	i32 disp;

	code_put(c, hex);
	disp = (i32)((const u8 *)target - (c->d->code + c->at + 4));
	memcpy(c->d->code + c->at, &disp, 4);
	c->at += 4;
}

static void code_gprs(struct code *c, bool store)
{
	for (unsigned i = 0; i < 16; i++) {
		char hex[16];

		if (i == RSP)
			continue;
		snprintf(hex, sizeof(hex), "%02x %s %02x", 0x48 | (i >> 3) << 2,
			 store ? "89" : "8b", 5 | (i & 7) << 3);
		code_rel(c, hex, &c->d->gpr[i]);
	}
}

static void direct_build(struct direct *d, const u8 *insn, unsigned len)
{
	struct code c = { .d = d };

	code_put(&c, "53 55 41 54 41 55 41 56 41 57 9c"); /* push callee-saved; pushfq */
	code_rel(&c, "48 89 25", &d->host_rsp);
	code_put(&c, "b8 ff 00 00 00 31 d2"); /* mov eax, 0xff; xor edx, edx */
	code_rel(&c, "48 0f ae 25", d->host_xsave);
	code_rel(&c, "48 0f ae 2d", d->xsave);
	code_rel(&c, "ff 35", &d->flags); /* push; popfq */
	code_put(&c, "9d");
	code_gprs(&c, false);
	memcpy(d->code + c.at, insn, len);
	c.at += len;
	d->resume = (u64)(d->code + c.at);
	code_gprs(&c, true);
	code_rel(&c, "48 8b 25", &d->host_rsp);
	code_put(&c, "9c"); /* pushfq; pop */
	code_rel(&c, "8f 05", &d->flags);
	code_put(&c, "b8 ff 00 00 00 31 d2");
	code_rel(&c, "48 0f ae 25", d->xsave);
	code_rel(&c, "48 0f ae 2d", d->host_xsave);
	code_put(&c, "9d 41 5f 41 5e 41 5d 41 5c 5d 5b c3");
}

static void host_protect(const struct regs *r, bool all)
{
	for (unsigned i = 0; i < PAGES; i++)
		mprotect((void *)(LIN_BASE + i * PAGE_SIZE), PAGE_SIZE,
			 all || r->mapped[i] ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void direct_run(struct oracle *o, const u8 *insn, unsigned len, struct regs *r)
{
	struct direct *d = o->d;

	direct_build(d, insn, len);
	memcpy(d->gpr, r->gpr, sizeof(d->gpr));
	area_to_host(d->xsave, r->xsave);
	memset(d->xsave + XSAVE_XCOMP_BV, 0, 56);
	d->flags = r->flags | 0x202;
	d->trap = NO_TRAP;
	d->cr2 = 0;
	host_protect(r, true);
	memcpy((void *)LIN_BASE, r->mem, sizeof(r->mem));
	host_protect(r, false);
	((void (*)(void))(uintptr_t)d->code)();
	host_protect(r, true);
	memcpy(r->mem, (void *)LIN_BASE, sizeof(r->mem));
	memcpy(r->gpr, d->gpr, sizeof(d->gpr));
	area_from_host(r->xsave, d->xsave);
	r->flags = d->flags & STATUS;
	r->trap = (unsigned)d->trap;
	r->cr2 = d->trap == VEC_PF ? d->cr2 : 0;
}

/* ---- the guest's way ---- */

static void pte_set(struct oracle *o, u64 lin, u64 phys, bool present)
{
	u64 *pt = (u64 *)(void *)(o->ram + 0x4000);

	pt[(lin >> 12) & 511] = present ? phys | 7 : 0;
}

/* 64-bit mode at CPL 3 with everything switched on. */
static void guest_64bit(struct vcpu *v)
{
	v->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	v->cr3 = 0x1000;
	v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	v->efer = EFER_LME | EFER_LMA | EFER_NXE;
	v->xcr0 = oracle_xcr0();
	v->cpl = 3;
	v->flags = RFLAGS_1;
	for (unsigned i = 0; i < 6; i++)
		v->seg[i] = (struct seg){ .limit = 0xffffffff,
					  .sel = (u16)(0x23 + i * 8),
					  .attr = SEG_P | SEG_S | SEG_WRITABLE |
						  SEG_ACCESSED | SEG_DB | SEG_G |
						  SEG_DPL_MASK };
	v->seg[CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_L |
			  SEG_G | SEG_DPL_MASK;
	vcpu_sync(v);
}

/* Protected mode without paging; code size 2 or 4. LIN_BASE is translated by the segment
 * bases. */
static void guest_legacy(struct vcpu *v, unsigned code_size)
{
	guest_64bit(v);
	v->cr0 &= ~CR0_PG;
	v->efer = 0;
	for (unsigned i = 0; i < 6; i++)
		v->seg[i].base = PHYS_BASE - LIN_BASE;
	v->seg[CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_G |
			  SEG_DPL_MASK | (code_size == 4 ? SEG_DB : 0);
	vcpu_sync(v);
}

static void oracle_init(struct oracle *o)
{
	struct error err = { "" };
	u64 *pt;

	memset(o, 0, sizeof(*o));
	o->phys = phys_new();
	if (phys_add_ram(o->phys, "ram", 0, RAM_SIZE, &err) < 0)
		abort();
	o->ram = phys_host(o->phys, 0, RAM_SIZE, true);
	pt = (u64 *)(void *)(o->ram + 0x1000);
	pt[0] = 0x2007;
	pt = (u64 *)(void *)(o->ram + 0x2000);
	pt[0] = 0x3007;
	pt = (u64 *)(void *)(o->ram + 0x3000);
	pt[LIN_BASE >> 21] = 0x4007;

	o->v = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~63u);
	memset(o->v, 0, sizeof(*o->v));
	o->v->phys = o->phys;
	o->v->stats = &o->stats;
	o->v->phys_bits = 40;
	/* The layout of images is the host's. */
	o->cpuid.vendor = host_is_amd() ? VENDOR_AMD : VENDOR_INTEL;
	o->cpuid.xcr0 = oracle_xcr0();
	memset(o->cpuid.features, 0xff, sizeof(o->cpuid.features));
	o->v->cpuid = &o->cpuid;
	memset(o->v->features, 0xff, sizeof(o->v->features));
	if (native_open(o->v, &err) < 0) {
		fprintf(stderr, "%s\n", err.msg);
		abort();
	}
	guest_64bit(o->v);

	if (mmap((void *)LIN_BASE, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		abort();
	o->d = mmap(NULL, sizeof(*o->d), PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	o->sig = sig_add(o->d, sizeof(o->d->code), direct_fault, o->d, &err);
}

static void oracle_fini(struct oracle *o)
{
	native_close(o->v);
	sig_remove(o->sig);
	munmap(o->d, sizeof(*o->d));
	munmap((void *)LIN_BASE, PAGES * PAGE_SIZE);
	phys_free(o->phys);
	free(o->v);
}

static void guest_load(struct oracle *o, const struct regs *r)
{
	struct vcpu *v = o->v;

	vcpu_park(v);
	memcpy(v->xsave, r->xsave, XSAVE_BYTES);
	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = r->gpr[i];
	v->cc = r->flags;
	v->rip = CODE_LIN;
	memcpy(&v->fip, r->xsave + XSAVE_FIP, 8);
	memcpy(&v->fdp, r->xsave + XSAVE_FDP, 8);
	memcpy(&v->fop, r->xsave + XSAVE_FOP, 2);
	v->fcs = v->fds = 0;
	memcpy(o->ram + PHYS_BASE, r->mem, sizeof(r->mem));
	for (unsigned i = 0; i < PAGES; i++)
		pte_set(o, LIN_BASE + i * PAGE_SIZE, PHYS_BASE + i * PAGE_SIZE,
			r->mapped[i]);
	tlb_flush_all(v);
}

static void guest_store(struct oracle *o, struct regs *r)
{
	struct vcpu *v = o->v;

	vcpu_park(v);
	memcpy(r->xsave, v->xsave, XSAVE_BYTES);
	memcpy(r->xsave + XSAVE_FIP, &v->fip, 8);
	memcpy(r->xsave + XSAVE_FDP, &v->fdp, 8);
	memcpy(r->xsave + XSAVE_FOP, &v->fop, 2);
	for (unsigned i = 0; i < 16; i++)
		r->gpr[i] = v->gpr[i];
	r->flags = v->cc & STATUS;
	memcpy(r->mem, o->ram + PHYS_BASE, sizeof(r->mem));
}

enum guest_result { GUEST_RAN, GUEST_UD };

/* Pages are put into the TLB first when 'warm', so that operands are used in place. */
static enum guest_result guest_run(struct oracle *o, const u8 *insn, unsigned len,
				   struct regs *r, bool warm)
{
	struct vcpu *v = o->v;
	enum op_result result;
	struct insn in;
	u64 val;

	guest_load(o, r);
	if (decode(insn, len, v->code_size, cpu_is_amd(v), &in) != DECODE_OK ||
	    in.len != len)
		return GUEST_UD;
	if (native_full(v))
		native_flush(v);
	in.fn = bind_insn(&in);
	if (!in.fn && !native_prepare(v, insn, &in))
		return GUEST_UD;
	for (unsigned i = 0; warm && i < PAGES; i++)
		if (r->mapped[i] && lin_read(v, DS, LIN_BASE + i * PAGE_SIZE, 8, &val))
			lin_write(v, DS, LIN_BASE + i * PAGE_SIZE, 8, val);
	r->trap = NO_TRAP;
	r->cr2 = 0;
	if (in.base == GPR_RIP)
		in.disp += 0;
	result = in.fn(v, &in);
	/* At once: this file is compiled to use vector registers. */
	vcpu_park(v);
	if (result == OP_FAULT) {
		r->trap = v->fault.vector;
		if (r->trap == VEC_PF)
			r->cr2 = v->fault.cr2;
	}
	guest_store(o, r);
	return GUEST_RAN;
}

/* ---- comparison ---- */

/* Components not in use have their initial values. */
static void regs_normalize(struct regs *r)
{
	u64 bv;

	memcpy(&bv, r->xsave + XSAVE_XSTATE_BV, 8);
	if (!(bv & XCR0_X87)) {
		memset(r->xsave, 0, 24);
		r->xsave[0] = 0x7f;
		r->xsave[1] = 3;
		memset(r->xsave + XSAVE_ST, 0, 128);
	}
	if (!(bv & XCR0_SSE))
		memset(r->xsave + XSAVE_XMM, 0, 256);
	for (unsigned i = 2; i < 8; i++)
		if (xcomp_layout[i].size && !(bv & BIT(i)))
			memset(r->xsave + xcomp_layout[i].offset, 0,
			       xcomp_layout[i].size);
	memset(r->xsave + XSAVE_FOP, 0, 18); /* pointers: compared on their own */
	memset(r->xsave + XSAVE_MXCSR_MASK, 0, 4);
	for (unsigned i = 0; i < 8; i++)
		memset(r->xsave + XSAVE_ST + i * 16 + 10, 0, 6);
	memset(r->xsave + 416, 0, 160); /* unused bytes and header */
	r->gpr[RSP] = 0;
}

static const char *difference(struct regs *a, struct regs *b)
{
	static char text[160];

	regs_normalize(a);
	regs_normalize(b);
	if (a->trap != b->trap || a->cr2 != b->cr2) {
		snprintf(text, sizeof(text), "trap %u at %llx, host %u at %llx", a->trap,
			 (unsigned long long)a->cr2, b->trap, (unsigned long long)b->cr2);
		return text;
	}
	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i]) {
			snprintf(text, sizeof(text), "gpr %u: %llx, host %llx", i,
				 (unsigned long long)a->gpr[i],
				 (unsigned long long)b->gpr[i]);
			return text;
		}
	if (a->flags != b->flags) {
		snprintf(text, sizeof(text), "flags %llx, host %llx",
			 (unsigned long long)a->flags, (unsigned long long)b->flags);
		return text;
	}
	for (unsigned i = 0; i < XSAVE_BYTES; i++)
		if (a->xsave[i] != b->xsave[i]) {
			snprintf(text, sizeof(text), "xsave byte %u: %02x, host %02x", i,
				 a->xsave[i], b->xsave[i]);
			return text;
		}
	for (unsigned i = 0; i < sizeof(a->mem); i++)
		if (((u8 *)a->mem)[i] != ((u8 *)b->mem)[i]) {
			snprintf(text, sizeof(text), "memory byte %x: %02x, host %02x", i,
				 ((u8 *)a->mem)[i], ((u8 *)b->mem)[i]);
			return text;
		}
	return NULL;
}

/* ---- states to start from ---- */

/* Everything random; all exceptions masked, x87 registers valid numbers. */
static void regs_random(struct regs *r)
{
	u64 bv = oracle_xcr0();
	u32 mxcsr = 0x1f80 | (u32)(rnd() & 0xe03f);

	memset(r->xsave, 0, sizeof(r->xsave));
	rnd_fill(r->xsave + XSAVE_XMM, 256);
	for (unsigned i = 2; i < 8; i++)
		if (xcomp_layout[i].size)
			rnd_fill(r->xsave + xcomp_layout[i].offset, xcomp_layout[i].size);
	for (unsigned i = 0; i < 8; i++) {
		u64 mant = rnd() | BIT(63);
		u16 exp = (u16)((rnd() & 0x8000) | (0x3fff - 40 + rnd() % 80));

		memcpy(r->xsave + XSAVE_ST + i * 16, &mant, 8);
		memcpy(r->xsave + XSAVE_ST + i * 16 + 8, &exp, 2);
	}
	r->xsave[XSAVE_FCW] = 0x7f;
	r->xsave[XSAVE_FCW + 1] = (u8)(3 | (rnd() & 0xc));
	r->xsave[XSAVE_FSW] = (u8)(rnd() & 0x3f);
	r->xsave[XSAVE_FSW + 1] = (u8)(rnd() & 0x7f);
	r->xsave[XSAVE_FTW] = (u8)rnd();
	memcpy(r->xsave + XSAVE_MXCSR, &mxcsr, 4);
	memcpy(r->xsave + XSAVE_XSTATE_BV, &bv, 8);
	for (unsigned i = 0; i < 16; i++)
		r->gpr[i] = rnd();
	r->gpr[RSI] = LIN_BASE + 0x1000; /* what memory operands use */
	r->gpr[RDI] = LIN_BASE + 0x1000;
	r->flags = rnd() & STATUS;
	rnd_fill(r->mem, sizeof(r->mem));
	for (unsigned i = 0; i < PAGES; i++)
		r->mapped[i] = true;
	r->trap = NO_TRAP;
	r->cr2 = 0;
}

/* "0f 58 c1" to bytes. */
static unsigned hex_bytes(const char *hex, u8 buf[15])
{
	unsigned n = 0, b;

	while (*hex && n < 15) {
		if (*hex == ' ') {
			hex++;
			continue;
		}
		sscanf(hex, "%2x", &b);
		buf[n++] = (u8)b;
		hex += 2;
	}
	return n;
}

struct outcome {
	struct regs guest, host;
};

/* Execute both ways from 'start'. NULL, or what was different. */
static const char *compare(struct oracle *o, const u8 *insn, unsigned len,
			   const struct regs *start, bool warm, struct outcome *out)
{
	out->guest = out->host = *start;
	if (guest_run(o, insn, len, &out->guest, warm) != GUEST_RAN)
		return "no function for it";
	direct_run(o, insn, len, &out->host);
	return difference(&out->guest, &out->host);
}
