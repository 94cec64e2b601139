/*
 * Processes: fork, exec, pipes, and the two-CPU forms of them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels.h"

static pid_t spawn(void)
{
	pid_t pid = fork();

	if (pid < 0)
		give_up("fork");
	return pid;
}

static u64 reap(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		give_up("waitpid");
	if (status)
		give_up("a child failed");
	return 1;
}

static void transfer(int fd, void *buf, size_t len, bool out)
{
	for (u8 *p = buf; len;) {
		ssize_t done = out ? write(fd, p, len) : read(fd, p, len);

		if (done <= 0)
			give_up(out ? "write" : "read");
		p += done;
		len -= (size_t)done;
	}
}

/* ---- pipe: a byte to another process and back ---- */

static u64 pipe_pong(u64 n)
{
	int there[2], back[2];
	u64 sum = 0;
	u8 byte = 0;
	pid_t pid;

	if (pipe(there) || pipe(back))
		give_up("pipe");
	pid = spawn();
	for (u64 i = 0; i < n; i++) {
		if (!pid) {
			transfer(there[0], &byte, 1, false);
			byte++;
			transfer(back[1], &byte, 1, true);
		} else {
			transfer(there[1], &byte, 1, true);
			transfer(back[0], &byte, 1, false);
			sum += byte;
		}
	}
	if (!pid)
		_exit(0);
	reap(pid);
	return sum;
}

/* ---- fork, exec: a child that ends at once; 4 MiB of it have to be copied on write ----
 */

static u64 forks(u64 n)
{
	u8 *p = pages(4 << 20);
	u64 sum = 0;

	while (n--) {
		pid_t pid = spawn();

		if (!pid)
			_exit(0);
		sum += reap(pid);
		p[(n & 1023) * 4096]++;
	}
	return sum;
}

static u64 execs(u64 n)
{
	static const char path[] = "/proc/self/exe";
	u64 sum = 0;

	while (n--) {
		pid_t pid = spawn();

		if (!pid) {
			execl(path, "kernel", "nothing", NULL);
			_exit(1);
		}
		sum += reap(pid);
	}
	return sum;
}

/* ---- hackbench-like: groups of senders that all write to all receivers of the group
 * ---- */

#define SENDERS   8
#define RECEIVERS 8
#define MESSAGE   100

static void hack_send(int fd[RECEIVERS][2], u64 n)
{
	u8 message[MESSAGE] = { 1 };

	while (n--)
		for (unsigned i = 0; i < RECEIVERS; i++)
			transfer(fd[i][0], message, sizeof(message), true);
	_exit(0);
}

static void hack_receive(int fd, u64 n)
{
	u8 message[MESSAGE];

	for (n *= SENDERS; n; n--)
		transfer(fd, message, sizeof(message), false);
	_exit(0);
}

static u64 hackbench(u64 n)
{
	int fd[RECEIVERS][2];
	pid_t pid[SENDERS + RECEIVERS];
	u64 sum = 0;

	for (unsigned i = 0; i < RECEIVERS; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd[i]))
			give_up("socketpair");
	for (unsigned i = 0; i < RECEIVERS; i++) {
		pid[i] = spawn();
		if (!pid[i])
			hack_receive(fd[i][1], n);
	}
	for (unsigned i = 0; i < SENDERS; i++) {
		pid[RECEIVERS + i] = spawn();
		if (!pid[RECEIVERS + i])
			hack_send(fd, n);
	}
	for (unsigned i = 0; i < SENDERS + RECEIVERS; i++)
		sum += reap(pid[i]);
	return sum;
}

/* ---- two CPUs: the same in two processes, each on its own ---- */

static u64 on_two(u64 n, u64 (*work)(u64 n))
{
	u64 *sums = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);
	pid_t pid[2];

	if (sums == MAP_FAILED)
		give_up("mmap");
	for (unsigned i = 0; i < 2; i++) {
		cpu_set_t set;

		pid[i] = spawn();
		if (pid[i])
			continue;
		CPU_ZERO(&set);
		CPU_SET(i, &set);
		/* Without a second CPU there the two share. */
		sched_setaffinity(0, sizeof(set), &set);
		sums[i] = work(n);
		_exit(0);
	}
	reap(pid[0]);
	reap(pid[1]);
	return sums[0] + sums[1];
}

static u64 smp_fork(u64 n)
{
	return on_two(n, forks);
}

static u64 smp_exec(u64 n)
{
	return on_two(n, execs);
}

const struct kernel process_kernels[] = {
	{ "pipe", pipe_pong },    { "fork", forks },
	{ "exec", execs },        { "hackbench", hackbench },
	{ "smp-fork", smp_fork }, { "smp-exec", smp_exec },
	{ NULL, NULL },
};
