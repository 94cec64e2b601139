/*
 * User code as a Linux program has it, for direct.c: Linux's selectors, 4 KiB pages of
 * its own at addresses near the end of the lower half, interrupts on, and a kernel that
 * enters it with all registers given and gets them back at the next trap.
 *
 * The timer interrupts every millisecond or so, and what it interrupts goes on.
 */
#pragma once

#include "apic.h"
#include "page.h"

enum {
	USER_CS = 0x33,
	USER_SS = 0x2b,
	USER_CS32 = 0x23,
	SYSCALL_VECTOR = 0x81,
	TICK = 0x61
};
enum {
	MSR_STAR = 0xc0000081,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_SFMASK,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_TSC_AUX,
};
enum {
	CR4_TSD = 1 << 2,
	CR4_OSFXSR = 1 << 9,
	CR4_OSXMMEXCPT = 1 << 10,
	CR4_UMIP = 1 << 11,
	CR4_FSGSBASE = 1 << 16,
	CR4_OSXSAVE = 1 << 18,
};
#define CR0_AM    (1 << 18)
#define FL_STATUS 0x8d5u
#define FL_ID     (1u << 21)

/* The user's pages, by number: all in one page table, the last of the lower half. */
#define UVA      0x7fffffe00000ul
#define U(n)     (UVA + (n)*4096ul)
/* The frame that is usual for it. */
#define FRAME(n) (TEST_PA + (n)*4096u)
#define AT(n)    PHYS(FRAME(n))
enum {
	CODE = 16,
	DATA = 40,
	STACK = 72,
	OTHER = 104,
	JIT = 136,
	NOWHERE = 200,
	WARM = 208,
	TOP = 511
};
/* For code that direct execution may leave alone afterwards. */
enum { FEW = 304, MANY = 336, CROWD = 368 };

#define CODE_BITS (P | US)
#define DATA_BITS (P | US | RW | NX)

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
struct regs {
	u64 r[16], ip, flags, cs, ss;
};
/* What was given to the user last, and what it had at the last trap. */
static struct regs in, out;
static volatile word got_vector, got_error, got_cr2;
static volatile u32 ticks;
/* Called at each tick; true: go back to the kernel. */
static bool (*volatile on_tick)(struct frame *f);
static bool by_sysret; /* enter by SYSRET, not by IRET */

/* User code, of any length, independent of its place. */
#define SNIPPET(name, text)                                                              \
	__asm__(".pushsection .rodata\n" #name ":\n\t" text "\n" #name                   \
		"_end: .popsection\n");                                                  \
	extern const u8 name[], name##_end[]
#define LABEL(name) extern const u8 name[]

void user_go(struct regs *r);
void user_go_sysret(struct regs *r);
void user_back(void) __attribute__((noreturn));
void direct_syscall(void);
__asm__(".pushsection .text\n"
	".macro LOAD_MOST\n\t"
	"mov (%rdi), %rax\n\t"
	"mov 16(%rdi), %rdx\n\t"
	"mov 24(%rdi), %rbx\n\t"
	"mov 40(%rdi), %rbp\n\t"
	"mov 48(%rdi), %rsi\n\t"
	"mov 64(%rdi), %r8\n\t"
	"mov 72(%rdi), %r9\n\t"
	"mov 80(%rdi), %r10\n\t"
	"mov 96(%rdi), %r12\n\t"
	"mov 104(%rdi), %r13\n\t"
	"mov 112(%rdi), %r14\n\t"
	"mov 120(%rdi), %r15\n\t"
	".endm\n"
	".macro SAVE\n\t"
	"push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; pushf\n\t"
	"mov %rsp, go_sp(%rip)\n\t"
	".endm\n"
	"user_go:\n\t"
	"SAVE\n\t"
	"push 152(%rdi); push 32(%rdi); push 136(%rdi); push 144(%rdi); push "
	"128(%rdi)\n\t"
	"LOAD_MOST\n\t"
	"mov 8(%rdi), %rcx\n\t"
	"mov 88(%rdi), %r11\n\t"
	"mov 56(%rdi), %rdi\n\t"
	"iretq\n"
	"user_go_sysret:\n\t"
	"SAVE\n\t"
	"LOAD_MOST\n\t"
	"mov 128(%rdi), %rcx\n\t"
	"mov 136(%rdi), %r11\n\t"
	"mov 32(%rdi), %rsp\n\t"
	"mov 56(%rdi), %rdi\n\t"
	"sysretq\n"
	"user_back:\n\t"
	"mov $0x10, %eax\n\t" /* KDATA */
	"mov %eax, %ss\n\t"
	"mov go_sp(%rip), %rsp\n\t"
	"popf; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n\t"
	"ret\n"
	/* The frame of an interrupt, for the stub of SYSCALL_VECTOR. */
	"direct_syscall:\n\t"
	"mov %rsp, syscall_sp(%rip)\n\t"
	"lea syscall_stack + 8192(%rip), %rsp\n\t"
	"push $0x2b; push syscall_sp(%rip); push %r11; push $0x33; push %rcx\n\t"
	"jmp *trap_entry + 8 * 0x81(%rip)\n"
	".popsection\n"
	".pushsection .bss\n.balign 16\n"
	"go_sp: .skip 8\nsyscall_sp: .skip 8\nsyscall_stack: .skip 8192\n"
	".popsection\n");

/* ---- page tables: two address spaces ---- */

extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[4 * 512];
static PAGED volatile u64 top[2][512], low_pdpt[512], low_pd[512], low_pt[512],
	high_pdpt[2][512], high_pd[2][512], pt[2][512];
static unsigned space;

static void make_tables(void)
{
	for (unsigned i = 0; i < 512; i++) {
		low_pdpt[i] = boot_pdpt[i];
		low_pd[i] = boot_pd[i];
		low_pt[i] = i * 4096u | P | RW;
	}
	low_pdpt[0] = (word)low_pd | ALL;
	low_pd[0] = (word)low_pt | ALL;
	for (unsigned s = 0; s < 2; s++) {
		top[s][0] = (word)low_pdpt | ALL;
		top[s][255] = (word)high_pdpt[s] | ALL;
		high_pdpt[s][511] = (word)high_pd[s] | ALL;
		high_pd[s][511] = (word)pt[s] | ALL;
	}
}

static void use_space(unsigned s)
{
	space = s;
	write_cr3((word)top[s]);
}

static void map(unsigned n, unsigned frame, u64 bits)
{
	pt[space][n] = FRAME(frame) | bits;
	invlpg((void *)U(n));
}

static void unmap(unsigned n)
{
	pt[space][n] = 0;
	invlpg((void *)U(n));
}

static void fill(volatile u8 *to, u8 val, word n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(val) : "memory");
}

static void copy(volatile u8 *to, const u8 *from, word n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* Put it into a user's frame. */
#define put_code(n, off, name) copy(AT(n) + (off), name, (word)(name##_end - (name)))

static volatile u64 *data_at(unsigned n)
{
	return (volatile u64 *)AT(n);
}

/* ---- running ---- */

static void take_frame(const struct frame *f)
{
	out = (struct regs){ { f->ax, f->cx, f->dx, f->bx, f->sp, f->bp, f->si, f->di,
			       f->r8, f->r9, f->r10, f->r11, f->r12, f->r13, f->r14,
			       f->r15 },
			     f->ip,
			     f->flags,
			     f->cs & 0xffff,
			     f->ss & 0xffff };
	got_vector = f->vector;
	got_error = f->error;
	got_cr2 = read_cr2();
}

static void on_trap(struct frame *f)
{
	if ((f->cs & 3) != 3)
		stop("trap in the kernel: vector %lx error %lx at %lx cr2 %lx", f->vector,
		     f->error, f->ip, read_cr2());
	take_frame(f);
	user_back();
}

static void on_timer(struct frame *f)
{
	eoi();
	ticks++;
	if ((f->cs & 3) == 3 && on_tick && on_tick(f)) {
		take_frame(f);
		user_back();
	}
}

/* Let the user go on with 'in'; the vector it comes back with. */
static word run(void)
{
	out = (struct regs){ { 0 }, 0, 0, 0, 0 };
	if (by_sysret)
		user_go_sysret(&in);
	else
		user_go(&in);
	return got_vector;
}

/* And from where it is. */
UNUSED static word go_on(void)
{
	in = out;
	return run();
}

/*
 * New code in a page is searched for sensitive instructions when the page is mapped: have
 * the user find it missing, and map it again.
 */
UNUSED static void unmap_now(unsigned n)
{
	struct regs was = in;

	unmap(n);
	in.ip = U(n);
	in.flags = FL_IF | 2;
	run();
	if (got_vector != PF || got_cr2 != U(n))
		fail("page %u is still there: vector %lx", n, got_vector);
	map(n, n, CODE_BITS);
	in = was;
}

static word stop_ip;
UNUSED static bool stop_there_at_tick(struct frame *f)
{
	return f->ip == stop_ip;
}

#define want_out(vec, err, ip) want_out_(__LINE__, vec, err, ip)
UNUSED static void want_out_(int line, word vector, word error, word ip)
{
	checked();
	if (got_vector != vector || got_error != error || out.ip != ip ||
	    out.cs != USER_CS || out.ss != USER_SS)
		fail("line %d: got vector %lx error %lx ip %llx cr2 %lx cs %llx ss %llx "
		     "want "
		     "%lx %lx %lx",
		     line, got_vector, got_error, out.ip, got_cr2, out.cs, out.ss, vector,
		     error, ip);
}

/* A page fault there, at that instruction. */
#define want_pf(err, ip, addr)                                                           \
	do {                                                                             \
		want_out(PF, err, ip);                                                   \
		want_equal(got_cr2, addr);                                               \
	} while (0)

static u64 seed = 88172645463325252;
UNUSED static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* ---- set-up ---- */

static u32 xcr0(void)
{
	return cpuid(0xd, 0).a & ~BIT(9);
}

static void set_up_once(void)
{
	static bool done;
	u32 flat = D_G | D_DPL(3);

	if (done)
		return;
	done = true;
	make_tables();
	set_gdt(USER_CS32 & ~7, descriptor(0, 0xfffff, D_KCODE | D_DB | flat));
	set_gdt(USER_SS & ~7, descriptor(0, 0xfffff, D_KDATA | D_DB | flat));
	set_gdt(USER_CS & ~7, descriptor(0, 0xfffff, D_KCODE | D_L | flat));
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE);
	__asm__ volatile("xsetbv" : : "c"(0), "a"(xcr0()), "d"(0));
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE | EFER_NXE);
	wrmsr(MSR_STAR, (u64)KCODE << 32 | (u64)(USER_CS32 | 3) << 48);
	wrmsr(MSR_LSTAR, (word)direct_syscall);
	wrmsr(MSR_SFMASK, FL_TF | FL_IF | FL_DF | FL_NT | FL_AC);
	for (unsigned i = 0; i < 32; i++)
		hook[i] = on_trap;
	hook[EXIT_VECTOR] = hook[SYSCALL_VECTOR] = on_trap;
	hook[TICK] = on_timer;
	hook[0xff] = on_timer;
	pic_init(0xff, 0xff);
	lapic_write(LAPIC_SVR, SVR_ENABLE | 0xff);
	lapic_write(LAPIC_TPR, 0);
	lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
	lapic_write(LAPIC_TIMER_DIV, 0xb);
	lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | TICK);
	lapic_write(LAPIC_TIMER_INIT, 1000000);
}

static unsigned ticks_left;
static bool count_ticks(struct frame *f)
{
	(void)f;
	return --ticks_left == 0;
}

static void start_user(void)
{
	in = (struct regs){
		.ip = U(CODE), .flags = FL_IF | 2, .cs = USER_CS, .ss = USER_SS
	};
	in.r[RSP] = U(STACK) + 0x2000;
	in.r[RBX] = U(DATA);
}

/* Each case begins with this. False: it cannot be. */
static bool begin(void)
{
	if (!HAS_FSGSBASE || !HAS_XSAVE) {
		skip("no FSGSBASE or XSAVE");
		return false;
	}
	set_up_once();
	on_tick = NULL;
	by_sysret = false;
	for (unsigned s = 2; s-- > 0;) {
		for (unsigned i = 0; i < 512; i++)
			pt[s][i] = 0;
		use_space(s);
		map(WARM, WARM, CODE_BITS);
		for (unsigned i = 0; i < 4; i++) {
			fill(AT(DATA + i), 0, 4096);
			map(DATA + i, DATA + i, DATA_BITS);
			map(STACK + i, STACK + i, DATA_BITS);
		}
	}
	flush_tlb();
	wrmsr(MSR_FS_BASE, 0);
	wrmsr(MSR_GS_BASE, 0);
	/* Where direct execution has given up, it tries again after a while. */
	start_user();
	copy(AT(WARM), (const u8 *)"\xeb\xfe", 2);
	in.ip = U(WARM);
	ticks_left = 3;
	on_tick = count_ticks;
	run();
	on_tick = NULL;
	/* Code comes into pages that are not mapped, as programs do: what user code may
	 * contain is found out when a page is mapped. */
	for (unsigned s = 2; s-- > 0;) {
		use_space(s);
		for (unsigned i = 0; i < 4; i++) {
			fill(AT(CODE + i), 0xcc, 4096);
			map(CODE + i, CODE + i, CODE_BITS);
		}
	}
	flush_tlb();
	start_user();
	return true;
}

/* The same with this code at the start of the first page. */
#define begin_with(name) (begin() ? (put_code(CODE, 0, name), true) : false)
