/*
 * 16-bit code: offsets that wrap and limits, segments that are not aligned to pages, one
 * piece of code in two segments, loads of segment registers; and 32-bit code that runs in
 * flat segments and in others by turns. All in compatibility mode, as in
 * translate_narrow.c. SDM volume 1 section 3.3.7, volume 3 sections 3.4.5 and 5.3.
 */
#include "translate_box.h"

#define PROGRAM16(name, text) PROGRAM(name, ".code16\n" text "\n.code64\n")
#define PROGRAM32(name, text) PROGRAM(name, ".code32\n" text "\n.code64\n")

#define RUN(prog, prep)                                                                  \
	struct end r;                                                                    \
	run_program(&(struct program){ #prog, prog, prog##_end, 3, prep }, &r);          \
	free(r.ram)

/* Selectors for a CPL of 3. */
#define TEXT  "0x203" /* programs are at START */
#define OTHER "0x20b" /* the same at OTHER_START */
#define WIDE  "0x213" /* data */
#define STACK "0x21b"
#define SHORT "0x223" /* 256 bytes of data */
#define FLAT  "0x5b"

#define FREE(n)     FREE_SEL(n)
#define START       0x340u
#define OTHER_START 0x40u
#define WIDE_BASE   (DATA + 0x123u)
/* For a segment whose last bytes are behind its first page's beginning. */
#define ODD_BASE    0x90008u

/* Behind the last instruction, of this many bytes, less them. */
#define LAST(program, bytes) (START + (u64)(program##_end - program) - (bytes))

static void segment(struct box *b, unsigned n, u32 base, u32 limit, u32 attr)
{
	set_gdt(b, FREE(n), make_desc(base, limit, attr));
}

static void low(struct box *b)
{
	struct vcpu *v = b->v;

	segment(b, 0, CODE - START, 0xffff, ATTR_CODE(3));
	segment(b, 1, CODE - OTHER_START, 0xffff, ATTR_CODE(3));
	segment(b, 2, WIDE_BASE, 0xffff, ATTR_DATA(3));
	segment(b, 3, 0x80010, 0xffff, ATTR_DATA(3));
	segment(b, 4, DATA, 0xff, ATTR_DATA(3));
	segment(b, 5, ODD_BASE, 0xffff, ATTR_CODE(3));
	segment(b, 6, 0x8f000, 0xffff, ATTR_CODE(3));
	for (unsigned i = 0; i < 0x12000; i++)
		b->ram[DATA + i] = (u8)(i * 37 >> 3);
	poke(b, WIDE_BASE + 0x20, 0x44, 2);
	poke(b, WIDE_BASE + 0x22, FREE(2) | 3, 2);
	box_seg(b, CS, FREE(0) | 3);
	box_seg(b, SS, FREE(3) | 3);
	box_seg(b, DS, FREE(2) | 3);
	box_seg(b, ES, FREE(2) | 3);
	v->rip = START;
	/* What 16-bit code does not see of them. */
	for (unsigned i = 0; i < 8; i++)
		v->gpr[i] = UINT64_C(0x123456789abc0000);
	v->gpr[RSP] += 0x1000;
}

/* ---- addresses ---- */

PROGRAM16(wraps, "mov bp, 40\n"
		 "1: mov bx, 0xfff0\n mov si, 8\n mov ax, [bx + 0x20]\n"
		 "add dx, [bx + si + 0x30]\n mov [bx + 0xf], al\n lea cx, [bx + 0x20]\n"
		 "add dx, cx\n mov di, 0xfffe\n mov [di], dx\n add ax, [0xfffc]\n"
		 "lea ecx, [bx + si + 0x10]\n add edx, ecx\n dec bp\n jnz 1b\n"
		 "mov ax, [bx + 0xf]");

static void addresses_of_16_bits_wrap(void **state)
{
	RUN(wraps, low);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.rip, LAST(wraps, 3));
	assert_int_equal(r.gpr[RCX] >> 32, 0);
	assert_int_equal(r.gpr[RBX], UINT64_C(0x123456789abcfff0));
}

/* Of 32 bits they are compared with the limit. */
PROGRAM16(wide, "mov bp, 40\n mov ebx, 0x100\n xor edi, edi\n"
		"1: add ax, [ebx]\n mov [ebx + edi*2 + 6], ax\n add edx, [ebx + 0xfefc]\n"
		"add edi, 2\n dec bp\n jnz 1b\n mov dx, [ebx + 0xfeff]");

static void addresses_of_32_bits_have_a_limit(void **state)
{
	RUN(wide, low);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
}

PROGRAM16(limits,
	  "mov bp, 40\n mov bx, 0x10\n"
	  "1: mov ax, " SHORT "\n mov ds, ax\n add dx, [0x10]\n add dl, [bx + 0xef]\n"
	  "add dx, [bx + 0xee]\n les bx, es:[0x20]\n push ds\n push cs\n pop ax\n"
	  "pop cx\n mov ax, " WIDE "\n mov ds, ax\n add dx, [bx]\n add dx, es:[bx]\n"
	  "add dx, [0x10]\n push ss\n pop ds\n add dx, [0x12]\n push es\n pop ds\n"
	  "add dx, cs:[bx + 0x340]\n mov bx, 0x10\n call 2f\n dec bp\n jnz 1b\n"
	  "mov ax, " SHORT "\n mov ds, ax\n call 2f\n 2: add dx, [bx + 0xef]\n ret");

static void segments_come_and_go(void **state)
{
	RUN(limits, low);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.rip, LAST(limits, 5));
}

/* ---- the stack ---- */

PROGRAM16(stack,
	  "mov si, 40\n"
	  "1: mov sp, 2\n push ax\n push dx\n pop cx\n pop ax\n mov sp, 0x100\n"
	  "push 5\n push eax\n pop edx\n pop di\n enter 16, 0\n mov [bp - 4], dx\n"
	  "leave\n push word ptr [0x30]\n pop cx\n pusha\n popa\n push sp\n pop bx\n"
	  "mov bp, sp\n add dx, [bp]\n push bp\n mov bp, sp\n leave\n"
	  "dec si\n jnz 1b\n mov sp, 1\n push ax");

static void stack_of_16_bits_wraps(void **state)
{
	RUN(stack, low);

	(void)state;
	assert_int_equal(r.vector, VEC_SS);
	assert_int_equal(r.rip, LAST(stack, 1));
}

/* ---- branches ---- */

PROGRAM16(counts, "mov bp, 30\n"
		  "1: mov cx, 9\n 2: add ax, cx\n adc dx, 0\n loop 2b\n jcxz 3f\n int3\n"
		  "3: mov cx, bp\n jcxz 4f\n inc si\n 4: dec bp\n jnz 1b\n int3");

static void loops_by_cx(void **state)
{
	RUN(counts, low);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX] & 0xffff, 30 * 45);
	assert_int_equal(r.gpr[RCX] >> 16, 0x123456789abc);
}

/* The subroutine is called from two segments by the same instructions. */
PROGRAM16(alias,
	  "mov bp, 40\n"
	  "1: call 2f\n .byte 0xb8\n .word 2f - alias + 0x340\n call ax\n"
	  ".byte 0xea\n .word 3f - alias + 0x40, " OTHER "\n"
	  "3: call 2f\n .byte 0xb8\n .word 2f - alias + 0x40\n call ax\n"
	  "data32 call 4f\n .byte 0xea\n .word 5f - alias + 0x340, " TEXT "\n"
	  "5: dec bp\n jnz 1b\n int3\n 2: inc dx\n ret\n 4: inc dx\n data32 ret\n");

static void code_in_two_segments(void **state)
{
	RUN(alias, low);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RDX] & 0xffff, 5 * 40);
}

/*
 * In the one segment a branch back leads to the bytes before, in the other to its end,
 * as it wraps.
 */
PROGRAM16(edge, "int3");

static void edge_prepare(struct box *b)
{
	/* dec bp; jz to the int3; jmp by -1dh */
	static const u8 at_start[] = { 0x4d, 0x74, 2, 0xeb, 0xe3, 0xcc };
	/* jmp far to ODD_BASE + 10h */
	static const u8 before[] = { 0xea, 0x10, 0, 0x2b, 2 };
	/* inc dx; jmp far to the same in the other segment */
	static const u8 at_end[] = { 0x42, 0xea, 0x18, 0x10, 0x33, 2 };

	low(b);
	memcpy(b->ram + ODD_BASE + 0x10, at_start, sizeof(at_start));
	memcpy(b->ram + ODD_BASE - 8, before, sizeof(before));
	memcpy(b->ram + ODD_BASE + 0xfff8, at_end, sizeof(at_end));
	box_seg(b, CS, FREE(6) | 3);
	b->v->rip = 0x1018;
	b->v->gpr[RBP] = 81;
}

static void branch_before_the_segment(void **state)
{
	RUN(edge, edge_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RDX] & 0xffff, 40);
}

/* ---- strings ---- */

PROGRAM16(strings,
	  "mov bp, 40\n"
	  "1: mov si, 0xfff0\n mov di, 0x100\n mov cx, 8\n rep movsw\n add dx, si\n"
	  "mov cx, 5\n mov si, 0x340\n rep movsb byte ptr es:[di], cs:[si]\n"
	  "mov di, 0xfff8\n mov cx, 4\n rep stosw\n add dx, di\n stosb\n lodsw\n"
	  "movsd\n std\n lodsb\n cld\n mov di, 0x10\n mov cx, 0\n rep stosb\n"
	  "dec bp\n jnz 1b\n mov si, 0xfff1\n mov cx, 8\n rep movsw");

static void strings_end_at_64_kib(void **state)
{
	RUN(strings, low);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.gpr[RSI], UINT64_C(0x123456789abcffff));
	assert_int_equal(r.gpr[RCX], UINT64_C(0x123456789abc0001));
}

/* ---- 32-bit code ---- */

/* The subroutine runs in flat segments and with another one in DS. */
PROGRAM32(turns, "mov ebp, 60\n"
		 "1: mov eax, " WIDE "\n mov ds, eax\n mov ebx, 0x10\n call 2f\n"
		 "mov eax, " FLAT "\n mov ds, eax\n mov ebx, 0x60010\n call 2f\n"
		 "dec ebp\n jnz 1b\n int3\n 2: add edx, [ebx]\n mov [ebx + 8], edx\n"
		 "lea edi, [bx + 4]\n push edi\n pop esi\n ret");

static void turns_prepare(struct box *b)
{
	low(b);
	box_seg(b, CS, CODE32(3) | 3);
	box_seg(b, SS, DATA32(3) | 3);
	b->v->rip = CODE;
	b->v->gpr[RSP] = STACK3 + 0x1000;
}

static void flat_and_not_by_turns(void **state)
{
	RUN(turns, turns_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RSI], 0x14);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_of_16_bits_wrap),
		cmocka_unit_test(addresses_of_32_bits_have_a_limit),
		cmocka_unit_test(segments_come_and_go),
		cmocka_unit_test(stack_of_16_bits_wraps),
		cmocka_unit_test(loops_by_cx),
		cmocka_unit_test(code_in_two_segments),
		cmocka_unit_test(branch_before_the_segment),
		cmocka_unit_test(strings_end_at_64_kib),
		cmocka_unit_test(flat_and_not_by_turns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
