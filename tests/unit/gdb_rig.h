/*
 * The gdb stub over a machine of two CPUs, RAM, ROM and a device that counts accesses,
 * without threads: CPUs that are let go run nothing, and stop when they are asked to.
 * For unit tests and the fuzz target.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "control/gdb_packet.h"
#include "control/gdb_stub.h"
#include "cpu/debug.h"
#include "cpu/vm.h"
#include "engine/interp/run.h"
#include "mem/io.h"
#include "mem/phys.h"
#include "time/clock.h"
#include "x86/cpuid.h"
#include "x86/walk.h"

#define RIG_CPUS 2
#define RIG_RAM  MiB(2)
#define RIG_ROM  0xfff000u /* one page */
#define RIG_DEV  0xa00000u /* one page */
/* Identity-mapped by 2 MiB pages, and linear RIG_HIGH to 0. */
#define RIG_PML4 0x10000u
#define RIG_PDPT 0x11000u
#define RIG_PD   0x12000u
#define RIG_HIGH 0xffffffff80000000u

struct gdb_rig {
	struct phys *phys;
	struct io_ports *ports;
	struct clock *clock;
	struct cpuid_table cpuid;
	struct vm *vm;
	struct debug *debug;
	struct gdb_stub *stub;
	u8 *ram;
	char out[4 * GDB_PACKET_MAX]; /* what was sent; the beginning is lost */
	size_t out_len;
	unsigned device, resets, quits, hang_ups;
	bool running;
};

static u64 rig_device_read(void *opaque, u64 off, unsigned size)
{
	struct gdb_rig *r = opaque;

	(void)off;
	r->device++;
	return size_mask(size) & 0x1122334455667788;
}

static void rig_device_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct gdb_rig *r = opaque;

	(void)off;
	(void)val;
	(void)size;
	r->device++;
}

static const struct io_ops rig_device = { .read = rig_device_read,
					  .write = rig_device_write,
					  .sizes = IO_1 | IO_2 | IO_4 | IO_8 };

static void rig_send(void *opaque, const char *data, size_t len)
{
	struct gdb_rig *r = opaque;

	if (r->out_len + len >= sizeof(r->out))
		r->out_len = 0;
	if (len >= sizeof(r->out))
		abort();
	memcpy(r->out + r->out_len, data, len);
	r->out_len += len;
	r->out[r->out_len] = 0;
}

static void rig_running(void *opaque, bool on)
{
	struct gdb_rig *r = opaque;

	r->running = on;
}

static void rig_stopped(void *opaque)
{
	struct gdb_rig *r = opaque;

	/* Before there is a stub nobody asks. */
	gdb_stub_stopped(r->stub);
}

static void rig_hang_up(void *opaque)
{
	struct gdb_rig *r = opaque;

	r->hang_ups++;
	gdb_stub_detach(r->stub);
}

static void rig_reset(void *opaque)
{
	struct gdb_rig *r = opaque;

	r->resets++;
	vm_reset_cpus(r->vm);
	gdb_stub_stopped(r->stub);
}

static void rig_quit(void *opaque)
{
	struct gdb_rig *r = opaque;

	r->quits++;
}

/* 64-bit mode, at 1000h. */
static void rig_long_mode(struct vcpu *v)
{
	for (unsigned i = ES; i <= GS; i++) {
		v->seg[i] = (struct seg){ .sel = 0x10,
					  .limit = 0xffffffff,
					  .attr = SEG_P | SEG_S | SEG_WRITABLE |
						  SEG_ACCESSED | SEG_DB | SEG_G };
	}
	v->seg[CS].sel = 8;
	v->seg[CS].attr =
		SEG_P | SEG_S | SEG_CODE | SEG_READABLE | SEG_ACCESSED | SEG_L | SEG_G;
	v->cr0 = CR0_PE | CR0_PG | CR0_ET;
	v->cr3 = RIG_PML4;
	v->cr4 = CR4_PAE;
	v->efer = EFER_LME | EFER_LMA;
	v->rip = 0x1000;
	v->activity = ACT_RUNNING;
	vcpu_sync(v);
}

static void rig_page_tables(struct gdb_rig *r)
{
	le_store(r->ram + RIG_PML4, RIG_PDPT | 7, 8);
	le_store(r->ram + RIG_PML4 + 511 * 8, RIG_PDPT | 7, 8);
	le_store(r->ram + RIG_PDPT, RIG_PD | 7, 8);
	le_store(r->ram + RIG_PDPT + 510 * 8, RIG_PD | 7, 8);
	/* 16 MiB. */
	for (unsigned i = 0; i < 8; i++)
		le_store(r->ram + RIG_PD + 8 * i, (u64)i << 21 | 0x83, 8);
}

/* As new, but for memory elsewhere than in the page tables. */
static void gdb_rig_reset(struct gdb_rig *r)
{
	gdb_stub_detach(r->stub);
	vm_reset_cpus(r->vm);
	memset(r->ram + RIG_PML4, 0, 3 * PAGE_SIZE);
	rig_page_tables(r);
	for (unsigned i = 0; i < RIG_CPUS; i++)
		rig_long_mode(vm_vcpu(r->vm, i));
	r->out_len = 0;
	r->device = r->resets = r->quits = r->hang_ups = 0;
	gdb_stub_attach(r->stub);
}

static struct gdb_rig *gdb_rig_new(void)
{
	struct gdb_rig *r = calloc(1, sizeof(*r));
	struct vm_config cfg = { .engine = &engine_interp,
				 .cpus = RIG_CPUS,
				 .tsc_khz = 1000000 };
	struct debug_config debug = { .stopped = rig_stopped, .opaque = r };
	struct gdb_stub_config stub = {
		.send = rig_send,
		.running = rig_running,
		.hang_up = rig_hang_up,
		.reset = rig_reset,
		.quit = rig_quit,
		.opaque = r,
	};
	struct error err = { "" };
	static const u8 rom[4096] = "read only";

	if (!r)
		abort();
	cfg.phys = r->phys = phys_new();
	cfg.ports = r->ports = io_ports_new();
	cfg.clock = r->clock = clock_new_manual();
	if (phys_add_ram(r->phys, "ram", 0, RIG_RAM, &err) ||
	    phys_add_rom(r->phys, "rom", RIG_ROM, rom, sizeof(rom), &err) ||
	    phys_add_mmio(r->phys, "dev", RIG_DEV, 4096, &rig_device, r, &err))
		abort();
	r->ram = phys_host(r->phys, 0, RIG_RAM, true);
	memset(r->cpuid.features, 0xff, sizeof(r->cpuid.features));
	r->cpuid.phys_bits = 40;
	r->cpuid.linear_bits = 48;
	r->cpuid.xcr0 = 0xe7;
	cfg.cpuid = &r->cpuid;
	r->vm = vm_new(&cfg, &err);
	if (!r->vm)
		abort();
	debug.vm = stub.vm = r->vm;
	stub.debug = r->debug = debug_new(&debug);
	r->stub = gdb_stub_new(&stub);
	gdb_rig_reset(r);
	return r;
}

__attribute__((unused)) static void gdb_rig_free(struct gdb_rig *r)
{
	gdb_stub_free(r->stub);
	debug_free(r->debug);
	vm_free(r->vm);
	phys_free(r->phys);
	io_ports_free(r->ports);
	clock_free(r->clock);
	free(r);
}
