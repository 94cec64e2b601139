/*
 * The privileged and sensitive instructions of Popek and Goldberg's theorem, and what the
 * manual says that each does in every mode and at every level: an oracle of its own.
 *
 * SDM volume 2, each instruction's operation and exceptions; volume 3 sections 2.5 (TSD,
 * UMIP, PVI, VME), 5.9, 20.2.7 and 20.4. For sensitive.c (rings 0 to 3) and legacy.c
 * (real and virtual-8086 mode).
 */
#pragma once

#include "rt.h"

enum sens_kind {
	S_FREE,     /* everywhere */
	S_PRIV,     /* at CPL 0 */
	S_IF,       /* by IOPL, or on VIF */
	S_IO,       /* by IOPL; the bitmap allows nothing here */
	S_STORE,    /* not at CPL 1 to 3 with UMIP */
	S_STORE_PM, /* nor outside protected mode */
	S_PM,       /* in protected mode alone */
	S_PRIV_PM,
	S_AC, /* #UD unless CPL 0 */
	S_TSC,
	S_PUSHF,
	S_POPF,
	S_INT,
	S_IRET,
	S_UD,
};

struct sens_insn {
	const char *name;
	u8 code[6], len;
	u8 modrm; /* index of the ModRM byte if its operand is to be [BX], else 0 */
	enum sens_kind kind;
	bool run0;   /* may be run where it is allowed */
	u8 where;    /* bits 16/16, 32/16, 64/16: code sizes in which it exists */
	u8 opsize16; /* has a 66h prefix */
};

#define ALL_SIZES 7
#define NOT_64    3
#define ONLY_64   4

/* clang-format off */
static const struct sens_insn sens_insns[] = {
	{ "nop",          { 0x90 }, 1, 0, S_FREE, true, ALL_SIZES, 0 },
	{ "cpuid",        { 0x0f, 0xa2 }, 2, 0, S_FREE, true, ALL_SIZES, 0 },
	{ "mov ax, cs",   { 0x8c, 0xc8 }, 2, 0, S_FREE, true, ALL_SIZES, 0 },
	{ "mov ax, ss",   { 0x8c, 0xd0 }, 2, 0, S_FREE, true, ALL_SIZES, 0 },
	{ "push cs",      { 0x0e }, 1, 0, S_FREE, true, NOT_64, 0 },
	{ "push fs",      { 0x0f, 0xa0 }, 2, 0, S_FREE, true, ALL_SIZES, 0 },
	{ "into",         { 0xce }, 1, 0, S_FREE, true, NOT_64, 0 },
	{ "lea",          { 0x8d, 0x00 }, 2, 1, S_FREE, true, ALL_SIZES, 0 },
	{ "cli",          { 0xfa }, 1, 0, S_IF, true, ALL_SIZES, 0 },
	{ "sti",          { 0xfb }, 1, 0, S_IF, true, ALL_SIZES, 0 },
	{ "hlt",          { 0xf4 }, 1, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "in al, dx",    { 0xec }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "in eax, dx",   { 0xed }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "in ax, dx",    { 0x66, 0xed }, 2, 0, S_IO, true, ALL_SIZES, 1 },
	{ "in al, 80h",   { 0xe4, 0x80 }, 2, 0, S_IO, true, ALL_SIZES, 0 },
	{ "in eax, 80h",  { 0xe5, 0x80 }, 2, 0, S_IO, true, ALL_SIZES, 0 },
	{ "out dx, al",   { 0xee }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "out dx, eax",  { 0xef }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "out 80h, al",  { 0xe6, 0x80 }, 2, 0, S_IO, true, ALL_SIZES, 0 },
	{ "out 80h, eax", { 0xe7, 0x80 }, 2, 0, S_IO, true, ALL_SIZES, 0 },
	{ "insb",         { 0x6c }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "insd",         { 0x6d }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "outsb",        { 0x6e }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "outsd",        { 0x6f }, 1, 0, S_IO, true, ALL_SIZES, 0 },
	{ "rep insb",     { 0xf3, 0x6c }, 2, 0, S_IO, false, ALL_SIZES, 0 },
	{ "rep outsd",    { 0xf3, 0x6f }, 2, 0, S_IO, false, ALL_SIZES, 0 },
	{ "sgdt",         { 0x0f, 0x01, 0x00 }, 3, 2, S_STORE, true, ALL_SIZES, 0 },
	{ "sidt",         { 0x0f, 0x01, 0x08 }, 3, 2, S_STORE, true, ALL_SIZES, 0 },
	{ "smsw [bx]",    { 0x0f, 0x01, 0x20 }, 3, 2, S_STORE, true, ALL_SIZES, 0 },
	{ "smsw eax",     { 0x0f, 0x01, 0xe0 }, 3, 0, S_STORE, true, ALL_SIZES, 0 },
	{ "sldt [bx]",    { 0x0f, 0x00, 0x00 }, 3, 2, S_STORE_PM, true, ALL_SIZES, 0 },
	{ "sldt ax",      { 0x0f, 0x00, 0xc0 }, 3, 0, S_STORE_PM, true, ALL_SIZES, 0 },
	{ "str [bx]",     { 0x0f, 0x00, 0x08 }, 3, 2, S_STORE_PM, true, ALL_SIZES, 0 },
	{ "str ax",       { 0x0f, 0x00, 0xc8 }, 3, 0, S_STORE_PM, true, ALL_SIZES, 0 },
	{ "lldt ax",      { 0x0f, 0x00, 0xd0 }, 3, 0, S_PRIV_PM, false, ALL_SIZES, 0 },
	{ "lldt [bx]",    { 0x0f, 0x00, 0x10 }, 3, 2, S_PRIV_PM, false, ALL_SIZES, 0 },
	{ "ltr ax",       { 0x0f, 0x00, 0xd8 }, 3, 0, S_PRIV_PM, false, ALL_SIZES, 0 },
	{ "ltr [bx]",     { 0x0f, 0x00, 0x18 }, 3, 2, S_PRIV_PM, false, ALL_SIZES, 0 },
	{ "verr ax",      { 0x0f, 0x00, 0xe0 }, 3, 0, S_PM, true, ALL_SIZES, 0 },
	{ "verw ax",      { 0x0f, 0x00, 0xe8 }, 3, 0, S_PM, true, ALL_SIZES, 0 },
	{ "verr [bx]",    { 0x0f, 0x00, 0x20 }, 3, 2, S_PM, true, ALL_SIZES, 0 },
	{ "lar ecx, ax",  { 0x0f, 0x02, 0xc8 }, 3, 0, S_PM, true, ALL_SIZES, 0 },
	{ "lsl ecx, ax",  { 0x0f, 0x03, 0xc8 }, 3, 0, S_PM, true, ALL_SIZES, 0 },
	{ "arpl ax, cx",  { 0x63, 0xc8 }, 2, 0, S_PM, true, NOT_64, 0 },
	{ "lgdt",         { 0x0f, 0x01, 0x10 }, 3, 2, S_PRIV, false, ALL_SIZES, 0 },
	{ "lidt",         { 0x0f, 0x01, 0x18 }, 3, 2, S_PRIV, false, ALL_SIZES, 0 },
	{ "lmsw ax",      { 0x0f, 0x01, 0xf0 }, 3, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "lmsw [bx]",    { 0x0f, 0x01, 0x30 }, 3, 2, S_PRIV, false, ALL_SIZES, 0 },
	{ "invlpg",       { 0x0f, 0x01, 0x38 }, 3, 2, S_PRIV, true, ALL_SIZES, 0 },
	{ "clts",         { 0x0f, 0x06 }, 2, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "invd",         { 0x0f, 0x08 }, 2, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "wbinvd",       { 0x0f, 0x09 }, 2, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, cr0", { 0x0f, 0x20, 0xc0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, cr1", { 0x0f, 0x20, 0xc8 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "mov eax, cr2", { 0x0f, 0x20, 0xd0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, cr3", { 0x0f, 0x20, 0xd8 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, cr4", { 0x0f, 0x20, 0xe0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, cr5", { 0x0f, 0x20, 0xe8 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "mov eax, cr7", { 0x0f, 0x20, 0xf8 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "mov rax, cr8", { 0x44, 0x0f, 0x20, 0xc0 }, 4, 0, S_PRIV, true, ONLY_64, 0 },
	{ "mov rax, cr9", { 0x44, 0x0f, 0x20, 0xc8 }, 4, 0, S_UD, true, ONLY_64, 0 },
	{ "mov cr0, eax", { 0x0f, 0x22, 0xc0 }, 3, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "mov cr1, eax", { 0x0f, 0x22, 0xc8 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "mov cr2, eax", { 0x0f, 0x22, 0xd0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov cr3, eax", { 0x0f, 0x22, 0xd8 }, 3, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "mov cr4, eax", { 0x0f, 0x22, 0xe0 }, 3, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "mov cr6, eax", { 0x0f, 0x22, 0xf0 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "mov cr8, rax", { 0x44, 0x0f, 0x22, 0xc0 }, 4, 0, S_PRIV, false, ONLY_64, 0 },
	{ "mov eax, dr0", { 0x0f, 0x21, 0xc0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, dr3", { 0x0f, 0x21, 0xd8 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, dr4", { 0x0f, 0x21, 0xe0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, dr6", { 0x0f, 0x21, 0xf0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov eax, dr7", { 0x0f, 0x21, 0xf8 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov rax, dr8", { 0x44, 0x0f, 0x21, 0xc0 }, 4, 0, S_UD, true, ONLY_64, 0 },
	{ "mov dr0, eax", { 0x0f, 0x23, 0xc0 }, 3, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "mov dr7, eax", { 0x0f, 0x23, 0xf8 }, 3, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "rdmsr",        { 0x0f, 0x32 }, 2, 0, S_PRIV, true, ALL_SIZES, 0 },
	{ "wrmsr",        { 0x0f, 0x30 }, 2, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "rdpmc",        { 0x0f, 0x33 }, 2, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "rdtsc",        { 0x0f, 0x31 }, 2, 0, S_TSC, true, ALL_SIZES, 0 },
	{ "sysexit",      { 0x0f, 0x35 }, 2, 0, S_PRIV, false, ALL_SIZES, 0 },
	{ "swapgs",       { 0x0f, 0x01, 0xf8 }, 3, 0, S_PRIV, true, ONLY_64, 0 },
	{ "swapgs",       { 0x0f, 0x01, 0xf8 }, 3, 0, S_UD, true, NOT_64, 0 },
	{ "clac",         { 0x0f, 0x01, 0xca }, 3, 0, S_AC, true, ALL_SIZES, 0 },
	{ "stac",         { 0x0f, 0x01, 0xcb }, 3, 0, S_AC, true, ALL_SIZES, 0 },
	{ "rsm",          { 0x0f, 0xaa }, 2, 0, S_UD, true, ALL_SIZES, 0 },
	{ "ud2",          { 0x0f, 0x0b }, 2, 0, S_UD, true, ALL_SIZES, 0 },
	{ "vmcall",       { 0x0f, 0x01, 0xc1 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "vmrun",        { 0x0f, 0x01, 0xd8 }, 3, 0, S_UD, true, ALL_SIZES, 0 },
	{ "pushf",        { 0x9c }, 1, 0, S_PUSHF, true, ALL_SIZES, 0 },
	{ "pushf other",  { 0x66, 0x9c }, 2, 0, S_PUSHF, true, ALL_SIZES, 1 },
	{ "popf",         { 0x9d }, 1, 0, S_POPF, true, ALL_SIZES, 0 },
	{ "popf other",   { 0x66, 0x9d }, 2, 0, S_POPF, true, ALL_SIZES, 1 },
	{ "int 83h",      { 0xcd, 0x83 }, 2, 0, S_INT, true, ALL_SIZES, 0 },
	{ "iret",         { 0xcf }, 1, 0, S_IRET, true, NOT_64, 0 },
	{ "iretq",        { 0x48, 0xcf }, 2, 0, S_IRET, true, ONLY_64, 0 },
};
/* clang-format on */

enum sens_mode { M_REAL, M_V86, M_PROT };
struct sens_state {
	enum sens_mode mode;
	unsigned bits; /* of the code: 16, 32, 64 */
	unsigned cpl, iopl;
	bool virt; /* CR4.PVI, or in v8086 mode CR4.VME */
	bool umip, tsd;
	word flags; /* IF, VIF, VIP, besides IOPL */
	word image; /* what POPF and IRET take */
};
#define SENS_INT 0x83

static inline bool sens_exists(const struct sens_insn *in, const struct sens_state *s)
{
	if (!(in->where & (s->bits / 16 == 4 ? 4 : s->bits / 16)))
		return false;
	if (in->kind == S_AC && !HAS_SMAP)
		return false;
	return true;
}

static inline bool sens_op16(const struct sens_insn *in, const struct sens_state *s)
{
	return (s->bits == 16) != in->opsize16;
}

/* The vector it ends with; BP when it is carried out, as an INT3 follows. */
static inline word sens_expect(const struct sens_insn *in, const struct sens_state *s)
{
	bool real = s->mode == M_REAL, v86 = s->mode == M_V86, prot = !real && !v86;
	bool level0 = real || (prot && s->cpl == 0);
	bool iopl_ok = real || s->cpl <= s->iopl;
	bool image_if = s->image & FL_IF;

	switch (in->kind) {
	case S_PRIV: return level0 ? BP : GP;
	case S_IF:
		if (iopl_ok)
			return BP;
		if (!s->virt || s->cpl != 3)
			return GP;
		return in->code[0] == 0xfb && (s->flags & FL_VIP) ? GP : BP;
	case S_IO: return real || (prot && iopl_ok) ? BP : GP;
	case S_STORE: return !level0 && s->umip ? GP : BP;
	case S_STORE_PM: return !prot ? UD : s->cpl && s->umip ? GP : BP;
	case S_PM: return prot ? BP : UD;
	case S_PRIV_PM: return !prot ? UD : s->cpl ? GP : BP;
	case S_AC: return level0 ? BP : UD;
	case S_TSC: return s->tsd && !level0 ? GP : BP;
	case S_PUSHF:
		if (!v86 || s->iopl == 3)
			return BP;
		return s->virt && sens_op16(in, s) ? BP : GP;
	case S_POPF:
		if (!v86 || s->iopl == 3)
			return BP;
		if (!s->virt || !sens_op16(in, s) || (s->image & FL_TF))
			return GP;
		return image_if && (s->flags & FL_VIP) ? GP : BP;
	case S_IRET:
		if (!v86 || s->iopl == 3)
			return BP;
		return !s->virt || (s->image & FL_TF) || (image_if && (s->flags & FL_VIP))
			       ? GP
			       : BP;
	case S_INT: return v86 && s->iopl < 3 ? GP : SENS_INT;
	case S_UD: return UD;
	default: return BP;
	}
}

/* Bits of the flags that it leaves, of those in *mask. */
static inline word sens_flags(const struct sens_insn *in, const struct sens_state *s,
			      word *mask)
{
	bool iopl_ok = s->cpl <= s->iopl, v86 = s->mode == M_V86;
	word f = s->flags | s->iopl << 12;

	*mask = FL_IF | FL_IOPL | FL_VIF | FL_VIP;
	switch (in->kind) {
	case S_IF: {
		word bit = iopl_ok ? FL_IF : FL_VIF;

		return in->code[0] == 0xfb ? f | bit : f & ~bit;
	}
	case S_POPF:
	case S_IRET:
		if (v86 && s->iopl < 3)
			return (f & ~(word)FL_VIF) | (s->image & FL_IF ? FL_VIF : 0);
		/* VIF and VIP at CPL 0 are the image's for IRET. */
		if (!v86 && s->cpl == 0)
			*mask = FL_IF | FL_IOPL;
		if (iopl_ok)
			f = (f & ~(word)FL_IF) | (s->image & FL_IF);
		if (s->cpl == 0)
			f = (f & ~(word)FL_IOPL) | (s->image & FL_IOPL);
		return f;
	default: return f;
	}
}

static inline u8 *sens_put(u8 *p, u32 val, unsigned n)
{
	for (; n--; val >>= 8)
		*p++ = (u8)val;
	return p;
}

/*
 * Build it in 'buf', whose offset in its code segment is 'at', with INT3 behind:
 * registers are set so that it can be carried out, [BX] is 'data', and the image is on
 * the stack. Returns its own offset.
 */
static inline word sens_build(u8 *buf, const struct sens_insn *in,
			      const struct sens_state *s, word at, word data)
{
	static const u8 mov[] = { 0xbb, 0xbe, 0xbf, 0xb9, 0xba, 0xb8 };
	const u32 val[] = { (u32)data, (u32)data, (u32)data, 0x174, 0x80, (u32)s->image };
	unsigned size = s->bits == 16 ? 2 : 4;
	u8 *p = buf, *start;

	for (unsigned i = 0; i < 6; i++) {
		*p++ = mov[i];
		p = sens_put(p, val[i], size);
	}
	if (in->kind == S_IRET) {
		if (s->bits == 64) { /* mov ecx, ss; push rcx; push rsp */
			p = sens_put(p, 0xd18c, 2);
			p = sens_put(p, 0x5451, 2);
		}
		*p++ = 0x50;
		p = sens_put(p, 0xc98c, 2); /* mov ecx, cs; push it */
		*p++ = 0x51;
		*p++ = 0xb9; /* and where the IRET is to go */
		p = sens_put(p, (u32)(at + (word)(p - buf) + size + 1 + in->len), size);
		*p++ = 0x51;
	} else {
		if (in->opsize16 && s->bits == 16)
			*p++ = 0x66; /* POPFD takes four bytes */
		*p++ = 0x50;
	}
	start = p;
	for (unsigned i = 0; i < in->len; i++)
		*p++ = in->code[i];
	if (in->modrm)
		start[in->modrm] |= s->bits == 16 ? 7 : 3;
	*p = 0xcc;
	return at + (word)(start - buf);
}

/*
 * What came of it: 'ip' is that of the trap. Fails with a message when it is not what the
 * oracle says.
 */
static inline void sens_judge(const struct sens_insn *in, const struct sens_state *s,
			      word start, word vector, word error, word ip, word flags)
{
	word expected = sens_expect(in, s), mask, want_flags = sens_flags(in, s, &mask);
	word want_ip = start;

	checked();
	if (expected == BP || expected == SENS_INT)
		want_ip += in->len + (expected == BP);
	if (vector != expected || ip != want_ip || (vector == GP && error))
		fail("%s, mode %u cpl %u iopl %u virt %u umip %u tsd %u flags %lx image "
		     "%lx: vector %lx error %lx ip %lx, want %lx at %lx",
		     in->name, (unsigned)s->mode, s->cpl, s->iopl, s->virt, s->umip,
		     s->tsd, s->flags, s->image, vector, error, ip, expected, want_ip);
	else if (s->mode != M_REAL && vector == BP && (flags ^ want_flags) & mask)
		fail("%s, mode %u cpl %u iopl %u virt %u flags %lx image %lx: flags are "
		     "%lx, want %lx",
		     in->name, (unsigned)s->mode, s->cpl, s->iopl, s->virt, s->flags,
		     s->image, flags, want_flags);
}

/*
 * All flags and images that matter to it, by run(). TF in an image is VME's to refuse;
 * the INT3 that follows clears it where it is taken.
 */
static inline void sens_flag_rows(const struct sens_insn *in, struct sens_state *s,
				  void (*run)(const struct sens_insn *,
					      const struct sens_state *))
{
	static const word flags[] = { 0, FL_IF | FL_VIF, FL_VIP };
	static const word images[] = { 0, FL_IF, FL_TF };
	bool popped = in->kind == S_POPF || in->kind == S_IRET;
	unsigned nflags = popped || in->kind == S_IF ? 3 : 1;
	unsigned nimages = !popped ? 1 : s->mode == M_V86 ? 3 : 2;

	for (unsigned n = 0; n < nflags * nimages && !failed(); n++) {
		s->flags = flags[n % nflags];
		s->image = images[n / nflags] | (s->iopl ^ 3) << 12 | 2;
		run(in, s);
	}
	s->flags = 0;
}

/*
 * A row for each instruction in each mode and at each level; where the manual says that
 * it depends on IOPL, on VME or PVI, UMIP or TSD, one for each of these.
 */
static inline void sens_row(const struct sens_insn *in, const struct sens_state *s)
{
	static const char *const modes[] = { "real mode", "v8086", "protected",
					     "64-bit" };
	bool prot = s->mode == M_PROT;
	bool by_iopl = in->kind == S_IF || in->kind == S_IO || in->kind == S_PUSHF ||
		       in->kind == S_POPF || in->kind == S_IRET || in->kind == S_INT;
	bool by_virt = prot ? in->kind == S_IF : by_iopl && in->kind != S_IO;
	char level[] = ", CPL 0", iopl[] = ", IOPL 0";

	level[sizeof(level) - 2] = (char)('0' + s->cpl);
	iopl[sizeof(iopl) - 2] = (char)('0' + s->iopl);
	row("%s, %s%s%s%s%s%s", in->name, modes[prot && s->bits == 64 ? 3 : s->mode],
	    prot ? level : "", by_iopl && s->mode != M_REAL ? iopl : "",
	    by_virt && s->virt ? prot ? ", PVI" : ", VME" : "", s->umip ? ", UMIP" : "",
	    s->tsd ? ", TSD" : "");
}

/* Every instruction in one state, with what UMIP and TSD change. */
static inline void sens_rows(struct sens_state *s, void (*run)(const struct sens_insn *,
							       const struct sens_state *))
{
	for (unsigned i = 0; i < ARRAY_SIZE(sens_insns) && !failed(); i++) {
		const struct sens_insn *in = &sens_insns[i];

		if (!sens_exists(in, s) ||
		    (!in->run0 && sens_expect(in, s) == BP && in->kind != S_FREE))
			continue;
		s->umip = s->tsd = false;
		sens_row(in, s);
		sens_flag_rows(in, s, run);
		if ((in->kind == S_STORE || in->kind == S_STORE_PM) && HAS_UMIP) {
			s->umip = true;
			sens_row(in, s);
			sens_flag_rows(in, s, run);
		} else if (in->kind == S_TSC) {
			s->tsd = true;
			sens_row(in, s);
			sens_flag_rows(in, s, run);
		}
	}
}

static inline word sens_cr4(word cr4, const struct sens_state *s)
{
	cr4 &= ~(word)(1 | 2 | 4 | BIT(11));
	if (s->virt)
		cr4 |= s->mode == M_V86 ? 1 : 2;
	return cr4 | (s->tsd ? 4 : 0) | (s->umip ? BIT(11) : 0);
}
