/*
 * Accesses that remember the TLB entry they used last (engine/translate/memo.c): what
 * they remember must go when the TLB's does, and an empty memory match no address. The
 * eager engines remember from the first access on.
 */
#include "translate_box.h"

#include <pthread.h>
#include <unistd.h>

#define RUN(prog, level, prep)                                                           \
	struct end r;                                                                    \
	run_program(&(struct program){ #prog, prog, prog##_end, level, prep }, &r)

#define assert_done(r) assert_int_equal((r).vector, VEC_BP)

/* A check that may overwrite the flags, and one that may not. */
#define QUICK(access)    "cmp ecx, 7\n " access "\n add rbx, rdx\n"
#define FLAGLESS(access) "stc\n " access "\n adc rbx, rdx\n"
/* Of a whole group. */
#define GROUP            "stc\n mov rdx, [r14 + 8]\n adc rdx, [r14 + 17]\n adc rbx, rdx\n"
/* Accesses off different registers share no check. */
#define COPIES           "mov r9, rsi\n mov r13, rsi\n mov r14, rsi\n mov r15, rsi\n"

/* Values to tell pages by; linear page 80000h shows one of two. */
#define WINDOW_PTE "qword ptr [0x13000 + 0x80*8]"

static void data_pages(struct box *b)
{
	for (u32 i = 0; i < 0x10000; i += 8)
		poke(b, DATA + i, i * UINT64_C(0x9e3779b97f4a7c15), 8);
	poke(b, PT + 0x80 * 8, DATA | 0x67, 8);
	tlb_flush_all(b->v);
}

static void global_page(struct box *b)
{
	data_pages(b);
	poke(b, PT + 0x80 * 8, DATA | 0x167, 8);
	b->v->cr4 |= CR4_PGE;
	vcpu_sync(b->v);
}

/* ---- mappings that change ---- */

#define ALL_FORMS                                                                        \
	COPIES QUICK("mov rdx, [rsi]") FLAGLESS("mov rdx, [r13]")                        \
		GROUP FLAGLESS("mov rdx, [rsi + rdi*8 + 4]")                             \
			QUICK("mov rdx, [esi + edi*4]")                                  \
				FLAGLESS("movzx edx, word ptr [r15 + 6]")                \
					QUICK("movzx edx, byte ptr [r9]")

#define REMAP(name, how)                                                                 \
	PROGRAM(name, "mov esi, 0x80000\n mov edi, 3\n xor ebx, ebx\n"                   \
		      "mov r12d, 12\n 1: mov ecx, 40\n 2: " ALL_FORMS                    \
		      "dec ecx\n jnz 2b\n xor " WINDOW_PTE ", 0x3000\n" how              \
		      "\n dec r12d\n jnz 1b\n int3")

REMAP(remap_invlpg, "invlpg [rsi + 0x123]");
REMAP(remap_cr3, "mov rax, cr3\n mov cr3, rax");
REMAP(remap_pge, "mov rax, cr4\n xor rax, 0x80\n mov cr4, rax");

static void a_page_that_is_remapped_is_forgotten(void **state)
{
	u64 sum;

	(void)state;
	{
		RUN(remap_invlpg, 0, data_pages);
		assert_done(r);
		sum = r.gpr[RBX];
		free(r.ram);
	}
	{
		RUN(remap_invlpg, 0, global_page);
		assert_int_equal(r.gpr[RBX], sum);
		free(r.ram);
	}
	{
		RUN(remap_cr3, 0, data_pages);
		assert_int_equal(r.gpr[RBX], sum);
		free(r.ram);
	}
	RUN(remap_pge, 0, global_page);
	assert_int_equal(r.gpr[RBX], sum);
	free(r.ram);
}

/* As long as the TLB keeps it, an access may or may not see the old page. Here it does.
 */
static void a_global_page_survives_cr3(void **state)
{
	(void)state;
	RUN(remap_cr3, 0, global_page);
	assert_done(r);
	free(r.ram);
}

PROGRAM(protect, "mov esi, 0x80000\n mov ecx, 60\n 1: cmp ecx, 7\n mov [rsi], rcx\n stc\n"
		 "mov [rsi + rcx*8], ecx\n sbb rbx, rbx\n dec ecx\n jnz 1b\n"
		 "cmp r12d, 1\n je 2f\n mov r12d, 1\n mov ecx, 3\n"
		 "and " WINDOW_PTE ", ~2\n invlpg [rsi]\n jmp 1b\n 2: int3");

static void write_protect(struct box *b)
{
	data_pages(b);
	b->v->cr0 |= CR0_WP;
	vcpu_sync(b->v);
}

static void a_page_that_may_not_be_written_any_more(void **state)
{
	(void)state;
	RUN(protect, 0, write_protect);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.error, 3);
	assert_int_equal(r.gpr[RCX], 3);
	free(r.ram);
}

/* mov al, imm8; ret: written where it is executed, by an access that has written data
 * there before. */
static void code_page(struct box *b)
{
	static const u8 code[] = { 0xb0, 0, 0xc3 };

	memcpy(b->ram + CODE2, code, sizeof(code));
}

PROGRAM(becomes_code, "mov esi, 0x48800\n mov ecx, 60\n xor ebx, ebx\n xor eax, eax\n"
		      "1: cmp ecx, 7\n mov [rsi + 1], cl\n test ecx, ecx\n stc\n mov "
		      "[rsi + 0x101], cl\n"
		      "cmp ecx, 30\n ja 2f\n mov esi, 0x48000\n call rsi\n add rbx, rax\n"
		      "2: dec ecx\n jnz 1b\n int3");

static void data_that_becomes_code(void **state)
{
	(void)state;
	RUN(becomes_code, 0, code_page);
	assert_done(r);
	/* The first of the calls finds what was there. */
	assert_int_equal(r.gpr[RBX], 29 * 30 / 2);
	free(r.ram);
}

/* ---- places within pages ---- */

/* Neighbours in linear memory that are none in RAM. */
static void torn(struct box *b)
{
	data_pages(b);
	poke(b, PT + 0x81 * 8, (DATA + 0x5000) | 0x67, 8);
	tlb_flush_all(b->v);
}

PROGRAM(crosses, "mov esi, 0x80fa0\n mov r12d, 40\n xor edi, edi\n xor ebx, ebx\n"
		 "1: mov ecx, 3\n 2: " ALL_FORMS "cmp ecx, 1\n mov [rsi + 3], ecx\n stc\n"
		 "mov [rsi + rdi*2 + 1], rbx\n adc rbx, rdx\n lock add [rsi + 2], ebx\n"
		 "movups xmm0, [rsi + 5]\n movups [rsi + 0x40], xmm0\n"
		 "dec ecx\n jnz 2b\n add rsi, 3\n dec r12d\n jnz 1b\n int3");

static void accesses_that_are_misaligned_or_cross(void **state)
{
	(void)state;
	RUN(crosses, 3, torn);
	assert_done(r);
	free(r.ram);
}

PROGRAM(many_pages, "mov r12d, 3000\n xor edi, edi\n xor ebx, ebx\n mov eax, 12345\n"
		    "1: imul eax, eax, 1103515245\n add eax, 12345\n mov esi, eax\n"
		    "shr esi, 16\n and esi, 0xefe0\n add esi, 0x60000\n" ALL_FORMS
		    "cmp ecx, 1\n mov [rsi], ebx\n dec r12d\n jnz 1b\n int3");

static void accesses_that_go_to_many_pages(void **state)
{
	(void)state;
	RUN(many_pages, 3, data_pages);
	assert_done(r);
	free(r.ram);
}

/* ---- what matches nothing ---- */

/* Nor a last one. */
static void no_first_page(struct box *b)
{
	data_pages(b);
	set_pte(b, 0, 0);
	poke(b, PD + 511 * 8, 0, 8);
	tlb_flush_all(b->v);
}

static void no_first_page_fs(struct box *b)
{
	no_first_page(b);
	b->v->seg[FS].base = UINT64_C(0xffff800000000000);
}

/* Never filled, and filled but emptied. */
#define EMPTY(name, address, first, second, prep)                                        \
	PROGRAM(new_##name,                                                              \
		"mov rsi, " address "\n mov ecx, 5\n xor ebx, ebx\n"                     \
		"xor edi, edi\n 1: " COPIES first second "dec ecx\n jnz 1b\n int3");     \
	PROGRAM(old_##name, "mov esi, 0x80000\n mov ecx, 40\n xor ebx, ebx\n"            \
			    "xor edi, edi\n 1: " COPIES first second                     \
			    "dec ecx\n jnz 1b\n mov rax, cr3\n mov cr3, rax\n"           \
			    "mov rsi, " address "\n mov ecx, 40\n jmp 1b");              \
	static void nothing_matches_##name(void **state)                                 \
	{                                                                                \
		(void)state;                                                             \
		{                                                                        \
			RUN(new_##name, 0, prep);                                        \
			assert_int_not_equal(r.vector, VEC_BP);                          \
			free(r.ram);                                                     \
		}                                                                        \
		RUN(old_##name, 0, prep);                                                \
		assert_int_not_equal(r.vector, VEC_BP);                                  \
		assert_int_equal(r.gpr[RCX], 40);                                        \
		free(r.ram);                                                             \
	}

/* Off RSI, or else off R13. */
#define READ   "mov rdx, [rsi]"
#define READ2  "mov rdx, [r13]"
#define BYTE   "movzx edx, byte ptr [rsi]"
#define BYTE2  "movzx edx, byte ptr [r13]"
#define STORE  "mov [rsi], rdx"
#define STORE2 "mov [r13], rdx"
#define SHORT  "mov edx, [esi + edi]"
#define FSREL  "mov rdx, fs:[rsi]"
EMPTY(zero, "0", QUICK(READ), FLAGLESS(READ2), no_first_page)
EMPTY(zero_flagless, "0", FLAGLESS(READ), QUICK(READ2), no_first_page)
EMPTY(zero_group, "-8", GROUP, QUICK(READ2), no_first_page)
EMPTY(zero_byte, "0", QUICK(BYTE), FLAGLESS(BYTE2), no_first_page)
EMPTY(zero_short, "0x8000000000000000", QUICK(SHORT), FLAGLESS(SHORT), no_first_page)
EMPTY(low_end, "0xff8", FLAGLESS(STORE), QUICK(STORE2), no_first_page)
EMPTY(low_store, "0xff8", QUICK(STORE), FLAGLESS(STORE2), no_first_page)
EMPTY(top, "-1", QUICK(BYTE), FLAGLESS(BYTE2), no_first_page)
EMPTY(top_flagless, "-1", FLAGLESS(BYTE), QUICK(BYTE2), no_first_page)
EMPTY(top_word, "-8", FLAGLESS(READ), QUICK(READ2), no_first_page)
EMPTY(top_cross, "-1", QUICK(READ), FLAGLESS(READ2), no_first_page)
EMPTY(top_cross_group, "-17", GROUP, FLAGLESS(READ2), no_first_page)
EMPTY(sign, "0x8000000000000000", QUICK(READ), FLAGLESS(READ2), no_first_page)
EMPTY(sign_flagless, "0x8000000000000000", FLAGLESS(STORE), QUICK(STORE2), no_first_page)
EMPTY(sign_group, "0x8000000000000000", GROUP, QUICK(READ2), no_first_page)
EMPTY(below_sign, "0x7ffffffffffffff8", FLAGLESS(READ), QUICK(READ2), no_first_page)
EMPTY(half_group, "0x7ffffffffffffff0", GROUP, QUICK(READ2), no_first_page)
EMPTY(fs_sum, "0x0000800000000000", QUICK(FSREL), FLAGLESS(FSREL), no_first_page_fs)
EMPTY(fs_sum_flagless, "0x0000800000000000", FLAGLESS(FSREL), QUICK(FSREL),
      no_first_page_fs)

/* ---- which code has it ---- */

static void run_on(const struct engine *e, const u8 *code, const u8 *end,
		   struct vcpu_stats *s)
{
	count_program(e, &(struct program){ "", code, end, 3, data_pages }, s);
}

PROGRAM(one_page, "mov esi, 0x80000\n mov ecx, 1000\n 1: " COPIES QUICK(READ)
			  FLAGLESS(READ2) GROUP "dec ecx\n jnz 1b\n int3");

static void memos_are_filled_where_they_help(void **state)
{
	struct vcpu_stats s;

	(void)state;
	run_on(&engine_translate_eager, one_page, one_page_end, &s);
	assert_in_range(s.memo_fills, 3, 10);
	assert_int_equal(s.memo_polymorphic, 0);
	run_on(&engine_translate_eager, many_pages, many_pages_end, &s);
	assert_in_range(s.memo_polymorphic, 5, 100);
	run_on(&engine_translate_slow, one_page, one_page_end, &s);
	assert_int_equal(s.memo_fills, 0);
	run_on(&engine_translate, one_page, one_page_end, &s);
	assert_int_equal(s.memo_fills, 0);
}

/* Kicks find it always in the same page. */
struct kicker {
	struct box *b;
	const struct engine *e;
};

static void *kick_often(void *arg)
{
	struct kicker *k = arg;
	u64 *fills = &k->b->stats.memo_fills;

	for (unsigned i = 0; i < 20000 && !__atomic_load_n(fills, __ATOMIC_RELAXED);
	     i++) {
		usleep(500);
		k->e->kick(k->b->v);
	}
	__atomic_store_n(k->b->ram + DATA + 0x8000, 1, __ATOMIC_RELAXED);
	return NULL;
}

PROGRAM(until_told,
	"mov esi, 0x60000\n mov edi, 0x68000\n mov byte ptr [rdi], 0\n 1: " ALL_FORMS
	"cmp byte ptr [rdi], 0\n je 1b\n int3");

static void code_becomes_hot(void **state)
{
	struct kicker k = { .e = &engine_translate,
			    .b = engine_box_new(&engine_translate) };
	pthread_t thread;
	struct end r;

	(void)state;
	if (!k.b)
		skip();
	engine_box_start(k.e, k.b, 3);
	memcpy(k.b->ram + CODE, until_told, (size_t)(until_told_end - until_told));
	pthread_create(&thread, NULL, kick_often, &k);
	engine_box_run(k.e, k.b, &r);
	pthread_join(thread, NULL);
	assert_done(r);
	assert_int_not_equal(k.b->stats.memo_fills, 0);
	free(r.ram);
	engine_box_free(k.e, k.b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_page_that_is_remapped_is_forgotten),
		cmocka_unit_test(a_global_page_survives_cr3),
		cmocka_unit_test(a_page_that_may_not_be_written_any_more),
		cmocka_unit_test(data_that_becomes_code),
		cmocka_unit_test(accesses_that_are_misaligned_or_cross),
		cmocka_unit_test(accesses_that_go_to_many_pages),
		cmocka_unit_test(nothing_matches_zero),
		cmocka_unit_test(nothing_matches_zero_flagless),
		cmocka_unit_test(nothing_matches_zero_group),
		cmocka_unit_test(nothing_matches_zero_byte),
		cmocka_unit_test(nothing_matches_zero_short),
		cmocka_unit_test(nothing_matches_low_end),
		cmocka_unit_test(nothing_matches_low_store),
		cmocka_unit_test(nothing_matches_top),
		cmocka_unit_test(nothing_matches_top_flagless),
		cmocka_unit_test(nothing_matches_top_word),
		cmocka_unit_test(nothing_matches_top_cross),
		cmocka_unit_test(nothing_matches_top_cross_group),
		cmocka_unit_test(nothing_matches_sign),
		cmocka_unit_test(nothing_matches_sign_flagless),
		cmocka_unit_test(nothing_matches_sign_group),
		cmocka_unit_test(nothing_matches_below_sign),
		cmocka_unit_test(nothing_matches_half_group),
		cmocka_unit_test(nothing_matches_fs_sum),
		cmocka_unit_test(nothing_matches_fs_sum_flagless),
		cmocka_unit_test(memos_are_filled_where_they_help),
		cmocka_unit_test(code_becomes_hot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
