/*
 * What the host does not do as it should, found out by trying.
 *
 * Some hypervisors that the host may run under have the host's kernel itself in ring 3,
 * as PVM does, and are asked for what it may not do. They may not do all of it: let
 * RDTSC and RDPMC through though CR4 forbids them, not set the debug registers, lose
 * RFLAGS.NT, or not save the bases of FS and GS as CR4.FSGSBASE is hidden from a kernel,
 * but on. Nothing says so but the processor.
 *
 * Thread: see process.h.
 */
#include <errno.h>
#include <signal.h>

#include "base/bits.h"
#include "engine/direct/process.h"
#include "mem/phys.h"
#include "x86/regs.h"

static u64 place_of(const struct process *p, const u8 *code)
{
	return p->base + MAPPER_TEXT + (u64)(code - direct_mapper);
}

/* Run from RIP until it stops. -errno. */
static int attempt(struct process *p, struct process_regs *r, struct process_stop *stop)
{
	int ret;

	/* No system call that would be made again. */
	r->orig_rax = ~UINT64_C(0);
	ret = process_set_regs(p, r);
	return ret ? ret : process_run(p, r, stop);
}

/* Does the instruction there trap? */
static int try_trap(struct process *p, struct process_regs *r, u64 at, bool *traps)
{
	struct process_stop stop;
	int ret;

	r->rcx = 0;
	r->rip = at;
	ret = attempt(p, r, &stop);
	*traps = stop.sig == SIGSEGV && r->rip == at;
	return ret;
}

static int try_breaks(struct process *p, struct process_regs *r)
{
	u64 at = place_of(p, direct_trial_break) + 1;
	struct process_stop stop;

	p->host.breaks = PROCESS_BREAKS;
	for (unsigned i = 0; i < PROCESS_BREAKS && p->host.breaks; i++) {
		int ret;

		/* Refused where somebody on the host has them. */
		if (process_break(p, i, at)) {
			p->host.breaks = 0;
			break;
		}
		r->rip = at - 1;
		ret = attempt(p, r, &stop);
		if (ret)
			return ret;
		if (!stop.at_break || r->rip != at || process_break_off(p, i))
			p->host.breaks = 0;
	}
	if (!p->host.breaks)
		(void)process_break_none(p);
	return 0;
}

/* Any addresses of user mode. */
static int try_bases(struct process *p, struct process_regs *r)
{
	u64 at = place_of(p, direct_trial_bases), base = p->base + MAPPER_CTL;
	struct process_stop stop;
	int ret;

	r->rax = base;
	r->rip = at;
	ret = attempt(p, r, &stop);
	if (ret)
		return ret;
	p->host.bases_kept = stop.sig == SIGILL || r->fs_base == base;
	if (stop.sig == SIGILL)
		return 0;
	/* Behind the INT3. */
	ret = attempt(p, r, &stop);
	p->host.bases_kept &= r->gs_base == base;
	return ret;
}

static int try_nt(struct process *p, struct process_regs *r)
{
	struct process_stop stop;
	int ret;

	r->rax = RFLAGS_NT | RFLAGS_IF | RFLAGS_1;
	r->rsp = p->base + MAPPER_CTL + PAGE_SIZE;
	r->rip = place_of(p, direct_trial_nt);
	ret = attempt(p, r, &stop);
	/* It is lost on the way back. */
	if (!ret)
		ret = attempt(p, r, &stop);
	p->host.nt_kept = r->rflags & RFLAGS_NT;
	return ret;
}

int process_trial(struct process *p)
{
	struct process_regs r;
	int ret = process_get_regs(p, &r);

	if (!ret)
		ret = try_trap(p, &r, place_of(p, direct_trial_tsc), &p->host.tsc_traps);
	if (!ret)
		ret = try_trap(p, &r, place_of(p, direct_trial_pmc), &p->host.pmc_traps);
	if (!ret)
		ret = try_breaks(p, &r);
	if (!ret)
		ret = try_bases(p, &r);
	if (!ret)
		ret = try_nt(p, &r);
	return ret;
}
