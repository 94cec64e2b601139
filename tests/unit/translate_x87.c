/*
 * x87 instructions in translated code: their errors, pointers and CR0's say in them;
 * string instructions, operands off RIP, system instructions that are done in line.
 */
#include "translate_box.h"

#include "x86/msr.h"

#define FCW_UNMASKED "mov word ptr [0x60000], 0x37b\n fldcw [0x60000]\n"

static void run_one(const char *name, const u8 *code, const u8 *end, unsigned cpl,
		    void (*prepare)(struct box *b), struct end *r)
{
	const struct program p = { name, code, end, cpl, prepare };

	run_program(&p, r);
}

#define RUN(name, cpl, prepare, r) run_one(#name, name, name##_end, cpl, prepare, r)

/* Arithmetic that goes round, beside SSE, calls out and conditions of both kinds. */
PROGRAM(mixed,
	"fninit\n mov ecx, 60\n mov dword ptr [0x60100], 3\n xor edi, edi\n fldz\n"
	"1: fild dword ptr [0x60100]\n mov [0x60108], ecx\n fild dword ptr [0x60108]\n"
	"fdivp\n fsqrt\n faddp\n cvtsi2sd xmm1, ecx\n addsd xmm2, xmm1\n\n"
	"fst qword ptr [0x60110]\n movq xmm3, [0x60110]\n addsd xmm2, xmm3\n"
	"mov rsi, rcx\n fld1\n fcomip st, st(1)\n adc edi, 0\n fnstsw ax\n add edi, eax\n"
	"fld tbyte ptr [r9 + 0x60200]\n fcmovnbe st, st(1)\n fstp tbyte ptr [r9 + "
	"0x60200]\n"
	"fnstcw [0x60120]\n push rcx\n fld qword ptr [0x60110]\n fisttp dword ptr "
	"[0x60124]\n"
	"pop rcx\n add edi, [0x60124]\n mov rcx, rsi\n dec ecx\n jnz 1b\n"
	"fnsave [0x60300]\n movq rax, xmm2\n int3");

static void arithmetic_beside_sse(void **state)
{
	struct end r;

	(void)state;
	RUN(mixed, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RCX], 0);
	assert_int_not_equal(r.gpr[RAX], 0);
	free(r.ram);
}

/* The error is that of the division; what reports it is the next that waits. */
PROGRAM(error,
	"fninit\n mov ecx, 40\n" FCW_UNMASKED "mov dword ptr [0x60008], 1\n"
	"1: fld1\n fild dword ptr [0x60008]\n cmp ecx, 1\n jne 2f\n fldz\n fstp st(1)\n"
	"2: .globl error_div\n error_div: fdivp\n mov ebx, ecx\n mov eax, 5\n movd xmm1, "
	"ebx\n"
	"fnstsw ax\n add ebx, 7\n .globl error_at\n error_at: fstp dword ptr [0x60010]\n"
	"dec ecx\n jnz 1b\n int3");
extern const u8 error_div[], error_at[];

static void an_error_is_reported_by_the_next(void **state)
{
	struct end r;

	(void)state;
	RUN(error, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_MF);
	assert_int_equal(r.rip, AT(error_at, error));
	assert_int_equal(r.gpr[RBX], 8);
	assert_int_equal(r.gpr[RAX] & 0x84, 0x84);
	free(r.ram);
}

/* FLDCW takes the mask from an error that is there already; MMX waits too. */
PROGRAM(unmask,
	"fninit\n mov ecx, 40\n 1: fldz\n fld1\n cmp ecx, 1\n jne 2f\n fdivrp\n"
	"mov word ptr [0x60000], 0x37b\n fldcw [0x60000]\n fnstcw [0x60010]\n"
	"inc ebx\n .globl unmask_at\n unmask_at: movq mm0, mm1\n 2: fstp st\n fstp "
	"st\n fnclex\n"
	"fninit\n dec ecx\n jnz 1b\n int3");
extern const u8 unmask_at[];

static void an_error_is_unmasked(void **state)
{
	struct end r;

	(void)state;
	RUN(unmask, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_MF);
	assert_int_equal(r.rip, AT(unmask_at, unmask));
	assert_int_equal(r.gpr[RBX], 1);
	free(r.ram);
}

/*
 * Pointers: of the last with an operand, and of the last at all, in one block, behind
 * branches, calls out, control instructions, and operands of all forms.
 */
PROGRAM(pointers,
	"fninit\n mov ecx, 40\n mov ebx, 0x60400\n mov r9d, 0x60500\n"
	"mov rdx, 0x60000\n"
	"1: fld dword ptr [rbx + 0x10]\n fld1\n .globl pointers_a\n pointers_a: faddp\n"
	"fnstcw [rdx]\n fnstenv [rdx + 0x100]\n fldcw [rdx]\n"
	"fst qword ptr [r9 + rcx*8]\n test ecx, 1\n jz 2f\n fld st\n fstp st\n"
	"2: fnstenv [rdx + 0x140]\n fldcw [rdx]\n"
	"fadd qword ptr [rip + 3f]\n push rcx\n mov eax, 1\n add dword ptr [rdx + 0x20], "
	"1\n"
	"fnstenv [rdx + 0x180]\n fldcw [rdx]\n pop rcx\n"
	"fiadd word ptr [rbx - 2]\n fxsave64 [rdx + 0x200]\n"
	"fs fld dword ptr [ebx + 0x20]\n fstp st\n fxsave [rdx + 0x600]\n"
	"fstp st\n dec ecx\n jnz 1b\n int3\n .balign 8\n 3: .quad 0x3ff0000000000000");
extern const u8 pointers_a[];

static void fs_prepare(struct box *b)
{
	b->v->seg[FS].base = 0x1000;
}

static void pointers_are_the_guests(void **state)
{
	struct end r;

	(void)state;
	RUN(pointers, 3, fs_prepare, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(le_load(r.ram + 0x60100 + 12, 4), AT(pointers_a, pointers));
	assert_int_equal(le_load(r.ram + 0x60100 + 20, 4), 0x60410);
	assert_int_equal(le_load(r.ram + 0x60140 + 20, 4), 0x60508);
	assert_int_equal(le_load(r.ram + 0x60200 + XSAVE_FDP, 8), 0x603fe);
	assert_int_equal(le_load(r.ram + 0x60600 + XSAVE_FDP, 4), 0x60420);
	free(r.ram);
}

/* A page fault, and a check that is missed, find the pointers of the one before. */
PROGRAM(fault,
	"fninit\n mov ecx, 40\n mov ebx, 0x60000\n"
	"1: fld qword ptr [rbx + 8]\n .globl fault_at\n fault_at: fchs\n"
	"cmp ecx, 1\n cmove rbx, r15\n fstp qword ptr [rbx]\n dec ecx\n jnz 1b\n int3");
extern const u8 fault_at[];

static void fault_prepare(struct box *b)
{
	b->v->gpr[R15] = 0x40000000;
}

static void a_fault_leaves_the_pointers(void **state)
{
	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(all_engines); i++) {
		const struct engine *e = all_engines[i];
		struct box *b = engine_box_new(e);
		struct end r;

		if (!b)
			continue;
		engine_box_start(e, b, 3);
		memcpy(b->ram + CODE, fault, (size_t)(fault_end - fault));
		fault_prepare(b);
		engine_box_run(e, b, &r);
		assert_int_equal(r.vector, VEC_PF);
		assert_int_equal(r.cr2, 0x40000000);
		assert_int_equal(b->v->fip, AT(fault_at, fault));
		assert_int_equal(b->v->fdp, 0x60008);
		assert_int_equal(b->v->fop, 0x1e0);
		engine_box_free(e, b);
		free(r.ram);
	}
}

/* TS and EM come and go while the registers are live. */
PROGRAM(ts,
	"fninit\n mov ecx, 40\n mov rdx, cr0\n mov rax, rdx\n or rdx, 8\n"
	"1: mov cr0, rdx\n test ecx, ecx\n jz 2f\n clts\n 2: .globl ts_at\n ts_at: fld1\n"
	"fstp st\n dec ecx\n jns 1b\n int3");
PROGRAM(em, "fninit\n mov ecx, 40\n mov rax, cr0\n mov rdx, rax\n or rdx, 4\n"
	    "1: mov cr0, rax\n movd xmm1, ecx\n test ecx, ecx\n jnz 2f\n mov cr0, rdx\n"
	    "2: .globl em_at\n em_at: fld1\n fstp st\n dec ecx\n jns 1b\n int3");
/* WAIT does not mind TS without MP, nor EM; the one behind it does. */
PROGRAM(mp, "fninit\n mov ecx, 40\n mov rax, cr0\n mov rdx, rax\n or rdx, 0xc\n"
	    "and rdx, ~2\n 1: mov cr0, rdx\n fwait\n inc ebx\n test ecx, ecx\n jz 2f\n"
	    "mov cr0, rax\n 2: .globl mp_at\n mp_at: fld1\n fstp st\n dec ecx\n jns 1b\n "
	    "int3");
PROGRAM(wait_ts,
	"fninit\n mov ecx, 40\n mov rax, cr0\n mov rdx, rax\n or rdx, 8\n"
	"1: fld1\n test ecx, ecx\n jnz 2f\n mov cr0, rdx\n"
	"2: .globl wait_at\n wait_at: fwait\n fstp st\n dec ecx\n jns 1b\n int3");
extern const u8 ts_at[], em_at[], mp_at[], wait_at[];

static void control_bits_are_asked(void **state)
{
	struct end r;

	(void)state;
	RUN(ts, 0, NULL, &r);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.rip, AT(ts_at, ts));
	free(r.ram);
	RUN(em, 0, NULL, &r);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.rip, AT(em_at, em));
	free(r.ram);
	RUN(mp, 0, NULL, &r);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.rip, AT(mp_at, mp));
	assert_int_equal(r.gpr[RBX], 41);
	free(r.ram);
	RUN(wait_ts, 0, NULL, &r);
	assert_int_equal(r.vector, VEC_NM);
	assert_int_equal(r.rip, AT(wait_at, wait_ts));
	free(r.ram);
}

/* An unmasked SIMD error of an instruction with a register that lives in memory. */
PROGRAM(simd, "mov dword ptr [0x60000], 0x1f00\n ldmxcsr [0x60000]\n mov ebp, 40\n"
	      "mov ebx, 0x60010\n xor esi, esi\n mov r9d, 0x77\n"
	      "1: mov ecx, ebp\n cmp ecx, 1\n jne 2f\n mov rax, 0x7ff8000000000000\n"
	      "mov [rbx], rax\n 2: cmp ecx, 1\n cvttsd2si r9, [rbx + rsi]\n adc edi, 0\n"
	      "dec ebp\n jnz 1b\n int3");

static void a_simd_error_keeps_the_registers(void **state)
{
	struct end r;

	(void)state;
	RUN(simd, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_XM);
	assert_int_equal(r.gpr[RCX], 1);
	free(r.ram);
}

/* ---- string instructions ---- */

/*
 * All sizes, counts from 0 on, either side of a page's end, overlapping, backward, with
 * flags and registers that must stay.
 */
PROGRAM(strings,
	"xor r14d, r14d\n mov ebp, 0x60000\n"
	"1: lea rdi, [rbp + r14 * 8 + 0xf80]\n mov rax, 0x1122334455667788\n add rax, "
	"r14\n"
	"mov ecx, r14d\n cmp ecx, 5\n rep stosb\n adc r13, rcx\n"
	"mov ecx, r14d\n rep stosw\n mov ecx, r14d\n stc\n rep stosd\n adc r13, rdi\n"
	"mov ecx, r14d\n rep stosq\n"
	"mov rsi, rbp\n lea rdi, [rbp + r14 + 3]\n mov ecx, r14d\n rep movsb\n"
	"lea rsi, [rbp + 0xfc0]\n lea rdi, [rbp + 0x1fe0]\n mov ecx, r14d\n rep movsw\n"
	"mov ecx, r14d\n rep movsd\n mov ecx, r14d\n rep movsq\n add r13, rsi\n"
	"lodsb\n add r13, rax\n lodsw\n add r13, rax\n lodsd\n add r13, rax\n lodsq\n"
	"add r13, rax\n stosb\n stosw\n stosd\n stosq\n movsb\n movsw\n movsd\n movsq\n"
	"mov rsi, 0x62ffd\n mov rdi, 0x63ffe\n lodsd\n stosd\n sub rsi, 2\n sub rdi, 3\n"
	"movsq\n add r13, rdi\n"
	"lea rsi, [rbp + 0x1100]\n lea rdi, [rbp + 0x1104]\n std\n mov ecx, r14d\n rep "
	"movsb\n"
	"stosw\n cld\n stosw\n mov r10, rsi\n add r10, rdi\n"
	"mov rdi, 0x68000\n mov ecx, 0x1f00\n rep stosb\n"
	"inc r14d\n cmp r14d, 70\n jb 1b\n"
	"mov rdi, 0x7ff80\n mov rsi, 0x1000000000000000\n mov ecx, 3\n rep movsb\n int3");

static void string_instructions(void **state)
{
	struct end r;

	(void)state;
	RUN(strings, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.gpr[RCX], 3);
	free(r.ram);
}

/* Across into a page that is not there: what was before it is done. */
PROGRAM(into,
	"mov ebp, 40\n 1: mov edi, 0x70000\n mov ecx, 64\n mov eax, ebp\n rep stosb\n"
	"dec ebp\n jnz 1b\n mov rdi, 0x1feff0\n mov ecx, 0x20\n rep stosb\n int3");

static void into_prepare(struct box *b)
{
	poke(b, PT + 0x1fe * 8, 0x71000 | 0x67, 8);
	poke(b, PT + 0x1ff * 8, 0, 8);
}

static void a_run_into_a_hole(void **state)
{
	struct end r;

	(void)state;
	RUN(into, 3, into_prepare, &r);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, 0x1ff000);
	assert_int_equal(r.gpr[RCX], 0x10);
	assert_int_equal(r.gpr[RDI], 0x1ff000);
	free(r.ram);
}

/* Onto the code that runs. */
PROGRAM(onto,
	"mov ebp, 40\n 1: mov edi, 0x60000\n cmp ebp, 1\n jne 2f\n lea rdi, [rip + 3f]\n"
	"2: mov ecx, 2\n mov eax, 0xcc\n rep stosb\n 3: inc ebx\n dec ebp\n jnz 1b\n "
	"hlt");

static void a_run_onto_code(void **state)
{
	struct end r;

	(void)state;
	RUN(onto, 3, NULL, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RBX], 39);
	free(r.ram);
}

/*
 * Operands off RIP: pages of data, one that is read alone behind a branch, the page of
 * the code, and across a page's end.
 */
PROGRAM(off_rip,
	"mov ebp, 60\n xor ebx, ebx\n"
	"1: mov eax, [rip + 0x20000]\n add ebx, eax\n add eax, 3\n mov [rip + 0x20000], "
	"eax\n"
	"movzx edx, byte ptr [rip + 0x20100]\n add [rip + 0x20104], edx\n"
	"movd xmm1, [rip + 0x20010]\n mov rsi, [rip + 0x20fc0]\n add rbx, [rip + "
	"0x20ff0]\n"
	"add ebx, [rip + 0x24000]\n cmp ebp, 1\n jne 2f\n .globl off_rip_at\n"
	"off_rip_at: mov [rip + 0x24010], ebx\n"
	"2: add ebx, [rip + 3f]\n inc dword ptr [rip + 4f]\n add ebx, [rip + 4f]\n"
	"dec ebp\n jnz 1b\n int3\n 3: .long 5\n 4: .long 7");
extern const u8 off_rip_at[];

static void off_rip_prepare(struct box *b)
{
	poke(b, PT + 0x64 * 8, 0x64000 | 0x65, 8);
	for (unsigned i = 0; i < 0x6000; i++)
		b->ram[0x60000 + i] = (u8)(i * 7);
}

static void operands_off_rip(void **state)
{
	struct end r;

	(void)state;
	RUN(off_rip, 3, off_rip_prepare, &r);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.rip, AT(off_rip_at, off_rip));
	assert_int_equal(r.gpr[RBP], 1);
	free(r.ram);
}

/* SWAPGS, MOV from control registers, CLD and STD. */
PROGRAM(system_,
	"mov ecx, 40\n 1: swapgs\n mov rax, gs:[0x10]\n add rbx, rax\n swapgs\n"
	"mov r9, cr3\n mov rdx, cr0\n add rbx, r9\n add rbx, rdx\n mov rsi, cr4\n"
	"mov cr2, rcx\n mov rdi, cr2\n add rbx, rdi\n cmp ecx, 7\n std\n adc rbx, "
	"0\n"
	"pushfq\n pop rdi\n cld\n pushfq\n pop rbp\n add rbx, rbp\n add rbx, rdi\n"
	"dec ecx\n jnz 1b\n swapgs\n mov rax, gs:[0]\n int3");

static void gs_prepare(struct box *b)
{
	b->v->seg[GS].base = 0x61000;
	b->v->msr[MSRI_KERNEL_GS_BASE] = 0x62000;
	poke(b, 0x61000, 0x1234, 8);
	poke(b, 0x62000, 0x5678, 8);
	poke(b, 0x62010, 3, 8);
}

static void system_instructions(void **state)
{
	struct end r;

	(void)state;
	RUN(system_, 0, gs_prepare, &r);
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX], 0x5678);
	free(r.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arithmetic_beside_sse),
		cmocka_unit_test(an_error_is_reported_by_the_next),
		cmocka_unit_test(an_error_is_unmasked),
		cmocka_unit_test(pointers_are_the_guests),
		cmocka_unit_test(a_fault_leaves_the_pointers),
		cmocka_unit_test(control_bits_are_asked),
		cmocka_unit_test(a_simd_error_keeps_the_registers),
		cmocka_unit_test(string_instructions),
		cmocka_unit_test(a_run_into_a_hole),
		cmocka_unit_test(a_run_onto_code),
		cmocka_unit_test(operands_off_rip),
		cmocka_unit_test(system_instructions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
