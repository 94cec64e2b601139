/*
 * Runtime of the small guests: output, cases, traps, processor state.
 *
 * A guest is entered as a PVH kernel, sets up a flat GDT and an IDT that catches every
 * vector, and runs its cases[]. Built twice: for 64-bit mode with an identity map of 4
 * GiB (supervisor) and an alias of the first GiB at ALIAS for user mode; and for 32-bit
 * protected mode without paging.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Everything by RIP-relative addresses, so that it runs in the alias too. */
#pragma GCC visibility push(hidden)

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef unsigned long word; /* of this mode's registers */

#ifdef __x86_64__
#define W64    1
#define W      "q"
#define W_AX   "rax"
#define W_SP   "rsp"
#define W_BX   "rbx"
#define W_CX   "rcx"
#define W_DI   "rdi"
#define W_SI   "rsi"
#define REG(r) "%%r" r
#define RIP    "(%%rip)"
#else
#define W64    0
#define W      "l"
#define W_AX   "eax"
#define W_SP   "esp"
#define W_BX   "ebx"
#define W_CX   "ecx"
#define W_DI   "edi"
#define W_SI   "esi"
#define REG(r) "%%e" r
#define RIP    ""
#endif

#define BIT(n)        (1ull << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define UNUSED        __attribute__((unused))
#define NOINLINE      __attribute__((noinline))
#define PAGED         __attribute__((aligned(4096)))

/* ---- cases ---- */

struct test_case {
	const char *name;  /* the claim */
	const char *where; /* manual and section */
	void (*run)(void);
	bool alone;        /* only when named on the command line: it ends the machine */
	const char *known; /* why it fails, when we know that it does: counts as skipped
			      then */
};

#define CASE(fn, manual)                                                                 \
	{                                                                                \
#fn, manual, fn, false, NULL                                             \
	}
#define CASE_ALONE(fn, manual)                                                           \
	{                                                                                \
#fn, manual, fn, true, NULL                                              \
	}
#define CASE_KNOWN(fn, manual, reason)                                                   \
	{                                                                                \
#fn, manual, fn, false, reason                                           \
	}
#define CASES_END                                                                        \
	{                                                                                \
		NULL, NULL, NULL, false, NULL                                            \
	}

/* Every guest defines this; a NULL name ends it. The command line picks one by name. */
extern const struct test_case cases[];

/*
 * A table of the manual is walked row by row: what follows, to the next row() or the end
 * of the case, is one situation that the manual tells apart, with its own expected
 * outcome. Its name says which; rows of one name are one. It is these that are counted as
 * cases, a test_case without rows as one. What only varies operands within a row, or
 * multiplies all with all, is checks and matrix rows. At CPL 0, from C.
 */
void row(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The first of a row counts. At any privilege level. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void skip(const char *why);
/* Told on the command line: user code that runs directly loses RFLAGS.NT. */
extern bool host_loses_nt;
/* And end the guest. */
void stop(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
bool failed(void);

/*
 * Checks of the case that runs, for the summary: each want...() counts itself, a table's
 * row or a comparison done otherwise says checked(). Rows of a matrix, of which there are
 * many by construction, are counted apart.
 */
extern volatile u32 checks_done, matrix_done;
static inline void checked(void)
{
	checks_done++;
}

#define want(cond)                                                                       \
	do {                                                                             \
		checked();                                                               \
		if (!(cond))                                                             \
			fail("line %d: not: %s", __LINE__, #cond);                       \
	} while (0)
#define want_equal(got, expected)                                                        \
	do {                                                                             \
		u64 got_ = (got), want_ = (expected);                                    \
		checked();                                                               \
		if (got_ != want_)                                                       \
			fail("line %d: %s: got %llx want %llx", __LINE__, #got, got_,    \
			     want_);                                                     \
	} while (0)

/*
 * The case that runs ends the machine: print how, for the runner to check, and then do
 * it. 'how': poweroff, reset, triple.
 */
void ends_with(const char *how);
/* What came after did not end it. */
void not_ended(void) __attribute__((noreturn));

/* ---- output, exit ---- */

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void print_to(char *buf, size_t size, const char *fmt, va_list args);
void power_off(void) __attribute__((noreturn));
const char *command_line(void);

/* ---- traps ---- */

enum {
	DE,
	DB,
	NMI,
	BP,
	OF,
	BR,
	UD,
	NM,
	DF,
	TS = 10,
	NP,
	SS,
	GP,
	PF,
	MF = 16,
	AC,
	MC,
	XM,
	NONE = 0x100, /* no trap */
};

#if W64
struct frame {
	word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, dx, cx, bx, ax;
	word vector, error, ip, cs, flags, sp, ss;
};
#else
struct frame {
	word gs, fs, es, ds;
	word di, si, bp, esp, bx, dx, cx, ax;
	word vector, error, ip, cs, flags;
	word sp, ss; /* from another privilege level alone */
	word v86_es, v86_ds, v86_fs, v86_gs;
};
#endif

/* The last trap that a TRY caught. */
struct trap {
	word vector; /* NONE: there was none */
	word error, ip, cs, flags, sp, ss, cr2, dr6;
	word frame_sp; /* stack pointer right after the CPU's own pushes */
	word count;
	word at, next; /* of the TRY: the instruction, and what is behind it */
};
extern volatile struct trap trap;

/* The C side of an armed trap; set by TRY, cleared when one was caught. */
extern volatile word trap_resume, trap_sp, trap_at;

/*
 * Run 'pre' and then 'insn', which may trap anywhere; goes on behind it. What follows are
 * operands of extended asm, at least a ':'. Returns the vector or NONE.
 */
#define TRY(pre, insn, ...)                                                              \
	({                                                                               \
		trap_begin();                                                            \
		__asm__ volatile("mov" W " $8f, trap_at" RIP "\n\t"                      \
				 "mov" W " " REG("sp") ", trap_sp" RIP "\n\t"            \
						       "mov" W " $9f, trap_resume" RIP   \
						       "\n\t" pre "\n8:\t" insn          \
						       "\n9:\n" __VA_ARGS__);            \
		trap_end();                                                              \
	})
void trap_begin(void);
word trap_end(void);

/* The last TRY ended with this trap, its RIP at the instruction (fault) or behind (trap).
 */
#define want_fault(vec, err)  want_trap_(__LINE__, vec, err, trap.at)
#define want_trap(vec, err)   want_trap_(__LINE__, vec, err, trap.next)
/* The same with RIP anywhere. */
#define want_vector(vec, err) want_trap_(__LINE__, vec, err, trap.ip)
#define want_none()           want_trap_(__LINE__, NONE, 0, 0)
void want_trap_(int line, word vector, word error, word ip);

/*
 * Called instead of that, on the trap's stack, when not NULL; the frame may be changed.
 * With it returning the interrupted code goes on.
 */
extern void (*volatile hook[256])(struct frame *f);

/* Stubs of all vectors, for gates: entry[vector]. */
extern const word trap_entry[256];

/* ---- descriptors ---- */

enum {
	KCODE = 0x08,
	KDATA = 0x10,
	UCODE32 = 0x18 | 3,
	UDATA = 0x20 | 3,
	UCODE64 = 0x28 | 3,
	UDATA64 = 0x30 | 3,
	TSS_SEL = 0x38,
	LDT_SEL = 0x48,
	KCODE16 = 0x58,
	KDATA16 = 0x60,
	KCODE32 = 0x68,
	DF_TSS_SEL = 0x70,
	FREE_SEL = 0x80, /* to GDT_BYTES - 1 */
	GDT_BYTES = 0x400,
};
#define UCODE (W64 ? UCODE64 : UCODE32)

/* Access byte and flags of a descriptor, in the place they have in its upper half. */
enum {
	D_A = 1 << 8,
	D_W = 1 << 9,
	D_R = 1 << 9,
	D_E = 1 << 10,
	D_C = 1 << 10,
	D_CODE = 1 << 11,
	D_S = 1 << 12,
	D_P = 1 << 15,
	D_AVL = 1 << 20,
	D_L = 1 << 21,
	D_DB = 1 << 22,
	D_G = 1 << 23,
	D_KDATA = D_P | D_S | D_W | D_A,
	D_KCODE = D_P | D_S | D_CODE | D_R | D_A,
};
#define D_DPL(n)  ((u32)(n) << 13)
#define D_TYPE(n) ((u32)(n) << 8)

extern u64 gdt[GDT_BYTES / 8];
u64 descriptor(u32 base, u32 limit, u32 attr);
void set_gdt(unsigned sel, u64 desc);
/* A gate of the IDT: type and DPL as D_TYPE(14) | D_DPL(n) | D_P. */
void set_gate(unsigned vector, word entry, unsigned sel, u32 attr, unsigned ist);
void reset_gate(unsigned vector); /* as at start: interrupt gate, DPL 3 */

#if W64
struct tss {
	u32 reserved;
	u64 rsp[3];
	u64 reserved2;
	u64 ist[7];
	u64 reserved3;
	u16 reserved4, iomap;
	u8 bitmap[8193];
} __attribute__((packed));
#else
struct tss {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	u32 reg[8], es, cs, ss, ds, fs, gs, ldt;
	u16 trap, iomap;
	u8 redirect[32], bitmap[8193];
} __attribute__((packed));
#endif
extern struct tss tss;
#define STACK_SIZE 16384
extern u8 trap_stack[STACK_SIZE]; /* where traps from user mode land */
extern u8 user_stack[STACK_SIZE];
#define TSS_SIZE sizeof(struct tss)

struct table {
	u16 limit;
	word base;
} __attribute__((packed));
void load_gdt(void);
void load_idt(void);
/* Mark the TSS available and load it. */
void load_tss(void);

/* ---- user mode ---- */

#define ALIAS   (W64 ? 0x80000000ul : 0ul)
#define USER(p) ((word)(p) + ALIAS)

/*
 * Call fn(arg) at CPL 3 through the alias and return what it returns. Its stack is the
 * user stack; flags are IF = 0, IOPL = user_iopl. It may use TRY.
 */
word user_run(word (*fn)(word), word arg);
extern word user_iopl;
/*
 * Enter code by IRET with these registers, and come back here by the exit trap
 * (int EXIT_VECTOR), which gives EAX, or by any other trap, which is recorded in 'trap'.
 */
word enter(word ip, word cs, word flags, word sp, word ss);
#if !W64
/* Virtual-8086 mode: seg and ip, all data segments 'ds', stack ss:sp. */
word enter_v86(u16 cs, u16 ip, u16 ds, u16 ss, u16 sp, word flags);
#endif
#define EXIT_VECTOR 0x80

/* ---- the processor ---- */

#define REG_ACCESS(name, reg)                                                            \
	static inline word read_##name(void)                                             \
	{                                                                                \
		word v;                                                                  \
		__asm__ volatile("mov %%" reg ", %0" : "=r"(v));                         \
		return v;                                                                \
	}                                                                                \
	static inline void write_##name(word v)                                          \
	{                                                                                \
		__asm__ volatile("mov %0, %%" reg : : "r"(v) : "memory");                \
	}
REG_ACCESS(cr0, "cr0")
REG_ACCESS(cr2, "cr2")
REG_ACCESS(cr3, "cr3")
REG_ACCESS(cr4, "cr4")
REG_ACCESS(dr0, "dr0")
REG_ACCESS(dr1, "dr1")
REG_ACCESS(dr2, "dr2")
REG_ACCESS(dr3, "dr3")
REG_ACCESS(dr6, "dr6")
REG_ACCESS(dr7, "dr7")
#if W64
REG_ACCESS(cr8, "cr8")
#endif

static inline u64 rdmsr(u32 msr)
{
	u32 lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return lo | (u64)hi << 32;
}

static inline void wrmsr(u32 msr, u64 val)
{
	__asm__ volatile("wrmsr"
			 :
			 : "c"(msr), "a"((u32)val), "d"((u32)(val >> 32))
			 : "memory");
}

/* Vector or NONE. */
static inline word try_rdmsr(u32 msr, u64 *val)
{
	u32 lo = 0, hi = 0;
	word v = TRY("", "rdmsr", : "+a"(lo), "+d"(hi) : "c"(msr) : "memory");

	*val = lo | (u64)hi << 32;
	return v;
}

static inline word try_wrmsr(u32 msr, u64 val)
{
	return TRY("", "wrmsr",
		   :
		   : "c"(msr), "a"((u32)val), "d"((u32)(val >> 32))
		   : "memory");
}

struct cpuid {
	u32 a, b, c, d;
};
static inline struct cpuid cpuid(u32 leaf, u32 sub)
{
	struct cpuid r;

	__asm__ volatile("cpuid"
			 : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
			 : "a"(leaf), "c"(sub));
	return r;
}
bool cpu_is_amd(void);

/* CPUID bits: leaf, register, bit. */
#define HAS(leaf, sub, reg, bit) (cpuid(leaf, sub).reg >> (bit)&1)
#define HAS_PCID                 HAS(1, 0, c, 17)
#define HAS_X2APIC               HAS(1, 0, c, 21)
#define HAS_DEADLINE             HAS(1, 0, c, 24)
#define HAS_XSAVE                HAS(1, 0, c, 26)
#define HAS_FSGSBASE             HAS(7, 0, b, 0)
#define HAS_SMEP                 HAS(7, 0, b, 7)
#define HAS_INVPCID              HAS(7, 0, b, 10)
#define HAS_SMAP                 HAS(7, 0, b, 20)
#define HAS_UMIP                 HAS(7, 0, c, 2)
#define HAS_PKU                  HAS(7, 0, c, 3)
#define HAS_LA57                 HAS(7, 0, c, 16)
#define HAS_PKS                  HAS(7, 0, c, 31)
#define HAS_SYSCALL              HAS(0x80000001, 0, d, 11)
#define HAS_NX                   HAS(0x80000001, 0, d, 20)
#define HAS_LM                   HAS(0x80000001, 0, d, 29)
#define HAS_1G                   HAS(0x80000001, 0, d, 26)
#define HAS_RDTSCP               HAS(0x80000001, 0, d, 27)

/* For MSRs, bases and table registers: by the CPU's widest linear address, LA57 on or
 * off. */
#define NOT_CANONICAL (HAS_LA57 ? BIT(56) : BIT(47))

static inline u8 inb(u16 port)
{
	u8 v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outb(u16 port, u8 v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline u16 inw(u16 port)
{
	u16 v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outw(u16 port, u16 v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline u32 inl(u16 port)
{
	u32 v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline void outl(u16 port, u32 v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline word read_flags(void)
{
	word v;

	__asm__ volatile("pushf\n\tpop %0" : "=r"(v));
	return v;
}

static inline void write_flags(word v)
{
	__asm__ volatile("push %0\n\tpopf" : : "r"(v) : "memory", "cc");
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return lo | (u64)hi << 32;
}

static inline void invlpg(const volatile void *p)
{
	__asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline void flush_tlb(void)
{
	word cr4 = read_cr4();

	/* Global entries too. */
	write_cr4(cr4 ^ BIT(7));
	write_cr4(cr4);
	write_cr3(read_cr3());
}

enum {
	FL_CF = 1 << 0,
	FL_TF = 1 << 8,
	FL_IF = 1 << 9,
	FL_DF = 1 << 10,
	FL_IOPL = 3 << 12,
	FL_NT = 1 << 14,
	FL_RF = 1 << 16,
	FL_VM = 1 << 17,
	FL_AC = 1 << 18,
	FL_VIF = 1 << 19,
	FL_VIP = 1 << 20,
};
