/*
 * Random programs on two engines: sequences of all instruction forms with branches
 * between them, in one block and many, compared at each exception and at the end.
 *
 *   lockstep ENGINE [--bits 64|32|16] [--against NAME] [--seed N] [--programs N]
 * [--verbose]
 *
 * Where tests/insn tries each form by itself, here instructions follow each other: what a
 * translator keeps from one to the next is what is tested. RBX, R10 (EBP in 32-bit code)
 * and RSI place operands in memory and stay as they are. Of 32-bit programs some have
 * segments that are not flat; 16-bit ones have any, some of which end among the data, and
 * operands at the end of 64 KiB. An instruction that faults is stepped over.
 * Each program runs three times, with other registers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines.h"
#include "form.h"
#include "guest.h"
#include "x86/decode.h"

#define MAX_INSNS        28
#define RUNS             3
#define DEFAULT_PROGRAMS 1500
/* Memory operands reach 128 bytes, or 8 KiB when the displacement is scaled, to either
 * side. */
#define BASE_RBX         (RW_BASE + 0x3000)
#define BASE_R10         (RW_BASE + 0x2fc0)

struct program {
	u8 code[16 * MAX_INSNS * 2];
	unsigned len;
	unsigned at[2 * MAX_INSNS], count; /* where instructions start */
	u64 lin;
};

struct both {
	struct guest *g[2];
	const char *name[2];
	struct form_list forms;
	struct rng rng;
	bool verbose;
	enum mode mode;
	unsigned faults, insns, differences;
};

/* The other base. */
static unsigned second_base(const struct both *b)
{
	return b->mode == MODE64 ? R10 : RBP;
}

/* What is added to an offset in the data segment: those of 16-bit programs begin at DATA.
 */
static u64 data_base(const struct both *b)
{
	return b->mode == MODE16 ? DATA : 0;
}

/* ---- making programs ---- */

static bool may_write(const struct both *b, ZydisRegister r)
{
	ZydisRegister full =
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);

	return full != ZYDIS_REGISTER_RBX && full != ZYDIS_REGISTER_RSI &&
	       full != ZYDIS_REGISTER_RSP &&
	       full != (b->mode == MODE64 ? ZYDIS_REGISTER_R10 : ZYDIS_REGISTER_RBP);
}

/* Moves the stack pointer by a slot, as it says itself. */
static bool moves_stack(const struct both *b, const struct decoded *d,
			const ZydisDecodedOperand *o)
{
	if (b->mode == MODE64 || o->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
		return false;
	return (d->zi.meta.category == ZYDIS_CATEGORY_PUSH ||
		d->zi.meta.category == ZYDIS_CATEGORY_POP) &&
	       d->zi.mnemonic != ZYDIS_MNEMONIC_POPA &&
	       d->zi.mnemonic != ZYDIS_MNEMONIC_POPAD;
}

static bool usable(const struct both *b, const struct decoded *d)
{
	switch (d->zi.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
	case ZYDIS_CATEGORY_INTERRUPT:
	case ZYDIS_CATEGORY_SYSCALL: return false;
	default: break;
	}
	/* Single-stepping is for other tests; and random numbers are random. */
	if (d->zi.mnemonic == ZYDIS_MNEMONIC_POPFQ ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_POPF ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_POPFD ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_RDRAND ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_RDSEED ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_INT3 ||
	    d->zi.mnemonic == ZYDIS_MNEMONIC_INT1)
		return false;
	for (unsigned i = 0; i < d->zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &d->op[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    !may_write(b, o->reg.value) && !moves_stack(b, d, o))
			return false;
	}
	return form_class_of(guest_features(b->g[0]), d) == FORM_USER;
}

static void put32(u8 *at, u32 val)
{
	memcpy(at, &val, 4);
}

/* Of 16-bit addresses: [bx + disp], [bp + si + disp] and so on; at times at 64 KiB. */
static void place16(struct rng *rng, struct enc *e)
{
	static const u8 rms[] = { 0, 2, 4, 6, 7 };
	u8 reg = e->tail[0] & 0x38, rm = rms[rng_below(rng, sizeof(rms))];
	u8 disp = (u8)rng64(rng);

	if (rng_below(rng, 4))
		disp &= 0xf0;
	if (rng_one_in(rng, 8)) {
		u32 at = (u32)(BASE_RBX - DATA) + disp;

		e->tail[0] = reg | 6; /* [disp16] */
		if (rng_one_in(rng, 4))
			at = 0xfff0 | (disp & 15);
		e->tail[1] = (u8)at;
		e->tail[2] = (u8)(at >> 8);
	} else if (rng_one_in(rng, 8)) {
		/* Its sum with the base wraps. */
		e->tail[0] = 0x80 | reg | rm;
		e->tail[1] = disp;
		e->tail[2] = (u8)(rng_one_in(rng, 2) ? 0xff : 0xb0 + rng_below(rng, 16));
	} else {
		e->tail[0] = 0x40 | reg | rm;
		e->tail[1] = disp;
	}
}

/* A memory operand near one of the bases: [base + disp8], or with RSI as index. In 32-bit
 * code also [address]. */
static void place(const struct both *b, struct rng *rng, struct enc *e)
{
	u8 reg = e->tail[0] & 0x38, disp = (u8)rng64(rng);
	bool second = rng64(rng) & 1;
	u8 base = second ? second_base(b) & 7 : RBX;

	if (b->mode == MODE16 && rng_below(rng, 5)) {
		place16(rng, e);
		return;
	}
	if (b->mode == MODE16 && e->prefixes < sizeof(e->prefix))
		e->prefix[e->prefixes++] = 0x67;
	if (rng_below(rng, 4))
		disp &= 0xf0;
	e->b = second && b->mode == MODE64;
	e->x = 0;
	if (b->mode == MODE32 && rng_one_in(rng, 8)) {
		e->tail[0] = reg | 5;
		put32(e->tail + 1, (u32)BASE_RBX + disp);
	} else if (rng_below(rng, 3)) {
		e->tail[0] = (u8)(0x40 | reg | base);
		e->tail[1] = disp;
	} else {
		e->tail[0] = 0x44 | reg;
		e->tail[1] = (u8)((rng64(rng) & 0xc0) | 6 << 3 | base);
		e->tail[2] = disp;
	}
}

static void vary(const struct both *b, struct rng *rng, struct enc *e)
{
	static const u8 segs[] = { 0x64, 0x65, 0x2e, 0x3e, 0x26, 0x36 };
	unsigned some = b->mode == MODE16 ? 6 : 4;
	bool mem = e->tail[0] < 0xc0;

	rng_fill(rng, e->tail + 1, sizeof(e->tail) - 1);
	e->r = (rng64(rng) & 1) && b->mode == MODE64;
	e->b = (rng64(rng) & 1) && (b->mode == MODE64 || e->kind != ENC_LEGACY);
	if (e->kind == ENC_LEGACY) {
		e->rex = rng_one_in(rng, 4) && b->mode == MODE64;
		if (e->prefixes < sizeof(e->prefix) && rng_one_in(rng, 12))
			e->prefix[e->prefixes++] = segs[rng_below(rng, some)];
	} else {
		e->vvvv = rng_below(rng, 3) ? (u8)rng_below(rng, 16) : 0;
		e->r2 = rng64(rng) & 1;
		e->v2 = rng64(rng) & 1;
		e->x = (rng64(rng) & 1) && b->mode == MODE64;
		e->aaa = (u8)(rng_below(rng, 3) ? rng_below(rng, 8) : 0);
		e->z = rng64(rng) & 1;
		e->vex2 = rng64(rng) & 1;
	}
	if (rng64(rng) & 1)
		e->tail[0] = (u8)((e->tail[0] & 0xc7) | (rng64(rng) & 0x38));
	if (b->mode != MODE64 && e->kind == ENC_LEGACY && !e->map &&
	    (e->opcode & 0xfc) == 0xa0)
		put32(e->tail, (u32)(BASE_RBX - data_base(b)) + rng_below(rng, 64));
	else if (mem)
		place(b, rng, e);
	else
		e->tail[0] = (u8)(0xc0 | (e->tail[0] & 0x38) | (rng64(rng) & 7));
}

/* Put prefixes in front that may mean nothing, or not come where they should. */
static unsigned add_prefixes(struct rng *rng, u8 *bytes, unsigned len)
{
	static const u8 some[] = { 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x3e, 0x26, 0x36,
				   0x64, 0x65, 0x40, 0x48, 0x41, 0x44, 0x4f, 0x4d };
	unsigned n = 1 + rng_below(rng, 4);

	if (len + n > 15)
		return len;
	memmove(bytes + n, bytes, len);
	for (unsigned i = 0; i < n; i++)
		bytes[i] = some[rng_below(rng, ARRAY_SIZE(some))];
	return len + n;
}

/* Bytes of an instruction of the form or near it, 0: none was found. */
static unsigned make_insn(struct both *b, const struct form *f, u8 *out)
{
	for (unsigned tries = 0; tries < 12; tries++) {
		struct enc e =
			f->sample[rng_below(&b->rng, MIN(f->seen, (u32)FORM_SAMPLES))];
		struct decoded d;
		u8 bytes[48];

		if (tries < 11)
			vary(b, &b->rng, &e);
		if (!form_decode(b->mode, bytes, enc_bytes(&e, bytes), &d) ||
		    form_key(&d) + b->mode != f->key)
			continue;
		if (rng_one_in(&b->rng, 6)) {
			unsigned len = add_prefixes(&b->rng, bytes, d.zi.length);

			if (!form_decode(b->mode, bytes, len, &d) || d.zi.length != len)
				continue;
		}
		if (!usable(b, &d))
			continue;
		memcpy(out, bytes, d.zi.length);
		return d.zi.length;
	}
	return 0;
}

static void append(struct program *p, const u8 *bytes, unsigned len)
{
	p->at[p->count++] = p->len;
	memcpy(p->code + p->len, bytes, len);
	p->len += len;
}

static void make_program(struct both *b, struct program *p)
{
	unsigned want = 4 + rng_below(&b->rng, MAX_INSNS - 4);

	p->len = p->count = 0;
	while (want) {
		const struct form *f = &b->forms.form[rng_below(&b->rng, b->forms.count)];
		u8 bytes[16];
		unsigned n = f->seen ? make_insn(b, f, bytes) : 0;

		if (!n)
			continue;
		/* A branch over the next one, of either length. */
		if (rng_one_in(&b->rng, 5)) {
			u8 cond = (u8)rng_below(&b->rng, 16);

			if (rng64(&b->rng) & 1)
				append(p, (u8[]){ 0x70 | cond, (u8)n }, 2);
			else if (b->mode == MODE16)
				append(p, (u8[]){ 0x0f, 0x80 | cond, (u8)n, 0 }, 4);
			else
				append(p, (u8[]){ 0x0f, 0x80 | cond, (u8)n, 0, 0, 0 }, 6);
		}
		append(p, bytes, n);
		want--;
	}
	append(p, (const u8[]){ 0xcc }, 1);
	/* Anywhere in the code pages, often at their ends. */
	p->lin = ARENA + rng_below(&b->rng, (u32)CODE_SIZE - p->len - 1);
	if (rng_one_in(&b->rng, 3))
		p->lin = ARENA + PAGE_SIZE * (1 + rng_below(&b->rng, 14)) -
			 rng_below(&b->rng, p->len);
}

/* ---- running them ---- */

static void print_program(const struct both *b, const struct program *p)
{
	for (unsigned i = 0; i < p->count; i++) {
		char text[128];
		unsigned end = i + 1 < p->count ? p->at[i + 1] : p->len;

		disassemble(p->code + p->at[i], end - p->at[i],
			    b->mode == MODE64   ? 8
			    : b->mode == MODE32 ? 4
						: 2,
			    p->lin + p->at[i], text, sizeof(text));
		printf("  %llx: %-40s", (unsigned long long)(p->lin + p->at[i]), text);
		for (unsigned n = p->at[i]; n < end; n++)
			printf(" %02x", p->code[n]);
		printf("\n");
	}
}

static bool same_memory(struct both *b)
{
	const u8 *m[2] = { guest_mem(b->g[0], RW_BASE), guest_mem(b->g[1], RW_BASE) };

	if (!memcmp(m[0], m[1], RW_SIZE))
		return true;
	for (u32 i = 0; i < RW_SIZE; i++)
		if (m[0][i] != m[1][i]) {
			printf("memory at %llx: %s %02x, %s %02x\n",
			       (unsigned long long)RW_BASE + i, b->name[0], m[0][i],
			       b->name[1], m[1][i]);
			break;
		}
	memcpy(guest_mem(b->g[1], RW_BASE), m[0], RW_SIZE);
	return false;
}

static void differ(struct both *b, const struct program *p, const char *what, u64 from,
		   struct state *s)
{
	b->differences++;
	if (b->differences > 8 && !b->verbose)
		return;
	printf("from %llx: %s: %s\n", (unsigned long long)from, b->name[1], what);
	print_program(b, p);
	state_print(&s[0], &s[1], b->name[0]);
	state_print(&s[1], &s[0], b->name[1]);
}

/* The start of the instruction behind the one at this address, 0: there is none. */
static u64 behind(const struct program *p, u64 base, u64 rip)
{
	for (unsigned i = 0; i + 1 < p->count; i++)
		if (p->lin + p->at[i] == rip + base)
			return p->lin + p->at[i + 1] - base;
	return 0;
}

static void run_program(struct both *b, const struct program *p,
			const struct state *start)
{
	static struct state s[2], shown[2];
	const char *what;

	s[0] = *start;
	for (unsigned n = 0; n <= p->count; n++) {
		u64 from = s[0].rip, next;

		s[1] = s[0];
		guest_run(b->g[0], &s[0]);
		guest_run(b->g[1], &s[1]);
		shown[0] = s[0];
		shown[1] = s[1];
		state_normalize(&shown[0], MODE64);
		state_normalize(&shown[1], MODE64);
		what = state_difference(&shown[1], &shown[0]);
		if (!what && !same_memory(b))
			what = "memory";
		if (what) {
			differ(b, p, what, from, shown);
			return;
		}
		if (s[0].vector == VEC_BP)
			return;
		b->faults++;
		next = behind(p, sel_base(s[0].sel[CS]), s[0].rip);
		if (!next)
			return;
		s[0].rip = next;
		s[0].gpr[RBX] = start->gpr[RBX];
		s[0].gpr[second_base(b)] = start->gpr[second_base(b)];
		s[0].gpr[RSI] = start->gpr[RSI];
	}
}

/* Mostly flat with bases in FS and GS; or anything. Upper halves of registers may be
 * anything, as after 64-bit code. */
static void gen_segments(struct both *b, struct state *s, const struct program *p)
{
	static const u16 some[] = { SEL_DS,        SEL_DS,     SEL_LDT_DS32, SEL_LDT_DOWN,
				    SEL_LDT_SHORT, SEL_LDT_RO, SEL_LDT_DS16, 0 };

	s->sel[CS] = SEL_CS32;
	if (rng_one_in(&b->rng, 4)) {
		s->sel[CS] = SEL_LDT_CS32;
		s->rip = p->lin - ARENA;
	}
	for (unsigned i = 0; i < 6; i++)
		if (i != CS)
			s->sel[i] = SEL_DS;
	s->tls = rng_below(&b->rng, 3) != 0;
	for (unsigned i = FS; i <= GS && !s->tls; i++)
		s->sel[i] = some[rng_below(&b->rng, ARRAY_SIZE(some))];
	if (rng_one_in(&b->rng, 6)) {
		s->sel[DS] = some[rng_below(&b->rng, ARRAY_SIZE(some))];
		s->sel[ES] = some[rng_below(&b->rng, ARRAY_SIZE(some))];
	}
	for (unsigned i = 0; i < 8; i++)
		if (!rng_one_in(&b->rng, 4))
			s->gpr[i] = (u32)s->gpr[i];
	for (unsigned i = RBX; i <= RSI; i++)
		if (rng_one_in(&b->rng, 8))
			s->gpr[i] |= BIT(32 + rng_below(&b->rng, 32));
}

/* Segments of 64 KiB, or anything; registers with anything in what 16-bit code does not
 * use of them. */
static void gen_segments16(struct both *b, struct state *s, const struct program *p)
{
	static const u16 some[] = { SEL_DS,        SEL_LDT_DS16,
				    SEL_LDT_DS32,  SEL_LDT_DOWN,
				    SEL_LDT_SHORT, SEL_LDT_RO,
				    SEL_LDT_DS16,  0 };

	s->sel[CS] = SEL_LDT_CS16;
	s->rip = p->lin - ARENA;
	for (unsigned i = 0; i < 6; i++)
		if (i != CS)
			s->sel[i] = SEL_LDT_DS16;
	for (unsigned i = DS; i <= GS; i++)
		if (rng_one_in(&b->rng, 4))
			s->sel[i] = some[rng_below(&b->rng, ARRAY_SIZE(some))];
	if (rng_one_in(&b->rng, 4))
		s->sel[ES] = some[rng_below(&b->rng, ARRAY_SIZE(some))];
	s->gpr[RBX] -= DATA;
	s->gpr[RBP] -= DATA;
	s->gpr[RDI] -= DATA;
	s->gpr[RSP] -= DATA;
	if (rng_one_in(&b->rng, 4))
		s->gpr[RSP] = rng_below(&b->rng, 8);
	for (unsigned i = 0; i < 8; i++)
		if (rng_one_in(&b->rng, 4))
			s->gpr[i] |= rng64(&b->rng) << 16;
}

static void gen_start(struct both *b, struct state *s, const struct program *p)
{
	memset(s, 0, sizeof(*s));
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = rng64(&b->rng) >> rng_below(&b->rng, 64);
	s->gpr[RBX] = BASE_RBX;
	s->gpr[second_base(b)] = BASE_R10;
	/* Where writing faults; where the page ends. */
	if (rng_one_in(&b->rng, 4))
		s->gpr[second_base(b)] = RO_BASE + 0x7c0;
	if (rng_one_in(&b->rng, 4))
		s->gpr[RBX] = RW_END - 0x40;
	s->fs_base = 0x40;
	s->gs_base = (u64)-0x80;
	s->gpr[RSI] = 8 * rng_below(&b->rng, 32);
	s->gpr[RSP] = RW_END - 0x100;
	/* For string instructions. */
	s->gpr[RDI] = BASE_RBX + 0x800;
	s->gpr[RCX] &= 0xff;
	s->rip = p->lin;
	s->flags = (rng64(&b->rng) & RFLAGS_STATUS) | RFLAGS_1 | RFLAGS_IF;
	s->sel[CS] = SEL_CS64;
	s->sel[SS] = SEL_DS;
	if (b->mode == MODE32)
		gen_segments(b, s, p);
	if (b->mode == MODE16)
		gen_segments16(b, s, p);
	/* All vector state, masks among it, at random; x87 as after FNINIT, or with
	 * values in its registers and errors that are not masked. */
	rng_fill(&b->rng, s->xsave + XSAVE_XMM, STATE_XSAVE - XSAVE_XMM);
	memset(s->xsave + XSAVE_LEGACY_SIZE - 96, 0, 96 + 64);
	s->xsave[XSAVE_FCW] = 0x7f;
	s->xsave[XSAVE_FCW + 1] = 3;
	if (rng64(&b->rng) & 1) {
		s->xsave[XSAVE_FTW] = (u8)rng64(&b->rng);
		s->xsave[XSAVE_FSW + 1] = (u8)(rng64(&b->rng) & 0x38);
		for (unsigned i = 0; i < 8; i++)
			rng_fill(&b->rng, s->xsave + XSAVE_ST + 16 * i, 10);
		if (rng_one_in(&b->rng, 3))
			s->xsave[XSAVE_FCW] = (u8)(0x40 | (rng64(&b->rng) & 0x3f));
	}
	s->xsave[XSAVE_MXCSR] = 0x80;
	s->xsave[XSAVE_MXCSR + 1] = rng_one_in(&b->rng, 8) ? 0x1d : 0x1f;
	*(u64 *)(void *)(s->xsave + XSAVE_XSTATE_BV) = STATE_XCR0;
}

static void try_program(struct both *b)
{
	struct program p;
	struct state s;

	make_program(b, &p);
	for (unsigned i = 0; i < 2; i++) {
		memcpy(guest_mem(b->g[i], p.lin), p.code, p.len);
		guest_code_changed(b->g[i], p.lin, p.len);
	}
	for (unsigned i = 0; i < RUNS; i++) {
		rng_fill(&b->rng, guest_mem(b->g[0], RW_BASE), RW_SIZE);
		memcpy(guest_mem(b->g[1], RW_BASE), guest_mem(b->g[0], RW_BASE), RW_SIZE);
		gen_start(b, &s, &p);
		run_program(b, &p, &s);
	}
	b->insns += p.count;
}

static int usage(void)
{
	fputs("usage: lockstep ENGINE [--bits 64|32|16] [--against NAME] [--seed N] "
	      "[--programs N] [--verbose]\n",
	      stderr);
	return 2;
}

static enum mode mode_of_bits(const char *bits)
{
	return !strcmp(bits, "32") ? MODE32 : !strcmp(bits, "16") ? MODE16 : MODE64;
}

int main(int argc, char **argv)
{
	const struct engine *e, *against = &engine_interp;
	struct both b = { .rng = { 1 } };
	unsigned programs = DEFAULT_PROGRAMS;

	e = argc > 1 ? engine_by_name(argv[1]) : NULL;
	for (int i = 2; i < argc && e; i++) {
		if (!strcmp(argv[i], "--verbose")) {
			b.verbose = true;
			continue;
		}
		if (i + 1 == argc)
			return usage();
		if (!strcmp(argv[i], "--bits"))
			b.mode = mode_of_bits(argv[++i]);
		else if (!strcmp(argv[i], "--against"))
			against = engine_by_name(argv[++i]);
		else if (!strcmp(argv[i], "--seed"))
			b.rng.s = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--programs"))
			programs = (unsigned)strtoul(argv[++i], NULL, 0);
		else
			return usage();
	}
	if (!e || !against)
		return usage();
	setvbuf(stdout, NULL, _IOLBF, 0);
	b.g[0] = guest_open(against);
	b.g[1] = guest_open(e);
	if (!b.g[0] || !b.g[1])
		return 77;
	b.name[0] = against->name;
	b.name[1] = e->name;
	form_walk(&b.forms, b.mode, &b.rng);
	for (unsigned i = 0; i < programs; i++)
		try_program(&b);
	printf("# %u programs, %u instructions, %u faults, %u differences\n", programs,
	       b.insns, b.faults, b.differences);
	printf("%sok random programs of %u bits end alike on %s and %s\n",
	       b.differences ? "not " : "",
	       b.mode == MODE64   ? 64
	       : b.mode == MODE32 ? 32
				  : 16,
	       b.name[0], b.name[1]);
	form_free(&b.forms);
	guest_close(b.g[0]);
	guest_close(b.g[1]);
	return b.differences ? 1 : 0;
}
