/*
 * The checking engine finds what is wrong: translations are damaged, one byte each, and
 * the run must end with the right report. And it does not find what is not wrong.
 */
#include "translate_box.h"

#include <unistd.h>

#include "engine/check/lockstep.h"

/* Standard error goes to a file meanwhile. */
struct captured {
	int saved;
	FILE *file;
	char text[65536];
};

static void capture(struct captured *c)
{
	fflush(stderr);
	c->saved = dup(2);
	c->file = tmpfile();
	assert_non_null(c->file);
	dup2(fileno(c->file), 2);
}

static void captured(struct captured *c)
{
	size_t n;

	fflush(stderr);
	dup2(c->saved, 2);
	close(c->saved);
	rewind(c->file);
	n = fread(c->text, 1, sizeof(c->text) - 1, c->file);
	c->text[n] = 0;
	fclose(c->file);
}

static struct box *start(const u8 *code, const u8 *end)
{
	struct box *b = engine_box_new(&engine_check);

	if (!b)
		skip();
	engine_box_start(&engine_check, b, 3);
	memcpy(b->ram + CODE, code, (size_t)(end - code));
	return b;
}

static void run_once(struct box *b, enum vcpu_exit want)
{
	enum vcpu_exit why;

	b->v->rip = CODE;
	b->v->gpr[RSP] = STACK3 + 0x1000;
	b->v->cpl = 3;
	box_seg(b, CS, CODE64(3) | 3);
	box_seg(b, SS, DATA32(3) | 3);
	b->v->activity = ACT_RUNNING;
	do
		why = engine_check.run(b->v);
	while (why == VCPU_EXIT_EVENT);
	assert_int_equal(why, want);
}

/* In the translation of the block at CODE, make the first 'from' bytes 'to'. */
static void damage(struct box *b, const void *from, const void *to, unsigned len)
{
	struct translator *t = b->v->engine;
	struct block *blk = block_find_slow(&t->cache, CODE, 8 | 16);
	u8 *p;

	assert_non_null(blk);
	assert_non_null(blk->code);
	p = (u8 *)(uintptr_t)(blk->code->entry - (u64)t->exec_delta);
	for (unsigned i = 0; i + len <= blk->code->size; i++) {
		if (!memcmp(p + i, from, len)) {
			memcpy(p + i, to, len);
			return;
		}
	}
	fail_msg("no such bytes in the translation");
}

static void finds(const u8 *code, const u8 *end, const void *from, const void *to,
		  unsigned len, const char *text)
{
	struct box *b = start(code, end);
	struct captured c;

	run_once(b, VCPU_EXIT_HLT);
	run_once(b, VCPU_EXIT_HLT);
	damage(b, from, to, len);
	capture(&c);
	run_once(b, VCPU_EXIT_ERROR);
	captured(&c);
	if (!strstr(c.text, text) || !strstr(c.text, "guest code") ||
	    !strstr(c.text, "host code"))
		fail_msg("no \"%s\" in: %s", text, c.text);
	engine_box_free(&engine_check, b);
}

PROGRAM(moves, "mov eax, 0x11223344\n mov ecx, eax\n lea rbx, [rip]\n int3");
PROGRAM(adds, "mov eax, 1\n add eax, 1\n mov eax, 0\n int3");
PROGRAM(stores, "mov rbx, 0x60000\n mov dword ptr [rbx], 0x55667788\n int3");
PROGRAM(shuffles, "pcmpeqd xmm1, xmm1\n movaps xmm0, xmm1\n psrld xmm0, 5\n paddd xmm0, "
		  "xmm1\n int3");
PROGRAM(reads_port, "in al, 0x60\n mov ebx, 5\n rdtsc\n int3");
PROGRAM(counts, "mov ecx, 100\n 1: dec ecx\n jnz 1b\n int3");

static void lockstep_finds_a_wrong_register(void **state)
{
	(void)state;
	finds(moves, moves_end, "\x44\x33\x22\x11", "\x45\x33\x22\x11", 4, "gpr[0]");
}

static void lockstep_finds_wrong_flags(void **state)
{
	(void)state;
	/* add eax, 1 to add eax, -1; RAX is 0 afterwards in any case. */
	finds(adds, adds_end, "\x83\xc0\x01", "\x83\xc0\xff", 3, "cc[0]");
}

static void lockstep_finds_wrong_memory(void **state)
{
	(void)state;
	finds(stores, stores_end, "\x88\x77\x66\x55", "\x88\x77\x66\x54", 4,
	      "memory differs");
}

static void lockstep_finds_a_wrong_vector(void **state)
{
	(void)state;
	finds(shuffles, shuffles_end, "\x66\x0f\xfe\xc1", "\x66\x0f\xfe\xc0", 4,
	      "vector or x87 state differs");
}

static void lockstep_runs_the_clock_and_ports_once(void **state)
{
	struct box *b;

	(void)state;
	b = start(reads_port, reads_port_end);
	b->v->ports = io_ports_new();
	b->v->flags |= RFLAGS_IOPL;
	vcpu_sync(b->v);
	run_once(b, VCPU_EXIT_HLT);
	assert_int_equal(b->stats.port_reads, 1);
	assert_true(b->stats.check_impure > 0);
	assert_int_equal((u8)b->v->gpr[RBX], 5);
	io_ports_free(b->v->ports);
	engine_box_free(&engine_check, b);
}

static void lockstep_counts_what_it_compares(void **state)
{
	struct box *b;

	(void)state;
	b = start(counts, counts_end);
	run_once(b, VCPU_EXIT_HLT);
	/* 100 times round, the first together with the MOV; then INT3 and the handler's
	 * HLT. */
	assert_in_range(b->stats.check_blocks, 101, 103);
	assert_in_range(b->stats.check_insns, 202, 204);
	engine_box_free(&engine_check, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lockstep_finds_a_wrong_register),
		cmocka_unit_test(lockstep_finds_wrong_flags),
		cmocka_unit_test(lockstep_finds_wrong_memory),
		cmocka_unit_test(lockstep_finds_a_wrong_vector),
		cmocka_unit_test(lockstep_runs_the_clock_and_ports_once),
		cmocka_unit_test(lockstep_counts_what_it_compares),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
