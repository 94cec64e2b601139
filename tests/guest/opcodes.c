/*
 * The opcode maps by rule: where LOCK is allowed, which encodings are #UD, and the limit
 * of 15 bytes; alignment checks of every size; instructions that touch nothing fault
 * nowhere.
 *
 * SDM volume 2 LOCK, appendix A (opcode maps), section 2.2 (REX); volume 3 sections 6.15
 * (#UD, #GP, #AC) and 8.1.2.2.
 */
#include "rt.h"

static PAGED u8 code[4096];
static u8 area[256] __attribute__((aligned(64)));

static u8 *put(u8 *p, u32 val, unsigned n)
{
	for (; n--; val >>= 8)
		*p++ = (u8)val;
	return p;
}

/* Sets registers and returns where the instruction goes. */
static u8 *begin(word alias)
{
	u32 data = (u32)((word)area + 64 + alias);
	u8 *p = code;

	*p++ = 0xbb;
	p = put(p, data, 4);
	*p++ = 0xbe;
	p = put(p, data, 4);
	*p++ = 0xbf;
	p = put(p, data, 4);
	p = put(p, 0xc031, 2); /* EAX, ECX, EDX = 0 */
	p = put(p, 0xc931, 2);
	return put(p, 0xd231, 2);
}

static void run(unsigned cpl, word flags)
{
	word a = cpl ? ALIAS : 0;

	enter((word)code + a, cpl ? UCODE : KCODE, flags,
	      (word)user_stack + STACK_SIZE - 256 + a, cpl ? UDATA : KDATA);
}

/* ---- LOCK ---- */

/* ModRM.reg values with which this opcode takes LOCK, its operand being memory. */
static u8 lock_regs(unsigned map, unsigned op)
{
	if (map == 0) {
		if (op < 0x38 && (op & 7) < 2) /* ADD to XOR, to memory */
			return 0xff;
		switch (op) {
		case 0x80:
		case 0x81:
		case 0x83: return 0x7f; /* not CMP */
		case 0x82: return W64 ? 0 : 0x7f;
		case 0x86:
		case 0x87: return 0xff;
		case 0xf6:
		case 0xf7: return 1 << 2 | 1 << 3; /* NOT, NEG */
		case 0xfe:
		case 0xff: return 1 << 0 | 1 << 1; /* INC, DEC */
		default: return 0;
		}
	}
	switch (op) {
	case 0xab:
	case 0xb3:
	case 0xbb: return 0xff; /* BTS, BTR, BTC */
	case 0xba: return 1 << 5 | 1 << 6 | 1 << 7;
	case 0xb0:
	case 0xb1:
	case 0xc0:
	case 0xc1: return 0xff;
	case 0xc7: return 1 << 1; /* CMPXCHG8B */
	default: return 0;
	}
}

/* Every opcode of both maps with each ModRM.reg, on memory and on a register. */
static void lock_prefix(void)
{
	for (unsigned n = 0; n < 2 * 256 * 8 * 2 && !failed(); n++) {
		unsigned map = n >> 12, op = n >> 4 & 255, reg = n >> 1 & 7;
		bool mem = n & 1;
		bool ok = mem && (lock_regs(map, op) >> reg & 1);
		u8 *p = begin(ALIAS), *at;

		/* Prefixes, escapes, and in 64-bit mode REX are no opcodes. AMD's MOV CR0
		 * with LOCK is not offered. */
		if (map == 0 && (op == 0x0f || op == 0x26 || op == 0x2e || op == 0x36 ||
				 op == 0x3e || (op >= 0x64 && op <= 0x67) ||
				 (op >= 0xf0 && op <= 0xf3 && op != 0xf1) ||
				 (W64 && op >= 0x40 && op <= 0x4f) || op == 0xc4 ||
				 op == 0xc5 || op == 0x62 || op == 0x8f))
			continue;
		if (map == 1 && (op == 0x38 || op == 0x3a || op == 0x0f))
			continue;
		/* The bit's number is an address there. */
		if (map == 1 && reg > 2 && (op == 0xab || op == 0xb3 || op == 0xbb))
			continue;
		/* A row for each opcode that takes it, one for all the others. */
		if (lock_regs(map, op))
			row("LOCK %s%x", map ? "0F " : "", op);
		else
			row("LOCK on others of map %u", map);
		at = p;
		*p++ = 0xf0;
		if (map)
			*p++ = 0x0f;
		*p++ = (u8)op;
		*p++ = (u8)((mem ? 3 : 0xc1) | reg << 3);
		if (map == 0 ? op == 0x80 || op == 0x82 || op == 0x83 : op == 0xba)
			*p++ = 1;
		else if (map == 0 && op == 0x81)
			p = put(p, 1, 4);
		*p = 0xcc;
		run(3, 0);
		checked();
		if (trap.vector != (ok ? BP : UD))
			fail("lock map %u %x /%u %s: vector %lx", map, op, reg,
			     mem ? "memory" : "register", trap.vector);
		else if (!ok && trap.ip != (word)at)
			fail("lock map %u %x /%u: at %lx", map, op, reg, trap.ip);
	}
}

/* ---- invalid encodings ---- */

enum { IN_32 = 1, IN_64 = 2, BOTH = 3, REG_FORM = 4, MEM_FORM = 8 };

static void undefined(void)
{
	static const struct {
		u8 code[5], len, where;
	} table[] = {
		/* SDM 2 appendix A, one and two bytes. */
		{ { 0x06 }, 1, IN_64 },
		{ { 0x07 }, 1, IN_64 },
		{ { 0x0e }, 1, IN_64 },
		{ { 0x16 }, 1, IN_64 },
		{ { 0x17 }, 1, IN_64 },
		{ { 0x1e }, 1, IN_64 },
		{ { 0x1f }, 1, IN_64 },
		{ { 0x27 }, 1, IN_64 },
		{ { 0x2f }, 1, IN_64 },
		{ { 0x37 }, 1, IN_64 },
		{ { 0x3f }, 1, IN_64 },
		{ { 0x60 }, 1, IN_64 },
		{ { 0x61 }, 1, IN_64 },
		{ { 0x82, 0xc0, 0x01 }, 3, IN_64 },
		{ { 0x9a }, 1, IN_64 },
		{ { 0xce }, 1, IN_64 },
		{ { 0xd4, 0x0a }, 2, IN_64 },
		{ { 0xd5, 0x0a }, 2, IN_64 },
		{ { 0xd6 }, 1, IN_64 },
		{ { 0xea }, 1, IN_64 },
		{ { 0x0f, 0x04 }, 2, BOTH },
		{ { 0x0f, 0x0a }, 2, BOTH },
		{ { 0x0f, 0x0b }, 2, BOTH },
		{ { 0x0f, 0x0c }, 2, BOTH },
		{ { 0x0f, 0x24 }, 2, BOTH },
		{ { 0x0f, 0x25 }, 2, BOTH },
		{ { 0x0f, 0x26 }, 2, BOTH },
		{ { 0x0f, 0x27 }, 2, BOTH },
		{ { 0x0f, 0x36 }, 2, BOTH },
		{ { 0x0f, 0x39 }, 2, BOTH },
		{ { 0x0f, 0xa6 }, 2, BOTH },
		{ { 0x0f, 0xa7 }, 2, BOTH },
		{ { 0x0f, 0xb9, 0xc0 }, 3, BOTH },
		{ { 0x0f, 0xff, 0xc0 }, 3, BOTH },
		/* MOV to CS; sreg 6 and 7. */
		{ { 0x8e, 0xc8 }, 2, BOTH },
		{ { 0x8e, 0xf0 }, 2, BOTH },
		{ { 0x8e, 0xf8 }, 2, BOTH },
		{ { 0x8c, 0xf0 }, 2, BOTH },
		{ { 0x8c, 0xfb }, 2, BOTH },
		/* Groups: FE /2 to /7, FF /7, 8F /1 to /7, C6 /1. */
		{ { 0xfe, 0xd0 }, 2, BOTH },
		{ { 0xfe, 0xd8 }, 2, BOTH },
		{ { 0xfe, 0xe0 }, 2, BOTH },
		{ { 0xfe, 0xe8 }, 2, BOTH },
		{ { 0xfe, 0xf0 }, 2, BOTH },
		{ { 0xfe, 0xf8 }, 2, BOTH },
		{ { 0xff, 0xf8 }, 2, BOTH },
		{ { 0xff, 0x3b }, 2, BOTH },
		{ { 0xc6, 0xc8, 0x00 }, 3, BOTH },
		{ { 0xc6, 0xd0, 0x00 }, 3, BOTH },
		{ { 0xc7, 0xc8 }, 2, BOTH },
		{ { 0x0f, 0xba, 0xc0, 0x00 }, 4, BOTH },
		{ { 0x0f, 0xba, 0xc8, 0x00 }, 4, BOTH },
		{ { 0x0f, 0xba, 0xd0, 0x00 }, 4, BOTH },
		{ { 0x0f, 0xba, 0xd8, 0x00 }, 4, BOTH },
		{ { 0x0f, 0xc7, 0xc8 }, 3, BOTH },
		{ { 0x0f, 0xc7, 0x03 }, 3, BOTH },
		{ { 0x0f, 0x00, 0xf0 }, 3, BOTH },
		{ { 0x0f, 0x00, 0xf8 }, 3, BOTH },
		{ { 0x0f, 0x71, 0xc0, 0x01 }, 4, BOTH },
		{ { 0x0f, 0x72, 0xc8, 0x01 }, 4, BOTH },
		{ { 0x0f, 0x73, 0xe0, 0x01 }, 4, BOTH },
		/* Registers where memory is wanted. */
		{ { 0x8d, 0xc0 }, 2, BOTH },
		{ { 0x0f, 0xb2, 0xc0 }, 3, BOTH },
		{ { 0x0f, 0xb4, 0xc0 }, 3, BOTH },
		{ { 0x0f, 0xb5, 0xc0 }, 3, BOTH },
		{ { 0xff, 0xd8 }, 2, BOTH },
		{ { 0xff, 0xe8 }, 2, BOTH },
		{ { 0x0f, 0x01, 0xfe }, 3, BOTH },
		/* CRs and DRs that do not exist. */
		{ { 0x0f, 0x20, 0xc8 }, 3, BOTH },
		{ { 0x0f, 0x20, 0xe8 }, 3, BOTH },
		{ { 0x0f, 0x20, 0xf0 }, 3, BOTH },
		{ { 0x0f, 0x20, 0xf8 }, 3, BOTH },
		{ { 0x0f, 0x22, 0xe8 }, 3, BOTH },
		{ { 0x44, 0x0f, 0x20, 0xc8 }, 4, IN_64 },
		{ { 0x44, 0x0f, 0x22, 0xd8 }, 4, IN_64 },
		{ { 0x44, 0x0f, 0x21, 0xc0 }, 4, IN_64 },
		{ { 0x44, 0x0f, 0x23, 0xf8 }, 4, IN_64 },
		/* LOCK where there is nothing to lock. */
		{ { 0xf0, 0x90 }, 2, BOTH },
		{ { 0xf0, 0xa4 }, 2, BOTH },
		{ { 0xf0, 0xf4 }, 2, BOTH },
		{ { 0xf0, 0x0f, 0xa2 }, 3, BOTH },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		u8 *p = begin(0), *at = p;

		if (!(table[i].where & (W64 ? IN_64 : IN_32)))
			continue;
		row("%x %x %x %x, %u bytes", table[i].code[0], table[i].code[1],
		    table[i].code[2], table[i].code[3], table[i].len);
		for (unsigned k = 0; k < table[i].len; k++)
			*p++ = table[i].code[k];
		for (unsigned k = 0; k < 8; k++)
			*p++ = 0xcc;
		run(0, 0);
		checked();
		if (trap.vector != UD || trap.ip != (word)at || trap.error)
			fail("%x %x %x %x: vector %lx at %lx, want %lx", table[i].code[0],
			     table[i].code[1], table[i].code[2], table[i].code[3],
			     trap.vector, trap.ip, (word)at);
	}
}

/* ---- length ---- */

/* Prefixes up to 15 bytes are fine whatever they are; 16 bytes are #GP(0). */
static void length_limit(void)
{
	static const u8 prefixes[] = { 0x66, 0x67, 0x2e, 0x36, 0x3e,
				       0x26, 0x64, 0x65, 0xf2, 0xf3 };

	for (unsigned i = 0; i < ARRAY_SIZE(prefixes); i++) {
		row("prefix %x", prefixes[i]);
		for (unsigned n = 0; n < 20 && !failed(); n++) {
			u8 *p = begin(0), *at = p;

			for (unsigned k = 0; k < n; k++)
				*p++ = prefixes[i];
			*p++ = 0xfc; /* CLD */
			*p = 0xcc;
			run(0, 0);
			checked();
			if (trap.vector != (n < 15 ? BP : GP) || trap.error ||
			    (n >= 15 && trap.ip != (word)at))
				fail("%u times %x: vector %lx error %lx", n, prefixes[i],
				     trap.vector, trap.error);
		}
	}
}

/* REX counts only right before the opcode. */
static void rex_position(void)
{
	if (!W64) {
		skip("64-bit mode");
		return;
	}
	for (unsigned i = 0; i < 4; i++) {
		static const u8 prefixes[] = { 0x66, 0x2e, 0xf3, 0x64 };

		row("REX before %x", prefixes[i]);
		for (unsigned rex = 0x40; rex < 0x50; rex++) {
			u8 *p = begin(0);

			/* mov rax, -1; REX prefix mov eax, eax: W would keep bits 63:32
			 */
			*p++ = 0x48;
			p = put(p, 0xc0c7, 2);
			p = put(p, 0xffffffff, 4);
			*p++ = (u8)rex;
			*p++ = prefixes[i];
			p = put(p, 0xc089, 2);
			/* shr rax, 32 */
			p = put(p, 0x20e8c148, 4);
			*p = 0xcc;
			run(0, 0);
			want_equal(trap.vector, BP);
			/* With 16-bit operands the upper half stays. */
			want_equal(trap.flags >> 6 & 1, prefixes[i] != 0x66);
		}
	}
}

/* ---- alignment ---- */

/* SDM 3 6.15 #AC: at CPL 3, with AM and AC, by the size of the operand. */
static void alignment(void)
{
	static const struct {
		const char *name;
		u8 code[4], len, align;
	} table[] = {
		{ "mov al", { 0x8a, 0x03 }, 2, 1 },
		{ "mov ax", { 0x66, 0x8b, 0x03 }, 3, 2 },
		{ "mov eax", { 0x8b, 0x03 }, 2, 4 },
		{ "mov [ebx]", { 0x89, 0x03 }, 2, 4 },
		{ "add", { 0x01, 0x03 }, 2, 4 },
		{ "lock add", { 0xf0, 0x01, 0x03 }, 3, 4 },
		{ "lodsd", { 0xad }, 1, 4 },
		{ "stosd", { 0xab }, 1, 4 },
		{ "movsw", { 0x66, 0xa5 }, 2, 2 },
		{ "movsb", { 0xa4 }, 1, 1 },
		{ "cmpsd", { 0xa7 }, 1, 4 },
		{ "scasw", { 0x66, 0xaf }, 2, 2 },
		{ "push", { 0xff, 0x33 }, 2, W64 ? 8 : 4 },
		{ "pop", { 0x8f, 0x03 }, 2, W64 ? 8 : 4 },
		{ "movzx", { 0x0f, 0xb7, 0x03 }, 3, 2 },
		{ "cmpxchg", { 0x0f, 0xb1, 0x03 }, 3, 4 },
		{ "cmpxchg8b", { 0x0f, 0xc7, 0x0b }, 3, 8 },
		{ "bt", { 0x0f, 0xa3, 0x03 }, 3, 4 },
		{ "xchg", { 0x87, 0x03 }, 2, 4 },
		{ "fld32", { 0xd9, 0x03 }, 2, 4 },
		{ "fld64", { 0xdd, 0x03 }, 2, 8 },
		{ "fild16", { 0xdf, 0x03 }, 2, 2 },
		{ "fnstcw", { 0xd9, 0x3b }, 2, 2 },
		{ "imul", { 0x0f, 0xaf, 0x03 }, 3, 4 },
		{ "setz", { 0x0f, 0x94, 0x03 }, 3, 1 },
		{ "shl", { 0xd1, 0x23 }, 2, 4 },
		{ "lea", { 0x8d, 0x03 }, 2, 1 },
		{ "nop", { 0x0f, 0x1f, 0x03 }, 3, 1 },
	};

	__asm__ volatile("fninit");
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("%s", table[i].name);
		for (unsigned n = 0; n < 8 * 8 && !failed(); n++) {
			unsigned off = n & 7, cpl = n & 8 ? 3 : 0;
			bool am = n & 16, ac = n & 32;
			bool bad = cpl && am && ac && off % table[i].align;
			u8 *p = begin(cpl ? ALIAS : 0), *at;

			/* add ebx, esi, edi: 81 /0 */
			for (unsigned k = 0; k < 3; k++) {
				static const u8 modrm[] = { 0xc3, 0xc6, 0xc7 };

				*p++ = 0x83;
				*p++ = modrm[k];
				*p++ = (u8)off;
			}
			at = p;
			for (unsigned k = 0; k < table[i].len; k++)
				*p++ = table[i].code[k];
			*p = 0xcc;
			write_cr0((read_cr0() & ~(word)BIT(18)) | (am ? BIT(18) : 0));
			run(cpl, ac ? FL_AC : 0);
			checked();
			if (trap.vector != (bad ? AC : BP) || trap.error ||
			    (bad && trap.ip != (word)at))
				fail("%s + %u cpl %u am %u ac %u: vector %lx error %lx",
				     table[i].name, off, cpl, am, ac, trap.vector,
				     trap.error);
		}
	}
	write_cr0(read_cr0() & ~(word)BIT(18));
}

const struct test_case cases[] = {
	CASE(lock_prefix, "SDM 2 LOCK"),      CASE(undefined, "SDM 2 appendix A"),
	CASE(length_limit, "SDM 3 6.15 #GP"), CASE(rex_position, "SDM 2 2.2.1"),
	CASE(alignment, "SDM 3 6.15 #AC"),    CASES_END,
};
