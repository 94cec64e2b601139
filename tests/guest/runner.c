/*
 * Runs a small guest on a machine and passes its results on.
 *
 *     runner GUEST [-engine NAME] [-cpus N] [-cpu MODEL] [-timeout SECONDS] [-rows]
 *            [-direct N] [CASE...]
 *
 * Without CASEs the guest runs once, with all that do not end the machine; with them once
 * for each. With -rows the guest names each row of its tables. What COM1 prints goes to
 * standard output. A line "ends HOW NAME" there says how the machine is about to end;
 * whether it did becomes the result of that case. With
 * -direct N a case has failed where user code ran directly less than N times during it.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "control/engines.h"
#include "cpu/hostcpu.h"
#include "engine/direct/direct.h"
#include "machine/devices.h"
#include "machine/pc.h"
#include "x86/cpuid.h"
#include "x86/stats.h"

#define LINE_MAX_ 512

struct runner {
	const char *guest, *engine_name, *cpu;
	unsigned cpus, timeout;
	bool rows, no_nt;
	const struct engine *engine;
	struct cpuid_table cpuid;
	struct pc *pc;
	/* COM1. */
	char line[LINE_MAX_];
	size_t len;
	unsigned results, failures;
	unsigned direct;      /* -direct */
	u64 direct_entries;   /* when the last case ended */
	char ends[LINE_MAX_]; /* "HOW NAME", or empty */
	/* The watch over the time. */
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	bool done, late;
	pthread_t finger;
	bool pressed;
};

static void *press(void *arg)
{
	struct runner *r = arg;

	/* Again and again: it may not be asleep yet. */
	for (unsigned i = 0; i < 100; i++) {
		bool done;

		nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
		pthread_mutex_lock(&r->lock);
		done = r->done;
		pthread_mutex_unlock(&r->lock);
		if (done)
			break;
		pc_press_power(r->pc);
	}
	return NULL;
}

/* The guest's CPUs stand still, or write to COM1. */
static bool ran_directly(struct runner *r)
{
	struct vcpu_stats sum = { 0 };
	u64 entries;

	vm_stats(pc_vm(r->pc), &sum);
	entries = sum.direct_entries - r->direct_entries;
	r->direct_entries = sum.direct_entries;
	printf("# ran directly %llu times\n", (unsigned long long)entries);
	return entries >= r->direct;
}

static void take_line(struct runner *r)
{
	const char *s = r->line;

	r->line[r->len] = 0;
	r->len = 0;
	if (!strncmp(s, "ends ", 5)) {
		snprintf(r->ends, sizeof(r->ends), "%s", s + 5);
		return;
	}
	if (!strcmp(s, "press")) {
		if (!r->pressed)
			r->pressed = !pthread_create(&r->finger, NULL, press, r);
		return;
	}
	if (!strncmp(s, "ok ", 3) && r->direct && !ran_directly(r)) {
		r->results++;
		r->failures++;
		printf("not ok %s: user code did not run directly\n", s + 3);
		return;
	}
	if (!strncmp(s, "not ok ", 7))
		r->failures++;
	if (!strncmp(s, "not ok ", 7) || !strncmp(s, "ok ", 3) || !strncmp(s, "skip ", 5))
		r->results++;
	if (!strncmp(s, "not ok ", 7) && r->direct)
		ran_directly(r);
	puts(s);
}

static size_t com1_write(void *opaque, const u8 *buf, size_t len)
{
	struct runner *r = opaque;

	for (size_t i = 0; i < len; i++) {
		if (buf[i] == '\n' || r->len == sizeof(r->line) - 1)
			take_line(r);
		if (buf[i] != '\n')
			r->line[r->len++] = (char)buf[i];
	}
	return len;
}

static void *watch(void *arg)
{
	struct runner *r = arg;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += r->timeout;
	pthread_mutex_lock(&r->lock);
	while (!r->done && !r->late)
		r->late = pthread_cond_timedwait(&r->done_cond, &r->lock, &until) != 0 &&
			  !r->done;
	if (r->late)
		pc_end(r->pc, VM_STOPPED);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static const char *end_name(enum vm_end end)
{
	switch (end) {
	case VM_POWEROFF: return "poweroff";
	case VM_RESET: return "reset";
	case VM_TRIPLE_FAULT: return "triple";
	case VM_STOPPED: return "stopped";
	case VM_EXITED: return "exited";
	default: return "failed";
	}
}

/* How it ended is a result when the guest announced an end, and when it is a bad one. */
static void judge(struct runner *r, const char *name, enum vm_end end)
{
	char *what = strchr(r->ends, ' ');

	if (r->len)
		take_line(r);
	if (r->late) {
		printf("not ok %s: still runs after %u s\n", what ? what + 1 : name,
		       r->timeout);
		r->failures++;
	} else if (what) {
		*what++ = 0;
		if (!strcmp(r->ends, end_name(end))) {
			printf("ok %s\n", what);
		} else {
			printf("not ok %s: the machine ended by %s, want %s\n", what,
			       end_name(end), r->ends);
			r->failures++;
		}
	} else if (end != VM_POWEROFF || !r->results) {
		printf("not ok %s: the machine ended by %s\n", name, end_name(end));
		r->failures++;
	}
	if (end == VM_TRIPLE_FAULT && (!what || strcmp(r->ends, "triple"))) {
		const struct vcpu *v = vm_fault_vcpu(pc_vm(r->pc));

		if (v)
			printf("# at %x:%llx rsp %llx cr2 %llx, last fault %u error %x\n",
			       v->seg[CS].sel, (unsigned long long)v->rip,
			       (unsigned long long)v->gpr[RSP],
			       (unsigned long long)v->cr2, v->fault.vector,
			       v->fault.error);
	}
	fflush(stdout);
}

/* An ELF of class 64. */
static bool needs_long_mode(const char *guest)
{
	FILE *f = fopen(guest, "re");
	unsigned char ident[5] = { 0 };
	size_t n = f ? fread(ident, 1, sizeof(ident), f) : 0;

	if (f)
		fclose(f);
	return n == sizeof(ident) && ident[4] == 2;
}

static bool has_long_mode(const struct cpuid_table *t)
{
	return t->features[FEAT_LM / 32] >> FEAT_LM % 32 & 1;
}

/* Does the host lose RFLAGS.NT of user code that runs directly? (CAVEATS.md) */
static bool loses_nt(const char *engine)
{
	struct direct_host host = { .nt_kept = true };

	return !strncmp(engine, "translate", 9) && !direct_probe(&host, NULL) &&
	       !host.nt_kept;
}

static void run(struct runner *r, const char *name)
{
	char cmdline[LINE_MAX_];
	struct pc_config cfg = {
		.ram_size = MiB(64),
		.cpus = r->cpus,
		.engine = r->engine,
		.cpuid = &r->cpuid,
		.kernel = r->guest,
		.cmdline = cmdline,
		.serial = { { com1_write, r } },
		.no_reboot = true,
	};
	struct error err = { "" };
	struct device_args lines; /* ports that drive interrupt lines */
	pthread_t thread;
	enum vm_end end;

	device_args_default(&lines, "pc-testdev");
	cfg.device = &lines;
	cfg.devices = 1;
	snprintf(cmdline, sizeof(cmdline), "%s%s%s", r->rows ? "-rows " : "",
		 r->no_nt ? "-no-nt " : "", name);
	if (needs_long_mode(r->guest) && !has_long_mode(&r->cpuid)) {
		printf("skip %s: the CPU has no long mode\n", *name ? name : "guest");
		return;
	}
	r->len = r->results = 0;
	r->direct_entries = 0;
	r->ends[0] = 0;
	r->done = r->late = r->pressed = false;
	r->pc = pc_new(&cfg, &err);
	if (!r->pc) {
		printf("not ok %s: %s\n", name, err.msg);
		r->failures++;
		return;
	}
	pthread_create(&thread, NULL, watch, r);
	end = pc_run(r->pc);
	pthread_mutex_lock(&r->lock);
	r->done = true;
	pthread_cond_signal(&r->done_cond);
	pthread_mutex_unlock(&r->lock);
	pthread_join(thread, NULL);
	if (r->pressed)
		pthread_join(r->finger, NULL);
	judge(r, *name ? name : "guest", end);
	pc_free(r->pc);
}

static int usage(void)
{
	fprintf(stderr, "usage: runner GUEST [-engine NAME] [-cpus N] [-cpu MODEL] "
			"[-timeout SECONDS] [-rows] [-direct N] [CASE...]\n");
	return 2;
}

static int prepare(struct runner *r)
{
	struct host_cpu host = { 0 };
	struct cpuid_request req = { .cpu = r->cpu, .cpus = r->cpus, .tsc_khz = 1000000 };
	struct error err = { "" };
	const char *why;

	r->engine = engines_choose(r->engine_name, &why, &err);
	if (r->engine) {
		hostcpu_read(&host);
		r->no_nt = loses_nt(r->engine_name);
		if (!cpuid_build(&r->cpuid, &req, &host, NULL, &err))
			return 0;
	}
	fprintf(stderr, "runner: %s\n", err.msg);
	return 2;
}

int main(int argc, char **argv)
{
	struct runner r = { .engine_name = "interp", .cpus = 1, .timeout = 60 };
	int i = 2;

	if (argc < 2)
		return usage();
	r.guest = argv[1];
	for (; i < argc && argv[i][0] == '-'; i += 2) {
		if (!strcmp(argv[i], "-rows")) {
			r.rows = true;
			i--;
			continue;
		}
		if (i + 1 >= argc)
			return usage();
		if (!strcmp(argv[i], "-engine"))
			r.engine_name = argv[i + 1];
		else if (!strcmp(argv[i], "-cpus"))
			r.cpus = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "-cpu"))
			r.cpu = argv[i + 1];
		else if (!strcmp(argv[i], "-timeout"))
			r.timeout = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "-direct"))
			r.direct = (unsigned)atoi(argv[i + 1]);
		else
			return usage();
	}
	if (prepare(&r))
		return 2;
	pthread_mutex_init(&r.lock, NULL);
	pthread_cond_init(&r.done_cond, NULL);
	if (i == argc)
		run(&r, "");
	for (; i < argc; i++)
		run(&r, argv[i]);
	return r.failures ? 1 : 0;
}
