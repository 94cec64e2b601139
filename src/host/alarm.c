/*
 * Timers that signal their thread: timer_create(2) with SIGEV_THREAD_ID.
 *
 * The disposition of SIGVTALRM stays: a signal that was on its way when its timer was
 * deleted must not kill the process. It is not that of an alarm of the thread then, and
 * ignored. No lock: what is shared with the handler belongs to its thread, and is a list
 * that is whole between any two instructions.
 */
#include "host/alarm.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIGNAL SIGVTALRM

/* Of this thread. */
static _Thread_local struct alarm *volatile alarms;

static void handler(int sig, siginfo_t *info, void *ctx)
{
	struct alarm *a = alarms;
	int saved = errno;

	(void)sig;
	(void)ctx;
	while (a && info->si_value.sival_ptr != a)
		a = a->next;
	if (a && info->si_code == SI_TIMER) {
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
	struct alarm *at = alarms;

	/* It is there still if another thread has ended it, and stays there. */
	while (at && at != a)
		at = at->next;
	if (!at)
		a->next = alarms;
	a->fn = fn;
	a->opaque = opaque;
	a->made = a->set = false;
	sigemptyset(&sa.sa_mask);
	/* No name for it before glibc 2.38. */
	ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (sigaction(SIGNAL, &sa, NULL) || timer_create(CLOCK_MONOTONIC, &ev, &a->timer))
		return false;
	a->made = true;
	atomic_signal_fence(memory_order_release);
	if (!at)
		alarms = a;
	return true;
}

void alarm_fini(struct alarm *a)
{
	if (!a->made)
		return;
	timer_delete(a->timer);
	a->made = a->set = false;
	/* Not in this list: it is that of another thread. */
	if (alarms == a) {
		alarms = a->next;
		return;
	}
	for (struct alarm *before = alarms; before; before = before->next)
		if (before->next == a)
			before->next = a->next;
}

static void set(struct alarm *a, int flags, u64 ns)
{
	const struct itimerspec once = { .it_value.tv_sec = (time_t)(ns / 1000000000),
					 .it_value.tv_nsec = (long)(ns % 1000000000) };

	timer_settime(a->timer, flags, &once, NULL);
}

void alarm_set(struct alarm *a, u64 ns)
{
	if (!a->made || a->set)
		return;
	a->set = true;
	set(a, 0, ns);
}

void alarm_set_at(struct alarm *a, u64 ns)
{
	if (a->made)
		set(a, TIMER_ABSTIME, ns);
}
