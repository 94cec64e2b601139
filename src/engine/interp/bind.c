/*
 * From mnemonic to function: ops.def as a table.
 * Not built with -mgeneral-regs-only's rules in mind only because it includes Zydis'
 * enum; it runs while blocks are decoded.
 */
#include <Zydis/Mnemonic.h>

#include "engine/interp/ops.h"

struct binding {
	op_fn *fn;
	bind_fn *bind;
};

static const struct binding bindings[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define FN(mnemonic, name)   [ZYDIS_MNEMONIC_##mnemonic] = { .fn = op_##name },
#define BIND(mnemonic, name) [ZYDIS_MNEMONIC_##mnemonic] = { .bind = bind_##name },
#include "engine/interp/ops.def"
#undef FN
#undef BIND
};

op_fn *bind_insn(const struct insn *in)
{
	const struct binding *b;

	/* MOVSD and CMPSD are also SSE instructions: those have a 0F escape and a ModRM
	 * byte. */
	if (in->mnemonic >= ARRAY_SIZE(bindings) ||
	    ((in->flags & INSN_VEX) && in->mnemonic != ZYDIS_MNEMONIC_VLDMXCSR))
		return NULL;
	if ((in->mnemonic == ZYDIS_MNEMONIC_MOVSD && in->opcode != 0xa5) ||
	    (in->mnemonic == ZYDIS_MNEMONIC_CMPSD && in->opcode != 0xa7))
		return NULL;
	b = &bindings[in->mnemonic];
	return b->bind ? b->bind(in) : b->fn;
}
