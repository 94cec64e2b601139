/*
 * A timer of a thread's CPU time that signals that thread: timer_create(2) with
 * SIGEV_THREAD_ID.
 *
 * Of the clocks there are only this one counts no time that the thread sleeps, and does
 * not wake it; its signals come on the host's tick. docs/profile.md says why no clock is
 * read instead.
 *
 * A sampler is seen by its thread alone, so there is no lock. The disposition of SIGPROF
 * stays: a signal that was on its way when its timer was deleted must not kill the
 * process, and is ignored.
 */
#include "host/sampler.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/alloc.h"

#define PERIOD_NS 1000000
#define SIGNAL    SIGPROF

struct sampler {
	sampler_fn *fn;
	void *opaque;
	timer_t timer;
};

/* Of this thread; NULL: none. */
static _Thread_local struct sampler *volatile current;

static void handler(int sig, siginfo_t *info, void *ctx)
{
	const ucontext_t *uc = ctx;
	struct sampler *s = current;
	int saved = errno;

	(void)sig;
	if (s && info->si_code == SI_TIMER)
		s->fn(s->opaque, (u64)uc->uc_mcontext.gregs[REG_RIP],
		      ((u64)info->si_overrun + 1) * PERIOD_NS);
	errno = saved;
}

struct sampler *sampler_start(sampler_fn *fn, void *opaque, struct error *err)
{
	struct sigaction sa = { .sa_sigaction = handler,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGNAL };
	struct itimerspec period = { .it_interval.tv_nsec = PERIOD_NS,
				     .it_value.tv_nsec = PERIOD_NS };
	struct sampler *s = xzalloc(sizeof(*s));

	s->fn = fn;
	s->opaque = opaque;
	sigemptyset(&sa.sa_mask);
	/* No name for it before glibc 2.38. */
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (sigaction(SIGNAL, &sa, NULL) ||
	    timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &s->timer)) {
		error_set(err, -errno, "a timer of CPU time: %s", strerror(errno));
		free(s);
		return NULL;
	}
	current = s;
	timer_settime(s->timer, 0, &period, NULL);
	return s;
}

void sampler_stop(struct sampler *s)
{
	if (!s)
		return;
	timer_delete(s->timer);
	current = NULL;
	free(s);
}

u64 sampler_thread_ns(void)
{
	struct timespec t = { 0 };

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}
