/*
 * Random tests of an instruction form: an encoding, registers, operands in memory.
 */
#pragma once

#include "form.h"
#include "guest.h"

/* What runs both ways. */
struct box {
	struct guest *guest;
	const u32 *features; /* of the host */
	unsigned slot;       /* where the next code goes */
};

struct test {
	const struct form *form;
	enum mode mode;
	struct decoded d;
	u8 code[16];
	unsigned len;
	u64 at; /* linear address of the code */
	struct state start, guest, host;
	bool own;    /* FORM_OWN */
	bool edge;   /* an operand is where addresses stop being canonical */
	bool memory; /* RW pages differed at byte mem_at */
	u64 mem_at;
	u8 mem_guest[16], mem_host[16];
	const char *diff; /* NULL: the same */
	char text[200];
};

/* Write to the arena on both sides. Only code and RW pages; what lies elsewhere is left
 * out. */
void box_poke(struct box *b, u64 lin, const void *p, unsigned len);
/* Fill the RW pages alike. */
void box_fill(struct box *b, struct rng *rng);

/* Registers with all kinds of contents, nothing placed. */
void gen_state(struct rng *rng, struct state *s, enum mode mode);
u64 gen_value(struct rng *rng);

/* An encoding of this form at random: t->code, t->len, t->d. False: none was found. */
bool gen_code(struct rng *rng, const struct form *f, struct test *t);

/* Make a test of this form. False: no encoding was found that can be tried. */
bool gen_test(struct box *b, struct rng *rng, const struct form *f, struct test *t);

/* Execute on both sides and compare: t->diff. */
void test_run(struct box *b, struct test *t);
/*
 * The second half of it: t->guest and t->host are there, and t->d is the instruction at
 * which they ended.
 */
void test_compare(struct box *b, struct test *t);
void test_print(const struct test *t);
