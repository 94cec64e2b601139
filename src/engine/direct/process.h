/*
 * The process that guest user code runs in: its own address space, with nothing in it but
 * what shadow.c maps and the mapper (mapper.S). It makes no system call, and is stopped
 * at every trap.
 *
 * Thread: the one that made it, which traces it; process_kick() any thread.
 */
#pragma once

#include <sched.h>

#include "base/error.h"
#include "engine/direct/direct.h"
#include "engine/direct/mapper.h"

struct phys;

/* As PTRACE_SETREGS has them: struct user_regs_struct, whose header is not for us. */
struct process_regs {
	u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
	u64 orig_rax; /* of a system call; -1: it is none */
	u64 rip, cs, rflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* How many instruction breakpoints a processor has. */
#define PROCESS_BREAKS 4

struct process {
	int pid, tid; /* of the mapper, and of the guest's thread; 0: gone */
	int memfd;
	u8 *view; /* of the shared memory */
	u64 base; /* where it is in the process */
	u64 dr7;
	int cpu;                 /* of the host, where it runs; -1: anywhere */
	struct direct_host host; /* process_trial() */
};

/* A thread that stays on its CPU for a while. */
struct stay {
	cpu_set_t may; /* where it may run otherwise */
	bool can, stays;
};

/* Why guest code stopped. */
struct process_stop {
	int sig;       /* SIGSEGV, SIGTRAP ...; 0: a system call */
	bool by_cpu;   /* the signal is an exception without an address */
	u64 addr;      /* SIGSEGV, SIGBUS: of the access */
	bool stepped;  /* SIGTRAP: of single-step */
	bool at_break; /* SIGTRAP: before an instruction with a breakpoint */
};

/* Linear addresses that can be mapped there: from LO up to and without HI. */
#define PROCESS_LO UINT64_C(0x10000)
#define PROCESS_HI UINT64_C(0x7ffffffff000)

/* 0, or -errno: the host cannot do it, and the reason is in *err. */
int process_new(struct process **out, struct phys *phys, struct error *err);
void process_free(struct process *p);

/* Let it trap once, with a system call. -errno: it does not stop as it should. Changes
 * its registers. */
int process_try(struct process *p);

/* Find out what the host does, for p->host. -errno. Changes its registers. */
int process_trial(struct process *p);

/* Is this in the part of the address space that is not the guest's? */
static inline bool process_owns(const struct process *p, u64 addr)
{
	return addr - p->base < MAPPER_SIZE;
}

/* The calling thread stays on the CPU where it is, and processes that it runs follow; and
 * no more: it may run where the thread could that called process_stay_init(). Where that
 * cannot be had nothing happens. */
void process_stay_init(struct stay *s);
void process_stay(struct stay *s);
void process_roam(struct stay *s);

/* A system call for the next process_map(). False: there is no room for more. */
bool process_order(struct process *p, const struct mapper_call *c);
/*
 * Have the orders done. -ENOMEM: some could not be, so that nobody knows what is mapped;
 * -ESRCH: the process is gone. Either way it is of no use any more.
 */
int process_map(struct process *p);

int process_get_regs(struct process *p, struct process_regs *regs);
/* The registers to go on with. -errno: the host does not take them. */
int process_set_regs(struct process *p, const struct process_regs *regs);
/* Run guest code until it stops, and get the registers. -errno: the process is gone. */
int process_run(struct process *p, struct process_regs *regs, struct process_stop *stop);
/*
 * The vector state, in the standard format of XSAVE as the host has it. 'len' is what
 * there is room for; its length is returned, or -errno.
 */
int process_vec_get(struct process *p, void *area, size_t len);
int process_vec_set(struct process *p, const void *area, size_t len);

/* Breakpoint 'i' of PROCESS_BREAKS is at this address now. -errno: it cannot be. */
int process_break(struct process *p, unsigned i, u64 addr);
/* There is none any more. -errno. */
int process_break_off(struct process *p, unsigned i);
/* There are none. */
int process_break_none(struct process *p);
/* Overwrite what guest code may have left in the shared memory. */
void process_wipe(struct process *p);

/* The guest's thread, for process_kick(); never 0. */
u64 process_thread(const struct process *p);
/* Have process_run() come back soon, or the next one at once. It may have ended. */
void process_kick(u64 thread);
