/*
 * ACPI fixed hardware with its PM timer, driven by arbitrary accesses, buttons and time.
 * Input: 2 bytes a step, operation and argument.
 */
#include "fuzz.h"
#include "fuzz_time.h"

#include "dev/acpi_pm.h"

static void slept(void *opaque, unsigned slp_typ)
{
	(void)opaque;
	check(slp_typ <= 7);
}

static void reset(void *opaque, bool full)
{
	(void)opaque;
	(void)full;
}

static void access(struct acpi_pm *a, const struct io_ops *ops, unsigned len, unsigned n,
		   u8 v)
{
	unsigned size = 1u << (n & 1), off = (n >> 1) * size % len;

	if (size > 1 && !(ops->sizes & size))
		size = 1;
	if (off + size > len)
		off = 0;
	if (v & 1)
		check(ops->read(a, off, size) <= size_mask(size));
	else
		ops->write(a, off, (v | v << 7) & size_mask(size), size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_time t;
	struct pmtimer *tmr;
	struct acpi_pm *a;

	fuzz_time_init(&t, 1);
	tmr = pmtimer_new(t.clk, size & 1 ? 24 : 32);
	a = acpi_pm_new(fuzz_line(&t, 0), size & 2, tmr,
			(struct acpi_pm_outputs){ slept, reset, NULL });
	for (size_t i = 0; i + 1 < size && i < 4096; i += 2) {
		unsigned op = data[i] & 15, n = data[i] >> 4;
		u8 v = data[i + 1];

		switch (op) {
		case 0:
		case 1: access(a, &acpi_pm_evt_ops, ACPI_PM_EVT_LEN, n, v); break;
		case 2: access(a, &acpi_pm_cnt_ops, ACPI_PM_CNT_LEN, n, v); break;
		case 3: access(a, &acpi_pm_gpe_ops, ACPI_PM_GPE_LEN, n, v); break;
		case 4: acpi_pm_smi_ops.write(a, n & 1, v, 1); break;
		case 5: acpi_pm_smi_ops.read(a, n & 1, 1); break;
		case 6: acpi_pm_reset_ops.write(a, 0, v, 1); break;
		case 7: acpi_pm_reset_ops.read(a, 0, 1); break;
		case 8: acpi_pm_press_power(a); break;
		case 9: acpi_pm_press_sleep(a); break;
		case 10: acpi_pm_gpe(a, v); break;
		case 11: FUZZ_SAVE_LOAD(acpi_pm, a, 0); break;
		case 12: FUZZ_SAVE_LOAD(acpi_pm, a, v << 4 | n); break;
		case 13:
			if (v == 0)
				acpi_pm_reset(a);
			else
				acpi_pm_wake(a);
			break;
		default: fuzz_pass(&t, v); break;
		}
	}
	acpi_pm_free(a);
	pmtimer_free(tmr);
	clock_free(t.clk);
	return 0;
}
