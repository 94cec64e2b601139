/*
 * Hardware task switches of 32-bit protected mode: by CALL, JMP, interrupt, IRET; what
 * they save and load, and how they fail. SDM volume 3 chapter 7.
 */
#include "page.h"

#define SEL_A FREE_SEL        /* the other task */
#define SEL_G (FREE_SEL + 8)  /* a task gate to it */
#define SEL_B (FREE_SEL + 16) /* another */
#define SEL_X (FREE_SEL + 24)
#define VEC   0x81

static struct tss other, third;
static u8 other_stack[4096] __attribute__((aligned(16)));
static volatile u32 seen[16];

static u32 type_of(unsigned sel)
{
	return (u32)(((volatile u64 *)gdt)[sel / 8] >> 40) & 0xff;
}

/* The other task: notes its registers, changes some, and goes back by IRET (NT) or JMP.
 */
void other_task(void);
void other_task_jmp(void);
void other_task_error(void);
__asm__(".text\n"
	"other_task:\n\t"
	"mov %eax, seen\n\t"
	"mov %ebx, seen + 4\n\t"
	"mov %esp, seen + 8\n\t"
	"pushf\n\t"
	"pop seen + 12\n\t"
	"str seen + 16\n\t"
	"mov %cr0, %eax\n\t"
	"mov %eax, seen + 20\n\t"
	"mov $0x777, %eax\n\t"
	"iret\n\t"
	"jmp other_task\n"
	"other_task_jmp:\n\t"
	"pushf\n\t"
	"pop seen + 12\n\t"
	"ljmp $0x38, $0\n\t" /* TSS_SEL */
	"jmp other_task_jmp\n"
	"other_task_error:\n\t"
	"pop seen + 24\n\t"
	"mov %esp, seen + 8\n\t"
	"call skip_fault\n\t"
	"iret\n\t"
	"jmp other_task_error\n");

static void make_task(struct tss *t, unsigned sel, void (*entry)(void))
{
	*t = (struct tss){ 0 };
	t->eip = (u32)entry;
	t->eflags = 2;
	t->reg[4] = (u32)other_stack + sizeof(other_stack);
	t->reg[0] = 0xaaaa;
	t->reg[3] = 0xbbbb;
	t->cs = KCODE;
	t->ds = t->es = t->ss = KDATA;
	t->cr3 = read_cr3();
	t->iomap = sizeof(*t);
	set_gdt(sel, descriptor((u32)t, sizeof(*t) - 1, D_TYPE(9) | D_P));
}

static void setup(void)
{
	make_task(&other, SEL_A, other_task);
	make_task(&third, SEL_B, other_task);
	/* A task gate: only the selector counts. */
	set_gdt(SEL_G, (u64)SEL_A << 16 | (u64)(D_TYPE(5) | D_P | D_DPL(3)) << 32);
	for (unsigned i = 0; i < ARRAY_SIZE(seen); i++)
		seen[i] = 0;
	__asm__ volatile("clts");
}

static void check_nested(void)
{
	want_equal(seen[0], 0xaaaa);
	want_equal(seen[1], 0xbbbb);
	want_equal(seen[2], (u32)other_stack + sizeof(other_stack));
	want(seen[3] & FL_NT);
	want_equal(seen[4] & 0xffff, SEL_A);
	/* TS is set by a switch. */
	want(seen[5] & 8);
	/* The link, and both busy while nested; not the other when it is left. */
	want_equal(*(volatile u16 *)&other.link, TSS_SEL);
	want_equal(type_of(SEL_A), 0x89);
	want_equal(type_of(TSS_SEL), 0x8b);
	/* What IRET saved. */
	want_equal(*(volatile u32 *)&other.reg[0], 0x777);
	want(!(*(volatile u32 *)&other.eflags & FL_NT));
	want_equal(read_flags() & FL_NT, 0);
}

static void call_tss(void)
{
	u32 a = 0x1234, b = 0x5678;

	setup();
	__asm__ volatile("lcall %2, $0" : "+a"(a), "+b"(b) : "i"(SEL_A) : "memory", "cc");
	/* Our registers come back. */
	want_equal(a, 0x1234);
	want_equal(b, 0x5678);
	check_nested();
	/* A second time it goes on behind its IRET. */
	setup();
	__asm__ volatile("lcall %0, $0\n\tlcall %0, $0" : : "i"(SEL_A) : "memory", "cc");
	want_equal(seen[0], 0x777);
	want_equal(seen[1], 0xbbbb);
}

static void call_gate(void)
{
	setup();
	__asm__ volatile("lcall %0, $0x1234" : : "i"(SEL_G) : "memory", "cc");
	check_nested();
}

static word call_user(word arg)
{
	(void)arg;
	__asm__ volatile("lcall %0, $0" : : "i"(SEL_G | 3) : "memory", "cc");
	return 5;
}

/* From level 3 through a gate of DPL 3; the TSS itself has DPL 0. */
static word call_user_tss(word arg)
{
	(void)arg;
	return TRY("", "lcall %0, $0", : : "i"(SEL_A | 3) : "memory", "cc");
}

static void from_user(void)
{
	setup();
	want_equal(user_run(call_user, 0), 5);
	check_nested();
	setup();
	want_equal(user_run(call_user_tss, 0), GP);
	want_fault(GP, SEL_A);
}

static void by_interrupt(void)
{
	setup();
	set_gate(VEC, 0, SEL_A, D_TYPE(5) | D_P | D_DPL(3), 0);
	__asm__ volatile("int %0" : : "i"(VEC) : "memory", "cc");
	check_nested();
	reset_gate(VEC);
}

/*
 * An exception with an error code pushes it on the new task's stack. The task returns to
 * the instruction that faulted: it skips that by the saved EIP.
 */
extern const u8 gp_behind[];
void skip_fault(void);
void skip_fault(void)
{
	*(volatile u32 *)&tss.eip = (u32)gp_behind;
}

static void by_exception(void)
{
	setup();
	make_task(&other, SEL_A, other_task_error);
	set_gate(GP, 0, SEL_A, D_TYPE(5) | D_P, 0);
	__asm__ volatile("mov %w0, %%es\n"
			 "gp_behind:"
			 :
			 : "r"(GDT_BYTES)
			 : "memory");
	want_equal(seen[6], GDT_BYTES);
	want_equal(seen[2], (u32)other_stack + sizeof(other_stack));
	/* INT n to the same vector pushes none. */
	make_task(&other, SEL_A, other_task);
	set_gate(GP, 0, SEL_A, D_TYPE(5) | D_P | D_DPL(3), 0);
	__asm__ volatile("int %0" : : "i"(GP) : "memory", "cc");
	check_nested();
	reset_gate(GP);
}

/* JMP does not nest: the old task is no longer busy, and no NT, no link. */
static void jmp_tss(void)
{
	u32 t;

	setup();
	make_task(&other, SEL_A, other_task_jmp);
	__asm__ volatile("ljmp %1, $0\n\tmov $9, %0"
			 : "=&b"(t)
			 : "i"(SEL_A)
			 : "memory", "cc");
	want_equal(t, 9);
	want_equal(seen[3] & FL_NT, 0);
	want_equal(*(volatile u16 *)&other.link, 0);
	want_equal(type_of(SEL_A), 0x89);
	want_equal(type_of(TSS_SEL), 0x8b);
}

static void refused(void)
{
	setup();
	/* Busy, not present, too small, not a TSS. */
	set_gdt(SEL_A, descriptor((u32)&other, 0x66, D_TYPE(9) | D_P));
	TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory");
	want_fault(TS, SEL_A);
	set_gdt(SEL_A, descriptor((u32)&other, 0x67, D_TYPE(9)));
	TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory");
	want_fault(NP, SEL_A);
	set_gdt(SEL_A, descriptor((u32)&other, 0x67, D_TYPE(11) | D_P));
	TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory");
	want_fault(GP, SEL_A);
	TRY("", "lcall %0, $0", : : "i"(SEL_G) : "memory");
	want_fault(GP, SEL_A);
	set_gdt(SEL_G, (u64)KDATA << 16 | (u64)(D_TYPE(5) | D_P) << 32);
	TRY("", "lcall %0, $0", : : "i"(SEL_G) : "memory");
	want_fault(GP, KDATA);
	set_gdt(SEL_G, (u64)SEL_A << 16 | (u64)D_TYPE(5) << 32);
	TRY("", "lcall %0, $0", : : "i"(SEL_G) : "memory");
	want_fault(NP, SEL_G);
	/* IRET with NT: the link must be a busy TSS. */
	*(volatile u16 *)&tss.link = SEL_B;
	TRY("pushf; orl $0x4000, (%%esp); popf", "iret", : : : "memory", "cc");
	want_fault(TS, SEL_B);
	*(volatile u16 *)&tss.link = 0;
	want_equal(type_of(TSS_SEL), 0x8b);
}

/*
 * Faults in the new task: it has been entered, and is the one that a handler finds. The
 * handler here is a third task, which makes the second one good and returns to it; it
 * returns to ours.
 */
static volatile u32 bad_error, bad_link, bad_eip, bad_count;
void bad_handler(u32 error);
void bad_task(void);
__asm__(".text\n"
	"bad_task:\n\t"
	"call bad_handler\n\t"
	"add $4, %esp\n\t"
	"iret\n\t"
	"jmp bad_task\n");

void bad_handler(u32 error)
{
	(void)error;
	bad_error = *(volatile u32 *)(other_stack + 1024 - 4);
	bad_link = *(volatile u16 *)&third.link;
	bad_eip = *(volatile u32 *)&other.eip;
	bad_count++;
	other.cs = KCODE;
	other.ss = other.ds = other.es = KDATA;
	other.fs = other.gs = 0;
	other.ldt = 0;
}

static void bad_state(void)
{
	static const struct {
		u32 offset;
		u16 val, vector, error;
		u32 attr; /* of SEL_X; 0: data that is not present */
	} table[] = {
		{ offsetof(struct tss, cs), 0, TS, 0, 0 },
		{ offsetof(struct tss, cs), KDATA, TS, KDATA, 0 },
		{ offsetof(struct tss, cs), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, cs), UCODE32 & ~3, TS, UCODE32 & ~3, 0 },
		{ offsetof(struct tss, ss), 0, TS, 0, 0 },
		{ offsetof(struct tss, ss), KCODE, TS, KCODE, 0 },
		{ offsetof(struct tss, ss), UDATA, TS, UDATA & ~3, 0 },
		{ offsetof(struct tss, ss), SEL_X, SS, SEL_X, 0 },
		{ offsetof(struct tss, ds), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, ds), SEL_X, NP, SEL_X, 0 },
		{ offsetof(struct tss, es), TSS_SEL, TS, TSS_SEL, 0 },
		/* SDM 3 table 7-1: each segment, each reason. */
		{ offsetof(struct tss, cs), SEL_X, NP, SEL_X, D_KCODE & ~D_P },
		{ offsetof(struct tss, cs), SEL_X, TS, SEL_X, D_KCODE | D_DPL(1) },
		{ offsetof(struct tss, cs), SEL_X, TS, SEL_X, D_KCODE | D_C | D_DPL(1) },
		{ offsetof(struct tss, cs), SEL_X, TS, SEL_X, D_TYPE(2) | D_P },
		{ offsetof(struct tss, cs), 0xc, TS, 0xc, 0 },
		{ offsetof(struct tss, ss), SEL_X, TS, SEL_X, D_KDATA & ~D_W },
		{ offsetof(struct tss, ss), SEL_X, TS, SEL_X, D_KDATA | D_DPL(1) },
		{ offsetof(struct tss, ss), SEL_X | 1, TS, SEL_X, D_KDATA | D_DPL(1) },
		{ offsetof(struct tss, ss), KDATA | 3, TS, KDATA, 0 },
		{ offsetof(struct tss, ss), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, ss), SEL_X, TS, SEL_X, D_TYPE(9) | D_P },
		{ offsetof(struct tss, ds), SEL_X, TS, SEL_X, D_KCODE & ~D_R },
		{ offsetof(struct tss, ds), KDATA | 3, TS, KDATA, 0 },
		{ offsetof(struct tss, ds), SEL_X, TS, SEL_X, D_TYPE(12) | D_P },
		{ offsetof(struct tss, es), SEL_X, NP, SEL_X, 0 },
		{ offsetof(struct tss, es), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, fs), SEL_X, NP, SEL_X, 0 },
		{ offsetof(struct tss, fs), TSS_SEL, TS, TSS_SEL, 0 },
		{ offsetof(struct tss, fs), 0xc, TS, 0xc, 0 },
		{ offsetof(struct tss, gs), SEL_X, NP, SEL_X, 0 },
		{ offsetof(struct tss, gs), SEL_X, TS, SEL_X, D_KCODE & ~D_R },
		{ offsetof(struct tss, gs), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, ldt), SEL_X, TS, SEL_X, D_TYPE(2) },
		{ offsetof(struct tss, ldt), GDT_BYTES, TS, GDT_BYTES, 0 },
		{ offsetof(struct tss, ldt), KDATA, TS, KDATA, 0 },
		{ offsetof(struct tss, ldt), 0xc, TS, 0xc, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		row("entry %u: %x at %x of the TSS is vector %u", i, table[i].val,
		    table[i].offset, table[i].vector);
		setup();
		set_gdt(SEL_X,
			descriptor(0, 0xfffff,
				   (table[i].attr ? table[i].attr : D_KDATA & ~D_P) |
					   D_DB | D_G));
		checked();
		*(volatile u16 *)((u8 *)&other + table[i].offset) = table[i].val;
		make_task(&third, SEL_B, bad_task);
		third.reg[4] = (u32)other_stack + 1024;
		bad_count = 0;
		set_gate(table[i].vector, 0, SEL_B, D_TYPE(5) | D_P, 0);
		__asm__ volatile("lcall %0, $0" : : "i"(SEL_A) : "memory", "cc");
		reset_gate(table[i].vector);
		if (bad_count != 1 || bad_error != table[i].error || bad_link != SEL_A ||
		    bad_eip != (u32)other_task)
			fail("entry %u: %u faults, error %x, in task %x at %x", i,
			     bad_count, bad_error, bad_link, bad_eip);
		/* Its NT was saved with it, so it found its way back. */
		want_equal(seen[0], 0xaaaa);
	}
}

/* A 16-bit TSS (SDM 3 section 7.6): what it loads, and what is saved in it. */
static u16 tss16[0x2c / 2];
static volatile u32 seen16[6];
void task16(void);
__asm__(".text\n"
	"task16:\n\t"
	"mov %eax, seen16\n\t"
	"mov %edi, seen16 + 4\n\t"
	"mov %esp, seen16 + 8\n\t"
	"mov %fs, %eax\n\t"
	"mov %eax, seen16 + 12\n\t"
	"pushf\n\t"
	"pop seen16 + 16\n\t"
	"mov $0x4321, %eax\n\t"
	"iret\n"
	"task16_behind:\n\t"
	"iret\n");
extern const u8 task16_behind[];

static void tss_16bit(void)
{
	volatile u16 *t = tss16;

	for (unsigned how = 0; how < 2; how++) {
		setup();
		for (unsigned i = 0; i < ARRAY_SIZE(tss16); i++)
			t[i] = 0;
		t[0x10 / 2] = 2;
		t[0x12 / 2] = 0x1234; /* AX */
		t[0x20 / 2] = 0x5678; /* DI */
		t[0x1a / 2] = 0x800;  /* SP */
		t[0x22 / 2] = t[0x28 / 2] = KDATA;
		t[0x24 / 2] = SEL_B;
		t[0x26 / 2] = SEL_X;
		set_gdt(SEL_X, descriptor((u32)other_stack, 0xffff, D_KDATA));
		set_gdt(SEL_B, descriptor((u32)task16, 0xffff, D_KCODE | D_DB));
		set_gdt(SEL_A, descriptor((u32)tss16, 0x2b - how, D_TYPE(1) | D_P));
		TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory", "cc");
		/* 2Bh is the least limit. */
		if (how) {
			want_fault(TS, SEL_A);
			continue;
		}
		want_none();
		want_equal(seen16[0] & 0xffff, 0x1234);
		want_equal(seen16[1] & 0xffff, 0x5678);
		want_equal(seen16[2] & 0xffff, 0x800);
		want_equal(seen16[3] & 0xffff, 0);
		want(seen16[4] & FL_NT);
		want_equal(t[0], TSS_SEL);
		want_equal(t[0x12 / 2], 0x4321);
		want_equal(t[0x0e / 2], (u16)((u32)task16_behind - (u32)task16));
		want(!(t[0x10 / 2] & FL_NT));
		want_equal(type_of(SEL_A), 0x81);
		want_equal(type_of(TSS_SEL), 0x8b);
	}
}

/* What a switch reads and writes is checked before anything changes: SDM 3 7.3, 6. */
static void limits_of_tables(void)
{
	struct table t;

	setup();
	row("limit of the TSS");
	for (unsigned limit = 0; limit < 0x80; limit++) {
		set_gdt(SEL_A, descriptor((u32)&other, limit,
					  D_TYPE(9) | D_P | D_DPL(limit & 3)));
		if (limit >= 0x67)
			break;
		TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory");
		want_fault(TS, SEL_A);
		TRY("", "ljmp %0, $0", : : "i"(SEL_A) : "memory");
		want_fault(TS, SEL_A);
	}
	/* RPL and CPL against DPL, for the TSS and the gate. */
	for (unsigned n = 0; n < 16; n++) {
		unsigned dpl = n & 3, rpl = n >> 2;
		struct {
			u32 off;
			u16 sel;
		} __attribute__((packed)) p = { 0, (u16)(SEL_A | rpl) };

		row("DPL %u, RPL %u", dpl, rpl);
		make_task(&other, SEL_A, other_task);
		set_gdt(SEL_A,
			descriptor((u32)&other, 0x67, D_TYPE(9) | D_P | D_DPL(dpl)));
		TRY("", "lcall *%0", : : "m"(p) : "memory", "cc");
		if (rpl > dpl)
			want_fault(GP, SEL_A);
		else
			want_none();
	}
	row("beyond the GDT");
	__asm__ volatile("sgdt %0" : "=m"(t));
	TRY("", "lcall %0, $0", : : "i"(GDT_BYTES) : "memory");
	want_fault(GP, GDT_BYTES);
	want_equal(t.limit, GDT_BYTES - 1);
}

/* The T bit: a debug trap before the first instruction of the task. */
static volatile u32 trap_ip, trap_dr6;

static void on_db(struct frame *f)
{
	trap_ip = f->ip;
	trap_dr6 = read_dr6();
	write_dr6(0xffff0ff0);
}

static void debug_trap(void)
{
	setup();
	other.trap = 1;
	trap_ip = 0;
	hook[DB] = on_db;
	__asm__ volatile("lcall %0, $0" : : "i"(SEL_A) : "memory", "cc");
	hook[DB] = NULL;
	want_equal(trap_ip, (u32)other_task);
	want_equal(trap_dr6, 0xffff0ff0 | 1 << 15);
	want_equal(seen[0], 0xaaaa);
}

/* Local breakpoints go off. */
static void local_breakpoints(void)
{
	setup();
	write_dr0(0x12345678);
	write_dr7(0x703); /* L0, G0, LE, GE */
	__asm__ volatile("lcall %0, $0" : : "i"(SEL_A) : "memory", "cc");
	want_equal(read_dr7(), 0x602);
	write_dr7(0x400);
}

/* A double fault by way of a task gate: the usual way to survive a bad stack. */
void df_task(void);
static volatile u32 df_error, df_eip;
__asm__(".text\n"
	"df_task:\n\t"
	"pop %eax\n\t"
	"push %eax\n\t"
	"call df_handler\n\t"
	"add $4, %esp\n\t"
	"iret\n\t"
	"jmp df_task\n");
void df_handler(u32 error);
extern const u8 df_at[], df_behind[];

void df_handler(u32 error)
{
	df_error = error;
	df_eip = *(volatile u32 *)&tss.eip;
	*(volatile u32 *)&tss.eip = (u32)df_behind;
	*(volatile u32 *)&tss.reg[4] =
		*(volatile u32 *)&tss.reg[5]; /* ESP is kept in EBP */
}

static void double_fault_task(void)
{
	setup();
	make_task(&third, DF_TSS_SEL, df_task);
	third.reg[4] = (u32)other_stack + 2048;
	set_gate(DF, 0, DF_TSS_SEL, D_TYPE(5) | D_P, 0);
	set_gdt(SEL_X, descriptor(0, 0xfff, D_KDATA | D_DB)); /* no room at ESP 2000h */
	df_error = 0x55;
	/* INT3 on a stack that has no room: #SS on it has none either. */
	__asm__ volatile("push %%ebp\n\t"
			 "mov %%esp, %%ebp\n\t"
			 "mov %0, %%ss\n\t"
			 "mov $0x2000, %%esp\n"
			 "df_at:\tud2\n"
			 "df_behind:\n\t"
			 "mov %1, %%ss\n\t"
			 "mov %%ebp, %%esp\n\t"
			 "pop %%ebp"
			 :
			 : "r"(SEL_X), "r"(KDATA)
			 : "memory");
	want_equal(df_error, 0);
	want_equal(df_eip, (u32)df_at);
	reset_gate(DF);
}

/* ---- pages that are missing: SDM 3 7.3, step 5 ---- */

/* By what a switch is made; IRET is from a nested task. */
enum by { BY_CALL, BY_JMP, BY_INT, BY_IRET, BYS };

static void switch_by(enum by by)
{
	switch (by) {
	case BY_CALL: TRY("", "lcall %0, $0", : : "i"(SEL_A) : "memory", "cc"); break;
	case BY_JMP: TRY("", "ljmp %0, $0", : : "i"(SEL_A) : "memory", "cc"); break;
	case BY_INT: TRY("", "int %0", : : "i"(VEC) : "memory", "cc"); break;
	default:
		TRY("pushf; orl $0x4000, (%%esp); popf", "iret", : : : "memory", "cc");
		write_flags(read_flags() & ~(word)FL_NT);
		break;
	}
}

/* Across the end of the first of two test pages. */
#define STRADDLES (path.va + 0x1000 - 0x30)

static void place(unsigned sel, const struct tss *from, u32 at, unsigned type)
{
	for (unsigned i = 0; i < 0x68; i++)
		((volatile u8 *)at)[i] = ((const volatile u8 *)from)[i];
	set_gdt(sel, descriptor(at, 0x67, D_TYPE(type) | D_P));
}

static void missing_pages(void)
{
	static const char *const names[] = { "CALL", "JMP", "INT n", "IRET" };
	volatile u32 *entry;

	setup();
	paging_on(PAGING_32, false);
	path_set(1, TEST_PA, ALL);
	entry = (volatile u32 *)path.entry[1];
	set_gate(VEC, 0, SEL_A, D_TYPE(5) | D_P | D_DPL(3), 0);
	for (unsigned n = 0; n < BYS * 4; n++) {
		enum by by = (enum by)(n / 4);
		bool old = n & 2, second = n & 1;
		u32 hole = path.va + (second ? 0x1000 : 0);

		row("%s, the %s half of the %s TSS", names[by],
		    second ? "second" : "first", old ? "old" : "new");
		entry[0] = TEST_PA | ALL;
		entry[1] = (TEST_PA + 0x1000) | ALL;
		flush_tlb();
		make_task(&other, SEL_A, other_task);
		other.cr3 = read_cr3();
		tss.cr3 = read_cr3();
		if (old) {
			place(TSS_SEL, &tss, STRADDLES, 9);
			__asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
			*(volatile u16 *)STRADDLES = SEL_A;
		} else {
			place(SEL_A, &other, STRADDLES, by == BY_IRET ? 11 : 9);
			*(volatile u16 *)&tss.link = SEL_A;
		}
		if (old && by == BY_IRET)
			set_gdt(SEL_A, descriptor((u32)&other, 0x67, D_TYPE(11) | D_P));
		entry[second] = 0;
		flush_tlb();
		switch_by(by);
		/* In the old task, which is as it was. */
		want_equal(trap.vector, PF);
		want_equal(trap.error & 5, 0);
		want_equal(trap.cr2 & ~0xffful, hole);
		want_equal(trap.ip, trap.at);
		want_equal(type_of(TSS_SEL), 0x8b);
		want_equal(type_of(SEL_A), by == BY_IRET ? 0x8b : 0x89);
		want_equal(seen[0], 0);
		*(volatile u16 *)&tss.link = 0;
		entry[0] = TEST_PA | ALL;
		entry[1] = (TEST_PA + 0x1000) | ALL;
		flush_tlb();
		load_tss();
	}
	/* Nesting writes the link. */
	for (unsigned by = BY_CALL; by <= BY_INT; by += BY_INT - BY_CALL) {
		row("%s, a new TSS that is read-only", names[by]);
		make_task(&other, SEL_A, other_task);
		other.cr3 = read_cr3();
		place(SEL_A, &other, path.va, 9);
		entry[0] = TEST_PA | P;
		flush_tlb();
		switch_by((enum by)by);
		want_equal(trap.vector, PF);
		want_equal(trap.error, 3);
		want_equal(trap.ip, trap.at);
		want_equal(type_of(TSS_SEL), 0x8b);
		want_equal(type_of(SEL_A), 0x89);
		want_equal(seen[0], 0);
		entry[0] = TEST_PA | ALL;
		flush_tlb();
	}
	entry[0] = entry[1] = 0;
	reset_gate(VEC);
	paging_off();
	load_tss();
}

const struct test_case cases[] = {
	CASE(call_tss, "SDM 3 7.3"),
	CASE(call_gate, "SDM 3 7.2.5"),
	CASE(from_user, "SDM 3 7.2.5"),
	CASE(by_interrupt, "SDM 3 7.3"),
	CASE(by_exception, "SDM 3 6.13"),
	CASE(jmp_tss, "SDM 3 table 7-2"),
	CASE(refused, "SDM 3 table 7-1"),
	CASE(bad_state, "SDM 3 table 7-1"),
	CASE(tss_16bit, "SDM 3 7.6"),
	CASE(limits_of_tables, "SDM 3 table 7-1"),
	CASE(missing_pages, "SDM 3 7.3"),
	CASE(debug_trap, "SDM 3 7.2.1"),
	CASE(local_breakpoints, "SDM 3 17.2.4"),
	CASE(double_fault_task, "SDM 3 6.15 #DF"),
	CASES_END,
};
