/*
 * Making the process of guest user code, and switching to and from it.
 *
 * It is a copy of this one that unmaps everything but the mapper. The guest's thread is
 * traced: whatever it traps with, a system call above all, stops it before the host's
 * kernel has done anything, and nothing that guest code can write decides what the VMM
 * believes of it. Its seccomp filter forbids everything, for the calls that do not stop
 * (the vsyscall page). Only the mapper may map, and does so by orders that the guest
 * cannot write.
 *
 * Thread: see process.h. The child uses system calls alone until it has left this image.
 */
#include "engine/direct/process.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "host/slice.h"
#include "mem/phys.h"

/* Where no program of the guest is expected. */
#define BASE_LO       UINT64_C(0x100000000000)
#define BASE_HI       UINT64_C(0x500000000000)
#define KICK_SIGNAL   SIGUSR1
#define WAIT_NS       500000000
#define RAM_FDS       8
#define TIMEOUTS      20
#define TRACED_MS     10000
/* offsetof(struct user, u_debugreg); that header has a PAGE_SIZE of its own. */
#define USER_DEBUGREG 848

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

struct setup {
	struct process *p;
	int fd[RAM_FDS]; /* to keep, ascending */
	unsigned fds;
	pid_t parent;
};

static struct mapper_orders *order_of(const struct process *p)
{
	return (struct mapper_orders *)(void *)(p->view + MAPPER_ORDER);
}

static struct mapper_ctl *ctl_of(const struct process *p)
{
	return (struct mapper_ctl *)(void *)(p->view + MAPPER_CTL);
}

static long futex(u32 *word, int op, u32 val, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, val, timeout, NULL, 0);
}

/* ---- the child ---- */

static bool filter(struct sock_filter *f, size_t n)
{
	struct sock_fprog prog = { .len = (unsigned short)n, .filter = f };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0;
}

static bool filter_guest(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
	};

	return filter(f, ARRAY_SIZE(f));
}

static bool filter_mapper(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return filter(f, ARRAY_SIZE(f));
}

/* The kernel looks at its area whenever the thread has been preempted. */
static bool rseq_off(void)
{
	u8 *area = (u8 *)__builtin_thread_pointer() + __rseq_offset;

	return !__rseq_size || syscall(SYS_rseq, area, 32, 1, RSEQ_SIG) == 0;
}

static void reset_signals(void)
{
	/* The handlers are not there any more. */
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
}

static bool map_at(const struct process *p, u64 off, int prot)
{
	return mmap((void *)(p->base + off), PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
		    p->memfd, (off_t)off) != MAP_FAILED;
}

static bool map_mapper(const struct process *p)
{
	return map_at(p, MAPPER_TEXT, PROT_READ | PROT_EXEC) &&
	       map_at(p, MAPPER_ORDER, PROT_READ) &&
	       map_at(p, MAPPER_CTL, PROT_READ | PROT_WRITE);
}

static void close_others(const struct setup *s)
{
	unsigned from = 0;

	for (unsigned i = 0; i < s->fds; i++) {
		if ((unsigned)s->fd[i] > from)
			syscall(SYS_close_range, from, s->fd[i] - 1, 0);
		from = (unsigned)s->fd[i] + 1;
	}
	syscall(SYS_close_range, from, ~0u, 0);
}

_Noreturn static void child_fail(const struct process *p)
{
	ctl_of(p)->failed = 1;
	for (;;)
		syscall(SYS_exit_group, 1);
}

static int guest_thread(void *process)
{
	u64 none = 0;

	if (prctl(PR_SET_TSC, PR_TSC_SIGSEGV) ||
	    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8) ||
	    ptrace(PTRACE_TRACEME, 0, 0, 0) || !filter_guest())
		child_fail(process);
	for (;;)
		__asm__ volatile("int3");
}

_Noreturn static void child(struct setup *s)
{
	struct process *p = s->p;
	u64 all = ~UINT64_C(0);
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
		    CLONE_SYSVSEM;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != s->parent || !rseq_off() ||
	    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8) || setpgid(0, 0) ||
	    prctl(PR_SET_NAME, "umbra-direct") ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || !map_mapper(p))
		child_fail(p);
	/* Longer than its parent's, so that an event for the vCPU interrupts it. */
	slice_set(0);
	reset_signals();
	close_others(s);
	ctl_of(p)->tid =
		clone(guest_thread, (void *)(p->base + MAPPER_CTL + PAGE_SIZE), flags, p);
	if (ctl_of(p)->tid < 0 || !filter_mapper())
		child_fail(p);
	((void (*)(void))(uintptr_t)(p->base + MAPPER_TEXT))();
	__builtin_unreachable();
}

/* ---- the VMM ---- */

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int setup_fds(struct setup *s, struct phys *phys)
{
	const struct phys_region *r;

	s->fd[s->fds++] = s->p->memfd;
	for (unsigned i = 0; (r = phys_ram_region(phys, i)); i++) {
		if (s->fds == RAM_FDS)
			return -E2BIG;
		s->fd[s->fds++] = phys_ram_fd(phys, r->base);
	}
	qsort(s->fd, s->fds, sizeof(s->fd[0]), by_number);
	return 0;
}

static u64 choose_base(void)
{
	u64 r;

	if (getrandom(&r, sizeof(r), 0) != sizeof(r))
		return 0;
	return align_down(BASE_LO + r % (BASE_HI - BASE_LO), MAPPER_SIZE);
}

static int memory_new(struct process *p)
{
	size_t size = (size_t)(direct_mapper_end - direct_mapper);

	p->memfd = memfd_create("umbra-direct", MFD_CLOEXEC | MFD_EXEC);
	if (p->memfd < 0 && errno == EINVAL)
		p->memfd = memfd_create("umbra-direct", MFD_CLOEXEC);
	p->base = choose_base();
	if (p->memfd < 0 || !p->base || ftruncate(p->memfd, MAPPER_SIZE))
		return -errno;
	p->view =
		mmap(NULL, MAPPER_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p->memfd, 0);
	if (p->view == MAP_FAILED) {
		p->view = NULL;
		return -errno;
	}
	assert(size <= PAGE_SIZE);
	memcpy(p->view + MAPPER_TEXT, direct_mapper, size);
	ctl_of(p)->done = ~0u;
	return 0;
}

/* Has one of the threads ended? */
static bool has_ended(struct process *p)
{
	int status;

	/* A process is not reported before the last of its threads is. */
	if (p->tid > 0 && waitpid(p->tid, &status, WNOHANG | __WALL) == p->tid &&
	    !WIFSTOPPED(status)) {
		p->tid = 0;
		return true;
	}
	if (waitpid(p->pid, &status, WNOHANG | __WALL) != p->pid)
		return false;
	p->pid = 0;
	return true;
}

/* Until the mapper has done this. */
static int await_mapper(struct process *p, u32 seq)
{
	const struct timespec timeout = { .tv_nsec = WAIT_NS };
	u32 *done = &ctl_of(p)->done, now;
	unsigned timeouts = 0;

	while ((now = __atomic_load_n(done, __ATOMIC_SEQ_CST)) != seq) {
		if (futex(done, FUTEX_WAIT, now, &timeout) == 0 || errno != ETIMEDOUT)
			continue;
		if (has_ended(p) || ++timeouts == TIMEOUTS)
			return -ESRCH;
	}
	return 0;
}

/* The guest's thread has stopped, and why. */
static int await_stop(struct process *p, int *status)
{
	pid_t r;

	do
		r = waitpid(p->tid, status, __WALL);
	while (r < 0 && errno == EINTR);
	if (r != p->tid || !WIFSTOPPED(*status)) {
		p->tid = 0;
		return -ESRCH;
	}
	return 0;
}

/* The first stop. Until the thread has asked to be traced nobody may wait for it. */
static int await_traced(struct process *p, int *status)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	int other;

	for (unsigned i = 0; i < TRACED_MS; i++) {
		if (waitpid(p->tid, status, __WALL) == p->tid)
			return WIFSTOPPED(*status) ? 0 : -ESRCH;
		if (waitpid(p->pid, &other, WNOHANG | __WALL) == p->pid) {
			p->pid = p->tid = 0;
			return -ESRCH;
		}
		nanosleep(&pause, NULL);
	}
	return -ETIMEDOUT;
}

int process_try(struct process *p)
{
	const u8 *code =
		memmem(direct_mapper, (size_t)(direct_mapper_end - direct_mapper),
		       "\x0f\x05", 2);
	struct process_stop stop;
	struct process_regs r;
	int ret;

	ret = process_get_regs(p, &r);
	if (ret)
		return ret;
	r.rip = p->base + MAPPER_TEXT + (u64)(code - direct_mapper);
	r.rax = SYS_exit_group;
	r.rdi = p->base;
	ret = process_set_regs(p, &r);
	if (!ret)
		ret = process_run(p, &r, &stop);
	if (ret)
		return ret;
	return stop.sig == 0 && r.orig_rax == SYS_exit_group && r.rdi == p->base
		       ? 0
		       : -ENOSYS;
}

static int start(struct process *p, struct setup *s)
{
	struct mapper_call low = { .nr = SYS_munmap, .arg = { 0, p->base } };
	struct mapper_call high = { .nr = SYS_munmap,
				    .arg = { p->base + MAPPER_CTL + PAGE_SIZE,
					     PROCESS_HI - (p->base + MAPPER_CTL +
							   PAGE_SIZE) } };
	int ret, status;

	/* No signal when it ends: its exit is nobody else's business. */
	ret = (int)syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	if (ret == 0)
		child(s);
	if (ret < 0)
		return -errno;
	p->pid = ret;
	ret = await_mapper(p, 0);
	if (ret)
		return ret;
	p->tid = ctl_of(p)->tid;
	ret = await_traced(p, &status);
	if (ret)
		return ret;
	if (ptrace(PTRACE_SETOPTIONS, p->tid, 0,
		   PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
		return -errno;
	/* All that it has from us; fails as a whole where the kernel seals its own pages.
	 */
	process_order(p, &low);
	process_order(p, &high);
	ret = process_map(p);
	if (!ret)
		ret = process_try(p);
	return ret ? ret : process_trial(p);
}

int process_new(struct process **out, struct phys *phys, struct error *err)
{
	struct process *p = xzalloc(sizeof(*p));
	struct setup s = { .p = p, .parent = getpid() };
	int ret;

	p->memfd = p->cpu = -1;
	if (memory_new(p) || setup_fds(&s, phys)) {
		process_free(p);
		return error_set(err, -ENOMEM, "no memory to share");
	}
	ret = start(p, &s);
	if (ret) {
		process_free(p);
		return error_set(err, ret, "no process can be traced: %s",
				 strerror(-ret));
	}
	*out = p;
	return 0;
}

/* Several times, as threads are reported in any order, and one may have been already. */
static void reap(struct process *p)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	kill(p->pid, SIGKILL);
	for (unsigned i = 0; i < 1000 && p->pid > 0; i++) {
		if (!has_ended(p))
			nanosleep(&pause, NULL);
	}
}

void process_free(struct process *p)
{
	if (p->view && p->tid == 0)
		p->tid = ctl_of(p)->tid;
	if (p->pid > 0)
		reap(p);
	if (p->view)
		munmap(p->view, MAPPER_SIZE);
	if (p->memfd >= 0)
		close(p->memfd);
	free(p);
}

bool process_order(struct process *p, const struct mapper_call *c)
{
	struct mapper_orders *o = order_of(p);

	if (o->count == MAPPER_ORDERS)
		return false;
	o->call[o->count++] = *c;
	return true;
}

int process_map(struct process *p)
{
	struct mapper_orders *o = order_of(p);
	int ret;

	if (!o->count)
		return 0;
	/* The guest may have written there. */
	ctl_of(p)->done = o->seq;
	ctl_of(p)->failed = 0;
	__atomic_fetch_add(&o->seq, 1, __ATOMIC_SEQ_CST);
	futex(&o->seq, FUTEX_WAKE, 1, NULL);
	ret = await_mapper(p, o->seq);
	o->count = 0;
	return ret ? ret : ctl_of(p)->failed ? -ENOMEM : 0;
}

void process_wipe(struct process *p)
{
	memset(order_of(p)->call, 0, sizeof(order_of(p)->call));
	memset(p->view + MAPPER_CTL, 0, PAGE_SIZE);
}

static void describe(const siginfo_t *si, struct process_stop *stop)
{
	stop->by_cpu = si->si_code == SI_KERNEL;
	stop->stepped = si->si_signo == SIGTRAP && si->si_code == TRAP_TRACE;
	stop->at_break = si->si_signo == SIGTRAP && si->si_code == TRAP_HWBKPT;
	if (si->si_code > 0 && si->si_code != SI_KERNEL)
		stop->addr = (u64)(uintptr_t)si->si_addr;
}

/* We wait while it runs: on the same CPU neither has to wake another one, which a host
 * that is idle would do each time. */
static void follow(struct process *p)
{
	int cpu = sched_getcpu();
	cpu_set_t set;

	if (cpu < 0 || cpu == p->cpu || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(p->tid, sizeof(set), &set) == 0 &&
	    sched_setaffinity(p->pid, sizeof(set), &set) == 0)
		p->cpu = cpu;
}

void process_stay_init(struct stay *s)
{
	s->stays = false;
	s->can = sched_getaffinity(0, sizeof(s->may), &s->may) == 0;
}

void process_stay(struct stay *s)
{
	int cpu = sched_getcpu();
	cpu_set_t set;

	if (s->stays || !s->can || cpu < 0 || cpu >= CPU_SETSIZE)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	s->stays = sched_setaffinity(0, sizeof(set), &set) == 0;
}

void process_roam(struct stay *s)
{
	if (s->stays)
		sched_setaffinity(0, sizeof(s->may), &s->may);
	s->stays = false;
}

int process_get_regs(struct process *p, struct process_regs *regs)
{
	return ptrace(PTRACE_GETREGS, p->tid, 0, regs) ? -errno : 0;
}

int process_set_regs(struct process *p, const struct process_regs *regs)
{
	return ptrace(PTRACE_SETREGS, p->tid, 0, regs) ? -errno : 0;
}

int process_run(struct process *p, struct process_regs *regs, struct process_stop *stop)
{
	int status, ret;
	siginfo_t si;

	follow(p);
	if (ptrace(PTRACE_SYSEMU, p->tid, 0, 0))
		return -errno;
	ret = await_stop(p, &status);
	if (ret)
		return ret;
	ret = process_get_regs(p, regs);
	if (ret)
		return ret;
	*stop = (struct process_stop){ .sig = WSTOPSIG(status) };
	if (stop->sig == (SIGTRAP | 0x80))
		stop->sig = 0;
	else if (stop->sig != KICK_SIGNAL && !ptrace(PTRACE_GETSIGINFO, p->tid, 0, &si))
		describe(&si, stop);
	return 0;
}

int process_break(struct process *p, unsigned i, u64 addr)
{
	size_t dr = USER_DEBUGREG;

	/* Off while it is moved, as it must not be in the kernel's half at any time. */
	if (ptrace(PTRACE_POKEUSER, p->tid, dr + 8 * 7, p->dr7 & ~BIT(2 * i)) ||
	    ptrace(PTRACE_POKEUSER, p->tid, dr + 8 * i, addr) ||
	    ptrace(PTRACE_POKEUSER, p->tid, dr + 8 * 7, p->dr7 | BIT(2 * i)))
		return -errno;
	p->dr7 |= BIT(2 * i);
	return 0;
}

int process_break_off(struct process *p, unsigned i)
{
	p->dr7 &= ~BIT(2 * i);
	return ptrace(PTRACE_POKEUSER, p->tid, USER_DEBUGREG + 8 * 7, p->dr7) ? -errno
									      : 0;
}

int process_break_none(struct process *p)
{
	if (!p->dr7)
		return 0;
	p->dr7 = 0;
	return ptrace(PTRACE_POKEUSER, p->tid, USER_DEBUGREG + 8 * 7, 0) ? -errno : 0;
}

int process_vec_get(struct process *p, void *area, size_t len)
{
	struct iovec io = { area, len };

	if (ptrace(PTRACE_GETREGSET, p->tid, NT_X86_XSTATE, &io))
		return -errno;
	return (int)io.iov_len;
}

int process_vec_set(struct process *p, const void *area, size_t len)
{
	struct iovec io = { (void *)(uintptr_t)area, len };

	return ptrace(PTRACE_SETREGSET, p->tid, NT_X86_XSTATE, &io) ? -errno : 0;
}

u64 process_thread(const struct process *p)
{
	return (u64)p->pid << 32 | (u32)p->tid;
}

void process_kick(u64 thread)
{
	syscall(SYS_tgkill, (pid_t)(thread >> 32), (pid_t)(u32)thread, KICK_SIGNAL);
}
