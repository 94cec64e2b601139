/*
 * The board: a PC with PCI Express, as one object.
 *
 * pc_new() puts the machine together, powers it on and loads what it boots; pc_run() runs
 * it on the calling thread's event loop until it ends. After VM_STOPPED it can go on with
 * another pc_run(), be saved, or be loaded with other state.
 *
 * Unless said otherwise: one thread, the machine not running.
 */
#pragma once

#include "base/error.h"
#include "cpu/vm.h"
#include "dev/chardev.h"

#define PC_SERIALS 4

struct clock;
struct cpuid_table;
struct device_args;
struct pcidevices;
struct pcidevices_config;
struct engine;
struct loop;
struct phys;
struct serial;
struct state_buf;
struct state_desc;

/* A file for the guest in the firmware configuration device. */
struct pc_file {
	const char *name;
	const void *data;
	u32 len;
};

struct pc_config {
	u64 ram_size;                    /* bytes */
	unsigned cpus;                   /* 1 to VM_MAX_VCPUS */
	const struct engine *engine;     /* borrowed */
	const struct cpuid_table *cpuid; /* borrowed; made for as many CPUs */
	const char *kernel;              /* path; see boot.h */
	const char *initrd;              /* path, or NULL; see boot.h for modules */
	const char *cmdline;             /* or NULL */
	/* Where ports COM1 to COM4 write; see serial.h for the other direction. */
	struct chardev_sink serial[PC_SERIALS];
	const struct device_args *device; /* what to add to the board; borrowed */
	unsigned devices;
	const struct pcidevices_config *pci; /* the same, on PCI; borrowed */
	unsigned pci_count;
	const struct pc_file *file; /* copied */
	unsigned files;
	bool no_pit, no_hpet, no_i8042; /* chips to leave out */
	i64 utc_offset; /* seconds that the real-time clock is ahead of UTC */
	bool mouse; /* on the keyboard controller; probing for one takes a guest time */
	bool no_reboot; /* a guest's reset ends the run with VM_RESET */
	struct profile_config profile;
	struct clock *clock; /* borrowed; NULL: a new one that follows the host's time */
};

struct pc;

/* NULL and a message, one line, when a file, a size or the host does not allow it. */
struct pc *pc_new(const struct pc_config *cfg, struct error *err);
void pc_free(struct pc *pc);

/*
 * Run until the machine ends, and return why. Resets asked for by the guest are
 * done in here, unless 'no_reboot'; a triple fault ends the run, since it is mostly a
 * crash that would repeat for ever. VM_FAILED has been logged.
 */
enum vm_end pc_run(struct pc *pc);

/* Power on again: all chips and CPUs reset, the kernel loaded. */
int pc_reset(struct pc *pc, struct error *err);

/*
 * Everything but RAM. A load goes to a machine with the same configuration; when
 * it fails the machine is in no defined state and must be reset or freed.
 */
void pc_save(struct pc *pc, struct state_buf *b);
int pc_load(struct pc *pc, struct state_buf *b, struct error *err);
extern const struct state_desc pc_desc, pc_cpu_desc; /* the board's own part */

/* After VM_EXITED: what the guest wrote to isa-debug-exit. */
u32 pc_exit_value(struct pc *pc);

struct vm *pc_vm(struct pc *pc);
struct loop *pc_loop(struct pc *pc);
struct clock *pc_clock(struct pc *pc);
struct phys *pc_phys(struct pc *pc);
u64 pc_ram_size(struct pc *pc);
/* n: 0 is COM1. */
struct serial *pc_serial(struct pc *pc, unsigned n);
struct pcidevices *pc_pcidevices(struct pc *pc);
/* How the kernel is entered: "Linux bzImage, 64-bit entry". */
const char *pc_describe_boot(struct pc *pc);

/* ---- Any thread, also while running ---- */

/* End pc_run() soon, with this reason unless there is one already. */
void pc_end(struct pc *pc, enum vm_end why);
/* The power button: a guest with ACPI shuts down, or wakes up from suspend. */
void pc_press_power(struct pc *pc);
