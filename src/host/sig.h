/*
 * Faults of the host CPU in code made at run time: SIGSEGV, SIGBUS, SIGFPE, SIGILL.
 *
 * Who runs such code registers its address range; a fault with RIP in it is given to that
 * handler, which may change registers (RIP above all) and so continue elsewhere.
 * Other faults go to whoever handled the signal before, or kill the process as always.
 */
#pragma once

#include "base/error.h"
#include "base/types.h"

/* The general registers, RIP and RFLAGS may be changed. */
struct sig_regs {
	u64 gpr[16]; /* in encoding order: RAX, RCX, RDX, RBX, RSP ... */
	u64 rip, rflags;
	int sig;       /* SIGSEGV ... */
	unsigned trap; /* the exception's vector */
	u64 error;     /* its error code */
	u64 addr;      /* for #PF, the address */
};

/*
 * In signal context on the faulting thread: only async-signal-safe calls. True: handled,
 * continue with the registers in *r. False: not expected here.
 */
typedef bool sig_fn(void *opaque, struct sig_regs *r);

/*
 * Any thread. The range [start, start + len) must not overlap another. Returns a number
 * for sig_remove(), or -errno.
 */
int sig_add(const void *start, size_t len, sig_fn *fn, void *opaque, struct error *err);
/* Nobody executes in the range any more. */
void sig_remove(int id);
