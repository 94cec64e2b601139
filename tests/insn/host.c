/*
 * User-mode code executed by the host CPU: see host.h.
 *
 * Linux: arch/x86/kernel/signal_64.c, fpu/signal.c, Documentation/arch/x86 on the frame.
 * UC_STRICT_RESTORE_SS makes sigreturn take CS and SS as they are. FS and GS bases, and
 * the data segment registers, are not in the frame: host_enter and host_left load and
 * store them. Nothing in C runs with the test's FS base, because thread-local storage
 * hangs on it.
 */
#include "host.h"

#include <asm/ldt.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "../hostarea.h"

#define FX_SW_OFFSET 464
#ifndef UC_FP_XSTATE
#define UC_FP_XSTATE 1
#endif
#define UC_SIGCONTEXT_SS     2
#define UC_STRICT_RESTORE_SS 4
#define HWCAP2_FSGSBASE      2
#define ALT_STACK_SIZE       65536

struct fx_sw {
	u32 magic1, extended_size;
	u64 xfeatures;
	u32 xstate_size;
	u32 pad[7];
};

/* Offsets are known to the assembly below. */
struct host_switch {
	u64 active;         /* 0 */
	u64 rsp;            /* 8 */
	u64 own_fs, own_gs; /* 16, 24 */
	u64 fs, gs;         /* 32, 40: the test's bases, in and out */
	u16 sel[8];         /* 48: ES CS SS DS FS GS, in and out */
	u64 own_sel[1];     /* unused */
	u64 keep_bases; /* 72: FS and GS were loaded with selectors: their bases stay */
};

/* Signals belong to the process, and so does this. */
static struct {
	struct sigaction previous[NSIG];
	struct fx_sw sw;
	u64 xfeatures;
	bool mode[MODE_COUNT];
	u8 *stack;
	struct ucontext_t *frame;
	u8 *fpstate;
} host;

struct host_switch host_switch __attribute__((visibility("hidden")));

/* The handler: registers hold nothing of ours. */
void host_left(int sig, siginfo_t *info, void *uc);
void host_chain(int sig, siginfo_t *info, void *uc);
ucontext_t *host_enter(void *frame);

__asm__(".text\n"
	".type host_enter, @function\n"
	".globl host_enter\n"
	"host_enter:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push "
	"%r14\n	push %r15\n"
	"	pushfq\n"
	"	lea host_switch(%rip), %rbx\n"
	"	mov %rsp, 8(%rbx)\n"
	"	movq $1, (%rbx)\n"
	"	movw 48(%rbx), %es\n"
	"	movw 54(%rbx), %ds\n"
	"	movw 56(%rbx), %fs\n"
	"	movw 58(%rbx), %gs\n"
	"	cmpq $0, 72(%rbx)\n"
	"	jne 1f\n"
	"	mov 32(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	mov 40(%rbx), %rax\n"
	"	wrgsbase %rax\n"
	"1:	mov %rdi, %rsp\n"
	"	mov $15, %eax\n" /* rt_sigreturn */
	"	syscall\n"
	"	ud2\n"
	".size host_enter, . - host_enter\n"
	".type host_left, @function\n"
	".globl host_left\n"
	"host_left:\n"
	"	lea host_switch(%rip), %rbx\n"
	"	cmpq $0, (%rbx)\n"
	"	je host_chain\n"
	"	movq $0, (%rbx)\n"
	"	movw %es, 48(%rbx)\n"
	"	movw %ds, 54(%rbx)\n"
	"	movw %fs, 56(%rbx)\n"
	"	movw %gs, 58(%rbx)\n"
	"	rdfsbase %rax\n"
	"	mov %rax, 32(%rbx)\n"
	"	rdgsbase %rax\n"
	"	mov %rax, 40(%rbx)\n"
	"	xor %eax, %eax\n"
	"	mov %eax, %es\n	mov %eax, %ds\n	mov %eax, %fs\n	mov %eax, %gs\n"
	"	mov 16(%rbx), %rax\n"
	"	wrfsbase %rax\n"
	"	mov 24(%rbx), %rax\n"
	"	wrgsbase %rax\n"
	"	mov 8(%rbx), %rsp\n"
	"	mov %rdx, %rax\n"
	"	popfq\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop "
	"%rbp\n	pop %rbx\n"
	"	ret\n"
	".size host_left, . - host_left\n");

/* Not ours: who had the signal before, as host/sig.c does it. */
__attribute__((used)) void host_chain(int sig, siginfo_t *info, void *uc)
{
	const struct sigaction *old = &host.previous[sig];

	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, uc);
	} else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	} else {
		const greg_t *g = ((const ucontext_t *)uc)->uc_mcontext.gregs;

		/* Nobody's: about to die of it. */
		printf("signal %d at %llx, address %llx, trap %lld error %llx\n", sig,
		       (unsigned long long)g[REG_RIP], (unsigned long long)g[REG_CR2],
		       (long long)g[REG_TRAPNO], (unsigned long long)g[REG_ERR]);
		signal(sig, SIG_DFL);
		if (info->si_code <= 0)
			raise(sig);
	}
}

/* ---- running ---- */

static u64 sigmask_word;

static void make_frame(const struct state *s)
{
	ucontext_t *uc = (void *)host.frame;
	greg_t *g = uc->uc_mcontext.gregs;
	static const u8 greg[16] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
		REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
	};
	u16 *sel = (u16 *)(void *)&g[REG_CSGSFS];
	u64 bv;

	for (unsigned i = 0; i < 16; i++)
		g[greg[i]] = (greg_t)s->gpr[i];
	g[REG_RIP] = (greg_t)s->rip;
	g[REG_EFL] = (greg_t)s->flags;
	sel[0] = s->sel[CS];
	sel[3] = s->sel[SS];
	uc->uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
	memcpy(&uc->uc_sigmask, &sigmask_word, 8);
	uc->uc_mcontext.fpregs = (void *)host.fpstate;
	area_to_host(host.fpstate, s->xsave);
	memcpy(host.fpstate + FX_SW_OFFSET, &host.sw, sizeof(host.sw));
	memcpy(&bv, s->xsave + XSAVE_XSTATE_BV, 8);
	bv &= host.xfeatures & STATE_XCR0;
	memcpy(host.fpstate + XSAVE_XSTATE_BV, &bv, 8);
	memset(host.fpstate + XSAVE_XCOMP_BV, 0, 56);
}

static void take_frame(struct state *s, const ucontext_t *uc)
{
	const greg_t *g = uc->uc_mcontext.gregs;
	static const u8 greg[16] = {
		REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
		REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
	};
	const u16 *sel = (const u16 *)(const void *)&g[REG_CSGSFS];
	u64 bv;

	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = (u64)g[greg[i]];
	s->rip = (u64)g[REG_RIP];
	s->flags = (u64)g[REG_EFL];
	s->sel[CS] = sel[0];
	s->sel[SS] = sel[3];
	s->vector = (u32)g[REG_TRAPNO];
	s->error = (u32)g[REG_ERR];
	s->cr2 = (u64)g[REG_CR2];
	area_from_host(s->xsave, (const u8 *)uc->uc_mcontext.fpregs);
	memcpy(&bv, s->xsave + XSAVE_XSTATE_BV, 8);
	bv &= STATE_XCR0;
	memcpy(s->xsave + XSAVE_XSTATE_BV, &bv, 8);
}

void host_run(struct state *s)
{
	struct host_switch *w = &host_switch;
	const ucontext_t *uc;

	make_frame(s);
	w->keep_bases = s->sel[CS] != SEL_CS64;
	for (unsigned i = 0; i < 6; i++)
		w->sel[i] = s->sel[i];
	w->fs = s->fs_base;
	w->gs = s->gs_base;
	uc = host_enter(host.frame);
	take_frame(s, uc);
	s->sel[ES] = w->sel[ES];
	s->sel[DS] = w->sel[DS];
	s->sel[FS] = w->sel[FS];
	s->sel[GS] = w->sel[GS];
	s->fs_base = w->fs;
	s->gs_base = w->gs;
}

/* ---- set-up ---- */

static void probe_frame(int sig, siginfo_t *info, void *ctx)
{
	const ucontext_t *uc = ctx;

	(void)sig;
	(void)info;
	memcpy(&host.sw, (const u8 *)uc->uc_mcontext.fpregs + FX_SW_OFFSET,
	       sizeof(host.sw));
}

/* What the kernel's own frames look like. */
static bool learn_frame(void)
{
	struct sigaction sa = { .sa_sigaction = probe_frame, .sa_flags = SA_SIGINFO },
			 old;

	if (sigaction(SIGUSR1, &sa, &old) < 0)
		return false;
	raise(SIGUSR1);
	sigaction(SIGUSR1, &old, NULL);
	if (host.sw.magic1 != FP_XSTATE_MAGIC1)
		return false;
	host.xfeatures = host.sw.xfeatures;
	host.fpstate = aligned_alloc(64, 65536);
	memset(host.fpstate, 0, 65536);
	memcpy(host.fpstate + host.sw.xstate_size, &(u32){ FP_XSTATE_MAGIC2 }, 4);
	return true;
}

static bool map_arena(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	u8 *p = mmap((void *)ARENA, ARENA_SIZE, PROT_NONE, flags | MAP_NORESERVE, -1, 0);

	if (p != (u8 *)ARENA)
		return false;
	if (mprotect((void *)ARENA, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC) < 0 ||
	    mprotect((void *)RW_BASE, RW_SIZE, PROT_READ | PROT_WRITE) < 0 ||
	    mprotect((void *)RO_BASE, 0x1000, PROT_READ | PROT_WRITE) < 0)
		return false;
	/* Touch all, so that no fault is the kernel's own. */
	memset((void *)ARENA, 0xcc, CODE_SIZE);
	memset((void *)RW_BASE, 0, RW_SIZE);
	for (unsigned i = 0; i < 0x1000; i++)
		((u8 *)RO_BASE)[i] = (u8)(i * 37 + (i >> 8));
	return mprotect((void *)RO_BASE, 0x1000, PROT_READ) == 0;
}

static void set_ldt(void)
{
	for (unsigned i = 0; i < SEL_LDT_COUNT; i++) {
		const struct ldt_entry *e = &ldt_entries[i];
		struct user_desc d = {
			.entry_number = i,
			.base_addr = e->base,
			.limit = e->limit,
			.seg_32bit = e->db,
			.contents = e->contents,
			.read_exec_only = e->ro,
			.seg_not_present = e->absent,
			.useable = 1,
		};

		if (syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)))
			return;
	}
	host.mode[MODE16] = true;
}

/* Does MOV EAX, imm; INC EAX or REX; INT3 do what it does in 32-bit mode? */
static void probe_32(void)
{
	static const u8 code[] = { 0xb8, 0x44, 0x33, 0x22, 0x11, 0x40, 0x90, 0xcc };
	struct state s = { .rip = ARENA,
			   .flags = 0x202,
			   .sel = { SEL_DS, SEL_CS32, SEL_DS, SEL_DS, 0, 0 } };

	memcpy((void *)ARENA, code, sizeof(code));
	s.xsave[0] = 0x7f;
	s.xsave[1] = 3;
	s.xsave[XSAVE_MXCSR] = 0x80;
	s.xsave[XSAVE_MXCSR + 1] = 0x1f;
	host_run(&s);
	host.mode[MODE32] = s.vector == VEC_BP && s.gpr[RAX] == 0x11223345;
	memset((void *)ARENA, 0xcc, sizeof(code));
}

bool host_open(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction sa = { .sa_sigaction = host_left,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t ss = { .ss_size = ALT_STACK_SIZE };

	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
		puts("skip: the host kernel has no FSGSBASE");
		return false;
	}
	if (!learn_frame() || !map_arena()) {
		puts("skip: the host kernel's signal frames or address space do not "
		     "suit");
		return false;
	}
	ss.ss_sp = malloc(ALT_STACK_SIZE);
	host.stack = ss.ss_sp;
	host.frame = calloc(1, sizeof(ucontext_t));
	if (sigaltstack(&ss, NULL) < 0)
		return false;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &sigmask_word, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, &host.previous[signals[i]]);
	__asm__("rdfsbase %0" : "=r"(host_switch.own_fs));
	__asm__("rdgsbase %0" : "=r"(host_switch.own_gs));
	host.mode[MODE64] = true;
	probe_32();
	if (host.mode[MODE32])
		set_ldt();
	return true;
}

bool host_has_mode(enum mode mode)
{
	return host.mode[mode];
}

u64 host_frame_xcr0(void)
{
	return host.xfeatures;
}
