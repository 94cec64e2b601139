/*
 * ACPI fixed hardware: PM1a event and control, GPE0, the SMI command port, and the
 * reset control register at cf9h.
 */
#pragma once

#include "base/irqline.h"
#include "mem/io.h"
#include "state/save.h"
#include "time/pmtimer.h"

struct acpi_pm;

/* What the fixed hardware does to the machine. Called without the chip's lock. */
struct acpi_pm_outputs {
	/*
	 * SLP_EN was written with this SLP_TYP, one of ACPI_SLP_* or any other number
	 * up to 7. On the vCPU's thread.
	 */
	void (*sleep)(void *opaque, unsigned slp_typ);
	/* 'full': a power cycle was asked for (cf9h bit 3). */
	void (*reset)(void *opaque, bool full);
	void *opaque;
};

/* SLP_TYP values; the DSDT's \_S0 to \_S5 name them. As in Intel's ICH. */
enum {
	ACPI_SLP_S0 = 0,
	ACPI_SLP_S1 = 1,
	ACPI_SLP_S3 = 5,
	ACPI_SLP_S4 = 6,
	ACPI_SLP_S5 = 7
};

/* Values of the SMI command port for the FADT. */
enum { ACPI_SMI_ENABLE = 0xa0, ACPI_SMI_DISABLE = 0xa1 };

/* Lengths of the windows for the board and the FADT. */
enum {
	ACPI_PM_EVT_LEN = 4,
	ACPI_PM_CNT_LEN = 2,
	ACPI_PM_GPE_LEN = 8,
	ACPI_PM_SMI_LEN = 2,
	ACPI_PM_RESET_LEN = 1,
};
#define ACPI_PM_GPES 32

/* 'dev' is the struct acpi_pm. */
extern const struct io_ops acpi_pm_evt_ops; /* PM1a_EVT_BLK */
extern const struct io_ops acpi_pm_cnt_ops; /* PM1a_CNT_BLK */
extern const struct io_ops acpi_pm_gpe_ops; /* GPE0_BLK: 4 bytes of status, 4 of enable */
extern const struct io_ops acpi_pm_smi_ops; /* b2h command, b3h status */
extern const struct io_ops acpi_pm_reset_ops; /* cf9h, or by pci_host_args */
extern const struct state_desc acpi_pm_desc;

/*
 * 'sci' is a level-triggered line, active high here. 'acpi_on': SCI_EN is set from reset
 * on, as left by firmware that hands over in ACPI mode; else the guest uses the SMI
 * command port. 'tmr' (may be NULL) has TMR_STS; its notify is set here. It lives longer.
 */
struct acpi_pm *acpi_pm_new(struct irq_line sci, bool acpi_on, struct pmtimer *tmr,
			    struct acpi_pm_outputs out);
void acpi_pm_free(struct acpi_pm *a);

/*
 * Machine stopped. The PM timer is reset, saved and loaded by its owner, before this
 * chip.
 */
void acpi_pm_reset(struct acpi_pm *a);
void acpi_pm_save(const struct acpi_pm *a, struct state_buf *b);
int acpi_pm_load(struct acpi_pm *a, struct state_buf *b, struct error *err);

/* The machine wakes from a sleep state: sets WAK_STS. */
void acpi_pm_wake(struct acpi_pm *a);

/* Any thread. */
void acpi_pm_press_power(struct acpi_pm *a);
void acpi_pm_press_sleep(struct acpi_pm *a);
/* An edge on general-purpose event 0 to 31: sets its status bit. */
void acpi_pm_gpe(struct acpi_pm *a, unsigned n);
