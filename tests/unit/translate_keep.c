/*
 * What outlives a flush of the TLB: links between pages that are where they were. And
 * what must not.
 */
#include "translate_box.h"

#define ROUNDS   60
#define PTE(lin) "0x13000 + (" lin " >> 12)*8"

/* Of what CR3 covers, of a page, and of all. */
#define BY_CR3 "mov rdx, cr3\n mov cr3, rdx\n"
#define BY_PAGE                                                                          \
	"invlpg [0x80000]\n invlpg [0x81000]\n invlpg [0x82000]\n invlpg [0x84000]\n"
#define BY_PGE                                                                           \
	"mov rdx, cr4\n xor rdx, 0x80\n mov cr4, rdx\n xor rdx, 0x80\n mov cr4, rdx\n"

/* A page of code: add ebx, number; jmp to the same place in the next one, or ret. */
static void put_page(struct box *b, unsigned n, u8 number, bool last)
{
	u8 code[] = { 0x83, 0xc3, number, 0xe9, 0xf8, 0x0f, 0, 0 };

	if (last)
		code[3] = 0xc3;
	memcpy(b->ram + CODE2 + n * 0x1000, code, sizeof(code));
}

static void map(struct box *b, gva_t lin, unsigned n)
{
	poke(b, PT + (lin >> 12) * 8, (CODE2 + n * 0x1000) | 0x67, 8);
}

/* 80000h, 81000h, 82000h: 1, 2, 4. 84000h, 85000h: 16 and an end, in pages 5 and 6. */
static void prepare(struct box *b)
{
	put_page(b, 0, 1, false);
	put_page(b, 1, 2, false);
	put_page(b, 2, 4, true);
	put_page(b, 3, 8, false);
	put_page(b, 5, 16, false);
	put_page(b, 6, 32, true);
	for (unsigned i = 0; i < 3; i++)
		map(b, 0x80000 + i * 0x1000, i);
	map(b, 0x84000, 5);
	map(b, 0x85000, 6);
	tlb_flush_all(b->v);
}

/* All pages are global but one: what the table is asked for must not be only that. */
static void prepare_global(struct box *b)
{
	prepare(b);
	for (unsigned i = 0; i < 512; i++)
		poke(b, PT + 8 * i, peek(b, PT + 8 * i, 8) | (i == 0x81 ? 0 : 0x100), 8);
	b->v->cr4 |= CR4_PGE;
	tlb_flush_all(b->v);
}

/* A program for each kind of flush. */
#define PROGRAMS(name, text)                                                             \
	PROGRAM(name##_cr3, text(BY_CR3));                                               \
	PROGRAM(name##_page, text(BY_PAGE));                                             \
	PROGRAM(name##_pge, text(BY_PGE))
#define RUN_ONE(name, prep, vec, rbx)                                                    \
	do {                                                                             \
		struct end r;                                                            \
                                                                                         \
		run_program(&(struct program){ #name, name, name##_end, 0, prep }, &r);  \
		assert_int_equal(r.vector, vec);                                         \
		assert_int_equal(r.gpr[RBX], rbx);                                       \
		free(r.ram);                                                             \
	} while (0)
#define RUN_ALL(name, vec, rbx)                                                          \
	do {                                                                             \
		RUN_ONE(name##_cr3, prepare, vec, rbx);                                  \
		RUN_ONE(name##_page, prepare, vec, rbx);                                 \
		RUN_ONE(name##_pge, prepare, vec, rbx);                                  \
	} while (0)

#define BEGIN "mov esi, 0x80000\n mov edi, 0x84000\n mov ecx, 60\n xor ebx, ebx\n 1:"
#define END   "dec ecx\n jnz 1b\n int3"

/* The one in the middle is another one each time. */
#define FLIP(flush)                                                                      \
	BEGIN "call rsi\n call rdi\n xor qword ptr [" PTE(                               \
		"0x81000") "], 0x2000\n" flush END
PROGRAMS(flip, FLIP);

static void the_page_in_the_middle_changes(void **state)
{
	(void)state;
	RUN_ALL(flip, VEC_BP, ROUNDS * (1 + 5 + 4 + 48));
	RUN_ONE(flip_cr3, prepare_global, VEC_BP, ROUNDS * (1 + 5 + 4 + 48));
	RUN_ONE(flip_pge, prepare_global, VEC_BP, ROUNDS * (1 + 5 + 4 + 48));
}

/* It is entered by a link alone. A must be set again, by the fetch. */
#define AGE(flush)                                                                       \
	BEGIN "and byte ptr [" PTE(                                                      \
		"0x82000") "], ~0x20\n" flush                                            \
			   "call rsi\n bt dword ptr [" PTE(                              \
				   "0x82000") "], 5\n adc ebx, 0\n" END
PROGRAMS(age, AGE);

static void pages_become_accessed_again(void **state)
{
	(void)state;
	RUN_ALL(age, VEC_BP, ROUNDS * (7 + 1));
}

/* In the last round but one it may not be executed, or is not there. */
#define FORBID(bit, flush)                                                               \
	BEGIN "call rsi\n cmp ecx, 2\n jne 2f\n btc qword ptr [" PTE(                    \
		"0x81000") "], " bit "\n" flush "2: " END
#define FORBID_NX(flush) FORBID("63", flush)
#define FORBID_P(flush)  FORBID("0", flush)
PROGRAMS(forbid_nx, FORBID_NX);
PROGRAMS(forbid_p, FORBID_P);

static void pages_are_forbidden(void **state)
{
	(void)state;
	RUN_ALL(forbid_nx, VEC_PF, (ROUNDS - 1) * 7 + 1);
	RUN_ALL(forbid_p, VEC_PF, (ROUNDS - 1) * 7 + 1);
}

/*
 * Page 0 moves to 84000h and back, where other code follows it. In between something else
 * is at 80000h, or nothing that is executed.
 */
#define MOVE(flush)                                                                      \
	BEGIN "call rsi\n mov rax, [" PTE("0x80000") "]\n xchg rax, [" PTE(              \
		"0x84000") "]\n mov [" PTE("0x80000") "], rax\n" flush                   \
						      "xchg rsi, rdi\n call rsi\n test " \
						      "ecx, 2\n jz 2f\n call rdi\n "     \
						      "2: " END
PROGRAMS(move, MOVE);

static void a_page_moves(void **state)
{
	(void)state;
	/* From 80000h 7, from 84000h 33; page 5 from 84000h 48, from 80000h 22. */
	RUN_ALL(move, VEC_BP, ROUNDS * (7 + 33) + ROUNDS / 4 * (22 + 48));
}

/* MOV EAX from 81ffdh on: its last bytes are in the page that changes. It is found in the
 * table, and jumped to from 80100h. */
#define STRADDLE(entry, flush)                                                           \
	"mov esi, " entry "\n mov ecx, 60\n xor ebx, ebx\n"                              \
	"1: call rsi\n add rbx, rax\n xor qword ptr [" PTE(                              \
		"0x82000") "], 0x1000\n" flush END
#define STRADDLE_TABLE(flush) STRADDLE("0x81ffd", flush)
#define STRADDLE_LINK(flush)  STRADDLE("0x80100", flush)
PROGRAMS(straddle_table, STRADDLE_TABLE);
PROGRAMS(straddle_link, STRADDLE_LINK);

static void straddle_prepare(struct box *b)
{
	static const u8 mov[] = { 0xb8, 1, 0, 0, 0, 0xc3 };
	static const u8 jmp[] = { 0xe9, 0xf8, 0x1e, 0, 0 };

	prepare(b);
	memcpy(b->ram + CODE2 + 0x100, jmp, sizeof(jmp));
	memcpy(b->ram + CODE2 + 0x1ffd, mov, sizeof(mov));
	/* Page 3 instead of 2. */
	memcpy(b->ram + CODE2 + 0x3000, mov + 3, 3);
	b->ram[CODE2 + 0x3000] = 1;
}

static void an_instruction_over_the_end_changes(void **state)
{
	u64 sum = ROUNDS / 2 * (1 + 0x10001);

	(void)state;
	RUN_ONE(straddle_table_cr3, straddle_prepare, VEC_BP, sum);
	RUN_ONE(straddle_table_page, straddle_prepare, VEC_BP, sum);
	RUN_ONE(straddle_table_pge, straddle_prepare, VEC_BP, sum);
	RUN_ONE(straddle_link_cr3, straddle_prepare, VEC_BP, sum);
	RUN_ONE(straddle_link_page, straddle_prepare, VEC_BP, sum);
	RUN_ONE(straddle_link_pge, straddle_prepare, VEC_BP, sum);
}

/* The page in the middle ceases to be global, and then changes. */
PROGRAM(local, BEGIN "call rsi\n cmp ecx, 40\n ja 3f\n jb 2f\n and byte ptr [" PTE(
		       "0x81000") " + 1], ~1\n" BY_PGE
				  "jmp 3f\n 2: xor qword ptr [" PTE(
					  "0x81000") "], 0x2000\n" BY_CR3 "3: " END);

static void local_prepare(struct box *b)
{
	prepare_global(b);
	poke(b, PT + 0x81 * 8, peek(b, PT + 0x81 * 8, 8) | 0x100, 8);
}

static void a_page_is_not_global_any_more(void **state)
{
	(void)state;
	RUN_ONE(local, local_prepare, VEC_BP, 60 * 5 + 22 * 2 + 19 * (2 + 8));
}

/*
 * 81080h calls what gives it another page every other time, and returns there. RET is not
 * to find its stack missing in the TLB: then it would not look what the top of the shadow
 * stack is.
 */
#define RETURN(flush)                                                                    \
	"mov esi, 0x81080\n mov ecx, 61\n xor ebx, ebx\n lea rdi, [rip + 2f]\n"          \
	"1: call rsi\n dec ecx\n jnz 1b\n int3\n"                                        \
	"2: test ecx, 1\n jz 3f\n xor qword ptr [" PTE(                                  \
		"0x81000") "], 0x2000\n 3:" flush "pop rax\n push rax\n jmp 4f\n 4: ret"
PROGRAMS(ret, RETURN);
/* All of the TLB goes first. */
PROGRAM(ret_all,
	RETURN("mov rdx, cr0\n btc edx, 16\n mov cr0, rdx\n invlpg [0x81000]\n"));

static void return_prepare(struct box *b)
{
	/* call rdi; imul ebx, ebx, 3; add ebx, 2 or 8; ret: the order counts. */
	static const u8 code[] = { 0xff, 0xd7, 0x6b, 0xdb, 3, 0x83, 0xc3, 2, 0xc3 };

	prepare(b);
	memcpy(b->ram + CODE2 + 0x1080, code, sizeof(code));
	memcpy(b->ram + CODE2 + 0x3080, code, sizeof(code));
	b->ram[CODE2 + 0x3087] = 8;
}

static void calls_return_to_what_is_there(void **state)
{
	bool other = false;
	u32 sum = 0;

	(void)state;
	for (unsigned ecx = 61; ecx; ecx--) {
		other ^= ecx & 1;
		sum = 3 * sum + (other ? 8 : 2);
	}
	RUN_ONE(ret_cr3, return_prepare, VEC_BP, sum);
	RUN_ONE(ret_page, return_prepare, VEC_BP, sum);
	RUN_ONE(ret_pge, return_prepare, VEC_BP, sum);
	RUN_ONE(ret_all, return_prepare, VEC_BP, sum);
}

/*
 * A page of 2 MiB at 200000h: its code is executed by what was kept alone after the first
 * flush, so that the TLB knows nothing of it, when another address of it is flushed. It
 * is entered by the table, and from a small page at 84000h by a link.
 */
#define LARGE(entry, flush)                                                              \
	"mov esi, " entry "\n mov ecx, 60\n xor ebx, ebx\n 1: call rsi\n cmp ecx, 2\n"   \
	"jne 2f\n" flush "btc qword ptr [0x12008], 0\n invlpg [0x300000]\n 2: " END
#define LARGE_TABLE(flush) LARGE("0x248000", flush)
#define LARGE_LINK(flush)  LARGE("0x84000", flush)
PROGRAMS(large_table, LARGE_TABLE);
PROGRAMS(large_link, LARGE_LINK);

static void large_prepare(struct box *b)
{
	static const u8 jmp[] = { 0xe9, 0xfb, 0x3f, 0x1c, 0 };

	prepare(b);
	put_page(b, 0, 1, true);
	poke(b, PD + 8, 0xe7, 8);
	memcpy(b->ram + CODE2 + 0x5000, jmp, sizeof(jmp));
	tlb_flush_all(b->v);
}

static void a_large_page_goes(void **state)
{
	(void)state;
	RUN_ONE(large_table_cr3, large_prepare, VEC_PF, ROUNDS - 1);
	RUN_ONE(large_table_pge, large_prepare, VEC_PF, ROUNDS - 1);
	RUN_ONE(large_link_cr3, large_prepare, VEC_PF, ROUNDS - 1);
	RUN_ONE(large_link_pge, large_prepare, VEC_PF, ROUNDS - 1);
}

/*
 * A page is replaced in the tables, and no flush tells. A write and a fetch of another
 * address see the new one, the links still the old one; until the flush.
 */
#define TWICE(flush)                                                                     \
	"mov esi, 0x80000\n mov edi, 0x81080\n mov ecx, 60\n xor ebx, ebx\n 1: call "    \
	"rsi\n"                                                                          \
	"cmp ecx, 2\n jne 2f\n xor qword ptr [" PTE(                                     \
		"0x81000") "], 0x2000\n mov byte ptr [0x81fff], 0\n call rdi\n" flush    \
			   "2: " END
PROGRAMS(twice, TWICE);

static void twice_prepare(struct box *b)
{
	prepare(b);
	b->ram[CODE2 + 0x1080] = b->ram[CODE2 + 0x3080] = 0xc3;
}

static void two_pages_of_code_at_one_address(void **state)
{
	(void)state;
	RUN_ONE(twice_cr3, twice_prepare, VEC_BP, (ROUNDS - 1) * 7 + 13);
	RUN_ONE(twice_page, twice_prepare, VEC_BP, (ROUNDS - 1) * 7 + 13);
	RUN_ONE(twice_pge, twice_prepare, VEC_BP, (ROUNDS - 1) * 7 + 13);
}

/* Nothing changes, and one page does. */
#define STAY(flush) BEGIN "call rsi\n call rdi\n" flush END
PROGRAMS(stay, STAY);

static void links_are_kept(void **state)
{
	static const struct {
		const u8 *code, *end;
	} of[] = { { stay_cr3, stay_cr3_end },
		   { stay_page, stay_page_end },
		   { stay_pge, stay_pge_end } };
	struct vcpu_stats s;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(of); i++) {
		count_program(
			&engine_translate_eager,
			&(struct program){ "stay", of[i].code, of[i].end, 0, prepare },
			&s);
		assert_in_range(s.links, 3, 20);
		assert_in_range(s.far_forgets, 0, 3);
	}
	/* The link to it; those from it are kept while it is away. */
	count_program(&engine_translate_eager,
		      &(struct program){ "flip", flip_cr3, flip_cr3_end, 0, prepare },
		      &s);
	assert_in_range(s.links, ROUNDS, ROUNDS + 20);
	assert_in_range(s.far_forgets, 0, 3);
}

/*
 * Two address spaces by turns, with the same pages at 80000h in one, 90000h in the other.
 * The tables of the second one are 4000h behind those of the first.
 */
#define TABLES2 0x4000u
#define SPACES(at_end)                                                                   \
	"mov esi, 0x80000\n mov edi, 0x90000\n mov ecx, 60\n xor ebx, ebx\n xor eax, "   \
	"eax\n"                                                                          \
	"1: call rsi\n add ebx, eax\n xchg rsi, rdi\n mov rdx, cr3\n xor rdx, 0x4000\n"  \
	"mov cr3, rdx\n" at_end END
PROGRAM(spaces, SPACES(""));
/* In its last round the second one has not the last page any more. */
PROGRAM(spaces_gone, SPACES("cmp ecx, 2\n jne 2f\n btc qword ptr [0x17490], 0\n"
			    "mov cr3, rdx\n 2:"));

static void map2(struct box *b, gva_t lin, unsigned n)
{
	poke(b, PT + TABLES2 + (lin >> 12) * 8, (CODE2 + n * 0x1000) | 0x67, 8);
}

/* Pages 0, 1 and 2 in the first, 0, 'middle' and 'last' in the second. */
static void put_spaces(struct box *b, unsigned middle, unsigned last)
{
	prepare(b);
	memcpy(b->ram + PML4 + TABLES2, b->ram + PML4, 4 * PAGE_SIZE);
	poke(b, PML4 + TABLES2, (PDPT + TABLES2) | 0x27, 8);
	poke(b, PDPT + TABLES2, (PD + TABLES2) | 0x27, 8);
	poke(b, PD + TABLES2, (PT + TABLES2) | 0x27, 8);
	for (unsigned i = 0; i < 3; i++) {
		poke(b, PT + TABLES2 + (0x80 + i) * 8, 0, 8);
		poke(b, PT + (0x90 + i) * 8, 0, 8);
	}
	map2(b, 0x90000, 0);
	map2(b, 0x91000, middle);
	map2(b, 0x92000, last);
	tlb_flush_all(b->v);
}

static void same_pages(struct box *b)
{
	put_spaces(b, 1, 2);
}

static void other_middle(struct box *b)
{
	put_spaces(b, 3, 2);
}

/* 80000h calls 82000h and goes on behind it. */
static void put_call(struct box *b)
{
	static const u8 call[] = { 0xe8, 0xfb, 0x1f, 0, 0, 0x83, 0xc3, 1, 0xc3 };

	put_page(b, 3, 8, true);
	memcpy(b->ram + CODE2, call, sizeof(call));
}

static void calling_spaces(struct box *b)
{
	put_spaces(b, 1, 3);
	put_call(b);
}

static void calling_far(struct box *b)
{
	put_spaces(b, 1, 2);
	put_call(b);
}

/* MOV EAX, of which each has its own end. */
static void straddling_spaces(struct box *b)
{
	static const u8 jmp[] = { 0xe9, 0xf8, 0x1f, 0, 0 };

	straddle_prepare(b);
	put_spaces(b, 1, 3);
	straddle_prepare(b);
	memcpy(b->ram + CODE2, jmp, sizeof(jmp));
	map(b, 0x81000, 1);
}

static void programs_share_pages(void **state)
{
	struct vcpu_stats s;

	(void)state;
	RUN_ONE(spaces, same_pages, VEC_BP, ROUNDS * 7);
	RUN_ONE(spaces, other_middle, VEC_BP, ROUNDS / 2 * (7 + 13));
	RUN_ONE(spaces, calling_spaces, VEC_BP, ROUNDS / 2 * (5 + 9));
	RUN_ONE(spaces, straddling_spaces, VEC_BP, ROUNDS / 2 * (1 + 0x10001));
	RUN_ONE(spaces_gone, same_pages, VEC_PF, (ROUNDS - 1) * 7 + 3);
	RUN_ONE(spaces_gone, other_middle, VEC_PF,
		ROUNDS / 2 * 7 + (ROUNDS / 2 - 1) * 13 + 9);
	count_program(&engine_translate_eager,
		      &(struct program){ "spaces", spaces, spaces_end, 0, same_pages },
		      &s);
	assert_in_range(s.links, 2, 10);
	count_program(&engine_translate_eager,
		      &(struct program){ "spaces", spaces, spaces_end, 0, calling_far },
		      &s);
	assert_in_range(s.links, 2, 10);
	/* Each has a link to the middle that does not hold in the other. */
	count_program(&engine_translate_eager,
		      &(struct program){ "spaces", spaces, spaces_end, 0, other_middle },
		      &s);
	assert_in_range(s.links, ROUNDS, ROUNDS + 10);
}

/* At the end of the lower half, what follows is no address, whatever the tables have
 * where its bits lead: the upper half. */
PROGRAM(edge, "mov esi, 0x80000\n mov ecx, 3\n xor ebx, ebx\n 1: call rsi\n dec ecx\n"
	      "jnz 1b\n mov rsi, 0x7ffffffff000\n call rsi\n int3");

static void edge_prepare(struct box *b)
{
	u64 table = 0x18000;

	prepare(b);
	for (unsigned half = 0; half < 2; half++) {
		unsigned index = half ? 0 : 511;

		poke(b, PML4 + (255 + half) * 8, table | 0x27, 8);
		poke(b, table + index * 8, (table + 0x1000) | 0x27, 8);
		poke(b, table + 0x1000 + index * 8, (table + 0x2000) | 0x27, 8);
		poke(b, table + 0x2000 + index * 8, (CODE2 + half * 0x1000) | 0x67, 8);
		table += 0x3000;
	}
	tlb_flush_all(b->v);
}

static void a_link_ends_with_the_lower_half(void **state)
{
	(void)state;
	RUN_ONE(edge, edge_prepare, VEC_GP, 3 * 7 + 1);
}

/*
 * A chain of more pages than are woken at once: EBX = 3 * EBX + number in each. Between
 * the rounds other code runs in the other space, where they are in another order, or not
 * at all.
 */
#define CHAIN 100u
#define LONG  0x100000u
PROGRAM(chain, "mov esi, 0x100000\n mov edi, 0x84000\n mov ecx, 60\n xor ebx, ebx\n"
	       "1: call rsi\n mov rdx, cr3\n xor rdx, 0x4000\n mov cr3, rdx\n"
	       "call rdi\n test eax, eax\n jz 2f\n call rsi\n"
	       "2: mov rdx, cr3\n xor rdx, 0x4000\n mov cr3, rdx\n" END);

static void put_chain(struct box *b)
{
	u8 code[] = { 0x6b, 0xdb, 3, 0x83, 0xc3, 0, 0xe9, 0xf5, 0x0f, 0, 0 };

	same_pages(b);
	for (unsigned i = 0; i < CHAIN + 2; i++) {
		code[5] = (u8)i;
		memcpy(b->ram + LONG + i * PAGE_SIZE, code, sizeof(code));
		poke(b, PT + TABLES2 + ((LONG >> 12) + i) * 8, 0, 8);
	}
	b->ram[LONG + CHAIN * PAGE_SIZE] = b->ram[LONG + (CHAIN + 1) * PAGE_SIZE] = 0xc3;
	b->v->gpr[RAX] = 0;
	tlb_flush_all(b->v);
}

static void put_chain_twice(struct box *b)
{
	put_chain(b);
	for (unsigned i = 0; i < CHAIN + 2; i++)
		poke(b, PT + TABLES2 + ((LONG >> 12) + i) * 8,
		     (LONG + (i ^ 1) * PAGE_SIZE) | 0x67, 8);
	b->v->gpr[RAX] = 1;
	tlb_flush_all(b->v);
}

static u32 chain_sum(u32 x, unsigned flip)
{
	for (unsigned i = 0; i < CHAIN; i++)
		x = 3 * x + (i ^ flip);
	return x;
}

static void many_pages_are_woken(void **state)
{
	struct vcpu_stats s;
	u32 once = 0, twice = 0;

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++) {
		once = chain_sum(once, 0) + 48;
		twice = chain_sum(chain_sum(twice, 0) + 48, 1);
	}
	RUN_ONE(chain, put_chain, VEC_BP, once);
	RUN_ONE(chain, put_chain_twice, VEC_BP, twice);
	count_program(&engine_translate_eager,
		      &(struct program){ "chain", chain, chain_end, 0, put_chain }, &s);
	assert_in_range(s.links, CHAIN + ROUNDS - 2, CHAIN + ROUNDS + 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_page_in_the_middle_changes),
		cmocka_unit_test(pages_become_accessed_again),
		cmocka_unit_test(pages_are_forbidden),
		cmocka_unit_test(a_page_moves),
		cmocka_unit_test(an_instruction_over_the_end_changes),
		cmocka_unit_test(a_page_is_not_global_any_more),
		cmocka_unit_test(calls_return_to_what_is_there),
		cmocka_unit_test(a_large_page_goes),
		cmocka_unit_test(two_pages_of_code_at_one_address),
		cmocka_unit_test(links_are_kept),
		cmocka_unit_test(programs_share_pages),
		cmocka_unit_test(a_link_ends_with_the_lower_half),
		cmocka_unit_test(many_pages_are_woken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
