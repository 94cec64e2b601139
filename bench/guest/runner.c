/*
 * The guest's first program, and its counterpart on the host: runs one command after the
 * other and tells when each begins and ends.
 *
 * As process 1 it mounts what a Linux system has mounted and talks over the second serial
 * port. `runner ROOT CPUS` does the same on standard input and output, with ROOT as its
 * root directory where the host allows that, and on CPUS of the host's CPUs.
 *
 * A line from the host is "N COMMAND", for the shell; or "off". Answers are lines:
 *   @ready NAME=VALUE...
 *   @b                      nothing happens for 50 ms, for the host to look at its clocks
 *   @s                      the command starts
 *   @e STATUS WALL CPU      it has ended; nanoseconds by the clocks of this machine.
 *                           Nothing happens for another 50 ms
 *   |TEXT                   a line of what it printed, the first 4 KiB
 *   @done
 * What a command prints goes to a file first, so that the port takes no part in the
 * measurement.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PORT       "/dev/ttyS1"
#define OUTPUT_MAX 4096
#define PAUSE_US   50000

static FILE *port_in, *port_out;

/* The working directory on a host that gives us no root directory of our own. */
static char scratch[] = "/tmp/bench.XXXXXX";

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(port_out, fmt, args);
	va_end(args);
	fflush(port_out);
}

_Noreturn static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

_Noreturn static void fail(const char *what)
{
	fprintf(stderr, "runner: %s: %s\n", what, strerror(errno));
	if (getpid() == 1)
		power_off();
	exit(1);
}

/* ---- as process 1 ---- */

static void mount_at(const char *type, const char *dir, const char *options)
{
	mkdir(dir, 0755);
	if (mount(type, dir, type, 0, options) && errno != EBUSY)
		fail(dir);
}

static void open_port(void)
{
	struct termios t;
	int fd = open(PORT, O_RDWR | O_NOCTTY);

	if (fd < 0 || tcgetattr(fd, &t))
		fail(PORT);
	cfmakeraw(&t);
	t.c_cflag |= CLOCAL;
	cfsetspeed(&t, B115200);
	if (tcsetattr(fd, TCSANOW, &t))
		fail(PORT);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	port_in = fdopen(fd, "r");
	port_out = fdopen(dup(fd), "w");
	fcntl(fileno(port_out), F_SETFD, FD_CLOEXEC);
}

static void become_init(void)
{
	mount_at("devtmpfs", "/dev", NULL);
	mount_at("proc", "/proc", NULL);
	mount_at("sysfs", "/sys", NULL);
	mount_at("tmpfs", "/tmp", "mode=1777");
	mkdir("/dev/shm", 01777);
	open_port();
	if (chdir("/tmp"))
		fail("/tmp");
}

/* ---- on the host ---- */

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		errno = 0;
	close(fd);
}

/* A name space of our own, in which we may mount, without being anybody outside. */
static bool own_space(void)
{
	char map[64];
	uid_t uid = getuid();
	gid_t gid = getgid();

	if (!unshare(CLONE_NEWNS))
		return true;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
		return false;
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %u 1", gid);
	write_file("/proc/self/gid_map", map);
	return true;
}

static bool bind(const char *root, const char *dir)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s%s", root, dir);
	mkdir(path, 0755);
	return !mount(dir, path, NULL, MS_BIND | MS_REC, NULL);
}

static bool enter(const char *root)
{
	char tmp[PATH_MAX];

	if (!own_space() || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return false;
	if (!bind(root, "/dev") || !bind(root, "/proc"))
		return false;
	snprintf(tmp, sizeof(tmp), "%s/tmp", root);
	mkdir(tmp, 01777);
	return !mount("tmpfs", tmp, "tmpfs", 0, "mode=1777") && !chroot(root) &&
	       !chdir("/tmp");
}

/* Without a root directory of its own a command finds its files by these. */
static void set_paths(const char *root)
{
	char text[PATH_MAX * 4];

	snprintf(text, sizeof(text), "%s/bench:%s/usr/bin:%s/bin", root, root, root);
	setenv("PATH", text, 1);
	snprintf(text, sizeof(text),
		 "%s/usr/lib/x86_64-linux-gnu:%s/lib/x86_64-linux-gnu", root, root);
	setenv("LD_LIBRARY_PATH", text, 1);
	snprintf(text, sizeof(text), "%s/bench", root);
	setenv("B", text, 1);
	if (!mkdtemp(scratch) || chdir(scratch))
		fail(scratch);
	setenv("SCRATCH", scratch, 1);
}

static void remove_scratch(void)
{
	if (getenv("SCRATCH") && system("rm -rf \"$SCRATCH\""))
		fail(scratch);
}

static void become_native(const char *root, unsigned cpus)
{
	cpu_set_t all, some;

	port_in = stdin;
	port_out = fdopen(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3), "w");
	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&some);
	/* From the top: whatever else runs here tends to be on the first. */
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && cpus; cpu--) {
		if (CPU_ISSET(cpu, &all)) {
			CPU_SET(cpu, &some);
			cpus--;
		}
	}
	sched_setaffinity(0, sizeof(some), &some);
	if (!enter(root))
		set_paths(root);
}

/* ---- commands ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t timeval_ns(const struct timeval *t)
{
	return (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_usec * 1000;
}

_Noreturn static void child(const char *command, int out)
{
	int null = open("/dev/null", O_RDONLY);

	if (null >= 0)
		dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	setsid();
	execl("/bin/sh", "sh", "-c", command, NULL);
	_exit(127);
}

static void print_output(int out)
{
	char text[OUTPUT_MAX + 1];
	ssize_t len = pread(out, text, OUTPUT_MAX, 0);

	text[len > 0 ? len : 0] = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		fprintf(port_out, "|%s\n", line);
}

static void run(const char *command)
{
	int out = open("output", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
	    status = -1;
	struct rusage ru;
	uint64_t wall;
	pid_t pid;

	if (out < 0)
		fail("output");
	say("@b\n");
	usleep(PAUSE_US);
	say("@s\n");
	wall = now_ns();
	pid = fork();
	if (!pid)
		child(command, out);
	/* Process 1 is also given orphans. */
	while (pid > 0 && wait4(-1, &status, 0, &ru) != pid)
		;
	wall = now_ns() - wall;
	say("@e %d %llu %llu\n",
	    WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
	    (unsigned long long)wall,
	    (unsigned long long)(timeval_ns(&ru.ru_utime) + timeval_ns(&ru.ru_stime)));
	usleep(PAUSE_US);
	print_output(out);
	close(out);
	say("@done\n");
}

static void print_fact(const char *name, const char *path)
{
	char text[128];
	FILE *f = fopen(path, "r");

	if (!f)
		return;
	if (fgets(text, sizeof(text), f)) {
		text[strcspn(text, "\n")] = 0;
		for (char *c = text; *c; c++)
			if (*c == ' ')
				*c = '_';
		fprintf(port_out, " %s=%s", name, text);
	}
	fclose(f);
}

static void print_ready(void)
{
	struct utsname u;

	uname(&u);
	fprintf(port_out, "@ready release=%s cpus=%ld", u.release,
		sysconf(_SC_NPROCESSORS_ONLN));
	print_fact("clock",
		   "/sys/devices/system/clocksource/clocksource0/current_clocksource");
	print_fact("meltdown", "/sys/devices/system/cpu/vulnerabilities/meltdown");
	print_fact("spectre_v2", "/sys/devices/system/cpu/vulnerabilities/spectre_v2");
	say("\n");
}

int main(int argc, char **argv)
{
	char line[2048];

	setenv("PATH", "/bench:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/tmp", 1);
	setenv("LC_ALL", "C", 1);
	setenv("B", "/bench", 1);
	if (getpid() == 1)
		become_init();
	else if (argc == 3)
		become_native(argv[1], (unsigned)atoi(argv[2]));
	else
		return 2;
	print_ready();
	while (fgets(line, sizeof(line), port_in)) {
		char *command = strchr(line, ' ');

		line[strcspn(line, "\n")] = 0;
		if (!command)
			break;
		*command++ = 0;
		setenv("N", line, 1);
		run(command);
	}
	if (getpid() == 1)
		power_off();
	remove_scratch();
	return 0;
}
