/*
 * The translator made awkward, so that tests reach what is seldom reached.
 *
 * translate-eager: nothing is interpreted first. translate-one: the same, with blocks of
 * one instruction, so that every state between two is exact and every instruction is the
 * first and the last of a block. translate-tiny: the least code memory, so that all is
 * dropped and made anew every few hundred blocks. translate-slow: operands and vector
 * state are never found, so that every instruction with either takes the slow stub and
 * the way back. translate-only: nothing runs directly, to compare.
 */
#include "engine/check/check.h"
#include "engine/translate/translate.h"

/* A region of code (front.c) and the common pieces. */
#define TINY KiB(576)

static int eager_open(struct vcpu *v, struct error *err)
{
	return translate_open(
		v, &(struct translate_options){ .eager = true, .undirect = true }, err);
}

static int direct_open(struct vcpu *v, struct error *err)
{
	return translate_open(v, &(struct translate_options){ .direct = true }, err);
}

static int only_open(struct vcpu *v, struct error *err)
{
	return translate_open(v, &(struct translate_options){ .undirect = true }, err);
}

static int one_open(struct vcpu *v, struct error *err)
{
	return translate_open(v,
			      &(struct translate_options){
				      .one = true, .eager = true, .undirect = true },
			      err);
}

static int tiny_open(struct vcpu *v, struct error *err)
{
	return translate_open(v,
			      &(struct translate_options){ .code_size = TINY,
							   .eager = true,
							   .undirect = true },
			      err);
}

static int slow_open(struct vcpu *v, struct error *err)
{
	return translate_open(v,
			      &(struct translate_options){
				      .slow = true, .eager = true, .undirect = true },
			      err);
}

#define VARIANT(id, text, open)                                                          \
	const struct engine engine_translate_##id = {                                    \
		.name = text,                                                            \
		.low = true,                                                             \
		.probe = translate_probe,                                                \
		.vcpu_open = (open),                                                     \
		.vcpu_close = translate_close,                                           \
		.run = translate_run,                                                    \
		.kick = translate_kick,                                                  \
		.push = translate_push,                                                  \
		.locate = translate_locate,                                              \
		.delay = translate_delay,                                                \
	}

VARIANT(direct, "translate-direct", direct_open);
VARIANT(eager, "translate-eager", eager_open);
VARIANT(only, "translate-only", only_open);
VARIANT(one, "translate-one", one_open);
VARIANT(tiny, "translate-tiny", tiny_open);
VARIANT(slow, "translate-slow", slow_open);
