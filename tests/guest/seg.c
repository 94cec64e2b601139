/*
 * Segmentation in protected mode: limits, types, null selectors, the LDT, and the
 * instructions that look at descriptors. SDM volume 3 chapters 3.4, 3.5, 5.3
 * to 5.8, 5.10; SDM volume 2 LAR, LSL, VERR, ARPL.
 */
#include "rt.h"

#define SEL  FREE_SEL
#define DPL3 D_DPL(3)

static u8 area[0x3000] __attribute__((aligned(4096)));

static void load_fs(u32 base, u32 limit, u32 attr)
{
	set_gdt(SEL, descriptor(base, limit, attr));
	__asm__ volatile("mov %w0, %%fs" : : "r"(SEL | 3));
}

static word read_fs(u32 off, unsigned size)
{
	switch (size) {
	case 1: return TRY("", "movb %%fs:(%0), %%al", : : "r"(off) : "eax");
	case 2: return TRY("", "movw %%fs:(%0), %%ax", : : "r"(off) : "eax");
	case 8: return TRY("", "fldl %%fs:(%0); fstp %%st(0)", : : "r"(off));
	default: return TRY("", "movl %%fs:(%0), %%eax", : : "r"(off) : "eax");
	}
}

static word write_fs(u32 off, unsigned size)
{
	switch (size) {
	case 1: return TRY("", "movb $0, %%fs:(%0)", : : "r"(off) : "memory");
	case 2: return TRY("", "movw $0, %%fs:(%0)", : : "r"(off) : "memory");
	default: return TRY("", "movl $0, %%fs:(%0)", : : "r"(off) : "memory");
	}
}

/* A trap loads FS with null: again for each access. */
#define CHECK(attr, limit, off, size, ok)                                                \
	do {                                                                             \
		load_fs((u32)area, limit, attr);                                         \
		want_equal(read_fs(off, size), (ok) ? NONE : GP);                        \
		if (!(ok))                                                               \
			want_fault(GP, 0);                                               \
	} while (0)

static void limit_up(void)
{
	u32 data = D_KDATA | DPL3 | D_DB;

	__asm__ volatile("fninit");
	for (unsigned size = 1; size <= 8; size *= 2) {
		CHECK(data, 0x100, 0x101 - size, size, true);
		CHECK(data, 0x100, 0x102 - size, size, false);
		CHECK(data, 0x100, 0x101, size, false);
		CHECK(data, 0x100, 0xffffffff, size, false);
		/* Of pages: the low 12 bits are ones. */
		CHECK(data | D_G, 1, 0x2000 - size, size, true);
		CHECK(data | D_G, 1, 0x2001 - size, size, false);
	}
	CHECK(data, 0, 0, 1, true);
	CHECK(data, 0, 0, 2, false);
	CHECK(data, 0, 1, 1, false);
}

/* From limit + 1 up to FFFFh, or FFFFFFFFh with B. */
static void limit_expand_down(void)
{
	u32 down = D_P | D_S | D_W | D_A | D_E | DPL3;

	/* B = 0: 1001h to FFFFh. */
	for (unsigned size = 1; size <= 4; size *= 2) {
		static const struct {
			u32 off;
			bool below;
		} table[] = { { 0x1000, true }, { 0x1001, false }, { 0x2000, false } };

		for (unsigned i = 0; i < 3; i++) {
			load_fs((u32)area - 0x1000, 0x1000, down);
			want_equal(read_fs(table[i].off, size),
				   table[i].below ? GP : NONE);
		}
		load_fs((u32)area - 0xf000, 0x1000, down);
		want_equal(read_fs(0x10000 - size, size), NONE);
		load_fs((u32)area - 0xf000, 0x1000, down);
		want_equal(read_fs(0x10001 - size, size), GP);
		load_fs((u32)area - 0xf000, 0x1000, down);
		want_equal(read_fs(0xfff, size), GP);
	}
	/* B = 1, pages: from 2000h. */
	load_fs((u32)area - 0x2000, 1, down | D_DB | D_G);
	want_equal(read_fs(0x2000, 4), NONE);
	load_fs((u32)area - 0x2000, 1, down | D_DB | D_G);
	want_equal(read_fs(0x1fff, 4), GP);
	load_fs((u32)area + 0x100, 1, down | D_DB | D_G);
	want_equal(read_fs(0xfffffffc, 4), NONE);
	load_fs((u32)area + 0x100, 1, down | D_DB | D_G);
	want_equal(read_fs(0xfffffffd, 4), GP);
	/* Limit FFFFFFFFh: nothing is left. */
	load_fs((u32)area, 0xfffff, down | D_DB | D_G);
	want_equal(read_fs(0xffffffff, 1), GP);
}

/* Base and offset are added modulo 4 GiB. */
static void base_wraps(void)
{
	load_fs(0x80000000, 0xfffff, D_KDATA | DPL3 | D_DB | D_G);
	*(volatile u32 *)area = 0x13572468;
	{
		u32 v;

		__asm__ volatile("movl %%fs:(%1), %0"
				 : "=r"(v)
				 : "r"((u32)area - 0x80000000));
		want_equal(v, 0x13572468);
		__asm__ volatile("movl %%fs:(%1,%2,4), %0"
				 : "=r"(v)
				 : "r"((u32)area - 0x80000000 + 64), "r"(-16));
		want_equal(v, 0x13572468);
	}
}

static void types(void)
{
	/* Read-only data. */
	load_fs((u32)area, 0xfff, D_P | D_S | D_A | D_DB | DPL3);
	want_equal(read_fs(0, 4), NONE);
	want_equal(write_fs(0, 4), GP);
	want_fault(GP, 0);
	/* Code that can be read. */
	load_fs((u32)area, 0xfff, D_KCODE | D_DB | DPL3);
	want_equal(read_fs(0, 4), NONE);
	want_equal(write_fs(0, 4), GP);
	/* Code that cannot: not even loaded. */
	set_gdt(SEL, descriptor((u32)area, 0xfff, (D_KCODE & ~D_R) | D_DB | DPL3));
	TRY("", "mov %w0, %%fs", : : "r"(SEL | 3));
	want_fault(GP, SEL);
	/* CS is never written, and read when it may be. */
	TRY("", "movl %%eax, %%cs:(%0)", : : "r"(area) : "memory");
	want_fault(GP, 0);
	TRY("", "movl %%cs:(%0), %%eax", : : "r"(area) : "eax");
	want_none();
	/* The accessed bit is set by a load. */
	set_gdt(SEL, descriptor((u32)area, 0xfff, (D_KDATA & ~D_A) | D_DB | DPL3));
	want(!(((volatile u64 *)gdt)[SEL / 8] >> 40 & 1));
	__asm__ volatile("mov %w0, %%fs" : : "r"(SEL | 3));
	want(((volatile u64 *)gdt)[SEL / 8] >> 40 & 1);
}

static void null_selectors(void)
{
	for (unsigned sel = 0; sel < 4; sel++) {
		TRY("", "mov %w0, %%fs", : : "r"(sel));
		want_none();
		want_equal(read_fs(0, 1), GP);
		want_fault(GP, 0);
		__asm__ volatile("mov %w0, %%gs" : : "r"(sel));
		TRY("", "movl %%eax, %%gs:(%0)", : : "r"(area) : "memory");
		want_fault(GP, 0);
	}
	/* An instruction that does not access memory does not care. */
	__asm__ volatile("mov %w0, %%fs" : : "r"(0));
	TRY("", "lea %%fs:(%0), %%eax", : : "r"(area) : "eax");
	want_none();
	/* Pops of it. */
	TRY("push $0", "pop %%fs", : : : "memory");
	want_none();
}

/* SS has #SS(0); a stack for level 3, as level 0 must be able to take the trap. */
#define STACK_TRY(esp, insn)                                                             \
	TRY("mov %0, %%ss; mov $" esp ", %%esp",                                         \
	    insn "; mov %1, %%ss; mov trap_sp, %%esp",                                   \
	    :                                                                            \
	    : "r"(SEL | 3), "r"(UDATA)                                                   \
	    : "memory")

static word stack_body(word what)
{
	switch (what) {
	case 0: return STACK_TRY("0x104", "push %%eax; pop %%eax; call 1f; 1: pop %%eax");
	case 1: return STACK_TRY("0x101", "push %%eax; pop %%eax");
	case 2: return STACK_TRY("0x100", "push %%eax; pop %%eax");
	case 3: return STACK_TRY("0x108", "push %%eax");
	case 4: return STACK_TRY("0x101", "pop %%eax");
	case 5: return STACK_TRY("0", "push %%eax");
	case 6: return STACK_TRY("8", "pusha");
	case 7: return STACK_TRY("0xe8", "popa");
	case 8: return STACK_TRY("2", "call 1f; 1:");
	case 9: return STACK_TRY("0x104", "ret");
	case 10: return STACK_TRY("2", "pushf");
	default:
		return TRY("mov %0, %%ss; mov $0x101, %%ebp", "mov (%%ebp), %%eax",
			   :
			   : "r"(SEL | 3)
			   : "eax", "ebp");
	}
}

static void stack_limits(void)
{
	set_gdt(SEL, descriptor((u32)area, 0x103, D_KDATA | D_DB | DPL3));
	for (unsigned i = 0; i < 12; i++) {
		word v = user_run(stack_body, i);

		if (v != (i < 3 ? NONE : SS))
			fail("case %u: vector %lx", i, v);
	}
	want_fault(SS, 0);
}

/* B of SS decides between SP and ESP: with SP the upper half stays and does not count. */
static word sp16_user(word arg)
{
	u32 esp, old;

	(void)arg;
	__asm__ volatile("mov %%esp, %1\n\t"
			 "mov %2, %%ss\n\t"
			 "mov $0x12340004, %%esp\n\t"
			 "push %2\n\t"
			 "push %2\n\t" /* wraps: to FFFCh */
			 "mov %%esp, %0\n\t"
			 "mov %3, %%ss\n\t"
			 "mov %1, %%esp"
			 : "=&r"(esp), "=&r"(old)
			 : "r"(SEL | 3), "r"(UDATA)
			 : "memory");
	return esp;
}

static void stack_16bit(void)
{
	static u8 stack[0x10000] __attribute__((aligned(16)));

	set_gdt(SEL, descriptor((u32)stack, 0xffff, D_KDATA | DPL3));
	want_equal(user_run(sp16_user, 0), 0x1234fffc);
	want_equal(*(volatile u32 *)(stack + 0xfffc), SEL | 3);
	want_equal(*(volatile u32 *)stack, SEL | 3);
}

/* ---- code segments ---- */

/* Execution off the end of CS is #GP(0). */
extern const u8 cs_end[];
void cs_code(void);
__asm__(".text\n"
	"cs_code:\n\t"
	"nop\n\t"
	"nop\n"
	"cs_end: mov $1, %eax\n\t"
	"int $0x80\n");

static void code_limit(void)
{
	u32 size = (u32)(cs_end - (const u8 *)cs_code);

	set_gdt(SEL, descriptor((u32)cs_code, size + 4, D_KCODE | D_DB | DPL3));
	want_equal(enter(0, SEL | 3, 0, (u32)user_stack + STACK_SIZE, UDATA), 0);
	/* The whole MOV fits; INT does not. */
	want_equal(trap.vector, GP);
	want_equal(trap.error, 0);
	want_equal(trap.ip, size + 5);
	set_gdt(SEL, descriptor((u32)cs_code, size + 3, D_KCODE | D_DB | DPL3));
	enter(0, SEL | 3, 0, (u32)user_stack + STACK_SIZE, UDATA);
	want_equal(trap.vector, GP);
	want_equal(trap.ip, size);
	set_gdt(SEL, descriptor((u32)cs_code, size + 6, D_KCODE | D_DB | DPL3));
	want_equal(enter(0, SEL | 3, 0, (u32)user_stack + STACK_SIZE, UDATA), 1);
}

/* 16-bit code: operand sizes, and IP of 16 bits. */
void code16(void);
__asm__(".text\n"
	".code16\n"
	"code16:\n\t"
	"mov $0x11112222, %eax\n\t"
	"mov $0x3333, %ax\n\t"
	"push %ax\n\t"
	"pop %bx\n\t"
	"add %ebx, %eax\n\t"
	"int $0x80\n\t"
	".code32\n");

static void code_16bit(void)
{
	set_gdt(SEL, descriptor((u32)code16, 0xffff, D_KCODE | DPL3));
	enter(0, SEL | 3, 0, (u32)user_stack + STACK_SIZE, UDATA);
	want_equal(trap.vector, NONE);
}

static void conforming(void)
{
	u16 cs;

	/* Level 3 calls a conforming segment of level 0 and stays level 3. */
	set_gdt(SEL, descriptor(0, 0xfffff, D_KCODE | D_C | D_DB | D_G));
	__asm__ volatile("lcall %1, $1f\n\tjmp 2f\n"
			 "1:\tmov %%cs, %0\n\tlret\n2:"
			 : "=&r"(cs)
			 : "i"(SEL));
	want_equal(cs, SEL);
}

static word conforming_body(word arg)
{
	word cs;

	(void)arg;
	__asm__ volatile("lcall %1, $1f\n\tjmp 2f\n"
			 "1:\tmov %%cs, %0\n\tlret\n2:"
			 : "=&r"(cs)
			 : "i"(SEL));
	return cs & 0xffff;
}

static void conforming_user(void)
{
	set_gdt(SEL, descriptor(0, 0xfffff, D_KCODE | D_C | D_DB | D_G));
	want_equal(user_run(conforming_body, 0), SEL | 3);
}

/* ---- the LDT ---- */

static void ldt(void)
{
	static u64 table[4] __attribute__((aligned(8)));
	u32 v;

	((volatile u64 *)table)[0] = descriptor((u32)area, 0xff, D_KDATA | D_DB);
	((volatile u64 *)table)[1] = descriptor((u32)area + 16, 0xff, D_KDATA | D_DB);
	set_gdt(LDT_SEL, descriptor((u32)table, sizeof(table) - 1, D_TYPE(2) | D_P));
	__asm__ volatile("lldt %w0" : : "r"(LDT_SEL));
	*(volatile u32 *)area = 0x1111;
	*(volatile u32 *)(area + 16) = 0x2222;
	/* Entry 0 of an LDT is not null. */
	__asm__ volatile("mov %1, %%gs\n\tmovl %%gs:0, %0" : "=r"(v) : "r"(4));
	want_equal(v, 0x1111);
	__asm__ volatile("mov %1, %%gs\n\tmovl %%gs:0, %0" : "=r"(v) : "r"(0xc));
	want_equal(v, 0x2222);
	TRY("", "mov %0, %%gs", : : "r"(0x24));
	want_fault(GP, 0x24);
	__asm__ volatile("lldt %w0" : : "r"(0));
	TRY("", "mov %0, %%gs", : : "r"(4));
	want_fault(GP, 4);
}

/* ---- LAR, LSL, VERR, VERW, ARPL ---- */

static bool lar(u16 sel, u32 *v)
{
	bool ok;

	*v = 0xdeadbeef;
	__asm__ volatile("lar %w2, %0\n\tsetz %b1"
			 : "+r"(*v), "=q"(ok)
			 : "r"(sel)
			 : "cc");
	return ok;
}

static bool lsl(u16 sel, u32 *v)
{
	bool ok;

	*v = 0xdeadbeef;
	__asm__ volatile("lsl %w2, %0\n\tsetz %b1"
			 : "+r"(*v), "=q"(ok)
			 : "r"(sel)
			 : "cc");
	return ok;
}

static bool verr(u16 sel)
{
	bool ok;

	__asm__ volatile("verr %w1\n\tsetz %b0" : "=q"(ok) : "r"(sel) : "cc");
	return ok;
}

static bool verw(u16 sel)
{
	bool ok;

	__asm__ volatile("verw %w1\n\tsetz %b0" : "=q"(ok) : "r"(sel) : "cc");
	return ok;
}

static void lar_lsl(void)
{
	u32 v;

	want(lar(KDATA, &v));
	/* Bits 19:16 are undefined. */
	want_equal(v & 0xfff0ffff, 0x00c09300);
	want(lar(UCODE32, &v));
	want_equal(v & 0xfff0ffff, 0x00c0fb00);
	want(!lar(0, &v));
	want_equal(v, 0xdeadbeef);
	want(!lar(GDT_BYTES, &v));
	/* RPL counts. */
	want(!lar(KDATA | 1, &v));
	want(lsl(KDATA, &v));
	want_equal(v, 0xffffffff);
	want(lsl(TSS_SEL, &v));
	want_equal(v, TSS_SIZE - 1);
	for (unsigned type = 0; type < 16; type++) {
		/* Manual's tables of system types. */
		bool in_lar = 0x1a3e >> type & 1, in_lsl = 0x0a0e >> type & 1;

		set_gdt(SEL, descriptor(0, 0x77, D_TYPE(type) | D_P));
		want_equal(lar(SEL, &v), in_lar);
		want_equal(lsl(SEL, &v), in_lsl);
		if (in_lsl)
			want_equal(v, 0x77);
		want(!verr(SEL));
		want(!verw(SEL));
	}
	/* Not present does not matter. */
	set_gdt(SEL, descriptor(0, 0x12, D_G | (D_KDATA & ~D_P)));
	want(lsl(SEL, &v));
	want_equal(v, 0x12fff);
	want(verr(KDATA) && verw(KDATA));
	want(verr(KCODE) && !verw(KCODE));
	set_gdt(SEL, descriptor(0, 0, D_KCODE & ~D_R));
	want(!verr(SEL));
	set_gdt(SEL, descriptor(0, 0, D_KDATA & ~D_W));
	want(verr(SEL) && !verw(SEL));
	/* Conforming code can be read from any level. */
	set_gdt(SEL, descriptor(0, 0, D_KCODE | D_C));
	want(verr(SEL | 3));
}

static void arpl(void)
{
	u32 v = 0x12340010;
	bool zf;

	__asm__ volatile("arpl %w2, %w0\n\tsetz %1" : "+r"(v), "=q"(zf) : "r"(3) : "cc");
	want_equal(v, 0x12340013);
	want(zf);
	__asm__ volatile("arpl %w2, %w0\n\tsetz %1" : "+r"(v), "=q"(zf) : "r"(1) : "cc");
	want_equal(v, 0x12340013);
	want(!zf);
}

/* LDS and its kin: segment and offset are loaded both or not at all. */
static void load_far_pointer(void)
{
	static struct {
		u32 off;
		u16 sel;
	} __attribute__((packed)) p;
	u32 v = 0x55;

	p.off = 0x12345678;
	p.sel = GDT_BYTES;
	TRY("", "lfs %1, %0", : "+r"(v) : "m"(p));
	want_fault(GP, GDT_BYTES);
	want_equal(v, 0x55);
	p.sel = UDATA;
	TRY("", "lfs %1, %0", : "+r"(v) : "m"(p));
	want_none();
	want_equal(v, 0x12345678);
}

const struct test_case cases[] = {
	CASE(limit_up, "SDM 3 5.3"),
	CASE(limit_expand_down, "SDM 3 5.3"),
	CASE(base_wraps, "SDM 3 3.3"),
	CASE(types, "SDM 3 5.4.1"),
	CASE(null_selectors, "SDM 3 5.4.1"),
	CASE(stack_limits, "SDM 3 6.15 #SS"),
	CASE(stack_16bit, "SDM 3 3.5.1"),
	CASE(code_limit, "SDM 3 5.3"),
	CASE(code_16bit, "SDM 3 22"),
	CASE(conforming, "SDM 3 5.8.1.2"),
	CASE(conforming_user, "SDM 3 5.8.1.2"),
	CASE(ldt, "SDM 3 3.5.1"),
	CASE(lar_lsl, "SDM 3 5.10"),
	CASE(arpl, "SDM 2 ARPL"),
	CASE(load_far_pointer, "SDM 2 LFS"),
	CASES_END,
};
