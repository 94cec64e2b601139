/*
 * Every exception, at CPL 0 and 3: vector, error code, RIP, and what else the CPU tells.
 * SDM volume 3 section 6.15, each subsection one case or more.
 */
#include "rt.h"

/* A case that is the same at both privilege levels. */
#define BOTH(name)                                                                       \
	static void name##_body(void);                                                   \
	static word name##_user(word arg)                                                \
	{                                                                                \
		(void)arg;                                                               \
		name##_body();                                                           \
		return 0;                                                                \
	}                                                                                \
	static void name(void)                                                           \
	{                                                                                \
		name##_body();                                                           \
		user_run(name##_user, 0);                                                \
	}                                                                                \
	static void name##_body(void)

static volatile u32 zero;

/* ---- #DE ---- */

BOTH(de)
{
	TRY("", "divl %0", : : "m"(zero), "a"(1), "d"(0));
	want_fault(DE, 0);
	/* The quotient does not fit. */
	TRY("", "divl %0", : : "r"(1), "a"(0), "d"(1));
	want_fault(DE, 0);
	TRY("", "idivl %0", : : "r"(-1), "a"(0x80000000), "d"(0xffffffff));
	want_fault(DE, 0);
	TRY("", "divb %b0", : : "q"(1), "a"(0x100));
	want_fault(DE, 0);
	TRY("", "idivb %b0", : : "q"(1), "a"(0x80));
	want_fault(DE, 0);
	TRY("", "divw %w0", : : "r"(0), "a"(0), "d"(0));
	want_fault(DE, 0);
#if W64
	TRY("", "divq %0", : : "r"(1l), "a"(0l), "d"(1l));
	want_fault(DE, 0);
	TRY("", "idivq %0", : : "r"(-1l), "a"(1ul << 63), "d"(-1l));
	want_fault(DE, 0);
#else
	TRY("", "aam $0", : : "a"(0));
	want_fault(DE, 0);
#endif
}

BOTH(de_changes_nothing)
{
	u32 a = 7, d = 9;

	TRY("", "divl %2", : "+a"(a), "+d"(d) : "m"(zero));
	want_equal(a, 7);
	want_equal(d, 9);
}

/* ---- #DB, #BP, #OF, #BR ---- */

BOTH(bp_is_trap)
{
	TRY("", "int3", :);
	want_trap(BP, 0);
	TRY("", "int $3", :);
	want_trap(BP, 0);
}

BOTH(db_by_int1_is_trap)
{
	TRY("", ".byte 0xf1", :);
	want_trap(DB, 0);
}

#if !W64
BOTH(of_by_into)
{
	TRY("mov $0x7fffffff, %%eax; inc %%eax", "into", : : : "eax");
	want_trap(OF, 0);
	TRY("xor %%eax, %%eax", "into", : : : "eax");
	want_none();
}

BOTH(br_by_bound)
{
	struct {
		u32 lo, hi;
	} range = { 4, 8 };

	TRY("", "bound %0, %1", : : "r"(3), "m"(range));
	want_fault(BR, 0);
	TRY("", "bound %0, %1", : : "r"(9), "m"(range));
	want_fault(BR, 0);
	TRY("", "bound %0, %1", : : "r"(4), "m"(range));
	want_none();
	TRY("", "bound %0, %1", : : "r"(8), "m"(range));
	want_none();
}
#endif

/* ---- #UD ---- */

BOTH(ud)
{
	TRY("", "ud2", :);
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0xb9, 0xc0", :); /* UD1 */
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0xff, 0xc0", :); /* UD0 */
	want_fault(UD, 0);
	/* LOCK where it is not allowed, or with a register. */
	TRY("", ".byte 0xf0, 0x90", :);
	want_fault(UD, 0);
	TRY("", ".byte 0xf0, 0x01, 0xc0", :); /* LOCK ADD EAX, EAX */
	want_fault(UD, 0);
	TRY("", ".byte 0xf0; mov %0, %%eax", : : "m"(zero) : "eax");
	want_fault(UD, 0);
	/* Memory forms of what has none, and the other way round. */
	TRY("", ".byte 0x8d, 0xc0", :); /* LEA EAX, EAX */
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0xc7, 0xc8", :); /* CMPXCHG8B EAX */
	want_fault(UD, 0);
	/* MOV CS, AX; and segment register numbers that are none. */
	TRY("", ".byte 0x8e, 0xc8", :);
	want_fault(UD, 0);
	TRY("", ".byte 0x8e, 0xf0", : : "a"(0));
	want_fault(UD, 0);
	/* Control registers that do not exist: #UD comes before #GP. */
	TRY("", ".byte 0x0f, 0x20, 0xc8", :); /* MOV EAX, CR1 */
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0x22, 0xf8", :); /* MOV CR7, EAX */
	want_fault(UD, 0);
	/* LES, LDS, LSS with a register. */
	TRY("", ".byte 0x0f, 0xb2, 0xc0", :);
	want_fault(UD, 0);
}

#if W64
BOTH(ud_in_64bit_mode)
{
	static const u8 gone[] = { 0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f,
				   0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82,
				   0x9a, 0xce, 0xd4, 0xd5, 0xea };
	static u8 code[32] __attribute__((aligned(32)));

	for (unsigned i = 0; i < sizeof(gone); i++) {
		*(volatile u8 *)&code[0] = gone[i];
		for (unsigned n = 1; n < sizeof(code); n++)
			*(volatile u8 *)&code[n] = 0xc3;
		TRY("", "call *%0", : : "r"(code) : "memory");
		if (trap.vector != UD || (u8)trap.ip != (u8)(word)code)
			fail("opcode %x: vector %lx ip %lx", gone[i], trap.vector,
			     trap.ip);
	}
}
#endif

/* 15 bytes are the most; a longer instruction is #GP. */
BOTH(gp_instruction_too_long)
{
	TRY("", ".fill 14, 1, 0x66; nop", :);
	want_none();
	TRY("", ".fill 15, 1, 0x66; nop", :);
	want_fault(GP, 0);
}

/* ---- #NM, #MF, #XM: the kernel sets up CR0 and CR4 ---- */

#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_NE BIT(5)
#define CR0_AM BIT(18)

static word fpu_user(word arg)
{
	(void)arg;
	return TRY("", "fninit", :);
}

static word sse_user(word arg)
{
	(void)arg;
	return TRY("", "xorps %%xmm0, %%xmm0", :);
}

static word wait_user(word arg)
{
	(void)arg;
	return TRY("", "fwait", :);
}

static void nm(void)
{
	word cr0 = read_cr0(), cr4 = read_cr4();

	write_cr4(cr4 | BIT(9) | BIT(10));
	write_cr0((cr0 & ~(CR0_EM | CR0_MP)) | CR0_TS);
	TRY("", "fninit", :);
	want_fault(NM, 0);
	TRY("", "xorps %%xmm0, %%xmm0", :);
	want_fault(NM, 0);
	want_equal(user_run(fpu_user, 0), NM);
	want_equal(user_run(sse_user, 0), NM);
	/* WAIT needs MP too. */
	want_equal(user_run(wait_user, 0), NONE);
	write_cr0(read_cr0() | CR0_MP);
	want_equal(user_run(wait_user, 0), NM);
	__asm__ volatile("clts");
	want_equal(user_run(wait_user, 0), NONE);
	want_equal(user_run(fpu_user, 0), NONE);
	/* EM: x87 is #NM, SSE is #UD. */
	write_cr0((read_cr0() | CR0_EM) & ~CR0_MP);
	want_equal(user_run(fpu_user, 0), NM);
	want_equal(user_run(sse_user, 0), UD);
	want_equal(user_run(wait_user, 0), NONE);
	/* No OSFXSR: SSE is #UD, also with TS. */
	write_cr0((cr0 & ~CR0_EM) | CR0_TS | CR0_MP);
	write_cr4(cr4 & ~BIT(9));
	want_equal(user_run(sse_user, 0), UD);
	write_cr0(cr0);
	write_cr4(cr4);
}

static word mf_user(word arg)
{
	static volatile u16 cw = 0x37b; /* #Z unmasked */
	word first;

	(void)arg;
	first = TRY("fninit; fldcw %0; fld1; fldz", "fdivrp", : : "m"(cw));
	if (first != NONE)
		return 0x1000 + first;
	/* The division itself does not trap, the next x87 instruction that waits does. */
	return TRY("", "fld1", :);
}

static word mf_wait_user(word arg)
{
	(void)arg;
	if (TRY("", "fwait", :) != MF || trap.ip != trap.at)
		return 1;
	if (TRY("", "fnstsw %%ax", : : : "eax") != NONE)
		return 2;
	if (TRY("", "fnclex", :) != NONE)
		return 3;
	return TRY("", "fwait", :);
}

static void mf(void)
{
	word cr0 = read_cr0();

	write_cr0((cr0 & ~(CR0_EM | CR0_TS)) | CR0_NE);
	want_equal(user_run(mf_user, 0), MF);
	want_fault(MF, 0);
	want_equal(user_run(mf_wait_user, 0), NONE);
	write_cr0(cr0);
}

static word xm_user(word arg)
{
	static volatile u32 mxcsr = 0x1d80; /* #Z unmasked */
	static volatile u32 one = 0x3f800000;

	(void)arg;
	return TRY("ldmxcsr %0; movss %1, %%xmm0; xorps %%xmm1, %%xmm1",
		   "divss %%xmm1, %%xmm0",
		   :
		   : "m"(mxcsr), "m"(one));
}

static void xm(void)
{
	word cr0 = read_cr0(), cr4 = read_cr4();

	write_cr0(cr0 & ~(CR0_EM | CR0_TS));
	write_cr4(cr4 | BIT(9) | BIT(10));
	want_equal(user_run(xm_user, 0), XM);
	want_fault(XM, 0);
	/* Without OSXMMEXCPT it is #UD. */
	write_cr4((cr4 | BIT(9)) & ~BIT(10));
	want_equal(user_run(xm_user, 0), UD);
	write_cr4(cr4);
	write_cr0(cr0);
}

/* ---- #AC ---- */

static word ac_user(word arg)
{
	static u64 words[2] __attribute__((aligned(16)));
	u8 *p = (u8 *)words;

	(void)arg;
	TRY("", "mov (%0), %%eax", : : "r"(p + 1) : "eax");
	if (trap.vector != NONE)
		return 1;
	write_flags(read_flags() | FL_AC);
	TRY("", "mov (%0), %%eax", : : "r"(p + 1) : "eax");
	want_fault(AC, 0);
	/* Each access checks its own size. */
	write_flags(read_flags() | FL_AC);
	TRY("", "mov 3(%0), %%al; mov 2(%0), %%ax; mov 4(%0), %%eax", : : "r"(p) : "eax");
	want_none();
	write_flags(read_flags() | FL_AC);
	TRY("", "movw %%ax, 1(%0)", : : "r"(p));
	want_fault(AC, 0);
	write_flags(read_flags() | FL_AC);
	TRY("", "push 1(%0); pop %0", : : "r"(p));
	want_vector(AC, 0);
	write_flags(read_flags() & ~(word)FL_AC);
	return 0;
}

static void ac(void)
{
	static u32 words[2];
	word cr0 = read_cr0();

	write_cr0(cr0 & ~CR0_AM);
	write_cr0(cr0 | CR0_AM);
	want_equal(user_run(ac_user, 0), 0);
	/* Not at CPL 0. */
	write_flags(read_flags() | FL_AC);
	TRY("", "mov (%0), %%eax", : : "r"((u8 *)words + 1) : "eax");
	want_none();
	write_flags(read_flags() & ~(word)FL_AC);
	write_cr0(cr0);
}

/* ---- #TS, #NP, #SS, #GP from selectors and gates ---- */

#define VEC 0x81
#define SEL FREE_SEL

BOTH(np_data_segment)
{
	TRY("", "mov %w0, %%fs", : : "r"(SEL + 8));
	want_fault(NP, SEL + 8);
	/* RPL is not part of an error code. */
	TRY("", "mov %w0, %%gs", : : "r"(SEL + 8 + 3));
	want_fault(NP, SEL + 8);
}

static void np_segment(void)
{
	set_gdt(SEL + 8,
		descriptor(0, 0xfffff, (D_KDATA & ~D_P) | D_DPL(3) | D_DB | D_G));
	np_data_segment();
}

static void np_gate(void)
{
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(3), 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(NP, VEC * 8 + 2);
	reset_gate(VEC);
}

static word int_user(word arg)
{
	(void)arg;
	return TRY("", "int %0", : : "i"(VEC));
}

static word int_user_other(word arg)
{
	(void)arg;
	TRY("", "int3", :);
	return trap.error;
}

static void gp_gate(void)
{
	/* DPL counts for INT n, INT3 ... */
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(0) | D_P, 0);
	set_gate(BP, trap_entry[BP], KCODE, D_TYPE(14) | D_DPL(2) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_trap(VEC, 0);
	want_equal(user_run(int_user, 0), GP);
	want_fault(GP, VEC * 8 + 2);
	want_equal(user_run(int_user_other, 0), BP * 8 + 2);
	want_fault(GP, BP * 8 + 2);
	reset_gate(BP);
	/* ... but not for exceptions. */
	set_gate(UD, trap_entry[UD], KCODE, D_TYPE(14) | D_DPL(0) | D_P, 0);
	want_equal(user_run(fpu_user, 0), NONE);
	TRY("", "ud2", :);
	want_fault(UD, 0);
	reset_gate(UD);
	/* Not a gate. */
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(9) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, VEC * 8 + 2);
	/* The type is looked at before DPL, DPL before P. */
	set_gate(VEC, trap_entry[VEC], KCODE, D_TYPE(14) | D_DPL(0), 0);
	want_equal(user_run(int_user, 0), GP);
	want_fault(GP, VEC * 8 + 2);
	/* Selectors: null, beyond the GDT, data, not present. */
	set_gate(VEC, trap_entry[VEC], 3, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, 0);
	set_gate(VEC, trap_entry[VEC], GDT_BYTES + 3, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, GDT_BYTES);
	set_gate(VEC, trap_entry[VEC], KDATA, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, KDATA);
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KCODE & ~D_P) | (W64 ? D_L : D_DB) | D_G));
	set_gate(VEC, trap_entry[VEC], SEL, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(NP, SEL);
	/* To an outer level. */
	set_gate(VEC, trap_entry[VEC], UCODE, D_TYPE(14) | D_DPL(3) | D_P, 0);
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, UCODE & ~3u);
	reset_gate(VEC);
}

static void gp_idt_limit(void)
{
	struct table small = { VEC * (W64 ? 16 : 8) - 1, 0 }, whole;

	__asm__ volatile("sidt %0" : "=m"(whole));
	small.base = whole.base;
	__asm__ volatile("lidt %0" : : "m"(small));
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, VEC * 8 + 2);
	/* One byte too few is too few. */
	small.limit = (VEC + 1) * (W64 ? 16 : 8) - 2;
	__asm__ volatile("lidt %0" : : "m"(small));
	TRY("", "int %0", : : "i"(VEC));
	want_fault(GP, VEC * 8 + 2);
	small.limit++;
	__asm__ volatile("lidt %0" : : "m"(small));
	TRY("", "int %0", : : "i"(VEC));
	want_trap(VEC, 0);
	load_idt();
}

/* What goes wrong while an exception is delivered has EXT set: SDM 3 section 6.13. */
static void gp_ext_bit(void)
{
	set_gate(UD, trap_entry[UD], KCODE, D_TYPE(9) | D_P, 0);
	TRY("", "ud2", :);
	want_fault(GP, UD * 8 + 3);
	set_gate(UD, trap_entry[UD], KCODE, D_TYPE(14), 0);
	TRY("", "ud2", :);
	want_fault(NP, UD * 8 + 3);
	set_gate(UD, trap_entry[UD], KDATA, D_TYPE(14) | D_P, 0);
	TRY("", "ud2", :);
	want_fault(GP, KDATA + 1);
	set_gate(UD, trap_entry[UD], 0, D_TYPE(14) | D_P, 0);
	TRY("", "ud2", :);
	want_fault(GP, 1);
	reset_gate(UD);
}

static void gp_selectors(void)
{
	/* Code that cannot be read; a system descriptor; outside the table; no LDT. */
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KCODE & ~D_R) | D_DB | D_G));
	TRY("", "mov %w0, %%es", : : "r"(SEL));
	want_fault(GP, SEL);
	TRY("", "mov %w0, %%es", : : "r"(TSS_SEL));
	want_fault(GP, TSS_SEL);
	TRY("", "mov %w0, %%es", : : "r"(GDT_BYTES));
	want_fault(GP, GDT_BYTES);
	TRY("", "mov %w0, %%es", : : "r"(0xc));
	want_fault(GP, 0xc);
	/* SS: only writable data of this level, with this RPL. */
	TRY("", "mov %w0, %%ss", : : "r"(KCODE));
	want_fault(GP, KCODE);
	TRY("", "mov %w0, %%ss", : : "r"(UDATA & ~3));
	want_fault(GP, UDATA & ~3u);
	TRY("", "mov %w0, %%ss", : : "r"(KDATA | 3));
	want_fault(GP, KDATA);
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KDATA & ~D_W) | D_DB | D_G));
	TRY("", "mov %w0, %%ss", : : "r"(SEL));
	want_fault(GP, SEL);
	/* Not present is #SS here. */
	set_gdt(SEL, descriptor(0, 0xfffff, (D_KDATA & ~D_P) | D_DB | D_G));
	TRY("", "mov %w0, %%ss", : : "r"(SEL));
	want_fault(SS, SEL);
#if W64
	/* A null SS is fine for a 64-bit kernel. */
	TRY("", "mov %w0, %%ss", : : "r"(0));
	want_none();
	__asm__ volatile("mov %0, %%ss" : : "r"(KDATA));
#else
	TRY("", "mov %w0, %%ss", : : "r"(0));
	want_fault(GP, 0);
#endif
}

static word gp_user_segments_body(word arg)
{
	(void)arg;
	TRY("", "mov %w0, %%es", : : "r"(KDATA));
	want_fault(GP, KDATA);
	TRY("", "mov %w0, %%es", : : "r"(KDATA | 3));
	want_fault(GP, KDATA);
	TRY("", "mov %w0, %%ss", : : "r"(0));
	want_fault(GP, 0);
	TRY("", "mov %w0, %%ss", : : "r"(3));
	want_fault(GP, 0);
	return 0;
}

static void gp_user_segments(void)
{
	user_run(gp_user_segments_body, 0);
}

static void ts_bad_tss(void)
{
	/* IRET with NT: to no task, or not possible in 64-bit mode. */
	TRY("pushf; pop %%" W_AX "; or $0x4000, %%eax; push %%" W_AX "; popf", "iret",
	    :
	    :
	    : "memory", W_AX);
#if W64
	want_fault(GP, 0);
#else
	/* The link of our TSS is 0: a null selector. */
	want_fault(TS, 0);
#endif
	write_flags(2);
}

static void ltr_lldt(void)
{
	TRY("", "ltr %w0", : : "r"(0));
	want_fault(GP, 0);
	TRY("", "ltr %w0", : : "r"(TSS_SEL)); /* busy */
	want_fault(GP, TSS_SEL);
	TRY("", "ltr %w0", : : "r"(KDATA));
	want_fault(GP, KDATA);
	set_gdt(SEL, descriptor((u32)(word)&tss, TSS_SIZE - 1, D_TYPE(9)));
	set_gdt(SEL + 8, 0);
	TRY("", "ltr %w0", : : "r"(SEL));
	want_fault(NP, SEL);
	TRY("", "lldt %w0", : : "r"(KDATA));
	want_fault(GP, KDATA);
	TRY("", "lldt %w0", : : "r"(0));
	want_none();
	TRY("", "lldt %w0", : : "r"(3));
	want_none();
	TRY("", "lldt %w0", : : "r"(TSS_SEL | 4));
	want_fault(GP, TSS_SEL | 4);
	set_gdt(SEL, descriptor((u32)(word)gdt, GDT_BYTES - 1, D_TYPE(2)));
	TRY("", "lldt %w0", : : "r"(SEL));
	want_fault(NP, SEL);
}

#if W64
/* With a stack that no trap can use. */
static word ss_user(word bad)
{
	TRY("mov %0, %%rsp", "push %%rax", : : "r"(bad + 8));
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "push %%rax", : : "r"(bad + 4));
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "push %%rax", : : "r"(bad));
	want_fault(PF, 6);
	TRY("mov %0, %%rsp", "pop %%rax", : : "r"(bad) : "rax");
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "call 1f; 1:", : : "r"(bad + 8));
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "ret", : : "r"(bad));
	want_fault(SS, 0);
	TRY("mov %0, %%rbp", "leave", : : "r"(bad) : "rbp");
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "enter $0, $0", : : "r"(bad + 8) : "rbp");
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "pushfq", : : "r"(bad + 8));
	want_fault(SS, 0);
	TRY("mov %0, %%rsp", "popfq", : : "r"(bad));
	want_fault(SS, 0);
	return 0;
}

static void gp_ss_not_canonical(void)
{
	word bad = 0x800000000000;

	TRY("", "mov (%0), %%eax", : : "r"(bad) : "eax");
	want_fault(GP, 0);
	TRY("", "mov %%eax, -4(%0)", : : "r"(bad + 1));
	want_fault(GP, 0);
	TRY("mov %0, %%rbp", "mov (%%rbp), %%eax", : : "r"(bad) : "eax", "rbp");
	want_fault(SS, 0);
	/* A near jump there faults before it is done. */
	TRY("", "jmp *%0", : : "r"(bad));
	want_fault(GP, 0);
	TRY("push %0", "ret", : : "r"(bad));
	want_fault(GP, 0);
	TRY("", "call *%0", : : "r"(bad));
	want_fault(GP, 0);
	user_run(ss_user, bad);
}
#endif

/* ---- #PF: the rest of it is in paging ---- */

#if W64
#define HOLE ((volatile u32 *)0x100000000) /* not mapped: above the 4 GiB */

static word pf_user(word arg)
{
	(void)arg;
	TRY("", "mov (%0), %%eax", : : "r"(HOLE) : "eax");
	want_fault(PF, 4);
	want_equal(trap.cr2, (word)HOLE);
	TRY("", "movl $1, (%0)", : : "r"(HOLE));
	want_fault(PF, 6);
	TRY("", "jmp *%0", : : "r"(HOLE));
	want_vector(PF, 0x14);
	want_equal(trap.ip, (word)HOLE);
	want_equal(trap.cr2, (word)HOLE);
	/* A supervisor page. */
	TRY("", "mov (%0), %%eax", : : "r"((word)&zero & 0xfffffff) : "eax");
	want_fault(PF, 5);
	return 0;
}

static void pf(void)
{
	TRY("", "mov 0x123(%0), %%eax", : : "r"(HOLE) : "eax");
	want_fault(PF, 0);
	want_equal(trap.cr2, (word)HOLE + 0x123);
	TRY("", "movl $1, 5(%0)", : : "r"(HOLE));
	want_fault(PF, 2);
	TRY("", "lock addl $1, 5(%0)", : : "r"(HOLE));
	want_fault(PF, 2);
	TRY("", "jmp *%0", : : "r"(HOLE));
	want_vector(PF, 0x10);
	/* The first byte that faults: in the second page. */
	TRY("", "mov -2(%0), %%eax", : : "r"(HOLE) : "eax");
	want_fault(PF, 0);
	want_equal(trap.cr2, (word)HOLE);
	user_run(pf_user, 0);
}
#endif

/* ---- the frame ---- */

static word frame_user(word arg)
{
	(void)arg;
	TRY("push $0x4d7; popf", "ud2", : : : "cc");
	want_fault(UD, 0);
	want_equal(trap.cs, UCODE);
	want_equal(trap.ss, UDATA);
	want_equal(trap.sp, trap_sp);
	/* RF is 1 in the image of a fault. SDM 3 section 17.3.1.1. */
	want_equal(trap.flags & ~(word)FL_IOPL, 0xd7 | FL_DF | FL_RF);
	TRY("", "int3", :);
	want_equal(trap.flags & FL_RF, 0);
	return 0;
}

static void frame(void)
{
	TRY("push $0x4d7; popf", "ud2", : : : "cc");
	want_fault(UD, 0);
	want_equal(trap.cs, KCODE);
	want_equal(trap.flags, 0xd7 | FL_DF | FL_RF);
	want_equal(trap.sp, trap_sp);
#if W64
	want_equal(trap.ss, KDATA);
#endif
	TRY("", "int3", :);
	want_equal(trap.flags & FL_RF, 0);
	user_run(frame_user, 0);
}

const struct test_case cases[] = {
	CASE(de, "SDM 3 6.15 #DE"),
	CASE(de_changes_nothing, "SDM 2 DIV"),
	CASE(db_by_int1_is_trap, "SDM 3 6.15 #DB"),
	CASE(bp_is_trap, "SDM 3 6.15 #BP"),
#if !W64
	CASE(of_by_into, "SDM 3 6.15 #OF"),
	CASE(br_by_bound, "SDM 3 6.15 #BR"),
#endif
	CASE(ud, "SDM 3 6.15 #UD"),
#if W64
	CASE(ud_in_64bit_mode, "SDM 2 appendix A"),
	CASE(gp_ss_not_canonical, "SDM 3 3.3.7.1"),
	CASE(pf, "SDM 3 6.15 #PF"),
#endif
	CASE(gp_instruction_too_long, "SDM 3 6.15 #GP"),
	CASE(nm, "SDM 3 6.15 #NM"),
	CASE(mf, "SDM 3 6.15 #MF"),
	CASE(xm, "SDM 3 6.15 #XM"),
	CASE(ac, "SDM 3 6.15 #AC"),
	CASE(np_segment, "SDM 3 6.15 #NP"),
	CASE(np_gate, "SDM 3 6.15 #NP"),
	CASE(gp_gate, "SDM 3 6.15 #GP"),
	CASE(gp_idt_limit, "SDM 3 6.15 #GP"),
	CASE(gp_ext_bit, "SDM 3 6.13"),
	CASE(gp_selectors, "SDM 3 6.15 #GP"),
	CASE(gp_user_segments, "SDM 3 6.15 #GP"),
	CASE(ts_bad_tss, "SDM 3 6.15 #TS"),
	CASE(ltr_lldt, "SDM 2 LTR, LLDT"),
	CASE(frame, "SDM 3 6.12.1"),
	CASES_END,
};
