/*
 * Real mode and virtual-8086 mode: segments, interrupts, what faults, what IOPL and VME
 * change. SDM volume 3 chapter 20; volume 2 for each instruction's real-mode exceptions.
 *
 * Code for both is in section .low, at LOW = 30000h, which is segment 3000h. It runs from
 * a label to the first trap, which is where each case looks.
 */
#include "sensitive.h"

#define LOW      0x30000u
#define LOW_SEG  0x3000
#define OFF(l)   ((u16)((u32)(l)-LOW))
#define LABEL(l) extern u8 l[]

/* ---- real mode and back ---- */

/* What the first interrupt or exception in real mode found. */
struct real {
	u16 vector, ip, cs, flags;
	u16 sp, ss, ds, es;
	u32 ax, bx, cx, dx;
};
extern volatile struct real real;
void real_enter(u32 ip, u32 sp);

/*
 * An interrupt vector of its own for each: CALL to the same place pushes the vector's
 * number, in the form of where it came from.
 */
__asm__(".section .low, \"ax\"\n"
	"low_base:\n"
	".code32\n"
	/* real_enter(ip, sp): keeps everything but EAX, ECX, EDX */
	"real_enter:\n\t"
	"mov 4(%esp), %eax\n\t"
	"mov 8(%esp), %edx\n\t"
	"push %ebx\n\tpush %esi\n\tpush %edi\n\tpush %ebp\n\t"
	"mov %esp, real_esp\n\t"
	"sidt real_idt_old\n\t"
	"lidt real_idt\n\t"
	"ljmp $0x58, $1f - low_base\n" /* KCODE16 */
	".code16\n"
	"1:\tmov $0x60, %cx\n\t" /* KDATA16: limits of 64 KiB */
	"mov %cx, %ds\n\tmov %cx, %es\n\tmov %cx, %fs\n\tmov %cx, %gs\n\tmov %cx, %ss\n\t"
	"mov %cr0, %ecx\n\t"
	"and $0xfe, %cl\n\t"
	"mov %ecx, %cr0\n\t"
	"ljmp $0x3000, $2f - low_base\n"
	"2:\tmov $0x3000, %cx\n\t"
	"mov %cx, %ds\n\tmov %cx, %es\n\tmov %cx, %ss\n\t"
	"movzx %dx, %esp\n\t"
	"push %ax\n\t"
	"xor %eax, %eax\n\txor %ebx, %ebx\n\txor %ecx, %ecx\n\txor %edx, %edx\n\t"
	"ret\n"
	/* Vectors: 256 calls of 3 bytes. */
	"real_vectors:\n\t"
	".rept 256\n\t"
	"call real_trap\n\t"
	".endr\n"
	"real_trap:\n\t"
	"cs pop real - low_base\n\t" /* which one, still as an address */
	"cs mov %eax, real - low_base + 16\n\t"
	"cs mov %ebx, real - low_base + 20\n\t"
	"cs mov %ecx, real - low_base + 24\n\t"
	"cs mov %edx, real - low_base + 28\n\t"
	"cs pop real - low_base + 2\n\t"
	"cs pop real - low_base + 4\n\t"
	"cs pop real - low_base + 6\n\t"
	"cs mov %sp, real - low_base + 8\n\t"
	"cs mov %ss, real - low_base + 10\n\t"
	"cs mov %ds, real - low_base + 12\n\t"
	"cs mov %es, real - low_base + 14\n\t"
	"mov %cr0, %eax\n\t"
	"or $1, %al\n\t"
	"mov %eax, %cr0\n\t"
	"ljmpl $0x8, $3f\n" /* KCODE */
	".code32\n"
	"3:\tmov $0x10, %eax\n\t"
	"mov %eax, %ds\n\tmov %eax, %es\n\tmov %eax, %ss\n\t"
	"xor %eax, %eax\n\tmov %eax, %fs\n\tmov %eax, %gs\n\t"
	"mov real_esp, %esp\n\t"
	"lidt real_idt_old\n\t"
	"pop %ebp\n\tpop %edi\n\tpop %esi\n\tpop %ebx\n\t"
	"pushf\n\tandl $~0x47fd5, (%esp)\n\tpopf\n\t"
	"ret\n"
	".balign 4\n"
	"real_idt: .word 0x3ff\n\t.long 0\n"
	".balign 4\n"
	"real_idt_old: .skip 8\n"
	"real_esp: .long 0\n"
	"real: .skip 32\n"
	/* ---- code of the cases ---- */
	".code16\n"
	"r_int: int $0x42\n"
	"r_de: xor %cx, %cx\n\tr_de1: div %cx\n"
	"r_ud: ud2\n"
	"r_br: mov $5, %ax\n\tr_br1: bound %ax, r_bounds - low_base\n\t"
	"r_bounds: .word 1, 3\n"
	"r_of: mov $0x7f, %al\n\tinc %al\n\tinto\n\tr_of1: nop\n"
	"r_int3: int3\n"
	"r_limit: mov $0xffff, %bx\n\tmov $0x1234, %ax\n\tr_limit1: mov (%bx), %ax\n"
	"r_limit_byte: mov $0xffff, %bx\n\tmov (%bx), %al\n\tint $0x43\n"
	"r_limit_addr32: mov $0x10000, %ebx\n\tr_limit_addr321: movb (%ebx), %al\n"
	"r_stack: mov $0xffff, %ebp\n\tr_stack1: mov (%bp), %ax\n"
	"r_lldt: lldt %ax\n"
	"r_str: str %ax\n"
	"r_lar: lar %ax, %bx\n"
	"r_arpl: .byte 0x63, 0xc0\n"
	"r_verr: verr %ax\n"
	"r_sysenter: sysenter\n"
	"r_flags32: mov $0x3f7fd7, %eax\n\tpush %eax\n\tandl $~0x100, "
	"%ss:(%esp)\n\tpopfl\n\tpushfl\n\tpop %eax\n\t"
	"pushl $0\n\tpopfl\n\tint $0x44\n"
	"r_far: lcall $0x3001, $r_far2 - low_base - 0x10\n\tint $0x45\n"
	"r_far2: mov %cs, %ax\n\tmov %sp, %bx\n\tlret\n"
	"r_iret: pushf\n\tpush $0x3002\n\tpush $r_iret2 - low_base - 0x20\n\tiret\n"
	"r_iret2: mov %cs, %ax\n\tint $0x46\n"
	"r_push: mov %esp, %ecx\n\tpushl $0x11112222\n\tpop %ax\n\tpop %bx\n\tmov %esp, "
	"%edx\n\tint $0x47\n"
	"r_wrap: mov $0x3000, %cx\n\tmov $0x5aa5, %ax\n\tmov $0, %sp\n\tpush %ax\n\tmov "
	"%sp, %bx\n\t"
	"mov %ss:0xfffe, %cx\n\tmov $0x8000, %sp\n\tint $0x48\n"
	"r_hma: mov $0xffff, %ax\n\tmov %ax, %es\n\tmovb $0x77, %es:0x10\n\tmov $0, "
	"%ax\n\tmov %ax, %es\n\t"
	"int $0x49\n"
	"r_step: mov %sp, %bp\n\tpush $0x100\n\tpopf\n\tr_step1: nop\n\tr_step2: nop\n"
	"r_cr: mov %cr0, %eax\n\tmov %cr3, %ebx\n\tint $0x4a\n"
	"r_lock: .byte 0xf0\n\tnop\n"
	"r_hlt: hlt\n"
	"r_lidt: lidt r_table - low_base\n\tint $0x4b\n"
	"r_table: .word 0x3ff\n\t.long 0x3c000\n"
	"r_loop: mov $5, %cx\n\txor %ax, %ax\n\t1: inc %ax\n\tloop 1b\n\tint $0x4c\n"
	"r_string: cld\n\tmov $r_source - low_base, %si\n\tmov $r_dest - low_base, "
	"%di\n\tmov $4, %cx\n\trep movsb\n\tint $0x4d\n"
	"r_source: .long 0x12345678\n"
	"r_dest: .long 0\n"
	"r_sp_ff: mov $1, %sp\n\tr_sp_ff1: push %ax\n"
	/* ---- virtual-8086 mode ---- */
	"v_cli: cli\n"
	"v_sti: sti\n"
	"v_pushf: pushf\n"
	"v_popf: popf\n"
	"v_iret: iret\n"
	"v_int: int $0x81\n"
	"v_int3: int3\n"
	"v_into: mov $0x7f, %al\n\tinc %al\n\tv_into1: into\n\tv_into2: nop\n"
	"v_in: in $0x80, %al\n\tint $0x81\n"
	"v_hlt: hlt\n"
	"v_cr: mov %cr0, %eax\n"
	"v_ud: ud2\n"
	"v_str: str %ax\n"
	"v_limit: mov $0xffff, %bx\n\tv_limit1: mov (%bx), %ax\n"
	"v_stack: mov $0xffff, %bp\n\tv_stack1: mov (%bp), %ax\n"
	"v_seg: mov $0x3456, %ax\n\tmov %ax, %es\n\tmov %ax, %fs\n\tmov $0x1122, "
	"%ax\n\tmov %ax, %gs\n\t"
	"mov $0xabcd, %bx\n\tint $0x81\n"
	"v_flags: sti\n\tpushf\n\tpop %ax\n\tcli\n\tpushf\n\tpop %bx\n\tint $0x81\n"
	"v_write: movw $0x1234, v_word - low_base\n\tint $0x81\n"
	"v_word: .word 0\n"
	"v_redirect: mov $7, %ax\n\tint $0x42\n\tv_redirect1: int $0x81\n"
	"v_handler: mov %sp, %bp\n\tmov 0(%bp), %bx\n\tmov 2(%bp), %cx\n\tmov 4(%bp), "
	"%dx\n\tpushf\n\tpop %si\n\tint $0x81\n"
	"v_step: nop\n\tv_step1: nop\n"
	"low_code: .skip 96\n" /* of sensitive.h */
	"low_data: .skip 64\n"
	".balign 16\n"
	".code32\n"
	".text\n");

static void real_run(const u8 *label)
{
	volatile u32 *ivt = (volatile u32 *)0;
	LABEL(real_vectors);

	__asm__("" : "+r"(ivt)); /* or the compiler takes 0 for an error */
	for (unsigned i = 0; i < 256; i++)
		ivt[i] = (u32)LOW_SEG << 16 | (u16)(OFF(real_vectors) + 3 * i);
	set_gdt(KCODE16, descriptor(LOW, 0xffff, D_KCODE));
	set_gdt(KDATA16, descriptor(0, 0xffff, D_KDATA));
	real_enter(OFF(label), 0x8000);
	real.vector = (u16)(real.vector - OFF(real_vectors)) / 3 - 1;
}

#define RUN(l)                                                                           \
	do {                                                                             \
		LABEL(l);                                                                \
		real_run(l);                                                             \
	} while (0)
#define want_at(vec, l)                                                                  \
	do {                                                                             \
		LABEL(l);                                                                \
		want_equal(real.vector, vec);                                            \
		want_equal(real.ip, OFF(l));                                             \
		want_equal(real.cs, LOW_SEG);                                            \
	} while (0)

static void real_exceptions(void)
{
	RUN(r_de);
	want_at(DE, r_de1);
	/* No error codes: the stack is as it was. */
	want_equal(real.sp, 0x8000);
	RUN(r_ud);
	want_at(UD, r_ud);
	RUN(r_br);
	want_at(BR, r_br1);
	RUN(r_of);
	want_at(OF, r_of1);
	RUN(r_int3);
	want_equal(real.vector, BP);
	RUN(r_lock);
	want_at(UD, r_lock);
	RUN(r_limit);
	want_at(GP, r_limit1);
	want_equal(real.sp, 0x8000);
	RUN(r_limit_byte);
	want_equal(real.vector, 0x43);
	RUN(r_limit_addr32);
	want_at(GP, r_limit_addr321);
	RUN(r_stack);
	want_at(SS, r_stack1);
}

static void real_undefined(void)
{
	RUN(r_lldt);
	want_at(UD, r_lldt);
	RUN(r_str);
	want_at(UD, r_str);
	RUN(r_lar);
	want_at(UD, r_lar);
	RUN(r_arpl);
	want_at(UD, r_arpl);
	RUN(r_verr);
	want_at(UD, r_verr);
	RUN(r_sysenter);
	want_at(GP, r_sysenter);
}

static void real_interrupts(void)
{
	LABEL(r_int);
	LABEL(r_ud);
	LABEL(real_vectors);

	RUN(r_int);
	want_equal(real.vector, 0x42);
	want_equal(real.ip, OFF(r_int) + 2);
	want_equal(real.sp, 0x8000);
	RUN(r_iret);
	want_equal(real.vector, 0x46);
	want_equal(real.ax, 0x3002);
	want_equal(real.cs, 0x3002);
	/* The table can be elsewhere: the vector of #UD is that of 4Bh there. */
	for (unsigned i = 0; i < 256; i++)
		((volatile u32 *)0x3c000)[i] = (u32)LOW_SEG << 16 | OFF(r_ud);
	((volatile u32 *)0x3c000)[UD] =
		(u32)LOW_SEG << 16 | (u16)(OFF(real_vectors) + 3 * UD);
	RUN(r_lidt);
	want_at(UD, r_ud);
}

static void real_flags32(void)
{
	RUN(r_flags32);
	want_equal(real.vector, 0x44);
	/* IOPL, NT, AC, ID; not RF, VM, VIF, VIP. */
	want_equal(real.ax, 0x247ed7);
}

static void real_stack(void)
{
	RUN(r_push);
	want_equal(real.vector, 0x47);
	want_equal(real.ax & 0xffff, 0x2222);
	want_equal(real.bx & 0xffff, 0x1111);
	want_equal(real.cx, real.dx);
	/* SP wraps within 64 KiB. */
	RUN(r_wrap);
	want_equal(real.vector, 0x48);
	want_equal(real.bx & 0xffff, 0xfffe);
	want_equal(real.cx & 0xffff, 0x5aa5);
}

static void real_far(void)
{
	RUN(r_far);
	want_equal(real.vector, 0x45);
	want_equal(real.ax & 0xffff, 0x3001);
	want_equal(real.bx & 0xffff, 0x8000 - 4);
	RUN(r_loop);
	want_equal(real.ax, 5);
	RUN(r_string);
	{
		LABEL(r_dest);

		want_equal(*(volatile u32 *)r_dest, 0x12345678);
	}
	RUN(r_cr);
	want(!(real.ax & 1));
}

/* FFFF:0010 is 100000h. */
static void real_high_memory(void)
{
	*(volatile u8 *)0x100000 = 0;
	RUN(r_hma);
	want_equal(real.vector, 0x49);
	want_equal(*(volatile u8 *)0x100000, 0x77);
}

static void real_single_step(void)
{
	RUN(r_step);
	/* POPF sets TF: the trap is behind the next instruction. */
	want_at(DB, r_step2);
	want(real.flags & FL_TF);
	write_dr6(0xffff0ff0);
}

/* ---- virtual-8086 mode ---- */

/* Runs from the label to the first trap of protected mode. */
static word v86(const u8 *label, word flags)
{
	return enter_v86(LOW_SEG, OFF(label), LOW_SEG, LOW_SEG, 0x8000, flags);
}

#define V86(l, flags)                                                                    \
	({                                                                               \
		LABEL(l);                                                                \
		v86(l, flags);                                                           \
	})
#define want_v86(vec, err, l)                                                            \
	do {                                                                             \
		LABEL(l);                                                                \
		want_equal(trap.vector, vec);                                            \
		want_equal(trap.error, err);                                             \
		want_equal(trap.ip, OFF(l));                                             \
		want(trap.flags &FL_VM);                                                 \
	} while (0)

/* IOPL 0: what depends on it is #GP(0). */
static void v86_sensitive(void)
{
	V86(v_cli, 0);
	want_v86(GP, 0, v_cli);
	V86(v_sti, 0);
	want_v86(GP, 0, v_sti);
	V86(v_pushf, 0);
	want_v86(GP, 0, v_pushf);
	V86(v_popf, 0);
	want_v86(GP, 0, v_popf);
	V86(v_iret, 0);
	want_v86(GP, 0, v_iret);
	V86(v_int, 0);
	want_v86(GP, 0, v_int);
	/* INT3 and INTO do not. */
	V86(v_int3, 0);
	want_equal(trap.vector, BP);
	V86(v_into, 0);
	want_v86(OF, 0, v_into2);
	/* I/O goes by the bitmap alone, whatever IOPL is. */
	V86(v_in, FL_IOPL);
	want_v86(GP, 0, v_in);
}

static void v86_iopl3(void)
{
	LABEL(v_int);

	V86(v_int, FL_IOPL);
	want_equal(trap.vector, 0x81);
	want_equal(trap.ip, OFF(v_int) + 2);
	V86(v_flags, FL_IOPL);
	want_equal(trap.vector, 0x81);
	V86(v_cli, FL_IOPL | FL_IF);
	want(!(trap.flags & FL_IF));
}

static void v86_privileged(void)
{
	V86(v_hlt, FL_IOPL);
	want_v86(GP, 0, v_hlt);
	V86(v_cr, FL_IOPL);
	want_v86(GP, 0, v_cr);
	V86(v_ud, 0);
	want_v86(UD, 0, v_ud);
	V86(v_str, 0);
	want_v86(UD, 0, v_str);
	V86(v_limit, 0);
	want_v86(GP, 0, v_limit1);
	V86(v_stack, 0);
	want_v86(SS, 0, v_stack1);
}

/* The frame: ES, DS, FS, GS above SS; and null selectors in the handler. */
static volatile u32 frame_es, frame_ds, frame_fs, frame_gs, frame_ss, frame_sp, frame_bx,
	now_fs;

static void on_frame(struct frame *f)
{
	LABEL(v_ud);

	frame_es = f->v86_es & 0xffff;
	frame_ds = f->v86_ds & 0xffff;
	frame_fs = f->v86_fs & 0xffff;
	frame_gs = f->v86_gs & 0xffff;
	frame_ss = f->ss & 0xffff;
	frame_sp = f->sp;
	frame_bx = f->bx & 0xffff;
	now_fs = f->fs & 0xffff;
	/* Back in there, where an UD2 is the end. */
	f->ip = OFF(v_ud);
	f->v86_gs = 0x4321;
}

static void v86_frame(void)
{
	hook[0x81] = on_frame;
	V86(v_seg, FL_IOPL);
	hook[0x81] = NULL;
	want_v86(UD, 0, v_ud);
	want_equal(trap.ss, LOW_SEG);
	want_equal(trap.sp, 0x8000);
	want_equal(frame_es, 0x3456);
	want_equal(frame_fs, 0x3456);
	want_equal(frame_gs, 0x1122);
	want_equal(frame_ds, LOW_SEG);
	want_equal(frame_ss, LOW_SEG);
	want_equal(frame_sp, 0x8000);
	want_equal(frame_bx, 0xabcd);
	want_equal(now_fs, 0);
}

static void v86_memory(void)
{
	LABEL(v_word);

	*(volatile u16 *)v_word = 0;
	V86(v_write, FL_IOPL);
	want_equal(*(volatile u16 *)v_word, 0x1234);
}

static void v86_single_step(void)
{
	V86(v_step, FL_TF);
	want_v86(DB, 0, v_step1);
	write_dr6(0xffff0ff0);
}

/* ---- VME ---- */

static void vme(void)
{
	if (!HAS(1, 0, d, 1)) {
		skip("no VME");
		return;
	}
	write_cr4(read_cr4() | 1);
	/* IOPL 0: CLI and STI act on VIF; STI with VIP is #GP. */
	V86(v_flags, 0);
	want_equal(trap.vector, GP); /* the INT 81h: not redirected, IOPL 0 */
	want(!(trap.flags & FL_VIF));
	V86(v_sti, FL_VIP);
	want_v86(GP, 0, v_sti);
	write_cr4(read_cr4() & ~1ul);
}

/* INT n by the redirection bitmap: bit 0 sends it to the program's own handler. */
static void vme_redirect(void)
{
	volatile u32 *ivt = (volatile u32 *)0;
	LABEL(v_handler);
	LABEL(v_redirect1);

	if (!HAS(1, 0, d, 1)) {
		skip("no VME");
		return;
	}
	__asm__("" : "+r"(ivt));
	ivt[0x42] = (u32)LOW_SEG << 16 | OFF(v_handler);
	for (unsigned i = 0; i < 32; i++)
		((volatile u8 *)tss.redirect)[i] = 0xff;
	tss.iomap = offsetof(struct tss, bitmap);
	write_cr4(read_cr4() | 1);
	/* Bit 1: as without VME. */
	V86(v_redirect, 0);
	want_equal(trap.vector, GP);
	((volatile u8 *)tss.redirect)[0x42 / 8] &= (u8) ~(1 << (0x42 % 8));
	V86(v_redirect, FL_VIF);
	/* The handler's own INT 81h is not redirected. */
	want_equal(trap.vector, GP);
	want_equal(trap.sp, 0x8000 - 6);
	want_equal(*(volatile u16 *)(LOW + 0x8000 - 6), OFF(v_redirect1));
	want_equal(*(volatile u16 *)(LOW + 0x8000 - 4), LOW_SEG);
	/* The image has IF = VIF and IOPL 3; VIF is off in the handler. */
	want_equal(*(volatile u16 *)(LOW + 0x8000 - 2) & (FL_IF | FL_IOPL),
		   FL_IF | FL_IOPL);
	want(!(trap.flags & FL_VIF));
	/* With IOPL 3 it is IF itself. */
	V86(v_redirect, FL_IOPL | FL_IF);
	want_equal(trap.vector, 0x81);
	want(!(trap.flags & FL_IF));
	write_cr4(read_cr4() & ~1ul);
	tss.iomap = TSS_SIZE;
}

/* ---- the table of sensitive.h ---- */

static void run_low(const struct sens_insn *in, const struct sens_state *s)
{
	LABEL(low_code);
	LABEL(low_data);
	word start = sens_build(low_code, in, s, OFF(low_code), OFF(low_data));
	word cr4 = read_cr4();

	write_cr4(sens_cr4(cr4, s));
	if (s->mode == M_REAL) {
		real_run(low_code);
		write_cr4(cr4);
		sens_judge(in, s, start, real.vector, 0, real.ip, 0);
		return;
	}
	v86(low_code, s->flags | s->iopl << 12);
	write_cr4(cr4);
	sens_judge(in, s, start, trap.vector, trap.error, trap.ip, trap.flags);
}

static void real_sensitive(void)
{
	struct sens_state s = { .mode = M_REAL, .bits = 16, .iopl = 0 };

	sens_rows(&s, run_low);
	write_dr0(0);
}

static void v86_all_sensitive(void)
{
	struct sens_state s = { .mode = M_V86, .bits = 16, .cpl = 3 };

	/* Neither INT nor I/O is let through. */
	for (unsigned i = 0; i < 32; i++)
		((volatile u8 *)tss.redirect)[i] = 0xff;
	for (unsigned i = 0; i < 64; i++)
		((volatile u8 *)tss.bitmap)[i] = 0xff;
	tss.iomap = offsetof(struct tss, bitmap);
	for (unsigned n = 0; n < (HAS(1, 0, d, 1) ? 8 : 4); n++) {
		s.iopl = n & 3;
		s.virt = n & 4;
		sens_rows(&s, run_low);
	}
	tss.iomap = TSS_SIZE;
}

const struct test_case cases[] = {
	CASE(real_sensitive, "SDM 3 20.1.3"),

	CASE(real_exceptions, "SDM 3 20.1.4"),
	CASE(real_undefined, "SDM 3 20.1"),
	CASE(real_interrupts, "SDM 3 20.1.4"),
	CASE(real_flags32, "SDM 2 POPF"),
	CASE(real_stack, "SDM 3 20.1"),
	CASE(real_far, "SDM 3 20.1"),
	CASE(real_high_memory, "SDM 3 20.1.1"),
	CASE(real_single_step, "SDM 3 20.1.4"),
	CASE(v86_sensitive, "SDM 3 20.2.7"),
	CASE(v86_iopl3, "SDM 3 20.2.7"),
	CASE(v86_privileged, "SDM 3 20.2"),
	CASE(v86_frame, "SDM 3 20.3.1.1"),
	CASE(v86_memory, "SDM 3 20.2.1"),
	CASE(v86_single_step, "SDM 3 20.3"),
	CASE(vme, "SDM 3 20.4"),
	CASE(vme_redirect, "SDM 3 20.3.3"),
	CASE(v86_all_sensitive, "SDM 3 20.2.7, 20.4"), /* leaves VIP set */
	CASES_END,
};
