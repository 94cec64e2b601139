/*
 * Threads: futexes, page faults in one address space, a contended lock, and how late a
 * timer wakes somebody while another thread does not let go of the CPU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernels.h"

static pthread_t start(void *(*run)(void *arg), void *arg)
{
	pthread_t t;

	errno = pthread_create(&t, NULL, run, arg);
	if (errno)
		give_up("pthread_create");
	return t;
}

static void stay_on(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

/* ---- futex: two threads take turns, each sleeps until it is its own ---- */

struct turns {
	_Atomic u32 turn;
	u64 n;
	bool spread; /* each on its own CPU */
};

static void take_turns(struct turns *t, u32 me)
{
	if (t->spread)
		stay_on(me);
	for (u64 i = 0; i < t->n; i++) {
		while (atomic_load(&t->turn) != me)
			syscall(SYS_futex, &t->turn, FUTEX_WAIT_PRIVATE, !me, NULL, NULL,
				0);
		atomic_store(&t->turn, !me);
		syscall(SYS_futex, &t->turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void *other_turns(void *arg)
{
	take_turns(arg, 1);
	return NULL;
}

static u64 futex_run(u64 n, bool spread)
{
	struct turns t = { .n = n, .spread = spread };
	pthread_t other = start(other_turns, &t);

	take_turns(&t, 0);
	pthread_join(other, NULL);
	return n + atomic_load(&t.turn);
}

static u64 futex(u64 n)
{
	return futex_run(n, false);
}

static u64 smp_futex(u64 n)
{
	return futex_run(n, true);
}

/* ---- smp-fault: two threads map, touch and unmap in one address space ---- */

struct worker {
	u64 n, sum;
	unsigned cpu;
	_Atomic u64 *shared;
};

static void *fault_worker(void *arg)
{
	struct worker *w = arg;

	stay_on(w->cpu);
	for (u64 i = 0; i < w->n; i++) {
		u8 *p = mmap(NULL, 256 << 10, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			give_up("mmap");
		for (size_t at = 0; at < 256 << 10; at += 4096)
			w->sum += ++p[at];
		munmap(p, 256 << 10);
	}
	return NULL;
}

/* ---- smp-lock: locked additions to one word ---- */

static void *lock_worker(void *arg)
{
	struct worker *w = arg;

	stay_on(w->cpu);
	for (u64 i = 0; i < w->n * 1000; i++)
		atomic_fetch_add(w->shared, i);
	return NULL;
}

static u64 two_workers(u64 n, void *(*run)(void *arg))
{
	_Atomic u64 shared = 0;
	struct worker w[2] = { { .n = n, .shared = &shared },
			       { .n = n, .cpu = 1, .shared = &shared } };
	pthread_t other = start(run, &w[1]);

	run(&w[0]);
	pthread_join(other, NULL);
	return w[0].sum + w[1].sum + atomic_load(&shared);
}

static u64 smp_fault(u64 n)
{
	return two_workers(n, fault_worker);
}

static u64 smp_lock(u64 n)
{
	return two_workers(n, lock_worker);
}

/*
 * ---- latency: a thread of real-time priority wakes every millisecond, N times, while
 * another one computes; how late it is, in percentiles ----
 *
 * What is measured is the way from the timer through the interrupt and the scheduler.
 */

static _Atomic bool latency_done;

static void *compute(void *arg)
{
	u64 x = 1;

	(void)arg;
	stay_on(0);
	while (!atomic_load_explicit(&latency_done, memory_order_relaxed))
		for (unsigned i = 0; i < 1000; i++)
			x = x * 6364136223846793005u + 1;
	use(&x);
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

static u64 latency(u64 n)
{
	struct sched_param first = { .sched_priority = 50 };
	u64 *late = pages(n * sizeof(*late)), next;
	pthread_t other;

	if (!n)
		return 0;
	other = start(compute, NULL);
	stay_on(0);
	/* As a normal user the scheduler's own fairness is measured as well. */
	note("realtime", !sched_setscheduler(0, SCHED_FIFO, &first));
	next = now_ns() + 10000000;
	for (u64 i = 0; i < n; i++) {
		struct timespec until = { .tv_sec = (time_t)(next / 1000000000),
					  .tv_nsec = (long)(next % 1000000000) };

		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		late[i] = now_ns() - next;
		/* One that comes later than the next is due counts once. */
		while (next < now_ns())
			next += 1000000;
	}
	atomic_store(&latency_done, true);
	pthread_join(other, NULL);
	qsort(late, n, sizeof(*late), ascending);
	note("min", late[0]);
	note("p50", late[n / 2]);
	note("p90", late[n * 90 / 100]);
	note("p99", late[n * 99 / 100]);
	note("max", late[n - 1]);
	return n;
}

const struct kernel thread_kernels[] = {
	{ "futex", futex },       { "smp-futex", smp_futex }, { "smp-fault", smp_fault },
	{ "smp-lock", smp_lock }, { "latency", latency },     { NULL, NULL },
};
