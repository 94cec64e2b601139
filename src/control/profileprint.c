/*
 * Printing of profiles.
 *
 * Samples tell shares, and the thread's clock what they are shares of. A hit rate of the
 * TLB would need a count of accesses, and translated code counts none: adding to a
 * counter costs it more than the look-up. What can be told is how often it misses in the
 * time that guest code ran.
 *
 * No state. Machine stopped; while it runs, the times are about right.
 */
#include "control/profileprint.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "control/profile.h"
#include "cpu/vm.h"

#define TOP 20

static const struct {
	const char *id, *text;
} doings[DOING_COUNT] = {
	[DOING_CODE] = { "code", "translated code" },
	[DOING_LOOP] = { "loop", "finding code, events" },
	[DOING_INTERPRET] = { "interpreter", "interpreting" },
	[DOING_DECODE] = { "decoder", "decoding" },
	[DOING_TRANSLATE] = { "translator", "translating" },
	[DOING_FILL] = { "tlb_fill", "filling the TLB" },
	[DOING_DEVICES] = { "devices", "devices" },
	[DOING_DIRECT] = { "direct_switch", "going to user code that runs directly" },
	[DOING_WAIT] = { "wait", "going to sleep and waking up" },
};

/* Nanoseconds of CPU time, and how many of them what took. */
struct times {
	double cpu, direct, of[DOING_COUNT];
};

static void times_add(struct times *t, const struct profile *p)
{
	double sampled = 0;

	if (!p)
		return;
	for (unsigned i = 0; i < DOING_COUNT; i++)
		sampled += (double)p->ns[i];
	t->cpu += (double)p->cpu_ns;
	t->direct += (double)p->direct_ns;
	for (unsigned i = 0; i < DOING_COUNT && sampled > 0; i++)
		t->of[i] += (double)p->ns[i] * (double)p->cpu_ns / sampled;
}

static struct times times_of_all(struct vm *vm)
{
	struct times t = { 0 };

	for (unsigned i = 0; vm && i < vm_cpus(vm); i++)
		times_add(&t, vm_profile(vm, i));
	return t;
}

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : 0;
}

/* ---- times ---- */

static void print_seconds(FILE *out, double ns, double all, const char *text)
{
	if (ns > 0)
		fprintf(out, "  %15.3f  s %s, %.1f%%\n", ns / 1e9, text,
			percent(ns, all));
}

static void print_cpu(FILE *out, struct vm *vm, unsigned index)
{
	struct times t = { 0 };

	times_add(&t, vm_profile(vm, index));
	fprintf(out, "  %15.3f  s CPU %u", (t.cpu + t.direct) / 1e9, index);
	for (unsigned i = 0; i < DOING_COUNT; i++)
		if (percent(t.of[i], t.cpu + t.direct) >= 1)
			fprintf(out, ", %s %.0f%%", doings[i].id,
				percent(t.of[i], t.cpu + t.direct));
	if (percent(t.direct, t.cpu + t.direct) >= 1)
		fprintf(out, ", direct %.0f%%", percent(t.direct, t.cpu + t.direct));
	fputc('\n', out);
}

void times_print(FILE *out, struct vm *vm)
{
	struct times t = times_of_all(vm);
	double all = t.cpu + t.direct;

	if (!(all > 0))
		return;
	fprintf(out, "CPU time\n");
	print_seconds(out, t.of[DOING_CODE], all, doings[DOING_CODE].text);
	print_seconds(out, t.direct, all, "user code that runs directly");
	for (unsigned i = 0; i < DOING_COUNT; i++)
		if (i != DOING_CODE)
			print_seconds(out, t.of[i], all, doings[i].text);
	for (unsigned i = 0; vm_cpus(vm) > 1 && i < vm_cpus(vm); i++)
		print_cpu(out, vm, i);
}

static void json_times(FILE *out, const struct times *t)
{
	fprintf(out, "{\"total\":%.0f,\"direct\":%.0f", t->cpu + t->direct, t->direct);
	for (unsigned i = 0; i < DOING_COUNT; i++)
		fprintf(out, ",\"%s\":%.0f", doings[i].id, t->of[i]);
	fputc('}', out);
}

void times_json(FILE *out, struct vm *vm)
{
	struct times t = times_of_all(vm);

	if (!(t.cpu > 0))
		return;
	fprintf(out, ",\"cpu_ns\":");
	json_times(out, &t);
	fprintf(out, ",\"cpu_ns_of\":[");
	for (unsigned i = 0; i < vm_cpus(vm); i++) {
		t = (struct times){ 0 };
		times_add(&t, vm_profile(vm, i));
		fputs(i ? "," : "", out);
		json_times(out, &t);
	}
	fputc(']', out);
}

/* ---- rates ---- */

static const char *const rate_ids[] = { "code_bytes_per_guest_byte",
					"tlb_misses_per_1000_insns", "tlb_misses_per_ms",
					"memo_misses_per_ms" };
static const char *const rate_texts[] = {
	"bytes of code for a byte of the guest's",
	"TLB misses in 1000 instructions",
	"TLB misses in a millisecond of guest code",
	"misses of remembered addresses in a millisecond of translated code",
};

#define RATES ARRAY_SIZE(rate_ids)

static double ratio(double a, double b)
{
	return b > 0 ? a / b : -1;
}

/* Below 0: not known. */
static void rates_of(const struct vcpu_stats *s, struct vm *vm, double rate[RATES])
{
	struct times t = times_of_all(vm);
	double guest = t.of[DOING_CODE] + t.of[DOING_INTERPRET] + t.of[DOING_FILL];

	rate[0] = ratio((double)s->code_bytes, (double)s->guest_bytes);
	/* Translated code does not count its instructions. */
	rate[1] = s->code_entered ? -1
				  : ratio(1000 * (double)s->tlb_misses, (double)s->insns);
	rate[2] = ratio((double)s->tlb_misses, guest / 1e6);
	rate[3] = ratio((double)s->memo_misses, t.of[DOING_CODE] / 1e6);
}

void rates_print(FILE *out, const struct vcpu_stats *s, struct vm *vm)
{
	bool head = false;
	double rate[RATES];

	rates_of(s, vm, rate);
	for (unsigned i = 0; i < RATES; i++) {
		if (rate[i] < 0)
			continue;
		if (!head)
			fprintf(out, "rates\n");
		head = true;
		fprintf(out, "  %15.3f  %s\n", rate[i], rate_texts[i]);
	}
}

void rates_json(FILE *out, const struct vcpu_stats *s, struct vm *vm)
{
	double rate[RATES];

	rates_of(s, vm, rate);
	for (unsigned i = 0; i < RATES; i++) {
		fprintf(out, "%s\"%s\":", i ? "," : ",\"rates\":{", rate_ids[i]);
		if (rate[i] < 0)
			fprintf(out, "null");
		else
			fprintf(out, "%.6g", rate[i]);
	}
	fputc('}', out);
}

/* ---- functions ---- */

struct function {
	u64 addr;
	const char *name; /* NULL: a page */
	bool user;
	u64 count[SPOT_KINDS];
};

struct functions {
	struct function *f; /* NULL: no memory, or none */
	size_t count;
	u64 sum[SPOT_KINDS]; /* with those that found no room */
};

/* One for each spot. */
static void collect(struct functions *all, const struct profiling *p,
		    const struct vcpu *v, const struct spots *s)
{
	for (unsigned k = 0; k < SPOT_KINDS; k++)
		all->sum[k] += s->lost[k];
	for (unsigned i = 0; i < SPOTS; i++) {
		const struct spot *t = &s->spot[i];
		struct function *f = &all->f[all->count];
		struct symbol found;

		if (!t->lin)
			continue;
		*f = (struct function){ .addr = t->lin & PAGE_MASK,
					.user = t->lin & SPOT_USER };
		if (!f->user && profiling_find(p, v, t->lin & -(u64)SPOT_SIZE, &found)) {
			f->addr = found.addr;
			f->name = found.name;
		}
		for (unsigned k = 0; k < SPOT_KINDS; k++) {
			f->count[k] = t->count[k];
			all->sum[k] += t->count[k];
		}
		all->count++;
	}
}

static int by_address(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	return (x->user > y->user) - (x->user < y->user);
}

static u64 exits(const struct function *f)
{
	return f->count[SPOT_LOOP] + f->count[SPOT_CALL_OUT] + f->count[SPOT_TRAP];
}

static int order(u64 x, u64 y, const void *a, const void *b)
{
	return x != y ? (x > y ? -1 : 1) : by_address(a, b);
}

static int by_time(const void *a, const void *b)
{
	const struct function *x = a, *y = b;

	return order(x->count[SPOT_TIME], y->count[SPOT_TIME], a, b);
}

static int by_exits(const void *a, const void *b)
{
	return order(exits(a), exits(b), a, b);
}

static void merge(struct functions *all)
{
	size_t n = 0;

	qsort(all->f, all->count, sizeof(*all->f), by_address);
	for (size_t i = 0; i < all->count; i++) {
		struct function *last = n ? &all->f[n - 1] : NULL, *f = &all->f[i];

		if (!last || by_address(last, f)) {
			all->f[n++] = *f;
			continue;
		}
		for (unsigned k = 0; k < SPOT_KINDS; k++)
			last->count[k] += f->count[k];
	}
	all->count = n;
}

static void functions_init(struct functions *all, const struct profiling *p,
			   struct vm *vm)
{
	*all = (struct functions){ 0 };
	if (!vm_profile(vm, 0) || !vm_profile(vm, 0)->noted.spot)
		return;
	all->f = calloc(2 * (size_t)SPOTS * vm_cpus(vm), sizeof(*all->f));
	if (!all->f)
		return;
	for (unsigned i = 0; i < vm_cpus(vm); i++) {
		collect(all, p, vm_vcpu(vm, i), &vm_profile(vm, i)->sampled);
		collect(all, p, vm_vcpu(vm, i), &vm_profile(vm, i)->noted);
	}
	merge(all);
}

static void print_top(FILE *out, struct functions *all, bool time)
{
	qsort(all->f, all->count, sizeof(*all->f), time ? by_time : by_exits);
	fprintf(out, "%11s %6s %11s %11s %11s  CPL  where\n", "seconds", "share", "loop",
		"call-outs", "traps");
	for (size_t i = 0; i < MIN(all->count, TOP); i++) {
		const struct function *f = &all->f[i];

		if (!(time ? f->count[SPOT_TIME] : exits(f)))
			break;
		fprintf(out,
			"%11.3f %5.1f%% %11" PRIu64 " %11" PRIu64 " %11" PRIu64
			"  %s    %016" PRIx64 " %s\n",
			(double)f->count[SPOT_TIME] / 1e9,
			percent((double)f->count[SPOT_TIME], (double)all->sum[SPOT_TIME]),
			f->count[SPOT_LOOP], f->count[SPOT_CALL_OUT], f->count[SPOT_TRAP],
			f->user ? "3" : "0", f->addr, f->name ? f->name : "(page)");
	}
}

void profile_print(FILE *out, const struct profiling *p, struct vm *vm)
{
	struct functions all;

	functions_init(&all, p, vm);
	fprintf(out,
		"seconds    CPU time in which samples found the vCPU there\n"
		"loop       times code was looked for there: translated code was left\n"
		"call-outs  instructions that the interpreter executed for translated "
		"code\n"
		"traps      of user code that runs directly\n\n"
		"all\n%11.3f        %11" PRIu64 " %11" PRIu64 " %11" PRIu64 "\n",
		(double)all.sum[SPOT_TIME] / 1e9, all.sum[SPOT_LOOP],
		all.sum[SPOT_CALL_OUT], all.sum[SPOT_TRAP]);
	fprintf(out, "\nby time\n");
	print_top(out, &all, true);
	fprintf(out, "\nby exits\n");
	print_top(out, &all, false);
	free(all.f);
}

static void json_counts(FILE *out, const u64 *count)
{
	fprintf(out,
		"\"ns\":%" PRIu64 ",\"loop\":%" PRIu64 ",\"call_outs\":%" PRIu64
		",\"traps\":%" PRIu64,
		count[SPOT_TIME], count[SPOT_LOOP], count[SPOT_CALL_OUT],
		count[SPOT_TRAP]);
}

static void json_top(FILE *out, struct functions *all, bool time)
{
	qsort(all->f, all->count, sizeof(*all->f), time ? by_time : by_exits);
	fprintf(out, "\"%s\":[", time ? "by_time" : "by_exits");
	for (size_t i = 0; i < MIN(all->count, TOP); i++) {
		const struct function *f = &all->f[i];

		if (!(time ? f->count[SPOT_TIME] : exits(f)))
			break;
		fprintf(out, "%s{\"address\":\"0x%" PRIx64 "\",\"name\":", i ? "," : "",
			f->addr);
		/* Names have nothing that needs an escape. */
		if (f->name)
			fprintf(out, "\"%s\"", f->name);
		else
			fprintf(out, "null");
		fprintf(out, ",\"user\":%s,", f->user ? "true" : "false");
		json_counts(out, f->count);
		fputc('}', out);
	}
	fputc(']', out);
}

void profile_json(FILE *out, const struct profiling *p, struct vm *vm)
{
	struct functions all;

	functions_init(&all, p, vm);
	if (all.f) {
		fprintf(out, ",\"functions\":{\"all\":{");
		json_counts(out, all.sum);
		fprintf(out, "},");
		json_top(out, &all, true);
		fputc(',', out);
		json_top(out, &all, false);
		fputc('}', out);
	}
	free(all.f);
}
