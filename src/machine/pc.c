/*
 * The board: a PC of the Q35 kind, its chips, their places and their wires.
 *
 * pc_build() is the whole machine in the order in which it is put together; layout.h has
 * the addresses, docs/device-model.md the manuals. There is no firmware: power_on()
 * leaves behind what one would have (tables, BIOS data area, chip set registers).
 * Missing: A20 gate (always open), DMA controllers, a display.
 *
 *      8254 --+--> ISA 0 --> PIC 0, IOAPIC 2          PIC --> LINT0 of all CPUs, IOAPIC 0
 *      HPET --+--> ISA 8 <-- RTC                      IOAPIC, MSI --> apic_bus --> LAPICs
 *      PCI wire n --> IOAPIC 16 + n <-- HPET (20 to 23)
 *      PCI wire n --> PIRQ routing --> PIC
 *
 * Locks: each chip has its own. A wire with several drivers has one, held while it tells
 * the PIC or the IOAPIC, so that two edges cannot overtake each other; order: device,
 * wire, PIC or IOAPIC, LAPIC. The rest belongs to the thread that calls pc_run(), but for
 * what is marked atomic.
 */
#include "machine/pc.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "dev/acpi_pm.h"
#include "dev/fwcfg.h"
#include "dev/i8042.h"
#include "dev/serial.h"
#include "host/loop.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"
#include "irq/pic.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/devices.h"
#include "machine/layout.h"
#include "machine/pcidevices.h"
#include "mem/io.h"
#include "mem/phys.h"
#include "pci/host.h"
#include "pv/kvm.h"
#include "state/save.h"
#include "time/clock.h"
#include "time/hpet.h"
#include "time/pit.h"
#include "time/pmtimer.h"
#include "time/rtc.h"
#include "time/tsc.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/vcpu.h"

#define IOAPIC_VERSION 0x20
#define IOAPIC_ID      0

/* An input with several drivers: asserted while one of them asserts it. */
struct wire {
	pthread_mutex_t lock; /* covers drivers, and telling 'to' */
	u32 drivers;          /* one bit each */
	bool muted;           /* 'to' is not told; machine stopped */
	struct irq_line to;
};

/* Who drives a wire. */
enum { BY_DEVICE, BY_HPET, BY_PIRQ, BY_TEST, BY_MMIO /* + place */ };

struct pc_cpu {
	struct pc *pc;
	struct vcpu *v;
	struct tsc *tsc;
	struct lapic *lapic;
};

struct pc {
	struct pc_config cfg;
	struct layout layout;
	struct boot *boot;
	struct loop *loop;
	struct clock *clock;
	bool own_clock;
	struct phys *phys;
	struct io_ports *ports;
	struct vm *vm;
	struct apic_bus *apic_bus;
	struct pc_cpu *cpu; /* cfg.cpus of them */
	struct pic *pic;
	struct ioapic *ioapic;
	struct wire pic_pin[16], ioapic_pin[IOAPIC_PINS];
	struct pit *pit;
	struct rtc *rtc;
	struct hpet *hpet;
	struct pmtimer *pmtimer;
	struct acpi_pm *acpi_pm;
	struct i8042 *i8042;
	struct serial *serial[PC_SERIALS];
	struct pci_host *pci;
	struct pcidevices *pci_devices;
	struct fwcfg *fwcfg;
	struct device device[DEVICES_MAX]; /* what was added to the board */
	unsigned devices;
	u64 exit_val;          /* what isa-debug-exit got first; EXIT_VALID; atomic */
	u64 facs;              /* where the firmware waking vector is */
	u32 asleep;            /* AWAKE ...; atomic */
	bool ended;            /* the VM ended; atomic */
	u32 end_why;           /* what pc_end() asked for first; atomic */
	enum vm_end end_asked; /* the same, once the loop's thread has seen it */
	struct loop_work end_work;
};

/* Suspend to RAM. */
enum { AWAKE, FALLING_ASLEEP, ASLEEP, WAKING };

#define EXIT_VALID BIT(32)

static const struct {
	u16 port;
	u8 irq;
	const char *name;
} serial_at[PC_SERIALS] = {
	{ PORT_COM1, IRQ_COM1, "COM1" },
	{ PORT_COM2, IRQ_COM2, "COM2" },
	{ PORT_COM3, IRQ_COM3, "COM3" },
	{ PORT_COM4, IRQ_COM4, "COM4" },
};

/* ---- wires ---- */

static void wire_set(void *chip, unsigned driver, bool level)
{
	struct wire *w = chip;
	bool was;

	pthread_mutex_lock(&w->lock);
	was = w->drivers != 0;
	w->drivers =
		level ? w->drivers | (u32)BIT(driver) : w->drivers & ~(u32)BIT(driver);
	/* Only changes: a second driver of a wire must not look like an edge. */
	if (was != (w->drivers != 0) && !w->muted)
		irq_set(&w->to, !was);
	pthread_mutex_unlock(&w->lock);
}

static struct irq_line wire_line(struct wire *w, unsigned driver)
{
	return (struct irq_line){ wire_set, w, driver };
}

/* An ISA interrupt goes to both controllers. Pin: number and driver. */
#define ISA_PIN(irq, driver) ((irq) | (driver) << 8)

static void isa_set(void *chip, unsigned pin, bool level)
{
	struct pc *pc = chip;
	unsigned irq = pin & 0xff, driver = pin >> 8;

	wire_set(&pc->pic_pin[irq], driver, level);
	wire_set(&pc->ioapic_pin[irq == IRQ_PIT ? GSI_PIT : irq], driver, level);
}

static struct irq_line isa_line(struct pc *pc, unsigned irq, unsigned driver)
{
	return (struct irq_line){ isa_set, pc, ISA_PIN(irq, driver) };
}

/*
 * Interrupts 0 and 8 from the HPET, whose edges are pulses; pin: the interrupt. The PIC
 * wants a request to stay until it is acknowledged, so a latch keeps it up until the next
 * edge. These two inputs of the PIC are never level-triggered.
 */
static void hpet_legacy_set(void *chip, unsigned irq, bool level)
{
	struct pc *pc = chip;

	wire_set(&pc->ioapic_pin[irq == IRQ_PIT ? GSI_PIT : irq], BY_HPET, level);
	if (level) {
		wire_set(&pc->pic_pin[irq], BY_HPET, false);
		wire_set(&pc->pic_pin[irq], BY_HPET, true);
	}
}

/* INTR of the PIC, with the PIC's lock held. */
static void pic_intr_set(void *chip, unsigned pin, bool level)
{
	struct pc *pc = chip;

	(void)pin;
	/* ExtINT by either way; which of them is open is the guest's choice. */
	wire_set(&pc->ioapic_pin[0], BY_DEVICE, level);
	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		lapic_lint_set(pc->cpu[i].lapic, 0, level);
}

/* One wire to each of the 'pins' inputs of a chip. */
static void wires_init(struct wire *w, unsigned pins,
		       void (*set)(void *chip, unsigned pin, bool level), void *chip)
{
	for (unsigned i = 0; i < pins; i++) {
		pthread_mutex_init(&w[i].lock, NULL);
		w[i].to = (struct irq_line){ set, chip, i };
	}
}

static void wires_each(struct pc *pc, void (*what)(struct wire *w))
{
	for (unsigned i = 0; i < ARRAY_SIZE(pc->pic_pin); i++)
		what(&pc->pic_pin[i]);
	for (unsigned i = 0; i < ARRAY_SIZE(pc->ioapic_pin); i++)
		what(&pc->ioapic_pin[i]);
}

/*
 * While chips are loaded one after the other the wires go through levels that never were.
 * Each pin's level is in the state of the chip that has it, so nobody is told.
 */
static void wire_mute(struct wire *w)
{
	w->muted = true;
}

/* No news, unless the stream contradicts itself. */
static void wire_unmute(struct wire *w)
{
	w->muted = false;
	irq_set(&w->to, w->drivers != 0);
}

/* ---- what chips do to the machine ---- */

static void on_reset(void *opaque)
{
	struct pc *pc = opaque;

	vm_end(pc->vm, VM_RESET);
}

static void on_cf9_reset(void *opaque, bool full)
{
	(void)full; /* there is no power to cycle */
	on_reset(opaque);
}

static void on_sleep(void *opaque, unsigned slp_typ)
{
	struct pc *pc = opaque;
	u32 awake = AWAKE;

	switch (slp_typ) {
	case ACPI_SLP_S5: vm_end(pc->vm, VM_POWEROFF); break;
	case ACPI_SLP_S3:
		if (__atomic_compare_exchange_n(&pc->asleep, &awake, FALLING_ASLEEP,
						false, __ATOMIC_SEQ_CST,
						__ATOMIC_SEQ_CST))
			vm_end(pc->vm, VM_STOPPED);
		break;
	default: guest_bug("board", "sleep type %u does not exist", slp_typ); break;
	}
}

static void on_exit_port(void *opaque, u32 val)
{
	struct pc *pc = opaque;
	u64 none = 0;

	__atomic_compare_exchange_n(&pc->exit_val, &none, EXIT_VALID | val, false,
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	vm_end(pc->vm, VM_EXITED);
}

/* With the HPET's lock held, which comes before theirs. */
static void on_hpet_legacy(void *opaque, bool on)
{
	struct pc *pc = opaque;

	wire_set(&pc->pic_pin[IRQ_PIT], BY_HPET, false);
	wire_set(&pc->pic_pin[IRQ_RTC], BY_HPET, false);
	pit_cut_irq0(pc->pit, on);
	rtc_cut_irq(pc->rtc, on);
}

/* ---- local APICs ---- */

static void cpu_event(void *opaque, unsigned events)
{
	struct pc_cpu *c = opaque;

	vcpu_apic_event(c->v, events);
}

static int cpu_inta(void *opaque)
{
	struct pc_cpu *c = opaque;

	return pic_take(c->pc->pic);
}

static void cpu_base_changed(void *opaque, u64 base)
{
	struct pc_cpu *c = opaque;

	(void)base;
	vcpu_apic_base_changed(c->v);
}

static vns_t cpu_tsc_to_vns(void *opaque, u64 tsc)
{
	struct pc_cpu *c = opaque;

	return tsc_to_vns(c->tsc, tsc, clock_now(c->pc->clock));
}

static u64 cpu_vns_to_tsc(void *opaque, vns_t t)
{
	struct pc_cpu *c = opaque;

	return tsc_read(c->tsc, t);
}

static const struct lapic_ops cpu_lapic_ops = {
	.event = cpu_event,
	.inta = cpu_inta,
	.base_changed = cpu_base_changed,
	.tsc_to_vns = cpu_tsc_to_vns,
	.vns_to_tsc = cpu_vns_to_tsc,
};

static bool has(const struct cpuid_table *t, enum cpu_feature f)
{
	return t->features[f / 32] >> (f % 32) & 1;
}

static int cpus_build(struct pc *pc, struct error *err)
{
	const struct cpuid_table *t = pc->cfg.cpuid;

	pc->cpu = xzalloc(pc->cfg.cpus * sizeof(*pc->cpu));
	for (unsigned i = 0; i < pc->cfg.cpus; i++) {
		struct pc_cpu *c = &pc->cpu[i];
		struct lapic_config cfg = {
			.clk = pc->clock,
			.bus = pc->apic_bus,
			.id = cpuid_apic_id(t, i),
			.is_bsp = i == 0,
			.x2apic = has(t, FEAT_X2APIC),
			.tsc_deadline = has(t, FEAT_TSC_DEADLINE),
			.phys_bits = t->phys_bits,
			.timer_hz = t->crystal_hz,
			.ops = &cpu_lapic_ops,
			.opaque = c,
		};

		c->pc = pc;
		c->v = vm_vcpu(pc->vm, i);
		c->tsc = vm_tsc(pc->vm, i);
		c->lapic = lapic_new(&cfg);
		if (!c->lapic)
			return error_set(err, -EINVAL,
					 "CPU %u: APIC ID %u is not possible", i, cfg.id);
		vm_set_lapic(pc->vm, i, c->lapic);
	}
	return 0;
}

/* ---- the board ---- */

/* A window that overlaps another is a mistake in layout.h. */
static void place(struct pc *pc, u16 port, u16 len, const char *name,
		  const struct io_ops *ops, void *dev)
{
	int ret = io_ports_add(pc->ports, port, len, name, ops, dev, NULL);

	assert(!ret);
}

/* What lies at the reset vectors: ask the chip set for a reset, which loads the kernel
 * again. */
static const u8 reset_stub[16] = {
	0xba, 0xf9, 0x0c, /* mov dx, 0cf9h */
	0xb0, 0x06,       /* mov al, 6 */
	0xee,             /* out dx, al */
	0xf4,             /* hlt */
	0xeb, 0xfd,       /* jmp to hlt */
};

static int memory_build(struct pc *pc, struct error *err)
{
	u8 rom[LAYOUT_ROM_SIZE];
	int ret;

	/* Two pieces below 4 GiB; between them is nothing, the place of a display. */
	ret = phys_add_ram(pc->phys, "low RAM", 0, LAYOUT_LOW_END, err);
	if (!ret)
		ret = phys_add_ram(pc->phys, "RAM", LAYOUT_SHADOW,
				   pc->layout.low_end - LAYOUT_SHADOW, err);
	if (!ret && pc->layout.high_end)
		ret = phys_add_ram(pc->phys, "high RAM", LAYOUT_HIGH_RAM,
				   pc->layout.high_end - LAYOUT_HIGH_RAM, err);
	if (ret)
		return ret;
	memset(rom, 0xff, sizeof(rom));
	memcpy(rom + sizeof(rom) - sizeof(reset_stub), reset_stub, sizeof(reset_stub));
	return phys_add_rom(pc->phys, "reset stub", LAYOUT_ROM, rom, sizeof(rom), err);
}

static void hpet_build(struct pc *pc)
{
	struct hpet_config cfg = {
		.timers = HPET_MIN_TIMERS,
		.periodic = BIT(HPET_MIN_TIMERS) - 1,
		.route_cap = GSI_HPET_MASK,
		.legacy = { { hpet_legacy_set, pc, IRQ_PIT },
			    { hpet_legacy_set, pc, IRQ_RTC } },
		.msi = { apic_bus_msi, pc->apic_bus },
		.legacy_changed = on_hpet_legacy,
		.opaque = pc,
	};

	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++)
		if (GSI_HPET_MASK & BIT(gsi))
			cfg.gsi[gsi] = wire_line(&pc->ioapic_pin[gsi], BY_HPET);
	pc->hpet = hpet_new(pc->clock, &cfg);
}

static int pci_build(struct pc *pc, struct error *err)
{
	struct pci_host_args args = {
		.phys = pc->phys,
		.ports = pc->ports,
		.intx_count = PCI_WIRES,
		.pm_base = PORT_PM_EVT,
		.ecam_base = LAYOUT_ECAM,
		.cf9_ops = &acpi_pm_reset_ops,
		.cf9_dev = pc->acpi_pm,
	};

	for (unsigned i = 0; i < PCI_WIRES; i++)
		args.intx[i] = wire_line(&pc->ioapic_pin[GSI_PCI + i], BY_DEVICE);
	for (unsigned i = 0; i < ARRAY_SIZE(args.isa); i++)
		args.isa[i] = wire_line(&pc->pic_pin[i], BY_PIRQ);
	pc->pci = pci_host_new(&args, err);
	return pc->pci ? 0 : -EINVAL;
}

/* ---- what can be added ---- */

static struct irq_line device_gsi(void *opaque, unsigned gsi)
{
	struct pc *pc = opaque;

	return gsi < ARRAY_SIZE(pc->pic_pin) ? isa_line(pc, gsi, BY_TEST)
					     : wire_line(&pc->ioapic_pin[gsi], BY_TEST);
}

static int devices_build(struct pc *pc, struct error *err)
{
	const struct device_board board = { .phys = pc->phys,
					    .ports = pc->ports,
					    .gsi = device_gsi,
					    .exit = on_exit_port,
					    .opaque = pc };

	if (pc->cfg.devices > DEVICES_MAX)
		return error_set(err, -E2BIG, "-device: at most %u devices are possible",
				 DEVICES_MAX);
	for (unsigned i = 0; i < pc->cfg.devices; i++) {
		int ret = device_new(&pc->device[i], &pc->cfg.device[i], &board, err);

		if (ret)
			return ret;
		pc->devices++;
	}
	return 0;
}

/* Files that the machine makes itself; put_tables() fills the last two. */
static const char *const own_files[] = { "etc/e820", "etc/acpi/tables", "etc/acpi/rsdp" };

static int fwcfg_build(struct pc *pc, struct error *err)
{
	const struct pc_config *cfg = &pc->cfg;
	u8 e820[E820_MAX * E820_ENTRY_SIZE];
	struct fwcfg *f = pc->fwcfg = fwcfg_new(pc->phys);
	struct e820 map;
	int ret = 0;

	e820_build(&map, &pc->layout);
	fwcfg_set(f, FWCFG_UUID, (u8[16]){ 0 }, 16);
	fwcfg_set_int(f, FWCFG_RAM_SIZE, cfg->ram_size, 8);
	fwcfg_set_int(f, FWCFG_NOGRAPHIC, 1, 2);
	fwcfg_set_int(f, FWCFG_NB_CPUS, cfg->cpus, 2);
	/* On a PC this bounds APIC IDs. */
	fwcfg_set_int(f, FWCFG_MAX_CPUS, cpuid_apic_id(cfg->cpuid, cfg->cpus - 1) + 1, 2);
	fwcfg_set_int(f, FWCFG_BOOT_MENU, 0, 2);
	fwcfg_set_int(f, FWCFG_IRQ0_OVERRIDE, 1, 1);
	boot_fwcfg(pc->boot, f);
	for (size_t i = 0; !ret && i < ARRAY_SIZE(own_files); i++)
		ret = fwcfg_set_file(f, own_files[i], e820,
				     i ? 0 : e820_bytes(&map, e820), err);
	for (unsigned i = 0; !ret && i < cfg->files; i++) {
		const struct pc_file *file = &cfg->file[i];

		if (fwcfg_has_file(f, file->name))
			return error_set(err, -EEXIST, "-fw_cfg %s: there is one already",
					 file->name);
		ret = fwcfg_set_file(f, file->name, file->data, file->len, err);
	}
	return ret;
}

static int pci_devices_build(struct pc *pc, struct error *err)
{
	static const u8 mmio_irq[] = VIRTIO_MMIO_IRQS;
	struct pcidevices_board board = { .phys = pc->phys,
					  .pci = pc->pci,
					  .loop = pc->loop,
					  .msi = { apic_bus_msi, pc->apic_bus },
					  .cpus = pc->cfg.cpus };

	for (unsigned i = 0; i < VIRTIO_MMIO_PLACES; i++)
		board.mmio_irq[i] =
			isa_line(pc, mmio_irq[i % ARRAY_SIZE(mmio_irq)], BY_MMIO + i);
	pc->pci_devices = pcidevices_new(pc->cfg.pci, pc->cfg.pci_count, &board, err);
	return pc->pci_devices ? 0 : -EINVAL;
}

/* The whole machine, in order. On failure pc_free() takes apart what is there. */
static int pc_build(struct pc *pc, struct error *err)
{
	const struct pc_config *cfg = &pc->cfg;
	struct vm_config vm = {
		.engine = cfg->engine,
		.cpus = cfg->cpus,
		.cpuid = cfg->cpuid,
		.tsc_khz = cfg->cpuid->tsc_khz,
		.profile = cfg->profile,
	};
	struct ioapic_config ioapic = { .version = IOAPIC_VERSION, .id = IOAPIC_ID };
	struct acpi_pm_outputs pm_out = { .sleep = on_sleep,
					  .reset = on_cf9_reset,
					  .opaque = pc };
	struct i8042_outputs kbd_out = { .reset = on_reset, .opaque = pc };
	int ret;

	/* Memory and ports first: everything else is placed in them. */
	vm.phys = pc->phys = phys_new();
	vm.ports = pc->ports = io_ports_new();
	vm.clock = pc->clock;
	ret = memory_build(pc, err);
	if (ret)
		return ret;

	/*
	 * Interrupt controllers, from the CPUs outwards. The PIC may tell its output
	 * from the start, so the local APICs and the IOAPIC are there before it.
	 */
	pc->apic_bus = apic_bus_new();
	pc->vm = vm_new(&vm, err);
	if (!pc->vm)
		return -EINVAL;
	ret = cpus_build(pc, err);
	if (ret)
		return ret;
	ioapic.out = (struct msi_sink){ apic_bus_msi, pc->apic_bus };
	ioapic.active_low = (u32)BITS(GSI_PCI + PCI_WIRES - 1, GSI_PCI);
	pc->ioapic = ioapic_new(&ioapic);
	apic_bus_listen_eoi(pc->apic_bus, ioapic_eoi, pc->ioapic);
	wires_init(pc->ioapic_pin, IOAPIC_PINS, ioapic_set, pc->ioapic);
	ret = phys_add_mmio(pc->phys, "IOAPIC", LAYOUT_IOAPIC, LAYOUT_IOAPIC_SIZE,
			    &ioapic_ops, pc->ioapic, err);
	if (ret)
		return ret;
	pc->pic = pic_new((struct irq_line){ pic_intr_set, pc, 0 });
	place(pc, PORT_PIC_MASTER, 2, "PIC", &pic_master_ops, pc->pic);
	place(pc, PORT_PIC_SLAVE, 2, "PIC", &pic_slave_ops, pc->pic);
	place(pc, PORT_ELCR, 2, "PIC", &pic_elcr_ops, pc->pic);
	wires_init(pc->pic_pin, ARRAY_SIZE(pc->pic_pin), pic_set, pc->pic);

	/* Timers. The HPET comes last: it can cut the lines of the other two. */
	pc->pit = pit_new(pc->clock, cfg->no_pit ? (struct irq_line){ 0 }
						 : isa_line(pc, IRQ_PIT, BY_DEVICE));
	if (!cfg->no_pit) {
		place(pc, PORT_PIT, 4, "PIT", &pit_ops, pc->pit);
		place(pc, PORT_SYSTEM_B, 1, "PIT", &pit_port61_ops, pc->pit);
	}
	pc->rtc = rtc_new(pc->clock, isa_line(pc, IRQ_RTC, BY_DEVICE), cfg->utc_offset);
	place(pc, PORT_RTC, 4, "RTC", &rtc_ops, pc->rtc);
	hpet_build(pc);
	if (!cfg->no_hpet)
		ret = phys_add_mmio(pc->phys, "HPET", LAYOUT_HPET, LAYOUT_HPET_SIZE,
				    &hpet_ops, pc->hpet, err);
	if (ret)
		return ret;

	/* ACPI. SCI_EN is off, as firmware leaves it: the guest asks at the SMI port. */
	pc->pmtimer = pmtimer_new(pc->clock, 32);
	pc->acpi_pm =
		acpi_pm_new(isa_line(pc, IRQ_SCI, BY_DEVICE), false, pc->pmtimer, pm_out);
	place(pc, PORT_PM_EVT, ACPI_PM_EVT_LEN, "ACPI", &acpi_pm_evt_ops, pc->acpi_pm);
	place(pc, PORT_PM_CNT, ACPI_PM_CNT_LEN, "ACPI", &acpi_pm_cnt_ops, pc->acpi_pm);
	place(pc, PORT_PM_TIMER, 4, "PM timer", &pmtimer_ops, pc->pmtimer);
	place(pc, PORT_PM_GPE, ACPI_PM_GPE_LEN, "ACPI", &acpi_pm_gpe_ops, pc->acpi_pm);
	place(pc, PORT_SMI, ACPI_PM_SMI_LEN, "ACPI", &acpi_pm_smi_ops, pc->acpi_pm);

	/* PCI, which passes on the reset port: that lies inside its own ports. */
	ret = pci_build(pc, err);
	if (ret)
		return ret;
	place(pc, PORT_PCI_HOST, PCI_HOST_PORTS, "PCI", &pci_host_ops, pc->pci);
	ret = devices_build(pc, err);
	if (ret)
		return ret;

	/* ISA devices. Port 80h (POST) is nobody's: writes there are ignored. */
	pc->i8042 = i8042_new(isa_line(pc, IRQ_KBD, BY_DEVICE),
			      isa_line(pc, IRQ_MOUSE, BY_DEVICE), cfg->mouse, kbd_out);
	if (!cfg->no_i8042) {
		place(pc, PORT_KBD_DATA, 1, "keyboard", &i8042_data_ops, pc->i8042);
		place(pc, PORT_KBD_STATUS, 1, "keyboard", &i8042_status_ops, pc->i8042);
	}
	place(pc, PORT_SYSTEM_A, 1, "keyboard", &i8042_port92_ops, pc->i8042);
	for (unsigned i = 0; i < PC_SERIALS; i++) {
		pc->serial[i] = serial_new(i, pc->clock,
					   isa_line(pc, serial_at[i].irq, BY_DEVICE),
					   cfg->serial[i]);
		place(pc, serial_at[i].port, SERIAL_PORTS, serial_at[i].name, &serial_ops,
		      pc->serial[i]);
	}
	ret = fwcfg_build(pc, err);
	if (ret)
		return ret;
	place(pc, PORT_FWCFG, FWCFG_PORTS, "fw_cfg", &fwcfg_ops, pc->fwcfg);
	place(pc, PORT_FWCFG_DMA, FWCFG_DMA_PORTS, "fw_cfg", &fwcfg_dma_ops, pc->fwcfg);

	/* Last what the user adds: it may not take a port of the board. */
	return pci_devices_build(pc, err);
}

/* ---- what firmware would have left behind ---- */

static void put_tables(struct pc *pc)
{
	struct acpi_config cfg = {
		.layout = &pc->layout,
		.cpus = pc->cfg.cpus,
		.ioapic_id = IOAPIC_ID,
		.ioapic_version = IOAPIC_VERSION,
		.hpet_block_id = pc->cfg.no_hpet ? 0 : hpet_block_id(pc->hpet),
		.no_pit = pc->cfg.no_pit,
		.no_i8042 = pc->cfg.no_i8042,
		.serial = { true, true, true, true },
		.mouse = pc->cfg.mouse,
		.s3 = true,
		.virtio_mmio = pcidevices_mmio(pc->pci_devices),
	};
	u8 *buf = xzalloc(LAYOUT_ACPI_MAX);
	size_t n;

	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		cfg.apic_id[i] = lapic_id(pc->cpu[i].lapic);
	cfg.ecam = pci_host_ecam(pc->pci, &cfg.ecam_buses);
	/* Both have room for VM_MAX_VCPUS many times over; a unit test has more. */
	n = acpi_build(buf, LAYOUT_ACPI_MAX, &cfg);
	assert(n);
	pc->facs = LAYOUT_ACPI + acpi_find_facs(buf, n);
	/* Addresses in them are those of this place: nobody has to link them. */
	fwcfg_set_file(pc->fwcfg, "etc/acpi/tables", buf, (u32)n, NULL);
	fwcfg_set_file(pc->fwcfg, "etc/acpi/rsdp", buf, ACPI_RSDP_SIZE, NULL);
	phys_write(pc->phys, LAYOUT_ACPI, buf, LAYOUT_ACPI_MAX);
	memset(buf, 0, LAYOUT_MPTABLE_MAX);
	n = mptable_build(buf, LAYOUT_MPTABLE_MAX, &cfg);
	assert(n);
	phys_write(pc->phys, LAYOUT_MPTABLE, buf, LAYOUT_MPTABLE_MAX);
	free(buf);
}

/* BIOS data area and real-mode reset vector: what kernels look at without a BIOS call. */
static void put_bios_data(struct pc *pc)
{
	u8 bda[256] = { 0 };
	u8 ebda[1024] = { 1 }; /* its size in KiB */

	for (unsigned i = 0; i < PC_SERIALS; i++)
		le_store(bda + 2 * i, serial_at[i].port, 2);
	le_store(bda + 0x0e, LAYOUT_EBDA >> 4, 2);
	le_store(bda + 0x10, PC_SERIALS << 9 | BIT(1),
		 2);                                /* equipment: serial ports, FPU */
	le_store(bda + 0x13, LAYOUT_EBDA >> 10, 2); /* KiB of low memory */
	phys_write(pc->phys, LAYOUT_BDA, bda, sizeof(bda));
	phys_write(pc->phys, LAYOUT_EBDA, ebda, sizeof(ebda));
	phys_write(pc->phys, LAYOUT_RESET_LOW, reset_stub, sizeof(reset_stub));
}

/* Memory sizes and equipment where a PC's set-up program keeps them. */
static void put_cmos(struct pc *pc)
{
	u64 ext = MIN((pc->layout.low_end >> 10) - 1024, 0xffff);
	u64 above16 =
		pc->layout.low_end > MiB(16) ? (pc->layout.low_end - MiB(16)) >> 16 : 0;
	u64 high =
		pc->layout.high_end ? (pc->layout.high_end - LAYOUT_HIGH_RAM) >> 16 : 0;
	const struct {
		u8 index;
		u64 val;
		u8 bytes;
	} cells[] = {
		{ 0x0f, 0, 1 },                    /* shutdown status */
		{ 0x10, 0, 1 },                    /* no floppy */
		{ 0x14, 0x02, 1 },                 /* equipment: FPU */
		{ 0x15, 640, 2 },                  /* low memory, KiB */
		{ 0x17, ext, 2 },                  /* extended memory, KiB */
		{ 0x30, ext, 2 },                  /* the same as found */
		{ 0x34, MIN(above16, 0xffff), 2 }, /* above 16 MiB, 64 KiB */
		{ 0x5b, high, 3 },                 /* above 4 GiB, 64 KiB */
		{ 0x5f, pc->cfg.cpus - 1, 1 },
	};
	u32 sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(cells); i++)
		for (unsigned j = 0; j < cells[i].bytes; j++)
			rtc_set_cmos(pc->rtc, cells[i].index + j,
				     (u8)(cells[i].val >> (8 * j)));
	for (unsigned i = 0x10; i < 0x2e; i++)
		sum += rtc_get_cmos(pc->rtc, i);
	rtc_set_cmos(pc->rtc, 0x2e, (u8)(sum >> 8));
	rtc_set_cmos(pc->rtc, 0x2f, (u8)sum);
}

/* Registers of the chip set and the processors. */
static void set_up_chips(struct pc *pc)
{
	static const u8 rout[PCI_WIRES] = {
		0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b
	};
	const u16 level = BIT(IRQ_SCI) | BIT(IRQ_PCI_EVEN) | BIT(IRQ_PCI_ODD);

	lapic_virtual_wire(pc->cpu[0].lapic);
	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		msr_firmware_mtrrs(pc->cpu[i].v, LAYOUT_LOW_RAM_MAX);
	io_ports_write(pc->ports, PORT_ELCR, level & 0xff, 1);
	io_ports_write(pc->ports, PORT_ELCR + 1, level >> 8, 1);
	for (unsigned i = 0; i < PCI_WIRES; i++)
		pci_host_config_write(pc->pci, PCI_DEVFN(0x1f, 0), rout[i],
				      i & 1 ? IRQ_PCI_ODD : IRQ_PCI_EVEN, 1);
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		u32 pin = pci_host_config_read(pc->pci, (u8)devfn, PCI_INT_PIN, 1);
		unsigned wire = (devfn / 8 + pin - 1) % PCI_WIRES;

		if (pin >= 1 && pin <= 4)
			pci_host_config_write(pc->pci, (u8)devfn, PCI_INT_LINE,
					      wire & 1 ? IRQ_PCI_ODD : IRQ_PCI_EVEN, 1);
	}
}

/* Reset inputs of all chips. Those that drive pins come after those that have them. */
static void reset_chips(struct pc *pc)
{
	pic_reset(pc->pic);
	ioapic_reset(pc->ioapic);
	vm_reset_cpus(pc->vm); /* with their local APICs */
	pit_reset(pc->pit);
	rtc_reset(pc->rtc);
	hpet_reset(pc->hpet);
	pmtimer_reset(pc->pmtimer);
	acpi_pm_reset(pc->acpi_pm);
	i8042_reset(pc->i8042);
	for (unsigned i = 0; i < PC_SERIALS; i++)
		serial_reset(pc->serial[i]);
	pci_host_reset(pc->pci);
	pcidevices_reset(pc->pci_devices);
	fwcfg_reset(pc->fwcfg);
	for (unsigned i = 0; i < pc->devices; i++)
		device_reset(&pc->device[i]);
}

int pc_reset(struct pc *pc, struct error *err)
{
	int ret;

	reset_chips(pc);
	__atomic_store_n(&pc->asleep, AWAKE, __ATOMIC_SEQ_CST);
	__atomic_store_n(&pc->exit_val, 0, __ATOMIC_SEQ_CST);
	set_up_chips(pc);
	put_cmos(pc);
	put_tables(pc);
	put_bios_data(pc);
	ret = boot_load(pc->boot, pc->phys, err);
	if (!ret)
		boot_enter(pc->boot, pc->cpu[0].v);
	return ret;
}

/* ---- suspend to RAM ---- */

/*
 * Firmware's part of waking up (ACPI 6.3 section 16.3): the boot CPU goes in real mode
 * where the FACS says; the operating system does the rest.
 */
static void wake_up(struct pc *pc)
{
	struct vcpu *v = pc->cpu[0].v;
	u32 vector = (u32)phys_load(pc->phys, pc->facs + 12, 4);

	reset_chips(pc);
	set_up_chips(pc);
	acpi_pm_wake(pc->acpi_pm);
	if (!vector || vector >= LAYOUT_EXTENDED) {
		guest_bug("board", "no waking vector after suspend");
		return; /* the reset vector, and so a reboot */
	}
	v->seg[CS].sel = (u16)(vector >> 4);
	v->seg[CS].base = (u64)v->seg[CS].sel << 4;
	v->rip = vector & 0xf;
	vcpu_sync(v);
}

/* Wait, the CPUs stopped, for the power button or for pc_end(). */
static enum vm_end suspend(struct pc *pc)
{
	__atomic_store_n(&pc->asleep, ASLEEP, __ATOMIC_SEQ_CST);
	clock_start(pc->clock);
	while (__atomic_load_n(&pc->asleep, __ATOMIC_SEQ_CST) == ASLEEP && !pc->end_asked)
		loop_run(pc->loop);
	clock_stop(pc->clock);
	if (pc->end_asked)
		return pc->end_asked; /* still asleep, and so it can be saved */
	wake_up(pc);
	__atomic_store_n(&pc->asleep, AWAKE, __ATOMIC_SEQ_CST);
	return VM_RUNNING;
}

void pc_press_power(struct pc *pc)
{
	u32 asleep = ASLEEP;

	if (__atomic_compare_exchange_n(&pc->asleep, &asleep, WAKING, false,
					__ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		loop_stop(pc->loop, 0);
	else
		acpi_pm_press_power(pc->acpi_pm);
}

/* ---- running ---- */

static i64 next_timer(void *opaque)
{
	struct pc *pc = opaque;
	vns_t t = clock_next_deadline(pc->clock);

	return t == VNS_NEVER ? INT64_MAX : t - clock_now(pc->clock);
}

static void run_timers(void *opaque)
{
	struct pc *pc = opaque;

	clock_run_timers(pc->clock);
}

static void wake_loop(void *opaque)
{
	struct pc *pc = opaque;

	loop_wake(pc->loop);
}

/* The VM is to end: any thread, any locks. */
static void on_ending(void *opaque)
{
	struct pc *pc = opaque;

	loop_stop(pc->loop, 0);
}

/* It has ended: any thread. */
static void on_end(void *opaque)
{
	struct pc *pc = opaque;

	__atomic_store_n(&pc->ended, true, __ATOMIC_SEQ_CST);
	loop_stop(pc->loop, 0);
}

/*
 * pc_end() on the loop's thread, where it is known whether the CPUs run. A request
 * that comes before pc_run() is met as soon as that runs.
 */
static void end_now(void *opaque)
{
	struct pc *pc = opaque;

	pc->end_asked = __atomic_load_n(&pc->end_why, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&pc->asleep, __ATOMIC_SEQ_CST) == ASLEEP)
		loop_stop(pc->loop, 0);
	else
		vm_end(pc->vm, pc->end_asked);
}

void pc_end(struct pc *pc, enum vm_end why)
{
	u32 none = VM_RUNNING;

	__atomic_compare_exchange_n(&pc->end_why, &none, (u32)why, false,
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	loop_post(pc->loop, &pc->end_work);
}

static enum vm_end run_cpus(struct pc *pc, struct error *err)
{
	enum vm_end why;

	__atomic_store_n(&pc->ended, false, __ATOMIC_SEQ_CST);
	clock_start(pc->clock);
	pcidevices_resume(pc->pci_devices);
	if (vm_start(pc->vm, err)) {
		pcidevices_pause(pc->pci_devices);
		clock_stop(pc->clock);
		log_error("%s", err->msg);
		return VM_FAILED;
	}
	while (!__atomic_load_n(&pc->ended, __ATOMIC_SEQ_CST)) {
		loop_run(pc->loop);
		/* A CPU that resets a disk may wait for its requests, and leaves after.
		 */
		if (vm_why(pc->vm) != VM_RUNNING)
			pcidevices_hurry(pc->pci_devices);
	}
	pcidevices_hurry(pc->pci_devices);
	why = vm_join(pc->vm);
	pcidevices_pause(pc->pci_devices);
	clock_stop(pc->clock);
	return why;
}

/* One stretch; VM_RUNNING when there is another after it. */
static enum vm_end run_once(struct pc *pc)
{
	struct error err = { 0 };
	enum vm_end why;

	if (__atomic_load_n(&pc->asleep, __ATOMIC_SEQ_CST) != AWAKE)
		return suspend(pc);
	why = run_cpus(pc, &err);
	if (why == VM_STOPPED && __atomic_load_n(&pc->asleep, __ATOMIC_SEQ_CST) != AWAKE)
		return pc->end_asked;
	if (why != VM_RESET || pc->cfg.no_reboot || pc->end_asked)
		return why;
	if (pc_reset(pc, &err)) {
		log_error("%s", err.msg);
		return VM_FAILED;
	}
	return VM_RUNNING;
}

enum vm_end pc_run(struct pc *pc)
{
	enum vm_end why;

	do
		why = run_once(pc);
	while (why == VM_RUNNING);
	loop_unpost(pc->loop, &pc->end_work);
	pc->end_asked = VM_RUNNING;
	__atomic_store_n(&pc->end_why, VM_RUNNING, __ATOMIC_SEQ_CST);
	return why;
}

/* ---- state ---- */

struct pc_state {
	u64 ram_size;
	u32 cpus;
	u32 asleep;     /* suspended to RAM */
	u64 hpet_latch; /* hpet_legacy_set(): bit 0 for interrupt 0, bit 1 for interrupt 8
			 */
};

static const struct state_field pc_fields[] = {
	STATE_FIELD(struct pc_state, ram_size, 1),
	STATE_FIELD(struct pc_state, cpus, 1),
	STATE_FIELD(struct pc_state, asleep, 1),
	STATE_FIELD(struct pc_state, hpet_latch, 1),
	{ 0 },
};

static bool pc_valid(const void *state)
{
	const struct pc_state *s = state;

	return s->asleep <= 1 && s->hpet_latch <= 3;
}

const struct state_desc pc_desc = {
	.name = "pc",
	.size = sizeof(struct pc_state),
	.version = 1,
	.fields = pc_fields,
	.valid = pc_valid,
};

/* What was posted to a CPU and not yet looked at. That interrupts pend is the LAPIC's
 * state. */
struct pc_cpu_state {
	u64 events;
};

#define EVENTS_SAVED (EV_NMI | EV_SMI | EV_INIT | EV_SIPI)

static const struct state_field pc_cpu_fields[] = {
	STATE_FIELD(struct pc_cpu_state, events, 1),
	{ 0 },
};

static bool pc_cpu_valid(const void *state)
{
	const struct pc_cpu_state *s = state;

	return !(s->events & ~(u64)EVENTS_SAVED);
}

const struct state_desc pc_cpu_desc = {
	.name = "pc_cpu",
	.size = sizeof(struct pc_cpu_state),
	.version = 1,
	.fields = pc_cpu_fields,
	.valid = pc_cpu_valid,
};

static void cpu_save(struct pc *pc, unsigned i, struct state_buf *b)
{
	struct pc_cpu *c = &pc->cpu[i];
	struct pc_cpu_state s = { vcpu_events(c->v) & EVENTS_SAVED };

	if (pc->cfg.engine->pull)
		pc->cfg.engine->pull(c->v);
	state_save(b, &pc_cpu_desc, i, &s);
	vcpu_save(c->v, b);
	tsc_save(c->tsc, b, i);
}

static int cpu_load(struct pc *pc, unsigned i, struct state_buf *b, struct error *err)
{
	struct pc_cpu *c = &pc->cpu[i];
	struct pc_cpu_state s = { 0 };
	int ret = state_load(b, &pc_cpu_desc, i, &s, err);

	if (!ret)
		ret = vcpu_load(c->v, b, err);
	if (!ret)
		ret = tsc_load(c->tsc, b, i, err);
	if (ret)
		return ret;
	/* Whether an interrupt pends is found out by looking. */
	__atomic_store_n(&c->v->events, (u32)s.events | EV_INTR, __ATOMIC_SEQ_CST);
	if (pc->cfg.engine->push)
		pc->cfg.engine->push(c->v);
	return 0;
}

/*
 * The order of both: time first, from which timers are armed; a TSC before its local
 * APIC; PIT and RTC before the HPET that cuts their lines.
 */
void pc_save(struct pc *pc, struct state_buf *b)
{
	struct pc_state s = {
		.ram_size = pc->cfg.ram_size,
		.cpus = pc->cfg.cpus,
		.asleep = __atomic_load_n(&pc->asleep, __ATOMIC_SEQ_CST) != AWAKE,
		.hpet_latch = (pc->pic_pin[IRQ_PIT].drivers >> BY_HPET & 1) |
			      (pc->pic_pin[IRQ_RTC].drivers >> BY_HPET & 1) << 1,
	};

	state_save(b, &pc_desc, 0, &s);
	clock_save(pc->clock, b);
	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		cpu_save(pc, i, b);
	pv_kvm_save(vm_kvm(pc->vm), b);
	pic_save(pc->pic, b);
	ioapic_save(pc->ioapic, b);
	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		lapic_save(pc->cpu[i].lapic, b);
	pit_save(pc->pit, b);
	rtc_save(pc->rtc, b);
	hpet_save(pc->hpet, b);
	pmtimer_save(pc->pmtimer, b);
	acpi_pm_save(pc->acpi_pm, b);
	i8042_save(pc->i8042, b);
	for (unsigned i = 0; i < PC_SERIALS; i++)
		serial_save(pc->serial[i], b);
	pci_host_save(pc->pci, b);
	pcidevices_save(pc->pci_devices, b);
	fwcfg_save(pc->fwcfg, b);
	for (unsigned i = 0; i < pc->devices; i++)
		device_save(&pc->device[i], b);
}

static int chips_load(struct pc *pc, struct state_buf *b, struct error *err)
{
	int ret;

	if ((ret = pic_load(pc->pic, b, err)) || (ret = ioapic_load(pc->ioapic, b, err)))
		return ret;
	for (unsigned i = 0; i < pc->cfg.cpus; i++)
		if ((ret = lapic_load(pc->cpu[i].lapic, b, err)))
			return ret;
	if ((ret = pit_load(pc->pit, b, err)) || (ret = rtc_load(pc->rtc, b, err)) ||
	    (ret = hpet_load(pc->hpet, b, err)) ||

	    (ret = pmtimer_load(pc->pmtimer, b, err)) ||
	    (ret = acpi_pm_load(pc->acpi_pm, b, err)) ||
	    (ret = i8042_load(pc->i8042, b, err)))
		return ret;
	for (unsigned i = 0; i < PC_SERIALS; i++)
		if ((ret = serial_load(pc->serial[i], b, err)))
			return ret;
	if ((ret = pci_host_load(pc->pci, b, err)) ||
	    (ret = pcidevices_load(pc->pci_devices, b, err)) ||
	    (ret = fwcfg_load(pc->fwcfg, b, err)))
		return ret;
	for (unsigned i = 0; !ret && i < pc->devices; i++)
		ret = device_load(&pc->device[i], b, err);
	return ret;
}

int pc_load(struct pc *pc, struct state_buf *b, struct error *err)
{
	struct pc_state s = { 0 };
	int ret = state_load(b, &pc_desc, 0, &s, err);

	if (ret)
		return ret;
	if (s.ram_size != pc->cfg.ram_size || s.cpus != pc->cfg.cpus)
		return error_set(err, -EINVAL,
				 "the saved machine has %u CPUs and %llu MiB, this one "
				 "%u and %llu",
				 s.cpus, (unsigned long long)s.ram_size >> 20,
				 pc->cfg.cpus,
				 (unsigned long long)pc->cfg.ram_size >> 20);
	ret = clock_load(pc->clock, b, err);
	for (unsigned i = 0; !ret && i < pc->cfg.cpus; i++)
		ret = cpu_load(pc, i, b, err);
	if (!ret)
		ret = pv_kvm_load(vm_kvm(pc->vm), b, err);
	wires_each(pc, wire_mute);
	if (!ret)
		ret = chips_load(pc, b, err);
	wire_set(&pc->pic_pin[IRQ_PIT], BY_HPET, s.hpet_latch & 1);
	wire_set(&pc->pic_pin[IRQ_RTC], BY_HPET, s.hpet_latch & 2);
	wires_each(pc, wire_unmute);
	if (!ret)
		__atomic_store_n(&pc->asleep, s.asleep ? ASLEEP : AWAKE,
				 __ATOMIC_SEQ_CST);
	return ret;
}

/* ---- set-up ---- */

static int config_check(const struct pc_config *cfg, struct error *err)
{
	if (cfg->cpus < 1 || cfg->cpus > VM_MAX_VCPUS)
		return error_set(err, -EINVAL, "%u CPUs are not possible, 1 to %u are",
				 cfg->cpus, VM_MAX_VCPUS);
	return 0;
}

struct pc *pc_new(const struct pc_config *cfg, struct error *err)
{
	struct pc *pc = xzalloc(sizeof(*pc));
	struct boot_config boot = {
		.kernel = cfg->kernel,
		.initrd = cfg->initrd,
		.cmdline = cfg->cmdline,
		.layout = &pc->layout,
		.long_mode = has(cfg->cpuid, FEAT_LM),
	};

	pc->cfg = *cfg;
	/* Files first: what is wrong with them is known before memory is taken. */
	if (config_check(cfg, err) ||
	    layout_init(&pc->layout, cfg->ram_size, cfg->cpuid->phys_bits, err) ||
	    boot_new(&pc->boot, &boot, err))
		goto fail;
	pc->clock = cfg->clock;
	if (!pc->clock) {
		pc->clock = clock_new();
		pc->own_clock = true;
	}
	/* Time passes while pc_run() runs. */
	clock_stop(pc->clock);
	pc->end_work = (struct loop_work){ .run = end_now, .opaque = pc };
	pc->loop = loop_new(err);
	if (!pc->loop || pc_build(pc, err))
		goto fail;
	loop_set_timer(pc->loop, next_timer, run_timers, pc);
	clock_set_wake(pc->clock, wake_loop, pc);
	vm_on_end(pc->vm, on_ending, on_end, pc);
	if (pc_reset(pc, err))
		goto fail;
	/* Copied where needed. */
	pc->cfg.kernel = pc->cfg.initrd = pc->cfg.cmdline = NULL;
	pc->cfg.pci = NULL;
	pc->cfg.device = NULL;
	pc->cfg.file = NULL;
	return pc;
fail:
	pc_free(pc);
	return NULL;
}

/* In the reverse order of pc_build(), and of what it got to. */
void pc_free(struct pc *pc)
{
	if (!pc)
		return;
	if (pc->clock)
		clock_set_wake(pc->clock, NULL, NULL);
	for (unsigned i = pc->devices; i-- > 0;)
		device_free(&pc->device[i]);
	fwcfg_free(pc->fwcfg);
	for (unsigned i = PC_SERIALS; i-- > 0;)
		serial_free(pc->serial[i]);
	i8042_free(pc->i8042);
	pcidevices_free(pc->pci_devices);
	pci_host_free(pc->pci);
	acpi_pm_free(pc->acpi_pm);
	pmtimer_free(pc->pmtimer);
	hpet_free(pc->hpet);
	rtc_free(pc->rtc);
	pit_free(pc->pit);
	pic_free(pc->pic);
	ioapic_free(pc->ioapic);
	/* The CPUs borrow their local APICs. */
	if (pc->vm)
		vm_free(pc->vm);
	for (unsigned i = 0; pc->cpu && i < pc->cfg.cpus; i++)
		lapic_free(pc->cpu[i].lapic);
	free(pc->cpu);
	apic_bus_free(pc->apic_bus);
	if (pc->phys)
		phys_free(pc->phys);
	io_ports_free(pc->ports);
	if (pc->loop)
		loop_free(pc->loop);
	if (pc->clock)
		pc->own_clock ? clock_free(pc->clock) : clock_start(pc->clock);
	boot_free(pc->boot);
	free(pc);
}

u32 pc_exit_value(struct pc *pc)
{
	return (u32)__atomic_load_n(&pc->exit_val, __ATOMIC_SEQ_CST);
}

struct vm *pc_vm(struct pc *pc)
{
	return pc->vm;
}

struct loop *pc_loop(struct pc *pc)
{
	return pc->loop;
}

struct clock *pc_clock(struct pc *pc)
{
	return pc->clock;
}

struct phys *pc_phys(struct pc *pc)
{
	return pc->phys;
}

u64 pc_ram_size(struct pc *pc)
{
	return pc->cfg.ram_size;
}

struct serial *pc_serial(struct pc *pc, unsigned n)
{
	return pc->serial[n];
}

struct pcidevices *pc_pcidevices(struct pc *pc)
{
	return pc->pci_devices;
}

const char *pc_describe_boot(struct pc *pc)
{
	return boot_describe(pc->boot);
}
