/*
 * Self-modifying code: what is executed is what memory holds, whoever wrote it and by
 * whatever address.
 * SDM volume 3 section 8.1.3 promises it after a branch or a serializing instruction;
 * processors (and so programs) go further: the next instruction is already the new one.
 */
#include "page.h"

static PAGED u8 code[2 * 4096];
#define RAW(p) ((volatile u8 *)(p))

static void put(volatile u8 *at, const void *bytes, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		at[i] = ((const u8 *)bytes)[i];
}

/* MOV EAX, imm32; RET */
static void put_mov(volatile u8 *at, u32 imm)
{
	at[0] = 0xb8;
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (u8)(imm >> (8 * i));
	at[5] = 0xc3;
}

static u32 call(const volatile void *p)
{
	return ((u32(*)(void))(word)p)();
}

static void next_call(void)
{
	for (u32 i = 0; i < 1000; i++) {
		put_mov(RAW(code), i);
		want_equal(call(code), i);
	}
}

/* One byte in the middle of an instruction that ran a thousand times. */
static void one_byte(void)
{
	put_mov(RAW(code), 0);
	for (u32 i = 0; i < 1000; i++)
		want_equal(call(code), 0);
	RAW(code)[3] = 0x12;
	want_equal(call(code), 0x120000);
	RAW(code)[0] = 0xbb; /* to EBX: EAX stays */
	{
		u32 a = 5, b = 6;

		__asm__ volatile("call *%2" : "+a"(a), "=b"(b) : "c"(code) : "memory");
		want_equal(a, 5);
		want_equal(b, 0x120000);
	}
}

/* The store is right before the instruction that it changes, in straight-line code. */
static void same_block(void)
{
	static const u8 insns[] = {
		0xb8, 0x01, 0x00, 0x00, 0x00, /* mov eax, 1 */
		0x88, 0x11,                   /* mov [ecx], dl */
		0xb8, 0x02, 0x00, 0x00, 0x00, /* mov eax, 2 */
		0xc3,
	};

	for (u32 i = 0; i < 200; i++) {
		u32 a;

		if (!(i & 15))
			put(RAW(code), insns, sizeof(insns));
		__asm__ volatile("call *%1"
				 : "=a"(a)
				 : "b"(code), "c"(code + 8), "d"(i)
				 : "memory");
		want_equal(a, i & 0xff);
	}
}

/* An instruction that overwrites itself runs as it was; in a loop, the next time as it
 * is. */
static void itself(void)
{
	static const u8 insns[] = {
		0xc6, 0x01, 0xc3, /* mov byte [ecx], c3h */
		0x90, 0xc3,
	};
	u32 n = 0;

	put(RAW(code), insns, sizeof(insns));
	__asm__ volatile("call *%0" : : "b"(code), "c"(code) : "memory");
	want_equal(RAW(code)[0], 0xc3);
	/* Now it is RET alone. */
	RAW(code)[3] = 0xcc;
	__asm__ volatile("call *%0" : : "b"(code), "c"(code) : "memory");
	/* REP STOSB over itself: iterations go on, the next instruction is new. */
	{
		static const u8 rep[] = { 0xf3, 0xaa, 0x90, 0x90, 0x90, 0xc3 };
		word di = (word)code, c = 5;

		put(RAW(code), rep, sizeof(rep));
		__asm__ volatile("call *%2"
				 : "+D"(di), "+c"(c)
				 : "b"(code), "a"(0xc3)
				 : "memory");
		want_equal(di, (word)code + 5);
		want_equal(RAW(code)[4], 0xc3);
	}
	want_equal(n, 0);
}

/* Loops that patch their own jump. */
static void patched_jump(void)
{
	static const u8 insns[] = {
		0x31, 0xc0,       /* xor eax, eax */
		0xff, 0xc0,       /* inc eax (32-bit and 64-bit form) */
		0x83, 0xf8, 0x64, /* cmp eax, 100 */
		0x75, 0xf9,       /* jne -7 */
		0xc3,
	};

	put(RAW(code), insns, sizeof(insns));
	want_equal(call(code), 100);
	RAW(code)[6] = 50;
	want_equal(call(code), 50);
	RAW(code)[7] = 0x74; /* je */
	want_equal(call(code), 1);
	RAW(code)[7] = 0xeb; /* for ever but for: */
	RAW(code)[7] = 0x75;
	RAW(code)[3] = 0xc8; /* dec eax */
	RAW(code)[6] = 0xf0; /* -16 */
	want_equal((int)call(code), -16);
}

/* Another linear address of the same page. */
static void other_mapping(void)
{
	volatile u8 *alias;

#if W64
	alias = RAW(USER(code));
#else
	paging_on(PAGING_32, false);
	path_set(1, (word)code, ALL);
	alias = RAW(path.va);
#endif
	for (u32 i = 0; i < 100; i++) {
		put_mov(alias, i);
		want_equal(call(code), i);
		put_mov(RAW(code), i + 1000);
		want_equal(call(alias), i + 1000);
	}
#if !W64
	paging_off();
#endif
}

/* An instruction over a page boundary: the store hits its second page, or its first. */
static void page_crossing(void)
{
	volatile u8 *at = RAW(code) + 4096 - 3;

	for (u32 i = 0; i < 100; i++) {
		put_mov(at, i << 24 | 0x1234);
		want_equal(call(at), i << 24 | 0x1234);
		/* In the second page alone. */
		at[4] = (u8)(i + 1);
		want_equal(call(at), (u32)(u8)(i + 1) << 24 | 0x1234);
		/* In the first page alone. */
		at[1] = (u8)i;
		want_equal(call(at), (u32)(u8)(i + 1) << 24 | 0x1200 | (u8)i);
	}
}

/* The second page of such an instruction becomes another one. */
static void page_crossing_remap(void)
{
	volatile u8 *first = PHYS(TEST_PA), *second = PHYS(TEST_PA + 0x1000),
		    *third = PHYS(TEST_PA + 0x2000);
	volatile u32 *entry;
	word at;

#if W64
	paging_on(PAGING_4, true);
#else
	paging_on(PAGING_32, false);
#endif
	path_set(path.levels - 1, TEST_PA, ALL);
	entry = (volatile u32 *)path.entry[path.levels - 1] + (W64 ? 2 : 1);
	entry[0] = (TEST_PA + 0x1000) | ALL;
	at = path.va + 0x1000 - 3;
	put_mov(first + 0x1000 - 3, 0x11223344);
	second[0] = 0x22;
	second[1] = 0x11;
	second[2] = 0xc3;
	third[0] = 0x66;
	third[1] = 0x55;
	third[2] = 0xc3;
	for (unsigned i = 0; i < 50; i++) {
		want_equal(call((void *)at), 0x11223344);
		entry[0] = (TEST_PA + 0x2000) | ALL;
		invlpg((void *)(path.va + 0x1000));
		want_equal(call((void *)at), 0x55663344);
		/* A change in the page that is not seen there now must not matter, nor be
		 * lost. */
		second[1] = 0x12;
		want_equal(call((void *)at), 0x55663344);
		entry[0] = (TEST_PA + 0x1000) | ALL;
		invlpg((void *)(path.va + 0x1000));
		want_equal(call((void *)at), 0x12223344);
		second[1] = 0x11;
		/* And when it has gone: a fault at the second page. */
		entry[0] = 0;
		invlpg((void *)(path.va + 0x1000));
		TRY("", "call *%0", : : "r"(at) : "eax", "memory");
		want_vector(PF, W64 ? 0x10 : 0);
		want_equal(trap.ip, at);
		want_equal(trap.cr2, path.va + 0x1000);
		entry[0] = (TEST_PA + 0x1000) | ALL;
	}
	/* The whole page is another one, by CR3 or INVLPG. */
	put_mov(first, 1);
	put_mov(third, 2);
	entry_set(path.levels - 1, TEST_PA | ALL);
	flush_tlb();
	want_equal(call((void *)path.va), 1);
	entry_set(path.levels - 1, (TEST_PA + 0x2000) | ALL);
	write_cr3(read_cr3());
	want_equal(call((void *)path.va), 2);
	entry_set(path.levels - 1, TEST_PA | ALL);
	invlpg((void *)path.va);
	want_equal(call((void *)path.va), 1);
	entry[0] = 0;
	flush_tlb();
#if !W64
	paging_off();
#endif
}

/* Many pages of code, each patched in turn: nothing is forgotten when caches fill up. */
static void many_pages(void)
{
	volatile u8 *base = PHYS(TEST_PA);

	for (u32 i = 0; i < 256; i++)
		put_mov(base + i * 4096 + (i & 63) * 16, i);
	for (u32 round = 0; round < 3; round++) {
		for (u32 i = 0; i < 256; i++)
			want_equal(call(base + i * 4096 + (i & 63) * 16),
				   i + round * 1000);
		for (u32 i = 0; i < 256; i++)
			put_mov(base + i * 4096 + (i & 63) * 16, i + (round + 1) * 1000);
	}
}

/* By each kind of store: string, locked, push, bit, XCHG, a far one by the stack. */
static void kinds_of_store(void)
{
	volatile u8 *c = RAW(code);
	u32 seen = 0;

#define CHECK(insn, ...)                                                                 \
	do {                                                                             \
		put_mov(c, 0);                                                           \
		seen = call(c);                                                          \
		__asm__ volatile(insn : : "b"(code + 1), __VA_ARGS__ : "memory", "cc");  \
		want_equal(call(c), 0x5a);                                               \
		want_equal(seen, 0);                                                     \
	} while (0)
	CHECK("movb %%al, (%%" W_BX ")", "a"(0x5a));
	CHECK("movl %%eax, (%%" W_BX ")", "a"(0x5a));
	CHECK("lock addl %%eax, (%%" W_BX ")", "a"(0x5a));
	CHECK("lock orb $0x5a, (%%" W_BX ")", "a"(0));
	CHECK("mov $0x5a, %%ecx; xchg %%ecx, (%%" W_BX ")", "a"(0), "c"(0));
	CHECK("mov $0x5a, %%ecx; xor %%eax, %%eax; cmpxchg %%ecx, (%%" W_BX ")", "a"(0),
	      "c"(0));
	CHECK("mov $0x5a, %%ecx; xadd %%ecx, (%%" W_BX ")", "a"(0), "c"(0));
	CHECK("btsl $6, (%%" W_BX "); btsl $4, (%%" W_BX "); btsl $3, (%%" W_BX
	      "); btsl $1, (%%" W_BX ")",
	      "a"(0));
	CHECK("addb $0x5a, (%%" W_BX ")", "a"(0));
	CHECK("negb (%%" W_BX "); movb $0x2d, (%%" W_BX "); shlb $1, (%%" W_BX ")",
	      "a"(0));
	CHECK("setz (%%" W_BX "); movb $0x5a, (%%" W_BX ")", "a"(0));
	{
		word di = (word)code + 1, n = 1;

		put_mov(c, 0);
		call(c);
		__asm__ volatile("rep stosb" : "+D"(di), "+c"(n) : "a"(0x5a) : "memory");
		want_equal(call(c), 0x5a);
	}
	{
		static const u8 source[] = { 0x5b };
		word di = (word)code + 1, si = (word)source;

		__asm__ volatile("movsb" : "+D"(di), "+S"(si) : : "memory");
		want_equal(call(c), 0x5b);
	}
	{
		/* PUSH, and the return address of a CALL: B8h is its first byte. */
		word t, image = 0x5cb8;

		put_mov(c + 16, 0);
		call(c + 16);
		__asm__ volatile("mov %%" W_SP ", %0\n\t"
				 "lea %c3(%1), %%" W_SP "\n\t"
				 "pushw %w2\n\t"
				 "mov %0, %%" W_SP
				 : "=&r"(t)
				 : "r"(code + 16), "r"(image), "i"(2)
				 : "memory");
		want_equal(call(c + 16), 0x5c);
	}
	{
		/* One store over two pages, with code in both. */
		put_mov(c + 4096 - 6, 0);
		put_mov(c + 4096, 0);
		want_equal(call(c + 4096 - 6), 0);
		want_equal(call(c + 4096), 0);
		*(volatile u32 *)(c + 4096 - 2) = 0x5eb8c312;
		want_equal(call(c + 4096 - 6), 0x12000000);
		want_equal(call(c + 4096), 0x5e);
	}
}

/* Written by user mode, run by the kernel, and the other way round. */
static word user_writes(word v)
{
	put_mov(RAW(code), (u32)v);
	return call(code);
}

static void across_levels(void)
{
	for (u32 i = 0; i < 50; i++) {
		want_equal(user_run(user_writes, i), i);
		want_equal(call(code), i);
		put_mov(RAW(code), i + 7);
		want_equal(call(code), i + 7);
	}
}

const struct test_case cases[] = {
	CASE(next_call, "SDM 3 8.1.3"),     CASE(one_byte, "SDM 3 8.1.3"),
	CASE(same_block, "SDM 3 12.6"),     CASE(itself, "SDM 3 12.6"),
	CASE(patched_jump, "SDM 3 8.1.3"),  CASE(other_mapping, "SDM 3 12.6"),
	CASE(page_crossing, "SDM 3 12.6"),  CASE(page_crossing_remap, "SDM 3 4.10.4"),
	CASE(many_pages, "SDM 3 8.1.3"),    CASE(kinds_of_store, "SDM 3 8.1.3"),
	CASE(across_levels, "SDM 3 8.1.3"), CASES_END,
};
