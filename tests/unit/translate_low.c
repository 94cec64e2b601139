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
#define TEXT      "0x203" /* programs are at START */
#define OTHER     "0x20b" /* the same at OTHER_START */
#define WIDE      "0x213" /* data */
#define STACK     "0x21b"
#define SHORT     "0x223" /* 256 bytes of data */
#define FLAT      "0x5b"
#define FLAT_CODE "0x3b"
#define ROOMY     "0x243" /* as WIDE, with a limit above 64 KiB */

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

/* Made for a segment that ends before offsets wrap, run in one that goes on behind. */
PROGRAM16(shared, "mov bp, 40\n"
		  "1: mov bx, 0x100\n call 2f\n dec bp\n jnz 1b\n"
		  "mov ax, " ROOMY "\n mov ds, ax\n xor bx, bx\n call 2f\n int3\n"
		  "2: mov ax, [bx - 2]\n mov cx, [bx + 2]\n ret");

static void shared_prepare(struct box *b)
{
	low(b);
	segment(b, 7, WIDE_BASE, 0x7fff, ATTR_DATA(3));
	segment(b, 8, WIDE_BASE, 0x1ffff, ATTR_DATA(3));
	poke(b, WIDE_BASE + 2, 0x1234, 2);
	poke(b, WIDE_BASE + 0xfffe, 0x5678, 2);
	box_seg(b, DS, FREE(7) | 3);
}

static void shared_checks_wrap(void **state)
{
	RUN(shared, shared_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RAX] & 0xffff, 0x5678);
	assert_int_equal(r.gpr[RCX] & 0xffff, 0x1234);
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

/* The last CALL ends where the segment does. */
PROGRAM16(last_call, "mov bp, 40\n jmp 1f\n"
		     "2: dec bp\n jz 3f\n add sp, 2\n jmp 1f\n 3: ret\n"
		     "1: call 2b");

static void last_call_prepare(struct box *b)
{
	low(b);
	segment(b, 0, CODE - START, (u32)LAST(last_call, 1), ATTR_CODE(3));
	box_seg(b, CS, FREE(0) | 3);
}

static void return_to_behind_the_segment(void **state)
{
	RUN(last_call, last_call_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_GP);
	assert_int_equal(r.rip, LAST(last_call, 4));
	assert_int_equal(r.gpr[RSP] & 0xffff, 0xffe);
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

/* Of all pages the data's alone is the user's. */
PROGRAM32(smap, "stac\n mov ecx, ds:[0x10]\n clac\n mov edx, ds:[0x14]\n int3");

static void smap_prepare(struct box *b)
{
	low(b);
	for (unsigned i = 0; i < RAM_SIZE >> PAGE_SHIFT; i++)
		if (i != DATA >> PAGE_SHIFT)
			set_pte(b, (gva_t)i << PAGE_SHIFT, 0x63);
	box_seg(b, CS, CODE32(0));
	box_seg(b, SS, DATA32(0));
	b->v->cr4 |= CR4_SMAP;
	b->v->rip = CODE;
	b->v->gpr[RSP] = STACK3 + 0x1000;
	vcpu_sync(b->v);
}

static void clac_ends_what_stac_began(void **state)
{
	struct end r;

	(void)state;
	run_program(&(struct program){ "smap", smap, smap_end, 0, smap_prepare }, &r);
	free(r.ram);
	assert_int_equal(r.vector, VEC_PF);
	assert_int_equal(r.cr2, WIDE_BASE + 0x14);
}

/* 64-bit code has been at the base it gave FS; of the sum 32-bit code has 32 bits. */
PROGRAM(tls, "mov ecx, [-0xfff0]\n push " FLAT_CODE
	     "\n lea rax, [rip + 1f]\n push rax\n retfq\n"
	     ".code32\n 1: mov edx, fs:[0x10]\n mov ebx, fs:[0x10020]\n int3\n .code64");

static void tls_prepare(struct box *b)
{
	low(b);
	segment(b, 7, 0, 0x1ffff, ATTR_DATA(3) | SEG_DB);
	box_seg(b, CS, CODE64(3) | 3);
	box_seg(b, SS, DATA32(3) | 3);
	box_seg(b, FS, FREE(7) | 3);
	b->v->seg[FS].base = UINT64_C(0xffffffffffff0000);
	seg_changed(b->v, FS);
	/* The last 64 KiB of the last 2 MiB, and of 4 GiB, begin with these pages. */
	poke(b, PD + 511 * 8, 0x14027, 8);
	poke(b, 0x14000 + 0x1f0 * 8, (DATA + 0x1000) | 0x67, 8);
	poke(b, PDPT + 3 * 8, 0x15027, 8);
	poke(b, 0x15000 + 511 * 8, 0x16027, 8);
	poke(b, 0x16000 + 0x1f0 * 8, DATA | 0x67, 8);
	poke(b, DATA + 0x1010, 1, 4);
	poke(b, DATA + 0x10, 2, 4);
	poke(b, 0x20, 3, 4);
	b->v->rip = CODE;
	b->v->gpr[RSP] = STACK3 + 0x1000;
}

static void base_beyond_4_gib(void **state)
{
	RUN(tls, tls_prepare);

	(void)state;
	assert_int_equal(r.vector, VEC_BP);
	assert_int_equal(r.gpr[RCX], 1);
	assert_int_equal(r.gpr[RDX], 2);
	assert_int_equal(r.gpr[RBX], 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_of_16_bits_wrap),
		cmocka_unit_test(addresses_of_32_bits_have_a_limit),
		cmocka_unit_test(shared_checks_wrap),
		cmocka_unit_test(segments_come_and_go),
		cmocka_unit_test(stack_of_16_bits_wraps),
		cmocka_unit_test(loops_by_cx),
		cmocka_unit_test(code_in_two_segments),
		cmocka_unit_test(branch_before_the_segment),
		cmocka_unit_test(return_to_behind_the_segment),
		cmocka_unit_test(strings_end_at_64_kib),
		cmocka_unit_test(flat_and_not_by_turns),
		cmocka_unit_test(clac_ends_what_stac_began),
		cmocka_unit_test(base_beyond_4_gib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
