/*
 * The other side: the same user-mode code executed by an engine, in a machine that has
 * just a kernel of one HLT per exception vector.
 *
 * The guest is in long mode at CPL 3, with the arena at the same linear addresses; its
 * kernel is in the upper half. Descriptor tables look like those of a Linux process.
 */
#pragma once

#include "cpu/engine.h"
#include "state.h"

struct guest;

/* NULL, with the reason on stdout, when the engine does not work here. */
struct guest *guest_open(const struct engine *engine);
void guest_close(struct guest *g);
/* What the guest's CPU has. */
const u32 *guest_features(const struct guest *g);
/* Run from *s until an exception; *s is then the state at the exception. */
void guest_run(struct guest *g, struct state *s);
/* The arena as the guest has it: host address of a linear address. */
u8 *guest_mem(const struct guest *g, u64 lin);
/* Code was written through guest_mem(). */
void guest_code_changed(struct guest *g, u64 lin, u64 len);
/* Forget cached translations, so that the next access walks. */
void guest_flush(struct guest *g);
