/*
 * Random programs on an engine and on the host CPU, compared at their end.
 *
 *   diff [--engine NAME] [--seed N] [--seconds N] [--first N] [--programs N] [--list]
 *
 * A program is up to 30 instructions of the forms that tests/insn walks, the common ones
 * more often, with forward branches, bounded loops and calls, and operands in the
 * read-write pages. It ends with INT3 or with the first fault. One that comes out
 * differently is shortened as long as it still does, and printed with both states.
 *
 * Some registers are kept as pointers, so that addresses stay good: what writes to them
 * is not chosen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "classify.h"
#include "cpu/hostcpu.h"
#include "engines.h"
#include "gen.h"
#include "host.h"
#include "x86/decode.h"

#define MAX_ITEMS        40
#define CODE_AT          (ARENA + 0x4000)
#define CODE_ROOM        0x800
#define DEFAULT_SECONDS  40
#define DEFAULT_PROGRAMS 100000

enum item_kind { ITEM_PLAIN, ITEM_JCC, ITEM_JMP, ITEM_LOOP, ITEM_CALL, ITEM_RET };

struct item {
	u8 kind, len;
	u8 id;     /* its place when the program was made */
	u8 target; /* branches: the id to go to, or the next that is left */
	u8 code[16];
	u8 rip_at;      /* offset of a RIP-relative displacement, 0: none */
	u64 rip_target; /* what it is to reach */
};

struct program {
	enum mode mode;
	struct item item[MAX_ITEMS];
	unsigned count;
	u8 loops_end; /* the id behind the last loop */
	struct state start;
};

/* Forms by how common they are. */
enum group {
	GROUP_INT,
	GROUP_STRING,
	GROUP_SSE,
	GROUP_AVX,
	GROUP_EVEX,
	GROUP_X87,
	GROUP_COUNT
};

struct pool {
	const struct form **form[MODE_COUNT][GROUP_COUNT];
	unsigned count[MODE_COUNT][GROUP_COUNT];
};

struct options {
	const struct engine *engine;
	u64 seed, first, programs;
	unsigned seconds;
	bool list; /* print each program first */
};

static struct progress *progress;

/* ---- which forms ---- */

static bool suits(const struct form *f)
{
	struct decoded d;
	u8 bytes[40];

	if (f->cls != FORM_USER ||
	    !form_decode((enum mode)f->mode, bytes, enc_bytes(&f->sample[0], bytes), &d))
		return false;
	switch (d.zi.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL:
	case ZYDIS_CATEGORY_SEGOP:
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT:
	case ZYDIS_CATEGORY_SYSTEM: return false;
	default: break;
	}
	switch (d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_MOVDIR64B:
	/* Images with the last x87 instruction's opcode and operand, which models keep
	 * differently. */
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FLDCW: /* may make an older error pending */
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE: return false;
	default: break;
	}
	for (unsigned i = 0; i < d.zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &d.op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT &&
		    (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return false;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB || o->size > 4096))
			return false;
	}
	return true;
}

static enum group group_of(const struct form *f)
{
	struct decoded d;
	u8 bytes[40];

	form_decode((enum mode)f->mode, bytes, enc_bytes(&f->sample[0], bytes), &d);
	if (f->kind == ENC_EVEX)
		return GROUP_EVEX;
	if (f->kind == ENC_VEX)
		return GROUP_AVX;
	if (d.zi.meta.isa_set == ZYDIS_ISA_SET_X87 ||
	    d.zi.meta.isa_set == ZYDIS_ISA_SET_FCMOV)
		return GROUP_X87;
	if (d.zi.meta.category == ZYDIS_CATEGORY_STRINGOP)
		return GROUP_STRING;
	for (unsigned i = 0; i < d.zi.operand_count; i++) {
		ZydisRegisterClass c = d.op[i].type == ZYDIS_OPERAND_TYPE_REGISTER
					       ? ZydisRegisterGetClass(d.op[i].reg.value)
					       : ZYDIS_REGCLASS_INVALID;

		if (c == ZYDIS_REGCLASS_XMM || c == ZYDIS_REGCLASS_MMX)
			return GROUP_SSE;
	}
	return GROUP_INT;
}

static void pool_fill(struct pool *p, const struct form_list *l)
{
	for (unsigned i = 0; i < l->count; i++) {
		const struct form *f = &l->form[i];
		unsigned *n;
		enum group g;

		if (!host_has_mode((enum mode)f->mode) || !suits(f))
			continue;
		g = group_of(f);
		n = &p->count[f->mode][g];
		if (!(*n & (*n - 1)))
			p->form[f->mode][g] = realloc(p->form[f->mode][g],
						      (*n ? *n * 2 : 1) * sizeof(f));
		p->form[f->mode][g][(*n)++] = f;
	}
}

static const struct form *pool_pick(const struct pool *p, struct rng *rng, enum mode mode)
{
	static const u8 weight[GROUP_COUNT] = { 55, 4, 14, 12, 10, 5 };
	unsigned n = rng_below(rng, 100), g = 0;

	while (g + 1 < GROUP_COUNT && n >= weight[g])
		n -= weight[g++];
	if (!p->count[mode][g])
		g = GROUP_INT;
	return p->form[mode][g][rng_below(rng, p->count[mode][g])];
}

/* ---- instructions ---- */

static bool is_pointer(enum mode mode, unsigned gpr)
{
	if (mode != MODE64)
		return gpr == RBX || gpr == RSP || gpr == RBP || gpr == RSI || gpr == RDI;
	return gpr == RBX || gpr == RSP || gpr == RBP || gpr == RSI || gpr == RDI ||
	       gpr == R12 || gpr == R13;
}

/* R14 is a small index, R15 the counter of loops. */
static bool is_kept(enum mode mode, unsigned gpr)
{
	return is_pointer(mode, gpr) || gpr == R14 || gpr == R15;
}

static unsigned gpr_of(ZydisRegister r)
{
	return (unsigned)(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
							   r) -
			  ZYDIS_REGISTER_RAX);
}

static bool is_gpr(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15;
}

static bool writes_kept(const struct test *t)
{
	for (unsigned i = 0; i < t->d.zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->d.op[i];

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !is_gpr(o->reg.value) ||
		    !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		/* Stack and string instructions move theirs a little. */
		if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
		    (gpr_of(o->reg.value) == RSP || gpr_of(o->reg.value) == RSI ||
		     gpr_of(o->reg.value) == RDI))
			continue;
		if (is_kept(t->mode, gpr_of(o->reg.value)))
			return true;
	}
	return false;
}

/* Bit tests with an offset in a register reach anywhere. */
static bool reaches_far(const struct test *t)
{
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		return t->d.op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		       t->d.op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	default: return false;
	}
}

static void patch32(struct item *it, unsigned at, u32 val)
{
	memcpy(it->code + at, &val, 4);
}

/* Make an explicit memory operand one that stays in the read-write pages. False: it
 * cannot be. */
static bool tame(struct rng *rng, const struct test *t, const ZydisDecodedOperand *o,
		 struct item *it)
{
	const struct ZydisDecodedInstructionRawDisp_ *disp = &t->d.zi.raw.disp;
	unsigned size = o->size / 8;
	u32 align = size >= 16 ? 63 : 0;

	if (t->d.zi.address_width == 16)
		return false;
	if (t->d.zi.raw.sib.base == 5 && (t->d.zi.attributes & ZYDIS_ATTRIB_HAS_SIB) &&
	    !t->d.zi.raw.modrm.mod)
		return false;
	if (o->mem.base == ZYDIS_REGISTER_RIP) {
		it->rip_at = disp->offset;
		it->rip_target = RW_BASE + 0x1000 + (rng_below(rng, 0x3000) & ~align);
		return true;
	}
	if (o->mem.base == ZYDIS_REGISTER_NONE || o->mem.base == ZYDIS_REGISTER_EIP)
		return false;
	if (!is_pointer(t->mode, gpr_of(o->mem.base)))
		return false;
	if (o->mem.index != ZYDIS_REGISTER_NONE && (align || gpr_of(o->mem.index) != R14))
		return false;
	if (disp->size == 32)
		patch32(it, disp->offset, ((rng_below(rng, 0x1000) - 0x800) & ~align));
	else if (disp->size == 8 && align &&
		 t->d.zi.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		it->code[disp->offset] &= (u8) ~(align & 0x1f);
	return true;
}

static bool segment_free(const struct test *t)
{
	for (unsigned i = 0; i < t->d.zi.raw.prefix_count; i++) {
		switch (t->d.zi.raw.prefixes[i].value) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
		case 0x64:
		case 0x65: return false;
		/* What a string instruction leaves in upper halves is up to the
		 * processor. */
		case 0x67:
			if (t->d.zi.meta.category == ZYDIS_CATEGORY_STRINGOP ||
			    t->mode != MODE64)
				return false;
			break;
		default: break;
		}
	}
	return true;
}

/* EVEX instructions that read RSP, as VPBROADCASTQ and VCVTUSI2SD, have been seen to get
 * what it was before the CALL that was executed just before, on Zen 4. */
static bool evex_reads_rsp(const struct test *t)
{
	for (unsigned i = 0; i < t->d.zi.operand_count_visible; i++)
		if (t->d.op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
						     t->d.op[i].reg.value) ==
			    ZYDIS_REGISTER_RSP)
			return t->d.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	return false;
}

static bool make_plain(struct rng *rng, const struct pool *pool, enum mode mode,
		       struct item *it)
{
	static struct test t;

	for (unsigned try = 0; try < 100; try++) {
		const struct form *f = pool_pick(pool, rng, mode);
		bool good = true;

		t.mode = mode;
		if (!gen_code(rng, f, &t) || writes_kept(&t) || reaches_far(&t) ||
		    !segment_free(&t))
			continue;
		if (evex_reads_rsp(&t))
			continue;
		/* Once in a while: these change much. */
		if ((t.d.zi.mnemonic == ZYDIS_MNEMONIC_POPF ||
		     t.d.zi.mnemonic == ZYDIS_MNEMONIC_POPFQ ||
		     t.d.zi.mnemonic == ZYDIS_MNEMONIC_POPFD ||
		     t.d.zi.mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
		     t.d.zi.mnemonic == ZYDIS_MNEMONIC_DIV ||
		     t.d.zi.mnemonic == ZYDIS_MNEMONIC_IDIV) &&
		    rng_below(rng, 8))
			continue;
		*it = (struct item){ .kind = ITEM_PLAIN, .len = (u8)t.len };
		memcpy(it->code, t.code, t.len);
		for (unsigned i = 0; i < t.d.zi.operand_count && good; i++)
			if (t.d.op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			    t.d.op[i].mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
			    t.d.op[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
				good = tame(rng, &t, &t.d.op[i], it);
		if (good)
			return true;
	}
	return false;
}

/* ---- programs ---- */

static void add(struct program *p, struct item it)
{
	it.id = (u8)p->count;
	p->item[p->count++] = it;
}

/* mov ecx, small: what REP and shifts by CL then use. */
static struct item small_count(struct rng *rng)
{
	return (struct item){ .kind = ITEM_PLAIN,
			      .len = 5,
			      .code = { 0xb9, (u8)rng_below(rng, 24), 0, 0, 0 } };
}

static void add_branch(struct rng *rng, struct program *p, unsigned kind)
{
	struct item it = { .kind = (u8)kind,
			   .target = (u8)(p->count + 2 + rng_below(rng, 4)) };

	if (kind == ITEM_JCC) {
		it.code[0] = 0x0f;
		it.code[1] = (u8)(0x80 | rng_below(rng, 16));
		it.len = 6;
	} else {
		it.code[0] = 0xe9;
		it.len = 5;
	}
	add(p, it);
}

/* and r15d, 7; dec r15d; jg back: ends whatever R15 was. */
static void add_loop(struct rng *rng, struct program *p)
{
	struct item it = { .kind = ITEM_LOOP,
			   .len = 13,
			   .code = { 0x41, 0x83, 0xe7, 0x07, 0x41, 0xff, 0xcf, 0x0f,
				     0x8f } };

	it.target = (u8)(p->count - MIN(p->count, 1 + rng_below(rng, 6)));
	/* Not around another one: they have the same counter. */
	it.target = MAX(it.target, p->loops_end);
	add(p, it);
	p->loops_end = (u8)p->count;
}

/* In a body RET's address must stay where and what it is. */
static bool touches_stack(enum mode mode, const struct item *it)
{
	struct decoded d;

	if (!form_decode(mode, it->code, it->len, &d))
		return true;
	for (unsigned i = 0; i < d.zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &d.op[i];

		if (!(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value) &&
		    gpr_of(o->reg.value) == RSP)
			return true;
	}
	return false;
}

/* call body; jmp behind it; body ...; ret */
static void add_call(struct rng *rng, const struct pool *pool, struct program *p)
{
	struct item call = { .kind = ITEM_CALL,
			     .len = 5,
			     .code = { 0xe8 },
			     .target = (u8)(p->count + 2) };
	struct item jmp = { .kind = ITEM_JMP, .len = 5, .code = { 0xe9 } };
	struct item ret = { .kind = ITEM_RET, .len = 1, .code = { 0xc3 } }, it;
	unsigned body = 1 + rng_below(rng, 3);

	jmp.target = (u8)(p->count + 2 + body + 1);
	add(p, call);
	add(p, jmp);
	while (body && make_plain(rng, pool, p->mode, &it)) {
		if (touches_stack(p->mode, &it))
			continue;
		add(p, it);
		body--;
	}
	add(p, ret);
}

/*
 * RET must find what its CALL has pushed, or it goes anywhere, host code included:
 * nothing branches into a body.
 */
static void keep_out(struct program *p)
{
	u8 body = 0, end = 0; /* ids */

	for (unsigned i = 0; i < p->count; i++) {
		if (p->item[i].kind != ITEM_CALL)
			continue;
		body = p->item[i].target;
		for (end = body; p->item[end].kind != ITEM_RET;)
			end++;
		for (unsigned n = 0; n < p->count; n++) {
			struct item *it = &p->item[n];

			if (it->kind == ITEM_LOOP && it->target > i && it->target <= end)
				it->target = (u8)i;
			else if ((it->kind == ITEM_JCC || it->kind == ITEM_JMP) &&
				 it->target > i && it->target <= end)
				it->target = (u8)(end + 1);
		}
	}
}

static void gen_start(struct rng *rng, struct program *p)
{
	struct state *s = &p->start;

	gen_state(rng, s, p->mode);
	s->flags &= ~(u64)(RFLAGS_TF | RFLAGS_AC);
	if (p->mode == MODE32)
		for (unsigned i = 0; i < 6; i++)
			s->sel[i] = i == CS ? SEL_CS32 : SEL_DS;
	for (unsigned i = 0; i < 16; i++)
		if (is_pointer(p->mode, i))
			s->gpr[i] = RW_BASE + 0x2000 + 64 * rng_below(rng, 128);
	if (p->mode == MODE64) {
		s->gpr[R14] = rng_below(rng, 64);
		s->gpr[R15] = rng_below(rng, 8);
	}
	s->gpr[RSP] = RW_BASE + 0x3000 + 16 * rng_below(rng, 64);
	s->rip = CODE_AT;
}

static void gen_program(struct rng *rng, const struct pool *pool, struct program *p)
{
	unsigned want = 1 + rng_below(rng, 30);
	struct item it;

	memset(p, 0, sizeof(*p));
	p->mode = host_has_mode(MODE32) && rng_one_in(rng, 5) ? MODE32 : MODE64;
	gen_start(rng, p);
	while (p->count < want && p->count < MAX_ITEMS - 8) {
		u32 n = rng_below(rng, 100);

		if (n < 6)
			add_branch(rng, p, ITEM_JCC);
		else if (n < 7)
			add_branch(rng, p, ITEM_JMP);
		else if (n < 10 && p->mode == MODE64 && p->count)
			add_loop(rng, p);
		else if (n < 12)
			add_call(rng, pool, p);
		else if (n < 16)
			add(p, small_count(rng));
		else if (make_plain(rng, pool, p->mode, &it))
			add(p, it);
	}
	keep_out(p);
}

/* Offset of each item, and of the end. */
static void layout(const struct program *p, unsigned off[MAX_ITEMS + 1])
{
	off[0] = 0;
	for (unsigned i = 0; i < p->count; i++)
		off[i + 1] = off[i] + p->item[i].len;
}

static unsigned find_target(const struct program *p, u8 id)
{
	unsigned i = 0;

	while (i < p->count && p->item[i].id < id)
		i++;
	return i;
}

static void place(struct box *b, struct program *p)
{
	unsigned off[MAX_ITEMS + 1];
	u8 code[CODE_ROOM];

	memset(code, 0xcc, sizeof(code));
	layout(p, off);
	for (unsigned i = 0; i < p->count; i++) {
		struct item *it = &p->item[i];
		i32 rel;

		if (it->kind == ITEM_JCC || it->kind == ITEM_JMP ||
		    it->kind == ITEM_LOOP || it->kind == ITEM_CALL) {
			rel = (i32)off[find_target(p, it->target)] - (i32)off[i + 1];
			patch32(it, it->len - 4u, (u32)rel);
		}
		if (it->rip_at)
			patch32(it, it->rip_at,
				(u32)(it->rip_target - (CODE_AT + off[i + 1])));
		memcpy(code + off[i], it->code, it->len);
	}
	box_poke(b, CODE_AT, code, sizeof(code));
}

/* ---- running ---- */

/* The contents of the read-write pages that all runs of a program start from. */
static u8 memory[RW_SIZE];

/* The instruction at which the host ended: what is compared depends on it. */
static void decode_end(struct test *t)
{
	static const u8 int3 = 0xcc;
	u64 lin = t->host.rip;

	if (t->host.vector == VEC_BP || t->host.vector == VEC_DB || lin < ARENA ||
	    lin + 15 > ARENA + CODE_SIZE ||
	    !form_decode(t->mode, (const u8 *)lin, 15, &t->d))
		form_decode(t->mode, &int3, 1, &t->d);
}

static bool differs(struct box *b, struct program *p, struct test *t)
{
	place(b, p);
	box_poke(b, RW_BASE, memory, sizeof(memory));
	t->form = NULL;
	t->own = false;
	t->mode = p->mode;
	t->at = CODE_AT;
	t->start = p->start;
	t->guest = t->host = t->start;
	guest_run(b->guest, &t->guest);
	host_run(&t->host);
	/* Whose last opcode and operand they are differs between models: see
	 * state_normalize(). */
	memcpy(t->guest.xsave + XSAVE_FOP, t->host.xsave + XSAVE_FOP, 2);
	memcpy(t->guest.xsave + XSAVE_FDP, t->host.xsave + XSAVE_FDP, 8);
	decode_end(t);
	test_compare(b, t);
	return t->diff != NULL;
}

static void drop_item(struct program *p, unsigned i)
{
	memmove(&p->item[i], &p->item[i + 1], (p->count - i - 1) * sizeof(p->item[0]));
	p->count--;
}

/* Leave out what is not needed for the difference. */
static void shorten(struct box *b, struct program *p)
{
	static struct test t;
	bool again = true;

	while (again) {
		again = false;
		for (unsigned i = p->count; i-- > 0;) {
			struct program shorter = *p;

			drop_item(&shorter, i);
			/* A call without its return and the like may run wild. */
			if (p->item[i].kind == ITEM_JMP || p->item[i].kind == ITEM_RET)
				continue;
			if (differs(b, &shorter, &t)) {
				*p = shorter;
				again = true;
			}
		}
	}
}

static void list_program(struct box *b, struct program *p, u64 seed, u64 number)
{
	unsigned off[MAX_ITEMS + 1];

	place(b, p);
	layout(p, off);
	printf("\nprogram %llu of seed %llu, %s code:\n", (unsigned long long)number,
	       (unsigned long long)seed, p->mode == MODE64 ? "64-bit" : "32-bit");
	for (unsigned i = 0; i < p->count; i++) {
		const struct item *it = &p->item[i];

		for (unsigned at = 0; at < it->len;) {
			struct decoded d;
			char text[128];

			if (!form_decode(p->mode, it->code + at, it->len - at, &d))
				break;
			disassemble(it->code + at, it->len - at,
				    p->mode == MODE64 ? 8 : 4, CODE_AT + off[i] + at,
				    text, sizeof(text));
			printf("  %llx  %-48s",
			       (unsigned long long)(CODE_AT + off[i] + at), text);
			for (unsigned n = 0; n < d.zi.length; n++)
				printf(" %02x", it->code[at + n]);
			puts("");
			at += d.zi.length;
		}
	}
	fflush(stdout);
}

static void print_program(struct box *b, struct program *p, u64 seed, u64 number)
{
	static struct test t;

	list_program(b, p, seed, number);
	differs(b, p, &t);
	printf("  %s\n", t.diff ? t.diff : "the same");
	state_print(&t.start, NULL, "start");
	state_print(&t.guest, &t.host, "guest");
	state_print(&t.host, &t.guest, "host ");
}

static u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

static int run_all(const struct options *opt)
{
	struct box b = { .guest = guest_open(opt->engine) };
	struct form_list forms = { 0 };
	struct rng rng = { opt->seed };
	struct pool pool = { 0 };
	struct host_cpu cpu;
	struct program p;
	static struct test t;
	u64 end = now_ns() + opt->seconds * UINT64_C(1000000000), n, insns = 0;
	unsigned failures = 0;

	if (!b.guest || !host_open())
		return 77;
	hostcpu_read(&cpu);
	b.features = cpu.features;
	box_fill(&b, &rng);
	forms_find(&forms, cpu.features, guest_features(b.guest), &rng);
	pool_fill(&pool, &forms);
	for (n = opt->first;
	     n - opt->first < opt->programs && now_ns() < end && failures < 5; n++) {
		/* Each program has random numbers of its own, so that it can be had
		 * again. */
		struct rng own = { opt->seed * UINT64_C(0x9e3779b97f4a7c15) + n };

		snprintf(progress->now, sizeof(progress->now),
			 "program %llu of seed %llu", (unsigned long long)n,
			 (unsigned long long)opt->seed);
		rng_fill(&own, memory, sizeof(memory));
		gen_program(&own, &pool, &p);
		insns += p.count;
		progress->tests++;
		if (rng_one_in(&own, 64))
			guest_flush(b.guest);
		if (opt->list)
			list_program(&b, &p, opt->seed, n);
		if (!differs(&b, &p, &t))
			continue;
		failures++;
		/* It may not come again: what the host's kernel did in between. */
		printf("\nfirst seen: %s\n", t.diff);
		state_print(&t.guest, &t.host, "guest");
		state_print(&t.host, &t.guest, "host ");
		shorten(&b, &p);
		print_program(&b, &p, opt->seed, n);
	}
	printf("\n%llu programs, %llu instructions, %u came out differently\n",
	       (unsigned long long)(n - opt->first), (unsigned long long)insns, failures);
	printf("%sok random programs end as on the host\n", failures ? "not " : "");
	form_free(&forms);
	guest_close(b.guest);
	return failures ? 1 : 0;
}

static int usage(void)
{
	fputs("usage: diff [--engine NAME] [--seed N] [--seconds N] [--first N] "
	      "[--programs N]\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct options opt = { .engine = engine_by_name("interp"),
			       .seed = 1,
			       .programs = DEFAULT_PROGRAMS,
			       .seconds = DEFAULT_SECONDS };
	pid_t child;

	for (int i = 1; i < argc; i += 2) {
		const char *arg = argv[i], *val = argv[i + 1];

		if (!strcmp(arg, "--list")) {
			opt.list = true;
			i--;
			continue;
		}
		if (!val)
			return usage();
		if (!strcmp(arg, "--engine"))
			opt.engine = engine_by_name(val);
		else if (!strcmp(arg, "--seed"))
			opt.seed = strtoull(val, NULL, 0);
		else if (!strcmp(arg, "--seconds"))
			opt.seconds = (unsigned)strtoul(val, NULL, 0),
			opt.programs = ~UINT64_C(0);
		else if (!strcmp(arg, "--first"))
			opt.first = strtoull(val, NULL, 0);
		else if (!strcmp(arg, "--programs"))
			opt.programs = strtoull(val, NULL, 0);
		else
			return usage();
	}
	if (!opt.engine)
		return usage();
	progress = progress_new();
	if (!progress)
		return 77;
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* In a child, so that a program that hangs or kills it can be named. */
	child = fork();
	if (child < 0)
		return 77;
	if (child == 0)
		exit(run_all(&opt));
	return progress_watch(progress, child);
}
