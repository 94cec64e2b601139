/*
 * Finding sensitive instructions in a page of code.
 *
 * CPUID, LAR, LSL, SGDT, SIDT, SMSW, SYSENTER, RDPID, XGETBV, RDPKRU, WRPKRU, VMCALL and
 * VMMCALL do not trap in user mode, or not to us; INT 80h does, but the host's kernel
 * loses the upper half of RAX; and INT 4, a trap that looks like a fault. SLDT, STR, VERR
 * and VERW are not looked for: the bytes 0F 00 are everywhere in code, what they tell is
 * next to nothing, and hosts with UMIP do not let them through. RDTSC, RDTSCP and RDPMC
 * trap.
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
/* And two of an instruction that ends in the page. */
#define RUN_UP 50
/* Behind the page, for an instruction that begins in it. */
#define REST   15

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
static bool looks_so(u8 opcode, u8 modrm)
{
	switch (opcode) {
	case 0xa2:
	case 0x02:
	case 0x03:
	case 0x34: return true;
	case 0x01: return group7(modrm);
	case 0xc7: return modrm >= 0xf8;
	default: return false;
	}
}

/* Decoding from 'from', does an instruction have its opcode at 'at'? Where it begins,
 * with its prefixes, goes to *start. */
static bool begins(const ZydisDecoder *d, const u8 *bytes, unsigned from, unsigned at,
		   unsigned len, unsigned *start)
{
	while (from <= at) {
		ZydisDecoderContext ctx;
		ZydisDecodedInstruction zi;

		if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(d, &ctx, bytes + from,
							      len - from, &zi))) {
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

static bool is_instruction(const u8 *bytes, unsigned at, unsigned len, unsigned *start)
{
	unsigned votes = 0;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(run_up); i++)
		votes += begins(&d, bytes, at - run_up[i], at, len, start);
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

/* Is the opcode of an instruction at 'at', and where does that begin? */
static bool sensitive_at(const u8 *copy, unsigned at, unsigned *start)
{
	const u8 *o = copy + at;

	*start = at;
	if (o[0] == 0xcd ? o[1] != 0x80 && o[1] != 4 : !looks_so(o[1], o[2]))
		return false;
	return is_instruction(copy, at, RUN_UP + PAGE_SIZE + REST, start);
}

unsigned sensitive_find(struct vcpu *v, gva_t lin, const u8 *bytes, gva_t *at,
			unsigned max)
{
	static const u8 first[] = { 0x0f, 0xcd };
	u8 copy[RUN_UP + PAGE_SIZE + REST];
	const u8 *end = copy + RUN_UP + PAGE_SIZE;
	unsigned n = 0, start;

	/* The guest may write there meanwhile. */
	memcpy(copy + RUN_UP, bytes, PAGE_SIZE);
	read_near(v, lin - RUN_UP, copy, RUN_UP);
	read_near(v, lin + PAGE_SIZE, copy + RUN_UP + PAGE_SIZE, REST);
	for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
		for (const u8 *p = copy + RUN_UP - 2;
		     (p = memchr(p, first[i], (size_t)(end - p))); p++) {
			if (!sensitive_at(copy, (unsigned)(p - copy), &start))
				continue;
			/* A breakpoint is where it begins. */
			if (n < max)
				at[n] = lin + start - RUN_UP;
			n++;
		}
	}
	return n;
}
