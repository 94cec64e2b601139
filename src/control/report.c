/*
 * The state of a CPU in words and numbers, for a guest that triple-faulted and for
 * debuggers.
 *
 * Names and bits are those of SDM volume 3 chapters 2 (control registers), 3
 * (segments), 4.7 (page-fault error code) and 6 (exceptions). Reads guest memory without
 * changing it: no accessed bits, no MMIO. Machine stopped, one thread.
 */
#include "control/report.h"

#include <string.h>

#include "base/bits.h"
#include "mem/phys.h"
#include "x86/cpuid.h"
#include "x86/decode.h"
#include "x86/vcpu.h"
#include "x86/walk.h"

#define CODE_LINES 5
#define INSN_MAX   15

struct bit_name {
	u64 bit;
	const char *name;
};

static void print_bits(FILE *out, u64 val, const struct bit_name *names)
{
	for (; names->name; names++)
		if (val & names->bit)
			fprintf(out, " %s", names->name);
	fputc('\n', out);
}

/* ---- in words ---- */

static const char *mode_text(const struct vcpu *v)
{
	if (!in_protected(v))
		return "real mode";
	if (in_v86(v))
		return "virtual-8086 mode";
	if (in_long_mode(v))
		return in_64bit(v) ? "64-bit mode" : "compatibility mode";
	return v->code_size == 4 ? "32-bit protected mode" : "16-bit protected mode";
}

static const char *paging_text(const struct vcpu *v)
{
	switch (paging_mode(v)) {
	case PAGING_32: return "paging with 2 levels";
	case PAGING_PAE: return "PAE paging";
	case PAGING_4LEVEL: return "paging with 4 levels";
	case PAGING_5LEVEL: return "paging with 5 levels";
	default: return "paging off";
	}
}

static const char *vector_text(u8 vector)
{
	static const char *const names[] = {
		[VEC_DE] = "#DE divide error",
		[VEC_DB] = "#DB debug",
		[VEC_NMI] = "NMI",
		[VEC_BP] = "#BP breakpoint",
		[VEC_OF] = "#OF overflow",
		[VEC_BR] = "#BR bound range exceeded",
		[VEC_UD] = "#UD invalid opcode",
		[VEC_NM] = "#NM no math device",
		[VEC_DF] = "#DF double fault",
		[VEC_TS] = "#TS invalid TSS",
		[VEC_NP] = "#NP segment not present",
		[VEC_SS] = "#SS stack fault",
		[VEC_GP] = "#GP general protection",
		[VEC_PF] = "#PF page fault",
		[VEC_MF] = "#MF x87 error",
		[VEC_AC] = "#AC alignment check",
		[VEC_MC] = "#MC machine check",
		[VEC_XM] = "#XM SIMD error",
		[VEC_VE] = "#VE virtualization",
		[VEC_CP] = "#CP control protection",
	};

	return vector < ARRAY_SIZE(names) && names[vector] ? names[vector]
							   : "an interrupt";
}

static void print_exception(FILE *out, const struct vcpu *v)
{
	const struct fault *f = &v->fault;

	fprintf(out, "  last exception %s", vector_text(f->vector));
	if (f->has_error)
		fprintf(out, ", error code %x", f->error);
	/* SDM 3 section 6.13: a selector, or an entry of the IDT. */
	if (f->has_error && f->error && f->vector >= VEC_TS && f->vector <= VEC_GP)
		fprintf(out, f->error & 2 ? ": entry %u of the IDT" : ": selector %x",
			f->error & 2 ? f->error >> 3 : f->error & 0xfffc);
	if (f->vector == VEC_PF)
		fprintf(out, ": %s of %llx by %s, %s",
			f->error & PF_I   ? "execution"
			: f->error & PF_W ? "write"
					  : "read",
			(unsigned long long)f->cr2,
			f->error & PF_U ? "user" : "supervisor",
			f->error & PF_RSVD ? "reserved bits in a table"
			: f->error & PF_P  ? "not allowed"
					   : "page not present");
	fputc('\n', out);
}

/* ---- registers ---- */

static void print_gprs(FILE *out, const struct vcpu *v)
{
	static const char *const names[] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP",
					     "RSI", "RDI", "R8 ", "R9 ", "R10", "R11",
					     "R12", "R13", "R14", "R15", "RIP" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		fprintf(out, "%s%s %016llx%s", i % 3 ? "" : "  ", names[i],
			(unsigned long long)v->gpr[i], i % 3 == 2 ? "\n" : "  ");
	/* It is the eighteenth. */
	fprintf(out, "FLG %016llx\n", (unsigned long long)rflags_get(v));
}

static void print_flags(FILE *out, const struct vcpu *v)
{
	static const struct bit_name names[] = {
		{ RFLAGS_CF, "CF" }, { RFLAGS_PF, "PF" },   { RFLAGS_AF, "AF" },
		{ RFLAGS_ZF, "ZF" }, { RFLAGS_SF, "SF" },   { RFLAGS_TF, "TF" },
		{ RFLAGS_IF, "IF" }, { RFLAGS_DF, "DF" },   { RFLAGS_OF, "OF" },
		{ RFLAGS_NT, "NT" }, { RFLAGS_RF, "RF" },   { RFLAGS_VM, "VM" },
		{ RFLAGS_AC, "AC" }, { RFLAGS_VIF, "VIF" }, { RFLAGS_VIP, "VIP" },
		{ RFLAGS_ID, "ID" }, { 0, NULL },
	};

	fprintf(out, "  RFLAGS IOPL=%u", vcpu_iopl(v));
	print_bits(out, rflags_get(v), names);
}

static void print_segments(FILE *out, const struct vcpu *v)
{
	static const char *const names[] = { "ES", "CS", "SS",   "DS",
					     "FS", "GS", "LDTR", "TR" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		const struct seg *s = &v->seg[i];

		fprintf(out, "  %-4s %04x base %016llx limit %08x attr %04x", names[i],
			s->sel, (unsigned long long)s->base, s->limit, s->attr & 0xffff);
		if (s->attr & SEG_UNUSABLE)
			fprintf(out, " unusable");
		else if (!(s->attr & SEG_P))
			fprintf(out, " not present");
		else if (s->attr & SEG_S)
			fprintf(out, " %s DPL%u",
				!(s->attr & SEG_CODE) ? "data"
				: s->attr & SEG_L     ? "code64"
				: s->attr & SEG_DB    ? "code32"
						      : "code16",
				(s->attr & SEG_DPL_MASK) >> SEG_DPL_SHIFT);
		fputc('\n', out);
	}
	fprintf(out, "  GDTR base %016llx limit %04x  IDTR base %016llx limit %04x\n",
		(unsigned long long)v->gdtr.base, v->gdtr.limit,
		(unsigned long long)v->idtr.base, v->idtr.limit);
}

static void print_control(FILE *out, const struct vcpu *v)
{
	static const struct bit_name cr0[] = {
		{ CR0_PE, "PE" }, { CR0_MP, "MP" }, { CR0_EM, "EM" }, { CR0_TS, "TS" },
		{ CR0_ET, "ET" }, { CR0_NE, "NE" }, { CR0_WP, "WP" }, { CR0_AM, "AM" },
		{ CR0_NW, "NW" }, { CR0_CD, "CD" }, { CR0_PG, "PG" }, { 0, NULL },
	};
	static const struct bit_name cr4[] = {
		{ CR4_VME, "VME" },          { CR4_PVI, "PVI" },
		{ CR4_TSD, "TSD" },          { CR4_DE, "DE" },
		{ CR4_PSE, "PSE" },          { CR4_PAE, "PAE" },
		{ CR4_MCE, "MCE" },          { CR4_PGE, "PGE" },
		{ CR4_PCE, "PCE" },          { CR4_OSFXSR, "OSFXSR" },
		{ CR4_OSXMMEXCPT, "OSXMM" }, { CR4_UMIP, "UMIP" },
		{ CR4_LA57, "LA57" },        { CR4_FSGSBASE, "FSGSBASE" },
		{ CR4_PCIDE, "PCIDE" },      { CR4_OSXSAVE, "OSXSAVE" },
		{ CR4_SMEP, "SMEP" },        { CR4_SMAP, "SMAP" },
		{ CR4_PKE, "PKE" },          { 0, NULL },
	};
	static const struct bit_name efer[] = {
		{ EFER_SCE, "SCE" }, { EFER_LME, "LME" },   { EFER_LMA, "LMA" },
		{ EFER_NXE, "NXE" }, { EFER_SVME, "SVME" }, { 0, NULL },
	};

	fprintf(out, "  CR2 %016llx  CR3 %016llx  XCR0 %llx\n",
		(unsigned long long)v->cr2, (unsigned long long)v->cr3,
		(unsigned long long)v->xcr0);
	fprintf(out, "  CR0 %08llx", (unsigned long long)v->cr0);
	print_bits(out, v->cr0, cr0);
	fprintf(out, "  CR4 %08llx", (unsigned long long)v->cr4);
	print_bits(out, v->cr4, cr4);
	fprintf(out, "  EFER %04llx", (unsigned long long)v->efer);
	print_bits(out, v->efer, efer);
}

/* ---- code ---- */

static u64 linear_ip(const struct vcpu *v, u64 ip)
{
	return in_64bit(v) ? ip : (u32)(v->seg[CS].base + ip);
}

/* Up to 'len' bytes of code at 'ip'; how many could be read. */
static unsigned read_code(struct vcpu *v, u64 ip, u8 *buf, unsigned len)
{
	unsigned n = 0;

	while (n < len) {
		gpa_t gpa;

		if (!walk_peek(v, linear_ip(v, ip + n), &gpa) ||
		    !phys_dma_read(v->phys, gpa, buf + n, 1))
			break;
		n++;
	}
	return n;
}

static void print_code(FILE *out, struct vcpu *v)
{
	u64 ip = v->rip & ip_mask(v);

	for (unsigned line = 0; line < CODE_LINES; line++) {
		u8 buf[INSN_MAX];
		char text[96];
		struct insn in;
		unsigned n = read_code(v, ip, buf, sizeof(buf)), len;

		if (!n) {
			if (!line)
				fprintf(out, "  code at %llx cannot be read\n",
					(unsigned long long)ip);
			return;
		}
		len = decode(buf, n, v->code_size, cpu_is_amd(v), &in) == DECODE_OK
			      ? in.len
			      : 1;
		disassemble(buf, n, v->code_size, ip, text, sizeof(text));
		fprintf(out, "%s %8llx ", line ? "  " : "=>", (unsigned long long)ip);
		for (unsigned i = 0; i < 10; i++)
			fprintf(out, i < len ? " %02x" : "   ", i < n ? buf[i] : 0);
		fprintf(out, "  %s\n", text);
		ip = (ip + len) & ip_mask(v);
	}
}

void report_cpu(FILE *out, struct vcpu *v)
{
	fprintf(out, "  CPU %u in %s, %s, CPL %u, interrupts %s\n", v->index,
		mode_text(v), paging_text(v), v->cpl,
		v->flags & RFLAGS_IF ? "on" : "off");
	/* Of a CPU that runs, the one before may be long ago. */
	if (v->activity == ACT_SHUTDOWN)
		print_exception(out, v);
	print_gprs(out, v);
	print_flags(out, v);
	print_segments(out, v);
	print_control(out, v);
	print_code(out, v);
}
