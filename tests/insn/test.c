/*
 * Executing a test on both sides, and what is compared.
 * Exceptions from "everything must be equal" are here, each with its reason.
 */
#include <stdio.h>
#include <string.h>

#include "../hostarea.h"
#include "gen.h"
#include "host.h"
#include "mem/phys.h"
#include "x86/decode.h"

/* Results that are the machine's own: time, identity, random numbers. */
static void copy_own_results(struct test *t)
{
	for (unsigned i = 0; i < t->d.zi.operand_count; i++) {
		const ZydisDecodedOperand *o = &t->d.op[i];
		unsigned r;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		if (o->reg.value < ZYDIS_REGISTER_AL || o->reg.value > ZYDIS_REGISTER_R15)
			continue;
		r = (unsigned)(ZydisRegisterGetLargestEnclosing(
				       ZYDIS_MACHINE_MODE_LONG_64, o->reg.value) -
			       ZYDIS_REGISTER_RAX);
		if (o->size == 16)
			t->guest.gpr[r] = (t->guest.gpr[r] & ~0xffffull) |
					  (t->host.gpr[r] & 0xffff);
		else
			t->guest.gpr[r] = t->host.gpr[r];
	}
}

static bool saves_image(const struct test *t)
{
	switch (t->d.zi.meta.category) {
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT: return true;
	default:
		return t->d.zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
		       t->d.zi.mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
	}
}

/* AMD's CPUs have bit 17 in the MXCSR_MASK of an image, misaligned SSE mode, which guests
 * are not offered. */
static void image_mask(const struct test *t, const u8 *h, u8 *g)
{
	if (!saves_image(t) || !(host_mxcsr_mask() & BIT(17)))
		return;
	for (unsigned i = (XSAVE_MXCSR_MASK + 2) & 15; i < RW_SIZE; i += 16) {
		if (h[i] == 2 && !g[i]) {
			g[i] = h[i];
			break;
		}
	}
}

static void compare_memory(struct box *b, struct test *t)
{
	const u8 *h = (const u8 *)RW_BASE;
	u8 *g = guest_mem(b->guest, RW_BASE);

	t->memory = false;
	image_mask(t, h, g);
	if (!memcmp(h, g, RW_SIZE))
		return;
	t->memory = true;
	for (t->mem_at = 0; h[t->mem_at] == g[t->mem_at]; t->mem_at++)
		;
	t->mem_at = MIN(t->mem_at, RW_SIZE - 16);
	memcpy(t->mem_host, h + t->mem_at, 16);
	memcpy(t->mem_guest, g + t->mem_at, 16);
	memcpy(guest_mem(b->guest, RW_BASE), h, RW_SIZE);
}

static void describe_memory(struct test *t)
{
	int n = snprintf(t->text, sizeof(t->text),
			 "memory at %llx: ", (unsigned long long)(RW_BASE + t->mem_at));

	for (unsigned i = 0; i < 16; i++)
		n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, "%02x",
			      t->mem_guest[i]);
	n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, ", host ");
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, "%02x",
			      t->mem_host[i]);
}

/*
 * Operands of several parts, or with elements left out by a mask: which part faults
 * first, and so the address reported, is up to the processor. The page is compared.
 */
static bool many_parts(const struct test *t)
{
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
	case ZYDIS_MNEMONIC_ENTER:
	case ZYDIS_MNEMONIC_FBSTP: return true;
	case ZYDIS_MNEMONIC_FSTP: return t->d.op[0].size == 80;
	case ZYDIS_MNEMONIC_CALL:
		return t->d.zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	case ZYDIS_MNEMONIC_RET: return t->d.zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
	default:
		return t->d.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
		       t->d.zi.raw.evex.aaa;
	}
}

/*
 * String instructions with 32-bit addresses in 64-bit mode: registers are zero-extended
 * when they change. Whether also when nothing was done, because the count is 0 or the
 * first element faults, is up to the processor.
 */
static void string_registers(struct test *t)
{
	static const u8 regs[] = { RCX, RSI, RDI };

	if (t->mode != MODE64 || t->d.zi.address_width != 32 ||
	    t->d.zi.meta.category != ZYDIS_CATEGORY_STRINGOP)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
		u64 was = t->start.gpr[regs[i]], *g = &t->guest.gpr[regs[i]];

		if (*g == was && t->host.gpr[regs[i]] == (u32)was)
			*g = (u32)was;
	}
}

static u8 *vector_part(struct state *s, unsigned reg, unsigned at)
{
	if (reg >= 16)
		return s->xsave + XSAVE_HI16_ZMM + (reg - 16) * 64 + at;
	if (at < 16)
		return s->xsave + XSAVE_XMM + reg * 16 + at;
	if (at < 32)
		return s->xsave + XSAVE_YMM + reg * 16 + at - 16;
	return s->xsave + XSAVE_ZMM_HI256 + reg * 32 + at - 32;
}

/* Do not compare 8 bytes of a vector register. */
static void test_ignore_vector(struct test *t, unsigned reg, unsigned at)
{
	memcpy(vector_part(&t->guest, reg, at), vector_part(&t->host, reg, at), 8);
}

/* A faulting MMX store has entered MMX mode (TOP 0, all tags valid), half of it, or not.
 */
static void mmx_store_top(struct test *t)
{
	if (t->host.vector == VEC_BP || t->d.zi.operand_count_visible < 2 ||
	    t->d.op[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    ZydisRegisterGetClass(t->d.op[1].reg.value) != ZYDIS_REGCLASS_MMX)
		return;
	if (t->host.xsave[XSAVE_FSW + 1] & 0x38)
		return;
	/* The image has the registers in stack order. */
	t->guest.xsave[XSAVE_FSW + 1] &= (u8)~0x38;
	if (t->host.xsave[XSAVE_FTW] == 0xff)
		t->guest.xsave[XSAVE_FTW] = 0xff;
	memcpy(t->guest.xsave + XSAVE_ST, t->host.xsave + XSAVE_ST, 128);
}

/* What a gather loads: half of its destination when there are fewer indexes than
 * elements. */
static unsigned gather_bytes(const struct test *t)
{
	const ZydisDecodedOperand *mem =
		&t->d.op[t->d.op[1].type == ZYDIS_OPERAND_TYPE_MEMORY ? 1 : 2];
	unsigned index =
		ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, mem->mem.index) / 8;

	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD: return index / 2;
	default: return t->d.op[0].size / 8;
	}
}

/*
 * A gather that faults: what becomes of the bits above its own length, of the destination
 * and of a mask in a vector register, differs from one instruction to the next even on
 * one processor.
 */
static void gather_upper(struct test *t)
{
	const ZydisDecodedOperand *dst = &t->d.op[0], *mask = &t->d.op[2];

	if (t->host.vector == VEC_BP || t->d.op[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
		mask = &t->d.op[1];
	if (t->host.vector == VEC_BP || t->d.zi.meta.category == ZYDIS_CATEGORY_SCATTER)
		return;
	if (t->d.zi.meta.category != ZYDIS_CATEGORY_GATHER &&
	    t->d.zi.meta.category != ZYDIS_CATEGORY_AVX2GATHER)
		return;
	for (unsigned at = 8; at < 64; at += 8) {
		if (at >= gather_bytes(t))
			test_ignore_vector(
				t, (unsigned)ZydisRegisterGetId(dst->reg.value), at);
		if (at >= gather_bytes(t) &&
		    t->d.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
			test_ignore_vector(
				t, (unsigned)ZydisRegisterGetId(mask->reg.value), at);
	}
}

/* POPA that faults has loaded some registers or none. */
static void popa_registers(struct test *t)
{
	if (t->host.vector == VEC_BP || t->host.vector == VEC_DB ||
	    (t->d.zi.mnemonic != ZYDIS_MNEMONIC_POPA &&
	     t->d.zi.mnemonic != ZYDIS_MNEMONIC_POPAD))
		return;
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP && t->guest.gpr[i] == t->start.gpr[i])
			t->guest.gpr[i] = t->host.gpr[i];
}

/* RETF imm16 on a 16-bit stack: whether the addition carries into the upper half of ESP.
 */
static void retf_carry(struct test *t)
{
	if (t->d.zi.mnemonic == ZYDIS_MNEMONIC_RET && t->d.zi.opcode == 0xca &&
	    t->start.sel[SS] == SEL_LDT_DS16)
		t->guest.gpr[RSP] = (t->guest.gpr[RSP] & 0xffff) |
				    (t->host.gpr[RSP] & ~UINT64_C(0xffff));
}

static bool end_of_lower_half(const struct state *s)
{
	return s->vector == VEC_PF && s->cr2 >> 12 == (UINT64_C(1) << 35) - 1;
}

static bool memory_fault(const struct state *s)
{
	return s->vector == VEC_PF || s->vector == VEC_GP || s->vector == VEC_SS ||
	       s->vector == VEC_NP || s->vector == VEC_AC;
}

/* Both fault, for parts or reasons that no manual puts in an order. */
static bool same_in_effect(const struct test *t)
{
	const struct state *a = &t->guest, *b = &t->host;

	if (!memory_fault(a) || !memory_fault(b))
		return false;
	/* Not canonical, or not present, or not aligned. */
	if (t->edge || end_of_lower_half(a) || end_of_lower_half(b))
		return true;
	switch (t->d.zi.mnemonic) {
	/* The rest of the frame or image, or what is wrong with the first part. */
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64: return true;
	/* Alignment, or the segment's rights, or a later part's page. */
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		if (a->vector != b->vector)
			return true;
		return (a->cr2 >> 12) - (b->cr2 >> 12) + 1 <= 2;
	/* Frames of outer levels are read between the stores. */
	case ZYDIS_MNEMONIC_ENTER: return true;
	/* Of two pages that are both not there. */
	default:
		return a->vector == b->vector && (a->cr2 >> 12) - (b->cr2 >> 12) + 1 <= 2;
	}
}

/*
 * Outside 64-bit mode the registers that only 64-bit mode has are not in an XSAVE area,
 * but processors check the segment's limit for all of it.
 */
static bool beyond_limit(const struct test *t)
{
	if (t->mode == MODE64 || t->guest.vector == t->host.vector ||
	    (t->host.vector != VEC_GP && t->host.vector != VEC_SS))
		return false;
	switch (t->d.zi.meta.category) {
	case ZYDIS_CATEGORY_XSAVE:
	case ZYDIS_CATEGORY_XSAVEOPT: return true;
	default: return false;
	}
}

/* On a host that is a guest of KVM on AMD, INT1 reports its own address. */
static void int1_address(struct test *t)
{
	if (host_is_amd() && t->d.zi.mnemonic == ZYDIS_MNEMONIC_INT1 &&
	    t->guest.vector == VEC_DB && t->host.rip == t->start.rip)
		t->guest.rip = t->host.rip;
}

/*
 * Outside 64-bit mode AMD's CPUs copy 64 bits: of RSP, whose upper half is the kernel's
 * on a stack of the LDT (gen.c, far_selector()).
 */
static void kmov_from_esp(struct test *t)
{
	u8 *k;

	if (!host_is_amd() || t->mode == MODE64 ||
	    t->d.zi.mnemonic != ZYDIS_MNEMONIC_KMOVD ||
	    t->d.op[1].type != ZYDIS_OPERAND_TYPE_REGISTER ||
	    t->d.op[1].reg.value != ZYDIS_REGISTER_ESP)
		return;
	k = t->guest.xsave + XSAVE_OPMASK + 8 * ZydisRegisterGetId(t->d.op[0].reg.value) +
	    4;
	memcpy(k, t->host.xsave + (k - t->guest.xsave), 4);
}

/* CMPS, neither of whose operands can be read: Intel's processors and AMD's Zen 5 find
 * out about DS:SI first, Zen 4 about ES:DI. */
static void cmps_order(struct test *t)
{
	struct state *g = &t->guest, *h = &t->host;

	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ: break;
	default: return;
	}
	if (!host_is_amd() || !memory_fault(g) || !memory_fault(h))
		return;
	g->vector = h->vector;
	g->error = h->error;
	g->cr2 = h->cr2;
}

/* Whether what VCOMPRESS and its relatives store has to be aligned under EFLAGS.AC: on
 * Zen 5, not on Zen 4. */
static void compress_alignment(struct test *t)
{
	if (!host_is_amd() || t->d.zi.meta.category != ZYDIS_CATEGORY_COMPRESS ||
	    t->guest.vector != VEC_AC || t->host.vector != VEC_BP)
		return;
	t->guest = t->host;
	t->memory = false;
}

/* XRSTOR that faults has loaded some components or none: SDM 1 section 13.8. */
static void xrstor_state(struct test *t)
{
	if (t->host.vector != VEC_BP && t->host.vector != VEC_DB &&
	    (t->d.zi.mnemonic == ZYDIS_MNEMONIC_XRSTOR ||
	     t->d.zi.mnemonic == ZYDIS_MNEMONIC_XRSTOR64))
		memcpy(t->guest.xsave, t->host.xsave, sizeof(t->guest.xsave));
}

void test_run(struct box *b, struct test *t)
{
	t->guest = t->host = t->start;
	guest_run(b->guest, &t->guest);
	host_run(&t->host);
	test_compare(b, t);
}

void test_compare(struct box *b, struct test *t)
{
	const char *d;

	compare_memory(b, t);
	state_normalize(&t->guest, t->mode);
	state_normalize(&t->host, t->mode);
	/* The parts that were written before the fault are up to the processor as well.
	 */
	if (many_parts(t) && t->host.vector != VEC_BP && t->host.vector != VEC_DB)
		t->memory = false;
	if ((many_parts(t) || t->edge) && same_in_effect(t)) {
		t->guest.vector = t->host.vector;
		t->guest.error = t->host.error;
		t->guest.cr2 = t->host.cr2;
	}
	if (beyond_limit(t)) {
		t->guest = t->host;
		t->memory = false;
	}
	if (many_parts(t)) {
		t->guest.cr2 &= PAGE_MASK;
		t->host.cr2 &= PAGE_MASK;
	}
	string_registers(t);
	mmx_store_top(t);
	gather_upper(t);
	popa_registers(t);
	retf_carry(t);
	xrstor_state(t);
	int1_address(t);
	cmps_order(t);
	compress_alignment(t);
	kmov_from_esp(t);
	if (t->own && t->guest.vector == t->host.vector)
		copy_own_results(t);
	t->diff = NULL;
	d = state_difference(&t->guest, &t->host);
	if (d) {
		snprintf(t->text, sizeof(t->text), "%s", d);
		t->diff = t->text;
	} else if (t->memory) {
		describe_memory(t);
		t->diff = t->text;
	}
}

void test_print(const struct test *t)
{
	static const char *const modes[] = { "64-bit", "32-bit", "16-bit" };
	static const unsigned size[] = { 8, 4, 2 };
	struct state start = t->start;
	char text[128];

	disassemble(t->code, t->len, size[t->mode], t->start.rip, text, sizeof(text));
	printf("%s at %llx: %s   ", modes[t->mode], (unsigned long long)t->at, text);
	for (unsigned i = 0; i < t->len; i++)
		printf(" %02x", t->code[i]);
	printf("\n  form %s\n  %s\n", t->form ? t->form->name : "",
	       t->diff ? t->diff : "the same");
	state_print(&start, NULL, "start");
	state_print(&t->guest, &t->host, "guest");
	state_print(&t->host, &t->guest, "host ");
}
