/*
 * Running guest user code directly.
 *
 * The registers go to the traced thread and come back at every stop. A page fault that
 * the shadow can satisfy is all there is to it; anything else is left to the interpreter,
 * with the state as it was before the instruction.
 *
 * Thread: see direct.h; policy.h decides when.
 */
#include "engine/direct/direct.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "cpu/hostcpu.h"
#include "engine/direct/policy.h"
#include "engine/direct/process.h"
#include "engine/direct/shadow.h"
#include "engine/interp/stub.h"
#include "host/rundelay.h"
#include "mem/phys.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/profile.h"
#include "x86/seg.h"
#include "x86/stats.h"
#include "x86/xsave.h"

/* Traps to measure. */
#define TRIES        8
#define ARMINGS_MAX  16
/* Samples that the vCPU's thread stays on a CPU for. */
#define STAY         16
#define FAILURES_MAX 8
/* Blocks that are interpreted in pages that are not to be executed directly. */
#define ASIDE_MAX    1000
#define AVOIDED      1024
/* Nanoseconds that the vCPU's thread and the process wait for each other at a stop, as
 * one is woken before the other sleeps: 1500 to 1700 were seen. */
#define STOP_DELAY   UINT64_C(2000)
/* Address spaces whose shadows are kept. */
#define PLACES       8

#define SEL_CS     0x33
#define SEL_SS     0x2b
/* What user code may change, and what a trap shows. */
#define FLAGS_USER (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_TF | RFLAGS_NT | RFLAGS_AC)
/* With these it is not for us. */
#define FLAGS_BAD                                                                        \
	(RFLAGS_TF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF |      \
	 RFLAGS_VIP)

#define VEC_MAX KiB(16)

/* A process, and whose shadow it has. */
struct place {
	struct process *p; /* NULL: not yet */
	struct shadow s;
	u64 used;        /* higher is later */
	clockid_t clock; /* of its CPU time */
	u64 trap;        /* what one costs of that, in nanoseconds */
	u64 counted;     /* of its time, for the profile */
	struct tally tally;
	struct rundelay delay;
	/* The vector state as the process has it, and as v->xsave had it then. */
	bool vec_there;
	bool id; /* RFLAGS.ID, which the VMM cannot write there */
	u64 seen_fip, seen_fdp, seen_fop;
	int vec_len;
	u8 vec[VEC_MAX] __attribute__((aligned(64)));
	u8 seen[XSAVE_AREA_SIZE] __attribute__((aligned(64)));
};

struct direct {
	struct vcpu *v;
	struct policy *policy;
	struct place place[PLACES];
	struct place *at;       /* the one for what CR3 is now */
	struct place *delay_of; /* whose delay was looked at last; NULL: none's yet */
	u64 running;            /* atomic: whom to kick, 0: nobody */
	u64 uses;
	u64 stops;     /* that direct_delay() has not counted yet */
	gva_t faulted; /* where the guest has been given a page fault; ~0: nowhere */
	bool unavailable;
	unsigned failures;
	struct stay stay;
	unsigned stayed; /* samples since it began */
	unsigned aside;  /* blocks that may be interpreted */
	u64 host_xcr0;
	/* Pages that are not to be executed directly, by address; ~0: none. */
	u64 avoid[AVOIDED];
	u32 vec_at[XCOMP_COUNT]; /* where the host has a component; 0: nowhere */
};

static u64 clock_ns(clockid_t id)
{
	struct timespec t = { 0 };

	clock_gettime(id, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

/* CPU time of the process, for the profile, that was not counted yet. */
static void count_time(struct place *a, struct vcpu *v)
{
	u64 t;

	if (!v || !v->profile || !a->clock)
		return;
	t = clock_ns(a->clock);
	/* A process that is gone has none. */
	if (t <= a->counted)
		return;
	v->profile->direct_ns += t - a->counted;
	a->counted = t;
}

void direct_user_begins(struct direct *d)
{
	if (!d->unavailable)
		policy_user_begins(d->policy);
}

void direct_user_ends(struct direct *d)
{
	policy_user_ends(d->policy);
}

void direct_sample(struct direct *d, bool user)
{
	if (!d->unavailable)
		policy_sample(d->policy, user);
	vcpu_park(d->v);
	/* The host may find a better place for us now and then. */
	if (d->stay.stays && ++d->stayed >= STAY)
		process_roam(&d->stay);
	for (unsigned i = 0; i < PLACES; i++)
		count_time(&d->place[i], d->v);
	for (unsigned i = 0; i < PLACES; i++)
		d->place[i].s.armings = 0;
}

bool direct_asked(struct direct *d)
{
	return policy_asked(d->policy);
}

/* ---- may it be ---- */

static bool flat(const struct vcpu *v, unsigned sreg)
{
	return v->seg[sreg].sel == 0 ||
	       (sreg != FS && sreg != GS && v->seg[sreg].sel == SEL_SS);
}

/* Is all that user code can do with the host's CPU also a thing of the guest's? */
static bool lacks_nothing(const struct vcpu *v)
{
	struct host_cpu host;

	hostcpu_read(&host);
	for (unsigned f = 0; f < FEATURE_WORDS * 32; f++) {
		enum feature_policy policy = cpu_feature_policy(f);

		if ((policy == FEATURE_HOST || policy == FEATURE_HOST_A) &&
		    (host.features[f / 32] & ~v->features[f / 32]) >> f % 32 & 1)
			return false;
	}
	return true;
}

static bool same_cpu(const struct direct *d)
{
	const struct vcpu *v = d->v;

	/* PKRU is the guest's alone, AMX the host's; what shows that is sensitive. */
	return !((v->xcr0 ^ d->host_xcr0) & ~(u64)XCR0_APART) &&
	       (v->cr4 & (CR4_OSFXSR | CR4_OSXSAVE | CR4_FSGSBASE)) ==
		       (CR4_OSFXSR | CR4_OSXSAVE | CR4_FSGSBASE);
}

static bool possible(const struct direct *d)
{
	const struct vcpu *v = d->v;

	return v->cpl == 3 && v->code_size == 8 && v->paging >= PAGING_4LEVEL &&
	       v->seg[CS].sel == SEL_CS && v->seg[SS].sel == SEL_SS && flat(v, DS) &&
	       flat(v, ES) && flat(v, FS) && flat(v, GS) && !(v->flags & FLAGS_BAD) &&
	       (v->flags & RFLAGS_IF) && (v->efer & EFER_SCE) &&
	       !(v->cr0 & (CR0_TS | CR0_EM)) && (v->cr0 & CR0_MP) && (v->cr0 & CR0_NE) &&
	       !v->shadow && !v->pending_db && !v->debug && !(v->dr[7] & 0xff) &&
	       !(v->cr4 & (CR4_PCE | CR4_CET)) && !v->trial &&
	       (!(v->cr4 & CR4_PKE) || !(v->pkru & 3)) && v->rip < PROCESS_HI &&
	       v->seg[FS].base < PROCESS_HI && v->seg[GS].base < PROCESS_HI &&
	       same_cpu(d);
}

/* What a trap costs here and now, as the clocks of the process and of this thread have
 * it. That one runs on while the host does something else: the least it took counts. */
static int time_traps(struct direct *d, struct place *a)
{
	u64 t = clock_ns(a->clock), least = ~UINT64_C(0);
	int ret = 0;

	for (unsigned i = 0; i < TRIES && !ret; i++) {
		u64 own = clock_ns(CLOCK_THREAD_CPUTIME_ID);

		ret = process_try(a->p);
		least = MIN(least, clock_ns(CLOCK_THREAD_CPUTIME_ID) - own);
	}
	a->trap = (clock_ns(a->clock) - t) / TRIES;
	policy_stop_took(d->policy, least);
	return ret;
}

static int place_new(struct direct *d, struct place *a, struct error *err)
{
	int ret = process_new(&a->p, d->v->phys, err);

	if (ret)
		return ret;
	rundelay_init(&a->delay);
	if (shadow_init(&a->s, d->v, a->p))
		return error_set(err, -ENOMEM, "no memory for a shadow");
	if (clock_getcpuclockid(a->p->pid, &a->clock))
		return error_set(err, -ENOSYS, "a process has no clock");
	ret = time_traps(d, a);
	if (ret)
		return error_set(err, ret, "a process does not trap");
	a->vec_len = process_vec_get(a->p, a->vec, sizeof(a->vec));
	if (a->vec_len < 0)
		return error_set(err, a->vec_len, "PTRACE_GETREGSET: %s",
				 strerror(-a->vec_len));
	return 0;
}

u64 direct_delay(struct direct *d, u64 *own)
{
	struct place *a = d->at;

	*own = d->stops * STOP_DELAY;
	d->stops = 0;
	if (!a || !a->p)
		return 0;
	/* With many CPUs there would be many open files. */
	if (d->delay_of && d->delay_of != a)
		rundelay_close(&d->delay_of->delay);
	d->delay_of = a;
	return rundelay_more(&a->delay, a->p->pid, a->p->tid);
}

static void place_free(struct place *a)
{
	if (!a->p)
		return;
	count_time(a, a->s.v);
	shadow_fini(&a->s);
	rundelay_fini(&a->delay);
	process_free(a->p);
	a->p = NULL;
	a->vec_there = a->id = false;
	a->s = (struct shadow){ 0 };
	a->clock = 0;
	a->counted = 0;
}

/* Of those with a process, where there can be no more of them. NULL: there is none. */
static struct place *oldest(struct direct *d)
{
	struct place *old = NULL;

	for (unsigned i = 0; i < PLACES; i++) {
		struct place *a = &d->place[i];

		if (a->p && !a->id && (!old || a->used < old->used))
			old = a;
	}
	return old;
}

/* Find the place of this address space, or the one that was used last longest ago. */
static bool settle(struct direct *d)
{
	u64 cr3 = d->v->cr3 & BITS(51, 12);
	struct place *old = &d->place[0];
	struct error err = { 0 };

	if (!d->uses && !lacks_nothing(d->v)) {
		d->unavailable = true;
		return false;
	}
	d->uses++;
	if (d->at && d->at->s.cr3 == cr3 && d->at->id == !!(d->v->flags & RFLAGS_ID)) {
		d->at->used = d->uses;
		return true;
	}
	for (unsigned i = 0; i < PLACES; i++) {
		struct place *a = &d->place[i];

		if (a->p && a->s.cr3 == cr3) {
			old = a;
			break;
		}
		if (old->p && (!a->p || a->used < old->used))
			old = a;
	}
	/* RFLAGS.ID is what guest code has made it there, and cannot be set from here. */
	if (d->v->flags & RFLAGS_ID)
		return false;
	if (old->p && old->id)
		place_free(old);
	if (!old->p && place_new(d, old, &err)) {
		place_free(old);
		old = oldest(d);
		if (!old) {
			log_info("user code is translated, as it cannot run directly: %s",
				 err.msg);
			d->unavailable = true;
			return false;
		}
	}
	if (old->s.cr3 != cr3) {
		policy_lost(d->policy, old->s.cr3);
		policy_tally(&old->tally, old->clock, old->trap, &old->s.upkeep);
	}
	policy_settled(d->policy, &old->tally);
	old->used = d->uses;
	d->at = old;
	d->faulted = ~UINT64_C(0);
	return true;
}

/* By address; of one address space each. */
static u64 avoid_tag(const struct direct *d, gva_t lin)
{
	return (lin & PAGE_MASK) | (d->v->cr3 >> PAGE_SHIFT & ~PAGE_MASK);
}

static u64 *avoided(struct direct *d, gva_t lin)
{
	return &d->avoid[(lin >> PAGE_SHIFT) % AVOIDED];
}

/* This address space is another program's now. */
static void forget_avoided(struct direct *d)
{
	for (unsigned i = 0; i < AVOIDED; i++)
		if (!((d->avoid[i] ^ avoid_tag(d, 0)) & ~PAGE_MASK))
			d->avoid[i] = ~UINT64_C(0);
}

/* Is the code that comes next not to run directly? */
static bool barred(struct direct *d)
{
	gva_t rip = d->v->rip;

	return *avoided(d, rip) == avoid_tag(d, rip) ||
	       (d->at && d->at->s.cr3 == (d->v->cr3 & BITS(51, 12)) &&
		shadow_guards(&d->at->s, rip));
}

/* To leave such a page, or a function with sensitive instructions, and come back to it
 * costs a trap: what is short is not worth more. */
bool direct_aside(struct direct *d)
{
	if (!d->aside || d->v->cpl != 3 || !barred(d))
		return false;
	if (!--d->aside)
		policy_hold(d->policy);
	return true;
}

bool direct_rests(const struct direct *d)
{
	return d->unavailable || (!d->aside && !policy_wants(d->policy));
}

bool direct_wanted(struct direct *d)
{
	if (d->unavailable || !policy_wants(d->policy) || !possible(d))
		return false;
	vcpu_park(d->v);
	return settle(d) && !barred(d);
}

/* ---- vector state ---- */

static u64 *u64_at(u8 *area, unsigned off)
{
	return (u64 *)(void *)(area + off);
}

/* To the process, unless it is what it has. */
static int vec_put_there(struct direct *d)
{
	struct vcpu *v = d->v;
	struct place *a = d->at;
	u64 bv = *u64_at(v->xsave, XSAVE_XSTATE_BV) & v->native->xcr0;

	if (a->vec_there && !memcmp(a->seen, v->xsave, sizeof(a->seen)) &&
	    a->seen_fip == v->fip && a->seen_fdp == v->fdp && a->seen_fop == v->fop)
		return 0;
	memcpy(a->vec, v->xsave, 416);
	*u64_at(a->vec, XSAVE_FIP) = v->fip;
	*u64_at(a->vec, XSAVE_FDP) = v->fdp;
	*(u16 *)(void *)(a->vec + XSAVE_FOP) = v->fop;
	*(u32 *)(void *)(a->vec + XSAVE_MXCSR) &= v->native->mxcsr_mask;
	/* Without SSE in use MXCSR would be as after reset. */
	*u64_at(a->vec, XSAVE_XSTATE_BV) = bv | XCR0_SSE;
	*u64_at(a->vec, XSAVE_XCOMP_BV) = 0;
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if ((bv >> i & 1) && d->vec_at[i])
			memcpy(a->vec + d->vec_at[i], v->xsave + xcomp_layout[i].offset,
			       xcomp_layout[i].size);
	return process_vec_set(a->p, a->vec, (size_t)a->vec_len);
}

static int vec_get_back(struct direct *d)
{
	struct vcpu *v = d->v;
	struct place *a = d->at;
	int len = process_vec_get(a->p, a->vec, sizeof(a->vec));
	u64 bv = *u64_at(a->vec, XSAVE_XSTATE_BV) & v->native->xcr0;

	if (len != a->vec_len)
		return len < 0 ? len : -EIO;
	memcpy(v->xsave, a->vec, 416);
	v->fip = *u64_at(a->vec, XSAVE_FIP);
	v->fdp = *u64_at(a->vec, XSAVE_FDP);
	v->fop = *(u16 *)(void *)(a->vec + XSAVE_FOP);
	*u64_at(v->xsave, XSAVE_FIP) = *u64_at(v->xsave, XSAVE_FDP) = 0;
	*(u16 *)(void *)(v->xsave + XSAVE_FOP) = 0;
	*u64_at(v->xsave, XSAVE_XSTATE_BV) = bv;
	for (unsigned i = 2; i < XCOMP_COUNT; i++) {
		if (!d->vec_at[i])
			continue;
		if (bv >> i & 1)
			memcpy(v->xsave + xcomp_layout[i].offset, a->vec + d->vec_at[i],
			       xcomp_layout[i].size);
		else
			memset(v->xsave + xcomp_layout[i].offset, 0,
			       xcomp_layout[i].size);
	}
	memcpy(a->seen, v->xsave, sizeof(a->seen));
	a->seen_fip = v->fip;
	a->seen_fdp = v->fdp;
	a->seen_fop = v->fop;
	a->vec_there = true;
	return 0;
}

/* ---- registers ---- */

static void regs_out(const struct direct *d, struct process_regs *r)
{
	const struct vcpu *v = d->v;

	*r = (struct process_regs){
		.r15 = v->gpr[R15],
		.r14 = v->gpr[R14],
		.r13 = v->gpr[R13],
		.r12 = v->gpr[R12],
		.rbp = v->gpr[RBP],
		.rbx = v->gpr[RBX],
		.r11 = v->gpr[R11],
		.r10 = v->gpr[R10],
		.r9 = v->gpr[R9],
		.r8 = v->gpr[R8],
		.rax = v->gpr[RAX],
		.rcx = v->gpr[RCX],
		.rdx = v->gpr[RDX],
		.rsi = v->gpr[RSI],
		.rdi = v->gpr[RDI],
		.orig_rax = ~UINT64_C(0),
		.rip = v->rip,
		.cs = SEL_CS,
		.rflags = (rflags_get(v) & FLAGS_USER) | RFLAGS_IF | 2,
		.rsp = v->gpr[RSP],
		.ss = SEL_SS,
		.fs_base = v->seg[FS].base,
		.gs_base = v->seg[GS].base,
		.ds = v->seg[DS].sel,
		.es = v->seg[ES].sel,
	};
}

static bool selector_in(struct vcpu *v, unsigned sreg, u16 sel, u64 rip)
{
	struct desc desc;

	if (v->seg[sreg].sel == sel)
		return true;
	if (sreg != CS && sel_is_null(sel)) {
		seg_set_null(v, sreg, sel);
		return true;
	}
	if (!desc_read(v, sel, false, VEC_GP, &desc))
		return false;
	if (sreg == CS)
		seg_enter(v, sel, &desc, 3, rip);
	else
		seg_set(v, sreg, sel, &desc);
	return true;
}

/* User code may have loaded selectors. False: what the host has let it load is not there
 * in the guest. */
static bool selectors_in(struct vcpu *v, const struct process_regs *r)
{
	return selector_in(v, DS, (u16)r->ds, 0) && selector_in(v, ES, (u16)r->es, 0) &&
	       selector_in(v, FS, (u16)r->fs, 0) && selector_in(v, GS, (u16)r->gs, 0) &&
	       selector_in(v, SS, (u16)r->ss, 0) &&
	       selector_in(v, CS, (u16)r->cs, r->rip);
}

static void regs_in(struct direct *d, const struct process_regs *r)
{
	struct vcpu *v = d->v;
	u64 flags = rflags_get(v);

	v->gpr[R15] = r->r15;
	v->gpr[R14] = r->r14;
	v->gpr[R13] = r->r13;
	v->gpr[R12] = r->r12;
	v->gpr[RBP] = r->rbp;
	v->gpr[RBX] = r->rbx;
	v->gpr[R11] = r->r11;
	v->gpr[R10] = r->r10;
	v->gpr[R9] = r->r9;
	v->gpr[R8] = r->r8;
	v->gpr[RAX] = r->rax;
	v->gpr[RCX] = r->rcx;
	v->gpr[RDX] = r->rdx;
	v->gpr[RSI] = r->rsi;
	v->gpr[RDI] = r->rdi;
	v->gpr[RSP] = r->rsp;
	v->rip = r->rip;
	if (!selectors_in(v, r))
		d->unavailable = true;
	v->seg[FS].base = r->fs_base;
	v->seg[GS].base = r->gs_base;
	/* RF has held back breakpoints, of which there are none. */
	flags &= ~(u64)(FLAGS_USER | RFLAGS_RF);
	flags |= r->rflags & FLAGS_USER;
	if (!!(r->rflags & RFLAGS_ID) != d->at->id)
		flags ^= RFLAGS_ID;
	d->at->id = r->rflags & RFLAGS_ID;
	rflags_set(v, flags);
}

/* ---- running ---- */

static u8 code_byte(const struct direct *d, gva_t lin)
{
	const u8 *host = NULL;
	gpa_t gpa;

	if (walk_peek(d->v, lin, &gpa))
		host = phys_host(d->v->phys, gpa, 1, false);
	return host ? *host : 0;
}

/* The length of the RDTSC or RDTSCP there, 0: it is neither. */
static unsigned tsc_length(const struct direct *d, u64 rip)
{
	if (code_byte(d, rip) != 0x0f)
		return 0;
	switch (code_byte(d, rip + 1)) {
	case 0x31: return cpu_has(d->v, FEAT_TSC) ? 2 : 0;
	case 0x01:
		return cpu_has(d->v, FEAT_RDTSCP) && code_byte(d, rip + 2) == 0xf9 ? 3
										   : 0;
	default: return 0;
	}
}

/* RDTSC, which programs use a lot to know the time, without going all the way. */
static bool read_tsc(const struct direct *d, struct process_regs *r,
		     const struct process_stop *stop)
{
	struct vcpu *v = d->v;
	unsigned len;
	u64 t;

	/* The breakpoint may be for all of a function that begins so. */
	if (!((stop->at_break && !shadow_guards(&d->at->s, r->rip)) ||
	      (stop->by_cpu && stop->sig == SIGSEGV)) ||
	    r->cs != SEL_CS || (v->cr4 & CR4_TSD) || (r->rflags & RFLAGS_TF))
		return false;
	len = tsc_length(d, r->rip);
	if (!len)
		return false;
	t = v->platform->tsc(v->platform_opaque);
	r->rax = (u32)t;
	r->rdx = t >> 32;
	if (len == 3)
		r->rcx = (u32)v->msr[MSRI_TSC_AUX];
	r->rip += len;
	r->rflags &= ~(u64)RFLAGS_RF;
	return true;
}

/* How long the INT3 or INT 3 is that RIP is behind; or INT1, where the hypervisor that
 * the host may run under leaves RIP: 0. */
static unsigned int_length(const struct direct *d, u64 rip)
{
	u8 last = code_byte(d, rip - 1);

	if (last == 0xcc || last == 0xf1)
		return 1;
	return last == 3 && code_byte(d, rip - 2) == 0xcd ? 2 : 0;
}

/* What a stop means; 'r' becomes the state before the instruction that trapped. */
static enum direct_result stop_is(struct direct *d, struct process_regs *r,
				  const struct process_stop *stop)
{
	switch (stop->sig) {
	case 0:
		/* SYSCALL, or INT 80h: of two bytes. */
		r->rip -= 2;
		r->rax = r->orig_rax;
		return DIRECT_STEP;
	case SIGSYS:
		/* The vsyscall page; the host has returned from it already, and RAX is
		 * lost, as it is to whoever calls there. */
		r->rip = stop->addr;
		r->rsp -= 8;
		return DIRECT_STEP;
	case SIGTRAP:
		if (stop->stepped) {
			d->v->pending_db |= DR6_BS;
			return DIRECT_ON;
		}
		if (!stop->at_break)
			r->rip -= int_length(d, r->rip);
		return DIRECT_STEP;
	case SIGUSR1: return DIRECT_ON;
	default: return DIRECT_STEP;
	}
}

/* Code there is left to the translator from now on. */
static void avoid(struct direct *d, gva_t page)
{
	*avoided(d, page) = avoid_tag(d, page);
	d->aside = ASIDE_MAX;
}

/* 1: the access can be made again, 0: it is the interpreter's, -errno. */
static int memory_fault(struct direct *d, const struct process_regs *r,
			const struct process_stop *stop)
{
	gva_t rip = r->rip & PAGE_MASK, end = (r->rip + 14) & PAGE_MASK;
	gva_t page = stop->addr & PAGE_MASK;
	bool fetch = page == rip || page == end;
	struct shadow *s = &d->at->s;
	struct walk w;
	int ret;

	if (stop->by_cpu || stop->sig != SIGSEGV || r->cs != SEL_CS)
		return 0;
	if (fetch && *avoided(d, page) == avoid_tag(d, page)) {
		d->aside = ASIDE_MAX;
		return 0;
	}
	policy_fault(d->policy);
	ret = shadow_fault(s, stop->addr, fetch);
	if (ret < 0)
		return ret;
	/* Code that the guest may execute, and that is not executed there; or pages take
	 * the breakpoints from each other. */
	if ((s->armings > ARMINGS_MAX && fetch && shadow_armed(s, page)) ||
	    (!ret && page == rip && walk_look(d->v, page, MMU_USER, &w) &&
	     (w.rights & BIT(ACC_EXEC)))) {
		avoid(d, page);
		return 0;
	}
	if (!ret)
		d->faulted = stop->addr;
	/* It was in the middle of it when the page was taken away. */
	return ret > 0 && shadow_guards(s, r->rip) ? 0 : ret;
}

/* Bring the process up to date. */
static int enter(struct direct *d, struct process_regs *r)
{
	struct place *a = d->at;
	int ret = shadow_enter(&a->s);

	if (a->s.renewed) {
		policy_anew(d->policy, a->s.cr3);
		forget_avoided(d);
	}
	/* Where the guest has mapped a page meanwhile, it is needed now. */
	if (!ret && d->faulted != ~UINT64_C(0))
		ret = shadow_fill(&a->s, d->faulted);
	d->faulted = ~UINT64_C(0);
	if (!ret)
		ret = process_map(a->p);
	if (!ret)
		ret = vec_put_there(d);
	regs_out(d, r);
	return ret ? ret : process_set_regs(a->p, r);
}

/* The state is in the VMM: the place is not needed, and may be in any state. */
static void give_up(struct direct *d, int err)
{
	/* Something of the guest is in the way. */
	if (err == -EADDRINUSE) {
		policy_never(d->policy);
		policy_hold(d->policy);
		return;
	}
	log_debug("direct execution: %s", strerror(-err));
	d->v->stats->direct_failures++;
	place_free(d->at);
	d->at = NULL;
	d->unavailable = ++d->failures > FAILURES_MAX;
	if (d->unavailable)
		log_info("user code is translated from now on: running it directly has "
			 "failed too often: %s",
			 strerror(-err));
}

/* After a stop: 1: it was for the shadow or to know the time, go on. 0, -errno. */
static int dealt_with(struct direct *d, struct process_regs *r,
		      const struct process_stop *stop)
{
	struct process *p = d->at->p;
	int ret;

	if (read_tsc(d, r, stop)) {
		ret = process_set_regs(p, r);
		return ret ? ret : policy_trap(d->policy);
	}
	ret = memory_fault(d, r, stop);
	/* A fault sets RF, and it holds back the breakpoint of the instruction. */
	if (ret > 0 && p->dr7 && (r->rflags & RFLAGS_RF)) {
		r->rflags &= ~(u64)RFLAGS_RF;
		if (process_set_regs(p, r))
			ret = 0;
	}
	return ret;
}

/* Until a stop that is not for the shadow. -errno; *known: 'r' is the state. */
static int run(struct direct *d, struct process_regs *r, const bool *kicked,
	       enum direct_result *result, bool *known)
{
	struct process_stop stop = { 0 };
	struct process *p = d->at->p;
	int ret;

	*result = DIRECT_ON;
	*known = true;
	do {
		if (__atomic_load_n(kicked, __ATOMIC_SEQ_CST))
			return 0;
		*known = false;
		ret = process_run(p, r, &stop);
		d->stops++;
		if (ret)
			return ret;
		*known = true;
		ret = dealt_with(d, r, &stop);
	} while (ret > 0);
	if (!ret)
		*result = stop_is(d, r, &stop);
	return ret;
}

enum direct_result direct_run(struct direct *d, const bool *kicked)
{
	enum direct_result result;
	struct process_regs r;
	int ret, err;
	bool known;

	d->v->stats->direct_entries++;
	ret = enter(d, &r);
	if (ret) {
		give_up(d, ret);
		return DIRECT_ON;
	}
	__atomic_store_n(&d->running, process_thread(d->at->p), __ATOMIC_SEQ_CST);
	if (!d->stay.stays) {
		d->stayed = 0;
		process_stay(&d->stay);
	}
	policy_runs(d->policy, true);
	ret = run(d, &r, kicked, &result, &known);
	policy_runs(d->policy, false);
	__atomic_store_n(&d->running, 0, __ATOMIC_SEQ_CST);
	err = known ? vec_get_back(d) : ret;
	if (err) {
		log_error("direct execution: the process that ran guest code is gone: %s",
			  strerror(-err));
		return DIRECT_LOST;
	}
	regs_in(d, &r);
	if (ret)
		give_up(d, ret);
	else if (result == DIRECT_STEP)
		policy_trap(d->policy);
	if (barred(d))
		d->aside = ASIDE_MAX;
	return ret ? DIRECT_ON : result;
}

bool direct_kick(struct direct *d)
{
	u64 thread = __atomic_load_n(&d->running, __ATOMIC_SEQ_CST);

	if (thread)
		process_kick(thread);
	return thread;
}

void direct_tlb_flushed(struct direct *d, u64 page, unsigned shift)
{
	/* Other code may be there. */
	if (*avoided(d, page) == avoid_tag(d, page))
		*avoided(d, page) = ~UINT64_C(0);
	for (unsigned i = 0; i < PLACES; i++)
		if (d->place[i].p)
			shadow_flushed(&d->place[i].s, page, shift);
}

void direct_code_protected(struct direct *d, gpa_t page)
{
	for (unsigned i = 0; i < PLACES; i++)
		if (d->place[i].p)
			shadow_protect(&d->place[i].s, page);
}

/* ---- set-up ---- */

/* State that the host's CPU has on and that is neither the guest's nor kept from it. */
static u64 foreign_state(u64 xcr0)
{
	for (unsigned i = 0; i < XCOMP_COUNT; i++)
		if (xcomp_layout[i].size || i < 2)
			xcr0 &= ~BIT(i);
	return xcr0 & ~(u64)XCR0_APART;
}

int direct_probe(struct direct_host *host, struct error *err)
{
	struct phys *phys = phys_new();
	struct process *p = NULL;
	struct host_cpu cpu;
	int ret = process_new(&p, phys, err);

	if (!ret) {
		*host = p->host;
		process_free(p);
	}
	phys_free(phys);
	hostcpu_read(&cpu);
	if (!ret && foreign_state(cpu.xcr0))
		ret = error_set(err, -ENOTSUP,
				"programs have state here that no guest has, XCR0 %#llx",
				(unsigned long long)foreign_state(cpu.xcr0));
	return ret;
}

struct direct *direct_new(struct vcpu *v, bool always, void (*ask)(void *opaque),
			  void *opaque)
{
	struct direct *d = xzalloc_aligned(64, sizeof(*d));
	struct host_cpu host;

	d->faulted = ~UINT64_C(0);
	d->v = v;
	process_stay_init(&d->stay);
	d->policy = policy_new(v, always, ask, opaque);
	for (unsigned i = 0; i < AVOIDED; i++)
		d->avoid[i] = ~UINT64_C(0);
	hostcpu_read(&host);
	d->host_xcr0 = host.xcr0;
	for (unsigned i = 2; i < XCOMP_COUNT; i++)
		if (i != 9 && host.xsize[i] && host.xsize[i] == xcomp_layout[i].size &&
		    host.xoffset[i] + host.xsize[i] <= VEC_MAX)
			d->vec_at[i] = host.xoffset[i];
	return d;
}

void direct_reset(struct direct *d)
{
	for (unsigned i = 0; i < PLACES; i++)
		place_free(&d->place[i]);
	d->at = NULL;
	for (unsigned i = 0; i < AVOIDED; i++)
		d->avoid[i] = ~UINT64_C(0);
	policy_reset(d->policy);
	d->stay.stays = false;
}

void direct_free(struct direct *d)
{
	if (!d)
		return;
	direct_reset(d);
	policy_free(d->policy);
	free(d);
}
