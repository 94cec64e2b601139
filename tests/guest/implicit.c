/*
 * Implicit supervisor accesses: descriptor tables and the TSS in pages with every
 * combination of rights, used from CPL 0 and 3.
 *
 * SDM volume 3 sections 4.6.1 (implicit accesses are supervisor's whatever CPL is, and
 * EFLAGS.AC does not help them against SMAP), 4.6.2 (keys), 4.7 (error code), 4.8 (A and
 * D). The oracle is written from there.
 */
#include "page.h"

/* Two pages at path.va; the tested entry is one of theirs. */
#define PAGE1    (path.va + 0x1000)
#define MY_TSS   (FREE_SEL + 0x40)
#define INT_READ 0x90

enum op {
	OP_SEG,   /* reads a descriptor */
	OP_SEG_A, /* and sets its accessed bit */
	OP_LAR,
	OP_LTR,  /* sets the busy bit */
	OP_IDT,  /* reads a gate */
	OP_IO,   /* reads the I/O bitmap */
	OP_RSP0, /* reads a stack pointer */
	OPS,
};

struct row {
	enum op op;
	u64 entry;
	bool user, smap, ac, wp, pke, pks;
	u32 rights; /* of key 1 */
};

static bool writes(enum op op)
{
	return op == OP_SEG_A || op == OP_LTR;
}

static bool key_denies(const struct row *r, bool write)
{
	bool on = r->entry & US ? r->pke : r->pks;

	if (!on || (r->entry >> 59 & 15) != 1)
		return false;
	return (r->rights & 1) || (write && (r->rights & 2) && r->wp);
}

/* The error code, or -1. */
static int access_oracle(const struct row *r, bool write)
{
	int code = write << 1;

	if (!(r->entry & P))
		return code;
	if (r->entry & BIT(51))
		return code | 9;
	if (((r->entry & US) && r->smap) || (write && !(r->entry & RW) && r->wp))
		return code | 1 | (key_denies(r, write) ? 1 << 5 : 0);
	if (key_denies(r, write))
		return code | 1 | 1 << 5;
	return -1;
}

static int oracle(const struct row *r)
{
	int code = access_oracle(r, false);

	return code < 0 && writes(r->op) ? access_oracle(r, true) : code;
}

/* ---- the tables in the pages ---- */

static volatile u64 *leaf(unsigned page)
{
	return (volatile u64 *)path.entry[path.levels - 1] + page;
}

static unsigned tested_page(enum op op)
{
	return op == OP_RSP0 ? 0 : 1;
}

static void put64(u64 at, u64 val)
{
	*(volatile u64 *)PHYS(TEST_PA + at) = val;
}

static void load_table(bool idt, u16 limit, word base)
{
	struct table t = { limit, base };

	if (idt)
		__asm__ volatile("lidt %0" : : "m"(t));
	else
		__asm__ volatile("lgdt %0" : : "m"(t));
}

/* What the kernel needs, vectors up to 87h too, stays in the page that is not tested. */
static void place(enum op op)
{
	struct table t;

	switch (op) {
	case OP_SEG:
	case OP_SEG_A:
	case OP_LAR:
	case OP_LTR:
		for (unsigned i = 0; i < GDT_BYTES / 8; i++)
			put64(0x1000 - FREE_SEL + 8 * i, gdt[i]);
		put64(0x1000,
		      descriptor(0, 0xfffff,
				 (op == OP_SEG_A ? D_KDATA & ~D_A : D_KDATA) | D_DPL(3)));
		put64(0x1000 + 0x40,
		      descriptor((u32)(word)&tss, TSS_SIZE - 1, D_TYPE(9) | D_P));
		put64(0x1000 + 0x48, 0);
		load_table(false, GDT_BYTES - 1, PAGE1 - FREE_SEL);
		break;
	case OP_IDT:
		__asm__ volatile("sidt %0" : "=m"(t));
		for (unsigned i = 0; i < 512; i++)
			put64(0x1000 - 0x880 + 8 * i, ((volatile u64 *)t.base)[i]);
		load_table(true, 0xfff, PAGE1 - 0x880);
		break;
	default: {
		/* The I/O bitmap behind the page, or RSP0 before it and IST1 behind. */
		unsigned before = op == OP_IO ? 0x68 : 0x10;

		for (unsigned i = 0; i < 0x200; i++)
			*PHYS(TEST_PA + 0x1000 - before + i) = 0;
		*(volatile u64 *)PHYS(TEST_PA + 0x1000 - before + 4) = tss.rsp[0];
		*(volatile u64 *)PHYS(TEST_PA + 0x1000 - before + 0x24) =
			tss.rsp[0] - STACK_SIZE / 2;
		*(volatile u16 *)PHYS(TEST_PA + 0x1000 - before + 0x66) = 0x68;
		set_gdt(MY_TSS,
			descriptor((u32)(PAGE1 - before), 0x100, D_TYPE(9) | D_P));
		set_gdt(MY_TSS + 8, (PAGE1 - before) >> 32);
		__asm__ volatile("ltr %w0" : : "r"(MY_TSS));
		set_gate(PF, trap_entry[PF], KCODE, D_TYPE(14) | D_P, op == OP_RSP0);
		set_gate(EXIT_VECTOR, trap_entry[EXIT_VECTOR], KCODE,
			 D_TYPE(14) | D_DPL(3) | D_P, op == OP_RSP0);
		break;
	}
	}
}

static void restore(enum op op)
{
	if (op <= OP_LTR)
		load_gdt();
	if (op == OP_IDT)
		load_idt();
	if (op >= OP_LTR)
		load_tss();
	reset_gate(PF);
	reset_gate(EXIT_VECTOR);
}

/* ---- the access ---- */

#define DO(insn)                                                                         \
	(arg & 0x100 ? TRY("pushf; orq $0x40000, (%%rsp); popf",                         \
			   insn "; pushf; andq $~0x40000, (%%rsp); popf",                \
			   :                                                             \
			   : "b"(FREE_SEL | 3), "c"(MY_TSS), "d"(0)                      \
			   : "rax", "memory", "cc")                                      \
		     : TRY("", insn,                                                     \
			   :                                                             \
			   : "b"(FREE_SEL | 3), "c"(MY_TSS), "d"(0)                      \
			   : "rax", "memory", "cc"))

static NOINLINE word run(word arg)
{
	switch ((enum op)(arg & 0xff)) {
	case OP_SEG:
	case OP_SEG_A: return DO("mov %%ebx, %%fs");
	case OP_LAR: return DO("lar %%ebx, %%eax");
	case OP_LTR: return DO("ltr %%cx");
	case OP_IO: return DO("inb %%dx, %%al");
	default: return DO("int $0x90");
	}
}

static void check(const struct row *r)
{
	unsigned page = tested_page(r->op);
	word arg = (word)r->op | (r->ac ? 0x100 : 0), success;
	int expected = oracle(r), got;
	u64 after;

	success = r->op == OP_IDT || r->op == OP_RSP0 ? INT_READ : NONE;
	place(r->op);
	*leaf(page) = r->entry;
	invlpg((void *)(path.va + 0x1000 * page));
	write_cr0((read_cr0() & ~(word)CR0_WP) | (r->wp ? CR0_WP : 0));
	write_cr4(read_cr4() | (r->smap ? CR4_SMAP : 0) | (r->pke ? CR4_PKE : 0) |
		  (r->pks ? CR4_PKS : 0));
	if (r->user)
		user_run(run, arg);
	else
		run(arg);
	write_cr4(read_cr4() & ~(word)(CR4_SMAP | CR4_PKE | CR4_PKS));
	after = *leaf(page);
	*leaf(page) = TEST_PA + 0x1000 * page + (P | RW);
	invlpg((void *)(path.va + 0x1000 * page));
	restore(r->op);
	got = trap.vector == success ? -1 : (int)trap.error;
	matrix_done++;
	if ((trap.vector != success && trap.vector != PF) || got != expected)
		fail("op %u entry %llx user %u smap %u ac %u wp %u pke %u pks %u rights "
		     "%x: vector %lx error %lx cr2 %lx, want %x",
		     r->op, r->entry, r->user, r->smap, r->ac, r->wp, r->pke, r->pks,
		     r->rights, trap.vector, trap.error, trap.cr2, (unsigned)expected);
	else if (got < 0 && (!(after & A) || !(after & D) != !writes(r->op)))
		fail("op %u entry %llx: the entry became %llx", r->op, r->entry, after);
	else if (got >= 0 && (after & D))
		fail("op %u entry %llx: D was set by what faulted", r->op, r->entry);
}

static void setup(void)
{
	paging_on(PAGING_4, true);
	path_set(3, TEST_PA, P | RW);
	*leaf(1) = (TEST_PA + 0x1000) | P | RW;
	flush_tlb();
}

static void rights(enum op op, bool user)
{
	setup();
	for (unsigned n = 0; n < 128 && !failed(); n++) {
		struct row r = { .op = op, .user = user };

		r.entry = (TEST_PA + 0x1000 * tested_page(op)) | (n & 7);
		if (n & 8)
			r.entry |= NX;
		if (n & 16 && phys_bits() < 52 && (n & 1))
			r.entry |= BIT(51);
		r.smap = n & 32;
		r.ac = n & 64;
		if (r.smap && !HAS_SMAP)
			continue;
		for (unsigned wp = 0; wp < 2; wp++) {
			r.wp = wp;
			check(&r);
		}
	}
	paging_on(PAGING_4, true);
}

static void keys(enum op op, bool user)
{
	setup();
	for (unsigned n = 0; n < 64 && !failed(); n++) {
		struct row r = { .op = op, .user = user, .rights = n & 3 };

		r.pke = n & 4;
		r.pks = n & 8;
		r.wp = n & 16;
		r.entry = (TEST_PA + 0x1000 * tested_page(op)) | P | RW |
			  (n & 32 ? US : 0) | PK(1);
		if ((r.pke && !HAS_PKU) || (r.pks && !HAS_PKS))
			continue;
		if (r.pke) {
			write_cr4(read_cr4() | CR4_PKE);
			__asm__ volatile("wrpkru" : : "a"(r.rights << 2), "c"(0), "d"(0));
		}
		if (r.pks)
			wrmsr(0x6e1, r.rights << 2);
		check(&r);
		if (r.pke) {
			write_cr4(read_cr4() | CR4_PKE);
			__asm__ volatile("wrpkru" : : "a"(0), "c"(0), "d"(0));
			write_cr4(read_cr4() & ~(word)CR4_PKE);
		}
		if (r.pks)
			wrmsr(0x6e1, 0);
	}
	paging_on(PAGING_4, true);
}

#define OP_CASES(name, op, user, supervisor)                                             \
	static void name(void)                                                           \
	{                                                                                \
		if (supervisor) {                                                        \
			rights(op, false);                                               \
			keys(op, false);                                                 \
		}                                                                        \
		if (user) {                                                              \
			rights(op, true);                                                \
			keys(op, true);                                                  \
		}                                                                        \
	}
OP_CASES(segment_load, OP_SEG, true, true)
OP_CASES(accessed_bit, OP_SEG_A, true, true)
OP_CASES(inspection, OP_LAR, true, true)
OP_CASES(busy_bit, OP_LTR, false, true)
OP_CASES(gate, OP_IDT, true, true)
OP_CASES(io_bitmap, OP_IO, true, false)
OP_CASES(inner_stack, OP_RSP0, true, false)

const struct test_case cases[] = {
	CASE(segment_load, "SDM 3 4.6.1"), CASE(accessed_bit, "SDM 3 4.6.1"),
	CASE(inspection, "SDM 3 4.6.1"),   CASE(busy_bit, "SDM 3 4.6.1"),
	CASE(gate, "SDM 3 4.6.1"),         CASE(io_bitmap, "SDM 3 4.6.1"),
	CASE(inner_stack, "SDM 3 4.6.1"),  CASES_END,
};
