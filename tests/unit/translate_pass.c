/*
 * Translated code goes on at another privilege level without coming by the loop: system
 * calls, faults and the ways back. Whatever would have been seen there must be seen, on
 * every engine as on the interpreter. The handlers count in memory and do something
 * special once, when all of the code has long been translated and passed over to.
 */
#include "translate_box.h"

#include "x86/msr.h"

#define ROUNDS 40 /* of which this is special */
#define WHEN   30

#define COUNTER    "0x60000"
#define USER_STACK 0x70000

/* LSTAR: counts, and at WHEN does what is said. At 'end' the user's INT3 comes. */
#define HANDLER(name, text)                                                              \
	PROGRAM(name, "inc qword ptr [" COUNTER "]\n cmp qword ptr [" COUNTER            \
		      "], 30\n jne 1f\n" text "\n 1: sysretq")

PROGRAM(calls, "mov ebx, 40\n xor esi, esi\n 1: syscall\n inc rsi\n mov rdi, [0x60100]\n"
	       " dec ebx\n jnz 1b\n int3");

static void pass_box(struct box *b, const u8 *handler, const u8 *end)
{
	b->v->efer |= EFER_SCE;
	b->v->msr[MSRI_STAR] = (u64)CODE64(0) << 32 | (u64)(DATA32(3) - 8) << 48;
	b->v->msr[MSRI_LSTAR] = CODE2;
	b->v->msr[MSRI_SFMASK] = RFLAGS_TF | RFLAGS_IF | RFLAGS_AC;
	memcpy(b->ram + CODE2, handler, (size_t)(end - handler));
	b->v->gpr[RSP] = USER_STACK;
	vcpu_sync(b->v);
}

#define CASE(name, text, check)                                                          \
	HANDLER(name, text);                                                             \
	static void name##_prepare(struct box *b)                                        \
	{                                                                                \
		pass_box(b, name, name##_end);                                           \
	}                                                                                \
	static void name##_case(void **state)                                            \
	{                                                                                \
		struct end r;                                                            \
                                                                                         \
		(void)state;                                                             \
		run_program(                                                             \
			&(struct program){ #name, calls, calls_end, 3, name##_prepare }, \
			&r);                                                             \
		check;                                                                   \
		free(r.ram);                                                             \
	}

static u64 counted(const struct end *r)
{
	return le_load(r->ram + DATA, 8);
}

CASE(nothing_special, "nop", {
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RSI], ROUNDS);
	assert_int_equal(counted(&r), ROUNDS);
})

/* The trap comes behind the first instruction of the user's, INC RSI. */
CASE(single_step, "or r11, 0x100", {
	assert_int_equal(r.vector, VEC_DB);
	assert_int_equal(r.gpr[RSI], WHEN);
	assert_int_equal(counted(&r), WHEN);
})

CASE(alignment_check,
     "or r11, 0x40000\n mov rax, cr0\n or eax, 0x40000\n mov cr0, rax\n"
     "mov word ptr [0x43000], 0xbeef",
     {
	     assert_int_equal(r.vector, VEC_BP);
	     assert_true(r.flags & RFLAGS_AC);
     })

/* The user's code is other code now: where it goes on, DEC RSI stands for INC RSI. */
CASE(code_is_written, "mov byte ptr [rcx + 2], 0xce", {
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RSI], WHEN - 1 - (ROUNDS - WHEN + 1));
})

/* Another page is there, with INT3 where it goes on. */
CASE(page_is_replaced,
     "mov byte ptr [0x50000 + rcx - 0x40000], 0xcc\n"
     "mov qword ptr [0x13000 + 8 * 0x40], 0x50007\n invlpg [0x40000]",
     {
	     assert_int_equal(r.vector, VEC_BP);
	     assert_int_equal(r.gpr[RSI], WHEN - 1);
     })

/* The page may not be executed any more. */
CASE(page_is_taken, "mov qword ptr [0x13000 + 8 * 0x40], 0\n invlpg [0x40000]", {
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, r.rip);
	assert_int_equal(r.gpr[RSI], WHEN - 1);
})

/* The same by another CR3: its table of pages is at 50000h. */
CASE(tables_are_others,
     "push rcx\n push rsi\n mov esi, 0x13000\n mov edi, 0x50000\n mov ecx, 512\n"
     "rep movsq\n mov qword ptr [0x50000 + 8 * 0x40], 0\n pop rsi\n pop rcx\n"
     "mov qword ptr [0x12000], 0x50007\n mov rax, cr3\n mov cr3, rax",
     {
	     assert_int_equal(r.vector, VEC_PF);
	     assert_int_equal(r.cr2, r.rip);
	     assert_int_equal(r.gpr[RSI], WHEN - 1);
     })

/* ---- what the box does not let a program do ---- */

PROGRAM(vectors, "mov ebx, 40\n xor esi, esi\n 1: paddd xmm0, xmm1\n syscall\n inc rsi\n"
		 " dec ebx\n jnz 1b\n int3");
HANDLER(task_switched, "mov rax, cr0\n or eax, 8\n mov cr0, rax");

static void vectors_prepare(struct box *b)
{
	pass_box(b, task_switched, task_switched_end);
}

static void vectors_are_asked_for_again(void **state)
{
	struct end r;

	(void)state;
	run_program(
		&(struct program){ "vectors", vectors, vectors_end, 3, vectors_prepare },
		&r);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.gpr[RSI], WHEN);
	free(r.ram);
}

/* Where the kernel goes on behind it has been passed over to before, with another XCR0.
 */
PROGRAM(xcr0_is_less, "push rcx\n push rdx\n xor ecx, ecx\n xor edx, edx\n mov eax, 7\n"
		      "inc qword ptr [" COUNTER "]\n cmp qword ptr [" COUNTER "], 30\n"
		      "jb 1f\n mov eax, 3\n 1: xsetbv\n pop rdx\n pop rcx\n sysretq");
PROGRAM(wide_vectors,
	"mov ebx, 40\n xor esi, esi\n 1: vpaddd ymm0, ymm1, ymm2\n syscall\n"
	" inc rsi\n dec ebx\n jnz 1b\n int3");

static void wide_vectors_prepare(struct box *b)
{
	pass_box(b, xcr0_is_less, xcr0_is_less_end);
}

static void xcr0_is_asked_for_again(void **state)
{
	struct end r;

	(void)state;
	run_program(&(struct program){ "wide_vectors", wide_vectors, wide_vectors_end, 3,
				       wide_vectors_prepare },
		    &r);
	assert_int_equal(r.vector, VEC_UD);
	assert_int_equal(r.gpr[RSI], WHEN);
	free(r.ram);
}

/*
 * The kernel calls, and every other time it goes back to the user from there. Where it
 * would have returned to the user may not be: it reads what only the kernel may.
 */
PROGRAM(returning, "mov ebx, 40\n 1: syscall\n dec ebx\n jnz 1b\n"
		   " mov eax, [0x60200]\n push rax\n ret");
PROGRAM(calling, "inc qword ptr [" COUNTER "]\n call 2f\n mov rdi, [0x61000]\n sysretq\n"
		 " 2: mov rax, [rsp]\n mov [0x60200], rax\n"
		 " test byte ptr [" COUNTER "], 1\n jz 3f\n ret\n"
		 " 3: lea rsp, [rsp + 8]\n sysretq");

static void returning_prepare(struct box *b)
{
	pass_box(b, calling, calling_end);
	poke(b, PT + 8 * 0x61, 0x61003, 8);
	tlb_flush_all(b->v);
}

static void the_user_does_not_return_to_the_kernel(void **state)
{
	struct end r;

	(void)state;
	run_program(&(struct program){ "returning", returning, returning_end, 3,
				       returning_prepare },
		    &r);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, 0x61000);
	assert_int_equal(counted(&r), ROUNDS);
	free(r.ram);
}

/* #UD, whose handler goes on behind it, with another stack for calls and returns. */
PROGRAM(faulting, "mov ebx, 40\n xor esi, esi\n 1: call 2f\n dec ebx\n jnz 1b\n int3\n"
		  " 2: ud2\n call 3f\n inc rsi\n ret\n 3: ud2\n ret");
PROGRAM(skip_it,
	"inc qword ptr [" COUNTER "]\n call 1f\n add qword ptr [rsp], 2\n iretq\n"
	" 1: ret");

static void faulting_prepare(struct box *b)
{
	static const u8 jump[] = { 0xb8, 0, 0x80, 0x04, 0, 0xff, 0xe0 }; /* to CODE2 */

	b->v->gpr[RSP] = USER_STACK;
	memcpy(b->ram + CODE2, skip_it, (size_t)(skip_it_end - skip_it));
	memcpy(b->ram + HANDLERS + 16 * VEC_UD, jump, sizeof(jump));
}

static void faults_return_between_calls(void **state)
{
	struct end r;

	(void)state;
	for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
		run_program(&(struct program){ "faulting", faulting, faulting_end, cpl,
					       faulting_prepare },
			    &r);
		assert_int_equal(r.vector, VEC_BP);
		assert_int_equal(r.gpr[RSI], ROUNDS);
		assert_int_equal(counted(&r), 2 * ROUNDS);
		free(r.ram);
	}
}

/* It is not the loop that does it all. */
static void most_are_passed_over(void **state)
{
	struct vcpu_stats s;

	(void)state;
	count_program(&engine_translate,
		      &(struct program){ "calls", calls, calls_end, 3,
					 nothing_special_prepare },
		      &s);
	assert_in_range(s.code_passed, 40, 2 * ROUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_special_case),
		cmocka_unit_test(single_step_case),
		cmocka_unit_test(alignment_check_case),
		cmocka_unit_test(code_is_written_case),
		cmocka_unit_test(page_is_replaced_case),
		cmocka_unit_test(page_is_taken_case),
		cmocka_unit_test(tables_are_others_case),
		cmocka_unit_test(xcr0_is_asked_for_again),
		cmocka_unit_test(the_user_does_not_return_to_the_kernel),
		cmocka_unit_test(vectors_are_asked_for_again),
		cmocka_unit_test(faults_return_between_calls),
		cmocka_unit_test(most_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
