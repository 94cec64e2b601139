/*
 * `kernel NAME N`: finds the kernel, measures it with the machine's own clocks.
 *
 * Prints one line: name, n, wall and CPU nanoseconds of this process and its children,
 * the sum, and what the kernel noted. Whoever measures from outside uses the sum only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "kernels.h"

static const struct kernel *const lists[] = {
	integer_kernels, float_kernels,   memory_kernels,
	path_kernels,    process_kernels, thread_kernels,
};

#define LISTS (sizeof(lists) / sizeof(lists[0]))

static char notes[512];

void give_up(const char *what)
{
	fprintf(stderr, "kernel: %s: %s\n", what, strerror(errno));
	exit(1);
}

void skip(const char *why)
{
	fprintf(stderr, "kernel: %s\n", why);
	exit(77);
}

u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

void *pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		give_up("mmap");
	return p;
}

void note(const char *name, u64 val)
{
	size_t len = strlen(notes);

	snprintf(notes + len, sizeof(notes) - len, " %s=%llu", name,
		 (unsigned long long)val);
}

static u64 usage_ns(int who)
{
	struct rusage ru;

	getrusage(who, &ru);
	return (u64)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000000 +
	       (u64)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) * 1000;
}

static const struct kernel *find(const char *name)
{
	for (size_t i = 0; i < LISTS; i++)
		for (const struct kernel *k = lists[i]; k->name; k++)
			if (!strcmp(k->name, name))
				return k;
	return NULL;
}

int main(int argc, char **argv)
{
	const struct kernel *k = argc == 3 ? find(argv[1]) : NULL;
	u64 n, wall, sum;

	/* What the exec kernel starts. */
	if (argc == 2 && !strcmp(argv[1], "nothing"))
		return 0;
	if (!k) {
		fprintf(stderr, "Usage: kernel NAME N\nNames:");
		for (size_t i = 0; i < LISTS; i++)
			for (k = lists[i]; k->name; k++)
				fprintf(stderr, " %s", k->name);
		fprintf(stderr, "\n");
		return 2;
	}
	n = strtoull(argv[2], NULL, 0);
	wall = now_ns();
	sum = k->run(n);
	wall = now_ns() - wall;
	printf("%s n=%llu wall=%llu cpu=%llu sum=%016llx%s\n", k->name,
	       (unsigned long long)n, (unsigned long long)wall,
	       (unsigned long long)(usage_ns(RUSAGE_SELF) + usage_ns(RUSAGE_CHILDREN)),
	       (unsigned long long)sum, notes);
	return 0;
}
