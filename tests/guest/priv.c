/*
 * What needs privilege: each privileged instruction at CPL 3, IOPL and the I/O bitmap,
 * UMIP, TSD, PVI, FSGSBASE. SDM volume 3 sections 5.9, 2.3 (IOPL), 20.4 (PVI); volume 1
 * section 19.5 (I/O bitmap).
 */
#include "rt.h"

static u8 buffer[64] __attribute__((aligned(16)));

/* ---- privileged instructions ---- */

/* Each is #GP(0) at CPL 3 whatever its operands would do, and leaves RIP at it. */
#define PRIVILEGED(X)                                                                    \
	X("hlt")                                                                         \
	X("clts")                                                                        \
	X("invd")                                                                        \
	X("wbinvd")                                                                      \
	X("lgdt (%%" W_BX ")")                                                           \
	X("lidt (%%" W_BX ")")                                                           \
	X("lldt %%ax")                                                                   \
	X("ltr %%ax")                                                                    \
	X("lmsw %%ax")                                                                   \
	X("mov %%cr0, %%" W_AX)                                                          \
	X("mov %%cr2, %%" W_AX)                                                          \
	X("mov %%cr3, %%" W_AX)                                                          \
	X("mov %%cr4, %%" W_AX)                                                          \
	X("mov %%" W_AX ", %%cr0")                                                       \
	X("mov %%" W_AX ", %%cr2")                                                       \
	X("mov %%" W_AX ", %%cr3")                                                       \
	X("mov %%" W_AX ", %%cr4")                                                       \
	X("mov %%dr0, %%" W_AX)                                                          \
	X("mov %%dr7, %%" W_AX)                                                          \
	X("mov %%" W_AX ", %%dr0")                                                       \
	X("mov %%" W_AX ", %%dr7")                                                       \
	X("rdmsr")                                                                       \
	X("wrmsr")                                                                       \
	X("rdpmc")                                                                       \
	X("invlpg (%%" W_BX ")")                                                         \
	X("cli")                                                                         \
	X("sti")                                                                         \
	X("inb $0x80, %%al")                                                             \
	X("inw %%dx, %%ax")                                                              \
	X("inl %%dx, %%eax")                                                             \
	X("outb %%al, $0x80")                                                            \
	X("outl %%eax, %%dx")                                                            \
	X("insb")                                                                        \
	X("outsb")                                                                       \
	X("rep insb")                                                                    \
	X("rep outsl")                                                                   \
	PRIVILEGED_64(X)

#if W64
#define PRIVILEGED_64(X)                                                                 \
	X("mov %%cr8, %%rax")                                                            \
	X("mov %%rax, %%cr8")                                                            \
	X("swapgs")
#else
#define PRIVILEGED_64(X)
#endif

static word all_user(word arg)
{
	(void)arg;
#define X(insn)                                                                          \
	TRY("", insn,                                                                    \
	    :                                                                            \
	    : "a"(0l), "b"(buffer), "c"(1l), "d"(0x80l), "S"(buffer), "D"(buffer)        \
	    : "memory");                                                                 \
	checked();                                                                       \
	if (trap.vector != GP || trap.error || trap.ip != trap.at)                       \
		fail("line %d: %s: vector %lx error %lx", __LINE__, insn, trap.vector,   \
		     trap.error);
	PRIVILEGED(X)
#undef X
	return 0;
}

static void privileged_at_cpl3(void)
{
	user_run(all_user, 0);
}

/* Privilege is looked at before anything else: a bad memory operand, a bad MSR. */
static word priority_user(word arg)
{
	(void)arg;
#if W64
	TRY("", "lgdt (%0)", : : "r"(BIT(32)));
	want_fault(GP, 0);
	TRY("", "invlpg (%0)", : : "r"(0x800000000000));
	want_fault(GP, 0);
#endif
	TRY("", "insb", : : "D"(0l), "d"(0x80));
	want_fault(GP, 0);
	/* But not before #UD. */
	TRY("", ".byte 0x0f, 0x01, 0xd8", :); /* VMRUN: no SVM */
	want_fault(UD, 0);
	TRY("", ".byte 0x0f, 0x22, 0xc8", :); /* MOV CR1 */
	want_fault(UD, 0);
	TRY("", ".byte 0xf0, 0x0f, 0x01, 0x13", : : "b"(buffer)); /* LOCK LGDT */
	want_fault(UD, 0);
	/* VMX is off. */
	TRY("", ".byte 0x0f, 0x01, 0xc1", :); /* VMCALL */
	want_fault(UD, 0);
	/* STAC and CLAC are #UD outside CPL 0. */
	TRY("", "stac", :);
	want_fault(UD, 0);
	/* RSM outside SMM. */
	TRY("", "rsm", :);
	want_fault(UD, 0);
	return 0;
}

static void priority(void)
{
	user_run(priority_user, 0);
	TRY("", "rsm", :);
	want_fault(UD, 0);
}

/* ---- UMIP ---- */

static word umip_user(word on)
{
	static const char *const names[] = { "sgdt", "sidt", "sldt",
					     "str",  "smsw", "smsw mem" };

	for (unsigned i = 0; i < 6; i++) {
		switch (i) {
		case 0: TRY("", "sgdt (%0)", : : "r"(buffer) : "memory"); break;
		case 1: TRY("", "sidt (%0)", : : "r"(buffer) : "memory"); break;
		case 2: TRY("", "sldt %%ax", : : : "eax"); break;
		case 3: TRY("", "str %%ax", : : : "eax"); break;
		case 4: TRY("", "smsw %%eax", : : : "eax"); break;
		default: TRY("", "smsw (%0)", : : "r"(buffer) : "memory"); break;
		}
		checked();
		if (trap.vector != (on ? GP : NONE) || (on && trap.error))
			fail("%s, UMIP %lx: vector %lx", names[i], on, trap.vector);
	}
	return 0;
}

static void umip(void)
{
	if (!HAS_UMIP) {
		skip("no UMIP");
		return;
	}
	user_run(umip_user, 0);
	write_cr4(read_cr4() | BIT(11));
	user_run(umip_user, 1);
	/* Not at CPL 0. */
	TRY("", "sgdt (%0)", : : "r"(buffer) : "memory");
	want_none();
	write_cr4(read_cr4() & ~(word)BIT(11));
}

static void stored_tables(void)
{
	struct table t = { 0, 0 };
	u32 v;

	__asm__ volatile("sgdt %0" : "=m"(t));
	want_equal(t.limit, GDT_BYTES - 1);
	want_equal(t.base, (word)gdt);
	__asm__ volatile("sldt %0" : "=r"(v));
	want_equal(v, 0);
	__asm__ volatile("str %0" : "=r"(v));
	want_equal(v, TSS_SEL);
	__asm__ volatile("smsw %0" : "=r"(v));
	want_equal(v, (u32)read_cr0());
	/* The memory form has 16 bits whatever the operand size is. */
	*(volatile u64 *)buffer = ~0ull;
	__asm__ volatile("strw %0" : "=m"(buffer) : : "memory");
	want_equal(*(volatile u64 *)buffer, 0xffffffffffff0000 | TSS_SEL);
}

/* ---- I/O ---- */

static word io_user(word port)
{
	u32 v;

	return TRY("", "inb %%dx, %%al", : "=a"(v) : "d"(port));
}

static word io_user2(word port)
{
	u32 v;

	return TRY("", "inw %%dx, %%ax", : "=a"(v) : "d"(port));
}

static word io_user4(word port)
{
	u32 v;

	return TRY("", "inl %%dx, %%eax", : "=a"(v) : "d"(port));
}

static void set_map(word offset, u16 limit)
{
	tss.iomap = (u16)offset;
	set_gdt(TSS_SEL, descriptor((u32)(word)&tss, limit, D_TYPE(9) | D_P));
	__asm__ volatile("ltr %w0" : : "r"(TSS_SEL));
}

static void io_bitmap(void)
{
	word at = offsetof(struct tss, bitmap);

	for (unsigned i = 0; i < sizeof(tss.bitmap); i++)
		((volatile u8 *)tss.bitmap)[i] = 0xff;
	set_map(at, TSS_SIZE - 1);
	want_equal(user_run(io_user, 0x80), GP);
	want_fault(GP, 0);
	((volatile u8 *)tss.bitmap)[0x10] = 0xfe; /* 80h alone */
	want_equal(user_run(io_user, 0x80), NONE);
	want_equal(user_run(io_user, 0x81), GP);
	/* Every port of the access counts. */
	want_equal(user_run(io_user2, 0x80), GP);
	((volatile u8 *)tss.bitmap)[0x10] = 0x7f; /* 87h */
	((volatile u8 *)tss.bitmap)[0x11] = 0xfe; /* 88h */
	want_equal(user_run(io_user2, 0x87), NONE);
	want_equal(user_run(io_user4, 0x85), GP);
	want_equal(user_run(io_user4, 0x87), GP);
	((volatile u8 *)tss.bitmap)[0x11] = 0xf8;
	want_equal(user_run(io_user4, 0x87), NONE);
	/* Two bytes are read: the last byte of the map must lie below the limit. */
	set_map(at, (u16)(at + 0x10));
	want_equal(user_run(io_user, 0x87), GP);
	set_map(at, (u16)(at + 0x11));
	want_equal(user_run(io_user, 0x87), NONE);
	want_equal(user_run(io_user2, 0x87), NONE);
	/* The last port. */
	((volatile u8 *)tss.bitmap)[0x1fff] = 0x7f;
	set_map(at, TSS_SIZE - 1);
	want_equal(user_run(io_user, 0xffff), NONE);
	want_equal(user_run(io_user, 0xfffe), GP);
	/* Off the end: no map. */
	set_map(TSS_SIZE, TSS_SIZE - 1);
	want_equal(user_run(io_user, 0x80), GP);
	/* IOPL opens all. */
	user_iopl = 3;
	want_equal(user_run(io_user, 0x80), NONE);
	want_equal(user_run(io_user4, 0x80), NONE);
	user_iopl = 0;
	load_tss();
}

static word iopl_user(word arg)
{
	(void)arg;
	TRY("", "cli", :);
	want_none();
	want_equal(read_flags() & FL_IF, 0);
	/* IOPL itself cannot be changed here, and no error says so. */
	write_flags(read_flags() & ~(word)FL_IOPL);
	want_equal(read_flags() & FL_IOPL, FL_IOPL);
	return 0;
}

static word popf_user(word arg)
{
	(void)arg;
	/* IF is kept silently when IOPL is too low. */
	write_flags(read_flags() | FL_IF | FL_IOPL);
	return read_flags();
}

static void iopl(void)
{
	user_iopl = 3;
	user_run(iopl_user, 0);
	for (user_iopl = 0; user_iopl < 3; user_iopl++)
		want_equal(user_run(popf_user, 0) & (FL_IF | FL_IOPL), user_iopl << 12);
	user_iopl = 0;
}

/* ---- CR4.TSD, PVI ---- */

static word rdtsc_user(word arg)
{
	(void)arg;
	TRY("", "rdtsc", : : : "eax", "edx");
	if (HAS_RDTSCP && trap.vector != TRY("", "rdtscp", : : : "eax", "edx", "ecx"))
		return 0x200;
	return trap.vector;
}

static void tsd(void)
{
	want_equal(user_run(rdtsc_user, 0), NONE);
	write_cr4(read_cr4() | 4);
	want_equal(user_run(rdtsc_user, 0), GP);
	want_fault(GP, 0);
	TRY("", "rdtsc", : : : "eax", "edx");
	want_none();
	write_cr4(read_cr4() & ~4ul);
}

/* Without PVI, and with it: CLI and STI act on VIF at CPL 3 with IOPL below 3. */
static word pvi_user(word vip)
{
	(void)vip;
	TRY("", "sti", :);
	if (trap.vector != NONE)
		return trap.vector;
	return read_flags();
}

static word pvi_cli_user(word vip)
{
	(void)vip;
	TRY("", "cli", :);
	return trap.vector;
}

static word pvi_flags;

static void see_flags(struct frame *f)
{
	pvi_flags = f->flags;
}

static word pvi_see_user(word arg)
{
	(void)arg;
	if (TRY("", "sti", :) != NONE)
		return 1;
	__asm__ volatile("int $0x81");
	if (!(pvi_flags & FL_VIF) || (pvi_flags & FL_IF))
		return 2;
	if (TRY("", "cli", :) != NONE)
		return 3;
	__asm__ volatile("int $0x81");
	if (pvi_flags & (FL_VIF | FL_IF))
		return 4;
	return 0;
}

static void pvi(void)
{
	want_equal(user_run(pvi_user, 0), GP);
	write_cr4(read_cr4() | 2);
	hook[0x81] = see_flags;
	want_equal(user_run(pvi_see_user, 0), 0);
	want_equal(user_run(pvi_cli_user, 0), NONE);
	hook[0x81] = NULL;
	write_cr4(read_cr4() & ~2ul);
	want_equal(user_run(pvi_cli_user, 0), GP);
}

/* ---- FSGSBASE ---- */

#if W64
static word fsgs_user(word arg)
{
	word v = 0;

	(void)arg;
	if (TRY("", "wrfsbase %0", : : "r"(0x12345678aul)) != NONE)
		return trap.vector;
	__asm__ volatile("rdfsbase %0" : "=r"(v));
	if (v != 0x12345678a)
		return 1;
	__asm__ volatile("wrgsbase %k0" : : "r"(0xffffffff12345678));
	__asm__ volatile("rdgsbase %0" : "=r"(v));
	if (v != 0x12345678)
		return 2;
	TRY("", "wrgsbase %0", : : "r"(NOT_CANONICAL));
	want_fault(GP, 0);
	/* A load of the selector changes the base. */
	__asm__ volatile("wrfsbase %0\n\tmov %1, %%fs\n\trdfsbase %0"
			 : "+r"(v)
			 : "r"(UDATA));
	if (v)
		return 3;
	return NONE;
}

static void fsgsbase(void)
{
	if (!HAS_FSGSBASE) {
		skip("no FSGSBASE");
		return;
	}
	want_equal(user_run(fsgs_user, 0), UD);
	TRY("", "rdfsbase %%rax", : : : "rax");
	want_fault(UD, 0);
	write_cr4(read_cr4() | BIT(16));
	want_equal(user_run(fsgs_user, 0), NONE);
	write_cr4(read_cr4() & ~BIT(16));
	wrmsr(0xc0000100, 0x1122334455);
	wrmsr(0xc0000101, 0);
	want_equal(rdmsr(0xc0000100), 0x1122334455);
	wrmsr(0xc0000100, 0);
	want_equal(try_wrmsr(0xc0000100, NOT_CANONICAL), GP);
}

static void swapgs(void)
{
	wrmsr(0xc0000101, 0x1111);
	wrmsr(0xc0000102, 0x222200000000);
	__asm__ volatile("swapgs");
	want_equal(rdmsr(0xc0000101), 0x222200000000);
	want_equal(rdmsr(0xc0000102), 0x1111);
	__asm__ volatile("swapgs");
	want_equal(rdmsr(0xc0000101), 0x1111);
	wrmsr(0xc0000101, 0);
	wrmsr(0xc0000102, 0);
}
#endif

const struct test_case cases[] = {
	CASE(privileged_at_cpl3, "SDM 3 5.9"),
	CASE(priority, "SDM 2"),
	CASE(umip, "SDM 3 2.5"),
	CASE(stored_tables, "SDM 2 SGDT, STR, SMSW"),
	CASE(io_bitmap, "SDM 1 19.5.2"),
	CASE(iopl, "SDM 3 2.3"),
	CASE(tsd, "SDM 3 2.5"),
	CASE(pvi, "SDM 3 20.4"),
#if W64
	CASE(fsgsbase, "SDM 2 WRFSBASE"),
	CASE(swapgs, "SDM 2 SWAPGS"),
#endif
	CASES_END,
};
