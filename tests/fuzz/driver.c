/*
 * Runs a fuzz target without libFuzzer: over every file of its corpus, then over
 * inputs made at random from a fixed seed, some of them corpus files with bytes
 * changed. Quick enough for every test run, and the same each time.
 *
 *   PROGRAM [CORPUS]                  a directory, which may be missing
 *   PROGRAM FILE                      one input, say one that libFuzzer found
 *
 * When the target crashes, the last line names the input; number N is made again
 * by the same program, so a debugger stops in it.
 */
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	INPUTS = 20000,
	SIZE_MAX_RANDOM = 512,
	CORPUS_MAX = 1024,
};

struct input {
	uint8_t *data;
	size_t size;
};

/* For the signal handler only. */
static char running[256];

static void crashed(int sig)
{
	signal(sig, SIG_DFL);
	if (write(STDERR_FILENO, running, strlen(running)) >= 0)
		raise(sig);
}

/* The target gets a copy of just the size, so that a sanitizer sees an overrun. */
static void run(const char *name, const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	snprintf(running, sizeof(running), "crashed on input %s\n", name);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static struct input read_file(const char *path)
{
	struct input in = { NULL, 0 };
	struct stat st;
	FILE *f = fopen(path, "rb");

	if (f && fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode)) {
		in.data = malloc((size_t)st.st_size + 1);
		if (in.data)
			in.size = fread(in.data, 1, (size_t)st.st_size, f);
	}
	if (f)
		fclose(f);
	return in;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static size_t run_corpus(const char *path, struct input *corpus)
{
	struct dirent **entries;
	int n = scandir(path, &entries, NULL, by_name);
	size_t count = 0;

	for (int i = 0; i < n; i++) {
		char file[4096];
		struct input in;

		snprintf(file, sizeof(file), "%s/%s", path, entries[i]->d_name);
		in = read_file(file);
		if (in.data && count < CORPUS_MAX) {
			run(file, in.data, in.size);
			corpus[count++] = in;
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	return count;
}

/* xorshift64* */
static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed >> 12;
	*seed ^= *seed << 25;
	*seed ^= *seed >> 27;
	return *seed * UINT64_C(2685821657736338717);
}

static void run_random(const struct input *corpus, size_t count)
{
	uint8_t buf[SIZE_MAX_RANDOM];

	for (uint64_t i = 0; i < INPUTS; i++) {
		uint64_t seed = i * UINT64_C(0x9e3779b97f4a7c15) + 1;
		size_t size = next(&seed) % (sizeof(buf) + 1);
		char name[32];

		for (size_t j = 0; j < size; j++)
			buf[j] = (uint8_t)(next(&seed) >> 32);
		if (count && next(&seed) % 2) {
			const struct input *in = &corpus[next(&seed) % count];

			size = in->size < sizeof(buf) ? in->size : sizeof(buf);
			for (size_t j = 0; j < size; j++)
				if (next(&seed) % 16)
					buf[j] = in->data[j];
		}
		snprintf(name, sizeof(name), "number %u", (unsigned)i);
		run(name, buf, size);
	}
}

int main(int argc, char **argv)
{
	static struct input corpus[CORPUS_MAX];
	const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	struct input in = { NULL, 0 };
	size_t count = 0;

	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		signal(fatal[i], crashed);
	if (argc > 1)
		in = read_file(argv[1]);
	if (in.data) {
		run(argv[1], in.data, in.size);
		free(in.data);
		return 0;
	}
	if (argc > 1)
		count = run_corpus(argv[1], corpus);
	run_random(corpus, count);
	for (size_t i = 0; i < count; i++)
		free(corpus[i].data);
	printf("ok %zu files and %d random inputs\n", count, INPUTS);
	return 0;
}
