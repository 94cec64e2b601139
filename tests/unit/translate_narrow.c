/*
 * 32-bit code: what it encodes otherwise, segments that are not flat and become so,
 * addresses that wrap, and 64-bit code at the same linear addresses. All in compatibility
 * mode, whose exceptions come with the frame that translate_box.h reads. SDM volume 3
 * sections 3.3.7 and 5.2.1.
 */
#include "translate_box.h"

#define PROGRAM32(name, text) PROGRAM(name, ".code32\n" text "\n.code64\n")

/* Where a label of a program lies, and far jumps (ff 2c), are said in what all assemblers
 * take to be the same. */
#define ATT(text)                 "\n.att_syntax\n" text "\n.intel_syntax noprefix\n"
#define PLACE(label, program)     "$" label " - " program " + 0x40000"
#define LOAD(reg, label, program) ATT("mov " PLACE(label, program) ", %" reg)
#define FAR(sel, label, program)  ATT("ljmp $" sel ", " PLACE(label, program))

#define RUN(prog, level, prep)                                                           \
	struct end r;                                                                    \
	run_program(&(struct program){ #prog, prog, prog##_end, level, prep }, &r);      \
	free(r.ram)

#define assert_done(r) assert_int_equal((r).vector, VEC_BP)

/* Selectors for a CPL of 3. */
#define FLAT    "0x5b"
#define BASED   "0x203" /* DATA + 1000h, 256 bytes */
#define TLS     "0x20b" /* DATA + 800h, 4 GiB */
#define SHORT   "0x213" /* DATA, 256 bytes */
#define FREE(n) FREE_SEL(n)

static void narrow(struct box *b)
{
	unsigned cpl = b->v->cpl;

	set_gdt(b, FREE(0), make_desc(DATA + 0x1000, 0xff, ATTR_DATA(3) | SEG_DB));
	set_gdt(b, FREE(1),
		make_desc(DATA + 0x800, 0xfffff, ATTR_DATA(3) | SEG_DB | SEG_G));
	set_gdt(b, FREE(2), make_desc(DATA, 0xff, ATTR_DATA(3) | SEG_DB));
	box_seg(b, CS, CODE32(cpl) | cpl);
	for (unsigned i = 0; i < 0x2000; i++)
		b->ram[DATA + i] = (u8)(i * 37 >> 3);
	/* The last pages of 4 GiB are those at DATA, code and data. */
	poke(b, PDPT + 3 * 8, 0x15027, 8);
	poke(b, 0x15000 + 511 * 8, 0x16027, 8);
	poke(b, 0x16000 + 511 * 8, (DATA + 0x2000) | 0x67, 8);
	vcpu_sync(b->v);
}

/* ---- encodings ---- */

PROGRAM32(old_forms,
	  "mov ebp, esp\n mov edi, 40\n"
	  "1: inc eax\n inc cx\n dec esi\n dec dx\n mov eax, [0x60010]\n"
	  "add ebx, eax\n mov al, ds:[0x60021]\n mov ds:[0x60100], eax\n"
	  ".byte 0xa0, 0x33, 0, 6, 0, 0xa3, 4, 1, 6, 0, 0x66, 0xa3, 8, 1, 6, 0\n"
	  "push eax\n push 5\n push 0x12345678\n push dword ptr [esp + 8]\n"
	  "push dword ptr [0x60040]\n pushfd\n pusha\n popa\n pop ecx\n"
	  "push ax\n pop dx\n .byte 0x82, 0xc0, 7\n daa\n enter 16, 0\n"
	  "mov [ebp - 8], edx\n leave\n mov esp, ebp\n dec edi\n jnz 1b\n"
	  "add esp, 4\n sub esp, 4\n xchg eax, esp\n xchg eax, esp\n"
	  "inc esp\n dec esp\n int3");

static void old_forms_of_instructions(void **state)
{
	(void)state;
	{
		RUN(old_forms, 3, narrow);
		assert_done(r);
	}
	{
		RUN(old_forms, 0, narrow);
		assert_done(r);
	}
}

PROGRAM32(
	calls,
	"xor eax, eax\n mov ebp, 40\n"
	"1: call 2f\n " LOAD(
		"ecx", "3f",
		"calls") "call ecx\n"
			 "mov [0x60200], ecx\n mov edx, 0x60000\n call dword ptr [edx + "
			 "0x200]\n push 7\n push "
			 "8\n"
			 "call 4f\n call 5f\n 5: pop edx\n"
			 "" LOAD("ecx", "6f",
				 "calls") "mov [0x60204], ecx\n"
					  "mov ecx, -0x204\n add edx, [ecx + 0x60408]\n"
					  "jmp dword ptr [ecx + 0x60408]\n"
					  "2: inc eax\n ret\n 3: add eax, 2\n ret\n"
					  "4: add ebx, [esp + 4]\n ret 8\n"
					  "6: " ATT("push " PLACE(
						  "7f",
						  "calls")) "ret\n int3\n"
							    "7: dec ebp\n jnz 1b\n int3");

static void calls_and_returns(void **state)
{
	RUN(calls, 3, narrow);

	(void)state;
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 40 * 5);
	assert_int_equal(r.gpr[RSP], STACK3 + 0x1000);
}

PROGRAM32(counts, "mov ebx, 30\n 1: mov ecx, 9\n 2: add eax, ecx\n adc edx, 0\n loop 2b\n"
		  "jecxz 3f\n int3\n 3: mov ecx, ebx\n jecxz 4f\n inc esi\n"
		  "4: dec ebx\n jnz 1b\n loop 5f\n 5: mov ecx, 3\n 6: cmp ecx, 2\n"
		  "loopne 6b\n int3");
PROGRAM(counts64, "mov ebx, 30\n 1: mov ecx, 9\n 2: add eax, ecx\n adc edx, 0\n loop 2b\n"
		  "jrcxz 3f\n int3\n 3: mov ecx, ebx\n jrcxz 4f\n inc esi\n"
		  "4: dec ebx\n jnz 1b\n loop 5f\n 5: mov rcx, -1\n shl rcx, 32\n"
		  "jecxz 6f\n int3\n 6: int3");

static void loops_by_count(void **state)
{
	(void)state;
	{
		RUN(counts, 3, narrow);
		assert_done(r);
		assert_int_equal(r.gpr[RAX], 30 * 45);
	}
	{
		RUN(counts64, 3, NULL);
		assert_done(r);
		assert_int_equal(r.gpr[RAX], 30 * 45);
		assert_int_equal(r.rip, CODE + (u64)(counts64_end - counts64));
	}
}

PROGRAM32(strings, "mov ebp, 30\n"
		   "1: mov esi, 0x60004\n mov edi, 0x60803\n mov ecx, 37\n rep movsb\n"
		   "movsd\n lodsd\n stosd\n lodsb\n mov ecx, 0x500\n mov edi, 0x60f00\n"
		   "rep stosd\n mov edi, 0xfffffffc\n stosd\n add ebx, edi\n"
		   "mov edi, 0xffffffc0\n mov ecx, 16\n rep stosd\n add ebx, edi\n"
		   "std\n stosd\n cld\n mov ecx, 4\n"
		   "mov edi, 0xfffffff8\n rep stosd\n dec ebp\n jnz 1b\n"
		   "mov ecx, 2\n mov edi, 0xfffffff8\n rep stosd\n int3");

static void strings_wrap(void **state)
{
	RUN(strings, 3, narrow);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RDI], 0);
}

/* The slow stub of the first push's source does that push, and the next ones follow. */
PROGRAM32(push_slow,
	  "mov ebp, 40\n"
	  "1: push dword ptr [0x60ffe]\n push 1\n push 2\n push eax\n pop ebx\n"
	  "pop ecx\n pop edx\n pop esi\n add eax, esi\n dec ebp\n jnz 1b\n int3");

static void pushes_behind_a_slow_one(void **state)
{
	RUN(push_slow, 3, narrow);

	(void)state;
	assert_done(r);
	assert_int_equal(r.gpr[RDX], 1);
}

/* Of 8 registers: the others stay as 64-bit code has left them. */
PROGRAM32(zeroupper, "mov ebp, 40\n 1: vpaddd ymm1, ymm1, ymm2\n vzeroupper\n"
		     "vpaddd ymm3, ymm1, [0x60000]\n dec ebp\n jnz 1b\n"
		     "vpaddd ymm4, ymm3, ymm1\n int3");
PROGRAM32(zeroall, "mov ebp, 40\n 1: vpaddd ymm1, ymm1, ymm2\n vzeroall\n"
		   "dec ebp\n jnz 1b\n int3");

static void zeroupper_prepare(struct box *b)
{
	u8 *x = b->v->xsave;

	narrow(b);
	memset(x + XSAVE_XMM, 0x5a, 256);
	memset(x + XSAVE_YMM, 0xa5, 256);
	le_store(x + XSAVE_XSTATE_BV, 7, 8);
}

static void vzeroupper_of_8_registers(void **state)
{
	(void)state;
	{
		RUN(zeroupper, 3, zeroupper_prepare);
		assert_done(r);
		assert_int_equal(r.ymm[16 * 2], 0);
		assert_int_equal(r.ymm[16 * 8], 0xa5);
	}
	{
		RUN(zeroall, 3, zeroupper_prepare);
		assert_done(r);
		assert_int_equal(r.xmm[16 * 2], 0);
		assert_int_equal(r.xmm[16 * 8], 0x5a);
	}
}

/* ---- segments ---- */

PROGRAM32(segments,
	  "mov ebp, 40\n"
	  "1: push " BASED "\n pop ds\n mov eax, [0x10]\n add ebx, eax\n"
	  "mov [0x14], ebx\n push " FLAT "\n pop ds\n add ebx, [0x60010]\n"
	  "push " BASED "\n pop es\n mov edi, 4\n stosd\n mov eax, " FLAT "\n"
	  "mov es, eax\n mov edi, 0x60008\n stosd\n"
	  "lds edx, [0x60300]\n add ebx, [0x60010]\n dec ebp\n jnz 1b\n"
	  "mov eax, " SHORT "\n mov ds, eax\n mov ecx, [0xfc]\n mov ecx, [0xfd]");

static void segments_prepare(struct box *b)
{
	narrow(b);
	poke(b, DATA + 0x300, 0x11223344, 4);
	poke(b, DATA + 0x304, DATA32(3) | 3, 2);
}

static void segments_cease_to_be_flat(void **state)
{
	RUN(segments, 3, segments_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.rip, CODE + (u64)(segments_end - segments) - 6);
}

PROGRAM32(bases, "mov eax, " TLS "\n mov gs, eax\n mov eax, " BASED "\n mov fs, eax\n"
		 "mov ebp, 40\n"
		 "1: mov eax, gs:[0]\n add ebx, gs:[-16]\n mov ecx, -0x20\n"
		 "add gs:[ecx], ebx\n add eax, fs:[0x20]\n mov fs:[ecx + 0x40], eax\n"
		 "lea edx, gs:[ecx + 4]\n push gs:[ecx]\n pop esi\n"
		 "call gs:[0x40]\n dec ebp\n jnz 1b\n"
		 "mov edx, fs:[0xfd]\n int3\n 2: inc edi\n ret");

static void bases_prepare(struct box *b)
{
	narrow(b);
	poke(b, DATA + 0x840, CODE + (u64)(bases_end - bases) - 2, 4);
	b->v->gpr[RDI] = 0;
}

static void segments_with_bases(void **state)
{
	RUN(bases, 3, bases_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.gpr[RDI], 40);
}

PROGRAM32(null_gs, "xor eax, eax\n mov gs, eax\n mov ebp, 40\n"
		   "1: mov eax, 0x60000\n cmp ebp, 1\n jne 2f\n mov eax, gs:[eax]\n"
		   "2: dec ebp\n jnz 1b\n int3");

static void a_null_segment(void **state)
{
	RUN(null_gs, 3, narrow);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
}

/* #SS, and read-only data. */
PROGRAM32(short_stack, "mov ebp, 40\n 1: push eax\n pop ecx\n dec ebp\n jnz 1b\n"
		       "mov eax, " SHORT "\n mov ss, eax\n mov esp, 0x100\n push eax\n"
		       "pop ecx\n mov esp, 0xfe\n pop ecx");

static void a_stack_of_256_bytes(void **state)
{
	RUN(short_stack, 3, narrow);

	(void)state;
	assert_int_equal(r.vector, VEC_SS);
}

/* ---- addresses ---- */

PROGRAM32(wraps,
	  "mov ebp, 40\n"
	  "1: mov ebx, 0xfffff000\n add eax, [ebx + 0x10]\n add eax, [ebx + 0x61020]\n"
	  "mov esi, 0x61040\n add eax, [esi + ebx]\n mov [ebx + 0xffc], eax\n"
	  "mov edx, 0xffffffff\n mov ecx, 0x60000\n add ecx, [edx*4 + 0x60014]\n"
	  "add eax, [edx + 0x60011]\n add eax, [edx + 0x60015]\n"
	  "add eax, [edx + 0x60019]\n mov dword ptr [0xfffffff8], 0x11223344\n"
	  "mov esp, 0xfffffff8\n push eax\n pop eax\n pop edi\n pop edi\n push 3\n"
	  "mov esp, 8\n push eax\n pop ecx\n dec ebp\n jnz 1b\n add eax, [edx]");

static void addresses_wrap(void **state)
{
	RUN(wraps, 3, narrow);

	/* The last one in its middle, which in long mode is no address to wrap at. */
	(void)state;
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.rip, CODE + (u64)(wraps_end - wraps) - 2);
}

/* Upper halves that 64-bit code has left. */
PROGRAM(upper,
	"mov ebp, 40\n " ATT("movl " PLACE(
		"2f",
		"upper") ", 0x60200") ""
				      "mov dword ptr [0x60204], 0x20\n"
				      "1: mov rbx, 0xabc00060010\n mov rsi, 0x700000004\n"
				      "mov rdi, 0x900060100\n mov rcx, 0x300000002\n bts "
				      "rsp, 40\n"
				      "mov rax, -1\n .byte 0xff, 0x2c, 0x25, 0, 2, 6, 0\n"
				      ".code32\n 2: mov eax, [ebx]\n add eax, [ebx + "
				      "esi*4]\n add edx, [ebx + 4]\n"
				      "mov [ebx + 8], edx\n mov esi, 0x60020\n rep "
				      "movsd\n stosd\n push eax\n"
				      "pop edx\n jecxz 3f\n int3\n 3: " FAR(
					      "0xa0", "4f",
					      "upper") ""
						       ".code64\n 4: dec ebp\n jnz 1b\n "
						       "int3");

static void upper_prepare(struct box *b)
{
	narrow(b);
	b->v->gpr[RSP] = STACK0 + 0x1f00;
	box_seg(b, CS, CODE64(0));
	vcpu_sync(b->v);
}

static void upper_halves_do_not_count(void **state)
{
	RUN(upper, 0, upper_prepare);

	(void)state;
	assert_done(r);
	assert_int_equal(r.rip, CODE + (u64)(upper_end - upper));
}

/* From the last instruction of 4 GiB to address 0. */
PROGRAM32(code_wraps, "xor edx, edx\n mov ecx, 40\n mov eax, 0xfffffff8\n"
		      "1: call eax\n dec ecx\n jnz 1b\n int3");

static void code_wraps_prepare(struct box *b)
{
	static const u8 high[] = { 0x42, 0x42, 0x90, 0x90, 0x42, 0x90, 0x90, 0x42 };
	static const u8 low[] = { 0x42, 0xc3 };

	narrow(b);
	memcpy(b->ram + DATA + 0x2ff8, high, sizeof(high));
	memcpy(b->ram, low, sizeof(low));
	poke(b, DATA + 0x2000 + 0x800, 0, 4);
}

static void code_goes_on_at_0(void **state)
{
	RUN(code_wraps, 3, code_wraps_prepare);

	(void)state;
	assert_done(r);
	assert_int_equal(r.gpr[RDX], 40 * 5);
}

/* ---- modes ---- */

/*
 * The same bytes at the same address: 48 FF C0 is INC RAX, or DEC EAX and INC EAX. Called
 * from code of both kinds, with a jump from one to the other each time.
 */
PROGRAM32(modes,
	  "xor eax, eax\n xor ebx, ebx\n mov ebp, 60\n"
	  "1: call 5f\n add ebx, eax\n " FAR(
		  "0xa0", "2f",
		  "modes") ""
			   ".code64\n 2: call 5f\n lea rdx, [rip + 5f]\n call rdx\n jmp "
			   "3f\n"
			   "3: push 0\n push 0\n lea rdx, [rip + 4f]\n mov [rsp], edx\n"
			   "mov dword ptr [rsp + 4], 0x20\n .byte 0xff, 0x2c, 0x24\n"
			   ".code32\n 4: add esp, 16\n " LOAD(
				   "ecx", "5f",
				   "modes") ""
					    "call ecx\n dec ebp\n jnz 1b\n int3\n"
					    "5: .byte 0x48, 0xff, 0xc0, 0xc3");

static void one_address_two_modes(void **state)
{
	RUN(modes, 0, narrow);

	(void)state;
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 60 * 2);
}

/* Code changes under a loop that has been linked. */
PROGRAM32(changes,
	  "mov ecx, 40\n xor eax, eax\n"
	  "1: " LOAD("edx", "2f + 1", "changes") "inc byte ptr [edx]\n"
						 "2: mov bl, 0\n movzx ebx, bl\n add "
						 "eax, ebx\n dec ecx\n jnz 1b\n int3");

static void code_that_changes(void **state)
{
	RUN(changes, 3, narrow);

	(void)state;
	assert_done(r);
	assert_int_equal(r.gpr[RAX], 40 * 41 / 2);
}

/* Bit strings: addresses that wrap, and a segment of 256 bytes, at last beyond it. */
#define BIT_STEPS(at)                                                                    \
	"bt dword ptr [esi" at "], ecx\n rcl eax, 1\n"                                   \
	"bts dword ptr [esi" at " + 8], ecx\n rcl eax, 1\n"                              \
	"lock btc dword ptr [ebx + esi*2 + 4" at "], ecx\n rcl eax, 1\n"                 \
	"btr word ptr [esi" at " + 4], cx\n rcl eax, 1\n"
PROGRAM32(bits, "mov esi, 0x60400\n xor ebx, ebx\n sub ebx, esi\n mov ecx, -20000\n"
		"mov ebp, 60\n 1: " BIT_STEPS(
			"") "bt dword ptr [0xffffff00], ecx\n adc eax, 0\n"
			    "add ecx, 661\n dec ebp\n jnz 1b\n"
			    "mov esi, 4\n mov ecx, -64\n"
			    "bts dword ptr [esi], ecx\n"
			    "bt dword ptr [esi], ecx\n adc eax, eax\n"
			    "int3");
PROGRAM32(bits_based, "mov eax, " BASED "\n mov ds, eax\n mov esi, 0x80\n"
		      "mov ebx, -0x80\n mov ecx, -900\n mov ebp, 60\n 1: " BIT_STEPS(
			      "") "add ecx, 31\n dec ebp\n jnz 1b\n mov ecx, 1024\n"
				  "bts dword ptr [esi], ecx\n int3");

static void bit_strings(void **state)
{
	(void)state;
	for (unsigned cpl = 0; cpl < 4; cpl += 3) {
		RUN(bits, cpl, narrow);
		assert_done(r);
	}
	{
		RUN(bits_based, 3, narrow);
		assert_int_equal(r.vector, VEC_GP);
		assert_int_equal(r.rip, CODE + (u64)(bits_based_end - bits_based) - 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(old_forms_of_instructions),
		cmocka_unit_test(calls_and_returns),
		cmocka_unit_test(loops_by_count),
		cmocka_unit_test(strings_wrap),
		cmocka_unit_test(pushes_behind_a_slow_one),
		cmocka_unit_test(vzeroupper_of_8_registers),
		cmocka_unit_test(segments_cease_to_be_flat),
		cmocka_unit_test(segments_with_bases),
		cmocka_unit_test(a_null_segment),
		cmocka_unit_test(a_stack_of_256_bytes),
		cmocka_unit_test(addresses_wrap),
		cmocka_unit_test(upper_halves_do_not_count),
		cmocka_unit_test(code_goes_on_at_0),
		cmocka_unit_test(one_address_two_modes),
		cmocka_unit_test(code_that_changes),
		cmocka_unit_test(bit_strings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
