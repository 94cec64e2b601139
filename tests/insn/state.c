/*
 * Register states of the instruction tests: comparing and printing.
 * SDM volume 1 section 13.4 (XSAVE area). No state; single-threaded.
 */
#include "state.h"

#include <stdio.h>
#include <string.h>

#include "../hostarea.h"

/* clang-format off */
const struct ldt_entry ldt_entries[SEL_LDT_COUNT] = {
	[SEL_LDT_CS16 >> 3]  = { ARENA, 0xffff, 2, false, false, false },
	[SEL_LDT_DS16 >> 3]  = { DATA, 0xffff, 0, false, false, false },
	[SEL_LDT_DS32 >> 3]  = { DATA, 0xfffff, 0, true, false, false },
	[SEL_LDT_CS32 >> 3]  = { ARENA, 0xffff, 2, true, false, false },
	[SEL_LDT_DOWN >> 3]  = { DATA, 0x2fff, 1, true, false, false },
	[SEL_LDT_SHORT >> 3] = { DATA, 0x3fff, 0, true, false, false },
	[SEL_LDT_RO >> 3]    = { DATA, 0xffff, 0, true, true, false },
	[SEL_LDT_NP >> 3]    = { DATA, 0xffff, 0, true, false, true },
};
/* clang-format on */

u64 sel_base(u16 sel)
{
	return (sel & 4) && sel >> 3 < SEL_LDT_COUNT ? ldt_entries[sel >> 3].base : 0;
}

static u64 get64(const u8 *p)
{
	u64 v;

	memcpy(&v, p, 8);
	return v;
}

void state_normalize(struct state *s, enum mode mode)
{
	u64 bv = get64(s->xsave + XSAVE_XSTATE_BV);

	if (!(bv & XCR0_X87)) {
		memset(s->xsave, 0, 24);
		s->xsave[0] = 0x7f;
		s->xsave[1] = 3;
		memset(s->xsave + XSAVE_ST, 0, 128);
	}
	if (!(bv & XCR0_SSE))
		memset(s->xsave + XSAVE_XMM, 0, 256);
	for (unsigned i = 2; i < 8; i++)
		if (xcomp_layout[i].size && !(bv & BIT(i)))
			memset(s->xsave + xcomp_layout[i].offset, 0,
			       xcomp_layout[i].size);
	memset(s->xsave + XSAVE_MXCSR_MASK, 0, 4);
	/* The tag byte's neighbour is reserved, so are the upper bits of FOP. */
	s->xsave[XSAVE_FTW + 1] = 0;
	s->xsave[XSAVE_FOP + 1] &= 7;
	for (unsigned i = 0; i < 8; i++)
		memset(s->xsave + XSAVE_ST + i * 16 + 10, 0, 6);
	/*
	 * SDM 1 section 8.1.8, APM 3 FXSAVE: the model of processor decides whether the
	 * opcode and the operand's address (CPUID: FDP_EXCPTN_ONLY), with AMD also that
	 * of the instruction, are those of the last instruction or of the last with an
	 * unmasked exception.
	 */
	if (!(s->xsave[XSAVE_FSW] & 0x80)) {
		memset(s->xsave + XSAVE_FOP, 0, 2);
		memset(s->xsave + XSAVE_FDP, 0, 8);
		if (host_is_amd())
			memset(s->xsave + XSAVE_FIP, 0, 8);
	}
	memset(s->xsave + 416, 0, 160); /* unused bytes and header */
	memset(s->xsave + STATE_XSAVE, 0, sizeof(s->xsave) - STATE_XSAVE);
	if (mode != MODE64) {
		/* SDM 1 section 3.4.1.1: upper halves are undefined outside 64-bit mode.
		 */
		for (unsigned i = 0; i < 16; i++)
			s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
		s->fs_base = s->gs_base = 0;
	}
	/* IRET to an outer level, which is how the host's kernel comes back, clears null
	 * selectors. */
	for (unsigned i = 0; i < 6; i++)
		if (s->sel[i] < 4)
			s->sel[i] = 0;
	/* RF is the delivery's, not the instruction's. */
	s->flags &= ~(u64)RFLAGS_RF;
	if (s->vector != VEC_PF)
		s->cr2 = 0;
	/* Linux says "present" of all kernel addresses, to hide which are. */
	if (s->vector == VEC_PF && s->cr2 >= (UINT64_C(1) << 47) - 0x1000)
		s->error |= PF_P;
}

static const char *const gpr_names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
					 "rsi", "rdi", "r8",  "r9",  "r10", "r11",
					 "r12", "r13", "r14", "r15" };
static const char *const sreg_names[] = { "es", "cs", "ss", "ds", "fs", "gs" };

/* What byte 'off' of the XSAVE area belongs to. */
static void xsave_name(unsigned off, char *buf, size_t size)
{
	static const struct {
		u16 start, each;
		const char *name;
	} parts[] = {
		{ XSAVE_HI16_ZMM, 64, "zmm16+" }, { XSAVE_ZMM_HI256, 32, "zmm_hi256." },
		{ XSAVE_OPMASK, 8, "k" },         { XSAVE_YMM, 16, "ymm_hi." },
		{ XSAVE_XMM, 16, "xmm" },         { XSAVE_ST, 16, "st" },
		{ XSAVE_MXCSR, 4, "mxcsr" },      { XSAVE_FDP, 8, "fdp" },
		{ XSAVE_FIP, 8, "fip" },          { XSAVE_FOP, 2, "fop" },
		{ XSAVE_FTW, 2, "ftw" },          { XSAVE_FSW, 2, "fsw" },
		{ XSAVE_FCW, 2, "fcw" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
		if (off >= parts[i].start) {
			snprintf(buf, size, "%s%u", parts[i].name,
				 (off - parts[i].start) / parts[i].each);
			return;
		}
	}
}

static unsigned xsave_part(unsigned off)
{
	return off < 8                                        ? 2
	       : off < 24                                     ? 8
	       : off < 32                                     ? 4
	       : off >= XSAVE_OPMASK && off < XSAVE_ZMM_HI256 ? 8
							      : 16;
}

const char *state_difference(const struct state *g, const struct state *h)
{
	static char text[200];
	char name[24] = "";

	if (g->vector != h->vector) {
		snprintf(text, sizeof(text), "vector %u, host %u", g->vector, h->vector);
		return text;
	}
	if (g->error != h->error || g->cr2 != h->cr2) {
		snprintf(text, sizeof(text),
			 "fault %u error %x cr2 %llx, host error %x cr2 %llx", g->vector,
			 g->error, (unsigned long long)g->cr2, h->error,
			 (unsigned long long)h->cr2);
		return text;
	}
#define DIFF(field, nm, ...)                                                             \
	if (g->field != h->field) {                                                      \
		snprintf(text, sizeof(text), nm " %llx, host %llx" __VA_ARGS__,          \
			 (unsigned long long)g->field, (unsigned long long)h->field);    \
		return text;                                                             \
	}
	for (unsigned i = 0; i < 16; i++) {
		if (g->gpr[i] != h->gpr[i]) {
			snprintf(text, sizeof(text), "%s %llx, host %llx", gpr_names[i],
				 (unsigned long long)g->gpr[i],
				 (unsigned long long)h->gpr[i]);
			return text;
		}
	}
	DIFF(rip, "rip")
	DIFF(flags, "flags")
	for (unsigned i = 0; i < 6; i++) {
		if (g->sel[i] != h->sel[i]) {
			snprintf(text, sizeof(text), "%s %x, host %x", sreg_names[i],
				 g->sel[i], h->sel[i]);
			return text;
		}
	}
	DIFF(fs_base, "fs_base")
	DIFF(gs_base, "gs_base")
#undef DIFF
	for (unsigned i = 0; i < STATE_XSAVE; i++) {
		unsigned n = xsave_part(i), at = i & ~(n - 1);
		int len;

		if (g->xsave[i] == h->xsave[i])
			continue;
		xsave_name(i, name, sizeof(name));
		len = snprintf(text, sizeof(text), "%s ", name);
		for (unsigned b = n; b-- > 0;)
			len += snprintf(text + len, sizeof(text) - (size_t)len, "%02x",
					g->xsave[at + b]);
		len += snprintf(text + len, sizeof(text) - (size_t)len, ", host ");
		for (unsigned b = n; b-- > 0;)
			len += snprintf(text + len, sizeof(text) - (size_t)len, "%02x",
					h->xsave[at + b]);
		return text;
	}
	return NULL;
}

void state_print(const struct state *s, const struct state *other, const char *name)
{
	printf("  %s: rip %llx flags %llx vector %u error %x cr2 %llx fs %llx gs %llx\n",
	       name, (unsigned long long)s->rip, (unsigned long long)s->flags, s->vector,
	       s->error, (unsigned long long)s->cr2, (unsigned long long)s->fs_base,
	       (unsigned long long)s->gs_base);
	for (unsigned i = 0; i < 16; i++)
		printf("%s%3s%s%016llx", i % 4 ? "  " : "    ", gpr_names[i],
		       other && s->gpr[i] != other->gpr[i] ? "*" : " ",
		       (unsigned long long)s->gpr[i]),
			i % 4 == 3 ? puts("") : 0;
	printf("   ");
	for (unsigned i = 0; i < 6; i++)
		printf(" %s %x", sreg_names[i], s->sel[i]);
	printf("  fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x xstate_bv %02x\n",
	       s->xsave[1], s->xsave[0], s->xsave[3], s->xsave[2], s->xsave[4],
	       s->xsave[XSAVE_MXCSR + 1], s->xsave[XSAVE_MXCSR],
	       s->xsave[XSAVE_XSTATE_BV]);
	for (unsigned at = 0; other && at < STATE_XSAVE; at += 16) {
		char part[24] = "";

		if (!memcmp(s->xsave + at, other->xsave + at, 16))
			continue;
		xsave_name(at, part, sizeof(part));
		printf("    %-12s ", part);
		for (unsigned b = 16; b-- > 0;)
			printf("%02x", s->xsave[at + b]);
		puts("");
	}
}
