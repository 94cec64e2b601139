/*
 * Canonical addresses: where they are checked, and by #GP or #SS.
 *
 * SDM volume 1 section 3.3.7.1; volume 3 section 4.5.2 (MSRs, bases), 6.15 (#GP, #SS);
 * volume 2, exceptions in 64-bit mode, of each instruction. Each row is an instruction
 * and an address, either side of the hole.
 */
#include "page.h"

static PAGED u8 code[4096];
static u8 area[64] __attribute__((aligned(64)));

static const u64 addresses[] = {
	0x00007ffffffff000, 0x00007ffffffffff0, 0x00007ffffffffffe, 0x00007fffffffffff,
	0x0000800000000000, 0x0000800000000001, 0x0000ffffffffffff, 0x0001000000000000,
	0x00fffffffffffffe, 0x00ffffffffffffff, 0x0100000000000000, 0x7fffffffffffffff,
	0x8000000000000000, 0xfeffffffffffffff, 0xff00000000000000, 0xffff7ffffffffffe,
	0xffff7fffffffffff, 0xffff800000000000, 0xffff800000000001, 0xfffffffffffff000,
	0xffffffffffffffff,
};

static unsigned linear_bits = 48; /* of the paging mode */

static bool canonical(u64 a, unsigned bits)
{
	u64 top = a >> (bits - 1);

	return top == 0 || top == ~0ull >> (bits - 1);
}

static unsigned msr_bits(void)
{
	return HAS_LA57 ? 57 : 48;
}

static u8 *put(u8 *p, u64 val, unsigned n)
{
	for (; n--; val >>= 8)
		*p++ = (u8)val;
	return p;
}

/* mov r64, imm64: RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, RSI 6, RDI 7 */
static u8 *load(u8 *p, unsigned reg, u64 val)
{
	*p++ = 0x48;
	*p++ = (u8)(0xb8 + reg);
	return put(p, val, 8);
}

static void run(unsigned cpl)
{
	word a = cpl ? ALIAS : 0;

	enter((word)code + a, cpl ? UCODE64 : KCODE, 0,
	      (word)user_stack + STACK_SIZE - 256 + a, cpl ? UDATA64 : KDATA);
}

/* ---- memory operands ---- */

enum { NO_CHECK = 1, PRIVILEGED = 2, STACK = 4, BRANCH = 8, IS_SSE = 16, ALIGN16 = 32 };

struct operand {
	const char *name;
	u8 code[5], len;
	u16 size; /* of the access at RBX, RBP, RSI and RDI */
	u8 flags;
};

/* clang-format off */
static const struct operand operands[] = {
	{ "mov al, [rbx]",     { 0x8a, 0x03 }, 2, 1, 0 },
	{ "mov [rbx], al",     { 0x88, 0x03 }, 2, 1, 0 },
	{ "mov ax, [rbx]",     { 0x66, 0x8b, 0x03 }, 3, 2, 0 },
	{ "mov eax, [rbx]",    { 0x8b, 0x03 }, 2, 4, 0 },
	{ "mov [rbx], eax",    { 0x89, 0x03 }, 2, 4, 0 },
	{ "mov rax, [rbx]",    { 0x48, 0x8b, 0x03 }, 3, 8, 0 },
	{ "mov [rbx], rax",    { 0x48, 0x89, 0x03 }, 3, 8, 0 },
	{ "mov eax, fs:[rbx]", { 0x64, 0x8b, 0x03 }, 3, 4, 0 },
	{ "mov eax, gs:[rbp]", { 0x65, 0x8b, 0x45, 0x00 }, 4, 4, 0 },
	{ "mov eax, [rbp]",    { 0x8b, 0x45, 0x00 }, 3, 4, STACK },
	{ "mov [rbp], rax",    { 0x48, 0x89, 0x45, 0x00 }, 4, 8, STACK },
	{ "add [rbp], eax",    { 0x01, 0x45, 0x00 }, 3, 4, STACK },
	{ "push [rbp]",        { 0xff, 0x75, 0x00 }, 3, 8, STACK },
	{ "call [rbp]",        { 0xff, 0x55, 0x00 }, 3, 8, STACK },
	{ "inc [rbp]",         { 0xfe, 0x45, 0x00 }, 3, 1, STACK },
	{ "fld [rbp]",         { 0xdd, 0x45, 0x00 }, 3, 8, STACK },
	{ "movups [rbp]",      { 0x0f, 0x10, 0x45, 0x00 }, 4, 16, STACK | IS_SSE },
	{ "lock add [rbp]",    { 0xf0, 0x01, 0x45, 0x00 }, 4, 4, STACK },
	{ "add [rbx], eax",    { 0x01, 0x03 }, 2, 4, 0 },
	{ "lock inc [rbx]",    { 0xf0, 0xff, 0x03 }, 3, 4, 0 },
	{ "xchg [rbx], rax",   { 0x48, 0x87, 0x03 }, 3, 8, 0 },
	{ "cmpxchg [rbx]",     { 0x0f, 0xb1, 0x03 }, 3, 4, 0 },
	{ "cmpxchg8b [rbx]",   { 0x0f, 0xc7, 0x0b }, 3, 8, 0 },
	{ "bt [rbx], 1",       { 0x0f, 0xba, 0x23, 0x01 }, 4, 4, 0 },
	{ "bts [rbx], 1",      { 0x0f, 0xba, 0x2b, 0x01 }, 4, 4, 0 },
	{ "movzx eax, [rbx]",  { 0x0f, 0xb7, 0x03 }, 3, 2, 0 },
	{ "movsxd rax, [rbx]", { 0x48, 0x63, 0x03 }, 3, 4, 0 },
	{ "test [rbx], al",    { 0x84, 0x03 }, 2, 1, 0 },
	{ "imul eax, [rbx]",   { 0x0f, 0xaf, 0x03 }, 3, 4, 0 },
	{ "shl [rbx], 1",      { 0xd1, 0x23 }, 2, 4, 0 },
	{ "not [rbx]",         { 0xf7, 0x13 }, 2, 4, 0 },
	{ "setz [rbx]",        { 0x0f, 0x94, 0x03 }, 3, 1, 0 },
	{ "push [rbx]",        { 0xff, 0x33 }, 2, 8, 0 },
	{ "pop [rbx]",         { 0x8f, 0x03 }, 2, 8, 0 },
	{ "call [rbx]",        { 0xff, 0x13 }, 2, 8, 0 },
	{ "jmp [rbx]",         { 0xff, 0x23 }, 2, 8, 0 },
	{ "mov es, [rbx]",     { 0x8e, 0x03 }, 2, 2, 0 },
	{ "mov [rbx], es",     { 0x8c, 0x03 }, 2, 2, 0 },
	{ "fld [rbx]",         { 0xdd, 0x03 }, 2, 8, 0 },
	{ "fistp [rbx]",       { 0xdf, 0x3b }, 2, 8, 0 },
	{ "fnstcw [rbx]",      { 0xd9, 0x3b }, 2, 2, 0 },
	{ "movups [rbx]",      { 0x0f, 0x10, 0x03 }, 3, 16, IS_SSE },
	{ "movq [rbx]",        { 0x66, 0x0f, 0xd6, 0x03 }, 4, 8, IS_SSE },
	{ "movaps [rbx]",      { 0x0f, 0x28, 0x03 }, 3, 16, IS_SSE | ALIGN16 },
	{ "stmxcsr [rbx]",     { 0x0f, 0xae, 0x1b }, 3, 4, IS_SSE },
	{ "lodsb",             { 0xac }, 1, 1, 0 },
	{ "lodsq",             { 0x48, 0xad }, 2, 8, 0 },
	{ "stosd",             { 0xab }, 1, 4, 0 },
	{ "scasb",             { 0xae }, 1, 1, 0 },
	{ "movsb",             { 0xa4 }, 1, 1, 0 },
	{ "cmpsd",             { 0xa7 }, 1, 4, 0 },
	{ "rep stosb",         { 0xf3, 0xaa }, 2, 1, 0 },
	{ "rep movsq",         { 0xf3, 0x48, 0xa5 }, 3, 8, 0 },
	{ "verr [rbx]",        { 0x0f, 0x00, 0x23 }, 3, 2, 0 },
	{ "lar eax, [rbx]",    { 0x0f, 0x02, 0x03 }, 3, 2, 0 },
	{ "clflush [rbx]",     { 0x0f, 0xae, 0x3b }, 3, 1, 0 },
	/* The limit is read first. */
	{ "lgdt [rbx]",        { 0x0f, 0x01, 0x13 }, 3, 2, PRIVILEGED },
	{ "lidt [rbx]",        { 0x0f, 0x01, 0x1b }, 3, 2, PRIVILEGED },
	{ "sgdt [rbx]",        { 0x0f, 0x01, 0x03 }, 3, 10, 0 },
	{ "sidt [rbx]",        { 0x0f, 0x01, 0x0b }, 3, 10, 0 },
	{ "lldt [rbx]",        { 0x0f, 0x00, 0x13 }, 3, 2, PRIVILEGED },
	{ "ltr [rbx]",         { 0x0f, 0x00, 0x1b }, 3, 2, PRIVILEGED },
	{ "lmsw [rbx]",        { 0x0f, 0x01, 0x33 }, 3, 2, PRIVILEGED },
	{ "smsw [rbx]",        { 0x0f, 0x01, 0x23 }, 3, 2, 0 },
	{ "invlpg [rbx]",      { 0x0f, 0x01, 0x3b }, 3, 1, NO_CHECK | PRIVILEGED },
	{ "prefetcht0 [rbx]",  { 0x0f, 0x18, 0x0b }, 3, 1, NO_CHECK },
	{ "lea rax, [rbx]",    { 0x48, 0x8d, 0x03 }, 3, 1, NO_CHECK },
	{ "nop [rbx]",         { 0x0f, 0x1f, 0x03 }, 3, 1, NO_CHECK },
	{ "mov cr2, rbx",      { 0x0f, 0x22, 0xd3 }, 3, 1, NO_CHECK | PRIVILEGED },
	{ "mov dr0, rbx",      { 0x0f, 0x23, 0xc3 }, 3, 1, NO_CHECK | PRIVILEGED },
	{ "jmp rbx",           { 0xff, 0xe3 }, 2, 1, BRANCH },
	{ "call rbx",          { 0xff, 0xd3 }, 2, 1, BRANCH },
	{ "push rbx; ret",     { 0x53, 0xc3 }, 2, 1, BRANCH },
	{ "push rbx; ret 16",  { 0x53, 0xc2, 0x10, 0x00 }, 4, 1, BRANCH },
	{ "jmp [rsp]",         { 0x53, 0xff, 0x24, 0x24 }, 4, 1, BRANCH },
	{ "call [rsp]",        { 0x53, 0xff, 0x14, 0x24 }, 4, 1, BRANCH },
};
/* clang-format on */

static void operand_row(const struct operand *o, u64 a)
{
	unsigned cpl = o->flags & PRIVILEGED ? 0 : 3;
	word at, expected;
	bool ok = canonical(a, linear_bits) && canonical(a + o->size - 1, linear_bits);
	u8 *p = code;

	p = load(load(load(load(p, 3, a), 5, a), 6, a), 7, a);
	at = (word)p;
	if ((o->flags & BRANCH) && o->code[0] == 0x53)
		at++;
	for (unsigned i = 0; i < o->len; i++)
		*p++ = o->code[i];
	*p = 0xcc;
	expected = o->flags & NO_CHECK                ? BP
		   : !ok                              ? (o->flags & STACK ? SS : GP)
		   : (o->flags & ALIGN16) && (a & 15) ? GP
						      : PF;
	run(cpl);
	checked();
	if (expected == BP)
		at += o->len + 1;
	else if (expected == PF && (o->flags & BRANCH))
		at = a;
	if (trap.vector != expected || trap.ip != at || (expected != PF && trap.error) ||
	    (expected == PF && trap.cr2 != a))
		fail("%s, %llx: vector %lx error %lx ip %lx cr2 %lx, want %lx at %lx",
		     o->name, a, trap.vector, trap.error, trap.ip, trap.cr2, expected,
		     at);
}

static void memory_operands(void)
{
	write_cr4(read_cr4() | BIT(9));
	__asm__ volatile("fninit");
	for (unsigned i = 0; i < ARRAY_SIZE(operands); i++) {
		row("%s, %u-bit addresses", operands[i].name, linear_bits);
		for (unsigned n = 0; n < ARRAY_SIZE(addresses) && !failed(); n++)
			operand_row(&operands[i], addresses[n]);
	}
	write_dr0(0);
	write_cr4(read_cr4() & ~BIT(9));
}

/* The stack itself: all of it is #SS(0), from user mode so that there is another. */
static void stack_operands(void)
{
	static const struct {
		const char *name;
		u8 code[4], len;
		int off; /* of the access from RSP, and its size */
		unsigned size;
	} table[] = {
		{ "push", { 0x50 }, 1, -8, 8 },
		{ "push 16", { 0x66, 0x50 }, 2, -2, 2 },
		{ "push imm", { 0x6a, 0x01 }, 2, -8, 8 },
		{ "push fs", { 0x0f, 0xa0 }, 2, -8, 8 },
		{ "pop", { 0x58 }, 1, 0, 8 },
		{ "pop 16", { 0x66, 0x58 }, 2, 0, 2 },
		{ "call", { 0xe8, 0, 0, 0 }, 4, -8, 8 },
		{ "ret", { 0xc3 }, 1, 0, 8 },
		{ "pushf", { 0x9c }, 1, -8, 8 },
		{ "popf", { 0x9d }, 1, 0, 8 },
		{ "enter", { 0xc8, 0, 0, 0 }, 4, -8, 8 },
		{ "mov [rsp]", { 0x8b, 0x04, 0x24 }, 3, 0, 4 },
		{ "xchg [rsp]", { 0x87, 0x04, 0x24 }, 3, 0, 4 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s by RSP, %u-bit addresses", table[i].name, linear_bits);
		for (unsigned n = 0; n < ARRAY_SIZE(addresses) && !failed(); n++) {
			u64 a = addresses[n], first = a + (u64)(long)table[i].off;
			bool ok = canonical(first, linear_bits) &&
				  canonical(first + table[i].size - 1, linear_bits);
			u8 *p = load(code, 4, a);
			word at = (word)p;

			for (unsigned k = 0; k < table[i].len; k++)
				*p++ = table[i].code[k];
			p = put(p, 0xcc00000000, 5);
			run(3);
			checked();
			if (trap.vector != (ok ? PF : SS) || trap.ip != at ||
			    (!ok && trap.error) || (ok && trap.cr2 != first))
				fail("%s, rsp %llx: vector %lx error %lx cr2 %lx",
				     table[i].name, a, trap.vector, trap.error, trap.cr2);
		}
	}
}

/* Far transfers and returns to addresses that are not canonical. */
static void far_targets(void)
{
	static const char *const names[] = { "JMP FAR", "CALL FAR", "RET FAR", "IRET" };

	for (unsigned how = 0; how < 4; how++) {
		row("%s, %u-bit addresses", names[how], linear_bits);
		for (unsigned n = 0; n < ARRAY_SIZE(addresses) && !failed(); n++) {
			u64 a = addresses[n];
			bool ok = canonical(a, linear_bits);
			u8 *p = load(code, 3, a);
			word at;

			/* AMD's far pointers in memory have at most 32 bits. */
			if (how < 2 && cpu_is_amd())
				continue;
			*(volatile u64 *)area = a;
			*(volatile u16 *)(area + 8) = UCODE64;
			p = load(p, 6, (word)area + ALIAS);
			if (how < 2) { /* jmp, call far [rsi] */
				at = (word)p;
				p = put(p, how ? 0x1eff48 : 0x2eff48, 3);
			} else {
				p = put(p, 0xd18c, 2); /* mov ecx, ss */
				if (how == 3)
					p = put(p, 0x9c5451, 3);
				p = put(p, 0xc98c, 2);
				p = put(p, 0x5351, 2); /* push rcx; push rbx */
				at = (word)p;
				p = put(p, how == 2 ? 0xcb48 : 0xcf48, 2);
			}
			*p = 0xcc;
			run(3);
			checked();
			if (trap.vector != (ok ? PF : GP) || trap.ip != (ok ? a : at) ||
			    (!ok && trap.error))
				fail("far %u to %llx: vector %lx error %lx ip %lx", how,
				     a, trap.vector, trap.error, trap.ip);
		}
	}
}

/* The offset of a gate: #GP(0), the old state. */
static void gate_offsets(void)
{
	for (unsigned n = 0; n < ARRAY_SIZE(addresses) && !failed(); n++) {
		u64 a = addresses[n];

		if (canonical(a, linear_bits))
			continue;
		set_gate(0x90, a, KCODE, D_TYPE(14) | D_DPL(3) | D_P, 0);
		TRY("", "int $0x90", :);
		want_fault(GP, 0);
		set_gdt(FREE_SEL, (a & 0xffff) | (u64)KCODE << 16 |
					  (u64)((a & 0xffff0000) | D_TYPE(12) | D_P)
						  << 32);
		set_gdt(FREE_SEL + 8, a >> 32);
		*(volatile u64 *)area = 0;
		*(volatile u16 *)(area + 4) = FREE_SEL;
		TRY("", "lcall *(%0)", : : "r"(area) : "memory");
		want_fault(GP, 0);
		TRY("", "ljmp *(%0)", : : "r"(area) : "memory");
		want_fault(GP, 0);
	}
	reset_gate(0x90);
}

/* ---- registers that hold addresses ---- */

static void msrs(void)
{
	static const u32 list[] = { 0x175,      0x176,      0xc0000082, 0xc0000083,
				    0xc0000100, 0xc0000101, 0xc0000102 };

	for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
		u64 old = rdmsr(list[i]);

		row("WRMSR %x", list[i]);
		for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++) {
			u64 a = addresses[n];
			bool ok = canonical(a, msr_bits());

			if (try_wrmsr(list[i], a) != (ok ? NONE : GP) ||
			    (!ok && trap.error))
				fail("msr %x, %llx: vector %lx", list[i], a, trap.vector);
			checked();
			want_equal(rdmsr(list[i]), ok ? a : old);
			wrmsr(list[i], old);
		}
	}
}

static void table_bases(void)
{
	struct table t = { 0xffff, 0 };

	for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++) {
		u64 a = addresses[n];
		bool ok = canonical(a, msr_bits());

		t.base = a;
		TRY("", "lgdt %0", : : "m"(t));
		checked();
		if (trap.vector != (ok ? NONE : GP))
			fail("lgdt %llx: vector %lx", a, trap.vector);
		load_gdt();
		/* LIDT that works would leave nothing to catch the next trap. */
		if (ok)
			continue;
		TRY("", "lidt %0", : : "m"(t));
		want_fault(GP, 0);
	}
}

/* LDTR and TR: #GP(selector). */
static void system_segments(void)
{
	for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++) {
		u64 a = addresses[n];
		bool ok = canonical(a, msr_bits());

		set_gdt(FREE_SEL + 8, a >> 32);
		set_gdt(FREE_SEL, descriptor((u32)a, 0xff, D_TYPE(2) | D_P));
		TRY("", "lldt %w0", : : "r"(FREE_SEL));
		if (ok)
			want_none();
		else
			want_fault(GP, FREE_SEL);
		set_gdt(FREE_SEL, descriptor((u32)a, 0xff, D_TYPE(9) | D_P));
		TRY("", "ltr %w0", : : "r"(FREE_SEL));
		if (ok)
			want_none();
		else
			want_fault(GP, FREE_SEL);
		load_tss();
		__asm__ volatile("lldt %w0" : : "r"(0));
	}
}

/* WRFSBASE, WRGSBASE: by the paging mode. */
static void base_instructions(void)
{
	if (!HAS_FSGSBASE) {
		skip("no FSGSBASE");
		return;
	}
	write_cr4(read_cr4() | BIT(16));
	for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++) {
		u64 a = addresses[n];

		for (unsigned gs = 0; gs < 2; gs++) {
			if (gs)
				TRY("", "wrgsbase %0", : : "r"(a));
			else
				TRY("", "wrfsbase %0", : : "r"(a));
			if (canonical(a, linear_bits)) {
				want_none();
				want_equal(rdmsr(gs ? 0xc0000101 : 0xc0000100), a);
			} else {
				want_fault(GP, 0);
			}
		}
		/* The lower half alone is always one. */
		TRY("", "wrfsbase %k0", : : "r"(a));
		want_none();
		want_equal(rdmsr(0xc0000100), (u32)a);
	}
	wrmsr(0xc0000100, 0);
	wrmsr(0xc0000101, 0);
	write_cr4(read_cr4() & ~BIT(16));
}

/* A base moves an address into the hole, or out of it: the sum counts. */
static void based_addresses(void)
{
	for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++)
		for (unsigned m = 0; m < ARRAY_SIZE(addresses); m++) {
			u64 base = addresses[n], a = addresses[m] + base;

			if (!canonical(base, linear_bits))
				continue;
			wrmsr(0xc0000100, base);
			TRY("", "movb %%fs:(%0), %%al", : : "r"(addresses[m]) : "eax");
			checked();
			/* What is mapped is what works: the lower 4 GiB. */
			if (trap.vector != (!canonical(a, linear_bits) ? GP
					    : a < BIT(32)              ? NONE
								       : PF))
				fail("base %llx + %llx: vector %lx", base, addresses[m],
				     trap.vector);
			wrmsr(0xc0000100, 0);
		}
}

/* SDM 2, SYSRET and SYSEXIT: #GP(0) at CPL 0 on Intel's; AMD's do not look. */
static void fast_returns(void)
{
	u64 star = rdmsr(0xc0000081);

	if (cpu_is_amd()) {
		if (linear_bits == 48)
			skip("AMD");
		return;
	}
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(0xc0000081, (u64)(UCODE64 - 16) << 48 | (u64)KCODE << 32);
	wrmsr(0x174, KCODE);
	for (unsigned n = 0; n < ARRAY_SIZE(addresses); n++) {
		u64 a = addresses[n];

		if (canonical(a, linear_bits))
			continue;
		TRY("", "sysretq", : : "c"(a) : "r11");
		want_fault(GP, 0);
		TRY("", ".byte 0x48, 0x0f, 0x35", : : "c"(a), "d"(0x1000ul));
		want_fault(GP, 0);
		TRY("", ".byte 0x48, 0x0f, 0x35", : : "d"(a), "c"(0x1000ul));
		want_fault(GP, 0);
	}
	wrmsr(0x174, 0);
	wrmsr(0xc0000081, star);
	wrmsr(EFER, rdmsr(EFER) & ~(u64)EFER_SCE);
}

static void translations(void)
{
	/* INVPCID checks the address of type 0 alone. */
	for (unsigned n = 0; n < ARRAY_SIZE(addresses) && HAS_INVPCID; n++) {
		for (u64 type = 0; type < 4; type++) {
			u64 desc[2] = { 0, addresses[n] };

			TRY("", "invpcid %1, %0", : : "r"(type), "m"(desc) : "memory");
			if (type || canonical(addresses[n], msr_bits()))
				want_none();
			else
				want_fault(GP, 0);
		}
	}
}

/* The same with 57 bits. */
static void la57(void)
{
	if (!HAS_LA57) {
		skip("no LA57");
		return;
	}
	paging_on(PAGING_5, true);
	linear_bits = 57;
	memory_operands();
	stack_operands();
	far_targets();
	gate_offsets();
	base_instructions();
	based_addresses();
	fast_returns();
	linear_bits = 48;
	paging_on(PAGING_4, true);
}

const struct test_case cases[] = {
	CASE(memory_operands, "SDM 1 3.3.7.1"),
	CASE(stack_operands, "SDM 3 6.15 #SS"),
	CASE(far_targets, "SDM 2 JMP, CALL, RET, IRET"),
	CASE(gate_offsets, "SDM 3 6.14.1, 5.8.3.1"),
	CASE(msrs, "SDM 2 WRMSR"),
	CASE(table_bases, "SDM 2 LGDT, LIDT"),
	CASE(system_segments, "SDM 2 LLDT, LTR"),
	CASE(base_instructions, "SDM 2 WRFSBASE"),
	CASE(based_addresses, "SDM 3 4.5.2"),
	CASE(fast_returns, "SDM 2 SYSRET, SYSEXIT"),
	CASE(la57, "SDM 3 4.5, 1 3.3.7.1"),
	CASE(translations, "SDM 2 INVPCID"),
	CASES_END,
};
