/*
 * In a Linux guest with two CPUs: two programs, one on each, take turns in reading the
 * time without a system call, which would end them. Prints what went wrong, or "time goes
 * on". Built static; tests/boot/kvmclock.sh has it run.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define READS 100000
#define TURNS 1000

struct shared {
	volatile unsigned turn;
	volatile long long passed;
	volatile unsigned back;
};

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int forbid_the_call(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* 0, or what is wrong. */
static int play(struct shared *s, unsigned me)
{
	cpu_set_t cpus;
	long long last;

	CPU_ZERO(&cpus);
	CPU_SET(me, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) || forbid_the_call())
		return 2;
	last = now();
	for (unsigned i = 0; i < READS; i++) {
		long long t = now();

		if (t < last)
			return 3;
		last = t;
	}
	for (unsigned t = me; t < TURNS; t += 2) {
		long long ns;

		while (s->turn != t)
			__builtin_ia32_pause();
		ns = now();
		s->back += ns < s->passed;
		s->passed = ns;
		s->turn = t + 1;
	}
	return 0;
}

int main(void)
{
	struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		return 1;
	for (unsigned i = 0; i < 2; i++)
		if (fork() == 0)
			_exit(play(s, i));
	for (unsigned i = 0; i < 2; i++) {
		int status = 0;

		wait(&status);
		if (WIFSIGNALED(status))
			printf("ended by signal %d\n", WTERMSIG(status));
		else if (status)
			printf("status %d\n", WEXITSTATUS(status));
		if (status)
			return 1; /* the other one waits for ever */
	}
	if (s->back)
		printf("went back %u times\n", s->back);
	else
		puts("time goes on");
	return s->back != 0;
}
