/*
 * The whole board with an engine that is a C function: chips at their places, wires to
 * their pins, reset, power-off, suspend, saved state.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "cpu/hostcpu.h"
#include "cpu/vm.h"
#include "host/loop.h"
#include "irq/lapic.h"
#include "machine/devices.h"
#include "machine/layout.h"
#include "machine/pc.h"
#include "machine/pcidevices.h"
#include "mem/io.h"
#include "mem/phys.h"
#include "net/net.h"
#include "pci/pci.h"
#include "state/save.h"
#include "time/clock.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/vcpu.h"

#define ENTRY 0x200000

/* What the boot CPU does instead of guest code: called on its thread again and again. */
static void (*script)(struct vcpu *v, struct pc *pc);

struct rig {
	struct pc *pc;
	struct cpuid_table cpuid;
	char kernel[64];
	char out[64]; /* what COM1 wrote */
	size_t out_len;
	unsigned boots, step;
	unsigned failed;  /* line of the first failure in the script */
	unsigned ap_runs; /* CPUs other than the first */
};

static struct rig *current; /* of the script */

/* What the next machine is made with besides. */
static struct {
	struct device_args device[2];
	unsigned devices;
	bool no_chips;
	const struct pcidevices_config *virtio;
	unsigned virtios;
} extra;

/* For scripts, which are not on cmocka's thread: note the first failure, and end. */
#define want(cond)                                                                       \
	do {                                                                             \
		if (!(cond) && !current->failed) {                                       \
			current->failed = __LINE__;                                      \
			pc_end(current->pc, VM_FAILED);                                  \
		}                                                                        \
	} while (0)
#define want_equal(a, b) want((u64)(a) == (u64)(b))

static int fake_open(struct vcpu *v, struct error *err)
{
	(void)v;
	(void)err;
	return 0;
}

static void fake_close(struct vcpu *v)
{
	(void)v;
}

static enum vcpu_exit fake_run(struct vcpu *v)
{
	if (v->index == 0)
		script(v, current->pc);
	else
		__atomic_store_n(&current->ap_runs, 1, __ATOMIC_SEQ_CST);
	/* A busy guest leaves room for others on the host. */
	usleep(50);
	return VCPU_EXIT_EVENT;
}

static const struct engine fake_engine = {
	.name = "fake",
	.vcpu_open = fake_open,
	.vcpu_close = fake_close,
	.run = fake_run,
};

static void out8(struct vcpu *v, u16 port, u8 val)
{
	io_ports_write(v->ports, port, val, 1);
}

static u64 in(struct vcpu *v, u16 port, unsigned size)
{
	return io_ports_read(v->ports, port, size);
}

static size_t take_output(void *opaque, const u8 *buf, size_t len)
{
	struct rig *r = opaque;

	for (size_t i = 0; i < len && r->out_len < sizeof(r->out) - 1; i++)
		r->out[r->out_len++] = (char)buf[i];
	return len;
}

/* A PVH kernel of one instruction, by hand: <elf.h> and x86/regs.h share names. */
static void write_kernel(char *path)
{
	enum { PHDR = 64, NOTE = PHDR + 2 * 56, CODE = NOTE + 24, LEN = CODE + 16 };
	u8 f[LEN] = { 0x7f, 'E', 'L', 'F', 2 /* 64-bit */, 1 /* little-endian */ };
	int fd = mkstemp(path);

	le_store(f + 16, 2, 2);  /* executable */
	le_store(f + 18, 62, 2); /* x86-64 */
	le_store(f + 32, PHDR, 8);
	le_store(f + 54, 56, 2);
	le_store(f + 56, 2, 2);
	le_store(f + PHDR, 1, 4); /* load */
	le_store(f + PHDR + 8, CODE, 8);
	le_store(f + PHDR + 24, ENTRY, 8);
	le_store(f + PHDR + 32, 16, 8);
	le_store(f + PHDR + 40, 16, 8);
	le_store(f + PHDR + 56, 4, 4); /* note */
	le_store(f + PHDR + 56 + 8, NOTE, 8);
	le_store(f + PHDR + 56 + 32, 24, 8);
	le_store(f + NOTE, 4, 4);
	le_store(f + NOTE + 4, 8, 4);
	le_store(f + NOTE + 8, 18, 4);
	memcpy(f + NOTE + 12, "Xen", 4);
	le_store(f + NOTE + 16, ENTRY, 8);
	f[CODE] = 0xf4;
	assert_int_equal(write(fd, f, LEN), LEN);
	close(fd);
}

static struct pc *make(struct rig *r, unsigned cpus, u64 ram, bool no_reboot,
		       struct clock *clk, struct error *err)
{
	struct host_cpu host;
	struct cpuid_request req = { .cpus = cpus, .tsc_khz = 2000000 };
	struct pc_config cfg = {
		.ram_size = ram,
		.cpus = cpus,
		.engine = &fake_engine,
		.cpuid = &r->cpuid,
		.kernel = r->kernel,
		.cmdline = "test",
		.serial = { { take_output, r } },
		.no_reboot = no_reboot,
		.clock = clk,
		.device = extra.device,
		.devices = extra.devices,
		.pci = extra.virtio,
		.pci_count = extra.virtios,
		.no_pit = extra.no_chips,
		.no_hpet = extra.no_chips,
		.no_i8042 = extra.no_chips,
	};
	struct pc *pc;

	memset(err, 0, sizeof(*err));
	strcpy(r->kernel, "/tmp/umbra-pc-XXXXXX");
	write_kernel(r->kernel);
	hostcpu_read(&host);
	assert_int_equal(cpuid_build(&r->cpuid, &req, &host, NULL, err), 0);
	pc = pc_new(&cfg, err);
	unlink(r->kernel);
	return pc;
}

static void rig_init(struct rig *r, unsigned cpus, bool no_reboot)
{
	struct error err;

	memset(r, 0, sizeof(*r));
	current = r;
	r->pc = make(r, cpus, MiB(16), no_reboot, NULL, &err);
	if (!r->pc)
		fail_msg("%s", err.msg);
}

/* Run until it ends, which must be like this. */
static void expect_end(struct rig *r, enum vm_end how)
{
	enum vm_end why = pc_run(r->pc);

	if (r->failed)
		fail_msg("the script failed at line %u", r->failed);
	assert_int_equal(why, how);
}

static void power_off(struct vcpu *v)
{
	io_ports_write(v->ports, PORT_PM_CNT, 7 << 10 | 1 << 13, 2); /* S5, SLP_EN */
}

/* ---- what is where ---- */

static void look_around(struct vcpu *v, struct pc *pc)
{
	(void)pc;
	want_equal(v->rip, ENTRY);
	want_equal(v->gpr[RBX], LAYOUT_PVH_INFO);
	want_equal(v->code_size, 4);
	want_equal(v->cpl, 0);
	want_equal(phys_load(v->phys, ENTRY, 1), 0xf4);
	/* Tables, where a guest would look for them. */
	want_equal(phys_load(v->phys, LAYOUT_ACPI, 8), 0x2052545020445352); /* RSD PTR */
	want_equal(phys_load(v->phys, LAYOUT_MPTABLE, 4), 0x5f504d5f);      /* _MP_ */
	want_equal(phys_load(v->phys, 0x40e, 2) << 4, LAYOUT_EBDA);
	want_equal(phys_load(v->phys, 0x413, 2), 639);
	/* Reset stubs: mov dx, cf9h. */
	want_equal(phys_load(v->phys, 0xfffffff0, 2), 0xf9ba);
	want_equal(phys_load(v->phys, 0xffff0, 2), 0xf9ba);
	/* Chips: IOAPIC version, HPET vendor, host bridge by ECAM and by port. */
	phys_store(v->phys, LAYOUT_IOAPIC, 1, 4);
	want_equal(phys_load(v->phys, LAYOUT_IOAPIC + 0x10, 4), 0x00170020);
	want_equal(phys_load(v->phys, LAYOUT_HPET, 8) >> 16 & 0xffff, 0x8086);
	want_equal(phys_load(v->phys, LAYOUT_ECAM, 2), 0x8086);
	io_ports_write(v->ports, 0xcf8, 0x80000000, 4);
	want_equal(in(v, 0xcfc, 2), 0x8086);
	/* No display, and nobody behind the windows for PCI. */
	want_equal(phys_load(v->phys, 0xa0000, 4), 0xffffffff);
	want_equal(phys_load(v->phys, LAYOUT_MMIO32_A, 4), 0xffffffff);
	/* A UART remembers its scratch register, at each of the four places. */
	for (unsigned i = 0; i < 4; i++) {
		static const u16 com[] = { PORT_COM1, PORT_COM2, PORT_COM3, PORT_COM4 };

		out8(v, com[i] + 7, (u8)(0x50 + i));
		want_equal(in(v, com[i] + 7, 1), 0x50 + i);
	}
	/* CMOS: 15 MiB of extended memory. */
	out8(v, PORT_RTC, 0x17);
	want_equal(in(v, PORT_RTC + 1, 1), (15 * 1024) & 0xff);
	out8(v, PORT_RTC, 0x18);
	want_equal(in(v, PORT_RTC + 1, 1), (15 * 1024) >> 8);
	/* Level for the SCI and PCI. */
	want_equal(in(v, PORT_ELCR, 2), BIT(9) | BIT(5) | BIT(14));
	for (const char *s = "hello"; *s; s++)
		out8(v, PORT_COM1, (u8)*s);
	power_off(v);
}

static void every_chip_is_at_its_place(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1, false);
	script = look_around;
	expect_end(&r, VM_POWEROFF);
	assert_string_equal(r.out, "hello");
	assert_string_equal(pc_describe_boot(r.pc), "PVH kernel");
	pc_free(r.pc);
}

/* ---- wires ---- */

static void init_pic(struct vcpu *v, u8 mask_master)
{
	static const u8 icw[4][2] = {
		{ 0x11, 0x11 }, { 0x20, 0x28 }, { 4, 2 }, { 1, 1 }
	};

	for (unsigned i = 0; i < 4; i++) {
		out8(v, PORT_PIC_MASTER + (i != 0), icw[i][0]);
		out8(v, PORT_PIC_SLAVE + (i != 0), icw[i][1]);
	}
	out8(v, PORT_PIC_MASTER + 1, mask_master);
	out8(v, PORT_PIC_SLAVE + 1, 0xff);
}

/* The PIT's interrupt comes through the PIC and LINT0, which firmware left as ExtINT. */
static void take_pit_interrupt(struct vcpu *v, struct pc *pc)
{
	struct lapic *l = v->apic;

	(void)pc;
	if (current->step++ == 0) {
		init_pic(v, 0xfe);
		out8(v, PORT_PIT + 3, 0x34); /* counter 0, rate generator */
		out8(v, PORT_PIT, 0xa9);     /* 1001: 839 us */
		out8(v, PORT_PIT, 0x03);
		return;
	}
	if (!lapic_has_intr(l)) {
		want(current->step < 20000);
		return;
	}
	want_equal(lapic_take(l), 0x20);
	out8(v, PORT_PIC_MASTER, 0x20);
	power_off(v);
}

static void pit_reaches_the_cpu_through_the_pic(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1, false);
	script = take_pit_interrupt;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

/* An edge of the HPET is a pulse, and yet waits in the PIC until it is taken. */
static void take_hpet_interrupt(struct vcpu *v, struct pc *pc)
{
	struct lapic *l = v->apic;

	(void)pc;
	switch (current->step++) {
	case 0:
		init_pic(v, 0xfe);
		phys_store(v->phys, LAYOUT_HPET + 0xf0, 0, 8);
		phys_store(v->phys, LAYOUT_HPET + 0x100, 4, 8); /* timer 0: enabled */
		phys_store(v->phys, LAYOUT_HPET + 0x108, 100000, 8); /* 1 ms */
		phys_store(v->phys, LAYOUT_HPET + 0x10, 3, 8); /* count, legacy routing */
		break;
	case 1:
		usleep(20000);
		want(lapic_has_intr(l));
		want_equal(lapic_take(l), 0x20);
		out8(v, PORT_PIC_MASTER, 0x20);
		/* The next edge is one again. */
		phys_store(v->phys, LAYOUT_HPET + 0x108,
			   phys_load(v->phys, LAYOUT_HPET + 0xf0, 8) + 100000, 8);
		break;
	case 2:
		usleep(20000);
		want(lapic_has_intr(l));
		want_equal(lapic_take(l), 0x20);
		out8(v, PORT_PIC_MASTER, 0x20);
		want(!lapic_has_intr(l));
		power_off(v);
		break;
	default: break;
	}
}

static void hpet_edge_waits_in_the_pic_until_taken(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1, false);
	script = take_hpet_interrupt;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

static void ioapic_write(struct vcpu *v, u32 index, u32 val)
{
	phys_store(v->phys, LAYOUT_IOAPIC, index, 4);
	phys_store(v->phys, LAYOUT_IOAPIC + 0x10, val, 4);
}

/* COM1 (ISA 4) on pin 4, PIT (ISA 0) on pin 2, each with its vector to APIC 0. */
static void take_ioapic_interrupts(struct vcpu *v, struct pc *pc)
{
	static bool com, pit;
	struct lapic *l = v->apic;
	int vector;

	(void)pc;
	if (current->step++ == 0) {
		com = pit = false;
		init_pic(v, 0xff);
		/* Enable the APIC by its spurious vector register. */
		lapic_mmio_ops.write(l, 0xf0, 0x1ff, 4);
		ioapic_write(v, 0x10 + 2 * 4 + 1, 0);
		ioapic_write(v, 0x10 + 2 * 4, 0x44);
		ioapic_write(v, 0x10 + 2 * 2 + 1, 0);
		ioapic_write(v, 0x10 + 2 * 2, 0x42);
		out8(v, PORT_PIT + 3, 0x34);
		out8(v, PORT_PIT, 0xa9);
		out8(v, PORT_PIT, 0x03);
		out8(v, PORT_COM1 + 4, 0x0b); /* OUT2 */
		out8(v, PORT_COM1 + 1, 0x02); /* transmitter empty */
		return;
	}
	want(current->step < 20000);
	if (!lapic_has_intr(l))
		return;
	vector = lapic_take(l);
	com |= vector == 0x44;
	pit |= vector == 0x42;
	want(vector == 0x44 || vector == 0x42);
	lapic_mmio_ops.write(l, 0xb0, 0, 4);
	if (com && pit)
		power_off(v);
}

static void isa_interrupts_reach_the_cpu_through_the_ioapic(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 2, false);
	script = take_ioapic_interrupts;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

/* ---- several CPUs ---- */

/* INIT and SIPI right behind each other, as Linux sends them to modern processors. */
static void start_cpu1(struct vcpu *v, struct pc *pc)
{
	struct vcpu *ap = vm_vcpu(pc_vm(pc), 1);
	struct lapic *l = v->apic;

	if (current->step++ == 0) {
		__atomic_store_n(&current->ap_runs, 0, __ATOMIC_SEQ_CST);
		lapic_mmio_ops.write(l, 0xf0, 0x1ff, 4);
		lapic_mmio_ops.write(l, 0x310, 1 << 24, 4);
		lapic_mmio_ops.write(l, 0x300, 0x4500, 4); /* INIT */
		lapic_mmio_ops.write(l, 0x300, 0x4699, 4); /* SIPI, vector 99h */
		return;
	}
	want(current->step < 20000);
	if (__atomic_load_n(&current->ap_runs, __ATOMIC_SEQ_CST)) {
		want_equal(ap->seg[CS].base, 0x99000);
		want_equal(ap->rip, 0);
		if (++current->boots == 50) {
			power_off(v);
		} else {
			current->step = 0;
			out8(v, PORT_RESET, 6);
		}
	}
}

static void sipi_right_behind_init_starts_the_cpu(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 2, false);
	script = start_cpu1;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

/* ---- ends ---- */

static void reset_once(struct vcpu *v, struct pc *pc)
{
	(void)pc;
	want_equal(v->rip, ENTRY);
	/* The kernel is loaded anew each time. */
	want_equal(phys_load(v->phys, ENTRY, 1), 0xf4);
	phys_store(v->phys, ENTRY, 0, 1);
	v->rip = 0;
	switch (current->boots++) {
	case 0: out8(v, PORT_RESET, 2), out8(v, PORT_RESET, 6); break;
	case 1: out8(v, PORT_KBD_STATUS, 0xfe); break;
	case 2: out8(v, PORT_SYSTEM_A, 0x01); break;
	default: power_off(v);
	}
}

static void each_way_of_reset_boots_again(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 2, false);
	script = reset_once;
	expect_end(&r, VM_POWEROFF);
	assert_int_equal(r.boots, 4);
	pc_free(r.pc);
}

static void no_reboot_ends_at_the_first_reset(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1, true);
	script = reset_once;
	expect_end(&r, VM_RESET);
	assert_int_equal(r.boots, 1);
	pc_free(r.pc);
}

static void do_nothing(struct vcpu *v, struct pc *pc)
{
	(void)v;
	(void)pc;
}

static void *end_soon(void *opaque)
{
	usleep(3000);
	pc_end(opaque, VM_STOPPED);
	return NULL;
}

static void machine_stops_when_asked_and_goes_on(void **state)
{
	pthread_t t;
	struct rig r;

	(void)state;
	rig_init(&r, 4, false);
	script = do_nothing;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&t, NULL, end_soon, r.pc), 0);
		expect_end(&r, VM_STOPPED);
		pthread_join(t, NULL);
	}
	/* Asked before it runs. */
	pc_end(r.pc, VM_STOPPED);
	expect_end(&r, VM_STOPPED);
	script = look_around;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

static void wait_for_power_button(struct vcpu *v, struct pc *pc)
{
	if (current->step++ == 0) {
		io_ports_write(v->ports, PORT_PM_EVT + 2, BIT(8), 2); /* PWRBTN_EN */
		pc_press_power(pc);
	}
	want(in(v, PORT_PM_EVT, 2) & BIT(8));
	power_off(v);
}

static void power_button_reaches_the_guest(void **state)
{
	struct rig r;

	(void)state;
	rig_init(&r, 1, false);
	script = wait_for_power_button;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

/* ---- suspend ---- */

static u64 facs_of(struct phys *p)
{
	u64 xsdt = phys_load(p, LAYOUT_ACPI + 24, 8);

	for (u64 i = 36; i < phys_load(p, xsdt + 4, 4); i += 8) {
		u64 t = phys_load(p, xsdt + i, 8);

		if (phys_load(p, t, 4) == 0x50434146) /* FACP */
			return phys_load(p, t + 36, 4);
	}
	return 0;
}

static void suspend_once(struct vcpu *v, struct pc *pc)
{
	(void)pc;
	switch (__atomic_fetch_add(&current->step, 1, __ATOMIC_SEQ_CST)) {
	case 0:
		want_equal(phys_load(v->phys, facs_of(v->phys), 4), 0x53434146);
		phys_store(v->phys, facs_of(v->phys) + 12, 0x12345, 4);
		phys_store(v->phys, ENTRY, 0xaa, 1);
		io_ports_write(v->ports, PORT_PM_CNT, 5 << 10 | 1 << 13, 2); /* S3 */
		break;
	case 1:
		/* Real mode at the waking vector, memory as it was, WAK_STS set. */
		want_equal(v->seg[CS].sel, 0x1234);
		want_equal(v->seg[CS].base, 0x12340);
		want_equal(v->rip, 5);
		want_equal(v->code_size, 2);
		want_equal(phys_load(v->phys, ENTRY, 1), 0xaa);
		want(in(v, PORT_PM_EVT, 2) & BIT(15));
		power_off(v);
		break;
	default: break;
	}
}

static void *press_until_awake(void *opaque)
{
	struct rig *r = opaque;

	while (__atomic_load_n(&r->step, __ATOMIC_SEQ_CST) < 2) {
		usleep(2000);
		pc_press_power(r->pc);
	}
	return NULL;
}

static void suspended_machine_wakes_at_the_waking_vector(void **state)
{
	pthread_t t;
	struct rig r;

	(void)state;
	rig_init(&r, 2, false);
	script = suspend_once;
	assert_int_equal(pthread_create(&t, NULL, press_until_awake, &r), 0);
	expect_end(&r, VM_POWEROFF);
	pthread_join(t, NULL);
	pc_free(r.pc);
}

static void suspended_machine_can_be_stopped_and_stays_asleep(void **state)
{
	pthread_t t;
	struct rig r;

	(void)state;
	rig_init(&r, 1, false);
	script = suspend_once;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&t, NULL, end_soon, r.pc), 0);
		expect_end(&r, VM_STOPPED);
		pthread_join(t, NULL);
	}
	assert_int_equal(r.step, 1);
	assert_int_equal(pthread_create(&t, NULL, press_until_awake, &r), 0);
	expect_end(&r, VM_POWEROFF);
	pthread_join(t, NULL);
	pc_free(r.pc);
}

/* ---- what can be added and left out ---- */

static void add_devices(void)
{
	struct error err = { 0 };

	extra.devices = 2;
	assert_int_equal(device_args_parse(&extra.device[0], "pc-testdev", &err), 0);
	assert_int_equal(device_args_parse(&extra.device[1],
					   "isa-debug-exit,iobase=0xf4,iosize=4", &err),
			 0);
}

static void use_devices(struct vcpu *v, struct pc *pc)
{
	(void)pc;
	if (current->step++)
		return;
	/* fw_cfg knows the machine. */
	io_ports_write(v->ports, PORT_FWCFG, 5, 2);
	want_equal(in(v, PORT_FWCFG + 1, 1), 3);
	io_ports_write(v->ports, PORT_FWCFG, 3, 2);
	for (unsigned i = 0; i < 4; i++)
		want_equal(in(v, PORT_FWCFG + 1, 1), MiB(16) >> (8 * i) & 0xff);
	io_ports_write(v->ports, PORT_FWCFG, 0x15, 2);
	want_equal(in(v, PORT_FWCFG + 1, 1), 't'); /* of "test" */
	/* Lines of the test device: to the PIC, and to the IOAPIC behind it. */
	out8(v, PORT_TEST_LINES + 3, 1);
	out8(v, PORT_PIC_MASTER, 0x0a);
	want_equal(in(v, PORT_PIC_MASTER, 1) & 8, 8);
	phys_store(v->phys, LAYOUT_IOAPIC, 0x10 + 2 * 20, 4);
	phys_store(v->phys, LAYOUT_IOAPIC + 0x10, 0x8045, 4); /* level */
	out8(v, PORT_TEST_LINES + 20, 1);
	phys_store(v->phys, LAYOUT_TEST_MMIO + 0x1234, 0xabcd, 4);
	/* The first value counts. */
	io_ports_write(v->ports, 0xf4, 0x12345678, 4);
	io_ports_write(v->ports, 0xf4, 1, 4);
}

static void expect_same_state(struct pc *from, struct pc *to);

static void devices_are_added_and_saved(void **state)
{
	struct rig r1, r2;

	(void)state;
	add_devices();
	rig_init(&r2, 3, false);
	rig_init(&r1, 3, false);
	script = use_devices;
	expect_end(&r1, VM_EXITED);
	assert_int_equal(pc_exit_value(r1.pc), 0x12345678);
	expect_same_state(r1.pc, r2.pc);
	assert_int_equal(phys_load(pc_phys(r2.pc), LAYOUT_TEST_MMIO + 0x1234, 4), 0xabcd);
	extra.devices = 0;
	pc_free(r1.pc);
	pc_free(r2.pc);
}

static void look_for_chips(struct vcpu *v, struct pc *pc)
{
	(void)pc;
	want_equal(in(v, PORT_PIT + 3, 1), 0xff);
	want_equal(in(v, PORT_PIT, 1), 0xff);
	want_equal(in(v, PORT_SYSTEM_B, 1), 0xff);
	want_equal(in(v, PORT_KBD_STATUS, 1), 0xff);
	want_equal(phys_load(v->phys, LAYOUT_HPET, 4), 0xffffffff);
	want_equal(in(v, PORT_SYSTEM_A, 1) & 1, 0); /* this one stays */
	power_off(v);
}

static void chips_are_left_out(void **state)
{
	struct rig r;

	(void)state;
	extra.no_chips = true;
	rig_init(&r, 1, false);
	extra.no_chips = false;
	script = look_for_chips;
	expect_end(&r, VM_POWEROFF);
	pc_free(r.pc);
}

/* ---- state ---- */

static void expect_same_state(struct pc *from, struct pc *to)
{
	struct state_buf a = { 0 }, b = { 0 };
	struct error err = { 0 };

	pc_save(from, &a);
	if (pc_load(to, &a, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(a.pos, a.len);
	pc_save(to, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	state_buf_fini(&a);
	state_buf_fini(&b);
}

static void save_load_save_is_identical(void **state)
{
	static const unsigned cpus[] = { 1, 3 };

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(cpus); i++) {
		struct clock *clk1 = clock_new_manual(), *clk2 = clock_new_manual();
		struct error err;
		struct rig r1, r2;

		memset(&r1, 0, sizeof(r1));
		memset(&r2, 0, sizeof(r2));
		r1.pc = make(&r1, cpus[i], MiB(16), false, clk1, &err);
		r2.pc = make(&r2, cpus[i], MiB(16), false, clk2, &err);
		assert_non_null(r1.pc);
		assert_non_null(r2.pc);
		expect_same_state(r1.pc, r1.pc);
		expect_same_state(r1.pc, r2.pc);
		pc_free(r1.pc);
		pc_free(r2.pc);
		clock_free(clk1);
		clock_free(clk2);
	}
}

/* With devices on PCI; also that two cannot have one place. */
static void virtio_devices_are_saved(void **state)
{
	struct net_config nc = { .kind = NET_NONE, .id = "n" };
	struct pcidevices_config cfg[] = {
		{ .kind = PCIDEVICES_RNG, .name = "rng", .devfn = PCI_DEVFN(1, 0) },
		{ .kind = PCIDEVICES_CONSOLE,
		  .name = "console",
		  .ports = 2,
		  .legacy = true },
		{ .kind = PCIDEVICES_BALLOON, .name = "balloon" },
		{ .kind = PCIDEVICES_NET, .name = "net", .net = { .pairs = 1 } },
		{ .kind = PCIDEVICES_AHCI, .name = "ahci", .devfn = PCI_DEVFN(0x1f, 2) },
		{ .kind = PCIDEVICES_E1000, .name = "e1000" },
	};
	struct net_config second = { .kind = NET_NONE, .id = "m" };
	struct clock *clk = clock_new_manual();
	struct error err;
	struct rig r;

	(void)state;
	assert_int_equal(net_open(&cfg[3].net.net, &nc, &err), 0);
	assert_int_equal(net_open(&cfg[5].e1000.net, &second, &err), 0);
	extra.virtio = cfg;
	extra.virtios = ARRAY_SIZE(cfg);
	memset(&r, 0, sizeof(r));
	r.pc = make(&r, 1, MiB(16), false, clk, &err);
	assert_non_null(r.pc);
	assert_null(pcidevices_console(pc_pcidevices(r.pc), 0));
	assert_non_null(pcidevices_console(pc_pcidevices(r.pc), 1));
	expect_same_state(r.pc, r.pc);
	assert_int_equal(pc_reset(r.pc, &err), 0);
	expect_same_state(r.pc, r.pc);
	pc_free(r.pc);
	cfg[1].devfn = PCI_DEVFN(1, 0);
	assert_null(make(&r, 1, MiB(16), false, clk, &err));
	assert_non_null(strstr(err.msg, "addr=01.0 is taken"));
	extra.virtios = 0;
	net_close(cfg[3].net.net);
	net_close(cfg[5].e1000.net);
	clock_free(clk);
}

static unsigned count_in_tables(struct pc *pc, const char *name)
{
	const char *p = phys_host(pc_phys(pc), LAYOUT_ACPI, LAYOUT_ACPI_MAX, false);
	unsigned n = 0;

	for (u32 i = 0; i < LAYOUT_ACPI_MAX - 8; i++)
		n += !memcmp(p + i, name, strlen(name));
	return n;
}

/* Those outside PCI: their places, that ACPI names them, that they are saved. */
static void virtio_devices_over_mmio(void **state)
{
	struct pcidevices_config cfg[] = {
		{ .kind = PCIDEVICES_RNG, .name = "first", .mmio = true },
		{ .kind = PCIDEVICES_CONSOLE,
		  .name = "console",
		  .ports = 2,
		  .mmio = true },
		{ .kind = PCIDEVICES_BALLOON,
		  .name = "placed",
		  .mmio = true,
		  .place = 1 },
		{ .kind = PCIDEVICES_RNG, .name = "last", .mmio = true, .place = 8 },
	};
	const struct {
		unsigned place, id;
	} expect[] = { { 0, 5 }, { 1, 4 }, { 2, 3 }, { 7, 4 } };
	struct clock *clk = clock_new_manual();
	struct error err;
	struct rig r;

	(void)state;
	extra.virtio = cfg;
	extra.virtios = ARRAY_SIZE(cfg);
	memset(&r, 0, sizeof(r));
	r.pc = make(&r, 1, MiB(16), false, clk, &err);
	assert_non_null(r.pc);
	for (unsigned i = 0; i < ARRAY_SIZE(expect); i++) {
		u64 at = LAYOUT_VIRTIO_MMIO + expect[i].place * LAYOUT_VIRTIO_MMIO_STEP;

		assert_int_equal(phys_load(pc_phys(r.pc), at, 4), 0x74726976);
		assert_int_equal(phys_load(pc_phys(r.pc), at + 8, 4), expect[i].id);
	}
	assert_int_equal(phys_load(pc_phys(r.pc), LAYOUT_VIRTIO_MMIO + 0x3000, 4),
			 UINT32_MAX);
	assert_int_equal(count_in_tables(r.pc, "LNRO0005"), 4);
	assert_non_null(pcidevices_console(pc_pcidevices(r.pc), 1));
	expect_same_state(r.pc, r.pc);
	assert_int_equal(pc_reset(r.pc, &err), 0);
	expect_same_state(r.pc, r.pc);
	pc_free(r.pc);
	cfg[0].place = 8;
	assert_null(make(&r, 1, MiB(16), false, clk, &err));
	assert_non_null(strstr(err.msg, "bus=virtio-mmio-bus.7 is taken"));
	extra.virtios = 0;
	clock_free(clk);
}

/* Busy: timers running, interrupts pending, a UART in use; then stopped. */
static void make_busy(struct vcpu *v, struct pc *pc)
{
	struct lapic *l = v->apic;

	if (current->step++ == 0) {
		current->out_len = 0;
		take_ioapic_interrupts(v, pc);
		lapic_mmio_ops.write(l, 0x320, 0x20030, 4); /* APIC timer, periodic */
		lapic_mmio_ops.write(l, 0x380, 100000, 4);
		phys_store(v->phys, LAYOUT_HPET + 0x10, 1, 8);
		out8(v, PORT_RTC, 0x0b);
		out8(v, PORT_RTC + 1, 0x42); /* periodic interrupt */
		v->gpr[RAX] = 0x1122334455667788;
	}
	if (current->step == 100)
		pc_end(pc, VM_STOPPED);
}

#define KVM_TIME UINT64_C(0x700000)

static u64 msr_of(struct pc *pc, u32 msr)
{
	u64 val;

	assert_true(msr_read(vm_vcpu(pc_vm(pc), 1), msr, &val));
	return val;
}

static void stopped_machine_loads_into_another(void **state)
{
	struct rig r1, r2;
	struct error err = { 0 };
	struct vcpu *v;

	(void)state;
	rig_init(&r2, 2, false);
	rig_init(&r1, 2, false);
	script = make_busy;
	expect_end(&r1, VM_STOPPED);
	v = vm_vcpu(pc_vm(r1.pc), 1);
	assert_true(msr_write(v, 0x10, 12345));
	assert_true(msr_write(v, 0x4b564d01, KVM_TIME | 1));
	assert_true(msr_write(v, 0x4b564d00, KVM_TIME + 64));
	expect_same_state(r1.pc, r2.pc);
	/* KVM's clock says the same there, and goes with a reset. */
	assert_int_equal(msr_of(r2.pc, 0x4b564d01), KVM_TIME | 1);
	assert_int_equal(msr_of(r2.pc, 0x4b564d00), KVM_TIME + 64);
	assert_int_not_equal(phys_load(pc_phys(r1.pc), KVM_TIME + 8, 8), 0);
	assert_int_equal(phys_load(pc_phys(r2.pc), KVM_TIME + 8, 8),
			 phys_load(pc_phys(r1.pc), KVM_TIME + 8, 8));
	assert_int_equal(pc_reset(r1.pc, &err), 0);
	assert_int_equal(msr_of(r1.pc, 0x4b564d01), 0);
	assert_int_equal(msr_of(r1.pc, 0x4b564d00), 0);
	assert_int_equal(vm_vcpu(pc_vm(r2.pc), 0)->gpr[RAX], 0x1122334455667788);
	/* And the other one runs. */
	current = &r2;
	script = reset_once;
	r2.boots = 3;
	vm_vcpu(pc_vm(r2.pc), 0)->rip = ENTRY;
	expect_end(&r2, VM_POWEROFF);
	pc_free(r1.pc);
	pc_free(r2.pc);
}

static void state_of_another_machine_is_refused(void **state)
{
	struct state_buf b = { 0 };
	struct error err = { 0 };
	struct rig r1, r2;

	(void)state;
	rig_init(&r1, 1, false);
	rig_init(&r2, 2, false);
	pc_save(r1.pc, &b);
	assert_true(pc_load(r2.pc, &b, &err) < 0);
	assert_non_null(strstr(err.msg, "the saved machine has 1 CPUs"));
	/* Every truncation is refused, and the machine can be reset after it. */
	for (size_t len = b.len; len-- > 0; len -= MIN(len, 97)) {
		struct state_buf cut = { .data = b.data, .len = len };

		memset(&err, 0, sizeof(err));
		assert_true(pc_load(r1.pc, &cut, &err) < 0);
		assert_true(err.msg[0]);
	}
	assert_int_equal(pc_reset(r1.pc, &err), 0);
	state_buf_fini(&b);
	pc_free(r1.pc);
	pc_free(r2.pc);
}

static void state_tables_are_complete(void **state)
{
	(void)state;
	assert_int_equal(state_covered(&pc_desc), pc_desc.size);
	assert_int_equal(state_covered(&pc_cpu_desc), pc_cpu_desc.size);
}

/* ---- refusals ---- */

static void impossible_machines_are_refused(void **state)
{
	struct error err;
	struct rig r;

	(void)state;
	memset(&r, 0, sizeof(r));
	assert_null(make(&r, 1, MiB(1), false, NULL, &err));
	assert_non_null(strstr(err.msg, "memory of 1024 KiB is too small"));
	assert_null(make(&r, 1, GiB(1) << 20, false, NULL, &err));
	assert_true(err.msg[0]);
	assert_null(make(&r, VM_MAX_VCPUS + 1, MiB(16), false, NULL, &err));
	assert_string_equal(err.msg, "65 CPUs are not possible, 1 to 64 are");
}

static void largest_machine_is_possible(void **state)
{
	struct error err;
	struct rig r;

	(void)state;
	memset(&r, 0, sizeof(r));
	r.pc = make(&r, VM_MAX_VCPUS, GiB(5), false, NULL, &err);
	if (!r.pc)
		fail_msg("%s", err.msg);
	pc_free(r.pc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_chip_is_at_its_place),
		cmocka_unit_test(pit_reaches_the_cpu_through_the_pic),
		cmocka_unit_test(hpet_edge_waits_in_the_pic_until_taken),
		cmocka_unit_test(isa_interrupts_reach_the_cpu_through_the_ioapic),
		cmocka_unit_test(sipi_right_behind_init_starts_the_cpu),
		cmocka_unit_test(each_way_of_reset_boots_again),
		cmocka_unit_test(no_reboot_ends_at_the_first_reset),
		cmocka_unit_test(machine_stops_when_asked_and_goes_on),
		cmocka_unit_test(power_button_reaches_the_guest),
		cmocka_unit_test(suspended_machine_wakes_at_the_waking_vector),
		cmocka_unit_test(suspended_machine_can_be_stopped_and_stays_asleep),
		cmocka_unit_test(devices_are_added_and_saved),
		cmocka_unit_test(chips_are_left_out),
		cmocka_unit_test(save_load_save_is_identical),
		cmocka_unit_test(virtio_devices_are_saved),
		cmocka_unit_test(virtio_devices_over_mmio),
		cmocka_unit_test(stopped_machine_loads_into_another),
		cmocka_unit_test(state_of_another_machine_is_refused),
		cmocka_unit_test(state_tables_are_complete),
		cmocka_unit_test(impossible_machines_are_refused),
		cmocka_unit_test(largest_machine_is_possible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
