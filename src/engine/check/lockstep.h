/* What the files of the checking engine share. */
#pragma once

#include "engine/translate/translate.h"
#include "x86/stats.h"
#include "x86/trial.h"

/* How a block was left. */
enum left { LEFT_ON, LEFT_EXIT, LEFT_SHUTDOWN };

/* Where the stand-in's run ended. */
struct ended {
	const struct insn *last;
	bool again; /* in the middle of it: REP */
};

struct check {
	struct vcpu *v; /* the real one */
	struct vcpu *s; /* the stand-in */
	struct trial trial;
	struct vcpu_stats stats; /* of the stand-in, thrown away */
	struct io_ports *ports;  /* the same */
	enum left left[2];       /* of the stand-in, of the real one */
	struct ended ended;
};

/* As translate_options.run_block; its name is for tools/vecfree. */
bool check_run_block(struct translator *t, struct block *b);

/* Why two runs are said to differ. */
enum difference { DIFF_NONE, DIFF_STATE, DIFF_VECTORS, DIFF_MEMORY, DIFF_EXIT };

/* report.c: print it all to standard error. 'pc' is where the block began. */
void check_report(const struct check *c, const struct block *b,
		  const struct tr_code *code, u64 pc, enum difference d);
