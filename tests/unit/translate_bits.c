/*
 * BT, BTS, BTR and BTC of a bit string in memory: the bit's number, which has a sign,
 * says how far from the operand it is. SDM volume 1 section 3.1.1.9 and volume 2, "BT".
 */
#include "translate_box.h"

#define ROUNDS 60

/* The bit, and ZF, which must stay, go round RBX. */
#define STEP(text)                                                                       \
	"cmp ebp, 30\n" text "\n setz dl\n rcl rbx, 1\n add bl, dl\n rol rbx, 3\n"

/* RCX is the number; R9 and R11 have it where registers are in memory, R9's upper half is
 * of no matter to 32 bits. */
PROGRAM(strings,
	"mov ebp, 60\n mov rcx, -29000\n mov esi, 0x68004\n mov r10, rsi\n mov edi, 3\n"
	"xor edx, edx\n xor ebx, ebx\n"
	"1: mov r9, 0x5500000000\n mov eax, ecx\n or r9, rax\n mov r11, rcx\n"
	"mov r8d, ebp\n"
	/* clang-format off */
	STEP("bt qword ptr [rsi], rcx")
	STEP("bts qword ptr [rsi], rcx")
	STEP("btr dword ptr [rsi + rdi*8 + 20], ecx")
	STEP("btc qword ptr [r10 + rdi*4 - 8], rcx")
	STEP("bt dword ptr [r10], r9d")
	STEP("bts dword ptr [rdi + rsi], r9d")
	STEP("btc qword ptr [rsi + 4], r11")
	STEP("bt qword ptr [0x68008], r11")
	STEP("lock bts qword ptr [rsi + 4], rcx")
	STEP("lock btr dword ptr [rsi + 8], r9d")
	STEP("lock btc qword ptr [r10 + 4], r11")
	STEP("bt dword ptr fs:[rsi], ecx")
	STEP("bt dword ptr [rip], ecx")
	/* Over the end of a page. */
	STEP("btc qword ptr [rsi + 0xff8], r8")
	STEP("bt qword ptr [rsi + 0xff8], r8")
	/* clang-format on */
	/* The memory around it is one group. */
	"mov rax, [rsi]\n bt qword ptr [rsi + 8], rcx\n adc rax, [rsi + 16]\n"
	"add rbx, rax\n"
	"add rcx, 977\n dec ebp\n jnz 1b\n int3");

static void fill(struct box *b)
{
	for (unsigned i = 0; i < 0x10000; i++)
		b->ram[DATA + i] = (u8)(i * 37 >> 3 ^ i >> 5);
}

static void far_bits_of_every_kind(void **state)
{
	struct end r;

	(void)state;
	for (unsigned cpl = 0; cpl < 4; cpl += 3) {
		run_program(
			&(struct program){ "strings", strings, strings_end, cpl, fill },
			&r);
		assert_int_equal(r.vector, VEC_BP);
		free(r.ram);
	}
}

static void they_are_in_line(void **state)
{
	struct vcpu_stats s;

	(void)state;
	count_program(&engine_translate_eager,
		      &(struct program){ "strings", strings, strings_end, 3, fill }, &s);
	/* Those over the end of a page are called out for. */
	assert_in_range(s.call_outs, 0, ROUNDS * 5);
}

/* What the interpreter does: of 16 bits, or with addresses that are not the mode's. The
 * TLB knows the pages where R9D as a whole would lead. */
PROGRAM(seldom,
	"mov ebp, 60\n mov rcx, -9000\n mov esi, 0x68004\n xor edx, edx\n"
	"1: mov r9d, ecx\n xor r9d, 0x10000\n mov al, [0x65f00]\n"
	"mov al, [0x66f00]\n" STEP("bts word ptr [rsi], r9w")
		STEP("btc dword ptr [esi], ecx")
			STEP("btr qword ptr [esi + 4], rcx") "add rcx, 333\n dec ebp\n"
							     "jnz 1b\n int3");

static void seldom_forms(void **state)
{
	struct end r;

	(void)state;
	run_program(&(struct program){ "seldom", seldom, seldom_end, 3, fill }, &r);
	assert_int_equal(r.vector, VEC_BP);
	free(r.ram);
}

/* After some rounds within reach: 2^40 bits, and one of an address that there is not. */
PROGRAM(nowhere, "mov ebp, 40\n mov ecx, 5\n mov esi, 0x68000\n"
		 "1: cmp ebp, 1\n jne 2f\n mov rcx, 0x10000000000\n"
		 "2: btc qword ptr [rsi + 16], rcx\n dec ebp\n jnz 1b\n int3");
PROGRAM(impossible, "mov ebp, 40\n mov ecx, 5\n mov esi, 0x68000\n"
		    "1: cmp ebp, 1\n jne 2f\n mov rcx, -0x7000000000000000\n"
		    "2: bt qword ptr [rsi + 16], rcx\n dec ebp\n jnz 1b\n int3");

static void bits_out_of_reach(void **state)
{
	struct end r;

	(void)state;
	run_program(&(struct program){ "nowhere", nowhere, nowhere_end, 3, fill }, &r);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, 0x68010 + (UINT64_C(1) << 37));
	free(r.ram);
	run_program(
		&(struct program){ "impossible", impossible, impossible_end, 3, fill },
		&r);
	assert_int_equal(r.vector, VEC_GP);
	free(r.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(far_bits_of_every_kind),
		cmocka_unit_test(they_are_in_line),
		cmocka_unit_test(seldom_forms),
		cmocka_unit_test(bits_out_of_reach),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
