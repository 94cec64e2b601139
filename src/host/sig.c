/*
 * Dispatch of synchronous faults by the address of the faulting instruction.
 *
 * Signal dispositions belong to the process, so this table does too: it is the one piece
 * of mutable global state, and holds entries of any number of machines. Threads: entries
 * are added and removed under 'lock'; the handler reads them without, each entry being
 * guarded by a sequence counter.
 */
#include "host/sig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <ucontext.h>

#include "base/bits.h"

#define MAX_RANGES 1024

struct range {
	_Atomic u32 seq;               /* odd while being changed */
	_Atomic(uintptr_t) start, end; /* end 0: free */
	_Atomic(sig_fn *) fn;
	_Atomic(void *) opaque;
};

static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL };

static struct range ranges[MAX_RANGES];
static _Atomic u32 range_count; /* entries ever used: how far the handler looks */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Under lock; each is written before our handler is there. */
static struct sigaction previous[ARRAY_SIZE(signals)];

/* A consistent copy of the entry if it covers rip. */
static bool range_match(struct range *r, uintptr_t rip, sig_fn **fn, void **opaque)
{
	u32 seq = atomic_load_explicit(&r->seq, memory_order_acquire);
	bool hit;

	if (seq & 1)
		return false;
	hit = rip >= atomic_load_explicit(&r->start, memory_order_relaxed) &&
	      rip < atomic_load_explicit(&r->end, memory_order_relaxed);
	*fn = atomic_load_explicit(&r->fn, memory_order_relaxed);
	*opaque = atomic_load_explicit(&r->opaque, memory_order_relaxed);
	/* Pairs with the release stores in range_set(). */
	atomic_thread_fence(memory_order_acquire);
	return hit && atomic_load_explicit(&r->seq, memory_order_relaxed) == seq;
}

static void range_set(struct range *r, uintptr_t start, uintptr_t end, sig_fn *fn,
		      void *opaque)
{
	atomic_fetch_add_explicit(&r->seq, 1, memory_order_acq_rel);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&r->start, start, memory_order_relaxed);
	atomic_store_explicit(&r->end, end, memory_order_relaxed);
	atomic_store_explicit(&r->fn, fn, memory_order_relaxed);
	atomic_store_explicit(&r->opaque, opaque, memory_order_relaxed);
	atomic_fetch_add_explicit(&r->seq, 1, memory_order_release);
}

static void chain(int sig, siginfo_t *info, void *ctx)
{
	const struct sigaction *old = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		if (signals[i] == sig)
			old = &previous[i];
	if (old->sa_flags & SA_SIGINFO) {
		old->sa_sigaction(sig, info, ctx);
	} else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
		old->sa_handler(sig);
	} else {
		/* Die of it: the faulting instruction is repeated after return; what
		 * kill() sent is not. */
		signal(sig, SIG_DFL);
		if (info->si_code <= 0)
			raise(sig);
	}
}

/* Where the kernel keeps the registers, in encoding order. */
static const u8 greg[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static bool call(sig_fn *fn, void *opaque, int sig, ucontext_t *uc)
{
	greg_t *g = uc->uc_mcontext.gregs;
	struct sig_regs r = {
		.rip = (u64)g[REG_RIP],
		.rflags = (u64)g[REG_EFL],
		.sig = sig,
		.trap = (unsigned)g[REG_TRAPNO],
		.error = (u64)g[REG_ERR],
		.addr = (u64)g[REG_CR2],
	};

	for (unsigned i = 0; i < ARRAY_SIZE(greg); i++)
		r.gpr[i] = (u64)g[greg[i]];
	if (!fn(opaque, &r))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(greg); i++)
		g[greg[i]] = (greg_t)r.gpr[i];
	g[REG_RIP] = (greg_t)r.rip;
	g[REG_EFL] = (greg_t)r.rflags;
	return true;
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	ucontext_t *uc = ctx;
	uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
	u32 n = atomic_load_explicit(&range_count, memory_order_acquire);
	int saved = errno;
	void *opaque;
	sig_fn *fn;

	/* si_code <= 0: sent by kill(), not a fault. */
	for (u32 i = 0; i < n && info->si_code > 0; i++) {
		if (range_match(&ranges[i], rip, &fn, &opaque)) {
			if (call(fn, opaque, sig, uc)) {
				errno = saved;
				return;
			}
			break;
		}
	}
	chain(sig, info, ctx);
	errno = saved;
}

/* Each time: somebody else may have set handlers since, who are then asked after us. */
static int install(struct error *err)
{
	struct sigaction sa = { .sa_sigaction = handler,
				.sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct sigaction now;

	sigemptyset(&sa.sa_mask);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
		if (sigaction(signals[i], NULL, &now) < 0)
			return error_set(err, -errno, "sigaction: %s", strerror(errno));
		if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handler)
			continue;
		/* Keep the old one first: a fault may come right after the new one is
		 * set. */
		previous[i] = now;
		if (sigaction(signals[i], &sa, NULL) < 0)
			return error_set(err, -errno, "sigaction: %s", strerror(errno));
	}
	return 0;
}

int sig_add(const void *start, size_t len, sig_fn *fn, void *opaque, struct error *err)
{
	uintptr_t a = (uintptr_t)start;
	u32 n;
	int r;

	pthread_mutex_lock(&lock);
	r = install(err);
	if (r < 0)
		goto unlock;
	n = atomic_load_explicit(&range_count, memory_order_relaxed);
	for (u32 i = 0; i < MAX_RANGES; i++) {
		if (atomic_load_explicit(&ranges[i].end, memory_order_relaxed))
			continue;
		range_set(&ranges[i], a, a + len, fn, opaque);
		if (i >= n)
			atomic_store_explicit(&range_count, i + 1, memory_order_release);
		r = (int)i;
		goto unlock;
	}
	r = error_set(err, -ENOSPC, "too many ranges of generated code");
unlock:
	pthread_mutex_unlock(&lock);
	return r;
}

void sig_remove(int id)
{
	pthread_mutex_lock(&lock);
	range_set(&ranges[id], 0, 0, NULL, NULL);
	pthread_mutex_unlock(&lock);
}
