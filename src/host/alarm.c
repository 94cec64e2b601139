/*
 * A timer that signals its thread: timer_create(2) with SIGEV_THREAD_ID.
 *
 * The disposition of SIGVTALRM stays: a signal that was on its way when its timer was
 * deleted must not kill the process. It is not that of the thread's alarm then, and
 * ignored. No lock: what is shared with the handler belongs to its thread.
 */
#include "host/alarm.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIGNAL SIGVTALRM

static _Thread_local struct alarm *volatile current;

static void handler(int sig, siginfo_t *info, void *ctx)
{
	struct alarm *a = current;
	int saved = errno;

	(void)sig;
	(void)ctx;
	if (a && info->si_code == SI_TIMER && info->si_value.sival_ptr == a) {
		a->set = false;
		a->fn(a->opaque);
	}
	errno = saved;
}

bool alarm_init(struct alarm *a, alarm_fn *fn, void *opaque)
{
	struct sigaction sa = { .sa_sigaction = handler,
				.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID,
			       .sigev_signo = SIGNAL,
			       .sigev_value.sival_ptr = a };

	*a = (struct alarm){ .fn = fn, .opaque = opaque };
	sigemptyset(&sa.sa_mask);
	/* No name for it before glibc 2.38. */
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (sigaction(SIGNAL, &sa, NULL) || timer_create(CLOCK_MONOTONIC, &ev, &a->timer))
		return false;
	a->made = true;
	current = a;
	return true;
}

void alarm_fini(struct alarm *a)
{
	if (!a->made)
		return;
	timer_delete(a->timer);
	a->made = a->set = false;
	if (current == a)
		current = NULL;
}

void alarm_set(struct alarm *a, u64 ns)
{
	const struct itimerspec once = { .it_value.tv_sec = (time_t)(ns / 1000000000),
					 .it_value.tv_nsec = (long)(ns % 1000000000) };

	if (!a->made || a->set)
		return;
	a->set = true;
	timer_settime(a->timer, 0, &once, NULL);
}
