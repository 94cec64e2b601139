/*
 * A machine of one CPU for the instruction tests: see guest.h.
 *
 * SDM volume 3 sections 3.4 (descriptors), 4.5 (4-level paging), 6.14 (64-bit IDT). The
 * vCPU's state is written from outside between two runs; what the engine derives
 * from memory stays, as in a running machine. Single-threaded.
 */
#include "guest.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "cpu/hostcpu.h"
#include "engines.h"
#include "mem/phys.h"
#include "x86/access.h"
#include "x86/cpuid.h"
#include "x86/seg.h"
#include "x86/stats.h"

/* Guest-physical. */
#define PML4       0x1000u
#define PDPT_LOW   0x2000u
#define PD_LOW     0x3000u
#define PT_ARENA   0x4000u
#define PDPT_HIGH  0x5000u
#define PD_HIGH    0x6000u
#define GDT        0x7000u
#define LDT        0x7800u
#define TSS        0x8000u
#define IDT        0x9000u
#define HANDLERS   0xa000u
#define STACK_TOP  0xf000u
#define ARENA_PHYS 0x200000u
#define RAM_SIZE   MiB(4)
#define KERNEL     UINT64_C(0xffff800000000000)

#define PTE_P  1u
#define PTE_W  2u
#define PTE_U  4u
#define PTE_PS 0x80u
#define PTE_NX BIT(63)

#define GDT_LIMIT 127
#define KERNEL_CS 0x10
#define KERNEL_DS 0x18

struct guest {
	const struct engine *engine;
	struct vcpu *v;
	struct phys *phys;
	u8 *ram;
	struct cpuid_table cpuid;
	struct vcpu_stats stats;
};

/* ---- tables ---- */

static void put64(struct guest *g, u32 phys, u64 val)
{
	memcpy(g->ram + phys, &val, 8);
}

static void map_arena(struct guest *g)
{
	put64(g, PML4, PDPT_LOW | PTE_P | PTE_W | PTE_U);
	put64(g, PDPT_LOW, PD_LOW | PTE_P | PTE_W | PTE_U);
	put64(g, PD_LOW + (ARENA >> 21) * 8, PT_ARENA | PTE_P | PTE_W | PTE_U);
	for (u64 lin = ARENA; lin < ARENA + ARENA_SIZE; lin += PAGE_SIZE) {
		u64 pte = ARENA_PHYS + (lin - ARENA);

		if (lin < ARENA + CODE_SIZE)
			pte |= PTE_P | PTE_U | PTE_W;
		else if (lin >= RW_BASE && lin < RW_END)
			pte |= PTE_P | PTE_U | PTE_W | PTE_NX;
		else if (lin >= RO_BASE && lin < RO_END)
			pte |= PTE_P | PTE_U | PTE_NX;
		put64(g, PT_ARENA + (u32)((lin >> 12) & 511) * 8, pte);
	}
	put64(g, PML4 + 256 * 8, PDPT_HIGH | PTE_P | PTE_W);
	put64(g, PDPT_HIGH, PD_HIGH | PTE_P | PTE_W);
	put64(g, PD_HIGH, PTE_P | PTE_W | PTE_PS);
}

static u64 descriptor(u32 base, u32 limit, u32 attr)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 |
	       (u64)(attr & 0xf0ff) << 40 | (u64)(limit >> 16 & 0xf) << 48 |
	       (u64)(base >> 24) << 56;
}

#define DPL(n)    ((u32)(n) << SEG_DPL_SHIFT)
#define CODE_ATTR (SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED)
#define DATA_ATTR (SEG_P | SEG_S | SEG_WRITABLE | SEG_ACCESSED)

static u32 ldt_attr(const struct ldt_entry *e)
{
	u32 attr = SEG_S | SEG_ACCESSED | DPL(3) | SEG_AVL;

	if (e->contents == 2)
		attr |= SEG_CODE;
	if (e->contents == 1)
		attr |= SEG_EXPAND_DOWN;
	if (!e->ro)
		attr |= SEG_WRITABLE;
	if (e->db)
		attr |= SEG_DB;
	if (!e->absent)
		attr |= SEG_P;
	return attr;
}

/* What the host's own table says of the descriptor that tells which CPU this is. It is to
 * stay true, here and in the processes that are started. */
static u64 cpu_node_descriptor(void)
{
	u32 rights = 0, limit = 0;
	int cpu = sched_getcpu();
	cpu_set_t here;
	bool ok;

	CPU_ZERO(&here);
	if (cpu >= 0 && cpu < CPU_SETSIZE) {
		CPU_SET(cpu, &here);
		(void)sched_setaffinity(0, sizeof(here), &here);
	}
	__asm__("lar %2, %0\n\tsetz %1" : "=r"(rights), "=q"(ok) : "r"(0x7b) : "cc");
	if (!ok)
		return 0;
	__asm__("lsl %1, %0" : "=r"(limit) : "r"(0x7b) : "cc");
	return descriptor(0, limit, rights >> 8);
}

static void fill_descriptors(struct guest *g)
{
	u32 flat = 0xfffff;

	put64(g, GDT + 0x08, descriptor(0, flat, CODE_ATTR | SEG_DB | SEG_G));
	put64(g, GDT + KERNEL_CS, descriptor(0, flat, CODE_ATTR | SEG_L | SEG_G));
	put64(g, GDT + KERNEL_DS, descriptor(0, flat, DATA_ATTR | SEG_DB | SEG_G));
	put64(g, GDT + 0x20, descriptor(0, flat, CODE_ATTR | DPL(3) | SEG_DB | SEG_G));
	put64(g, GDT + 0x28, descriptor(0, flat, DATA_ATTR | DPL(3) | SEG_DB | SEG_G));
	put64(g, GDT + 0x30, descriptor(0, flat, CODE_ATTR | DPL(3) | SEG_L | SEG_G));
	put64(g, GDT + 0x40, descriptor((u32)TSS, 0x67, SEG_P | DESC_TSS32_BUSY));
	put64(g, GDT + 0x48, KERNEL >> 32);
	put64(g, GDT + 0x78, cpu_node_descriptor());
	for (unsigned i = 0; i < SEL_LDT_COUNT; i++)
		put64(g, LDT + i * 8,
		      descriptor(ldt_entries[i].base, ldt_entries[i].limit,
				 ldt_attr(&ldt_entries[i])));
	put64(g, TSS + 4, KERNEL + STACK_TOP);
	/* No I/O permission bitmap. */
	memcpy(g->ram + TSS + 0x66, &(u16){ 0x68 }, 2);
}

/* Linux lets a user reach #BP and #OF by INT n, and nothing else but system calls. */
static void fill_idt(struct guest *g)
{
	for (unsigned i = 0; i < 256; i++) {
		u64 handler = KERNEL + HANDLERS + i * 16;
		u64 dpl = i == VEC_BP || i == VEC_OF ? 3 : 0;

		put64(g, IDT + i * 16,
		      (handler & 0xffff) | KERNEL_CS << 16 | (0x8e | dpl << 5) << 40 |
			      (handler >> 16 & 0xffff) << 48);
		put64(g, IDT + i * 16 + 8, handler >> 32);
		g->ram[HANDLERS + i * 16] = 0xf4; /* HLT */
	}
}

/* ---- the CPU ---- */

static u64 platform_tsc(void *opaque)
{
	struct timespec ts;

	(void)opaque;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

static int platform_msr_read(void *opaque, u32 msr, u64 *val)
{
	(void)opaque;
	(void)msr;
	(void)val;
	return -1;
}

static int platform_msr_write(void *opaque, u32 msr, u64 val)
{
	(void)opaque;
	(void)msr;
	(void)val;
	return -1;
}

static const struct vcpu_platform platform = {
	.tsc = platform_tsc,
	.msr_read = platform_msr_read,
	.msr_write = platform_msr_write,
};

/* As Linux sets them. */
static void set_system_registers(struct guest *g)
{
	struct vcpu *v = g->v;

	v->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	v->cr3 = PML4;
	v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
		 CR4_UMIP;
	v->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	v->xcr0 = g->cpuid.xcr0 & STATE_XCR0;
	v->gdtr = (struct dtr){ .base = KERNEL + GDT, .limit = GDT_LIMIT };
	v->idtr = (struct dtr){ .base = KERNEL + IDT, .limit = 4095 };
	v->seg[LDTR] = (struct seg){ .base = KERNEL + LDT,
				     .limit = SEL_LDT_COUNT * 8 - 1,
				     .attr = SEG_P | DESC_LDT,
				     .sel = 0x50 };
	v->seg[TR] = (struct seg){ .base = KERNEL + TSS,
				   .limit = 0x67,
				   .attr = SEG_P | DESC_TSS32_BUSY,
				   .sel = 0x40 };
	v->cpl = 3;
	vcpu_sync(v);
}

struct guest *guest_open(const struct engine *engine)
{
	struct guest *g = xzalloc(sizeof(*g));
	struct cpuid_request req = { .cpus = 1, .tsc_khz = 1000000 };
	struct host_cpu cpu;
	struct error err = { "" };

	g->engine = engine;
	g->phys = phys_new();
	if (engine->probe(&err) < 0 ||
	    phys_add_ram(g->phys, "ram", 0, RAM_SIZE, &err) < 0)
		goto fail;
	g->ram = phys_host(g->phys, 0, RAM_SIZE, true);
	map_arena(g);
	fill_descriptors(g);
	fill_idt(g);
	hostcpu_read(&cpu);
	/* How wide a canonical address is depends on it. */
	if (!(cpu.features[FEAT_LA57 / 32] >> FEAT_LA57 % 32 & 1))
		req.cpu = "max,-la57";
	if (cpuid_build(&g->cpuid, &req, &cpu, NULL, &err) < 0)
		goto fail;
	g->v = engine_vcpu_new();
	g->v->phys = g->phys;
	g->v->stats = &g->stats;
	g->v->apic_page = ~UINT64_C(0);
	g->v->platform = &platform;
	cpuid_attach(g->v, &g->cpuid);
	if (engine->vcpu_open(g->v, &err) < 0)
		goto fail;
	vcpu_reset(g->v, false);
	set_system_registers(g);
	if (engine->push)
		engine->push(g->v);
	memset(guest_mem(g, ARENA), 0xcc, CODE_SIZE);
	return g;
fail:
	printf("skip: engine %s: %s\n", engine->name, err.msg);
	return NULL;
}

void guest_close(struct guest *g)
{
	g->engine->vcpu_close(g->v);
	phys_free(g->phys);
	engine_vcpu_free(g->v);
	free(g);
}

const u32 *guest_features(const struct guest *g)
{
	return g->v->features;
}

u8 *guest_mem(const struct guest *g, u64 lin)
{
	return g->ram + ARENA_PHYS + (lin - ARENA);
}

void guest_code_changed(struct guest *g, u64 lin, u64 len)
{
	phys_note_write(g->phys, ARENA_PHYS + (lin - ARENA), len);
}

void guest_flush(struct guest *g)
{
	tlb_flush_all(g->v);
}

/* ---- running ---- */

static struct seg load_segment(const struct guest *g, u16 sel)
{
	u32 at = ((sel & 4) ? LDT : GDT) + (sel & 0xfff8u);
	struct seg s = { .sel = sel, .attr = SEG_UNUSABLE | SEG_P | DPL(sel & 3) };
	u64 d;

	if (!(sel & 0xfffc))
		return s;
	memcpy(&d, g->ram + at, 8);
	s.base = (u32)(d >> 16 & 0xffffff) | (u32)(d >> 56) << 24;
	s.attr = d >> 40 & 0xf0ff;
	s.limit = (u32)(d & 0xffff) | (u32)(d >> 48 & 0xf) << 16;
	if (s.attr & SEG_G)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

static void load_pointers(struct vcpu *v, const struct state *s)
{
	v->fop = *(const u16 *)(const void *)(s->xsave + XSAVE_FOP) & 0x7ff;
	v->fip = *(const u64 *)(const void *)(s->xsave + XSAVE_FIP);
	v->fdp = *(const u64 *)(const void *)(s->xsave + XSAVE_FDP);
}

static void load_state(struct guest *g, const struct state *s)
{
	struct vcpu *v = g->v;

	memcpy(v->gpr, s->gpr, sizeof(s->gpr));
	v->rip = s->rip;
	for (unsigned i = 0; i < 6; i++) {
		v->seg[i] = load_segment(g, s->sel[i]);
		seg_update_ok(v, i);
	}
	if (s->sel[CS] == SEL_CS64 || s->tls) {
		v->seg[FS].base = s->fs_base;
		v->seg[GS].base = s->gs_base;
	}
	v->cpl = 3;
	rflags_set(v, s->flags);
	vcpu_mode_changed(v);
	memcpy(v->xsave, s->xsave, STATE_XSAVE);
	*(u64 *)(void *)(v->xsave + XSAVE_XSTATE_BV) &= v->xcr0;
	memset(v->xsave + XSAVE_XCOMP_BV, 0, 56);
	v->fop = 0;
	v->fip = v->fdp = 0;
	if (s->xsave[XSAVE_XSTATE_BV] & XCR0_X87)
		load_pointers(v, s);
	v->fcs = v->fds = 0;
	v->cr2 = 0;
	v->dr[6] = DR6_FIXED;
	v->activity = ACT_RUNNING;
	v->shadow = 0;
	v->pending_db = 0;
}

static u64 pop64(struct guest *g, u64 *sp)
{
	u64 val = 0;

	memcpy(&val, g->ram + (*sp & 0xffff), 8);
	*sp += 8;
	return val;
}

static void store_state(struct guest *g, struct state *s)
{
	struct vcpu *v = g->v;
	u64 sp = v->gpr[RSP];

	vcpu_park(v);
	memcpy(s->gpr, v->gpr, sizeof(s->gpr));
	s->vector = (u32)(v->rip - KERNEL - HANDLERS) / 16;
	s->cr2 = v->cr2;
	s->error = 0;
	if (STACK_TOP - (sp & 0xffff) == 48)
		s->error = (u32)pop64(g, &sp);
	s->rip = pop64(g, &sp);
	s->sel[CS] = (u16)pop64(g, &sp);
	s->flags = pop64(g, &sp);
	s->gpr[RSP] = pop64(g, &sp);
	s->sel[SS] = (u16)pop64(g, &sp);
	s->sel[ES] = v->seg[ES].sel;
	s->sel[DS] = v->seg[DS].sel;
	s->sel[FS] = v->seg[FS].sel;
	s->sel[GS] = v->seg[GS].sel;
	s->fs_base = v->seg[FS].base;
	s->gs_base = v->seg[GS].base;
	memcpy(s->xsave, v->xsave, STATE_XSAVE);
	*(u16 *)(void *)(s->xsave + XSAVE_FOP) = v->fop;
	*(u64 *)(void *)(s->xsave + XSAVE_FIP) = v->fip;
	*(u64 *)(void *)(s->xsave + XSAVE_FDP) = v->fdp;
}

void guest_run(struct guest *g, struct state *s)
{
	enum vcpu_exit why;

	load_state(g, s);
	if (g->engine->push && g->engine->pull)
		g->engine->push(g->v);
	do
		why = g->engine->run(g->v);
	while (why == VCPU_EXIT_EVENT);
	if (g->engine->pull)
		g->engine->pull(g->v);
	if (why != VCPU_EXIT_HLT) {
		printf("engine %s stopped: %u\n", g->engine->name, why);
		s->vector = 0xff;
		g->v->activity = ACT_RUNNING;
		return;
	}
	store_state(g, s);
}
