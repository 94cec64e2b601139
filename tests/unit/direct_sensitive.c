/*
 * Finding sensitive instructions in a page: each of them, with prefixes, at the edges of
 * the page, and not where their bytes are only part of something else.
 */
#include "x86_box.h"

#include "engine/direct/sensitive.h"

#define PAGE 0x50000

static const struct direct_host good = { true, true, true, true, PROCESS_BREAKS },
				bad = { 0 };

static u8 *page_of(struct box *b)
{
	return b->ram + PAGE;
}

static void start(struct box *b)
{
	box_long(b, 3);
	box_map_small(b);
	memset(page_of(b) - PAGE_SIZE, 0x90, 3 * PAGE_SIZE);
}

/* In the page there; and the first of them begins at this offset, from its start. */
static void expect_where(struct box *b, const struct direct_host *host, unsigned count,
			 int first)
{
	struct sensitive s[4] = { 0 };
	unsigned n = sensitive_find(b->v, PAGE, page_of(b), host, s, 4);

	assert_int_equal(n, count);
	if (n) {
		assert_int_equal(s[0].at, PAGE + first);
		assert_int_equal(s[0].end, s[0].at);
	}
}

static void expect(struct box *b, unsigned count, int first)
{
	expect_where(b, &good, count, first);
}

/* Whether it is found; ON_BAD: on a host that does not do as it should. */
enum found { NO, YES, ON_BAD };

static const struct {
	u8 code[8], len;
	enum found found;
} insns[] = {
	{ { 0x0f, 0xa2 }, 2, YES },                        /* cpuid */
	{ { 0xf3, 0x0f, 0xa2 }, 3, YES },                  /* with a prefix of no use */
	{ { 0x48, 0x0f, 0xa2 }, 3, YES },                  /* rex.w */
	{ { 0x0f, 0x02, 0xc8 }, 3, YES },                  /* lar ecx, eax */
	{ { 0x66, 0x0f, 0x03, 0xc8 }, 4, YES },            /* lsl cx, ax */
	{ { 0x4c, 0x0f, 0x03, 0x07 }, 4, YES },            /* lsl r8, [rdi] */
	{ { 0x0f, 0x01, 0x07 }, 3, YES },                  /* sgdt [rdi] */
	{ { 0x67, 0x0f, 0x01, 0x4f, 0x08 }, 5, YES },      /* sidt [edi + 8] */
	{ { 0x0f, 0x01, 0x67, 0x10 }, 4, YES },            /* smsw [rdi + 16] */
	{ { 0x49, 0x0f, 0x01, 0xe1 }, 4, YES },            /* smsw r9 */
	{ { 0x0f, 0x34 }, 2, YES },                        /* sysenter */
	{ { 0xf3, 0x0f, 0xc7, 0xf8 }, 4, YES },            /* rdpid rax */
	{ { 0xf3, 0x41, 0x0f, 0xc7, 0xf8 }, 5, YES },      /* rdpid r8 */
	{ { 0x0f, 0x01, 0xd0 }, 3, YES },                  /* xgetbv */
	{ { 0x0f, 0x01, 0xee }, 3, YES },                  /* rdpkru */
	{ { 0x0f, 0x01, 0xef }, 3, YES },                  /* wrpkru */
	{ { 0x0f, 0x01, 0xc1 }, 3, YES },                  /* vmcall */
	{ { 0x0f, 0x01, 0xd9 }, 3, YES },                  /* vmmcall */
	{ { 0xcd, 0x80 }, 2, YES },                        /* int 80h */
	{ { 0xcd, 4 }, 2, YES },                           /* int 4 */
	{ { 0xcd, 0x81 }, 2, NO },                         /* int 81h */
	{ { 0x0f, 0x31 }, 2, ON_BAD },                     /* rdtsc */
	{ { 0x0f, 0x33 }, 2, ON_BAD },                     /* rdpmc */
	{ { 0x0f, 0x01, 0xf9 }, 3, ON_BAD },               /* rdtscp */
	{ { 0xf3, 0x0f, 0xae, 0xd0 }, 4, ON_BAD },         /* wrfsbase eax */
	{ { 0xf3, 0x49, 0x0f, 0xae, 0xdf }, 5, ON_BAD },   /* wrgsbase r15 */
	{ { 0xf3, 0x48, 0x0f, 0xae, 0xc0 }, 5, NO },       /* rdfsbase rax */
	{ { 0x0f, 0xae, 0x10 }, 3, NO },                   /* ldmxcsr [rax] */
	{ { 0x0f, 0xae, 0x20 }, 3, YES },                  /* xsave [rax] */
	{ { 0x48, 0x0f, 0xae, 0x6b, 0x40 }, 5, YES },      /* xrstor64 [rbx + 64] */
	{ { 0x0f, 0xae, 0x37 }, 3, YES },                  /* xsaveopt [rdi] */
	{ { 0x41, 0x0f, 0xc7, 0x20 }, 4, YES },            /* xsavec [r8] */
	{ { 0x0f, 0xae, 0x07 }, 3, NO },                   /* fxsave [rdi] */
	{ { 0x0f, 0xae, 0x3f }, 3, NO },                   /* clflush [rdi] */
	{ { 0x66, 0x0f, 0xae, 0x37 }, 4, NO },             /* clwb [rdi] */
	{ { 0xf3, 0x0f, 0xae, 0x27 }, 4, NO },             /* ptwrite [rdi] */
	{ { 0x0f, 0xae, 0xe8 }, 3, NO },                   /* lfence */
	{ { 0xc4, 0xe2, 0x78, 0x49, 0x07 }, 5, YES },      /* ldtilecfg [rdi] */
	{ { 0xc4, 0xc2, 0x79, 0x49, 0x00 }, 5, YES },      /* sttilecfg [r8] */
	{ { 0xc4, 0xe2, 0x78, 0x49, 0xc0 }, 5, YES },      /* tilerelease */
	{ { 0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x07 }, 6, NO }, /* tileloadd, which traps */
	{ { 0xc4, 0xe2, 0x78, 0xf2, 0xc1 }, 5, NO },       /* andn eax, eax, ecx */
	{ { 0x0f, 0xae, 0xf0 }, 3, NO },                   /* mfence */
	{ { 0x0f, 0x01, 0xfa }, 3, NO },                   /* monitorx */
	{ { 0x0f, 0x05 }, 2, NO },                         /* syscall */
	{ { 0x0f, 0x01, 0x17 }, 3, NO },                   /* lgdt */
	{ { 0x0f, 0xc7, 0x0f }, 3, NO },                   /* cmpxchg8b */
	{ { 0x0f, 0xc7, 0xf0 }, 3, NO },                   /* rdrand */
	{ { 0x48, 0x0f, 0xc7, 0xf8 }, 4, NO },             /* rdseed */
	{ { 0x0f, 0xaf, 0xc0 }, 3, NO },                   /* imul */
	{ { 0xb8, 0x0f, 0xa2, 0x00, 0x00 }, 5, NO },       /* in an immediate */
	{ { 0x48, 0x8b, 0x80, 0x0f, 0x01, 0xd0, 0x00 }, 7, NO }, /* displacement */
	{ { 0xe8, 0xcd, 0x80, 0x00, 0x00 }, 5, NO },
};

static void expect_found(struct box *b, enum found found, int first)
{
	expect_where(b, &good, found == YES, first);
	expect_where(b, &bad, found != NO, first);
}

static void sensitive_each_found_anywhere(void **state)
{
	static const int places[] = { 0, 1, 2, 100, 2047, 4080, 4088 };
	struct box *b = *state;

	start(b);
	for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
		for (unsigned p = 0; p < ARRAY_SIZE(places); p++) {
			memset(page_of(b), 0x90, PAGE_SIZE);
			memcpy(page_of(b) + places[p], insns[i].code, insns[i].len);
			expect_found(b, insns[i].found, places[p]);
		}
	}
}

/* Over the edges, both pages have it: whichever is executed last is in time. */
static void sensitive_over_the_edge_is_in_both_pages(void **state)
{
	struct box *b = *state;

	start(b);
	for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
		for (int before = 1; before < insns[i].len; before++) {
			/* Where the opcode begins: prefixes alone do not tell. */
			int opcode = 0, len = 3;

			while (!memchr("\x0f\xcd\xc4", insns[i].code[opcode], 3))
				opcode++;
			if (insns[i].code[opcode] == 0xc4)
				len = 4;
			memset(page_of(b) - PAGE_SIZE, 0x90, 3 * PAGE_SIZE);
			memcpy(page_of(b) - before, insns[i].code, insns[i].len);
			/* What is behind the opcode's last byte does not matter. */
			if (before < opcode + len)
				expect_found(b, insns[i].found, -before);
			memset(page_of(b) - PAGE_SIZE, 0x90, 3 * PAGE_SIZE);
			memcpy(page_of(b) + PAGE_SIZE - before, insns[i].code,
			       insns[i].len);
			if (before > opcode)
				expect_found(b, insns[i].found, PAGE_SIZE - before);
		}
	}
}

/* What XSAVE and its kind are for, where it shows, and where it does not. */
static void sensitive_by_mask(void **state)
{
	static const struct {
		u8 code[48], len;
		bool found;
	} is[] = {
		/* As in a dynamic linker: x87 to AVX-512. */
		{ "\xb8\xee\x00\x00\x00\x31\xd2\x48\x89\x94\x24\x50\x02\x00\x00", 15,
		  false },
		{ "\x48\xc7\xc0\xe7\x00\x00\x00", 7, false }, /* mov rax, 0e7h */
		{ "\xb8\xff\xff\xff\xff\x89\xc2", 7, true },
		{ "\xb8\xe7\x02\x00\x00", 5, true },         /* PKRU */
		{ "\xb8\xe7\x00\x02\x00", 5, true },         /* TILECFG */
		{ "\xb8\xe7\x00\x04\x00", 5, true },         /* TILEDATA */
		{ "\x66\xb8\xe7\x00", 4, true },             /* mov ax */
		{ "\xb8\xe7\x00\x00\x00\xb0\xff", 7, true }, /* mov al, 0ffh */
		{ "\xb8\xe7\x00\x00\x00\xb4\x02", 7, true }, /* mov ah, 2 */
		{ "\xb8\xe7\x00\x00\x00\x89\xf8", 7, true }, /* mov eax, edi */
		{ "\xb8\xe7\x00\x00\x00\xff\xd1", 7, true }, /* call rcx */
		{ "\xb8\xe7\x00\x00\x00\x0f\x05", 7, true }, /* syscall */
		{ "\xb8\xe7\x00\x00\x00\xf7\xe1", 7, true }, /* mul ecx */
		{ "\xb8\xe7\x00\x00\x00\x92", 6, true },     /* xchg edx, eax */
		{ "\xb9\xe7\x00\x00\x00", 5, true },         /* another register */
		{ "\x05\xe7\x00\x00\x00", 5, true },         /* add eax, 0e7h */
		{ "\xb8\xe7\x00\x00\x00\xc3", 6, true },     /* another function */
		{ "\xb8\xe7\x00\x00\x00\xe9\x00\x10\x00\x00", 10, true },
		/* What jumps over the mask, and what does not. */
		{ "\xb8\xff\xff\xff\xff\x74\x05\xb8\xe7\x00\x00\x00", 12, true },
		{ "\xb8\xff\xff\xff\xff\x74\x00\xb8\xe7\x00\x00\x00", 12, false },
	};
	struct box *b = *state;

	start(b);
	for (unsigned i = 0; i < ARRAY_SIZE(is); i++) {
		for (unsigned nops = 0; nops < 60; nops += 20) {
			/* The mask may be in the page before. */
			for (int at = -4; at <= 1000; at += 202) {
				int end = at + is[i].len + (int)nops;

				memset(page_of(b) - PAGE_SIZE, 0x90, 3 * PAGE_SIZE);
				memcpy(page_of(b) + at, is[i].code, is[i].len);
				memcpy(page_of(b) + end, "\x0f\xc7\x24\x24", 4);
				expect(b, is[i].found, end);
				memcpy(page_of(b) + end, "\x0f\xae\x2c\x24", 4);
				expect(b, is[i].found, end);
			}
		}
	}
	/* Too far away to be looked at. */
	memset(page_of(b), 0x90, PAGE_SIZE);
	memcpy(page_of(b) + 300, is[0].code, is[0].len);
	memcpy(page_of(b) + 600, "\x0f\xc7\x24\x24", 4);
	expect(b, 1, 600);
}

static void sensitive_all_are_counted(void **state)
{
	struct box *b = *state;
	struct sensitive s[10] = { 0 };

	start(b);
	for (unsigned i = 0; i < 10; i++)
		memcpy(page_of(b) + 100 * i, "\x0f\xa2", 2);
	assert_int_equal(sensitive_find(b->v, PAGE, page_of(b), &good, s, 10), 10);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(s[i].at, PAGE + 100 * i);
	/* They are in no function that begins in the page. */
	assert_true(sensitive_find(b->v, PAGE, page_of(b), &good, s, 9) > 9);
	assert_true(sensitive_find(b->v, PAGE, page_of(b), &good, s, 0) > 0);
}

static unsigned find(struct box *b, struct sensitive *s, unsigned max)
{
	return sensitive_find(b->v, PAGE, page_of(b), &good, s, max);
}

/* Six of them from 'at' + 4 on, with a function before and one behind. */
static void put_function(struct box *b, unsigned at)
{
	static const u8 endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	u8 *page = page_of(b);

	memset(page, 0x90, PAGE_SIZE);
	page[at - 16] = 0xc3;
	for (unsigned i = 0; i < 6; i++)
		memcpy(page + at + 4 + 8 * i, "\x0f\xa2", 2);
	page[at + 60] = 0xc3;
	memcpy(page + at + 64, endbr64, sizeof(endbr64));
}

static void expect_refused(struct box *b)
{
	struct sensitive s[4];

	assert_true(find(b, s, 4) > 4);
}

static void expect_function(struct box *b, unsigned at)
{
	struct sensitive s[4];

	assert_int_equal(find(b, s, 4), 1);
	assert_int_equal(s[0].at, PAGE + at);
	assert_int_equal(s[0].end, PAGE + at + 64);
	/* Where there are breakpoints for all it is not asked. */
	assert_int_equal(find(b, s, 1), 1);
}

static void sensitive_functions(void **state)
{
	struct box *b = *state;

	start(b);
	put_function(b, 256);
	expect_function(b, 256);
	/* It begins behind NOPs of several bytes, behind UD2, or with ENDBR64. */
	memcpy(page_of(b) + 251, "\xc3\x0f\x1f\x40\x00", 5);
	expect_function(b, 256);
	put_function(b, 256);
	memcpy(page_of(b) + 240, "\x0f\x0b", 2);
	expect_function(b, 256);
	put_function(b, 256);
	page_of(b)[240] = 0x90;
	expect_refused(b);
	memcpy(page_of(b) + 256, "\xf3\x0f\x1e\xfa", 4);
	expect_function(b, 256);
	/* Jumps inside are its own business, and so are those to its beginning. */
	put_function(b, 256);
	memcpy(page_of(b) + 296, "\x75\xe0", 2);
	memcpy(page_of(b) + 100, "\xe8\x97\x00\x00\x00", 5);
	expect_function(b, 256);
	/* From outside into it: a jump, a call, from before and behind. */
	memcpy(page_of(b) + 100, "\xe8\x98\x00\x00\x00", 5);
	expect_refused(b);
	put_function(b, 256);
	memcpy(page_of(b) + 252, "\x74\x20", 2);
	expect_refused(b);
	put_function(b, 256);
	memcpy(page_of(b) + 330, "\xeb\xc0", 2);
	expect_refused(b);
	/* What it calls would return into it. */
	put_function(b, 256);
	memcpy(page_of(b) + 296, "\xff\xd0", 2);
	expect_refused(b);
	/* It ends in another page, or begins in one. */
	put_function(b, 256);
	memset(page_of(b) + 320, 0x90, 4);
	page_of(b)[316] = 0x90;
	expect_refused(b);
	put_function(b, 256);
	memcpy(page_of(b) + 8, "\x0f\xa2", 2);
	page_of(b)[240] = 0x90;
	expect_refused(b);
}

static void put_cpuids(struct box *b, unsigned at)
{
	for (unsigned i = 0; i < 6; i++)
		memcpy(page_of(b) + at + 7 * i, "\x0f\xa2", 2);
	page_of(b)[at + 42] = 0xc3;
}

/* What is not come to from the last beginning that shows is in a function whose beginning
 * does not. */
static void sensitive_functions_that_do_not_show(void **state)
{
	struct sensitive s[4];
	struct box *b = *state;

	start(b);
	/* Behind RET, at no round address; with ENDBR64; come to as well. */
	put_function(b, 256);
	memcpy(page_of(b) + 256, "\x31\xc0\xc3", 3);
	expect_refused(b);
	memcpy(page_of(b) + 256, "\x31\xc0\xc3\xf3\x0f\x1e\xfa", 7);
	put_cpuids(b, 263);
	expect_refused(b);
	page_of(b)[258] = 0x90;
	expect_refused(b);
	/* Behind a jump out of the page, and at a round one. */
	put_function(b, 256);
	memset(page_of(b) + 256, 0x90, 64);
	memcpy(page_of(b) + 256, "\x31\xc0\xe9\x00\x20\x00\x00", 7);
	put_cpuids(b, 272);
	expect_refused(b);
	/* But a jump inside is followed, back too. */
	memcpy(page_of(b) + 256, "\x31\xc0\xeb\x0c\x90\x90\x90", 7);
	assert_int_equal(find(b, s, 4), 1);
	memset(page_of(b) + 256, 0x90, 64);
	memcpy(page_of(b) + 256, "\xeb\x38", 2);
	put_cpuids(b, 264);
	memcpy(page_of(b) + 314, "\xeb\xcc", 2);
	assert_int_equal(find(b, s, 4), 1);
}

/* As many as there are breakpoints for. */
static void sensitive_several_functions(void **state)
{
	struct sensitive s[8];
	struct box *b = *state;

	start(b);
	for (unsigned n = 1; n < 8; n++) {
		memset(page_of(b), 0x90, PAGE_SIZE);
		for (unsigned i = 0; i <= n; i++)
			memcpy(page_of(b) + 512 * i, "\xf3\x0f\x1e\xfa", 4);
		for (unsigned i = 0; i < 3 * n; i++)
			memcpy(page_of(b) + 512 * (i / 3) + 16 + 20 * (i % 3), "\x0f\xa2",
			       2);
		assert_int_equal(find(b, s, n), n);
		for (unsigned i = 0; i < n; i++) {
			assert_int_equal(s[i].at, PAGE + 512 * i);
			assert_int_equal(s[i].end, PAGE + 512 * (i + 1));
		}
		assert_true(find(b, s, n - 1) > n - 1);
	}
}

/* The pages beside it may be missing, or not be RAM; A and D stay as they are. */
static void sensitive_neighbours_may_be_missing(void **state)
{
	struct box *b = *state;

	start(b);
	memcpy(page_of(b), "\x0f\xa2", 2);
	page_of(b)[PAGE_SIZE - 1] = 0x0f;
	page_of(b)[PAGE_SIZE] = 0xa2;
	expect(b, 2, 0);
	set_pte(b, PAGE + PAGE_SIZE, 7);
	expect(b, 2, 0);
	assert_int_equal(peek(b, PT + (PAGE / PAGE_SIZE + 1) * 8, 8) & 0x60, 0);
	set_pte(b, PAGE + PAGE_SIZE, 0);
	set_pte(b, PAGE - PAGE_SIZE, 0);
	expect(b, 1, 0);
	poke(b, PT + (PAGE / PAGE_SIZE + 1) * 8, 0xfee00067, 8);
	poke(b, PT + (PAGE / PAGE_SIZE - 1) * 8, UINT64_C(0xfffffff067), 8);
	tlb_flush_all(b->v);
	expect(b, 1, 0);
}

/* Whatever the bytes are, it ends and stays inside. */
static void sensitive_random_bytes(void **state)
{
	struct box *b = *state;
	u64 x = 88172645463325252;

	start(b);
	for (unsigned n = 0; n < 60; n++) {
		struct sensitive at[4];
		unsigned found;

		for (unsigned i = 0; i < 3 * PAGE_SIZE; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			page_of(b)[(int)i - (int)PAGE_SIZE] =
				n % 3 == 0 ? (u8)x
					   : (u8)(x & 1   ? 0x0f
						  : x & 2 ? 0xcd
							  : x >> 8);
		}
		found = sensitive_find(b->v, PAGE, page_of(b), &good, at, 4);
		for (unsigned i = 0; found <= 4 && i < found; i++)
			assert_in_range(at[i].at, PAGE - 20, PAGE + PAGE_SIZE - 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(sensitive_each_found_anywhere),
		TEST(sensitive_over_the_edge_is_in_both_pages),
		TEST(sensitive_by_mask),
		TEST(sensitive_all_are_counted),
		TEST(sensitive_functions),
		TEST(sensitive_functions_that_do_not_show),
		TEST(sensitive_several_functions),
		TEST(sensitive_neighbours_may_be_missing),
		TEST(sensitive_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
