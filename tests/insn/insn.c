/*
 * Every instruction form on an engine, with the host CPU as oracle.
 *
 *   insn [--engine NAME] [--seed N] [--rounds N] [--form TEXT] [--verbose] [--all]
 *
 * Forms are found by walking the opcode space (form.c), tried with random encodings,
 * registers and operands (gen.c) in the three code sizes of long mode, and compared in
 * all that a program can see. A table says what was covered; what was not is listed by
 * name. Fails for a difference, or below 95%.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "classify.h"
#include "cpu/hostcpu.h"
#include "engines.h"
#include "gen.h"
#include "host.h"

#define NEED_PERCENT   95.0
#define DEFAULT_ROUNDS 48

struct options {
	const struct engine *engine;
	u64 seed;
	unsigned rounds;
	const char *form;  /* only forms whose name has this */
	bool verbose, all; /* print failed tests, all tests */
};

static struct progress *progress;

/* Did the instruction do its work, rather than fault? */
static bool completed(const struct test *t)
{
	u32 vector = t->host.vector;

	if (t->form->cls == FORM_FAULTS)
		return vector != VEC_BP && vector != VEC_PF;
	switch (t->d.zi.mnemonic) {
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO: return true;
	default: break;
	}
	return vector == VEC_BP || (vector == VEC_DB && (t->start.flags & RFLAGS_TF));
}

static void run_form(struct box *b, struct rng *rng, struct form *f,
		     const struct options *opt)
{
	static struct test t;
	unsigned tries = 0;

	snprintf(progress->now, sizeof(progress->now), "%u-bit %s", 64u >> f->mode,
		 f->name);
	/* What a form's tests start from does not depend on which forms came before. */
	box_fill(b, rng);
	b->slot = rng_below(rng, 128);
	for (unsigned i = 0; i < opt->rounds || (!f->completed && i < opt->rounds * 8);
	     i++) {
		if (!gen_test(b, rng, f, &t)) {
			if (++tries > opt->rounds)
				break;
			continue;
		}
		test_run(b, &t);
		f->runs++;
		f->completed += completed(&t);
		progress->tests++;
		if (opt->all)
			test_print(&t);
		if (!t.diff)
			continue;
		if (!f->failures++)
			snprintf(f->why, sizeof(f->why), "%s", t.diff);
		if (opt->verbose && f->failures <= 2)
			test_print(&t);
	}
	if (rng_one_in(rng, 4))
		guest_flush(b->guest);
}

/* ---- report ---- */

struct row {
	const char *name;
	unsigned known, host, covered, failed;
};

static int row_order(const void *a, const void *b)
{
	return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

static bool on_host(const struct form *f)
{
	return f->cls == FORM_USER || f->cls == FORM_OWN || f->cls == FORM_FAULTS ||
	       f->cls == FORM_REFUSED;
}

static void count(struct row *r, const struct form *f)
{
	if (f->cls == FORM_CLASS_COUNT)
		return;
	r->known++;
	if (!on_host(f))
		return;
	r->host++;
	r->covered += f->completed > 0;
	r->failed += f->failures > 0;
}

static void print_table(const struct form_list *l, enum mode mode, struct row *total)
{
	struct row rows[ZYDIS_ISA_SET_MAX_VALUE + 1] = { { 0 } };

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		rows[i].name = ZydisISASetGetString((ZydisISASet)i);
	for (unsigned i = 0; i < l->count; i++) {
		if (l->form[i].mode != mode)
			continue;
		count(&rows[l->form[i].isa], &l->form[i]);
		count(total, &l->form[i]);
	}
	qsort(rows, ARRAY_SIZE(rows), sizeof(rows[0]), row_order);
	printf("\n%u-bit code\n%-28s %6s %6s %8s %7s\n", 64u >> mode, "instruction set",
	       "known", "host", "covered", "failed");
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].known)
			printf("%-28s %6u %6u %8u %7u\n", rows[i].name, rows[i].known,
			       rows[i].host, rows[i].covered, rows[i].failed);
	printf("%-28s %6u %6u %8u %7u  %.2f%%\n", "total", total->known, total->host,
	       total->covered, total->failed,
	       total->host ? 100.0 * total->covered / total->host : 0);
}

static void list_forms(const struct form_list *l, const char *title,
		       bool (*want)(const struct form *f))
{
	unsigned n = 0;

	for (unsigned i = 0; i < l->count; i++) {
		const struct form *f = &l->form[i];

		if (!want(f))
			continue;
		if (!n++)
			printf("\n%s\n", title);
		printf("  %u-bit %s%s%s\n", 64u >> f->mode, f->name,
		       f->failures ? ": " : "", f->failures ? f->why : "");
	}
}

static bool want_failed(const struct form *f)
{
	return f->failures;
}

static bool want_uncovered(const struct form *f)
{
	return on_host(f) && !f->completed;
}

static bool want_system(const struct form *f)
{
	return f->cls == FORM_SYSTEM && f->mode == MODE64;
}

static bool report(const struct form_list *l)
{
	struct row total[MODE_COUNT] = { { 0 } }, all = { 0 };
	double percent;

	for (unsigned m = 0; m < MODE_COUNT; m++) {
		if (!host_has_mode((enum mode)m)) {
			printf("\n%u-bit code: the host's kernel does not run it\n",
			       64u >> m);
			continue;
		}
		print_table(l, (enum mode)m, &total[m]);
		all.known += total[m].known;
		all.host += total[m].host;
		all.covered += total[m].covered;
		all.failed += total[m].failed;
	}
	list_forms(l, "Not for a host process (guest tests have them):", want_system);
	list_forms(l, "Not covered:", want_uncovered);
	list_forms(l, "FAILED:", want_failed);
	percent = all.host ? 100.0 * all.covered / all.host : 0;
	printf("\n%u forms known, %u on this host, %u covered (%.2f%%), %u failed, %llu "
	       "tests\n\n",
	       all.known, all.host, all.covered, percent, all.failed,
	       (unsigned long long)progress->tests);
	printf("%sok instruction forms equal the host's\n", all.failed ? "not " : "");
	printf("%sok coverage is at least 95%%\n", percent < NEED_PERCENT ? "not " : "");
	return !all.failed && percent >= NEED_PERCENT;
}

/* ---- */

static bool wanted(const struct form *f)
{
	if (f->cls != FORM_USER && f->cls != FORM_OWN && f->cls != FORM_FAULTS)
		return false;
	return host_has_mode((enum mode)f->mode);
}

static int run_all(const struct options *opt)
{
	struct box b = { .guest = guest_open(opt->engine) };
	struct form_list forms = { 0 };
	struct rng rng = { opt->seed };
	struct host_cpu cpu;
	bool good;

	if (!b.guest || !host_open())
		return 77;
	hostcpu_read(&cpu);
	b.features = cpu.features;
	box_fill(&b, &rng);
	forms_find(&forms, cpu.features, guest_features(b.guest), &rng);
	for (unsigned i = 0; i < forms.count; i++) {
		/* Each form has random numbers of its own: leaving some out changes
		 * nothing. */
		struct rng own = { opt->seed ^ forms.form[i].key };

		if (opt->form && !strstr(forms.form[i].name, opt->form))
			forms.form[i].cls = FORM_CLASS_COUNT;
		else if (wanted(&forms.form[i]))
			run_form(&b, &own, &forms.form[i], opt);
	}
	good = report(&forms);
	form_free(&forms);
	guest_close(b.guest);
	return good ? 0 : 1;
}

static int usage(void)
{
	fputs("usage: insn [--engine NAME] [--seed N] [--rounds N] [--form TEXT] "
	      "[--verbose] [--all]\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct options opt = { .engine = engine_by_name("interp"),
			       .seed = 1,
			       .rounds = DEFAULT_ROUNDS };
	pid_t child;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *val = argv[i + 1];

		if (!strcmp(arg, "--verbose")) {
			opt.verbose = true;
			continue;
		}
		if (!strcmp(arg, "--all")) {
			opt.all = true;
			continue;
		}
		if (!val)
			return usage();
		i++;
		if (!strcmp(arg, "--engine"))
			opt.engine = engine_by_name(val);
		else if (!strcmp(arg, "--seed"))
			opt.seed = strtoull(val, NULL, 0);
		else if (!strcmp(arg, "--rounds"))
			opt.rounds = (unsigned)strtoul(val, NULL, 0);
		else if (!strcmp(arg, "--form"))
			opt.form = val;
		else
			return usage();
	}
	if (!opt.engine)
		return usage();
	progress = progress_new();
	if (!progress)
		return 77;
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* In a child, so that a test that hangs or kills it can be named. */
	child = fork();
	if (child < 0)
		return 77;
	if (child == 0)
		exit(run_all(&opt));
	return progress_watch(progress, child);
}
