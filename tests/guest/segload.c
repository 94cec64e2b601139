/*
 * Descriptors of every kind, loaded in every way, against an oracle written from the
 * manual: segment registers, far JMP, CALL and RET, IRET, call gates, interrupt gates,
 * LAR, LSL, VERR, VERW, in 32-bit and in 64-bit mode.
 *
 * SDM volume 3 sections 5.5 to 5.8, 5.8.3 (gates), 3.5 (system types), 6.12.1.1; volume
 * 2, "Operation" of MOV, POP, JMP, CALL, RET, IRET, INT n, LAR, LSL, VERR.
 */
#include "rt.h"

#define SEL      (FREE_SEL + 0x80) /* the descriptor of the row; two entries */
#define GATE_SEL (FREE_SEL + 0x90) /* a call gate, two entries */

static PAGED u8 code[4096];
static u8 area[4096] __attribute__((aligned(64)));

/* ---- rings ---- */

static u16 ring_cs(unsigned ring)
{
	return (u16)(FREE_SEL + 16 * ring + ring);
}

static void ring_segments(void)
{
	for (unsigned r = 0; r < 4; r++) {
		u32 dpl = D_DPL(r) | D_G;

		set_gdt(ring_cs(r) & ~7u,
			descriptor(0, 0xfffff, D_KCODE | dpl | (W64 ? D_L : D_DB)));
		set_gdt((ring_cs(r) & ~7u) + 8,
			descriptor(0, 0xfffff, D_KDATA | dpl | D_DB));
	}
}

static u8 *put(u8 *p, u32 val, unsigned n)
{
	for (; n--; val >>= 8)
		*p++ = (u8)val;
	return p;
}

static word alias_of(unsigned cpl)
{
	return cpl == 3 ? ALIAS : 0;
}

/* Run 'code' at that level; INT3 ends it. */
static void run(unsigned cpl)
{
	word a = alias_of(cpl);

	enter((word)code + a, ring_cs(cpl), 0, (word)user_stack + STACK_SIZE - 256 + a,
	      ring_cs(cpl) + 8u);
}

/* ---- the descriptor ---- */

struct row {
	unsigned type; /* S bit and type field */
	bool present, l, db;
	unsigned dpl, rpl, cpl;
};
#define T_S    0x10
#define T_CODE 0x08
#define T_C    0x04
#define T_R    0x02 /* of code; W of data */

static bool is_code(const struct row *r)
{
	return (r->type & (T_S | T_CODE)) == (T_S | T_CODE);
}

static bool is_conforming(const struct row *r)
{
	return is_code(r) && (r->type & T_C);
}

static void set_row(const struct row *r)
{
	u32 attr = r->type << 8 | D_DPL(r->dpl) | (r->present ? D_P : 0) | D_G;

	bool down = (r->type & (T_S | T_CODE | T_C)) == (T_S | T_C);

	attr |= (r->l ? D_L : 0) | (r->db ? D_DB : 0);
	/* All but the first page of one that expands down: it may become the stack. */
	set_gdt(SEL, descriptor(0, down ? 0 : 0xfffff, attr));
	set_gdt(SEL + 8, 0);
}

struct outcome {
	word vector, error;
};
static const struct outcome fine = { BP, 0 };

static struct outcome fault(word vector, word error)
{
	return (struct outcome){ vector, error };
}

/* A row of these tables is an operation, a kind of descriptor, and how it ends. */
static const char *kind_name(const struct row *r)
{
	static const char *const kinds[] = {
		"data", "writable data", "data downwards", "writable data downwards",
		"code", "readable code", "conforming",     "readable conforming",
	};
	static const char *const system[] = {
		"system type 0",
		"16-bit TSS",
		"LDT",
		"busy 16-bit TSS",
		"16-bit call gate",
		"task gate",
		"16-bit interrupt gate",
		"16-bit trap gate",
		"system type 8",
		"TSS",
		"system type 10",
		"busy TSS",
		"call gate",
		"system type 13",
		"interrupt gate",
		"trap gate",
	};

	return r->type & T_S ? kinds[r->type >> 1 & 7] : system[r->type & 15];
}

static const char *outcome_name(struct outcome o)
{
	switch (o.vector) {
	case BP: return "works";
	case GP: return "#GP";
	case NP: return "#NP";
	case SS: return "#SS";
	case TS: return "#TS";
	default: return "#PF";
	}
}

static void judge(const char *what, const struct row *r, struct outcome o)
{
	checked();
	if (trap.vector != o.vector || trap.error != o.error)
		fail("%s: type %x p %u l %u db %u dpl %u rpl %u cpl %u: vector %lx error "
		     "%lx, want %lx, %lx",
		     what, r->type, r->present, r->l, r->db, r->dpl, r->rpl, r->cpl,
		     trap.vector, trap.error, o.vector, o.error);
}

/* ---- data segments and the stack ---- */

static struct outcome data_oracle(const struct row *r, bool ss)
{
	unsigned max = r->cpl > r->rpl ? r->cpl : r->rpl;

	if (ss) {
		if (r->rpl != r->cpl || (r->type & (T_S | T_CODE | T_R)) != (T_S | T_R) ||
		    r->dpl != r->cpl)
			return fault(GP, SEL);
		return r->present ? fine : fault(SS, SEL);
	}
	if (!(r->type & T_S) || (is_code(r) && !(r->type & T_R)))
		return fault(GP, SEL);
	if (!is_conforming(r) && r->dpl < max)
		return fault(GP, SEL);
	return r->present ? fine : fault(NP, SEL);
}

/* MOV, POP and LFS and its kin load by the same rules. */
enum how { BY_MOV, BY_POP, BY_LFS };

static void load_code(const struct row *r, unsigned sreg, enum how how)
{
	static const u8 pop[] = { 0x07, 0, 0x17, 0x1f, 0xa0 | 1, 0xa8 | 1 };
	static const u8 les[] = { 0xc4, 0, 0xb2, 0xc5, 0xb4, 0xb5 };
	u8 *p = code;

	*p++ = 0xb8; /* mov eax, selector */
	p = put(p, SEL | r->rpl, 4);
	switch (how) {
	case BY_MOV:
		*p++ = 0x8e;
		*p++ = (u8)(0xc0 | sreg << 3);
		break;
	case BY_POP:
		*p++ = 0x50;
		if (sreg >= 4)
			*p++ = 0x0f;
		*p++ = pop[sreg];
		break;
	default:
		*p++ = 0xbb; /* mov ebx, area */
		p = put(p, (u32)((word)area + alias_of(r->cpl)), 4);
		*(volatile u32 *)area = 0x1000;
		*(volatile u16 *)(area + 4) = (u16)(SEL | r->rpl);
		if (sreg == 2 || sreg >= 4)
			*p++ = 0x0f;
		*p++ = les[sreg];
		*p++ = 0x0b; /* ECX, [EBX] */
	}
	*p = 0xcc;
}

static void load_segments(void)
{
	static const u8 sregs[] = { 0, 2, 3, 4, 5 };
	struct row r = { .db = true };

	ring_segments();
	for (unsigned n = 0; n < 32 * 2 * 4 * 4 * 4 && !failed(); n++) {
		r.type = n >> 7;
		r.present = n & 1;
		r.dpl = n >> 1 & 3;
		r.rpl = n >> 3 & 3;
		r.cpl = n >> 5 & 3;
		for (unsigned i = 0; i < 5 && !failed(); i++) {
			row("sreg %u, %s, %s", sregs[i], kind_name(&r),
			    outcome_name(data_oracle(&r, sregs[i] == 2)));
			/* One way for each, turn and turn about. */
			enum how how = (enum how)((n + i) % 3);

			if (W64 && how == BY_LFS && sregs[i] != 2 && sregs[i] < 4)
				how = BY_MOV; /* no LES, LDS */
			if (W64 && how == BY_POP && sregs[i] < 4)
				how = BY_MOV;
			set_row(&r);
			load_code(&r, sregs[i], how);
			run(r.cpl);
			judge(sregs[i] == 2 ? "SS" : "data segment", &r,
			      data_oracle(&r, sregs[i] == 2));
			/* Accessed when it was loaded, and only then. */
			if ((r.type & T_S) && !(r.type & 1) &&
			    (*(volatile u64 *)&gdt[SEL / 8] >> 40 & 1) !=
				    (trap.vector == BP))
				fail("accessed bit of type %x", r.type);
		}
	}
}

/* A null selector: not for SS, but for a 64-bit kernel, with RPL = CPL. */
static void load_null(void)
{
	ring_segments();
	for (unsigned n = 0; n < 5 * 4 * 4; n++) {
		static const u8 sregs[] = { 0, 2, 3, 4, 5 };
		unsigned sreg = sregs[n % 5], rpl = n / 5 % 4, cpl = n / 20;
		bool ok = sreg != 2 || (W64 && cpl < 3 && rpl == cpl);
		u8 *p = code;

		row("sreg %u, null, %s", sreg, ok ? "works" : "#GP");
		*p++ = 0xb8;
		p = put(p, rpl, 4);
		*p++ = 0x8e;
		*p++ = (u8)(0xc0 | sreg << 3);
		*p = 0xcc;
		run(cpl);
		checked();
		if (trap.vector != (ok ? BP : GP) || trap.error)
			fail("sreg %u rpl %u cpl %u: vector %lx error %lx", sreg, rpl,
			     cpl, trap.vector, trap.error);
	}
}

/* ---- far transfers ---- */

/* JMP and CALL to a code segment: no change of level. */
static struct outcome jump_oracle(const struct row *r)
{
	if (!(r->type & T_S))
		return fault(GP, SEL); /* none of the tables' types is a gate or TSS */
	if (!is_code(r) || (W64 && r->l && r->db))
		return fault(GP, SEL);
	if (is_conforming(r) ? r->dpl > r->cpl : r->rpl > r->cpl || r->dpl != r->cpl)
		return fault(GP, SEL);
	return r->present ? fine : fault(NP, SEL);
}

/* RET: to the same or an outer level, which is the selector's RPL. */
static struct outcome ret_oracle(const struct row *r)
{
	if (r->rpl < r->cpl)
		return fault(GP, SEL);
	if (!is_code(r) || (W64 && r->l && r->db))
		return fault(GP, SEL);
	if (is_conforming(r) ? r->dpl > r->rpl : r->dpl != r->rpl)
		return fault(GP, SEL);
	return r->present ? fine : fault(NP, SEL);
}

enum far { FAR_JMP, FAR_CALL, FAR_RET, FAR_IRET };

static u8 *push_imm(u8 *p, u32 val)
{
	*p++ = 0xb8; /* mov eax: zero-extended */
	p = put(p, val, 4);
	*p++ = 0x50;
	return p;
}

static void far_code(const struct row *r, enum far how)
{
	word a = alias_of(r->cpl), out = alias_of(r->rpl);
	u32 target = (u32)((word)code + 128 + (how < FAR_RET ? a : out));
	u8 *p = code;

	if (how < FAR_RET) {
		*(volatile u32 *)area = target;
		*(volatile u16 *)(area + 4) = (u16)(SEL | r->rpl);
		*p++ = 0xbb;
		p = put(p, (u32)((word)area + a), 4);
		*p++ = 0xff;
		*p = how == FAR_JMP ? 0x2b : 0x1b;
	} else {
		if (r->rpl > r->cpl || (W64 && how == FAR_IRET)) {
			p = push_imm(p, ring_cs(r->rpl) + 8u);
			p = push_imm(p, (u32)((word)user_stack + 4096 + out));
		}
		if (how == FAR_IRET)
			p = push_imm(p, 2);
		p = push_imm(p, SEL | r->rpl);
		p = push_imm(p, target);
		if (W64)
			*p++ = 0x48;
		*p = how == FAR_IRET ? 0xcf : 0xcb;
	}
	code[128] = 0xcc;
}

static void far_transfers(void)
{
	struct row r = { .db = !W64, .l = W64 };

	ring_segments();
	for (unsigned n = 0; n < 32 * 2 * 4 * 4 * 4 && !failed(); n++) {
		r.type = n & 31;
		r.present = n >> 5 & 1;
		r.dpl = n >> 6 & 3;
		r.rpl = n >> 8 & 3;
		r.cpl = n >> 10 & 3;
		/* Gates, tasks and LDTs are other tests. */
		if (!(r.type & T_S) && r.type)
			continue;
		for (unsigned how = FAR_JMP; how <= FAR_IRET && !failed(); how++) {
			static const char *const names[] = { "JMP", "CALL", "RET",
							     "IRET" };

			struct outcome o =
				how < FAR_RET ? jump_oracle(&r) : ret_oracle(&r);

			row("%s, %s, %s", names[how], kind_name(&r), outcome_name(o));
			set_row(&r);
			far_code(&r, (enum far)how);
			run(r.cpl);
			judge(names[how], &r, o);
			if (trap.vector == BP &&
			    (trap.cs & 3) != (how < FAR_RET ? r.cpl : r.rpl))
				fail("%s: type %x rpl %u cpl %u: now at %lx", names[how],
				     r.type, r.rpl, r.cpl, trap.cs);
		}
	}
}

/* ---- gates ---- */

/* The code segment of a gate may be an inner one; the level becomes its DPL. */
static struct outcome gate_code_oracle(const struct row *r, bool jmp, word ext)
{
	if (!is_code(r) || r->dpl > r->cpl ||
	    (jmp && !is_conforming(r) && r->dpl != r->cpl))
		return fault(GP, SEL | ext);
	if (W64 && (!r->l || r->db))
		return fault(GP, SEL | ext);
	return r->present ? fine : fault(NP, SEL | ext);
}

/* Inner stacks for levels 1 and 2. */
static void inner_stacks(void)
{
	static u8 stacks[2][2048] __attribute__((aligned(16)));

#if W64
	tss.rsp[1] = (word)stacks[0] + sizeof(stacks[0]);
	tss.rsp[2] = (word)stacks[1] + sizeof(stacks[1]);
#else
	tss.esp1 = (word)stacks[0] + sizeof(stacks[0]);
	tss.ss1 = ring_cs(1) + 8u;
	tss.esp2 = (word)stacks[1] + sizeof(stacks[1]);
	tss.ss2 = ring_cs(2) + 8u;
#endif
}

/* One that is a call gate of this mode with 'dpl', to 'code' + 128. */
static void set_call_gate(unsigned dpl, bool present, word target)
{
	u64 g = (target & 0xffff) | (u64)SEL << 16 |
		(u64)((target & 0xffff0000) | D_TYPE(12) | D_DPL(dpl) |
		      (present ? D_P : 0))
			<< 32;

	set_gdt(GATE_SEL, g);
	set_gdt(GATE_SEL + 8, W64 ? (u64)target >> 32 : 0);
}

static word level_after(const struct row *r)
{
	return is_conforming(r) ? r->cpl : r->dpl;
}

static void call_gates(void)
{
	struct row r = { .db = !W64, .l = W64 };

	ring_segments();
	inner_stacks();
	for (unsigned n = 0; n < 16 * 2 * 4 * 4 * 4 * 2 && !failed(); n++) {
		unsigned gate_dpl = n >> 9 & 3;
		bool jmp = n >> 11 & 1;
		struct outcome o;
		u8 *p = code;

		r.type = T_S | (n & 15);
		r.present = n >> 4 & 1;
		r.dpl = n >> 5 & 3;
		r.cpl = n >> 7 & 3;
		r.rpl = r.dpl ^ r.cpl; /* anything: of the gate's selector */
		set_row(&r);
		code[128] = 0xcc;
		set_call_gate(gate_dpl, true, (word)code + 128);
		*(volatile u16 *)(area + 4) = (u16)(GATE_SEL | r.rpl);
		*p++ = 0xbb;
		p = put(p, (u32)((word)area + alias_of(r.cpl)), 4);
		*p++ = 0xff;
		*p = jmp ? 0x2b : 0x1b;
		o = gate_dpl < r.cpl || gate_dpl < r.rpl ? fault(GP, GATE_SEL)
							 : gate_code_oracle(&r, jmp, 0);
		/* User mode has no page at the target: only its alias. */
		if (W64 && o.vector == BP && level_after(&r) == 3)
			o = fault(PF, 0x5);
		row("%s by gate, %s, %s", jmp ? "JMP" : "CALL", kind_name(&r),
		    outcome_name(o));
		run(r.cpl);
		if (o.vector == PF)
			o.error = trap.error; /* whatever the paging controls make it */
		judge(jmp ? "JMP gate" : "CALL gate", &r, o);
		if (trap.vector == BP && (trap.cs & 3) != level_after(&r))
			fail("gate to type %x dpl %u from %u: now at %lx", r.type, r.dpl,
			     r.cpl, trap.cs);
		/* One that is not present, behind the check of its level. */
		if (n & 0x1f)
			continue;
		set_call_gate(gate_dpl, false, (word)code + 128);
		row("%s by gate that is not present, DPL %u, CPL %u",
		    jmp ? "JMP" : "CALL", gate_dpl, r.cpl);
		run(r.cpl);
		judge("gate not present", &r,
		      fault(gate_dpl < r.cpl || gate_dpl < r.rpl ? GP : NP, GATE_SEL));
	}
}

#define INT_VECTOR 0x90

static void interrupt_gates(void)
{
	struct row r = { .db = !W64, .l = W64 };

	ring_segments();
	inner_stacks();
	for (unsigned n = 0; n < 16 * 2 * 4 * 4 * 4 * 2 && !failed(); n++) {
		unsigned gate_dpl = n >> 9 & 3;
		bool gate_p = n >> 11 & 1;
		struct outcome o;
		u8 *p = code;

		r.type = T_S | (n & 15);
		r.present = n >> 4 & 1;
		r.dpl = n >> 5 & 3;
		r.cpl = n >> 7 & 3;
		r.rpl = 0;
		set_row(&r);
		code[128] = 0xcc;
		set_gate(INT_VECTOR, (word)code + 128, SEL,
			 D_TYPE(14 + (n & 1)) | D_DPL(gate_dpl) | (gate_p ? D_P : 0), 0);
		*p++ = 0xcd;
		*p++ = INT_VECTOR;
		*p = 0xcc;
		if (gate_dpl < r.cpl)
			o = fault(GP, INT_VECTOR * 8 + 2);
		else if (!gate_p)
			o = fault(NP, INT_VECTOR * 8 + 2);
		else
			o = gate_code_oracle(&r, false, 0);
		if (W64 && o.vector == BP && level_after(&r) == 3)
			o = fault(PF, 0);
		row("INT n by %s gate, %s, %s", n & 1 ? "trap" : "interrupt",
		    kind_name(&r), outcome_name(o));
		run(r.cpl);
		if (o.vector == PF)
			o.error = trap.error;
		judge("INT", &r, o);
		if (trap.vector == BP && (trap.cs & 3) != level_after(&r))
			fail("INT to type %x dpl %u from %u: now at %lx", r.type, r.dpl,
			     r.cpl, trap.cs);
	}
	reset_gate(INT_VECTOR);
}

/* ---- stacks of other levels ---- */

/* SS of a return to an outer level: #GP, #SS when it is not present. */
static struct outcome outer_ss_oracle(const struct row *r, unsigned level)
{
	if (r->rpl != level || (r->type & (T_S | T_CODE | T_R)) != (T_S | T_R) ||
	    r->dpl != level)
		return fault(GP, SEL);
	return r->present ? fine : fault(SS, SEL);
}

static void return_code(unsigned level, bool iret, u32 ss)
{
	word out = alias_of(level);
	u8 *p = push_imm(code, ss);

	p = push_imm(p, (u32)((word)user_stack + 4096 + out));
	if (iret)
		p = push_imm(p, 2);
	p = push_imm(p, ring_cs(level));
	p = push_imm(p, (u32)((word)code + 128 + out));
	if (W64)
		*p++ = 0x48;
	*p = iret ? 0xcf : 0xcb;
	code[128] = 0xcc;
}

static void outer_stacks(void)
{
	struct row r = { .db = true };

	ring_segments();
	for (unsigned n = 0; n < 32 * 2 * 4 * 4 * 3 && !failed(); n++) {
		unsigned level = 1 + (n >> 10);

		r.type = n & 31;
		r.present = n >> 5 & 1;
		r.dpl = n >> 6 & 3;
		r.rpl = n >> 8 & 3;
		for (unsigned iret = 0; iret < 2; iret++) {
			row("%s to level %u, SS of %s, %s", iret ? "IRET" : "RET", level,
			    kind_name(&r), outcome_name(outer_ss_oracle(&r, level)));
			set_row(&r);
			return_code(level, iret, SEL | r.rpl);
			run(0);
			judge(iret ? "SS of IRET" : "SS of RET", &r,
			      outer_ss_oracle(&r, level));
			/* A null one, for a 64-bit program that is not at level 3. */
			if (n & 0xff)
				continue;
			row("%s to level %u, SS null", iret ? "IRET" : "RET", level);
			return_code(level, iret, r.rpl);
			run(0);
			judge("null SS", &r,
			      W64 && level < 3 && r.rpl == level ? fine : fault(GP, 0));
		}
	}
}

#if !W64
/* SS1 of the TSS, by INT, by an exception (EXT is set) and by CALL: #TS, or #SS. */
static void inner_stacks_of_tss(void)
{
	struct row r = { .db = true };

	ring_segments();
	inner_stacks();
	set_gate(INT_VECTOR, (word)code + 128, ring_cs(1), D_TYPE(14) | D_DPL(3) | D_P,
		 0);
	set_gate(UD, (word)code + 128, ring_cs(1), D_TYPE(14) | D_DPL(3) | D_P, 0);
	for (unsigned n = 0; n < 32 * 2 * 4 * 4 && !failed(); n++) {
		bool good;

		r.type = n & 31;
		r.present = n >> 5 & 1;
		r.dpl = n >> 6 & 3;
		r.rpl = n >> 8 & 3;
		good = r.rpl == 1 && r.dpl == 1 &&
		       (r.type & (T_S | T_CODE | T_R)) == (T_S | T_R);
		for (unsigned how = 0; how < 3; how++) {
			static const char *const names[] = { "INT n", "an exception",
							     "CALL" };
			word ext = how == 1;
			struct outcome o = !good       ? fault(TS, SEL | ext)
					   : r.present ? fine
						       : fault(SS, SEL | ext);
			u8 *p = code;

			row("SS1 by %s, %s, %s", names[how], kind_name(&r),
			    outcome_name(o));
			set_row(&r);
			tss.ss1 = SEL | r.rpl;
			code[128] = 0xcc;
			if (how == 2) {
				u64 g = ((word)code + 128) & 0xffff;

				g |= (u64)ring_cs(1) << 16;
				g |= (u64)((((word)code + 128) & 0xffff0000) |
					   D_TYPE(12) | D_DPL(3) | D_P)
				     << 32;
				set_gdt(GATE_SEL, g);
				*p++ = 0x9a;
				p = put(p, 0, 4);
				p = put(p, GATE_SEL | 3, 2);
			} else {
				p = put(p, how ? 0x0b0f : 0xcd | INT_VECTOR << 8, 2);
			}
			*p = 0xcc;
			run(3);
			judge("SS1", &r, o);
			if (n)
				continue;
			row("SS1 by %s, null", names[how]);
			tss.ss1 = 1;
			run(3);
			judge("null SS1", &r, fault(TS, ext));
		}
	}
	reset_gate(INT_VECTOR);
	reset_gate(UD);
	inner_stacks();
}

/* An offset beyond the limit of the new code segment is #GP(0), one at it is not. */
static void target_limits(void)
{
	struct row r = { .db = true, .type = T_S | T_CODE | T_R, .present = true };

	ring_segments();
	for (unsigned n = 0; n < 6 * 2; n++) {
		static const char *const names[] = { "JMP",  "CALL",  "RET",
						     "IRET", "INT n", "CALL by gate" };
		unsigned how = n >> 1;
		u8 *p = code;

		row("%s %s the limit", names[how], n & 1 ? "beyond" : "at");
		set_gdt(SEL, descriptor((u32)code + 128 - 0x100, 0x100 - (n & 1),
					(D_KCODE & ~D_A) | D_DB));
		set_gdt(SEL + 8, 0);
		code[128] = 0xcc;
		switch (how) {
		case FAR_JMP:
		case FAR_CALL:
			*p++ = how == FAR_JMP ? 0xea : 0x9a;
			p = put(p, 0x100, 4);
			p = put(p, SEL, 2);
			break;
		case FAR_RET:
		case FAR_IRET:
			if (how == FAR_IRET)
				p = push_imm(p, 2);
			p = push_imm(p, SEL);
			p = push_imm(p, 0x100);
			*p++ = how == FAR_IRET ? 0xcf : 0xcb;
			break;
		case 4:
			set_gate(INT_VECTOR, 0x100, SEL, D_TYPE(14) | D_P, 0);
			p = put(p, 0xcd | INT_VECTOR << 8, 2);
			break;
		default:
			set_gdt(GATE_SEL,
				0x100 | (u64)SEL << 16 | (u64)(D_TYPE(12) | D_P) << 32);
			*p++ = 0x9a;
			p = put(p, 0, 4);
			p = put(p, GATE_SEL, 2);
			break;
		}
		*p = 0xcc;
		run(0);
		judge("limit", &r, n & 1 ? fault(GP, 0) : fine);
		want_equal(trap.ip == 0x101, !(n & 1));
	}
	reset_gate(INT_VECTOR);
}

/* Words of a call gate's parameters, 16 and 32 bits of them, and the stack's room. */
static void gate_parameters(void)
{
	static u8 inner[256] __attribute__((aligned(16)));

	ring_segments();
	set_gdt(SEL, descriptor(0, 0xfffff, D_KDATA | D_DPL(1) | D_DB | D_G));
	for (unsigned n = 0; n < 32 * 2 && !failed(); n++) {
		unsigned params = n & 31, size = n & 32 ? 4 : 2;
		word at = (word)code + 128, esp,
		     user = (word)user_stack + STACK_SIZE - 256;
		u8 *p = code;

		row("%u-bit gate with%s parameters", 8 * size, params ? "" : "out");
		/* A 16-bit gate reaches 64 KiB: a code segment of its own. */
		set_gdt(SEL + 8, descriptor((u32)at, 0xff, D_KCODE | D_DPL(1) | D_DB));
		set_gdt(GATE_SEL,
			(u64)(SEL + 8) << 16 | (u64)(D_TYPE(size == 4 ? 12 : 4) |
						     D_DPL(3) | D_P | params)
						       << 32);
		tss.esp1 = (word)inner + sizeof(inner);
		tss.ss1 = SEL | 1;
		for (unsigned i = 0; i < params * size; i++)
			((volatile u8 *)user)[i] = (u8)(i + 1);
		*p++ = 0x9a;
		p = put(p, 0, 4);
		p = put(p, GATE_SEL | 3, 2);
		code[128] = 0xcc;
		run(3);
		want_equal(trap.vector, BP);
		esp = trap.sp;
		want_equal((word)inner + sizeof(inner) - esp, (4 + params) * size);
		for (unsigned i = 0; i < params * size; i++)
			if (((volatile u8 *)esp)[2 * size + i] != (u8)(i + 1))
				fail("%u parameters of %u: byte %u", params, size, i);
		want_equal(*(volatile u16 *)(esp + size), ring_cs(3));
		want_equal(*(volatile u16 *)(esp + (2 + params) * size), (u16)user);
	}
	inner_stacks();
}
#endif

/* ---- LAR, LSL, VERR, VERW ---- */

enum inspect { LAR, LSL, VERR, VERW };

static bool inspect_oracle(const struct row *r, enum inspect what)
{
	/* SDM 2, tables of LAR and LSL: in IA-32e mode 16-bit types are not valid. */
	u32 lar = W64 ? 0x1a04 : 0x1a3e, lsl = W64 ? 0x0a04 : 0x0a0e;
	unsigned max = r->cpl > r->rpl ? r->cpl : r->rpl;

	if (!(r->type & T_S)) {
		if (what >= VERR || !((what == LAR ? lar : lsl) >> r->type & 1))
			return false;
		return r->dpl >= max;
	}
	if (!is_conforming(r) && r->dpl < max)
		return false;
	switch (what) {
	case VERR: return !is_code(r) || (r->type & T_R);
	case VERW: return !is_code(r) && (r->type & T_R);
	default: return true;
	}
}

static void inspections(void)
{
	static const u8 insn[][4] = { { 0x0f, 0x02, 0xd8 },
				      { 0x0f, 0x03, 0xd8 },
				      { 0x0f, 0x00, 0xe0 },
				      { 0x0f, 0x00, 0xe8 } };
	struct row r = { .db = true };

	ring_segments();
	for (unsigned n = 0; n < 32 * 2 * 4 * 4 * 4 && !failed(); n++) {
		r.type = n & 31;
		r.present = n >> 5 & 1;
		r.dpl = n >> 6 & 3;
		r.rpl = n >> 8 & 3;
		r.cpl = n >> 10 & 3;
		for (unsigned i = 0; i < 4; i++) {
			static const char *const names[] = { "LAR", "LSL", "VERR",
							     "VERW" };
			u8 *p = code;

			row("%s, %s, ZF %u", names[i], kind_name(&r),
			    inspect_oracle(&r, (enum inspect)i));
			set_row(&r);
			*p++ = 0xb8;
			p = put(p, SEL | r.rpl, 4);
			for (unsigned k = 0; k < 3; k++)
				*p++ = insn[i][k];
			*p = 0xcc;
			run(r.cpl);
			judge("LAR and so on", &r, fine);
			if (!(trap.flags & 0x40) != !inspect_oracle(&r, (enum inspect)i))
				fail("%u: type %x dpl %u rpl %u cpl %u: flags %lx", i,
				     r.type, r.dpl, r.rpl, r.cpl, trap.flags);
		}
	}
}

const struct test_case cases[] = {
	CASE(load_segments, "SDM 3 5.6, 5.7"),
	CASE(load_null, "SDM 3 5.4.1"),
	CASE(far_transfers, "SDM 3 5.8.1"),
	CASE(call_gates, "SDM 3 5.8.3, 5.8.4"),
	CASE(interrupt_gates, "SDM 3 6.12.1"),
	CASE(outer_stacks, "SDM 3 5.8.6, 6.12.1"),
#if !W64
	CASE(inner_stacks_of_tss, "SDM 3 6.12.1, 5.8.5"),
	CASE(target_limits, "SDM 3 5.3"),
	CASE(gate_parameters, "SDM 3 5.8.5"),
#endif
	CASE(inspections, "SDM 3 5.10"),
	CASES_END,
};
