/*
 * User-mode code executed by the host CPU, from a given register state to the next
 * exception.
 *
 * The way in is a signal frame of our making (rt_sigreturn loads all of it at once:
 * general registers, flags, CS and SS, the XSAVE area), the way out the frame of the
 * signal that ends it. So any instruction can be tested, also those that leave no
 * register to save with.
 *
 * One thread; signals are the process's. SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP are
 * taken over by host_open(), which comes after everybody else who wants them.
 */
#pragma once

#include "state.h"

/* False, with the reason on stdout, when this host cannot do it. */
bool host_open(void);
/* Can code of this mode be executed? 64-bit always, others if the kernel has LDT and
 * IA-32. */
bool host_has_mode(enum mode mode);
/* Bits of XCR0 that signal frames hold. */
u64 host_frame_xcr0(void);
/* Run from *s until an exception; *s is then the state at the exception. */
void host_run(struct state *s);
