/*
 * Paths through the guest's kernel: system calls, page faults, signals, reads. One
 * process.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"

#define PAGE 4096

/* ---- syscall: in and out, the kernel does next to nothing ---- */

static u64 syscalls(u64 n)
{
	u64 sum = 0;

	while (n--)
		sum += syscall(SYS_getppid) >= 0;
	return sum;
}

/* ---- mmap: map 64 pages, touch each, unmap ---- */

static u64 map_touch(u64 n)
{
	u64 sum = 0;

	while (n--) {
		u8 *p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			give_up("mmap");
		for (size_t i = 0; i < 64; i++)
			sum += ++p[i * PAGE];
		if (munmap(p, 64 * PAGE))
			give_up("munmap");
	}
	return sum;
}

/* ---- mprotect: 16 pages read-only and back, with a store to one of them ---- */

static u64 protect(u64 n)
{
	u8 *p = pages(16 * PAGE);
	u64 sum = 0;

	for (; n; n--) {
		if (mprotect(p, 16 * PAGE, PROT_READ))
			give_up("mprotect");
		sum += p[3 * PAGE];
		if (mprotect(p, 16 * PAGE, PROT_READ | PROT_WRITE))
			give_up("mprotect");
		p[3 * PAGE] = (u8)n;
	}
	return sum;
}

/* ---- signal: send one to ourselves, handle it, return ---- */

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
	(void)sig;
	handled++;
}

static u64 signals(u64 n)
{
	struct sigaction sa = { .sa_handler = on_signal };
	u64 sum = 0;

	sigaction(SIGUSR1, &sa, NULL);
	while (n--) {
		handled = 0;
		if (kill(getpid(), SIGUSR1))
			give_up("kill");
		sum += (u64)handled;
	}
	return sum;
}

/* ---- fault: a store to a read-only page, repaired by the handler ---- */

static u8 *faulting;

static void on_fault(int sig)
{
	(void)sig;
	mprotect(faulting, PAGE, PROT_READ | PROT_WRITE);
	handled++;
}

static u64 faults(u64 n)
{
	struct sigaction sa = { .sa_handler = on_fault };

	faulting = pages(PAGE);
	sigaction(SIGSEGV, &sa, NULL);
	handled = 0;
	while (n--) {
		mprotect(faulting, PAGE, PROT_READ);
		*(volatile u8 *)faulting = 1;
	}
	return (u64)handled;
}

/* ---- read4k: a file that is in the page cache, in pieces of 4 KiB ---- */

#define FILE_PAGES 1024

static int cached_file(void)
{
	char name[] = "kernel.XXXXXX";
	int fd = mkstemp(name);
	u8 buf[PAGE];

	if (fd < 0)
		give_up(name);
	unlink(name);
	for (unsigned i = 0; i < FILE_PAGES; i++) {
		memset(buf, (int)i, sizeof(buf));
		if (write(fd, buf, sizeof(buf)) != sizeof(buf))
			give_up("write");
	}
	return fd;
}

static u64 read4k(u64 n)
{
	int fd = cached_file();
	u8 buf[PAGE];
	u64 sum = 0;

	while (n--) {
		lseek(fd, 0, SEEK_SET);
		for (unsigned i = 0; i < FILE_PAGES; i++) {
			if (read(fd, buf, sizeof(buf)) != sizeof(buf))
				give_up("read");
			sum += buf[i];
		}
	}
	return sum;
}

/* ---- open: a name walked through the directory cache ---- */

static u64 open_close(u64 n)
{
	u64 sum = 0;

	while (n--) {
		int fd = open("/proc/../dev/null", O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			give_up("/dev/null");
		close(fd);
		sum++;
	}
	return sum;
}

const struct kernel path_kernels[] = {
	{ "syscall", syscalls }, { "mmap", map_touch }, { "mprotect", protect },
	{ "signal", signals },   { "fault", faults },   { "read4k", read4k },
	{ "open", open_close },  { NULL, NULL },
};
