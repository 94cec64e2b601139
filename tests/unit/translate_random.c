/*
 * Random loops of what traces are made of: arithmetic whose flags are read or not,
 * accesses off a few registers that move on to a page which is missing, read-only, code,
 * or fine. Each must end on every engine as on the interpreter. Every other one is 32-bit
 * code.
 */
#include "translate_box.h"

#define PROGRAMS 120
#define INSNS    36
#define START    (CODE + 0xa00)

struct maker {
	u64 s;
	u8 code[1024];
	unsigned n;
	u64 gpr[16], pte;
	unsigned cpl, loops;
	bool smap, narrow;
};

static unsigned pick(struct maker *m, unsigned n)
{
	m->s ^= m->s << 13;
	m->s ^= m->s >> 7;
	m->s ^= m->s << 17;
	return (unsigned)((m->s >> 20) % n);
}

static void byte(struct maker *m, unsigned b)
{
	m->code[m->n++] = (u8)b;
}

static const u8 data_regs[] = { RAX, RCX, RDX, RDI, R8, R10, R11, R12 };
static const u8 pointers[] = { RBX, RBP, RSI, R9 };

static unsigned data_reg(struct maker *m)
{
	return data_regs[pick(m, m->narrow ? 3 : ARRAY_SIZE(data_regs))];
}

static unsigned pointer(struct maker *m)
{
	return pointers[pick(m, m->narrow ? 3 : ARRAY_SIZE(pointers))];
}

static void address(struct maker *m)
{
	unsigned a = DATA + 0xc00 + pick(m, 0x480);

	for (unsigned i = 0; i < 4; i++)
		byte(m, a >> (8 * i) & 0xff);
}

/* Prefixes and REX for an operand size of 1 to 8 bytes. */
static void prefixes(struct maker *m, unsigned size, unsigned reg, unsigned rm)
{
	unsigned rex = (size == 8 ? 8u : 0) | (reg >> 3) << 2 | rm >> 3;

	if (size == 2)
		byte(m, 0x66);
	if (m->narrow)
		return;
	if (rex || (size == 1 && pick(m, 2)))
		byte(m, 0x40 | rex);
}

/* A register, or one time in two memory near a pointer. */
static unsigned operand(struct maker *m, bool *mem)
{
	*mem = pick(m, 2);
	return *mem ? pointer(m) : data_reg(m);
}

static void modrm(struct maker *m, bool mem, unsigned reg, unsigned rm)
{
	if (m->narrow && mem && !pick(m, 5)) {
		byte(m, reg << 3 | 5);
		address(m);
		return;
	}
	byte(m, (mem ? 0x40u : 0xc0u) | (reg & 7) << 3 | (rm & 7));
	if (mem)
		byte(m, pick(m, 64) * 2 - 64 + pick(m, 2));
}

static void immediate(struct maker *m, unsigned size)
{
	for (unsigned i = 0; i < MIN(size, 4u); i++)
		byte(m, pick(m, 4) ? pick(m, 256) : 0);
}

static void arithmetic(struct maker *m, unsigned size)
{
	unsigned op = pick(m, 8), reg = data_reg(m), form = pick(m, 5);
	bool mem;
	unsigned rm = operand(m, &mem);

	switch (form) {
	case 0:
	case 1: /* both directions */
		prefixes(m, size, reg, rm);
		byte(m, op * 8 + form * 2 + (size > 1));
		modrm(m, mem, reg, rm);
		break;
	case 2: /* immediates */
		prefixes(m, size, 0, rm);
		byte(m, size > 1 ? 0x81 : 0x80);
		modrm(m, mem, op, rm);
		immediate(m, size);
		break;
	case 3:
		if (size == 1)
			size = 4;
		prefixes(m, size, 0, rm);
		byte(m, 0x83);
		modrm(m, mem, op, rm);
		immediate(m, 1);
		break;
	default: /* the accumulator; TEST */
		prefixes(m, size, 0, 0);
		byte(m, (pick(m, 4) ? op * 8 + 4 : 0xa8) + (size > 1));
		immediate(m, size);
	}
}

/* Opcodes with ModRM: one byte, or two behind 0F; 'digit' 8: a register. */
static void other(struct maker *m, unsigned size)
{
	static const struct {
		u16 op;
		u8 digit, imm;
	} ops[] = {
		{ 0x84, 8, 0 },  { 0xf6, 0, 9 },  { 0xf6, 2, 0 },  { 0xf6, 3, 0 },
		{ 0xfe, 0, 0 },  { 0xfe, 1, 0 },  { 0xc0, 4, 1 },  { 0xc0, 5, 1 },
		{ 0xd0, 7, 0 },  { 0x86, 8, 0 },  { 0xfb0, 8, 0 }, { 0xfc0, 8, 0 },
		{ 0xfb6, 8, 0 }, { 0xfbe, 8, 0 }, { 0xd0, 0, 0 },  { 0x8a, 8, 0 },
		{ 0x88, 8, 0 },  { 0x8a, 8, 0 },  { 0x88, 8, 0 },  { 0xc6, 0, 9 },
	};
	unsigned i = pick(m, ARRAY_SIZE(ops)),
		 reg = ops[i].digit == 8 ? data_reg(m) : ops[i].digit;
	bool mem;
	unsigned rm = operand(m, &mem);

	prefixes(m, size, ops[i].digit == 8 ? reg : 0, rm);
	if (ops[i].op >> 8)
		byte(m, 0x0f);
	byte(m, (ops[i].op & 0xff) + (size > 1));
	modrm(m, mem, reg, rm);
	immediate(m, ops[i].imm == 9 ? size : ops[i].imm);
}

/* What 64-bit mode has not, or encodes otherwise. */
static void old_insn(struct maker *m)
{
	bool mem;

	switch (pick(m, 5)) {
	case 0: byte(m, (pick(m, 2) ? 0x40 : 0x48) + data_reg(m)); return;
	case 1:
		byte(m, 0xa0 + pick(m, 4)); /* MOV of the accumulator */
		address(m);
		return;
	case 2: /* PUSH from memory */
		byte(m, 0xff);
		modrm(m, true, 6, pointer(m));
		return;
	case 3: /* AH, CH, DH */
		byte(m, (const u8[]){ 0x88, 0x8a, 0x00, 0x32 }[pick(m, 4)]);
		mem = pick(m, 2);
		modrm(m, mem, 4 + pick(m, 3), mem ? pointer(m) : pick(m, 3));
		return;
	default: /* PUSH and POP of DS; the same with an immediate */
		if (pick(m, 2))
			byte(m, 0x1e);
		else {
			byte(m, 0x6a);
			byte(m, DATA32(3) | 3);
		}
		byte(m, pick(m, 8) ? 0x1f : 0x58);
		return;
	}
}

static void insn(struct maker *m)
{
	static const u8 sizes[] = { 1, 2, 4, 4, 8, 8 };
	unsigned size = sizes[pick(m, ARRAY_SIZE(sizes))], reg = data_reg(m), rm;
	bool mem;

	if (m->narrow) {
		size = MIN(size, 4u);
		if (!pick(m, 6)) {
			old_insn(m);
			return;
		}
		if (!pick(m, 8))
			byte(m, 0x65); /* GS has a base */
	}
	switch (pick(m, 16)) {
	case 0: /* CMOVcc */
		rm = operand(m, &mem);
		prefixes(m, MAX(size, 2u), reg, rm);
		byte(m, 0x0f);
		byte(m, 0x40 + pick(m, 16));
		modrm(m, mem, reg, rm);
		return;
	case 1: /* SETcc */
		rm = operand(m, &mem);
		prefixes(m, 1, 0, rm);
		byte(m, 0x0f);
		byte(m, 0x90 + pick(m, 16));
		modrm(m, mem, 0, rm);
		return;
	case 2: /* PUSH, POP of a data register; PUSHF */
		if (!pick(m, 4)) {
			byte(m, 0x9c);
			return;
		}
		if (m->cpl == 0 && !pick(m, 4)) { /* CLI, CLAC, STAC */
			static const u8 system[3][3] = { { 0x90, 0x90, 0xfa },
							 { 0x0f, 0x01, 0xca },
							 { 0x0f, 0x01, 0xcb } };
			unsigned i = pick(m, 3);

			for (unsigned n = 0; n < 3; n++)
				byte(m, system[i][n]);
			return;
		}
		prefixes(m, 4, 0, reg);
		byte(m, (pick(m, 2) ? 0x50 : 0x58) + (reg & 7));
		return;
	case 3: /* a pointer moves: LEA, ADD or SUB */
		rm = pointer(m);
		if (pick(m, 2)) {
			prefixes(m, 8, rm, rm);
			byte(m, 0x8d);
			byte(m, 0x40 | (rm & 7) << 3 | (rm & 7));
		} else {
			prefixes(m, 8, 0, rm);
			byte(m, 0x83);
			byte(m, 0xc0 | (pick(m, 2) ? 5u << 3 : 0) | (rm & 7));
		}
		byte(m, pick(m, 48));
		return;
	case 4: /* Jcc over a byte */
		byte(m, 0x70 + pick(m, 16));
		byte(m, 1);
		byte(m, 0x90);
		return;
	case 5: /* LEA of a data register */
		rm = data_reg(m);
		prefixes(m, MAX(size, 4u), reg, rm);
		byte(m, 0x8d);
		byte(m, 0x40 | (reg & 7) << 3 | (rm & 7));
		if ((rm & 7) == RSP)
			byte(m, 0x24);
		byte(m, pick(m, 256));
		return;
	case 6:
	case 7:
	case 8:
	case 9: other(m, size); return;
	default: arithmetic(m, size); return;
	}
}

/* R12 as a base needs a SIB byte, which is why it is no pointer. */
static void make(struct maker *m, bool narrow)
{
	static const u64 ptes[] = {
		0,
		(DATA + 0x1000) | 0x65,
		(DATA + 0x1000) | 0x67,
		(DATA + 0x1000) | 0x07,
		(DATA + 0x1000) | 0x67 | BIT(63),
		CODE | 0x67,
	};
	unsigned from;

	m->n = 0;
	m->narrow = narrow;
	for (unsigned i = 0; i < 16; i++)
		m->gpr[i] = pick(m, 3) ? (u64)pick(m, 1 << 30) * pick(m, 1 << 30)
				       : pick(m, 200);
	for (unsigned i = 0; i < ARRAY_SIZE(pointers); i++)
		m->gpr[pointers[i]] = DATA + 0xc00 + pick(m, 0x300);
	m->gpr[RSP] = STACK3 + 0x800;
	m->gpr[R15] = m->loops = 8 + pick(m, 24);
	m->pte = ptes[pick(m, ARRAY_SIZE(ptes))];
	m->cpl = pick(m, 2) * 3;
	m->smap = pick(m, 2);
	if (narrow)
		m->gpr[RDI] = m->loops;
	for (unsigned i = 0; i < ARRAY_SIZE(pointers) && narrow; i++)
		if (!pick(m, 8))
			m->gpr[pointers[i]] |= BIT(32 + pick(m, 32));
	from = m->n;
	for (unsigned i = 0; i < INSNS; i++)
		insn(m);
	if (narrow) {
		byte(m, 0x4f); /* dec edi; jnz */
	} else {
		byte(m, 0x49); /* dec r15; jnz */
		byte(m, 0xff);
		byte(m, 0xcf);
	}
	byte(m, 0x0f);
	byte(m, 0x85);
	for (unsigned i = 0, to = from - (m->n + 4); i < 4; i++)
		byte(m, to >> (8 * i) & 0xff);
	byte(m, 0xcc);
}

static void run(const struct engine *e, struct box *b, const struct maker *m,
		struct end *r)
{
	engine_box_start(e, b, m->cpl);
	memcpy(b->ram + START, m->code, m->n);
	memcpy(b->v->gpr, m->gpr, sizeof(m->gpr));
	for (unsigned i = 0; i < 0x2000; i++)
		b->ram[DATA + i] = (u8)(i * 37 >> 3);
	poke(b, PT + ((DATA >> 12) + 1) * 8, m->pte, 8);
	/* Only data is the user's, and may be accessed until CLAC. */
	if (m->smap && !m->cpl) {
		for (unsigned i = 0; i < 512; i++)
			if (i != DATA >> 12 && i != (DATA >> 12) + 1)
				b->ram[PT + 8 * i] &= (u8)~4;
		b->v->cr4 |= CR4_SMAP;
		b->v->flags |= RFLAGS_AC;
	}
	if (m->narrow) {
		box_seg(b, CS, CODE32(m->cpl) | m->cpl);
		b->v->seg[GS].base = (u64)-64;
	}
	vcpu_sync(b->v);
	tlb_flush_all(b->v);
	b->v->rip = START;
	engine_box_run(e, b, r);
}

static void random_loops_end_alike(void **state)
{
	const char *seed = getenv("SEED"), *count = getenv("PROGRAMS");
	unsigned programs = count ? (unsigned)atoi(count) : PROGRAMS;
	struct box *b[ARRAY_SIZE(all_engines)];
	struct maker m = { .s = seed ? strtoull(seed, NULL, 0) : 88172645463325252u };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++)
		b[i] = engine_box_new(all_engines[i]);
	for (unsigned n = 0; n < programs; n++) {
		char name[40];
		const struct program p = { .name = name };
		struct end want, r;

		snprintf(name, sizeof(name), "seed %#llx", (unsigned long long)m.s);
		make(&m, n & 1);
		run(all_engines[0], b[0], &m, &want);
		for (unsigned i = 1; i < ARRAY_SIZE(all_engines); i++) {
			if (!b[i])
				continue;
			run(all_engines[i], b[i], &m, &r);
			assert_same_end(all_engines[i]->name, &p, &r, &want);
			free(r.ram);
		}
		free(want.ram);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++)
		if (b[i])
			engine_box_free(all_engines[i], b[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(random_loops_end_alike) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
