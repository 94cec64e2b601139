/*
 * System instructions: control and debug registers, descriptor tables, MSRs, CPUID, time
 * stamp, port I/O, HLT, TLB and cache control, flags that need privilege.
 *
 * SDM volume 2 and volume 3 chapter 2. Privilege checks are here, what the registers mean
 * is in x86/.
 */
#include "engine/interp/interp.h"
#include "engine/interp/ops.h"

#include "mem/io.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/msr.h"
#include "x86/profile.h"
#include "x86/seg.h"
#include "x86/stats.h"

static bool cpl0(struct vcpu *v)
{
	return likely(v->cpl == 0) || raise_gp0(v);
}

/* UMIP: SGDT, SIDT, SLDT, STR, SMSW outside CPL 0 (SDM 3 section 2.5). */
static bool umip_ok(struct vcpu *v)
{
	return !(v->cr4 & CR4_UMIP) || v->cpl == 0 || raise_gp0(v);
}

/* MOV to and from CR and DR always has 64 or 32 bits, whatever prefixes say. */
static unsigned system_size(const struct vcpu *v)
{
	return in_64bit(v) ? 8 : 4;
}

/* ---- control and debug registers ---- */

/* Without the CR8 of 64-bit mode, LOCK MOV CR0 is how AMD processors reach it; not
 * offered. */
enum op_result op_mov_from_cr(struct vcpu *v, const struct insn *in)
{
	u64 val;

	switch (in->reg) {
	case 0: val = v->cr0; break;
	case 2: val = v->cr2; break;
	case 3: val = v->cr3; break;
	case 4: val = v->cr4; break;
	case 8: val = cr8_read(v); break;
	default: return op_ud(v);
	}
	if (!cpl0(v))
		return OP_FAULT;
	reg_set(v, in->rm, system_size(v), val);
	return OP_NEXT;
}

enum op_result op_mov_to_cr(struct vcpu *v, const struct insn *in)
{
	u64 val = reg_get(v, in->rm, system_size(v));

	if (in->reg > 8 || in->reg == 1 || (in->reg > 4 && in->reg != 8))
		return op_ud(v);
	if (!cpl0(v))
		return OP_FAULT;
	switch (in->reg) {
	case 0: return op_ended(cr0_write(v, val));
	case 2: v->cr2 = val; return OP_NEXT;
	case 3: return op_ended(cr3_write(v, val));
	case 4: return op_ended(cr4_write(v, val));
	default: return op_ended(cr8_write(v, val));
	}
}

enum op_result op_mov_from_dr(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (in->reg > 7)
		return op_ud(v);
	if (!cpl0(v) || !dr_read(v, in->reg, &val))
		return OP_FAULT;
	reg_set(v, in->rm, system_size(v), val);
	return OP_NEXT;
}

enum op_result op_mov_to_dr(struct vcpu *v, const struct insn *in)
{
	if (in->reg > 7)
		return op_ud(v);
	if (!cpl0(v))
		return OP_FAULT;
	return op_ended(dr_write(v, in->reg, reg_get(v, in->rm, system_size(v))));
}

enum op_result op_clts(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!cpl0(v))
		return OP_FAULT;
	v->cr0 &= ~CR0_TS;
	return OP_NEXT;
}

enum op_result op_smsw(struct vcpu *v, const struct insn *in)
{
	if (!umip_ok(v))
		return OP_FAULT;
	if (in->flags & INSN_MEM)
		return op_done(mem_write(v, in->seg, ea(v, in), 2, v->cr0 & 0xffff));
	reg_set(v, in->rm, in->opsize, v->cr0);
	return OP_NEXT;
}

enum op_result op_lmsw(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (!cpl0(v) || !rm_read(v, in, 2, &val))
		return OP_FAULT;
	lmsw(v, (u16)val);
	return OP_END;
}

/* ---- descriptor tables ---- */

static enum op_result store_table(struct vcpu *v, const struct insn *in,
				  const struct dtr *t)
{
	unsigned size = system_size(v);
	u64 off = ea(v, in), mask = size_mask(in->adsize);

	if (!(in->flags & INSN_MEM))
		return op_ud(v);
	if (!umip_ok(v) || !mem_probe_write(v, in->seg, off, 2 + size) ||
	    !mem_write(v, in->seg, off, 2, t->limit))
		return OP_FAULT;
	return op_done(mem_write(v, in->seg, (off + 2) & mask, size, t->base));
}

static enum op_result load_table(struct vcpu *v, const struct insn *in, struct dtr *t)
{
	unsigned size = system_size(v);
	u64 off = ea(v, in), mask = size_mask(in->adsize), limit, base;

	if (!(in->flags & INSN_MEM))
		return op_ud(v);
	if (!cpl0(v) || !mem_read(v, in->seg, off, 2, &limit) ||
	    !mem_read(v, in->seg, (off + 2) & mask, size, &base))
		return OP_FAULT;
	/* By what the CPU has, not by CR4.LA57, as MSRs. */
	if (size == 8 && !msr_canonical(v, base))
		return op_gp0(v);
	/* With 16-bit operands only 24 bits of the base count. */
	if (size == 4 && in->opsize == 2)
		base &= 0xffffff;
	t->base = base;
	t->limit = (u16)limit;
	return OP_NEXT;
}

enum op_result op_sgdt(struct vcpu *v, const struct insn *in)
{
	return store_table(v, in, &v->gdtr);
}
enum op_result op_sidt(struct vcpu *v, const struct insn *in)
{
	return store_table(v, in, &v->idtr);
}
enum op_result op_lgdt(struct vcpu *v, const struct insn *in)
{
	return load_table(v, in, &v->gdtr);
}
enum op_result op_lidt(struct vcpu *v, const struct insn *in)
{
	return load_table(v, in, &v->idtr);
}

static enum op_result store_sel(struct vcpu *v, const struct insn *in, unsigned sreg)
{
	if (in_real_or_v86(v))
		return op_ud(v);
	if (!umip_ok(v))
		return OP_FAULT;
	if (in->flags & INSN_MEM)
		return op_done(mem_write(v, in->seg, ea(v, in), 2, v->seg[sreg].sel));
	reg_set(v, in->rm, in->opsize, v->seg[sreg].sel);
	return OP_NEXT;
}

enum op_result op_sldt(struct vcpu *v, const struct insn *in)
{
	return store_sel(v, in, LDTR);
}
enum op_result op_str(struct vcpu *v, const struct insn *in)
{
	return store_sel(v, in, TR);
}

static enum op_result load_sel(struct vcpu *v, const struct insn *in,
			       bool (*load)(struct vcpu *, u16))
{
	u64 sel;

	if (in_real_or_v86(v))
		return op_ud(v);
	if (!cpl0(v) || !rm_read(v, in, 2, &sel))
		return OP_FAULT;
	return op_done(load(v, (u16)sel));
}

enum op_result op_lldt(struct vcpu *v, const struct insn *in)
{
	return load_sel(v, in, seg_lldt);
}
enum op_result op_ltr(struct vcpu *v, const struct insn *in)
{
	return load_sel(v, in, seg_ltr);
}

static void set_zf(struct vcpu *v, bool zf)
{
	v->cc = (v->cc & ~(u64)RFLAGS_ZF) | (zf ? RFLAGS_ZF : 0);
}

enum op_result op_lar(struct vcpu *v, const struct insn *in)
{
	u32 rights = 0;
	bool ok;
	u64 sel;

	if (in_real_or_v86(v))
		return op_ud(v);
	if (!rm_read(v, in, 2, &sel) || !seg_lar(v, (u16)sel, &rights, &ok))
		return OP_FAULT;
	if (ok)
		reg_set(v, in->reg, in->opsize, rights);
	set_zf(v, ok);
	return OP_NEXT;
}

enum op_result op_lsl(struct vcpu *v, const struct insn *in)
{
	u32 limit = 0;
	bool ok;
	u64 sel;

	if (in_real_or_v86(v))
		return op_ud(v);
	if (!rm_read(v, in, 2, &sel) || !seg_lsl(v, (u16)sel, &limit, &ok))
		return OP_FAULT;
	if (ok)
		reg_set(v, in->reg, in->opsize, limit);
	set_zf(v, ok);
	return OP_NEXT;
}

static enum op_result verify(struct vcpu *v, const struct insn *in, bool write)
{
	bool ok;
	u64 sel;

	if (in_real_or_v86(v))
		return op_ud(v);
	if (!rm_read(v, in, 2, &sel) || !seg_verify(v, (u16)sel, write, &ok))
		return OP_FAULT;
	set_zf(v, ok);
	return OP_NEXT;
}

enum op_result op_verr(struct vcpu *v, const struct insn *in)
{
	return verify(v, in, false);
}
enum op_result op_verw(struct vcpu *v, const struct insn *in)
{
	return verify(v, in, true);
}

/* ARPL: raise the RPL of a selector to that of another. */
enum op_result op_arpl(struct vcpu *v, const struct insn *in)
{
	u64 dst, rpl = v->gpr[in->reg] & 3;

	if (in_real_or_v86(v))
		return op_ud(v);
	if (!rm_read(v, in, 2, &dst))
		return OP_FAULT;
	if ((dst & 3) < rpl) {
		if (!rm_write(v, in, 2, (dst & ~UINT64_C(3)) | rpl))
			return OP_FAULT;
		set_zf(v, true);
	} else {
		set_zf(v, false);
	}
	return OP_NEXT;
}

/* ---- MSRs, CPUID, counters ---- */

enum op_result op_rdmsr(struct vcpu *v, const struct insn *in)
{
	u64 val;

	(void)in;
	if (!cpu_has(v, FEAT_MSR))
		return op_ud(v);
	v->stats->msr_reads++;
	vcpu_park(v);
	if (!cpl0(v) || !msr_read(v, (u32)v->gpr[RCX], &val))
		return OP_FAULT;
	v->gpr[RAX] = (u32)val;
	v->gpr[RDX] = val >> 32;
	return OP_NEXT;
}

enum op_result op_wrmsr(struct vcpu *v, const struct insn *in)
{
	u64 val = (u64)(u32)v->gpr[RDX] << 32 | (u32)v->gpr[RAX];

	(void)in;
	if (!cpu_has(v, FEAT_MSR))
		return op_ud(v);
	v->stats->msr_writes++;
	vcpu_park(v);
	return op_ended(cpl0(v) && msr_write(v, (u32)v->gpr[RCX], val));
}

enum op_result op_cpuid(struct vcpu *v, const struct insn *in)
{
	u32 r[4];

	(void)in;
	v->stats->cpuid++;
	vcpu_park(v); /* the local APIC is asked whether it is enabled */
	/* Intel: CPUID faulting by MISC_FEATURES_ENABLES is not offered. */
	cpuid_query(v, (u32)v->gpr[RAX], (u32)v->gpr[RCX], r);
	v->gpr[RAX] = r[0];
	v->gpr[RBX] = r[1];
	v->gpr[RCX] = r[2];
	v->gpr[RDX] = r[3];
	return OP_NEXT;
}

static bool tsc_allowed(struct vcpu *v)
{
	return !(v->cr4 & CR4_TSD) || v->cpl == 0 || raise_gp0(v);
}

static void read_tsc(struct vcpu *v)
{
	u64 t;

	vcpu_park(v);
	t = v->platform->tsc(v->platform_opaque);
	v->gpr[RAX] = (u32)t;
	v->gpr[RDX] = t >> 32;
}

enum op_result op_rdtsc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!cpu_has(v, FEAT_TSC))
		return op_ud(v);
	if (!tsc_allowed(v))
		return OP_FAULT;
	read_tsc(v);
	return OP_NEXT;
}

enum op_result op_rdtscp(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!cpu_has(v, FEAT_RDTSCP))
		return op_ud(v);
	if (!tsc_allowed(v))
		return OP_FAULT;
	read_tsc(v);
	v->gpr[RCX] = (u32)v->msr[MSRI_TSC_AUX];
	return OP_NEXT;
}

enum op_result op_rdpid(struct vcpu *v, const struct insn *in)
{
	if (!cpu_has(v, FEAT_RDPID))
		return op_ud(v);
	reg_set(v, in->rm, system_size(v), (u32)v->msr[MSRI_TSC_AUX]);
	return OP_NEXT;
}

/* No performance counter exists: every index is out of range. */
enum op_result op_rdpmc(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_gp0(v);
}

/* ---- port I/O ---- */

static u16 io_port(const struct vcpu *v, const struct insn *in)
{
	return in->opcode >= 0xec ? (u16)v->gpr[RDX] : (u8)in->imm;
}

enum op_result op_in(struct vcpu *v, const struct insn *in)
{
	u16 port = io_port(v, in);
	u64 val;
	u8 was;

	if (!io_allowed(v, port, in->opsize))
		return OP_FAULT;
	v->stats->port_reads++;
	vcpu_park(v);
	was = profile_doing(v, DOING_DEVICES);
	val = io_ports_read(v->ports, port, in->opsize);
	profile_doing(v, was);
	v->pending_db |= debug_match_io(v, port, in->opsize);
	if (in->opsize == 1)
		reg8_set(v, 0, val);
	else
		reg_set(v, RAX, in->opsize, val);
	return OP_NEXT;
}

enum op_result op_out(struct vcpu *v, const struct insn *in)
{
	u16 port = io_port(v, in);
	u8 was;

	if (!io_allowed(v, port, in->opsize))
		return OP_FAULT;
	v->stats->port_writes++;
	vcpu_park(v);
	was = profile_doing(v, DOING_DEVICES);
	io_ports_write(v->ports, port, v->gpr[RAX] & size_mask(in->opsize), in->opsize);
	profile_doing(v, was);
	v->pending_db |= debug_match_io(v, port, in->opsize);
	/* A write may have reset the machine or changed the map: look at events at once.
	 */
	return OP_END;
}

/* ---- halting, flags ---- */

enum op_result op_hlt(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!cpl0(v))
		return OP_FAULT;
	v->activity = ACT_HLT;
	return OP_EXIT;
}

/* Who spins for long waits for a CPU that may not run: its thread gets a chance. */
#define PAUSES_A_RELAX 16

enum op_result op_pause(struct vcpu *v, const struct insn *in)
{
	/* With REX.B, to AMD's processors, it is XCHG R8, RAX. */
	if (in->rm == 8 && cpu_is_amd(v)) {
		u64 rax = v->gpr[RAX];

		reg_set(v, RAX, in->opsize, v->gpr[8]);
		reg_set(v, 8, in->opsize, rax);
		return OP_NEXT;
	}
	__builtin_ia32_pause();
	if (v->relax && ++v->pauses >= PAUSES_A_RELAX) {
		v->pauses = 0;
		vcpu_park(v);
		v->relax(v);
	}
	return OP_NEXT;
}

enum op_result op_cli(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_done(cli(v));
}

enum op_result op_sti(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_ended(sti(v));
}

enum op_result op_pushf(struct vcpu *v, const struct insn *in)
{
	u64 val;

	return op_done(pushf(v, &val, in->opsize) && push(v, in->opsize, val));
}

enum op_result op_popf(struct vcpu *v, const struct insn *in)
{
	u64 val;

	if (!stack_peek(v, in->opsize, &val) || !popf(v, val, in->opsize))
		return OP_FAULT;
	sp_set(v, v->gpr[RSP] + in->opsize);
	return OP_END;
}

/* CLAC, STAC. */
static enum op_result set_ac(struct vcpu *v, bool ac)
{
	if (!cpu_has(v, FEAT_SMAP) || v->cpl != 0)
		return op_ud(v);
	v->flags = ac ? v->flags | RFLAGS_AC : v->flags & ~(u64)RFLAGS_AC;
	vcpu_mode_changed(v);
	return OP_NEXT;
}

enum op_result op_clac(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return set_ac(v, false);
}
enum op_result op_stac(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return set_ac(v, true);
}

/* ---- TLB and caches ---- */

enum op_result op_invlpg(struct vcpu *v, const struct insn *in)
{
	if (!(in->flags & INSN_MEM))
		return op_ud(v);
	return op_ended(cpl0(v) && invlpg(v, in->seg, ea(v, in)));
}

enum op_result op_invpcid(struct vcpu *v, const struct insn *in)
{
	u64 desc[2];

	if (!cpu_has(v, FEAT_INVPCID) || !(in->flags & INSN_MEM))
		return op_ud(v);
	if (!in_protected(v) || in_v86(v))
		return op_gp0(v);
	if (!cpl0(v) || !mem_read_bytes(v, in->seg, ea(v, in), desc, 16))
		return OP_FAULT;
	return op_ended(invpcid(v, reg_get(v, in->reg, system_size(v)), desc));
}

/* Caches are the host's: INVD and WBINVD have nothing to do. */
enum op_result op_wbinvd(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return op_done(cpl0(v));
}

/* A byte read as far as protection goes. */
static enum op_result flush_line(struct vcpu *v, const struct insn *in,
				 enum cpu_feature f)
{
	if (!cpu_has(v, f))
		return op_ud(v);
	return op_done(mem_probe_read(v, in->seg, ea(v, in), 1));
}

enum op_result op_clflush(struct vcpu *v, const struct insn *in)
{
	return flush_line(v, in, FEAT_CLFSH);
}

enum op_result op_clflushopt(struct vcpu *v, const struct insn *in)
{
	return flush_line(v, in, FEAT_CLFLUSHOPT);
}

enum op_result op_clwb(struct vcpu *v, const struct insn *in)
{
	return flush_line(v, in, FEAT_CLWB);
}

static enum op_result fence(struct vcpu *v, enum cpu_feature f)
{
	if (!cpu_has(v, f))
		return op_ud(v);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return OP_NEXT;
}

/* LFENCE and MFENCE. */
enum op_result op_fence(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return fence(v, FEAT_SSE2);
}

enum op_result op_sfence(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return fence(v, FEAT_SSE);
}

enum op_result op_serialize(struct vcpu *v, const struct insn *in)
{
	(void)in;
	return cpu_has(v, FEAT_SERIALIZE) ? OP_END : op_ud(v);
}

/* ---- GS, FS ---- */

enum op_result op_swapgs(struct vcpu *v, const struct insn *in)
{
	u64 base = v->seg[GS].base;

	(void)in;
	if (!in_64bit(v))
		return op_ud(v);
	if (!cpl0(v))
		return OP_FAULT;
	v->seg[GS].base = v->msr[MSRI_KERNEL_GS_BASE];
	v->msr[MSRI_KERNEL_GS_BASE] = base;
	return OP_NEXT;
}

/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: ModRM.reg 0 to 3. */
enum op_result op_fsgsbase(struct vcpu *v, const struct insn *in)
{
	unsigned sreg = in->modrm >> 3 & 1 ? GS : FS;
	unsigned size = in->flags & INSN_REXW ? 8 : 4;
	u64 val;

	if (!in_64bit(v) || !(v->cr4 & CR4_FSGSBASE))
		return op_ud(v);
	if (!(in->modrm >> 3 & 2)) {
		reg_set(v, in->rm, size, v->seg[sreg].base);
		return OP_NEXT;
	}
	val = reg_get(v, in->rm, size);
	/* As the paging mode has it, unlike WRMSR of the same base. */
	if (!is_canonical(v, val))
		return op_gp0(v);
	v->seg[sreg].base = val;
	return OP_NEXT;
}

/* ---- protection keys ---- */

enum op_result op_rdpkru(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!(v->cr4 & CR4_PKE))
		return op_ud(v);
	if ((u32)v->gpr[RCX])
		return op_gp0(v);
	v->gpr[RAX] = v->pkru;
	v->gpr[RDX] = 0;
	return OP_NEXT;
}

enum op_result op_wrpkru(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!(v->cr4 & CR4_PKE))
		return op_ud(v);
	if ((u32)v->gpr[RCX] || (u32)v->gpr[RDX])
		return op_gp0(v);
	pkru_set(v, (u32)v->gpr[RAX]);
	return OP_END;
}

/* MONITOR and MWAIT: a wait that may end at once is allowed; it is a HLT-less pause here.
 */
enum op_result op_monitor(struct vcpu *v, const struct insn *in)
{
	if (!cpu_has(v, FEAT_MONITOR) || v->cpl != 0)
		return op_ud(v);
	return op_done(
		mem_probe_read(v, in->seg, v->gpr[RAX] & size_mask(in->adsize), 1));
}

enum op_result op_mwait(struct vcpu *v, const struct insn *in)
{
	(void)in;
	if (!cpu_has(v, FEAT_MONITOR) || v->cpl != 0)
		return op_ud(v);
	return OP_END;
}
