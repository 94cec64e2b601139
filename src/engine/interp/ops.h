/* The functions that execute instructions, declared from ops.def. */
#pragma once

#include "engine/interp/interp.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wredundant-decls"
#define FN(mnemonic, name)   op_fn op_##name;
#define BIND(mnemonic, name) bind_fn bind_##name;
#include "engine/interp/ops.def"
#undef FN
#undef BIND
#pragma GCC diagnostic pop

/* MOV to and from CRn and DRn: forms of MOV, but system instructions. */
op_fn op_mov_from_cr, op_mov_to_cr, op_mov_from_dr, op_mov_to_dr;
