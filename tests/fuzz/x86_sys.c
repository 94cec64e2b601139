/*
 * The privileged half of a CPU, driven by a hostile guest: segment loads, far transfers,
 * exceptions, task switches, control registers, with tables full of rubbish.
 *
 *   input = mode, { operation, 2 bytes of selector or place, 8 bytes of value }*
 *
 * What failed has changed no register; what was derived stays right; the state is one
 * that the loader would accept; and everything ends.
 */
#include "fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mem/phys.h"
#include "state/desc.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/except.h"
#include "x86/far.h"
#include "x86/seg.h"
#include "x86/stats.h"

#define RAM     KiB(256)
#define OP_SIZE 11

/* Everything the operations touch lies in the first 64 KiB. */
#define GDT       0x1000
#define LDT       0x2000
#define IDT       0x3000
#define TSS       0x4000
#define TSS_OTHER 0x4800
#define STACKS    0x6000
#define PML4      0x10000
#define PDPT      0x11000
#define PD        0x12000
#define PD32      0x13000
#define PT32      0x14000
#define IMAGE     0x15000

#define CODE32(n) (8u * (4 + (n)))
#define DATA32(n) (8u * (8 + (n)))
#define CODE64(n) (8u * (12 + (n)))
#define CODE16(n) (8u * (16 + (n)))
#define CONF(n)   (8u * (20 + (n)))
#define CALL_GATE 0xc0u /* and 16 bytes */
#define TASK_GATE 0xd0u
#define TSS_SEL   0xe0u
#define OTHER_SEL 0xf0u
#define LDT_SEL   0x100u

static struct vcpu *v, *before;
static struct phys *phys;
static u8 *ram, image[IMAGE];
static struct vcpu_stats stats;
static struct cpuid_table table;

static u64 descriptor(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
	       (u64)(attr & 0xff) << 40 | (u64)(limit >> 16) << 48 |
	       (u64)(attr >> 12) << 52 | (u64)(base >> 24) << 56;
}

static u64 gate(unsigned type, unsigned dpl, unsigned sel, u32 off)
{
	return (off & 0xffff) | (u64)sel << 16 | (u64)(0x80 | dpl << 5 | type) << 40 |
	       (u64)(off >> 16) << 48;
}

static void put(unsigned at, u64 val)
{
	le_store(image + at, val, 8);
}

/* Tables that are all right; an input spoils them. */
static void make_image(void)
{
	for (unsigned n = 0; n < 4; n++) {
		u32 dpl = n << SEG_DPL_SHIFT;

		put(GDT + CODE32(n), descriptor(0, 0xfffff, 0xc09a | dpl));
		put(GDT + DATA32(n), descriptor(0, 0xfffff, 0xc092 | dpl));
		put(GDT + CODE64(n), descriptor(0, 0xfffff, 0xa09a | dpl));
		put(GDT + CODE16(n), descriptor(0, 0xffff, 0x009a | dpl));
		put(GDT + CONF(n), descriptor(0, 0xfffff, 0xc09e | dpl));
	}
	put(GDT + CALL_GATE, gate(DESC_CALL32, 3, CODE32(0), 0x5100));
	put(GDT + TASK_GATE, gate(DESC_TASK_GATE, 3, OTHER_SEL, 0));
	put(GDT + TSS_SEL, descriptor(TSS, 0x6ff, 0x8b));
	put(GDT + OTHER_SEL, descriptor(TSS_OTHER, 0x67, 0x89));
	put(GDT + LDT_SEL, descriptor(LDT, 0xff, 0x82));
	for (unsigned i = 0; i < 0x100; i += 8)
		put(LDT + i, descriptor(0, 0xfffff, i & 8 ? 0xc09a : 0xc0f2));
	for (unsigned i = 0; i < 8; i++) { /* the other task, at level 0 */
		put(TSS_OTHER + 0x20 + 8 * i, 0x7000);
		put(TSS_OTHER + 0x48 + 4 * i, DATA32(0));
	}
	put(TSS_OTHER + 0x24, RFLAGS_1);
	le_store(image + TSS_OTHER + 0x1c, PD32, 4);
	le_store(image + TSS_OTHER + 0x4c, CODE32(0), 4);
	le_store(image + TSS_OTHER + 0x60, LDT_SEL, 4);
	for (unsigned i = 0; i < 512; i++) {
		put(PD + 8 * i, (u64)i << 21 | 0xe7);
		put(PT32 + 8 * i,
		    (u64)(2 * i + 1) << 44 | UINT64_C(0x67) << 32 | i << 13 | 0x67);
	}
	put(PML4, PDPT | 0x27);
	put(PDPT, PD | 0x27);
	put(PD32, PT32 | 0x27);
}

static void make_once(void)
{
	struct error err = { "" };

	if (v)
		return;
	v = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
	before = aligned_alloc(64, (sizeof(*v) + 63) & ~(size_t)63);
	assert(v && before);
	memset(v, 0, sizeof(*v));
	phys = phys_new();
	assert(!phys_add_ram(phys, "ram", 0, RAM, &err));
	ram = phys_host(phys, 0, RAM, true);
	table.phys_bits = 40;
	table.linear_bits = 57;
	table.cpus = table.sockets = table.cores = table.threads = 1;
	memset(table.features, 0xff, sizeof(table.features));
	v->phys = phys;
	v->stats = &stats;
	v->apic_page = ~UINT64_C(0);
	cpuid_attach(v, &table);
	make_image();
}

static void load(unsigned sreg, unsigned sel)
{
	struct desc d;

	assert(desc_read(v, (u16)sel, (sreg == TR || sreg == LDTR) && in_long_mode(v),
			 VEC_GP, &d));
	if (d.attr & SEG_S)
		d.attr |= SEG_ACCESSED;
	v->seg[sreg] = seg_make((u16)sel, &d);
}

/* Bits 1:0 CPL, 4:2 what kind of mode. */
static void start(uint8_t mode)
{
	unsigned kind = mode >> 2 & 7, cpl = mode & 3;
	unsigned code = kind >= 6 ? CODE64(cpl) : CODE32(cpl);

	memcpy(ram, image, IMAGE);
	table.vendor = mode & 0x80 ? VENDOR_AMD : VENDOR_INTEL;
	vcpu_reset(v, false);
	for (unsigned i = 0; i < 16; i++)
		v->gpr[i] = 0x5000 + 0x100 * i;
	v->gpr[RSP] = STACKS + 0x800;
	v->rip = 0x5000;
	if (kind == 0) { /* real */
		vcpu_sync(v);
		return;
	}
	v->gdtr = (struct dtr){ .base = GDT, .limit = 0x1ff };
	v->idtr = (struct dtr){ .base = IDT, .limit = 0xfff };
	v->cr0 = CR0_PE | CR0_ET | (mode & 0x20 ? CR0_AM : 0);
	if (kind == 3 || kind == 4) {
		v->cr0 |= CR0_PG | CR0_WP;
		v->cr3 = PD32;
	} else if (kind >= 5) {
		v->cr0 |= CR0_PG | CR0_WP;
		v->cr4 = CR4_PAE;
		v->efer = EFER_LME | EFER_LMA | EFER_SCE;
		v->cr3 = PML4;
	}
	vcpu_sync(v);
	for (unsigned i = 0; i < 256; i++) {
		if (kind >= 5) {
			le_store(ram + IDT + 16 * i,
				 gate(DESC_INT32 + (i & 1), 3, CODE64(0), 0x5200), 8);
			le_store(ram + IDT + 16 * i + 8, 0, 8);
		} else {
			le_store(ram + IDT + 8 * i,
				 i % 7 == 3 ? gate(DESC_TASK_GATE, 3, OTHER_SEL, 0)
					    : gate(DESC_INT32 + (i & 1), 3,
						   CODE32(i % 5 == 1), 0x5200),
				 8);
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		unsigned size = kind >= 5 ? 8 : 4;

		le_store(ram + TSS + 4 + 8 * i, STACKS + 0x400 * i + 0xc00, size);
		if (size == 4)
			le_store(ram + TSS + 8 + 8 * i, DATA32(i) | i, 4);
	}
	v->cpl = (u8)cpl;
	load(TR, TSS_SEL);
	v->seg[LDTR] = seg_null(0, 0);
	load(CS, code);
	v->seg[CS].sel |= cpl;
	load(SS, DATA32(cpl));
	v->seg[SS].sel |= cpl;
	for (unsigned i = 0; i < 4; i++)
		load((const u8[]){ ES, DS, FS, GS }[i], DATA32(3));
	if (kind == 2) {
		v->flags |= RFLAGS_VM | (mode & 0x40 ? RFLAGS_IOPL : 0);
		v->cr4 = mode & 0x20 ? CR4_VME : 0;
		v->cpl = 3;
		for (unsigned i = ES; i <= GS; i++)
			v->seg[i] = seg_v86((u16)(0x100 * i));
		v->rip = 0x100;
	}
	vcpu_sync(v);
}

/* One operation. Its result: false says that v->fault was raised and nothing changed. */
static bool operate(uint8_t op, u16 a, u64 val)
{
	unsigned opsize = v->code_size == 8 ? 2u << (op >> 6) % 3 : 2u << (op >> 6 & 1);
	u32 rights;
	bool ok;
	u64 x = val;

	switch (op & 31) {
	case 0: return seg_load(v, (const u8[]){ ES, SS, DS, FS, GS }[val % 5], a);
	case 1: return far_jmp(v, a, val, opsize, v->rip + 7);
	case 2: return far_call(v, a, val, opsize, v->rip + 7);
	case 3: return far_ret(v, opsize, a & 0x3f);
	case 4: return far_iret(v, opsize, v->rip + 1);
	case 5: return except_soft_int(v, (u8)a, (enum soft_kind)(val & 3), v->rip + 2);
	case 6: return raise_err(v, a & 31, (u32)val);
	case 7: return raise_db(v, val & DR6_WRITABLE, a & 1);
	case 8: return seg_lldt(v, a);
	case 9: return seg_ltr(v, a);
	case 10:
		return seg_lar(v, a, &rights, &ok) && seg_lsl(v, a, &rights, &ok) &&
		       seg_verify(v, a, val & 1, &ok);
	case 11: return cr0_write(v, val & 1 ? v->cr0 ^ BIT(a & 31) : val);
	case 12: return cr3_write(v, val & 1 ? PML4 : val & 2 ? PD32 : val);
	case 13: return cr4_write(v, val & 1 ? v->cr4 ^ BIT(a & 31) : val);
	case 14: return efer_write(v, val & 1 ? v->efer ^ BIT(a & 15) : val);
	case 15: return dr_write(v, a & 7, val & 1 ? val & 0xffffffff : val);
	case 16: return popf(v, val, opsize);
	case 17: return pushf(v, &x, opsize);
	case 18: return val & 1 ? cli(v) : sti(v);
	case 19: return io_allowed(v, a, 1u << val % 3);
	case 20: return sys_syscall(v, v->rip + 2);
	/* REX.W is of 64-bit mode. */
	case 21: return sys_sysret(v, v->code_size == 8 && (val & 1) ? 8 : 4);
	case 22: return sys_sysenter(v);
	case 23: return sys_sysexit(v, v->code_size == 8 && (val & 1) ? 8 : 4);
	case 24: return invlpg(v, DS, val);
	case 25: return invpcid(v, a & 7, (const u64[]){ val & 0xfff, val });
	case 26: return except_nmi(v) || true;
	case 27: return except_interrupt(v, (u8)a) || true;
	case 28: /* the stack pointer, or what is on the stack */
		if (val & 1)
			v->gpr[RSP] = v->code_size == 8 ? val >> 1 : (u32)val >> 1;
		else
			v->gpr[RSP] = STACKS + (a & 0xfff);
		return true;
	case 29: v->gpr[a & 15 ? a & 15 : RCX] = val; return true;
	case 30: le_store(ram + STACKS + (a & 0xff8), val, 8); return true;
	default: /* tables: GDT, LDT, IDT, TSSs, and page tables now and then */
		if (val % 7 == 0)
			le_store(ram + PML4 + (a & 0x4ff8), val, 8);
		else
			le_store(ram + GDT + (a & 0x3ff8), val, 8);
		tlb_flush_all(v);
		return true;
	}
}

/* What even a failed operation may leave behind. */
static void forgive(void)
{
	before->nmi_blocked = v->nmi_blocked;
	before->pending_db = v->pending_db;
}

static void check_kept(void)
{
	forgive();
	assert(!memcmp(v, before, offsetof(struct vcpu, arch_end)));
}

static void check_consistent(void)
{
	struct vcpu was = { .code_size = v->code_size,
			    .stack_size = v->stack_size,
			    .mmu_idx = v->mmu_idx,
			    .la57 = v->la57,
			    .ac_check = v->ac_check,
			    .step_check = v->step_check,
			    .paging = v->paging };

	memcpy(was.seg_ok, v->seg_ok, sizeof(was.seg_ok));
	vcpu_paging_changed(v);
	for (unsigned i = 0; i < SREG_COUNT; i++)
		seg_update_ok(v, i);
	vcpu_mode_changed(v);
	assert(was.code_size == v->code_size && was.stack_size == v->stack_size);
	assert(was.mmu_idx == v->mmu_idx && was.paging == v->paging &&
	       was.la57 == v->la57);
	assert(was.ac_check == v->ac_check && was.step_check == v->step_check);
	assert(!memcmp(was.seg_ok, v->seg_ok, sizeof(was.seg_ok)));
	v->pending_db &= DR6_WRITABLE;
	assert(vcpu_desc.valid(v));
}

static void remember(void)
{
	memcpy(before, v, offsetof(struct vcpu, arch_end));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	make_once();
	if (!size)
		return 0;
	start(data[0]);
	data++;
	size--;
	for (; size >= OP_SIZE && v->activity != ACT_SHUTDOWN;
	     data += OP_SIZE, size -= OP_SIZE) {
		u16 a = (u16)le_load(data + 1, 2);

		/* Selectors mostly of what is there. */
		if (!(a & 0x8000))
			a &= 0x1ff;
		v->pending_db = 0;
		remember();
		if (!operate(data[0], a, le_load(data + 3, 8))) {
			check_kept();
			if (!except_deliver(v)) {
				assert(v->activity == ACT_SHUTDOWN);
				before->activity = ACT_SHUTDOWN;
				before->cr2 = v->cr2;
				before->dr[6] = v->dr[6];
			}
		}
		check_consistent();
	}
	return 0;
}
