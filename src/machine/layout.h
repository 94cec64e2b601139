/*
 * Where things are on the board: addresses, ports, interrupts.
 *
 *                0  RAM: boot data below 30000h, then free up to the EBDA
 *            9fc00  extended BIOS data area, 1 KiB
 *            a0000  nothing: the place of a display
 *            c0000  RAM, empty: the place of option ROMs
 *            e0000  RAM: ACPI tables
 *            f0000  RAM: MP table, reset stub at ffff0h
 *           100000  RAM, up to 3 GiB
 *         c0000000  PCI memory window
 *         e0000000  ECAM, 256 buses
 *         f0000000  PCI memory window
 *         fec00000  IOAPIC; fed00000 HPET; fee00000 local APICs; fffff000 reset stub
 *         fef00000  virtio over MMIO, a page each, as many as are asked for
 *        100000000  RAM beyond 3 GiB
 *  upper half of the physical address space: PCI memory window for 64-bit BARs
 *
 * What a guest must not use as memory is reserved in the E820 map (e820.c); what a
 * driver has to know is in the ACPI tables (acpi.c).
 */
#pragma once

#include "base/types.h"

/* ---- memory, low ---- */

#define LAYOUT_BDA         0x400u   /* BIOS data area */
#define LAYOUT_GDT         0x500u   /* boot: descriptors for the kernel's entry */
#define LAYOUT_PVH_INFO    0x6000u  /* boot: hvm_start_info; one page */
#define LAYOUT_ZERO_PAGE   0x7000u  /* boot: struct boot_params; one page */
#define LAYOUT_STACK       0x9000u  /* boot: top of a stack of one page */
#define LAYOUT_PAGE_TABLES 0x9000u  /* boot: identity map of 4 GiB, six pages */
#define LAYOUT_CMDLINE     0x10000u /* boot: kernel command line */
#define LAYOUT_CMDLINE_MAX 0x10000u /* bytes with the final NUL */
#define LAYOUT_BOOT_END    0x30000u /* a kernel may be loaded from here on */

#define LAYOUT_EBDA        0x9fc00u
#define LAYOUT_LOW_END     0xa0000u /* end of RAM below the display */
#define LAYOUT_SHADOW      0xc0000u /* RAM goes on */
#define LAYOUT_ACPI        0xe0000u /* tables; the RSDP is the first of them */
#define LAYOUT_ACPI_MAX    0x10000u
#define LAYOUT_MPTABLE     0xf0000u
#define LAYOUT_MPTABLE_MAX 0x4000u
#define LAYOUT_RESET_LOW   0xffff0u /* where real mode jumps for a reset */
#define LAYOUT_EXTENDED    0x100000u

/* ---- memory, the hole below 4 GiB ---- */

#define LAYOUT_LOW_RAM_MAX      GiB(3) /* = start of the hole */
#define LAYOUT_MMIO32_A         0xc0000000u
#define LAYOUT_MMIO32_A_END     0xe0000000u
#define LAYOUT_ECAM             0xe0000000u
#define LAYOUT_ECAM_SIZE        0x10000000u
#define LAYOUT_MMIO32_B         0xf0000000u
#define LAYOUT_MMIO32_B_END     0xfec00000u
#define LAYOUT_IOAPIC           0xfec00000u
#define LAYOUT_IOAPIC_SIZE      0x1000u
#define LAYOUT_HPET             0xfed00000u
#define LAYOUT_HPET_SIZE        0x400u
#define LAYOUT_LAPIC            0xfee00000u
#define LAYOUT_LAPIC_SIZE       0x1000u
#define LAYOUT_VIRTIO_MMIO      0xfef00000u /* virtio over MMIO, if asked for */
#define LAYOUT_VIRTIO_MMIO_STEP 0x1000u
#define LAYOUT_VIRTIO_MMIO_SIZE 0x200u
#define LAYOUT_TEST_MMIO        0xff000000u /* pc-testdev, if asked for: 64 KiB */
#define LAYOUT_ROM              0xfffff000u /* the reset stub, up to 4 GiB */
#define LAYOUT_ROM_SIZE         0x1000u

/* ---- memory above 4 GiB ---- */

#define LAYOUT_HIGH_RAM GiB(4)

/* Least memory that holds the boot data and leaves something above 1 MiB. */
#define LAYOUT_RAM_MIN MiB(4)

/* ---- ports ---- */

#define PORT_PIC_MASTER 0x20
#define PORT_PIT        0x40
#define PORT_KBD_DATA   0x60
#define PORT_SYSTEM_B   0x61 /* PIT gate, speaker */
#define PORT_KBD_STATUS 0x64
#define PORT_RTC        0x70
#define PORT_POST       0x80
#define PORT_SYSTEM_A   0x92 /* A20, fast reset */
#define PORT_PIC_SLAVE  0xa0
#define PORT_SMI        0xb2
#define PORT_TEST_LATCH 0xe0 /* pc-testdev, if asked for: three times four */
#define PORT_TEST_FLUSH 0xe4
#define PORT_TEST_BYTES 0xe8
#define PORT_DEBUGCON   0xe9
#define PORT_COM1       0x3f8
#define PORT_COM2       0x2f8
#define PORT_COM3       0x3e8
#define PORT_COM4       0x2e8
#define PORT_ELCR       0x4d0
#define PORT_FWCFG      0x510  /* selector and data */
#define PORT_FWCFG_DMA  0x514  /* 8 */
#define PORT_PM_EVT     0x600  /* ACPI PM1a_EVT_BLK, 4 */
#define PORT_PM_CNT     0x604  /* PM1a_CNT_BLK, 2 */
#define PORT_PM_TIMER   0x608  /* PM_TMR_BLK, 4 */
#define PORT_PM_GPE     0x620  /* GPE0_BLK, 8 */
#define PORT_PM_LEN     0x80   /* reserved for all of it */
#define PORT_PCI_HOST   0xcf8  /* configuration address and data */
#define PORT_RESET      0xcf9  /* reset control */
#define PORT_PCI_IO     0x1000 /* I/O BARs go from here to the end */
#define PORT_TEST_LINES 0x2000 /* pc-testdev: a port for each GSI */

/* ---- interrupts ---- */

/* ISA interrupts: PIC pin n and IOAPIC pin n, but for 0, which is IOAPIC pin 2. */
#define IRQ_PIT      0
#define IRQ_KBD      1
#define IRQ_COM2     3
#define IRQ_COM1     4
#define IRQ_PCI_EVEN 5 /* PCI wires 0, 2, 4, 6, for a guest without IOAPIC */
#define IRQ_RTC      8
#define IRQ_SCI      9
#define IRQ_COM3     10 /* not shared with COM1: edges cannot be */
#define IRQ_COM4     11
#define IRQ_MOUSE    12
#define IRQ_PCI_ODD  14

#define GSI_PIT       2
#define GSI_PCI       16 /* PCI wire n is GSI 16 + n, level, active low */
#define PCI_WIRES     8
#define GSI_HPET_MASK 0xf00000u /* HPET timers may use 20 to 23, shared with PCI */

/* Virtio device n over MMIO has interrupt [n % 4]: level, shared. */
#define VIRTIO_MMIO_PLACES 8
#define VIRTIO_MMIO_IRQS                                                                 \
	{                                                                                \
		5, 6, 7, 15                                                              \
	}

/* ---- memory size ---- */

/* RAM of a machine: [0, LOW_END), [SHADOW, low_end), and [4 GiB, high_end) when high_end
 * is not 0. */
struct layout {
	u64 low_end;  /* at most 3 GiB */
	u64 high_end; /* 0: no RAM above 4 GiB */
	u64 mmio64;   /* PCI memory window above all RAM */
	u64 mmio64_end;
};

struct error;

/*
 * Divide 'ram_size' bytes over the map, for a CPU with 'phys_bits' physical address
 * bits. A size that cannot be is refused with a message: -EINVAL too small or not a
 * multiple of the page size, -E2BIG beyond what the CPU can address.
 */
int layout_init(struct layout *l, u64 ram_size, unsigned phys_bits, struct error *err);
