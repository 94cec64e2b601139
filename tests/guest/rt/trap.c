/*
 * Descriptor tables, what happens on a trap, and running code at other privilege levels.
 *
 * SDM volume 3 chapters 3, 6 and 7. A trap goes, in this order, to its hook; out of
 * user_run() or enter(), for the exit trap; behind the TRY that is armed; out of
 * enter(). Anything else is the end of the guest.
 */
#include "rt.h"

#define CR4_PGE BIT(7)

void rt_init(void);
struct frame *trap_handle(struct frame *f);
word enter_regs(word ip, word cs, word flags, word sp, word ss, word arg);
void leave(word val) __attribute__((noreturn));
void user_exit(void);

volatile struct trap trap;
volatile word trap_resume, trap_sp, trap_at;
/* The TRY is user mode's. */
static volatile bool trap_user;
void (*volatile hook[256])(struct frame *f);
word user_iopl;

PAGED u64 gdt[GDT_BYTES / 8];
struct gate {
	u64 raw[W64 ? 2 : 1];
};
static PAGED struct gate idt[256];
PAGED struct tss tss;
PAGED u8 trap_stack[STACK_SIZE], user_stack[STACK_SIZE];

/* enter() is under way, and traps end it; or user_run(), where they are not expected. */
static volatile enum { NOT_ENTERED, ENTERED, USER_RUN } entered;

/* ---- descriptors ---- */

u64 descriptor(u32 base, u32 limit, u32 attr)
{
	u32 lo = (limit & 0xffff) | base << 16;
	u32 hi = (base >> 16 & 0xff) | attr | (limit & 0xf0000) | (base & 0xff000000);

	return lo | (u64)hi << 32;
}

void set_gdt(unsigned sel, u64 desc)
{
	*(volatile u64 *)&gdt[sel / 8] = desc;
}

void set_gate(unsigned vector, word entry, unsigned sel, u32 attr, unsigned ist)
{
	volatile struct gate *g = &idt[vector];
	u32 lo = ((u32)entry & 0xffff) | sel << 16;
	u32 hi = ((u32)entry & 0xffff0000) | attr | ist;

	g->raw[0] = lo | (u64)hi << 32;
#if W64
	g->raw[1] = entry >> 32;
#endif
}

void reset_gate(unsigned vector)
{
	set_gate(vector, trap_entry[vector], KCODE, D_TYPE(14) | D_DPL(3) | D_P, 0);
}

void load_gdt(void)
{
	struct table t = { GDT_BYTES - 1, (word)gdt };

	__asm__ volatile("lgdt %0" : : "m"(t));
}

void load_idt(void)
{
	struct table t = { sizeof(idt) - 1, (word)idt };

	__asm__ volatile("lidt %0" : : "m"(t));
}

void load_tss(void)
{
	set_gdt(TSS_SEL, descriptor((u32)(word)&tss, TSS_SIZE - 1, D_TYPE(9) | D_P));
	set_gdt(TSS_SEL + 8, 0);
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
}

static void set_segments(void)
{
	u32 flat = D_G, code = D_KCODE | (W64 ? D_L : D_DB);

	set_gdt(KCODE, descriptor(0, 0xfffff, code | flat));
	set_gdt(KDATA, descriptor(0, 0xfffff, D_KDATA | D_DB | flat));
	set_gdt(UCODE32, descriptor(0, 0xfffff, D_KCODE | D_DPL(3) | D_DB | flat));
	set_gdt(UDATA, descriptor(0, 0xfffff, D_KDATA | D_DPL(3) | D_DB | flat));
	set_gdt(UCODE64, descriptor(0, 0xfffff, D_KCODE | D_DPL(3) | D_L | flat));
	set_gdt(UDATA64, descriptor(0, 0xfffff, D_KDATA | D_DPL(3) | D_DB | flat));
	set_gdt(KCODE16, descriptor(0, 0xffff, D_KCODE));
	set_gdt(KDATA16, descriptor(0, 0xffff, D_KDATA));
	set_gdt(KCODE32, descriptor(0, 0xfffff, D_KCODE | D_DB | flat));
}

void rt_init(void)
{
	set_segments();
	load_gdt();
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %0, %%ss" : : "r"(KDATA));
	for (unsigned i = 0; i < 256; i++)
		reset_gate(i);
	load_idt();
#if W64
	tss.rsp[0] = (word)trap_stack + STACK_SIZE;
#else
	tss.esp0 = (word)trap_stack + STACK_SIZE;
	tss.ss0 = KDATA;
#endif
	/* Nothing that a case does not ask for. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	tss.iomap = TSS_SIZE;
	load_tss();
	trap.vector = NONE;
}

/* ---- traps ---- */

void trap_begin(void)
{
	word cs;

	__asm__("mov %%cs, %0" : "=r"(cs));
	trap_user = (cs & 3) == 3;
	trap.vector = NONE;
	trap.count = 0;
}

word trap_end(void)
{
	trap_resume = 0;
	trap.at = trap_at;
	return trap.vector;
}

void want_trap_(int line, word vector, word error, word ip)
{
	checked();
	if (trap.vector != vector)
		fail("line %d: got vector %lx error %lx ip %lx cr2 %lx want vector %lx",
		     line, trap.vector, trap.error, trap.ip, trap.cr2, vector);
	else if (vector == NONE)
		return;
	else if (trap.error != error)
		fail("line %d: vector %lx: got error %lx want %lx", line, vector,
		     trap.error, error);
	else if (trap.ip != ip)
		fail("line %d: vector %lx: got ip %lx want %lx (the instruction is at "
		     "%lx)",
		     line, vector, trap.ip, ip, trap.at);
}

static bool from_user(const struct frame *f)
{
	return (f->cs & 3) == 3 || (f->flags & FL_VM);
}

/* From any level but ours: SS and ESP are in the frame. */
static bool from_outer(const struct frame *f)
{
	return (f->cs & 3) || (f->flags & FL_VM);
}

/* Addresses in the alias are told as those of the kernel. */
static word unalias(const struct frame *f, word ip)
{
	if (W64 && from_user(f) && ip - ALIAS < 0x40000000)
		return ip - ALIAS;
	return ip;
}

/* Size of the CPU's own part of a frame is what differs. */
static word old_sp(const struct frame *f)
{
	if (W64 || from_outer(f))
		return f->sp;
	return (word)&f->sp;
}

static void __attribute__((noreturn)) unexpected(const struct frame *f)
{
	stop("unexpected trap: vector %lx error %lx at %lx:%lx sp %lx flags %lx cr2 %lx",
	     f->vector, f->error, f->cs, f->ip, old_sp(f), f->flags, read_cr2());
}

static void record(const struct frame *f)
{
	trap.vector = f->vector;
	trap.error = f->error;
	trap.ip = unalias(f, f->ip);
	trap.cs = f->cs & 0xffff;
	trap.flags = f->flags;
	trap.sp = old_sp(f);
	if (W64 || from_outer(f))
		trap.ss = f->ss & 0xffff;
	trap.cr2 = read_cr2();
	if (f->vector == DB)
		trap.dr6 = read_dr6();
	trap.frame_sp = (word)&f->ip;
	trap.count++;
	trap.next = trap_resume;
}

#if !W64
/* The part of a frame that all have, elsewhere. */
static struct frame *move_frame(struct frame *f, word to)
{
	volatile u32 *from = (volatile u32 *)f, *dest = (volatile u32 *)to;
	unsigned n = offsetof(struct frame, sp) / 4;

	if (dest > from)
		while (n--)
			dest[n] = from[n];
	else
		for (unsigned i = 0; i < n; i++)
			dest[i] = from[i];
	return (struct frame *)to;
}
#endif

/* Go on behind the TRY, at its privilege level and with the stack it had. */
static struct frame *resume(struct frame *f)
{
	word ip = trap_resume, sp = trap_sp;

	trap_resume = 0;
	f->flags &= ~(word)(FL_TF | FL_RF | FL_DF | FL_NT | FL_AC | FL_VM);
#if W64
	f->ip = trap_user ? ip + ALIAS : ip;
	f->sp = sp;
	f->ss = trap_user ? UDATA : KDATA;
#else
	f->fs = f->gs = 0;
	f->ds = f->es = trap_user ? UDATA : KDATA;
	/* IRET to the same level has no stack to load: the frame goes where ESP is to be.
	 */
	if (!trap_user)
		f = move_frame(f, sp - offsetof(struct frame, sp));
	else if (!from_user(f))
		f = move_frame(f, (word)f - 8);
	f->ip = ip;
	if (trap_user) {
		f->sp = sp;
		f->ss = UDATA;
	}
#endif
	f->cs = trap_user ? UCODE : KCODE;
	return f;
}

struct frame *trap_handle(struct frame *f)
{
	f->vector &= 0xff;
	if (hook[f->vector]) {
		hook[f->vector](f);
		return f;
	}
	if (f->vector == EXIT_VECTOR && entered) {
		if (entered == ENTERED)
			trap.vector = NONE;
		entered = NOT_ENTERED;
		leave(f->ax);
	}
	if (trap_resume) {
		record(f);
		return resume(f);
	}
	if (entered == ENTERED) {
		entered = NOT_ENTERED;
		record(f);
		leave(0);
	}
	unexpected(f);
}

/* ---- other code ---- */

word enter(word ip, word cs, word flags, word sp, word ss)
{
	trap_begin();
	entered = ENTERED;
	return enter_regs(ip, cs, flags | 2, sp, ss, UDATA);
}

#if !W64
word enter_v86(u16 cs, u16 ip, u16 ds, u16 ss, u16 sp, word flags)
{
	trap_begin();
	entered = ENTERED;
	return enter_regs(ip, cs, flags | FL_VM | 2, sp, ss, ds);
}
#endif

word user_run(word (*fn)(word), word arg)
{
	word *sp = (word *)(void *)(user_stack + STACK_SIZE) - (W64 ? 1 : 4);

	sp[0] = USER(user_exit);
	if (!W64)
		sp[1] = arg;
	entered = USER_RUN;
	return enter_regs(USER(fn), UCODE, 2 | user_iopl << 12, USER(sp), UDATA,
			  W64 ? arg : UDATA);
}

bool cpu_is_amd(void)
{
	return cpuid(0, 0).c == 0x444d4163;
}
