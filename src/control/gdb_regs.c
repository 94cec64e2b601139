/*
 * Registers as gdb numbers them: one table, from which the description, the order and
 * the accesses follow.
 *
 * "Debugging with GDB", appendix "Target Descriptions", i386 Features: names, sizes and
 * order of org.gnu.gdb.i386.*. Control, debug and table registers have a feature of our
 * own. Selectors can be written in real and virtual-8086 mode only, as anything else
 * would need a descriptor; a debugger's write is refused where no CPU could be in the
 * resulting state. One thread, CPUs stopped.
 */
#include "control/gdb_regs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bits.h"
#include "mem/phys.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/walk.h"
#include "x86/xsave.h"

/* What a register is; 'arg' says which one. */
enum kind {
	R_GPR,
	R_RIP,
	R_FLAGS,
	R_SEL,  /* selector of a segment register */
	R_BASE, /* its base */
	R_AREA, /* arg: offset in v->xsave; component: the bit of XSTATE_BV */
	R_MXCSR,
	R_FTAG,
	R_FISEG,
	R_FIOFF,
	R_FOSEG,
	R_FOOFF,
	R_FOP,
	R_PKRU,
	R_CR0,
	R_CR2,
	R_CR3,
	R_CR4,
	R_CR8,
	R_EFER,
	R_XCR0,
	R_DR,
	R_GS_SWAPPED, /* IA32_KERNEL_GS_BASE */
	R_GDTR_BASE,
	R_GDTR_LIMIT,
	R_IDTR_BASE,
	R_IDTR_LIMIT,
	R_CPL,
};

struct reg {
	char name[12];
	u8 kind, bytes, component;
	u16 arg;
	const char *type; /* NULL: an integer */
};

#define REGS_MAX 256
#define XML_MAX  KiB(16)

struct gdb_regs {
	struct reg reg[REGS_MAX];
	unsigned count;
	char *xml;
	size_t xml_len;
};

enum { BV_X87, BV_SSE, BV_AVX, BV_OPMASK = 5, BV_ZMM_HI256, BV_HI16_ZMM };

/* ---- the description ---- */

struct maker {
	struct gdb_regs *r;
	FILE *xml;
};

static void feature(struct maker *m, const char *name, const char *types)
{
	fprintf(m->xml, "<feature name=\"%s\">%s", name, types);
}

static void feature_end(struct maker *m)
{
	fputs("</feature>", m->xml);
}

static void add(struct maker *m, struct reg reg)
{
	const char *type = reg.type;
	char integer[12];

	snprintf(integer, sizeof(integer), "int%u", reg.bytes * 8u);
	m->r->reg[m->r->count++] = reg;
	fprintf(m->xml, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"/>", reg.name,
		reg.bytes * 8u, type ? type : integer);
}

/* NAMEn or NAMEnSUFFIX for n from 'first' on, 'stride' bytes apart in the area. */
static void add_areas(struct maker *m, const char *name, unsigned first, unsigned count,
		      const char *suffix, struct reg reg, unsigned stride)
{
	for (unsigned i = 0; i < count; i++) {
		snprintf(reg.name, sizeof(reg.name), "%s%u%s", name, first + i, suffix);
		add(m, reg);
		reg.arg = (u16)(reg.arg + stride);
	}
}

static const char eflags_type[] =
	"<flags id=\"i386_eflags\" size=\"4\">"
	"<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" "
	"end=\"1\"/>"
	"<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" "
	"end=\"4\"/>"
	"<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" "
	"end=\"7\"/>"
	"<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" "
	"end=\"9\"/>"
	"<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" "
	"end=\"11\"/>"
	"<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" "
	"end=\"16\"/>"
	"<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" "
	"end=\"18\"/>"
	"<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" "
	"end=\"20\"/>"
	"<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";

static const char sse_types[] =
	"<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
	"<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
	"<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
	"<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	"<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
	"<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
	"<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" "
	"type=\"v16i8\"/>"
	"<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" "
	"type=\"v4i32\"/>"
	"<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" "
	"type=\"uint128\"/></union>"
	"<flags id=\"i386_mxcsr\" size=\"4\">"
	"<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" "
	"end=\"1\"/>"
	"<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" "
	"end=\"3\"/>"
	"<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" "
	"end=\"5\"/>"
	"<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" "
	"end=\"7\"/>"
	"<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" "
	"end=\"9\"/>"
	"<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" "
	"end=\"11\"/>"
	"<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" "
	"end=\"15\"/></flags>";

static void core(struct maker *m)
{
	/* In gdb's order, which is not that of the encoding. */
	static const struct reg regs[] = {
		{ "rax", R_GPR, 8, 0, RAX, NULL },
		{ "rbx", R_GPR, 8, 0, RBX, NULL },
		{ "rcx", R_GPR, 8, 0, RCX, NULL },
		{ "rdx", R_GPR, 8, 0, RDX, NULL },
		{ "rsi", R_GPR, 8, 0, RSI, NULL },
		{ "rdi", R_GPR, 8, 0, RDI, NULL },
		{ "rbp", R_GPR, 8, 0, RBP, "data_ptr" },
		{ "rsp", R_GPR, 8, 0, RSP, "data_ptr" },
		{ "r8", R_GPR, 8, 0, R8, NULL },
		{ "r9", R_GPR, 8, 0, R9, NULL },
		{ "r10", R_GPR, 8, 0, R10, NULL },
		{ "r11", R_GPR, 8, 0, R11, NULL },
		{ "r12", R_GPR, 8, 0, R12, NULL },
		{ "r13", R_GPR, 8, 0, R13, NULL },
		{ "r14", R_GPR, 8, 0, R14, NULL },
		{ "r15", R_GPR, 8, 0, R15, NULL },
		{ "rip", R_RIP, 8, 0, 0, "code_ptr" },
		{ "eflags", R_FLAGS, 4, 0, 0, "i386_eflags" },
		{ "cs", R_SEL, 4, 0, CS, NULL },
		{ "ss", R_SEL, 4, 0, SS, NULL },
		{ "ds", R_SEL, 4, 0, DS, NULL },
		{ "es", R_SEL, 4, 0, ES, NULL },
		{ "fs", R_SEL, 4, 0, FS, NULL },
		{ "gs", R_SEL, 4, 0, GS, NULL },
	};
	static const struct reg fpu[] = {
		{ "fctrl", R_AREA, 4, BV_X87, XSAVE_FCW, "int" },
		{ "fstat", R_AREA, 4, BV_X87, XSAVE_FSW, "int" },
		{ "ftag", R_FTAG, 4, BV_X87, 0, "int" },
		{ "fiseg", R_FISEG, 4, BV_X87, 0, "int" },
		{ "fioff", R_FIOFF, 4, BV_X87, 0, "int" },
		{ "foseg", R_FOSEG, 4, BV_X87, 0, "int" },
		{ "fooff", R_FOOFF, 4, BV_X87, 0, "int" },
		{ "fop", R_FOP, 4, BV_X87, 0, "int" },
	};

	feature(m, "org.gnu.gdb.i386.core", eflags_type);
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		add(m, regs[i]);
	add_areas(m, "st", 0, 8, "",
		  (struct reg){ "", R_AREA, 10, BV_X87, XSAVE_ST, "i387_ext" }, 16);
	for (unsigned i = 0; i < ARRAY_SIZE(fpu); i++)
		add(m, fpu[i]);
	feature_end(m);
}

static void vectors(struct maker *m, const struct vcpu *v)
{
	feature(m, "org.gnu.gdb.i386.sse", sse_types);
	add_areas(m, "xmm", 0, 16, "",
		  (struct reg){ "", R_AREA, 16, BV_SSE, XSAVE_XMM, "vec128" }, 16);
	add(m, (struct reg){ "mxcsr", R_MXCSR, 4, BV_SSE, 0, "i386_mxcsr" });
	feature_end(m);
	feature(m, "org.gnu.gdb.i386.segments", "");
	add(m, (struct reg){ "fs_base", R_BASE, 8, 0, FS, NULL });
	add(m, (struct reg){ "gs_base", R_BASE, 8, 0, GS, NULL });
	feature_end(m);
	if (!cpu_has(v, FEAT_AVX))
		return;
	feature(m, "org.gnu.gdb.i386.avx", "");
	add_areas(m, "ymm", 0, 16, "h",
		  (struct reg){ "", R_AREA, 16, BV_AVX, XSAVE_YMM, "uint128" }, 16);
	feature_end(m);
	if (!cpu_has(v, FEAT_AVX512F))
		return;
	feature(m, "org.gnu.gdb.i386.avx512",
		"<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>");
	add_areas(m, "xmm", 16, 16, "",
		  (struct reg){ "", R_AREA, 16, BV_HI16_ZMM, XSAVE_HI16_ZMM, "uint128" },
		  64);
	add_areas(m, "ymm", 16, 16, "h",
		  (struct reg){ "", R_AREA, 16, BV_HI16_ZMM, XSAVE_HI16_ZMM + 16,
				"uint128" },
		  64);
	add_areas(m, "k", 0, 8, "",
		  (struct reg){ "", R_AREA, 8, BV_OPMASK, XSAVE_OPMASK, "uint64" }, 8);
	add_areas(
		m, "zmm", 0, 16, "h",
		(struct reg){ "", R_AREA, 32, BV_ZMM_HI256, XSAVE_ZMM_HI256, "v2ui128" },
		32);
	add_areas(m, "zmm", 16, 16, "h",
		  (struct reg){ "", R_AREA, 32, BV_HI16_ZMM, XSAVE_HI16_ZMM + 32,
				"v2ui128" },
		  64);
	feature_end(m);
}

static void system_regs(struct maker *m, const struct vcpu *v)
{
	static const struct reg regs[] = {
		{ "cr0", R_CR0, 8, 0, 0, NULL },
		{ "cr2", R_CR2, 8, 0, 0, NULL },
		{ "cr3", R_CR3, 8, 0, 0, NULL },
		{ "cr4", R_CR4, 8, 0, 0, NULL },
		{ "cr8", R_CR8, 8, 0, 0, NULL },
		{ "efer", R_EFER, 8, 0, 0, NULL },
		{ "xcr0", R_XCR0, 8, 0, 0, NULL },
		{ "dr0", R_DR, 8, 0, 0, NULL },
		{ "dr1", R_DR, 8, 0, 1, NULL },
		{ "dr2", R_DR, 8, 0, 2, NULL },
		{ "dr3", R_DR, 8, 0, 3, NULL },
		{ "dr6", R_DR, 8, 0, 6, NULL },
		{ "dr7", R_DR, 8, 0, 7, NULL },
		{ "cpl", R_CPL, 4, 0, 0, NULL },
		{ "cs_base", R_BASE, 8, 0, CS, NULL },
		{ "ss_base", R_BASE, 8, 0, SS, NULL },
		{ "ds_base", R_BASE, 8, 0, DS, NULL },
		{ "es_base", R_BASE, 8, 0, ES, NULL },
		{ "ldtr", R_SEL, 4, 0, LDTR, NULL },
		{ "ldtr_base", R_BASE, 8, 0, LDTR, NULL },
		{ "tr", R_SEL, 4, 0, TR, NULL },
		{ "tr_base", R_BASE, 8, 0, TR, NULL },
		{ "gdtr_base", R_GDTR_BASE, 8, 0, 0, NULL },
		{ "gdtr_limit", R_GDTR_LIMIT, 4, 0, 0, NULL },
		{ "idtr_base", R_IDTR_BASE, 8, 0, 0, NULL },
		{ "idtr_limit", R_IDTR_LIMIT, 4, 0, 0, NULL },
		{ "k_gs_base", R_GS_SWAPPED, 8, 0, 0, NULL },
	};

	if (cpu_has(v, FEAT_PKU)) {
		feature(m, "org.gnu.gdb.i386.pkeys", "");
		add(m, (struct reg){ "pkru", R_PKRU, 4, 0, 0, "uint32" });
		feature_end(m);
	}
	feature(m, "org.umbra.system", "");
	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		add(m, regs[i]);
	feature_end(m);
}

struct gdb_regs *gdb_regs_new(const struct vcpu *v)
{
	struct maker m = { .r = xzalloc(sizeof(*m.r)) };

	m.xml = open_memstream(&m.r->xml, &m.r->xml_len);
	if (!m.xml)
		abort();
	fputs("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
	      "<target version=\"1.0\"><architecture>i386:x86-64</architecture>",
	      m.xml);
	core(&m);
	vectors(&m, v);
	system_regs(&m, v);
	fputs("</target>", m.xml);
	fclose(m.xml);
	return m.r;
}

void gdb_regs_free(struct gdb_regs *r)
{
	if (!r)
		return;
	free(r->xml);
	free(r);
}

const char *gdb_regs_xml(const struct gdb_regs *r, size_t *len)
{
	*len = r->xml_len;
	return r->xml;
}

unsigned gdb_regs_count(const struct gdb_regs *r)
{
	return r->count;
}

unsigned gdb_reg_size(const struct gdb_regs *r, unsigned n)
{
	return n < r->count ? r->reg[n].bytes : 0;
}

/* ---- reading ---- */

static u64 read_number(const struct reg *reg, struct vcpu *v)
{
	switch (reg->kind) {
	case R_GPR: return v->gpr[reg->arg];
	case R_RIP: return v->rip;
	case R_FLAGS: return rflags_get(v);
	case R_SEL: return v->seg[reg->arg].sel;
	case R_BASE: return v->seg[reg->arg].base;
	case R_MXCSR: return le_load(v->xsave + XSAVE_MXCSR, 4);
	case R_FTAG: return xsave_full_tags(v);
	case R_FISEG: return v->fcs;
	case R_FIOFF: return (u32)v->fip;
	case R_FOSEG: return v->fds;
	case R_FOOFF: return (u32)v->fdp;
	case R_FOP: return v->fop;
	case R_PKRU: return v->pkru;
	case R_CR0: return v->cr0;
	case R_CR2: return v->cr2;
	case R_CR3: return v->cr3;
	case R_CR4: return v->cr4;
	case R_CR8: return v->platform ? v->platform->cr8_read(v->platform_opaque) : 0;
	case R_EFER: return v->efer;
	case R_XCR0: return v->xcr0;
	case R_DR: return v->dr[reg->arg];
	case R_GS_SWAPPED: return v->msr[MSRI_KERNEL_GS_BASE];
	case R_GDTR_BASE: return v->gdtr.base;
	case R_GDTR_LIMIT: return v->gdtr.limit;
	case R_IDTR_BASE: return v->idtr.base;
	case R_IDTR_LIMIT: return v->idtr.limit;
	default: return v->cpl;
	}
}

/* FCW and FSW are 2 bytes, told as 4. */
static unsigned area_bytes(const struct reg *reg)
{
	return reg->arg < XSAVE_ST ? 2 : reg->bytes;
}

void gdb_reg_read(const struct gdb_regs *r, unsigned n, struct vcpu *v, u8 *buf)
{
	const struct reg *reg = &r->reg[n];
	u64 val;

	memset(buf, 0, reg->bytes);
	if (reg->kind == R_AREA) {
		memcpy(buf, v->xsave + reg->arg, area_bytes(reg));
		return;
	}
	val = read_number(reg, v);
	memcpy(buf, &val, reg->bytes);
}

/* ---- writing ---- */

static void write_area(const struct reg *reg, struct vcpu *v, const u8 *buf)
{
	u64 bv = le_load(v->xsave + XSAVE_XSTATE_BV, 8);

	memcpy(v->xsave + reg->arg, buf, area_bytes(reg));
	le_store(v->xsave + XSAVE_XSTATE_BV, bv | BIT(reg->component), 8);
}

static bool write_x87(const struct reg *reg, struct vcpu *v, u64 val)
{
	u64 bv = le_load(v->xsave + XSAVE_XSTATE_BV, 8);

	switch (reg->kind) {
	case R_FTAG: v->xsave[XSAVE_FTW] = xsave_abridged_tags(val); break;
	case R_FISEG: v->fcs = (u16)val; break;
	case R_FIOFF: v->fip = (v->fip & ~size_mask(4)) | (u32)val; break;
	case R_FOSEG: v->fds = (u16)val; break;
	case R_FOOFF: v->fdp = (v->fdp & ~size_mask(4)) | (u32)val; break;
	default: v->fop = val & 0x7ff; break;
	}
	le_store(v->xsave + XSAVE_XSTATE_BV, bv | BIT(BV_X87), 8);
	return true;
}

static bool write_selector(struct vcpu *v, unsigned sreg, u64 val)
{
	if (sreg > GS || !in_real_or_v86(v) || val > 0xffff)
		return false;
	v->seg[sreg].sel = (u16)val;
	v->seg[sreg].base = (u32)val << 4;
	return true;
}

static void write_flags(struct vcpu *v, u64 val)
{
	u64 fixed = RFLAGS_VM;

	rflags_set(v, (val & RFLAGS_ALL & ~fixed) | (rflags_get(v) & fixed));
}

/* The four entries of PAE paging belong to CR3. */
static bool write_cr3(struct vcpu *v, u64 val)
{
	if (paging_mode(v) == PAGING_PAE &&
	    (!phys_host(v->phys, val & BITS(31, 5), 32, false) || !pdpte_load(v, val)))
		return false;
	v->cr3 = val;
	return true;
}

static bool write_number(const struct reg *reg, struct vcpu *v, u64 val)
{
	switch (reg->kind) {
	case R_GPR: v->gpr[reg->arg] = val; return true;
	case R_RIP: v->rip = val; return true;
	case R_FLAGS: write_flags(v, val); return true;
	case R_SEL: return write_selector(v, reg->arg, val);
	case R_BASE:
		v->seg[reg->arg].base = val;
		return (reg->arg == FS || reg->arg == GS) && in_long_mode(v) &&
		       is_canonical(v, val);
	case R_MXCSR: le_store(v->xsave + XSAVE_MXCSR, val, 4); return true;
	case R_FTAG:
	case R_FISEG:
	case R_FIOFF:
	case R_FOSEG:
	case R_FOOFF:
	case R_FOP: return write_x87(reg, v, val);
	case R_PKRU: v->pkru = (u32)val; return true;
	case R_CR0: v->cr0 = val; return true;
	case R_CR2: v->cr2 = val; return true;
	case R_CR3: return write_cr3(v, val);
	case R_CR4: v->cr4 = val; return true;
	case R_EFER: v->efer = val; return true;
	case R_XCR0: v->xcr0 = val; return true;
	case R_DR: v->dr[reg->arg] = val; return true;
	case R_GS_SWAPPED: v->msr[MSRI_KERNEL_GS_BASE] = val; return is_canonical(v, val);
	default: return false;
	}
}

static bool write_cr8(struct vcpu *v, u64 val)
{
	if (val > 15 || !v->platform)
		return false;
	v->platform->cr8_write(v->platform_opaque, (u8)val);
	return true;
}

bool gdb_reg_write(const struct gdb_regs *r, unsigned n, struct vcpu *v, const u8 *buf)
{
	const size_t arch = offsetof(struct vcpu, arch_end);
	const struct reg *reg = &r->reg[n];
	u8 now[GDB_REG_MAX];
	void *before;
	u64 val = 0;
	bool ok = true;

	/* gdb writes all of them to change one. */
	gdb_reg_read(r, n, v, now);
	if (!memcmp(now, buf, reg->bytes))
		return true;
	if (reg->bytes <= 8)
		memcpy(&val, buf, reg->bytes);
	if (reg->kind == R_CR8)
		return write_cr8(v, val);
	before = malloc(arch);
	if (!before)
		return false;
	memcpy(before, v, arch);
	if (reg->kind == R_AREA)
		write_area(reg, v, buf);
	else
		ok = write_number(reg, v, val);
	vcpu_sync(v);
	if (!ok || !vcpu_consistent(v)) {
		memcpy(v, before, arch);
		vcpu_sync(v);
		ok = false;
	}
	free(before);
	return ok;
}
