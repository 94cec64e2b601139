/*
 * Random loops of 16-bit code on two engines, in real mode, with limits of 4 GiB
 * (unreal), in virtual-8086 mode and in 16-bit segments at CPL 0 and 3: memory operands
 * of all forms and segments, stack, calls near and far, branches that wrap, loops,
 * strings, loads of segment registers.
 *
 *   low ENGINE [--against NAME] [--seed N] [--programs N] [--verbose]
 *
 * What lockstep.c does with the forms of instructions this does with the flow of control.
 * A program is pieces anywhere in a segment, with a jump from each to the next; it runs
 * some times around, and ends at its first exception, where all registers and all of
 * memory are compared. Segments are not aligned to pages, may be short, and a far jump
 * goes on in the same code with another base. It runs again with other limits. What runs
 * away is stopped by an alarm, and not compared.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../noplatform.h"
#include "cpu/hostcpu.h"
#include "engines.h"
#include "mem/io.h"
#include "rng.h"
#include "x86/cpuid.h"
#include "x86/decode.h"
#include "x86/seg.h"
#include "x86/stats.h"

#define RAM_SIZE MiB(2)
#define HANDLERS 0x600u
#define GDT      0x2000u
#define IDT      0x3000u
#define TSS      0x4000u
#define STACK0   0x6ff0u
#define OWN      0x7000u /* 4 KiB for the program's counter and tables, in FS */
#define TEXT     0x20000u
#define DATA     0x38000u
#define DATA_END 0xb0000u
#define COUNTER  0x10u
#define TABLE    0x20u /* addresses of subroutines */
#define FAR      0x40u /* far pointers to data */

#define PIECES 6
#define SUBS   3
#define BODY   150 /* bytes of a piece */
#define SLOT   224
#define RUNS   3

enum kind { REAL, UNREAL, V86, PROT0, PROT3, KINDS };

struct machine {
	const struct engine *engine;
	struct vcpu *v;
	struct phys *phys;
	u8 *ram;
	struct vcpu_stats stats;
};

struct low {
	struct machine m[2];
	struct cpuid_table cpuid;
	struct rng rng;
	enum kind kind;
	u32 seg_base[6], seg_limit[6];
	u16 sel[6];
	u16 at[PIECES], sub[SUBS]; /* offsets in the code segment */
	u8 code[512];
	unsigned len;
	bool verbose;
	bool gentle; /* hardly anything faults, so it goes around more often */
	unsigned insns, differences, stray, vector[32];
};

static volatile sig_atomic_t alarmed;
static struct machine *running;

static u32 below(struct low *l, u32 n)
{
	return rng_below(&l->rng, n);
}

static bool one_in(struct low *l, u32 n)
{
	return rng_one_in(&l->rng, n);
}

/* ---- code ---- */

static void put(struct low *l, unsigned n, u32 bytes)
{
	for (unsigned i = 0; i < n; i++)
		l->code[l->len++] = (u8)(bytes >> 8 * i);
}

#define B1(l, a)       put(l, 1, a)
#define B2(l, a, b)    put(l, 2, (a) | (u32)(b) << 8)
#define B3(l, a, b, c) put(l, 3, (a) | (u32)(b) << 8 | (u32)(c) << 16)

/* A general register that no address is made of: AX, DX. */
static u32 data_reg(struct low *l)
{
	return one_in(l, 2) ? RAX : RDX;
}

static void segment_prefix(struct low *l)
{
	static const u8 segs[] = { 0x26, 0x36, 0x3e, 0x65, 0x2e };

	if (one_in(l, 4))
		B1(l, segs[below(l, l->gentle ? 4 : 5)]);
}

/* ModRM with this reg field and a memory operand. */
static void operand(struct low *l, u32 reg)
{
	u32 rm = below(l, 8);

	if (one_in(l, 8)) {
		B1(l, reg << 3 | 6);
		put(l, 2,
		    !l->gentle && one_in(l, 4) ? 0xfff8 + below(l, 8) : below(l, 0x7000));
	} else if (one_in(l, 8)) {
		B1(l, 0x80 | reg << 3 | rm);
		put(l, 2, l->gentle ? below(l, 0x800) : (u32)rng64(&l->rng));
	} else if (one_in(l, 8) && rm != 6) {
		B1(l, reg << 3 | rm);
	} else {
		B2(l, 0x40 | reg << 3 | rm, (u8)(below(l, 64) - 32));
	}
}

/* The same, at times with an address of 32 bits; 'prefixes' are those before the opcode.
 */
static void memory(struct low *l, unsigned n, u32 opcode, u32 reg)
{
	segment_prefix(l);
	if (!one_in(l, 8)) {
		put(l, n, opcode);
		operand(l, reg);
		return;
	}
	B1(l, 0x67);
	put(l, n, opcode);
	B2(l, 0x40 | reg << 3 | (one_in(l, 2) ? 3 : 6), below(l, 64));
}

static void operand_size(struct low *l)
{
	if (one_in(l, 4))
		B1(l, 0x66);
}

static void item_alu(struct low *l)
{
	u32 op = below(l, 8) << 3 | below(l, 4);

	operand_size(l);
	if (one_in(l, 2))
		memory(l, 1, op, op & 1 ? data_reg(l) : below(l, 8));
	else
		B2(l, op, 0xc0 | data_reg(l) << 3 | data_reg(l));
}

static void item_move(struct low *l)
{
	operand_size(l);
	switch (below(l, 7)) {
	case 0: memory(l, 1, 0x8b, data_reg(l)); break;
	case 1: memory(l, 1, 0x89, below(l, 8)); break;
	case 2: memory(l, 1, one_in(l, 2) ? 0x88 : 0x8a, one_in(l, 2) ? 0 : 6); break;
	case 3: memory(l, 2, 0xb60f | below(l, 2) << 8, data_reg(l)); break;
	case 4: memory(l, 1, 0x8d, data_reg(l)); break;
	case 5: memory(l, 1, 0x87, data_reg(l)); break;
	default:
		B1(l, 0xa0 | below(l, 4));
		put(l, 2, below(l, 0x4000));
		break;
	}
}

static void item_one(struct low *l)
{
	static const u8 ops[] = { 0xfe, 0xff, 0xf6, 0xf7, 0xd0, 0xd1, 0xd2, 0xd3 };
	u32 op = ops[below(l, sizeof(ops))], reg = below(l, 8);

	if (op == 0xfe || op == 0xff)
		reg &= 1;
	else if (op < 0xf8 && op >= 0xf6)
		reg = 2 + below(l, 3);
	operand_size(l);
	if (one_in(l, 2))
		memory(l, 1, op, reg);
	else
		B2(l, op, 0xc0 | reg << 3 | data_reg(l));
}

/* Pointers move on. */
static void item_step(struct low *l)
{
	static const u8 pointers[] = { RBX, RBP, RSI, RDI };
	u32 p = pointers[below(l, 4)];

	operand_size(l);
	switch (below(l, 4)) {
	case 0: B1(l, 0x40 | below(l, 2) << 3 | p); break;
	case 1: B3(l, 0x83, 0xc0 | p, below(l, 48)); break;
	case 2: B3(l, 0x83, 0xe8 | p, below(l, 48)); break;
	default:
		B3(l, 0x8d,
		   0x40 | p << 3 |
			   (p == RBX   ? 7
			    : p == RBP ? 6
				       : p - 2),
		   below(l, 16));
		break;
	}
}

static void item_stack(struct low *l)
{
	u32 r = data_reg(l);

	switch (below(l, 11)) {
	case 0:
		operand_size(l);
		B2(l, 0x50 | below(l, 8), 0x58 | r);
		break;
	case 1:
		operand_size(l);
		B2(l, 0x6a, below(l, 256));
		B1(l, 0x58 | r);
		break;
	case 2:
		memory(l, 1, 0xff, 6);
		B1(l, 0x58 | r);
		break;
	case 3: B2(l, one_in(l, 2) ? 0x06 : 0x1e, 0x58 | r); break;
	case 4: B2(l, 0x1e, 0x07); break; /* push ds, pop es */
	case 5: B2(l, 0x9c, 0x58 | r); break;
	case 6: B2(l, 0x60, 0x61); break;
	case 7:
		B1(l, 0x55);
		B2(l, 0x8b, 0xec);
		operand_size(l);
		B2(l, 0x50 | r, 0x90);
		B2(l, 0xc9, 0x90);
		break;
	case 8:
		put(l, 4, 0xc8 | below(l, 32) << 8 | below(l, 3) << 24), B1(l, 0xc9);
		break;
	case 9: B1(l, 0x50 | r); break;
	default: B1(l, 0x58 | r); break;
	}
}

/* Over the next instruction, 2 bytes of it. */
static void item_branch(struct low *l)
{
	u32 cond = below(l, 16);

	switch (below(l, 6)) {
	case 0: B2(l, 0x70 | cond, 2); break;
	case 1: put(l, 4, 0x0f | (0x80 | cond) << 8 | 2 << 16); break;
	case 2:
		B3(l, 0x66, 0x0f, 0x80 | cond);
		put(l, 4, 2);
		break;
	case 3:
		operand_size(l);
		B2(l, 0xeb, 2);
		break;
	case 4: B2(l, 0xe3, 2); break;
	default: B3(l, 0x67, 0xe3, 2); break;
	}
	B2(l, 0x01 + below(l, 2) * 0x28, 0xc0 | data_reg(l) << 3 | data_reg(l));
}

static void item_loop(struct low *l)
{
	unsigned start;

	B1(l, 0xb9);
	put(l, 2, 1 + below(l, 5));
	start = l->len;
	B2(l, 0x11, 0xd0);
	memory(l, 1, 0x03, RAX);
	if (one_in(l, 4))
		B3(l, 0x67, 0xe2, 0); /* by ECX, which may be large: not around */
	else
		B2(l, one_in(l, 3) ? 0xe0 + below(l, 2) : 0xe2, (u8)(start - l->len - 2));
}

static void item_call(struct low *l, u32 ip)
{
	unsigned s = below(l, SUBS);
	bool wide = s == 2; /* it returns by 32 bits */
	u32 to = l->sub[s];

	switch (below(l, wide ? 1 : 4)) {
	case 1:
		B1(l, 0xb8);
		put(l, 2, to);
		B2(l, 0xff, 0xd0);
		break;
	case 2: B3(l, 0x64, 0xff, 0x16), put(l, 2, TABLE + 2 * s); break;
	default:
		if (wide)
			B1(l, 0x66);
		B1(l, 0xe8);
		put(l, wide ? 4 : 2, to - (ip + l->len + (wide ? 4 : 2)));
		break;
	}
}

/* Far to the next instruction, with another base where selectors are paragraphs; or there
 * and back. */
static void item_far(struct low *l, u32 ip)
{
	u32 sel = l->sel[CS], off = ip + l->len + 5, by = below(l, 0x200);

	if (l->kind == PROT0 || l->kind == PROT3 || off + 16 * by > 0xffff || by > sel)
		by = 0;
	if (one_in(l, 2)) {
		B1(l, 0xea);
		put(l, 2, off + 16 * by);
		put(l, 2, sel - by);
		return;
	}
	B1(l, 0x9a); /* call behind the jump over what returns */
	put(l, 2, off + 2 + 16 * by);
	put(l, 2, sel - by);
	B2(l, 0xeb, 1);
	B1(l, 0xcb);
}

static void item_segment(struct low *l)
{
	static const u8 to[] = { DS, ES, GS };
	u32 s = to[below(l, 3)], from = to[below(l, 3)];

	switch (below(l, 6)) {
	case 5: /* the POP begins a trace, and the last accesses are alike */
		B3(l, 0x16, 0xeb, 0);
		B2(l, 0x1f, 0x50 | from), B1(l, 0x58 | RDX);
		B3(l, 0x03, 0x54, 2), B2(l, 0x06, 0x1f), B3(l, 0x03, 0x54, 4);
		break;
	case 0: B3(l, 0x64, one_in(l, 2) ? 0xc4 : 0xc5, 0x16), put(l, 2, FAR); break;
	case 1: B2(l, 0x16, one_in(l, 2) ? 0x07 : 0x1f); break; /* push ss */
	case 2: B2(l, 0x8c, 0xd0), B2(l, 0x8e, 0xd0), B2(l, 0x01, 0xc2); break;
	default:
		B1(l, 0xb8);
		put(l, 2,
		    l->sel[from] + (l->kind < PROT0 && one_in(l, 3) ? below(l, 9) : 0u));
		B2(l, 0x8e, 0xc0 | s << 3);
		break;
	}
}

static void item_string(struct low *l)
{
	static const u8 ops[] = { 0xa4, 0xaa, 0xac, 0xa6, 0xae };
	u32 op = ops[below(l, sizeof(ops))] | below(l, 2);

	if (one_in(l, 6))
		B1(l, 0xfd);
	if (one_in(l, 2)) {
		B1(l, 0xb9);
		put(l, 2, !l->gentle && one_in(l, 8) ? below(l, 0x3000) : below(l, 24));
		segment_prefix(l);
		operand_size(l);
		B2(l, one_in(l, 4) ? 0xf2 : 0xf3, op);
	} else {
		segment_prefix(l);
		operand_size(l);
		B1(l, op);
	}
	B1(l, 0xfc);
}

static void item(struct low *l, u32 ip)
{
	switch (below(l, 16)) {
	case 0:
	case 1:
	case 2: item_alu(l); break;
	case 3:
	case 4:
	case 5: item_move(l); break;
	case 6: item_one(l); break;
	case 7: item_step(l); break;
	case 8:
	case 9: item_stack(l); break;
	case 10: item_branch(l); break;
	case 11: item_loop(l); break;
	case 12: item_call(l, ip); break;
	case 13: item_far(l, ip); break;
	case 14: item_segment(l); break;
	default: item_string(l); break;
	}
	l->insns++;
}

/* ---- programs ---- */

static void place(struct low *l, u32 ip)
{
	for (unsigned i = 0; i < 2; i++)
		memcpy(l->m[i].ram + l->seg_base[CS] + ip, l->code, l->len);
}

/* An offset with room behind it that no other has: often at the end of a page or of all.
 */
static u16 choose(struct low *l, const u16 *taken, unsigned n)
{
	for (;;) {
		u32 ip = below(l, MIN(l->seg_limit[CS], 0xffff) - SLOT);
		bool free = true;

		if (one_in(l, 3))
			ip = ip / 0x1000 * 0x1000 + 0x1000 - below(l, 200);
		if (one_in(l, 6))
			ip = MIN(l->seg_limit[CS], 0xffff) - SLOT;
		if (one_in(l, 6))
			ip = below(l, 64);
		for (unsigned i = 0; i < n; i++)
			free &= ip + SLOT <= taken[i] || taken[i] + (u32)SLOT <= ip;
		if (free && ip + SLOT <= MIN(l->seg_limit[CS], 0xffff) + 1)
			return (u16)ip;
	}
}

static void make_subs(struct low *l)
{
	for (unsigned s = 0; s < SUBS; s++) {
		l->len = 0;
		for (unsigned n = below(l, 3); n; n--)
			item_alu(l);
		if (s == 1)
			B1(l, 0x52), B1(l, 0x5a);
		if (s == 2)
			B1(l, 0x66);
		B1(l, 0xc3);
		place(l, l->sub[s]);
	}
}

static void make_pieces(struct low *l)
{
	for (unsigned i = 0; i < PIECES; i++) {
		u32 ip = l->at[i];
		u32 end = BODY - below(l, 100);

		l->len = 0;
		while (l->len < end)
			item(l, ip);
		if (i + 1 < PIECES) {
			B1(l, 0xe9);
			put(l, 2, l->at[i + 1] - (ip + l->len + 2));
		} else {
			B2(l, 0x64, 0xff), B3(l, 0x0e, COUNTER, 0);
			B2(l, 0x0f, 0x85), put(l, 2, l->at[0] - (ip + l->len + 2));
			B1(l, 0xcc);
		}
		place(l, ip);
	}
}

static bool is_paragraphs(const struct low *l)
{
	return l->kind <= V86;
}

static void choose_segments(struct low *l)
{
	static const u32 from[6] = { DATA + 0x28000, TEXT, DATA + 0x50000,
				     DATA,           OWN,  DATA + 0x14000 };
	u32 step = is_paragraphs(l) ? 16 : 1;

	for (unsigned i = 0; i < 6; i++) {
		u32 by = i == FS ? 0 : below(l, 0x1000) / step * step;

		if (one_in(l, 4))
			by = 0;
		l->seg_base[i] = from[i] + by;
		l->sel[i] = (u16)(is_paragraphs(l)
					  ? l->seg_base[i] >> 4
					  : 8 * (2 + i) + (l->kind == PROT3 ? 3 : 0));
	}
}

static void choose_limits(struct low *l)
{
	for (unsigned i = 0; i < 6; i++) {
		l->seg_limit[i] = 0xffff;
		if (!is_paragraphs(l) && !l->gentle && i != FS && one_in(l, 5))
			l->seg_limit[i] = 0x7fff + below(l, 0x8000);
		if (!is_paragraphs(l) && i != FS && i != CS && one_in(l, 6))
			l->seg_limit[i] = 0x80000 + below(l, 0x1000);
		if (l->kind == UNREAL && i != CS && one_in(l, 2))
			l->seg_limit[i] = 0xffffffff;
	}
}

static void make_program(struct low *l)
{
	u16 taken[PIECES + SUBS];
	unsigned n = 0;

	l->kind = below(l, KINDS);
	l->gentle = !one_in(l, 3);
	choose_segments(l);
	choose_limits(l);
	while (n < PIECES + SUBS) {
		taken[n] = choose(l, taken, n);
		n++;
	}
	memcpy(l->at, taken, sizeof(l->at));
	memcpy(l->sub, taken + PIECES, sizeof(l->sub));
	memset(l->m[0].ram + TEXT, 0xcc, DATA - TEXT);
	memset(l->m[1].ram + TEXT, 0xcc, DATA - TEXT);
	make_subs(l);
	make_pieces(l);
}

/* ---- machines ---- */

static void put64(struct machine *m, u32 at, u64 val)
{
	memcpy(m->ram + at, &val, 8);
}

static u64 descriptor(u32 base, u32 limit, u32 attr)
{
	if (limit > 0xfffff) {
		limit >>= 12;
		attr |= SEG_G;
	}
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
	       (u64)(attr & 0xf0ff) << 40 | (u64)(limit >> 16 & 0xf) << 48 |
	       (u64)(base >> 24) << 56;
}

static u32 attributes(const struct low *l, unsigned i)
{
	return SEG_P | SEG_S | SEG_ACCESSED |
	       (i == CS ? SEG_CODE | SEG_READABLE : SEG_WRITABLE) |
	       (l->kind == PROT3 || l->kind == V86 ? SEG_DPL_MASK : 0);
}

/* Each vector's handler is a HLT. */
static void fill_tables(const struct low *l, struct machine *m)
{
	const u32 flat = 0xffffffff;

	memset(m->ram, 0, OWN + 0x1000);
	put64(m, GDT + 8,
	      descriptor(0, flat,
			 SEG_P | SEG_S | SEG_CODE | SEG_DB | SEG_READABLE |
				 SEG_ACCESSED));
	for (unsigned i = 0; i < 6; i++)
		put64(m, GDT + 8 * (2 + i),
		      descriptor(l->seg_base[i], l->seg_limit[i], attributes(l, i)));
	put64(m, GDT + 64,
	      descriptor(0, flat, SEG_P | SEG_S | SEG_WRITABLE | SEG_DB | SEG_ACCESSED));
	for (unsigned i = 0; i < 256; i++) {
		u32 at = HANDLERS + 16 * i;

		if (l->kind <= UNREAL)
			memcpy(m->ram + 4 * i, &(u32){ at >> 4 << 16 }, 4);
		put64(m, IDT + 8 * i, at | 8 << 16 | UINT64_C(0xee00) << 32);
		m->ram[at] = 0xf4;
	}
	memcpy(m->ram + TSS + 4, &(u32){ STACK0 }, 4);
	m->ram[TSS + 8] = 64;
	m->ram[TSS + 0x66] = 0x68;
	m->ram[OWN + COUNTER] = 12;
	for (unsigned i = 0; i < SUBS; i++)
		memcpy(m->ram + OWN + TABLE + 2 * i, &l->sub[i], 2);
	memcpy(m->ram + OWN + FAR, &(u16){ 0x1234 }, 2);
	memcpy(m->ram + OWN + FAR + 2, &l->sel[DS], 2);
}

static void set_registers(struct low *l, struct machine *m, const u64 *gpr, u64 flags)
{
	struct vcpu *v = m->v;

	vcpu_reset(v, false);
	memcpy(v->gpr, gpr, 8 * sizeof(*gpr));
	v->rip = l->at[0];
	for (unsigned i = 0; i < 6; i++)
		v->seg[i] = (struct seg){ .base = l->seg_base[i],
					  .limit = l->seg_limit[i],
					  .attr = attributes(l, i),
					  .sel = l->sel[i] };
	if (l->kind <= V86)
		v->seg[CS].attr = attributes(l, DS);
	v->gdtr = (struct dtr){ .base = GDT, .limit = 71 };
	v->idtr = (struct dtr){ .base = l->kind <= UNREAL ? 0 : IDT, .limit = 0x7ff };
	v->seg[TR] = (struct seg){
		.base = TSS, .limit = 0x67, .attr = SEG_P | DESC_TSS32_BUSY, .sel = 0x48
	};
	v->cr0 = CR0_ET | CR0_NE | (l->kind > UNREAL ? CR0_PE : 0);
	v->cpl = l->kind == PROT3 || l->kind == V86 ? 3 : 0;
	v->cc = flags & RFLAGS_STATUS;
	v->flags = RFLAGS_1 | (l->kind == V86 ? RFLAGS_VM | RFLAGS_IOPL : 0);
	v->activity = ACT_RUNNING;
	v->pending_db = 0;
	vcpu_sync(v);
}

static void stop(int sig)
{
	(void)sig;
	alarmed = 1;
	vcpu_post(running->v, EV_STOP);
	if (running->engine->kick)
		running->engine->kick(running->v);
}

static enum vcpu_exit go(struct machine *m)
{
	enum vcpu_exit why;

	running = m;
	alarm(2);
	do
		why = m->engine->run(m->v);
	while (why == VCPU_EXIT_EVENT && !alarmed);
	alarm(0);
	__atomic_and_fetch(&m->v->events, ~(u32)EV_STOP, __ATOMIC_SEQ_CST);
	vcpu_park(m->v);
	return why;
}

static bool make_machine(struct low *l, struct machine *m)
{
	struct error err = { "" };

	m->phys = phys_new();
	if (m->engine->probe(&err) < 0 ||
	    phys_add_ram(m->phys, "ram", 0, RAM_SIZE, &err) < 0)
		return false;
	m->ram = phys_host(m->phys, 0, RAM_SIZE, true);
	m->v = engine_vcpu_new();
	m->v->phys = m->phys;
	m->v->stats = &m->stats;
	m->v->ports = io_ports_new();
	m->v->platform = &no_platform;
	m->v->apic_page = ~UINT64_C(0);
	cpuid_attach(m->v, &l->cpuid);
	return m->engine->vcpu_open(m->v, &err) == 0;
}

/* ---- comparing ---- */

static void print_program(const struct low *l)
{
	static const char *const kinds[] = { "real", "unreal", "v86", "prot0", "prot3" };

	printf("# %s, code at %x, starts at %x\n", kinds[l->kind], l->seg_base[CS],
	       l->at[0]);
	for (unsigned i = 0; i < 6; i++)
		printf("#   segment %u: %04x base %x limit %x\n", i, l->sel[i],
		       l->seg_base[i], l->seg_limit[i]);
	for (unsigned i = 0; i < PIECES + SUBS; i++) {
		u32 ip = i < PIECES ? l->at[i] : l->sub[i - PIECES], n = 0;

		while (n < SLOT - 15) {
			const u8 *p = l->m[0].ram + l->seg_base[CS] + ip + n;
			struct insn in;
			char text[128];

			if (decode(p, 15, 2, false, &in) != DECODE_OK)
				break;
			disassemble(p, in.len, 2, ip + n, text, sizeof(text));
			printf("#   %04x %s\n", ip + n, text);
			n += in.len;
			if (in.opcode == 0xc3 || in.opcode == 0xcc || in.opcode == 0xe9)
				break;
		}
	}
}

static const char *difference(const struct low *l)
{
	const struct vcpu *a = l->m[0].v, *b = l->m[1].v;
	static char text[64];

	for (unsigned i = 0; i < 16; i++)
		if (a->gpr[i] != b->gpr[i]) {
			snprintf(text, sizeof(text), "register %u: %llx, %llx", i,
				 (unsigned long long)a->gpr[i],
				 (unsigned long long)b->gpr[i]);
			return text;
		}
	if (a->rip != b->rip || rflags_get(a) != rflags_get(b))
		return "RIP or flags";
	if (memcmp(a->seg, b->seg, sizeof(a->seg)) || a->cpl != b->cpl)
		return "segments";
	for (u32 i = 0; i < RAM_SIZE; i++)
		if (l->m[0].ram[i] != l->m[1].ram[i]) {
			snprintf(text, sizeof(text), "memory at %x: %x, %x", i,
				 l->m[0].ram[i], l->m[1].ram[i]);
			return text;
		}
	return NULL;
}

static u64 gen_offset(struct low *l)
{
	u64 high = !l->gentle && one_in(l, 2)
			   ? rng64(&l->rng) & ~UINT64_C(0xffff) & 0xffffffff
			   : 0;

	switch (l->gentle ? 2 : below(l, 6)) {
	case 0: return high | below(l, 24);
	case 1: return high | (0x10000 - below(l, 24) - 1);
	default: return high | (0x400 + below(l, 0x7000));
	}
}

/* The same code has other limits. Memory that is written here may have become code. */
static void change_limits(struct low *l)
{
	u32 code = l->seg_limit[CS];

	if (l->kind <= UNREAL)
		l->kind = below(l, 2) ? UNREAL : REAL;
	choose_limits(l);
	l->seg_limit[CS] = code;
	for (unsigned i = 0; i < 2; i++) {
		phys_note_write(l->m[i].phys, 0, TEXT);
		phys_note_write(l->m[i].phys, DATA, RAM_SIZE - DATA);
	}
}

static void run_program(struct low *l, bool again)
{
	u64 gpr[8], flags = rng64(&l->rng);
	enum vcpu_exit why[2];
	const char *what;

	for (unsigned i = 0; i < 8; i++)
		gpr[i] =
			i == RAX || i == RDX || i == RCX ? rng64(&l->rng) : gen_offset(l);
	if (one_in(l, 4))
		gpr[RSP] &= ~UINT64_C(1);
	rng_fill(&l->rng, l->m[0].ram + DATA, DATA_END - DATA);
	/* What was stopped may have written to any. */
	memcpy(l->m[1].ram + DATA, l->m[0].ram + DATA, RAM_SIZE - DATA);
	if (again)
		change_limits(l);
	alarmed = 0;
	for (unsigned i = 0; i < 2 && !alarmed; i++) {
		struct machine *m = &l->m[i];

		fill_tables(l, m);
		set_registers(l, m, gpr, flags);
		if (m->engine->push && !again)
			m->engine->push(m->v);
		why[i] = go(m);
	}
	if (alarmed) {
		l->stray++;
		return;
	}
	what = why[0] != why[1] ? "how it ends" : difference(l);
	if (why[0] == VCPU_EXIT_HLT && l->m[0].v->rip - HANDLERS < 512)
		l->vector[(l->m[0].v->rip - HANDLERS) / 16]++;
	else if (why[0] == VCPU_EXIT_HLT && l->kind <= UNREAL)
		l->vector[(l->m[0].v->seg[CS].sel - HANDLERS / 16) % 32]++;
	if (!what)
		return;
	if (l->differences++ > 3 && !l->verbose)
		return;
	printf("# %s (exit %u, %u; RIP %llx, %llx)\n", what, why[0], why[1],
	       (unsigned long long)l->m[0].v->rip, (unsigned long long)l->m[1].v->rip);
	print_program(l);
}

static int usage(void)
{
	fputs("usage: low ENGINE [--against NAME] [--seed N] [--programs N] "
	      "[--verbose]\n",
	      stderr);
	return 2;
}

static void try_programs(struct low *l, unsigned programs)
{
	for (unsigned i = 0; i < programs; i++) {
		make_program(l);
		alarmed = 0;
		for (unsigned r = 0; r < RUNS && !alarmed; r++)
			run_program(l, r > 0);
	}
	printf("# %u programs, %u items, %u differences, %u stopped; ended by", programs,
	       l->insns, l->differences, l->stray);
	for (unsigned i = 0; i < 32; i++)
		if (l->vector[i])
			printf(" #%u: %u", i, l->vector[i]);
	printf("\n%sok random 16-bit code ends alike on %s and %s\n",
	       l->differences ? "not " : "", l->m[0].engine->name, l->m[1].engine->name);
}

int main(int argc, char **argv)
{
	static struct low l = { .rng = { 1 } };
	struct cpuid_request req = { .cpus = 1, .tsc_khz = 1000000 };
	unsigned programs = 600;
	struct error err = { "" };
	struct host_cpu cpu;

	l.m[0].engine = &engine_interp;
	l.m[1].engine = argc > 1 ? engine_by_name(argv[1]) : NULL;
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--verbose"))
			l.verbose = true;
		else if (i + 1 == argc)
			return usage();
		else if (!strcmp(argv[i], "--against"))
			l.m[0].engine = engine_by_name(argv[++i]);
		else if (!strcmp(argv[i], "--seed"))
			l.rng.s = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--programs"))
			programs = (unsigned)strtoul(argv[++i], NULL, 0);
		else
			return usage();
	}
	if (!l.m[0].engine || !l.m[1].engine)
		return usage();
	setvbuf(stdout, NULL, _IOLBF, 0);
	hostcpu_read(&cpu);
	if (cpuid_build(&l.cpuid, &req, &cpu, NULL, &err) < 0)
		return 77;
	for (unsigned i = 0; i < 2; i++)
		if (!make_machine(&l, &l.m[i]))
			return 77;
	signal(SIGALRM, stop);
	try_programs(&l, programs);
	return l.differences ? 1 : 0;
}
