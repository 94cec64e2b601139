/*
 * Traces, groups of accesses, links between pages and the shadow return stack: what must
 * not outlive a change of memory or of the mappings.
 */
#include "translate_box.h"

#include "engine/translate/translate.h"

#define RUN(prog, level, prep)                                                           \
	struct end r;                                                                    \
	run_program(&(struct program){ #prog, prog, prog##_end, level, prep }, &r)

#define assert_done(r) assert_int_equal((r).vector, VEC_BP)

#define PTE(lin)  "0x13000 + (" lin " >> 12)*8"
/* The page at 'lin' is the other one of 48000h and 49000h. */
#define FLIP(lin) "xor qword ptr [" PTE(lin) "], 0x1000\n"

static void map(struct box *b, gva_t lin, gpa_t gpa, u64 flags)
{
	poke(b, PT + (lin >> 12) * 8, gpa | flags, 8);
	tlb_flush_all(b->v);
}

static void put(struct box *b, gpa_t gpa, const u8 *code, const u8 *end)
{
	memcpy(b->ram + gpa, code, (size_t)(end - code));
}

/* mov al, number; add rbx, rax; ret */
static void put_adder(struct box *b, gpa_t gpa, u8 number)
{
	const u8 code[] = { 0xb0, number, 0x48, 0x01, 0xc3, 0xc3 };

	put(b, gpa, code, code + sizeof(code));
}

/* ---- groups ---- */

/*
 * 48000h is code and the table of 200000h and up: the entry of 201000h is an immediate.
 * The walk for the group sets its A bit, and so the code that asks for it dies.
 */
PROGRAM(group_walk, "mov r13d, 0x48000\n mov edx, 0x201000\n mov rax, [rdx]\n"
		    "mov qword ptr [0x48008], 0x60007\n mov ebp, 40\n"
		    "1: call r13\n dec ebp\n jnz 1b\n invlpg [rdx]\n call r13\n int3");
PROGRAM(group_walk_code,
	".fill 6, 1, 0x90\n .byte 0x48, 0xb8\n .quad 0x60007\n"
	"mov rsi, [rdx]\n add rsi, [rdx + 8]\n mov rdi, [rdx + 16]\n ret");

static void group_walk_prepare(struct box *b)
{
	put(b, CODE2, group_walk_code, group_walk_code_end);
	poke(b, PD + 8, CODE2 | 0x27, 8);
	tlb_flush_all(b->v);
}

/* Not on 'check': the interpreter is left behind the access, the translator before. */
static void a_group_whose_walk_changes_the_code(void **state)
{
	static const struct engine *const engines[] = { &engine_interp, &engine_translate,
							&engine_translate_eager,
							&engine_translate_tiny };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
		struct box *b = engine_box_new(engines[i]);
		struct end r;

		if (!b)
			continue;
		engine_box_start(engines[i], b, 0);
		put(b, CODE, group_walk, group_walk_end);
		group_walk_prepare(b);
		engine_box_run(engines[i], b, &r);
		assert_done(r);
		assert_int_equal(r.rip, CODE + (u64)(group_walk_end - group_walk));
		assert_int_equal(r.gpr[RSI], 0);
		assert_int_equal(peek(b, 0x48008, 8), 0x60027);
		free(r.ram);
		engine_box_free(engines[i], b);
	}
}

/* The table of the group's page is in a device, whose code uses vector registers. */
#define TABLE_MMIO 0xd0000000u

static u64 table_read(void *opaque, u64 off, unsigned size)
{
	(void)opaque;
	(void)size;
	__asm__ volatile("pcmpeqd %%xmm3, %%xmm3" : : : "xmm3");
	return off / 8 < 16 ? 0x60000 + off / 8 * 0x1000 + 0x67 : 0;
}

static void table_write(void *opaque, u64 off, u64 val, unsigned size)
{
	(void)opaque;
	(void)off;
	(void)val;
	(void)size;
}

static const struct io_ops table_ops = { table_read, table_write,
					 IO_1 | IO_2 | IO_4 | IO_8 };

static void table_in_device(struct box *b)
{
	struct error err = { "" };

	assert_int_equal(phys_add_mmio(b->phys, "table", TABLE_MMIO, 0x1000, &table_ops,
				       NULL, &err),
			 0);
	poke(b, PD + 8, TABLE_MMIO | 0x27, 8);
	tlb_flush_all(b->v);
}

PROGRAM(group_vectors,
	"mov rax, 0x1122334455667788\n mov edx, 0x201000\n mov ebp, 40\n"
	"lea r13, [rip + 2f]\n movq xmm3, rax\n 1: invlpg [rdx]\n call r13\n"
	"dec ebp\n jnz 1b\n movq rcx, xmm3\n int3\n"
	"2: paddq xmm3, xmm3\n mov rsi, [rdx]\n add rsi, [rdx + 8]\n"
	"paddq xmm3, xmm3\n pcmpeqd xmm4, xmm4\n psubq xmm3, xmm4\n ret");

static void vectors_across_the_walk_of_a_group(void **state)
{
	(void)state;
	RUN(group_vectors, 0, table_in_device);
	assert_done(r);
	free(r.ram);
}

/* ---- the shadow return stack ---- */

/* It is at a pair's begin after the program, and nothing of it is left after a flush. */
static void stack_after(const struct engine *e, const u8 *code, const u8 *end,
			void (*prepare)(struct box *b))
{
	struct box *b = engine_box_new(e);
	const struct translator *t;
	const u64 *top;
	struct end r;

	if (!b)
		return;
	engine_box_start(e, b, 0);
	put(b, CODE, code, end);
	prepare(b);
	engine_box_run(e, b, &r);
	free(r.ram);
	t = b->v->engine;
	assert_int_equal(t->shadow[0] % 16, 0);
	tlb_flush_all(b->v);
	top = (const u64 *)(uintptr_t)t->shadow[0];
	for (unsigned i = 0; i < 16; i += 2) {
		assert_int_equal(top[i], t->lost_return);
		assert_int_equal(top[i + 1], ~UINT64_C(0));
	}
	engine_box_free(e, b);
}

/*
 * Returns that match nothing empty the stack below its bottom, and the next call is
 * pushed there: 80000h calls into this page, where the mapping changes. It must not be
 * returned to as it was.
 */
PROGRAM(shadow_bottom,
	"mov esi, 0x80000\n lea rbp, [rip + 4f]\n lea rdi, [rip + 3f]\n"
	"mov ecx, 60\n xor ebx, ebx\n"
	"1: mov rax, cr3\n mov cr3, rax\n lea rax, [rip + 2f]\n push rax\n ret\n"
	"2: jmp rsi\n 3: movzx eax, al\n lea rbx, [rbx + rbx*2]\n"
	"add rbx, rax\n dec ecx\n jnz 1b\n int3\n"
	"4: cmp ecx, 30\n ja 5f\n " FLIP(
		"0x80000") "5: mov rax, cr3\n mov cr3, rax\n xor eax, eax\n ret");

static void shadow_bottom_prepare(struct box *b)
{
	for (u8 i = 0; i < 2; i++) {
		const u8 code[] = { 0xff, 0xd5,                      /* call rbp */
				    0xb0, (u8)(1 + i), 0xff, 0xe7 }; /* mov al; jmp rdi */

		put(b, CODE2 + 0x1000u * i, code, code + sizeof(code));
	}
	map(b, 0x80000, CODE2, 0x67);
}

static void returns_below_the_bottom_do_not_last(void **state)
{
	(void)state;
	{
		RUN(shadow_bottom, 0, shadow_bottom_prepare);
		assert_done(r);
		free(r.ram);
	}
	stack_after(&engine_translate, shadow_bottom, shadow_bottom_end,
		    shadow_bottom_prepare);
	stack_after(&engine_translate_eager, shadow_bottom, shadow_bottom_end,
		    shadow_bottom_prepare);
}

/* Address 0 is what the bottom matches. Where the stack is must stay a pair's begin:
 * what RET compares with is the guest's, what the host returns to must not be. */
PROGRAM(return_to_0, "lea rdi, [rip + 2f]\n mov ebp, 60\n"
		     "1: mov rax, cr3\n mov cr3, rax\n push 0\n ret\n 2: call 3f\n"
		     "dec ebp\n jnz 1b\n push 0\n ret\n 3: ret");

static void return_to_0_prepare(struct box *b)
{
	/* dec ecx; jnz +1; int3; jmp rdi */
	static const u8 code[] = { 0xff, 0xc9, 0x75, 0x01, 0xcc, 0xff, 0xe7 };

	put(b, 0, code, code + sizeof(code));
	b->v->gpr[RCX] = 61;
}

static void the_bottom_leaves_whole_pairs(void **state)
{
	(void)state;
	{
		RUN(return_to_0, 0, return_to_0_prepare);
		assert_done(r);
		free(r.ram);
	}
	stack_after(&engine_translate, return_to_0, return_to_0_end, return_to_0_prepare);
	stack_after(&engine_translate_eager, return_to_0, return_to_0_end,
		    return_to_0_prepare);
}

static void be_amd(struct box *b)
{
	b->cpuid.vendor = VENDOR_AMD;
	cpuid_attach(b->v, &b->cpuid);
}

PROGRAM(call_amd, "mov rax, 0x0000800000000000\n push 77\n pop rcx\n call rax\n int3");
PROGRAM(call_amd_memory,
	"mov rax, 0x0000800000000000\n sub rsp, 8\n mov [rsp], rax\n push 77\n pop rcx\n"
	"call [rsp]\n int3");

/* AMD's processors look where a call goes before they write the return address. */
static void a_call_that_faults_writes_nothing_on_amd(void **state)
{
	(void)state;
	{
		RUN(call_amd, 3, be_amd);
		assert_int_equal(r.vector, VEC_GP);
		free(r.ram);
	}
	RUN(call_amd_memory, 3, be_amd);
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(le_load(r.ram + STACK3 + 0xff0, 8), 77);
	free(r.ram);
}

/* Deeper than the stack holds, and back. */
PROGRAM(deep, "mov rsp, 0x1f0000\n mov ebp, 4\n 1: mov ecx, 40000\n call 2f\n dec ebp\n"
	      "jnz 1b\n int3\n 2: dec ecx\n jz 3f\n call 2b\n inc rbx\n 3: ret");

static void calls_deeper_than_the_stack(void **state)
{
	(void)state;
	RUN(deep, 0, NULL);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 4 * 39999);
	free(r.ram);
}

/* ---- links between pages, and look-ups ---- */

/* Two pages are invalidated one after the other; the code in between knows the second. */
PROGRAM(invlpg_two,
	"mov esi, 0x80000\n mov ebp, 0x81000\n mov ecx, 60\n xor ebx, ebx\n"
	"xor eax, eax\n 1: call rsi\n call rbp\n" FLIP("0x80000")
		FLIP("0x81000") "invlpg [rsi]\n invlpg [rbp]\n dec ecx\n jnz 1b\n int3");

static void invlpg_two_prepare(struct box *b)
{
	put_adder(b, CODE2, 1);
	put_adder(b, CODE2 + 0x1000, 2);
	put_adder(b, CODE2 + 0x2000, 4);
	put_adder(b, CODE2 + 0x3000, 8);
	map(b, 0x80000, CODE2, 0x67);
	map(b, 0x81000, CODE2 + 0x2000, 0x67);
}

static void each_page_is_invalidated(void **state)
{
	(void)state;
	RUN(invlpg_two, 0, invlpg_two_prepare);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 30 * (1 + 2 + 4 + 8));
	free(r.ram);
}

/*
 * 80000h and 84000h are the same page of code, which jumps to the next one: that is
 * different. Links have been forgotten for the sake of 86000h, look-ups have not.
 */
PROGRAM(alias,
	"mov esi, 0x80000\n mov ebp, 0x84000\n mov edi, 0x86000\n mov ecx, 60\n"
	"xor ebx, ebx\n xor eax, eax\n 1: call rsi\n call rdi\n invlpg [rdi]\n call rsi\n"
	"call rbp\n dec ecx\n jnz 1b\n int3");

static void alias_prepare(struct box *b)
{
	static const u8 jump[] = { 0xe9, 0x0b, 0x10, 0, 0 }; /* +1010h */

	put(b, CODE2, jump, jump + sizeof(jump));
	put_adder(b, CODE2 + 0x1010, 1);
	put_adder(b, CODE2 + 0x2010, 2);
	put_adder(b, CODE2 + 0x3000, 4);
	map(b, 0x80000, CODE2, 0x67);
	map(b, 0x81000, CODE2 + 0x1000, 0x67);
	map(b, 0x84000, CODE2, 0x67);
	map(b, 0x85000, CODE2 + 0x2000, 0x67);
	map(b, 0x86000, CODE2 + 0x3000, 0x67);
}

static void one_page_of_code_at_two_addresses(void **state)
{
	(void)state;
	RUN(alias, 0, alias_prepare);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 60 * (1 + 4 + 1 + 2));
	free(r.ram);
}

/* All pages are global but one, which is only entered where look-ups have no slot. */
PROGRAM(local_page,
	"mov ecx, 60\n xor ebx, ebx\n xor eax, eax\n 1: .byte 0xe8\n"
	".long 0x87f79 - 0x40000 - (2f - local_page)\n 2: " FLIP(
		"0x87000") "mov rdx, cr3\n mov cr3, rdx\n dec ecx\n jnz 1b\n int3");

static void local_page_prepare(struct box *b)
{
	for (unsigned i = 0; i < 512; i++)
		poke(b, PT + 8 * i, (u64)i << 12 | 0x167, 8);
	put_adder(b, CODE2 + 0xf79, 1);
	put_adder(b, CODE2 + 0x1f79, 2);
	b->v->cr4 |= CR4_PGE;
	map(b, 0x87000, CODE2, 0x67);
}

static void a_page_that_is_not_global(void **state)
{
	(void)state;
	RUN(local_page, 0, local_page_prepare);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 30 * 3);
	free(r.ram);
}

/* As far back as a jump can lead; 0xffffffff00000000 shows the same memory. */
PROGRAM(far_back, "mov rsi, 0xffffffff80048000\n mov ecx, 60\n xor ebx, ebx\n"
		  "1: call rsi\n dec ecx\n jnz 1b\n int3");

static void far_back_prepare(struct box *b)
{
	static const u8 code[] = { 0xe9, 0, 0, 0, 0x80, 0x83, 0xc3, 1, 0xc3 };

	put(b, CODE2, code, code + sizeof(code));
	poke(b, PDPT + 508 * 8, PD | 0x27, 8);
	tlb_flush_all(b->v);
}

static void a_jump_two_gib_back(void **state)
{
	(void)state;
	RUN(far_back, 0, far_back_prepare);
	assert_done(r);
	assert_int_equal(r.gpr[RBX], 60);
	free(r.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_group_whose_walk_changes_the_code),
		cmocka_unit_test(vectors_across_the_walk_of_a_group),
		cmocka_unit_test(returns_below_the_bottom_do_not_last),
		cmocka_unit_test(the_bottom_leaves_whole_pairs),
		cmocka_unit_test(a_call_that_faults_writes_nothing_on_amd),
		cmocka_unit_test(calls_deeper_than_the_stack),
		cmocka_unit_test(each_page_is_invalidated),
		cmocka_unit_test(one_page_of_code_at_two_addresses),
		cmocka_unit_test(a_page_that_is_not_global),
		cmocka_unit_test(a_jump_two_gib_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
