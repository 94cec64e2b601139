/*
 * Executing a test on both sides, and what is compared.
 * Exceptions from "everything must be equal" are here, each with its reason.
 */
#include <stdio.h>
#include <string.h>

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
		r = (unsigned)(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64,
								o->reg.value) -
			       ZYDIS_REGISTER_RAX);
		if (o->size == 16)
			t->guest.gpr[r] = (t->guest.gpr[r] & ~0xffffull) | (t->host.gpr[r] & 0xffff);
		else
			t->guest.gpr[r] = t->host.gpr[r];
	}
}

static void compare_memory(struct box *b, struct test *t)
{
	const u8 *h = (const u8 *)RW_BASE, *g = guest_mem(b->guest, RW_BASE);

	t->memory = false;
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
	int n = snprintf(t->text, sizeof(t->text), "memory at %llx: ",
			 (unsigned long long)(RW_BASE + t->mem_at));

	for (unsigned i = 0; i < 16; i++)
		n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, "%02x", t->mem_guest[i]);
	n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, ", host ");
	for (unsigned i = 0; i < 16; i++)
		n += snprintf(t->text + n, sizeof(t->text) - (size_t)n, "%02x", t->mem_host[i]);
}

/*
 * Operands of several parts, or with elements left out by a mask: which part faults first, and so the
 * address reported, is up to the processor. The page is compared.
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
		return true;
	default:
		return t->d.zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
		       t->d.zi.raw.evex.aaa;
	}
}

void test_run(struct box *b, struct test *t)
{
	const char *d;

	t->guest = t->host = t->start;
	guest_run(b->guest, &t->guest);
	host_run(&t->host);
	compare_memory(b, t);
	state_normalize(&t->guest, t->mode);
	state_normalize(&t->host, t->mode);
	if (many_parts(t)) {
		t->guest.cr2 &= PAGE_MASK;
		t->host.cr2 &= PAGE_MASK;
	}
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
	printf("\n  form %s\n  %s\n", t->form ? t->form->name : "", t->diff ? t->diff : "the same");
	state_print(&start, NULL, "start");
	state_print(&t->guest, &t->host, "guest");
	state_print(&t->host, &t->guest, "host ");
}
