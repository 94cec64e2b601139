/*
 * Decoded and translated code is what memory holds, whoever wrote it: the CPU itself, a
 * device on this or another thread, through an alias; and what the page tables say now.
 */
#include "translate_box.h"

#include "cpu/events.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* Calls CODE2 for ever, and stops after each call. */
PROGRAM(call_and_stop, "1: mov rbx, 0x48000\n"
		       "call rbx\n"
		       "hlt\n"
		       "jmp 1b\n");

/* What INVLPG is done for is in RDX. */
PROGRAM(call_and_flush, "1: call rbx\n"
			"hlt\n"
			"invlpg [rdx]\n"
			"jmp 1b\n");

/* Calls CODE2 and writes beside it, 4000 times. */
PROGRAM(write_beside, "mov ecx, 4000\n"
		      "1: mov rbx, 0x48000\n"
		      "call rbx\n"
		      "add edx, eax\n"
		      "inc dword ptr [0x48800]\n"
		      "dec ecx\n"
		      "jnz 1b\n"
		      "mov eax, edx\n"
		      "hlt\n");

/* Notes the result, for ever. */
PROGRAM(call_and_note, "1: mov rbx, 0x48000\n"
		       "call rbx\n"
		       "mov [0x60000], eax\n"
		       "inc dword ptr [0x60004]\n"
		       "jmp 1b\n");

/* MOV EAX, imm; RET */
static void put_mov(u8 *at, u32 imm)
{
	at[0] = 0xb8;
	memcpy(at + 1, &imm, 4);
	at[5] = 0xc3;
}

static void mov_code(u8 code[6], u32 imm)
{
	put_mov(code, imm);
}

/* As the run loop of cpu/vm.c does it. */
static void take_flush(struct vcpu *v)
{
	if (!(vcpu_events(v) & EV_FLUSH))
		return;
	__atomic_and_fetch(&v->events, ~(u32)EV_FLUSH, __ATOMIC_SEQ_CST);
	vcpu_sync(v);
}

/* To the next HLT of the program. What EAX is there. */
static u32 run_to_stop(const struct engine *e, struct box *b)
{
	enum vcpu_exit why;

	b->v->activity = ACT_RUNNING;
	for (;;) {
		take_flush(b->v);
		why = e->run(b->v);
		if (why != VCPU_EXIT_EVENT)
			break;
	}
	if (why != VCPU_EXIT_HLT)
		fail_msg("%s: left with %u at %llx", e->name, why,
			 (unsigned long long)b->v->rip);
	return (u32)b->v->gpr[RAX];
}

static struct box *start(const struct engine *e, const u8 *code, const u8 *end)
{
	struct box *b = engine_box_new(e);

	if (!b)
		return NULL;
	engine_box_start(e, b, 0);
	memcpy(b->ram + CODE, code, (size_t)(end - code));
	put_mov(b->ram + CODE2, 1);
	return b;
}

#define START(e, program) start(e, program, program##_end)

/* The test for each engine that works here. */
static void for_all(void (*test)(const struct engine *e))
{
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {
		struct error err = { "" };

#ifdef __SANITIZE_ADDRESS__ /* translated code has a stack of its own */
		if (all_engines[i] != &engine_interp)
			continue;
#endif
		if (!all_engines[i]->probe || !all_engines[i]->probe(&err))
			test(all_engines[i]);
	}
}

/* A claim about every engine. */
#define FOR_ALL(name)                                                                    \
	static void name##_on(const struct engine *e);                                   \
	static void name(void **state)                                                   \
	{                                                                                \
		(void)state;                                                             \
		for_all(name##_on);                                                      \
	}                                                                                \
	static void name##_on(const struct engine *e)

FOR_ALL(dma_is_seen_by_the_next_call)
{
	struct box *b = START(e, call_and_stop);
	u8 code[6];

	/* Often enough to be translated, and then changed. */
	for (u32 i = 0; i < 200; i++) {
		mov_code(code, i / 20);
		if (i % 20 == 0)
			assert_true(phys_dma_write(b->phys, CODE2, code, 6));
		assert_int_equal(run_to_stop(e, b), i / 20);
	}
	/* One byte of it, by each way in. */
	assert_true(phys_dma_write(b->phys, CODE2 + 2, "\x12", 1));
	assert_int_equal(run_to_stop(e, b), 9 | 0x1200);
	assert_true(phys_write(b->phys, CODE2 + 3, "\x34", 1));
	assert_int_equal(run_to_stop(e, b), 9 | 0x341200);
	phys_store(b->phys, CODE2 + 4, 0x56, 1);
	assert_int_equal(run_to_stop(e, b), 9 | 0x56341200);
	engine_box_free(e, b);
}

/* The page loses its code when many writes have found none of it, and not before: for
 * user code that runs directly each of them is a trap. */
FOR_ALL(writes_beside_code_end_it)
{
	struct box *b = START(e, write_beside);
	u64 dropped = b->v->stats->blocks_dropped;

	b->v->gpr[RDX] = 0;
	assert_int_equal(run_to_stop(e, b), 4000);
	assert_int_equal(peek(b, CODE2 + 0x800, 4), 4000);
	dropped = b->v->stats->blocks_dropped - dropped;
	assert_in_range(dropped, 2, 100);
	engine_box_free(e, b);
}

struct writer {
	struct box *b;
	gpa_t gpa;
	u8 code[6];
};

static void *write_thread(void *arg)
{
	struct writer *w = arg;

	assert_true(phys_dma_write(w->b->phys, w->gpa, w->code, 6));
	return NULL;
}

static void write_elsewhere(struct box *b, gpa_t gpa, u32 imm)
{
	struct writer w = { .b = b, .gpa = gpa };
	pthread_t thread;

	mov_code(w.code, imm);
	assert_int_equal(pthread_create(&thread, NULL, write_thread, &w), 0);
	pthread_join(thread, NULL);
}

FOR_ALL(dma_of_another_thread_is_seen)
{
	struct box *b = START(e, call_and_stop);

	for (u32 i = 0; i < 60; i++) {
		if (i % 20 == 0)
			write_elsewhere(b, CODE2, i);
		assert_int_equal(run_to_stop(e, b), i / 20 * 20);
	}
	engine_box_free(e, b);
}

/* ---- while it runs ---- */

struct spinner {
	const struct engine *e;
	struct box *b;
	bool stop; /* atomic */
};

static void *spin_thread(void *arg)
{
	struct spinner *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
		take_flush(s->b->v);
		if (s->e->run(s->b->v) != VCPU_EXIT_EVENT)
			break;
		__atomic_and_fetch(&s->b->v->events, ~(u32)EV_STOP, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static u32 noted(struct box *b)
{
	return __atomic_load_n((u32 *)(void *)(b->ram + DATA), __ATOMIC_SEQ_CST);
}

static bool comes_to_note(struct box *b, u32 imm)
{
	for (unsigned ms = 0; ms < 5000; ms++) {
		if (noted(b) == imm)
			return true;
		usleep(1000);
	}
	return false;
}

FOR_ALL(dma_is_seen_by_code_that_runs)
{
	struct box *b = START(e, call_and_note);
	struct spinner s = { .e = e, .b = b };
	pthread_t thread;
	u8 code[6];

	assert_int_equal(pthread_create(&thread, NULL, spin_thread, &s), 0);
	for (u32 i = 1; i <= 8; i++) {
		if (!comes_to_note(b, i))
			fail_msg("%s: still %u, want %u", e->name, noted(b), i);
		mov_code(code, i + 1);
		assert_true(phys_dma_write(b->phys, CODE2, code, 6));
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_SEQ_CST);
	vcpu_post(b->v, EV_STOP);
	if (e->kick)
		e->kick(b->v);
	pthread_join(thread, NULL);
	engine_box_free(e, b);
}

/* ---- mappings ---- */

/* Blocks are kept by physical address: a write by any alias counts for all. */
FOR_ALL(write_through_an_alias_is_seen)
{
	struct box *b = START(e, call_and_stop);

	for (u32 i = 1; i < 40; i++) {
		assert_int_equal(run_to_stop(e, b), i);
		/* The last GiB is the same memory. */
		assert_true(
			mem_write(b->v, DS, 0xffffffffc0000000 + CODE2 + 1, 4, i + 1));
	}
	engine_box_free(e, b);
}

/* The page of the code becomes another one, and INVLPG says so. */
FOR_ALL(remapped_code_page_is_seen_after_invlpg)
{
	struct box *b = START(e, call_and_flush);

	b->v->gpr[RBX] = b->v->gpr[RDX] = CODE2;
	put_mov(b->ram + 0x90000, 2);
	for (u32 i = 0; i < 60; i++) {
		u64 page = i / 10 & 1 ? 0x90000 : CODE2;

		poke(b, PT + (CODE2 >> 12) * 8, page | 0x67, 8);
		/* The program goes on with its INVLPG. */
		assert_int_equal(run_to_stop(e, b), page == CODE2 ? 1 : 2);
	}
	engine_box_free(e, b);
}

/* An instruction over two pages, MOV EAX, imm; RET. Come to at RBX, directly or through
 * what stands in front of it in the first page. */
#define OVER (CODE2 + 0x1000 - 3)
static struct box *start_over_two_pages(const struct engine *e, gva_t from)
{
	struct box *b = START(e, call_and_flush);

	b->v->gpr[RBX] = from;
	b->v->gpr[RDX] = OVER + 3;
	put_mov(b->ram + OVER, 0x11223344);
	memcpy(b->ram + 0x90000, "\x66\x55\xc3", 3);
	return b;
}

/* The second page is exchanged, again and again. */
static void exchange_second_page(const struct engine *e, struct box *b)
{
	for (u32 i = 0; i < 90; i++) {
		bool other = i / 30 & 1;

		poke(b, PT + ((OVER + 3) >> 12) * 8, (other ? 0x90000 : OVER + 3) | 0x67,
		     8);
		assert_int_equal(run_to_stop(e, b), other ? 0x55663344 : 0x11223344);
	}
}

/* The fault is at the instruction, its address is the second page. */
static void take_second_page(const struct engine *e, struct box *b)
{
	poke(b, PT + ((OVER + 3) >> 12) * 8, 0, 8);
	run_to_stop(e, b);
	assert_int_equal(b->v->rip, HANDLERS + 16 * VEC_PF + 1);
	assert_int_equal(b->v->cr2, OVER + 3);
	assert_int_equal(peek(b, b->v->gpr[RSP] + 8, 8), OVER);
}

FOR_ALL(second_page_of_an_instruction_is_looked_up_again)
{
	struct box *b = start_over_two_pages(e, OVER);

	exchange_second_page(e, b);
	/* DMA into either page. */
	assert_true(phys_dma_write(b->phys, OVER + 4, "\x77", 1));
	assert_int_equal(run_to_stop(e, b), 0x77223344);
	assert_true(phys_dma_write(b->phys, OVER + 1, "\x99", 1));
	assert_int_equal(run_to_stop(e, b), 0x77223399);
	take_second_page(e, b);
	engine_box_free(e, b);
}

FOR_ALL(second_page_of_an_instruction_that_is_linked)
{
	struct box *b = start_over_two_pages(e, OVER - 6);

	/* nop; mov ecx, 5 */
	memcpy(b->ram + OVER - 6, "\x90\xb9\x05\0\0\0", 6);
	exchange_second_page(e, b);
	assert_int_equal(b->v->gpr[RCX], 5);
	take_second_page(e, b);
	engine_box_free(e, b);
}

/* One page at two addresses in a row, and an instruction from its end to its beginning.
 */
FOR_ALL(instruction_over_the_end_of_one_page)
{
	struct box *b = START(e, call_and_flush);
	gva_t page2 = CODE2 + 0x1000;

	b->v->gpr[RBX] = page2 - 3;
	b->v->gpr[RDX] = page2;
	memcpy(b->ram + page2 - 3, "\xb8\x44\x33", 3);
	memcpy(b->ram + CODE2, "\x55\x66\xc3", 3);
	poke(b, PT + (page2 >> 12) * 8, CODE2 | 0x67, 8);
	for (u32 i = 0; i < 40; i++)
		assert_int_equal(run_to_stop(e, b), 0x66553344);
	assert_true(phys_dma_write(b->phys, CODE2, "\x77", 1));
	assert_int_equal(run_to_stop(e, b), 0x66773344);
	engine_box_free(e, b);
}

/* ---- what is not to be thrown away ---- */

/* A write next to code, in the same page, kills nothing; and what ran goes on to run. */
static void write_beside_code_keeps_the_block(void **state)
{
	const struct engine *e = &engine_interp;
	struct box *b = START(e, call_and_stop);
	u64 dropped, decoded;

	(void)state;
	run_to_stop(e, b);
	run_to_stop(e, b);
	dropped = b->stats.blocks_dropped;
	decoded = b->stats.blocks_decoded;
	for (unsigned i = 0; i < 20; i++) {
		assert_true(phys_dma_write(b->phys, CODE2 + 6 + i, "\xcc", 1));
		assert_true(phys_dma_write(b->phys, CODE2 - 1 - i, "\xcc", 1));
		assert_true(mem_write(b->v, DS, CODE2 + 0x800 + i, 1, 0));
		assert_int_equal(run_to_stop(e, b), 1);
	}
	assert_int_equal(b->stats.blocks_dropped, dropped);
	assert_int_equal(b->stats.blocks_decoded, decoded);
	/* The last byte of it is another matter. */
	assert_true(phys_dma_write(b->phys, CODE2 + 5, "\xc3", 1));
	assert_int_equal(run_to_stop(e, b), 1);
	assert_int_equal(b->stats.blocks_dropped, dropped + 1);
	engine_box_free(e, b);
}

/* The same of a write by another thread, to the 64 bytes. */
static void write_by_another_thread_drops_what_it_hits(void **state)
{
	const struct engine *e = &engine_interp;
	struct box *b = START(e, call_and_stop);
	u64 dropped, decoded;

	(void)state;
	run_to_stop(e, b);
	run_to_stop(e, b);
	dropped = b->stats.blocks_dropped;
	decoded = b->stats.blocks_decoded;
	write_elsewhere(b, CODE2 + 64, 0);
	write_elsewhere(b, CODE2 + 4096 - 6, 0);
	assert_int_equal(run_to_stop(e, b), 1);
	assert_int_equal(b->stats.blocks_dropped, dropped);
	write_elsewhere(b, CODE2, 2);
	/* Twice is once. */
	write_elsewhere(b, CODE2, 3);
	assert_int_equal(run_to_stop(e, b), 3);
	assert_int_equal(b->stats.blocks_dropped, dropped + 1);
	assert_int_equal(b->stats.blocks_decoded, decoded + 1);
	engine_box_free(e, b);
}

static void *write_all_thread(void *arg)
{
	struct box *b = arg;
	static u8 zero[8192];

	for (u32 off = 0; off < 4096; off += 64)
		phys_dma_write(b->phys, CODE2 + off, zero, 1);
	/* Two that are one entry each, and over the boundary. */
	phys_dma_write(b->phys, CODE2 - 1, zero, 2);
	phys_dma_write(b->phys, CODE2 - 4096, zero, 8192);
	put_mov(b->ram + CODE2, 9);
	phys_note_write(b->phys, CODE2, 6);
	return NULL;
}

/* More than there is room for: nothing that was decoded counts any more. */
FOR_ALL(many_writes_by_another_thread_are_seen)
{
	struct box *b = START(e, call_and_stop);
	pthread_t thread;

	for (u32 i = 0; i < 40; i++) {
		assert_int_equal(run_to_stop(e, b), i % 20 ? 9 : 1);
		assert_int_equal(pthread_create(&thread, NULL, write_all_thread, b), 0);
		pthread_join(thread, NULL);
		assert_int_equal(run_to_stop(e, b), 9);
		if (i == 19)
			write_elsewhere(b, CODE2, 1);
	}
	engine_box_free(e, b);
}

/* When its last block is gone and some writes have found none, a page is plain data, and
 * writes to it are no longer told. */
static void page_without_code_is_plain_again(void **state)
{
	const struct engine *e = &engine_interp;
	struct box *b = START(e, call_and_stop);

	(void)state;
	run_to_stop(e, b);
	assert_true(*phys_page_flags(b->phys, CODE2) & PAGE_CODE);
	/* It may be written and executed in turns. */
	for (unsigned i = 0; i < 3; i++) {
		assert_true(phys_dma_write(b->phys, CODE2, "\x90", 1));
		assert_true(*phys_page_flags(b->phys, CODE2) & PAGE_CODE);
	}
	for (unsigned i = 0; i < 16; i++)
		assert_true(phys_dma_write(b->phys, CODE2, "\x90", 1));
	assert_false(*phys_page_flags(b->phys, CODE2) & PAGE_CODE);
	engine_box_free(e, b);
}

/* Code that is not in RAM is decoded each time, one instruction at a time. */
static u64 device_code(void *dev, u64 off, unsigned size)
{
	u64 val = 0;

	memcpy(&val, (const u8 *)dev + off, size);
	return val;
}

static void device_ignore(void *dev, u64 off, u64 val, unsigned size)
{
	(void)dev;
	(void)off;
	(void)val;
	(void)size;
}

FOR_ALL(code_in_a_device_is_fetched_each_time)
{
	static const struct io_ops ops = { device_code, device_ignore,
					   IO_1 | IO_2 | IO_4 | IO_8 };
	static u8 window[4096];
	struct box *b = START(e, call_and_flush);
	struct error err = { "" };

	assert_int_equal(
		phys_add_mmio(b->phys, "device", 0x10000000, 4096, &ops, window, &err),
		0);
	b->v->gpr[RBX] = b->v->gpr[RDX] = CODE2;
	poke(b, PT + (CODE2 >> 12) * 8, 0x10000067, 8);
	tlb_flush_all(b->v);
	for (u32 i = 0; i < 40; i++) {
		put_mov(window, i);
		assert_int_equal(run_to_stop(e, b), i);
	}
	engine_box_free(e, b);
}

/* ROM is decoded like RAM, and never changes. */
FOR_ALL(code_in_rom_runs)
{
	struct box *b = START(e, call_and_flush);
	struct error err = { "" };
	u8 rom[4096] = { 0 };

	put_mov(rom, 0x600d);
	assert_int_equal(phys_add_rom(b->phys, "rom", 0x10000000, rom, 4096, &err), 0);
	b->v->gpr[RBX] = b->v->gpr[RDX] = CODE2;
	poke(b, PT + (CODE2 >> 12) * 8, 0x10000067, 8);
	tlb_flush_all(b->v);
	for (u32 i = 0; i < 40; i++) {
		assert_int_equal(run_to_stop(e, b), 0x600d);
		phys_store(b->phys, 0x10000001, i, 4);
	}
	engine_box_free(e, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dma_is_seen_by_the_next_call),
		cmocka_unit_test(dma_of_another_thread_is_seen),
		cmocka_unit_test(dma_is_seen_by_code_that_runs),
		cmocka_unit_test(write_through_an_alias_is_seen),
		cmocka_unit_test(remapped_code_page_is_seen_after_invlpg),
		cmocka_unit_test(second_page_of_an_instruction_is_looked_up_again),
		cmocka_unit_test(second_page_of_an_instruction_that_is_linked),
		cmocka_unit_test(instruction_over_the_end_of_one_page),
		cmocka_unit_test(write_beside_code_keeps_the_block),
		cmocka_unit_test(writes_beside_code_end_it),
		cmocka_unit_test(write_by_another_thread_drops_what_it_hits),
		cmocka_unit_test(many_writes_by_another_thread_are_seen),
		cmocka_unit_test(page_without_code_is_plain_again),
		cmocka_unit_test(code_in_a_device_is_fetched_each_time),
		cmocka_unit_test(code_in_rom_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
