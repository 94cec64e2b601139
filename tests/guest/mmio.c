/*
 * Instructions whose operand is a device's memory: each does there what it does in RAM,
 * at any distance from an aligned address, and across a page of each.
 *
 * SDM volume 1 section 3.3 (memory is memory), volume 3 sections 8.1.1 and 12.3.3 (UC:
 * what a load or store may be split into is not architectural). The device is pc-testdev:
 * it keeps what is written.
 */
#include "page.h"

#define DEVICE 0xff000000ul
#define AREA   128 /* bytes that are compared, around the operand */
#define AT     64  /* of it: the operand, when it is aligned */

static PAGED u8 ram[8192], other_buffer[4096];
static u8 code[32] __asm__("mmio_code") __attribute__((aligned(32), used));
static word flags_seen;

enum { ALIGNED = 1, SSE = 2, AVX = 4, ONLY64 = 8, STACK = 16 };

/* BX, SI and DI are the operand; of those with R the other of SI and DI is in RAM. */
enum { SI_RAM = 32, DI_RAM = 64 };

/* clang-format off */
static const struct insn {
	const char *name;
	u8 code[12], len, flags;
} insns[] = {
	{ "mov al, [bx]",       { 0x8a, 0x03 }, 2, 0 },
	{ "mov [bx], al",       { 0x88, 0x03 }, 2, 0 },
	{ "mov ax, [bx]",       { 0x66, 0x8b, 0x03 }, 3, 0 },
	{ "mov [bx], ax",       { 0x66, 0x89, 0x03 }, 3, 0 },
	{ "mov eax, [bx]",      { 0x8b, 0x03 }, 2, 0 },
	{ "mov [bx], eax",      { 0x89, 0x03 }, 2, 0 },
	{ "mov rax, [bx]",      { 0x48, 0x8b, 0x03 }, 3, ONLY64 },
	{ "mov [bx], rax",      { 0x48, 0x89, 0x03 }, 3, ONLY64 },
	{ "mov [bx], imm32",    { 0xc7, 0x03, 1, 2, 3, 4 }, 6, 0 },
	{ "movzx eax, b [bx]",  { 0x0f, 0xb6, 0x03 }, 3, 0 },
	{ "movsx eax, w [bx]",  { 0x0f, 0xbf, 0x03 }, 3, 0 },
	{ "add [bx], eax",      { 0x01, 0x03 }, 2, 0 },
	{ "adc eax, [bx]",      { 0x13, 0x03 }, 2, 0 },
	{ "sub [bx], imm8",     { 0x83, 0x2b, 0x05 }, 3, 0 },
	{ "xor [bx], ax",       { 0x66, 0x31, 0x03 }, 3, 0 },
	{ "cmp [bx], eax",      { 0x39, 0x03 }, 2, 0 },
	{ "test [bx], al",      { 0x84, 0x03 }, 2, 0 },
	{ "inc [bx]",           { 0xff, 0x03 }, 2, 0 },
	{ "dec b [bx]",         { 0xfe, 0x0b }, 2, 0 },
	{ "not [bx]",           { 0xf7, 0x13 }, 2, 0 },
	{ "neg [bx]",           { 0xf7, 0x1b }, 2, 0 },
	{ "shl [bx], 3",        { 0xc1, 0x23, 0x03 }, 3, 0 },
	{ "ror [bx], cl",       { 0xd3, 0x0b }, 2, 0 },
	{ "rcl b [bx], 1",      { 0xd0, 0x13 }, 2, 0 },
	{ "shld [bx], eax, 4",  { 0x0f, 0xa4, 0x03, 0x04 }, 4, 0 },
	{ "imul eax, [bx]",     { 0x0f, 0xaf, 0x03 }, 3, 0 },
	{ "mul [bx]",           { 0xf7, 0x23 }, 2, 0 },
	{ "bt [bx], 9",         { 0x0f, 0xba, 0x23, 0x09 }, 4, 0 },
	{ "bts [bx], eax",      { 0x83, 0xe0, 0x3f, 0x0f, 0xab, 0x03 }, 6, 0 },
	{ "btc [bx], 3",        { 0x0f, 0xba, 0x3b, 0x03 }, 4, 0 },
	{ "bsf eax, [bx]",      { 0x0f, 0xbc, 0x03 }, 3, 0 },
	{ "setz [bx]",          { 0x0f, 0x94, 0x03 }, 3, 0 },
	{ "cmovnz eax, [bx]",   { 0x0f, 0x45, 0x03 }, 3, 0 },
	{ "xchg [bx], eax",     { 0x87, 0x03 }, 2, 0 },
	{ "xchg [bx], al",      { 0x86, 0x03 }, 2, 0 },
	{ "xadd [bx], eax",     { 0x0f, 0xc1, 0x03 }, 3, 0 },
	{ "lock add [bx], eax", { 0xf0, 0x01, 0x03 }, 3, 0 },
	{ "lock bts [bx], 3",   { 0xf0, 0x0f, 0xba, 0x2b, 0x03 }, 5, 0 },
	{ "cmpxchg, equal",     { 0x8b, 0x03, 0x0f, 0xb1, 0x0b }, 5, 0 },
	{ "cmpxchg, not equal", { 0x0f, 0xb1, 0x0b }, 3, 0 },
	{ "cmpxchg8b",          { 0x0f, 0xc7, 0x0b }, 3, 0 },
	{ "cmpxchg8b, equal",   { 0x8b, 0x06, 0x8b, 0x56, 0x04, 0x31, 0xdb, 0x0f, 0xc7, 0x0e }, 10, 0 },
	{ "cmpxchg16b",         { 0x48, 0x0f, 0xc7, 0x0b }, 4, ONLY64 | ALIGNED },
	{ "push [bx], pop eax", { 0xff, 0x33, 0x58 }, 3, 0 },
	{ "push eax, pop [bx]", { 0x50, 0x8f, 0x03 }, 3, 0 },
	{ "xlat",               { 0x83, 0xe0, 0x0f, 0xd7 }, 4, 0 },
	{ "movbe eax, [bx]",    { 0x0f, 0x38, 0xf0, 0x03 }, 4, 0 },
	{ "crc32 eax, [bx]",    { 0xf2, 0x0f, 0x38, 0xf1, 0x03 }, 5, SSE },
	{ "popcnt eax, [bx]",   { 0xf3, 0x0f, 0xb8, 0x03 }, 4, SSE },
	{ "movnti [bx], eax",   { 0x0f, 0xc3, 0x03 }, 3, 0 },
	{ "verr [bx]",          { 0x0f, 0x00, 0x23 }, 3, 0 },
	{ "sgdt [bx]",          { 0x0f, 0x01, 0x03 }, 3, 0 },
	{ "smsw [bx]",          { 0x0f, 0x01, 0x23 }, 3, 0 },
	{ "str [bx]",           { 0x0f, 0x00, 0x0b }, 3, 0 },
	{ "lodsd",              { 0xad }, 1, DI_RAM },
	{ "stosd",              { 0xab }, 1, SI_RAM },
	{ "scasb",              { 0xae }, 1, SI_RAM },
	{ "movsd to it",        { 0xa5 }, 1, SI_RAM },
	{ "movsd from it",      { 0xa5 }, 1, DI_RAM },
	{ "movsd within it",    { 0x48, 0x8d, 0x7f, 0x08, 0xa5 }, 5, 0 },
	{ "cmpsw",              { 0x66, 0xa7 }, 2, DI_RAM },
	{ "rep stosb",          { 0xf3, 0xaa }, 2, SI_RAM },
	{ "rep movsb to it",    { 0xf3, 0xa4 }, 2, SI_RAM },
	{ "rep movsd from it",  { 0xf3, 0xa5 }, 2, DI_RAM },
	{ "rep lodsw",          { 0xf3, 0x66, 0xad }, 3, DI_RAM },
	{ "repne scasb",        { 0xf2, 0xae }, 2, SI_RAM },
	{ "insb",               { 0x6c }, 1, SI_RAM },
	{ "outsb",              { 0x6e }, 1, DI_RAM },
	{ "fld m32, fst m32",   { 0xd9, 0x03, 0xd9, 0x5b, 0x04 }, 5, 0 },
	{ "fild m64",           { 0xdf, 0x2b, 0xdf, 0x7b, 0x08 }, 5, 0 },
	{ "fld1, fstp m80",     { 0xd9, 0xe8, 0xdb, 0x3b }, 4, 0 },
	{ "fld1, fistp m16",    { 0xd9, 0xe8, 0xdf, 0x1b }, 4, 0 },
	{ "fbstp",              { 0xd9, 0xe8, 0xdf, 0x33 }, 4, 0 },
	{ "fnstcw",             { 0xd9, 0x3b }, 2, 0 },
	{ "fnstsw",             { 0xdd, 0x3b }, 2, 0 },
	{ "movd [bx], mm0",     { 0x0f, 0x6e, 0xc0, 0x0f, 0x7e, 0x03, 0x0f, 0x77 }, 8, 0 },
	{ "movq mm0, [bx]",     { 0x0f, 0x6f, 0x03, 0x0f, 0x7f, 0x43, 0x08, 0x0f, 0x77 }, 9, 0 },
	{ "movups",             { 0x0f, 0x10, 0x03, 0x0f, 0x11, 0x43, 0x10 }, 7, SSE },
	{ "movaps",             { 0x0f, 0x28, 0x03, 0x0f, 0x29, 0x43, 0x10 }, 7, SSE | ALIGNED },
	{ "movss",              { 0xf3, 0x0f, 0x10, 0x03, 0xf3, 0x0f, 0x11, 0x43, 0x04 }, 9, SSE },
	{ "movlps",             { 0x0f, 0x12, 0x03, 0x0f, 0x13, 0x43, 0x08 }, 7, SSE },
	{ "paddd xmm0, [bx]",   { 0x66, 0x0f, 0xfe, 0x03, 0xf3, 0x0f, 0x7f, 0x03 }, 8, SSE | ALIGNED },
	{ "pextrw, pinsrw",     { 0x66, 0x0f, 0xc4, 0x03, 0x02, 0xf3, 0x0f, 0x7f, 0x03 }, 9, SSE },
	{ "movntps",            { 0x0f, 0x2b, 0x03 }, 3, SSE | ALIGNED },
	{ "stmxcsr",            { 0x0f, 0xae, 0x1b }, 3, SSE },
	{ "vmovups ymm",        { 0xc5, 0xfc, 0x10, 0x03, 0xc5, 0xfc, 0x11, 0x43, 0x20 }, 9, AVX },
	{ "vmovups xmm",        { 0xc5, 0xf8, 0x10, 0x03, 0xc5, 0xf8, 0x11, 0x43, 0x20 }, 9, AVX },
	{ "vbroadcastss",       { 0xc4, 0xe2, 0x79, 0x18, 0x03, 0xc5, 0xf8, 0x11, 0x43, 0x20 }, 10, AVX },
	{ "stack: push, pop",   { 0x50, 0x51, 0x9c, 0x5a, 0x59, 0x58 }, 6, STACK },
	{ "stack: call, ret",   { 0xe8, 0x00, 0x00, 0x00, 0x00, 0x5a, 0x31, 0xd2 }, 8, STACK },
};
/* clang-format on */

struct result {
	word a, c, d, si, di, flags, vector;
	u8 bytes[AREA];
};

/* An even pattern, so that words and what surrounds them differ. */
static void fill(word at)
{
	for (unsigned i = 0; i < AREA; i++)
		((volatile u8 *)at)[i] = (u8)(0x11 * (i & 15) + i / 16 + 1);
	for (unsigned i = 0; i < AREA; i++)
		((volatile u8 *)other_buffer)[i] = (u8)(0xc0 + i);
}

static void build(const struct insn *in)
{
	volatile u8 *p = code;

	if (in->flags & STACK) { /* xchg sp, bx */
		if (W64)
			*p++ = 0x48;
		*p++ = 0x87;
		*p++ = 0xdc;
	}
	for (unsigned i = 0; i < in->len; i++)
		*p++ = in->code[i];
	if (in->flags & STACK) {
		if (W64)
			*p++ = 0x48;
		*p++ = 0x87;
		*p++ = 0xdc;
	}
	*p = 0xc3;
}

/* With the operand at 'off' of the area at 'at'. */
static void run(const struct insn *in, word at, unsigned off, struct result *r)
{
	word a = 0x8765a3f7, c = 5, d = 0x80, b = at + off;
	word si = in->flags & SI_RAM ? (word)other_buffer : at + off;
	word di = in->flags & DI_RAM ? (word)other_buffer + 64 : at + off;

	fill(at);
	__asm__ volatile("fninit; pxor %%xmm0, %%xmm0" : : :);
	r->vector = TRY("", "test %%esp, %%esp; call mmio_code; pushf; pop" W " %[fl]",
			: "+a"(a), "+c"(c), "+d"(d), "+S"(si), "+D"(di),
			  "+b"(b), [fl] "=m"(flags_seen)
			:
			: "memory", "cc");
	__asm__ volatile("fninit");
	r->a = a;
	r->c = c;
	r->d = d;
	r->si = si - (in->flags & SI_RAM ? (word)other_buffer : at);
	r->di = di - (in->flags & DI_RAM ? (word)other_buffer : at);
	r->flags = flags_seen & 0xcd5;
	for (unsigned i = 0; i < AREA; i++)
		r->bytes[i] = ((volatile u8 *)at)[i];
}

static void compare(unsigned off, const struct result *want, const struct result *got)
{
	want_equal(got->vector, want->vector);
	want_equal(got->a, want->a);
	want_equal(got->c, want->c);
	want_equal(got->d, want->d);
	want_equal(got->si, want->si);
	want_equal(got->di, want->di);
	want_equal(got->flags, want->flags);
	for (unsigned i = 0; i < AREA; i++)
		if (got->bytes[i] != want->bytes[i]) {
			fail("at + %u: byte %u is %x, in RAM %x", off, i, got->bytes[i],
			     want->bytes[i]);
			return;
		}
}

static bool can(const struct insn *in)
{
	if ((in->flags & ONLY64) && !W64)
		return false;
	return !(in->flags & AVX) || HAS(1, 0, c, 28);
}

static void enable(bool on)
{
	static word cr4;

	if (!on) {
		write_cr4(cr4);
		return;
	}
	cr4 = read_cr4();
	__asm__ volatile("clts");
	write_cr4(cr4 | BIT(9) | (HAS_XSAVE ? BIT(18) : 0));
	if (HAS_XSAVE)
		__asm__ volatile("xsetbv"
				 :
				 : "c"(0), "a"(HAS(1, 0, c, 28) ? 7 : 3), "d"(0));
}

static struct result in_ram, there;

/* In the middle of a page of the device. */
static void device_memory(void)
{
	enable(true);
	for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
		const struct insn *in = &insns[i];

		if (!can(in))
			continue;
		row("%s", in->name);
		build(in);
		for (unsigned n = 0; n < 16; n += in->flags & ALIGNED ? 16 : 1) {
			run(in, (word)ram, AT + n, &in_ram);
			run(in, DEVICE + 0x400, AT + n, &there);
			compare(n, &in_ram, &there);
		}
	}
	enable(false);
}

#if W64
/* A page of RAM, then one of the device, and the other way round. */
static void across_pages(void)
{
	volatile u64 *entry;

	paging_on(PAGING_4, true);
	enable(true);
	path_set(3, TEST_PA, ALL);
	entry = (volatile u64 *)path.entry[3];
	for (unsigned way = 0; way < 2; way++) {
		entry[0] = way ? DEVICE | ALL : TEST_PA | ALL;
		entry[1] = way ? TEST_PA | ALL : DEVICE | ALL;
		flush_tlb();
		for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
			const struct insn *in = &insns[i];

			if (!can(in) || (in->flags & ALIGNED))
				continue;
			row("%s, from %s", in->name,
			    way ? "the device to RAM" : "RAM to the device");
			build(in);
			for (unsigned n = 0; n < 16; n++) {
				run(in, (word)ram, AT - n, &in_ram);
				run(in, path.va + 0x1000 - AT, AT - n, &there);
				compare(n, &in_ram, &there);
			}
		}
	}
	entry[0] = entry[1] = 0;
	flush_tlb();
	enable(false);
}
#endif

const struct test_case cases[] = {
	CASE(device_memory, "SDM 1 3.3"),
#if W64
	CASE(across_pages, "SDM 3 8.1.1"),
#endif
	CASES_END,
};
