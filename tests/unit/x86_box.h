/*
 * A vCPU with a little RAM for the tests of x86/: tables at fixed places, every mode one
 * call away, and the claim that a failed operation changed nothing.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/phys.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/cr.h"
#include "x86/seg.h"
#include "x86/stats.h"

#define UNUSED __attribute__((unused))

#define RAM_SIZE   MiB(2)
/* Where things are. */
#define GDT        0x1000
#define GDT_LIMIT  0xfff
#define LDT        0x2000
#define LDT_LIMIT  0x3ff
#define IDT        0x3000
#define TSS        0x4000
#define TSS_LIMIT  0x20ff
#define PML4       0x10000
#define PDPT       0x11000
#define PD         0x12000
#define PT         0x13000 /* of the first 2 MiB, when box_map_small() was called */
#define STACK0     0x20000
#define STACK1     0x22000
#define STACK2     0x24000
#define STACK3     0x26000
#define TABLES_END 0x28000 /* box_remember() looks at memory up to here */
#define HANDLERS   0x30000 /* handler of vector n is at HANDLERS + 16 * n */

/* GDT slots. DPL n code and data of a size: CODE32(n), DATA32(n), ... */
#define CODE32(n)   (8u * (4 + (n)))
#define DATA32(n)   (8u * (8 + (n)))
#define CODE16(n)   (8u * (12 + (n)))
#define DATA16(n)   (8u * (16 + (n)))
#define CODE64(n)   (8u * (20 + (n)))
#define CONF32(n)   (8u * (24 + (n)))
#define CONF64(n)   (8u * (28 + (n)))
#define TSS_SEL     (8u * 40) /* 40 and 41 */
#define LDT_SEL     (8u * 42) /* 42 and 43 */
#define FREE_SEL(n) (8u * (64 + (n)))

#define ATTR(type, s, dpl, p) ((type) | (s) << 4 | (dpl) << 5 | (p) << 7)
#define ATTR_CODE(dpl)        ATTR(0xau, 1u, (dpl), 1u)
#define ATTR_CONF(dpl)        ATTR(0xeu, 1u, (dpl), 1u)
#define ATTR_DATA(dpl)        ATTR(0x2u, 1u, (dpl), 1u)

struct box {
	struct vcpu *v;
	struct phys *phys;
	struct vcpu_stats stats;
	struct cpuid_table cpuid;
	struct vcpu *saved; /* what box_remember() saw */
	u8 *ram, *saved_ram;
};

UNUSED static u64 peek(struct box *b, gpa_t gpa, unsigned size)
{
	return phys_load(b->phys, gpa, size);
}

UNUSED static void poke(struct box *b, gpa_t gpa, u64 val, unsigned size)
{
	phys_store(b->phys, gpa, val, size);
}

/* A segment or system descriptor. 'limit' is the raw field. */
static u64 make_desc(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
	       (u64)(attr & 0xff) << 40 | (u64)(limit >> 16 & 0xf) << 48 |
	       (u64)(attr >> 12 & 0xf) << 52 | (u64)(base >> 24) << 56;
}

UNUSED static void set_gdt(struct box *b, unsigned sel, u64 raw)
{
	poke(b, GDT + (sel & 0xfff8), raw, 8);
}

UNUSED static u64 get_gdt(struct box *b, unsigned sel)
{
	return peek(b, GDT + (sel & 0xfff8), 8);
}

UNUSED static void set_ldt(struct box *b, unsigned sel, u64 raw)
{
	poke(b, LDT + (sel & 0xfff8), raw, 8);
}

/* A gate of 8 bytes. 'count' is the parameter count, or the IST of a 16-byte gate. */
UNUSED static u64 make_gate(unsigned type, unsigned dpl, bool p, unsigned sel, u32 off,
			    unsigned count)
{
	return (off & 0xffff) | (u64)(sel & 0xffff) << 16 | (u64)(count & 31) << 32 |
	       (u64)ATTR(type, 0u, dpl, (unsigned)p) << 40 | (u64)(off >> 16) << 48;
}

UNUSED static void set_idt(struct box *b, unsigned vector, u64 gate)
{
	poke(b, IDT + vector * 8, gate, 8);
}

UNUSED static void set_idt64(struct box *b, unsigned vector, u64 gate, u64 high)
{
	poke(b, IDT + vector * 16, gate, 8);
	poke(b, IDT + vector * 16 + 8, high, 8);
}

static void box_gdt(struct box *b)
{
	memset(b->ram + GDT, 0, GDT_LIMIT + 1);
	for (unsigned n = 0; n < 4; n++) {
		set_gdt(b, CODE32(n),
			make_desc(0, 0xfffff, ATTR_CODE(n) | SEG_G | SEG_DB));
		set_gdt(b, DATA32(n),
			make_desc(0, 0xfffff, ATTR_DATA(n) | SEG_G | SEG_DB));
		set_gdt(b, CODE16(n), make_desc(0, 0xffff, ATTR_CODE(n)));
		set_gdt(b, DATA16(n), make_desc(0x20000, 0xffff, ATTR_DATA(n)));
		set_gdt(b, CODE64(n),
			make_desc(0, 0xfffff, ATTR_CODE(n) | SEG_G | SEG_L));
		set_gdt(b, CONF32(n),
			make_desc(0, 0xfffff, ATTR_CONF(n) | SEG_G | SEG_DB));
		set_gdt(b, CONF64(n),
			make_desc(0, 0xfffff, ATTR_CONF(n) | SEG_G | SEG_L));
	}
	set_gdt(b, TSS_SEL, make_desc(TSS, TSS_LIMIT, ATTR(DESC_TSS32_BUSY, 0u, 0u, 1u)));
	set_gdt(b, LDT_SEL, make_desc(LDT, LDT_LIMIT, ATTR(DESC_LDT, 0u, 0u, 1u)));
}

static struct box *box_new(void)
{
	struct box *b = calloc(1, sizeof(*b));
	struct error err = { "" };

	assert_non_null(b);
	b->v = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
	b->saved = aligned_alloc(64, (sizeof(struct vcpu) + 63) & ~(size_t)63);
	assert_non_null(b->v);
	assert_non_null(b->saved);
	memset(b->v, 0, sizeof(struct vcpu));
	b->phys = phys_new();
	assert_int_equal(phys_add_ram(b->phys, "ram", 0, RAM_SIZE, &err), 0);
	b->ram = phys_host(b->phys, 0, RAM_SIZE, true);
	assert_non_null(b->ram);
	b->saved_ram = malloc(TABLES_END);
	assert_non_null(b->saved_ram);

	b->cpuid.vendor = VENDOR_INTEL;
	b->cpuid.phys_bits = 40;
	b->cpuid.linear_bits = 57;
	b->cpuid.cpus = b->cpuid.sockets = b->cpuid.cores = b->cpuid.threads = 1;
	memset(b->cpuid.features, 0xff, sizeof(b->cpuid.features));
	b->cpuid.features[FEAT_VMX / 32] &= ~(1u << FEAT_VMX % 32);
	b->v->phys = b->phys;
	b->v->stats = &b->stats;
	b->v->apic_page = ~UINT64_C(0);
	cpuid_attach(b->v, &b->cpuid);
	vcpu_reset(b->v, false);
	box_gdt(b);
	return b;
}

static void box_free(struct box *b)
{
	phys_free(b->phys);
	free(b->saved_ram);
	free(b->saved);
	free(b->v);
	free(b);
}

/* Load a segment register from the GDT without any check. */
static void box_seg(struct box *b, unsigned sreg, unsigned sel)
{
	struct desc d;
	struct vcpu *v = b->v;

	if (sel_is_null((u16)sel)) {
		v->seg[sreg] = seg_null((u16)sel, sreg == SS ? v->cpl : 0);
	} else {
		assert_true(desc_read(v, (u16)sel,
				      (sreg == TR || sreg == LDTR) && in_long_mode(v),
				      VEC_GP, &d));
		d.attr |= d.attr & SEG_S ? SEG_ACCESSED : 0;
		v->seg[sreg] = seg_make((u16)sel, &d);
	}
	seg_changed(v, sreg);
	vcpu_mode_changed(v);
}

/* Everything but the mode bits: tables, segments of level 'cpl', stack. */
static void box_enter(struct box *b, unsigned cs, unsigned ss, unsigned cpl)
{
	struct vcpu *v = b->v;

	v->cc = 0;
	vcpu_sync(v);
	v->gdtr = (struct dtr){ .base = GDT, .limit = GDT_LIMIT };
	v->idtr = (struct dtr){ .base = IDT, .limit = in_long_mode(v) ? 0xfff : 0x7ff };
	v->cpl = (u8)cpl;
	box_seg(b, TR, TSS_SEL);
	box_seg(b, LDTR, LDT_SEL);
	box_seg(b, CS, cs | cpl);
	box_seg(b, SS, sel_is_null((u16)ss) ? ss : ss | cpl);
	for (unsigned i = 0; i < 4; i++)
		box_seg(b, (const u8[]){ ES, DS, FS, GS }[i], DATA32(3) | 3);
	v->rip = 0x5000;
	v->gpr[RSP] = STACK3 + 0x1000;
	for (unsigned i = 0; i < 3; i++) {
		u64 sp = STACK0 + 0x2000 * i + 0x1000;

		if (in_long_mode(v)) {
			poke(b, TSS + 4 + 8 * i, sp, 8);
		} else {
			poke(b, TSS + 4 + 8 * i, sp, 4);
			poke(b, TSS + 8 + 8 * i, DATA32(i) | i, 4);
		}
	}
	poke(b, TSS + 0x66, 0x68 + 32, 2);
	vcpu_sync(v);
}

/* Protected mode without paging; 32-bit code. */
UNUSED static void box_protected(struct box *b, unsigned cpl)
{
	b->v->cr0 = CR0_PE | CR0_ET | CR0_NE;
	b->v->cr4 = 0;
	b->v->efer = 0;
	b->v->flags = RFLAGS_1;
	box_gdt(b);
	box_enter(b, CODE32(cpl), DATA32(cpl), cpl);
}

/* Long mode: the first GiB and the last 2 GiB map to RAM from 0, all pages user and
 * writable. */
static void box_long_paging(struct box *b)
{
	struct vcpu *v = b->v;

	memset(b->ram + PML4, 0, 0x4000);
	poke(b, PML4, PDPT | 0x27, 8);
	poke(b, PML4 + 511 * 8, PDPT | 0x27, 8);
	poke(b, PDPT, PD | 0x27, 8);
	poke(b, PDPT + 510 * 8, PD | 0x27, 8);
	poke(b, PDPT + 511 * 8, PD | 0x27, 8);
	for (unsigned i = 0; i < 512; i++)
		poke(b, PD + 8 * i, (u64)i << 21 | 0xe7, 8);
	v->cr3 = PML4;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	v->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	v->flags = RFLAGS_1;
}

UNUSED static void box_long(struct box *b, unsigned cpl)
{
	box_gdt(b);
	box_long_paging(b);
	box_enter(b, CODE64(cpl), DATA32(cpl), cpl);
}

UNUSED static void box_compat(struct box *b, unsigned cpl)
{
	box_gdt(b);
	box_long_paging(b);
	box_enter(b, CODE32(cpl), DATA32(cpl), cpl);
}

/* Make the first 2 MiB 4 KiB pages, so that one can be taken away: clear_page(). */
UNUSED static void box_map_small(struct box *b)
{
	for (unsigned i = 0; i < 512; i++)
		poke(b, PT + 8 * i, (u64)i << 12 | 0x67, 8);
	poke(b, PD, PT | 0x27, 8);
	tlb_flush_all(b->v);
}

UNUSED static void set_pte(struct box *b, gva_t lin, u64 flags)
{
	poke(b, PT + (lin >> 12) * 8, (lin & PAGE_MASK) | flags, 8);
	tlb_flush_all(b->v);
}

/* Virtual-8086 mode, without paging. */
UNUSED static void box_v86(struct box *b, unsigned iopl)
{
	struct vcpu *v = b->v;

	box_protected(b, 3);
	v->flags = RFLAGS_1 | RFLAGS_VM | iopl << RFLAGS_IOPL_SHIFT | RFLAGS_IF;
	for (unsigned i = ES; i <= GS; i++)
		v->seg[i] = seg_v86((u16)(0x2000 + 0x10 * i));
	v->gpr[RSP] = 0x1000;
	v->rip = 0x100;
	vcpu_sync(v);
}

/* Real mode with the IVT at 0. */
UNUSED static void box_real(struct box *b)
{
	vcpu_reset(b->v, false);
	for (unsigned i = ES; i <= GS; i++)
		b->v->seg[i] = seg_real((u16)(0x2000 + 0x10 * i), &b->v->seg[i]);
	b->v->gpr[RSP] = 0x1000;
	b->v->rip = 0x100;
	vcpu_sync(b->v);
}

UNUSED static void box_remember(struct box *b)
{
	memcpy(b->saved, b->v, offsetof(struct vcpu, arch_end));
	memcpy(b->saved_ram, b->ram, TABLES_END);
}

/* The architectural state is that of box_remember(), byte for byte. */
UNUSED static void assert_state_kept(struct box *b)
{
	assert_memory_equal(b->saved, b->v, offsetof(struct vcpu, arch_end));
}

/* And memory too. */
UNUSED static void assert_all_kept(struct box *b)
{
	assert_state_kept(b);
	assert_memory_equal(b->saved_ram, b->ram, TABLES_END);
}

/* A fault with an error code was raised. */
UNUSED static void assert_fault(struct box *b, unsigned vector, u32 error)
{
	const struct fault *f = &b->v->fault;

	if (f->vector != vector || !f->has_error || f->error != error)
		fail_msg("expected vector %u error %x, got %u error %x%s", vector, error,
			 f->vector, f->error, f->has_error ? "" : " (none)");
}

UNUSED static void assert_fault_plain(struct box *b, unsigned vector)
{
	assert_int_equal(b->v->fault.vector, vector);
	assert_false(b->v->fault.has_error);
}

/* The derived part agrees with the architectural one. */
UNUSED static void assert_synced(struct box *b)
{
	struct vcpu *v = b->v;
	u8 code = v->code_size, stack = v->stack_size, idx = v->mmu_idx,
	   paging = v->paging;
	bool ac = v->ac_check, step = v->step_check, la57 = v->la57;
	u32 ok[SREG_COUNT], plain[SREG_COUNT];

	memcpy(ok, v->seg_ok, sizeof(ok));
	memcpy(plain, v->seg_plain, sizeof(plain));
	vcpu_sync(v);
	assert_int_equal(code, v->code_size);
	assert_int_equal(stack, v->stack_size);
	assert_int_equal(idx, v->mmu_idx);
	assert_int_equal(paging, v->paging);
	assert_int_equal(ac, v->ac_check);
	assert_int_equal(step, v->step_check);
	assert_int_equal(la57, v->la57);
	assert_memory_equal(ok, v->seg_ok, sizeof(ok));
	assert_memory_equal(plain, v->seg_plain, sizeof(plain));
}

UNUSED static int setup(void **state)
{
	*state = box_new();
	return 0;
}

UNUSED static int teardown(void **state)
{
	box_free(*state);
	return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
