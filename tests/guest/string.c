/*
 * String instructions that fault in the middle, wrap, or run long; LOCK and what crosses
 * pages. SDM volume 2 REP, MOVS, CMPS; volume 3 section 8.1.2 (LOCK).
 */
#include "page.h"

static word base; /* two pages; behind them nothing */
static volatile u32 *next_entry;

#define PAGE 4096

static void map_two(void)
{
	paging_on(W64 ? PAGING_4 : PAGING_32, false);
	path_set(path.levels - 1, TEST_PA, ALL);
	next_entry = (volatile u32 *)path.entry[path.levels - 1];
	next_entry[W64 ? 2 : 1] = (TEST_PA + PAGE) | ALL;
	next_entry[W64 ? 4 : 2] = 0;
	flush_tlb();
	base = path.va;
	for (unsigned i = 0; i < 2 * PAGE; i++)
		((volatile u8 *)base)[i] = (u8)i;
}

static void unmap(void)
{
	next_entry[W64 ? 2 : 1] = 0;
	flush_tlb();
#if !W64
	paging_off();
#endif
}

/* A fault leaves the registers at the element that faulted; all before it is done. */
static void stos_faults(void)
{
	word di, c;

	map_two();
	di = base + 2 * PAGE - 10;
	c = 100;
	TRY("", "rep stosb", : "+D"(di), "+c"(c) : "a"(0x77) : "memory");
	want_fault(PF, 2);
	want_equal(trap.cr2, base + 2 * PAGE);
	want_equal(di, base + 2 * PAGE);
	want_equal(c, 90);
	want_equal(*(volatile u8 *)(base + 2 * PAGE - 1), 0x77);
	want_equal(*(volatile u8 *)(base + 2 * PAGE - 11), (u8)(2 * PAGE - 11));
	want(trap.flags & FL_RF);
	/* Elements that cross: not half-way. */
	di = base + 2 * PAGE - 10;
	c = 5;
	TRY("", "rep stosl", : "+D"(di), "+c"(c) : "a"(0x11223344) : "memory");
	want_fault(PF, 2);
	want_equal(trap.cr2, base + 2 * PAGE);
	want_equal(di, base + 2 * PAGE - 2);
	want_equal(c, 3);
	want_equal(*(volatile u8 *)(base + 2 * PAGE - 2), 0x77);
	/* Backwards. */
	di = base + 3;
	c = 10;
	TRY("std", "rep stosb", : "+D"(di), "+c"(c) : "a"(0x55) : "memory", "cc");
	want_fault(PF, 2);
	want_equal(trap.cr2, base - 1);
	want_equal(di, base - 1);
	want_equal(c, 6);
	unmap();
}

static void movs_faults(void)
{
	static u8 buffer[64];
	word si, di, c;

	map_two();
	si = base + 2 * PAGE - 8;
	di = (word)buffer;
	c = 20;
	TRY("", "rep movsb", : "+S"(si), "+D"(di), "+c"(c) : : "memory");
	want_fault(PF, 0);
	want_equal(si, base + 2 * PAGE);
	want_equal(di, (word)buffer + 8);
	want_equal(c, 12);
	want_equal(((volatile u8 *)buffer)[7], 0xff);
	/* The destination. The source is read first: CR2 says who it was. */
	si = (word)buffer;
	di = base + 2 * PAGE - 4;
	c = 10;
	TRY("", "rep movsb", : "+S"(si), "+D"(di), "+c"(c) : : "memory");
	want_fault(PF, 2);
	want_equal(si, (word)buffer + 4);
	want_equal(c, 6);
	/* Both at once. */
	si = base + 2 * PAGE;
	di = base + 2 * PAGE + 100;
	TRY("", "movsb", : "+S"(si), "+D"(di) : : "memory");
	want_fault(PF, 0);
	want_equal(trap.cr2, base + 2 * PAGE);
	unmap();
}

static void scas_cmps_faults(void)
{
	word si, di, c;

	map_two();
	di = base + 2 * PAGE - 6;
	c = 100;
	TRY("", "repne scasb", : "+D"(di), "+c"(c) : "a"(3) : "cc");
	want_fault(PF, 0);
	want_equal(di, base + 2 * PAGE);
	want_equal(c, 94);
	/* Found before the end: no fault. */
	di = base + 2 * PAGE - 6;
	c = 100;
	TRY("", "repne scasb", : "+D"(di), "+c"(c) : "a"(0xfe) : "cc");
	want_none();
	want_equal(di, base + 2 * PAGE - 1);
	want_equal(c, 95);
	si = base + 2 * PAGE - 4;
	di = base + PAGE - 4;
	c = 100;
	TRY("", "repe cmpsb", : "+S"(si), "+D"(di), "+c"(c) : : "cc");
	want_fault(PF, 0);
	want_equal(si, base + 2 * PAGE);
	want_equal(di, base + PAGE);
	want_equal(c, 96);
	/* Count 0: no access, no fault, flags stay. */
	si = di = 0;
	c = 0;
	TRY("stc", "repe cmpsb; jnc 1f; jmp 2f; 1: ud2; 2:",
	    : "+S"(si), "+D"(di), "+c"(c)
	    :
	    : "cc");
	want_none();
	di = base + 2 * PAGE;
	TRY("", "rep stosb", : "+D"(di), "+c"(c) : "a"(0) : "memory");
	want_none();
	unmap();
}

/* INS checks the destination before the port is read. OUTS reads memory first. */
static void ins_outs_faults(void)
{
	word di, si, c;

	map_two();
	di = base + 2 * PAGE - 2;
	c = 4;
	TRY("", "rep insb", : "+D"(di), "+c"(c) : "d"(0x80) : "memory");
	want_fault(PF, 2);
	want_equal(di, base + 2 * PAGE);
	want_equal(c, 2);
	si = base + 2 * PAGE - 2;
	c = 4;
	TRY("", "rep outsb", : "+S"(si), "+c"(c) : "d"(0x80) : "memory");
	want_fault(PF, 0);
	want_equal(si, base + 2 * PAGE);
	want_equal(c, 2);
	/* A fault at the destination costs the device nothing: the 8254's counter 2, with
	 * GATE low, gives its two bytes by turns. */
	outb(0x61, 0);
	outb(0x43, 0xb0);
	outb(0x42, 0x34);
	outb(0x42, 0x12);
	di = base + 2 * PAGE;
	for (unsigned i = 0; i < 100000; i++) {
		outb(0x43, 0x80); /* latch; loading the count takes a clock */
		c = inb(0x42);
		c |= (word)inb(0x42) << 8;
		if (c == 0x1234)
			break;
	}
	want_equal(c, 0x1234);
	outb(0x43, 0x80);
	TRY("", "insb", : "+D"(di) : "d"(0x42) : "memory");
	want_fault(PF, 2);
	want_equal(inb(0x42), 0x34);
	want_equal(inb(0x42), 0x12);
	unmap();
}

/* Overlapping forward MOVS propagates; STOS and MOVS of all sizes over a page boundary.
 */
static void overlap(void)
{
	u8 model[64];
	volatile u8 *p;
	word si, di, c;

	map_two();
	p = (volatile u8 *)base;
	for (unsigned size = 1; size <= (W64 ? 8u : 4u); size *= 2) {
		for (unsigned i = 0; i < 64; i++)
			p[PAGE - 32 + i] = (u8)(i + 1);
		si = base + PAGE - 32;
		di = si + size;
		c = (64 - size) / size;
		switch (size) {
		case 1:
			__asm__ volatile("rep movsb"
					 : "+S"(si), "+D"(di), "+c"(c)
					 :
					 : "memory");
			break;
		case 2:
			__asm__ volatile("rep movsw"
					 : "+S"(si), "+D"(di), "+c"(c)
					 :
					 : "memory");
			break;
		case 4:
			__asm__ volatile("rep movsl"
					 : "+S"(si), "+D"(di), "+c"(c)
					 :
					 : "memory");
			break;
#if W64
		default:
			__asm__ volatile("rep movsq"
					 : "+S"(si), "+D"(di), "+c"(c)
					 :
					 : "memory");
			break;
#endif
		}
		want_equal(c, 0);
		for (unsigned i = 0; i < 64; i++)
			if (p[PAGE - 32 + i] != (u8)(i % size + 1))
				fail("size %u byte %u is %x", size, i, p[PAGE - 32 + i]);
	}
	/* By 1 with elements of 4: as the elements come one after the other. */
	for (unsigned i = 0; i < 64; i++)
		p[i] = model[i] = (u8)i;
	for (unsigned k = 0; k < 8; k++) {
		u8 element[4];

		for (unsigned i = 0; i < 4; i++)
			element[i] = model[4 * k + i];
		for (unsigned i = 0; i < 4; i++)
			model[4 * k + 1 + i] = element[i];
	}
	si = base;
	di = base + 1;
	c = 8;
	__asm__ volatile("rep movsl" : "+S"(si), "+D"(di), "+c"(c) : : "memory");
	for (unsigned i = 0; i < 64; i++)
		if (p[i] != model[i])
			fail("byte %u is %x want %x", i, p[i], model[i]);
	unmap();
}

#if W64
/* With 32-bit addresses ESI and EDI wrap, and the upper halves become 0. */
static void address_size(void)
{
	static u8 buffer[16];
	word di = (word)buffer | 0xdead00000000, c = 0x500000003;

	TRY("", "addr32 rep stosb", : "+D"(di), "+c"(c) : "a"(9) : "memory");
	want_none();
	want_equal(di, (word)buffer + 3);
	want_equal(c, 0);
	want_equal(((volatile u8 *)buffer)[2], 9);
	want_equal(((volatile u8 *)buffer)[3], 0);
	/* REP with ECX 0 of 32 bits: nothing, and RCX? It is kept. */
	c = 0x500000000;
	di = (word)buffer;
	TRY("", "addr32 rep stosb", : "+D"(di), "+c"(c) : "a"(9) : "memory");
	want_equal(di, (word)buffer);
}
#else
/* With 16-bit addresses CX counts and DI wraps; the upper halves stay. */
static void address_size16(void)
{
	static const u16 at[] = { 0x7000, 0x7ffe };
	word di, c;

	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		volatile u8 *p = (volatile u8 *)(word)at[i];
		u8 old[4];

		for (unsigned k = 0; k < 4; k++)
			old[k] = p[k];
		di = 0xdead0000 | at[i];
		c = 0x50003;
		TRY("", "addr16 rep stosb", : "+D"(di), "+c"(c) : "a"(9) : "memory");
		want_none();
		want_equal(di, 0xdead0003 + at[i]);
		want_equal(c, 0x50000);
		want_equal(p[2], 9);
		want_equal(p[3], old[3]);
		for (unsigned k = 0; k < 4; k++)
			p[k] = old[k];
	}
	di = 0xdead7000;
	c = 0x50003;
	TRY("", "addr16 rep lodsb", : "+S"(di), "+c"(c) : : "eax");
	want_equal(di, 0xdead7003);
	want_equal(c, 0x50000);
	c = 0x50000;
	di = 0x17000;
	TRY("", "addr16 rep stosb", : "+D"(di), "+c"(c) : "a"(9) : "memory");
	want_equal(di, 0x17000);
	want_equal(c, 0x50000);
}
#endif

/* LOCK on an operand that crosses a page, a cache line. */
static void lock_crossing(void)
{
	volatile u8 *p;
	u32 old;

	map_two();
	p = (volatile u8 *)base;
	for (unsigned at = PAGE - 3; at < PAGE; at++) {
		*(volatile u32 *)(base + at) = 0x11223344;
		__asm__ volatile("lock addl $0x01010101, %0"
				 : "+m"(*(u32 *)(base + at))
				 :
				 : "cc");
		want_equal(*(volatile u32 *)(base + at), 0x12233445);
		old = 5;
		__asm__ volatile("lock xaddl %0, %1"
				 : "+r"(old), "+m"(*(u32 *)(base + at))
				 :
				 : "cc");
		want_equal(old, 0x12233445);
		want_equal(*(volatile u32 *)(base + at), 0x1223344a);
		__asm__ volatile("xchgl %0, %1" : "+r"(old), "+m"(*(u32 *)(base + at)));
		want_equal(old, 0x1223344a);
		old = 0x12233445;
		__asm__ volatile("lock cmpxchgl %2, %1"
				 : "+a"(old), "+m"(*(u32 *)(base + at))
				 : "r"(77)
				 : "cc");
		want_equal(*(volatile u32 *)(base + at), 77);
	}
	for (unsigned at = PAGE - 7; at < PAGE; at++) {
		u32 lo = 1, hi = 2;

		*(volatile u32 *)(base + at) = 1;
		*(volatile u32 *)(base + at + 4) = 2;
		__asm__ volatile("lock cmpxchg8b %2"
				 : "+a"(lo), "+d"(hi), "+m"(*(u64 *)(base + at))
				 : "b"(3), "c"(4)
				 : "cc");
		want_equal(*(volatile u32 *)(base + at), 3);
		want_equal(*(volatile u32 *)(base + at + 4), 4);
	}
	/* One page read-only: nothing changes, also when CMPXCHG does not match. */
	*(volatile u32 *)(base + PAGE - 2) = 0x1234;
	next_entry[W64 ? 2 : 1] = (TEST_PA + PAGE) | P;
	flush_tlb();
	TRY("", "lock incl (%0)", : : "r"(base + PAGE - 2) : "memory", "cc");
	want_fault(PF, 3);
	want_equal(*(volatile u32 *)(base + PAGE - 2), 0x1234);
	TRY("", "lock cmpxchgl %%ecx, (%0)",
	    :
	    : "r"(base + PAGE), "a"(0x55), "c"(1)
	    : "memory", "cc");
	want_fault(PF, 3);
	/* BT with a register reaches far. */
	TRY("", "btl %1, (%0)", : : "r"(base), "r"(2 * PAGE * 8) : "cc");
	want_fault(PF, 0);
	TRY("", "btsl %1, (%0)", : : "r"(base), "r"(PAGE * 8) : "cc");
	want_fault(PF, 3);
	(void)p;
	unmap();
}

#if W64
static void cmpxchg16b(void)
{
	static u64 pair[4] __attribute__((aligned(16)));
	u64 lo = 1, hi = 2;

	if (!HAS(1, 0, c, 13)) {
		skip("no CMPXCHG16B");
		return;
	}
	((volatile u64 *)pair)[0] = 1;
	((volatile u64 *)pair)[1] = 2;
	__asm__ volatile("lock cmpxchg16b %2"
			 : "+a"(lo), "+d"(hi), "+m"(pair[0])
			 : "b"(3ul), "c"(4ul)
			 : "cc", "memory");
	want_equal(((volatile u64 *)pair)[0], 3);
	want_equal(((volatile u64 *)pair)[1], 4);
	TRY("", "lock cmpxchg16b (%0)",
	    :
	    : "r"((u8 *)pair + 8), "a"(0l), "d"(0l), "b"(0l), "c"(0l)
	    : "cc", "memory");
	want_fault(GP, 0);
}
#endif

/*
 * Instructions of several accesses leave the stack pointer where it was when one of them
 * faults. At CPL 3, as the trap needs a stack; below 'base' there is nothing.
 */
#define STACK_FAULT(sp, insn)                                                            \
	TRY("mov %0, %%" W_SP, insn,                                                     \
	    :                                                                            \
	    : "r"(sp), "r"(user_offset(base + 2 * PAGE))                                 \
	    : "memory")

static word stack_faults_user(word arg)
{
	word low = user_offset(base), high = user_offset(base + 2 * PAGE);

	(void)arg;
	STACK_FAULT(low + 2, "push %1");
	want_fault(PF, 6);
	want_equal(trap.sp, low + 2);
	STACK_FAULT(low, "call 1f; 1:");
	want_fault(PF, 6);
	want_equal(trap.sp, low);
	STACK_FAULT(high - 2, "pop %1");
	want_fault(PF, 4);
	want_equal(trap.sp, high - 2);
	STACK_FAULT(high, "ret");
	want_fault(PF, 4);
	want_equal(trap.sp, high);
	/* POP m: the address faults, not the stack; PUSH m: either. */
	STACK_FAULT(low + 64, "pop (%1)");
	want_fault(PF, 6);
	want_equal(trap.sp, low + 64);
	want_equal(trap.cr2, base + 2 * PAGE);
	STACK_FAULT(low + 64, "push (%1)");
	want_fault(PF, 4);
	want_equal(trap.sp, low + 64);
	STACK_FAULT(low + 64, "call *(%1)");
	want_fault(PF, 4);
	want_equal(trap.sp, low + 64);
	STACK_FAULT(low + 2, "enter $0, $0");
	want_fault(PF, 6);
	want_equal(trap.sp, low + 2);
	/* The new top is looked at too. */
	STACK_FAULT(low + 64, "enter $128, $0");
	want_fault(PF, 6);
	want_equal(trap.sp, low + 64);
	STACK_FAULT(low + 2, "pushf");
	want_fault(PF, 6);
	STACK_FAULT(high, "popf");
	want_fault(PF, 4);
#if !W64
	STACK_FAULT(low + 16, "pusha");
	want_fault(PF, 6);
	want_equal(trap.sp, low + 16);
	STACK_FAULT(high - 16, "popa");
	want_fault(PF, 4);
	want_equal(trap.sp, high - 16);
#endif
	return 0;
}

static void stack_faults(void)
{
	map_two();
	user_run(stack_faults_user, 0);
	unmap();
}

/* POP m takes the address after the increment of the stack pointer. */
static void pop_to_the_stack(void)
{
	static word seen[2];

	__asm__ volatile("push $5\n\t"
			 "push $7\n\t"
			 "pop (%%" W_SP ")\n\t" /* over the 5 */
			 "pop %0\n\t"
			 "push $9\n\t"
			 "push (%%" W_SP ")\n\t"
			 "pop %1\n\t"
			 "add %2, %%" W_SP
			 : "=m"(seen[0]), "=m"(seen[1])
			 : "i"(sizeof(word))
			 : "memory", "cc");
	want_equal(seen[0], 7);
	want_equal(seen[1], 9);
}

/* ---- each instruction, size, direction and side ---- */

enum { SRC = 1, DST = 2, DST_WRITE = 4, PORT = 8 };

struct rep {
	const char *name;
	u8 prefix, op, what;
	u8 fill,
		other; /* of the mapped pages, of the other operand and the accumulator */
};

static u8 rep_code[16];
static u8 rep_other[512];

static void rep_build(const struct rep *r, unsigned size, bool down)
{
	volatile u8 *p = rep_code;

	*p++ = down ? 0xfd : 0xfc;
	if (size == 2)
		*p++ = 0x66;
	*p++ = r->prefix;
	if (size == 8)
		*p++ = 0x48;
	*p++ = (u8)(r->op | (size > 1));
	*p = 0xc3;
}

/* 'off': bytes of the element that faults which are still in the mapped pages. */
static void rep_row(const struct rep *r, unsigned size, bool down, bool src, unsigned off)
{
	word step = down ? -(word)size : size, at, c = 10, si, di, cr2;
	volatile u8 *edge; /* the bytes of it that are mapped */
	bool write = !src && (r->what & DST_WRITE);

	/* The element that faults is the fourth. */
	at = down ? base - size + off : base + 2 * PAGE - off;
	edge = (volatile u8 *)(down ? base : base + 2 * PAGE - off);
	cr2 = down ? at : base + 2 * PAGE;
	for (unsigned i = 0; i < 2 * PAGE; i++)
		if (i < 64 || i >= 2 * PAGE - 64)
			((volatile u8 *)base)[i] = r->fill;
	for (unsigned i = 0; i < sizeof(rep_other); i++)
		((volatile u8 *)rep_other)[i] = r->other;
	si = src ? at - 3 * step : (word)rep_other + 256;
	di = src ? (word)rep_other + 256 : at - 3 * step;
	rep_build(r, size, down);
	TRY("", "call *%[code]",
	    : "+S"(si), "+D"(di), "+c"(c)
	    : [code] "b"(rep_code), "a"(r->other == 0xff ? (word)-1 : 0l), "d"(0x80l)
	    : "memory", "cc");
	want_vector(PF, write ? 2 : 0);
	want_equal(trap.ip, (word)rep_code + 1);
	want_equal(trap.cr2, cr2);
	want_equal(c, 7);
	if (src || !(r->what & PORT))
		want_equal(src ? si : di, at);
	if ((r->what & (SRC | DST)) == (SRC | DST))
		want_equal(src ? di : si, (word)rep_other + 256 + 3 * step);
	/* Nothing of it has been stored. */
	for (unsigned i = 0; i < off && write; i++)
		want_equal(edge[i], r->fill);
	if (write && !(r->what & PORT))
		want_equal(*(volatile u8 *)(at - step), r->other);
}

static void rep_table(void)
{
	static const struct rep table[] = {
		{ "REP MOVS", 0xf3, 0xa4, SRC | DST | DST_WRITE, 0x11, 0x22 },
		{ "REP STOS", 0xf3, 0xaa, DST | DST_WRITE, 0x11, 0 },
		{ "REP LODS", 0xf3, 0xac, SRC, 0, 0 },
		{ "REPE SCAS", 0xf3, 0xae, DST, 0, 0 },
		{ "REPNE SCAS", 0xf2, 0xae, DST, 0, 0xff },
		{ "REPE CMPS", 0xf3, 0xa6, SRC | DST, 0x33, 0x33 },
		{ "REPNE CMPS", 0xf2, 0xa6, SRC | DST, 0x33, 0x44 },
		{ "REP INS", 0xf3, 0x6c, DST | DST_WRITE | PORT, 0x11, 0 },
		{ "REP OUTS", 0xf3, 0x6e, SRC | PORT, 0, 0 },
	};

	map_two();
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		for (unsigned n = 0; n < 4 * 2 * 2; n++) {
			const struct rep *r = &table[i];
			unsigned size = 1u << (n & 3);
			bool down = n & 4, src = n & 8;

			if (!(r->what & (src ? SRC : DST)) || (!W64 && size == 8) ||
			    ((r->what & PORT) && size == 8))
				continue;
			row("%s, %u bytes, %s, the %s faults", r->name, size,
			    down ? "down" : "up", src ? "source" : "destination");
			for (unsigned off = 0; off < size; off++)
				rep_row(r, size, down, src, off);
		}
	unmap();
}

const struct test_case cases[] = {
	CASE(stos_faults, "SDM 2 REP"),      CASE(movs_faults, "SDM 2 REP"),
	CASE(scas_cmps_faults, "SDM 2 REP"), CASE(ins_outs_faults, "SDM 2 INS, OUTS"),
	CASE(overlap, "SDM 2 MOVS"),         CASE(rep_table, "SDM 2 REP"),
#if W64
	CASE(address_size, "SDM 2 REP"),     CASE(cmpxchg16b, "SDM 2 CMPXCHG16B"),
#else
	CASE(address_size16, "SDM 2 REP"),
#endif
	CASE(lock_crossing, "SDM 3 8.1.2"),  CASE(stack_faults, "SDM 2 PUSH, ENTER"),
	CASE(pop_to_the_stack, "SDM 2 POP"), CASES_END,
};
