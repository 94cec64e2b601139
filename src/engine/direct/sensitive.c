/*
 * Finding sensitive instructions in a page of code.
 *
 * CPUID, LAR, LSL, SGDT, SIDT, SMSW, SYSENTER, RDPID, XGETBV, RDPKRU, WRPKRU, VMCALL and
 * VMMCALL do not trap in user mode, or not to us; INT 80h does, but the host's kernel
 * loses the upper half of RAX; and INT 4, a trap that looks like a fault. SLDT, STR, VERR
 * and VERW are not looked for: the bytes 0F 00 are everywhere in code, what they tell is
 * next to nothing, and hosts with UMIP do not let them through. RDTSC, RDTSCP and RDPMC
 * trap, and WRFSBASE and WRGSBASE do what they should, but not on all hosts (trial.c).
 * XSAVE and its kind are sensitive unless it shows that they are for components that are
 * the guest's: of PKRU and, where the guest has no AMX, of its tiles they would save the
 * host's, beyond the end of what the guest knows. LDTILECFG, STTILECFG and TILERELEASE do
 * not trap as the other instructions of AMX do (XFD, SDM vol. 1, 13.14).
 * What is written where it may be executed already, through this page or another one, is
 * not looked at before the page is mapped again.
 *
 * Thread: the owner of the vCPU; vector state is parked.
 */
#include "engine/direct/sensitive.h"

#include <Zydis/Zydis.h>
#include <string.h>

#include "mem/phys.h"
#include "x86/walk.h"

/* Bytes before a find that decoding starts at: different ones, as one may be off the
 * beat. */
static const u8 run_up[] = { 48, 41, 35, 31 };
/* The same for where EAX is from. */
static const u8 mask_run_up[] = { 120, 113, 107, 103 };
/* And three of an instruction that ends in the page. */
#define RUN_UP 123
/* Behind the page, for an instruction that begins in it. */
#define REST   15
#define SIZE   (RUN_UP + PAGE_SIZE + REST)
/* So many are made functions of; more are too many. */
#define FINDS  64
/* Where compilers and assemblers begin functions. */
#define ALIGN  16

/* XSAVE, XRSTOR, XSAVEOPT, XSAVEC; with a prefix it may be another one. */
static bool xsave_like(u8 opcode, u8 modrm)
{
	unsigned reg = modrm >> 3 & 7;

	return modrm < 0xc0 &&
	       (opcode == 0xae ? reg >= 4 && reg <= 6 : opcode == 0xc7 && reg == 4);
}

/* LDTILECFG, STTILECFG and TILERELEASE: VEX.128.0F38.W0 49h, without a prefix or 66. */
static bool tile_config(const u8 *o)
{
	return (o[1] & 0x1f) == 2 && (o[2] == 0x78 || o[2] == 0x79) && o[3] == 0x49;
}

static bool group7(u8 modrm)
{
	unsigned reg = modrm >> 3 & 7;

	if (modrm < 0xc0)
		return reg == 0 || reg == 1 || reg == 4;
	/* VMCALL and its like, those of SVM, SMSW; XGETBV; RDPKRU, WRPKRU. */
	return reg == 0 || reg == 3 || reg == 4 || modrm == 0xd0 || modrm == 0xee ||
	       modrm == 0xef;
}

/* The two bytes behind 0F. */
static bool looks_so(u8 opcode, u8 modrm, const struct direct_host *host)
{
	switch (opcode) {
	case 0x31: return !host->tsc_traps;
	case 0x33: return !host->pmc_traps;
	case 0xae:
		return modrm < 0xc0 ? xsave_like(opcode, modrm)
				    : modrm >= 0xd0 && modrm < 0xe0 && !host->bases_kept;
	case 0xa2:
	case 0x02:
	case 0x03:
	case 0x34: return true;
	case 0x01: return group7(modrm) || (modrm == 0xf9 && !host->tsc_traps);
	case 0xc7: return modrm >= 0xf8 || xsave_like(opcode, modrm);
	default: return false;
	}
}

static bool decode_at(const ZydisDecoder *d, const u8 *bytes, unsigned at, unsigned len,
		      ZydisDecodedInstruction *zi)
{
	ZydisDecoderContext ctx;

	return at < len && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, &ctx, bytes + at,
								      len - at, zi));
}

/* Decoding from 'from', does an instruction have its opcode at 'at'? Where it begins,
 * with its prefixes, goes to *start. */
static bool begins(const ZydisDecoder *d, const u8 *bytes, unsigned from, unsigned at,
		   unsigned len, unsigned *start)
{
	while (from <= at) {
		ZydisDecodedInstruction zi;

		if (!decode_at(d, bytes, from, len, &zi)) {
			from++;
			continue;
		}
		if (from + zi.raw.prefix_count == at) {
			*start = from;
			return true;
		}
		from += zi.length;
	}
	return false;
}

static bool is_instruction(const ZydisDecoder *d, const u8 *bytes, unsigned at,
			   unsigned *start)
{
	unsigned votes = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(run_up); i++)
		votes += begins(d, bytes, at - run_up[i], at, SIZE, start);
	return 2 * votes >= ARRAY_SIZE(run_up);
}

/* What cannot be read is NOPs. It may not have been executed yet, nor be mapped:
 * whichever of two pages is executed last finds what is in both. */
static void read_near(struct vcpu *v, gva_t lin, u8 *buf, unsigned len)
{
	const u8 *host = NULL;
	gpa_t gpa;

	memset(buf, 0x90, len);
	if (walk_peek(v, lin, &gpa))
		host = phys_host(v->phys, gpa, len, false);
	if (host)
		memcpy(buf, host, len);
}

static bool is_branch(const ZydisDecodedInstruction *zi)
{
	return zi->raw.imm[0].is_relative;
}

/* Nothing falls through it. */
static bool ends_flow(const ZydisDecodedInstruction *zi)
{
	return zi->mnemonic == ZYDIS_MNEMONIC_JMP || zi->mnemonic == ZYDIS_MNEMONIC_UD2 ||
	       zi->mnemonic == ZYDIS_MNEMONIC_HLT ||
	       zi->meta.category == ZYDIS_CATEGORY_RET;
}

/* Whether EAX is known to select the guest's components alone, after this one. */
static bool selects(bool before, const ZydisDecodedInstruction *zi,
		    const ZydisDecodedOperand *op)
{
	bool known = before && !ends_flow(zi) &&
		     zi->meta.category != ZYDIS_CATEGORY_CALL &&
		     zi->meta.category != ZYDIS_CATEGORY_SYSCALL &&
		     zi->meta.category != ZYDIS_CATEGORY_INTERRUPT;

	for (unsigned i = 0; i < zi->operand_count; i++)
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
						     op[i].reg.value) ==
			    ZYDIS_REGISTER_RAX)
			known = i == 0 && op[0].size >= 32 &&
				zi->mnemonic == ZYDIS_MNEMONIC_MOV &&
				op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
				!(op[1].imm.value.u & XCR0_APART);
	return known;
}

/* Does a branch before 'start' lead to between 'to' and there? */
static bool entered(const ZydisDecoder *d, const u8 *copy, unsigned from, unsigned to,
		    unsigned start)
{
	while (from < start) {
		ZydisDecodedInstruction zi;
		i64 target;

		if (!decode_at(d, copy, from, start, &zi)) {
			from++;
			continue;
		}
		from += zi.length;
		target = from + zi.raw.imm[0].value.s;
		if (is_branch(&zi) && target >= to && target <= start)
			return true;
	}
	return false;
}

/* Decoding from 'from', is it known at 'start'? *there: that is come to. */
static bool selects_from(const ZydisDecoder *d, const u8 *copy, unsigned from,
			 unsigned start, bool *there)
{
	unsigned begin = from, since = start;
	bool known = false;

	while (from < start) {
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction zi;

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, copy + from, start - from, &zi,
							op))) {
			bool was = known;

			known = selects(known, &zi, op);
			from += zi.length;
			if (known && !was)
				since = from;
		} else {
			known = false;
			from++;
		}
	}
	*there = from == start;
	return known && !entered(d, copy, begin, since, start);
}

/* Is what XSAVE and its kind at 'start' save or load the guest's alone? */
static bool masked(const ZydisDecoder *d, const u8 *copy, unsigned start)
{
	bool any = false;

	for (unsigned i = 0; i < ARRAY_SIZE(mask_run_up); i++) {
		bool there, known = selects_from(d, copy, start - mask_run_up[i], start,
						 &there);

		if (there && !known)
			return false;
		any |= there;
	}
	return any;
}

/* Is it of another instruction with this opcode: what these prefixes select? */
static bool selected(const u8 *copy, unsigned start, unsigned at)
{
	for (; start < at; start++)
		if (copy[start] == 0x66 || copy[start] == 0xf2 || copy[start] == 0xf3)
			return true;
	return false;
}

/* Is the opcode of an instruction at 'at', and where does that begin? */
static bool sensitive_at(const ZydisDecoder *d, const u8 *copy, unsigned at,
			 const struct direct_host *host, unsigned *start)
{
	const u8 *o = copy + at;

	*start = at;
	switch (o[0]) {
	case 0xc4:
		if (!tile_config(o))
			return false;
		break;
	case 0xcd:
		if (o[1] != 0x80 && o[1] != 4)
			return false;
		break;
	default:
		if (!looks_so(o[1], o[2], host))
			return false;
	}
	if (!is_instruction(d, copy, at, start))
		return false;
	if (o[0] != 0x0f)
		return true;
	if (xsave_like(o[1], o[2]))
		return !selected(copy, *start, at) && !masked(d, copy, *start);
	/* RDPID, WRFSBASE and WRGSBASE have F3; RDSEED and others have not. */
	return (o[1] != 0xc7 && o[1] != 0xae) || memchr(copy + *start, 0xf3, at - *start);
}

/* ---- functions ---- */

/* Nothing goes on behind it. */
static bool stops(const u8 *copy, unsigned end)
{
	return copy[end - 1] == 0xc3 || (copy[end - 2] == 0x0f && copy[end - 1] == 0x0b);
}

static bool is_endbr64(const u8 *at)
{
	static const u8 endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };

	return !memcmp(at, endbr64, sizeof(endbr64));
}

/* Does a function begin there: with ENDBR64, or behind what stops and NOPs? */
static bool function_begins(const ZydisDecoder *d, const u8 *copy, unsigned at)
{
	if (is_endbr64(copy + at))
		return true;
	for (unsigned from = at; from > at - ALIGN; from--) {
		unsigned p = from;
		ZydisDecodedInstruction zi;

		while (p < at && decode_at(d, copy, p, at, &zi) &&
		       (zi.mnemonic == ZYDIS_MNEMONIC_NOP ||
			zi.mnemonic == ZYDIS_MNEMONIC_INT3))
			p += zi.length;
		if (p == at && stops(copy, from))
			return true;
	}
	return false;
}

/* The last place up to 'at', or the first behind it, where a function begins; 0: it is in
 * another page. */
static unsigned function_start(const ZydisDecoder *d, const u8 *copy, unsigned at)
{
	for (at -= (at - RUN_UP) % ALIGN; at >= RUN_UP; at -= ALIGN)
		if (function_begins(d, copy, at))
			return at;
	return 0;
}

static unsigned function_end(const ZydisDecoder *d, const u8 *copy, unsigned at)
{
	for (at += ALIGN - (at - RUN_UP) % ALIGN; at < RUN_UP + PAGE_SIZE; at += ALIGN)
		if (function_begins(d, copy, at))
			return at;
	return 0;
}

/* Code that can be come to from its beginning, by its own branches. */
struct flow {
	unsigned at, end;
	bool reached[PAGE_SIZE];
	/* Of that, what has not been looked at. */
	u16 todo[PAGE_SIZE];
	unsigned todos;
};

static void reach(struct flow *f, i64 to)
{
	if (to < f->at || to >= f->end || f->reached[to - RUN_UP])
		return;
	f->reached[to - RUN_UP] = true;
	f->todo[f->todos++] = (u16)to;
}

/* False: it calls something, which would return into it, or begins twice. */
static bool follow(struct flow *f, const ZydisDecoder *d, const u8 *copy)
{
	memset(f->reached, 0, sizeof(f->reached));
	f->todos = 0;
	reach(f, f->at);
	while (f->todos) {
		unsigned i = f->todo[--f->todos];
		ZydisDecodedInstruction zi;
		i64 next;

		if (!decode_at(d, copy, i, SIZE, &zi))
			continue;
		if (zi.meta.category == ZYDIS_CATEGORY_CALL ||
		    (i > f->at && is_endbr64(copy + i)))
			return false;
		next = i + zi.length;
		if (!ends_flow(&zi))
			reach(f, next);
		if (is_branch(&zi))
			reach(f, next + zi.raw.imm[0].value.s);
	}
	return true;
}

/* Does no branch of the page lead into it but to its beginning? */
static bool closed(const struct flow *f, const ZydisDecoder *d, const u8 *copy)
{
	unsigned from = RUN_UP;

	while (from < RUN_UP + PAGE_SIZE) {
		ZydisDecodedInstruction zi;
		bool inside = from >= f->at && from < f->end;
		i64 to;

		if (!decode_at(d, copy, from, SIZE, &zi)) {
			from++;
			continue;
		}
		from += zi.length;
		to = from + zi.raw.imm[0].value.s;
		if (!inside && is_branch(&zi) && to > f->at && to < f->end)
			return false;
	}
	return true;
}

/*
 * The functions that these are in: how many, or more than 'max' if that cannot be. What
 * is not come to from the beginning of one is in another, wherever that begins.
 */
static unsigned functions_of(const ZydisDecoder *d, const u8 *copy, gva_t lin,
			     const unsigned *find, unsigned finds, struct sensitive *s,
			     unsigned max)
{
	struct flow f;
	unsigned n = 0;

	f.end = 0;
	for (unsigned i = 0; i < finds; i++) {
		if (find[i] >= f.end) {
			f.at = find[i] < RUN_UP ? 0 : function_start(d, copy, find[i]);
			f.end = f.at ? function_end(d, copy, find[i]) : 0;
			if (!f.end || n == max || !follow(&f, d, copy) ||
			    !closed(&f, d, copy))
				return max + 1;
			s[n++] = (struct sensitive){ lin + f.at - RUN_UP,
						     lin + f.end - RUN_UP };
		}
		if (!f.reached[find[i] - RUN_UP])
			return max + 1;
	}
	return n;
}

/* ---- pages ---- */

/* In the order of their addresses; no more than FINDS. */
static unsigned find_all(const ZydisDecoder *d, const u8 *copy,
			 const struct direct_host *host, unsigned *find)
{
	/* And how many bytes may be in the page before. */
	static const struct {
		u8 byte, before;
	} first[] = { { 0x0f, 2 }, { 0xcd, 2 }, { 0xc4, 3 } };
	const u8 *end = copy + RUN_UP + PAGE_SIZE;
	unsigned n = 0, start;

	for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
		for (const u8 *p = copy + RUN_UP - first[i].before;
		     n < FINDS && (p = memchr(p, first[i].byte, (size_t)(end - p)));
		     p++) {
			unsigned k = n;

			if (!sensitive_at(d, copy, (unsigned)(p - copy), host, &start))
				continue;
			for (n++; k && find[k - 1] > start; k--)
				find[k] = find[k - 1];
			find[k] = start;
		}
	}
	return n;
}

unsigned sensitive_find(struct vcpu *v, gva_t lin, const u8 *bytes,
			const struct direct_host *host, struct sensitive *s, unsigned max)
{
	unsigned find[FINDS], n;
	u8 copy[SIZE];
	ZydisDecoder d;

	/* The guest may write there meanwhile. */
	memcpy(copy + RUN_UP, bytes, PAGE_SIZE);
	read_near(v, lin - RUN_UP, copy, RUN_UP);
	read_near(v, lin + PAGE_SIZE, copy + RUN_UP + PAGE_SIZE, REST);
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	n = find_all(&d, copy, host, find);
	if (n == FINDS)
		return n;
	if (n > max)
		return functions_of(&d, copy, lin, find, n, s, max);
	/* A breakpoint is where it begins. */
	for (unsigned i = 0; i < n; i++)
		s[i].at = s[i].end = lin + find[i] - RUN_UP;
	return n;
}
